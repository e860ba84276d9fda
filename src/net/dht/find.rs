//! Look-ups of providers, in both DHTs at once: each provider is told as soon as it is found.

use std::collections::{BTreeMap, HashMap, HashSet};

use libp2p::kad::RecordKey;
use libp2p::kad::store::RecordStore;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

use super::records::MAX_ADDRS;
use super::walks::Purpose;
use super::{BOTH, Network, kad_of};
use crate::content::Hash;
use crate::dht::{K, Stats};
use crate::net::api::{Event, QueryId};
use crate::net::task::Task;

/// Providers told of one look-up: a liar that names thousands is cut short.
const MAX_PROVIDERS: usize = 1_000;
/// Room for all that one look-up may say to whoever shows it; of progress only what fits.
pub const FIND_QUEUE: usize = MAX_PROVIDERS + 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FindId(u64);

/// What a look-up that is watched tells.
#[derive(Clone, Debug)]
pub enum FindEvent {
    Progress(Stats),
    Provider { peer: PeerId, addrs: Vec<Multiaddr> },
    Done(Stats),
}

/// Who wants to know.
#[derive(Debug)]
pub enum FindReply {
    /// The node, by events.
    Query(QueryId),
    /// Somebody who watches; the look-up ends when they go.
    Watch(mpsc::Sender<FindEvent>),
}

#[derive(Debug)]
struct Find {
    reply: FindReply,
    found: HashSet<PeerId>,
    running: HashSet<Network>,
    stats: BTreeMap<Network, Stats>,
}

#[derive(Debug, Default)]
pub struct Finds {
    finds: HashMap<FindId, Find>,
    next: u64,
}

/// Both DHTs' figures as one.
fn sum(stats: &BTreeMap<Network, Stats>) -> Stats {
    stats.values().fold(Stats::default(), |a, b| Stats {
        asked: a.asked + b.asked,
        answered: a.answered + b.answered,
        failed: a.failed + b.failed,
        hops: a.hops.max(b.hops),
    })
}

impl Task {
    pub(in crate::net) fn find(&mut self, hash: &Hash, reply: FindReply) {
        let id = FindId(self.dht.finds.next);
        self.dht.finds.next += 1;
        let find = Find { reply, found: HashSet::new(), running: HashSet::new(), stats: BTreeMap::new() };
        self.dht.finds.finds.insert(id, find);
        let name = hash.to_bytes();
        let mut walks = Vec::new();
        for n in BOTH {
            if self.kad(n).is_none() {
                continue;
            }
            self.found_here(id, n, &name);
            if let Some(walk) = self.begin_walk(n, name.clone(), K, Purpose::Find(id)) {
                self.dht.finds.finds.entry(id).and_modify(|f| {
                    f.running.insert(n);
                });
                walks.push(walk);
            }
        }
        if walks.is_empty() {
            self.find_over(id);
        }
        walks.into_iter().for_each(|w| self.pump(w));
    }

    pub(in crate::net) fn stop_query(&mut self, query: QueryId) {
        let of = |f: &Find| matches!(f.reply, FindReply::Query(q) if q == query);
        let found = self.dht.finds.finds.iter().find(|(_, f)| of(f)).map(|(id, _)| *id);
        if let Some(id) = found {
            self.drop_finds(id);
        }
    }

    /// What others have stored with us.
    fn found_here(&mut self, id: FindId, n: Network, name: &[u8]) {
        let Some(kad) = self.kad(n) else { return };
        let records = kad.inner.store_mut().providers(&RecordKey::new(&name));
        let bare = |addrs: Vec<Multiaddr>| addrs.iter().map(|a| crate::net::swarm::split_peer(a).0).collect();
        let local = records.into_iter().map(|r| (r.provider, bare(r.addresses))).collect();
        self.found(id, n, local);
    }

    /// Providers go to whoever asks as they are found, with the addresses that came with them and those that
    /// we know.
    pub(super) fn found(&mut self, id: FindId, n: Network, providers: Vec<(PeerId, Vec<Multiaddr>)>) {
        let local = *self.swarm.local_peer_id();
        for (peer, mut addrs) in providers {
            let Some(find) = self.dht.finds.finds.get_mut(&id) else { return };
            if peer == local || find.found.len() >= MAX_PROVIDERS {
                continue;
            }
            let Some(kad) = kad_of(self.swarm.behaviour_mut(), n) else { return };
            addrs.extend(kad.addresses_of(peer).iter().map(|a| crate::net::swarm::split_peer(a).0));
            addrs.retain(|a| kad.may_dial(a));
            addrs.sort();
            addrs.dedup();
            addrs.truncate(MAX_ADDRS);
            // Told again only if the first time there was no way to reach it.
            if find.found.contains(&peer) || !find.found.insert(peer) {
                continue;
            }
            match &find.reply {
                &FindReply::Query(query) => self.tell(Event::Provider { query, peer, addrs }),
                // There is room for all providers; a reader that has gone is seen at the next progress.
                FindReply::Watch(to) => drop(to.try_send(FindEvent::Provider { peer, addrs })),
            }
        }
    }

    pub(super) fn find_progress(&mut self, id: FindId, n: Network, stats: Stats) {
        let Some(find) = self.dht.finds.finds.get_mut(&id) else { return };
        find.stats.insert(n, stats);
        let FindReply::Watch(to) = &find.reply else { return };
        if to.is_closed() {
            return self.drop_finds(id);
        }
        let found_yet = find.found.len();
        // What is kept free is for the providers.
        if to.capacity() > MAX_PROVIDERS - found_yet.min(MAX_PROVIDERS) + 1 {
            let _ = to.try_send(FindEvent::Progress(sum(&find.stats)));
        }
    }

    pub(super) fn find_walked(&mut self, id: FindId, n: Network, stats: Stats) {
        let Some(find) = self.dht.finds.finds.get_mut(&id) else { return };
        find.stats.insert(n, stats);
        find.running.remove(&n);
        if find.running.is_empty() {
            self.find_over(id);
        }
    }

    fn find_over(&mut self, id: FindId) {
        let Some(find) = self.dht.finds.finds.remove(&id) else { return };
        match find.reply {
            FindReply::Query(query) => self.tell(Event::QueryDone { query }),
            FindReply::Watch(to) => drop(to.try_send(FindEvent::Done(sum(&find.stats)))),
        }
    }

    /// Closes what nobody watches any more; called now and then.
    pub(in crate::net) fn forget_unwatched(&mut self) {
        let gone: Vec<FindId> = self
            .dht
            .finds
            .finds
            .iter()
            .filter(|(_, f)| matches!(&f.reply, FindReply::Watch(to) if to.is_closed()))
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.drop_finds(id));
    }
}
