//! What of a content the DHT is told: its root, every block, or nothing.
//!
//! The setting holds for all contents; what a content was added with is noted in the store and comes first.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::content::manifest::{Item, Step, Walker};
use crate::content::{Cid, Hash};
use crate::net::api::Command;
use crate::store::Store;
use crate::units::ContentKey;

use super::config::Providing;
use super::driver::{Driver, Slow};

/// The kind of the store's notes: a root's CID, and how it is provided.
pub(super) const NOTES: &str = "provide";
/// Blocks of one content that are provided at most; those of the first chunks come first.
const MAX_BLOCKS: usize = 1 << 20;
/// Hashes in one command.
const BATCH: usize = 1_024;
/// Items of a manifest looked at in one step.
const STEP: usize = 4_096;

/// What was settled for single contents.
pub(super) struct Modes {
    default: Providing,
    of: BTreeMap<Cid, Providing>,
}

impl Modes {
    /// With what is noted in the store.
    pub fn new(default: Providing, store: &dyn Store) -> Modes {
        let notes = store.notes(NOTES).unwrap_or_else(|e| {
            tracing::warn!("how single contents are provided cannot be read: {e}");
            Vec::new()
        });
        let read = |(root, mode): (Vec<u8>, Vec<u8>)| {
            Some((Cid::try_from(root).ok()?, std::str::from_utf8(&mode).ok()?.parse().ok()?))
        };
        Modes { default, of: notes.into_iter().filter_map(read).collect() }
    }

    fn of(&self, root: &Cid) -> Providing {
        self.of.get(root).copied().unwrap_or(self.default)
    }
}

impl Driver {
    /// Announces the content once there is something to serve, and its blocks once it is complete, if that is how it is
    /// provided. To be said whenever either may have come to be, however it came.
    pub(super) fn provide(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(key).filter(|c| !c.have.is_empty() && !c.paused) else {
            return;
        };
        let is_new = !std::mem::replace(&mut content.provided, true);
        let (root, complete) = (content.root, content.complete && content.blocks.is_none());
        if is_new && self.modes.of(&root) != Providing::None {
            self.command(Command::Provide { hashes: vec![*root.hash()] });
        }
        if complete {
            self.provide_blocks(key);
        }
    }

    fn provide_blocks(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get(key) else { return };
        let root = content.root;
        if content.parts.is_none() && self.modes.of(&root) == Providing::All {
            let store = self.store.clone();
            self.slowly(move || Slow::Blocks { key, hashes: blocks(&*store, root) });
        }
    }

    pub(super) fn blocks_listed(&mut self, key: ContentKey, hashes: Vec<Hash>) {
        let Some(content) = self.contents.get_mut(key).filter(|c| c.provided) else { return };
        let hashes: Arc<[Hash]> = hashes.into();
        content.blocks = Some(hashes.clone());
        for some in hashes.chunks(BATCH) {
            self.command(Command::Provide { hashes: some.to_vec() });
        }
    }

    /// The content is served no more. What another content is provided by too is provided on.
    pub(super) fn stop_providing(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(key) else { return };
        let (provided, blocks) = (std::mem::take(&mut content.provided), content.blocks.take());
        if !provided || content.parts.is_some() {
            return;
        }
        let mut going: HashSet<Hash> = blocks.iter().flat_map(|b| b.iter().copied()).collect();
        going.insert(*content.root.hash());
        let modes = &self.modes;
        for (_, c) in self.contents.iter().filter(|(_, c)| c.provided && modes.of(&c.root) != Providing::None)
        {
            going.remove(c.root.hash());
            for hash in c.blocks.iter().flat_map(|b| b.iter()) {
                going.remove(hash);
            }
        }
        let going: Vec<Hash> = going.into_iter().collect();
        for some in going.chunks(BATCH) {
            self.command(Command::StopProviding { hashes: some.to_vec() });
        }
    }

    /// How a content is provided from now on.
    pub(super) fn set_providing(&mut self, root: Cid, mode: Providing) {
        self.modes.of.insert(root, mode);
        let keys: Vec<ContentKey> =
            self.contents.iter().filter(|(_, c)| c.root == root && c.provided).map(|(k, _)| k).collect();
        for key in keys {
            self.stop_providing(key);
            self.provide(key);
        }
    }
}

/// The blocks of a content beside its root: inner nodes, then chunks, in the manifest's order.
fn blocks(store: &dyn Store, root: Cid) -> Vec<Hash> {
    let mut found: Vec<Hash> = Vec::new();
    let mut walker = Walker::new(root);
    let mut items = Vec::new();
    loop {
        items.clear();
        let mut nodes = Vec::new();
        let step = walker.advance(
            &mut |cid| {
                let node = store.node(cid).ok().flatten();
                if node.is_some() && *cid != root {
                    nodes.push(*cid.hash());
                }
                node
            },
            STEP,
            &mut items,
        );
        found.extend(nodes);
        for item in &items {
            if let Item::Chunk { first: true, spec, .. } = item
                && spec.cid != root
            {
                found.push(*spec.cid.hash());
            }
        }
        if found.len() >= MAX_BLOCKS {
            tracing::warn!("{root} has more than {MAX_BLOCKS} blocks; the first of them are provided");
            found.truncate(MAX_BLOCKS);
            return found;
        }
        if !matches!(step, Ok(Step::More)) {
            return found;
        }
    }
}
