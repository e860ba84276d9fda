//! The driver's side of each content: what the engine need not know.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::bitfield::Bitfield;
use crate::content::Cid;
use crate::content::manifest::Walker;
use crate::engine::event::NodeId;
use crate::store::ContentInfo;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey, Time};

use super::api::{Failure, Progress, Shared};
use super::arriving::Came;
use super::pex::Told;
use super::stuck::Reason;
use super::walk::Twin;

/// Inner nodes that are asked for and not here yet, per content.
const MAX_WANTED_NODES: usize = 4_096;
/// Sources remembered by name, per content.
const MAX_SOURCES: usize = 1_024;

/// Someone who waits for a fetch to end.
pub struct Waiter {
    pub progress: mpsc::Sender<Progress>,
    pub reply: oneshot::Sender<Result<Shared, Failure>>,
    pub timeout: Option<std::time::Duration>,
    pub seed: bool,
}

/// A fetch under way.
pub struct Fetch {
    /// `None` while a walk is under way elsewhere.
    pub walker: Option<Walker>,
    /// What the walks have found it to have in common with another content.
    pub twin: Option<Twin>,
    /// Nodes that came meanwhile, and from whom.
    pub arrived: Vec<(PeerKey, Cid, Bytes)>,
    /// A chunk whose number is not known here yet.
    pub early: Option<Came>,
    pub wanted: WantedNodes,
    pub manifest_done: bool,
    pub waiters: Vec<Waiter>,
    /// Those who read what it brings, and are told its end.
    pub readers: Vec<oneshot::Sender<Result<Shared, Failure>>>,
    /// When something last arrived.
    pub last_progress: Time,
    /// How often the network was asked for providers.
    pub queries: u32,
    /// A provider query is under way.
    pub searching: bool,
    /// Those whom a link, a flag or a look-up named as sources.
    pub sources: BTreeSet<PeerKey>,
    pub total_hint: Option<u64>,
    /// The final steps are under way.
    pub finishing: bool,
    /// Only what is asked for later is fetched (`cat`, `ls`): chunks come with priority 0.
    pub hold: bool,
    /// What was asked for of it last, in the order of need: some of it may not be known yet.
    pub streamed: Vec<ChunkRange>,
}

impl Fetch {
    /// Takes note of a source. A liar that names thousands is cut short.
    pub fn named(&mut self, peer: PeerKey) {
        if self.sources.len() < MAX_SOURCES {
            self.sources.insert(peer);
        }
    }
}

/// Numbers for the inner nodes that are missing, as the engine speaks of them.
#[derive(Default)]
pub struct WantedNodes {
    by_id: BTreeMap<NodeId, Cid>,
    by_cid: HashMap<Cid, NodeId>,
    next: u32,
}

impl WantedNodes {
    /// Takes note of missing nodes; returns the numbers of those that are new.
    pub fn add(&mut self, cids: impl IntoIterator<Item = Cid>) -> Vec<NodeId> {
        let mut new = Vec::new();
        for cid in cids {
            if self.by_cid.contains_key(&cid) || self.by_id.len() >= MAX_WANTED_NODES {
                continue;
            }
            let id = NodeId(self.next);
            self.next += 1;
            self.by_id.insert(id, cid);
            self.by_cid.insert(cid, id);
            new.push(id);
        }
        new
    }

    pub fn cid(&self, id: NodeId) -> Option<Cid> {
        self.by_id.get(&id).copied()
    }

    pub fn id(&self, cid: &Cid) -> Option<NodeId> {
        self.by_cid.get(cid).copied()
    }

    /// It came: wanted no more.
    pub fn take(&mut self, cid: &Cid) -> Option<NodeId> {
        let id = self.by_cid.remove(cid)?;
        self.by_id.remove(&id);
        Some(id)
    }
}

/// Why a fetch that nobody waits for does not go on: for people, and for programs.
#[derive(Clone, Debug)]
pub struct Stopped {
    pub why: String,
    pub reason: Reason,
}

impl Stopped {
    pub fn failed(why: impl ToString) -> Stopped {
        Stopped { why: why.to_string(), reason: Reason::Failed }
    }
}

pub struct Content {
    pub root: Cid,
    pub name: Option<String>,
    pub have: Bitfield,
    pub chunks: u32,
    pub complete: bool,
    /// Serve it to whoever asks.
    pub seeding: bool,
    /// Its root is paused.
    pub paused: bool,
    /// The engine knows of it.
    pub active: bool,
    /// Bytes of files that are held.
    pub held_bytes: u64,
    pub fetch: Option<Fetch>,
    /// The fetch has ended, or was not begun.
    pub stopped: Option<Stopped>,
    /// What newcomers are given with the first answer, once made.
    pub first_nodes: Option<Arc<Vec<(Cid, Bytes)>>>,
    /// It is a part of other contents: where each of its chunks is.
    pub parts: Option<Arc<Parts>>,
    pub provided: bool,
    /// What the DHT was told of beside the root.
    pub blocks: Option<Arc<[crate::content::Hash]>>,
    /// Who is in its swarm, as far as told.
    pub members: BTreeSet<PeerKey>,
    /// What each of them has been told of the others.
    pub(super) told: BTreeMap<PeerKey, Told>,
    /// Bytes of chunks taken and given since the start.
    pub down: Counter,
    pub up: Counter,
    /// Those who wait for a chunk to be held (streaming).
    pub watchers: Vec<(ChunkIndex, oneshot::Sender<()>)>,
}

impl Content {
    pub fn of(info: &ContentInfo, have: Bitfield) -> Content {
        Content {
            root: info.root,
            name: info.name.clone(),
            have,
            chunks: info.chunks,
            complete: info.complete,
            seeding: info.seeding,
            paused: false,
            active: false,
            held_bytes: info.held_bytes,
            fetch: None,
            stopped: None,
            first_nodes: None,
            parts: None,
            provided: false,
            blocks: None,
            members: BTreeSet::new(),
            told: BTreeMap::new(),
            down: Counter::default(),
            up: Counter::default(),
            watchers: Vec::new(),
        }
    }
}

impl Content {
    /// Whoever asks for it is served.
    pub fn serves(&self) -> bool {
        self.seeding && !self.paused
    }

    /// A peer is in its swarm no more.
    pub fn left(&mut self, peer: PeerKey) {
        self.members.remove(&peer);
        self.told.remove(&peer);
    }

    /// Nobody is.
    pub fn all_left(&mut self) {
        self.members.clear();
        self.told.clear();
    }
}

/// Where the chunks of a part of a content are, by their numbers in the part.
pub type Parts = [Option<(ContentKey, ChunkIndex)>];

/// Contents by key and by root. Two may have one root (fetched to two places): the root names the one
/// that serves.
#[derive(Default)]
pub struct Contents {
    by_key: BTreeMap<ContentKey, Content>,
    by_root: HashMap<Cid, ContentKey>,
}

impl Contents {
    pub fn insert(&mut self, key: ContentKey, content: Content) {
        let better = self.of_root(&content.root).is_none_or(|(_, old)| !old.complete || content.complete);
        if better {
            self.by_root.insert(content.root, key);
        }
        self.by_key.insert(key, content);
    }

    pub fn remove(&mut self, key: ContentKey) -> Option<Content> {
        let content = self.by_key.remove(&key)?;
        if self.by_root.get(&content.root) == Some(&key) {
            self.by_root.remove(&content.root);
            let other = self.by_key.iter().find(|(_, c)| c.root == content.root).map(|(&k, _)| k);
            if let Some(other) = other {
                self.by_root.insert(content.root, other);
            }
        }
        Some(content)
    }

    pub fn get(&self, key: ContentKey) -> Option<&Content> {
        self.by_key.get(&key)
    }

    pub fn get_mut(&mut self, key: ContentKey) -> Option<&mut Content> {
        self.by_key.get_mut(&key)
    }

    pub fn of_root(&self, root: &Cid) -> Option<(ContentKey, &Content)> {
        let key = *self.by_root.get(root)?;
        self.by_key.get(&key).map(|c| (key, c))
    }

    pub fn iter(&self) -> impl Iterator<Item = (ContentKey, &Content)> {
        self.by_key.iter().map(|(&k, c)| (k, c))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ContentKey, &mut Content)> {
        self.by_key.iter_mut().map(|(&k, c)| (k, c))
    }
}

/// A running total and its rate over the last few seconds, for people to look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    pub total: u64,
    rate: f64,
    last: Option<(Time, u64)>,
}

impl Counter {
    /// Called at a steady pace; the weight of the past halves every second.
    pub fn tick(&mut self, now: Time) {
        let Some((then, before)) = self.last.replace((now, self.total)) else { return };
        let dt = now.since(then).as_secs_f64();
        if dt > 0.0 {
            let rate = self.total.saturating_sub(before) as f64 / dt;
            let keep = 0.5_f64.powf(dt);
            self.rate = if self.rate == 0.0 { rate } else { self.rate * keep + rate * (1.0 - keep) };
        }
    }

    /// Bytes a second.
    pub fn rate(&self) -> f64 {
        self.rate
    }
}
