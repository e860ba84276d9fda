//! Who is uploaded to: tit-for-tat, an optimistic slot, a rotation when there is nothing to be had.
//!
//! Every 10 s the interested peers are ranked by what they sent us of late, and the best hold the
//! slots; among those that sent about the same the ones that lag behind come first, softly, so that a
//! swarm ends together. Every 30 s one more slot goes to another at random, newcomers favoured and those
//! that took much and gave nothing disfavoured; every slot goes on sooner if its peer has what we want and
//! does not answer in kind. A slot that falls free is filled at once. A peer that has
//! fetched everything goes on by need alone; one that never fetched anything lets the slots rotate. `Slots::Auto` opens another slot
//! whenever the link would idle although somebody waits, and closes what was not needed.

use std::time::Duration;

use super::Engine;
use super::config::Slots;
use super::event::{Action, Fault, PeerKind, Refusal};
use crate::units::{CHUNK_LEN, PeerKey, Time};

/// Chunks new to the swarm that a seed gives to a peer before another has its turn, and while a newcomer waits that was
/// given nothing: everybody can pass on what he has, and nobody what he has not.
const GIFTS: (u32, u32) = (2, 1);
/// How much it counts to have a thousandth of the content more, against `CHANCE` and `CREDIT_WEIGHT`.
const LAG_WEIGHT: u64 = 10;
/// How much it counts to have sent half as much as the best.
const CREDIT_WEIGHT: u64 = 300;
/// How much each doubling of what a peer took for nothing counts with one that has fetched everything:
/// as a twenty-fifth of the content that others lack less.
const DEBT_WEIGHT: u64 = 400;
/// What chance counts at most among those that sent something.
const CHANCE: u64 = 500;
/// What a peer is sent before it must have unchoked us (if it has what we want) to keep its slot, the
/// optimistic one too. A free-rider lives on these gifts: with eight chunks it had 0.34 of a contributor's
/// rate in a content of 256 chunks.
const TRIAL: u64 = 2 * CHUNK_LEN as u64;
/// A peer is a newcomer until it has this many chunks.
const NEW: u32 = 4;
/// How many times likelier a newcomer is to get the optimistic slot.
const NEW_WEIGHT: u32 = 3;
/// After opening a slot: time for the new peer to ask for something.
const SETTLE: Duration = Duration::from_millis(50);
/// How long the link must have been busy before slots are closed, and how often that is looked at.
const CLOSE: Duration = Duration::from_secs(2);
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
    /// When the link would have idled last, had no slot been opened.
    idle_at: Time,
    /// When the slots beyond the base are looked at; `Time::MAX` if there are none.
    pub close_at: Time,
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
            idle_at: Time::ZERO,
            close_at: Time::MAX,
            open_at: Time::MAX,
            settled_at: Time::ZERO,
            held: 0,
            waiting: 0,
        }
    }
}

/// How much a peer has taken that gave next to nothing back: 0 if it gave or took nothing yet, then one
/// more for every doubling of what it took, in chunks.
fn debt(given: u64, taken: u64) -> u8 {
    let chunks = given / u64::from(CHUNK_LEN);
    if chunks == 0 || taken > given / 32 { 0 } else { 1 + chunks.ilog2().min(6) as u8 }
}

/// How many times `most` must be halved to make `credit`, in sixteenths.
fn halvings(most: u64, credit: u64) -> u64 {
    let log = |n: u64| {
        let whole = n.max(1).ilog2();
        // Between powers of two a straight line is near enough.
        u64::from(whole) * 16 + ((u128::from(n.max(1)) << 4 >> whole) as u64 & 15)
    };
    log(most).saturating_sub(log(credit))
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
        let debt = debt(given, taken);
        // Those that lag behind first, though not strictly, so that not everybody serves the same one.
        let need = LAG_WEIGHT * self.progress(peer, p) + chance;
        if !self.cfg.tit_for_tat {
            return (0, need, peer.0);
        }
        match (leeching, p.credit) {
            (true, _) if p.pipeline.snubbed => (1 + debt, need, peer.0),
            (true, 0) if taken == 0 || debt > 0 => (1 + debt, need, peer.0),
            (true, credit) => {
                // Who gave something once, however slowly, is not forgotten at once.
                let credit = credit.max(u64::from(CHUNK_LEN) / 16);
                let score = CREDIT_WEIGHT * halvings(most, credit) / 16 + LAG_WEIGHT * self.progress(peer, p);
                (0, score + chance * CHANCE / 1_000, peer.0)
            }
            (false, _) if self.taken > 0 => (0, need + DEBT_WEIGHT * u64::from(debt), peer.0),
            (false, _) => (self.unspread(p), p.choked_at.0.max(p.unchoked_at.0), chance),
        }
    }

    /// How many of the chunks that we gave to this peer first nobody else is known to have yet.
    fn unspread(&self, p: &super::state::Peer) -> u8 {
        let alone = |(k, c): &&(crate::units::ContentKey, u32)| {
            self.contents.get(k).is_some_and(|k| k.picker.copies(*c) < 2)
        };
        p.gifts.iter().filter(alone).count() as u8
    }

    /// Whether slots rotate: we never needed anything of anybody.
    fn only_seeding(&self) -> bool {
        self.taken == 0 && !self.leeching()
    }

    /// A slot goes on before its time if others wait: with one that takes and does not answer in kind; and
    /// with a seed's peer that got something new and is to pass it on first, so that new chunks go to as
    /// many as can spread them, and most to those that do it fastest.
    pub(super) fn rotate(&mut self, peer: PeerKey) {
        let Some(p) = self.peers.get(&peer).filter(|p| p.holds_slot() && self.choker.waiting > 0) else {
            return;
        };
        let gifted = self.only_seeding()
            && (p.new_gifts >= GIFTS.0 || p.new_gifts >= GIFTS.1 && self.newcomer_waits());
        let vain = self.cfg.tit_for_tat && self.in_vain(peer);
        if gifted || vain {
            self.choke(peer);
            self.vacancies = true;
        }
    }

    /// Somebody without a slot has nothing yet, and nothing new was given to it.
    fn newcomer_waits(&self) -> bool {
        let empty = |(k, p): (&PeerKey, &super::state::Peer)| {
            p.waits() && p.gifts.is_empty() && self.is_newcomer(*k, p)
        };
        self.peers.iter().any(empty)
    }

    /// It was served, has what we want, and chokes us all the same.
    fn in_vain(&self, peer: PeerKey) -> bool {
        let Some(p) = self.peers.get(&peer) else { return true };
        let of = |k: &crate::units::ContentKey| {
            let c = self.contents.get(k).filter(|c| c.wants())?;
            c.swarm.get(&peer).map(|n| n.offers(&c.picker))
        };
        p.served > TRIAL
            && p.choking_us
            && p.credit == 0
            && p.contents.iter().filter_map(of).any(|offers| offers)
    }

    /// It has next to nothing of what it wants of us, so it has nothing to give for it either.
    fn is_newcomer(&self, peer: PeerKey, p: &super::state::Peer) -> bool {
        let of = |k: &crate::units::ContentKey| self.contents.get(k).and_then(|c| c.swarm.get(&peer));
        p.contents.iter().filter_map(of).any(|n| n.interested && !n.complete && n.have.len() < NEW)
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
        let optimistic = usize::from(self.cfg.optimistic && slots > 1);
        let regular = slots - optimistic;
        let mut chosen: Vec<PeerKey> = ranked.iter().take(regular).map(|r| r.1).collect();
        if optimistic > 0 {
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
        let keeps = self.choker.optimistic.is_some_and(|o| rest.contains(&o) && !self.in_vain(o));
        if keeps && now < self.choker.optimistic_at {
            return;
        }
        let last = self.choker.optimistic.take();
        let weight = |k: &PeerKey| {
            let Some(p) = self.peers.get(k) else { return 0 };
            if Some(*k) == last && rest.len() > 1 {
                return 0;
            }
            // What it gave for what it took. One that has something to give and never did is trusted less
            // than one that did, and one that has nothing yet most of all.
            let (given, taken) = self.ledger.get(*k).map_or((0, 0), |a| (a.given, a.taken));
            let chunk = u64::from(CHUNK_LEN);
            let fair = (taken + chunk).min(given + chunk).saturating_mul(32) / (given + chunk);
            let fair = u32::try_from(fair).unwrap_or(32);
            match (self.is_newcomer(*k, p), taken) {
                (true, _) => NEW_WEIGHT * (1 + fair),
                (false, 0) => 1 + fair / 4,
                (false, _) => 1 + fair,
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
        if self.choker.waiting > slots.saturating_sub(self.choker.held) {
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
        self.choker.idle_at = now;
        if now < self.choker.settled_at {
            self.choker.open_at = self.choker.settled_at;
            return;
        }
        self.choker.extra += 1;
        self.choker.close_at = self.choker.close_at.min(now + CLOSE);
        self.fill_slots();
        // If that does not help either.
        self.choker.open_at = if self.choker.waiting > 0 { self.choker.settled_at } else { Time::MAX };
    }

    /// Half of the slots beyond the base are closed if the link was busy for a while: spread thin, we would
    /// be nobody's best. Those go that deserve theirs least.
    pub(super) fn close_slots(&mut self) {
        let now = self.now;
        self.choker.close_at = if self.choker.extra > 0 { now + CLOSE } else { Time::MAX };
        if now.since(self.choker.idle_at) < CLOSE {
            return;
        }
        self.choker.extra /= 2;
        let surplus = self.choker.held.saturating_sub(self.slots()) as usize;
        if surplus == 0 {
            return;
        }
        let leeching = self.leeching();
        let most = self.peers.values().map(|p| p.credit).max().unwrap_or(0);
        let holds =
            |(k, p): &(&PeerKey, &super::state::Peer)| p.holds_slot() && self.choker.optimistic != Some(**k);
        let keys: Vec<(bool, PeerKey)> =
            self.peers.iter().filter(holds).map(|(k, p)| (p.interests == 0, *k)).collect();
        let mut ranked: Vec<(bool, Rank, PeerKey)> = Vec::with_capacity(keys.len());
        for (idle, k) in keys {
            ranked.push((idle, self.rank(k, leeching, most), k));
        }
        ranked.sort_unstable();
        for (_, _, k) in ranked.into_iter().rev().take(surplus) {
            self.choke(k);
        }
        // The optimistic peer may want nothing by now, and one of these does.
        self.vacancies = true;
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
        (p.choked, p.unchoked_at, p.new_gifts, p.served) = (false, now, 0, 0);
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
