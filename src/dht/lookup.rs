//! One walk towards a key: ask the closest peers known, learn of closer ones, until the closest have all
//! answered.
//!
//! - Up to [`ALPHA`] are asked at a time. One that is silent for [`PATIENCE`] no longer counts against that,
//!   so a slow or dead peer delays the walk by seconds, not by its time-out.
//! - Of one IP group only [`MAX_OF_A_GROUP`] are asked and are in the result, however many there are close
//!   to the key: a walk passes a crowd of Sybils, and records do not all go to them.
//! - It ends when the closest `wanted` that can be reached have answered, or nobody is left to ask.

use std::collections::BTreeMap;
use std::time::Duration;

use super::groups::{Group, MAX_OF_A_GROUP};
use super::key::{Distance, Key};

/// Peers asked at a time.
pub const ALPHA: usize = 10;
/// Asked at a time at most, the silent included.
const MAX_ASKED: usize = 24;
/// After which a peer that has not answered makes room for another.
pub const PATIENCE: Duration = Duration::from_millis(1_500);
/// Peers remembered for each that is wanted: the farthest go first.
const MAX_KNOWN: usize = 16;

/// A peer that somebody told of.
#[derive(Clone, Debug)]
pub struct Heard<P> {
    pub peer: P,
    pub key: Key,
    pub groups: Vec<Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    /// Since when, on the caller's clock.
    Asked(Duration),
    Answered,
    Failed,
}

#[derive(Clone, Debug)]
struct Node<P> {
    peer: P,
    groups: Vec<Group>,
    state: State,
    /// Answers between our own table and this peer.
    hops: u32,
}

/// What a walk has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests sent.
    pub asked: u32,
    pub answered: u32,
    pub failed: u32,
    /// The most answers that stood behind one another.
    pub hops: u32,
}

/// A walk towards a key. Peers are asked in the order of their distance.
#[derive(Clone, Debug)]
pub struct Lookup<P> {
    target: Key,
    wanted: usize,
    known: BTreeMap<Distance, Node<P>>,
    stats: Stats,
}

impl<P: Clone + PartialEq> Lookup<P> {
    /// `seeds`: the closest of our own table. `wanted`: how many of the closest are to answer.
    pub fn new(target: Key, wanted: usize, seeds: impl IntoIterator<Item = Heard<P>>) -> Lookup<P> {
        let mut lookup = Lookup { target, wanted, known: BTreeMap::new(), stats: Stats::default() };
        for seed in seeds {
            lookup.hear(seed, 0);
        }
        lookup
    }

    pub fn target(&self) -> Key {
        self.target
    }

    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn hear(&mut self, heard: Heard<P>, hops: u32) {
        let Heard { peer, key, groups } = heard;
        let distance = self.target.distance(&key);
        self.known.entry(distance).or_insert(Node { peer, groups, state: State::New, hops });
        if self.known.len() > self.wanted * MAX_KNOWN {
            self.known.pop_last();
        }
    }

    /// Those that count: the closest that have not failed, at most so many of one group.
    fn front(&self) -> impl Iterator<Item = (&Distance, &Node<P>)> {
        let mut seen: BTreeMap<Group, usize> = BTreeMap::new();
        self.known
            .iter()
            .filter(|(_, n)| n.state != State::Failed)
            .filter(move |(_, n)| {
                let fits = n.groups.iter().all(|g| seen.get(g).is_none_or(|&c| c < MAX_OF_A_GROUP));
                if fits {
                    n.groups.iter().for_each(|g| *seen.entry(*g).or_default() += 1);
                }
                fits
            })
            .take(self.wanted)
    }

    /// Whom to ask now; call it until it gives `None`.
    pub fn next(&mut self, now: Duration) -> Option<P> {
        let asked = |n: &Node<P>| match n.state {
            State::Asked(since) => Some(now.saturating_sub(since) < PATIENCE),
            _ => None,
        };
        let (fresh, all) = self
            .known
            .values()
            .filter_map(asked)
            .fold((0, 0), |(fresh, all), is_fresh| (fresh + usize::from(is_fresh), all + 1));
        if fresh >= ALPHA || all >= MAX_ASKED {
            return None;
        }
        let distance = *self.front().find(|(_, n)| n.state == State::New)?.0;
        let node = self.known.get_mut(&distance)?;
        node.state = State::Asked(now);
        self.stats.asked += 1;
        Some(node.peer.clone())
    }

    /// When [`Lookup::next`] may give more although nothing has happened.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        let patience = |n: &Node<P>| match n.state {
            State::Asked(since) => Some(since + PATIENCE).filter(|&at| at > now),
            _ => None,
        };
        self.known.values().filter_map(patience).min()
    }

    /// `peer` answered with these.
    pub fn answered(&mut self, key: &Key, closer: impl IntoIterator<Item = Heard<P>>) {
        let Some(node) = self.known.get_mut(&self.target.distance(key)) else { return };
        if !matches!(node.state, State::Asked(_)) {
            return;
        }
        node.state = State::Answered;
        let hops = node.hops + 1;
        self.stats.answered += 1;
        self.stats.hops = self.stats.hops.max(hops);
        for heard in closer {
            self.hear(heard, hops);
        }
    }

    /// It could not be reached, or did not answer.
    pub fn failed(&mut self, key: &Key) {
        if let Some(node) = self.known.get_mut(&self.target.distance(key))
            && matches!(node.state, State::Asked(_))
        {
            node.state = State::Failed;
            self.stats.failed += 1;
        }
    }

    pub fn is_done(&self) -> bool {
        self.front().all(|(_, n)| n.state == State::Answered)
    }

    /// The closest that answered, the closest first.
    pub fn closest(&self) -> Vec<P> {
        let answered = self.front().filter(|(_, n)| n.state == State::Answered);
        answered.map(|(_, n)| n.peer.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::K;
    use crate::dht::groups::group_of_v4;

    const NOW: Duration = Duration::ZERO;

    /// A network in which everybody knows the 20 closest to whatever is asked, of those whose number is in
    /// the same or a neighbouring bucket of a coarse ring: enough that walks take hops.
    struct World {
        keys: Vec<Key>,
        groups: Vec<Vec<Group>>,
    }

    impl World {
        fn new(n: u32) -> World {
            let keys = (0..n).map(|i| Key::of(&i.to_be_bytes())).collect();
            World { keys, groups: vec![Vec::new(); n as usize] }
        }

        fn heard(&self, i: usize) -> Heard<usize> {
            Heard { peer: i, key: self.keys[i], groups: self.groups[i].clone() }
        }

        fn closest(&self, to: &Key) -> Vec<usize> {
            let mut all: Vec<usize> = (0..self.keys.len()).collect();
            all.sort_by_key(|&i| self.keys[i].distance(to));
            all
        }

        /// What `i` knows: 20 of each bucket.
        fn table(&self, i: usize) -> Vec<usize> {
            let mut counts = BTreeMap::<u32, usize>::new();
            let bits = |j: &usize| self.keys[i].common_bits(&self.keys[*j]);
            (0..self.keys.len())
                .filter(|j| *j != i)
                .filter(|j| {
                    let c = counts.entry(bits(j)).or_default();
                    *c += 1;
                    *c <= K
                })
                .collect()
        }

        fn answer(&self, i: usize, target: &Key) -> Vec<Heard<usize>> {
            let mut table = self.table(i);
            table.sort_by_key(|&j| self.keys[j].distance(target));
            table.into_iter().take(K).map(|j| self.heard(j)).collect()
        }

        fn run(&self, lookup: &mut Lookup<usize>, dead: impl Fn(usize) -> bool) {
            while let Some(peer) = lookup.next(NOW) {
                if dead(peer) {
                    lookup.failed(&self.keys[peer]);
                } else {
                    let answer = self.answer(peer, &lookup.target());
                    lookup.answered(&self.keys[peer], answer);
                }
            }
            assert!(lookup.is_done());
        }
    }

    #[test]
    fn it_finds_the_closest_in_few_hops() {
        let world = World::new(2_000);
        for n in 0..20u32 {
            let target = Key::of(&[n as u8, 0xff]);
            let seeds = world.answer(n as usize, &target);
            let mut lookup = Lookup::new(target, K, seeds);
            world.run(&mut lookup, |_| false);
            assert_eq!(lookup.closest(), world.closest(&target)[..K]);
            assert!(lookup.stats().hops <= 6 && lookup.stats().asked < 60, "{:?}", lookup.stats());
        }
    }

    #[test]
    fn with_half_of_the_network_dead_it_finds_the_closest_alive() {
        let world = World::new(1_000);
        let dead = |i: usize| i % 2 == 1;
        let target = Key::of(b"x");
        let mut lookup = Lookup::new(target, K, world.answer(0, &target));
        world.run(&mut lookup, dead);
        // Each answer names the 20 closest, of which half are dead: those alive of the 20 are found.
        let alive = world.closest(&target).into_iter().take(K).filter(|i| !dead(*i));
        let found = lookup.closest();
        assert!(found.len() >= K / 2);
        for i in alive {
            assert!(found.contains(&i), "{i} is not in {found:?}");
        }
    }

    #[test]
    fn a_crowd_of_one_group_is_passed() {
        let mut world = World::new(1_000);
        let target = Key::of(b"victim");
        let order = world.closest(&target);
        for &i in &order[..40] {
            world.groups[i] = vec![group_of_v4([6, 6, 6, i as u8])];
        }
        let mut lookup = Lookup::new(target, K, world.answer(order[900], &target));
        // They answer with nobody but each other, which is the most that they can do.
        while let Some(peer) = lookup.next(NOW) {
            let answer = match world.groups[peer].is_empty() {
                true => {
                    let mut all = world.table(peer);
                    all.sort_by_key(|&j| world.keys[j].distance(&target));
                    // An honest peer of this size of network knows beyond them.
                    all.into_iter().take(3 * K).map(|j| world.heard(j)).collect()
                }
                false => order[..40].iter().map(|&j| world.heard(j)).collect::<Vec<_>>(),
            };
            lookup.answered(&world.keys[peer], answer);
        }
        let found = lookup.closest();
        let sybils = found.iter().filter(|&&i| !world.groups[i].is_empty()).count();
        assert_eq!((found.len(), sybils), (K, MAX_OF_A_GROUP));
    }

    #[test]
    fn the_silent_make_room_and_an_answer_counts_once() {
        let world = World::new(200);
        let target = Key::of(b"t");
        let seeds: Vec<_> = (0..100).map(|i| world.heard(i)).collect();
        let mut lookup = Lookup::new(target, 30, seeds);
        let first: Vec<usize> = std::iter::from_fn(|| lookup.next(NOW)).collect();
        assert_eq!(first.len(), ALPHA);
        assert_eq!(lookup.wake(NOW), Some(PATIENCE));
        let more = std::iter::from_fn(|| lookup.next(PATIENCE)).count();
        assert_eq!(more, ALPHA);
        let rest = std::iter::from_fn(|| lookup.next(PATIENCE * 2)).count();
        assert_eq!(rest, MAX_ASKED - 2 * ALPHA);
        lookup.answered(&world.keys[first[0]], []);
        lookup.answered(&world.keys[first[0]], []);
        lookup.failed(&world.keys[first[0]]);
        assert_eq!((lookup.stats().answered, lookup.stats().failed), (1, 0));
    }

    #[test]
    fn what_a_liar_names_is_bounded() {
        let mut lookup = Lookup::new(Key([0; 32]), K, []);
        assert!(lookup.is_done());
        for i in 0..100_000u32 {
            let key = Key::of(&i.to_be_bytes());
            lookup.hear(Heard { peer: i, key, groups: Vec::new() }, 1);
        }
        assert_eq!(lookup.known.len(), K * MAX_KNOWN);
    }
}
