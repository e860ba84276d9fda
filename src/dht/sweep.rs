//! When to tell the DHT what we provide, and whom: a sweep over the keyspace.
//!
//! One walk finds the [`REGION`] closest servers to a key. The bits that they all share name a *region*: the
//! 20 closest of any key in it are among them. So all our records of the region go to their own 20 closest
//! after that one walk, over connections that are open then. Walks and dials grow with the regions that we
//! have keys in; only messages grow with the keys.
//!
//! A region is due once a [`CYCLE`], at the time that its place in the keyspace says, so that the work is
//! spread over the cycle. What is new is due at once. Each key remembers when it was last told, and of how
//! large a region; that is all that a restart needs. Times are seconds since the Unix epoch.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::K;
use super::key::Key;

/// Regions come round after this.
pub const CYCLE: u64 = 20 * 3_600;
/// A key that was told so recently waits for its region's next turn but one: at most 22 h in all.
const MIN_GAP: u64 = 2 * 3_600;
/// Due for longer than this is late.
pub const LATE: u64 = 3_600;
/// Servers looked for by a walk that is for many keys: one that covers a region of 20 to 80.
pub const REGION: usize = 80;
/// After a walk that came to nothing.
const RETRY: u64 = 30;
const MAX_RETRY: u64 = 1_800;

/// A key, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The multihash.
    pub name: Vec<u8>,
    /// When it was last told; 0: never.
    pub told: u64,
    /// The bits of the region that it was told with.
    pub depth: u8,
}

/// A walk to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    pub target: Key,
    /// How many of the closest to find.
    pub wanted: usize,
}

/// What to tell, once a walk is done: the keys of a region, each with its own closest.
#[derive(Clone, Debug)]
pub struct Region<P> {
    pub keys: RangeInclusive<Key>,
    depth: u8,
    /// Whom to send which multihashes.
    pub batches: Vec<(P, Vec<Vec<u8>>)>,
    told: Vec<Key>,
}

/// What we provide in one DHT.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    keys: BTreeMap<Key, Entry>,
    /// The same keys by when they are due.
    due: BTreeMap<(u64, Key), ()>,
    /// Targets of walks under way.
    walking: BTreeMap<Key, u64>,
    /// How many walks in a row came to nothing, and until when none is begun.
    failures: u32,
    not_before: u64,
    /// Bits that a region has, as the last walk found.
    depth: u8,
}

/// When a key that was told at `told` is due again.
fn due(key: &Key, entry: &Entry) -> u64 {
    if entry.told == 0 {
        return 0;
    }
    let place = u64::from(key.region(entry.depth.into()).fraction());
    let offset = (CYCLE * place) >> 32;
    let earliest = entry.told + MIN_GAP;
    let turn = earliest.saturating_sub(offset).div_ceil(CYCLE) * CYCLE + offset;
    turn.min(entry.told + CYCLE + MIN_GAP)
}

impl Sweep {
    /// Provides a multihash from now on; with what is remembered of it, if anything.
    pub fn add(&mut self, name: Vec<u8>, told: u64, depth: u8) {
        let key = Key::of(&name);
        if self.keys.contains_key(&key) {
            return;
        }
        let entry = Entry { name, told, depth };
        self.due.insert((due(&key, &entry), key), ());
        self.keys.insert(key, entry);
        if told == 0 {
            // Somebody waits for it.
            self.not_before = self.not_before.min(1);
        }
    }

    pub fn remove(&mut self, name: &[u8]) -> bool {
        let key = Key::of(name);
        let Some(entry) = self.keys.remove(&key) else { return false };
        self.due.remove(&(due(&key, &entry), key));
        true
    }

    /// What is remembered of keys that were never told, as far as we knew.
    pub fn recall(&mut self, mut told: impl FnMut(&[u8]) -> Option<(u64, u8)>) {
        for (key, entry) in self.keys.iter_mut().filter(|(_, e)| e.told == 0) {
            if let Some((at, depth)) = told(&entry.name) {
                self.due.remove(&(0, *key));
                (entry.told, entry.depth) = (at, depth);
                self.due.insert((due(key, entry), *key), ());
            }
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn contains(&self, name: &[u8]) -> bool {
        self.keys.contains_key(&Key::of(name))
    }

    /// What was told is of no use any more (our addresses have changed, or the network has grown from
    /// next to nothing): everything is due now.
    pub fn tell_all(&mut self) {
        self.due.clear();
        for (key, entry) in &mut self.keys {
            entry.told = 0;
            self.due.insert((0, *key), ());
        }
        self.hurry();
    }

    /// There is somebody to tell now: a pause after walks that came to nothing is over.
    pub fn hurry(&mut self) {
        self.failures = 0;
        self.not_before = 0;
    }

    /// Keys that are due for longer than [`LATE`]; of those never told it counts from `since`.
    pub fn late(&self, now: u64, since: u64) -> usize {
        let late = now.saturating_sub(LATE);
        let told = self.due.range((1, Key([0; 32]))..(late, Key([0; 32]))).count();
        let never = if since < late { self.never_told() } else { 0 };
        told + never
    }

    pub fn never_told(&self) -> usize {
        self.due.range(..(1, Key([0; 32]))).count()
    }

    /// The multihash of a key.
    pub fn name(&self, key: &Key) -> Option<Vec<u8>> {
        self.keys.get(key).map(|e| e.name.clone())
    }

    /// When [`Sweep::next`] may give something; `None` while nothing is provided.
    pub fn wake(&self) -> Option<u64> {
        let first = self.due.keys().find(|(_, key)| !self.walked_for(key))?.0;
        Some(first.max(self.not_before))
    }

    fn walked_for(&self, key: &Key) -> bool {
        self.walking.keys().any(|t| t.common_bits(key) >= u32::from(self.depth))
    }

    /// The next walk to make, if one is due.
    pub fn next(&mut self, now: u64) -> Option<Walk> {
        if now < self.not_before {
            return None;
        }
        let target = self
            .due
            .keys()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, key)| *key)
            .find(|key| !self.walked_for(key))?;
        self.walking.insert(target, now);
        // A key that is alone in its region needs no more than its own closest.
        let depth = u32::from(self.depth);
        let mut region = self.keys.range(target.region(depth)..=target.region_end(depth));
        let alone = region.nth(1).is_none();
        Some(Walk { target, wanted: if alone { K } else { REGION } })
    }

    /// A walk has found these servers (the closest to its target, in any order): who is to be told what.
    /// `None`: nobody was found; the walk will be made again.
    pub fn walked<P: Clone>(&mut self, walk: Walk, found: &[(P, Key)], now: u64) -> Option<Region<P>> {
        if found.is_empty() {
            self.walking.remove(&walk.target);
            self.failures += 1;
            let wait = RETRY.saturating_mul(1 << self.failures.min(16)).min(MAX_RETRY);
            self.not_before = now + wait;
            return None;
        }
        self.failures = 0;
        let depth = region_depth(&walk, found);
        self.depth = depth;
        let (first, last) = match walk.wanted {
            REGION => (walk.target.region(depth.into()), walk.target.region_end(depth.into())),
            _ => (walk.target, walk.target),
        };
        let mut batches: Vec<(P, Vec<Vec<u8>>)> =
            found.iter().map(|(p, _)| (p.clone(), Vec::new())).collect();
        let mut told = Vec::new();
        let mut order: Vec<usize> = (0..found.len()).collect();
        for (key, entry) in self.keys.range(first..=last) {
            if entry.told + MIN_GAP > now && entry.told != 0 {
                continue;
            }
            let near = K.min(order.len());
            if near < order.len() {
                order.select_nth_unstable_by_key(near - 1, |&i| found[i].1.distance(key));
            }
            for &i in &order[..near] {
                batches[i].1.push(entry.name.clone());
            }
            told.push(*key);
        }
        batches.retain(|(_, names)| !names.is_empty());
        Some(Region { keys: first..=last, depth, batches, told })
    }

    /// The region was told (`reached`: somebody has taken it). Gives what is to be remembered: each
    /// multihash, when it was told, and its region's bits.
    pub fn told<P>(&mut self, walk: Walk, region: Region<P>, reached: bool, now: u64) -> Vec<Entry> {
        self.walking.remove(&walk.target);
        if !reached {
            self.failures += 1;
            self.not_before = now + RETRY.saturating_mul(1 << self.failures.min(16)).min(MAX_RETRY);
            return Vec::new();
        }
        let mut remembered = Vec::with_capacity(region.told.len());
        for key in region.told {
            let Some(entry) = self.keys.get_mut(&key) else { continue };
            self.due.remove(&(due(&key, entry), key));
            entry.told = now;
            entry.depth = region.depth;
            self.due.insert((due(&key, entry), key), ());
            remembered.push(entry.clone());
        }
        remembered
    }
}

/// How many bits name the region that a walk has seen whole.
fn region_depth<P>(walk: &Walk, found: &[(P, Key)]) -> u8 {
    if found.len() < walk.wanted {
        return 0; // everybody there is
    }
    let shared = found.iter().map(|(_, key)| key.common_bits(&walk.target)).min().unwrap_or(0);
    // Nobody who shares one bit more than the farthest was missed.
    let mut depth = (shared + 1).min(255);
    if walk.wanted == K {
        // Seen from one key alone: an estimate of what a larger walk would see.
        depth = depth.saturating_sub(1);
    }
    // In it there must be enough to keep a record.
    while depth > 0 && found.iter().filter(|(_, k)| k.common_bits(&walk.target) >= depth).count() < K {
        depth -= 1;
    }
    depth as u8 // at most 255
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 1_800_000_000;

    /// Servers by their keys, sorted.
    struct Table(Vec<Key>);

    impl Table {
        fn new(n: u32) -> Table {
            let mut keys: Vec<Key> = (0..n).map(|i| Key::of(&(i ^ 0x5eed_0000).to_be_bytes())).collect();
            keys.sort();
            Table(keys)
        }

        /// The closest to a key. Those that share a prefix are neighbours when sorted.
        fn closest(&self, to: &Key, n: usize) -> Vec<(usize, Key)> {
            let mut depth = 0;
            let within = |d: u32| {
                let from = self.0.partition_point(|k| *k < to.region(d));
                let until = self.0.partition_point(|k| *k <= to.region_end(d));
                from..until
            };
            while depth < 255 && within(depth + 1).len() >= n {
                depth += 1;
            }
            let mut near: Vec<usize> = within(depth).collect();
            near.sort_by_key(|&i| self.0[i].distance(to));
            near.into_iter().take(n).map(|i| (i, self.0[i])).collect()
        }
    }

    #[derive(Default)]
    struct Cost {
        walks: usize,
        dials: usize,
        messages: usize,
        bulk: usize,
    }

    /// Does all that is due at `now`.
    fn run(
        sweep: &mut Sweep,
        table: &Table,
        now: u64,
        cost: &mut Cost,
        mut check: impl FnMut(&Region<usize>),
    ) {
        while let Some(walk) = sweep.next(now) {
            let found = table.closest(&walk.target, walk.wanted);
            cost.walks += 1;
            cost.dials += found.len();
            let region = sweep.walked(walk, &found, now).unwrap();
            cost.bulk += region.batches.len();
            cost.messages += region.batches.iter().map(|(_, names)| names.len()).sum::<usize>();
            check(&region);
            sweep.told(walk, region, true, now);
        }
    }

    fn name(i: u32) -> Vec<u8> {
        let mut name = vec![0x12, 32];
        name.extend(Key::of(&i.to_le_bytes()).0);
        name
    }

    #[test]
    fn each_key_goes_to_its_own_20_closest() {
        let table = Table::new(2_000);
        let mut sweep = Sweep::default();
        (0..3_000).for_each(|i| sweep.add(name(i), 0, 0));
        let mut holders: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        run(&mut sweep, &table, T0, &mut Cost::default(), |region| {
            for (peer, names) in &region.batches {
                names.iter().for_each(|n| holders.entry(n.clone()).or_default().push(*peer));
            }
        });
        assert_eq!(holders.len(), 3_000);
        for (name, mut holders) in holders {
            let mut closest: Vec<usize> =
                table.closest(&Key::of(&name), K).into_iter().map(|(i, _)| i).collect();
            closest.sort_unstable();
            holders.sort_unstable();
            assert_eq!(holders, closest);
        }
    }

    /// The resident set, from the kernel: what the whole test takes.
    fn resident() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/statm").ok()?;
        Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * 4_096)
    }

    #[test]
    fn a_hundred_thousand_roots_cost_walks_by_the_region_and_are_never_late() {
        let table = Table::new(10_000);
        let (before, mut peak) = (resident().unwrap_or(0), 0);
        let mut sweep = Sweep::default();
        (0..100_000).for_each(|i| sweep.add(name(i), 0, 0));
        let mut first = Cost::default();
        run(&mut sweep, &table, T0, &mut first, |_| {});
        peak = peak.max(resident().unwrap_or(0));
        // 10,000 servers in regions of 40 to 80: some 128 to 256 of them, and each server is dialled for
        // the regions on both sides of it at most.
        assert!(first.walks <= 300, "{} walks", first.walks);
        assert!(first.dials <= 300 * REGION, "{} dials", first.dials);
        assert_eq!(first.messages, 100_000 * K);
        assert!(first.bulk <= first.dials);

        // Two days, a look every minute; in the middle of it a restart from what is remembered.
        let mut cost = Cost::default();
        let (mut last, mut busiest) = (BTreeMap::<Key, u64>::new(), 0);
        for minute in 1..=48 * 60 {
            let now = T0 + minute * 60;
            if minute == 24 * 60 + 7 {
                let mut again = Sweep::default();
                for entry in sweep.keys.values() {
                    again.add(entry.name.clone(), entry.told, entry.depth);
                }
                sweep = again;
            }
            let before = cost.messages;
            run(&mut sweep, &table, now, &mut cost, |region| {
                for key in &region.told {
                    let then = last.insert(*key, now).unwrap_or(T0);
                    assert!(now - then <= 22 * 3_600 + 60, "a record {} s old", now - then);
                }
            });
            busiest = busiest.max(cost.messages - before);
            assert_eq!(sweep.late(now, T0), 0);
            peak = peak.max(resident().unwrap_or(0));
        }
        assert_eq!(last.len(), 100_000);
        // 2.4 cycles fit, and the first one realigns what was told at the start.
        assert!(cost.walks <= 4 * first.walks, "{} walks", cost.walks);
        assert!(cost.messages <= 4 * 100_000 * K, "{} messages", cost.messages);
        // Spread: no minute carries more than some regions.
        assert!(busiest <= 100_000 * K / 40, "{busiest} messages in one minute");
        assert!(peak.saturating_sub(before) < 300 << 20, "{} MiB", (peak - before) >> 20);
        println!(
            "first: {} walks, {} dials, {} bulk sends of {} messages; 48 h: {} walks, {} dials, {} messages; \
             busiest minute {busiest}; {} MiB",
            first.walks,
            first.dials,
            first.bulk,
            first.messages,
            cost.walks,
            cost.dials,
            cost.messages,
            (peak - before) >> 20
        );
    }

    #[test]
    fn walks_do_not_grow_with_the_keys() {
        let table = Table::new(10_000);
        let walks = |n: u32| {
            let mut sweep = Sweep::default();
            (0..n).for_each(|i| sweep.add(name(i), 0, 0));
            let mut cost = Cost::default();
            run(&mut sweep, &table, T0, &mut cost, |_| {});
            (cost.walks, cost.dials)
        };
        let ((few, few_dials), (many, many_dials)) = (walks(10_000), walks(100_000));
        assert!(many <= few + few / 4, "{few} walks for 10,000 keys, {many} for 100,000");
        assert!(many_dials <= few_dials + few_dials / 4, "{few_dials} dials, {many_dials}");
        // A few keys in a large network: each its own walk, of its own 20.
        let (walks, dials) = walks(10);
        assert!(walks <= 10 && dials <= REGION + 9 * K, "{walks} walks, {dials} dials");
    }

    #[test]
    fn in_a_network_of_a_few_all_is_told_by_one_walk() {
        let table = Table::new(5);
        let mut sweep = Sweep::default();
        (0..1_000).for_each(|i| sweep.add(name(i), 0, 0));
        let mut cost = Cost::default();
        run(&mut sweep, &table, T0, &mut cost, |_| {});
        assert_eq!((cost.walks, cost.bulk, cost.messages), (1, 5, 5_000));
        let mut cost = Cost::default();
        for hour in 1..=44 {
            run(&mut sweep, &table, T0 + hour * 3_600, &mut cost, |_| {});
        }
        assert!((2..=3).contains(&cost.walks), "{} walks in two cycles", cost.walks);
    }

    #[test]
    fn what_cannot_be_told_is_tried_again_and_late_after_an_hour() {
        let mut sweep = Sweep::default();
        sweep.add(name(1), 0, 0);
        let walk = sweep.next(T0).unwrap();
        assert!(sweep.next(T0).is_none(), "it is under way");
        assert!(sweep.walked::<u8>(walk, &[], T0).is_none());
        assert!(sweep.next(T0).is_none());
        let at = sweep.wake().unwrap();
        assert_eq!(at, T0 + 2 * RETRY);
        let walk = sweep.next(at).unwrap();
        let region = sweep.walked(walk, &[(1u8, Key([0; 32]))], at).unwrap();
        assert!(sweep.told(walk, region, false, at).is_empty());
        assert_eq!((sweep.late(T0 + LATE, T0), sweep.late(T0 + LATE + 1, T0)), (0, 1));
        // A new key does not wait for the end of the pause.
        sweep.add(name(2), 0, 0);
        assert!(sweep.next(at).is_some());
    }

    #[test]
    fn what_is_new_or_of_no_use_any_more_is_due_at_once() {
        let table = Table::new(100);
        let mut sweep = Sweep::default();
        sweep.add(name(1), 0, 0);
        run(&mut sweep, &table, T0, &mut Cost::default(), |_| {});
        assert!(sweep.next(T0 + 1).is_none());
        let due = sweep.wake().unwrap();
        assert!(due > T0 + MIN_GAP && due <= T0 + CYCLE + MIN_GAP);
        sweep.tell_all();
        assert_eq!(sweep.never_told(), 1);
        let mut cost = Cost::default();
        run(&mut sweep, &table, T0 + 2, &mut cost, |_| {});
        assert_eq!(cost.messages, K);
        assert!(sweep.remove(&name(1)) && !sweep.remove(&name(1)));
        assert_eq!((sweep.wake(), sweep.len()), (None, 0));
    }

    #[test]
    fn after_days_without_power_what_was_missed_is_told_at_once() {
        let table = Table::new(1_000);
        let mut sweep = Sweep::default();
        (0..100).for_each(|i| sweep.add(name(i), T0, 3));
        let now = T0 + 5 * 86_400;
        assert_eq!(sweep.late(now, now), 100);
        run(&mut sweep, &table, now, &mut Cost::default(), |_| {});
        assert_eq!(sweep.late(now, now), 0);
    }
}
