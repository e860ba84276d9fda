//! Hashing on all cores: windows of chunks, each read and hashed by the thread that takes it, put together in order.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cid::Cid;
use rayon::prelude::*;

use crate::content::builder::{Built, FileBuilder, Leaf, leaf, small_file};
use crate::content::profile::Profile;

use super::super::fs::Staging;
use super::super::tree::Root;
use super::super::{Signature, StoreError};
use super::ImportProgress;
use super::scan::{FileEntry, Scan};

/// Chunks (and files of one chunk) hashed between two steps of putting them together.
const WINDOW: usize = 512;
/// Of these, what a thread takes at a time: the others wait for whoever is last, at the end of each window.
const TURN: usize = 4;

thread_local! {
    /// Each thread reads into its own buffer, again and again.
    static BUF: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// All that hashing needs.
pub struct Hasher<'a> {
    pub root: &'a Root,
    pub profile: &'a Profile,
    pub scan: &'a Scan,
    pub clock: fn() -> i64,
    pub progress: &'a (dyn Fn(ImportProgress) + Sync),
    pub cancelled: &'a AtomicBool,
}

/// Every file of the scan, in its order.
pub struct Hashed {
    pub built: Vec<Built>,
    /// The signature that it had while it was read, and whether that was too young to be trusted.
    pub seen: Vec<(Signature, bool)>,
}

/// A file of several chunks, open while they are hashed.
struct Big {
    /// In the scan.
    number: usize,
    file: File,
    sig: Signature,
    young: bool,
}

enum Job {
    /// A file of at most one chunk: its number.
    Small(usize),
    Chunk {
        big: Arc<Big>,
        offset: u64,
    },
}

enum Done {
    Small { built: Built, nodes: Vec<(Cid, Bytes)>, sig: Signature, young: bool },
    Leaf(Leaf),
}

/// Hands out jobs in the order of the files.
struct Plan {
    next_file: usize,
    /// The file being cut up, and where the next chunk begins.
    open: Option<(Arc<Big>, u64)>,
}

impl Hasher<'_> {
    pub fn run(&self, staging: &mut Option<Staging<'_>>) -> Result<Hashed, StoreError> {
        let files = &self.scan.files;
        let mut out =
            Hashed { built: Vec::with_capacity(files.len()), seen: Vec::with_capacity(files.len()) };
        let mut plan = Plan { next_file: 0, open: None };
        let mut builder = None;
        let mut bytes = 0;
        loop {
            let jobs = self.window(&mut plan)?;
            if jobs.is_empty() {
                return Ok(out);
            }
            // A pool is not worth waking up for a small file.
            let done: Result<Vec<Done>, StoreError> = if jobs.len() == 1 {
                jobs.iter().map(|j| self.hash(j)).collect()
            } else {
                jobs.par_iter().with_max_len(TURN).map(|j| self.hash(j)).collect()
            };
            for (job, done) in jobs.iter().zip(done?) {
                bytes += self.put_together(job, done, &mut builder, &mut out, staging)?;
                if let Some(staging) = staging {
                    staging.flush_if_large()?;
                }
            }
            (self.progress)(ImportProgress {
                files: out.built.len() as u64,
                bytes,
                total_files: files.len() as u64,
                total_bytes: self.scan.bytes,
            });
        }
    }

    fn window(&self, plan: &mut Plan) -> Result<Vec<Job>, StoreError> {
        let chunk_len = u64::from(self.profile.chunk_len);
        let mut jobs = Vec::new();
        while jobs.len() < WINDOW {
            if let Some((big, offset)) = plan.open.take() {
                if offset < big.sig.size {
                    jobs.push(Job::Chunk { big: big.clone(), offset });
                    plan.open = Some((big, offset + chunk_len));
                }
                continue;
            }
            let Some(entry) = self.scan.files.get(plan.next_file) else { break };
            if entry.sig.size <= chunk_len {
                jobs.push(Job::Small(plan.next_file));
            } else {
                plan.open = Some((Arc::new(self.open(plan.next_file)?), 0));
            }
            plan.next_file += 1;
        }
        Ok(jobs)
    }

    fn open(&self, number: usize) -> Result<Big, StoreError> {
        let entry = &self.scan.files[number];
        let file = self.root.open_read(&entry.path)?;
        let sig = self.look(&file, entry)?;
        if sig.size != entry.sig.size {
            return Err(self.changed(entry));
        }
        Ok(Big { number, file, sig, young: sig.too_young((self.clock)()) })
    }

    fn look(&self, file: &File, entry: &FileEntry) -> Result<Signature, StoreError> {
        let stat = rustix::fs::fstat(file).map_err(|e| StoreError::io(&self.root.full(&entry.path), e))?;
        Ok(Signature::of(&stat))
    }

    fn changed(&self, entry: &FileEntry) -> StoreError {
        StoreError::Changed { path: self.root.full(&entry.path) }
    }

    fn hash(&self, job: &Job) -> Result<Done, StoreError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(StoreError::Cancelled);
        }
        match job {
            Job::Small(n) => {
                let entry = &self.scan.files[*n];
                let Big { file, sig, young, .. } = self.open(*n)?;
                let mut nodes = Vec::new();
                let mut sink = |cid, block| nodes.push((cid, block));
                let built = self.with_bytes(&file, entry, 0, sig.size, |data| {
                    small_file(self.profile, entry.meta, data, &mut sink)
                })?;
                if self.look(&file, entry)? != sig {
                    return Err(self.changed(entry));
                }
                Ok(Done::Small { built, nodes, sig, young })
            }
            Job::Chunk { big, offset } => {
                let len = (big.sig.size - offset).min(self.profile.chunk_len.into());
                let entry = &self.scan.files[big.number];
                Ok(Done::Leaf(
                    self.with_bytes(&big.file, entry, *offset, len, |data| leaf(self.profile, data))?,
                ))
            }
        }
    }

    /// Reads into the thread's buffer; a file that ends too early has changed.
    fn with_bytes<T>(
        &self,
        file: &File,
        entry: &FileEntry,
        offset: u64,
        len: u64,
        f: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, StoreError> {
        let len = usize::try_from(len).map_err(|_| self.changed(entry))?;
        BUF.with_borrow_mut(|buf| {
            if buf.len() < len {
                buf.resize(len, 0);
            }
            match file.read_exact_at(&mut buf[..len], offset) {
                Ok(()) => Ok(f(&buf[..len])),
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(self.changed(entry)),
                Err(e) => Err(StoreError::io(&self.root.full(&entry.path), e)),
            }
        })
    }

    /// Adds one result; the file bytes that it stands for.
    fn put_together(
        &self,
        job: &Job,
        done: Done,
        builder: &mut Option<FileBuilder>,
        out: &mut Hashed,
        staging: &mut Option<Staging<'_>>,
    ) -> Result<u64, StoreError> {
        let mut sink = |cid, block| {
            if let Some(staging) = staging {
                staging.node(cid, block);
            }
        };
        match (job, done) {
            (_, Done::Small { built, nodes, sig, young }) => {
                nodes.into_iter().for_each(|(cid, block)| sink(cid, block));
                out.built.push(built);
                out.seen.push((sig, young));
                Ok(sig.size)
            }
            (Job::Chunk { big, offset }, Done::Leaf(leaf)) => {
                let entry = &self.scan.files[out.built.len()];
                let b = builder.get_or_insert_with(|| FileBuilder::new(self.profile, entry.meta));
                b.push(leaf, &mut sink);
                if offset + u64::from(leaf.data_len) < big.sig.size {
                    return Ok(leaf.data_len.into());
                }
                if self.look(&big.file, entry)? != big.sig {
                    return Err(self.changed(entry));
                }
                let whole = builder.take().map(|b| b.finish(&mut sink));
                out.built.extend(whole);
                out.seen.push((big.sig, big.young));
                Ok(leaf.data_len.into())
            }
            (Job::Small(_), Done::Leaf(_)) => Err(StoreError::damaged("a small file gave a leaf")),
        }
    }
}
