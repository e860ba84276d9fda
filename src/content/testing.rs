//! Hand-made DAGs for the tests of this module.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::block::cid_of;
use super::dagpb::{self, NewLink, put_bytes, put_varint};
use super::manifest::{DagFault, Item, Step, Walker};
use super::{Cid, DAG_PB, Hash, IDENTITY, RAW};

/// Blocks by name.
#[derive(Clone, Default)]
pub(super) struct Dag(pub BTreeMap<Cid, Bytes>);

impl Dag {
    pub fn get(&self) -> impl FnMut(&Cid) -> Option<Bytes> + '_ {
        |cid| self.0.get(cid).cloned()
    }

    pub fn sink(&mut self) -> impl FnMut(Cid, Bytes) + '_ {
        |cid, node| drop(self.0.insert(cid, node))
    }

    pub fn raw(&mut self, data: &[u8]) -> Cid {
        let cid = cid_of(false, RAW, data);
        self.0.insert(cid, data.to_vec().into());
        cid
    }

    /// A dag-pb node of any message.
    pub fn node(&mut self, links: &[(&str, Cid, u64)], message: &[u8]) -> Cid {
        let bytes = node_bytes(links, message);
        let cid = cid_of(false, DAG_PB, &bytes);
        self.0.insert(cid, bytes.into());
        cid
    }

    /// A file node with bytes of its own and children of the sizes given.
    pub fn file(&mut self, data: &[u8], children: &[(Cid, u64)]) -> Cid {
        let links: Vec<_> = children.iter().map(|(cid, size)| ("", *cid, *size)).collect();
        self.node(&links, &file_message(data, children))
    }

    pub fn dir(&mut self, entries: &[(&str, Cid)]) -> Cid {
        let links: Vec<_> = entries.iter().map(|(name, cid)| (*name, *cid, 9)).collect();
        self.node(&links, b"\x08\x01")
    }

    /// The whole walk, a few items at a time.
    pub fn walk(&self, root: Cid) -> Result<Vec<Item>, DagFault> {
        let (mut walker, mut out) = (Walker::new(root), Vec::new());
        loop {
            match walker.advance(&mut self.get(), 3, &mut out)? {
                Step::More => {}
                Step::Done => return Ok(out),
                Step::Missing(cids) => panic!("{cids:?} are missing"),
            }
        }
    }

    /// Why the walk of this root fails; the block that is named, and the reason.
    pub fn fault(&self, root: Cid) -> (Cid, super::Why) {
        let fault = self.walk(root).expect_err("the walk should fail");
        assert!(fault.to_string().contains(&fault.cid.to_string()), "{fault}");
        (fault.cid, fault.why)
    }
}

pub(super) fn node_bytes(links: &[(&str, Cid, u64)], message: &[u8]) -> Vec<u8> {
    let link =
        |(name, cid, tsize): &(&str, Cid, u64)| NewLink { cid: *cid, name: name.to_string(), tsize: *tsize };
    dagpb::encode(&links.iter().map(link).collect::<Vec<_>>(), message)
}

pub(super) fn file_message(data: &[u8], children: &[(Cid, u64)]) -> Vec<u8> {
    let sum = children.iter().fold(data.len() as u64, |sum, (_, size)| sum.wrapping_add(*size));
    let mut message = vec![0x08, 2];
    if !data.is_empty() {
        put_bytes(&mut message, 2, data);
    }
    message.push(0x18);
    put_varint(&mut message, sum);
    for (_, size) in children {
        message.push(0x20);
        put_varint(&mut message, *size);
    }
    message
}

/// A CID that carries its block.
pub(super) fn identity(codec: u64, block: &[u8]) -> Cid {
    Cid::new_v1(codec, Hash::wrap(IDENTITY, block).unwrap())
}

/// The CID of a raw block that nobody needs to have.
pub(super) fn some_raw(n: u64) -> Cid {
    cid_of(false, RAW, &n.to_le_bytes())
}

/// The chunks among items: number, first, length, file, offset.
pub(super) fn chunks(items: &[Item]) -> Vec<(u32, bool, Option<u64>, u32, u64)> {
    let chunk = |item: &Item| match item {
        Item::Chunk { index, first, spec, file, offset } => {
            Some((index.get(), *first, spec.len, file.0, *offset))
        }
        _ => None,
    };
    items.iter().filter_map(chunk).collect()
}
