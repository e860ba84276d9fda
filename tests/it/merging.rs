//! Two contents that share most of their chunks, fetched at once: what both want comes over the network once.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::args;
use crate::support::home::{Home, LONG, Running, address, number, text};
use crate::support::tree::{assert_same, random_file};
use crate::transfer::share;

const COMMON: u64 = 12_000_000;
const OWN: u64 = 3_000_000;
/// Beyond the chunks themselves: what is under way twice when a peer goes, and the end.
const SLACK: u64 = 1_500_000;

/// A folder of these files, by seed and size, the first of them the common one.
fn folder(at: &Path, files: &[(&str, u64, u64)]) {
    std::fs::create_dir(at).unwrap();
    files.iter().for_each(|(name, seed, size)| random_file(&at.join(name), *seed, *size));
}

/// Shares a folder slowly, so that it can be looked at meanwhile.
pub fn share_slowly(home: &Home, files: &[(&str, u64, u64)]) -> (Running, Value) {
    folder(&home.join("tree"), files);
    let (running, mut lines) = share(home, &[&home.join("tree")]);
    home.ok(&args!["limits", "--up", "2M"]);
    (running, lines.remove(0))
}

/// Asks a running node to fetch what a share line tells.
pub fn get(home: &Home, shared: &Value, dest: &str) -> Running {
    let peer = address(shared);
    let command = args!["get", text(shared, "cid"), "--json", "-o", home.join(dest), "--peer", &peer];
    Running::spawn(home.command(&command))
}

pub fn downloaded(home: &Home) -> u64 {
    number(&home.status(), "downloaded")
}

pub fn until_downloaded(home: &Home, bytes: u64) {
    let end = Instant::now() + LONG;
    while downloaded(home) < bytes {
        assert!(Instant::now() < end, "{} of {bytes} bytes after {LONG:?}", downloaded(home));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_contents_that_share_chunks_and_no_peer_fetch_each_chunk_once() {
    let (a, b, c) = (Home::new(), Home::new(), Home::new());
    let (_a_runs, of_a) = share_slowly(&a, &[("common", 71, COMMON), ("own", 72, OWN)]);
    let (_b_runs, of_b) = share_slowly(&b, &[("the same", 71, COMMON), ("other", 73, OWN)]);
    let (daemon, _) = c.daemon(&[]);
    let (first, second) = (get(&c, &of_a, "a"), get(&c, &of_b, "b"));
    first.wait().ok();
    second.wait().ok();
    assert_same(&a.join("tree"), &c.join("a"));
    assert_same(&b.join("tree"), &c.join("b"));
    let (got, union) = (downloaded(&c), COMMON + 2 * OWN);
    println!("{got} bytes received, {union} in the union");
    assert!((union..union + SLACK).contains(&got), "{got} bytes received, {union} in the union");
    // Providers of either served both: neither gave the whole of its content.
    for home in [&a, &b] {
        let gave = number(&home.status(), "uploaded");
        assert!(gave < COMMON + OWN && gave > OWN, "{gave}");
    }
    daemon.interrupt().ok();
}

#[test]
fn a_content_whose_peer_is_killed_is_finished_by_the_peer_of_the_other() {
    let (a, b, c) = (Home::new(), Home::new(), Home::new());
    let (_a_runs, of_a) = share_slowly(&a, &[("common", 74, COMMON), ("own", 75, OWN)]);
    let (b_runs, of_b) = share_slowly(&b, &[("the same", 74, COMMON)]);
    let (daemon, _) = c.daemon(&[]);
    let (first, second) = (get(&c, &of_a, "a"), get(&c, &of_b, "b"));
    until_downloaded(&c, COMMON / 2);
    b_runs.kill();
    first.wait().ok();
    second.wait().ok();
    assert_same(&a.join("tree"), &c.join("a"));
    assert_same(&b.join("tree"), &c.join("b"));
    let (got, union) = (downloaded(&c), COMMON + OWN);
    println!("{got} bytes received, {union} in the union");
    assert!((union..union + SLACK).contains(&got), "{got} bytes received, {union} in the union");
    daemon.interrupt().ok();
}

#[test]
fn a_fetch_that_is_given_up_leaves_its_chunks_to_the_other() {
    let (a, b, c) = (Home::new(), Home::new(), Home::new());
    let (_a_runs, of_a) = share_slowly(&a, &[("common", 76, COMMON), ("own", 77, OWN)]);
    let (_b_runs, of_b) = share_slowly(&b, &[("the same", 76, COMMON)]);
    let (daemon, _) = c.daemon(&[]);
    let (first, second) = (get(&c, &of_a, "a"), get(&c, &of_b, "b"));
    until_downloaded(&c, COMMON / 3);
    first.interrupt();
    second.wait().ok();
    assert_same(&b.join("tree"), &c.join("b"));
    let got = downloaded(&c);
    assert!(got < COMMON + OWN + SLACK, "{got} bytes received for {COMMON}");
    daemon.interrupt().ok();
}

#[test]
fn a_fetch_to_a_second_place_at_once_is_refused_and_does_not_get_the_sharer_banned() {
    let (a, c) = (Home::new(), Home::new());
    let (_a_runs, of_a) = share_slowly(&a, &[("common", 78, OWN)]);
    let (daemon, _) = c.daemon(&[]);
    let first = get(&c, &of_a, "one");
    until_downloaded(&c, OWN / 10);
    let refused = get(&c, &of_a, "two").wait().code(1);
    assert!(refused.error().contains("another place"), "{}", refused.error());
    first.wait().ok();
    get(&c, &of_a, "two").wait().ok();
    assert_same(&a.join("tree"), &c.join("one"));
    assert_same(&a.join("tree"), &c.join("two"));
    assert!(downloaded(&c) < OWN + SLACK / 2, "the second was taken from the disk");
    daemon.interrupt().ok();
}
