//! Putting a chunk together block by block, for those who send blocks and not chunks: the blocks behind each
//! other as [`super::chunk::verify_chunk`] takes them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::chunk::{MAX_CHUNK_BLOCKS, MAX_CHUNK_BODY};
use super::node::{Node, fetch};
use super::{Cid, RAW, identity_block};

/// A chunk of which some blocks are here. Each block's bytes must be known to have its name.
#[derive(Debug)]
pub struct Assembly {
    root: Cid,
    blocks: BTreeMap<Cid, Bytes>,
    bytes: usize,
}

/// How far an assembly is.
#[derive(Debug, PartialEq, Eq)]
pub enum Assembled {
    /// These blocks are needed, each named once.
    Missing(Vec<Cid>),
    /// All there is: the body of the chunk, and the length of each of its blocks. If the DAG is malformed, it
    /// ends with the block that shows it, so that whoever verifies it comes to the same block.
    Whole { body: Vec<u8>, block_lens: Vec<u32> },
}

impl Assembly {
    pub fn new(root: Cid) -> Assembly {
        Assembly { root, blocks: BTreeMap::new(), bytes: 0 }
    }

    /// Whether the chunk of that name may be more than this one block.
    pub fn is_needed(cid: &Cid, block: &[u8]) -> bool {
        cid.codec() != RAW && Node::decode(cid, block).is_ok_and(|node| !node.pb.is_empty())
    }

    /// Takes a block; false if the chunk is longer than a chunk may be, which only its author can be blamed for.
    pub fn put(&mut self, cid: Cid, block: Bytes) -> bool {
        self.bytes += block.len();
        self.blocks.insert(cid, block);
        self.bytes <= MAX_CHUNK_BODY && self.blocks.len() <= MAX_CHUNK_BLOCKS
    }

    /// Bytes that are here.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Follows the links depth first, as far as the blocks allow.
    pub fn step(&self) -> Assembled {
        let (mut body, mut block_lens) = (Vec::with_capacity(self.bytes), Vec::new());
        let (mut missing, mut named) = (Vec::new(), BTreeSet::new());
        let mut due = vec![self.root];
        let mut spent = 0;
        while let Some(cid) = due.pop() {
            let Some(block) = fetch(&cid, &mut |cid| self.blocks.get(cid).cloned()) else {
                spent += 1;
                if named.insert(cid) {
                    missing.push(cid);
                }
                if spent + block_lens.len() > MAX_CHUNK_BLOCKS {
                    break;
                }
                continue;
            };
            if missing.is_empty() {
                body.extend_from_slice(&block);
                block_lens.push(u32::try_from(block.len()).unwrap_or(u32::MAX));
            } else {
                spent += 1;
            }
            let over = body.len() > MAX_CHUNK_BODY || spent + block_lens.len() + due.len() > MAX_CHUNK_BLOCKS;
            if cid.codec() == RAW && !over {
                continue;
            }
            match Node::decode(&cid, &block) {
                Ok(node) if !over && due.len() + node.pb.len() <= MAX_CHUNK_BLOCKS => {
                    let first = due.len();
                    due.extend(node.pb.links().map(|link| link.cid));
                    due[first..].reverse();
                }
                // No chunk can be made of this: what comes after it is of no use.
                _ => break,
            }
        }
        if missing.is_empty() { Assembled::Whole { body, block_lens } } else { Assembled::Missing(missing) }
    }
}

/// Whether a block of that name has to be asked for at all.
pub fn is_inline(cid: &Cid) -> bool {
    identity_block(cid).is_some()
}

#[cfg(test)]
mod tests {
    use super::super::chunk::{ChunkSpec, verify_chunk};
    use super::super::testing::{Dag, identity};
    use super::*;

    /// Fetches a chunk a wave of blocks at a time.
    fn assemble(dag: &Dag, root: Cid) -> (usize, Vec<u8>, Vec<u32>) {
        let (mut assembly, mut waves) = (Assembly::new(root), 0);
        loop {
            match assembly.step() {
                Assembled::Whole { body, block_lens } => return (waves, body, block_lens),
                Assembled::Missing(cids) => {
                    assert!(!cids.is_empty() && waves < 10);
                    waves += 1;
                    for cid in cids {
                        assembly.put(cid, dag.get()(&cid).unwrap());
                    }
                }
            }
        }
    }

    #[test]
    fn a_small_dag_is_put_together_wave_by_wave_as_it_is_verified() {
        let mut dag = Dag::default();
        let (a, b) = (dag.raw(b"aaaa"), dag.raw(b"bbb"));
        let inline = identity(RAW, b"id");
        let inner = dag.file(b"own", &[(a, 4), (inline, 2)]);
        let root = dag.file(b"", &[(inner, 9), (b, 3), (a, 4), (inner, 9)]);
        let (waves, body, lens) = assemble(&dag, root);
        assert_eq!(waves, 2);
        let chunk = verify_chunk(&ChunkSpec { cid: root, len: Some(25) }, &body, &lens).unwrap();
        assert_eq!(chunk.segments().collect::<Vec<_>>().concat(), b"ownaaaaidbbbaaaaownaaaaid");
        assert!(Assembly::is_needed(&root, &dag.get()(&root).unwrap()));
        assert!(!Assembly::is_needed(&a, b"aaaa"));
    }

    #[test]
    fn a_malformed_block_ends_the_body_so_that_its_author_is_blamed() {
        let mut dag = Dag::default();
        let folder = dag.dir(&[]);
        let root = dag.file(b"", &[(folder, 3)]);
        let (_, body, lens) = assemble(&dag, root);
        let fault = verify_chunk(&ChunkSpec { cid: root, len: Some(3) }, &body, &lens).unwrap_err();
        assert!(!fault.is_senders(), "{fault}");
    }
}
