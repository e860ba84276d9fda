//! Which addresses belong where, and a wrapper that lets a behaviour see only its own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::{ListenerId, PortUse};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{
    ExpiredListenAddr, ExternalAddrConfirmed, ExternalAddrExpired, NewListenAddr,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::swarm::split_peer;
use crate::dht::{Group, group_of_v4, group_of_v6};

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// This machine.
    Loopback,
    /// Private, link-local and carrier-internal ranges.
    Lan,
    /// Everything else, names and relayed addresses included.
    Global,
}

/// `None`: nobody can be reached there.
pub fn scope_of(addr: &Multiaddr) -> Option<Scope> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => scope_of_v4(ip),
        Protocol::Ip6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => scope_of_v4(ip),
            None => scope_of_v6(ip),
        },
        Protocol::Dns(n) | Protocol::Dns4(n) | Protocol::Dns6(n) | Protocol::Dnsaddr(n) => {
            let name = n.trim_end_matches('.').to_ascii_lowercase();
            let local = name == "localhost" || name.ends_with(".localhost");
            let lan = name.ends_with(".local");
            Some(if local {
                Scope::Loopback
            } else if lan {
                Scope::Lan
            } else {
                Scope::Global
            })
        }
        Protocol::P2p(_) if addr.iter().any(|p| p == Protocol::P2pCircuit) => Some(Scope::Global),
        _ => None,
    }
}

fn scope_of_v4(ip: Ipv4Addr) -> Option<Scope> {
    let [a, b, c, _] = ip.octets();
    let nowhere = a == 0
        || a >= 224
        || matches!((a, b, c), (192, 0, 0 | 2) | (198, 51, 100) | (203, 0, 113))
        || (a == 198 && b & 0xfe == 18);
    let carrier = a == 100 && b & 0xc0 == 64;
    if ip.is_loopback() {
        Some(Scope::Loopback)
    } else if nowhere {
        None
    } else if ip.is_private() || ip.is_link_local() || carrier {
        Some(Scope::Lan)
    } else {
        Some(Scope::Global)
    }
}

fn scope_of_v6(ip: Ipv6Addr) -> Option<Scope> {
    let s = ip.segments();
    if ip.is_loopback() {
        Some(Scope::Loopback)
    } else if ip.is_unspecified() || ip.is_multicast() || (s[0] == 0x2001 && s[1] == 0xdb8) {
        None
    } else if s[0] & 0xfe00 == 0xfc00 || s[0] & 0xffc0 == 0xfe80 {
        Some(Scope::Lan)
    } else {
        Some(Scope::Global)
    }
}

/// The IP groups of public addresses, each once.
pub fn addr_groups(addrs: &[Multiaddr]) -> Vec<Group> {
    let global = addrs.iter().filter(|a| scope_of(a) == Some(Scope::Global));
    let mut groups: Vec<Group> = global
        .filter(|a| !a.iter().any(|p| p == Protocol::P2pCircuit))
        .filter_map(|a| match a.iter().next()? {
            Protocol::Ip4(ip) => Some(group_of_v4(ip.octets())),
            Protocol::Ip6(ip) => Some(match ip.to_ipv4_mapped() {
                Some(ip) => group_of_v4(ip.octets()),
                None => group_of_v6(ip.octets()),
            }),
            _ => None,
        })
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// For whom a wrapped behaviour speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The public DHT: global addresses alone.
    Wan,
    /// The local DHT: what is not global; our listen addresses count as confirmed.
    Lan,
    /// Everybody who is connected, or on the same network.
    All,
}

/// Addresses of one peer that are dialled at most.
const MAX_DIALED: usize = 16;

/// A behaviour that sees and gives only the addresses that belong to its audience.
///
/// Loopback addresses of ours are told only if we have no others: then all our peers are on this
/// machine. Those of others are dialled only if we are such a node, or have such a peer.
pub struct Scoped<B> {
    pub inner: B,
    audience: Audience,
    /// All that the swarm listens on; whether the inner behaviour was told.
    listen: HashMap<Multiaddr, (ListenerId, bool)>,
    /// Connections with peers on this machine.
    near: usize,
}

impl<B: NetworkBehaviour> Scoped<B> {
    pub fn new(audience: Audience, inner: B) -> Scoped<B> {
        Scoped { inner, audience, listen: HashMap::new(), near: 0 }
    }

    fn only_loopback(&self) -> bool {
        !self.listen.is_empty() && self.listen.keys().all(is_near)
    }

    /// Whether an address of ours may be told.
    fn may_tell(&self, addr: &Multiaddr) -> bool {
        match (self.audience, scope_of(addr)) {
            (_, None) => false,
            (Audience::Wan, Some(s)) => s == Scope::Global,
            (Audience::Lan | Audience::All, Some(Scope::Loopback)) => self.only_loopback(),
            (Audience::Lan | Audience::All, Some(_)) => true,
        }
    }

    /// Whether somebody else's address may be dialled, or kept.
    pub fn may_dial(&self, addr: &Multiaddr) -> bool {
        match (self.audience, scope_of(addr)) {
            (_, None) => false,
            (Audience::Wan, Some(s)) => s == Scope::Global,
            (_, Some(Scope::Loopback)) => self.near > 0 || self.only_loopback(),
            (_, Some(_)) => true,
        }
    }

    /// Our listen addresses that its audience is told, the same order each time.
    pub fn told(&self) -> Vec<Multiaddr> {
        let told = self.listen.iter().filter(|(_, (_, told))| *told);
        let mut told: Vec<Multiaddr> = told.map(|(addr, _)| addr.clone()).collect();
        told.sort();
        told
    }

    /// The addresses under which the inner behaviour knows a peer at this moment.
    pub fn addresses_of(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let id = ConnectionId::new_unchecked(0);
        let found = self.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer);
        found.unwrap_or_default()
    }

    /// Tells the inner behaviour what has changed about our addresses.
    fn tell(&mut self) {
        let changed: Vec<_> = self
            .listen
            .iter()
            .filter(|(addr, (_, told))| self.may_tell(addr) != *told)
            .map(|(addr, &(id, told))| (addr.clone(), id, !told))
            .collect();
        for (addr, id, tell) in changed {
            self.listen.insert(addr.clone(), (id, tell));
            self.tell_one(&addr, id, tell);
        }
    }

    fn tell_one(&mut self, addr: &Multiaddr, listener_id: ListenerId, new: bool) {
        let event = if new {
            FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr })
        } else {
            FromSwarm::ExpiredListenAddr(ExpiredListenAddr { listener_id, addr })
        };
        self.inner.on_swarm_event(event);
        if self.audience == Audience::Lan {
            // Provider records carry confirmed addresses only.
            self.inner.on_swarm_event(if new {
                FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr })
            } else {
                FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr })
            });
        }
    }

    /// A confirmed address of ours: of interest to the public DHT and to those who are told all.
    fn wants_external(&self, addr: &Multiaddr) -> bool {
        self.audience != Audience::Lan && scope_of(addr) == Some(Scope::Global)
    }
}

fn is_near(addr: &Multiaddr) -> bool {
    scope_of(addr) == Some(Scope::Loopback)
}

impl<B: NetworkBehaviour> NetworkBehaviour for Scoped<B> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut found = self.inner.handle_pending_outbound_connection(id, peer, addresses, role)?;
        found.retain(|a| self.may_dial(a));
        found.truncate(MAX_DIALED);
        // kad and multicast DNS end an address with its peer, others do not, and the swarm would dial both.
        for addr in &mut found {
            if let (bare, Some(named)) = split_peer(addr)
                && peer == Some(named)
            {
                *addr = bare;
            }
        }
        Ok(found)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::NewListenAddr(e) => {
                self.listen.insert(e.addr.clone(), (e.listener_id, false));
                return self.tell();
            }
            FromSwarm::ExpiredListenAddr(e) => {
                if let Some((id, true)) = self.listen.remove(e.addr) {
                    self.tell_one(e.addr, id, false);
                }
                return self.tell();
            }
            FromSwarm::ExternalAddrConfirmed(e) if !self.wants_external(e.addr) => return,
            FromSwarm::ExternalAddrExpired(e) if !self.wants_external(e.addr) => return,
            FromSwarm::ConnectionEstablished(e) if is_near(e.endpoint.get_remote_address()) => {
                self.near += 1;
            }
            FromSwarm::ConnectionClosed(e) if is_near(e.endpoint.get_remote_address()) => {
                self.near = self.near.saturating_sub(1);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let scope = |s: &str| scope_of(&s.parse().unwrap());
        for a in
            ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/::ffff:127.9.9.9/tcp/1", "/dns4/localhost/tcp/1"]
        {
            assert_eq!(scope(a), Some(Scope::Loopback), "{a}");
        }
        for a in [
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/172.31.0.1/tcp/1",
            "/ip4/192.168.1.1/udp/1/quic-v1",
            "/ip4/169.254.1.1/tcp/1",
            "/ip4/100.100.0.1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/dns/nas.local/tcp/1",
        ] {
            assert_eq!(scope(a), Some(Scope::Lan), "{a}");
        }
        for a in [
            "/ip4/1.2.3.4/tcp/1",
            "/ip4/172.32.0.1/tcp/1",
            "/ip6/2a00::1/tcp/1",
            "/dnsaddr/bootstrap.libp2p.io",
        ] {
            assert_eq!(scope(a), Some(Scope::Global), "{a}");
        }
        for a in [
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/224.0.0.1/udp/1",
            "/ip4/255.255.255.255/tcp/1",
            "/ip4/192.0.2.1/tcp/1",
            "/ip6/ff02::1/udp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/memory/1",
        ] {
            assert_eq!(scope(a), None, "{a}");
        }
    }

    fn listening(audience: Audience, addrs: &[&str]) -> Scoped<libp2p::swarm::dummy::Behaviour> {
        let mut s = Scoped::new(audience, libp2p::swarm::dummy::Behaviour);
        for a in addrs {
            let addr: Multiaddr = a.parse().unwrap();
            let listener_id = ListenerId::next();
            s.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr: &addr }));
        }
        s
    }

    fn told<B>(s: &Scoped<B>) -> Vec<String> {
        let mut v: Vec<_> = s.listen.iter().filter(|(_, (_, t))| *t).map(|(a, _)| a.to_string()).collect();
        v.sort();
        v
    }

    #[test]
    fn loopback_is_told_only_where_there_is_nothing_else() {
        let (near, lan, global) = ("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/1.2.3.4/tcp/1");
        assert_eq!(told(&listening(Audience::Lan, &[near])), [near]);
        assert_eq!(told(&listening(Audience::Lan, &[near, lan])), [lan]);
        assert_eq!(told(&listening(Audience::All, &[near, global, lan])), [global, lan]);
        assert_eq!(told(&listening(Audience::Wan, &[near, global, lan])), [global]);
    }

    /// kad and multicast DNS say `/p2p/ID` at the end, links and flags were read without it: of each such address two
    /// connections were begun.
    #[test]
    fn an_address_is_dialled_once_whoever_says_it() {
        use libp2p::kad::{self, store::MemoryStore};

        let (own, peer, other) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut s = Scoped::new(Audience::Lan, kad::Behaviour::new(own, MemoryStore::new(own)));
        let direct: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let relayed: Multiaddr = format!("/ip4/10.0.0.2/tcp/2/p2p/{other}/p2p-circuit").parse().unwrap();
        for addr in [&direct, &relayed] {
            s.inner.add_address(&peer, addr.clone());
        }
        let known = s.inner.kbucket(peer).unwrap().iter().next().unwrap().node.value.first().clone();
        assert_eq!(known, direct.clone().with_p2p(peer).unwrap(), "what kad keeps");
        let id = ConnectionId::new_unchecked(1);
        let found = s.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer).unwrap();
        assert_eq!(found, [direct, relayed]);
    }

    #[test]
    fn a_peer_cannot_make_us_dial_our_own_machine() {
        let a: Multiaddr = "/ip4/127.0.0.1/tcp/22".parse().unwrap();
        assert!(!listening(Audience::Lan, &["/ip4/10.0.0.1/tcp/1"]).may_dial(&a));
        assert!(!listening(Audience::Wan, &["/ip4/127.0.0.1/tcp/1"]).may_dial(&a));
        assert!(listening(Audience::Lan, &["/ip4/127.0.0.1/tcp/1"]).may_dial(&a));
    }
}
