//! [`Lateness`]: how much later than its delay each packet left.

use std::time::Duration;

/// Parts of an octave: what is read from it is at most a quarter too much.
const PARTS: u64 = 4;
/// The last one is for all that is longer: 2^27 µs, two minutes.
const BUCKETS: usize = 27 * PARTS as usize;

/// A histogram of times: how much later than their delays packets left, in steps of a quarter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lateness([u64; BUCKETS]);

impl Default for Lateness {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Lateness {
    /// One packet was so late.
    pub fn add(&mut self, late: Duration) {
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.0[bucket(us)] += 1;
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(to, n)| *to += n);
    }

    /// What was counted since it was `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut new = self.clone();
        let both = new.0.iter_mut().zip(&earlier.0);
        both.for_each(|(all, before)| *all = all.saturating_sub(*before));
        new
    }

    /// How many it counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// This share of the packets (0 to 1) was no later than that; none if there were no packets.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let all = self.count();
        let rank = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
        let mut seen = 0;
        let at = self.0.iter().position(|n| {
            seen += n;
            seen >= rank
        });
        at.map(|at| Duration::from_micros(end(at)))
    }
}

/// 0 to 3 stand for themselves; after that an octave has four.
fn bucket(us: u64) -> usize {
    if us < PARTS {
        return us as usize;
    }
    let octave = u64::from(us.ilog2());
    let part = (us >> (octave - 2)) & (PARTS - 1);
    usize::try_from((octave - 1) * PARTS + part).map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

/// The largest that falls into it.
fn end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket;
    }
    let (octave, part) = (bucket / PARTS + 1, bucket % PARTS);
    ((PARTS + part + 1) << (octave - 2)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_never_less_and_at_most_a_quarter_more() {
        for us in (0..10_000).chain([99_999, 1 << 20, (1 << 26) - 1]) {
            let mut one = Lateness::default();
            one.add(Duration::from_micros(us));
            let read = one.quantile(0.99).unwrap().as_micros() as u64;
            assert!((us..=us + us / 4).contains(&read), "{us} read as {read}");
        }
        let mut long = Lateness::default();
        long.add(Duration::MAX);
        assert_eq!(long.count(), 1);
    }

    #[test]
    fn what_is_new_is_told_apart_from_what_was_before() {
        let mut all = Lateness::default();
        all.add(Duration::from_millis(900));
        let before = all.clone();
        assert_eq!(all.since(&before).count(), 0);
        all.add(Duration::from_micros(3));
        let new = all.since(&before);
        assert_eq!(
            (new.count(), new.quantile(1.0)),
            (1, Some(Duration::from_micros(3)))
        );
    }

    #[test]
    fn a_quantile_is_of_all_that_was_merged() {
        assert_eq!(Lateness::default().quantile(0.5), None);
        let (mut one, mut other) = (Lateness::default(), Lateness::default());
        (0..99).for_each(|_| one.add(Duration::from_micros(2)));
        other.add(Duration::from_micros(3));
        one.merge(&other);
        let us = |share| one.quantile(share).map(|d| d.as_micros());
        assert_eq!(
            [us(0.0), us(0.99), us(0.995), us(1.0)],
            [Some(2), Some(2), Some(3), Some(3)]
        );
    }
}
