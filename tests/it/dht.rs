//! The DHT among processes on loopback, where its local twin is what they meet in: what is told, what outlives a
//! restart, and servers that lie.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use dunlin::content::Cid;
use serde_json::Value;

use crate::interop::wait_for;
use crate::support::args;
use crate::support::home::{Home, address, number, text};
use crate::support::liar::Liar;
use crate::support::tree::{assert_same, random_file};

/// What a status says of the local DHT.
fn lan(home: &Home) -> Value {
    home.status()["dht"]["lan"].clone()
}

/// Whether a look-up from `at` names anybody, or this peer.
fn finds(at: &Home, cid: &str, peer: &str) -> bool {
    at.run(&args!["find", "--json", cid]).stdout.contains(peer)
}

/// The CID of a file's first chunk.
fn first_chunk(file: &std::path::Path) -> String {
    let bytes = std::fs::read(file).unwrap();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&bytes[..262_144]);
    Cid::new_v1(0x55, dunlin::content::Hash::wrap(0x12, &digest).unwrap()).to_string()
}

/// Waits until all that a node provides has been told, and that is so much.
fn has_told(home: &Home, keys: u64) {
    wait_for("node that has told what it provides", || {
        let lan = lan(home);
        number(&lan, "keys") == keys && number(&lan, "waiting") == 0
    });
}

#[test]
fn a_server_that_is_asked_back_by_a_stranger_names_us() {
    let (server, a) = (Home::new(), Home::new());
    let (_server, line) = server.daemon(&[]);
    let (_a, _) = a.daemon(&args!["--bootstrap", address(&line)]);
    let file = a.join("file");
    random_file(&file, 90, 1_000);
    a.ok(&args!["add", "-q", &file]);
    wait_for("server in the table", || number(&lan(&a), "servers") == 1);
    let said = a.ok(&args!["provide", "--json", "--verify", &file]).json();
    let lan = &said[0]["lan"];
    assert_eq!(["closest", "told", "hold"].map(|f| number(lan, f)), [1, 1, 1], "{lan}");
}

#[test]
fn what_is_told_of_a_content_is_what_was_asked_for() {
    let (boot, a, b) = (Home::new(), Home::new(), Home::new());
    let (_boot, line) = boot.daemon(&[]);
    let (_a, a_line) = a.daemon(&args!["--bootstrap", address(&line)]);
    let (_b, b_line) = b.daemon(&args!["--bootstrap", address(&line)]);
    let (a_id, b_id) = (text(&a_line, "peer_id"), text(&b_line, "peer_id"));
    // Three chunks each. The one that shares says one thing of it, the one that fetches another.
    let ways = [("roots", "all", 91), ("all", "none", 92), ("none", "roots", 93)];
    let contents = ways.map(|(way, other, seed)| {
        let file = a.join(way);
        random_file(&file, seed, 600_000);
        let cid = a.ok(&args!["add", "-q", "--provide", way, &file]).stdout.trim().to_owned();
        (cid, first_chunk(&file), other)
    });
    has_told(&a, 1 + 4);
    for (cid, _, other) in &contents {
        let to = b.join(other);
        b.ok(&args!["get", cid, "-q", "-o", to, "--provide", other, "--peer", address(&a_line)]);
    }
    has_told(&b, 4 + 1);
    let seen =
        |id: &str| contents.each_ref().map(|(cid, chunk, _)| [cid, chunk].map(|c| finds(&boot, c, id)));
    assert_eq!(seen(a_id), [[true, false], [true, true], [false, false]]);
    assert_eq!(seen(b_id), [[true, true], [false, false], [true, false]]);
}

#[test]
fn a_node_without_bootstrap_peers_comes_back_by_whom_it_knew() {
    let (boot, a, b) = (Home::new(), Home::new(), Home::new());
    let (_boot, line) = boot.daemon(&[]);
    let (_a, a_line) = a.daemon(&args!["--bootstrap", address(&line)]);
    let file = a.join("file");
    random_file(&file, 94, 1_000);
    let cid = a.ok(&args!["add", "-q", &file]).stdout.trim().to_owned();
    has_told(&a, 1);
    let (b_runs, _) = b.daemon(&args!["--bootstrap", address(&line)]);
    let since = Instant::now();
    // One that ran for a moment has nothing to keep.
    wait_for("server in the table", || {
        number(&lan(&b), "servers") > 0 && since.elapsed() > Duration::from_secs(10)
    });
    b_runs.interrupt().ok();
    let (_b, _) = b.daemon(&[]);
    wait_for("provider", || finds(&b, &cid, text(&a_line, "peer_id")));
    // One that knew nobody finds nothing so.
    let stranger = Home::new();
    let (_stranger, _) = stranger.daemon(&[]);
    assert!(!finds(&stranger, &cid, text(&a_line, "peer_id")));
}

#[test]
fn servers_that_name_false_peers_and_providers_do_not_keep_a_fetch_from_its_end() {
    let (boot, a, b) = (Home::new(), Home::new(), Home::new());
    let (_boot, line) = boot.daemon(&[]);
    let file = a.join("file");
    random_file(&file, 95, 600_000);
    // It takes seconds, so that the look-up comes to the liars before all is here.
    fs::create_dir(a.data()).unwrap();
    fs::write(a.data().join("config.toml"), "[limits]\nupload = \"100k\"\n").unwrap();
    let (_a, _) = a.daemon(&args!["--bootstrap", address(&line)]);
    let cid = a.ok(&args!["add", "-q", &file]).stdout.trim().to_owned();
    has_told(&a, 1);
    // It takes connections and never says a word.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = format!("/ip4/127.0.0.1/tcp/{}", hole.local_addr().unwrap().port()).parse().unwrap();
    let liars: Vec<Liar> = (0..8).map(|_| Liar::new(&address(&line), &nowhere)).collect();
    wait_for("network of liars", || number(&lan(&boot), "servers") == 1 + 8);
    // It enters by two liars and the one who tells the truth.
    let ways = [&liars[0].addr, &liars[1].addr, &address(&line)];
    let ways: Vec<_> = ways.iter().flat_map(|w| args!["--bootstrap", w]).collect();
    let command = args!["get", &cid, "-q", "-o", b.join("copy")];
    let done = b.start(&[&command[..], &ways].concat()).wait().ok();
    assert_same(&file, &b.join("copy"));
    assert!(liars.iter().any(|l| l.asked() > 0), "nobody asked a liar: {}", done.stderr);
}
