//! How much what peers say of other peers may make us do.
//!
//! Whoever tells us of a peer may name a victim's address, ten thousand times and under as many names, signed or not: a
//! signature says who names an address, not whose it is. So dials are counted: by who caused them (unsigned ones
//! sooner than signed ones), by where they go, and in all. A dial that finds the peer it was meant for is given back, so an
//! honest swarm of any size meshes without meeting these bounds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::units::{PeerKey, Time};

/// So many at once, then one in each such time.
type Pace = (u32, Duration);

const SIGNED: Pace = (50, Duration::from_secs(1));
const UNSIGNED: Pace = (8, Duration::from_secs(10));
/// Records that one source is listened to for.
const RECORDS: Pace = (400, Duration::from_millis(500));
const ALL: Pace = (128, Duration::from_millis(250));
/// To one address of the internet or one IPv6 /64, whatever the port; to one port of this machine, or of a host beside us.
const FAR: Pace = (8, Duration::from_secs(15));
const NEAR: Pace = (2, Duration::from_secs(60));

const MAX_SOURCES: usize = 1_024;
const MAX_TARGETS: usize = 4_096;

/// A pace kept by one number: when everything that was let through would have been due.
#[derive(Clone, Copy, Debug, Default)]
struct Meter(Time);

impl Meter {
    fn may(self, now: Time, pace: Pace) -> bool {
        self.0.since(now) <= pace.1 * (pace.0 - 1)
    }

    fn take(&mut self, now: Time, pace: Pace) {
        self.0 = self.0.max(now) + pace.1;
    }

    fn give_back(&mut self, pace: Pace) {
        self.0 = self.0 - pace.1;
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    signed: Meter,
    unsigned: Meter,
    records: Meter,
}

impl Source {
    fn last(&self) -> Time {
        self.signed.0.max(self.unsigned.0).max(self.records.0)
    }
}

/// Where a dial goes, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Near(IpAddr, u16),
    Far(IpAddr),
}

impl Target {
    fn of(addr: &Multiaddr) -> Option<Target> {
        let mut parts = addr.iter();
        let ip = match parts.next()? {
            Protocol::Ip4(ip) => IpAddr::V4(ip),
            Protocol::Ip6(ip) => IpAddr::V6(ip),
            _ => return None,
        };
        let port = match parts.next()? {
            Protocol::Tcp(p) | Protocol::Udp(p) => p,
            _ => return None,
        };
        let far = crate::net::scope_of(addr)? == crate::net::Scope::Global;
        Some(match ip {
            IpAddr::V6(ip) if far => {
                let s = ip.segments();
                Target::Far(IpAddr::V6([s[0], s[1], s[2], s[3], 0, 0, 0, 0].into()))
            }
            ip if far => Target::Far(ip),
            ip => Target::Near(ip, port),
        })
    }

    fn pace(self) -> Pace {
        match self {
            Target::Near(..) => NEAR,
            Target::Far(_) => FAR,
        }
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Budget {
    sources: BTreeMap<PeerKey, Source>,
    targets: BTreeMap<Target, Meter>,
    all: Meter,
}

impl Budget {
    /// Whether a source is listened to for one more record.
    pub fn record(&mut self, now: Time, by: PeerKey) -> bool {
        let records = &mut self.source(now, by).records;
        let may = records.may(now, RECORDS);
        if may {
            records.take(now, RECORDS);
        }
        may
    }

    /// Of these addresses, those that may be dialled because `by` named them: none if that is too much by now. What is
    /// given is counted.
    pub fn dial(&mut self, now: Time, by: PeerKey, signed: bool, addrs: &[Multiaddr]) -> Vec<Multiaddr> {
        let pace = if signed { SIGNED } else { UNSIGNED };
        let source = self.source(now, by);
        let meter = if signed { source.signed } else { source.unsigned };
        if !meter.may(now, pace) || !self.all.may(now, ALL) {
            return Vec::new();
        }
        self.make_room(now);
        let mut taken: BTreeMap<Target, bool> = BTreeMap::new();
        let may: Vec<Multiaddr> = addrs
            .iter()
            .filter(|addr| {
                let Some(target) = Target::of(addr) else { return false };
                *taken.entry(target).or_insert_with(|| {
                    let room = self.targets.len() < MAX_TARGETS || self.targets.contains_key(&target);
                    let meter = self.targets.get(&target).copied().unwrap_or_default();
                    let may = room && meter.may(now, target.pace());
                    if may {
                        self.targets.entry(target).or_default().take(now, target.pace());
                    }
                    may
                })
            })
            .cloned()
            .collect();
        if !may.is_empty() {
            self.all.take(now, ALL);
            let source = self.source(now, by);
            let meter = if signed { &mut source.signed } else { &mut source.unsigned };
            meter.take(now, pace);
        }
        may
    }

    /// A dial found whom it was meant for.
    pub fn found(&mut self, by: PeerKey, signed: bool, addrs: &[Multiaddr]) {
        self.all.give_back(ALL);
        if let Some(source) = self.sources.get_mut(&by) {
            if signed { source.signed.give_back(SIGNED) } else { source.unsigned.give_back(UNSIGNED) }
        }
        let mut targets: Vec<Target> = addrs.iter().filter_map(Target::of).collect();
        targets.sort_unstable();
        targets.dedup();
        for target in targets {
            if let Some(meter) = self.targets.get_mut(&target) {
                meter.give_back(target.pace());
            }
        }
    }

    fn source(&mut self, now: Time, by: PeerKey) -> &mut Source {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&by) {
            self.sources.retain(|_, s| s.last() > now);
            if self.sources.len() >= MAX_SOURCES
                && let Some(least) = self.sources.iter().min_by_key(|(_, s)| s.last()).map(|(k, _)| *k)
            {
                self.sources.remove(&least);
            }
        }
        self.sources.entry(by).or_default()
    }

    fn make_room(&mut self, now: Time) {
        if self.targets.len() >= MAX_TARGETS {
            self.targets.retain(|_, m| m.0 > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Time {
        Time::ZERO + Duration::from_secs(1_000 + s)
    }

    fn addr(ip: &str, port: u16) -> Multiaddr {
        format!("/ip4/{ip}/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_victim_named_ten_thousand_times_is_dialled_a_few_times() {
        for (ip, most) in [("127.0.0.1", 2), ("10.1.2.3", 2), ("8.8.8.8", 8)] {
            let mut b = Budget::default();
            // Each time by another source, which is the most that an attacker can do.
            let dialled = (0..10_000).filter(|n| {
                let (by, signed) = (PeerKey(n / 10), n % 2 == 0);
                !b.dial(at(0), by, signed, &[addr(ip, 4201)]).is_empty()
            });
            assert_eq!(dialled.count(), most, "{ip}");
            assert!(b.sources.len() <= MAX_SOURCES);
            // And later no more than the pace allows.
            let later = (0..600).filter(|s| !b.dial(at(*s), PeerKey(0), true, &[addr(ip, 4201)]).is_empty());
            assert!(later.count() <= 45, "{ip}");
        }
    }

    #[test]
    fn one_source_causes_few_dials_wherever_they_go() {
        let mut b = Budget::default();
        let mut count = |signed, from: u16| {
            let n = (0..1_000).filter(|n| {
                let addr = addr(&format!("8.{}.{}.1", n / 250, n % 250), from);
                !b.dial(at(0), PeerKey(1), signed, &[addr]).is_empty()
            });
            n.count()
        };
        assert_eq!((count(false, 1), count(true, 2)), (8, 50));
        let all = (2..100).map(|by| {
            (0..50)
                .filter(|n| {
                    !b.dial(at(0), PeerKey(by), true, &[addr(&format!("9.{by}.{n}.1"), 1)]).is_empty()
                })
                .count()
        });
        assert_eq!(all.sum::<usize>(), 128 - 58);
        assert!(b.targets.len() <= MAX_TARGETS);
    }

    #[test]
    fn an_honest_swarm_meets_no_bound() {
        let mut b = Budget::default();
        for n in 0..5_000u16 {
            let addrs = [addr("127.0.0.1", 10_000 + n), addr("8.8.8.8", 10_000 + n)];
            let may = b.dial(at(0), PeerKey(1), n % 2 == 0, &addrs);
            assert_eq!(may, addrs, "{n}");
            b.found(PeerKey(1), n % 2 == 0, &may);
        }
        assert!((0..400).all(|_| b.record(at(0), PeerKey(1))) && !b.record(at(0), PeerKey(1)));
    }

    #[test]
    fn addresses_that_nobody_can_be_at_are_not_dialled() {
        let mut b = Budget::default();
        for bad in
            ["/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/tcp/1", "/dns4/victim.example/tcp/1", "/ip4/8.8.8.8"]
        {
            assert!(b.dial(at(0), PeerKey(1), true, &[bad.parse().unwrap()]).is_empty(), "{bad}");
        }
    }
}
