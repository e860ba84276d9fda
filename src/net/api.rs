//! What the node tells the network task, and what it hears from it.
//!
//! One task owns the libp2p `Swarm`. It takes [`Command`]s over a bounded channel and gives [`Event`]s
//! over another. The exchange's messages take neither: they go straight between the node and the tasks
//! that read and write a peer's streams ([`Link`], [`Inbound`]).

use std::time::Duration;

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use super::bitswap;
use super::dht::{FindEvent, ProvideStatus, Provided};
use crate::content::Hash;
use crate::wire::exchange::Message;

/// A look-up that may be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub u64);

#[derive(Debug)]
pub enum Command {
    /// Connect, trying all addresses (TCP first, QUIC 250 ms later); none given: look the peer up.
    Dial {
        peer: Option<PeerId>,
        addrs: Vec<Multiaddr>,
    },
    Disconnect {
        peer: PeerId,
    },
    /// Close, and refuse from now on.
    Ban {
        peer: PeerId,
    },
    /// Refuse these from now on, as [`Command::Ban`] does.
    Banned {
        peers: Vec<PeerId>,
    },
    /// Refuse it no more.
    Pardon {
        peer: PeerId,
    },
    /// Ask the DHTs who provides this; [`Event::Provider`] as each is found, then [`Event::QueryDone`].
    FindProviders {
        query: QueryId,
        hash: Hash,
    },
    StopQuery {
        query: QueryId,
    },
    /// Be a provider of these from now on (told at once, and again in time).
    Provide {
        hashes: Vec<Hash>,
    },
    StopProviding {
        hashes: Vec<Hash>,
    },
    /// The same look-up, watched: its progress too. It ends when the receiver is dropped.
    Find {
        hash: Hash,
        reply: mpsc::Sender<FindEvent>,
    },
    /// Tell the closest servers of both DHTs now, and with `verify` ask them back. A reply that is
    /// dropped: there is no such DHT, or no address of ours that it could be told.
    ProvideOnce {
        hash: Hash,
        verify: bool,
        wan: oneshot::Sender<Provided>,
        lan: oneshot::Sender<Provided>,
    },
    /// How the providing stands, in the public DHT and in the local one.
    Providing {
        reply: oneshot::Sender<[ProvideStatus; 2]>,
    },
    /// Open the exchange with a connected peer (its streams; answered by [`Event::LinkUp`]).
    OpenLink {
        peer: PeerId,
    },
    /// Have a Bitswap link with a connected peer; answered by [`Event::BitswapUp`] unless there is one.
    OpenBitswap {
        peer: PeerId,
    },
    /// Add a bootstrap peer.
    Bootstrap {
        addr: Multiaddr,
    },
    Peers {
        reply: oneshot::Sender<Vec<PeerInfo>>,
    },
    /// Our own dialable addresses, the best first, each ending in /p2p/ID.
    Addresses {
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    Shutdown,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct PeerInfo {
    pub peer: String,
    pub addrs: Vec<String>,
    pub agent: String,
    pub protocols: Vec<String>,
    pub rtt_ms: Option<f64>,
    pub dialed: bool,
    pub security: String,
    /// What it is spoken with for contents: `exchange`, `bitswap`, or nothing yet.
    #[serde(default)]
    pub link: String,
}

#[derive(Debug)]
pub enum Event {
    Listening {
        addr: Multiaddr,
    },
    Connected {
        peer: PeerId,
        addr: Multiaddr,
        dialed: bool,
    },
    /// The last connection is gone.
    Disconnected {
        peer: PeerId,
    },
    DialFailed {
        peer: Option<PeerId>,
        error: String,
    },
    /// Identify has told whether it speaks the exchange.
    Identified {
        peer: PeerId,
        exchange: bool,
        bitswap: bool,
        addrs: Vec<Multiaddr>,
    },
    Rtt {
        peer: PeerId,
        rtt: Duration,
    },
    /// The peer did not answer its pings, or went silent: treat as gone.
    Unresponsive {
        peer: PeerId,
    },
    /// The exchange can be spoken: opened by us, or by the peer.
    LinkUp {
        peer: PeerId,
        link: Link,
    },
    LinkDown {
        peer: PeerId,
        why: String,
    },
    /// Bitswap can be spoken: asked for by us, or because the peer began.
    BitswapUp {
        peer: PeerId,
        link: bitswap::Link,
    },
    BitswapDown {
        peer: PeerId,
        link: u64,
        why: String,
    },
    Provider {
        query: QueryId,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
    },
    QueryDone {
        query: QueryId,
    },
    /// A peer seen on the local network.
    LanPeer {
        peer: PeerId,
        addrs: Vec<Multiaddr>,
    },
}

/// The sending half of the exchange with one peer. Dropping it closes the streams.
#[derive(Clone, Debug)]
pub struct Link {
    /// Tells this link from the one before it with the same peer.
    pub id: u64,
    /// Everything but chunks. Bounded: `try_send` failing means the peer does not read; drop the link.
    pub control: mpsc::Sender<Message>,
    /// Chunks, written one after the other; [`Inbound::Sent`] when each is handed to the socket.
    pub data: mpsc::Sender<Outgoing>,
}

/// One answer on the data stream.
#[derive(Debug)]
pub struct Outgoing {
    /// `Chunk`, `Gone`, `Choked` or `Cancelled`; a `Chunk`'s bytes are in `body`.
    pub message: Message,
    /// Blocks one behind the other; returned through [`Inbound::Sent`] for reuse.
    pub body: Vec<u8>,
}

/// What arrives on the links, all peers over one bounded channel.
#[derive(Debug)]
pub enum Inbound {
    /// A control message, or a data-stream answer without a body.
    Message { peer: PeerId, link: u64, message: Message },
    /// A chunk: `message` is its header, `body` a buffer from the pool.
    Chunk { peer: PeerId, link: u64, message: Message, body: Vec<u8> },
    /// Part of a chunk has come (at most every 64 KiB or 100 ms): a sign of life.
    Progress { peer: PeerId, link: u64, bytes: u64 },
    /// The chunk named by `message` has left; `body` is the buffer back.
    Sent { peer: PeerId, link: u64, message: Message, body: Vec<u8> },
    /// The peer sent something outside the protocol; the link is closed.
    Violation { peer: PeerId, link: u64, what: String },
    /// The link's streams ended.
    Closed { peer: PeerId, link: u64 },
    /// Something of a Bitswap link, whose numbers are its own.
    Bitswap(bitswap::News),
}

/// An inner node on its way.
pub type NodeBlock = (cid::Cid, Bytes);
