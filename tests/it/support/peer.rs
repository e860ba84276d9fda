//! A peer of the test's own that speaks the exchange by hand, as well or as badly as it is told to.
//!
//! It runs a libp2p node on a thread of the test process and answers for one [`Dag`]. What it answers is
//! bytes that [`Manners`] make, so nothing keeps it from saying what no program would.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dunlin::bitfield::Bitfield;
use dunlin::net::exchange::PROTOCOL;
use dunlin::units::ChunkIndex;
use dunlin::wire::exchange::{Hello, MAX_JOINED_NODES_LEN, Message, StreamKind};
use dunlin::wire::frame::FrameBuf;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, Swarm, SwarmBuilder, identify, noise, ping, tcp, yamux};
use tokio::sync::{mpsc, oneshot};

use super::dag::Dag;
use super::home::LONG;
use super::raw::{Opened, Raw};

/// Something to be written.
#[derive(Clone, Debug)]
pub enum Say {
    Control(Vec<u8>),
    Data(Vec<u8>),
    /// On the data stream, a byte at a time with this pause between, until the other side has enough.
    Trickle(Vec<u8>, Duration),
}

type OnJoin = dyn Fn(&Dag) -> Vec<Say> + Send + Sync;
type OnChunk = dyn Fn(&Dag, u32) -> Vec<Say> + Send + Sync;

/// How it answers.
pub struct Manners {
    /// To `Join`.
    pub joined: Box<OnJoin>,
    /// To each chunk asked for.
    pub chunk: Box<OnChunk>,
}

impl Manners {
    pub fn honest() -> Manners {
        Manners::on_chunk(honest_chunk)
    }

    /// Honest but for chunks.
    pub fn on_chunk(chunk: impl Fn(&Dag, u32) -> Vec<Say> + Send + Sync + 'static) -> Manners {
        Manners { joined: Box::new(honest_joined), chunk: Box::new(chunk) }
    }

    /// Honest but for what it says right after `Joined`.
    pub fn after_joined(say: Vec<Say>) -> Manners {
        let joined = move |dag: &Dag| honest_joined(dag).into_iter().chain(say.iter().cloned()).collect();
        Manners { joined: Box::new(joined), chunk: Box::new(honest_chunk) }
    }
}

pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out).unwrap();
    out
}

/// All chunks that the DAG has are held (of a skeleton none), nobody is choked, the nodes as far as they fit.
pub fn honest_joined(dag: &Dag) -> Vec<Say> {
    vec![joined_and_sends(dag, None)]
}

/// The same, and that it sends this chunk now.
pub fn joined_and_sends(dag: &Dag, first: Option<u32>) -> Say {
    let mut left = MAX_JOINED_NODES_LEN;
    let fits = |(_, node): &&(_, Bytes)| {
        let fits = node.len() <= left;
        left -= if fits { node.len() } else { left };
        fits
    };
    let nodes = dag.nodes.iter().take(64).take_while(fits).cloned().collect();
    Say::Control(encode(&Message::Joined {
        root: dag.root,
        have: Bitfield::full(dag.chunks.len() as u32),
        complete: !dag.chunks.is_empty(),
        interested: false,
        choked: false,
        nodes,
        peers: Vec::new(),
        first: first.and_then(ChunkIndex::new),
    }))
}

pub fn honest_chunk(dag: &Dag, index: u32) -> Vec<Say> {
    vec![Say::Data(chunk_bytes(dag, index, &dag.chunks[index as usize]))]
}

/// The chunk with a wrong bit.
pub fn wrong_chunk(dag: &Dag, index: u32) -> Vec<Say> {
    let mut body = dag.chunks[index as usize].to_vec();
    body[0] ^= 1;
    vec![Say::Data(chunk_bytes(dag, index, &body))]
}

/// A `Chunk` with whatever bytes behind it.
pub fn chunk_bytes(dag: &Dag, index: u32, body: &[u8]) -> Vec<u8> {
    let index = ChunkIndex::new(index).unwrap();
    let mut out = encode(&Message::Chunk { root: dag.root, index, block_lens: vec![body.len() as u32] });
    out.extend_from_slice(body);
    out
}

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub connected: u32,
    pub disconnected: u32,
    pub joins: u32,
    /// Chunks asked for, in order.
    pub asked: Vec<u32>,
    /// Links that the other side has ended.
    pub links_ended: u32,
    /// Answers to a join, and the IDs that an attacker was told of, by these and otherwise.
    pub answers: u32,
    pub told: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Seen {
    facts: Mutex<Facts>,
    changed: Condvar,
}

impl Seen {
    fn note(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap());
        self.changed.notify_all();
    }
}

/// The running peer; it ends when dropped.
pub struct Peer {
    /// Its address, ending in /p2p/ID.
    pub addr: String,
    seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Serves `dag` to whoever comes.
    pub fn serve(dag: Arc<Dag>, manners: Manners) -> Peer {
        Peer::start(Role::Serve(Arc::new(Serving { dag, manners })))
    }

    /// Links up with the node at `addr`, says these bytes on the control and on the data stream, and waits
    /// for what becomes of it.
    pub fn attack(addr: &str, control: Vec<u8>, data: Vec<u8>) -> Peer {
        Peer::start(Role::Attack { addr: addr.parse().unwrap(), control, data })
    }

    fn start(role: Role) -> Peer {
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = oneshot::channel();
        let (listening, addr) = std::sync::mpsc::sync_channel(1);
        let for_task = seen.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = run(role, for_task, listening) => {}
                    _ = stopped => {}
                }
            });
        });
        let addr = addr.recv_timeout(LONG).expect("the test's own peer listens");
        Peer { addr, seen, stop: Some(stop), thread: Some(thread) }
    }

    pub fn facts(&self) -> Facts {
        self.seen.facts.lock().unwrap().clone()
    }

    /// Waits until something has happened.
    pub fn until(&self, what: &str, happened: impl Fn(&Facts) -> bool) -> Facts {
        let end = Instant::now() + LONG;
        let mut facts = self.seen.facts.lock().unwrap();
        while !happened(&facts) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the test's peer has not seen this: {what}; but {facts:?}");
            facts = self.seen.changed.wait_timeout(facts, left).unwrap().0;
        }
        facts.clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

enum Role {
    Serve(Arc<Serving>),
    Attack { addr: Multiaddr, control: Vec<u8>, data: Vec<u8> },
}

struct Serving {
    dag: Arc<Dag>,
    manners: Manners,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    raw: Raw,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

fn swarm() -> Swarm<Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| Behaviour {
            raw: Raw::new(PROTOCOL),
            identify: identify::Behaviour::new(identify::Config::new("/ipfs/0.1.0".into(), key.public())),
            ping: ping::Behaviour::default(),
        })
        .unwrap()
        .build()
}

/// A pair of streams that is not whole yet.
#[derive(Default)]
struct Half {
    control: Option<In>,
    data: Option<In>,
}

/// A stream to read messages from.
struct In {
    stream: Stream,
    buf: FrameBuf,
}

impl In {
    /// `None` when the stream is over, however that came.
    async fn next(&mut self) -> Option<Message> {
        let mut some = [0; 4_096];
        loop {
            if let Some(frame) = self.buf.next_frame().ok()? {
                return Some(Message::decode(frame).expect("dunlin speaks its own protocol"));
            }
            match self.stream.read(&mut some).await {
                Ok(n) if n > 0 => self.buf.extend(&some[..n]),
                _ => return None,
            }
        }
    }
}

/// One connection's streams on their way to become a link.
#[derive(Default)]
struct Linking {
    theirs: HashMap<u64, Half>,
    /// Whole pairs that wait for two streams of ours.
    ready: Vec<(u64, In, In)>,
    ours: Vec<Stream>,
}

type Greeted = (PeerId, ConnectionId, Hello, In);

async fn run(role: Role, seen: Arc<Seen>, listening: std::sync::mpsc::SyncSender<String>) {
    let mut swarm = swarm();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    if let Role::Attack { addr, .. } = &role {
        swarm.dial(addr.clone()).unwrap();
    }
    let (greet, mut greeted) = mpsc::channel::<Greeted>(64);
    let mut linking: HashMap<ConnectionId, Linking> = HashMap::new();
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => {
                    let _ = listening.send(format!("{address}/p2p/{}", swarm.local_peer_id()));
                }
                SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                    seen.note(|f| f.connected += 1);
                    if matches!(role, Role::Attack { .. }) {
                        open_pair(&mut swarm, peer_id, connection_id);
                    }
                }
                SwarmEvent::ConnectionClosed { connection_id, .. } => {
                    linking.remove(&connection_id);
                    seen.note(|f| f.disconnected += 1);
                }
                SwarmEvent::Behaviour(BehaviourEvent::Raw(Opened { peer, connection, ours, stream })) => {
                    if !ours {
                        tokio::spawn(hello(peer, connection, stream, greet.clone()));
                        continue;
                    }
                    let state = linking.entry(connection).or_default();
                    state.ours.push(stream);
                    begin(&role, &seen, state);
                }
                _ => {}
            },
            Some((peer, connection, hello, stream)) = greeted.recv() => {
                let state = linking.entry(connection).or_default();
                let half = state.theirs.entry(hello.link).or_default();
                match hello.stream {
                    StreamKind::Control => half.control = Some(stream),
                    StreamKind::Data => half.data = Some(stream),
                }
                if let Half { control: Some(_), data: Some(_) } = half
                    && let Some(Half { control: Some(control), data: Some(data) }) =
                        state.theirs.remove(&hello.link)
                {
                    if matches!(role, Role::Serve(_)) {
                        state.ready.push((hello.link, control, data));
                        open_pair(&mut swarm, peer, connection);
                    } else {
                        tokio::spawn(listen(control, data, seen.clone()));
                    }
                }
            }
        }
    }
}

fn open_pair(swarm: &mut Swarm<Behaviour>, peer: PeerId, connection: ConnectionId) {
    for _ in 0..2 {
        swarm.behaviour_mut().raw.open(peer, connection);
    }
}

async fn hello(peer: PeerId, connection: ConnectionId, stream: Stream, greet: mpsc::Sender<Greeted>) {
    let mut stream = In { stream, buf: FrameBuf::new() };
    if let Some(Message::Hello(hello)) = stream.next().await {
        let _ = greet.send((peer, connection, hello, stream)).await;
    }
}

/// What an attacker is told of others.
async fn listen(mut control: In, _data: In, seen: Arc<Seen>) {
    while let Some(message) = control.next().await {
        let (joined, peers) = match message {
            Message::Joined { peers, .. } => (true, peers),
            Message::Peers { added, .. } => (false, added),
            _ => continue,
        };
        seen.note(|f| {
            f.answers += u32::from(joined);
            f.told.extend(peers.into_iter().map(|p| p.id));
        });
    }
}

/// With two streams of ours there is somebody to talk to.
fn begin(role: &Role, seen: &Arc<Seen>, state: &mut Linking) {
    if state.ours.len() < 2 {
        return;
    }
    let (control, data) = (state.ours.remove(0), state.ours.remove(0));
    let seen = seen.clone();
    match role {
        Role::Serve(serving) => {
            let (link, control_in, data_in) = state.ready.remove(0);
            let talk = Talk { control, data, answers: link };
            tokio::spawn(serve(serving.clone(), talk, control_in, data_in, seen));
        }
        Role::Attack { control: c, data: d, .. } => {
            let talk = Talk { control, data, answers: 0 };
            tokio::spawn(attack(talk, c.clone(), d.clone(), seen));
        }
    }
}

/// Our side of a link.
struct Talk {
    control: Stream,
    data: Stream,
    answers: u64,
}

impl Talk {
    async fn hello(&mut self) -> std::io::Result<()> {
        for stream in [StreamKind::Control, StreamKind::Data] {
            let hello = Message::Hello(Hello { stream, features: 0, link: 7, answers: self.answers });
            let say = match stream {
                StreamKind::Control => Say::Control(encode(&hello)),
                StreamKind::Data => Say::Data(encode(&hello)),
            };
            self.say(say).await?;
        }
        Ok(())
    }

    async fn say(&mut self, say: Say) -> std::io::Result<()> {
        match say {
            Say::Control(bytes) => {
                self.control.write_all(&bytes).await?;
                self.control.flush().await
            }
            Say::Data(bytes) => {
                self.data.write_all(&bytes).await?;
                self.data.flush().await
            }
            Say::Trickle(bytes, pause) => {
                for byte in bytes {
                    self.data.write_all(&[byte]).await?;
                    self.data.flush().await?;
                    tokio::time::sleep(pause).await;
                }
                Ok(())
            }
        }
    }
}

async fn serve(serving: Arc<Serving>, mut talk: Talk, mut control_in: In, _data_in: In, seen: Arc<Seen>) {
    let Serving { dag, manners } = &*serving;
    let mut goes_on = talk.hello().await;
    while goes_on.is_ok()
        && let Some(message) = control_in.next().await
    {
        let says = match message {
            Message::Join { root, .. } if root == dag.root => {
                seen.note(|f| f.joins += 1);
                (manners.joined)(dag)
            }
            Message::Join { root, .. } => vec![Say::Control(encode(&Message::Unknown { root }))],
            Message::GetNodes { request, cids, .. } => {
                let node = |cid| dag.node(cid).map(|node| (*cid, node));
                let nodes: Vec<_> = cids.iter().filter_map(node).collect();
                let lacking = cids.iter().filter(|c| dag.node(c).is_none()).copied().collect();
                vec![Say::Control(encode(&Message::Nodes { request, nodes, lacking }))]
            }
            Message::GetChunks { indices, .. } => {
                seen.note(|f| f.asked.extend(indices.iter().map(|i| i.get())));
                indices.iter().flat_map(|i| (manners.chunk)(dag, i.get())).collect()
            }
            Message::GetPeers { request, root } => {
                let (added, dropped) = (Vec::new(), Vec::new());
                vec![Say::Control(encode(&Message::Peers { request, root, added, dropped }))]
            }
            _ => Vec::new(),
        };
        for say in says {
            goes_on = talk.say(say).await;
            if goes_on.is_err() {
                break;
            }
        }
    }
    seen.note(|f| f.links_ended += 1);
}

async fn attack(mut talk: Talk, control: Vec<u8>, data: Vec<u8>, seen: Arc<Seen>) {
    let said = async {
        talk.hello().await?;
        talk.say(Say::Control(control)).await?;
        talk.say(Say::Data(data)).await
    };
    if said.await.is_ok() {
        // Nothing comes back on streams of ours but their end.
        let (mut one, mut other) = ([0; 1], [0; 1]);
        tokio::select! {
            _ = talk.control.read(&mut one) => {}
            _ = talk.data.read(&mut other) => {}
        }
    }
    seen.note(|f| f.links_ended += 1);
}
