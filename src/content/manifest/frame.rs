//! One open node of a walk, and how far its links have been followed. Pure reading: what is found is
//! counted, numbered and limited by the walker.

use bytes::Bytes;

use super::super::chunk::MAX_CHUNK_DATA;
use super::super::dagpb::{PbNode, next_link};
use super::super::hamt::{HamtFault, ShardPlace};
use super::super::node::Node;
use super::super::unixfs::Kind;
use super::super::{Cid, RAW, identity_block};
use super::{DagFault, Meta, RelPath, Why, check_codec};
use crate::units::FileIndex;

/// The longest target of a symlink (`PATH_MAX` with its NUL is 4,096).
const MAX_TARGET_LEN: usize = 4_095;

/// What a node is needed for.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// The root, or what a folder's entry names.
    Entry { path: RelPath, tsize: Option<u64> },
    /// A file's inner node below its first.
    Part { file: FileIndex, offset: u64, len: u64 },
    /// A shard of the folder `path`.
    Shard { path: RelPath, place: ShardPlace },
}

/// What an opened node turned out to be.
#[derive(Debug)]
pub(super) enum Opened {
    Dir { path: RelPath, meta: Meta },
    File { path: RelPath, size: u64, meta: Meta, data: Bytes },
    Symlink { path: RelPath, target: String },
    Part { file: FileIndex, offset: u64, data: Bytes },
    Shard,
}

/// Where the next link of a node leads.
#[derive(Debug)]
pub(super) enum Next {
    End,
    /// To a node that has to be opened (or a raw entry of a folder).
    Inner(Cid, Role),
    Chunk {
        cid: Cid,
        len: u64,
        file: FileIndex,
        offset: u64,
    },
}

#[derive(Clone, Debug)]
enum Content {
    /// `offset` is where the next child's bytes belong.
    File {
        sizes: std::vec::IntoIter<u64>,
        file: FileIndex,
        offset: u64,
    },
    Dir {
        path: RelPath,
    },
    Shard {
        path: RelPath,
        place: ShardPlace,
    },
}

/// An open node.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    cid: Cid,
    node: Bytes,
    /// Where in `node` the next link begins.
    at: usize,
    content: Content,
}

/// Decodes and checks a node; there is a frame if it has links to follow.
pub(super) fn open(cid: &Cid, role: Role, block: &Bytes) -> Result<(Opened, Option<Frame>), DagFault> {
    let node = Node::decode(cid, block)?;
    let (opened, content) = match role {
        Role::Entry { path, .. } => open_entry(cid, path, &node, block)?,
        Role::Part { file, offset, len } => {
            if !node.is_file() {
                return Err(DagFault::new(cid, Why::NotAFile));
            }
            node.file_size(cid, Some(len))?;
            let data = block.slice_ref(node.data());
            let content = file_content(&node, file, offset + data.len() as u64);
            (Opened::Part { file, offset, data }, Some(content))
        }
        Role::Shard { path, place } => {
            let place = check_shard(cid, &node, Some(place))?;
            (Opened::Shard, Some(Content::Shard { path, place }))
        }
    };
    let content = content.filter(|_| !node.pb.is_empty());
    let frame =
        content.map(|content| Frame { cid: *cid, node: block.clone(), at: node.pb.first_link(), content });
    Ok((opened, frame))
}

fn open_entry(
    cid: &Cid,
    path: RelPath,
    node: &Node,
    block: &Bytes,
) -> Result<(Opened, Option<Content>), DagFault> {
    let meta = node.fs.meta;
    Ok(match node.fs.kind {
        Kind::File | Kind::Raw => {
            let size = node.file_size(cid, None)?;
            let data = block.slice_ref(node.data());
            // The walker puts in the file's number once it has one.
            let content = file_content(node, FileIndex(0), data.len() as u64);
            (Opened::File { path, size, meta, data }, Some(content))
        }
        Kind::Directory => {
            check_distinct(cid, &node.pb)?;
            (Opened::Dir { path: path.clone(), meta }, Some(Content::Dir { path }))
        }
        Kind::HamtShard => {
            let place = check_shard(cid, node, None)?;
            (Opened::Dir { path: path.clone(), meta }, Some(Content::Shard { path, place }))
        }
        Kind::Symlink => {
            let target = read_target(node.data()).ok_or_else(|| DagFault::new(cid, Why::Target))?;
            (Opened::Symlink { path, target }, None)
        }
        Kind::Metadata => return Err(DagFault::new(cid, Why::Kind(3))),
    })
}

fn file_content(node: &Node, file: FileIndex, offset: u64) -> Content {
    Content::File { sizes: node.fs.blocksizes.clone().into_iter(), file, offset }
}

fn read_target(data: &[u8]) -> Option<String> {
    let fits = (1..=MAX_TARGET_LEN).contains(&data.len()) && !data.contains(&0);
    std::str::from_utf8(data).ok().filter(|_| fits).map(str::to_owned)
}

/// Checks a shard that stands at `place` (`None`: it is a trie's root); returns its place.
pub(in super::super) fn check_shard(
    cid: &Cid,
    node: &Node,
    place: Option<ShardPlace>,
) -> Result<ShardPlace, DagFault> {
    if node.fs.kind != Kind::HamtShard {
        return Err(DagFault::new(cid, Why::NotAFolder));
    }
    let fault = |fault: HamtFault| DagFault::new(cid, fault);
    let root = ShardPlace::root(node.fs.hash_type, node.fs.fanout).map_err(fault)?;
    if let Some(place) = &place {
        if !place.same_trie(&root) {
            return Err(fault(HamtFault::OtherFanout));
        }
        // An empty shard serves nothing but to be visited a million times.
        if node.pb.is_empty() {
            return Err(fault(HamtFault::Bitfield));
        }
    }
    let place = place.unwrap_or(root);
    place.check(node.data(), node.pb.links().map(|link| link.name)).map_err(fault)?;
    Ok(place)
}

/// No two entries of the same name. Sorted names, which all known writers make, need no memory.
fn check_distinct(cid: &Cid, pb: &PbNode) -> Result<(), DagFault> {
    if pb.links().zip(pb.links().skip(1)).all(|(a, b)| a.name < b.name) {
        return Ok(());
    }
    let mut names: Vec<&[u8]> = pb.links().map(|link| link.name).collect();
    names.sort_unstable();
    if names.windows(2).any(|w| w[0] == w[1]) { Err(DagFault::new(cid, Why::SameNameTwice)) } else { Ok(()) }
}

impl Frame {
    pub fn is(&self, cid: &Cid) -> bool {
        self.cid == *cid
    }

    pub fn node_len(&self) -> usize {
        self.node.len()
    }

    /// Bytes set aside beyond the frame itself.
    pub fn memory_bytes(&self) -> usize {
        self.node.len()
            + match &self.content {
                Content::File { sizes, .. } => sizes.len() * size_of::<u64>(),
                Content::Dir { path } | Content::Shard { path, .. } => path.as_str().len(),
            }
    }

    pub fn set_file(&mut self, number: FileIndex) {
        if let Content::File { file, .. } = &mut self.content {
            *file = number;
        }
    }

    /// Follows the next link.
    pub fn next(&mut self) -> Result<Next, DagFault> {
        let Some(link) = next_link(&self.node, &mut self.at) else { return Ok(Next::End) };
        let cid = link.cid;
        check_codec(&cid)?;
        match &mut self.content {
            Content::File { sizes, file, offset } => {
                // As many sizes as links: checked when the node was opened.
                let len = sizes.next().unwrap_or(0);
                let (file, at) = (*file, *offset);
                *offset += len;
                let inner = cid.codec() != RAW && (len > MAX_CHUNK_DATA || identity_block(&cid).is_some());
                Ok(if inner {
                    Next::Inner(cid, Role::Part { file, offset: at, len })
                } else {
                    Next::Chunk { cid, len, file, offset: at }
                })
            }
            Content::Dir { path } => {
                let path = path.join(link.name).map_err(|e| DagFault::new(&self.cid, e))?;
                Ok(Next::Inner(cid, Role::Entry { path, tsize: link.tsize }))
            }
            Content::Shard { path, place } => {
                let (index, name) = place.split(link.name).map_err(|e| DagFault::new(&self.cid, e))?;
                if name.is_empty() {
                    let place = place.child(index).map_err(|e| DagFault::new(&self.cid, e))?;
                    return Ok(Next::Inner(cid, Role::Shard { path: path.clone(), place }));
                }
                let path = path.join(name).map_err(|e| DagFault::new(&self.cid, e))?;
                Ok(Next::Inner(cid, Role::Entry { path, tsize: link.tsize }))
            }
        }
    }
}
