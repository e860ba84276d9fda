//! When to ask neighbours whom they know, and when to look for more peers elsewhere.

use std::time::Duration;

use super::Engine;
use super::event::{Action, PeerKind};
use super::state::Content;
use crate::units::{ContentKey, PeerKey, Time};

/// Between rounds of questions in the first minute, and after it.
const EARLY: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(60);
/// Neighbours asked in a round, in turn.
const FAN_OUT: usize = 4;
/// Between searches: grows by doubling, between these.
const SEARCH_MIN: Duration = Duration::from_secs(2);
const SEARCH_MAX: Duration = Duration::from_secs(300);
/// How often supply is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Fewer neighbours than this are too few, whatever they have.
const FEW: usize = 4;

/// The timers of one content.
#[derive(Clone, Debug)]
pub(super) struct Pex {
    started: Time,
    pub ask_at: Time,
    asked_at: Option<Time>,
    /// The neighbour that was asked last.
    turn: Option<PeerKey>,
    pub find_at: Time,
    found_at: Option<Time>,
    wait: Duration,
}

impl Pex {
    pub fn new(now: Time) -> Pex {
        let ask_at = Time::MAX;
        Pex {
            started: now,
            ask_at,
            asked_at: None,
            turn: None,
            find_at: now,
            found_at: None,
            wait: SEARCH_MIN,
        }
    }

    /// There is somebody to ask; true if there was nobody before.
    pub fn begin(&mut self, now: Time) -> bool {
        let idle = self.ask_at == Time::MAX;
        if idle {
            self.ask_at = now + EARLY;
        }
        idle
    }
}

/// Somebody else is needed: too few peers, a chunk that none of them has, nodes that none of them has.
fn too_little(c: &Content) -> bool {
    c.swarm.len() < FEW || c.picker.starved() || c.nodes.starved()
}

impl Engine {
    /// Asks the next few neighbours for peers.
    pub(super) fn ask_round(&mut self, key: ContentKey) {
        let now = self.now;
        let Some(content) = self.contents.get_mut(&key) else { return };
        let early = now.since(content.pex.started) < LATE && content.swarm.len() < self.cfg.neighbours;
        content.pex.ask_at = now + if early { EARLY } else { LATE };
        if content.paused || content.swarm.is_empty() {
            content.pex.ask_at = Time::MAX;
            return;
        }
        let after = content.pex.turn.map_or(0, |p| p.0.saturating_add(1));
        let order = content.swarm.range(PeerKey(after)..).chain(content.swarm.range(..PeerKey(after)));
        let speaks = |p: &PeerKey| self.peers.get(p).is_some_and(|p| p.kind == PeerKind::Exchange);
        let chosen: Vec<PeerKey> = order.map(|(p, _)| *p).filter(speaks).take(FAN_OUT).collect();
        content.pex.turn = chosen.last().copied();
        content.pex.asked_at = Some(now);
        self.actions.extend(chosen.into_iter().map(|peer| Action::AskPeers { peer, content: key }));
    }

    /// Looks for peers while there is too little supply.
    pub(super) fn look_for_peers(&mut self, key: ContentKey) {
        let now = self.now;
        let Some(content) = self.contents.get_mut(&key) else { return };
        if !content.wants() {
            content.pex.find_at = Time::MAX;
            return;
        }
        let short = too_little(content);
        let pex = &mut content.pex;
        if !short {
            (pex.find_at, pex.wait) = (now + LOOK, SEARCH_MIN);
            return;
        }
        pex.find_at = now + pex.wait;
        pex.wait = (pex.wait * 2).min(SEARCH_MAX);
        pex.found_at = Some(now);
        if !content.swarm.is_empty() {
            // Those that are there may know somebody, too.
            let soon = content.pex.asked_at.map_or(now, |t| (t + EARLY).max(now));
            content.pex.ask_at = content.pex.ask_at.min(soon);
        }
        self.actions.push_back(Action::FindPeers { content: key });
    }

    /// Supply went away, or something is wanted anew: look soon, though not more often than allowed.
    pub(super) fn look_soon(&mut self, key: ContentKey) {
        let now = self.now;
        let Some(content) = self.contents.get_mut(&key) else { return };
        let pex = &mut content.pex;
        pex.wait = SEARCH_MIN;
        let soon = pex.found_at.map_or(now, |t| (t + SEARCH_MIN).max(now));
        pex.find_at = pex.find_at.min(soon);
        self.due = self.due.min(pex.find_at);
    }

    /// The content begins anew (added, or resumed).
    pub(super) fn restart_pex(&mut self, key: ContentKey) {
        let now = self.now;
        let Some(content) = self.contents.get_mut(&key) else { return };
        let found_at = content.pex.found_at;
        content.pex = Pex { found_at, ..Pex::new(now) };
        if !content.swarm.is_empty() {
            content.pex.begin(now);
            self.due = self.due.min(content.pex.ask_at);
        }
        self.look_soon(key);
    }
}
