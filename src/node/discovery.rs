//! Whom to dial: peers named by a link or a flag, providers found, peers told of by peers, the LAN.
//!
//! Whoever names a peer may be lying, so everything is bounded: addresses a peer, dials under way, and how
//! soon one that failed is tried again.

use libp2p::{Multiaddr, PeerId};

use crate::engine::event::{PeerEvent, PeerKind};
use crate::net::api::{Command, Event};
use crate::units::{ContentKey, PeerKey};

use super::driver::Driver;
use super::peers::peer_of;

/// Links kept while fetching; more peers than that are not asked to join.
const MAX_LINKS: usize = 80;
/// Peers tried again in one search, and strangers asked when a fetch begins.
const TRIED_AGAIN: usize = 16;

impl Driver {
    pub(super) fn on_event(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Listening { addr } => {
                tracing::info!("listening on {addr}");
                self.pex.listening(addr);
            }
            Event::Connected { peer, addr, dialed } => {
                let (key, p) = self.peers.entry(peer);
                p.connected = true;
                p.failures = 0;
                if dialed {
                    p.learn([addr.clone()]);
                }
                p.remote = Some(addr);
                let candidate = p.candidate;
                if dialed {
                    self.hint_was_right(key);
                }
                if candidate {
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
                if p.record.is_none() {
                    p.learn(addrs);
                }
                (p.exchange, p.bitswap_only) = (exchange, bitswap && !exchange);
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
                p.told_where = false;
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
                if peer == self.own_id {
                    return;
                }
                // Multicast DNS tells of a peer once: whoever fetches later is to know of it too.
                let (_, p) = self.peers.entry(peer);
                p.lan = true;
                p.learn(addrs);
                if self.fetching() {
                    self.candidate(peer, Vec::new());
                }
            }
        }
    }

    pub(super) fn fetching(&self) -> bool {
        self.contents.iter().any(|(_, c)| c.fetch.is_some() && !c.paused)
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
        let full = self.links_are_full();
        let (key, p) = self.peers.entry(peer);
        p.learn(addrs);
        p.candidate = true;
        if p.connected {
            return self.link_up(key);
        }
        if full || p.dialling(now) {
            return;
        }
        p.last_dial = Some(now);
        let addrs = p.addrs.clone();
        self.command(Command::Dial { peer: Some(peer), addrs });
    }

    fn links(&self) -> usize {
        self.peers.iter().filter(|(_, _, p)| p.link.is_some()).count()
    }

    pub(super) fn links_are_full(&self) -> bool {
        self.links() >= MAX_LINKS
    }

    /// There is too little supply: whoever was a source before, or is on the local network, is tried again, those that failed
    /// least often first. Each has its own growing pause.
    pub(super) fn try_again(&mut self) {
        let now = self.clock.now();
        // Links with those that nobody has named leave room for those that somebody does.
        let room = self.links() < MAX_LINKS / 2;
        let mut known: Vec<(u32, PeerId)> = (self.peers.iter())
            .filter(|(_, _, p)| p.may_help(now) && (room || p.is_named()))
            .map(|(_, id, p)| (p.failures, id))
            .collect();
        known.sort_unstable();
        for (_, peer) in known.into_iter().take(TRIED_AGAIN) {
            self.candidate(peer, Vec::new());
        }
    }

    fn link_up(&mut self, key: PeerKey) {
        let (Some(peer), Some(p)) = (self.peers.id(key), self.peers.get(key)) else { return };
        if p.connected && p.link.is_none() && self.fetching() {
            let bitswap = p.bitswap_only;
            self.command(if bitswap { Command::OpenBitswap { peer } } else { Command::OpenLink { peer } });
        }
    }

    /// A fetch begins: whoever is connected already may have it. Of those that nobody has named some are asked.
    pub(super) fn link_up_with_connected(&mut self) {
        let connected = || self.peers.iter().filter(|(_, _, p)| p.connected);
        let named = connected().filter(|(_, _, p)| p.is_named() || p.bitswap_only);
        let others = connected().filter(|(_, _, p)| p.exchange && !p.is_named()).take(TRIED_AGAIN);
        let keys: Vec<PeerKey> = named.chain(others).map(|(k, _, _)| k).collect();
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
        p.followed = None;
    }

    /// The link is gone (`id`: only if it is still that one).
    pub(super) fn link_lost(&mut self, key: PeerKey, id: Option<u64>) {
        let now = self.clock.now();
        let Some(p) = self.peers.get_mut(key) else { return };
        if p.link.as_ref().is_none_or(|l| id.is_some_and(|id| l.id != id)) {
            return;
        }
        (p.link, p.record) = (None, None);
        self.enter(key);
        self.forget_membership(key);
        self.engine.handle_peer(now, key, PeerEvent::Disconnected);
    }

    pub(super) fn forget_membership(&mut self, key: PeerKey) {
        for (_, content) in self.contents.iter_mut() {
            content.left(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::node::world::*;
    use crate::store::MemStore;
    use crate::wire::exchange::Message;

    async fn opens_a_link(w: &mut World) {
        let peer = w.peer;
        let to = |c: &Command| matches!(c, Command::OpenLink { peer: to } if *to == peer).then_some(());
        w.commands("a link is opened", to).await;
    }

    #[tokio::test]
    async fn a_link_lost_from_a_connection_that_lives_is_opened_again() {
        let ((_, _, root), store) = (shared(), Arc::new(MemStore::new()));
        let mut w = World::new(store.clone()).await;
        let (_told, _end) = fetch(&w, &store, root, SOON * 2).await;
        let peer = w.peer;
        w.event(Event::Identified { peer, exchange: true, bitswap: false, addrs: Vec::new() }).await;
        w.hears("join", |m| matches!(m, Message::Join { .. }).then_some(())).await;
        w.event(Event::LinkDown { peer, why: "a test".into() }).await;
        opens_a_link(&mut w).await;
    }

    #[tokio::test]
    async fn who_was_met_before_a_fetch_began_is_linked_with_when_it_does() {
        let ((_, _, root), store) = (shared(), Arc::new(MemStore::new()));
        let mut w = World::new(store.clone()).await;
        let peer = w.peer;
        w.event(Event::LinkDown { peer, why: "a test".into() }).await;
        w.event(Event::Identified { peer, exchange: true, bitswap: false, addrs: Vec::new() }).await;
        w.events_are_taken().await;
        let (_told, _end) = fetch(&w, &store, root, SOON * 2).await;
        opens_a_link(&mut w).await;
    }

    /// Those would have taken all links, and no provider that is found later would be dialled.
    #[tokio::test]
    async fn of_many_strangers_that_are_connected_few_are_linked_with() {
        let ((_, _, root), store) = (shared(), Arc::new(MemStore::new()));
        let mut w = World::new(store.clone()).await;
        for n in 0..2 * MAX_LINKS {
            let (peer, addr) = (PeerId::random(), format!("/ip4/127.0.0.1/tcp/{}", n + 1).parse().unwrap());
            w.event(Event::Connected { peer, addr, dialed: false }).await;
            w.event(Event::Identified { peer, exchange: true, bitswap: false, addrs: Vec::new() }).await;
        }
        w.events_are_taken().await;
        let (_told, _end) = fetch(&w, &store, root, SOON * 2).await;
        let provider = PeerId::random();
        let addrs = vec!["/ip4/127.0.0.1/tcp/9999".parse().unwrap()];
        let mut opened = 0;
        let query = loop {
            let which = |c: &Command| match c {
                Command::OpenLink { .. } => Some(None),
                Command::FindProviders { query, .. } => Some(Some(*query)),
                _ => None,
            };
            match w.commands("a search", which).await {
                Some(query) => break query,
                None => opened += 1,
            }
        };
        assert!((1..=2 * TRIED_AGAIN).contains(&opened), "{opened} links");
        w.event(Event::Provider { query, peer: provider, addrs }).await;
        let dials =
            |c: &Command| matches!(c, Command::Dial { peer, .. } if *peer == Some(provider)).then_some(());
        w.commands("the provider is dialled", dials).await;
    }
}
