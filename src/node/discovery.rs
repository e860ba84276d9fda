//! Whom to dial: peers named by a link or a flag, providers found, peers told of by peers, the LAN.
//!
//! Whoever names a peer may be lying, so everything is bounded: addresses a peer, dials under way, and how
//! soon one that failed is tried again.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

use crate::engine::event::{PeerEvent, PeerKind};
use crate::net::api::{Command, Event};
use crate::units::{ContentKey, PeerKey};
use crate::wire::exchange::{Message, PeerRecord};

use super::driver::Driver;
use super::peers::{Scope, ip_of, may_share, peer_of, scope_of};

/// Links kept while fetching; more peers than that are not asked to join.
const MAX_LINKS: usize = 80;
/// Peers told of in one answer.
const MAX_TOLD: usize = 50;
/// The pause after a failed dial doubles from this.
const RETRY: Duration = Duration::from_secs(5);
const MAX_DOUBLINGS: u32 = 6;

impl Driver {
    pub(super) fn on_event(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Listening { addr } => tracing::info!("listening on {addr}"),
            Event::Connected { peer, addr, dialed } => {
                let (key, p) = self.peers.entry(peer);
                p.connected = true;
                p.failures = 0;
                if dialed {
                    p.learn([addr.clone()]);
                }
                p.remote = Some(addr);
                if p.candidate {
                    self.link_up(key);
                }
            }
            Event::Disconnected { peer } | Event::Unresponsive { peer } => {
                let (key, p) = self.peers.entry(peer);
                p.connected = false;
                self.link_lost(key, None);
                self.bitswap_lost(key, None);
            }
            Event::DialFailed { peer, error } => self.dial_failed(peer, &error),
            Event::Identified { peer, exchange, bitswap, addrs } => {
                let fetching = self.fetching();
                let (key, p) = self.peers.entry(peer);
                p.learn(addrs);
                p.bitswap_only = bitswap && !exchange;
                if exchange && fetching {
                    p.candidate = true;
                    self.link_up(key);
                } else if p.bitswap_only {
                    // One that was named as a source may have been tried by the exchange already.
                    self.link_lost(key, None);
                    self.bitswap_resumes(key);
                    self.link_up(key);
                }
                self.introduce(key);
            }
            Event::Rtt { peer, rtt } => {
                let key = self.peers.key(peer);
                self.engine.handle_peer(now, key, PeerEvent::Rtt(rtt));
            }
            Event::LinkUp { peer, link } => {
                let (key, p) = self.peers.entry(peer);
                if p.bitswap_only {
                    return; // our streams came to be before the peer refused them
                }
                p.connected = true;
                p.choked = true;
                if p.link.replace(link).is_some() {
                    self.forget_membership(key);
                    self.engine.handle_peer(now, key, PeerEvent::Disconnected);
                }
                self.recall(key, &peer);
                self.bitswap_replaced(key);
                self.engine.handle_peer(
                    now,
                    key,
                    PeerEvent::Connected { kind: PeerKind::Exchange, rtt: None },
                );
                self.limit_peer(key);
            }
            Event::LinkDown { peer, why } => {
                tracing::debug!("link with {peer} is down: {why}");
                let key = self.peers.key(peer);
                self.link_lost(key, None);
            }
            Event::BitswapUp { peer, link } => self.bitswap_up(peer, link),
            Event::BitswapDown { peer, link, why } => {
                tracing::debug!("bitswap with {peer} is over: {why}");
                let key = self.peers.key(peer);
                self.bitswap_lost(key, Some(link));
            }
            Event::Provider { query, peer, addrs } => {
                if peer == self.own_id {
                    return;
                }
                if let Some(&content) = self.queries.get(&query) {
                    self.named_source(content, peer);
                }
                self.candidate(peer, addrs);
            }
            Event::QueryDone { query } => {
                let key = self.queries.remove(&query);
                if let Some(fetch) = key.and_then(|k| self.contents.get_mut(k)).and_then(|c| c.fetch.as_mut())
                {
                    fetch.searching = false;
                }
            }
            Event::LanPeer { peer, addrs } => {
                if self.fetching() {
                    self.candidate(peer, addrs);
                }
            }
        }
    }

    fn fetching(&self) -> bool {
        self.contents.iter().any(|(_, c)| c.fetch.is_some())
    }

    /// Addresses given by a user or a link: each names its peer at the end, or nobody.
    pub(super) fn add_candidates(&mut self, addrs: impl IntoIterator<Item = Multiaddr>) {
        for addr in addrs {
            match peer_of(&addr) {
                Some(peer) if peer == self.own_id => {}
                Some(peer) => self.candidate(peer, vec![addr]),
                None => self.command(Command::Dial { peer: None, addrs: vec![addr] }),
            }
        }
    }

    /// The same, as sources of a fetch.
    pub(super) fn add_sources(&mut self, content: ContentKey, addrs: impl IntoIterator<Item = Multiaddr>) {
        for addr in addrs {
            if let Some(peer) = peer_of(&addr) {
                self.named_source(content, peer);
            }
            self.add_candidates([addr]);
        }
    }

    /// Somebody says that this peer has the content.
    fn named_source(&mut self, content: ContentKey, peer: PeerId) {
        let key = self.peers.key(peer);
        if let Some(fetch) = self.contents.get_mut(content).and_then(|c| c.fetch.as_mut())
            && peer != self.own_id
        {
            fetch.named(key);
        }
    }

    /// A possible source: link up with it, dialling it first where needed.
    pub(super) fn candidate(&mut self, peer: PeerId, addrs: Vec<Multiaddr>) {
        if peer == self.own_id {
            return;
        }
        let now = self.clock.now();
        let full = self.peers.iter().filter(|(_, _, p)| p.link.is_some()).count() >= MAX_LINKS;
        let (key, p) = self.peers.entry(peer);
        p.learn(addrs);
        p.candidate = true;
        if p.connected {
            return self.link_up(key);
        }
        let pause = RETRY * 2u32.pow(p.failures.min(MAX_DOUBLINGS));
        let soon = p.failures > 0 && p.last_dial.is_some_and(|t| now.since(t) < pause);
        let under_way = p.failures == 0 && p.last_dial.is_some_and(|t| now.since(t) < RETRY);
        if full || soon || under_way {
            return;
        }
        p.last_dial = Some(now);
        let addrs = p.addrs.clone();
        self.command(Command::Dial { peer: Some(peer), addrs });
    }

    fn link_up(&mut self, key: PeerKey) {
        let (Some(peer), Some(p)) = (self.peers.id(key), self.peers.get(key)) else { return };
        if p.connected && p.link.is_none() && self.fetching() {
            let bitswap = p.bitswap_only;
            self.command(if bitswap { Command::OpenBitswap { peer } } else { Command::OpenLink { peer } });
        }
    }

    /// A fetch begins: whoever is connected already may have it.
    pub(super) fn link_up_with_connected(&mut self) {
        let keys: Vec<PeerKey> = self
            .peers
            .iter()
            .filter(|(_, _, p)| p.connected && (p.candidate || p.bitswap_only))
            .map(|(k, _, _)| k)
            .collect();
        for key in keys {
            self.link_up(key);
        }
    }

    fn dial_failed(&mut self, peer: Option<PeerId>, error: &str) {
        tracing::debug!("dialling {peer:?} failed: {error}");
        let Some(peer) = peer else { return };
        let now = self.clock.now();
        let (_, p) = self.peers.entry(peer);
        p.failures += 1;
        p.last_dial = Some(now);
    }

    /// The link is gone (`id`: only if it is still that one).
    pub(super) fn link_lost(&mut self, key: PeerKey, id: Option<u64>) {
        let now = self.clock.now();
        let Some(p) = self.peers.get_mut(key) else { return };
        if p.link.as_ref().is_none_or(|l| id.is_some_and(|id| l.id != id)) {
            return;
        }
        p.link = None;
        self.enter(key);
        self.forget_membership(key);
        self.engine.handle_peer(now, key, PeerEvent::Disconnected);
    }

    pub(super) fn forget_membership(&mut self, key: PeerKey) {
        for (_, content) in self.contents.iter_mut() {
            content.members.remove(&key);
        }
    }

    /// Members of a swarm that `to` can be told of, with addresses that mean something to it.
    pub(super) fn told(&self, content: ContentKey, to: PeerKey) -> Vec<PeerRecord> {
        let scope = self.peers.get(to).map_or(Scope::Global, super::peers::Peer::scope);
        let Some(c) = self.contents.get(content) else { return Vec::new() };
        c.members.iter().filter(|&&k| k != to).filter_map(|&k| self.record(k, scope)).take(MAX_TOLD).collect()
    }

    fn record(&self, key: PeerKey, scope: Scope) -> Option<PeerRecord> {
        let (id, p) = (self.peers.id(key)?, self.peers.get(key)?);
        let addrs: Vec<Vec<u8>> =
            p.addrs.iter().filter(|a| may_share(a, scope)).map(Multiaddr::to_vec).collect();
        (!addrs.is_empty()).then(|| PeerRecord { id: id.to_bytes(), addrs, signed_record: Vec::new() })
    }

    /// A peer has just become known well enough to be told of: tell the swarms that it is in, so that they
    /// mesh within a round trip.
    pub(super) fn introduce(&mut self, newcomer: PeerKey) {
        let swarms: Vec<(ContentKey, crate::content::Cid, Vec<PeerKey>)> = self
            .contents
            .iter()
            .filter(|(_, c)| c.members.contains(&newcomer))
            .map(|(k, c)| {
                (k, c.root, c.members.iter().copied().filter(|&m| m != newcomer).take(MAX_TOLD).collect())
            })
            .collect();
        for (_, root, members) in swarms {
            for to in members {
                let scope = self.peers.get(to).map_or(Scope::Global, super::peers::Peer::scope);
                let Some(record) = self.record(newcomer, scope) else { continue };
                self.say(to, Message::Peers { request: 0, root, added: vec![record], dropped: Vec::new() });
            }
        }
    }

    /// Peers told of by a peer. `pushed`: they were told of us at the same moment, so that one of the two
    /// sides is enough to dial: the one with the smaller ID.
    pub(super) fn peers_told(&mut self, by: PeerKey, records: Vec<PeerRecord>, pushed: bool) {
        if !self.fetching() {
            return;
        }
        let scope = self.peers.get(by).map_or(Scope::Global, super::peers::Peer::scope);
        for record in records.into_iter().take(MAX_TOLD) {
            let Ok(peer) = PeerId::from_bytes(&record.id) else { continue };
            let addrs: Vec<Multiaddr> = record
                .addrs
                .into_iter()
                .filter_map(|a| Multiaddr::try_from(a).ok())
                .filter(|a| ip_of(a).is_some_and(|ip| scope_of(ip) >= Scope::Loopback) && may_share(a, scope))
                .collect();
            let ours = self.own_id.to_bytes() < peer.to_bytes();
            if addrs.is_empty() || (pushed && !ours) {
                continue;
            }
            self.candidate(peer, addrs);
        }
    }
}
