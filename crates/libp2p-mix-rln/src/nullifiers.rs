//! The memory of what was accepted in the epochs that still count: one share for each nullifier.
//!
//! A nullifier is a member's one packet of one number. Seen again with the same share, it is the same packet; with
//! another share, its sender used the number twice, and the two shares give his secret away.

use std::collections::{BTreeMap, HashMap};

/// A point on the line that goes through the sender's secret: x, y.
pub(crate) type Share = ([u8; 32], [u8; 32]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Never,
    Same,
    /// With this share.
    Other(Share),
}

/// No room: packets are refused rather than forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug)]
pub(crate) struct Nullifiers {
    most: usize,
    len: usize,
    epochs: BTreeMap<u64, HashMap<[u8; 32], Share>>,
}

impl Nullifiers {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            len: 0,
            epochs: BTreeMap::new(),
        }
    }

    /// Forgets the epochs before this one.
    pub(crate) fn forget_before(&mut self, epoch: u64) {
        while let Some(entry) = self.epochs.first_entry().filter(|entry| *entry.key() < epoch) {
            self.len -= entry.remove().len();
        }
    }

    pub(crate) fn look(&self, epoch: u64, nullifier: &[u8; 32], share: &Share) -> Seen {
        match self.epochs.get(&epoch).and_then(|epoch| epoch.get(nullifier)) {
            None => Seen::Never,
            Some(known) if known == share => Seen::Same,
            Some(known) => Seen::Other(*known),
        }
    }

    /// Looks, and remembers what was never seen.
    pub(crate) fn insert(&mut self, epoch: u64, nullifier: [u8; 32], share: Share) -> Result<Seen, Full> {
        let seen = self.look(epoch, &nullifier, &share);
        if seen == Seen::Never {
            if self.len >= self.most {
                return Err(Full);
            }
            self.epochs.entry(epoch).or_default().insert(nullifier, share);
            self.len += 1;
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Share = ([1; 32], [2; 32]);
    const OTHER: Share = ([1; 32], [3; 32]);

    #[test]
    fn the_memory_tells_again_from_twice_and_is_bounded() {
        let mut memory = Nullifiers::new(2);
        assert_eq!(memory.insert(5, [1; 32], SHARE), Ok(Seen::Never));
        assert_eq!(memory.insert(5, [1; 32], SHARE), Ok(Seen::Same));
        assert_eq!(memory.insert(5, [1; 32], OTHER), Ok(Seen::Other(SHARE)));
        assert_eq!(memory.insert(6, [1; 32], OTHER), Ok(Seen::Never), "another epoch");
        assert_eq!(memory.insert(6, [2; 32], SHARE), Err(Full));
        assert_eq!(memory.insert(5, [1; 32], SHARE), Ok(Seen::Same), "needs no room");
        memory.forget_before(6);
        assert_eq!(memory.look(5, &[1; 32], &SHARE), Seen::Never);
        assert_eq!(memory.insert(6, [2; 32], SHARE), Ok(Seen::Never));
        memory.forget_before(100);
        assert_eq!(memory.len, 0);
    }
}
