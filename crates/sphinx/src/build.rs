//! Building a forward packet: a header over the route, and a payload encrypted once for each hop.
//!
//! Section 8.5.2 of LIP-99, with the payload of LIP-183. Replies are `surb`'s.

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::header::{self, BuildError};
use crate::kdf::Secret;
use crate::keys::PublicKey;
use crate::layout::{ADDRESS_LEN, BLOCK_LEN, MESSAGE_LEN};
use crate::packet::{Packet, split_payload_mut};
use crate::payload::{self, Dialect};

/// One hop of a route.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// Whose layer it is.
    pub key: &'a PublicKey,
    /// Where the hop before sends the packet. Nobody reads that of a route's first hop.
    pub address: &'a [u8; ADDRESS_LEN],
    /// How long this hop itself holds the packet before it sends it on, in milliseconds. Zero at the last hop.
    pub delay_ms: u16,
}

/// Builds a packet that carries `message` along `route` to its last hop, which learns `destination`. All zero is a
/// destination too: the last hop itself.
///
/// # Errors
/// [`BuildError`] if the route does not have 3 to 5 hops or its last hop has a delay; `out` is then as it was.
pub fn build(
    dialect: Dialect,
    rng: &mut (impl CryptoRng + ?Sized),
    route: &[Hop<'_>],
    destination: &[u8; ADDRESS_LEN],
    message: &[u8; MESSAGE_LEN],
    out: &mut Packet,
) -> Result<(), BuildError> {
    header::check(route)?;
    *out.message_mut() = *message;
    build_in_place(dialect, rng, route, destination, out)
}

/// [`build`] for a message that is in [`Packet::message_mut`] already, so that it is copied nowhere.
///
/// # Errors
/// As [`build`].
pub fn build_in_place(
    dialect: Dialect,
    rng: &mut (impl CryptoRng + ?Sized),
    route: &[Hop<'_>],
    destination: &[u8; ADDRESS_LEN],
    packet: &mut Packet,
) -> Result<(), BuildError> {
    let mut ephemeral = Secret::default();
    rng.fill_bytes(&mut *ephemeral);
    seal(dialect, &ephemeral, route, destination, packet)
}

/// [`build`] with a given ephemeral secret, for test vectors. Two packets with one secret can be linked and read:
/// everything else builds with [`build`].
///
/// # Errors
/// As [`build`].
pub fn build_with_secret(
    dialect: Dialect,
    ephemeral: [u8; 32],
    route: &[Hop<'_>],
    destination: &[u8; ADDRESS_LEN],
    message: &[u8; MESSAGE_LEN],
    out: &mut Packet,
) -> Result<(), BuildError> {
    header::check(route)?;
    *out.message_mut() = *message;
    seal(dialect, &Zeroizing::new(ephemeral), route, destination, out)
}

fn seal(
    dialect: Dialect,
    ephemeral: &Secret,
    route: &[Hop<'_>],
    destination: &[u8; ADDRESS_LEN],
    packet: &mut Packet,
) -> Result<(), BuildError> {
    header::check(route)?;
    let secrets = header::agree(ephemeral, route);
    let mut last_block = [0; BLOCK_LEN];
    last_block[..ADDRESS_LEN].copy_from_slice(destination);
    let (header, payload) = packet.parts_mut();
    header::write(&secrets, route, &last_block, header);
    split_payload_mut(payload).0.fill(0);
    for s in secrets.shared().iter().rev() {
        payload::encrypt(dialect, &payload::seed(dialect, s), payload);
    }
    Ok(())
}
