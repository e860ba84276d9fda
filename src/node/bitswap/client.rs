//! Asking Bitswap peers: what the engine asks of its chunks and nodes, said by CID, and what comes back.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;

use crate::bitfield::Bitfield;
use crate::content::assembly::{Assembled, Assembly, is_inline};
use crate::content::chunk::ChunkSpec;
use crate::content::{Cid, Hash};
use crate::engine::event::{Fault, NodeId, PeerEvent, Refusal};
use crate::net::api::Command;
use crate::store::StoreError;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey, Time};
use crate::wire::bitswap::{Ask, Entry};

use super::super::arriving::Came;
use super::super::driver::{Driver, Slow};

/// A peer that has not said by then whether it has a root has it not (1.1 and 1.0 cannot say so).
const ROOT_PATIENCE: Duration = Duration::from_secs(10);
/// Wants that one peer has from us. It forgets what is beyond its own limit of 1,024 without a word, which may
/// count some that we have cancelled.
const MAX_OUT: usize = 768;
/// Cancelled blocks that may still come, remembered of one peer.
const MAX_LATE: usize = 4_096;
/// Blocks that came instead of a HAVE, kept of one peer until they are asked for.
const MAX_EARLY: usize = 32;

type Chunk = (ContentKey, ChunkIndex);

/// What a peer was asked of the root of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Asked(Time),
    Has,
    Lacks,
}

/// What a block is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It is the chunk, or the chunk's first block.
    Chunk(Chunk),
    /// One more block of a chunk.
    Part(Chunk),
    Node(ContentKey),
}

#[derive(Debug)]
struct Asked {
    cid: Cid,
    uses: Vec<Use>,
    /// The peer has been told.
    out: bool,
}

/// Inner nodes that the engine asked for and will hear of in one go.
#[derive(Debug, Default)]
struct Batch {
    open: BTreeMap<Cid, NodeId>,
    got: Vec<NodeId>,
    lacking: Vec<NodeId>,
}

/// What is asked of one peer.
#[derive(Default)]
pub struct Client {
    roots: BTreeMap<ContentKey, Root>,
    asked: HashMap<Hash, Asked>,
    /// How many of them the peer has been told; those that it will be, in their order.
    out: usize,
    backlog: VecDeque<Hash>,
    /// By which name each chunk is asked for.
    chunks: BTreeMap<Chunk, Hash>,
    /// Chunks whose names are being looked up.
    looking: BTreeSet<Chunk>,
    /// Chunks of more than one block, and the blocks of them that are awaited.
    assemblies: BTreeMap<Chunk, (Assembly, BTreeSet<Hash>)>,
    batches: BTreeMap<ContentKey, Batch>,
    /// Contents of which it lacked something.
    partial: BTreeSet<ContentKey>,
    late: Late,
    early: Vec<(Hash, Vec<u8>)>,
    /// Counts down: what is asked for first comes first.
    priority: i32,
}

impl Client {
    pub fn is_busy(&self) -> bool {
        !self.asked.is_empty() || self.roots.values().any(|r| *r != Root::Lacks)
    }

    /// Wants a block for something, as soon as the peer may have one more want.
    fn want(&mut self, cid: Cid, what: Use) {
        let asked =
            self.asked.entry(*cid.hash()).or_insert_with(|| Asked { cid, uses: Vec::new(), out: false });
        if asked.uses.is_empty() {
            self.backlog.push_back(*cid.hash());
        }
        if !asked.uses.contains(&what) {
            asked.uses.push(what);
        }
    }

    /// What the peer is to be told by now.
    fn next_wants(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        while self.out < MAX_OUT
            && let Some(hash) = self.backlog.pop_front()
        {
            let Some(asked) = self.asked.get_mut(&hash).filter(|a| !a.out) else { continue };
            asked.out = true;
            self.out += 1;
            self.priority = self.priority.wrapping_sub(1) & i32::MAX;
            entries.push(Entry { cid: asked.cid, ask: Ask::Block, priority: self.priority, dont_have: true });
        }
        entries
    }

    /// A want is over.
    fn take(&mut self, hash: &Hash) -> Option<Asked> {
        let asked = self.asked.remove(hash)?;
        self.out -= usize::from(asked.out);
        Some(asked)
    }

    /// Wants it for that no more; an entry if the peer has to be told.
    fn unwant(&mut self, hash: &Hash, what: Use) -> Option<Entry> {
        let asked = self.asked.get_mut(hash)?;
        asked.uses.retain(|u| *u != what);
        if !asked.uses.is_empty() {
            return None;
        }
        let Asked { cid, out, .. } = self.take(hash)?;
        if out {
            self.late.remember(*hash);
        }
        out.then(|| cancel(cid))
    }

    /// Takes back all that was asked for a chunk.
    fn drop_chunk(&mut self, chunk: Chunk) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Some(hash) = self.chunks.remove(&chunk) {
            entries.extend(self.unwant(&hash, Use::Chunk(chunk)));
        }
        if let Some((_, parts)) = self.assemblies.remove(&chunk) {
            entries.extend(parts.iter().filter_map(|hash| self.unwant(hash, Use::Part(chunk))));
        }
        entries
    }
}

/// Blocks that are wanted no more and may still come: nobody is to blame for those.
#[derive(Default)]
struct Late {
    counts: HashMap<Hash, u32>,
    order: VecDeque<Hash>,
}

impl Late {
    fn remember(&mut self, hash: Hash) {
        if self.order.len() >= MAX_LATE
            && let Some(oldest) = self.order.pop_front()
        {
            self.forgive(&oldest);
        }
        *self.counts.entry(hash).or_default() += 1;
        self.order.push_back(hash);
    }

    /// One of them came. (Its place in the order stays, and goes with the oldest.)
    fn forgive(&mut self, hash: &Hash) -> bool {
        let Some(count) = self.counts.get_mut(hash) else { return false };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(hash);
        }
        true
    }
}

fn cancel(cid: Cid) -> Entry {
    Entry { cid, ask: Ask::Cancel, priority: 0, dont_have: false }
}

/// The names of chunks, as the store has them.
pub struct Specs {
    pub peer: PeerKey,
    pub content: ContentKey,
    pub specs: Vec<(ChunkIndex, Result<ChunkSpec, StoreError>)>,
}

impl Driver {
    fn client(&mut self, peer: PeerKey) -> Option<&mut Client> {
        self.bitswap.sessions.get_mut(&peer).map(|s| &mut s.client)
    }

    /// The engine joins the swarm of a content: has the peer its root?
    pub(in super::super) fn ask_root(&mut self, peer: PeerKey, content: ContentKey) {
        let now = self.clock.now();
        let Some(cid) = self.contents.get(content).filter(|c| c.fetch.is_some()).map(|c| c.root) else {
            return self.engine.handle_peer(now, peer, PeerEvent::Left { content });
        };
        let Some(client) = self.client(peer) else { return };
        client.roots.insert(content, Root::Asked(now));
        self.say_entries(peer, vec![Entry { cid, ask: Ask::Have, priority: i32::MAX, dont_have: true }]);
        self.mind_connection(peer);
    }

    /// Peers that never said whether they have a root.
    pub(super) fn give_up_roots(&mut self) {
        let now = self.clock.now();
        let mut silent = Vec::new();
        for (peer, session) in &self.bitswap.sessions {
            for (content, root) in &session.client.roots {
                if matches!(root, Root::Asked(at) if now.since(*at) >= ROOT_PATIENCE) {
                    silent.push((*peer, *content));
                }
            }
        }
        for (peer, content) in silent {
            self.lacks_root(peer, content);
            self.mind_connection(peer);
        }
    }

    /// Supply is short: those that lacked the root, or parts, may have them by now.
    pub(in super::super) fn ask_bitswap_again(&mut self, content: ContentKey) {
        let now = self.clock.now();
        // A link that broke is made again.
        let unlinked: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(k, _, p)| p.connected && p.bitswap_only && !self.bitswap.sessions.contains_key(k))
            .map(|(_, id, _)| id)
            .collect();
        for peer in unlinked {
            self.command(Command::OpenBitswap { peer });
        }
        let peers: Vec<PeerKey> = self.bitswap.sessions.keys().copied().collect();
        for peer in peers.into_iter().filter(|p| self.by_bitswap(*p)).collect::<Vec<_>>() {
            let Some(client) = self.client(peer) else { continue };
            match client.roots.get(&content) {
                None | Some(Root::Lacks) => self.ask_root(peer, content),
                Some(Root::Has) if client.partial.remove(&content) => {
                    self.engine.handle_peer(now, peer, PeerEvent::Complete { content });
                }
                Some(Root::Has | Root::Asked(_)) => {}
            }
        }
    }

    pub(super) fn presence(&mut self, peer: PeerKey, cid: &Cid, have: bool) {
        for content in self.contents_with_root(peer, cid.hash()) {
            match have {
                true => self.has_root(peer, content),
                false => self.lacks_root(peer, content),
            }
        }
        if !have {
            self.block_lacking(peer, cid.hash());
        }
    }

    fn contents_with_root(&self, peer: PeerKey, hash: &Hash) -> Vec<ContentKey> {
        let Some(session) = self.bitswap.sessions.get(&peer) else { return Vec::new() };
        let roots = session.client.roots.keys().copied();
        roots.filter(|k| self.contents.get(*k).is_some_and(|c| c.root.hash() == hash)).collect()
    }

    fn has_root(&mut self, peer: PeerKey, content: ContentKey) {
        let now = self.clock.now();
        let Some(client) = self.client(peer) else { return };
        if client.roots.insert(content, Root::Has) == Some(Root::Has) {
            return;
        }
        let Some(c) = self.contents.get_mut(content).filter(|c| c.active) else { return };
        c.members.insert(peer);
        let joined = PeerEvent::Joined { content, have: Bitfield::new(), complete: true };
        self.engine.handle_peer(now, peer, joined);
    }

    fn lacks_root(&mut self, peer: PeerKey, content: ContentKey) {
        let now = self.clock.now();
        let Some(client) = self.client(peer) else { return };
        if client.roots.insert(content, Root::Lacks) == Some(Root::Lacks) {
            return;
        }
        if let Some(c) = self.contents.get_mut(content) {
            c.members.remove(&peer);
        }
        self.engine.handle_peer(now, peer, PeerEvent::Left { content });
    }

    /// The manifest grew: who lacked something before is taken to have the new chunks all the same.
    pub(in super::super) fn bitswap_grew(&mut self, content: ContentKey, range: ChunkRange) {
        let now = self.clock.now();
        let partial = |s: &super::Session| s.client.partial.contains(&content);
        let peers = self.bitswap.sessions.iter().filter(|(_, s)| partial(s)).map(|(k, _)| *k);
        for peer in peers.collect::<Vec<_>>() {
            self.engine.handle_peer(now, peer, PeerEvent::Have { content, ranges: vec![range] });
        }
    }

    /// The engine wants chunks of this peer. Their names are in the store, which is read off the driver.
    pub(in super::super) fn ask_chunks(
        &mut self,
        peer: PeerKey,
        content: ContentKey,
        chunks: Vec<ChunkIndex>,
    ) {
        let Some(client) = self.client(peer) else { return };
        client.looking.extend(chunks.iter().map(|chunk| (content, *chunk)));
        let store = self.store.clone();
        self.slowly(move || {
            let specs = chunks.into_iter().map(|chunk| (chunk, store.chunk(content, chunk))).collect();
            Slow::Specs(Specs { peer, content, specs })
        });
    }

    pub(in super::super) fn specs_read(&mut self, read: Specs) {
        let Specs { peer, content, specs } = read;
        let (mut early, mut failed) = (Vec::new(), None);
        let Some(client) = self.client(peer) else { return };
        for (chunk, spec) in specs {
            // Cancelled meanwhile.
            if !client.looking.remove(&(content, chunk)) {
                continue;
            }
            match spec {
                Ok(spec) => {
                    let hash = *spec.cid.hash();
                    client.chunks.insert((content, chunk), hash);
                    client.want(spec.cid, Use::Chunk((content, chunk)));
                    if let Some(at) = client.early.iter().position(|(h, _)| *h == hash) {
                        early.push((spec.cid, client.early.swap_remove(at).1));
                    }
                }
                Err(e) => failed = Some(e),
            }
        }
        self.take_early_blocks(peer, early);
        if let Some(e) = failed {
            self.store_failed(content, &e);
        }
        self.mind_connection(peer);
    }

    pub(in super::super) fn cancel_chunks(
        &mut self,
        peer: PeerKey,
        content: ContentKey,
        chunks: &[ChunkIndex],
    ) {
        let now = self.clock.now();
        let Some(client) = self.client(peer) else { return };
        let mut entries = Vec::new();
        for &chunk in chunks {
            if !client.looking.remove(&(content, chunk)) {
                entries.extend(client.drop_chunk((content, chunk)));
            }
        }
        self.say_entries(peer, entries);
        // Bitswap answers no cancel, and the engine waits for one answer to each request.
        for &chunk in chunks {
            let refused = PeerEvent::Refused { content, chunk, why: Refusal::Cancelled };
            self.engine.handle_peer(now, peer, refused);
        }
    }

    pub(in super::super) fn ask_bitswap_nodes(
        &mut self,
        peer: PeerKey,
        content: ContentKey,
        nodes: Vec<(NodeId, Cid)>,
    ) {
        let Some(client) = self.client(peer) else { return };
        let batch = client.batches.entry(content).or_default();
        (batch.got, batch.lacking) = Default::default();
        batch.open.extend(nodes.iter().map(|(id, cid)| (*cid, *id)));
        let mut early = Vec::new();
        for (_, cid) in nodes {
            if client.asked.get(cid.hash()).is_some_and(|a| a.out) {
                // Asked for before, and unanswered for long: said again, as that does no harm.
                client.take(cid.hash());
            }
            client.want(cid, Use::Node(content));
            if let Some(at) = client.early.iter().position(|(h, _)| h == cid.hash()) {
                early.push((cid, client.early.swap_remove(at).1));
            }
        }
        self.take_early_blocks(peer, early);
        self.mind_connection(peer);
    }

    /// Blocks that came before they were asked for; then the rest is asked for.
    fn take_early_blocks(&mut self, peer: PeerKey, early: Vec<(Cid, Vec<u8>)>) {
        if let Some(id) = self.peers.id(peer) {
            early.into_iter().for_each(|(cid, body)| self.block_arrived(peer, id, cid, body));
        }
        self.say_wants(peer);
    }

    /// Tells the peer what it may be told by now.
    pub(super) fn say_wants(&mut self, peer: PeerKey) {
        let entries = self.client(peer).map(Client::next_wants).unwrap_or_default();
        self.say_entries(peer, entries);
    }

    /// A block, by the name that its bytes have.
    pub(super) fn block_arrived(&mut self, from: PeerKey, peer: PeerId, named: Cid, body: Vec<u8>) {
        let hash = *named.hash();
        let Some(client) = self.client(from) else { return self.buffers.put(body) };
        if let Some(Asked { cid, uses, .. }) = client.take(&hash) {
            let mut body = Some(body);
            for (left, what) in (0..uses.len()).rev().zip(uses) {
                let body = if left == 0 { body.take() } else { body.clone() };
                self.use_block(from, peer, cid, what, body.unwrap_or_default());
            }
            return;
        }
        let roots: Vec<ContentKey> = self.contents_with_root(from, &hash);
        let Some(client) = self.client(from) else { return };
        if roots.iter().any(|k| client.roots.get(k).is_some_and(|r| *r != Root::Has)) {
            // A small block comes instead of a HAVE.
            if client.early.len() < MAX_EARLY {
                client.early.push((hash, body));
            }
            return roots.into_iter().for_each(|content| self.has_root(from, content));
        }
        if client.late.forgive(&hash) {
            self.bitswap.late_bytes += body.len() as u64;
            return self.buffers.put(body);
        }
        // What is not asked for cannot be told from what has wrong bytes: either has a name of its own.
        tracing::info!("{peer} sent a block that nobody asked for: {named}");
        self.buffers.put(body);
        self.faulty(from, Fault::Unasked);
    }

    fn use_block(&mut self, from: PeerKey, peer: PeerId, cid: Cid, what: Use, body: Vec<u8>) {
        let now = self.clock.now();
        match what {
            Use::Node(content) => {
                self.nodes_arrived(content, from, vec![(cid, Bytes::from(body))], None);
                self.node_answered(from, content, &cid, true);
            }
            Use::Chunk(chunk) => {
                let Some(client) = self.client(from) else { return };
                if !Assembly::is_needed(&cid, &body) {
                    client.chunks.remove(&chunk);
                    // A block is at most 2 MiB.
                    let len = body.len() as u32;
                    let (key, chunk) = chunk;
                    return self.take_chunk(key, Came { from, peer, chunk, block_lens: vec![len], body });
                }
                client.assemblies.insert(chunk, (Assembly::new(cid), BTreeSet::new()));
                self.put_part(from, peer, chunk, cid, body);
            }
            Use::Part(chunk) => {
                self.engine.handle_peer(now, from, PeerEvent::Receiving { bytes: body.len() as u64 });
                self.put_part(from, peer, chunk, cid, body);
            }
        }
    }

    /// One more block of a chunk that is a small DAG.
    fn put_part(&mut self, from: PeerKey, peer: PeerId, chunk: Chunk, cid: Cid, body: Vec<u8>) {
        let Some(client) = self.client(from) else { return };
        let Some((assembly, parts)) = client.assemblies.get_mut(&chunk) else { return };
        parts.remove(cid.hash());
        let fits = assembly.put(cid, Bytes::from(body));
        if !parts.is_empty() && fits {
            return;
        }
        match assembly.step() {
            Assembled::Missing(cids) if fits => {
                let cids: Vec<Cid> = cids.into_iter().filter(|cid| !is_inline(cid)).collect();
                parts.extend(cids.iter().map(|cid| *cid.hash()));
                cids.into_iter().for_each(|cid| client.want(cid, Use::Part(chunk)));
            }
            Assembled::Whole { body, block_lens } => {
                client.assemblies.remove(&chunk);
                client.chunks.remove(&chunk);
                let (key, chunk) = chunk;
                self.take_chunk(key, Came { from, peer, chunk, block_lens, body });
            }
            // Too long for a chunk: as good as not there, whoever is asked.
            Assembled::Missing(_) => {
                let entries = client.drop_chunk(chunk);
                self.say_entries(from, entries);
                self.chunk_lacking(from, chunk);
            }
        }
    }

    /// The peer has not got a block that it was asked for.
    fn block_lacking(&mut self, peer: PeerKey, hash: &Hash) {
        let Some(client) = self.client(peer) else { return };
        let Some(Asked { cid, uses, .. }) = client.take(hash) else { return };
        // It would send the block once it has it, when somebody else has long been asked.
        client.late.remember(*hash);
        let mut entries = vec![cancel(cid)];
        for what in &uses {
            if let Use::Chunk(chunk) | Use::Part(chunk) = what {
                entries.extend(client.drop_chunk(*chunk));
            }
        }
        self.say_entries(peer, entries);
        for what in uses {
            match what {
                Use::Chunk(chunk) | Use::Part(chunk) => self.chunk_lacking(peer, chunk),
                Use::Node(content) => self.node_answered(peer, content, &cid, false),
            }
        }
    }

    fn chunk_lacking(&mut self, peer: PeerKey, (content, chunk): Chunk) {
        let now = self.clock.now();
        if let Some(client) = self.client(peer) {
            client.partial.insert(content);
        }
        self.engine.handle_peer(now, peer, PeerEvent::Refused { content, chunk, why: Refusal::Gone });
    }

    /// The engine hears of a batch of nodes when all of it is answered.
    fn node_answered(&mut self, peer: PeerKey, content: ContentKey, cid: &Cid, got: bool) {
        let now = self.clock.now();
        let Some(client) = self.client(peer) else { return };
        let Some(batch) = client.batches.get_mut(&content) else { return };
        let Some(id) = batch.open.remove(cid) else { return };
        if got {
            batch.got.push(id)
        } else {
            batch.lacking.push(id)
        }
        if batch.open.is_empty() {
            let Some(Batch { got, lacking, .. }) = client.batches.remove(&content) else { return };
            self.engine.handle_peer(now, peer, PeerEvent::Nodes { content, got, lacking });
        }
    }

    /// The fetch has ended, one way or the other.
    pub(super) fn stop_asking(&mut self, peer: PeerKey, content: ContentKey) {
        let root = self.contents.get(content).map(|c| c.root);
        let Some(client) = self.client(peer) else { return };
        let mut entries = Vec::new();
        if client.roots.remove(&content).is_some() {
            entries.extend(root.map(cancel));
            root.iter().for_each(|cid| client.late.remember(*cid.hash()));
        }
        client.looking.retain(|(k, _)| *k != content);
        client.partial.remove(&content);
        let chunks: Vec<Chunk> = client.chunks.keys().filter(|(k, _)| *k == content).copied().collect();
        entries.extend(chunks.into_iter().flat_map(|chunk| client.drop_chunk(chunk)).collect::<Vec<_>>());
        if let Some(batch) = client.batches.remove(&content) {
            let nodes = batch.open.keys();
            entries.extend(nodes.filter_map(|cid| client.unwant(cid.hash(), Use::Node(content))));
        }
        if client.roots.is_empty() {
            client.early.clear();
        }
        self.say_entries(peer, entries);
    }
}
