//! X25519 keys: a node's secret, and public keys that were validated once so that building can be fast.
//!
//! Section 8.2 of LIP-99, and RFC 7748. How a node learns the keys of others is not decided here.

use core::fmt;

use curve25519_dalek::montgomery::MontgomeryPoint;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::engine::engine;
use crate::kdf::Secret;

/// An X25519 secret key; overwritten with zeros when dropped. Its `Debug` shows nothing of it.
pub struct SecretKey(Secret);

impl SecretKey {
    /// Any 32 bytes are a secret key: X25519 clamps them.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new key.
    #[must_use]
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = Secret::default();
        rng.fill_bytes(&mut *bytes);
        Self(bytes)
    }

    /// The bytes, for the one place that stores them.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key of this secret, which needs no validation.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut public = [[0; 32]];
        engine().x25519_base_batch(core::slice::from_ref(&*self.0), &mut public);
        let [public] = public;
        PublicKey(public)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// The X25519 public key of a node, known to be canonical, on the curve (not its twist) and of prime order.
///
/// Every honest key is. The point of asking is speed: on such a point a scalar acts the same when it is reduced
/// modulo the order, so a [`build`](crate::build) multiplies the blinding factors with each other first and needs two
/// point multiplications a hop, where applying them one after another needs more with each hop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Bytes that are no honest node's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The number is 2^255 - 19 or above.
    #[error("the key is not written canonically")]
    NotCanonical,
    /// No point of Curve25519 has this u-coordinate, though one of the twist may.
    #[error("the key is not on the curve")]
    NotOnCurve,
    /// The point has a part of small order.
    #[error("the key does not have prime order")]
    NotPrimeOrder,
}

impl PublicKey {
    /// Validates a key, at the price of about one point multiplication.
    ///
    /// # Errors
    /// [`InvalidKey`] for what no honest node has.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, InvalidKey> {
        if !is_canonical(bytes) {
            return Err(InvalidKey::NotCanonical);
        }
        let point = MontgomeryPoint(*bytes)
            .to_edwards(0)
            .ok_or(InvalidKey::NotOnCurve)?;
        if point.is_small_order() || !point.is_torsion_free() {
            return Err(InvalidKey::NotPrimeOrder);
        }
        Ok(Self(*bytes))
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// Whether a u-coordinate is below 2^255 - 19, its top bit included. It is public, so the time may tell.
pub(crate) fn is_canonical(u: &[u8; 32]) -> bool {
    let at_least_p = u[31] & 0x7f == 0x7f && u[1..31].iter().all(|byte| *byte == 0xff) && u[0] >= 0xed;
    u[31] & 0x80 == 0 && !at_least_p
}
