//! Telling the DHTs what we provide: carries out the sweep, and single contents on demand.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::kad::store::RecordStore;
use libp2p::kad::{ProviderRecord, RecordKey};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::walks::Purpose;
use super::{BOTH, Network, ask_back, unix_now};
use crate::content::Hash;
use crate::dht::sweep::{self, Region, Sweep};
use crate::dht::{K, Key};
use crate::net::ask::{AskId, Job};
use crate::net::task::Task;
use crate::wire::kad::{Answer, Request, Told};

/// Regions walked, or told, at a time.
const MAX_REGIONS: usize = 3;
/// Peers of a region that are told at a time, and records a stream.
const MAX_TELLING: usize = 10;
const RECORDS: usize = 64;
/// Addresses that change do so together.
const ADDRS_SETTLE: Duration = Duration::from_secs(5);
/// A small network that has just grown may be growing still.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnceId(u64);

/// What a status says of the providing in one DHT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProvideStatus {
    /// Contents (or blocks) that are provided.
    pub keys: usize,
    /// Of these, never told so far.
    pub waiting: usize,
    /// Due for more than an hour.
    pub late: usize,
    /// Others can reach us, so that it makes sense to provide at all.
    pub reachable: bool,
    /// Servers in the routing table.
    pub servers: usize,
    /// Others may ask us: we are a server ourselves.
    pub server: bool,
    /// Provider records that we keep for others, and values.
    pub stored: usize,
    #[serde(default)]
    pub values: usize,
}

/// What came of telling one content now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Provided {
    /// Of the closest servers, how many were found, took the record, and named us when asked for it.
    pub closest: usize,
    pub told: usize,
    pub hold: Option<usize>,
}

/// A region that is being told.
#[derive(Debug)]
struct Telling {
    walk: sweep::Walk,
    region: Region<PeerId>,
    /// What is still to be sent, in streams' worth.
    left: VecDeque<(PeerId, Vec<Vec<u8>>)>,
    running: usize,
    reached: bool,
}

#[derive(Debug)]
pub struct Providing {
    sweep: Sweep,
    /// Unix time of the start.
    since: u64,
    walking: usize,
    telling: HashMap<u64, Telling>,
    next: u64,
    /// What the streams under way are for.
    asks: HashMap<AskId, u64>,
    addrs: HashMap<PeerId, Vec<Multiaddr>>,
    /// The last walk found fewer servers than keep a record: a newcomer must be told too.
    small: bool,
    /// The last walk found nobody at all.
    alone: bool,
    grew: Option<Instant>,
    /// Our addresses in this DHT, those that the records bear that were told, and when a change counts.
    own: Vec<Multiaddr>,
    told_with: Vec<Multiaddr>,
    changed: Option<Instant>,
    once: HashMap<OnceId, Once>,
    once_asks: HashMap<AskId, OnceId>,
}

#[derive(Debug)]
struct Once {
    name: Vec<u8>,
    verify: bool,
    peers: Vec<(PeerId, Vec<Multiaddr>)>,
    result: Provided,
    running: usize,
    reply: oneshot::Sender<Provided>,
}

impl Providing {
    pub fn new() -> Providing {
        Providing {
            sweep: Sweep::default(),
            since: unix_now(),
            walking: 0,
            telling: HashMap::new(),
            next: 0,
            asks: HashMap::new(),
            addrs: HashMap::new(),
            small: false,
            alone: true,
            grew: None,
            own: Vec::new(),
            told_with: Vec::new(),
            changed: None,
            once: HashMap::new(),
            once_asks: HashMap::new(),
        }
    }

    pub fn wake(&self) -> Option<Instant> {
        let busy = self.walking + self.telling.len() >= MAX_REGIONS || self.own.is_empty();
        let due = self.sweep.wake().filter(|_| !busy).map(|at| {
            let wait = at.saturating_sub(unix_now());
            Instant::now() + Duration::from_secs(wait)
        });
        [due, self.grew, self.changed].into_iter().flatten().min()
    }

    /// The addresses that the records bear that were told before the start.
    pub(super) fn restore_told_with(&mut self, addrs: Vec<Multiaddr>) {
        self.told_with = addrs;
    }

    /// When what is provided already was told before the start.
    pub(super) fn recall(&mut self, mut told: impl FnMut(&[u8]) -> Option<(u64, u8)>) {
        let now = unix_now();
        self.sweep.recall(|name| told(name).map(|(at, depth)| (at.min(now), depth)));
    }

    fn status(&self) -> ProvideStatus {
        ProvideStatus {
            keys: self.sweep.len(),
            waiting: self.sweep.never_told(),
            late: self.sweep.late(unix_now(), self.since),
            reachable: !self.own.is_empty(),
            ..ProvideStatus::default()
        }
    }
}

impl Task {
    /// Be a provider of these from now on.
    pub(in crate::net) fn provide(&mut self, hashes: &[Hash]) {
        let local = *self.swarm.local_peer_id();
        let now = unix_now();
        for name in hashes.iter().map(|h| h.to_bytes()) {
            for n in BOTH {
                let Some(kad) = self.kad(n) else { continue };
                // Our own records have no quota, so this does not fail.
                let record = ProviderRecord::new(RecordKey::new(&name), local, Vec::new());
                if let Err(e) = kad.inner.store_mut().add_provider(record) {
                    tracing::warn!("cannot provide: {e}");
                }
                // Only the public network is large enough that it pays to remember.
                let (told, depth) = match n {
                    Network::Wan => self.dht.keeping.told_before(&name),
                    Network::Lan => (0, 0),
                };
                self.dht.providing(n).sweep.add(name.clone(), told.min(now), depth);
            }
        }
        self.provide_due(Instant::now());
    }

    pub(in crate::net) fn stop_providing(&mut self, hash: &Hash) {
        let (name, local) = (hash.to_bytes(), *self.swarm.local_peer_id());
        self.dht.keeping.forget(name.clone());
        for n in BOTH {
            self.dht.providing(n).sweep.remove(&name);
            if let Some(kad) = self.kad(n) {
                kad.inner.store_mut().remove_provider(&RecordKey::new(&name), &local);
            }
        }
    }

    pub(in crate::net) fn provide_status(&mut self) -> [ProvideStatus; 2] {
        [Network::Wan, Network::Lan].map(|n| {
            let status = self.dht.providing(n).status();
            let Some(kad) = self.kad(n) else { return status };
            let server = kad.inner.mode() == libp2p::kad::Mode::Server;
            let (stored, values) = kad.inner.store_mut().stored();
            let servers = kad.inner.kbuckets().map(|b| b.num_entries()).sum();
            ProvideStatus { servers, server, stored, values, ..status }
        })
    }

    /// What others are told to reach us by has changed, perhaps.
    pub(in crate::net) fn own_addresses_changed(&mut self) {
        for n in BOTH {
            let own = match n {
                // Until it is known what was told before, nothing is.
                Network::Wan if self.dht.keeping.is_loading() => Vec::new(),
                Network::Wan => self.public_addresses(),
                Network::Lan => self.kad(n).map(|k| k.told()).unwrap_or_default(),
            };
            let providing = self.dht.providing(n);
            if providing.own == own {
                continue;
            }
            // The first is told at once. What follows often comes one by one.
            let wait = if providing.told_with.is_empty() { Duration::ZERO } else { ADDRS_SETTLE };
            providing.own = own;
            providing.changed = Some(Instant::now() + wait);
        }
        self.provide_due(Instant::now());
    }

    /// Somebody new is in a routing table.
    pub(super) fn grew(&mut self, n: Network) {
        let providing = self.dht.providing(n);
        if (providing.small || providing.alone) && !providing.sweep.is_empty() && providing.grew.is_none() {
            providing.grew = Some(Instant::now() + SETTLE);
        }
    }

    /// Begins the walks that are due.
    pub(super) fn provide_due(&mut self, now: Instant) {
        for n in BOTH {
            if self.kad(n).is_none() {
                continue;
            }
            let providing = self.dht.providing(n);
            if providing.grew.is_some_and(|at| at <= now) {
                providing.grew = None;
                match providing.small {
                    true => providing.sweep.tell_all(),
                    false => providing.sweep.hurry(),
                }
            }
            if providing.changed.is_some_and(|at| at <= now) {
                providing.changed = None;
                if !providing.own.is_empty() && providing.told_with != providing.own {
                    providing.told_with.clone_from(&providing.own);
                    providing.sweep.tell_all();
                    let own = providing.own.clone();
                    if n == Network::Wan {
                        self.dht.keeping.told_with(own);
                    }
                }
            }
            let providing = self.dht.providing(n);
            // The public DHT drops records without an address that it can reach.
            if providing.own.is_empty() {
                continue;
            }
            loop {
                let providing = self.dht.providing(n);
                if providing.walking + providing.telling.len() >= MAX_REGIONS {
                    break;
                }
                let Some(walk) = providing.sweep.next(unix_now()) else { break };
                providing.walking += 1;
                let name = providing.sweep.name(&walk.target).unwrap_or_default();
                match self.begin_walk(n, name, walk.wanted, Purpose::Sweep(walk)) {
                    Some(id) => self.pump(id),
                    None => self.swept(n, walk, Vec::new()),
                }
            }
        }
    }

    /// A region's walk is done: its servers are told.
    pub(super) fn swept(&mut self, n: Network, walk: sweep::Walk, closest: Vec<(PeerId, Vec<Multiaddr>)>) {
        let providing = self.dht.providing(n);
        providing.walking -= 1;
        let keyed: Vec<(PeerId, Key)> = closest.iter().map(|(p, _)| (*p, Key::of(&p.to_bytes()))).collect();
        providing.alone = keyed.is_empty();
        providing.small = !providing.alone && keyed.len() < K;
        let Some(mut region) = providing.sweep.walked(walk, &keyed, unix_now()) else { return };
        providing.addrs.extend(closest);
        let mut left = VecDeque::new();
        for (peer, names) in std::mem::take(&mut region.batches) {
            left.extend(names.chunks(RECORDS).map(|some| (peer, some.to_vec())));
        }
        let id = providing.next;
        providing.next += 1;
        providing.telling.insert(id, Telling { walk, region, left, running: 0, reached: false });
        self.tell_more(n, id);
    }

    /// Fills the streams of a region that is being told; ends it when all is said.
    fn tell_more(&mut self, n: Network, id: u64) {
        let us = self.us(n);
        let providing = match n {
            Network::Wan => &mut self.dht.wan,
            Network::Lan => &mut self.dht.lan,
        };
        let Some(telling) = providing.telling.get_mut(&id) else { return };
        while telling.running < MAX_TELLING
            && let Some((peer, names)) = telling.left.pop_front()
        {
            let requests: Vec<Request> =
                names.into_iter().map(|key| Request::AddProvider { key, us: us.clone() }).collect();
            let addrs = providing.addrs.get(&peer).map_or(&[][..], Vec::as_slice);
            let job = Job::new(n.protocol(), &requests);
            let ask = self.swarm.behaviour_mut().ask.ask(peer, addrs, job);
            providing.asks.insert(ask, id);
            telling.running += 1;
        }
        if telling.running > 0 {
            return;
        }
        let Some(Telling { walk, region, reached, .. }) = providing.telling.remove(&id) else { return };
        if providing.telling.is_empty() {
            providing.addrs.clear();
        }
        let told = providing.sweep.told(walk, region, reached, unix_now());
        if n == Network::Wan {
            self.dht.keeping.remember(told);
        }
        self.provide_due(Instant::now());
    }

    fn us(&self, n: Network) -> Told {
        let own = match n {
            Network::Wan => &self.dht.wan.own,
            Network::Lan => &self.dht.lan.own,
        };
        let addrs = own.iter().take(super::MAX_ADDRS).map(Multiaddr::to_vec).collect();
        Told { id: self.swarm.local_peer_id().to_bytes(), addrs }
    }

    /// A stream of records is over, or an answer for [`Task::provide_once`] is there.
    pub(super) fn batch_over(&mut self, id: AskId, peer: PeerId, result: Result<Answer, String>) {
        for n in BOTH {
            let providing = self.dht.providing(n);
            if let Some(once) = providing.once_asks.remove(&id) {
                return self.once_asked(n, once, result);
            }
            let Some(region) = providing.asks.remove(&id) else { continue };
            if let Some(telling) = providing.telling.get_mut(&region) {
                telling.running -= 1;
                match &result {
                    Ok(_) => telling.reached = true,
                    Err(why) => {
                        tracing::debug!("{peer} did not take our records: {why}");
                        // Not one that is gone, as often as there are records for it.
                        telling.left.retain(|(p, _)| *p != peer);
                    }
                }
            }
            return self.tell_more(n, region);
        }
    }

    /// Tells the 20 closest now, and with `verify` asks them back. Answered for each DHT.
    pub(in crate::net) fn provide_once(
        &mut self,
        hash: &Hash,
        verify: bool,
        replies: [(Network, oneshot::Sender<Provided>); 2],
    ) {
        let name = hash.to_bytes();
        for (n, reply) in replies {
            if self.kad(n).is_none() || self.us(n).addrs.is_empty() {
                continue; // the dropped reply says so
            }
            let providing = self.dht.providing(n);
            let id = OnceId(providing.next);
            providing.next += 1;
            let once = Once {
                name: name.clone(),
                verify,
                peers: Vec::new(),
                result: Provided::default(),
                running: 0,
                reply,
            };
            providing.once.insert(id, once);
            match self.begin_walk(n, name.clone(), K, Purpose::Once(id)) {
                Some(walk) => self.pump(walk),
                None => drop(self.dht.providing(n).once.remove(&id)),
            }
        }
    }

    pub(super) fn once_walked(&mut self, id: OnceId, n: Network, closest: Vec<(PeerId, Vec<Multiaddr>)>) {
        let Some(once) = self.dht.providing(n).once.get_mut(&id) else { return };
        once.result.closest = closest.len();
        once.peers = closest;
        once.running = once.peers.len();
        let peers = once.peers.clone();
        let request = Request::AddProvider { key: once.name.clone(), us: self.us(n) };
        for (peer, addrs) in &peers {
            let ask = self.swarm.behaviour_mut().ask.ask(*peer, addrs, Job::new(n.protocol(), [&request]));
            self.dht.providing(n).once_asks.insert(ask, id);
        }
        self.once_over(n, id);
    }

    fn once_asked(&mut self, n: Network, id: OnceId, result: Result<Answer, String>) {
        let Some(once) = self.dht.providing(n).once.get_mut(&id) else { return };
        once.running -= 1;
        once.result.told += usize::from(result.is_ok());
        self.once_over(n, id);
    }

    fn once_over(&mut self, n: Network, id: OnceId) {
        let local = *self.swarm.local_peer_id();
        let once = &mut self.dht.providing(n).once;
        if once.get(&id).is_none_or(|o| o.running > 0) {
            return;
        }
        let Some(Once { name, verify, peers, mut result, mut reply, .. }) = once.remove(&id) else { return };
        // Whoever asked may have gone.
        if !verify {
            let _ = reply.send(result);
            return;
        }
        tokio::spawn(async move {
            tokio::select! {
                held = ask_back::holders(n, name, local, peers) => match held {
                    Ok(held) => result.hold = Some(held),
                    Err(e) => tracing::warn!("the servers are not asked back: {e}"),
                },
                () = reply.closed() => return,
            }
            let _ = reply.send(result);
        });
    }
}
