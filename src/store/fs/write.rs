//! Writing verified chunks, and the checkpoint that makes them durable.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redb::WriteTransaction;

use crate::content::RAW;
use crate::content::chunk::{ChunkFrame, VerifiedChunk};
use crate::units::{ChunkIndex, ContentKey};

use super::super::StoreError;
use super::super::index::{self, Place};
use super::super::records::ContentRec;
use super::content::{Content, lock};
use super::read::gone;
use super::{FsStore, layout};

/// From this many files on, one sync of the whole file system is cheaper than one for each.
pub(super) const SYNC_ALL_FROM: usize = 32;

/// What a checkpoint is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    All,
    /// What is complete is left to the kernel, and to the next process.
    Fetching,
}

/// What a checkpoint commits of one content, as it was before the sync.
struct Snapshot {
    content: Arc<Content>,
    complete: bool,
    /// Given if the record is to be committed.
    held_bytes: Option<u64>,
    pages: BTreeSet<u32>,
    bits: Vec<(u32, Vec<u8>)>,
    frames: BTreeMap<u32, Arc<ChunkFrame>>,
    lens: BTreeMap<u32, u64>,
}

impl FsStore {
    pub(super) fn write(
        &self,
        c: &Content,
        chunk: ChunkIndex,
        data: &VerifiedChunk<'_>,
    ) -> Result<(), StoreError> {
        let _layout = c.reading();
        let rec = self.chunk_rec(c, chunk)?;
        {
            let s = c.state();
            if s.held.contains(chunk) {
                return Ok(());
            }
            if s.rec.complete {
                // What was fetched is the user's now: it is not written to again.
                return Err(StoreError::Exists { path: s.place() });
            }
        }
        if data.blocks().next().is_none_or(|(cid, _)| cid != rec.cid) {
            return Err(StoreError::UnknownChunk(chunk));
        }
        let places = if rec.more { self.places(c, chunk.get(), &rec)? } else { Vec::new() };
        let first = [Place { file: rec.file, offset: rec.offset }];
        let places = if rec.more { &places[..] } else { &first[..] };
        for place in places {
            self.write_place(c, *place, &mut data.segments())?;
        }
        let frame = if rec.cid.codec() == RAW { None } else { data.frame().map(Arc::new) };
        let bytes = data.data_len() * places.len() as u64;
        let guessed = if rec.len.is_none() { self.guessed(c, places)? } else { 0 };
        let mut s = c.state();
        if let Some(frame) = frame {
            s.frames.insert(chunk.get(), frame);
        }
        if rec.len.is_none() && s.lens.insert(chunk.get(), data.data_len()).is_none() {
            s.lens_dirty.insert(chunk.get());
            s.rec.size = s.rec.size.saturating_sub(guessed).saturating_add(bytes);
        }
        s.hold(chunk, bytes);
        Ok(())
    }

    /// What the files in these places were thought to have, in all.
    pub(super) fn guessed(&self, c: &Content, places: &[Place]) -> Result<u64, StoreError> {
        places.iter().try_fold(0u64, |sum, place| {
            let file = self.file_rec(c, place.file)?;
            Ok(sum.saturating_add(file.size.filter(|_| file.guess).unwrap_or(0)))
        })
    }

    pub(super) fn write_place(
        &self,
        c: &Content,
        place: Place,
        segments: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<(), StoreError> {
        let h = match self.files.get(c.key, place.file, true) {
            Some(h) => h,
            None => self.handle(c, place.file, &self.file_rec(c, place.file)?, true)?,
        };
        let mut at = place.offset;
        let _one = lock(&h.writing);
        for segment in segments {
            h.file.write_all_at(segment, at).map_err(|e| StoreError::io(&h.path, e))?;
            at += segment.len() as u64;
        }
        lock(&self.written).files.insert((c.key, place.file));
        Ok(())
    }

    /// The checkpoint. Reads and writes go on while it syncs: it speaks for what was held when it began.
    pub(super) fn save(&self, extent: Extent) -> Result<(), StoreError> {
        let _one = lock(&self.checkpointing);
        self.save_fetching()?;
        if extent == Extent::All { self.sync_finished() } else { Ok(()) }
    }

    fn save_fetching(&self) -> Result<(), StoreError> {
        let snapshots: Vec<Snapshot> = self.all().into_iter().filter_map(Snapshot::take).collect();
        let files = std::mem::take(&mut lock(&self.written).files);
        let unsaved = self.unsaved.swap(false, Ordering::AcqRel);
        if snapshots.is_empty() && files.is_empty() && !unsaved {
            return Ok(());
        }
        let done = self.sync_and_commit(&snapshots, &files);
        if done.is_err() {
            self.unsaved.store(true, Ordering::Release);
            snapshots.into_iter().for_each(Snapshot::put_back);
        }
        done
    }

    fn sync_and_commit(
        &self,
        snapshots: &[Snapshot],
        files: &BTreeSet<(ContentKey, u32)>,
    ) -> Result<(), StoreError> {
        if let Err(e) = self.sync(files) {
            // The kernel reports lost writes once only: what no commit covers is not believed any more.
            snapshots.iter().for_each(|s| self.distrust(s));
            return Err(e);
        }
        let _layouts: Vec<_> = snapshots.iter().map(|s| s.content.reading()).collect();
        let w = self.index.begin(true)?;
        // Bytes that no held bit covers go with the commit of the items that brought them. No more of those
        // can be committed now, so those that came while syncing are synced here.
        let inline = std::mem::take(&mut lock(&self.written).inline);
        self.sync(&inline.difference(files).copied().collect())?;
        for s in snapshots {
            self.commit_snapshot(&w, s)?;
        }
        w.commit()?;
        for s in snapshots {
            let mut state = s.content.state();
            for chunk in s.frames.keys() {
                state.frames.remove(chunk);
            }
        }
        Ok(())
    }

    fn commit_snapshot(&self, w: &WriteTransaction, s: &Snapshot) -> Result<(), StoreError> {
        let key = s.content.key;
        if s.content.state().rec.complete != s.complete {
            // Finished meanwhile: the index has all that there is to say.
            return Ok(());
        }
        let bytes: Vec<(u32, Vec<u8>)> = s.frames.iter().map(|(n, f)| (*n, f.encode())).collect();
        index::put_frames(w, key, bytes.iter().map(|(n, b)| (*n, b.as_slice())))?;
        // They stay at hand in memory too, since a page may have been parsed before this commit.
        for page in layout::set_lens(w, key, &s.lens)? {
            self.chunk_pages.forget(key, page);
        }
        index::put_held(w, key, s.bits.iter().map(|(p, b)| (*p, b.as_slice())))?;
        if let Some(held_bytes) = s.held_bytes {
            // As it is now (the layout is not changing), except for what this commit does not cover.
            let rec = ContentRec { held_bytes, ..s.content.state().rec.clone() };
            index::put_content(w, key, &rec)?;
        }
        Ok(())
    }

    /// Syncs the data of these files; one that is gone needs none.
    pub(super) fn sync(&self, files: &BTreeSet<(ContentKey, u32)>) -> Result<(), StoreError> {
        if files.len() >= SYNC_ALL_FROM {
            return self.sync_file_systems(files);
        }
        for &(key, file) in files {
            let Ok(c) = self.content(key) else { continue };
            let h = match self.handle(&c, file, &self.file_rec(&c, file)?, false) {
                Ok(h) => h,
                Err(e) if e.is_not_found() => continue,
                Err(e) => return Err(e),
            };
            rustix::fs::fdatasync(&h.file).map_err(|e| StoreError::io(&h.path, e))?;
        }
        Ok(())
    }

    fn sync_file_systems(&self, files: &BTreeSet<(ContentKey, u32)>) -> Result<(), StoreError> {
        let keys: BTreeSet<ContentKey> = files.iter().map(|f| f.0).collect();
        for key in keys {
            let Ok(c) = self.content(key) else { continue };
            self.sync_file_system(&c)?;
        }
        Ok(())
    }

    /// Syncs the whole file system that a content is on; one that is gone needs none.
    pub(super) fn sync_file_system(&self, c: &Content) -> Result<(), StoreError> {
        let single = self.file_rec(c, 0)?.path.is_empty();
        match self.root(c, single, false) {
            Ok(root) => rustix::fs::syncfs(root.dir()).map_err(|e| StoreError::io(&root.full(""), e)),
            Err(e) if gone(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Goes back to what the index says is held.
    fn distrust(&self, s: &Snapshot) {
        if s.content.state().rec.complete && !s.complete {
            // Finished while it was being synced: the index believes it until the machine's next start, which is too long.
            return self.never_synced(&s.content);
        }
        let mut state = s.content.state();
        let committed = self.index.contents().ok().and_then(|all| {
            let rec = all.into_iter().find(|(key, _)| *key == s.content.key)?.1;
            Some((self.index.held(s.content.key, &rec).ok()?, rec.held_bytes))
        });
        if let Some((held, bytes)) = committed {
            state.held = held;
            state.rec.held_bytes = bytes;
        }
    }
}

impl Snapshot {
    /// `None` if the index has everything of this content.
    fn take(content: Arc<Content>) -> Option<Snapshot> {
        let (complete, pages, bits, frames, lens, held_bytes) = {
            let mut s = content.state();
            let pages = std::mem::take(&mut s.held_dirty);
            let bits = pages.iter().map(|&p| (p, index::encode_held(&s.held, p))).collect();
            let held_bytes = std::mem::take(&mut s.rec_dirty).then_some(s.rec.held_bytes);
            let new = std::mem::take(&mut s.lens_dirty);
            let lens = new.into_iter().filter_map(|n| Some((n, *s.lens.get(&n)?))).collect();
            (s.rec.complete, pages, bits, s.frames.clone(), lens, held_bytes)
        };
        let nothing = pages.is_empty() && held_bytes.is_none() && frames.is_empty();
        (!nothing).then_some(Snapshot { content, complete, held_bytes, pages, bits, frames, lens })
    }

    fn put_back(self) {
        let mut s = self.content.state();
        s.held_dirty.extend(self.pages);
        s.lens_dirty.extend(self.lens.keys());
        s.rec_dirty |= self.held_bytes.is_some();
    }
}
