//! [`Ring`]: which keys a node has at a time. They come from a [`Ratchet`], so that a node which is seized can't open what it
//! relayed in epochs that are over.
//!
//! The design's "Keys, epochs, time". When an epoch is over is the network document's ([`Epochs`]); on a disk, seeds are the
//! shell's, which overwrites the old one.

use std::fmt;
use std::time::Duration;

use mizzle_base::Time;
use mizzle_base::document::{Document, Epochs};
use mizzle_sphinx::SecretKey;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// From the seed of one epoch follow that epoch's keys and the next epoch's seed, and nothing of any epoch before.
///
/// `seed(e + 1) = SHA-256("mizzle epoch seed 1" ‖ 0 ‖ seed(e))`, and each key is the same with another label: `mizzle epoch
/// sphinx 1`, `mizzle epoch exit 1`, `mizzle epoch mail 1`. Seeds are overwritten when they are dropped.
#[derive(Clone)]
pub struct Ratchet {
    epoch: u32,
    seed: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Ratchet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ratchet")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// The secret keys of a node in one epoch.
pub struct NodeKeys {
    /// Which.
    pub epoch: u32,
    /// Of packets.
    pub sphinx: SecretKey,
    /// Of the sessions of its exit, if it has one.
    pub exit: SecretKey,
    /// Of the sessions of its mail, if it keeps any.
    pub mail: SecretKey,
}

impl Ratchet {
    /// With the seed of this epoch, 32 bytes that nobody can guess.
    #[must_use]
    pub fn new(epoch: u32, seed: Zeroizing<[u8; 32]>) -> Self {
        Self { epoch, seed }
    }

    /// The earliest epoch whose keys it can make.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The seed of [`Self::epoch`], for the one place that stores it.
    #[must_use]
    pub fn expose_seed(&self) -> &Zeroizing<[u8; 32]> {
        &self.seed
    }

    /// The keys of an epoch; none if it is over for this ratchet. As many hashes as the epoch is ahead.
    #[must_use]
    pub fn keys(&self, epoch: u32) -> Option<NodeKeys> {
        let mut at = self.clone();
        (epoch >= at.epoch).then(|| {
            at.forward_to(epoch);
            at.own_keys()
        })
    }

    /// The keys of so many epochs from `first` on; none if that is over.
    #[must_use]
    pub fn keys_of(&self, first: u32, count: u32) -> Option<Vec<NodeKeys>> {
        let mut at = self.clone();
        if first < at.epoch {
            return None;
        }
        let one = |epoch| {
            at.forward_to(epoch);
            at.own_keys()
        };
        Some((first..first.saturating_add(count)).map(one).collect())
    }

    /// Forgets all epochs before this one.
    pub fn forward_to(&mut self, epoch: u32) {
        while self.epoch < epoch {
            self.seed = self.derive("seed");
            self.epoch += 1;
        }
    }

    fn own_keys(&self) -> NodeKeys {
        let key = |what| SecretKey::from_bytes(*self.derive(what));
        NodeKeys {
            epoch: self.epoch,
            sphinx: key("sphinx"),
            exit: key("exit"),
            mail: key("mail"),
        }
    }

    fn derive(&self, what: &str) -> Zeroizing<[u8; 32]> {
        let hash = Sha256::new()
            .chain_update("mizzle epoch ")
            .chain_update(what)
            .chain_update(" 1\0")
            .chain_update(*self.seed);
        Zeroizing::new(hash.finalize().into())
    }
}

/// The keys that are to be used have been erased already: the clock is behind, or was ahead when they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "this machine's clock is slow by {} s at least: the keys of the time that it shows were erased already. Set it (UTC); if it \
     is right now and was fast before, the node needs a new key: `mizzle network rekey`", .by.as_secs()
)]
pub struct TooEarly {
    /// By how much, at least.
    pub by: Duration,
}

/// The epochs whose keys are to be used from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// The current one and perhaps the one before or after it; none after the document's end.
    pub alive: Option<(u32, Option<u32>)>,
    /// Earlier ones were forgotten: what the shell keeps of the ratchet is to be replaced.
    pub forgot: bool,
}

impl Turn {
    /// All epochs that are alive, the current one first.
    pub fn epochs(&self) -> impl Iterator<Item = u32> + use<> {
        self.alive
            .into_iter()
            .flat_map(|(current, other)| [Some(current), other])
            .flatten()
    }
}

/// A node's keys by the network document's time.
#[derive(Debug)]
pub struct Ring {
    ratchet: Ratchet,
    epochs: Epochs,
    change_at: Option<Time>,
}

impl Ring {
    /// With what is known of the seeds, in a network with this document. Before anything else, [`Self::turn`] it.
    #[must_use]
    pub fn new(ratchet: Ratchet, document: &Document) -> Self {
        Self {
            ratchet,
            epochs: *document.epochs(),
            change_at: Some(Time::ZERO),
        }
    }

    /// The ratchet.
    #[must_use]
    pub fn ratchet(&self) -> &Ratchet {
        &self.ratchet
    }

    /// When to [`Self::turn`] it again; none once all is over.
    #[must_use]
    pub fn change_at(&self) -> Option<Time> {
        self.change_at
    }

    /// When the key of an epoch is over, its overlap included, and the node has another one; none where the document has no other.
    #[must_use]
    pub fn over_at(&self, epoch: u32) -> Option<Time> {
        (epoch < self.epochs.last()).then(|| self.epochs.end(epoch) + self.epochs.overlap())
    }

    /// From now on this is the network document. [`Self::turn`] it then.
    pub fn set_document(&mut self, document: &Document) {
        self.epochs = *document.epochs();
        self.change_at = Some(Time::ZERO);
    }

    /// A key could not be taken into use: [`Self::turn`] it again at this time.
    pub fn ask_again(&mut self, at: Time) {
        self.change_at = Some(self.change_at.map_or(at, |change_at| change_at.min(at)));
    }

    /// Which keys are to be used at `now`. Those of earlier epochs are forgotten, also after the document's end.
    ///
    /// # Errors
    /// [`TooEarly`]; nothing was changed.
    pub fn turn(&mut self, now: Time) -> Result<Turn, TooEarly> {
        let alive = self.epochs.alive(now);
        let oldest = match alive {
            Some((current, other)) => other.map_or(current, |other| current.min(other)),
            None => self.epochs.last().saturating_add(1),
        };
        let known = self.ratchet.epoch();
        // The epoch before the current one may be over for a ratchet that began with this one.
        let current = alive.map_or(oldest, |(current, _)| current);
        if current < known {
            return Err(TooEarly {
                by: self
                    .epochs
                    .begin(known)
                    .since(now)
                    .saturating_sub(self.epochs.grace()),
            });
        }
        let alive = alive.map(|(current, other)| (current, other.filter(|other| *other >= known)));
        self.change_at = self.epochs.next_change(now);
        self.ratchet.forward_to(oldest);
        Ok(Turn {
            alive,
            forgot: self.ratchet.epoch() > known,
        })
    }

    /// The keys of an epoch that [`Self::turn`] named.
    #[must_use]
    pub fn keys(&self, epoch: u32) -> Option<NodeKeys> {
        self.ratchet.keys(epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratchet(epoch: u32) -> Ratchet {
        Ratchet::new(epoch, Zeroizing::new([7; 32]))
    }

    #[test]
    fn what_is_forgotten_is_gone_and_what_follows_is_the_same() {
        let mut at = ratchet(3);
        let sphinx = |r: &Ratchet, epoch| r.keys(epoch).map(|keys| keys.sphinx.public());
        let before: Vec<_> = (3..9).map(|epoch| sphinx(&at, epoch)).collect();
        let many = at.keys_of(3, 6).unwrap();
        assert!(
            many.iter()
                .map(|keys| Some(keys.sphinx.public()))
                .eq(before.iter().copied())
        );
        at.forward_to(5);
        assert_eq!(
            (at.epoch(), sphinx(&at, 4), at.keys_of(4, 2).is_none()),
            (5, None, true)
        );
        assert_eq!(
            before[2..],
            (5..9).map(|epoch| sphinx(&at, epoch)).collect::<Vec<_>>()
        );
        at.forward_to(4);
        assert_eq!(at.epoch(), 5, "never back");
        assert!(!format!("{at:?}").contains('7'));
        let keys = at.keys(5).unwrap();
        let all = [keys.sphinx, keys.exit, keys.mail].map(|key| key.public());
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    }

    #[test]
    fn seeds_and_keys_are_what_the_labels_say() {
        let by_hand = |label: &str, seed: &[u8]| -> [u8; 32] {
            Sha256::digest([format!("mizzle epoch {label} 1\0").as_bytes(), seed].concat()).into()
        };
        let next = by_hand("seed", &[7; 32]);
        let mut at = ratchet(0);
        assert_eq!(at.keys(1).unwrap().exit.expose_bytes(), &by_hand("exit", &next));
        at.forward_to(1);
        assert_eq!(**at.expose_seed(), next);
    }
}
