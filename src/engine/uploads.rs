//! The order in which what peers asked for is sent.
//!
//! How much is with the driver at a time says `window.rs`; what goes next is decided as late as that allows.
//! Among the requests of unchoked peers the content that was served least comes first, within it the peer
//! that was served least. As the only complete source we send first what has spread least, so that nothing
//! goes out twice before everything went out once. Peers that speak Bitswap have no choke and share one turn.

use std::collections::BTreeSet;

use super::Engine;
use super::event::{Action, Fault, PeerKind, Refusal};
use super::state::Queued;
use super::window::{Flying, Room, Window};
use crate::units::{ChunkIndex, ContentKey, PeerKey, Time};

/// Bytes under way to a Bitswap peer: what others of its kind keep to as well.
const BITSWAP_WINDOW: u64 = 1 << 20;
/// Chunks new to the swarm that are remembered of a peer.
const MAX_GIFTS: usize = 8;
/// Requests of one peer that are looked at for the one to send next.
const LOOK: usize = 32;

/// What is being sent.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// Peers with requests in their queue.
    waiting: BTreeSet<PeerKey>,
    pub window: Window,
    /// The turn of the peer and of the content that were served last.
    peer_turn: u64,
    content_turn: u64,
    bitswap_turn: u64,
}

impl Engine {
    pub(super) fn on_requested(&mut self, peer: PeerKey, key: ContentKey, chunks: &[ChunkIndex]) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let content = self.contents.get_mut(&key).filter(|c| !c.paused);
        let mut flood = false;
        let was_empty = p.queue.is_empty();
        for chunk in chunks {
            let c = chunk.get();
            let held = content.as_ref().is_some_and(|k| k.picker.held().contains(*chunk));
            let dup = p.queue.iter().any(|q| q.chunk == c && q.content == key);
            let why = if !held {
                Refusal::Gone
            } else if p.choked || p.queue.len() >= self.cfg.queue_per_peer {
                flood |= !p.choked;
                Refusal::Choked
            } else if dup {
                Refusal::Cancelled
            } else {
                let bytes = content.as_ref().map_or(0, |k| k.len_of(c));
                p.queue.push(Queued { content: key, chunk: c, bytes });
                continue;
            };
            p.noise += 1;
            self.actions.push_back(Action::Refuse { peer, content: key, chunk: *chunk, why });
        }
        if !p.queue.is_empty() {
            if was_empty {
                p.turn = p.turn.max(self.uploads.peer_turn);
                self.uploads.waiting.insert(peer);
            }
            if let Some(k) = content {
                k.up_turn = k.up_turn.max(self.uploads.content_turn);
            }
            self.dispatch = true;
        }
        if flood {
            self.fault(peer, Fault::Flood);
        }
    }

    pub(super) fn on_cancelled(&mut self, peer: PeerKey, key: ContentKey, chunks: &[ChunkIndex]) {
        self.refuse_queued(peer, Refusal::Cancelled, |q| {
            q.content == key && ChunkIndex::new(q.chunk).is_some_and(|c| chunks.contains(&c))
        });
    }

    /// Answers what is queued and meets the test without a chunk.
    pub(super) fn refuse_queued(&mut self, peer: PeerKey, why: Refusal, test: impl Fn(&Queued) -> bool) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let (gone, kept) = std::mem::take(&mut p.queue).into_iter().partition(|q| test(q));
        let gone: Vec<Queued> = gone;
        p.queue = kept;
        if p.queue.is_empty() {
            self.uploads.waiting.remove(&peer);
        }
        for q in gone {
            if let Some(chunk) = ChunkIndex::new(q.chunk) {
                self.actions.push_back(Action::Refuse { peer, content: q.content, chunk, why });
            }
        }
    }

    /// The peer is gone.
    pub(super) fn drop_sends(&mut self, peer: PeerKey) {
        self.uploads.waiting.remove(&peer);
        self.uploads.window.drop_peer(peer);
        self.dispatch = true;
    }

    pub(super) fn on_sent(&mut self, peer: PeerKey, key: ContentKey, c: u32, bytes: u64) {
        let now = self.now;
        let Some(f) = self.uploads.window.take(peer, key, c) else { return };
        self.uploads.window.sent(now, bytes, !self.uploads.waiting.is_empty());
        self.up_rate.add(now, bytes);
        self.ledger.gave(now, peer, bytes);
        if let Some(p) = self.peers.get_mut(&peer) {
            p.sending = p.sending.saturating_sub(u64::from(f.bytes));
            p.sending_count = p.sending_count.saturating_sub(1);
            p.up_rate.add(now, bytes);
            p.was_sent = true;
        }
        if let Some(content) = self.contents.get_mut(&key) {
            content.up_rate.add(now, bytes);
        }
        self.dispatch = true;
        self.rotate(peer);
    }

    /// The store could not read what was to be sent; the peer is told that it is gone.
    pub(super) fn on_unreadable(&mut self, key: ContentKey, c: u32, to: PeerKey) {
        let Some(f) = self.uploads.window.take(to, key, c) else { return };
        if let Some(p) = self.peers.get_mut(&to) {
            p.sending = p.sending.saturating_sub(u64::from(f.bytes));
            p.sending_count = p.sending_count.saturating_sub(1);
        }
        if let Some(chunk) = ChunkIndex::new(c) {
            self.actions.push_back(Action::Refuse { peer: to, content: key, chunk, why: Refusal::Gone });
        }
        self.dispatch = true;
    }

    /// Sends as long as the link can take more, and opens a slot if nobody has anything to ask for.
    pub(super) fn send_more(&mut self) {
        let now = self.now;
        self.send_at = Time::MAX;
        loop {
            let room = self.uploads.window.room(now, self.cfg.send_window_total);
            if let Room::None(until) = room {
                if !self.uploads.waiting.is_empty() {
                    self.send_at = self.send_at.min(until);
                }
                return;
            }
            if !self.uploads.waiting.is_empty()
                && let Some(t) = self.limits_up.wait(now)
            {
                self.send_at = self.send_at.min(t);
                return;
            }
            match self.next_send(room) {
                Some((peer, at)) => self.send(peer, at),
                None if room != Room::ForAny => return,
                None => break,
            }
        }
        self.uploads.window.nothing_waits();
        self.open_slot();
    }

    fn send(&mut self, peer: PeerKey, at: usize) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let q = p.queue.remove(at);
        let bytes = u64::from(q.bytes);
        if p.queue.is_empty() {
            self.uploads.waiting.remove(&peer);
        }
        p.sending += bytes;
        p.sending_count += 1;
        p.served = p.served.saturating_add(bytes);
        p.up.take(bytes);
        self.limits_up.take(bytes);
        if p.kind == PeerKind::Bitswap {
            self.uploads.bitswap_turn = self.uploads.bitswap_turn.max(self.uploads.peer_turn) + bytes;
        } else {
            self.uploads.peer_turn = self.uploads.peer_turn.max(p.turn);
        }
        p.turn += bytes;
        if let Some(content) = self.contents.get_mut(&q.content) {
            self.uploads.content_turn = self.uploads.content_turn.max(content.up_turn);
            content.up_turn += bytes;
            content.up.take(bytes);
            if self.cfg.super_seeding && content.alone() && content.picker.spread(q.chunk) == 0 {
                p.new_gifts += 1;
                if p.gifts.len() >= MAX_GIFTS {
                    p.gifts.remove(0);
                }
                p.gifts.push((q.content, q.chunk));
            }
            content.picker.count_sent(q.chunk);
        }
        let flying = Flying { peer, content: q.content, chunk: q.chunk, bytes: q.bytes };
        self.uploads.window.push(self.now, flying);
        if let Some(chunk) = ChunkIndex::new(q.chunk) {
            self.actions.push_back(Action::Send { peer, content: q.content, chunk });
        }
    }

    /// Whose request goes next, and which of its queue.
    fn next_send(&mut self, room: Room) -> Option<(PeerKey, usize)> {
        let now = self.now;
        let mut best: Option<(Rank, PeerKey, usize)> = None;
        let mut wake = Time::MAX;
        for peer in &self.uploads.waiting {
            let Some(p) = self.peers.get_mut(peer) else { continue };
            let idle = p.sending_count == 0;
            if room == Room::ForIdle && !idle || room == Room::ForNew && (!idle || p.was_sent) {
                continue;
            }
            let window = match p.kind {
                PeerKind::Exchange => self.cfg.send_window_peer,
                PeerKind::Bitswap => self.cfg.send_window_peer.min(BITSWAP_WINDOW),
            };
            if p.sending_count >= 2 && p.sending >= window {
                continue;
            }
            if let Some(t) = p.up.wait(now) {
                wake = wake.min(t);
                continue;
            }
            let turn = match p.kind {
                PeerKind::Exchange => (p.turn, 0),
                PeerKind::Bitswap => (self.uploads.bitswap_turn, p.turn),
            };
            let mut last: Option<(ContentKey, Option<(u64, bool)>)> = None;
            for (at, q) in p.queue.iter().take(LOOK).enumerate() {
                if last.is_none_or(|(k, _)| k != q.content) {
                    let content = self.contents.get_mut(&q.content);
                    let turn = content.and_then(|c| match c.up.wait(now) {
                        Some(t) => {
                            wake = wake.min(t);
                            None
                        }
                        None => Some((c.up_turn, self.cfg.super_seeding && c.alone())),
                    });
                    last = Some((q.content, turn));
                }
                let Some((_, Some((content_turn, alone)))) = last else { continue };
                let spread = match self.contents.get(&q.content) {
                    Some(c) if alone => c.picker.spread(q.chunk),
                    _ => 0,
                };
                let rank = Rank { content_turn, spread, turn, at };
                if best.as_ref().is_none_or(|(b, _, _)| rank < *b) {
                    best = Some((rank, *peer, at));
                }
            }
        }
        self.send_at = self.send_at.min(wake);
        best.map(|(_, peer, at)| (peer, at))
    }

    pub(super) fn check_flying(&self) -> Result<(), &'static str> {
        self.uploads.window.check()
    }

    /// Nothing is lost and nothing is counted wrong.
    pub(super) fn check_uploads(&self) -> Result<(), String> {
        let want = |ok: bool, what: &str| if ok { Ok(()) } else { Err(format!("uploads: {what}")) };
        for (key, p) in &self.peers {
            let flying = self.uploads.window.flying().filter(|f| f.peer == *key);
            let (n, bytes) = flying.fold((0, 0), |(n, b), f| (n + 1, b + u64::from(f.bytes)));
            want(p.sending_count == n && p.sending == bytes, "in flight")?;
            want(self.uploads.waiting.contains(key) != p.queue.is_empty(), "who waits")?;
            want(p.queue.len() <= self.cfg.queue_per_peer, "queue too long")?;
            want(!p.choked || p.queue.is_empty(), "a choked peer waits")?;
        }
        want(self.uploads.waiting.iter().all(|k| self.peers.contains_key(k)), "a stranger waits")
    }
}

/// What decides who is served next; smaller is sooner.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    content_turn: u64,
    spread: u32,
    turn: (u64, u64),
    at: usize,
}
