//! How long the queue before the way out is, by the delays that peers tell.
//!
//! The least of what several peers tell counts, so that no slow receiver, and no liar, makes it longer than it is. Nor
//! did everything that is late stand in our queue: a radio link, or a machine that is short of processors, delays for a
//! moment whatever comes. That looks like a queue which grows faster than anything we send could make it, so it is told
//! apart; the longer such moments are, the longer is the queue that is aimed at, since whoever is late lets a shorter
//! one run dry. Yet where packets are lost a queue is full, however fast it grew: connections that waited for something
//! lost send all at once what they hold.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The queue that is aimed at where nothing is late, in seconds: what a scheduler may be late by is less, what a router holds more.
const TARGET: f64 = 0.020;
/// What is less than this is none.
const LEAST: f64 = 0.003;
/// A delay counts for so long: less than the pace takes to change the queue (220 ms, `uplink.rs`), or what a queue
/// that grows is answered by comes too late, and it swings.
const FRESH: Duration = Duration::from_millis(150);
const DELAYS: usize = 64;
/// What a queue may grow by in a second, in seconds, beside a lump of so many bytes: no link's turn is less. How much more it
/// seems to grow in an epoch, on average over so many seconds, is how late things are.
const GROWS: f64 = 0.05;
const LUMP: f64 = 16e3;
const LATELY: f64 = 2.0;
/// One epoch counts as so late at the most, in seconds.
const LATEST: f64 = 0.1;
/// So long after something was lost all that is told of is taken for a queue.
const OVERFLOWS: Duration = Duration::from_secs(3);

/// Lengths are in seconds: what stands there leaves in that time.
#[derive(Debug, Default)]
pub struct Queue {
    /// When a queue was told of, and how long it was.
    delays: VecDeque<(Instant, f64)>,
    /// What was told of last, what was believed of it, and how late things are.
    told: f64,
    believed: f64,
    late: f64,
    /// Packets that were lost in all, and when that was seen last.
    lost: u64,
    lost_at: Option<Instant>,
}

impl Queue {
    /// A peer tells how long something queued.
    pub fn tell(&mut self, now: Instant, queue: f64) {
        self.delays.push_back((now, queue));
        if self.delays.len() > DELAYS {
            self.delays.pop_front();
        }
    }

    /// So many packets were lost in all.
    pub fn lose(&mut self, now: Instant, lost: u64) {
        if std::mem::replace(&mut self.lost, lost) != lost {
            self.lost_at = Some(now);
        }
    }

    /// The least that was told of late.
    pub fn least(&mut self, now: Instant) -> Option<f64> {
        while self.delays.front().is_some_and(|(t, _)| now.saturating_duration_since(*t) > FRESH) {
            self.delays.pop_front();
        }
        self.delays.iter().map(|d| d.1).min_by(f64::total_cmp)
    }

    /// Nothing can be known of how fast the queue grows: what is told of is taken for one.
    pub fn trust(&mut self, told: f64) -> f64 {
        (self.told, self.believed, self.late) = (told, told, 0.0);
        told
    }

    /// How much of the queue that is told of can be one, `took` after it was asked last: while the pace is steady it grows
    /// by what is sent beyond what the way out carries (`capacity`, bytes a second), and no faster. What grows faster is
    /// lateness, and is learned.
    pub fn believe(&mut self, now: Instant, told: f64, took: Duration, capacity: f64) -> f64 {
        let before = std::mem::replace(&mut self.told, told);
        let overflows = self.lost_at.is_some_and(|t| now.saturating_duration_since(t) < OVERFLOWS);
        let (took, lump) = (took.as_secs_f64(), LUMP / capacity);
        let most = GROWS * took;
        let more = if overflows { 0.0 } else { (told - before - most - 2.0 * lump).clamp(0.0, LATEST) };
        self.late += (more - self.late) * (took / LATELY).min(1.0);
        if overflows {
            self.believed = told;
            return told;
        }
        // Where nobody is late a lump more is one.
        let lumps = if self.late < lump / 2.0 { lump } else { 0.0 };
        self.believed = told.min(self.believed + most + lumps);
        self.believed
    }

    /// The queue that is aimed at.
    pub fn target(&self) -> f64 {
        TARGET + self.late
    }

    /// A queue that is shorter than this is none.
    pub fn none_below(&self) -> f64 {
        LEAST + self.late / 4.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Duration = Duration::from_millis(100);
    const CAPACITY: f64 = 2e6;

    #[test]
    fn the_least_that_was_told_of_late_counts() {
        let (start, mut queue) = (Instant::now(), Queue::default());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(queue.least(start), None);
        for (millis, told) in [(0, 0.010), (50, 0.050), (100, 0.030)] {
            queue.tell(at(millis), told);
        }
        assert_eq!(
            [100, 160, 240, 260].map(|t| queue.least(at(t))),
            [Some(0.010), Some(0.030), Some(0.030), None]
        );
        (0..10_000).for_each(|_| queue.tell(start, 0.1));
        assert_eq!(queue.delays.len(), DELAYS);
    }

    /// What is believed when every other epoch tells of a queue of 100 ms, as if it came and went.
    fn jumps(queue: &mut Queue, start: Instant) -> f64 {
        queue.trust(0.0);
        (1..=40u32)
            .map(|i| queue.believe(start + EPOCH * i, f64::from(i % 2) / 10.0, EPOCH, CAPACITY))
            .fold(0.0, f64::max)
    }

    #[test]
    fn what_grows_faster_than_anything_sent_could_make_it_is_lateness_and_is_aimed_beyond() {
        let mut queue = Queue::default();
        let before = (queue.target(), queue.none_below());
        let believed = jumps(&mut queue, Instant::now());
        assert!(believed < 0.02, "{believed}");
        assert!(queue.target() > before.0 + 0.02 && queue.none_below() > before.1 + 0.005);
        queue.trust(0.1);
        assert_eq!((queue.target(), queue.none_below()), before, "it is learned anew");
    }

    #[test]
    fn a_queue_that_grows_slowly_is_believed() {
        let (start, mut queue) = (Instant::now(), Queue::default());
        for i in 1..=20u32 {
            let told = 0.004 * f64::from(i);
            assert_eq!(queue.believe(start + EPOCH * i, told, EPOCH, CAPACITY), told);
        }
        assert!((queue.target() - TARGET).abs() < 1e-9);
    }

    #[test]
    fn for_a_while_after_a_loss_all_that_is_told_is_believed() {
        let (start, mut queue) = (Instant::now(), Queue::default());
        queue.lose(start, 3);
        for (millis, is) in [(100, true), (2_900, true), (3_100, false)] {
            queue.believe(start, 0.0, EPOCH, CAPACITY);
            let now = start + Duration::from_millis(millis);
            queue.lose(now, 3);
            assert_eq!(queue.believe(now, 0.1, EPOCH, CAPACITY) >= 0.1, is, "{millis}");
        }
    }
}
