//! Chunks that come, on their way from a peer's stream to the threads that verify and write them.

use libp2p::PeerId;

use crate::content::Cid;
use crate::engine::event::Arrival;
use crate::units::{ChunkIndex, ContentKey, PeerKey};

use super::driver::Driver;
use super::workers::{WriteJob, WriterJob};

/// A chunk of which nothing is known yet but what its sender says.
pub(super) struct Came {
    pub from: PeerKey,
    pub peer: PeerId,
    pub chunk: ChunkIndex,
    pub block_lens: Vec<u32>,
    pub body: Vec<u8>,
}

impl Driver {
    pub(super) fn chunk_came(&mut self, root: &Cid, came: Came) {
        let Some((key, content)) = self.contents.of_root(root) else {
            // A content that was removed or paused a moment ago: nobody's fault.
            return self.buffers.put(came.body);
        };
        let unknown = came.chunk.get() >= content.chunks;
        let fetch = self.contents.get_mut(key).and_then(|c| c.fetch.as_mut());
        // The first of all may come while the nodes that it is known by are looked at.
        match fetch.filter(|f| unknown && !f.manifest_done && f.early.is_none()) {
            Some(fetch) => fetch.early = Some(came),
            None => self.take_chunk(key, came),
        }
    }

    /// More chunks are known, or no more will be: what came before that can be told from what nobody asked for.
    pub(super) fn take_early(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(key) else { return };
        let (chunks, fetch) = (content.chunks, content.fetch.as_mut());
        let known = |f: &mut super::contents::Fetch| {
            let done = f.manifest_done;
            f.early.take_if(|came| done || came.chunk.get() < chunks)
        };
        if let Some(came) = fetch.and_then(known) {
            self.take_chunk(key, came);
        }
    }

    /// If it is of use it goes to the threads that verify and write it.
    pub(super) fn take_chunk(&mut self, key: ContentKey, came: Came) {
        let Came { from, peer, chunk, block_lens, body } = came;
        let now = self.clock.now();
        let bytes = body.len() as u64;
        match self.engine.handle_chunk(now, from, key, chunk, bytes) {
            Arrival::Wanted => {
                self.down.total += bytes;
                if let Some(c) = self.contents.get_mut(key) {
                    c.down.total += bytes;
                }
                let job = WriteJob { content: key, chunk, from: peer, block_lens, body };
                self.writers.give(WriterJob::Arrived(job));
            }
            Arrival::Late | Arrival::Unasked => self.buffers.put(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::node::driver::{Call, FetchCall};
    use crate::node::handle::compared;
    use crate::node::world::{SOON, World, asked, fetch, join, joined, send, shared};
    use crate::store::{MemStore, NewFetch, Store};
    use crate::wire::exchange::Message;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn ix(c: u32) -> ChunkIndex {
        ChunkIndex::new(c).unwrap()
    }

    #[tokio::test]
    async fn who_would_take_any_chunk_is_sent_the_one_that_the_answer_names() {
        let (store, key, root) = shared();
        let mut w = World::new(store.clone()).await;
        w.serve(&store, key).await;
        let mut says = join(root);
        if let Message::Join { any, .. } = &mut says {
            *any = true;
        }
        w.say(says).await;
        let named = w.hears("joined", |m| match m {
            Message::Joined { first, nodes, .. } => Some((*first, nodes.len())),
            _ => None,
        });
        let (Some(first), 1) = named.await else { panic!("nothing is named") };
        let sent = tokio::time::timeout(SOON, w.data.recv()).await.expect("a chunk").unwrap();
        assert!(matches!(sent.message, Message::Chunk { index, .. } if index == first));
    }

    /// Of eight that begin together each was given the same nodes by the seven others: 60 ms of a link of 16 Mbit/s.
    #[tokio::test]
    async fn who_has_the_first_nodes_is_not_given_them_again() {
        let (store, key, root) = shared();
        let mut w = World::new(store.clone()).await;
        w.serve(&store, key).await;
        for known in [true, false] {
            let mut says = join(root);
            if let Message::Join { has_nodes, .. } = &mut says {
                *has_nodes = known;
            }
            w.say(says).await;
            let given = |m: &Message| match m {
                Message::Joined { nodes, .. } => Some(nodes.len()),
                _ => None,
            };
            assert_eq!(w.hears("joined", given).await, usize::from(!known));
        }
    }

    #[tokio::test]
    async fn a_join_says_whether_the_first_nodes_are_here() {
        let ((from, _, root), store) = (shared(), Arc::new(MemStore::new()));
        let mut w = World::new(store.clone()).await;
        let (_told, _end) = fetch(&w, &store, root, PATIENCE).await;
        let has = |m: &Message| match m {
            Message::Join { has_nodes, .. } => Some(*has_nodes),
            _ => None,
        };
        assert!(!w.hears("join", has).await);
        w.say(joined(root, &from)).await;
        asked(&mut w).await;
        w.another().await;
        assert!(w.hears("join", has).await);
    }

    /// The fetch of a file of three chunks asks its first peer for any, which is the second.
    #[tokio::test]
    async fn the_first_chunk_may_come_before_its_promise_and_before_its_node() {
        for behind in [false, true] {
            let ((from, key, root), store) = (shared(), Arc::new(MemStore::new()));
            let mut w = World::new(store.clone()).await;
            let (_told, end) = fetch(&w, &store, root, PATIENCE).await;
            w.hears("join", |m| matches!(m, Message::Join { any: true, .. }).then_some(())).await;
            let Message::Joined { root, have, complete, interested, choked, nodes, peers, .. } =
                joined(root, &from)
            else {
                unreachable!()
            };
            let first = Some(ix(1));
            if !behind {
                send(&w, &from, key, root, ix(1)).await;
            }
            w.say(Message::Joined { root, have, complete, interested, choked, nodes, peers, first }).await;
            if behind {
                send(&w, &from, key, root, ix(1)).await;
            }
            let mut left = vec![ix(0), ix(2)];
            while !left.is_empty() {
                for index in asked(&mut w).await {
                    let at =
                        left.iter().position(|c| *c == index).expect("what is on its way is not asked for");
                    send(&w, &from, key, root, left.swap_remove(at)).await;
                }
            }
            let end = tokio::time::timeout(SOON, end).await.expect("an end").unwrap().unwrap();
            assert_eq!(end.size, 600_000);
            w.nobody_is_banned();
        }
    }

    #[tokio::test]
    async fn who_only_reads_or_has_some_of_it_asks_for_no_chunk_of_the_peers_choice() {
        for hold in [true, false] {
            let ((_, _, root), store) = (shared(), Arc::new(MemStore::new()));
            let mut w = World::new(store.clone()).await;
            let key = store
                .begin_fetch(&NewFetch { root, name: None, dest: "/copy".into(), force: false })
                .unwrap();
            let mut known = compared(&*store, key).unwrap();
            if !hold {
                known.have.insert(ix(0));
            }
            let call = FetchCall { known, size_hint: None, peers: Vec::new(), hold, waiter: None };
            w.ends.calls.send(Call::Fetch(Box::new(call))).await.unwrap();
            let any = |m: &Message| match m {
                Message::Join { any, .. } => Some(*any),
                _ => None,
            };
            assert!(!w.hears("join", any).await);
        }
    }
}
