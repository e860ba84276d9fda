//! What is fetched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use crate::content::Cid;
use crate::link::{Link, safe_name};
use crate::store::{NewFetch, Store};

use super::super::api::{Failure, GetRequest, Progress, Shared};
use super::super::contents::Waiter;
use super::super::driver::{Call, FetchCall};
use super::share::providing;
use super::{NodeHandle, blocking, compared, failed, gone};

impl NodeHandle {
    /// Fetches a link. Dropping the future ends the fetch, and the same request takes it up again. One whose content is
    /// paused waits until that is resumed, and says so.
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
        let timeout = req.timeout.map(Duration::from_secs_f64);
        let root = match &link.path {
            None => link.cid,
            Some(path) => self.resolve(&link, path, peers.clone(), timeout).await?,
        };
        let dest = destination(&req, &link, &root)?;
        let new =
            NewFetch { root, name: link.name.clone().or_else(|| name_of(&dest)), dest, force: req.force };
        let store = self.inner.store.clone();
        let (seed, dest) = (req.seed, new.dest.clone());
        let known = blocking(move || {
            let key = store.begin_fetch(&new).map_err(failed)?;
            store.set_seeding(key, seed).map_err(failed)?;
            compared(&*store, key)
        })
        .await?;
        if let Some(mode) = provide {
            self.settle(root, mode).await?;
        }
        let info = &known.info;
        if info.complete {
            let shared = Shared { cid: root.to_string(), size: info.size, path: dest, ..Shared::default() };
            if req.seed {
                self.serve(info.key).await?;
            }
            return Ok(self.with_link(shared, link.name).await);
        }
        let size_hint = link.size.filter(|_| link.path.is_none());
        let (reply, answer) = oneshot::channel();
        let waiter = Some(Waiter { progress, reply, timeout, seed: req.seed });
        let call = FetchCall { known, size_hint, peers, hold: false, waiter };
        self.call(Call::Fetch(Box::new(call))).await?;
        let shared = answer.await.map_err(|_| gone())??;
        Ok(self.with_link(shared, link.name).await)
    }

    async fn with_link(&self, shared: Shared, name: Option<String>) -> Shared {
        let Ok(cid) = shared.cid.parse() else { return shared };
        let name = name.or_else(|| name_of(&shared.path));
        let paused = self.is_paused(&cid).await;
        Shared { link: self.link(cid, name, Some(shared.size)).await.to_string(), paused, ..shared }
    }
}

pub(in super::super) fn parse_link(text: &str) -> Result<Link, Failure> {
    Link::parse(text).map_err(|e| Failure::usage(e.to_string()))
}

pub(in super::super) fn parse_peers(peers: &[String]) -> Result<Vec<Multiaddr>, Failure> {
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
