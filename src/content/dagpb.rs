//! dag-pb: the node format of UnixFS (<https://ipld.io/specs/codecs/dag-pb/spec/>).
//!
//! ```text
//! PBLink { bytes Hash = 1; string Name = 2; uint64 Tsize = 3 }
//! PBNode { repeated PBLink Links = 2; bytes Data = 1 }     // links first on the wire
//! ```
//!
//! Decoding borrows from the block and sets nothing aside: the whole is checked once, then links are
//! read one after the other. As the specification wants it, unknown fields, repeated ones and
//! misordered ones are refused; data before links (old writers) is accepted.

use super::Cid;
use crate::units::MAX_BLOCK_LEN;

/// Why bytes are not a dag-pb node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PbFault {
    #[error("longer than 2 MiB")]
    TooLong,
    #[error("a varint that has no end or does not fit into 64 bits")]
    Varint,
    #[error("a length beyond the end")]
    Length,
    #[error("an unknown field or a wrong wire type")]
    Field,
    #[error("fields repeated or out of order")]
    Order,
    #[error("a link without a hash")]
    NoHash,
    #[error("a link whose hash is no CID")]
    BadCid,
}

/// One link of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PbLink<'a> {
    pub cid: Cid,
    /// Not necessarily UTF-8; empty if absent.
    pub name: &'a [u8],
    /// What the linked DAG weighs, as its maker claims: a hint.
    pub tsize: Option<u64>,
}

/// A checked node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PbNode<'a> {
    bytes: &'a [u8],
    /// Where the first link begins; links are contiguous.
    first: usize,
    links: usize,
    data: Option<&'a [u8]>,
}

impl<'a> PbNode<'a> {
    /// Checks the whole node.
    pub fn decode(bytes: &'a [u8]) -> Result<PbNode<'a>, PbFault> {
        if bytes.len() > MAX_BLOCK_LEN {
            return Err(PbFault::TooLong);
        }
        let mut node = PbNode { bytes, first: bytes.len(), links: 0, data: None };
        let (mut at, mut links_end) = (0, None);
        while at < bytes.len() {
            let start = at;
            let (field, body) = read_bytes_field(bytes, &mut at)?;
            match field {
                1 if node.data.is_none() => {
                    node.data = Some(body);
                }
                2 if node.links == 0 || links_end == Some(start) => {
                    if node.links == 0 {
                        node.first = start;
                    }
                    decode_link(body)?;
                    node.links += 1;
                    links_end = Some(at);
                }
                1 | 2 => return Err(PbFault::Order),
                _ => return Err(PbFault::Field),
            }
        }
        Ok(node)
    }

    pub fn data(&self) -> Option<&'a [u8]> {
        self.data
    }

    /// How many links there are.
    pub fn len(&self) -> usize {
        self.links
    }

    pub fn is_empty(&self) -> bool {
        self.links == 0
    }

    /// The links in encoded order.
    pub fn links(&self) -> impl Iterator<Item = PbLink<'a>> + use<'a> {
        let (bytes, mut at) = (self.bytes, self.first);
        std::iter::from_fn(move || next_link(bytes, &mut at)).take(self.links)
    }

    /// Where [`next_link`] starts.
    pub(super) fn first_link(&self) -> usize {
        self.first
    }
}

/// The link that begins at `at` of a node's bytes, which it moves on; `None` behind the last one.
/// The bytes have been through [`PbNode::decode`], so that "no link" is the only reason for `None`.
pub(super) fn next_link<'a>(bytes: &'a [u8], at: &mut usize) -> Option<PbLink<'a>> {
    let mut next = *at;
    match read_bytes_field(bytes, &mut next) {
        Ok((2, body)) => {
            *at = next;
            decode_link(body).ok()
        }
        _ => None,
    }
}

fn decode_link(body: &[u8]) -> Result<PbLink<'_>, PbFault> {
    let (mut cid, mut name, mut tsize) = (None, None, None);
    let mut at = 0;
    while at < body.len() {
        let key = read_varint(body, &mut at)?;
        match key {
            0x0a => {
                if cid.is_some() || name.is_some() || tsize.is_some() {
                    return Err(PbFault::Order);
                }
                cid = Some(read_cid(read_len(body, &mut at)?)?);
            }
            0x12 => {
                if name.is_some() || tsize.is_some() {
                    return Err(PbFault::Order);
                }
                name = Some(read_len(body, &mut at)?);
            }
            0x18 => {
                if tsize.is_some() {
                    return Err(PbFault::Order);
                }
                tsize = Some(read_varint(body, &mut at)?);
            }
            _ => return Err(PbFault::Field),
        }
    }
    Ok(PbLink { cid: cid.ok_or(PbFault::NoHash)?, name: name.unwrap_or_default(), tsize })
}

/// A CID that is the whole of `bytes`.
pub fn read_cid(bytes: &[u8]) -> Result<Cid, PbFault> {
    let cid = Cid::try_from(bytes).map_err(|_| PbFault::BadCid)?;
    if cid.encoded_len() == bytes.len() { Ok(cid) } else { Err(PbFault::BadCid) }
}

fn read_bytes_field<'a>(bytes: &'a [u8], at: &mut usize) -> Result<(u64, &'a [u8]), PbFault> {
    let key = read_varint(bytes, at)?;
    if key & 7 != 2 {
        return Err(PbFault::Field);
    }
    Ok((key >> 3, read_len(bytes, at)?))
}

/// A length and as many bytes.
pub(super) fn read_len<'a>(bytes: &'a [u8], at: &mut usize) -> Result<&'a [u8], PbFault> {
    let len = usize::try_from(read_varint(bytes, at)?).map_err(|_| PbFault::Length)?;
    let end = at.checked_add(len).ok_or(PbFault::Length)?;
    let body = bytes.get(*at..end).ok_or(PbFault::Length)?;
    *at = end;
    Ok(body)
}

/// An unsigned varint of at most 64 bits.
pub(super) fn read_varint(bytes: &[u8], at: &mut usize) -> Result<u64, PbFault> {
    let mut value = 0u64;
    for i in 0..10 {
        let byte = *bytes.get(*at + i).ok_or(PbFault::Varint)?;
        if i == 9 && byte > 1 {
            return Err(PbFault::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *at += i + 1;
            return Ok(value);
        }
    }
    Err(PbFault::Varint)
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub(super) fn put_bytes(out: &mut Vec<u8>, field: u8, body: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, body.len() as u64);
    out.extend_from_slice(body);
}

/// A link to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLink {
    pub cid: Cid,
    pub name: String,
    pub tsize: u64,
}

impl NewLink {
    /// The bytes of the link alone, without key and length.
    fn body_len(&self) -> usize {
        let (cid, name) = (self.cid.encoded_len(), self.name.len());
        3 + varint_len(cid as u64) + cid + varint_len(name as u64) + name + varint_len(self.tsize)
    }

    /// How many bytes the link adds to a node.
    pub fn encoded_len(&self) -> usize {
        let body = self.body_len();
        1 + varint_len(body as u64) + body
    }
}

/// A node's bytes, exactly as go-ipfs writes them: links (in the order given, names and sizes always
/// written), then data.
pub fn encode(links: &[NewLink], data: &[u8]) -> Vec<u8> {
    let links_len: usize = links.iter().map(NewLink::encoded_len).sum();
    let mut out = Vec::with_capacity(links_len + data.len() + 6);
    for link in links {
        out.push(0x12);
        put_varint(&mut out, link.body_len() as u64);
        put_bytes(&mut out, 1, &link.cid.to_bytes());
        put_bytes(&mut out, 2, link.name.as_bytes());
        out.push(0x18);
        put_varint(&mut out, link.tsize);
    }
    put_bytes(&mut out, 1, data);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{DAG_PB, RAW, block::cid_of};
    use proptest::prelude::*;

    fn cid() -> Cid {
        cid_of(false, RAW, b"x")
    }

    /// A link's body from its fields.
    fn link(fields: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 2, &fields.concat());
        out
    }

    fn hash() -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &cid().to_bytes());
        out
    }

    #[test]
    fn both_orders_of_links_and_data_are_read_but_no_mixture() {
        let (l, d) = (link(&[&hash(), b"\x12\x01a", b"\x18\x05"]), b"\x0a\x02hi".to_vec());
        let want = PbLink { cid: cid(), name: b"a", tsize: Some(5) };
        for bytes in [[l.clone(), d.clone()].concat(), [d.clone(), l.clone()].concat()] {
            let node = PbNode::decode(&bytes).unwrap();
            assert_eq!((node.data(), node.len()), (Some(&b"hi"[..]), 1));
            assert_eq!(node.links().collect::<Vec<_>>(), [want]);
        }
        for bytes in [[&l[..], &d, &l].concat(), [&d[..], &d].concat(), [&d[..], &l, &d].concat()] {
            assert_eq!(PbNode::decode(&bytes), Err(PbFault::Order));
        }
        assert_eq!(PbNode::decode(b"").unwrap().data(), None);
    }

    #[test]
    fn malformed_nodes_are_refused_for_what_is_wrong_with_them() {
        let cases: Vec<(Vec<u8>, PbFault)> = vec![
            (vec![0x0a], PbFault::Varint),
            (vec![0x0a, 5, 1], PbFault::Length),
            // A data field of 2^63 bytes.
            ([&[0x0a][..], &[0x80; 9], &[1]].concat(), PbFault::Length),
            // Varints without end, or beyond 64 bits.
            (vec![0xff; 40], PbFault::Varint),
            ([&[0x0a][..], &[0xff; 9], &[2]].concat(), PbFault::Varint),
            (vec![0x1a, 0], PbFault::Field),
            (vec![0x08, 1], PbFault::Field),
            (link(&[b"\x12\x01a"]), PbFault::NoHash),
            (link(&[b"\x0a\x03abc"]), PbFault::BadCid),
            (link(&[&[0x0a, 37], &cid().to_bytes(), &[0]]), PbFault::BadCid),
            (link(&[b"\x12\x01a", &hash()]), PbFault::Order),
            (link(&[&hash(), &hash()]), PbFault::Order),
            (link(&[&hash(), b"\x18\x01\x12\x01a"]), PbFault::Order),
            (link(&[&hash(), b"\x22\x00"]), PbFault::Field),
            (vec![0; MAX_BLOCK_LEN + 1], PbFault::TooLong),
        ];
        for (bytes, why) in cases {
            assert_eq!(PbNode::decode(&bytes), Err(why), "{:?}", &bytes[..bytes.len().min(60)]);
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            links in prop::collection::vec(("[a-z]{0,9}", any::<u64>(), any::<bool>()), 0..20),
            data in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let links: Vec<NewLink> = links
                .into_iter()
                .map(|(name, tsize, v0)| NewLink { cid: cid_of(v0, DAG_PB, name.as_bytes()), name, tsize })
                .collect();
            let bytes = encode(&links, &data);
            let links_len: usize = links.iter().map(NewLink::encoded_len).sum();
            prop_assert_eq!(bytes.len(), links_len + 1 + varint_len(data.len() as u64) + data.len());
            let node = PbNode::decode(&bytes).unwrap();
            prop_assert_eq!(node.data(), Some(&data[..]));
            let read = |l: PbLink| (l.cid, l.name.to_vec(), l.tsize);
            let written = |l: &NewLink| (l.cid, l.name.clone().into_bytes(), Some(l.tsize));
            prop_assert!(node.links().map(read).eq(links.iter().map(written)));
        }

        #[test]
        fn random_bytes_never_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(node) = PbNode::decode(&bytes) {
                prop_assert_eq!(node.links().count(), node.len());
            }
        }

        #[test]
        fn a_damaged_node_never_does_harm(at in 0usize..200, byte in any::<u8>()) {
            let new = NewLink { cid: cid(), name: "name".into(), tsize: 77 };
            let mut bytes = encode(&vec![new; 4], b"data");
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(node) = PbNode::decode(&bytes) {
                prop_assert_eq!(node.links().count(), node.len());
            }
        }
    }
}
