//! Dialling servers that can test us, as long as AutoNAT has found no address of ours reachable.
//!
//! AutoNAT asks those that we have dialled, each address once. A newcomer has dialled few; if the one that it asked was
//! busy, or wrong, and it has nothing to do with others, it would stay a client of the public DHT. So while there is an
//! address that may be public and none that was found to be, some servers of the public DHT are dialled, at intervals
//! that double.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};

use super::dht::Network;
use super::task::Task;

const FIRST: Duration = Duration::from_secs(10);
const LAST: Duration = Duration::from_secs(1_800);
/// Servers dialled at a time.
const SERVERS: usize = 4;

#[derive(Debug, Default)]
pub struct Seek {
    at: Option<Instant>,
    wait: Duration,
}

impl Seek {
    /// There may be something to test.
    pub fn arm(&mut self, now: Instant) {
        if self.at.is_none() {
            self.wait = FIRST;
            self.at = Some(now + FIRST);
        }
    }

    pub fn wake(&self) -> Option<Instant> {
        self.at
    }

    /// Whether to dial now. `untested`: there is something to test, and nothing was found reachable; without that
    /// it rests until it is armed again.
    fn due(&mut self, now: Instant, untested: bool) -> bool {
        if self.at.is_none_or(|at| at > now) {
            return false;
        }
        self.wait = (self.wait * 2).min(LAST);
        self.at = untested.then(|| now + self.wait);
        untested
    }
}

impl Task {
    pub(super) fn seek_due(&mut self, now: Instant) {
        let mut reach = self.swarm.behaviour_mut().reach.as_mut();
        if !self.seek.due(now, reach.as_ref().is_some_and(|r| r.is_untested())) {
            return;
        }
        if let Some(reach) = &mut reach {
            reach.renew();
        }
        // Those closest to nothing in particular. A connection that is there already is of no use: it was asked.
        let mut servers = self.seeds(Network::Wan, &PeerId::random().to_bytes());
        servers.sort_by_key(|(server, _)| self.swarm.is_connected(&server.peer));
        for (server, addrs) in servers.into_iter().take(SERVERS) {
            let opts = DialOpts::peer_id(server.peer).condition(PeerCondition::NotDialing).addresses(addrs);
            if let Err(e) = self.swarm.dial(opts.allocate_new_port().build()) {
                tracing::debug!("dialling {} to be tested: {e}", server.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_sought_in_growing_intervals_until_one_has_reached_us() {
        let (mut seek, t0) = (Seek::default(), Instant::now());
        assert!(!seek.due(t0, true) && seek.wake().is_none());
        seek.arm(t0);
        let mut at = Vec::new();
        for _ in 0..11 {
            let t = seek.wake().unwrap();
            seek.arm(t); // what is armed stays as it is
            assert!(!seek.due(t - FIRST / 2, true) && seek.due(t, true));
            at.push(t.duration_since(t0).as_secs());
        }
        assert_eq!(at, [10, 30, 70, 150, 310, 630, 1_270, 2_550, 4_350, 6_150, 7_950]);
        assert!(!seek.due(seek.wake().unwrap(), false) && seek.wake().is_none());
        seek.arm(t0);
        assert_eq!(seek.wake(), Some(t0 + FIRST));
    }
}
