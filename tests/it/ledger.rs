//! What is remembered of peers outlives the node: bytes given and taken, and bans.

use std::sync::Arc;

use serde_json::Value;

use crate::support::args;
use crate::support::dag::Dag;
use crate::support::home::{Home, Running, address, number, text};
use crate::support::peer::{Facts, Manners, Peer, joined_and_sends, wrong_chunk};
use crate::support::tree::{MIB, Rng, assert_same};
use crate::transfer::share;

fn liar(data: &[u8]) -> (Arc<Dag>, Peer) {
    let dag = Arc::new(Dag::file(data));
    let peer = Peer::serve(dag.clone(), Manners::on_chunk(wrong_chunk));
    (dag, peer)
}

fn banned(home: &Home) -> Vec<Value> {
    home.ok(&args!["peers", "--banned", "--json"]).json()
}

fn gone(f: &Facts) -> bool {
    f.connected > 0 && f.disconnected == f.connected
}

/// Asks the daemon for the content at this peer alone; it must not come.
fn in_vain(home: &Home, dag: &Dag, evil: &Peer) {
    let cid = dag.root.to_string();
    let get = args!["get", &cid, "-o", "copy", "--peer", &evil.addr, "--timeout", "2"];
    let error = home.run(&get).code(1);
    assert!(error.error().contains("no progress"), "{}", error.error());
}

/// It answers no request, so nothing else that it says is wrong.
#[test]
fn a_first_chunk_of_its_own_choice_with_a_wrong_bit_bans_its_sender() {
    let home = Home::new();
    let dag = Arc::new(Dag::file(&Rng(32).bytes(4 * MIB as usize)));
    let joined = |dag: &Dag| [vec![joined_and_sends(dag, Some(3))], wrong_chunk(dag, 3)].concat();
    let manners = Manners { joined: Box::new(joined), chunk: Box::new(|_, _| Vec::new()) };
    let evil = Peer::serve(dag.clone(), manners);
    let (_daemon, _) = home.daemon(&[]);
    in_vain(&home, &dag, &evil);
    let facts = evil.until("the ban", gone);
    assert!(facts.asked.len() <= 1 && !facts.asked.contains(&3), "{facts:?}");
    assert_eq!(banned(&home).len(), 1);
}

#[test]
fn a_liar_stays_banned_when_the_daemon_restarts_until_it_is_pardoned() {
    let home = Home::new();
    let (dag, evil) = liar(&Rng(31).bytes(4 * MIB as usize));
    let id = evil.addr.rsplit('/').next().unwrap().to_owned();
    let (daemon, _) = home.daemon(&[]);
    assert!(banned(&home).is_empty());
    in_vain(&home, &dag, &evil);
    let facts = evil.until("the ban", gone);
    assert_eq!(facts.asked.len(), 1);
    let list = banned(&home);
    assert_eq!((list.len(), text(&list[0], "peer")), (1, &*id));
    let restart = |daemon: Running, clean: bool| {
        if clean {
            drop(daemon.interrupt().ok())
        } else {
            daemon.kill()
        }
        home.daemon(&[]).0
    };
    let daemon = restart(daemon, true);
    assert_eq!(banned(&home), list, "not kept");
    in_vain(&home, &dag, &evil);
    let facts = evil.until("nothing more", |_| true);
    assert_eq!(facts.asked.len(), 1, "a banned peer was asked again: {facts:?}");
    assert_eq!(facts.joins, 1, "a banned peer was spoken to again: {facts:?}");
    let daemon = restart(daemon, false);
    assert_eq!(banned(&home), list, "not kept when killed");

    let error = home.run(&args!["pardon", "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"]).code(1);
    assert!(error.error().contains("not banned"), "{}", error.error());
    home.ok(&args!["pardon", &id]);
    assert!(banned(&home).is_empty());
    in_vain(&home, &dag, &evil);
    assert_eq!(evil.facts().asked.len(), 2, "a pardoned peer has a chance again");
    assert_eq!(banned(&home).len(), 1, "and is banned again");
    drop(daemon.interrupt().ok());

    // Without a node it is the same.
    assert_eq!(banned(&home).len(), 1);
    home.ok(&args!["pardon", &id]);
    assert!(banned(&home).is_empty());
}

#[test]
fn bytes_given_and_taken_are_counted_on_after_a_restart() {
    let (a, b) = (Home::new(), Home::new());
    std::fs::write(a.join("file"), Rng(32).bytes(3 * MIB as usize)).unwrap();
    std::fs::write(a.join("other"), Rng(33).bytes(2 * MIB as usize)).unwrap();
    let (a_runs, lines) = share(&a, &[&a.join("file"), &a.join("other")]);
    let peer = address(&lines[0]);
    let (b_runs, b_line) = b.daemon(&[]);
    let get = |line: &Value, to: &str| b.ok(&args!["get", text(line, "cid"), "-o", to, "--peer", &peer]);
    get(&lines[0], "file");
    let seen = |home: &Home, id: &str| {
        let peers = home.ok(&args!["peers", "--json"]).json();
        let one = peers.into_iter().find(|p| text(p, "peer") == id);
        one.map(|p| (number(&p, "given"), number(&p, "taken")))
    };
    let (a_id, b_id) = (text(&lines[0], "peer_id"), text(&b_line, "peer_id"));
    assert_eq!(seen(&b, a_id), Some((0, 3 * MIB)));
    assert_eq!(seen(&a, b_id), Some((3 * MIB, 0)));
    b_runs.interrupt().ok();
    let (b_runs, _) = b.daemon(&[]);
    get(&lines[1], "other");
    assert_same(&a.join("other"), &b.join("other"));
    assert_eq!(seen(&b, a_id), Some((0, 5 * MIB)), "counted from nothing again");
    b_runs.interrupt().ok();
    a_runs.interrupt().ok();
}
