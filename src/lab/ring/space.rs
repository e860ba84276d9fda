//! Identifiers on a circle of 2^bits places.

use super::RingError;

/// The circle; IDs and keys are below 2^bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    bits: u32,
}

impl Space {
    /// 1 to 64 bits.
    pub fn new(bits: u32) -> Result<Space, RingError> {
        if (1..=64).contains(&bits) { Ok(Space { bits }) } else { Err(RingError::Bits(bits)) }
    }

    pub fn bits(self) -> u32 {
        self.bits
    }

    fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// `id` itself if it lies on the circle.
    pub fn check(self, id: u64) -> Result<u64, RingError> {
        if id <= self.mask() { Ok(id) } else { Err(RingError::TooBig { id, bits: self.bits }) }
    }

    /// The place that `steps` clockwise of `id` is.
    pub fn plus(self, id: u64, steps: u64) -> u64 {
        id.wrapping_add(steps) & self.mask()
    }

    /// Steps clockwise from `a` to `b`; 0 if they are the same.
    pub fn distance(self, a: u64, b: u64) -> u64 {
        b.wrapping_sub(a) & self.mask()
    }

    /// Whether going clockwise from `a` one meets `x` no later than `b`, `a` itself being last: x in (a, b].
    pub fn after_until(self, a: u64, x: u64, b: u64) -> bool {
        let full = |d: u64| if d == 0 { self.mask() } else { d - 1 };
        full(self.distance(a, x)) <= full(self.distance(a, b))
    }
}

/// Who of `ids` (in order, not empty) a key belongs to: its immediate successor.
pub fn owner(ids: &[u64], key: u64) -> u64 {
    let at = ids.partition_point(|&id| id < key);
    ids[if at == ids.len() { 0 } else { at }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lectures_keys_have_the_lectures_owners() {
        let ids = [1, 12, 13, 25, 32, 40, 48, 60];
        assert_eq!([51, 60, 61].map(|k| owner(&ids, k)), [60, 60, 1]);
    }

    #[test]
    fn intervals_wrap_around() {
        let s = Space::new(4).unwrap();
        assert!(s.after_until(14, 1, 2) && s.after_until(14, 2, 2) && !s.after_until(14, 14, 2));
        assert!(s.after_until(3, 4, 3) && s.after_until(3, 3, 3), "one alone owns everything");
        assert_eq!(s.distance(15, 1), 2);
        let big = Space::new(64).unwrap();
        assert_eq!(big.plus(u64::MAX, 2), 1);
        assert!(Space::new(0).is_err() && Space::new(65).is_err() && s.check(16).is_err());
    }
}
