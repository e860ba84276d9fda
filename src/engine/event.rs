//! What goes into the engine and what comes out of it.
//!
//! Chunk bytes never enter: a chunk is (content, number, length). The driver, be it the node (libp2p
//! and the store) or the lab (a simulated network), turns [`Action`]s into messages and reads, and
//! messages and results back into events.

use std::time::Duration;

use crate::bitfield::Bitfield;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey};

/// An inner node of a content's DAG that is not here yet, as the driver numbers it (per content).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// What the driver tells of a content.
#[derive(Clone, Debug)]
pub enum ContentEvent {
    /// It exists here from now on. Nothing of it is held until [`ContentEvent::Held`] says so.
    /// `want`: fetch what is missing; otherwise only serve.
    Added { want: bool },
    /// `count` more chunks are known, the next numbers, each of `len` bytes (a hint until held).
    Grew { count: u32, len: u32 },
    /// No more chunks will become known.
    ManifestComplete,
    /// These inner nodes are missing, in the order in which they are needed.
    NodesWanted(Vec<NodeId>),
    /// These came from elsewhere (the disk), or are wanted no more.
    NodesHeld(Vec<NodeId>),
    /// On our disk: at start, or because another content of ours had it.
    Held(ChunkRange),
    /// No longer on our disk (the file changed); told to the neighbours.
    Lost(ChunkRange),
    /// A chunk has the name of one of another content: it is fetched for one of the two, and copied.
    Same { chunk: ChunkIndex, other: (ContentKey, ChunkIndex) },
    /// What [`Action::Copy`] asked for cannot be done; if it can, [`ContentEvent::Held`] says so.
    NotCopied(ChunkIndex),
    /// How much the chunks of a range matter: 0 not wanted, 1 normal (the default), more is sooner.
    Priority { range: ChunkRange, level: u8 },
    /// Streaming: these are needed in this order, each within `per_chunk` of the one before; replaces the last window.
    Window { start: ChunkIndex, count: u32, per_chunk: Duration },
    /// No fetching, no serving, until resumed (the disk is full, or the user asked).
    Paused(bool),
    /// Upload and download limits of this content, bytes a second.
    Limits { up: Option<u64>, down: Option<u64> },
    /// Peers are to be forgotten, requests cancelled; said once, the key is not used again.
    Removed,
}

/// How a peer is reached, which decides what it can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Speaks the exchange: chunk lists, choke, cancels.
    Exchange,
    /// Speaks Bitswap only: no choke, no chunk lists but answers to what it was asked for.
    Bitswap,
}

/// A peer's breach of the protocol: its fault, never ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A chunk or node whose bytes do not have its name: a ban at once.
    BadBytes,
    /// A chunk that no request names.
    Unasked,
    /// A message outside the caps, or one that does not parse.
    Malformed,
    /// More of something than is allowed in the time (requests, choke flips, peers).
    Flood,
}

/// What happened with a peer.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    /// The exchange (or Bitswap) can be spoken with it from now on.
    Connected {
        kind: PeerKind,
        rtt: Option<Duration>,
    },
    /// Its connection is gone, or it missed its pings. Its requests go to others at once.
    Disconnected,
    Rtt(Duration),
    /// It is in the swarm of this content: its `Join`, or its `Joined` to ours.
    Joined {
        content: ContentKey,
        have: Bitfield,
        complete: bool,
    },
    /// It answered a [`Action::Join`] that said that any chunk will do: which one it sends, if one. Behind `Joined`.
    Promised {
        content: ContentKey,
        chunk: Option<ChunkIndex>,
    },
    /// It left, or answered `Unknown` to our join.
    Left {
        content: ContentKey,
    },
    Have {
        content: ContentKey,
        ranges: Vec<ChunkRange>,
    },
    /// It has every chunk there is.
    Complete {
        content: ContentKey,
    },
    Lost {
        content: ContentKey,
        ranges: Vec<ChunkRange>,
    },
    /// It chokes us: what we asked and it has not begun is answered one by one with `Refused`.
    Choked,
    Unchoked,
    /// Whether it wants something that we have (derived by it, told by `Update`).
    Interested {
        content: ContentKey,
        interested: bool,
    },
    /// Bytes of a chunk are arriving: a sign of life, and what the rate is measured by.
    Receiving {
        bytes: u64,
    },
    /// The answer to a request of ours that carries no chunk.
    Refused {
        content: ContentKey,
        chunk: ChunkIndex,
        why: Refusal,
    },
    /// The answer to [`Action::RequestNodes`]: those that came and were right, and those it lacks.
    Nodes {
        content: ContentKey,
        got: Vec<NodeId>,
        lacking: Vec<NodeId>,
    },
    /// It asks for these, in this order.
    Requested {
        content: ContentKey,
        chunks: Vec<ChunkIndex>,
    },
    /// It no longer wants these.
    CancelledByPeer {
        content: ContentKey,
        chunks: Vec<ChunkIndex>,
    },
    /// A chunk that [`Action::Send`] named has left for its socket.
    Sent {
        content: ContentKey,
        chunk: ChunkIndex,
        bytes: u64,
    },
    /// It broke the protocol; found outside the engine.
    Faulty(Fault),
}

/// Why a request is answered without its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not held any more.
    Gone,
    /// The asking peer is choked.
    Choked,
    /// The asking peer cancelled it.
    Cancelled,
}

/// What the store says of what it was given.
#[derive(Clone, Debug)]
pub enum StoreResult {
    /// Verified and written.
    Stored { content: ContentKey, chunk: ChunkIndex, from: PeerKey },
    /// Its hash is wrong: `from` alone is to blame.
    Bad { content: ContentKey, chunk: ChunkIndex, from: PeerKey },
    /// Verified, yet not written (disk full): ours. It is wanted again once the content is resumed.
    NotStored { content: ContentKey, chunk: ChunkIndex },
    /// [`Action::Send`] could not be served: the file changed or cannot be read.
    Unreadable { content: ContentKey, chunk: ChunkIndex, to: PeerKey },
}

/// Whether an arriving chunk answers a request of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Verify it, write it, and say how that went by [`StoreResult`].
    Wanted,
    /// It was asked for, but is here already (endgame) or was cancelled: drop it, nobody is to blame.
    Late,
    /// Nobody asked for it; the peer's trust has been lowered.
    Unasked,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the peer that we are in this swarm (it answers with `Joined` or `Left`). `any`: that any chunk of its
    /// choice will do for the first one ([`PeerEvent::Promised`]).
    Join {
        peer: PeerKey,
        content: ContentKey,
        any: bool,
    },
    Leave {
        peer: PeerKey,
        content: ContentKey,
    },
    Request {
        peer: PeerKey,
        content: ContentKey,
        chunks: Vec<ChunkIndex>,
    },
    Cancel {
        peer: PeerKey,
        content: ContentKey,
        chunks: Vec<ChunkIndex>,
    },
    RequestNodes {
        peer: PeerKey,
        content: ContentKey,
        nodes: Vec<NodeId>,
    },
    /// Read the chunk and send it; then [`PeerEvent::Sent`] or [`StoreResult::Unreadable`].
    Send {
        peer: PeerKey,
        content: ContentKey,
        chunk: ChunkIndex,
    },
    Refuse {
        peer: PeerKey,
        content: ContentKey,
        chunk: ChunkIndex,
        why: Refusal,
    },
    Choke {
        peer: PeerKey,
    },
    Unchoke {
        peer: PeerKey,
    },
    /// We hold these from now on.
    Have {
        peer: PeerKey,
        content: ContentKey,
        ranges: Vec<ChunkRange>,
    },
    /// We hold every chunk there is.
    Complete {
        peer: PeerKey,
        content: ContentKey,
    },
    Lost {
        peer: PeerKey,
        content: ContentKey,
        ranges: Vec<ChunkRange>,
    },
    Interested {
        peer: PeerKey,
        content: ContentKey,
        interested: bool,
    },
    /// Ask this peer whom it knows (PEX).
    AskPeers {
        peer: PeerKey,
        content: ContentKey,
    },
    /// Too little supply: ask the DHT, the LAN and whoever else knows providers.
    FindPeers {
        content: ContentKey,
    },
    /// Close the connection and refuse new ones.
    Ban {
        peer: PeerKey,
        fault: Fault,
    },
    /// Copy a chunk that another content of ours holds: read, verify, write; then [`ContentEvent::Held`] or
    /// [`ContentEvent::NotCopied`].
    Copy {
        from: (ContentKey, ChunkIndex),
        content: ContentKey,
        chunk: ChunkIndex,
    },
    /// Every wanted chunk of the content is held and its manifest is complete.
    Finished {
        content: ContentKey,
    },
}
