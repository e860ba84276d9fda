//! Files as kubo builds them: leaves in, inner nodes out, in constant memory.
//!
//! Hashing leaves ([`leaf`]) is pure and needs no order, so it is done on as many threads as there
//! are; [`FileBuilder`] then takes the leaves in the order of the file.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::block::{cid_of, cid_of_digest};
use super::dagpb::{self, NewLink, put_varint};
use super::profile::Profile;
use super::unixfs::{self, Meta};
use super::{Cid, DAG_PB, RAW};

pub use super::dir::DirBuilder;

/// Receives each finished inner node.
pub type NodeSink<'a> = dyn FnMut(Cid, Bytes) + 'a;

/// One chunk of a file, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub cid: Cid,
    /// File bytes.
    pub data_len: u32,
    /// Bytes of the block: the same, or more where it is wrapped.
    pub block_len: u32,
}

/// A finished file, folder or symlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    pub cid: Cid,
    /// Bytes of all its blocks, repeated ones as often as they are linked: what the link above says.
    pub tsize: u64,
    /// File bytes; of a folder, the sum of its files'; of a symlink 0.
    pub size: u64,
}

/// Hashes one chunk of file bytes, at most `profile.chunk_len` of them.
pub fn leaf(profile: &Profile, data: &[u8]) -> Leaf {
    let data_len = u32::try_from(data.len()).expect("a chunk is at most a few MiB");
    if profile.raw_leaves {
        return Leaf { cid: cid_of(profile.v0(), RAW, data), data_len, block_len: data_len };
    }
    let (prefix, suffix) = leaf_frame(profile, data_len);
    let digest = Sha256::new().chain_update(&prefix).chain_update(data).chain_update(&suffix).finalize();
    Leaf {
        cid: cid_of_digest(profile.v0(), DAG_PB, &digest.into()),
        data_len,
        block_len: data_len + (prefix.len() + suffix.len()) as u32,
    }
}

/// How a leaf wraps its data: its block is `prefix ++ data ++ suffix`; both are empty for raw leaves.
pub fn leaf_frame(profile: &Profile, data_len: u32) -> (Vec<u8>, Vec<u8>) {
    if profile.raw_leaves { Default::default() } else { wrapped_leaf(data_len, &Meta::NONE) }
}

fn wrapped_leaf(data_len: u32, meta: &Meta) -> (Vec<u8>, Vec<u8>) {
    let (message, suffix) = unixfs::leaf_message(data_len, meta);
    let mut prefix = vec![0x0a];
    put_varint(&mut prefix, message.len() as u64 + u64::from(data_len) + suffix.len() as u64);
    prefix.extend(message);
    (prefix, suffix)
}

/// A whole file of at most one chunk. Where leaves are wrapped, the root carries the bytes itself
/// and goes to the sink; a raw leaf does not (its bytes are the file's, and it carries no `meta`:
/// preserve with [`Profile::preserving`]).
pub fn small_file(profile: &Profile, meta: Meta, data: &[u8], sink: &mut NodeSink) -> Built {
    let size = data.len() as u64;
    if profile.raw_leaves {
        let cid = cid_of(profile.v0(), RAW, data);
        return Built { cid, tsize: size, size };
    }
    let data_len = u32::try_from(data.len()).expect("a chunk is at most a few MiB");
    let (prefix, suffix) = wrapped_leaf(data_len, &meta);
    let block = [&prefix, data, &suffix].concat();
    let built = Built { cid: cid_of(profile.v0(), DAG_PB, &block), tsize: block.len() as u64, size };
    sink(built.cid, block.into());
    built
}

/// A symlink; `target` is kept as it is. Of `meta` the time is kept, as kubo does.
pub fn symlink_with(profile: &Profile, meta: Meta, target: &[u8], sink: &mut NodeSink) -> Built {
    let (cid, tsize) = finish_node(profile, &[], &unixfs::symlink_message(target, &meta), sink);
    Built { cid, tsize, size: 0 }
}

/// A symlink without a time.
pub fn symlink(profile: &Profile, target: &[u8], sink: &mut NodeSink) -> Built {
    symlink_with(profile, Meta::NONE, target, sink)
}

/// Encodes and names a node, hands it on, and returns its CID and cumulative size.
pub(super) fn finish_node(
    profile: &Profile,
    links: &[NewLink],
    data: &[u8],
    sink: &mut NodeSink,
) -> (Cid, u64) {
    let block = dagpb::encode(links, data);
    let cid = cid_of(profile.v0(), DAG_PB, &block);
    let tsize = links.iter().fold(block.len() as u64, |sum, link| sum.saturating_add(link.tsize));
    sink(cid, block.into());
    (cid, tsize)
}

/// Children of one node to be, each with its file bytes.
type Level = Vec<(NewLink, u64)>;

/// Puts leaves together to a balanced DAG: each inner node is full except along the right edge.
///
/// A file of at most one chunk goes through [`small_file`] instead; if a single leaf is pushed all
/// the same, the leaf is the root, `meta` is lost and nothing goes to the sink.
#[derive(Debug)]
pub struct FileBuilder {
    profile: Profile,
    meta: Meta,
    /// The nodes being filled, from the leaves upwards.
    levels: Vec<Level>,
}

impl FileBuilder {
    /// With a `meta`, use [`Profile::preserving`].
    pub fn new(profile: &Profile, meta: Meta) -> FileBuilder {
        FileBuilder { profile: *profile, meta, levels: Vec::new() }
    }

    /// The next leaf of the file.
    pub fn push(&mut self, leaf: Leaf, sink: &mut NodeSink) {
        let link = NewLink { cid: leaf.cid, name: String::new(), tsize: leaf.block_len.into() };
        self.add(0, (link, leaf.data_len.into()), sink);
    }

    /// A full node is only closed when it is known not to be the root.
    fn add(&mut self, level: usize, child: (NewLink, u64), sink: &mut NodeSink) {
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == self.profile.max_links {
            let full = std::mem::take(&mut self.levels[level]);
            let node = self.close(full, &Meta::NONE, sink);
            self.add(level + 1, node, sink);
        }
        self.levels[level].push(child);
    }

    fn close(&self, children: Level, meta: &Meta, sink: &mut NodeSink) -> (NewLink, u64) {
        let message = unixfs::file_message(children.iter().map(|(_, size)| *size), meta);
        let size = children.iter().map(|(_, size)| *size).sum();
        let links: Vec<NewLink> = children.into_iter().map(|(link, _)| link).collect();
        let (cid, tsize) = finish_node(&self.profile, &links, &message, sink);
        (NewLink { cid, name: String::new(), tsize }, size)
    }

    /// The end of the file. A file without a leaf is the empty file.
    pub fn finish(mut self, sink: &mut NodeSink) -> Built {
        if self.levels.is_empty() {
            return small_file(&self.profile, self.meta, &[], sink);
        }
        // Nodes are closed late, so every level that exists holds something, and the top one more
        // than one child unless the file is a single leaf.
        let mut level = 0;
        loop {
            let children = std::mem::take(&mut self.levels[level]);
            if level + 1 == self.levels.len() {
                return match <[_; 1]>::try_from(children) {
                    Ok([leaf]) => built(leaf),
                    Err(children) => built(self.close(children, &self.meta, sink)),
                };
            }
            let node = self.close(children, &Meta::NONE, sink);
            level += 1;
            self.add(level, node, sink);
        }
    }
}

fn built((link, size): (NewLink, u64)) -> Built {
    Built { cid: link.cid, tsize: link.tsize, size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop_node(_: Cid, _: Bytes) {}

    fn meta(mode: impl Into<Option<u32>>, mtime: impl Into<Option<(i64, u32)>>) -> Meta {
        Meta { mode: mode.into(), mtime: mtime.into() }
    }

    /// The figures of kubo's own test `t0047-add-mode-mtime.sh` (CIDv0, 256 KiB).
    #[test]
    fn modes_and_times_give_the_cids_that_kubo_gives() {
        let p = &Profile::V0_2015;
        let file = |m| small_file(p, m, &[], &mut drop_node).cid.to_string();
        let link = |m| symlink_with(p, m, b"nothing", &mut drop_node).cid.to_string();
        let dir = |m| DirBuilder::new(p, m).finish(&mut drop_node).cid.to_string();
        let (kept, custom) = ((1_604_320_482, 0), (1_603_539_720, 0));
        let nanos = (1_603_539_720, 54_321);
        for (made, kubo) in [
            (file(Meta::NONE), "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
            (file(meta(0o640, None)), "QmQLgxypSNGNFTuUPGCecq6dDEjb6hNB5xSyVmP3cEuNtq"),
            (file(meta(None, kept)), "QmQ6kErEW8kztQFV8vbwNU8E4dmtGsYpRiboiLxUEwibvj"),
            (file(meta(0o640, kept)), "QmYkvboLsvLFcSYmqVJRxvBdYRQLroLv9kELf3LRiCqBri"),
            (file(meta(0o764, None)), "QmchD3BN8TQ3RW6jPLxSaNkqvfuj7syKhzTRmL4EpyY1Nz"),
            (file(meta(None, custom)), "QmT3aY4avDcYXCWpU8CJzqUkW7YEuEsx36S8cTNoLcuK1B"),
            (file(meta(None, nanos)), "QmaKH8H5rXBUBCX4vdxi7ktGQEL7wejV7L9rX2qpZjwncz"),
            (file(meta(0o764, nanos)), "QmUkxrtBA8tPjwCYz1HrsoRfDz6NgKut3asVeHVQNH4C8L"),
            (link(meta(None, kept)), "QmbJwotgtr84JxcnjpwJ86uZiyMoxbZuNH4YrdJMypkYaB"),
            (link(meta(0o777, custom)), "QmV1Uot2gy4bhY9yvYiZxhhchhyYC6MKKoGV1XtWNmpCLe"),
            (link(meta(None, nanos)), "QmPHYCxYvvHj6VxiPNJ3kXxcPsnJLDYUJqsDJWjvytmrmY"),
            (dir(Meta::NONE), "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"),
            (dir(meta(0o755, None)), "QmRviohgafvCsbkiTgfQFipbuXJ6k1YtoiaQW4quttJPKu"),
            (dir(meta(None, (1_655_158_722, 0))), "QmYMy7CZGb498QFSQBF5ZFwv1FYbrAtYZMe4VxhDXxAcvf"),
        ] {
            assert_eq!(made, kubo);
        }
    }

    /// kubo's test again: `dir2/sub1` with a symlink and a file below it, modes and times kept.
    #[test]
    fn a_tree_with_modes_and_times_has_the_cid_that_kubo_gives() {
        let p = &Profile::V0_2015.preserving();
        let at = |after: i64| (1_655_158_632 + after, 0);
        let sink = &mut drop_node;
        let file3 = small_file(p, meta(0o644, at(10)), &[], sink);
        let link1 = symlink_with(p, meta(None, at(20)), b"../sub2/file3", sink);
        let mut sub2 = DirBuilder::new(p, meta(0o755, at(30)));
        sub2.entry("file3", &file3);
        let mut sub1 = DirBuilder::new(p, meta(0o755, at(40)));
        sub1.entry("sub2", &sub2.finish(sink));
        sub1.entry("link1", &link1);
        assert_eq!(sub1.finish(sink).cid.to_string(), "QmeQwX5qAX18fcPDxDdkfM6ttuFCZetF5hgeUa6ov8D5oc");
    }

    #[test]
    fn preserving_makes_no_raw_leaves_and_puts_the_metadata_into_the_root_alone() {
        let p = Profile { chunk_len: 4, max_links: 3, ..Profile::V1_256K }.preserving();
        for chunks in 2..40u32 {
            let mut nodes = Vec::new();
            let sink = &mut |cid, node: Bytes| nodes.push((cid, node));
            let mut builder = FileBuilder::new(&p, meta(0o600, (1, 0)));
            (0..chunks).for_each(|i| builder.push(leaf(&p, &i.to_le_bytes()), sink));
            let root = builder.finish(sink);
            assert_eq!(root.size, u64::from(4 * chunks));
            for (cid, node) in nodes {
                let decoded = super::super::node::Node::decode(&cid, &node).unwrap();
                assert_eq!(decoded.fs.meta.is_none(), cid != root.cid, "{chunks} chunks");
                decoded.file_size(&cid, None).unwrap();
            }
        }
    }

    #[test]
    fn a_leaf_is_its_frame_around_the_data() {
        for p in [Profile::V0_2015, Profile::V1_256K, Profile::V1_256K.preserving()] {
            for len in [0, 1, 127, 128, 16_383, 16_384, 262_144] {
                let data = vec![7; len as usize];
                let (prefix, suffix) = leaf_frame(&p, len);
                let block = [&prefix[..], &data, &suffix].concat();
                let leaf = leaf(&p, &data);
                let codec = if p.raw_leaves { RAW } else { DAG_PB };
                assert_eq!((leaf.cid, leaf.block_len), (cid_of(p.v0(), codec, &block), block.len() as u32));
                assert_eq!(small_file(&p, Meta::NONE, &data, &mut drop_node).cid, leaf.cid);
            }
        }
    }

    #[test]
    fn the_builder_keeps_one_node_a_level_however_long_the_file() {
        let p = Profile::V1_256K;
        let mut builder = FileBuilder::new(&p, Meta::NONE);
        let one = leaf(&p, b"x");
        for _ in 0..100_000 {
            builder.push(one, &mut drop_node);
            assert!(builder.levels.iter().map(Vec::len).sum::<usize>() <= 3 * p.max_links);
        }
        assert_eq!(builder.finish(&mut drop_node).size, 100_000);
    }

    #[test]
    fn an_empty_file_needs_no_leaf() {
        for p in Profile::ALL {
            let empty = small_file(p, Meta::NONE, &[], &mut drop_node);
            assert_eq!(FileBuilder::new(p, Meta::NONE).finish(&mut drop_node), empty);
        }
    }
}
