//! What an idle peer does while everything that it has is asked of others already.
//!
//! A request that waits in line behind others is taken over: cancelled there, made here. In the endgame
//! proper (nothing is open any more) a chunk that should have begun is asked for a second time as well,
//! if that promises to be sooner; the loser is cancelled when the winner arrives. Thereby no slow peer
//! holds a chunk hostage.

use std::time::Duration;

use super::Engine;
use super::picker::State;
use super::state::{Content, Peer};
use crate::units::{ContentKey, PeerKey, Time};

/// What a takeover must win, beyond its own costs.
pub(super) const GAIN: Duration = Duration::from_millis(100);
/// What is assumed of a peer that has not delivered yet.
const GUESS: Duration = Duration::from_secs(1);
/// A request of which no byte has come after this long has probably not begun.
const WAIT: Duration = Duration::from_millis(500);
/// Between looks for something to take over.
const PAUSE: Duration = Duration::from_millis(20);

/// Chunks at the head of a streaming window that are looked at for being late.
const URGENT: usize = 8;

/// A request at another peer.
struct Candidate {
    peer: PeerKey,
    content: ContentKey,
    chunk: u32,
    /// It waits behind others there.
    in_line: bool,
    /// How much later it is expected than from the idle peer.
    gain: Duration,
}

/// How long `bytes` take at this peer, after what it already has to send.
pub(super) fn expected(p: &Peer, now: Time, bytes: u64) -> Duration {
    match p.down_rate.per_second(now) {
        0 => GUESS,
        rate => Duration::from_micros(bytes.saturating_mul(1_000_000) / rate),
    }
}

impl Engine {
    /// A chunk that this peer, whose pipeline has room, is to be asked for although others are.
    pub(super) fn take_over(&mut self, idle: PeerKey) -> Option<(ContentKey, u32)> {
        let now = self.now;
        let p = self.peers.get_mut(&idle)?;
        if p.pipeline.live() > 1 || now < p.look_at {
            return None;
        }
        p.look_at = now + PAUSE;
        let limited = p.down.wait(now).is_some() || self.limits_down.wait(now).is_some();
        if limited {
            return None;
        }
        let Some(best) = self.best_candidate(idle) else { return self.best_twin(idle) };
        if best.in_line {
            self.cancel_at(best.peer, best.content, &[best.chunk]);
        }
        Some((best.content, best.chunk))
    }

    /// A chunk of a streaming window that would come too late from where it was asked, and sooner from
    /// this peer. One slow peer does not stall the reader.
    pub(super) fn take_urgent(&mut self, peer: PeerKey) -> Option<(ContentKey, u32)> {
        let now = self.now;
        let p = self.peers.get(&peer)?;
        for key in &p.contents {
            let asked = |c: &&Content| c.picker.asked() + c.picker.elsewhere() > 0;
            let Some(content) = self.contents.get(key).filter(|c| c.wants()).filter(asked) else { continue };
            let Some(me) = content.swarm.get(&peer) else { continue };
            let late = content.picker.window().take(URGENT).filter(|c| {
                let asks = self.asks_of(*key, *c);
                // One that could not be kept is not tried again because another content asks for its like.
                let open = matches!(content.picker.state(*c), Some(State::Asked | State::Elsewhere));
                open && asks > 0
                    && asks < self.cfg.endgame_copies
                    && me.has(*c)
                    && p.pipeline.position(*key, *c).is_none()
            });
            for c in late {
                let Some(due) = content.picker.due(c) else { continue };
                let Some(there) = self.soonest(*key, c) else { continue };
                let here = self.would_take(p, u64::from(content.len_of(c)));
                if now + there > due && here + here / 2 + GAIN < there {
                    return Some((*key, c));
                }
            }
        }
        None
    }

    /// How long a chunk of so many bytes would take from this peer, if it were asked for it now.
    pub(super) fn would_take(&self, p: &Peer, bytes: u64) -> Duration {
        expected(p, self.now, p.pipeline.live_bytes() + bytes) + p.rtt_or_zero()
    }

    /// How long until a chunk comes from where it is asked, for this content or another.
    pub(super) fn soonest(&self, key: ContentKey, c: u32) -> Option<Duration> {
        let twins = self.contents.get(&key)?.twins.of(c);
        let all = std::iter::once((key, c)).chain(twins.iter().copied());
        all.filter_map(|(key, c)| self.soonest_in(key, c)).min()
    }

    fn soonest_in(&self, key: ContentKey, c: u32) -> Option<Duration> {
        let content = self.contents.get(&key).filter(|x| x.picker.asks(c) > 0)?;
        let at = |q: &PeerKey| {
            let q = self.peers.get(q)?;
            let i = q.pipeline.position(key, c).filter(|i| !q.pipeline.asks[*i].cancelled)?;
            let live = q.pipeline.asks[..=i].iter().filter(|a| !a.cancelled);
            Some(self.until(q, live.map(|a| u64::from(a.bytes)).sum(), q.pipeline.asks[i].at))
        };
        content.swarm.keys().filter_map(at).min()
    }

    /// How long until a peer has sent what it has in line; the last of it was asked for at `asked`.
    fn until(&self, q: &Peer, ahead: u64, asked: Time) -> Duration {
        let since = self.now.since(q.pipeline.chunk_at.max(asked));
        match q.down_rate.per_second(self.now) {
            0 => GUESS + since,
            // Who is overdue will be so for as long again as it has been, or half.
            _ => expected(q, self.now, ahead).saturating_sub(since).max(since / 2),
        }
    }

    fn best_candidate(&self, idle: PeerKey) -> Option<Candidate> {
        let now = self.now;
        let p = self.peers.get(&idle)?;
        let mut best: Option<Candidate> = None;
        // If our own link is what limits, nothing comes before what is in line for it already.
        let asked: u64 = self.peers.values().map(|p| p.pipeline.live_bytes()).sum();
        let rate = self.down_rate.per_second(now).max(1);
        let line = |bytes: u64| Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
        for key in &p.contents {
            let Some(content) = self.contents.get(key).filter(|c| c.wants() && c.picker.asked() > 0) else {
                continue;
            };
            let Some(me) = content.swarm.get(&idle).filter(|n| n.offers(&content.picker)) else {
                continue;
            };
            let endgame = content.picker.open() == 0;
            for q in content.swarm.keys().filter(|q| **q != idle) {
                let Some(other) = self.peers.get(q).filter(|q| !q.pipeline.asks.is_empty()) else { continue };
                let backlog = line(asked.saturating_sub(other.pipeline.live_bytes()));
                let mut ahead = 0u64;
                let mut place = 0;
                for a in other.pipeline.asks.iter().filter(|a| !a.cancelled) {
                    ahead += u64::from(a.bytes);
                    place += 1;
                    if a.content != *key || !me.has(a.chunk) || p.pipeline.position(*key, a.chunk).is_some() {
                        continue;
                    }
                    // No byte of it has come, and one could have by now: it has not begun.
                    let waits = !other.pipeline.begun() && now.since(a.at.max(other.pipeline.life)) > WAIT;
                    let in_line = place > 1 || a.overtaken || waits;
                    let again = endgame && content.picker.asks(a.chunk) < self.cfg.endgame_copies;
                    if !in_line && !again {
                        continue;
                    }
                    if in_line && p.pipeline.live() > 0 && !endgame {
                        continue;
                    }
                    let there = self.until(other, ahead, a.at);
                    let bytes = p.pipeline.live_bytes() + u64::from(a.bytes);
                    let here = (expected(p, now, bytes) + p.rtt_or_zero()).max(backlog);
                    let gain = there.saturating_sub(here + here / 2 + GAIN);
                    if gain > best.as_ref().map_or(Duration::ZERO, |b| b.gain) {
                        best = Some(Candidate { peer: *q, content: *key, chunk: a.chunk, in_line, gain });
                    }
                }
            }
        }
        best
    }
}
