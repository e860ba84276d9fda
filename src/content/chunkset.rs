//! Which chunk CIDs a walk has met, in some 22 to 26 bytes each.
//!
//! A CID is kept as 128 bits of SHA-256 over its bytes (not of its digest, which its author may choose
//! freely), in the order of the chunks' numbers; an open-addressed table of numbers leads to them. It
//! grows by a fifth, and the old table is let go before the new one is made.

use sha2::{Digest, Sha256};

use super::Cid;
use crate::units::MAX_CHUNKS;

/// Entries a page, so that growing never copies and never doubles.
const PAGE: usize = 1_024;
/// An empty slot. No number with its tag looks like that, since tags are below 15.
const EMPTY: u32 = u32::MAX;
const INDEX_BITS: u32 = MAX_CHUNKS.trailing_zeros();
/// In place of a length that is not known.
const NO_LEN: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Entry {
    key: [u32; 4],
    len: u32,
}

/// What [`ChunkSet::insert`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    New(u32),
    /// Its number, and whether the same length was claimed then, if one was.
    Known {
        index: u32,
        same_len: bool,
    },
    /// There is no number left.
    Full,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ChunkSet {
    pages: Vec<Vec<Entry>>,
    count: u32,
    /// Number of a chunk, in the upper 4 bits a tag that saves most looks at other chunks' keys.
    slots: Vec<u32>,
}

impl ChunkSet {
    pub fn len(&self) -> u32 {
        self.count
    }

    /// `len` is below [`NO_LEN`] (blocks are at most 2 MiB).
    pub fn insert(&mut self, cid: &Cid, len: Option<u32>) -> Inserted {
        let key = key_of(cid);
        let len = len.unwrap_or(NO_LEN);
        if u64::from(self.count) * 20 >= self.slots.len() as u64 * 17 {
            self.grow();
        }
        let mut slot = self.home(&key);
        while self.slots[slot] != EMPTY {
            let index = self.slots[slot] & (MAX_CHUNKS - 1);
            if self.slots[slot] >> INDEX_BITS == tag(&key) {
                let entry = self.entry(index);
                if entry.key == key {
                    let (before, known) = (entry.len, entry.len != NO_LEN && len != NO_LEN);
                    if before == NO_LEN {
                        self.pages[index as usize / PAGE][index as usize % PAGE].len = len;
                    }
                    return Inserted::Known { index, same_len: !known || before == len };
                }
            }
            slot = if slot + 1 == self.slots.len() { 0 } else { slot + 1 };
        }
        if self.count == MAX_CHUNKS {
            return Inserted::Full;
        }
        let index = self.count;
        self.slots[slot] = tag(&key) << INDEX_BITS | index;
        if self.pages.len() * PAGE == index as usize {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        self.pages[index as usize / PAGE].push(Entry { key, len });
        self.count += 1;
        Inserted::New(index)
    }

    /// Bytes set aside.
    pub fn memory_bytes(&self) -> usize {
        let pages: usize = self.pages.iter().map(|p| p.capacity() * size_of::<Entry>()).sum();
        pages + self.pages.capacity() * size_of::<Vec<Entry>>() + self.slots.capacity() * size_of::<u32>()
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.pages[index as usize / PAGE][index as usize % PAGE]
    }

    /// Where the search for a key begins.
    fn home(&self, key: &[u32; 4]) -> usize {
        let hash = u64::from(key[0]) << 32 | u64::from(key[1]);
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    fn grow(&mut self) {
        let room = (self.slots.len() + self.slots.len() / 5).max(64);
        self.slots = Vec::new();
        self.slots = vec![EMPTY; room];
        for index in 0..self.count {
            let key = self.entry(index).key;
            let mut slot = self.home(&key);
            while self.slots[slot] != EMPTY {
                slot = if slot + 1 == room { 0 } else { slot + 1 };
            }
            self.slots[slot] = tag(&key) << INDEX_BITS | index;
        }
    }
}

fn tag(key: &[u32; 4]) -> u32 {
    key[2] % 15
}

fn key_of(cid: &Cid) -> [u32; 4] {
    let hash = Sha256::digest(cid.to_bytes());
    std::array::from_fn(|i| u32::from_be_bytes(std::array::from_fn(|j| hash[4 * i + j])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{RAW, block::cid_of};

    #[test]
    fn numbers_count_up_and_are_found_again_while_the_table_grows() {
        let mut set = ChunkSet::default();
        let cid = |i: u32| cid_of(false, RAW, &i.to_le_bytes());
        for i in 0..5_000 {
            assert_eq!(set.insert(&cid(i), Some(i)), Inserted::New(i));
            assert_eq!(
                set.insert(&cid(i / 2), Some(i / 2)),
                Inserted::Known { index: i / 2, same_len: true }
            );
        }
        // Who does not know agrees with everybody.
        assert_eq!(set.insert(&cid(7), None), Inserted::Known { index: 7, same_len: true });
        assert_eq!(set.insert(&cid(7), Some(8)), Inserted::Known { index: 7, same_len: false });
        assert_eq!(set.len(), 5_000);
        let mut set = ChunkSet::default();
        assert_eq!(set.insert(&cid(1), None), Inserted::New(0));
        assert_eq!(set.insert(&cid(1), Some(3)), Inserted::Known { index: 0, same_len: true });
        assert_eq!(set.insert(&cid(1), Some(4)), Inserted::Known { index: 0, same_len: false });
        assert!(set.memory_bytes() < 5_000 * 26 + PAGE * 24);
    }
}
