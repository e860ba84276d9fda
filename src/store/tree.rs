//! Opening what lies beneath a root's handle, never through a symlink.
//!
//! One `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)` where the kernel has it, else component by component with
//! `O_NOFOLLOW`. Anything but a regular file is refused by a look at its kind, before it is opened: to open a FIFO or
//! a device can block or have effects.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::StoreError;

/// Set once the kernel (or a sandbox) has said that it has no `openat2`.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// A single file (its folder's handle and its name) or a tree (the handle of its top folder).
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
    single: bool,
    /// Play a file system on which case does not tell names apart.
    fold_case: bool,
}

impl Root {
    /// The root of a content that is one file, at `path`, which need not exist yet; its folder must.
    pub fn single(path: &Path, fold_case: bool) -> Result<Root, StoreError> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rfs::open(parent, flags, Mode::empty()).map_err(|e| StoreError::io(parent, e))?;
        Ok(Root { dir, path: path.to_owned(), single: true, fold_case })
    }

    /// The root of a content that is a folder, at `path`.
    pub fn tree(path: &Path, fold_case: bool) -> Result<Root, StoreError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = rfs::open(path, flags, Mode::empty()).map_err(|e| in_the_way(path, e))?;
        Ok(Root { dir, path: path.to_owned(), single: false, fold_case })
    }

    /// The root of a content that is there, of either kind.
    pub fn tree_or_single(path: &Path, single: bool) -> Result<Root, StoreError> {
        if single { Root::single(path, false) } else { Root::tree(path, false) }
    }

    /// Where an entry lies, for messages.
    pub fn full(&self, rel: &str) -> PathBuf {
        if rel.is_empty() { self.path.clone() } else { self.path.join(rel) }
    }

    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    fn name<'a>(&'a self, rel: &'a str) -> Result<Cow<'a, OsStr>, StoreError> {
        if self.single {
            let name = self.path.file_name().filter(|_| rel.is_empty());
            return name.map(Cow::Borrowed).ok_or_else(|| StoreError::UnsafeName { path: rel.to_owned() });
        }
        if rel.is_empty() {
            return Ok(Cow::Borrowed(OsStr::new(".")));
        }
        check_rel(rel)?;
        Ok(if self.fold_case {
            Cow::Owned(rel.to_lowercase().into())
        } else {
            Cow::Borrowed(OsStr::new(rel))
        })
    }

    /// What is there, itself and not what it may point to.
    pub fn stat(&self, rel: &str) -> Result<Stat, StoreError> {
        let name = self.name(rel)?;
        rfs::statat(&self.dir, &*name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| StoreError::io(&self.full(rel), e))
    }

    /// Opens a regular file for reading.
    pub fn open_read(&self, rel: &str) -> Result<File, StoreError> {
        let stat = self.stat(rel)?;
        self.refuse_special(rel, &stat)?;
        self.open_regular(rel, OFlags::RDONLY)
    }

    /// Opens a regular file for reading and writing, made if it is not there, its folders too.
    pub fn open_write(&self, rel: &str) -> Result<File, StoreError> {
        // Nearly always it is new, or it is kept open by who asks: make it, and look only at what is there already.
        match self.create(rel)? {
            Err(Errno::NOENT) => {
                if let Some((parent, _)) = rel.rsplit_once('/') {
                    drop(self.make_dirs(parent)?);
                }
                if let Ok(made) = self.create(rel)? {
                    return Ok(made);
                }
            }
            Ok(made) => return Ok(made),
            // Something is there, or will say so again below.
            Err(_) => {}
        }
        match self.stat(rel) {
            Ok(stat) => self.refuse_special(rel, &stat)?,
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        self.open_regular(rel, OFlags::RDWR | OFlags::CREATE)
    }

    fn create(&self, rel: &str) -> Result<Result<File, Errno>, StoreError> {
        let name = self.name(rel)?;
        let made = open_beneath(self.dir.as_fd(), &name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL);
        Ok(made.map(File::from))
    }

    fn open_regular(&self, rel: &str, flags: OFlags) -> Result<File, StoreError> {
        let name = self.name(rel)?;
        let fd = open_beneath(self.dir.as_fd(), &name, flags | OFlags::NONBLOCK | OFlags::NOCTTY)
            .map_err(|e| in_the_way(&self.full(rel), e))?;
        // It may have been swapped between the look and the open.
        let stat = rfs::fstat(&fd).map_err(|e| StoreError::io(&self.full(rel), e))?;
        self.refuse_special(rel, &stat)?;
        Ok(File::from(fd))
    }

    fn refuse_special(&self, rel: &str, stat: &Stat) -> Result<(), StoreError> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(()),
            FileType::Symlink | FileType::Directory => Err(StoreError::InTheWay { path: self.full(rel) }),
            other => Err(StoreError::Unsupported { path: self.full(rel), what: kind_name(other) }),
        }
    }

    /// Opens a folder.
    pub fn open_dir(&self, rel: &str) -> Result<OwnedFd, StoreError> {
        let name = self.name(rel)?;
        open_beneath(self.dir.as_fd(), &name, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| in_the_way(&self.full(rel), e))
    }

    /// Makes a folder and those above it, where they are not there yet, and opens it.
    pub fn make_dirs(&self, rel: &str) -> Result<OwnedFd, StoreError> {
        let name = self.name(rel)?;
        let fail = |e| in_the_way(&self.full(rel), e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = rfs::openat(&self.dir, ".", flags, Mode::empty()).map_err(fail)?;
        for part in Path::new(&*name).components().filter(|c| matches!(c, std::path::Component::Normal(_))) {
            match rfs::mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(fail(e)),
            }
            at = rfs::openat(&at, part.as_os_str(), flags, Mode::empty()).map_err(fail)?;
        }
        Ok(at)
    }

    /// Makes a symlink; one that is there already with the same target is left.
    pub fn make_symlink(&self, rel: &str, target: &str) -> Result<(), StoreError> {
        let (parent, leaf) = rel.rsplit_once('/').unwrap_or(("", rel));
        if self.single || rel.is_empty() {
            let name = self.name(rel)?;
            return self.symlink_at(self.dir.as_fd(), &name, target, rel);
        }
        let dir = self.make_dirs(parent)?;
        let leaf = if self.fold_case { Cow::Owned(leaf.to_lowercase()) } else { Cow::Borrowed(leaf) };
        check_rel(&leaf)?;
        self.symlink_at(dir.as_fd(), OsStr::new(&*leaf), target, rel)
    }

    fn symlink_at(
        &self,
        dir: BorrowedFd<'_>,
        leaf: &OsStr,
        target: &str,
        rel: &str,
    ) -> Result<(), StoreError> {
        match rfs::symlinkat(target, dir, leaf) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let there = rfs::readlinkat(dir, leaf, Vec::new());
                let same = there.is_ok_and(|t| t.as_bytes() == target.as_bytes());
                if same { Ok(()) } else { Err(StoreError::Collision { path: rel.to_owned() }) }
            }
            Err(e) => Err(StoreError::io(&self.full(rel), e)),
        }
    }
}

/// Refuses what could lead out of the root: empty or absolute paths, `.` and `..`, NUL.
pub fn check_rel(rel: &str) -> Result<(), StoreError> {
    let bad = |c: &str| c.is_empty() || c == "." || c == ".." || c.contains('\0') || c.len() > 255;
    if rel.split('/').any(bad) { Err(StoreError::UnsafeName { path: rel.to_owned() }) } else { Ok(()) }
}

pub fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink => "a symlink",
        FileType::Directory => "a folder",
        FileType::RegularFile => "a file",
        _ => "of an unknown kind",
    }
}

fn in_the_way(path: &Path, e: Errno) -> StoreError {
    match e {
        Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::XDEV => {
            StoreError::InTheWay { path: path.to_owned() }
        }
        e => StoreError::io(path, e),
    }
}

fn open_beneath(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rfs::openat2(dir, name, flags, mode, resolve) {
            Err(Errno::NOSYS) => NO_OPENAT2.store(true, Ordering::Relaxed),
            Err(Errno::PERM) => {} // a sandbox's way of saying so, or the file's own refusal: the other way decides
            done => return done,
        }
    }
    step_by_step(dir, name, flags, mode)
}

fn step_by_step(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let name = Path::new(name);
    let (Some(parent), Some(leaf)) = (name.parent(), name.file_name()) else {
        return rfs::openat(dir, name, flags, mode);
    };
    let walk = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at: Option<OwnedFd> = None;
    for part in parent.components() {
        let here = at.as_ref().map_or(dir, |fd| fd.as_fd());
        at = Some(rfs::openat(here, part.as_os_str(), walk, Mode::empty())?);
    }
    rfs::openat(at.as_ref().map_or(dir, |fd| fd.as_fd()), leaf, flags, mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    fn world() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        std::fs::write(dir.path().join("out/secret"), "s").unwrap();
        let root = Root::tree(&dir.path().join("in"), false).unwrap();
        (dir, root)
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        let (_dir, root) = world();
        for name in ["..", "../out/secret", "/etc/passwd", "a/../../out/secret", "a//b", "a\0b", "./a", "a/."]
        {
            assert!(matches!(root.open_read(name), Err(StoreError::UnsafeName { .. })), "{name:?}");
            assert!(matches!(root.open_write(name), Err(StoreError::UnsafeName { .. })), "{name:?}");
            assert!(matches!(root.make_dirs(name), Err(StoreError::UnsafeName { .. })), "{name:?}");
        }
        let long = "x".repeat(300);
        assert!(root.open_write(&long).is_err());
    }

    #[test]
    fn no_symlink_is_followed_wherever_it_stands_in_the_path() {
        let (dir, root) = world();
        symlink("../out", dir.path().join("in/d")).unwrap();
        symlink("../out/secret", dir.path().join("in/f")).unwrap();
        for name in ["d/secret", "d/new", "f"] {
            assert!(root.open_read(name).is_err(), "{name}");
            assert!(root.open_write(name).is_err(), "{name}");
        }
        assert!(root.make_dirs("d/sub").is_err());
        assert!(root.open_dir("d").is_err());
        assert!(matches!(root.make_symlink("d/l", "x"), Err(StoreError::InTheWay { .. })));
        assert_eq!(std::fs::read_dir(dir.path().join("out")).unwrap().count(), 1);
    }

    #[test]
    fn the_step_by_step_way_follows_no_symlink_either() {
        let (dir, root) = world();
        symlink("../out", dir.path().join("in/d")).unwrap();
        std::fs::create_dir_all(dir.path().join("in/a/b")).unwrap();
        std::fs::write(dir.path().join("in/a/b/c"), "x").unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        assert!(step_by_step(root.dir(), OsStr::new("d/secret"), flags, Mode::empty()).is_err());
        assert!(step_by_step(root.dir(), OsStr::new("a/b/c"), flags, Mode::empty()).is_ok());
        assert!(step_by_step(root.dir(), OsStr::new("."), flags, Mode::empty()).is_ok());
    }

    #[test]
    fn a_fifo_is_refused_unopened() {
        let (dir, root) = world();
        rfs::mknodat(rfs::CWD, dir.path().join("in/fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        assert!(matches!(root.open_read("fifo"), Err(StoreError::Unsupported { .. })));
        assert!(matches!(root.open_write("fifo"), Err(StoreError::Unsupported { .. })));
    }

    #[test]
    fn writes_make_their_folders_and_reads_find_them() {
        let (_dir, root) = world();
        root.open_write("a/b/c").unwrap().write_all(b"hello").unwrap();
        let mut s = String::new();
        root.open_read("a/b/c").unwrap().read_to_string(&mut s).unwrap();
        assert_eq!(s, "hello");
        root.make_symlink("a/l", "../../..").unwrap();
        root.make_symlink("a/l", "../../..").unwrap();
        assert!(matches!(root.make_symlink("a/l", "other"), Err(StoreError::Collision { .. })));
    }
}
