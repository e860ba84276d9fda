//! Who is asked what, of all peers: connections found or made, and what is under way on them.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::handler::{Done, Handler};
use super::upgrade::Job;
use crate::net::dial;
use crate::wire::kad::Answer;

/// Dials of ours under way at a time; others wait for them.
const MAX_DIALING: usize = 32;
/// Jobs that wait for a connection to one peer.
const MAX_WAITING: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// A job is over. Every job that [`Behaviour::ask`] took has exactly one.
#[derive(Debug)]
pub struct Event {
    pub id: AskId,
    pub peer: PeerId,
    pub result: Result<Answer, String>,
}

#[derive(Debug, Default)]
struct Peer {
    connections: Vec<ConnectionId>,
    /// Until there is a connection.
    waiting: Vec<(AskId, Job)>,
    addrs: Vec<Multiaddr>,
    dialing: bool,
    running: Vec<(AskId, ConnectionId)>,
}

#[derive(Debug, Default)]
pub struct Behaviour {
    peers: HashMap<PeerId, Peer>,
    next: u64,
    dialing: usize,
    to_dial: VecDeque<PeerId>,
    actions: VecDeque<ToSwarm<Event, (AskId, Job)>>,
}

impl Behaviour {
    /// Asks a peer, dialling one of `addrs` if there is no connection.
    pub fn ask(&mut self, peer: PeerId, addrs: &[Multiaddr], job: Job) -> AskId {
        let id = AskId(self.next);
        self.next += 1;
        let p = self.peers.entry(peer).or_default();
        if let Some(&connection) = p.connections.first() {
            p.running.push((id, connection));
            self.actions.push_back(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler: NotifyHandler::One(connection),
                event: (id, job),
            });
            return id;
        }
        if p.waiting.len() >= MAX_WAITING {
            self.over(id, peer, Err("too much to ask this peer".into()));
            return id;
        }
        p.waiting.push((id, job));
        p.addrs.extend(addrs.iter().filter(|a| !p.addrs.contains(a)).cloned().collect::<Vec<_>>());
        if p.waiting.len() == 1 && !p.dialing {
            self.to_dial.push_back(peer);
            self.dial_more();
        }
        id
    }

    fn over(&mut self, id: AskId, peer: PeerId, result: Result<Answer, String>) {
        self.actions.push_back(ToSwarm::GenerateEvent(Event { id, peer, result }));
    }

    fn dial_more(&mut self) {
        while self.dialing < MAX_DIALING {
            let Some(peer) = self.to_dial.pop_front() else { return };
            let Some(p) = self.peers.get_mut(&peer).filter(|p| !p.waiting.is_empty() && !p.dialing) else {
                continue;
            };
            p.dialing = true;
            self.dialing += 1;
            let opts = dial::options(peer, p.addrs.clone());
            self.actions.push_back(ToSwarm::Dial { opts });
        }
    }

    fn dialed(&mut self, peer: PeerId) {
        if let Some(p) = self.peers.get_mut(&peer)
            && std::mem::take(&mut p.dialing)
        {
            self.dialing -= 1;
        }
    }

    fn connected(&mut self, e: ConnectionEstablished<'_>) {
        self.dialed(e.peer_id);
        let p = self.peers.entry(e.peer_id).or_default();
        p.connections.push(e.connection_id);
        for (id, job) in std::mem::take(&mut p.waiting) {
            p.running.push((id, e.connection_id));
            self.actions.push_back(ToSwarm::NotifyHandler {
                peer_id: e.peer_id,
                handler: NotifyHandler::One(e.connection_id),
                event: (id, job),
            });
        }
        self.dial_more();
    }

    fn disconnected(&mut self, e: ConnectionClosed<'_>) {
        let Some(p) = self.peers.get_mut(&e.peer_id) else { return };
        p.connections.retain(|c| *c != e.connection_id);
        let lost: Vec<AskId> =
            p.running.iter().filter(|(_, c)| *c == e.connection_id).map(|(id, _)| *id).collect();
        p.running.retain(|(_, c)| *c != e.connection_id);
        for id in lost {
            self.over(id, e.peer_id, Err("the connection is gone".into()));
        }
        self.forget(e.peer_id);
    }

    fn dial_failed(&mut self, e: DialFailure<'_>) {
        let Some(peer) = e.peer_id else { return };
        // Somebody else dials it already, or it is connected: that will have its own end.
        if matches!(e.error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        self.dialed(peer);
        if let Some(p) = self.peers.get_mut(&peer).filter(|p| p.connections.is_empty()) {
            p.addrs.clear();
            for (id, _) in std::mem::take(&mut p.waiting) {
                self.over(id, peer, Err(dial::reason(e.error)));
            }
            self.forget(peer);
        }
        self.dial_more();
    }

    fn forget(&mut self, peer: PeerId) {
        let idle = |p: &Peer| p.connections.is_empty() && p.waiting.is_empty() && !p.dialing;
        if self.peers.get(&peer).is_some_and(idle) {
            self.peers.remove(&peer);
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(e) => self.connected(e),
            FromSwarm::ConnectionClosed(e) => self.disconnected(e),
            FromSwarm::DialFailure(e) => self.dial_failed(e),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, Done { id, result }: Done) {
        if let Some(p) = self.peers.get_mut(&peer) {
            let before = p.running.len();
            p.running.retain(|(r, _)| *r != id);
            if p.running.len() < before {
                self.over(id, peer, result);
            }
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, (AskId, Job)>> {
        match self.actions.pop_front() {
            Some(action) => Poll::Ready(action),
            None => Poll::Pending,
        }
    }
}
