//! Ten limbs of 26 and 25 bits in turns, `sum t[i] 2^ceil(25.5 i)`, for a machine that multiplies 32 bits.
//!
//! - [`Fe`] is reduced: even limbs below 2^26 + 2^13, odd ones below 2^25 + 2^17, so that 38 times an odd one and 19 times an
//!   even one fit the multiplier's 32 bits.
//! - [`Wide`] is not: limbs below 2^63. It may only be added, subtracted and carried.

use super::super::base::{BASE_HALVES, Halves, WINDOWS};
use super::{Bias, Field, Lanes};

/// A machine that multiplies 32 bits.
pub(in super::super) trait Mul32: Lanes {
    /// The product of two numbers below 2^32.
    fn mul_32(self, a: Self::V, b: Self::V) -> Self::V;
    /// The number at `place`, which is at most 8, modulo 8; zero where the mask is set. All of the table is read, whatever
    /// the places are.
    fn lookup_32(self, zero: Self::Mask, table: &[u32; 8], place: Self::V) -> Self::V;

    /// [`add_product`], which a machine of few registers had better call: written out where it is needed it would fill the
    /// cache of instructions, and its operands are in memory anyway.
    #[inline(always)]
    fn add_product_25(self, t: &mut [Self::V; 10], a: &Fe<Self::V>, b: &Fe<Self::V>) {
        add_product(self, t, a, b);
    }

    /// [`add_square`], see [`add_product_25`](Self::add_product_25).
    #[inline(always)]
    fn add_square_25(self, t: &mut [Self::V; 10], a: &Fe<Self::V>) {
        add_square(self, t, a);
    }
}

/// The field on such a machine.
#[derive(Clone, Copy)]
pub(in super::super) struct Radix25<M>(pub(in super::super) M);

pub(super) type Fe<V> = [V; 10];

#[derive(Clone, Copy)]
pub(in super::super) struct Wide<V>(pub(super) [V; 10]);

/// What a [`Bias::Minuend`] is: 2^36 p.
const BIAS: [u64; 10] = {
    let mut bias = [((1 << 25) - 1) << 36; 10];
    let mut at = 0;
    while at < 10 {
        bias[at] = ((1 << 26) - 1) << 36;
        at += 2;
    }
    bias[0] = ((1 << 26) - 19) << 36;
    bias
};

impl<M: Mul32> Radix25<M> {
    #[inline(always)]
    fn start(self, bias: Bias) -> [M::V; 10] {
        let m = self.0;
        match bias {
            Bias::None => [m.splat(0); 10],
            Bias::Minuend => self.bias(),
        }
    }

    #[inline(always)]
    fn bias(self) -> [M::V; 10] {
        let (m, [even, odd]) = (self.0, [self.0.splat(BIAS[2]), self.0.splat(BIAS[1])]);
        [m.splat(BIAS[0]), odd, even, odd, even, odd, even, odd, even, odd]
    }
}

/// `x` for each of the places of a limb.
macro_rules! each {
    (|$at:ident| $x:expr) => {
        [
            {
                const $at: usize = 0;
                $x
            },
            {
                const $at: usize = 1;
                $x
            },
            {
                const $at: usize = 2;
                $x
            },
            {
                const $at: usize = 3;
                $x
            },
            {
                const $at: usize = 4;
                $x
            },
            {
                const $at: usize = 5;
                $x
            },
            {
                const $at: usize = 6;
                $x
            },
            {
                const $at: usize = 7;
                $x
            },
            {
                const $at: usize = 8;
                $x
            },
            {
                const $at: usize = 9;
                $x
            },
        ]
    };
}

/// Adds `a b` to `t`, in 100 products: twice where both limbs are odd, as their weights' exponents were rounded up; 19 times
/// where they are above 2^255.
#[inline(always)]
pub(in super::super) fn add_product<M: Mul32>(m: M, t: &mut [M::V; 10], a: &Fe<M::V>, b: &Fe<M::V>) {
    // In registers, as far as there are.
    let (mut t, out) = (*t, t);
    let nineteen = m.splat(19);
    let b_19 = each!(|AT| m.mul_32(b[AT], nineteen));
    let double = each!(|AT| m.add(a[AT], a[AT]));
    macro_rules! once { ($($i:literal $j:literal),*) => { $( t[$i + $j] = madd(m, t[$i + $j], a[$i], b[$j]); )* } }
    macro_rules! once_19 { ($($i:literal $j:literal),*) => { $( t[$i + $j - 10] = madd(m, t[$i + $j - 10], a[$i], b_19[$j]); )* } }
    macro_rules! twice { ($($i:literal $j:literal),*) => { $( t[$i + $j] = madd(m, t[$i + $j], double[$i], b[$j]); )* } }
    macro_rules! twice_19 { ($($i:literal $j:literal),*) => { $( t[$i + $j - 10] = madd(m, t[$i + $j - 10], double[$i], b_19[$j]); )* } }
    once!(0 0, 0 1, 0 2, 0 3, 0 4, 0 5, 0 6, 0 7, 0 8, 0 9);
    once!(1 0, 1 2, 1 4, 1 6, 1 8);
    twice!(1 1, 1 3, 1 5, 1 7);
    twice_19!(1 9);
    once!(2 0, 2 1, 2 2, 2 3, 2 4, 2 5, 2 6, 2 7);
    once_19!(2 8, 2 9);
    once!(3 0, 3 2, 3 4, 3 6);
    twice!(3 1, 3 3, 3 5);
    once_19!(3 8);
    twice_19!(3 7, 3 9);
    once!(4 0, 4 1, 4 2, 4 3, 4 4, 4 5);
    once_19!(4 6, 4 7, 4 8, 4 9);
    once!(5 0, 5 2, 5 4);
    twice!(5 1, 5 3);
    once_19!(5 6, 5 8);
    twice_19!(5 5, 5 7, 5 9);
    once!(6 0, 6 1, 6 2, 6 3);
    once_19!(6 4, 6 5, 6 6, 6 7, 6 8, 6 9);
    once!(7 0, 7 2);
    twice!(7 1);
    once_19!(7 4, 7 6, 7 8);
    twice_19!(7 3, 7 5, 7 7, 7 9);
    once!(8 0, 8 1);
    once_19!(8 2, 8 3, 8 4, 8 5, 8 6, 8 7, 8 8, 8 9);
    once!(9 0);
    once_19!(9 2, 9 4, 9 6, 9 8);
    twice_19!(9 1, 9 3, 9 5, 9 7, 9 9);
    *out = t;
}

/// Adds `a a` to `t`, in 55 products: those of two different limbs stand for two.
#[inline(always)]
pub(in super::super) fn add_square<M: Mul32>(m: M, t: &mut [M::V; 10], a: &Fe<M::V>) {
    // In registers, as far as there are.
    let (mut t, out) = (*t, t);
    let double = each!(|AT| m.add(a[AT], a[AT]));
    let (nineteen, twice_19) = (m.splat(19), m.splat(38));
    // 19 times, and once more where a limb is odd.
    let folded = each!(|AT| m.mul_32(a[AT], if AT.is_multiple_of(2) { nineteen } else { twice_19 }));
    macro_rules! terms { ($x:ident $y:ident: $($i:literal $j:literal),*) => { $( t[($i + $j) % 10] = madd(m, t[($i + $j) % 10], $x[$i], $y[$j]); )* } }
    terms!(a a: 0 0);
    terms!(double a: 0 1, 0 2, 0 3, 0 4, 0 5, 0 6, 0 7, 0 8, 0 9);
    terms!(a double: 1 1);
    terms!(double a: 1 2, 1 4, 1 6, 1 8);
    terms!(double double: 1 3, 1 5, 1 7);
    terms!(double folded: 1 9);
    terms!(a a: 2 2);
    terms!(double a: 2 3, 2 4, 2 5, 2 6, 2 7);
    terms!(double folded: 2 8);
    terms!(a folded: 2 9);
    terms!(a double: 3 3);
    terms!(double a: 3 4, 3 6);
    terms!(double double: 3 5);
    terms!(double folded: 3 7, 3 8, 3 9);
    terms!(a a: 4 4);
    terms!(double a: 4 5);
    terms!(double folded: 4 6, 4 8);
    terms!(a folded: 4 7, 4 9);
    terms!(a folded: 5 5);
    terms!(double folded: 5 6, 5 7, 5 8, 5 9);
    terms!(a folded: 6 6, 6 7, 6 9);
    terms!(double folded: 6 8);
    terms!(a folded: 7 7);
    terms!(double folded: 7 8, 7 9);
    terms!(a folded: 8 8, 8 9, 9 9);
    *out = t;
}

#[inline(always)]
fn madd<M: Mul32>(m: M, acc: M::V, a: M::V, b: M::V) -> M::V {
    m.add(acc, m.mul_32(a, b))
}

impl<M: Mul32> Field for Radix25<M> {
    type M = M;
    type Fe = Fe<M::V>;
    type Wide = Wide<M::V>;
    type Packed = [M::V; 5];
    type Multiples = Halves;
    const BASE: &'static [Halves; WINDOWS] = &BASE_HALVES;

    #[inline(always)]
    fn machine(self) -> M {
        self.0
    }

    #[inline(always)]
    fn with_limbs(self, limbs: &[M::V; 5]) -> Fe<M::V> {
        let m = self.0;
        let low = m.splat((1 << 26) - 1);
        each!(|AT| if AT.is_multiple_of(2) {
            m.and(limbs[AT / 2], low)
        } else {
            m.shr::<26>(limbs[AT / 2])
        })
    }

    #[inline(always)]
    fn limbs(self, a: &Fe<M::V>) -> [M::V; 5] {
        let m = self.0;
        [
            m.add(a[0], m.shl::<26>(a[1])),
            m.add(a[2], m.shl::<26>(a[3])),
            m.add(a[4], m.shl::<26>(a[5])),
            m.add(a[6], m.shl::<26>(a[7])),
            m.add(a[8], m.shl::<26>(a[9])),
        ]
    }

    #[inline(always)]
    fn mul(self, a: &Fe<M::V>, b: &Fe<M::V>, bias: Bias) -> Wide<M::V> {
        let mut t = self.start(bias);
        self.0.add_product_25(&mut t, a, b);
        Wide(t)
    }

    #[inline(always)]
    fn square(self, a: &Fe<M::V>, bias: Bias) -> Wide<M::V> {
        let mut t = self.start(bias);
        self.0.add_square_25(&mut t, a);
        Wide(t)
    }

    #[inline(always)]
    fn add(self, a: &Wide<M::V>, b: &Wide<M::V>) -> Wide<M::V> {
        Wide(each!(|AT| self.0.add(a.0[AT], b.0[AT])))
    }

    #[inline(always)]
    fn sub(self, a: &Wide<M::V>, b: &Wide<M::V>) -> Wide<M::V> {
        Wide(each!(|AT| self.0.sub(a.0[AT], b.0[AT])))
    }

    #[inline(always)]
    fn add_121665_times(self, acc: &Wide<M::V>, e: &Fe<M::V>) -> Wide<M::V> {
        let k = self.0.splat(121_665);
        Wide(each!(|AT| madd(self.0, acc.0[AT], e[AT], k)))
    }

    #[inline(always)]
    fn wide(self, a: &Fe<M::V>) -> Wide<M::V> {
        Wide(*a)
    }

    #[inline(always)]
    fn biased(self, a: &Wide<M::V>) -> Wide<M::V> {
        self.add(a, &Wide(self.bias()))
    }

    /// Two chains of carries beside each other, from limb 0 and from limb 4.
    #[inline(always)]
    fn carry(self, t: &Wide<M::V>) -> Fe<M::V> {
        let (m, mut t) = (self.0, t.0);
        let (even, odd) = (m.splat((1 << 26) - 1), m.splat((1 << 25) - 1));
        macro_rules! pass {
            ($($at:literal)*) => { $(
                if $at % 2 == 0 {
                    t[$at + 1] = m.add(t[$at + 1], m.shr::<26>(t[$at]));
                    t[$at] = m.and(t[$at], even);
                } else {
                    t[$at + 1] = m.add(t[$at + 1], m.shr::<25>(t[$at]));
                    t[$at] = m.and(t[$at], odd);
                }
            )* };
        }
        pass!(0 4 1 5 2 6 3 7 4 8);
        t[0] = m.add(t[0], m.times_19(m.shr::<25>(t[9])));
        t[9] = m.and(t[9], odd);
        pass!(0);
        t
    }

    #[inline(always)]
    fn select(self, mask: M::Mask, a: &Fe<M::V>, b: &Fe<M::V>) -> Fe<M::V> {
        each!(|AT| self.0.select(mask, a[AT], b[AT]))
    }

    #[inline(always)]
    fn select_wide(self, mask: M::Mask, a: &Wide<M::V>, b: &Wide<M::V>) -> Wide<M::V> {
        Wide(self.select(mask, &a.0, &b.0))
    }

    /// Two limbs a lane.
    #[inline(always)]
    fn pack(self, a: &Fe<M::V>) -> [M::V; 5] {
        let m = self.0;
        [
            m.or(a[0], m.shl::<32>(a[1])),
            m.or(a[2], m.shl::<32>(a[3])),
            m.or(a[4], m.shl::<32>(a[5])),
            m.or(a[6], m.shl::<32>(a[7])),
            m.or(a[8], m.shl::<32>(a[9])),
        ]
    }

    #[inline(always)]
    fn unpack(self, a: &[M::V; 5]) -> Fe<M::V> {
        let m = self.0;
        // What `pack` was given has no more bits.
        let (even, odd) = (m.splat((1 << 27) - 1), m.splat((1 << 26) - 1));
        each!(|AT| if AT.is_multiple_of(2) {
            m.and(a[AT / 2], even)
        } else {
            m.and(m.shr::<32>(a[AT / 2]), odd)
        })
    }

    #[inline(always)]
    fn select_packed(self, mask: M::Mask, a: &[M::V; 5], b: &[M::V; 5]) -> [M::V; 5] {
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
    fn plus(self, a: &Fe<M::V>, n: M::V) -> Fe<M::V> {
        let mut sum = *a;
        sum[0] = self.0.add(a[0], n);
        sum
    }

    #[inline(always)]
    fn lookup(self, zero: M::Mask, multiples: &Halves, part: usize, place: M::V) -> Fe<M::V> {
        each!(|AT| self.0.lookup_32(zero, &multiples[part][AT], place))
    }
}
