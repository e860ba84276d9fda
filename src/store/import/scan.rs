//! What there is to import: names, kinds and signatures, before anything is read.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Stat};

use crate::content::manifest::Meta;

use super::super::tree::{Root, kind_name};
use super::super::{Signature, StoreError};
use super::ImportOptions;

/// Skipped entries that are named.
const SKIPPED_NAMED: usize = 16;

/// A file to be hashed.
#[derive(Debug)]
pub struct FileEntry {
    /// Beneath the root; empty for the root itself.
    pub path: String,
    pub sig: Signature,
    pub meta: Meta,
}

impl FileEntry {
    pub fn name(&self) -> &str {
        self.path.rsplit_once('/').map_or(&self.path, |(_, name)| name)
    }
}

/// A tree, written down as one walks it; a root folder's name is empty.
#[derive(Debug)]
pub enum Entry {
    Enter {
        name: String,
        meta: Meta,
    },
    Leave,
    /// The number in [`Scan::files`].
    File {
        file: u32,
    },
    Symlink {
        name: String,
        target: String,
        meta: Meta,
    },
}

/// What a path holds.
#[derive(Debug)]
pub struct Scan {
    pub entries: Vec<Entry>,
    pub files: Vec<FileEntry>,
    pub bytes: u64,
    pub skipped: Vec<PathBuf>,
    /// The root is a file.
    pub single: bool,
}

/// A name and its inode, as a folder has them.
struct Child {
    name: String,
    stat: Stat,
    target: Option<String>,
}

impl Scan {
    pub fn new(path: &Path, opts: &ImportOptions, cancelled: &AtomicBool) -> Result<Scan, StoreError> {
        let stat = rfs::lstat(path).map_err(|e| StoreError::io(path, e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let single = match kind {
            FileType::RegularFile => true,
            FileType::Directory => false,
            other => return Err(StoreError::Unsupported { path: path.to_owned(), what: kind_name(other) }),
        };
        let mut scan = Scan { entries: Vec::new(), files: Vec::new(), bytes: 0, skipped: Vec::new(), single };
        if single {
            scan.file(String::new(), &stat, opts)?;
            return Ok(scan);
        }
        let root = Root::tree(path, false)?;
        scan.folder(&root, "", "", meta(&stat, opts), opts, cancelled)?;
        Ok(scan)
    }

    fn file(&mut self, path: String, stat: &Stat, opts: &ImportOptions) -> Result<(), StoreError> {
        let file =
            u32::try_from(self.files.len()).map_err(|_| StoreError::damaged("more than 2^32 files"))?;
        let sig = Signature::of(stat);
        self.bytes += sig.size;
        self.files.push(FileEntry { path, sig, meta: meta(stat, opts) });
        self.entries.push(Entry::File { file });
        Ok(())
    }

    fn folder(
        &mut self,
        root: &Root,
        rel: &str,
        name: &str,
        own: Meta,
        opts: &ImportOptions,
        cancelled: &AtomicBool,
    ) -> Result<(), StoreError> {
        if cancelled.load(Ordering::Relaxed) {
            return Err(StoreError::Cancelled);
        }
        self.entries.push(Entry::Enter { name: name.to_owned(), meta: own });
        for child in children(root, rel, opts)? {
            let path = if rel.is_empty() { child.name.clone() } else { format!("{rel}/{}", child.name) };
            match FileType::from_raw_mode(child.stat.st_mode) {
                FileType::RegularFile => self.file(path, &child.stat, opts)?,
                FileType::Directory => {
                    self.folder(root, &path, &child.name, meta(&child.stat, opts), opts, cancelled)?;
                }
                FileType::Symlink => {
                    let target = child.target.unwrap_or_default();
                    let meta = Meta { mode: None, ..meta(&child.stat, opts) };
                    self.entries.push(Entry::Symlink { name: child.name, target, meta });
                }
                _ if self.skipped.len() < SKIPPED_NAMED => self.skipped.push(root.full(&path)),
                _ => {}
            }
        }
        self.entries.push(Entry::Leave);
        Ok(())
    }

    /// Finds signatures by path: `seen` has those of `files`, in their order.
    pub fn finder<'a>(
        &'a self,
        seen: &'a [(Signature, bool)],
    ) -> impl Fn(&str) -> Option<(Signature, bool)> + 'a {
        let mut order: Vec<u32> = (0..self.files.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| self.files[a as usize].path.cmp(&self.files[b as usize].path));
        move |path| {
            let at = order.binary_search_by(|&n| self.files[n as usize].path.as_str().cmp(path)).ok()?;
            seen.get(order[at] as usize).copied()
        }
    }
}

fn meta(stat: &Stat, opts: &ImportOptions) -> Meta {
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    // the fields' types differ between platforms
    let mtime = (stat.st_mtime as i64, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
    Meta {
        mode: opts.preserve_mode.then_some(stat.st_mode & 0o7777),
        mtime: opts.preserve_mtime.then_some(mtime),
    }
}

/// A folder's entries in the order of their names' bytes. Its handle is closed again before anything in it is looked at.
fn children(root: &Root, rel: &str, opts: &ImportOptions) -> Result<Vec<Child>, StoreError> {
    let fail = |e| StoreError::io(&root.full(rel), e);
    let fd = root.open_dir(rel)?;
    let mut out = Vec::new();
    for entry in Dir::read_from(&fd).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." || (bytes[0] == b'.' && !opts.hidden) {
            continue;
        }
        let not_utf8 =
            || StoreError::NotUtf8 { path: root.full(rel).join(std::ffi::OsStr::from_bytes(bytes)) };
        let name = std::str::from_utf8(bytes).map_err(|_| not_utf8())?.to_owned();
        let path = || root.full(rel).join(&name);
        let stat = match rfs::statat(&fd, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => continue, // gone since the folder was read
            Err(e) => return Err(StoreError::io(&path(), e)),
        };
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let target = if is_link { Some(target(&fd, &name, path)?) } else { None };
        out.push(Child { name, stat, target });
    }
    out.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn target(dir: &OwnedFd, name: &str, path: impl Fn() -> PathBuf) -> Result<String, StoreError> {
    let target = rfs::readlinkat(dir, name, Vec::new()).map_err(|e| StoreError::io(&path(), e))?;
    target.into_string().map_err(|_| StoreError::NotUtf8 { path: path() })
}
