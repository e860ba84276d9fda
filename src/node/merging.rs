//! Swarm merging, the driver's part: which chunks of the fetches under way have the same name, and the copy from
//! one to the other. Which of them is fetched is the engine's decision (`engine/merging.rs`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::content::chunk::ChunkSpec;
use crate::engine::event::ContentEvent;
use crate::units::{ChunkIndex, ContentKey};

use super::driver::Driver;
use super::workers::{CopyJob, WriterJob};

/// Chunks that are known by name: 64 GiB of them. What is beyond is fetched for each content on its own.
const MAX_NAMES: usize = 1 << 18;

/// The first half of a chunk's hash. Should two chunks ever share it, the copy is found to be wrong before it
/// is written, and each is fetched.
pub type Name = [u8; 16];

pub fn name_of(spec: &ChunkSpec) -> Option<Name> {
    spec.cid.hash().digest().first_chunk().copied()
}

/// Chunks that fetches under way want, by name: the first content that wanted each.
#[derive(Default)]
pub struct Names(HashMap<Name, (ContentKey, ChunkIndex)>);

impl Names {
    /// Takes note of chunks that a content wants; says which of them another wants, too.
    pub fn shared(&mut self, key: ContentKey, names: &[(ChunkIndex, Name)]) -> Vec<ContentEvent> {
        let mut same = Vec::new();
        for &(chunk, name) in names {
            let full = self.0.len() >= MAX_NAMES;
            match self.0.entry(name) {
                Entry::Occupied(known) if known.get().0 != key => {
                    same.push(ContentEvent::Same { chunk, other: *known.get() });
                }
                Entry::Vacant(new) if !full => drop(new.insert((key, chunk))),
                _ => {}
            }
        }
        same
    }

    /// The content is fetched no longer.
    pub fn forget(&mut self, key: ContentKey) {
        self.0.retain(|_, (of, _)| *of != key);
        if self.0.is_empty() {
            self.0 = HashMap::new();
        }
    }
}

impl Driver {
    pub(super) fn copy(&mut self, from: (ContentKey, ChunkIndex), content: ContentKey, chunk: ChunkIndex) {
        let body = self.buffers.get();
        self.writers.give(WriterJob::Copy(CopyJob { from, content, chunk, body }));
    }

    pub(super) fn not_copied(&mut self, content: ContentKey, chunk: ChunkIndex) {
        let now = self.clock.now();
        self.engine.handle_content(now, content, ContentEvent::NotCopied(chunk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: u32) -> ChunkIndex {
        ChunkIndex::new(n).unwrap()
    }

    #[test]
    fn a_chunk_that_another_content_wants_is_named_until_that_is_done() {
        let (a, b) = (ContentKey(1), ContentKey(2));
        let mut names = Names::default();
        let of = |ns: &[u8]| -> Vec<_> { ns.iter().zip(0..).map(|(n, i)| (chunk(i), [*n; 16])).collect() };
        assert!(names.shared(a, &of(&[1, 2, 3])).is_empty());
        assert!(names.shared(a, &of(&[1])).is_empty(), "its own again");
        let same = names.shared(b, &of(&[9, 3]));
        assert!(
            matches!(same[..], [ContentEvent::Same { chunk: c, other }] if c == chunk(1) && other == (a, chunk(2)))
        );
        names.forget(a);
        assert!(names.shared(ContentKey(3), &of(&[3])).is_empty());
        assert_eq!(names.shared(ContentKey(4), &of(&[9])).len(), 1, "b is still under way");
    }

    #[test]
    fn names_are_capped() {
        let mut names = Names::default();
        let name = |i: u32| [i.to_le_bytes(); 4].as_flattened().try_into().unwrap();
        let all: Vec<(ChunkIndex, Name)> = (0..MAX_NAMES as u32 + 5).map(|i| (chunk(i), name(i))).collect();
        names.shared(ContentKey(1), &all);
        assert_eq!(names.0.len(), MAX_NAMES);
        assert_eq!(names.shared(ContentKey(2), &all).len(), MAX_NAMES);
    }
}
