//! What the driver is asked, and what comes back to it from work done elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use crate::bitfield::Bitfield;
use crate::content::Cid;
use crate::store::{ContentInfo, StoreError};
use crate::units::{ChunkIndex, ChunkRange, ContentKey};

use super::api::{Banned, Failure, PeerAccount, Shared};
use super::contents::{Counter, Waiter};
use super::limits::Limits;
use super::walk::Walked;

/// What the handles ask of the driver.
pub enum Call {
    /// The content is complete and is to be served from now on.
    Serve {
        known: Box<Known>,
        reply: oneshot::Sender<()>,
    },
    /// A fetch from these, and from those that every fetch asks first, is about to begin.
    Dial {
        peers: Vec<Multiaddr>,
    },
    Fetch(Box<FetchCall>),
    /// What was served or fetched before a restart, and cannot be now.
    NotTakenUp {
        info: Box<ContentInfo>,
        why: String,
    },
    /// Serve it no more; it stays in the store.
    Withdraw {
        key: ContentKey,
        reply: oneshot::Sender<()>,
    },
    /// It is gone from the store.
    Forget {
        key: ContentKey,
        reply: oneshot::Sender<()>,
    },
    /// These chunks are held no longer.
    Lost {
        key: ContentKey,
        ranges: Vec<ChunkRange>,
    },
    /// Reads through the fetch of this root, if there is one: its key. Told how that ends, or (closed) that it gives
    /// way to another.
    Read {
        root: Cid,
        peers: Vec<Multiaddr>,
        end: oneshot::Sender<Result<Shared, Failure>>,
        reply: oneshot::Sender<Option<ContentKey>>,
    },
    /// For how long nothing has come of a fetch, and why.
    Idle {
        key: ContentKey,
        reply: oneshot::Sender<Option<(Duration, String)>>,
    },
    /// Fetch these next, in this order.
    Stream {
        key: ContentKey,
        ranges: Vec<ChunkRange>,
    },
    /// Answers when the chunk is held.
    WaitFor {
        key: ContentKey,
        chunk: ChunkIndex,
        reply: oneshot::Sender<()>,
    },
    /// Answers after the next walk of the manifest.
    WaitNodes {
        key: ContentKey,
        reply: oneshot::Sender<()>,
    },
    /// How a content is told to the DHT from now on.
    Provide {
        root: Cid,
        mode: super::config::Providing,
    },
    /// A root is paused from now on, or no longer.
    Pause {
        root: Cid,
        paused: bool,
        reply: oneshot::Sender<()>,
    },
    View {
        reply: oneshot::Sender<View>,
    },
    /// These limits hold from now on.
    Limits(Box<Limits>),
    /// What went between us and each connected peer.
    Accounts {
        reply: oneshot::Sender<BTreeMap<PeerId, PeerAccount>>,
    },
    Banned {
        reply: oneshot::Sender<Vec<Banned>>,
    },
    /// Take a ban back; answers whether there was one.
    Pardon {
        peer: PeerId,
        reply: oneshot::Sender<bool>,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// A content whose disk has been compared with its records, for which much may have had to be hashed: so the caller
/// does that, and never the driver.
pub struct Known {
    pub info: ContentInfo,
    pub have: Bitfield,
}

pub struct FetchCall {
    pub known: Known,
    pub size_hint: Option<u64>,
    pub peers: Vec<Multiaddr>,
    /// For a reading: chunks are fetched once they are asked for.
    pub hold: bool,
    pub waiter: Option<Waiter>,
}

/// What a status shows beyond what the store knows.
#[derive(Default)]
pub struct View {
    pub connected: u32,
    pub down: Counter,
    pub up: Counter,
    pub contents: BTreeMap<ContentKey, ContentView>,
}

#[derive(Clone, Default)]
pub struct ContentView {
    pub state: String,
    pub stuck: Option<super::stuck::Reason>,
    pub peers: u32,
    pub down_rate: f64,
    pub up_rate: f64,
}

/// Results of slow work done off the driver, on the runtime's blocking threads.
pub(super) enum Slow {
    Walked(Box<Walked>),
    FirstNodes { key: ContentKey, nodes: Vec<(Cid, bytes::Bytes)> },
    Checkpointed(Result<(), StoreError>),
    Finished { key: ContentKey, result: Result<(PathBuf, u64), StoreError>, seed: bool },
    Blocks { key: ContentKey, hashes: Vec<crate::content::Hash> },
    Part { root: Cid, part: Option<super::parts::Part> },
    Specs(super::bitswap::Specs),
    Looked(super::bitswap::Looked),
    Withdrawn { key: ContentKey, have: Bitfield },
    Kept { result: Result<(), StoreError>, ids: BTreeSet<PeerId> },
}
