//! What is paused is neither fetched, nor sent, nor told to the DHT, until it is resumed, also after a restart.

use std::fs;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::interop::wait_for;
use crate::support::args;
use crate::support::home::{Home, LONG, PAUSE, Running, address, number, text};
use crate::support::tree::{MIB, assert_same, random_file};
use crate::transfer::share;

/// A node that would say after a second why a fetch gets nowhere.
fn impatient() -> Home {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("config.toml"), "[network]\nstuck_after = 1\n").unwrap();
    home
}

fn change(home: &Home, how: &str, what: &str) -> Value {
    home.ok(&args![how, "--json", what]).json().remove(0)
}

fn content(home: &Home) -> Value {
    home.status()["contents"][0].clone()
}

fn is_paused(content: &Value) -> bool {
    content["paused"] == true && content["state"] == "paused" && content["stuck"].is_null()
}

/// Asks the daemon of `home` for it, and waits until the line in the terminal says so.
fn says(mut get: Running, what: &str) -> Running {
    let until = Instant::now() + LONG;
    while !get.stderr().contains(what) {
        assert!(Instant::now() < until && !get.has_ended(), "no {what:?} in {}", get.stderr());
        thread::sleep(PAUSE);
    }
    get
}

fn nobody_is_banned(homes: [&Home; 2]) {
    for home in homes {
        let banned = home.ok(&args!["peers", "--banned", "--json"]).json();
        assert!(banned.is_empty(), "{banned:?}");
    }
}

#[test]
fn a_paused_fetch_stays_paused_when_the_daemon_restarts_and_ends_well_once_resumed() {
    let (a, b) = (Home::new(), impatient());
    random_file(&a.join("file"), 91, 8 * MIB);
    let (_a_runs, mut lines) = share(&a, &[&a.join("file")]);
    let (shared, copy) = (lines.remove(0), b.join("copy"));
    let (cid, peer) = (text(&shared, "cid"), address(&shared));
    b.ok(&args!["limits", "--down", "1M"]);
    let (daemon, _) = b.daemon(&args!["--peer", &peer]);
    let get = || Running::spawn(b.command(&args!["get", cid, "-o", &copy]));
    let getting = get();
    wait_for("first bytes", || number(&b.status(), "downloaded") > 600_000);

    let paused = change(&b, "pause", cid);
    assert!(is_paused(&paused) && paused["complete"] == false, "{paused}");
    let taken = number(&b.status(), "downloaded");
    // That is told to those who served it, and the get that waits says it.
    wait_for("empty swarm", || number(&content(&a), "peers") == 0);
    let getting = says(getting, "paused");
    assert_eq!(number(&b.status(), "downloaded"), taken, "bytes came after the pause");
    let now = content(&b);
    assert!(is_paused(&now) && number(&now, "peers") == 0, "{now}");

    daemon.interrupt().ok();
    getting.wait().code(1);
    assert!(is_paused(&b.ok(&args!["list", "--json"]).json()[0]), "not kept");
    let (daemon, _) = b.daemon(&args!["--peer", &peer]);
    wait_for("connection", || number(&b.status(), "peers") == 1);
    let getting = says(get(), "paused");
    let (now, status) = (content(&b), b.status());
    assert!(is_paused(&now) && number(&now, "held") > 0, "{now}");
    assert_eq!(number(&status, "downloaded"), 0, "fetched although it is paused: {status}");

    b.ok(&args!["limits", "--down", "default"]);
    let resumed = change(&b, "resume", copy.to_str().unwrap());
    assert_eq!((&resumed["paused"], text(&resumed, "cid")), (&false.into(), cid));
    getting.wait().ok();
    assert_same(&a.join("file"), &copy);
    let again = number(&b.status(), "downloaded") + taken;
    assert!(again <= 9 * MIB, "{again} bytes for 8 MiB: what was held was fetched again");
    nobody_is_banned([&a, &b]);
    daemon.interrupt().ok();
}

#[test]
fn a_paused_content_is_served_to_nobody_and_told_to_no_dht_until_it_is_resumed() {
    let (a, b) = (Home::new(), impatient());
    random_file(&a.join("file"), 92, 2 * MIB);
    let (_a, line) = a.daemon(&[]);
    let cid = a.ok(&args!["add", "-q", "file"]).stdout.trim().to_owned();
    let keys = |n| wait_for("such number of keys", || number(&a.status()["dht"]["lan"], "keys") == n);
    keys(1);
    assert!(is_paused(&change(&a, "pause", "file")));
    keys(0);
    // Added once more it stays what it is, and that is said.
    let added = a.ok(&args!["add", "--json", "file"]);
    assert!(added.json()[0]["paused"] == true && added.stderr.contains("paused"), "{}", added.stderr);

    let (_b, _) = b.daemon(&[]);
    let peer = address(&line);
    let mut getting = Running::spawn(b.command(&args!["get", &cid, "-o", b.join("copy"), "--peer", &peer]));
    wait_for("reason", || content(&b)["stuck"] == "without_content");
    assert!(!getting.has_ended() && number(&b.status(), "downloaded") == 0);
    assert_eq!(number(&a.status(), "uploaded"), 0);

    change(&a, "resume", "file");
    getting.wait().ok();
    assert_same(&a.join("file"), &b.join("copy"));
    keys(1);
    nobody_is_banned([&a, &b]);
}

#[test]
fn without_a_node_it_is_noted_for_the_next() {
    let home = Home::new();
    for name in ["one", "two"] {
        fs::write(home.join(name), name).unwrap();
    }
    home.ok(&args!["add", "-q", "one", "two"]);
    let both = home.ok(&args!["pause", "--json", "one", "two"]).json();
    assert!(both.len() == 2 && both.iter().all(is_paused), "{both:?}");
    let (daemon, _) = home.daemon(&[]);
    let contents = home.status()["contents"].as_array().unwrap().clone();
    assert!(contents.iter().all(is_paused), "{contents:?}");
    assert!(home.ok(&args!["list"]).stdout.contains("paused"));
    daemon.interrupt().ok();
    // Both ways are said of what is so already, too.
    let cid = home.ok(&args!["resume", "-q", "one"]).stdout;
    assert_eq!(home.ok(&args!["resume", "-q", "one"]).stdout, cid);
    // What is forgotten is as new when it comes back.
    home.ok(&args!["rm", "two"]);
    home.ok(&args!["add", "-q", "two"]);
    let (_daemon, _) = home.daemon(&[]);
    let contents = home.status()["contents"].as_array().unwrap().clone();
    assert!(contents.iter().all(|c| c["state"] == "seeding" && c["paused"] == false), "{contents:?}");

    let some = home.run(&args!["pause", "one", "three"]).code(1);
    assert!(
        some.error().contains("not everything") && some.stderr.contains("three is not one of our contents")
    );
    assert!(is_paused(&home.ok(&args!["list", "--json"]).json().remove(0)));
    for bad in [&args!["pause"][..], &args!["resume", ""], &args!["pause", "magnet:?xt=nothing"]] {
        let done = home.run(bad).code(2);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
}
