//! What is derived from the secret shared with a hop: keys, MAC, tag, blinding factor; of up to `W` packets at once.
//!
//! Section 8.2 of LIP-99: every derivation is SHA-256 of an ASCII label and the secret, with nothing between them.

use core::iter::zip;

use zeroize::Zeroizing;

use crate::engine::Engine;
use crate::hash::{BLOCK, Hashes};
use crate::layout::{BETA_LEN, GAMMA_LEN, K, TAG_LEN};
use crate::packet::split;
use crate::scratch::Scratch;

/// An X25519 output or anything else of 32 bytes that nobody else may see.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Up to `W` secrets.
pub(crate) type Secrets<const W: usize> = Scratch<[[u8; 32]; W]>;

/// SHA-256 of a label and a secret; the secrets have one length, and with the label less than a block.
pub(crate) fn derive<const W: usize>(
    engine: &dyn Engine,
    label: &str,
    secrets: &[impl AsRef<[u8]>],
) -> Secrets<W> {
    let secret_len = secrets.first().map_or(0, |secret| secret.as_ref().len());
    Hashes::new(engine, secrets.len()).finish(label.len() + secret_len, |at, message| {
        let (front, back) = message.split_at_mut(label.len());
        front.copy_from_slice(label.as_bytes());
        back.copy_from_slice(secrets[at].as_ref());
    })
}

/// The keys of the ciphers of `beta`.
pub(crate) struct HeaderKeys<const W: usize> {
    keys: Secrets<W>,
    ivs: Secrets<W>,
}

impl<const W: usize> HeaderKeys<W> {
    pub(crate) fn derive(engine: &dyn Engine, secrets: &[[u8; 32]]) -> Self {
        Self {
            keys: derive(engine, "aes_key", secrets),
            ivs: derive(engine, "iv", secrets),
        }
    }

    /// The keys of one packet.
    pub(crate) fn of(&self, packet: usize) -> HeaderKeys<1> {
        HeaderKeys {
            keys: Scratch::from([self.keys[packet]]),
            ivs: Scratch::from([self.ivs[packet]]),
        }
    }

    /// Adds the key stream of one packet, without its first `skip` bytes, to a part of its `beta`.
    pub(crate) fn apply(&self, engine: &dyn Engine, at: usize, skip: usize, part: &mut [u8]) {
        debug_assert!(skip.is_multiple_of(K), "a key stream is skipped by blocks");
        // At most STREAM_LEN bytes.
        let skip = (skip / K) as u32;
        engine.aes_ctr(half(&self.keys[at]), half(&self.ivs[at]), skip, part);
    }
}

/// The first sixteen of 32 bytes: what is derived and needs no more.
pub(crate) fn half(bytes: &[u8; 32]) -> &[u8; K] {
    split::<K, { 32 - K }, 32>(bytes).0
}

/// The keys of [`macs`]: the first half of each.
pub(crate) fn mac_keys<const W: usize>(engine: &dyn Engine, secrets: &[[u8; 32]]) -> Secrets<W> {
    derive(engine, "mac_key", secrets)
}

/// `gamma`: HMAC-SHA-256 over `beta` alone, cut to sixteen bytes.
pub(crate) fn macs<const W: usize>(
    engine: &dyn Engine,
    keys: &[[u8; 32]],
    betas: &[&[u8; BETA_LEN]],
) -> [[u8; GAMMA_LEN]; W] {
    const { assert!(BETA_LEN.is_multiple_of(BLOCK)) };
    // RFC 2104. A key shorter than a block of the hash is filled up with zeros.
    let begin = |pad: u8| {
        let mut hashes = Hashes::<W>::new(engine, keys.len());
        hashes.block(|at, block| {
            block[..K].copy_from_slice(half(&keys[at]));
            block.iter_mut().for_each(|byte| *byte ^= pad);
        });
        hashes
    };
    let mut inner = begin(0x36);
    inner.blocks(|at| betas[at].as_chunks().0);
    let inner = inner.finish(0, |_, _| {});
    let full = begin(0x5c).finish(inner[0].len(), |at, message| message.copy_from_slice(&inner[at]));
    let mut gammas = [[0; GAMMA_LEN]; W];
    for (gamma, full) in zip(&mut gammas, full.iter()).take(keys.len()) {
        *gamma = *half(full);
    }
    gammas
}

/// The replay tags of LIP-183.
pub(crate) fn tags<const W: usize>(engine: &dyn Engine, secrets: &[[u8; 32]]) -> Scratch<[[u8; TAG_LEN]; W]> {
    derive(engine, "", secrets)
}

/// The blinding factors `b`, which are also the replay tags of the legacy dialect.
pub(crate) fn blindings<'a, const W: usize>(
    engine: &dyn Engine,
    alpha: impl Fn(usize) -> &'a [u8; 32],
    secrets: &[[u8; 32]],
) -> Secrets<W> {
    let mut hashes = Hashes::new(engine, secrets.len());
    hashes.block(|at, block| {
        block[..32].copy_from_slice(alpha(at));
        block[32..].copy_from_slice(&secrets[at]);
    });
    hashes.finish(0, |_, _| {})
}
