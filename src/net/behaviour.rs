//! What the swarm is made of, and how each part is set.

use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::{self, BucketInserts, Caching, Mode, StoreInserts};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, StreamProtocol, identify, mdns, memory_connection_limits, ping};
use tokio::sync::mpsc;

use super::api::Inbound;
use super::dht::records::Records;
use super::pool::BufPool;
use super::scope::{Audience, Scoped};
use super::transport::Paced;
use super::{Limits, NetConfig, ask, bitswap, exchange, ip_limit, reach};

pub const WAN_KAD: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");
pub const LAN_KAD: StreamProtocol = StreamProtocol::new("/ipfs/lan/kad/1.0.0");

pub type Kad = Scoped<kad::Behaviour<Records>>;

/// The swarm's behaviour.
#[derive(NetworkBehaviour)]
pub struct Net {
    pub limits: connection_limits::Behaviour,
    pub per_ip: ip_limit::Behaviour,
    pub memory: Toggle<memory_connection_limits::Behaviour>,
    pub banned: allow_block_list::Behaviour<BlockedPeers>,
    pub ping: ping::Behaviour,
    pub identify: Scoped<identify::Behaviour>,
    pub mdns: Toggle<Scoped<mdns::tokio::Behaviour>>,
    pub wan: Toggle<Kad>,
    pub lan: Toggle<Kad>,
    pub exchange: Toggle<exchange::Behaviour>,
    pub bitswap: bitswap::Behaviour,
    pub ask: ask::Behaviour,
    pub reach: Toggle<reach::Client>,
    pub reach_server: Toggle<reach::Server>,
}

impl Net {
    /// `mdns` and `cfg.mdns` both must want mDNS: the first says whether it makes sense here.
    pub fn new(
        cfg: &NetConfig,
        mdns: bool,
        inbound: mpsc::Sender<Inbound>,
        pool: BufPool,
        paced: Paced,
    ) -> Net {
        let local = cfg.keypair.public().to_peer_id();
        let wan_mode = if cfg.external.is_empty() { Mode::Client } else { Mode::Server };
        let quota = cfg.limits.foreign_records;
        // What strangers on a local network have told is told again soon enough.
        let wan = Records::new(local, quota, cfg.state_dir.is_some());
        let lan = Records::new(local, quota, false);
        let kads = cfg.kad.then(|| {
            (
                Scoped::new(Audience::Wan, kad(WAN_KAD, wan_mode, wan)),
                Scoped::new(Audience::Lan, kad(LAN_KAD, Mode::Server, lan)),
            )
        });
        let (wan, lan) = kads.unzip();
        Net {
            limits: connection_limits::Behaviour::new(limits(&cfg.limits)),
            per_ip: ip_limit::Behaviour::new(cfg.limits.inbound_per_ip),
            memory: cfg.limits.memory.map(memory_connection_limits::Behaviour::with_max_bytes).into(),
            banned: allow_block_list::Behaviour::default(),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(cfg.limits.ping).with_timeout(cfg.limits.ping),
            ),
            identify: Scoped::new(Audience::All, identify(&cfg.keypair)),
            mdns: (mdns && cfg.mdns).then(|| new_mdns(local)).flatten().into(),
            wan: wan.into(),
            lan: lan.into(),
            exchange: cfg
                .exchange
                .then(|| exchange::Behaviour::new(inbound.clone(), pool.clone(), paced))
                .into(),
            bitswap: bitswap::Behaviour::new(inbound, pool),
            ask: ask::Behaviour::default(),
            reach: cfg.kad.then(reach::Client::new).into(),
            reach_server: cfg.kad.then(reach::Server::new).into(),
        }
    }
}

fn limits(l: &Limits) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_established(Some(l.connections))
        // Some room is always left for connections that we want.
        .with_max_established_incoming(Some(l.connections - l.connections / 4))
        .with_max_established_per_peer(Some(l.connections_per_peer))
        .with_max_pending_incoming(Some(l.pending_inbound))
        .with_max_pending_outgoing(Some(l.pending_outbound))
}

fn identify(key: &Keypair) -> identify::Behaviour {
    identify::Behaviour::new(
        // Without the signed record that the crate could send: it signs for a domain of its own, for which
        // js-libp2p takes none of the message, and so never learns what we speak (RFC 0003 names another).
        identify::Config::new("ipfs/0.1.0".into(), key.public())
            .with_agent_version(concat!("dunlin/", env!("CARGO_PKG_VERSION")).into())
            .with_push_listen_addr_updates(true)
            // What peers say of their addresses is not dialled behind the scopes' back.
            .with_cache_size(0),
    )
}

fn new_mdns(local: PeerId) -> Option<Scoped<mdns::tokio::Behaviour>> {
    match mdns::tokio::Behaviour::new(mdns::Config::default(), local) {
        Ok(m) => Some(Scoped::new(Audience::All, m)),
        Err(why) => {
            tracing::warn!("peers on the local network will not be found: {why}");
            None
        }
    }
}

fn kad(protocol: StreamProtocol, mode: Mode, records: Records) -> kad::Behaviour<Records> {
    let mut c = kad::Config::new(protocol);
    c.set_max_packet_size(64 << 10) // real answers reach 43 KB, the default is 16
        .set_parallelism(NonZeroUsize::new(10).expect("10 is not 0"))
        .set_query_timeout(Duration::from_secs(60))
        .set_substreams_timeout(Duration::from_secs(10))
        // What goes into the table and the store is filtered by scope and quota, in the task.
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_record_filtering(StoreInserts::FilterBoth)
        // Its own republishing walks once for each key; `providers` says when.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_caching(Caching::Disabled);
    let mut kad = kad::Behaviour::with_config(records.local(), records, c);
    kad.set_mode(Some(mode));
    kad
}
