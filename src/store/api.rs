//! What a store does, whatever it keeps its bytes in. [`super::FsStore`] is the real one,
//! [`super::MemStore`] its twin for tests; both pass the same suite.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cid::Cid;
use serde::{Deserialize, Serialize};

use crate::bitfield::Bitfield;
use crate::content::Hash;
use crate::content::chunk::{ChunkSpec, VerifiedChunk};
use crate::content::manifest::Item;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, FileIndex};

use super::StoreError;

/// Where a content's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Origin {
    /// The user's own file or folder, served in place and never written to.
    Shared { path: PathBuf },
    /// Fetched to this final path (`NAME.part` beside it until complete).
    Fetched { path: PathBuf },
}

impl Origin {
    pub fn path(&self) -> &Path {
        match self {
            Origin::Shared { path } | Origin::Fetched { path } => path,
        }
    }
}

/// One content, as `list` and `status` show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContentInfo {
    pub key: ContentKey,
    #[serde(with = "cid_text")]
    pub root: Cid,
    /// The name that the link carries (`dn`).
    pub name: Option<String>,
    pub origin: Origin,
    /// Sum of the files' bytes, as far as the manifest is known.
    pub size: u64,
    pub files: u32,
    /// Chunks known so far.
    pub chunks: u32,
    /// Chunks held.
    pub held: u32,
    /// Bytes of the files that are here: of the chunks held, as often as they are placed, and of inner nodes that carry some.
    pub held_bytes: u64,
    /// No inner node is missing.
    pub manifest_complete: bool,
    /// Everything is in its final place.
    pub complete: bool,
    /// Serve it when the node runs. `add` leaves it on, the end of a `share` or of a `get` without `--seed` turns it off.
    pub seeding: bool,
    /// Files found changed or gone, at most 16 of them named.
    pub changed: Vec<PathBuf>,
    /// Seconds since the Unix epoch.
    pub created: u64,
}

/// CIDs as text, as JSON wants them.
pub(super) mod cid_text {
    use cid::Cid;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(cid: &Cid, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(cid)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Cid, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// What a fetch starts from.
#[derive(Clone, Debug)]
pub struct NewFetch {
    pub root: Cid,
    pub name: Option<String>,
    /// The exact final path, absolute.
    pub dest: PathBuf,
    /// Replace what is at `dest` once complete.
    pub force: bool,
}

/// A chunk read for serving: its blocks one behind the other in the caller's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRead {
    /// Length of each block; one for nearly all chunks.
    pub block_lens: Vec<u32>,
}

/// Notes of one kind: key and text.
pub type Notes = Vec<(Vec<u8>, Vec<u8>)>;

/// Thread-safe and blocking: called from threads that may block, never from a network task.
pub trait Store: Send + Sync + 'static {
    /// The inner node of that name, from any content.
    fn node(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError>;

    /// Keeps inner nodes for `key`; the caller has verified each against its CID.
    fn put_nodes(&self, key: ContentKey, nodes: &[(Cid, Bytes)]) -> Result<(), StoreError>;

    fn list(&self) -> Result<Vec<ContentInfo>, StoreError>;
    fn info(&self, key: ContentKey) -> Result<ContentInfo, StoreError>;
    /// A content by its root, complete ones first.
    fn find(&self, root: &Cid) -> Result<Option<ContentKey>, StoreError>;
    /// Forgets a content; the user's files stay where they are (a `.part` is deleted with `delete_part`).
    fn remove(&self, key: ContentKey, delete_part: bool) -> Result<(), StoreError>;
    fn set_seeding(&self, key: ContentKey, seeding: bool) -> Result<(), StoreError>;

    /// Starts a fetch, or takes up the one that this root and destination already have.
    /// Refuses a `dest` that exists unless it already is this content (verified) or `force`.
    fn begin_fetch(&self, new: &NewFetch) -> Result<ContentKey, StoreError>;
    /// What the manifest's walk found next: folders, files, links, chunks in the order of their numbers.
    /// Called again with the same items after a restart: then it changes nothing.
    fn extend(&self, key: ContentKey, items: &[Item]) -> Result<(), StoreError>;
    /// No more items will come.
    fn manifest_complete(&self, key: ContentKey) -> Result<(), StoreError>;
    /// Name and claimed length of a chunk.
    fn chunk(&self, key: ContentKey, chunk: ChunkIndex) -> Result<ChunkSpec, StoreError>;
    /// The runs (chunk numbers) that hold these bytes of a file.
    fn chunks_of(
        &self,
        key: ContentKey,
        file: FileIndex,
        start: u64,
        end: u64,
    ) -> Result<Vec<ChunkRange>, StoreError>;
    /// A held chunk that has this block: its content, its number, and which of its blocks it is.
    fn find_block(&self, hash: &Hash) -> Result<Option<(ContentKey, ChunkIndex, u32)>, StoreError> {
        self.find_block_of(hash, &|_| true)
    }
    /// The same, of the contents that `of` says yes to.
    fn find_block_of(
        &self,
        hash: &Hash,
        of: &dyn Fn(ContentKey) -> bool,
    ) -> Result<Option<(ContentKey, ChunkIndex, u32)>, StoreError>;
    /// The inner node of that name, if one of these contents has it.
    fn node_of(&self, cid: &Cid, of: &BTreeSet<ContentKey>) -> Result<Option<Bytes>, StoreError>;
    /// Writes a chunk to all its places. Held once this returns, durable at the next checkpoint.
    fn write_chunk(
        &self,
        key: ContentKey,
        chunk: ChunkIndex,
        data: &VerifiedChunk<'_>,
    ) -> Result<(), StoreError>;
    /// Reads a chunk's blocks into `buf` (cleared first), between two checks of the file's signature;
    /// hashed again while the signature is too young to be trusted.
    fn read_chunk(
        &self,
        key: ContentKey,
        chunk: ChunkIndex,
        buf: &mut Vec<u8>,
    ) -> Result<ChunkRead, StoreError>;
    /// The chunks held.
    fn have(&self, key: ContentKey) -> Result<Bitfield, StoreError>;
    /// Syncs written data, then commits which chunks are held.
    fn checkpoint(&self) -> Result<(), StoreError>;
    /// A process's last one, which does not wait for the disk for what is complete: the next process sees to that.
    fn last_checkpoint(&self) -> Result<(), StoreError> {
        self.checkpoint()
    }
    /// All chunks are held: empty folders, symlinks, modes; then renames to the final path, which it returns.
    fn finish_fetch(&self, key: ContentKey) -> Result<PathBuf, StoreError>;
    /// Hashes everything again; chunks that no longer match are lost. Returns the runs lost and the files to blame.
    fn verify(
        &self,
        key: ContentKey,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Vec<ChunkRange>, Vec<PathBuf>), StoreError>;
    /// The content's files are now at `path` (checked by size and hash before anything is believed).
    fn relocate(&self, key: ContentKey, path: &Path) -> Result<(), StoreError>;

    /// What the node remembers besides contents: all notes of a kind, by their keys.
    fn notes(&self, kind: &str) -> Result<Notes, StoreError>;
    /// Puts notes of a kind down, or strikes them out where there is no text; durable once this returns.
    fn note(&self, kind: &str, notes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), StoreError>;
}
