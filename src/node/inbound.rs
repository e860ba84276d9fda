//! What peers say: the exchange's messages turned into the engine's events.

use std::sync::Arc;

use bytes::Bytes;
use libp2p::PeerId;

use crate::content::Cid;
use crate::engine::event::{Fault, PeerEvent, Refusal};
use crate::net::api::Inbound;
use crate::units::{ChunkIndex, ContentKey, PeerKey};
use crate::wire::exchange::{MAX_JOINED_NODES_LEN, Message, PeerRecord, Update, Why};

use super::arriving::Came;
use super::driver::{Driver, Slow};
use super::walk::first_nodes;

/// Messages that may wait on a link's control stream for a node to be added that is longer than most: so what a peer
/// that asks and does not read makes us keep is bounded.
const FEW_WAITING: usize = 4;
/// Joins that wait for a disk read, all contents together.
const MAX_WAITING_JOINS: usize = 1_024;

impl Driver {
    pub(super) fn on_inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Message { peer, link, message } => {
                if let Some(key) = self.linked(peer, link) {
                    self.on_message(key, message);
                }
            }
            Inbound::Chunk { peer, link, message, body } => match (self.linked(peer, link), message) {
                (Some(key), Message::Chunk { root, index, block_lens }) => {
                    let came = Came { from: key, peer, chunk: index, block_lens, body };
                    self.chunk_came(&root, came);
                }
                _ => self.buffers.put(body),
            },
            Inbound::Progress { peer, link, bytes } => {
                if let Some(key) = self.linked(peer, link) {
                    let now = self.clock.now();
                    self.engine.handle_peer(now, key, PeerEvent::Receiving { bytes });
                }
            }
            Inbound::Sent { peer, link, message, body } => {
                let bytes = body.len() as u64;
                self.buffers.put(body);
                let (Some(key), Message::Chunk { root, index, .. }) = (self.linked(peer, link), message)
                else {
                    return;
                };
                self.sent(key, root, index, bytes);
            }
            Inbound::Violation { peer, link, what } => {
                tracing::info!("{peer} broke the protocol: {what}");
                let Some(key) = self.linked(peer, link) else { return };
                self.faulty(key, Fault::Malformed);
                self.link_lost(key, Some(link));
            }
            Inbound::Bitswap(news) => self.on_bitswap(news),
            Inbound::Closed { peer, link } => {
                if let Some(key) = self.peers.known(&peer) {
                    self.link_lost(key, Some(link));
                }
            }
        }
    }

    /// The peer's key, if `link` is its present link: what an older one still delivers counts no more.
    fn linked(&self, peer: PeerId, link: u64) -> Option<PeerKey> {
        let key = self.peers.known(&peer)?;
        (self.peers.get(key)?.link.as_ref()?.id == link).then_some(key)
    }

    pub(super) fn on_message(&mut self, from: PeerKey, message: Message) {
        let now = self.clock.now();
        match message {
            Message::Join { root, have, complete, interested, any, has_nodes } => {
                let Some(content) = self.join(from, root) else {
                    let join = Message::Join { root, have, complete, interested, any, has_nodes };
                    return self.join_part(from, root, join);
                };
                self.engine.handle_peer(
                    now,
                    from,
                    PeerEvent::Joined { content, have: have.clone(), complete },
                );
                self.engine.handle_peer(now, from, PeerEvent::Interested { content, interested });
                let newcomer = !complete && !has_nodes && have.is_empty();
                self.answer_join(content, from, newcomer, any);
            }
            Message::Joined { root, have, complete, interested, choked, nodes, peers, first } => {
                self.on_joined(from, root, have, complete, interested, choked, nodes, peers, first);
            }
            Message::Unknown { root } => {
                if let Some((content, _)) = self.contents.of_root(&root) {
                    self.engine.handle_peer(now, from, PeerEvent::Left { content });
                }
            }
            Message::GetNodes { request, root, cids } if self.paused.contains(&root) => {
                self.say(from, Message::Nodes { request, nodes: Vec::new(), lacking: cids });
            }
            Message::GetNodes { request, root: _, cids } => self.answer_nodes(from, request, cids),
            Message::Nodes { request, nodes, lacking } => {
                if let Some(content) = self.requests.remove(&request) {
                    self.nodes_arrived(content, from, nodes, Some(lacking));
                }
            }
            Message::GetChunks { root, indices } => match self.contents.of_root(&root) {
                Some((content, c)) if c.active => {
                    self.engine.handle_peer(now, from, PeerEvent::Requested { content, chunks: indices });
                }
                _ => self.refuse_all(from, root, &indices),
            },
            Message::Cancel { root, indices } => {
                if let Some((content, _)) = self.contents.of_root(&root) {
                    self.engine.handle_peer(
                        now,
                        from,
                        PeerEvent::CancelledByPeer { content, chunks: indices },
                    );
                }
            }
            Message::Update(update) => self.on_update(from, update),
            Message::GetPeers { request, root } => self.answer_peers(from, request, root),
            Message::Peers { request, added, dropped, .. } => self.peers_told(from, request, added, dropped),
            Message::NoChunk { root, index, why } => {
                if let Some((content, _)) = self.contents.of_root(&root) {
                    let why = match why {
                        Why::Gone => Refusal::Gone,
                        Why::Choked => Refusal::Choked,
                        Why::Cancelled => Refusal::Cancelled,
                    };
                    self.engine.handle_peer(now, from, PeerEvent::Refused { content, chunk: index, why });
                }
            }
            // Hellos and receipts are the stream tasks' business, and a chunk comes with its body or not at all.
            Message::Hello(_) | Message::Received { .. } | Message::Chunk { .. } => {
                self.faulty(from, Fault::Malformed);
            }
        }
    }

    /// Someone wants to be in the swarm of `root`: is there one here?
    fn join(&mut self, from: PeerKey, root: Cid) -> Option<ContentKey> {
        let (key, content) = self.contents.of_root(&root)?;
        if !content.serves() {
            return None;
        }
        if !content.active {
            self.activate(key, false);
        }
        self.contents.get_mut(key)?.members.insert(from);
        Some(key)
    }

    /// Answers a join; a newcomer is given the first inner nodes too, which may have to be read first.
    fn answer_join(&mut self, key: ContentKey, to: PeerKey, newcomer: bool, any: bool) {
        let Some(content) = self.contents.get_mut(key) else { return };
        let raw = content.root.codec() == crate::content::RAW;
        if !newcomer || raw {
            return self.joined(key, to, Vec::new(), any);
        }
        if let Some(nodes) = content.first_nodes.clone() {
            return self.joined(key, to, nodes.to_vec(), any);
        }
        if self.joins.len() < MAX_WAITING_JOINS {
            let (store, root) = (self.store.clone(), content.root);
            let reading = self.joins.iter().any(|(k, ..)| *k == key);
            self.joins.push((key, to, any));
            if !reading {
                self.slowly(move || Slow::FirstNodes {
                    key,
                    nodes: first_nodes(&*store, root, MAX_JOINED_NODES_LEN),
                });
            }
        }
    }

    pub(super) fn first_nodes_read(&mut self, key: ContentKey, nodes: Vec<(Cid, Bytes)>) {
        if let Some(content) = self.contents.get_mut(key)
            && content.fetch.is_none()
        {
            content.first_nodes = Some(Arc::new(nodes.clone()));
        }
        let waiting: Vec<_> = self.joins.extract_if(.., |(k, ..)| *k == key).collect();
        for (_, to, any) in waiting {
            self.joined(key, to, nodes.clone(), any);
        }
    }

    fn joined(&mut self, key: ContentKey, to: PeerKey, nodes: Vec<(Cid, Bytes)>, any: bool) {
        // The engine's own answer to the join (an unchoke, say) goes into the reply where it can.
        self.carry_out();
        if let Some(root) = self.contents.get(key).map(|c| c.root) {
            self.say_where(to, root);
        }
        let (peers, _) = self.news(key, to);
        let choked = self.peers.get(to).is_none_or(|p| p.choked);
        let Some(c) = self.contents.get(key) else { return };
        let complete = c.fetch.as_ref().is_none_or(|f| f.manifest_done) && c.have.len() == c.chunks;
        let first = if any { self.engine.handle_any(self.clock.now(), to, key) } else { None };
        let message = Message::Joined {
            root: c.root,
            have: c.have.clone(),
            complete,
            interested: !complete,
            choked,
            nodes,
            peers,
            first,
        };
        self.say(to, message);
        self.introduce(to);
    }

    #[allow(clippy::too_many_arguments)] // the message's own fields
    fn on_joined(
        &mut self,
        from: PeerKey,
        root: Cid,
        have: crate::bitfield::Bitfield,
        complete: bool,
        interested: bool,
        choked: bool,
        nodes: Vec<(Cid, Bytes)>,
        peers: Vec<PeerRecord>,
        first: Option<ChunkIndex>,
    ) {
        let now = self.clock.now();
        let Some((content, c)) = self.contents.of_root(&root) else { return };
        if !c.active {
            return;
        }
        if let Some(c) = self.contents.get_mut(content) {
            c.members.insert(from);
        }
        // First, so that the engine does not ask for what is here.
        if !nodes.is_empty() {
            self.nodes_arrived(content, from, nodes, None);
        }
        let choke = if choked { PeerEvent::Choked } else { PeerEvent::Unchoked };
        self.engine.handle_peer(now, from, choke);
        self.engine.handle_peer(now, from, PeerEvent::Joined { content, have, complete });
        self.engine.handle_peer(now, from, PeerEvent::Promised { content, chunk: first });
        self.engine.handle_peer(now, from, PeerEvent::Interested { content, interested });
        self.take_records(from, peers, false);
    }

    fn on_update(&mut self, from: PeerKey, update: Update) {
        let now = self.clock.now();
        match update.choke {
            Some(true) => self.engine.handle_peer(now, from, PeerEvent::Choked),
            Some(false) => self.engine.handle_peer(now, from, PeerEvent::Unchoked),
            None => {}
        }
        let Some((content, _)) = update.root.and_then(|root| self.contents.of_root(&root)) else { return };
        let mut say = |event| self.engine.handle_peer(now, from, event);
        if update.complete {
            say(PeerEvent::Complete { content });
        }
        if !update.have.is_empty() {
            say(PeerEvent::Have { content, ranges: update.have });
        }
        if !update.lost.is_empty() {
            say(PeerEvent::Lost { content, ranges: update.lost });
        }
        if let Some(interested) = update.interested {
            say(PeerEvent::Interested { content, interested });
        }
        if update.leaving {
            say(PeerEvent::Left { content });
            if let Some(c) = self.contents.get_mut(content) {
                c.left(from);
            }
        }
    }

    fn sent(&mut self, to: PeerKey, root: Cid, chunk: ChunkIndex, bytes: u64) {
        let now = self.clock.now();
        self.up.total += bytes;
        let Some((content, _)) = self.contents.of_root(&root) else { return };
        if let Some(c) = self.contents.get_mut(content) {
            c.up.total += bytes;
        }
        self.engine.handle_peer(now, to, PeerEvent::Sent { content, chunk, bytes });
    }

    fn answer_nodes(&mut self, to: PeerKey, request: u32, cids: Vec<Cid>) {
        let Some(link) = self.peers.get(to).and_then(|p| p.link.clone()) else { return };
        let store = self.store.clone();
        // Straight from the reading thread to the peer's stream: no state of the driver is involved. Too many who
        // ask, or a full stream, drop the answer, and the asker's time-out turns it to somebody else.
        let Ok(place) = self.to_answer.clone().try_acquire_owned() else { return };
        let answer = move || {
            let (mut nodes, mut lacking, mut len) = (Vec::new(), Vec::new(), 0);
            for cid in cids {
                match store.node(&cid) {
                    Ok(Some(bytes)) if len + bytes.len() <= MAX_JOINED_NODES_LEN => {
                        len += bytes.len();
                        nodes.push((cid, bytes));
                    }
                    // What did not fit is asked for again: neither given nor lacking.
                    Ok(Some(bytes)) if nodes.is_empty() => {
                        len = bytes.len();
                        nodes.push((cid, bytes));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => lacking.push(cid),
                    Err(e) => {
                        tracing::warn!("cannot read the inner node {cid}: {e}");
                        lacking.push(cid);
                    }
                }
            }
            let waiting = link.control.max_capacity() - link.control.capacity();
            if len > MAX_JOINED_NODES_LEN && waiting > FEW_WAITING {
                return;
            }
            let _ = link.control.try_send(Message::Nodes { request, nodes, lacking });
        };
        let answering = self.answering.clone();
        tokio::spawn(async move {
            // Only fails if it is closed, which it never is.
            let Ok(_one) = answering.acquire_owned().await else { return };
            let _ = tokio::task::spawn_blocking(answer).await;
            drop(place);
        });
    }
}
