//! HAMT directories: a folder's entries spread over a trie by the murmur3 hash of their names.
//!
//! A shard's links are named by two (for a fan-out of 256) hexadecimal digits, the child's place in
//! it, followed by the entry's name; without a name the link leads to another shard, one step of the
//! hash further down. Its data is the bitfield of places taken.

/// Multicodec of the hash: murmur3-x64-64, the first half of murmur3-x64-128.
pub const MURMUR3: u64 = 0x22;

/// The widest shard that is read.
pub const MAX_FANOUT: u64 = 1_024;

/// Why a shard cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HamtFault {
    #[error("hash function 0x{0:x} instead of murmur3 (0x22)")]
    HashType(u64),
    #[error("a fan-out of {0}, not a power of two from 8 to 1,024")]
    Fanout(u64),
    #[error("a shard whose fan-out differs from its parent's")]
    OtherFanout,
    #[error("a bitfield that does not match the links")]
    Bitfield,
    #[error("a link whose name does not begin with its place in the shard")]
    Prefix,
    #[error("an entry that is not where its name's hash puts it")]
    Misplaced,
    #[error("more levels than the hash has bits")]
    TooDeep,
}

/// The hash that places a name: its bits are used from the highest downwards.
pub fn hash_name(name: &[u8]) -> u64 {
    murmur3_x64_64(name)
}

/// The first 64 bits of murmur3-x64-128 with seed 0.
fn murmur3_x64_64(data: &[u8]) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |w, &b| w << 8 | u64::from(b));
    let (mut h1, mut h2) = (0u64, 0u64);
    let mut blocks = data.chunks_exact(16);
    for block in &mut blocks {
        h1 ^= mix1(word(&block[..8]));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix2(word(&block[8..]));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let tail = blocks.remainder();
    h2 ^= mix2(word(tail.get(8..).unwrap_or_default()));
    h1 ^= mix1(word(&tail[..tail.len().min(8)]));
    h1 ^= data.len() as u64;
    h2 ^= data.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

fn finish(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ k >> 33
}

/// Where in the trie a shard stands: the bits of the hash that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPlace {
    /// Bits of the hash that one level takes: log2 of the fan-out.
    width: u32,
    /// The bits so far, in the lowest places.
    path: u64,
    used: u32,
}

impl ShardPlace {
    /// The place of a trie's root, from a shard's `hashType` and `fanout`.
    pub fn root(hash_type: Option<u64>, fanout: Option<u64>) -> Result<ShardPlace, HamtFault> {
        let (hash_type, fanout) = (hash_type.unwrap_or(0), fanout.unwrap_or(0));
        if hash_type != MURMUR3 {
            return Err(HamtFault::HashType(hash_type));
        }
        if !(8..=MAX_FANOUT).contains(&fanout) || !fanout.is_power_of_two() {
            return Err(HamtFault::Fanout(fanout));
        }
        Ok(ShardPlace { width: fanout.trailing_zeros(), path: 0, used: 0 })
    }

    /// The place of the shard beneath place `index` of this one.
    pub fn child(&self, index: u32) -> Result<ShardPlace, HamtFault> {
        if self.used + 2 * self.width > 64 {
            return Err(HamtFault::TooDeep);
        }
        Ok(ShardPlace {
            path: self.path << self.width | u64::from(index),
            used: self.used + self.width,
            ..*self
        })
    }

    /// Whether a shard found here has the fan-out of the trie.
    pub fn same_trie(&self, root: &ShardPlace) -> bool {
        self.width == root.width
    }

    /// Which of this shard's places a name's hash leads to; `used` is below 64, as [`ShardPlace::child`] sees to.
    pub fn index_of(&self, hash: u64) -> u32 {
        (hash << self.used >> (64 - self.width)) as u32
    }

    /// Whether an entry of that name belongs at place `index` of this shard.
    fn holds(&self, index: u32, name: &[u8]) -> bool {
        hash_name(name) >> (64 - self.used - self.width) == (self.path << self.width | u64::from(index))
    }

    /// Hexadecimal digits in front of a name.
    fn digits(&self) -> usize {
        self.width.div_ceil(4) as usize
    }

    /// Takes a link's name apart: its place, and the entry's name (empty for a link to a shard).
    pub fn split<'a>(&self, name: &'a [u8]) -> Result<(u32, &'a [u8]), HamtFault> {
        let (prefix, rest) = name.split_at_checked(self.digits()).ok_or(HamtFault::Prefix)?;
        let mut index = 0;
        for &digit in prefix {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'A'..=b'F' => digit - b'A' + 10,
                _ => return Err(HamtFault::Prefix),
            };
            index = index << 4 | u32::from(value);
        }
        if index >> self.width != 0 {
            return Err(HamtFault::Prefix);
        }
        if !rest.is_empty() && !self.holds(index, rest) {
            return Err(HamtFault::Misplaced);
        }
        Ok((index, rest))
    }

    /// Checks a shard as a whole: its links stand in order, each place once, and exactly those that
    /// the bitfield says. Together with [`ShardPlace::split`] no name can stand in a trie twice.
    pub fn check<'a>(&self, bitfield: &[u8], names: impl Iterator<Item = &'a [u8]>) -> Result<(), HamtFault> {
        let fanout = 1usize << self.width;
        // Leading zero bytes may have been left out.
        let pad = (fanout / 8).checked_sub(bitfield.len()).ok_or(HamtFault::Bitfield)?;
        let bit = |i: usize| {
            let byte = fanout / 8 - 1 - i / 8;
            byte >= pad && bitfield[byte - pad] >> (i % 8) & 1 == 1
        };
        let mut next = 0;
        for name in names {
            let (index, _) = self.split(name)?;
            let index = index as usize;
            if index < next || !bit(index) || (next..index).any(bit) {
                return Err(HamtFault::Bitfield);
            }
            next = index + 1;
        }
        if (next..fanout).any(bit) { Err(HamtFault::Bitfield) } else { Ok(()) }
    }
}

/// A shard's bitfield as kubo writes it: the highest place first, leading zero bytes left out.
pub(super) fn bitfield(places: impl Iterator<Item = u32>, fanout: u32) -> Vec<u8> {
    let mut bits = vec![0u8; fanout as usize / 8];
    let last = bits.len() - 1;
    for place in places {
        bits[last - place as usize / 8] |= 1 << (place % 8);
    }
    let zeros = bits.iter().take_while(|b| **b == 0).count();
    bits.split_off(zeros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> ShardPlace {
        ShardPlace::root(Some(MURMUR3), Some(256)).unwrap()
    }

    #[test]
    fn the_hash_is_murmur3_x64() {
        assert_eq!(hash_name(b""), 0);
        assert_eq!(hash_name(b"hello"), 0xcbd8_a7b3_41bd_9b02);
        assert_eq!(hash_name(b"The quick brown fox jumps over the lazy dog"), 0xe34b_bc7b_bc07_1b6c);
    }

    #[test]
    fn absurd_fan_outs_and_other_hashes_are_refused() {
        for fanout in [0, 1, 2, 4, 7, 100, 257, 2_048, 1 << 40, u64::MAX] {
            assert_eq!(ShardPlace::root(Some(MURMUR3), Some(fanout)), Err(HamtFault::Fanout(fanout)));
        }
        assert_eq!(ShardPlace::root(Some(MURMUR3), None), Err(HamtFault::Fanout(0)));
        assert_eq!(ShardPlace::root(Some(0x12), Some(256)), Err(HamtFault::HashType(0x12)));
        assert_eq!(ShardPlace::root(None, Some(256)), Err(HamtFault::HashType(0)));
        for fanout in [8, 16, 256, 1_024] {
            assert!(ShardPlace::root(Some(MURMUR3), Some(fanout)).is_ok());
        }
    }

    #[test]
    fn link_names_are_taken_apart_and_checked_against_the_hash() {
        // The hash of "hello" begins with cb, d8, a7.
        assert_eq!(root().split(b"CB"), Ok((0xcb, &b""[..])));
        assert_eq!(root().split(b"CBhello"), Ok((0xcb, &b"hello"[..])));
        let below = root().child(0xcb).unwrap();
        assert_eq!(below.split(b"D8hello"), Ok((0xd8, &b"hello"[..])));
        assert_eq!(root().index_of(hash_name(b"hello")), 0xcb);
        assert_eq!(below.index_of(hash_name(b"hello")), 0xd8);
        assert_eq!(below.split(b"CBhello"), Err(HamtFault::Misplaced));
        assert_eq!(root().child(0xcc).unwrap().split(b"D8hello"), Err(HamtFault::Misplaced));
        for bad in [&b""[..], b"C", b"cbhello", b"G0hello"] {
            assert_eq!(root().split(bad), Err(HamtFault::Prefix));
        }
        let wide = ShardPlace::root(Some(MURMUR3), Some(1_024)).unwrap();
        assert_eq!(wide.split(b"32Fhello"), Ok((0x32f, &b"hello"[..])));
        assert_eq!(wide.split(b"400"), Err(HamtFault::Prefix));
    }

    #[test]
    fn a_trie_ends_where_the_hash_does() {
        for fanout in [8, 64, 256, 1_024] {
            let mut place = ShardPlace::root(Some(MURMUR3), Some(fanout)).unwrap();
            let mut levels = 1;
            while let Ok(below) = place.child(1) {
                place = below;
                levels += 1;
                place.index_of(u64::MAX);
            }
            assert_eq!(levels, 64 / fanout.trailing_zeros());
        }
    }

    #[test]
    fn a_shards_bitfield_must_match_its_links() {
        let check = |bits: &[u8], names: &[&[u8]]| root().check(bits, names.iter().copied());
        assert_eq!(bitfield([1, 9].into_iter(), 256), [2, 2]);
        assert_eq!(check(&[2, 2], &[b"01", b"09"]), Ok(()));
        assert_eq!(check(&[0, 2, 2], &[b"01", b"09"]), Ok(()));
        assert_eq!(check(&[], &[]), Ok(()));
        let wrong: [(&[u8], &[&[u8]]); 6] = [
            (&[2, 2], &[b"09", b"01"]),
            (&[2, 2], &[b"01", b"01"]),
            (&[2, 2], &[b"01"]),
            (&[2, 2], &[b"01", b"08", b"09"]),
            (&[6, 2], &[b"01", b"09"]),
            (&[0; 33], &[]),
        ];
        for (bits, names) in wrong {
            assert_eq!(check(bits, names), Err(HamtFault::Bitfield), "{bits:?} {names:?}");
        }
    }
}
