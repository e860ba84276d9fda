//! Series of simulated swarms: what `dunlin lab fairness`, `churn` and `distribution --simulate` run.

use serde::Serialize;

use super::distribution::{Row, Setting, rows};
use super::report::Report;
use super::scenario::{Group, Role, Scenario, Slots, Span};
use super::sim::{self, SimError};

/// The bounds, and beside them what the simulated swarm took.
pub fn simulated_rows(setting: &Setting, chunk: u32, peers: &[u64], seed: u64) -> Result<Vec<Row>, SimError> {
    let mut rows = rows(setting, peers);
    for row in &mut rows {
        let n = u32::try_from(row.n).unwrap_or(u32::MAX);
        let (us, ui, down) = (setting.server_up, setting.peer_up, setting.down);
        let mut scenario = Scenario::uniform(setting.size as u64, us, ui, down, n);
        scenario.chunk = chunk;
        row.simulated = Some(sim::run(&scenario, seed)?.seconds);
    }
    Ok(rows)
}

/// A swarm of contributors with some that give nothing. The seed's up-link is twice theirs, so that
/// what limits everybody is the sum of the up-links, not the pace at which new chunks come.
#[derive(Clone, Debug)]
pub struct Fairness {
    pub contributors: u32,
    pub riders: u32,
    pub size: u64,
    /// Each peer's up-link, in bytes a second; the seed's is twice, all down-links are four times that.
    pub up: f64,
    pub slots: Slots,
    pub seed: u64,
}

/// Who got how much under one set of rules, until the first contributor had finished.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FairnessRow {
    pub tit_for_tat: bool,
    pub optimistic: bool,
    /// The median contributor's rate, bytes a second.
    pub contributor: f64,
    /// The median free-rider's.
    pub rider: f64,
    /// The second over the first.
    pub share: f64,
    /// When the last contributor had its first chunk, in seconds after it joined.
    pub last_first_chunk: f64,
    /// When the last contributor, and the last free-rider, had finished.
    pub contributors_s: f64,
    pub riders_s: f64,
}

/// All four combinations of the two rules.
pub fn fairness(f: &Fairness) -> Result<Vec<FairnessRow>, SimError> {
    let rules = [(true, true), (true, false), (false, true), (false, false)];
    rules.into_iter().map(|(tit_for_tat, optimistic)| fairness_of(f, tit_for_tat, optimistic)).collect()
}

/// One combination of the two rules.
pub fn fairness_of(f: &Fairness, tit_for_tat: bool, optimistic: bool) -> Result<FairnessRow, SimError> {
    let mut scenario = Scenario::uniform(f.size, 2.0 * f.up, f.up, 4.0 * f.up, f.contributors);
    let mut rider = scenario.groups[1].clone();
    (rider.role, rider.count) = (Role::FreeRider, f.riders);
    scenario.groups.push(rider);
    scenario.name = format!("{} contributors and {} free-riders", f.contributors, f.riders);
    (scenario.slots, scenario.tit_for_tat, scenario.optimistic) = (f.slots, tit_for_tat, optimistic);
    let report = sim::run(&scenario, f.seed)?;
    Ok(fairness_row(&report, tit_for_tat, optimistic))
}

fn fairness_row(report: &Report, tit_for_tat: bool, optimistic: bool) -> FairnessRow {
    let until = report.first_finish_s.unwrap_or(report.seconds).max(1e-9);
    let median = |role: Role| {
        let mut got: Vec<u64> =
            report.each.iter().filter(|p| p.role == role).map(|p| p.bytes_at_first_finish).collect();
        got.sort_unstable();
        got.get(got.len() / 2).map_or(0.0, |&b| b as f64 / until)
    };
    let (contributor, rider) = (median(Role::Leecher), median(Role::FreeRider));
    let firsts = report.each.iter().filter(|p| p.role == Role::Leecher);
    let last = |role| report.finish_times(role).last().copied().unwrap_or(f64::NAN);
    FairnessRow {
        tit_for_tat,
        optimistic,
        contributor,
        rider,
        share: if contributor > 0.0 { rider / contributor } else { 0.0 },
        last_first_chunk: firsts.filter_map(|p| p.first_chunk_s).fold(0.0, f64::max),
        contributors_s: last(Role::Leecher),
        riders_s: last(Role::FreeRider),
    }
}

/// A swarm that peers leave, without a goodbye, and join while it runs.
#[derive(Clone, Debug)]
pub struct ChurnSwarm {
    pub peers: u32,
    pub size: u64,
    pub seed_up: f64,
    pub up: f64,
    pub down: f64,
    pub seed: u64,
}

/// What one rate of churn led to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChurnRow {
    /// The part of the first peers that vanishes at random moments; as many others join meanwhile.
    pub leaving: f64,
    /// When the last of those that stayed had finished.
    pub seconds: f64,
    pub bound: f64,
    /// How long a peer that stays takes, on average, from its joining.
    pub mean_s: f64,
    /// Bytes that came twice, or were lost with a connection, over those that were of use.
    pub wasted: f64,
    pub finished: u32,
    /// Receivers that stayed.
    pub stayed: u32,
}

/// One swarm for each fraction of leavers.
pub fn churn(c: &ChurnSwarm, fractions: &[f64]) -> Result<Vec<ChurnRow>, SimError> {
    fractions.iter().map(|&leaving| churn_row(c, leaving)).collect()
}

fn churn_row(c: &ChurnSwarm, leaving: f64) -> Result<ChurnRow, SimError> {
    let mut scenario = Scenario::uniform(c.size, c.seed_up, c.up, c.down, c.peers);
    let span = super::report::bound(&scenario, &scenario.peers(c.seed));
    let leavers = (f64::from(c.peers) * leaving.clamp(0.0, 1.0)).round() as u32;
    let base = scenario.groups[1].clone();
    scenario.groups[1].count = c.peers - leavers;
    let over = Span { from: 0.0, to: span };
    scenario.groups.push(Group { count: leavers, leave_s: Some(over), ..base.clone() });
    scenario.groups.push(Group { count: leavers, join_s: over, ..base });
    scenario.name = format!("{} peers, {:.0} % leave and as many join", c.peers, leaving * 100.0);
    let report = sim::run(&scenario, c.seed)?;
    let stayed: Vec<_> = report.each.iter().filter(|p| p.role == Role::Leecher && p.stays).collect();
    let times: Vec<f64> = stayed.iter().filter_map(|p| p.finished_s).collect();
    Ok(ChurnRow {
        leaving,
        seconds: report.seconds,
        bound: report.bound,
        mean_s: times.iter().sum::<f64>() / times.len().max(1) as f64,
        wasted: (report.duplicate_bytes + report.lost_bytes) as f64 / report.useful_bytes.max(1) as f64,
        finished: times.len() as u32,
        stayed: stayed.len() as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulated_swarm_is_never_faster_than_the_bound() {
        let setting = Setting { size: 4e6, server_up: 4e6, peer_up: 2e6, down: 8e6 };
        for row in simulated_rows(&setting, 1 << 16, &[1, 3, 8], 1).unwrap() {
            let over = row.simulated.unwrap() / row.p2p;
            assert!((1.0..1.6).contains(&over), "{over} for {}", row.n);
        }
    }

    #[test]
    fn more_churn_wastes_more_and_those_that_stay_finish() {
        let c = ChurnSwarm { peers: 12, size: 4 << 20, seed_up: 4e6, up: 2e6, down: 8e6, seed: 1 };
        let rows = churn(&c, &[0.0, 0.5]).unwrap();
        assert!(rows.iter().all(|r| r.finished == r.stayed && r.stayed == 12));
        assert!(rows[0].wasted <= rows[1].wasted);
    }
}
