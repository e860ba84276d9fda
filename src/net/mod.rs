//! The network: one libp2p `Swarm`, one task that owns it.
//!
//! [`start`] builds it and gives a [`NetHandle`]; [`api`] has what goes in and out. The exchange's and
//! Bitswap's bytes never pass the swarm's event loop: tasks of their own read and write them ([`exchange`],
//! [`bitswap`]).
//!
//! What the node must keep to:
//! - Never wait on a [`api::Link`]'s senders (`try_send`): a link's writer itself waits to hand back
//!   what it has sent, over the one channel that the node reads.
//! - [`api::Event::LinkUp`] is given before anything of that link arrives. A violation outside of a
//!   link bears the link number 0. After `Closed` or `Violation` nothing of that link comes any more,
//!   bodies not yet sent are dropped with it, and [`api::Event::LinkDown`] follows.
//! - [`api::Event::Unresponsive`] says that a ping was not answered for 10 s. On a slow link bulk may
//!   be why: any byte received in that time is a sign of life.

pub mod api;
mod ask;
mod behaviour;
pub mod bitswap;
mod bootstrap;
pub mod dht;
mod dial;
pub mod exchange;
pub mod identity;
mod ip_limit;
mod late;
mod pool;
mod reach;
mod scope;
mod seek;
pub mod signed;
mod swarm;
mod task;
#[cfg(test)]
mod tests;
mod transport;

use std::path::PathBuf;
use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

pub use pool::BufPool;
pub use scope::{Scope, scope_of};
pub use swarm::start;

/// How many connections, and how much memory, the network may take.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: u32,
    pub connections_per_peer: u32,
    /// From one IPv4 address or IPv6 /64; this machine itself is not limited.
    pub inbound_per_ip: u32,
    pub pending_inbound: u32,
    pub pending_outbound: u32,
    /// New connections are refused while the process takes more than this, in bytes.
    pub memory: Option<usize>,
    /// Chunk buffers that are kept for reuse.
    pub buffers: usize,
    /// Provider records of others that we keep.
    pub foreign_records: usize,
    pub dial_timeout: Duration,
    /// A connection that nobody uses is closed after this.
    pub idle_timeout: Duration,
    /// A ping is sent this long after the last was answered, and must be answered within the same.
    pub ping: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 600,
            connections_per_peer: 4,
            inbound_per_ip: 32,
            pending_inbound: 64,
            pending_outbound: 64,
            memory: None,
            buffers: 64,
            foreign_records: 65_536,
            dial_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            ping: Duration::from_secs(10),
        }
    }
}

/// What [`start`] needs to know.
#[derive(Clone, Debug)]
pub struct NetConfig {
    pub keypair: Keypair,
    /// TCP and QUIC addresses; a port of 0 takes any.
    pub listen: Vec<Multiaddr>,
    /// Peers to enter the DHTs by, each ending in /p2p/ID.
    pub bootstrap: Vec<Multiaddr>,
    pub mdns: bool,
    pub kad: bool,
    /// Addresses that the outside reaches us at: make us a server of the public DHT.
    pub external: Vec<Multiaddr>,
    /// Speak the exchange. Off only where Bitswap alone is to be tested or measured.
    pub exchange: bool,
    /// Where the DHT's state is kept, if it is.
    pub state_dir: Option<PathBuf>,
    /// Noise before TLS whatever the CPU can do (for measurements).
    pub prefer_noise: bool,
    pub limits: Limits,
}

impl NetConfig {
    /// The defaults: no bootstrap peers, everything else on.
    pub fn new(keypair: Keypair, listen: Vec<Multiaddr>) -> NetConfig {
        NetConfig {
            keypair,
            listen,
            bootstrap: Vec::new(),
            mdns: true,
            kad: true,
            external: Vec::new(),
            exchange: true,
            state_dir: None,
            prefer_noise: false,
            limits: Limits::default(),
        }
    }
}

/// The running network. Dropping `commands` everywhere stops it, as does [`api::Command::Shutdown`].
#[derive(Clone, Debug)]
pub struct NetHandle {
    pub commands: mpsc::Sender<api::Command>,
    pub peer_id: PeerId,
    /// Where the bodies of [`api::Inbound`] come from and should go back to.
    pub pool: BufPool,
    /// The addresses listened on, concrete, with their ports; without /p2p/ID.
    pub listen: Vec<Multiaddr>,
}

/// Why the network does not start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("cannot listen on {addr}: {why}")]
    Listen { addr: Multiaddr, why: String },
    #[error("cannot make the transport: {0}")]
    Transport(String),
    #[error("the bootstrap address {0} does not end in /p2p/ID")]
    BootstrapWithoutId(Multiaddr),
    #[error("cannot use the identity in {path}: {why}")]
    Identity { path: PathBuf, why: String },
}
