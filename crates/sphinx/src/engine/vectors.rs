//! X25519 of a batch on vectors of any width: the part of the wide engines that doesn't know which they are.
//!
//! Gathers the lanes of a batch into vectors, runs one ladder a vector, or for the base point one sum of known multiples,
//! and one inversion for eight vectors. What is left of a batch that does not fill a vector costs as much as a whole
//! one; where that is more than one after the other, it goes to the engine that does so.

use core::iter::zip;

use super::edwards::{Comb, comb, comb_digits, times_base, times_comb};
use super::field::{Field, GROUP, Lanes, Projective, V, Words, affine, ladder};
use super::x86::Job;
use super::{AT_ONCE, Between, one_by_one};
use crate::kdf::Secrets;
use crate::scratch::{Scratch, Zero};

/// More than the stack that a job takes, in bytes.
const STACK_LEN: usize = 40 << 10;

/// A machine with vectors.
pub(super) trait Vectors: Lanes {
    /// A number for each lane.
    type Numbers: Zero + AsRef<[u64]> + AsMut<[u64]>;
    /// The field that is fastest on it.
    type Field: Field<M = Self>;
    /// As many combs as [`AT_ONCE`] lanes have.
    type Combs: Zero + AsRef<[Comb<Self::Field>]> + AsMut<[Comb<Self::Field>]>;
    const LANES: usize;
    /// From how many lanes on a vector is cheaper than graviola, one after the other.
    const WORTH_A_VECTOR: usize;

    fn field(self) -> Self::Field;
    fn load(self, numbers: &Self::Numbers) -> Self::V;
    fn store(self, numbers: &mut Self::Numbers, v: Self::V);
    /// Computes a job with the CPU's features enabled, in a stack frame of its own.
    fn run(self, job: impl Job<Self>);
}

/// How many of `count` lanes are computed in vectors.
fn in_vectors<M: Vectors>(count: usize) -> usize {
    let rest = count % M::LANES;
    if rest < M::WORTH_A_VECTOR && one_by_one().name() == "graviola" {
        count - rest
    } else {
        count
    }
}

/// See [`Engine::x25519_batch`](super::Engine::x25519_batch).
pub(super) fn batch<M: Vectors>(cpu: M, scalars: &[[u8; 32]], points: &[[u8; 32]], out: &mut [[u8; 32]]) {
    let count = scalars.len().min(points.len()).min(out.len());
    let (vectors, rest) = (..in_vectors::<M>(count), in_vectors::<M>(count)..count);
    if !rest.is_empty() {
        one_by_one().x25519_batch(&scalars[rest.clone()], &points[rest.clone()], &mut out[rest]);
    }
    let size = GROUP * M::LANES;
    let groups = zip(scalars[vectors].chunks(size), points[vectors].chunks(size));
    for ((scalars, points), out) in zip(groups, out[vectors].chunks_mut(size)) {
        run(
            cpu,
            Group {
                scalars,
                points: Some(points),
                out,
            },
        );
    }
}

/// See [`Engine::x25519_base_batch`](super::Engine::x25519_base_batch).
pub(super) fn base_batch<M: Vectors>(cpu: M, scalars: &[[u8; 32]], out: &mut [[u8; 32]]) {
    if scalars.len().min(out.len()) < 2 {
        return one_by_one().x25519_base_batch(scalars, out);
    }
    let size = GROUP * M::LANES;
    for (scalars, out) in zip(scalars.chunks(size), out.chunks_mut(size)) {
        run(
            cpu,
            Group {
                scalars,
                points: None,
                out,
            },
        );
    }
}

/// See [`Engine::x25519_twice`](super::Engine::x25519_twice). The points are multiplied on the Edwards curve, where what costs most
/// is done once for both products: the multiples that a comb needs. A point of its twist goes down the ladder, twice;
/// points are public, and so is which way they take.
pub(super) fn twice<M: Vectors>(
    cpu: M,
    scalars: &[[u8; 32]],
    points: &[[u8; 32]],
    between: &mut Between<'_>,
    out: &mut [[u8; 32]],
) {
    let count = scalars.len().min(points.len()).min(out.len()).min(AT_ONCE);
    let in_vectors = in_vectors::<M>(count);
    let mut combs = M::Combs::ZERO;
    let mut is_on_curve = [false; AT_ONCE];
    let mut shared = Secrets::<AT_ONCE>::new();
    run(
        cpu,
        First {
            scalars: &scalars[..in_vectors],
            points: &points[..in_vectors],
            combs: combs.as_mut(),
            is_on_curve: &mut is_on_curve,
            out: &mut shared[..],
        },
    );
    let others = |wanted: &[bool; AT_ONCE]| core::array::from_fn(|at| wanted[at] && !is_on_curve[at]);
    let mut wanted = core::array::from_fn(|at| at < count);
    some(cpu, &others(&wanted), scalars, points, &mut shared[..]);

    wanted = [false; AT_ONCE];
    let mut factors = Secrets::<AT_ONCE>::new();
    between(&shared[..count], &mut factors[..count], &mut wanted[..count]);
    run(
        cpu,
        Second {
            scalars: &factors[..in_vectors],
            wanted: &wanted[..in_vectors],
            combs: combs.as_ref(),
            out,
        },
    );
    some(cpu, &others(&wanted), &factors[..count], points, out);
}

/// The multiplications of some lanes, by the ladder.
fn some<M: Vectors>(
    cpu: M,
    wanted: &[bool; AT_ONCE],
    scalars: &[[u8; 32]],
    points: &[[u8; 32]],
    out: &mut [[u8; 32]],
) {
    super::of_some(wanted, scalars, points, out, |scalars, points, out| {
        batch(cpu, scalars, points, out);
    });
}

fn run<M: Vectors>(cpu: M, job: impl Job<M>) {
    cpu.run(job);
    // What the compiler spilled.
    zeroize::zeroize_stack::<STACK_LEN>();
}

/// Up to [`GROUP`] vectors of multiplications, of the base point if no points are given.
struct Group<'a> {
    scalars: &'a [[u8; 32]],
    /// As many as scalars.
    points: Option<&'a [[u8; 32]]>,
    out: &'a mut [[u8; 32]],
}

impl<M: Vectors> Job<M> for Group<'_> {
    #[inline(always)]
    fn run(self, cpu: M) {
        let mut products = Scratch::<[Projective<M::Field>; GROUP]>::new();
        for (at, (scalars, product)) in zip(self.scalars.chunks(M::LANES), products.iter_mut()).enumerate() {
            // Lanes without a packet multiply by zero, which is clamped, and nobody reads the result.
            let k = gather(cpu, scalars, to_words);
            match self.points.and_then(|points| points.chunks(M::LANES).nth(at)) {
                Some(points) => ladder(cpu.field(), &k, &gather(cpu, points, to_words), product),
                None => times_base(cpu.field(), &k, product),
            }
        }
        let vectors = self.scalars.len().div_ceil(M::LANES);
        finish(cpu, &products[..vectors], self.out);
    }
}

/// The first products of points, and what makes the second ones cheap.
struct First<'a, M: Vectors> {
    scalars: &'a [[u8; 32]],
    points: &'a [[u8; 32]],
    combs: &'a mut [Comb<M::Field>],
    is_on_curve: &'a mut [bool],
    out: &'a mut [[u8; 32]],
}

impl<M: Vectors> Job<M> for First<'_, M> {
    #[inline(always)]
    fn run(self, cpu: M) {
        let f = cpu.field();
        let mut products = Scratch::<[Projective<M::Field>; GROUP]>::new();
        let size = GROUP * M::LANES;
        let groups = zip(self.scalars.chunks(size), self.points.chunks(size));
        let outs = zip(
            zip(self.combs.chunks_mut(GROUP), self.is_on_curve.chunks_mut(size)),
            self.out.chunks_mut(size),
        );
        for ((scalars, points), ((combs, is_on_curve), out)) in zip(groups, outs) {
            let lanes = zip(scalars.chunks(M::LANES), points.chunks(M::LANES));
            let outs = zip(zip(combs, is_on_curve.chunks_mut(M::LANES)), products.iter_mut());
            for ((scalars, points), ((multiples, is_on_curve), product)) in zip(lanes, outs) {
                let mask = comb(f, &gather(cpu, points, to_words), multiples);
                let mut flags = M::Numbers::ZERO;
                cpu.store(&mut flags, cpu.select(mask, cpu.splat(0), cpu.splat(1)));
                for (is_on_curve, flag) in zip(is_on_curve, flags.as_ref()) {
                    *is_on_curve = *flag == 1;
                }
                times_comb(f, multiples, &gather(cpu, scalars, comb_digits), product);
            }
            finish(cpu, &products[..scalars.len().div_ceil(M::LANES)], out);
        }
    }
}

/// The second products of points, those that are wanted.
struct Second<'a, M: Vectors> {
    scalars: &'a [[u8; 32]],
    wanted: &'a [bool],
    combs: &'a [Comb<M::Field>],
    out: &'a mut [[u8; 32]],
}

impl<M: Vectors> Job<M> for Second<'_, M> {
    #[inline(always)]
    fn run(self, cpu: M) {
        let f = cpu.field();
        let mut products = Scratch::<[Projective<M::Field>; GROUP]>::new();
        let size = GROUP * M::LANES;
        let lanes = zip(self.scalars.chunks(size), self.wanted.chunks(size));
        for ((scalars, wanted), (combs, out)) in
            zip(lanes, zip(self.combs.chunks(GROUP), self.out.chunks_mut(size)))
        {
            let lanes = zip(scalars.chunks(M::LANES), wanted.chunks(M::LANES));
            for ((scalars, wanted), (multiples, product)) in zip(lanes, zip(combs, products.iter_mut())) {
                if wanted.contains(&true) {
                    times_comb(f, multiples, &gather(cpu, scalars, comb_digits), product);
                }
            }
            finish(cpu, &products[..scalars.len().div_ceil(M::LANES)], out);
        }
    }
}

/// Writes the bytes of `x / z`.
#[inline(always)]
fn finish<M: Vectors>(cpu: M, products: &[Projective<M::Field>], out: &mut [[u8; 32]]) {
    let mut quotients = Scratch::<[Words<_>; GROUP]>::new();
    affine(cpu.field(), products, &mut *quotients);
    for (out, quotient) in zip(out.chunks_mut(M::LANES), quotients.iter()).take(products.len()) {
        let mut words = Scratch::<Words<M::Numbers>>::new();
        for (words, quotient) in zip(words.iter_mut(), quotient) {
            cpu.store(words, *quotient);
        }
        for (lane, out) in out.iter_mut().enumerate().take(M::LANES) {
            for (bytes, words) in zip(out.as_chunks_mut().0, words.iter()) {
                *bytes = words.as_ref()[lane].to_le_bytes();
            }
        }
    }
}

#[inline(always)]
fn to_words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in zip(&mut words, bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// The words of the lanes of a vector, zeros in those beyond.
#[inline(always)]
fn gather<M: Vectors>(
    cpu: M,
    lanes: &[[u8; 32]],
    to_words: impl Fn(&[u8; 32]) -> [u64; 4],
) -> Scratch<Words<V<M::Field>>> {
    let mut words = Scratch::<Words<M::Numbers>>::new();
    for (lane, bytes) in lanes.iter().enumerate().take(M::LANES) {
        for (words, word) in zip(words.iter_mut(), to_words(bytes)) {
            words.as_mut()[lane] = word;
        }
    }
    let mut out = Scratch::<Words<_>>::new();
    for (out, words) in zip(out.iter_mut(), words.iter()) {
        *out = cpu.load(words);
    }
    out
}
