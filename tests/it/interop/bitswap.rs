//! Blocks: what kubo makes is fetched from it, and files that dunlin then has by another kubo; compared in bytes,
//! names, kinds and links.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::helia::Helia;
use super::kubo::Kubo;
use super::{need_helia, need_kubo, wait_for};
use crate::support::args;
use crate::support::home::{Home, Running, address, number, text};
use crate::support::tree::{MIB, Rng, allocated, assert_same, awkward_tree, random_file};

const BIG: u64 = 100_000_000;

/// One byte, 100 MB, something of many chunks, a folder that becomes a HAMT, a tree with links.
fn make(root: &Path) {
    fs::write(root.join("byte"), b"x").unwrap();
    random_file(&root.join("big"), 9, BIG);
    random_file(&root.join("mid"), 10, 5_000_000);
    random_file(&root.join("leaves"), 11, 5_000_000);
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    // By its long names the folder is a HAMT with few files: kubo fetches them one after the other.
    for i in 0..1_200u64 {
        fs::write(many.join(format!("{i:0240}")), Rng(i).bytes((i % 200) as usize)).unwrap();
    }
    fs::create_dir(root.join("tree")).unwrap();
    awkward_tree(&root.join("tree"));
}

/// What is added by kubo, and how.
const CASES: [(&str, &str, &[&str]); 8] = [
    ("1 byte", "byte", &["--cid-version=1"]),
    ("100 MB", "big", &["--cid-version=1"]),
    ("a HAMT", "many", &["--cid-version=1"]),
    ("CIDv0", "mid", &["--cid-version=0"]),
    ("a tree by CIDv0", "tree", &["--cid-version=0"]),
    ("dag-pb leaves", "leaves", &["--cid-version=1", "--raw-leaves=false"]),
    ("rabin chunks", "mid", &["--cid-version=1", "--chunker=rabin"]),
    ("a trickle DAG", "mid", &["--cid-version=1", "--trickle"]),
];

/// Fetches through the home's daemon.
fn get(home: &Home, cid: &str, to: &Path, peers: &[&str]) {
    let mut args = args!["get", cid, "-q", "-o", to, "--timeout", "60"].to_vec();
    args.extend(peers.iter().flat_map(|p| args!["--peer", p]));
    home.ok(&args);
}

/// Waits until the DHT tells kubo that this peer has it.
fn kubo_sees(kubo: &Kubo, cid: &str, peer: &str) {
    wait_for("provider for kubo", || {
        kubo.call(&args!["routing", "findprovs", cid]).wait().stdout.contains(peer)
    });
}

#[test]
fn what_kubo_adds_goes_to_dunlin_and_on_to_another_kubo_by_bare_cid() {
    let program = need_kubo!();
    let (boot, b) = (Home::new(), Home::new());
    let (_boot, line) = boot.daemon(&[]);
    let bootstrap = address(&line);
    let root = boot.join("root");
    fs::create_dir(&root).unwrap();
    make(&root);
    let mut first = Kubo::start(&program, &[&bootstrap]);
    let cids: Vec<String> = CASES.iter().map(|(_, name, how)| first.add(&root.join(name), how)).collect();
    cids.iter().for_each(|cid| first.provide(cid));
    let (_daemon, line) = b.daemon(&args!["--bootstrap", &bootstrap]);
    for ((what, name, _), cid) in CASES.iter().zip(&cids) {
        println!("dunlin gets {what}: {cid}");
        get(&b, cid, &b.join(cid), &[]);
        assert_same(&root.join(name), &b.join(cid));
    }
    first.kill();
    // It meets dunlin before its Bitswap is up: this waited without end (see net/late.rs).
    let second = Kubo::start(&program, &[&bootstrap]);
    for ((what, name, _), cid) in CASES.iter().zip(&cids) {
        println!("kubo gets {what}: {cid}");
        kubo_sees(&second, cid, text(&line, "peer_id"));
        second.get(cid, &second.path().join(cid));
        assert_same(&root.join(name), &second.path().join(cid));
    }
}

/// What is added by Helia, and how. It knows no symlinks.
fn helias_cases() -> [(&'static str, &'static str, Value); 7] {
    [
        ("1 byte", "byte", json!({})),
        ("100 MB", "big", json!({})),
        ("a HAMT", "many", json!({})),
        ("CIDv0", "mid", json!({ "cidVersion": 0, "rawLeaves": false })),
        ("dag-pb leaves", "leaves", json!({ "rawLeaves": false })),
        ("rabin chunks", "mid", json!({ "rabin": true })),
        ("a trickle DAG", "mid", json!({ "trickle": true })),
    ]
}

#[test]
fn what_helia_adds_goes_to_dunlin_and_on_to_another_helia_by_address() {
    let folder = need_helia!();
    let home = Home::new();
    let root = home.join("root");
    fs::create_dir(&root).unwrap();
    make(&root);
    let mut first = Helia::start(&folder);
    let cases = helias_cases();
    let cids: Vec<String> =
        cases.iter().map(|(_, name, how)| first.add(&root.join(name), how.clone())).collect();
    let (_daemon, line) = home.daemon(&[]);
    for ((what, name, _), cid) in cases.iter().zip(&cids) {
        println!("dunlin gets {what}: {cid}");
        get(&home, cid, &home.join(cid), &[&first.address]);
        assert_same(&root.join(name), &home.join(cid));
    }
    drop(first);
    let mut second = Helia::start(&folder);
    second.dial(&address(&line));
    for ((what, name, _), cid) in cases.iter().zip(&cids) {
        println!("Helia gets {what}: {cid}");
        let to = home.join(&format!("{cid} by Helia"));
        second.get(cid, &to);
        assert_same(&root.join(name), &to);
    }
}

/// Sources of one file: a dunlin and two kubos.
enum Source {
    Dunlin(Home, Option<Running>, Value),
    Kubo(Box<Kubo>),
}

impl Source {
    fn address(&self) -> String {
        match self {
            Source::Dunlin(_, _, line) => address(line),
            Source::Kubo(kubo) => kubo.address("/tcp/"),
        }
    }

    /// Bytes that it has sent to this peer (a dunlin: to everybody).
    fn sent(&self, to: &str) -> u64 {
        match self {
            Source::Dunlin(home, ..) => number(&home.status(), "uploaded"),
            Source::Kubo(kubo) => {
                let done = kubo.call(&args!["bitswap", "ledger", "--enc=json", to]).wait();
                done.json().first().map_or(0, |ledger| number(ledger, "Sent"))
            }
        }
    }

    fn kill(&mut self) {
        match self {
            Source::Dunlin(_, running, _) => running.take().expect("it runs").kill(),
            Source::Kubo(kubo) => kubo.kill(),
        }
    }
}

#[test]
fn one_fetch_uses_a_dunlin_and_two_kubos_and_survives_the_loss_of_any_two() {
    const LEN: u64 = 60 * MIB;
    let program = need_kubo!();
    for survivor in 0..3 {
        let (a, b) = (Home::new(), Home::new());
        let file = a.join("file");
        random_file(&file, 77, LEN);
        let mut sharing = a.start(&args!["share", "--json", &file]);
        let line = sharing.json();
        let cid = text(&line, "cid").to_owned();
        let kubo = || {
            let kubo = Kubo::start(&program, &[]);
            assert_eq!(kubo.add(&file, &["--cid-version=1"]), cid);
            Source::Kubo(Box::new(kubo))
        };
        let mut sources = [Source::Dunlin(a, Some(sharing), line), kubo(), kubo()];
        let addresses: Vec<String> = sources.iter().map(Source::address).collect();
        fs::create_dir(b.data()).unwrap();
        // Slow enough for the sources to be gone in the middle.
        fs::write(b.data().join("config.toml"), "[limits]\ndownload = \"6M\"\n").unwrap();
        let id = text(&b.ok(&args!["id", "--json"]).json()[0], "peer_id").to_owned();
        let mut get = args!["get", &cid, "-q", "-o", "copy"].to_vec();
        get.extend(addresses.iter().flat_map(|p| args!["--peer", p]));
        let fetching = b.start(&get);
        wait_for("bytes from each of the three", || sources.iter().all(|s| s.sent(&id) > 0));
        for (i, source) in sources.iter_mut().enumerate() {
            if i != survivor {
                source.kill();
            }
        }
        let part = allocated(&b.join("copy.part"));
        assert!(part > 0 && part < LEN - 10 * MIB, "they were lost at {part} bytes, too late to tell");
        fetching.wait().ok();
        let Source::Dunlin(a, ..) = &sources[0] else { unreachable!("made above") };
        assert_same(&a.join("file"), &b.join("copy"));
    }
}
