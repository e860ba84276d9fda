//! What is promised to whoever fetches: requests, time-outs, the endgame, limits, faults, nodes, peers.

use std::time::Duration;

use super::net::{CHUNK, K};
use super::one::*;
use crate::bitfield::Bitfield;
use crate::engine::*;
use crate::units::{ContentKey, PeerKey, Time};

#[test]
fn the_first_request_goes_out_with_the_joined_event() {
    let mut one = One::leech(1);
    assert_eq!(requests(one.source(7)), [(7, 0)]);
    assert_eq!(one.deliver(7, 0), Arrival::Wanted);
    assert!(has(one.store(7, 0), |a| matches!(a, Action::Finished { .. })));
}

#[test]
fn a_chunk_that_becomes_known_is_asked_for_at_once() {
    let mut one = One::leech(1);
    one.source(7);
    one.deliver(7, 0);
    one.store(7, 0);
    one.store(7, 0);
    let said = one.content(K, ContentEvent::Grew { count: 1, len: 5 });
    assert_eq!(requests(said), [(7, 1)]);
}

#[test]
fn a_peer_is_asked_for_one_chunk_until_one_of_its_was_found_right() {
    let mut one = One::leech(9);
    let first = requests(one.source(7))[0].1;
    one.deliver(7, first);
    assert_eq!(requests(&one.said), [], "it has come, but nobody has looked at it yet");
    assert!(requests(one.store(7, first)).len() >= 2);
}

#[test]
fn a_connected_peer_is_told_that_we_are_in_the_swarm() {
    let mut one = One::leech(3);
    one.connect(5);
    assert!(has(&one.said, |a| *a == Action::Join { peer: PeerKey(5), content: K, any: false }));
    let mut seed = One::seed(3);
    seed.connect(5);
    assert!(seed.said.is_empty());
}

#[test]
fn interest_is_told_when_it_changes_and_only_then() {
    let mut one = One::leech(3);
    one.connect(1);
    let want = |interested| Action::Interested { peer: PeerKey(1), content: K, interested };
    let said = one.peer(1, PeerEvent::Joined { content: K, have: Bitfield::new(), complete: false });
    assert!(said.contains(&want(false)), "our Join said yes");
    assert!(one.peer(1, PeerEvent::Have { content: K, ranges: vec![r(0, 1)] }).contains(&want(true)));
    assert!(!has(one.peer(1, PeerEvent::Have { content: K, ranges: vec![r(1, 2)] }), |a| matches!(
        a,
        Action::Interested { .. }
    )));
    assert!(one.peer(1, PeerEvent::Lost { content: K, ranges: vec![r(0, 2)] }).contains(&want(false)));
}

#[test]
fn a_wrong_hash_bans_its_sender_and_its_requests_go_elsewhere_at_once() {
    let mut one = One::leech(2);
    let first = requests(one.source(1))[0].1;
    one.source(2);
    one.deliver(1, first);
    one.e.handle_store(one.now, StoreResult::Bad { content: K, chunk: ix(first), from: PeerKey(1) });
    let said = one.collect().to_vec();
    assert!(said.contains(&Action::Ban { peer: PeerKey(1), fault: Fault::BadBytes }));
    // The second had one request, being new; it gets the rest as it delivers.
    let mut got = 0;
    while one.e.content(one.now, K).unwrap().wanted_missing > 0 && got < 2 {
        let c = (0..2).find(|c| one.e.contents[&K].picker.asks(*c) > 0).unwrap();
        assert_eq!(one.deliver(2, c), Arrival::Wanted);
        one.store(2, c);
        got += 1;
    }
    assert!(one.e.is_complete(K));
}

#[test]
fn a_chunk_that_nobody_asked_for_costs_trust_and_the_third_bans() {
    let mut one = One::leech(40);
    one.source(1);
    let asked = (0..40).find(|c| one.e.contents[&K].picker.asks(*c) > 0).unwrap();
    let other = (asked + 1) % 40;
    assert_eq!(one.deliver(1, other), Arrival::Unasked);
    assert_eq!(one.view(1).trust, 2);
    one.deliver(1, other);
    one.deliver(1, other);
    assert!(has(&one.said, |a| matches!(a, Action::Ban { fault: Fault::Unasked, .. })));
    assert_eq!(one.e.content(one.now, K).unwrap().in_flight, 0);
}

#[test]
fn haves_for_chunks_that_do_not_exist_cost_trust() {
    let mut one = One::leech(40);
    one.source(1);
    one.connect(2);
    one.peer(2, PeerEvent::Joined { content: K, have: Bitfield::full(1 << 20), complete: false });
    one.peer(3, PeerEvent::Have { content: K, ranges: vec![r(0, 1 << 20)] });
    assert_eq!(one.e.availability(K), vec![2; 40]);
    one.connect(4);
    one.peer(4, PeerEvent::Joined { content: K, have: Bitfield::new(), complete: false });
    one.peer(4, PeerEvent::Have { content: K, ranges: vec![r(39, 1 << 28)] });
    assert_eq!((one.view(4).trust, one.e.availability(K)[39]), (2, 3));
}

#[test]
fn a_silent_peer_loses_its_requests_to_others_within_seconds() {
    let mut one = One::leech(10);
    one.source(1);
    // It delivers some, a chunk every 100 ms, and falls silent.
    for _ in 0..3 {
        one.pass(100);
        let c = (0..10).find(|c| one.e.contents[&K].picker.asks(*c) > 0).unwrap();
        one.deliver(1, c);
        one.store(1, c);
    }
    let lost: Vec<u32> = (0..10).filter(|c| one.e.contents[&K].picker.asks(*c) > 0).collect();
    assert!(!lost.is_empty());
    let said = one.pass(4_000);
    assert!(has(&said, |a| matches!(a, Action::Cancel { peer: PeerKey(1), .. })), "{said:?}");
    assert_eq!(one.e.content(one.now, K).unwrap().in_flight, 0);
    assert_eq!(requests(one.source(2)).len(), 1);
    // What comes late is welcome, and nobody is blamed.
    let late = lost.into_iter().find(|c| one.e.contents[&K].picker.asks(*c) == 0).unwrap_or(0);
    assert_ne!(one.deliver(1, late), Arrival::Unasked);
    assert_eq!(one.view(1).trust, 3);
}

#[test]
fn a_peer_that_trickles_bytes_is_snubbed_after_a_minute() {
    let mut one = One::leech(10);
    one.source(1);
    for _ in 0..70 {
        one.peer(1, PeerEvent::Receiving { bytes: 1 });
        one.pass(1_000);
    }
    assert!(one.view(1).snubbed);
    let asks = one.e.content(one.now, K).unwrap().in_flight;
    assert!(asks <= 1, "asked for one at most, to see whether it lives");
}

#[test]
fn a_slow_peer_is_not_taken_for_silent_and_its_chunk_comes() {
    for rate in [2_048u64, 5_000] {
        let mut one = One::leech(10);
        one.source(1);
        // Half a second's worth at a time; 2 KB/s take two minutes for a chunk.
        let mut came = 0;
        while came < LEN {
            let said = one.pass(500);
            assert!(!has(&said, |a| matches!(a, Action::Cancel { .. })), "{rate}: {came} bytes had come");
            one.peer(1, PeerEvent::Receiving { bytes: rate / 2 });
            came += rate / 2;
        }
        assert!(!one.view(1).snubbed);
        let c = (0..10).find(|c| one.e.contents[&K].picker.asks(*c) > 0).unwrap();
        assert_eq!(one.deliver(1, c), Arrival::Wanted, "{rate}");
        assert!(!requests(one.store(1, c)).is_empty(), "{rate}: it is asked on");
    }
}

#[test]
fn contents_that_are_fetched_at_once_are_asked_for_evenly() {
    let mut one = One::new(Config { down_limit: Some(2_000_000), ..Config::default() }, 400, true);
    let other = ContentKey(1);
    one.content(other, ContentEvent::Added { want: true });
    one.content(other, ContentEvent::Grew { count: 400, len: LEN as u32 });
    one.content(other, ContentEvent::ManifestComplete);
    // Eight peers have both, and the other content is the later one everywhere.
    let mut asked: Vec<(u64, ContentKey, u32)> = Vec::new();
    let note = |asked: &mut Vec<_>, said: &[Action]| {
        for a in said {
            if let Action::Request { peer, content, chunks } = a {
                asked.extend(chunks.iter().map(|c| (peer.0, *content, c.get())));
            }
        }
    };
    for p in 1..=8 {
        note(&mut asked, one.source(p));
        let joined = PeerEvent::Joined { content: other, have: Bitfield::new(), complete: true };
        note(&mut asked, one.peer(p, joined));
    }
    let mut came = [0u32; 2];
    for _ in 0..400 {
        note(&mut asked, &one.pass(50));
        for (p, key, c) in std::mem::take(&mut asked) {
            came[key.0 as usize] += 1;
            one.e.handle_chunk(one.now, PeerKey(p), key, ix(c), LEN);
            note(&mut asked, one.collect());
            let stored = StoreResult::Stored { content: key, chunk: ix(c), from: PeerKey(p) };
            one.e.handle_store(one.now, stored);
            note(&mut asked, one.collect());
        }
    }
    assert!(came[0] + came[1] > 100, "{came:?}");
    assert!(came[0].abs_diff(came[1]) <= 4, "{came:?}");
}

#[test]
fn a_peer_that_puts_a_request_off_loses_it_to_one_that_has_the_chunk() {
    let mut one = One::leech(20);
    one.source(1);
    for _ in 0..3 {
        one.pass(50);
        let c = one.e.peers[&PeerKey(1)].pipeline.asks[0].chunk;
        one.deliver(1, c);
        one.store(1, c);
    }
    let asks: Vec<u32> = one.e.peers[&PeerKey(1)].pipeline.asks.iter().map(|a| a.chunk).collect();
    one.connect(2);
    one.peer(2, PeerEvent::Unchoked);
    one.peer(2, PeerEvent::Joined { content: K, have: [ix(asks[0])].into_iter().collect(), complete: false });
    one.deliver(1, asks[1]);
    let cancel = Action::Cancel { peer: PeerKey(1), content: K, chunks: vec![ix(asks[0])] };
    assert!(one.said.contains(&cancel), "{:?}", one.said);
    assert!(requests(&one.said).contains(&(2, asks[0])));
}

#[test]
fn the_order_of_a_bitswap_peers_answers_says_nothing() {
    let mut one = One::leech(20);
    one.peer(1, PeerEvent::Connected { kind: PeerKind::Bitswap, rtt: None });
    one.peer(1, PeerEvent::Joined { content: K, have: Bitfield::new(), complete: true });
    for _ in 0..3 {
        one.pass(50);
        let c = one.e.peers[&PeerKey(1)].pipeline.asks[0].chunk;
        one.deliver(1, c);
        one.store(1, c);
    }
    let asks: Vec<u32> = one.e.peers[&PeerKey(1)].pipeline.asks.iter().map(|a| a.chunk).collect();
    one.connect(2);
    one.peer(2, PeerEvent::Unchoked);
    one.peer(2, PeerEvent::Joined { content: K, have: [ix(asks[0])].into_iter().collect(), complete: false });
    one.deliver(1, asks[1]);
    assert!(!one.said.iter().any(|a| matches!(a, Action::Cancel { .. })), "{:?}", one.said);
}

#[test]
fn the_endgame_asks_a_second_peer_and_cancels_at_the_loser() {
    let mut one = One::leech(12);
    one.source(1);
    one.source(2);
    let first = |one: &One, p| {
        let line = &one.e.peers[&PeerKey(p)].pipeline;
        line.asks.iter().find(|a| !a.cancelled).map(|a| a.chunk)
    };
    // Both deliver a chunk each 100 ms; then the first falls silent.
    let mut asked = Vec::new();
    for round in 0..20 {
        one.pass(100);
        asked.extend(requests(&one.said));
        for p in if round < 3 { vec![1, 2] } else { vec![2] } {
            let Some(c) = first(&one, p) else { continue };
            one.deliver(p, c);
            asked.extend(requests(&one.said));
            one.store(p, c);
            asked.extend(requests(&one.said));
        }
    }
    assert!(one.e.is_complete(K), "within two seconds, long before the time-out: {asked:?}");
    let twice = (0..12).filter(|c| asked.contains(&(1, *c)) && asked.contains(&(2, *c))).count();
    assert!((1..=4).contains(&twice), "{asked:?}");
    // What the first still sends is late, and nobody's fault.
    let owed: Vec<u32> = one.e.peers[&PeerKey(1)].pipeline.asks.iter().map(|a| a.chunk).collect();
    assert!(!owed.is_empty());
    assert!(owed.into_iter().all(|c| one.deliver(1, c) == Arrival::Late));
    assert_eq!(one.view(1).trust, 3);
}

#[test]
fn the_last_chunks_stand_in_line_once_at_each_peer() {
    let mut one = One::leech(30);
    let mut due: std::collections::VecDeque<(u64, u32)> =
        [1, 2, 3].into_iter().flat_map(|p| requests(one.source(p))).collect();
    let mut most = 0;
    while one.e.contents[&K].picker.open() > 0 {
        let (p, c) = due.pop_front().unwrap();
        due.extend(requests(&one.pass(300)));
        one.deliver(p, c);
        due.extend(requests(&one.said));
        due.extend(requests(one.store(p, c)));
        most = most.max(due.len());
    }
    assert_eq!(most, 6, "two each until then");
    assert!(due.len() <= 3, "{due:?}");
}

#[test]
fn a_window_is_fetched_in_order_and_a_slow_peer_does_not_stall_it() {
    let mut one = One::leech(500);
    let per_chunk = Duration::from_millis(500);
    one.content(K, ContentEvent::Window { start: ix(100), count: 50, per_chunk });
    assert_eq!(requests(one.source(1)), [(1, 100)]);
    one.source(2);
    let mut got = vec![];
    // The second is fast, the first never answers.
    for _ in 0..12 {
        one.pass(100);
        let line = &one.e.peers[&PeerKey(2)].pipeline;
        let Some(c) = line.asks.iter().find(|a| !a.cancelled).map(|a| a.chunk) else { continue };
        one.deliver(2, c);
        one.store(2, c);
        got.push(c);
    }
    assert!(got.contains(&100), "the head came from the fast one: {got:?}");
    assert!(got.iter().all(|c| (100..150).contains(c)));
}

#[test]
fn a_full_disk_is_not_tried_again_until_resumed() {
    let mut one = One::leech(1);
    one.source(1);
    one.deliver(1, 0);
    one.e.handle_store(one.now, StoreResult::NotStored { content: K, chunk: ix(0) });
    assert!(requests(one.collect()).is_empty());
    one.content(K, ContentEvent::Paused(true));
    assert!(has(&one.said, |a| matches!(a, Action::Leave { .. })));
    one.content(K, ContentEvent::Paused(false));
    assert!(has(&one.said, |a| matches!(a, Action::Join { peer: PeerKey(1), .. })));
    let joined = PeerEvent::Joined { content: K, have: Bitfield::new(), complete: true };
    assert_eq!(requests(one.peer(1, joined)), [(1, 0)]);
}

#[test]
fn a_removed_content_leaves_nothing_behind() {
    let mut one = One::leech(10);
    one.source(1);
    one.taker(2);
    let said = one.content(K, ContentEvent::Removed).to_vec();
    assert!(has(&said, |a| matches!(a, Action::Cancel { peer: PeerKey(1), .. })));
    assert_eq!(said.iter().filter(|a| matches!(a, Action::Leave { .. })).count(), 2);
    let asked = one.e.peers[&PeerKey(1)].pipeline.asks[0].chunk;
    assert_eq!(one.deliver(1, asked), Arrival::Late, "it was asked for");
    assert_eq!(one.e.contents().count(), 0);
}

#[test]
fn what_is_not_wanted_is_not_fetched_and_the_rest_is_finished() {
    let mut one = One::leech(10);
    one.content(K, ContentEvent::Priority { range: r(1, 10), level: 0 });
    assert_eq!(requests(one.source(1)), [(1, 0)]);
    one.deliver(1, 0);
    assert!(has(one.store(1, 0), |a| matches!(a, Action::Finished { .. })));
    assert!(!one.e.is_complete(K));
    let said = one.content(K, ContentEvent::Priority { range: r(5, 6), level: 1 });
    assert_eq!(requests(said), [(1, 5)]);
}

#[test]
fn limits_hold_within_five_percent_up_and_down_and_change_while_running() {
    let mut one = One::new(Config { up_limit: Some(1_000_000), ..Config::default() }, 4_000, false);
    one.taker(0);
    let mut next = 0;
    let mut run = |one: &mut One, secs: u64| {
        let (end, mut bytes) = (one.now + Duration::from_secs(secs), 0);
        while one.now < end {
            let n = if one.view(0).queued < 9 { 1 } else { 0 };
            let mut flying = sends(&one.ask(0, next..next + n));
            next += n;
            flying.extend(sends(&one.pass(10)));
            while let Some((p, c)) = flying.pop() {
                bytes += LEN;
                flying.extend(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })));
            }
        }
        bytes as f64 / secs as f64
    };
    let rate = run(&mut one, 10);
    assert!((rate / 1e6 - 1.0).abs() < 0.05, "{rate}");
    one.e.set_limits(one.now, Some(4_000_000), None);
    let rate = run(&mut one, 8);
    assert!((rate / 4e6 - 1.0).abs() < 0.05, "{rate}");
    one.content(K, ContentEvent::Limits { up: Some(500_000), down: None });
    let rate = run(&mut one, 16);
    assert!((rate / 5e5 - 1.0).abs() < 0.06, "{rate}");

    let mut one = One::leech(4_000);
    one.e.set_limits(one.now, None, Some(2_000_000));
    one.source(1);
    let (end, mut bytes) = (one.now + Duration::from_secs(15), 0);
    while one.now < end {
        while let Some(a) = one.e.peers[&PeerKey(1)].pipeline.asks.first() {
            let c = a.chunk;
            one.deliver(1, c);
            one.store(1, c);
            bytes += LEN;
        }
        one.pass(10);
    }
    let rate = bytes as f64 / 15.0;
    assert!((rate / 2e6 - 1.0).abs() < 0.05, "{rate}");
}

#[test]
fn peers_are_asked_for_peers_often_at_first_and_looked_for_ever_less_often() {
    let mut one = One::leech(10);
    let finds = |a: &[Action]| a.iter().filter(|a| matches!(a, Action::FindPeers { .. })).count();
    assert_eq!(finds(&one.pass(0)), 1, "at once");
    assert!((4..=6).contains(&finds(&one.pass(60_000))));
    assert!((10..=16).contains(&finds(&one.pass(3_600_000))));
    let mut one = One::leech(10);
    for p in 0..5 {
        one.source(p);
    }
    one.pass(1_000);
    assert_eq!(finds(&one.pass(600_000)), 0, "there is supply");
    let mut one = One::leech(10);
    one.source(1);
    let asks = |a: &[Action]| a.iter().filter(|a| matches!(a, Action::AskPeers { .. })).count();
    assert!((28..=31).contains(&asks(&one.pass(60_000))));
    // Once a minute, and with each search: one peer is too few.
    assert!((5..=8).contains(&asks(&one.pass(300_000))));
    one.pass(3_000);
    assert_eq!(finds(one.peer(1, PeerEvent::Disconnected)), 0);
    assert!((1..=2).contains(&finds(&one.pass(2_500))), "the last one is gone");
}

#[test]
fn nodes_are_asked_in_batches_and_elsewhere_when_one_lacks_them() {
    let mut one = One::leech(1);
    let nodes = |a: u32, b: u32| (a..b).map(NodeId).collect::<Vec<_>>();
    one.content(K, ContentEvent::NodesWanted(nodes(0, 100)));
    one.source(1);
    let of = |a: &[Action]| -> Vec<(u64, Vec<NodeId>)> {
        let f = |a: &Action| match a {
            Action::RequestNodes { peer, nodes, .. } => Some((peer.0, nodes.clone())),
            _ => None,
        };
        a.iter().filter_map(f).collect()
    };
    assert_eq!(of(&one.said), [(1, nodes(0, 64))]);
    assert_eq!(of(one.source(2)), [(2, nodes(64, 100))]);
    let said = one.peer(1, PeerEvent::Nodes { content: K, got: nodes(0, 10), lacking: nodes(10, 64) });
    assert!(of(said).is_empty(), "the first lacks them, the second is busy");
    let said = one.peer(2, PeerEvent::Nodes { content: K, got: nodes(64, 100), lacking: Vec::new() });
    assert_eq!(of(said), [(2, nodes(10, 64))]);
    assert!(of(&one.pass(4_000)).is_empty());
    let said = one.pass(26_000);
    assert!(of(&said).len() >= 2, "silence and lacks are not for ever: {said:?}");
    one.content(K, ContentEvent::NodesHeld(nodes(0, 100)));
    assert!(of(&one.pass(60_000)).is_empty());
}

#[test]
fn nodes_that_did_not_fit_an_answer_are_asked_for_again_at_once() {
    let mut one = One::leech(1);
    let nodes = |a: u32, b: u32| (a..b).map(NodeId).collect::<Vec<_>>();
    one.source(1);
    one.content(K, ContentEvent::NodesWanted(nodes(0, 40)));
    let said = one.peer(1, PeerEvent::Nodes { content: K, got: nodes(0, 30), lacking: Vec::new() });
    let again = |a: &Action| matches!(a, Action::RequestNodes { nodes: n, .. } if *n == nodes(30, 40));
    assert!(has(said, again), "the only peer has no room for all of them in one answer: {said:?}");
    let said = one.peer(1, PeerEvent::Nodes { content: K, got: Vec::new(), lacking: Vec::new() });
    assert!(!has(said, again), "one that sends nothing is not asked over and over: {said:?}");
}

#[test]
fn a_peer_whose_request_for_nodes_became_void_is_asked_for_the_next() {
    // The first answer to a join brings nodes that are just being asked for.
    let mut one = One::leech(1);
    let nodes = |a: u32, b: u32| (a..b).map(NodeId).collect::<Vec<_>>();
    one.content(K, ContentEvent::NodesWanted(nodes(0, 1)));
    one.source(1);
    one.peer(1, PeerEvent::Nodes { content: K, got: nodes(0, 1), lacking: Vec::new() });
    let said = one.content(K, ContentEvent::NodesWanted(nodes(1, 48)));
    assert!(has(said, |a| matches!(a, Action::RequestNodes { .. })), "{said:?}");
}

#[test]
fn a_clock_that_goes_back_stands_still_and_timers_go_on() {
    let mut one = One::leech(10);
    one.source(1);
    one.now = Time(500_000_000_000);
    one.pass(10);
    one.now = Time(2_000_000_000);
    one.peer(1, PeerEvent::Receiving { bytes: 5 });
    let next = one.e.poll_timeout().unwrap();
    assert!(next.since(one.now) < Duration::from_secs(5), "{next:?}");
    assert!(one.view(1).in_flight == 1);
    let said = one.pass(40_000);
    assert!(has(&said, |a| matches!(a, Action::Cancel { .. })), "time-outs still work");
}

#[test]
fn the_ledger_survives_a_restart() {
    let mut one = One::leech(10);
    one.source(1);
    one.source(2);
    let c = one.e.peers[&PeerKey(1)].pipeline.asks[0].chunk;
    one.deliver(1, c);
    one.peer(2, PeerEvent::Faulty(Fault::BadBytes));
    let kept: Vec<_> = one.e.ledger().map(|(k, a)| (k, a.clone())).collect();
    let kept: Vec<(PeerKey, Account)> = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
    let mut again = Engine::new(Config::default(), 2);
    again.restore(kept);
    assert!(again.is_banned(PeerKey(2)));
    assert_eq!(again.ledger().find(|(k, _)| *k == PeerKey(1)).unwrap().1.taken, LEN);
}

/// One that has asked peer 7 for a chunk of a root, which has another key since.
fn under_another_key() -> (One, ContentKey) {
    let mut one = One::leech(1);
    one.source(7);
    one.content(K, ContentEvent::Removed);
    let other = ContentKey(K.0 + 1);
    one.content(other, ContentEvent::Added { want: true });
    one.content(other, ContentEvent::Grew { count: 1, len: CHUNK });
    one.content(other, ContentEvent::ManifestComplete);
    one.peer(7, PeerEvent::Promised { content: other, chunk: None });
    (one, other)
}

#[test]
fn what_was_asked_for_under_a_root_that_has_another_key_now_is_late_and_no_fault() {
    let (mut one, other) = under_another_key();
    let arrives = |one: &mut One| {
        let arrival = one.e.handle_chunk(one.now, PeerKey(7), other, ix(0), LEN);
        one.collect();
        arrival
    };
    // What was cancelled is answered once: here with the chunk that was on its way.
    assert_eq!(arrives(&mut one), Arrival::Late);
    assert_eq!(arrives(&mut one), Arrival::Unasked);
    let joined = PeerEvent::Joined { content: other, have: Bitfield::new(), complete: true };
    assert_eq!(requests(one.peer(7, joined)), [(7, 0)]);
    assert_eq!(arrives(&mut one), Arrival::Wanted);
}

#[test]
fn a_refusal_of_what_was_cancelled_under_another_key_leaves_the_new_request() {
    let (mut one, other) = under_another_key();
    let joined = PeerEvent::Joined { content: other, have: Bitfield::new(), complete: true };
    assert_eq!(requests(one.peer(7, joined)), [(7, 0)]);
    one.peer(7, PeerEvent::Refused { content: other, chunk: ix(0), why: Refusal::Cancelled });
    let arrival = one.e.handle_chunk(one.now, PeerKey(7), other, ix(0), LEN);
    one.collect();
    assert_eq!(arrival, Arrival::Wanted);
}
