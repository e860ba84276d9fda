//! Who is in which swarm and has what: peers and neighbours come, tell, and go.

use super::Engine;
use super::counts::Counts;
use super::event::{Action, Fault, PeerKind, Refusal};
use super::state::{Neighbour, Peer};
use crate::bitfield::Bitfield;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey};

/// While the manifest is not whole: how far beyond the known chunks a peer's haves are believed.
const BEYOND: u32 = 1 << 20;
/// Chunks that somebody lost, counted one by one; more means counting afresh.
const FEW: u32 = 256;

impl Engine {
    pub(super) fn on_connected(&mut self, peer: PeerKey, kind: PeerKind, rtt: Option<std::time::Duration>) {
        if self.peers.contains_key(&peer) {
            self.on_disconnected(peer);
        }
        if self.ledger.is_banned(peer) {
            self.actions.push_back(Action::Ban { peer, fault: Fault::BadBytes });
            return;
        }
        if self.peers.len() >= self.cfg.max_peers {
            return;
        }
        if self.peers.is_empty() {
            self.choker.judge_at = self.now + self.cfg.choke_interval;
        }
        self.peers.insert(peer, Peer::new(self.now, kind, rtt, &self.cfg));
        let keys: Vec<ContentKey> =
            self.contents.iter().filter(|(_, c)| c.wants()).map(|(k, _)| *k).collect();
        for key in keys {
            self.join(peer, key);
        }
    }

    /// Tells a peer that we are in the swarm of a content, if there is room in it.
    pub(super) fn join(&mut self, peer: PeerKey, key: ContentKey) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let full = content.swarm.len() + content.joining.len() >= self.cfg.max_neighbours;
        if full || content.paused || content.swarm.contains_key(&peer) || content.joining.contains_key(&peer)
        {
            return;
        }
        content.joining.insert(peer, content.log.end());
        let any = self.asks_any(peer, key);
        self.actions.push_back(Action::Join { peer, content: key, any });
    }

    pub(super) fn on_disconnected(&mut self, peer: PeerKey) {
        let Some(p) = self.peers.get(&peer) else { return };
        let contents = p.contents.clone();
        self.drop_asks(peer);
        self.drop_sends(peer);
        for key in contents {
            self.drop_neighbour(peer, key);
        }
        self.drop_slot(peer);
        for content in self.contents.values_mut() {
            content.joining.remove(&peer);
            content.first.take_if(|f| f.peer == peer);
        }
        self.peers.remove(&peer);
    }

    /// The peer is in this swarm no more: what it had does not count.
    pub(super) fn drop_neighbour(&mut self, peer: PeerKey, key: ContentKey) {
        self.forget_promise(peer, key);
        let Some(content) = self.contents.get_mut(&key) else { return };
        content.joining.remove(&peer);
        let Some(n) = content.swarm.remove(&peer) else { return };
        if n.complete {
            content.picker.set_seeds(content.picker.seeds().saturating_sub(1));
        } else {
            n.have.iter().for_each(|c| content.picker.unseen(c.get()));
        }
        content.nodes.give_up(peer);
        let (alone, nodes) = (content.swarm.is_empty() && content.wants(), content.nodes.busy());
        if let Some(p) = self.peers.get_mut(&peer) {
            p.contents.retain(|k| *k != key);
        }
        if n.interested {
            self.count_interest(peer, false);
        }
        if alone {
            self.look_soon(key);
        }
        if nodes {
            self.ask_nodes(key);
        }
    }

    pub(super) fn on_left(&mut self, peer: PeerKey, key: ContentKey) {
        self.cancel_quietly(peer, key);
        self.refuse_queued(peer, Refusal::Cancelled, |q| q.content == key);
        self.drop_neighbour(peer, key);
    }

    /// Requests to a peer that has left are as good as cancelled; it need not be told.
    fn cancel_quietly(&mut self, peer: PeerKey, key: ContentKey) {
        let before = self.actions.len();
        self.cancel_all(peer, Some(key));
        self.actions.truncate(before);
    }

    pub(super) fn on_joined(&mut self, peer: PeerKey, key: ContentKey, have: Bitfield, complete: bool) {
        let (Some(content), Some(p)) = (self.contents.get_mut(&key), self.peers.get_mut(&peer)) else {
            return;
        };
        let cursor = content.joining.remove(&peer);
        let known = content.swarm.contains_key(&peer);
        if content.paused || (!known && content.swarm.len() >= self.cfg.max_neighbours) {
            self.actions.push_back(Action::Leave { peer, content: key });
            return;
        }
        let log_at = cursor.unwrap_or(content.log.end());
        let fresh = Neighbour {
            have: Bitfield::new(),
            complete: false,
            counts: Counts::none(),
            told: None,
            interested: false,
            log_at,
            shelf: super::picker::Shelf::None,
        };
        // One that joins again knows nothing of what it was told.
        content.swarm.entry(peer).or_insert(fresh).told = None;
        if !known {
            p.contents.push(key);
        }
        if content.pex.begin(self.now) {
            self.due = self.due.min(content.pex.ask_at);
        }
        let missed = log_at < content.log.end() && content.log.flush_at == crate::units::Time::MAX;
        if missed {
            content.log.flush_at = self.now;
            self.due = self.due.min(self.now);
        }
        self.set_have(peer, key, have, complete);
        self.fickle.push((key, peer));
        self.ask_nodes(key);
        self.list(peer);
    }

    /// Replaces what a neighbour has.
    fn set_have(&mut self, peer: PeerKey, key: ContentKey, mut have: Bitfield, complete: bool) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let limit =
            if content.whole { content.picker.len() } else { content.picker.len().saturating_add(BEYOND) };
        if let Some(r) = ChunkRange::new(limit, crate::units::MAX_CHUNKS) {
            have.remove_range(r);
        }
        let full = complete || (content.whole && have.len() == content.picker.len());
        let plain = content.plain();
        let Some(n) = content.swarm.get_mut(&peer) else { return };
        if n.complete {
            content.picker.set_seeds(content.picker.seeds().saturating_sub(1));
        } else {
            n.have.iter().for_each(|c| content.picker.unseen(c.get()));
        }
        n.complete = full;
        if full {
            n.have = Bitfield::new();
            content.picker.set_seeds(content.picker.seeds() + 1);
        } else {
            have.iter().for_each(|c| content.picker.seen(c.get()));
            n.have = have;
        }
        n.recount(&content.picker, plain);
    }

    pub(super) fn on_have(&mut self, peer: PeerKey, key: ContentKey, ranges: &[ChunkRange]) {
        let (Some(content), Some(p)) = (self.contents.get_mut(&key), self.peers.get_mut(&peer)) else {
            return;
        };
        let Some(n) = content.swarm.get_mut(&peer) else { return };
        if n.complete {
            p.noise += 1;
            return;
        }
        let limit =
            if content.whole { content.picker.len() } else { content.picker.len().saturating_add(BEYOND) };
        let mut beyond = false;
        let before = (n.have.len(), n.counts.offers());
        for r in ranges {
            beyond |= r.end() > limit;
            for c in r.start()..r.end().min(limit) {
                let Some(i) = ChunkIndex::new(c).filter(|i| n.have.insert(*i)) else { continue };
                content.picker.seen(c);
                if content.picker.is_missing(c) {
                    n.counts.got_missing();
                    if content.picker.is_open(c) {
                        n.shelf.add(c);
                    }
                } else if content.picker.held().contains(i) {
                    n.counts.got_held();
                }
            }
        }
        p.noise += u32::from(n.have.len() == before.0);
        if before.1 == 0 && n.counts.offers() > 0 {
            self.fickle.push((key, peer));
        }
        let all = content.whole && n.have.len() == content.picker.len();
        if all {
            self.on_complete(peer, key);
        }
        self.list(peer);
        if beyond && self.contents.get(&key).is_some_and(|c| c.whole) {
            self.fault(peer, Fault::Malformed);
        }
    }

    pub(super) fn on_complete(&mut self, peer: PeerKey, key: ContentKey) {
        let (Some(content), Some(p)) = (self.contents.get(&key), self.peers.get_mut(&peer)) else { return };
        match content.swarm.get(&peer) {
            Some(n) if !n.complete => {}
            _ => {
                p.noise += 1;
                return;
            }
        }
        self.set_have(peer, key, Bitfield::new(), true);
        self.fickle.push((key, peer));
        self.list(peer);
    }

    pub(super) fn on_lost(&mut self, peer: PeerKey, key: ContentKey, ranges: &[ChunkRange]) {
        let (Some(content), Some(p)) = (self.contents.get_mut(&key), self.peers.get_mut(&peer)) else {
            return;
        };
        let plain = content.plain();
        let Some(n) = content.swarm.get_mut(&peer) else { return };
        p.noise += 1;
        let many: u32 = ranges.iter().map(|r| r.len().min(FEW)).fold(0, |a, b| a.saturating_add(b));
        if n.complete || many >= FEW {
            // Costly, so it is counted as noise: as much as it costs.
            p.noise += 1 + content.picker.len() / 1_000;
            let mut have = if n.complete { Bitfield::full(content.picker.len()) } else { n.have.clone() };
            ranges.iter().for_each(|r| have.remove_range(*r));
            self.set_have(peer, key, have, false);
        } else {
            for c in ranges.iter().flat_map(|r| r.iter()).filter(|c| n.have.remove(*c)) {
                content.picker.unseen(c.get());
                n.counts.lost(content.picker.is_missing(c.get()), content.picker.held().contains(c));
            }
            n.counts.settle(&n.have, &content.picker, plain);
            n.shelf = super::picker::Shelf::None;
        }
        self.fickle.push((key, peer));
        self.list(peer);
    }

    /// It was asked for this chunk and no longer has it.
    pub(super) fn lost_by(&mut self, peer: PeerKey, key: ContentKey, c: u32) {
        let range = ChunkIndex::new(c).map(ChunkRange::one);
        let has = |n: &Neighbour| n.has(c);
        if self.contents.get(&key).and_then(|k| k.swarm.get(&peer)).is_some_and(has) {
            self.on_lost(peer, key, range.as_slice());
        }
    }

    pub(super) fn on_interested(&mut self, peer: PeerKey, key: ContentKey, interested: bool) {
        let (Some(content), Some(p)) = (self.contents.get_mut(&key), self.peers.get_mut(&peer)) else {
            return;
        };
        let Some(n) = content.swarm.get_mut(&peer) else { return };
        if n.interested == interested {
            p.noise += u32::from(!interested);
            return;
        }
        n.interested = interested;
        p.noise += 1;
        self.count_interest(peer, interested);
    }

    /// Tells a neighbour whether we want something that it has, if that changed. While the manifest is
    /// not whole, whoever is in the swarm may have something.
    pub(super) fn tell_interest(&mut self, key: ContentKey, peer: PeerKey) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let wants = content.wants();
        let Some(n) = content.swarm.get_mut(&peer) else { return };
        let interested = wants && (!content.whole || n.offers(&content.picker));
        // Our `Join` said that we are interested if we want anything at all.
        let told = n.told.unwrap_or(!interested && wants);
        if told != interested {
            self.actions.push_back(Action::Interested { peer, content: key, interested });
        }
        n.told = Some(interested);
    }

    /// Enters a fault; the third, or a wrong hash, bans.
    pub(super) fn fault(&mut self, peer: PeerKey, fault: Fault) {
        if self.ledger.is_banned(peer) {
            return;
        }
        if self.ledger.fault(self.now, peer, fault) {
            self.on_disconnected(peer);
            self.actions.push_back(Action::Ban { peer, fault });
        }
    }
}
