//! What a simulated swarm is judged by.

use serde::Serialize;

use super::distribution::p2p_bound;
use super::plot::{Cell, Chart, Series, Table};
use super::scenario::{PeerPlan, Role, Scenario};
use super::sim::world::World;

/// The swarm at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the start.
    pub s: f64,
    /// How many of those that serve hold the rarest chunk.
    pub rarest: u32,
    /// The same for the average chunk.
    pub mean: f64,
    /// Receivers that have everything.
    pub finished: u32,
    /// Peers that are there.
    pub here: u32,
    /// The part of all up-links that were sending since the sample before.
    pub up_busy: f64,
}

/// What one peer did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerReport {
    pub role: Role,
    /// Whether it was to stay to the end.
    pub stays: bool,
    /// Bytes a second.
    pub up: f64,
    pub join_s: f64,
    /// When it had its first chunk, in seconds after it joined.
    pub first_chunk_s: Option<f64>,
    /// When it had everything, in seconds after it joined.
    pub finished_s: Option<f64>,
    /// When it left, in seconds.
    pub left_s: Option<f64>,
    pub up_bytes: u64,
    pub down_bytes: u64,
    pub duplicate_bytes: u64,
    pub bad_bytes: u64,
    /// What it had received when the first of those that serve had finished.
    pub bytes_at_first_finish: u64,
    /// The part of the run during which its up-link was sending.
    pub up_busy: f64,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub name: String,
    pub seed: u64,
    /// When the last of those that stayed had everything, in seconds.
    pub seconds: f64,
    /// The lower bound on that, in seconds.
    pub bound: f64,
    pub ratio: f64,
    /// Bytes of chunks that came twice, or after a cancel.
    pub duplicate_bytes: u64,
    /// Of these, what came while the receiver still had chunks that nobody was asked for.
    pub early_duplicate_bytes: u64,
    /// Bytes of chunks with a wrong hash.
    pub bad_bytes: u64,
    /// Bytes sent that did not arrive, since either end was gone.
    pub lost_bytes: u64,
    /// Bytes of chunks that arrived and were right.
    pub useful_bytes: u64,
    /// When the first of those that serve had finished, in seconds.
    pub first_finish_s: Option<f64>,
    /// Receivers that have everything.
    pub finished: u32,
    /// Receivers (who left before the end included).
    pub peers: u32,
    /// Peers that somebody has banned.
    pub banned: u32,
    /// Pairs of a liar and a peer that it served and that did not ban it.
    pub unpunished: u32,
    /// Honest peers that somebody has banned.
    pub wronged: u32,
    /// How often the seeds have sent the content, in copies.
    pub seed_copies: f64,
    /// Events that the simulator went through.
    pub events: u64,
    pub samples: Vec<Sample>,
    pub each: Vec<PeerReport>,
}

/// The least time, from the start of the run, in which everybody that stays can have everything: the
/// bound on the distribution time with what all that serve could ever give, and each peer's own
/// down-link from the moment it joins.
pub fn bound(scenario: &Scenario, peers: &[PeerPlan]) -> f64 {
    let size = scenario.size as f64;
    let seeds: f64 = peers.iter().filter(|p| p.role == Role::Seed).map(|p| p.up).sum();
    let sum_up: f64 = peers.iter().filter(|p| p.role == Role::Leecher).map(|p| p.up).sum();
    let stay: Vec<&PeerPlan> = peers.iter().filter(|p| p.role.fetches() && p.leave_s.is_none()).collect();
    let alone = stay.iter().map(|p| p.join_s + size / p.down).fold(0.0, f64::max);
    let first = stay.iter().map(|p| p.join_s).fold(f64::INFINITY, f64::min);
    let together = p2p_bound(size, seeds, f64::INFINITY, sum_up, stay.len() as f64);
    if stay.is_empty() { 0.0 } else { alone.max(first + together) }
}

/// The report of a run that is over.
pub fn of(world: &World, bound: f64) -> Report {
    let span = world.now.as_secs_f64().max(1e-9);
    let each: Vec<PeerReport> = world
        .peers
        .iter()
        .map(|p| {
            let after = |t: Option<crate::units::Time>| t.map(|t| t.as_secs_f64() - p.plan.join_s);
            PeerReport {
                role: p.plan.role,
                stays: p.plan.stays(),
                up: p.plan.up,
                join_s: p.plan.join_s,
                first_chunk_s: after(p.tally.first_chunk),
                finished_s: after(p.tally.finished),
                left_s: p.tally.left.map(|t| t.as_secs_f64()),
                up_bytes: p.tally.up_bytes,
                down_bytes: p.tally.down_bytes,
                duplicate_bytes: p.tally.late_bytes,
                bad_bytes: p.tally.bad_bytes,
                bytes_at_first_finish: p.tally.at_first_finish,
                up_busy: (p.up.busy_s / span).min(1.0),
            }
        })
        .collect();
    let last = world.peers.iter().filter(|p| p.counts()).filter_map(|p| p.tally.finished).max();
    let seconds = last.map_or(span, |t| t.as_secs_f64());
    let seeds = each.iter().filter(|p| p.role == Role::Seed).map(|p| p.up_bytes).sum::<u64>();
    let receivers = || world.peers.iter().filter(|p| p.plan.role.fetches());
    Report {
        name: world.scenario.name.clone(),
        seed: world.seed,
        seconds,
        bound,
        ratio: if bound > 0.0 { seconds / bound } else { 1.0 },
        duplicate_bytes: world.ledger.late,
        early_duplicate_bytes: world.peers.iter().map(|p| p.tally.early_late_bytes).sum(),
        bad_bytes: world.ledger.bad,
        lost_bytes: world.ledger.lost,
        useful_bytes: world.ledger.kept,
        first_finish_s: world.first_finish.map(|t| t.as_secs_f64()),
        finished: receivers().filter(|p| p.tally.finished.is_some()).count() as u32,
        peers: receivers().count() as u32,
        banned: world.banned.len() as u32,
        unpunished: world.unpunished(),
        wronged: world.wronged(),
        seed_copies: seeds as f64 / world.scenario.size as f64,
        events: world.events,
        samples: world.samples.clone(),
        each,
    }
}

impl Report {
    /// When receivers finished, in seconds after they joined, in order.
    pub fn finish_times(&self, role: Role) -> Vec<f64> {
        let mut times: Vec<f64> =
            self.each.iter().filter(|p| p.role == role).filter_map(|p| p.finished_s).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    /// A row for each peer.
    pub fn peer_table(&self) -> Table {
        let mut t = Table::new(&[
            "peer",
            "role",
            "up B/s",
            "joined s",
            "first chunk s",
            "finished s",
            "sent B",
            "received B",
            "duplicate B",
            "bad B",
            "up-link busy",
        ]);
        for (i, p) in self.each.iter().enumerate() {
            t.push(vec![
                Cell::Int(i as u64),
                Cell::Text(role_name(p.role).to_owned()),
                Cell::Real(p.up),
                Cell::Real(p.join_s),
                p.first_chunk_s.into(),
                p.finished_s.into(),
                Cell::Int(p.up_bytes),
                Cell::Int(p.down_bytes),
                Cell::Int(p.duplicate_bytes),
                Cell::Int(p.bad_bytes),
                Cell::Real(p.up_busy),
            ]);
        }
        t
    }

    /// How the swarm went on: copies of the rarest and the average chunk, receivers that have finished.
    pub fn chart(&self) -> Chart {
        let line = |name: &str, y: fn(&Sample) -> f64| Series {
            name: name.to_owned(),
            points: self.samples.iter().map(|s| (s.s, y(s))).collect(),
        };
        Chart {
            title: format!("{}: {:.1} s, {:.3} of the bound", self.name, self.seconds, self.ratio),
            x: "seconds".to_owned(),
            y: "peers".to_owned(),
            log: false,
            series: vec![
                line("hold the rarest chunk", |s| f64::from(s.rarest)),
                line("hold the average chunk", |s| s.mean),
                line("have finished", |s| f64::from(s.finished)),
            ],
        }
    }
}

/// A role as scenario files write it.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Seed => "seed",
        Role::Leecher => "leecher",
        Role::FreeRider => "free-rider",
        Role::Liar => "liar",
        Role::SlowLoris => "slow-loris",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::scenario::Span;

    fn of(s: &Scenario) -> f64 {
        bound(s, &s.peers(1))
    }

    #[test]
    fn the_bound_of_equal_peers_is_the_lectures() {
        let s = Scenario::uniform(256 << 20, 4e6, 2e6, 8e6, 64);
        assert!((of(&s) - 64.0 * 268_435_456.0 / 132e6).abs() < 1e-9);
    }

    #[test]
    fn late_comers_free_riders_and_leavers_are_accounted_for() {
        let mut s = Scenario::uniform(8_000_000, 4e6, 2e6, 8e6, 2);
        assert!((of(&s) - 2.0).abs() < 1e-9);
        s.groups[1].role = Role::FreeRider;
        assert!((of(&s) - 4.0).abs() < 1e-9, "what gives nothing adds no up-link");
        s.groups[1].leave_s = Some(Span::exactly(1.0));
        assert_eq!(of(&s), 0.0, "nobody has to finish");
        s.groups[1].leave_s = None;
        s.groups[1].join_s = Span::exactly(100.0);
        assert!((of(&s) - 104.0).abs() < 1e-9);
    }
}
