//! The sender's running exponent `x b_0 b_1 ..`, so that a route costs work linear in its hops.
//!
//! On the wire each hop applies X25519 with its own clamped factor, one after the other (LIP-99 writes exponents in
//! the field of the order, the code clamps). On a point of prime order `l`, a validated [`PublicKey`] or the base
//! point, a factor acts as its residue modulo `l` does. So the factors are multiplied with each other, and the product
//! is written as a clamped integer that acts the same, for any X25519 to take.
//!
//! [`PublicKey`]: crate::PublicKey

use curve25519_dalek::scalar::{Scalar, clamp_integer};
use subtle::{Choice, ConditionallySelectable};
use zeroize::Zeroizing;

use crate::kdf::Secret;

/// An exponent modulo `l`, kept as its eighth: clamped integers are multiples of eight.
pub(crate) struct Exponent(Zeroizing<Scalar>);

impl Exponent {
    /// The exponent that X25519 makes of 32 bytes.
    pub(crate) fn new(ephemeral: &[u8; 32]) -> Self {
        let clamped = Zeroizing::new(clamp_integer(*ephemeral));
        let mut eighth = Secret::default();
        for at in 0..32 {
            let above = clamped.get(at + 1).copied().unwrap_or(0);
            eighth[at] = clamped[at] >> 3 | above << 5;
        }
        Self(Zeroizing::new(Scalar::from_bytes_mod_order(*eighth)))
    }

    /// Multiplies by what X25519 makes of 32 bytes.
    pub(crate) fn blind(&mut self, factor: &[u8; 32]) {
        let clamped = Zeroizing::new(clamp_integer(*factor));
        let factor = Zeroizing::new(Scalar::from_bytes_mod_order(*clamped));
        *self.0 *= &*factor;
    }

    /// Bytes of which X25519 makes this exponent or its negative, which are one to it: it knows no signs.
    ///
    /// A clamped integer is `8 n` with `2^251 <= n < 2^252`, and as `l` is a little above `2^252`, of a residue and
    /// its negative one lies there. (Both miss it with a probability of 2^-126: such a packet is dropped by a hop.)
    pub(crate) fn to_clamped(&self) -> Secret {
        let negative = Zeroizing::new(-&*self.0);
        let has_bit_251 = Choice::from(self.0.as_bytes()[31] >> 3 & 1);
        let n = Zeroizing::new(Scalar::conditional_select(&negative, &self.0, has_bit_251));
        let n = n.as_bytes();
        let mut out = Secret::default();
        for at in 0..32 {
            let below = if at == 0 { 0 } else { n[at - 1] };
            out[at] = n[at] << 3 | below >> 5;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::montgomery::MontgomeryPoint;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    fn x25519(scalar: &Secret, u: [u8; 32]) -> [u8; 32] {
        MontgomeryPoint(u).mul_clamped(**scalar).to_bytes()
    }

    #[test]
    fn bytes_come_back_clamped() {
        for bytes in [[0; 32], [0xff; 32], [0x5a; 32]] {
            assert_eq!(*Exponent::new(&bytes).to_clamped(), clamp_integer(bytes));
        }
    }

    #[test]
    fn a_product_acts_as_its_factors_one_after_the_other() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut random = || {
            let mut bytes = Secret::default();
            rng.fill_bytes(&mut *bytes);
            bytes
        };
        for _ in 0..20 {
            let mut base = [0; 32];
            base[0] = 9;
            let point = x25519(&random(), base);
            let first = random();
            let mut expected = x25519(&first, point);
            let mut exponent = Exponent::new(&first);
            for _ in 0..5 {
                let factor = random();
                exponent.blind(&factor);
                expected = x25519(&factor, expected);
                let clamped = exponent.to_clamped();
                assert_eq!(*clamped, clamp_integer(*clamped));
                assert_eq!(x25519(&clamped, point), expected);
            }
        }
    }
}
