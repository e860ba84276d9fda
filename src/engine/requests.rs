//! Whom to ask for what, how long it is waited for, and what happens to an answer.
//!
//! A chunk is asked of one peer at a time, the endgame (`endgame.rs`) aside; how much is asked of a peer
//! says its pipeline (`pipeline.rs`).

use std::time::Duration;

use super::Engine;
use super::event::{Action, Arrival, Fault, PeerKind, Refusal};
use super::picker::State;
use super::pipeline::Ask;
use crate::units::{CHUNK_LEN, ChunkIndex, ContentKey, PeerKey};

/// The least that a lone seed is asked for, in chunks, once it has delivered: of these two are being sent, so with
/// four it soon had no choice left but to send some a second time.
const LONE_SEED: usize = 6;
/// How often time-outs are looked at while something is asked for.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// The same while everything is asked for and idle peers may take something over.
pub(super) const ENDGAME_TICK: Duration = Duration::from_millis(100);

impl Engine {
    /// Bytes of a chunk came in: a sign of life.
    pub(super) fn on_receiving(&mut self, peer: PeerKey, bytes: u64) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let silent = p.pipeline.silent();
        p.pipeline.receiving(now, bytes);
        p.down_rate.add(now, bytes);
        self.down_rate.add(now, bytes);
        if silent {
            self.list(peer);
        }
    }

    pub(super) fn on_arrival(&mut self, peer: PeerKey, key: ContentKey, c: u32, bytes: u64) -> Arrival {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer) else { return Arrival::Late };
        let fresh = p.pipeline.received(now, bytes);
        p.down_rate.add(now, fresh);
        self.down_rate.add(now, fresh);
        let Some(i) = p.pipeline.position(key, c) else {
            if let Some(i) = self.asked_before(peer, c) {
                self.late_bytes = self.late_bytes.saturating_add(bytes);
                self.answered(peer, i, bytes);
                return Arrival::Late;
            }
            if self.came_early(peer, key, c) {
                self.late_bytes = self.late_bytes.saturating_add(bytes);
                return Arrival::Late;
            }
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
        let open = match state {
            Some(State::Missing | State::Asked) => true,
            Some(State::Elsewhere) => !self.is_here(key, c),
            _ => false,
        };
        let Some(content) = self.contents.get_mut(&key) else { return Arrival::Late };
        if !open || !content.picker.is_wanted(c) || content.paused {
            self.late_bytes = self.late_bytes.saturating_add(bytes);
            self.answered(peer, i, bytes);
            return Arrival::Late;
        }
        // Before the request is taken back, so that the chunk is not open in between.
        content.picker.set(c, State::Arrived);
        if let Some(p) = self.peers.get_mut(&peer) {
            p.pipeline.try_first();
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
        self.share(key, c);
        Arrival::Wanted
    }

    /// A request for the chunk with this number of a content that was removed since. A peer names contents by their
    /// roots, so its answer comes under whichever key has that root now.
    fn asked_before(&self, peer: PeerKey, c: u32) -> Option<usize> {
        let asks = &self.peers.get(&peer)?.pipeline.asks;
        asks.iter().position(|a| a.chunk == c && !self.contents.contains_key(&a.content))
    }

    /// A chunk of the peer's was looked at: it was right, or (ours to mend) it could not be kept.
    pub(super) fn verified(&mut self, peer: PeerKey, right: bool) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        if p.pipeline.tried(right) {
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
            content.reshelve(c);
            self.refill = true;
        }
        self.share(key, c);
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
        let before = self.asked_before(peer, c);
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let now_asked = p.pipeline.position(key, c);
        // What was cancelled is what was asked for before.
        let of = if why == Refusal::Cancelled { before.or(now_asked) } else { now_asked.or(before) };
        let Some(i) = of else {
            if !self.promise_refused(peer, key, c)
                && let Some(p) = self.peers.get_mut(&peer)
            {
                p.noise += 1;
            }
            return;
        };
        p.pipeline.show_life(now);
        let ask = p.pipeline.remove(i);
        if !ask.cancelled {
            p.down.give_back(u64::from(ask.bytes));
            self.not_coming(ask.content, u64::from(ask.bytes));
            self.unask(ask.content, c);
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
            self.refill |= line.sulked(now);
            if line.is_late(now, self.cfg.snub_after) {
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
        if self.peers.get(&peer).is_none_or(|p| p.choking_us) {
            return;
        }
        let mut batch: Vec<(ContentKey, Vec<ChunkIndex>)> = Vec::new();
        let least = self.least(peer);
        while self.peers.get(&peer).is_some_and(|p| p.has_room(now, least)) {
            let next = self.take_urgent(peer).or_else(|| self.choose(peer)).or_else(|| self.take_over(peer));
            let Some((key, c)) = next else { break };
            self.enter_ask(peer, key, c, false);
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

    /// What a peer may be asked for at once, however slow it is. A lone seed is to have something to choose from, so
    /// that it can send what nobody has yet. Near the end nobody has two of the last chunks in line: others could
    /// bring them sooner, and a request that is taken from one peer to another comes twice if the first was just
    /// about to answer.
    fn least(&self, peer: PeerKey) -> usize {
        let Some(p) = self.peers.get(&peer) else { return 2 };
        let lone = |k: &ContentKey| {
            let content = self.contents.get(k).filter(|c| c.picker.seeds() == 1);
            content.and_then(|c| c.swarm.get(&peer)).is_some_and(|n| n.complete)
        };
        let ends = |k: &ContentKey| self.contents.get(k).is_none_or(|c| c.picker.open() <= c.picker.asked());
        if p.contents.iter().any(lone) {
            LONE_SEED
        } else if p.contents.iter().all(ends) {
            1
        } else {
            2
        }
    }

    pub(super) fn enter_ask(&mut self, peer: PeerKey, key: ContentKey, c: u32, chosen: bool) {
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
        p.pipeline.push(Ask { chosen, ..Ask::new(key, c, bytes, now) });
        self.tick_at = self.tick_at.min(now + TICK);
        self.share(key, c);
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
            self.ask_at = self.ask_at.min(t);
            return None;
        }
        let late = super::endgame::expected(p, now, p.pipeline.live_bytes() + u64::from(CHUNK_LEN));
        let mut order: Vec<(u64, ContentKey)> = Vec::new();
        for key in &p.contents {
            let Some(content) = self.contents.get_mut(key).filter(|c| c.wants()) else { continue };
            match content.down.wait(now) {
                Some(t) => self.ask_at = self.ask_at.min(t),
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
            let dead = p.pipeline.asks.len() > p.pipeline.live();
            let skip = |c| dead && p.pipeline.position(key, c).is_some();
            if let Some(c) = content.picker.pick(&mut self.rng, &mut n.asked(), first, eta, skip) {
                self.down_turn = self.down_turn.max(turn);
                return Some((key, c));
            }
        }
        None
    }
}
