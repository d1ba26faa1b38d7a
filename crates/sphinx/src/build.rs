//! Building forward packets, one or many at once: a header over the route, and a payload encrypted once for each hop.
//!
//! Section 8.5.2 of LIP-99, with the payload of LIP-183. Replies are `surb`'s.

use core::fmt;
use core::iter::zip;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::engine::{Engine, engine};
use crate::header::{self, Agreed, BuildError, Way};
use crate::kdf::Secrets;
use crate::keys::PublicKey;
use crate::layout::{ADDRESS_LEN, BLOCK_LEN, HEADER_LEN, MAX_HOPS, MESSAGE_LEN};
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

/// A packet that is to be built: its message is in [`Packet::message_mut`] already.
pub struct Outgoing<'a> {
    /// The way of the packet, 3 to 5 hops.
    pub route: &'a [Hop<'a>],
    /// What its last hop learns; all zero is a destination too: the last hop itself.
    pub destination: &'a [u8; ADDRESS_LEN],
    /// The message, and the packet afterwards.
    pub packet: &'a mut Packet,
}

impl fmt::Debug for Outgoing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outgoing(..)")
    }
}

/// How many packets [`build_batch`] and SURBs [`build_surbs`](crate::build_surbs) work on at once. From four on an
/// engine of eight lanes is used to the full.
pub const BUILD_BATCH: usize = 32;

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
    let mut packet = [Outgoing {
        route,
        destination,
        packet,
    }];
    header::check(route)?;
    seal_next::<1>(dialect, rng, &mut packet);
    Ok(())
}

/// [`build_in_place`] for many packets, with the same generator the same packets: several at a time cost much less
/// than one after the other, see [`BUILD_BATCH`].
///
/// # Errors
/// As [`build`], of the first packet that has one; all packets are then as they were.
pub fn build_batch(
    dialect: Dialect,
    rng: &mut (impl CryptoRng + ?Sized),
    packets: &mut [Outgoing<'_>],
) -> Result<(), BuildError> {
    packets
        .iter()
        .try_for_each(|packet| header::check(packet.route))?;
    for packets in packets.chunks_mut(BUILD_BATCH) {
        if packets.len() == 1 {
            seal_next::<1>(dialect, rng, packets);
        } else {
            seal_next::<BUILD_BATCH>(dialect, rng, packets);
        }
    }
    Ok(())
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
    let mut packet = [Outgoing {
        route,
        destination,
        packet: out,
    }];
    seal::<1>(dialect, &*Zeroizing::new([ephemeral]), &mut packet);
    Ok(())
}

/// Draws an ephemeral secret for each of up to `W` packets and seals them.
fn seal_next<const W: usize>(
    dialect: Dialect,
    rng: &mut (impl CryptoRng + ?Sized),
    packets: &mut [Outgoing<'_>],
) {
    let mut ephemerals = Secrets::<W>::new();
    let used = ..packets.len();
    ephemerals[used]
        .iter_mut()
        .for_each(|secret| rng.fill_bytes(secret));
    seal::<W>(dialect, &ephemerals[used], packets);
}

/// Seals up to `W` packets, whose routes have been checked.
fn seal<const W: usize>(dialect: Dialect, ephemerals: &[[u8; 32]], packets: &mut [Outgoing<'_>]) {
    let engine = engine();
    let mut routes = [[].as_slice(); W];
    let mut destinations = [&[0; ADDRESS_LEN]; W];
    let mut out = [(); W].map(|()| None);
    for (at, packet) in packets.iter_mut().enumerate() {
        (routes[at], destinations[at]) = (packet.route, packet.destination);
        out[at] = Some(&mut *packet.packet);
    }
    let agreed = header::agree::<W>(engine, dialect, ephemerals, &routes);
    close(engine, dialect, &agreed, &routes, &destinations, &mut out);
}

/// Writes the headers of up to `W` packets and encrypts their payloads, with keys that were agreed on.
pub(crate) fn close<const W: usize>(
    engine: &dyn Engine,
    dialect: Dialect,
    agreed: &Agreed<W>,
    routes: &[impl Way],
    destinations: &[&[u8; ADDRESS_LEN]; W],
    packets: &mut [Option<&mut Packet>; W],
) {
    let mut last_blocks = [[0; BLOCK_LEN]; W];
    for (block, destination) in zip(&mut last_blocks, destinations) {
        block[..ADDRESS_LEN].copy_from_slice(*destination);
    }
    let mut headers = [[0; HEADER_LEN]; W];
    header::write(engine, agreed, routes, &last_blocks, &mut headers);
    for (packet, new) in zip(packets.iter_mut().flatten(), &headers) {
        let (header, payload) = packet.parts_mut();
        *header = *new;
        split_payload_mut(payload).0.fill(0);
    }
    for hop in (0..MAX_HOPS).rev() {
        let all_seeds = agreed.seeds(hop);
        let mut seeds = Secrets::<W>::new();
        let mut payloads = [(); W].map(|()| <&mut [u8]>::default());
        let mut used = 0;
        for (at, packet) in packets.iter_mut().flatten().enumerate() {
            if agreed.has_hop(at, hop) {
                seeds[used] = all_seeds[at];
                payloads[used] = packet.payload_mut();
                used += 1;
            }
        }
        payload::encrypt::<W>(engine, dialect, &seeds[..used], &mut payloads[..used]);
    }
}
