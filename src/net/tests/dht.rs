use super::*;
use crate::content::Hash;
use crate::net::api::QueryId;

fn hash(n: u8) -> Hash {
    *a_cid(n).hash()
}

fn p2p(node: &Node) -> Multiaddr {
    node.addr().with_p2p(node.id()).unwrap()
}

async fn node_of(bootstrap: &Node) -> Node {
    let mut cfg = config(TCP);
    cfg.bootstrap = vec![p2p(bootstrap)];
    let mut n = Node::with(cfg).await;
    n.event(|e| matches!(e, Event::Identified { .. }).then_some(())).await;
    n
}

/// Asks until somebody is named, as the node does.
async fn find(node: &mut Node, what: u8) -> (PeerId, Vec<Multiaddr>) {
    for n in 0.. {
        node.tell(Command::FindProviders { query: QueryId(n), hash: hash(what) }).await;
        let found = node
            .event(|e| match e {
                Event::Provider { query, peer, addrs } if query.0 == n => Some(Some((peer, addrs))),
                Event::QueryDone { query } if query.0 == n => Some(None),
                _ => None,
            })
            .await;
        if let Some(found) = found {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("it asks for ever, or the event is late")
}

#[tokio::test]
async fn a_provider_is_found_through_a_bootstrap_node() {
    let boot = Node::new(TCP).await;
    let a = node_of(&boot).await;
    a.tell(Command::Provide { hashes: vec![hash(7)] }).await;
    let mut c = node_of(&boot).await;
    let (peer, addrs) = find(&mut c, 7).await;
    assert_eq!((peer, addrs), (a.id(), vec![a.addr()]));
    c.connect(&a).await;
}

#[tokio::test]
async fn what_was_provided_before_anybody_was_there_is_told_later() {
    let boot = Node::new(TCP).await;
    let a = Node::new(TCP).await;
    a.tell(Command::Provide { hashes: vec![hash(8)] }).await;
    a.tell(Command::Bootstrap { addr: p2p(&boot) }).await;
    let mut c = node_of(&boot).await;
    assert_eq!(find(&mut c, 8).await.0, a.id());
}

#[tokio::test]
async fn a_query_with_nobody_to_ask_ends() {
    let mut a = Node::new(TCP).await;
    a.tell(Command::FindProviders { query: QueryId(5), hash: hash(1) }).await;
    let done = a.event(|e| if let Event::QueryDone { query } = e { Some(query) } else { None }).await;
    assert_eq!(done, QueryId(5));
}

#[tokio::test]
async fn a_peer_is_dialled_by_its_id_alone() {
    let boot = Node::new(TCP).await;
    let a = node_of(&boot).await;
    let mut c = node_of(&boot).await;
    c.tell(Command::Dial { peer: Some(a.id()), addrs: vec![] }).await;
    let id = a.id();
    c.event(|e| match e {
        Event::Connected { peer, .. } if peer == id => Some(()),
        Event::DialFailed { error, .. } => panic!("{error}"),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn a_bootstrap_peer_without_an_id_is_refused() {
    let mut cfg = config(TCP);
    cfg.bootstrap = vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()];
    let (events, _e) = mpsc::channel(1);
    let (inbound, _i) = mpsc::channel(1);
    let e = start(cfg, events, inbound).await.unwrap_err();
    assert!(e.to_string().contains("/p2p/ID"), "{e}");
}
