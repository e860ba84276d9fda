//! The manifest of a root: its files, and its chunks with their numbers.
//!
//! Links are walked in encoded order, depth first. A chunk's number is the first occurrence of its
//! CID, so everybody who walks the same root counts the same, in whatever order nodes arrive: the
//! walk simply waits at the first node that is missing, and says which ones it will need next.
//!
//! A file's child is a chunk if it is a raw block or its `blocksizes` entry is at most 2 MiB; any
//! other child is an inner node, as is every dag-pb entry of a folder. Identity CIDs carry their
//! block: a leaf becomes [`Item::Inline`], an inner node is walked into.

mod ahead;
mod frame;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use super::chunk::ChunkSpec;
use super::chunkset::{ChunkSet, Inserted};
use super::node::fetch;
use super::{Cid, DAG_PB, RAW, block, identity_block};
use crate::units::{ChunkIndex, FileIndex, MAX_BLOCK_LEN};
use frame::{Frame, Next, Opened, Role};

pub(super) use frame::check_shard;

pub use super::fault::{DagFault, Why};
pub use super::names::RelPath;
pub use super::unixfs::Meta;

/// How deep a DAG may be nested: folders, the shards of HAMTs and the nodes of a file together.
pub const MAX_DEPTH: usize = 128;

/// Files, folders and symlinks of one content. A few nodes that link each other a hundredfold would
/// otherwise make a content without end; so would chunks that are placed again and again.
const MAX_ENTRIES: u32 = 1 << 24;
/// Placements of chunks beyond their first ones.
const MAX_REPEATS: u32 = 1 << 24;
/// Inner nodes visited, repeated ones counted again.
const MAX_NODES: u32 = 1 << 28;
/// Bytes of the nodes that lie open at once, from the root down to where the walk is.
const MAX_OPEN_BYTES: usize = 32 << 20;

/// What the walk finds, in the order of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A folder; the root's comes first, with an empty path.
    Dir { path: RelPath, meta: Meta },
    /// A file, before its chunks. Its `size` follows from its node, or (not `sure`) is a hint or `None`:
    /// then it is that of its only chunk, a raw root or a raw entry of a folder.
    File { file: FileIndex, path: RelPath, size: Option<u64>, sure: bool, meta: Meta },
    /// `target` is 1 to 4,095 bytes without NUL; nothing else is sure of it.
    Symlink { path: RelPath, target: String },
    /// `file`'s bytes at `offset` are this chunk's. `index` counts up by one for each first occurrence
    /// of a distinct CID (`first`), otherwise it names the earlier number.
    Chunk { index: ChunkIndex, first: bool, spec: ChunkSpec, file: FileIndex, offset: u64 },
    /// Bytes that an inner node itself carries (small dag-pb files, identity CIDs); not empty.
    Inline { file: FileIndex, offset: u64, data: Bytes },
}

/// How far a walk came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to walk with what is held.
    More,
    /// These inner nodes are needed next, at most 64, in the order of need.
    Missing(Vec<Cid>),
    Done,
}

/// The walk over a root's manifest.
#[derive(Clone, Debug)]
pub struct Walker {
    /// The node to open next.
    pending: Option<(Cid, Role)>,
    /// The nodes that lie open, from the root downwards.
    stack: Vec<Frame>,
    open_bytes: usize,
    chunks: ChunkSet,
    repeats: u32,
    files: u32,
    entries: u32,
    visited: u32,
    size: u64,
    /// Where the walk ended for good.
    fault: Option<DagFault>,
}

impl Walker {
    pub fn new(root: Cid) -> Walker {
        Walker {
            pending: Some((root, Role::Entry { path: RelPath::root(), tsize: None })),
            stack: Vec::new(),
            open_bytes: 0,
            chunks: ChunkSet::default(),
            repeats: 0,
            files: 0,
            entries: 0,
            visited: 0,
            size: 0,
            fault: None,
        }
    }

    /// Walks on until some `max` items are out (a file comes with its first bytes, so there may be one
    /// more), nodes are missing, or the end. `nodes` gives an inner node that is held and was verified.
    /// A fault is final; the items before it are out.
    pub fn advance(
        &mut self,
        nodes: &mut dyn FnMut(&Cid) -> Option<Bytes>,
        max: usize,
        out: &mut Vec<Item>,
    ) -> Result<Step, DagFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let step = self.run(nodes, max, out);
        self.fault = step.as_ref().err().cloned();
        step
    }

    /// Distinct chunks so far.
    pub fn chunks(&self) -> u32 {
        self.chunks.len()
    }

    /// Files so far.
    pub fn files(&self) -> u32 {
        self.files
    }

    /// The claimed bytes of the files so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes set aside, the open nodes included.
    pub fn memory_bytes(&self) -> usize {
        let frames: usize = self.stack.iter().map(Frame::memory_bytes).sum();
        size_of::<Walker>() + self.stack.capacity() * size_of::<Frame>() + frames + self.chunks.memory_bytes()
    }

    fn run(
        &mut self,
        nodes: &mut dyn FnMut(&Cid) -> Option<Bytes>,
        max: usize,
        out: &mut Vec<Item>,
    ) -> Result<Step, DagFault> {
        let end = out.len().saturating_add(max);
        // Nodes count as well as items, so that many nodes with few items give way too.
        let last_visit = self.visited.saturating_add(u32::try_from(max).unwrap_or(u32::MAX));
        while out.len() < end && self.visited < last_visit {
            if let Some((cid, role)) = self.pending.take() {
                check_codec(&cid)?;
                if cid.codec() == RAW {
                    self.raw_entry(&cid, role, out)?;
                } else if let Some(block) = fetch(&cid, nodes) {
                    self.open(cid, role, block, out)?;
                } else {
                    self.pending = Some((cid, role));
                    return Ok(Step::Missing(ahead::missing(&cid, &self.stack, nodes)));
                }
                continue;
            }
            let Some(top) = self.stack.last_mut() else { return Ok(Step::Done) };
            match top.next()? {
                Next::End => self.pop(),
                Next::Inner(cid, role) => self.pending = Some((cid, role)),
                Next::Chunk { cid, len, file, offset } => self.place(&cid, Some(len), file, offset, out)?,
            }
        }
        Ok(Step::More)
    }

    fn pop(&mut self) {
        if let Some(frame) = self.stack.pop() {
            self.open_bytes -= frame.node_len();
        }
    }

    /// A file that is one raw block, named by a folder or the root itself.
    fn raw_entry(&mut self, cid: &Cid, role: Role, out: &mut Vec<Item>) -> Result<(), DagFault> {
        let Role::Entry { path, tsize } = role else {
            // Frames make chunks of a file's raw children, and shards are checked to be dag-pb when opened.
            return Err(DagFault::new(cid, Why::NotAFolder));
        };
        let tsize = tsize.filter(|len| (1..=MAX_BLOCK_LEN as u64).contains(len));
        let empty = || tsize.is_none() && block::verify_block(cid, &[]).is_ok();
        let len = identity_block(cid).map(|b| b.len() as u64).or_else(|| empty().then_some(0));
        // What a folder's link claims of its entry binds nobody, and there are writers that get it wrong.
        let file = self.new_file(cid, path, len.or(tsize), len.is_some(), Meta::NONE, out)?;
        self.place(cid, len, file, 0, out)
    }

    fn new_file(
        &mut self,
        cid: &Cid,
        path: RelPath,
        size: Option<u64>,
        sure: bool,
        meta: Meta,
        out: &mut Vec<Item>,
    ) -> Result<FileIndex, DagFault> {
        self.count_entry(cid)?;
        let file = FileIndex(self.files);
        self.files += 1;
        self.size = self.size.saturating_add(size.unwrap_or(0));
        out.push(Item::File { file, path, size, sure, meta });
        Ok(file)
    }

    fn count_entry(&mut self, cid: &Cid) -> Result<(), DagFault> {
        self.entries += 1;
        let too_many = || DagFault::new(cid, Why::TooMany("16,777,216 files and folders"));
        if self.entries > MAX_ENTRIES { Err(too_many()) } else { Ok(()) }
    }

    /// Opens an inner node: says what it is, and goes into it if it has links.
    fn open(&mut self, cid: Cid, role: Role, block: Bytes, out: &mut Vec<Item>) -> Result<(), DagFault> {
        self.visited += 1;
        if self.visited > MAX_NODES {
            return Err(DagFault::new(&cid, Why::TooMany("268,435,456 nodes")));
        }
        if self.stack.iter().any(|frame| frame.is(&cid)) {
            return Err(DagFault::new(&cid, Why::Cycle));
        }
        let (opened, mut frame) = frame::open(&cid, role, &block)?;
        match opened {
            Opened::Dir { path, meta } => {
                self.count_entry(&cid)?;
                out.push(Item::Dir { path, meta });
            }
            Opened::Symlink { path, target } => {
                self.count_entry(&cid)?;
                out.push(Item::Symlink { path, target });
            }
            Opened::File { path, size, meta, data } => {
                let file = self.new_file(&cid, path, Some(size), true, meta, out)?;
                push_inline(file, 0, data, out);
                if let Some(frame) = &mut frame {
                    frame.set_file(file);
                }
            }
            Opened::Part { file, offset, data } => push_inline(file, offset, data, out),
            Opened::Shard => {}
        }
        let Some(frame) = frame else { return Ok(()) };
        if self.stack.len() == MAX_DEPTH {
            return Err(DagFault::new(&cid, Why::TooDeep(MAX_DEPTH)));
        }
        self.open_bytes += frame.node_len();
        if self.open_bytes > MAX_OPEN_BYTES {
            return Err(DagFault::new(&cid, Why::TooMany("32 MiB of nodes inside each other")));
        }
        self.stack.push(frame);
        Ok(())
    }

    /// Puts a chunk at its place in a file.
    fn place(
        &mut self,
        cid: &Cid,
        len: Option<u64>,
        file: FileIndex,
        offset: u64,
        out: &mut Vec<Item>,
    ) -> Result<(), DagFault> {
        if let Some(block) = identity_block(cid) {
            let (claimed, actual) = (len.unwrap_or(0), block.len() as u64);
            if claimed != actual {
                return Err(DagFault::new(cid, Why::Size { claimed, actual }));
            }
            push_inline(file, offset, Bytes::copy_from_slice(block), out);
            return Ok(());
        }
        let len32 = match len.map(u32::try_from).transpose() {
            Ok(len32) if len32.is_none_or(|n| n as usize <= MAX_BLOCK_LEN) => len32,
            _ => return Err(DagFault::new(cid, Why::BlockTooLong)),
        };
        let (n, first) = match self.chunks.insert(cid, len32) {
            Inserted::New(n) => (n, true),
            Inserted::Known { index, same_len: true } => (index, false),
            // One of the two would be written to the wrong place.
            Inserted::Known { .. } => return Err(DagFault::new(cid, Why::TwoLengths)),
            Inserted::Full => return Err(DagFault::new(cid, Why::TooMany("268,435,456 chunks"))),
        };
        self.repeats += u32::from(!first);
        let index = ChunkIndex::new(n).filter(|_| self.repeats <= MAX_REPEATS);
        let index = index.ok_or_else(|| DagFault::new(cid, Why::TooMany("16,777,216 repeated chunks")))?;
        out.push(Item::Chunk { index, first, spec: ChunkSpec { cid: *cid, len }, file, offset });
        Ok(())
    }
}

fn push_inline(file: FileIndex, offset: u64, data: Bytes, out: &mut Vec<Item>) {
    if !data.is_empty() {
        out.push(Item::Inline { file, offset, data });
    }
}

/// Refuses what is neither a raw block nor a dag-pb node.
fn check_codec(cid: &Cid) -> Result<(), DagFault> {
    if matches!(cid.codec(), RAW | DAG_PB) {
        Ok(())
    } else {
        Err(DagFault::new(cid, Why::Codec(cid.codec())))
    }
}
