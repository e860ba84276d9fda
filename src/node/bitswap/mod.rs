//! Bitswap peers as the engine sees them: one more kind of source, and one more kind of leecher.
//!
//! `client` asks them for what the engine wants of them: HAVE of the root of every content that is being
//! fetched, of all that are connected; a block from the one that the engine picks for it, at whose time-out it
//! is cancelled and asked of another. `server` answers their wants. What stands here is what both share.
//!
//! There is no list of what a Bitswap peer holds. One that has the root is taken for one that has everything;
//! each DONT_HAVE takes a chunk off that, until supply is short and it is asked again.

mod client;
mod lookup;
mod server;

use std::collections::BTreeMap;

use libp2p::PeerId;

use crate::engine::event::{Fault, PeerEvent, PeerKind};
use crate::net::bitswap::{Link, News, What};
use crate::units::{ContentKey, PeerKey};
use crate::wire::bitswap::{Entry, Message};

use super::driver::Driver;

pub(super) use client::Specs;
pub(super) use lookup::Looked;
pub(super) use server::Sending;

/// What there is with one peer.
pub struct Session {
    pub(super) link: Link,
    client: client::Client,
    server: server::Server,
}

#[derive(Default)]
pub struct Bitswap {
    sessions: BTreeMap<PeerKey, Session>,
    lookups: lookup::Lookups,
    /// Bytes of blocks that came although they had been cancelled.
    pub(super) late_bytes: u64,
}

impl Bitswap {
    /// Who is spoken with.
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.sessions.keys().copied()
    }
}

impl Session {
    /// Either side waits for something.
    fn is_busy(&self) -> bool {
        self.client.is_busy() || self.server.is_busy()
    }
}

impl Driver {
    /// Bitswap can be spoken with this peer. One that the exchange is spoken with is not asked for anything.
    pub(super) fn bitswap_up(&mut self, peer: PeerId, link: Link) {
        let now = self.clock.now();
        let (key, p) = self.peers.entry(peer);
        p.connected = true;
        let exchange = p.link.is_some();
        let session = Session { link, client: Default::default(), server: Default::default() };
        if self.bitswap.sessions.insert(key, session).is_some() && !exchange {
            self.forget_membership(key);
            self.engine.handle_peer(now, key, PeerEvent::Disconnected);
        }
        if !exchange {
            self.recall(key, &peer);
            self.engine.handle_peer(now, key, PeerEvent::Connected { kind: PeerKind::Bitswap, rtt: None });
            self.limit_peer(key);
        }
    }

    /// The link is gone (`id`: only if it is still that one).
    pub(super) fn bitswap_lost(&mut self, key: PeerKey, id: Option<u64>) {
        let now = self.clock.now();
        let Some(session) = self.bitswap.sessions.get(&key) else { return };
        if id.is_some_and(|id| session.link.id != id) {
            return;
        }
        self.enter(key);
        self.bitswap.sessions.remove(&key);
        if self.peers.get(key).is_none_or(|p| p.link.is_none()) {
            self.forget_membership(key);
            self.engine.handle_peer(now, key, PeerEvent::Disconnected);
        }
    }

    /// The exchange took over: the engine knows this peer by that.
    pub(super) fn bitswap_replaced(&mut self, key: PeerKey) {
        if let Some(session) = self.bitswap.sessions.get_mut(&key) {
            (session.client, session.server) = Default::default();
            session.link.keep(false);
        }
    }

    /// The exchange was tried with a peer that does not speak it, and the engine has heard that it is gone; but
    /// it is not, if there is a session.
    pub(super) fn bitswap_resumes(&mut self, key: PeerKey) {
        let now = self.clock.now();
        let Some(id) = self.peers.id(key) else { return };
        if self.by_bitswap(key) && self.engine.peer(now, key).is_none() {
            self.recall(key, &id);
            self.engine.handle_peer(now, key, PeerEvent::Connected { kind: PeerKind::Bitswap, rtt: None });
            self.limit_peer(key);
        }
    }

    pub(super) fn on_bitswap(&mut self, news: News) {
        let News { peer, link, what } = news;
        let now = self.clock.now();
        let known = self.peers.known(&peer);
        let live = known.filter(|k| self.bitswap.sessions.get(k).is_some_and(|s| s.link.id == link));
        let exchange = live.and_then(|k| self.peers.get(k)).is_some_and(|p| p.link.is_some());
        let Some(key) = live.filter(|_| !exchange) else {
            if let What::Block { body, .. } | What::Sent { body, .. } = what {
                self.buffers.put(body);
            }
            return;
        };
        match what {
            What::Message { entries, full, presences } => {
                for (cid, have) in presences {
                    self.presence(key, &cid, have);
                }
                if full || !entries.is_empty() {
                    self.wanted_by(key, entries, full);
                }
            }
            What::Block { cid: Some(cid), body } => self.block_arrived(key, peer, cid, body),
            What::Block { cid: None, body } => {
                self.buffers.put(body);
                self.faulty(key, Fault::Unasked);
            }
            What::Progress { bytes } => {
                self.engine.handle_peer(now, key, PeerEvent::Receiving { bytes });
            }
            What::Sent { chunk, bytes, body } => {
                self.buffers.put(body);
                self.block_sent(key, chunk, bytes);
            }
            What::Violation(what) => {
                tracing::info!("{peer} broke the protocol: {what}");
                self.faulty(key, Fault::Malformed);
                self.bitswap_lost(key, Some(link));
            }
            What::Closed => self.bitswap_lost(key, Some(link)),
        }
        self.say_wants(key);
        self.mind_connection(key);
    }

    /// Bitswap is what this peer is spoken with.
    pub(super) fn by_bitswap(&self, key: PeerKey) -> bool {
        self.bitswap.sessions.contains_key(&key) && self.peers.get(key).is_some_and(|p| p.link.is_none())
    }

    /// Says something; a peer that does not read is dropped, as one that is gone.
    fn say_bitswap(&mut self, to: PeerKey, message: Message) {
        let Some(session) = self.bitswap.sessions.get(&to) else { return };
        let id = session.link.id;
        if !message.is_empty() && !session.link.say(message) {
            self.bitswap_lost(to, Some(id));
        }
    }

    fn say_entries(&mut self, to: PeerKey, entries: Vec<Entry>) {
        self.say_bitswap(to, Message { entries, ..Message::default() });
    }

    /// A connection over which somebody waits is kept, however long nothing is said.
    fn mind_connection(&self, key: PeerKey) {
        if let Some(session) = self.bitswap.sessions.get(&key) {
            session.link.keep(session.is_busy());
        }
    }

    /// A content is fetched, or served, no more.
    pub(super) fn bitswap_forgets(&mut self, content: ContentKey) {
        let keys: Vec<PeerKey> = self.bitswap.sessions.keys().copied().collect();
        for key in keys {
            self.stop_asking(key, content);
            self.stop_serving(key, content);
            self.mind_connection(key);
        }
    }

    /// What has no event of its own.
    pub(super) fn bitswap_tick(&mut self) {
        self.give_up_roots();
        self.look_again();
    }
}
