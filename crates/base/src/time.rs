//! [`Time`]: the one clock type of the cores.
//!
//! An integer, so that a simulation can start at zero and add freely (`std::time::Instant` can do neither).

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

/// A moment: microseconds since the Unix epoch.
///
/// Shells derive it from a monotonic clock and one reading of UTC, so it never runs backwards within a
/// process; cores must still take any value in any order without harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The Unix epoch itself.
    pub const ZERO: Self = Self(0);
    /// Later than every moment that happens.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// `us` microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    /// `s` seconds after the Unix epoch.
    #[must_use]
    pub const fn from_s(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_us(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub const fn as_s(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This moment and `s` seconds more (or less); saturates.
    #[must_use]
    pub fn plus_s_f64(self, s: f64) -> Self {
        // A float-to-integer cast saturates and maps NaN to zero, so no input can do harm.
        self + Duration::from_micros((s.max(0.0) * 1e6) as u64)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Time::ZERO - Duration::from_secs(1), Time::ZERO);
        assert_eq!(Time::FAR_FUTURE + Duration::from_secs(1), Time::FAR_FUTURE);
        assert_eq!(Time::from_s(1).since(Time::from_s(2)), Duration::ZERO);
        assert_eq!(Time::ZERO.plus_s_f64(f64::NAN), Time::ZERO);
        assert_eq!(Time::ZERO.plus_s_f64(1.5).as_us(), 1_500_000);
    }
}
