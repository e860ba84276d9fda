//! What the DHTs' state leaves on disk: `dht.redb` in the data directory.
//!
//! A file of its own: all in it may be lost without loss to anybody (it is learnt or told again), so it is
//! thrown away when damaged, and its writes never stand between the index and the disk. One thread writes,
//! in batches; the network task never waits for it. It is opened for writing with the first batch: a process that
//! fetches one thing from a peer that it was told has nothing to keep, and makes no disk sync anything.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use libp2p::{Multiaddr, PeerId};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use super::Network;
use super::records::Change;
use crate::dht::sweep::Entry;

pub const FILE: &str = "dht.redb";
/// Batches that wait for the disk.
const QUEUE: usize = 4;
/// Memory that the database may keep of its file.
const CACHE: usize = 8 << 20;

/// multihash -> told (8 bytes), depth (1 byte).
const OWN: TableDefinition<&[u8], &[u8]> = TableDefinition::new("own");
/// key, peer -> until.
const FOREIGN: TableDefinition<(&[u8], &[u8]), u64> = TableDefinition::new("foreign");
/// peer -> seen, addresses.
const PROVIDERS: TableDefinition<&[u8], (u64, &[u8])> = TableDefinition::new("providers");
/// key -> until, value.
const VALUES: TableDefinition<&[u8], (u64, &[u8])> = TableDefinition::new("values");
/// network, peer -> addresses.
const TABLE: TableDefinition<(u8, &[u8]), &[u8]> = TableDefinition::new("table");
/// The addresses that our records bear.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// What was kept.
#[derive(Debug, Default)]
pub struct Kept {
    pub own: Vec<Entry>,
    /// Providers before their records.
    pub foreign: Vec<Change>,
    pub table: Vec<(Network, PeerId, Vec<Multiaddr>)>,
    pub told_with: Vec<Multiaddr>,
}

/// What to keep from now on.
#[derive(Debug, Default)]
pub struct Batch {
    pub told: Vec<Entry>,
    pub forget: Vec<Vec<u8>>,
    pub foreign: Vec<Change>,
    /// The whole of both routing tables, if it is time.
    pub table: Option<Vec<(Network, PeerId, Vec<Multiaddr>)>>,
    pub told_with: Option<Vec<Multiaddr>>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
            && self.forget.is_empty()
            && self.foreign.is_empty()
            && self.table.is_none()
            && self.told_with.is_none()
    }
}

#[derive(Debug)]
pub struct Disk {
    batches: SyncSender<Batch>,
    thread: JoinHandle<()>,
}

impl Disk {
    /// Opens the file in `dir` in a thread of its own, which then writes; what it holds comes over the
    /// receiver.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn open(dir: &Path) -> std::io::Result<(Disk, oneshot::Receiver<Kept>)> {
        let path = dir.join(FILE);
        let (batches, todo) = sync_channel(QUEUE);
        let (loaded, kept) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name("dht-disk".into()).spawn(move || run(&path, loaded, &todo))?;
        Ok((Disk { batches, thread }, kept))
    }

    /// Hands a batch over; given back if the disk is behind.
    pub fn write(&self, batch: Batch) -> Option<Batch> {
        match self.batches.try_send(batch) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => None,
            Err(TrySendError::Full(batch)) => Some(batch),
        }
    }

    /// Writes the last batch, and waits for it.
    pub async fn close(self, last: Batch) {
        let closing = tokio::task::spawn_blocking(move || {
            let _ = self.batches.send(last); // a thread that has ended has said why
            drop(self.batches);
            let _ = self.thread.join();
        });
        let _ = closing.await;
    }
}

fn run(path: &PathBuf, loaded: oneshot::Sender<Kept>, todo: &Receiver<Batch>) {
    let (mut db, kept) = match read_before(path) {
        Ok(kept) => (None, kept),
        Err(error) => {
            tracing::warn!("{}: {error}; it is made anew", path.display());
            let anew = std::fs::remove_file(path).map_err(redb::Error::Io).and_then(|()| open(path));
            match anew {
                Ok(db) => (Some(db), Kept::default()),
                Err(error) => return not_kept(path, &error),
            }
        }
    };
    let _ = loaded.send(kept); // the node may have ended already
    while let Ok(batch) = todo.recv() {
        if batch.is_empty() {
            continue;
        }
        let opened = match db.take().map_or_else(|| open(path), Ok) {
            Ok(opened) => opened,
            Err(error) => return not_kept(path, &error),
        };
        if let Err(error) = write(&opened, &batch) {
            tracing::warn!("{}: {error}", path.display());
        }
        db = Some(opened);
    }
}

fn not_kept(path: &Path, error: &redb::Error) {
    tracing::warn!("{}: {error}; the DHT's state will not be kept", path.display());
}

/// What an earlier run kept. A file that was not closed has to be mended first, which is to write to it.
fn read_before(path: &Path) -> Result<Kept, redb::Error> {
    if !path.exists() {
        return Ok(Kept::default());
    }
    match Database::builder().set_cache_size(CACHE).open_read_only(path) {
        Ok(db) => read(&db),
        Err(redb::DatabaseError::RepairAborted) => read(&open(path)?),
        Err(error) => Err(error.into()),
    }
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    let db = Database::builder().set_cache_size(CACHE).create(path)?;
    let txn = db.begin_write()?;
    txn.open_table(OWN)?;
    txn.open_table(FOREIGN)?;
    txn.open_table(PROVIDERS)?;
    txn.open_table(VALUES)?;
    txn.open_table(TABLE)?;
    txn.open_table(META)?;
    txn.commit()?;
    Ok(db)
}

fn read(db: &impl ReadableDatabase) -> Result<Kept, redb::Error> {
    let txn = db.begin_read()?;
    let mut kept = Kept::default();
    for item in txn.open_table(OWN)?.iter()? {
        let (name, told) = item?;
        if let [t @ .., depth] = told.value()
            && let Ok(t) = <[u8; 8]>::try_from(t)
        {
            let told = u64::from_be_bytes(t);
            kept.own.push(Entry { name: name.value().to_vec(), told, depth: *depth });
        }
    }
    for item in txn.open_table(PROVIDERS)?.iter()? {
        let (peer, value) = item?;
        let (seen, addrs) = value.value();
        if let Ok(peer) = PeerId::from_bytes(peer.value()) {
            kept.foreign.push(Change::Provider { peer, addrs: addrs_of(addrs), seen });
        }
    }
    for item in txn.open_table(FOREIGN)?.iter()? {
        let (key, until) = item?;
        let (key, peer) = key.value();
        if let Ok(peer) = PeerId::from_bytes(peer) {
            kept.foreign.push(Change::Record { key: key.to_vec(), peer, until: Some(until.value()) });
        }
    }
    for item in txn.open_table(VALUES)?.iter()? {
        let (key, value) = item?;
        let (until, bytes) = value.value();
        kept.foreign.push(Change::Value { key: key.value().to_vec(), value: Some((bytes.to_vec(), until)) });
    }
    for item in txn.open_table(TABLE)?.iter()? {
        let (key, addrs) = item?;
        let (network, peer) = key.value();
        let network = if network == 0 { Network::Wan } else { Network::Lan };
        if let Ok(peer) = PeerId::from_bytes(peer) {
            kept.table.push((network, peer, addrs_of(addrs.value())));
        }
    }
    if let Some(addrs) = txn.open_table(META)?.get("told_with")? {
        kept.told_with = addrs_of(addrs.value());
    }
    Ok(kept)
}

fn write(db: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    {
        let mut own = txn.open_table(OWN)?;
        for name in &batch.forget {
            own.remove(&name[..])?;
        }
        for entry in &batch.told {
            let mut value = entry.told.to_be_bytes().to_vec();
            value.push(entry.depth);
            own.insert(&entry.name[..], &value[..])?;
        }
        let mut foreign = txn.open_table(FOREIGN)?;
        let mut providers = txn.open_table(PROVIDERS)?;
        let mut values = txn.open_table(VALUES)?;
        for change in &batch.foreign {
            match change {
                Change::Provider { peer, addrs, seen } => {
                    providers.insert(&peer.to_bytes()[..], (*seen, &bytes_of(addrs)[..]))?;
                }
                Change::Record { key, peer, until: Some(until) } => {
                    foreign.insert((&key[..], &peer.to_bytes()[..]), until)?;
                }
                Change::Record { key, peer, until: None } => {
                    foreign.remove((&key[..], &peer.to_bytes()[..]))?;
                }
                Change::Value { key, value: Some((bytes, until)) } => {
                    values.insert(&key[..], (*until, &bytes[..]))?;
                }
                Change::Value { key, value: None } => drop(values.remove(&key[..])?),
            }
        }
        if let Some(peers) = &batch.table {
            txn.delete_table(TABLE)?;
            let mut table = txn.open_table(TABLE)?;
            for (network, peer, addrs) in peers {
                let network = u8::from(*network == Network::Lan);
                table.insert((network, &peer.to_bytes()[..]), &bytes_of(addrs)[..])?;
            }
        }
        if let Some(addrs) = &batch.told_with {
            txn.open_table(META)?.insert("told_with", &bytes_of(addrs)[..])?;
        }
    }
    txn.commit()?;
    Ok(())
}

/// Addresses one behind the other, each after its length in two bytes.
fn bytes_of(addrs: &[Multiaddr]) -> Vec<u8> {
    let mut out = Vec::new();
    for addr in addrs {
        if let Ok(len) = u16::try_from(addr.len()) {
            out.extend(len.to_be_bytes());
            out.extend(addr.as_ref());
        }
    }
    out
}

fn addrs_of(mut bytes: &[u8]) -> Vec<Multiaddr> {
    let mut addrs = Vec::new();
    while let [a, b, rest @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*a, *b]));
        let Some((addr, rest)) = rest.split_at_checked(len) else { break };
        addrs.extend(Multiaddr::try_from(addr.to_vec()));
        bytes = rest;
    }
    addrs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> Multiaddr {
        format!("/ip4/1.2.3.{n}/tcp/1").parse().unwrap()
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart_and_a_damaged_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, kept) = Disk::open(dir.path()).unwrap();
        assert!(kept.await.unwrap().own.is_empty());
        let peer = PeerId::random();
        let entry = Entry { name: b"n".to_vec(), told: 7, depth: 3 };
        let record = Change::Record { key: b"k".to_vec(), peer, until: Some(9) };
        let provider = Change::Provider { peer, addrs: vec![addr(1), addr(2)], seen: 4 };
        let table = vec![(Network::Lan, peer, vec![addr(3)]), (Network::Wan, peer, vec![addr(4)])];
        disk.close(Batch {
            told: vec![entry.clone()],
            forget: vec![b"n".to_vec(), b"other".to_vec()],
            foreign: vec![record.clone(), provider.clone()],
            table: Some(table.clone()),
            told_with: Some(vec![addr(5)]),
        })
        .await;
        let (disk, kept) = Disk::open(dir.path()).unwrap();
        let kept = kept.await.unwrap();
        assert_eq!(
            (kept.own, kept.foreign, kept.told_with),
            (vec![entry], vec![provider, record], vec![addr(5)])
        );
        assert_eq!(kept.table.len(), 2);
        assert!(table.iter().all(|t| kept.table.contains(t)));
        disk.close(Batch::default()).await;
        std::fs::write(dir.path().join(FILE), b"no database").unwrap();
        let (disk, kept) = Disk::open(dir.path()).unwrap();
        assert!(kept.await.unwrap().own.is_empty());
        disk.close(Batch::default()).await;
    }

    #[tokio::test]
    async fn who_has_nothing_to_keep_does_not_touch_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (disk, kept) = Disk::open(dir.path()).unwrap();
        assert!(kept.await.unwrap().own.is_empty());
        disk.close(Batch::default()).await;
        assert!(!path.exists());
        let (disk, _) = Disk::open(dir.path()).unwrap();
        let told = vec![Entry { name: b"n".to_vec(), told: 7, depth: 3 }];
        disk.close(Batch { told: told.clone(), ..Batch::default() }).await;
        let written = (std::fs::read(&path).unwrap(), path.metadata().unwrap().modified().unwrap());
        let (disk, kept) = Disk::open(dir.path()).unwrap();
        assert_eq!(kept.await.unwrap().own, told);
        disk.close(Batch::default()).await;
        assert!(written == (std::fs::read(&path).unwrap(), path.metadata().unwrap().modified().unwrap()));
    }
}
