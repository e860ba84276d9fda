//! How fast all links together may send: as fast as what leaves this machine, and no faster.
//!
//! Each connection finds its own rate, and several that share one way out find more than there is: its queue stays
//! full, a tenth of what they send is dropped there, and each request and acknowledgement waits as long as each chunk
//! does. BitTorrent's answer is LEDBAT (RFC 6817): watch how long what is sent is under way, and send so much that
//! the queue stays short. Here the rate is the node's and not a connection's, and the delay is the least of what
//! several peers tell (`queue.rs`), so that no slow receiver, and no liar, holds anybody else up.
//!
//! What the way out carries is first measured, by what peers say that has come while a queue stood. Then what stands
//! in queues is let out, the rate grows until a queue stands again, and from there on it follows the queue: at once by
//! a part, and lastingly by the least queue of the last second (CoDel's measure, RFC 8289): a connection that is slow
//! for a moment looks like a queue, yet where the rate is too low there is none again and again.
//!
//! Nobody waits until several links have been busy for a while, or where the way out is so fast that a timer is too coarse.
//!
//! While one link alone sends its connection knows best, until it searches: BBR sends next to nothing for 200 ms whenever it has
//! met no smaller round trip for ten seconds (`congestion.rs`). So who sends alone for almost as long has a pace too, if the
//! kernel can be asked not to search, and until something else is sent or comes: what one receiver takes says nothing of what others
//! do, and two that send each other chunks took 2 % longer with it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::queue::Queue;
use super::receipts::Receipts;
use crate::net::transport::Paced;

/// A queue of this stands, and is no chance.
const STANDS: f64 = 0.010;
/// How often the rate is thought over.
const EPOCH: Duration = Duration::from_millis(100);
/// So many epochs, in most of which a queue stood, go before the way out is measured; and the least that came in one of
/// them is no less than this of the most: it was busy, and all the time.
const BUSY: (usize, f64) = (10, 0.5);
/// Where turns are so far apart, and nobody was held up by a connection, there was nothing to send in between: what comes then
/// is what was asked for, and not what the way out carries.
const PAUSED: Duration = Duration::from_millis(300);
/// How long until what was sent is known to have come.
const BACK: Duration = Duration::from_millis(600);
const SECOND: Duration = Duration::from_secs(1);
/// What is sent while queues are let out, of what was measured, and for how long at the most.
const DRAIN: (f64, Duration) = (0.5, Duration::from_millis(1_500));
/// How much the rate grows in a second until a queue stands for two epochs, and how much of that is taken back then.
const CLIMB: (f64, f64) = (0.2, 0.06);
/// What a queue longer or shorter by the one that is aimed at changes at once, and how many of these count at the most.
const AT_ONCE: f64 = 0.09;
const MOST_OFF: f64 = 3.0;
/// If of the queues that were told in so many epochs one is none, and most are less than the one that is aimed at, the rate
/// is lastingly too low.
const LEAST_OF: usize = 10;
/// How much it grows in a second then: that doubles each second, up to the second number. And how much less it is after
/// a second with a queue twice as long as is aimed at.
const LASTING: (f64, f64, f64) = (0.025, 0.8, 0.01);
/// The rate is never more than so much of the most that came in one second of the last two, or so much while it grows to find a queue.
const ABOVE: (f64, usize) = (1.12, 20);
const ABOVE_CLIMBING: f64 = 1.25;
/// Without a queue for the first while somebody waited, that holds no more; for the second, the way out is another one,
/// or somebody has come who is nearer: nobody waits until it is found anew.
const SHY: Duration = Duration::from_millis(1_500);
const GONE: Duration = Duration::from_secs(3);
/// Who has sent alone for so long, and taken nothing, and then for as long as is measured, has a pace before its connection searches.
const ALONE: Duration = Duration::from_secs(7);
/// A link sends if it did within this.
const ACTIVE: Duration = Duration::from_millis(500);
/// How long the least delay is remembered, half of it.
const MEMORY: Duration = Duration::from_secs(60);
/// How far sending may lag behind its rate and catch up.
const BURST: Duration = Duration::from_millis(5);
/// No turn is given longer ahead: what is measured meanwhile would come too late. Who waits for one asks again after
/// this at the least.
const AHEAD: Duration = Duration::from_millis(20);
const LEAST_WAIT: Duration = Duration::from_millis(1);
/// Bytes a second beyond which nobody waits, and that everybody may have together at the least.
const FAST: f64 = 32e6;
const SLOW: f64 = 16e3;
/// After so long without a second link everything is measured anew.
const FORGET: Duration = Duration::from_secs(10);

/// The way to one peer.
#[derive(Debug, Default)]
struct Path {
    sent_at: Option<Instant>,
    /// What it had a turn for is not all written yet.
    writes: bool,
    /// It says what has come.
    answers: bool,
    /// Alone it has no pace any more: its connection finds more, or searches all the same.
    own: bool,
    receipts: Receipts,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Nobody waits.
    Free,
    /// What stands in queues is let out, since then.
    Drain(Instant),
    /// Faster until a queue stands; whether one stood when that was looked at last.
    Climb(bool),
    Steady,
}

/// An epoch in which there was enough to send.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    /// Bytes a second that came in the second before it.
    came: f64,
    /// Seconds, if it was told.
    queue: Option<f64>,
}

/// When a piece may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Now,
    At(Instant),
    /// That is not decided yet; to be asked again then.
    Again(Instant),
}

/// The pace of everything that is sent on links whose peers say what comes.
#[derive(Debug)]
pub struct Uplink {
    start: Instant,
    /// Whether the pace is found, for the connections.
    paced: Paced,
    paths: BTreeMap<u64, Path>,
    phase: Phase,
    /// The pace is that of one link which sends alone.
    alone: bool,
    /// Bytes a second that the way out carries, and that may be sent now.
    capacity: f64,
    rate: f64,
    /// When the next piece is due, and whose turn it is then.
    next: Instant,
    waiting: VecDeque<u64>,
    epoch_at: Instant,
    /// Somebody waited for the rate: in this epoch, and in the one before.
    held: [bool; 2],
    /// Whether the rate is lastingly too low (1) or too high (-1), and since when.
    side: (i8, Instant),
    epochs: VecDeque<Epoch>,
    queue: Queue,
    /// How often a connection said that it searches all the same.
    searching: u64,
    aged_at: Instant,
    /// When those that share the pace sent last, and since when no more than one link sends, all the time.
    shared_at: Instant,
    alone_since: Instant,
}

impl Uplink {
    pub fn new(now: Instant, paced: Paced) -> Uplink {
        Uplink {
            start: now,
            paced,
            paths: BTreeMap::new(),
            phase: Phase::Free,
            alone: false,
            capacity: f64::MAX,
            rate: f64::MAX,
            next: now,
            waiting: VecDeque::new(),
            epoch_at: now,
            held: [false; 2],
            side: (0, now),
            epochs: VecDeque::new(),
            queue: Queue::default(),
            searching: 0,
            aged_at: now,
            shared_at: now,
            alone_since: now,
        }
    }

    /// Microseconds by our clock.
    pub fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    fn micros(&self, now: Instant) -> i64 {
        i64::try_from(self.clock(now)).unwrap_or(i64::MAX)
    }

    /// Something comes at the same time: who gives and takes is not alone with its receiver.
    pub fn takes(&mut self, now: Instant) {
        self.alone_since = now;
        if self.alone {
            self.free();
        }
    }

    /// This link's peer says what comes.
    pub fn answers(&mut self, link: u64) {
        self.paths.entry(link).or_default().answers = true;
    }

    pub fn remove(&mut self, link: u64) {
        self.paths.remove(&link);
        self.leave_line(link);
    }

    /// This link will not ask again for the turn that it waits for.
    pub fn leave_line(&mut self, link: u64) {
        self.waiting.retain(|l| *l != link);
    }

    /// This link has written what it had a turn for, and nothing else waits to be sent on it.
    pub fn rests(&mut self, link: u64) {
        if let Some(path) = self.paths.get_mut(&link) {
            path.writes = false;
        }
    }

    #[cfg(test)]
    pub fn is_alone_since(&self) -> Instant {
        self.alone_since
    }

    #[cfg(test)]
    pub fn writes(&self, link: u64) -> bool {
        self.paths.get(&link).is_some_and(|p| p.writes)
    }

    /// So many bytes of this link want to go.
    pub fn turn(&mut self, link: u64, bytes: usize, now: Instant) -> Turn {
        self.think(now);
        let path = self.paths.entry(link).or_default();
        path.sent_at = Some(now);
        path.writes = true;
        let answers = path.answers;
        let mut at = now;
        if answers && self.phase != Phase::Free && self.shares(now) {
            if !self.waiting.contains(&link) {
                self.waiting.push_back(link);
            }
            let due = self.next.max(now.checked_sub(BURST).unwrap_or(now));
            self.held[0] |= due > now;
            let before = self.waiting.iter().take_while(|l| **l != link).count();
            if due > now + AHEAD || before > 0 {
                // Those before it go first. Should they leave the line instead, it asks no more than an epoch late.
                let theirs = (before * bytes) as f64 / self.rate;
                let mine = due + Duration::from_secs_f64(theirs).min(EPOCH);
                return Turn::Again((mine.checked_sub(AHEAD / 2).unwrap_or(now)).max(now + LEAST_WAIT));
            }
            self.waiting.pop_front();
            self.next = due + Duration::from_secs_f64(bytes as f64 / self.rate);
            at = due.max(now);
        } else {
            self.leave_line(link);
            self.next = now;
        }
        let micros = self.micros(at);
        self.paths.entry(link).or_default().receipts.sent(bytes as u64, micros);
        if at > now { Turn::At(at) } else { Turn::Now }
    }

    /// So many bytes of this link had come when it was so late there.
    ///
    /// # Errors
    /// That cannot be: the peer's fault.
    pub fn came(&mut self, link: u64, bytes: u64, at: u64, now: Instant) -> Result<(), &'static str> {
        let told = self.paths.entry(link).or_default().receipts.came(bytes, at)?;
        if let Some(queue) = told {
            self.queue.tell(now, queue as f64 / 1e6);
        }
        Ok(())
    }

    /// The links that send.
    fn sending(&self, now: Instant) -> impl Iterator<Item = &Path> {
        let active = move |p: &&Path| {
            p.answers && p.sent_at.is_some_and(|t| now.saturating_duration_since(t) < ACTIVE)
        };
        self.paths.values().filter(active)
    }

    /// Whether what is sent is to have a pace, or has it: that of several links, or of one that is alone for long.
    fn shares(&self, now: Instant) -> bool {
        match (self.sending(now).nth(1).is_some(), self.phase) {
            (more, Phase::Free) => more || self.is_alone_for_long(now),
            (more, _) => more != self.alone && self.sending(now).next().is_some(),
        }
    }

    /// Whether one link has sent alone for so long that it is to have a pace.
    fn is_alone_for_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.alone_since) > ALONE && self.sending(now).all(|p| !p.own)
    }

    /// Nobody waits any more.
    fn free(&mut self) {
        (self.phase, self.alone) = (Phase::Free, false);
        self.epochs.clear();
    }

    /// One that had a pace alone has none again.
    fn free_alone(&mut self, now: Instant) {
        let paths = self.paths.values_mut();
        paths
            .filter(|p| p.sent_at.is_some_and(|t| now.saturating_duration_since(t) < ACTIVE))
            .for_each(|p| p.own = true);
        self.free();
    }

    /// Whether there is no other link to choose from.
    pub fn is_alone(&self, link: u64) -> bool {
        self.paths.keys().all(|l| *l == link)
    }

    /// Bytes a second that came in the last `span` of which all is known.
    fn arrivals(&self, now: Instant, span: Duration) -> f64 {
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        let to = self.micros(now) - micros(BACK);
        let from = to - micros(span);
        let came = |p: &Path| p.receipts.by(to).saturating_sub(p.receipts.by(from));
        self.paths.values().map(came).sum::<u64>() as f64 / span.as_secs_f64()
    }

    /// Ends the epoch if it is over.
    fn think(&mut self, now: Instant) {
        let took = now.saturating_duration_since(self.epoch_at);
        if took < EPOCH {
            return;
        }
        self.epoch_at = now;
        if now.saturating_duration_since(self.aged_at) >= MEMORY {
            self.aged_at = now;
            self.paths.values_mut().for_each(|p| p.receipts.grow_older());
        }
        self.queue.lose(now, self.paced.lost());
        let queue = self.queue.least(now).map(|told| match self.phase {
            Phase::Steady => self.queue.believe(now, told, took, self.capacity),
            _ => self.queue.trust(told),
        });
        let sending = self.sending(now).count();
        let held_up = self.paths.values().filter(|p| p.answers && p.writes).count() >= sending.clamp(1, 2);
        if sending != 1 || took > PAUSED && !held_up {
            self.alone_since = now;
        }
        let searching = self.paced.searching();
        if std::mem::replace(&mut self.searching, searching) != searching && self.alone {
            self.free_alone(now);
        }
        if self.alone && sending != 1 {
            self.free();
        }
        // Who is left of several keeps what they had.
        self.alone |= self.phase == Phase::Steady && sending == 1 && self.is_alone_for_long(now);
        let shares = self.shares(now);
        if shares {
            self.shared_at = now;
        } else if now.saturating_duration_since(self.shared_at) > FORGET {
            self.free();
        }
        if self.phase == Phase::Free && (!shares || took > PAUSED && !held_up) {
            self.epochs.clear();
        }
        let held = self.held[0] && self.held[1];
        self.held = [false, self.held[0]];
        let busy = if self.phase == Phase::Free { shares } else { held };
        if busy {
            let came = self.arrivals(now, SECOND);
            self.epochs.push_back(Epoch { came, queue });
            if self.epochs.len() > ABOVE.1 {
                self.epochs.pop_front();
            }
        }
        // An epoch that lasted long, since nothing was sent, says no more than a short one.
        self.decide(now, took.as_secs_f64().min(0.5), queue, held);
    }

    /// Faster from now on, until a queue stands.
    fn climb(&mut self, now: Instant) {
        (self.phase, self.rate) = (Phase::Climb(false), self.capacity);
        self.side = (1, now);
    }

    fn decide(&mut self, now: Instant, took: f64, queue: Option<f64>, held: bool) {
        let target = self.queue.target();
        match self.phase {
            Phase::Free => {
                if let Some(measured) = self.busy().filter(|rate| *rate < FAST) {
                    self.capacity = measured.max(SLOW);
                    let alone = self.sending(now).nth(1).is_none();
                    self.alone = alone;
                    if alone {
                        // What queues is in its own connection, and goes out while that is slowed down.
                        self.climb(now);
                    } else {
                        (self.phase, self.rate) = (Phase::Drain(now), self.capacity * DRAIN.0);
                    }
                    self.epochs.clear();
                }
            }
            Phase::Drain(since) => {
                if queue.is_some_and(|q| q <= target) || now.saturating_duration_since(since) > DRAIN.1 {
                    self.climb(now);
                }
            }
            Phase::Climb(stood) => {
                let stands = queue.is_some_and(|q| q > target);
                self.phase = Phase::Climb(stands);
                if stood && stands {
                    self.capacity *= 1.0 - CLIMB.1;
                    self.phase = Phase::Steady;
                    self.side = (0, now);
                } else if held && queue.is_some() {
                    self.capacity *= 1.0 + CLIMB.0 * took;
                }
                self.bound(ABOVE_CLIMBING);
                self.rate = self.capacity;
            }
            Phase::Steady => {
                let off = queue.map_or(0.0, |q| (1.0 - q / target).clamp(-MOST_OFF, 1.0));
                let side = if self.is_slow() { 1 } else { -i8::from(off < 0.0) };
                if side != self.side.0 || side == 0 || !held && side > 0 {
                    self.side = (side, now);
                }
                let long = now.saturating_duration_since(self.side.1);
                if side < 0 && long > SECOND + BACK {
                    // What comes from a queue that stands is what the way out carries.
                    let more = self.capacity - self.arrivals(now, SECOND);
                    self.capacity -= more.max(0.0) * took;
                } else if held {
                    let lasting = match side {
                        1 => (LASTING.0 * long.as_secs_f64().exp2()).min(LASTING.1),
                        _ => LASTING.2 * off.clamp(-1.0, 0.0),
                    };
                    self.capacity *= 1.0 + lasting * took;
                    if side > 0 {
                        self.capacity = self.capacity.max(self.carried());
                    }
                }
                if side <= 0 || long < SHY {
                    self.bound(ABOVE.0);
                }
                self.rate = self.capacity * (1.0 + AT_ONCE * off);
            }
        }
        let found = !matches!(self.phase, Phase::Free | Phase::Drain(_));
        let gone = self.side.0 > 0 && now.saturating_duration_since(self.side.1) > GONE;
        if found && (gone || self.capacity > FAST) {
            if self.alone {
                self.free_alone(now);
            } else {
                self.free();
            }
        }
        self.paced.set(self.phase == Phase::Steady);
    }

    /// What the way out carries, bytes a second, if it has been busy for so long that this came. In a part of the time
    /// there may have been nothing to send, and a little more came after such a part, so it is the upper quarter.
    fn busy(&self) -> Option<f64> {
        let last = self.epochs.iter().rev().take(BUSY.0);
        let stood = last.clone().filter(|e| e.queue.is_some_and(|q| q >= STANDS)).count();
        let mut came: Vec<f64> = last.map(|e| e.came).collect();
        came.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*came.first()?, *came.last()?);
        let busy = came.len() >= BUSY.0 && 2 * stood > BUSY.0 && least >= most * BUSY.1;
        came.get(came.len() * 3 / 4).copied().filter(|_| busy)
    }

    /// What the way out is known to carry, bytes a second: it did in three quarters of the last epochs.
    fn carried(&self) -> f64 {
        let mut came: Vec<f64> = self.epochs.iter().rev().take(LEAST_OF).map(|e| e.came).collect();
        came.sort_unstable_by(f64::total_cmp);
        came.get(came.len() / 4).copied().unwrap_or(0.0)
    }

    /// Whether less is sent than the way out carries: there is no queue again and again, and seldom a long one.
    fn is_slow(&self) -> bool {
        let told = || self.epochs.iter().rev().take(LEAST_OF).filter_map(|e| e.queue);
        let (least, target) = (self.queue.none_below(), self.queue.target());
        let short = told().filter(|q| *q < target).count();
        self.epochs.len() >= LEAST_OF && told().any(|q| q < least) && 2 * short > told().count()
    }

    /// Not more than what comes, by more than a little: else the queue would tell of it too late.
    fn bound(&mut self, above: f64) {
        let most = self.epochs.iter().map(|e| e.came).fold(0.0, f64::max);
        if self.epochs.len() == ABOVE.1 {
            self.capacity = self.capacity.min(most * above);
        }
        self.capacity = self.capacity.max(SLOW);
    }
}
