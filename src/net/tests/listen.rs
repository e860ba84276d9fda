use std::collections::BTreeSet;

use super::*;

async fn ips(listen: &[&str]) -> BTreeSet<String> {
    let mut cfg = config(TCP);
    cfg.listen = listen.iter().map(|a| a.parse().unwrap()).collect();
    let up = Node::with(cfg).await.net.listen;
    let ips: BTreeSet<String> = up.iter().filter_map(|a| Some(a.iter().next()?.to_string())).collect();
    assert_eq!(up.len(), listen.len() * ips.len(), "each listener has each address: {up:?}");
    ips
}

/// They come one by one, and a start waits no longer than it takes for no more to come.
#[tokio::test]
async fn a_wildcard_listener_has_every_address_when_the_network_is_up() {
    let (tcp, quic) = ("/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1");
    let alone = ips(&[tcp]).await;
    assert!(alone.contains("/ip4/127.0.0.1") && !alone.contains("/ip4/0.0.0.0"), "{alone:?}");
    assert_eq!(ips(&[tcp, tcp, quic]).await, alone);
}
