//! One engine, driven by hand: what each policy promises.

use std::time::Duration;

use super::net::{CHUNK, K};
use crate::bitfield::Bitfield;
use crate::engine::*;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey, Time};

const LEN: u64 = CHUNK as u64;

fn ix(c: u32) -> ChunkIndex {
    ChunkIndex::new(c).unwrap()
}

fn r(a: u32, b: u32) -> ChunkRange {
    ChunkRange::new(a, b).unwrap()
}

/// An engine with its clock, and what it said last.
struct One {
    e: Engine,
    now: Time,
    said: Vec<Action>,
}

impl One {
    fn new(cfg: Config, chunks: u32, want: bool) -> One {
        let mut one = One { e: Engine::new(cfg, 1), now: Time(1_000_000_000), said: Vec::new() };
        one.content(K, ContentEvent::Added { want });
        one.content(K, ContentEvent::Grew { count: chunks, len: CHUNK });
        one.content(K, ContentEvent::ManifestComplete);
        if !want {
            one.content(K, ContentEvent::Held(r(0, chunks)));
        }
        one
    }

    fn leech(chunks: u32) -> One {
        One::new(Config::default(), chunks, true)
    }

    fn seed(chunks: u32) -> One {
        One::new(Config::default(), chunks, false)
    }

    fn collect(&mut self) -> &[Action] {
        self.said.clear();
        self.said.extend(std::iter::from_fn(|| self.e.poll_action()));
        self.e.check_invariants().unwrap();
        &self.said
    }

    fn content(&mut self, k: ContentKey, event: ContentEvent) -> &[Action] {
        self.e.handle_content(self.now, k, event);
        self.collect()
    }

    fn peer(&mut self, p: u64, event: PeerEvent) -> &[Action] {
        self.e.handle_peer(self.now, PeerKey(p), event);
        self.collect()
    }

    fn connect(&mut self, p: u64) {
        let rtt = Some(Duration::from_millis(20));
        self.peer(p, PeerEvent::Connected { kind: PeerKind::Exchange, rtt });
    }

    /// A peer that has everything and has unchoked us.
    fn source(&mut self, p: u64) -> &[Action] {
        self.connect(p);
        self.peer(p, PeerEvent::Unchoked);
        self.peer(p, PeerEvent::Joined { content: K, have: Bitfield::new(), complete: true })
    }

    /// A peer that has nothing and wants everything.
    fn taker(&mut self, p: u64) -> Vec<Action> {
        self.connect(p);
        self.peer(p, PeerEvent::Joined { content: K, have: Bitfield::new(), complete: false });
        self.peer(p, PeerEvent::Interested { content: K, interested: true }).to_vec()
    }

    fn ask(&mut self, p: u64, chunks: std::ops::Range<u32>) -> Vec<Action> {
        self.peer(p, PeerEvent::Requested { content: K, chunks: chunks.map(ix).collect() }).to_vec()
    }

    fn deliver(&mut self, p: u64, c: u32) -> Arrival {
        let a = self.e.handle_chunk(self.now, PeerKey(p), K, ix(c), LEN);
        self.collect();
        a
    }

    fn store(&mut self, p: u64, c: u32) -> &[Action] {
        self.e.handle_store(self.now, StoreResult::Stored { content: K, chunk: ix(c), from: PeerKey(p) });
        self.collect()
    }

    /// Lets time pass, all timers on the way; says what was said meanwhile.
    fn pass(&mut self, ms: u64) -> Vec<Action> {
        let end = self.now + Duration::from_millis(ms);
        let mut all = Vec::new();
        while let Some(t) = self.e.poll_timeout().filter(|t| *t <= end) {
            self.now = self.now.max(t);
            self.e.handle_timeout(self.now);
            all.extend_from_slice(self.collect());
        }
        self.now = end;
        all
    }

    fn view(&self, p: u64) -> PeerView {
        self.e.peer(self.now, PeerKey(p)).unwrap()
    }
}

fn requests(actions: &[Action]) -> Vec<(u64, u32)> {
    let of = |a: &Action| match a {
        Action::Request { peer, chunks, .. } => chunks.iter().map(|c| (peer.0, c.get())).collect(),
        _ => Vec::new(),
    };
    actions.iter().flat_map(of).collect()
}

fn sends(actions: &[Action]) -> Vec<(u64, u32)> {
    let of = |a: &Action| match a {
        Action::Send { peer, chunk, .. } => Some((peer.0, chunk.get())),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

fn has(actions: &[Action], f: impl Fn(&Action) -> bool) -> bool {
    actions.iter().any(f)
}

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
    let said = one.content(K, ContentEvent::Grew { count: 1, len: 5 });
    assert_eq!(requests(said), [(7, 1)]);
}

#[test]
fn a_connected_peer_is_told_that_we_are_in_the_swarm() {
    let mut one = One::leech(3);
    one.connect(5);
    assert!(has(&one.said, |a| *a == Action::Join { peer: PeerKey(5), content: K }));
    let mut seed = One::seed(3);
    seed.connect(5);
    assert!(seed.said.is_empty());
}

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
    for round in 0..15 {
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
    assert!(one.e.is_complete(K), "within a second and a half, long before the time-out");
    let twice = (0..12).filter(|c| asked.contains(&(1, *c)) && asked.contains(&(2, *c))).count();
    assert!((1..=3).contains(&twice), "{asked:?}");
    // What the first still sends is late, and nobody's fault.
    let owed: Vec<u32> = one.e.peers[&PeerKey(1)].pipeline.asks.iter().map(|a| a.chunk).collect();
    assert!(!owed.is_empty());
    assert!(owed.into_iter().all(|c| one.deliver(1, c) == Arrival::Late));
    assert_eq!(one.view(1).trust, 3);
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
    assert!((4..=6).contains(&asks(&one.pass(300_000))));
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
    let said = one.pass(20_000);
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

#[test]
fn tables_are_bounded() {
    let mut one = One::new(Config { max_peers: 50, max_neighbours: 20, ..Config::default() }, 10, true);
    for p in 0..200 {
        one.source(p);
    }
    assert_eq!((one.e.peers().count(), one.e.neighbours(K).count()), (50, 20));
    assert!(has(&one.said, |a| matches!(a, Action::Leave { .. })) || one.e.peers().count() == 50);
}
