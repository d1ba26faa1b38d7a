//! Sets of byte ranges: what was acknowledged, what was lost, which streams are over.

use std::collections::BTreeMap;

/// Disjoint half-open ranges that don't touch, each start with its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    ranges: BTreeMap<u64, u64>,
    /// Sum of their lengths.
    total: u64,
}

impl RangeSet {
    /// Sum of the lengths.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn first(&self) -> Option<(u64, u64)> {
        self.ranges.first_key_value().map(|(&s, &e)| (s, e))
    }

    pub(crate) fn contains(&self, value: u64) -> bool {
        self.covers(value, value.saturating_add(1))
    }

    /// Whether all of `start..end` is in the set.
    pub(crate) fn covers(&self, start: u64, end: u64) -> bool {
        start >= end
            || self
                .ranges
                .range(..=start)
                .next_back()
                .is_some_and(|(_, &e)| e >= end)
    }

    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        // Whatever overlaps or touches is merged, from the right.
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.ranges.remove(&s);
            self.total -= e - s;
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
        self.total += end - start;
    }

    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        while let Some((&s, &e)) = self.ranges.range(..end).next_back() {
            if e <= start {
                break;
            }
            self.ranges.remove(&s);
            self.total -= e - s;
            for (s, e) in [(s, start), (end, e)] {
                if s < e {
                    self.ranges.insert(s, e);
                    self.total += e - s;
                }
            }
        }
    }

    /// The first part of `start..end` that is not in the set.
    pub(crate) fn first_gap(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let start = match self.ranges.range(..=start).next_back() {
            Some((_, &e)) => start.max(e),
            None => start,
        };
        let end = match self.ranges.range(start..).next() {
            Some((&s, _)) => end.min(s),
            None => end,
        };
        (start < end).then_some((start, end))
    }

    /// The parts of `start..end` that are not in the set, in order.
    pub(crate) fn gaps(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at = start;
        core::iter::from_fn(move || {
            let gap = self.first_gap(at, end)?;
            at = gap.1;
            Some(gap)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(ops in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..60)) {
            let mut set = RangeSet::default();
            let mut model = std::collections::BTreeSet::new();
            for (add, start, len) in ops {
                let end = start + len;
                if add { set.insert(start, end) } else { set.remove(start, end) }
                for v in start..end {
                    if add { model.insert(v); } else { model.remove(&v); }
                }
                prop_assert_eq!(set.total(), model.len() as u64);
                for v in 0..90 {
                    prop_assert_eq!(set.contains(v), model.contains(&v));
                }
                let gaps: Vec<u64> = set.gaps(5, 70).flat_map(|(s, e)| s..e).collect();
                let expected: Vec<u64> = (5..70).filter(|v| !model.contains(v)).collect();
                prop_assert_eq!(gaps, expected);
                prop_assert!(set.ranges.iter().zip(set.ranges.iter().skip(1)).all(|((_, e), (s, _))| e < s));
            }
        }
    }
}
