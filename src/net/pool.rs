//! Buffers for chunks, used again and again: allocating and freeing them costs more than hashing them.

use std::sync::{Arc, Mutex, PoisonError};

/// A shelf of buffers. Cloning it gives the same shelf.
#[derive(Clone, Debug)]
pub struct BufPool {
    shelf: Arc<Mutex<Vec<Vec<u8>>>>,
    keep: usize,
}

/// A buffer that grew beyond this is not kept: chunks are 256 KiB unless somebody is peculiar.
const MAX_KEPT_LEN: usize = 1 << 20;

impl BufPool {
    /// Keeps at most `keep` buffers.
    pub fn new(keep: usize) -> BufPool {
        BufPool { shelf: Arc::default(), keep }
    }

    /// A buffer of any length and content: [`Vec::resize`] it, and overwrite what is there.
    pub fn get(&self) -> Vec<u8> {
        // A shelf of plain buffers is in order even if somebody panicked beside it.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes a buffer back. Its length is kept, so that resizing it to the same need not zero it.
    pub fn put(&self, buf: Vec<u8>) {
        if buf.capacity() == 0 || buf.capacity() > MAX_KEPT_LEN {
            return;
        }
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.len() < self.keep {
            shelf.push(buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_so_many_and_none_that_is_huge() {
        let p = BufPool::new(2);
        p.put(vec![0; MAX_KEPT_LEN + 1]);
        p.put(Vec::new());
        for n in 1..=3 {
            p.put(vec![1; n]);
        }
        assert_eq!((p.get().len(), p.get().len(), p.get().len()), (2, 1, 0));
    }
}
