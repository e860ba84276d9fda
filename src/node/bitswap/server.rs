//! Answering the wants of Bitswap peers.
//!
//! A want is looked up ([`super::lookup`]) and answered by what is true: HAVE or the block if it is held by a
//! content that seeds, DONT_HAVE (where asked for) if not. One that cannot be answered by a block yet stays,
//! and is answered when the block comes.
//!
//! Blocks of files go through the engine as requests for the chunks that they are in: so the limits, the
//! ledger and the order among all who are served hold for them too, and chunks are read between two looks at
//! their file, as for the exchange. The engine has a few of a peer's wants at a time; the rest waits here.
//! Inner nodes are sent at once, as the exchange sends them: they are few, small, come out of the index, and
//! are what a fetch cannot begin without; at most 1 MiB of them is under way to a peer.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::content::Cid;
use crate::engine::event::{PeerEvent, Refusal};
use crate::net::bitswap::{Block, Link};
use crate::units::{ChunkIndex, ContentKey, PeerKey};
use crate::wire::bitswap::{Ask, Entry, INLINE_BLOCK, MAX_WANTS, Message};

use super::super::driver::Driver;
use super::super::workers::{ReadJob, Sink};
use super::lookup::Found;

/// Chunks of one peer that the engine has as requests. Below its own limit of requests a peer.
const MAX_ENGAGED: usize = 64;
/// Bytes of inner nodes under way to one peer, and what each counts for at least.
const MAX_NODE_BYTES: u64 = 1 << 20;
const LEAST_NODE_BYTES: u64 = 4 << 10;

type Chunk = (ContentKey, ChunkIndex);

/// Where a want stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not looked up, or to be looked up again.
    Unknown,
    Looking,
    /// Not here. Said so, if that was asked for.
    Absent,
    /// Here: that block of a chunk. It waits for its turn, or the engine has it.
    Found(Chunk, u32),
}

#[derive(Debug)]
struct Want {
    have: bool,
    dont_have: bool,
    /// DONT_HAVE has been said.
    told: bool,
    state: State,
}

/// What one peer wants of us.
#[derive(Default)]
pub struct Server {
    wants: HashMap<Cid, Want>,
    unknown: VecDeque<Cid>,
    /// Wants in their order that are found and not with the engine.
    waiting: VecDeque<Cid>,
    /// Chunks that are with the engine, and the wants that each is for.
    engaged: BTreeMap<Chunk, Vec<Cid>>,
    /// The same once they are being read and sent.
    sending: BTreeMap<Chunk, Vec<Cid>>,
    node_bytes: u64,
    /// Inner nodes for which there was no room.
    later: Vec<Cid>,
}

/// A chunk that is to be read, and what of it goes out.
pub struct Sending {
    pub link: Link,
    /// Names and numbers of its blocks.
    pub blocks: Vec<(Cid, u32)>,
}

impl Sending {
    /// Puts the blocks of a chunk that was read on their way. A full queue means that the link is going down.
    pub fn send(self, chunk: Chunk, body: Vec<u8>, block_lens: &[u32]) {
        let Sending { link, blocks } = self;
        let range = |n: u32| {
            let n = n as usize;
            let start: usize = block_lens.iter().take(n).map(|l| *l as usize).sum();
            start..start + block_lens.get(n).map_or(0, |l| *l as usize)
        };
        let bytes = blocks.iter().map(|(_, n)| range(*n).len() as u64).sum();
        let mut body = Some(body);
        for (left, (cid, n)) in (0..blocks.len()).rev().zip(blocks) {
            let block = match left {
                0 => {
                    let body = body.take().unwrap_or_default();
                    Block { cid, range: range(n), body, chunk: Some(chunk), bytes }
                }
                _ => {
                    let part = body.as_deref().and_then(|b| b.get(range(n))).unwrap_or_default().to_vec();
                    Block { cid, range: 0..part.len(), body: part, chunk: None, bytes: 0 }
                }
            };
            let _ = link.blocks.try_send(block);
        }
    }
}

impl Server {
    pub fn is_busy(&self) -> bool {
        !self.wants.is_empty()
    }

    pub fn has_unknown(&self) -> bool {
        !self.unknown.is_empty()
    }

    /// The next names to look up.
    pub fn take_unknown(&mut self, most: usize) -> Vec<Cid> {
        let mut out = Vec::new();
        while out.len() < most
            && let Some(cid) = self.unknown.pop_front()
        {
            if let Some(want) = self.wants.get_mut(&cid).filter(|w| w.state == State::Unknown) {
                want.state = State::Looking;
                out.push(cid);
            }
        }
        out
    }

    /// What was not here may be by now.
    pub fn renew(&mut self) {
        for (cid, want) in self.wants.iter_mut().filter(|(_, w)| w.state == State::Absent) {
            want.state = State::Unknown;
            self.unknown.push_back(*cid);
        }
    }

    /// Takes a want or the repetition of one; more than [`MAX_WANTS`] are not kept.
    fn enter(&mut self, e: &Entry) {
        let have = e.ask == Ask::Have;
        let full = self.wants.len() >= MAX_WANTS;
        match self.wants.get_mut(&e.cid) {
            Some(want) => {
                want.dont_have |= e.dont_have;
                // A block is more than a HAVE; what is being answered is answered as it was asked for.
                want.have &= have;
                if want.state == State::Absent {
                    (want.state, want.told) = (State::Unknown, false);
                    self.unknown.push_back(e.cid);
                }
            }
            None if full => {}
            None => {
                let state = State::Unknown;
                self.wants.insert(e.cid, Want { have, dont_have: e.dont_have, told: false, state });
                self.unknown.push_back(e.cid);
            }
        }
    }

    /// Takes a want out; a chunk that nobody wants any more and the engine has.
    fn leave(&mut self, cid: &Cid) -> Option<Chunk> {
        let want = self.wants.remove(cid)?;
        let State::Found(chunk, _) = want.state else { return None };
        self.waiting.retain(|c| c != cid);
        let cids = self.engaged.get_mut(&chunk)?;
        cids.retain(|c| c != cid);
        cids.is_empty().then(|| self.engaged.remove(&chunk)).flatten().map(|_| chunk)
    }

    /// The wants that a chunk was for, whether it is with the engine or on its way.
    fn wants_of(&mut self, chunk: &Chunk) -> Vec<Cid> {
        self.engaged.remove(chunk).or_else(|| self.sending.remove(chunk)).unwrap_or_default()
    }

    /// Not here: whether that is to be said.
    fn absent(&mut self, cid: &Cid) -> bool {
        let Some(want) = self.wants.get_mut(cid) else { return false };
        want.state = State::Absent;
        let say = want.dont_have && !want.told;
        want.told |= say;
        say
    }
}

impl Driver {
    fn server(&mut self, peer: PeerKey) -> Option<&mut Server> {
        self.bitswap.sessions.get_mut(&peer).map(|s| &mut s.server)
    }

    /// A wantlist, or changes to one.
    pub(super) fn wanted_by(&mut self, peer: PeerKey, mut entries: Vec<Entry>, full: bool) {
        // Most wanted first: beyond the cap, and in what order they are served.
        entries.sort_by_key(|e| std::cmp::Reverse(e.priority));
        let Some(server) = self.server(peer) else { return };
        let mut gone = Vec::new();
        if full {
            let listed: BTreeSet<Cid> = entries.iter().map(|e| e.cid).collect();
            let old: Vec<Cid> = server.wants.keys().filter(|cid| !listed.contains(cid)).copied().collect();
            gone.extend(old.iter().filter_map(|cid| server.leave(cid)));
        }
        for e in &entries {
            match e.ask {
                Ask::Cancel => gone.extend(server.leave(&e.cid)),
                Ask::Block | Ask::Have => server.enter(e),
            }
        }
        self.cancelled_by(peer, gone);
        self.look_up();
    }

    fn cancelled_by(&mut self, peer: PeerKey, chunks: Vec<Chunk>) {
        let now = self.clock.now();
        for (content, chunk) in chunks {
            let event = PeerEvent::CancelledByPeer { content, chunks: vec![chunk] };
            self.engine.handle_peer(now, peer, event);
        }
    }

    pub(super) fn answer_wants(&mut self, peer: PeerKey, found: Vec<(Cid, Found)>) {
        let Some(session) = self.bitswap.sessions.get_mut(&peer) else { return };
        let (link, server) = (&session.link, &mut session.server);
        let mut presences = Vec::new();
        for (cid, found) in found {
            let Some(want) = server.wants.get_mut(&cid).filter(|w| w.state == State::Looking) else {
                continue;
            };
            match found {
                Found::Nothing => {
                    if server.absent(&cid) {
                        presences.push((cid, false));
                    }
                }
                Found::Chunk { small: false, .. } if want.have => {
                    server.wants.remove(&cid);
                    presences.push((cid, true));
                }
                Found::Node(node) if want.have && node.len() > INLINE_BLOCK => {
                    server.wants.remove(&cid);
                    presences.push((cid, true));
                }
                Found::Chunk { content, chunk, block, .. } => {
                    want.state = State::Found((content, chunk), block);
                    server.waiting.push_back(cid);
                }
                Found::Later => {
                    want.state = State::Unknown;
                    server.later.push(cid);
                }
                Found::Node(node) => {
                    // However small they are, there are not many at a time.
                    let bytes = (node.len() as u64).max(LEAST_NODE_BYTES);
                    if server.node_bytes > 0 && server.node_bytes + bytes > MAX_NODE_BYTES {
                        want.state = State::Unknown;
                        server.later.push(cid);
                        continue;
                    }
                    let block = Block { cid, range: 0..node.len(), body: node.to_vec(), chunk: None, bytes };
                    if link.blocks.try_send(block).is_ok() {
                        server.node_bytes += bytes;
                        server.wants.remove(&cid);
                    } else {
                        want.state = State::Unknown;
                        server.later.push(cid);
                    }
                }
            }
        }
        if server.node_bytes == 0 {
            server.unknown.extend(server.later.drain(..));
        }
        self.say_bitswap(peer, Message { presences, ..Message::default() });
        self.feed(peer);
        self.mind_connection(peer);
    }

    /// Gives the engine what it may have of a peer's wants.
    fn feed(&mut self, peer: PeerKey) {
        let now = self.clock.now();
        let Some(server) = self.server(peer) else { return };
        let mut requests: Vec<(ContentKey, Vec<ChunkIndex>)> = Vec::new();
        while server.engaged.len() < MAX_ENGAGED
            && let Some(cid) = server.waiting.pop_front()
        {
            let Some(State::Found(chunk, _)) = server.wants.get(&cid).map(|w| w.state) else { continue };
            let cids = server.engaged.entry(chunk).or_default();
            cids.push(cid);
            if cids.len() > 1 {
                continue;
            }
            match requests.last_mut() {
                Some((content, chunks)) if *content == chunk.0 => chunks.push(chunk.1),
                _ => requests.push((chunk.0, vec![chunk.1])),
            }
        }
        for (content, chunks) in requests {
            match self.contents.get(content) {
                Some(c) if c.serves() => {}
                _ => {
                    chunks
                        .into_iter()
                        .for_each(|chunk| self.refuse_block(peer, content, chunk, Refusal::Gone));
                    continue;
                }
            }
            self.activate(content, false);
            self.engine.handle_peer(now, peer, PeerEvent::Requested { content, chunks });
        }
    }

    /// The engine sends a chunk: read it, and send the blocks of it that are wanted.
    pub(in super::super) fn send_blocks(&mut self, peer: PeerKey, content: ContentKey, chunk: ChunkIndex) {
        let now = self.clock.now();
        let Some(to) = self.peers.id(peer) else { return };
        let Some(session) = self.bitswap.sessions.get_mut(&peer) else { return };
        let server = &mut session.server;
        let cids = server.engaged.remove(&(content, chunk)).unwrap_or_default();
        let block = |cid: &Cid| match server.wants.get(cid).map(|w| w.state) {
            Some(State::Found(_, n)) => Some((*cid, n)),
            _ => None,
        };
        let blocks: Vec<(Cid, u32)> = cids.iter().filter_map(block).collect();
        if blocks.is_empty() {
            // Cancelled at the last moment: the engine need not wait for it.
            return self.engine.handle_peer(now, peer, PeerEvent::Sent { content, chunk, bytes: 0 });
        }
        server.sending.entry((content, chunk)).or_default().extend(cids);
        let sink = Sink::Bitswap(Sending { link: session.link.clone(), blocks });
        let body = self.buffers.get();
        self.readers.give(ReadJob { content, chunk, source: (content, chunk), to, sink, body });
    }

    /// The engine, or the file, does not give a chunk after all.
    pub(in super::super) fn refuse_block(
        &mut self,
        peer: PeerKey,
        content: ContentKey,
        chunk: ChunkIndex,
        why: Refusal,
    ) {
        let Some(server) = self.server(peer) else { return };
        let mut presences = Vec::new();
        for cid in server.wants_of(&(content, chunk)) {
            match why {
                Refusal::Gone => {
                    if server.absent(&cid) {
                        presences.push((cid, false));
                    }
                }
                // Still wanted, if it is: looked up again.
                Refusal::Choked | Refusal::Cancelled => {
                    if let Some(want) = server.wants.get_mut(&cid) {
                        want.state = State::Unknown;
                        server.unknown.push_back(cid);
                    }
                }
            }
        }
        self.say_bitswap(peer, Message { presences, ..Message::default() });
    }

    /// A block has left for its socket.
    pub(super) fn block_sent(&mut self, peer: PeerKey, chunk: Option<Chunk>, bytes: u64) {
        let now = self.clock.now();
        let Some(server) = self.server(peer) else { return };
        let Some((content, chunk)) = chunk else {
            // An inner node.
            server.node_bytes = server.node_bytes.saturating_sub(bytes);
            if server.node_bytes == 0 {
                server.unknown.extend(server.later.drain(..));
                self.look_up();
            }
            return;
        };
        for cid in server.sending.remove(&(content, chunk)).unwrap_or_default() {
            server.wants.remove(&cid);
        }
        self.up.total += bytes;
        if let Some(c) = self.contents.get_mut(content) {
            c.up.total += bytes;
        }
        self.engine.handle_peer(now, peer, PeerEvent::Sent { content, chunk, bytes });
        self.feed(peer);
    }

    /// The content is served no more.
    pub(super) fn stop_serving(&mut self, peer: PeerKey, content: ContentKey) {
        let Some(server) = self.server(peer) else { return };
        let chunks: Vec<Chunk> = server.engaged.keys().filter(|(k, _)| *k == content).copied().collect();
        for (key, chunk) in &chunks {
            self.refuse_block(peer, *key, *chunk, Refusal::Cancelled);
        }
        self.cancelled_by(peer, chunks);
    }
}
