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
                .filter(|(_, c)| c.serves() && c.parts.is_none())
                .map(|(k, _)| k)
                .collect();
            let store = self.store.clone();
            return self.slowly(move || Slow::Part { root, part: find(&*store, root, &hosts) });
        }
        self.say(from, Message::Unknown { root });
    }

    pub(super) fn part_found(&mut self, root: Cid, part: Option<Part>) {
        let waiting = self.looking.waiting.remove(&root).unwrap_or_default();
        if self.contents.of_root(&root).is_some() {
            // It was shared, or its fetch began, while the store was asked.
            return self.join_now(waiting);
        }
        let Some(part) = part else {
            for (peer, _) in waiting {
                self.say(peer, Message::Unknown { root });
            }
            return;
        };
        self.forget_parts();
        let key = ContentKey(FIRST_KEY | self.looking.next);
        self.looking.next = (self.looking.next + 1) % FIRST_KEY;
        // What was found may have been paused or withdrawn meanwhile.
        let served = |key: ContentKey| self.contents.get(key).is_some_and(Content::serves);
        let have: Bitfield = part
            .chunks
            .iter()
            .zip(0..)
            .filter(|(source, _)| source.is_some_and(|(key, _)| served(key)))
            .filter_map(|(_, i)| ChunkIndex::new(i))
            .collect();
        let content = Content::part(root, have, part.bytes, Arc::from(part.chunks));
        self.contents.insert(key, content);
        self.join_now(waiting);
    }

    fn join_now(&mut self, waiting: Vec<(PeerKey, Message)>) {
        for (peer, join) in waiting {
            // One whose link has ended meanwhile is in no swarm: it would be told to others for ever.
            if self.peers.get(peer).is_some_and(|p| p.link.is_some()) {
                self.on_message(peer, join);
            }
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
                self.forget(key);
            }
        }
    }

    /// This root is to name something else.
    pub(super) fn forget_part(&mut self, root: &Cid) {
        if let Some((key, _)) = self.contents.of_root(root).filter(|(_, c)| c.parts.is_some()) {
            self.forget(key);
        }
    }

    /// Nothing of a content is served any longer: nor are the parts that have chunks of it.
    pub(super) fn forget_parts_of(&mut self, host: ContentKey) {
        let within = |parts: &Arc<Parts>| parts.iter().flatten().any(|(key, _)| *key == host);
        let parts: Vec<ContentKey> = self
            .contents
            .iter()
            .filter(|(_, c)| c.parts.as_ref().is_some_and(within))
            .map(|(k, _)| k)
            .collect();
        for key in parts {
            self.forget(key);
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
            paused: false,
            active: false,
            held_bytes,
            fetch: None,
            stopped: None,
            first_nodes: None,
            parts: Some(parts),
            // The content that it is a part of is what the network is told of.
            provided: true,
            blocks: None,
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
            let found = store.find_block_of(spec.cid.hash(), &|key| hosts.contains(&key)).ok().flatten();
            let source = found.filter(|(_, _, block)| *block == 0);
            part.chunks.push(source.map(|(key, chunk, _)| (key, chunk)));
            let of = |(key, chunk, _): (ContentKey, ChunkIndex, u32)| store.chunk(key, chunk).ok()?.len;
            part.bytes += spec.len.or(source.and_then(of)).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use libp2p::PeerId;
    use tokio::sync::mpsc;

    use super::*;
    use crate::content::profile::Profile;
    use crate::engine::Config;
    use crate::net::api::{Event, Link};
    use crate::node::driver::FetchCall;
    use crate::node::handle::compared;
    use crate::node::tests::wiring;
    use crate::node::world::join;
    use crate::store::{MemStore, MemTree, NewFetch};

    fn bytes(seed: u8, len: usize) -> MemTree {
        MemTree::File((0..len).map(|i| (i / 251) as u8 ^ (i as u8).wrapping_mul(seed)).collect())
    }

    fn dir<const N: usize>(entries: [(&str, MemTree); N]) -> MemTree {
        MemTree::Dir(entries.into_iter().map(|(name, what)| (name.to_owned(), what)).collect())
    }

    /// The root that a tree has.
    fn root_of(tree: &MemTree) -> Cid {
        let store = MemStore::new();
        store.put(Path::new("/x"), tree.clone());
        let key = store.import(Path::new("/x"), &Profile::V1_256K).unwrap();
        store.info(key).unwrap().root
    }

    fn sub() -> MemTree {
        dir([("long", bytes(3, 600_000)), ("short", bytes(5, 10)), ("none", dir([]))])
    }

    /// A store that holds `sub` within a folder whose other file has `sub`'s chunks out of order, and its key.
    fn host() -> (MemStore, ContentKey) {
        let store = MemStore::new();
        let tree = dir([("a first", bytes(5, 10)), ("sub", sub()), ("z last", bytes(7, 300_000))]);
        store.put(Path::new("/tree"), tree);
        let key = store.import(Path::new("/tree"), &Profile::V1_256K).unwrap();
        (store, key)
    }

    /// A driver that stands still, with a linked peer, and what is said to that.
    fn still(store: Arc<MemStore>) -> (Driver, PeerKey, mpsc::Receiver<Message>) {
        let (wiring, _ends) = wiring(&*store, Duration::ZERO);
        let (mut driver, _inputs) = Driver::new(store, Config::default(), 1, wiring).unwrap();
        let peer = PeerId::random();
        let ((control, said), (data, _)) = (mpsc::channel(64), mpsc::channel(64));
        driver.on_event(Event::LinkUp { peer, link: Link { id: 1, control, data } });
        let key = driver.peers.key(peer);
        (driver, key, said)
    }

    fn begin(driver: &mut Driver, store: &MemStore, root: Cid) -> ContentKey {
        let new = NewFetch { root, name: None, dest: "/copy".into(), force: false };
        let key = store.begin_fetch(&new).unwrap();
        let known = compared(store, key).unwrap();
        driver.begin_fetch(FetchCall {
            known,
            size_hint: None,
            peers: Vec::new(),
            hold: false,
            waiter: None,
        });
        driver.carry_out();
        key
    }

    /// It was told that we do not know the root, behind our own join: of two that fetched side by side each got
    /// everything from the seed.
    #[tokio::test]
    async fn who_joins_just_before_our_fetch_begins_is_in_the_swarm() {
        let (root, store) = (root_of(&sub()), Arc::new(MemStore::new()));
        let (mut driver, peer, mut said) = still(store.clone());
        driver.on_message(peer, join(root));
        let key = begin(&mut driver, &store, root);
        driver.part_found(root, None);
        driver.first_nodes_read(key, Vec::new());
        let said: Vec<Message> = std::iter::from_fn(|| said.try_recv().ok()).collect();
        assert!(said.iter().any(|m| matches!(m, Message::Joined { .. })), "{said:?}");
        assert!(!said.iter().any(|m| matches!(m, Message::Unknown { .. })), "{said:?}");
    }

    #[tokio::test]
    async fn a_fetch_takes_over_the_name_of_a_part() {
        let ((store, host), root) = (host(), root_of(&sub()));
        let store = Arc::new(store);
        let (mut driver, peer, mut said) = still(store.clone());
        let part = find(&*store, root, &BTreeSet::from([host]));
        driver.on_message(peer, join(root));
        driver.part_found(root, part);
        assert!(driver.contents.of_root(&root).is_some_and(|(_, c)| c.parts.is_some()));
        let key = begin(&mut driver, &store, root);
        assert_eq!(driver.contents.of_root(&root).map(|(k, _)| k), Some(key));
        let said: Vec<Message> = std::iter::from_fn(|| said.try_recv().ok()).collect();
        let last = said.iter().rposition(|m| matches!(m, Message::Join { .. }));
        let leaves = said.iter().position(|m| matches!(m, Message::Update(u) if u.leaving));
        assert!(leaves.is_some() && leaves < last, "{said:?}");
    }

    #[test]
    fn a_sub_folder_is_found_chunk_by_chunk_in_the_content_around_it() {
        let (store, key) = host();
        let part = find(&store, root_of(&sub()), &BTreeSet::from([key])).unwrap();
        // Three chunks of the long file, one of the short one, by the numbers of the part.
        assert_eq!((part.chunks.len(), part.bytes), (4, 600_010));
        let mut body = Vec::new();
        let MemTree::File(long) = bytes(3, 600_000) else { unreachable!() };
        for (i, want) in long.chunks(262_144).enumerate() {
            let (host, chunk) = part.chunks[i].unwrap();
            store.read_chunk(host, chunk, &mut body).unwrap();
            assert!(body == want, "chunk {i}");
        }
    }

    #[test]
    fn one_file_of_a_folder_is_a_part_too() {
        let (store, key) = host();
        let part = find(&store, root_of(&bytes(7, 300_000)), &BTreeSet::from([key])).unwrap();
        assert!(part.chunks.len() == 2 && part.chunks.iter().all(Option::is_some));
    }

    #[test]
    fn nothing_is_found_of_what_is_not_served_or_not_here() {
        let (store, key) = host();
        let root = root_of(&sub());
        assert!(find(&store, root, &BTreeSet::new()).is_none(), "the content around it is not served");
        let elsewhere = root_of(&dir([("long", bytes(9, 600_000))]));
        assert!(find(&store, elsewhere, &BTreeSet::from([key])).is_none());
    }

    #[test]
    fn chunks_that_are_lost_are_left_out_of_the_part() {
        let (store, key) = host();
        // The file changes: the store notices when it looks.
        let tree = dir([
            ("a first", bytes(5, 10)),
            ("sub", dir([("short", bytes(5, 10))])),
            ("z last", bytes(7, 300_000)),
        ]);
        store.put(Path::new("/tree"), tree);
        store.verify(key, &mut |_| {}).unwrap();
        let part = find(&store, root_of(&sub()), &BTreeSet::from([key])).unwrap();
        assert_eq!(part.chunks.iter().filter(|c| c.is_none()).count(), 3);
        assert!(part.chunks[3].is_some(), "the short file is in the folder once more");
    }
}
