//! A fetch that gets nowhere says why: in `status --json`, and on its progress line.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use dunlin::wire::exchange::Message;
use serde_json::Value;

use crate::disk_full::Tmpfs;
use crate::support::args;
use crate::support::dag::Dag;
use crate::support::home::{Home, LONG, PAUSE, Running, address, text};
use crate::support::peer::{Manners, Peer, Say, encode, honest_joined};
use crate::support::tree::{MIB, Rng, random_file};

const NOBODYS: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";

/// A node that names the reason after a second.
fn impatient(more: &str) -> (Home, Running) {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("config.toml"), format!("[network]\nstuck_after = 1\n{more}")).unwrap();
    let (daemon, _) = home.daemon(&[]);
    (home, daemon)
}

/// Fetches through the daemon; the peers are asked first.
fn fetch(home: &Home, cid: &str, peers: &[&str]) -> Running {
    let mut args = args!["get", cid, "-o", home.join("copy")].to_vec();
    args.extend(peers.iter().flat_map(|p| args!["--peer", p]));
    Running::spawn(home.command(&args))
}

/// Waits until `status` names this reason; what it says in words.
fn names(home: &Home, reason: &str) -> String {
    let until = Instant::now() + LONG;
    loop {
        let status = home.status();
        let content = &status["contents"][0];
        if content["stuck"] == reason {
            return text(content, "state").to_owned();
        }
        assert!(Instant::now() < until, "not stuck for {reason}: {status}");
        thread::sleep(PAUSE);
    }
}

fn file() -> Arc<Dag> {
    Arc::new(Dag::file(&Rng(1).bytes(600_000)))
}

#[test]
fn a_fetch_that_finds_no_provider_says_so_on_its_line_too() {
    let (home, _daemon) = impatient("");
    let fetching = fetch(&home, NOBODYS, &[]);
    let state = names(&home, "no_providers");
    assert!(state.starts_with("stuck for ") && state.contains("no providers found in "), "{state}");
    let until = Instant::now() + LONG;
    while !fetching.stderr().contains("no providers found in ") {
        assert!(Instant::now() < until, "{}", fetching.stderr());
        thread::sleep(PAUSE);
    }
}

#[test]
fn a_fetch_whose_sources_cannot_be_reached_says_so() {
    let ((home, _daemon), other) = (impatient(""), Home::new());
    // Nothing listens on a port that a node has just given up.
    let (given_up, line) = other.daemon(&[]);
    given_up.interrupt().ok();
    let _fetching = fetch(&home, NOBODYS, &[&address(&line)]);
    assert!(names(&home, "unreachable").contains("1 peer named as a source, unreachable"));
}

#[test]
fn a_fetch_whose_sources_do_not_have_it_says_so() {
    let ((home, _daemon), other) = (impatient(""), Home::new());
    let (_other, line) = other.daemon(&[]);
    let _fetching = fetch(&home, NOBODYS, &[&address(&line)]);
    assert!(names(&home, "without_content").contains("1 of 1 named as sources reached"));
}

#[test]
fn a_fetch_that_everybody_chokes_says_so() {
    let (home, _daemon) = impatient("");
    let choking = |dag: &Dag| {
        let honest = honest_joined(dag);
        let choke =
            Message::Update(dunlin::wire::exchange::Update { choke: Some(true), ..Default::default() });
        honest.into_iter().chain([Say::Control(encode(&choke))]).collect()
    };
    let manners = Manners { joined: Box::new(choking), chunk: Box::new(|_, _| Vec::new()) };
    let peer = Peer::serve(file(), manners);
    let _fetching = fetch(&home, &file().root.to_string(), &[&peer.addr]);
    assert!(names(&home, "choked").contains("1 peer has what is missing, and chokes us"));
}

#[test]
fn a_fetch_that_nobody_answers_says_so() {
    let (home, _daemon) = impatient("");
    let peer = Peer::serve(file(), Manners::on_chunk(|_, _| Vec::new()));
    let _fetching = fetch(&home, &file().root.to_string(), &[&peer.addr]);
    assert!(names(&home, "choked").contains("1 peer has what is missing"));
}

#[test]
fn a_fetch_that_its_own_limit_holds_up_says_so() {
    let ((home, _daemon), other) = (impatient("[limits]\ndownload = 1000\n"), Home::new());
    let path = other.join("file");
    random_file(&path, 1, 2 * MIB);
    let mut sharing = other.start(&args!["share", "--json", &path]);
    let shared: Value = sharing.json();
    let _fetching = fetch(&home, text(&shared, "cid"), &[&address(&shared)]);
    assert!(names(&home, "limit").contains("the download limit is used up"));
}

#[test]
fn a_fetch_that_a_full_disk_has_ended_says_so() {
    let ((home, _daemon), other) = (impatient(""), Home::new());
    let small = match Tmpfs::mount(&home.join("small"), "2m") {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: {why}"),
    };
    let path = other.join("file");
    random_file(&path, 1, 8 * MIB);
    let mut sharing = other.start(&args!["share", "--json", &path]);
    let shared = sharing.json();
    let dest = small.path().join("copy");
    let get = args!["get", text(&shared, "cid"), "-o", &dest, "--peer", address(&shared)];
    Running::spawn(home.command(&get)).wait().code(1);
    assert!(names(&home, "disk").starts_with("stopped: disk full"), "{}", home.status());
}
