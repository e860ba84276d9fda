//! What is promised to those that we serve: slots, order, haves, and what floods get.

use std::time::Duration;

use super::net::{CHUNK, K};
use super::one::*;
use crate::bitfield::Bitfield;
use crate::engine::*;
use crate::units::{ContentKey, PeerKey};

#[test]
fn a_newly_interested_peer_is_unchoked_at_once_while_slots_are_free() {
    let mut one = One::new(Config { slots: Slots::Fixed(3), ..Config::default() }, 10, false);
    for p in 0..3 {
        assert!(has(&one.taker(p), |a| *a == Action::Unchoke { peer: PeerKey(p) }));
    }
    assert!(!has(&one.taker(3), |a| matches!(a, Action::Unchoke { .. })));
    assert_eq!(one.e.node(one.now).slots_held, 3);
    // A slot falls free: by a loss of interest, and by a lost connection.
    let said = one.peer(1, PeerEvent::Interested { content: K, interested: false });
    assert!(has(said, |a| *a == Action::Unchoke { peer: PeerKey(3) }));
    assert!(one.view(1).choked, "who wants nothing makes room");
    one.taker(4);
    assert!(has(one.peer(0, PeerEvent::Disconnected), |a| *a == Action::Unchoke { peer: PeerKey(4) }));
}

#[test]
fn auto_opens_a_slot_only_while_the_link_idles_and_closes_it_again() {
    let mut one = One::seed(200);
    for p in 0..20 {
        one.taker(p);
    }
    assert_eq!(one.e.node(one.now).slots, 5, "the new ones get the time to ask");
    // Nobody asks for anything: one slot more every now and then.
    one.pass(1_000);
    let open = one.e.node(one.now).slots;
    assert!((8..=20).contains(&open), "{open}");
    // Everybody with a slot asks for more than the link carries: nothing new, and slots close.
    let busy: Vec<u64> = (0..20).filter(|p| !one.view(*p).choked).collect();
    let mut flying: Vec<(u64, u32)> = Vec::new();
    for p in &busy {
        flying.extend(sends(&one.ask(*p, 0..100)));
    }
    for _ in 0..300 {
        one.pass(100);
        let Some((p, c)) = (!flying.is_empty()).then(|| flying.remove(0)) else { break };
        flying.extend(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })));
    }
    assert!(one.e.node(one.now).slots < open);
}

#[test]
fn tit_for_tat_gives_the_slots_to_those_that_send_most() {
    let cfg = Config { slots: Slots::Fixed(5), ..Config::default() };
    let mut one = One::new(cfg, 400, true);
    one.content(K, ContentEvent::Held(r(0, 10)));
    for p in 0..12 {
        one.connect(p);
        one.peer(p, PeerEvent::Joined { content: K, have: (10..400).map(ix).collect(), complete: false });
        one.peer(p, PeerEvent::Interested { content: K, interested: true });
    }
    for p in 4..8 {
        one.peer(p, PeerEvent::Unchoked);
    }
    // Four of them send all the time.
    for _ in 0..25 {
        for p in 4..8 {
            let asks: Vec<u32> = (10..400).filter(|c| one.e.contents[&K].picker.asks(*c) > 0).collect();
            let mine = asks.into_iter().find(|c| one.e.peers[&PeerKey(p)].pipeline.position(K, *c).is_some());
            one.deliver(p, mine.unwrap());
            one.store(p, mine.unwrap());
        }
        one.pass(1_000);
    }
    assert!((4..8).all(|p| !one.view(p).choked));
    let others = (0..12).filter(|p| !one.view(*p).choked).count();
    assert_eq!(others, 5, "and one optimistic slot");
}

#[test]
fn the_optimistic_slot_goes_round() {
    let mut one = One::new(Config { slots: Slots::Fixed(2), ..Config::default() }, 50, true);
    one.content(K, ContentEvent::Held(r(0, 5)));
    for p in 0..6 {
        one.taker(p);
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        one.pass(10_000);
        seen.extend((0..6).filter(|p| one.view(*p).optimistic));
    }
    assert_eq!(seen.len(), 6);
}

#[test]
fn every_request_of_a_choked_peer_is_refused_one_by_one() {
    let mut one = One::new(Config { slots: Slots::Fixed(1), ..Config::default() }, 40, false);
    one.taker(0);
    one.taker(1);
    let refused = one.ask(1, 0..3);
    assert_eq!(refused.len(), 3);
    assert!(refused.iter().all(|a| matches!(a, Action::Refuse { why: Refusal::Choked, .. })));
    let begun = sends(&one.ask(0, 0..20)).len();
    let said = one.pass(10_000);
    assert!(has(&said, |a| *a == Action::Choke { peer: PeerKey(0) }), "the slot rotates");
    let choked = said.iter().filter(|a| matches!(a, Action::Refuse { why: Refusal::Choked, .. })).count();
    assert_eq!(choked + begun, 20);
}

#[test]
fn cancelled_and_missing_chunks_are_answered_too() {
    let mut one = One::seed(40);
    one.taker(0);
    let begun = sends(&one.ask(0, 0..10)).len();
    let said =
        one.peer(0, PeerEvent::CancelledByPeer { content: K, chunks: (0..10).map(ix).collect() }).to_vec();
    let cancelled = |a: &Action| matches!(a, Action::Refuse { why: Refusal::Cancelled, .. });
    assert_eq!(said.iter().filter(|a| cancelled(a)).count() + begun, 10);
    one.content(K, ContentEvent::Lost(r(20, 30)));
    assert!(one.ask(0, 20..21).contains(&Action::Refuse {
        peer: PeerKey(0),
        content: K,
        chunk: ix(20),
        why: Refusal::Gone
    }));
    one.e.handle_store(one.now, StoreResult::Unreadable { content: K, chunk: ix(0), to: PeerKey(0) });
    assert!(has(one.collect(), |a| matches!(a, Action::Refuse { why: Refusal::Gone, .. })));
}

#[test]
fn a_flood_of_requests_is_refused_and_the_third_bans() {
    let mut one = One::seed(2_000);
    one.taker(0);
    for k in 0..3 {
        one.ask(0, k * 300..k * 300 + 300);
    }
    assert!(one.e.is_banned(PeerKey(0)));
    assert!(has(&one.said, |a| *a == Action::Ban { peer: PeerKey(0), fault: Fault::Flood }));
    one.connect(0);
    assert!(has(&one.said, |a| matches!(a, Action::Ban { .. })), "it cannot come back");
    assert!(one.e.peer(one.now, PeerKey(0)).is_none());
}

#[test]
fn choke_flapping_and_idle_chatter_are_counted() {
    let mut one = One::leech(10);
    one.source(0);
    for _ in 0..3 {
        for _ in 0..1_500 {
            one.e.handle_peer(one.now, PeerKey(0), PeerEvent::Choked);
            one.e.handle_peer(one.now, PeerKey(0), PeerEvent::Unchoked);
        }
        one.collect();
        one.pass(10_000);
    }
    assert!(one.e.is_banned(PeerKey(0)));
}

#[test]
fn a_lone_seed_sends_first_what_it_sent_least() {
    let mut one = One::seed(40);
    one.taker(0);
    one.taker(1);
    let mut flying = sends(&one.ask(0, 0..8));
    flying.extend(sends(&one.ask(1, 0..16)));
    let mut sent = Vec::new();
    while let Some((p, c)) = (!flying.is_empty()).then(|| flying.remove(0)) {
        sent.push(c);
        flying.extend(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })));
    }
    assert_eq!(sent.len(), 24);
    let once: std::collections::BTreeSet<u32> = sent[..16].iter().copied().collect();
    assert_eq!(once.len(), 16, "nothing twice before everything once: {sent:?}");
}

/// Of eight newcomers the first four had two chunks before the others had one, and could pass on no more for that.
#[test]
fn a_seeds_slot_goes_on_after_one_chunk_while_a_newcomer_has_none() {
    let mut one = One::new(Config { slots: Slots::Fixed(1), ..Config::default() }, 40, false);
    let gone =
        |one: &mut One, p, c| one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN }).to_vec();
    let passes = |said: &[Action], from, to| {
        has(said, |a| *a == Action::Choke { peer: PeerKey(from) })
            && has(said, |a| *a == Action::Unchoke { peer: PeerKey(to) })
    };
    one.taker(0);
    one.taker(1);
    one.ask(0, 0..1);
    let said = gone(&mut one, 0, 0);
    assert!(passes(&said, 0, 1), "{said:?}");
    // Now everybody has something, and two are in order.
    one.ask(1, 10..11);
    let said = gone(&mut one, 1, 10);
    assert!(!passes(&said, 1, 0), "{said:?}");
    one.ask(1, 11..12);
    let said = gone(&mut one, 1, 11);
    assert!(passes(&said, 1, 0), "{said:?}");
}

#[test]
fn newcomers_have_their_first_chunk_under_way_side_by_side_and_nobody_a_second_for_that() {
    let mut one = One::new(Config { slots: Slots::Fixed(20), ..Config::default() }, 400, false);
    let mut flying = Vec::new();
    for p in 0..8 {
        one.taker(p);
        flying.extend(sends(&one.ask(p, p as u32 * 10..p as u32 * 10 + 1)));
    }
    assert_eq!(flying.iter().map(|f| f.0).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    // They ask for more, and half go out: the other half is enough for those who are known.
    for p in 0..8 {
        assert_eq!(sends(&one.ask(p, p as u32 * 10 + 1..p as u32 * 10 + 5)), []);
    }
    for (p, c) in flying.into_iter().take(4) {
        assert_eq!(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })), []);
    }
}

#[test]
fn a_seed_with_one_peer_keeps_its_order_and_never_lets_the_link_idle() {
    let mut one = One::seed(100);
    one.taker(0);
    let mut flying = sends(&one.ask(0, 0..50));
    let mut order = Vec::new();
    while !flying.is_empty() {
        assert!(flying.len() >= 2 || order.len() >= 48, "the link idles after {order:?}");
        let (p, c) = flying.remove(0);
        order.push(c);
        one.pass(1);
        flying.extend(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })));
    }
    assert!(order.iter().copied().eq(0..50));
}

#[test]
fn more_is_in_flight_where_that_makes_sending_faster() {
    // Receivers of one chunk each 2 s, a link that could serve twenty of them.
    let mut one = One::new(Config { slots: Slots::Fixed(20), ..Config::default() }, 1_000, false);
    let (start, mut due, mut sent) = (one.now, Vec::new(), 0u64);
    for p in 0..20 {
        one.taker(p);
        let s = sends(&one.ask(p, p as u32 * 50..p as u32 * 50 + 50));
        due.extend(s.into_iter().map(|(p, c)| (one.now + Duration::from_secs(2), p, c)));
    }
    while one.now.since(start) < Duration::from_secs(60) {
        due.sort_unstable();
        let (t, p, c) = due.remove(0);
        one.pass(t.since(one.now).as_millis() as u64);
        sent += 1;
        let s = sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN }));
        due.extend(s.into_iter().map(|(p, c)| (one.now + Duration::from_secs(2), p, c)));
    }
    assert!(sent > 150, "only {sent} chunks: two in flight would be 60");
}

#[test]
fn one_slow_receiver_does_not_hold_the_link() {
    let mut one = One::new(Config { slots: Slots::Fixed(5), ..Config::default() }, 1_000, false);
    let mut due = Vec::new();
    for p in 0..4 {
        one.taker(p);
        let s = sends(&one.ask(p, p as u32 * 200..p as u32 * 200 + 200));
        due.extend(s.into_iter().map(|(p, c)| (one.now, p, c)));
    }
    let (start, mut sent, mut line) = (one.now, [0u32; 4], one.now);
    // The link sends a chunk in 10 ms; peer 0 takes 20 s to take one.
    while one.now.since(start) < Duration::from_secs(20) && !due.is_empty() {
        due.sort_unstable();
        let (t, p, c) = due.remove(0);
        one.pass(t.since(one.now).as_millis() as u64);
        sent[p as usize] += 1;
        for (p, c) in sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })) {
            line = line.max(one.now) + Duration::from_millis(10);
            due.push((if p == 0 { one.now + Duration::from_secs(20) } else { line }, p, c));
        }
        if sent[1..] == [200, 200, 200] {
            break;
        }
    }
    assert_eq!(sent[1..], [200, 200, 200]);
    assert!(one.now.since(start) < Duration::from_secs(9), "600 chunks are 6 s: {:?}", one.now.since(start));
}

/// With a round trip of 40 ms a seed's link of 32 Mbit/s ran at a third for a second at a time: two receivers whose
/// connections had grown slow held both places.
#[test]
fn slow_connections_leave_the_link_to_peers_with_nothing_under_way() {
    let mut one = One::new(Config { slots: Slots::Fixed(5), ..Config::default() }, 1_000, false);
    let mut flying = Vec::new();
    for p in 0..5 {
        one.taker(p);
        flying.extend(sends(&one.ask(p, p as u32 * 100..p as u32 * 100 + 100)));
    }
    for _ in 0..80 {
        flying.extend(sends(&one.pass(125)));
        let (p, c) = flying.remove(0);
        flying.extend(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })));
    }
    assert_eq!(flying.len(), 3, "the link is known to carry eight chunks a second");
    assert_eq!(sends(&one.pass(200)), [], "three take it 375 ms");
    flying.extend(sends(&one.pass(3_000)));
    let mut peers: Vec<u64> = flying.iter().map(|f| f.0).collect();
    peers.sort_unstable();
    assert_eq!(peers, [0, 1, 2, 3, 4], "one each, and nobody two");
}

#[test]
fn contents_share_the_link_evenly_however_many_peers_each_has() {
    let mut one = One::new(Config { slots: Slots::Fixed(9), ..Config::default() }, 1_000, false);
    let other = ContentKey(1);
    one.content(other, ContentEvent::Added { want: false });
    one.content(other, ContentEvent::Grew { count: 1_000, len: CHUNK });
    one.content(other, ContentEvent::Held(r(0, 1_000)));
    let mut flying = Vec::new();
    let (mut served, mut next) = ([0u32; 2], [0u32; 2]);
    for p in 0..9 {
        let key = if p == 8 { other } else { K };
        one.connect(p);
        one.peer(p, PeerEvent::Joined { content: key, have: Bitfield::new(), complete: false });
        one.peer(p, PeerEvent::Interested { content: key, interested: true });
        for _ in 0..4 {
            let n = &mut next[key.0 as usize];
            let chunks = vec![ix(*n)];
            *n += 1;
            flying.extend(one.peer(p, PeerEvent::Requested { content: key, chunks }).to_vec());
        }
    }
    for _ in 0..200 {
        let i = flying.iter().position(|a| matches!(a, Action::Send { .. })).unwrap();
        let Action::Send { peer, content, chunk } = flying.remove(i) else { continue };
        served[content.0 as usize] += 1;
        one.pass(100);
        flying.extend(one.peer(peer.0, PeerEvent::Sent { content, chunk, bytes: LEN }).to_vec());
        let n = &mut next[content.0 as usize];
        let chunks = vec![ix(*n)];
        *n += 1;
        flying.extend(one.peer(peer.0, PeerEvent::Requested { content, chunks }).to_vec());
    }
    assert!(served[1] > 85, "{served:?}");
}

#[test]
fn bitswap_peers_share_one_turn() {
    let mut one = One::seed(2_000);
    for p in 0..4 {
        one.peer(p, PeerEvent::Connected { kind: PeerKind::Bitswap, rtt: None });
    }
    one.taker(9);
    let mut flying = Vec::new();
    for p in [0, 1, 2, 3, 9u64] {
        flying.extend(sends(&one.ask(p, p as u32 * 200..p as u32 * 200 + 100)));
    }
    let mut served = [0; 10];
    for _ in 0..100 {
        let (p, c) = flying.remove(0);
        served[p as usize] += 1;
        one.pass(100);
        flying.extend(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })));
    }
    assert!((40..=60).contains(&served[9]), "{served:?}");
    assert!(served[..4].iter().all(|n| *n >= 8), "{served:?}");
}

#[test]
fn haves_go_at_once_to_those_short_of_work_and_together_to_others() {
    let mut one = One::leech(200);
    one.content(K, ContentEvent::Held(r(0, 100)));
    one.source(0);
    // One lacks nearly nothing of ours, the other lacks much.
    for (p, n) in [(1, 98u32), (2, 10)] {
        one.connect(p);
        one.peer(
            p,
            PeerEvent::Joined { content: K, have: (0..n).chain(100..200).map(ix).collect(), complete: false },
        );
    }
    one.pass(5_000);
    // 150 and others are with both already: they are told with the rest.
    let mut asked: Vec<u32> = Vec::new();
    for c in 100..200 {
        if one.e.contents[&K].picker.asks(c) > 0 {
            asked.push(c);
        }
    }
    one.deliver(0, asked[0]);
    let c = asked[0];
    assert!(!has(one.store(0, c), |a| matches!(a, Action::Have { .. })), "both have it");
    let told = one.pass(1_100);
    let haves: Vec<_> = told.iter().filter(|a| matches!(a, Action::Have { .. })).collect();
    assert_eq!(haves.len(), 3, "once a second, to everybody: {told:?}");
    // Chunk 99 is lacked by both; only for one of them that matters now.
    one.content(K, ContentEvent::Lost(r(99, 100)));
    one.pass(5_000);
    one.peer(1, PeerEvent::Have { content: K, ranges: Vec::new() });
    one.e.handle_content(one.now, K, ContentEvent::Held(r(99, 100)));
    let said = one.collect().to_vec();
    let told = |p| Action::Have { peer: PeerKey(p), content: K, ranges: vec![r(99, 100)] };
    assert!(said.contains(&told(1)));
    assert!(said.contains(&told(2)), "nobody but the seed has it: news for all");
    let again = one.pass(5_000);
    assert!(!has(&again, |a| matches!(a, Action::Have { peer, .. } if peer.0 > 0)), "told once");
}

#[test]
fn what_came_between_join_and_joined_is_told() {
    let mut one = One::leech(50);
    one.source(0);
    one.connect(1);
    let c = one.e.contents[&K].picker.len();
    let asked = (0..c).find(|c| one.e.contents[&K].picker.asks(*c) > 0).unwrap();
    one.deliver(0, asked);
    one.store(0, asked);
    one.peer(1, PeerEvent::Joined { content: K, have: Bitfield::new(), complete: false });
    let told = one.pass(1_100);
    assert!(has(
        &told,
        |a| matches!(a, Action::Have { peer: PeerKey(1), ranges, .. } if ranges[0].start() == asked)
    ));
}

#[test]
fn tables_are_bounded() {
    let mut one = One::new(Config { max_peers: 50, max_neighbours: 20, ..Config::default() }, 10, true);
    for p in 0..200 {
        one.source(p);
    }
    assert_eq!((one.e.peers().count(), one.e.neighbours(K).count()), (50, 20));
    assert!(has(&one.said, |a| matches!(a, Action::Leave { .. })) || one.e.peers().count() == 50);
}

#[test]
fn an_optimistic_peer_that_wants_nothing_makes_room_when_slots_are_closed() {
    let mut one = One::seed(64);
    (1..=14).for_each(|p| drop(one.taker(p)));
    // Nobody asks for anything, so one slot after the other is opened.
    one.pass(2_000);
    let holders = |one: &One| (1..=14).filter(|p| !one.view(*p).choked).count();
    assert_eq!(holders(&one), 14);
    one.pass(40_000);
    let o = (1..=14).find(|p| one.view(*p).optimistic).unwrap();
    one.peer(o, PeerEvent::Interested { content: K, interested: false });
    // Now the link is busy: slots are closed, and those who want something come before the one that does not.
    for p in (1..=14).filter(|p| *p != o) {
        one.ask(p, 0..8);
    }
    one.pass(9_000);
    assert!(holders(&one) < 14);
    assert!(one.view(o).choked, "everything counted is looked at after each event as well");
}

/// The alarm for chunks that are held up was kept when they had gone out, and rang for nothing: with it all peers
/// were looked after, which was a twelfth of what a simulated swarm cost.
#[test]
fn what_has_gone_out_in_time_rings_no_alarm() {
    let mut one = One::seed(200);
    one.taker(0);
    let mut flying = sends(&one.ask(0, 0..60));
    let mut alarms = 0;
    for _ in 0..40 {
        // Time passes, yet not so much that anything is held up.
        let before = one.now;
        one.now = before + Duration::from_millis(100);
        alarms += u32::from(one.e.send_at < one.now);
        let (p, c) = flying.remove(0);
        flying.extend(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })));
        assert!(one.e.send_at > one.now);
    }
    assert_eq!(alarms, 0);
    assert!(one.e.send_at < crate::units::Time::MAX, "what is under way now may still be held up");
    for (p, c) in std::mem::take(&mut flying) {
        flying.extend(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })));
    }
    while let Some((p, c)) = flying.pop() {
        flying.extend(sends(one.peer(p, PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN })));
    }
    assert_eq!(one.e.send_at, crate::units::Time::MAX, "nothing waits any more");
}
