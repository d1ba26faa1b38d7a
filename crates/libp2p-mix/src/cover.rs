//! Cover traffic: packets of our own that come back to us and are thrown away, and the budget that all packets share.
//!
//! When they leave doesn't depend on anything that the application sends. Section numbers are those of
//! `mix-cover-traffic`.

use std::time::Duration;

use mizzle_base::{Rng, Time};
use mizzle_traffic::draw;

use crate::HOPS;

/// When cover packets leave.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cover {
    /// One each interval, and a budget of packets an epoch for cover, own and forwarded packets together (sections 5 and
    /// 7.1). Own packets beyond it are refused with an error, forwarded ones dropped and counted.
    ConstantRate {
        /// Packets an epoch, R.
        slots: u32,
        /// Length of an epoch, P. Where the [spam protection](crate::spam) has epochs, those count.
        epoch: Duration,
        /// The part f of the budget that cover and its way through others' budgets may take, 0 to 1.
        fraction: f64,
    },
    /// At random, exponential intervals: how many loops went out in a time says nothing of when the next one goes. No
    /// budget.
    Poisson {
        /// Packets a second on average.
        per_s: f64,
    },
}

impl Default for Cover {
    /// The specification's: 100 slots a minute, 0.7 of them.
    fn default() -> Self {
        Self::ConstantRate {
            slots: 100,
            epoch: Duration::from_secs(60),
            fraction: 0.7,
        }
    }
}

impl Cover {
    /// Between two packets, where that is constant: P (1 + L) / max(1, floor(f R)), at least a millisecond.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        let Self::ConstantRate {
            slots,
            epoch,
            fraction,
        } = *self
        else {
            return None;
        };
        let scaled = (fraction.clamp(0.0, 1.0) * f64::from(slots)) as u32;
        Some((epoch * (1 + HOPS as u32) / scaled.max(1)).max(Duration::from_millis(1)))
    }
}

/// A pause of the process longer than this is not made up for.
const JUMP: Duration = Duration::from_secs(1);

/// When the next cover packet leaves.
#[derive(Debug)]
pub(crate) struct Schedule {
    cover: Cover,
    next: Time,
}

impl Schedule {
    pub(crate) fn new(cover: Cover, rng: &mut Rng, now: Time) -> Self {
        let mut schedule = Self { cover, next: now };
        schedule.advance(rng, now);
        schedule
    }

    pub(crate) fn deadline(&self) -> Time {
        self.next
    }

    /// Whether a packet is due; call until it isn't.
    pub(crate) fn is_due(&mut self, rng: &mut Rng, now: Time) -> bool {
        if now + JUMP < self.next && self.far(now) {
            // The clock was set back: silence until it is where it was would tell of it.
            self.advance(rng, now);
        }
        if self.next > now {
            return false;
        }
        // A burst after a pause would tell of the pause.
        let last = if now.since(self.next) > JUMP {
            now
        } else {
            self.next
        };
        self.advance(rng, last);
        true
    }

    /// Whether the next packet is further away than any draw.
    fn far(&self, now: Time) -> bool {
        let most = match self.cover {
            Cover::Poisson { per_s } => Duration::from_secs_f64((40.0 / per_s.max(1e-6)).min(1e9)),
            Cover::ConstantRate { .. } => self.cover.interval().unwrap_or_default(),
        };
        self.next.since(now) > most + JUMP
    }

    fn advance(&mut self, rng: &mut Rng, last: Time) {
        self.next = match self.cover {
            Cover::Poisson { per_s } if per_s > 0.0 => last.plus_s_f64(draw::exponential(rng, 1.0 / per_s)),
            Cover::Poisson { .. } => Time::FAR_FUTURE,
            Cover::ConstantRate { .. } => last + self.cover.interval().unwrap_or_default(),
        };
    }
}

/// The budget of an epoch.
#[derive(Debug)]
pub(crate) struct Slots {
    per_epoch: u32,
    epoch_length: Duration,
    epoch: u64,
    left: u32,
}

impl Slots {
    /// The budget that goes with a kind of cover, if one does.
    pub(crate) fn new(cover: Option<Cover>) -> Option<Self> {
        match cover {
            Some(Cover::ConstantRate { slots, epoch, .. }) => Some(Self {
                per_epoch: slots,
                epoch_length: epoch.max(Duration::from_millis(1)),
                epoch: 0,
                left: slots,
            }),
            _ => None,
        }
    }

    /// The epoch at `now`; `told` is that of the spam protection, if it has any.
    pub(crate) fn epoch(&self, now: Time, told: Option<u64>) -> u64 {
        told.unwrap_or_else(|| now.as_us() / u64::try_from(self.epoch_length.as_micros()).unwrap_or(u64::MAX))
    }

    /// Takes a slot of the epoch at `now`; false if there is none left.
    pub(crate) fn claim(&mut self, now: Time, told: Option<u64>) -> bool {
        let epoch = self.epoch(now, told);
        if epoch != self.epoch {
            (self.epoch, self.left) = (epoch, self.per_epoch);
        }
        let claimed = self.left > 0;
        self.left -= u32::from(claimed);
        claimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn the_interval_is_that_of_the_specification() {
        // 60 s × 4 / 70.
        assert_eq!(Cover::default().interval(), Some(Duration::from_secs(240) / 70));
        let cover = |slots, fraction| Cover::ConstantRate {
            slots,
            epoch: Duration::from_secs(1),
            fraction,
        };
        assert_eq!(
            cover(1, 0.1).interval(),
            Some(Duration::from_secs(4)),
            "at least one slot"
        );
        assert_eq!(cover(1_000_000, 1.0).interval(), Some(Duration::from_millis(1)));
        assert_eq!(Cover::Poisson { per_s: 1.0 }.interval(), None);
    }

    #[test]
    fn constant_and_poisson_schedules_keep_their_rates_through_pauses_and_jumps() {
        let mut rng = Rng::seed_from_u64(1);
        let constant = Cover::ConstantRate {
            slots: 40,
            epoch: Duration::from_secs(1),
            fraction: 1.0,
        };
        for (cover, least, most) in [
            (constant, 1000, 1000),
            (Cover::Poisson { per_s: 10.0 }, 850, 1150),
        ] {
            let start = Time::from_s(1000);
            let mut schedule = Schedule::new(cover, &mut rng, start);
            let mut sent = 0;
            for ms in 1..=100_000_u64 {
                while schedule.is_due(&mut rng, start + Duration::from_millis(ms)) {
                    sent += 1;
                }
            }
            assert!((least..=most).contains(&sent), "{cover:?} {sent}");
            let later = start + Duration::from_secs(4000);
            let burst = (0..1000).take_while(|_| schedule.is_due(&mut rng, later)).count();
            assert!(burst <= 2, "{burst} at once after a pause");
            let back = start - Duration::from_secs(500);
            let _ = schedule.is_due(&mut rng, back);
            assert!(
                schedule.deadline() <= back + Duration::from_secs(5),
                "goes on after the clock was set back"
            );
        }
    }

    #[test]
    fn a_budget_is_that_of_one_epoch() {
        let mut slots = Slots::new(Some(Cover::ConstantRate {
            slots: 3,
            epoch: Duration::from_secs(10),
            fraction: 0.5,
        }))
        .unwrap();
        let mut claimed = |s, told| (0..10).filter(|_| slots.claim(Time::from_s(s), told)).count();
        assert_eq!(
            [claimed(100, None), claimed(109, None), claimed(110, None)],
            [3, 0, 3]
        );
        assert_eq!(
            [
                claimed(110, Some(7)),
                claimed(200, Some(7)),
                claimed(200, Some(8))
            ],
            [3, 0, 3]
        );
        assert!(Slots::new(Some(Cover::Poisson { per_s: 1.0 })).is_none());
    }
}
