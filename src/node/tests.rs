//! The driver by itself: a store in memory, no network.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use bytes::Bytes;
use libp2p::identity::Keypair;
use tokio::sync::{mpsc, oneshot};

use super::api::{Failure, Shared};
use super::clock::Clock;
use super::config::{NodeConfig, Providing};
use super::contents::Waiter;
use super::driver::{Call, ContentView, Driver, FetchCall, View, Wiring};
use super::handle::compared;
use super::ledger::Book;
use super::limits::Limits;
use super::pausing;
use super::stuck::Reason;
use crate::bitfield::Bitfield;
use crate::content::block::cid_of;
use crate::content::chunk::{ChunkSpec, VerifiedChunk};
use crate::content::manifest::Item;
use crate::content::profile::Profile;
use crate::content::{Cid, DAG_PB, Hash};
use crate::engine::Config;
use crate::net::BufPool;
use crate::net::api::{Command, Event, Inbound};
use crate::store::{ChunkRead, ContentInfo, MemStore, MemTree, NewFetch, Notes, Store, StoreError};
use crate::units::{ChunkIndex, ChunkRange, ContentKey, FileIndex};

type Result<T> = std::result::Result<T, StoreError>;

/// A store that the driver's own thread must leave alone: it may wait for a disk, or hash a file, for long.
struct Slow {
    inner: MemStore,
    driver: ThreadId,
    runs: AtomicBool,
}

impl Slow {
    fn get(&self) -> &MemStore {
        let driver = thread::current().id() == self.driver && self.runs.load(Ordering::Relaxed);
        assert!(!driver, "the driver waits for the store");
        &self.inner
    }
}

impl Store for Slow {
    fn node(&self, cid: &Cid) -> Result<Option<Bytes>> {
        self.get().node(cid)
    }
    fn put_nodes(&self, key: ContentKey, nodes: &[(Cid, Bytes)]) -> Result<()> {
        self.get().put_nodes(key, nodes)
    }
    fn list(&self) -> Result<Vec<ContentInfo>> {
        self.get().list()
    }
    fn info(&self, key: ContentKey) -> Result<ContentInfo> {
        self.get().info(key)
    }
    fn find(&self, root: &Cid) -> Result<Option<ContentKey>> {
        self.get().find(root)
    }
    fn remove(&self, key: ContentKey, delete_part: bool) -> Result<()> {
        self.get().remove(key, delete_part)
    }
    fn set_seeding(&self, key: ContentKey, seeding: bool) -> Result<()> {
        self.get().set_seeding(key, seeding)
    }
    fn begin_fetch(&self, new: &NewFetch) -> Result<ContentKey> {
        self.get().begin_fetch(new)
    }
    fn extend(&self, key: ContentKey, items: &[Item]) -> Result<()> {
        self.get().extend(key, items)
    }
    fn manifest_complete(&self, key: ContentKey) -> Result<()> {
        self.get().manifest_complete(key)
    }
    fn chunk(&self, key: ContentKey, chunk: ChunkIndex) -> Result<ChunkSpec> {
        self.get().chunk(key, chunk)
    }
    fn chunks_of(&self, key: ContentKey, file: FileIndex, start: u64, end: u64) -> Result<Vec<ChunkRange>> {
        self.get().chunks_of(key, file, start, end)
    }
    fn find_block_of(
        &self,
        hash: &Hash,
        of: &dyn Fn(ContentKey) -> bool,
    ) -> Result<Option<(ContentKey, ChunkIndex, u32)>> {
        self.get().find_block_of(hash, of)
    }
    fn node_of(&self, cid: &Cid, of: &BTreeSet<ContentKey>) -> Result<Option<Bytes>> {
        self.get().node_of(cid, of)
    }
    fn write_chunk(&self, key: ContentKey, chunk: ChunkIndex, data: &VerifiedChunk<'_>) -> Result<()> {
        self.get().write_chunk(key, chunk, data)
    }
    fn read_chunk(&self, key: ContentKey, chunk: ChunkIndex, buf: &mut Vec<u8>) -> Result<ChunkRead> {
        self.get().read_chunk(key, chunk, buf)
    }
    fn have(&self, key: ContentKey) -> Result<Bitfield> {
        self.get().have(key)
    }
    fn checkpoint(&self) -> Result<()> {
        self.get().checkpoint()
    }
    fn finish_fetch(&self, key: ContentKey) -> Result<PathBuf> {
        self.get().finish_fetch(key)
    }
    fn verify(
        &self,
        key: ContentKey,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Vec<ChunkRange>, Vec<PathBuf>)> {
        self.get().verify(key, progress)
    }
    fn relocate(&self, key: ContentKey, path: &Path) -> Result<()> {
        self.get().relocate(key, path)
    }
    fn notes(&self, kind: &str) -> Result<Notes> {
        self.get().notes(kind)
    }
    fn note(&self, kind: &str, notes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()> {
        self.get().note(kind, notes)
    }
}

/// The other ends of a driver's channels. Held open, as the network task would.
pub(super) struct Ends {
    pub calls: mpsc::Sender<Call>,
    pub events: mpsc::Sender<Event>,
    pub inbound: mpsc::Sender<Inbound>,
    pub commands: mpsc::Receiver<Command>,
}

/// What a driver needs, as a new node would have it.
pub(super) fn wiring(store: &dyn Store, stuck_after: Duration) -> (Wiring, Ends) {
    let (calls_tx, calls) = mpsc::channel(16);
    let (events_tx, events) = mpsc::channel(16);
    let (inbound_tx, inbound) = mpsc::channel(16);
    let (net, commands) = mpsc::channel(64);
    let key = Keypair::generate_ed25519();
    let wiring = Wiring {
        calls,
        events,
        inbound,
        net,
        pool: BufPool::new(4),
        own_id: key.public().to_peer_id(),
        peers: Vec::new(),
        providing: Providing::Roots,
        limits: Limits::load(store, &NodeConfig::default()).unwrap(),
        book: Book::load(store, Clock::start().now()).unwrap(),
        paused: pausing::load(store).unwrap(),
        stuck_after,
        key,
    };
    (wiring, Ends { calls: calls_tx, events: events_tx, inbound: inbound_tx, commands })
}

/// A running driver, on the test's own thread.
struct Bench {
    store: Arc<Slow>,
    ends: Ends,
}

impl Bench {
    fn start(inner: MemStore) -> Bench {
        let store = Arc::new(Slow { inner, driver: thread::current().id(), runs: AtomicBool::new(false) });
        let (wiring, ends) = wiring(&*store, Duration::from_secs(30));
        let (driver, inputs) = Driver::new(store.clone(), Config::default(), 1, wiring).unwrap();
        store.runs.store(true, Ordering::Relaxed);
        tokio::spawn(driver.run(inputs));
        Bench { store, ends }
    }

    async fn say(&self, call: Call) {
        assert!(self.ends.calls.send(call).await.is_ok(), "the driver has ended");
    }

    async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> T {
        let (reply, answer) = oneshot::channel();
        self.say(call(reply)).await;
        answer.await.expect("the driver has ended")
    }

    async fn view(&self, key: ContentKey) -> ContentView {
        let view: View = self.ask(|reply| Call::View { reply }).await;
        view.contents.get(&key).cloned().expect("it is shown")
    }

    fn begin(&self, root: Cid, dest: &str) -> ContentKey {
        self.store.inner.begin_fetch(&NewFetch { root, name: None, dest: dest.into(), force: false }).unwrap()
    }

    async fn fetch(&self, key: ContentKey, waiter: Option<Waiter>) {
        let known = compared(&self.store.inner, key).unwrap();
        let call = FetchCall { known, size_hint: None, peers: Vec::new(), hold: false, waiter };
        self.say(Call::Fetch(Box::new(call))).await;
    }
}

/// One who waits for a fetch, and what is said to it at the end.
fn waiting() -> (Waiter, oneshot::Receiver<std::result::Result<Shared, Failure>>) {
    let ((progress, _), (reply, end)) = (mpsc::channel(8), oneshot::channel());
    (Waiter { progress, reply, timeout: None, seed: true }, end)
}

#[tokio::test]
async fn the_driver_never_waits_for_the_store() {
    let inner = MemStore::new();
    inner.put(Path::new("/there"), MemTree::File((0..600_000u32).map(|i| (i / 7) as u8).collect()));
    let whole = inner.import(Path::new("/there"), &Profile::V1_256K).unwrap();
    let root = inner.info(whole).unwrap().root;
    let bench = Bench::start(inner);
    let known = Box::new(compared(&bench.store.inner, whole).unwrap());
    bench.ask(|reply| Call::Serve { known, reply }).await;
    let (waiter, end) = waiting();
    let key = bench.begin(root, "/copy");
    bench.fetch(key, Some(waiter)).await;
    let shared = end.await.expect("the driver has ended").unwrap();
    assert_eq!(shared.path, Path::new("/copy"));
    assert_eq!(bench.view(key).await.state, "seeding");
    bench.ask(|reply| Call::Forget { key: whole, reply }).await;
    bench.ask(|reply| Call::Shutdown { reply }).await;
}

#[tokio::test]
async fn a_fetch_that_cannot_be_taken_up_is_seen_with_its_reason() {
    let bench = Bench::start(MemStore::new());
    let root = Cid::new_v1(DAG_PB, *cid_of(false, DAG_PB, b"nobody has it").hash());
    let (one, two, three) = (bench.begin(root, "/1"), bench.begin(root, "/2"), bench.begin(root, "/3"));
    bench.fetch(one, None).await;
    bench.fetch(two, None).await;
    assert!(bench.view(one).await.state.starts_with("looking for peers"));
    let refused = bench.view(two).await;
    assert_eq!(refused.stuck, Some(Reason::Elsewhere));
    assert!(refused.state.starts_with("stopped: it is being fetched to another place"), "{}", refused.state);
    let info = Box::new(bench.store.inner.info(three).unwrap());
    bench.say(Call::NotTakenUp { info, why: "the disk is not there".into() }).await;
    let failed = bench.view(three).await;
    assert_eq!(failed.stuck, Some(Reason::Failed));
    assert_eq!(failed.state, "stopped: the disk is not there");
    // When it is asked for again, with the first one gone, it is fetched.
    bench.ask(|reply| Call::Forget { key: one, reply }).await;
    bench.fetch(two, None).await;
    assert!(bench.view(two).await.state.starts_with("looking for peers"));
}

#[tokio::test]
async fn a_reading_goes_through_the_fetch_of_its_root_and_gives_way_to_one_that_begins() {
    let bench = Bench::start(MemStore::new());
    let root = Cid::new_v1(DAG_PB, *cid_of(false, DAG_PB, b"nobody has it").hash());
    let read = async || {
        let (end, ended) = oneshot::channel();
        (bench.ask(|reply| Call::Read { root, peers: Vec::new(), end, reply }).await, ended)
    };
    let hold = async |key, waiter| {
        let known = compared(&bench.store.inner, key).unwrap();
        let (peers, waiter) = (Vec::new(), Some(waiter));
        let call = FetchCall { known, size_hint: None, peers, hold: true, waiter };
        bench.say(Call::Fetch(Box::new(call))).await;
    };
    assert_eq!(read().await.0, None, "nothing is fetched yet");
    let (mine, other, get) =
        (bench.begin(root, "/tmp/1"), bench.begin(root, "/tmp/2"), bench.begin(root, "/3"));
    let (reader, first) = waiting();
    hold(mine, reader).await;
    let (found, second) = read().await;
    assert_eq!(found, Some(mine));
    let (reader, end) = waiting();
    hold(other, reader).await;
    assert!(end.await.is_err(), "there is one of a root");
    bench.fetch(get, None).await;
    assert!(first.await.is_err() && second.await.is_err(), "they have to look again");
    assert_eq!(read().await.0, Some(get));
    let (reader, end) = waiting();
    hold(other, reader).await;
    assert!(end.await.is_err(), "there is one of a root");
}
