//! What can be wrong with a DAG whose blocks all have the right hashes: its author's fault, nobody
//! else's. Every message names the block.

use super::Cid;
use super::dagpb::PbFault;
use super::hamt::HamtFault;
use super::names::NameFault;
use super::unixfs::UnixFsFault;

/// A DAG that cannot be followed, and the block where that shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {cid}: {why}")]
pub struct DagFault {
    pub cid: Cid,
    pub why: Why,
}

impl DagFault {
    pub(super) fn new(cid: &Cid, why: impl Into<Why>) -> DagFault {
        DagFault { cid: *cid, why: why.into() }
    }
}

/// What is wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("malformed dag-pb: {0}")]
    Pb(#[from] PbFault),
    #[error("malformed unixfs: {0}")]
    UnixFs(#[from] UnixFsFault),
    #[error("malformed hamt: {0}")]
    Hamt(#[from] HamtFault),
    #[error("a folder has {0}")]
    Name(#[from] NameFault),
    #[error("a folder has two entries of the same name")]
    SameNameTwice,
    #[error("codec 0x{0:x} is neither raw nor dag-pb")]
    Codec(u64),
    #[error("unixfs type {0} is no file, folder or symlink")]
    Kind(u64),
    #[error("a folder where a part of a file should be")]
    NotAFile,
    #[error("not a folder")]
    NotAFolder,
    #[error("it holds {actual} bytes of the file where {claimed} are claimed")]
    Size { claimed: u64, actual: u64 },
    #[error("a file has {sizes} block sizes for {links} links")]
    SizeCount { sizes: usize, links: usize },
    #[error("two different lengths are claimed for it")]
    TwoLengths,
    #[error("a block above 2 MiB is claimed")]
    BlockTooLong,
    #[error("a file above 512 TiB is claimed")]
    FileTooLong,
    #[error("a symlink whose target is empty, above 4,096 bytes, not UTF-8 or has a NUL byte")]
    Target,
    #[error("the DAG is nested more than {0} deep")]
    TooDeep(usize),
    #[error("it contains itself")]
    Cycle,
    #[error("the DAG has more than {0}")]
    TooMany(&'static str),
    #[error("a chunk made of more than {0}")]
    ChunkTooBig(&'static str),
    #[error("it is not held")]
    NotHeld,
}
