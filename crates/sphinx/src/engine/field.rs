//! X25519 for many lanes at once: the field of 2^255 - 19, the Montgomery ladder of RFC 7748 and the shared inversion.
//!
//! All of it is written once over [`Lanes`], a machine of 64-bit lanes, and knows no instruction set. `x86` is the
//! machine that ships. The tests run the same source on two others: one of plain integers, which checks every
//! overflow, and one of intervals, which is the proof of the bounds below: each operation is carried out on all values
//! that its operands can have for any input, and none may leave what its lane, or the 52 bits of a multiplication,
//! can hold.
//!
//! # Representation
//!
//! A field element is five limbs of 51 bits, `sum t[i] 2^(51 i)`; one element a lane.
//! - [`Fe`] is reduced: limbs below 2^51 + 2^18, so that they fit the multiplier's 52 bits.
//! - [`Wide`] is not: limbs below 2^63. It may only be added, subtracted and carried. Products are added and subtracted
//!   before they are carried, which saves carries; whatever is subtracted from was computed with a [`Bias`].
//!
//! # Secrets
//!
//! Scalars and coordinates meet no branch and no index: a ladder step chooses by [`Lanes::select`], and all loop
//! counts are constants. The lanes never mix, except that they share the instructions.

#![allow(
    clippy::inline_always,
    reason = "only what is inlined into a function with the CPU feature can use it: a call each would cost fifty-fold"
)]

use super::base::Eight;
use crate::scratch::{Scratch, Zero};

/// A machine that computes on lanes of 64 bits.
///
/// Arithmetic must not leave the lane, except by [`shl`](Self::shl), and that is proved of the code in this file.
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
    /// `acc` plus the low 52 bits of the product; the factors have at most 52 bits.
    fn madd_lo(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// `acc` plus the product without its low 52 bits; the factors have at most 52 bits.
    fn madd_hi(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
    fn times_19(self, a: Self::V) -> Self::V;
    /// Whether the top bit is set.
    fn top_bit(self, a: Self::V) -> Self::Mask;
    fn is_zero(self, a: Self::V) -> Self::Mask;
    /// `b` where the mask is set, else `a`.
    fn select(self, mask: Self::Mask, a: Self::V, b: Self::V) -> Self::V;
    /// The number at `place` modulo 8; zero where the mask is set. All of the table is read, whatever the places are.
    fn lookup(self, zero: Self::Mask, table: &Eight, place: Self::V) -> Self::V;
}

/// How many vectors share one inversion. More than eight gain under one percent.
pub(super) const GROUP: usize = 8;

/// Four words of 64 bits a lane, the least first: 32 bytes as they travel.
pub(super) type Words<V> = [V; 4];

/// A reduced field element: limbs below 2^51 + 2^18.
pub(super) type Fe<V> = [V; 5];

/// The coordinates `(x, z)` of points `x / z`.
pub(super) type Projective<V> = [Fe<V>; 2];

/// A field element that must be carried before it is multiplied. A type of its own, so that none is by mistake.
#[derive(Clone, Copy)]
pub(super) struct Wide<V>(pub(super) [V; 5]);

/// What a product starts from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// Zero.
    None,
    /// 2^9 p: above any product, which can then be subtracted.
    Minuend,
}

const LIMB: u64 = (1 << 51) - 1;

/// 25 low and 25 high products. The columns are below 2^56, and with those above 2^255 folded the limbs are below 2^60,
/// with the bias below 2^61.
#[inline(always)]
pub(super) fn mul<M: Lanes>(m: M, a: &Fe<M::V>, b: &Fe<M::V>, bias: Bias) -> Wide<M::V> {
    let mut t = [m.splat(0); 10];
    if bias == Bias::Minuend {
        // Columns 1 and above are doubled below.
        t[0] = m.splat((LIMB - 18) << 9);
        t[1] = m.splat(LIMB << 8);
        t[2] = t[1];
        t[3] = t[1];
        t[4] = t[1];
    }
    macro_rules! hi { ($($i:literal $j:literal),*) => { $( t[$i + $j + 1] = m.madd_hi(t[$i + $j + 1], a[$i], b[$j]); )* } }
    macro_rules! lo { ($($i:literal $j:literal),*) => { $( t[$i + $j] = m.madd_lo(t[$i + $j], a[$i], b[$j]); )* } }
    macro_rules! double { ($($k:literal),*) => { $( t[$k] = m.add(t[$k], t[$k]); )* } }
    // A high product has the weight 2^52, a limb 2^51.
    hi!(0 0, 0 1, 0 2, 0 3, 0 4, 1 0, 1 1, 1 2, 1 3, 1 4, 2 0, 2 1, 2 2, 2 3, 2 4, 3 0, 3 1, 3 2, 3 3, 3 4, 4 0, 4 1, 4 2, 4 3, 4 4);
    double!(1, 2, 3, 4, 5, 6, 7, 8, 9);
    lo!(0 0, 0 1, 0 2, 0 3, 0 4, 1 0, 1 1, 1 2, 1 3, 1 4, 2 0, 2 1, 2 2, 2 3, 2 4, 3 0, 3 1, 3 2, 3 3, 3 4, 4 0, 4 1, 4 2, 4 3, 4 4);
    fold(m, &t)
}

/// [`mul`] of an element with itself, in 15 low and 15 high products: a column is
/// `low diagonal + 2 (high diagonal + low cross + 2 high cross)`.
#[inline(always)]
fn square<M: Lanes>(m: M, a: &Fe<M::V>, bias: Bias) -> Wide<M::V> {
    let mut t = [m.splat(0); 10];
    if bias == Bias::Minuend {
        // Column 1 is doubled once below, columns 2 to 4 twice.
        t[0] = m.splat((LIMB - 18) << 9);
        t[1] = m.splat(LIMB << 8);
        t[2] = m.splat(LIMB << 7);
        t[3] = t[2];
        t[4] = t[2];
    }
    macro_rules! hi { ($($i:literal $j:literal),*) => { $( t[$i + $j + 1] = m.madd_hi(t[$i + $j + 1], a[$i], a[$j]); )* } }
    macro_rules! lo { ($($i:literal $j:literal),*) => { $( t[$i + $j] = m.madd_lo(t[$i + $j], a[$i], a[$j]); )* } }
    macro_rules! double { ($($k:literal),*) => { $( t[$k] = m.add(t[$k], t[$k]); )* } }
    hi!(0 1, 0 2, 0 3, 0 4, 1 2, 1 3, 1 4, 2 3, 2 4, 3 4);
    double!(2, 3, 4, 5, 6, 7, 8);
    hi!(0 0, 1 1, 2 2, 3 3, 4 4);
    lo!(0 1, 0 2, 0 3, 0 4, 1 2, 1 3, 1 4, 2 3, 2 4, 3 4);
    double!(1, 2, 3, 4, 5, 6, 7, 8, 9);
    lo!(0 0, 1 1, 2 2, 3 3, 4 4);
    fold(m, &t)
}

/// Columns 5 to 9 have the weight 2^255 and above, and 2^255 is 19.
#[inline(always)]
fn fold<M: Lanes>(m: M, t: &[M::V; 10]) -> Wide<M::V> {
    Wide([
        m.add(t[0], m.times_19(t[5])),
        m.add(t[1], m.times_19(t[6])),
        m.add(t[2], m.times_19(t[7])),
        m.add(t[3], m.times_19(t[8])),
        m.add(t[4], m.times_19(t[9])),
    ])
}

#[inline(always)]
pub(super) fn add<M: Lanes>(m: M, a: &Wide<M::V>, b: &Wide<M::V>) -> Wide<M::V> {
    let (a, b) = (&a.0, &b.0);
    Wide([
        m.add(a[0], b[0]),
        m.add(a[1], b[1]),
        m.add(a[2], b[2]),
        m.add(a[3], b[3]),
        m.add(a[4], b[4]),
    ])
}

/// `a - b`, where `a` has a [`Bias::Minuend`].
#[inline(always)]
pub(super) fn sub<M: Lanes>(m: M, a: &Wide<M::V>, b: &Wide<M::V>) -> Wide<M::V> {
    let (a, b) = (&a.0, &b.0);
    Wide([
        m.sub(a[0], b[0]),
        m.sub(a[1], b[1]),
        m.sub(a[2], b[2]),
        m.sub(a[3], b[3]),
        m.sub(a[4], b[4]),
    ])
}

/// One pass of carries, all limbs at once: they carry less than 2^13, and what the last one carries is at most 19
/// times that.
#[inline(always)]
pub(super) fn carry<M: Lanes>(m: M, t: &Wide<M::V>) -> Fe<M::V> {
    let t = &t.0;
    let limb = m.splat(LIMB);
    let c0 = m.shr::<51>(t[0]);
    let c1 = m.shr::<51>(t[1]);
    let c2 = m.shr::<51>(t[2]);
    let c3 = m.shr::<51>(t[3]);
    let c4 = m.shr::<51>(t[4]);
    [
        m.madd_lo(m.and(t[0], limb), c4, m.splat(19)),
        m.add(m.and(t[1], limb), c0),
        m.add(m.and(t[2], limb), c1),
        m.add(m.and(t[3], limb), c2),
        m.add(m.and(t[4], limb), c3),
    ]
}

/// `acc + 121665 e`
#[inline(always)]
fn add_121665_times<M: Lanes>(m: M, acc: &Wide<M::V>, e: &Fe<M::V>) -> Wide<M::V> {
    let acc = &acc.0;
    let k = m.splat(121_665);
    let zero = m.splat(0);
    let h0 = m.madd_hi(zero, e[0], k);
    let h1 = m.madd_hi(zero, e[1], k);
    let h2 = m.madd_hi(zero, e[2], k);
    let h3 = m.madd_hi(zero, e[3], k);
    let h4 = m.madd_hi(zero, e[4], k);
    let l0 = m.madd_lo(acc[0], e[0], k);
    let l1 = m.madd_lo(acc[1], e[1], k);
    let l2 = m.madd_lo(acc[2], e[2], k);
    let l3 = m.madd_lo(acc[3], e[3], k);
    let l4 = m.madd_lo(acc[4], e[4], k);
    Wide([
        // Twice, for the weight of a high product, times 19.
        m.madd_lo(l0, h4, m.splat(38)),
        m.add(l1, m.add(h0, h0)),
        m.add(l2, m.add(h1, h1)),
        m.add(l3, m.add(h2, h2)),
        m.add(l4, m.add(h3, h3)),
    ])
}

#[inline(always)]
pub(super) fn select<M: Lanes>(m: M, mask: M::Mask, a: &Fe<M::V>, b: &Fe<M::V>) -> Fe<M::V> {
    [
        m.select(mask, a[0], b[0]),
        m.select(mask, a[1], b[1]),
        m.select(mask, a[2], b[2]),
        m.select(mask, a[3], b[3]),
        m.select(mask, a[4], b[4]),
    ]
}

#[inline(always)]
pub(super) fn one<M: Lanes>(m: M) -> Fe<M::V> {
    let zero = m.splat(0);
    [m.splat(1), zero, zero, zero, zero]
}

/// The two points of the ladder between its steps, as sums and differences of their coordinates.
#[derive(Clone, Copy)]
struct Rung<V> {
    /// `x2 + z2`
    a: Fe<V>,
    /// `x2 - z2`
    b: Fe<V>,
    /// `x3 + z3`
    c: Fe<V>,
    /// `x3 - z3`
    d: Fe<V>,
}

/// The two points of the ladder as a step leaves them; `x2` and `x3` with a bias.
#[derive(Clone, Copy)]
struct Step<V> {
    x2: Wide<V>,
    z2: Wide<V>,
    x3: Wide<V>,
    z3: Wide<V>,
}

/// The step of RFC 7748, section 5, with its swap in front where the mask is set. The names are the RFC's; products
/// stand in this order because they measure best in it.
#[inline(always)]
fn step<M: Lanes>(m: M, rung: &Rung<M::V>, swap: M::Mask, x1: &Fe<M::V>) -> Step<M::V> {
    // A swap changes only the sign of `DA - CB`, which is squared. So only what is squared alone has to be swapped.
    let a = select(m, swap, &rung.a, &rung.c);
    let b = select(m, swap, &rung.b, &rung.d);
    let da = mul(m, &rung.d, &rung.a, Bias::Minuend);
    let cb = mul(m, &rung.c, &rung.b, Bias::None);
    let aa = square(m, &a, Bias::Minuend);
    let bb = square(m, &b, Bias::None);
    let difference = carry(m, &sub(m, &da, &cb));
    let sum = carry(m, &add(m, &da, &cb));
    let difference_squared = carry(m, &square(m, &difference, Bias::None));
    let e = carry(m, &sub(m, &aa, &bb));
    let aa_reduced = carry(m, &aa);
    let bb = carry(m, &bb);
    let x2 = mul(m, &aa_reduced, &bb, Bias::Minuend);
    let aa_plus = carry(m, &add_121665_times(m, &aa, &e));
    let x3 = square(m, &sum, Bias::Minuend);
    let z3 = mul(m, &difference_squared, x1, Bias::None);
    let z2 = mul(m, &e, &aa_plus, Bias::None);
    Step { x2, z2, x3, z3 }
}

#[inline(always)]
fn rung<M: Lanes>(m: M, step: &Step<M::V>) -> Rung<M::V> {
    Rung {
        a: carry(m, &add(m, &step.x2, &step.z2)),
        b: carry(m, &sub(m, &step.x2, &step.z2)),
        c: carry(m, &add(m, &step.x3, &step.z3)),
        d: carry(m, &sub(m, &step.x3, &step.z3)),
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

/// `a + 2^9 p`, so that it can be a minuend.
#[inline(always)]
pub(super) fn biased<M: Lanes>(m: M, a: &Wide<M::V>) -> Wide<M::V> {
    let high = m.splat(LIMB << 9);
    add(m, a, &Wide([m.splat((LIMB - 18) << 9), high, high, high, high]))
}

/// `z` is zero in the lanes whose product is the neutral element.
#[inline(always)]
pub(super) fn ladder<M: Lanes>(
    m: M,
    scalars: &Words<M::V>,
    points: &Words<M::V>,
    out: &mut Projective<M::V>,
) {
    let mut k = Scratch::<Words<M::V>>::new();
    *k = clamp(m, scalars);
    // The swap before step i: bit i and the bit above it. Behind the last step there is none, bit 0 being off.
    let mut swaps = Scratch::<Words<M::V>>::new();
    swaps[0] = m.xor(k[0], m.or(m.shr::<1>(k[0]), m.shl::<63>(k[1])));
    swaps[1] = m.xor(k[1], m.or(m.shr::<1>(k[1]), m.shl::<63>(k[2])));
    swaps[2] = m.xor(k[2], m.or(m.shr::<1>(k[2]), m.shl::<63>(k[3])));
    swaps[3] = m.shl::<1>(m.xor(k[3], m.shr::<1>(k[3])));

    let x1 = unpack(m, points);
    let zero = Wide([m.splat(0); 5]);
    let one = Wide(one(m));
    let mut at = rung(
        m,
        &Step {
            x2: biased(m, &one),
            z2: zero,
            x3: biased(m, &Wide(x1)),
            z3: one,
        },
    );
    // Bits 254 to 192, then three whole words but for the last bit, behind which the step is taken out of the loop.
    for (word, bits) in [(3, 63), (2, 64), (1, 64), (0, 63)] {
        let mut left = swaps[word];
        for _ in 0..bits {
            let swap = m.top_bit(left);
            left = m.shl::<1>(left);
            at = rung(m, &step(m, &at, swap, &x1));
        }
    }
    let last = step(m, &at, m.top_bit(m.shl::<63>(swaps[0])), &x1);
    out[0] = carry(m, &last.x2);
    out[1] = carry(m, &last.z2);
}

/// `x / z` of up to [`GROUP`] vectors with one inversion (Montgomery's trick), canonical; zero where `z` is zero, which
/// leaves the other lanes alone: lanes have inversions of their own, and a zero in another vector is replaced.
#[inline(always)]
pub(super) fn affine<M: Lanes>(m: M, points: &[Projective<M::V>], out: &mut [Words<M::V>]) {
    let mut nonzero = Scratch::<[Fe<M::V>; GROUP]>::new();
    let mut products = Scratch::<[Fe<M::V>; GROUP]>::new();
    let count = points.len().min(GROUP).min(out.len());
    let mut product = one(m);
    for at in 0..count {
        let z = &points[at][1];
        nonzero[at] = select(m, zeros(m, z), z, &one(m));
        products[at] = product;
        product = carry(m, &mul(m, &product, &nonzero[at], Bias::None));
    }
    let mut inverse = invert(m, &product);
    for at in (0..count).rev() {
        let [x, z] = &points[at];
        let z_inverse = carry(m, &mul(m, &inverse, &products[at], Bias::None));
        inverse = carry(m, &mul(m, &inverse, &nonzero[at], Bias::None));
        let quotient = carry(m, &mul(m, x, &z_inverse, Bias::None));
        let quotient = select(m, zeros(m, z), &quotient, &[m.splat(0); 5]);
        out[at] = pack(m, &canonical(m, &quotient));
    }
}

/// The lanes whose element is zero modulo p.
#[inline(always)]
fn zeros<M: Lanes>(m: M, x: &Fe<M::V>) -> M::Mask {
    let t = canonical(m, x);
    m.is_zero(m.or(m.or(m.or(t[0], t[1]), m.or(t[2], t[3])), t[4]))
}

#[inline(always)]
fn square_times<M: Lanes>(m: M, x: &Fe<M::V>, times: usize) -> Fe<M::V> {
    let mut x = *x;
    for _ in 0..times {
        x = carry(m, &square(m, &x, Bias::None));
    }
    x
}

/// `x^(p - 2)`: 254 squarings and 11 multiplications, in the usual chain. `x_n` is `x^(2^n - 1)`.
#[inline(always)]
fn invert<M: Lanes>(m: M, x: &Fe<M::V>) -> Fe<M::V> {
    macro_rules! product {
        ($a:expr, $b:expr) => {
            carry(m, &mul(m, $a, $b, Bias::None))
        };
    }
    let to_2 = square_times(m, x, 1);
    let to_9 = product!(&square_times(m, &to_2, 2), x);
    let to_11 = product!(&to_9, &to_2);
    let x_5 = product!(&square_times(m, &to_11, 1), &to_9);
    let x_10 = product!(&square_times(m, &x_5, 5), &x_5);
    let x_20 = product!(&square_times(m, &x_10, 10), &x_10);
    let x_40 = product!(&square_times(m, &x_20, 20), &x_20);
    let x_50 = product!(&square_times(m, &x_40, 10), &x_10);
    let x_100 = product!(&square_times(m, &x_50, 50), &x_50);
    let x_200 = product!(&square_times(m, &x_100, 100), &x_100);
    let x_250 = product!(&square_times(m, &x_200, 50), &x_50);
    product!(&square_times(m, &x_250, 5), &to_11)
}

/// Limbs of 32 bytes; bit 255 is dropped, as RFC 7748 says.
#[inline(always)]
fn unpack<M: Lanes>(m: M, words: &Words<M::V>) -> Fe<M::V> {
    let limb = m.splat(LIMB);
    [
        m.and(words[0], limb),
        m.and(m.or(m.shr::<51>(words[0]), m.shl::<13>(words[1])), limb),
        m.and(m.or(m.shr::<38>(words[1]), m.shl::<26>(words[2])), limb),
        m.and(m.or(m.shr::<25>(words[2]), m.shl::<39>(words[3])), limb),
        m.and(m.shr::<12>(words[3]), limb),
    ]
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
fn canonical<M: Lanes>(m: M, x: &Fe<M::V>) -> [M::V; 5] {
    let mut t = almost_canonical(m, x);
    // Below 2p: one p has to go, or none. It has to if 19 more reach 2^255.
    let mut beyond = m.shr::<51>(m.add(t[0], m.splat(19)));
    beyond = m.shr::<51>(m.add(t[1], beyond));
    beyond = m.shr::<51>(m.add(t[2], beyond));
    beyond = m.shr::<51>(m.add(t[3], beyond));
    beyond = m.shr::<51>(m.add(t[4], beyond));
    t[0] = m.madd_lo(t[0], beyond, m.splat(19));
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
fn almost_canonical<M: Lanes>(m: M, x: &Fe<M::V>) -> [M::V; 5] {
    let limb = m.splat(LIMB);
    let mut t = *x;
    for _ in 0..2 {
        for at in 0..4 {
            t[at + 1] = m.add(t[at + 1], m.shr::<51>(t[at]));
            t[at] = m.and(t[at], limb);
        }
        t[0] = m.madd_lo(t[0], m.shr::<51>(t[4]), m.splat(19));
        t[4] = m.and(t[4], limb);
    }
    t
}

#[cfg(test)]
mod tests;
