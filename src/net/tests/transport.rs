use super::*;
use futures::StreamExt;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Swarm, SwarmBuilder, identify, noise, ping, tcp, tls, yamux};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

#[derive(NetworkBehaviour)]
struct Stock {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

/// What everybody else runs: libp2p as it comes, with one security.
fn stock(by_tls: bool) -> Swarm<Stock> {
    let behaviour = |key: &Keypair| Stock {
        ping: ping::Behaviour::default(),
        identify: identify::Behaviour::new(identify::Config::new("test".into(), key.public())),
    };
    let b = SwarmBuilder::with_new_identity().with_tokio();
    let idle = |c: libp2p::swarm::Config| c.with_idle_connection_timeout(LONG);
    if by_tls {
        b.with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build()
    } else {
        b.with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build()
    }
}

/// The stock side's first ping goes through.
async fn pings(swarm: &mut Swarm<Stock>) {
    loop {
        if let SwarmEvent::Behaviour(StockEvent::Ping(e)) = swarm.select_next_some().await {
            e.result.unwrap();
            return;
        }
    }
}

async fn interoperates(by_tls: bool, want: &str) {
    // They dial us.
    let mut node = Node::new(TCP).await;
    let mut swarm = stock(by_tls);
    swarm.dial(node.addr().with_p2p(node.id()).unwrap()).unwrap();
    timeout(LONG, pings(&mut swarm)).await.unwrap();
    let (reply, peers) = oneshot::channel();
    node.tell(Command::Peers { reply }).await;
    let drive = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    assert_eq!(peers.await.unwrap()[0].security, want);
    let (peer, exchange) = node
        .event(|e| match e {
            Event::Identified { peer, exchange, .. } => Some((peer, exchange)),
            _ => None,
        })
        .await;
    assert!(!exchange);
    // It does not speak the exchange, which shows when it answers.
    node.tell(Command::OpenLink { peer }).await;
    node.link_down().await;
    drive.abort();

    // We dial them.
    let mut swarm = stock(by_tls);
    swarm.listen_on(TCP.parse().unwrap()).unwrap();
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    node.tell(Command::Dial { peer: Some(*swarm.local_peer_id()), addrs: vec![addr] }).await;
    timeout(LONG, pings(&mut swarm)).await.unwrap();
}

#[tokio::test]
async fn our_tls_speaks_with_the_stock_one() {
    interoperates(true, "/tls/1.0.0").await;
}

#[tokio::test]
async fn noise_speaks_with_the_stock_one() {
    interoperates(false, "/noise").await;
}

/// One who listens and says nothing hears the proposal and the beginning of TLS behind it: choosing takes no round
/// trip.
#[tokio::test]
async fn the_security_that_is_proposed_is_begun_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::new(TCP).await;
    let addr = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
    node.tell(Command::Dial { peer: Some(PeerId::random()), addrs: vec![addr.parse().unwrap()] }).await;
    let (mut socket, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    let mut heard = vec![0; 40]; // either proposal is shorter
    timeout(LONG, socket.read_exact(&mut heard)).await.expect("more than a proposal").unwrap();
    assert!(heard.starts_with(b"\x13/multistream/1.0.0\n"), "{}", heard.escape_ascii());
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error() {
    for listen in [TCP, QUIC] {
        let a = Node::new(listen).await;
        let (events, _e) = mpsc::channel(64);
        let (inbound, _i) = mpsc::channel(64);
        let mut cfg = config(listen);
        cfg.listen = vec![a.addr()];
        let e = start(cfg, events, inbound).await.unwrap_err();
        assert!(e.to_string().starts_with(&format!("cannot listen on {}", a.addr())), "{e}");
        assert!(e.to_string().to_lowercase().contains("in use"), "{e}");
    }
}

#[tokio::test]
async fn a_peer_at_somebody_elses_address_is_not_taken_for_him() {
    let (mut a, b) = (Node::new(TCP).await, Node::new(TCP).await);
    let other = PeerId::random();
    a.tell(Command::Dial { peer: Some(other), addrs: vec![b.addr()] }).await;
    let failed = a
        .event(|e| match e {
            Event::DialFailed { peer, .. } => Some(peer),
            Event::Connected { .. } => panic!("connected"),
            _ => None,
        })
        .await;
    assert_eq!(failed, Some(other));
}

#[tokio::test]
async fn of_tcp_and_quic_tcp_is_taken() {
    let mut cfg = config(TCP);
    cfg.listen.push(QUIC.parse().unwrap());
    let (mut a, b) = (Node::new(TCP).await, Node::with(cfg).await);
    let mut addrs = b.net.listen.clone();
    addrs.reverse();
    assert_eq!(addrs.len(), 2);
    a.tell(Command::Dial { peer: Some(b.id()), addrs }).await;
    let addr = a.event(|e| if let Event::Connected { addr, .. } = e { Some(addr) } else { None }).await;
    assert!(addr.to_string().contains("/tcp/"), "{addr}");
}

#[tokio::test]
async fn our_addresses_end_in_our_id() {
    let a = Node::new(TCP).await;
    let (reply, addresses) = oneshot::channel();
    a.tell(Command::Addresses { reply }).await;
    assert_eq!(addresses.await.unwrap(), [a.addr().with_p2p(a.id()).unwrap()]);
}
