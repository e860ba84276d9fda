//! How a node comes up.

use std::sync::Arc;
use std::time::Instant;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::sync::mpsc;

use crate::engine::Config;
use crate::net::{self, NetConfig, NetError, identity};
use crate::store::{ContentInfo, FsStore, Options, Origin, Store};

use super::super::api::{Failure, Identity};
use super::super::clock::Clock;
use super::super::config::NodeConfig;
use super::super::driver::{Call, Driver, FetchCall, Known, Wiring};
use super::super::ledger::Book;
use super::super::limits::Limits;
use super::super::pausing::{self, Paused};
use super::{Inner, NodeHandle, Running, blocking, compared, failed};

/// Requests of the handles that wait for the driver.
const CALLS: usize = 64;
/// Events of the network task, and messages of all peers, that wait for the driver.
const EVENTS: usize = 256;
const INBOUND: usize = 256;

impl NodeHandle {
    /// Opens the store and, if the configuration has a network, starts it; returns once it listens.
    /// The caller holds the data directory's lock.
    ///
    /// # Errors
    /// One line: an address that cannot be listened on, a data directory that cannot be used.
    pub async fn start(cfg: NodeConfig) -> Result<NodeHandle, Failure> {
        let data_dir = cfg.data_dir.clone();
        let dir = data_dir.clone();
        // A new index and a new key have to reach the disk, and that takes as long as starting the network does: side by side.
        let store = tokio::spawn(blocking(move || {
            FsStore::open(&dir, Options::default()).map(Arc::new).map_err(failed)
        }));
        let store = async { store.await.unwrap_or_else(|e| Err(failed(e))) };
        let dir = data_dir.clone();
        let keypair = match blocking(move || identity::load_or_create(&dir).map_err(failed)).await {
            Ok(keypair) => keypair,
            Err(e) => {
                let _ = store.await;
                return Err(e);
            }
        };
        let agent = format!("dunlin/{}", env!("CARGO_PKG_VERSION"));
        let peer_id = keypair.public().to_peer_id();
        if !cfg.network {
            let store = store.await?;
            let identity = Identity { peer_id: peer_id.to_string(), listen: Vec::new(), agent };
            let (limits, _, paused) = remembered(&store, &cfg).await?;
            let inner = Inner {
                store,
                running: None,
                limits: limits.into(),
                paused: paused.into(),
                identity,
                data_dir,
                started: Instant::now(),
            };
            return Ok(NodeHandle { inner: Arc::new(inner) });
        }
        let (events_tx, events) = mpsc::channel(EVENTS);
        let (inbound_tx, inbound) = mpsc::channel(INBOUND);
        let mut net_config = NetConfig::new(keypair.clone(), cfg.listen.clone());
        net_config.bootstrap = cfg.bootstrap.clone();
        net_config.mdns = cfg.mdns;
        net_config.exchange = cfg.exchange;
        net_config.external = cfg.external.clone();
        net_config.state_dir = Some(data_dir.clone());
        net_config.limits.connections = cfg.max_connections;
        let net = match net::start(net_config.clone(), events_tx.clone(), inbound_tx.clone()).await {
            Err(NetError::Listen { addr, why }) if cfg.any_port => {
                tracing::info!("{addr}: {why}; taking any port");
                net_config.listen = net_config.listen.into_iter().map(any_port).collect();
                net::start(net_config, events_tx, inbound_tx).await
            }
            started => started,
        };
        // Also where that failed: whoever tries again is not to find the index open.
        let store = store.await;
        let (net, store) = (net.map_err(failed)?, store?);
        let listen = net.listen.iter().map(|a| a.clone().with(Protocol::P2p(peer_id)).to_string()).collect();
        let (limits, book, paused) = remembered(&store, &cfg).await?;
        let (calls, calls_rx) = mpsc::channel(CALLS);
        let wiring = Wiring {
            calls: calls_rx,
            events,
            inbound,
            net: net.commands.clone(),
            pool: net.pool.clone(),
            own_id: peer_id,
            peers: cfg.peers.clone(),
            providing: cfg.providing,
            limits: limits.clone(),
            book,
            paused: paused.clone(),
            stuck_after: cfg.stuck_after,
            key: keypair,
        };
        let (driver, inputs) =
            Driver::new(store.clone(), engine_config(&limits), seed(), wiring).map_err(failed)?;
        tokio::spawn(driver.run(inputs));
        let identity = Identity { peer_id: peer_id.to_string(), listen, agent };
        let running = Some(Running { calls, net });
        let inner = Inner {
            store,
            running,
            limits: limits.into(),
            paused: paused.into(),
            identity,
            data_dir,
            started: Instant::now(),
        };
        let node = NodeHandle { inner: Arc::new(inner) };
        node.take_up().await?;
        Ok(node)
    }

    /// Serves again what was served before, goes on with what was not complete.
    async fn take_up(&self) -> Result<(), Failure> {
        let temporary = self.temporary_dir();
        let store = self.inner.store.clone();
        let contents = blocking(move || {
            let mut kept = Vec::new();
            for info in store.list().map_err(failed)? {
                if info.origin.path().starts_with(&temporary) {
                    store.remove(info.key, true).map_err(failed)?;
                } else if info.seeding {
                    kept.push((info.complete.then(|| compared(&*store, info.key)), info));
                }
            }
            Ok(kept)
        })
        .await?;
        let mut begun = Vec::new();
        for (known, info) in contents {
            match known {
                Some(known) => self.serve_on(known, info).await?,
                None => begun.push(info),
            }
        }
        // What an unclean stop left of them may be hashed for long; who asks for something else need not wait.
        let (calls, store) = (self.running()?.calls.clone(), Arc::downgrade(&self.inner.store));
        tokio::spawn(async move {
            for info in begun {
                let Some(store) = store.upgrade() else { break };
                let Some(call) = fetch_on(store, info).await else { continue };
                if calls.send(call).await.is_err() {
                    break; // the node is shutting down
                }
            }
        });
        Ok(())
    }

    /// Serves what is complete, and fetches the rest of what is not. What cannot be taken up is seen in the status.
    pub(in super::super) async fn go_on(&self, info: ContentInfo) -> Result<(), Failure> {
        let (store, key) = (self.inner.store.clone(), info.key);
        if info.complete {
            return self.serve_on(blocking(move || compared(&*store, key)).await, info).await;
        }
        match fetch_on(store, info).await {
            Some(call) => self.call(call).await,
            None => Ok(()),
        }
    }

    async fn serve_on(&self, known: Result<Known, Failure>, info: ContentInfo) -> Result<(), Failure> {
        match known {
            Ok(known) => self.ask(|reply| Call::Serve { known: Box::new(known), reply }).await,
            Err(e) => self.call(Call::NotTakenUp { info: Box::new(info), why: e.to_string() }).await,
        }
    }
}

/// Goes on with a fetch; nothing of what is shared from its own place.
async fn fetch_on(store: Arc<FsStore>, info: ContentInfo) -> Option<Call> {
    if !matches!(info.origin, Origin::Fetched { .. }) {
        return None;
    }
    let key = info.key;
    Some(match blocking(move || compared(&*store, key)).await {
        Ok(known) => {
            let call = FetchCall { known, size_hint: None, peers: Vec::new(), hold: false, waiter: None };
            Call::Fetch(Box::new(call))
        }
        Err(e) => Call::NotTakenUp { info: Box::new(info), why: e.to_string() },
    })
}

/// The same address on whatever port is free.
fn any_port(addr: Multiaddr) -> Multiaddr {
    addr.into_iter()
        .map(|p| match p {
            Protocol::Tcp(_) => Protocol::Tcp(0),
            Protocol::Udp(_) => Protocol::Udp(0),
            p => p,
        })
        .collect()
}

fn engine_config(limits: &Limits) -> Config {
    Config {
        up_limit: limits.up(),
        down_limit: limits.down(),
        slots: limits.engine_slots(),
        ..Config::default()
    }
}

/// What was set, what is known of peers and what is paused, from before the restart.
async fn remembered(store: &Arc<FsStore>, cfg: &NodeConfig) -> Result<(Limits, Book, Paused), Failure> {
    let (store, cfg) = (store.clone(), cfg.clone());
    blocking(move || {
        let book = Book::load(&*store, Clock::start().now()).map_err(failed)?;
        Ok((Limits::load(&*store, &cfg)?, book, pausing::load(&*store)?))
    })
    .await
}

/// Unpredictable to strangers, which is all that the engine's choices need.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(dir: &Path, listen: &Multiaddr, any_port: bool) -> NodeConfig {
        NodeConfig {
            data_dir: dir.to_owned(),
            listen: vec![listen.clone()],
            any_port,
            bootstrap: Vec::new(),
            mdns: false,
            network: true,
            ..NodeConfig::default()
        }
    }

    #[test]
    fn any_port_changes_nothing_but_the_port() {
        for (addr, want) in [
            ("/ip4/0.0.0.0/tcp/4201", "/ip4/0.0.0.0/tcp/0"),
            ("/ip6/::/udp/4201/quic-v1", "/ip6/::/udp/0/quic-v1"),
        ] {
            assert_eq!(any_port(addr.parse().unwrap()).to_string(), want);
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_unless_any_will_do() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let listen: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let refused = NodeHandle::start(config(dir.path(), &listen, false)).await.err().unwrap();
        assert!(refused.message.contains(&format!("/tcp/{port}")), "{refused}");
        let node = NodeHandle::start(config(dir.path(), &listen, true)).await.unwrap();
        let at = node.identity().listen.remove(0);
        assert!(at.starts_with("/ip4/127.0.0.1/tcp/") && !at.contains(&format!("/tcp/{port}/")), "{at}");
        node.shutdown().await;
    }

    /// The index is opened beside the key and the network, and was still open when either had failed.
    #[tokio::test]
    async fn who_was_refused_can_try_again_at_once() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let listen: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        for any_port in [false, true] {
            // A new index takes longest.
            let dir = tempfile::tempdir().unwrap();
            if any_port {
                std::fs::write(dir.path().join("identity.key"), "garbage").unwrap();
            }
            assert!(NodeHandle::start(config(dir.path(), &listen, any_port)).await.is_err());
            FsStore::open(dir.path(), Options::default()).unwrap();
        }
    }
}
