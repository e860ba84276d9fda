//! Taking up a fetch: what an earlier process wrote is believed where a commit covers it, and hashed where none does.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::SeekFrom;

use crate::content::RAW;
use crate::content::block::verify_block;
use crate::content::builder::leaf_frame;
use crate::content::chunk::{BlockFrame, ChunkFrame, MAX_CHUNK_DATA};
use crate::content::profile::Profile;
use crate::units::ChunkIndex;

use super::super::index::Place;
use super::super::records::{ChunkRec, FileRec};
use super::super::signature::{Comparison, Signature};
use super::super::{Origin, StoreError};
use super::FsStore;
use super::caches::Handle;
use super::content::{Content, lock, part_path};
use super::fetch::exists;
use super::finish::rename;
use super::read::gone;

impl FsStore {
    /// Compares a content's disk with its records, once.
    pub(super) fn prepare(&self, c: &Content) -> Result<(), StoreError> {
        let _one = lock(&c.preparing);
        if c.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let complete = c.state().rec.complete;
        if complete && self.may_be_torn(c) {
            self.look_after_power_cut(c)?;
        } else if complete {
            self.rename_again(c)?;
            self.check_signatures(c)?;
        } else {
            self.take_up(c)?;
            self.commit_rec(c, true)?;
        }
        c.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// The rename at the end of a fetch comes after the commit that speaks of it: after a kill in between, or a power
    /// cut that undid the rename of what was synced before, the content lies at its `.part` yet.
    fn rename_again(&self, c: &Content) -> Result<(), StoreError> {
        let (dest, id, force) = {
            let s = c.state();
            let Origin::Fetched { path } = &s.rec.origin else { return Ok(()) };
            (path.clone(), s.rec.part_id, s.rec.force)
        };
        let part = part_path(&dest);
        let lies = rustix::fs::lstat(&part).ok().map(|s| Signature::of(&s)).map(|s| (s.dev, s.ino));
        if lies.is_none() || lies != id || (exists(&dest) && !force) {
            return Ok(());
        }
        rename(&part, &dest, force)
    }

    /// Drops what is not there any more, then looks for what no commit covers.
    pub(super) fn take_up(&self, c: &Content) -> Result<(), StoreError> {
        let _layout = c.reading();
        let clean = !c.state().rec.dirty;
        self.count_held(c)?;
        self.drop_missing(c, clean)?;
        self.recover(c, 0)?;
        let mut s = c.state();
        s.rec.dirty = true;
        // Bytes that inner nodes carry are compared, and written again where they are missing, as they are walked again.
        s.rec.manifest_complete &= s.rec.inline_bytes == 0;
        s.rec_dirty = true;
        Ok(())
    }

    /// Counts the bytes of what the committed bits say is held. A record may have been committed after those bits,
    /// with the bytes of chunks that they do not cover.
    fn count_held(&self, c: &Content) -> Result<(), StoreError> {
        let held = c.state().held.clone();
        let mut bytes = 0u64;
        for chunk in held.iter() {
            let rec = self.chunk_rec(c, chunk)?;
            let places = if rec.more { self.places(c, chunk.get(), &rec)?.len() as u64 } else { 1 };
            bytes = bytes.saturating_add(rec.len.unwrap_or_default().saturating_mul(places));
        }
        c.state().rec.held_bytes = bytes;
        Ok(())
    }

    /// After a clean stop a file must still have the signature noted then; after any stop it must be there.
    fn drop_missing(&self, c: &Content, clean: bool) -> Result<(), StoreError> {
        if c.state().held.is_empty() {
            return Ok(());
        }
        let single = self.file_rec(c, 0)?.path.is_empty();
        let root = self.root(c, single, false);
        let mut bad = Vec::new();
        self.each_file(c, &mut |n, rec| {
            let stat = root.as_ref().ok().and_then(|root| root.stat(&rec.path).ok());
            let fine = stat.is_some_and(|stat| {
                let same = |old: Signature| old.compare(&Signature::of(&stat)) == Comparison::Same;
                !clean || rec.sig.is_some_and(same)
            });
            if !fine {
                bad.push(n);
            }
            Ok(())
        })?;
        for file in bad {
            let rec = self.file_rec(c, file)?;
            for run in self.runs(c, file, &rec)? {
                for chunk in (run.first..run.first + run.count).filter_map(ChunkIndex::new) {
                    if c.state().held.contains(chunk) {
                        self.lose_chunk(c, chunk)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Hashes what lies where chunks from `from` on belong that are not held, and holds those that match.
    /// The caller has the layout.
    pub(super) fn recover(&self, c: &Content, from: u32) -> Result<(), StoreError> {
        let chunks = c.state().rec.chunks;
        let mut buf = Vec::new();
        let mut absent = None;
        for chunk in (from..chunks).filter_map(ChunkIndex::new) {
            if c.state().held.contains(chunk) {
                continue;
            }
            let rec = self.chunk_rec(c, chunk)?;
            if absent == Some(rec.file) {
                continue;
            }
            let file = self.file_rec(c, rec.file)?;
            match self.handle(c, rec.file, &file, false) {
                Ok(h) => self.recover_chunk(c, chunk, &rec, &file, &h, &mut buf)?,
                Err(e) if gone(&e) => absent = Some(rec.file),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn recover_chunk(
        &self,
        c: &Content,
        chunk: ChunkIndex,
        rec: &ChunkRec,
        file: &FileRec,
        h: &Handle,
        buf: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let size = h.file.metadata().map_err(|e| StoreError::io(&h.path, e))?.len();
        let sure = file.size.filter(|_| !file.guess);
        let known = rec.len.or(sure).or_else(|| c.state().lens.get(&chunk.get()).copied());
        let len = known.unwrap_or(size);
        if len > MAX_CHUNK_DATA || !is_data(h, rec.offset, len) {
            return Ok(());
        }
        buf.resize(usize::try_from(len).unwrap_or(0), 0);
        if h.file.read_exact_at(buf, rec.offset).is_err() {
            return Ok(());
        }
        let Some(frame) = self.name_of(c, chunk, rec, buf)? else { return Ok(()) };
        let places = self.places(c, chunk.get(), rec)?;
        for place in places.iter().filter(|p| **p != Place { file: rec.file, offset: rec.offset }) {
            self.write_place(c, *place, &mut std::iter::once(&buf[..]))?;
        }
        let guessed = if rec.len.is_none() { self.guessed(c, &places)? } else { 0 };
        // The kernel may still have it in memory only: the next checkpoint syncs it before it commits the bit.
        lock(&self.written).files.insert((c.key, rec.file));
        let mut s = c.state();
        if let Some(frame) = frame {
            s.frames.insert(chunk.get(), Arc::new(frame));
        }
        if rec.len.is_none() && s.lens.insert(chunk.get(), len).is_none() {
            s.lens_dirty.insert(chunk.get());
            s.rec.size = s.rec.size.saturating_sub(guessed).saturating_add(len * places.len() as u64);
        }
        s.hold(chunk, len * places.len() as u64);
        Ok(())
    }

    /// `Some` if the bytes are this chunk's, with the frame that makes them so. Of chunks that are no raw block only
    /// those are known again whose frame was committed or is the canonical one.
    fn name_of(
        &self,
        c: &Content,
        chunk: ChunkIndex,
        rec: &ChunkRec,
        data: &[u8],
    ) -> Result<Option<Option<ChunkFrame>>, StoreError> {
        if rec.cid.codec() == RAW {
            return Ok(verify_block(&rec.cid, data).is_ok().then_some(None));
        }
        let frame = match self.index.frame(c.key, chunk.get())? {
            Some(f) => f,
            None => {
                let data_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
                let (prefix, suffix) = leaf_frame(&Profile::V0_2015, data_len);
                ChunkFrame { blocks: vec![BlockFrame { cid: rec.cid, prefix, data_len, suffix }] }
            }
        };
        Ok(frame_fits(&frame, data).then_some(Some(frame)))
    }

    /// After a clean stop, a `.part` that has these signatures needs no look at its bytes.
    pub(super) fn note_part_signatures(&self, c: &Content) -> Result<(), StoreError> {
        {
            let _layout = c.reading();
            let files = c.state().rec.files;
            if files > 0 {
                let single = self.file_rec(c, 0)?.path.is_empty();
                let root = self.root(c, single, false).ok();
                self.edit_file_records(c, 0..files, |_, rec| {
                    let stat = root.as_ref().and_then(|root| root.stat(&rec.path).ok());
                    rec.sig = stat.map(|s| Signature::of(&s));
                })?;
            }
            let mut s = c.state();
            s.rec.dirty = false;
            s.rec_dirty = true;
        }
        c.ready.store(false, Ordering::Release);
        Ok(())
    }
}

/// Rebuilds a frame's blocks from file bytes and checks each.
pub fn frame_fits(frame: &ChunkFrame, mut data: &[u8]) -> bool {
    if frame.data_len() != data.len() as u64 {
        return false;
    }
    frame.blocks.iter().all(|b| {
        let Some((mine, rest)) = data.split_at_checked(b.data_len as usize) else { return false };
        data = rest;
        verify_block(&b.cid, &[&b.prefix, mine, &b.suffix].concat()).is_ok()
    })
}

/// True if the whole range was written: there is no hole in it. File systems that cannot tell say that all is data.
fn is_data(h: &Handle, offset: u64, len: u64) -> bool {
    if len == 0 {
        return true;
    }
    let data = rustix::fs::seek(&h.file, SeekFrom::Data(offset));
    let hole = rustix::fs::seek(&h.file, SeekFrom::Hole(offset));
    match (data, hole) {
        (Ok(data), Ok(hole)) => data == offset && hole - offset >= len,
        (Err(rustix::io::Errno::INVAL), _) => true,
        _ => false,
    }
}
