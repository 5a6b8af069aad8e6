//! A set of numbers kept as ranges: what it costs grows with the number of
//! holes, never with the number of addresses. A /64 is one entry.

use std::collections::BTreeMap;

/// Disjoint ranges that do not touch. Every operation is O(log ranges).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// first -> last, both included
    ranges: BTreeMap<u128, u128>,
    len: u128,
}

impl RangeSet {
    /// How many numbers; all of 2^128 count as one less.
    pub const fn len(&self) -> u128 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn first(&self) -> Option<u128> {
        self.ranges.keys().next().copied()
    }

    pub fn contains(&self, number: u128) -> bool {
        self.range_of(number).is_some()
    }

    /// The ranges in order, both ends included.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    pub fn insert(&mut self, number: u128) {
        self.insert_range(number, number);
    }

    /// Adds a range, and merges it with what it overlaps or touches.
    pub fn insert_range(&mut self, mut first: u128, mut last: u128) {
        if let Some((&before, &end)) = self.ranges.range(..first).next_back()
            && end >= first - 1
        {
            first = before;
            last = last.max(end);
        }
        while let Some((&next, &end)) = self.ranges.range(first..=last.saturating_add(1)).next() {
            self.ranges.remove(&next);
            self.len -= count(next, end);
            last = last.max(end);
        }
        self.add(first, last);
    }

    /// Whether the number was there.
    pub fn remove(&mut self, number: u128) -> bool {
        let was_there = self.contains(number);
        self.remove_range(number, number);
        was_there
    }

    pub fn remove_range(&mut self, first: u128, last: u128) {
        while let Some((start, end)) = self.last_overlap(first, last) {
            self.ranges.remove(&start);
            self.len -= count(start, end);
            if start < first {
                self.add(start, first - 1);
            }
            if end > last {
                self.add(last + 1, end);
            }
        }
    }

    fn add(&mut self, first: u128, last: u128) {
        self.ranges.insert(first, last);
        self.len = self.len.saturating_add(count(first, last));
    }

    fn last_overlap(&self, first: u128, last: u128) -> Option<(u128, u128)> {
        let (&start, &end) = self.ranges.range(..=last).next_back()?;
        (end >= first).then_some((start, end))
    }

    fn range_of(&self, number: u128) -> Option<(u128, u128)> {
        self.last_overlap(number, number)
    }
}

const fn count(first: u128, last: u128) -> u128 {
    (last - first).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::RangeSet;

    proptest! {
        #[test]
        fn a_range_set_holds_the_same_numbers_as_a_plain_set(
            steps in prop::collection::vec((any::<bool>(), 0u128..60, 0u128..10), 1..80)
        ) {
            let mut ranges = RangeSet::default();
            let mut plain = BTreeSet::new();
            for (add, first, length) in steps {
                let numbers = first..=first + length;
                if add {
                    ranges.insert_range(first, first + length);
                    plain.extend(numbers);
                } else {
                    ranges.remove_range(first, first + length);
                    plain.retain(|n| !numbers.contains(n));
                }
                prop_assert_eq!(ranges.len(), plain.len() as u128);
                prop_assert_eq!(ranges.first(), plain.first().copied());
                prop_assert!((0..80).all(|n| ranges.contains(n) == plain.contains(&n)));
                let touching = ranges.iter().zip(ranges.iter().skip(1)).any(|(a, b)| a.1 + 1 >= b.0);
                prop_assert!(!touching, "{:?}", ranges);
            }
        }
    }

    #[test]
    fn the_ends_of_the_number_space_are_ordinary_numbers() {
        let mut set = RangeSet::default();
        set.insert_range(0, u128::MAX);
        assert_eq!(set.len(), u128::MAX);
        assert!(set.remove(u128::MAX));
        assert!(set.remove(0));
        assert_eq!(set.iter().collect::<Vec<_>>(), [(1, u128::MAX - 1)]);
        set.insert(0);
        set.insert(u128::MAX);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, u128::MAX)]);
    }
}
