//! What is held, and so served: what the engine is told of it, of a whole content or chunk by chunk.

use crate::bitfield::Bitfield;
use crate::engine::event::{ContentEvent, StoreResult};
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey};

use super::call::{Known, Slow};
use super::contents::Content;
use super::driver::Driver;

impl Driver {
    /// The engine hears of a content, and of what we hold of it.
    pub(super) fn activate(&mut self, key: ContentKey, want: bool) {
        let now = self.clock.now();
        let Some(content) = self.contents.get_mut(key).filter(|c| !c.active) else { return };
        content.active = true;
        if content.paused {
            // Before all else, so that nobody is told that it is wanted.
            self.engine.handle_content(now, key, ContentEvent::Added { want: false });
            self.engine.handle_content(now, key, ContentEvent::Paused(true));
        }
        self.engine.handle_content(now, key, ContentEvent::Added { want });
        self.limit_content(key);
        let Some(content) = self.contents.get(key) else { return };
        if !want {
            let len =
                u32::try_from(content.held_bytes / u64::from(content.have.len().max(1))).unwrap_or(u32::MAX);
            self.engine.handle_content(now, key, ContentEvent::Grew { count: content.chunks, len });
            self.engine.handle_content(now, key, ContentEvent::ManifestComplete);
            for range in content.have.ranges() {
                self.engine.handle_content(now, key, ContentEvent::Held(range));
            }
        }
    }

    pub(super) fn deactivate(&mut self, key: ContentKey) {
        let now = self.clock.now();
        self.bitswap_forgets(key);
        self.bitswap_serves_anew();
        let Some(content) = self.contents.get_mut(key) else { return };
        if std::mem::take(&mut content.active) {
            self.engine.handle_content(now, key, ContentEvent::Removed);
        }
        content.all_left();
        content.fetch = None;
        self.names.forget(key);
        self.stop_providing(key);
    }

    pub(super) fn forget(&mut self, key: ContentKey) {
        self.deactivate(key);
        // Whoever is in its swarm is told so while its name is here.
        self.carry_out();
        self.contents.remove(key);
    }

    pub(super) fn serve(&mut self, Known { info, have }: Known) {
        if self.contents.get(info.key).is_some_and(|c| c.active && c.complete) {
            return;
        }
        self.deactivate(info.key);
        let mut content = Content::of(&info, have);
        content.seeding = true;
        content.paused = self.paused.contains(&info.root);
        let paused = content.paused;
        self.contents.insert(info.key, content);
        self.bitswap_serves_anew();
        self.provide(info.key);
        if paused {
            self.rest(info.key);
        }
    }

    pub(super) fn lost(&mut self, key: ContentKey, ranges: &[ChunkRange]) {
        let now = self.clock.now();
        let Some(content) = self.contents.get_mut(key) else { return };
        for &range in ranges {
            content.have.remove_range(range);
            if content.active {
                self.engine.handle_content(now, key, ContentEvent::Lost(range));
            }
        }
    }

    /// A file turned out to have changed: what else of the content is no longer held?
    pub(super) fn recheck(&mut self, key: ContentKey) {
        let store = self.store.clone();
        self.slowly(move || Slow::Withdrawn { key, have: store.have(key).unwrap_or_default() });
    }

    /// What was found to be held still: the rest is lost.
    pub(super) fn withdrawn(&mut self, key: ContentKey, have: &Bitfield) {
        let Some(content) = self.contents.get(key) else { return };
        let gone: Vec<ChunkRange> =
            content.have.iter().filter(|&i| !have.contains(i)).map(ChunkRange::one).collect();
        self.lost(key, &gone);
    }

    /// A chunk is held from now on: it came from a peer, or (`None`) was copied from another content of ours.
    pub(super) fn stored(
        &mut self,
        key: ContentKey,
        chunk: ChunkIndex,
        from: Option<PeerKey>,
        data_len: u64,
    ) {
        let now = self.clock.now();
        self.checkpoints.wrote(data_len);
        if let Some(content) = self.contents.get_mut(key) {
            content.have.insert(chunk);
            content.held_bytes += data_len;
            if let Some(fetch) = &mut content.fetch {
                fetch.last_progress = now;
            }
            let mut i = 0;
            while i < content.watchers.len() {
                if content.watchers[i].0 == chunk {
                    let _ = content.watchers.swap_remove(i).1.send(());
                } else {
                    i += 1;
                }
            }
        }
        match from {
            Some(from) => self.engine.handle_store(now, StoreResult::Stored { content: key, chunk, from }),
            None => self.engine.handle_content(now, key, ContentEvent::Held(ChunkRange::one(chunk))),
        }
        self.bitswap_news();
        self.provide(key);
    }
}
