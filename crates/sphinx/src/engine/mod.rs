//! Where X25519, SHA-256 and AES happen: one interface, taken by the batch, and the implementations this CPU can run.
//!
//! A hop costs two multiplications, and they are most of its time. They are asked for in batches because a vector
//! engine computes many lanes at the price of one. All engines give the same bytes for all inputs (RFC 7748): they
//! clamp the scalar, ignore the top bit of the point, and give zeros for a point of small order.
//!
//! No engine reads the environment: a program that lets its user choose one hands the name to [`use_engine`].
//!
//! | engine | where | what |
//! |---|---|---|
//! | `ifma` | x86-64 with AVX-512 IFMA | eight lanes a vector, our own |
//! | `avx2` | x86-64 with AVX2 | four lanes a vector, our own; lone ones are graviola's |
//! | `graviola` | x86-64 with AVX2, 64-bit Arm; feature `graviola` | Amazon's machine-checked assembly |
//! | `dalek` | everywhere | what the others are tested against |

#[cfg(target_arch = "x86_64")]
mod aes;

#[cfg(target_arch = "x86_64")]
mod avx2;

#[cfg(target_arch = "x86_64")]
mod ifma;

// The tests have machines of their own for these.
#[cfg(any(test, target_arch = "x86_64"))]
mod base;
#[cfg(any(test, target_arch = "x86_64"))]
mod edwards;
#[cfg(any(test, target_arch = "x86_64"))]
mod field;

#[cfg(target_arch = "x86_64")]
mod sha256;

#[cfg(target_arch = "x86_64")]
mod vectors;

#[cfg(target_arch = "x86_64")]
mod x86;

use alloc::string::String;
use core::fmt;
use core::iter::zip;
use core::sync::atomic::{AtomicUsize, Ordering};

use ::aes::Aes128;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use curve25519_dalek::montgomery::MontgomeryPoint;

use crate::kdf::Secrets;

/// How many points [`Engine::x25519_twice`] takes at once.
pub(crate) const AT_ONCE: usize = 64;

/// What is done between two multiplications of some points, see [`Engine::x25519_twice`]: it is told the first products, and
/// says by which scalars each point is to be multiplied again, if it is.
pub type Between<'s> = dyn FnMut(&[[u8; 32]], &mut [[u8; 32]], &mut [bool]) + 's;

const BASE_POINT: [u8; 32] = {
    let mut u = [0; 32];
    u[0] = 9;
    u
};

/// An implementation of what packets are made of. Only X25519 must be there: the hash and the cipher have one for every
/// CPU already.
pub trait Engine: Send + Sync {
    /// A short name, for logs and figures.
    fn name(&self) -> &'static str;

    /// How many multiplications cost little more than one: a sender that has time gathers as many.
    fn lanes(&self) -> usize {
        1
    }

    /// `out[i] = X25519(scalars[i], points[i])`, zeros for a point of small order.
    ///
    /// The slices should have one length; what one of them has beyond another is not touched.
    fn x25519_batch(&self, scalars: &[[u8; 32]], points: &[[u8; 32]], out: &mut [[u8; 32]]);

    /// Two multiplications of each of up to 64 points, the second ones by what comes of the first: a hop.
    ///
    /// `between` is told `X25519(scalars[i], points[i])` of all `i`, and writes other scalars, which it finds as zeros; it sets
    /// `true` beside those of which `X25519(others[i], points[i])` is to go to `out[i]`. What else is in `out` may change.
    ///
    /// The slices should have one length; what one of them has beyond another is not touched, nor what is beyond 64.
    fn x25519_twice(
        &self,
        scalars: &[[u8; 32]],
        points: &[[u8; 32]],
        between: &mut Between<'_>,
        out: &mut [[u8; 32]],
    ) {
        let count = scalars.len().min(points.len()).min(out.len()).min(AT_ONCE);
        let (mut first, mut others) = (Secrets::<AT_ONCE>::new(), Secrets::<AT_ONCE>::new());
        self.x25519_batch(&scalars[..count], &points[..count], &mut first[..count]);
        let mut wanted = [false; AT_ONCE];
        between(&first[..count], &mut others[..count], &mut wanted[..count]);
        of_some(&wanted, &others[..count], points, out, |scalars, points, out| {
            self.x25519_batch(scalars, points, out);
        });
    }

    /// `out[i] = X25519(scalars[i], 9)`: the base point's multiples, public keys if the scalars are secret ones.
    ///
    /// The slices should have one length; what one of them has beyond another is not touched.
    fn x25519_base_batch(&self, scalars: &[[u8; 32]], out: &mut [[u8; 32]]) {
        const AT_ONCE: usize = 16;
        for (scalars, out) in zip(scalars.chunks(AT_ONCE), out.chunks_mut(AT_ONCE)) {
            self.x25519_batch(scalars, &[BASE_POINT; AT_ONCE], out);
        }
    }

    /// SHA-256 of many messages side by side: `states[i]` takes `blocks[i]` in, by the compression function alone,
    /// without padding. It is fastest if all have the same number of blocks.
    ///
    /// The slices should have one length; what one of them has beyond the other is not touched.
    fn sha256_batch(&self, states: &mut [[u32; 8]], blocks: &[&[[u8; 64]]]) {
        #[cfg(target_arch = "x86_64")]
        sha256::compress(None, states, blocks);
        #[cfg(not(target_arch = "x86_64"))]
        zip(states, blocks).for_each(|(state, blocks)| sha2::block_api::compress256(state, blocks));
    }

    /// AES-128 in counter mode: adds the key stream, without its first `skip` blocks, to `data`. The counter is one
    /// big-endian number that begins with `iv` and wraps.
    fn aes_ctr(&self, key: &[u8; 16], iv: &[u8; 16], skip: u32, data: &mut [u8]) {
        let counter = u128::from_be_bytes(*iv).wrapping_add(skip.into());
        Ctr128BE::<Aes128>::new(key.into(), &counter.to_be_bytes().into()).apply_keystream(data);
    }
}

/// Which of [`engines`] is [`engine`], counted from one; zero while nobody chose.
static CHOSEN: AtomicUsize = AtomicUsize::new(0);

/// The engine of everything that is not given one: the best for this CPU, or the one of [`use_engine`].
#[must_use]
pub fn engine() -> &'static dyn Engine {
    let chosen = CHOSEN.load(Ordering::Relaxed).saturating_sub(1);
    engines().nth(chosen).unwrap_or(&Dalek)
}

/// Every engine that this CPU can run, the best one first.
pub fn engines() -> impl Iterator<Item = &'static dyn Engine> {
    #[cfg(target_arch = "x86_64")]
    let [wide, narrow] = [
        ifma::Ifma::is_supported().then_some(&ifma::Ifma as &dyn Engine),
        avx2::FourLanes::is_supported().then_some(&avx2::FourLanes as &dyn Engine),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let [wide, narrow]: [Option<&dyn Engine>; 2] = [None, None];
    #[cfg(all(feature = "graviola", any(target_arch = "x86_64", target_arch = "aarch64")))]
    let fast = fast::is_supported().then_some(&fast::Graviola as &dyn Engine);
    #[cfg(not(all(feature = "graviola", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let fast: Option<&dyn Engine> = None;
    [wide, narrow, fast, Some(&Dalek)].into_iter().flatten()
}

/// The best engine that computes one multiplication after the other.
#[cfg(target_arch = "x86_64")]
fn one_by_one() -> &'static dyn Engine {
    engines().find(|engine| engine.lanes() == 1).unwrap_or(&Dalek)
}

/// The multiplications of the lanes that are wanted, by `multiply`, which is given them without gaps.
fn of_some(
    wanted: &[bool; AT_ONCE],
    scalars: &[[u8; 32]],
    points: &[[u8; 32]],
    out: &mut [[u8; 32]],
    multiply: impl FnOnce(&[[u8; 32]], &[[u8; 32]], &mut [[u8; 32]]),
) {
    let (mut k, mut products) = (Secrets::<AT_ONCE>::new(), Secrets::<AT_ONCE>::new());
    let mut u = [[0; 32]; AT_ONCE];
    let mut count = 0;
    for (_, (scalar, point)) in zip(wanted, zip(scalars, points)).filter(|(wanted, _)| **wanted) {
        (k[count], u[count]) = (*scalar, *point);
        count += 1;
    }
    if count > 0 {
        multiply(&k[..count], &u[..count], &mut products[..count]);
    }
    let lanes = zip(wanted, out).filter(|(wanted, _)| **wanted);
    for ((_, out), product) in zip(lanes, products.iter()) {
        *out = *product;
    }
}

fn best_but_ifma() -> &'static dyn Engine {
    engines().find(|engine| engine.name() != "ifma").unwrap_or(&Dalek)
}

/// Makes everything that is not given an engine use the one of this name from now on: one of [`engines`], `portable`
/// for the best but `ifma`, or `best`. For measurements, and for a CPU that misbehaves; a program calls it once, when
/// it starts.
///
/// # Errors
/// [`UnknownEngine`] if this CPU can run none of that name; nothing is changed then.
pub fn use_engine(name: &str) -> Result<(), UnknownEngine> {
    let name = match name {
        "portable" => best_but_ifma().name(),
        "best" => engines().next().unwrap_or(&Dalek).name(),
        name => name,
    };
    let at = engines().position(|engine| engine.name() == name);
    let at = at.ok_or_else(|| UnknownEngine(name.into()))?;
    CHOSEN.store(at + 1, Ordering::Relaxed);
    Ok(())
}

/// This CPU, or this build, has no engine of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownEngine(String);

impl fmt::Display for UnknownEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this machine has no engine {:?}; choose best, portable",
            self.0
        )?;
        engines().try_for_each(|engine| write!(f, ", {}", engine.name()))
    }
}

impl core::error::Error for UnknownEngine {}

/// Portable, and what the others are tested against.
struct Dalek;

impl Engine for Dalek {
    fn name(&self) -> &'static str {
        "dalek"
    }

    fn x25519_batch(&self, scalars: &[[u8; 32]], points: &[[u8; 32]], out: &mut [[u8; 32]]) {
        for ((scalar, point), out) in zip(zip(scalars, points), out) {
            // The Edwards form of a point is a quarter faster to multiply; points of the twist have none. Points are
            // public, so it may show which way was taken.
            let product = match MontgomeryPoint(*point).to_edwards(0) {
                Some(point) => point.mul_clamped(*scalar).to_montgomery(),
                None => MontgomeryPoint(*point).mul_clamped(*scalar),
            };
            *out = product.to_bytes();
        }
    }

    fn x25519_base_batch(&self, scalars: &[[u8; 32]], out: &mut [[u8; 32]]) {
        for (scalar, out) in zip(scalars, out) {
            *out = MontgomeryPoint::mul_base_clamped(*scalar).to_bytes();
        }
    }
}

#[cfg(all(feature = "graviola", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod fast {
    use core::iter::zip;

    use graviola::key_agreement::x25519::{PublicKey, StaticPrivateKey};

    use super::Engine;

    /// Amazon's machine-checked assembly (s2n-bignum), for x86-64 and 64-bit Arm.
    pub(super) struct Graviola;

    impl Engine for Graviola {
        fn name(&self) -> &'static str {
            "graviola"
        }

        fn x25519_batch(&self, scalars: &[[u8; 32]], points: &[[u8; 32]], out: &mut [[u8; 32]]) {
            for ((scalar, point), out) in zip(zip(scalars, points), out) {
                let secret = StaticPrivateKey::from_array(scalar);
                // The error says that the result is zero; the others give the zeros themselves.
                *out = match secret.diffie_hellman(&PublicKey::from_array(point)) {
                    Ok(shared) => shared.0,
                    Err(_) => [0; 32],
                };
            }
        }

        fn x25519_base_batch(&self, scalars: &[[u8; 32]], out: &mut [[u8; 32]]) {
            for (scalar, out) in zip(scalars, out) {
                *out = StaticPrivateKey::from_array(scalar).public_key().as_bytes();
            }
        }
    }

    /// Whether graviola's functions may be called: they panic on a CPU that lacks one of the features they assert.
    ///
    /// The list is that of `verify_cpu_features` in graviola 0.4 and what its X25519 needs beyond it (`mulx`).
    #[cfg(target_arch = "x86_64")]
    pub(super) fn is_supported() -> bool {
        use std::is_x86_feature_detected as has;
        has!("aes")
            && has!("pclmulqdq")
            && has!("ssse3")
            && has!("bmi1")
            && has!("bmi2")
            && has!("adx")
            && has!("avx")
            && has!("avx2")
    }

    /// Whether graviola's functions may be called: they panic on a CPU that lacks one of the features they assert.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn is_supported() -> bool {
        use std::arch::is_aarch64_feature_detected as has;
        has!("neon") && has!("aes") && has!("pmull") && has!("sha2")
    }
}
