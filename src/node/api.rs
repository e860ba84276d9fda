//! What can be asked of a node, as plain values: the control API sends exactly these as JSON, and the
//! command line prints them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::content::manifest::Meta;
use crate::net::api::PeerInfo;
use crate::net::dht::{ProvideStatus, Provided};

use super::config::{Change, Rate, Slots};

pub use super::stuck::Reason;

/// `add` and `share`: one path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddRequest {
    /// Absolute.
    pub path: PathBuf,
    /// A profile's name; `v1-256k` if none is given.
    #[serde(default)]
    pub profile: Option<String>,
    #[serde(default)]
    pub hidden: bool,
    #[serde(default)]
    pub preserve_mode: bool,
    #[serde(default)]
    pub preserve_mtime: bool,
    /// Compute the CID and keep nothing.
    #[serde(default)]
    pub only_hash: bool,
    /// What the DHT is told of it: `roots`, `all` or `none`; as the setting says if nothing is given.
    #[serde(default)]
    pub provide: Option<String>,
}

/// A content of ours, complete: what `add`, `share` and `get` print.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    pub cid: String,
    pub link: String,
    /// Sum of the files' bytes.
    pub size: u64,
    /// Absolute.
    pub path: PathBuf,
    /// Entries left out, and why (at most 16 are named).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// It was paused, and is served to nobody until it is resumed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// `get`: one link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetRequest {
    pub link: String,
    /// The exact final path, absolute. `None`: the link's name, or the CID, in `folder`.
    #[serde(default)]
    pub dest: Option<PathBuf>,
    /// Absolute.
    pub folder: PathBuf,
    #[serde(default)]
    pub force: bool,
    /// Multiaddrs to ask first.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Go on serving once complete.
    #[serde(default)]
    pub seed: bool,
    /// As in [`AddRequest`].
    #[serde(default)]
    pub provide: Option<String>,
    /// Seconds without any progress after which to give up.
    #[serde(default)]
    pub timeout: Option<f64>,
}

/// `ls` and `cat`: one link.
#[derive(Clone, Debug, Default)]
pub struct ReadRequest {
    pub link: String,
    /// Multiaddrs to ask first.
    pub peers: Vec<String>,
    /// Seconds for which what is needed does not come, after which to give up.
    pub timeout: Option<f64>,
}

/// Where a fetch or an import stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of files done.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: Option<u64>,
    /// Files seen so far.
    pub files: u64,
    /// Bytes a second, of the last seconds.
    pub rate: f64,
    /// Peers that have something of it.
    pub peers: u32,
    /// One line: what it is doing, or waiting for.
    pub state: String,
    /// What keeps it from going on, once nothing has come for a while (`network.stuck_after`).
    #[serde(default)]
    pub stuck: Option<Reason>,
}

/// A line of the answer to a request that takes time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Progress(Progress),
    Done(Shared),
    Verified(Verified),
    /// A look-up: how far it is, a provider, its end.
    Finding(Finding),
    Found(FoundProvider),
    FoundAll(Finding),
    Error(Failure),
}

/// A look-up's figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub cid: String,
    pub providers: usize,
    /// Peers asked, and of these who answered and who did not; the others need not.
    pub asked: u32,
    pub answered: u32,
    pub failed: u32,
    /// The most answers that stood behind one another.
    pub hops: u32,
    /// Since the request.
    pub ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundProvider {
    pub peer_id: String,
    /// None: its addresses would have to be looked up.
    pub addrs: Vec<String>,
    /// From the request until it was found.
    pub ms: u64,
}

/// `provide`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProvideRequest {
    /// A content of ours: CID, link or path.
    pub what: String,
    #[serde(default)]
    pub verify: bool,
}

/// What came of it in the public DHT and in the local one; `None`: nothing could be told there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProvidedLine {
    pub cid: String,
    pub wan: Option<Provided>,
    pub lan: Option<Provided>,
}

/// How the node stands in the DHTs.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct DhtStatus {
    pub wan: ProvideStatus,
    pub lan: ProvideStatus,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One line, lowercase: the thing, the cause, the way out.
    pub message: String,
    /// The request itself was wrong (exit code 2), not its execution (1).
    #[serde(default)]
    pub usage: bool,
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), usage: true }
    }

    pub fn failed(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), usage: false }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verified {
    pub cid: String,
    pub path: PathBuf,
    pub chunks: u32,
    pub lost_chunks: u64,
    /// Files that no longer hold what was shared.
    pub changed: Vec<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// True if a daemon answered.
    pub daemon: bool,
    pub version: String,
    pub peer_id: String,
    pub listen: Vec<String>,
    pub peers: u32,
    pub uptime_s: f64,
    /// Bytes a second, of the last seconds.
    pub down_rate: f64,
    pub up_rate: f64,
    /// Bytes since the start.
    pub downloaded: u64,
    pub uploaded: u64,
    /// `None` without a network.
    #[serde(default)]
    pub dht: Option<DhtStatus>,
    pub contents: Vec<ContentStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContentStatus {
    pub cid: String,
    pub link: String,
    pub name: Option<String>,
    pub path: PathBuf,
    /// `shared` or `fetched`.
    pub kind: String,
    pub size: u64,
    pub files: u32,
    pub chunks: u32,
    pub held: u32,
    pub held_bytes: u64,
    pub complete: bool,
    /// `seeding`, `fetching`, `stuck ...`, `stopped`, `paused`, `changed` or `idle`; what follows a colon says why.
    pub state: String,
    /// `no_providers`, `unreachable`, `without_content`, `choked`, `disk` or `limit`: what keeps a fetch from
    /// going on, once nothing has come for a while (`network.stuck_after`); `disk`, `elsewhere` or `failed`: why it
    /// was stopped.
    #[serde(default)]
    pub stuck: Option<Reason>,
    /// Nothing of it is asked for or sent until it is resumed; its files may have `changed` all the same.
    #[serde(default)]
    pub paused: bool,
    pub peers: u32,
    pub down_rate: f64,
    pub up_rate: f64,
    pub changed: Vec<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub peer_id: String,
    pub listen: Vec<String>,
    pub agent: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peers {
    pub peers: Vec<Peer>,
}

/// A connected peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    #[serde(flatten)]
    pub info: PeerInfo,
    #[serde(flatten)]
    pub account: PeerAccount,
}

/// What went between us and a peer, over all connections and restarts. Bytes are of chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAccount {
    /// Bytes that it got from us.
    pub given: u64,
    /// Bytes that we got from it.
    pub taken: u64,
    /// Faults that are not yet forgiven; the third bans.
    pub strikes: u8,
}

/// A peer that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banned {
    pub peer: String,
    /// When, in seconds since the Unix epoch.
    pub since: u64,
    #[serde(flatten)]
    pub account: PeerAccount,
}

/// `limits`: a change. What is not given stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsRequest {
    /// A content of ours by CID, link or path: its own limit, not everything's.
    pub content: Option<String>,
    /// A peer's ID: its own limit.
    pub peer: Option<String>,
    /// Bytes a second.
    pub up: Option<Change<Rate>>,
    pub down: Option<Change<Rate>>,
    pub slots: Option<Change<Slots>>,
}

/// The limits in force. Rates are bytes a second, `None` is unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub up: Option<u64>,
    pub down: Option<u64>,
    /// `None`: as many as suit the upload rate.
    pub slots: Option<u32>,
    /// Which of `up`, `down` and `slots` were set while running, over the settings file.
    pub set: Vec<String>,
    pub contents: Vec<ContentLimits>,
    pub peers: Vec<PeerLimits>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentLimits {
    pub cid: String,
    pub name: Option<String>,
    pub up: Option<u64>,
    pub down: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLimits {
    pub peer: String,
    pub up: Option<u64>,
    pub down: Option<u64>,
}

/// One name in a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    pub cid: String,
    /// A hint: what the link claims.
    pub size: u64,
    /// `file`, `dir`, `link` or `unknown`.
    pub kind: String,
}

/// The parts of a file's metadata that the API shows.
pub type FileMeta = Meta;
