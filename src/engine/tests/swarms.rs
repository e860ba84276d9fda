//! Whole swarms: everybody finishes, near the bound, whatever some of them do.

use std::time::Duration;

use super::net::*;
use crate::engine::*;
use crate::units::Time;

const MB: u64 = 1_000_000;

fn swarm(cfg: &Config, n: usize, chunks: u32, degree: usize, seed: u64) -> Net {
    let mut net = Net::new(chunks, Duration::from_millis(10));
    net.seed = seed;
    net.add(cfg.clone(), true, 4 * MB, 8 * MB, Role::Honest);
    for _ in 0..n {
        net.add(cfg.clone(), false, 2 * MB, 8 * MB, Role::Honest);
    }
    net.mesh(degree, seed);
    net
}

/// Late and all bytes.
fn waste(net: &Net) -> (u64, u64) {
    net.nodes.iter().fold((0, 0), |(l, a), n| (l + n.got_late, a + n.got))
}

#[test]
fn the_whole_swarm_ends_near_the_bound_and_nothing_is_asked_for_twice() {
    for (n, chunks, most) in
        [(1, 256, 1.02), (2, 256, 1.06), (3, 256, 1.04), (8, 256, 1.06), (16, 256, 1.08), (40, 512, 1.08)]
    {
        let mut net = swarm(&Config::default(), n, chunks, 40, 5);
        assert!(net.run(1_000.0), "{n}");
        let ratio = net.finished() / net.bound();
        let (late, all) = waste(&net);
        assert!(ratio < most, "{n} peers: {ratio}");
        assert!(late * 100 <= all, "{n} peers: {late} of {all} bytes came late");
        assert_eq!(net.asked_twice, 0, "{n} peers: asked for twice outside the endgame");
    }
}

#[test]
fn fixed_slots_end_too_even_a_single_one() {
    for (slots, most) in [(1, 2.0), (2, 1.5), (5, 1.25)] {
        let cfg = Config { slots: Slots::Fixed(slots), ..Config::default() };
        let mut net = swarm(&cfg, 12, 200, 40, 3);
        assert!(net.run(1_000.0), "{slots}");
        let ratio = net.finished() / net.bound();
        assert!(ratio < most, "{slots} slots: {ratio}");
    }
}

#[test]
fn invariants_hold_at_every_step_of_a_small_swarm() {
    let mut net = swarm(&Config::default(), 6, 60, 5, 11);
    net.check = true;
    assert!(net.run(500.0));
}

#[test]
fn a_run_repeats_from_its_seed() {
    let run = |seed| {
        let mut net = swarm(&Config::default(), 10, 80, 6, seed);
        assert!(net.run(500.0));
        (net.finished(), net.events, net.nodes.iter().map(|n| n.sent).collect::<Vec<_>>())
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5));
}

#[test]
fn peers_that_vanish_and_a_seed_that_leaves_stop_nobody() {
    for seed in [1, 2, 3] {
        let mut net = swarm(&Config::default(), 30, 150, 12, seed);
        let mut rng = rng::Rng::new(seed);
        // Ten of the leechers go at random moments of the first half.
        let mut deaths: Vec<(f64, usize)> =
            (1..=10).map(|n| (f64::from(rng.below(1_000)) / 1_000.0 * net.bound() * 0.5, n)).collect();
        deaths.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut gone = false;
        let mut end = 0.0;
        while !net.run(end) || !deaths.is_empty() {
            end += 0.25;
            assert!(end < 600.0, "they never finish");
            while deaths.first().is_some_and(|d| d.0 < end) {
                net.kill(deaths.remove(0).1);
            }
            let stays = |c| (11..=30).any(|n: usize| net.nodes[n].engine.holds(K, c));
            let whole = || (0..150).all(|c| stays(crate::units::ChunkIndex::new(c).unwrap()));
            if !gone && deaths.is_empty() && whole() {
                gone = true;
                net.kill(0);
            }
        }
        assert!(gone, "the seed stayed to the end");
    }
}

#[test]
fn liars_are_banned_by_whom_they_served_and_cost_little() {
    let mut net = Net::new(200, Duration::from_millis(10));
    net.add(Config::default(), true, 4 * MB, 8 * MB, Role::Honest);
    for n in 0..40 {
        let role = if n % 5 == 4 { Role::Liar } else { Role::Honest };
        net.add(Config::default(), false, 2 * MB, 8 * MB, role);
    }
    net.mesh(20, 9);
    assert!(net.run(2_000.0));
    let (mut bad, mut all) = (0, 0);
    for n in net.nodes.iter().filter(|n| n.role == Role::Honest) {
        all += n.got;
        bad += n.banned.len() as u64 * u64::from(CHUNK);
        assert!(n.banned.iter().all(|b| net.nodes[*b].role == Role::Liar), "an honest peer was banned");
    }
    assert!(bad > 0 && bad * 20 < all, "{bad} of {all}");
}

#[test]
fn mute_peers_that_claim_everything_do_not_stall_anybody() {
    let mut net = Net::new(120, Duration::from_millis(10));
    net.add(Config::default(), true, 4 * MB, 8 * MB, Role::Honest);
    for _ in 0..4 {
        net.add(Config::default(), true, 4 * MB, 8 * MB, Role::Mute);
    }
    for _ in 0..6 {
        net.add(Config::default(), false, 2 * MB, 8 * MB, Role::Honest);
    }
    net.mesh(20, 9);
    assert!(net.run(120.0));
    let seconds = net.finished();
    assert!(seconds < 40.0, "16 MB/s for 189 MB would be 12 s: {seconds}");
}

#[test]
fn four_seeds_are_nearly_four_times_as_fast_as_one() {
    let run = |seeds: usize| {
        let mut net = Net::new(400, Duration::from_millis(10));
        for _ in 0..seeds {
            net.add(Config::default(), true, 2 * MB, 8 * MB, Role::Honest);
        }
        net.add(Config::default(), false, 2 * MB, 16 * MB, Role::Honest);
        net.mesh(20, 9);
        assert!(net.run(1_000.0));
        net.finished()
    };
    let (one, four) = (run(1), run(4));
    assert!(one / four > 3.8, "{one} and {four}");
}

#[test]
fn a_free_rider_gets_a_small_part_of_what_contributors_get() {
    let mut net = Net::new(512, Duration::from_millis(10));
    net.add(Config::default(), true, 4 * MB, 8 * MB, Role::Honest);
    for _ in 0..50 {
        net.add(Config::default(), false, 2 * MB, 8 * MB, Role::Honest);
    }
    let rider = net.add(Config::default(), false, 2 * MB, 8 * MB, Role::FreeRider);
    net.mesh(40, 9);
    while net.nodes[1..=50].iter().all(|n| n.done.is_none()) {
        assert!(net.step(Time::from_secs_f64(1_000.0)));
    }
    let mut got: Vec<u64> = net.nodes[1..=50].iter().map(|n| n.got).collect();
    got.sort_unstable();
    let share = net.nodes[rider].got as f64 / got[25] as f64;
    assert!(share < 0.3, "{share}");
}

#[test]
fn a_newcomer_in_a_busy_swarm_has_its_first_chunk_soon() {
    let mut slow = 0;
    for seed in 0..10 {
        let mut net = swarm(&Config::default(), 20, 200, 20, seed);
        assert!(!net.run(15.0));
        let n = net.add(Config::default(), false, 2 * MB, 8 * MB, Role::Honest);
        for other in 1..=20 {
            net.connect(n, other);
        }
        net.run(45.0);
        slow += u32::from(net.nodes[n].first.is_none_or(|t| t > Time::from_secs_f64(45.0)));
    }
    assert_eq!(slow, 0);
}

#[test]
fn unequal_links_still_end_near_the_bound() {
    let mut net = Net::new(400, Duration::from_millis(10));
    net.add(Config::default(), true, 4 * MB, 8 * MB, Role::Honest);
    let mut rng = rng::Rng::new(2);
    for _ in 0..32 {
        let up = 250_000.0 * 32f64.powf(f64::from(rng.below(1_000)) / 1_000.0);
        net.add(Config::default(), false, up as u64, 8 * MB, Role::Honest);
    }
    net.mesh(40, 2);
    assert!(net.run(1_000.0));
    let ratio = net.finished() / net.bound();
    assert!(ratio < 1.2, "{ratio}");
}
