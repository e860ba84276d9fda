//! What can be seen of the engine from outside: for `status`, metrics and tests. Nothing here changes it.

use std::time::Duration;

use super::Engine;
use super::event::PeerKind;
use super::ledger::Account;
use crate::units::{ContentKey, PeerKey, Time};

/// One content, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentView {
    /// Chunks that are known and held; no more than these exist if `manifest_complete`.
    pub chunks: u32,
    pub held: u32,
    pub manifest_complete: bool,
    /// Chunks that are wanted and not held.
    pub wanted_missing: u32,
    /// Chunks that are asked for, and chunks with the store.
    pub in_flight: u32,
    pub storing: u32,
    /// Chunks that could be asked for now; none in the endgame.
    pub open: u32,
    pub peers: u32,
    /// Of these, peers that have everything.
    pub seeds: u32,
    pub paused: bool,
    pub complete: bool,
    /// Bytes a second.
    pub down_rate: u64,
    pub up_rate: u64,
}

/// One connected peer, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    pub kind: PeerKind,
    pub rtt: Option<Duration>,
    pub connected_at: Time,
    /// Bytes a second.
    pub down_rate: u64,
    pub up_rate: u64,
    /// It does not answer our requests; we do not answer its.
    pub choking_us: bool,
    pub choked: bool,
    /// It took our requests and sent nothing for a minute.
    pub snubbed: bool,
    /// It wants something of ours.
    pub interested: bool,
    /// Its slot is the optimistic one.
    pub optimistic: bool,
    /// Our requests at it, its requests here, and its chunks on the way.
    pub in_flight: u32,
    pub queued: u32,
    pub sending: u32,
    pub contents: Vec<ContentKey>,
    /// Faults it may still make; a banned peer is not connected.
    pub trust: u8,
    /// Bytes in all, over all connections.
    pub given: u64,
    pub taken: u64,
}

/// The whole node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Bytes a second.
    pub down_rate: u64,
    pub up_rate: u64,
    /// Upload slots there are, and those that are held.
    pub slots: u32,
    pub slots_held: u32,
    pub peers: u32,
    /// Bytes of chunks that came although they were here already.
    pub late_bytes: u64,
    pub up_limit: Option<u64>,
    pub down_limit: Option<u64>,
}

/// What the swarm of a content could give us: for telling why nothing comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Peers that have chunks that we miss.
    pub having: u32,
    /// Of these, peers that do not choke us.
    pub open: u32,
    /// Of these, peers that were asked for some and have not answered.
    pub asked: u32,
    /// A download limit lets nothing more be asked for now.
    pub limited: bool,
    /// Chunks that came and are with the store.
    pub storing: u32,
}

impl Engine {
    pub fn supply(&self, now: Time, key: ContentKey) -> Option<Supply> {
        let now = self.inner(now);
        let c = self.contents.get(&key)?;
        let limited = self.limits_down.clone().wait(now).is_some() || c.down.clone().wait(now).is_some();
        let mut supply = Supply { limited, storing: c.picker.arrived(), ..Supply::default() };
        for (peer, _) in c.swarm.iter().filter(|(_, n)| n.offers(&c.picker)) {
            let Some(p) = self.peers.get(peer) else { continue };
            let asked = p.pipeline.asks.iter().any(|a| a.content == key && !a.cancelled);
            supply.having += 1;
            supply.open += u32::from(!p.choking_us);
            supply.asked += u32::from(!p.choking_us && asked);
        }
        Some(supply)
    }

    pub fn node(&self, now: Time) -> NodeView {
        let now = self.inner(now);
        NodeView {
            down_rate: self.down_rate.per_second(now),
            up_rate: self.up_rate.per_second(now),
            slots: self.slots(),
            slots_held: self.choker.held,
            peers: self.peers.len() as u32,
            late_bytes: self.late_bytes,
            up_limit: self.limits_up.rate(),
            down_limit: self.limits_down.rate(),
        }
    }

    pub fn content(&self, now: Time, key: ContentKey) -> Option<ContentView> {
        let now = self.inner(now);
        self.contents.get(&key).map(|c| ContentView {
            chunks: c.picker.len(),
            held: c.picker.held().len(),
            manifest_complete: c.whole,
            wanted_missing: c.picker.missing(),
            in_flight: c.picker.asked(),
            storing: c.picker.arrived(),
            open: c.picker.open(),
            peers: c.swarm.len() as u32,
            seeds: c.picker.seeds(),
            paused: c.paused,
            complete: c.complete(),
            down_rate: c.down_rate.per_second(now),
            up_rate: c.up_rate.per_second(now),
        })
    }

    pub fn peer(&self, now: Time, key: PeerKey) -> Option<PeerView> {
        let now = self.inner(now);
        let account = self.ledger.get(key).cloned().unwrap_or_default();
        self.peers.get(&key).map(|p| PeerView {
            kind: p.kind,
            rtt: p.rtt,
            connected_at: p.connected_at,
            down_rate: p.down_rate.per_second(now),
            up_rate: p.up_rate.per_second(now),
            choking_us: p.choking_us,
            choked: p.choked,
            snubbed: p.pipeline.snubbed,
            interested: p.interests > 0,
            optimistic: self.choker.optimistic == Some(key),
            in_flight: p.pipeline.asks.iter().filter(|a| !a.cancelled).count() as u32,
            queued: p.queue.len() as u32,
            sending: p.sending_count,
            contents: p.contents.clone(),
            trust: self.ledger.trust(key),
            given: account.given,
            taken: account.taken,
        })
    }

    /// The contents there are, in the order of their keys.
    pub fn contents(&self) -> impl Iterator<Item = ContentKey> + '_ {
        self.contents.keys().copied()
    }

    /// The connected peers, in the order of their keys.
    pub fn peers(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.peers.keys().copied()
    }

    /// The peers in the swarm of a content.
    pub fn neighbours(&self, key: ContentKey) -> impl Iterator<Item = PeerKey> + '_ {
        self.contents.get(&key).into_iter().flat_map(|c| c.swarm.keys().copied())
    }

    /// How many neighbours of a content have each of its chunks, in their order (for pictures).
    pub fn availability(&self, key: ContentKey) -> Vec<u32> {
        self.contents
            .get(&key)
            .map_or(Vec::new(), |c| (0..c.picker.len()).map(|i| c.picker.copies(i)).collect())
    }

    /// Whether we answer this peer's requests; what `Joined` says of choke.
    pub fn is_choking(&self, key: PeerKey) -> bool {
        self.peers.get(&key).is_none_or(|p| p.choked)
    }

    pub fn is_banned(&self, key: PeerKey) -> bool {
        self.ledger.is_banned(key)
    }

    /// What is remembered of one peer.
    pub fn account(&self, key: PeerKey) -> Option<&Account> {
        self.ledger.get(key)
    }

    /// What is remembered of peers, to be kept across restarts.
    pub fn ledger(&self) -> impl Iterator<Item = (PeerKey, &Account)> {
        self.ledger.iter()
    }
}
