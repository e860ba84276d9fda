//! A simulated peer: the real engine, and around it what the node's driver, store and sockets would be.

use super::dag::{Dag, Walk};
use super::link::{DownLink, UpLink};
use crate::bitfield::Bitfield;
use crate::engine::Engine;
use crate::lab::scenario::{PeerPlan, Role};
use crate::units::{PeerKey, Time};

/// A connection as one end sees it.
#[derive(Debug)]
pub struct Conn {
    pub peer: u32,
    /// The same number at both ends; what belongs to an earlier connection is dropped.
    pub id: u32,
    /// What we last told it.
    pub choked: bool,
    /// Our requests that it has not answered.
    pub asked: Vec<u32>,
    /// Its requests that we have not answered.
    pub owed: Vec<u32>,
    /// Messages to it keep their order: none arrives before this.
    pub last_arrival: Time,
    /// A slow-loris is at it already.
    pub dripping: bool,
}

/// What a peer calls the others. Each numbers them its own way, as nodes do: else all would prefer the
/// same ones wherever the engine goes through its peers in order.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    factor: u32,
    inverse: u32,
}

impl Names {
    pub fn new(random: u64) -> Names {
        // Multiplying by an odd number is one-to-one modulo 2^32; Newton's iteration finds the way back.
        let factor = random as u32 | 1;
        let step = |x: u32, _| x.wrapping_mul(2u32.wrapping_sub(factor.wrapping_mul(x)));
        Names { factor, inverse: (0..5).fold(factor, step) }
    }

    pub fn key(self, peer: u32) -> PeerKey {
        PeerKey(u64::from(self.factor.wrapping_mul(peer + 1)))
    }

    pub fn number(self, key: PeerKey) -> u32 {
        self.inverse.wrapping_mul(key.0 as u32).wrapping_sub(1)
    }
}

/// A peer of the swarm.
pub struct Peer {
    pub plan: PeerPlan,
    pub engine: Engine,
    pub alive: bool,
    pub joined: bool,
    /// By peer, in order.
    pub conns: Vec<Conn>,
    /// Their peers alone: what is searched for every message should lie close together.
    order: Vec<u32>,
    /// Connections being made.
    pub dialling: Vec<u32>,
    pub banned: Vec<u32>,
    /// Who sent it bytes with a wrong hash.
    pub bitten_by: Vec<u32>,
    pub have: Bitfield,
    pub walk: Walk,
    pub up: UpLink,
    pub down: DownLink,
    /// The time-out that counts; earlier ones in the calendar are stale.
    pub wake: Option<Time>,
    pub tally: Tally,
    pub names: Names,
}

/// What a peer did, for the report.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub first_chunk: Option<Time>,
    pub finished: Option<Time>,
    pub left: Option<Time>,
    pub up_bytes: u64,
    pub down_bytes: u64,
    pub late_bytes: u64,
    /// Of these, what came while there were chunks that nobody was asked for.
    pub early_late_bytes: u64,
    pub bad_bytes: u64,
    /// `down_bytes` when the first of those that serve had finished.
    pub at_first_finish: u64,
}

impl Peer {
    pub fn new(plan: PeerPlan, engine: Engine, walk: Walk, names: Names) -> Peer {
        Peer {
            engine,
            alive: false,
            joined: false,
            conns: Vec::new(),
            order: Vec::new(),
            dialling: Vec::new(),
            banned: Vec::new(),
            bitten_by: Vec::new(),
            have: Bitfield::new(),
            walk,
            up: UpLink::new(plan.up),
            down: DownLink::new(plan.down),
            wake: None,
            tally: Tally::default(),
            names,
            plan,
        }
    }

    pub fn conn(&self, peer: u32) -> Option<&Conn> {
        let at = self.order.binary_search(&peer).ok()?;
        self.conns.get(at)
    }

    pub fn conn_mut(&mut self, peer: u32) -> Option<&mut Conn> {
        let at = self.order.binary_search(&peer).ok()?;
        self.conns.get_mut(at)
    }

    /// The connection, if it is still the one that is meant.
    pub fn same_conn(&mut self, peer: u32, id: u32) -> Option<&mut Conn> {
        self.conn_mut(peer).filter(|c| c.id == id)
    }

    pub fn connect(&mut self, peer: u32, id: u32, now: Time) {
        let conn = Conn {
            peer,
            id,
            choked: true,
            asked: Vec::new(),
            owed: Vec::new(),
            last_arrival: now,
            dripping: false,
        };
        let at = self.order.partition_point(|&p| p < peer);
        self.order.insert(at, peer);
        self.conns.insert(at, conn);
    }

    pub fn disconnect(&mut self, peer: u32, id: u32) -> Option<Conn> {
        let at = self.order.binary_search(&peer).ok()?;
        if self.conns[at].id != id {
            return None;
        }
        self.order.remove(at);
        Some(self.conns.remove(at))
    }

    /// Takes all connections out.
    pub fn disconnect_all(&mut self) -> Vec<Conn> {
        self.order.clear();
        std::mem::take(&mut self.conns)
    }

    /// The books on it (requests open, bytes held), and those of its engine.
    pub fn check(&self, open: u64, held: u64, dag: &Dag) -> Result<(), String> {
        let asked: usize = self.conns.iter().map(|c| c.asked.len()).sum();
        if asked as u64 != open {
            return Err(format!("{asked} requests are open, not {open}"));
        }
        let has = if self.plan.role.fetches() { dag.bytes_of(&self.have) } else { 0 };
        if has != held {
            return Err(format!("{has} bytes are held, yet {held} were verified"));
        }
        let unchoked = self.conns.iter().filter(|c| !c.choked).count();
        if unchoked as u64 > u64::from(self.engine.slots()) {
            return Err(format!("{unchoked} of {} slots are open", self.engine.slots()));
        }
        if self.alive { self.engine.check_invariants() } else { Ok(()) }
    }

    pub fn degree(&self) -> usize {
        self.conns.len() + self.dialling.len()
    }

    /// Whether what it sends has the bytes that its name says.
    pub fn honest(&self) -> bool {
        self.plan.role != Role::Liar
    }

    /// Whether the swarm's time counts it: it wants everything and is there to the end.
    pub fn counts(&self) -> bool {
        self.plan.role.fetches() && self.plan.stays()
    }
}

/// Takes `x` out; whether it was there.
pub fn take(list: &mut Vec<u32>, x: u32) -> bool {
    match list.iter().position(|&y| y == x) {
        Some(at) => {
            list.swap_remove(at);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_finds_back_from_its_own_names() {
        for random in [0, 1, 7, u64::MAX, 0xdead_beef_1234_5678] {
            let names = Names::new(random);
            assert!((0..20_000).all(|p| names.number(names.key(p)) == p));
        }
        assert_ne!(Names::new(8).key(3), Names::new(80).key(3));
    }
}
