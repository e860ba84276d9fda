//! The task that owns the swarm: commands in, events out.
//!
//! It never waits for the node: events queue up in `outbox` (while it is long the swarm is not
//! polled, so peers wait), and commands are taken all the time. So the two cannot lock each other.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, mdns, ping};
use tokio::sync::{mpsc, oneshot};

use super::api::{Command, Event, PeerInfo};
use super::behaviour::{LAN_KAD, Net, NetEvent, WAN_KAD};
use super::bootstrap::Bootstrap;
use super::dht::{Dht, FindReply, Network};
use super::scope::{Scope, addr_groups, scope_of};
use super::seek::Seek;
use super::swarm::split_peer;
use super::transport::Secured;
use super::{NetError, bitswap, dial, exchange, late};
use crate::dht::Group;

/// Events that wait for the node before the swarm has to wait.
const OUTBOX: usize = 512;
/// Listeners must be up within this.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A wildcard listener's addresses come one by one; after the last of them nothing comes for so long. Every command
/// waits for this before it dials.
const LISTEN_SETTLE: Duration = Duration::from_millis(10);
/// Addresses of a peer that are kept.
pub(super) const MAX_ADDRS: usize = 16;

/// What is known of a connected peer.
#[derive(Debug, Default)]
struct Known {
    addrs: Vec<Multiaddr>,
    agent: String,
    protocols: Vec<String>,
    bitswap: late::Told,
    rtt: Option<Duration>,
    dialed: bool,
    /// The remote address of each connection.
    connections: HashMap<ConnectionId, Multiaddr>,
}

pub struct Task {
    pub(super) swarm: Swarm<Net>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    outbox: VecDeque<(Event, Option<oneshot::Sender<()>>)>,
    secured: Secured,
    known: HashMap<PeerId, Known>,
    listeners: HashMap<ListenerId, Result<Vec<Multiaddr>, String>>,
    /// Dials that the node asked for.
    pub(super) dials: HashSet<ConnectionId>,
    pub(super) dht: Dht,
    bootstrap: Bootstrap,
    pub(super) seek: Seek,
    pub(super) late: late::Late,
}

impl Task {
    pub fn new(
        swarm: Swarm<Net>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        secured: Secured,
        bootstrap: Vec<(PeerId, Multiaddr)>,
        state_dir: Option<&std::path::Path>,
    ) -> Task {
        Task {
            swarm,
            commands,
            events,
            outbox: VecDeque::new(),
            secured,
            known: HashMap::new(),
            listeners: HashMap::new(),
            dials: HashSet::new(),
            dht: Dht::new(state_dir),
            bootstrap: Bootstrap::new(bootstrap, Instant::now()),
            seek: Seek::default(),
            late: late::Late::default(),
        }
    }

    /// Listens on `addrs` and waits until each has its concrete address.
    ///
    /// # Errors
    /// The first that fails.
    pub async fn listen(&mut self, addrs: &[Multiaddr]) -> Result<Vec<Multiaddr>, NetError> {
        let mut ids = Vec::new();
        for addr in addrs {
            let bad = |why: String| NetError::Listen { addr: addr.clone(), why };
            let id = self.swarm.listen_on(addr.clone()).map_err(|e| bad(dial::reason(&e)))?;
            self.listeners.insert(id, Ok(Vec::new()));
            ids.push((id, addr));
        }
        let deadline = tokio::time::Instant::now() + LISTEN_TIMEOUT;
        let wild = addrs.iter().any(|a| scope_of(a).is_none());
        let wait = if wild { LISTEN_SETTLE } else { Duration::ZERO };
        let (mut settled, mut known) = (deadline, None);
        while tokio::time::Instant::now() < deadline {
            let found = |id| self.listeners.get(id).and_then(|l| l.as_ref().ok()).map_or(0, Vec::len);
            let all: usize = ids.iter().map(|(id, _)| found(id)).sum();
            if ids.iter().all(|(id, _)| found(id) > 0) && known != Some(all) {
                (settled, known) = (tokio::time::Instant::now() + wait, Some(all));
            }
            for (id, addr) in &ids {
                if let Some(Err(why)) = self.listeners.get(id) {
                    return Err(NetError::Listen { addr: (*addr).clone(), why: why.clone() });
                }
            }
            tokio::select! {
                biased; // what has come counts, however slow this machine is
                event = self.swarm.select_next_some() => self.on_swarm(event),
                () = tokio::time::sleep_until(settled) => break,
            }
        }
        if let Some((_, addr)) = ids
            .iter()
            .find(|(id, _)| self.listeners.get(id).is_none_or(|l| l.as_ref().map_or(true, Vec::is_empty)))
        {
            return Err(NetError::Listen { addr: (*addr).clone(), why: "no address came up".into() });
        }
        Ok(ids.iter().filter_map(|(id, _)| self.listeners.get(id)?.clone().ok()).flatten().collect())
    }

    /// Runs until [`Command::Shutdown`], or until nobody can send commands any more.
    pub async fn run(mut self) {
        let events = self.events.clone();
        loop {
            let wake = self.wake();
            tokio::select! {
                biased;
                permit = events.reserve(), if !self.outbox.is_empty() => {
                    let Ok(permit) = permit else { break };
                    if let Some((event, announced)) = self.outbox.pop_front() {
                        permit.send(event);
                        // A link's tasks wait for this; they may have ended meanwhile.
                        announced.map(|a| a.send(()).ok());
                    }
                }
                command = self.commands.recv() => match command {
                    None | Some(Command::Shutdown) => break,
                    Some(command) => self.on_command(command),
                },
                event = self.swarm.select_next_some(), if self.outbox.len() < OUTBOX => {
                    self.on_swarm(event);
                }
                kept = self.dht.keeping.loaded() => self.take_up(kept),
                () = tokio::time::sleep_until(wake.into()) => self.on_time(Instant::now()),
            }
        }
        self.keep_last().await;
    }

    /// The IP groups that a connected peer is seen in.
    pub(super) fn origin(&self, peer: &PeerId) -> Vec<Group> {
        let connections = self.known.get(peer).map(|k| k.connections.values().cloned().collect::<Vec<_>>());
        addr_groups(&connections.unwrap_or_default())
    }

    fn wake(&self) -> Instant {
        let idle = Instant::now() + Duration::from_secs(3_600);
        [self.dht.wake(), self.bootstrap.wake(), self.seek.wake(), self.late.wake()]
            .into_iter()
            .flatten()
            .fold(idle, Instant::min)
    }

    fn on_time(&mut self, now: Instant) {
        self.dht_time(now);
        self.forget_unwatched();
        self.seek_due(now);
        self.meet_again(now);
        let swarm = &mut self.swarm;
        for (peer, addrs) in self.bootstrap.due(now, |p| swarm.is_connected(p)) {
            dial::quietly(swarm, peer, addrs);
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.outbox.push_back((event, None));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { peer, addrs } => self.dial(peer, addrs),
            Command::Disconnect { peer } => {
                let _ = self.swarm.disconnect_peer_id(peer); // it may be gone already
            }
            Command::Ban { peer } => drop(self.swarm.behaviour_mut().banned.block_peer(peer)),
            Command::Banned { peers } => {
                let banned = &mut self.swarm.behaviour_mut().banned;
                for peer in peers {
                    banned.block_peer(peer);
                }
            }
            Command::Pardon { peer } => {
                self.swarm.behaviour_mut().banned.unblock_peer(peer);
            }
            Command::FindProviders { query, hash } => self.find(&hash, FindReply::Query(query)),
            Command::Find { hash, reply } => self.find(&hash, FindReply::Watch(reply)),
            Command::StopQuery { query } => self.stop_query(query),
            Command::OpenLink { peer } => {
                if let Some(exchange) = self.swarm.behaviour_mut().exchange.as_mut() {
                    exchange.open(peer);
                }
            }
            Command::OpenBitswap { peer } => self.swarm.behaviour_mut().bitswap.open(peer),
            Command::Provide { hashes } => self.provide(&hashes),
            Command::ProvideOnce { hash, verify, wan, lan } => {
                self.provide_once(&hash, verify, [(Network::Wan, wan), (Network::Lan, lan)]);
            }
            Command::Providing { reply } => drop(reply.send(self.provide_status())),
            Command::StopProviding { hashes } => hashes.iter().for_each(|h| self.stop_providing(h)),
            Command::Bootstrap { addr } => match split_peer(&addr) {
                (addr, Some(peer)) => {
                    self.bootstrap.add(peer, addr, Instant::now());
                    self.on_time(Instant::now());
                }
                (_, None) => tracing::warn!("{}", NetError::BootstrapWithoutId(addr)),
            },
            // Whoever asked may have gone away.
            Command::Peers { reply } => drop(reply.send(self.peers())),
            Command::Addresses { reply } => drop(reply.send(self.addresses())),
            Command::Shutdown => {}
        }
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let text = |a: &[Multiaddr]| a.iter().map(Multiaddr::to_string).collect();
        let mut all: Vec<_> = self.known.iter().collect();
        all.sort_by_key(|(peer, _)| **peer);
        let info = |(peer, k): (&PeerId, &Known)| {
            let remote: Vec<_> = k.connections.values().cloned().collect();
            let quic = remote.iter().all(dial::is_quic);
            PeerInfo {
                peer: peer.to_string(),
                addrs: text(if k.addrs.is_empty() { &remote } else { &k.addrs }),
                agent: k.agent.clone(),
                protocols: k.protocols.clone(),
                rtt_ms: k.rtt.map(|r| r.as_secs_f64() * 1e3),
                dialed: k.dialed,
                link: self.link_with(peer).into(),
                security: if quic { "quic" } else { self.secured.of(peer).unwrap_or("") }.into(),
            }
        };
        all.into_iter().map(info).collect()
    }

    /// What a peer is spoken with.
    fn link_with(&self, peer: &PeerId) -> &'static str {
        let net = self.swarm.behaviour();
        if net.exchange.as_ref().is_some_and(|e| e.is_linked(peer)) {
            "exchange"
        } else if net.bitswap.is_linked(peer) {
            "bitswap"
        } else {
            ""
        }
    }

    /// Ours, the farthest-reaching first; loopback ones only if there are no others.
    fn addresses(&self) -> Vec<Multiaddr> {
        let id = *self.swarm.local_peer_id();
        let confirmed = self.swarm.external_addresses().cloned();
        let mut all: Vec<(Scope, Multiaddr)> = confirmed
            .chain(self.swarm.listeners().cloned())
            .filter_map(|a| Some((scope_of(&a)?, a)))
            .collect();
        all.sort_by_key(|(scope, _)| std::cmp::Reverse(*scope)); // stable: confirmed ones stay first
        if all.first().is_some_and(|(s, _)| *s != Scope::Loopback) {
            all.retain(|(s, _)| *s != Scope::Loopback);
        }
        let mut seen = HashSet::new();
        all.into_iter()
            .filter(|(_, a)| seen.insert(a.clone()))
            .filter_map(|(_, a)| a.with_p2p(id).ok())
            .collect()
    }

    fn on_swarm(&mut self, event: SwarmEvent<NetEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::NewListenAddr { listener_id, address } => {
                if let Some(Ok(addrs)) = self.listeners.get_mut(&listener_id) {
                    addrs.push(address.clone());
                }
                self.tell(Event::Listening { addr: address });
                self.seek.arm(Instant::now());
                self.own_addresses_changed();
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.own_addresses_changed(),
            SwarmEvent::NewExternalAddrCandidate { .. } => self.seek.arm(Instant::now()),
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => {
                self.reach_changed();
                self.own_addresses_changed();
                self.seek.arm(Instant::now());
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                let why = reason.err().map_or_else(|| "the listener closed".into(), |e| e.to_string());
                self.listeners.insert(listener_id, Err(why));
            }
            SwarmEvent::ListenerError { listener_id, error } => {
                tracing::debug!("listener {listener_id}: {error}");
            }
            SwarmEvent::ConnectionEstablished { peer_id: peer, connection_id, endpoint, .. } => {
                self.dials.remove(&connection_id);
                let k = self.known.entry(peer).or_default();
                let addr = endpoint.get_remote_address().clone();
                let first = k.connections.is_empty();
                k.connections.insert(connection_id, addr.clone());
                if first {
                    k.dialed = endpoint.is_dialer();
                    self.tell(Event::Connected { peer, addr, dialed: endpoint.is_dialer() });
                }
            }
            SwarmEvent::ConnectionClosed { peer_id: peer, connection_id, num_established, .. } => {
                if let Some(k) = self.known.get_mut(&peer) {
                    k.connections.remove(&connection_id);
                }
                if num_established == 0 {
                    self.known.remove(&peer);
                    self.secured.forget(&peer);
                    self.bootstrap.lost(&peer, Instant::now());
                    self.tell(Event::Disconnected { peer });
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.dial_failed(connection_id, peer_id, &error);
            }
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: NetEvent) {
        match event {
            NetEvent::Exchange(exchange::Event::Up { peer, link, announced }) => {
                self.outbox.push_back((Event::LinkUp { peer, link }, Some(announced)));
            }
            NetEvent::Exchange(exchange::Event::Down { peer, why }) => {
                self.tell(Event::LinkDown { peer, why });
            }
            NetEvent::Bitswap(bitswap::Event::Up { peer, link, announced }) => {
                self.outbox.push_back((Event::BitswapUp { peer, link }, Some(announced)));
            }
            NetEvent::Bitswap(bitswap::Event::Down { peer, link, why }) => {
                self.tell(Event::BitswapDown { peer, link, why });
            }
            NetEvent::Ping(ping::Event { peer, result, .. }) => match result {
                Ok(rtt) => {
                    if let Some(k) = self.known.get_mut(&peer) {
                        k.rtt = Some(rtt);
                    }
                    self.tell(Event::Rtt { peer, rtt });
                }
                // Who never answered one may not speak ping at all: js-libp2p without it waits for the rest of
                // what it takes for the name of a protocol.
                Err(ping::Failure::Timeout) if self.known.get(&peer).is_some_and(|k| k.rtt.is_some()) => {
                    self.tell(Event::Unresponsive { peer });
                }
                Err(_) => {}
            },
            NetEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                self.identified(peer_id, connection_id, info);
            }
            NetEvent::Mdns(mdns::Event::Discovered(found)) => self.discovered(found),
            NetEvent::Wan(event) => self.on_kad(Network::Wan, event),
            NetEvent::Lan(event) => self.on_kad(Network::Lan, event),
            NetEvent::Ask(event) => self.on_ask(event),
            _ => {}
        }
    }

    /// A peer told who it is: its addresses go into the DHTs that it serves and they belong to.
    fn identified(&mut self, peer: PeerId, connection: ConnectionId, info: identify::Info) {
        let Some(k) = self.known.get_mut(&peer) else { return };
        let seen_at = k.connections.get(&connection).cloned();
        let remote = seen_at.as_ref().and_then(scope_of);
        let mut addrs: Vec<Multiaddr> = info
            .listen_addrs
            .into_iter()
            .filter(|a| {
                let scope = scope_of(a);
                scope.is_some() && (scope != Some(Scope::Loopback) || remote == scope)
            })
            .take(MAX_ADDRS)
            .collect();
        addrs.dedup();
        let has = |p: &str| info.protocols.iter().any(|q| q.as_ref() == p);
        // What we do not speak ourselves is as good as not spoken.
        let ours = self.swarm.behaviour().exchange.is_enabled();
        let exchange = ours && has(exchange::PROTOCOL.as_ref());
        let bitswap = bitswap::PROTOCOLS.iter().any(|(p, _)| has(p.as_ref()));
        let (wan, lan) = (has(WAN_KAD.as_ref()), has(LAN_KAD.as_ref()));
        // Dunlin's own exchange opens its streams whenever it likes.
        let near = matches!(remote, Some(Scope::Loopback | Scope::Lan));
        let late = !exchange && k.bitswap.is_late(bitswap, near, k.connections.len(), Instant::now());
        k.addrs.clone_from(&addrs);
        k.agent = info.agent_version.chars().filter(|c| !c.is_control()).take(128).collect();
        k.protocols = info.protocols.iter().take(64).map(ToString::to_string).collect();
        // A public node may serve a local network too, but not ours.
        self.serves(peer, &addrs, seen_at.as_ref(), |n| match n {
            Network::Wan => Some(wan),
            Network::Lan if lan && remote == Some(Scope::Global) => None,
            Network::Lan => Some(lan),
        });
        self.bootstrap.reached(&peer);
        if let Some(seen_at) = seen_at.filter(|_| late) {
            self.will_meet_again(peer, &addrs, &seen_at);
        }
        self.tell(Event::Identified { peer, exchange, bitswap, addrs });
    }

    /// mDNS found peers: they enter the local DHT, and the node hears of them.
    fn discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let mut peers: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for (peer, addr) in found {
            let addrs = peers.entry(peer).or_default();
            if addrs.len() < MAX_ADDRS && scope_of(&addr).is_some_and(|s| s != Scope::Loopback) {
                addrs.push(split_peer(&addr).0);
            }
        }
        for (peer, addrs) in peers {
            if let Some(kad) = self.swarm.behaviour_mut().lan.as_mut() {
                for a in &addrs {
                    kad.inner.add_address(&peer, a.clone());
                }
            }
            self.tell(Event::LanPeer { peer, addrs });
        }
    }
}
