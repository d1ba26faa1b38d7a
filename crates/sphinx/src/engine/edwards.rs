//! Points of the Edwards curve that is Curve25519, for many lanes at once: the base point times a scalar, and any point
//! times two.
//!
//! Written over [`Field`] as the ladder is, and proved by the same intervals. The formulas are those of Hisil, Wong, Carter
//! and Dawson, "Twisted Edwards Curves Revisited", sections 3.1 and 3.3, for a = -1, which hold for all points of the curve.
//! As X25519 knows only `u = (Z + Y) / (Z - Y)`, that is what comes out.
//!
//! # Secrets
//!
//! A digit of a scalar chooses a multiple by [`Field::lookup`] or a tree of [`Field::select`], which read all of them.
//! Points are public.

#![allow(
    clippy::inline_always,
    reason = "only what is inlined into a function with the CPU feature can use it: a call each would cost fifty-fold"
)]

use core::iter::zip;

use subtle::{Choice, ConditionallySelectable};

use super::base::{D, ROOT_OF_MINUS_1, TWO_D};
use super::field::{
    Bias, Field, Lanes, Mask, Projective, V, Words, clamp, constant, one, power_p58, product, unpack, zeros,
};
use crate::scratch::{Scratch, Zero};

/// A point as an addition takes it, but for its `Z`.
struct Extended<F: Field> {
    /// `Y + X`
    sum: F::Fe,
    /// `Y - X`
    difference: F::Fe,
    /// `X Y / Z`
    t: F::Fe,
}

/// A point as a doubling takes it.
struct Plain<F: Field> {
    x: F::Fe,
    y: F::Fe,
    z: F::Fe,
}

/// A point before its last products: `X = E F`, `Y = G H`, `Z = F G`, `T = E H`.
#[derive(Clone, Copy)]
struct Factors<F: Field> {
    e: F::Fe,
    f: F::Fe,
    g: F::Fe,
    h: F::Fe,
}

impl<F: Field> Factors<F> {
    const ZERO: Self = Self {
        e: F::Fe::ZERO,
        f: F::Fe::ZERO,
        g: F::Fe::ZERO,
        h: F::Fe::ZERO,
    };

    #[inline(always)]
    fn extended(&self, f: F) -> Extended<F> {
        let x = f.mul(&self.e, &self.f, Bias::None);
        let y = f.mul(&self.g, &self.h, Bias::Minuend);
        Extended {
            sum: f.carry(&f.add(&y, &x)),
            difference: f.carry(&f.sub(&y, &x)),
            t: product(f, &self.e, &self.h),
        }
    }

    #[inline(always)]
    fn plain(&self, f: F) -> Plain<F> {
        Plain {
            x: product(f, &self.e, &self.f),
            y: product(f, &self.g, &self.h),
            z: product(f, &self.f, &self.g),
        }
    }

    #[inline(always)]
    fn z(&self, f: F, bias: Bias) -> F::Wide {
        f.mul(&self.f, &self.g, bias)
    }
}

/// `(x, z)` on the Montgomery curve of a point with a `Z` and a `Y`; `z` has a bias.
#[inline(always)]
fn montgomery<F: Field>(f: F, z: &F::Wide, y: &F::Wide) -> Projective<F> {
    [f.carry(&f.add(z, y)), f.carry(&f.sub(z, y))]
}

/// Twice a point.
#[inline(always)]
fn double<F: Field>(f: F, p: &Plain<F>) -> Factors<F> {
    let xx = f.square(&p.x, Bias::None);
    let yy = f.square(&p.y, Bias::Minuend);
    let zz = f.square(&p.z, Bias::Minuend);
    let xy = f.mul(&p.x, &p.y, Bias::None);
    let twice_zz = f.add(&zz, &zz);
    Factors {
        e: f.carry(&f.add(&xy, &xy)),
        // Two biases less one.
        f: f.carry(&f.sub(&f.add(&twice_zz, &xx), &yy)),
        g: f.carry(&f.sub(&yy, &xx)),
        h: f.carry(&f.add(&yy, &xx)),
    }
}

/// `p + q` where the mask is set, else `p - q`. Of `q` there are `Y + X`, `Y - X` and `2 d T`; `d` is twice the product of the
/// two `Z`, with a bias.
#[inline(always)]
fn add_signed<F: Field>(
    f: F,
    p: &Extended<F>,
    q: [&F::Fe; 3],
    d: &F::Wide,
    is_positive: Mask<F>,
) -> Factors<F> {
    // The negative of a point has -x: sum and difference change places, and the sign of `c` below.
    let [sum, difference, two_d_t] = q;
    let a = f.mul(&p.difference, &f.select(is_positive, sum, difference), Bias::None);
    let b = f.mul(&p.sum, &f.select(is_positive, difference, sum), Bias::Minuend);
    let c = f.mul(&p.t, two_d_t, Bias::None);
    let (less, more) = (f.sub(d, &c), f.add(d, &c));
    Factors {
        e: f.carry(&f.sub(&b, &a)),
        f: f.carry(&f.select_wide(is_positive, &more, &less)),
        g: f.carry(&f.select_wide(is_positive, &less, &more)),
        h: f.carry(&f.add(&b, &a)),
    }
}

/// The base point times clamped scalars, by signed digits of four bits: 64 additions, each of a multiple that is known, and
/// no doubling.
#[inline(always)]
pub(super) fn times_base<F: Field>(f: F, scalars: &Words<V<F>>, out: &mut Projective<F>) {
    let m = f.machine();
    let mut k = Scratch::<Words<V<F>>>::new();
    *k = clamp(m, scalars);
    let one = one(f);
    let mut at = Extended::<F> {
        sum: one,
        difference: one,
        t: F::Fe::ZERO,
    };
    let mut z = f.biased(&f.wide(&one));
    let mut over = m.splat(0);
    for (windows, word) in F::BASE.as_chunks::<16>().0.iter().zip(k.iter()) {
        let mut left = *word;
        for multiples in windows {
            let digit = m.add(m.and(left, m.splat(15)), over);
            left = m.shr::<4>(left);
            // 9 to 16 become -7 to 0, and one more goes to the next digit. The last one is 8 at most.
            over = m.shr::<4>(m.add(digit, m.splat(7)));
            let is_positive = m.is_zero(over);
            let size = m.select(is_positive, m.sub(m.splat(16), digit), digit);
            let is_zero = m.is_zero(size);
            // Zero times a point has y = 1.
            let one = m.select(is_zero, m.splat(0), m.splat(1));
            let multiple = [
                &f.plus(&f.lookup(is_zero, multiples, 0, size), one),
                &f.plus(&f.lookup(is_zero, multiples, 1, size), one),
                &f.lookup(is_zero, multiples, 2, size),
            ];
            let sum = add_signed(f, &at, multiple, &f.add(&z, &z), is_positive);
            at = sum.extended(f);
            z = sum.z(f, Bias::Minuend);
        }
    }
    // Twice `Y`, of which only the sum and the difference with X are there.
    let y = f.add(&f.wide(&at.sum), &f.wide(&at.difference));
    *out = montgomery(f, &f.add(&z, &z), &y);
}

/// Teeth of the comb.
const TEETH: usize = 4;

/// Digits of a scalar under one tooth.
const COLUMNS: usize = 63;

/// A point as it is added: `Y + X`, `Y - X`, `2 d T` and `2 Z`.
type Addend<F> = [<F as Field>::Fe; 4];

/// Multiples of points, for multiplying them again and again: those of `T3 + a T2 + b T1 + c T0`, where `Ti` is `8 2^(63 i)`
/// times a point; `a`, `b` and `c` are one, or minus one where the bits 4, 2 and 1 of the place are set.
pub(super) type Comb<F> = [[<F as Field>::Packed; 4]; 8];

/// The digits by which [`times_comb`] multiplies with a clamped scalar: of each tooth 63 bits, the first one highest.
///
/// The scalar is eight times a number of 252 bits, and so is [`Comb`]'s point, whose order is therefore the prime of the group,
/// or one. With an even number this takes the order less the number, which is odd and gives the negative of the same
/// point, so the same `u`. An odd number is a sum of plus and minus `2^i`: plus where the bit above is set, and at the top.
///
/// Not inlined, so that all engines run the same instructions, and those of the one that can be traced are those of all.
#[inline(never)]
pub(super) fn comb_digits(scalar: &[u8; 32]) -> [u64; TEETH] {
    /// The order of the base point.
    const ORDER: [u64; 4] = [
        0x5812_631a_5cf5_d3ed,
        0x14de_f9de_a2f7_9cd6,
        0,
        0x1000_0000_0000_0000,
    ];
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(scalar.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words[3] = words[3] & (!0 >> 2) | 1 << 62;
    let mut k = [
        words[0] >> 3 | words[1] << 61,
        words[1] >> 3 | words[2] << 61,
        words[2] >> 3 | words[3] << 61,
        words[3] >> 3,
    ];
    // Behind a barrier: seen as a mask of one bit, the choice below became a branch.
    let is_odd = Choice::from((k[0] & 1) as u8);
    let mut borrow = false;
    for (k, order) in k.iter_mut().zip(ORDER) {
        let (less, under) = order.overflowing_sub(*k);
        let (less, under_again) = less.overflowing_sub(borrow.into());
        borrow = under | under_again;
        *k = u64::conditional_select(&less, k, is_odd);
    }
    // Bit i of `b` is the sign of 2^i.
    let b = [
        k[0] >> 1 | k[1] << 63,
        k[1] >> 1 | k[2] << 63,
        k[2] >> 1 | k[3] << 63,
        k[3] >> 1 | 1 << 59,
    ];
    [
        b[0] << 1,
        (b[0] >> 63 | b[1] << 1) << 1,
        (b[1] >> 62 | b[2] << 2) << 1,
        (b[2] >> 61 | b[3] << 3) << 1,
    ]
}

/// The multiples of points; the mask is set in the lanes whose point is on the curve. In the others, whose point is on its
/// twist, they mean nothing.
#[inline(always)]
pub(super) fn comb<F: Field>(f: F, points: &Words<V<F>>, out: &mut Comb<F>) -> Mask<F> {
    let (point, is_on_curve) = from_montgomery(f, &unpack(f, points));
    // Loops, where one could name all of them: what is written out has no room in the cache of instructions.
    let mut teeth = [Factors::<F>::ZERO; TEETH];
    let mut at = point;
    for (tooth, doublings) in zip(&mut teeth, [3, COLUMNS, COLUMNS, COLUMNS]) {
        for _ in 1..doublings {
            at = double(f, &at).plain(f);
        }
        *tooth = double(f, &at);
        at = tooth.plain(f);
    }
    // T1 + T0 and T1 - T0, T3 + T2 and T3 - T2.
    let mut pairs = [[Factors::<F>::ZERO; 2]; 2];
    for (teeth, pair) in zip(teeth.as_chunks::<2>().0, &mut pairs) {
        let other = addend(f, &teeth[0]);
        for (minus, out) in [false, true].into_iter().zip(pair) {
            *out = plus_or_minus(f, &teeth[1], &other, minus);
        }
    }
    let mut low = [[F::Fe::ZERO; 4]; 2];
    for (low, pair) in zip(&mut low, &pairs[0]) {
        *low = addend(f, pair);
    }
    for (place, out) in out.iter_mut().enumerate() {
        let [a, b, c] = [place >> 2, place >> 1 & 1, place & 1];
        // -T1 + T0 is what T1 - T0 is, taken from something.
        *out = packed(f, &plus_or_minus(f, &pairs[1][a], &low[b ^ c], b == 1));
    }
    is_on_curve
}

/// `p + q` or `p - q`.
#[inline(always)]
fn plus_or_minus<F: Field>(f: F, p: &Factors<F>, q: &Addend<F>, minus: bool) -> Factors<F> {
    let (at, z) = (p.extended(f), f.carry(&p.z(f, Bias::None)));
    let [sum, difference, two_d_t, z2] = q;
    let (sum, difference) = if minus {
        (difference, sum)
    } else {
        (sum, difference)
    };
    let a = f.mul(&at.difference, difference, Bias::None);
    let b = f.mul(&at.sum, sum, Bias::Minuend);
    let c = f.mul(&at.t, two_d_t, Bias::None);
    let d = f.mul(&z, z2, Bias::Minuend);
    let [less, more] = [f.carry(&f.sub(&d, &c)), f.carry(&f.add(&d, &c))];
    Factors {
        e: f.carry(&f.sub(&b, &a)),
        f: if minus { more } else { less },
        g: if minus { less } else { more },
        h: f.carry(&f.add(&b, &a)),
    }
}

#[inline(always)]
fn addend<F: Field>(f: F, p: &Factors<F>) -> Addend<F> {
    let Extended { sum, difference, t } = p.extended(f);
    let z = p.z(f, Bias::None);
    [
        sum,
        difference,
        product(f, &t, &constant(f, TWO_D)),
        f.carry(&f.add(&z, &z)),
    ]
}

#[inline(always)]
fn packed<F: Field>(f: F, p: &Factors<F>) -> [F::Packed; 4] {
    let [sum, difference, two_d_t, z2] = addend(f, p);
    [f.pack(&sum), f.pack(&difference), f.pack(&two_d_t), f.pack(&z2)]
}

/// Points times scalars, of which [`comb_digits`] are given.
#[inline(always)]
pub(super) fn times_comb<F: Field>(f: F, comb: &Comb<F>, digits: &Words<V<F>>, out: &mut Projective<F>) {
    let m = f.machine();
    let mut left = Scratch::<Words<V<F>>>::new();
    *left = *digits;
    // The sign of the first digit is plus.
    let [sum, difference, _, z] = choose(f, comb, &left);
    let (sum, difference) = (f.biased(&f.wide(&sum)), f.wide(&difference));
    // Twice each coordinate.
    let mut at = Plain {
        x: f.carry(&f.sub(&sum, &difference)),
        y: f.carry(&f.add(&sum, &difference)),
        z,
    };
    for _ in 1..COLUMNS {
        for word in left.iter_mut() {
            *word = m.shl::<1>(*word);
        }
        let [q_sum, q_difference, two_d_t, z2] = choose(f, comb, &left);
        let twice = double(f, &at);
        let z = f.carry(&twice.z(f, Bias::None));
        let q = [&q_sum, &q_difference, &two_d_t];
        let next = add_signed(
            f,
            &twice.extended(f),
            q,
            &f.mul(&z, &z2, Bias::Minuend),
            m.top_bit(left[TEETH - 1]),
        );
        at = next.plain(f);
    }
    *out = montgomery(f, &f.biased(&f.wide(&at.z)), &f.wide(&at.y));
}

/// The multiple of the highest digits, but for the sign of the last tooth.
#[inline(always)]
fn choose<F: Field>(f: F, comb: &Comb<F>, digits: &Words<V<F>>) -> Addend<F> {
    let m = f.machine();
    let [c, b, a] = [
        m.top_bit(m.xor(digits[3], digits[0])),
        m.top_bit(m.xor(digits[3], digits[1])),
        m.top_bit(m.xor(digits[3], digits[2])),
    ];
    macro_rules! part {
        ($part:literal) => {{
            let pair = [
                f.select_packed(c, &comb[0][$part], &comb[1][$part]),
                f.select_packed(c, &comb[2][$part], &comb[3][$part]),
                f.select_packed(c, &comb[4][$part], &comb[5][$part]),
                f.select_packed(c, &comb[6][$part], &comb[7][$part]),
            ];
            let low = f.select_packed(b, &pair[0], &pair[1]);
            let high = f.select_packed(b, &pair[2], &pair[3]);
            f.unpack(&f.select_packed(a, &low, &high))
        }};
    }
    [part!(0), part!(1), part!(2), part!(3)]
}

/// The points with these `u` on the Edwards curve, where there are such.
///
/// `y = (u - 1) / (u + 1)`, and the curve says `x^2 = (y^2 - 1) / (d y^2 + 1)`. The sign of `x` is any.
#[inline(always)]
fn from_montgomery<F: Field>(f: F, u: &F::Fe) -> (Plain<F>, Mask<F>) {
    let (wide_u, one) = (f.wide(u), f.wide(&one(f)));
    let n = f.carry(&f.sub(&f.biased(&wide_u), &one));
    let z = f.carry(&f.add(&wide_u, &one));
    let nn = f.carry(&f.square(&n, Bias::None));
    // x^2 is a / w, where a = n^2 - z^2 = -4 u.
    let w = f.carry(&f.add(
        &f.mul(&nn, &constant(f, D), Bias::None),
        &f.square(&z, Bias::None),
    ));
    let twice_u = f.add(&wide_u, &wide_u);
    let wide_a = f.sub(&f.biased(&f.wide(&F::Fe::ZERO)), &f.add(&twice_u, &twice_u));
    let a = f.carry(&wide_a);
    // RFC 8032, section 5.1.3: the candidate is right, or by a root of -1 wrong, or there is none.
    let w3 = product(f, &f.carry(&f.square(&w, Bias::None)), &w);
    let w7 = product(f, &f.carry(&f.square(&w3, Bias::None)), &w);
    let candidate = product(f, &product(f, &a, &w3), &power_p58(f, &product(f, &a, &w7)));
    let rotated = product(f, &candidate, &constant(f, ROOT_OF_MINUS_1));
    let x = f.select(is_root(f, &rotated, &w, &a), &candidate, &rotated);
    let point = Plain {
        x: product(f, &x, &z),
        y: n,
        z,
    };
    (point, is_root(f, &x, &w, &a))
}

/// Whether `x^2 w = a`.
#[inline(always)]
fn is_root<F: Field>(f: F, x: &F::Fe, w: &F::Fe, a: &F::Fe) -> Mask<F> {
    let xx = f.carry(&f.square(x, Bias::None));
    let difference = f.sub(&f.mul(&xx, w, Bias::Minuend), &f.wide(a));
    zeros(f, &f.carry(&difference))
}
