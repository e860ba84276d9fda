//! Asking servers for a record of ours as a stranger would.
//!
//! rust-libp2p's servers leave whoever asks out of the providers that they name, so under our own identity we never see
//! ourselves. A swarm with a key that is thrown away asks instead: it listens nowhere, says nothing of itself, and
//! dials nobody but those servers.

use std::time::Duration;

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::swarm::{self, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId};

use super::Network;
use crate::net::NetError;
use crate::net::ask::{self, Job};
use crate::net::transport::{self, Paced, Secured};
use crate::wire::kad::Request;

/// For all of it, and for a dial.
const PATIENCE: Duration = Duration::from_secs(25);
const DIAL: Duration = Duration::from_secs(10);
/// Who has not named us is asked again after this: the record may have been on its way.
const AGAIN: Duration = Duration::from_secs(1);

/// How many of these servers name `us` as a provider of `name`.
///
/// # Errors
/// There is no transport.
pub async fn holders(
    n: Network,
    name: Vec<u8>,
    us: PeerId,
    servers: Vec<(PeerId, Vec<Multiaddr>)>,
) -> Result<usize, NetError> {
    let key = Keypair::generate_ed25519();
    let transport = transport::build(&key, false, DIAL, &Secured::default(), &Paced::default())?;
    let config = swarm::Config::with_tokio_executor();
    let mut swarm = Swarm::new(transport, ask::Behaviour::default(), key.public().to_peer_id(), config);
    let job = Job::new(n.protocol(), [&Request::GetProviders(name)]);
    let all = servers.len();
    let mut left = servers;
    // What is not answered in time counts as not held.
    let _ = tokio::time::timeout(PATIENCE, async {
        ask_all(&mut swarm, &job, us, &mut left).await;
        if !left.is_empty() {
            tokio::time::sleep(AGAIN).await;
            ask_all(&mut swarm, &job, us, &mut left).await;
        }
    })
    .await;
    Ok(all - left.len())
}

/// Asks each, and takes out those that name `us`.
async fn ask_all(
    swarm: &mut Swarm<ask::Behaviour>,
    job: &Job,
    us: PeerId,
    left: &mut Vec<(PeerId, Vec<Multiaddr>)>,
) {
    for (server, addrs) in left.iter() {
        swarm.behaviour_mut().ask(*server, addrs, job.clone());
    }
    let us = us.to_bytes();
    let mut running = left.len();
    while running > 0 {
        let SwarmEvent::Behaviour(ask::Event { peer, result, .. }) = swarm.select_next_some().await else {
            continue;
        };
        running -= 1;
        if result.is_ok_and(|answer| answer.providers.iter().any(|p| p.id == us)) {
            left.retain(|(server, _)| *server != peer);
        }
    }
}
