//! How much is with the driver at a time.
//!
//! Little, so that the decision what goes next is made late; yet always enough that the link does not idle:
//! three chunks, or what left in the last 200 ms, or more where trying more made things faster (slow receivers,
//! a fast link). A chunk that others overtook is held up by its receiver and not by our link: it does not count.
//! Nor does one that has been going out for longer than the link takes for everything that is on its way, while
//! there is a peer with nothing under way: each connection finds its own rate, and a few slow ones do not fill
//! the link. New ones are all slow: until it is known what the link carries, more peers get their first chunk at once.

use std::time::Duration;

use super::ledger::Meter;
use crate::units::{CHUNK_LEN, ContentKey, PeerKey, Time};

/// Chunks with the driver at a time while no more are needed. (With two, links of 16 Mbit/s and a round trip of 40 ms
/// idled for 3.6 % of the time, with three for 2.4 %: one of the connections was just finding its rate.)
const FEW: u64 = 3;
/// So many while the rate of the link is not known, one of each peer.
const FIRST: usize = 8;
/// The most, however many small ones fit.
const MAX_FLYING: usize = 64;
/// What the rate of the link is measured over, and how long an attempt with more in flight lasts: so long at
/// least, and so many chunks.
const EPOCH: (Duration, u32) = (Duration::from_secs(1), 8);
/// Epochs between attempts.
const REST: u32 = 8;
/// Epochs of which the best says what the link can carry.
const REMEMBERED: usize = 8;
/// What a chunk may take beyond a quarter more than the link needs, for the driver and the scheduler.
const GRACE: Duration = Duration::from_millis(20);

/// A chunk that is with the driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flying {
    pub peer: PeerKey,
    pub content: ContentKey,
    pub chunk: u32,
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    flying: Flying,
    at: Time,
    /// How many chunks had been sent when this one began.
    seq: u64,
    /// The bytes that were under way then, its own among them.
    among: u64,
}

/// Measures the rate of the link while it has something to do.
#[derive(Debug, Default)]
struct Epoch {
    started: Option<Time>,
    bytes: u64,
    chunks: u32,
}

impl Epoch {
    /// The rate of the epoch that ends with this chunk, bytes a second.
    fn sent(&mut self, now: Time, bytes: u64) -> Option<u64> {
        let Some(started) = self.started else {
            self.started = Some(now);
            return None;
        };
        self.bytes += bytes;
        self.chunks += 1;
        let took = now.since(started);
        if took < EPOCH.0 || self.chunks < EPOCH.1 {
            return None;
        }
        let rate = u128::from(self.bytes) * 1_000_000_000 / took.as_nanos().max(1);
        *self = Epoch { started: Some(now), ..Epoch::default() };
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

/// The best of the last epochs.
#[derive(Debug, Default)]
struct Best {
    rates: [u64; REMEMBERED],
    next: usize,
}

impl Best {
    fn add(&mut self, rate: u64) {
        self.rates[self.next] = rate;
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// Bytes a second; `None` before the first epoch is over.
    fn rate(&self) -> Option<u64> {
        self.rates.iter().copied().max().filter(|r| *r > 0)
    }
}

/// Finds by trial how many more chunks in flight make sending faster.
#[derive(Debug, Default)]
struct Trial {
    /// Chunks in flight on top of the base.
    more: u32,
    trying: bool,
    rest: u32,
    best: u64,
}

impl Trial {
    fn epoch(&mut self, rate: u64, waiting: bool) {
        if self.trying && rate > self.best + self.best / 10 {
            (self.best, self.more) = (rate, (self.more + 2).min(MAX_FLYING as u32));
        } else if self.trying {
            (self.more, self.trying, self.rest) = (self.more.saturating_sub(2), false, REST);
        } else if self.rest > 0 || !waiting {
            (self.rest, self.best) = (self.rest.saturating_sub(1), rate);
        } else {
            (self.best, self.trying, self.more) = (rate, true, (self.more + 2).min(MAX_FLYING as u32));
        }
    }
}

/// The chunks that are with the driver, and whether more should be.
#[derive(Debug, Default)]
pub(super) struct Window {
    begun: Vec<Begun>,
    sent: u64,
    /// Bytes of the last 200 ms.
    recent: Meter<25_000_000>,
    epoch: Epoch,
    best: Best,
    trial: Trial,
}

/// After so long a chunk is held up that was under way among so many bytes, on a link of this rate.
fn slow(among: u64, rate: Option<u64>) -> Duration {
    let Some(rate) = rate else { return Duration::MAX };
    let micros = u128::from(among) * 1_000_000 / u128::from(rate);
    let needed = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
    needed.saturating_add(needed / 4).saturating_add(GRACE)
}

/// What may be handed over now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    ForAny,
    /// Chunks are held up: for a peer that has none under way.
    ForIdle,
    /// It is not known yet what the link carries: for a peer that has not been sent anything.
    ForNew,
    /// Nothing until something has gone out, or until then.
    None(Time),
}

impl Window {
    /// `most` bytes are the limit whatever the link does.
    pub fn room(&self, now: Time, most: u64) -> Room {
        if self.begun.len() >= MAX_FLYING {
            return Room::None(Time::MAX);
        }
        let all: u64 = self.flying().map(|f| u64::from(f.bytes)).sum();
        let more = u64::from(self.trial.more) * u64::from(CHUNK_LEN);
        let cap = (FEW * u64::from(CHUNK_LEN)).max(self.recent.sum(now)) + more;
        let full = |(bytes, n): (u64, u32)| n >= 2 && (bytes >= cap.min(most) || all >= most);
        let count = |(bytes, n), b: &Begun| (bytes + u64::from(b.flying.bytes), n + 1);
        let overtaken = 2 * self.begun.len() as u64 + 2;
        let counted = || self.begun.iter().filter(|b| self.sent - b.seq <= overtaken);
        if !full(counted().fold((0, 0), count)) {
            return Room::ForAny;
        }
        let rate = self.best.rate();
        if rate.is_none() && self.begun.len() < FIRST {
            return Room::ForNew;
        }
        let slow = |b: &Begun| b.at + slow(all.max(b.among), rate);
        let moving = || counted().filter(|b| now < slow(b));
        match full(moving().fold((0, 0), count)) {
            true => Room::None(moving().map(slow).min().unwrap_or(Time::MAX)),
            false => Room::ForIdle,
        }
    }

    pub fn push(&mut self, now: Time, flying: Flying) {
        let among = self.flying().chain([flying]).map(|f| u64::from(f.bytes)).sum();
        self.begun.push(Begun { flying, at: now, seq: self.sent, among });
    }

    /// This one is not with the driver any more.
    pub fn take(&mut self, peer: PeerKey, content: ContentKey, chunk: u32) -> Option<Flying> {
        let same = |f: Flying| f.peer == peer && f.content == content && f.chunk == chunk;
        let i = self.begun.iter().position(|b| same(b.flying))?;
        Some(self.begun.remove(i).flying)
    }

    pub fn drop_peer(&mut self, peer: PeerKey) {
        self.begun.retain(|b| b.flying.peer != peer);
    }

    /// One has gone out; whether requests are waiting.
    pub fn sent(&mut self, now: Time, bytes: u64, waiting: bool) {
        self.sent += 1;
        self.recent.add(now, bytes);
        if let Some(rate) = self.epoch.sent(now, bytes) {
            self.trial.epoch(rate, waiting);
            self.best.add(rate);
        }
    }

    /// No request waits. If the link has nothing to do, what was being measured says nothing.
    pub fn nothing_waits(&mut self) {
        if self.begun.is_empty() {
            self.epoch = Epoch::default();
        }
    }

    pub fn flying(&self) -> impl Iterator<Item = Flying> {
        self.begun.iter().map(|b| b.flying)
    }

    pub fn check(&self) -> Result<(), &'static str> {
        if self.begun.len() > MAX_FLYING { Err("too many chunks are in flight") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const MOST: u64 = 8 << 20;

    fn fly(w: &mut Window, now: Time, peer: u64) {
        let chunk = w.sent as u32 * 100 + w.begun.len() as u32;
        let peer = PeerKey(peer);
        w.push(now, Flying { peer, content: ContentKey(0), chunk, bytes: CHUNK_LEN });
    }

    /// Hands over what any peer may get.
    fn fill(w: &mut Window, now: Time) {
        while w.room(now, MOST) == Room::ForAny {
            fly(w, now, 1);
        }
    }

    /// The oldest of what flies has gone out.
    fn done(w: &mut Window, now: Time) {
        let f = w.begun[0].flying;
        w.take(f.peer, f.content, f.chunk).unwrap();
        w.sent(now, u64::from(f.bytes), true);
    }

    /// A link of two chunks a second has been busy for `seconds`.
    fn busy(seconds: u64) -> (Window, Time) {
        let (mut w, mut now) = (Window::default(), Time::ZERO);
        for _ in 0..2 * seconds {
            fill(&mut w, now);
            now = now + Duration::from_millis(500);
            done(&mut w, now);
        }
        fill(&mut w, now);
        (w, now)
    }

    #[test]
    fn three_chunks_are_enough_for_a_link_that_is_known_to_be_slow() {
        let (w, _) = busy(20);
        assert_eq!(w.begun.len(), 3);
    }

    /// With a round trip of 40 ms a seed's link of 32 Mbit/s ran at a third for a second at a time: two
    /// receivers whose connections had grown slow held both places.
    #[test]
    fn chunks_that_are_held_up_leave_their_place_to_others() {
        let (mut w, now) = busy(20);
        let Room::None(until) = w.room(now, MOST) else { panic!("there is room") };
        assert!(until > now && until < now + Duration::from_secs(2), "{until:?} {now:?}");
        assert_eq!(w.room(Time(until.0 - MS), MOST), Room::None(until));
        assert_eq!(w.room(until, MOST), Room::ForIdle, "the elder does not count any more");
        fly(&mut w, until, 2);
        assert!(matches!(w.room(until, MOST), Room::None(later) if later > until));
    }

    /// Each chunk takes as long as those before it: five at once need more time than three, and would stay five.
    #[test]
    fn after_an_attempt_with_more_there_are_three_again() {
        let (mut w, mut now) = busy(20);
        (w.trial.more, w.trial.trying) = (2, true);
        fill(&mut w, now);
        assert_eq!(w.begun.len(), 5);
        (w.trial.more, w.trial.trying, w.trial.rest) = (0, false, REST);
        for _ in 0..8 {
            now = now + Duration::from_millis(500);
            let before = Time(now.0 - MS);
            assert_ne!(w.room(before, MOST), Room::ForIdle);
            done(&mut w, now);
            fill(&mut w, now);
        }
        assert_eq!(w.begun.len(), 3);
    }

    #[test]
    fn the_places_are_bounded_when_nothing_leaves() {
        let (mut w, now) = busy(20);
        for i in 0..1_000 {
            let now = now + Duration::from_secs(i);
            if w.room(now, MOST) != Room::None(Time::MAX) {
                fly(&mut w, now, i);
            }
        }
        assert_eq!(w.check(), Ok(()));
    }

    /// Each connection takes some round trips to find its rate, and two of them held both places meanwhile: a seed's
    /// link idled, and of eight newcomers the last had its first chunk after a second.
    #[test]
    fn before_anything_is_known_several_peers_have_one_each_under_way() {
        let mut w = Window::default();
        for peer in 0..3 {
            assert_eq!(w.room(Time::ZERO, MOST), Room::ForAny);
            fly(&mut w, Time::ZERO, peer);
        }
        for peer in 3..FIRST as u64 {
            assert_eq!(w.room(Time::ZERO, MOST), Room::ForNew);
            fly(&mut w, Time::ZERO, peer);
        }
        assert!(matches!(w.room(Time::ZERO, MOST), Room::None(_)));
        assert!(matches!(w.room(Time(60_000 * MS), MOST), Room::None(_)));
    }
}
