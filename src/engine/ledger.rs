//! What is remembered of peers: bytes given and taken, faults, bans; and how rates are measured.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Fault;
use crate::units::{PeerKey, Time};

/// Faults until a ban; a wrong hash bans at once.
pub const STRIKES: u8 = 3;
/// One strike is forgiven after this long without another.
const FORGIVE: Duration = Duration::from_secs(3_600);

/// One peer's account. Bytes are of chunks only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Bytes sent to it.
    pub given: u64,
    /// Bytes that it sent and that had the right hash or are still being verified.
    pub taken: u64,
    /// Faults that are not yet forgiven.
    pub strikes: u8,
    pub banned: bool,
    /// The last fault.
    pub fault_at: Time,
    /// When something was last entered.
    pub seen: Time,
}

/// The accounts of all peers that were ever met, the oldest forgotten beyond a cap (bans last).
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<PeerKey, Account>,
    cap: usize,
}

impl Ledger {
    pub fn new(cap: usize) -> Ledger {
        Ledger { accounts: BTreeMap::new(), cap: cap.max(16) }
    }

    pub fn get(&self, peer: PeerKey) -> Option<&Account> {
        self.accounts.get(&peer)
    }

    pub fn is_banned(&self, peer: PeerKey) -> bool {
        self.accounts.get(&peer).is_some_and(|a| a.banned)
    }

    /// How many faults it may still make; 0 means banned.
    pub fn trust(&self, peer: PeerKey) -> u8 {
        self.accounts
            .get(&peer)
            .map_or(STRIKES, |a| if a.banned { 0 } else { STRIKES - a.strikes.min(STRIKES) })
    }

    pub fn gave(&mut self, now: Time, peer: PeerKey, bytes: u64) {
        let a = self.entry(now, peer);
        a.given = a.given.saturating_add(bytes);
    }

    pub fn took(&mut self, now: Time, peer: PeerKey, bytes: u64) {
        let a = self.entry(now, peer);
        a.taken = a.taken.saturating_add(bytes);
    }

    /// Enters a fault; true if the peer is banned by it.
    pub fn fault(&mut self, now: Time, peer: PeerKey, fault: Fault) -> bool {
        let a = self.entry(now, peer);
        let forgiven = now.since(a.fault_at).as_secs() / FORGIVE.as_secs();
        a.strikes = a.strikes.saturating_sub(u8::try_from(forgiven).unwrap_or(u8::MAX)) + 1;
        a.fault_at = now;
        a.banned = fault == Fault::BadBytes || a.strikes >= STRIKES;
        a.banned
    }

    /// Takes a ban back (the user's wish).
    pub fn pardon(&mut self, peer: PeerKey) {
        if let Some(a) = self.accounts.get_mut(&peer) {
            (a.banned, a.strikes) = (false, 0);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerKey, &Account)> {
        self.accounts.iter().map(|(k, a)| (*k, a))
    }

    /// Puts kept accounts back; those that are there already stay.
    pub fn restore(&mut self, accounts: impl IntoIterator<Item = (PeerKey, Account)>) {
        for (k, mut a) in accounts.into_iter().take(self.cap) {
            a.strikes = a.strikes.min(STRIKES);
            self.accounts.entry(k).or_insert(a);
        }
    }

    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    fn entry(&mut self, now: Time, peer: PeerKey) -> &mut Account {
        if self.accounts.len() >= self.cap && !self.accounts.contains_key(&peer) {
            self.forget();
        }
        let a = self.accounts.entry(peer).or_default();
        a.seen = now;
        a
    }

    /// Drops an eighth: first those without a ban, the longest unseen first.
    fn forget(&mut self) {
        let mut old: Vec<_> = self.accounts.iter().map(|(k, a)| (a.banned, a.seen, *k)).collect();
        old.sort_unstable();
        for (_, _, k) in &old[..(old.len() / 8).max(1)] {
            self.accounts.remove(k);
        }
    }
}

/// Bytes over a sliding window of eight slots of `SLOT` nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Meter<const SLOT: u64> {
    slots: [u32; 8],
    /// The slot that was last written, counted from time zero.
    last: u64,
    /// When bytes began to flow after a pause longer than the window.
    since: Time,
}

/// Two seconds: long enough to smooth whole chunks on links of a few chunks a second.
pub type Rate = Meter<250_000_000>;

impl<const SLOT: u64> Meter<SLOT> {
    pub fn add(&mut self, now: Time, bytes: u64) {
        // A clock that went back counts into the newest slot.
        let slot = (now.0 / SLOT).max(self.last);
        if slot > self.last || self.slots == [0; 8] {
            if self.sum(now) == 0 {
                (self.slots, self.since) = ([0; 8], now);
            }
            for s in self.last + 1..=slot.min(self.last + 8) {
                self.slots[(s % 8) as usize] = 0;
            }
            self.last = slot;
        }
        let s = &mut self.slots[(slot % 8) as usize];
        *s = s.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Bytes within the window that ends now.
    pub fn sum(&self, now: Time) -> u64 {
        let slot = now.0 / SLOT;
        let first = slot.saturating_sub(7).max(self.last.saturating_sub(7));
        (first..=self.last).map(|s| u64::from(self.slots[(s % 8) as usize])).sum()
    }

    /// Bytes a second. Right after the start it is what came since then, over half a slot at least.
    pub fn per_second(&self, now: Time) -> u64 {
        let window = 7 * SLOT + now.0 % SLOT;
        let span = now.0.saturating_sub(self.since.0).clamp(SLOT / 2, window);
        // At most 2^35 bytes: no overflow, and no division of 128 bits.
        self.sum(now) * 1_000_000 / (span / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_hash_bans_at_once_and_other_faults_the_third_time() {
        let mut l = Ledger::new(100);
        let (a, b) = (PeerKey(1), PeerKey(2));
        assert!(l.fault(Time(1), a, Fault::BadBytes) && l.is_banned(a) && l.trust(a) == 0);
        assert!(!l.fault(Time(1), b, Fault::Unasked) && !l.fault(Time(2), b, Fault::Flood));
        assert_eq!(l.trust(b), 1);
        assert!(l.fault(Time(3), b, Fault::Malformed));
        l.pardon(b);
        assert_eq!(l.trust(b), STRIKES);
    }

    #[test]
    fn old_faults_are_forgiven_one_an_hour() {
        let mut l = Ledger::new(100);
        let day = |n: u64| Time(0) + Duration::from_secs(n * 86_400);
        assert!((1..50).all(|n| !l.fault(day(n), PeerKey(1), Fault::Unasked)));
    }

    #[test]
    fn the_ledger_stays_under_its_cap_and_forgets_bans_last() {
        let mut l = Ledger::new(64);
        l.fault(Time(0), PeerKey(1_000_000), Fault::BadBytes);
        for n in 0..10_000 {
            l.gave(Time(n), PeerKey(n), 1);
            assert!(l.len() <= 64);
        }
        assert!(l.is_banned(PeerKey(1_000_000)));
        let kept: Vec<_> = l.iter().map(|(k, a)| (k, a.clone())).collect();
        let mut again = Ledger::new(64);
        again.restore(kept);
        assert_eq!(again.len(), l.len());
    }

    #[test]
    fn a_rate_is_right_from_start_to_silence() {
        let mut m = Rate::default();
        let ms = |n: u64| Time(n * 1_000_000 + 77);
        for n in 0..100 {
            m.add(ms(n * 100), 100_000);
        }
        let r = m.per_second(ms(9_900)) as f64;
        assert!((r / 1e6 - 1.0).abs() < 0.1, "{r}");
        assert_eq!(m.per_second(ms(13_000)), 0);
        m.add(ms(20_000), 50_000);
        m.add(ms(20_100), 50_000);
        assert!(m.per_second(ms(20_200)) >= 400_000);
    }
}
