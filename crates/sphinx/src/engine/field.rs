//! X25519 for many lanes at once: the field of 2^255 - 19, the Montgomery ladder of RFC 7748 and the shared inversion.
//!
//! All of it is written once over [`Lanes`], a machine of 64-bit lanes, and [`Field`], a way to hold numbers modulo
//! 2^255 - 19 in them, and knows no instruction set. `x86` has the machines that ship. The tests run the same source on
//! two others: one of plain integers, which checks every overflow, and one of intervals, which is the proof of the bounds:
//! each operation is carried out on all values that its operands can have for any input, and none may leave what its
//! lane, or the bits of a multiplication, can hold. For them the larger parts are not inlined, which would take the compiler
//! minutes.
//!
//! | field | limbs | machine |
//! |---|---|---|
//! | [`radix51`] | five of 51 bits | AVX-512 IFMA, which multiplies 52 bits |
//! | [`radix25`] | ten of 26 and 25 bits in turns | AVX2, which multiplies 32 bits |
//!
//! # Secrets
//!
//! Scalars and coordinates meet no branch and no index: a ladder step chooses by [`Lanes::select`], and all loop
//! counts are constants. The lanes never mix, except that they share the instructions.

#![allow(
    clippy::inline_always,
    reason = "only what is inlined into a function with the CPU feature can use it: a call each would cost fifty-fold"
)]

pub(super) mod radix25;
pub(super) mod radix51;

use super::base::WINDOWS;
use crate::scratch::{Scratch, Zero};

/// A machine that computes on lanes of 64 bits.
///
/// Arithmetic must not leave the lane, except by [`shl`](Self::shl), and that is proved of the code in this file and
/// its fields.
pub(super) trait Lanes: Copy {
    /// One number a lane.
    type V: Zero;
    /// One bit a lane.
    type Mask: Copy;

    fn splat(self, x: u64) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    fn or(self, a: Self::V, b: Self::V) -> Self::V;
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    /// Bits shifted out at the top are lost.
    fn shl<const BITS: u32>(self, a: Self::V) -> Self::V;
    fn shr<const BITS: u32>(self, a: Self::V) -> Self::V;
    fn times_19(self, a: Self::V) -> Self::V;
    /// Whether the top bit is set.
    fn top_bit(self, a: Self::V) -> Self::Mask;
    fn is_zero(self, a: Self::V) -> Self::Mask;
    /// `b` where the mask is set, else `a`.
    fn select(self, mask: Self::Mask, a: Self::V, b: Self::V) -> Self::V;
}

/// Numbers modulo 2^255 - 19 on the lanes of a machine.
///
/// Products are added and subtracted before they are carried, which saves carries.
pub(super) trait Field: Copy {
    /// The machine.
    type M: Lanes;
    /// An element that can be multiplied.
    type Fe: Zero;
    /// An element that must be carried before it is multiplied. A type of its own, so that none is by mistake.
    type Wide: Copy;
    /// An element in as few vectors as it fits into.
    type Packed: Zero;
    /// `y + x`, `y - x` and `2 d x y` of eight points, see [`base`](super::base).
    type Multiples: Sync + 'static;
    /// The multiples of the base point.
    const BASE: &'static [Self::Multiples; WINDOWS];

    fn machine(self) -> Self::M;
    /// The element of five limbs of 51 bits.
    fn with_limbs(self, limbs: &[V<Self>; 5]) -> Self::Fe;
    /// Limbs below 2^51 + 2^43 of the same number.
    fn limbs(self, a: &Self::Fe) -> [V<Self>; 5];
    fn mul(self, a: &Self::Fe, b: &Self::Fe, bias: Bias) -> Self::Wide;
    /// [`mul`](Self::mul) of an element with itself.
    fn square(self, a: &Self::Fe, bias: Bias) -> Self::Wide;
    fn add(self, a: &Self::Wide, b: &Self::Wide) -> Self::Wide;
    /// `a - b`, where `a` has a [`Bias::Minuend`].
    fn sub(self, a: &Self::Wide, b: &Self::Wide) -> Self::Wide;
    /// `acc + 121665 e`
    fn add_121665_times(self, acc: &Self::Wide, e: &Self::Fe) -> Self::Wide;
    fn wide(self, a: &Self::Fe) -> Self::Wide;
    /// `a` with a [`Bias::Minuend`].
    fn biased(self, a: &Self::Wide) -> Self::Wide;
    fn carry(self, a: &Self::Wide) -> Self::Fe;
    /// `b` where the mask is set, else `a`.
    fn select(self, mask: Mask<Self>, a: &Self::Fe, b: &Self::Fe) -> Self::Fe;
    /// `b` where the mask is set, else `a`.
    fn select_wide(self, mask: Mask<Self>, a: &Self::Wide, b: &Self::Wide) -> Self::Wide;
    fn pack(self, a: &Self::Fe) -> Self::Packed;
    fn unpack(self, a: &Self::Packed) -> Self::Fe;
    /// `b` where the mask is set, else `a`.
    fn select_packed(self, mask: Mask<Self>, a: &Self::Packed, b: &Self::Packed) -> Self::Packed;
    /// `a + n`, where `n` is one at most and the lowest limb of `a` has room for it.
    fn plus(self, a: &Self::Fe, n: V<Self>) -> Self::Fe;
    /// A part of the multiple at `place` modulo 8; zero where the mask is set. All of the eight are read, whatever the places are.
    fn lookup(self, zero: Mask<Self>, multiples: &Self::Multiples, part: usize, place: V<Self>) -> Self::Fe;
}

/// One number a lane.
pub(super) type V<F> = <<F as Field>::M as Lanes>::V;

/// One bit a lane.
pub(super) type Mask<F> = <<F as Field>::M as Lanes>::Mask;

/// Four words, the least first: 32 bytes as they travel.
pub(super) type Words<V> = [V; 4];

/// The coordinates `(x, z)` of points `x / z`.
pub(super) type Projective<F> = [<F as Field>::Fe; 2];

/// What a product starts from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// Zero.
    None,
    /// A multiple of p above any product, which can then be subtracted.
    Minuend,
}

pub(super) const LIMB: u64 = (1 << 51) - 1;

/// How many vectors share one inversion. More than eight gain under one percent.
pub(super) const GROUP: usize = 8;

/// A known element.
#[inline(always)]
pub(super) fn constant<F: Field>(f: F, limbs: [u64; 5]) -> F::Fe {
    let m = f.machine();
    let [a, b, c, d, e] = limbs;
    f.with_limbs(&[m.splat(a), m.splat(b), m.splat(c), m.splat(d), m.splat(e)])
}

#[inline(always)]
pub(super) fn one<F: Field>(f: F) -> F::Fe {
    constant(f, [1, 0, 0, 0, 0])
}

/// The product, carried.
#[cfg_attr(not(test), inline(always))]
pub(super) fn product<F: Field>(f: F, a: &F::Fe, b: &F::Fe) -> F::Fe {
    f.carry(&f.mul(a, b, Bias::None))
}

/// The two points of the ladder between its steps, as sums and differences of their coordinates.
#[derive(Clone, Copy)]
struct Rung<Fe> {
    /// `x2 + z2`
    a: Fe,
    /// `x2 - z2`
    b: Fe,
    /// `x3 + z3`
    c: Fe,
    /// `x3 - z3`
    d: Fe,
}

/// The two points of the ladder as a step leaves them; `x2` and `x3` with a bias.
#[derive(Clone, Copy)]
struct Step<Wide> {
    x2: Wide,
    z2: Wide,
    x3: Wide,
    z3: Wide,
}

/// The step of RFC 7748, section 5, with its swap in front where the mask is set. The names are the RFC's; products
/// stand in this order because they measure best in it.
#[cfg_attr(not(test), inline(always))]
fn step<F: Field>(f: F, rung: &Rung<F::Fe>, swap: Mask<F>, x1: &F::Fe) -> Step<F::Wide> {
    // A swap changes only the sign of `DA - CB`, which is squared. So only what is squared alone has to be swapped.
    let a = f.select(swap, &rung.a, &rung.c);
    let b = f.select(swap, &rung.b, &rung.d);
    let da = f.mul(&rung.d, &rung.a, Bias::Minuend);
    let cb = f.mul(&rung.c, &rung.b, Bias::None);
    let aa = f.square(&a, Bias::Minuend);
    let bb = f.square(&b, Bias::None);
    let difference = f.carry(&f.sub(&da, &cb));
    let sum = f.carry(&f.add(&da, &cb));
    let difference_squared = f.carry(&f.square(&difference, Bias::None));
    let e = f.carry(&f.sub(&aa, &bb));
    let aa_reduced = f.carry(&aa);
    let bb = f.carry(&bb);
    let x2 = f.mul(&aa_reduced, &bb, Bias::Minuend);
    let aa_plus = f.carry(&f.add_121665_times(&aa, &e));
    let x3 = f.square(&sum, Bias::Minuend);
    let z3 = f.mul(&difference_squared, x1, Bias::None);
    let z2 = f.mul(&e, &aa_plus, Bias::None);
    Step { x2, z2, x3, z3 }
}

#[cfg_attr(not(test), inline(always))]
fn rung<F: Field>(f: F, step: &Step<F::Wide>) -> Rung<F::Fe> {
    Rung {
        a: f.carry(&f.add(&step.x2, &step.z2)),
        b: f.carry(&f.sub(&step.x2, &step.z2)),
        c: f.carry(&f.add(&step.x3, &step.z3)),
        d: f.carry(&f.sub(&step.x3, &step.z3)),
    }
}

/// As RFC 7748 says: bits 0 to 2 and 255 are off, bit 254 is on.
#[inline(always)]
pub(super) fn clamp<M: Lanes>(m: M, scalars: &Words<M::V>) -> Words<M::V> {
    [
        m.and(scalars[0], m.splat(!7)),
        scalars[1],
        scalars[2],
        m.or(m.and(scalars[3], m.splat(!0 >> 2)), m.splat(1 << 62)),
    ]
}

/// `z` is zero in the lanes whose product is the neutral element.
#[inline(always)]
pub(super) fn ladder<F: Field>(f: F, scalars: &Words<V<F>>, points: &Words<V<F>>, out: &mut Projective<F>) {
    let m = f.machine();
    let mut k = Scratch::<Words<V<F>>>::new();
    *k = clamp(m, scalars);
    // The swap before step i: bit i and the bit above it. Behind the last step there is none, bit 0 being off.
    let mut swaps = Scratch::<Words<V<F>>>::new();
    swaps[0] = m.xor(k[0], m.or(m.shr::<1>(k[0]), m.shl::<63>(k[1])));
    swaps[1] = m.xor(k[1], m.or(m.shr::<1>(k[1]), m.shl::<63>(k[2])));
    swaps[2] = m.xor(k[2], m.or(m.shr::<1>(k[2]), m.shl::<63>(k[3])));
    swaps[3] = m.shl::<1>(m.xor(k[3], m.shr::<1>(k[3])));

    let x1 = unpack(f, points);
    let one = f.wide(&one(f));
    let mut at = rung(
        f,
        &Step {
            x2: f.biased(&one),
            z2: f.wide(&F::Fe::ZERO),
            x3: f.biased(&f.wide(&x1)),
            z3: one,
        },
    );
    // Bits 254 to 192, then three whole words but for the last bit, behind which the step is taken out of the loop.
    for (word, bits) in [(3, 63), (2, 64), (1, 64), (0, 63)] {
        let mut left = swaps[word];
        for _ in 0..bits {
            let swap = m.top_bit(left);
            left = m.shl::<1>(left);
            at = rung(f, &step(f, &at, swap, &x1));
        }
    }
    let last = step(f, &at, m.top_bit(m.shl::<63>(swaps[0])), &x1);
    out[0] = f.carry(&last.x2);
    out[1] = f.carry(&last.z2);
}

/// `x / z` of up to [`GROUP`] vectors with one inversion (Montgomery's trick), canonical; zero where `z` is zero, which
/// leaves the other lanes alone: lanes have inversions of their own, and a zero in another vector is replaced.
#[inline(always)]
pub(super) fn affine<F: Field>(f: F, points: &[Projective<F>], out: &mut [Words<V<F>>]) {
    let mut nonzero = Scratch::<[F::Fe; GROUP]>::new();
    let mut products = Scratch::<[F::Fe; GROUP]>::new();
    let count = points.len().min(GROUP).min(out.len());
    let mut all = one(f);
    for at in 0..count {
        let z = &points[at][1];
        nonzero[at] = f.select(zeros(f, z), z, &one(f));
        products[at] = all;
        all = product(f, &all, &nonzero[at]);
    }
    let mut inverse = invert(f, &all);
    for at in (0..count).rev() {
        let [x, z] = &points[at];
        let z_inverse = product(f, &inverse, &products[at]);
        inverse = product(f, &inverse, &nonzero[at]);
        let quotient = product(f, x, &z_inverse);
        let quotient = f.select(zeros(f, z), &quotient, &F::Fe::ZERO);
        out[at] = pack(f.machine(), &canonical(f, &quotient));
    }
}

/// The lanes whose element is zero modulo p.
#[inline(always)]
pub(super) fn zeros<F: Field>(f: F, x: &F::Fe) -> Mask<F> {
    let (m, t) = (f.machine(), canonical(f, x));
    m.is_zero(m.or(m.or(m.or(t[0], t[1]), m.or(t[2], t[3])), t[4]))
}

#[cfg_attr(not(test), inline(always))]
fn square_times<F: Field>(f: F, x: &F::Fe, times: usize) -> F::Fe {
    let mut x = *x;
    for _ in 0..times {
        x = f.carry(&f.square(&x, Bias::None));
    }
    x
}

/// `x^(2^250 - 1)` and `x^11`, in the usual chain. `x_n` is `x^(2^n - 1)`.
#[inline(always)]
fn power_250<F: Field>(f: F, x: &F::Fe) -> [F::Fe; 2] {
    let to_2 = square_times(f, x, 1);
    let to_9 = product(f, &square_times(f, &to_2, 2), x);
    let to_11 = product(f, &to_9, &to_2);
    let x_5 = product(f, &square_times(f, &to_11, 1), &to_9);
    let x_10 = product(f, &square_times(f, &x_5, 5), &x_5);
    let x_20 = product(f, &square_times(f, &x_10, 10), &x_10);
    let x_40 = product(f, &square_times(f, &x_20, 20), &x_20);
    let x_50 = product(f, &square_times(f, &x_40, 10), &x_10);
    let x_100 = product(f, &square_times(f, &x_50, 50), &x_50);
    let x_200 = product(f, &square_times(f, &x_100, 100), &x_100);
    [product(f, &square_times(f, &x_200, 50), &x_50), to_11]
}

/// `x^(p - 2)`: 254 squarings and 11 multiplications.
#[inline(always)]
fn invert<F: Field>(f: F, x: &F::Fe) -> F::Fe {
    let [x_250, to_11] = power_250(f, x);
    product(f, &square_times(f, &x_250, 5), &to_11)
}

/// `x^((p - 5) / 8)`, where the exponent is 2^252 - 3.
#[inline(always)]
pub(super) fn power_p58<F: Field>(f: F, x: &F::Fe) -> F::Fe {
    let [x_250, _] = power_250(f, x);
    product(f, &square_times(f, &x_250, 2), x)
}

/// The element of 32 bytes; bit 255 is dropped, as RFC 7748 says.
#[inline(always)]
pub(super) fn unpack<F: Field>(f: F, words: &Words<V<F>>) -> F::Fe {
    let m = f.machine();
    let limb = m.splat(LIMB);
    f.with_limbs(&[
        m.and(words[0], limb),
        m.and(m.or(m.shr::<51>(words[0]), m.shl::<13>(words[1])), limb),
        m.and(m.or(m.shr::<38>(words[1]), m.shl::<26>(words[2])), limb),
        m.and(m.or(m.shr::<25>(words[2]), m.shl::<39>(words[3])), limb),
        m.and(m.shr::<12>(words[3]), limb),
    ])
}

/// 32 bytes of limbs below 2^51.
#[inline(always)]
fn pack<M: Lanes>(m: M, t: &[M::V; 5]) -> Words<M::V> {
    [
        m.or(t[0], m.shl::<51>(t[1])),
        m.or(m.shr::<13>(t[1]), m.shl::<38>(t[2])),
        m.or(m.shr::<26>(t[2]), m.shl::<25>(t[3])),
        m.or(m.shr::<39>(t[3]), m.shl::<12>(t[4])),
    ]
}

/// The limbs, each below 2^51, of the one number below p.
#[inline(always)]
fn canonical<F: Field>(f: F, x: &F::Fe) -> [V<F>; 5] {
    let m = f.machine();
    let mut t = almost_canonical(m, &f.limbs(x));
    // Below 2p: one p has to go, or none. It has to if 19 more reach 2^255.
    let mut beyond = m.shr::<51>(m.add(t[0], m.splat(19)));
    beyond = m.shr::<51>(m.add(t[1], beyond));
    beyond = m.shr::<51>(m.add(t[2], beyond));
    beyond = m.shr::<51>(m.add(t[3], beyond));
    beyond = m.shr::<51>(m.add(t[4], beyond));
    t[0] = m.add(t[0], m.times_19(beyond));
    let limb = m.splat(LIMB);
    for at in 0..4 {
        t[at + 1] = m.add(t[at + 1], m.shr::<51>(t[at]));
        t[at] = m.and(t[at], limb);
    }
    t[4] = m.and(t[4], limb);
    t
}

/// Two passes of carries from limb to limb: the number is below 2^255 + 2^18, the upper limbs are below 2^51.
#[inline(always)]
fn almost_canonical<M: Lanes>(m: M, limbs: &[M::V; 5]) -> [M::V; 5] {
    let limb = m.splat(LIMB);
    let mut t = *limbs;
    for _ in 0..2 {
        for at in 0..4 {
            t[at + 1] = m.add(t[at + 1], m.shr::<51>(t[at]));
            t[at] = m.and(t[at], limb);
        }
        t[0] = m.add(t[0], m.times_19(m.shr::<51>(t[4])));
        t[4] = m.and(t[4], limb);
    }
    t
}

#[cfg(test)]
mod tests;
