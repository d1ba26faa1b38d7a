//! End to end: seal, fragments, retransmission, byte streams; both ends of a [`Session`] between a client and an exit.
//!
//! A session carries byte streams in packets that leave when slots and SURBs say so, not when there is data: whoever
//! owns the slots asks each session what it [wants](Session::wants) and lets one [fill](Session::fill) the packet;
//! what arrives is [received](Session::receive). No clock, no entropy but the given generator, no I/O; everything is
//! bounded. Which session gets a slot, which SURB goes where and what a stream is connected to is left to the cores
//! of client and exit. The design's End to end section.
//!
//! [`door`] is what a program's front-end sees of all this. [`letter`] is the other thing that is sealed end to end:
//! what one person sends to another, who may be away.

mod accept;
mod arq;
mod bytestream;
pub mod door;
mod frame;
pub mod letter;
mod ranges;
mod seal;
mod session;
mod tag;
mod window;

pub use accept::{Acceptor, Arrival, Initial};
pub use bytestream::INITIAL_WINDOW;
pub use door::{Credentials, Host, HostName, Isolation, OpenError, OpenRequest, Opener, Target, TargetError};
pub use seal::public_key;
pub use session::{
    CloseReason, DropReason, Event, MAX_BODY, Params, Received, ReplyDemand, SURB_LEN, Session, Stall, Stats,
    StreamId, Wants,
};
pub use tag::{BEHIND, FIRST_TRANSPORT, TAG_LEN, TagKey, TagTable, ahead};

/// First byte of a message to an exit's mailbox that holds a packet of a session; what follows is a sealed body.
pub const CODEC_STREAM: u8 = 1;
