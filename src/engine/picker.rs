//! Which chunk to ask a peer for: rarest first, at random among equals.
//!
//! Every chunk that may be asked for (*open*: wanted, not held, not asked, not arriving) sits in one
//! bucket, by priority and by how many neighbours hold it. A change moves it by `swap_remove` and
//! `push`, so an update costs O(1) and a pick looks at the rarest bucket first. Neighbours that have
//! everything are not counted chunk by chunk: `seeds` stands for them all.
//!
//! A pick that has looked at [`SCAN`] chunks which the peer lacks makes a [`Shelf`] for that peer: up to
//! [`SHELF`] of the rarest chunks that it has, found in one pass and used up one by one. When the pass
//! found fewer than that, the shelf has all there are, and is kept so by additions.

use std::time::Duration;

use super::rng::Rng;
use crate::bitfield::Bitfield;
use crate::units::{ChunkIndex, ChunkRange, Time};

/// Chunks looked at in vain before a shelf is made.
const SCAN: u32 = 512;
/// Chunks on a shelf.
const SHELF: usize = 64;
/// Chunks of a streaming window that are looked at.
const WINDOW: u32 = 512;
const NOWHERE: u32 = u32::MAX;

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Missing,
    /// At least one request for it is unanswered.
    Asked,
    /// With the store, being verified and written.
    Arrived,
    /// Another content of ours asks for it, or has it: not to be asked for here.
    Elsewhere,
    /// Verified, yet the disk was full: wanted again once the content is resumed.
    Withheld,
    Held,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Where it is in its bucket, if it is open.
    at: u32,
    /// Neighbours that have it, those that have everything not counted.
    seen: u16,
    /// How often we sent it.
    sent: u16,
    priority: u8,
    state: State,
    /// Requests for it that are unanswered and not cancelled.
    asks: u8,
}

#[derive(Clone, Debug)]
struct Level {
    priority: u8,
    /// By `seen`.
    buckets: Vec<Vec<u32>>,
    open: u32,
}

/// Chunks that are needed in this order, each within `per_chunk` of the one before.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    next: u32,
    end: u32,
    /// When the chunk `next` is needed.
    due: Time,
    per_chunk: Duration,
}

/// The chunks that one neighbour could be asked for, while the buckets hold too many that it lacks.
#[derive(Clone, Debug, Default)]
pub enum Shelf {
    /// Look into the buckets.
    #[default]
    None,
    /// Some of what it has; look again when these are used up.
    Some(Vec<u32>),
    /// Everything open that it has.
    All(Vec<u32>),
}

/// What a pick needs to know of the neighbour.
pub struct Asked<'a> {
    pub have: &'a Bitfield,
    pub complete: bool,
    pub shelf: &'a mut Shelf,
}

impl Asked<'_> {
    fn has(&self, c: u32) -> bool {
        self.complete || ChunkIndex::new(c).is_some_and(|i| self.have.contains(i))
    }
}

/// All chunks of one content.
#[derive(Clone, Debug, Default)]
pub struct Picker {
    slots: Vec<Slot>,
    /// By priority, the highest first; priority 0 has none.
    levels: Vec<Level>,
    held: Bitfield,
    want: bool,
    seeds: u32,
    missing: u32,
    asked: u32,
    arrived: u32,
    elsewhere: u32,
    open: u32,
    withheld: Vec<u32>,
    window: Option<Window>,
}

impl Picker {
    pub fn new(want: bool) -> Picker {
        Picker { want, ..Picker::default() }
    }

    /// Chunks that are known.
    pub fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    pub fn held(&self) -> &Bitfield {
        &self.held
    }

    pub fn wants(&self) -> bool {
        self.want
    }

    /// Chunks that are wanted and not held.
    pub fn missing(&self) -> u32 {
        self.missing
    }

    /// Every chunk that is known is wanted, unless it is held.
    pub fn wants_all(&self) -> bool {
        self.missing + self.held.len() == self.len()
    }

    /// Chunks with an unanswered request.
    pub fn asked(&self) -> u32 {
        self.asked
    }

    /// Chunks that the store has not answered for.
    pub fn arrived(&self) -> u32 {
        self.arrived
    }

    /// Chunks that another content sees to.
    pub fn elsewhere(&self) -> u32 {
        self.elsewhere
    }

    /// Chunks that could be asked for now if somebody had them.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Neighbours that have everything.
    pub fn seeds(&self) -> u32 {
        self.seeds
    }

    pub fn set_seeds(&mut self, n: u32) {
        self.seeds = n;
    }

    pub fn state(&self, c: u32) -> Option<State> {
        self.slots.get(c as usize).map(|s| s.state)
    }

    /// Unanswered requests for a chunk.
    pub fn asks(&self, c: u32) -> u8 {
        self.slots.get(c as usize).map_or(0, |s| s.asks)
    }

    /// Neighbours that have a chunk.
    pub fn copies(&self, c: u32) -> u32 {
        self.seeds + self.slots.get(c as usize).map_or(0, |s| u32::from(s.seen))
    }

    /// Whether some open chunk is with nobody that we know.
    pub fn starved(&self) -> bool {
        self.seeds == 0 && self.levels.iter().any(|l| l.buckets.first().is_some_and(|b| !b.is_empty()))
    }

    /// How far a chunk has spread for all we know: sent by us, or seen at a neighbour that lacks others.
    pub fn spread(&self, c: u32) -> u32 {
        self.slots.get(c as usize).map_or(0, |s| u32::from(s.sent.max(s.seen)))
    }

    pub fn is_wanted(&self, c: u32) -> bool {
        self.want && self.slots.get(c as usize).is_some_and(|s| s.priority > 0)
    }

    /// Wanted and not held: what makes a neighbour that has it interesting.
    pub fn is_missing(&self, c: u32) -> bool {
        self.is_wanted(c) && self.state(c) != Some(State::Held)
    }

    pub fn is_open(&self, c: u32) -> bool {
        self.slots.get(c as usize).is_some_and(|s| s.at != NOWHERE)
    }

    /// `n` more chunks are known.
    pub fn grow(&mut self, n: u32) {
        let from = self.len();
        let slot = Slot { at: NOWHERE, seen: 0, sent: 0, priority: 1, state: State::Missing, asks: 0 };
        self.slots.resize((from + n) as usize, slot);
        if self.want {
            self.missing += n;
            (from..from + n).for_each(|c| self.enter(c));
        }
    }

    pub fn set_want(&mut self, want: bool) {
        if self.want != want {
            for c in 0..self.len() {
                self.change(c, |_| (), Some(want));
            }
            self.want = want;
        }
    }

    pub fn set_priority(&mut self, range: ChunkRange, level: u8) {
        for c in range.start()..range.end().min(self.len()) {
            self.change(c, |s| s.priority = level, None);
        }
    }

    /// Replaces the streaming window.
    pub fn set_window(&mut self, now: Time, start: u32, count: u32, per_chunk: Duration) {
        let end = start.saturating_add(count);
        self.window = (count > 0).then_some(Window { next: start, end, due: now + per_chunk, per_chunk });
    }

    /// When a chunk of the streaming window is needed.
    pub fn due(&self, c: u32) -> Option<Time> {
        let w = self.window.filter(|w| (w.next..w.end).contains(&c))?;
        Some(w.due + w.per_chunk.saturating_mul(c - w.next))
    }

    /// The open or asked chunks of the streaming window, in order.
    pub fn window(&self) -> impl Iterator<Item = u32> + '_ {
        let (from, to) = self.window.map_or((0, 0), |w| (w.next, w.end.min(self.len())));
        (from..to.min(from.saturating_add(WINDOW))).filter(|c| self.is_missing(*c))
    }

    /// A neighbour got a chunk.
    pub fn seen(&mut self, c: u32) {
        self.spread_by(c, |seen| seen.saturating_add(1));
    }

    /// A neighbour that had a chunk is gone, or lost it.
    pub fn unseen(&mut self, c: u32) {
        self.spread_by(c, |seen| seen.saturating_sub(1));
    }

    /// What a swarm does most: only the bucket changes by it, and only of an open chunk.
    fn spread_by(&mut self, c: u32, f: impl FnOnce(u16) -> u16) {
        let Some(s) = self.slots.get_mut(c as usize) else { return };
        let seen = f(s.seen);
        if s.at == NOWHERE {
            s.seen = seen;
            return;
        }
        self.leave(c);
        self.slots[c as usize].seen = seen;
        self.enter(c);
    }

    pub fn count_sent(&mut self, c: u32) {
        if let Some(s) = self.slots.get_mut(c as usize) {
            s.sent = s.sent.saturating_add(1);
        }
    }

    /// One more request is out.
    pub fn ask(&mut self, c: u32) {
        self.change(
            c,
            |s| {
                s.asks = s.asks.saturating_add(1);
                if matches!(s.state, State::Missing | State::Elsewhere) {
                    s.state = State::Asked;
                }
            },
            None,
        );
    }

    /// One request fewer is out; true if the chunk is open again by that.
    pub fn unask(&mut self, c: u32) -> bool {
        let was = self.is_open(c);
        self.change(
            c,
            |s| {
                s.asks = s.asks.saturating_sub(1);
                if s.state == State::Asked && s.asks == 0 {
                    s.state = State::Missing;
                }
            },
            None,
        );
        !was && self.is_open(c)
    }

    /// Sets the state of a chunk: `Arrived`, `Held`, `Elsewhere`, `Withheld`, or `Missing`, which becomes `Asked` if
    /// requests for it are out. False if it does not exist or was so already.
    pub fn set(&mut self, c: u32, state: State) -> bool {
        let Some(s) = self.slots.get(c as usize) else { return false };
        let state = if state == State::Missing && s.asks > 0 { State::Asked } else { state };
        if s.state == state {
            return false;
        }
        if state == State::Withheld {
            self.withheld.push(c);
        }
        self.change(c, |s| s.state = state, None);
        self.move_window(c);
        true
    }

    /// What was withheld is wanted again.
    pub fn resume(&mut self) {
        for c in std::mem::take(&mut self.withheld) {
            if self.state(c) == Some(State::Withheld) {
                self.set(c, State::Missing);
            }
        }
    }

    /// The window begins behind what is held.
    fn move_window(&mut self, c: u32) {
        let Some(mut w) = self.window.filter(|w| w.next == c) else { return };
        while w.next < w.end && self.state(w.next) == Some(State::Held) {
            (w.next, w.due) = (w.next + 1, w.due + w.per_chunk);
        }
        self.window = (w.next < w.end).then_some(w);
    }

    /// Changes a slot and puts everything that is derived from it right.
    fn change(&mut self, c: u32, f: impl FnOnce(&mut Slot), want: Option<bool>) {
        let Some(old) = self.slots.get(c as usize).copied() else { return };
        let mut new = old;
        f(&mut new);
        let wanted = |s: &Slot, want: bool| want && s.priority > 0;
        let missing = |s: &Slot, want| u32::from(wanted(s, want) && s.state != State::Held);
        let open = |s: &Slot, want| wanted(s, want) && s.state == State::Missing;
        let then = want.unwrap_or(self.want);
        self.missing = self.missing - missing(&old, self.want) + missing(&new, then);
        let count = |s: &Slot, state| u32::from(s.state == state);
        self.asked = self.asked - count(&old, State::Asked) + count(&new, State::Asked);
        self.arrived = self.arrived - count(&old, State::Arrived) + count(&new, State::Arrived);
        self.elsewhere = self.elsewhere - count(&old, State::Elsewhere) + count(&new, State::Elsewhere);
        if let Some(i) = ChunkIndex::new(c).filter(|_| old.state != new.state) {
            if new.state == State::Held {
                self.held.insert(i);
            } else if old.state == State::Held {
                self.held.remove(i);
            }
        }
        let place = |s: &Slot, want| open(s, want).then_some((s.priority, s.seen));
        let (from, to) = (place(&old, self.want), place(&new, then));
        if from == to {
            self.slots[c as usize] = new;
            return;
        }
        if from.is_some() {
            self.leave(c);
            new.at = NOWHERE;
        }
        self.slots[c as usize] = new;
        if to.is_some() {
            self.enter(c);
        }
    }

    fn enter(&mut self, c: u32) {
        let s = self.slots[c as usize];
        let by = |l: &Level| std::cmp::Reverse(l.priority);
        let at = match self.levels.binary_search_by_key(&std::cmp::Reverse(s.priority), by) {
            Ok(at) => at,
            Err(at) => {
                self.levels.insert(at, Level { priority: s.priority, buckets: Vec::new(), open: 0 });
                at
            }
        };
        let level = &mut self.levels[at];
        if level.buckets.len() <= usize::from(s.seen) {
            level.buckets.resize(usize::from(s.seen) + 1, Vec::new());
        }
        let bucket = &mut level.buckets[usize::from(s.seen)];
        self.slots[c as usize].at = bucket.len() as u32;
        bucket.push(c);
        level.open += 1;
        self.open += 1;
    }

    fn leave(&mut self, c: u32) {
        let s = self.slots[c as usize];
        // An open chunk is in the bucket that its slot names: `enter` put it there.
        let Some(level) = self.levels.iter_mut().find(|l| l.priority == s.priority) else { return };
        let bucket = &mut level.buckets[usize::from(s.seen)];
        bucket.swap_remove(s.at as usize);
        if let Some(moved) = bucket.get(s.at as usize) {
            self.slots[*moved as usize].at = s.at;
        }
        if bucket.is_empty() && bucket.capacity() > 64 {
            *bucket = Vec::new();
        }
        level.open -= 1;
        self.open -= 1;
        self.slots[c as usize].at = NOWHERE;
    }

    /// A chunk to ask this neighbour for; `skip` names those that it must not be asked for again now.
    /// `first`: any chunk rather than the rarest, since nothing is held and something is needed to trade.
    /// `eta`: when it would come; of a streaming window the first that is not needed before, else the first.
    pub fn pick(
        &self,
        rng: &mut Rng,
        n: &mut Asked,
        first: bool,
        eta: Time,
        skip: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        if self.open == 0 {
            return None;
        }
        if self.window.is_some() {
            let fit = |c: &u32| self.is_open(*c) && n.has(*c) && !skip(*c);
            let in_time = self.window().filter(fit).find(|c| self.due(*c).is_some_and(|due| due >= eta));
            if let Some(c) = in_time.or_else(|| self.window().find(fit)) {
                return Some(c);
            }
        }
        if let Shelf::None = n.shelf {
            match self.scan(rng, n, first, &skip) {
                Ok(found) => return found,
                Err(()) => *n.shelf = self.make_shelf(rng, n),
            }
        }
        let found = self.off_shelf(n.shelf, &skip);
        if found.is_none() && matches!(n.shelf, Shelf::Some(_)) {
            *n.shelf = self.make_shelf(rng, n);
            return self.off_shelf(n.shelf, &skip);
        }
        found
    }

    /// Looks through the buckets; an error after [`SCAN`] chunks in vain.
    fn scan(
        &self,
        rng: &mut Rng,
        n: &Asked,
        first: bool,
        skip: impl Fn(u32) -> bool,
    ) -> Result<Option<u32>, ()> {
        let mut budget = SCAN;
        let lowest = usize::from(!n.complete);
        for level in self.levels.iter().filter(|l| l.open > 0) {
            let buckets = level.buckets.get(lowest..).unwrap_or_default();
            let mut from = 0;
            if first {
                let all = buckets.iter().map(|b| b.len() as u32).sum();
                let mut left = rng.below(all) as usize;
                from = buckets
                    .iter()
                    .position(|b| {
                        b.len() > left || {
                            left -= b.len();
                            false
                        }
                    })
                    .unwrap_or(0);
            }
            for k in 0..buckets.len() {
                let b = &buckets[(from + k) % buckets.len()];
                let start = rng_start(rng, b.len());
                for c in b[start..].iter().chain(&b[..start]) {
                    if n.has(*c) && !skip(*c) {
                        return Ok(Some(*c));
                    }
                    budget -= 1;
                    if budget == 0 {
                        return Err(());
                    }
                }
            }
        }
        Ok(None)
    }

    /// One pass over everything open, the rarest first.
    fn make_shelf(&self, rng: &mut Rng, n: &Asked) -> Shelf {
        let mut shelf = Vec::new();
        let buckets =
            self.levels.iter().flat_map(|l| l.buckets.get(usize::from(!n.complete)..).unwrap_or_default());
        for b in buckets {
            let start = rng_start(rng, b.len());
            for c in b[start..].iter().chain(&b[..start]).filter(|c| n.has(**c)) {
                if shelf.len() == SHELF {
                    return Shelf::Some(shelf);
                }
                shelf.push(*c);
            }
        }
        Shelf::All(shelf)
    }

    /// Takes the best that is still open off the shelf.
    fn off_shelf(&self, shelf: &mut Shelf, skip: impl Fn(u32) -> bool) -> Option<u32> {
        let (Shelf::Some(list) | Shelf::All(list)) = shelf else { return None };
        list.retain(|c| self.is_open(*c));
        let rank = |c: u32| self.slots.get(c as usize).map(|s| (std::cmp::Reverse(s.priority), s.seen));
        let best = (0..list.len()).filter(|i| !skip(list[*i])).min_by_key(|i| rank(list[*i]))?;
        Some(list.swap_remove(best))
    }

    /// Whether all that is counted incrementally is what counting afresh gives.
    pub fn check(&self) -> Result<(), String> {
        let want = |ok: bool, what: &str| if ok { Ok(()) } else { Err(format!("picker: {what}")) };
        let count = |f: &dyn Fn(&Slot) -> bool| self.slots.iter().filter(|s| f(s)).count() as u32;
        let wanted = |s: &Slot| self.want && s.priority > 0;
        want(self.missing == count(&|s| wanted(s) && s.state != State::Held), "missing")?;
        want(self.asked == count(&|s| s.state == State::Asked), "asked")?;
        want(self.arrived == count(&|s| s.state == State::Arrived), "arrived")?;
        want(self.elsewhere == count(&|s| s.state == State::Elsewhere), "elsewhere")?;
        want(self.open == count(&|s| s.at != NOWHERE), "open")?;
        want(self.open == count(&|s| wanted(s) && s.state == State::Missing), "open chunks")?;
        want(self.held.len() == count(&|s| s.state == State::Held), "held")?;
        want(self.slots.iter().all(|s| s.state != State::Missing || s.asks == 0), "asks of a missing chunk")?;
        want(self.slots.iter().all(|s| s.state != State::Asked || s.asks > 0), "asked without an ask")?;
        let mut in_buckets = 0;
        for l in &self.levels {
            for (seen, b) in l.buckets.iter().enumerate() {
                in_buckets += b.len();
                for (at, c) in b.iter().enumerate() {
                    let s = &self.slots[*c as usize];
                    let right =
                        s.at as usize == at && usize::from(s.seen) == seen && s.priority == l.priority;
                    want(right, "a chunk is in the wrong bucket")?;
                }
            }
        }
        want(in_buckets == self.open as usize, "bucket sizes")
    }
}

impl Shelf {
    /// A chunk that the neighbour has is open from now on.
    pub fn add(&mut self, c: u32) {
        if let Shelf::All(list) = self {
            if list.len() < 4 * SHELF {
                list.push(c);
            } else {
                *self = Shelf::None;
            }
        }
    }
}

fn rng_start(rng: &mut Rng, len: usize) -> usize {
    if len > 1 { rng.below(len as u32) as usize } else { 0 }
}
