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

/// A number, and which of its givings out this is: only the last may be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) epoch: u64,
    pub(crate) number: u32,
    pub(crate) giving: u64,
}

#[derive(Debug)]
pub(crate) struct Ids {
    limit: u32,
    epoch: u64,
    /// The last giving of each number so far.
    given: Vec<u64>,
    givings: u64,
    /// Taken back: their packets were never sent.
    free: BTreeSet<u32>,
}

impl Ids {
    /// Numbers from the epoch `first` on.
    pub(crate) fn new(limit: u32, first: u64) -> Self {
        Self {
            limit,
            epoch: first,
            given: Vec::new(),
            givings: 0,
            free: BTreeSet::new(),
        }
    }

    pub(crate) fn take(&mut self, epoch: u64) -> Result<Id, NoId> {
        if epoch < self.epoch {
            return Err(NoId::Resting);
        }
        if epoch > self.epoch {
            self.epoch = epoch;
            self.given.clear();
            self.free.clear();
        }
        let next = self.given.len() as u32;
        let number = match self.free.pop_first() {
            Some(number) => number,
            None if next < self.limit => {
                self.given.push(0);
                next
            }
            None => return Err(NoId::Limit),
        };
        self.givings += 1;
        self.given[number as usize] = self.givings;
        Ok(Id {
            epoch,
            number,
            giving: self.givings,
        })
    }

    /// Whether it was of any use: numbers of an epoch that is over are not, nor those that went to another packet since.
    pub(crate) fn give_back(&mut self, id: Id) -> bool {
        id.epoch == self.epoch
            && self.given.get(id.number as usize) == Some(&id.giving)
            && self.free.insert(id.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_given_twice_unless_it_was_taken_back() {
        let mut ids = Ids::new(3, 10);
        assert_eq!(ids.take(9), Err(NoId::Resting), "before the first epoch");
        let first = [
            ids.take(10).unwrap(),
            ids.take(10).unwrap(),
            ids.take(10).unwrap(),
        ];
        assert_eq!(first.map(|id| id.number), [0, 1, 2]);
        assert_eq!(ids.take(10), Err(NoId::Limit));
        assert!(ids.give_back(first[1]));
        assert!(!ids.give_back(first[1]), "once");
        let again = ids.take(10).unwrap();
        assert_eq!(again.number, 1);
        assert!(!ids.give_back(first[1]), "another packet has it now");
        assert_eq!(ids.take(10), Err(NoId::Limit));
        assert!(ids.give_back(again));
        let never = Id { number: 3, ..again };
        assert!(!ids.give_back(never));
        let later = ids.take(12).unwrap();
        assert_eq!(later.number, 0, "a new epoch");
        assert!(!ids.give_back(first[2]), "of an old one");
        assert_eq!(ids.take(11), Err(NoId::Resting), "the clock was set back");
        assert_eq!(ids.take(12).unwrap().number, 1);
    }
}
