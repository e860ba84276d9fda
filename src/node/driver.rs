//! The task that owns the engine, and with it the state of every swarm.
//!
//! Everything that happens comes in as an event (from the network task, from the peers' streams, from the
//! worker threads, from the handles) over a bounded channel; what the engine answers is carried out at once.
//! Nothing here blocks: disks and hashes are the worker threads' business, sockets the stream tasks'.
//!
//! This file has the loop and the bookkeeping; `inbound.rs` what peers say, `arriving.rs` the chunks that they
//! send, `actions.rs` what the engine says, `holding.rs` what is held and served, `fetching.rs` the life of a fetch,
//! `stuck.rs` why one gets nowhere, `discovery.rs` whom to dial, `checkpoints.rs` when what was written is made durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::engine::event::{Fault, PeerEvent, StoreResult};
use crate::engine::{Config, Engine};
use crate::net::api::{Command, Event, Inbound, QueryId};
use crate::store::Store;
use crate::units::{ContentKey, PeerKey};

use super::api::Failure;
pub(super) use super::call::Slow;
pub use super::call::{Call, ContentView, FetchCall, Known, View};
use super::checkpoints::Checkpoints;
use super::clock::Clock;
use super::contents::{Contents, Counter, Stopped};
use super::ledger::Book;
use super::limits::Limits;
use super::merging::Names;
use super::pausing::Paused;
use super::peers::PeerTable;
use super::pex::Pex;
use super::workers::{self, Copied, Done, Pool, ReadJob, WriterJob, Written};

/// How often the driver looks after what has no event of its own.
const TICK: Duration = Duration::from_millis(250);
/// How long the network task may take to end.
const NET_STOP: Duration = Duration::from_secs(5);
/// Messages taken from one channel before the engine's answers are carried out.
const BATCH: usize = 64;

/// Requests for inner nodes answered at a time; each holds up to 2 MiB meanwhile.
const MAX_ANSWERING: usize = 32;
/// Requests for inner nodes that are being answered or wait for that.
const MAX_TO_ANSWER: usize = 1_024;

/// The channels that a driver needs besides the engine and the store.
pub struct Wiring {
    pub calls: mpsc::Receiver<Call>,
    pub events: mpsc::Receiver<Event>,
    pub inbound: mpsc::Receiver<Inbound>,
    pub net: mpsc::Sender<Command>,
    pub pool: crate::net::BufPool,
    pub own_id: PeerId,
    /// Asked first by every fetch.
    pub peers: Vec<Multiaddr>,
    /// What the DHT is told of contents that say nothing else.
    pub providing: super::config::Providing,
    pub limits: Limits,
    pub book: Book,
    pub paused: Paused,
    /// After so long without progress a fetch says why.
    pub stuck_after: Duration,
    /// What our own peer record is signed with.
    pub key: Keypair,
}

pub struct Driver {
    pub(super) clock: Clock,
    pub(super) engine: Engine,
    pub(super) store: Arc<dyn Store>,
    pub(super) net: mpsc::Sender<Command>,
    pub(super) buffers: crate::net::BufPool,
    pub(super) own_id: PeerId,
    pub(super) first_peers: Vec<Multiaddr>,
    pub(super) stuck_after: Duration,
    pub(super) peers: PeerTable,
    pub(super) contents: Contents,
    pub(super) queries: BTreeMap<QueryId, ContentKey>,
    pub(super) next_query: u64,
    pub(super) next_request: u32,
    /// Joins that wait for the first nodes to be read, per content, and whether any chunk would do.
    pub(super) joins: Vec<(ContentKey, PeerKey, bool)>,
    /// Requests for inner nodes without an answer: which content each was for.
    pub(super) requests: BTreeMap<u32, ContentKey>,
    pub(super) node_waiters: Vec<(ContentKey, oneshot::Sender<()>)>,
    /// Requests for inner nodes that are being answered, and all that are to be.
    pub(super) answering: Arc<Semaphore>,
    pub(super) to_answer: Arc<Semaphore>,
    pub(super) looking: super::parts::Looking,
    pub(super) modes: super::providing::Modes,
    pub(super) limits: Limits,
    pub(super) paused: Paused,
    pub(super) book: Book,
    pub(super) bitswap: super::bitswap::Bitswap,
    pub(super) names: Names,
    pub(super) pex: Pex,
    pub(super) slow_tx: mpsc::Sender<Slow>,
    pub(super) down: Counter,
    pub(super) up: Counter,
    /// Commands that did not fit the network task's channel.
    pub(super) unsent: std::collections::VecDeque<Command>,
    pub(super) writers: Pool<WriterJob>,
    pub(super) readers: Pool<ReadJob>,
    pub(super) checkpoints: Checkpoints,
}

impl Driver {
    pub fn new(
        store: Arc<dyn Store>,
        config: Config,
        seed: u64,
        w: Wiring,
    ) -> std::io::Result<(Driver, DriverInputs)> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4);
        let (done_tx, done) = mpsc::channel(workers::RESULTS);
        let (slow_tx, slow) = mpsc::channel(64);
        let clock = Clock::start();
        let modes = super::providing::Modes::new(w.providing, &*store);
        let driver = Driver {
            clock,
            engine: Engine::new(config, seed),
            writers: workers::writers(store.clone(), done_tx.clone(), cores)?,
            readers: workers::readers(store.clone(), done_tx, cores)?,
            store,
            net: w.net,
            buffers: w.pool,
            own_id: w.own_id,
            first_peers: w.peers,
            stuck_after: w.stuck_after,
            peers: PeerTable::default(),
            contents: Contents::default(),
            queries: BTreeMap::new(),
            next_query: 0,
            next_request: 0,
            joins: Vec::new(),
            requests: BTreeMap::new(),
            node_waiters: Vec::new(),
            answering: Arc::new(Semaphore::new(MAX_ANSWERING)),
            to_answer: Arc::new(Semaphore::new(MAX_TO_ANSWER)),
            looking: Default::default(),
            modes,
            limits: w.limits,
            paused: w.paused,
            book: w.book,
            bitswap: Default::default(),
            names: Names::default(),
            pex: Pex::new(w.key),
            slow_tx,
            down: Counter::default(),
            up: Counter::default(),
            unsent: Default::default(),
            checkpoints: Checkpoints::new(clock.now()),
        };
        Ok((driver, DriverInputs { calls: w.calls, events: w.events, inbound: w.inbound, done, slow }))
    }

    /// Carries out what is due and what the engine says.
    fn settle(&mut self) {
        let now = self.clock.now();
        if self.engine.poll_timeout().is_some_and(|t| t <= now) {
            self.engine.handle_timeout(now);
        }
        self.carry_out();
        // What did not fit the queues before: each answer that comes back means that there is room.
        self.writers.push();
        self.readers.push();
    }

    /// Runs until [`Call::Shutdown`], or until every handle is gone.
    pub async fn run(mut self, mut input: DriverInputs) {
        self.close_to_banned().await;
        let mut inbound = Vec::with_capacity(BATCH);
        let mut done = Vec::with_capacity(BATCH);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let reply = loop {
            self.settle();
            let deadline = self.engine.poll_timeout().map(|t| Instant::from_std(self.clock.instant(t)));
            let behind = self.writers.behind();
            tokio::select! {
                call = input.calls.recv() => match call {
                    Some(Call::Shutdown { reply }) => break Some(reply),
                    Some(call) => self.on_call(call),
                    None => break None,
                },
                _ = input.done.recv_many(&mut done, BATCH) => {
                    done.drain(..).for_each(|d| self.on_done(d));
                }
                Some(slow) = input.slow.recv() => self.on_slow(slow),
                _ = input.inbound.recv_many(&mut inbound, BATCH), if !behind => {
                    // The news of a link is in `events` before anything that came over it is in `inbound`.
                    while let Ok(event) = input.events.try_recv() {
                        self.on_event(event);
                    }
                    inbound.drain(..).for_each(|i| self.on_inbound(i));
                }
                Some(event) = input.events.recv() => self.on_event(event),
                () = sleep_until(deadline) => {}
                _ = tick.tick() => self.on_tick(),
            }
        };
        self.stop(input).await;
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }

    async fn stop(mut self, mut input: DriverInputs) {
        self.say_goodbye();
        let mut book = self.close_book();
        for (_, content) in self.contents.iter_mut() {
            for waiter in content.fetch.iter_mut().flat_map(|f| f.waiters.drain(..)) {
                let _ = waiter.reply.send(Err(Failure::failed(
                    "the node is shutting down; run the same get again to resume",
                )));
            }
        }
        // The workers' results must be taken while their threads end.
        let (mut writers, mut readers) = (self.writers, self.readers);
        let stopped = tokio::task::spawn_blocking(move || {
            writers.stop();
            readers.stop();
        });
        let drained = async { while input.done.recv().await.is_some() {} };
        let _ = tokio::join!(stopped, drained);
        let _ = self.net.send(Command::Shutdown).await;
        let store = self.store;
        let last = tokio::task::spawn_blocking(move || {
            // Its commit makes durable what the checkpoint would need one for.
            let noted = book.write(&*store);
            store.last_checkpoint().and(noted)
        });
        // The network keeps what it knows of the DHT; a disk that takes longer than that is not waited for.
        let (last, _) = tokio::join!(last, tokio::time::timeout(NET_STOP, self.net.closed()));
        match last {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!("the last checkpoint failed: {e}"),
            Err(e) => tracing::error!("the last checkpoint panicked: {e}"),
        }
    }

    fn on_call(&mut self, call: Call) {
        match call {
            Call::Serve { known, reply } => {
                self.serve(*known);
                let _ = reply.send(());
            }
            Call::Dial { peers } => {
                let first = self.first_peers.clone();
                self.add_candidates(peers.into_iter().chain(first));
            }
            Call::Fetch(call) => self.begin_fetch(*call),
            Call::NotTakenUp { info, why } => self.not_taken_up(&info, Stopped::failed(why)),
            Call::Withdraw { key, reply } => {
                self.deactivate(key);
                if let Some(c) = self.contents.get_mut(key) {
                    c.seeding = false;
                }
                self.bitswap_serves_anew();
                let _ = reply.send(());
            }
            Call::Forget { key, reply } => {
                self.forget(key);
                let _ = reply.send(());
            }
            Call::Lost { key, ranges } => self.lost(key, &ranges),
            Call::Read { root, peers, end, reply } => drop(reply.send(self.read_through(root, peers, end))),
            Call::Idle { key, reply } => drop(reply.send(self.idle(key))),
            Call::Stream { key, ranges } => self.stream(key, &ranges),
            Call::WaitFor { key, chunk, reply } => match self.contents.get_mut(key) {
                Some(c) if !c.have.contains(chunk) => {
                    c.watchers.retain(|(_, waiting)| !waiting.is_closed());
                    c.watchers.push((chunk, reply));
                }
                _ => drop(reply.send(())),
            },
            Call::WaitNodes { key, reply } => {
                self.node_waiters.retain(|(_, waiting)| !waiting.is_closed());
                self.node_waiters.push((key, reply));
            }
            Call::Provide { root, mode } => self.set_providing(root, mode),
            Call::Pause { root, paused, reply } => {
                self.set_paused(root, paused);
                let _ = reply.send(());
            }
            Call::View { reply } => drop(reply.send(self.view())),
            Call::Limits(limits) => self.on_limits(*limits),
            Call::Accounts { reply } => drop(reply.send(self.accounts())),
            Call::Banned { reply } => drop(reply.send(self.banned())),
            Call::Pardon { peer, reply } => drop(reply.send(self.pardon(peer))),
            Call::Shutdown { .. } => unreachable!("taken by the loop"),
        }
    }

    fn on_done(&mut self, done: Done) {
        let now = self.clock.now();
        match done {
            Done::Written { content, chunk, from, data_len, outcome, body } => {
                self.buffers.put(body);
                let from = self.peers.key(from);
                match outcome {
                    Written::Ok => self.stored(content, chunk, Some(from), data_len),
                    Written::Bad => self.engine.handle_store(now, StoreResult::Bad { content, chunk, from }),
                    Written::Malformed(why) => {
                        self.engine.handle_store(now, StoreResult::NotStored { content, chunk });
                        self.fail(content, Failure::failed(why));
                    }
                    Written::Failed(error) => {
                        self.engine.handle_store(now, StoreResult::NotStored { content, chunk });
                        self.store_failed(content, &error);
                    }
                }
            }
            Done::Copied { content, chunk, data_len, outcome, body } => {
                self.buffers.put(body);
                match outcome {
                    Copied::Ok => self.stored(content, chunk, None, data_len),
                    Copied::Gone => self.not_copied(content, chunk),
                    Copied::Failed(error) => {
                        self.not_copied(content, chunk);
                        self.store_failed(content, &error);
                    }
                }
            }
            Done::Unreadable { content, chunk, to, error, body } => {
                self.buffers.put(body);
                tracing::warn!("cannot serve chunk {chunk}: {error}");
                let to = self.peers.key(to);
                self.engine.handle_store(now, StoreResult::Unreadable { content, chunk, to });
                self.recheck(content);
            }
        }
    }

    fn on_slow(&mut self, slow: Slow) {
        match slow {
            Slow::Walked(walked) => self.walked(*walked),
            Slow::FirstNodes { key, nodes } => self.first_nodes_read(key, nodes),
            Slow::Checkpointed(result) => {
                self.checkpoints.ended(self.clock.now());
                if let Err(e) = result {
                    tracing::error!("checkpoint failed: {e}");
                    // What could not be synced is held no longer.
                    let fetching: Vec<_> =
                        self.contents.iter().filter(|(_, c)| c.fetch.is_some()).map(|(k, _)| k).collect();
                    fetching.into_iter().for_each(|key| self.recheck(key));
                }
            }
            Slow::Finished { key, result, seed } => self.fetch_finished(key, result, seed),
            Slow::Blocks { key, hashes } => self.blocks_listed(key, hashes),
            Slow::Part { root, part } => self.part_found(root, part),
            Slow::Kept { result, ids } => self.kept(result, ids),
            Slow::Specs(read) => self.specs_read(read),
            Slow::Looked(looked) => self.looked(looked),
            Slow::Withdrawn { key, have } => self.withdrawn(key, &have),
        }
    }

    fn on_tick(&mut self) {
        let now = self.clock.now();
        self.down.tick(now);
        self.up.tick(now);
        for (_, content) in self.contents.iter_mut() {
            content.down.tick(now);
            content.up.tick(now);
        }
        self.tell_progress();
        self.bitswap_tick();
        self.retry_commands();
        self.keep_accounts();
        self.follow_more();
        if self.checkpoints.begin(now) {
            let store = self.store.clone();
            self.slowly(move || Slow::Checkpointed(store.checkpoint()));
        }
    }

    /// Runs something slow on a thread that may block; its result comes back to the loop.
    pub(super) fn slowly(&self, work: impl FnOnce() -> Slow + Send + 'static) {
        let tx = self.slow_tx.clone();
        tokio::spawn(async move {
            match tokio::task::spawn_blocking(work).await {
                Ok(slow) => drop(tx.send(slow).await),
                Err(e) => tracing::error!("a task panicked: {e}"),
            }
        });
    }

    /// Tells the network task; what does not fit its channel is sent again at the next tick.
    pub(super) fn command(&mut self, command: Command) {
        self.unsent.push_back(command);
        self.retry_commands();
    }

    fn retry_commands(&mut self) {
        while let Some(command) = self.unsent.pop_front() {
            if let Err(e) = self.net.try_send(command) {
                match e {
                    mpsc::error::TrySendError::Full(c) => self.unsent.push_front(c),
                    mpsc::error::TrySendError::Closed(_) => self.unsent.clear(),
                }
                break;
            }
        }
        // Far more than an honest node ever has waiting: the network task is stuck, drop the oldest.
        while self.unsent.len() > 1_024 {
            self.unsent.pop_front();
        }
    }

    pub(super) fn faulty(&mut self, peer: PeerKey, fault: Fault) {
        let now = self.clock.now();
        self.engine.handle_peer(now, peer, PeerEvent::Faulty(fault));
    }

    fn view(&self) -> View {
        let contents = self
            .contents
            .iter()
            .map(|(key, c)| {
                let (state, stuck) = self.state_of(key);
                let view = ContentView {
                    state,
                    stuck,
                    peers: c.members.len() as u32,
                    down_rate: c.down.rate(),
                    up_rate: c.up.rate(),
                };
                (key, view)
            })
            .collect();
        View { connected: self.peers.connected() as u32, down: self.down, up: self.up, contents }
    }
}

/// What the loop takes in.
pub struct DriverInputs {
    calls: mpsc::Receiver<Call>,
    events: mpsc::Receiver<Event>,
    inbound: mpsc::Receiver<Inbound>,
    done: mpsc::Receiver<Done>,
    slow: mpsc::Receiver<Slow>,
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(t) => tokio::time::sleep_until(t).await,
        None => std::future::pending().await,
    }
}
