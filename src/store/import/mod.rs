//! `add`: hashes files where they lie, on all cores, and records them.
//!
//! What is taken and how:
//! - An argument that is a symlink stands for what it points to (its own name is kept); inside a folder symlinks are kept as
//!   they are, whatever they point to.
//! - A FIFO, socket or device given as argument is an error; inside a folder it is left out and named in
//!   [`Imported::skipped`].
//! - Names that are not UTF-8 are an error, since no CID could be agreed on with anybody else.
//! - Names that begin with a dot are left out unless `hidden`; the argument itself is always taken.
//! - A file that changes while it is hashed is an error. Nothing of a failed import stays visible.

mod hash;
mod scan;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cid::Cid;
use sha2::{Digest, Sha256};

use crate::content::builder::{Built, DirBuilder, symlink_with};
use crate::content::profile::Profile;
use crate::units::ContentKey;

use super::fs::{Staged, Staging};
use super::tree::Root;
use super::{FsStore, Origin, Signature, StoreError};
use hash::Hasher;
use scan::{Entry, Scan};

/// How to import.
#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    pub profile: &'static Profile,
    /// Take names that begin with a dot too.
    pub hidden: bool,
    pub preserve_mode: bool,
    pub preserve_mtime: bool,
    /// Say what the CID is; record nothing.
    pub only_hash: bool,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions {
            profile: &Profile::V1_256K,
            hidden: false,
            preserve_mode: false,
            preserve_mtime: false,
            only_hash: false,
        }
    }
}

/// How far an import is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportProgress {
    pub files: u64,
    pub bytes: u64,
    pub total_files: u64,
    pub total_bytes: u64,
}

/// What was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// `None` with `only_hash`.
    pub key: Option<ContentKey>,
    pub root: Cid,
    /// Sum of the files' bytes.
    pub size: u64,
    pub files: u64,
    /// The argument's own name.
    pub name: Option<String>,
    /// FIFOs, sockets and devices left out; at most 16 are named.
    pub skipped: Vec<PathBuf>,
    /// It was known already and nothing has changed: nothing was hashed.
    pub reused: bool,
}

/// Imports a file or a folder; see the module for what is taken. `progress` is called some ten times a second.
pub fn import(
    store: &FsStore,
    path: &Path,
    opts: &ImportOptions,
    progress: &(dyn Fn(ImportProgress) + Sync),
    cancelled: &AtomicBool,
) -> Result<Imported, StoreError> {
    let place = std::fs::canonicalize(path).map_err(|e| StoreError::io(path, e))?;
    if place.to_str().is_none() {
        return Err(StoreError::NotUtf8 { path: place });
    }
    let name = path.file_name().or(place.file_name()).and_then(|n| n.to_str()).map(str::to_owned);
    let origin = Origin::Shared { path: place };
    let job = Job { store, opts, origin, name, expected: None, progress, cancelled };
    // Without an expected root there is always a result.
    job.run()?.ok_or_else(|| StoreError::damaged("an import ended without a root"))
}

/// Takes what is at `dest` for the content `root` if importing it gives that root, by a profile of its CID version.
pub(super) fn adopt(
    store: &FsStore,
    dest: &Path,
    root: &Cid,
    name: Option<String>,
) -> Result<Option<ContentKey>, StoreError> {
    let kind = std::fs::symlink_metadata(dest).map_err(|e| StoreError::io(dest, e))?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Ok(None);
    }
    for profile in Profile::ALL {
        if profile.v0() != (root.version() == cid::Version::V0) {
            continue;
        }
        let opts = ImportOptions { profile, hidden: true, ..ImportOptions::default() };
        let origin = Origin::Fetched { path: dest.to_owned() };
        let (progress, cancelled) = (|_| (), AtomicBool::new(false));
        let name = name.clone();
        let job = Job {
            store,
            opts: &opts,
            origin,
            name,
            expected: Some(root),
            progress: &progress,
            cancelled: &cancelled,
        };
        match job.run() {
            Ok(None) => {}
            Ok(Some(imported)) => return Ok(imported.key),
            // Whatever it is, it is not what a fetch would put there.
            Err(StoreError::NotUtf8 { .. } | StoreError::Changed { .. } | StoreError::Dag(_)) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

struct Job<'a> {
    store: &'a FsStore,
    opts: &'a ImportOptions,
    origin: Origin,
    name: Option<String>,
    /// Record it only if this is its root.
    expected: Option<&'a Cid>,
    progress: &'a (dyn Fn(ImportProgress) + Sync),
    cancelled: &'a AtomicBool,
}

impl Job<'_> {
    fn run(self) -> Result<Option<Imported>, StoreError> {
        let scan = Scan::new(self.origin.path(), self.opts, self.cancelled)?;
        let before = fingerprint(&scan, self.opts);
        let total = scan.files.len() as u64;
        if !self.opts.only_hash
            && let Some((key, rec)) = self.store.imported(&self.origin, &before)
        {
            self.store.set_name(key, self.name.clone())?;
            return Ok(Some(self.imported(Some(key), rec.root, rec.size, scan, true)));
        }
        let profile = if self.opts.preserve_mode || self.opts.preserve_mtime {
            self.opts.profile.preserving()
        } else {
            *self.opts.profile
        };
        let mut staging = (!self.opts.only_hash).then(|| Staging::new(self.store));
        let root = Root::tree_or_single(self.origin.path(), scan.single)?;
        let hasher = Hasher {
            root: &root,
            profile: &profile,
            scan: &scan,
            clock: self.store.clock(),
            progress: self.progress,
            cancelled: self.cancelled,
        };
        let hashed = hasher.run(&mut staging)?;
        let built = assemble(&scan, &profile, &hashed.built, &mut staging)?;
        (self.progress)(ImportProgress {
            files: total,
            bytes: scan.bytes,
            total_files: total,
            total_bytes: scan.bytes,
        });
        if self.expected.is_some_and(|root| *root != built.cid) {
            return Ok(None);
        }
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(StoreError::Cancelled);
        }
        // Only if every file is still what the scan saw, and old enough to be known again by its signature.
        let steady =
            hashed.seen.iter().zip(&scan.files).all(|((sig, young), file)| !young && *sig == file.sig);
        let key = match staging {
            None => None,
            Some(staging) => Some(staging.finish(&Staged {
                profile: &profile,
                root: built.cid,
                name: self.name.clone(),
                origin: self.origin.clone(),
                fingerprint: steady.then_some(before),
                sigs: &scan.finder(&hashed.seen),
            })?),
        };
        Ok(Some(self.imported(key, built.cid, built.size, scan, false)))
    }

    fn imported(self, key: Option<ContentKey>, root: Cid, size: u64, scan: Scan, reused: bool) -> Imported {
        Imported {
            key,
            root,
            size,
            files: scan.files.len() as u64,
            name: self.name,
            skipped: scan.skipped,
            reused,
        }
    }
}

/// Folders and symlinks around the files that were hashed, from the inside out.
fn assemble(
    scan: &Scan,
    profile: &Profile,
    files: &[Built],
    staging: &mut Option<Staging<'_>>,
) -> Result<Built, StoreError> {
    let mut open: Vec<(&str, DirBuilder)> = Vec::new();
    for entry in &scan.entries {
        let (name, built) = match entry {
            Entry::Enter { name, meta } => {
                open.push((name, DirBuilder::new(profile, *meta)));
                continue;
            }
            Entry::File { file } => (scan.files[*file as usize].name(), files[*file as usize]),
            Entry::Symlink { name, target, meta } => (
                name.as_str(),
                symlink_with(profile, *meta, target.as_bytes(), &mut |cid, b| keep(staging, cid, b)),
            ),
            Entry::Leave => {
                let (name, dir) = open.pop().ok_or_else(|| StoreError::damaged("a folder ends twice"))?;
                (name, dir.finish(&mut |cid, b| keep(staging, cid, b)))
            }
        };
        if let Some(staging) = staging {
            staging.flush_if_large()?;
        }
        match open.last_mut() {
            Some((_, dir)) => dir.entry(name, &built),
            None => return Ok(built),
        }
    }
    Err(StoreError::damaged("a scan without a root"))
}

fn keep(staging: &mut Option<Staging<'_>>, cid: Cid, block: bytes::Bytes) {
    if let Some(staging) = staging {
        staging.node(cid, block);
    }
}

/// A hash of all that an import depends on: options, names, kinds, signatures.
fn fingerprint(scan: &Scan, opts: &ImportOptions) -> String {
    let mut h = Sha256::new();
    let mut text = |s: &str| {
        h.update((s.len() as u64).to_le_bytes());
        h.update(s);
    };
    text(&format!("{} {} {}", opts.profile.name, opts.preserve_mode, opts.preserve_mtime));
    for entry in &scan.entries {
        match entry {
            Entry::Enter { name, meta } => text(&format!("d{meta:?}{name}")),
            Entry::Leave => text("l"),
            Entry::Symlink { name, target, meta } => {
                text(&format!("s{meta:?}{name}"));
                text(target);
            }
            Entry::File { file } => {
                let f = &scan.files[*file as usize];
                let Signature { dev, ino, size, mtime_ns, ctime_ns } = f.sig;
                text(f.name());
                text(&format!("{:?} {dev} {ino} {size} {mtime_ns} {ctime_ns}", f.meta));
            }
        }
    }
    h.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
