//! The header of a packet: the chain of shared secrets along a route, the filler, and `beta` from the last hop back.
//!
//! Section 8.5.2 of LIP-99. `build` and `surb` differ in nothing here but the last hop's block.

use zeroize::Zeroizing;

use crate::build::Hop;
use crate::engine::{BASE_POINT, engine};
use crate::exponent::Exponent;
use crate::kdf::{Secret, blinding, header_stream, mac};
use crate::layout::{
    ADDRESS_LEN, ALPHA_LEN, BETA_LEN, BLOCK_LEN, DELAY_AT, GAMMA_AT, GAMMA_LEN, HEADER_LEN, MAX_HOPS,
    MIN_HOPS, STREAM_LEN,
};
use crate::packet::split_mut;

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

/// What the sender shares with each hop of a route.
pub(crate) struct Secrets {
    alpha: [u8; ALPHA_LEN],
    shared: [Secret; MAX_HOPS],
    hops: usize,
}

impl Secrets {
    /// One for each hop, the first hop's first.
    pub(crate) fn shared(&self) -> &[Secret] {
        &self.shared[..self.hops]
    }
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

/// Agrees on a secret with each hop: for a hop `i`, `alpha_i` and `s_i` are the base point and the hop's key under the
/// exponent `x b_0 .. b_{i-1}`, and `b_i` comes from the two.
pub(crate) fn agree(ephemeral: &Secret, route: &[Hop<'_>]) -> Secrets {
    let engine = engine();
    let mut exponent = Exponent::new(ephemeral);
    let mut secrets = Secrets {
        alpha: [0; ALPHA_LEN],
        shared: Default::default(),
        hops: route.len().min(MAX_HOPS),
    };
    for (at, (hop, shared)) in route.iter().zip(&mut secrets.shared).enumerate() {
        let clamped = exponent.to_clamped();
        let scalars = Zeroizing::new([*clamped, *clamped]);
        let mut out = Zeroizing::new([[0; 32]; 2]);
        engine.x25519_batch(&*scalars, &[BASE_POINT, *hop.key.as_bytes()], &mut *out);
        let [alpha, s] = &*out;
        shared.copy_from_slice(s);
        exponent.blind(&blinding(alpha, s));
        if at == 0 {
            secrets.alpha = *alpha;
        }
    }
    secrets
}

/// Writes `alpha`, `beta` and `gamma`; `last_block` is what the last hop finds in front of the zeros.
pub(crate) fn write(
    secrets: &Secrets,
    route: &[Hop<'_>],
    last_block: &[u8; BLOCK_LEN],
    header: &mut [u8; HEADER_LEN],
) {
    let mut streams = Zeroizing::new([[0; STREAM_LEN]; MAX_HOPS]);
    for (stream, s) in streams.iter_mut().zip(secrets.shared()) {
        stream.copy_from_slice(&*header_stream(s));
    }
    let (alpha, rest) = split_mut::<ALPHA_LEN, { HEADER_LEN - ALPHA_LEN }, HEADER_LEN>(header);
    let (beta, gamma) = split_mut::<BETA_LEN, GAMMA_LEN, { HEADER_LEN - ALPHA_LEN }>(rest);
    *alpha = secrets.alpha;

    let Some((last, before)) = secrets.shared().split_last() else {
        return;
    };
    let filler_at = BETA_LEN - before.len() * BLOCK_LEN;
    beta[..BLOCK_LEN].copy_from_slice(last_block);
    beta[BLOCK_LEN..filler_at].fill(0);
    xor(&mut beta[..filler_at], &streams[before.len()]);
    write_filler(&streams[..before.len()], &mut beta[filler_at..]);
    *gamma = mac(last, beta);

    for (at, s) in before.iter().enumerate().rev() {
        beta.copy_within(..BETA_LEN - BLOCK_LEN, BLOCK_LEN);
        beta[..ADDRESS_LEN].copy_from_slice(route[at + 1].address);
        beta[DELAY_AT..GAMMA_AT].copy_from_slice(&route[at].delay_ms.to_be_bytes());
        beta[GAMMA_AT..BLOCK_LEN].copy_from_slice(gamma);
        xor(beta, &streams[at]);
        *gamma = mac(s, beta);
    }
}

/// What the hops before the last will have appended by then: each appends a block of zeros and encrypts, as part of
/// all it holds, everything appended so far with the end of its key stream. (LIP-99 gives the beginning of that end as
/// an offset: 576, 464, .. for the hops 1, 2, ..)
fn write_filler(streams: &[[u8; STREAM_LEN]], filler: &mut [u8]) {
    filler.fill(0);
    for (at, stream) in streams.iter().enumerate() {
        let len = (at + 1) * BLOCK_LEN;
        xor(&mut filler[..len], &stream[STREAM_LEN - len..]);
    }
}

fn xor(bytes: &mut [u8], stream: &[u8]) {
    bytes
        .iter_mut()
        .zip(stream)
        .for_each(|(byte, stream)| *byte ^= stream);
}
