//! Peers that come, go, move, stall and lie about others: the swarm stays whole, and nobody else is bothered.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dunlin::net::signed;
use dunlin::wire::exchange::{Message, PeerRecord};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::args;
use crate::support::dag::Dag;
use crate::support::home::{Home, LONG, Running, address, number, text};
use crate::support::peer::{Manners, Peer, Say, encode};
use crate::support::tree::{assert_same, random_file};
use crate::transfer::share;

/// Waits until `look` finds something.
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {LONG:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The IDs of those that a running node is connected to; nobody while it starts.
fn neighbours(home: &Home) -> Vec<String> {
    let done = home.run(&args!["peers", "--json"]);
    if done.code != Some(0) {
        return Vec::new();
    }
    done.json().iter().map(|p| text(p, "peer").to_owned()).collect()
}

/// Who a node is, once it runs: its ID and its address.
fn identity(home: &Home) -> (String, String) {
    let line = until("a node that runs", || {
        let line = home.run(&args!["id", "--json"]).json().pop()?;
        line["listen"].as_array().filter(|l| !l.is_empty())?;
        Some(line)
    });
    (text(&line, "peer_id").to_owned(), address(&line))
}

fn downloaded(home: &Home) -> u64 {
    let done = home.run(&args!["status", "--json"]);
    if done.code == Some(0) { number(&done.json()[0], "downloaded") } else { 0 }
}

fn knows(home: &Home, others: &[&String]) -> Option<()> {
    let there = neighbours(home);
    others.iter().all(|id| there.contains(id)).then_some(())
}

#[test]
fn a_swarm_whose_bootstrap_peer_and_dht_are_gone_stays_whole_and_takes_in_a_newcomer() {
    let [boot, s, l1, l2, n] = [(); 5].map(|()| Home::new());
    let (boot_runs, boot_line) = boot.daemon(&[]);
    let bootstrap = address(&boot_line);
    random_file(&s.join("file"), 41, 24_000_000);
    let mut s_runs = s.start(&args!["share", "--json", s.join("file"), "--bootstrap", &bootstrap]);
    let shared = s_runs.json();
    let cid = text(&shared, "cid");
    // Slow, so that the swarm lives while it is looked at.
    s.ok(&args!["limits", "--up", "400k"]);
    let get = |home: &Home, how: &[&str]| -> Running {
        let command = args!["get", cid, "--json", "--seed", "-o", "copy"];
        let how: Vec<_> = how.iter().map(std::ffi::OsString::from).collect();
        home.start(&[&command[..], &how].concat())
    };
    let mut runs = vec![get(&l1, &["--bootstrap", &bootstrap]), get(&l2, &["--bootstrap", &bootstrap])];
    let [s_id, l1_id, l2_id] = [&s, &l1, &l2].map(|home| identity(home).0);
    until("the swarm is whole", || knows(&l1, &[&s_id, &l2_id]).and(knows(&l2, &[&s_id, &l1_id])));

    boot_runs.kill();
    runs.push(get(&n, &["--peer", &identity(&l1).1]));
    until("the newcomer knows everybody", || knows(&n, &[&s_id, &l1_id, &l2_id]));
    // The only one that it was told of goes, and nothing breaks.
    runs.remove(0).kill();
    s.ok(&args!["limits", "--up", "unlimited"]);
    for (mut runs, home) in runs.into_iter().zip([&l2, &n]) {
        assert_eq!(text(&runs.json(), "cid"), cid);
        assert_same(&s.join("file"), &home.join("copy"));
        runs.interrupt().ok();
    }
}

/// A port that counts who connects.
fn victim() -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let counted = count.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    (port, count)
}

/// A scene with an honest node that gives its file slowly, and a fetch beside a peer of these manners.
fn fetch_beside(seed: u64, manners: Manners) -> Peer {
    let (a, b) = (Home::new(), Home::new());
    let data = crate::support::tree::Rng(seed).bytes(12_000_000);
    std::fs::write(a.join("file"), &data).unwrap();
    let dag = Arc::new(Dag::file(&data));
    let (_a_runs, lines) = share(&a, &[&a.join("file")]);
    a.ok(&args!["limits", "--up", "3M"]);
    let evil = Peer::serve(dag.clone(), manners);
    let (cid, honest) = (dag.root.to_string(), address(&lines[0]));
    b.start(&args!["get", &cid, "-o", "copy", "--peer", &evil.addr, "--peer", &honest]).wait().ok();
    assert_same(&a.join("file"), &b.join("copy"));
    assert!(evil.facts().joins > 0, "nobody talked to the peer");
    evil
}

fn peers(root: dunlin::content::Cid, added: Vec<PeerRecord>) -> Say {
    Say::Control(encode(&Message::Peers { request: 0, root, added, dropped: Vec::new() }))
}

#[test]
fn a_victims_address_told_ten_thousand_times_is_dialled_a_few_times() {
    let (port, count) = victim();
    let addr: libp2p::Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let elsewhere: libp2p::Multiaddr = "/ip4/0.0.0.0/tcp/1".parse().unwrap();
    // A pushed record is dialled by the side with the smaller ID only: of many IDs half count.
    let one = |n: u32| match n % 4 {
        0 => {
            let signed = signed::sign(&Keypair::generate_ed25519(), [addr.clone()]).unwrap();
            PeerRecord { id: signed.peer.to_bytes(), addrs: Vec::new(), signed_record: signed.bytes }
        }
        _ => PeerRecord {
            id: PeerId::random().to_bytes(),
            addrs: vec![addr.to_vec(), elsewhere.to_vec()],
            signed_record: Vec::new(),
        },
    };
    let root = Dag::file(&crate::support::tree::Rng(42).bytes(12_000_000)).root;
    let say = (0..200).map(|_| peers(root, (0..50).map(one).collect())).collect();
    // It gives no chunk: a fetch that it had ended at once would sometimes have dialled nobody yet.
    let silent = Manners { chunk: Box::new(|_, _| Vec::new()), ..Manners::after_joined(say) };
    fetch_beside(42, silent);
    let dialled = count.load(Ordering::Relaxed);
    println!("{dialled} connections to the victim");
    assert!((1..=4).contains(&dialled), "{dialled} connections to the victim");
}

#[test]
fn forged_records_are_not_believed_and_the_third_bans() {
    let (port, count) = victim();
    let addr: libp2p::Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let root = Dag::file(&crate::support::tree::Rng(43).bytes(12_000_000)).root;
    let forged = || {
        let signed = signed::sign(&Keypair::generate_ed25519(), [addr.clone()]).unwrap();
        let id = PeerId::random().to_bytes();
        peers(root, vec![PeerRecord { id, addrs: Vec::new(), signed_record: signed.bytes }])
    };
    let evil = fetch_beside(43, Manners::after_joined((0..3).map(|_| forged()).collect()));
    evil.until("the ban", |f| f.links_ended > 0 && f.disconnected == f.connected);
    assert_eq!(count.load(Ordering::Relaxed), 0, "a forged record was believed");
}

/// Two nodes that have the same file, each slow, and one that fetches it from both.
fn two_sources(seed: u64, size: u64) -> ([Home; 3], [Running; 2], [Value; 2]) {
    let homes = [(); 3].map(|()| Home::new());
    let mut lines = Vec::new();
    let mut runs = Vec::new();
    for home in &homes[..2] {
        random_file(&home.join("file"), seed, size);
        let (running, mut line) = share(home, &[&home.join("file")]);
        home.ok(&args!["limits", "--up", "1M"]);
        runs.push(running);
        lines.push(line.remove(0));
    }
    let [a, b] = <[Running; 2]>::try_from(runs).ok().expect("two");
    (homes, [a, b], <[Value; 2]>::try_from(lines).expect("two"))
}

#[test]
fn a_source_that_stops_in_mid_transfer_is_replaced_within_seconds() {
    let ([a, b, c], [a_runs, b_runs], [a_line, b_line]) = two_sources(44, 16_000_000);
    let (cid, pa, pb) = (text(&a_line, "cid"), address(&a_line), address(&b_line));
    let get = c.start(&args!["get", cid, "-q", "-o", "copy", "--peer", &pa, "--peer", &pb]);
    until("both give", || {
        let given = |home: &Home| number(&home.status(), "uploaded") > 500_000;
        (given(&a) && given(&b)).then_some(())
    });
    a_runs.signal(Signal::STOP);
    let since = Instant::now();
    b.ok(&args!["limits", "--up", "unlimited"]);
    get.wait().ok();
    let took = since.elapsed();
    println!("the other took over: done after {took:?}");
    assert_same(&b.join("file"), &c.join("copy"));
    assert!(took < Duration::from_secs(40), "{took:?}");
    a_runs.signal(Signal::CONT);
    b_runs.interrupt().ok();
}

#[test]
fn a_source_that_comes_back_on_another_port_is_found_and_used_again() {
    let [boot, s, l] = [(); 3].map(|()| Home::new());
    let (_boot_runs, boot_line) = boot.daemon(&[]);
    let bootstrap = address(&boot_line);
    random_file(&s.join("file"), 45, 12_000_000);
    let cid = text(&s.ok(&args!["add", "--json", s.join("file")]).json()[0], "cid").to_owned();
    s.ok(&args!["limits", "--up", "1M"]);
    let (s_runs, before) = s.daemon(&args!["--bootstrap", &bootstrap]);
    let get = l.start(&args![
        "get",
        &cid,
        "-q",
        "-o",
        "copy",
        "--bootstrap",
        &bootstrap,
        "--peer",
        address(&before)
    ]);
    until("something has come", || (downloaded(&l) > 1_000_000).then_some(()));
    s_runs.kill();
    let half = downloaded(&l);
    s.ok(&args!["limits", "--up", "unlimited"]);
    let (_s_runs, after) = s.daemon(&args!["--bootstrap", &bootstrap]);
    assert_ne!(address(&before), address(&after), "the port must be another");
    assert_eq!(before["peer_id"], after["peer_id"]);
    let since = Instant::now();
    get.wait().ok();
    println!("{half} bytes came before, the rest {:?} after it was back", since.elapsed());
    assert_same(&s.join("file"), &l.join("copy"));
}

#[test]
fn a_newcomer_is_told_of_a_member_and_not_of_one_that_has_ended() {
    let [s, d] = [(); 2].map(|()| Home::new());
    let data = crate::support::tree::Rng(46).bytes(6_000_000);
    std::fs::write(s.join("file"), &data).unwrap();
    let root = Dag::file(&data).root;
    let (_s_runs, lines) = share(&s, &[&s.join("file")]);
    let at_s = address(&lines[0]);
    s.ok(&args!["limits", "--up", "500k"]);
    let d_runs =
        d.start(&args!["get", text(&lines[0], "cid"), "-q", "--seed", "-o", "copy", "--peer", &at_s]);
    let d_id = identity(&d).0;
    until("the peer is in the swarm", || (downloaded(&d) > 300_000).then_some(()));
    let join = encode(&Message::Join {
        root,
        have: Default::default(),
        complete: false,
        interested: true,
        any: false,
        has_nodes: false,
    });
    let told = || {
        let newcomer = Peer::attack(&at_s, join.clone(), Vec::new());
        let facts = newcomer.until("an answer to the join", |f| f.answers > 0);
        let id = d_id.parse::<PeerId>().unwrap().to_bytes();
        facts.told.contains(&id)
    };
    assert!(told(), "a member is told of");
    d_runs.kill();
    until("the sharer knows that it has gone", || (!neighbours(&s).contains(&d_id)).then_some(()));
    assert!(!told(), "one that has gone is told of");
}
