//! Points of the keyspace, and how far they are from each other.

use sha2::{Digest, Sha256};

/// SHA-256 of a content's multihash or of a peer's ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

/// XOR of two keys; what is smaller is closer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Distance(pub [u8; 32]);

impl Key {
    /// The key of a multihash, or of a peer ID's bytes.
    pub fn of(preimage: &[u8]) -> Key {
        Key(Sha256::digest(preimage).into())
    }

    pub fn distance(&self, other: &Key) -> Distance {
        Distance(std::array::from_fn(|i| self.0[i] ^ other.0[i]))
    }

    /// Leading bits that the two have in common.
    pub fn common_bits(&self, other: &Key) -> u32 {
        self.distance(other).zeros()
    }

    /// The first key of the region of those that share this key's first `depth` bits.
    pub fn region(&self, depth: u32) -> Key {
        let mut key = *self;
        for (i, byte) in key.0.iter_mut().enumerate() {
            let kept = depth.saturating_sub(8 * i as u32).min(8); // 32 bytes, so no cut
            *byte &= !(0xff_u16 >> kept) as u8;
        }
        key
    }

    /// The last key of that region.
    pub fn region_end(&self, depth: u32) -> Key {
        let mut key = *self;
        for (i, byte) in key.0.iter_mut().enumerate() {
            let kept = depth.saturating_sub(8 * i as u32).min(8);
            *byte |= (0xff_u16 >> kept) as u8;
        }
        key
    }

    /// Where in the keyspace it lies, as a fraction of 2^32.
    pub fn fraction(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl Distance {
    pub fn first_bits(&self) -> u16 {
        let [a, b, ..] = self.0;
        u16::from_be_bytes([a, b])
    }

    pub(super) fn zeros(&self) -> u32 {
        match self.0.iter().zip(0u32..).find(|(b, _)| **b != 0) {
            Some((b, i)) => 8 * i + b.leading_zeros(),
            None => 256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_all_that_shares_its_first_bits() {
        let key = Key([0b1011_0110; 32]);
        for depth in [0, 1, 4, 8, 9, 15, 16, 255, 256] {
            let (first, last) = (key.region(depth), key.region_end(depth));
            assert!(first <= key && key <= last);
            assert!(first.common_bits(&last) == depth, "{depth}");
        }
        assert_eq!(key.region(0), Key([0; 32]));
        assert_eq!(key.region_end(0), Key([255; 32]));
        assert_eq!(key.region(256), key);
    }

    #[test]
    fn distance_is_xor() {
        let (a, b) = (Key([1; 32]), Key([3; 32]));
        assert_eq!(a.distance(&b), Distance([2; 32]));
        assert_eq!(a.common_bits(&a), 256);
        assert_eq!(a.common_bits(&b), 6);
    }
}
