//! The start: transport, behaviour, swarm, listeners; then the task.

use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};

use libp2p::core::upgrade::Version;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{self, Swarm};
use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;

use super::api::{Event, Inbound};
use super::behaviour::Net;
use super::pool::BufPool;
use super::scope::{Scope, scope_of};
use super::task::Task;
use super::transport::{self, Paced, Secured};
use super::{NetConfig, NetError, NetHandle};

/// Commands that wait; whoever sends more waits itself.
const COMMANDS: usize = 256;
/// Addresses of one dial that are tried at a time.
const DIALS_AT_ONCE: u8 = 8;
/// Streams of one connection that are still choosing a protocol or have not said hello.
const MAX_NEGOTIATING: usize = 32;

/// Starts the network in a task of its own; it returns when every listener is up.
///
/// # Errors
/// An address cannot be listened on (a port that is taken included), or the key is of no use.
pub async fn start(
    cfg: NetConfig,
    events: mpsc::Sender<Event>,
    inbound: mpsc::Sender<Inbound>,
) -> Result<NetHandle, NetError> {
    cfg.listen.iter().try_for_each(port_is_free)?;
    let bootstrap = cfg.bootstrap.iter().map(with_peer).collect::<Result<Vec<_>, _>>()?;
    let peer_id = cfg.keypair.public().to_peer_id();
    let secured = Secured::default();
    let paced = Paced::default();
    let timeout = cfg.limits.dial_timeout;
    let transport = transport::build(&cfg.keypair, cfg.prefer_noise, timeout, &secured, &paced)?;
    let pool = BufPool::new(cfg.limits.buffers);
    let near_only = !cfg.listen.is_empty() && cfg.listen.iter().all(|a| scope_of(a) == Some(Scope::Loopback));
    let behaviour = Net::new(&cfg, !near_only, inbound, pool.clone(), paced);
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(cfg.limits.idle_timeout)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING)
        .with_dial_concurrency_factor(NonZeroU8::new(DIALS_AT_ONCE).expect("not 0"))
        .with_notify_handler_buffer_size(NonZeroUsize::new(32).expect("not 0"))
        .with_per_connection_event_buffer_size(32)
        // Each stream here has one protocol to choose from: it is named with the first bytes.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let mut swarm = Swarm::new(transport, behaviour, peer_id, config);
    for addr in &cfg.external {
        swarm.add_external_address(addr.clone());
    }
    let (commands, commands_rx) = mpsc::channel(COMMANDS);
    let mut task = Task::new(swarm, commands_rx, events, secured, bootstrap, cfg.state_dir.as_deref());
    let listen = task.listen(&cfg.listen).await?;
    tokio::spawn(task.run());
    Ok(NetHandle { commands, peer_id, pool, listen })
}

/// The address without its /p2p/ID, and the ID.
pub fn split_peer(addr: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut bare = addr.clone();
    match bare.pop() {
        Some(Protocol::P2p(peer)) => (bare, Some(peer)),
        _ => (addr.clone(), None),
    }
}

fn with_peer(addr: &Multiaddr) -> Result<(PeerId, Multiaddr), NetError> {
    match split_peer(addr) {
        (bare, Some(peer)) => Ok((peer, bare)),
        (_, None) => Err(NetError::BootstrapWithoutId(addr.clone())),
    }
}

/// libp2p-tcp listens with SO_REUSEPORT, which would share a taken port in silence; so try without.
fn port_is_free(addr: &Multiaddr) -> Result<(), NetError> {
    let mut parts = addr.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    let Some(Protocol::Tcp(port @ 1..)) = parts.next() else { return Ok(()) };
    let at = SocketAddr::new(ip, port);
    let attempt = || {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(cfg!(unix))?; // what lingers of an earlier run does not count
        socket.bind(&at.into())?;
        socket.listen(1)
    };
    attempt().map_err(|e| NetError::Listen { addr: addr.clone(), why: e.to_string() })
}
