//! What must hold at every step of a simulated swarm, and the trace that is shown when it does not.

use std::collections::VecDeque;
use std::fmt;

use crate::units::Time;

/// A swarm that could not be simulated to its end.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    #[error(transparent)]
    Scenario(#[from] crate::lab::scenario::ScenarioError),
    /// An invariant is broken: a bug of the engine or of the simulator, never of the scenario.
    #[error("invariant broken at {at:.6} s with --seed {seed}: {what}; the last steps:\n{trace}")]
    Broken { seed: u64, at: f64, what: String, trace: String },
}

/// Steps that are remembered.
const STEPS: usize = 40;

/// One thing that happened, small enough to be kept for every event.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub at: Time,
    pub who: u32,
    pub other: u32,
    pub what: &'static str,
    pub number: u32,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { at, who, other, what, number } = self;
        write!(f, "{:12.6}  {who} {what} {other} {number}", at.as_secs_f64())
    }
}

/// The last steps.
#[derive(Debug, Default)]
pub struct Trace(VecDeque<Step>);

impl Trace {
    pub fn note(&mut self, step: Step) {
        if self.0.len() == STEPS {
            self.0.pop_front();
        }
        self.0.push_back(step);
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|s| writeln!(f, "{s}"))
    }
}

/// What each peer has of the whole, side by side: it is summed up every 1,000 events, and of 10,000 peers hardly any
/// is in the cache then. Each peer's entry is compared with the peer in its turn.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Requests that are not answered.
    pub open: Vec<u64>,
    /// Bytes that were fetched and are held.
    pub held: Vec<u64>,
}

/// Where every chunk's bytes and every request are, the whole swarm over. What goes out must come
/// in, be lost with a connection, or be on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Bytes of chunks handed to up-links.
    pub sent: u64,
    /// Bytes that wait for an up-link, pass it, or are on their way to the receiver.
    pub under_way: u64,
    /// Bytes that were verified and kept.
    pub kept: u64,
    /// Bytes that came again, or after a cancel.
    pub late: u64,
    /// Bytes with a wrong hash.
    pub bad: u64,
    /// Bytes lost because either end vanished or closed.
    pub lost: u64,
    /// Requests made, and those answered or gone with their connection.
    pub asked: u64,
    pub answered: u64,
}

impl Ledger {
    /// What is out of balance, if anything: `open` requests are unanswered as the peers count them,
    /// `held` bytes are on all disks but were not there at the start.
    pub fn imbalance(&self, open: u64, held: u64) -> Option<String> {
        if self.sent != self.under_way + self.kept + self.late + self.bad + self.lost {
            return Some(format!("bytes are not conserved: {self:?}"));
        }
        if self.asked != self.answered + open {
            return Some(format!("a request was lost: {open} are open, yet {self:?}"));
        }
        if self.kept != held {
            return Some(format!("{held} bytes are held, yet {} were verified", self.kept));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_balance_is_named() {
        let l = Ledger { sent: 10, under_way: 3, kept: 5, late: 1, lost: 1, asked: 4, answered: 3, bad: 0 };
        assert_eq!(l.imbalance(1, 5), None);
        assert!(l.imbalance(0, 5).unwrap().contains("request"));
        assert!(l.imbalance(1, 6).unwrap().contains("held"));
        assert!(Ledger { late: 0, ..l }.imbalance(1, 5).unwrap().contains("bytes"));
    }

    #[test]
    fn a_failure_prints_its_seed_and_a_short_trace() {
        let mut trace = Trace::default();
        for number in 0..1000 {
            trace.note(Step { at: Time(number.into()), who: 1, other: 2, what: "asks", number });
        }
        let what = "why".to_owned();
        let text = SimError::Broken { seed: 42, at: 1.5, what, trace: trace.to_string() }.to_string();
        assert!(text.contains("--seed 42") && text.contains("1 asks 2 999"));
        assert!(text.lines().count() < 50);
    }
}
