//! What is shown: the node, its contents, the links to them.

use libp2p::Multiaddr;
use tokio::sync::oneshot;

use crate::content::Cid;
use crate::link::Link;
use crate::net::api::{Command, PeerInfo};
use crate::store::{ContentInfo, Origin};

use super::super::api::{ContentStatus, DhtStatus, Failure, Status};
use super::super::driver::{Call, View};
use super::NodeHandle;

/// Addresses in a link.
const LINK_PEERS: usize = 4;

impl NodeHandle {
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
        let paused = self.inner.paused.lock().await.clone();
        let addresses: Vec<String> =
            self.addresses().await.into_iter().take(LINK_PEERS).map(|a| a.to_string()).collect();
        let temporary = self.temporary_dir();
        let shown = infos.into_iter().filter(|i| !i.origin.path().starts_with(&temporary));
        let status = |info: ContentInfo| {
            let paused = paused.contains(&info.root);
            content_status(info, paused, &view, &addresses)
        };
        Ok(shown.map(status).collect())
    }

    /// Who is connected, as the network sees it.
    pub(in super::super) async fn connected(&self) -> Vec<PeerInfo> {
        let Ok(running) = self.running() else { return Vec::new() };
        let (reply, answer) = oneshot::channel();
        if running.net.commands.send(Command::Peers { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    pub(in super::super) async fn view(&self) -> View {
        match self.inner.running {
            Some(_) => self.ask(|reply| Call::View { reply }).await.unwrap_or_default(),
            None => View::default(),
        }
    }

    /// The best link to a content of ours as it stands now.
    pub(super) async fn link(&self, cid: Cid, name: Option<String>, size: Option<u64>) -> Link {
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
}

pub(in super::super) fn content_status(
    info: ContentInfo,
    paused: bool,
    view: &View,
    addresses: &[String],
) -> ContentStatus {
    let seen = view.contents.get(&info.key).cloned().unwrap_or_default();
    let size = info.complete.then_some(info.size);
    let link = Link { name: info.name.clone(), size, peers: addresses.to_vec(), ..Link::new(info.root) };
    let state = match () {
        () if !info.changed.is_empty() => "changed".to_owned(),
        () if paused => "paused".to_owned(),
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
        paused,
        peers: seen.peers,
        down_rate: seen.down_rate,
        up_rate: seen.up_rate,
        changed: info.changed,
    }
}
