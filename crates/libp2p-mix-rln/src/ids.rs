//! The numbers of our own packets within an epoch. One number twice, and everybody can compute our secret: so the
//! numbers live here, and every doubt is decided against sending.

use std::collections::BTreeSet;

/// Why there is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoId {
    /// The epoch's packets are all sent.
    Limit,
    /// We may have sent in this epoch before a restart, or the clock was set back.
    Resting,
}

#[derive(Debug)]
pub(crate) struct Ids {
    limit: u32,
    epoch: u64,
    next: u32,
    /// Taken back: their packets were never sent.
    free: BTreeSet<u32>,
}

impl Ids {
    /// Numbers from the epoch `first` on.
    pub(crate) fn new(limit: u32, first: u64) -> Self {
        Self {
            limit,
            epoch: first,
            next: 0,
            free: BTreeSet::new(),
        }
    }

    pub(crate) fn take(&mut self, epoch: u64) -> Result<u32, NoId> {
        if epoch < self.epoch {
            return Err(NoId::Resting);
        }
        if epoch > self.epoch {
            *self = Self::new(self.limit, epoch);
        }
        if let Some(id) = self.free.pop_first() {
            return Ok(id);
        }
        if self.next >= self.limit {
            return Err(NoId::Limit);
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Whether it was of any use: numbers of an epoch that is over are not.
    pub(crate) fn give_back(&mut self, epoch: u64, id: u32) -> bool {
        epoch == self.epoch && id < self.next && self.free.insert(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_given_twice_unless_it_was_taken_back() {
        let mut ids = Ids::new(3, 10);
        assert_eq!(ids.take(9), Err(NoId::Resting), "before the first epoch");
        assert_eq!([ids.take(10), ids.take(10), ids.take(10)], [Ok(0), Ok(1), Ok(2)]);
        assert_eq!(ids.take(10), Err(NoId::Limit));
        assert!(ids.give_back(10, 1));
        assert!(!ids.give_back(10, 1), "once");
        assert!(!ids.give_back(10, 3), "never given");
        assert_eq!([ids.take(10), ids.take(10)], [Ok(1), Err(NoId::Limit)]);
        assert_eq!(ids.take(12), Ok(0), "a new epoch");
        assert!(!ids.give_back(10, 2), "of an old one");
        assert_eq!(ids.take(11), Err(NoId::Resting), "the clock was set back");
        assert_eq!(ids.take(12), Ok(1));
    }
}
