//! Hashing everything again, for `verify` and before a content is believed to be somewhere else.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use crate::bitfield::Bitfield;
use crate::content::RAW;
use crate::content::block::verify_block;
use crate::content::manifest::{Item, Step, Walker};
use crate::units::{ChunkIndex, ChunkRange};

use super::super::signature::Signature;
use super::super::tree::Root;
use super::super::{Origin, StoreError};
use super::FsStore;
use super::content::Content;
use super::read::{Shape, gone};
use super::write::Extent;

/// Items hashed at once, in parallel.
const WINDOW: usize = 256;

/// How a file was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    path: String,
    /// Before it was read; `None`: not there.
    pub(super) sig: Option<Signature>,
    pub(super) bad: bool,
    /// Bytes that the manifest gives it.
    len: u64,
}

/// What the walk found.
#[derive(Default)]
pub(super) struct Report {
    pub(super) files: Vec<Found>,
    /// Chunks right in one place at least, and wrong in one at least.
    good: Bitfield,
    bad: Bitfield,
}

/// Bytes to look at: of a chunk, or those that an inner node carries.
struct Job {
    file: usize,
    handle: Option<Arc<File>>,
    offset: u64,
    len: u64,
    what: What,
}

enum What {
    Chunk(ChunkIndex, crate::content::Cid, Shape),
    Bytes(bytes::Bytes),
}

impl FsStore {
    pub(super) fn verify_content(
        &self,
        c: &Content,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Vec<ChunkRange>, Vec<PathBuf>), StoreError> {
        let place = c.state().place();
        self.files.forget_content(c.key);
        let report = self.examine(c, &place, progress)?;
        self.settle(c, &report)?;
        let blamed = report.files.iter().filter(|f| f.bad).map(|f| self.path_of(c, &f.path)).collect();
        Ok((self.replace_held(c, &report)?, blamed))
    }

    pub(super) fn relocate_content(&self, c: &Content, path: &Path) -> Result<(), StoreError> {
        let path = std::fs::canonicalize(path).map_err(|e| StoreError::io(path, e))?;
        if path.to_str().is_none() {
            return Err(StoreError::NotUtf8 { path });
        }
        {
            let s = c.state();
            if !s.rec.complete {
                return Err(StoreError::Incomplete { missing: s.rec.chunks - s.held.len() });
            }
        }
        let report = self.examine(c, &path, &mut |_| ())?;
        if let Some(f) = report.files.iter().find(|f| f.bad) {
            let path = if f.path.is_empty() { path } else { path.join(&f.path) };
            return Err(StoreError::Changed { path });
        }
        {
            let mut s = c.state();
            match &mut s.rec.origin {
                Origin::Shared { path: p } | Origin::Fetched { path: p } => *p = path,
            }
            (s.rec.fingerprint, s.rec.unsynced) = (None, None);
            s.rec_dirty = true;
        }
        self.files.forget_content(c.key);
        self.settle(c, &report)?;
        self.replace_held(c, &report)?;
        c.ready.store(true, std::sync::atomic::Ordering::Release);
        self.save(Extent::Fetching)
    }

    /// Walks the manifest as far as its nodes are here and looks at every byte of it beneath `place`.
    pub(super) fn examine(
        &self,
        c: &Content,
        place: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Report, StoreError> {
        let mut walker = Walker::new(c.root);
        let mut report = Report::default();
        let mut root = None;
        let mut handle = None;
        loop {
            let mut items = Vec::new();
            let mut nodes = |cid: &crate::content::Cid| self.index.node(cid).ok().flatten();
            let step =
                walker.advance(&mut nodes, WINDOW, &mut items).map_err(|e| StoreError::Dag(e.to_string()))?;
            let mut jobs = Vec::new();
            for item in items {
                if let Item::File { path, .. } = &item {
                    let root = root
                        .get_or_insert_with(|| self.open_root(place, path.as_str().is_empty(), false).ok());
                    let found = open(root.as_ref(), path.as_str())?;
                    let sig = found.as_ref().map(|f| f.1);
                    handle = found.map(|f| Arc::new(f.0));
                    // A file that a fetch has not begun is nobody's fault.
                    let bad = sig.is_none() && c.state().rec.complete;
                    report.files.push(Found { path: path.as_str().to_owned(), bad, sig, len: 0 });
                } else if let Some(job) = self.job(c, item, handle.clone())? {
                    jobs.push(job);
                }
            }
            judge(&mut report, jobs, progress);
            match step {
                Step::More => {}
                Step::Missing(_) | Step::Done => break,
            }
        }
        for f in &mut report.files {
            let now = root.as_ref().and_then(Option::as_ref).and_then(|r| r.stat(&f.path).ok());
            // Changed while it was read, or longer than the content.
            let same = now.map(|s| Signature::of(&s)) == f.sig && f.sig.is_some_and(|s| s.size == f.len);
            f.bad |= !same && c.state().rec.complete;
        }
        Ok(report)
    }

    fn job(&self, c: &Content, item: Item, handle: Option<Arc<File>>) -> Result<Option<Job>, StoreError> {
        Ok(match item {
            Item::Chunk { index, file, offset, .. } => {
                let rec = match self.chunk_rec(c, index) {
                    Ok(rec) => rec,
                    Err(StoreError::UnknownChunk(_)) => return Ok(None),
                    Err(e) => return Err(e),
                };
                let (complete, held) = {
                    let s = c.state();
                    (s.rec.complete, s.held.contains(index))
                };
                if !complete && !held {
                    return Ok(None);
                }
                let shape = self.shape(c, index, &rec)?;
                let len = match &shape {
                    Shape::Raw(len) => *len,
                    Shape::Framed(f) => f.data_len(),
                };
                Some(Job {
                    file: file.0 as usize,
                    handle,
                    offset,
                    len,
                    what: What::Chunk(index, rec.cid, shape),
                })
            }
            Item::Inline { file, offset, data } => {
                let len = data.len() as u64;
                Some(Job { file: file.0 as usize, handle, offset, len, what: What::Bytes(data) })
            }
            _ => None,
        })
    }

    /// Gives the files of a complete content their new signatures.
    pub(super) fn settle(&self, c: &Content, report: &Report) -> Result<(), StoreError> {
        if !c.state().rec.complete {
            return Ok(());
        }
        let now = self.now();
        self.edit_file_records(c, 0..report.files.len() as u32, |n, rec| {
            let f = &report.files[n as usize];
            rec.changed = f.bad;
            if !f.bad {
                rec.sig = f.sig;
                rec.young = f.sig.is_none_or(|s| s.too_young(now));
            }
        })?;
        c.state().rec.changed.clear();
        for f in report.files.iter().filter(|f| f.bad) {
            let path = self.path_of(c, &f.path);
            c.state().name_changed(path);
        }
        Ok(())
    }

    /// Holds what was found right; the runs that were held and are not any more.
    pub(super) fn replace_held(&self, c: &Content, report: &Report) -> Result<Vec<ChunkRange>, StoreError> {
        let (complete, before, chunks) = {
            let s = c.state();
            (s.rec.complete, s.held.clone(), s.rec.chunks)
        };
        let mut lost = Bitfield::new();
        for chunk in (0..chunks).filter_map(ChunkIndex::new) {
            // A fetch has to have a chunk in all its places to be finished.
            let good = report.good.contains(chunk) && (complete || !report.bad.contains(chunk));
            if good == before.contains(chunk) {
                continue;
            }
            if !good {
                self.lose_chunk(c, chunk)?;
                lost.insert(chunk);
                continue;
            }
            let bytes = self.chunk_bytes(c, chunk, &self.chunk_rec(c, chunk)?)?;
            c.state().hold(chunk, bytes);
        }
        c.state().proved = Bitfield::new();
        Ok(lost.ranges().collect())
    }
}

fn open(root: Option<&Root>, path: &str) -> Result<Option<(File, Signature)>, StoreError> {
    let Some(root) = root else { return Ok(None) };
    let file = match root.open_read(path) {
        Ok(file) => file,
        Err(e) if gone(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    let stat = rustix::fs::fstat(&file).map_err(|e| StoreError::io(&root.full(path), e))?;
    Ok(Some((file, Signature::of(&stat))))
}

fn judge(report: &mut Report, jobs: Vec<Job>, progress: &mut dyn FnMut(u64)) {
    let right: Vec<bool> = jobs.par_iter().map_init(Vec::new, |buf, job| is_right(job, buf)).collect();
    for (job, right) in jobs.iter().zip(right) {
        if let Some(f) = report.files.get_mut(job.file) {
            f.bad |= !right;
            f.len = f.len.max(job.offset.saturating_add(job.len));
        }
        if let What::Chunk(chunk, ..) = job.what {
            if right {
                report.good.insert(chunk)
            } else {
                report.bad.insert(chunk)
            };
        }
    }
    progress(jobs.iter().map(|j| j.len).sum());
}

fn is_right(job: &Job, buf: &mut Vec<u8>) -> bool {
    let Some(file) = &job.handle else { return false };
    let Ok(len) = usize::try_from(job.len) else { return false };
    buf.resize(len, 0);
    if file.read_exact_at(buf, job.offset).is_err() {
        return false;
    }
    match &job.what {
        What::Bytes(b) => b.as_ref() == &buf[..],
        What::Chunk(_, cid, Shape::Raw(_)) if cid.codec() == RAW => verify_block(cid, buf).is_ok(),
        What::Chunk(_, _, Shape::Raw(_)) => false,
        What::Chunk(_, _, Shape::Framed(frame)) => super::recover::frame_fits(frame, buf),
    }
}
