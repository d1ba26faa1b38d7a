//! [`MessageLimit`]: packets that a member may send an epoch.

use thiserror::Error;

/// Packets that a member may send an epoch: 1 to 65,535, 100 by default.
///
/// The circuit compares numbers of 16 bits. With a higher limit proofs are made without an error, and nobody accepts
/// them; so there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimit(u16);

/// A limit of no packets, or of more than the circuit can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{0} packets an epoch: a limit is 1 to 65535, as the circuit counts with 16 bits and proofs beyond it fail"
)]
pub struct LimitOutOfRange(pub u32);

impl MessageLimit {
    /// The highest.
    pub const MAX: Self = Self(u16::MAX);

    /// # Errors
    /// The limit is zero, or higher than [`MAX`](Self::MAX).
    pub fn new(packets: u32) -> Result<Self, LimitOutOfRange> {
        u16::try_from(packets)
            .ok()
            .filter(|packets| *packets > 0)
            .map(Self)
            .ok_or(LimitOutOfRange(packets))
    }

    /// The nearest limit that works; the log says so where it is another one. Others must know the member under
    /// the limit that comes out.
    #[must_use]
    pub fn clamped(packets: u32) -> Self {
        Self::new(packets).unwrap_or_else(|error| {
            let nearest = if packets == 0 { Self(1) } else { Self::MAX };
            tracing::warn!("{error}; {} is taken", nearest.get());
            nearest
        })
    }

    /// Packets an epoch.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.into()
    }
}

impl Default for MessageLimit {
    fn default() -> Self {
        Self(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_what_the_circuit_can_count() {
        for wrong in [0, 65_536, 100_000, u32::MAX] {
            assert_eq!(MessageLimit::new(wrong), Err(LimitOutOfRange(wrong)));
        }
        for right in [1, 100, 65_535] {
            assert_eq!(MessageLimit::new(right).map(MessageLimit::get), Ok(right));
            assert_eq!(MessageLimit::clamped(right).get(), right);
        }
        assert_eq!(MessageLimit::clamped(0).get(), 1);
        assert_eq!(MessageLimit::clamped(100_000), MessageLimit::MAX);
    }
}
