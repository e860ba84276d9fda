//! Peers that lie, flood or stall: each is dropped, the fetch completes from an honest one, and no bad byte
//! reaches the disk.

use std::sync::Arc;
use std::time::Duration;

use dunlin::bitfield::Bitfield;
use dunlin::content::Cid;
use dunlin::units::ChunkIndex;
use dunlin::wire::exchange::Message;

use crate::support::args;
use crate::support::dag::Dag;
use crate::support::home::{Home, Running, address, text};
use crate::support::peer::{
    Facts, Manners, Peer, Say, chunk_bytes, encode, honest_chunk, honest_joined, wrong_chunk,
};
use crate::support::tree::{MIB, assert_no_wrong_byte, assert_same};
use crate::transfer::share;

const SIZE: usize = 48 * MIB as usize;

/// A file that an honest node shares, and the same as a DAG for a peer that is not honest.
struct Scene {
    a: Home,
    honest: Running,
    honest_addr: String,
    dag: Arc<Dag>,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let a = Home::new();
        let data = crate::support::tree::Rng(seed).bytes(SIZE);
        std::fs::write(a.join("file"), &data).unwrap();
        let dag = Arc::new(Dag::file(&data));
        let (honest, lines) = share(&a, &[&a.join("file")]);
        assert_eq!(text(&lines[0], "cid"), dag.root.to_string(), "both must be the same content");
        Scene { honest_addr: address(&lines[0]), a, honest, dag }
    }

    /// Fetches from a peer of these manners and the honest one; the file must be right.
    fn fetch_beside(&self, what: &str, manners: Manners) -> Peer {
        println!("beside a peer with {what}");
        let b = Home::new();
        let evil = Peer::serve(self.dag.clone(), manners);
        let cid = self.dag.root.to_string();
        let peers = ["--peer", &evil.addr, "--peer", &self.honest_addr].map(std::ffi::OsString::from);
        let command = [&args!["get", &cid, "-o", "copy", "-vv"][..], &peers].concat();
        let done = b.start(&command).wait();
        let facts = evil.facts();
        println!("{facts:?}\n{}", done.stderr);
        done.ok();
        assert_same(&self.a.join("file"), &b.join("copy"));
        assert!(facts.joins > 0, "{what}: nobody talked to the peer");
        evil
    }
}

fn dropped(f: &Facts) -> bool {
    f.links_ended > 0 || (f.connected > 0 && f.disconnected == f.connected)
}

#[test]
fn a_chunk_with_a_wrong_bit_bans_its_sender_at_once() {
    let scene = Scene::new(1);
    let evil = scene.fetch_beside("a wrong bit", Manners::on_chunk(wrong_chunk));
    let facts = evil.until("the ban", dropped);
    assert_eq!(facts.asked.len(), 1, "asked again after a lie: {:?}", facts.asked);
}

#[test]
fn another_chunk_under_the_name_of_the_one_asked_for_bans_too() {
    let scene = Scene::new(2);
    let other = |dag: &Dag, i: u32| {
        let body = &dag.chunks[(i as usize + 1) % dag.chunks.len()];
        vec![Say::Data(chunk_bytes(dag, i, body))]
    };
    let evil = scene.fetch_beside("another chunk", Manners::on_chunk(other));
    let facts = evil.until("the ban", dropped);
    assert_eq!(facts.asked.len(), 1, "asked again after a lie: {:?}", facts.asked);
}

#[test]
fn a_chunk_that_nobody_asked_for_is_not_taken() {
    let scene = Scene::new(3);
    let unasked = |dag: &Dag, i: u32| honest_chunk(dag, (i + 1) % dag.chunks.len() as u32);
    let evil = scene.fetch_beside("unasked chunks", Manners::on_chunk(unasked));
    assert!(evil.facts().asked.len() <= 3, "{:?}", evil.facts());
}

/// Bytes that no program of the protocol would send.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let absurd_lens = |root: Cid, lens: Vec<u32>| {
        encode(&Message::Chunk { root, index: ChunkIndex::new(0).unwrap(), block_lens: lens })
    };
    let root = Dag::file(b"a few bytes").root;
    vec![
        ("an oversized frame", [&[0x81, 0x80, 0x80, 0x02][..], &[0; 4_096]].concat()),
        ("a varint without end", vec![0xff; 64]),
        ("a length near 2^63", vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("noise", [&[100][..], &crate::support::tree::Rng(9).bytes(400)].concat()),
        ("a block of 4 GiB", absurd_lens(root, vec![u32::MAX])),
        ("4,000 blocks", absurd_lens(root, vec![1; 4_000])),
    ]
}

#[test]
fn frames_outside_the_protocol_end_the_link_and_not_the_fetch() {
    let scene = Scene::new(4);
    for (what, bytes) in garbage() {
        let say = vec![Say::Control(bytes.clone()), Say::Data(bytes.clone())];
        let evil = scene.fetch_beside(what, Manners::after_joined(say));
        evil.until("the end of the link", dropped);
        let data = move |_: &Dag, _| vec![Say::Data(bytes.clone())];
        let evil = scene.fetch_beside(what, Manners::on_chunk(data));
        evil.until("the end of the link", dropped);
    }
}

#[test]
fn a_peer_that_claims_what_cannot_be_is_of_no_harm() {
    let scene = Scene::new(5);
    let joined = |dag: &Dag| {
        let message = |have: Bitfield, nodes| Message::Joined {
            root: dag.root,
            have,
            complete: true,
            interested: true,
            choked: false,
            nodes,
            peers: Vec::new(),
            first: None,
        };
        // Four million chunks, and a root node that is none.
        let lie = (dag.root, bytes::Bytes::from_static(b"not the root"));
        vec![Say::Control(encode(&message(Bitfield::full(4_000_000), vec![lie])))]
    };
    let manners = Manners { joined: Box::new(joined), chunk: Box::new(honest_chunk) };
    scene.fetch_beside("four million chunks", manners);
}

#[test]
fn a_silent_or_dripping_peer_holds_nothing_up() {
    let scene = Scene::new(6);
    scene.fetch_beside("nothing to say", Manners::on_chunk(|_, _| Vec::new()));
    let drip = |dag: &Dag, i: u32| {
        let bytes = chunk_bytes(dag, i, &dag.chunks[i as usize]);
        vec![Say::Trickle(bytes, Duration::from_millis(500))]
    };
    scene.fetch_beside("a byte at a time", Manners::on_chunk(drip));
    let half = |dag: &Dag, i: u32| {
        let mut bytes = chunk_bytes(dag, i, &dag.chunks[i as usize]);
        bytes.truncate(bytes.len() / 2);
        vec![Say::Data(bytes)]
    };
    scene.fetch_beside("half a chunk", Manners::on_chunk(half));
    // A choke that it takes back at once, over and over.
    let flap = |dag: &Dag| {
        let choke = |on| {
            let update = dunlin::wire::exchange::Update { choke: Some(on), ..Default::default() };
            Say::Control(encode(&Message::Update(update)))
        };
        honest_joined(dag).into_iter().chain((0..2_000).map(|i| choke(i % 2 == 0))).collect()
    };
    scene.fetch_beside(
        "a flapping choke",
        Manners { joined: Box::new(flap), chunk: Box::new(|_, _| Vec::new()) },
    );
}

#[test]
fn no_bad_byte_reaches_the_disk_when_only_liars_are_there() {
    let scene = Scene::new(7);
    let (b, served) = (Home::new(), std::sync::atomic::AtomicU32::new(0));
    // Five good chunks earn trust, then it lies.
    let turncoat = move |dag: &Dag, i: u32| match served.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0..5 => honest_chunk(dag, i),
        _ => wrong_chunk(dag, i),
    };
    let evil = Peer::serve(scene.dag.clone(), Manners::on_chunk(turncoat));
    let cid = scene.dag.root.to_string();
    let done =
        b.start(&args!["get", &cid, "-o", "copy", "--peer", &evil.addr, "--timeout", "4"]).wait().code(1);
    assert!(done.error().contains("no progress for 4 s"), "{}", done.error());
    evil.until("the ban", dropped);
    assert!(!b.join("copy").exists());
    assert_no_wrong_byte(&scene.a.join("file"), &b.join("copy.part"));
    let held = b.ok(&args!["list", "--json"]).json().remove(0);
    assert_eq!(held["held"], 5, "{held}");

    // What is right is kept, and an honest peer has the rest.
    b.start(&args!["get", &cid, "-o", "copy", "--peer", &scene.honest_addr]).wait().ok();
    assert_same(&scene.a.join("file"), &b.join("copy"));
}

#[test]
fn a_sharing_node_survives_whoever_links_up_with_it() {
    let mut scene = Scene::new(8);
    let root = scene.dag.root;
    for (what, bytes) in garbage() {
        for (control, data) in [(bytes.clone(), Vec::new()), (Vec::new(), bytes)] {
            println!("attack with {what}");
            Peer::attack(&scene.honest_addr, control, data).until("the end of the link", dropped);
        }
    }
    let good = |i| ChunkIndex::new(i).unwrap();
    let nowhere = Dag::file(b"held by nobody").root;
    let unasked = chunk_bytes(&scene.dag, 0, &scene.dag.chunks[0]);
    let asked_too_much: Vec<u8> = (0..500)
        .flat_map(|_| encode(&Message::GetChunks { root, indices: (0..256).map(good).collect() }))
        .collect();
    let attacks = [
        encode(&Message::GetChunks { root: nowhere, indices: vec![good(0)] }),
        encode(&Message::GetChunks { root, indices: vec![good(3_999_999)] }),
        encode(&Message::GetNodes { request: 1, root: nowhere, cids: vec![nowhere; 64] }),
        asked_too_much,
    ];
    let mut held: Vec<Peer> =
        attacks.into_iter().map(|bytes| Peer::attack(&scene.honest_addr, bytes, Vec::new())).collect();
    held.push(Peer::attack(&scene.honest_addr, Vec::new(), unasked));
    for peer in &held {
        peer.until("a connection", |f| f.connected > 0);
    }
    let b = Home::new();
    b.start(&args!["get", root.to_string(), "-o", "copy", "--peer", &scene.honest_addr]).wait().ok();
    assert_same(&scene.a.join("file"), &b.join("copy"));
    assert!(!scene.honest.has_ended());
}
