//! The headers of up to `W` packets at once: the chain of shared secrets along a route, the filler, and `beta` from the
//! last hop back.
//!
//! Section 8.5.2 of LIP-99. `build` and `surb` differ in nothing here but the last hop's block.

use core::iter::zip;

use crate::build::Hop;
use crate::engine::Engine;
use crate::exponent::Exponent;
use crate::kdf::{HeaderKeys, Secrets, blindings, mac_keys, macs};
use crate::layout::{
    ADDRESS_LEN, ALPHA_LEN, BETA_LEN, BLOCK_LEN, DELAY_AT, GAMMA_AT, GAMMA_LEN, HEADER_LEN, MAX_HOPS,
    MIN_HOPS, STREAM_LEN,
};
use crate::packet::split_mut;
use crate::payload::{self, Dialect};
use crate::scratch::Scratch;

/// Why no packet or SURB was built; the caller's fault each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The route does not have three to five hops.
    #[error("a route has {MIN_HOPS} to {MAX_HOPS} hops, not {0}")]
    Hops(usize),
    /// The last hop has a delay (in milliseconds), though it passes nothing on.
    #[error("the delay of the last hop is zero, not {0} ms")]
    LastDelay(u16),
    /// The id of a SURB is all zero, which would make an exit of its last hop.
    #[error("the id of a SURB is not zero")]
    ZeroId,
}

/// Refuses routes that a header cannot hold.
pub(crate) fn check(route: &[Hop<'_>]) -> Result<(), BuildError> {
    if !(MIN_HOPS..=MAX_HOPS).contains(&route.len()) {
        return Err(BuildError::Hops(route.len()));
    }
    match route.last() {
        Some(last) if last.delay_ms != 0 => Err(BuildError::LastDelay(last.delay_ms)),
        _ => Ok(()),
    }
}

/// Where a packet goes, after its keys were agreed on.
pub(crate) trait Way {
    /// The number of hops.
    fn hops(&self) -> usize;
    /// Where the hop before finds this one.
    fn address(&self, hop: usize) -> &[u8; ADDRESS_LEN];
    /// How long this hop holds the packet.
    fn delay_ms(&self, hop: usize) -> u16;
}

impl Way for &[Hop<'_>] {
    fn hops(&self) -> usize {
        self.len()
    }

    fn address(&self, hop: usize) -> &[u8; ADDRESS_LEN] {
        self[hop].address
    }

    fn delay_ms(&self, hop: usize) -> u16 {
        self[hop].delay_ms
    }
}

/// The keys of one hop's layer, of up to `W` packets.
struct LayerKeys<const W: usize> {
    header: HeaderKeys<W>,
    mac: Secrets<W>,
    seed: Secrets<W>,
}

/// What the senders of up to `W` packets agreed on with the hops of their routes.
pub(crate) struct Agreed<const W: usize> {
    count: usize,
    /// The hops of each packet's route.
    hops: [usize; W],
    alphas: [[u8; ALPHA_LEN]; W],
    /// By hop; of no use where a route is shorter.
    keys: [LayerKeys<W>; MAX_HOPS],
}

impl<const W: usize> Agreed<W> {
    /// The seeds of a hop's payload layer; of no use where a route is shorter.
    pub(crate) fn seeds(&self, hop: usize) -> &[[u8; 32]] {
        &self.keys[hop].seed[..self.count]
    }

    /// Whether a packet's route has a hop.
    pub(crate) fn has_hop(&self, packet: usize, hop: usize) -> bool {
        hop < self.hops[packet]
    }

    /// What was agreed on for one of the packets alone.
    pub(crate) fn of(&self, packet: usize) -> Agreed<1> {
        Agreed {
            count: 1,
            hops: [self.hops[packet]],
            alphas: [self.alphas[packet]],
            keys: self.keys.each_ref().map(|keys| LayerKeys {
                header: keys.header.of(packet),
                mac: Scratch::from([keys.mac[packet]]),
                seed: Scratch::from([keys.seed[packet]]),
            }),
        }
    }
}

/// Agrees on a secret with each hop: for a hop `i`, `alpha_i` and `s_i` are the base point and the hop's key under the
/// exponent `x b_0 .. b_{i-1}`, and `b_i` comes from the two. So a route is a chain, but all packets climb theirs at
/// once, and the two products of a hop are independent. The shared secrets are gone afterwards; the keys stay.
pub(crate) fn agree<const W: usize>(
    engine: &dyn Engine,
    dialect: Dialect,
    ephemerals: &[[u8; 32]],
    routes: &[&[Hop<'_>]],
) -> Agreed<W> {
    let count = ephemerals.len().min(routes.len()).min(W);
    let (mut hops, mut first_alphas) = ([0; W], [[0; ALPHA_LEN]; W]);
    // By hop, then by packet; zeros where a route is shorter.
    let mut secrets = Scratch::<[[[u8; 32]; W]; MAX_HOPS]>::new();
    let mut exponents = [(); W].map(|()| None);
    for (at, (ephemeral, route)) in zip(ephemerals, routes).enumerate().take(W) {
        exponents[at] = Some(Exponent::new(ephemeral));
        hops[at] = route.len().min(MAX_HOPS);
    }
    for hop in 0..MAX_HOPS {
        let mut lanes = [0; W];
        let mut used = 0;
        let mut scalars = Secrets::<W>::new();
        let mut keys = [[0; 32]; W];
        for (at, (exponent, route)) in zip(&exponents, routes).enumerate() {
            if let (Some(exponent), Some(hop)) = (exponent, route.get(hop)) {
                lanes[used] = at;
                scalars[used] = *exponent.to_clamped();
                keys[used] = *hop.key.as_bytes();
                used += 1;
            }
        }
        if used == 0 {
            break;
        }
        let mut alphas = [[0; ALPHA_LEN]; W];
        let mut shared = Secrets::<W>::new();
        engine.x25519_base_batch(&scalars[..used], &mut alphas[..used]);
        engine.x25519_batch(&scalars[..used], &keys[..used], &mut shared[..used]);
        let factors = blindings::<W>(engine, |lane| &alphas[lane], &shared[..used]);
        for (lane, at) in lanes[..used].iter().enumerate() {
            secrets[hop][*at] = shared[lane];
            if hop == 0 {
                first_alphas[*at] = alphas[lane];
            }
            if let Some(exponent) = &mut exponents[*at] {
                exponent.blind(&factors[lane]);
            }
        }
    }
    let keys = core::array::from_fn(|hop| {
        let secrets = &secrets[hop][..count];
        LayerKeys {
            header: HeaderKeys::derive(engine, secrets),
            mac: mac_keys(engine, secrets),
            seed: payload::seeds(engine, dialect, secrets),
        }
    });
    Agreed {
        count,
        hops,
        alphas: first_alphas,
        keys,
    }
}

/// The headers: `alpha`, `beta` and `gamma`. `last_blocks` are what the last hops find in front of the zeros.
pub(crate) fn write<const W: usize>(
    engine: &dyn Engine,
    agreed: &Agreed<W>,
    routes: &[impl Way],
    last_blocks: &[[u8; BLOCK_LEN]],
    headers: &mut [[u8; HEADER_LEN]],
) {
    let mut betas = [[0; BETA_LEN]; W];
    let mut gammas = [[0; GAMMA_LEN]; W];
    for hop in (0..MAX_HOPS).rev() {
        let before = gammas;
        let keys = &agreed.keys[hop];
        for (at, (beta, route)) in zip(&mut betas, routes).enumerate().take(agreed.count) {
            if hop + 1 == route.hops() {
                let filler_at = BETA_LEN - hop * BLOCK_LEN;
                beta[..BLOCK_LEN].copy_from_slice(&last_blocks[at]);
                beta[BLOCK_LEN..].fill(0);
                keys.header.apply(engine, at, 0, &mut beta[..filler_at]);
                write_filler(engine, &agreed.keys[..hop], at, &mut beta[filler_at..]);
            } else if hop + 1 < route.hops() {
                beta.copy_within(..BETA_LEN - BLOCK_LEN, BLOCK_LEN);
                beta[..ADDRESS_LEN].copy_from_slice(route.address(hop + 1));
                beta[DELAY_AT..GAMMA_AT].copy_from_slice(&route.delay_ms(hop).to_be_bytes());
                beta[GAMMA_AT..BLOCK_LEN].copy_from_slice(&before[at]);
                keys.header.apply(engine, at, 0, beta);
            }
        }
        gammas = macs(engine, &keys.mac[..agreed.count], &betas.each_ref());
    }
    for (at, header) in headers.iter_mut().enumerate().take(agreed.count) {
        let (alpha, rest) = split_mut::<ALPHA_LEN, { HEADER_LEN - ALPHA_LEN }, HEADER_LEN>(header);
        let (beta, gamma) = split_mut::<BETA_LEN, GAMMA_LEN, { HEADER_LEN - ALPHA_LEN }>(rest);
        (*alpha, *beta, *gamma) = (agreed.alphas[at], betas[at], gammas[at]);
    }
}

/// What the hops before the last will have appended by then: each appends a block of zeros and encrypts, as part of
/// all it holds, everything appended so far with the end of its key stream. (LIP-99 gives the beginning of that end as
/// an offset: 576, 464, .. for the hops 1, 2, ..)
fn write_filler<const W: usize>(
    engine: &dyn Engine,
    keys: &[LayerKeys<W>],
    packet: usize,
    filler: &mut [u8],
) {
    for (at, keys) in keys.iter().enumerate() {
        let len = (at + 1) * BLOCK_LEN;
        keys.header
            .apply(engine, packet, STREAM_LEN - len, &mut filler[..len]);
    }
}
