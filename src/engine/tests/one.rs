//! One engine, driven by hand.

use std::time::Duration;

use super::net::{CHUNK, K};
use crate::bitfield::Bitfield;
use crate::engine::*;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey, Time};

pub const LEN: u64 = CHUNK as u64;

pub fn ix(c: u32) -> ChunkIndex {
    ChunkIndex::new(c).unwrap()
}

pub fn r(a: u32, b: u32) -> ChunkRange {
    ChunkRange::new(a, b).unwrap()
}

/// An engine with its clock, and what it said last.
pub struct One {
    pub e: Engine,
    pub now: Time,
    pub said: Vec<Action>,
}

impl One {
    pub fn new(cfg: Config, chunks: u32, want: bool) -> One {
        let mut one = One { e: Engine::new(cfg, 1), now: Time(1_000_000_000), said: Vec::new() };
        one.content(K, ContentEvent::Added { want });
        one.content(K, ContentEvent::Grew { count: chunks, len: CHUNK });
        one.content(K, ContentEvent::ManifestComplete);
        if !want {
            one.content(K, ContentEvent::Held(r(0, chunks)));
        }
        one
    }

    pub fn leech(chunks: u32) -> One {
        One::new(Config::default(), chunks, true)
    }

    pub fn seed(chunks: u32) -> One {
        One::new(Config::default(), chunks, false)
    }

    pub fn collect(&mut self) -> &[Action] {
        self.said.clear();
        self.said.extend(std::iter::from_fn(|| self.e.poll_action()));
        self.e.check_invariants().unwrap();
        &self.said
    }

    pub fn content(&mut self, k: ContentKey, event: ContentEvent) -> &[Action] {
        self.e.handle_content(self.now, k, event);
        self.collect()
    }

    pub fn peer(&mut self, p: u64, event: PeerEvent) -> &[Action] {
        self.e.handle_peer(self.now, PeerKey(p), event);
        self.collect()
    }

    pub fn connect(&mut self, p: u64) {
        let rtt = Some(Duration::from_millis(20));
        self.peer(p, PeerEvent::Connected { kind: PeerKind::Exchange, rtt });
    }

    /// A peer that has everything and has unchoked us.
    pub fn source(&mut self, p: u64) -> &[Action] {
        self.connect(p);
        self.peer(p, PeerEvent::Unchoked);
        self.peer(p, PeerEvent::Joined { content: K, have: Bitfield::new(), complete: true })
    }

    /// A peer that has nothing and wants everything.
    pub fn taker(&mut self, p: u64) -> Vec<Action> {
        self.connect(p);
        self.peer(p, PeerEvent::Joined { content: K, have: Bitfield::new(), complete: false });
        self.peer(p, PeerEvent::Interested { content: K, interested: true }).to_vec()
    }

    pub fn ask(&mut self, p: u64, chunks: std::ops::Range<u32>) -> Vec<Action> {
        self.peer(p, PeerEvent::Requested { content: K, chunks: chunks.map(ix).collect() }).to_vec()
    }

    pub fn deliver(&mut self, p: u64, c: u32) -> Arrival {
        let a = self.e.handle_chunk(self.now, PeerKey(p), K, ix(c), LEN);
        self.collect();
        a
    }

    pub fn store(&mut self, p: u64, c: u32) -> &[Action] {
        self.e.handle_store(self.now, StoreResult::Stored { content: K, chunk: ix(c), from: PeerKey(p) });
        self.collect()
    }

    /// Lets time pass, all timers on the way; says what was said meanwhile.
    pub fn pass(&mut self, ms: u64) -> Vec<Action> {
        let end = self.now + Duration::from_millis(ms);
        let mut all = Vec::new();
        while let Some(t) = self.e.poll_timeout().filter(|t| *t <= end) {
            self.now = self.now.max(t);
            self.e.handle_timeout(self.now);
            all.extend_from_slice(self.collect());
        }
        self.now = end;
        all
    }

    pub fn view(&self, p: u64) -> PeerView {
        self.e.peer(self.now, PeerKey(p)).unwrap()
    }
}

pub fn requests(actions: &[Action]) -> Vec<(u64, u32)> {
    let of = |a: &Action| match a {
        Action::Request { peer, chunks, .. } => chunks.iter().map(|c| (peer.0, c.get())).collect(),
        _ => Vec::new(),
    };
    actions.iter().flat_map(of).collect()
}

pub fn sends(actions: &[Action]) -> Vec<(u64, u32)> {
    let of = |a: &Action| match a {
        Action::Send { peer, chunk, .. } => Some((peer.0, chunk.get())),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

pub fn has(actions: &[Action], f: impl Fn(&Action) -> bool) -> bool {
    actions.iter().any(f)
}
