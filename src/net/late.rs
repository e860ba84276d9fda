//! A kubo that starts listens before its Bitswap does, and its Bitswap hears of new connections only: with whoever was
//! connected by then it never speaks, however long it stays connected, although its DHT does. Such a peer is met again.
//!
//! It shows by its identify. Either the first one does not name Bitswap and a later one does, or, when it answered
//! late, the first one names it already and more are pushed at once, as what it speaks still grows. Where it shows by
//! nothing at all (libp2p drops what is pushed before the answer), only meeting it again anyway helps: on a local
//! network, where a node is likely to be found just when it starts, and a connection costs next to nothing. A
//! connection more is enough; the first one stays, since its streams are in use.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use super::task::Task;

/// A peer that tells again so soon after it first told is one that starts.
const STARTS: Duration = Duration::from_secs(10);
/// Between its naming Bitswap and its looking for new connections little happens, but a busy machine makes it long.
const WAIT: Duration = Duration::from_secs(1);

/// What a connected peer has told of Bitswap.
#[derive(Debug, Default)]
pub struct Told {
    first: Option<Instant>,
    /// A time when it did not speak it.
    lacked: bool,
    met_again: bool,
}

impl Told {
    /// It has told, over one of `connections` that there are with it; whether it is to be met again, which is said
    /// once. `near`: it is on a local network.
    pub fn is_late(&mut self, speaks: bool, near: bool, connections: usize, now: Instant) -> bool {
        // Each new connection makes it tell once more.
        let again = connections == 1 && self.first.is_some_and(|first| now < first + STARTS);
        self.first.get_or_insert(now);
        let late = speaks && (self.lacked || near || again) && !self.met_again;
        self.lacked |= !speaks;
        self.met_again |= late;
        late
    }
}

/// Who is to be met again, and when: each connected peer once at most.
#[derive(Debug, Default)]
pub struct Late(VecDeque<(Instant, PeerId, Vec<Multiaddr>)>);

impl Late {
    pub fn wake(&self) -> Option<Instant> {
        self.0.front().map(|(at, ..)| *at)
    }
}

/// Where it may be dialled again: at the machine that it is connected from, so that it cannot have us dial others.
fn at_the_same_machine(told: &[Multiaddr], seen_at: &Multiaddr) -> Vec<Multiaddr> {
    let Some(seen @ (Protocol::Ip4(_) | Protocol::Ip6(_))) = seen_at.iter().next() else { return Vec::new() };
    told.iter().filter(|a| a.iter().next().as_ref() == Some(&seen)).cloned().collect()
}

impl Task {
    /// One more connection with a connected peer, soon.
    pub(super) fn will_meet_again(&mut self, peer: PeerId, told: &[Multiaddr], seen_at: &Multiaddr) {
        let addrs = at_the_same_machine(told, seen_at);
        if !addrs.is_empty() {
            self.late.0.push_back((Instant::now() + WAIT, peer, addrs));
        }
    }

    /// Makes the connections that are due.
    pub(super) fn meet_again(&mut self, now: Instant) {
        while self.late.wake().is_some_and(|at| at <= now)
            && let Some((_, peer, addrs)) = self.late.0.pop_front()
        {
            if !self.swarm.is_connected(&peer) {
                continue;
            }
            let again = DialOpts::peer_id(peer)
                .condition(PeerCondition::NotDialing)
                .addresses(addrs)
                .allocate_new_port();
            if let Err(e) = self.swarm.dial(again.build()) {
                tracing::debug!("meeting {peer} again, which took up Bitswap: {e}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(a: &str) -> Multiaddr {
        a.parse().unwrap()
    }

    /// At these seconds it tells whether it speaks Bitswap; which of them have it met again.
    fn late(told: &[(u64, bool)], near: bool, connections: usize) -> Vec<bool> {
        let (mut it, start) = (Told::default(), Instant::now());
        let mut tell = |(at, speaks): &(u64, bool)| {
            it.is_late(*speaks, near, connections, start + Duration::from_secs(*at))
        };
        told.iter().map(&mut tell).collect()
    }

    #[test]
    fn one_that_lacked_bitswap_is_met_again_once() {
        assert_eq!(late(&[(0, false), (0, false), (0, true)], false, 2), [false, false, true]);
        let told = [(0, false), (99, true), (100, false), (200, true)];
        assert_eq!(late(&told, false, 1), [false, true, false, false]);
    }

    #[test]
    fn one_whose_protocols_still_grow_when_it_first_names_bitswap_is_met_again_once() {
        assert_eq!(late(&[(0, true), (0, true), (1, true)], false, 1), [false, true, false]);
        // These are a change of address, and what it tells over another connection.
        assert_eq!(late(&[(0, true), (60, true)], false, 1), [false, false]);
        assert_eq!(late(&[(0, true), (0, true)], false, 2), [false, false]);
    }

    /// One get in fifty of a kubo that had just started waited without end, on a busy machine.
    #[test]
    fn one_on_the_local_network_is_met_again_once_whatever_it_told() {
        assert_eq!(late(&[(0, true), (0, true), (99, true)], true, 1), [true, false, false]);
        assert_eq!(late(&[(0, false), (99, true)], true, 2), [false, true]);
    }

    #[test]
    fn only_the_machine_that_it_is_connected_from_is_dialled() {
        let told = [
            addr("/ip4/1.2.3.4/tcp/1"),
            addr("/ip4/5.6.7.8/tcp/2"),
            addr("/dns4/example.org/tcp/3"),
            addr("/ip4/1.2.3.4/udp/4/quic-v1"),
        ];
        let again = at_the_same_machine(&told, &addr("/ip4/1.2.3.4/tcp/50000"));
        assert_eq!(again, [told[0].clone(), told[3].clone()]);
        assert!(at_the_same_machine(&told, &addr("/dns4/example.org/tcp/3")).is_empty());
    }
}
