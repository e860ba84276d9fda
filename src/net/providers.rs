//! When to tell a DHT what we provide: at once, again whenever a small network grows, and every 22 h.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use libp2p::kad::{QueryId, RecordKey};

/// Records live for 48 h; told anew well before.
const AGAIN: Duration = Duration::from_secs(22 * 3_600);
/// A network that has just grown may be growing still.
const SETTLE: Duration = Duration::from_secs(1);
/// Walks under way at a time.
const MAX_RUNNING: usize = 8;
/// Above so many known peers one more does not change who is closest by much.
const SMALL: usize = 20;

/// What we provide in one DHT.
#[derive(Debug, Default)]
pub struct Schedule {
    due: BTreeMap<Key, Instant>,
    ready: VecDeque<Key>,
    running: HashSet<QueryId>,
    next: Option<Instant>,
}

/// A record key's bytes, which have an order.
type Key = Vec<u8>;

impl Schedule {
    pub fn add(&mut self, key: &RecordKey, now: Instant) {
        let key = key.to_vec();
        self.due.insert(key, now);
        self.next = Some(now);
    }

    pub fn remove(&mut self, key: &RecordKey) {
        let key = key.to_vec();
        self.due.remove(&key);
        self.ready.retain(|k| *k != key);
    }

    /// A peer has come into the routing table, which now has so many.
    pub fn peer_came(&mut self, known: usize, now: Instant) {
        if known > SMALL || self.due.is_empty() {
            return;
        }
        let soon = now + SETTLE;
        self.due.values_mut().for_each(|at| *at = (*at).min(soon));
        self.next = Some(self.next.map_or(soon, |n| n.min(soon)));
    }

    /// When to ask [`Schedule::next`] again.
    pub fn wake(&self) -> Option<Instant> {
        self.next
    }

    /// The next key to be told, if it is time and few enough are under way.
    pub fn next(&mut self, now: Instant) -> Option<RecordKey> {
        if self.next.is_some_and(|n| n <= now) {
            for (key, at) in self.due.iter_mut().filter(|(_, at)| **at <= now) {
                *at = now + AGAIN;
                if !self.ready.contains(key) {
                    self.ready.push_back(key.clone());
                }
            }
            self.next = self.due.values().min().copied();
        }
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        self.ready.pop_front().map(RecordKey::from)
    }

    pub fn started(&mut self, query: QueryId) {
        self.running.insert(query);
    }

    pub fn finished(&mut self, query: QueryId) {
        self.running.remove(&query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_at_once_when_the_network_grows_and_after_22_hours() {
        let (t0, key) = (Instant::now(), RecordKey::new(b"k"));
        let mut s = Schedule::default();
        s.add(&key, t0);
        assert_eq!(s.next(t0), Some(key.clone()));
        assert_eq!(s.next(t0), None);
        s.peer_came(1, t0);
        assert_eq!(s.next(t0), None);
        assert_eq!(s.next(t0 + SETTLE), Some(key.clone()));
        s.peer_came(21, t0);
        assert_eq!(s.next(t0 + 2 * SETTLE), None);
        assert_eq!(s.wake(), Some(t0 + SETTLE + AGAIN));
        assert_eq!(s.next(t0 + SETTLE + AGAIN), Some(key.clone()));
        s.remove(&key);
        assert_eq!(s.next(t0 + 3 * AGAIN), None);
    }
}
