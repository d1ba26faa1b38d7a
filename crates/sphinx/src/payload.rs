//! One layer of `delta`, in either dialect.
//!
//! LIP-183 (LIONESS) and, for nodes that have not moved, the AES-CTR layers of LIP-99 before it. The header is the
//! same in both, so a relay with the wrong dialect does not notice; the payload check at the end does.

use ctr::cipher::StreamCipher;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::kdf::{Secret, aes_ctr, kdf16, kdf32};
use crate::layout::{K, PAYLOAD_LEN, REPLY_KEY_LEN, ZEROS_LEN};
use crate::lioness;
use crate::packet::split;

/// How the payload is encrypted and padded. It must be equal for everybody in a network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Dialect {
    /// LIP-183: LIONESS, which lets no change of the payload pass.
    #[default]
    Lioness,
    /// AES-CTR layers, which let the first and the last hop tag a payload; only for networks of older nodes.
    LegacyCtr,
}

/// What a hop's layer of the payload is encrypted with: a LIONESS seed, or an AES key and initial vector.
pub(crate) type Seed = Secret;

/// The seed of the layer of the hop with which `s` is shared.
pub(crate) fn seed(dialect: Dialect, s: &[u8; 32]) -> Seed {
    match dialect {
        Dialect::Lioness => kdf32("payload_enc_key", s),
        Dialect::LegacyCtr => legacy_seed(s),
    }
}

/// Puts a hop's layer on.
pub(crate) fn encrypt(dialect: Dialect, seed: &[u8; 32], payload: &mut [u8; PAYLOAD_LEN]) {
    match dialect {
        Dialect::Lioness => lioness::encrypt(seed, payload),
        Dialect::LegacyCtr => legacy(seed, payload),
    }
}

/// Takes a hop's layer off.
pub(crate) fn decrypt(dialect: Dialect, seed: &[u8; 32], payload: &mut [u8; PAYLOAD_LEN]) {
    match dialect {
        Dialect::Lioness => lioness::decrypt(seed, payload),
        Dialect::LegacyCtr => legacy(seed, payload),
    }
}

/// Puts the layer of a SURB's reply key on. LIONESS takes the sixteen bytes as its seed, with nothing derived.
pub(crate) fn encrypt_reply(dialect: Dialect, key: &[u8; REPLY_KEY_LEN], payload: &mut [u8; PAYLOAD_LEN]) {
    match dialect {
        Dialect::Lioness => lioness::encrypt(key, payload),
        Dialect::LegacyCtr => legacy(&legacy_seed(key), payload),
    }
}

/// Takes the layer of a SURB's reply key off.
pub(crate) fn decrypt_reply(dialect: Dialect, key: &[u8; REPLY_KEY_LEN], payload: &mut [u8; PAYLOAD_LEN]) {
    match dialect {
        Dialect::Lioness => lioness::decrypt(key, payload),
        Dialect::LegacyCtr => legacy(&legacy_seed(key), payload),
    }
}

/// Whether a payload begins with its sixteen zero bytes, found out in constant time.
pub(crate) fn is_intact(payload: &[u8; PAYLOAD_LEN]) -> bool {
    payload[..ZEROS_LEN].ct_eq(&[0; ZEROS_LEN]).into()
}

fn legacy_seed(s: &[u8]) -> Seed {
    let mut seed = Zeroizing::new([0; 32]);
    seed[..K].copy_from_slice(&*kdf16("delta_aes_key", s));
    seed[K..].copy_from_slice(&*kdf16("delta_iv", s));
    seed
}

fn legacy(seed: &[u8; 32], payload: &mut [u8; PAYLOAD_LEN]) {
    let (key, iv) = split::<K, K, 32>(seed);
    aes_ctr(key, iv).apply_keystream(payload);
}
