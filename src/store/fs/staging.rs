//! A content while it is imported: its nodes are kept as they come, everything else in one durable commit at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redb::WriteTransaction;

use crate::bitfield::Bitfield;
use crate::content::chunk::ChunkFrame;
use crate::content::manifest::{Item, Step, Walker};
use crate::content::profile::Profile;
use crate::content::{Cid, RAW};
use crate::units::ContentKey;

use super::super::index;
use super::super::records::ContentRec;
use super::super::{Origin, Signature, StoreError};
use super::FsStore;
use super::content::Content;
use super::layout::{apply, edit_files};

/// Bytes of nodes kept in memory before they go to the index.
const BUFFERED: usize = 1 << 20;
/// Items recorded at once.
const WINDOW: usize = 4096;

/// What an import knows at its end.
pub struct Staged<'a> {
    pub profile: &'a Profile,
    pub root: Cid,
    pub name: Option<String>,
    pub origin: Origin,
    pub fingerprint: Option<String>,
    /// Signatures by path, and whether each was too young.
    pub sigs: &'a dyn Fn(&str) -> Option<(Signature, bool)>,
}

/// Receives an import's nodes. Dropped without [`Staging::finish`], it leaves nothing that is visible.
pub struct Staging<'s> {
    store: &'s FsStore,
    /// Given once nodes had to go to the index early.
    key: Option<ContentKey>,
    nodes: BTreeMap<Cid, Bytes>,
    bytes: usize,
    finished: bool,
}

impl<'s> Staging<'s> {
    pub fn new(store: &'s FsStore) -> Staging<'s> {
        Staging { store, key: None, nodes: BTreeMap::new(), bytes: 0, finished: false }
    }

    pub fn node(&mut self, cid: Cid, bytes: Bytes) {
        self.bytes += bytes.len() + 128;
        self.nodes.insert(cid, bytes);
    }

    /// Writes nodes out if there are many.
    pub fn flush_if_large(&mut self) -> Result<(), StoreError> {
        if self.bytes < BUFFERED {
            return Ok(());
        }
        let nodes: Vec<(Cid, Bytes)> = std::mem::take(&mut self.nodes).into_iter().collect();
        self.bytes = 0;
        let known = self.key;
        let key = self.store.index.write(false, |w| {
            let key = match known {
                Some(key) => key,
                None => staging_rec(w)?,
            };
            index::put_nodes(w, key, &nodes)?;
            Ok(key)
        })?;
        self.key = Some(key);
        self.store.unsaved.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Numbers the chunks and records everything. The same path imported again with the same root keeps its key.
    pub fn finish(mut self, staged: &Staged<'_>) -> Result<ContentKey, StoreError> {
        let known = self.store.all().into_iter().find(|c| {
            let s = c.state();
            c.root == staged.root && s.rec.origin == staged.origin && s.rec.complete
        });
        let key = match known {
            Some(c) => self.renew(&c, staged)?,
            None => self.record(staged)?,
        };
        self.finished = true;
        Ok(key)
    }

    fn record(&mut self, staged: &Staged<'_>) -> Result<ContentKey, StoreError> {
        let store = self.store;
        let created = u64::try_from(store.now() / 1_000_000_000).unwrap_or(0);
        let mut rec = ContentRec {
            manifest_complete: true,
            complete: true,
            held_all: true,
            fingerprint: staged.fingerprint.clone(),
            ..ContentRec::new(staged.root, staged.name.clone(), staged.origin.clone(), created)
        };
        let nodes: Vec<(Cid, Bytes)> = self.nodes.iter().map(|(c, b)| (*c, b.clone())).collect();
        let known = self.key;
        let (key, rec) = store.index.write(true, |w| {
            let key = known.map_or_else(|| index::next_key(w), Ok)?;
            index::put_nodes(w, key, &nodes)?;
            drop(nodes);
            self.walk(w, key, &mut rec, staged)?;
            rec.held_bytes = rec.size - rec.inline_bytes;
            index::index_blocks(w, key, rec.chunks)?;
            index::put_content(w, key, &rec)?;
            Ok((key, rec))
        })?;
        let held = Bitfield::full(rec.chunks);
        let c = store.insert(Content::new(key, rec, held, false));
        c.ready.store(true, Ordering::Release);
        Ok(key)
    }

    fn walk(
        &self,
        w: &WriteTransaction,
        key: ContentKey,
        rec: &mut ContentRec,
        staged: &Staged<'_>,
    ) -> Result<(), StoreError> {
        let find =
            |cid: &Cid| self.nodes.get(cid).cloned().or_else(|| self.store.index.node(cid).ok().flatten());
        let mut walker = Walker::new(staged.root);
        loop {
            let mut items = Vec::new();
            let step = walker.advance(&mut |cid| find(cid), WINDOW, &mut items);
            let step = step.map_err(|e| StoreError::Dag(e.to_string()))?;
            apply(w, key, rec, &items, Some(staged.sigs), &|_| None)?;
            let mut frames = Vec::new();
            for item in &items {
                if let Item::Chunk { index, first: true, spec, .. } = item
                    && spec.cid.codec() != RAW
                {
                    let frame = ChunkFrame::of_own(staged.profile, spec, &mut |cid| find(cid));
                    let frame = frame.map_err(|e| StoreError::Dag(e.to_string()))?;
                    frames.extend(frame.map(|f| (index.get(), f.encode())));
                }
            }
            index::put_frames(w, key, frames.iter().map(|(n, b)| (*n, b.as_slice())))?;
            match step {
                Step::More => {}
                Step::Done => return Ok(()),
                Step::Missing(cids) => {
                    let what = cids.first().map(Cid::to_string).unwrap_or_default();
                    return Err(StoreError::damaged(format!("the node {what} of an import is missing")));
                }
            }
        }
    }

    /// The content is known: its files have new signatures.
    fn renew(&mut self, c: &Arc<Content>, staged: &Staged<'_>) -> Result<ContentKey, StoreError> {
        let store = self.store;
        let _checkpoint = super::content::lock(&store.checkpointing);
        let _layout = c.changing();
        let rec = {
            let mut s = c.state();
            s.rec.changed.clear();
            s.rec.fingerprint = staged.fingerprint.clone();
            (s.rec.held_all, s.rec_dirty) = (true, false);
            s.rec.held_bytes = s.rec.size - s.rec.inline_bytes;
            s.held = Bitfield::full(s.rec.chunks);
            s.proved = Bitfield::new();
            s.held_dirty = BTreeSet::new();
            s.rec.clone()
        };
        let staging = self.key;
        store.index.write(true, |w| {
            edit_files(w, c.key, 0..rec.files, &mut |_, file| {
                let sig = (staged.sigs)(&file.path);
                (file.sig, file.young, file.changed) = (sig.map(|s| s.0), sig.is_none_or(|s| s.1), false);
            })?;
            index::drop_held(w, c.key)?;
            index::put_content(w, c.key, &rec)?;
            staging.map_or(Ok(()), |key| index::delete_content(w, key, 0))
        })?;
        store.file_pages.forget_content(c.key);
        store.files.forget_content(c.key);
        c.ready.store(true, Ordering::Release);
        Ok(c.key)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key.filter(|_| !self.finished) else { return };
        // If this fails too, opening the store the next time removes it.
        let _ = self.store.index.write(false, |w| index::delete_content(w, key, 0));
    }
}

fn staging_rec(w: &WriteTransaction) -> Result<ContentKey, StoreError> {
    let key = index::next_key(w)?;
    let nowhere = Origin::Shared { path: Default::default() };
    let root = Cid::new_v1(RAW, multihash::Multihash::default());
    let rec = ContentRec { staging: true, ..ContentRec::new(root, None, nowhere, 0) };
    index::put_content(w, key, &rec)?;
    Ok(key)
}

impl FsStore {
    pub(in crate::store) fn clock(&self) -> fn() -> i64 {
        self.opts.clock
    }

    /// The name that an import was given this time.
    pub(in crate::store) fn set_name(&self, key: ContentKey, name: Option<String>) -> Result<(), StoreError> {
        let c = self.content(key)?;
        {
            let mut s = c.state();
            if s.rec.name == name {
                return Ok(());
            }
            s.rec.name = name;
        }
        self.commit_rec(&c, true)
    }

    /// A complete content that was imported with this fingerprint, of which nothing has changed.
    pub(in crate::store) fn imported(
        &self,
        origin: &Origin,
        fingerprint: &str,
    ) -> Option<(ContentKey, ContentRec)> {
        self.all().into_iter().find_map(|c| {
            let s = c.state();
            let same = s.rec.fingerprint.as_deref() == Some(fingerprint) && s.rec.origin == *origin;
            (same && s.rec.complete && s.rec.changed.is_empty()).then(|| (c.key, s.rec.clone()))
        })
    }
}
