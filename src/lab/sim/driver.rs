//! What the node's driver is in life: actions of an engine become messages, messages become events.

use std::time::Duration;

use super::dag::Step;
use super::link::Parcel;
use super::message::{Greeting, Message};
use super::peer::take;
use super::world::{CONTENT, Event, NAMED, World};
use crate::engine::event::{Action, Arrival, ContentEvent, NodeId, PeerEvent, StoreResult};
use crate::lab::scenario::{Role, Slots};
use crate::units::{ChunkIndex, Time};

/// Inner nodes that ride with the answer to a `Join`, in bytes.
const RIDE_ALONG: u32 = 256 << 10;

impl World<'_> {
    /// Does what the engine of `i` wants.
    pub fn act(&mut self, i: u32, action: Action) {
        let names = self.peers[i as usize].names;
        let number = |key| names.number(key);
        match action {
            Action::Join { peer, any, .. } => {
                let greeting = Greeting { any, ..self.greeting(i, false, number(peer)) };
                self.send(i, number(peer), Message::Join(Box::new(greeting)));
            }
            Action::Leave { peer, .. } => self.send(i, number(peer), Message::Leave),
            Action::Request { peer, chunks, .. } => self.request(i, number(peer), chunks),
            Action::Cancel { peer, chunks, .. } => self.send(i, number(peer), Message::Cancel(chunks)),
            Action::RequestNodes { peer, nodes, .. } => {
                self.send(i, number(peer), Message::RequestNodes(nodes));
            }
            Action::Send { peer, chunk, .. } => self.send_chunk(i, number(peer), chunk),
            Action::Refuse { peer, chunk, why, .. } => {
                if self.answers(i, number(peer), chunk) {
                    self.send(i, number(peer), Message::Refuse(chunk, why));
                }
            }
            Action::Choke { peer } => self.set_choke(i, number(peer), true),
            Action::Unchoke { peer } => self.set_choke(i, number(peer), false),
            Action::Have { peer, ranges, .. } => self.send(i, number(peer), Message::Have(ranges)),
            Action::Complete { peer, .. } => self.send(i, number(peer), Message::Complete),
            Action::Lost { peer, ranges, .. } => self.send(i, number(peer), Message::Lost(ranges)),
            Action::Interested { peer, interested, .. } => {
                self.send(i, number(peer), Message::Interested(interested));
            }
            Action::AskPeers { peer, .. } => self.send(i, number(peer), Message::AskPeers),
            Action::FindPeers { .. } => self.ask_discovery(i),
            Action::Ban { peer, .. } => {
                self.note(i, "bans", number(peer), 0);
                self.peers[i as usize].banned.push(number(peer));
                self.banned.insert(number(peer));
                self.close(i, number(peer));
            }
            // There is one content only.
            Action::Copy { .. } => {}
            Action::Finished { .. } => self.finished(i),
        }
    }

    fn finished(&mut self, i: u32) {
        let (now, chunks) = (self.now, self.dag.chunks());
        let p = &mut self.peers[i as usize];
        if p.tally.finished.is_some() || !p.plan.role.fetches() {
            return;
        }
        p.tally.finished = Some(now);
        if p.plan.role.serves() && self.first_finish.is_none() {
            self.first_finish = Some(now);
            self.peers.iter_mut().for_each(|p| p.tally.at_first_finish = p.tally.down_bytes);
        }
        let p = &self.peers[i as usize];
        let (missing, counts, after) = (chunks - p.have.len(), p.counts(), p.plan.leave_after_complete);
        self.note(i, "has finished", i, chunks);
        if missing > 0 {
            self.breach(format!("{i} says that it has finished, and lacks {missing} chunks"));
        }
        self.waiting -= u32::from(counts);
        if let Some(after) = after {
            self.calendar.push(now + Duration::from_secs_f64(after), Event::Depart(i));
        }
    }

    /// Sends a control message; nothing happens if the connection is gone.
    fn send(&mut self, i: u32, j: u32, message: Message) {
        let nodes = match &message {
            Message::Nodes { got, .. } => got.as_slice(),
            Message::Joined(g) => g.nodes.as_slice(),
            _ => &[],
        };
        let bytes = message.bytes() + nodes.iter().map(|&n| self.dag.node_len(n)).sum::<u32>();
        let delay = self.delay(i, j);
        let queue = Duration::from_secs_f64(self.scenario.queue_ms / 1000.0);
        let p = &mut self.peers[i as usize];
        let Some(conn) = p.conn(j).map(|c| c.id) else { return };
        let waits = p.up.control_waits(conn, queue, self.scenario.send_buffer);
        let took = p.up.time_of(u64::from(bytes));
        let Some(conn) = p.conn_mut(j) else { return };
        let at = (self.now + delay + waits + took).max(conn.last_arrival);
        conn.last_arrival = at;
        let conn = conn.id;
        p.up.note_control(bytes);
        self.calendar.push(at, Event::Message { from: i, to: j, conn, message });
    }

    fn request(&mut self, i: u32, j: u32, chunks: Vec<ChunkIndex>) {
        let p = &mut self.peers[i as usize];
        let held = chunks.iter().copied().find(|&c| p.have.contains(c));
        let Some(conn) = p.conn_mut(j) else { return };
        conn.asked.extend(chunks.iter().map(|c| c.get()));
        self.books.open[i as usize] += chunks.len() as u64;
        self.ledger.asked += chunks.len() as u64;
        if let Some(c) = held {
            self.breach(format!("{i} asks {j} for chunk {c}, which it has"));
        }
        for c in &chunks {
            self.note(i, "asks", j, c.get());
        }
        self.send(i, j, Message::Request(chunks));
    }

    fn set_choke(&mut self, i: u32, j: u32, choked: bool) {
        // A free-rider promises and never serves.
        if self.peers[i as usize].plan.role == Role::FreeRider && !choked {
            return;
        }
        let p = &mut self.peers[i as usize];
        let Some(conn) = p.conn_mut(j) else { return };
        conn.choked = choked;
        let open = self.check_open_slots(i);
        self.note(i, if choked { "chokes" } else { "unchokes" }, j, open as u32);
        self.send(i, j, if choked { Message::Choke } else { Message::Unchoke });
    }

    /// How many upload slots are open, as the others see it.
    pub fn check_open_slots(&mut self, i: u32) -> usize {
        let p = &self.peers[i as usize];
        let open = p.conns.iter().filter(|c| !c.choked).count();
        // With `auto` a slot may be about to close: looked at when all is done (`Peer::check`).
        if let Slots::Fixed(n) = self.scenario.slots
            && open > n as usize
        {
            self.breach(format!("{i} has {open} of {n} upload slots open"));
        }
        open
    }

    /// Whether an answer is due; that the engine answers what nobody asked is a bug.
    fn answers(&mut self, i: u32, j: u32, chunk: ChunkIndex) -> bool {
        let Some(conn) = self.peers[i as usize].conn_mut(j) else { return false };
        let owed = take(&mut conn.owed, chunk.get());
        if !owed {
            self.breach(format!("{i} answers {j} on chunk {chunk}, which it did not ask for"));
        }
        owed
    }

    fn send_chunk(&mut self, i: u32, to: u32, chunk: ChunkIndex) {
        let p = &mut self.peers[i as usize];
        let has = p.have.contains(chunk);
        let Some(conn) = p.conn_mut(to) else { return };
        let (id, choked, first) = (conn.id, conn.choked, !conn.dripping);
        if p.plan.role == Role::SlowLoris {
            if let (true, Some(conn)) = (first, p.conn_mut(to)) {
                conn.dripping = true;
                self.calendar.push(self.now + Duration::from_secs(1), Event::Drip { from: i, to, conn: id });
            }
            return;
        }
        if !has {
            self.breach(format!("{i} sends {to} chunk {chunk}, which it does not have"));
        }
        if choked {
            self.breach(format!("{i} sends {to} chunk {chunk} while it chokes it"));
        }
        if self.answers(i, to, chunk) {
            let len = self.dag.len_of(chunk.get());
            self.ledger.sent += u64::from(len);
            self.ledger.under_way += u64::from(len);
            self.note(i, "sends", to, chunk.get());
            self.peers[i as usize].up.push(Parcel { to, conn: id, chunk: chunk.get(), len });
            self.start_up(i);
        }
    }

    /// A chunk is here, whole.
    pub fn on_arrive(&mut self, from: u32, parcel: Parcel) {
        let (to, len, now) = (parcel.to, u64::from(parcel.len), self.now);
        let honest = self.peers[from as usize].honest();
        self.ledger.under_way -= len;
        let p = &mut self.peers[to as usize];
        let Some((conn, chunk)) = p.same_conn(from, parcel.conn).zip(ChunkIndex::new(parcel.chunk)) else {
            self.ledger.lost += len;
            return;
        };
        let asked = take(&mut conn.asked, parcel.chunk);
        let open = &mut self.books.open[to as usize];
        *open = open.saturating_sub(u64::from(asked));
        p.tally.down_bytes += len;
        let key = p.names.key(from);
        let arrival = p.engine.handle_chunk(now, key, CONTENT, chunk, len);
        match arrival {
            Arrival::Wanted if honest => self.keep(from, to, chunk, len),
            Arrival::Wanted => {
                p.tally.bad_bytes += len;
                if !p.bitten_by.contains(&from) {
                    p.bitten_by.push(from);
                }
                self.ledger.bad += len;
                p.engine.handle_store(now, StoreResult::Bad { content: CONTENT, chunk, from: key });
            }
            Arrival::Late | Arrival::Unasked => {
                p.tally.late_bytes += len;
                let open = p.engine.content(now, CONTENT).map_or(0, |c| c.open);
                p.tally.early_late_bytes += if open > 0 { len } else { 0 };
                self.ledger.late += len;
            }
        }
        self.ledger.answered += u64::from(asked);
        self.note(to, "gets from", from, parcel.chunk);
        if !asked || arrival == Arrival::Unasked {
            self.breach(format!("{to} got chunk {chunk} from {from}, which it did not ask for"));
        }
        self.flush(to);
    }

    fn keep(&mut self, from: u32, to: u32, chunk: ChunkIndex, len: u64) {
        let now = self.now;
        let p = &mut self.peers[to as usize];
        let new = p.have.insert(chunk);
        p.tally.first_chunk.get_or_insert(now);
        let from = p.names.key(from);
        p.engine.handle_store(now, StoreResult::Stored { content: CONTENT, chunk, from });
        self.ledger.kept += len;
        self.books.held[to as usize] += len;
        self.last_chunk = now;
        self.count_copy(to, chunk);
        if !new {
            self.breach(format!("{to} wanted chunk {chunk} again"));
        }
    }

    fn greeting(&mut self, i: u32, answer: bool, to: u32) -> Greeting {
        let p = &self.peers[i as usize];
        let complete = p.have.len() == self.dag.chunks();
        let mut g = Greeting { complete, choked: true, ..Greeting::default() };
        if !complete {
            g.have = p.have.clone();
        }
        if answer {
            g.choked = p.conn(to).is_none_or(|c| c.choked);
            if self.scenario.inner_nodes {
                g.nodes = p.walk.some(&self.dag, RIDE_ALONG);
            }
            g.peers = self.some_neighbours(i, to);
        }
        g
    }

    /// Up to 50 of the peers that `i` is connected to, for `to`.
    fn some_neighbours(&mut self, i: u32, to: u32) -> Vec<u32> {
        let mut some: Vec<u32> = self.peers[i as usize].conns.iter().map(|c| c.peer).collect();
        some.retain(|&p| p != to);
        self.rng.shuffle(&mut some);
        some.truncate(NAMED);
        some
    }

    /// A control message has come.
    pub fn on_message(&mut self, from: u32, to: u32, conn: u32, message: Message) {
        let Some(c) = self.peers[to as usize].same_conn(from, conn) else { return };
        let content = CONTENT;
        let event = match message {
            Message::Join(g) => {
                let event = PeerEvent::Joined { content, have: g.have, complete: g.complete };
                self.tell(to, from, event);
                self.tell(to, from, PeerEvent::Interested { content, interested: !g.complete });
                // Whom the engine unchokes by that is told so by the answer.
                self.flush(to);
                let mut answer = self.greeting(to, true, from);
                if g.any {
                    answer.first = self.promise(to, from);
                }
                self.send(to, from, Message::Joined(Box::new(answer)));
                return self.flush(to);
            }
            Message::Joined(g) => return self.on_joined(from, to, *g),
            Message::Request(chunks) => {
                c.owed.extend(chunks.iter().map(|c| c.get()));
                PeerEvent::Requested { content, chunks }
            }
            Message::Refuse(chunk, why) => {
                let asked = take(&mut c.asked, chunk.get());
                let open = &mut self.books.open[to as usize];
                *open = open.saturating_sub(u64::from(asked));
                self.ledger.answered += u64::from(asked);
                if !asked {
                    self.breach(format!("{from} refuses {to} chunk {chunk}, which it did not ask for"));
                }
                self.note(to, "is refused by", from, chunk.get());
                PeerEvent::Refused { content, chunk, why }
            }
            Message::Nodes { got, lacking } => return self.on_nodes(from, to, got, lacking),
            Message::RequestNodes(nodes) => {
                let walk = &self.peers[to as usize].walk;
                let (got, lacking) = nodes.into_iter().partition(|&n| walk.holds(n));
                return self.send(to, from, Message::Nodes { got, lacking });
            }
            Message::AskPeers => {
                let some = self.some_neighbours(to, from);
                return self.send(to, from, Message::Peers(some));
            }
            Message::Peers(named) => {
                let target = self.scenario.neighbours as usize;
                return self.dial(to, &named, target);
            }
            Message::Leave => PeerEvent::Left { content },
            Message::Cancel(chunks) => PeerEvent::CancelledByPeer { content, chunks },
            Message::Have(ranges) => PeerEvent::Have { content, ranges },
            Message::Complete => PeerEvent::Complete { content },
            Message::Lost(ranges) => PeerEvent::Lost { content, ranges },
            Message::Interested(interested) => PeerEvent::Interested { content, interested },
            Message::Choke => PeerEvent::Choked,
            Message::Unchoke => PeerEvent::Unchoked,
        };
        self.tell(to, from, event);
        self.flush(to);
    }

    /// The chunk that `from` is given without having named it.
    fn promise(&mut self, to: u32, from: u32) -> Option<ChunkIndex> {
        let p = &mut self.peers[to as usize];
        if p.plan.role == Role::FreeRider {
            return None;
        }
        let chunk = p.engine.handle_any(self.now, p.names.key(from), CONTENT)?;
        p.conn_mut(from)?.owed.push(chunk.get());
        Some(chunk)
    }

    fn tell(&mut self, at: u32, of: u32, event: PeerEvent) {
        let p = &mut self.peers[at as usize];
        p.engine.handle_peer(self.now, p.names.key(of), event);
    }

    fn on_joined(&mut self, from: u32, to: u32, g: Greeting) {
        self.tell(to, from, PeerEvent::Joined { content: CONTENT, have: g.have, complete: g.complete });
        if let Some(chunk) = g.first {
            if let Some(conn) = self.peers[to as usize].conn_mut(from) {
                conn.asked.push(chunk.get());
            }
            self.books.open[to as usize] += 1;
            self.ledger.asked += 1;
        }
        self.tell(to, from, PeerEvent::Promised { content: CONTENT, chunk: g.first });
        if !g.choked {
            self.tell(to, from, PeerEvent::Unchoked);
        }
        let mut held = Vec::new();
        let mut steps = Vec::new();
        for node in g.nodes {
            self.take_node(to, node, &mut held, &mut steps);
        }
        if !held.is_empty() {
            self.peers[to as usize].engine.handle_content(self.now, CONTENT, ContentEvent::NodesHeld(held));
        }
        self.learn(to, steps);
        let target = self.scenario.neighbours as usize;
        if self.now.since(self.joined_at(to)) > Duration::from_secs(2) {
            self.dial(to, &g.peers, target);
        }
        self.flush(to);
    }

    fn joined_at(&self, i: u32) -> Time {
        Time::from_secs_f64(self.peers[i as usize].plan.join_s)
    }

    fn on_nodes(&mut self, from: u32, to: u32, got: Vec<NodeId>, lacking: Vec<NodeId>) {
        let mut steps = Vec::new();
        let mut held = Vec::new();
        for &node in &got {
            self.take_node(to, node, &mut held, &mut steps);
        }
        self.tell(to, from, PeerEvent::Nodes { content: CONTENT, got, lacking });
        self.learn(to, steps);
        self.flush(to);
    }

    /// An inner node is taken if its parent names it; else nothing could be verified.
    fn take_node(&mut self, i: u32, node: NodeId, held: &mut Vec<NodeId>, steps: &mut Vec<Step>) {
        let walk = &mut self.peers[i as usize].walk;
        if !walk.holds(node) && walk.verifiable(&self.dag, node) {
            held.push(node);
            steps.push(walk.hold(&self.dag, node));
        }
    }

    /// Tells the engine of `i` what newly held inner nodes lead to.
    pub fn learn(&mut self, i: u32, steps: Vec<Step>) {
        let (now, dag) = (self.now, &self.dag);
        let p = &mut self.peers[i as usize];
        for step in steps {
            let wanted: Vec<NodeId> = step.wanted.into_iter().filter(|&n| !p.walk.holds(n)).collect();
            if !wanted.is_empty() {
                p.engine.handle_content(now, CONTENT, ContentEvent::NodesWanted(wanted));
            }
            for (count, len) in step.grown.map_or_else(Vec::new, |(from, to)| dag.runs(from, to)) {
                p.engine.handle_content(now, CONTENT, ContentEvent::Grew { count, len });
            }
            if step.complete {
                p.engine.handle_content(now, CONTENT, ContentEvent::ManifestComplete);
            }
        }
    }
}
