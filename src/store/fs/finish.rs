//! The end of a fetch: empty folders and files, symlinks, modes and times, then the rename to the final path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{CWD, Mode, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::content::manifest::Meta;
use crate::units::ContentKey;

use super::super::records::{ContentRec, EntryRec, FileRec};
use super::super::signature::Signature;
use super::super::tree::Root;
use super::super::{StoreError, index};
use super::content::{Content, lock};
use super::fetch::{exists, remove_any};
use super::read::gone;
use super::{FsStore, layout};

/// What is at the root of a content.
enum Top {
    File,
    Folder,
    Symlink(String),
}

/// The rename to come.
struct Move<'a> {
    part: &'a Path,
    dest: &'a Path,
    /// Replace what is at the destination.
    force: bool,
}

/// Inodes seen so far: two entries with one inode fell together.
type Seen = BTreeSet<(u64, u64)>;

impl FsStore {
    pub(super) fn finish(&self, c: &Content) -> Result<PathBuf, StoreError> {
        let _one = lock(&c.preparing);
        self.finish_prepared(c)
    }

    /// The caller has `preparing`.
    pub(super) fn finish_prepared(&self, c: &Content) -> Result<PathBuf, StoreError> {
        let (part, dest, force) = {
            let s = c.state();
            let dest = s.rec.origin.path().to_owned();
            if s.rec.complete {
                return Ok(dest);
            }
            let missing = s.rec.chunks - s.held.len() + u32::from(!s.rec.manifest_complete);
            if missing > 0 {
                return Err(StoreError::Incomplete { missing });
            }
            (s.place(), dest, s.rec.force)
        };
        let replaces = exists(&dest);
        if !force && replaces {
            return Err(StoreError::Exists { path: dest });
        }
        let unsynced = self.opts.boot.clone().filter(|_| !replaces);
        // A checkpoint may be syncing what was written here.
        let _synced = unsynced.is_none().then(|| lock(&self.checkpointing));
        let top = self.top(c)?;
        let root = self.root(c, !matches!(top, Top::Folder), true)?;
        let sigs = self.complete_part(c, &root, &top)?;
        let file = matches!(top, Top::File);
        if unsynced.is_some() {
            lock(&self.written).whole.insert(c.key);
        } else {
            self.sync_content(c)?;
        }
        self.restore_folders(c, &root)?;
        if unsynced.is_none() && !file {
            // The names in it, before a commit that speaks of them; a single file's went with its bytes.
            sync_folder(&dest)?;
        }
        self.commit_finished(c, &sigs, &Move { part: &part, dest: &dest, force }, unsynced.clone())?;
        if unsynced.is_some() {
            self.take_written(c);
        }
        if file {
            self.note_new_ctime(c, &dest)?;
        } else if unsynced.is_none() {
            sync_folder(&dest)?;
        }
        Ok(dest)
    }

    fn top(&self, c: &Content) -> Result<Top, StoreError> {
        if c.state().rec.files > 0 && self.file_rec(c, 0)?.path.is_empty() {
            return Ok(Top::File);
        }
        let mut top = Top::Folder;
        self.index.entries(c.key, &mut |path, rec| {
            if let ("", EntryRec::Symlink { target }) = (path, rec) {
                top = Top::Symlink(target);
            }
            Ok(())
        })?;
        Ok(top)
    }

    /// Everything but the folders' modes and times; the files' signatures.
    fn complete_part(&self, c: &Content, root: &Root, top: &Top) -> Result<Vec<Signature>, StoreError> {
        if let Top::Symlink(target) = top {
            root.make_symlink("", target)?;
            return Ok(Vec::new());
        }
        let mut seen = Seen::new();
        self.index.entries(c.key, &mut |path, rec| {
            if let EntryRec::Dir { .. } = rec {
                let dir = root.make_dirs(path)?;
                let stat = rustix::fs::fstat(&dir).map_err(|e| StoreError::io(&root.full(path), e))?;
                alone(&mut seen, &Signature::of(&stat), path)?;
            }
            Ok(())
        })?;
        let umask = umask();
        let mut sigs = Vec::new();
        self.each_file(c, &mut |n, rec| {
            let sig = self.complete_file(c, root, n, rec, umask)?;
            alone(&mut seen, &sig, &rec.path)?;
            sigs.push(sig);
            Ok(())
        })?;
        self.index.entries(c.key, &mut |path, rec| match rec {
            EntryRec::Symlink { target } => root.make_symlink(path, &target),
            EntryRec::Dir { .. } => Ok(()),
        })?;
        Ok(sigs)
    }

    /// Makes a file that has no bytes, checks the length of any other, sets mode and time.
    fn complete_file(
        &self,
        c: &Content,
        root: &Root,
        n: u32,
        rec: &FileRec,
        umask: u32,
    ) -> Result<Signature, StoreError> {
        let len = match rec.size.filter(|_| !rec.guess) {
            Some(len) => len,
            // Nobody can say how long it is: it is one chunk.
            None => self.chunk_len(c, rec.first)?,
        };
        let stat = match root.stat(&rec.path) {
            Ok(stat) => stat,
            Err(e) if e.is_not_found() && len == 0 => {
                let made = root.open_write(&rec.path)?;
                lock(&self.written).files.insert((c.key, n));
                rustix::fs::fstat(made).map_err(|e| StoreError::io(&root.full(&rec.path), e))?
            }
            Err(e) if gone(&e) => return Err(self.lose_part_file(c, n, rec)?),
            Err(e) => return Err(e),
        };
        let sig = Signature::of(&stat);
        let wrong_len = sig.size != len;
        if !wrong_len && rec.meta.is_none() {
            return Ok(sig);
        }
        let file = root.open_write(&rec.path)?;
        if sig.size > len {
            file.set_len(len).map_err(|e| StoreError::io(&root.full(&rec.path), e))?;
        } else if wrong_len {
            return Err(self.lose_part_file(c, n, rec)?);
        }
        restore(&file, &rec.meta, umask).map_err(|e| StoreError::io(&root.full(&rec.path), e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| StoreError::io(&root.full(&rec.path), e))?;
        Ok(Signature::of(&stat))
    }

    fn chunk_len(&self, c: &Content, chunk: u32) -> Result<u64, StoreError> {
        let Some(chunk) = crate::units::ChunkIndex::new(chunk) else { return Ok(0) };
        let known = self.chunk_rec(c, chunk)?.len;
        Ok(known.or_else(|| c.state().lens.get(&chunk.get()).copied()).unwrap_or(0))
    }

    /// Somebody else took a file out of the `.part`, or cut it off: its chunks are to be fetched again.
    fn lose_part_file(&self, c: &Content, n: u32, rec: &FileRec) -> Result<StoreError, StoreError> {
        self.files.forget(c.key, n);
        let before = c.state().held.len();
        for run in self.runs(c, n, rec)? {
            for chunk in (run.first..run.first + run.count).filter_map(crate::units::ChunkIndex::new) {
                self.lose_chunk(c, chunk)?;
            }
        }
        let missing = before - c.state().held.len();
        if missing == 0 {
            c.state().rec.manifest_complete = false;
        }
        Ok(StoreError::Incomplete { missing: missing.max(1) })
    }

    /// What was written to one content, for somebody else to sync than the next checkpoint.
    fn take_written(&self, c: &Content) -> BTreeSet<(ContentKey, u32)> {
        let mut written = lock(&self.written);
        written.inline.retain(|f| f.0 != c.key);
        let range = (c.key, 0)..=(c.key, u32::MAX);
        let mine = written.files.range(range).copied().collect();
        written.files.retain(|f| f.0 != c.key);
        mine
    }

    /// Syncs what was written to one content.
    fn sync_content(&self, c: &Content) -> Result<(), StoreError> {
        let mine = self.take_written(c);
        self.sync(&mine).inspect_err(|_| lock(&self.written).files.extend(&mine))
    }

    /// Modes and times of folders, the deepest first: what is made in a folder changes its time, and a mode may forbid it.
    fn restore_folders(&self, c: &Content, root: &Root) -> Result<(), StoreError> {
        let mut folders = BTreeMap::new();
        self.index.entries(c.key, &mut |path, rec| {
            if let EntryRec::Dir { meta } = rec
                && !meta.is_none()
            {
                folders.insert((std::cmp::Reverse(path.split('/').count()), path.to_owned()), meta);
            }
            Ok(())
        })?;
        let umask = umask();
        let top = folders.remove(&(std::cmp::Reverse(1), String::new()));
        let all =
            folders.iter().map(|((_, path), meta)| (path.as_str(), meta)).chain(top.iter().map(|m| ("", m)));
        for (path, meta) in all {
            let dir = File::from(root.open_dir(path)?);
            restore(&dir, meta, umask).map_err(|e| StoreError::io(&root.full(path), e))?;
        }
        Ok(())
    }

    /// Commits that the content is complete, then renames it. A kill in between, or a power cut that undoes the
    /// rename, leaves a `.part` that the next start knows by its id, and renames. The other way round there would be
    /// a moment at which nothing tells what lies at the final path from any file of the user's.
    fn commit_finished(
        &self,
        c: &Content,
        sigs: &[Signature],
        to: &Move<'_>,
        unsynced: Option<String>,
    ) -> Result<(), StoreError> {
        let _layout = c.changing();
        let lies = rustix::fs::lstat(to.part).map_err(|e| StoreError::io(to.part, e))?;
        let part_id = Some((Signature::of(&lies).dev, Signature::of(&lies).ino));
        let (frames, lens, rec) = {
            let s = c.state();
            let known = s.rec.clone();
            // Exactly, where it was a guess before.
            let size: u64 = sigs.iter().map(|sig| sig.size).sum();
            let held_bytes = size.saturating_sub(known.inline_bytes);
            let rec = ContentRec { complete: true, dirty: false, held_all: true, part_id, ..known };
            let rec = ContentRec { size, held_bytes, unsynced, ..rec };
            (s.frames.clone(), s.lens.clone(), rec)
        };
        let now = self.now();
        let done = self.durably(|w| {
            let bytes: Vec<(u32, Vec<u8>)> = frames.iter().map(|(n, f)| (*n, f.encode())).collect();
            index::put_frames(w, c.key, bytes.iter().map(|(n, b)| (*n, b.as_slice())))?;
            layout::set_lens(w, c.key, &lens)?;
            layout::edit_files(w, c.key, 0..rec.files, &mut |n, file| {
                file.sig = sigs.get(n as usize).copied();
                file.young = file.sig.is_none_or(|sig| sig.too_young(now));
                (file.size, file.guess) = (file.sig.map(|sig| sig.size), false);
            })?;
            index::drop_held(w, c.key)?;
            index::index_blocks(w, c.key, rec.chunks)?;
            index::put_content(w, c.key, &rec)
        });
        let done = done.and_then(|()| rename(to.part, to.dest, to.force));
        self.chunk_pages.forget_content(c.key);
        self.file_pages.forget_content(c.key);
        self.files.forget_content(c.key);
        let mut s = c.state();
        if done.is_ok() {
            (s.rec.complete, s.rec.dirty, s.rec.held_all, s.rec.part_id) = (true, false, true, part_id);
            (s.rec.size, s.rec.held_bytes, s.rec.unsynced) = (rec.size, rec.held_bytes, rec.unsynced);
            (s.rec_dirty, s.held_dirty, s.lens_dirty) = (false, BTreeSet::new(), BTreeSet::new());
            s.proved = Default::default();
            s.frames.clear();
        } else {
            // The index may say that it is complete, and what is held is not in it any more.
            s.rec_dirty = true;
            s.all_pages_dirty();
            self.unsaved.store(true, Ordering::Release);
        }
        done
    }

    /// Renaming a file changes its ctime. That is worth no sync: without it the file is hashed once more.
    fn note_new_ctime(&self, c: &Content, dest: &Path) -> Result<(), StoreError> {
        let stat = rustix::fs::lstat(dest).map_err(|e| StoreError::io(dest, e))?;
        let (sig, now) = (Signature::of(&stat), self.now());
        let note = &mut |_, file: &mut FileRec| (file.sig, file.young) = (Some(sig), sig.too_young(now));
        self.index.write(false, |w| layout::edit_files(w, c.key, [0], note))?;
        self.file_pages.forget_content(c.key);
        Ok(())
    }
}

fn alone(seen: &mut Seen, sig: &Signature, path: &str) -> Result<(), StoreError> {
    let new = seen.insert((sig.dev, sig.ino));
    if new { Ok(()) } else { Err(StoreError::Collision { path: path.to_owned() }) }
}

/// Sets mode (permissions only, within the umask) and time.
fn restore(file: &File, meta: &Meta, umask: u32) -> Result<(), Errno> {
    if let Some(mode) = meta.mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o777 & !umask))?;
    }
    if let Some((tv_sec, ns)) = meta.mtime {
        let t = Timespec { tv_sec, tv_nsec: ns.min(999_999_999).into() };
        rustix::fs::futimens(file, &Timestamps { last_access: t, last_modification: t })?;
    }
    Ok(())
}

/// The process's umask. To ask the kernel for it would mean to change it.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Umask:"));
    line.and_then(|l| u32::from_str_radix(l.trim(), 8).ok()).unwrap_or(0o022)
}

/// Moves a `.part` to its final path; what is there is replaced only by `force`.
pub(super) fn rename(part: &Path, dest: &Path, force: bool) -> Result<(), StoreError> {
    match rustix::fs::renameat_with(CWD, part, CWD, dest, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) if force => {}
        // File systems that cannot rename so: look first.
        Err(Errno::INVAL | Errno::NOSYS) if force || !exists(dest) => {}
        Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => {
            return Err(StoreError::Exists { path: dest.to_owned() });
        }
        Err(e) => return Err(StoreError::io(dest, e)),
    }
    let is_dir = |p: &Path| std::fs::symlink_metadata(p).is_ok_and(|m| m.is_dir());
    if !exists(dest) || (!is_dir(dest) && !is_dir(part)) {
        return std::fs::rename(part, dest).map_err(|e| StoreError::io(dest, e));
    }
    let aside = part.with_extension("replaced");
    if exists(&aside) {
        remove_any(&aside)?;
    }
    std::fs::rename(dest, &aside).map_err(|e| StoreError::io(&aside, e))?;
    if let Err(e) = std::fs::rename(part, dest) {
        let _ = std::fs::rename(&aside, dest); // the first error is the one to tell
        return Err(StoreError::io(dest, e));
    }
    remove_any(&aside)
}

/// Makes the rename durable.
pub(super) fn sync_folder(dest: &Path) -> Result<(), StoreError> {
    let parent = dest.parent().unwrap_or(Path::new("/"));
    let dir = File::open(parent).map_err(|e| StoreError::io(parent, e))?;
    match rustix::fs::fsync(&dir) {
        Ok(()) | Err(Errno::INVAL) => Ok(()), // file systems that have no sync of folders
        Err(e) => Err(StoreError::io(parent, e)),
    }
}
