//! Limits that are set while the node runs: they hold at once, of everything, of a content and of a peer, and are
//! kept.

use std::ffi::OsString;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::args;
use crate::support::home::{Home, LONG, Running, address, number, text};
use crate::support::tree::{assert_same, random_file};
use crate::transfer::share;

fn limits(home: &Home, more: &[OsString]) -> Value {
    let command = [&args!["limits", "--json"][..], more].concat();
    home.ok(&command).json().remove(0)
}

#[test]
fn limits_are_kept_across_restarts_with_a_node_and_without() {
    let home = Home::new();
    std::fs::create_dir(home.data()).unwrap();
    std::fs::write(home.data().join("config.toml"), "[limits]\nupload = \"7M\"\nslots = 3\n").unwrap();
    std::fs::write(home.join("file"), b"a few bytes").unwrap();
    let cid = text(&home.ok(&args!["add", "--json", "file"]).json()[0], "cid").to_owned();
    let peer = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8";

    // Nobody runs: what is set holds for whoever runs next.
    let now = limits(&home, &args!["--down", "2M"]);
    assert_eq!((number(&now, "up"), number(&now, "down"), number(&now, "slots")), (7_000_000, 2_000_000, 3));
    assert_eq!(now["set"], json!(["down"]));
    let (daemon, _) = home.daemon(&[]);
    assert_eq!(limits(&home, &[]), now);
    limits(&home, &args!["--up", "unlimited", "--slots", "auto"]);
    limits(&home, &args!["--content", home.join("file"), "--up", "5k"]);
    let now = limits(&home, &args!["--peer", peer, "--down", "1Ki"]);
    assert_eq!((&now["up"], &now["slots"]), (&Value::Null, &Value::Null));
    assert_eq!(now["contents"], json!([{ "cid": cid, "name": "file", "up": 5_000, "down": null }]));
    assert_eq!(now["peers"], json!([{ "peer": peer, "up": null, "down": 1_024 }]));
    daemon.kill();

    let (daemon, _) = home.daemon(&[]);
    assert_eq!(limits(&home, &[]), now, "not kept");
    home.ok(&args!["rm", &cid]);
    limits(&home, &args!["--peer", peer, "--down", "default"]);
    let now = limits(&home, &args!["--up", "default", "--down", "default", "--slots", "default"]);
    let file = json!({ "up": 7_000_000, "down": null, "slots": 3, "set": [], "contents": [], "peers": [] });
    assert_eq!(now, file);
    daemon.interrupt().ok();

    let error = home.run(&args!["limits", "--content", &cid, "--up", "1k"]).code(1);
    assert!(error.error().contains("not one of our contents"), "{}", error.error());
    let error = home.run(&args!["limits", "--peer", "nobody", "--up", "1k"]).code(2);
    assert!(error.error().contains("12D3KooW"), "{}", error.error());
}

/// A node that shares a file and another that is about to fetch it, both without a limit.
struct Pair {
    a: Home,
    b: Home,
    shared: Value,
    _a_runs: Running,
}

/// What a limit lets through, and how much is looked at.
const RATE: u64 = 2_000_000;
const WINDOW: u64 = 6_000_000;

impl Pair {
    fn new(seed: u64) -> Pair {
        let (a, b) = (Home::new(), Home::new());
        random_file(&a.join("file"), seed, 40_000_000);
        let (_a_runs, mut lines) = share(&a, &[&a.join("file")]);
        Pair { a, b, shared: lines.remove(0), _a_runs }
    }

    /// Limits `home`, fetches, measures the rate over [`WINDOW`], takes the limit away: the rest comes at once.
    fn holds(&self, what: &str, home: &Home, whose: &[OsString], way: &str) {
        println!("{what}");
        let set = |rate: &str| {
            let rate = [way, rate].map(OsString::from);
            limits(home, &[whose, &rate[..]].concat());
        };
        // The fetching node listens before it fetches; it is slow from the start.
        set("2M");
        let peer = address(&self.shared);
        let command = args!["get", text(&self.shared, "cid"), "-q", "-o", "copy", "--peer", &peer];
        let get = self.b.start(&command);
        let (from, at) = self.taken(RATE);
        let (to, then) = self.taken(from + WINDOW);
        let rate = (to - from) as f64 / (then - at).as_secs_f64();
        println!("{what}: {rate:.0} bytes a second");
        assert!(rate < 1.25 * RATE as f64, "{what}: {rate:.0} bytes a second under a limit of {RATE}");
        set("unlimited");
        get.wait().ok();
        assert_same(&self.a.join("file"), &self.b.join("copy"));
        std::fs::remove_file(self.b.join("copy")).unwrap();
        self.b.ok(&args!["rm", text(&self.shared, "cid")]);
    }

    /// Waits until the fetching node has taken so much; says how much, and when.
    fn taken(&self, bytes: u64) -> (u64, Instant) {
        let end = Instant::now() + LONG;
        loop {
            let status = self.b.run(&args!["status", "--json"]);
            let taken = if status.code == Some(0) { number(&status.json()[0], "downloaded") } else { 0 };
            if taken >= bytes {
                return (taken, Instant::now());
            }
            assert!(Instant::now() < end, "{bytes} bytes have not come within {LONG:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn an_upload_limit_holds_for_everything_a_content_and_a_peer() {
    let pair = Pair::new(21);
    let id = |home: &Home| text(&home.ok(&args!["id", "--json"]).json()[0], "peer_id").to_owned();
    pair.holds("up", &pair.a, &[], "--up");
    pair.holds("up of a content", &pair.a, &args!["--content", pair.a.join("file")], "--up");
    pair.holds("up of a peer", &pair.a, &args!["--peer", id(&pair.b)], "--up");
}

#[test]
fn a_download_limit_holds_for_everything_and_a_peer() {
    let pair = Pair::new(22);
    let id = text(&pair.a.ok(&args!["id", "--json"]).json()[0], "peer_id").to_owned();
    pair.holds("down", &pair.b, &[], "--down");
    pair.holds("down of a peer", &pair.b, &args!["--peer", id], "--down");
}
