//! What every part of mizzle names alike: [`Time`], [ids](id), the [profile] of a network, its
//! [document], the [frames](frame) of the gateway link, the [addresses](address) of people, the [items](item) of the
//! letters between them and how they are [brought](upload).
//!
//! No I/O, no clock, no entropy: [`Time`] and [`Rng`] are handed to a core by whoever runs it. Packets are
//! `mizzle-sphinx`'s, traffic is `mizzle-traffic`'s; a thing belongs here only when at least two crates that may
//! not see each other must agree on it.
#![no_std]

extern crate alloc;

pub mod address;
pub mod count;
pub mod document;
pub mod frame;
pub mod hex;
pub mod id;
pub mod item;
pub mod profile;
mod time;
pub mod upload;

pub use address::Address;
pub use count::Counters;
pub use document::Document;
pub use id::{ClientTag, LetterId, MailboxId, NetworkId, NodeId};
pub use item::Item;
pub use profile::Profile;
pub use time::Time;

/// The random source that cores take as a constructor argument: a CSPRNG, seeded by the operating system in
/// `mizzle-net` and by a printed seed in tests and simulations.
pub type Rng = rand_chacha::ChaCha20Rng;
