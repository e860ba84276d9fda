//! Limits that are changed while the node runs: of everything, of a content, of a peer.
//!
//! `config.toml` says what holds until something else is said. What is set by [`NodeHandle::set_limits`] stands over
//! it, is kept in the store (so that the settings file stays the user's own), and holds until it is set back.
//! The engine's token buckets keep to it; here is what they are told, and when.

use std::collections::BTreeMap;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use crate::content::Cid;
use crate::engine::Slots as EngineSlots;
use crate::engine::event::ContentEvent;
use crate::store::{ContentInfo, FsStore, Store};
use crate::units::{ContentKey, PeerKey};

use super::api::{self, Failure};
use super::config::{Change, NodeConfig, Rate, Slots};
use super::driver::{Call, Driver};
use super::handle::{NodeHandle, blocking, failed};

/// The store's notes of limits: `node`, `content/CID`, `peer/ID`.
const KIND: &str = "limits";
/// Contents, and peers, that may have limits of their own.
const MAX_LIMITED: usize = 1_024;

/// Bytes a second; `None`: no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub up: Option<u64>,
    pub down: Option<u64>,
}

/// What was set over the settings file; `None`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Over {
    up: Option<Rate>,
    down: Option<Rate>,
    slots: Option<Slots>,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Node,
    Content(Cid),
    Peer(PeerId),
}

/// Everything that is limited.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    file: (Rate, Rate, Slots),
    over: Over,
    contents: BTreeMap<Cid, Pair>,
    peers: BTreeMap<PeerId, Pair>,
}

type Note = (Vec<u8>, Option<Vec<u8>>);

impl Limits {
    /// What the settings say, and over it what was kept. A note that cannot be read is told of and left out.
    pub fn load(store: &dyn Store, cfg: &NodeConfig) -> Result<Limits, Failure> {
        let file = (Rate(cfg.upload), Rate(cfg.download), Slots(cfg.slots));
        let mut limits = Limits { file, ..Limits::default() };
        for (key, text) in store.notes(KIND).map_err(failed)? {
            if limits.take(&key, &text).is_none() {
                tracing::warn!("a limit that was set cannot be read: {}", key.escape_ascii());
            }
        }
        Ok(limits)
    }

    fn take(&mut self, key: &[u8], text: &[u8]) -> Option<()> {
        let key = std::str::from_utf8(key).ok()?;
        if key == "node" {
            self.over = serde_json::from_slice(text).ok()?;
        } else if let Some(cid) = key.strip_prefix("content/") {
            self.contents.insert(cid.parse().ok()?, serde_json::from_slice(text).ok()?);
        } else {
            let peer = key.strip_prefix("peer/")?.parse().ok()?;
            self.peers.insert(peer, serde_json::from_slice(text).ok()?);
        }
        Some(())
    }

    pub fn up(&self) -> Option<u64> {
        self.over.up.unwrap_or(self.file.0).0
    }

    pub fn down(&self) -> Option<u64> {
        self.over.down.unwrap_or(self.file.1).0
    }

    pub fn slots(&self) -> Slots {
        self.over.slots.unwrap_or(self.file.2)
    }

    pub fn engine_slots(&self) -> EngineSlots {
        let fixed = |n| EngineSlots::Fixed(u16::try_from(n).unwrap_or(u16::MAX));
        self.slots().0.map_or(EngineSlots::Auto, fixed)
    }

    pub fn content(&self, root: &Cid) -> Pair {
        self.contents.get(root).copied().unwrap_or_default()
    }

    pub fn peer(&self, peer: &PeerId) -> Pair {
        self.peers.get(peer).copied().unwrap_or_default()
    }

    /// Enters a change; returns what is to be kept of it.
    fn change(&mut self, of: Of, req: &api::LimitsRequest) -> Result<Note, Failure> {
        let (key, text) = match of {
            Of::Node => {
                set(&mut self.over.up, req.up);
                set(&mut self.over.down, req.down);
                set(&mut self.over.slots, req.slots);
                ("node".to_owned(), (self.over != Over::default()).then(|| serde_json::to_vec(&self.over)))
            }
            Of::Content(cid) => {
                let pair = pair(&mut self.contents, cid, req)?;
                (format!("content/{cid}"), pair.map(|p| serde_json::to_vec(&p)))
            }
            Of::Peer(peer) => {
                let pair = pair(&mut self.peers, peer, req)?;
                (format!("peer/{peer}"), pair.map(|p| serde_json::to_vec(&p)))
            }
        };
        Ok((key.into_bytes(), text.transpose().map_err(failed)?))
    }

    fn shown(&self, infos: &[ContentInfo]) -> api::Limits {
        let named = [("up", self.over.up.is_some()), ("down", self.over.down.is_some())];
        let named = named.into_iter().chain([("slots", self.over.slots.is_some())]);
        api::Limits {
            up: self.up(),
            down: self.down(),
            slots: self.slots().0,
            set: named.filter(|(_, set)| *set).map(|(name, _)| name.to_owned()).collect(),
            contents: (self.contents.iter())
                .map(|(cid, p)| api::ContentLimits {
                    cid: cid.to_string(),
                    name: infos.iter().find(|i| i.root == *cid).and_then(|i| i.name.clone()),
                    up: p.up,
                    down: p.down,
                })
                .collect(),
            peers: (self.peers.iter())
                .map(|(peer, p)| api::PeerLimits { peer: peer.to_string(), up: p.up, down: p.down })
                .collect(),
        }
    }
}

fn set<T: Copy>(field: &mut Option<T>, change: Option<Change<T>>) {
    match change {
        None => {}
        Some(Change::Default) => *field = None,
        Some(Change::To(value)) => *field = Some(value),
    }
}

/// Enters a change of a content's or a peer's limits; one that limits nothing is forgotten.
fn pair<K: Ord + Copy>(
    of: &mut BTreeMap<K, Pair>,
    key: K,
    req: &api::LimitsRequest,
) -> Result<Option<Pair>, Failure> {
    let mut p = of.get(&key).copied().unwrap_or_default();
    for (field, change) in [(&mut p.up, req.up), (&mut p.down, req.down)] {
        match change {
            None => {}
            Some(Change::Default) => *field = None,
            Some(Change::To(rate)) => *field = rate.0,
        }
    }
    if p == Pair::default() {
        of.remove(&key);
        return Ok(None);
    }
    if of.len() >= MAX_LIMITED && !of.contains_key(&key) {
        let text = format!("{MAX_LIMITED} have limits of their own already; set one back to default first");
        return Err(Failure::failed(text));
    }
    of.insert(key, p);
    Ok(Some(p))
}

impl NodeHandle {
    /// The limits in force.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn limits(&self) -> Result<api::Limits, Failure> {
        let infos = self.infos().await?;
        Ok(self.inner.limits.lock().await.shown(&infos))
    }

    /// Changes limits, at once and for good.
    ///
    /// # Errors
    /// `usage` for a request that contradicts itself; a content that is not ours; if it cannot be kept.
    pub async fn set_limits(&self, req: api::LimitsRequest) -> Result<api::Limits, Failure> {
        let of = match (&req.content, &req.peer) {
            (Some(_), Some(_)) => {
                return Err(Failure::usage("a limit is of a content or of a peer; set them one by one"));
            }
            (Some(_), None) | (None, Some(_)) if req.slots.is_some() => {
                return Err(Failure::usage("slots are the node's; leave the content or the peer out"));
            }
            (Some(what), None) => Of::Content(self.find(what).await?.root),
            (None, Some(peer)) => Of::Peer(parse_peer(peer)?),
            (None, None) => Of::Node,
        };
        let mut limits = self.inner.limits.lock().await;
        let mut new = limits.clone();
        let note = new.change(of, &req)?;
        keep(self.inner.store.clone(), note).await?;
        *limits = new.clone();
        if self.inner.running.is_some() {
            self.call(Call::Limits(Box::new(new))).await?;
        }
        drop(limits);
        self.limits().await
    }

    /// A content is gone: so is its limit.
    pub(super) async fn unlimit(&self, root: &Cid) -> Result<(), Failure> {
        let mut limits = self.inner.limits.lock().await;
        if limits.contents.remove(root).is_none() {
            return Ok(());
        }
        keep(self.inner.store.clone(), (format!("content/{root}").into_bytes(), None)).await
    }
}

async fn keep(store: std::sync::Arc<FsStore>, note: Note) -> Result<(), Failure> {
    blocking(move || store.note(KIND, &[note]).map_err(failed)).await
}

/// # Errors
/// `usage`, with what a peer ID looks like.
pub(super) fn parse_peer(text: &str) -> Result<PeerId, Failure> {
    // A whole address will do: what it ends in counts.
    let id = text.rsplit('/').next().unwrap_or(text);
    id.parse().map_err(|_| {
        Failure::usage(format!("{} is no peer ID; one looks like 12D3KooW...", text.escape_debug()))
    })
}

impl Driver {
    /// Limits were changed.
    pub(super) fn on_limits(&mut self, limits: Limits) {
        let now = self.clock.now();
        self.engine.set_limits(now, limits.up(), limits.down());
        if limits.slots() != self.limits.slots() {
            self.engine.set_slots(now, limits.engine_slots());
        }
        self.limits = limits;
        let contents: Vec<_> = self.contents.iter().filter(|(_, c)| c.active).map(|(k, _)| k).collect();
        contents.into_iter().for_each(|key| self.limit_content(key));
        let linked: Vec<_> =
            self.peers.iter().filter(|(_, _, p)| p.link.is_some()).map(|(k, _, _)| k).collect();
        let by_bitswap: Vec<PeerKey> = self.bitswap.peers().collect();
        linked.into_iter().chain(by_bitswap).for_each(|key| self.limit_peer(key));
    }

    /// Tells the engine of a content's limits.
    pub(super) fn limit_content(&mut self, key: ContentKey) {
        let now = self.clock.now();
        let Some(content) = self.contents.get(key) else { return };
        let Pair { up, down } = self.limits.content(&content.root);
        self.engine.handle_content(now, key, ContentEvent::Limits { up, down });
    }

    /// Tells the engine of a linked peer's limits.
    pub(super) fn limit_peer(&mut self, key: PeerKey) {
        let now = self.clock.now();
        let Some(id) = self.peers.id(key) else { return };
        let Pair { up, down } = self.limits.peer(&id);
        self.engine.set_peer_limits(now, key, up, down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemStore;

    fn request(up: Option<&str>, down: Option<&str>, slots: Option<&str>) -> api::LimitsRequest {
        api::LimitsRequest {
            up: up.map(|t| t.parse().unwrap()),
            down: down.map(|t| t.parse().unwrap()),
            slots: slots.map(|t| t.parse().unwrap()),
            ..api::LimitsRequest::default()
        }
    }

    fn config() -> NodeConfig {
        NodeConfig { upload: Some(7), slots: Some(3), ..NodeConfig::default() }
    }

    #[test]
    fn what_is_set_stands_over_the_file_until_it_is_set_back() {
        let store = MemStore::new();
        let cid: Cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap();
        let peer = PeerId::random();
        let mut l = Limits::load(&store, &config()).unwrap();
        assert_eq!((l.up(), l.down(), l.slots()), (Some(7), None, Slots(Some(3))));
        let notes = [
            l.change(Of::Node, &request(Some("unlimited"), Some("2M"), None)).unwrap(),
            l.change(Of::Node, &request(None, None, Some("auto"))).unwrap(),
            l.change(Of::Content(cid), &request(None, Some("5k"), None)).unwrap(),
            l.change(Of::Peer(peer), &request(Some("1Ki"), None, None)).unwrap(),
        ];
        store.note(KIND, &notes).unwrap();

        let mut l = Limits::load(&store, &config()).unwrap();
        assert_eq!((l.up(), l.down(), l.slots()), (None, Some(2_000_000), Slots(None)));
        assert_eq!(l.content(&cid), Pair { up: None, down: Some(5_000) });
        assert_eq!(l.peer(&peer), Pair { up: Some(1_024), down: None });
        assert_eq!(l.shown(&[]).set, ["up", "down", "slots"]);

        let back = request(Some("default"), Some("default"), Some("default"));
        let gone = [
            l.change(Of::Node, &back).unwrap(),
            l.change(Of::Content(cid), &request(None, Some("unlimited"), None)).unwrap(),
            l.change(Of::Peer(peer), &request(Some("default"), None, None)).unwrap(),
        ];
        assert!(gone.iter().all(|(_, text)| text.is_none()), "{gone:?}");
        store.note(KIND, &gone).unwrap();
        assert!(store.notes(KIND).unwrap().is_empty());
        assert_eq!(l.up(), Some(7));
    }

    #[test]
    fn the_number_of_limits_is_bounded() {
        let mut l = Limits::default();
        for _ in 0..MAX_LIMITED {
            l.change(Of::Peer(PeerId::random()), &request(Some("1k"), None, None)).unwrap();
        }
        let error = l.change(Of::Peer(PeerId::random()), &request(Some("1k"), None, None)).unwrap_err();
        assert!(error.message.contains("default"), "{error}");
        assert_eq!(l.peers.len(), MAX_LIMITED);
    }

    #[test]
    fn a_note_that_cannot_be_read_is_left_out() {
        let store = MemStore::new();
        let note = |key: &str, text: &str| (key.as_bytes().to_vec(), Some(text.as_bytes().to_vec()));
        store
            .note(KIND, &[note("node", "{"), note("peer/x", "{}"), note("content/x", "{}"), note("y", "")])
            .unwrap();
        let l = Limits::load(&store, &config()).unwrap();
        assert_eq!((l.up(), l.peers.len(), l.contents.len()), (Some(7), 0, 0));
    }
}
