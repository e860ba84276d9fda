//! The control API: everything that can be asked of a node, as HTTP.
//!
//! It is served on the data directory's Unix socket ([`serve`]) and called by [`client::Client`], which
//! reaches the same router without a socket when the node is in its own process.
//!
//! | route | asks | answer |
//! |---|---|---|
//! | `GET /v1/id` | who are you | `Identity` |
//! | `GET /v1/attach` | the same, and stay until I hang up | a line [`Holder`], then silence |
//! | `GET /v1/status` | | `Status` |
//! | `GET /v1/list` | | `[ContentStatus]` |
//! | `GET /v1/peers` | | `Peers` |
//! | `GET /v1/banned` | | `[Banned]` |
//! | `POST /v1/pardon` | [`Pardon`] | `Banned`, as it was |
//! | `GET /v1/limits` | | `Limits` |
//! | `POST /v1/limits` | `LimitsRequest` | `Limits`, as they are now |
//! | `POST /v1/add` | `AddRequest` | `Line`s: progress, then `done` or `error` |
//! | `POST /v1/share` | `AddRequest` | the same, then open until either side ends: hanging up withdraws |
//! | `POST /v1/get` | `GetRequest` | the same; open on with `seed`, unless a daemon seeds anyway |
//! | `POST /v1/verify` | [`What`] | `Line`s: progress, then `verified` or `error` |
//! | `GET /v1/find?link=L` | | `Line`s: finding, found, then `found_all` or `error`; hanging up ends it |
//! | `POST /v1/provide` | `ProvideRequest` | `ProvidedLine` |
//! | `GET /v1/ls?link=L&peer=A` | | `[Listed]` |
//! | `GET /v1/cat?link=L&peer=A` | | the bytes |
//! | `POST /v1/pause` | [`What`] | `ContentStatus`, as it is now |
//! | `POST /v1/resume` | [`What`] | `ContentStatus`, as it is now |
//! | `POST /v1/rm` | [`Remove`] | `ContentStatus` |
//! | `POST /v1/relocate` | [`Relocate`] | `ContentStatus` |
//! | `POST /v1/shutdown` | | `{}`; then the node ends cleanly |
//!
//! Lines are JSON objects (`api::Line`), one a line. What fails before its first byte is a `Failure` with
//! status 400 (the request is wrong), 403 (it comes from where none may), 404, 500 or 503 (shutting down).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::node::api::Identity;

pub mod client;
mod gate;
mod jobs;
mod routes;
mod serve;
mod shares;
mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use routes::router;
pub use serve::serve;
pub use state::{App, Role};

/// Who answers on a control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub version: String,
    /// It stays when its jobs are done.
    pub daemon: bool,
    /// False: it does work on the store only.
    pub network: bool,
    #[serde(flatten)]
    pub identity: Identity,
}

/// A content: its CID, a link, or its path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct What {
    pub what: String,
}

/// `pardon`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pardon {
    /// The peer's ID.
    pub peer: String,
}

/// `rm`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remove {
    pub what: String,
    /// Delete what an unfinished fetch has written. A finished file is never deleted.
    #[serde(default)]
    pub delete_part: bool,
}

/// `relocate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Relocate {
    pub what: String,
    /// Absolute: where the content lies now.
    pub path: PathBuf,
}
