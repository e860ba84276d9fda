//! Content: blocks and their names, UnixFS files and folders, and the manifest that numbers chunks.
//!
//! Everything here is pure: bytes and names in, bytes and names out. What leaves this module under a
//! CID is what `ipfs add` makes of the same input (see [`profile`]); what enters it may come from
//! anybody and is checked before memory is set aside for it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`block`] | a block's bytes against its CID |
//! | [`dagpb`], [`unixfs`], [`hamt`] | the three formats of a UnixFS DAG |
//! | [`profile`], [`builder`], [`dir`] | making DAGs as kubo makes them |
//! | [`manifest`], [`chunk`], [`assembly`] | the numbered chunks of a root, one such chunk with its blocks, and how it is put together |
//! | [`reader`] | listing a folder, following a path |
//! | [`names`] | names that are safe to become files |

pub mod assembly;
pub mod block;
pub mod builder;
pub mod chunk;
mod chunkset;
pub mod dagpb;
pub mod dir;
mod fault;
pub mod hamt;
pub mod manifest;
pub mod names;
mod node;
pub mod profile;
pub mod reader;
#[cfg(test)]
mod testing;
pub mod unixfs;

pub use cid::Cid;
pub use fault::{DagFault, Why};
pub use unixfs::Meta;

/// A multihash as CIDs carry it; digests are at most 64 bytes.
pub type Hash = multihash::Multihash<64>;

/// Multicodec of a block that is file bytes and nothing else.
pub const RAW: u64 = 0x55;
/// Multicodec of a dag-pb node.
pub const DAG_PB: u64 = 0x70;
/// Multihash code of the identity hash: the digest is the block.
pub const IDENTITY: u64 = 0x00;
/// Multihash code of SHA2-256.
pub const SHA2_256: u64 = 0x12;

/// The block that an identity CID carries in itself; `None` for every other CID.
pub fn identity_block(cid: &Cid) -> Option<&[u8]> {
    (cid.hash().code() == IDENTITY).then(|| cid.hash().digest())
}
