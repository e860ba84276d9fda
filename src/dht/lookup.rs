//! One walk towards a key: ask the closest peers known, learn of closer ones, until the closest have all
//! answered.
//!
//! - Up to [`ALPHA`] are asked at a time. One that is silent for [`PATIENCE`] no longer counts against that,
//!   so a slow or dead peer delays the walk by seconds, not by its time-out.
//! - Of one IP group only the closest [`MAX_OF_A_GROUP`] are asked and are in the result, however many there are close
//!   to the key: a walk passes a crowd of Sybils, and records do not all go to them.
//! - It ends when the closest `wanted` that can be reached have answered, or nobody is left to ask.
//!
//! An answer names the [`K`] closest to what was asked. So a walk that wants more goes on once the [`K`] closest have
//! answered, and asks for other keys nearby: one in each tile of the neighbourhood ([`Tiles`]). Every further peer is
//! asked for the key of its own tile, and of each tile the [`OF_A_TILE`] peers that are closest to it. (Asked for the
//! target, all would name the same 20, and of the others whomever they happen to know.)

use std::collections::BTreeMap;
use std::time::Duration;

use super::K;
use super::groups::{Group, MAX_OF_A_GROUP};
use super::key::{Distance, Key};
use super::tiles::{MAX_TILES, Tiles};

/// Peers asked at a time.
pub const ALPHA: usize = 10;
/// Asked at a time at most, the silent included.
const MAX_ASKED: usize = 24;
/// After which a peer that has not answered makes room for another.
pub const PATIENCE: Duration = Duration::from_millis(1_500);
/// Peers remembered for each that is wanted: the farthest go first.
const MAX_KNOWN: usize = 16;
/// The closest peers to the key of a tile that are asked for it, in the tile or not.
const OF_A_TILE: usize = 2;
/// A tile has so many bits more than the [`K`] closest share: then it has some 2 to 5 peers, and an answer names all of
/// it and of its neighbours, even if half of the peers that it names are dead.
const TILE_BITS: u32 = 3;

/// A peer that somebody told of.
#[derive(Clone, Debug)]
pub struct Heard<P> {
    pub peer: P,
    pub key: Key,
    pub groups: Vec<Group>,
}

/// A question to put to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<P> {
    pub peer: P,
    /// What hashes to the key that is asked for; `None`: the target's own name.
    pub about: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Answered,
    Failed,
}

#[derive(Clone, Debug)]
struct Node<P> {
    peer: P,
    key: Key,
    groups: Vec<Group>,
    state: State,
    /// Since when an answer is awaited, on the caller's clock.
    asked: Option<Duration>,
    /// The tiles that it was asked for, a bit each.
    tiles: u64,
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
    /// Once the closest [`K`] have answered, if more are wanted.
    tiles: Option<Tiles>,
}

impl<P: Clone + PartialEq> Lookup<P> {
    /// `seeds`: the closest of our own table. `wanted`: how many of the closest are to answer.
    pub fn new(target: Key, wanted: usize, seeds: impl IntoIterator<Item = Heard<P>>) -> Lookup<P> {
        let mut lookup =
            Lookup { target, wanted, known: BTreeMap::new(), stats: Stats::default(), tiles: None };
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
        self.known.entry(distance).or_insert(Node {
            peer,
            key,
            groups,
            state: State::New,
            asked: None,
            tiles: 0,
            hops,
        });
        if self.known.len() > self.wanted * MAX_KNOWN {
            self.known.pop_last();
        }
    }

    /// Those that count: the closest that have not failed, at most so many of one group.
    fn closest_known(&self, wanted: usize) -> impl Iterator<Item = (&Distance, &Node<P>)> {
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
            .take(wanted)
    }

    fn front(&self) -> impl Iterator<Item = (&Distance, &Node<P>)> {
        self.closest_known(if self.tiles.is_some() { self.wanted } else { self.wanted.min(K) })
    }

    /// Goes on to the tiles once the closest have answered.
    fn widen(&mut self) {
        if self.wanted <= K || self.tiles.is_some() || !self.have_answered() {
            return;
        }
        let shared = self.front().map(|(d, _)| d.zeros()).min();
        self.tiles = Some(Tiles::new(self.target, shared.unwrap_or(0) + TILE_BITS));
    }

    /// Whom to ask now, and for what; call it until it gives `None`.
    pub fn next(&mut self, now: Duration) -> Option<Ask<P>> {
        let waits = self.known.values().filter_map(|n| n.asked);
        let (fresh, all) = waits.fold((0, 0), |(fresh, all), since| {
            (fresh + usize::from(now.saturating_sub(since) < PATIENCE), all + 1)
        });
        if fresh >= ALPHA || all >= MAX_ASKED {
            return None;
        }
        self.widen();
        let (distance, tile) = self.next_of_a_tile().or_else(|| self.next_of_the_closest())?;
        let about = tile.and_then(|t| self.tiles.as_mut()?.key(t)).map(|(_, name)| name);
        let node = self.known.get_mut(&distance)?;
        node.asked = Some(now);
        node.tiles |= tile.map_or(0, |t| 1 << t);
        self.stats.asked += 1;
        Some(Ask { peer: node.peer.clone(), about })
    }

    /// The next of the closest that has not been asked at all. While there are tiles, it is asked for its own.
    fn next_of_the_closest(&self) -> Option<(Distance, Option<usize>)> {
        let (distance, _) = self.front().find(|(_, n)| n.state == State::New && n.asked.is_none())?;
        let tile = self.tiles.as_ref().map(|t| t.of(distance)).filter(|t| *t < MAX_TILES);
        Some((*distance, tile))
    }

    /// The next that is to be asked for a tile since it is close to that.
    fn next_of_a_tile(&mut self) -> Option<(Distance, Option<usize>)> {
        let count = self.tiles_that_count();
        (0..count).find_map(|tile| {
            let near = self.closest_to_tile(tile);
            let idle = |d: &Distance| self.known.get(d).is_some_and(|n| n.asked.is_none());
            let (next, _) = near.into_iter().find(|(d, asked)| !asked && idle(d))?;
            Some((next, Some(tile)))
        })
    }

    /// The nearest tiles, so many: those in which one of the wanted may be.
    fn tiles_that_count(&self) -> usize {
        let Some(tiles) = &self.tiles else { return 0 };
        let front: Vec<&Distance> = self.front().map(|(d, _)| d).collect();
        match front.last() {
            Some(last) if front.len() >= self.wanted => tiles.len().min(tiles.of(last) + 1),
            _ => tiles.len(),
        }
    }

    /// The peers of the front that are closest to a tile's key, and whether each was asked for it.
    fn closest_to_tile(&mut self, tile: usize) -> Vec<(Distance, bool)> {
        let Some((key, _)) = self.tiles.as_mut().and_then(|t| t.key(tile)) else { return Vec::new() };
        let mut near: Vec<(Distance, Distance, bool)> =
            self.front().map(|(d, n)| (n.key.distance(&key), *d, n.tiles & 1 << tile != 0)).collect();
        near.sort_unstable();
        near.truncate(OF_A_TILE);
        near.into_iter().map(|(_, d, asked)| (d, asked)).collect()
    }

    /// When [`Lookup::next`] may give more although nothing has happened.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        self.known.values().filter_map(|n| Some(n.asked? + PATIENCE)).filter(|at| *at > now).min()
    }

    /// `peer` answered with these.
    pub fn answered(&mut self, key: &Key, closer: impl IntoIterator<Item = Heard<P>>) {
        let Some(node) = self.known.get_mut(&self.target.distance(key)) else { return };
        if node.asked.take().is_none() {
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

    /// It could not be reached, or did not answer. One that had answered before still counts.
    pub fn failed(&mut self, key: &Key) {
        if let Some(node) = self.known.get_mut(&self.target.distance(key))
            && node.asked.take().is_some()
        {
            if node.state == State::New {
                node.state = State::Failed;
            }
            self.stats.failed += 1;
        }
    }

    fn have_answered(&self) -> bool {
        self.front().all(|(_, n)| n.state == State::Answered && n.asked.is_none())
    }

    /// To be asked when [`Lookup::next`] gives nobody.
    pub fn is_done(&self) -> bool {
        (self.wanted <= K || self.tiles.is_some()) && self.have_answered()
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

        /// What `i` knows: 20 of each bucket, which differ from peer to peer.
        fn table(&self, i: usize) -> Vec<usize> {
            let mut counts = BTreeMap::<u32, usize>::new();
            let bits = |j: &usize| self.keys[i].common_bits(&self.keys[*j]);
            let n = self.keys.len();
            (0..n)
                .map(|j| (j + i * 7_919) % n)
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
            while let Some(Ask { peer, about }) = lookup.next(NOW) {
                if dead(peer) {
                    lookup.failed(&self.keys[peer]);
                } else {
                    let key = about.map_or(lookup.target(), |name| Key::of(&name));
                    lookup.answered(&self.keys[peer], self.answer(peer, &key));
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
    fn widened_it_finds_the_whole_neighbourhood() {
        for (n, wanted) in [(60, 80), (80, 80), (100, 80), (400, 40), (400, 80), (2_000, 80)] {
            let world = World::new(n);
            for t in 0..10u8 {
                let target = Key::of(&[t, 0xfe]);
                let mut lookup = Lookup::new(target, wanted, world.answer(t.into(), &target));
                world.run(&mut lookup, |_| false);
                let closest = world.closest(&target);
                let there = wanted.min(closest.len());
                assert_eq!(lookup.closest(), closest[..there], "{n} servers");
                assert!(lookup.stats().asked <= 160, "{n} servers: {:?}", lookup.stats());
            }
        }
    }

    #[test]
    fn widened_it_finds_who_is_left_of_a_network_that_is_half_dead() {
        let (world, dead) = (World::new(1_000), |i: usize| i % 2 == 1);
        let (mut found, mut all) = (0, 0);
        for t in 0..20u8 {
            let target = Key::of(&[t, 0xfd]);
            let mut lookup = Lookup::new(target, 80, world.answer(t.into(), &target));
            world.run(&mut lookup, dead);
            let alive: Vec<usize> =
                world.closest(&target).into_iter().filter(|i| !dead(*i)).take(80).collect();
            found += alive.iter().filter(|i| lookup.closest().contains(i)).count();
            all += alive.len();
        }
        // Tables are still full of the dead, so an answer names ten.
        assert!(found * 100 >= all * 95, "{found} of {all}");
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
        while let Some(Ask { peer, .. }) = lookup.next(NOW) {
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
        let order = world.closest(&target);
        let mut lookup = Lookup::new(target, K, order[100..100 + K].iter().map(|&i| world.heard(i)));
        let asks = |lookup: &mut Lookup<usize>, now| -> Vec<usize> {
            std::iter::from_fn(|| Some(lookup.next(now)?.peer)).collect()
        };
        let first = asks(&mut lookup, NOW);
        assert_eq!(first.len(), ALPHA);
        assert_eq!(lookup.wake(NOW), Some(PATIENCE));
        assert_eq!(asks(&mut lookup, PATIENCE).len(), ALPHA);
        // There are others now that are closer, but too many are waited for.
        lookup.answered(&world.keys[first[0]], order[..K].iter().map(|&i| world.heard(i)));
        let rest = asks(&mut lookup, PATIENCE * 2).len();
        assert_eq!(rest, MAX_ASKED - (2 * ALPHA - 1));
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
