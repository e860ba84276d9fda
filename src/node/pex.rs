//! Peer exchange: who is told of whom, and what is done with what others tell.
//!
//! Every peer says where it is in a record that it has signed, made for the scope of the one it speaks to, in front of its
//! `Join` or `Joined`; the others pass that on. A member is told only of what is news to it: peers that came, moved or left since
//! the last time. What we are told of is dialled within [`Budget`], signed records first; the rest waits its turn.

use std::collections::{BTreeMap, VecDeque};

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};

use crate::content::Cid;
use crate::engine::event::Fault;
use crate::net::signed::{self, Signed};
use crate::units::{ContentKey, PeerKey, Time};
use crate::wire::exchange::{MAX_ADDRS, MAX_DROPPED, Message, PeerRecord};

use super::budget::Budget;
use super::driver::Driver;
use super::peers::{Peer, Scope, may_share};

/// Peers told of in one answer.
const MAX_TOLD: usize = 50;
/// Members that one has been told of and that are kept track of.
const MAX_VERSIONS: usize = 512;
/// Questions whose answer is awaited.
const MAX_ASKED: usize = 1_024;
/// Hints that wait, for the budget or for the other side; of one source.
const MAX_PENDING: usize = 256;
const MAX_PENDING_OF_ONE: usize = 64;
/// Hints tried again at a tick.
const RETRIED: usize = 16;
/// Questions sooner than this after the last are answered with nothing; so many of them are a flood.
const ANSWER_EVERY: std::time::Duration = std::time::Duration::from_millis(900);
const MAX_EXCESS: u32 = 100;
const MAX_LISTEN: usize = 32;
/// One that was to dial and has not by then cannot, or does not know: a NAT in front of us, say.
const ITS_TURN: std::time::Duration = std::time::Duration::from_secs(3);

/// A peer that somebody told us of and that was not dialled yet.
#[derive(Debug)]
struct Hint {
    by: PeerKey,
    peer: PeerId,
    addrs: Vec<Multiaddr>,
    signed: bool,
    /// It was told of us at the same moment and has the smaller ID: until then it is to dial, not we.
    not_before: Time,
}

/// The node's side of peer exchange.
#[derive(Debug)]
pub(super) struct Pex {
    key: Keypair,
    /// Where we listen.
    listen: Vec<Multiaddr>,
    /// Our own records as made last.
    own: BTreeMap<Scope, Option<Signed>>,
    /// Who was asked for peers and has not answered, by request.
    asked: BTreeMap<u32, PeerKey>,
    pending: VecDeque<Hint>,
    budget: Budget,
}

/// What a member of a swarm has been told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of whom, and which version of them.
    versions: BTreeMap<PeerKey, u64>,
    answered_at: Time,
    excess: u32,
}

/// A hint that was followed, for as long as the dial is under way.
#[derive(Clone, Debug)]
pub struct Followed {
    by: PeerKey,
    signed: bool,
    addrs: Vec<Multiaddr>,
}

impl Pex {
    pub fn new(key: Keypair) -> Pex {
        Pex {
            key,
            listen: Vec::new(),
            own: BTreeMap::new(),
            asked: BTreeMap::new(),
            pending: VecDeque::new(),
            budget: Budget::default(),
        }
    }

    pub fn listening(&mut self, addr: Multiaddr) {
        if self.listen.len() < MAX_LISTEN && !self.listen.contains(&addr) {
            self.listen.push(addr);
            self.own.clear();
        }
    }

    /// Our own record for a peer of that scope.
    fn own(&mut self, scope: Scope) -> Option<&Signed> {
        let Pex { key, listen, own, .. } = self;
        let make = || {
            let mut addrs: Vec<_> = listen.iter().filter(|a| may_share(a, scope)).cloned().collect();
            // To those elsewhere the farthest-reaching say the most.
            addrs.sort_by_key(|a| std::cmp::Reverse(super::peers::ip_of(a).map(super::peers::scope_of)));
            signed::sign(key, addrs)
        };
        own.entry(scope).or_insert_with(make).as_ref()
    }
}

impl Driver {
    /// Tells a peer where we are, once a link, in words that it can pass on.
    pub(super) fn say_where(&mut self, to: PeerKey, root: Cid) {
        let Some(p) = self.peers.get_mut(to).filter(|p| p.link.is_some() && !p.told_where) else { return };
        p.told_where = true;
        let scope = p.scope();
        let Some(own) = self.pex.own(scope) else { return };
        let record =
            PeerRecord { id: own.peer.to_bytes(), addrs: Vec::new(), signed_record: own.bytes.clone() };
        self.say(to, Message::Peers { request: 0, root, added: vec![record], dropped: Vec::new() });
    }

    pub(super) fn ask_peers(&mut self, peer: PeerKey, content: ContentKey) {
        let Some(root) = self.contents.get(content).map(|c| c.root) else { return };
        self.next_request = self.next_request.wrapping_add(1).max(1);
        let request = self.next_request;
        if self.pex.asked.len() >= MAX_ASKED {
            self.pex.asked.pop_first();
        }
        self.pex.asked.insert(request, peer);
        self.say(peer, Message::GetPeers { request, root });
    }

    pub(super) fn answer_peers(&mut self, to: PeerKey, request: u32, root: Cid) {
        let now = self.clock.now();
        let Some((key, _)) = self.contents.of_root(&root).filter(|(_, c)| c.members.contains(&to)) else {
            return self.say(to, Message::Peers { request, root, added: Vec::new(), dropped: Vec::new() });
        };
        let Some(content) = self.contents.get_mut(key) else { return };
        let told = content.told.entry(to).or_default();
        let soon = now.since(told.answered_at) < ANSWER_EVERY;
        told.excess = if soon { told.excess + 1 } else { 0 };
        if told.excess > MAX_EXCESS {
            told.excess = 0;
            return self.faulty(to, Fault::Flood);
        }
        let (added, dropped) = if soon { Default::default() } else { self.news(key, to) };
        if let Some(told) = self.contents.get_mut(key).and_then(|c| c.told.get_mut(&to)).filter(|_| !soon) {
            told.answered_at = now;
        }
        self.say(to, Message::Peers { request, root, added, dropped });
    }

    /// What `to` has not been told yet of the members of a swarm, and who of those that it was told of has left.
    pub(super) fn news(&mut self, content: ContentKey, to: PeerKey) -> (Vec<PeerRecord>, Vec<Vec<u8>>) {
        let scope = self.peers.get(to).map_or(Scope::Global, Peer::scope);
        let Some(c) = self.contents.get_mut(content) else { return Default::default() };
        let told = c.told.entry(to).or_default();
        let gone: Vec<PeerKey> = told.versions.keys().filter(|k| !c.members.contains(k)).copied().collect();
        let gone = &gone[..gone.len().min(MAX_DROPPED as usize)];
        for k in gone {
            told.versions.remove(k);
        }
        let dropped = gone.iter().filter_map(|k| self.peers.id(*k)).map(|id| id.to_bytes()).collect();
        let mut added: Vec<PeerRecord> = Vec::new();
        for member in c.members.iter().filter(|m| **m != to) {
            if added.len() >= MAX_TOLD || told.versions.len() >= MAX_VERSIONS {
                break;
            }
            let (Some(id), Some(p)) = (self.peers.id(*member), self.peers.get(*member)) else { continue };
            let Some((version, record)) = record(id, p, scope) else { continue };
            if told.versions.insert(*member, version) != Some(version) {
                added.push(record);
            }
        }
        added.sort_by_key(|r| r.signed_record.is_empty());
        (added, dropped)
    }

    /// A peer has just become known well enough to be told of: tell the swarms that it is in, so that they mesh within
    /// a round trip.
    pub(super) fn introduce(&mut self, newcomer: PeerKey) {
        let (Some(id), Some(p)) = (self.peers.id(newcomer), self.peers.get(newcomer)) else { return };
        let mut says = Vec::new();
        for (_, c) in self.contents.iter_mut().filter(|(_, c)| c.members.contains(&newcomer)) {
            for to in c.members.iter().copied().filter(|m| *m != newcomer).take(MAX_TOLD) {
                let scope = self.peers.get(to).map_or(Scope::Global, Peer::scope);
                let Some((version, record)) = record(id, p, scope) else { continue };
                let told = c.told.entry(to).or_default();
                if told.versions.len() < MAX_VERSIONS
                    && told.versions.insert(newcomer, version) != Some(version)
                {
                    let (root, added) = (c.root, vec![record]);
                    says.push((to, Message::Peers { request: 0, root, added, dropped: Vec::new() }));
                }
            }
        }
        for (to, message) in says {
            self.say(to, message);
        }
    }

    /// Peers told of by a peer, in a `Peers` or a `Joined`. `request`: which question it answers. Without one they
    /// were told of us at the same moment, so that one of the two sides is enough to dial: the one with the smaller ID
    /// at first.
    pub(super) fn peers_told(
        &mut self,
        by: PeerKey,
        request: u32,
        added: Vec<PeerRecord>,
        dropped: Vec<Vec<u8>>,
    ) {
        // An answer that nobody waits for any more is nobody's fault.
        if request != 0 && self.pex.asked.remove(&request) != Some(by) {
            return;
        }
        self.forget_hints(by, &dropped);
        self.take_records(by, added, request == 0);
    }

    /// Records of other peers, or the one of `by` itself.
    pub(super) fn take_records(&mut self, by: PeerKey, records: Vec<PeerRecord>, pushed: bool) {
        let now = self.clock.now();
        let mut hints = Vec::new();
        for record in records.into_iter().take(MAX_TOLD) {
            if !self.pex.budget.record(now, by) {
                break;
            }
            match self.read_record(by, record) {
                Ok(Some(hint)) if pushed && self.own_id.to_bytes() > hint.peer.to_bytes() => {
                    self.keep(Hint { not_before: now + ITS_TURN, ..hint });
                }
                Ok(Some(hint)) => hints.push(hint),
                Ok(None) => {}
                Err(fault) => {
                    tracing::debug!("{:?} passed on {fault}", self.peers.id(by));
                    return self.faulty(by, Fault::Malformed);
                }
            }
        }
        hints.sort_by_key(|h| !h.signed);
        for hint in hints {
            self.follow(hint);
        }
    }

    /// What a record tells us: whom to dial and where, if it is news. The peer's own record is kept, to be passed on.
    fn read_record(&mut self, by: PeerKey, record: PeerRecord) -> Result<Option<Hint>, signed::RecordFault> {
        let scope = self.peers.get(by).map_or(Scope::Global, Peer::scope);
        if record.signed_record.is_empty() {
            let Ok(peer) = PeerId::from_bytes(&record.id) else { return Ok(None) };
            let addrs = record.addrs.into_iter().filter_map(|a| Multiaddr::try_from(a).ok());
            let addrs: Vec<_> = addrs.filter(|a| may_share(a, scope)).take(MAX_ADDRS as usize).collect();
            let hint = Hint { by, peer, addrs, signed: false, not_before: Time::ZERO };
            // Who has said itself where it is, and was found there, needs nobody else's word.
            let known = self.peers.known(&peer).and_then(|k| self.peers.get(k));
            return Ok(Some(hint).filter(|_| known.is_none_or(|p| p.seq == 0 || p.failures > 0)));
        }
        let signed = signed::verify(&record.signed_record)?;
        if signed.peer.to_bytes() != record.id {
            return Err(signed::RecordFault::Bad("it is of another peer than it is said to be".into()));
        }
        if signed.peer == self.own_id {
            return Ok(None);
        }
        let addrs: Vec<Multiaddr> = signed.addrs.iter().filter(|a| may_share(a, scope)).cloned().collect();
        let (peer, not_before) = (signed.peer, Time::ZERO);
        let hint = Hint { by, peer, addrs: addrs.clone(), signed: true, not_before };
        // Strangers get no place in the table before they are dialled.
        let Some(key) = self.peers.known(&signed.peer) else { return Ok(Some(hint)) };
        let own = key == by;
        let Some(p) = self.peers.get_mut(key) else { return Ok(None) };
        // What a peer says itself counts whatever its clock says.
        if !own && signed.seq < p.seq {
            return Ok(None);
        }
        let moved = p.seq != 0 && signed.seq > p.seq;
        p.seq = signed.seq;
        if own {
            p.addrs = addrs;
            p.record = Some(signed);
            self.introduce(key);
            return Ok(None);
        }
        if moved {
            // It is somewhere else now: what failed before says nothing.
            (p.failures, p.last_dial) = (0, None);
        }
        Ok(Some(hint))
    }

    /// Dials who was named, if it is wanted and the budget has it; else it waits.
    fn follow(&mut self, hint: Hint) {
        let now = self.clock.now();
        if hint.addrs.is_empty() || hint.peer == self.own_id || !self.fetching() {
            return;
        }
        let known = self.peers.known(&hint.peer).and_then(|k| self.peers.get(k));
        if known.is_some_and(|p| p.connected) {
            return self.candidate(hint.peer, Vec::new());
        }
        if known.is_some_and(|p| p.dialling(now)) || self.links_are_full() {
            return;
        }
        let addrs = self.pex.budget.dial(now, hint.by, hint.signed, &hint.addrs);
        if addrs.is_empty() {
            return self.keep(hint);
        }
        let (_, p) = self.peers.entry(hint.peer);
        p.followed = Some(Followed { by: hint.by, signed: hint.signed, addrs: addrs.clone() });
        p.candidate = true;
        p.last_dial = Some(now);
        self.command(crate::net::api::Command::Dial { peer: Some(hint.peer), addrs });
    }

    /// For a later tick.
    fn keep(&mut self, hint: Hint) {
        let pending = &mut self.pex.pending;
        pending.retain(|h| h.peer != hint.peer);
        let of_one = pending.iter().filter(|h| h.by == hint.by).count();
        if pending.len() < MAX_PENDING && of_one < MAX_PENDING_OF_ONE {
            pending.push_back(hint);
        }
    }

    /// At every tick: a few of those that wait.
    pub(super) fn follow_more(&mut self) {
        let now = self.clock.now();
        for _ in 0..RETRIED.min(self.pex.pending.len()) {
            match self.pex.pending.pop_front() {
                Some(hint) if hint.not_before > now => self.pex.pending.push_back(hint),
                Some(hint) => self.follow(hint),
                None => return,
            }
        }
    }

    fn forget_hints(&mut self, by: PeerKey, dropped: &[Vec<u8>]) {
        self.pex.pending.retain(|h| h.by != by || !dropped.contains(&h.peer.to_bytes()));
    }

    /// A dial that a hint caused has found its peer.
    pub(super) fn hint_was_right(&mut self, key: PeerKey) {
        let Some(f) = self.peers.get_mut(key).and_then(|p| p.followed.take()) else { return };
        self.pex.budget.found(f.by, f.signed, &f.addrs);
        if let Some(p) = self.peers.get_mut(key) {
            p.learn(f.addrs);
        }
    }
}

/// What one of that scope can be told of a peer, and the version of it.
fn record(id: PeerId, p: &Peer, to: Scope) -> Option<(u64, PeerRecord)> {
    let id = id.to_bytes();
    if let Some(r) = p.record.as_ref().filter(|r| r.addrs.iter().all(|a| may_share(a, to))) {
        return Some((r.seq, PeerRecord { id, addrs: Vec::new(), signed_record: r.bytes.clone() }));
    }
    let addrs = p.addrs.iter().filter(|a| may_share(a, to)).take(MAX_ADDRS as usize);
    let addrs: Vec<Vec<u8>> = addrs.map(Multiaddr::to_vec).collect();
    let version = addrs.len() as u64;
    (version > 0).then_some((version, PeerRecord { id, addrs, signed_record: Vec::new() }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::net::api::Command;
    use crate::node::world::*;
    use crate::store::MemStore;

    /// A record of somebody whose ID is, or is not, smaller than ours.
    fn told_of(own: PeerId, smaller: bool) -> (PeerId, PeerRecord) {
        let mut ids = std::iter::repeat_with(|| Keypair::generate_ed25519().public().to_peer_id());
        let peer = ids.find(|id| (id.to_bytes() < own.to_bytes()) == smaller).unwrap();
        let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", 1 + u16::from(smaller)).parse().unwrap();
        let addrs = vec![addr.to_vec()];
        (peer, PeerRecord { id: peer.to_bytes(), addrs, signed_record: Vec::new() })
    }

    /// A pushed hint was dropped for good by the side that was not to dial: behind a NAT it met nobody.
    #[tokio::test]
    async fn who_was_to_dial_us_and_does_not_is_dialled_by_us_in_the_end() {
        let ((_, _, root), store) = (shared(), Arc::new(MemStore::new()));
        let mut w = World::new(store.clone()).await;
        let (_told, _end) = fetch(&w, &store, root, SOON * 2).await;
        w.hears("join", |m| matches!(m, Message::Join { .. }).then_some(())).await;
        let (smaller, first) = told_of(w.own, true);
        let (larger, second) = told_of(w.own, false);
        w.say(Message::Peers { request: 0, root, added: vec![first, second], dropped: Vec::new() }).await;
        let dialled = |c: &Command| match c {
            Command::Dial { peer, .. } => *peer,
            _ => None,
        };
        assert_eq!(w.commands("a dial", dialled).await, larger, "it is for the other one to dial first");
        assert_eq!(w.commands("a dial", dialled).await, smaller);
    }
}
