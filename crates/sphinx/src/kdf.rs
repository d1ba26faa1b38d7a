//! What is derived from the secret shared with a hop: keys, key stream, MAC, tag, blinding factor.
//!
//! Section 8.2 of LIP-99: every derivation is SHA-256 of an ASCII label and the secret, with nothing between them.

use aes::Aes128;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::layout::{ALPHA_LEN, BETA_LEN, GAMMA_LEN, K, STREAM_LEN, TAG_LEN};

/// An X25519 output or anything else of 32 bytes that nobody else may see.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// AES-128 in counter mode; the initial vector is the first counter block and counts as one big-endian number.
pub(crate) type AesCtr = Ctr128BE<Aes128>;

/// SHA-256 of a label and a secret.
pub(crate) fn kdf32(label: &str, secret: &[u8]) -> Secret {
    let mut out = Secret::default();
    Sha256::new()
        .chain_update(label)
        .chain_update(secret)
        .finalize_into((&mut *out).into());
    out
}

/// The first half of [`kdf32`].
pub(crate) fn kdf16(label: &str, secret: &[u8]) -> Zeroizing<[u8; K]> {
    let mut out = Zeroizing::<[u8; K]>::default();
    out.copy_from_slice(&kdf32(label, secret)[..K]);
    out
}

/// AES-CTR from a key and an initial vector.
pub(crate) fn aes_ctr(key: &[u8; K], iv: &[u8; K]) -> AesCtr {
    AesCtr::new(key.into(), iv.into())
}

/// The cipher of `beta`.
pub(crate) fn header_cipher(s: &[u8; 32]) -> AesCtr {
    aes_ctr(&kdf16("aes_key", s), &kdf16("iv", s))
}

/// The whole key stream of a hop, as a builder needs it.
pub(crate) fn header_stream(s: &[u8; 32]) -> Zeroizing<[u8; STREAM_LEN]> {
    let mut stream = Zeroizing::new([0; STREAM_LEN]);
    header_cipher(s).apply_keystream(&mut *stream);
    stream
}

/// `gamma`: HMAC-SHA-256 over `beta` alone, cut to sixteen bytes.
pub(crate) fn mac(s: &[u8; 32], beta: &[u8; BETA_LEN]) -> [u8; GAMMA_LEN] {
    // A key shorter than a block of the hash is filled up with zeros by HMAC itself.
    let mut key = Zeroizing::new([0; 64]);
    key[..K].copy_from_slice(&*kdf16("mac_key", s));
    let full: [u8; 32] = <Hmac<Sha256> as KeyInit>::new((&*key).into())
        .chain_update(beta)
        .finalize()
        .into_bytes()
        .into();
    let mut gamma = [0; GAMMA_LEN];
    gamma.copy_from_slice(&full[..GAMMA_LEN]);
    gamma
}

/// The replay tag of LIP-183.
pub(crate) fn tag(s: &[u8; 32]) -> [u8; TAG_LEN] {
    Sha256::digest(s).into()
}

/// The blinding factor `b`, which is also the replay tag of the legacy dialect.
pub(crate) fn blinding(alpha: &[u8; ALPHA_LEN], s: &[u8; 32]) -> Secret {
    let mut out = Secret::default();
    Sha256::new()
        .chain_update(alpha)
        .chain_update(s)
        .finalize_into((&mut *out).into());
    out
}
