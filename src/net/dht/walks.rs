//! The walks under way: whom each asks, and what becomes of the answers.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use super::{Network, find, heard, provide};
use crate::dht::{Ask, K, Key, Lookup, sweep};
use crate::net::ask::{self, AskId, Job};
use crate::net::dht::records::MAX_ADDRS;
use crate::net::task::Task;
use crate::wire::kad::{Answer, Request, Told};

/// A walk that has not come to its end by then ends with what it has.
const MAX_TIME: Duration = Duration::from_secs(60);
/// More walks than that at a time are refused; whoever wants one asks again later.
const MAX_WALKS: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalkId(u64);

/// What a walk is for.
#[derive(Debug)]
pub enum Purpose {
    /// A peer's addresses.
    Peer,
    /// The providers of a content.
    Find(find::FindId),
    /// Telling what we provide.
    Sweep(sweep::Walk),
    /// Telling one content now.
    Once(provide::OnceId),
}

#[derive(Debug)]
struct Walk {
    network: Network,
    request: Request,
    purpose: Purpose,
    lookup: Lookup<PeerId>,
    addrs: HashMap<PeerId, Vec<Multiaddr>>,
    began: Instant,
}

impl Walk {
    fn now(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

#[derive(Debug, Default)]
pub struct Walks {
    walks: BTreeMap<WalkId, Walk>,
    asks: HashMap<AskId, (WalkId, PeerId)>,
    next: u64,
    /// When to pump although nothing has happened.
    pump_at: Option<Instant>,
}

impl Walks {
    pub fn wake(&self) -> Option<Instant> {
        self.pump_at
    }
}

impl Task {
    /// Begins a walk towards `name` (a multihash or a peer's ID); it is to be pumped. `None`: too many.
    pub(super) fn begin_walk(
        &mut self,
        network: Network,
        name: Vec<u8>,
        wanted: usize,
        purpose: Purpose,
    ) -> Option<WalkId> {
        if self.dht.walks.walks.len() >= MAX_WALKS {
            return None;
        }
        let seeds = self.seeds(network, &name);
        let target = Key::of(&name);
        let request = match purpose {
            Purpose::Find(_) => Request::GetProviders(name),
            _ => Request::FindNode(name),
        };
        let addrs = seeds.iter().map(|(h, a)| (h.peer, a.clone())).collect();
        let lookup = Lookup::new(target, wanted, seeds.into_iter().map(|(h, _)| h));
        let id = WalkId(self.dht.walks.next);
        self.dht.walks.next += 1;
        let walk = Walk { network, request, purpose, lookup, addrs, began: Instant::now() };
        self.dht.walks.walks.insert(id, walk);
        Some(id)
    }

    pub(super) fn pump_all(&mut self) {
        let ids: Vec<WalkId> = self.dht.walks.walks.keys().copied().collect();
        ids.into_iter().for_each(|id| self.pump(id));
    }

    /// Silent peers make room, and a walk that takes too long ends.
    pub(super) fn walks_time(&mut self, now: Instant) {
        if self.dht.walks.pump_at.is_some_and(|at| at <= now) {
            self.dht.walks.pump_at = None;
            self.pump_all();
        }
    }

    /// Asks whom the walk wants to ask, and ends it when it is done.
    pub(super) fn pump(&mut self, id: WalkId) {
        let now = Instant::now();
        let Some(walk) = self.dht.walks.walks.get_mut(&id) else { return };
        let over = walk.now(now) >= MAX_TIME;
        let ask = &mut self.swarm.behaviour_mut().ask;
        while !over && let Some(Ask { peer, about }) = walk.lookup.next(walk.began.elapsed()) {
            let nearby = about.map(Request::FindNode);
            let job = Job::new(walk.network.protocol(), [nearby.as_ref().unwrap_or(&walk.request)]);
            let addrs = walk.addrs.get(&peer).map_or(&[][..], Vec::as_slice);
            self.dht.walks.asks.insert(ask.ask(peer, addrs, job), (id, peer));
        }
        if let Purpose::Find(find) = walk.purpose {
            let (stats, network) = (walk.lookup.stats(), walk.network);
            self.find_progress(find, network, stats);
        }
        if let Some(walk) = self.dht.walks.walks.get(&id) {
            let end = walk.began + MAX_TIME;
            let at = walk.lookup.wake(walk.now(now)).map_or(end, |d| end.min(walk.began + d));
            let sooner = self.dht.walks.pump_at.is_none_or(|p| at < p);
            if sooner {
                self.dht.walks.pump_at = Some(at);
            }
        }
        if over || self.dht.walks.walks.get(&id).is_some_and(|w| w.lookup.is_done()) {
            self.end_walk(id);
        }
    }

    /// Ends a walk with what it has found.
    pub(super) fn end_walk(&mut self, id: WalkId) {
        let Some(walk) = self.dht.walks.walks.remove(&id) else { return };
        self.dht.walks.asks.retain(|_, (of, _)| *of != id);
        let closest: Vec<(PeerId, Vec<Multiaddr>)> = walk
            .lookup
            .closest()
            .into_iter()
            .map(|p| (p, walk.addrs.get(&p).cloned().unwrap_or_default()))
            .collect();
        match walk.purpose {
            Purpose::Peer => {
                let peer = self.dht.looking.get(&id).copied();
                let addrs = peer.and_then(|p| walk.addrs.get(&p).cloned()).unwrap_or_default();
                self.looked_up(walk.network, id, addrs);
            }
            Purpose::Find(find) => self.find_walked(find, walk.network, walk.lookup.stats()),
            Purpose::Sweep(plan) => self.swept(walk.network, plan, closest),
            Purpose::Once(once) => self.once_walked(once, walk.network, closest),
        }
    }

    /// Ends the walks of a look-up that nobody waits for any more.
    pub(super) fn drop_finds(&mut self, find: find::FindId) {
        let of = |w: &Walk| matches!(w.purpose, Purpose::Find(f) if f == find);
        let ids: Vec<WalkId> =
            self.dht.walks.walks.iter().filter(|(_, w)| of(w)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.end_walk(id));
    }

    pub(in crate::net) fn on_ask(&mut self, ask::Event { id, peer, result }: ask::Event) {
        let Some((walk_id, _)) = self.dht.walks.asks.remove(&id) else {
            return self.batch_over(id, peer, result);
        };
        let Some(walk) = self.dht.walks.walks.get_mut(&walk_id) else { return };
        let key = Key::of(&peer.to_bytes());
        let answer = match result {
            Ok(answer) => answer,
            Err(why) => {
                tracing::trace!("{peer} did not answer: {why}");
                walk.lookup.failed(&key);
                return self.pump(walk_id);
            }
        };
        let local = *self.swarm.local_peer_id();
        let network = walk.network;
        let Some(kad) = super::kad_of(self.swarm.behaviour_mut(), network) else { return };
        let Answer { closer, providers } = answer;
        let read = |told: Vec<Told>| -> Vec<(PeerId, Vec<Multiaddr>)> {
            let known = told.into_iter().filter_map(|t| Some((PeerId::from_bytes(&t.id).ok()?, t.addrs)));
            let parse = |addrs: Vec<Vec<u8>>| {
                let addrs = addrs.into_iter().filter_map(|a| Multiaddr::try_from(a).ok());
                let bare = addrs.map(|a| crate::net::swarm::split_peer(&a).0);
                bare.filter(|a| kad.may_dial(a)).take(MAX_ADDRS).collect()
            };
            known.filter(|(p, _)| *p != local).map(|(p, addrs)| (p, parse(addrs))).collect()
        };
        let (closer, providers) = (read(closer), read(providers));
        // More than a bucket is no answer, and who cannot be reached is no help.
        let closer: Vec<_> = closer.into_iter().filter(|(_, addrs)| !addrs.is_empty()).take(K).collect();
        let told = closer.iter().map(|(p, addrs)| heard(*p, addrs)).collect::<Vec<_>>();
        walk.lookup.answered(&key, told);
        for (peer, addrs) in closer {
            let known = walk.addrs.entry(peer).or_default();
            let more: Vec<_> = addrs.into_iter().filter(|a| !known.contains(a)).collect();
            known.extend(more);
            known.truncate(MAX_ADDRS);
        }
        if let Purpose::Find(find) = walk.purpose {
            self.found(find, network, providers);
        }
        self.pump(walk_id);
    }
}
