//! The index: one redb database, `index.redb`.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | number: the schema's version, the next content key |
//! | `contents` | content | [`ContentRec`] (JSON) |
//! | `held` | content, page of 65,536 chunks | bitmap, trailing zeros cut |
//! | `chunks` | content, page of 256 | [`ChunkRec`]s |
//! | `files` | content, page of 128 | [`FileRec`]s |
//! | `runs` | content, file, offset | first chunk and count of each run but a file's first |
//! | `places` | content, chunk, file, offset | placements but a chunk's first |
//! | `entries` | content, path | folders and symlinks |
//! | `frames` | content, chunk | how the blocks of a chunk that is no raw block are rebuilt |
//! | `nodes` | CID | number of contents that use it, the inner node's bytes |
//! | `node_users` | content, CID | |
//! | `blocks` | multihash, content, chunk, block | |
//! | `notes` | kind, key | what the node remembers besides contents |
//!
//! Commits are durable only where the caller says so; the others become durable with the next that is.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{
    Database, DatabaseError, Durability, Key, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, TableError, Value, WriteTransaction,
};

use crate::bitfield::{Bitfield, PAGE};
use crate::content::chunk::ChunkFrame;
use crate::content::{Cid, Hash};
use crate::units::{ChunkIndex, ChunkRange, ContentKey};

use super::records::{ChunkRec, ContentRec, EntryRec, FileRec, Record, decode_page, encode_page};
use super::{Notes, StoreError};

type Blob = &'static [u8];
type PageTable = TableDefinition<'static, (u32, u32), Blob>;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const CONTENTS: TableDefinition<u32, Blob> = TableDefinition::new("contents");
const HELD: PageTable = TableDefinition::new("held");
const CHUNKS: PageTable = TableDefinition::new("chunks");
const FILES: PageTable = TableDefinition::new("files");
const RUNS: TableDefinition<(u32, u32, u64), (u32, u32)> = TableDefinition::new("runs");
const PLACES: TableDefinition<(u32, u32, u32, u64), ()> = TableDefinition::new("places");
const ENTRIES: TableDefinition<(u32, &str), Blob> = TableDefinition::new("entries");
const FRAMES: PageTable = TableDefinition::new("frames");
const NODES: TableDefinition<Blob, (u32, Blob)> = TableDefinition::new("nodes");
const NODE_USERS: TableDefinition<(u32, Blob), ()> = TableDefinition::new("node_users");
const BLOCKS: TableDefinition<(Blob, u32, u32, u32), ()> = TableDefinition::new("blocks");
/// Came after the first version: an index may lack it until something is noted.
const NOTES: TableDefinition<(&str, Blob), Blob> = TableDefinition::new("notes");

const VERSION: u64 = 1;
const NEXT_KEY: &str = "next_key";

/// A run of chunks with consecutive numbers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub offset: u64,
    pub first: u32,
    pub count: u32,
}

/// A place of a chunk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: u32,
    pub offset: u64,
}

/// A record that has a table of pages.
pub trait Paged: Record + 'static {
    const TABLE: PageTable;
}
impl Paged for ChunkRec {
    const TABLE: PageTable = CHUNKS;
}
impl Paged for FileRec {
    const TABLE: PageTable = FILES;
}

#[derive(Debug)]
pub struct Index {
    db: Database,
}

/// How long a process that was killed a moment ago may hold the file yet: whoever opens the index has the data
/// directory's lock, so nobody else is using it.
const LAST_HOLDER: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

fn open_database(path: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    let since = Instant::now();
    loop {
        match Database::builder().set_cache_size(cache_bytes).create(path) {
            Err(DatabaseError::DatabaseAlreadyOpen) if since.elapsed() < LAST_HOLDER => {
                std::thread::sleep(LOOK_AGAIN);
            }
            opened => return Ok(opened?),
        }
    }
}

/// redb writes a new file's first bytes last. Without them the file was never finished (the disk was full), and holds
/// nothing.
fn remove_unfinished(path: &Path) -> Result<(), StoreError> {
    let mut start = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut f| f.read(&mut start));
    match read {
        Ok(n) if n > 0 && start == [0; 4] => std::fs::remove_file(path).map_err(|e| StoreError::io(path, e)),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io(path, e)),
    }
}

impl Index {
    /// Opens or makes the index; redb repairs it after an unclean stop.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Index, StoreError> {
        remove_unfinished(path)?;
        let db = open_database(path, cache_bytes)?;
        let index = Index { db };
        let version = match index.read()?.open_table(META) {
            Ok(t) => t.get("version")?.map(|v| v.value()),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(e) => return Err(e.into()),
        };
        match version {
            Some(VERSION) => {}
            Some(v) => {
                return Err(StoreError::damaged(format!("its version is {v}, this program's is {VERSION}")));
            }
            // Durable with the first commit that is; without one there is nothing to lose.
            None => index.write(false, create_tables)?,
        }
        Ok(index)
    }

    pub fn read(&self) -> Result<ReadTransaction, StoreError> {
        Ok(self.db.begin_read()?)
    }

    /// One transaction. An error undoes it.
    pub fn write<T>(
        &self,
        durable: bool,
        f: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let w = self.begin(durable)?;
        let done = f(&w)?;
        w.commit()?;
        Ok(done)
    }

    pub fn begin(&self, durable: bool) -> Result<WriteTransaction, StoreError> {
        let mut w = self.db.begin_write()?;
        w.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        Ok(w)
    }

    pub fn contents(&self) -> Result<Vec<(ContentKey, ContentRec)>, StoreError> {
        let table = self.read()?.open_table(CONTENTS)?;
        let mut out = Vec::new();
        for row in table.range::<u32>(..)? {
            let (k, v) = row?;
            let rec = serde_json::from_slice(v.value()).map_err(|e| StoreError::damaged(e.to_string()))?;
            out.push((ContentKey(k.value()), rec));
        }
        Ok(out)
    }

    pub fn held(&self, key: ContentKey, rec: &ContentRec) -> Result<Bitfield, StoreError> {
        if rec.held_all {
            return Ok(Bitfield::full(rec.chunks));
        }
        let table = self.read()?.open_table(HELD)?;
        let mut held = Bitfield::new();
        for row in table.range((key.0, 0)..=(key.0, u32::MAX))? {
            let (k, v) = row?;
            decode_held(k.value().1, v.value(), &mut held);
        }
        if let Some(beyond) = ChunkRange::new(rec.chunks, crate::units::MAX_CHUNKS) {
            held.remove_range(beyond);
        }
        Ok(held)
    }

    /// A page of records; empty if it is not there.
    pub fn page<R: Paged>(&self, key: ContentKey, page: u32) -> Result<Vec<R>, StoreError> {
        let table = self.read()?.open_table(R::TABLE)?;
        table.get((key.0, page))?.map_or(Ok(Vec::new()), |v| decode_page(v.value()))
    }

    pub fn frame(&self, key: ContentKey, chunk: u32) -> Result<Option<ChunkFrame>, StoreError> {
        let table = self.read()?.open_table(FRAMES)?;
        table.get((key.0, chunk))?.map(|v| decode_frame(v.value())).transpose()
    }

    pub fn node(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        let table = self.read()?.open_table(NODES)?;
        Ok(table.get(cid.to_bytes().as_slice())?.map(|v| Bytes::copy_from_slice(v.value().1)))
    }

    /// An inner node, and how many contents use it.
    pub fn node_and_users(&self, cid: &Cid) -> Result<Option<(u32, Bytes)>, StoreError> {
        let table = self.read()?.open_table(NODES)?;
        let row = table.get(cid.to_bytes().as_slice())?;
        Ok(row.map(|v| (v.value().0, Bytes::copy_from_slice(v.value().1))))
    }

    /// How many of these contents use an inner node; it stops at `enough`.
    pub fn count_users(
        &self,
        cid: &Cid,
        contents: impl Iterator<Item = ContentKey>,
        enough: u32,
    ) -> Result<u32, StoreError> {
        let (table, cid) = (self.read()?.open_table(NODE_USERS)?, cid.to_bytes());
        let mut count = 0;
        for key in contents {
            count += u32::from(table.get((key.0, cid.as_slice()))?.is_some());
            if count >= enough {
                break;
            }
        }
        Ok(count)
    }

    /// A chunk's placements but its first.
    pub fn places(&self, key: ContentKey, chunk: u32) -> Result<Vec<Place>, StoreError> {
        let table = self.read()?.open_table(PLACES)?;
        let mut out = Vec::new();
        for row in table.range((key.0, chunk, 0, 0)..=(key.0, chunk, u32::MAX, u64::MAX))? {
            let (_, _, file, offset) = row?.0.value();
            out.push(Place { file, offset });
        }
        Ok(out)
    }

    /// A file's runs but its first, by offset.
    pub fn runs(&self, key: ContentKey, file: u32) -> Result<Vec<Run>, StoreError> {
        let table = self.read()?.open_table(RUNS)?;
        let mut out = Vec::new();
        for row in table.range((key.0, file, 0)..=(key.0, file, u64::MAX))? {
            let (k, v) = row?;
            let (first, count) = v.value();
            out.push(Run { offset: k.value().2, first, count });
        }
        Ok(out)
    }

    /// Folders and symlinks, by path.
    pub fn entries(
        &self,
        key: ContentKey,
        f: &mut dyn FnMut(&str, EntryRec) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let table = self.read()?.open_table(ENTRIES)?;
        for row in table.range((key.0, "")..)? {
            let (k, v) = row?;
            let (content, path) = k.value();
            if content != key.0 {
                break;
            }
            f(path, EntryRec::decode(v.value())?)?;
        }
        Ok(())
    }

    /// The blocks with this multihash.
    pub fn blocks(&self, hash: &Hash) -> Result<Vec<(ContentKey, u32, u32)>, StoreError> {
        let hash = hash.to_bytes();
        let table = self.read()?.open_table(BLOCKS)?;
        let mut out = Vec::new();
        let (from, to) = ((&hash[..], 0, 0, 0), (&hash[..], u32::MAX, u32::MAX, u32::MAX));
        for row in table.range(from..=to)? {
            let (_, content, chunk, block) = row?.0.value();
            out.push((ContentKey(content), chunk, block));
        }
        Ok(out)
    }

    /// All notes of a kind.
    pub fn notes(&self, kind: &str) -> Result<Notes, StoreError> {
        let table = match self.read()?.open_table(NOTES) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut out = Vec::new();
        for row in table.range((kind, &[][..])..)? {
            let (k, v) = row?;
            let (of, key) = k.value();
            if of != kind {
                break;
            }
            out.push((key.to_vec(), v.value().to_vec()));
        }
        Ok(out)
    }
}

fn create_tables(w: &WriteTransaction) -> Result<(), StoreError> {
    w.open_table(META)?.insert("version", VERSION)?;
    w.open_table(CONTENTS)?;
    for t in [HELD, CHUNKS, FILES, FRAMES] {
        w.open_table(t)?;
    }
    w.open_table(RUNS)?;
    w.open_table(PLACES)?;
    w.open_table(ENTRIES)?;
    w.open_table(NODES)?;
    w.open_table(NODE_USERS)?;
    w.open_table(BLOCKS)?;
    Ok(())
}

fn decode_frame(b: &[u8]) -> Result<ChunkFrame, StoreError> {
    ChunkFrame::decode(b).map_err(|e| StoreError::damaged(format!("a chunk's frame: {e}")))
}

/// The next content key; keys are never used twice.
pub fn next_key(w: &WriteTransaction) -> Result<ContentKey, StoreError> {
    let mut t = w.open_table(META)?;
    let n = t.get(NEXT_KEY)?.map_or(1, |v| v.value());
    t.insert(NEXT_KEY, n + 1)?;
    u32::try_from(n).map(ContentKey).map_err(|_| StoreError::damaged("the content keys are used up"))
}

pub fn put_content(w: &WriteTransaction, key: ContentKey, rec: &ContentRec) -> Result<(), StoreError> {
    let json = serde_json::to_vec(rec).map_err(|e| StoreError::damaged(e.to_string()))?;
    w.open_table(CONTENTS)?.insert(key.0, json.as_slice())?;
    Ok(())
}

pub fn put_note(w: &WriteTransaction, kind: &str, key: &[u8], text: Option<&[u8]>) -> Result<(), StoreError> {
    let mut table = w.open_table(NOTES)?;
    match text {
        Some(text) => table.insert((kind, key), text)?,
        None => table.remove((kind, key))?,
    };
    Ok(())
}

pub fn put_page<R: Paged>(
    w: &WriteTransaction,
    key: ContentKey,
    page: u32,
    records: &[R],
) -> Result<(), StoreError> {
    w.open_table(R::TABLE)?.insert((key.0, page), encode_page(records).as_slice())?;
    Ok(())
}

pub fn put_run(w: &WriteTransaction, key: ContentKey, file: u32, run: Run) -> Result<(), StoreError> {
    w.open_table(RUNS)?.insert((key.0, file, run.offset), (run.first, run.count))?;
    Ok(())
}

pub fn last_run(w: &WriteTransaction, key: ContentKey, file: u32) -> Result<Option<Run>, StoreError> {
    let t = w.open_table(RUNS)?;
    let last = t.range((key.0, file, 0)..=(key.0, file, u64::MAX))?.next_back().transpose()?;
    Ok(last.map(|(k, v)| Run { offset: k.value().2, first: v.value().0, count: v.value().1 }))
}

/// True if the placement was not known.
pub fn put_place(
    w: &WriteTransaction,
    key: ContentKey,
    chunk: u32,
    place: Place,
) -> Result<bool, StoreError> {
    Ok(w.open_table(PLACES)?.insert((key.0, chunk, place.file, place.offset), ())?.is_none())
}

pub fn put_entry(
    w: &WriteTransaction,
    key: ContentKey,
    path: &str,
    rec: &EntryRec,
) -> Result<(), StoreError> {
    w.open_table(ENTRIES)?.insert((key.0, path), rec.encode().as_slice())?;
    Ok(())
}

pub fn put_frames<'a>(
    w: &WriteTransaction,
    key: ContentKey,
    frames: impl Iterator<Item = (u32, &'a [u8])>,
) -> Result<(), StoreError> {
    let mut t = w.open_table(FRAMES)?;
    for (chunk, frame) in frames {
        t.insert((key.0, chunk), frame)?;
    }
    Ok(())
}

pub fn put_held<'a>(
    w: &WriteTransaction,
    key: ContentKey,
    pages: impl Iterator<Item = (u32, &'a [u8])>,
) -> Result<(), StoreError> {
    let mut t = w.open_table(HELD)?;
    for (page, bits) in pages {
        t.insert((key.0, page), bits)?;
    }
    Ok(())
}

/// A content whose chunks are all held needs no bitmaps.
pub fn drop_held(w: &WriteTransaction, key: ContentKey) -> Result<(), StoreError> {
    clear(w, HELD, (key.0, 0), (key.0, u32::MAX))
}

pub fn put_nodes(w: &WriteTransaction, key: ContentKey, nodes: &[(Cid, Bytes)]) -> Result<(), StoreError> {
    let (mut t, mut users) = (w.open_table(NODES)?, w.open_table(NODE_USERS)?);
    let mut sorted: Vec<(Vec<u8>, &Bytes)> = nodes.iter().map(|(cid, b)| (cid.to_bytes(), b)).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    for (cid, bytes) in sorted {
        if users.insert((key.0, cid.as_slice()), ())?.is_some() {
            continue;
        }
        let used = t.get(cid.as_slice())?.map_or(0, |v| v.value().0);
        t.insert(cid.as_slice(), (used + 1, bytes.as_ref()))?;
    }
    Ok(())
}

/// Adds blocks to the index by multihash, in the order of the keys.
pub fn put_blocks(
    w: &WriteTransaction,
    key: ContentKey,
    mut blocks: Vec<(Hash, u32, u32)>,
) -> Result<(), StoreError> {
    blocks.sort_unstable_by(|a, b| (a.0.code(), a.0.digest(), a.1).cmp(&(b.0.code(), b.0.digest(), b.1)));
    let mut t = w.open_table(BLOCKS)?;
    for (hash, chunk, block) in blocks {
        t.insert((hash.to_bytes().as_slice(), key.0, chunk, block), ())?;
    }
    Ok(())
}

/// The multihashes of a page of chunks: one for a chunk that is one block, all for the others.
pub fn blocks_of(
    frames: &impl ReadableTable<(u32, u32), Blob>,
    key: ContentKey,
    first: u32,
    page: &[ChunkRec],
) -> Result<Vec<(Hash, u32, u32)>, StoreError> {
    let mut out = Vec::with_capacity(page.len());
    for (chunk, rec) in (first..).zip(page) {
        out.push((*rec.cid.hash(), chunk, 0));
        if rec.cid.codec() == crate::content::RAW {
            continue;
        }
        if let Some(v) = frames.get((key.0, chunk))? {
            let frame = decode_frame(v.value())?;
            out.extend((1..).zip(frame.blocks.iter().skip(1)).map(|(n, b)| (*b.cid.hash(), chunk, n)));
        }
    }
    Ok(out)
}

/// Adds the blocks of all of a content's chunks to the index by multihash.
pub fn index_blocks(w: &WriteTransaction, key: ContentKey, chunks: u32) -> Result<(), StoreError> {
    // 64 pages are 16,384 chunks: a sorted batch of some 2 MiB.
    for batch in 0..chunks.div_ceil(ChunkRec::PER_PAGE * 64) {
        let mut blocks = Vec::new();
        for page in batch * 64..(batch + 1) * 64 {
            blocks.append(&mut page_blocks(w, key, page)?);
        }
        put_blocks(w, key, blocks)?;
    }
    Ok(())
}

fn page_blocks(
    w: &WriteTransaction,
    key: ContentKey,
    page: u32,
) -> Result<Vec<(Hash, u32, u32)>, StoreError> {
    let records = read_page::<ChunkRec>(w, key, page)?;
    let frames = w.open_table(FRAMES)?;
    blocks_of(&frames, key, page * ChunkRec::PER_PAGE, &records)
}

/// A page as this transaction sees it.
pub fn read_page<R: Paged>(w: &WriteTransaction, key: ContentKey, page: u32) -> Result<Vec<R>, StoreError> {
    w.open_table(R::TABLE)?.get((key.0, page))?.map_or(Ok(Vec::new()), |v| decode_page(v.value()))
}

/// Forgets a content: its rows, its blocks, and the nodes that no other content uses.
pub fn delete_content(w: &WriteTransaction, key: ContentKey, chunks: u32) -> Result<(), StoreError> {
    for page in 0..chunks.div_ceil(ChunkRec::PER_PAGE) {
        let mut blocks = page_blocks(w, key, page)?;
        blocks.sort_unstable_by(|a, b| (a.0.code(), a.0.digest()).cmp(&(b.0.code(), b.0.digest())));
        let mut t = w.open_table(BLOCKS)?;
        for (hash, chunk, block) in blocks {
            t.remove((hash.to_bytes().as_slice(), key.0, chunk, block))?;
        }
    }
    release_nodes(w, key)?;
    let end = key.0.saturating_add(1);
    for t in [HELD, CHUNKS, FILES, FRAMES] {
        clear(w, t, (key.0, 0), (key.0, u32::MAX))?;
    }
    clear(w, RUNS, (key.0, 0, 0), (key.0, u32::MAX, u64::MAX))?;
    clear(w, PLACES, (key.0, 0, 0, 0), (key.0, u32::MAX, u32::MAX, u64::MAX))?;
    w.open_table(ENTRIES)?.retain_in((key.0, "")..(end, ""), |_, _| false)?;
    w.open_table(NODE_USERS)?.retain_in((key.0, &[][..])..(end, &[][..]), |_, ()| false)?;
    w.open_table(CONTENTS)?.remove(key.0)?;
    Ok(())
}

fn release_nodes(w: &WriteTransaction, key: ContentKey) -> Result<(), StoreError> {
    let (mut nodes, users) = (w.open_table(NODES)?, w.open_table(NODE_USERS)?);
    for row in users.range((key.0, &[][..])..(key.0.saturating_add(1), &[][..]))? {
        let row = row?.0;
        let cid = row.value().1;
        let Some((used, bytes)) = nodes.get(cid)?.map(|v| (v.value().0, v.value().1.to_vec())) else {
            continue;
        };
        if used > 1 {
            nodes.insert(cid, (used - 1, bytes.as_slice()))?;
        } else {
            nodes.remove(cid)?;
        }
    }
    Ok(())
}

fn clear<K, V>(
    w: &WriteTransaction,
    table: TableDefinition<'static, K, V>,
    from: K::SelfType<'static>,
    to: K::SelfType<'static>,
) -> Result<(), StoreError>
where
    K: Key + for<'a> std::borrow::Borrow<K::SelfType<'a>> + 'static,
    V: Value + 'static,
    K::SelfType<'static>: std::borrow::Borrow<K::SelfType<'static>>,
{
    w.open_table(table)?.retain_in::<K::SelfType<'static>, _>(from..=to, |_, _| false)?;
    Ok(())
}

/// The bitmap of a page of chunk numbers, trailing zeros cut.
pub fn encode_held(held: &Bitfield, page: u32) -> Vec<u8> {
    let (start, end) = (page * PAGE, (page + 1) * PAGE);
    let mut bits = Vec::new();
    let mut from = start;
    while let Some(first) = held.next_set(from).filter(|&n| n < end) {
        let last = held.next_unset(first).min(end);
        bits.resize(((last - start) as usize).div_ceil(8), 0);
        for n in first - start..last - start {
            bits[(n / 8) as usize] |= 1 << (n % 8);
        }
        from = last;
    }
    bits
}

fn decode_held(page: u32, bits: &[u8], held: &mut Bitfield) {
    for (i, byte) in (0u32..).zip(bits.iter().take(PAGE as usize / 8)) {
        for bit in (0..8).filter(|b| byte >> b & 1 == 1) {
            if let Some(n) = ChunkIndex::new(page * PAGE + i * 8 + bit) {
                held.insert(n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn held_bitmaps_come_back(ns in prop::collection::btree_set(0u32..3 * PAGE, 0..200), run in (0u32..PAGE, 1u32..PAGE)) {
            let mut held: Bitfield = ns.into_iter().map(|n| ChunkIndex::new(n).unwrap()).collect();
            held.insert_range(ChunkRange::new(run.0, run.0 + run.1).unwrap());
            let mut back = Bitfield::new();
            for page in 0..3 {
                decode_held(page, &encode_held(&held, page), &mut back);
            }
            prop_assert_eq!(back, held);
        }
    }
}
