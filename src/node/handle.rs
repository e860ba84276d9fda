//! What the rest of the program holds of a node. Cheap to clone; the node ends with [`NodeHandle::shutdown`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::sync::{mpsc, oneshot};

use crate::content::Cid;
use crate::content::profile::Profile;
use crate::engine::Config;
use crate::link::{Link, safe_name};
use crate::net::api::{Command, PeerInfo};
use crate::net::{self, NetConfig, NetError, NetHandle, identity};
use crate::store::{
    ContentInfo, FsStore, ImportOptions, ImportProgress, NewFetch, Options, Origin, Store, import,
};
use crate::units::ContentKey;

use super::api::{
    AddRequest, ContentStatus, DhtStatus, Failure, GetRequest, Identity, Progress, Shared, Status, Verified,
};
use super::clock::Clock;
use super::config::{NodeConfig, Providing};
use super::contents::Waiter;
use super::driver::{Call, Driver, FetchCall, View, Wiring};
use super::ledger::Book;
use super::limits::Limits;

/// Requests of the handles that wait for the driver.
const CALLS: usize = 64;
/// Events of the network task, and messages of all peers, that wait for the driver.
const EVENTS: usize = 256;
const INBOUND: usize = 256;
/// Addresses in a link.
const LINK_PEERS: usize = 4;
/// How often an import says how far it is.
const IMPORT_PROGRESS: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub struct NodeHandle {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: Arc<FsStore>,
    pub(super) running: Option<Running>,
    pub(super) limits: tokio::sync::Mutex<Limits>,
    identity: Identity,
    pub(super) data_dir: PathBuf,
    started: Instant,
}

/// What there is only with a network.
pub(super) struct Running {
    pub(super) calls: mpsc::Sender<Call>,
    net: NetHandle,
}

pub(super) fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::failed(e.to_string())
}

/// The node ended while it was asked.
pub(super) fn gone() -> Failure {
    Failure::failed("the node is shutting down")
}

fn offline() -> Failure {
    Failure::failed("this needs the network: start `dunlin daemon` first")
}

impl NodeHandle {
    /// Opens the store and, if the configuration has a network, starts it; returns once it listens.
    /// The caller holds the data directory's lock.
    ///
    /// # Errors
    /// One line: an address that cannot be listened on, a data directory that cannot be used.
    pub async fn start(cfg: NodeConfig) -> Result<NodeHandle, Failure> {
        let data_dir = cfg.data_dir.clone();
        let dir = data_dir.clone();
        let keypair = blocking(move || identity::load_or_create(&dir).map_err(failed)).await?;
        let dir = data_dir.clone();
        // A new index has to reach the disk, which takes as long as starting the network does: side by side.
        let store = tokio::spawn(blocking(move || {
            FsStore::open(&dir, Options::default()).map(Arc::new).map_err(failed)
        }));
        let store = async { store.await.unwrap_or_else(|e| Err(failed(e))) };
        let agent = format!("dunlin/{}", env!("CARGO_PKG_VERSION"));
        let peer_id = keypair.public().to_peer_id();
        if !cfg.network {
            let store = store.await?;
            let identity = Identity { peer_id: peer_id.to_string(), listen: Vec::new(), agent };
            let limits = tokio::sync::Mutex::new(remembered(&store, &cfg).await?.0);
            let inner = Inner { store, running: None, limits, identity, data_dir, started: Instant::now() };
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
        }
        .map_err(failed)?;
        let listen = net.listen.iter().map(|a| a.clone().with(Protocol::P2p(peer_id)).to_string()).collect();
        let store = store.await?;
        let (limits, book) = remembered(&store, &cfg).await?;
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
            stuck_after: cfg.stuck_after,
            key: keypair,
        };
        let (driver, inputs) =
            Driver::new(store.clone(), engine_config(&limits), seed(), wiring).map_err(failed)?;
        tokio::spawn(driver.run(inputs));
        let identity = Identity { peer_id: peer_id.to_string(), listen, agent };
        let running = Some(Running { calls, net });
        let limits = tokio::sync::Mutex::new(limits);
        let inner = Inner { store, running, limits, identity, data_dir, started: Instant::now() };
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
                    kept.push(info);
                }
            }
            Ok(kept)
        })
        .await?;
        for info in contents {
            if info.complete {
                self.serve(info).await?;
            } else if matches!(info.origin, Origin::Fetched { .. }) {
                let call = FetchCall { info, size_hint: None, peers: Vec::new(), hold: false, waiter: None };
                self.call(Call::Fetch(Box::new(call))).await?;
            }
        }
        Ok(())
    }

    /// Where streams that nobody asked to keep are put meanwhile.
    pub(super) fn temporary_dir(&self) -> PathBuf {
        self.inner.data_dir.join("tmp")
    }

    pub(super) fn running(&self) -> Result<&Running, Failure> {
        self.inner.running.as_ref().ok_or_else(offline)
    }

    pub(super) async fn call(&self, call: Call) -> Result<(), Failure> {
        self.running()?.calls.send(call).await.map_err(|_| gone())
    }

    /// Tells the network task directly.
    pub(super) async fn command(&self, command: Command) -> Result<(), Failure> {
        self.running()?.net.commands.send(command).await.map_err(|_| gone())
    }

    pub(super) async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.call(call(reply)).await?;
        answer.await.map_err(|_| gone())
    }

    async fn serve(&self, info: ContentInfo) -> Result<(), Failure> {
        match self.inner.running {
            Some(_) => self.ask(|reply| Call::Serve { info: Box::new(info), reply }).await,
            None => Ok(()),
        }
    }

    pub fn identity(&self) -> Identity {
        self.inner.identity.clone()
    }

    /// Hashes a file or folder where it lies, and serves it from now on.
    ///
    /// # Errors
    /// What cannot be read or shared, by its path.
    pub async fn add(&self, req: AddRequest, progress: mpsc::Sender<Progress>) -> Result<Shared, Failure> {
        let profile = profile(req.profile.as_deref())?;
        let provide = providing(req.provide.as_deref())?;
        let options = ImportOptions {
            profile,
            hidden: req.hidden,
            preserve_mode: req.preserve_mode,
            preserve_mtime: req.preserve_mtime,
            only_hash: req.only_hash,
        };
        let (store, path) = (self.inner.store.clone(), req.path.clone());
        let stop = CancelOnDrop::default();
        let cancelled = stop.0.clone();
        let imported = blocking(move || {
            let said = std::sync::Mutex::new(Instant::now());
            let tell = |p: ImportProgress| {
                let Ok(mut last) = said.try_lock() else { return };
                if last.elapsed() >= IMPORT_PROGRESS {
                    *last = Instant::now();
                    // A reader that does not keep up misses a line, which the next one makes good.
                    let _ = progress.try_send(Progress {
                        done: p.bytes,
                        files: p.files,
                        state: "hashing".into(),
                        ..Progress::default()
                    });
                }
            };
            import(&store, &path, &options, &tell, &cancelled).map_err(failed)
        })
        .await?;
        if let Some(key) = imported.key {
            let store = self.inner.store.clone();
            let info = blocking(move || {
                store.set_seeding(key, true).map_err(failed)?;
                store.info(key).map_err(failed)
            })
            .await?;
            if let Some(mode) = provide {
                self.settle(info.root, mode).await?;
            }
            self.serve(info).await?;
        }
        let link = self.link(imported.root, imported.name, Some(imported.size)).await;
        Ok(Shared {
            cid: imported.root.to_string(),
            link: link.to_string(),
            size: imported.size,
            path: req.path,
            skipped: imported.skipped.iter().map(|p| p.display().to_string()).collect(),
        })
    }

    /// How a content is provided from now on.
    async fn settle(&self, root: Cid, mode: Providing) -> Result<(), Failure> {
        let store = self.inner.store.clone();
        let note = (root.to_bytes(), Some(mode.to_string().into_bytes()));
        blocking(move || store.note(super::providing::NOTES, &[note]).map_err(failed)).await?;
        match self.inner.running {
            Some(_) => self.call(Call::Provide { root, mode }).await,
            None => Ok(()),
        }
    }

    /// The best link to a content of ours as it stands now.
    async fn link(&self, cid: Cid, name: Option<String>, size: Option<u64>) -> Link {
        let peers = self.addresses().await.into_iter().take(LINK_PEERS).map(|a| a.to_string()).collect();
        Link { name, size, peers, ..Link::new(cid) }
    }

    /// Our own dialable addresses, the best first; none without a network.
    async fn addresses(&self) -> Vec<Multiaddr> {
        let Ok(running) = self.running() else { return Vec::new() };
        let (reply, answer) = oneshot::channel();
        if running.net.commands.send(Command::Addresses { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// The end of a `share`: it stays in the store, and is served no more.
    ///
    /// # Errors
    /// If no such content is here.
    pub async fn withdraw(&self, what: &str) -> Result<(), Failure> {
        let info = self.find(what).await?;
        let (store, key) = (self.inner.store.clone(), info.key);
        blocking(move || store.set_seeding(key, false).map_err(failed)).await?;
        match self.inner.running {
            Some(_) => self.ask(|reply| Call::Withdraw { key, reply }).await,
            None => Ok(()),
        }
    }

    /// Fetches a link. Dropping the future pauses the fetch; the same request resumes it.
    ///
    /// # Errors
    /// `usage` for what is wrong with the request; otherwise why the fetch did not end well.
    pub async fn get(&self, req: GetRequest, progress: mpsc::Sender<Progress>) -> Result<Shared, Failure> {
        let link = parse_link(&req.link)?;
        let provide = providing(req.provide.as_deref())?;
        let mut peers = parse_peers(&req.peers)?;
        peers.extend(link.peers.iter().filter_map(|a| a.parse().ok()));
        // The handshakes go on while the disk is asked.
        self.call(Call::Dial { peers: peers.clone() }).await?;
        let root = match &link.path {
            None => link.cid,
            Some(path) => self.resolve(&link, path, peers.clone()).await?,
        };
        let dest = destination(&req, &link, &root)?;
        let new =
            NewFetch { root, name: link.name.clone().or_else(|| name_of(&dest)), dest, force: req.force };
        let store = self.inner.store.clone();
        let (seed, dest) = (req.seed, new.dest.clone());
        let info = blocking(move || {
            let key = store.begin_fetch(&new).map_err(failed)?;
            store.set_seeding(key, seed).map_err(failed)?;
            store.info(key).map_err(failed)
        })
        .await?;
        if let Some(mode) = provide {
            self.settle(root, mode).await?;
        }
        if info.complete {
            let shared = Shared {
                cid: root.to_string(),
                link: String::new(),
                size: info.size,
                path: dest,
                skipped: Vec::new(),
            };
            if req.seed {
                self.serve(info).await?;
            }
            return Ok(self.with_link(shared, link.name).await);
        }
        let size_hint = link.size.filter(|_| link.path.is_none());
        let timeout = req.timeout.map(Duration::from_secs_f64);
        let (reply, answer) = oneshot::channel();
        let waiter = Some(Waiter { progress, reply, timeout, seed: req.seed });
        let call = FetchCall { info, size_hint, peers, hold: false, waiter };
        self.call(Call::Fetch(Box::new(call))).await?;
        let shared = answer.await.map_err(|_| gone())??;
        Ok(self.with_link(shared, link.name).await)
    }

    async fn with_link(&self, shared: Shared, name: Option<String>) -> Shared {
        let Ok(cid) = shared.cid.parse() else { return shared };
        let name = name.or_else(|| name_of(&shared.path));
        Shared { link: self.link(cid, name, Some(shared.size)).await.to_string(), ..shared }
    }

    async fn view(&self) -> View {
        match self.inner.running {
            Some(_) => self.ask(|reply| Call::View { reply }).await.unwrap_or_default(),
            None => View::default(),
        }
    }

    /// `daemon` is for the caller to set.
    pub async fn status(&self) -> Status {
        let view = self.view().await;
        let contents = self.list().await.unwrap_or_else(|e| {
            tracing::error!("cannot list the contents: {e}");
            Vec::new()
        });
        Status {
            daemon: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer_id: self.inner.identity.peer_id.clone(),
            listen: self.inner.identity.listen.clone(),
            peers: view.connected,
            uptime_s: self.inner.started.elapsed().as_secs_f64(),
            down_rate: view.down.rate(),
            up_rate: view.up.rate(),
            downloaded: view.down.total,
            uploaded: view.up.total,
            dht: self.providing().await.ok().map(|[wan, lan]| DhtStatus { wan, lan }),
            contents,
        }
    }

    /// Our own contents.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn list(&self) -> Result<Vec<ContentStatus>, Failure> {
        let infos = self.infos().await?;
        let view = self.view().await;
        let addresses: Vec<String> =
            self.addresses().await.into_iter().take(LINK_PEERS).map(|a| a.to_string()).collect();
        let temporary = self.temporary_dir();
        let shown = infos.into_iter().filter(|i| !i.origin.path().starts_with(&temporary));
        Ok(shown.map(|info| content_status(info, &view, &addresses)).collect())
    }

    /// Who is connected, as the network sees it.
    pub(super) async fn connected(&self) -> Vec<PeerInfo> {
        let Ok(running) = self.running() else { return Vec::new() };
        let (reply, answer) = oneshot::channel();
        if running.net.commands.send(Command::Peers { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    pub(super) async fn infos(&self) -> Result<Vec<ContentInfo>, Failure> {
        let store = self.inner.store.clone();
        blocking(move || store.list().map_err(failed)).await
    }

    /// A content of ours by its CID, its link, or its path.
    pub(super) async fn find(&self, what: &str) -> Result<ContentInfo, Failure> {
        let infos = self.infos().await?;
        let cid = Link::parse(what).ok().filter(|l| l.path.is_none()).map(|l| l.cid);
        let path = Path::new(what);
        let same = |c: &Cid| cid.is_some_and(|cid| cid.hash() == c.hash());
        infos.into_iter().find(|i| same(&i.root) || i.origin.path() == path).ok_or_else(|| {
            Failure::failed(format!("{} is not one of our contents; see `dunlin list`", what.escape_debug()))
        })
    }

    /// Forgets a content; the user's files stay.
    ///
    /// # Errors
    /// If no such content is here.
    pub async fn remove(&self, what: &str, delete_part: bool) -> Result<ContentStatus, Failure> {
        let info = self.find(what).await?;
        let key = info.key;
        self.forget(key).await?;
        let store = self.inner.store.clone();
        blocking(move || store.remove(key, delete_part).map_err(failed)).await?;
        if !self.infos().await?.iter().any(|i| i.root == info.root) {
            self.unlimit(&info.root).await?;
        }
        Ok(content_status(info, &View::default(), &[]))
    }

    pub(super) async fn forget(&self, key: ContentKey) -> Result<(), Failure> {
        match self.inner.running {
            Some(_) => self.ask(|reply| Call::Forget { key, reply }).await,
            None => Ok(()),
        }
    }

    /// Hashes a content's files again; what no longer matches is served no more.
    ///
    /// # Errors
    /// If no such content is here, or it cannot be read.
    pub async fn verify(&self, what: &str, progress: mpsc::Sender<Progress>) -> Result<Verified, Failure> {
        let info = self.find(what).await?;
        let (store, key, total) = (self.inner.store.clone(), info.key, info.size);
        let (lost, changed, after) = blocking(move || {
            let (lost, changed) = store
                .verify(key, &mut |done| {
                    let line = Progress {
                        done,
                        total: Some(total),
                        state: "verifying".into(),
                        ..Progress::default()
                    };
                    let _ = progress.try_send(line);
                })
                .map_err(failed)?;
            Ok((lost, changed, store.info(key).map_err(failed)?))
        })
        .await?;
        let lost_chunks = lost.iter().map(|r| u64::from(r.len())).sum();
        if self.inner.running.is_some() {
            self.call(Call::Lost { key, ranges: lost }).await?;
            if after.complete && after.seeding {
                self.serve(after).await?;
            }
        }
        Ok(Verified {
            cid: info.root.to_string(),
            path: info.origin.path().to_owned(),
            chunks: info.chunks,
            lost_chunks,
            changed,
        })
    }

    /// A content's files were moved to `path`.
    ///
    /// # Errors
    /// If what is there is something else.
    pub async fn relocate(&self, what: &str, path: PathBuf) -> Result<ContentStatus, Failure> {
        let info = self.find(what).await?;
        let (store, key) = (self.inner.store.clone(), info.key);
        self.forget(key).await?;
        let moved = blocking(move || {
            let result = store.relocate(key, &path).map_err(failed);
            Ok((result, store.info(key).map_err(failed)?))
        })
        .await;
        let (result, info) = moved?;
        if info.seeding && info.complete {
            self.serve(info.clone()).await?;
        }
        result?;
        Ok(content_status(info, &self.view().await, &[]))
    }

    /// Ends the node: says goodbye, lets the disks finish, commits what is held.
    pub async fn shutdown(&self) {
        if self.inner.running.is_some() && self.ask(|reply| Call::Shutdown { reply }).await.is_err() {
            tracing::debug!("the node had ended already");
        }
    }
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

/// Runs something that blocks, off the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Failure::failed(format!("an internal task failed: {e}"))),
    }
}

#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn providing(what: Option<&str>) -> Result<Option<Providing>, Failure> {
    what.map(str::parse).transpose().map_err(|e: super::config::ConfigError| Failure::usage(e.to_string()))
}

fn profile(name: Option<&str>) -> Result<&'static Profile, Failure> {
    let Some(name) = name else { return Ok(&Profile::V1_256K) };
    Profile::by_name(name).ok_or_else(|| {
        let known: Vec<&str> = Profile::ALL.iter().map(|p| p.name).collect();
        Failure::usage(format!("unknown profile {}: use one of {}", name.escape_debug(), known.join(", ")))
    })
}

pub(super) fn parse_link(text: &str) -> Result<Link, Failure> {
    Link::parse(text).map_err(|e| Failure::usage(e.to_string()))
}

pub(super) fn parse_peers(peers: &[String]) -> Result<Vec<Multiaddr>, Failure> {
    peers
        .iter()
        .map(|p| {
            p.parse().map_err(|e| {
                let example = "/ip4/192.0.2.1/tcp/4201/p2p/12D3...";
                Failure::usage(format!(
                    "{} is not a multiaddr ({e}); one looks like {example}",
                    p.escape_debug()
                ))
            })
        })
        .collect()
}

fn destination(req: &GetRequest, link: &Link, root: &Cid) -> Result<PathBuf, Failure> {
    let dest = req.dest.clone().unwrap_or_else(|| {
        let last = link.path.as_deref().and_then(|p| p.rsplit('/').find(|s| !s.is_empty()));
        let name = last.or(link.name.as_deref()).and_then(safe_name);
        req.folder.join(name.unwrap_or_else(|| root.to_string()))
    });
    match dest.is_absolute() {
        true => Ok(dest),
        false => Err(Failure::usage(format!("{} is not an absolute path", dest.display()))),
    }
}

fn name_of(path: &Path) -> Option<String> {
    path.file_name().and_then(|n| n.to_str()).and_then(safe_name)
}

fn content_status(info: ContentInfo, view: &View, addresses: &[String]) -> ContentStatus {
    let seen = view.contents.get(&info.key).cloned().unwrap_or_default();
    let size = info.complete.then_some(info.size);
    let link = Link { name: info.name.clone(), size, peers: addresses.to_vec(), ..Link::new(info.root) };
    let state = match () {
        () if !info.changed.is_empty() => "changed".to_owned(),
        () if !seen.state.is_empty() => seen.state,
        () if info.seeding && info.complete => "not running".to_owned(),
        () => "idle".to_owned(),
    };
    ContentStatus {
        cid: info.root.to_string(),
        link: link.to_string(),
        name: info.name,
        path: info.origin.path().to_owned(),
        kind: match info.origin {
            Origin::Shared { .. } => "shared".to_owned(),
            Origin::Fetched { .. } => "fetched".to_owned(),
        },
        size: info.size,
        files: info.files,
        chunks: info.chunks,
        held: info.held,
        held_bytes: info.held_bytes,
        complete: info.complete,
        state,
        stuck: seen.stuck,
        peers: seen.peers,
        down_rate: seen.down_rate,
        up_rate: seen.up_rate,
        changed: info.changed,
    }
}

fn engine_config(limits: &Limits) -> Config {
    Config {
        up_limit: limits.up(),
        down_limit: limits.down(),
        slots: limits.engine_slots(),
        ..Config::default()
    }
}

/// What was set and what is known of peers, from before the restart.
async fn remembered(store: &Arc<FsStore>, cfg: &NodeConfig) -> Result<(Limits, Book), Failure> {
    let (store, cfg) = (store.clone(), cfg.clone());
    blocking(move || {
        let book = Book::load(&*store, Clock::start().now()).map_err(failed)?;
        Ok((Limits::load(&*store, &cfg)?, book))
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
}
