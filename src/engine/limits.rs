//! Token buckets: bytes a second, for everything, a content or a peer, changed while running.
//!
//! A bucket may be overdrawn by one chunk, and what was overdrawn is waited for; so whole chunks pass
//! and the rate still holds.

use std::time::Duration;

use crate::units::Time;

/// How much may be saved up while nothing is sent.
const BURST: Duration = Duration::from_millis(100);

/// One limit. Without a rate it lets everything pass.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    rate: Option<u64>,
    /// Bytes that may be sent; negative after a chunk that was bigger than what was saved.
    level: i64,
    /// Up to when `level` is counted.
    at: Time,
}

impl Bucket {
    pub fn new(rate: Option<u64>) -> Bucket {
        Bucket { rate, ..Bucket::default() }
    }

    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Changes the rate (bytes a second; 0 stops everything); debts are kept, and paid at the new rate.
    pub fn set_rate(&mut self, now: Time, rate: Option<u64>) {
        self.fill(now);
        if self.rate.is_none() {
            (self.level, self.at) = (0, now);
        }
        self.rate = rate;
    }

    /// `None` if something may pass now, else when it may.
    pub fn wait(&mut self, now: Time) -> Option<Time> {
        let rate = self.rate?;
        self.fill(now);
        if self.level > 0 {
            return None;
        }
        if rate == 0 {
            return Some(Time::MAX);
        }
        let missing = (1 - self.level) as u128;
        let ns = (missing * 1_000_000_000).div_ceil(u128::from(rate));
        Some(Time(self.at.0.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX))).max(now))
    }

    pub fn take(&mut self, bytes: u64) {
        if self.rate.is_some() {
            self.level = self.level.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// What was taken and then not used.
    pub fn give_back(&mut self, bytes: u64) {
        if let Some(rate) = self.rate {
            let level = self.level.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
            self.level = level.min(cap(rate));
        }
    }

    fn fill(&mut self, now: Time) {
        let Some(rate) = self.rate.filter(|r| *r > 0) else {
            self.at = now;
            return;
        };
        let dt = u128::from(now.0.saturating_sub(self.at.0));
        let bytes = u128::from(rate) * dt / 1_000_000_000;
        // Only the time that made whole bytes is used up, so frequent calls lose nothing.
        let used = (bytes * 1_000_000_000).div_ceil(u128::from(rate));
        self.at =
            Time(self.at.0.saturating_add(u64::try_from(used).unwrap_or(u64::MAX)).min(now.0.max(self.at.0)));
        let level = i128::from(self.level) + i128::try_from(bytes).unwrap_or(i128::MAX / 2);
        self.level = level.min(i128::from(cap(rate))) as i64;
    }
}

/// The most that is saved up, at least one byte, so that slow limits still pass.
fn cap(rate: u64) -> i64 {
    let bytes = u128::from(rate) * BURST.as_nanos() / 1_000_000_000;
    i64::try_from(bytes).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `chunk` bytes whenever that is allowed, for `secs`; says how many bytes passed.
    fn run(b: &mut Bucket, from: Time, secs: u64, chunk: u64) -> u64 {
        let (mut now, end, mut sent) = (from, from + Duration::from_secs(secs), 0);
        while now < end {
            match b.wait(now) {
                None => {
                    b.take(chunk);
                    sent += chunk;
                }
                Some(t) => now = t,
            }
        }
        sent
    }

    #[test]
    fn a_limit_holds_within_five_percent_from_slow_to_fast() {
        for rate in [20_000u64, 1_000_000, 1_000_000_000] {
            let secs = if rate < 100_000 { 300 } else { 10 };
            let sent = run(&mut Bucket::new(Some(rate)), Time(5), secs, 262_144) as f64;
            let want = (rate * secs) as f64;
            assert!((sent / want - 1.0).abs() < 0.05, "{rate}: {sent} of {want}");
        }
    }

    #[test]
    fn a_changed_limit_holds_from_then_on() {
        let mut b = Bucket::new(None);
        assert_eq!(b.wait(Time(9)), None);
        b.take(1 << 40);
        let t = Time::from_secs_f64(1.0);
        b.set_rate(t, Some(4_000_000));
        let sent = run(&mut b, t, 10, 262_144) as f64;
        assert!((sent / 40e6 - 1.0).abs() < 0.05, "{sent}");
        b.set_rate(t + Duration::from_secs(10), Some(0));
        b.take(1 << 20);
        assert_eq!(b.wait(Time::from_secs_f64(1e6)), Some(Time::MAX));
    }

    #[test]
    fn polling_all_the_time_does_not_starve_a_slow_limit() {
        let mut b = Bucket::new(Some(1_000));
        b.take(101);
        let mut t = Time::ZERO;
        while b.wait(t).is_some() {
            t = t + Duration::from_micros(10);
        }
        let s = t.as_secs_f64();
        assert!((0.05..0.11).contains(&s), "{s}");
    }
}
