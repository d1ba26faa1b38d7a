//! The ladder on machines made for testing it: plain integers that check themselves, and intervals.

use std::vec::Vec;

use curve25519_dalek::montgomery::MontgomeryPoint;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::engine::edwards::times_base;

/// The highest factor of a 52-bit multiplication.
const FACTOR_MAX: u64 = (1 << 52) - 1;

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

    fn splat(self, x: u64) -> u64 {
        x
    }

    fn add(self, a: u64, b: u64) -> u64 {
        a.checked_add(b).unwrap()
    }

    fn sub(self, a: u64, b: u64) -> u64 {
        a.checked_sub(b).unwrap()
    }

    fn and(self, a: u64, b: u64) -> u64 {
        a & b
    }

    fn or(self, a: u64, b: u64) -> u64 {
        a | b
    }

    fn xor(self, a: u64, b: u64) -> u64 {
        a ^ b
    }

    fn shl<const BITS: u32>(self, a: u64) -> u64 {
        a << BITS
    }

    fn shr<const BITS: u32>(self, a: u64) -> u64 {
        a >> BITS
    }

    fn madd_lo(self, acc: u64, a: u64, b: u64) -> u64 {
        self.add(acc, (Self::product(a, b) as u64) & FACTOR_MAX)
    }

    fn madd_hi(self, acc: u64, a: u64, b: u64) -> u64 {
        self.add(acc, (Self::product(a, b) >> 52) as u64)
    }

    fn times_19(self, a: u64) -> u64 {
        a.checked_mul(19).unwrap()
    }

    fn top_bit(self, a: u64) -> bool {
        a >> 63 == 1
    }

    fn is_zero(self, a: u64) -> bool {
        a == 0
    }

    fn select(self, mask: bool, a: u64, b: u64) -> u64 {
        if mask { b } else { a }
    }

    fn lookup(self, zero: bool, table: &[u64; 8], place: u64) -> u64 {
        if zero { 0 } else { table[place as usize % 8] }
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

    fn splat(self, x: u64) -> Interval {
        Interval { min: x, max: x }
    }

    fn add(self, a: Interval, b: Interval) -> Interval {
        Interval {
            min: a.min.checked_add(b.min).expect("a sum stays in its lane"),
            max: a.max.checked_add(b.max).expect("a sum stays in its lane"),
        }
    }

    fn sub(self, a: Interval, b: Interval) -> Interval {
        Interval {
            min: a.min.checked_sub(b.max).expect("a difference is not negative"),
            max: a.max.checked_sub(b.min).expect("a difference is not negative"),
        }
    }

    fn and(self, a: Interval, b: Interval) -> Interval {
        Interval {
            min: 0,
            max: a.max.min(b.max),
        }
    }

    fn or(self, a: Interval, b: Interval) -> Interval {
        Interval {
            min: a.min.max(b.min),
            max: Interval::below_bits_of(a.max | b.max).max,
        }
    }

    fn xor(self, a: Interval, b: Interval) -> Interval {
        Interval::below_bits_of(a.max | b.max)
    }

    fn shl<const BITS: u32>(self, a: Interval) -> Interval {
        if a.max.leading_zeros() < BITS {
            return Interval::ANY;
        }
        Interval {
            min: a.min << BITS,
            max: a.max << BITS,
        }
    }

    fn shr<const BITS: u32>(self, a: Interval) -> Interval {
        Interval {
            min: a.min >> BITS,
            max: a.max >> BITS,
        }
    }

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

    fn madd_hi(self, acc: Interval, a: Interval, b: Interval) -> Interval {
        let product = Interval {
            min: (Plain::product(a.min, b.min) >> 52) as u64,
            max: (Plain::product(a.max, b.max) >> 52) as u64,
        };
        self.add(acc, product)
    }

    fn times_19(self, a: Interval) -> Interval {
        Interval {
            min: a.min.checked_mul(19).expect("a fold stays in its lane"),
            max: a.max.checked_mul(19).expect("a fold stays in its lane"),
        }
    }

    fn top_bit(self, _: Interval) {}

    fn is_zero(self, _: Interval) {}

    fn select(self, (): (), a: Interval, b: Interval) -> Interval {
        Interval {
            min: a.min.min(b.min),
            max: a.max.max(b.max),
        }
    }

    fn lookup(self, (): (), table: &[u64; 8], _: Interval) -> Interval {
        Interval {
            min: 0,
            max: table.iter().copied().max().unwrap(),
        }
    }
}

/// What the documentation of [`Fe`] says.
const REDUCED: u64 = (1 << 51) + (1 << 18) - 1;

/// The proof: the whole computation, each of its operations, for all scalars and all points at once.
#[test]
fn no_operation_leaves_its_lane_for_any_input() {
    let m = Intervals;
    let mut products = [[[Interval::ZERO; 5]; 2]; GROUP];
    for product in &mut products {
        ladder(m, &[Interval::ANY; 4], &[Interval::ANY; 4], product);
    }
    assert!(
        products
            .iter()
            .flatten()
            .flatten()
            .all(|limb| limb.max <= REDUCED)
    );
    for vectors in 1..=GROUP {
        affine(m, &products[..vectors], &mut [[Interval::ZERO; 4]; GROUP]);
    }
}

/// The same for the base point, with each of its multiples in each place.
#[test]
fn no_operation_on_the_edwards_curve_leaves_its_lane_for_any_scalar() {
    let mut product = [[Interval::ZERO; 5]; 2];
    times_base(Intervals, &[Interval::ANY; 4], &mut product);
    assert!(product.iter().flatten().all(|limb| limb.max <= REDUCED));
    affine(Intervals, &[product], &mut [[Interval::ZERO; 4]]);
}

/// The bounds that one step keeps, so that they hold however many there are, and the documented ones of its parts.
#[test]
fn bounds_are_those_of_the_documentation() {
    let m = Intervals;
    let reduced = [Interval { min: 0, max: REDUCED }; 5];
    let below =
        |x: &Wide<Interval>, bound: u64| assert!(x.0.iter().all(|limb| limb.max < bound), "{:?}", x.0);
    for bias in [Bias::None, Bias::Minuend] {
        let bound = if bias == Bias::None { 1 << 60 } else { 1 << 61 };
        below(&mul(m, &reduced, &reduced, bias), bound);
        below(&square(m, &reduced, bias), bound);
    }
    let at = Rung {
        a: reduced,
        b: reduced,
        c: reduced,
        d: reduced,
    };
    let after = step(m, &at, (), &reduced);
    for x in [&after.x2, &after.z2, &after.x3, &after.z3] {
        below(x, 1 << 61);
    }
    below(&add(m, &after.x2, &after.z2), 1 << 62);
    let next = rung(m, &after);
    let limbs = [next.a, next.b, next.c, next.d].concat();
    assert!(limbs.iter().all(|limb| limb.max <= REDUCED), "{limbs:?}");

    // `canonical` takes one p off at the most.
    let [low, upper @ ..] = almost_canonical(m, &reduced);
    assert!(low.max < (1 << 51) + (1 << 18), "{low:?}");
    assert!(upper.iter().all(|limb| limb.max < 1 << 51), "{upper:?}");
}

/// The machine of intervals would be of no use if it let anything pass.
#[test]
fn the_proof_fails_where_a_bound_does() {
    let fails = |run: fn()| assert!(std::panic::catch_unwind(run).is_err());
    let limb = |max| [Interval { min: 0, max }; 5];
    let one = Interval { min: 1, max: 1 };
    let _ = mul(Intervals, &limb(FACTOR_MAX), &limb(FACTOR_MAX), Bias::None);
    fails(|| {
        let _ = mul(Intervals, &[Interval::ANY; 5], &[Interval::ZERO; 5], Bias::None);
    });
    fails(|| {
        let _ = mul(
            Intervals,
            &[Interval {
                min: 0,
                max: FACTOR_MAX + 1,
            }; 5],
            &[Interval::ZERO; 5],
            Bias::None,
        );
    });
    fails(|| {
        let _ = sub(
            Intervals,
            &Wide([Interval::ZERO; 5]),
            &Wide([Interval { min: 0, max: 1 }; 5]),
        );
    });
    fails(|| {
        let _ = add(
            Intervals,
            &Wide([Interval::ANY; 5]),
            &Wide([Interval { min: 1, max: 1 }; 5]),
        );
    });
    let _ = add(
        Intervals,
        &Wide(
            [Interval {
                min: 0,
                max: u64::MAX - 1,
            }; 5],
        ),
        &Wide([one; 5]),
    );
    // Products without a bias are no minuends.
    fails(|| {
        let x = [Interval { min: 0, max: REDUCED }; 5];
        let product = mul(Intervals, &x, &x, Bias::None);
        let _ = sub(Intervals, &product, &product);
    });
}

fn words(bytes: &[u8; 32]) -> Words<u64> {
    let mut words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    [(); 4].map(|()| words.next().unwrap())
}

/// X25519 of any number of lanes on the plain machine, `vectors` at a time.
fn plain(scalars: &[[u8; 32]], points: &[[u8; 32]], vectors: usize) -> Vec<[u8; 32]> {
    let mut out = Vec::new();
    for (scalars, points) in scalars.chunks(vectors).zip(points.chunks(vectors)) {
        let mut products = [[[0; 5]; 2]; GROUP];
        for ((scalar, point), product) in scalars.iter().zip(points).zip(&mut products) {
            ladder(Plain, &words(scalar), &words(point), product);
        }
        let mut shared = [[0; 4]; GROUP];
        affine(Plain, &products[..scalars.len()], &mut shared);
        let bytes = shared.iter().map(|words| words.map(u64::to_le_bytes).concat());
        out.extend(
            bytes
                .take(scalars.len())
                .map(|bytes| <[u8; 32]>::try_from(bytes).unwrap()),
        );
    }
    out
}

/// 2^255 - 19 plus `n`, in 255 bits.
fn p_plus(n: i8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (0xed_u8.wrapping_add_signed(n), 0x7f);
    bytes
}

/// The same source that ships, on a machine that every CPU has.
#[test]
fn the_ladder_on_plain_integers_gives_what_dalek_gives() {
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
    let scalars = points.iter().enumerate().map(|(at, _)| match at {
        0 => [0; 32],
        1 => [0xff; 32],
        _ => random(),
    });
    let scalars: Vec<_> = scalars.collect();
    let expected: Vec<_> = scalars
        .iter()
        .zip(&points)
        .map(|(scalar, point)| MontgomeryPoint(*point).mul_clamped(*scalar).to_bytes())
        .collect();
    for vectors in [1, 3, GROUP] {
        assert!(
            plain(&scalars, &points, vectors) == expected,
            "{vectors} at a time"
        );
    }
}

#[test]
fn the_base_point_on_plain_integers_gives_what_dalek_gives() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let mut scalars: Vec<[u8; 32]> = (0..=16_u8).map(|digit| [digit * 0x11; 32]).take(16).collect();
    scalars.extend([0x08, 0x80, 0x78, 0x87, 0x89, 0x98].map(|byte| [byte; 32]));
    scalars.extend((0..200).map(|_| {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        bytes
    }));
    for scalar in scalars {
        let (mut product, mut out) = ([[0; 5]; 2], [[0; 4]]);
        times_base(Plain, &words(&scalar), &mut product);
        affine(Plain, &[product], &mut out);
        let expected = MontgomeryPoint::mul_base_clamped(scalar).to_bytes();
        assert_eq!(out[0].map(u64::to_le_bytes).concat(), expected, "{scalar:02x?}");
    }
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
        let reduced = canonical(Plain, &limbs(0, n));
        assert_eq!(reduced, limbs(0, n));
        // p + n, with its carry still to go.
        let mut above = p;
        above[0] += n;
        assert_eq!(canonical(Plain, &above), limbs(0, n), "p + {n}");
        let mut twice = p.map(|limb| 2 * limb);
        twice[0] += n;
        // Limbs of 2p have 52 bits: reduced elements have fewer, but the passes take them.
        assert_eq!(canonical(Plain, &twice), limbs(0, n), "2p + {n}");
        if n > 0 {
            let mut below = p;
            below[0] -= n;
            assert_eq!(canonical(Plain, &below), below, "p - {n}");
        }
    }
    let top = canonical(Plain, &[REDUCED; 5]);
    assert!(top.iter().all(|limb| *limb <= LIMB) && top.iter().rev().lt(p.iter().rev()));
}
