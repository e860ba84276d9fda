//! One numbered chunk of a manifest: a leaf block, or the small sub-DAG that a child of at most 2 MiB
//! proved to be.
//!
//! A chunk travels as its blocks, depth first, each as often as it is linked; identity blocks (which
//! stand in the link already) are among them, so that one rule covers all. Its file bytes are those of
//! its blocks, in the same order.

use std::ops::Range;

use bytes::Bytes;

use super::block::{BlockFault, verify_block};
use super::builder::leaf_frame;
use super::dagpb::{put_varint, read_cid, read_len, read_varint};
use super::fault::{DagFault, Why};
use super::node::Node;
use super::profile::Profile;
use super::{Cid, RAW};
use crate::units::MAX_BLOCK_LEN;

/// Blocks that one chunk may have.
pub const MAX_CHUNK_BLOCKS: usize = 1_024;
/// Bytes that all blocks of one chunk may have together.
pub const MAX_CHUNK_BODY: usize = (2 << 20) + (128 << 10);
/// File bytes that one chunk may have.
pub const MAX_CHUNK_DATA: u64 = 2 << 20;

/// What a chunk is called and how long it is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkSpec {
    pub cid: Cid,
    /// File bytes, as its parent claims; `None`: unknown (a raw root, or a raw entry of a folder whose link does not tell).
    pub len: Option<u64>,
}

/// Why received bytes are not a chunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// The sender's fault: what it sent for this block are other bytes, or too few or too many of them.
    #[error("the bytes sent are not block {0}")]
    WrongBytes(Cid),
    /// The author's fault: the hashes are right, yet the DAG lies.
    #[error("{0}")]
    Malformed(#[from] DagFault),
    /// Nobody's fault: no such block can be checked.
    #[error("block {0} is named by a hash that is not supported")]
    UnsupportedHash(Cid),
}

impl ChunkFault {
    /// Whether who sent it is to blame.
    pub fn is_senders(&self) -> bool {
        matches!(self, ChunkFault::WrongBytes(_))
    }
}

/// One block of a chunk: its whole bytes, and where among them its file bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block<'a> {
    cid: Cid,
    bytes: &'a [u8],
    data: Range<usize>,
}

/// A chunk whose every block has been checked against its name, and its lengths against the claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedChunk<'a> {
    blocks: Vec<Block<'a>>,
    data_len: u64,
}

/// Checks a chunk. `body` is its blocks one behind the other, `block_lens` the length of each; the first
/// is checked against `spec.cid`, each other one against the link to it.
pub fn verify_chunk<'a>(
    spec: &ChunkSpec,
    body: &'a [u8],
    block_lens: &[u32],
) -> Result<VerifiedChunk<'a>, ChunkFault> {
    let sum: u64 = block_lens.iter().map(|n| u64::from(*n)).sum();
    if sum != body.len() as u64 || body.len() > MAX_CHUNK_BODY || block_lens.len() > MAX_CHUNK_BLOCKS {
        return Err(ChunkFault::WrongBytes(spec.cid));
    }
    let mut chunk = VerifiedChunk { blocks: Vec::with_capacity(block_lens.len()), data_len: 0 };
    // Blocks still to come, the next one last.
    let mut due = vec![(spec.cid, spec.len)];
    let (mut rest, mut lens) = (body, block_lens.iter());
    while let Some((cid, claimed)) = due.pop() {
        let len = lens.next().ok_or(ChunkFault::WrongBytes(spec.cid))?;
        let (bytes, behind) = rest.split_at(*len as usize);
        rest = behind;
        verify_block(&cid, bytes).map_err(|fault| match fault {
            BlockFault::WrongHash(cid) | BlockFault::TooLong(cid) => ChunkFault::WrongBytes(cid),
            BlockFault::UnsupportedHash(cid) => ChunkFault::UnsupportedHash(cid),
        })?;
        let data = follow(&cid, bytes, claimed, chunk.blocks.len() + 1, &mut due)?;
        chunk.data_len += data.len() as u64;
        chunk.blocks.push(Block { cid, bytes, data });
    }
    if lens.next().is_some() {
        return Err(ChunkFault::WrongBytes(spec.cid));
    }
    Ok(chunk)
}

/// Checks what a block claims, puts the blocks that it links (the next one last) on top of `due`, and
/// says where its file bytes are. `blocks` counts those before it and itself.
fn follow(
    cid: &Cid,
    bytes: &[u8],
    claimed: Option<u64>,
    blocks: usize,
    due: &mut Vec<(Cid, Option<u64>)>,
) -> Result<Range<usize>, DagFault> {
    if cid.codec() == RAW {
        let actual = bytes.len() as u64;
        return match claimed {
            Some(claimed) if claimed != actual => Err(DagFault::new(cid, Why::Size { claimed, actual })),
            _ => Ok(0..bytes.len()),
        };
    }
    let node = Node::decode(cid, bytes)?;
    if !node.is_file() {
        return Err(DagFault::new(cid, Why::NotAFile));
    }
    if node.file_size(cid, claimed)? > MAX_CHUNK_DATA {
        return Err(DagFault::new(cid, Why::ChunkTooBig("2 MiB")));
    }
    if blocks + due.len() + node.pb.len() > MAX_CHUNK_BLOCKS {
        return Err(DagFault::new(cid, Why::ChunkTooBig("1,024 blocks")));
    }
    let first = due.len();
    due.extend(node.pb.links().zip(&node.fs.blocksizes).map(|(link, size)| (link.cid, Some(*size))));
    due[first..].reverse();
    Ok(range_in(bytes, node.data()))
}

/// Where in `whole` its part lies; the end for an empty one.
fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return whole.len()..whole.len();
    }
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

impl<'a> VerifiedChunk<'a> {
    /// File bytes.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// The file bytes in order.
    pub fn segments(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.blocks.iter().map(|b| &b.bytes[b.data.clone()]).filter(|segment| !segment.is_empty())
    }

    /// What has to be kept to rebuild the blocks; `None` for a single raw block, which is its file bytes.
    pub fn frame(&self) -> Option<ChunkFrame> {
        if let [only] = &self.blocks[..]
            && only.cid.codec() == RAW
        {
            return None;
        }
        let frame = |b: &Block| frame_of(b.cid, b.bytes, b.data.clone());
        Some(ChunkFrame { blocks: self.blocks.iter().map(frame).collect() })
    }

    /// The blocks in the order in which they came.
    pub fn blocks(&self) -> impl Iterator<Item = (Cid, &'a [u8])> + '_ {
        self.blocks.iter().map(|b| (b.cid, b.bytes))
    }
}

/// How the blocks of a chunk are rebuilt from its file bytes. Kept by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkFrame {
    pub blocks: Vec<BlockFrame>,
}

/// One block: `prefix`, the next `data_len` bytes of the file, `suffix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockFrame {
    pub cid: Cid,
    pub prefix: Vec<u8>,
    pub data_len: u32,
    pub suffix: Vec<u8>,
}

/// Why kept bytes are no [`ChunkFrame`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a kept chunk frame is damaged")]
pub struct FrameFault;

fn frame_of(cid: Cid, bytes: &[u8], data: Range<usize>) -> BlockFrame {
    let (prefix, suffix) = (bytes[..data.start].to_vec(), bytes[data.end..].to_vec());
    // A block is at most 2 MiB.
    BlockFrame { cid, prefix, data_len: data.len() as u32, suffix }
}

impl BlockFrame {
    /// Bytes of the block.
    pub fn block_len(&self) -> u32 {
        // Within 2 MiB: blocks are checked where they are verified, and frames where they are decoded.
        (self.prefix.len() + self.suffix.len()) as u32 + self.data_len
    }
}

impl ChunkFrame {
    /// The bytes to keep: the count, then for each block its CID, prefix, data length and suffix.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.blocks.len() as u64);
        for b in &self.blocks {
            put_part(&mut out, &b.cid.to_bytes());
            put_part(&mut out, &b.prefix);
            put_varint(&mut out, b.data_len.into());
            put_part(&mut out, &b.suffix);
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<ChunkFrame, FrameFault> {
        let mut at = 0;
        let count = read_varint(bytes, &mut at).map_err(|_| FrameFault)?;
        if !(1..=MAX_CHUNK_BLOCKS as u64).contains(&count) {
            return Err(FrameFault);
        }
        let blocks = (0..count).map(|_| decode_block(bytes, &mut at)).collect::<Result<Vec<_>, _>>()?;
        if at == bytes.len() { Ok(ChunkFrame { blocks }) } else { Err(FrameFault) }
    }

    /// File bytes.
    pub fn data_len(&self) -> u64 {
        self.blocks.iter().map(|b| u64::from(b.data_len)).sum()
    }

    /// Bytes of each block.
    pub fn block_lens(&self) -> Vec<u32> {
        self.blocks.iter().map(BlockFrame::block_len).collect()
    }

    /// The frame of a chunk of our own making; `None` for a raw leaf. A dag-pb leaf's follows from its
    /// length, a sub-DAG's from its inner nodes, which `nodes` gives.
    pub fn of_own(
        profile: &Profile,
        spec: &ChunkSpec,
        nodes: &mut dyn FnMut(&Cid) -> Option<Bytes>,
    ) -> Result<Option<ChunkFrame>, DagFault> {
        if spec.cid.codec() == RAW {
            return Ok(None);
        }
        let mut blocks = Vec::new();
        let mut due = vec![(spec.cid, spec.len)];
        while let Some((cid, claimed)) = due.pop() {
            // A leaf's whole length is what was claimed for it.
            let leaf_len = claimed.and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= profile.chunk_len);
            if cid.codec() == RAW {
                let data_len = leaf_len.ok_or_else(|| DagFault::new(&cid, Why::BlockTooLong))?;
                blocks.push(BlockFrame { cid, prefix: Vec::new(), data_len, suffix: Vec::new() });
            } else if let Some(block) = nodes(&cid) {
                let data = follow(&cid, &block, claimed, blocks.len() + 1, &mut due)?;
                blocks.push(frame_of(cid, &block, data));
            } else {
                let data_len = leaf_len.filter(|_| !profile.raw_leaves);
                let data_len = data_len.ok_or_else(|| DagFault::new(&cid, Why::NotHeld))?;
                let (prefix, suffix) = leaf_frame(profile, data_len);
                blocks.push(BlockFrame { cid, prefix, data_len, suffix });
            }
        }
        Ok(Some(ChunkFrame { blocks }))
    }
}

fn put_part(out: &mut Vec<u8>, part: &[u8]) {
    put_varint(out, part.len() as u64);
    out.extend_from_slice(part);
}

fn decode_block(bytes: &[u8], at: &mut usize) -> Result<BlockFrame, FrameFault> {
    let mut part = || read_len(bytes, at).map_err(|_| FrameFault);
    let cid = read_cid(part()?).map_err(|_| FrameFault)?;
    let prefix = part()?.to_vec();
    let data_len = read_varint(bytes, at).map_err(|_| FrameFault)?;
    let suffix = read_len(bytes, at).map_err(|_| FrameFault)?.to_vec();
    let data_len = u32::try_from(data_len).map_err(|_| FrameFault)?;
    if prefix.len() + suffix.len() + data_len as usize > MAX_BLOCK_LEN {
        return Err(FrameFault);
    }
    Ok(BlockFrame { cid, prefix, data_len, suffix })
}

#[cfg(test)]
mod tests {
    use super::super::block::cid_of;
    use super::super::builder::{FileBuilder, leaf};
    use super::super::testing::{Dag, file_message, identity, node_bytes};
    use super::super::{DAG_PB, Meta};
    use super::*;

    fn verify<'a>(cid: Cid, len: u64, body: &'a [u8], lens: &[u32]) -> Result<VerifiedChunk<'a>, ChunkFault> {
        verify_chunk(&ChunkSpec { cid, len: Some(len) }, body, lens)
    }

    /// The blocks of a sub-DAG, depth first.
    fn body(dag: &Dag, cid: Cid) -> (Vec<u8>, Vec<u32>) {
        let (mut body, mut lens, mut due) = (Vec::new(), Vec::new(), vec![cid]);
        while let Some(cid) = due.pop() {
            let block = super::super::node::fetch(&cid, &mut dag.get()).unwrap();
            body.extend_from_slice(&block);
            lens.push(block.len() as u32);
            if cid.codec() == DAG_PB {
                let links = Node::decode(&cid, &block).unwrap().pb.links().map(|l| l.cid).collect::<Vec<_>>();
                due.extend(links.into_iter().rev());
            }
        }
        (body, lens)
    }

    /// Builds the blocks out of the frame and the file bytes, as the store does.
    fn rebuild(frame: &ChunkFrame, mut data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for b in &frame.blocks {
            let (own, rest) = data.split_at(b.data_len as usize);
            out.extend([&b.prefix, own, &b.suffix].concat());
            data = rest;
        }
        assert!(data.is_empty());
        out
    }

    #[test]
    fn a_raw_leaf_is_its_file_bytes() {
        let cid = cid_of(false, RAW, b"data");
        for len in [Some(4), None] {
            let chunk = verify_chunk(&ChunkSpec { cid, len }, b"data", &[4]).unwrap();
            assert_eq!((chunk.data_len(), chunk.frame()), (4, None));
            assert_eq!(chunk.segments().collect::<Vec<_>>(), [b"data"]);
            assert_eq!(chunk.blocks().collect::<Vec<_>>(), [(cid, &b"data"[..])]);
        }
        let empty = cid_of(false, RAW, b"");
        assert_eq!(verify(empty, 0, b"", &[0]).unwrap().data_len(), 0);
    }

    #[test]
    fn every_shape_of_chunk_is_rebuilt_from_its_frame_and_its_file_bytes() {
        let mut dag = Dag::default();
        let (a, b) = (dag.raw(b"aaaa"), dag.raw(b"bbb"));
        let wrapped = dag.file(b"wrapped", &[]);
        let inline = identity(RAW, b"id");
        let inner = dag.file(b"own", &[(a, 4), (inline, 2), (wrapped, 7)]);
        let root = dag.file(b"", &[(inner, 16), (b, 3), (a, 4), (inner, 16)]);
        for (cid, data) in [
            (wrapped, &b"wrapped"[..]),
            (inner, b"ownaaaaidwrapped"),
            (root, b"ownaaaaidwrappedbbbaaaaownaaaaidwrapped"),
            (dag.file(b"", &[]), b""),
        ] {
            let (body, lens) = body(&dag, cid);
            let chunk = verify(cid, data.len() as u64, &body, &lens).unwrap();
            assert_eq!(chunk.segments().collect::<Vec<_>>().concat(), data);
            let frame = chunk.frame().unwrap();
            assert_eq!(ChunkFrame::decode(&frame.encode()), Ok(frame.clone()));
            assert_eq!((frame.data_len(), frame.block_lens()), (data.len() as u64, lens));
            assert_eq!(rebuild(&frame, data), body);
            // With a node that is not whole in place of this one it fails.
            let mut cut = frame.encode();
            cut.pop();
            assert_eq!(ChunkFrame::decode(&cut), Err(FrameFault));
        }
    }

    #[test]
    fn data_before_links_is_rebuilt_as_it_was() {
        let mut dag = Dag::default();
        let a = dag.raw(b"aaaa");
        let message = file_message(b"own", &[(a, 4)]);
        let (links, data) = (node_bytes(&[("", a, 4)], b""), node_bytes(&[], &message));
        let block = [&data[..], &links[..links.len() - 2]].concat();
        let cid = cid_of(false, DAG_PB, &block);
        let body = [&block[..], b"aaaa"].concat();
        let lens = [block.len() as u32, 4];
        let chunk = verify(cid, 7, &body, &lens).unwrap();
        assert_eq!(rebuild(&chunk.frame().unwrap(), b"ownaaaa"), body);
    }

    #[test]
    fn wrong_bytes_are_the_senders_fault_and_name_the_block() {
        let mut dag = Dag::default();
        let (a, b) = (dag.raw(b"aaaa"), dag.raw(b"bbb"));
        let root = dag.file(b"", &[(a, 4), (b, 3)]);
        let (good, lens) = body(&dag, root);
        let n = lens[0] as usize;
        let changed = |at: usize| {
            let mut body = good.clone();
            body[at] ^= 1;
            verify(root, 7, &body, &lens).unwrap_err()
        };
        assert_eq!(changed(3), ChunkFault::WrongBytes(root));
        assert_eq!(changed(n + 1), ChunkFault::WrongBytes(a));
        assert_eq!(changed(n + 5), ChunkFault::WrongBytes(b));
        let swapped = [&good[..n], b"bbb", b"aaaa"].concat();
        assert_eq!(verify(root, 7, &swapped, &[lens[0], 3, 4]), Err(ChunkFault::WrongBytes(a)));
        let wrong: [(&[u8], Vec<u32>); 6] = [
            (&good[..n + 4], vec![lens[0], 4]),
            (&good, vec![lens[0], 4]),
            (&good, vec![lens[0], 4, 3, 0]),
            (&good, vec![lens[0], 4, u32::MAX]),
            (&good, vec![u32::MAX; 3]),
            (&[], vec![]),
        ];
        for (body, lens) in wrong {
            let fault = verify(root, 7, body, &lens).unwrap_err();
            assert!(fault.is_senders(), "{lens:?} {fault:?}");
        }
        assert_eq!(verify(a, 4, b"", &[0; 1_025]), Err(ChunkFault::WrongBytes(a)));
        let long = vec![0; MAX_CHUNK_BODY + 1];
        assert_eq!(verify(a, 4, &long, &[long.len() as u32]), Err(ChunkFault::WrongBytes(a)));
    }

    #[test]
    fn lies_under_the_right_hash_are_the_authors_fault_and_name_the_block() {
        let mut dag = Dag::default();
        let a = dag.raw(b"aaaa");
        let dir = dag.dir(&[]);
        let size = |claimed, actual| Why::Size { claimed, actual };
        let many: Vec<_> = vec![(a, 4); MAX_CHUNK_BLOCKS];
        let cases = [
            (a, 5, a, size(5, 4)),
            (dag.file(b"xyz", &[]), 4, dag.file(b"xyz", &[]), size(4, 3)),
            (dag.file(b"", &[(a, 5)]), 5, a, size(5, 4)),
            (dir, 0, dir, Why::NotAFile),
            (dag.file(b"", &[(dir, 0)]), 0, dir, Why::NotAFile),
            (dag.file(b"", &many), 4_096, dag.file(b"", &many), Why::ChunkTooBig("1,024 blocks")),
        ];
        for (cid, len, block, why) in cases {
            let (mut body, mut lens) = body(&dag, cid);
            lens.truncate(2);
            body.truncate(lens.iter().sum::<u32>() as usize);
            let fault = verify(cid, len, &body, &lens).unwrap_err();
            assert!(!fault.is_senders() && fault.to_string().contains(&block.to_string()));
            assert_eq!(fault, ChunkFault::Malformed(DagFault::new(&block, why)));
        }
        // A raw entry of unknown length may prove to be anything but too long.
        let big = dag.file(b"", &[(a, 4), (a, MAX_CHUNK_DATA)]);
        let (mut bytes, mut lens) = body(&dag, big);
        lens.truncate(1);
        bytes.truncate(lens[0] as usize);
        let fault = verify_chunk(&ChunkSpec { cid: big, len: None }, &bytes, &lens).unwrap_err();
        assert_eq!(fault, ChunkFault::Malformed(DagFault::new(&big, Why::ChunkTooBig("2 MiB"))));
    }

    #[test]
    fn the_frame_of_our_own_chunk_is_the_one_that_its_blocks_have() {
        let small = Profile { chunk_len: 8, max_links: 3, ..Profile::V1_256K };
        for profile in [small, small.preserving(), Profile { cid_version: 0, ..small.preserving() }] {
            let (mut nodes, mut all) = (Dag::default(), Dag::default());
            let mut sink = nodes.sink();
            let mut builder = FileBuilder::new(&profile, Meta::NONE);
            let data: Vec<u8> = (0..107).collect();
            for part in data.chunks(8) {
                let leaf = leaf(&profile, part);
                let (prefix, suffix) = leaf_frame(&profile, leaf.data_len);
                all.0.insert(leaf.cid, [&prefix, part, &suffix].concat().into());
                builder.push(leaf, &mut sink);
            }
            let root = builder.finish(&mut sink).cid;
            drop(sink);
            all.0.extend(nodes.0.clone());
            let spec = ChunkSpec { cid: root, len: Some(107) };
            let (body, lens) = body(&all, root);
            let frame = verify_chunk(&spec, &body, &lens).unwrap().frame();
            assert_eq!(ChunkFrame::of_own(&profile, &spec, &mut nodes.get()), Ok(frame));
            // The inner nodes are needed; a leaf by itself is not.
            let gone = ChunkFrame::of_own(&profile, &spec, &mut |_| None);
            assert_eq!(gone, Err(DagFault::new(&root, Why::NotHeld)));
            let one = leaf(&profile, b"12345");
            let own = ChunkSpec { cid: one.cid, len: Some(5) };
            let frame = ChunkFrame::of_own(&profile, &own, &mut |_| None).unwrap();
            assert_eq!(frame.is_none(), profile.raw_leaves);
            assert_eq!(frame.map_or(5, |f| f.block_lens()[0]), one.block_len);
        }
    }

    #[test]
    fn damaged_frames_are_refused() {
        let cid = cid_of(false, DAG_PB, b"");
        let frame = |data_len| BlockFrame { cid, prefix: vec![1], data_len, suffix: vec![2] };
        let good = ChunkFrame { blocks: vec![frame(5)] }.encode();
        for len in 0..good.len() {
            assert_eq!(ChunkFrame::decode(&good[..len]), Err(FrameFault));
        }
        let long = ChunkFrame { blocks: vec![frame(MAX_BLOCK_LEN as u32)] }.encode();
        let many = ChunkFrame { blocks: vec![frame(5); MAX_CHUNK_BLOCKS + 1] }.encode();
        let huge = [&[0xff; 9][..], &[1]].concat();
        for bad in [long, many, huge, vec![0], [&good[..], &[0]].concat()] {
            assert_eq!(ChunkFrame::decode(&bad), Err(FrameFault));
        }
    }
}
