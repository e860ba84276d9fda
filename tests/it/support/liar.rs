//! A server of a DHT that lies: whatever it is asked for, it names the peers that it was told to name, as closer ones and
//! as providers. What it is told it forgets.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use dunlin::dht::Key;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, identify, noise, tcp, yamux};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::home::LONG;
use super::raw::{Opened, Raw};

pub const WAN: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");
const LAN: StreamProtocol = StreamProtocol::new("/ipfs/lan/kad/1.0.0");
const GET_PROVIDERS: u8 = 3;
const FIND_NODE: u8 = 4;
/// Peers that it names: those of the lies that are closest to what it was asked for.
const NAMED: usize = 20;
const MADE_UP: usize = 2_000;

#[derive(NetworkBehaviour)]
struct Behaviour {
    raw: Raw,
    identify: identify::Behaviour,
}

/// A peer to name, and where it is said to be.
pub type Lie = (PeerId, Multiaddr);

/// What a liar is.
pub struct Role {
    pub key: Keypair,
    pub protocol: StreamProtocol,
    /// The network namespace that it is in, if not the test's own.
    pub namespace: Option<PathBuf>,
    pub listen: Multiaddr,
    /// To whom it makes itself known.
    pub dial: Vec<Multiaddr>,
    pub lies: Vec<Lie>,
    /// Whether it names them as providers too.
    pub providers: bool,
}

/// The running liar; it ends when dropped.
pub struct Liar {
    /// Its address, ending in /p2p/ID.
    pub addr: String,
    asked: Arc<AtomicU32>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Liar {
    /// In the local DHT, known to the node at `bootstrap`. Those whom it names do not exist, and are `nowhere`.
    pub fn new(bootstrap: &str, nowhere: &Multiaddr) -> Liar {
        Liar::start(Role {
            key: Keypair::generate_ed25519(),
            protocol: LAN,
            namespace: None,
            listen: "/ip4/127.0.0.1/tcp/0".parse().unwrap(),
            dial: vec![bootstrap.parse().unwrap()],
            lies: (0..MADE_UP).map(|_| (PeerId::random(), nowhere.clone())).collect(),
            providers: true,
        })
    }

    pub fn start(role: Role) -> Liar {
        let (stop, stopped) = oneshot::channel();
        let (listening, addr) = std::sync::mpsc::sync_channel(1);
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let thread = thread::spawn(move || {
            if let Some(path) = &role.namespace {
                let namespace = File::open(path).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = run(role, listening, count) => {}
                    _ = stopped => {}
                }
            });
        });
        let addr = addr.recv_timeout(LONG).expect("the liar listens");
        Liar { addr, asked, stop: Some(stop), thread: Some(thread) }
    }

    /// How often it was asked for providers.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What it says, sorted by nothing yet.
struct Lies {
    peers: Vec<(Key, Lie)>,
    providers: bool,
    asked: Arc<AtomicU32>,
}

async fn run(role: Role, listening: std::sync::mpsc::SyncSender<String>, asked: Arc<AtomicU32>) {
    let Role { key, protocol, listen, dial, lies, providers, .. } = role;
    let mut swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| Behaviour {
            raw: Raw::new(protocol),
            identify: identify::Behaviour::new(identify::Config::new("/ipfs/0.1.0".into(), key.public())),
        })
        .unwrap()
        .build();
    swarm.listen_on(listen).unwrap();
    let peers = lies.into_iter().map(|lie| (Key::of(&lie.0.to_bytes()), lie)).collect();
    let lies = Arc::new(Lies { peers, providers, asked });
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                let _ = listening.send(format!("{address}/p2p/{}", swarm.local_peer_id()));
                dial.iter().for_each(|a| swarm.dial(a.clone()).unwrap());
            }
            SwarmEvent::Behaviour(BehaviourEvent::Raw(Opened { ours: false, stream, .. })) => {
                tokio::spawn(lie(stream, lies.clone()));
            }
            _ => {}
        }
    }
}

async fn lie(mut stream: Stream, lies: Arc<Lies>) -> Option<()> {
    loop {
        let request = read(&mut stream).await?;
        let (kind, key) = kind_and_key(&request)?;
        if kind != GET_PROVIDERS && kind != FIND_NODE {
            continue;
        }
        lies.asked.fetch_add(u32::from(kind == GET_PROVIDERS), Ordering::SeqCst);
        let key = Key::of(&key);
        let mut near: Vec<_> = lies.peers.iter().collect();
        near.sort_by_key(|(k, _)| k.distance(&key));
        let mut answer = vec![0x08, kind];
        for (_, (peer, addr)) in near.iter().take(NAMED) {
            let one = [field(0x0a, &peer.to_bytes()), field(0x12, &addr.to_vec())].concat();
            answer.extend(field(0x42, &one)); // closer
            if kind == GET_PROVIDERS && lies.providers {
                answer.extend(field(0x4a, &one));
            }
        }
        let mut frame = Vec::new();
        varint(answer.len(), &mut frame);
        frame.extend(answer);
        stream.write_all(&frame).await.ok()?;
        stream.flush().await.ok()?;
    }
}

/// The next request.
async fn read(stream: &mut Stream) -> Option<Vec<u8>> {
    let (mut len, mut shift) = (0, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        len |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut request = vec![0; len];
    stream.read_exact(&mut request).await.ok()?;
    Some(request)
}

/// What a request is for: its first field, a small number, and its second, bytes.
fn kind_and_key(request: &[u8]) -> Option<(u8, Vec<u8>)> {
    let [0x08, kind, 0x12, len, rest @ ..] = request else { return None };
    Some((*kind, rest.get(..usize::from(*len))?.to_vec()))
}

fn varint(mut n: usize, out: &mut Vec<u8>) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    varint(bytes.len(), &mut out);
    out.extend_from_slice(bytes);
    out
}
