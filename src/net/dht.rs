//! The two DHTs: queries of the node, what we provide, and what others store with us.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use libp2p::kad::store::RecordStore;
use libp2p::kad::{self, GetProvidersOk, InboundRequest, QueryResult, RecordKey};
use libp2p::{Multiaddr, PeerId};

use super::api::{Event, QueryId};
use super::behaviour::{Kad, Net};
use super::providers::Schedule;
use super::records::MAX_ADDRS;
use super::task::Task;
use crate::content::Hash;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    Wan,
    Lan,
}

const BOTH: [Network; 2] = [Network::Lan, Network::Wan];

/// Providers told of one query: a liar that names thousands is cut short.
const MAX_PROVIDERS: usize = 1_000;

#[derive(Debug, Default)]
pub struct Dht {
    wan: Schedule,
    lan: Schedule,
    finding: HashMap<(Network, kad::QueryId), QueryId>,
    found: HashMap<QueryId, HashSet<PeerId>>,
    looking: HashMap<(Network, kad::QueryId), PeerId>,
}

impl Dht {
    pub fn wake(&self) -> Option<Instant> {
        [self.wan.wake(), self.lan.wake()].into_iter().flatten().min()
    }

    fn schedule(&mut self, n: Network) -> &mut Schedule {
        match n {
            Network::Wan => &mut self.wan,
            Network::Lan => &mut self.lan,
        }
    }
}

fn kad_of(net: &mut Net, n: Network) -> Option<&mut Kad> {
    match n {
        Network::Wan => net.wan.as_mut(),
        Network::Lan => net.lan.as_mut(),
    }
}

/// The DHT's key of a content is its multihash, whatever the CID around it.
fn key_of(hash: &Hash) -> RecordKey {
    RecordKey::from(hash.to_bytes())
}

impl Task {
    fn kad(&mut self, n: Network) -> Option<&mut Kad> {
        kad_of(self.swarm.behaviour_mut(), n)
    }

    pub(super) fn find_providers(&mut self, query: QueryId, hash: &Hash) {
        self.dht.found.insert(query, HashSet::new());
        for n in BOTH {
            let Some(kad) = self.kad(n) else { continue };
            let id = kad.inner.get_providers(key_of(hash));
            self.dht.finding.insert((n, id), query);
        }
        self.done_unless_running(query);
    }

    pub(super) fn stop_query(&mut self, query: QueryId) {
        let running: Vec<_> =
            self.dht.finding.iter().filter(|(_, q)| **q == query).map(|(id, _)| *id).collect();
        for (n, id) in running {
            if let Some(mut q) = self.kad(n).and_then(|k| k.inner.query_mut(&id)) {
                q.finish();
            }
        }
    }

    fn done_unless_running(&mut self, query: QueryId) {
        let running = self.dht.finding.values().any(|q| *q == query);
        if !running && self.dht.found.remove(&query).is_some() {
            self.tell(Event::QueryDone { query });
        }
    }

    pub(super) fn provide(&mut self, hash: &Hash) {
        let (key, now) = (key_of(hash), Instant::now());
        for n in BOTH {
            self.dht.schedule(n).add(&key, now);
        }
        self.announce(now);
    }

    pub(super) fn stop_providing(&mut self, hash: &Hash) {
        let key = key_of(hash);
        for n in BOTH {
            self.dht.schedule(n).remove(&key);
            if let Some(kad) = self.kad(n) {
                kad.inner.stop_providing(&key);
            }
        }
    }

    /// Tells the DHTs what is due.
    pub(super) fn announce(&mut self, now: Instant) {
        // The public DHT drops records without an address that it can reach.
        let reachable = self.swarm.external_addresses().next().is_some();
        for n in BOTH {
            while let Some(key) = self.dht.schedule(n).next(now) {
                let Some(kad) = self.kad(n).filter(|_| reachable || n == Network::Lan) else { continue };
                match kad.inner.start_providing(key) {
                    Ok(id) => self.dht.schedule(n).started(id),
                    // Our own records have no quota, so this does not happen.
                    Err(e) => tracing::warn!("cannot provide: {e}"),
                }
            }
        }
    }

    /// Asks for a peer's addresses; false if there is no DHT to ask.
    pub(super) fn look_up(&mut self, peer: PeerId) -> bool {
        let mut asked = false;
        for n in BOTH {
            let Some(kad) = self.kad(n) else { continue };
            let id = kad.inner.get_closest_peers(peer);
            self.dht.looking.insert((n, id), peer);
            asked = true;
        }
        asked
    }

    pub(super) fn on_kad(&mut self, n: Network, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.on_progress(n, id, result, step.last);
            }
            kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(mut record) },
            } => {
                let Some(kad) = self.kad(n) else { return };
                record.addresses.retain(|a| kad.may_dial(a));
                record.addresses.truncate(MAX_ADDRS);
                if record.addresses.is_empty() {
                    return;
                }
                if let Err(e) = kad.inner.store_mut().add_provider(record) {
                    tracing::debug!("provider record not kept: {e}");
                }
            }
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => {
                let Some(kad) = self.kad(n) else { return };
                let known = kad.inner.kbuckets().map(|b| b.num_entries()).sum();
                self.dht.schedule(n).peer_came(known, Instant::now());
            }
            _ => {}
        }
    }

    fn on_progress(&mut self, n: Network, id: kad::QueryId, result: QueryResult, last: bool) {
        match result {
            QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { key, providers })) => {
                self.on_providers(n, id, &key, providers);
            }
            QueryResult::GetClosestPeers(result) if self.dht.looking.contains_key(&(n, id)) => {
                if !last {
                    return;
                }
                let found = match result {
                    Ok(ok) => ok.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                self.on_looked_up(n, id, found);
            }
            QueryResult::StartProviding(_) if last => {
                self.dht.schedule(n).finished(id);
                self.announce(Instant::now());
            }
            _ => {}
        }
        if last && let Some(query) = self.dht.finding.remove(&(n, id)) {
            self.done_unless_running(query);
        }
    }

    /// Providers go to the node as they are found, with the addresses that came with them.
    fn on_providers(&mut self, n: Network, id: kad::QueryId, key: &RecordKey, peers: HashSet<PeerId>) {
        let Some(&query) = self.dht.finding.get(&(n, id)) else { return };
        let local = *self.swarm.local_peer_id();
        for peer in peers {
            let Some(kad) = kad_of(self.swarm.behaviour_mut(), n) else { return };
            let mut addrs: Vec<Multiaddr> = kad.addresses_of(peer);
            let stored = kad.inner.store_mut().providers(key);
            let stored = stored.into_iter().filter(|r| r.provider == peer).flat_map(|r| r.addresses);
            addrs.extend(stored.filter(|a| kad.may_dial(a)));
            addrs.iter_mut().for_each(|a| *a = super::swarm::split_peer(a).0);
            addrs.sort();
            addrs.dedup();
            addrs.truncate(MAX_ADDRS);
            let Some(found) = self.dht.found.get_mut(&query) else { return };
            if peer != local && found.len() < MAX_PROVIDERS && found.insert(peer) {
                self.tell(Event::Provider { query, peer, addrs });
            }
        }
    }

    fn on_looked_up(&mut self, n: Network, id: kad::QueryId, found: Vec<kad::PeerInfo>) {
        let Some(peer) = self.dht.looking.remove(&(n, id)) else { return };
        let addrs = found.into_iter().find(|p| p.peer_id == peer).map(|p| p.addrs).unwrap_or_default();
        let Some(kad) = self.kad(n) else { return };
        let addrs: Vec<_> = addrs.into_iter().filter(|a| kad.may_dial(a)).collect();
        let waiting = self.dht.looking.values().any(|p| *p == peer);
        if !addrs.is_empty() {
            self.dial_peer(peer, addrs, false);
        } else if !waiting && !self.swarm.is_connected(&peer) {
            let error = "the peer was not found".into();
            self.tell(Event::DialFailed { peer: Some(peer), error });
        }
    }
}
