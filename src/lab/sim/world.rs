//! The simulated swarm: what happens when, in virtual time, from one seed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::calendar::Calendar;
use super::check::{Books, Ledger, SimError, Step, Trace};
use super::dag::{Dag, Walk};
use super::link::Parcel;
use super::message::Message;
use super::peer::{Names, Peer};
use crate::engine::Engine;
use crate::engine::config::{Config, Slots as EngineSlots};
use crate::engine::event::{ContentEvent, PeerEvent, PeerKind};
use crate::lab::report::Sample;
use crate::lab::rng::Rng;
use crate::lab::scenario::{PeerPlan, Role, Scenario, Slots};
use crate::units::{ChunkIndex, ChunkRange, ContentKey, Time};

/// The one content of the swarm.
pub const CONTENT: ContentKey = ContentKey(0);
/// A peer that vanishes is noticed by its missed pings after this.
const MISSED_PINGS: Duration = Duration::from_secs(10);
/// How long the DHT takes to name other peers.
const DISCOVERY: Duration = Duration::from_millis(500);
/// Peers that a look-up or a greeting names.
pub const NAMED: usize = 50;
/// The invariants of the whole are looked at every so many events.
const WHOLE: u64 = 1_000;
/// Without a chunk for this long the swarm is over, or stuck.
const PATIENCE: Duration = Duration::from_secs(900);

/// What is still to happen.
#[derive(Debug)]
pub enum Event {
    Join(u32),
    /// Without a goodbye.
    Vanish(u32),
    /// Connections are closed properly.
    Depart(u32),
    Wake(u32),
    /// A chunk has left the up-link.
    UpDone {
        from: u32,
        parcel: Parcel,
    },
    /// A chunk begins to need the down-link.
    DownIn {
        from: u32,
        parcel: Parcel,
    },
    Arrive {
        from: u32,
        parcel: Parcel,
    },
    Message {
        from: u32,
        to: u32,
        conn: u32,
        message: Message,
    },
    Connected {
        from: u32,
        to: u32,
    },
    /// `at` notices that its connection is gone.
    Gone {
        at: u32,
        peer: u32,
        conn: u32,
    },
    /// The DHT names peers.
    Found(u32),
    /// A part of a slow chunk.
    Receiving {
        from: u32,
        to: u32,
        conn: u32,
        bytes: u64,
    },
    /// A slow-loris sends its next byte.
    Drip {
        from: u32,
        to: u32,
        conn: u32,
    },
    Sample,
}

/// How the links and the engines of a run differ from the scenario's, for experiments.
pub type Tune<'a> = &'a dyn Fn(&PeerPlan, &mut Config);

/// A swarm between two events.
pub struct World<'a> {
    pub scenario: &'a Scenario,
    pub seed: u64,
    pub now: Time,
    pub dag: Dag,
    pub peers: Vec<Peer>,
    pub calendar: Calendar<Event>,
    pub rng: Rng,
    /// Those that are there.
    pub here: Vec<u32>,
    pub ledger: Ledger,
    pub books: Books,
    pub trace: Trace,
    pub banned: BTreeSet<u32>,
    /// For each chunk, how many honest peers that are there hold it.
    pub copies: Vec<u32>,
    /// The same of receivers that stay to the end, and how many chunks none of them holds.
    kept: Vec<u32>,
    unkept: u32,
    pub samples: Vec<Sample>,
    pub last_chunk: Time,
    pub first_finish: Option<Time>,
    /// Counted peers that have not finished.
    pub waiting: u32,
    pub events: u64,
    /// Everything within an engine is counted afresh at each of its steps, not only what costs little.
    pub thorough: bool,
    broken: Option<String>,
    next_conn: u32,
    checks: usize,
    sample_every: Duration,
    /// When a sample was taken last, and how many bytes those that serve had sent by then.
    sampled: (Time, u64),
}

impl<'a> World<'a> {
    pub fn new(scenario: &'a Scenario, seed: u64, sample_every: Duration, tune: Tune) -> World<'a> {
        let dag = Dag::new(scenario.size, scenario.chunk);
        let copies = vec![0; dag.chunks() as usize];
        let mut world = World {
            scenario,
            seed,
            now: Time::ZERO,
            dag,
            peers: Vec::new(),
            calendar: Calendar::default(),
            rng: Rng::new(seed).fork(1),
            here: Vec::new(),
            ledger: Ledger::default(),
            books: Books::default(),
            trace: Trace::default(),
            banned: BTreeSet::new(),
            unkept: copies.len() as u32,
            kept: copies.clone(),
            copies,
            samples: Vec::new(),
            last_chunk: Time::ZERO,
            first_finish: None,
            waiting: 0,
            events: 0,
            thorough: false,
            broken: None,
            next_conn: 0,
            checks: 0,
            sample_every: sample_every.max(Duration::from_millis(1)),
            sampled: (Time::ZERO, 0),
        };
        for plan in scenario.peers(seed) {
            world.add(plan, tune);
        }
        world.calendar.push(Time::ZERO, Event::Sample);
        world
    }

    fn add(&mut self, plan: PeerPlan, tune: Tune) {
        let i = self.peers.len() as u32;
        self.calendar.push(Time::from_secs_f64(plan.join_s), Event::Join(i));
        if let Some(leave) = plan.leave_s {
            self.calendar.push(Time::from_secs_f64(leave.max(plan.join_s)), Event::Vanish(i));
        }
        let mut config = Config {
            slots: match self.scenario.slots {
                Slots::Auto => EngineSlots::Auto,
                Slots::Fixed(n) => EngineSlots::Fixed(n.min(1000) as u16),
            },
            tit_for_tat: self.scenario.tit_for_tat,
            optimistic: self.scenario.optimistic,
            neighbours: self.scenario.neighbours as usize,
            max_neighbours: self.scenario.neighbours as usize * 3,
            ..Config::default()
        };
        tune(&plan, &mut config);
        let engine_seed = self.rng.fork(u64::from(i)).next_u64();
        let (walk, _) = Walk::start(&self.dag);
        let names = Names::new(self.rng.fork(u64::from(i)).fork(1).next_u64());
        let peer = Peer::new(plan, Engine::new(config, engine_seed), walk, names);
        self.waiting += u32::from(peer.counts());
        self.peers.push(peer);
        self.books.open.push(0);
        self.books.held.push(0);
    }

    /// Runs to the end: everybody counted has everything, or nothing more can come.
    pub fn run(&mut self) -> Result<(), SimError> {
        let end = Time::from_secs_f64(self.scenario.max_s.min(1e9));
        while self.waiting > 0 && self.step(end)? {}
        self.check_whole();
        (0..self.peers.len()).for_each(|i| self.check_one(i));
        self.sample();
        self.fail_if_broken()
    }

    /// The next event; false if there is none before `end`, or nothing more can come.
    pub fn step(&mut self, end: Time) -> Result<bool, SimError> {
        let Some((at, event)) = self.calendar.pop().filter(|(at, _)| *at <= end) else { return Ok(false) };
        self.now = at;
        self.events += 1;
        let over = self.happen(event);
        if self.events.is_multiple_of(WHOLE) {
            self.check_whole();
        }
        self.fail_if_broken()?;
        Ok(!over)
    }

    fn fail_if_broken(&mut self) -> Result<(), SimError> {
        match self.broken.take() {
            None => Ok(()),
            Some(what) => {
                let at = self.now.as_secs_f64();
                Err(SimError::Broken { seed: self.seed, at, what, trace: self.trace.to_string() })
            }
        }
    }

    /// An invariant does not hold; the first one is told.
    pub fn breach(&mut self, what: impl Into<String>) {
        self.broken.get_or_insert_with(|| what.into());
    }

    pub fn note(&mut self, who: u32, what: &'static str, other: u32, number: u32) {
        self.trace.note(Step { at: self.now, who, other, what, number });
    }

    /// One event; true if it shows that the swarm is over.
    fn happen(&mut self, event: Event) -> bool {
        match event {
            Event::Join(i) => self.join(i),
            Event::Vanish(i) => self.go(i, MISSED_PINGS),
            Event::Depart(i) => self.go(i, Duration::ZERO),
            Event::Wake(i) => self.on_wake(i),
            Event::UpDone { from, parcel } => self.on_up_done(from, parcel),
            Event::DownIn { from, parcel } => {
                let at = self.peers[parcel.to as usize].down.take(self.now, parcel.len);
                self.calendar.push(at, Event::Arrive { from, parcel });
            }
            Event::Arrive { from, parcel } => self.on_arrive(from, parcel),
            Event::Message { from, to, conn, message } => self.on_message(from, to, conn, message),
            Event::Connected { from, to } => self.on_connected(from, to),
            Event::Gone { at, peer, conn } => self.on_gone(at, peer, conn),
            Event::Found(i) => self.discover(i, self.scenario.neighbours as usize),
            Event::Receiving { from, to, conn, bytes } => {
                self.on_receiving(from, to, conn, bytes);
            }
            Event::Drip { from, to, conn } => {
                if self.on_receiving(from, to, conn, 1) {
                    self.calendar.push(self.now + Duration::from_secs(1), Event::Drip { from, to, conn });
                }
            }
            Event::Sample => return self.on_sample(),
        }
        false
    }

    fn join(&mut self, i: u32) {
        self.note(i, "joins", i, 0);
        let now = self.now;
        let has_all = !self.peers[i as usize].plan.role.fetches();
        let (walk, first) = if has_all {
            (Walk::complete(&self.dag), super::dag::Step { wanted: vec![], grown: None, complete: true })
        } else if self.scenario.inner_nodes {
            Walk::start(&self.dag)
        } else {
            let all =
                super::dag::Step { wanted: vec![], grown: Some((0, self.dag.chunks())), complete: true };
            (Walk::complete(&self.dag), all)
        };
        let chunks = self.dag.chunks();
        let runs = self.dag.runs(0, chunks);
        let p = &mut self.peers[i as usize];
        (p.alive, p.joined, p.walk) = (true, true, walk);
        p.engine.handle_content(now, CONTENT, ContentEvent::Added { want: !has_all });
        if has_all {
            for (count, len) in runs {
                p.engine.handle_content(now, CONTENT, ContentEvent::Grew { count, len });
            }
            p.engine.handle_content(now, CONTENT, ContentEvent::ManifestComplete);
            if let Some(all) = ChunkRange::new(0, chunks) {
                p.have.insert_range(all);
                p.engine.handle_content(now, CONTENT, ContentEvent::Held(all));
            }
            if p.plan.role.serves() {
                self.copies.iter_mut().for_each(|c| *c += 1);
            }
        } else {
            self.learn(i, vec![first]);
        }
        self.here.push(i);
        // A crowd meshes evenly if nobody fills up with the first who came.
        let neighbours = self.scenario.neighbours as usize;
        let few = self.peers.len() <= neighbours;
        self.discover(i, if few { neighbours } else { neighbours.div_ceil(2) });
        self.calendar.push(now + Duration::from_secs(2), Event::Found(i));
        self.flush(i);
    }

    fn go(&mut self, i: u32, noticed_after: Duration) {
        self.note(i, "goes", i, 0);
        let p = &mut self.peers[i as usize];
        if !p.alive {
            return;
        }
        p.alive = false;
        p.tally.left = Some(self.now);
        self.books.open[i as usize] = 0;
        let conns = p.disconnect_all();
        for c in conns {
            self.drop_line(i, c.id);
            self.ledger.answered += c.asked.len() as u64;
            let delay = self.delay(i, c.peer);
            let gone = Event::Gone { at: c.peer, peer: i, conn: c.id };
            self.calendar.push(self.now + delay + noticed_after, gone);
        }
        self.here.retain(|&h| h != i);
        let p = &self.peers[i as usize];
        if p.plan.role.serves() {
            for c in p.have.iter() {
                self.copies[c.as_usize()] -= 1;
            }
        }
    }

    /// A receiver holds one more chunk; what is to leave once all have spread does so now.
    pub fn count_copy(&mut self, i: u32, chunk: ChunkIndex) {
        let plan = &self.peers[i as usize].plan;
        let c = chunk.as_usize();
        self.copies[c] += u32::from(plan.role.serves());
        if !plan.role.serves() || !plan.stays() || plan.leave_after_complete.is_some() {
            return;
        }
        self.kept[c] += 1;
        if self.kept[c] == 1 {
            self.unkept -= 1;
            if self.unkept == 0 {
                let leavers = self.here.iter().filter(|h| self.peers[**h as usize].plan.leave_when_spread);
                for i in leavers {
                    self.calendar.push(self.now, Event::Vanish(*i));
                }
            }
        }
    }

    /// Pairs of a liar and a peer that got bad bytes from it and did not ban it.
    pub fn unpunished(&self) -> u32 {
        let unbanned = |p: &Peer| p.bitten_by.iter().filter(|l| !p.banned.contains(l)).count() as u32;
        self.peers.iter().map(unbanned).sum()
    }

    /// Honest peers that somebody banned.
    pub fn wronged(&self) -> u32 {
        self.banned.iter().filter(|b| self.peers[**b as usize].plan.role != Role::Liar).count() as u32
    }

    fn on_wake(&mut self, i: u32) {
        let now = self.now;
        let p = &mut self.peers[i as usize];
        if p.wake != Some(now) || !p.alive {
            return;
        }
        p.wake = None;
        if p.engine.poll_timeout().is_some_and(|t| t <= now) {
            p.engine.handle_timeout(now);
        }
        self.flush(i);
    }

    /// Does what the engine of `i` wants, and sets its alarm.
    pub fn flush(&mut self, i: u32) {
        while let Some(action) = self.peers[i as usize].engine.poll_action() {
            self.act(i, action);
        }
        let now = self.now;
        let p = &mut self.peers[i as usize];
        let checked = match self.thorough {
            true => p.engine.check_invariants().and(p.engine.check_step().map_err(str::to_owned)),
            false => p.engine.check_step().map_err(str::to_owned),
        };
        if let Some(at) = p.engine.poll_timeout()
            && p.wake.is_none_or(|w| at < w)
        {
            p.wake = Some(at.max(now));
            self.calendar.push(at.max(now), Event::Wake(i));
        }
        if let Err(what) = checked {
            self.breach(format!("the engine of {i}: {what}"));
        }
    }

    /// One way, of the two peers' links together.
    pub fn delay(&self, a: u32, b: u32) -> Duration {
        let (a, b) = (&self.peers[a as usize].plan, &self.peers[b as usize].plan);
        Duration::from_secs_f64(a.delay_s + b.delay_s)
    }

    /// Connects `i` to peers that are there, up to so many.
    fn discover(&mut self, i: u32, target: usize) {
        let mut named = Vec::new();
        for _ in 0..NAMED.min(self.here.len()) {
            named.push(self.here[self.rng.below(self.here.len())]);
        }
        // In a small swarm the DHT names everybody.
        if self.here.len() <= NAMED {
            named.clone_from(&self.here);
            self.rng.shuffle(&mut named);
        }
        self.dial(i, &named, target);
    }

    /// Dials those of `named` that may be dialled, up to so many connections.
    pub fn dial(&mut self, i: u32, named: &[u32], target: usize) {
        for &j in named {
            let p = &mut self.peers[i as usize];
            if !p.alive || p.degree() >= target {
                return;
            }
            if j == i || p.dialling.contains(&j) || p.conn(j).is_some() || p.banned.contains(&j) {
                continue;
            }
            p.dialling.push(j);
            // TCP, TLS and the exchange's own streams: a round trip each.
            let after = self.delay(i, j) * 6;
            self.calendar.push(self.now + after, Event::Connected { from: i, to: j });
        }
    }

    pub fn ask_discovery(&mut self, i: u32) {
        self.calendar.push(self.now + DISCOVERY, Event::Found(i));
    }

    fn on_connected(&mut self, from: u32, to: u32) {
        let target = self.scenario.neighbours as usize;
        super::peer::take(&mut self.peers[from as usize].dialling, to);
        let (a, b) = (&self.peers[from as usize], &self.peers[to as usize]);
        let refused =
            b.conns.len() >= target && (a.degree() >= target.div_ceil(2) || b.conns.len() >= 2 * target);
        let banned = a.banned.contains(&to) || b.banned.contains(&from);
        if !a.alive || !b.alive || a.conn(to).is_some() || banned || refused {
            return;
        }
        self.note(from, "connects to", to, self.next_conn);
        let rtt = Some(self.delay(from, to) * 2);
        for (x, y) in [(from, to), (to, from)] {
            let p = &mut self.peers[x as usize];
            p.connect(y, self.next_conn, self.now);
            p.engine.handle_peer(
                self.now,
                p.names.key(y),
                PeerEvent::Connected { kind: PeerKind::Exchange, rtt },
            );
        }
        self.next_conn += 1;
        self.flush(from);
        self.flush(to);
    }

    /// Ends a connection from the side of `i`; both ends learn of it by events.
    pub fn close(&mut self, i: u32, j: u32) {
        let Some(conn) = self.peers[i as usize].conn(j).map(|c| c.id) else { return };
        self.calendar.push(self.now, Event::Gone { at: i, peer: j, conn });
        self.calendar.push(self.now + self.delay(i, j), Event::Gone { at: j, peer: i, conn });
    }

    fn on_gone(&mut self, at: u32, peer: u32, conn: u32) {
        let Some(c) = self.peers[at as usize].disconnect(peer, conn) else { return };
        self.note(at, "loses", peer, conn);
        self.drop_line(at, c.id);
        self.ledger.answered += c.asked.len() as u64;
        self.books.open[at as usize] -= c.asked.len() as u64;
        let p = &mut self.peers[at as usize];
        p.engine.handle_peer(self.now, p.names.key(peer), PeerEvent::Disconnected);
        self.flush(at);
    }

    /// Chunks that wait for a connection that is gone leave the line.
    fn drop_line(&mut self, i: u32, conn: u32) {
        let bytes = self.peers[i as usize].up.drop_line(conn);
        self.ledger.under_way -= bytes;
        self.ledger.lost += bytes;
    }

    /// The up-link of `i` takes the next chunk if it is idle.
    pub fn start_up(&mut self, i: u32) {
        let Some((parcel, took)) = self.peers[i as usize].up.start() else { return };
        let delay = self.delay(i, parcel.to);
        let (first, last) = (self.now + delay, self.now + took + delay);
        let begins = self.peers[parcel.to as usize].down.begins(first, last, parcel.len);
        self.calendar.push(self.now + took, Event::UpDone { from: i, parcel });
        // Of a chunk that takes long, its bytes are a sign of life meanwhile.
        let (seconds, to, conn) = (took.as_secs().min(3600), parcel.to, parcel.conn);
        let bytes = u64::from(parcel.len) / (seconds + 1);
        for s in 1..=seconds {
            let part = Event::Receiving { from: i, to, conn, bytes };
            self.calendar.push(self.now + delay + Duration::from_secs(s), part);
        }
        self.calendar.push(begins, Event::DownIn { from: i, parcel });
    }

    fn on_up_done(&mut self, i: u32, parcel: Parcel) {
        let p = &mut self.peers[i as usize];
        p.up.done();
        p.tally.up_bytes += u64::from(parcel.len);
        let there = p.same_conn(parcel.to, parcel.conn).is_some();
        if let (true, Some(chunk)) = (there, ChunkIndex::new(parcel.chunk)) {
            let bytes = u64::from(parcel.len);
            let to = p.names.key(parcel.to);
            p.engine.handle_peer(self.now, to, PeerEvent::Sent { content: CONTENT, chunk, bytes });
        }
        if p.alive {
            // The next chunk starts before the engine is asked for more, as a socket would.
            self.start_up(i);
            self.flush(i);
        }
    }

    /// Bytes of a chunk came in; false if the connection is gone.
    fn on_receiving(&mut self, from: u32, to: u32, conn: u32, bytes: u64) -> bool {
        let p = &mut self.peers[to as usize];
        if p.same_conn(from, conn).is_none() {
            return false;
        }
        p.engine.handle_peer(self.now, p.names.key(from), PeerEvent::Receiving { bytes });
        self.flush(to);
        true
    }

    fn on_sample(&mut self) -> bool {
        self.sample();
        self.calendar.push(self.now + self.sample_every, Event::Sample);
        let joined = self.peers.iter().all(|p| p.joined);
        let quiet = self.now.since(self.last_chunk) > PATIENCE;
        if !(joined && quiet) {
            return false;
        }
        let all_there = self.copies.iter().all(|&c| c > 0);
        let stuck = self.peers.iter().any(|p| p.alive && p.counts() && p.tally.finished.is_none());
        if all_there && stuck {
            self.breach("no chunk has come for 900 s, yet every chunk is there and somebody lacks some");
        }
        true
    }

    fn sample(&mut self) {
        let rarest = self.copies.iter().copied().min().unwrap_or(0);
        let mean = self.copies.iter().map(|&c| f64::from(c)).sum::<f64>() / self.copies.len().max(1) as f64;
        let finished = self.peers.iter().filter(|p| p.tally.finished.is_some()).count() as u32;
        let here = self.here.len() as u32;
        let serving = self.peers.iter().filter(|p| p.alive && p.plan.role.serves());
        let (up, sent) = serving.fold((0.0, 0), |(u, s), p| (u + p.plan.up, s + p.tally.up_bytes));
        let (at, before) = std::mem::replace(&mut self.sampled, (self.now, sent));
        let could = up * self.now.since(at).as_secs_f64();
        // Whoever left took its bytes along: what is left then says nothing.
        let up_busy = if could > 0.0 { sent.saturating_sub(before) as f64 / could } else { 0.0 };
        self.samples.push(Sample { s: self.now.as_secs_f64(), rarest, mean, finished, here, up_busy });
    }

    /// What must hold over the whole swarm, and within one peer (each in turn).
    fn check_whole(&mut self) {
        self.check_one(self.checks % self.peers.len().max(1));
        self.checks += 1;
        let (open, held) = (self.books.open.iter().sum(), self.books.held.iter().sum());
        if let Some(what) = self.ledger.imbalance(open, held) {
            self.breach(what);
        }
    }

    fn check_one(&mut self, i: usize) {
        let Some(p) = self.peers.get(i) else { return };
        if let Err(what) = p.check(self.books.open[i], self.books.held[i], &self.dag) {
            self.breach(format!("{what} at peer {i}"));
        }
    }
}
