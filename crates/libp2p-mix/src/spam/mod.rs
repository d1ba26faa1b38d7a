//! Spam protection: what a packet must show before a hop works on it.
//!
//! A proof stands behind the 4608 bytes of a packet, of one length for the whole network, made anew by whoever sends on
//! a hop and checked by the next one before any curve operation. Here are the [trait](SpamProtection), a
//! [token bucket](TokenBucket) for each connection, which needs no proof, and [proof of work](ProofOfWork) bound to the packet.

mod bucket;
mod work;

use std::fmt;

use futures::future::BoxFuture;
use libp2p::PeerId;
use mizzle_base::Time;
use mizzle_sphinx::PACKET_LEN;

use crate::link::Conn;

pub use bucket::TokenBucket;
pub use work::ProofOfWork;

/// The longest proof that fits into what a link carries, in bytes.
pub const MAX_PROOF_LEN: usize = 4096;

/// Something known now or after a computation elsewhere.
pub enum Answer<T> {
    /// Known now.
    Now(T),
    /// Known later. Polled on the runtime; what computes for long belongs on a thread of its own
    /// (`tokio::task::spawn_blocking`).
    Later(BoxFuture<'static, T>),
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Now(_) => "Now(..)",
            Self::Later(_) => "Later(..)",
        })
    }
}

/// A proof and what it was paid with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// [`proof_len`](SpamProtection::proof_len) bytes.
    pub bytes: Vec<u8>,
    /// What [`reclaim`](SpamProtection::reclaim) takes back if the packet is never sent; empty where there is nothing to
    /// take back.
    pub token: Vec<u8>,
}

/// No proof can be made: the sender's budget is spent, or he isn't a member. The packet is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no spam proof: {0}")]
pub struct CannotProve(pub String);

/// By what a packet came: a peer, and one of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    /// Who sent it to us.
    pub peer: PeerId,
    /// Over which connection.
    pub conn: Conn,
}

/// A way to keep spam out. Both methods that do something may be called from several threads at once.
pub trait SpamProtection: Send + Sync + 'static {
    /// Bytes of a proof, the same for all packets of the network, at most [`MAX_PROOF_LEN`].
    fn proof_len(&self) -> usize;

    /// Whether the packet that came `via` a connection may be worked on. Called before anything else is done with it.
    fn verify(&self, now: Time, via: Via, packet: &[u8; PACKET_LEN], proof: &[u8]) -> Answer<bool>;

    /// Proves a packet that is about to be sent: our own, a cover packet, a reply, or one that we forward.
    fn generate(&self, now: Time, packet: &[u8; PACKET_LEN]) -> Answer<Result<Proof, CannotProve>>;

    /// The number of the epoch at `now`; `None` where there are no epochs. When it changes, budgets of slots begin
    /// anew, and packets with proofs of the old epoch that have not left are proven again.
    fn epoch(&self, _now: Time) -> Option<u64> {
        None
    }

    /// Whether a proof made earlier, known by its token, would still be accepted.
    fn is_valid(&self, _now: Time, _token: &[u8]) -> bool {
        true
    }

    /// Takes back what a proof was paid with: its packet is thrown away unsent.
    fn reclaim(&self, _token: Vec<u8>) {}
}
