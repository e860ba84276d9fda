//! What of what peers want is here: looked up in the index, off the driver, one look-up a peer at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::content::{Cid, DAG_PB, RAW};
use crate::store::{Store, StoreError};
use crate::units::{ChunkIndex, ContentKey, PeerKey};
use crate::wire::bitswap::INLINE_BLOCK;

use super::super::driver::{Driver, Slow};

/// Look-ups under way at a time, of all peers.
const MAX_RUNNING: usize = 4;
/// Names in one look-up: a peer that wants many does not hold up the others.
const BATCH: usize = 256;
/// Bytes of inner nodes that one look-up may bring; the rest is looked up again when these have left.
const MAX_NODE_BYTES: usize = 1 << 20;

/// Where a block is.
#[derive(Debug)]
pub enum Found {
    /// It is that block of a chunk. `small`: known to be at most [`INLINE_BLOCK`] long.
    Chunk {
        content: ContentKey,
        chunk: ChunkIndex,
        block: u32,
        small: bool,
    },
    Node(Bytes),
    /// An inner node, for which there was no room.
    Later,
    Nothing,
}

/// What a look-up gave; `link` is the session that it was for.
pub struct Looked {
    pub peer: PeerKey,
    pub link: u64,
    pub found: Vec<(Cid, Found)>,
}

#[derive(Default)]
pub struct Lookups {
    running: usize,
    /// Whose turn it was last.
    turn: Option<PeerKey>,
    /// Something is here that was not when pending wants were looked up last.
    news: bool,
    /// The contents that are served, until one comes or goes.
    served: Option<Arc<BTreeSet<ContentKey>>>,
}

impl Driver {
    /// More may be here, or less, than what was looked up before.
    pub(in super::super) fn bitswap_news(&mut self) {
        self.bitswap.lookups.news = true;
    }

    /// Contents that are served have come or gone.
    pub(in super::super) fn bitswap_serves_anew(&mut self) {
        self.bitswap.lookups.served = None;
        self.bitswap.lookups.news = true;
    }

    /// What peers wait for may be here by now.
    pub(super) fn look_again(&mut self) {
        if std::mem::take(&mut self.bitswap.lookups.news) {
            self.bitswap.sessions.values_mut().for_each(|s| s.server.renew());
        }
        self.look_up();
    }

    /// Looks up what peers want, in turn.
    pub(super) fn look_up(&mut self) {
        while self.bitswap.lookups.running < MAX_RUNNING {
            let ready = |(_, s): &(&PeerKey, &super::Session)| s.server.has_unknown();
            let after = PeerKey(self.bitswap.lookups.turn.map_or(0, |p| p.0.saturating_add(1)));
            let sessions = &self.bitswap.sessions;
            let next = sessions.range(after..).find(ready).or_else(|| sessions.range(..after).find(ready));
            let Some(peer) = next.map(|(peer, _)| *peer) else { return };
            let served = self.served();
            let Some(session) = self.bitswap.sessions.get_mut(&peer) else { return };
            let (link, cids) = (session.link.id, session.server.take_unknown(BATCH));
            self.bitswap.lookups.turn = Some(peer);
            self.bitswap.lookups.running += 1;
            let store = self.store.clone();
            self.slowly(move || Slow::Looked(Looked { peer, link, found: find_all(&*store, cids, &served) }));
        }
    }

    /// A content that does not seed, or is paused, is as good as not here.
    fn served(&mut self) -> Arc<BTreeSet<ContentKey>> {
        let contents = &self.contents;
        let all =
            || contents.iter().filter(|(_, c)| c.serves() && c.parts.is_none()).map(|(k, _)| k).collect();
        self.bitswap.lookups.served.get_or_insert_with(|| Arc::new(all())).clone()
    }

    pub(in super::super) fn looked(&mut self, looked: Looked) {
        self.bitswap.lookups.running = self.bitswap.lookups.running.saturating_sub(1);
        let Looked { peer, link, found } = looked;
        if self.bitswap.sessions.get(&peer).is_some_and(|s| s.link.id == link) {
            self.answer_wants(peer, found);
        }
        self.look_up();
    }
}

fn find_all(store: &dyn Store, cids: Vec<Cid>, served: &BTreeSet<ContentKey>) -> Vec<(Cid, Found)> {
    let mut spent = 0;
    let mut find_one = |cid: Cid| {
        let found = find(store, &cid, served).unwrap_or_else(|e| {
            tracing::warn!("cannot look up block {cid}: {e}");
            Found::Nothing
        });
        match found {
            Found::Node(node) if spent > 0 && spent + node.len() > MAX_NODE_BYTES => (cid, Found::Later),
            Found::Node(node) => {
                spent += node.len();
                (cid, Found::Node(node))
            }
            other => (cid, other),
        }
    };
    cids.into_iter().map(&mut find_one).collect()
}

/// The names say how a block is to be read, and the hash alone which it is; so every name of it will do.
fn find(store: &dyn Store, cid: &Cid, served: &BTreeSet<ContentKey>) -> Result<Found, StoreError> {
    if cid.codec() == RAW {
        let chunk = find_chunk(store, cid, served)?;
        return if matches!(chunk, Found::Nothing) { find_node(store, cid, served) } else { Ok(chunk) };
    }
    let node = find_node(store, cid, served)?;
    if matches!(node, Found::Nothing) { find_chunk(store, cid, served) } else { Ok(node) }
}

fn find_chunk(store: &dyn Store, cid: &Cid, served: &BTreeSet<ContentKey>) -> Result<Found, StoreError> {
    let place = store.find_block_of(cid.hash(), &|key| served.contains(&key))?;
    let Some((content, chunk, block)) = place else { return Ok(Found::Nothing) };
    let spec = store.chunk(content, chunk)?;
    let whole = spec.cid.codec() == RAW && block == 0;
    let small = whole && spec.len.is_some_and(|len| len <= INLINE_BLOCK as u64);
    Ok(Found::Chunk { content, chunk, block, small })
}

fn find_node(store: &dyn Store, cid: &Cid, served: &BTreeSet<ContentKey>) -> Result<Found, StoreError> {
    let names = [Cid::new_v0(*cid.hash()).ok(), Some(Cid::new_v1(DAG_PB, *cid.hash()))];
    for name in names.into_iter().flatten() {
        if let Some(node) = store.node_of(&name, served)? {
            return Ok(Found::Node(node));
        }
    }
    Ok(Found::Nothing)
}
