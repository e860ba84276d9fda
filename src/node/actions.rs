//! What the engine says, carried out: messages to peers, reads, look-ups.

use crate::content::Cid;
use crate::engine::event::{Action, ContentEvent, NodeId, PeerEvent, Refusal};
use crate::net::api::{Command, Outgoing};
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey};
use crate::wire::exchange::{MAX_CIDS, MAX_INDICES, MAX_UPDATE_RUNS, Message, Update, Why};

use super::driver::Driver;
use super::workers::{ReadJob, Sink};

/// Requests for inner nodes that have no answer yet, over all contents.
const MAX_NODE_REQUESTS: usize = 4_096;

impl Driver {
    /// Does all that the engine has to say by now.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Join { peer, content, .. } if self.by_bitswap(peer) => self.ask_root(peer, content),
            Action::Join { peer, content, any } => self.say_join(peer, content, any),
            Action::Leave { peer, content } => {
                self.update(peer, content, |u| u.leaving = true);
                if let Some(c) = self.contents.get_mut(content) {
                    c.left(peer);
                }
            }
            Action::Request { peer, content, chunks } if self.by_bitswap(peer) => {
                self.ask_chunks(peer, content, chunks);
            }
            Action::Request { peer, content, chunks } => {
                self.by_root(peer, content, &chunks, |root, indices| Message::GetChunks { root, indices })
            }
            Action::Cancel { peer, content, chunks } if self.by_bitswap(peer) => {
                self.cancel_chunks(peer, content, &chunks);
            }
            Action::Cancel { peer, content, chunks } => {
                self.by_root(peer, content, &chunks, |root, indices| Message::Cancel { root, indices })
            }
            Action::RequestNodes { peer, content, nodes } => self.ask_nodes(peer, content, &nodes),
            Action::Send { peer, content, chunk } if self.by_bitswap(peer) => {
                self.send_blocks(peer, content, chunk);
            }
            Action::Send { peer, content, chunk } => self.send_chunk(peer, content, chunk),
            Action::Refuse { peer, content, chunk, why } if self.by_bitswap(peer) => {
                self.refuse_block(peer, content, chunk, why);
            }
            Action::Refuse { peer, content, chunk, why } => {
                let Some(root) = self.root(content) else { return };
                let why = match why {
                    Refusal::Gone => Why::Gone,
                    Refusal::Choked => Why::Choked,
                    Refusal::Cancelled => Why::Cancelled,
                };
                self.say_data(peer, Message::NoChunk { root, index: chunk, why });
            }
            Action::Choke { peer } => self.choke(peer, true),
            Action::Unchoke { peer } => self.choke(peer, false),
            Action::Have { peer, content, ranges } => {
                self.tell_ranges(peer, content, &ranges, |u| &mut u.have)
            }
            Action::Lost { peer, content, ranges } => {
                self.tell_ranges(peer, content, &ranges, |u| &mut u.lost)
            }
            Action::Complete { peer, content } => self.update(peer, content, |u| u.complete = true),
            Action::Interested { peer, content, interested } => {
                self.update(peer, content, |u| u.interested = Some(interested));
            }
            Action::AskPeers { peer, content } => self.ask_peers(peer, content),
            Action::FindPeers { content } => self.find_peers(content),
            Action::Ban { peer, fault } => {
                let Some(id) = self.peers.id(peer) else { return };
                tracing::warn!("{id} is banned: {fault:?}");
                self.enter(peer);
                self.command(Command::Ban { peer: id });
                if let Some(p) = self.peers.get_mut(peer) {
                    p.link = None;
                    p.candidate = false;
                }
                self.bitswap_lost(peer, None);
                self.forget_membership(peer);
            }
            Action::Copy { from, content, chunk } => self.copy(from, content, chunk),
            Action::Finished { content } => self.finished(content),
        }
    }

    fn root(&self, content: ContentKey) -> Option<Cid> {
        self.contents.get(content).map(|c| c.root)
    }

    /// Puts a message on a peer's control stream. A peer that lets the queue fill does not read: its link
    /// is dropped, and its requests go to others.
    pub(super) fn say(&mut self, to: PeerKey, message: Message) {
        let Some(link) = self.peers.get(to).and_then(|p| p.link.as_ref()) else { return };
        let id = link.id;
        if link.control.try_send(message).is_err() {
            self.link_lost(to, Some(id));
        }
    }

    fn say_data(&mut self, to: PeerKey, message: Message) {
        let Some(link) = self.peers.get(to).and_then(|p| p.link.as_ref()) else { return };
        let id = link.id;
        if link.data.try_send(Outgoing { message, body: Vec::new() }).is_err() {
            self.link_lost(to, Some(id));
        }
    }

    pub(super) fn refuse_all(&mut self, to: PeerKey, root: Cid, indices: &[ChunkIndex]) {
        for &index in indices {
            self.say_data(to, Message::NoChunk { root, index, why: Why::Gone });
        }
    }

    fn say_join(&mut self, peer: PeerKey, content: ContentKey, any: bool) {
        let Some(root) = self.root(content) else { return };
        self.say_where(peer, root);
        let Some(c) = self.contents.get(content) else { return };
        let complete =
            c.complete || (c.fetch.as_ref().is_some_and(|f| f.manifest_done) && c.have.len() == c.chunks);
        // Not of what is only read: hardly any of it may be wanted.
        let any = any && c.have.is_empty() && c.fetch.as_ref().is_some_and(|f| !f.hold);
        let (root, have) = (c.root, c.have.clone());
        let has_nodes = c.chunks > 0;
        self.say(peer, Message::Join { root, have, complete, interested: !complete, any, has_nodes });
    }

    fn by_root(
        &mut self,
        peer: PeerKey,
        content: ContentKey,
        chunks: &[ChunkIndex],
        message: impl Fn(Cid, Vec<ChunkIndex>) -> Message,
    ) {
        let Some(root) = self.root(content) else { return };
        for part in chunks.chunks(MAX_INDICES as usize) {
            self.say(peer, message(root, part.to_vec()));
        }
    }

    fn ask_nodes(&mut self, peer: PeerKey, content: ContentKey, nodes: &[NodeId]) {
        let Some(c) = self.contents.get(content) else { return };
        let (Some(fetch), root) = (&c.fetch, c.root) else { return };
        let wanted: Vec<(NodeId, Cid)> =
            nodes.iter().filter_map(|&id| Some((id, fetch.wanted.cid(id)?))).collect();
        let gone: Vec<_> = nodes.iter().copied().filter(|&id| fetch.wanted.cid(id).is_none()).collect();
        let now = self.clock.now();
        if wanted.is_empty() {
            // All of them came by another way meanwhile. Nothing is asked, so nothing will be answered: the
            // engine must not wait for this peer.
            let held = PeerEvent::Nodes { content, got: gone, lacking: Vec::new() };
            return self.engine.handle_peer(now, peer, held);
        }
        if !gone.is_empty() {
            self.engine.handle_content(now, content, ContentEvent::NodesHeld(gone));
        }
        if self.by_bitswap(peer) {
            return self.ask_bitswap_nodes(peer, content, wanted);
        }
        let cids: Vec<Cid> = wanted.into_iter().map(|(_, cid)| cid).collect();
        for part in cids.chunks(MAX_CIDS as usize) {
            self.next_request = self.next_request.wrapping_add(1).max(1);
            let request = self.next_request;
            if self.requests.len() >= MAX_NODE_REQUESTS {
                self.requests.pop_first();
            }
            self.requests.insert(request, content);
            self.say(peer, Message::GetNodes { request, root, cids: part.to_vec() });
        }
    }

    fn send_chunk(&mut self, peer: PeerKey, content: ContentKey, chunk: ChunkIndex) {
        let (Some(root), Some(to)) = (self.root(content), self.peers.id(peer)) else { return };
        let Some(link) = self.peers.get(peer).and_then(|p| p.link.clone()) else { return };
        let Some(source) = self.source(content, chunk) else { return };
        let body = self.buffers.get();
        let sink = Sink::Exchange { root, link };
        self.readers.give(ReadJob { content, chunk, source, to, sink, body });
    }

    fn choke(&mut self, peer: PeerKey, choke: bool) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        p.choked = choke;
        self.say(peer, Message::Update(Update { choke: Some(choke), ..Update::default() }));
    }

    fn update(&mut self, peer: PeerKey, content: ContentKey, change: impl FnOnce(&mut Update)) {
        let Some(root) = self.root(content) else { return };
        let mut update = Update { root: Some(root), ..Update::default() };
        change(&mut update);
        self.say(peer, Message::Update(update));
    }

    fn tell_ranges(
        &mut self,
        peer: PeerKey,
        content: ContentKey,
        ranges: &[ChunkRange],
        field: impl Fn(&mut Update) -> &mut Vec<ChunkRange>,
    ) {
        for part in ranges.chunks(MAX_UPDATE_RUNS as usize) {
            self.update(peer, content, |u| field(u).extend_from_slice(part));
        }
    }

    /// Tells every swarm that we leave it, so that nobody waits for us.
    pub(super) fn say_goodbye(&mut self) {
        let members: Vec<(ContentKey, PeerKey)> =
            self.contents.iter().flat_map(|(k, c)| c.members.iter().map(move |&m| (k, m))).collect();
        for (content, peer) in members {
            self.update(peer, content, |u| u.leaving = true);
        }
    }
}
