//! What a neighbour has for us and lacks of ours, in chunks.
//!
//! Mostly it matters only whether there is anything to be had, and whether it is short of work: while both
//! counts are large they are kept as lower bounds, so that a new chunk of ours need not be looked up in the list of
//! each neighbour (of a swarm's steps this was the most costly). A bound that no longer says enough is counted afresh.

use super::picker::Picker;
use crate::bitfield::Bitfield;
use crate::units::ChunkIndex;

/// How far a count must be from where it matters to be kept as a bound. A larger content takes longer to count.
fn margin(chunks: u32) -> u32 {
    8 + chunks / 1_024
}

/// Counts of a neighbour that does not have everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    offers: u32,
    lacks: u32,
    /// Neither count is too small; else both are at most too small, and `offers` is more than 0.
    exact: bool,
}

impl Counts {
    /// Counts afresh. `plain`: every chunk is known, and wanted unless it is held.
    pub fn of(have: &Bitfield, picker: &Picker, plain: bool) -> Counts {
        let common = have.in_common(picker.held());
        let offers = match plain {
            true => have.len() - common,
            false => have.iter().filter(|c| picker.is_missing(c.get())).count() as u32,
        };
        Counts { offers, lacks: picker.held().len() - common, exact: true }
    }

    /// Of one that has everything, for which they are not kept.
    pub fn none() -> Counts {
        Counts { offers: 0, lacks: 0, exact: true }
    }

    /// Chunks that it has and we miss: so many at least, and none only if there are none.
    pub fn offers(&self) -> u32 {
        self.offers
    }

    /// It got a chunk that we miss.
    pub fn got_missing(&mut self) {
        self.offers += 1;
    }

    /// It got a chunk that we hold.
    pub fn got_held(&mut self) {
        self.lacks = self.lacks.saturating_sub(1);
    }

    /// It lost a chunk that we miss, or hold, or neither; [`Counts::settle`] is to follow.
    pub fn lost(&mut self, missing: bool, held: bool) {
        self.offers = self.offers.saturating_sub(u32::from(missing));
        self.lacks += u32::from(held);
    }

    /// A bound that says nothing is counted afresh.
    pub fn settle(&mut self, have: &Bitfield, picker: &Picker, plain: bool) {
        if !self.exact && self.offers == 0 {
            *self = Counts::of(have, picker, plain);
        }
    }

    /// We hold one more chunk, which `picker` counts already; whether it lacks that one and is to be told at once:
    /// since it lacks `few` at most, or nobody has the chunk (`fresh`).
    pub fn hold(
        &mut self,
        c: ChunkIndex,
        have: &Bitfield,
        picker: &Picker,
        plain: bool,
        fresh: bool,
        few: u32,
    ) -> bool {
        if !self.exact {
            self.offers = self.offers.saturating_sub(u32::from(!fresh));
            self.lacks += u32::from(fresh);
            if plain && self.offers > 0 && (fresh || self.lacks > few) {
                return fresh;
            }
            *self = Counts::of(have, picker, plain);
        } else if have.contains(c) {
            self.offers -= u32::from(picker.is_wanted(c.get()) && self.offers > 0);
        } else {
            self.lacks += 1;
        }
        let tell = (fresh || self.lacks <= few) && !have.contains(c);
        let margin = margin(picker.len());
        self.exact = !plain || self.offers < margin || self.lacks < few.saturating_add(margin);
        tell
    }

    pub fn check(&self, have: &Bitfield, picker: &Picker) -> Result<(), &'static str> {
        let real = Counts::of(have, picker, false);
        let right = |count: u32, real: u32| if self.exact { count == real } else { count <= real };
        match (right(self.offers, real.offers), right(self.lacks, real.lacks), self.offers > 0 || self.exact)
        {
            (true, true, true) => Ok(()),
            (false, ..) => Err("offers miscounted"),
            (_, false, _) => Err("lacks miscounted"),
            _ => Err("a bound that says nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::picker::State;

    const LEN: u32 = 200;
    const FEW: u32 = 16;

    fn ix(c: u32) -> ChunkIndex {
        ChunkIndex::new(c).unwrap()
    }

    /// A neighbour of ours, with what counting afresh each time would say.
    struct Pair {
        picker: Picker,
        have: Bitfield,
        counts: Counts,
        /// How often the counts were bounds only.
        loose: u32,
    }

    impl Pair {
        fn new() -> Pair {
            let mut picker = Picker::new(true);
            picker.grow(LEN);
            let counts = Counts::of(&Bitfield::new(), &picker, true);
            Pair { picker, have: Bitfield::new(), counts, loose: 0 }
        }

        fn get(&mut self, c: u32) {
            if self.have.insert(ix(c)) {
                match self.picker.is_missing(c) {
                    true => self.counts.got_missing(),
                    false => self.counts.got_held(),
                }
            }
        }

        fn lose(&mut self, c: u32) {
            if self.have.remove(ix(c)) {
                let (missing, held) = (self.picker.is_missing(c), self.picker.held().contains(ix(c)));
                self.counts.lost(missing, held);
                self.counts.settle(&self.have, &self.picker, self.picker.wants_all());
            }
        }

        fn hold(&mut self, c: u32) {
            if !self.picker.set(c, State::Held) {
                return;
            }
            let real = Counts::of(&self.have, &self.picker, false);
            // As the engine knows it: nobody has the chunk. (Others may, so that it may be false for one that lacks it.)
            let fresh = !self.have.contains(ix(c)) && c.is_multiple_of(3);
            let plain = self.picker.wants_all();
            let tell = self.counts.hold(ix(c), &self.have, &self.picker, plain, fresh, FEW);
            assert_eq!(tell, !self.have.contains(ix(c)) && (fresh || real.lacks <= FEW), "chunk {c}");
            self.loose += u32::from(!self.counts.exact);
        }

        fn check(&self) {
            assert_eq!(self.counts.check(&self.have, &self.picker), Ok(()));
            let real = Counts::of(&self.have, &self.picker, false);
            assert_eq!(self.counts.offers() > 0, real.offers > 0);
        }
    }

    proptest! {
        #[test]
        fn bounds_say_what_counting_afresh_says(steps in prop::collection::vec((0u8..16, 0..LEN), 1..600)) {
            let mut pair = Pair::new();
            for (what, c) in steps {
                match what {
                    0..7 => pair.get(c),
                    7..14 => pair.hold(c),
                    _ => pair.lose(c),
                }
                pair.check();
            }
        }
    }

    #[test]
    fn far_from_where_they_matter_counts_are_bounds_and_near_it_they_are_exact() {
        let mut pair = Pair::new();
        (0..100).for_each(|c| pair.get(c));
        for c in (0..LEN).rev() {
            pair.hold(c);
            pair.check();
        }
        assert!((100..190).contains(&pair.loose), "{}", pair.loose);
        assert!(pair.counts.exact && pair.counts.offers() == 0);
    }
}
