//! X25519 for eight lanes at once with the 52-bit multiplier of AVX-512 IFMA.
//!
//! Gathers the lanes of a batch into vectors, runs one ladder a vector and one inversion for eight vectors. What is
//! left of a batch that does not fill a vector costs as much as a whole one; a lone multiplication, even with one of the
//! base point beside it, goes to the portable engine, which is faster at so few.

use core::iter::zip;

use super::field::{GROUP, Projective, Words, affine, ladder};
use super::x86::{Avx512, Job, Vaes};
use super::{BASE_POINT, Engine, aes, portable, sha256};
use crate::scratch::Scratch;

/// Lanes of a vector.
const LANES: usize = 8;

/// Lanes that share an inversion.
const GROUP_LANES: usize = GROUP * LANES;

/// More than the stack that a group takes, in bytes.
const STACK_LEN: usize = 24 << 10;

pub(super) struct Ifma;

impl Ifma {
    pub(super) fn is_supported() -> bool {
        Avx512::detect().is_some()
    }
}

impl Engine for Ifma {
    fn name(&self) -> &'static str {
        "ifma"
    }

    fn x25519_batch(&self, scalars: &[[u8; 32]], points: &[[u8; 32]], out: &mut [[u8; 32]]) {
        let count = scalars.len().min(points.len()).min(out.len());
        let portable = portable();
        let Some(cpu) = Avx512::detect() else {
            return portable.x25519_batch(scalars, points, out);
        };
        // What does not fill a vector, if it is so little that it is cheaper without.
        let rest = count - count % LANES;
        let vectors = if is_cheap(portable, &points[rest..count]) {
            portable.x25519_batch(&scalars[rest..count], &points[rest..count], &mut out[rest..count]);
            rest
        } else {
            count
        };
        let groups = zip(
            scalars[..vectors].chunks(GROUP_LANES),
            points[..vectors].chunks(GROUP_LANES),
        );
        for ((scalars, points), out) in zip(groups, out[..vectors].chunks_mut(GROUP_LANES)) {
            cpu.run(Group { scalars, points, out });
            // What the compiler spilled.
            zeroize::zeroize_stack::<STACK_LEN>();
        }
    }

    fn sha256_batch(&self, states: &mut [[u32; 8]], blocks: &[&[[u8; 64]]]) {
        sha256::compress(Avx512::detect(), states, blocks);
    }

    fn aes_ctr(&self, key: &[u8; 16], iv: &[u8; 16], skip: u32, data: &mut [u8]) {
        let Some(cpu) = Vaes::detect() else {
            return portable().aes_ctr(key, iv, skip, data);
        };
        let counter = u128::from_be_bytes(*iv).wrapping_add(skip.into());
        aes::apply_keystream(cpu, key, counter, data);
    }
}

/// Whether multiplications are cheaper one after the other than in a vector, of which they would fill a part. A
/// vector takes the time of 1.2 (Zen 5) to 1.7 (Zen 4) of graviola's multiplications, and those of the base point
/// that of a third. The points are public.
fn is_cheap(portable: &dyn Engine, points: &[[u8; 32]]) -> bool {
    const VECTOR: usize = 5;
    let cost: usize = points
        .iter()
        .map(|point| if *point == BASE_POINT { 1 } else { 3 })
        .sum();
    portable.name() == "graviola" && cost < VECTOR
}

/// Up to [`GROUP_LANES`] multiplications; all slices have one length.
struct Group<'a> {
    scalars: &'a [[u8; 32]],
    points: &'a [[u8; 32]],
    out: &'a mut [[u8; 32]],
}

impl Job<Avx512> for Group<'_> {
    #[inline(always)]
    fn run(self, cpu: Avx512) {
        let mut products = Scratch::<[Projective<_>; GROUP]>::new();
        let vectors = self.scalars.len().div_ceil(LANES);
        let inputs = zip(self.scalars.chunks(LANES), self.points.chunks(LANES));
        for ((scalars, points), product) in zip(inputs, products.iter_mut()) {
            let mut words = Scratch::<Words<[u64; LANES]>>::new();
            // Lanes without a packet multiply the point zero by zero, and nobody reads the result.
            transpose(scalars, &mut words);
            let mut k = Scratch::<Words<_>>::new();
            for (k, words) in zip(k.iter_mut(), words.iter()) {
                *k = cpu.load(words);
            }
            *words = [[0; LANES]; 4];
            transpose(points, &mut words);
            let u = [
                cpu.load(&words[0]),
                cpu.load(&words[1]),
                cpu.load(&words[2]),
                cpu.load(&words[3]),
            ];
            ladder(cpu, &k, &u, product);
        }

        let mut shared = Scratch::<[Words<_>; GROUP]>::new();
        affine(cpu, &products[..vectors], &mut *shared);
        for (out, shared) in zip(self.out.chunks_mut(LANES), shared.iter()) {
            let mut words = Scratch::<Words<[u64; LANES]>>::new();
            for (words, shared) in zip(words.iter_mut(), shared) {
                cpu.store(words, *shared);
            }
            for (lane, out) in out.iter_mut().enumerate().take(LANES) {
                for (bytes, words) in zip(out.as_chunks_mut().0, words.iter()) {
                    *bytes = words[lane].to_le_bytes();
                }
            }
        }
    }
}

/// Word `i` of lane `j` is `out[i][j]`.
#[inline(always)]
fn transpose(lanes: &[[u8; 32]], out: &mut Words<[u64; LANES]>) {
    for (lane, bytes) in lanes.iter().enumerate().take(LANES) {
        for (word, bytes) in zip(out.iter_mut(), bytes.as_chunks().0) {
            word[lane] = u64::from_le_bytes(*bytes);
        }
    }
}
