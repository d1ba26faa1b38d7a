//! Mix packets over libp2p connections: `/mix/1.0.0` for any rust-libp2p application, understood by the other
//! implementations of it.
//!
//! See [`Behaviour`], [`Control`] and [`Config`].
//!
//! [`link`] carries frames between peers over long-lived one-way streams; every stream protocol of mizzle is one
//! [`link::Behaviour`] with its own name, header and frame length.

pub mod address;
mod behaviour;
mod bytestream;
mod config;
mod control;
mod cover;
mod delay;
pub mod discovery;
mod entry;
mod error;
mod event;
mod exit;
pub mod gossip;
pub mod link;
pub mod message;
mod node;
pub mod pool;
mod replay;
mod shared;
pub mod spam;
mod streams;
mod surbs;

pub use address::Endpoint;
pub use behaviour::Behaviour;
pub use bytestream::RequestStream;
pub use config::{Config, PROTOCOL, Policy};
pub use control::{Control, RequestOptions, Stats};
pub use cover::Cover;
pub use delay::Delays;
pub use entry::Destination;
pub use error::{NoRoute, RequestError, SendError, StartError};
pub use event::Event;
pub use exit::{AnswerTooLong, Exchange, ExchangeStream, Incoming, Read};
pub use mizzle_sphinx::{Dialect, PublicKey, SecretKey};
pub use pool::{MixNode, Pool};
pub use replay::{FileReplayStore, ReplayStore};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nodes on a path. Other implementations read no other number at an exit and at the end of a reply's way.
pub const HOPS: usize = 3;

/// Locks; a panic elsewhere leaves the plain tables behind these locks usable.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
