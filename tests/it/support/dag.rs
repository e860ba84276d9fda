//! Contents to be served by a peer of the test's own: honest ones, and DAGs that nobody should make.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use dunlin::content::block::cid_of;
use dunlin::content::builder::{Built, FileBuilder, leaf, symlink};
use dunlin::content::profile::Profile;
use dunlin::content::{Cid, DAG_PB, Meta, RAW};

use super::tree::read_full;

const PROFILE: &Profile = &Profile::V1_256K;

/// A root, its inner nodes in the order of the manifest, and its chunks by number.
pub struct Dag {
    pub root: Cid,
    pub nodes: Vec<(Cid, Bytes)>,
    pub chunks: Vec<Bytes>,
}

impl Dag {
    /// A file of distinct chunks.
    pub fn file(data: &[u8]) -> Dag {
        let (mut nodes, mut chunks) = (Vec::new(), Vec::new());
        let sink = &mut |cid, node| nodes.push((cid, node));
        let mut file = FileBuilder::new(PROFILE, Meta::NONE);
        for chunk in data.chunks(PROFILE.chunk_len as usize) {
            file.push(leaf(PROFILE, chunk), sink);
            chunks.push(Bytes::copy_from_slice(chunk));
        }
        let root = file.finish(sink).cid;
        // Nodes are finished from the leaves upwards; they are asked for from the root downwards.
        nodes.reverse();
        Dag { root, nodes, chunks }
    }

    /// The inner nodes of a file alone: its chunks are with others.
    pub fn skeleton(path: &Path) -> Dag {
        let mut nodes = Vec::new();
        let sink = &mut |cid, node| nodes.push((cid, node));
        let mut builder = FileBuilder::new(PROFILE, Meta::NONE);
        let mut file = File::open(path).unwrap();
        let mut chunk = vec![0; PROFILE.chunk_len as usize];
        loop {
            let len = read_full(&mut file, &mut chunk);
            if len == 0 {
                break;
            }
            builder.push(leaf(PROFILE, &chunk[..len]), sink);
        }
        let root = builder.finish(sink).cid;
        nodes.reverse();
        Dag { root, nodes, chunks: Vec::new() }
    }

    pub fn node(&self, cid: &Cid) -> Option<Bytes> {
        self.nodes.iter().find(|(c, _)| c == cid).map(|(_, node)| node.clone())
    }
}

/// Makes a folder by hand: its entries' names are whatever the test wants.
#[derive(Default)]
pub struct Folder {
    /// As they are in the block.
    links: Vec<u8>,
    nodes: Vec<(Cid, Bytes)>,
    chunks: Vec<Bytes>,
    numbers: HashMap<Cid, ()>,
}

impl Folder {
    pub fn file(self, name: &str, data: &[u8]) -> Folder {
        self.claimed(name, data, Some(data.len() as u64))
    }

    /// A file whose link claims another size, or none.
    pub fn claimed(mut self, name: &str, data: &[u8], size: Option<u64>) -> Folder {
        let cid = cid_of(false, RAW, data);
        if self.numbers.insert(cid, ()).is_none() {
            self.chunks.push(Bytes::copy_from_slice(data));
        }
        self.link(name, cid, size);
        self
    }

    pub fn symlink(mut self, name: &str, target: &str) -> Folder {
        let mut nodes = Vec::new();
        let Built { cid, tsize, .. } = symlink(PROFILE, target.as_bytes(), &mut |c, n| nodes.push((c, n)));
        self.nodes.append(&mut nodes);
        self.link(name, cid, Some(tsize));
        self
    }

    /// A folder in it. Its files must not be files of the outer one too: then their numbers would differ.
    pub fn folder(self, name: &str, inner: Folder) -> Folder {
        self.folder_claimed(name, inner, Some(0))
    }

    /// The same, with what its link claims.
    pub fn folder_claimed(mut self, name: &str, inner: Folder, size: Option<u64>) -> Folder {
        let mut inner = inner.finish();
        self.link(name, inner.root, size);
        self.nodes.append(&mut inner.nodes);
        self.chunks.append(&mut inner.chunks);
        self
    }

    fn link(&mut self, name: &str, cid: Cid, tsize: Option<u64>) {
        let mut link = vec![];
        put(&mut link, 1, &cid.to_bytes());
        put(&mut link, 2, name.as_bytes());
        if let Some(tsize) = tsize {
            link.push(3 << 3);
            varint(&mut link, tsize);
        }
        put(&mut self.links, 2, &link);
    }

    /// The links stay in the order that they were made in: the manifest's numbers follow it.
    pub fn finish(self) -> Dag {
        const DIRECTORY: &[u8] = &[8, 1];
        let mut block = self.links;
        put(&mut block, 1, DIRECTORY);
        let root = cid_of(false, DAG_PB, &block);
        let mut nodes = vec![(root, Bytes::from(block))];
        nodes.extend(self.nodes);
        Dag { root, nodes, chunks: self.chunks }
    }
}

/// A protobuf field of bytes.
fn put(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

pub fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n > 127 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
}
