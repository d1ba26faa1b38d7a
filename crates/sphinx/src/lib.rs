//! The Sphinx packet of LIP-99 and LIP-183: build, peel, reply with a SURB, recover the reply.
//!
//! One packet is 4608 bytes whatever it carries: `alpha` (32), `beta` (576), `gamma` (16), `delta` (3984), for up
//! to [`MAX_HOPS`] hops. The bytes are those of the Nim implementation of `/mix/1.0.0`, whose vectors are in
//! `tests/vectors`; where its specification and its code differ, the code decides. [`Dialect`] chooses between the
//! two payload ciphers in use.
//!
//! What the crate leaves to others: what an address block means, how a route and its delays are chosen, remembering
//! replay tags, and what stands inside a message. It reads no clock and no entropy: random numbers come from the
//! caller's generator.
//!
//! ```
//! # use mizzle_sphinx::{build, pad, unpad, Dialect, Hop, Packet, Peeled, Peeler, SecretKey, ADDRESS_LEN, MESSAGE_LEN};
//! # use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
//! # let mut rng = ChaCha20Rng::from_seed([7; 32]); // a test's generator: a node takes one from its system
//! let secrets = [(); 3].map(|()| SecretKey::generate(&mut rng));
//! let keys = [0, 1, 2].map(|hop: usize| secrets[hop].public());
//! let address = [1; ADDRESS_LEN];
//! let route = [100, 250, 0].into_iter().zip(&keys).map(|(delay_ms, key)| Hop { key, address: &address, delay_ms });
//!
//! let mut message = [0; MESSAGE_LEN];
//! pad(Dialect::Lioness, b"hello", &mut message)?;
//! let mut packet = Packet::zeroed();
//! build(Dialect::Lioness, &mut rng, &route.collect::<Vec<_>>(), &[0; ADDRESS_LEN], &message, &mut packet)?;
//!
//! for secret in secrets {
//!     let peeled = Peeler::new(secret, Dialect::Lioness).peel(&mut packet, &mut |_tag| false)?;
//!     if let Peeled::Exit { .. } = peeled {
//!         assert_eq!(unpad(Dialect::Lioness, packet.message())?, b"hello");
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Many at once
//!
//! [`Peeler::peel_batch`], [`build_batch`] and [`build_surbs`] give what their single forms give, one after the
//! other, at a fraction of the cost where the CPU has wide vectors: see [`Engine`]. A sender that doesn't know yet what its
//! packets will carry does the costly part ahead of them, many at once, with [`prepare`]. `cargo bench -p mizzle-sphinx`
//! measures all of it.
//!
//! # Names
//!
//! The letters are the paper's ("Sphinx: A Compact and Provably Secure Mix Format", Danezis and Goldberg, 2009) and
//! LIP-99's. `alpha` is the group element of a hop, `beta` its encrypted routing information, `gamma` the MAC of
//! `beta`, `delta` the encrypted payload; `s` is the secret that the sender shares with the hop, `b` the factor that
//! blinds `alpha` for the next hop.
#![no_std]

extern crate alloc;
#[cfg(any(
    test,
    all(feature = "graviola", any(target_arch = "x86_64", target_arch = "aarch64"))
))]
extern crate std;

mod build;
mod engine;
mod exponent;
mod hash;
mod header;
mod kdf;
mod keys;
mod layout;
mod lioness;
mod packet;
mod padding;
mod payload;
mod peel;
mod prepare;
mod scratch;
mod surb;

pub use build::{BUILD_BATCH, Hop, Outgoing, build, build_batch, build_in_place, build_with_secret};
pub use engine::{Between, Engine, UnknownEngine, engine, engines, use_engine};
pub use header::BuildError;
pub use keys::{InvalidKey, PublicKey, SecretKey};
pub use layout::{
    ADDRESS_LEN, ALPHA_LEN, BETA_LEN, GAMMA_LEN, HEADER_LEN, ID_LEN, MAX_BODY_LEN, MAX_BODY_LEN_LEGACY,
    MAX_HOPS, MESSAGE_LEN, MIN_HOPS, PACKET_LEN, PAYLOAD_LEN, REPLY_KEY_LEN, SURB_LEN, SURB_WITH_ADDRESS_LEN,
    TAG_LEN,
};
pub use packet::{Packet, WrongLength};
pub use padding::{BadPadding, TooLong, max_body_len, pad, pad_in_place, pad_legacy, unpad};
pub use payload::Dialect;
pub use peel::{BATCH, Peeled, Peeler, Rejected, Seen};
pub use prepare::{Prepared, prepare};
pub use surb::{
    RecoverError, Surb, SurbKeys, SurbRequest, build_surb, build_surb_with_secret, build_surbs, recover,
    use_surb, use_surb_in_place,
};
