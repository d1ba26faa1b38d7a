//! The engine with the 52-bit multiplier of AVX-512 IFMA, eight lanes at once; sixteen for SHA-256, and vector AES.

use core::arch::x86_64::__m512i;

use super::edwards::Comb;
use super::field::radix51::Radix51;
use super::vectors::{self, Vectors};
use super::x86::{Avx512, Job, Vaes};
use super::{AT_ONCE, Between, Engine, aes, one_by_one, sha256};

pub(super) struct Ifma;

impl Ifma {
    pub(super) fn is_supported() -> bool {
        Avx512::detect().is_some()
    }
}

impl Vectors for Avx512 {
    type Numbers = [u64; 8];
    type Field = Radix51<Self>;
    type Combs = [Comb<Self::Field>; AT_ONCE / Self::LANES];
    const LANES: usize = 8;
    /// A vector takes the time of 1.2 (Zen 5) to 1.7 (Zen 4) of graviola's multiplications.
    const WORTH_A_VECTOR: usize = 2;

    #[inline(always)]
    fn field(self) -> Radix51<Self> {
        Radix51(self)
    }

    #[inline(always)]
    fn load(self, numbers: &[u64; 8]) -> __m512i {
        self.load(numbers)
    }

    #[inline(always)]
    fn store(self, numbers: &mut [u64; 8], v: __m512i) {
        self.store(numbers, v);
    }

    fn run(self, job: impl Job<Self>) {
        self.run(job);
    }
}

impl Engine for Ifma {
    fn name(&self) -> &'static str {
        "ifma"
    }

    fn lanes(&self) -> usize {
        Avx512::LANES
    }

    fn x25519_batch(&self, scalars: &[[u8; 32]], points: &[[u8; 32]], out: &mut [[u8; 32]]) {
        match Avx512::detect() {
            Some(cpu) => vectors::batch(cpu, scalars, points, out),
            None => one_by_one().x25519_batch(scalars, points, out),
        }
    }

    fn x25519_base_batch(&self, scalars: &[[u8; 32]], out: &mut [[u8; 32]]) {
        match Avx512::detect() {
            Some(cpu) => vectors::base_batch(cpu, scalars, out),
            None => one_by_one().x25519_base_batch(scalars, out),
        }
    }

    fn x25519_twice(
        &self,
        scalars: &[[u8; 32]],
        points: &[[u8; 32]],
        between: &mut Between<'_>,
        out: &mut [[u8; 32]],
    ) {
        match Avx512::detect() {
            Some(cpu) => vectors::twice(cpu, scalars, points, between, out),
            None => one_by_one().x25519_twice(scalars, points, between, out),
        }
    }

    fn sha256_batch(&self, states: &mut [[u32; 8]], blocks: &[&[[u8; 64]]]) {
        sha256::compress(Avx512::detect(), states, blocks);
    }

    fn aes_ctr(&self, key: &[u8; 16], iv: &[u8; 16], skip: u32, data: &mut [u8]) {
        let Some(cpu) = Vaes::detect() else {
            return one_by_one().aes_ctr(key, iv, skip, data);
        };
        let counter = u128::from_be_bytes(*iv).wrapping_add(skip.into());
        aes::apply_keystream(cpu, key, counter, data);
    }
}
