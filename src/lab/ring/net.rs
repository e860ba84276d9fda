//! Carries the messages of a ring: each takes the same time, and those to the absent are lost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use super::RingConfig;
use super::node::{Action, Answer, Message, Node};
use super::space::{Space, owner};
use crate::lab::rng::Rng;
use crate::units::Time;

/// One way between any two peers.
pub const DELAY: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Slot {
    node: Node,
    /// The timer that counts; others of this peer in the heap are stale.
    armed: Option<Time>,
}

/// A ring under a simulated network.
#[derive(Debug)]
pub struct Net {
    space: Space,
    config: RingConfig,
    rng: Rng,
    now: Time,
    nodes: BTreeMap<u64, Slot>,
    /// In order of arrival, since all take equally long.
    wire: VecDeque<(Time, u64, u64, Message)>,
    timers: BinaryHeap<Reverse<(Time, u64)>>,
    out: Vec<Action>,
    answers: Vec<Answer>,
    /// Messages carried so far.
    pub carried: u64,
}

impl Net {
    pub fn new(space: Space, config: RingConfig, seed: u64) -> Net {
        Net {
            space,
            config,
            rng: Rng::new(seed),
            now: Time::ZERO,
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            timers: BinaryHeap::new(),
            out: Vec::new(),
            answers: Vec::new(),
            carried: 0,
        }
    }

    /// A ring whose peers all know their places. `ids` are in order, different, and on the circle.
    pub fn settled(space: Space, config: RingConfig, ids: &[u64], seed: u64) -> Net {
        let mut net = Net::new(space, config.clone(), seed);
        let n = ids.len();
        for (at, &id) in ids.iter().enumerate() {
            let successors: Vec<u64> = (1..=config.known.min(n - 1)).map(|k| ids[(at + k) % n]).collect();
            let near = successors.first().map_or(0, |&s| space.distance(id, s));
            let beyond = (0..space.bits()).filter(|&i| config.shortcuts && n > 1 && 1u64 << i > near);
            let finger = |i: u32| (i, owner(ids, space.plus(id, 1 << i)));
            let fingers = beyond.map(finger).filter(|f| f.1 != id).collect();
            let node = net.fresh(id).settled(ids[(at + n - 1) % n], successors, fingers);
            net.insert(node);
        }
        net
    }

    pub fn now(&self) -> Time {
        self.now
    }

    pub fn node(&self, id: u64) -> Option<&Node> {
        self.nodes.get(&id).map(|s| &s.node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(|s| &s.node)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Who owns a key now, seen from above; `None` if nobody is there.
    pub fn true_owner(&self, key: u64) -> Option<u64> {
        self.nodes.range(key..).chain(self.nodes.iter()).next().map(|(&id, _)| id)
    }

    /// A new peer asks `contact` for a place; without one it is a ring of its own.
    pub fn join(&mut self, id: u64, contact: Option<u64>) {
        let mut node = self.fresh(id);
        if let Some(contact) = contact {
            node.join(self.now, contact, &mut self.out);
        }
        self.insert(node);
        self.send_out(id);
    }

    /// A peer is gone, without a goodbye.
    pub fn vanish(&mut self, id: u64) {
        self.nodes.remove(&id);
    }

    /// A peer says goodbye and goes.
    pub fn leave(&mut self, id: u64) {
        if let Some(slot) = self.nodes.remove(&id) {
            slot.node.leave(&mut self.out);
            self.send_out(id);
        }
    }

    /// `from` looks `key` up; false if it is not there.
    pub fn lookup(&mut self, from: u64, key: u64, token: u64, traced: bool) -> bool {
        let Some(slot) = self.nodes.get_mut(&from) else { return false };
        slot.node.lookup(self.now, key, token, traced, &mut self.out);
        self.wake(from);
        self.send_out(from);
        true
    }

    /// Look-ups that ended since the last call.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Carries messages and time-outs up to `until`.
    pub fn run_until(&mut self, until: Time) {
        while let Some(at) = self.next_event().filter(|&at| at <= until) {
            self.step(at);
        }
        self.now = self.now.max(until);
    }

    /// Carries messages until a look-up ends or nothing is left to happen.
    pub fn run_to_answer(&mut self) {
        while self.answers.is_empty()
            && let Some(at) = self.next_event()
        {
            self.step(at);
        }
    }

    fn next_event(&self) -> Option<Time> {
        let message = self.wire.front().map(|m| m.0);
        let timer = self.timers.peek().map(|t| t.0.0);
        message.into_iter().chain(timer).min()
    }

    fn step(&mut self, at: Time) {
        self.now = at;
        if self.wire.front().is_some_and(|m| m.0 <= at) {
            if let Some((_, from, to, message)) = self.wire.pop_front()
                && let Some(slot) = self.nodes.get_mut(&to)
            {
                self.carried += 1;
                slot.node.handle_message(at, from, message, &mut self.out);
                self.after(to);
            }
        } else if let Some(Reverse((_, id))) = self.timers.pop()
            && let Some(slot) = self.nodes.get_mut(&id)
            && slot.armed == Some(at)
        {
            slot.armed = None;
            // A timer that was put off meanwhile only sets itself again.
            if slot.node.poll_timeout().is_some_and(|t| t <= at) {
                slot.node.handle_timeout(at, &mut self.out);
            }
            self.wake(id);
            self.send_out(id);
        }
    }

    fn after(&mut self, id: u64) {
        // Passing a look-up on changes no timer; on a ring without rounds nothing else happens.
        if self.config.interval.is_some() {
            self.wake(id);
        }
        self.send_out(id);
    }

    fn wake(&mut self, id: u64) {
        let Some(slot) = self.nodes.get_mut(&id) else { return };
        let Some(at) = slot.node.poll_timeout().map(|at| at.max(self.now)) else { return };
        if slot.armed.is_none_or(|armed| at < armed) {
            slot.armed = Some(at);
            self.timers.push(Reverse((at, id)));
        }
    }

    fn send_out(&mut self, from: u64) {
        let mut lost_its_place = false;
        for action in self.out.drain(..) {
            match action {
                Action::Send { to, message } => self.wire.push_back((self.now + DELAY, from, to, message)),
                Action::Done(answer) => self.answers.push(answer),
                Action::FindContact => lost_its_place = true,
            }
        }
        if lost_its_place {
            self.bring_back(from);
        }
    }

    /// Somebody else in the ring, found by chance (outside the ring: a list of well-known peers), is asked for a place.
    fn bring_back(&mut self, id: u64) {
        let others: Vec<u64> =
            self.nodes.values().map(|s| s.node.id()).filter(|&o| o != id && self.placed(o)).collect();
        if others.is_empty() {
            return;
        }
        let contact = others[self.rng.below(others.len())];
        if let Some(slot) = self.nodes.get_mut(&id) {
            slot.node.join(self.now, contact, &mut self.out);
        }
        self.wake(id);
        self.send_out(id);
    }

    /// Whether a peer is there and has found its place in the ring.
    pub fn placed(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|s| !s.node.successors().is_empty())
    }

    fn fresh(&mut self, id: u64) -> Node {
        // Rounds of different peers are not in step, as they would not be in life.
        let phase = self.config.interval.map_or(Duration::ZERO, |i| i.mul_f64(self.rng.unit()));
        Node::new(id, self.space, self.config.clone(), self.now, phase)
    }

    fn insert(&mut self, node: Node) {
        let id = node.id();
        self.nodes.insert(id, Slot { node, armed: None });
        self.wake(id);
    }
}
