//! The SURBs that are out: what is needed to open the packet that comes back on each, and whose it is.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mizzle_base::Time;
use mizzle_sphinx::SurbKeys;

/// Whose a SURB is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// Sent with a packet of this session.
    Session(u64),
    /// Sent with a drop: what returns is a filler.
    Drop,
}

/// SURBs by the random half of their id. Keys are wiped when they are used or too old.
pub(crate) struct Surbs {
    life: Duration,
    capacity: usize,
    out: BTreeMap<[u8; 8], (SurbKeys, Owner)>,
    by_age: VecDeque<(Time, [u8; 8])>,
}

impl Surbs {
    pub(crate) fn new(life: Duration, capacity: usize) -> Self {
        Self {
            life,
            capacity,
            out: BTreeMap::new(),
            by_age: VecDeque::new(),
        }
    }

    /// Notes a SURB made at `now`. When there are too many, those of which the packet came back counted until their time is
    /// over, the oldest goes: it is the likeliest to be lost.
    pub(crate) fn insert(&mut self, now: Time, id: [u8; 8], keys: SurbKeys, owner: Owner) {
        while self.by_age.len() >= self.capacity {
            let Some((_, oldest)) = self.by_age.pop_front() else {
                break;
            };
            self.out.remove(&oldest);
        }
        self.out.insert(id, (keys, owner));
        self.by_age.push_back((now, id));
    }

    /// Takes a SURB whose packet came back: each serves once.
    pub(crate) fn take(&mut self, id: &[u8; 8]) -> Option<(SurbKeys, Owner)> {
        self.out.remove(id)
    }

    /// Forgets those that are too old; returns how many never came back.
    pub(crate) fn expire(&mut self, now: Time) -> u64 {
        let mut lost = 0;
        while let Some((made, id)) = self.by_age.front() {
            if *made + self.life > now {
                break;
            }
            lost += u64::from(self.out.remove(id).is_some());
            self.by_age.pop_front();
        }
        lost
    }
}
