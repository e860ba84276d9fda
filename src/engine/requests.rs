//! How much is asked of each peer and for how long it is waited for; what happens to an answer.
//!
//! Depth is rate x (smallest recent round trip + 100 ms), two chunks at least; it grows by a chunk for
//! every chunk that comes until that is reached. A peer that has not yet delivered is asked for one.
//! A chunk is asked of one peer at a time, the endgame (`endgame.rs`) aside.

use std::time::Duration;

use super::Engine;
use super::config::Config;
use super::event::{Action, Arrival, Fault, PeerKind, Refusal};
use super::picker::State;
use super::state::Peer;
use crate::units::{CHUNK_LEN, ChunkIndex, ContentKey, PeerKey, Time};

/// The least that a lone seed is asked for, in chunks, once it has delivered.
const LONE_SEED: usize = 4;
/// How often time-outs are looked at while something is asked for.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// The same while everything is asked for and idle peers may take something over.
pub(super) const ENDGAME_TICK: Duration = Duration::from_millis(100);
/// What depth allows for beyond the round trip: reading, queueing, scheduling.
const SLACK: Duration = Duration::from_millis(100);
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
        bytes(rtt + SLACK).min(self.base_bytes.saturating_add(bytes(rtt * 2)))
    }

    /// Whether another request may go out; `least` chunks may be out however slow the peer is.
    fn room(&self, rate: u64, rtt: Duration, least: usize) -> bool {
        // Whatever is not answered yet stands in the peer's queue, which is as long as `max` and no longer.
        if self.silent() || self.asks.len() >= self.max || self.asks.len() - self.live > MAX_DEAD {
            return false;
        }
        if self.delivered == 0 || !self.proven {
            return self.live == 0 && !self.on_trial;
        }
        let depth = self.depth(rate, rtt);
        self.live < least
            || self.live_bytes < depth
            || self
                .ramp
                .is_some_and(|r| self.live < r as usize && self.live_bytes < self.base_bytes.max(depth))
    }

    fn push(&mut self, ask: Ask) {
        self.live += 1;
        self.live_bytes += u64::from(ask.bytes);
        self.asks.push(ask);
    }

    fn uncount(&mut self, i: usize) {
        let a = self.asks[i];
        if !a.cancelled && !a.overtaken {
            self.live -= 1;
            self.live_bytes -= u64::from(a.bytes);
        }
    }

    pub fn cancel(&mut self, i: usize) {
        self.uncount(i);
        self.asks[i].cancelled = true;
    }

    fn overtake(&mut self, i: usize) {
        self.uncount(i);
        self.asks[i].overtaken = true;
    }

    fn remove(&mut self, i: usize) -> Ask {
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

    fn measure(&mut self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.service = Some(match self.service {
            None => (took, took / 2),
            Some((mean, var)) => (mean - mean / 8 + took / 8, var - var / 4 + mean.abs_diff(took) / 4),
        });
    }

    fn show_life(&mut self, now: Time) {
        self.life = now;
        if self.silent_since.take().is_some() {
            self.delivered = 0;
        }
    }

    fn deliver(&mut self, now: Time, bytes: u64, rate: u64, rtt: Duration) {
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
        let live = || self.asks.iter().filter(|a| !a.cancelled && !a.overtaken);
        self.live == live().count() && self.live_bytes == live().map(|a| u64::from(a.bytes)).sum::<u64>()
    }
}

impl Peer {
    /// Whether another request may go to it.
    pub(super) fn has_room(&self, now: Time, least: usize) -> bool {
        !self.choking_us && self.pipeline.room(self.down_rate.per_second(now), self.rtt_or_zero(), least)
    }
}

impl Engine {
    /// Bytes of a chunk came in: a sign of life.
    pub(super) fn on_receiving(&mut self, peer: PeerKey, bytes: u64) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let silent = p.pipeline.silent();
        p.pipeline.show_life(now);
        p.pipeline.early = p.pipeline.early.saturating_add(bytes);
        p.down_rate.add(now, bytes);
        self.down_rate.add(now, bytes);
        if silent {
            self.list(peer);
        }
    }

    pub(super) fn on_arrival(&mut self, peer: PeerKey, key: ContentKey, c: u32, bytes: u64) -> Arrival {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer) else { return Arrival::Late };
        p.pipeline.show_life(now);
        let fresh = bytes.saturating_sub(p.pipeline.early);
        p.pipeline.early = p.pipeline.early.saturating_sub(bytes);
        p.down_rate.add(now, fresh);
        self.down_rate.add(now, fresh);
        let Some(i) = p.pipeline.position(key, c) else {
            self.fault(peer, Fault::Unasked);
            return Arrival::Unasked;
        };
        self.list(peer);
        let Some(content) = self.contents.get_mut(&key) else {
            self.answered(peer, i, bytes);
            return Arrival::Late;
        };
        content.down_rate.add(now, bytes);
        let state = content.picker.state(c);
        let of_use = matches!(state, Some(State::Missing | State::Asked)) && content.picker.is_wanted(c);
        if !of_use || content.paused {
            self.late_bytes = self.late_bytes.saturating_add(bytes);
            self.answered(peer, i, bytes);
            return Arrival::Late;
        }
        // Before the request is taken back, so that the chunk is not open in between.
        content.picker.set(c, State::Arrived);
        if let Some(p) = self.peers.get_mut(&peer) {
            p.pipeline.on_trial = !p.pipeline.proven;
        }
        self.answered(peer, i, bytes);
        let others = self.contents.get(&key).is_some_and(|k| k.picker.asks(c) > 0);
        self.ledger.took(now, peer, bytes);
        self.taken = self.taken.saturating_add(bytes);
        if let Some(p) = self.peers.get_mut(&peer) {
            p.credit = p.credit.saturating_add(bytes);
        }
        if others {
            self.cancel_everywhere(key, c);
        }
        Arrival::Wanted
    }

    /// A chunk of the peer's was looked at: it was right, or (ours to mend) it could not be kept.
    pub(super) fn verified(&mut self, peer: PeerKey, right: bool) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        if std::mem::take(&mut p.pipeline.on_trial) || right && !p.pipeline.proven {
            p.pipeline.proven |= right;
            self.list(peer);
        }
    }

    /// Takes an answered request out of the pipeline, by a chunk of so many bytes.
    fn answered(&mut self, peer: PeerKey, i: usize, bytes: u64) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let (rate, rtt) = (p.down_rate.per_second(now), p.rtt_or_zero());
        // Servers answer in order, except a seed that puts off what it sent before. (Bitswap's have many workers,
        // and answer in whatever order these get done.)
        let ordered = if p.kind == PeerKind::Exchange { i } else { 0 };
        let passed: Vec<(ContentKey, u32)> = p.pipeline.asks[..ordered]
            .iter()
            .filter(|a| !a.cancelled)
            .map(|a| (a.content, a.chunk))
            .collect();
        for j in 0..ordered {
            p.pipeline.overtake(j);
        }
        let ask = p.pipeline.remove(i);
        p.pipeline.measure(now.since(ask.at));
        p.pipeline.deliver(now, bytes, rate, rtt);
        if !ask.cancelled {
            self.unask(ask.content, ask.chunk);
        }
        if !passed.is_empty() {
            self.reroute(peer, passed);
        }
    }

    /// What the peer puts off goes to somebody else that has it, if there is one.
    fn reroute(&mut self, peer: PeerKey, passed: Vec<(ContentKey, u32)>) {
        for (key, c) in passed {
            let Some(content) = self.contents.get(&key) else { continue };
            let unchoked =
                |q: &PeerKey| self.peers.get(q).is_some_and(|q| !q.choking_us && !q.pipeline.silent());
            if content.swarm.iter().any(|(q, n)| *q != peer && n.has(c) && unchoked(q)) {
                self.cancel_at(peer, key, &[c]);
            }
        }
    }

    /// The content has one request for this chunk fewer; if it is open again, everybody may be asked.
    fn unask(&mut self, key: ContentKey, c: u32) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        if content.picker.unask(c) {
            for n in content.swarm.values_mut().filter(|n| n.has(c)) {
                n.shelf.add(c);
            }
            self.refill = true;
        }
    }

    /// Bytes that the limits were charged with will not come.
    fn not_coming(&mut self, key: ContentKey, bytes: u64) {
        self.limits_down.give_back(bytes);
        if let Some(content) = self.contents.get_mut(&key) {
            content.down.give_back(bytes);
        }
    }

    /// Cancels these requests at one peer; they stay on its list until answered.
    pub(super) fn cancel_at(&mut self, peer: PeerKey, key: ContentKey, chunks: &[u32]) {
        let mut gone = Vec::new();
        for c in chunks {
            let Some(p) = self.peers.get_mut(&peer) else { return };
            let Some(i) = p.pipeline.position(key, *c).filter(|i| !p.pipeline.asks[*i].cancelled) else {
                continue;
            };
            p.pipeline.cancel(i);
            let bytes = u64::from(p.pipeline.asks[i].bytes);
            p.down.give_back(bytes);
            self.not_coming(key, bytes);
            self.unask(key, *c);
            gone.extend(ChunkIndex::new(*c));
        }
        if !gone.is_empty() {
            self.list(peer);
            self.actions.push_back(Action::Cancel { peer, content: key, chunks: gone });
        }
    }

    /// Cancels a chunk at everybody.
    pub(super) fn cancel_everywhere(&mut self, key: ContentKey, c: u32) {
        let Some(content) = self.contents.get(&key) else { return };
        let asked = |p: &PeerKey| {
            let asks = self.peers.get(p).map(|p| &p.pipeline);
            asks.is_some_and(|a| a.position(key, c).is_some_and(|i| !a.asks[i].cancelled))
        };
        let peers: Vec<PeerKey> = content.swarm.keys().filter(|p| asked(p)).copied().collect();
        for p in peers {
            self.cancel_at(p, key, &[c]);
        }
    }

    /// Cancels everything that is asked of a peer, or of one content of it.
    pub(super) fn cancel_all(&mut self, peer: PeerKey, only: Option<ContentKey>) {
        let Some(p) = self.peers.get(&peer) else { return };
        let live = p.pipeline.asks.iter().filter(|a| !a.cancelled && only.is_none_or(|k| k == a.content));
        let mut asks: Vec<(ContentKey, u32)> = live.map(|a| (a.content, a.chunk)).collect();
        asks.sort_by_key(|a| a.0);
        for of_one in asks.chunk_by(|a, b| a.0 == b.0) {
            let chunks: Vec<u32> = of_one.iter().map(|a| a.1).collect();
            self.cancel_at(peer, of_one[0].0, &chunks);
        }
    }

    /// The peer is gone: nothing of what it was asked will come.
    pub(super) fn drop_asks(&mut self, peer: PeerKey) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        for i in 0..p.pipeline.asks.len() {
            p.pipeline.uncount(i);
        }
        for a in std::mem::take(&mut p.pipeline.asks) {
            if !a.cancelled {
                self.not_coming(a.content, u64::from(a.bytes));
                self.unask(a.content, a.chunk);
            }
        }
    }

    pub(super) fn on_refused(&mut self, peer: PeerKey, key: ContentKey, c: u32, why: Refusal) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let Some(i) = p.pipeline.position(key, c) else {
            p.noise += 1;
            return;
        };
        p.pipeline.show_life(now);
        let ask = p.pipeline.remove(i);
        if !ask.cancelled {
            p.down.give_back(u64::from(ask.bytes));
            self.not_coming(key, u64::from(ask.bytes));
            self.unask(key, c);
        }
        if why == Refusal::Gone {
            self.lost_by(peer, key, c);
        }
        self.list(peer);
    }

    pub(super) fn on_choke(&mut self, peer: PeerKey, choking: bool) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer) else { return };
        p.noise += 1;
        if p.choking_us != choking && !choking {
            p.pipeline.show_life(now);
            p.pipeline.chunk_at = now;
        }
        p.choking_us = choking;
        self.list(peer);
    }

    /// Time-outs: a peer that is silent for longer than its measured rate explains loses its requests.
    pub(super) fn check_asks(&mut self) {
        let now = self.now;
        let mut late = Vec::new();
        for (peer, p) in &mut self.peers {
            let line = &mut p.pipeline;
            if line.silent_since.is_some_and(|t| now.since(t) > SULK) {
                line.show_life(now);
                self.refill = true;
            }
            let Some(oldest) = line.asks.iter().find(|a| !a.cancelled).map(|a| a.at) else { continue };
            let without = now.since(line.chunk_at.max(oldest));
            let snubbed = without > self.cfg.snub_after && line.early < SLOW * without.as_secs();
            if snubbed || now.since(line.life.max(oldest)) > line.patience() {
                line.snubbed |= snubbed;
                line.backoff += 1;
                line.silent_since = Some(now);
                late.push(*peer);
            }
        }
        for peer in late {
            self.cancel_all(peer, None);
        }
    }

    /// Asks a peer for as much as it can take.
    pub(super) fn fill(&mut self, peer: PeerKey) {
        let now = self.now;
        let mut batch: Vec<(ContentKey, Vec<ChunkIndex>)> = Vec::new();
        let least = self.least(peer);
        while self.peers.get(&peer).is_some_and(|p| p.has_room(now, least)) {
            let next = self.take_urgent(peer).or_else(|| self.choose(peer)).or_else(|| self.take_over(peer));
            let Some((key, c)) = next else { break };
            self.enter_ask(peer, key, c);
            let Some(c) = ChunkIndex::new(c) else { break };
            match batch.iter_mut().find(|(k, _)| *k == key) {
                Some((_, chunks)) => chunks.push(c),
                None => batch.push((key, vec![c])),
            }
        }
        for (content, chunks) in batch {
            self.actions.push_back(Action::Request { peer, content, chunks });
        }
    }

    /// A lone seed is to have something to choose from, so that it can send what nobody has yet.
    fn least(&self, peer: PeerKey) -> usize {
        let Some(p) = self.peers.get(&peer) else { return 2 };
        let lone = |k: &ContentKey| {
            let content = self.contents.get(k).filter(|c| c.picker.seeds() == 1);
            content.and_then(|c| c.swarm.get(&peer)).is_some_and(|n| n.complete)
        };
        if p.contents.iter().any(lone) { LONE_SEED } else { 2 }
    }

    fn enter_ask(&mut self, peer: PeerKey, key: ContentKey, c: u32) {
        let now = self.now;
        let (Some(content), Some(p)) = (self.contents.get_mut(&key), self.peers.get_mut(&peer)) else {
            return;
        };
        let bytes = content.len_of(c);
        content.picker.ask(c);
        content.down.take(u64::from(bytes));
        content.down_turn = content.down_turn.max(self.down_turn) + u64::from(bytes);
        p.down.take(u64::from(bytes));
        self.limits_down.take(u64::from(bytes));
        p.pipeline.push(Ask { content: key, chunk: c, bytes, at: now, cancelled: false, overtaken: false });
        self.tick_at = self.tick_at.min(now + TICK);
    }

    /// While streaming: somebody else sends more than twice as fast, so what is due soon is left to them.
    fn others_are_faster(&self, peer: PeerKey, key: ContentKey) -> bool {
        let now = self.now;
        let Some(content) = self.contents.get(&key).filter(|c| c.picker.window().next().is_some()) else {
            return false;
        };
        let rate = |k: &PeerKey| {
            self.peers.get(k).filter(|p| !p.choking_us).map_or(0, |p| p.down_rate.per_second(now))
        };
        let most = content.swarm.keys().map(rate).max().unwrap_or(0);
        most / 2 > rate(&peer)
    }

    /// The next chunk to ask this peer for: the content that was asked for least, then its rarest chunk.
    fn choose(&mut self, peer: PeerKey) -> Option<(ContentKey, u32)> {
        let now = self.now;
        let p = self.peers.get_mut(&peer)?;
        let wait = p.down.wait(now).max(self.limits_down.wait(now));
        if let Some(t) = wait {
            self.wake_at = self.wake_at.min(t);
            return None;
        }
        let late = super::endgame::expected(p, now, p.pipeline.live_bytes + u64::from(CHUNK_LEN));
        let mut order: Vec<(u64, ContentKey)> = Vec::new();
        for key in &p.contents {
            let Some(content) = self.contents.get_mut(key).filter(|c| c.wants()) else { continue };
            match content.down.wait(now) {
                Some(t) => self.wake_at = self.wake_at.min(t),
                None => order.push((content.down_turn, *key)),
            }
        }
        order.sort_unstable();
        for (turn, key) in order {
            let eta = if self.others_are_faster(peer, key) { now + late } else { now };
            let Some(p) = self.peers.get_mut(&peer) else { break };
            let content = self.contents.get_mut(&key)?;
            let first = content.picker.held().is_empty() && content.picker.arrived() == 0;
            let Some(n) = content.swarm.get_mut(&peer) else { continue };
            let dead = p.pipeline.asks.len() > p.pipeline.live;
            let skip = |c| dead && p.pipeline.position(key, c).is_some();
            if let Some(c) = content.picker.pick(&mut self.rng, &mut n.asked(), first, eta, skip) {
                self.down_turn = self.down_turn.max(turn);
                return Some((key, c));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(n: u32) -> Ask {
        let content = ContentKey(0);
        Ask { content, chunk: n, bytes: 262_144, at: Time::ZERO, cancelled: false, overtaken: false }
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
            (12_500_000, ms(60), 7, 9),
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
        let mut p = Pipeline::new(Time::ZERO, &Config::default());
        let (rate, rtt, mut sizes) = (12_500_000, Duration::from_millis(60), Vec::new());
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
        assert!(sizes[1..].iter().all(|n| (7..=20).contains(n)), "{sizes:?}");
        assert!(sizes[5] <= 9, "{sizes:?}");
    }
}
