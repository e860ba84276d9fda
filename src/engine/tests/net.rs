//! A network of engines: whole chunks in line on each up-link, a delay, and nothing real.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::bitfield::Bitfield;
use crate::engine::*;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey, Time};

pub const CHUNK: u32 = 262_144;
pub const K: ContentKey = ContentKey(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Honest,
    /// Sends chunks whose hash is wrong.
    Liar,
    /// Takes requests and sends nothing.
    Mute,
    /// Never unchokes anybody.
    FreeRider,
}

#[derive(Clone, Debug)]
enum What {
    Event(PeerEvent),
    Chunk { chunk: u32, bad: bool },
    Sent { chunk: u32 },
    Stored { chunk: u32, bad: bool, from: PeerKey },
    Timeout,
    Join,
    AnswerJoin,
}

pub struct Node {
    pub engine: Engine,
    pub role: Role,
    pub up: u64,
    pub down: u64,
    up_free: Time,
    down_free: Time,
    pub alive: bool,
    pub done: Option<Time>,
    timeout: Time,
    pub sent: u64,
    pub got: u64,
    pub got_late: u64,
    pub sent_chunks: BTreeMap<u32, u32>,
    pub links: BTreeSet<usize>,
    pub banned: BTreeSet<usize>,
    /// Requests that are neither answered nor cancelled: chunk -> peers.
    asks: BTreeMap<u32, BTreeSet<usize>>,
    pub finds: u32,
    pub first: Option<Time>,
}

pub struct Net {
    pub nodes: Vec<Node>,
    queue: BTreeMap<(Time, u64), (usize, PeerKey, What)>,
    seq: u64,
    pub now: Time,
    pub delay: Duration,
    pub chunks: u32,
    pub check: bool,
    pub asked_twice: u32,
    pub events: u64,
    pub seed: u64,
}

fn ix(c: u32) -> ChunkIndex {
    ChunkIndex::new(c).unwrap()
}

impl Net {
    pub fn new(chunks: u32, delay: Duration) -> Net {
        Net {
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            seq: 0,
            now: Time::ZERO,
            delay,
            chunks,
            check: false,
            asked_twice: 0,
            events: 0,
            seed: 0,
        }
    }

    pub fn add(&mut self, cfg: Config, seed: bool, up: u64, down: u64, role: Role) -> usize {
        let n = self.nodes.len();
        let mut engine = Engine::new(cfg, self.seed + n as u64 * 7919 + 1);
        engine.handle_content(self.now, K, ContentEvent::Added { want: !seed });
        engine.handle_content(self.now, K, ContentEvent::Grew { count: self.chunks, len: CHUNK });
        engine.handle_content(self.now, K, ContentEvent::ManifestComplete);
        if seed {
            engine.handle_content(self.now, K, ContentEvent::Held(ChunkRange::new(0, self.chunks).unwrap()));
        }
        self.nodes.push(Node {
            engine,
            role,
            up,
            down,
            up_free: Time::ZERO,
            down_free: Time::ZERO,
            alive: true,
            done: seed.then_some(Time::ZERO),
            timeout: Time::MAX,
            sent: 0,
            got: 0,
            got_late: 0,
            sent_chunks: BTreeMap::new(),
            links: BTreeSet::new(),
            banned: BTreeSet::new(),
            asks: BTreeMap::new(),
            finds: 0,
            first: None,
        });
        self.act(n);
        n
    }

    pub fn connect(&mut self, a: usize, b: usize) {
        let rtt = Some(self.delay * 2);
        self.nodes[a].links.insert(b);
        self.nodes[b].links.insert(a);
        for (x, y) in [(a, b), (b, a)] {
            self.event(x, y, PeerEvent::Connected { kind: PeerKind::Exchange, rtt });
        }
    }

    pub fn disconnect(&mut self, a: usize, b: usize) {
        if self.nodes[a].links.remove(&b) {
            self.nodes[b].links.remove(&a);
            self.nodes[a].asks.values_mut().for_each(|p| {
                p.remove(&b);
            });
            self.nodes[b].asks.values_mut().for_each(|p| {
                p.remove(&a);
            });
            self.event(a, b, PeerEvent::Disconnected);
            self.event(b, a, PeerEvent::Disconnected);
        }
    }

    /// Connects everybody with about `degree` others, chosen by a seed.
    pub fn mesh(&mut self, degree: usize, seed: u64) {
        let mut rng = rng::Rng::new(seed);
        let n = self.nodes.len();
        for a in 0..n {
            for _ in 0..50 {
                if self.nodes[a].links.len() >= degree.min(n - 1) {
                    break;
                }
                let b = rng.below(n as u32) as usize;
                let room = self.nodes[b].links.len() < degree + degree / 4;
                if a != b && room && !self.nodes[a].links.contains(&b) {
                    self.connect(a, b);
                }
            }
        }
    }

    pub fn kill(&mut self, a: usize) {
        self.nodes[a].alive = false;
        for b in self.nodes[a].links.clone() {
            self.disconnect(a, b);
        }
    }

    fn push(&mut self, at: Time, to: usize, from: usize, what: What) {
        self.seq += 1;
        self.queue.insert((at, self.seq), (to, PeerKey(from as u64), what));
    }

    pub fn event(&mut self, n: usize, from: usize, e: PeerEvent) {
        let now = self.now;
        self.nodes[n].engine.handle_peer(now, PeerKey(from as u64), e);
        self.act(n);
    }

    /// Runs until everybody alive is done or it is `end`; says whether they are.
    pub fn run(&mut self, end: f64) -> bool {
        let end = Time::from_secs_f64(end);
        loop {
            let honest = |n: &Node| n.role == Role::Honest && n.alive && n.done.is_none();
            if !self.nodes.iter().any(honest) {
                return true;
            }
            if !self.step(end) {
                return false;
            }
        }
    }

    /// One event; false if none is due before `end`.
    pub fn step(&mut self, end: Time) -> bool {
        let Some(((at, _), (n, from, what))) = self.queue.pop_first() else { return false };
        if at > end {
            self.queue.insert((at, 0), (n, from, what));
            self.now = end;
            return false;
        }
        self.now = at;
        self.events += 1;
        if !self.nodes[n].alive {
            return true;
        }
        self.take(n, from, what);
        self.act(n);
        true
    }

    fn take(&mut self, n: usize, from: PeerKey, what: What) {
        let now = self.now;
        let f = from.0 as usize;
        let linked = self.nodes[n].links.contains(&f);
        match what {
            What::Timeout => {
                if self.nodes[n].timeout <= now {
                    self.nodes[n].timeout = Time::MAX;
                    self.nodes[n].engine.handle_timeout(now);
                }
            }
            What::Stored { chunk, bad, from } => {
                let chunk = ix(chunk);
                let r = if bad {
                    StoreResult::Bad { content: K, chunk, from }
                } else {
                    StoreResult::Stored { content: K, chunk, from }
                };
                self.nodes[n].engine.handle_store(now, r);
            }
            _ if !linked => {}
            What::Event(e) => {
                if let PeerEvent::Refused { chunk, .. } = &e {
                    self.nodes[n].asks.entry(chunk.get()).or_default().remove(&f);
                }
                self.nodes[n].engine.handle_peer(now, from, e);
            }
            What::Join => {
                let engine = &self.nodes[f].engine;
                let (have, complete) = (engine.have(K).cloned().unwrap_or_default(), engine.is_complete(K));
                let wants = engine.wants(K);
                let e = &mut self.nodes[n].engine;
                e.handle_peer(now, from, PeerEvent::Joined { content: K, have, complete });
                e.handle_peer(now, from, PeerEvent::Interested { content: K, interested: wants });
                self.push(now + self.delay, f, n, What::AnswerJoin);
            }
            What::AnswerJoin => {
                let e = &self.nodes[f].engine;
                let (have, complete) = (e.have(K).cloned().unwrap_or_default(), e.is_complete(K));
                self.nodes[n].engine.handle_peer(now, from, PeerEvent::Joined { content: K, have, complete });
            }
            What::Sent { chunk } => {
                let e = PeerEvent::Sent { content: K, chunk: ix(chunk), bytes: u64::from(CHUNK) };
                self.nodes[n].engine.handle_peer(now, from, e);
            }
            What::Chunk { chunk, bad } => {
                let node = &mut self.nodes[n];
                node.asks.entry(chunk).or_default().remove(&f);
                node.got += u64::from(CHUNK);
                node.first.get_or_insert(now);
                match node.engine.handle_chunk(now, from, K, ix(chunk), u64::from(CHUNK)) {
                    Arrival::Wanted => {
                        self.push(now + Duration::from_millis(1), n, n, What::Stored { chunk, bad, from })
                    }
                    Arrival::Late => node.got_late += u64::from(CHUNK),
                    Arrival::Unasked => panic!("node {n} did not ask {f} for {chunk}"),
                }
            }
        }
    }

    fn act(&mut self, n: usize) {
        let now = self.now;
        while let Some(a) = self.nodes[n].engine.poll_action() {
            self.perform(n, a);
        }
        if self.check
            && let Err(e) = self.nodes[n].engine.check_invariants()
        {
            panic!("node {n} at {}: {e}", now.as_secs_f64());
        }
        if let Some(t) = self.nodes[n].engine.poll_timeout().filter(|t| *t < self.nodes[n].timeout) {
            let t = t.max(now + Duration::from_nanos(1));
            self.nodes[n].timeout = t;
            self.push(t, n, n, What::Timeout);
        }
    }

    fn tell(&mut self, n: usize, peer: PeerKey, e: PeerEvent) {
        self.push(self.now + self.delay, peer.0 as usize, n, What::Event(e));
    }

    fn perform(&mut self, n: usize, a: Action) {
        let now = self.now;
        let content = K;
        match a {
            Action::Join { peer, .. } => self.push(now + self.delay, peer.0 as usize, n, What::Join),
            Action::Leave { peer, .. } => self.tell(n, peer, PeerEvent::Left { content }),
            Action::Request { peer, chunks, .. } => {
                let endgame = {
                    let v = self.nodes[n].engine.content(now, K).unwrap();
                    v.wanted_missing == v.in_flight + v.storing
                };
                for c in &chunks {
                    let asks = self.nodes[n].asks.entry(c.get()).or_default();
                    self.asked_twice += u32::from(!asks.is_empty() && !endgame);
                    asks.insert(peer.0 as usize);
                }
                self.tell(n, peer, PeerEvent::Requested { content, chunks });
            }
            Action::Cancel { peer, chunks, .. } => {
                for c in &chunks {
                    self.nodes[n].asks.entry(c.get()).or_default().remove(&(peer.0 as usize));
                }
                self.tell(n, peer, PeerEvent::CancelledByPeer { content, chunks });
            }
            Action::RequestNodes { peer, nodes, .. } => {
                // Everybody has all nodes here.
                self.push(
                    now + self.delay * 2,
                    n,
                    peer.0 as usize,
                    What::Event(PeerEvent::Nodes { content, got: nodes, lacking: Vec::new() }),
                );
            }
            Action::Send { peer, chunk, .. } => self.send(n, peer, chunk.get()),
            Action::Refuse { peer, chunk, why, .. } => {
                self.tell(n, peer, PeerEvent::Refused { content, chunk, why })
            }
            Action::Choke { peer } => self.tell(n, peer, PeerEvent::Choked),
            Action::Unchoke { peer } if self.nodes[n].role != Role::FreeRider => {
                self.tell(n, peer, PeerEvent::Unchoked)
            }
            Action::Unchoke { .. } => {}
            Action::Have { peer, ranges, .. } => self.tell(n, peer, PeerEvent::Have { content, ranges }),
            Action::Complete { peer, .. } => self.tell(n, peer, PeerEvent::Complete { content }),
            Action::Lost { peer, ranges, .. } => self.tell(n, peer, PeerEvent::Lost { content, ranges }),
            Action::Interested { peer, interested, .. } => {
                self.tell(n, peer, PeerEvent::Interested { content, interested })
            }
            Action::AskPeers { .. } | Action::Copy { .. } => {}
            Action::FindPeers { .. } => self.nodes[n].finds += 1,
            Action::Ban { peer, .. } => {
                self.nodes[n].banned.insert(peer.0 as usize);
                self.disconnect(n, peer.0 as usize);
            }
            Action::Finished { .. } => {
                let have: &Bitfield = self.nodes[n].engine.have(K).unwrap();
                assert_eq!(have.len(), self.chunks);
                self.nodes[n].done = Some(now);
            }
        }
    }

    fn send(&mut self, n: usize, peer: PeerKey, chunk: u32) {
        let p = peer.0 as usize;
        *self.nodes[n].sent_chunks.entry(chunk).or_default() += 1;
        if self.nodes[n].role == Role::Mute {
            return;
        }
        let time = |rate: u64| Duration::from_secs_f64(f64::from(CHUNK) / rate as f64);
        let gone = self.nodes[n].up_free.max(self.now) + time(self.nodes[n].up);
        self.nodes[n].up_free = gone;
        self.nodes[n].sent += u64::from(CHUNK);
        let there = (gone + self.delay).max(self.nodes[p].down_free + time(self.nodes[p].down));
        self.nodes[p].down_free = there;
        let bad = self.nodes[n].role == Role::Liar;
        let begun = PeerEvent::Receiving { bytes: 1_000 };
        self.push(gone - time(self.nodes[n].up) + self.delay, p, n, What::Event(begun));
        self.push(gone, n, p, What::Sent { chunk });
        self.push(there, p, n, What::Chunk { chunk, bad });
    }

    pub fn finished(&self) -> f64 {
        self.nodes.iter().filter_map(|n| n.done).max().unwrap_or_default().as_secs_f64()
    }

    /// The lower bound of the distribution time.
    pub fn bound(&self) -> f64 {
        let f = f64::from(self.chunks) * f64::from(CHUNK);
        let seeds = self.nodes.iter().filter(|n| n.done == Some(Time::ZERO));
        let us: f64 = seeds.clone().map(|n| n.up as f64).sum();
        let n = self.nodes.len() - seeds.count();
        let all: f64 = self.nodes.iter().map(|n| n.up as f64).sum();
        let dmin = self.nodes.iter().map(|n| n.down).min().unwrap() as f64;
        (f / us).max(f / dmin).max(n as f64 * f / all)
    }
}
