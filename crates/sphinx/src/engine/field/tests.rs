//! The ladder on machines made for testing it: plain integers that check themselves, and intervals.

use std::vec::Vec;

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::montgomery::MontgomeryPoint;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::radix25::{Mul32, Radix25, add_product, add_square};
use super::radix51::{Madd52, Radix51};
use super::*;
use crate::engine::edwards::{Comb, comb, comb_digits, times_base, times_comb};

/// The highest factor of a 52-bit multiplication.
const FACTOR_MAX: u64 = (1 << 52) - 1;

// What these machines do is not inlined: the ladder would be too large for the compiler's patience.

/// One lane of a plain integer. It panics where arithmetic would leave the lane or the multiplier.
#[derive(Clone, Copy)]
struct Plain;

impl Plain {
    fn product(a: u64, b: u64) -> u128 {
        assert!(a <= FACTOR_MAX && b <= FACTOR_MAX, "{a:#x} x {b:#x}");
        u128::from(a) * u128::from(b)
    }
}

impl Lanes for Plain {
    type V = u64;
    type Mask = bool;

    #[inline(never)]
    fn splat(self, x: u64) -> u64 {
        x
    }

    #[inline(never)]
    fn add(self, a: u64, b: u64) -> u64 {
        a.checked_add(b).unwrap()
    }

    #[inline(never)]
    fn sub(self, a: u64, b: u64) -> u64 {
        a.checked_sub(b).unwrap()
    }

    #[inline(never)]
    fn and(self, a: u64, b: u64) -> u64 {
        a & b
    }

    #[inline(never)]
    fn or(self, a: u64, b: u64) -> u64 {
        a | b
    }

    #[inline(never)]
    fn xor(self, a: u64, b: u64) -> u64 {
        a ^ b
    }

    #[inline(never)]
    fn shl<const BITS: u32>(self, a: u64) -> u64 {
        a << BITS
    }

    #[inline(never)]
    fn shr<const BITS: u32>(self, a: u64) -> u64 {
        a >> BITS
    }

    #[inline(never)]
    fn times_19(self, a: u64) -> u64 {
        a.checked_mul(19).unwrap()
    }

    #[inline(never)]
    fn top_bit(self, a: u64) -> bool {
        a >> 63 == 1
    }

    #[inline(never)]
    fn is_zero(self, a: u64) -> bool {
        a == 0
    }

    #[inline(never)]
    fn select(self, mask: bool, a: u64, b: u64) -> u64 {
        if mask { b } else { a }
    }
}

impl Madd52 for Plain {
    #[inline(never)]
    fn madd_lo(self, acc: u64, a: u64, b: u64) -> u64 {
        self.add(acc, (Self::product(a, b) as u64) & FACTOR_MAX)
    }

    #[inline(never)]
    fn madd_hi(self, acc: u64, a: u64, b: u64) -> u64 {
        self.add(acc, (Self::product(a, b) >> 52) as u64)
    }

    #[inline(never)]
    fn lookup(self, zero: bool, table: &[u64; 8], place: u64) -> u64 {
        if zero { 0 } else { table[place as usize % 8] }
    }
}

impl Mul32 for Plain {
    #[inline(never)]
    fn mul_32(self, a: u64, b: u64) -> u64 {
        let [a, b] = [a, b].map(|factor| u32::try_from(factor).unwrap());
        u64::from(a) * u64::from(b)
    }

    #[inline(never)]
    fn lookup_32(self, zero: bool, table: &[u32; 8], place: u64) -> u64 {
        if zero { 0 } else { table[place as usize % 8].into() }
    }

    #[inline(never)]
    fn add_product_25(self, t: &mut [u64; 10], a: &[u64; 10], b: &[u64; 10]) {
        add_product(self, t, a, b);
    }

    #[inline(never)]
    fn add_square_25(self, t: &mut [u64; 10], a: &[u64; 10]) {
        add_square(self, t, a);
    }
}

/// All the numbers from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    min: u64,
    max: u64,
}

impl Interval {
    const ANY: Self = Self {
        min: 0,
        max: u64::MAX,
    };

    /// The numbers that have no bit above the highest of `max`.
    fn below_bits_of(max: u64) -> Self {
        Self {
            min: 0,
            max: u64::MAX.checked_shr(max.leading_zeros()).unwrap_or(0),
        }
    }
}

impl Zero for Interval {
    const ZERO: Self = Self { min: 0, max: 0 };
}

/// A machine whose numbers are intervals: every result holds all results that the operation has for any numbers of its
/// operands, and an operation that could leave the lane or the multiplier for any of them panics.
#[derive(Clone, Copy)]
struct Intervals;

impl Lanes for Intervals {
    type V = Interval;
    type Mask = ();

    #[inline(never)]
    fn splat(self, x: u64) -> Interval {
        Interval { min: x, max: x }
    }

    #[inline(never)]
    fn add(self, a: Interval, b: Interval) -> Interval {
        Interval {
            min: a.min.checked_add(b.min).expect("a sum stays in its lane"),
            max: a.max.checked_add(b.max).expect("a sum stays in its lane"),
        }
    }

    #[inline(never)]
    fn sub(self, a: Interval, b: Interval) -> Interval {
        Interval {
            min: a.min.checked_sub(b.max).expect("a difference is not negative"),
            max: a.max.checked_sub(b.min).expect("a difference is not negative"),
        }
    }

    #[inline(never)]
    fn and(self, a: Interval, b: Interval) -> Interval {
        Interval {
            min: 0,
            max: a.max.min(b.max),
        }
    }

    #[inline(never)]
    fn or(self, a: Interval, b: Interval) -> Interval {
        Interval {
            min: a.min.max(b.min),
            max: Interval::below_bits_of(a.max | b.max).max,
        }
    }

    #[inline(never)]
    fn xor(self, a: Interval, b: Interval) -> Interval {
        Interval::below_bits_of(a.max | b.max)
    }

    #[inline(never)]
    fn shl<const BITS: u32>(self, a: Interval) -> Interval {
        if a.max.leading_zeros() < BITS {
            return Interval::ANY;
        }
        Interval {
            min: a.min << BITS,
            max: a.max << BITS,
        }
    }

    #[inline(never)]
    fn shr<const BITS: u32>(self, a: Interval) -> Interval {
        Interval {
            min: a.min >> BITS,
            max: a.max >> BITS,
        }
    }

    #[inline(never)]
    fn times_19(self, a: Interval) -> Interval {
        Interval {
            min: a.min.checked_mul(19).expect("a fold stays in its lane"),
            max: a.max.checked_mul(19).expect("a fold stays in its lane"),
        }
    }

    #[inline(never)]
    fn top_bit(self, _: Interval) {}

    #[inline(never)]
    fn is_zero(self, _: Interval) {}

    #[inline(never)]
    fn select(self, (): (), a: Interval, b: Interval) -> Interval {
        Interval {
            min: a.min.min(b.min),
            max: a.max.max(b.max),
        }
    }
}

impl Madd52 for Intervals {
    #[inline(never)]
    fn madd_lo(self, acc: Interval, a: Interval, b: Interval) -> Interval {
        let max = Plain::product(a.max, b.max);
        let product = if max <= u128::from(FACTOR_MAX) {
            Interval {
                min: Plain::product(a.min, b.min) as u64,
                max: max as u64,
            }
        } else {
            Interval {
                min: 0,
                max: FACTOR_MAX,
            }
        };
        self.add(acc, product)
    }

    #[inline(never)]
    fn madd_hi(self, acc: Interval, a: Interval, b: Interval) -> Interval {
        let product = Interval {
            min: (Plain::product(a.min, b.min) >> 52) as u64,
            max: (Plain::product(a.max, b.max) >> 52) as u64,
        };
        self.add(acc, product)
    }

    #[inline(never)]
    fn lookup(self, (): (), table: &[u64; 8], _: Interval) -> Interval {
        Interval {
            min: 0,
            max: table.iter().copied().max().unwrap(),
        }
    }
}

impl Mul32 for Intervals {
    #[inline(never)]
    fn mul_32(self, a: Interval, b: Interval) -> Interval {
        Interval {
            min: Plain.mul_32(a.min, b.min),
            max: Plain.mul_32(a.max, b.max),
        }
    }

    #[inline(never)]
    fn lookup_32(self, (): (), table: &[u32; 8], _: Interval) -> Interval {
        Interval {
            min: 0,
            max: table.iter().copied().max().unwrap().into(),
        }
    }

    #[inline(never)]
    fn add_product_25(self, t: &mut [Interval; 10], a: &[Interval; 10], b: &[Interval; 10]) {
        add_product(self, t, a, b);
    }

    #[inline(never)]
    fn add_square_25(self, t: &mut [Interval; 10], a: &[Interval; 10]) {
        add_square(self, t, a);
    }
}

/// A field with what its documentation says of an element, by limb.
trait Bounded: Field<M = Intervals> {
    fn reduced(self) -> Self::Fe;
    fn limbs_of(a: &Self::Fe) -> &[Interval];
    fn limbs_of_wide(a: &Self::Wide) -> &[Interval];

    fn is_reduced(self, a: &Self::Fe) -> bool {
        let bounds = self.reduced();
        let mut limbs = Self::limbs_of(a).iter().zip(Self::limbs_of(&bounds));
        limbs.all(|(limb, bound)| limb.max <= bound.max)
    }
}

fn at_most(max: u64) -> Interval {
    Interval { min: 0, max }
}

const REDUCED: u64 = (1 << 51) + (1 << 18) - 1;

impl Bounded for Radix51<Intervals> {
    fn reduced(self) -> [Interval; 5] {
        [at_most(REDUCED); 5]
    }

    fn limbs_of(a: &[Interval; 5]) -> &[Interval] {
        a
    }

    fn limbs_of_wide(a: &Self::Wide) -> &[Interval] {
        &a.0
    }
}

impl Bounded for Radix25<Intervals> {
    fn reduced(self) -> [Interval; 10] {
        let (even, odd) = (
            at_most((1 << 26) + (1 << 13) - 1),
            at_most((1 << 25) + (1 << 17) - 1),
        );
        [even, odd, even, odd, even, odd, even, odd, even, odd]
    }

    fn limbs_of(a: &[Interval; 10]) -> &[Interval] {
        a
    }

    fn limbs_of_wide(a: &Self::Wide) -> &[Interval] {
        &a.0
    }
}

const ANY: Words<Interval> = [Interval::ANY; 4];

/// The proof: the whole computation, each of its operations, for all scalars and all points at once.
fn prove<F: Bounded>(f: F) {
    let mut ladders = [[F::Fe::ZERO; 2]; GROUP];
    for product in &mut ladders {
        ladder(f, &ANY, &ANY, product);
    }
    // The base point, with each of its multiples in each place.
    let mut base = [F::Fe::ZERO; 2];
    times_base(f, &ANY, &mut base);
    let mut multiples: Comb<F> = [[F::Packed::ZERO; 4]; 8];
    comb(f, &ANY, &mut multiples);
    let mut combed = [F::Fe::ZERO; 2];
    times_comb(f, &multiples, &ANY, &mut combed);
    for products in [ladders, [base; GROUP], [combed; GROUP]] {
        assert!(products.as_flattened().iter().all(|x| f.is_reduced(x)));
        for vectors in 1..=GROUP {
            affine(f, &products[..vectors], &mut [[Interval::ZERO; 4]; GROUP]);
        }
    }
}

#[test]
fn no_operation_leaves_its_lane_for_any_input() {
    prove(Radix51(Intervals));
}

#[test]
fn no_operation_in_radix_25_leaves_its_lane_for_any_input() {
    prove(Radix25(Intervals));
}

/// The bounds that one step keeps, so that they hold however many there are, and the documented ones of its parts.
fn bounds_of_parts<F: Bounded>(f: F, product_bits: [u32; 2]) {
    let reduced = f.reduced();
    let below = |x: &F::Wide, bits: u32| {
        let limbs = F::limbs_of_wide(x);
        assert!(limbs.iter().all(|limb| limb.max >> bits == 0), "{limbs:?}");
    };
    for (bias, bits) in [Bias::None, Bias::Minuend].into_iter().zip(product_bits) {
        below(&f.mul(&reduced, &reduced, bias), bits);
        below(&f.square(&reduced, bias), bits);
    }
    let at = Rung {
        a: reduced,
        b: reduced,
        c: reduced,
        d: reduced,
    };
    let after = step(f, &at, (), &reduced);
    for x in [&after.x2, &after.z2, &after.x3, &after.z3] {
        below(x, product_bits[1]);
    }
    below(&f.add(&after.x2, &after.z2), 63);
    let next = rung(f, &after);
    for x in [next.a, next.b, next.c, next.d] {
        assert!(f.is_reduced(&x), "{:?}", F::limbs_of(&x));
    }
    // What is packed loses nothing.
    let again = f.unpack(&f.pack(&reduced));
    let kept = F::limbs_of(&again).iter().zip(F::limbs_of(&reduced));
    assert!(kept.into_iter().all(|(again, limb)| again.max >= limb.max));

    // `canonical` takes one p off at the most.
    let [low, upper @ ..] = almost_canonical(Intervals, &f.limbs(&reduced));
    assert!(low.max < (1 << 51) + (1 << 18), "{low:?}");
    assert!(upper.iter().all(|limb| limb.max < 1 << 51), "{upper:?}");
}

#[test]
fn bounds_are_those_of_the_documentation() {
    bounds_of_parts(Radix51(Intervals), [60, 61]);
    bounds_of_parts(Radix25(Intervals), [61, 63]);
}

/// The machine of intervals would be of no use if it let anything pass.
#[test]
fn the_proof_fails_where_a_bound_does() {
    fn fails(run: fn()) {
        assert!(std::panic::catch_unwind(run).is_err());
    }
    let one = Interval { min: 1, max: 1 };
    let f = Radix51(Intervals);
    let _ = f.mul(&[at_most(FACTOR_MAX); 5], &[at_most(FACTOR_MAX); 5], Bias::None);
    fails(|| {
        let _ = Radix51(Intervals).mul(&[Interval::ANY; 5], &[Interval::ZERO; 5], Bias::None);
    });
    fails(|| {
        let _ = Radix51(Intervals).mul(&[at_most(FACTOR_MAX + 1); 5], &[Interval::ZERO; 5], Bias::None);
    });
    fails(|| {
        let _ = Radix25(Intervals).mul(&[at_most(1 << 32); 10], &[Interval::ZERO; 10], Bias::None);
    });
    // 19 times this has more than 32 bits.
    fails(|| {
        let _ = Radix25(Intervals).mul(&[Interval::ZERO; 10], &[at_most(1 << 28); 10], Bias::None);
    });
    fails(|| {
        let f = Radix51(Intervals);
        let _ = f.sub(&f.wide(&[Interval::ZERO; 5]), &f.wide(&[at_most(1); 5]));
    });
    fails(|| {
        let f = Radix51(Intervals);
        let _ = f.add(
            &f.wide(&[Interval::ANY; 5]),
            &f.wide(&[Interval { min: 1, max: 1 }; 5]),
        );
    });
    let _ = f.add(&f.wide(&[at_most(u64::MAX - 1); 5]), &f.wide(&[one; 5]));
    // Products without a bias are no minuends.
    fails(|| {
        let f = Radix51(Intervals);
        let product = f.mul(&f.reduced(), &f.reduced(), Bias::None);
        let _ = f.sub(&product, &product);
    });
    fails(|| {
        let f = Radix25(Intervals);
        let product = f.mul(&f.reduced(), &f.reduced(), Bias::None);
        let _ = f.sub(&product, &product);
    });
}

fn words(bytes: &[u8; 32]) -> Words<u64> {
    let mut words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    [(); 4].map(|()| words.next().unwrap())
}

fn bytes(words: &Words<u64>) -> [u8; 32] {
    words.map(u64::to_le_bytes).concat().try_into().unwrap()
}

/// X25519 of any number of lanes on the plain machine, `vectors` at a time.
fn plain<F: Field<M = Plain>>(
    f: F,
    scalars: &[[u8; 32]],
    points: &[[u8; 32]],
    vectors: usize,
) -> Vec<[u8; 32]> {
    let mut out = Vec::new();
    for (scalars, points) in scalars.chunks(vectors).zip(points.chunks(vectors)) {
        let mut products = [[F::Fe::ZERO; 2]; GROUP];
        for ((scalar, point), product) in scalars.iter().zip(points).zip(&mut products) {
            ladder(f, &words(scalar), &words(point), product);
        }
        let mut shared = [[0; 4]; GROUP];
        affine(f, &products[..scalars.len()], &mut shared);
        out.extend(shared.iter().take(scalars.len()).map(bytes));
    }
    out
}

/// 2^255 - 19 plus `n`, in 255 bits.
fn p_plus(n: i8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (0xed_u8.wrapping_add_signed(n), 0x7f);
    bytes
}

/// Scalars and points: any, and those that are hard.
fn cases() -> (Vec<[u8; 32]>, Vec<[u8; 32]>) {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let mut random = || {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        bytes
    };
    let small = |n| {
        let mut bytes = [0; 32];
        bytes[0] = n;
        bytes
    };
    let mut points: Vec<_> = (0..200).map(|_| random()).collect();
    points.extend((-20..=18).map(p_plus));
    points.extend((0..=20).map(small));
    points.extend([[0xff; 32], small(9)]);
    points.extend(EIGHT_TORSION.map(|point| point.to_montgomery().to_bytes()));
    let scalars = points.iter().enumerate().map(|(at, _)| match at {
        0 => [0; 32],
        1 => [0xff; 32],
        // Even and odd ones, when they are divided by eight.
        2..20 => [(at * 8) as u8; 32],
        _ => random(),
    });
    (scalars.collect(), points)
}

fn dalek(scalar: &[u8; 32], point: &[u8; 32]) -> [u8; 32] {
    MontgomeryPoint(*point).mul_clamped(*scalar).to_bytes()
}

/// The same source that ships, on a machine that every CPU has.
#[test]
fn the_ladder_on_plain_integers_gives_what_dalek_gives() {
    let (scalars, points) = cases();
    let expected: Vec<_> = scalars.iter().zip(&points).map(|(k, u)| dalek(k, u)).collect();
    for vectors in [1, 3, GROUP] {
        assert!(
            plain(Radix51(Plain), &scalars, &points, vectors) == expected,
            "{vectors} at a time"
        );
        assert!(
            plain(Radix25(Plain), &scalars, &points, vectors) == expected,
            "{vectors} at a time, radix 25"
        );
    }
}

fn base_gives_what_dalek_gives<F: Field<M = Plain>>(f: F) {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let mut scalars: Vec<[u8; 32]> = (0..=16_u8).map(|digit| [digit * 0x11; 32]).take(16).collect();
    scalars.extend([0x08, 0x80, 0x78, 0x87, 0x89, 0x98].map(|byte| [byte; 32]));
    scalars.extend((0..200).map(|_| {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        bytes
    }));
    for scalar in scalars {
        let (mut product, mut out) = ([F::Fe::ZERO; 2], [[0; 4]]);
        times_base(f, &words(&scalar), &mut product);
        affine(f, &[product], &mut out);
        let expected = MontgomeryPoint::mul_base_clamped(scalar).to_bytes();
        assert_eq!(bytes(&out[0]), expected, "{scalar:02x?}");
    }
}

#[test]
fn the_base_point_on_plain_integers_gives_what_dalek_gives() {
    base_gives_what_dalek_gives(Radix51(Plain));
    base_gives_what_dalek_gives(Radix25(Plain));
}

fn combs_give_what_dalek_gives<F: Field<M = Plain>>(f: F) {
    let (scalars, points) = cases();
    let mut on_curve = 0;
    for (at, point) in points.iter().enumerate() {
        let mut multiples: Comb<F> = [[F::Packed::ZERO; 4]; 8];
        let is_on_curve = comb(f, &words(point), &mut multiples);
        let edwards = MontgomeryPoint(*point).to_edwards(0);
        assert_eq!(is_on_curve, edwards.is_some(), "{point:02x?}");
        if !is_on_curve {
            continue;
        }
        on_curve += 1;
        // One comb for several products.
        for scalar in [&scalars[at], &scalars[at / 2], &[0xff; 32], &[0; 32]] {
            let (mut product, mut out) = ([F::Fe::ZERO; 2], [[0; 4]]);
            times_comb(f, &multiples, &comb_digits(scalar), &mut product);
            affine(f, &[product], &mut out);
            assert_eq!(bytes(&out[0]), dalek(scalar, point), "{scalar:02x?} {point:02x?}");
        }
    }
    assert!(on_curve > 100 && on_curve < points.len() - 80, "{on_curve}");
}

#[test]
fn combs_on_plain_integers_give_what_dalek_gives() {
    combs_give_what_dalek_gives(Radix51(Plain));
    combs_give_what_dalek_gives(Radix25(Plain));
}

/// Every way in which the last reduction can go: numbers around 0, p and 2p, and with limbs at their bounds.
#[test]
fn reduction_ends_below_p() {
    let limbs = |at: usize, n: u64| {
        let mut limbs = [0; 5];
        limbs[at] = n;
        limbs
    };
    let p = [LIMB - 18, LIMB, LIMB, LIMB, LIMB];
    for n in 0..40 {
        let reduced = canonical(Radix51(Plain), &limbs(0, n));
        assert_eq!(reduced, limbs(0, n));
        // p + n, with its carry still to go.
        let mut above = p;
        above[0] += n;
        assert_eq!(canonical(Radix51(Plain), &above), limbs(0, n), "p + {n}");
        let mut twice = p.map(|limb| 2 * limb);
        twice[0] += n;
        // Limbs of 2p have 52 bits: reduced elements have fewer, but the passes take them.
        assert_eq!(canonical(Radix51(Plain), &twice), limbs(0, n), "2p + {n}");
        if n > 0 {
            let mut below = p;
            below[0] -= n;
            assert_eq!(canonical(Radix51(Plain), &below), below, "p - {n}");
        }
    }
    let top = canonical(Radix51(Plain), &[REDUCED; 5]);
    assert!(top.iter().all(|limb| *limb <= LIMB) && top.iter().rev().lt(p.iter().rev()));
}
