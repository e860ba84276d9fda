//! The swarm simulator: the real engine, many times, under a simulated network.
//!
//! Virtual time, one seed: the same scenario and seed give the same bytes. [`world`] is the run,
//! [`driver`] does for an engine what the node's driver does in life, [`link`] are the up- and
//! down-links, [`check`] what must hold at every step.
//!
//! What is simplified: a chunk is verified and written in no time; connections share an up-link by
//! turns of whole chunks; control messages overtake chunks; the DHT names peers after half a second.

pub mod calendar;
pub mod check;
pub mod dag;
pub mod driver;
pub mod link;
pub mod message;
pub mod peer;
pub mod world;

use std::time::Duration;

use crate::engine::config::Config;
use crate::lab::report::{self, Report};
use crate::lab::scenario::{PeerPlan, Scenario};

pub use check::SimError;

/// Points of a report's curves over the bound on the distribution time.
const SAMPLES: f64 = 50.0;

/// Simulates one swarm.
pub fn run(scenario: &Scenario, seed: u64) -> Result<Report, SimError> {
    run_tuned(scenario, seed, &|_, _| ())
}

/// The same with the engines' settings changed, peer by peer.
pub fn run_tuned(
    scenario: &Scenario,
    seed: u64,
    tune: &dyn Fn(&PeerPlan, &mut Config),
) -> Result<Report, SimError> {
    scenario.check()?;
    let bound = report::bound(scenario, &scenario.peers(seed));
    let every = Duration::from_secs_f64((bound / SAMPLES).clamp(0.01, 60.0));
    let mut world = world::World::new(scenario, seed, every, tune);
    // Counting everything afresh at every step is for small swarms in tests.
    let peers: u32 = scenario.groups.iter().map(|g| g.count).sum();
    world.thorough = cfg!(test) && peers <= 24 && scenario.chunks() <= 64;
    world.run()?;
    Ok(report::of(&world, bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::scenario::{Group, Role, Slots, Span};
    use crate::units::{ChunkIndex, Time};

    fn small(n: u32) -> Scenario {
        Scenario::uniform(8 << 20, 4e6, 2e6, 8e6, n)
    }

    fn with(mut scenario: Scenario, role: Role, count: u32) -> Scenario {
        let like = scenario.groups[1].clone();
        scenario.groups.push(Group { role, count, ..like });
        scenario
    }

    #[test]
    fn a_swarm_of_fifty_finishes_with_its_invariants_near_the_bound() {
        let report = run(&Scenario { size: 32 << 20, ..small(50) }, 1).unwrap();
        assert_eq!((report.finished, report.peers, report.banned), (50, 50, 0));
        assert!((1.0..1.25).contains(&report.ratio), "{}", report.ratio);
        assert!(report.each.iter().all(|p| p.duplicate_bytes * 10 < 32 << 20));
        let last = report.samples.last().unwrap();
        assert_eq!((last.finished, last.rarest), (50, 51));
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
        let scenario = with(with(small(12), Role::Liar, 2), Role::FreeRider, 1);
        let json = |seed| serde_json::to_string(&run(&scenario, seed).unwrap()).unwrap();
        assert_eq!(json(7), json(7));
        assert_ne!(json(7), json(8));
    }

    #[test]
    fn one_to_one_takes_what_the_up_link_takes() {
        let report = run(&small(1), 1).unwrap();
        assert!((1.0..1.25).contains(&report.ratio), "start and handshakes included: {}", report.ratio);
        assert_eq!(report.duplicate_bytes, 0);
        assert!((report.seed_copies - 1.0).abs() < 1e-9);
    }

    #[test]
    fn contents_of_any_size_arrive() {
        for size in [1, 1000, 262_144, 262_145, 200 * 262_144 + 1] {
            let report = run(&Scenario { size, ..small(2) }, 1).unwrap();
            assert_eq!((report.finished, report.useful_bytes), (2, 2 * size), "{size} bytes");
        }
    }

    #[test]
    fn liars_are_banned_and_the_honest_finish() {
        let report = run(&with(small(16), Role::Liar, 4), 1).unwrap();
        assert_eq!((report.finished, report.banned), (16, 4));
        assert!(report.bad_bytes > 0);
    }

    #[test]
    fn a_slow_loris_holds_nobody_up_for_long() {
        let plain = run(&small(12), 1).unwrap();
        let report = run(&with(small(12), Role::SlowLoris, 3), 1).unwrap();
        assert_eq!((report.finished, report.banned), (12, 0));
        assert!(report.seconds < plain.seconds + 30.0, "{} after {}", report.seconds, plain.seconds);
    }

    #[test]
    fn a_free_rider_is_slower_than_those_who_give() {
        let mut scenario = with(Scenario { size: 32 << 20, ..small(24) }, Role::FreeRider, 2);
        scenario.groups[0].up = Span::exactly(2e6);
        scenario.slots = Slots::Fixed(5);
        let report = run(&scenario, 1).unwrap();
        let (give, take) = (report.finish_times(Role::Leecher), report.finish_times(Role::FreeRider));
        assert_eq!((give.len(), take.len()), (24, 2), "and finishes all the same");
        assert!(take[0] > give[12], "{take:?} {give:?}");
        assert!(report.each.iter().filter(|p| p.role == Role::FreeRider).all(|p| p.up_bytes == 0));
    }

    #[test]
    fn those_that_stay_finish_though_a_third_vanishes() {
        let mut scenario = with(small(14), Role::Leecher, 6);
        scenario.groups[2].leave_s = Some(Span { from: 0.0, to: 8.0 });
        let report = run(&scenario, 1).unwrap();
        let stayed = report.each.iter().filter(|p| p.stays && p.role == Role::Leecher);
        assert!(stayed.clone().all(|p| p.finished_s.is_some()));
        assert_eq!(stayed.count(), 14);
    }

    #[test]
    fn peers_that_come_late_and_go_when_complete_are_served() {
        let mut scenario = small(10);
        scenario.groups[1].join_s = Span { from: 0.0, to: 60.0 };
        scenario.groups[1].leave_after_complete = Some(1.0);
        let report = run(&scenario, 1).unwrap();
        assert_eq!(report.finished, 10);
        assert!(report.bound > 50.0, "the last to come is counted from its coming");
    }

    #[test]
    fn a_swarm_whose_only_seed_vanishes_at_once_ends_unfinished() {
        let mut scenario = small(3);
        scenario.groups[0].leave_s = Some(Span::exactly(1.0));
        let report = run(&scenario, 1).unwrap();
        assert_eq!((report.finished, report.peers), (0, 3));
    }

    #[test]
    fn fixed_slots_are_never_exceeded() {
        let mut scenario = small(12);
        scenario.slots = Slots::Fixed(2);
        assert_eq!(run(&scenario, 1).unwrap().finished, 12, "the invariant is checked at every unchoke");
    }

    /// Breaks something in the middle of a run, and says what the simulator says of it.
    fn broken(slots: Slots, harm: impl Fn(&mut world::World)) -> String {
        let scenario = Scenario { slots, ..small(6) };
        let mut world = world::World::new(&scenario, 9, Duration::from_secs(1), &|_, _| ());
        while world.now < Time::from_secs_f64(2.0) {
            assert!(world.step(Time::MAX).unwrap());
        }
        harm(&mut world);
        let error = world.run().unwrap_err().to_string();
        assert!(error.contains("--seed 9") && error.contains("the last steps:"), "{error}");
        assert!(error.lines().count() < 50, "the trace is short");
        error
    }

    #[test]
    fn what_is_broken_on_purpose_is_caught() {
        let auto = |harm: fn(&mut world::World)| broken(Slots::Auto, harm);
        // A chunk is written that nobody verified.
        let unverified = auto(|w| {
            let lacks = ChunkIndex::new(w.peers[3].have.next_unset(0)).unwrap();
            w.peers[3].have.insert(lacks);
        });
        let seen = ["were verified", "which it has", "wanted chunk"];
        assert!(seen.iter().any(|how| unverified.contains(how)), "{unverified}");
        // Bytes vanish on their way.
        let bytes = auto(|w| w.ledger.sent += 1);
        assert!(bytes.contains("bytes are not conserved"), "{bytes}");
        // A request is forgotten.
        let request = auto(|w| {
            let conn = w.peers.iter_mut().flat_map(|p| &mut p.conns).find(|c| !c.asked.is_empty());
            conn.unwrap().asked.clear();
        });
        assert!(request.contains("did not ask for") || request.contains("requests are open"), "{request}");
        // A chunk is sent to one that is choked.
        let choked = auto(|w| w.peers[0].conns.iter_mut().for_each(|c| c.choked = true));
        assert!(choked.contains("while it chokes it"), "{choked}");
        // More slots are open than there are.
        let slots = broken(Slots::Fixed(2), |w| {
            w.peers[0].conns.iter_mut().for_each(|c| c.choked = false);
            w.check_open_slots(0);
        });
        assert!(slots.contains("of 2 upload slots open"), "{slots}");
    }

    #[test]
    fn settings_can_be_changed_peer_by_peer() {
        let slow = run_tuned(&small(1), 1, &|plan, config| {
            if plan.role == Role::Seed {
                config.up_limit = Some(1_000_000);
            }
        });
        let seconds = slow.unwrap().seconds;
        assert!((seconds / 8.389 - 1.0).abs() < 0.1, "8 MiB at 1 MB/s: {seconds}");
    }
}
