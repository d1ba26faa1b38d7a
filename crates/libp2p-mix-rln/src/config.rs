//! [`Config`]: what a network agrees on, and what one node sets for itself.

use std::{num::NonZeroUsize, time::Duration};

use crate::MessageLimit;

/// The identifier of the Nim plug-in.
pub(crate) const IDENTIFIER: &str = "mix-rln-spam-protection/v1";

/// What a network agrees on (identifier, epoch, gap, window), and what one node sets for itself.
///
/// Worst-case memory: 200 bytes a nullifier, 40 MB by default; 4.6 KB a packet that waits, 1.8 MB by default; 64 bytes
/// a member in the tree and 40 in the list; 10 MB for the circuit, once a process.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) identifier: String,
    pub(crate) epoch_s: u64,
    pub(crate) max_epoch_gap: u64,
    pub(crate) root_window: usize,
    pub(crate) root_lifetime: Duration,
    pub(crate) limit: MessageLimit,
    pub(crate) max_nullifiers: usize,
    pub(crate) provers: usize,
    pub(crate) verifiers: usize,
    pub(crate) prove_queue: usize,
    pub(crate) verify_queue: usize,
    pub(crate) unused_identity: bool,
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            identifier: IDENTIFIER.to_owned(),
            epoch_s: 10,
            max_epoch_gap: 5,
            root_window: 5,
            root_lifetime: Duration::from_secs(60),
            limit: MessageLimit::default(),
            max_nullifiers: 200_000,
            provers: (cores / 2).clamp(1, 16),
            verifiers: (cores / 4).clamp(1, 4),
            prove_queue: 128,
            verify_queue: 256,
            unused_identity: false,
        }
    }
}

impl Config {
    /// The name of the network's use of RLN, at most 31 bytes: proofs of one are none in another. Default:
    /// `mix-rln-spam-protection/v1`.
    #[must_use]
    pub fn with_identifier(mut self, identifier: impl Into<String>) -> Self {
        self.identifier = identifier.into();
        self
    }

    /// Length of an epoch in whole seconds, at least one. Default: 10.
    #[must_use]
    pub fn with_epoch_s(mut self, epoch_s: u64) -> Self {
        self.epoch_s = epoch_s.max(1);
        self
    }

    /// How many epochs a proof's may be from ours, either way, at most 1000. Default: 5.
    #[must_use]
    pub fn with_max_epoch_gap(mut self, epochs: u64) -> Self {
        self.max_epoch_gap = epochs.min(1000);
        self
    }

    /// How many roots count, the newest included, 1 to 100. Default: 5.
    #[must_use]
    pub fn with_root_window(mut self, roots: usize) -> Self {
        self.root_window = roots.clamp(1, 100);
        self
    }

    /// How long a root counts after another took its place, from the next packet on. Default: a minute.
    ///
    /// The specification knows no such bound; without it a member who was removed sends on until enough others have come
    /// or gone.
    #[must_use]
    pub fn with_root_lifetime(mut self, lifetime: Duration) -> Self {
        self.root_lifetime = lifetime;
        self
    }

    /// Packets that we may send an epoch, as the list of members has it. Default: 100.
    #[must_use]
    pub fn with_limit(mut self, limit: MessageLimit) -> Self {
        self.limit = limit;
        self
    }

    /// How many packets are remembered in the epochs that count. When it is full, packets are refused. Default:
    /// 200,000, which is more than two cores can check in that time.
    #[must_use]
    pub fn with_max_nullifiers(mut self, packets: usize) -> Self {
        self.max_nullifiers = packets;
        self
    }

    /// Threads that prove and threads that check, at least one each. Default: a half and a quarter of the cores, 16 and 4 at most.
    #[must_use]
    pub fn with_threads(mut self, provers: usize, verifiers: usize) -> Self {
        (self.provers, self.verifiers) = (provers.max(1), verifiers.max(1));
        self
    }

    /// Packets that may wait to be proven, and to be checked, at least one each; those beyond are dropped and counted.
    /// A peer's may take an eighth of the second. Default: 128 and 256.
    #[must_use]
    pub fn with_queues(mut self, prove: usize, verify: usize) -> Self {
        (self.prove_queue, self.verify_queue) = (prove.max(1), verify.max(1));
        self
    }

    /// The identity has never proven a packet: it needs no rest.
    ///
    /// Otherwise nothing is proven in the epoch of the start. A process that ended in the same epoch may have used the
    /// same numbers, and two packets under one number give the secret away.
    #[must_use]
    pub fn with_unused_identity(mut self) -> Self {
        self.unused_identity = true;
        self
    }
}
