//! The store on a file system. One file for each thing it does; what they share is here.

mod caches;
mod content;
mod fetch;
mod finish;
mod layout;
mod lost;
mod read;
mod recover;
mod staging;
mod unsynced;
mod verify;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cid::Cid;

use crate::bitfield::Bitfield;
use crate::content::Hash;
use crate::content::chunk::{ChunkSpec, VerifiedChunk};
use crate::content::manifest::Item;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, FileIndex};

use super::index::{self, Index, Place};
use super::records::{ChunkRec, FileRec};
use super::tree::Root;
use super::{ChunkRead, ContentInfo, NewFetch, Notes, Store, StoreError};
use caches::{FileCache, Handle, PageCache};
use content::{Content, lock};
use write::Extent;

pub use staging::{Staged, Staging};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for the index's pages.
    pub cache_bytes: usize,
    /// Play a file system on which case does not tell names apart (for tests).
    pub fold_case: bool,
    /// Nanoseconds since the Unix epoch.
    pub clock: fn() -> i64,
    /// Names the time since the machine's start, within which nothing that was written is lost, synced or not.
    /// `None`: that cannot be told, so all is synced before it is believed.
    pub boot: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache_bytes: 8 << 20, fold_case: false, clock: system_clock, boot: boot_id() }
    }
}

/// Linux makes one at each start (random(4)).
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

fn system_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The store of a data directory, which must be locked by whoever opens it.
#[derive(Debug)]
pub struct FsStore {
    index: Index,
    opts: Options,
    contents: RwLock<BTreeMap<ContentKey, Arc<Content>>>,
    chunk_pages: PageCache<ChunkRec>,
    file_pages: PageCache<FileRec>,
    files: FileCache,
    written: Mutex<Written>,
    /// There are commits that are not durable.
    unsaved: AtomicBool,
    checkpointing: Mutex<()>,
    beginning: Mutex<()>,
    /// Set by [`FsStore::crash`]: leave everything as a killed process would.
    crashed: AtomicBool,
}

/// Files written to since they were last synced.
#[derive(Debug, Default)]
struct Written {
    files: BTreeSet<(ContentKey, u32)>,
    /// Those of them that bytes were written to which no held bit covers.
    inline: BTreeSet<(ContentKey, u32)>,
    /// Complete contents of which all is to be synced.
    whole: BTreeSet<ContentKey>,
}

impl FsStore {
    /// Opens the index in `data_dir` and makes both where they are missing. Nothing is hashed here: what an
    /// unclean stop left is looked at when a content is first used.
    pub fn open(data_dir: &Path, opts: Options) -> Result<FsStore, StoreError> {
        std::fs::create_dir_all(data_dir).map_err(|e| StoreError::io(data_dir, e))?;
        let index = Index::open(&data_dir.join("index.redb"), opts.cache_bytes)?;
        let store = FsStore {
            index,
            opts,
            contents: RwLock::default(),
            chunk_pages: PageCache::new(),
            file_pages: PageCache::new(),
            files: FileCache::new(),
            written: Mutex::default(),
            unsaved: AtomicBool::new(false),
            checkpointing: Mutex::new(()),
            beginning: Mutex::new(()),
            crashed: AtomicBool::new(false),
        };
        store.load()?;
        Ok(store)
    }

    fn load(&self) -> Result<(), StoreError> {
        for (key, rec) in self.index.contents()? {
            if rec.staging {
                self.index.write(false, |w| index::delete_content(w, key, rec.chunks))?;
                self.unsaved.store(true, Ordering::Relaxed);
                continue;
            }
            let held = self.index.held(key, &rec)?;
            if rec.unsynced.is_some() && rec.unsynced == self.opts.boot {
                lock(&self.written).whole.insert(key);
            }
            self.insert(Content::new(key, rec, held, true));
        }
        Ok(())
    }

    /// A clean stop: the next start need not look for writes that no checkpoint covers. Dropping does it too.
    pub fn close(&self) -> Result<(), StoreError> {
        self.last_checkpoint()?;
        for c in self.all() {
            let clean = { c.state().rec.dirty && c.ready.load(Ordering::Acquire) };
            if clean {
                self.note_part_signatures(&c)?;
            }
        }
        self.last_checkpoint()
    }

    /// Leaves everything as a killed process would (for tests).
    #[doc(hidden)]
    pub fn crash(self) {
        self.crashed.store(true, Ordering::Relaxed);
    }

    fn now(&self) -> i64 {
        (self.opts.clock)()
    }

    fn insert(&self, c: Content) -> Arc<Content> {
        let c = Arc::new(c);
        self.contents.write().unwrap_or_else(PoisonError::into_inner).insert(c.key, c.clone());
        c
    }

    fn all(&self) -> Vec<Arc<Content>> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn content(&self, key: ContentKey) -> Result<Arc<Content>, StoreError> {
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        contents.get(&key).cloned().ok_or(StoreError::UnknownContent(key))
    }

    /// A content whose disk was compared with its records since the store was opened.
    fn ready(&self, key: ContentKey) -> Result<Arc<Content>, StoreError> {
        let c = self.content(key)?;
        if !c.ready.load(Ordering::Acquire) {
            self.prepare(&c)?;
        }
        Ok(c)
    }

    fn chunk_rec(&self, c: &Content, chunk: ChunkIndex) -> Result<ChunkRec, StoreError> {
        let rec = self.chunk_pages.record(&self.index, c.key, chunk.get())?;
        rec.ok_or(StoreError::UnknownChunk(chunk))
    }

    fn file_rec(&self, c: &Content, file: u32) -> Result<FileRec, StoreError> {
        let rec = self.file_pages.record(&self.index, c.key, file)?;
        rec.ok_or_else(|| StoreError::damaged(format!("file {file} has no record")))
    }

    /// All places of a chunk, the first one first.
    fn places(&self, c: &Content, chunk: u32, rec: &ChunkRec) -> Result<Vec<Place>, StoreError> {
        let mut places = vec![Place { file: rec.file, offset: rec.offset }];
        if rec.more {
            places.extend(self.index.places(c.key, chunk)?);
        }
        Ok(places)
    }

    /// The handle that a content's files are opened beneath.
    fn root(&self, c: &Content, single: bool, make: bool) -> Result<Arc<Root>, StoreError> {
        if let Some(root) = self.files.root(c.key) {
            return Ok(root);
        }
        let place = c.state().place();
        let root = Arc::new(self.open_root(&place, single, make)?);
        self.files.put_root(c.key, root.clone());
        Ok(root)
    }

    fn open_root(&self, place: &Path, single: bool, make: bool) -> Result<Root, StoreError> {
        if single {
            return Root::single(place, self.opts.fold_case);
        }
        if make {
            match std::fs::create_dir(place) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::io(place, e));
                }
                _ => {}
            }
        }
        Root::tree(place, self.opts.fold_case)
    }

    /// An open file of a content, from those kept open if it is there.
    fn handle(&self, c: &Content, file: u32, rec: &FileRec, write: bool) -> Result<Arc<Handle>, StoreError> {
        if let Some(h) = self.files.get(c.key, file, write) {
            return Ok(h);
        }
        let single = rec.path.is_empty();
        let root = self.root(c, single, write)?;
        let opened = if write { root.open_write(&rec.path)? } else { root.open_read(&rec.path)? };
        let h = Arc::new(Handle {
            file: opened,
            writable: write,
            writing: Mutex::default(),
            path: root.full(&rec.path),
        });
        self.files.put(c.key, file, h.clone());
        Ok(h)
    }

    /// Where a file of a content lies, for messages.
    fn path_of(&self, c: &Content, rel: &str) -> PathBuf {
        let place = c.state().place();
        if rel.is_empty() { place } else { place.join(rel) }
    }

    /// One transaction that is on the disk when this returns, and with it whatever was committed before.
    fn durably<T>(
        &self,
        f: impl FnOnce(&redb::WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let unsaved = self.unsaved.swap(false, Ordering::AcqRel);
        let done = self.index.write(true, f);
        if done.is_err() && unsaved {
            self.unsaved.store(true, Ordering::Release);
        }
        done
    }

    /// Commits the record of a content now, durably or with the next that is. Not to be called while its layout is held.
    fn commit_rec(&self, c: &Content, durable: bool) -> Result<(), StoreError> {
        let _layout = c.reading();
        let put = |w: &redb::WriteTransaction| {
            let rec = c.state().rec.clone();
            index::put_content(w, c.key, &rec)
        };
        if durable {
            return self.durably(put);
        }
        self.index.write(false, put)?;
        self.unsaved.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for FsStore {
    fn drop(&mut self) {
        if self.crashed.load(Ordering::Relaxed) {
            return;
        }
        if let Err(e) = self.close() {
            tracing::warn!("the store was not closed cleanly: {e}");
        }
    }
}

impl Store for FsStore {
    fn node(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        self.index.node(cid)
    }

    fn put_nodes(&self, key: ContentKey, nodes: &[(Cid, Bytes)]) -> Result<(), StoreError> {
        self.content(key)?;
        self.index.write(false, |w| index::put_nodes(w, key, nodes))?;
        self.unsaved.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn list(&self) -> Result<Vec<ContentInfo>, StoreError> {
        Ok(self.all().iter().map(|c| c.info()).collect())
    }

    fn info(&self, key: ContentKey) -> Result<ContentInfo, StoreError> {
        Ok(self.content(key)?.info())
    }

    fn find(&self, root: &Cid) -> Result<Option<ContentKey>, StoreError> {
        let all = self.all();
        let rank = |c: &Arc<Content>| {
            let s = c.state();
            (s.rec.complete && s.held.len() == s.rec.chunks, s.rec.complete, s.held.len())
        };
        Ok(all.iter().filter(|c| c.root == *root).max_by_key(|c| rank(c)).map(|c| c.key))
    }

    fn remove(&self, key: ContentKey, delete_part: bool) -> Result<(), StoreError> {
        self.remove_content(key, delete_part)
    }

    fn set_seeding(&self, key: ContentKey, seeding: bool) -> Result<(), StoreError> {
        let c = self.content(key)?;
        {
            let mut s = c.state();
            if s.rec.seeding == seeding {
                return Ok(());
            }
            s.rec.seeding = seeding;
        }
        // Not worth a sync of its own: the next checkpoint or the clean stop makes it durable.
        self.commit_rec(&c, false)
    }

    fn begin_fetch(&self, new: &NewFetch) -> Result<ContentKey, StoreError> {
        self.begin(new)
    }

    fn extend(&self, key: ContentKey, items: &[Item]) -> Result<(), StoreError> {
        self.extend_layout(&*self.ready(key)?, items)
    }

    fn manifest_complete(&self, key: ContentKey) -> Result<(), StoreError> {
        let c = self.content(key)?;
        {
            let mut s = c.state();
            if s.rec.manifest_complete {
                return Ok(());
            }
            s.rec.manifest_complete = true;
        }
        self.commit_rec(&c, false)
    }

    fn chunk(&self, key: ContentKey, chunk: ChunkIndex) -> Result<ChunkSpec, StoreError> {
        let c = self.content(key)?;
        let _layout = c.reading();
        let rec = self.chunk_rec(&c, chunk)?;
        Ok(ChunkSpec { cid: rec.cid, len: rec.len })
    }

    fn chunks_of(
        &self,
        key: ContentKey,
        file: FileIndex,
        start: u64,
        end: u64,
    ) -> Result<Vec<ChunkRange>, StoreError> {
        self.chunks_in(&*self.content(key)?, file.0, start, end)
    }

    fn node_of(&self, cid: &Cid, of: &BTreeSet<ContentKey>) -> Result<Option<Bytes>, StoreError> {
        let Some((users, node)) = self.index.node_and_users(cid)? else { return Ok(None) };
        // There is no list of who uses a node, only a count; so those are asked one by one that are fewer.
        let used = if of.len() <= 64 {
            self.index.count_users(cid, of.iter().copied(), 1)? > 0
        } else {
            let all: Vec<ContentKey> = {
                let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
                contents.keys().filter(|key| !of.contains(key)).copied().collect()
            };
            users > self.index.count_users(cid, all.into_iter(), u32::MAX)?
        };
        Ok(used.then_some(node))
    }

    fn find_block_of(
        &self,
        hash: &Hash,
        of: &dyn Fn(ContentKey) -> bool,
    ) -> Result<Option<(ContentKey, ChunkIndex, u32)>, StoreError> {
        for (key, chunk, block) in self.index.blocks(hash)?.into_iter().filter(|(key, ..)| of(*key)) {
            let (Ok(c), Some(chunk)) = (self.ready(key), ChunkIndex::new(chunk)) else { continue };
            let held = c.state().held.contains(chunk);
            if held {
                return Ok(Some((key, chunk, block)));
            }
        }
        Ok(None)
    }

    fn write_chunk(
        &self,
        key: ContentKey,
        chunk: ChunkIndex,
        data: &VerifiedChunk<'_>,
    ) -> Result<(), StoreError> {
        self.write(&*self.ready(key)?, chunk, data)
    }

    fn read_chunk(
        &self,
        key: ContentKey,
        chunk: ChunkIndex,
        buf: &mut Vec<u8>,
    ) -> Result<ChunkRead, StoreError> {
        self.read(&*self.ready(key)?, chunk, buf)
    }

    fn have(&self, key: ContentKey) -> Result<Bitfield, StoreError> {
        Ok(self.ready(key)?.state().held.clone())
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.save(Extent::All)
    }

    fn last_checkpoint(&self) -> Result<(), StoreError> {
        self.save(Extent::Fetching)
    }

    fn finish_fetch(&self, key: ContentKey) -> Result<PathBuf, StoreError> {
        self.finish(&*self.ready(key)?)
    }

    fn verify(
        &self,
        key: ContentKey,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Vec<ChunkRange>, Vec<PathBuf>), StoreError> {
        self.verify_content(&*self.ready(key)?, progress)
    }

    fn relocate(&self, key: ContentKey, path: &Path) -> Result<(), StoreError> {
        self.relocate_content(&*self.content(key)?, path)
    }

    fn notes(&self, kind: &str) -> Result<Notes, StoreError> {
        self.index.notes(kind)
    }

    fn note(&self, kind: &str, notes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), StoreError> {
        self.durably(|w| notes.iter().try_for_each(|(k, t)| index::put_note(w, kind, k, t.as_deref())))
    }
}
