//! The inner nodes of a simulated content: a balanced UnixFS DAG whose leaves are the chunks.

use crate::bitfield::Bitfield;
use crate::engine::event::NodeId;
use crate::units::ChunkIndex;

/// Links of an inner node, as in the project's default profile.
const FAN_OUT: u32 = 174;
/// Bytes that a link takes: CID, size, the framing of both.
const LINK_LEN: u32 = 50;

/// The shape of a content; node 0 is the root, then level by level.
#[derive(Debug)]
pub struct Dag {
    nodes: Vec<Inner>,
    /// The nodes whose children are chunks, in the order of the chunks.
    lowest: std::ops::Range<u32>,
    chunks: u32,
    chunk_len: u32,
    last_len: u32,
}

#[derive(Debug)]
struct Inner {
    links: u32,
    /// Child nodes; empty if the children are chunks.
    children: std::ops::Range<u32>,
}

impl Dag {
    /// `size` is above 0. A content of one chunk has no inner nodes.
    pub fn new(size: u64, chunk_len: u32) -> Dag {
        let chunks = size.div_ceil(u64::from(chunk_len)) as u32;
        let last_len = (size - u64::from(chunks - 1) * u64::from(chunk_len)) as u32;
        let mut widths = vec![chunks];
        while let Some(&w) = widths.last().filter(|&&w| w > 1) {
            widths.push(w.div_ceil(FAN_OUT));
        }
        // From the root downwards: the nodes of one level have those of the next as children.
        let mut nodes = Vec::new();
        let mut lowest = 0..0;
        let levels: Vec<u32> = widths.into_iter().rev().collect();
        for pair in levels.windows(2) {
            let (here, below) = (pair[0], pair[1]);
            let first = nodes.len() as u32;
            let is_lowest = nodes.len() as u32 + here == levels[..levels.len() - 1].iter().sum::<u32>();
            for i in 0..here {
                let (from, to) = (i * FAN_OUT, ((i + 1) * FAN_OUT).min(below));
                let base = first + here;
                let children = if is_lowest { 0..0 } else { base + from..base + to };
                nodes.push(Inner { links: to - from, children });
            }
            lowest = first..first + here;
        }
        Dag { nodes, lowest, chunks, chunk_len, last_len }
    }

    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// The length of a chunk, in bytes.
    pub fn len_of(&self, chunk: u32) -> u32 {
        if chunk + 1 == self.chunks { self.last_len } else { self.chunk_len }
    }

    /// The bytes of these chunks.
    pub fn bytes_of(&self, have: &Bitfield) -> u64 {
        let last = self.chunks - 1;
        let short = ChunkIndex::new(last).is_some_and(|c| have.contains(c));
        let short = u64::from(short) * u64::from(self.chunk_len - self.last_len);
        u64::from(have.len()) * u64::from(self.chunk_len) - short
    }

    pub fn node_count(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// The length of an inner node's block, in bytes.
    pub fn node_len(&self, node: NodeId) -> u32 {
        self.nodes.get(node.0 as usize).map_or(0, |n| n.links * LINK_LEN)
    }

    /// Runs of (how many chunks, of which length) of all chunks from `from` to `to`.
    pub fn runs(&self, from: u32, to: u32) -> Vec<(u32, u32)> {
        if from >= to {
            return Vec::new();
        }
        if to < self.chunks || self.last_len == self.chunk_len {
            return vec![(to - from, self.chunk_len)];
        }
        let full = (to - 1 - from, self.chunk_len);
        [full, (1, self.last_len)].into_iter().filter(|r| r.0 > 0).collect()
    }
}

/// How much of a [`Dag`] a peer knows.
#[derive(Clone, Debug)]
pub struct Walk {
    held: Vec<bool>,
    held_count: u32,
    /// The first of the lowest nodes that is missing: chunks are numbered in order.
    next_lowest: u32,
    /// Chunks that have numbers.
    pub known: u32,
}

/// What a newly held node leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub wanted: Vec<NodeId>,
    /// Chunks that became known: from, to.
    pub grown: Option<(u32, u32)>,
    pub complete: bool,
}

impl Walk {
    /// Nothing but the link is known.
    pub fn start(dag: &Dag) -> (Walk, Step) {
        let held = vec![false; dag.nodes.len()];
        let walk = Walk { held, held_count: 0, next_lowest: dag.lowest.start, known: 0 };
        if dag.nodes.is_empty() {
            let all = Walk { known: dag.chunks, ..walk };
            return (all, Step { wanted: vec![], grown: Some((0, dag.chunks)), complete: true });
        }
        (walk, Step { wanted: vec![NodeId(0)], grown: None, complete: false })
    }

    /// Everything is known.
    pub fn complete(dag: &Dag) -> Walk {
        let n = dag.node_count();
        Walk { held: vec![true; n as usize], held_count: n, next_lowest: dag.lowest.end, known: dag.chunks }
    }

    pub fn holds(&self, node: NodeId) -> bool {
        self.held.get(node.0 as usize).copied().unwrap_or(false)
    }

    pub fn is_complete(&self) -> bool {
        self.held_count as usize == self.held.len()
    }

    /// The nodes held, in order, as many as fit into `budget` bytes.
    pub fn some(&self, dag: &Dag, budget: u32) -> Vec<NodeId> {
        let mut left = budget;
        let held = (0..dag.node_count()).map(NodeId).filter(|&n| self.holds(n));
        held.take_while(|&n| {
            let fits = dag.node_len(n) <= left;
            left = left.saturating_sub(dag.node_len(n));
            fits
        })
        .collect()
    }

    /// Whether a node can be checked: its parent, which names it, is held.
    pub fn verifiable(&self, dag: &Dag, node: NodeId) -> bool {
        let named = |(i, n): (usize, &Inner)| self.held[i] && n.children.contains(&node.0);
        node.0 == 0 || dag.nodes.iter().enumerate().any(named)
    }

    /// Takes a node in; nothing happens if it is held already.
    pub fn hold(&mut self, dag: &Dag, node: NodeId) -> Step {
        let mut step = Step::default();
        let (Some(inner), false) = (dag.nodes.get(node.0 as usize), self.holds(node)) else { return step };
        self.held[node.0 as usize] = true;
        self.held_count += 1;
        step.wanted = inner.children.clone().map(NodeId).collect();
        let from = self.known;
        while dag.lowest.contains(&self.next_lowest) && self.held[self.next_lowest as usize] {
            self.known += dag.nodes[self.next_lowest as usize].links;
            self.next_lowest += 1;
        }
        step.grown = (self.known > from).then_some((from, self.known));
        step.complete = self.is_complete();
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_in_any_order_ends_with_every_chunk() {
        for size in [1u64, 1000, 1001, 174_000, 174_001, 174 * 174 * 1000 + 5] {
            let dag = Dag::new(size, 1000);
            let (mut walk, first) = Walk::start(&dag);
            let mut todo = first.wanted;
            let mut known = first.grown.map_or(0, |g| g.1);
            while let Some(node) = todo.pop() {
                assert!(walk.verifiable(&dag, node));
                let step = walk.hold(&dag, node);
                assert_eq!(step.complete, walk.is_complete());
                known = step.grown.map_or(known, |g| g.1);
                todo.extend(step.wanted);
            }
            assert!(walk.is_complete());
            assert_eq!((known, walk.known), (dag.chunks(), dag.chunks()));
            let bytes: u64 = (0..dag.chunks()).map(|c| u64::from(dag.len_of(c))).sum();
            assert_eq!(bytes, size);
            let runs: u64 = dag.runs(0, dag.chunks()).iter().map(|r| u64::from(r.0) * u64::from(r.1)).sum();
            assert_eq!(runs, size);
        }
    }

    #[test]
    fn the_shape_is_the_default_profiles() {
        assert_eq!(Dag::new(1, 1000).node_count(), 0);
        assert_eq!(Dag::new(2000, 1000).node_count(), 1);
        assert_eq!(Dag::new(1024 * 262_144, 262_144).node_count(), 7);
        assert_eq!(Dag::new(30_277 * 1000, 1000).node_count(), 1 + 2 + 175);
    }
}
