//! Contents that are paused: nothing of them is asked for, sent, or told to the DHT, until they are resumed.
//!
//! What is paused is a root, since that is what peers and the DHT know a content by, whatever places it is shared
//! from and fetched to. It is noted in the store, and so outlives the node. To the engine a paused content is in no
//! swarm; the engine knows it nevertheless, so that its old neighbours are told when it is resumed.

use std::collections::BTreeSet;

use crate::content::Cid;
use crate::engine::event::ContentEvent;
use crate::store::Store;
use crate::units::ContentKey;

use super::api::{ContentStatus, Failure};
use super::driver::{Call, Driver};
use super::handle::{NodeHandle, blocking, content_status, failed};

/// The kind of the store's notes: a root's CID, and nothing more to say of it.
const NOTES: &str = "paused";
/// Why what is not here of a paused content is not read: it would have to be fetched.
pub(super) const UNREAD: &str = "it is paused; `dunlin resume` it first";

/// The roots that are paused.
pub(super) type Paused = BTreeSet<Cid>;

/// What is noted in the store.
///
/// # Errors
/// If it cannot be read.
pub(super) fn load(store: &dyn Store) -> Result<Paused, Failure> {
    let notes = store.notes(NOTES).map_err(failed)?;
    Ok(notes.into_iter().filter_map(|(root, _)| Cid::try_from(root).ok()).collect())
}

impl NodeHandle {
    /// Pauses a content of ours, at once and until it is resumed.
    ///
    /// # Errors
    /// If no such content is here, or it cannot be noted.
    pub async fn pause(&self, what: &str) -> Result<ContentStatus, Failure> {
        let info = self.find(what).await?;
        self.note_paused(info.root, true).await?;
        Ok(content_status(info, true, &self.view().await, &[]))
    }

    /// Goes on with a content that is paused, or whose fetch our disk has stopped.
    ///
    /// # Errors
    /// If no such content is here, or it cannot be noted.
    pub async fn resume(&self, what: &str) -> Result<ContentStatus, Failure> {
        let found = self.find(what).await?;
        self.note_paused(found.root, false).await?;
        if self.inner.running.is_some() {
            let of_root = |i: &crate::store::ContentInfo| i.root == found.root && i.seeding;
            for info in self.infos().await?.into_iter().filter(of_root) {
                self.go_on(info).await?;
            }
        }
        Ok(content_status(found, false, &self.view().await, &[]))
    }

    pub(super) async fn is_paused(&self, root: &Cid) -> bool {
        self.inner.paused.lock().await.contains(root)
    }

    /// Notes whether a root is paused, and tells the driver.
    pub(super) async fn note_paused(&self, root: Cid, pause: bool) -> Result<(), Failure> {
        let mut paused = self.inner.paused.lock().await;
        if paused.contains(&root) == pause {
            return Ok(());
        }
        let store = self.inner.store.clone();
        let note = (root.to_bytes(), pause.then(Vec::new));
        blocking(move || store.note(NOTES, &[note]).map_err(failed)).await?;
        match pause {
            true => paused.insert(root),
            false => paused.remove(&root),
        };
        match self.inner.running {
            Some(_) => self.ask(|reply| Call::Pause { root, paused: pause, reply }).await,
            None => Ok(()),
        }
    }
}

impl Driver {
    /// A root is paused from now on, or no longer.
    pub(super) fn set_paused(&mut self, root: Cid, paused: bool) {
        match paused {
            true => self.paused.insert(root),
            false => self.paused.remove(&root),
        };
        let keys: Vec<ContentKey> = self
            .contents
            .iter()
            .filter(|(_, c)| c.root == root && c.paused != paused)
            .map(|(k, _)| k)
            .collect();
        for key in keys {
            if paused { self.pause(key) } else { self.go_on(key) }
        }
        self.bitswap_serves_anew();
    }

    fn pause(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(key) else { return };
        if content.fetch.as_ref().is_some_and(|f| f.hold) {
            // Who reads it as it comes is told, rather than left to wait.
            return self.fail(key, Failure::failed(UNREAD));
        }
        content.paused = true;
        // So is who reads through it, then and later.
        let readers = content.fetch.iter_mut().flat_map(|f| f.readers.drain(..));
        readers.for_each(|reader| drop(reader.send(Err(Failure::failed(UNREAD)))));
        self.rest(key);
    }

    /// A content that is paused leaves its swarm. What is in flight is cancelled: should it come all the same, it is
    /// late, and nobody's fault.
    pub(super) fn rest(&mut self, key: ContentKey) {
        let now = self.clock.now();
        self.bitswap_forgets(key);
        self.forget_parts_of(key);
        self.joins.retain(|(k, ..)| *k != key);
        let Some(content) = self.contents.get_mut(key) else { return };
        content.all_left();
        let (active, seeds) = (content.active, content.complete && content.seeding);
        if active {
            self.engine.handle_content(now, key, ContentEvent::Paused(true));
        } else if seeds {
            self.activate(key, false);
        }
        self.stop_providing(key);
    }

    fn go_on(&mut self, key: ContentKey) {
        let now = self.clock.now();
        let Some(content) = self.contents.get_mut(key) else { return };
        content.paused = false;
        let (active, seeding) = (content.active, content.seeding);
        let fetches = content.fetch.is_some();
        if let Some(fetch) = &mut content.fetch {
            fetch.last_progress = now;
        }
        if active {
            self.engine.handle_content(now, key, ContentEvent::Paused(false));
        }
        if seeding {
            self.provide(key);
        }
        if fetches {
            self.link_up_with_connected();
            self.try_again();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::node::world::*;
    use crate::store::MemStore;
    use crate::wire::exchange::{Message, Update, Why};

    /// How long a waiter waits for something to come.
    const PATIENCE: Duration = Duration::from_millis(1_500);

    #[tokio::test]
    async fn a_paused_seed_leaves_its_swarm_and_the_dht_and_comes_back_to_both() {
        let (store, key, root) = shared();
        let mut w = World::new(store.clone()).await;
        w.serve(&store, key).await;
        assert!(w.provides().await);
        w.is_joined(root).await;
        w.say(ask(root)).await;
        assert_eq!(w.refused().await, None);

        w.pause(root, true).await;
        w.leaves().await;
        assert!(!w.provides().await);
        w.say(ask(root)).await;
        assert_eq!(w.refused().await, Some(Why::Gone));
        w.say(join(root)).await;
        w.hears("unknown", |m| matches!(m, Message::Unknown { .. }).then_some(())).await;
        w.say(Message::GetNodes { request: 5, root, cids: vec![root] }).await;
        let nodes = |m: &Message| match m {
            Message::Nodes { nodes, lacking, .. } => Some((nodes.len(), lacking.len())),
            _ => None,
        };
        assert_eq!(w.hears("nodes", nodes).await, (0, 1));

        w.pause(root, false).await;
        w.hears("join", |m| matches!(m, Message::Join { complete: true, .. }).then_some(())).await;
        assert!(w.provides().await);
        w.say(join(root)).await;
        w.say(ask(root)).await;
        assert_eq!(w.refused().await, None);
        w.nobody_is_banned();
    }

    /// It had no name any more when the engine's last words were carried out: peers waited for their time-outs.
    #[tokio::test]
    async fn what_is_removed_leaves_its_swarm() {
        let (store, key, root) = shared();
        let mut w = World::new(store.clone()).await;
        w.serve(&store, key).await;
        w.is_joined(root).await;
        let (reply, done) = oneshot::channel();
        w.ends.calls.send(Call::Forget { key, reply }).await.unwrap();
        done.await.unwrap();
        w.leaves().await;
        w.say(ask(root)).await;
        assert_eq!(w.refused().await, Some(Why::Gone));
    }

    #[tokio::test]
    async fn a_paused_fetch_asks_for_nothing_and_what_comes_late_is_no_fault() {
        let ((from, key, root), store) = (shared(), Arc::new(MemStore::new()));
        let mut w = World::new(store.clone()).await;
        let (mut told, end) = fetch(&w, &store, root, PATIENCE).await;
        w.hears("join", |m| matches!(m, Message::Join { .. }).then_some(())).await;
        w.say(joined(root, &from)).await;
        let in_flight = asked(&mut w).await;

        w.pause(root, true).await;
        let cancelled = |m: &Message| match m {
            Message::Cancel { indices, .. } => Some(indices.clone()),
            _ => None,
        };
        assert_eq!(w.hears("cancel", cancelled).await, in_flight);
        w.leaves().await;
        send(&w, &from, key, root, in_flight[0]).await;
        w.say(joined(root, &from)).await;
        // Longer than its waiter would wait for something to come: a pause is not that.
        let since = tokio::time::Instant::now();
        while since.elapsed() < Duration::from_secs(2) {
            let line = tokio::time::timeout(SOON, told.recv()).await.expect("progress").expect("it waits");
            // The one that was in the channel may be older.
            assert!(
                line.state == "paused" && line.stuck.is_none() || since.elapsed().as_millis() < 600,
                "{line:?}"
            );
        }
        let said = w.said_by_now(root).await;
        let harmless = |m: &Message| matches!(m, Message::Update(Update { leaving: true, .. }));
        assert!(said.iter().all(harmless), "said of a paused content: {said:?}");

        w.pause(root, false).await;
        w.hears("join", |m| matches!(m, Message::Join { .. }).then_some(())).await;
        w.say(joined(root, &from)).await;
        let mut left = 3;
        while left > 0 {
            for index in asked(&mut w).await {
                send(&w, &from, key, root, index).await;
                left -= 1;
            }
        }
        let end = tokio::time::timeout(SOON, end).await.expect("an end").unwrap();
        assert_eq!(end.unwrap().size, 600_000);
        w.nobody_is_banned();
    }

    #[tokio::test]
    async fn who_reads_through_a_fetch_that_is_paused_is_told_so() {
        let ((_, _, root), store) = (shared(), Arc::new(MemStore::new()));
        let w = World::new(store.clone()).await;
        let (_told, _end) = fetch(&w, &store, root, PATIENCE).await;
        let read = || {
            let ((end, ended), (reply, key)) = (oneshot::channel(), oneshot::channel());
            (Call::Read { root, peers: Vec::new(), end, reply }, key, ended)
        };
        let unread = async |ended: End| {
            let end = tokio::time::timeout(SOON, ended).await.expect("its end is told");
            assert_eq!(end.unwrap().unwrap_err().message, UNREAD);
        };
        let (call, key, before) = read();
        w.ends.calls.send(call).await.unwrap();
        assert!(key.await.unwrap().is_some());
        w.pause(root, true).await;
        unread(before).await;
        let (call, key, after) = read();
        w.ends.calls.send(call).await.unwrap();
        assert!(key.await.unwrap().is_some());
        unread(after).await;
    }

    #[tokio::test]
    async fn what_was_paused_before_the_start_is_not_even_joined_until_it_is_resumed() {
        let ((from, _, root), store) = (shared(), Arc::new(MemStore::new()));
        store.note(NOTES, &[(root.to_bytes(), Some(Vec::new()))]).unwrap();
        let mut w = World::new(store.clone()).await;
        let (mut told, _end) = fetch(&w, &store, root, PATIENCE).await;
        let line = tokio::time::timeout(SOON, told.recv()).await.unwrap().unwrap();
        assert_eq!(line.state, "paused");
        let said = w.said_by_now(root).await;
        assert!(said.is_empty(), "said of a paused content: {said:?}");
        w.pause(root, false).await;
        w.hears("join", |m| matches!(m, Message::Join { .. }).then_some(())).await;
        w.say(joined(root, &from)).await;
        assert_eq!(asked(&mut w).await.len(), 1);
    }
}
