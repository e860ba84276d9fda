//! `Have` on the wire and [`Bitfield`] in memory.

use super::{WireError, proto};
use crate::bitfield::{Bitfield, PAGE};
use crate::units::{ChunkIndex, ChunkRange, MAX_CHUNKS};

/// The most pages that a `Have` names. A page in part takes 8 KiB of memory, so 8 MiB at worst.
pub(super) const MAX_PAGES: u32 = 1_024;
/// The raw bits of a page, in bytes.
pub(super) const PAGE_BYTES: u32 = PAGE / 8;
/// Runs take at least a byte each; where they would take more than the bits, the bits are sent.
pub(super) const MAX_RUNS: u32 = PAGE_BYTES;
/// What a `Have` may take on the wire, so that inner nodes and peers fit into the frame beside it.
const BUDGET: usize = 128 << 10;

/// Writes as much as the caps allow; the rest (beyond some 16 pages in utter disorder, 256 GiB) is
/// left out, which makes the holder look poorer than it is and no more.
pub(super) fn encode(have: &Bitfield) -> proto::Have {
    let below = have.next_unset(0);
    let (mut pages, mut spent) = (Vec::new(), 0);
    let mut from = below;
    while let Some(first) = have.next_set(from) {
        let page = encode_page(have, first / PAGE);
        spent += page.bits.len() + page.runs.len() * 3 + 16;
        if spent > BUDGET || pages.len() == MAX_PAGES as usize {
            break;
        }
        pages.push(page);
        from = (first / PAGE + 1) * PAGE;
    }
    proto::Have { below, pages }
}

fn encode_page(have: &Bitfield, page: u32) -> proto::Page {
    let (base, end) = (page * PAGE, (page + 1) * PAGE);
    let (mut runs, mut size, mut at) = (Vec::new(), 0, base);
    while let Some(start) = have.next_set(at).filter(|&s| s < end) {
        let stop = have.next_unset(start).min(end);
        runs.extend([start - at, stop - start]);
        size += varint_len(start - at) + varint_len(stop - start);
        at = stop;
        if at == end {
            break;
        }
    }
    let bits_len = (at - base).div_ceil(8);
    if size <= bits_len {
        return proto::Page { page, runs, bits: Vec::new() };
    }
    let mut bits = vec![0u8; bits_len as usize];
    let mut n = 0;
    for pair in runs.chunks_exact(2) {
        n += pair[0];
        for b in n..n + pair[1] {
            bits[(b / 8) as usize] |= 1 << (b % 8);
        }
        n += pair[1];
    }
    proto::Page { page, runs: Vec::new(), bits }
}

fn varint_len(n: u32) -> u32 {
    (32 - (n | 1).leading_zeros()).div_ceil(7)
}

/// # Errors
/// Numbers at or above [`MAX_CHUNKS`], pages out of order, runs that leave their page, both forms at once.
pub(super) fn decode(have: Option<proto::Have>) -> Result<Bitfield, WireError> {
    let Some(have) = have else { return Ok(Bitfield::new()) };
    if have.below > MAX_CHUNKS {
        return Err(WireError::BadValue("below"));
    }
    let mut set = Bitfield::full(have.below);
    let mut next = 0;
    for page in have.pages {
        if page.page < next || page.page >= MAX_CHUNKS / PAGE {
            return Err(WireError::BadValue("page"));
        }
        next = page.page + 1;
        match (page.runs.is_empty(), page.bits.is_empty()) {
            (false, true) => decode_runs(&mut set, page.page * PAGE, &page.runs)?,
            (true, false) => decode_bits(&mut set, page.page * PAGE, &page.bits)?,
            _ => return Err(WireError::BadValue("page")),
        }
    }
    Ok(set)
}

fn decode_runs(set: &mut Bitfield, base: u32, runs: &[u32]) -> Result<(), WireError> {
    let mut at = 0u64;
    for pair in runs.chunks(2) {
        let &[gap, run] = pair else { return Err(WireError::BadValue("runs")) };
        let start = at + u64::from(gap);
        at = start + u64::from(run);
        if at > u64::from(PAGE) {
            return Err(WireError::BadValue("runs"));
        }
        // Both ends are within a page, so they fit 32 bits; an empty run is nothing to insert.
        if let Some(r) = ChunkRange::new(base + start as u32, base + at as u32) {
            set.insert_range(r);
        }
    }
    Ok(())
}

fn decode_bits(set: &mut Bitfield, base: u32, bits: &[u8]) -> Result<(), WireError> {
    if bits.len() > PAGE_BYTES as usize {
        return Err(WireError::FieldTooLong { what: "bits", max: PAGE_BYTES });
    }
    let bit = |n: u32| bits[(n / 8) as usize] >> (n % 8) & 1 == 1;
    let (mut n, end) = (0, bits.len() as u32 * 8);
    while n < end {
        let start = n;
        while n < end && bit(n) {
            n += 1;
        }
        if let Some(r) = ChunkRange::new(base + start, base + n) {
            set.insert_range(r);
        }
        n += 1;
    }
    Ok(())
}

/// Chunk numbers from outside.
pub(super) fn indices(raw: Vec<u32>) -> Result<Vec<ChunkIndex>, WireError> {
    raw.into_iter().map(|n| ChunkIndex::new(n).ok_or(WireError::BadValue("index"))).collect()
}

/// Runs from outside.
pub(super) fn ranges(raw: Vec<proto::Run>) -> Result<Vec<ChunkRange>, WireError> {
    let range = |r: proto::Run| ChunkRange::new(r.start, r.start.checked_add(r.len)?);
    raw.into_iter().map(|r| range(r).ok_or(WireError::BadValue("run"))).collect()
}

pub(super) fn runs(ranges: &[ChunkRange]) -> Vec<proto::Run> {
    ranges.iter().map(|r| proto::Run { start: r.start(), len: r.len() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_complete_peer_costs_one_number() {
        let h = encode(&Bitfield::full(4_000_000));
        assert_eq!((h.below, h.pages.len()), (4_000_000, 0));
        assert_eq!(decode(Some(h)).unwrap(), Bitfield::full(4_000_000));
    }

    #[test]
    fn disorder_goes_as_bits_and_order_as_runs() {
        let odd: Bitfield = (0..PAGE / 2).map(|n| ChunkIndex::new(2 * n + 1).unwrap()).collect();
        let h = encode(&odd);
        assert_eq!((h.pages[0].bits.len(), h.pages[0].runs.len()), (8_192, 0));
        assert_eq!(decode(Some(h)).unwrap(), odd);
        let mut few = Bitfield::new();
        few.insert_range(ChunkRange::new(70_000, 80_000).unwrap());
        let h = encode(&few);
        assert_eq!((h.pages[0].page, h.pages[0].runs.clone()), (1, vec![4_464, 10_000]));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let all: Bitfield = (0..40 * PAGE / 2).map(|n| ChunkIndex::new(2 * n + 1).unwrap()).collect();
        let h = encode(&all);
        let back = decode(Some(h.clone())).unwrap();
        assert!(h.pages.len() >= 15 && back.iter().all(|i| all.contains(i)));
    }

    #[test]
    fn lies_are_refused() {
        let page = |page, runs: &[u32], bits: &[u8]| {
            let p = proto::Page { page, runs: runs.to_vec(), bits: bits.to_vec() };
            decode(Some(proto::Have { below: 0, pages: vec![p] }))
        };
        assert!(page(MAX_CHUNKS / PAGE, &[0, 1], &[]).is_err());
        assert!(page(0, &[0, PAGE + 1], &[]).is_err());
        assert!(page(0, &[u32::MAX, u32::MAX], &[]).is_err());
        assert!(page(0, &[1], &[]).is_err());
        assert!(page(0, &[0, 1], &[1]).is_err());
        assert!(page(0, &[], &[0; PAGE_BYTES as usize + 1]).is_err());
        assert!(decode(Some(proto::Have { below: MAX_CHUNKS + 1, pages: vec![] })).is_err());
        let p = proto::Page { page: 3, runs: vec![0, 1], bits: vec![] };
        assert!(decode(Some(proto::Have { below: 0, pages: vec![p.clone(), p] })).is_err());
    }

    proptest! {
        #[test]
        fn any_set_comes_back(
            below in 0u32..200_000,
            runs in prop::collection::vec((0u32..600_000, 1u32..3_000), 0..40),
        ) {
            let mut set = Bitfield::full(below);
            for (s, l) in runs {
                set.insert_range(ChunkRange::new(s, s + l).unwrap());
            }
            prop_assert_eq!(decode(Some(encode(&set))).unwrap(), set);
        }
    }
}
