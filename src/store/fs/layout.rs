//! Where chunks belong: the manifest's items become records, and files' bytes are found again as runs of chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redb::WriteTransaction;

use crate::content::chunk::ChunkSpec;
use crate::content::manifest::{Item, Meta};
use crate::units::{ChunkIndex, ChunkRange, ContentKey};

use super::super::index::{self, Paged, Place, Run};
use super::super::records::{ChunkRec, ContentRec, EntryRec, FileRec};
use super::super::tree::check_rel;
use super::super::{Signature, StoreError};
use super::FsStore;
use super::content::{Content, lock};

/// Pages of records being changed within one transaction.
struct Editor<'w, R> {
    w: &'w WriteTransaction,
    key: ContentKey,
    pages: BTreeMap<u32, (Vec<R>, bool)>,
}

impl<'w, R: Paged> Editor<'w, R> {
    fn new(w: &'w WriteTransaction, key: ContentKey) -> Self {
        Editor { w, key, pages: BTreeMap::new() }
    }

    fn page(&mut self, page: u32) -> Result<&mut (Vec<R>, bool), StoreError> {
        match self.pages.entry(page) {
            std::collections::btree_map::Entry::Occupied(e) => Ok(e.into_mut()),
            std::collections::btree_map::Entry::Vacant(e) => {
                Ok(e.insert((index::read_page(self.w, self.key, page)?, false)))
            }
        }
    }

    fn get(&mut self, n: u32) -> Result<&R, StoreError> {
        let found = self.page(n / R::PER_PAGE)?.0.get((n % R::PER_PAGE) as usize);
        found.ok_or_else(|| StoreError::damaged(format!("record {n} is not there")))
    }

    fn edit(&mut self, n: u32, f: impl FnOnce(&mut R)) -> Result<(), StoreError> {
        let (page, dirty) = self.page(n / R::PER_PAGE)?;
        let rec = page.get_mut((n % R::PER_PAGE) as usize);
        f(rec.ok_or_else(|| StoreError::damaged(format!("record {n} is not there")))?);
        *dirty = true;
        Ok(())
    }

    /// Adds the record with number `n`, which is the next.
    fn push(&mut self, n: u32, rec: R) -> Result<(), StoreError> {
        let (page, dirty) = self.page(n / R::PER_PAGE)?;
        if page.len() != (n % R::PER_PAGE) as usize {
            return Err(StoreError::damaged(format!("record {n} is not the next")));
        }
        page.push(rec);
        *dirty = true;
        Ok(())
    }

    /// Writes what changed; the pages' numbers.
    fn flush(self) -> Result<Vec<u32>, StoreError> {
        let mut changed = Vec::new();
        for (page, (records, _)) in self.pages.iter().filter(|(_, (_, dirty))| *dirty) {
            index::put_page(self.w, self.key, *page, records)?;
            changed.push(*page);
        }
        Ok(changed)
    }
}

/// What the signatures of files being imported are found by: path to signature and whether it was too young.
pub type Signatures<'a> = &'a dyn Fn(&str) -> Option<(Signature, bool)>;

/// What [`apply`] leaves to be done.
#[derive(Debug, Default)]
pub struct Applied {
    pub chunk_pages: Vec<u32>,
    pub file_pages: Vec<u32>,
    /// Bytes that inner nodes carry, known before or not: file, offset, bytes.
    pub inline: Vec<(u32, u64, Bytes)>,
    /// New places of chunks that were known before this call or became known in it.
    pub repeats: Vec<(u32, Place)>,
}

/// Writes the records of items, in the manifest's order, and counts them in `rec`. Items known already change nothing.
/// `came` says how long a chunk was that has come and is not on record yet.
pub fn apply(
    w: &WriteTransaction,
    key: ContentKey,
    rec: &mut ContentRec,
    items: &[Item],
    sigs: Option<Signatures<'_>>,
    came: &dyn Fn(u32) -> Option<u64>,
) -> Result<Applied, StoreError> {
    let mut chunks = Editor::<ChunkRec>::new(w, key);
    let mut files = Editor::<FileRec>::new(w, key);
    let mut done = Applied::default();
    for item in items {
        match item {
            Item::Dir { path, meta } => {
                let path = path.as_str();
                safe(path)?;
                index::put_entry(w, key, path, &EntryRec::Dir { meta: *meta })?;
            }
            Item::Symlink { path, target } => {
                let path = path.as_str();
                safe(path)?;
                index::put_entry(w, key, path, &EntryRec::Symlink { target: target.clone() })?;
            }
            Item::File { file, path, size, sure, meta } if file.0 >= rec.files => {
                if file.0 != rec.files {
                    return Err(StoreError::OutOfOrder("a file is left out"));
                }
                let path = path.as_str();
                safe(path)?;
                let sig = sigs.and_then(|find| find(path));
                // Of our own file the size is what was seen.
                let (size, guess) = match sig {
                    Some((sig, _)) if !sure => (Some(sig.size), false),
                    _ => (*size, !sure),
                };
                files.push(file.0, FileRec { guess, ..new_file(path, size, *meta, sig) })?;
                rec.files += 1;
                rec.size = rec.size.saturating_add(size.unwrap_or(0));
            }
            Item::File { .. } => {}
            Item::Chunk { index, first, spec, file, offset } => {
                let place = Place { file: file.0, offset: *offset };
                if place.file >= rec.files {
                    return Err(StoreError::OutOfOrder("a chunk of a file that is not known"));
                }
                if *first && index.get() < rec.chunks {
                    continue;
                }
                if *first {
                    if index.get() != rec.chunks {
                        return Err(StoreError::OutOfOrder("a chunk is left out"));
                    }
                    let imported = files.get(place.file)?.sig.map(|s| s.size);
                    chunks.push(index.get(), new_chunk(spec, place, imported))?;
                    rec.chunks += 1;
                } else if !repeat(w, key, &mut chunks, rec.chunks, *index, place, &mut done)? {
                    continue;
                } else if let Some(len) = spec.len {
                    claim(&mut chunks, *index, len, came)?;
                }
                place_run(w, key, &mut files, place, index.get())?;
            }
            Item::Inline { file, offset, data } => {
                if file.0 >= rec.files {
                    return Err(StoreError::OutOfOrder("bytes of a file that is not known"));
                }
                if (file.0, *offset) >= rec.inline_to && !data.is_empty() {
                    let len = data.len() as u64;
                    rec.inline_bytes += len;
                    rec.inline_to = (file.0, offset.saturating_add(len));
                }
                done.inline.push((file.0, *offset, data.clone()));
            }
        }
    }
    done.chunk_pages = chunks.flush()?;
    done.file_pages = files.flush()?;
    Ok(done)
}

fn safe(path: &str) -> Result<(), StoreError> {
    if path.is_empty() { Ok(()) } else { check_rel(path) }
}

fn new_file(path: &str, size: Option<u64>, meta: Meta, sig: Option<(Signature, bool)>) -> FileRec {
    FileRec {
        path: path.to_owned(),
        size,
        guess: false,
        meta,
        sig: sig.map(|s| s.0),
        young: sig.is_some_and(|s| s.1),
        changed: false,
        start: 0,
        first: 0,
        count: 0,
        more: false,
    }
}

/// Where no length is claimed, the chunk is the whole file, which is known if it is our own.
fn new_chunk(spec: &ChunkSpec, place: Place, file_size: Option<u64>) -> ChunkRec {
    ChunkRec {
        cid: spec.cid,
        len: spec.len.or(file_size),
        file: place.file,
        offset: place.offset,
        more: false,
    }
}

/// One more place of a known chunk; false if it was known too.
fn repeat(
    w: &WriteTransaction,
    key: ContentKey,
    chunks: &mut Editor<'_, ChunkRec>,
    known: u32,
    chunk: ChunkIndex,
    place: Place,
    done: &mut Applied,
) -> Result<bool, StoreError> {
    if chunk.get() >= known {
        return Err(StoreError::OutOfOrder("a chunk is repeated before it came first"));
    }
    let rec = chunks.get(chunk.get())?;
    if (rec.file, rec.offset) == (place.file, place.offset) || !index::put_place(w, key, chunk.get(), place)?
    {
        return Ok(false);
    }
    if !rec.more {
        chunks.edit(chunk.get(), |rec| rec.more = true)?;
    }
    done.repeats.push((chunk.get(), place));
    Ok(true)
}

/// A place of a chunk says how long it is: where nothing was known of that, this is what it has to be from now on.
fn claim(
    chunks: &mut Editor<'_, ChunkRec>,
    chunk: ChunkIndex,
    len: u64,
    came: &dyn Fn(u32) -> Option<u64>,
) -> Result<(), StoreError> {
    match chunks.get(chunk.get())?.len.or_else(|| came(chunk.get())) {
        None => chunks.edit(chunk.get(), |rec| rec.len = Some(len)),
        Some(known) if known == len => Ok(()),
        Some(known) => {
            Err(StoreError::Dag(format!("chunk {chunk} has {known} bytes, and {len} in another place")))
        }
    }
}

/// Adds a chunk to its file's runs: it lengthens the last one if its number is the next.
fn place_run(
    w: &WriteTransaction,
    key: ContentKey,
    files: &mut Editor<'_, FileRec>,
    place: Place,
    chunk: u32,
) -> Result<(), StoreError> {
    let rec = files.get(place.file)?;
    if rec.count == 0 {
        return files.edit(place.file, |rec| (rec.start, rec.first, rec.count) = (place.offset, chunk, 1));
    }
    if !rec.more && rec.first + rec.count == chunk {
        return files.edit(place.file, |rec| rec.count += 1);
    }
    let last = if rec.more { index::last_run(w, key, place.file)? } else { None };
    if !rec.more {
        files.edit(place.file, |rec| rec.more = true)?;
    }
    let run = match last {
        Some(run) if run.first + run.count == chunk => Run { count: run.count + 1, ..run },
        _ => Run { offset: place.offset, first: chunk, count: 1 },
    };
    index::put_run(w, key, place.file, run)
}

/// Changes file records; the pages that changed.
pub fn edit_files(
    w: &WriteTransaction,
    key: ContentKey,
    edits: impl IntoIterator<Item = u32>,
    f: &mut dyn FnMut(u32, &mut FileRec),
) -> Result<Vec<u32>, StoreError> {
    let mut editor = Editor::<FileRec>::new(w, key);
    for file in edits {
        editor.edit(file, |rec| f(file, rec))?;
    }
    editor.flush()
}

/// Sets the lengths of chunks that came with more to say than their parents claimed; the pages that changed.
pub fn set_lens(
    w: &WriteTransaction,
    key: ContentKey,
    lens: &BTreeMap<u32, u64>,
) -> Result<Vec<u32>, StoreError> {
    let mut editor = Editor::<ChunkRec>::new(w, key);
    for (&chunk, &len) in lens {
        editor.edit(chunk, |rec| rec.len = Some(len))?;
    }
    editor.flush()
}

impl FsStore {
    /// Changes file records, in a transaction of their own.
    pub(super) fn edit_file_records(
        &self,
        c: &Content,
        files: impl IntoIterator<Item = u32>,
        mut f: impl FnMut(u32, &mut FileRec),
    ) -> Result<(), StoreError> {
        let pages = self.index.write(false, |w| edit_files(w, c.key, files, &mut f))?;
        self.unsaved.store(true, Ordering::Relaxed);
        pages.iter().for_each(|&p| self.file_pages.forget(c.key, p));
        Ok(())
    }

    pub(super) fn extend_layout(&self, c: &Content, items: &[Item]) -> Result<(), StoreError> {
        let _layout = c.changing();
        let mut rec = c.state().rec.clone();
        let before = rec.chunks;
        let done = self.index.write(false, |w| {
            // What came since the last checkpoint is as long as it is.
            let came = |chunk: u32| c.state().lens.get(&chunk).copied();
            let done = apply(w, c.key, &mut rec, items, None, &came)?;
            index::put_content(w, c.key, &rec)?;
            Ok(done)
        })?;
        self.unsaved.store(true, Ordering::Relaxed);
        {
            let mut s = c.state();
            s.rec = ContentRec {
                held_bytes: s.rec.held_bytes,
                changed: s.rec.changed.clone(),
                seeding: s.rec.seeding,
                manifest_complete: s.rec.manifest_complete,
                ..rec
            };
        }
        done.chunk_pages.iter().for_each(|&p| self.chunk_pages.forget(c.key, p));
        done.file_pages.iter().for_each(|&p| self.file_pages.forget(c.key, p));
        if c.state().rec.complete {
            return Ok(()); // the same items again
        }
        self.write_inline(c, &done.inline)?;
        self.copy_repeats(c, &done.repeats, before)?;
        if c.state().resumed {
            self.recover(c, before)?;
        }
        Ok(())
    }

    /// Writes the bytes that inner nodes carry; none that are there already.
    fn write_inline(&self, c: &Content, inline: &[(u32, u64, Bytes)]) -> Result<(), StoreError> {
        let mut there = Vec::new();
        for (file, offset, data) in inline {
            let h = self.handle(c, *file, &self.file_rec(c, *file)?, true)?;
            there.resize(data.len(), 0);
            let same = h.file.read_exact_at(&mut there, *offset).is_ok() && there == data.as_ref();
            if !same {
                h.file.write_all_at(data, *offset).map_err(|e| StoreError::io(&h.path, e))?;
            }
            let mut written = lock(&self.written);
            written.files.insert((c.key, *file));
            written.inline.insert((c.key, *file));
        }
        Ok(())
    }

    /// A chunk that is held already is copied to its new places.
    fn copy_repeats(&self, c: &Content, repeats: &[(u32, Place)], known: u32) -> Result<(), StoreError> {
        let mut buf = Vec::new();
        let chunks: BTreeSet<u32> = repeats.iter().map(|r| r.0).filter(|&n| n < known).collect();
        for chunk in chunks.into_iter().filter_map(ChunkIndex::new) {
            if !c.state().held.contains(chunk) {
                continue;
            }
            let rec = self.chunk_rec(c, chunk)?;
            let len = self.read_data(c, chunk, &rec, &mut buf)?;
            let mut new = 0;
            for (_, place) in repeats.iter().filter(|r| r.0 == chunk.get()) {
                new += 1;
                self.write_place(c, *place, &mut std::iter::once(&buf[..len]))?;
            }
            c.state().add_bytes(len as u64 * new);
        }
        Ok(())
    }

    /// A file's runs of chunks, by offset.
    pub(super) fn runs(&self, c: &Content, file: u32, rec: &FileRec) -> Result<Vec<Run>, StoreError> {
        let mut runs = Vec::new();
        if rec.count > 0 {
            runs.push(Run { offset: rec.start, first: rec.first, count: rec.count });
        }
        if rec.more {
            runs.extend(self.index.runs(c.key, file)?);
        }
        Ok(runs)
    }

    pub(super) fn chunks_in(
        &self,
        c: &Content,
        file: u32,
        start: u64,
        end: u64,
    ) -> Result<Vec<ChunkRange>, StoreError> {
        let _layout = c.reading();
        let rec = self.file_pages.record(&self.index, c.key, file)?;
        let rec = rec.ok_or(StoreError::OutOfOrder("the file is not known yet"))?;
        let mut out: Vec<ChunkRange> = Vec::new();
        for run in self.runs(c, file, &rec)? {
            if run.offset >= end {
                break;
            }
            let Some(found) = self.run_part(c, file, run, start, end)? else { continue };
            match out.last_mut() {
                Some(last) if last.end() == found.start() => {
                    *last = ChunkRange::new(last.start(), found.end()).unwrap_or(found);
                }
                _ => out.push(found),
            }
        }
        Ok(out)
    }

    /// The part of a run that holds bytes of `start..end`.
    fn run_part(
        &self,
        c: &Content,
        file: u32,
        run: Run,
        start: u64,
        end: u64,
    ) -> Result<Option<ChunkRange>, StoreError> {
        let rec = |n: u32| match ChunkIndex::new(n) {
            Some(i) => self.chunk_rec(c, i),
            None => Err(StoreError::damaged("a run of chunks has no end")),
        };
        let (mut n, mut offset) = (run.first, run.offset);
        // Where the chunks have their first places in this very run, their offsets are known: jump.
        let last = rec(run.first + run.count - 1)?;
        if (rec(run.first)?.file, last.file) == (file, file)
            && rec(run.first)?.offset == run.offset
            && last.offset >= offset
        {
            let (mut low, mut high) = (run.first, run.first + run.count - 1);
            while low < high {
                let mid = low + (high - low).div_ceil(2);
                if rec(mid)?.offset <= start { low = mid } else { high = mid - 1 }
            }
            (n, offset) = (low, rec(low)?.offset);
        }
        let mut first = None;
        while n < run.first + run.count && offset < end {
            let len = rec(n)?.len.unwrap_or(0).max(u64::from(rec(n)?.len.is_none()));
            if first.is_none() && offset + len > start {
                first = Some(n);
            }
            offset += len;
            n += 1;
        }
        Ok(first.and_then(|first| ChunkRange::new(first, n)))
    }
}
