//! A kubo that starts listens before its Bitswap does, and its Bitswap hears of new connections only: with whoever was
//! connected by then it never speaks, however long it stays connected, although its DHT does. Such a peer is met again.
//!
//! It shows by its identify, which names Bitswap only the second time. A connection more is enough; the first one stays,
//! since its streams are in use.

use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use super::task::Task;

/// Whether the peer speaks Bitswap now and did not when it first told what it speaks. `known` is what was known of
/// that: once it speaks Bitswap it is not forgotten, so a peer that changes its mind is met again once.
pub fn took_up(known: &mut Option<bool>, speaks: bool) -> bool {
    let before = *known;
    *known = Some(speaks || before == Some(true));
    before == Some(false) && speaks
}

/// Where it may be dialled again: at the machine that it is connected from, so that it cannot have us dial others.
fn at_the_same_machine(told: &[Multiaddr], seen_at: &Multiaddr) -> Vec<Multiaddr> {
    let Some(seen @ (Protocol::Ip4(_) | Protocol::Ip6(_))) = seen_at.iter().next() else { return Vec::new() };
    told.iter().filter(|a| a.iter().next().as_ref() == Some(&seen)).cloned().collect()
}

impl Task {
    /// Makes one more connection with a connected peer.
    pub(super) fn meet_again(&mut self, peer: PeerId, told: &[Multiaddr], seen_at: &Multiaddr) {
        let addrs = at_the_same_machine(told, seen_at);
        if addrs.is_empty() {
            return;
        }
        let again =
            DialOpts::peer_id(peer).condition(PeerCondition::NotDialing).addresses(addrs).allocate_new_port();
        if let Err(e) = self.swarm.dial(again.build()) {
            tracing::debug!("meeting {peer} again, which took up Bitswap: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(a: &str) -> Multiaddr {
        a.parse().unwrap()
    }

    #[test]
    fn bitswap_is_taken_up_only_by_one_that_lacked_it_and_once() {
        let told = |speaks: &[bool]| -> Vec<bool> {
            let mut known = None;
            speaks.iter().map(|s| took_up(&mut known, *s)).collect()
        };
        assert_eq!(told(&[true, true]), [false, false]);
        assert_eq!(told(&[false, false, true]), [false, false, true]);
        assert_eq!(told(&[false, true, false, true]), [false, true, false, false]);
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
