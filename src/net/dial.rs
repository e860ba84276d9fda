//! Dialling what the node asks for, and saying why it failed.

use std::collections::BTreeMap;
use std::error::Error;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, Swarm};
use libp2p::{Multiaddr, PeerId};

use super::api::Event;
use super::behaviour::Net;
use super::swarm::split_peer;
use super::task::{MAX_ADDRS, Task};

pub fn is_quic(addr: &Multiaddr) -> bool {
    addr.iter().any(|p| matches!(p, Protocol::Udp(_)))
}

/// An error with its causes, on one line.
pub fn reason(e: &dyn Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let more = c.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = c.source();
    }
    text.replace('\n', " ")
}

/// Dials without telling the node how it went.
pub fn quietly(swarm: &mut Swarm<Net>, peer: PeerId, addrs: Vec<Multiaddr>) {
    if let Err(e) = swarm.dial(options(peer, addrs)) {
        tracing::debug!("dialling {peer}: {e}");
    }
}

/// TCP addresses come first: they are tried first, and get a head start (`transport::first`).
pub fn options(peer: PeerId, mut addrs: Vec<Multiaddr>) -> DialOpts {
    addrs.sort_by_key(is_quic);
    addrs.dedup();
    addrs.truncate(MAX_ADDRS);
    DialOpts::peer_id(peer)
        .condition(PeerCondition::DisconnectedAndNotDialing)
        .addresses(addrs)
        .extend_addresses_through_behaviour()
        .allocate_new_port()
        .build()
}

impl Task {
    /// Addresses may end in /p2p/ID; those of other peers than `peer` are left out.
    pub(super) fn dial(&mut self, peer: Option<PeerId>, addrs: Vec<Multiaddr>) {
        let mut groups: BTreeMap<Option<PeerId>, Vec<Multiaddr>> = BTreeMap::new();
        if peer.is_some() {
            groups.insert(peer, Vec::new());
        }
        for addr in addrs {
            let (bare, id) = split_peer(&addr);
            if peer.is_some() && id.is_some() && id != peer {
                continue;
            }
            groups.entry(id.or(peer)).or_default().push(bare);
        }
        for (peer, addrs) in groups {
            match peer {
                Some(peer) => self.dial_peer(peer, addrs, true),
                None => addrs.into_iter().for_each(|a| self.dial_unknown(a)),
            }
        }
    }

    fn dial_unknown(&mut self, addr: Multiaddr) {
        let opts = DialOpts::unknown_peer_id().address(addr).allocate_new_port().build();
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => drop(self.dials.insert(id)),
            Err(e) => self.tell(Event::DialFailed { peer: None, error: reason(&e) }),
        }
    }

    /// `look_up`: where no address is known, ask the DHTs.
    pub(super) fn dial_peer(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, look_up: bool) {
        let opts = options(peer, addrs);
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => drop(self.dials.insert(id)),
            // It is connected, or will be: the node hears of that.
            Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(DialError::NoAddresses) if look_up && self.look_up(peer) => {}
            Err(e) => self.tell(Event::DialFailed { peer: Some(peer), error: reason(&e) }),
        }
    }

    pub(super) fn dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        if self.dials.remove(&id) {
            self.tell(Event::DialFailed { peer, error: transport_reason(error) });
        }
    }
}

/// One line for each address that was tried would be too much: the first says enough.
fn transport_reason(error: &DialError) -> String {
    match error {
        DialError::Transport(tried) => match tried.first() {
            Some((addr, e)) if tried.len() == 1 => format!("{addr}: {}", reason(e)),
            Some((addr, e)) => format!("{addr}: {} (and {} more addresses)", reason(e), tried.len() - 1),
            None => "no address could be dialled".into(),
        },
        e => reason(e),
    }
}
