//! Five limbs of 51 bits, `sum t[i] 2^(51 i)`, for a machine that multiplies 52 bits.
//!
//! - [`Fe`] is reduced: limbs below 2^51 + 2^18, so that they fit the multiplier's 52 bits.
//! - [`Wide`] is not: limbs below 2^63. It may only be added, subtracted and carried.

use super::super::base::{BASE, Eight, Points, WINDOWS};
use super::{Bias, Field, LIMB, Lanes};

/// A machine that multiplies 52 bits.
pub(in super::super) trait Madd52: Lanes {
    /// `acc` plus the low 52 bits of the product; the factors have at most 52 bits.
    fn madd_lo(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// `acc` plus the product without its low 52 bits; the factors have at most 52 bits.
    fn madd_hi(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// The number at `place` modulo 8; zero where the mask is set. All of the table is read, whatever the places are.
    fn lookup(self, zero: Self::Mask, table: &Eight, place: Self::V) -> Self::V;
}

/// The field on such a machine.
#[derive(Clone, Copy)]
pub(in super::super) struct Radix51<M>(pub(in super::super) M);

pub(super) type Fe<V> = [V; 5];

#[derive(Clone, Copy)]
pub(in super::super) struct Wide<V>(pub(super) [V; 5]);

impl<M: Madd52> Radix51<M> {
    /// Columns 5 to 9 have the weight 2^255 and above, and 2^255 is 19.
    #[inline(always)]
    fn fold(self, t: &[M::V; 10]) -> Wide<M::V> {
        let m = self.0;
        Wide([
            m.add(t[0], m.times_19(t[5])),
            m.add(t[1], m.times_19(t[6])),
            m.add(t[2], m.times_19(t[7])),
            m.add(t[3], m.times_19(t[8])),
            m.add(t[4], m.times_19(t[9])),
        ])
    }
}

impl<M: Madd52> Field for Radix51<M> {
    type M = M;
    type Fe = Fe<M::V>;
    type Wide = Wide<M::V>;
    type Packed = Fe<M::V>;
    type Multiples = Points;
    const BASE: &'static [Points; WINDOWS] = &BASE;

    #[inline(always)]
    fn machine(self) -> M {
        self.0
    }

    #[inline(always)]
    fn with_limbs(self, limbs: &[M::V; 5]) -> Fe<M::V> {
        *limbs
    }

    #[inline(always)]
    fn limbs(self, a: &Fe<M::V>) -> [M::V; 5] {
        *a
    }

    /// 25 low and 25 high products. The columns are below 2^56, and with those above 2^255 folded the limbs are below
    /// 2^60, with the bias, 2^9 p, below 2^61.
    #[inline(always)]
    fn mul(self, a: &Fe<M::V>, b: &Fe<M::V>, bias: Bias) -> Wide<M::V> {
        let m = self.0;
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
        self.fold(&t)
    }

    /// 15 low and 15 high products: a column is `low diagonal + 2 (high diagonal + low cross + 2 high cross)`.
    #[inline(always)]
    fn square(self, a: &Fe<M::V>, bias: Bias) -> Wide<M::V> {
        let m = self.0;
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
        self.fold(&t)
    }

    #[inline(always)]
    fn add(self, a: &Wide<M::V>, b: &Wide<M::V>) -> Wide<M::V> {
        let (m, a, b) = (self.0, &a.0, &b.0);
        Wide([
            m.add(a[0], b[0]),
            m.add(a[1], b[1]),
            m.add(a[2], b[2]),
            m.add(a[3], b[3]),
            m.add(a[4], b[4]),
        ])
    }

    #[inline(always)]
    fn sub(self, a: &Wide<M::V>, b: &Wide<M::V>) -> Wide<M::V> {
        let (m, a, b) = (self.0, &a.0, &b.0);
        Wide([
            m.sub(a[0], b[0]),
            m.sub(a[1], b[1]),
            m.sub(a[2], b[2]),
            m.sub(a[3], b[3]),
            m.sub(a[4], b[4]),
        ])
    }

    #[inline(always)]
    fn add_121665_times(self, acc: &Wide<M::V>, e: &Fe<M::V>) -> Wide<M::V> {
        let (m, acc) = (self.0, &acc.0);
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
    fn wide(self, a: &Fe<M::V>) -> Wide<M::V> {
        Wide(*a)
    }

    #[inline(always)]
    fn biased(self, a: &Wide<M::V>) -> Wide<M::V> {
        let m = self.0;
        let high = m.splat(LIMB << 9);
        self.add(a, &Wide([m.splat((LIMB - 18) << 9), high, high, high, high]))
    }

    /// One pass of carries, all limbs at once: they carry less than 2^13, and what the last one carries is at most 19
    /// times that.
    #[inline(always)]
    fn carry(self, t: &Wide<M::V>) -> Fe<M::V> {
        let (m, t) = (self.0, &t.0);
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

    #[inline(always)]
    fn select(self, mask: M::Mask, a: &Fe<M::V>, b: &Fe<M::V>) -> Fe<M::V> {
        let m = self.0;
        [
            m.select(mask, a[0], b[0]),
            m.select(mask, a[1], b[1]),
            m.select(mask, a[2], b[2]),
            m.select(mask, a[3], b[3]),
            m.select(mask, a[4], b[4]),
        ]
    }

    #[inline(always)]
    fn select_wide(self, mask: M::Mask, a: &Wide<M::V>, b: &Wide<M::V>) -> Wide<M::V> {
        Wide(self.select(mask, &a.0, &b.0))
    }

    #[inline(always)]
    fn pack(self, a: &Fe<M::V>) -> Fe<M::V> {
        *a
    }

    #[inline(always)]
    fn unpack(self, a: &Fe<M::V>) -> Fe<M::V> {
        *a
    }

    #[inline(always)]
    fn select_packed(self, mask: M::Mask, a: &Fe<M::V>, b: &Fe<M::V>) -> Fe<M::V> {
        self.select(mask, a, b)
    }

    #[inline(always)]
    fn plus(self, a: &Fe<M::V>, n: M::V) -> Fe<M::V> {
        let mut sum = *a;
        sum[0] = self.0.add(a[0], n);
        sum
    }

    #[inline(always)]
    fn lookup(self, zero: M::Mask, multiples: &Points, part: usize, place: M::V) -> Fe<M::V> {
        let (m, [t0, t1, t2, t3, t4]) = (self.0, &multiples[part]);
        [
            m.lookup(zero, t0, place),
            m.lookup(zero, t1, place),
            m.lookup(zero, t2, place),
            m.lookup(zero, t3, place),
            m.lookup(zero, t4, place),
        ]
    }
}
