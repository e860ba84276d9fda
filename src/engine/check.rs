//! What must hold after every event. The cheap part runs at the end of every event in debug builds and
//! at every step of the simulator, all of it in tests and, engine by engine, in the simulator.

use super::Engine;
use super::picker::State;
use super::state::Content;
use crate::units::ContentKey;

impl Engine {
    /// What costs next to nothing to look at. An error names what is wrong; it is a bug of the engine.
    pub fn check_step(&self) -> Result<(), &'static str> {
        let want = |ok: bool, what: &'static str| if ok { Ok(()) } else { Err(what) };
        want(self.choker.held <= self.slots(), "more slots are held than there are")?;
        want(self.fickle.is_empty(), "somebody is not told of our interest")?;
        self.check_flying()
    }

    /// Counts everything afresh and compares. An error names what is wrong; it is a bug of the engine.
    pub fn check_invariants(&self) -> Result<(), String> {
        let want = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_string()) };
        self.check_slots()?;
        self.check_uploads()?;
        want(self.peers.len() <= self.cfg.max_peers, "too many peers")?;
        want(self.ledger.len() <= self.cfg.ledger_cap.max(16), "ledger too long")?;
        for (key, c) in &self.contents {
            c.picker.check()?;
            c.nodes.check()?;
            self.check_twins(*key, c)?;
            want(c.swarm.len() <= self.cfg.max_neighbours, "too many neighbours")?;
            let seeds = c.swarm.values().filter(|n| n.complete).count() as u32;
            want(seeds == c.picker.seeds(), "seeds miscounted")?;
            want(c.first.is_none_or(|f| self.peers.contains_key(&f.peer)), "a stranger is to choose")?;
            let (copies, asks) = self.count_afresh(*key, c);
            for i in 0..c.picker.len() {
                want(copies[i as usize] == c.picker.copies(i), "copies of a chunk miscounted")?;
                let asks = asks[i as usize];
                want(asks == usize::from(c.picker.asks(i)), "a request is lost or counted twice")?;
                let state = c.picker.state(i);
                want(asks == 0 || state == Some(State::Asked), "what is here is still asked for")?;
                let most = usize::from(self.cfg.endgame_copies.max(1));
                want(asks <= most, "a chunk is asked of too many")?;
            }
            for (peer, n) in &c.swarm {
                let p = self.peers.get(peer).ok_or("a neighbour that is no peer")?;
                want(p.contents.contains(key), "a neighbour that does not know")?;
                want(!n.complete || n.have.is_empty(), "a complete neighbour with a list")?;
                if !n.complete {
                    n.counts.check(&n.have, &c.picker)?;
                }
                let interested = c.wants() && (!c.whole || n.offers(&c.picker));
                want(n.told == Some(interested), "a neighbour has a wrong idea of our interest")?;
            }
        }
        for (peer, p) in &self.peers {
            want(p.pipeline.check(), "pipeline miscounted")?;
            let interested = |k: &&ContentKey| {
                self.contents.get(k).and_then(|c| c.swarm.get(peer)).is_some_and(|n| n.interested)
            };
            let interests = p.contents.iter().filter(interested).count();
            want(interests == p.interests as usize, "interests miscounted")?;
        }
        Ok(())
    }

    /// For each chunk: how many neighbours have it, how many requests for it are out.
    fn count_afresh(&self, key: ContentKey, c: &Content) -> (Vec<u32>, Vec<usize>) {
        let seeds = c.swarm.values().filter(|n| n.complete).count() as u32;
        let mut copies = vec![seeds; c.picker.len() as usize];
        for i in c.swarm.values().flat_map(|n| n.have.iter()) {
            if let Some(n) = copies.get_mut(i.as_usize()) {
                *n += 1;
            }
        }
        let mut asks = vec![0; c.picker.len() as usize];
        let all = self.peers.values().flat_map(|p| &p.pipeline.asks);
        for a in all.filter(|a| !a.cancelled && a.content == key) {
            if let Some(n) = asks.get_mut(a.chunk as usize) {
                *n += 1;
            }
        }
        (copies, asks)
    }
}
