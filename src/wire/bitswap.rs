//! Bitswap's messages (<https://specs.ipfs.tech/bitswap-protocol/>), checked: what [`Message::decode`]
//! gives is within every cap that `proto/bitswap.proto` names.
//!
//! The three versions share one schema. Who speaks 1.1 or 1.0 knows no HAVE and no DONT_HAVE, and 1.0 no
//! prefix before a block; [`Message::encode`] leaves out what a version does not have.

use bytes::Bytes;
use cid::Cid;
use prost::Message as _;

use super::frame::write_prefix;
use super::scan::{self, Field};
use super::{WireError, bitswap_proto as proto};
use crate::content::block::hash_of;
use crate::content::{DAG_PB, IDENTITY, SHA2_256};
use crate::units::MAX_BLOCK_LEN;

/// Bytes of a message, without its length prefix (4 MiB).
pub const MAX_MESSAGE: usize = 4 << 20;
/// Entries of a wantlist, or presences, in a message.
pub const MAX_ENTRIES: u32 = 16_384;
/// Blocks in a message.
pub const MAX_BLOCKS: u32 = 4_096;
/// Bytes of a CID.
pub const MAX_CID_LEN: u32 = 168;
/// Bytes of a digest in what may be asked for; identity is not asked for at all.
pub const DIGEST_LEN: std::ops::RangeInclusive<usize> = 20..=128;
/// Wants of one peer that are kept track of.
pub const MAX_WANTS: usize = 1_024;
/// A block up to this long is sent where a HAVE was asked for.
pub const INLINE_BLOCK: usize = 1_024;

/// The longest length prefix: four bytes hold 2^28 - 1, and [`MAX_MESSAGE`] is below that.
const MAX_PREFIX: usize = 4;

/// What of the protocol a stream's two ends agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V1_0,
    V1_1,
    V1_2,
}

/// What is asked of a CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Block,
    Have,
    /// Nothing any more.
    Cancel,
}

/// One line of a wantlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub cid: Cid,
    pub ask: Ask,
    /// More is sooner.
    pub priority: i32,
    /// Say so if you do not have it.
    pub dont_have: bool,
}

/// A CID without its digest: what a block's name is made of, given its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub version: u64,
    pub codec: u64,
    pub hash: u64,
    pub hash_len: u64,
}

/// One message. Fields that say nothing are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub entries: Vec<Entry>,
    /// The entries replace all that was wanted before.
    pub full: bool,
    pub blocks: Vec<(Prefix, Bytes)>,
    /// CIDs that the sender has, or has not.
    pub presences: Vec<(Cid, bool)>,
}

impl Prefix {
    /// What every block of 1.0 is named by.
    pub const V0: Prefix = Prefix { version: 0, codec: DAG_PB, hash: SHA2_256, hash_len: 32 };

    pub fn of(cid: &Cid) -> Prefix {
        let hash = cid.hash();
        let version = u64::from(cid.version() == cid::Version::V1);
        Prefix { version, codec: cid.codec(), hash: hash.code(), hash_len: u64::from(hash.size()) }
    }

    /// The name of these bytes; `None` if the hash is none that can be computed here, or cut short.
    pub fn name(&self, bytes: &[u8]) -> Option<Cid> {
        let hash = hash_of(self.hash, bytes).filter(|h| u64::from(h.size()) == self.hash_len)?;
        match self.version {
            0 => Cid::new_v0(hash).ok(),
            1 => Some(Cid::new_v1(self.codec, hash)),
            _ => None,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8);
        [self.version, self.codec, self.hash, self.hash_len].iter().for_each(|n| put_varint(*n, &mut out));
        out
    }

    fn decode(mut raw: &[u8]) -> Result<Prefix, WireError> {
        let mut next = || varint(&mut raw).ok_or(WireError::BadValue("prefix"));
        let prefix = Prefix { version: next()?, codec: next()?, hash: next()?, hash_len: next()? };
        if raw.is_empty() { Ok(prefix) } else { Err(WireError::BadValue("prefix")) }
    }
}

impl Message {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.full && self.blocks.is_empty() && self.presences.is_empty()
    }

    /// Appends the message with its length prefix, as that version has it. A question after a HAVE that a
    /// version does not know becomes one after the block; a presence is left out.
    ///
    /// # Errors
    /// It would be longer than [`MAX_MESSAGE`]; `out` is then as it was.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), WireError> {
        let entry = |e: &Entry| proto::message::wantlist::Entry {
            block: e.cid.to_bytes().into(),
            priority: e.priority,
            cancel: e.ask == Ask::Cancel,
            want_type: i32::from(e.ask == Ask::Have && version >= Version::V1_2),
            send_dont_have: e.dont_have && version >= Version::V1_2,
        };
        let wants = !self.entries.is_empty() || self.full;
        let wantlist = wants.then(|| proto::message::Wantlist {
            entries: self.entries.iter().map(entry).collect(),
            full: self.full,
        });
        let mut message = proto::Message { wantlist, ..proto::Message::default() };
        if version >= Version::V1_2 {
            let presence = |(cid, have): &(Cid, bool)| proto::message::Presence {
                cid: cid.to_bytes().into(),
                r#type: i32::from(!*have),
            };
            message.presences = self.presences.iter().map(presence).collect();
        }
        for (prefix, data) in &self.blocks {
            if version == Version::V1_0 {
                message.blocks.push(data.clone());
            } else {
                let prefix = prefix.encode().into();
                message.payload.push(proto::message::Block { prefix, data: data.clone() });
            }
        }
        let len = message.encoded_len();
        if len > MAX_MESSAGE {
            return Err(too_long());
        }
        write_prefix(len, out);
        message.encode_raw(out);
        Ok(())
    }

    /// Reads the message that fills `frame` (without its length prefix). Entries and presences whose CID no
    /// block of ours can have (identity, digests of a length out of [`DIGEST_LEN`] or above 64) are left out.
    ///
    /// # Errors
    /// Whatever is outside the protocol: the peer's fault.
    pub fn decode(frame: Bytes) -> Result<Message, WireError> {
        if frame.len() > MAX_MESSAGE {
            return Err(too_long());
        }
        scan::check(&frame, MESSAGE)?;
        let raw = proto::Message::decode(frame).map_err(|_| WireError::Malformed)?;
        let mut message = Message::default();
        if let Some(list) = raw.wantlist {
            message.full = list.full;
            message.entries.reserve(list.entries.len());
            for e in list.entries {
                let Some(cid) = cid(&e.block)? else { continue };
                let ask = match (e.cancel, e.want_type) {
                    (true, _) => Ask::Cancel,
                    (false, 0) => Ask::Block,
                    (false, 1) => Ask::Have,
                    (false, _) => return Err(WireError::BadValue("want type")),
                };
                message.entries.push(Entry { cid, ask, priority: e.priority, dont_have: e.send_dont_have });
            }
        }
        message.blocks.reserve(raw.blocks.len() + raw.payload.len());
        message.blocks.extend(raw.blocks.into_iter().map(|data| (Prefix::V0, data)));
        for b in raw.payload {
            message.blocks.push((Prefix::decode(&b.prefix)?, b.data));
        }
        for p in raw.presences {
            let have = match p.r#type {
                0 => true,
                1 => false,
                _ => return Err(WireError::BadValue("presence")),
            };
            message.presences.extend(cid(&p.cid)?.map(|cid| (cid, have)));
        }
        Ok(message)
    }
}

/// Appends all of a message with this one block but the `len` bytes of the block, which must follow: so they
/// need not be copied.
pub fn block_head(version: Version, cid: &Cid, len: usize, out: &mut Vec<u8>) {
    const BLOCKS: u8 = 2 << 3 | 2;
    const PAYLOAD: u8 = 3 << 3 | 2;
    const PREFIX: u8 = 1 << 3 | 2;
    const DATA: u8 = 2 << 3 | 2;
    if version == Version::V1_0 {
        write_prefix(1 + varint_len(len) + len, out);
        out.push(BLOCKS);
    } else {
        let prefix = Prefix::of(cid).encode();
        let inner = 1 + varint_len(prefix.len()) + prefix.len() + 1 + varint_len(len) + len;
        write_prefix(1 + varint_len(inner) + inner, out);
        out.push(PAYLOAD);
        write_prefix(inner, out);
        out.push(PREFIX);
        write_prefix(prefix.len(), out);
        out.extend_from_slice(&prefix);
        out.push(DATA);
    }
    write_prefix(len, out);
}

/// The length prefix at the start of `buf`: the message's length, and how many bytes the prefix took; `None`
/// until more have come.
///
/// # Errors
/// It is no varint, or names more than `max` (at most [`MAX_MESSAGE`]).
pub fn read_len(buf: &[u8], max: usize) -> Result<Option<(usize, usize)>, WireError> {
    let mut len = 0;
    for (i, b) in buf.iter().enumerate().take(MAX_PREFIX) {
        len |= usize::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return if len > max { Err(too_long()) } else { Ok(Some((len, i + 1))) };
        }
    }
    if buf.len() >= MAX_PREFIX { Err(too_long()) } else { Ok(None) }
}

fn too_long() -> WireError {
    WireError::FieldTooLong { what: "a bitswap message", max: MAX_MESSAGE as u32 }
}

/// A CID of a want or presence; `None` for one that is well formed and cannot name a block of ours.
fn cid(raw: &[u8]) -> Result<Option<Cid>, WireError> {
    let bad = WireError::BadValue("cid");
    let mut rest = raw;
    if !raw.starts_with(&[0x12, 32]) {
        let _version_and_codec =
            (varint(&mut rest).ok_or(bad.clone())?, varint(&mut rest).ok_or(bad.clone())?);
    }
    let code = varint(&mut rest).ok_or(bad.clone())?;
    let len = varint(&mut rest).ok_or(bad.clone())?;
    if rest.len() as u64 != len {
        return Err(bad);
    }
    if code == IDENTITY || !DIGEST_LEN.contains(&rest.len()) || rest.len() > 64 {
        return Ok(None);
    }
    Cid::try_from(raw).map(Some).map_err(|_| bad)
}

fn varint(buf: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for i in 0..9 {
        let b = *buf.split_off_first()?;
        n |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn varint_len(n: usize) -> usize {
    (usize::BITS - (n | 1).leading_zeros()).div_ceil(7) as usize
}

const ENTRY: &[Field] = &[
    scan::bytes(1, "cid", MAX_CID_LEN),
    scan::number(2, "priority"),
    scan::number(3, "cancel"),
    scan::number(4, "want type"),
    scan::number(5, "send_dont_have"),
];
const WANTLIST: &[Field] = &[scan::message(1, "entries", MAX_ENTRIES, ENTRY), scan::number(2, "full")];
const BLOCK: &[Field] = &[scan::bytes(1, "prefix", 64), scan::bytes(2, "block", MAX_BLOCK_LEN as u32)];
const PRESENCE: &[Field] = &[scan::bytes(1, "cid", MAX_CID_LEN), scan::number(2, "presence")];
const MESSAGE: &[Field] = &[
    scan::message(1, "wantlist", 1, WANTLIST),
    scan::many(2, "blocks", MAX_BLOCKS, MAX_BLOCK_LEN as u32),
    scan::message(3, "payload", MAX_BLOCKS, BLOCK),
    scan::message(4, "presences", MAX_ENTRIES, PRESENCE),
    scan::number(5, "pending bytes"),
];

#[cfg(test)]
#[path = "bitswap_tests.rs"]
mod tests;
