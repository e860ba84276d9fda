//! Peers of the test's own that speak Bitswap by hand: one that serves a [`Dag`] as well or as badly as it is
//! told to, and one that asks, or says what no program would.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dunlin::content::block::cid_of;
use dunlin::content::{Cid, RAW};
use dunlin::wire::bitswap::{Ask, Entry, MAX_MESSAGE, Message, Prefix, Version, read_len};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Stream, StreamProtocol, Swarm, SwarmBuilder, identify, noise, ping, tcp, yamux};
use tokio::sync::{mpsc, oneshot};

use super::dag::Dag;
use super::home::LONG;
use super::raw::{Opened, Raw};

pub const V1_2: &str = "/ipfs/bitswap/1.2.0";
pub const V1_1: &str = "/ipfs/bitswap/1.1.0";
pub const V1_0: &str = "/ipfs/bitswap/1.0.0";

fn version(protocol: &str) -> Version {
    match protocol {
        V1_2 => Version::V1_2,
        V1_1 => Version::V1_1,
        _ => Version::V1_0,
    }
}

/// All blocks of a DAG by name.
fn blocks(dag: &Dag) -> HashMap<Cid, Bytes> {
    let chunks = dag.chunks.iter().map(|c| (cid_of(false, RAW, c), c.clone()));
    dag.nodes.iter().cloned().chain(chunks).collect()
}

pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(Version::V1_2, &mut out).unwrap();
    out
}

/// A message with this block under the name that it has.
pub fn block(data: &[u8]) -> Vec<u8> {
    let prefix = Prefix::of(&cid_of(false, RAW, data));
    encode(&Message { blocks: vec![(prefix, Bytes::copy_from_slice(data))], ..Message::default() })
}

pub fn presence(cid: &Cid, have: bool) -> Vec<u8> {
    encode(&Message { presences: vec![(*cid, have)], ..Message::default() })
}

pub fn wants(cids: &[Cid], ask: Ask) -> Vec<u8> {
    let entry = |(cid, priority): (&Cid, i32)| Entry { cid: *cid, ask, priority, dont_have: true };
    let entries = cids.iter().zip((0..).map(|n| i32::MAX - n)).map(entry).collect();
    encode(&Message { entries, ..Message::default() })
}

/// Something to be written on our stream.
#[derive(Clone, Debug)]
pub enum Say {
    Bytes(Vec<u8>),
    /// A byte at a time with this pause between, until the other side has enough.
    Trickle(Vec<u8>, Duration),
}

type OnBlock = dyn Fn(&Cid, &Bytes) -> Vec<Say> + Send + Sync;

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub connected: u32,
    pub disconnected: u32,
    /// HAVEs asked for.
    pub haves: u32,
    /// Blocks asked for, in order; and taken back.
    pub wanted: Vec<Cid>,
    pub cancelled: u32,
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

/// A running server; it ends when dropped.
pub struct Server {
    /// Its address, ending in /p2p/ID.
    pub addr: String,
    seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Has every block of `dag` and answers a want of one by what `on_block` says. Inner nodes come as they are.
    pub fn start(
        dag: &Dag,
        protocol: &'static str,
        on_block: impl Fn(&Cid, &Bytes) -> Vec<Say> + Send + Sync + 'static,
    ) -> Server {
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = oneshot::channel();
        let (listening, addr) = std::sync::mpsc::sync_channel(1);
        let (blocks, for_task) = (blocks(dag), seen.clone());
        let on_block: Box<OnBlock> = Box::new(on_block);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(blocks, protocol, on_block, for_task, listening) => {}
                    _ = stopped => {}
                }
            });
        });
        let addr = addr.recv_timeout(LONG).expect("the test's own peer listens");
        Server { addr, seen, stop: Some(stop), thread: Some(thread) }
    }

    pub fn honest(dag: &Dag, protocol: &'static str) -> Server {
        let version = version(protocol);
        Server::start(dag, protocol, move |cid, data| {
            let mut out = Vec::new();
            let m = Message { blocks: vec![(Prefix::of(cid), data.clone())], ..Message::default() };
            m.encode(version, &mut out).unwrap();
            vec![Say::Bytes(out)]
        })
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

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    raw: Raw,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

fn swarm(protocol: &'static str) -> Swarm<Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| Behaviour {
            raw: Raw::new(StreamProtocol::new(protocol)),
            identify: identify::Behaviour::new(identify::Config::new("ipfs/0.1.0".into(), key.public())),
            ping: ping::Behaviour::default(),
        })
        .unwrap()
        .build()
}

/// Gives the messages of a stream until it ends.
async fn read(mut stream: Stream, to: mpsc::Sender<Message>) {
    let (mut buf, mut some) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        while let Some((len, prefix)) = read_len(&buf, MAX_MESSAGE).expect("dunlin speaks its own protocol") {
            if buf.len() < prefix + len {
                break;
            }
            let frame = Bytes::copy_from_slice(&buf[prefix..prefix + len]);
            buf.drain(..prefix + len);
            if to.send(Message::decode(frame).expect("a right message")).await.is_err() {
                return;
            }
        }
        match stream.read(&mut some).await {
            Ok(n) if n > 0 => buf.extend_from_slice(&some[..n]),
            _ => return,
        }
    }
}

async fn serve(
    blocks: HashMap<Cid, Bytes>,
    protocol: &'static str,
    on_block: Box<OnBlock>,
    seen: Arc<Seen>,
    listening: std::sync::mpsc::SyncSender<String>,
) {
    let mut swarm = swarm(protocol);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let (came, mut messages) = mpsc::channel(64);
    // What is to be said waits here until there is a stream of ours.
    let (say, mut says) = mpsc::channel::<Say>(65_536);
    let mut says_to = None;
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => {
                    let _ = listening.send(format!("{address}/p2p/{}", swarm.local_peer_id()));
                }
                SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                    seen.note(|f| f.connected += 1);
                    swarm.behaviour_mut().raw.open(peer_id, connection_id);
                }
                SwarmEvent::ConnectionClosed { .. } => seen.note(|f| f.disconnected += 1),
                SwarmEvent::Behaviour(BehaviourEvent::Raw(Opened { ours: false, stream, .. })) => {
                    tokio::spawn(read(stream, came.clone()));
                }
                SwarmEvent::Behaviour(BehaviourEvent::Raw(Opened { stream, .. })) => {
                    let (to, from) = mpsc::channel(65_536);
                    says_to = Some(to);
                    tokio::spawn(speak(stream, from));
                }
                _ => {}
            },
            Some(message) = messages.recv() => {
                for e in message.entries {
                    let known = blocks.get(&e.cid);
                    match e.ask {
                        Ask::Cancel => seen.note(|f| f.cancelled += 1),
                        Ask::Have => {
                            seen.note(|f| f.haves += 1);
                            let _ = say.try_send(Say::Bytes(presence(&e.cid, known.is_some())));
                        }
                        Ask::Block => {
                            seen.note(|f| f.wanted.push(e.cid));
                            let words = match known {
                                Some(data) if e.cid.codec() != RAW => {
                                    let mut out = Vec::new();
                                    let blocks = vec![(Prefix::of(&e.cid), data.clone())];
                                    let m = Message { blocks, ..Message::default() };
                                    m.encode(version(protocol), &mut out).unwrap();
                                    vec![Say::Bytes(out)]
                                }
                                Some(data) => on_block(&e.cid, data),
                                None => vec![Say::Bytes(presence(&e.cid, false))],
                            };
                            words.into_iter().for_each(|w| drop(say.try_send(w)));
                        }
                    }
                }
            },
            Some(word) = says.recv(), if says_to.is_some() => {
                if let Some(to) = &says_to {
                    let _ = to.try_send(word);
                }
            }
        }
    }
}

async fn speak(mut stream: Stream, mut from: mpsc::Receiver<Say>) {
    while let Some(say) = from.recv().await {
        let said = async {
            match say {
                Say::Bytes(bytes) => stream.write_all(&bytes).await?,
                Say::Trickle(bytes, pause) => {
                    for byte in bytes {
                        stream.write_all(&[byte]).await?;
                        stream.flush().await?;
                        tokio::time::sleep(pause).await;
                    }
                }
            }
            stream.flush().await
        };
        if said.await.is_err() {
            return;
        }
    }
}

/// What a node answered.
#[derive(Debug, Default)]
pub struct Got {
    pub blocks: HashMap<Cid, Bytes>,
    /// How often a block came that was here already.
    pub twice: u32,
    pub presences: HashMap<Cid, bool>,
    /// The node ended our stream; closed the connection.
    pub ended: bool,
    pub closed: bool,
}

/// Connects, says these bytes on one stream, and listens until `enough`.
pub fn ask(addr: &str, protocol: &'static str, say: Vec<u8>, enough: impl Fn(&Got) -> bool) -> Got {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut got = Got::default();
        let talk = talk(addr.parse().unwrap(), protocol, say, &enough, &mut got);
        let ended = tokio::time::timeout(LONG, talk).await;
        let short = (got.blocks.len(), got.presences.len(), got.closed);
        assert!(ended.is_ok(), "not enough was answered within {LONG:?}: {short:?}");
        got
    })
}

async fn talk(
    addr: Multiaddr,
    protocol: &'static str,
    say: Vec<u8>,
    enough: &impl Fn(&Got) -> bool,
    got: &mut Got,
) {
    let mut swarm = swarm(protocol);
    swarm.dial(addr).unwrap();
    let (came, mut messages) = mpsc::channel(64);
    let (over, mut is_over) = mpsc::channel(1);
    while !enough(got) {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                    swarm.behaviour_mut().raw.open(peer_id, connection_id);
                }
                SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => {
                    got.closed = true;
                }
                SwarmEvent::Behaviour(BehaviourEvent::Raw(Opened { ours: false, stream, .. })) => {
                    tokio::spawn(read(stream, came.clone()));
                }
                SwarmEvent::Behaviour(BehaviourEvent::Raw(Opened { mut stream, .. })) => {
                    let (say, over) = (say.clone(), over.clone());
                    tokio::spawn(async move {
                        let said = async {
                            stream.write_all(&say).await?;
                            stream.flush().await
                        };
                        if said.await.is_ok() {
                            let _ = stream.read(&mut [0; 1]).await;
                        }
                        let _ = over.send(()).await;
                    });
                }
                _ => {}
            },
            Some(()) = is_over.recv() => got.ended = true,
            Some(message) = messages.recv() => {
                got.presences.extend(message.presences);
                for (prefix, data) in message.blocks {
                    let cid = prefix.name(&data).expect("a hash that is known");
                    got.twice += u32::from(got.blocks.insert(cid, data).is_some());
                }
            }
        }
    }
}
