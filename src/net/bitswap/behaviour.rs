//! Which peers there is a link with, and on which connection its stream is opened.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use super::handler::{FromHandler, Handler, Open, Opened};
use super::link::{self, FromLink, Start};
use super::{Link, Shared};
use crate::net::api::Inbound;
use crate::net::pool::BufPool;

/// Messages that wait to be written. A peer that lets so many wait does not read.
const CONTROL_QUEUE: usize = 512;
/// Blocks that wait to be written: more than the engine has under way.
const BLOCK_QUEUE: usize = 512;
/// Streams of one peer that wait for a task to read them; more are dropped.
const STREAM_QUEUE: usize = 64;
/// Entries of peers that never got connected are swept out when there are this many more of them.
const SWEEP: usize = 256;

#[derive(Debug)]
pub enum Event {
    /// Tell the node, then send on `announced`.
    Up {
        peer: PeerId,
        link: Link,
        announced: oneshot::Sender<()>,
    },
    Down {
        peer: PeerId,
        link: u64,
        why: String,
    },
}

#[derive(Debug, Default)]
struct Peer {
    shared: Arc<Shared>,
    /// Whether each connection is over TCP.
    connections: Vec<(ConnectionId, bool)>,
    link: Option<State>,
}

#[derive(Debug)]
struct State {
    id: u64,
    theirs: mpsc::Sender<Opened>,
    ours: mpsc::Sender<Result<Opened, String>>,
    /// The connection that our stream was asked for on, while it is awaited.
    opening: Option<ConnectionId>,
}

type Action = ToSwarm<Event, Open>;

pub struct Behaviour {
    inbound: mpsc::Sender<Inbound>,
    pool: BufPool,
    peers: HashMap<PeerId, Peer>,
    sweep_at: usize,
    next_link: u64,
    actions: VecDeque<Action>,
    links: (mpsc::Sender<FromLink>, mpsc::Receiver<FromLink>),
}

impl Behaviour {
    pub fn new(inbound: mpsc::Sender<Inbound>, pool: BufPool) -> Behaviour {
        Behaviour {
            inbound,
            pool,
            peers: HashMap::new(),
            sweep_at: SWEEP,
            next_link: 1,
            actions: VecDeque::new(),
            links: mpsc::channel(64),
        }
    }

    /// Whether there is a link with this peer.
    pub fn is_linked(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|p| p.link.is_some())
    }

    /// Makes a link with a connected peer; nothing happens if there is one.
    pub fn open(&mut self, peer: PeerId) {
        if self.peers.get(&peer).is_some_and(|p| p.link.is_none() && !p.connections.is_empty()) {
            self.begin(peer);
        }
    }

    fn begin(&mut self, peer: PeerId) {
        let id = self.next_link;
        self.next_link += 1;
        let (control_tx, control) = mpsc::channel(CONTROL_QUEUE);
        let (blocks_tx, blocks) = mpsc::channel(BLOCK_QUEUE);
        let (theirs_tx, theirs) = mpsc::channel(STREAM_QUEUE);
        let (ours_tx, ours) = mpsc::channel(1);
        let (announced, announced_rx) = oneshot::channel();
        let p = self.peers.entry(peer).or_default();
        let shared = p.shared.clone();
        p.link = Some(State { id, theirs: theirs_tx, ours: ours_tx, opening: None });
        tokio::spawn(link::run(Start {
            context: link::Context {
                peer,
                link: id,
                inbound: self.inbound.clone(),
                pool: self.pool.clone(),
                shared: shared.clone(),
            },
            control,
            blocks,
            theirs,
            ours,
            announced: announced_rx,
            behaviour: self.links.0.clone(),
        }));
        let link = Link { id, control: control_tx, blocks: blocks_tx, shared };
        self.actions.push_back(ToSwarm::GenerateEvent(Event::Up { peer, link, announced }));
    }

    /// The link has something to say and no stream.
    fn need(&mut self, peer: PeerId, link: u64) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let Some(state) = p.link.as_mut().filter(|s| s.id == link && s.opening.is_none()) else { return };
        // TCP moves bulk faster; among equals the oldest.
        let best = p.connections.iter().find(|(_, tcp)| *tcp).or(p.connections.first());
        match best {
            Some(&(connection, _)) => {
                state.opening = Some(connection);
                self.actions.push_back(ToSwarm::NotifyHandler {
                    peer_id: peer,
                    handler: NotifyHandler::One(connection),
                    event: Open,
                });
            }
            None => drop(state.ours.try_send(Err("the connection is gone".into()))),
        }
    }

    fn ended(&mut self, peer: PeerId, link: u64, why: String) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        if p.link.take_if(|s| s.id == link).is_none() {
            return;
        }
        p.shared.keep.store(false, Ordering::Relaxed);
        self.actions.push_back(ToSwarm::GenerateEvent(Event::Down { peer, link, why }));
        self.forget(peer);
    }

    fn connected(&mut self, e: ConnectionEstablished<'_>) {
        let tcp = e.endpoint.get_remote_address().iter().any(|p| matches!(p, Protocol::Tcp(_)));
        self.peers.entry(e.peer_id).or_default().connections.push((e.connection_id, tcp));
    }

    fn disconnected(&mut self, e: ConnectionClosed<'_>) {
        let Some(p) = self.peers.get_mut(&e.peer_id) else { return };
        p.connections.retain(|(c, _)| *c != e.connection_id);
        if p.connections.is_empty() {
            // Its tasks end with their channels, and say so.
            if let Some(State { id, .. }) = p.link.take() {
                let why = "the connection is gone".into();
                self.actions.push_back(ToSwarm::GenerateEvent(Event::Down {
                    peer: e.peer_id,
                    link: id,
                    why,
                }));
            }
        } else if let Some(state) = p.link.as_mut().filter(|s| s.opening == Some(e.connection_id)) {
            state.opening = None;
            let _ = state.ours.try_send(Err("the connection is gone".into())); // one is awaited
        }
        self.forget(e.peer_id);
    }

    fn forget(&mut self, peer: PeerId) {
        let idle = |p: &Peer| p.connections.is_empty() && p.link.is_none();
        if self.peers.get(&peer).is_some_and(idle) {
            self.peers.remove(&peer);
        }
    }

    fn handler(&mut self, peer: PeerId) -> Handler {
        if self.peers.len() >= self.sweep_at {
            // A connection that was refused after this has left an entry that only its handler knew of.
            self.peers.retain(|_, p| {
                !p.connections.is_empty() || p.link.is_some() || Arc::strong_count(&p.shared) > 1
            });
            self.sweep_at = self.peers.len() + SWEEP;
        }
        Handler::new(self.peers.entry(peer).or_default().shared.clone())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(e) => self.connected(e),
            FromSwarm::ConnectionClosed(e) => self.disconnected(e),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: FromHandler) {
        match event {
            FromHandler::Theirs(opened) => {
                if !self.is_linked(&peer) {
                    self.begin(peer);
                }
                let link = self.peers.get(&peer).and_then(|p| p.link.as_ref());
                // A stream that does not fit is dropped: the peer has more of them open than anybody needs.
                link.map(|state| state.theirs.try_send(opened).ok());
            }
            FromHandler::Ours(result) => {
                let link = self.peers.get_mut(&peer).and_then(|p| p.link.as_mut());
                if let Some(state) = link.filter(|s| s.opening == Some(connection)) {
                    state.opening = None;
                    let _ = state.ours.try_send(result); // the link may just have ended
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            match self.links.1.poll_recv(cx) {
                Poll::Ready(Some(FromLink::Need { peer, link })) => self.need(peer, link),
                Poll::Ready(Some(FromLink::Ended { peer, link, why })) => self.ended(peer, link, why),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
