//! Multiples of the base point, for multiplying it without doublings: they are computed when the crate is compiled.
//!
//! The field here is plain integers with limbs of 51 bits, as slow as it likes.

/// One number for each of eight multiples: where a vector looks them up.
pub(super) type Eight = [u64; 8];

/// `y + x`, `y - x` and `2 d x y` of eight points, by limb.
pub(super) type Points = [[Eight; 5]; 3];

/// Digits of four bits that a scalar has.
pub(super) const WINDOWS: usize = 64;

/// At `[i]`, the multiples `1 16^i` to `8 16^i` of the base point. The eighth stands at place 0.
pub(super) static BASE: [Points; WINDOWS] = windows();

/// `x` of the point on the Edwards curve that is Curve25519's base point; its `y` is 4/5 (RFC 7748, section 4.1).
const BASE_X: Limbs = [
    0x0006_2d60_8f25_d51a,
    0x0004_12a4_b4f6_592a,
    0x0007_5b71_71a4_b31d,
    0x0001_ff60_5271_18fe,
    0x0002_1693_6d3c_d6e5,
];

/// 2 d
pub(super) const TWO_D: Limbs = canonical(&add(&D, &D));

/// -121665/121666, the curve's only number.
pub(super) const D: Limbs = canonical(&mul(&sub(&[0; 5], &small(121_665)), &invert(&small(121_666))));

/// A square root of -1: 2^((p - 1) / 4), where the exponent is 2^253 - 5.
pub(super) const ROOT_OF_MINUS_1: Limbs = {
    let mut out = small(2);
    let mut bit = 252;
    while bit > 0 {
        bit -= 1;
        out = mul(&out, &out);
        if bit != 2 {
            out = mul(&out, &small(2));
        }
    }
    canonical(&out)
};

/// [`Points`] with limbs of 26 and 25 bits.
pub(super) type Halves = [[[u32; 8]; 10]; 3];

/// [`BASE`] with limbs of 26 and 25 bits.
pub(super) static BASE_HALVES: [Halves; WINDOWS] = {
    let whole = windows();
    let mut halves = [[[[0; 8]; 10]; 3]; WINDOWS];
    let mut window = 0;
    while window < WINDOWS {
        let mut part = 0;
        while part < 3 {
            let mut limb = 0;
            while limb < 5 {
                let mut at = 0;
                while at < 8 {
                    let n = whole[window][part][limb][at];
                    halves[window][part][2 * limb][at] = n as u32 & ((1 << 26) - 1);
                    halves[window][part][2 * limb + 1][at] = (n >> 26) as u32;
                    at += 1;
                }
                limb += 1;
            }
            part += 1;
        }
        window += 1;
    }
    halves
};

const LIMB: u64 = (1 << 51) - 1;

type Limbs = [u64; 5];

/// `x = X / Z`, `y = Y / Z`, `T = X Y / Z`.
#[derive(Clone, Copy)]
struct Extended {
    x: Limbs,
    y: Limbs,
    z: Limbs,
    t: Limbs,
}

const fn small(n: u64) -> Limbs {
    [n, 0, 0, 0, 0]
}

const fn carry(t: [u128; 5]) -> Limbs {
    let mut out = [0; 5];
    let mut over = 0;
    let mut at = 0;
    while at < 5 {
        let sum = t[at] + over;
        out[at] = sum as u64 & LIMB;
        over = sum >> 51;
        at += 1;
    }
    let low = out[0] as u128 + 19 * over;
    out[0] = low as u64 & LIMB;
    out[1] += (low >> 51) as u64;
    out
}

const fn wide(a: u64, b: u64) -> u128 {
    a as u128 * b as u128
}

const fn mul(a: &Limbs, b: &Limbs) -> Limbs {
    let [a0, a1, a2, a3, a4] = *a;
    let [b0, b1, b2, b3, b4] = *b;
    carry([
        wide(a0, b0) + 19 * (wide(a1, b4) + wide(a2, b3) + wide(a3, b2) + wide(a4, b1)),
        wide(a0, b1) + wide(a1, b0) + 19 * (wide(a2, b4) + wide(a3, b3) + wide(a4, b2)),
        wide(a0, b2) + wide(a1, b1) + wide(a2, b0) + 19 * (wide(a3, b4) + wide(a4, b3)),
        wide(a0, b3) + wide(a1, b2) + wide(a2, b1) + wide(a3, b0) + 19 * wide(a4, b4),
        wide(a0, b4) + wide(a1, b3) + wide(a2, b2) + wide(a3, b1) + wide(a4, b0),
    ])
}

const fn add(a: &Limbs, b: &Limbs) -> Limbs {
    let mut sums = [0; 5];
    let mut at = 0;
    while at < 5 {
        sums[at] = a[at] as u128 + b[at] as u128;
        at += 1;
    }
    carry(sums)
}

/// `a - b`, by way of 4 p.
const fn sub(a: &Limbs, b: &Limbs) -> Limbs {
    let mut differences = [0; 5];
    let mut at = 0;
    while at < 5 {
        let p = if at == 0 { LIMB - 18 } else { LIMB };
        differences[at] = a[at] as u128 + 4 * p as u128 - b[at] as u128;
        at += 1;
    }
    carry(differences)
}

/// `x^(p - 2)`, where p - 2 is 250 ones and then 01011.
const fn invert(x: &Limbs) -> Limbs {
    let mut out = *x;
    let mut bit = 254;
    while bit > 0 {
        bit -= 1;
        out = mul(&out, &out);
        if bit > 4 || bit == 3 || bit == 1 || bit == 0 {
            out = mul(&out, x);
        }
    }
    out
}

/// Below p, limbs below 2^51.
const fn canonical(x: &Limbs) -> Limbs {
    // Twice, for the carry of the first may reach the second limb only.
    let mut x = add(&add(x, &[0; 5]), &[0; 5]);
    let mut over = (x[0] + 19) >> 51;
    let mut at = 1;
    while at < 5 {
        over = (x[at] + over) >> 51;
        at += 1;
    }
    x[0] += 19 * over;
    at = 0;
    while at < 4 {
        x[at + 1] += x[at] >> 51;
        x[at] &= LIMB;
        at += 1;
    }
    x[4] &= LIMB;
    x
}

/// Hisil, Wong, Carter, Dawson: "Twisted Edwards Curves Revisited", section 3.1, for a = -1. It holds for all points.
const fn sum(p: &Extended, q: &Extended) -> Extended {
    let a = mul(&sub(&p.y, &p.x), &sub(&q.y, &q.x));
    let b = mul(&add(&p.y, &p.x), &add(&q.y, &q.x));
    let c = mul(&mul(&p.t, &TWO_D), &q.t);
    let zz = mul(&p.z, &q.z);
    let d = add(&zz, &zz);
    let (e, f, g, h) = (sub(&b, &a), sub(&d, &c), add(&d, &c), add(&b, &a));
    Extended {
        x: mul(&e, &f),
        y: mul(&g, &h),
        z: mul(&f, &g),
        t: mul(&e, &h),
    }
}

const fn windows() -> [Points; WINDOWS] {
    let y = mul(&small(4), &invert(&small(5)));
    let mut power = Extended {
        x: BASE_X,
        y,
        z: small(1),
        t: mul(&BASE_X, &y),
    };
    let mut all = [[power; 8]; WINDOWS];
    // The product of all z so far, for one inversion in all.
    let mut products = [[small(1); 8]; WINDOWS];
    let mut product = small(1);
    let mut window = 0;
    while window < WINDOWS {
        let mut multiple = power;
        let mut at = 0;
        while at < 8 {
            all[window][at] = multiple;
            products[window][at] = product;
            product = mul(&product, &multiple.z);
            if at < 7 {
                multiple = sum(&multiple, &power);
            }
            at += 1;
        }
        power = sum(&multiple, &multiple);
        window += 1;
    }
    let mut inverse = invert(&product);
    let mut out = [[[[0; 8]; 5]; 3]; WINDOWS];
    while window > 0 {
        window -= 1;
        let mut at = 8;
        while at > 0 {
            at -= 1;
            let point = &all[window][at];
            let z_inverse = mul(&inverse, &products[window][at]);
            inverse = mul(&inverse, &point.z);
            let (x, y) = (mul(&point.x, &z_inverse), mul(&point.y, &z_inverse));
            let parts = [
                canonical(&add(&y, &x)),
                canonical(&sub(&y, &x)),
                canonical(&mul(&mul(&x, &y), &TWO_D)),
            ];
            let mut part = 0;
            while part < 3 {
                let mut limb = 0;
                while limb < 5 {
                    out[window][part][limb][(at + 1) % 8] = parts[part][limb];
                    limb += 1;
                }
                part += 1;
            }
        }
    }
    out
}
