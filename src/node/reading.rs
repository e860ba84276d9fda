//! `ls`, `cat` and paths inside links: reading a content without keeping it.
//!
//! What is not here is fetched into the data directory's `tmp` folder, inner nodes first and of the chunks
//! only those that are read, and forgotten when the reader is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use crate::content::Cid;
use crate::content::chunk::verify_chunk;
use crate::content::manifest::{Item, Step, Walker};
use crate::content::reader::{EntryKind, Listing, Resolved, list, resolve};
use crate::link::Link;
use crate::store::{NewFetch, Store};
use crate::units::{ChunkIndex, ChunkRange, ContentKey, FileIndex};

use super::api::{Failure, Listed, Progress, Shared};
use super::contents::Waiter;
use super::driver::{Call, FetchCall};
use super::handle::{NodeHandle, blocking, failed, gone, parse_link, parse_peers};

/// While inner nodes are awaited, the store is looked at again after this at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Chunks read ahead of the reader.
const AHEAD: usize = 4;
const WALK_BATCH: usize = 4_096;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A content that is here only while it is read.
struct Borrowed {
    node: NodeHandle,
    key: ContentKey,
    /// Ends early only if the fetch failed.
    end: oneshot::Receiver<Result<Shared, Failure>>,
    _progress: mpsc::Receiver<Progress>,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let (node, key) = (self.node.clone(), self.key);
        tokio::spawn(async move {
            let forgotten = node.forget(key).await;
            let store = node.inner.store.clone();
            let removed = blocking(move || store.remove(key, true).map_err(failed)).await;
            if let Err(e) = forgotten.and(removed) {
                tracing::debug!("a temporary content stays until the next start: {e}");
            }
        });
    }
}

/// What a look at the nodes that are here gives.
enum Look<T> {
    Ready(T),
    Missing,
}

/// The bytes of a file: where each part comes from.
enum Part {
    Chunk(ChunkIndex),
    Inline(Bytes),
}

impl NodeHandle {
    /// Lists a folder of a link.
    ///
    /// # Errors
    /// A bad link, no such path, a file instead of a folder.
    pub async fn ls(&self, link: &str, peers: Vec<String>) -> Result<Vec<Listed>, Failure> {
        let (link, peers) = all_peers(link, &peers)?;
        let path = link.path.clone().unwrap_or_default();
        let mut borrowed = None;
        let dir = self.resolve_with(&link, &path, peers.clone(), &mut borrowed).await?;
        let entries = self
            .look(&link, peers, &mut borrowed, move |nodes| match list(&dir, nodes).map_err(failed)? {
                Listing::Entries(entries) => Ok(Look::Ready(entries)),
                Listing::Missing(_) => Ok(Look::Missing),
            })
            .await?;
        Ok(entries
            .into_iter()
            .map(|e| Listed {
                name: e.name,
                cid: e.cid.to_string(),
                size: e.size,
                kind: match e.kind {
                    EntryKind::File => "file",
                    EntryKind::Dir => "dir",
                    EntryKind::Symlink => "link",
                    EntryKind::Unknown => "unknown",
                }
                .to_owned(),
            })
            .collect())
    }

    /// The CID that a path inside a link leads to.
    pub(super) async fn resolve(
        &self,
        link: &Link,
        path: &str,
        peers: Vec<Multiaddr>,
    ) -> Result<Cid, Failure> {
        self.resolve_with(link, path, peers, &mut None).await
    }

    async fn resolve_with(
        &self,
        link: &Link,
        path: &str,
        peers: Vec<Multiaddr>,
        borrowed: &mut Option<Borrowed>,
    ) -> Result<Cid, Failure> {
        let (root, path) = (link.cid, path.to_owned());
        self.look(link, peers, borrowed, move |nodes| match resolve(&root, &path, nodes).map_err(failed)? {
            Resolved::Found { cid, .. } => Ok(Look::Ready(cid)),
            Resolved::Missing(_) => Ok(Look::Missing),
            Resolved::NotAFolder { name } => {
                Err(Failure::failed(format!("{} in {root} is not a folder", name.escape_debug())))
            }
            Resolved::NotFound { name } => {
                Err(Failure::failed(format!("{root} has no {}; see `dunlin ls`", name.escape_debug())))
            }
        })
        .await
    }

    /// Looks at the inner nodes that are here, and fetches until they are enough.
    async fn look<T: Send + 'static>(
        &self,
        link: &Link,
        peers: Vec<Multiaddr>,
        borrowed: &mut Option<Borrowed>,
        look: impl Fn(&mut dyn FnMut(&Cid) -> Option<Bytes>) -> Result<Look<T>, Failure> + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let look = Arc::new(look);
        loop {
            let (store, look) = (self.inner.store.clone(), look.clone());
            let seen = blocking(move || look(&mut |cid| store.node(cid).ok().flatten())).await?;
            match seen {
                Look::Ready(found) => return Ok(found),
                Look::Missing => self.wait_for_nodes(link.cid, &peers, borrowed).await?,
            }
        }
    }

    async fn wait_for_nodes(
        &self,
        root: Cid,
        peers: &[Multiaddr],
        borrowed: &mut Option<Borrowed>,
    ) -> Result<(), Failure> {
        let b = match borrowed {
            Some(b) => b,
            None => borrowed.insert(self.borrow(root, peers.to_vec()).await?),
        };
        let (reply, walked) = oneshot::channel();
        self.call(Call::WaitNodes { key: b.key, reply }).await?;
        tokio::select! {
            end = &mut b.end => match end {
                Ok(Err(failure)) => Err(failure),
                _ => Err(gone()),
            },
            _ = tokio::time::timeout(LOOK_AGAIN, walked) => Ok(()),
        }
    }

    async fn borrow(&self, root: Cid, peers: Vec<Multiaddr>) -> Result<Borrowed, Failure> {
        self.running()?;
        let (store, dir) = (self.inner.store.clone(), self.temporary_dir());
        let info = blocking(move || {
            std::fs::create_dir_all(&dir).map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
            let dest =
                dir.join(format!("{root}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            let key =
                store.begin_fetch(&NewFetch { root, name: None, dest, force: false }).map_err(failed)?;
            store.info(key).map_err(failed)
        })
        .await?;
        let key = info.key;
        let (progress, progress_rx) = mpsc::channel(1);
        let (reply, end) = oneshot::channel();
        let waiter = Some(Waiter { progress, reply, timeout: None, seed: false });
        self.call(Call::Fetch(Box::new(FetchCall { info, size_hint: None, peers, hold: true, waiter })))
            .await?;
        Ok(Borrowed { node: self.clone(), key, end, _progress: progress_rx })
    }

    /// Streams a file's bytes in order: its length, and the bytes as they come.
    ///
    /// # Errors
    /// A bad link, no such path, a folder instead of a file. Later ones come through the channel.
    pub async fn cat(
        &self,
        link: &str,
        peers: Vec<String>,
    ) -> Result<(Option<u64>, mpsc::Receiver<Result<Bytes, Failure>>), Failure> {
        let (link, peers) = all_peers(link, &peers)?;
        let (store, root) = (self.inner.store.clone(), link.cid);
        let held = blocking(move || {
            let key = store.find(&root).map_err(failed)?;
            key.map(|k| store.info(k).map_err(failed)).transpose()
        })
        .await?
        .filter(|info| info.complete);
        let mut borrowed = None;
        if held.is_none() {
            borrowed = Some(self.borrow(root, peers.clone()).await?);
        }
        let key = held.as_ref().map(|i| i.key).or(borrowed.as_ref().map(|b| b.key)).ok_or_else(gone)?;
        let (size, parts) = self.plan(&link, &peers, &mut borrowed).await?;
        let (tx, rx) = mpsc::channel(AHEAD);
        let node = self.clone();
        tokio::spawn(async move {
            if let Err(e) = node.stream(key, parts, borrowed, &tx).await {
                let _ = tx.send(Err(e)).await;
            }
        });
        Ok((size, rx))
    }

    /// Walks to the file that the link names.
    async fn plan(
        &self,
        link: &Link,
        peers: &[Multiaddr],
        borrowed: &mut Option<Borrowed>,
    ) -> Result<(Option<u64>, Vec<Part>), Failure> {
        let wanted = link.path.as_deref().unwrap_or_default().trim_matches('/').to_owned();
        let mut walk = (Walker::new(link.cid), Plan::new(wanted));
        loop {
            let store = self.inner.store.clone();
            let (walker, plan, step) = blocking(move || {
                let (mut walker, mut plan) = walk;
                let step = plan.advance(&mut walker, &*store)?;
                Ok((walker, plan, step))
            })
            .await?;
            match step {
                Look::Ready(()) => return plan.finish(),
                Look::Missing => self.wait_for_nodes(link.cid, peers, borrowed).await?,
            }
            walk = (walker, plan);
        }
    }

    async fn stream(
        &self,
        key: ContentKey,
        parts: Vec<Part>,
        mut borrowed: Option<Borrowed>,
        out: &mpsc::Sender<Result<Bytes, Failure>>,
    ) -> Result<(), Failure> {
        if borrowed.is_some() {
            self.call(Call::Stream { key, ranges: ranges_of(&parts) }).await?;
        }
        for part in parts {
            let bytes = match part {
                Part::Inline(bytes) => bytes,
                Part::Chunk(chunk) => {
                    if let Some(b) = &mut borrowed {
                        self.wait_for_chunk(b, chunk).await?;
                    }
                    self.file_bytes(key, chunk).await?
                }
            };
            if out.send(Ok(bytes)).await.is_err() {
                // The reader has left.
                return Ok(());
            }
        }
        Ok(())
    }

    async fn wait_for_chunk(&self, b: &mut Borrowed, chunk: ChunkIndex) -> Result<(), Failure> {
        let (reply, held) = oneshot::channel();
        self.call(Call::WaitFor { key: b.key, chunk, reply }).await?;
        tokio::select! {
            end = &mut b.end => match end {
                Ok(Err(failure)) => Err(failure),
                _ => Err(gone()),
            },
            held = held => held.map_err(|_| gone()),
        }
    }

    /// A held chunk's file bytes.
    async fn file_bytes(&self, key: ContentKey, chunk: ChunkIndex) -> Result<Bytes, Failure> {
        let store = self.inner.store.clone();
        blocking(move || {
            let mut body = Vec::new();
            let read = store.read_chunk(key, chunk, &mut body).map_err(failed)?;
            let spec = store.chunk(key, chunk).map_err(failed)?;
            let data = verify_chunk(&spec, &body, &read.block_lens).map_err(failed)?;
            if data.data_len() == body.len() as u64 {
                return Ok(Bytes::from(body));
            }
            Ok(Bytes::from(data.segments().collect::<Vec<_>>().concat()))
        })
        .await
    }
}

/// The walk to one file, and what was found of it.
struct Plan {
    path: String,
    file: Option<(FileIndex, Option<u64>)>,
    is_dir: bool,
    parts: Vec<Part>,
    done: bool,
}

impl Plan {
    fn new(path: String) -> Plan {
        Plan { path, file: None, is_dir: false, parts: Vec::new(), done: false }
    }

    fn advance(&mut self, walker: &mut Walker, store: &dyn Store) -> Result<Look<()>, Failure> {
        let mut items = Vec::new();
        loop {
            items.clear();
            let step = walker
                .advance(&mut |cid| store.node(cid).ok().flatten(), WALK_BATCH, &mut items)
                .map_err(failed)?;
            items.drain(..).for_each(|item| self.take(item));
            match step {
                _ if self.done => return Ok(Look::Ready(())),
                Step::Done => return Ok(Look::Ready(())),
                Step::Missing(_) => return Ok(Look::Missing),
                Step::More => {}
            }
        }
    }

    fn take(&mut self, item: Item) {
        let current = self.file.map(|(f, _)| f);
        match item {
            Item::File { file, path, size, .. } if current.is_none() && path.as_str() == self.path => {
                self.file = Some((file, size));
            }
            Item::Dir { path, .. } if path.as_str() == self.path => self.is_dir = true,
            Item::Chunk { index, file, .. } if current == Some(file) => self.parts.push(Part::Chunk(index)),
            Item::Inline { file, data, .. } if current == Some(file) => self.parts.push(Part::Inline(data)),
            // The next file begins: the one that was wanted is over.
            Item::File { .. } | Item::Dir { .. } | Item::Symlink { .. } if current.is_some() => {
                self.done = true
            }
            _ => {}
        }
    }

    fn finish(self) -> Result<(Option<u64>, Vec<Part>), Failure> {
        match self.file {
            Some((_, size)) => Ok((size, self.parts)),
            None if self.is_dir => Err(Failure::failed(
                "that is a folder: name a file in it (see `dunlin ls`), or fetch it with `dunlin get`",
            )),
            None => Err(Failure::failed(format!(
                "no file {} in that content; see `dunlin ls`",
                self.path.escape_debug()
            ))),
        }
    }
}

/// The runs of chunk numbers, in the order of the file.
fn ranges_of(parts: &[Part]) -> Vec<ChunkRange> {
    let mut ranges: Vec<ChunkRange> = Vec::new();
    for part in parts {
        let Part::Chunk(i) = part else { continue };
        match ranges.last_mut() {
            Some(last) if last.end() == i.get() => {
                *last = ChunkRange::new(last.start(), i.get() + 1).unwrap_or(*last);
            }
            _ => ranges.push(ChunkRange::one(*i)),
        }
    }
    ranges
}

fn all_peers(link: &str, peers: &[String]) -> Result<(Link, Vec<Multiaddr>), Failure> {
    let link = parse_link(link)?;
    let mut peers = parse_peers(peers)?;
    peers.extend(link.peers.iter().filter_map(|a| a.parse().ok()));
    Ok((link, peers))
}
