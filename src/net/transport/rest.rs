//! How long nobody needs to look for the rest of a record.
//!
//! It is as long as such a rest took lately. Where that was too long nobody can tell when it came, so the next time it
//! is a little less, until somebody has to wait for the last of it and sees.

use std::time::{Duration, Instant};

/// A shorter rest is not worth it, in a longer one the kernel acknowledges what came by itself (after 40 ms).
const LEAST: Duration = Duration::from_millis(2);
const MOST: Duration = Duration::from_millis(30);
/// Seconds that a byte takes: at first, and at the most.
const FIRST: f64 = 0.004 / 16e3;
const SLOWEST: f64 = 0.25 / 16e3;
/// What a rest that was too long is shortened by, and what one that was seen counts.
const LESS: f64 = 0.93;
const SEEN: f64 = 0.25;

/// The record that comes: when its rest was begun to be waited for, and how long that was, in bytes.
#[derive(Clone, Copy, Debug)]
struct Coming {
    since: Instant,
    missing: usize,
}

/// One connection's.
#[derive(Debug)]
pub struct Rest {
    /// Seconds a byte.
    each: f64,
    coming: Option<Coming>,
}

impl Default for Rest {
    fn default() -> Rest {
        Rest { each: FIRST, coming: None }
    }
}

impl Rest {
    /// So many bytes of a record are missing. When to look for them, if not at once.
    pub fn look_at(&mut self, missing: usize, now: Instant) -> Option<Instant> {
        let coming = self.coming.get_or_insert(Coming { since: now, missing });
        let whole = coming.since + Duration::from_secs_f64(self.each * coming.missing as f64);
        let left = whole.saturating_duration_since(now);
        (left >= LEAST).then(|| now + left.min(MOST))
    }

    /// The record is whole. Somebody saw it come, or found it there after a rest.
    pub fn is_whole(&mut self, seen: bool, now: Instant) {
        let Some(coming) = self.coming.take() else { return };
        let took = now.saturating_duration_since(coming.since).as_secs_f64() / coming.missing.max(1) as f64;
        // What was there when it was looked for did not take longer than that.
        let each = if seen { self.each + SEEN * (took - self.each) } else { (self.each * LESS).min(took) };
        self.each = each.clamp(0.0, SLOWEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: usize = 15_000;

    /// Records whose rest takes so long. How often each is looked for, and how late its end is found, in milliseconds.
    fn records(rest: &mut Rest, now: &mut Instant, count: u32, takes: Duration) -> (f64, f64) {
        let (mut looks, mut late) = (0, Duration::ZERO);
        for _ in 0..count {
            let there = *now + takes;
            let missing = |now: Instant| {
                let left = there.saturating_duration_since(now).as_secs_f64() / takes.as_secs_f64();
                (RECORD as f64 * left) as usize
            };
            let mut seen = true;
            while missing(*now) > 0 {
                looks += 1;
                let look = rest.look_at(missing(*now), *now);
                seen = look.is_none();
                // A timer's milliseconds.
                *now = look.map_or(there, |t| t + Duration::from_micros(500));
            }
            late += *now - there;
            rest.is_whole(seen, *now);
            *now += Duration::from_millis(20);
        }
        (f64::from(looks) / f64::from(count), late.as_secs_f64() * 1e3 / f64::from(count))
    }

    #[test]
    fn a_record_is_looked_for_seldom_and_found_at_once() {
        let (mut rest, mut now) = (Rest::default(), Instant::now());
        for (takes, most) in [(8, 2.2), (3, 2.2), (25, 2.2), (60, 4.2), (200, 9.0), (8, 2.2)] {
            let takes = Duration::from_millis(takes);
            records(&mut rest, &mut now, 50, takes);
            let (looks, late) = records(&mut rest, &mut now, 200, takes);
            assert!(looks < most, "{takes:?}: {looks} looks");
            assert!(late < 1.0 + takes.as_secs_f64() * 1e3 / 20.0, "{takes:?}: {late} ms late");
        }
    }

    #[test]
    fn what_comes_at_once_is_not_rested_for() {
        let (mut rest, mut now) = (Rest::default(), Instant::now());
        records(&mut rest, &mut now, 50, Duration::from_micros(300));
        assert_eq!(rest.look_at(RECORD, now), None);
    }

    #[test]
    fn no_rest_is_longer_than_the_kernel_waits_with_what_it_acknowledges() {
        let (mut rest, mut now) = (Rest::default(), Instant::now());
        records(&mut rest, &mut now, 50, Duration::from_secs(3));
        let look = rest.look_at(RECORD, now).unwrap();
        assert_eq!(look - now, MOST);
        assert!(rest.each <= SLOWEST);
    }

    #[test]
    fn a_record_that_nobody_waited_for_says_nothing() {
        let mut rest = Rest::default();
        rest.is_whole(true, Instant::now());
        assert!((rest.each - FIRST).abs() < f64::EPSILON);
    }
}
