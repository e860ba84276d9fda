//! What is still to happen, in order of time and, at the same time, of being said.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::units::Time;

/// A queue of events in virtual time. The heap holds numbers only; the events lie still.
#[derive(Debug)]
pub struct Calendar<E> {
    heap: BinaryHeap<Reverse<(Time, u64, u32)>>,
    slots: Vec<Option<E>>,
    free: Vec<u32>,
    said: u64,
}

impl<E> Default for Calendar<E> {
    fn default() -> Calendar<E> {
        Calendar { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), said: 0 }
    }
}

impl<E> Calendar<E> {
    pub fn push(&mut self, at: Time, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                self.slots.len() as u32 - 1
            }
        };
        self.heap.push(Reverse((at, self.said, slot)));
        self.said += 1;
    }

    pub fn pop(&mut self) -> Option<(Time, E)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        // A slot is filled by `push` before its number enters the heap, and each number leaves it once.
        self.slots[slot as usize].take().map(|e| (at, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_times_keep_the_order_of_saying() {
        let mut c = Calendar::default();
        for (at, e) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            c.push(Time(at), e);
        }
        let order: String = std::iter::from_fn(|| c.pop()).map(|(_, e)| e).collect();
        assert_eq!(order, "abcd");
        c.push(Time(1), 'x');
        assert_eq!(c.slots.len(), 4, "slots are used again");
    }
}
