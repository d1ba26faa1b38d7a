//! The clock and the entropy that shells hand to cores.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
