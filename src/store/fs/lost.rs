//! Files that are not what they were: withdrawn, named, never served.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::units::ChunkIndex;

use super::super::StoreError;
use super::super::records::{ChunkRec, FILES_PER_PAGE, FileRec};
use super::super::signature::{Comparison, Signature};
use super::FsStore;
use super::content::Content;
use super::read::gone;

impl FsStore {
    /// Withdraws files of a complete content: their chunks are no longer held, save those that lie elsewhere too.
    pub(super) fn lose_files(&self, c: &Content, files: &[u32]) -> Result<(), StoreError> {
        self.edit_file_records(c, files.iter().copied(), |_, rec| rec.changed = true)?;
        let lost: BTreeSet<u32> = files.iter().copied().collect();
        for &file in files {
            self.files.forget(c.key, file);
            let rec = self.file_rec(c, file)?;
            let path = self.path_of(c, &rec.path);
            c.state().name_changed(path);
            for run in self.runs(c, file, &rec)? {
                for chunk in (run.first..run.first + run.count).filter_map(ChunkIndex::new) {
                    self.lose_unless_elsewhere(c, chunk, &lost)?;
                }
            }
        }
        Ok(())
    }

    fn lose_unless_elsewhere(
        &self,
        c: &Content,
        chunk: ChunkIndex,
        lost: &BTreeSet<u32>,
    ) -> Result<(), StoreError> {
        if !c.state().held.contains(chunk) {
            return Ok(());
        }
        let rec = self.chunk_rec(c, chunk)?;
        for place in self.places(c, chunk.get(), &rec)? {
            if !lost.contains(&place.file) && !self.file_rec(c, place.file)?.changed {
                return Ok(());
            }
        }
        self.drop_chunk(c, chunk, &rec)
    }

    /// A chunk of a fetch in progress is not what was written: it is to be fetched again.
    pub(super) fn lose_chunk(&self, c: &Content, chunk: ChunkIndex) -> Result<(), StoreError> {
        let rec = self.chunk_rec(c, chunk)?;
        self.drop_chunk(c, chunk, &rec)
    }

    fn drop_chunk(&self, c: &Content, chunk: ChunkIndex, rec: &ChunkRec) -> Result<(), StoreError> {
        let bytes = self.chunk_bytes(c, chunk, rec)?;
        let mut s = c.state();
        if s.rec.held_all {
            s.all_pages_dirty();
        }
        s.lose(chunk, bytes);
        Ok(())
    }

    /// A chunk's bytes, as often as it is placed.
    pub(super) fn chunk_bytes(
        &self,
        c: &Content,
        chunk: ChunkIndex,
        rec: &ChunkRec,
    ) -> Result<u64, StoreError> {
        let len = rec.len.or_else(|| c.state().lens.get(&chunk.get()).copied()).unwrap_or(0);
        let places = if rec.more { 1 + self.index.places(c.key, chunk.get())?.len() as u64 } else { 1 };
        Ok(len.saturating_mul(places))
    }

    /// Calls `f` with each file's number and record.
    pub(super) fn each_file(
        &self,
        c: &Content,
        f: &mut dyn FnMut(u32, &FileRec) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let files = c.state().rec.files;
        for page in 0..files.div_ceil(FILES_PER_PAGE) {
            // Past the cache: a walk over everything would throw out what is in use.
            for (n, rec) in (page * FILES_PER_PAGE..files).zip(self.index.page::<FileRec>(c.key, page)?) {
                f(n, &rec)?;
            }
        }
        Ok(())
    }

    /// Compares all signatures of a complete content, without reading any file.
    pub(super) fn check_signatures(&self, c: &Content) -> Result<(), StoreError> {
        let _layout = c.reading();
        if c.state().rec.files == 0 {
            return Ok(());
        }
        let single = self.file_rec(c, 0)?.path.is_empty();
        let root = match self.root(c, single, false) {
            Ok(root) => Some(root),
            Err(e) if gone(&e) => None,
            Err(e) => return Err(e),
        };
        let mut lost = Vec::new();
        self.each_file(c, &mut |n, rec| {
            let now = match root.as_ref().map(|root| root.stat(&rec.path)) {
                Some(Ok(stat)) => Some(Signature::of(&stat)),
                Some(Err(e)) if !gone(&e) => return Err(e),
                _ => None,
            };
            let same =
                now.is_some_and(|now| rec.sig.is_some_and(|old| old.compare(&now) != Comparison::Changed));
            if !same && !rec.changed {
                lost.push(n);
            }
            Ok(())
        })?;
        if lost.is_empty() { Ok(()) } else { self.lose_files(c, &lost) }
    }

    /// Looks for changed files of a content by their signatures alone, and names those known.
    pub fn check(&self, key: crate::units::ContentKey) -> Result<Vec<PathBuf>, StoreError> {
        let c = self.ready(key)?;
        if c.state().rec.complete {
            self.check_signatures(&c)?;
        }
        let changed = c.state().rec.changed.clone();
        Ok(changed)
    }
}
