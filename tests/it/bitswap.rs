//! Bitswap: between nodes that are told to speak nothing else, with peers of every version, and with peers
//! that lie, flood or stall. (Real kubo and Helia: `interop`.)

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dunlin::content::block::cid_of;
use dunlin::content::{Cid, DAG_PB, RAW};
use dunlin::wire::bitswap::{Ask, Message};
use serde_json::Value;

use crate::support::args;
use crate::support::bitswap::{Facts, Got, Say, Server, V1_0, V1_1, V1_2, ask, block, encode, wants};
use crate::support::dag::Dag;
use crate::support::home::{Home, Running, address, number, text};
use crate::support::tree::{MIB, Rng, assert_no_wrong_byte, assert_same, awkward_tree};
use crate::transfer::share;

const SIZE: usize = 24 * MIB as usize;

/// A file that an honest node shares, and the same as a DAG.
struct Scene {
    a: Home,
    honest: Running,
    line: Value,
    dag: Dag,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let a = Home::new();
        // Slow enough that it is not done before the others are asked.
        std::fs::create_dir(a.data()).unwrap();
        std::fs::write(a.data().join("config.toml"), "[limits]\nupload = \"6M\"\n").unwrap();
        let data = Rng(seed).bytes(SIZE);
        std::fs::write(a.join("file"), &data).unwrap();
        let dag = Dag::file(&data);
        let (honest, mut lines) = share(&a, &[&a.join("file")]);
        let line = lines.remove(0);
        assert_eq!(text(&line, "cid"), dag.root.to_string(), "both must be the same content");
        Scene { a, honest, line, dag }
    }

    /// Fetches from these peers; the file must be right.
    fn fetch(&self, peers: &[&str]) {
        let b = Home::new();
        let cid = self.dag.root.to_string();
        let peers = peers.iter().flat_map(|p| args!["--peer", *p]);
        let command: Vec<_> = args!["get", &cid, "-o", "copy", "-vv"].into_iter().chain(peers).collect();
        b.start(&command).wait().ok();
        assert_same(&self.a.join("file"), &b.join("copy"));
    }

    /// Fetches from a peer that serves blocks in this way, and from the honest node.
    fn fetch_beside(
        &self,
        what: &str,
        on_block: impl Fn(&Cid, &[u8]) -> Vec<Say> + Send + Sync + 'static,
    ) -> Server {
        println!("beside a peer with {what}");
        let evil = Server::start(&self.dag, V1_2, move |cid, data| on_block(cid, data));
        self.fetch(&[&evil.addr, &address(&self.line)]);
        assert!(evil.facts().haves > 0, "{what}: nobody asked the peer");
        evil
    }

    fn chunks(&self) -> Vec<Cid> {
        self.dag.chunks.iter().map(|c| cid_of(false, RAW, c)).collect()
    }
}

fn gone(f: &Facts) -> bool {
    f.connected > 0 && f.disconnected == f.connected
}

#[test]
fn two_nodes_without_the_exchange_trade_by_bitswap() {
    let (a, b) = (Home::new(), Home::new());
    awkward_tree(&a.join("tree"));
    std::fs::write(a.join("byte"), b"x").unwrap();
    // Its tail is a small DAG: one chunk of several blocks.
    std::fs::write(a.join("file"), Rng(3).bytes(46 * MIB as usize + 700_001)).unwrap();
    let names = ["tree", "byte", "file"];
    let command: Vec<_> = args!["share", "--json", "--no-exchange"]
        .into_iter()
        .chain(names.iter().map(|n| a.join(n).into_os_string()))
        .collect();
    let mut sharing = a.start(&command);
    for name in names {
        let line = sharing.json();
        let get =
            args!["get", text(&line, "link"), "--no-exchange", "-o", b.join(name), "--peer", address(&line)];
        b.start(&get).wait().ok();
        assert_same(&a.join(name), &b.join(name));
    }
    let status = a.status();
    assert!(number(&status, "uploaded") > 46 * MIB, "{status}");
}

#[test]
fn a_node_that_speaks_both_is_fetched_from_by_the_exchange() {
    let (a, b) = (Home::new(), Home::new());
    std::fs::write(a.join("file"), Rng(4).bytes(SIZE)).unwrap();
    let (_sharing, lines) = share(&a, &[&a.join("file")]);
    let (_daemon, _) = b.daemon(&[]);
    b.ok(&args!["get", text(&lines[0], "link"), "-o", b.join("copy"), "--peer", address(&lines[0])]);
    let peers = b.ok(&args!["peers", "--json"]).json();
    assert_eq!(peers.iter().map(|p| text(p, "link")).collect::<Vec<_>>(), ["exchange"]);
}

#[test]
fn every_version_of_the_protocol_is_fetched_from() {
    let scene = Scene::new(11);
    for version in [V1_2, V1_1, V1_0] {
        println!("{version}");
        let server = Server::honest(&scene.dag, version);
        scene.fetch(&[&server.addr]);
        let facts = server.facts();
        assert_eq!(facts.haves > 0, version == V1_2, "only 1.2 knows HAVE");
        assert!(facts.wanted.len() >= scene.dag.chunks.len(), "{facts:?}");
    }
}

#[test]
fn one_fetch_takes_from_dunlin_and_bitswap_peers_and_survives_the_loss_of_some() {
    let scene = Scene::new(12);
    let served = |server: &Server| server.facts().wanted.len();
    let (one, two) = (Server::honest(&scene.dag, V1_2), {
        // Has enough after a few blocks, for ever.
        let n = AtomicU32::new(0);
        Server::start(&scene.dag, V1_2, move |_, data| match n.fetch_add(1, Ordering::Relaxed) {
            0..5 => vec![Say::Bytes(block(data))],
            _ => Vec::new(),
        })
    });
    scene.fetch(&[&one.addr, &two.addr, &address(&scene.line)]);
    assert!(served(&one) > 0 && served(&two) > 0);
}

#[test]
fn blocks_with_wrong_bytes_ban_at_the_third() {
    let scene = Scene::new(13);
    let wrong = |_: &Cid, data: &[u8]| {
        let mut data = data.to_vec();
        data[0] ^= 1;
        vec![Say::Bytes(block(&data))]
    };
    let evil = scene.fetch_beside("wrong bytes", wrong);
    assert!(evil.facts().wanted.len() <= 8, "{:?}", evil.facts());
    let noise = |_: &Cid, _: &[u8]| (0..5).map(|n| Say::Bytes(block(&[n; 100]))).collect();
    scene.fetch_beside("blocks that nobody asked for", noise).until("the ban", gone);
}

/// Bytes that no program of the protocol would send.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let huge_cid =
        [&[0xb1, 0x01, 0x0a, 0xae, 0x01, 0x0a, 0xab, 0x01, 0x0a, 0xa9, 0x01][..], &[1; 169]].concat();
    vec![
        ("an oversized message", [&[0x81, 0x80, 0x80, 0x02][..], &[0; 4_096]].concat()),
        ("a varint without end", vec![0xff; 64]),
        ("noise", [&[100][..], &Rng(9).bytes(400)].concat()),
        ("a CID that is too long", huge_cid),
        ("a block cut off by the message's end", vec![6, 0x1a, 0xff, 0xff, 0x7f, 1, 2]),
    ]
}

#[test]
fn messages_outside_the_protocol_end_the_link_and_not_the_fetch() {
    let scene = Scene::new(14);
    for (what, bytes) in garbage() {
        scene.fetch_beside(what, move |_, _| vec![Say::Bytes(bytes.clone())]);
    }
}

#[test]
fn a_peer_that_never_sends_or_drips_holds_nothing_up() {
    let scene = Scene::new(15);
    let evil = scene.fetch_beside("nothing to send", |_, _| Vec::new());
    assert!(!evil.facts().wanted.is_empty());
    scene.fetch_beside("a byte at a time", |_, data| {
        vec![Say::Trickle(block(data), Duration::from_millis(200))]
    });
    scene.fetch_beside("half a block", |_, data| {
        let bytes = block(data);
        vec![Say::Bytes(bytes[..bytes.len() / 2].to_vec())]
    });
}

#[test]
fn no_bad_byte_reaches_the_disk_when_only_a_liar_is_there() {
    let scene = Scene::new(16);
    let n = AtomicU32::new(0);
    let turncoat = move |_: &Cid, data: &bytes::Bytes| {
        let mut data = data.to_vec();
        data[0] ^= u8::from(n.fetch_add(1, Ordering::Relaxed) >= 5);
        vec![Say::Bytes(block(&data))]
    };
    let evil = Server::start(&scene.dag, V1_2, turncoat);
    let (b, cid) = (Home::new(), scene.dag.root.to_string());
    let done =
        b.start(&args!["get", &cid, "-o", "copy", "--peer", &evil.addr, "--timeout", "15"]).wait().code(1);
    assert!(done.error().contains("no progress for 15 s"), "{}", done.error());
    evil.until("the ban", gone);
    assert!(!b.join("copy").exists());
    assert_no_wrong_byte(&scene.a.join("file"), &b.join("copy.part"));
}

#[test]
fn wants_are_answered_truthfully_by_every_name_of_a_block() {
    let scene = Scene::new(17);
    let addr = address(&scene.line);
    let (chunks, absent) = (scene.chunks(), cid_of(false, RAW, b"held by nobody"));
    let (root, first) = (scene.dag.root, chunks[0]);
    let other_name = Cid::new_v1(DAG_PB, *first.hash());
    let root_v0 = Cid::new_v0(*root.hash()).unwrap();
    let say = [wants(&[root, first, absent], Ask::Have), wants(&[other_name, root_v0], Ask::Block)].concat();
    let got = ask(&addr, V1_2, say, |got| got.presences.len() >= 3 && got.blocks.len() >= 2);
    assert_eq!((got.presences[&root], got.presences[&first], got.presences[&absent]), (true, true, false));
    assert_eq!(got.blocks[&other_name], scene.dag.chunks[0]);
    assert_eq!(got.blocks[&root_v0], scene.dag.node(&root).unwrap());

    for version in [V1_2, V1_1] {
        let got = ask(&addr, version, wants(&chunks, Ask::Block), |got| got.blocks.len() == chunks.len());
        assert!(chunks.iter().zip(&scene.dag.chunks).all(|(cid, data)| got.blocks[cid] == *data));
        assert_eq!(got.twice, 0);
    }
    // Without a prefix they are CIDv0.
    let got = ask(&addr, V1_0, wants(&chunks, Ask::Block), |got| got.blocks.len() == chunks.len());
    assert!(chunks.iter().all(|cid| got.blocks.contains_key(&Cid::new_v0(*cid.hash()).unwrap())));
}

#[test]
fn what_is_wanted_before_it_is_here_is_sent_when_it_comes() {
    let a = Home::new();
    let data = Rng(18).bytes(300_000);
    std::fs::write(a.join("file"), &data).unwrap();
    let dag = Dag::file(&data);
    let (_daemon, line) = a.daemon(&[]);
    let cids = [dag.root, cid_of(false, RAW, &dag.chunks[0])];
    let added = std::cell::Cell::new(false);
    let got = ask(&address(&line), V1_2, wants(&cids, Ask::Block), |got: &Got| {
        if got.presences.len() == 2 && !added.replace(true) {
            assert!(got.presences.values().all(|have| !have));
            a.ok(&args!["add", a.join("file")]);
        }
        got.blocks.len() == 2
    });
    assert_eq!(got.blocks[&cids[1]], dag.chunks[0]);
}

#[test]
fn what_does_not_seed_is_not_told_of() {
    let scene = Scene::new(19);
    let (b, cid) = (Home::new(), scene.dag.root.to_string());
    b.start(&args!["get", &cid, "-o", b.join("copy"), "--peer", address(&scene.line)]).wait().ok();
    let (_daemon, line) = b.daemon(&[]);
    let cids = [scene.dag.root, scene.chunks()[0]];
    let got = ask(&address(&line), V1_2, wants(&cids, Ask::Block), |got| got.presences.len() == 2);
    assert!(got.blocks.is_empty() && got.presences.values().all(|have| !have), "{:?}", got.presences);
}

#[test]
fn a_sharing_node_survives_floods_and_still_serves() {
    let mut scene = Scene::new(20);
    let addr = address(&scene.line);
    for (what, bytes) in garbage() {
        println!("attack with {what}");
        ask(&addr, V1_2, bytes, |got| got.ended || got.closed);
    }
    let rss = |running: &Running| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = rss(&scene.honest);
    let many: Vec<Cid> = (0..10_000u32).map(|n| cid_of(false, RAW, &n.to_le_bytes())).collect();
    let list = wants(&many, Ask::Block);
    // Again and again, as a whole new list each time; about the first 1,024 it is told.
    let full = encode(&Message { full: true, ..Message::default() });
    let flood: Vec<u8> = (0..20).flat_map(|_| [&full[..], &list].concat()).collect();
    let got = ask(&addr, V1_2, flood, |got| got.presences.len() >= 1_024);
    assert!(got.presences.values().all(|have| !have));
    assert!(rss(&scene.honest) < before + (64 << 10), "{} KiB before, {} after", before, rss(&scene.honest));
    let got =
        ask(&addr, V1_2, wants(&scene.chunks(), Ask::Block), |got| got.blocks.len() == scene.chunks().len());
    assert_eq!(got.twice, 0);
    assert!(!scene.honest.has_ended());
}
