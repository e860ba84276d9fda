//! The client's side of the Kademlia DHT's messages (libp2p's kad-dht specification): three requests and
//! what answers them. A frame is a varint length and a protobuf message.

use prost::Message as _;

use super::WireError;
use super::kad_proto::{Message, message};

/// The longest answer that is read. Real ones reach 43 KB.
pub const MAX_ANSWER: usize = 128 << 10;
/// Peers read of one list, and addresses of one peer; what goes beyond is dropped.
pub const MAX_PEERS: usize = 64;
pub const MAX_ADDRS: usize = 16;
/// The longest peer ID (an identity multihash of a 1 KiB key is refused) and address.
const MAX_ID: usize = 128;
const MAX_ADDR: usize = 256;

/// A peer as it is told of, unchecked: its ID, its multiaddrs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub id: Vec<u8>,
    pub addrs: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Who is closest to this key?
    FindNode(Vec<u8>),
    /// Who provides this multihash, and who is closer to it?
    GetProviders(Vec<u8>),
    /// We provide this multihash. It has no answer.
    AddProvider { key: Vec<u8>, us: Told },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub closer: Vec<Told>,
    pub providers: Vec<Told>,
}

impl Request {
    pub fn has_answer(&self) -> bool {
        !matches!(self, Request::AddProvider { .. })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, key, us) = match self {
            Request::FindNode(key) => (message::Type::FindNode, key, None),
            Request::GetProviders(key) => (message::Type::GetProviders, key, None),
            Request::AddProvider { key, us } => (message::Type::AddProvider, key, Some(us)),
        };
        let peer = |t: &Told| message::Peer { id: t.id.clone(), addrs: t.addrs.clone() };
        let message = Message {
            r#type: kind.into(),
            key: key.clone(),
            closer_peers: Vec::new(),
            provider_peers: us.into_iter().map(peer).collect(),
        };
        out.reserve(message.encoded_len() + 4);
        // A vector grows as needed, which is the only thing that can fail.
        let _ = message.encode_length_delimited(out);
    }
}

impl Answer {
    /// Reads a message (without its length).
    ///
    /// # Errors
    /// The peer's fault: no message at all.
    pub fn decode(bytes: &[u8]) -> Result<Answer, WireError> {
        let message = Message::decode(bytes).map_err(|_| WireError::Malformed)?;
        Ok(Answer { closer: told(message.closer_peers), providers: told(message.provider_peers) })
    }
}

fn told(peers: Vec<message::Peer>) -> Vec<Told> {
    let fits = |p: &message::Peer| !p.id.is_empty() && p.id.len() <= MAX_ID;
    let told = |p: message::Peer| Told {
        id: p.id,
        addrs: p.addrs.into_iter().filter(|a| a.len() <= MAX_ADDR).take(MAX_ADDRS).collect(),
    };
    peers.into_iter().filter(fits).take(MAX_PEERS).map(told).collect()
}

/// The length in front of a frame, and how many bytes it takes; `None` while they are not all here.
///
/// # Errors
/// The peer's fault: a length that is none, or beyond [`MAX_ANSWER`].
pub fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut n = 0u64;
    for (i, &b) in bytes.iter().enumerate().take(4) {
        n |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            let len = usize::try_from(n).unwrap_or(usize::MAX);
            return if len <= MAX_ANSWER { Ok(Some((len, i + 1))) } else { Err(WireError::TooLong(n)) };
        }
    }
    if bytes.len() >= 4 { Err(WireError::BadVarint) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(message: &Message) -> Vec<u8> {
        message.encode_to_vec()
    }

    fn peer(id: Vec<u8>, addrs: Vec<Vec<u8>>) -> message::Peer {
        message::Peer { id, addrs }
    }

    #[test]
    fn a_request_is_what_the_specification_says() {
        let mut out = Vec::new();
        Request::FindNode(b"k".to_vec()).encode(&mut out);
        assert_eq!(out, [5, 0x08, 4, 0x12, 1, b'k']); // length; type = FIND_NODE; key
        out.clear();
        let us = Told { id: vec![7], addrs: vec![vec![9]] };
        Request::AddProvider { key: b"k".to_vec(), us }.encode(&mut out);
        assert_eq!(out, [13, 0x08, 2, 0x12, 1, b'k', 0x4a, 6, 0x0a, 1, 7, 0x12, 1, 9]);
    }

    #[test]
    fn a_liars_lists_are_cut_short() {
        let many = Message {
            closer_peers: (0..999).map(|_| peer(vec![1], vec![vec![2]; 999])).collect(),
            provider_peers: vec![
                peer(vec![1; 999], vec![]),
                peer(vec![], vec![]),
                peer(vec![3], vec![vec![0; 999]]),
            ],
            ..Message::default()
        };
        let read = Answer::decode(&frame(&many)).unwrap();
        assert_eq!((read.closer.len(), read.closer[0].addrs.len()), (MAX_PEERS, MAX_ADDRS));
        assert_eq!(read.providers, [Told { id: vec![3], addrs: vec![] }]);
    }

    #[test]
    fn lengths_are_refused_before_memory_is_set_aside() {
        assert_eq!(length(&[]).unwrap(), None);
        assert_eq!(length(&[0x80]).unwrap(), None);
        assert_eq!(length(&[0x80, 1]).unwrap(), Some((128, 2)));
        assert!(length(&[0xff, 0xff, 0x7f]).is_err());
        assert!(length(&[0xff; 10]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_that_a_peer_sends_is_fatal(bytes: Vec<u8>) {
            let _ = Answer::decode(&bytes);
            let _ = length(&bytes);
        }

        #[test]
        fn what_is_framed_can_be_read(key in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            Request::GetProviders(key).encode(&mut out);
            let (len, head) = length(&out).unwrap().unwrap();
            prop_assert_eq!(len + head, out.len());
            prop_assert!(Answer::decode(&out[head..]).is_ok());
        }
    }
}
