//! What is known of the bytes that were sent on one link: how long they took, and how many had come by when.
//!
//! The peer says how many have come, and when that was by its clock. The clocks need not agree: the least difference
//! between the time that something left and the time that it came is the way without a queue (RFC 6817, 3.4).

use std::collections::VecDeque;

/// Pieces that are under way, and receipts, that are remembered: two seconds of a link at their least distance.
const MOST: usize = 256;

/// One link's. Times are in microseconds, each by the clock of who says it.
#[derive(Debug)]
pub struct Receipts {
    /// Bytes that were sent in all.
    bytes: u64,
    /// Bytes so far, and when the last of them left.
    sent: VecDeque<(u64, i64)>,
    /// Of these bytes it is not known any more when they left.
    forgotten: u64,
    /// When the first bytes left.
    began: Option<i64>,
    /// When by the peer's clock, and bytes so far.
    came: VecDeque<(i64, u64)>,
    /// The least difference of the clocks: lately, and in the time before that.
    least: [i64; 2],
}

impl Default for Receipts {
    fn default() -> Receipts {
        Receipts {
            bytes: 0,
            sent: VecDeque::new(),
            forgotten: 0,
            began: None,
            came: VecDeque::new(),
            least: [i64::MAX; 2],
        }
    }
}

impl Receipts {
    /// So many bytes leave.
    pub fn sent(&mut self, bytes: u64, at: i64) {
        self.bytes += bytes;
        self.began.get_or_insert(at);
        self.sent.push_back((self.bytes, at));
        if self.sent.len() > MOST
            && let Some((upto, _)) = self.sent.pop_front()
        {
            self.forgotten = upto;
        }
    }

    /// So many bytes have come in all. How long the last of them queued, in microseconds, if when it left is still known.
    ///
    /// # Errors
    /// More than were sent, or less than before: the peer's fault.
    pub fn came(&mut self, bytes: u64, at: u64) -> Result<Option<i64>, &'static str> {
        let at = i64::try_from(at).map_err(|_| "a receipt at the end of time")?;
        if bytes > self.bytes {
            return Err("a receipt for what was not sent");
        }
        if self.came.back().is_some_and(|(t, b)| *t > at || *b > bytes) {
            return Err("a receipt for less than before");
        }
        self.came.push_back((at, bytes));
        if self.came.len() > MOST {
            self.came.pop_front();
        }
        while self.sent.front().is_some_and(|(upto, _)| *upto < bytes) {
            self.sent.pop_front();
        }
        let Some(&(_, left)) = self.sent.front().filter(|_| bytes > self.forgotten) else { return Ok(None) };
        let took = at.saturating_sub(left);
        self.least[0] = self.least[0].min(took);
        Ok(Some(took.saturating_sub(self.way())))
    }

    /// The least difference that is remembered.
    fn way(&self) -> i64 {
        self.least[0].min(self.least[1])
    }

    /// Routes and clocks change: what was the least for long is forgotten the next time that this is called.
    pub fn grow_older(&mut self) {
        self.least = [i64::MAX, self.least[0]];
    }

    /// Bytes that had come by a time of ours, the way without a queue left out.
    pub fn by(&self, time: i64) -> u64 {
        let there = time.saturating_add(self.way());
        let after = self.came.partition_point(|(at, _)| *at <= there);
        let start = self.began.map_or(i64::MAX, |t| t.saturating_add(self.way()));
        let (from, least) = after.checked_sub(1).map_or((start, 0), |i| self.came[i]);
        // After the last nothing is known, and before the start there was nothing.
        let Some(&(to, most)) = self.came.get(after).filter(|_| there > from) else { return least };
        let part = (there - from) as f64 / (to - from).max(1) as f64;
        least + ((most - least) as f64 * part) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peer's clock shows so much more than ours.
    const AHEAD: i64 = 1_000_000_000;

    #[test]
    fn the_queue_is_what_took_longer_than_the_quickest_whatever_the_clocks_show() {
        for ahead in [AHEAD, 0] {
            let mut r = Receipts::default();
            let told = |r: &mut Receipts, left: i64, took: i64, bytes: u64| {
                r.sent(1_000, left);
                r.came(bytes, (left + took + ahead) as u64).unwrap().unwrap()
            };
            assert_eq!(told(&mut r, 0, 30_000, 1_000), 0);
            assert_eq!(told(&mut r, 50_000, 70_000, 2_000), 40_000);
            assert_eq!(told(&mut r, 200_000, 20_000, 3_000), 0, "a new least");
            assert_eq!(told(&mut r, 300_000, 30_000, 4_000), 10_000);
            r.grow_older();
            assert_eq!(told(&mut r, 400_000, 50_000, 5_000), 30_000, "remembered once more");
            r.grow_older();
            assert_eq!(told(&mut r, 500_000, 50_000, 6_000), 0, "and not for ever");
        }
    }

    #[test]
    fn what_came_by_a_time_lies_on_the_line_between_two_receipts() {
        let mut r = Receipts::default();
        assert_eq!(r.by(0), 0);
        for i in 0..4 {
            r.sent(1_000, i * 100_000);
            r.came((i as u64 + 1) * 1_000, (AHEAD + 5_000 + i * 100_000) as u64).unwrap();
        }
        assert_eq!(
            [-9, 0, 50_000, 250_000, 300_000, 900_000].map(|t| r.by(t)),
            [0, 1_000, 1_500, 3_500, 4_000, 4_000]
        );
    }

    #[test]
    fn receipts_that_cannot_be_are_faults() {
        let mut r = Receipts::default();
        assert!(r.came(1, 0).is_err(), "nothing was sent");
        r.sent(1_000, 0);
        assert!(r.came(1_001, 5).is_err());
        assert!(r.came(500, u64::MAX).is_err());
        assert!(r.came(500, 5).is_ok());
        assert!(r.came(499, 6).is_err());
        assert!(r.came(501, 4).is_err());
        assert!(r.came(500, 5).is_ok(), "the same again is none");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_forgotten_says_nothing() {
        let mut r = Receipts::default();
        for i in 0..10_000 {
            r.sent(1_000, i);
        }
        assert_eq!(r.sent.len(), MOST);
        for bytes in (0..9_000_000).step_by(10_000) {
            assert_eq!(r.came(bytes, 20_000 + bytes).unwrap(), None);
        }
        assert_eq!(r.came.len(), MOST);
        assert!(r.came(9_900_000, 9_900_000).unwrap().is_some());
    }
}
