//! A driver at work with one linked peer, whose part the test plays, for tests of what the two say.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};

use super::api::{Failure, Progress, Shared};
use super::contents::Waiter;
use super::driver::{Call, Driver, FetchCall};
use super::handle::compared;
use super::tests::{Ends, wiring};
use crate::bitfield::Bitfield;
use crate::content::Cid;
use crate::content::profile::Profile;
use crate::engine::Config;
use crate::net::api::{Command, Event, Inbound, Link, Outgoing};
use crate::store::{MemStore, MemTree, NewFetch, Store};
use crate::units::{ChunkIndex, ContentKey};
use crate::wire::exchange::{Message, Why};

pub const LINK: u64 = 1;
pub const SOON: Duration = Duration::from_secs(20);

/// A driver at work, and everything that it speaks with.
pub struct World {
    pub ends: Ends,
    pub control: mpsc::Receiver<Message>,
    pub data: mpsc::Receiver<Outgoing>,
    pub peer: PeerId,
    /// Its own.
    pub own: PeerId,
}

/// A file of three chunks as somebody shares it.
pub fn shared() -> (Arc<MemStore>, ContentKey, Cid) {
    let store = MemStore::new();
    store.put(Path::new("/file"), MemTree::File((0..600_000u32).map(|i| (i / 251) as u8).collect()));
    let key = store.import(Path::new("/file"), &Profile::V1_256K).unwrap();
    let root = store.info(key).unwrap().root;
    (Arc::new(store), key, root)
}

impl World {
    /// With one peer, which is linked.
    pub async fn new(store: Arc<MemStore>) -> World {
        let (wiring, ends) = wiring(&*store, Duration::ZERO);
        let own = wiring.own_id;
        let (driver, inputs) = Driver::new(store, Config::default(), 1, wiring).unwrap();
        tokio::spawn(driver.run(inputs));
        let (peer, control, data) = linked(&ends).await;
        World { ends, control, data, peer, own }
    }

    /// Another peer is linked, and it is the one that the test plays from now on.
    pub async fn another(&mut self) {
        (self.peer, self.control, self.data) = linked(&self.ends).await;
    }

    pub async fn serve(&self, store: &MemStore, key: ContentKey) {
        let (reply, done) = oneshot::channel();
        let known = Box::new(compared(store, key).unwrap());
        self.ends.calls.send(Call::Serve { known, reply }).await.unwrap();
        done.await.unwrap();
    }

    /// The peer joins, and is unchoked.
    pub async fn is_joined(&mut self, root: Cid) {
        self.say(join(root)).await;
        self.hears("joined", |m| matches!(m, Message::Joined { choked: false, .. }).then_some(())).await;
    }

    pub async fn pause(&self, root: Cid, paused: bool) {
        let (reply, done) = oneshot::channel();
        self.ends.calls.send(Call::Pause { root, paused, reply }).await.unwrap();
        done.await.unwrap();
    }

    pub async fn say(&self, message: Message) {
        let message = Inbound::Message { peer: self.peer, link: LINK, message };
        self.ends.inbound.send(message).await.unwrap();
    }

    /// The next message of that kind; others are passed over.
    pub async fn hears<T>(&mut self, what: &str, of: impl Fn(&Message) -> Option<T>) -> T {
        loop {
            let next = tokio::time::timeout(SOON, self.control.recv()).await;
            let message = next.unwrap_or_else(|_| panic!("not said: {what}")).unwrap();
            if let Some(found) = of(&message) {
                return found;
            }
        }
    }

    pub async fn leaves(&mut self) {
        self.hears("leaving", |m| matches!(m, Message::Update(u) if u.leaving).then_some(())).await;
    }

    /// What was said by now; a question that is answered in any case comes behind it.
    pub async fn said_by_now(&mut self, root: Cid) -> Vec<Message> {
        self.say(Message::GetPeers { request: 77, root }).await;
        let mut said = Vec::new();
        loop {
            let next = tokio::time::timeout(SOON, self.control.recv()).await;
            match next.expect("an answer").unwrap() {
                Message::Peers { request: 77, .. } => return said,
                other => said.push(other),
            }
        }
    }

    pub async fn refused(&mut self) -> Option<Why> {
        match tokio::time::timeout(SOON, self.data.recv()).await.expect("an answer").unwrap().message {
            Message::NoChunk { why, .. } => Some(why),
            _ => None,
        }
    }

    /// The next command to provide (`true`) or to stop that.
    pub async fn provides(&mut self) -> bool {
        loop {
            match tokio::time::timeout(SOON, self.ends.commands.recv()).await.expect("a command").unwrap() {
                Command::Provide { .. } => return true,
                Command::StopProviding { .. } => return false,
                Command::Ban { .. } => panic!("banned"),
                _ => {}
            }
        }
    }

    pub async fn event(&self, event: Event) {
        self.ends.events.send(event).await.unwrap();
    }

    /// What it has been told of the network by now counts before any call that comes after this.
    pub async fn events_are_taken(&self) {
        let taken = async {
            while self.ends.events.capacity() < self.ends.events.max_capacity() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, taken).await.expect("it takes events");
    }

    /// The next command of that kind; others are passed over, and nobody is found in the DHTs.
    pub async fn commands<T>(&mut self, what: &str, of: impl Fn(&Command) -> Option<T>) -> T {
        loop {
            let next = tokio::time::timeout(SOON, self.ends.commands.recv()).await;
            let command = next.unwrap_or_else(|_| panic!("not commanded: {what}")).unwrap();
            if let Some(found) = of(&command) {
                return found;
            }
            if let Command::FindProviders { query, .. } = command {
                self.event(Event::QueryDone { query }).await;
            }
        }
    }

    pub fn nobody_is_banned(&mut self) {
        while let Ok(command) = self.ends.commands.try_recv() {
            assert!(!matches!(command, Command::Ban { .. }), "banned");
        }
    }
}

async fn linked(ends: &Ends) -> (PeerId, mpsc::Receiver<Message>, mpsc::Receiver<Outgoing>) {
    let (peer, addr) = (PeerId::random(), "/ip4/127.0.0.1/tcp/1".parse().unwrap());
    ends.events.send(Event::Connected { peer, addr, dialed: false }).await.unwrap();
    let ((control, control_rx), (data, data_rx)) = (mpsc::channel(64), mpsc::channel(64));
    let link = Link { id: LINK, control, data };
    ends.events.send(Event::LinkUp { peer, link }).await.unwrap();
    (peer, control_rx, data_rx)
}

pub fn ask(root: Cid) -> Message {
    Message::GetChunks { root, indices: vec![ChunkIndex::new(0).unwrap()] }
}

pub fn join(root: Cid) -> Message {
    let have = Bitfield::new();
    Message::Join { root, have, complete: false, interested: true, any: false, has_nodes: false }
}

pub type End = oneshot::Receiver<Result<Shared, Failure>>;

/// A fetch has begun; what its waiter hears, and how it ends. It waits so long for something to come.
pub async fn fetch(
    w: &World,
    store: &MemStore,
    root: Cid,
    timeout: Duration,
) -> (mpsc::Receiver<Progress>, End) {
    let new = NewFetch { root, name: None, dest: "/copy".into(), force: false };
    let key = store.begin_fetch(&new).unwrap();
    let (progress, told) = mpsc::channel(1);
    let (reply, end) = oneshot::channel();
    let waiter = Some(Waiter { progress, reply, timeout: Some(timeout), seed: true });
    let known = compared(store, key).unwrap();
    let call = FetchCall { known, size_hint: None, peers: Vec::new(), hold: false, waiter };
    w.ends.calls.send(Call::Fetch(Box::new(call))).await.unwrap();
    (told, end)
}

pub fn joined(root: Cid, from: &MemStore) -> Message {
    Message::Joined {
        root,
        have: Bitfield::new(),
        complete: true,
        interested: false,
        choked: false,
        nodes: vec![(root, from.node(&root).unwrap().unwrap())],
        peers: Vec::new(),
        first: None,
    }
}

pub async fn asked(w: &mut World) -> Vec<ChunkIndex> {
    w.hears("a request", |m| match m {
        Message::GetChunks { indices, .. } => Some(indices.clone()),
        _ => None,
    })
    .await
}

pub async fn send(w: &World, from: &MemStore, key: ContentKey, root: Cid, index: ChunkIndex) {
    let mut body = Vec::new();
    let read = from.read_chunk(key, index, &mut body).unwrap();
    let message = Message::Chunk { root, index, block_lens: read.block_lens.to_vec() };
    w.ends.inbound.send(Inbound::Chunk { peer: w.peer, link: LINK, message, body }).await.unwrap();
}
