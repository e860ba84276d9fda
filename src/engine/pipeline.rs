//! The requests that one peer has from us: how many may be out, how long an answer may take.
//!
//! Depth is rate x (smallest recent round trip + 200 ms, or + five round trips if that is more), two chunks at least; it grows by a chunk for
//! every chunk that comes until that is reached. A peer that has not yet delivered is asked for one, beside the one
//! that it chose itself (`first.rs`).

use std::time::Duration;

use super::config::Config;
use super::state::Peer;
use crate::units::{ContentKey, Time};

/// What depth allows for beyond the round trip: reading, queueing, scheduling, and that a request is made only when
/// a whole chunk has come. With half of it a link of 100 Mbit/s and 60 ms idled for a twelfth of the time.
const SLACK: Duration = Duration::from_millis(200);
/// Or so many round trips: a lost packet is there again after two, each as long as BBR's full queue makes it, and
/// until then nothing can be read and nothing more is asked for.
const LOSS: u32 = 5;
/// Silence that is tolerated: at least, at most, and before anything was measured.
const PATIENCE: (Duration, Duration, Duration) =
    (Duration::from_secs(2), Duration::from_secs(60), Duration::from_secs(10));
/// Bytes a second of an unfinished chunk above which a peer is slow, and not one that only pretends to send.
const SLOW: u64 = 1_000;
/// A peer that timed out is asked again after this long at the latest.
const SULK: Duration = Duration::from_secs(30);
/// Requests that were cancelled, or overtaken by later ones, and are not answered: more of them and the
/// peer is asked for nothing new.
const MAX_DEAD: usize = 64;

/// A request of ours that is not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub content: ContentKey,
    pub chunk: u32,
    pub bytes: u32,
    pub at: Time,
    /// We do not need it any more; it must still be answered.
    pub cancelled: bool,
    /// A later request was answered first: the peer puts this one off (it seeds, and sends first what
    /// it has sent least).
    pub overtaken: bool,
    /// It was not asked for by its number: the peer chose it (`first.rs`).
    pub chosen: bool,
}

impl Ask {
    pub fn new(content: ContentKey, chunk: u32, bytes: u32, at: Time) -> Ask {
        Ask { content, chunk, bytes, at, cancelled: false, overtaken: false, chosen: false }
    }

    pub fn counts(&self) -> bool {
        !self.cancelled && !self.overtaken
    }
}

/// The requests that one peer has from us, in their order.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub asks: Vec<Ask>,
    /// Requests that are neither cancelled nor overtaken, and their bytes.
    live: usize,
    live_bytes: u64,
    /// Chunks that may be out while depth is still being found.
    ramp: Option<u32>,
    /// Chunks that it delivered since it was connected or last silent.
    delivered: u32,
    /// A chunk of its was found right. Until then it is asked for one at a time.
    proven: bool,
    /// Its first chunk is being verified.
    on_trial: bool,
    /// From request to arrival, and how that varies, in nanoseconds.
    service: Option<(u64, u64)>,
    backoff: u32,
    /// It was told that any chunk of this content will do, and has not said which one comes.
    pub any: Option<ContentKey>,
    /// Any byte from it.
    pub life: Time,
    /// The last chunk from it, or when it last unchoked us.
    pub chunk_at: Time,
    /// When it missed a time-out; it is asked for nothing until it shows life.
    silent_since: Option<Time>,
    pub snubbed: bool,
    /// Bytes announced by `Receiving` of chunks that have not arrived in whole.
    early: u64,
    max: usize,
    base_bytes: u64,
}

impl Pipeline {
    pub fn new(now: Time, cfg: &Config) -> Pipeline {
        Pipeline {
            asks: Vec::new(),
            live: 0,
            live_bytes: 0,
            ramp: Some(1),
            delivered: 0,
            proven: false,
            on_trial: false,
            service: None,
            backoff: 0,
            any: None,
            life: now,
            chunk_at: now,
            silent_since: None,
            snubbed: false,
            early: 0,
            max: cfg.pipeline_max.max(2),
            base_bytes: cfg.pipeline_bytes,
        }
    }

    /// Requests that count against the depth.
    pub fn live(&self) -> usize {
        self.live
    }

    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of a chunk have come that is not whole yet.
    pub fn begun(&self) -> bool {
        self.early > 0
    }

    pub fn silent(&self) -> bool {
        self.silent_since.is_some()
    }

    /// Bytes that may be out at this rate and round trip.
    fn depth(&self, rate: u64, rtt: Duration) -> u64 {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let bytes = |d: Duration| rate.saturating_mul(micros(d)) / 1_000_000;
        let span = rtt.saturating_add(SLACK.max(rtt.saturating_mul(LOSS)));
        bytes(span).min(self.base_bytes.saturating_add(bytes(rtt.saturating_mul(2))))
    }

    /// Whether another request may go out; `least` chunks may be out however slow the peer is.
    fn room(&self, rate: u64, rtt: Duration, least: usize) -> bool {
        // Whatever is not answered yet stands in the peer's queue, which is as long as `max` and no longer.
        if self.silent() || self.asks.len() >= self.max || self.asks.len() - self.live > MAX_DEAD {
            return false;
        }
        if self.delivered == 0 || !self.proven {
            let chosen = self.asks.iter().filter(|a| a.chosen && a.counts()).count();
            return self.live == chosen && !self.on_trial;
        }
        let depth = self.depth(rate, rtt);
        self.live < least
            || self.live_bytes < depth
            || self
                .ramp
                .is_some_and(|r| self.live < r as usize && self.live_bytes < self.base_bytes.max(depth))
    }

    pub fn push(&mut self, ask: Ask) {
        self.live += 1;
        self.live_bytes += u64::from(ask.bytes);
        self.asks.push(ask);
    }

    pub fn uncount(&mut self, i: usize) {
        let a = self.asks[i];
        if a.counts() {
            self.live -= 1;
            self.live_bytes -= u64::from(a.bytes);
        }
    }

    pub fn cancel(&mut self, i: usize) {
        self.uncount(i);
        self.asks[i].cancelled = true;
    }

    pub fn overtake(&mut self, i: usize) {
        self.uncount(i);
        self.asks[i].overtaken = true;
    }

    pub fn remove(&mut self, i: usize) -> Ask {
        self.uncount(i);
        self.asks.remove(i)
    }

    pub fn position(&self, content: ContentKey, chunk: u32) -> Option<usize> {
        self.asks.iter().position(|a| a.chunk == chunk && a.content == content)
    }

    /// How long a silence is tolerated.
    fn patience(&self) -> Duration {
        let (least, most, unknown) = PATIENCE;
        let measured =
            |(mean, var): (u64, u64)| Duration::from_nanos(mean.saturating_add(var.saturating_mul(4)));
        let base = self.service.map_or(unknown, |s| measured(s).clamp(least, most));
        base.saturating_mul(1 << self.backoff.min(5)).min(most)
    }

    pub fn measure(&mut self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.service = Some(match self.service {
            None => (took, took / 2),
            Some((mean, var)) => (mean - mean / 8 + took / 8, var - var / 4 + mean.abs_diff(took) / 4),
        });
    }

    /// Bytes of a chunk came in.
    pub fn receiving(&mut self, now: Time, bytes: u64) {
        self.show_life(now);
        self.early = self.early.saturating_add(bytes);
    }

    /// A whole chunk came in; says how many of its bytes were not announced before.
    pub fn received(&mut self, now: Time, bytes: u64) -> u64 {
        self.show_life(now);
        let fresh = bytes.saturating_sub(self.early);
        self.early = self.early.saturating_sub(bytes);
        fresh
    }

    /// A chunk of its is about to be verified, perhaps the first.
    pub fn try_first(&mut self) {
        self.on_trial = !self.proven;
    }

    /// A chunk of its was looked at; says whether it may be asked for more by that.
    pub fn tried(&mut self, right: bool) -> bool {
        let more = std::mem::take(&mut self.on_trial) || right && !self.proven;
        self.proven |= right;
        more
    }

    /// It was silent and has been left alone for long enough to be asked again.
    pub fn sulked(&mut self, now: Time) -> bool {
        let over = self.silent_since.is_some_and(|t| now.since(t) > SULK);
        if over {
            self.show_life(now);
        }
        over
    }

    /// It has been silent for longer than its measured rate explains, or has snubbed us. Then it counts as silent.
    pub fn is_late(&mut self, now: Time, snub_after: Duration) -> bool {
        let Some(oldest) = self.asks.iter().find(|a| !a.cancelled).map(|a| a.at) else { return false };
        let without = now.since(self.chunk_at.max(oldest));
        let snubbed = without > snub_after && self.early < SLOW * without.as_secs();
        let late = snubbed || now.since(self.life.max(oldest)) > self.patience();
        if late {
            self.snubbed |= snubbed;
            self.backoff += 1;
            self.silent_since = Some(now);
        }
        late
    }

    pub fn show_life(&mut self, now: Time) {
        self.life = now;
        if self.silent_since.take().is_some() {
            self.delivered = 0;
        }
    }

    pub fn deliver(&mut self, now: Time, bytes: u64, rate: u64, rtt: Duration) {
        (self.chunk_at, self.snubbed, self.backoff) = (now, false, 0);
        self.delivered = self.delivered.saturating_add(1);
        if let Some(r) = self.ramp {
            let enough = self.depth(rate, rtt).saturating_mul(2) + 2 * bytes;
            let r = r + 1;
            self.ramp =
                (u64::from(r).saturating_mul(bytes) <= enough && (r as usize) < self.max).then_some(r);
        }
    }

    /// What is counted incrementally is what counting afresh gives.
    pub fn check(&self) -> bool {
        let live = || self.asks.iter().filter(|a| a.counts());
        self.live == live().count() && self.live_bytes == live().map(|a| u64::from(a.bytes)).sum::<u64>()
    }
}

impl Peer {
    /// Whether another request may go to it.
    pub(super) fn has_room(&self, now: Time, least: usize) -> bool {
        !self.choking_us && self.pipeline.room(self.down_rate.per_second(now), self.rtt_or_zero(), least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(n: u32) -> Ask {
        let content = ContentKey(0);
        Ask::new(content, n, 262_144, Time::ZERO)
    }

    fn filled(p: &mut Pipeline, rate: u64, rtt: Duration) -> usize {
        while p.room(rate, rtt, 2) {
            p.push(ask(p.asks.len() as u32));
        }
        p.live()
    }

    #[test]
    fn a_peer_that_has_not_delivered_is_asked_for_one_chunk() {
        let mut p = Pipeline::new(Time::ZERO, &Config::default());
        assert_eq!(filled(&mut p, 0, Duration::ZERO), 1);
    }

    #[test]
    fn depth_is_two_chunks_when_slow_and_sixteen_on_loopback_and_the_delay_product_far_away() {
        let ms = Duration::from_millis;
        for (rate, rtt, least, most) in [
            (10_000, ms(20), 2, 2),
            (600_000_000, ms(0), 16, 16),
            (12_500_000, ms(40), 10, 12),
            (12_500_000, ms(60), 17, 18),
            (125_000_000, ms(60), 60, 90),
        ] {
            let mut p = Pipeline::new(Time::ZERO, &Config::default());
            (p.delivered, p.proven) = (1, true);
            p.ramp = None;
            let n = filled(&mut p, rate, rtt);
            assert!((least..=most).contains(&n), "{rate} {rtt:?}: {n}");
            assert!(p.check());
        }
    }

    #[test]
    fn depth_settles_after_the_first_chunks() {
        for (rtt, most) in [(40, 13), (60, 18)] {
            let mut p = Pipeline::new(Time::ZERO, &Config::default());
            let (rate, rtt, mut sizes) = (12_500_000, Duration::from_millis(rtt), Vec::new());
            for _ in 0..6 {
                let n = filled(&mut p, rate, rtt);
                sizes.push(n);
                for _ in 0..n {
                    p.remove(0);
                    p.deliver(Time::ZERO, 262_144, rate, rtt);
                    p.proven = true;
                }
            }
            assert_eq!(sizes[0], 1);
            assert!(sizes[1..].iter().all(|n| (7..=2 * most).contains(n)), "{sizes:?}");
            assert!(sizes[5] <= most, "{sizes:?}");
        }
    }
}
