//! Frames over long-lived one-way streams: the one mechanism under the mix, gateway and directory protocols.
//!
//! A link is a protocol name, a [header](Config::with_header) and a [frame length](FrameLen). Who has something to
//! send opens one stream to the peer, writes the header once and then length-prefixed frames until the stream
//! ends; it never reads. Who accepts a stream reads until its end and never writes: no answer, no acknowledgement,
//! and for a malformed peer nothing but a closed stream and a counter. Two-way traffic is two streams.
//!
//! ```text
//! stream = [ varint(header length) header ]  *( varint(frame length) frame )      no header: nothing is written
//! ```
//!
//! [`Behaviour`] goes into a swarm (several of them, with different protocols, may share one). The data path does
//! not pass the swarm: [`Control::try_send`] puts a frame into the peer's own bounded queue, from which the task of
//! the connection writes; frames that arrive wait in one bounded queue for the [`Receiver`], and when that is full
//! the streams are not read, so that the peers feel it. Nothing that arrived is dropped; each frame that was
//! accepted for sending and then given up is counted under a reason in [`Stats`].
//!
//! Left to others: what a frame means, whom to talk to, when to send, whether a frame arrived (a frame *sent* was
//! taken by the transport: it may still be lost with its connection, and one whose stream broke half way is written
//! again), and the limits on connections.
//!
//! Files: `config` (what a link is, its bounds), `control`, `queue` and `inbox` (the data path), `behaviour` (which
//! peers, which connection), `handler` and `outbound` (the streams of one connection), `codec` (bytes on a stream).

mod behaviour;
mod codec;
mod config;
mod control;
mod handler;
mod inbox;
mod outbound;
mod queue;

pub use behaviour::Behaviour;
pub use config::{Config, FrameLen, HeaderTooLong};
pub use control::{Control, SendError, Stats};
pub use handler::Handler;
pub use inbox::{Event, Receiver};

/// One connection with a peer, as its link names it; never given twice. Two programs with one identity differ in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(u64);

impl Conn {
    /// For those who keep it as a number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// The connection with this [number](Self::number).
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// The bytes of one frame, without its length prefix.
///
/// A frame of fixed length converts to `Box<[u8; N]>` without a copy.
pub type Frame = Box<[u8]>;
