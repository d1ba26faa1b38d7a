//! LIONESS, a cipher over one block of any length: change one bit anywhere and all of it becomes noise.
//!
//! LIP-183 builds it from SHA-256 with a key in front and AES-128-CTR, over a left part of 32 bytes and the rest.
//! Which seed a layer has is `payload`'s matter.

use ctr::cipher::StreamCipher;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::kdf::{Secret, aes_ctr, kdf32};
use crate::layout::K;

/// The left part: one output of the hash.
const LEFT_LEN: usize = 32;

/// A block shorter than this (its right part shorter than its left) is left as it is; nobody has one.
pub(crate) const MIN_LEN: usize = 2 * LEFT_LEN;

/// Encrypts a block in place.
pub(crate) fn encrypt(seed: &[u8], block: &mut [u8]) {
    let Some((left, right)) = parts(block) else { return };
    stream(left, &kdf32("lioness_key1", seed), right);
    hash(left, &kdf32("lioness_key2", seed), right);
    stream(left, &kdf32("lioness_key3", seed), right);
    hash(left, &kdf32("lioness_key4", seed), right);
}

/// Decrypts a block in place.
pub(crate) fn decrypt(seed: &[u8], block: &mut [u8]) {
    let Some((left, right)) = parts(block) else { return };
    hash(left, &kdf32("lioness_key4", seed), right);
    stream(left, &kdf32("lioness_key3", seed), right);
    hash(left, &kdf32("lioness_key2", seed), right);
    stream(left, &kdf32("lioness_key1", seed), right);
}

fn parts(block: &mut [u8]) -> Option<(&mut [u8; LEFT_LEN], &mut [u8])> {
    debug_assert!(
        block.len() >= MIN_LEN,
        "a LIONESS block has at least {MIN_LEN} bytes"
    );
    if block.len() < MIN_LEN {
        None
    } else {
        block.split_first_chunk_mut()
    }
}

/// `right ^= S(left ^ key)`
fn stream(left: &[u8; LEFT_LEN], key: &Secret, right: &mut [u8]) {
    let (mut aes_key, mut iv) = (Zeroizing::new([0; K]), Zeroizing::new([0; K]));
    for at in 0..K {
        aes_key[at] = left[at] ^ key[at];
        iv[at] = left[K + at] ^ key[K + at];
    }
    aes_ctr(&aes_key, &iv).apply_keystream(right);
}

/// `left ^= H(key, right)`
fn hash(left: &mut [u8; LEFT_LEN], key: &Secret, right: &[u8]) {
    let mut digest = Secret::default();
    Sha256::new()
        .chain_update(key.as_slice())
        .chain_update(right)
        .finalize_into((&mut *digest).into());
    left.iter_mut()
        .zip(&*digest)
        .for_each(|(left, digest)| *left ^= digest);
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn bytes(value: &serde_json::Value) -> Vec<u8> {
        let hex = value.as_str().unwrap();
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn the_vectors_of_the_nim_implementation_hold_both_ways() {
        for file in [
            include_str!("../tests/vectors/sphinx-L3.json"),
            include_str!("../tests/vectors/sphinx-L4-nonstandard.json"),
            include_str!("../tests/vectors/sphinx-L5-nonstandard.json"),
        ] {
            let file: serde_json::Value = serde_json::from_str(file).unwrap();
            let cases = file["lioness"].as_array().unwrap();
            assert_eq!(cases.len(), 4);
            for case in cases {
                let (seed, plain) = (bytes(&case["seed"]), bytes(&case["plaintext"]));
                let mut block = plain.clone();
                encrypt(&seed, &mut block);
                assert_eq!(block, bytes(&case["ciphertext"]), "length {}", case["len"]);
                decrypt(&seed, &mut block);
                assert_eq!(block, plain, "length {}", case["len"]);
            }
        }
    }

    #[test]
    fn one_changed_bit_turns_the_whole_block_into_noise() {
        let mut plain = [0; 256];
        encrypt(&[1; 32], &mut plain);
        for bit in [0, 255, 256, 2047] {
            let mut block = plain;
            block[bit / 8] ^= 1 << (bit % 8);
            decrypt(&[1; 32], &mut block);
            let zeros = block.iter().filter(|byte| **byte == 0).count();
            assert!(zeros < 10, "{zeros} zero bytes after a change of bit {bit}");
        }
    }
}
