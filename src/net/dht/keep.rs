//! When what goes to disk, and what becomes of what was there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::disk::{Batch, Disk, Kept};
use super::{BOTH, Network, unix_now};
use crate::dht::sweep::Entry;
use crate::net::scope::addr_groups;
use crate::net::task::Task;

/// What has changed is written so often, and the routing tables.
const WRITE: Duration = Duration::from_secs(10);
const SNAPSHOT: Duration = Duration::from_secs(120);
/// Keys that nobody has asked to be provided this long after the start are forgotten.
const FORGET: Duration = Duration::from_secs(3_600);
/// Peers of a table that are kept, and of those the ones that a start dials.
const MAX_PEERS: usize = 512;
const DIAL_FIRST: usize = 16;
/// Entries that a batch may have when the disk is behind; the others are told again at worst.
const MAX_TOLD: usize = 1 << 20;

/// The disk, and what waits for it.
#[derive(Debug, Default)]
pub struct Keeping {
    disk: Option<Disk>,
    loading: Option<oneshot::Receiver<Kept>>,
    batch: Batch,
    started: Option<Instant>,
    next: Option<Instant>,
    snapshot: Option<Instant>,
    /// When each key was told, of those that are not provided again yet.
    told: HashMap<Vec<u8>, (u64, u8)>,
    forget: Option<Instant>,
}

impl Keeping {
    pub fn new(dir: Option<&std::path::Path>) -> Keeping {
        let now = Instant::now();
        let mut keeping = Keeping::default();
        match dir.map(Disk::open) {
            None => {}
            Some(Ok((disk, loading))) => {
                keeping.disk = Some(disk);
                keeping.loading = Some(loading);
                keeping.started = Some(now);
                keeping.next = Some(now + WRITE);
                keeping.snapshot = Some(now + SNAPSHOT);
                keeping.forget = Some(now + FORGET);
            }
            Some(Err(e)) => tracing::warn!("the DHT's state will not be kept: {e}"),
        }
        keeping
    }

    pub fn wake(&self) -> Option<Instant> {
        self.next
    }

    pub fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// What was kept, once it has been read; never, if there is nothing to wait for.
    pub async fn loaded(&mut self) -> Kept {
        match &mut self.loading {
            Some(loading) => {
                let kept = loading.await.unwrap_or_default(); // the thread has said why
                self.loading = None;
                kept
            }
            None => std::future::pending().await,
        }
    }

    /// When a key was told before, and of how large a region.
    pub fn told_before(&mut self, name: &[u8]) -> (u64, u8) {
        self.told.remove(name).unwrap_or_default()
    }

    pub fn remember(&mut self, told: Vec<Entry>) {
        if self.disk.is_some() && self.batch.told.len() < MAX_TOLD {
            self.batch.told.extend(told);
        }
    }

    pub fn forget(&mut self, name: Vec<u8>) {
        if self.disk.is_some() {
            self.batch.forget.push(name);
        }
    }

    pub fn told_with(&mut self, addrs: Vec<Multiaddr>) {
        self.batch.told_with = Some(addrs);
    }
}

impl Task {
    /// Takes up what was kept of the last run.
    pub(in crate::net) fn take_up(&mut self, kept: Kept) {
        let now = unix_now();
        tracing::debug!("the DHT's state: {} told, {} peers", kept.own.len(), kept.table.len());
        self.dht.keeping.told = kept.own.into_iter().map(|e| (e.name, (e.told, e.depth))).collect();
        self.dht.wan.restore_told_with(kept.told_with);
        if let Some(kad) = self.kad(Network::Wan) {
            kad.inner.store_mut().restore(kept.foreign, now, addr_groups);
        }
        let mut dialed = 0;
        for (n, peer, addrs) in kept.table.into_iter().take(2 * MAX_PEERS) {
            self.serves(peer, &addrs, None, |m| (m == n).then_some(true));
            // Those that answer are known to be there, and stay in the table; a few make an entrance.
            if dialed < DIAL_FIRST && !self.swarm.is_connected(&peer) {
                dialed += 1;
                crate::net::dial::quietly(&mut self.swarm, peer, addrs);
            }
        }
        // What was asked to be provided meanwhile was told before, perhaps.
        let told = &mut self.dht.keeping.told;
        self.dht.wan.recall(|name| told.remove(name));
        self.own_addresses_changed();
    }

    fn table(&mut self) -> Vec<(Network, PeerId, Vec<Multiaddr>)> {
        let mut peers = Vec::new();
        for n in BOTH {
            let Some(kad) = self.kad(n) else { continue };
            let entries = kad.inner.kbuckets().flat_map(|b| {
                let of = |a: &libp2p::kad::Addresses| {
                    a.iter().map(|a| crate::net::swarm::split_peer(a).0).collect::<Vec<_>>()
                };
                b.iter().map(|e| (n, *e.node.key.preimage(), of(e.node.value))).collect::<Vec<_>>()
            });
            peers.extend(entries.take(MAX_PEERS));
        }
        peers
    }

    fn last_batch(&mut self) -> Batch {
        let mut batch = std::mem::take(&mut self.dht.keeping.batch);
        if let Some(kad) = self.kad(Network::Wan) {
            batch.foreign.extend(kad.inner.store_mut().take_changes());
        }
        batch
    }

    /// Writes what has changed, from time to time.
    pub(super) fn keep_due(&mut self, now: Instant) {
        if self.dht.keeping.next.is_none_or(|at| at > now) {
            return;
        }
        self.dht.keeping.next = Some(now + WRITE);
        if let Some(kad) = self.kad(Network::Wan) {
            kad.inner.store_mut().sweep(unix_now());
        }
        if self.dht.keeping.forget.is_some_and(|at| at <= now) {
            self.dht.keeping.forget = None;
            let gone = std::mem::take(&mut self.dht.keeping.told);
            self.dht.keeping.batch.forget.extend(gone.into_keys());
        }
        let snapshot = self.dht.keeping.snapshot.is_some_and(|at| at <= now);
        let mut batch = self.last_batch();
        if snapshot && !self.dht.keeping.is_loading() {
            self.dht.keeping.snapshot = Some(now + SNAPSHOT);
            batch.table = Some(self.table());
        }
        if let Some(disk) = &self.dht.keeping.disk
            && !batch.is_empty()
            && let Some(back) = disk.write(batch)
        {
            self.dht.keeping.batch = back;
        }
    }

    /// The end: what is known now is there at the next start. A process that ran for a moment and met nobody of the
    /// public DHT has learnt nothing that is worth waiting for the disk.
    pub(in crate::net) async fn keep_last(&mut self) {
        let mut batch = self.last_batch();
        let table = self.table();
        let brief = self.dht.keeping.started.is_some_and(|at| at.elapsed() < WRITE);
        if brief && !table.iter().any(|(network, ..)| *network == Network::Wan) {
            batch = Batch::default();
        } else if !self.dht.keeping.is_loading() {
            batch.table = Some(table);
        }
        if let Some(disk) = self.dht.keeping.disk.take() {
            disk.close(batch).await;
        }
    }
}
