//! Reply slots: a SURB is used at its due time, never earlier, never kept, never twice.
//!
//! Design, Traffic: the gateway that receives a SURB draws a due time, Exp with the document's mean, and sends then,
//! with data or a filler. So when and how many packets return to a client is a function of its slots alone.
//! Gateway cores keep the SURBs of drops here, exit cores those of sessions.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use mizzle_base::profile::SURBS_PER_REPLY_SLOT;
use mizzle_base::{Rng, Time};
use mizzle_sphinx::{SURB_LEN, Surb};

use crate::draw;

/// A SURB that could not be used within this after its due time is not used: far more than a busy machine is late by.
pub const TOO_LATE: Duration = Duration::from_secs(1);

struct Entry<T> {
    due: Time,
    // Equal due times leave in the order of a random key, not of arrival.
    shuffle: u64,
    surb: Surb,
    owner: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    // Reversed: the heap gives its greatest, we want the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.shuffle).cmp(&(self.due, self.shuffle))
    }
}

/// SURBs with their due times. `T` says whose they are.
pub struct ReplySlots<T> {
    mean_s: f64,
    capacity: usize,
    heap: BinaryHeap<Entry<T>>,
}

impl<T> ReplySlots<T> {
    /// Due times with mean `mean_ms`, at most `capacity` SURBs (some 700 bytes each).
    #[must_use]
    pub fn new(mean_ms: f64, capacity: usize) -> Self {
        Self {
            mean_s: mean_ms / 1e3,
            capacity,
            heap: BinaryHeap::new(),
        }
    }

    /// Takes a SURB that arrived at `now`.
    ///
    /// # Errors
    /// Gives it back when full: the caller counts the loss.
    pub fn push(&mut self, rng: &mut Rng, now: Time, surb: Surb, owner: T) -> Result<(), Surb> {
        if self.heap.len() >= self.capacity {
            return Err(surb);
        }
        let due = now.plus_s_f64(draw::exponential(rng, self.mean_s));
        let shuffle = u64::from_le_bytes(draw::bytes(rng));
        self.heap.push(Entry {
            due,
            shuffle,
            surb,
            owner,
        });
        Ok(())
    }

    /// The next SURB that is due at `now`.
    pub fn pop_due(&mut self, now: Time) -> Option<(Surb, T)> {
        if self.heap.peek()?.due > now {
            return None;
        }
        self.heap.pop().map(|e| (e.surb, e.owner))
    }

    /// Drops the SURBs that are overdue by more than [`TOO_LATE`], and says how many: nothing ran for a while, and they would
    /// return all at once, when their owner has forgotten most of them.
    pub fn drop_overdue(&mut self, now: Time) -> u64 {
        let mut dropped = 0;
        while self.heap.peek().is_some_and(|e| now.since(e.due) > TOO_LATE) {
            self.heap.pop();
            dropped += 1;
        }
        dropped
    }

    /// The clock was set back by so much: the due times move with it, or nothing would return until it is where it was.
    pub fn shift_back(&mut self, by: Duration) {
        let mut all = std::mem::take(&mut self.heap).into_vec();
        all.iter_mut().for_each(|entry| entry.due = entry.due - by);
        self.heap = all.into();
    }

    /// When the next one is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.heap.peek().map(|e| e.due)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

/// SURBs one after another, as a reply slot carries them. Bytes that are not whole SURBs give none.
pub fn decode_surbs(bytes: &[u8]) -> impl Iterator<Item = Surb> + '_ {
    let whole = if bytes.len().is_multiple_of(SURB_LEN) {
        bytes
    } else {
        &[]
    };
    whole
        .chunks_exact(SURB_LEN)
        .filter_map(|chunk| chunk.try_into().ok().map(Surb::from_bytes))
}

/// The body of a drop: `number of SURBs (1) ‖ SURBs ‖ anything`. `None` when it isn't one.
#[must_use]
pub fn decode_drop(body: &[u8]) -> Option<&[u8]> {
    let (&n, rest) = body.split_first()?;
    if usize::from(n) > SURBS_PER_REPLY_SLOT {
        return None;
    }
    rest.get(..usize::from(n) * SURB_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn surbs_leave_at_their_due_times_once_and_are_bounded() {
        let mut rng = Rng::seed_from_u64(5);
        let mut slots = ReplySlots::new(60.0, 100);
        let surb = || Surb::from_bytes(&[1; SURB_LEN]);
        for n in 0..100 {
            assert!(slots.push(&mut rng, Time::ZERO, surb(), n).is_ok());
        }
        assert!(slots.push(&mut rng, Time::ZERO, surb(), 100).is_err(), "full");
        let (mut seen, mut sum_us) = (vec![], 0);
        while let Some(due) = slots.deadline() {
            assert!(
                slots.pop_due(Time::from_us(due.as_us() - 1)).is_none(),
                "never earlier"
            );
            sum_us += due.as_us();
            seen.push(slots.pop_due(due).unwrap().1);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>(), "each once");
        let mean_ms = sum_us as f64 / 100e3;
        assert!((mean_ms - 60.0).abs() < 24.0, "four standard errors: {mean_ms}");
    }

    #[test]
    fn a_clock_that_is_set_back_takes_the_due_times_along() {
        let mut rng = Rng::seed_from_u64(6);
        let mut slots = ReplySlots::new(60.0, 100);
        let surb = || Surb::from_bytes(&[1; SURB_LEN]);
        (0..10).for_each(|n| assert!(slots.push(&mut rng, Time::from_s(9_000), surb(), n).is_ok()));
        let before = slots.deadline().unwrap();
        slots.shift_back(Duration::from_secs(3_600));
        assert_eq!(slots.deadline(), Some(before - Duration::from_secs(3_600)));
        assert_eq!(slots.len(), 10);
    }

    #[test]
    fn surbs_that_are_long_overdue_are_dropped_and_counted() {
        let mut rng = Rng::seed_from_u64(7);
        let mut slots = ReplySlots::new(60.0, 100);
        let surb = || Surb::from_bytes(&[1; SURB_LEN]);
        (0..10).for_each(|n| assert!(slots.push(&mut rng, Time::ZERO, surb(), n).is_ok()));
        let first = slots.deadline().unwrap();
        assert_eq!(slots.drop_overdue(first + TOO_LATE), 0, "a busy machine");
        (10..12).for_each(|n| assert!(slots.push(&mut rng, Time::from_s(3_600), surb(), n).is_ok()));
        assert_eq!(slots.drop_overdue(Time::from_s(3_600)), 10);
        assert_eq!(slots.len(), 2);
    }

    #[test]
    fn drops_with_wrong_counts_or_lengths_are_none() {
        assert_eq!(decode_drop(&[]), None);
        assert_eq!(decode_drop(&[0, 9]).unwrap().len(), 0);
        assert_eq!(decode_drop(&[6; 5_000]), None);
        assert_eq!(decode_drop(&[1; SURB_LEN]), None, "one byte short");
        assert_eq!(decode_surbs(&[0; SURB_LEN + 1]).count(), 0);
        assert_eq!(decode_surbs(&[0; 2 * SURB_LEN]).count(), 2);
    }
}
