//! LIONESS, a cipher over one block of any length: change one bit anywhere and all of it becomes noise.
//!
//! LIP-183 builds it from SHA-256 with a key in front and AES-128-CTR, over a left part of 32 bytes and the rest.
//! Which seed a layer has is `payload`'s matter.

use core::iter::zip;

use zeroize::Zeroizing;

use crate::engine::Engine;
use crate::hash::{BLOCK, Hashes};
use crate::kdf::derive;
use crate::layout::K;

/// The left part: one output of the hash.
const LEFT_LEN: usize = 32;

/// A block shorter than this (its right part shorter than its left) is left as it is; nobody has one.
pub(crate) const MIN_LEN: usize = 2 * LEFT_LEN;

/// Encrypts up to `W` blocks of one length in place.
pub(crate) fn encrypt<const W: usize>(
    engine: &dyn Engine,
    seeds: &[impl AsRef<[u8]>],
    blocks: &mut [&mut [u8]],
) {
    if are_blocks(blocks) {
        stream(engine, &*derive::<W>(engine, "lioness_key1", seeds), blocks);
        hash::<W>(engine, &*derive::<W>(engine, "lioness_key2", seeds), blocks);
        stream(engine, &*derive::<W>(engine, "lioness_key3", seeds), blocks);
        hash::<W>(engine, &*derive::<W>(engine, "lioness_key4", seeds), blocks);
    }
}

/// Decrypts up to `W` blocks of one length in place.
pub(crate) fn decrypt<const W: usize>(
    engine: &dyn Engine,
    seeds: &[impl AsRef<[u8]>],
    blocks: &mut [&mut [u8]],
) {
    if are_blocks(blocks) {
        hash::<W>(engine, &*derive::<W>(engine, "lioness_key4", seeds), blocks);
        stream(engine, &*derive::<W>(engine, "lioness_key3", seeds), blocks);
        hash::<W>(engine, &*derive::<W>(engine, "lioness_key2", seeds), blocks);
        stream(engine, &*derive::<W>(engine, "lioness_key1", seeds), blocks);
    }
}

fn are_blocks(blocks: &[&mut [u8]]) -> bool {
    let len = blocks.first().map_or(0, |block| block.len());
    debug_assert!(
        blocks.iter().all(|block| block.len() == len && len >= MIN_LEN),
        "LIONESS blocks of one batch have one length, at least {MIN_LEN} bytes"
    );
    len >= MIN_LEN && blocks.iter().all(|block| block.len() == len)
}

/// `right ^= S(left ^ key)`
fn stream(engine: &dyn Engine, keys: &[[u8; LEFT_LEN]], blocks: &mut [&mut [u8]]) {
    for (block, key) in zip(blocks, keys) {
        let (left, right) = block.split_at_mut(LEFT_LEN);
        let (mut aes_key, mut iv) = (Zeroizing::new([0; K]), Zeroizing::new([0; K]));
        for at in 0..K {
            aes_key[at] = left[at] ^ key[at];
            iv[at] = left[K + at] ^ key[K + at];
        }
        engine.aes_ctr(&aes_key, &iv, 0, right);
    }
}

/// `left ^= H(key, right)`
fn hash<const W: usize>(engine: &dyn Engine, keys: &[[u8; LEFT_LEN]], blocks: &mut [&mut [u8]]) {
    let mut hashes = Hashes::<W>::new(engine, blocks.len());
    hashes.block(|at, first| {
        first[..LEFT_LEN].copy_from_slice(&keys[at]);
        first[LEFT_LEN..].copy_from_slice(&blocks[at][LEFT_LEN..MIN_LEN]);
    });
    // What is left of `right` when the key has shared its first block with it.
    let rest = |at: usize| blocks[at][MIN_LEN..].as_chunks::<BLOCK>();
    hashes.blocks(|at| rest(at).0);
    let digests = hashes.finish(rest(0).1.len(), |at, tail| tail.copy_from_slice(rest(at).1));
    for (block, digest) in zip(blocks, digests.iter()) {
        zip(block.iter_mut(), digest).for_each(|(left, digest)| *left ^= digest);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use crate::engine::engine;

    fn encrypt(seed: &[u8], block: &mut [u8]) {
        super::encrypt::<1>(engine(), &[seed], &mut [block]);
    }

    fn decrypt(seed: &[u8], block: &mut [u8]) {
        super::decrypt::<1>(engine(), &[seed], &mut [block]);
    }

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
