//! Peers that lie to the DHT, flood it, or say too much of themselves.

use futures::StreamExt;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{DeniedUpgrade, InboundUpgrade};
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, Swarm, SwarmEvent, THandler, THandlerOutEvent, ToSwarm,
};
use libp2p::{Stream, StreamProtocol, SwarmBuilder, identify, noise, tcp, yamux};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::sync::oneshot;

use super::*;
use crate::content::Hash;
use crate::net::api::QueryId;
use crate::net::ask::{self, Job};
use crate::net::behaviour::LAN_KAD;
use crate::net::bitswap;
use crate::net::dht::ProvideStatus;
use crate::wire::kad::{Request, Told};
use libp2p::identity::PublicKey;

/// Names these protocols, which may change.
#[derive(Clone)]
struct Names(Arc<Mutex<Vec<StreamProtocol>>>);

impl Names {
    /// So many, the local DHT's among them.
    fn new(n: usize) -> Names {
        let mut all: Vec<StreamProtocol> =
            (0..n).map(|n| StreamProtocol::try_from_owned(format!("/x/{n}")).unwrap()).collect();
        all.push(LAN_KAD);
        Names(Arc::new(Mutex::new(all)))
    }

    fn add(&self, name: StreamProtocol) {
        self.0.lock().unwrap().push(name);
    }
}

impl UpgradeInfo for Names {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;
    fn protocol_info(&self) -> Self::InfoIter {
        self.0.lock().unwrap().clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Names {
    type Output = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;
    fn upgrade_inbound(self, _: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(()))
    }
}

struct Namer(Names);

impl ConnectionHandler for Namer {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Names;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();
    fn listen_protocol(&self) -> SubstreamProtocol<Names> {
        SubstreamProtocol::new(self.0.clone(), ())
    }
    fn on_behaviour_event(&mut self, e: Infallible) {
        match e {}
    }
    fn connection_keep_alive(&self) -> bool {
        true
    }
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Infallible>> {
        Poll::Pending
    }
    fn on_connection_event(&mut self, _: ConnectionEvent<Names, DeniedUpgrade>) {}
}

impl NetworkBehaviour for Names {
    type ConnectionHandler = Namer;
    type ToSwarm = Infallible;
    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Namer(self.clone()))
    }
    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: libp2p::core::Endpoint,
        _: libp2p::core::transport::PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Namer(self.clone()))
    }
    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}
    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, e: THandlerOutEvent<Self>) {
        match e {}
    }
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Infallible>> {
        Poll::Pending
    }
}

#[derive(NetworkBehaviour)]
struct Hostile {
    ask: ask::Behaviour,
    identify: identify::Behaviour,
    names: Names,
}

fn hostile(names: usize, addresses: usize) -> Swarm<Hostile> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| Hostile {
            ask: ask::Behaviour::default(),
            identify: identify::Behaviour::new(identify::Config::new("x".into(), key.public())),
            names: Names::new(names),
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(LONG))
        .build();
    for n in 0..addresses {
        swarm.add_external_address(format!("/ip4/10.1.{}.{}/tcp/1", n / 250, n % 250).parse().unwrap());
    }
    swarm
}

/// Says it all on streams of `a_stream` requests each, and waits until all are over; how many went well.
async fn say(swarm: &mut Swarm<Hostile>, to: &Node, requests: &[Request], a_stream: usize) -> usize {
    run(swarm, to, requests.chunks(a_stream).map(|some| Job::new(LAN_KAD, some))).await
}

async fn run(swarm: &mut Swarm<Hostile>, to: &Node, mut jobs: impl Iterator<Item = Job>) -> usize {
    let (mut running, mut good) = (0, 0);
    loop {
        while running < 4
            && let Some(job) = jobs.next()
        {
            swarm.behaviour_mut().ask.ask(to.id(), &[to.addr()], job);
            running += 1;
        }
        if running == 0 {
            return good;
        }
        let event = timeout(LONG, swarm.select_next_some()).await.expect("in time");
        if let SwarmEvent::Behaviour(HostileEvent::Ask(e)) = event {
            running -= 1;
            good += usize::from(e.result.is_ok());
        }
    }
}

fn hash(n: u32) -> Hash {
    let mut digest = [7; 32];
    digest[..4].copy_from_slice(&n.to_be_bytes());
    Hash::wrap(0x12, &digest).unwrap()
}

async fn status(node: &Node) -> ProvideStatus {
    let (reply, answer) = oneshot::channel();
    node.tell(Command::Providing { reply }).await;
    answer.await.unwrap()[1]
}

/// All the providers that one look-up names.
async fn providers(node: &mut Node, what: &Hash) -> Vec<(PeerId, Vec<Multiaddr>)> {
    node.tell(Command::FindProviders { query: QueryId(1), hash: *what }).await;
    let mut found = Vec::new();
    while let Some(one) = node
        .event(|e| match e {
            Event::Provider { peer, addrs, .. } => Some(Some((peer, addrs))),
            Event::QueryDone { .. } => Some(None),
            _ => None,
        })
        .await
    {
        found.push(one);
    }
    found
}

fn us(swarm: &Swarm<Hostile>, addr: &str) -> Told {
    let addr: Multiaddr = addr.parse().unwrap();
    Told { id: swarm.local_peer_id().to_bytes(), addrs: vec![addr.to_vec()] }
}

#[tokio::test]
async fn nobody_is_made_a_provider_by_another() {
    let mut node = Node::new(TCP).await;
    let mut liar = hostile(0, 0);
    let victim = PeerId::random();
    let addr: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let told = Told { id: victim.to_bytes(), addrs: vec![addr.to_vec()] };
    let own = Request::AddProvider { key: hash(2).to_bytes(), us: us(&liar, "/ip4/127.0.0.1/tcp/1") };
    let requests = [Request::AddProvider { key: hash(1).to_bytes(), us: told }, own];
    say(&mut liar, &node, &requests, 2).await;
    // The second was read after the first.
    while providers(&mut node, &hash(2)).await.is_empty() {
        say(&mut liar, &node, &requests[1..], 1).await;
    }
    assert!(providers(&mut node, &hash(1)).await.is_empty());
}

#[tokio::test]
async fn a_flood_of_a_hundred_thousand_records_changes_nothing_in_our_own_providing() {
    let mut cfg = config(TCP);
    cfg.limits.foreign_records = 4_000;
    let node = Node::with(cfg).await;
    let ours = hash(u32::MAX);
    node.tell(Command::Provide { hashes: vec![ours] }).await;
    let mut flooder = hostile(0, 0);
    let told = us(&flooder, "/ip4/127.0.0.1/tcp/1");
    let requests: Vec<Request> =
        (0..100_000).map(|n| Request::AddProvider { key: hash(n).to_bytes(), us: told.clone() }).collect();
    let good = say(&mut flooder, &node, &requests, 1_000).await;
    let after = status(&node).await;
    assert!(good > 0 && after.stored > 0, "nothing arrived");
    assert!(after.stored <= 1_000, "one peer has {} of 4,000 places", after.stored);
    assert_eq!(after.keys, 1);
    // An honest peer still finds what we provide, and finds a place for its own.
    let mut honest = Node::new(TCP).await;
    honest.connect(&node).await;
    honest.event(|e| matches!(e, Event::Identified { .. }).then_some(())).await;
    honest.tell(Command::Provide { hashes: vec![hash(200_000)] }).await;
    while !providers(&mut honest, &ours).await.iter().any(|(p, _)| *p == node.id()) {}
    while status(&node).await.stored == after.stored {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// PUT_VALUE of the `n`-th of many public keys under its own hash, which is valid.
fn put_value(n: u32) -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| [&[tag, bytes.len() as u8], bytes].concat(); // all shorter than 128
    // An RSA key is taken as it is: a sequence of two numbers, in a bit string, under the name of RSA.
    let number = [&[0x02, 20, 0x7f], &[7; 15][..], &n.to_be_bytes()].concat();
    let numbers = field(0x30, &[&number[..], &[0x02, 3, 1, 0, 1]].concat());
    let rsa = [0x30, 13, 0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let info = field(0x30, &[&rsa[..], &field(0x03, &[&[0], &numbers[..]].concat())].concat());
    let value = [&[0x08, 0], &field(0x12, &info)[..]].concat();
    let peer = PublicKey::try_decode_protobuf(&value).unwrap().to_peer_id();
    let key = [b"/pk/", &peer.to_bytes()[..]].concat();
    let record = field(0x1a, &[field(0x0a, &key), field(0x12, &value)].concat());
    let message = [&[0x08, 0], &field(0x12, &key)[..], &record].concat();
    let len = message.len();
    [&[len as u8 | 0x80, (len >> 7) as u8], &message[..]].concat() // from 128 to 16,383
}

#[tokio::test]
async fn a_flood_of_a_hundred_thousand_values_changes_nothing_in_our_own_providing() {
    let node = Node::new(TCP).await;
    let ours = hash(u32::MAX);
    node.tell(Command::Provide { hashes: vec![ours] }).await;
    let mut flooder = hostile(0, 0);
    // Each is answered with as much, which nobody reads: a stream takes what its window does.
    let jobs = (0..1_000).map(|n| {
        let frames = (n * 100..(n + 1) * 100).flat_map(put_value).collect();
        Job::raw(LAN_KAD, frames)
    });
    let good = run(&mut flooder, &node, jobs).await;
    let after = status(&node).await;
    assert!(good > 0 && after.values > 0, "nothing arrived");
    assert!(after.values <= 1_024, "{} values", after.values);
    assert_eq!((after.keys, after.stored), (1, 0));
    let mut honest = Node::new(TCP).await;
    honest.connect(&node).await;
    honest.event(|e| matches!(e, Event::Identified { .. }).then_some(())).await;
    while !providers(&mut honest, &ours).await.iter().any(|(p, _)| *p == node.id()) {}
}

#[tokio::test]
async fn a_provider_that_lies_delays_nobody() {
    let boot = Node::new(TCP).await;
    // It takes connections and never says a word.
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = hole.local_addr().unwrap().port();
    let mut liar = hostile(0, 0);
    let lie = Request::AddProvider {
        key: hash(1).to_bytes(),
        us: us(&liar, &format!("/ip4/127.0.0.1/tcp/{port}")),
    };
    let (mut a, mut c) = (Node::new(TCP).await, Node::new(TCP).await);
    for n in [&mut a, &mut c] {
        n.connect(&boot).await;
        n.event(|e| matches!(e, Event::Identified { .. }).then_some(())).await;
    }
    a.tell(Command::Provide { hashes: vec![hash(1)] }).await;
    say(&mut liar, &boot, &[lie], 1).await;
    let found = loop {
        let found = providers(&mut c, &hash(1)).await;
        if found.len() == 2 {
            break found;
        }
    };
    for (peer, addrs) in found {
        c.tell(Command::Dial { peer: Some(peer), addrs }).await;
    }
    // The honest one is there (from the look-up perhaps already) while the other is still waited for.
    let connected = async {
        loop {
            let (reply, answer) = oneshot::channel();
            c.tell(Command::Peers { reply }).await;
            if answer.await.unwrap().iter().any(|p| p.peer == a.id().to_string()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, connected).await.expect("the honest provider is reached");
    while let Ok(event) = c.events.try_recv() {
        if let Event::DialFailed { peer, error } = event {
            panic!("{peer:?} was waited for: {error}");
        }
    }
}

#[tokio::test]
async fn identify_with_many_addresses_and_protocols_is_cut_short() {
    for (names, addresses) in [(150, 120), (9_000, 9_000)] {
        let mut node = Node::new(TCP).await;
        let mut boaster = hostile(names, addresses);
        boaster.dial(node.addr()).unwrap();
        let id = *boaster.local_peer_id();
        let driving = tokio::spawn(async move { while boaster.next().await.is_some() {} });
        let connected = |e: Event| match e {
            Event::Connected { peer, .. } if peer == id => Some(()),
            _ => None,
        };
        node.event(connected).await;
        if names < 1_000 {
            let addrs = node
                .event(|e| match e {
                    Event::Identified { peer, addrs, .. } if peer == id => Some(addrs),
                    _ => None,
                })
                .await;
            assert!(!addrs.is_empty() && addrs.len() <= 16, "{} addresses", addrs.len());
        }
        // With more it is no message any more; either way the node goes on.
        let (reply, answer) = oneshot::channel();
        node.tell(Command::Peers { reply }).await;
        let peers = answer.await.unwrap();
        assert!(peers.iter().all(|p| p.protocols.len() <= 64 && p.addrs.len() <= 16), "{peers:?}");
        let mut other = Node::new(TCP).await;
        other.connect(&node).await;
        driving.abort();
    }
}

/// A peer connects that speaks Bitswap already or takes it up once it has told what it speaks; until it is connected
/// with again.
async fn is_met_again(at_first: bool) {
    let mut node = Node::new(TCP).await;
    let mut late = hostile(0, 0);
    let take_up = |late: &mut Swarm<Hostile>| late.behaviour().names.add(bitswap::PROTOCOLS[0].0.clone());
    if at_first {
        take_up(&mut late);
    }
    late.listen_on(TCP.parse().unwrap()).unwrap();
    let mut connections = 0;
    let mut dialled = false;
    while connections < 2 {
        let event = tokio::select! {
            event = timeout(LONG, late.select_next_some()) => event.expect("it is met again"),
            event = node.events.recv() => {
                if let Some(Event::Identified { bitswap: false, .. }) = event {
                    take_up(&mut late);
                    late.behaviour_mut().identify.push([node.id()]);
                }
                continue;
            }
        };
        match event {
            SwarmEvent::NewListenAddr { .. } if !dialled => {
                dialled = true;
                late.dial(node.addr()).unwrap();
            }
            SwarmEvent::ConnectionEstablished { endpoint, .. } => {
                connections += 1;
                assert_eq!(endpoint.is_dialer(), connections == 1);
            }
            SwarmEvent::ConnectionClosed { cause, .. } => panic!("{cause:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_peer_that_takes_up_bitswap_after_it_connected_is_met_again() {
    is_met_again(false).await;
}

/// As a kubo that took up Bitswap between the connection and its answer to identify: its get waited without end.
#[tokio::test]
async fn a_peer_nearby_that_names_bitswap_at_once_is_met_again() {
    is_met_again(true).await;
}
