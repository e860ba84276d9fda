//! Starting fetches, taking them up again, and forgetting contents.

use std::path::Path;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::bitfield::Bitfield;
use crate::units::ContentKey;

use super::super::records::ContentRec;
use super::super::{NewFetch, Origin, StoreError, import, index};
use super::FsStore;
use super::content::{Content, lock, part_path};
use super::write::Extent;

impl FsStore {
    pub(super) fn begin(&self, new: &NewFetch) -> Result<ContentKey, StoreError> {
        let _one = lock(&self.beginning);
        check_dest(&new.dest)?;
        let same_dest =
            |c: &Arc<Content>| matches!(&c.state().rec.origin, Origin::Fetched { path } if *path == new.dest);
        let known: Vec<Arc<Content>> = self.all().into_iter().filter(same_dest).collect();
        if let Some(c) = known.iter().find(|c| c.root == new.root) {
            return self.begin_again(c, new);
        }
        let part = part_path(&new.dest);
        if let Some(other) = known.iter().find(|c| !c.state().rec.complete) {
            return Err(StoreError::Busy { path: part, root: other.root });
        }
        if exists(&new.dest) {
            if let Some(key) = import::adopt(self, &new.dest, &new.root, new.name.clone())? {
                return Ok(key);
            }
            if !new.force {
                return Err(StoreError::Exists { path: new.dest.clone() });
            }
        }
        if exists(&part) {
            if !new.force {
                return Err(StoreError::Exists { path: part });
            }
            remove_any(&part)?;
        }
        if let Some(parent) = new.dest.parent() {
            std::fs::create_dir_all(parent).map_err(|e| StoreError::io(parent, e))?;
        }
        self.begin_anew(new)
    }

    /// A fetch of this root to this destination is known.
    fn begin_again(&self, c: &Arc<Content>, new: &NewFetch) -> Result<ContentKey, StoreError> {
        self.ready(c.key)?;
        if !c.state().rec.complete {
            if let Some(key) = self.adopt_instead(c, new)? {
                return Ok(key);
            }
            {
                let mut s = c.state();
                s.rec.force |= new.force;
                s.rec.name = new.name.clone().or(s.rec.name.take());
                s.rec_dirty = true;
            }
            return Ok(c.key);
        }
        self.check_signatures(c)?;
        let whole = {
            let s = c.state();
            s.held.len() == s.rec.chunks && s.rec.changed.is_empty()
        };
        let there = exists(&new.dest);
        if whole && there {
            return Ok(c.key);
        }
        if there && !new.force {
            return Err(StoreError::Exists { path: new.dest.clone() });
        }
        self.restart(c, new)?;
        Ok(c.key)
    }

    /// A fetch of which nothing lies at its `.part` finds its content at the destination: an index from before
    /// its end was put back, or somebody else has brought it. It is hashed, and is what the fetch was for.
    fn adopt_instead(&self, c: &Content, new: &NewFetch) -> Result<Option<ContentKey>, StoreError> {
        if exists(&part_path(&new.dest)) || !exists(&new.dest) {
            return Ok(None);
        }
        let (name, force) = {
            let s = c.state();
            (new.name.clone().or(s.rec.name.clone()), new.force || s.rec.force)
        };
        let adopted = import::adopt(self, &new.dest, &new.root, name)?;
        if adopted.is_none() && !force {
            return Err(StoreError::Exists { path: new.dest.clone() });
        }
        if adopted.is_some() {
            self.remove_content(c.key, false)?;
        }
        Ok(adopted)
    }

    /// A complete content whose files are gone or given up becomes a fetch again.
    fn restart(&self, c: &Content, new: &NewFetch) -> Result<(), StoreError> {
        let part = part_path(&new.dest);
        if exists(&part) {
            if !new.force {
                return Err(StoreError::Exists { path: part });
            }
            remove_any(&part)?;
        }
        self.begin_over(c)?;
        {
            let mut s = c.state();
            // Walked again, so that bytes which inner nodes carry are written again.
            s.rec.manifest_complete = false;
            s.rec.force = new.force;
        }
        self.save(Extent::Fetching)
    }

    /// A complete content is a fetch again, of which nothing is known to be held.
    pub(super) fn begin_over(&self, c: &Content) -> Result<(), StoreError> {
        self.files.forget_content(c.key);
        let files = c.state().rec.files;
        self.edit_file_records(c, 0..files, |_, rec| {
            (rec.sig, rec.young, rec.changed) = (None, false, false)
        })?;
        let mut s = c.state();
        s.held = Bitfield::new();
        s.proved = Bitfield::new();
        s.all_pages_dirty();
        s.rec.held_bytes = 0;
        s.rec.changed.clear();
        (s.rec.complete, s.rec.held_all, s.rec.dirty) = (false, false, true);
        (s.rec.part_id, s.rec.unsynced, s.rec_dirty) = (None, None, true);
        Ok(())
    }

    fn begin_anew(&self, new: &NewFetch) -> Result<ContentKey, StoreError> {
        let origin = Origin::Fetched { path: new.dest.clone() };
        let created = u64::try_from(self.now() / 1_000_000_000).unwrap_or(0);
        let rec = ContentRec {
            force: new.force,
            dirty: true,
            ..ContentRec::new(new.root, new.name.clone(), origin, created)
        };
        // Durable at once: a `.part` that nobody knows could not be taken up.
        let key = self.durably(|w| {
            let key = index::next_key(w)?;
            index::put_content(w, key, &rec)?;
            Ok(key)
        })?;
        let c = self.insert(Content::new(key, rec, Bitfield::new(), false));
        c.ready.store(true, Ordering::Release);
        Ok(key)
    }

    pub(super) fn remove_content(&self, key: ContentKey, delete_part: bool) -> Result<(), StoreError> {
        let c = self.content(key)?;
        let _checkpoint = lock(&self.checkpointing);
        let _layout = c.changing();
        let (chunks, part) = {
            let s = c.state();
            (s.rec.chunks, (delete_part && !s.rec.complete).then(|| s.place()))
        };
        self.durably(|w| index::delete_content(w, key, chunks))?;
        self.contents.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.chunk_pages.forget_content(key);
        self.file_pages.forget_content(key);
        self.files.forget_content(key);
        part.filter(|p| exists(p)).map_or(Ok(()), |p| remove_any(&p))
    }
}

fn check_dest(dest: &Path) -> Result<(), StoreError> {
    if dest.to_str().is_none() {
        return Err(StoreError::NotUtf8 { path: dest.to_owned() });
    }
    if !dest.is_absolute() || dest.file_name().is_none() {
        let e = std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "not the absolute path of a file or folder to be",
        );
        return Err(StoreError::io(dest, e));
    }
    Ok(())
}

/// Whether anything is there, a dangling symlink included.
pub fn exists(path: &Path) -> bool {
    rustix::fs::lstat(path).is_ok()
}

/// Removes a file, a symlink (not what it points to) or a folder with all that is in it.
pub fn remove_any(path: &Path) -> Result<(), StoreError> {
    let meta = std::fs::symlink_metadata(path).map_err(|e| StoreError::io(path, e))?;
    let done = if meta.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    done.map_err(|e| StoreError::io(path, e))
}
