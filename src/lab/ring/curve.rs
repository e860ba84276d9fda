//! Neighbours against messages: what a peer must know, and what a look-up then costs.

use std::time::Duration;

use serde::Serialize;

use super::kademlia::{K, Kademlia};
use super::net::Net;
use super::space::Space;
use super::{RingConfig, RingError};
use crate::lab::rng::Rng;

/// One way of keeping neighbours in one ring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    pub n: u64,
    /// `successor`, `4 successors`, `shortcuts`, `kademlia k=20`.
    pub rule: String,
    /// Different peers that a peer knows, on average.
    pub neighbours: f64,
    /// Messages until the owner had the query, on average.
    pub messages: f64,
    /// The most that any of the look-ups took.
    pub worst: u32,
}

/// Messages that a look-up along the ring may cost in all before fewer look-ups are made.
const BUDGET: usize = 400_000;

/// All rules for each number of peers, `lookups` random look-ups each (fewer where one passes
/// thousands of peers).
pub fn curve(
    sizes: &[u64],
    successors: &[usize],
    lookups: usize,
    seed: u64,
) -> Result<Vec<Point>, RingError> {
    let mut points = Vec::new();
    for &n in sizes {
        let ids = random_ids(n as usize, seed);
        let successor_rules = successors.iter().copied().filter(|&k| k == 1 || (k as u64) < n);
        for k in successor_rules {
            let rule = if k == 1 { "successor".to_owned() } else { format!("{k} successors") };
            points.push(ring(&ids, rule, k, false, lookups, seed)?);
        }
        points.push(ring(&ids, "shortcuts".to_owned(), 1, true, lookups, seed)?);
        points.push(kademlia(&ids, lookups, seed));
    }
    Ok(points)
}

fn random_ids(n: usize, seed: u64) -> Vec<u64> {
    let mut rng = Rng::new(seed).fork(n as u64);
    let mut ids = Vec::with_capacity(n);
    while ids.len() < n {
        ids.extend((ids.len()..n).map(|_| rng.next_u64()));
        ids.sort_unstable();
        ids.dedup();
    }
    ids
}

fn ring(
    ids: &[u64],
    rule: String,
    routed: usize,
    shortcuts: bool,
    lookups: usize,
    seed: u64,
) -> Result<Point, RingError> {
    if ids.is_empty() {
        return Err(RingError::Empty);
    }
    let deadline = Duration::from_secs(1 << 30);
    let config =
        RingConfig { known: routed, routed, shortcuts, interval: None, deadline, ..RingConfig::default() };
    let mut net = Net::settled(Space::new(64)?, config, ids, seed);
    let expected = if shortcuts { 32 } else { ids.len() / (2 * routed) + 1 };
    let lookups = lookups.min(BUDGET / expected).max(16);
    let mut rng = Rng::new(seed).fork(99);
    let (mut sum, mut worst) = (0u64, 0);
    for (i, from) in spread(ids, lookups, &mut rng).into_iter().enumerate() {
        // Every distance is as likely, and with few look-ups each part of the circle has its share.
        let part = (i as f64 + rng.unit()) / lookups as f64;
        let key = from.wrapping_add((part * 2f64.powi(64)) as u64);
        net.lookup(from, key, i as u64, false);
        net.run_to_answer();
        for answer in net.take_answers() {
            if answer.owner.is_none() || answer.owner != net.true_owner(answer.key) {
                return Err(RingError::Lost(answer.key));
            }
            sum += u64::from(answer.hops);
            worst = worst.max(answer.hops);
        }
    }
    let known: usize = net.nodes().map(|n| n.neighbours()).sum();
    let (n, count) = (ids.len() as f64, lookups as f64);
    Ok(Point { n: ids.len() as u64, rule, neighbours: known as f64 / n, messages: sum as f64 / count, worst })
}

fn kademlia(ids: &[u64], lookups: usize, seed: u64) -> Point {
    let net = Kademlia::new(ids, seed);
    let mut rng = Rng::new(seed).fork(98);
    let askers = spread(ids, lookups, &mut rng);
    let known: usize = askers.iter().map(|&id| net.neighbours(id)).sum();
    let (mut sum, mut worst) = (0u64, 0);
    for &from in &askers {
        let messages = net.lookup(from, rng.next_u64());
        sum += u64::from(messages);
        worst = worst.max(messages);
    }
    let count = askers.len() as f64;
    let rule = format!("kademlia k={K}");
    Point { n: ids.len() as u64, rule, neighbours: known as f64 / count, messages: sum as f64 / count, worst }
}

/// Who asks: peers evenly around the ring, so that few look-ups show the average too.
fn spread(ids: &[u64], count: usize, rng: &mut Rng) -> Vec<u64> {
    let from = rng.below(ids.len());
    (0..count).map(|i| ids[(from + i * ids.len() / count) % ids.len()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_up_by_successor_alone_costs_half_the_ring() {
        // Over every asker and every owner, which is what "on average" means in the lecture.
        for n in [8usize, 9, 33] {
            let ids: Vec<u64> = (0..n as u64).map(|i| i * 7 + 3).collect();
            let config = RingConfig { interval: None, ..RingConfig::default() };
            let mut net = Net::settled(Space::new(9).unwrap(), config, &ids, 1);
            let mut sum = 0;
            for &from in &ids {
                for &key in &ids {
                    net.lookup(from, key, 0, false);
                    net.run_to_answer();
                    let a = net.take_answers().remove(0);
                    assert_eq!(a.owner, Some(key));
                    assert!((a.hops as usize) < n, "worst is below N");
                    sum += a.hops;
                }
            }
            let mean = f64::from(sum) / (n * n) as f64;
            assert!((mean - n as f64 / 2.0).abs() <= 0.5, "{mean} for {n}");
        }
    }

    #[test]
    fn more_neighbours_cost_fewer_messages() {
        let points = curve(&[1000], &[1, 4, 16], 300, 1).unwrap();
        let by = |rule: &str| points.iter().find(|p| p.rule == rule).unwrap();
        let one = by("successor").messages;
        assert!((one / 500.0 - 1.0).abs() < 0.1, "{one}");
        assert!((by("4 successors").messages / (one / 4.0) - 1.0).abs() < 0.15);
        assert!((by("16 successors").messages / (one / 16.0) - 1.0).abs() < 0.15);
        let short = by("shortcuts");
        assert!((3.0..8.0).contains(&short.messages), "half of log2 N: {}", short.messages);
        assert!((8.0..15.0).contains(&short.neighbours));
        assert!(by("kademlia k=20").messages < short.messages);
    }
}
