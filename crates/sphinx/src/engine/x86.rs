//! The instructions of x86-64 that the wide engines are made of, and all of this crate's unsafe code.
//!
//! # Why it is sound
//!
//! Nearly every function here is unsafe for one reason: the instruction may be missing. [`Avx512`] is the proof that it is
//! not. It has a private field and comes from [`Avx512::detect`] alone, which asks the CPU (and the operating system,
//! which must save the registers) for each feature that [`Avx512::run`] enables and no function uses another. Whoever holds an `Avx512`
//! may therefore run any of its methods, so they are safe to call; no use of them can be undefined, only slow, see
//! [`Avx512::run`].
//!
//! The rest are reads and writes of vectors through references to arrays of their size, with instructions that need
//! no alignment, and the zero of a vector, all of whose bit patterns are values.
#![allow(
    unsafe_code,
    reason = "intrinsics: the module's documentation says why their conditions hold"
)]
#![allow(
    clippy::inline_always,
    reason = "a wrapper that is not inlined into `run` costs a call for each instruction"
)]

use core::arch::x86_64::*;

use super::field::Lanes;
use crate::scratch::Zero;

/// The CPU has AVX-512 with the parts F, BW, DQ, VL and IFMA, and BMI2.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// The stack that a job may have used for secrets, in bytes.
const STACK_LEN: usize = 16 << 10;

/// Something to compute with vectors.
pub(super) trait Job {
    /// Computes it. Everything that this calls and that takes an [`Avx512`] is to be `#[inline(always)]`, the
    /// implementation first: only what ends up inside of [`Avx512::run`] is compiled for the CPU's features.
    /// Closures don't.
    fn run(self, cpu: Avx512);
}

cpufeatures::new!(
    has_avx512,
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512ifma",
    "bmi2"
);

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        has_avx512::get().then_some(Self(()))
    }

    /// Computes a job with the CPU's features enabled.
    pub(super) fn run(self, job: impl Job) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
        fn enabled(cpu: Avx512, job: impl Job) {
            job.run(cpu);
        }
        // SAFETY: there is an `Avx512`, so the CPU has these features.
        unsafe { enabled(self, job) }
        // What the compiler put on the stack of `enabled`, which is never inlined here: the features differ.
        zeroize::zeroize_stack::<STACK_LEN>();
    }

    #[inline(always)]
    pub(super) fn load(self, numbers: &[u64; 8]) -> __m512i {
        // SAFETY: the CPU has AVX-512F; 64 bytes are read of a reference to 64 bytes, which may lie anywhere.
        unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
    }

    #[inline(always)]
    pub(super) fn store(self, numbers: &mut [u64; 8], v: __m512i) {
        // SAFETY: the CPU has AVX-512F; 64 bytes are written to a reference to 64 bytes, which may lie anywhere.
        unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), v) }
    }
}

impl Zero for __m512i {
    // SAFETY: all bit patterns of a vector of integers are values of it.
    const ZERO: Self = unsafe { core::mem::zeroed() };
}

// SAFETY of every block below: there is an `Avx512`, so the CPU has AVX-512F, DQ and IFMA; nothing else is required of
// the arguments.
impl Lanes for Avx512 {
    type V = __m512i;
    type Mask = __mmask8;

    #[inline(always)]
    fn splat(self, x: u64) -> __m512i {
        unsafe { _mm512_set1_epi64(x.cast_signed()) }
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi64(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi64(a, b) }
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi64::<BITS>(a) }
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_srli_epi64::<BITS>(a) }
    }

    #[inline(always)]
    fn madd_lo(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_madd52lo_epu64(acc, a, b) }
    }

    #[inline(always)]
    fn madd_hi(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_madd52hi_epu64(acc, a, b) }
    }

    #[inline(always)]
    fn times_19(self, a: __m512i) -> __m512i {
        unsafe { _mm512_mullo_epi64(a, _mm512_set1_epi64(19)) }
    }

    #[inline(always)]
    fn top_bit(self, a: __m512i) -> __mmask8 {
        unsafe { _mm512_movepi64_mask(a) }
    }

    #[inline(always)]
    fn is_zero(self, a: __m512i) -> __mmask8 {
        unsafe { _mm512_testn_epi64_mask(a, a) }
    }

    #[inline(always)]
    fn select(self, mask: __mmask8, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_mask_blend_epi64(mask, a, b) }
    }
}
