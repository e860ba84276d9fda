//! One content as the process has it at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::bitfield::{Bitfield, PAGE};
use crate::content::Cid;
use crate::content::chunk::ChunkFrame;
use crate::units::{ChunkIndex, ContentKey};

use super::super::records::ContentRec;
use super::super::{ContentInfo, Origin};

/// Files named in [`ContentInfo::changed`] at most.
const CHANGED_NAMED: usize = 16;

/// Locks are taken in this order: `preparing`, the store's `checkpointing`, `layout`, an index transaction, `state`.
#[derive(Debug)]
pub struct Content {
    pub key: ContentKey,
    pub root: Cid,
    /// Held for writing while chunks get new placements, for reading while chunks are written and read.
    layout: RwLock<()>,
    state: Mutex<State>,
    /// What is on disk was compared with the records since the store was opened.
    pub ready: AtomicBool,
    /// Held by who brings disk and records together: before the first use, and at the end of a fetch.
    pub preparing: Mutex<()>,
}

#[derive(Debug)]
pub struct State {
    pub rec: ContentRec,
    pub held: Bitfield,
    /// Pages of `held` that the index does not have as they are.
    pub held_dirty: BTreeSet<u32>,
    pub rec_dirty: bool,
    /// Frames of chunks written since the last checkpoint.
    pub frames: BTreeMap<u32, Arc<ChunkFrame>>,
    /// Lengths of chunks written by this process whose parents claim none, and those of them not committed yet.
    pub lens: BTreeMap<u32, u64>,
    pub lens_dirty: BTreeSet<u32>,
    /// Chunks hashed again although their file's signature is young.
    pub proved: Bitfield,
    /// What an earlier process wrote may lie where newly known chunks belong.
    pub resumed: bool,
}

impl Content {
    pub fn new(key: ContentKey, rec: ContentRec, held: Bitfield, resumed: bool) -> Content {
        let state = State {
            held,
            held_dirty: BTreeSet::new(),
            rec_dirty: false,
            frames: BTreeMap::new(),
            lens: BTreeMap::new(),
            lens_dirty: BTreeSet::new(),
            proved: Bitfield::new(),
            resumed,
            rec,
        };
        Content {
            key,
            root: state.rec.root,
            layout: RwLock::new(()),
            state: Mutex::new(state),
            ready: AtomicBool::new(false),
            preparing: Mutex::new(()),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.layout.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn changing(&self) -> RwLockWriteGuard<'_, ()> {
        self.layout.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn info(&self) -> ContentInfo {
        let s = self.state();
        let rec = &s.rec;
        ContentInfo {
            key: self.key,
            root: rec.root,
            name: rec.name.clone(),
            origin: rec.origin.clone(),
            size: rec.size,
            files: rec.files,
            chunks: rec.chunks,
            held: s.held.len(),
            held_bytes: rec.held_bytes + rec.inline_bytes,
            manifest_complete: rec.manifest_complete,
            complete: rec.complete,
            seeding: rec.seeding,
            changed: rec.changed.clone(),
            created: rec.created,
        }
    }
}

impl State {
    /// Where the bytes lie now.
    pub fn place(&self) -> PathBuf {
        match &self.rec.origin {
            Origin::Fetched { path } if !self.rec.complete => part_path(path),
            origin => origin.path().to_owned(),
        }
    }

    /// `bytes`: of all its placements.
    pub fn hold(&mut self, chunk: ChunkIndex, bytes: u64) {
        if self.held.insert(chunk) {
            self.held_dirty.insert(chunk.get() / PAGE);
            self.rec.held_bytes += bytes;
            self.rec_dirty = true;
        }
    }

    /// More bytes of chunks held are in their places.
    pub fn add_bytes(&mut self, bytes: u64) {
        self.rec.held_bytes += bytes;
        self.rec_dirty = true;
    }

    pub fn lose(&mut self, chunk: ChunkIndex, bytes: u64) {
        if self.held.remove(chunk) {
            self.held_dirty.insert(chunk.get() / PAGE);
            self.rec.held_bytes = self.rec.held_bytes.saturating_sub(bytes);
            self.rec_dirty = true;
            self.rec.held_all = false;
        }
        self.frames.remove(&chunk.get());
        self.proved.remove(chunk);
    }

    /// All bits of it have to be committed: there were none in the index while all chunks were held.
    pub fn all_pages_dirty(&mut self) {
        self.held_dirty.extend(0..self.rec.chunks.div_ceil(PAGE));
    }

    pub fn name_changed(&mut self, path: PathBuf) {
        if self.rec.changed.len() < CHANGED_NAMED && !self.rec.changed.contains(&path) {
            self.rec.changed.push(path);
        }
        self.rec_dirty = true;
    }
}

/// Where a fetch to `dest` writes until it is complete.
pub fn part_path(dest: &Path) -> PathBuf {
    let name = dest.file_name().and_then(|n| n.to_str()).unwrap_or("content");
    // A name has at most 255 bytes, `.part` included; what is cut off is told apart by its length.
    let mut end = name.len();
    if end > 250 {
        end = (0..=240).rev().find(|&i| name.is_char_boundary(i)).unwrap_or(0);
    }
    let cut = if end < name.len() { format!("~{}", name.len()) } else { String::new() };
    dest.with_file_name(format!("{}{cut}.part", &name[..end]))
}

/// Nothing here is left half done by a panic, so a poisoned lock is as good as any.
pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_of_the_longest_name_still_fits() {
        assert_eq!(part_path(Path::new("/a/b.txt")), Path::new("/a/b.txt.part"));
        for c in ["x", "\u{20ac}"] {
            let name = c.repeat(255 / c.len());
            let part = part_path(&Path::new("/a").join(&name));
            assert!(part.file_name().unwrap().len() <= 255);
            assert!(part.to_str().unwrap().ends_with(".part"));
        }
    }
}
