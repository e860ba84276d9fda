//! Whether others reach us: AutoNAT v2, as client and as server, each within bounds of ours.
//!
//! The client tests an address once and for all, and takes as candidate whatever any peer says. Here a
//! candidate must be a public address with a port that we listen on (peers see the ports that our dials leave
//! by), there are few of them, and the verdicts are asked for anew now and then: one wrong or lying server
//! does not decide for ever. A new client knows no connection that was there before it, so events of those
//! are kept from it.
//!
//! The server dials nobody at an address that is not public.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::autonat::v2::{client, server};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::time::{Instant, Sleep};

use super::scope::{Scope, scope_of};

/// Candidates tested between two renewals.
const MAX_CANDIDATES: usize = 16;
/// Verdicts are asked for anew after this; sooner while there is none that is good.
const RENEW: Duration = Duration::from_secs(1_800);
const RENEW_BAD: Duration = Duration::from_secs(120);
/// An address that was confirmed and fails this many tests in a row is ours no more.
const MAX_FAILS: u32 = 3;
/// Dial-backs under way for others.
const MAX_DIAL_BACKS: usize = 32;

/// How often candidates are tested. A newcomer waits for it once.
const PROBE: Duration = Duration::from_secs(2);

fn new_client() -> client::Behaviour {
    client::Behaviour::new(rand::make_rng(), client::Config::default().with_probe_interval(PROBE))
}

pub struct Client {
    inner: client::Behaviour,
    /// Connections that the inner client knows.
    known: HashSet<ConnectionId>,
    /// Transport and port of what we listen on.
    ports: HashMap<Multiaddr, (bool, u16)>,
    candidates: BTreeSet<Multiaddr>,
    /// Confirmed addresses, and their failed tests in a row.
    confirmed: HashMap<Multiaddr, u32>,
    renew: Pin<Box<Sleep>>,
    expired: Vec<Multiaddr>,
}

/// Whether it is over UDP, and the port.
fn port_of(addr: &Multiaddr) -> Option<(bool, u16)> {
    addr.iter().find_map(|p| match p {
        Protocol::Tcp(port) => Some((false, port)),
        Protocol::Udp(port) => Some((true, port)),
        _ => None,
    })
}

fn is_relayed(addr: &Multiaddr) -> bool {
    addr.iter().any(|p| p == Protocol::P2pCircuit)
}

impl Client {
    pub fn new() -> Client {
        Client {
            inner: new_client(),
            known: HashSet::new(),
            ports: HashMap::new(),
            candidates: BTreeSet::new(),
            confirmed: HashMap::new(),
            renew: Box::pin(tokio::time::sleep(RENEW_BAD)),
            expired: Vec::new(),
        }
    }

    fn is_candidate(&self, addr: &Multiaddr) -> bool {
        let ours = port_of(addr).is_some_and(|p| self.ports.values().any(|q| *q == p));
        scope_of(addr) == Some(Scope::Global) && !is_relayed(addr) && ours
    }

    fn candidate(&mut self, addr: &Multiaddr) {
        let known = self.candidates.contains(addr);
        if self.is_candidate(addr) && (known || self.candidates.len() < MAX_CANDIDATES) {
            self.candidates.insert(addr.clone());
            let event = NewExternalAddrCandidate { addr };
            self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(event));
        }
    }

    /// There is an address that may be public, and none that was found to be.
    pub fn is_untested(&self) -> bool {
        self.confirmed.is_empty() && !self.candidates.is_empty()
    }

    /// All verdicts anew, from the connections that come from now on.
    pub fn renew(&mut self) {
        self.inner = new_client();
        self.known.clear();
        self.candidates.clear();
        let again: Vec<_> = self.confirmed.keys().chain(self.ports.keys()).cloned().collect();
        again.iter().for_each(|a| self.candidate(a));
        let wait = if self.confirmed.is_empty() { RENEW_BAD } else { RENEW };
        self.renew.as_mut().reset(Instant::now() + wait);
    }

    fn judged(&mut self, event: &client::Event) {
        let addr = &event.tested_addr;
        match &event.result {
            Ok(()) => {
                self.confirmed.insert(addr.clone(), 0);
            }
            Err(why) => {
                tracing::debug!("{} says that {addr} is not reached: {why}", event.server);
                if let Some(fails) = self.confirmed.get_mut(addr) {
                    *fails += 1;
                    if *fails >= MAX_FAILS {
                        self.confirmed.remove(addr);
                        self.expired.push(addr.clone());
                    } else {
                        // Asked again soon, of somebody else.
                        self.renew.as_mut().reset(Instant::now() + RENEW_BAD);
                    }
                }
            }
        }
    }
}

impl NetworkBehaviour for Client {
    type ConnectionHandler = <client::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = client::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::NewExternalAddrCandidate(e) => return self.candidate(e.addr),
            FromSwarm::NewListenAddr(e) => {
                if let Some(port) = port_of(e.addr) {
                    self.ports.insert(e.addr.clone(), port);
                    self.candidate(e.addr);
                }
            }
            FromSwarm::ExpiredListenAddr(e) => {
                self.ports.remove(e.addr);
                // The network has changed: who knows what else has.
                self.renew.as_mut().reset(Instant::now() + PROBE);
                if self.confirmed.remove(e.addr).is_some() {
                    self.expired.push(e.addr.clone());
                }
            }
            FromSwarm::ConnectionEstablished(e) => drop(self.known.insert(e.connection_id)),
            FromSwarm::ConnectionClosed(e) if !self.known.remove(&e.connection_id) => return,
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        if self.known.contains(&id) {
            self.inner.on_connection_handler_event(peer, id, event);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(addr) = self.expired.pop() {
            return Poll::Ready(ToSwarm::ExternalAddrExpired(addr));
        }
        if self.renew.as_mut().poll(cx).is_ready() {
            self.renew();
            let _ = self.renew.as_mut().poll(cx); // to be woken; it has just been set
        }
        let polled = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::GenerateEvent(event)) = &polled {
            self.judged(event);
        }
        polled
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a dial-back to an address that is not public")]
struct NotPublic;

pub struct Server {
    inner: server::Behaviour,
    dials: HashSet<ConnectionId>,
}

impl Server {
    pub fn new() -> Server {
        Server { inner: server::Behaviour::default(), dials: HashSet::new() }
    }
}

impl NetworkBehaviour for Server {
    type ConnectionHandler = <server::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = server::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let public = |a: &Multiaddr| scope_of(a) == Some(Scope::Global) && !is_relayed(a);
        if self.dials.contains(&id) && !(addresses.iter().all(public) && self.dials.len() <= MAX_DIAL_BACKS) {
            return Err(ConnectionDenied::new(NotPublic));
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::DialFailure(e) => drop(self.dials.remove(&e.connection_id)),
            FromSwarm::ConnectionEstablished(e) => drop(self.dials.remove(&e.connection_id)),
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let polled = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::Dial { opts }) = &polled {
            self.dials.insert(opts.connection_id());
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::transport::ListenerId;
    use libp2p::swarm::behaviour::NewListenAddr;

    use super::*;

    #[tokio::test]
    async fn candidates_are_public_few_and_have_our_port() {
        let mut c = Client::new();
        let listen: Multiaddr = "/ip4/0.0.0.0/tcp/4201".parse().unwrap();
        let listener_id = ListenerId::next();
        c.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr: &listen }));
        let mut say = |a: &str| c.candidate(&a.parse().unwrap());
        say("/ip4/1.2.3.4/tcp/55555"); // the port that a dial left by
        say("/ip4/10.0.0.1/tcp/4201");
        say("/ip4/1.2.3.4/udp/4201/quic-v1");
        say("/ip4/1.2.3.4/tcp/1/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8/p2p-circuit");
        assert!(c.candidates.is_empty() && !c.is_untested());
        for n in 0..99 {
            c.candidate(&format!("/ip4/1.2.3.{n}/tcp/4201").parse().unwrap());
        }
        assert_eq!(c.candidates.len(), MAX_CANDIDATES);
        assert!(c.is_untested());
        c.confirmed.insert("/ip4/1.2.3.1/tcp/4201".parse().unwrap(), 0);
        assert!(!c.is_untested());
    }

    #[test]
    fn nobody_is_dialled_back_at_a_private_address() {
        let mut s = Server::new();
        let id = ConnectionId::new_unchecked(7);
        let dial = |s: &mut Server, a: &str| {
            let addr: Multiaddr = a.parse().unwrap();
            s.handle_pending_outbound_connection(id, None, &[addr], Endpoint::Dialer).is_ok()
        };
        assert!(dial(&mut s, "/ip4/10.0.0.1/tcp/22"), "not a dial of its");
        s.dials.insert(id);
        assert!(dial(&mut s, "/ip4/1.2.3.4/tcp/22"));
        for a in [
            "/ip4/10.0.0.1/tcp/22",
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            "/dns/nas.local/tcp/1",
        ] {
            assert!(!dial(&mut s, a), "{a}");
        }
    }
}
