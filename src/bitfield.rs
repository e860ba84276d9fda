//! The set of chunks that somebody holds, in pages of 65,536 numbers.
//!
//! A page that is full or empty takes no memory of its own, so a complete peer of a huge content
//! costs a few bytes, and a flood of absurd numbers cannot cost more than the page cap allows.

use crate::units::{ChunkIndex, ChunkRange, MAX_CHUNKS};

/// Numbers in a page.
pub const PAGE: u32 = 65_536;
const WORDS: usize = (PAGE / 64) as usize;

#[derive(Clone, Debug)]
enum Page {
    Full,
    /// At most [`WORDS`] words; those beyond the last are zero, so that a small content costs little.
    Some {
        count: u32,
        words: Vec<u64>,
    },
}

impl Page {
    fn word(&self, w: usize) -> u64 {
        match self {
            Page::Full => u64::MAX,
            Page::Some { words, .. } => words.get(w).copied().unwrap_or(0),
        }
    }
}

/// A set of chunk numbers.
#[derive(Clone, Debug, Default)]
pub struct Bitfield {
    /// Sorted by page number; only pages that hold something.
    pages: Vec<(u32, Page)>,
    count: u32,
}

impl Bitfield {
    pub fn new() -> Bitfield {
        Bitfield::default()
    }

    /// All numbers below `chunks`.
    pub fn full(chunks: u32) -> Bitfield {
        let mut b = Bitfield::new();
        if let Some(r) = ChunkRange::new(0, chunks.min(MAX_CHUNKS)) {
            b.insert_range(r);
        }
        b
    }

    /// How many numbers are in the set.
    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn contains(&self, i: ChunkIndex) -> bool {
        let (p, o) = (i.get() / PAGE, i.get() % PAGE);
        match self.place(p) {
            Err(_) => false,
            Ok(at) => match &self.pages[at].1 {
                Page::Full => true,
                Page::Some { words, .. } => {
                    words.get((o / 64) as usize).is_some_and(|w| w >> (o % 64) & 1 == 1)
                }
            },
        }
    }

    /// Where page `p` is, or where it would have to be. Mostly no page before it is missing.
    fn place(&self, p: u32) -> Result<usize, usize> {
        match self.pages.get(p as usize) {
            Some((q, _)) if *q == p => Ok(p as usize),
            _ => self.pages.binary_search_by_key(&p, |(q, _)| *q),
        }
    }

    /// Adds one number; true if it was not there.
    pub fn insert(&mut self, i: ChunkIndex) -> bool {
        // Mostly the word is there already, and the page does not become full.
        let (p, o) = (i.get() / PAGE, i.get() % PAGE);
        if let Ok(at) = self.place(p)
            && let Page::Some { count, words } = &mut self.pages[at].1
            && *count + 1 < PAGE
            && let Some(word) = words.get_mut((o / 64) as usize)
        {
            let bit = 1 << (o % 64);
            let new = *word & bit == 0;
            *word |= bit;
            *count += u32::from(new);
            self.count += u32::from(new);
            return new;
        }
        let before = self.count;
        self.insert_range(ChunkRange::one(i));
        self.count > before
    }

    /// Takes one number out; true if it was there.
    pub fn remove(&mut self, i: ChunkIndex) -> bool {
        let before = self.count;
        self.remove_range(ChunkRange::one(i));
        self.count < before
    }

    pub fn insert_range(&mut self, r: ChunkRange) {
        for (p, from, to) in pages_of(r) {
            let at = self.place(p).unwrap_or_else(|at| {
                self.pages.insert(at, (p, Page::Some { count: 0, words: Vec::new() }));
                at
            });
            let page = &mut self.pages[at].1;
            if from == 0 && to == PAGE {
                self.count += PAGE - page_len(page);
                *page = Page::Full;
                continue;
            }
            if let Page::Some { count, words } = page {
                let need = to.div_ceil(64) as usize;
                if words.len() < need {
                    words.resize(need, 0);
                }
                let added = change(words, from, to, true);
                *count += added;
                self.count += added;
                if *count == PAGE {
                    *page = Page::Full;
                }
            }
        }
    }

    pub fn remove_range(&mut self, r: ChunkRange) {
        // Beyond the last page there is nothing, however far the run goes.
        let end = self.pages.last().map_or(0, |(p, _)| (p + 1).saturating_mul(PAGE));
        let Some(r) = ChunkRange::new(r.start(), r.end().min(end)) else { return };
        for (p, from, to) in pages_of(r) {
            let Ok(at) = self.place(p) else { continue };
            let page = &mut self.pages[at].1;
            if let Page::Full = page {
                *page = Page::Some { count: PAGE, words: vec![u64::MAX; WORDS] };
            }
            if let Page::Some { count, words } = page {
                let to = to.min(words.len() as u32 * 64);
                let removed = change(words, from, to, false);
                *count -= removed;
                self.count -= removed;
                if *count == 0 {
                    self.pages.remove(at);
                }
            }
        }
    }

    /// The runs of consecutive numbers, in order.
    pub fn ranges(&self) -> impl Iterator<Item = ChunkRange> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.next_set(from)?;
            let end = self.next_unset(start);
            from = end;
            ChunkRange::new(start, end)
        })
    }

    /// The numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        let words = self.pages.iter().flat_map(|(p, page)| {
            let n = if let Page::Some { words, .. } = page { words.len() } else { WORDS };
            (0..n).map(move |w| (p * PAGE + w as u32 * 64, page.word(w)))
        });
        words.flat_map(|(base, mut word)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                // Of a word without bits nothing is left.
                word &= word.wrapping_sub(1);
                (bit < 64).then_some(base + bit)
            })
            .filter_map(ChunkIndex::new)
        })
    }

    /// How many numbers are in both sets.
    pub fn in_common(&self, other: &Bitfield) -> u32 {
        let both = |(p, page): &(u32, Page)| {
            let Ok(at) = other.place(*p) else { return 0 };
            match (page, &other.pages[at].1) {
                (Page::Full, other) => page_len(other),
                (page, Page::Full) => page_len(page),
                (Page::Some { words: a, .. }, Page::Some { words: b, .. }) => {
                    a.iter().zip(b).map(|(a, b)| (a & b).count_ones()).sum()
                }
            }
        };
        self.pages.iter().map(both).sum()
    }

    /// The first number in the set that is at least `from`.
    pub fn next_set(&self, from: u32) -> Option<u32> {
        let first = from / PAGE;
        let at = self.place(first).unwrap_or_else(|at| at);
        for (p, page) in &self.pages[at..] {
            let o = if *p == first { from % PAGE } else { 0 };
            match page {
                Page::Full => return Some(p * PAGE + o),
                Page::Some { words, .. } => {
                    if let Some(n) = scan(words, o, 0) {
                        return Some(p * PAGE + n);
                    }
                }
            }
        }
        None
    }

    /// The first number not in the set that is at least `from`.
    pub fn next_unset(&self, from: u32) -> u32 {
        let mut n = from;
        loop {
            let (p, o) = (n / PAGE, n % PAGE);
            let Ok(at) = self.place(p) else { return n };
            if let Page::Some { words, .. } = &self.pages[at].1 {
                let beyond = words.len() as u32 * 64;
                let hit = if o >= beyond { Some(o) } else { scan(words, o, u64::MAX) };
                if let Some(m) = hit.or((beyond < PAGE).then_some(beyond)) {
                    return p * PAGE + m;
                }
            }
            n = (p + 1) * PAGE;
        }
    }
}

/// Equal if the same numbers are in both, however many zero words either keeps.
impl PartialEq for Bitfield {
    fn eq(&self, other: &Bitfield) -> bool {
        let same = |a: &Page, b: &Page| match (a, b) {
            (Page::Full, Page::Full) => true,
            (Page::Some { words: a, .. }, Page::Some { words: b, .. }) => {
                let n = a.len().min(b.len());
                a[..n] == b[..n] && a[n..].iter().chain(&b[n..]).all(|w| *w == 0)
            }
            _ => false,
        };
        self.count == other.count
            && self.pages.len() == other.pages.len()
            && self.pages.iter().zip(&other.pages).all(|(a, b)| a.0 == b.0 && same(&a.1, &b.1))
    }
}

impl Eq for Bitfield {}

fn page_len(p: &Page) -> u32 {
    match p {
        Page::Full => PAGE,
        Page::Some { count, .. } => *count,
    }
}

/// The pages that a run touches, each with its own half-open part.
fn pages_of(r: ChunkRange) -> impl Iterator<Item = (u32, u32, u32)> {
    (r.start() / PAGE..=(r.end() - 1) / PAGE).map(move |p| {
        let base = p * PAGE;
        (p, r.start().max(base) - base, r.end().min(base + PAGE) - base)
    })
}

/// Sets or clears `from..to`; says how many bits changed. Nothing if the run is empty.
fn change(words: &mut [u64], from: u32, to: u32, set: bool) -> u32 {
    if from >= to {
        return 0;
    }
    let mut changed = 0;
    for w in from / 64..=(to - 1) / 64 {
        let lo = from.max(w * 64) - w * 64;
        let hi = to.min((w + 1) * 64) - w * 64;
        let mask = (u64::MAX >> (64 - (hi - lo))) << lo;
        let word = &mut words[w as usize];
        let hit = if set { mask & !*word } else { mask & *word };
        changed += hit.count_ones();
        *word ^= hit;
    }
    changed
}

/// The first bit at or after `from` that is set in `word ^ flip`.
fn scan(words: &[u64], from: u32, flip: u64) -> Option<u32> {
    let mut w = (from / 64) as usize;
    let mut word = (*words.get(w)? ^ flip) & (u64::MAX << (from % 64));
    loop {
        if word != 0 {
            return Some(w as u32 * 64 + word.trailing_zeros());
        }
        w += 1;
        word = *words.get(w)? ^ flip;
    }
}

impl FromIterator<ChunkIndex> for Bitfield {
    fn from_iter<T: IntoIterator<Item = ChunkIndex>>(iter: T) -> Bitfield {
        let mut b = Bitfield::new();
        for i in iter {
            b.insert(i);
        }
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_full_field_of_a_terabyte_takes_no_bitmap() {
        let b = Bitfield::full(PAGE * 64);
        assert_eq!(b.len(), PAGE * 64);
        assert!(b.pages.iter().all(|p| matches!(p.1, Page::Full)));
        assert_eq!(b.ranges().count(), 1);
    }

    #[test]
    fn a_small_content_takes_a_small_bitmap() {
        let b = Bitfield::full(1_000);
        assert!(b.pages.iter().all(|(_, p)| matches!(p, Page::Some { words, .. } if words.len() == 16)));
        assert_eq!((b.next_unset(0), b.next_unset(1_500), b.next_set(1_000)), (1_000, 1_500, None));
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(ops in prop::collection::vec((any::<bool>(), 0u32..200_000, 1u32..70_000), 1..20)) {
            let (mut b, mut set) = (Bitfield::new(), BTreeSet::new());
            for (add, start, len) in ops {
                let r = ChunkRange::new(start, start + len).unwrap();
                if add { b.insert_range(r); set.extend(r.iter()); }
                else { b.remove_range(r); r.iter().for_each(|i| { set.remove(&i); }); }
            }
            prop_assert_eq!(b.len() as usize, set.len());
            prop_assert!(b.iter().eq(set.iter().copied()));
            prop_assert_eq!(set.iter().copied().collect::<Bitfield>(), b);
        }

        #[test]
        fn what_two_have_in_common_is_counted(
            runs in prop::collection::vec((any::<bool>(), 0u32..200_000, 1u32..140_000), 0..12),
        ) {
            let (mut a, mut b) = (Bitfield::new(), Bitfield::new());
            for (first, start, len) in runs {
                let to = if first { &mut a } else { &mut b };
                to.insert_range(ChunkRange::new(start, start + len).unwrap());
            }
            let both = a.iter().filter(|i| b.contains(*i)).count() as u32;
            prop_assert_eq!((a.in_common(&b), b.in_common(&a)), (both, both));
        }

        #[test]
        fn one_number_at_a_time_is_as_good_as_a_run(
            numbers in prop::collection::vec(prop_oneof![0u32..200, 65_400u32..65_700], 0..300), fill in any::<bool>(),
        ) {
            let (mut b, mut set) = (Bitfield::new(), BTreeSet::new());
            if fill {
                // A page that becomes full by its last number.
                b.insert_range(ChunkRange::new(200, 65_400).unwrap());
                set.extend(ChunkRange::new(200, 65_400).unwrap().iter());
            }
            for i in numbers.into_iter().chain((0..200).filter(|_| fill)).filter_map(ChunkIndex::new) {
                prop_assert_eq!(b.insert(i), set.insert(i));
            }
            prop_assert_eq!(b.len() as usize, set.len());
            prop_assert!(b.iter().eq(set.iter().copied()));
            prop_assert!(b.ranges().flat_map(ChunkRange::iter).eq(set.iter().copied()));
        }
    }
}
