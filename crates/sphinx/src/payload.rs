//! One layer of `delta`, in either dialect, on up to `W` payloads at once.
//!
//! LIP-183 (LIONESS) and, for nodes that have not moved, the AES-CTR layers of LIP-99 before it. The header is the
//! same in both, so a relay with the wrong dialect does not notice; the payload check at the end does.

use core::iter::zip;

use subtle::ConstantTimeEq;

use crate::engine::Engine;
use crate::kdf::{Secrets, derive, half};
use crate::layout::{K, PAYLOAD_LEN, REPLY_KEY_LEN, ZEROS_LEN};
use crate::lioness;
use crate::packet::split;
use crate::scratch::Scratch;

/// How the payload is encrypted and padded. It must be equal for everybody in a network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Dialect {
    /// LIP-183: LIONESS, which lets no change of the payload pass.
    #[default]
    Lioness,
    /// AES-CTR layers, which let the first and the last hop tag a payload; only for networks of older nodes.
    LegacyCtr,
}

/// The seeds of the layers of the hops with which `secrets` are shared: of LIONESS, or AES keys and initial vectors.
pub(crate) fn seeds<const W: usize>(
    engine: &dyn Engine,
    dialect: Dialect,
    secrets: &[[u8; 32]],
) -> Secrets<W> {
    match dialect {
        Dialect::Lioness => derive(engine, "payload_enc_key", secrets),
        Dialect::LegacyCtr => legacy_seeds(engine, secrets),
    }
}

/// Puts a hop's layer on payloads of [`PAYLOAD_LEN`] bytes.
pub(crate) fn encrypt<const W: usize>(
    engine: &dyn Engine,
    dialect: Dialect,
    seeds: &[[u8; 32]],
    payloads: &mut [&mut [u8]],
) {
    match dialect {
        Dialect::Lioness => lioness::encrypt::<W>(engine, seeds, payloads),
        Dialect::LegacyCtr => legacy(engine, seeds, payloads),
    }
}

/// Takes a hop's layer off payloads of [`PAYLOAD_LEN`] bytes.
pub(crate) fn decrypt<const W: usize>(
    engine: &dyn Engine,
    dialect: Dialect,
    seeds: &[[u8; 32]],
    payloads: &mut [&mut [u8]],
) {
    match dialect {
        Dialect::Lioness => lioness::decrypt::<W>(engine, seeds, payloads),
        Dialect::LegacyCtr => legacy(engine, seeds, payloads),
    }
}

/// Puts the layer of a SURB's reply key on. LIONESS takes the sixteen bytes as its seed, with nothing derived.
pub(crate) fn encrypt_reply(
    engine: &dyn Engine,
    dialect: Dialect,
    key: &[u8; REPLY_KEY_LEN],
    payload: &mut [u8; PAYLOAD_LEN],
) {
    match dialect {
        Dialect::Lioness => lioness::encrypt::<1>(engine, &[key], &mut [payload]),
        Dialect::LegacyCtr => legacy(engine, &*legacy_seeds::<1>(engine, &[key]), &mut [payload]),
    }
}

/// Takes the layer of a SURB's reply key off.
pub(crate) fn decrypt_reply(
    engine: &dyn Engine,
    dialect: Dialect,
    key: &[u8; REPLY_KEY_LEN],
    payload: &mut [u8; PAYLOAD_LEN],
) {
    match dialect {
        Dialect::Lioness => lioness::decrypt::<1>(engine, &[key], &mut [payload]),
        Dialect::LegacyCtr => legacy(engine, &*legacy_seeds::<1>(engine, &[key]), &mut [payload]),
    }
}

/// Whether a payload begins with its sixteen zero bytes, found out in constant time.
pub(crate) fn is_intact(payload: &[u8; PAYLOAD_LEN]) -> bool {
    payload[..ZEROS_LEN].ct_eq(&[0; ZEROS_LEN]).into()
}

fn legacy_seeds<const W: usize>(engine: &dyn Engine, secrets: &[impl AsRef<[u8]>]) -> Secrets<W> {
    let keys = derive::<W>(engine, "delta_aes_key", secrets);
    let ivs = derive::<W>(engine, "delta_iv", secrets);
    let mut seeds = Scratch::<[[u8; 32]; W]>::new();
    for (seed, (key, iv)) in zip(seeds.iter_mut(), zip(keys.iter(), ivs.iter())) {
        seed[..K].copy_from_slice(half(key));
        seed[K..].copy_from_slice(half(iv));
    }
    seeds
}

fn legacy(engine: &dyn Engine, seeds: &[[u8; 32]], payloads: &mut [&mut [u8]]) {
    for (payload, seed) in zip(payloads, seeds) {
        let (key, iv) = split::<K, K, 32>(seed);
        engine.aes_ctr(key, iv, 0, payload);
    }
}
