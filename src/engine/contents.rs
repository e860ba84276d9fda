//! What the driver tells of contents: chunks that become known, held, lost, wanted.

use super::Engine;
use super::event::{Action, ContentEvent, Refusal};
use super::picker::State;
use super::state::Content;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, MAX_CHUNKS, PeerKey};

impl Engine {
    pub(super) fn on_content(&mut self, key: ContentKey, event: ContentEvent) {
        let now = self.now;
        if let ContentEvent::Added { want } = event {
            return self.add(key, want);
        }
        let Some(content) = self.contents.get_mut(&key) else { return };
        match event {
            ContentEvent::Added { .. } => {}
            ContentEvent::Grew { count, len } => self.grow(key, count, len),
            ContentEvent::ManifestComplete => {
                content.whole = true;
                self.settle_manifest(key);
            }
            ContentEvent::NodesWanted(_) | ContentEvent::NodesHeld(_) => self.on_nodes(key, event),
            ContentEvent::Held(range) => self.hold(key, range),
            ContentEvent::Lost(range) => self.lose(key, range),
            ContentEvent::Priority { range, level } => {
                content.picker.set_priority(range, level);
                if level == 0 {
                    self.cancel_unwanted(key, range);
                }
                self.share_range(key, range.start()..range.end());
                self.wants_changed(key);
            }
            ContentEvent::Window { start, count, per_chunk } => {
                content.picker.set_window(now, start.get(), count, per_chunk);
                self.refill = true;
            }
            ContentEvent::Paused(paused) => self.pause(key, paused),
            ContentEvent::Limits { up, down } => {
                content.up.set_rate(now, up);
                content.down.set_rate(now, down);
                (self.refill, self.dispatch) = (true, true);
            }
            ContentEvent::Same { chunk, other } => self.same(key, chunk.get(), (other.0, other.1.get())),
            ContentEvent::NotCopied(chunk) => self.not_copied(key, chunk.get()),
            ContentEvent::Removed => {
                self.leave_all(key);
                self.part_all(key);
                self.contents.remove(&key);
            }
        }
    }

    fn add(&mut self, key: ContentKey, want: bool) {
        let now = self.now;
        let content = self.contents.entry(key).or_insert_with(|| Content::new(now, want));
        content.picker.set_want(want);
        self.share_range(key, 0..u32::MAX);
        self.wants_changed(key);
        self.restart_pex(key);
        if want {
            self.join_all(key);
        }
    }

    fn join_all(&mut self, key: ContentKey) {
        let peers: Vec<PeerKey> = self.peers.keys().copied().collect();
        for peer in peers {
            self.join(peer, key);
        }
    }

    fn grow(&mut self, key: ContentKey, count: u32, len: u32) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let from = content.picker.len();
        let count = count.min(MAX_CHUNKS - from);
        let Some(range) = ChunkRange::new(from, from + count) else { return };
        if content.lens.last().is_none_or(|(_, l)| *l != len) {
            content.lens.push((from, len));
        }
        content.picker.grow(count);
        if content.first.is_some() {
            self.promises.push(key);
        }
        let Some(content) = self.contents.get_mut(&key) else { return };
        content.finished = false;
        for n in content.swarm.values_mut().filter(|n| !n.complete) {
            let mut at = from;
            while let Some(c) = n.have.next_set(at).filter(|c| *c < range.end()) {
                content.picker.seen(c);
                at = c + 1;
            }
            n.shelf = super::picker::Shelf::None;
        }
        self.wants_changed(key);
    }

    /// The number of chunks is known now: who has them all, and who spoke of more than there are?
    fn settle_manifest(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let len = content.picker.len();
        let mut full = Vec::new();
        for (peer, n) in content.swarm.iter_mut().filter(|(_, n)| !n.complete) {
            if let Some(r) = ChunkRange::new(len, MAX_CHUNKS) {
                n.have.remove_range(r);
            }
            if len > 0 && n.have.len() == len {
                full.push(*peer);
            }
        }
        for peer in full {
            self.on_complete(peer, key);
        }
        self.wants_changed(key);
        self.tell_complete(key);
    }

    /// What is wanted or known has changed in bulk: counts, interest, requests, the end.
    fn wants_changed(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        content.recount();
        content.finished &= content.picker.missing() == 0;
        self.fickle.extend(content.swarm.keys().map(|p| (key, *p)));
        if content.wants() {
            self.due = self.due.min(self.now);
            if content.pex.find_at == crate::units::Time::MAX {
                self.look_soon(key);
            }
        }
        self.refill = true;
        self.check_finished(key);
    }

    /// Says `Finished` once, when nothing that is wanted is missing.
    pub(super) fn check_finished(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let done = content.whole && content.picker.wants() && content.picker.missing() == 0;
        if done && !content.finished {
            content.finished = true;
            self.fickle.extend(content.swarm.keys().map(|p| (key, *p)));
            self.actions.push_back(Action::Finished { content: key });
            if !self.leeching() {
                // Slots go by other rules from now on.
                self.judge();
            }
        }
    }

    /// Held without having been asked for: found on the disk.
    fn hold(&mut self, key: ContentKey, range: ChunkRange) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let range = range.start()..range.end().min(content.picker.len());
        let one = range.len() == 1;
        for c in range {
            self.held(key, c, one);
        }
        if one {
            return;
        }
        let Some(content) = self.contents.get_mut(&key) else { return };
        content.recount();
        if !content.swarm.is_empty() {
            self.fickle.extend(content.swarm.keys().map(|p| (key, *p)));
            self.flush_haves(key);
        }
        self.end_of_chunk(key);
    }

    /// One chunk is held now; the neighbours' counts are brought up to date here if `count` says so.
    fn held(&mut self, key: ContentKey, c: u32, count: bool) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        if content.picker.state(c) == Some(State::Held) {
            return;
        }
        let asked = content.picker.asks(c) > 0;
        if !content.picker.set(c, State::Held) {
            return;
        }
        if asked {
            self.cancel_everywhere(key, c);
        }
        self.share(key, c);
        if count {
            self.spread_held(key, c);
            self.end_of_chunk(key);
        } else {
            self.log_held(key, c);
        }
    }

    fn end_of_chunk(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get(&key) else { return };
        if !content.wants() && !content.finished {
            self.fickle.extend(content.swarm.keys().map(|p| (key, *p)));
        }
        self.check_finished(key);
        self.tell_complete(key);
    }

    fn lose(&mut self, key: ContentKey, range: ChunkRange) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let mut lost = Vec::new();
        for c in range.start()..range.end().min(content.picker.len()) {
            if content.picker.state(c) == Some(State::Held) {
                content.picker.set(c, State::Missing);
                lost.push(c);
            }
        }
        if lost.is_empty() {
            return;
        }
        let holders: Vec<PeerKey> = content.swarm.keys().copied().collect();
        lost.iter().for_each(|c| self.share(key, *c));
        for peer in holders {
            self.refuse_queued(peer, Refusal::Gone, |q| {
                q.content == key && lost.binary_search(&q.chunk).is_ok()
            });
        }
        self.tell_lost(key, &super::haves::runs(lost));
        self.wants_changed(key);
    }

    /// Requests for what is no longer wanted.
    fn cancel_unwanted(&mut self, key: ContentKey, range: ChunkRange) {
        let Some(content) = self.contents.get(&key) else { return };
        let end = range.end().min(content.picker.len());
        let asked: Vec<u32> = (range.start()..end).filter(|c| content.picker.asks(*c) > 0).collect();
        for c in asked {
            self.cancel_everywhere(key, c);
        }
    }

    fn pause(&mut self, key: ContentKey, paused: bool) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        if !paused {
            content.picker.resume();
            self.share_range(key, 0..u32::MAX);
        }
        let Some(content) = self.contents.get_mut(&key) else { return };
        if content.paused == paused {
            self.wants_changed(key);
            return;
        }
        if paused {
            self.leave_all(key);
            if let Some(content) = self.contents.get_mut(&key) {
                (content.paused, content.told_complete) = (true, false);
            }
        } else {
            content.paused = false;
            self.share_range(key, 0..u32::MAX);
            self.wants_changed(key);
            self.restart_pex(key);
            // A seed tells its old neighbours that it is back as well.
            self.join_all(key);
        }
    }

    /// Out of the swarm: requests are cancelled, those of others refused, the neighbours told.
    fn leave_all(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let mut peers: Vec<PeerKey> = content.swarm.keys().copied().collect();
        let joining: Vec<PeerKey> = std::mem::take(&mut content.joining).into_keys().collect();
        for peer in &peers {
            self.cancel_all(*peer, Some(key));
            self.refuse_queued(*peer, Refusal::Gone, |q| q.content == key);
        }
        peers.extend(joining);
        if let Some(content) = self.contents.get_mut(&key) {
            // What is asked for now would be asked of those that are about to be left.
            content.paused = true;
        }
        for peer in peers {
            self.drop_neighbour(peer, key);
            self.actions.push_back(Action::Leave { peer, content: key });
        }
        if let Some(content) = self.contents.get_mut(&key) {
            content.nodes.reset();
        }
    }

    pub(super) fn on_stored(&mut self, key: ContentKey, c: u32) {
        self.held(key, c, true);
    }

    /// The chunk is wanted again: at once, or (the disk is full) once the content is resumed.
    pub(super) fn on_not_stored(&mut self, key: ContentKey, c: u32, later: bool) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        if content.picker.state(c) != Some(State::Arrived) {
            return;
        }
        content.picker.set(c, if later { State::Withheld } else { State::Missing });
        content.reshelve(c);
        self.refill = true;
        self.share(key, c);
    }

    /// Everything held, as a driver needs it to answer a `Join`.
    pub fn have(&self, key: ContentKey) -> Option<&crate::bitfield::Bitfield> {
        self.contents.get(&key).map(|c| c.picker.held())
    }

    /// Every chunk there is is held.
    pub fn is_complete(&self, key: ContentKey) -> bool {
        self.contents.get(&key).is_some_and(Content::complete)
    }

    /// Something of the content is still to be fetched; what `Join` and `Joined` call interested.
    pub fn wants(&self, key: ContentKey) -> bool {
        self.contents.get(&key).is_some_and(Content::wants)
    }

    /// Whether a chunk is held.
    pub fn holds(&self, key: ContentKey, chunk: ChunkIndex) -> bool {
        self.contents.get(&key).is_some_and(|c| c.picker.held().contains(chunk))
    }
}
