//! Points of the Edwards curve that is Curve25519, for many lanes at once: the base point times a scalar.
//!
//! Written over [`Lanes`] as `field` is, and proved by the same intervals. The formulas are those of Hisil, Wong, Carter
//! and Dawson, "Twisted Edwards Curves Revisited", section 3.1, for a = -1, which hold for all points of the curve. As
//! X25519 knows only `u = (Z + Y) / (Z - Y)`, that is what comes out.
//!
//! # Secrets
//!
//! A digit of the scalar chooses a multiple by [`Lanes::lookup`], which reads all of them, and by [`Lanes::select`].

#![allow(
    clippy::inline_always,
    reason = "only what is inlined into a function with the CPU feature can use it: a call each would cost fifty-fold"
)]

use super::base::{BASE, Points};
use super::field::{
    Bias, Fe, Lanes, Projective, Wide, Words, add, biased, carry, clamp, mul, one, select, sub,
};
use crate::scratch::Scratch;

/// A point as an addition takes it.
#[derive(Clone, Copy)]
struct Point<V> {
    /// `Y + X`
    sum: Fe<V>,
    /// `Y - X`
    difference: Fe<V>,
    /// Has a bias.
    z: Wide<V>,
    /// `X Y / Z`
    t: Fe<V>,
}

/// `(x, z)` of the base point times the clamped scalars, by signed digits of four bits: 64 additions, each of a multiple
/// that is known, and no doubling.
#[inline(always)]
pub(super) fn times_base<M: Lanes>(m: M, scalars: &Words<M::V>, out: &mut Projective<M::V>) {
    let mut k = Scratch::<Words<M::V>>::new();
    *k = clamp(m, scalars);
    let one = one(m);
    let mut at = Point {
        sum: one,
        difference: one,
        z: biased(m, &Wide(one)),
        t: [m.splat(0); 5],
    };
    let mut over = m.splat(0);
    for (windows, word) in BASE.as_chunks::<16>().0.iter().zip(k.iter()) {
        let mut left = *word;
        for multiples in windows {
            let digit = m.add(m.and(left, m.splat(15)), over);
            left = m.shr::<4>(left);
            // 9 to 16 become -7 to 0, and one more goes to the next digit. The last one is 8 at most.
            over = m.shr::<4>(m.add(digit, m.splat(7)));
            at = add_multiple(m, &at, multiples, digit, over);
        }
    }
    // Twice `Y`, of which only the sum and the difference with X are there.
    let y = add(m, &Wide(at.sum), &Wide(at.difference));
    let z = add(m, &at.z, &at.z);
    out[0] = carry(m, &add(m, &z, &y));
    out[1] = carry(m, &sub(m, &z, &y));
}

/// `p` plus one of eight multiples of a point: `digit` times it, or, where `over` is one, `digit - 16` times it.
#[inline(always)]
fn add_multiple<M: Lanes>(m: M, p: &Point<M::V>, multiples: &Points, digit: M::V, over: M::V) -> Point<M::V> {
    let is_positive = m.is_zero(over);
    let size = m.select(is_positive, m.sub(m.splat(16), digit), digit);
    let is_zero = m.is_zero(size);
    macro_rules! multiple {
        ($part:literal) => {{
            let [t0, t1, t2, t3, t4] = &multiples[$part];
            [
                m.lookup(is_zero, t0, size),
                m.lookup(is_zero, t1, size),
                m.lookup(is_zero, t2, size),
                m.lookup(is_zero, t3, size),
                m.lookup(is_zero, t4, size),
            ]
        }};
    }
    // Zero times a point has y = 1.
    let one = m.select(is_zero, m.splat(0), m.splat(1));
    let (mut q_sum, mut q_difference, two_d_t) = (multiple!(0), multiple!(1), multiple!(2));
    q_sum[0] = m.add(q_sum[0], one);
    q_difference[0] = m.add(q_difference[0], one);
    // The negative of a point has -x: sum and difference change places, and the sign of `c` below.
    let a = mul(
        m,
        &p.difference,
        &select(m, is_positive, &q_sum, &q_difference),
        Bias::None,
    );
    let b = mul(
        m,
        &p.sum,
        &select(m, is_positive, &q_difference, &q_sum),
        Bias::Minuend,
    );
    let c = mul(m, &p.t, &two_d_t, Bias::None);
    let d = add(m, &p.z, &p.z);
    let (less, more) = (sub(m, &d, &c), add(m, &d, &c));
    let e = carry(m, &sub(m, &b, &a));
    let f = carry(m, &Wide(select(m, is_positive, &more.0, &less.0)));
    let g = carry(m, &Wide(select(m, is_positive, &less.0, &more.0)));
    let h = carry(m, &add(m, &b, &a));
    let x = mul(m, &e, &f, Bias::None);
    let y = mul(m, &g, &h, Bias::Minuend);
    Point {
        sum: carry(m, &add(m, &y, &x)),
        difference: carry(m, &sub(m, &y, &x)),
        z: mul(m, &f, &g, Bias::Minuend),
        t: carry(m, &mul(m, &e, &h, Bias::None)),
    }
}
