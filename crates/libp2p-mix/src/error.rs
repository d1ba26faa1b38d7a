//! Why something was not sent or not answered.

use crate::{address::AddressError, message::CannotEncode};

/// Why a message was not sent. Nothing left, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Not enough nodes to choose a path from.
    #[error(
        "the pool is too small: {have} nodes to choose from, {need} needed; add nodes, or wait for discovery"
    )]
    PoolTooSmall {
        /// Nodes that could be chosen.
        have: usize,
        /// Nodes that are needed.
        need: usize,
    },
    /// There is no way to the destination, whatever the pool.
    #[error("no route: {0}")]
    NoRoute(#[from] NoRoute),
    /// The message can't be written.
    #[error(transparent)]
    Message(#[from] CannotEncode),
    /// As many SURBs are out as may be.
    #[error("too many requests wait for their replies")]
    TooManySurbs,
    /// The epoch's budget of packets is spent.
    #[error("the epoch's budget of packets is spent")]
    SlotsExhausted,
    /// This peer has as many packets in work as it may.
    #[error("too many packets wait to be sent")]
    Overloaded,
    /// The behaviour is gone.
    #[error("the mix behaviour is gone")]
    Closed,
}

/// Why there is no way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoRoute {
    /// The destination's address doesn't fit into a packet.
    #[error("the destination cannot be named in a packet: {0}")]
    Destination(AddressError),
    /// The mix node that should be the destination isn't in the pool.
    #[error("the destination is not a node of the pool")]
    NotInPool,
    /// The destination is this peer itself.
    #[error("the destination is this peer itself")]
    Ourselves,
    /// Replies could not find us: no address of ours fits into a packet.
    #[error(
        "no reply could find us: give an external address of the form /ip4/../tcp/.. or /ip4/../udp/../quic-v1, and a secp256k1 identity"
    )]
    NoReturnAddress,
    /// The first hop can't be reached.
    #[error("the first node of the path cannot be reached")]
    FirstHop,
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It was not sent.
    #[error(transparent)]
    NotSent(#[from] SendError),
    /// No reply came in time. Whether the request arrived is not known.
    #[error("no reply came in time")]
    TimedOut,
    /// The exit says that it got no answer: it could not reach the destination, doesn't speak the codec, or may not.
    #[error("the exit got no answer from the destination")]
    EmptyReply,
    /// A request without SURBs has no reply: use [`Control::send`](crate::Control::send).
    #[error("a request needs at least one SURB for its reply")]
    NoSurbs,
}

/// Why a peer does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// [`Behaviour::new`](crate::Behaviour::new) was called outside of a tokio runtime.
    #[error("a mix behaviour needs a tokio runtime")]
    NoRuntime,
    /// The operating system gives no thread or no randomness.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
    /// The replay memory can't be read.
    #[error("the replay memory cannot be read: {0}")]
    ReplayStore(std::io::Error),
    /// Proofs are longer than a link carries.
    #[error("spam proofs of {0} bytes are too long")]
    ProofTooLong(usize),
}
