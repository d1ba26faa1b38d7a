//! [`Stats`]: what became of packets.

/// What became of packets, and of the list of members, since the start. What of these a node dropped counts in
/// `libp2p-mix`'s own `drop.spam` and `drop.no_proof` as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Packets proven.
    pub proven: u64,
    /// Of these, with a partial proof that was there before.
    pub finished: u64,
    /// Partial proofs computed.
    pub partial: u64,
    /// Not proven: we are not in the list of members.
    pub not_member: u64,
    /// Not proven: the epoch's packets are all sent.
    pub limit: u64,
    /// Not proven: in the epoch of the start, or the clock was set back.
    pub resting: u64,
    /// Not proven: too many wait.
    pub prove_full: u64,
    /// Not proven: the prover failed.
    pub prove_failed: u64,
    /// Numbers taken back, as their packets were not sent.
    pub reclaimed: u64,
    /// Packets accepted.
    pub accepted: u64,
    /// Dropped: something else where the proof should be.
    pub malformed: u64,
    /// Dropped: of an epoch that is too far from ours.
    pub wrong_epoch: u64,
    /// Dropped: proven against a root that isn't or no longer ours.
    pub wrong_root: u64,
    /// Dropped: the proof of another packet.
    pub wrong_packet: u64,
    /// Dropped: the proof proves nothing.
    pub invalid: u64,
    /// Dropped: the same packet again.
    pub duplicates: u64,
    /// Dropped: another packet under a number that its sender had used.
    pub spam: u64,
    /// Dropped: too many wait to be checked.
    pub verify_full: u64,
    /// Dropped: no room to remember it.
    pub nullifiers_full: u64,
    /// Spammers that nobody was told of, as the application takes none or too slowly.
    pub spammers_untold: u64,
    /// Changes of the root.
    pub roots: u64,
    /// Files of members that could not be used; the list before stays.
    pub members_unreadable: u64,
}
