//! `ls`, `cat` and paths inside links: reading a content without keeping it.
//!
//! What is not here comes through the fetch of the same root, if one runs; otherwise it is fetched into the data
//! directory's `tmp` folder, inner nodes first and of the chunks only those that are read, and forgotten when the
//! reader is done. A `get` that begins meanwhile takes that fetch's place, and the reading goes on through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

use super::api::{Failure, Listed, Progress, ReadRequest, Shared};
use super::contents::Waiter;
use super::driver::{Call, FetchCall};
use super::handle::{NodeHandle, blocking, compared, failed, gone, parse_link, parse_peers};

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

/// Where a reading has its nodes and chunks from.
struct Source {
    key: ContentKey,
    /// Says how the fetch ended; closed without a word once another fetch has taken its place. `None`: all is here.
    end: Option<oneshot::Receiver<Result<Shared, Failure>>>,
    /// Of a fetch that runs for this reading alone.
    own: Option<(Borrowed, mpsc::Receiver<Progress>)>,
}

impl Source {
    /// The fetch is not what brings the content any more.
    fn moved(&mut self) -> bool {
        use oneshot::error::TryRecvError;
        self.end.as_mut().is_some_and(|end| matches!(end.try_recv(), Err(TryRecvError::Closed)))
    }
}

/// One look into a content that need not be here: what is missing of it comes through the fetch of it that runs, or
/// through one of our own. There is never more than one of a root, since peers know it by that alone.
struct Reading {
    node: NodeHandle,
    root: Cid,
    peers: Vec<Multiaddr>,
    /// How long to wait for what does not come.
    timeout: Option<Duration>,
    source: Option<Source>,
    /// What was read through before. Kept, since the fetch in its place copies what that has.
    former: Vec<Borrowed>,
}

/// How a wait ended.
#[derive(PartialEq, Eq)]
enum Waited {
    Here,
    /// Look again: it may come another way now.
    Moved,
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
    pub async fn ls(&self, req: ReadRequest) -> Result<Vec<Listed>, Failure> {
        let (link, mut reading) = self.reading(&req)?;
        let dir = reading.resolve(link.path.as_deref().unwrap_or_default()).await?;
        let entries = reading
            .look(move |nodes| match list(&dir, nodes).map_err(failed)? {
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
        timeout: Option<Duration>,
    ) -> Result<Cid, Failure> {
        Reading::new(self, link.cid, peers, timeout).resolve(path).await
    }

    fn reading(&self, req: &ReadRequest) -> Result<(Link, Reading), Failure> {
        let link = parse_link(&req.link)?;
        let mut peers = parse_peers(&req.peers)?;
        peers.extend(link.peers.iter().filter_map(|a| a.parse().ok()));
        let timeout = req.timeout.map(Duration::from_secs_f64);
        let reading = Reading::new(self, link.cid, peers, timeout);
        Ok((link, reading))
    }

    /// Streams a file's bytes in order: its length, and the bytes as they come.
    ///
    /// # Errors
    /// A bad link, no such path, a folder instead of a file. Later ones come through the channel.
    pub async fn cat(
        &self,
        req: ReadRequest,
    ) -> Result<(Option<u64>, mpsc::Receiver<Result<Bytes, Failure>>), Failure> {
        let (link, mut reading) = self.reading(&req)?;
        let (size, parts) = reading.plan(link.path.as_deref().unwrap_or_default()).await?;
        let (tx, rx) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            if let Err(e) = reading.stream(&parts, &tx).await {
                let _ = tx.send(Err(e)).await;
            }
        });
        Ok((size, rx))
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

impl Reading {
    fn new(node: &NodeHandle, root: Cid, peers: Vec<Multiaddr>, timeout: Option<Duration>) -> Reading {
        Reading { node: node.clone(), root, peers, timeout, source: None, former: Vec::new() }
    }

    async fn resolve(&mut self, path: &str) -> Result<Cid, Failure> {
        let (root, path) = (self.root, path.to_owned());
        self.look(move |nodes| match resolve(&root, &path, nodes).map_err(failed)? {
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
        &mut self,
        look: impl Fn(&mut dyn FnMut(&Cid) -> Option<Bytes>) -> Result<Look<T>, Failure> + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let (look, since) = (Arc::new(look), Instant::now());
        loop {
            let (store, look) = (self.node.inner.store.clone(), look.clone());
            let seen = blocking(move || look(&mut |cid| store.node(cid).ok().flatten())).await?;
            match seen {
                Look::Ready(found) => return Ok(found),
                Look::Missing => self.wait_for_nodes(since).await?,
            }
        }
    }

    /// The content as the store has it whole, or as it is being fetched already, or as it is from now on for this.
    async fn source(&mut self) -> Result<&mut Source, Failure> {
        if self.source.as_mut().is_some_and(Source::moved)
            && let Some(Source { own: Some((borrowed, _)), .. }) = self.source.take()
        {
            self.former.push(borrowed);
        }
        if self.source.is_none() {
            self.source = Some(match self.whole().await? {
                Some(key) => Source { key, end: None, own: None },
                None => self.fetched().await?,
            });
        }
        self.source.as_mut().ok_or_else(gone)
    }

    async fn whole(&self) -> Result<Option<ContentKey>, Failure> {
        let (store, root) = (self.node.inner.store.clone(), self.root);
        blocking(move || {
            let Some(key) = store.find(&root).map_err(failed)? else { return Ok(None) };
            Ok(store.info(key).map_err(failed)?.complete.then_some(key))
        })
        .await
    }

    async fn fetched(&self) -> Result<Source, Failure> {
        let (end, ended) = oneshot::channel();
        let (root, peers) = (self.root, self.peers.clone());
        match self.node.ask(|reply| Call::Read { root, peers, end, reply }).await? {
            Some(key) => Ok(Source { key, end: Some(ended), own: None }),
            None => self.borrow().await,
        }
    }

    async fn borrow(&self) -> Result<Source, Failure> {
        let (root, store, dir) = (self.root, self.node.inner.store.clone(), self.node.temporary_dir());
        let known = blocking(move || {
            std::fs::create_dir_all(&dir).map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
            let dest =
                dir.join(format!("{root}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            let key =
                store.begin_fetch(&NewFetch { root, name: None, dest, force: false }).map_err(failed)?;
            compared(&*store, key)
        })
        .await?;
        let borrowed = Borrowed { node: self.node.clone(), key: known.info.key };
        let (progress, progress_rx) = mpsc::channel(1);
        let (reply, end) = oneshot::channel();
        let waiter = Some(Waiter { progress, reply, timeout: None, seed: false });
        let call = FetchCall { known, size_hint: None, peers: self.peers.clone(), hold: true, waiter };
        self.node.call(Call::Fetch(Box::new(call))).await?;
        Ok(Source { key: borrowed.key, end: Some(end), own: Some((borrowed, progress_rx)) })
    }

    /// Until more inner nodes may be here. `since`: when what is looked for began to be.
    async fn wait_for_nodes(&mut self, since: Instant) -> Result<(), Failure> {
        let (node, timeout) = (self.node.clone(), self.timeout);
        let source = self.source().await?;
        let (reply, walked) = oneshot::channel();
        node.call(Call::WaitNodes { key: source.key, reply }).await?;
        // Dropped without an answer if the content is gone, which the end says too.
        let walked = async {
            if walked.await.is_err() {
                std::future::pending().await
            }
        };
        match wait(source, walked, Some(LOOK_AGAIN)).await? {
            Some(_) => Ok(()),
            None => in_time(&node, source.key, timeout, since).await,
        }
    }

    /// Until a chunk is held.
    async fn wait_for_chunk(&mut self, chunk: ChunkIndex) -> Result<Waited, Failure> {
        let (node, timeout, since) = (self.node.clone(), self.timeout, Instant::now());
        let source = self.source().await?;
        if source.end.is_none() {
            return Ok(Waited::Here);
        }
        let (reply, held) = oneshot::channel();
        node.call(Call::WaitFor { key: source.key, chunk, reply }).await?;
        let held = async {
            if held.await.is_err() {
                std::future::pending().await
            }
        };
        tokio::pin!(held);
        loop {
            match wait(source, held.as_mut(), timeout.map(|_| LOOK_AGAIN)).await? {
                Some(waited) => return Ok(waited),
                None => in_time(&node, source.key, timeout, since).await?,
            }
        }
    }

    /// Walks to the file that the path names.
    async fn plan(&mut self, path: &str) -> Result<(Option<u64>, Vec<Part>), Failure> {
        let since = Instant::now();
        let mut walk = (Walker::new(self.root), Plan::new(path.trim_matches('/').to_owned()));
        loop {
            let store = self.node.inner.store.clone();
            let (walker, plan, step) = blocking(move || {
                let (mut walker, mut plan) = walk;
                let step = plan.advance(&mut walker, &*store)?;
                Ok((walker, plan, step))
            })
            .await?;
            match step {
                Look::Ready(()) => return plan.finish(),
                Look::Missing => self.wait_for_nodes(since).await?,
            }
            walk = (walker, plan);
        }
    }

    async fn stream(
        &mut self,
        parts: &[Part],
        out: &mpsc::Sender<Result<Bytes, Failure>>,
    ) -> Result<(), Failure> {
        let mut told = None;
        for (i, part) in parts.iter().enumerate() {
            let bytes = match part {
                Part::Inline(bytes) => bytes.clone(),
                Part::Chunk(chunk) => self.chunk(*chunk, &parts[i..], &mut told).await?,
            };
            if out.send(Ok(bytes)).await.is_err() {
                // The reader has left.
                return Ok(());
            }
        }
        Ok(())
    }

    /// A chunk's file bytes. Whichever fetch brings it is told once in which order the `rest` is needed.
    async fn chunk(
        &mut self,
        chunk: ChunkIndex,
        rest: &[Part],
        told: &mut Option<ContentKey>,
    ) -> Result<Bytes, Failure> {
        let node = self.node.clone();
        loop {
            let source = self.source().await?;
            let key = source.key;
            if source.end.is_some() && *told != Some(key) {
                *told = Some(key);
                node.call(Call::Stream { key, ranges: ranges_of(rest) }).await?;
            }
            if self.wait_for_chunk(chunk).await? == Waited::Moved {
                continue;
            }
            match node.file_bytes(key, chunk).await {
                // Whoever began the fetch has taken it away meanwhile.
                Err(_) if self.source.as_mut().is_some_and(Source::moved) => {}
                read => return read,
            }
        }
    }
}

/// Waits until something is here or the fetch has ended; `None` if that takes longer than `most`.
async fn wait(
    source: &mut Source,
    here: impl Future<Output = ()>,
    most: Option<Duration>,
) -> Result<Option<Waited>, Failure> {
    let ended = async {
        match &mut source.end {
            Some(end) => end.await,
            None => std::future::pending().await,
        }
    };
    let late = async {
        match most {
            Some(most) => tokio::time::sleep(most).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = ended => match ended {
            Ok(Ok(_)) => {
                source.end = None;
                Ok(Some(Waited::Here))
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Ok(Some(Waited::Moved)),
        },
        () = here => Ok(Some(Waited::Here)),
        () = late => Ok(None),
    }
}

/// An error that says why nothing comes, once that has lasted too long: only while it is waited for, and only since
/// something last came.
async fn in_time(
    node: &NodeHandle,
    key: ContentKey,
    timeout: Option<Duration>,
    since: Instant,
) -> Result<(), Failure> {
    let Some(timeout) = timeout.filter(|timeout| since.elapsed() >= *timeout) else { return Ok(()) };
    match node.ask(|reply| Call::Idle { key, reply }).await? {
        Some((idle, why)) if idle >= timeout => Err(Failure::failed(why)),
        _ => Ok(()),
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
            Item::File { file, path, size, sure, .. } if current.is_none() && path.as_str() == self.path => {
                self.file = Some((file, size.filter(|_| sure)));
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
