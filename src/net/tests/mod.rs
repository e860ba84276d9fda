//! Real sockets on 127.0.0.1. Waits have generous deadlines and end as soon as the thing has happened.

mod bitswap;
mod dht;
mod exchange;
mod hostile;
mod hostile_dht;
mod huge_keys;
mod listen;
mod ping;
mod transport;

use std::time::Duration;

use cid::Cid;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::api::{Command, Event, Inbound, Link};
use super::{NetConfig, NetHandle, start};

const LONG: Duration = Duration::from_secs(60);
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// A node's network, and its ends of the channels.
struct Node {
    net: NetHandle,
    events: mpsc::Receiver<Event>,
    inbound: mpsc::Receiver<Inbound>,
}

impl Node {
    async fn new(listen: &str) -> Node {
        Node::with(config(listen)).await
    }

    async fn with(cfg: NetConfig) -> Node {
        let (events_tx, events) = mpsc::channel(64);
        let (inbound_tx, inbound) = mpsc::channel(64);
        let net = start(cfg, events_tx, inbound_tx).await.unwrap();
        Node { net, events, inbound }
    }

    fn addr(&self) -> Multiaddr {
        self.net.listen[0].clone()
    }

    fn id(&self) -> PeerId {
        self.net.peer_id
    }

    async fn tell(&self, command: Command) {
        self.net.commands.send(command).await.unwrap();
    }

    /// The first event that `want` takes; the others before it are dropped.
    async fn event<T>(&mut self, mut want: impl FnMut(Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(t) = want(self.events.recv().await.expect("the network is up")) {
                    return t;
                }
            }
        };
        timeout(LONG, wait).await.expect("the event comes in time")
    }

    async fn next(&mut self) -> Inbound {
        timeout(LONG, self.inbound.recv()).await.expect("in time").expect("the network is up")
    }

    async fn connect(&mut self, to: &Node) {
        self.tell(Command::Dial { peer: Some(to.id()), addrs: vec![to.addr()] }).await;
        let id = to.id();
        self.event(|e| match e {
            Event::Connected { peer, .. } if peer == id => Some(()),
            Event::DialFailed { error, .. } => panic!("{error}"),
            _ => None,
        })
        .await;
    }

    async fn link_up(&mut self) -> Link {
        self.event(|e| match e {
            Event::LinkUp { link, .. } => Some(link),
            Event::LinkDown { why, .. } => panic!("{why}"),
            _ => None,
        })
        .await
    }

    async fn link_down(&mut self) -> String {
        self.event(|e| match e {
            Event::LinkDown { why, .. } => Some(why),
            _ => None,
        })
        .await
    }
}

fn config(listen: &str) -> NetConfig {
    let mut cfg = NetConfig::new(Keypair::generate_ed25519(), vec![listen.parse().unwrap()]);
    cfg.mdns = false;
    cfg
}

/// Two nodes with a link; the first opened it.
async fn linked(listen: &str) -> (Node, Link, Node, Link) {
    let (mut a, mut b) = (Node::new(listen).await, Node::new(listen).await);
    a.connect(&b).await;
    a.tell(Command::OpenLink { peer: b.id() }).await;
    let (la, lb) = (a.link_up().await, b.link_up().await);
    (a, la, b, lb)
}

fn a_cid(n: u8) -> Cid {
    let mut raw = vec![1, 0x55, 0x12, 32];
    raw.extend([n; 32]);
    Cid::try_from(&raw[..]).unwrap()
}
