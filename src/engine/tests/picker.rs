//! The picker alone: rarest first, evenly among equals, and counts that stay right.

use std::time::Duration;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use crate::bitfield::Bitfield;
use crate::engine::picker::{Asked, Picker, Shelf, State};
use crate::engine::rng::Rng;
use crate::units::{ChunkIndex, ChunkRange, Time};

struct Side {
    have: Bitfield,
    complete: bool,
    shelf: Shelf,
}

impl Side {
    fn new(have: impl IntoIterator<Item = u32>) -> Side {
        let have = have.into_iter().filter_map(ChunkIndex::new).collect();
        Side { have, complete: false, shelf: Shelf::None }
    }

    fn pick(&mut self, p: &Picker, rng: &mut Rng, first: bool) -> Option<u32> {
        let mut n = Asked { have: &self.have, complete: self.complete, shelf: &mut self.shelf };
        p.pick(rng, &mut n, first, Time::ZERO, |_| false)
    }
}

fn picker(n: u32) -> Picker {
    let mut p = Picker::new(true);
    p.grow(n);
    p
}

#[test]
fn the_rarest_that_the_peer_has_comes_first_and_equals_are_drawn_evenly() {
    let (mut p, mut rng) = (picker(100), Rng::new(1));
    for c in 0..100 {
        (0..1 + c / 10).for_each(|_| p.seen(c));
    }
    let mut peer = Side::new(30..100);
    let mut drawn = [0u32; 100];
    for _ in 0..10_000 {
        drawn[peer.pick(&p, &mut rng, false).unwrap() as usize] += 1;
    }
    assert!(drawn[30..40].iter().all(|n| (800..1_200).contains(n)), "{drawn:?}");
    assert_eq!(drawn.iter().sum::<u32>(), drawn[30..40].iter().sum::<u32>());
    let mut spread = [0u32; 100];
    for _ in 0..10_000 {
        spread[peer.pick(&p, &mut rng, true).unwrap() as usize] += 1;
    }
    assert!(spread[30..].iter().filter(|n| **n > 50).count() > 60, "the first is any: {spread:?}");
}

#[test]
fn a_peer_that_lacks_nearly_everything_is_served_from_its_shelf() {
    let (mut p, mut rng) = (picker(40_000), Rng::new(1));
    (0..40_000).for_each(|c| p.seen(c));
    [7u32, 39_990].into_iter().for_each(|c| p.seen(c));
    let mut peer = Side::new([7, 20_000, 39_990]);
    let mut got = Vec::new();
    while let Some(c) = peer.pick(&p, &mut rng, false) {
        p.ask(c);
        got.push(c);
    }
    assert_eq!(got[0], 20_000, "the rarest of the three");
    got.sort_unstable();
    assert_eq!(got, [7, 20_000, 39_990]);
    assert!(p.unask(7));
    peer.shelf.add(7);
    assert_eq!(peer.pick(&p, &mut rng, false), Some(7));
}

#[test]
fn priorities_come_before_rarity_and_zero_is_not_wanted() {
    let (mut p, mut rng) = (picker(30), Rng::new(1));
    (0..30).for_each(|c| p.seen(c));
    p.seen(25);
    p.set_priority(ChunkRange::new(25, 26).unwrap(), 2);
    p.set_priority(ChunkRange::new(0, 20).unwrap(), 0);
    let mut peer = Side::new(0..30);
    assert_eq!(p.missing(), 10);
    assert_eq!(peer.pick(&p, &mut rng, false), Some(25));
    p.ask(25);
    assert!(peer.pick(&p, &mut rng, false).is_some_and(|c| c >= 20));
}

#[test]
fn a_window_is_asked_for_in_order_and_late_peers_get_what_is_due_later() {
    let (mut p, mut rng) = (picker(100), Rng::new(1));
    (0..100).for_each(|c| p.seen(c));
    p.set_window(Time::ZERO, 40, 20, Duration::from_secs(1));
    let mut peer = Side::new(0..100);
    let mut n = Asked { have: &peer.have, complete: false, shelf: &mut peer.shelf };
    let at = |s: u64| Time(s * 1_000_000_000);
    assert_eq!(p.pick(&mut rng, &mut n, true, at(0), |_| false), Some(40));
    assert_eq!(p.pick(&mut rng, &mut n, true, at(5), |_| false), Some(44), "due after five seconds");
    assert_eq!(p.pick(&mut rng, &mut n, true, at(500), |_| false), Some(40), "too late for all");
    p.set(40, State::Held);
    p.set(41, State::Held);
    assert_eq!(p.due(42), Some(at(3)));
    p.set_window(at(9), 0, 0, Duration::ZERO);
    assert_eq!(p.window().count(), 0);
}

proptest! {
    #[test]
    fn counts_and_buckets_stay_right(ops in prop::collection::vec((0u8..10, 0u32..60), 1..200)) {
        let mut p = picker(40);
        for (op, c) in ops {
            let range = ChunkRange::new(c, c + 9).unwrap();
            match op {
                0 => p.seen(c),
                1 => p.unseen(c),
                2 => if p.is_open(c) || p.state(c) == Some(State::Asked) { p.ask(c) },
                3 => if p.asks(c) > 0 { p.unask(c); },
                4 => if p.asks(c) == 0 { p.set(c, State::Arrived); },
                5 => if p.asks(c) == 0 { p.set(c, State::Held); },
                6 => { p.set(c, State::Missing); }
                7 => p.set_priority(range, (c % 3) as u8),
                8 => p.set_want(c % 4 != 0),
                _ => p.grow(c % 3),
            }
            prop_assert_eq!(p.check(), Ok(()));
        }
    }

    #[test]
    fn a_pick_is_the_rarest_open_chunk_of_the_peer(
        seen in prop::collection::vec(0u32..5, 60),
        have in prop::collection::vec(any::<bool>(), 60),
        gone in prop::collection::vec(any::<bool>(), 60),
        seed in any::<u64>(),
    ) {
        let mut p = picker(60);
        for c in 0..60u32 {
            // Whoever has a chunk is counted among those that have it.
            (0..seen[c as usize] + u32::from(have[c as usize])).for_each(|_| p.seen(c));
            if gone[c as usize] { p.ask(c); }
        }
        let mut peer = Side::new((0..60).filter(|c| have[*c as usize]));
        let best = (0..60u32).filter(|c| have[*c as usize] && !gone[*c as usize]).map(|c| p.copies(c)).min();
        let picked = peer.pick(&p, &mut Rng::new(seed), false);
        prop_assert_eq!(picked.map(|c| p.copies(c)), best);
        prop_assert!(picked.is_none_or(|c| have[c as usize] && !gone[c as usize]));
    }
}
