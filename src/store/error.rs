//! What can go wrong in a store.

use std::io;
use std::path::{Path, PathBuf};

use crate::content::Cid;
use crate::units::{ChunkIndex, ContentKey};

/// Why a store could not do what it was asked. The content's author is to blame for [`StoreError::Dag`],
/// [`StoreError::UnsafeName`] and [`StoreError::Collision`]; everything else is this machine's affair, and never a peer's.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space, or no quota, left. What was written before stays.
    #[error("disk full while writing {}: make room and run it again", .path.display())]
    DiskFull { path: PathBuf },
    /// A file is not what it was when it was hashed.
    #[error("{} changed since it was added: add it again", .path.display())]
    Changed { path: PathBuf },
    #[error("chunk {chunk} is not held")]
    NotHeld { chunk: ChunkIndex },
    #[error("no content has the key {}", .0.0)]
    UnknownContent(ContentKey),
    #[error("chunk {0} is not in the manifest as far as it is known")]
    UnknownChunk(ChunkIndex),
    /// Something else is at the destination.
    #[error("{} exists and is something else: move it away or use --force", .path.display())]
    Exists { path: PathBuf },
    /// The destination's `.part` belongs to another fetch.
    #[error("{} belongs to an unfinished fetch of {root}: finish or remove that first", .path.display())]
    Busy { path: PathBuf, root: Cid },
    /// Two entries of the content fall together here.
    #[error(
        "{path:?} falls together with another entry on this file system (names that differ only in case?)"
    )]
    Collision { path: String },
    /// A name that would lead out of the destination.
    #[error("the content has an entry with an unsafe name: {path:?}")]
    UnsafeName { path: String },
    /// A symlink, or a file where a folder belongs, is in the way on disk.
    #[error("{} is not what the store put there (a symlink in the way?)", .path.display())]
    InTheWay { path: PathBuf },
    /// A name that no CID can be made for.
    #[error("{} is not UTF-8: rename it", .path.display().to_string().escape_debug())]
    NotUtf8 { path: PathBuf },
    /// A FIFO, socket or device where a file or folder was expected.
    #[error("{} is {what}: only files and folders can be shared", .path.display())]
    Unsupported { path: PathBuf, what: &'static str },
    /// Finishing was asked for too early.
    #[error("the content is not complete: {missing} chunks or inner nodes are missing")]
    Incomplete { missing: u32 },
    /// The content's DAG is malformed.
    #[error("malformed content: {0}")]
    Dag(String),
    /// What the caller says does not fit what is known.
    #[error("the manifest's items do not follow those known: {0}")]
    OutOfOrder(&'static str),
    /// The index does not hold what it must.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    #[error("index: {0}")]
    Index(Box<redb::Error>),
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cancelled")]
    Cancelled,
}

impl StoreError {
    /// An I/O error, with what was being worked on; a full disk or quota becomes [`StoreError::DiskFull`].
    pub fn io(path: &Path, e: impl Into<io::Error>) -> StoreError {
        let source = e.into();
        let path = path.to_owned();
        if is_full(&source) { StoreError::DiskFull { path } } else { StoreError::Io { path, source } }
    }

    pub(super) fn damaged(what: impl Into<String>) -> StoreError {
        StoreError::Damaged(what.into())
    }

    /// True if nothing is at that path.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// redb has an error type per operation; all of them are the index's trouble here.
macro_rules! from_redb {
    ($($t:ty),*) => { $(impl From<$t> for StoreError {
        fn from(e: $t) -> StoreError {
            match redb::Error::from(e) {
                redb::Error::Io(e) if is_full(&e) => StoreError::DiskFull { path: PathBuf::from("the index") },
                e => StoreError::Index(Box::new(e)),
            }
        }
    })* };
}
from_redb!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_or_quota_is_told_apart_from_other_io_errors() {
        for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            assert!(matches!(StoreError::io(Path::new("/x"), errno), StoreError::DiskFull { .. }));
        }
        assert!(matches!(StoreError::io(Path::new("/x"), rustix::io::Errno::IO), StoreError::Io { .. }));
        let full = redb::StorageError::Io(rustix::io::Errno::NOSPC.into());
        assert!(matches!(StoreError::from(full), StoreError::DiskFull { .. }));
    }

    #[test]
    fn a_name_that_is_not_utf8_is_escaped_for_the_terminal() {
        use std::os::unix::ffi::OsStringExt;
        let path = PathBuf::from(std::ffi::OsString::from_vec(b"a\x1b[31m\xff".to_vec()));
        let said = StoreError::NotUtf8 { path }.to_string();
        assert!(!said.contains('\x1b'), "{said}");
    }
}
