//! The DHT's record store: our own keys, and apart from them, under quotas, what others store with us.
//!
//! It is a table in memory, since libp2p-kad asks it synchronously; [`Records::take_changes`] gives what is
//! to be kept on disk. What a provider is reached by is kept once for all of its records.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use std::vec;

use libp2p::kad::store::{Error, RecordStore};
use libp2p::kad::{K_VALUE, ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use super::unix_now;
use super::validate::{Rank, validate};
use crate::dht::Group;

/// Expired records are looked for at most this often.
const SWEEP: u64 = 60;
/// Addresses kept of a provider.
pub const MAX_ADDRS: usize = 16;
/// How long records and the addresses of providers live, in seconds.
const RECORD_TTL: u64 = 48 * 3_600;
const ADDRS_TTL: u64 = 24 * 3_600;
/// Of the quota, one provider and one IP group may have one part in so many.
const PROVIDER_SHARE: usize = 4;
const GROUP_SHARE: usize = 2;
/// Values of others: how many in all, of one IP group, and for how long (IPNS says itself if shorter).
const MAX_VALUES: usize = 1_024;
const MAX_VALUES_OF_GROUP: usize = 128;
const VALUE_TTL: u64 = 48 * 3_600;
/// Keys that are longer are no multihash of anybody's.
const MAX_KEY: usize = 128;
/// Changes that wait for the disk. Beyond that some are only in memory.
const MAX_CHANGES: usize = 65_536;

/// Where somebody was seen, for the quotas.
pub type Origin = Vec<Group>;

#[derive(Clone, Debug)]
struct Provider {
    addrs: Vec<Multiaddr>,
    /// Unix time at which the addresses came.
    seen: u64,
    records: usize,
    origin: Origin,
}

#[derive(Clone, Debug)]
struct Value {
    bytes: Vec<u8>,
    rank: Rank,
    until: u64,
    origin: Origin,
}

/// Something to be kept on disk, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Provider { peer: PeerId, addrs: Vec<Multiaddr>, seen: u64 },
    Record { key: Vec<u8>, peer: PeerId, until: Option<u64> },
    Value { key: Vec<u8>, value: Option<(Vec<u8>, u64)> },
}

#[derive(Debug)]
pub struct Records {
    local: PeerId,
    own: HashSet<RecordKey>,
    /// Who provides what, and until when.
    foreign: HashMap<RecordKey, Vec<(PeerId, u64)>>,
    providers: HashMap<PeerId, Provider>,
    groups: HashMap<Group, usize>,
    /// Records in `foreign`, and how many there may be.
    count: usize,
    quota: usize,
    values: HashMap<RecordKey, Value>,
    swept: u64,
    changes: Option<Vec<Change>>,
}

impl Records {
    /// `keep`: what changes is to be kept on disk, so it is noted.
    pub fn new(local: PeerId, quota: usize, keep: bool) -> Records {
        Records {
            local,
            own: HashSet::new(),
            foreign: HashMap::new(),
            providers: HashMap::new(),
            groups: HashMap::new(),
            count: 0,
            quota,
            values: HashMap::new(),
            swept: 0,
            changes: keep.then(Vec::new),
        }
    }

    pub fn local(&self) -> PeerId {
        self.local
    }

    /// Provider records of others, and values.
    pub fn stored(&self) -> (usize, usize) {
        (self.count, self.values.len())
    }

    /// What has changed since the last time.
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn changed(&mut self, change: Change) {
        if let Some(changes) = self.changes.as_mut().filter(|c| c.len() < MAX_CHANGES) {
            changes.push(change);
        }
    }

    /// A record of somebody else's, who was seen at `origin` (and has proved its ID).
    ///
    /// # Errors
    /// A quota is used up; what was stored before stays.
    pub fn add_foreign(
        &mut self,
        key: RecordKey,
        peer: PeerId,
        mut addrs: Vec<Multiaddr>,
        origin: Origin,
        now: u64,
    ) -> Result<(), Error> {
        if peer == self.local || key.as_ref().len() > MAX_KEY {
            return Err(Error::ValueTooLarge);
        }
        addrs.truncate(MAX_ADDRS);
        if self.count >= self.quota {
            self.sweep(now);
        }
        let until = now + RECORD_TTL;
        let known = self.foreign.get_mut(&key).and_then(|r| r.iter_mut().find(|(p, _)| *p == peer));
        let is_new = match known {
            Some((_, old)) => {
                *old = until;
                false
            }
            None => true,
        };
        if is_new {
            self.make_room(&key, &peer, &origin)?;
            self.foreign.entry(key.clone()).or_default().push((peer, until));
            self.count += 1;
        }
        let fresh = Provider { addrs: Vec::new(), seen: 0, records: 0, origin: origin.clone() };
        let provider = self.providers.entry(peer).or_insert(fresh);
        if is_new {
            provider.records += 1;
            for group in provider.origin.clone() {
                *self.groups.entry(group).or_default() += 1;
            }
        }
        if provider.addrs != addrs || provider.seen + SWEEP < now {
            provider.addrs.clone_from(&addrs);
            provider.seen = now;
            self.changed(Change::Provider { peer, addrs, seen: now });
        }
        self.changed(Change::Record { key: key.to_vec(), peer, until: Some(until) });
        Ok(())
    }

    fn make_room(&mut self, key: &RecordKey, peer: &PeerId, origin: &Origin) -> Result<(), Error> {
        let of_provider = self.providers.get(peer).map_or(0, |p| p.records);
        let of_group = origin.iter().filter_map(|g| self.groups.get(g)).max().copied().unwrap_or(0);
        if of_provider >= self.quota / PROVIDER_SHARE || of_group >= self.quota / GROUP_SHARE {
            return Err(Error::MaxProvidedKeys);
        }
        if let Some(records) = self.foreign.get(key)
            && records.len() >= K_VALUE.get()
        {
            // The one that was heard of longest ago makes room.
            let oldest = records.iter().min_by_key(|(_, until)| *until).map(|(p, _)| *p);
            oldest.into_iter().for_each(|p| self.drop_record(key, &p));
        }
        if self.count >= self.quota { Err(Error::MaxProvidedKeys) } else { Ok(()) }
    }

    fn drop_record(&mut self, key: &RecordKey, peer: &PeerId) {
        let Some(records) = self.foreign.get_mut(key) else { return };
        let before = records.len();
        records.retain(|(p, _)| p != peer);
        if records.len() == before {
            return;
        }
        if records.is_empty() {
            self.foreign.remove(key);
        }
        self.count -= 1;
        if let Some(provider) = self.providers.get_mut(peer) {
            provider.records -= 1;
            for group in &provider.origin {
                if let Some(n) = self.groups.get_mut(group) {
                    *n -= 1;
                    if *n == 0 {
                        self.groups.remove(group);
                    }
                }
            }
            if provider.records == 0 {
                self.providers.remove(peer);
            }
        }
        self.changed(Change::Record { key: key.to_vec(), peer: *peer, until: None });
    }

    /// Drops what has expired; looks at most once a minute.
    pub fn sweep(&mut self, now: u64) {
        if now < self.swept + SWEEP {
            return;
        }
        self.swept = now;
        let expired: Vec<(RecordKey, PeerId)> = self
            .foreign
            .iter()
            .flat_map(|(key, records)| records.iter().map(move |(p, until)| (key, p, until)))
            .filter(|(_, _, until)| **until <= now)
            .map(|(key, p, _)| (key.clone(), *p))
            .collect();
        expired.iter().for_each(|(key, peer)| self.drop_record(key, peer));
        let expired: Vec<RecordKey> =
            self.values.iter().filter(|(_, v)| v.until <= now).map(|(k, _)| k.clone()).collect();
        for key in expired {
            self.values.remove(&key);
            self.changed(Change::Value { key: key.to_vec(), value: None });
        }
    }

    /// A value of somebody else's, kept if it is valid and better than what is there.
    ///
    /// # Errors
    /// It is not valid, or there is no room.
    pub fn put_foreign(
        &mut self,
        key: RecordKey,
        bytes: Vec<u8>,
        origin: Origin,
        now: u64,
    ) -> Result<(), Error> {
        let rank = validate(key.as_ref(), &bytes, now).map_err(|why| {
            tracing::debug!("a value is refused: {why}");
            Error::ValueTooLarge
        })?;
        match self.values.get(&key) {
            Some(old) if old.rank >= rank && old.until > now => return Ok(()),
            Some(_) => {}
            None => {
                let of_group = |g: &Group| self.values.values().filter(|v| v.origin.contains(g)).count();
                if self.values.len() >= MAX_VALUES
                    || origin.iter().any(|g| of_group(g) >= MAX_VALUES_OF_GROUP)
                {
                    return Err(Error::MaxRecords);
                }
            }
        }
        let until = if rank.until == 0 { now + VALUE_TTL } else { rank.until.min(now + VALUE_TTL) };
        self.changed(Change::Value { key: key.to_vec(), value: Some((bytes.clone(), until)) });
        self.values.insert(key, Value { bytes, rank, until, origin });
        Ok(())
    }

    /// What was kept on disk. Its quotas count again, so that a file that was tampered with is no way around
    /// them.
    pub fn restore(&mut self, changes: Vec<Change>, now: u64, origin: impl Fn(&[Multiaddr]) -> Origin) {
        let noted = self.changes.take();
        let mut known: HashMap<PeerId, (Vec<Multiaddr>, u64)> = HashMap::new();
        for change in changes {
            match change {
                Change::Provider { peer, addrs, seen } => drop(known.insert(peer, (addrs, seen))),
                Change::Record { key, peer, until: Some(until) } if until > now => {
                    let Some((addrs, seen)) = known.get(&peer) else { continue };
                    let (addrs, seen, groups) = (addrs.clone(), (*seen).min(now), origin(addrs));
                    let key = RecordKey::from(key);
                    if self.add_foreign(key.clone(), peer, addrs, groups, now).is_ok() {
                        let records = self.foreign.get_mut(&key).into_iter().flatten();
                        records.filter(|(p, _)| *p == peer).for_each(|r| r.1 = until.min(now + RECORD_TTL));
                        self.providers.entry(peer).and_modify(|p| p.seen = seen);
                    }
                }
                Change::Value { key, value: Some((bytes, until)) } if until > now => {
                    let _ = self.put_foreign(RecordKey::from(key), bytes, Vec::new(), now); // or it is dropped
                }
                _ => {}
            }
        }
        self.changes = noted;
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = vec::IntoIter<Cow<'a, Record>>;
    type ProvidedIter<'a> = vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        let value = self.values.get(key)?;
        let left = value.until.checked_sub(unix_now())?;
        let expires = Some(Instant::now() + Duration::from_secs(left));
        Some(Cow::Owned(Record { key: key.clone(), value: value.bytes.clone(), publisher: None, expires }))
    }

    fn put(&mut self, record: Record) -> Result<(), Error> {
        self.put_foreign(record.key, record.value, Vec::new(), unix_now())
    }

    fn remove(&mut self, key: &RecordKey) {
        if self.values.remove(key).is_some() {
            self.changed(Change::Value { key: key.to_vec(), value: None });
        }
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        Vec::new().into_iter()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<(), Error> {
        if record.provider == self.local {
            self.own.insert(record.key);
            return Ok(());
        }
        self.add_foreign(record.key, record.provider, record.addresses, Vec::new(), unix_now())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let now = unix_now();
        let record = |peer: PeerId, addresses| ProviderRecord {
            key: key.clone(),
            provider: peer,
            expires: None,
            addresses,
        };
        let own = self.own.contains(key).then(|| record(self.local, Vec::new()));
        let foreign = self.foreign.get(key).into_iter().flatten().filter(|(_, until)| *until > now);
        let foreign = foreign.map(|(peer, _)| {
            let known = self.providers.get(peer).filter(|p| p.seen + ADDRS_TTL > now);
            record(*peer, known.map(|p| p.addrs.clone()).unwrap_or_default())
        });
        own.into_iter().chain(foreign).collect()
    }

    /// None: the sweep says when what is told, not libp2p-kad's jobs.
    fn provided(&self) -> Self::ProvidedIter<'_> {
        Vec::new().into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        if *peer == self.local {
            self.own.remove(key);
        } else {
            self.drop_record(key, peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;
    use crate::dht::group_of_v4;
    use crate::wire::ipns::testing::record as ipns;

    const NOW: u64 = 1_800_000_000;

    fn key(n: u32) -> RecordKey {
        RecordKey::new(&n.to_be_bytes())
    }

    fn addr(n: u8) -> Vec<Multiaddr> {
        vec![format!("/ip4/6.6.6.{n}/tcp/1").parse().unwrap()]
    }

    fn from(a: u8, b: u8) -> Origin {
        vec![group_of_v4([a, b, 0, 0])]
    }

    #[test]
    fn a_flood_of_a_hundred_thousand_stays_in_its_quota_and_leaves_our_own_alone() {
        let (local, flooder) = (PeerId::random(), PeerId::random());
        let quota = 1_000;
        let mut s = Records::new(local, quota, true);
        for n in 0..100 {
            s.add_provider(ProviderRecord::new(key(n), local, Vec::<Multiaddr>::new())).unwrap();
        }
        let (good, good_key) = (PeerId::random(), key(7_777_777));
        s.add_foreign(good_key.clone(), good, addr(1), from(9, 9), NOW).unwrap();
        // One peer; then many peers of one network.
        for n in 0..100_000 {
            let _ = s.add_foreign(key(n), flooder, addr(2), from(6, 6), NOW);
        }
        assert_eq!(s.count, 1 + quota / PROVIDER_SHARE);
        let peers: Vec<PeerId> = (0..1_000).map(|_| PeerId::random()).collect();
        for n in 0..100_000 {
            let _ = s.add_foreign(key(n), peers[n as usize % 1_000], addr(3), from(6, 6), NOW);
        }
        assert_eq!(s.count, 1 + quota / GROUP_SHARE);
        // Many networks fill what is left and no more.
        for n in 0..100_000u32 {
            let origin = from((n >> 8) as u8, n as u8);
            let _ = s.add_foreign(key(n), peers[n as usize % 1_000], addr(4), origin, NOW);
        }
        assert_eq!(s.count, quota);
        assert!(s.providers.len() <= quota && s.groups.len() <= quota);
        assert!(s.changes.as_ref().unwrap().len() <= MAX_CHANGES);
        assert_eq!(s.own.len(), 100);
        assert_eq!(s.providers(&key(0)).iter().filter(|r| r.provider == local).count(), 1);
        assert!(s.foreign[&good_key].iter().any(|(p, _)| *p == good));
        // All of it goes in time, and the books are straight.
        s.sweep(NOW + RECORD_TTL);
        assert_eq!((s.count, s.foreign.len(), s.providers.len(), s.groups.len()), (0, 0, 0, 0));
        assert_eq!(s.own.len(), 100);
    }

    #[test]
    fn a_flood_of_values_stays_in_its_quota() {
        let mut s = Records::new(PeerId::random(), 10, true);
        let pair = Keypair::generate_ed25519();
        let name =
            |p: &Keypair| RecordKey::from([&b"/ipns/"[..], &p.public().to_peer_id().to_bytes()].concat());
        for n in 0..100_000u32 {
            let _ = s.put_foreign(key(n), vec![0; 100], from(6, 6), NOW);
        }
        assert_eq!(s.values.len(), 0);
        for _ in 0..2 * MAX_VALUES_OF_GROUP {
            let pair = Keypair::generate_ed25519();
            let value = ipns(b"/ipfs/x", "2038-01-19T03:14:08Z", 1, b"", |b| pair.sign(b).unwrap());
            let _ = s.put_foreign(name(&pair), value, from(6, 6), NOW);
        }
        assert_eq!(s.values.len(), MAX_VALUES_OF_GROUP);
        // The best of one name stays.
        let signed = |n| ipns(b"/ipfs/x", "2038-01-19T03:14:08Z", n, b"", |b| pair.sign(b).unwrap());
        for n in [5, 3, 7, 6] {
            s.put_foreign(name(&pair), signed(n), from(7, 7), NOW).unwrap();
        }
        assert_eq!(s.get(&name(&pair)).unwrap().value, signed(7));
    }

    #[test]
    fn a_key_has_at_most_k_providers_and_the_newest_stay() {
        let mut s = Records::new(PeerId::random(), 100, false);
        let peers: Vec<_> = (0..30).map(|_| PeerId::random()).collect();
        for (n, p) in (0..).zip(&peers) {
            s.add_foreign(key(1), *p, addr(1), Vec::new(), NOW + n).unwrap();
        }
        let kept: Vec<_> = s.foreign[&key(1)].iter().map(|(p, _)| *p).collect();
        assert_eq!(kept, peers[10..]);
        peers.iter().for_each(|p| s.remove_provider(&key(1), p));
        assert_eq!((s.count, s.foreign.len(), s.providers.len()), (0, 0, 0));
    }

    #[test]
    fn what_was_kept_is_there_again_and_addresses_age_sooner_than_records() {
        let now = unix_now();
        let (local, peer) = (PeerId::random(), PeerId::random());
        let mut s = Records::new(local, 100, true);
        s.add_foreign(key(1), peer, addr(1), from(6, 6), now - 100).unwrap();
        s.add_foreign(key(2), peer, addr(1), from(6, 6), now - 100).unwrap();
        s.remove_provider(&key(2), &peer);
        let changes = s.take_changes();
        let mut kept: Vec<Change> = changes;
        kept.retain(|c| !matches!(c, Change::Record { key: k, .. } if *k == key(2).to_vec()));
        let mut again = Records::new(local, 100, true);
        again.restore(kept.clone(), now, |_| Vec::new());
        assert_eq!(again.providers(&key(1))[0].addresses, addr(1));
        assert!(again.take_changes().is_empty());
        let mut late = Records::new(local, 100, true);
        for c in &mut kept {
            if let Change::Provider { seen, .. } = c {
                *seen = now - ADDRS_TTL;
            }
        }
        late.restore(kept.clone(), now, |_| Vec::new());
        assert!(late.providers(&key(1))[0].addresses.is_empty());
        let mut expired = Records::new(local, 100, true);
        expired.restore(kept, now + RECORD_TTL, |_| Vec::new());
        assert_eq!(expired.count, 0);
    }
}
