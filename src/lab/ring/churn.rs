//! Look-ups that fail while peers come and go, against how often the ring is repaired.

use std::time::Duration;

use serde::Serialize;

use super::net::Net;
use super::space::Space;
use super::{RingConfig, RingError};
use crate::lab::rng::Rng;
use crate::units::Time;

/// A ring under churn.
#[derive(Clone, Debug)]
pub struct Churn {
    pub peers: usize,
    /// A peer stays so long on average, then vanishes without a goodbye; another joins.
    pub stay: Duration,
    /// How long the ring is watched.
    pub span: Duration,
    pub seed: u64,
}

/// What one repair interval led to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// `2 successors`, `4 successors`, `shortcuts`.
    pub rule: String,
    /// Seconds between rounds of pings.
    pub interval: f64,
    pub lookups: u64,
    /// The part of look-ups without an answer or with a wrong one.
    pub failed: f64,
    /// Messages that a peer sends a second, look-ups apart.
    pub upkeep: f64,
}

/// For each interval: a ring by two successors, one by four, one by two with shortcuts.
pub fn curve(churn: &Churn, intervals: &[f64]) -> Result<Vec<Point>, RingError> {
    let mut points = Vec::new();
    for &interval in intervals {
        for (rule, known, shortcuts) in
            [("2 successors", 2, false), ("4 successors", 4, false), ("2 and shortcuts", 2, true)]
        {
            let every = Duration::from_secs_f64(interval);
            let config = RingConfig {
                known,
                routed: known,
                shortcuts,
                interval: Some(every),
                patience: Duration::from_millis(500),
                deadline: Duration::from_secs(30),
            };
            points.push(run(churn, rule, config)?);
        }
    }
    Ok(points)
}

fn run(churn: &Churn, rule: &str, config: RingConfig) -> Result<Point, RingError> {
    let space = Space::new(32)?;
    let mut rng = Rng::new(churn.seed);
    let mut alive: Vec<u64> = (0..churn.peers).map(|_| rng.next_u64() >> 32).collect();
    alive.sort_unstable();
    alive.dedup();
    if alive.is_empty() {
        return Err(RingError::Empty);
    }
    let interval = config.interval.map_or(0.0, |i| i.as_secs_f64());
    let deadline = config.deadline;
    let mut net = Net::settled(space, config, &alive, churn.seed);
    let mean = churn.stay.as_secs_f64() / alive.len() as f64;
    let end = Time::ZERO + churn.span;
    let (mut change, mut ask) = (Time::from_secs_f64(rng.exponential(mean)), Time::ZERO);
    let (mut asked, mut right, mut passed) = (0u64, 0u64, 0u64);
    while net.now() < end {
        net.run_until(change.min(ask).min(end));
        if net.now() >= change {
            replace_one(&mut net, &mut alive, &mut rng);
            change = change + Duration::from_secs_f64(rng.exponential(mean));
        }
        if net.now() >= ask {
            let (from, key) = (alive[rng.below(alive.len())], rng.next_u64() >> 32);
            if net.placed(from) {
                net.lookup(from, key, asked, false);
                asked += 1;
            }
            ask = ask + Duration::from_millis(500);
        }
        count(&mut net, &mut right, &mut passed);
    }
    net.run_until(end + deadline);
    count(&mut net, &mut right, &mut passed);
    let seconds = (churn.span + deadline).as_secs_f64();
    let upkeep = net.carried.saturating_sub(passed) as f64 / seconds / alive.len() as f64;
    let failed = 1.0 - right as f64 / asked.max(1) as f64;
    Ok(Point { rule: rule.to_owned(), interval, lookups: asked, failed, upkeep })
}

fn replace_one(net: &mut Net, alive: &mut Vec<u64>, rng: &mut Rng) {
    let gone = alive.swap_remove(rng.below(alive.len()));
    net.vanish(gone);
    let fresh = rng.next_u64() >> 32;
    let placed: Vec<u64> = alive.iter().copied().filter(|&id| net.placed(id)).collect();
    let contact = (!placed.is_empty()).then(|| placed[rng.below(placed.len())]);
    if net.node(fresh).is_none() {
        net.join(fresh, contact);
        alive.push(fresh);
    }
}

/// A look-up is right if its answer was the owner when it came. Who vanished while asking asks no more.
fn count(net: &mut Net, right: &mut u64, passed: &mut u64) {
    for answer in net.take_answers() {
        *passed += u64::from(answer.hops) + 1;
        *right += u64::from(answer.owner.is_some() && answer.owner == net.true_owner(answer.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(interval: f64, rule: &str) -> f64 {
        let stay = Duration::from_secs(600);
        let churn = Churn { peers: 64, stay, span: Duration::from_secs(600), seed: 3 };
        let points = curve(&churn, &[interval]).unwrap();
        points.into_iter().find(|p| p.rule == rule).unwrap().failed
    }

    #[test]
    fn slower_repair_loses_more_look_ups() {
        let (quick, slow) = (failed(2.0, "2 and shortcuts"), failed(60.0, "2 and shortcuts"));
        assert!(quick < 0.1, "{quick}");
        assert!(slow > 2.0 * quick && slow > 0.1, "{slow}");
    }

    #[test]
    fn shortcuts_meet_fewer_dead_peers_than_the_way_round() {
        assert!(failed(10.0, "2 and shortcuts") < failed(10.0, "2 successors"));
    }
}
