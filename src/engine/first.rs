//! The first chunk of a fetch, of the choice of whom is asked.
//!
//! Who knows nothing but a root can name no chunk: one round trip brings the inner nodes, and the next one the first
//! bytes of a chunk, while the connection finds out what the link takes only by bytes that pass. So one join, of the
//! first peer that is met, says that any chunk will do, and its answer which one comes behind it. That one counts as a
//! request like others from when its number is known here. Beside it the peer is asked for one, as anybody is of whom no
//! chunk was right yet: with nothing to send while the first is verified the link would idle for a round trip.

use super::Engine;
use super::event::{Action, PeerKind};
use super::pipeline::Ask;
use crate::units::{CHUNK_LEN, ChunkIndex, ContentKey, PeerKey, Time};

/// One of the first so many chunks is chosen: the inner nodes that go with the answer to a join speak of about as many.
const RANGE: u32 = 4_096;

/// The chunk that a content's first peer is to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct First {
    pub peer: PeerKey,
    /// What it chose, if it has answered, and if that is not known here yet.
    chunk: Option<u32>,
}

impl Engine {
    /// Whether a join is to say that any chunk will do. One peer at a time is told so.
    pub(super) fn asks_any(&mut self, peer: PeerKey, key: ContentKey) -> bool {
        let (Some(content), Some(p)) = (self.contents.get_mut(&key), self.peers.get_mut(&peer)) else {
            return false;
        };
        let nothing = content.picker.len() == 0 && !content.whole && content.first.is_none();
        if !nothing || !content.wants() || p.kind != PeerKind::Exchange {
            return false;
        }
        content.first = Some(First { peer, chunk: None });
        p.pipeline.any = Some(key);
        true
    }

    /// The answer to a join that said that any chunk will do: which one comes, if one does.
    pub(super) fn on_promised(&mut self, peer: PeerKey, key: ContentKey, chunk: Option<ChunkIndex>) {
        let Some(p) = self.peers.get_mut(&peer).filter(|p| p.pipeline.any == Some(key)) else { return };
        p.pipeline.any = None;
        let Some(content) = self.contents.get_mut(&key) else { return };
        // Who is in the swarm no more, or was told of nothing, is to send nothing.
        let asked = content.first.take_if(|f| f.peer == peer).is_some();
        let Some(c) = chunk.map(ChunkIndex::get) else { return };
        if asked && content.swarm.contains_key(&peer) {
            content.first = Some(First { peer, chunk: Some(c) });
            self.promises.push(key);
        } else {
            self.expect_late(peer, key, c);
        }
    }

    /// More chunks are known: what was promised is as good as asked for, if its number is among them.
    pub(super) fn take_promise(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let len = content.picker.len();
        let known = |f: &mut First| f.chunk.is_some_and(|c| c < len);
        let Some(First { peer, chunk: Some(c) }) = content.first.take_if(known) else { return };
        if content.picker.is_open(c) && !content.paused {
            self.enter_ask(peer, key, c, true);
        } else {
            self.expect_late(peer, key, c);
            let chunks = ChunkIndex::new(c).into_iter().collect();
            self.actions.push_back(Action::Cancel { peer, content: key, chunks });
        }
    }

    /// A peer leaves the swarm of a content; what it promised may come all the same.
    pub(super) fn forget_promise(&mut self, peer: PeerKey, key: ContentKey) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        if let Some(First { chunk: Some(c), .. }) = content.first.take_if(|f| f.peer == peer) {
            self.expect_late(peer, key, c);
        }
    }

    /// A chunk that may come and is not needed is nobody's fault.
    fn expect_late(&mut self, peer: PeerKey, content: ContentKey, chunk: u32) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer) else { return };
        p.pipeline.push(Ask::new(content, chunk, CHUNK_LEN, now));
        p.pipeline.cancel(p.pipeline.asks.len() - 1);
    }

    /// A peer refuses what it promised.
    pub(super) fn promise_refused(&mut self, peer: PeerKey, key: ContentKey, c: u32) -> bool {
        let Some(content) = self.contents.get_mut(&key) else { return false };
        content.first.take_if(|f| *f == First { peer, chunk: Some(c) }).is_some()
    }

    /// Whether this chunk comes because any would have done, ahead of what says so, or of what it is known by.
    pub(super) fn came_early(&mut self, peer: PeerKey, key: ContentKey, c: u32) -> bool {
        let Some(p) = self.peers.get_mut(&peer) else { return false };
        if p.pipeline.any.take().is_some() {
            if let Some(content) = self.contents.get_mut(&key) {
                content.first.take_if(|f| f.peer == peer);
            }
            return true;
        }
        self.promise_refused(peer, key, c)
    }

    /// A join said that any chunk will do: which one the peer is to have, as if it had asked for that. It goes out
    /// with the next actions. `None` if the peer is choked or is being served already.
    pub fn handle_any(&mut self, now: Time, peer: PeerKey, content: ContentKey) -> Option<ChunkIndex> {
        self.advance(now);
        let chunk = self.choose_any(peer, content)?;
        self.on_requested(peer, content, &[chunk]);
        self.settle();
        Some(chunk)
    }

    /// What we sent least of the first chunks, any of those.
    fn choose_any(&mut self, peer: PeerKey, key: ContentKey) -> Option<ChunkIndex> {
        let p = self.peers.get(&peer).filter(|p| !p.choked && p.queue.is_empty() && p.sending_count == 0)?;
        let content = self.contents.get(&key).filter(|c| !c.paused)?;
        let n = content.swarm.get(&peer).filter(|n| !n.complete && n.have.is_empty());
        if p.kind != PeerKind::Exchange || n.is_none() {
            return None;
        }
        let start = self.rng.below(content.picker.len().min(RANGE));
        let first = content.picker.held().iter().take_while(|c| c.get() < RANGE);
        first.min_by_key(|c| (content.picker.spread(c.get()), c.get().wrapping_sub(start) % RANGE))
    }
}
