//! What every part of mizzle names alike: [`Time`], ids, the [profile](profile) of a network, its [document].
//!
//! No I/O, no clock, no entropy: [`Time`] and [`Rng`] are handed to a core by whoever runs it. Packets are
//! `mizzle-sphinx`'s, traffic is `mizzle-traffic`'s; a thing belongs here only when at least two layers must
//! agree on it.
#![no_std]

extern crate alloc;

mod time;

pub use time::Time;

/// The random source that cores take as a constructor argument: a CSPRNG, seeded by the operating system in
/// `mizzle-net` and by a printed seed in tests and simulations.
pub type Rng = rand_chacha::ChaCha20Rng;
