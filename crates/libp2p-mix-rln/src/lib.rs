//! Rate-Limiting Nullifiers (LIP-144) as [spam protection](libp2p_mix::spam) of `libp2p-mix`: who sends a packet proves that
//! he is one of the members and has sent fewer than his limit this epoch, and doesn't show which of them he is.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (keypair, secret): (libp2p::identity::Keypair, libp2p_mix::SecretKey) = unimplemented!();
//! use std::time::Duration;
//! use libp2p_mix_rln::{Config, Identity, Members, Rln};
//!
//! let identity = Identity::load_or_create("rln-identity")?;
//! println!("others put this into their list: {}", identity.commitment());
//! let (rln, _spammers) = Rln::start(Config::default(), identity, &Members::read("members")?)?;
//! rln.watch_members("members", Duration::from_secs(5))?;
//! let config = libp2p_mix::Config::new(keypair, secret).with_spam_protection(rln.clone());
//! # Ok(())
//! # }
//! ```
//!
//! Behind each packet stand 301 bytes, and each hop makes them anew: it checks the last hop's proof, peels, and proves
//! what comes out with its own identity. So every node of a network is a member, and pays **0.1 to 0.2 s of CPU
//! for each packet it sends** and 1 to 3 ms for each it receives (`--example cost` measures it): five to ten packets a second and
//! core. Use it where a network demands it or at its edge, and not for high rates. Packets and proofs are those of the Nim plug-in
//! `mix-rln-spam-protection`: the same circuit and keys, hashes, epochs and layout.
//!
//! - **Members** are a list in an order that all must share, given by the application or read from a [file](Members) that is
//!   [looked at](Rln::watch_members) every few seconds. Roots of earlier lists count for a while.
//! - **Two packets under one number** of an epoch give their sender's secret to every node that sees both. The packet is
//!   dropped, and the application is told [who it was](Spammer); to remove him from the list, everywhere, is its business.
//!   Each node sees only what passes through it: what nodes tell each other of proofs (the coordination layer of LIP-144)
//!   is left out, as is registration.
//! - **Proofs** are made and checked on threads of their own, with bounded queues; a packet that finds its queue full is
//!   dropped and counted. Most of a proof depends on the member alone and is computed when the list changes.
//! - **Our own numbers** are never used twice: nothing is sent in the epoch of a start, nor when the clock was set back.
//!
//! Files: `protocol` (what is checked and proven), `work` (threads), `members` (list, file and tree), `nullifiers` (the memory of
//! packets), `ids` (our own numbers), `codec` (the bytes), `identity`, `limit`, `config`, `stats`, `field`.

mod codec;
mod config;
mod field;
mod identity;
mod ids;
mod limit;
mod members;
mod nullifiers;
mod protocol;
mod stats;
mod work;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use libp2p_mix::spam::{Answer, CannotProve, Proof, SpamProtection, Via};
use mizzle_base::Time;
use mizzle_sphinx::PACKET_LEN;
use thiserror::Error;

pub use config::Config;
pub use identity::{Commitment, Identity, NotAnElement};
pub use limit::{LimitOutOfRange, MessageLimit};
pub use members::{LineError, MAX_MEMBERS, Member, Members, MembersError};
pub use stats::Stats;

pub use crate::protocol::{Spammer, Spammers};

/// Locks; a panic elsewhere leaves the plain tables behind these locks usable.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why there is no protection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The identifier doesn't fit into an element of the field.
    #[error("the identifier {0:?} is longer than 31 bytes")]
    IdentifierTooLong(String),
    /// The operating system gives no thread.
    #[error("no thread to prove and check packets on: {0}")]
    Thread(#[from] std::io::Error),
}

/// The protection: give a clone to [`libp2p_mix::Config::with_spam_protection`] and keep one.
///
/// Its threads end when the last clone is gone.
#[derive(Clone)]
pub struct Rln(Arc<work::Inner>);

impl std::fmt::Debug for Rln {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rln")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Rln {
    /// Begins with this list of members; we need not be in it yet, but nothing can be sent until we are. Reads the
    /// circuit, some ten milliseconds, and hashes the list, some twenty microseconds a member.
    ///
    /// # Errors
    /// The identifier is too long, or there is no thread.
    pub fn start(
        config: Config,
        identity: Identity,
        members: &Members,
    ) -> Result<(Self, Spammers), StartError> {
        let (core, spammers) = protocol::Core::new(&config, identity)?;
        let rln = Self(Arc::new(work::Inner::start(Arc::new(core), &config)?));
        rln.set_members(members);
        Ok((rln, spammers))
    }

    /// Takes another list of members. Hashes what changed on this thread, twenty hashes a member at most; proofs
    /// against the roots before still count for a while.
    pub fn set_members(&self, members: &Members) {
        self.0.set_members(members);
    }

    /// Looks at a file every so often, at least each 100 milliseconds, and takes its [list](Members::parse) when its length or
    /// time has changed, from a thread of its own. A file that can't be used is counted, said in the log, and changes
    /// nothing. Write the new file elsewhere and rename it, so that no half of it is read. A later call takes
    /// the place of an earlier one.
    ///
    /// # Errors
    /// There is no thread.
    pub fn watch_members(&self, path: impl Into<PathBuf>, every: Duration) -> std::io::Result<()> {
        work::watch(&self.0, path.into(), every)
    }

    /// What became of packets so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.core.stats()
    }

    /// The root of the newest list, 32 bytes, little-endian: equal on all nodes that have the same list.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        self.0.core.root()
    }
}

impl SpamProtection for Rln {
    fn proof_len(&self) -> usize {
        codec::PROOF_LEN
    }

    fn verify(&self, now: Time, via: Via, packet: &[u8; PACKET_LEN], proof: &[u8]) -> Answer<bool> {
        let verdict = self
            .0
            .core
            .examine(now, proof)
            .and_then(|claim| self.0.check(&via.peer, claim, packet));
        match verdict {
            Some(verdict) => Answer::Later(verdict.map(|passes| passes.unwrap_or(false)).boxed()),
            None => Answer::Now(false),
        }
    }

    fn generate(&self, now: Time, packet: &[u8; PACKET_LEN]) -> Answer<Result<Proof, CannotProve>> {
        match self
            .0
            .core
            .order(now)
            .and_then(|order| self.0.prove(order, packet))
        {
            Ok(proof) => Answer::Later(
                proof
                    .map(|proof| {
                        proof.unwrap_or_else(|_| Err(CannotProve("the prover has ended".to_owned())))
                    })
                    .boxed(),
            ),
            Err(why) => Answer::Now(Err(why)),
        }
    }

    fn epoch(&self, now: Time) -> Option<u64> {
        Some(self.0.core.epoch(now))
    }

    fn is_valid(&self, now: Time, token: &[u8]) -> bool {
        self.0.core.is_valid(now, token)
    }

    fn reclaim(&self, token: Vec<u8>) {
        self.0.core.reclaim(&token);
    }
}
