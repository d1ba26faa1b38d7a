//! The clock and the entropy that shells hand to cores.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mizzle_base::document::CLOCK_TOLERANCE_S;
use mizzle_base::{Rng, Time};
use rand_core::SeedableRng as _;
use tokio::time::Instant;

/// A monotonic clock that shows UTC as it was at its start: [`Time`] never runs backwards in a process, whatever
/// happens to the machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    origin_utc: Time,
}

impl Clock {
    /// Reads both clocks of the machine, once.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the shell that owns the clock")]
    pub fn start() -> Self {
        // Before 1970 the document check tells the user to set his clock.
        let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let origin_utc = Time::from_us(u64::try_from(utc.as_micros()).unwrap_or(u64::MAX));
        Self {
            origin: Instant::now(),
            origin_utc,
        }
    }

    /// The same, fast by so many seconds, or slow: for trying and testing.
    #[must_use]
    pub fn start_fast(fast_s: i64) -> Self {
        let mut clock = Self::start();
        let by = Duration::from_secs(fast_s.unsigned_abs());
        clock.origin_utc = if fast_s < 0 {
            clock.origin_utc - by
        } else {
            clock.origin_utc + by
        };
        clock
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.origin_utc + self.origin.elapsed()
    }

    /// The runtime's instant of a moment; a day ahead for anything later, so that timers can hold it.
    #[must_use]
    pub fn instant(&self, at: Time) -> Instant {
        self.origin
            + at.since(self.origin_utc)
                .min(self.origin.elapsed() + Duration::from_secs(86_400))
    }

    /// Waits until `at`, or for a day where there is no deadline: callers ask again after every wake-up.
    pub async fn sleep_until(&self, at: Option<Time>) {
        tokio::time::sleep_until(self.instant(at.unwrap_or(Time::FAR_FUTURE))).await;
    }
}

/// This machine's clock is off by more than it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "this machine's clock is {} s {} by what the gateways say: packets would be for keys of another time. Set it (UTC), as with \
     NTP, and start again", .fast_s.unsigned_abs(), if *.fast_s < 0 { "slow" } else { "fast" }
)]
pub struct ClockOff {
    /// By how many seconds it is fast; negative if it is slow.
    pub fast_s: i64,
}

impl ClockOff {
    /// If a clock that shows `now` is off by more than clocks may be ([`CLOCK_TOLERANCE_S`]) where another one shows `told`.
    #[must_use]
    pub fn of(now: Time, told: Time) -> Option<Self> {
        let seconds = |s: u64| i64::try_from(s).unwrap_or(i64::MAX);
        let fast_s = seconds(now.as_s()).saturating_sub(seconds(told.as_s()));
        (fast_s.unsigned_abs() > CLOCK_TOLERANCE_S).then_some(Self { fast_s })
    }
}

/// A CSPRNG seeded by the operating system.
///
/// # Errors
/// When the operating system gives no entropy.
pub fn rng() -> io::Result<Rng> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed)
        .map_err(|e| io::Error::other(format!("no entropy from the operating system: {e}")))?;
    Ok(Rng::from_seed(*seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_by_minutes_will_do_and_by_hours_is_told_by_how_much() {
        let off = |now, told| ClockOff::of(Time::from_s(now), Time::from_s(told)).map(|off| off.fast_s);
        assert_eq!((off(1_000, 1_300), off(1_300, 1_000)), (None, None));
        assert_eq!((off(1_000, 1_301), off(8_200, 1_000)), (Some(-301), Some(7_200)));
        assert!(off(0, u64::MAX).is_some_and(|fast_s| fast_s < -1_000_000));
        let text = ClockOff { fast_s: -7_200 }.to_string();
        assert!(text.contains("7200 s slow"), "{text}");
    }
}
