//! Looking ahead of a walk that waits: which nodes it will need after the one that is missing.

use bytes::Bytes;

use super::super::node::fetch;
use super::super::{Cid, RAW};
use super::MAX_DEPTH;
use super::frame::{self, Frame, Next};

/// Nodes named at once.
pub(super) const MAX_MISSING: usize = 64;
/// Links followed, and held nodes opened, in one look ahead.
const MAX_LINKS: usize = 16_384;
const MAX_OPENED: usize = 1_024;

struct Ahead<'a> {
    nodes: &'a mut dyn FnMut(&Cid) -> Option<Bytes>,
    found: Vec<Cid>,
    links: usize,
    opened: usize,
}

/// The missing node `first` and what follows it, in the order of need.
pub(super) fn missing(
    first: &Cid,
    stack: &[Frame],
    nodes: &mut dyn FnMut(&Cid) -> Option<Bytes>,
) -> Vec<Cid> {
    let mut ahead = Ahead { nodes, found: vec![*first], links: 0, opened: 0 };
    for (depth, frame) in stack.iter().enumerate().rev() {
        ahead.scan(frame.clone(), depth);
    }
    ahead.found
}

impl Ahead<'_> {
    fn is_done(&self) -> bool {
        self.found.len() == MAX_MISSING || self.links == MAX_LINKS || self.opened == MAX_OPENED
    }

    /// What is wrong with a node shows when the walk comes to it; here it only ends the look.
    fn scan(&mut self, mut frame: Frame, depth: usize) {
        while !self.is_done() {
            self.links += 1;
            let (cid, role) = match frame.next() {
                Ok(Next::Inner(cid, role)) if cid.codec() != RAW => (cid, role),
                Ok(Next::Inner(..) | Next::Chunk { .. }) => continue,
                Ok(Next::End) | Err(_) => return,
            };
            if self.found.contains(&cid) {
                continue;
            }
            let Some(block) = fetch(&cid, self.nodes) else {
                self.found.push(cid);
                continue;
            };
            self.opened += 1;
            if let Ok((_, Some(inner))) = frame::open(&cid, role, &block)
                && depth + 1 < MAX_DEPTH
            {
                self.scan(inner, depth + 1);
            }
        }
    }
}
