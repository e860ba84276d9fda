//! kubo connects to us, and we to it, by every transport that both have.

use serde_json::{Value, json};

use super::kubo::Kubo;
use super::{need_kubo, wait_for};
use crate::support::args;
use crate::support::home::{Home, QUIC, TCP, address, text};

/// What `dunlin peers` says of a peer.
fn peer(home: &Home, id: &str) -> Option<Value> {
    home.ok(&args!["peers", "--json"]).json().into_iter().find(|p| p["peer"] == id)
}

/// Connects a kubo that has only this security to a dunlin that listens there: it must be how they talk.
fn kubo_connects(listen: &'static str, security: Value, how: &str) {
    let program = need_kubo!();
    let home = Home::on(listen);
    let (_daemon, line) = home.daemon(&[]);
    let mut kubo = Kubo::new(&program, &[]);
    kubo.set("Swarm.Transports.Security", security);
    kubo.run();
    kubo.connect(&address(&line));
    let peer = peer(&home, &kubo.id()).expect("it is connected");
    assert_eq!(text(&peer, "security"), how, "{peer}");
}

#[test]
fn kubo_connects_by_tcp_with_tls() {
    kubo_connects(TCP, json!({ "TLS": 100, "Noise": false }), "/tls/1.0.0");
}

#[test]
fn kubo_connects_by_tcp_with_noise() {
    kubo_connects(TCP, json!({ "TLS": false, "Noise": 100 }), "/noise");
}

#[test]
fn kubo_connects_by_quic() {
    kubo_connects(QUIC, json!({}), "quic");
}

#[test]
fn dunlin_dials_kubo_by_tcp_and_by_quic() {
    let program = need_kubo!();
    let kubo = Kubo::start(&program, &[]);
    for (transport, security) in [("/tcp/", "/tls/1.0.0"), ("/quic-v1", "quic")] {
        let (home, address) = (Home::new(), kubo.address(transport));
        let (_daemon, _) = home.daemon(&args!["--bootstrap", &address]);
        wait_for(&format!("connection to {address}"), || {
            peer(&home, &kubo.id()).is_some_and(|p| text(&p, "agent").starts_with("kubo/"))
        });
        let peer = peer(&home, &kubo.id()).expect("it is connected");
        assert_eq!(text(&peer, "security"), security, "{peer}");
    }
}
