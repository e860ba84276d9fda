//! Kademlia's look-up (Maymounkov and Mazieres 2002), to put beside the ring: buckets of k peers by
//! shared prefix, one question at a time to the closest peer known that was not asked yet.

use crate::lab::rng::Rng;

/// Peers in a bucket, as in Amino.
pub const K: usize = 20;

/// A network whose peers all have full routing tables; 64-bit IDs, in order and different.
#[derive(Debug)]
pub struct Kademlia<'a> {
    ids: &'a [u64],
    seed: u64,
}

impl<'a> Kademlia<'a> {
    pub fn new(ids: &'a [u64], seed: u64) -> Kademlia<'a> {
        Kademlia { ids, seed }
    }

    /// Which of `ids` share exactly the first `i` bits with `id`.
    fn range(&self, id: u64, i: u32) -> std::ops::Range<usize> {
        let flipped = id ^ (1 << (63 - i));
        let rest = u64::MAX >> 1 >> i;
        let (low, high) = (flipped & !rest, flipped | rest);
        let start = self.ids.partition_point(|&x| x < low);
        start..self.ids.partition_point(|&x| x <= high)
    }

    /// The peers in bucket `i` of `id`: up to [`K`] of those who belong there, the same at every call.
    fn bucket(&self, id: u64, i: u32) -> Vec<u64> {
        let members = &self.ids[self.range(id, i)];
        if members.len() <= K {
            return members.to_vec();
        }
        let mut rng = Rng::new(self.seed ^ id).fork(u64::from(i));
        let mut at: Vec<usize> = Vec::with_capacity(K);
        while at.len() < K {
            let candidate = rng.below(members.len());
            if !at.contains(&candidate) {
                at.push(candidate);
            }
        }
        at.into_iter().map(|j| members[j]).collect()
    }

    /// How many peers `id` knows.
    pub fn neighbours(&self, id: u64) -> usize {
        (0..64).map(|i| self.range(id, i).len().min(K)).sum()
    }

    /// The [`K`] peers closest to `key` that `id` knows, itself left out.
    fn closest(&self, id: u64, key: u64) -> Vec<u64> {
        // The bucket that the key falls into is nearest; then deeper ones, then those before it.
        let shared = (id ^ key).leading_zeros();
        let mut known = Vec::new();
        let deeper = shared.min(64)..64;
        for i in deeper.chain((0..shared).rev()) {
            known.extend(self.bucket(id, i));
            // Only shallower buckets lie wholly farther off than what is already known.
            if i < shared && known.len() >= K {
                break;
            }
        }
        known.sort_unstable_by_key(|&p| p ^ key);
        known.truncate(K);
        known
    }

    /// Questions sent until the peer closest to `key` had one; 0 if `from` is the closest.
    pub fn lookup(&self, from: u64, key: u64) -> u32 {
        let mut known = self.closest(from, key);
        let mut asked = vec![from];
        let goal = self.owner(key);
        let mut messages = 0;
        if goal == Some(from) {
            return 0;
        }
        while let Some(&next) = known.iter().find(|p| !asked.contains(p)) {
            messages += 1;
            if Some(next) == goal {
                break;
            }
            asked.push(next);
            known.extend(self.closest(next, key));
            known.sort_unstable_by_key(|&p| p ^ key);
            known.dedup();
            known.truncate(K);
        }
        messages
    }

    /// The peer closest to `key` by XOR, by halving the range bit by bit; `None` if there are no peers.
    fn owner(&self, key: u64) -> Option<u64> {
        let mut range = self.ids;
        for bit in (0..64).rev() {
            let one = range.partition_point(|x| x >> bit & 1 == 0);
            let (zeros, ones) = range.split_at(one);
            let (near, far) = if key >> bit & 1 == 1 { (ones, zeros) } else { (zeros, ones) };
            range = if near.is_empty() { far } else { near };
        }
        range.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: usize) -> Vec<u64> {
        let mut rng = Rng::new(7);
        let mut ids: Vec<u64> = (0..n).map(|_| rng.next_u64()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn buckets_split_all_others_by_shared_prefix() {
        let ids = ids(500);
        let k = Kademlia::new(&ids, 1);
        for &id in &ids[..20] {
            let sizes: usize = (0..64).map(|i| k.range(id, i).len()).sum();
            assert_eq!(sizes, 499);
            for i in 0..64 {
                assert!(k.bucket(id, i).iter().all(|o| (o ^ id).leading_zeros() == i));
            }
        }
    }

    #[test]
    fn the_owner_is_the_closest_by_xor() {
        let ids = ids(300);
        let (k, mut rng) = (Kademlia::new(&ids, 1), Rng::new(2));
        for _ in 0..200 {
            let key = rng.next_u64();
            assert_eq!(k.owner(key), ids.iter().copied().min_by_key(|i| i ^ key));
        }
    }

    #[test]
    fn look_ups_take_a_few_messages() {
        let ids = ids(2000);
        let (k, mut rng) = (Kademlia::new(&ids, 1), Rng::new(3));
        let sum: u32 = (0..200).map(|_| k.lookup(ids[rng.below(2000)], rng.next_u64())).sum();
        let mean = f64::from(sum) / 200.0;
        assert!((1.0..5.0).contains(&mean), "{mean}");
    }
}
