//! When what was written is made durable.

use std::time::Duration;

use crate::units::Time;

/// Written bytes after which a checkpoint is due before its time: with it, what a power cut costs at most.
const BYTES: u64 = 1 << 30;
/// A sync beside a fast transfer takes a third of its speed.
const EVERY: Duration = Duration::from_secs(5);
/// A checkpoint takes at most one part in so many of the time, on a disk that is slow to sync.
const SHARE: u32 = 4;

/// What is known of the checkpoints that were made, and of what was written since.
#[derive(Debug)]
pub(super) struct Checkpoints {
    dirty_bytes: u64,
    running: bool,
    began: Time,
    /// How long the last one took: a busy disk is not asked for the next one at once.
    took: Duration,
}

impl Checkpoints {
    pub fn new(now: Time) -> Checkpoints {
        // What an earlier process finished may not be synced yet.
        Checkpoints { dirty_bytes: 1, running: false, began: now, took: Duration::ZERO }
    }

    /// So many bytes were written.
    pub fn wrote(&mut self, bytes: u64) {
        self.dirty_bytes += bytes;
    }

    /// Something beside bytes is to be made durable with the next one.
    pub fn noted(&mut self) {
        self.dirty_bytes = self.dirty_bytes.max(1);
    }

    /// Whether one is to be made now; if so it is under way until it has [`ended`](Self::ended).
    pub fn begin(&mut self, now: Time) -> bool {
        let every = EVERY.max(self.took * SHARE);
        let due = now.since(self.began) >= every || self.dirty_bytes >= BYTES;
        if self.running || self.dirty_bytes == 0 || !due {
            return false;
        }
        (self.dirty_bytes, self.running, self.began) = (0, true, now);
        true
    }

    pub fn ended(&mut self, now: Time) {
        self.running = false;
        self.took = now.since(self.began);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::ZERO;

    fn after(ms: u64) -> Time {
        START + Duration::from_millis(ms)
    }

    /// As after one that began at the start and took so long.
    fn took(ms: u64) -> Checkpoints {
        let mut c = Checkpoints::new(START);
        assert!(!c.begin(after(4_999)), "what an earlier process wrote waits its time");
        c.began = START;
        c.ended(after(ms));
        c.dirty_bytes = 0;
        c
    }

    #[test]
    fn a_checkpoint_waits_five_seconds_or_until_much_was_written() {
        let mut c = took(20);
        assert!(!c.begin(after(10_000)), "nothing was written");
        c.wrote(1);
        assert!(!c.begin(after(4_999)));
        assert!(c.begin(after(5_000)));
        assert!(!c.begin(after(50_000)), "nothing was written since");

        let mut c = took(1);
        c.wrote(BYTES - 1);
        assert!(!c.begin(after(10)));
        c.wrote(1);
        assert!(c.begin(after(10)));

        let mut c = took(20);
        c.noted();
        assert!(c.begin(after(5_000)));
    }

    #[test]
    fn a_slow_disk_is_left_three_quarters_of_the_time() {
        let slow = || {
            let mut c = took(2_000);
            c.wrote(1);
            c
        };
        assert!(!slow().begin(after(7_000)));
        assert!(slow().begin(after(8_000)));
        // What a power cut may cost is bounded all the same.
        let mut much = slow();
        much.wrote(BYTES);
        assert!(much.begin(after(3_000)));
    }

    #[test]
    fn one_checkpoint_is_made_at_a_time() {
        let mut c = took(20);
        c.wrote(BYTES);
        assert!(c.begin(after(5_000)));
        c.wrote(BYTES);
        assert!(!c.begin(after(60_000)), "the first is under way");
        c.ended(after(60_000));
        assert!(c.begin(after(60_000)));
    }
}
