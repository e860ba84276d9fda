//! Who enters the routing tables, and what others know us by.

use std::collections::{HashMap, HashSet};

use libp2p::kad::Mode;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::{BOTH, Network, kad_of};
use crate::dht::{Group, Key, MAX_OF_A_GROUP};
use crate::net::scope::{Scope, addr_groups, scope_of};
use crate::net::task::Task;

/// Peers of one IP group in one bucket.
const MAX_IN_BUCKET: usize = 2;

/// The IP groups of the peers in a table, by the address that each was seen at.
#[derive(Debug, Default)]
pub struct Groups(HashMap<PeerId, Vec<Group>>);

impl Groups {
    /// Whether a peer may enter without its groups becoming too many.
    fn admit(&mut self, local: &Key, peer: PeerId, groups: Vec<Group>) -> bool {
        let bucket = |p: &PeerId| Key::of(&p.to_bytes()).common_bits(local);
        let ours = bucket(&peer);
        for group in &groups {
            let same = || self.0.iter().filter(|(p, g)| **p != peer && g.contains(group)).map(|(p, _)| p);
            let in_bucket = same().filter(|p| bucket(p) == ours).count();
            if same().count() >= MAX_OF_A_GROUP || in_bucket >= MAX_IN_BUCKET {
                return false;
            }
        }
        self.0.insert(peer, groups);
        true
    }
}

fn is_relayed(addr: &Multiaddr) -> bool {
    addr.iter().any(|p| p == Protocol::P2pCircuit)
}

impl Task {
    /// Our confirmed public addresses, relayed ones included, the same order each time.
    pub(super) fn public_addresses(&self) -> Vec<Multiaddr> {
        let all = self.swarm.external_addresses().filter(|a| scope_of(a) == Some(Scope::Global));
        let mut all: Vec<Multiaddr> = all.cloned().collect();
        all.sort_by_key(|a| (is_relayed(a), a.clone()));
        if all.iter().any(|a| !is_relayed(a)) {
            all.retain(|a| !is_relayed(a));
        }
        all
    }

    /// A server of the public DHT is who can be dialled; a relay's address makes nobody one.
    pub(in crate::net) fn reach_changed(&mut self) {
        let direct = self.public_addresses().iter().any(|a| !is_relayed(a));
        let mode = if direct { Mode::Server } else { Mode::Client };
        if let Some(wan) = self.kad(Network::Wan)
            && wan.inner.mode() != mode
        {
            tracing::info!("now a {mode} of the public DHT");
            wan.inner.set_mode(Some(mode));
        }
    }

    /// A peer serves these DHTs, or does not (`None`: that is not known, or it is no news). `remote`: where it
    /// was seen.
    pub(in crate::net) fn serves(
        &mut self,
        peer: PeerId,
        addrs: &[Multiaddr],
        remote: Option<&Multiaddr>,
        serves: impl Fn(Network) -> Option<bool>,
    ) {
        let local = Key::of(&self.swarm.local_peer_id().to_bytes());
        for n in BOTH {
            let Some(kad) = kad_of(self.swarm.behaviour_mut(), n) else { continue };
            match serves(n) {
                Some(true) => {}
                Some(false) => {
                    kad.inner.remove_peer(&peer);
                    continue;
                }
                None => continue,
            }
            let addrs: Vec<Multiaddr> = addrs.iter().filter(|a| kad.may_dial(a)).cloned().collect();
            if addrs.is_empty() {
                continue;
            }
            if n == Network::Wan {
                let inside: HashSet<PeerId> = kad
                    .inner
                    .kbuckets()
                    .flat_map(|b| b.iter().map(|e| *e.node.key.preimage()).collect::<Vec<_>>())
                    .collect();
                let groups = &mut self.dht.groups;
                groups.0.retain(|p, _| inside.contains(p));
                // What was seen counts: an address that is only claimed may be anybody's.
                let seen = remote.filter(|r| scope_of(r) == Some(Scope::Global) && !is_relayed(r));
                let of = seen.map_or_else(|| addr_groups(&addrs), |r| addr_groups(std::slice::from_ref(r)));
                if !groups.admit(&local, peer, of) {
                    tracing::debug!("{peer} stays out of the table: too many of its network are in it");
                    continue;
                }
            }
            for a in addrs {
                kad.inner.add_address(&peer, a);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::group_of_v4;

    #[test]
    fn one_network_gets_three_places_in_the_table_and_two_in_a_bucket() {
        let local = Key([0; 32]);
        let mut groups = Groups::default();
        let of = vec![group_of_v4([6, 6, 1, 1])];
        let mut by_bucket: HashMap<u32, usize> = HashMap::new();
        let mut inside = 0;
        for _ in 0..500 {
            let peer = PeerId::random();
            if groups.admit(&local, peer, of.clone()) {
                inside += 1;
                *by_bucket.entry(Key::of(&peer.to_bytes()).common_bits(&local)).or_default() += 1;
            }
        }
        assert_eq!(inside, MAX_OF_A_GROUP);
        assert!(by_bucket.values().all(|&n| n <= MAX_IN_BUCKET), "{by_bucket:?}");
        // Others are not kept out by it, and who is inside may come again.
        let other = PeerId::random();
        for _ in 0..2 {
            assert!(groups.admit(&local, other, vec![group_of_v4([7, 7, 1, 1])]));
        }
        assert!(groups.admit(&local, PeerId::random(), Vec::new()));
    }
}
