//! glibc's malloc, taught that what is freed will be needed again.
//!
//! It gives blocks of 128 KiB and more back to the kernel, and the end of its heaps when as much is free there; a
//! connection that is busy allocates and frees such a block for each frame. So three of four pages that a transfer used
//! were new ones, which the kernel found, cleared and mapped: 150,000 for 1 GiB received, a fifth of the processors' time.
//!
//! Both limits grow when a larger block is freed (`mallopt(3)`, `M_MMAP_THRESHOLD`), which needs no call that is unsafe.
//! Other allocators lose nothing by it: the block is never touched.

use std::hint::black_box;

/// Blocks below this stay with us once they are freed, and of each heap's free end twice this: more than a busy
/// connection frees at once.
const KEPT: usize = 4 << 20;

/// To be called once, early.
pub fn keep_what_is_freed() {
    drop(black_box(Vec::<u8>::with_capacity(KEPT)));
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// Pages that this thread had to be given.
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(7).unwrap().parse().unwrap()
    }

    #[test]
    fn memory_that_is_freed_and_taken_again_is_the_same() {
        const BLOCKS: usize = 30;
        const LEN: usize = 128 << 10;
        keep_what_is_freed();
        let round = || drop(black_box((0..BLOCKS).map(|_| vec![1u8; LEN]).collect::<Vec<_>>()));
        round();
        let before = faults();
        (0..100).for_each(|_| round());
        let all = (100 * BLOCKS * LEN / 4_096) as u64;
        let new = faults() - before;
        assert!(new < all / 20, "{new} of {all} pages were new");
    }
}
