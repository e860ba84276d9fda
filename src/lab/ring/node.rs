//! One peer of the ring: a state machine without I/O.
//!
//! Every `interval` it pings its successors and its predecessor; each answer carries the answerer's
//! own neighbours. Who misses an answer is dropped: if that was the first successor, the second takes
//! its place and is asked for its own. Look-ups are passed on clockwise and answered to whoever asked.

use std::collections::BTreeMap;
use std::time::Duration;

use super::RingConfig;
use super::space::Space;
use crate::units::Time;

/// What peers say to each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Lookup(Query),
    /// From the owner to whoever asked.
    Found {
        token: u64,
        hops: u32,
        path: Vec<u64>,
    },
    Ping,
    /// The answer to a ping: alive, and these are my neighbours.
    Pong {
        predecessor: Option<u64>,
        successors: Vec<u64>,
    },
    /// "I believe that I am your predecessor."
    Notify,
    /// A goodbye, to both sides.
    Leaving {
        predecessor: Option<u64>,
        successors: Vec<u64>,
    },
}

/// A look-up on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub key: u64,
    pub origin: u64,
    /// The origin's name for it.
    pub token: u64,
    /// Messages so far.
    pub hops: u32,
    /// Who sent it believes that the receiver owns the key.
    pub last: bool,
    /// Who had it, if the origin wants to know (a long path costs memory).
    pub path: Option<Vec<u64>>,
}

/// What a peer wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Send {
        to: u64,
        message: Message,
    },
    /// A look-up of ours ended.
    Done(Answer),
    /// Not in the ring: [`Node::join`] is to be called with a peer that is.
    FindContact,
}

/// How a look-up ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub token: u64,
    pub key: u64,
    /// `None`: no answer in time.
    pub owner: Option<u64>,
    pub hops: u32,
    pub path: Vec<u64>,
}

/// Names of a peer's own look-ups start here, far above those that its user gives.
const OWN: u64 = 1 << 62;
const JOIN: u64 = OWN + 1000;

#[derive(Clone, Debug)]
struct Asked {
    key: u64,
    deadline: Time,
}

/// A peer.
#[derive(Clone, Debug)]
pub struct Node {
    id: u64,
    space: Space,
    config: RingConfig,
    predecessor: Option<u64>,
    successors: Vec<u64>,
    /// (i, owner of id + 2^i), only where that lies beyond the first successor.
    fingers: Vec<(u32, u64)>,
    next_round: Option<Time>,
    pings: BTreeMap<u64, Time>,
    asked: BTreeMap<u64, Asked>,
}

impl Node {
    /// A peer alone on its ring; [`Node::join`] brings it into another's. Rounds start after `phase`.
    pub fn new(id: u64, space: Space, config: RingConfig, now: Time, phase: Duration) -> Node {
        let next_round = config.interval.map(|_| now + phase);
        Node {
            id,
            space,
            config,
            predecessor: None,
            successors: Vec::new(),
            fingers: Vec::new(),
            next_round,
            pings: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// A peer that already knows its place (large rings that never change are built this way).
    pub fn settled(mut self, predecessor: u64, successors: Vec<u64>, fingers: Vec<(u32, u64)>) -> Node {
        self.predecessor = Some(predecessor);
        self.successors = successors;
        self.fingers = fingers;
        self
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn predecessor(&self) -> Option<u64> {
        self.predecessor
    }

    pub fn successors(&self) -> &[u64] {
        &self.successors
    }

    pub fn fingers(&self) -> &[(u32, u64)] {
        &self.fingers
    }

    /// How many different peers it routes by, its predecessor included.
    pub fn neighbours(&self) -> usize {
        let mut all: Vec<u64> = self.routes().chain(self.predecessor).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    }

    /// Asks `contact` for a place in its ring.
    pub fn join(&mut self, now: Time, contact: u64, out: &mut Vec<Action>) {
        let query = self.query(now, self.id, JOIN, false);
        out.push(Action::Send { to: contact, message: Message::Lookup(query) });
    }

    /// Says goodbye to both sides; the peer is to be switched off afterwards.
    pub fn leave(&self, out: &mut Vec<Action>) {
        let (predecessor, successors) = (self.predecessor, self.successors.clone());
        let message = Message::Leaving { predecessor, successors };
        for &to in self.successors.first().into_iter().chain(self.predecessor.as_ref()) {
            out.push(Action::Send { to, message: message.clone() });
        }
    }

    /// Starts a look-up; [`Action::Done`] with `token` (below 2^62) ends it. `traced`: keep the path.
    pub fn lookup(&mut self, now: Time, key: u64, token: u64, traced: bool, out: &mut Vec<Action>) {
        let query = self.query(now, key, token, traced);
        self.route(query, out);
    }

    fn query(&mut self, now: Time, key: u64, token: u64, traced: bool) -> Query {
        let deadline = now + self.config.deadline;
        self.asked.insert(token, Asked { key, deadline });
        Query { key, origin: self.id, token, hops: 0, last: false, path: traced.then(Vec::new) }
    }

    pub fn handle_message(&mut self, now: Time, from: u64, message: Message, out: &mut Vec<Action>) {
        match message {
            Message::Lookup(query) => self.route(query, out),
            Message::Found { token, hops, path } => self.on_found(now, from, token, hops, path, out),
            Message::Ping => {
                let (predecessor, successors) = (self.predecessor, self.successors.clone());
                out.push(Action::Send { to: from, message: Message::Pong { predecessor, successors } });
            }
            Message::Pong { predecessor, successors } => {
                self.on_pong(now, from, predecessor, successors, out)
            }
            Message::Notify => self.on_notify(from),
            Message::Leaving { predecessor, successors } => {
                let was_predecessor = self.predecessor == Some(from);
                self.forget(now, from, out);
                successors.into_iter().for_each(|s| self.consider(s));
                if was_predecessor {
                    self.predecessor = predecessor.filter(|&p| p != self.id);
                }
            }
        }
    }

    /// When [`Node::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let asked = self.asked.values().map(|a| a.deadline);
        self.pings.values().copied().chain(asked).chain(self.next_round).min()
    }

    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<Action>) {
        let missed: Vec<u64> = self.pings.iter().filter(|p| *p.1 <= now).map(|p| *p.0).collect();
        for id in missed {
            self.forget(now, id, out);
        }
        let lost: Vec<u64> = self.asked.iter().filter(|a| a.1.deadline <= now).map(|a| *a.0).collect();
        for token in lost {
            self.on_lost(token, out);
        }
        if let (Some(at), Some(interval)) = (self.next_round, self.config.interval)
            && at <= now
        {
            self.next_round = Some(now + interval);
            self.round(now, out);
        }
    }

    /// One round of pings and, with shortcuts, of looking the fingers up again.
    fn round(&mut self, now: Time, out: &mut Vec<Action>) {
        let everyone: Vec<u64> = self.successors.iter().copied().chain(self.predecessor).collect();
        for id in everyone {
            self.ping(now, id, out);
        }
        let Some(&first) = self.successors.first() else { return };
        if !self.config.shortcuts {
            return;
        }
        let near = self.space.distance(self.id, first);
        for i in 0..self.space.bits() {
            if 1u64 << i > near {
                let query = self.query(now, self.space.plus(self.id, 1 << i), OWN + u64::from(i), false);
                self.route(query, out);
            } else {
                self.fingers.retain(|f| f.0 != i);
            }
        }
    }

    fn ping(&mut self, now: Time, to: u64, out: &mut Vec<Action>) {
        if to != self.id && !self.pings.contains_key(&to) {
            self.pings.insert(to, now + self.config.patience);
            out.push(Action::Send { to, message: Message::Ping });
        }
    }

    fn on_pong(
        &mut self,
        now: Time,
        from: u64,
        before: Option<u64>,
        theirs: Vec<u64>,
        out: &mut Vec<Action>,
    ) {
        self.pings.remove(&from);
        self.consider(from);
        if self.successors.first() != Some(&from) {
            return;
        }
        // Its successors follow it in our list; whoever stands between it and us is asked first,
        // and taken only once it has answered.
        self.successors.truncate(1);
        for s in theirs.into_iter().filter(|&s| s != from) {
            if s == self.id || self.successors.len() >= self.config.known {
                break;
            }
            self.successors.push(s);
        }
        match before {
            Some(p) if p != self.id && p != from && self.space.after_until(self.id, p, from) => {
                self.ping(now, p, out);
            }
            _ => {}
        }
        out.push(Action::Send { to: from, message: Message::Notify });
    }

    /// Takes a peer into the successors where it belongs, if it is near enough.
    fn consider(&mut self, id: u64) {
        if id == self.id || self.successors.contains(&id) {
            return;
        }
        let d = self.space.distance(self.id, id);
        let at = self.successors.partition_point(|&s| self.space.distance(self.id, s) < d);
        self.successors.insert(at, id);
        self.successors.truncate(self.config.known);
    }

    fn on_notify(&mut self, from: u64) {
        let better = match self.predecessor {
            None => true,
            Some(p) => p != from && self.space.after_until(p, from, self.id),
        };
        if better && from != self.id {
            self.predecessor = Some(from);
        }
        if self.successors.is_empty() {
            self.consider(from);
        }
    }

    /// Drops a peer; if it was the first successor, the next one is asked for its own at once.
    fn forget(&mut self, now: Time, id: u64, out: &mut Vec<Action>) {
        self.pings.remove(&id);
        let was_first = self.successors.first() == Some(&id);
        self.successors.retain(|&s| s != id);
        self.fingers.retain(|f| f.1 != id);
        if self.predecessor == Some(id) {
            self.predecessor = None;
        }
        if self.successors.is_empty() {
            // The last resort: any peer we know is somewhere on the circle, and repair walks back from it.
            let known: Vec<u64> = self.fingers.iter().map(|f| f.1).chain(self.predecessor).collect();
            known.into_iter().for_each(|k| self.consider(k));
        }
        match self.successors.first() {
            Some(&next) if was_first => {
                self.pings.remove(&next);
                self.ping(now, next, out);
            }
            None if was_first => out.push(Action::FindContact),
            _ => {}
        }
    }

    fn on_found(
        &mut self,
        now: Time,
        owner: u64,
        token: u64,
        hops: u32,
        path: Vec<u64>,
        out: &mut Vec<Action>,
    ) {
        let Some(asked) = self.asked.remove(&token) else { return };
        match token {
            JOIN => {
                self.consider(owner);
                self.ping(now, owner, out);
            }
            OWN.. => self.set_finger((token - OWN) as u32, Some(owner)),
            _ => out.push(Action::Done(Answer { token, key: asked.key, owner: Some(owner), hops, path })),
        }
    }

    fn on_lost(&mut self, token: u64, out: &mut Vec<Action>) {
        let Some(asked) = self.asked.remove(&token) else { return };
        match token {
            JOIN if self.successors.is_empty() => out.push(Action::FindContact),
            JOIN => {}
            OWN.. => self.set_finger((token - OWN) as u32, None),
            _ => {
                let (owner, hops, path) = (None, 0, Vec::new());
                out.push(Action::Done(Answer { token, key: asked.key, owner, hops, path }));
            }
        }
    }

    fn set_finger(&mut self, i: u32, owner: Option<u64>) {
        self.fingers.retain(|f| f.0 != i);
        if let Some(owner) = owner.filter(|&o| o != self.id) {
            let at = self.fingers.partition_point(|f| f.0 < i);
            self.fingers.insert(at, (i, owner));
        }
    }

    fn routes(&self) -> impl Iterator<Item = u64> + '_ {
        let near = self.successors.iter().take(self.config.routed).copied();
        near.chain(self.fingers.iter().map(|f| f.1))
    }

    /// Answers a look-up if the key is ours, else passes it on.
    fn route(&mut self, mut query: Query, out: &mut Vec<Action>) {
        if let Some(path) = &mut query.path {
            path.push(self.id);
        }
        let next = if query.last { None } else { self.next(query.key) };
        let Some((to, last)) = next else {
            let message =
                Message::Found { token: query.token, hops: query.hops, path: query.path.unwrap_or_default() };
            out.push(Action::Send { to: query.origin, message });
            return;
        };
        query.hops += 1;
        query.last = last;
        out.push(Action::Send { to, message: Message::Lookup(query) });
    }

    /// Who gets a look-up next, and whether it is the owner; `None`: the key is ours.
    fn next(&self, key: u64) -> Option<(u64, bool)> {
        let ours = self.predecessor.is_some_and(|p| self.space.after_until(p, key, self.id));
        if ours || key == self.id || self.successors.is_empty() {
            return None;
        }
        let mut before = self.id;
        for &s in self.successors.iter().take(self.config.routed) {
            if self.space.after_until(before, key, s) {
                return Some((s, true));
            }
            before = s;
        }
        // Greedy: the farthest that is known and does not pass the key.
        let reach = self.space.distance(self.id, key);
        let far = self.routes().filter(|&r| self.space.distance(self.id, r) <= reach);
        let to = far.max_by_key(|&r| self.space.distance(self.id, r)).unwrap_or(before);
        Some((to, to == key))
    }
}
