//! The ledger of loops: which are out, which came back, how late, which never did.
//!
//! Loopix section 4.3: loops tell their sender of an active attack. Here they are counted; what follows from missing
//! ones is decided by who owns the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mizzle_base::Time;

/// What became of the loops so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Came back in time.
    pub returned: u64,
    /// Did not, within the patience.
    pub lost: u64,
    /// Not kept track of, because the ledger was full.
    pub untracked: u64,
    /// Sum over the returned ones of how much later than their drawn delays they came, in microseconds.
    pub lateness_us: u64,
}

/// Loops that are out, by the random half of their id.
pub struct Ledger {
    patience: Duration,
    capacity: usize,
    /// When each left, and when it is due.
    out: BTreeMap<[u8; 8], (Time, Time)>,
    // Expiry looks at the first only.
    by_due: BTreeSet<(Time, [u8; 8])>,
    tally: Tally,
}

impl Ledger {
    /// A loop not back `patience` after it was due is lost; at most `capacity` are out (80 bytes each).
    #[must_use]
    pub fn new(patience: Duration, capacity: usize) -> Self {
        Self {
            patience,
            capacity,
            out: BTreeMap::new(),
            by_due: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    /// A loop leaves at `now` whose hops delay it by `delay_ms` in all. False when the ledger is full.
    pub fn sent(&mut self, now: Time, id: [u8; 8], delay_ms: u32) -> bool {
        self.expire(now);
        self.tally.sent += 1;
        if self.out.len() >= self.capacity {
            self.tally.untracked += 1;
            return false;
        }
        let due = now + Duration::from_millis(delay_ms.into());
        self.out.insert(id, (now, due));
        self.by_due.insert((due, id));
        true
    }

    /// A packet with this id came back: how long it was out. `None` when it is no loop that is out.
    pub fn returned(&mut self, now: Time, id: [u8; 8]) -> Option<Duration> {
        let (left, due) = self.out.remove(&id)?;
        self.by_due.remove(&(due, id));
        self.tally.returned += 1;
        self.tally.lateness_us += now.since(due).as_micros() as u64;
        Some(now.since(left))
    }

    /// Counts those that are lost by `now`.
    pub fn expire(&mut self, now: Time) {
        while let Some(&(due, id)) = self.by_due.first() {
            if due + self.patience > now {
                break;
            }
            self.by_due.pop_first();
            self.out.remove(&id);
            self.tally.lost += 1;
        }
    }

    /// The counts.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_return_once_or_are_lost() {
        let mut ledger = Ledger::new(Duration::from_secs(1), 2);
        let t = Time::from_s;
        assert!(ledger.sent(t(0), [1; 8], 100));
        assert!(ledger.sent(t(0), [2; 8], 500));
        assert!(!ledger.sent(t(0), [3; 8], 0), "full");
        assert_eq!(ledger.returned(t(1), [1; 8]), Some(Duration::from_secs(1)));
        assert_eq!(ledger.returned(t(1), [1; 8]), None, "twice");
        assert_eq!(ledger.returned(t(1), [3; 8]), None, "untracked");
        ledger.expire(t(2));
        assert_eq!(ledger.returned(t(2), [2; 8]), None, "too late");
        let tally = Tally {
            sent: 3,
            returned: 1,
            lost: 1,
            untracked: 1,
            lateness_us: 900_000,
        };
        assert_eq!(ledger.tally(), tally);
    }
}
