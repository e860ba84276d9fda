//! Asking for the inner nodes of a content's DAG: in the order needed, in batches, one batch at a peer at
//! a time, the next peer when one lacks them or is silent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Engine;
use super::event::{Action, ContentEvent, NodeId};
use crate::units::{ContentKey, PeerKey, Time};

/// Nodes in a request, the protocol's cap.
const BATCH: usize = 64;
/// An unanswered batch goes to somebody else after this long.
const TIMEOUT: Duration = Duration::from_secs(4);
/// What a peer lacked is not asked of it for this long.
const FORGET_LACKS: Duration = Duration::from_secs(20);
/// Nodes kept track of for one content; the driver names more when these have come.
const MAX_NODES: usize = 65_536;
/// Things that peers lack, remembered for one content.
const MAX_LACKS: usize = 65_536;

/// The missing nodes of one content.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    /// Missing and asked of nobody, in the order needed.
    queue: VecDeque<NodeId>,
    /// Everything missing.
    missing: BTreeSet<NodeId>,
    asked: BTreeMap<PeerKey, (Time, Vec<NodeId>)>,
    /// Who is known not to have what.
    lacks: BTreeSet<(PeerKey, NodeId)>,
    forget_at: Time,
    /// The last look found nobody to ask for the first of the queue.
    stuck: bool,
}

impl Nodes {
    pub fn starved(&self) -> bool {
        self.stuck && !self.queue.is_empty()
    }

    pub fn busy(&self) -> bool {
        !self.asked.is_empty() || !self.queue.is_empty()
    }

    fn want(&mut self, nodes: Vec<NodeId>) {
        for n in nodes {
            // One that was held and is wanted again may still be asked for.
            let asked = || self.asked.values().any(|(_, nodes)| nodes.contains(&n));
            if self.missing.len() < MAX_NODES && !self.missing.contains(&n) {
                if !asked() {
                    self.queue.push_back(n);
                }
                self.missing.insert(n);
            }
        }
    }

    fn got(&mut self, nodes: &[NodeId]) {
        let mut queued = false;
        for n in nodes {
            queued |= self.missing.remove(n);
        }
        if queued {
            self.queue.retain(|n| self.missing.contains(n));
        }
    }

    /// What a peer was asked is to be asked of others, first of all.
    pub fn give_up(&mut self, peer: PeerKey) {
        if let Some((_, nodes)) = self.asked.remove(&peer) {
            for n in nodes.into_iter().rev().filter(|n| self.missing.contains(n)) {
                self.queue.push_front(n);
            }
        }
    }

    fn lacking(&mut self, peer: PeerKey, nodes: impl IntoIterator<Item = NodeId>) {
        for n in nodes {
            if self.lacks.len() < MAX_LACKS {
                self.lacks.insert((peer, n));
            }
        }
    }

    /// The next batch for this peer.
    fn batch(&mut self, now: Time, peer: PeerKey) -> Vec<NodeId> {
        if self.queue.is_empty() || self.asked.contains_key(&peer) {
            return Vec::new();
        }
        let (mut out, mut rest) = (Vec::new(), VecDeque::new());
        while let Some(n) = self.queue.pop_front() {
            if out.len() < BATCH && !self.lacks.contains(&(peer, n)) {
                out.push(n);
            } else {
                rest.push_back(n);
                if out.len() == BATCH || rest.len() > 4 * BATCH {
                    break;
                }
            }
        }
        while let Some(n) = rest.pop_back() {
            self.queue.push_front(n);
        }
        if !out.is_empty() {
            self.asked.insert(peer, (now, out.clone()));
        }
        out
    }

    pub fn reset(&mut self) {
        let asked: Vec<PeerKey> = self.asked.keys().copied().collect();
        asked.into_iter().for_each(|p| self.give_up(p));
    }

    /// Every missing node is waiting or asked, and nothing else is.
    pub fn check(&self) -> Result<(), String> {
        let mut all: Vec<NodeId> = self.queue.iter().copied().collect();
        all.extend(self.asked.values().flat_map(|(_, n)| n).filter(|n| self.missing.contains(n)));
        all.sort_unstable();
        if all.iter().eq(self.missing.iter()) {
            Ok(())
        } else {
            Err("nodes: one is lost or asked twice".into())
        }
    }
}

impl Engine {
    pub(super) fn on_nodes(&mut self, key: ContentKey, event: ContentEvent) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        match event {
            ContentEvent::NodesWanted(nodes) => content.nodes.want(nodes),
            ContentEvent::NodesHeld(nodes) => content.nodes.got(&nodes),
            _ => return,
        }
        self.ask_nodes(key);
    }

    /// A peer's answer.
    pub(super) fn on_nodes_answer(
        &mut self,
        peer: PeerKey,
        key: ContentKey,
        got: &[NodeId],
        lacking: Vec<NodeId>,
    ) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        if got.is_empty()
            && let Some((_, asked)) = content.nodes.asked.get(&peer)
        {
            // It sent nothing at all: what it did not name either is as good as lacking. One that sent some
            // had no room for the rest, which is asked for again.
            let silent: Vec<NodeId> = asked.iter().filter(|n| !got.contains(n)).copied().collect();
            content.nodes.lacking(peer, silent);
        }
        content.nodes.got(got);
        content.nodes.give_up(peer);
        content.nodes.lacking(peer, lacking);
        self.ask_nodes(key);
    }

    /// Hands out what waits: to those with everything first, at random among equals.
    pub(super) fn ask_nodes(&mut self, key: ContentKey) {
        let now = self.now;
        let Some(content) = self.contents.get_mut(&key) else { return };
        if content.paused || content.nodes.queue.is_empty() {
            return;
        }
        self.tick_at = self.tick_at.min(now + super::requests::TICK);
        let free = |p: &&PeerKey| !content.nodes.asked.contains_key(p);
        let mut order: Vec<PeerKey> = content.swarm.keys().filter(free).copied().collect();
        self.rng.shuffle(&mut order);
        order.sort_by_key(|p| !content.swarm[p].complete);
        let mut asked = false;
        for peer in order {
            let nodes = content.nodes.batch(now, peer);
            if !nodes.is_empty() {
                asked = true;
                self.actions.push_back(Action::RequestNodes { peer, content: key, nodes });
            }
            if content.nodes.queue.is_empty() {
                break;
            }
        }
        content.nodes.stuck = !asked && content.nodes.asked.is_empty();
    }

    /// Takes unanswered batches back, and tries again what everybody lacked.
    pub(super) fn check_nodes(&mut self, key: ContentKey) {
        let now = self.now;
        let Some(content) = self.contents.get_mut(&key) else { return };
        let rtt = |p: &PeerKey| self.peers.get(p).map(|p| p.rtt_or_zero()).unwrap_or_default();
        let late = |(p, (at, _)): &(&PeerKey, &(Time, Vec<NodeId>))| now.since(*at) > TIMEOUT + rtt(p) * 4;
        let late: Vec<PeerKey> = content.nodes.asked.iter().filter(late).map(|(p, _)| *p).collect();
        for peer in late {
            let nodes = content.nodes.asked.get(&peer).map(|(_, n)| n.clone()).unwrap_or_default();
            content.nodes.give_up(peer);
            content.nodes.lacking(peer, nodes);
        }
        if now >= content.nodes.forget_at {
            content.nodes.lacks.clear();
            content.nodes.forget_at = now + FORGET_LACKS;
        }
        self.ask_nodes(key);
    }
}
