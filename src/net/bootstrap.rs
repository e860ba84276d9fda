//! When to dial the bootstrap peers: at the start, and again in growing intervals while they are away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Entry {
    addrs: Vec<Multiaddr>,
    at: Instant,
    wait: Duration,
}

#[derive(Debug)]
pub struct Bootstrap(BTreeMap<PeerId, Entry>);

impl Bootstrap {
    pub fn new(peers: Vec<(PeerId, Multiaddr)>, now: Instant) -> Bootstrap {
        let mut b = Bootstrap(BTreeMap::new());
        peers.into_iter().for_each(|(peer, addr)| b.add(peer, addr, now));
        b
    }

    /// One more address of a peer, dialled at once.
    pub fn add(&mut self, peer: PeerId, addr: Multiaddr, now: Instant) {
        let e = self.0.entry(peer).or_insert(Entry { addrs: Vec::new(), at: now, wait: FIRST_RETRY });
        if !e.addrs.contains(&addr) {
            e.addrs.push(addr);
        }
        e.at = now;
    }

    pub fn wake(&self) -> Option<Instant> {
        self.0.values().map(|e| e.at).min()
    }

    /// Who is to be dialled now.
    pub fn due(
        &mut self,
        now: Instant,
        connected: impl Fn(&PeerId) -> bool,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut due = Vec::new();
        for (peer, e) in self.0.iter_mut().filter(|(_, e)| e.at <= now) {
            e.at = now + e.wait;
            e.wait = (e.wait * 2).min(LAST_RETRY);
            if !connected(peer) {
                due.push((*peer, e.addrs.clone()));
            }
        }
        due
    }

    /// It answered: the DHT knows it now, so it need not stay connected.
    pub fn reached(&mut self, peer: &PeerId) {
        if let Some(e) = self.0.get_mut(peer) {
            e.wait = LAST_RETRY;
        }
    }

    /// Its connection ended. In order (unused) or not: look again, but not at once.
    pub fn lost(&mut self, peer: &PeerId, now: Instant) {
        if let Some(e) = self.0.get_mut(peer) {
            e.at = e.at.max(now + FIRST_RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_grow_while_a_peer_is_away() {
        let (peer, t0) = (PeerId::random(), Instant::now());
        let mut b = Bootstrap::new(vec![(peer, "/ip4/10.0.0.1/tcp/1".parse().unwrap())], t0);
        let mut at = Vec::new();
        for _ in 0..9 {
            let t = b.wake().unwrap();
            at.push(t.duration_since(t0).as_secs());
            assert_eq!(b.due(t, |_| false).len(), 1);
        }
        assert_eq!(at, [0, 5, 15, 35, 75, 155, 315, 635, 1_235]);
        assert!(b.due(t0 + Duration::from_secs(9_999), |_| true).is_empty());
    }
}
