//! Any sequence of events: no panic, and after each one everything counted is right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use crate::bitfield::Bitfield;
use crate::engine::*;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey, Time};

#[derive(Clone, Debug)]
enum Op {
    Content(u32, ContentEvent),
    Peer(u64, PeerEvent),
    /// The peer delivers what it was asked for first, last, or something at will.
    Deliver(u64, u8, u32),
    Store(u8, u32, u32, u64),
    /// The oldest chunk handed to the driver has left.
    Sent,
    Pass(u64),
    /// Two chunks, of two contents, are the same.
    Same(u32, u32, u32),
    /// The driver is done with the oldest copy.
    Copied(bool),
    /// A newcomer would take any chunk.
    Any(u64, u32),
    Slots(u16),
    Limits(Option<u64>, Option<u64>),
}

fn key() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(0u32), 1 => Just(1u32), 1 => Just(9u32)]
}

fn ix(c: u32) -> ChunkIndex {
    ChunkIndex::new(c).unwrap()
}

fn range() -> impl Strategy<Value = ChunkRange> {
    (0u32..40, 1u32..12).prop_map(|(s, n)| ChunkRange::new(s, s + n).unwrap())
}

fn chunks() -> impl Strategy<Value = Vec<ChunkIndex>> {
    prop::collection::vec((0u32..40).prop_map(ix), 0..6)
}

fn content_event() -> impl Strategy<Value = ContentEvent> {
    let nodes = || prop::collection::vec((0u32..100).prop_map(NodeId), 0..80);
    prop_oneof![
        3 => any::<bool>().prop_map(|want| ContentEvent::Added { want }),
        3 => (1u32..20, prop_oneof![Just(262_144u32), Just(100)]).prop_map(|(count, len)| ContentEvent::Grew { count, len }),
        1 => Just(ContentEvent::ManifestComplete),
        1 => nodes().prop_map(ContentEvent::NodesWanted),
        1 => nodes().prop_map(ContentEvent::NodesHeld),
        3 => range().prop_map(ContentEvent::Held),
        1 => range().prop_map(ContentEvent::Lost),
        1 => (range(), 0u8..3).prop_map(|(range, level)| ContentEvent::Priority { range, level }),
        1 => (0u32..40, 0u32..20).prop_map(|(s, count)| ContentEvent::Window { start: ix(s), count, per_chunk: Duration::from_millis(50) }),
        1 => any::<bool>().prop_map(ContentEvent::Paused),
        1 => prop::option::of(0u64..1_000_000).prop_map(|up| ContentEvent::Limits { up, down: up }),
        1 => Just(ContentEvent::Removed),
    ]
}

fn peer_event() -> impl Strategy<Value = PeerEvent> {
    let k = || key().prop_map(ContentKey);
    let kind = prop_oneof![4 => Just(PeerKind::Exchange), 1 => Just(PeerKind::Bitswap)];
    let have = || prop::collection::vec(range(), 0..4);
    let fault = prop_oneof![Just(Fault::BadBytes), Just(Fault::Malformed), Just(Fault::Flood)];
    let why = prop_oneof![Just(Refusal::Gone), Just(Refusal::Choked), Just(Refusal::Cancelled)];
    let nodes = || prop::collection::vec((0u32..100).prop_map(NodeId), 0..20);
    prop_oneof![
        4 => kind.prop_map(|kind| PeerEvent::Connected { kind, rtt: Some(Duration::from_millis(20)) }),
        1 => Just(PeerEvent::Disconnected),
        1 => (0u64..1_000).prop_map(|ms| PeerEvent::Rtt(Duration::from_millis(ms))),
        5 => (k(), have(), any::<bool>()).prop_map(|(content, have, complete)| {
            let have: Bitfield = have.into_iter().flat_map(|r| r.iter()).collect();
            PeerEvent::Joined { content, have, complete }
        }),
        2 => (k(), prop::option::of((0u32..40).prop_map(ix))).prop_map(|(content, chunk)| PeerEvent::Promised { content, chunk }),
        1 => k().prop_map(|content| PeerEvent::Left { content }),
        4 => (k(), have()).prop_map(|(content, ranges)| PeerEvent::Have { content, ranges }),
        1 => k().prop_map(|content| PeerEvent::Complete { content }),
        1 => (k(), have()).prop_map(|(content, ranges)| PeerEvent::Lost { content, ranges }),
        1 => Just(PeerEvent::Choked),
        5 => Just(PeerEvent::Unchoked),
        5 => (k(), any::<bool>()).prop_map(|(content, interested)| PeerEvent::Interested { content, interested }),
        1 => (0u64..300_000).prop_map(|bytes| PeerEvent::Receiving { bytes }),
        2 => (k(), 0u32..40, why).prop_map(|(content, c, why)| PeerEvent::Refused { content, chunk: ix(c), why }),
        1 => (k(), nodes(), nodes()).prop_map(|(content, got, lacking)| PeerEvent::Nodes { content, got, lacking }),
        6 => (k(), chunks()).prop_map(|(content, chunks)| PeerEvent::Requested { content, chunks }),
        1 => (k(), chunks()).prop_map(|(content, chunks)| PeerEvent::CancelledByPeer { content, chunks }),
        1 => (k(), 0u32..40).prop_map(|(content, c)| PeerEvent::Sent { content, chunk: ix(c), bytes: 5 }),
        1 => fault.prop_map(PeerEvent::Faulty),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), content_event()).prop_map(|(k, e)| Op::Content(k, e)),
        14 => (0u64..8, peer_event()).prop_map(|(p, e)| Op::Peer(p, e)),
        8 => (0u64..8, 0u8..3, 0u32..40).prop_map(|(p, how, c)| Op::Deliver(p, how, c)),
        6 => (0u8..4, key(), 0u32..40, 0u64..8).prop_map(|(how, k, c, p)| Op::Store(how, k, c, p)),
        4 => Just(Op::Sent),
        2 => (0u64..8, key()).prop_map(|(p, k)| Op::Any(p, k)),
        5 => (key(), 0u32..20, 0u32..20).prop_map(|(k, c, d)| Op::Same(k, c, d)),
        4 => any::<bool>().prop_map(Op::Copied),
        3 => (0u64..70_000).prop_map(Op::Pass),
        1 => (0u16..6).prop_map(Op::Slots),
        1 => (prop::option::of(0u64..9_000_000), prop::option::of(0u64..9_000_000)).prop_map(|(u, d)| Op::Limits(u, d)),
    ]
}

/// What a driver would know.
#[derive(Default)]
struct Driver {
    /// Unanswered requests of ours, by peer, cancelled or not.
    asks: BTreeMap<u64, Vec<(ContentKey, ChunkIndex)>>,
    /// Unanswered requests of a peer.
    owed: BTreeMap<(u64, ContentKey, ChunkIndex), i32>,
    sending: Vec<(PeerKey, ContentKey, ChunkIndex)>,
    copying: Vec<(ContentKey, ChunkIndex)>,
    arrived: Vec<(ContentKey, ChunkIndex, PeerKey)>,
    /// Peers that were told that any chunk of a content will do, and what they promised.
    any: BTreeMap<u64, ContentKey>,
    promised: BTreeSet<(u64, ChunkIndex)>,
}

impl Driver {
    fn act(&mut self, e: &mut Engine) {
        let mut n = 0;
        while let Some(a) = e.poll_action() {
            n += 1;
            assert!(n < 10_000, "no end of actions");
            match a {
                Action::Request { peer, content, chunks } => {
                    assert!(!chunks.is_empty());
                    self.asks.entry(peer.0).or_default().extend(chunks.iter().map(|c| (content, *c)));
                }
                Action::Join { peer, content, any: true } => drop(self.any.insert(peer.0, content)),
                Action::Send { peer, content, chunk } => {
                    self.sending.push((peer, content, chunk));
                    *self.owed.entry((peer.0, content, chunk)).or_default() -= 1;
                }
                Action::Refuse { peer, content, chunk, .. } => {
                    *self.owed.entry((peer.0, content, chunk)).or_default() -= 1;
                }
                Action::Have { ranges, .. } | Action::Lost { ranges, .. } => assert!(!ranges.is_empty()),
                Action::Copy { from, content, chunk } => {
                    assert!(e.holds(from.0, from.1) && !e.holds(content, chunk));
                    self.copying.push((content, chunk));
                }
                Action::Ban { peer, .. } => self.forget(peer.0),
                _ => {}
            }
        }
    }

    fn forget(&mut self, peer: u64) {
        self.asks.remove(&peer);
        self.any.remove(&peer);
        self.promised.retain(|(p, _)| *p != peer);
        self.owed.retain(|k, _| k.0 != peer);
        self.sending.retain(|s| s.0.0 != peer);
    }
}

fn apply(e: &mut Engine, d: &mut Driver, now: &mut Time, op: Op) {
    match op {
        Op::Content(k, event) => e.handle_content(*now, ContentKey(k), event),
        Op::Peer(p, event) => {
            let known = e.peer(*now, PeerKey(p)).is_some();
            match &event {
                PeerEvent::Connected { .. } | PeerEvent::Disconnected => d.forget(p),
                PeerEvent::Requested { content, chunks } if known => {
                    chunks.iter().for_each(|c| *d.owed.entry((p, *content, *c)).or_default() += 1);
                }
                PeerEvent::Promised { content, chunk } if known && d.any.get(&p) == Some(content) => {
                    d.any.remove(&p);
                    d.promised.extend(chunk.map(|c| (p, c)));
                }
                PeerEvent::Refused { content, chunk, .. } => {
                    d.promised.remove(&(p, *chunk));
                    let asks = d.asks.entry(p).or_default();
                    if let Some(i) = asks.iter().position(|a| a == &(*content, *chunk)) {
                        asks.remove(i);
                    }
                }
                PeerEvent::Sent { content, chunk, .. } => {
                    if let Some(i) = d.sending.iter().position(|s| *s == (PeerKey(p), *content, *chunk)) {
                        d.sending.remove(i);
                    }
                }
                _ => {}
            }
            e.handle_peer(*now, PeerKey(p), event);
        }
        Op::Deliver(p, how, c) => {
            let asks = d.asks.entry(p).or_default();
            let known = e.peer(*now, PeerKey(p)).is_some();
            let (content, chunk) = match (how, asks.is_empty()) {
                (0, false) => asks.remove(0),
                (1, false) => asks.pop().unwrap(),
                _ => (ContentKey(0), ix(c)),
            };
            let asked =
                how < 2 || asks.iter().position(|a| *a == (content, chunk)).map(|i| asks.remove(i)).is_some();
            let arrival = e.handle_chunk(*now, PeerKey(p), content, chunk, 262_144);
            match arrival {
                Arrival::Wanted => d.arrived.push((content, chunk, PeerKey(p))),
                Arrival::Unasked => {
                    assert!(!asked || how < 2, "what was asked for is said not to be");
                    assert!(
                        !d.promised.contains(&(p, chunk)),
                        "what was promised is said not to be asked for"
                    );
                }
                Arrival::Late if asked || !known => {}
                Arrival::Late if d.promised.remove(&(p, chunk)) || d.any.remove(&p).is_some() => {}
                Arrival::Late => {
                    // A chunk of this number was asked for under a content that is gone: the engine cannot tell
                    // the two apart, and takes this for the answer.
                    let asks = d.asks.entry(p).or_default();
                    let before =
                        |a: &(ContentKey, ChunkIndex)| a.1 == chunk && e.content(*now, a.0).is_none();
                    asks.remove(
                        asks.iter().position(before).expect("what was never asked for is said to be late"),
                    );
                }
            }
        }
        Op::Store(how, k, c, p) => {
            let (content, chunk, from) = d.arrived.pop().unwrap_or((ContentKey(k), ix(c), PeerKey(p)));
            let r = match how {
                0 | 1 => StoreResult::Stored { content, chunk, from },
                2 => StoreResult::NotStored { content, chunk },
                _ if c % 2 == 0 => StoreResult::Bad { content, chunk, from },
                _ => StoreResult::Unreadable { content, chunk, to: from },
            };
            if let StoreResult::Unreadable { content, chunk, to } = &r
                && let Some(i) = d.sending.iter().position(|s| *s == (*to, *content, *chunk))
            {
                // The refusal that follows answers the request; `Send` was counted as the answer.
                d.sending.remove(i);
                *d.owed.entry((to.0, *content, *chunk)).or_default() += 1;
            }
            e.handle_store(*now, r);
        }
        Op::Any(p, k) => {
            if let Some(c) = e.handle_any(*now, PeerKey(p), ContentKey(k)) {
                *d.owed.entry((p, ContentKey(k), c)).or_default() += 1;
            }
        }
        Op::Sent => {
            if !d.sending.is_empty() {
                let (peer, content, chunk) = d.sending.remove(0);
                e.handle_peer(*now, peer, PeerEvent::Sent { content, chunk, bytes: 262_144 });
            }
        }
        Op::Same(k, c, d) => {
            let other = (ContentKey(1 - k.min(1)), ix(d));
            e.handle_content(*now, ContentKey(k), ContentEvent::Same { chunk: ix(c), other });
        }
        Op::Copied(well) => {
            if !d.copying.is_empty() {
                let (k, chunk) = d.copying.remove(0);
                let done = if well {
                    ContentEvent::Held(ChunkRange::one(chunk))
                } else {
                    ContentEvent::NotCopied(chunk)
                };
                e.handle_content(*now, k, done);
            }
        }
        Op::Pass(ms) => {
            *now = *now + Duration::from_millis(ms);
            e.handle_timeout(*now);
        }
        Op::Slots(0) => e.set_slots(*now, Slots::Auto),
        Op::Slots(n) => e.set_slots(*now, Slots::Fixed(n)),
        Op::Limits(up, down) => e.set_limits(*now, up, down),
    }
}

proptest! {
    #[test]
    fn no_event_sequence_breaks_an_invariant(
        seed in any::<u64>(),
        copies in 1u8..4,
        two in any::<bool>(),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let cfg = Config { max_neighbours: 5, max_peers: 7, queue_per_peer: 8, endgame_copies: copies, ..Config::default() };
        let mut e = Engine::new(cfg, seed);
        let (mut d, mut now) = (Driver::default(), Time::ZERO);
        // Most sequences are to have something to play with.
        let start = [
            Op::Content(0, ContentEvent::Added { want: true }),
            Op::Content(0, ContentEvent::Grew { count: 20, len: 262_144 }),
            Op::Peer(0, PeerEvent::Connected { kind: PeerKind::Exchange, rtt: None }),
            Op::Peer(1, PeerEvent::Connected { kind: PeerKind::Exchange, rtt: None }),
            Op::Peer(0, PeerEvent::Joined { content: ContentKey(0), have: Bitfield::full(9), complete: true }),
            Op::Peer(1, PeerEvent::Joined { content: ContentKey(0), have: Bitfield::full(9), complete: false }),
            Op::Peer(0, PeerEvent::Unchoked),
        ];
        // Another content shares some of its chunks, with sources of its own.
        let other = [
            Op::Content(1, ContentEvent::Added { want: true }),
            Op::Content(1, ContentEvent::Grew { count: 20, len: 262_144 }),
            Op::Peer(1, PeerEvent::Joined { content: ContentKey(1), have: Bitfield::new(), complete: true }),
        ];
        let shared = (0..20).map(|c| Op::Same(1, c, 19 - c));
        let start = start.into_iter().chain(other.into_iter().chain(shared).filter(|_| two));
        for op in start.chain(ops) {
            apply(&mut e, &mut d, &mut now, op.clone());
            d.act(&mut e);
            if let Err(what) = e.check_invariants() {
                prop_assert!(false, "{what} after {op:?}");
            }
            e.handle_timeout(now);
            d.act(&mut e);
            if let Some(t) = e.poll_timeout() {
                prop_assert!(t > now, "a timer that is due was not dealt with after {op:?}");
            }
        }
        // Every request that a peer made is answered or still waits here.
        for ((p, k, c), n) in &d.owed {
            prop_assert!(*n >= 0, "{p} got an answer to nothing: {k:?} {c:?}");
        }
        let waiting: u32 = (0..8).filter_map(|p| e.peer(now, PeerKey(p))).map(|p| p.queued).sum();
        let owed: i32 = d.owed.values().sum();
        prop_assert_eq!(owed, waiting as i32, "a request was never answered");
    }
}
