//! The DHT's record store: our own keys apart from what others store with us, which has a quota.
//!
//! No values are kept: nothing here needs them, and unvalidated ones are a way to be abused.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use std::vec;

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore};
use libp2p::kad::{K_VALUE, ProviderRecord, Record, RecordKey};

/// Expired records are looked for at most this often.
const SWEEP: Duration = Duration::from_secs(60);
/// Addresses kept of a provider.
pub const MAX_ADDRS: usize = 16;

#[derive(Debug)]
pub struct Records {
    local: PeerId,
    own: HashMap<RecordKey, ProviderRecord>,
    foreign: HashMap<RecordKey, Vec<ProviderRecord>>,
    /// Records in `foreign`, and how many there may be.
    count: usize,
    quota: usize,
    swept: Instant,
}

impl Records {
    pub fn new(local: PeerId, quota: usize) -> Records {
        Records {
            local,
            own: HashMap::new(),
            foreign: HashMap::new(),
            count: 0,
            quota,
            swept: Instant::now(),
        }
    }

    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        self.foreign.retain(|_, records| {
            records.retain(|r| !r.is_expired(now));
            !records.is_empty()
        });
        self.count = self.foreign.values().map(Vec::len).sum();
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = vec::IntoIter<Cow<'a, Record>>;
    type ProvidedIter<'a> = vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<(), Error> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        Vec::new().into_iter()
    }

    fn add_provider(&mut self, mut record: ProviderRecord) -> Result<(), Error> {
        if record.provider == self.local {
            self.own.insert(record.key.clone(), record);
            return Ok(());
        }
        record.addresses.truncate(MAX_ADDRS);
        if self.count >= self.quota {
            self.sweep(Instant::now());
        }
        let records = self.foreign.entry(record.key.clone()).or_default();
        if let Some(old) = records.iter_mut().find(|r| r.provider == record.provider) {
            *old = record;
            return Ok(());
        }
        if records.len() >= K_VALUE.get() {
            // The one that was heard of longest ago makes room.
            records.remove(0);
            self.count -= 1;
        } else if self.count >= self.quota {
            if records.is_empty() {
                self.foreign.remove(&record.key);
            }
            return Err(Error::MaxProvidedKeys);
        }
        records.push(record);
        self.count += 1;
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let foreign = self.foreign.get(key).into_iter().flatten();
        self.own.get(key).into_iter().chain(foreign).cloned().collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed).collect::<Vec<_>>().into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        if *peer == self.local {
            self.own.remove(key);
            return;
        }
        let Some(records) = self.foreign.get_mut(key) else { return };
        let before = records.len();
        records.retain(|r| r.provider != *peer);
        self.count -= before - records.len();
        if records.is_empty() {
            self.foreign.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: u8, provider: PeerId) -> ProviderRecord {
        ProviderRecord::new(RecordKey::new(&[key]), provider, Vec::<libp2p::Multiaddr>::new())
    }

    #[test]
    fn a_flood_of_others_never_blocks_our_own() {
        let local = PeerId::random();
        let mut s = Records::new(local, 10);
        let taken = (0..100).filter(|&k| s.add_provider(record(k, PeerId::random())).is_ok()).count();
        assert_eq!((taken, s.count, s.foreign.len()), (10, 10, 10));
        assert!(s.add_provider(record(200, local)).is_ok());
        assert_eq!(s.providers(&RecordKey::new(&[200])).len(), 1);
        assert_eq!(s.provided().count(), 1);
    }

    #[test]
    fn a_key_has_at_most_k_providers_and_the_newest_stay() {
        let mut s = Records::new(PeerId::random(), 100);
        let peers: Vec<_> = (0..30).map(|_| PeerId::random()).collect();
        peers.iter().for_each(|p| s.add_provider(record(1, *p)).unwrap());
        let kept: Vec<_> = s.providers(&RecordKey::new(&[1])).iter().map(|r| r.provider).collect();
        assert_eq!(kept, peers[10..]);
        peers.iter().for_each(|p| s.remove_provider(&RecordKey::new(&[1]), p));
        assert_eq!((s.count, s.foreign.len()), (0, 0));
    }
}
