//! The two DHTs: what the node asks of them, what we provide, and what others store with us.
//!
//! libp2p-kad serves other nodes and keeps the routing tables; `records` is its store. What we ask goes by
//! walks of our own (`walks`): look-ups of providers (`find`), and the sweep that tells what we provide
//! (`provide`).

mod ask_back;
mod disk;
mod find;
mod keep;
mod provide;
pub(super) mod records;
mod table;
mod validate;
mod walks;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::kad::{self, InboundRequest};
use libp2p::{Multiaddr, PeerId, StreamProtocol};

use super::behaviour::{Kad, LAN_KAD, Net, WAN_KAD};
use super::scope::addr_groups;
use super::task::Task;
use crate::dht::Heard;
use crate::dht::Key;
use records::MAX_ADDRS;

pub use find::{FIND_QUEUE, FindEvent, FindReply};
pub use provide::{ProvideStatus, Provided};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    Wan,
    Lan,
}

pub(super) const BOTH: [Network; 2] = [Network::Lan, Network::Wan];

impl Network {
    fn protocol(self) -> StreamProtocol {
        match self {
            Network::Wan => WAN_KAD,
            Network::Lan => LAN_KAD,
        }
    }
}

#[derive(Debug)]
pub struct Dht {
    walks: walks::Walks,
    finds: find::Finds,
    wan: provide::Providing,
    lan: provide::Providing,
    looking: HashMap<walks::WalkId, PeerId>,
    groups: table::Groups,
    pub(in crate::net) keeping: keep::Keeping,
}

impl Dht {
    /// `dir`: where its state is kept.
    pub fn new(dir: Option<&std::path::Path>) -> Dht {
        Dht {
            walks: walks::Walks::default(),
            finds: find::Finds::default(),
            wan: provide::Providing::new(),
            lan: provide::Providing::new(),
            looking: HashMap::new(),
            groups: table::Groups::default(),
            keeping: keep::Keeping::new(dir),
        }
    }

    pub fn wake(&self) -> Option<Instant> {
        [self.wan.wake(), self.lan.wake(), self.walks.wake(), self.keeping.wake()].into_iter().flatten().min()
    }

    fn providing(&mut self, n: Network) -> &mut provide::Providing {
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

impl Task {
    pub(super) fn kad(&mut self, n: Network) -> Option<&mut Kad> {
        kad_of(self.swarm.behaviour_mut(), n)
    }

    /// What is due at this time.
    pub(super) fn dht_time(&mut self, now: Instant) {
        self.walks_time(now);
        self.provide_due(now);
        self.keep_due(now);
    }

    /// The peers of the routing table that are closest to a key, with their addresses.
    pub(in crate::net) fn seeds(
        &mut self,
        n: Network,
        target: &[u8],
    ) -> Vec<(Heard<PeerId>, Vec<Multiaddr>)> {
        let local = *self.swarm.local_peer_id();
        let Some(kad) = self.kad(n) else { return Vec::new() };
        let key = kad::KBucketKey::new(target.to_vec());
        let near: Vec<_> = kad.inner.find_closest_local_peers(&key, &local).collect();
        near.into_iter()
            .map(|p| {
                let addrs = p.multiaddrs.iter().map(|a| super::swarm::split_peer(a).0);
                let addrs: Vec<_> = addrs.filter(|a| kad.may_dial(a)).take(MAX_ADDRS).collect();
                (heard(p.node_id, &addrs), addrs)
            })
            .collect()
    }

    /// Asks for a peer's addresses; false if there is no DHT to ask.
    pub(super) fn look_up(&mut self, peer: PeerId) -> bool {
        let mut asked = false;
        for n in BOTH {
            if self.kad(n).is_none() {
                continue;
            }
            let Some(id) = self.begin_walk(n, peer.to_bytes(), crate::dht::K, walks::Purpose::Peer) else {
                continue;
            };
            self.dht.looking.insert(id, peer);
            asked = true;
        }
        if asked {
            self.pump_all();
        }
        asked
    }

    fn looked_up(&mut self, n: Network, id: walks::WalkId, addrs: Vec<Multiaddr>) {
        let Some(peer) = self.dht.looking.remove(&id) else { return };
        let Some(kad) = self.kad(n) else { return };
        let addrs: Vec<_> = addrs.into_iter().filter(|a| kad.may_dial(a)).collect();
        let waiting = self.dht.looking.values().any(|p| *p == peer);
        if !addrs.is_empty() {
            self.dial_peer(peer, addrs, false);
        } else if !waiting && !self.swarm.is_connected(&peer) {
            let error = "the peer was not found".into();
            self.tell(super::api::Event::DialFailed { peer: Some(peer), error });
        }
    }

    pub(super) fn on_kad(&mut self, n: Network, event: kad::Event) {
        match event {
            kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(mut record) },
            } => {
                let origin = self.origin(&record.provider);
                let Some(kad) = self.kad(n) else { return };
                record.addresses.retain(|a| kad.may_dial(a));
                record.addresses.truncate(MAX_ADDRS);
                if record.addresses.is_empty() {
                    return;
                }
                let (key, peer, addrs) = (record.key, record.provider, record.addresses);
                if let Err(e) = kad.inner.store_mut().add_foreign(key, peer, addrs, origin, unix_now()) {
                    tracing::debug!("provider record not kept: {e}");
                }
            }
            kad::Event::InboundRequest {
                request: InboundRequest::PutRecord { source, record: Some(record), .. },
            } => {
                let origin = self.origin(&source);
                let Some(kad) = self.kad(n) else { return };
                let store = kad.inner.store_mut();
                if let Err(e) = store.put_foreign(record.key, record.value, origin, unix_now()) {
                    tracing::debug!("value not kept: {e}");
                }
            }
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => self.grew(n),
            _ => {}
        }
    }
}

/// A peer as the walks know it.
fn heard(peer: PeerId, addrs: &[Multiaddr]) -> Heard<PeerId> {
    Heard { peer, key: Key::of(&peer.to_bytes()), groups: addr_groups(addrs) }
}

/// Seconds since the Unix epoch.
fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}
