//! The messages of `/dunlin/exchange/1.0.0`, checked: what [`Message::decode`] gives is within every
//! cap that `proto/exchange.proto` names, and what [`Message::encode`] writes, [`Message::decode`] takes.

use bytes::Bytes;
use cid::Cid;
use prost::Message as _;

use super::{WireError, have, proto, scan};
use crate::bitfield::Bitfield;
use crate::units::{ChunkIndex, ChunkRange, MAX_BLOCK_LEN};
use crate::wire::frame::{MAX_FRAME, write_prefix};

use proto::message::Kind as P;

/// CIDs in a `GetNodes`, nodes in a `Nodes` or `Joined`.
pub const MAX_CIDS: u32 = 64;
/// Indices in a `GetChunks` or `Cancel`.
pub const MAX_INDICES: u32 = 256;
/// Runs in an `Update`, gained and lost together.
pub const MAX_UPDATE_RUNS: u32 = 4_096;
/// Peers in a `Peers` or `Joined`.
pub const MAX_PEERS: u32 = 50;
/// Peers that a `Peers` takes back.
pub const MAX_DROPPED: u32 = 200;
/// Addresses of one peer.
pub const MAX_ADDRS: u32 = 8;
/// Bytes of an address.
pub const MAX_ADDR_LEN: u32 = 256;
/// Bytes of a CID.
pub const MAX_CID_LEN: u32 = 100;
/// Bytes of a peer ID.
pub const MAX_PEER_ID_LEN: u32 = 64;
/// Bytes of a signed peer record.
pub const MAX_RECORD_LEN: u32 = 2_048;
/// Blocks behind a `Chunk`.
pub const MAX_BLOCKS: u32 = 1_024;
/// Bytes of all blocks behind a `Chunk`: the longest block and what a small sub-DAG has around it.
pub const MAX_CHUNK_LEN: usize = MAX_BLOCK_LEN + (128 << 10);
/// A header on a data stream.
pub const MAX_HEADER: usize = 16 << 10;
/// Bytes of the inner nodes in a `Joined`, and in a `Nodes` of more than one.
pub const MAX_JOINED_NODES_LEN: usize = 256 << 10;

/// Which of the two streams of a pair a `Hello` stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    Control,
    Data,
}

/// The bit of [`Hello::features`] of who wants to be told what has come, by [`Message::Received`].
pub const RECEIPTS: u64 = 1;

/// The first frame on each stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub stream: StreamKind,
    /// Bits that readers ignore where they do not know them.
    pub features: u64,
    /// The opener's number for this link, not 0.
    pub link: u64,
    /// The number of the reader's link that this pair answers; 0: a new one.
    pub answers: u64,
}

/// Where a peer is, as another tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRecord {
    /// The peer ID's bytes.
    pub id: Vec<u8>,
    /// Binary multiaddrs; empty where there is a signed record.
    pub addrs: Vec<Vec<u8>>,
    /// A signed envelope (libp2p RFC 0003), or empty.
    pub signed_record: Vec<u8>,
}

/// What changed on the sender's side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// `None`: of the peer, not of one content.
    pub root: Option<Cid>,
    pub have: Vec<ChunkRange>,
    pub lost: Vec<ChunkRange>,
    pub complete: bool,
    pub interested: Option<bool>,
    pub leaving: bool,
    pub choke: Option<bool>,
}

/// Why a chunk that was asked for does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Gone,
    Choked,
    Cancelled,
}

/// One message. The schema says what each is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    Join {
        root: Cid,
        have: Bitfield,
        complete: bool,
        interested: bool,
        /// Any chunk will do as the first.
        any: bool,
        /// The first inner nodes are here.
        has_nodes: bool,
    },
    Joined {
        root: Cid,
        have: Bitfield,
        complete: bool,
        interested: bool,
        choked: bool,
        nodes: Vec<(Cid, Bytes)>,
        peers: Vec<PeerRecord>,
        /// The chunk that comes as if it had been asked for.
        first: Option<ChunkIndex>,
    },
    Unknown {
        root: Cid,
    },
    GetNodes {
        request: u32,
        root: Cid,
        cids: Vec<Cid>,
    },
    Nodes {
        request: u32,
        nodes: Vec<(Cid, Bytes)>,
        lacking: Vec<Cid>,
    },
    GetChunks {
        root: Cid,
        indices: Vec<ChunkIndex>,
    },
    Cancel {
        root: Cid,
        indices: Vec<ChunkIndex>,
    },
    Update(Update),
    GetPeers {
        request: u32,
        root: Cid,
    },
    Peers {
        request: u32,
        root: Cid,
        added: Vec<PeerRecord>,
        dropped: Vec<Vec<u8>>,
    },
    /// The header; the blocks follow raw.
    Chunk {
        root: Cid,
        index: ChunkIndex,
        block_lens: Vec<u32>,
    },
    NoChunk {
        root: Cid,
        index: ChunkIndex,
        why: Why,
    },
    /// So many bytes of blocks have come on this link.
    Received {
        bytes: u64,
        /// By the sender's clock, in microseconds since any moment.
        at: u64,
    },
}

impl Message {
    /// Appends the message with its length prefix.
    ///
    /// # Errors
    /// [`WireError::TooLong`] if it would not fit a frame; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let msg = proto::Message { kind: Some(self.to_proto()) };
        let len = msg.encoded_len();
        if len > MAX_FRAME {
            return Err(WireError::TooLong(len as u64));
        }
        write_prefix(len, out);
        msg.encode_raw(out);
        Ok(())
    }

    /// Reads the message that fills `frame` (without its length prefix).
    ///
    /// # Errors
    /// Whatever is outside the protocol: the peer's fault.
    pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
        if frame.len() > MAX_FRAME {
            return Err(WireError::TooLong(frame.len() as u64));
        }
        scan::check(frame, shape::MESSAGE)?;
        let msg = proto::Message::decode(frame).map_err(|_| WireError::Malformed)?;
        from_proto(msg.kind.ok_or(WireError::UnknownKind)?)
    }

    /// How many raw bytes follow it on the data stream: the sum of a `Chunk`'s blocks, else 0.
    pub fn body_len(&self) -> usize {
        match self {
            Message::Chunk { block_lens, .. } => block_lens.iter().map(|&n| n as usize).sum(),
            _ => 0,
        }
    }

    /// Whether it belongs on the data stream.
    pub fn is_data(&self) -> bool {
        matches!(self, Message::Chunk { .. } | Message::NoChunk { .. })
    }

    fn to_proto(&self) -> P {
        match self {
            Message::Hello(h) => P::Hello(proto::Hello {
                stream: match h.stream {
                    StreamKind::Control => proto::hello::Stream::Control.into(),
                    StreamKind::Data => proto::hello::Stream::Data.into(),
                },
                features: h.features,
                link: h.link,
                answers: h.answers,
            }),
            Message::Join { root, have, complete, interested, any, has_nodes } => P::Join(proto::Join {
                root: root.to_bytes(),
                have: Some(have::encode(have)),
                complete: *complete,
                interested: *interested,
                any: *any,
                has_nodes: *has_nodes,
            }),
            Message::Joined { root, have, complete, interested, choked, nodes, peers, first } => {
                P::Joined(proto::Joined {
                    root: root.to_bytes(),
                    have: Some(have::encode(have)),
                    complete: *complete,
                    interested: *interested,
                    choked: *choked,
                    nodes: nodes_to_proto(nodes),
                    peers: peers.iter().map(peer_to_proto).collect(),
                    first: first.map_or(0, |c| c.get() + 1),
                })
            }
            Message::Unknown { root } => P::Unknown(proto::Unknown { root: root.to_bytes() }),
            Message::GetNodes { request, root, cids } => P::GetNodes(proto::GetNodes {
                request: *request,
                root: root.to_bytes(),
                cids: cids.iter().map(Cid::to_bytes).collect(),
            }),
            Message::Nodes { request, nodes, lacking } => P::Nodes(proto::Nodes {
                request: *request,
                nodes: nodes_to_proto(nodes),
                lacking: lacking.iter().map(Cid::to_bytes).collect(),
            }),
            Message::GetChunks { root, indices } => {
                P::GetChunks(proto::GetChunks { root: root.to_bytes(), indices: numbers(indices) })
            }
            Message::Cancel { root, indices } => {
                P::Cancel(proto::Cancel { root: root.to_bytes(), indices: numbers(indices) })
            }
            Message::Update(u) => P::Update(update_to_proto(u)),
            Message::GetPeers { request, root } => {
                P::GetPeers(proto::GetPeers { request: *request, root: root.to_bytes() })
            }
            Message::Peers { request, root, added, dropped } => P::Peers(proto::Peers {
                request: *request,
                root: root.to_bytes(),
                added: added.iter().map(peer_to_proto).collect(),
                dropped: dropped.clone(),
            }),
            Message::Chunk { root, index, block_lens } => P::Chunk(proto::Chunk {
                root: root.to_bytes(),
                index: index.get(),
                block_lens: block_lens.clone(),
            }),
            Message::Received { bytes, at } => P::Received(proto::Received { bytes: *bytes, at: *at }),
            Message::NoChunk { root, index, why } => P::NoChunk(proto::NoChunk {
                root: root.to_bytes(),
                index: index.get(),
                why: match why {
                    Why::Gone => proto::no_chunk::Why::Gone.into(),
                    Why::Choked => proto::no_chunk::Why::Choked.into(),
                    Why::Cancelled => proto::no_chunk::Why::Cancelled.into(),
                },
            }),
        }
    }
}

fn from_proto(kind: P) -> Result<Message, WireError> {
    Ok(match kind {
        P::Hello(h) => Message::Hello(hello(h)?),
        P::Join(j) => Message::Join {
            root: cid(&j.root)?,
            have: have::decode(j.have)?,
            complete: j.complete,
            interested: j.interested,
            any: j.any,
            has_nodes: j.has_nodes,
        },
        P::Joined(j) => Message::Joined {
            root: cid(&j.root)?,
            have: have::decode(j.have)?,
            complete: j.complete,
            interested: j.interested,
            choked: j.choked,
            nodes: joined_nodes(j.nodes)?,
            peers: peers(j.peers)?,
            first: j.first.checked_sub(1).map(index).transpose()?,
        },
        P::Unknown(u) => Message::Unknown { root: cid(&u.root)? },
        P::GetNodes(g) => Message::GetNodes { request: g.request, root: cid(&g.root)?, cids: cids(&g.cids)? },
        P::Nodes(n) => {
            Message::Nodes { request: n.request, nodes: nodes(n.nodes)?, lacking: cids(&n.lacking)? }
        }
        P::GetChunks(g) => Message::GetChunks { root: cid(&g.root)?, indices: have::indices(g.indices)? },
        P::Cancel(c) => Message::Cancel { root: cid(&c.root)?, indices: have::indices(c.indices)? },
        P::Update(u) => Message::Update(update(u)?),
        P::GetPeers(g) => Message::GetPeers { request: g.request, root: cid(&g.root)? },
        P::Peers(p) => Message::Peers {
            request: p.request,
            root: cid(&p.root)?,
            added: peers(p.added)?,
            dropped: p.dropped,
        },
        P::Chunk(c) => Message::Chunk {
            root: cid(&c.root)?,
            index: index(c.index)?,
            block_lens: block_lens(c.block_lens)?,
        },
        P::Received(r) => Message::Received { bytes: r.bytes, at: r.at },
        P::NoChunk(n) => {
            let why = match proto::no_chunk::Why::try_from(n.why) {
                Ok(proto::no_chunk::Why::Gone) => Why::Gone,
                Ok(proto::no_chunk::Why::Choked) => Why::Choked,
                Ok(proto::no_chunk::Why::Cancelled) => Why::Cancelled,
                Err(_) => return Err(WireError::BadValue("why")),
            };
            Message::NoChunk { root: cid(&n.root)?, index: index(n.index)?, why }
        }
    })
}

fn hello(h: proto::Hello) -> Result<Hello, WireError> {
    let stream = match proto::hello::Stream::try_from(h.stream) {
        Ok(proto::hello::Stream::Control) => StreamKind::Control,
        Ok(proto::hello::Stream::Data) => StreamKind::Data,
        Err(_) => return Err(WireError::BadValue("stream")),
    };
    if h.link == 0 {
        return Err(WireError::BadValue("link"));
    }
    Ok(Hello { stream, features: h.features, link: h.link, answers: h.answers })
}

fn cid(raw: &[u8]) -> Result<Cid, WireError> {
    let mut rest = raw;
    let cid = Cid::read_bytes(&mut rest).map_err(|_| WireError::BadValue("cid"))?;
    if rest.is_empty() { Ok(cid) } else { Err(WireError::BadValue("cid")) }
}

fn cids(raw: &[Vec<u8>]) -> Result<Vec<Cid>, WireError> {
    raw.iter().map(|c| cid(c)).collect()
}

fn index(n: u32) -> Result<ChunkIndex, WireError> {
    ChunkIndex::new(n).ok_or(WireError::BadValue("index"))
}

fn numbers(indices: &[ChunkIndex]) -> Vec<u32> {
    indices.iter().map(|i| i.get()).collect()
}

fn nodes(raw: Vec<proto::Node>) -> Result<Vec<(Cid, Bytes)>, WireError> {
    raw.into_iter().map(|n| Ok((cid(&n.cid)?, n.data))).collect()
}

fn joined_nodes(raw: Vec<proto::Node>) -> Result<Vec<(Cid, Bytes)>, WireError> {
    if raw.iter().map(|n| n.data.len()).sum::<usize>() > MAX_JOINED_NODES_LEN {
        return Err(WireError::FieldTooLong { what: "nodes", max: MAX_JOINED_NODES_LEN as u32 });
    }
    nodes(raw)
}

fn nodes_to_proto(nodes: &[(Cid, Bytes)]) -> Vec<proto::Node> {
    nodes.iter().map(|(c, d)| proto::Node { cid: c.to_bytes(), data: d.clone() }).collect()
}

fn peers(raw: Vec<proto::Peer>) -> Result<Vec<PeerRecord>, WireError> {
    raw.into_iter()
        .map(|p| {
            if !p.addrs.is_empty() && !p.signed_record.is_empty() {
                return Err(WireError::BadValue("peer"));
            }
            Ok(PeerRecord { id: p.id, addrs: p.addrs, signed_record: p.signed_record })
        })
        .collect()
}

fn peer_to_proto(p: &PeerRecord) -> proto::Peer {
    proto::Peer { id: p.id.clone(), addrs: p.addrs.clone(), signed_record: p.signed_record.clone() }
}

fn update(u: proto::Update) -> Result<Update, WireError> {
    if u.have.len() + u.lost.len() > MAX_UPDATE_RUNS as usize {
        return Err(WireError::TooMany { what: "runs", max: MAX_UPDATE_RUNS });
    }
    Ok(Update {
        root: if u.root.is_empty() { None } else { Some(cid(&u.root)?) },
        have: have::ranges(u.have)?,
        lost: have::ranges(u.lost)?,
        complete: u.complete,
        interested: flag(u.interested)?,
        leaving: u.leaving,
        choke: flag(u.choke)?,
    })
}

fn update_to_proto(u: &Update) -> proto::Update {
    let flag = |f: Option<bool>| match f {
        None => proto::update::Flag::Same.into(),
        Some(true) => proto::update::Flag::Yes.into(),
        Some(false) => proto::update::Flag::No.into(),
    };
    proto::Update {
        root: u.root.as_ref().map(Cid::to_bytes).unwrap_or_default(),
        have: have::runs(&u.have),
        lost: have::runs(&u.lost),
        complete: u.complete,
        interested: flag(u.interested),
        leaving: u.leaving,
        choke: flag(u.choke),
    }
}

fn flag(raw: i32) -> Result<Option<bool>, WireError> {
    match proto::update::Flag::try_from(raw) {
        Ok(proto::update::Flag::Same) => Ok(None),
        Ok(proto::update::Flag::Yes) => Ok(Some(true)),
        Ok(proto::update::Flag::No) => Ok(Some(false)),
        Err(_) => Err(WireError::BadValue("flag")),
    }
}

fn block_lens(lens: Vec<u32>) -> Result<Vec<u32>, WireError> {
    let sum: u64 = lens.iter().map(|&n| u64::from(n)).sum();
    if lens.is_empty() || sum > MAX_CHUNK_LEN as u64 || lens.iter().any(|&n| n as usize > MAX_BLOCK_LEN) {
        return Err(WireError::BadValue("block lengths"));
    }
    Ok(lens)
}

/// The caps as tables, by field number.
mod shape {
    use super::have::{MAX_PAGES, MAX_RUNS, PAGE_BYTES};
    use super::scan::{Field, bytes, many, message, number, numbers};
    use super::*;

    const PAGE: &[Field] = &[number(1, "page"), numbers(2, "runs", MAX_RUNS), bytes(3, "bits", PAGE_BYTES)];
    const HAVE: &[Field] = &[number(1, "below"), message(2, "pages", MAX_PAGES, PAGE)];
    const RUN: &[Field] = &[number(1, "start"), number(2, "len")];
    const NODE: &[Field] = &[bytes(1, "cid", MAX_CID_LEN), bytes(2, "data", MAX_BLOCK_LEN as u32)];
    const PEER: &[Field] = &[
        bytes(1, "id", MAX_PEER_ID_LEN),
        many(2, "addrs", MAX_ADDRS, MAX_ADDR_LEN),
        bytes(3, "signed_record", MAX_RECORD_LEN),
    ];
    const ROOT: Field = bytes(1, "root", MAX_CID_LEN);
    const ROOT2: Field = bytes(2, "root", MAX_CID_LEN);
    const REQUEST: Field = number(1, "request");

    const HELLO: &[Field] =
        &[number(1, "stream"), number(2, "features"), number(3, "link"), number(4, "answers")];
    const JOIN: &[Field] = &[
        ROOT,
        message(2, "have", 1, HAVE),
        number(3, "complete"),
        number(4, "interested"),
        number(5, "any"),
        number(6, "has_nodes"),
    ];
    const JOINED: &[Field] = &[
        ROOT,
        message(2, "have", 1, HAVE),
        number(3, "complete"),
        number(4, "interested"),
        number(5, "choked"),
        message(6, "nodes", MAX_CIDS, NODE),
        message(7, "peers", MAX_PEERS, PEER),
        number(8, "first"),
    ];
    const UNKNOWN: &[Field] = &[ROOT];
    const GET_NODES: &[Field] = &[REQUEST, ROOT2, many(3, "cids", MAX_CIDS, MAX_CID_LEN)];
    const NODES: &[Field] =
        &[REQUEST, message(2, "nodes", MAX_CIDS, NODE), many(3, "lacking", MAX_CIDS, MAX_CID_LEN)];
    const INDICES: &[Field] = &[ROOT, numbers(2, "indices", MAX_INDICES)];
    const UPDATE: &[Field] = &[
        ROOT,
        message(2, "have", MAX_UPDATE_RUNS, RUN),
        message(3, "lost", MAX_UPDATE_RUNS, RUN),
        number(4, "complete"),
        number(5, "interested"),
        number(6, "leaving"),
        number(7, "choke"),
    ];
    const GET_PEERS: &[Field] = &[REQUEST, ROOT2];
    const PEERS: &[Field] = &[
        REQUEST,
        ROOT2,
        message(3, "added", MAX_PEERS, PEER),
        many(4, "dropped", MAX_DROPPED, MAX_PEER_ID_LEN),
    ];
    const CHUNK: &[Field] = &[ROOT, number(2, "index"), numbers(3, "block_lens", MAX_BLOCKS)];
    const NO_CHUNK: &[Field] = &[ROOT, number(2, "index"), number(3, "why")];
    const RECEIVED: &[Field] = &[number(1, "bytes"), number(2, "at")];

    pub(super) const MESSAGE: &[Field] = &[
        message(1, "hello", 1, HELLO),
        message(2, "join", 1, JOIN),
        message(3, "joined", 1, JOINED),
        message(4, "unknown", 1, UNKNOWN),
        message(5, "get_nodes", 1, GET_NODES),
        message(6, "nodes", 1, NODES),
        message(7, "get_chunks", 1, INDICES),
        message(8, "cancel", 1, INDICES),
        message(9, "update", 1, UPDATE),
        message(10, "get_peers", 1, GET_PEERS),
        message(11, "peers", 1, PEERS),
        message(12, "chunk", 1, CHUNK),
        message(13, "no_chunk", 1, NO_CHUNK),
        message(14, "received", 1, RECEIVED),
    ];
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
