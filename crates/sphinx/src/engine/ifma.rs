//! X25519 for eight lanes at once with the 52-bit multiplier of AVX-512 IFMA.
//!
//! Gathers the lanes of a batch into vectors, runs one ladder a vector, or for the base point one sum of known multiples,
//! and one inversion for eight vectors. What is left of a batch that does not fill a vector costs as much as a whole
//! one; a lone multiplication goes to the portable engine, which is faster at so few.

use core::arch::x86_64::__m512i;
use core::iter::zip;

use super::edwards::times_base;
use super::field::{GROUP, Projective, Words, affine, ladder};
use super::x86::{Avx512, Job, Vaes};
use super::{Engine, aes, portable, sha256};
use crate::scratch::Scratch;

/// Lanes of a vector.
const LANES: usize = 8;

/// Lanes that share an inversion.
const GROUP_LANES: usize = GROUP * LANES;

/// From how many on a vector is cheaper than one after the other: it takes the time of 1.2 (Zen 5) to 1.7 (Zen 4) of
/// graviola's multiplications.
const WORTH_A_VECTOR: usize = 2;

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

    fn lanes(&self) -> usize {
        LANES
    }

    fn x25519_batch(&self, scalars: &[[u8; 32]], points: &[[u8; 32]], out: &mut [[u8; 32]]) {
        let count = scalars.len().min(points.len()).min(out.len());
        let portable = portable();
        let Some(cpu) = Avx512::detect() else {
            return portable.x25519_batch(scalars, points, out);
        };
        // What does not fill a vector, if it is so little that it is cheaper without.
        let rest = count - count % LANES;
        let vectors = if count - rest < WORTH_A_VECTOR && portable.name() == "graviola" {
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
            run(cpu, scalars, Some(points), out);
        }
    }

    fn x25519_base_batch(&self, scalars: &[[u8; 32]], out: &mut [[u8; 32]]) {
        let count = scalars.len().min(out.len());
        match Avx512::detect() {
            Some(cpu) if count > 1 => {
                for (scalars, out) in zip(scalars.chunks(GROUP_LANES), out.chunks_mut(GROUP_LANES)) {
                    run(cpu, scalars, None, out);
                }
            }
            _ => portable().x25519_base_batch(scalars, out),
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

/// Up to [`GROUP_LANES`] multiplications, of the base point if no points are given.
fn run(cpu: Avx512, scalars: &[[u8; 32]], points: Option<&[[u8; 32]]>, out: &mut [[u8; 32]]) {
    cpu.run(Group { scalars, points, out });
    // What the compiler spilled.
    zeroize::zeroize_stack::<STACK_LEN>();
}

struct Group<'a> {
    scalars: &'a [[u8; 32]],
    /// As many as scalars.
    points: Option<&'a [[u8; 32]]>,
    out: &'a mut [[u8; 32]],
}

impl Job<Avx512> for Group<'_> {
    #[inline(always)]
    fn run(self, cpu: Avx512) {
        let mut products = Scratch::<[Projective<_>; GROUP]>::new();
        let vectors = self.scalars.len().div_ceil(LANES);
        for (at, (scalars, product)) in zip(self.scalars.chunks(LANES), products.iter_mut()).enumerate() {
            // Lanes without a packet multiply by zero, which is clamped, and nobody reads the result.
            let k = gather(cpu, scalars);
            match self.points.and_then(|points| points.chunks(LANES).nth(at)) {
                Some(points) => ladder(cpu, &k, &gather(cpu, points), product),
                None => times_base(cpu, &k, product),
            }
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

/// The words of up to eight lanes, zeros in those beyond.
#[inline(always)]
fn gather(cpu: Avx512, lanes: &[[u8; 32]]) -> Scratch<Words<__m512i>> {
    let mut words = Scratch::<Words<[u64; LANES]>>::new();
    for (lane, bytes) in lanes.iter().enumerate().take(LANES) {
        for (word, bytes) in zip(words.iter_mut(), bytes.as_chunks().0) {
            word[lane] = u64::from_le_bytes(*bytes);
        }
    }
    let mut out = Scratch::<Words<_>>::new();
    for (out, words) in zip(out.iter_mut(), words.iter()) {
        *out = cpu.load(words);
    }
    out
}
