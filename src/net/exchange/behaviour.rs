//! Which streams make a link, of all peers.
//!
//! A link's two pairs need not share a connection: the requester opens its pair on one and stays with
//! it, and so does the other side. A pair says in its `Hello` which link it answers, so that an answer to
//! a link that has gone cannot be taken for a new one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};

use super::handler::{FromHandler, Handler, ToHandler};
use super::io;
use super::link::{self, Ended, Pair, Start};
use super::upgrade::Opened;
use super::uplink::Uplink;
use crate::net::api::{Inbound, Link};
use crate::net::pool::BufPool;
use crate::net::transport::Paced;
use crate::wire::exchange::{Hello, RECEIPTS, StreamKind};

/// The second stream of a pair must follow the first within this; a second pair must see the link that
/// it replaces end within [`REPLACE`].
const HALF_OPEN: Duration = Duration::from_secs(10);
const REPLACE: Duration = Duration::from_secs(2);
/// Streams of a peer that wait for their other half.
const MAX_HALVES: usize = 4;
/// Control messages that wait to be written. A peer that lets so many wait does not read.
const CONTROL_QUEUE: usize = 512;
/// Answers that wait to be written: room for a refusal of everything that may be asked for at once.
/// The node bounds how many of them carry a body.
const DATA_QUEUE: usize = 512;

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
        why: String,
    },
}

#[derive(Debug, Default)]
struct Peer {
    /// Whether each connection is over TCP.
    connections: Vec<(ConnectionId, bool)>,
    link: Option<State>,
    halves: Vec<(ConnectionId, Opened)>,
    /// A pair that came while the link before it had not ended here.
    waiting: Option<(Pair, u64)>,
}

#[derive(Debug)]
struct State {
    id: u64,
    connection: ConnectionId,
    ours: Ours,
    /// Where the peer's pair goes; `None` once it has come.
    pair: Option<oneshot::Sender<Pair>>,
}

#[derive(Debug)]
enum Ours {
    Opening(Box<Opening>),
    Running,
}

/// Our pair, asked for, perhaps one of them here; and where the link will find the peer's.
#[derive(Debug)]
struct Opening {
    control: Option<Stream>,
    data: Option<Stream>,
    pair: oneshot::Receiver<Pair>,
}

/// Something that must have happened by its time.
#[derive(Debug)]
enum Due {
    Half { peer: PeerId, connection: ConnectionId, link: u64 },
    Replaced { peer: PeerId, link: u64 },
}

type Action = ToSwarm<Event, ToHandler>;

pub struct Behaviour {
    inbound: mpsc::Sender<Inbound>,
    pool: BufPool,
    uplink: Arc<Mutex<Uplink>>,
    peers: HashMap<PeerId, Peer>,
    next_link: u64,
    next_due: u64,
    due: BTreeMap<(Instant, u64), Due>,
    sleep: Option<Pin<Box<Sleep>>>,
    actions: VecDeque<Action>,
    ended: (mpsc::Sender<Ended>, mpsc::Receiver<Ended>),
}

impl Behaviour {
    pub fn new(inbound: mpsc::Sender<Inbound>, pool: BufPool, paced: Paced) -> Behaviour {
        Behaviour {
            inbound,
            pool,
            uplink: Arc::new(Mutex::new(Uplink::new(std::time::Instant::now(), paced))),
            peers: HashMap::new(),
            next_link: 1,
            next_due: 0,
            due: BTreeMap::new(),
            sleep: None,
            actions: VecDeque::new(),
            ended: mpsc::channel(64),
        }
    }

    /// Whether there is a link with this peer, or one on its way.
    pub fn is_linked(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|p| p.link.is_some())
    }

    /// Opens a link with a connected peer; nothing happens if there is one.
    pub fn open(&mut self, peer: PeerId) {
        let Some(p) = self.peers.get(&peer) else {
            let why = "not connected".into();
            return self.actions.push_back(ToSwarm::GenerateEvent(Event::Down { peer, why }));
        };
        if p.link.is_some() {
            return;
        }
        // TCP moves bulk faster; among equals the oldest. A known peer has a connection.
        let best = p.connections.iter().find(|(_, tcp)| *tcp).or(p.connections.first());
        if let Some(&(connection, _)) = best {
            self.ask(peer, connection, 0);
        }
    }

    /// Asks for our pair on `connection`; `answers` is the peer's link that it is for, or 0.
    fn ask(&mut self, peer: PeerId, connection: ConnectionId, answers: u64) {
        let id = self.next_link;
        self.next_link += 1;
        for stream in [StreamKind::Control, StreamKind::Data] {
            let hello = Hello { stream, features: RECEIPTS, link: id, answers };
            self.actions.push_back(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler: NotifyHandler::One(connection),
                event: ToHandler::Open(hello),
            });
        }
        let (tx, rx) = oneshot::channel();
        let ours = Ours::Opening(Box::new(Opening { control: None, data: None, pair: rx }));
        self.peers.entry(peer).or_default().link = Some(State { id, connection, ours, pair: Some(tx) });
    }

    /// One of our streams is there; with the second the link begins.
    fn opened(&mut self, peer: PeerId, hello: Hello, stream: Stream) {
        let Some(state) = self.peers.get_mut(&peer).and_then(|p| p.link.as_mut()) else { return };
        if state.id != hello.link {
            return;
        }
        let Ours::Opening(opening) = &mut state.ours else { return };
        match hello.stream {
            StreamKind::Control => opening.control = Some(stream),
            StreamKind::Data => opening.data = Some(stream),
        }
        if opening.control.is_none() || opening.data.is_none() {
            return;
        }
        if let Ours::Opening(opening) = std::mem::replace(&mut state.ours, Ours::Running)
            && let Opening { control: Some(control), data: Some(data), pair } = *opening
        {
            let id = state.id;
            self.begin(peer, id, control, data, pair);
        }
    }

    fn begin(&mut self, peer: PeerId, id: u64, control: Stream, data: Stream, pair: oneshot::Receiver<Pair>) {
        let (control_tx, control_rx) = mpsc::channel(CONTROL_QUEUE);
        let (data_tx, data_rx) = mpsc::channel(DATA_QUEUE);
        let (announced, announced_rx) = oneshot::channel();
        let context = io::Context {
            peer,
            link: id,
            inbound: self.inbound.clone(),
            pool: self.pool.clone(),
            uplink: Arc::clone(&self.uplink),
            control: control_tx.downgrade(),
        };
        tokio::spawn(link::run(Start {
            context,
            control: (control, control_rx),
            data: (data, data_rx),
            pair,
            announced: announced_rx,
            ended: self.ended.0.clone(),
        }));
        let link = Link { id, control: control_tx, data: data_tx };
        self.actions.push_back(ToSwarm::GenerateEvent(Event::Up { peer, link, announced }));
    }

    /// A stream of the peer's said hello.
    fn half(&mut self, peer: PeerId, connection: ConnectionId, opened: Opened) {
        let p = self.peers.entry(peer).or_default();
        let link = opened.hello.link;
        let other = p.halves.iter().position(|(c, o)| *c == connection && o.hello.link == link);
        match other {
            None if p.halves.len() >= MAX_HALVES => {
                self.violation(peer, "too many streams that are not a pair");
            }
            None => {
                p.halves.push((connection, opened));
                self.by(HALF_OPEN, Due::Half { peer, connection, link });
            }
            Some(at) => {
                let (_, first) = p.halves.swap_remove(at);
                let answers = (first.hello.answers, opened.hello.answers);
                let pair = match (first.hello.stream, opened.hello.stream) {
                    (StreamKind::Control, StreamKind::Data) => Pair { control: first, data: opened },
                    (StreamKind::Data, StreamKind::Control) => Pair { control: opened, data: first },
                    _ => return self.violation(peer, "two streams of one kind"),
                };
                if answers.0 != answers.1 {
                    return self.violation(peer, "two streams of different links");
                }
                self.paired(peer, connection, pair);
            }
        }
    }

    /// The peer's pair is whole: it begins a link, answers ours, or has come too late.
    fn paired(&mut self, peer: PeerId, connection: ConnectionId, pair: Pair) {
        let answers = pair.control.hello.answers;
        let p = self.peers.entry(peer).or_default();
        match &mut p.link {
            None if answers == 0 => {
                let link = pair.control.hello.link;
                self.ask(peer, connection, link);
                self.give(peer, pair);
            }
            None => {}
            Some(state) if answers != 0 && answers != state.id => {}
            Some(state) if state.pair.is_some() => self.give(peer, pair),
            Some(_) if answers != 0 => self.violation(peer, "a second answer to one link"),
            Some(_) if p.waiting.is_some() => self.violation(peer, "a third pair of streams"),
            Some(state) => {
                // It may have ended there already; give it the time to end here.
                let link = state.id;
                p.waiting = Some((pair, link));
                self.by(REPLACE, Due::Replaced { peer, link });
            }
        }
    }

    fn give(&mut self, peer: PeerId, pair: Pair) {
        let state = self.peers.get_mut(&peer).and_then(|p| p.link.as_mut());
        if let Some(to) = state.and_then(|s| s.pair.take()) {
            let _ = to.send(pair); // the link may just have ended
        }
    }

    fn over(&mut self, peer: PeerId, id: u64, why: String) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        if p.link.as_ref().is_none_or(|s| s.id != id) {
            return;
        }
        p.link = None;
        let waiting = p.waiting.take();
        let connection = p.connections.first().map(|c| c.0);
        self.actions.push_back(ToSwarm::GenerateEvent(Event::Down { peer, why }));
        if let (Some((pair, _)), Some(connection)) = (waiting, connection) {
            self.paired(peer, connection, pair);
        }
        self.forget(peer);
    }

    /// The peer broke the rules outside of a link's tasks: its link, if any, ends.
    fn violation(&mut self, peer: PeerId, what: &str) {
        let p = self.peers.entry(peer).or_default();
        p.halves.clear();
        p.waiting = None;
        let link = p.link.as_ref().map_or(0, |s| s.id);
        let (inbound, what) = (self.inbound.clone(), what.to_owned());
        tokio::spawn(async move {
            // The node may be gone; then nobody wants to know.
            let _ = inbound.send(Inbound::Violation { peer, link, what }).await;
        });
        self.actions.push_back(ToSwarm::CloseConnection {
            peer_id: peer,
            connection: libp2p::swarm::CloseConnection::All,
        });
    }

    fn by(&mut self, after: Duration, due: Due) {
        self.due.insert((Instant::now() + after, self.next_due), due);
        self.next_due += 1;
        self.sleep = None;
    }

    fn overdue(&mut self, due: Due) {
        match due {
            Due::Half { peer, connection, link } => {
                if let Some(p) = self.peers.get_mut(&peer) {
                    p.halves.retain(|(c, o)| *c != connection || o.hello.link != link);
                }
            }
            Due::Replaced { peer, link } => {
                let waiting = self.peers.get(&peer).and_then(|p| p.waiting.as_ref());
                if waiting.is_some_and(|(_, old)| *old == link) {
                    self.violation(peer, "a second pair of streams");
                }
            }
        }
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) {
        while let Some((&(at, _), _)) = self.due.first_key_value() {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            self.sleep = None;
            if let Some((_, due)) = self.due.pop_first() {
                self.overdue(due);
            }
        }
    }

    fn connected(&mut self, e: ConnectionEstablished<'_>) {
        let tcp = e.endpoint.get_remote_address().iter().any(|p| matches!(p, Protocol::Tcp(_)));
        self.peers.entry(e.peer_id).or_default().connections.push((e.connection_id, tcp));
    }

    fn disconnected(&mut self, e: ConnectionClosed<'_>) {
        let Some(p) = self.peers.get_mut(&e.peer_id) else { return };
        p.connections.retain(|(c, _)| *c != e.connection_id);
        p.halves.retain(|(c, _)| *c != e.connection_id);
        let opening =
            p.link.as_ref().filter(|s| s.connection == e.connection_id && matches!(s.ours, Ours::Opening(_)));
        if let Some(id) = opening.map(|s| s.id) {
            self.over(e.peer_id, id, "the connection is gone".into());
        }
        self.forget(e.peer_id);
    }

    fn forget(&mut self, peer: PeerId) {
        let idle = |p: &Peer| p.connections.is_empty() && p.link.is_none();
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
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: FromHandler) {
        match event {
            FromHandler::Ours { hello, stream } => self.opened(peer, hello, stream),
            FromHandler::Theirs(opened) => self.half(peer, connection, *opened),
            FromHandler::Failed { hello, why } => self.over(peer, hello.link, why),
            FromHandler::Violation { what } => self.violation(peer, &what),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            if let Poll::Ready(Some(Ended { peer, link, why })) = self.ended.1.poll_recv(cx) {
                self.over(peer, link, why);
                continue;
            }
            self.poll_due(cx);
            if self.actions.is_empty() {
                return Poll::Pending;
            }
        }
    }
}
