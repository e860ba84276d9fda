//! Where contents live: users' own files served in place, fetches written straight to their
//! destination, and one index that says what is where.
//!
//! # On disk
//!
//! - `DATA_DIR/index.redb`: everything the store knows (the tables are in [`index`]). No file bytes are in it, save those that
//!   inner nodes carry themselves.
//! - A shared file or folder stays where it is and is never written to.
//! - A fetch to `NAME` writes to `NAME.part` beside it (a file, or a folder for a tree), renamed to `NAME` when complete.
//!   Symlinks, modes and times of a tree come last, so no path is ever opened through one.
//!
//! # Rules
//!
//! 1. Verify, then write: only a [`VerifiedChunk`](crate::content::chunk::VerifiedChunk) can be written.
//! 2. Held bits are committed only after the bytes they speak of were synced ([`Store::checkpoint`]). A finished fetch may be
//!    committed before: then the record names the machine's boot, and after another one it is hashed before it is believed.
//! 3. A file is believed while its [`signature`] is the one it had when it was hashed; a signature too young to be
//!    trusted, or none (a fetch in progress), means that what is read is hashed again before it is served.
//! 4. A file of the user's that changed is withdrawn, named in [`ContentInfo::changed`], and comes back by [`Store::verify`].
//! 5. Paths are opened beneath the handle of their root, following no symlink; only regular files are opened at all.
//!
//! A destination that exists is taken as already fetched when importing it gives the root that was asked for, by one of
//! the profiles of the root's CID version; a DAG made by another chunker is not recognised, and `force` replaces what is there.

mod api;
mod error;
mod fs;
mod import;
mod index;
mod mem;
mod records;
mod signature;
mod tree;

#[cfg(test)]
mod tests;

pub use api::*;
pub use error::StoreError;
pub use fs::{FsStore, Options};
pub use import::{ImportOptions, ImportProgress, Imported, import};
pub use mem::{MemStore, MemTree};
pub use signature::Signature;
