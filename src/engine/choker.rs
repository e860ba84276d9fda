//! Who is uploaded to: tit-for-tat, an optimistic slot, a rotation when there is nothing to be had.
//!
//! Every 10 s the interested peers are ranked by what they sent us of late, and the best hold the
//! slots; among those that sent about the same the ones that lag behind come first, softly, so that a
//! swarm ends together. Every 30 s one more slot goes to another at random, newcomers favoured and those
//! that took much and gave nothing disfavoured. A slot that falls free is filled at once. A peer that has
//! fetched everything goes on by need alone; one that never fetched anything lets the slots rotate. `Slots::Auto` opens another slot
//! whenever the link would idle although somebody waits, and closes what was not needed.

use std::time::Duration;

use super::Engine;
use super::config::Slots;
use super::event::{Action, Fault, PeerKind, Refusal};
use crate::units::{CHUNK_LEN, PeerKey, Time};

/// How much being a thousandth of the content behind counts, against chance below 1,000.
const LAG_WEIGHT: u64 = 5;
/// A peer is a newcomer for this long.
const NEW: Duration = Duration::from_secs(60);
/// How many times likelier a newcomer is to get the optimistic slot.
const NEW_WEIGHT: u32 = 3;
/// What a peer may take before giving nothing for it is held against it.
const DEBT: u64 = 16 * CHUNK_LEN as u64;
/// After opening a slot: time for the new peer to ask for something.
const SETTLE: Duration = Duration::from_millis(50);
/// Things done to no purpose within a judgement's time that are a fault.
const MAX_NOISE: u32 = 2_000;

/// The slots of this node.
#[derive(Debug)]
pub(super) struct Choker {
    pub judge_at: Time,
    optimistic_at: Time,
    pub optimistic: Option<PeerKey>,
    /// Slots opened beyond the base.
    extra: u16,
    /// The link would have idled since the last judgement, had no slot been opened.
    idled: bool,
    /// When another slot may be opened, if the link still idles; `Time::MAX` if that is not wanted.
    pub open_at: Time,
    /// Until then the peer that was unchoked last has not had the time to ask for anything.
    settled_at: Time,
    /// Peers with a slot.
    pub held: u32,
    /// Peers that wait for one.
    pub waiting: u32,
}

impl Choker {
    pub fn new() -> Choker {
        Choker {
            judge_at: Time::MAX,
            optimistic_at: Time::ZERO,
            optimistic: None,
            extra: 0,
            idled: false,
            open_at: Time::MAX,
            settled_at: Time::ZERO,
            held: 0,
            waiting: 0,
        }
    }
}

/// A peer that took a lot and gave next to nothing back.
fn owes(given: u64, taken: u64) -> bool {
    given > DEBT && taken < given / 8
}

/// Smaller is better.
type Rank = (u8, u64, u64);

impl Engine {
    /// Slots there are now, the optimistic one included.
    pub fn slots(&self) -> u32 {
        match self.cfg.slots {
            Slots::Auto => {
                let base = u32::from(self.cfg.regular_slots) + 1;
                (base + u32::from(self.choker.extra)).min(u32::from(self.cfg.max_slots).max(base))
            }
            Slots::Fixed(n) => u32::from(n.max(1)),
        }
    }

    /// Something is still being fetched: slots are given for what they bring.
    pub(super) fn leeching(&self) -> bool {
        self.contents.values().any(|c| c.wants())
    }

    /// How much a peer deserves a slot; `most` is the highest credit of all.
    fn rank(&mut self, peer: PeerKey, leeching: bool, most: u64) -> Rank {
        let chance = u64::from(self.rng.below(1_000));
        let Some(p) = self.peers.get(&peer) else { return (u8::MAX, 0, 0) };
        let (given, taken) = self.ledger.get(peer).map_or((0, 0), |a| (a.given, a.taken));
        let owes = u8::from(owes(given, taken));
        // Among equals those that lag behind, not strictly, so that not everybody serves the same one.
        let need = LAG_WEIGHT * self.progress(peer, p) + chance;
        match (leeching, p.credit) {
            (true, 0) => (8 + owes, need, peer.0),
            (true, _) if p.pipeline.snubbed => (8 + owes, need, peer.0),
            // Equals are those within a factor of four of each other.
            (true, credit) => ((most / credit).max(1).ilog2().min(14) as u8 / 2, need, peer.0),
            (false, _) if self.taken > 0 => (owes, need, peer.0),
            (false, _) => (0, p.choked_at.0.max(p.unchoked_at.0), chance),
        }
    }

    /// How much a peer has of what it wants of us, in thousandths.
    fn progress(&self, peer: PeerKey, p: &super::state::Peer) -> u64 {
        let of = |c: &super::state::Content, n: &super::state::Neighbour| {
            u64::from(n.have.len()) * 1_000 / u64::from(c.picker.len().max(1))
        };
        let shared = p.contents.iter().filter_map(|k| self.contents.get(k));
        let wanted = shared.filter_map(|c| c.swarm.get(&peer).filter(|n| n.interested).map(|n| of(c, n)));
        wanted.min().unwrap_or(0)
    }

    /// The tick: ranks everybody anew.
    pub(super) fn judge(&mut self) {
        let now = self.now;
        self.choker.judge_at = if self.peers.is_empty() { Time::MAX } else { now + self.cfg.choke_interval };
        if !self.choker.idled {
            self.choker.extra -= self.choker.extra.div_ceil(4).min(self.choker.extra);
        }
        self.choker.idled = false;
        self.choker.open_at = Time::MAX;
        let leeching = self.leeching();
        let keys: Vec<PeerKey> =
            self.peers.iter().filter(|(_, p)| p.interests > 0).map(|(k, _)| *k).collect();
        let mut ranked: Vec<(Rank, PeerKey)> = Vec::new();
        let most = self.peers.values().map(|p| p.credit).max().unwrap_or(0);
        for k in keys {
            if self.peers.get(&k).is_some_and(|p| p.kind == PeerKind::Exchange) {
                ranked.push((self.rank(k, leeching, most), k));
            }
        }
        ranked.sort_unstable();
        let slots = self.slots() as usize;
        let regular = if slots > 1 { slots - 1 } else { slots };
        let mut chosen: Vec<PeerKey> = ranked.iter().take(regular).map(|r| r.1).collect();
        if slots > 1 {
            let rest: Vec<PeerKey> = ranked.iter().skip(regular).map(|r| r.1).collect();
            self.choose_optimistic(&rest);
            chosen.extend(self.choker.optimistic);
        }
        chosen.sort_unstable();
        let holders: Vec<PeerKey> =
            self.peers.iter().filter(|(_, p)| p.holds_slot()).map(|(k, _)| *k).collect();
        let mut spare = slots.saturating_sub(chosen.len());
        for k in holders.iter().filter(|k| chosen.binary_search(k).is_err()) {
            // Who wants nothing now may keep a slot that nobody else wants.
            let content = self.peers.get(k).is_some_and(|p| p.interests == 0);
            if content && spare > 0 {
                spare -= 1;
            } else {
                self.choke(*k);
            }
        }
        for k in chosen {
            self.unchoke(k);
        }
        self.settle_noise();
        self.dispatch = true;
    }

    /// Keeps the optimistic peer for its time, or draws another from those without a regular slot.
    fn choose_optimistic(&mut self, rest: &[PeerKey]) {
        let now = self.now;
        if self.choker.optimistic.is_some_and(|o| rest.contains(&o)) && now < self.choker.optimistic_at {
            return;
        }
        let last = self.choker.optimistic.take();
        let weight = |k: &PeerKey| {
            let Some(p) = self.peers.get(k) else { return 0 };
            let owes = self.ledger.get(*k).is_some_and(|a| owes(a.given, a.taken));
            let weight = if now.since(p.connected_at) < NEW { 4 * NEW_WEIGHT } else { 4 };
            match (Some(*k) == last && rest.len() > 1, owes) {
                (true, _) => 0,
                (_, true) => 1,
                _ => weight,
            }
        };
        let weights: Vec<u32> = rest.iter().map(weight).collect();
        let mut draw = self.rng.below(weights.iter().sum());
        for (k, w) in rest.iter().zip(weights) {
            if draw < w {
                self.choker.optimistic = Some(*k);
                self.choker.optimistic_at = now + self.cfg.optimistic_interval;
                return;
            }
            draw -= w;
        }
    }

    /// Fills what is free, the best first. Who holds a slot and wants nothing makes room.
    pub(super) fn fill_slots(&mut self) {
        self.vacancies = false;
        if self.choker.waiting == 0 {
            return;
        }
        let slots = self.slots();
        let idle = |p: &super::state::Peer| p.holds_slot() && p.interests == 0;
        let mut idlers: Vec<PeerKey> = Vec::new();
        if self.choker.held >= slots {
            idlers = self.peers.iter().filter(|(_, p)| idle(p)).map(|(k, _)| *k).collect();
        }
        let room = slots.saturating_sub(self.choker.held) as usize + idlers.len();
        if room == 0 {
            return;
        }
        let leeching = self.leeching();
        let keys: Vec<PeerKey> = self.peers.iter().filter(|(_, p)| p.waits()).map(|(k, _)| *k).collect();
        let mut ranked: Vec<(Rank, PeerKey)> = Vec::with_capacity(keys.len());
        let most = self.peers.values().map(|p| p.credit).max().unwrap_or(0);
        for k in keys {
            ranked.push((self.rank(k, leeching, most), k));
        }
        ranked.sort_unstable();
        for (_, k) in ranked.into_iter().take(room) {
            if self.choker.held >= slots {
                match idlers.pop() {
                    Some(i) => self.choke(i),
                    None => return,
                }
            }
            self.unchoke(k);
        }
    }

    /// The link would idle: one slot more, if somebody waits and the last one opened has had its time.
    pub(super) fn open_slot(&mut self) {
        let now = self.now;
        if self.cfg.slots != Slots::Auto
            || self.choker.waiting == 0
            || self.slots() >= u32::from(self.cfg.max_slots)
        {
            return;
        }
        self.choker.idled = true;
        if now < self.choker.settled_at {
            self.choker.open_at = self.choker.settled_at;
            return;
        }
        self.choker.extra += 1;
        self.fill_slots();
        // If that does not help either.
        self.choker.open_at = if self.choker.waiting > 0 { self.choker.settled_at } else { Time::MAX };
    }

    pub(super) fn choke(&mut self, peer: PeerKey) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer).filter(|p| p.holds_slot()) else { return };
        (p.choked, p.choked_at) = (true, now);
        self.choker.held -= 1;
        self.choker.waiting += u32::from(p.interests > 0);
        if self.choker.optimistic == Some(peer) {
            self.choker.optimistic = None;
        }
        self.actions.push_back(Action::Choke { peer });
        self.refuse_queued(peer, Refusal::Choked, |_| true);
    }

    fn unchoke(&mut self, peer: PeerKey) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(&peer).filter(|p| p.choked) else { return };
        (p.choked, p.unchoked_at) = (false, now);
        self.choker.settled_at = now + p.rtt_or_zero() + SETTLE;
        self.choker.held += 1;
        self.choker.waiting -= u32::from(p.interests > 0);
        self.actions.push_back(Action::Unchoke { peer });
    }

    /// A peer wants something of a content now, or no longer.
    pub(super) fn count_interest(&mut self, peer: PeerKey, more: bool) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let before = p.waits();
        p.interests = if more { p.interests + 1 } else { p.interests.saturating_sub(1) };
        match (before, p.waits()) {
            (false, true) => self.choker.waiting += 1,
            (true, false) => self.choker.waiting -= 1,
            _ => {}
        }
        self.vacancies = true;
    }

    /// The peer is gone; its slot is free.
    pub(super) fn drop_slot(&mut self, peer: PeerKey) {
        let Some(p) = self.peers.get(&peer) else { return };
        self.choker.held -= u32::from(p.holds_slot());
        self.choker.waiting -= u32::from(p.waits());
        if self.choker.optimistic == Some(peer) {
            self.choker.optimistic = None;
        }
        self.vacancies = true;
    }

    /// What was sent counts half from now on; noise above its cap is a fault.
    fn settle_noise(&mut self) {
        let mut noisy = Vec::new();
        for (k, p) in &mut self.peers {
            p.credit /= 2;
            if std::mem::take(&mut p.noise) > MAX_NOISE {
                noisy.push(*k);
            }
        }
        for k in noisy {
            self.fault(k, Fault::Flood);
        }
    }

    pub(super) fn check_slots(&self) -> Result<(), String> {
        let count =
            |f: &dyn Fn(&super::state::Peer) -> bool| self.peers.values().filter(|p| f(p)).count() as u32;
        let (held, waiting) = (count(&|p| p.holds_slot()), count(&|p| p.waits()));
        if held != self.choker.held || waiting != self.choker.waiting {
            return Err("choker: slots or waiting peers miscounted".into());
        }
        if held > self.slots() {
            return Err(format!("choker: {held} hold {} slots", self.slots()));
        }
        let idle = count(&|p| p.holds_slot() && p.interests == 0);
        if waiting > 0 && (held < self.slots() || idle > 0) {
            return Err("choker: somebody waits although a slot is free".into());
        }
        Ok(())
    }
}
