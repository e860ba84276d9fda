//! What an event costs the engine: 100 peers, 40,000 chunks (10 GB), everything that goes on in a busy
//! swarm at once: chunks come and are stored, peers get chunks and say so, ask, are served.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dunlin::bitfield::Bitfield;
use dunlin::engine::rng::Rng;
use dunlin::engine::{Action, Arrival, Config, ContentEvent, Engine, PeerEvent, PeerKind, StoreResult};
use dunlin::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey, Time};

const PEERS: u64 = 100;
const CHUNKS: u32 = 40_000;
const LEN: u64 = 262_144;
const K: ContentKey = ContentKey(0);

struct World {
    engine: Engine,
    rng: Rng,
    now: Time,
    have: Vec<Bitfield>,
    asked: VecDeque<(PeerKey, ChunkIndex)>,
    sending: VecDeque<(PeerKey, ChunkIndex)>,
    events: u64,
}

fn chunk(n: u32) -> ChunkIndex {
    ChunkIndex::new(n).expect("the bench has fewer chunks than the most there may be")
}

impl World {
    /// We hold a third at random, the others half.
    fn new() -> World {
        let mut rng = Rng::new(7);
        let mut engine = Engine::new(Config::default(), 1);
        let now = Time(1_000_000_000);
        engine.handle_content(now, K, ContentEvent::Added { want: true });
        engine.handle_content(now, K, ContentEvent::Grew { count: CHUNKS, len: LEN as u32 });
        engine.handle_content(now, K, ContentEvent::ManifestComplete);
        for c in 0..CHUNKS {
            if rng.below(3) == 0 {
                engine.handle_content(now, K, ContentEvent::Held(ChunkRange::one(chunk(c))));
            }
        }
        let mut world = World {
            engine,
            rng,
            now,
            have: Vec::new(),
            asked: VecDeque::new(),
            sending: VecDeque::new(),
            events: 0,
        };
        for p in 0..PEERS {
            let have: Bitfield = (0..CHUNKS).filter(|_| world.rng.below(2) == 0).map(chunk).collect();
            let kind = PeerKind::Exchange;
            world.peer(p, PeerEvent::Connected { kind, rtt: Some(Duration::from_millis(20)) });
            world.peer(p, PeerEvent::Unchoked);
            world.peer(p, PeerEvent::Joined { content: K, have: have.clone(), complete: false });
            world.peer(p, PeerEvent::Interested { content: K, interested: true });
            world.have.push(have);
        }
        world
    }

    fn peer(&mut self, p: u64, event: PeerEvent) {
        self.engine.handle_peer(self.now, PeerKey(p), event);
        self.after();
    }

    /// Does what the engine says, and calls its timer.
    fn after(&mut self) {
        self.events += 1;
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Request { peer, chunks, .. } => self.asked.extend(chunks.iter().map(|c| (peer, *c))),
                Action::Send { peer, chunk, .. } => self.sending.push_back((peer, chunk)),
                other => drop(black_box(other)),
            }
        }
        if self.engine.poll_timeout().is_some_and(|t| t <= self.now) {
            self.events += 1;
            self.engine.handle_timeout(self.now);
            while let Some(action) = self.engine.poll_action() {
                match action {
                    Action::Request { peer, chunks, .. } => {
                        self.asked.extend(chunks.iter().map(|c| (peer, *c)))
                    }
                    Action::Send { peer, chunk, .. } => self.sending.push_back((peer, chunk)),
                    other => drop(black_box(other)),
                }
            }
        }
    }

    /// A chunk comes, is stored; a peer got one, asks for one; one of ours has left.
    fn round(&mut self) {
        self.now = self.now + Duration::from_millis(2);
        if let Some((peer, c)) = self.asked.pop_front() {
            self.peer(peer.0, PeerEvent::Receiving { bytes: LEN });
            let arrival = self.engine.handle_chunk(self.now, peer, K, c, LEN);
            self.after();
            if arrival == Arrival::Wanted {
                self.engine.handle_store(self.now, StoreResult::Stored { content: K, chunk: c, from: peer });
                self.after();
            }
        }
        let p = self.rng.below(PEERS as u32);
        let start = self.rng.below(CHUNKS);
        let new = chunk(self.have[p as usize].next_unset(start).min(CHUNKS - 1));
        self.have[p as usize].insert(new);
        self.peer(u64::from(p), PeerEvent::Have { content: K, ranges: vec![ChunkRange::one(new)] });
        if !self.engine.is_choking(PeerKey(u64::from(p))) {
            let chunks = vec![chunk(self.rng.below(CHUNKS))];
            self.peer(u64::from(p), PeerEvent::Requested { content: K, chunks });
        }
        if let Some((peer, chunk)) = self.sending.pop_front() {
            self.peer(peer.0, PeerEvent::Sent { content: K, chunk, bytes: LEN });
        }
    }
}

fn busy_swarm(c: &mut Criterion) {
    const ROUNDS: u64 = 5_000;
    let mut world = World::new();
    let before = world.events;
    (0..ROUNDS).for_each(|_| world.round());
    let mut group = c.benchmark_group("engine");
    // Elements are events: their rate is what the table names, two microseconds being 500,000 a second.
    group.throughput(Throughput::Elements(world.events - before));
    group.sample_size(10);
    group.bench_function("100 peers, 40,000 chunks", |b| {
        let run = |world: &mut World| (0..ROUNDS).for_each(|_| world.round());
        b.iter_batched_ref(World::new, run, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, busy_swarm);
criterion_main!(benches);
