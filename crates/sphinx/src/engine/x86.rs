//! The instructions of x86-64 that the wide engines are made of, and all of this crate's unsafe code.
//!
//! # Why it is sound
//!
//! Nearly every function here is unsafe for one reason: the instruction may be missing. [`Avx512`], [`Avx2`],
//! [`Sha`] and [`Vaes`] are the proofs that it is not. Each has a private field and comes from its `detect` alone, which asks the
//! CPU, and the operating system that must save its registers, for each feature that its `run` enables; its methods
//! use no others. Whoever holds one may therefore call any of its methods, so they are safe; no use of them can be
//! undefined, only slow, see [`Job`].
//!
//! One instruction is written as assembly, of registers alone and without side effects.
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
use super::field::radix25::{Mul32, add_product, add_square};
use super::field::radix51::Madd52;
use crate::scratch::Zero;

/// The CPU has AVX-512 with the parts F, BW, DQ, VL and IFMA, and BMI2.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// The CPU has AVX2 and BMI2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// The CPU has SHA, SSE 4.1 and AVX.
#[derive(Clone, Copy)]
pub(super) struct Sha(());

/// The CPU has AES instructions for vectors of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Vaes(());

/// Something to compute with the instructions of [`Avx512`], [`Avx2`], [`Sha`] or [`Vaes`].
pub(super) trait Job<Cpu> {
    /// Computes it. Everything that this calls and that takes a `Cpu` is to be `#[inline(always)]`, the implementation
    /// first: only what ends up inside of the `run` of `Cpu` is compiled for its features. Closures don't.
    fn run(self, cpu: Cpu);
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

cpufeatures::new!(has_avx2, "avx2", "bmi2");

cpufeatures::new!(has_sha, "sha", "sse4.1", "ssse3", "avx");

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        has_avx512::get().then_some(Self(()))
    }

    /// Computes a job with the CPU's features enabled, in a stack frame of its own, which the caller may overwrite.
    pub(super) fn run(self, job: impl Job<Self>) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
        #[inline(never)]
        fn enabled(cpu: Avx512, job: impl Job<Avx512>) {
            job.run(cpu);
        }
        // SAFETY: there is an `Avx512`, so the CPU has these features.
        unsafe { enabled(self, job) }
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

/// Lanes of 32 bits, sixteen a vector.
// SAFETY of every block: there is an `Avx512`, so the CPU has AVX-512F and BW; nothing else is required of the
// arguments but where something is read or written.
impl Avx512 {
    #[inline(always)]
    pub(super) fn load_32(self, numbers: &[u32; 16]) -> __m512i {
        // SAFETY: and 64 bytes are read of a reference to 64 bytes, which may lie anywhere.
        unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
    }

    #[inline(always)]
    pub(super) fn store_32(self, numbers: &mut [u32; 16], v: __m512i) {
        // SAFETY: and 64 bytes are written to a reference to 64 bytes, which may lie anywhere.
        unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), v) }
    }

    /// Sixteen numbers of four bytes, the most significant first.
    #[inline(always)]
    pub(super) fn load_big_endian(self, bytes: &[u8; 64]) -> __m512i {
        // SAFETY: and 64 bytes are read of a reference to 64 bytes, which may lie anywhere.
        unsafe {
            let order = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
            _mm512_shuffle_epi8(_mm512_loadu_si512(bytes.as_ptr().cast()), order)
        }
    }

    #[inline(always)]
    pub(super) fn splat_32(self, x: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(x.cast_signed()) }
    }

    /// Modulo 2^32.
    #[inline(always)]
    pub(super) fn add_32(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    pub(super) fn rotate_right_32<const BITS: i32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_ror_epi32::<BITS>(a) }
    }

    #[inline(always)]
    pub(super) fn shift_right_32<const BITS: u32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_srli_epi32::<BITS>(a) }
    }

    /// A function of three bits, for every bit: bit `4 a + 2 b + c` of `TABLE`.
    #[inline(always)]
    pub(super) fn bits<const TABLE: i32>(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        unsafe { _mm512_ternarylogic_epi32::<TABLE>(a, b, c) }
    }

    /// Of four times four numbers: those at 0 and 1 of `a` and of `b` in turns, and those at 2 and 3.
    #[inline(always)]
    pub(super) fn interleave_32(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
        unsafe { [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)] }
    }

    /// Of four times two pairs of numbers: the first pair of `a` and of `b`, and the second ones.
    #[inline(always)]
    pub(super) fn interleave_pairs(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
        unsafe { [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)] }
    }

    /// Of four quadruples of numbers: those at 0 and 2 of `a`, then of `b`, and those at 1 and 3.
    #[inline(always)]
    pub(super) fn even_and_odd_quadruples(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
        unsafe {
            [
                _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b),
            ]
        }
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

// SAFETY of every block: as above.
impl Madd52 for Avx512 {
    #[inline(always)]
    fn madd_lo(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_madd52lo_epu64(acc, a, b) }
    }

    #[inline(always)]
    fn madd_hi(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_madd52hi_epu64(acc, a, b) }
    }

    #[inline(always)]
    fn lookup(self, zero: __mmask8, table: &[u64; 8], place: __m512i) -> __m512i {
        unsafe { _mm512_maskz_permutexvar_epi64(!zero, place, self.load(table)) }
    }
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        has_avx2::get().then_some(Self(()))
    }

    /// Computes a job with the CPU's features enabled, in a stack frame of its own, which the caller may overwrite.
    pub(super) fn run(self, job: impl Job<Self>) {
        #[target_feature(enable = "avx2,bmi2")]
        #[inline(never)]
        fn enabled(cpu: Avx2, job: impl Job<Avx2>) {
            job.run(cpu);
        }
        // SAFETY: there is an `Avx2`, so the CPU has these features.
        unsafe { enabled(self, job) }
    }

    #[inline(always)]
    pub(super) fn load(self, numbers: &[u64; 4]) -> __m256i {
        // SAFETY: the CPU has AVX2; 32 bytes are read of a reference to 32 bytes, which may lie anywhere.
        unsafe { _mm256_loadu_si256(numbers.as_ptr().cast()) }
    }

    #[inline(always)]
    pub(super) fn store(self, numbers: &mut [u64; 4], v: __m256i) {
        // SAFETY: the CPU has AVX2; 32 bytes are written to a reference to 32 bytes, which may lie anywhere.
        unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), v) }
    }
}

impl Zero for __m256i {
    // SAFETY: all bit patterns of a vector of integers are values of it.
    const ZERO: Self = unsafe { core::mem::zeroed() };
}

// SAFETY of every block below: there is an `Avx2`, so the CPU has AVX2; nothing else is required of the arguments but where
// something is read.
impl Lanes for Avx2 {
    type V = __m256i;
    /// The top bit of each lane.
    type Mask = __m256i;

    #[inline(always)]
    fn splat(self, x: u64) -> __m256i {
        unsafe { _mm256_set1_epi64x(x.cast_signed()) }
    }

    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi64(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_sub_epi64(a, b) }
    }

    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_xor_si256(a, b) }
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, a: __m256i) -> __m256i {
        unsafe { _mm256_sll_epi64(a, _mm_cvtsi64_si128(i64::from(BITS))) }
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, a: __m256i) -> __m256i {
        unsafe { _mm256_srl_epi64(a, _mm_cvtsi64_si128(i64::from(BITS))) }
    }

    #[inline(always)]
    fn times_19(self, a: __m256i) -> __m256i {
        self.add(a, self.add(self.shl::<1>(a), self.shl::<4>(a)))
    }

    #[inline(always)]
    fn top_bit(self, a: __m256i) -> __m256i {
        a
    }

    #[inline(always)]
    fn is_zero(self, a: __m256i) -> __m256i {
        unsafe { _mm256_cmpeq_epi64(a, _mm256_setzero_si256()) }
    }

    #[inline(always)]
    fn select(self, mask: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe {
            _mm256_castpd_si256(_mm256_blendv_pd(
                _mm256_castsi256_pd(a),
                _mm256_castsi256_pd(b),
                _mm256_castsi256_pd(mask),
            ))
        }
    }
}

// SAFETY of every block: as above.
impl Mul32 for Avx2 {
    #[inline(always)]
    fn mul_32(self, a: __m256i, b: __m256i) -> __m256i {
        #[target_feature(enable = "avx2")]
        #[inline]
        fn enabled(a: __m256i, b: __m256i) -> __m256i {
            let product;
            // SAFETY: it reads and writes these registers and nothing else. The intrinsic would do, if the compiler didn't
            // turn it into a product of 64 bits, drop the masks that it finds superfluous, and then make three
            // multiplications of it.
            unsafe {
                core::arch::asm!(
                    "vpmuludq {product}, {a}, {b}",
                    product = lateout(ymm_reg) product,
                    a = in(ymm_reg) a,
                    b = in(ymm_reg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            product
        }
        unsafe { enabled(a, b) }
    }

    #[inline(always)]
    fn add_product_25(self, t: &mut [__m256i; 10], a: &[__m256i; 10], b: &[__m256i; 10]) {
        #[target_feature(enable = "avx2,bmi2")]
        #[inline(never)]
        fn enabled(cpu: Avx2, t: &mut [__m256i; 10], a: &[__m256i; 10], b: &[__m256i; 10]) {
            add_product(cpu, t, a, b);
        }
        unsafe { enabled(self, t, a, b) }
    }

    #[inline(always)]
    fn add_square_25(self, t: &mut [__m256i; 10], a: &[__m256i; 10]) {
        #[target_feature(enable = "avx2,bmi2")]
        #[inline(never)]
        fn enabled(cpu: Avx2, t: &mut [__m256i; 10], a: &[__m256i; 10]) {
            add_square(cpu, t, a);
        }
        unsafe { enabled(self, t, a) }
    }

    #[inline(always)]
    fn lookup_32(self, zero: __m256i, table: &[u32; 8], place: __m256i) -> __m256i {
        // SAFETY: and 32 bytes are read of a reference to 32 bytes, which may lie anywhere.
        unsafe {
            let found = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(table.as_ptr().cast()), place);
            // The upper half of a lane has looked up the place zero.
            let kept = _mm256_andnot_si256(zero, _mm256_set1_epi64x(0xffff_ffff));
            _mm256_and_si256(found, kept)
        }
    }
}

impl Sha {
    pub(super) fn detect() -> Option<Self> {
        has_sha::get().then_some(Self(()))
    }

    /// Computes a job with the CPU's features enabled.
    pub(super) fn run(self, job: impl Job<Self>) {
        #[target_feature(enable = "sha,sse4.1,ssse3,avx")]
        #[inline(never)]
        fn enabled(cpu: Sha, job: impl Job<Sha>) {
            // Upper halves that somebody left in use (graviola does) would make every SHA instruction wait for them.
            _mm256_zeroupper();
            job.run(cpu);
        }
        // SAFETY: there is a `Sha`, so the CPU has these features.
        unsafe { enabled(self, job) }
    }
}

/// Lanes of 32 bits, four a vector; the SHA instructions are those of one message.
// SAFETY of every block: there is a `Sha`, so the CPU has SHA, SSSE3, SSE 4.1 and AVX; nothing else is required of the
// arguments but where something is read or written.
impl Sha {
    #[inline(always)]
    pub(super) fn load(self, numbers: &[u32; 4]) -> __m128i {
        // SAFETY: and 16 bytes are read of a reference to 16 bytes, which may lie anywhere.
        unsafe { _mm_loadu_si128(numbers.as_ptr().cast()) }
    }

    #[inline(always)]
    pub(super) fn store(self, numbers: &mut [u32; 4], v: __m128i) {
        // SAFETY: and 16 bytes are written to a reference to 16 bytes, which may lie anywhere.
        unsafe { _mm_storeu_si128(numbers.as_mut_ptr().cast(), v) }
    }

    /// Four numbers of four bytes, the most significant first.
    #[inline(always)]
    pub(super) fn load_big_endian(self, bytes: &[u8; 16]) -> __m128i {
        // SAFETY: and 16 bytes are read of a reference to 16 bytes, which may lie anywhere.
        unsafe {
            let order = _mm_set_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
            _mm_shuffle_epi8(_mm_loadu_si128(bytes.as_ptr().cast()), order)
        }
    }

    /// Modulo 2^32.
    #[inline(always)]
    pub(super) fn add(self, a: __m128i, b: __m128i) -> __m128i {
        unsafe { _mm_add_epi32(a, b) }
    }

    /// The numbers at the places of `ORDER`, two bits each.
    #[inline(always)]
    pub(super) fn shuffle<const ORDER: i32>(self, a: __m128i) -> __m128i {
        unsafe { _mm_shuffle_epi32::<ORDER>(a) }
    }

    /// `low` and, above it, `high`, without the `BYTES` lowest bytes.
    #[inline(always)]
    pub(super) fn join<const BYTES: i32>(self, high: __m128i, low: __m128i) -> __m128i {
        unsafe { _mm_alignr_epi8::<BYTES>(high, low) }
    }

    /// Two rounds of SHA-256, on `C D G H` and `A B E F`.
    #[inline(always)]
    pub(super) fn two_rounds(self, cdgh: __m128i, abef: __m128i, w_and_k: __m128i) -> __m128i {
        unsafe { _mm_sha256rnds2_epu32(cdgh, abef, w_and_k) }
    }

    /// The first part of the message schedule.
    #[inline(always)]
    pub(super) fn schedule_1(self, a: __m128i, b: __m128i) -> __m128i {
        unsafe { _mm_sha256msg1_epu32(a, b) }
    }

    /// The second part of the message schedule.
    #[inline(always)]
    pub(super) fn schedule_2(self, a: __m128i, b: __m128i) -> __m128i {
        unsafe { _mm_sha256msg2_epu32(a, b) }
    }
}

cpufeatures::new!(has_vaes, "vaes", "aes", "avx512f", "avx512bw");

impl Vaes {
    pub(super) fn detect() -> Option<Self> {
        has_vaes::get().then_some(Self(()))
    }

    /// Computes a job with the CPU's features enabled.
    pub(super) fn run(self, job: impl Job<Self>) {
        #[target_feature(enable = "vaes,aes,avx512f,avx512bw")]
        #[inline(never)]
        fn enabled(cpu: Vaes, job: impl Job<Vaes>) {
            job.run(cpu);
        }
        // SAFETY: there is a `Vaes`, so the CPU has these features.
        unsafe { enabled(self, job) }
    }
}

/// Four blocks of AES a vector.
// SAFETY of every block: there is a `Vaes`, so the CPU has VAES, AES, and AVX-512F and BW; nothing else is required
// of the arguments but where something is read or written.
impl Vaes {
    /// The round keys of AES-128 (FIPS 197, section 5.2), four times each.
    #[inline(always)]
    pub(super) fn round_keys(self, key: &[u8; 16]) -> [__m512i; 11] {
        // SAFETY: and 16 bytes are read of a reference to 16 bytes, which may lie anywhere.
        unsafe {
            let mut key = _mm_loadu_si128(key.as_ptr().cast());
            let mut keys = [_mm512_broadcast_i32x4(key); 11];
            macro_rules! round {
                ($at:literal, $constant:literal) => {
                    let assist = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>(key));
                    // Each word is the sum of those up to it.
                    key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
                    key = _mm_xor_si128(key, _mm_slli_si128::<8>(key));
                    key = _mm_xor_si128(key, assist);
                    keys[$at] = _mm512_broadcast_i32x4(key);
                };
            }
            round!(1, 0x01);
            round!(2, 0x02);
            round!(3, 0x04);
            round!(4, 0x08);
            round!(5, 0x10);
            round!(6, 0x20);
            round!(7, 0x40);
            round!(8, 0x80);
            round!(9, 0x1b);
            round!(10, 0x36);
            keys
        }
    }

    #[inline(always)]
    pub(super) fn load(self, bytes: &[u8; 64]) -> __m512i {
        // SAFETY: and 64 bytes are read of a reference to 64 bytes, which may lie anywhere.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    pub(super) fn store(self, bytes: &mut [u8; 64], v: __m512i) {
        // SAFETY: and 64 bytes are written to a reference to 64 bytes, which may lie anywhere.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), v) }
    }

    /// Four numbers of 128 bits.
    #[inline(always)]
    pub(super) fn load_numbers(self, numbers: [u128; 4]) -> __m512i {
        // SAFETY: and 64 bytes are read of a reference to 64 bytes, which may lie anywhere.
        unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
    }

    /// Four numbers of 128 bits as bytes, the most significant first.
    #[inline(always)]
    pub(super) fn big_endian(self, numbers: __m512i) -> __m512i {
        unsafe {
            let order = _mm512_set4_epi32(0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f);
            _mm512_shuffle_epi8(numbers, order)
        }
    }

    /// `N` added to each of four numbers of 128 bits, modulo 2^128.
    #[inline(always)]
    pub(super) fn add<const N: i64>(self, numbers: __m512i) -> __m512i {
        unsafe {
            let n = _mm512_set4_epi64(0, N, 0, N);
            let sum = _mm512_add_epi64(numbers, n);
            // The low half is below what was added to it: the high one, a place further, gets the carry.
            let carries = _mm512_cmplt_epu64_mask(sum, n) << 1;
            _mm512_mask_add_epi64(sum, carries, sum, _mm512_set1_epi64(1))
        }
    }

    #[inline(always)]
    pub(super) fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    pub(super) fn round(self, blocks: __m512i, key: __m512i) -> __m512i {
        unsafe { _mm512_aesenc_epi128(blocks, key) }
    }

    #[inline(always)]
    pub(super) fn last_round(self, blocks: __m512i, key: __m512i) -> __m512i {
        unsafe { _mm512_aesenclast_epi128(blocks, key) }
    }
}
