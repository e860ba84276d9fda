//! The neighbourhood of a target, cut into tiles: the keys that share so many bits, each tile with a key in it that
//! a server can be asked for.
//!
//! A server is asked for a key by what hashes to it, so a key in a tile is found by trying. Nothing but the target
//! decides which.

use super::key::{Distance, Key};

/// Tiles that are counted: those nearest to the target.
pub const MAX_TILES: usize = 64;
/// With more bits a key would take too many tries. So deep are the tiles of a network of 200,000 servers.
const MAX_DEPTH: u32 = 15;
/// A key is found in 2^depth tries on average; after so many times that there is none.
const PATIENCE: u64 = 32;

/// Tiles around a target, by number: the n-th nearest to it. Number 0 has the target in it.
#[derive(Clone, Debug)]
pub struct Tiles {
    target: Key,
    /// Bits that the keys of one tile have in common; 1 at least.
    depth: u32,
    tried: u64,
    keys: [Option<(Key, Vec<u8>)>; MAX_TILES],
}

impl Tiles {
    /// Tiles of so many bits, but at least one and not too many.
    pub fn new(target: Key, depth: u32) -> Tiles {
        let depth = depth.clamp(1, MAX_DEPTH);
        Tiles { target, depth, tried: 0, keys: [const { None }; MAX_TILES] }
    }

    pub fn len(&self) -> usize {
        MAX_TILES.min(1 << self.depth)
    }

    /// The tile that a peer at this distance from the target is in; it may lie beyond the last.
    pub fn of(&self, distance: &Distance) -> usize {
        usize::from(distance.first_bits() >> (16 - self.depth)) // the depth is at most 15
    }

    /// A key in a tile and what hashes to it. `None`: there is no such tile, or no key was found.
    pub fn key(&mut self, tile: usize) -> Option<(Key, Vec<u8>)> {
        if tile >= self.len() {
            return None;
        }
        let end = PATIENCE << self.depth;
        while self.keys[tile].is_none() && self.tried < end {
            // As a SHA-256 multihash, which is what servers are asked for.
            let mut name = vec![0x12, 32];
            name.extend_from_slice(&self.target.0[..24]);
            name.extend_from_slice(&self.tried.to_be_bytes());
            self.tried += 1;
            let key = Key::of(&name);
            let its = self.of(&self.target.distance(&key));
            if let Some(free @ None) = self.keys.get_mut(its) {
                *free = Some((key, name));
            }
        }
        self.keys[tile].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tile_has_a_key_of_its_own_and_its_name() {
        for depth in [1, 3, 9, MAX_DEPTH] {
            let target = Key::of(&depth.to_be_bytes());
            let mut tiles = Tiles::new(target, depth);
            for n in 0..tiles.len() {
                let (key, name) = tiles.key(n).unwrap();
                assert_eq!(Key::of(&name), key);
                assert_eq!(tiles.of(&target.distance(&key)), n);
            }
            assert!(tiles.key(tiles.len()).is_none());
        }
    }

    #[test]
    fn the_nearer_a_tile_the_smaller_its_number() {
        let (target, other) = (Key::of(b"t"), Key::of(b"o"));
        assert_eq!(Tiles::new(target, 9).of(&target.distance(&target)), 0);
        let (mut before, mut last) = (target.distance(&target), 0);
        for n in 0..=255u8 {
            let mut key = target;
            key.0[0] ^= n;
            let distance = target.distance(&key);
            assert!(distance >= before && Tiles::new(target, 9).of(&distance) >= last);
            (before, last) = (distance, Tiles::new(target, 9).of(&distance));
        }
        assert_ne!(Tiles::new(target, 9).key(3), Tiles::new(other, 9).key(3));
        assert_eq!(Tiles::new(target, 0).len(), 2);
        assert!(Tiles::new(target, 256).key(0).is_some());
    }
}
