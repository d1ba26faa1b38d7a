//! SHA-256 of up to `W` messages of one length at once, which an engine computes side by side.
//!
//! The block that begins a message and what ends it are put together here; all between is read where it lies.

use core::iter::zip;

use crate::engine::Engine;
use crate::scratch::Scratch;

/// A block of the hash.
pub(crate) const BLOCK: usize = 64;

/// What SHA-256 begins with (FIPS 180-4, section 5.3.3).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Up to `W` hashes on their way.
pub(crate) struct Hashes<'e, const W: usize> {
    engine: &'e dyn Engine,
    count: usize,
    blocks: usize,
    states: Scratch<[[u32; 8]; W]>,
}

impl<'e, const W: usize> Hashes<'e, W> {
    /// Begins `count` messages, at most `W`.
    pub(crate) fn new(engine: &'e dyn Engine, count: usize) -> Self {
        let mut states = Scratch::<[[u32; 8]; W]>::new();
        *states = [START; W];
        Self {
            engine,
            count: count.min(W),
            blocks: 0,
            states,
        }
    }

    /// Takes one block of each message in, which `write` finds as zeros.
    pub(crate) fn block(&mut self, mut write: impl FnMut(usize, &mut [u8; BLOCK])) {
        let mut blocks = Scratch::<[[[u8; BLOCK]; 1]; W]>::new();
        for (at, [block]) in blocks.iter_mut().enumerate().take(self.count) {
            write(at, block);
        }
        self.blocks(|at| &blocks[at]);
    }

    /// Takes any number of blocks in, as many of each message.
    pub(crate) fn blocks<'a>(&mut self, of: impl Fn(usize) -> &'a [[u8; BLOCK]]) {
        let mut blocks = [[].as_slice(); W];
        for (at, blocks) in blocks.iter_mut().enumerate().take(self.count) {
            *blocks = of(at);
        }
        let used = ..self.count;
        self.engine.sha256_batch(&mut self.states[used], &blocks[used]);
        self.blocks += blocks.first().map_or(0, |blocks| blocks.len());
    }

    /// Takes the last `len` bytes in, less than a block, and ends the messages.
    pub(crate) fn finish(
        mut self,
        len: usize,
        mut write: impl FnMut(usize, &mut [u8]),
    ) -> Scratch<[[u8; 32]; W]> {
        const LENGTH_AT: usize = BLOCK - 8;
        let bits = 8 * (self.blocks * BLOCK + len) as u64;
        let has_room = len < LENGTH_AT;
        self.block(|at, block| {
            write(at, &mut block[..len]);
            block[len] = 0x80;
            if has_room {
                block[LENGTH_AT..].copy_from_slice(&bits.to_be_bytes());
            }
        });
        if !has_room {
            self.block(|_, block| block[LENGTH_AT..].copy_from_slice(&bits.to_be_bytes()));
        }
        let mut out = Scratch::<[[u8; 32]; W]>::new();
        for (out, state) in zip(out.iter_mut(), self.states.iter()).take(self.count) {
            for (out, word) in zip(out.as_chunks_mut().0, state) {
                *out = word.to_be_bytes();
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::engine::engines;

    #[test]
    fn messages_of_all_lengths_are_hashed_as_sha2_does() {
        let bytes: Vec<u8> = (0..3_000_u32).map(|at| (at * at / 8) as u8).collect();
        for engine in engines() {
            for len in (0..200).chain([1000, 2000]) {
                for count in [1, 2, 3, 13, 20] {
                    let messages: Vec<_> = (0..count).map(|at| &bytes[17 * at..][..len]).collect();
                    let mut hashes = Hashes::<20>::new(engine, count);
                    hashes.blocks(|at| messages[at].as_chunks().0);
                    let digests = hashes.finish(len % BLOCK, |at, tail| {
                        tail.copy_from_slice(messages[at].as_chunks::<BLOCK>().1);
                    });
                    for (at, message) in messages.iter().enumerate() {
                        assert_eq!(
                            digests[at],
                            *Sha256::digest(message),
                            "{len} x {count}, {}",
                            engine.name()
                        );
                    }
                }
            }
        }
    }
}
