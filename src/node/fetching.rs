//! The life of a fetch: the manifest's walk, progress, the end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use libp2p::Multiaddr;
use tokio::sync::oneshot;

use crate::bitfield::Bitfield;
use crate::content::Cid;
use crate::content::manifest::Walker;
use crate::engine::event::{ContentEvent, Fault, PeerEvent};
use crate::link::Link;
use crate::net::api::Command;
use crate::store::{ContentInfo, StoreError};
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey};

use super::api::{Failure, Progress, Shared};
use super::contents::{Content, Fetch, Stopped, WantedNodes};
use super::driver::{Driver, FetchCall, Known, Slow};
use super::stuck::Reason;
use super::walk::{Walk, Walked, walk};

impl Driver {
    pub(super) fn begin_fetch(&mut self, call: FetchCall) {
        let FetchCall { known: Known { info, have }, size_hint, peers, hold, waiter } = call;
        let (key, now) = (info.key, self.clock.now());
        let running = self.contents.get_mut(key).and_then(|c| c.fetch.as_mut());
        if let Some(fetch) = running {
            fetch.waiters.extend(waiter);
            return self.add_sources(key, peers);
        }
        // Peers speak of a content by its root: one fetch owns it, and what is read is read through that.
        let same = |(k, c): (ContentKey, &Content)| {
            let fetch = c.fetch.as_ref().filter(|_| k != key && c.root == info.root)?;
            Some((k, fetch.hold))
        };
        let others: Vec<(ContentKey, bool)> = self.contents.iter().filter_map(same).collect();
        if hold && !others.is_empty() {
            return; // whoever waits finds the channel closed, and looks again
        }
        if hold && self.paused.contains(&info.root) {
            let unread = Failure::failed(super::pausing::UNREAD);
            waiter.into_iter().for_each(|w| drop(w.reply.send(Err(unread.clone()))));
            return;
        }
        if others.iter().any(|(_, hold)| !hold) {
            let why = "it is being fetched to another place; get it again when that is done";
            return match waiter {
                Some(w) => drop(w.reply.send(Err(Failure::failed(why)))),
                None => self.not_taken_up(&info, Stopped { why: why.to_owned(), reason: Reason::Elsewhere }),
            };
        }
        for (reading, _) in others {
            self.deactivate(reading);
            if let Some(content) = self.contents.get_mut(reading) {
                content.seeding = false;
            }
        }
        // What its last fetch or a peer's join left with the engine is of no use to this one, and a root that was
        // served as a part of something names the fetch from now on.
        self.deactivate(key);
        self.forget_part(&info.root);
        let mut content = Content::of(&info, have);
        content.seeding = true;
        content.paused = self.paused.contains(&info.root);
        content.fetch = Some(Fetch {
            walker: Some(Walker::new(info.root)),
            twin: None,
            arrived: Vec::new(),
            early: None,
            wanted: WantedNodes::default(),
            manifest_done: false,
            waiters: waiter.into_iter().collect(),
            readers: Vec::new(),
            last_progress: now,
            queries: 0,
            searching: false,
            sources: BTreeSet::new(),
            total_hint: size_hint,
            finishing: false,
            hold,
            streamed: Vec::new(),
        });
        // The walk below tells the chunks again, from the first on.
        content.chunks = 0;
        self.contents.insert(key, content);
        self.bitswap_serves_anew();
        self.activate(key, true);
        let first = self.first_peers.clone();
        self.add_sources(key, peers.into_iter().chain(first));
        self.link_up_with_connected();
        self.try_again();
        self.walk_on(key);
    }

    /// A reading of this root goes through the fetch of it, if one runs.
    pub(super) fn read_through(
        &mut self,
        root: Cid,
        peers: Vec<Multiaddr>,
        end: oneshot::Sender<Result<Shared, Failure>>,
    ) -> Option<ContentKey> {
        let fetched = |(_, c): &(ContentKey, &Content)| c.root == root && c.fetch.is_some();
        let key = self.contents.iter().find(fetched).map(|(key, _)| key)?;
        if self.paused.contains(&root) {
            let _ = end.send(Err(Failure::failed(super::pausing::UNREAD)));
            return Some(key);
        }
        let fetch = self.contents.get_mut(key)?.fetch.as_mut()?;
        fetch.readers.retain(|reader| !reader.is_closed());
        fetch.readers.push(end);
        self.add_sources(key, peers);
        Some(key)
    }

    /// For how long nothing has come of a fetch, and why.
    pub(super) fn idle(&self, key: ContentKey) -> Option<(Duration, String)> {
        let fetch = self.contents.get(key)?.fetch.as_ref()?;
        let idle = self.clock.now().since(fetch.last_progress);
        Some((idle, self.why_nothing(key, idle)))
    }

    /// Nobody waits for it any more: that it does not go on is seen in the status alone.
    pub(super) fn not_taken_up(&mut self, info: &ContentInfo, stopped: Stopped) {
        if self.contents.get(info.key).is_none() {
            let content = Content { seeding: false, ..Content::of(info, Bitfield::new()) };
            self.contents.insert(info.key, Content { stopped: Some(stopped), ..content });
        }
    }

    /// Walks the manifest as far as the nodes that are here allow.
    pub(super) fn walk_on(&mut self, key: ContentKey) {
        let Some(fetch) = self.contents.get_mut(key).and_then(|c| c.fetch.as_mut()) else { return };
        let Some(walker) = fetch.walker.take() else { return };
        let arrived = std::mem::take(&mut fetch.arrived);
        let job = Walk { content: key, walker, twin: fetch.twin, arrived };
        let store = self.store.clone();
        self.slowly(move || Slow::Walked(Box::new(walk(&*store, job))));
    }

    /// Inner nodes came: in answer to a request (`lacking` are those the peer does not have), or with the
    /// answer to a join, unasked, which is as good while the manifest is not known.
    pub(super) fn nodes_arrived(
        &mut self,
        key: ContentKey,
        from: PeerKey,
        nodes: Vec<(Cid, Bytes)>,
        lacking: Option<Vec<Cid>>,
    ) {
        let now = self.clock.now();
        let Some(fetch) = self.contents.get_mut(key).and_then(|c| c.fetch.as_mut()) else { return };
        if fetch.manifest_done {
            return;
        }
        let mut got = Vec::new();
        for (cid, bytes) in nodes {
            let wanted = fetch.wanted.take(&cid);
            if wanted.is_some() {
                fetch.last_progress = now;
            }
            if wanted.is_some() || lacking.is_none() {
                fetch.arrived.push((from, cid, bytes));
            }
            got.extend(wanted);
        }
        match lacking {
            Some(lacking) => {
                let lacking = lacking.iter().filter_map(|cid| fetch.wanted.id(cid)).collect();
                self.engine.handle_peer(now, from, PeerEvent::Nodes { content: key, got, lacking });
            }
            None if !got.is_empty() => self.engine.handle_content(now, key, ContentEvent::NodesHeld(got)),
            None => {}
        }
        self.walk_on(key);
    }

    pub(super) fn walked(&mut self, walked: Walked) {
        let (key, now) = (walked.content, self.clock.now());
        let waiting: Vec<_> = self.node_waiters.extract_if(.., |(k, _)| *k == key).collect();
        for (_, reply) in waiting {
            let _ = reply.send(());
        }
        let Some(content) = self.contents.get_mut(key) else { return };
        let Some(fetch) = &mut content.fetch else { return };
        (fetch.walker, fetch.twin) = (Some(walked.walker), walked.twin);
        if let Some(error) = walked.error {
            return match error {
                super::walk::WalkError::Store(e) => self.store_failed(key, &e),
                e => self.fail(key, Failure::failed(e.to_string())),
            };
        }
        let grown: u32 = walked.grew.iter().map(|(count, _)| count).sum();
        if grown > 0 || walked.done {
            fetch.last_progress = now;
        }
        let (from, mut grew) = (content.chunks, None);
        content.chunks += grown;
        let grow = |(count, len)| ContentEvent::Grew { count, len };
        let mut news: Vec<ContentEvent> = walked.grew.into_iter().map(grow).collect();
        if let Some(range) = ChunkRange::new(from, from + grown) {
            grew = Some(range);
            if fetch.hold {
                news.push(ContentEvent::Priority { range, level: 0 });
                let asked = fetch.streamed.iter().filter_map(|asked| {
                    ChunkRange::new(asked.start().max(range.start()), asked.end().min(range.end()))
                });
                news.extend(asked.map(|range| ContentEvent::Priority { range, level: 1 }));
                news.extend(window(&fetch.streamed));
            }
            for &(chunk, bytes) in &walked.copied {
                if content.have.insert(chunk) {
                    content.held_bytes += bytes;
                }
            }
            // What an earlier run of this fetch, or another content, already has.
            let within =
                |r: ChunkRange| ChunkRange::new(r.start().max(range.start()), r.end().min(range.end()));
            news.extend(content.have.ranges().filter_map(within).map(ContentEvent::Held));
            // What another fetch wants as well.
            news.extend(self.names.shared(key, &walked.names));
        }
        if walked.done {
            fetch.manifest_done = true;
            news.push(ContentEvent::ManifestComplete);
        }
        // All at once, so that nobody is asked for what is here or under way.
        self.engine.handle_content_all(now, key, news);
        let wanted = fetch.wanted.add(walked.missing);
        if !wanted.is_empty() {
            self.engine.handle_content(now, key, ContentEvent::NodesWanted(wanted));
        }
        let more = walked.more || !fetch.arrived.is_empty();
        self.take_early(key);
        if let Some(range) = grew {
            self.bitswap_grew(key, range);
        }
        self.provide(key);
        self.bitswap_news();
        for peer in walked.bad {
            self.faulty(peer, Fault::BadBytes);
        }
        if more {
            self.walk_on(key);
        }
    }

    /// The engine has everything that was wanted.
    pub(super) fn finished(&mut self, key: ContentKey) {
        let Some(fetch) = self.contents.get_mut(key).and_then(|c| c.fetch.as_mut()) else { return };
        if fetch.hold || fetch.finishing || !fetch.manifest_done {
            return;
        }
        fetch.finishing = true;
        // A fetch that was taken up again at the start has nobody waiting: it was to be seeded.
        let seed = fetch.waiters.is_empty() || fetch.waiters.iter().any(|w| w.seed);
        let store = self.store.clone();
        self.slowly(move || {
            let finish = || {
                let path = store.finish_fetch(key)?;
                store.set_seeding(key, seed)?;
                Ok((path, store.info(key)?.size))
            };
            Slow::Finished { key, result: finish(), seed }
        });
    }

    pub(super) fn fetch_finished(
        &mut self,
        key: ContentKey,
        result: Result<(PathBuf, u64), StoreError>,
        seed: bool,
    ) {
        let (path, size) = match result {
            Ok(done) => done,
            Err(e) => {
                if let Some(fetch) = self.contents.get_mut(key).and_then(|c| c.fetch.as_mut()) {
                    fetch.finishing = false;
                }
                return self.store_failed(key, &e);
            }
        };
        let Some(content) = self.contents.get_mut(key) else { return };
        content.complete = true;
        // Its bytes are to be synced with the next checkpoint.
        self.checkpoints.noted();
        let Some(fetch) = content.fetch.take() else { return };
        self.names.forget(key);
        let link = Link { size: Some(size), name: content.name.clone(), ..Link::new(content.root) };
        let shared =
            Shared { cid: content.root.to_string(), link: link.to_string(), size, path, ..Shared::default() };
        let waiting = fetch.waiters.into_iter().map(|w| w.reply);
        for reply in waiting.chain(fetch.readers) {
            let _ = reply.send(Ok(shared.clone()));
        }
        content.seeding = seed;
        self.bitswap_forgets(key);
        self.bitswap_serves_anew();
        self.provide(key);
    }

    /// The fetch cannot go on; what it has stays for the next try. That is said in the status too: nobody may be
    /// waiting for it, or not any more.
    pub(super) fn fail(&mut self, key: ContentKey, failure: Failure) {
        let stopped = Stopped::failed(&failure);
        self.end_fetch(key, failure);
        if let Some(content) = self.contents.get_mut(key) {
            content.stopped = Some(stopped);
        }
    }

    /// Nothing is fetched of it from now on, for now.
    fn end_fetch(&mut self, key: ContentKey, failure: Failure) {
        let now = self.clock.now();
        let Some(content) = self.contents.get_mut(key) else { return };
        let Some(fetch) = content.fetch.take() else { return };
        let waiting = fetch.waiters.into_iter().map(|w| w.reply);
        for reply in waiting.chain(fetch.readers) {
            let _ = reply.send(Err(failure.clone()));
        }
        content.all_left();
        let active = std::mem::take(&mut content.active);
        self.names.forget(key);
        self.bitswap_forgets(key);
        if active {
            self.engine.handle_content(now, key, ContentEvent::Removed);
        }
    }

    /// Our own disk is at fault: stop asking for what cannot be kept.
    pub(super) fn store_failed(&mut self, key: ContentKey, error: &StoreError) {
        self.fail(key, Failure::failed(error.to_string()));
        let disk =
            matches!(error, StoreError::DiskFull { .. } | StoreError::Io { .. } | StoreError::Index(_));
        if let Some(stopped) = self.contents.get_mut(key).and_then(|c| c.stopped.as_mut()).filter(|_| disk) {
            stopped.reason = Reason::Disk;
        }
    }

    /// `cat`: these chunks, in this order, now.
    pub(super) fn stream(&mut self, key: ContentKey, ranges: &[ChunkRange]) {
        let now = self.clock.now();
        let priority = |&range| ContentEvent::Priority { range, level: 1 };
        let events = ranges.iter().map(priority).chain(window(ranges));
        self.engine.handle_content_all(now, key, events);
        if let Some(fetch) = self.contents.get_mut(key).and_then(|c| c.fetch.as_mut()) {
            fetch.streamed = ranges.to_vec();
        }
    }

    /// Tells those who wait how far it is, and gives up those who waited too long or left.
    pub(super) fn tell_progress(&mut self) {
        let mut abandoned = Vec::new();
        let keys: Vec<ContentKey> =
            self.contents.iter().filter(|(_, c)| c.fetch.is_some()).map(|(k, _)| k).collect();
        for key in keys {
            let (state, stuck) = self.state_of(key);
            let now = self.clock.now();
            let idle = |f: &Fetch| now.since(f.last_progress);
            let idle = self.contents.get(key).and_then(|c| c.fetch.as_ref()).map(idle).unwrap_or_default();
            let why = self.why_nothing(key, idle);
            let Some(content) = self.contents.get_mut(key) else { continue };
            let paused = content.paused;
            let peers = content.members.len() as u32;
            let Some(fetch) = &mut content.fetch else { continue };
            let size = fetch.walker.as_ref().map(Walker::size).filter(|_| fetch.manifest_done);
            // Both are what others claim, the one of a folder's files and the other of the link.
            let total = size.or(fetch.total_hint).map(|total| total.max(content.held_bytes));
            let progress = Progress {
                done: content.held_bytes,
                total,
                files: 0,
                rate: content.down.rate(),
                peers,
                state,
                stuck,
            };
            let had_waiters = !fetch.waiters.is_empty();
            let mut kept = Vec::new();
            for w in fetch.waiters.drain(..) {
                if w.timeout.is_some_and(|t| idle >= t && !paused) {
                    let _ = w.reply.send(Err(Failure::failed(why.as_str())));
                } else if !w.reply.is_closed() {
                    // A reader that does not keep up misses a line, which the next one makes good.
                    let _ = w.progress.try_send(progress.clone());
                    kept.push(w);
                }
            }
            if had_waiters && kept.is_empty() && !fetch.finishing {
                abandoned.push(key);
            }
            fetch.waiters = kept;
        }
        for key in abandoned {
            // Whoever reads through it goes on without it.
            if let Some(fetch) = self.contents.get_mut(key).and_then(|c| c.fetch.as_mut()) {
                fetch.readers.clear();
            }
            self.end_fetch(key, Failure::failed("abandoned"));
        }
    }

    /// The engine finds too little supply.
    pub(super) fn find_peers(&mut self, key: ContentKey) {
        let query = crate::net::api::QueryId(self.next_query);
        let Some(content) = self.contents.get_mut(key) else { return };
        let hash = *content.root.hash();
        let Some(fetch) = &mut content.fetch else { return };
        if fetch.searching {
            return;
        }
        fetch.searching = true;
        fetch.queries += 1;
        self.next_query += 1;
        self.queries.insert(query, key);
        self.command(Command::FindProviders { query, hash });
        let first = self.first_peers.clone();
        self.add_sources(key, first);
        self.ask_bitswap_again(key);
        self.try_again();
    }
}

/// These are needed one after the other, from now on.
fn window(ranges: &[ChunkRange]) -> Option<ContentEvent> {
    let start = ranges.first().and_then(|r| ChunkIndex::new(r.start()))?;
    let count = ranges.iter().map(|r| r.len()).sum();
    Some(ContentEvent::Window { start, count, per_chunk: Duration::from_millis(100) })
}
