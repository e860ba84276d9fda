//! The swarm engine: what to ask of whom, whom to serve, what to tell; a state machine without I/O.
//!
//! Events go in by `handle_*`, what is to be done comes out of [`Engine::poll_action`], and
//! [`Engine::poll_timeout`] says when to call [`Engine::handle_timeout`] if nothing happens before. The
//! driver's loop, after every event or batch of events:
//!
//! 1. `handle_*(now, ...)` with what happened;
//! 2. `poll_action()` until it says `None`, doing each in that order;
//! 3. `poll_timeout()`, once: sleep until then or until the next event.
//!
//! Time and the random seed are arguments, and every table is ordered, so a run repeats bit for bit. Any
//! sequence of events is taken without a panic: what names an unknown peer or content is ignored. A clock
//! that goes back is taken as one that stands still.
//!
//! One policy a file: `picker`, `requests`, `pipeline`, `endgame`, `first` and `merging` (what to ask of whom), `choker` and `uploads`
//! (whom to serve with what), [`ledger`], [`limits`], `haves` and `counts` (what neighbours have and are told), `nodes`, `pex`.

mod check;
mod choker;
pub mod config;
mod contents;
mod counts;
mod endgame;
pub mod event;
mod first;
mod haves;
pub mod ledger;
pub mod limits;
mod merging;
mod nodes;
mod pex;
mod picker;
mod pipeline;
mod requests;
pub mod rng;
mod state;
mod swarm;
#[cfg(test)]
mod tests;
mod uploads;
mod views;
mod window;

use std::collections::{BTreeMap, VecDeque};

pub use config::{Config, Slots};
pub use event::{Action, Arrival, ContentEvent, Fault, NodeId, PeerEvent, PeerKind, Refusal, StoreResult};
pub use ledger::Account;
pub use views::{ContentView, NodeView, PeerView, Supply};

use crate::units::{ChunkIndex, ContentKey, PeerKey, Time};
use choker::Choker;
use ledger::{Ledger, Rate};
use limits::Bucket;
use rng::Rng;
use state::{Content, Peer};
use uploads::Uploads;

/// The engine of one node: all its contents, all its peers.
#[derive(Debug)]
pub struct Engine {
    cfg: Config,
    rng: Rng,
    /// The engine's clock: the driver's plus `ahead`, and never going back.
    now: Time,
    ahead: u64,
    contents: BTreeMap<ContentKey, Content>,
    peers: BTreeMap<PeerKey, Peer>,
    ledger: Ledger,
    choker: Choker,
    uploads: Uploads,
    limits_up: Bucket,
    limits_down: Bucket,
    up_rate: Rate,
    down_rate: Rate,
    /// The turn of the content that was asked for last.
    down_turn: u64,
    late_bytes: u64,
    /// Bytes that came and were of use, since the start.
    taken: u64,
    actions: VecDeque<Action>,

    /// Peers whose pipeline may have room since this event.
    listed: Vec<PeerKey>,
    /// Everybody's may: chunks are open again.
    refill: bool,
    /// Requests or room for sending are new.
    dispatch: bool,
    /// A slot may be free.
    vacancies: bool,
    /// Neighbours to whom our interest may have changed.
    fickle: Vec<(ContentKey, PeerKey)>,
    /// Contents of which chunks became known, or a first chunk was promised.
    promises: Vec<ContentKey>,
    scratch: Vec<PeerKey>,

    /// No content's own timer is due before this.
    due: Time,
    /// When time-outs are looked at; `Time::MAX` if nothing is asked for.
    tick_at: Time,
    /// When a limit lets something be asked for again.
    ask_at: Time,
    /// When something more may be sent though nothing has gone out: a limit lets it pass, or what is under way is held up.
    send_at: Time,
}

impl Engine {
    /// An engine that knows nobody and nothing. `seed` decides all its choices among equals.
    pub fn new(cfg: Config, seed: u64) -> Engine {
        Engine {
            rng: Rng::new(seed),
            now: Time::ZERO,
            ahead: 0,
            contents: BTreeMap::new(),
            peers: BTreeMap::new(),
            ledger: Ledger::new(cfg.ledger_cap),
            choker: Choker::new(),
            uploads: Uploads::default(),
            limits_up: Bucket::new(cfg.up_limit),
            limits_down: Bucket::new(cfg.down_limit),
            up_rate: Rate::default(),
            down_rate: Rate::default(),
            down_turn: 0,
            late_bytes: 0,
            taken: 0,
            actions: VecDeque::new(),
            listed: Vec::new(),
            refill: false,
            dispatch: false,
            vacancies: false,
            fickle: Vec::new(),
            promises: Vec::new(),
            scratch: Vec::new(),
            due: Time::MAX,
            tick_at: Time::MAX,
            ask_at: Time::MAX,
            send_at: Time::MAX,
            cfg,
        }
    }

    /// Something happened to a content of ours.
    pub fn handle_content(&mut self, now: Time, content: ContentKey, event: ContentEvent) {
        self.advance(now);
        self.on_content(content, event);
        self.settle();
    }

    /// Several things at once: nothing is asked of anybody before the last of them is known.
    pub fn handle_content_all(
        &mut self,
        now: Time,
        content: ContentKey,
        events: impl IntoIterator<Item = ContentEvent>,
    ) {
        self.advance(now);
        events.into_iter().for_each(|event| self.on_content(content, event));
        self.settle();
    }

    /// Something happened with a peer. Nothing but `Connected` makes a peer known.
    pub fn handle_peer(&mut self, now: Time, peer: PeerKey, event: PeerEvent) {
        self.advance(now);
        match event {
            PeerEvent::Connected { kind, rtt } => self.on_connected(peer, kind, rtt),
            _ if !self.peers.contains_key(&peer) => return,
            PeerEvent::Disconnected => self.on_disconnected(peer),
            PeerEvent::Rtt(rtt) => {
                if let Some(p) = self.peers.get_mut(&peer) {
                    p.rtt = Some(p.rtt.map_or(rtt, |old| old.min(rtt)));
                }
            }
            PeerEvent::Joined { content, have, complete } => self.on_joined(peer, content, have, complete),
            PeerEvent::Promised { content, chunk } => self.on_promised(peer, content, chunk),
            PeerEvent::Left { content } => self.on_left(peer, content),
            PeerEvent::Have { content, ranges } => self.on_have(peer, content, &ranges),
            PeerEvent::Complete { content } => self.on_complete(peer, content),
            PeerEvent::Lost { content, ranges } => self.on_lost(peer, content, &ranges),
            PeerEvent::Choked => self.on_choke(peer, true),
            PeerEvent::Unchoked => self.on_choke(peer, false),
            PeerEvent::Interested { content, interested } => self.on_interested(peer, content, interested),
            PeerEvent::Receiving { bytes } => self.on_receiving(peer, bytes),
            PeerEvent::Refused { content, chunk, why } => self.on_refused(peer, content, chunk.get(), why),
            PeerEvent::Nodes { content, got, lacking } => self.on_nodes_answer(peer, content, &got, lacking),
            PeerEvent::Requested { content, chunks } => self.on_requested(peer, content, &chunks),
            PeerEvent::CancelledByPeer { content, chunks } => self.on_cancelled(peer, content, &chunks),
            PeerEvent::Sent { content, chunk, bytes } => self.on_sent(peer, content, chunk.get(), bytes),
            PeerEvent::Faulty(fault) => self.fault(peer, fault),
        }
        self.settle();
    }

    /// A whole chunk of `bytes` bytes has come. Only if this says `Wanted` is it of use.
    pub fn handle_chunk(
        &mut self,
        now: Time,
        peer: PeerKey,
        content: ContentKey,
        chunk: ChunkIndex,
        bytes: u64,
    ) -> Arrival {
        self.advance(now);
        let arrival = self.on_arrival(peer, content, chunk.get(), bytes);
        self.settle();
        arrival
    }

    /// The store is done with a chunk.
    pub fn handle_store(&mut self, now: Time, result: StoreResult) {
        self.advance(now);
        match result {
            StoreResult::Stored { content, chunk, from } => {
                self.verified(from, true);
                self.on_stored(content, chunk.get());
            }
            StoreResult::Bad { content, chunk, from } => {
                self.on_not_stored(content, chunk.get(), false);
                self.fault(from, Fault::BadBytes);
            }
            StoreResult::NotStored { content, chunk } => {
                // Whose it was is not said, as nobody is to blame; a trial that ended so is simply held again.
                let peers: Vec<PeerKey> = self.peers.keys().copied().collect();
                peers.into_iter().for_each(|peer| self.verified(peer, false));
                self.on_not_stored(content, chunk.get(), true);
            }
            StoreResult::Unreadable { content, chunk, to } => self.on_unreadable(content, chunk.get(), to),
        }
        self.settle();
    }

    /// To be called at the time that [`Engine::poll_timeout`] named; harmless at any other.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
        let now = self.now;
        if now >= self.due {
            self.content_timers();
        }
        if now >= self.tick_at {
            self.tick();
        }
        if now >= self.choker.judge_at {
            self.judge();
        }
        if now >= self.choker.close_at {
            self.close_slots();
        }
        if now >= self.ask_at {
            self.ask_at = Time::MAX;
            self.refill = true;
        }
        self.dispatch |= now >= self.send_at;
        if now >= self.choker.open_at {
            self.choker.open_at = Time::MAX;
            self.dispatch = true;
        }
        self.settle();
    }

    /// What is to be done next. To be called until it says `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Engine::handle_timeout`] is to be called at the latest; `None` if nothing is waited for.
    pub fn poll_timeout(&self) -> Option<Time> {
        let next = self.due.min(self.tick_at).min(self.ask_at).min(self.send_at);
        let next = next.min(self.choker.judge_at).min(self.choker.open_at).min(self.choker.close_at);
        (next != Time::MAX).then(|| Time(next.0.saturating_sub(self.ahead)))
    }

    /// Changes the limits of the whole node, bytes a second.
    pub fn set_limits(&mut self, now: Time, up: Option<u64>, down: Option<u64>) {
        self.advance(now);
        self.limits_up.set_rate(self.now, up);
        self.limits_down.set_rate(self.now, down);
        (self.refill, self.dispatch) = (true, true);
        self.settle();
    }

    /// Changes the limits of one connected peer, bytes a second.
    pub fn set_peer_limits(&mut self, now: Time, peer: PeerKey, up: Option<u64>, down: Option<u64>) {
        self.advance(now);
        let now = self.now;
        if let Some(p) = self.peers.get_mut(&peer) {
            p.up.set_rate(now, up);
            p.down.set_rate(now, down);
        }
        (self.refill, self.dispatch) = (true, true);
        self.settle();
    }

    /// Changes the upload slots; whoever has one too many loses it at once.
    pub fn set_slots(&mut self, now: Time, slots: Slots) {
        self.advance(now);
        self.cfg.slots = slots;
        self.judge();
        self.settle();
    }

    /// Takes a ban back.
    pub fn pardon(&mut self, peer: PeerKey) {
        self.ledger.pardon(peer);
    }

    /// Puts back what [`Engine::ledger`] gave before a restart.
    pub fn restore(&mut self, accounts: impl IntoIterator<Item = (PeerKey, Account)>) {
        self.ledger.restore(accounts);
    }

    /// The engine's own time at a time of the driver's.
    fn inner(&self, now: Time) -> Time {
        Time(now.0.saturating_add(self.ahead)).max(self.now)
    }

    fn advance(&mut self, now: Time) {
        let then = Time(now.0.saturating_add(self.ahead));
        if then < self.now {
            self.ahead += self.now.0 - then.0;
        } else {
            self.now = then;
        }
    }

    /// Looks after this peer's pipeline at the end of the event. Whoever chokes us is listed when it no longer does.
    fn list(&mut self, peer: PeerKey) {
        if let Some(p) = self.peers.get_mut(&peer).filter(|p| !p.listed && !p.choking_us) {
            p.listed = true;
            self.listed.push(peer);
        }
    }

    /// The end of every event: interest, slots, requests, sends.
    fn settle(&mut self) {
        while let Some(content) = self.promises.pop() {
            self.take_promise(content);
        }
        while let Some((content, peer)) = self.fickle.pop() {
            self.tell_interest(content, peer);
        }
        if self.vacancies {
            self.fill_slots();
            self.dispatch = true;
        }
        // Taking a request over opens nothing and lists the peer that lost it; so this ends.
        for _ in 0..8 {
            if std::mem::take(&mut self.refill) {
                for (key, p) in self.peers.iter_mut().filter(|(_, p)| !p.listed && !p.choking_us) {
                    p.listed = true;
                    self.listed.push(*key);
                }
            }
            if self.listed.is_empty() {
                break;
            }
            for peer in std::mem::take(&mut self.listed) {
                if let Some(p) = self.peers.get_mut(&peer) {
                    p.listed = false;
                    self.fill(peer);
                }
            }
        }
        if std::mem::take(&mut self.dispatch) {
            self.send_more();
        }
        #[cfg(debug_assertions)]
        if let Err(what) = self.check_step() {
            debug_assert!(false, "{what}");
        }
    }

    /// What contents do by the clock.
    fn content_timers(&mut self) {
        let now = self.now;
        self.due = Time::MAX;
        let keys: Vec<ContentKey> = self.contents.keys().copied().collect();
        for key in keys {
            let Some(c) = self.contents.get(&key) else { continue };
            let (flush, find) = (c.log.flush_at, c.pex.find_at);
            if now >= flush {
                self.flush_haves(key);
            }
            if now >= find {
                // Which may have the neighbours asked, too.
                self.look_for_peers(key);
            }
            if self.contents.get(&key).is_some_and(|c| now >= c.pex.ask_at) {
                self.ask_round(key);
            }
            let Some(c) = self.contents.get(&key) else { continue };
            self.due = self.due.min(c.log.flush_at).min(c.pex.ask_at).min(c.pex.find_at);
        }
    }

    /// Time-outs, and idle peers that may take something over by now.
    fn tick(&mut self) {
        self.tick_at = Time::MAX;
        self.check_asks();
        let keys: Vec<ContentKey> =
            self.contents.iter().filter(|(_, c)| c.nodes.busy()).map(|(k, _)| *k).collect();
        keys.into_iter().for_each(|k| self.check_nodes(k));
        let asks = self.peers.values().any(|p| !p.pipeline.asks.is_empty() || p.pipeline.silent());
        if asks || self.contents.values().any(|c| c.nodes.busy()) {
            let endgame = |c: &Content| c.wants() && c.picker.open() == 0 && c.picker.asked() > 0;
            let hurry = self.contents.values().any(endgame);
            self.tick_at = self.now + if hurry { requests::ENDGAME_TICK } else { requests::TICK };
        }
        self.refill = true;
    }
}
