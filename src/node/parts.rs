//! Any CID held is a root: who holds a folder serves its sub-folders and files under their own names.
//!
//! A part is numbered by its own manifest; each of its chunks is found through the store's index in the
//! contents that are served. It is made when somebody joins it, and forgotten when nobody is in its swarm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::bitfield::Bitfield;
use crate::content::Cid;
use crate::content::manifest::{Item, Step, Walker};
use crate::store::Store;
use crate::units::{ChunkIndex, ContentKey, PeerKey};
use crate::wire::exchange::Message;

use super::contents::{Content, Parts};
use super::driver::{Driver, Slow};

/// Parts known at a time. Those that nobody is in go first.
const MAX_PARTS: usize = 256;
/// Look-ups under way, and joins that wait for one.
const MAX_LOOKING: usize = 16;
const MAX_WAITING: usize = 32;
/// The store's own keys stay below this.
const FIRST_KEY: u32 = 1 << 31;
const BATCH: usize = 4_096;

pub(super) struct Part {
    chunks: Vec<Option<(ContentKey, ChunkIndex)>>,
    bytes: u64,
}

/// Joins of roots that may be parts, while the store is asked.
#[derive(Default)]
pub(super) struct Looking {
    waiting: BTreeMap<Cid, Vec<(PeerKey, Message)>>,
    next: u32,
}

impl Driver {
    /// The join of a root that is none of our contents: is it a part of one?
    pub(super) fn join_part(&mut self, from: PeerKey, root: Cid, join: Message) {
        if let Some(waiting) = self.looking.waiting.get_mut(&root) {
            if waiting.len() < MAX_WAITING {
                return waiting.push((from, join));
            }
        } else if self.looking.waiting.len() < MAX_LOOKING && self.contents.of_root(&root).is_none() {
            self.looking.waiting.insert(root, vec![(from, join)]);
            let hosts: BTreeSet<ContentKey> = self
                .contents
                .iter()
                .filter(|(_, c)| c.seeding && c.parts.is_none())
                .map(|(k, _)| k)
                .collect();
            let store = self.store.clone();
            return self.slowly(move || Slow::Part { root, part: find(&*store, root, &hosts) });
        }
        self.say(from, Message::Unknown { root });
    }

    pub(super) fn part_found(&mut self, root: Cid, part: Option<Part>) {
        let waiting = self.looking.waiting.remove(&root).unwrap_or_default();
        let Some(part) = part else {
            for (peer, _) in waiting {
                self.say(peer, Message::Unknown { root });
            }
            return;
        };
        self.forget_parts();
        let key = ContentKey(FIRST_KEY | self.looking.next);
        self.looking.next = (self.looking.next + 1) % FIRST_KEY;
        let have: Bitfield = part
            .chunks
            .iter()
            .zip(0..)
            .filter(|(source, _)| source.is_some())
            .filter_map(|(_, i)| ChunkIndex::new(i))
            .collect();
        let content = Content::part(root, have, part.bytes, Arc::from(part.chunks));
        self.contents.insert(key, content);
        for (peer, join) in waiting {
            self.on_message(peer, join);
        }
    }

    fn forget_parts(&mut self) {
        let parts: Vec<(ContentKey, bool)> = self
            .contents
            .iter()
            .filter(|(_, c)| c.parts.is_some())
            .map(|(k, c)| (k, c.members.is_empty()))
            .collect();
        if parts.len() >= MAX_PARTS {
            // With all of them in use the oldest goes: its peers find another source.
            let unused: Vec<_> = parts.iter().filter(|(_, empty)| *empty).map(|(k, _)| *k).collect();
            let oldest = parts.first().map(|(k, _)| *k).filter(|_| unused.is_empty());
            for key in unused.into_iter().chain(oldest) {
                self.deactivate(key);
                self.contents.remove(key);
            }
        }
    }

    /// Where the store has a chunk of a content or of a part.
    pub(super) fn source(&self, key: ContentKey, chunk: ChunkIndex) -> Option<(ContentKey, ChunkIndex)> {
        match &self.contents.get(key)?.parts {
            None => Some((key, chunk)),
            Some(parts) => *parts.get(chunk.as_usize())?,
        }
    }
}

impl Content {
    fn part(root: Cid, have: Bitfield, held_bytes: u64, parts: Arc<Parts>) -> Content {
        Content {
            root,
            name: None,
            chunks: u32::try_from(parts.len()).unwrap_or(u32::MAX),
            have,
            complete: true,
            seeding: true,
            active: false,
            held_bytes,
            fetch: None,
            first_nodes: None,
            parts: Some(parts),
            // The content that it is a part of is what the network is told of.
            provided: true,
            members: BTreeSet::new(),
            told: BTreeMap::new(),
            down: Default::default(),
            up: Default::default(),
            watchers: Vec::new(),
        }
    }
}

/// Looks a root up in the index; `None` if nothing of it is served here.
fn find(store: &dyn Store, root: Cid, hosts: &BTreeSet<ContentKey>) -> Option<Part> {
    let mut part = Part { chunks: Vec::new(), bytes: 0 };
    let mut walker = Walker::new(root);
    let mut items = Vec::new();
    loop {
        items.clear();
        let step = walker.advance(&mut |cid| store.node(cid).ok().flatten(), BATCH, &mut items).ok()?;
        for item in &items {
            let Item::Chunk { first: true, spec, .. } = item else { continue };
            let found = store.find_block(spec.cid.hash()).ok().flatten();
            let source = found.filter(|(key, _, block)| *block == 0 && hosts.contains(key));
            part.chunks.push(source.map(|(key, chunk, _)| (key, chunk)));
            part.bytes += spec.len.unwrap_or_default();
        }
        match step {
            Step::More => {}
            Step::Done => break,
            Step::Missing(_) => return None,
        }
    }
    let served = part.chunks.is_empty() || part.chunks.iter().any(Option::is_some);
    served.then_some(part)
}
