//! So many inbound connections from one IP address and no more, whatever peer IDs they bring.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

#[derive(Debug, thiserror::Error)]
#[error("too many connections from {0}")]
pub struct TooMany(IpAddr);

/// Counts from the first packet to the end of the connection. This machine is not limited.
#[derive(Debug)]
pub struct Behaviour {
    max: u32,
    of: HashMap<ConnectionId, IpAddr>,
    counts: HashMap<IpAddr, u32>,
}

impl Behaviour {
    pub fn new(max: u32) -> Behaviour {
        Behaviour { max, of: HashMap::new(), counts: HashMap::new() }
    }

    fn gone(&mut self, id: ConnectionId) {
        let Some(ip) = self.of.remove(&id) else { return };
        if let Some(n) = self.counts.get_mut(&ip) {
            *n -= 1;
            if *n == 0 {
                self.counts.remove(&ip);
            }
        }
    }
}

/// The address that is counted: of IPv6 the /64, which one customer has whole.
fn group(addr: &Multiaddr) -> Option<IpAddr> {
    let ip = match addr.iter().next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => match ip.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None if ip.is_loopback() => return None,
            None => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        },
        _ => return None,
    };
    (!ip.is_loopback()).then_some(ip)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(ip) = group(remote) else { return Ok(()) };
        let n = self.counts.entry(ip).or_default();
        if *n >= self.max {
            return Err(ConnectionDenied::new(TooMany(ip)));
        }
        *n += 1;
        self.of.insert(id, ip);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(e) => self.gone(e.connection_id),
            FromSwarm::ListenFailure(e) => self.gone(e.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, e: THandlerOutEvent<Self>) {
        match e {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place() {
        let mut b = Behaviour::new(2);
        let local: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let mut next = 0;
        let mut from = |b: &mut Behaviour, a: &str| {
            next += 1;
            let id = ConnectionId::new_unchecked(next);
            b.handle_pending_inbound_connection(id, &local, &a.parse().unwrap()).map(|()| id)
        };
        let first = from(&mut b, "/ip4/1.2.3.4/tcp/1").unwrap();
        assert!(from(&mut b, "/ip4/1.2.3.4/tcp/2").is_ok());
        assert!(from(&mut b, "/ip4/1.2.3.4/tcp/3").is_err());
        assert!(from(&mut b, "/ip4/1.2.3.5/tcp/1").is_ok());
        b.gone(first);
        assert!(from(&mut b, "/ip4/1.2.3.4/tcp/4").is_ok());
        for n in 0..2 {
            assert!(from(&mut b, &format!("/ip6/2a00:1::{n}/tcp/1")).is_ok());
        }
        assert!(from(&mut b, "/ip6/2a00:1::ffff/tcp/1").is_err());
        for _ in 0..9 {
            assert!(from(&mut b, "/ip4/127.0.0.1/tcp/1").is_ok());
        }
    }
}
