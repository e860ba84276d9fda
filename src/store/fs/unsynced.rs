//! A fetch is finished once its bytes are with the kernel; the disk has them later.
//!
//! The index says so (`unsynced` names the machine's boot): while that lasts nothing written is lost, so the content is
//! believed, and the next checkpoint syncs it. If the machine went down first, hashes say what is there, and what
//! is not is fetched again. One that replaces something is synced before it does, since what it replaces is gone then.

use std::path::Path;

use super::super::signature::Signature;
use super::super::{Origin, StoreError};
use super::FsStore;
use super::content::{Content, lock, part_path};
use super::fetch::exists;
use super::finish::{rename, sync_folder};
use super::read::gone;
use super::verify::Report;
use super::write::{Extent, SYNC_ALL_FROM};

impl FsStore {
    /// Syncs what was finished since the last time, in whichever process.
    pub(super) fn sync_finished(&self) -> Result<(), StoreError> {
        let keys = std::mem::take(&mut lock(&self.written).whole);
        let mut done = Ok(());
        for key in keys {
            let Ok(c) = self.content(key) else { continue };
            let (complete, unsynced) = {
                let s = c.state();
                (s.rec.complete, s.rec.unsynced.is_some())
            };
            if !complete {
                // It is about to be finished.
                lock(&self.written).whole.insert(key);
            } else if unsynced {
                done = done.and(self.sync_one(&c));
            }
        }
        done
    }

    fn sync_one(&self, c: &Content) -> Result<(), StoreError> {
        let synced = self.sync_whole(c);
        {
            // Finished anew meanwhile: that is for the next time.
            let written = lock(&self.written);
            if !written.whole.contains(&c.key) && synced.is_ok() {
                c.state().rec.unsynced = None;
            }
        }
        if synced.is_err() {
            self.never_synced(c);
        }
        self.commit_rec(c, true)?;
        synced
    }

    /// What the kernel could not write of a finished content is told once only: no later sync speaks for it, and the
    /// next start believes hashes only.
    pub(super) fn never_synced(&self, c: &Content) {
        let mut written = lock(&self.written);
        written.whole.remove(&c.key);
        let mut s = c.state();
        (s.rec.unsynced, s.rec_dirty) = (Some(String::new()), true);
    }

    fn sync_whole(&self, c: &Content) -> Result<(), StoreError> {
        let (files, dest) = {
            let s = c.state();
            (s.rec.files, s.place())
        };
        if files as usize >= SYNC_ALL_FROM {
            return self.sync_file_system(c);
        }
        for n in 0..files {
            let opened = self.handle(c, n, &self.file_rec(c, n)?, false);
            match opened {
                Ok(h) => rustix::fs::fdatasync(&h.file).map_err(|e| StoreError::io(&h.path, e))?,
                Err(e) if gone(&e) => {}
                // Its mode lets nobody read it, not even us.
                Err(_) => self.sync_file_system(c)?,
            }
        }
        match sync_folder(&dest) {
            // Moved away or deleted, with the folder that it was in.
            Err(e) if gone(&e) => Ok(()),
            done => done,
        }
    }

    /// Whether the machine has been down since the content was finished, before a sync.
    pub(super) fn may_be_torn(&self, c: &Content) -> bool {
        let s = c.state();
        s.rec.unsynced.is_some() && s.rec.unsynced != self.opts.boot
    }

    /// Hashes such a content. What was torn is a fetch again, which has what is right of it.
    pub(super) fn look_after_power_cut(&self, c: &Content) -> Result<(), StoreError> {
        let (dest, id) = {
            let s = c.state();
            let Origin::Fetched { path } = &s.rec.origin else { return Ok(()) };
            (path.clone(), s.rec.part_id)
        };
        let part = part_path(&dest);
        let is_ours = |p: &Path| {
            let lies = rustix::fs::lstat(p).map(|s| Signature::of(&s));
            id.is_some() && lies.ok().map(|s| (s.dev, s.ino)) == id
        };
        if is_ours(&part) {
            // The rename was lost too.
            return self.fetch_on(c);
        }
        let report = self.examine(c, &dest, &mut |_| ())?;
        let torn = report.files.iter().any(|f| f.bad);
        if torn && is_ours(&dest) && !exists(&part) && !self.edited(c, &report)? {
            tracing::warn!("{} was not on the disk yet when the machine went down", dest.display());
            rename(&dest, &part, false)?;
            return self.fetch_on(c);
        }
        self.settle(c, &report)?;
        self.replace_held(c, &report)?;
        {
            let mut s = c.state();
            (s.rec.unsynced, s.rec_dirty) = (None, true);
        }
        self.save(Extent::Fetching)
    }

    /// Whether somebody has written to a file since it was finished: then it is not ours to complete.
    fn edited(&self, c: &Content, report: &Report) -> Result<bool, StoreError> {
        for (n, found) in (0..).zip(&report.files).filter(|(_, f)| f.bad) {
            let (then, now) = (self.file_rec(c, n)?.sig, found.sig);
            if then.zip(now).is_some_and(|(then, now)| now.mtime_ns > then.mtime_ns) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A complete content that lies at its `.part` is a fetch that goes on; it is finished if nothing is missing.
    fn fetch_on(&self, c: &Content) -> Result<(), StoreError> {
        self.begin_over(c)?;
        self.take_up(c)?;
        self.save(Extent::Fetching)?;
        let whole = {
            let s = c.state();
            s.rec.manifest_complete && s.held.len() == s.rec.chunks
        };
        if !whole {
            return Ok(());
        }
        match self.finish_prepared(c) {
            // It stays a fetch, and says so when it is asked for.
            Ok(_) | Err(StoreError::Exists { .. } | StoreError::Incomplete { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::content::profile::Profile;
    use crate::store::Store;
    use crate::store::tests::bench::{Bench, FsBench, fetch, file};

    #[test]
    fn what_the_kernel_could_not_write_is_hashed_at_the_next_start_of_a_node() {
        let (a, mut b) = (FsBench::new(), FsBench::new());
        a.put("x", &file(1, 600_000));
        let ka = a.import("x", &Profile::V1_256K).unwrap();
        let kb = fetch(&a, ka, &b, "dest");
        let store = b.store();
        store.never_synced(&store.content(kb).unwrap());
        // No later sync speaks for it.
        store.checkpoint().unwrap();
        store.checkpoint().unwrap();
        let torn = std::fs::File::options().write(true).open(b.path("dest")).unwrap();
        torn.set_len(300_000).unwrap();
        torn.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        b.crash();
        assert_eq!(b.store().have(kb).unwrap().len(), 1);
        assert!(!b.store().info(kb).unwrap().complete, "it is a fetch again");
    }
}
