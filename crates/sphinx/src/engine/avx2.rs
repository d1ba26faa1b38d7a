//! The engine with vectors of AVX2, four lanes at once.

use core::arch::x86_64::__m256i;

use super::edwards::Comb;
use super::field::radix25::Radix25;
use super::vectors::{self, Vectors};
use super::x86::{Avx2, Job};
use super::{AT_ONCE, Between, Engine, one_by_one};

pub(super) struct FourLanes;

impl FourLanes {
    pub(super) fn is_supported() -> bool {
        Avx2::detect().is_some()
    }
}

impl Vectors for Avx2 {
    type Numbers = [u64; 4];
    type Field = Radix25<Self>;
    type Combs = [Comb<Self::Field>; AT_ONCE / Self::LANES];
    const LANES: usize = 4;
    const WORTH_A_VECTOR: usize = 3;

    #[inline(always)]
    fn field(self) -> Radix25<Self> {
        Radix25(self)
    }

    #[inline(always)]
    fn load(self, numbers: &[u64; 4]) -> __m256i {
        self.load(numbers)
    }

    #[inline(always)]
    fn store(self, numbers: &mut [u64; 4], v: __m256i) {
        self.store(numbers, v);
    }

    fn run(self, job: impl Job<Self>) {
        self.run(job);
    }
}

impl Engine for FourLanes {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn lanes(&self) -> usize {
        Avx2::LANES
    }

    fn x25519_batch(&self, scalars: &[[u8; 32]], points: &[[u8; 32]], out: &mut [[u8; 32]]) {
        match Avx2::detect() {
            Some(cpu) => vectors::batch(cpu, scalars, points, out),
            None => one_by_one().x25519_batch(scalars, points, out),
        }
    }

    fn x25519_base_batch(&self, scalars: &[[u8; 32]], out: &mut [[u8; 32]]) {
        match Avx2::detect() {
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
        match Avx2::detect() {
            Some(cpu) => vectors::twice(cpu, scalars, points, between, out),
            None => one_by_one().x25519_twice(scalars, points, between, out),
        }
    }
}
