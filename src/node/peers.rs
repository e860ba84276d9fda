//! Who is who: libp2p's peer IDs and the engine's keys, the link to each, and where each can be dialled.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::net::api::Link;
use crate::net::signed::Signed;
use crate::units::{PeerKey, Time};

use super::pex::Followed;

/// Peers remembered that are not connected; the oldest go first.
const MAX_REMEMBERED: usize = 4_096;
/// Addresses kept of one peer.
const MAX_ADDRS: usize = 8;

#[derive(Debug, Default)]
pub struct Peer {
    /// The exchange.
    pub link: Option<Link>,
    /// Identify said that it speaks the exchange.
    pub exchange: bool,
    /// Identify said that it speaks Bitswap and not the exchange.
    pub bitswap_only: bool,
    pub connected: bool,
    /// The address of the connection, as the other end is seen.
    pub remote: Option<Multiaddr>,
    /// Where it says it listens, or where we reached it.
    pub addrs: Vec<Multiaddr>,
    /// We choke it (told by the engine's actions; a new peer is choked).
    pub choked: bool,
    /// Somebody named it as a source: link up with it once connected.
    pub candidate: bool,
    pub last_dial: Option<Time>,
    pub failures: u32,
    /// Its own signed record, as it gave it; kept while it is linked.
    pub record: Option<Signed>,
    /// The number of its newest record that we have seen; 0: none.
    pub seq: u64,
    /// It has our record.
    pub told_where: bool,
    /// Another peer named it, and it is being dialled for that.
    pub followed: Option<Followed>,
    /// Seen on the local network.
    pub lan: bool,
}

/// The pause after a failed dial doubles from this.
const RETRY: Duration = Duration::from_secs(5);
const MAX_DOUBLINGS: u32 = 6;

impl Peer {
    /// The peer is on this machine, on the same local network, or somewhere else.
    pub fn scope(&self) -> Scope {
        self.remote.as_ref().and_then(ip_of).map_or(Scope::Global, scope_of)
    }

    /// It is being dialled, or that failed too short a while ago.
    pub fn dialling(&self, now: Time) -> bool {
        let pause = RETRY * 2u32.pow(self.failures.min(MAX_DOUBLINGS));
        self.last_dial.is_some_and(|t| now.since(t) < pause)
    }

    /// It is worth a try while there is too little supply. One that is connected may have lost its link alone, or was
    /// met when nothing was wanted: nothing else would open one.
    pub fn may_help(&self, now: Time) -> bool {
        if self.connected {
            return self.link.is_none() && !self.bitswap_only && (self.candidate || self.exchange);
        }
        self.is_named() && !self.dialling(now) && !self.addrs.is_empty()
    }

    /// Somebody, or its being nearby, says that it may have what is fetched.
    pub fn is_named(&self) -> bool {
        self.candidate || self.lan
    }

    pub fn learn(&mut self, addrs: impl IntoIterator<Item = Multiaddr>) {
        for a in addrs {
            let a = without_peer(a);
            if !self.addrs.contains(&a) && self.addrs.len() < MAX_ADDRS {
                self.addrs.push(a);
            }
        }
    }
}

/// How far an address reaches. Smaller reaches less far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Loopback,
    Private,
    Global,
}

pub fn scope_of(ip: IpAddr) -> Scope {
    match ip {
        _ if ip.is_loopback() => Scope::Loopback,
        IpAddr::V4(v4) if v4.is_private() || v4.is_link_local() => Scope::Private,
        // fc00::/7 and fe80::/10
        IpAddr::V6(v6) if v6.segments()[0] & 0xfe00 == 0xfc00 || v6.segments()[0] & 0xffc0 == 0xfe80 => {
            Scope::Private
        }
        _ => Scope::Global,
    }
}

pub fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

/// The peer that an address ends in.
pub fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

pub fn without_peer(mut addr: Multiaddr) -> Multiaddr {
    if peer_of(&addr).is_some() {
        addr.pop();
    }
    addr
}

/// Whether an address may be told to, or tried from, a peer of that scope: loopback addresses mean
/// something on this machine only, private ones on this network only.
pub fn may_share(addr: &Multiaddr, with: Scope) -> bool {
    match ip_of(addr).map(scope_of) {
        Some(Scope::Loopback) => with == Scope::Loopback,
        Some(Scope::Private) => with <= Scope::Private,
        Some(Scope::Global) => true,
        None => matches!(addr.iter().next(), Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_))),
    }
}

#[derive(Default)]
pub struct PeerTable {
    keys: HashMap<PeerId, PeerKey>,
    ids: BTreeMap<PeerKey, (PeerId, Peer)>,
    next: u64,
}

impl PeerTable {
    pub fn key(&mut self, id: PeerId) -> PeerKey {
        if let Some(&key) = self.keys.get(&id) {
            return key;
        }
        self.forget_old();
        let key = PeerKey(self.next);
        self.next += 1;
        self.keys.insert(id, key);
        self.ids.insert(key, (id, Peer { choked: true, ..Peer::default() }));
        key
    }

    pub fn known(&self, id: &PeerId) -> Option<PeerKey> {
        self.keys.get(id).copied()
    }

    pub fn id(&self, key: PeerKey) -> Option<PeerId> {
        self.ids.get(&key).map(|(id, _)| *id)
    }

    pub fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.ids.get(&key).map(|(_, p)| p)
    }

    pub fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.ids.get_mut(&key).map(|(_, p)| p)
    }

    pub fn entry(&mut self, id: PeerId) -> (PeerKey, &mut Peer) {
        let key = self.key(id);
        let (_, peer) = self.ids.get_mut(&key).expect("key() has just put it there");
        (key, peer)
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerKey, PeerId, &Peer)> {
        self.ids.iter().map(|(&k, (id, p))| (k, *id, p))
    }

    pub fn connected(&self) -> usize {
        self.ids.values().filter(|(_, p)| p.connected).count()
    }

    fn forget_old(&mut self) {
        if self.ids.len() < MAX_REMEMBERED {
            return;
        }
        let old = self
            .ids
            .iter()
            .find(|(_, (_, p))| !p.connected && p.link.is_none())
            .map(|(&k, (id, _))| (k, *id));
        if let Some((key, id)) = old {
            self.ids.remove(&key);
            self.keys.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_loopback_addresses_stay_where_they_mean_something() {
        let shared = |a: &str, s| may_share(&a.parse().expect("a multiaddr"), s);
        assert!(shared("/ip4/127.0.0.1/tcp/1", Scope::Loopback));
        assert!(!shared("/ip4/127.0.0.1/tcp/1", Scope::Private));
        assert!(shared("/ip4/10.0.0.1/tcp/1", Scope::Private));
        assert!(!shared("/ip4/10.0.0.1/tcp/1", Scope::Global));
        assert!(!shared("/ip6/fe80::1/tcp/1", Scope::Global));
        assert!(shared("/ip4/8.8.8.8/udp/1/quic-v1", Scope::Global));
        assert!(!shared("/unix/tmp", Scope::Loopback));
    }

    #[test]
    fn a_peer_that_comes_back_is_the_same_peer() {
        let (mut t, id) = (PeerTable::default(), PeerId::random());
        let key = t.key(id);
        assert_eq!(t.key(id), key);
        assert_eq!(t.id(key), Some(id));
    }

    #[test]
    fn strangers_do_not_fill_the_table() {
        let mut t = PeerTable::default();
        for _ in 0..MAX_REMEMBERED + 100 {
            t.key(PeerId::random());
        }
        assert!(t.ids.len() <= MAX_REMEMBERED);
    }
}
