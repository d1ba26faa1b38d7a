//! Agreeing on the keys of packets and SURBs before it is known what they will carry.
//!
//! All multiplications of points depend on the route alone. So a sender may do them ahead of its time and many at once,
//! which is where the time goes, and still decide at the last moment what leaves, and for whom. `build` and `surb` close
//! what was begun here.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::build::{self, BUILD_BATCH, Hop};
use crate::engine::engine;
use crate::header::{self, Agreed, BuildError, Way};
use crate::kdf::Secrets;
use crate::layout::{ADDRESS_LEN, ID_LEN, MAX_HOPS, REPLY_KEY_LEN};
use crate::packet::Packet;
use crate::payload::Dialect;
use crate::surb::{self, Surb, SurbKeys};

/// All of a packet or a SURB that depends on its route alone: where it goes, its delays, its keys.
///
/// It becomes one packet or one SURB, for two with the same keys could be linked and read. Some 1,200 bytes on the heap, of
/// which what is secret is overwritten with zeros when dropped.
pub struct Prepared(Box<Kept>);

struct Kept {
    dialect: Dialect,
    agreed: Agreed<1>,
    hops: usize,
    addresses: [[u8; ADDRESS_LEN]; MAX_HOPS],
    delays_ms: [u16; MAX_HOPS],
}

/// More than the stack that a batch takes, in bytes.
const STACK_LEN: usize = 64 << 10;

/// Agrees on keys for many routes, appended to `out` in their order. Eight or more at a time cost much less than one after
/// the other.
///
/// # Errors
/// [`BuildError`], of the first route that has one; `out` is then as it was.
pub fn prepare(
    dialect: Dialect,
    rng: &mut (impl CryptoRng + ?Sized),
    routes: &[&[Hop<'_>]],
    out: &mut Vec<Prepared>,
) -> Result<(), BuildError> {
    routes.iter().try_for_each(|route| header::check(route))?;
    out.reserve(routes.len());
    for routes in routes.chunks(BUILD_BATCH) {
        if routes.len() == 1 {
            begin::<1>(dialect, rng, routes, out);
        } else {
            begin::<BUILD_BATCH>(dialect, rng, routes, out);
        }
        // Keys were moved about there, and a move leaves its origin as it was.
        zeroize::zeroize_stack::<STACK_LEN>();
    }
    Ok(())
}

/// The routes have been checked; there are at most `W`. In a stack frame of its own, which the caller overwrites.
#[inline(never)]
fn begin<const W: usize>(
    dialect: Dialect,
    rng: &mut (impl CryptoRng + ?Sized),
    routes: &[&[Hop<'_>]],
    out: &mut Vec<Prepared>,
) {
    let mut ephemerals = Secrets::<W>::new();
    let used = ..routes.len();
    ephemerals[used]
        .iter_mut()
        .for_each(|secret| rng.fill_bytes(secret));
    let agreed = header::agree::<W>(engine(), dialect, &ephemerals[used], routes);
    for (at, route) in routes.iter().enumerate() {
        let mut kept = Box::new(Kept {
            dialect,
            agreed: agreed.of(at),
            hops: route.len(),
            addresses: [[0; ADDRESS_LEN]; MAX_HOPS],
            delays_ms: [0; MAX_HOPS],
        });
        for (at, hop) in route.iter().enumerate() {
            kept.addresses[at] = *hop.address;
            kept.delays_ms[at] = hop.delay_ms;
        }
        out.push(Prepared(kept));
    }
}

impl Prepared {
    /// Sum of the delays on the route, in milliseconds.
    #[must_use]
    pub fn delay_ms(&self) -> u32 {
        self.0.delays_ms.iter().copied().map(u32::from).sum()
    }

    /// Makes the packet, whose message is in [`Packet::message_mut`] already; its last hop learns `destination`. It is as
    /// [`build_in_place`](crate::build_in_place) makes it.
    pub fn seal(self, destination: &[u8; ADDRESS_LEN], packet: &mut Packet) {
        let Kept { dialect, agreed, .. } = &*self.0;
        build::close(
            engine(),
            *dialect,
            agreed,
            &[&*self.0],
            &[destination],
            &mut [Some(packet)],
        );
    }

    /// Makes the SURB of which the last hop, its maker, will see `id` when the reply arrives. It is as
    /// [`build_surb`](crate::build_surb) makes it.
    ///
    /// # Errors
    /// [`BuildError::ZeroId`].
    pub fn into_surb(
        self,
        rng: &mut (impl CryptoRng + ?Sized),
        id: &[u8; ID_LEN],
    ) -> Result<(Surb, SurbKeys), BuildError> {
        let mut reply_key = Zeroizing::new([0; REPLY_KEY_LEN]);
        rng.fill_bytes(&mut *reply_key);
        surb::close(&self.0.agreed, &*self.0, id, &reply_key)
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared(..)")
    }
}

impl Way for &Kept {
    fn hops(&self) -> usize {
        self.hops
    }

    fn address(&self, hop: usize) -> &[u8; ADDRESS_LEN] {
        &self.addresses[hop]
    }

    fn delay_ms(&self, hop: usize) -> u16 {
        self.delays_ms[hop]
    }
}
