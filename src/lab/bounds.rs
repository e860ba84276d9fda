//! The figures that the simulated swarm must reach: `dunlin lab check` runs them all.
//!
//! A case is one simulated swarm (or a few that are compared) under one seed; what it measures stands
//! beside the bound that it must keep. Time is always over the lower bound D of
//! [`p2p_bound`](super::distribution::p2p_bound), with 256 KiB chunks, 40 neighbours, a round trip of
//! 20 ms, and the inner nodes fetched first.

use serde::Serialize;

use super::experiments::{Fairness, fairness_of};
use super::report::Report;
use super::scenario::{Group, Role, Scenario, Slots, Span};
use super::sim::{self, SimError};

const MIB: u64 = 1 << 20;
/// The seed's and the others' up-links and all down-links, in bytes a second.
const SEED_UP: f64 = 4e6;
const UP: f64 = 2e6;
const DOWN: f64 = 8e6;
/// Sizes of the swarms of equal peers.
const SIZES: [u32; 10] = [1, 2, 3, 4, 8, 12, 16, 64, 100, 256];
/// Seeds over which the newcomer's first chunk is counted.
const NEWCOMERS: u64 = 200;

/// The figure that most is about.
pub const TIME: &str = "time / D";

/// What a figure must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Shown beside, for comparison.
    None,
}

impl Bound {
    pub fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
            Bound::None => true,
        }
    }
}

/// One figure of one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub case: String,
    /// The family, its size, and whether the slots are `auto`.
    pub name: &'static str,
    pub n: u32,
    pub auto: bool,
    /// The seed of the run, or the number of seeds that were counted over.
    pub seed: u64,
    pub what: &'static str,
    pub value: f64,
    pub bound: Bound,
    pub holds: bool,
}

/// A family of cases, as `dunlin lab check NAME` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Uniform,
    Heterogeneous,
    FlashCrowd,
    FourSeeds,
    FreeRider,
    Newcomer,
    Vanish,
    Liars,
}

/// All families with their names, the quick ones first.
pub const FAMILIES: [(&str, Family); 8] = [
    ("four-seeds", Family::FourSeeds),
    ("vanish", Family::Vanish),
    ("liars", Family::Liars),
    ("heterogeneous", Family::Heterogeneous),
    ("free-rider", Family::FreeRider),
    ("newcomer", Family::Newcomer),
    ("uniform", Family::Uniform),
    ("flash-crowd", Family::FlashCrowd),
];

/// One case: a family, a size where it has several, a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    family: Family,
    n: u32,
    slots: Slots,
    seed: u64,
}

/// The cases of a family, one for each of so many seeds.
pub fn cases(family: Family, seeds: u64) -> Vec<Case> {
    let case = |n, slots, seed| Case { family, n, slots, seed };
    let each = |n: u32| (1..=seeds).map(move |seed| case(n, Slots::Auto, seed));
    match family {
        Family::Uniform => {
            let both = |&n: &u32| each(n).chain([case(n, Slots::Fixed(5), 1)]);
            SIZES.iter().flat_map(both).collect()
        }
        Family::Heterogeneous => each(64).chain([case(64, Slots::Fixed(5), 1)]).collect(),
        Family::FlashCrowd => each(1000).collect(),
        Family::FourSeeds => each(1).collect(),
        Family::FreeRider => each(50).chain((1..=seeds).map(|s| case(50, Slots::Fixed(5), s))).collect(),
        Family::Newcomer => vec![case(30, Slots::Auto, NEWCOMERS), case(30, Slots::Fixed(5), NEWCOMERS)],
        Family::Vanish => each(100).collect(),
        Family::Liars => each(200).collect(),
    }
}

impl Case {
    fn family_name(&self) -> &'static str {
        FAMILIES.iter().find(|f| f.1 == self.family).map_or("", |f| f.0)
    }

    /// What the table and messages call it.
    pub fn name(&self) -> String {
        let name = self.family_name();
        let slots = match self.slots {
            Slots::Auto => "",
            Slots::Fixed(_) => ", 4 + 1 slots",
        };
        format!("{name}, N = {}{slots}", self.n)
    }

    /// Runs it.
    pub fn run(&self) -> Result<Vec<Figure>, SimError> {
        match self.family {
            Family::Uniform => self.near_the_bound(self.uniform(256 * MIB), 1.05),
            Family::FlashCrowd => self.near_the_bound(self.uniform(256 * MIB), 1.08),
            Family::Heterogeneous => {
                let mut s = self.uniform(256 * MIB);
                s.groups[1].up = Span { from: 0.25e6, to: 8e6 };
                self.near_the_bound(s, 1.10)
            }
            Family::FourSeeds => self.four_seeds(),
            Family::FreeRider => self.free_rider(),
            Family::Newcomer => self.newcomers(),
            Family::Vanish => self.vanish(),
            Family::Liars => self.liars(),
        }
    }

    fn uniform(&self, size: u64) -> Scenario {
        Scenario { slots: self.slots, ..Scenario::uniform(size, SEED_UP, UP, DOWN, self.n) }
    }

    fn figure(&self, what: &'static str, value: f64, bound: Bound) -> Figure {
        Figure {
            case: self.name(),
            name: self.family_name(),
            n: self.n,
            auto: self.slots == Slots::Auto,
            seed: self.seed,
            what,
            value,
            bound,
            holds: bound.holds(value),
        }
    }

    /// All receivers of those that stay have finished.
    fn all_finish(&self, r: &Report) -> Figure {
        let stay = || r.each.iter().filter(|p| p.stays && p.role.fetches());
        let done = stay().filter(|p| p.finished_s.is_some()).count();
        self.figure("part that finishes", done as f64 / stay().count().max(1) as f64, Bound::AtLeast(1.0))
    }

    fn near_the_bound(&self, scenario: Scenario, most: f64) -> Result<Vec<Figure>, SimError> {
        let r = sim::run(&scenario, self.seed)?;
        let of_useful = |bytes: u64| bytes as f64 / r.useful_bytes.max(1) as f64;
        let bound = |b: Bound| if self.slots == Slots::Auto { b } else { Bound::None };
        Ok(vec![
            self.all_finish(&r),
            self.figure(TIME, r.ratio, bound(Bound::AtMost(most))),
            self.figure("duplicates", of_useful(r.duplicate_bytes), bound(Bound::AtMost(0.02))),
            self.figure(
                "duplicates before the endgame",
                of_useful(r.early_duplicate_bytes),
                bound(Bound::AtMost(0.01)),
            ),
        ])
    }

    fn four_seeds(&self) -> Result<Vec<Figure>, SimError> {
        let with = |seeds: u32| {
            let mut s = Scenario::uniform(256 * MIB, 2e6, UP, 16e6, 1);
            s.groups[0].count = seeds;
            sim::run(&s, self.seed)
        };
        let (one, four) = (with(1)?, with(4)?);
        Ok(vec![
            self.all_finish(&four),
            self.figure(
                "one seed's time / four seeds' time",
                one.seconds / four.seconds,
                Bound::AtLeast(3.8),
            ),
        ])
    }

    /// A free-rider among contributors whose up-links are saturated.
    fn free_rider(&self) -> Result<Vec<Figure>, SimError> {
        let f = Fairness {
            contributors: self.n,
            riders: 1,
            size: 64 * MIB,
            up: UP,
            slots: self.slots,
            seed: self.seed,
        };
        let row = fairness_of(&f, true, true)?;
        Ok(vec![self.figure("free-rider's rate / contributors' median", row.share, Bound::AtMost(0.3))])
    }

    /// One peer comes to a swarm in which everybody has something, and every up-link is busy.
    fn newcomers(&self) -> Result<Vec<Figure>, SimError> {
        let mut late = 0;
        for seed in 1..=self.seed {
            let mut s = self.uniform(32 * MIB);
            s.groups.push(Group { count: 1, join_s: Span::exactly(6.0), ..s.groups[1].clone() });
            let r = sim::run(&s, seed)?;
            let first = r.each.last().and_then(|p| p.first_chunk_s);
            late += u64::from(first.is_none_or(|t| t > 30.0));
        }
        let part = 1.0 - late as f64 / self.seed.max(1) as f64;
        Ok(vec![self.figure("newcomers with a chunk within 30 s", part, Bound::AtLeast(0.99))])
    }

    /// 30 % vanish at random moments, and the seed once every chunk is with one that stays.
    fn vanish(&self) -> Result<Vec<Figure>, SimError> {
        let mut s = self.uniform(128 * MIB);
        let leavers = self.n * 3 / 10;
        s.groups[0].leave_when_spread = true;
        s.groups[1].count -= leavers;
        let over = Span { from: 0.0, to: 70.0 };
        s.groups.push(Group { count: leavers, leave_s: Some(over), ..s.groups[1].clone() });
        let r = sim::run(&s, self.seed)?;
        let gone = r.each.iter().filter(|p| p.role == Role::Seed && p.left_s.is_some()).count();
        Ok(vec![
            self.all_finish(&r),
            self.figure("seeds that vanished", gone as f64, Bound::AtLeast(1.0)),
            self.figure(TIME, r.ratio, Bound::None),
        ])
    }

    fn liars(&self) -> Result<Vec<Figure>, SimError> {
        let mut s = self.uniform(64 * MIB);
        let liars = self.n / 5;
        s.groups[1].count -= liars;
        s.groups.push(Group { role: Role::Liar, count: liars, ..s.groups[1].clone() });
        let r = sim::run(&s, self.seed)?;
        let waste = (r.bad_bytes + r.duplicate_bytes + r.lost_bytes) as f64 / r.useful_bytes.max(1) as f64;
        Ok(vec![
            self.all_finish(&r),
            self.figure(
                "liars that served somebody who did not ban them",
                f64::from(r.unpunished),
                Bound::AtMost(0.0),
            ),
            self.figure("honest peers banned", f64::from(r.wronged), Bound::AtMost(0.0)),
            self.figure("waste", waste, Bound::AtMost(0.05)),
            self.figure(TIME, r.ratio, Bound::None),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_is_missed_is_seen() {
        assert!(Bound::AtMost(1.05).holds(1.05) && !Bound::AtMost(1.05).holds(1.051));
        assert!(Bound::AtLeast(3.8).holds(3.8) && !Bound::AtLeast(3.8).holds(3.79));
        assert!(!Bound::AtMost(1.0).holds(f64::NAN) && Bound::None.holds(9.0));
    }

    #[test]
    fn every_family_has_cases_and_its_name() {
        for (name, family) in FAMILIES {
            let all = cases(family, 3);
            assert!(!all.is_empty() && all.iter().all(|c| c.name().starts_with(name)), "{name}");
        }
        assert_eq!(cases(Family::Uniform, 3).len(), 40);
    }

    fn keeps(family: Family, n: u32, seed: u64) {
        let figures = Case { family, n, slots: Slots::Auto, seed }.run().unwrap();
        let missed: Vec<&Figure> = figures.iter().filter(|f| !f.holds).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }

    #[test]
    fn small_swarms_keep_near_the_bound() {
        [1, 2, 3, 4, 8, 12].into_iter().for_each(|n| keeps(Family::Uniform, n, 1));
    }

    #[test]
    fn four_seeds_add_up() {
        keeps(Family::FourSeeds, 1, 1);
    }

    #[test]
    fn the_rest_finish_though_a_third_and_the_seed_vanish() {
        keeps(Family::Vanish, 30, 1);
    }

    #[test]
    fn liars_are_banned_by_whom_they_served() {
        keeps(Family::Liars, 60, 1);
    }

    #[test]
    fn unequal_peers_keep_near_the_bound_and_the_slow_are_not_left_behind() {
        keeps(Family::Heterogeneous, 64, 3);
    }

    /// All links 8 MB/s. What is lost is the beginning, the same for 64 MiB as for 256: the manifest, the first chunk,
    /// the growth of the pipeline. The choker's trial of two chunks is no part of it.
    #[test]
    fn a_long_link_costs_some_round_trips_at_the_beginning_and_no_more() {
        for (n, rtt, mib, most) in [
            (1, 0.1, 64, 1.10),
            (4, 0.1, 64, 1.18),
            (1, 0.3, 64, 1.36),
            (4, 0.3, 64, 1.52),
            (1, 0.3, 256, 1.10),
            (4, 0.3, 256, 1.15),
        ] {
            let mut s = Scenario::uniform(mib * MIB, 8e6, 8e6, 8e6, n);
            s.groups.iter_mut().for_each(|g| g.delay_ms = rtt * 1_000.0 / 4.0);
            let r = sim::run(&s, 1).unwrap();
            println!("N = {n}, {rtt} s, {mib} MiB: time / D {:.3}", r.ratio);
            assert!(r.ratio <= most, "N = {n}, a round trip of {rtt} s, {mib} MiB: {} over {most}", r.ratio);
        }
    }

    #[test]
    fn a_newcomer_has_a_chunk_soon() {
        keeps(Family::Newcomer, 30, 3);
    }
}
