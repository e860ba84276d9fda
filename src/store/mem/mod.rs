//! A store in memory, with a small disk of its own: the twin of [`FsStore`](super::FsStore) for tests and the lab.
//!
//! It keeps no signatures but hashes whatever it serves, and a crash takes it back to its last checkpoint, as a power cut
//! would.

mod build;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cid::Cid;

use crate::bitfield::Bitfield;
use crate::content::block::verify_block;
use crate::content::chunk::{ChunkFrame, ChunkSpec, VerifiedChunk};
use crate::content::manifest::Item;
use crate::content::profile::Profile;
use crate::content::{Hash, RAW};
use crate::units::{ChunkIndex, ChunkRange, ContentKey, FileIndex};

use super::{ChunkRead, ContentInfo, NewFetch, Notes, Origin, Store, StoreError};
pub use tree::MemTree;

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemStore {
    world: Mutex<World>,
    /// As it was at the last checkpoint.
    saved: Mutex<World>,
}

#[derive(Clone, Debug, Default)]
struct World {
    disk: BTreeMap<PathBuf, MemTree>,
    nodes: BTreeMap<Cid, Bytes>,
    contents: BTreeMap<ContentKey, MemContent>,
    next: u32,
    notes: BTreeMap<(String, Vec<u8>), Vec<u8>>,
}

#[derive(Clone, Debug)]
struct MemContent {
    info: ContentInfo,
    force: bool,
    files: Vec<MemFile>,
    folders: Vec<String>,
    symlinks: Vec<(String, String)>,
    chunks: Vec<MemChunk>,
    held: Bitfield,
    nodes: Vec<Cid>,
}

#[derive(Clone, Debug)]
struct MemFile {
    path: String,
    size: Option<u64>,
    /// What it was counted with while its size was not sure.
    guess: u64,
    /// Which chunk lies where; several at one offset if some are empty.
    chunks: BTreeMap<u64, Vec<u32>>,
    inline: BTreeMap<u64, Bytes>,
}

#[derive(Clone, Debug)]
struct MemChunk {
    spec: ChunkSpec,
    places: Vec<(usize, u64)>,
    frame: Option<ChunkFrame>,
    /// Of a fetch in progress.
    data: Option<Vec<u8>>,
}

impl MemStore {
    pub fn new() -> MemStore {
        MemStore::default()
    }

    /// Puts something on the disk.
    pub fn put(&self, path: &Path, what: MemTree) {
        self.world().disk.insert(path.to_owned(), what);
    }

    /// What is on the disk.
    pub fn at(&self, path: &Path) -> Option<MemTree> {
        self.world().disk.get(path).cloned()
    }

    /// Imports what is on the disk, all names included.
    pub fn import(&self, path: &Path, profile: &'static Profile) -> Result<ContentKey, StoreError> {
        let mut w = self.world();
        let tree = w.disk.get(path).cloned().ok_or_else(|| not_found(path))?;
        let key = w.import(path, &tree, profile, Origin::Shared { path: path.to_owned() })?;
        self.save(&w);
        Ok(key)
    }

    /// Forgets what was not checkpointed.
    pub fn crash(&self) {
        *self.world() = self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone();
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, w: &World) {
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = w.clone();
    }
}

fn not_found(path: &Path) -> StoreError {
    StoreError::io(path, std::io::Error::from(std::io::ErrorKind::NotFound))
}

impl World {
    fn content(&mut self, key: ContentKey) -> Result<&mut MemContent, StoreError> {
        self.contents.get_mut(&key).ok_or(StoreError::UnknownContent(key))
    }

    fn part(&self, c: &MemContent) -> bool {
        matches!(c.info.origin, Origin::Fetched { .. }) && !c.info.complete
    }

    /// A chunk's file bytes from one of its places, if they are still right.
    fn data(&self, c: &MemContent, chunk: &MemChunk) -> Option<Vec<u8>> {
        if self.part(c) {
            return chunk.data.clone();
        }
        chunk
            .places
            .iter()
            .find_map(|(file, offset)| self.data_at(c, c.info.origin.path(), chunk, *file, *offset))
    }

    fn data_at(
        &self,
        c: &MemContent,
        at: &Path,
        chunk: &MemChunk,
        file: usize,
        offset: u64,
    ) -> Option<Vec<u8>> {
        let bytes = self.disk.get(at)?.file(&c.files[file].path)?;
        let len = usize::try_from(chunk.spec.len?).ok()?;
        let offset = usize::try_from(offset).ok()?;
        let data = bytes.get(offset..offset.checked_add(len)?)?.to_vec();
        blocks(chunk, &data).map(|_| data)
    }

    /// Files of a complete content that are not what they were.
    fn changed_files(&self, c: &MemContent, at: &Path) -> Vec<PathBuf> {
        let full = |f: &MemFile| if f.path.is_empty() { at.to_owned() } else { at.join(&f.path) };
        let same = |n: usize, f: &MemFile| {
            let Some(bytes) = self.disk.get(at).and_then(|t| t.file(&f.path)) else { return false };
            let chunks =
                f.chunks.iter().flat_map(|(offset, chunks)| chunks.iter().map(move |k| (*offset, *k)));
            let mut chunks = chunks.map(|(offset, k)| (offset, &c.chunks[k as usize]));
            let inline =
                f.inline.iter().all(|(o, b)| bytes.get(*o as usize..*o as usize + b.len()) == Some(b));
            Some(bytes.len() as u64) == f.size
                && inline
                && chunks.all(|(offset, chunk)| self.data_at(c, at, chunk, n, offset).is_some())
        };
        c.files.iter().enumerate().filter(|(n, f)| !same(*n, f)).map(|(_, f)| full(f)).collect()
    }

    /// Withdraws what is not there any more; what became of the held set.
    fn look_again(&mut self, key: ContentKey) -> Result<(Vec<ChunkRange>, Vec<PathBuf>), StoreError> {
        let c = self.contents.get(&key).ok_or(StoreError::UnknownContent(key))?;
        let part = self.part(c);
        let blamed = if part { Vec::new() } else { self.changed_files(c, c.info.origin.path()) };
        let good: Bitfield = (0..c.chunks.len())
            .filter(|&n| self.data(c, &c.chunks[n]).is_some())
            .filter_map(|n| ChunkIndex::new(n as u32))
            .collect();
        let lost: Bitfield = c.held.iter().filter(|&n| !good.contains(n)).collect();
        let c = self.content(key)?;
        c.held = good;
        c.info.changed = blamed.clone();
        c.count();
        Ok((lost.ranges().collect(), blamed))
    }
}

impl MemContent {
    fn count(&mut self) {
        self.info.held = self.held.len();
        self.info.chunks = self.chunks.len() as u32;
        self.info.files = self.files.len() as u32;
        let inline: u64 = self.files.iter().flat_map(|f| f.inline.values()).map(|b| b.len() as u64).sum();
        let bytes = |n: ChunkIndex| {
            let chunk = &self.chunks[n.as_usize()];
            chunk.spec.len.unwrap_or(0) * chunk.places.len() as u64
        };
        self.info.held_bytes = inline + self.held.iter().map(bytes).sum::<u64>();
    }

    fn extend(&mut self, items: &[Item]) -> Result<(), StoreError> {
        for item in items {
            match item {
                Item::Dir { path, .. } if self.folders.iter().all(|p| p != path.as_str()) => {
                    self.folders.push(path.as_str().to_owned());
                }
                Item::Symlink { path, target } if self.symlinks.iter().all(|s| s.0 != path.as_str()) => {
                    self.symlinks.push((path.as_str().to_owned(), target.clone()));
                }
                Item::File { file, path, size, sure, .. } if file.0 as usize >= self.files.len() => {
                    if file.0 as usize != self.files.len() {
                        return Err(StoreError::OutOfOrder("a file is left out"));
                    }
                    let path = path.as_str().to_owned();
                    let (counted, size) = (size.unwrap_or(0), size.filter(|_| *sure));
                    let guess = if size.is_none() { counted } else { 0 };
                    let (chunks, inline) = Default::default();
                    self.files.push(MemFile { path, size, guess, chunks, inline });
                    self.info.size += counted;
                }
                Item::Chunk { index, first, spec, file, offset } => {
                    if index.as_usize() > self.chunks.len()
                        || (!first && index.as_usize() >= self.chunks.len())
                    {
                        return Err(StoreError::OutOfOrder("a chunk is left out"));
                    }
                    if index.as_usize() == self.chunks.len() {
                        self.chunks.push(MemChunk {
                            spec: *spec,
                            places: Vec::new(),
                            frame: None,
                            data: None,
                        });
                    }
                    let place = (file.0 as usize, *offset);
                    let chunk = &mut self.chunks[index.as_usize()];
                    if !chunk.places.contains(&place) {
                        chunk.places.push(place);
                        let Some(f) = self.files.get_mut(place.0) else {
                            return Err(StoreError::OutOfOrder("a chunk of a file that is not known"));
                        };
                        f.chunks.entry(*offset).or_default().push(index.get());
                        let other = chunk.spec.len.zip(spec.len).filter(|(a, b)| a != b);
                        if let Some((known, len)) = other {
                            let what = format!("chunk {index} has {known} bytes, and {len} in another place");
                            return Err(StoreError::Dag(what));
                        }
                        chunk.spec.len = chunk.spec.len.or(spec.len);
                        f.size = f.size.or(chunk.spec.len);
                    }
                }
                Item::Inline { file, offset, data } => {
                    let Some(f) = self.files.get_mut(file.0 as usize) else {
                        return Err(StoreError::OutOfOrder("bytes of a file that is not known"));
                    };
                    f.inline.insert(*offset, data.clone());
                }
                _ => {}
            }
        }
        self.count();
        Ok(())
    }

    /// The tree that a complete fetch makes.
    fn assemble(&self) -> Result<MemTree, StoreError> {
        let mut tree = MemTree::dir();
        let collision = |path: &str| StoreError::Collision { path: path.to_owned() };
        for path in &self.folders {
            if !tree.put(path, MemTree::dir()) {
                return Err(collision(path));
            }
        }
        for f in &self.files {
            let mut bytes = Vec::new();
            let mut write = |offset: u64, data: &[u8]| {
                let (start, end) = (offset as usize, offset as usize + data.len());
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(data);
            };
            f.inline.iter().for_each(|(offset, b)| write(*offset, b));
            for (offset, chunks) in &f.chunks {
                chunks
                    .iter()
                    .filter_map(|&k| self.chunks[k as usize].data.as_ref())
                    .for_each(|d| write(*offset, d));
            }
            if !tree.put(&f.path, MemTree::File(bytes)) {
                return Err(collision(&f.path));
            }
        }
        for (path, target) in &self.symlinks {
            if !tree.put(path, MemTree::Symlink(target.clone())) {
                return Err(collision(path));
            }
        }
        Ok(tree)
    }
}

/// A chunk's blocks made of its file bytes, `None` if they are not what they should be.
fn blocks(chunk: &MemChunk, data: &[u8]) -> Option<(Vec<u8>, Vec<u32>)> {
    if chunk.spec.cid.codec() == RAW {
        verify_block(&chunk.spec.cid, data).ok()?;
        return Some((data.to_vec(), vec![data.len() as u32]));
    }
    let frame = chunk.frame.as_ref()?;
    let (mut out, mut rest) = (Vec::new(), data);
    for b in &frame.blocks {
        let (mine, after) = rest.split_at_checked(b.data_len as usize)?;
        rest = after;
        let block = [&b.prefix, mine, &b.suffix].concat();
        verify_block(&b.cid, &block).ok()?;
        out.extend(block);
    }
    Some((out, frame.block_lens()))
}

impl Store for MemStore {
    fn node(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        Ok(self.world().nodes.get(cid).cloned())
    }

    fn put_nodes(&self, key: ContentKey, nodes: &[(Cid, Bytes)]) -> Result<(), StoreError> {
        let mut w = self.world();
        w.content(key)?.nodes.extend(nodes.iter().map(|n| n.0));
        w.nodes.extend(nodes.iter().cloned());
        Ok(())
    }

    fn list(&self) -> Result<Vec<ContentInfo>, StoreError> {
        Ok(self.world().contents.values().map(|c| c.info.clone()).collect())
    }

    fn info(&self, key: ContentKey) -> Result<ContentInfo, StoreError> {
        Ok(self.world().content(key)?.info.clone())
    }

    fn find(&self, root: &Cid) -> Result<Option<ContentKey>, StoreError> {
        let w = self.world();
        let rank =
            |c: &MemContent| (c.info.complete && c.info.held == c.info.chunks, c.info.complete, c.info.held);
        let found = w.contents.iter().filter(|(_, c)| c.info.root == *root).max_by_key(|(_, c)| rank(c));
        Ok(found.map(|(key, _)| *key))
    }

    fn node_of(&self, cid: &Cid, of: &BTreeSet<ContentKey>) -> Result<Option<Bytes>, StoreError> {
        let w = self.world();
        let used = w.contents.iter().any(|(key, c)| of.contains(key) && c.nodes.contains(cid));
        Ok(w.nodes.get(cid).filter(|_| used).cloned())
    }

    fn find_block_of(
        &self,
        hash: &Hash,
        of: &dyn Fn(ContentKey) -> bool,
    ) -> Result<Option<(ContentKey, ChunkIndex, u32)>, StoreError> {
        let w = self.world();
        let named = |chunk: &MemChunk, hash: &Hash| match &chunk.frame {
            Some(frame) => frame.blocks.iter().position(|b| b.cid.hash() == hash),
            None => (chunk.spec.cid.hash() == hash).then_some(0),
        };
        for (&key, c) in w.contents.iter().filter(|(key, _)| of(**key)) {
            for chunk in c.held.iter() {
                let found = c.chunks.get(chunk.as_usize()).and_then(|m| named(m, hash));
                if let Some(block) = found.and_then(|b| u32::try_from(b).ok()) {
                    return Ok(Some((key, chunk, block)));
                }
            }
        }
        Ok(None)
    }

    fn remove(&self, key: ContentKey, _delete_part: bool) -> Result<(), StoreError> {
        let mut w = self.world();
        let gone = w.contents.remove(&key).ok_or(StoreError::UnknownContent(key))?;
        for cid in gone.nodes {
            if !w.contents.values().any(|c| c.nodes.contains(&cid)) {
                w.nodes.remove(&cid);
            }
        }
        self.save(&w);
        Ok(())
    }

    fn set_seeding(&self, key: ContentKey, seeding: bool) -> Result<(), StoreError> {
        self.world().content(key)?.info.seeding = seeding;
        Ok(())
    }

    fn begin_fetch(&self, new: &NewFetch) -> Result<ContentKey, StoreError> {
        let mut w = self.world();
        let key = w.begin(new)?;
        self.save(&w);
        Ok(key)
    }

    fn extend(&self, key: ContentKey, items: &[Item]) -> Result<(), StoreError> {
        let mut w = self.world();
        let c = w.content(key)?;
        if c.info.complete { Ok(()) } else { c.extend(items) }
    }

    fn manifest_complete(&self, key: ContentKey) -> Result<(), StoreError> {
        self.world().content(key)?.info.manifest_complete = true;
        Ok(())
    }

    fn chunk(&self, key: ContentKey, chunk: ChunkIndex) -> Result<ChunkSpec, StoreError> {
        let mut w = self.world();
        w.content(key)?.chunks.get(chunk.as_usize()).map(|c| c.spec).ok_or(StoreError::UnknownChunk(chunk))
    }

    fn chunks_of(
        &self,
        key: ContentKey,
        file: FileIndex,
        start: u64,
        end: u64,
    ) -> Result<Vec<ChunkRange>, StoreError> {
        let mut w = self.world();
        let c = w.content(key)?;
        let f = c.files.get(file.0 as usize).ok_or(StoreError::OutOfOrder("the file is not known yet"))?;
        let mut out: Vec<ChunkRange> = Vec::new();
        for (offset, k) in f.chunks.iter().flat_map(|(o, ks)| ks.iter().map(move |k| (*o, *k))) {
            let len = c.chunks[k as usize].spec.len.unwrap_or(1);
            if offset >= end || offset + len <= start {
                continue;
            }
            let Some(one) = ChunkRange::new(k, k + 1) else { continue };
            match out.last_mut() {
                Some(last) if last.end() == k => *last = ChunkRange::new(last.start(), k + 1).unwrap_or(one),
                _ => out.push(one),
            }
        }
        Ok(out)
    }

    fn write_chunk(
        &self,
        key: ContentKey,
        chunk: ChunkIndex,
        data: &VerifiedChunk<'_>,
    ) -> Result<(), StoreError> {
        let mut w = self.world();
        let c = w.content(key)?;
        let complete = c.info.complete;
        let slot = c.chunks.get_mut(chunk.as_usize()).ok_or(StoreError::UnknownChunk(chunk))?;
        if c.held.contains(chunk) {
            return Ok(());
        }
        if complete {
            return Err(StoreError::Exists { path: c.info.origin.path().to_owned() });
        }
        if data.blocks().next().is_none_or(|(cid, _)| cid != slot.spec.cid) {
            return Err(StoreError::UnknownChunk(chunk));
        }
        slot.data = Some(data.segments().collect::<Vec<_>>().concat());
        slot.frame = data.frame();
        if slot.spec.len.is_none() {
            slot.spec.len = Some(data.data_len());
            for (file, _) in &slot.places {
                let file = &mut c.files[*file];
                file.size = Some(data.data_len());
                c.info.size = c.info.size.saturating_sub(file.guess) + data.data_len();
            }
        }
        c.held.insert(chunk);
        c.count();
        Ok(())
    }

    fn read_chunk(
        &self,
        key: ContentKey,
        chunk: ChunkIndex,
        buf: &mut Vec<u8>,
    ) -> Result<ChunkRead, StoreError> {
        let mut w = self.world();
        buf.clear();
        let c = w.content(key)?;
        if chunk.as_usize() >= c.chunks.len() {
            return Err(StoreError::UnknownChunk(chunk));
        }
        if !c.held.contains(chunk) {
            return Err(StoreError::NotHeld { chunk });
        }
        let c = c.clone();
        let slot = &c.chunks[chunk.as_usize()];
        match w.data(&c, slot).and_then(|data| blocks(slot, &data)) {
            Some((body, block_lens)) => {
                *buf = body;
                Ok(ChunkRead { block_lens })
            }
            None => {
                let (_, blamed) = w.look_again(key)?;
                let path = blamed.into_iter().next().unwrap_or_else(|| c.info.origin.path().to_owned());
                Err(StoreError::Changed { path })
            }
        }
    }

    fn have(&self, key: ContentKey) -> Result<Bitfield, StoreError> {
        Ok(self.world().content(key)?.held.clone())
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.save(&self.world());
        Ok(())
    }

    fn finish_fetch(&self, key: ContentKey) -> Result<PathBuf, StoreError> {
        let mut w = self.world();
        let c = w.content(key)?;
        let dest = c.info.origin.path().to_owned();
        if c.info.complete {
            return Ok(dest);
        }
        let missing = c.info.chunks - c.info.held + u32::from(!c.info.manifest_complete);
        if missing > 0 {
            return Err(StoreError::Incomplete { missing });
        }
        let (tree, force) = (c.assemble()?, c.force);
        if w.disk.contains_key(&dest) && !force {
            return Err(StoreError::Exists { path: dest });
        }
        w.disk.insert(dest.clone(), tree);
        let c = w.content(key)?;
        c.info.complete = true;
        c.info.size = c.files.iter().filter_map(|f| f.size).sum();
        c.chunks.iter_mut().for_each(|chunk| chunk.data = None);
        self.save(&w);
        Ok(dest)
    }

    fn verify(
        &self,
        key: ContentKey,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Vec<ChunkRange>, Vec<PathBuf>), StoreError> {
        let mut w = self.world();
        progress(w.content(key)?.info.held_bytes);
        w.look_again(key)
    }

    fn relocate(&self, key: ContentKey, path: &Path) -> Result<(), StoreError> {
        let mut w = self.world();
        let c = w.content(key)?.clone();
        if !c.info.complete {
            return Err(StoreError::Incomplete { missing: c.info.chunks - c.info.held });
        }
        if let Some(path) = w.changed_files(&c, path).into_iter().next() {
            return Err(StoreError::Changed { path });
        }
        match &mut w.content(key)?.info.origin {
            Origin::Shared { path: p } | Origin::Fetched { path: p } => *p = path.to_owned(),
        }
        w.look_again(key)?;
        self.save(&w);
        Ok(())
    }

    fn notes(&self, kind: &str) -> Result<Notes, StoreError> {
        let w = self.world();
        let of_kind = w.notes.iter().filter(|((of, _), _)| of == kind);
        Ok(of_kind.map(|((_, key), text)| (key.clone(), text.clone())).collect())
    }

    fn note(&self, kind: &str, notes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), StoreError> {
        let mut w = self.world();
        for (key, text) in notes {
            let key = (kind.to_owned(), key.clone());
            match text {
                Some(text) => drop(w.notes.insert(key, text.clone())),
                None => drop(w.notes.remove(&key)),
            }
        }
        // Durable, and nothing else with it.
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).notes.clone_from(&w.notes);
        Ok(())
    }
}
