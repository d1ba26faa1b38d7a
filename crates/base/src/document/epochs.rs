//! [`Epochs`]: when which keys of a document are used.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use super::{CLOCK_TOLERANCE_S, Content, MAX_EPOCH_S, MAX_EPOCHS};
use crate::profile::Profile;
use crate::time::Time;

/// The means of a delay that the five delays of a path are longer together with a probability of 10⁻⁹: the quantile of
/// Gamma(5, 1) (R: qgamma(1e-9, 5, lower.tail = FALSE)), rounded up.
const PATH_Q1E9: f64 = 32.0;
/// What links and queues may add to a path.
const LINKS_AND_QUEUES: Duration = Duration::from_secs(1);

/// When which keys are used: equal epochs in a row, from the beginning of a document's time to its end.
///
/// Senders use the keys of the epoch that it is ([`Self::at`]). A node takes packets for the next epoch's key from
/// [`Self::grace`] before it begins, as a sender's clock may be fast by that, and for an epoch's key until [`Self::overlap`]
/// after its end. Never more than two keys are alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Epochs {
    first: u32,
    count: u32,
    start: Time,
    length: Duration,
    overlap: Duration,
    grace: Duration,
}

impl Epochs {
    pub(super) fn check(content: &Content, count: usize) -> Result<Self, String> {
        let long_s = content.valid_until_s - content.valid_from_s;
        if count > MAX_EPOCHS {
            return Err(format!("keys of more than {MAX_EPOCHS} epochs"));
        }
        // It fits, by the line above.
        let count = count as u32;
        if count == 0 || !long_s.is_multiple_of(u64::from(count)) {
            return Err(format!(
                "the keys of {count} epochs don't divide its {long_s} s into epochs of whole seconds"
            ));
        }
        if content.epoch.checked_add(count).is_none() {
            return Err("the numbers of its epochs are beyond 2^32".into());
        }
        let length = Duration::from_secs(long_s / u64::from(count));
        let epochs = Self::new(
            &content.profile,
            content.epoch,
            count,
            Time::from_s(content.valid_from_s),
            length,
        );
        let shortest = epochs.overlap + epochs.grace;
        if length.as_secs() > MAX_EPOCH_S {
            return Err(format!(
                "its epochs of {} s are too long: a key serves for {MAX_EPOCH_S} s, a year, at most",
                length.as_secs()
            ));
        }
        if length < shortest {
            return Err(format!(
                "its epochs of {} s are too short: with this profile a key must be taken for {} s beyond its epoch",
                length.as_secs(),
                shortest.as_secs() + 1,
            ));
        }
        Ok(epochs)
    }

    fn new(profile: &Profile, first: u32, count: u32, start: Time, length: Duration) -> Self {
        let grace = Duration::from_secs(CLOCK_TOLERANCE_S).min(length / 8);
        let path = Duration::from_micros((PATH_Q1E9 * profile.mean_delay_ms * 1e3) as u64) + LINKS_AND_QUEUES;
        Self {
            first,
            count,
            start,
            length,
            overlap: profile.surb_life() + path + grace,
            grace,
        }
    }

    /// The shortest epoch that a network with this profile can have, in seconds.
    #[must_use]
    pub fn shortest_s(profile: &Profile) -> u64 {
        // Each of the two graces is an eighth of the epoch at most, and five minutes at most.
        let without = Self::new(profile, 0, 1, Time::ZERO, Duration::ZERO)
            .overlap
            .as_secs_f64();
        let tolerance = 2.0 * CLOCK_TOLERANCE_S as f64;
        (without / 0.75).min(without + tolerance) as u64 + 1
    }

    /// Number of the first one.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.first
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Number of the last one.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.first + (self.count - 1)
    }

    /// How long each is.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.length
    }

    /// For how long after its end packets of an epoch are taken: the longest life of a SURB, the 1 - 10⁻⁹ quantile of a path,
    /// and [`Self::grace`].
    #[must_use]
    pub fn overlap(&self) -> Duration {
        self.overlap
    }

    /// What clocks may be off: five minutes, or an eighth of an epoch if that is shorter.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// The epoch that it is: the first one before all, the last one after all.
    #[must_use]
    pub fn at(&self, now: Time) -> u32 {
        let since = now.since(self.start).as_secs() / self.length.as_secs().max(1);
        self.first + u32::try_from(since).unwrap_or(u32::MAX).min(self.count - 1)
    }

    /// When an epoch begins.
    #[must_use]
    pub fn begin(&self, epoch: u32) -> Time {
        self.start + self.length.saturating_mul(epoch.saturating_sub(self.first))
    }

    /// When the next one begins.
    #[must_use]
    pub fn end(&self, epoch: u32) -> Time {
        self.begin(epoch) + self.length
    }

    /// The epochs whose packets a node takes at `now`: the current one, and perhaps the one before or after it. None when
    /// the last one and its overlap are over.
    #[must_use]
    pub fn alive(&self, now: Time) -> Option<(u32, Option<u32>)> {
        let current = self.at(now);
        if now >= self.end(current) + self.overlap {
            return None;
        }
        let other = if current > self.first && now < self.begin(current) + self.overlap {
            Some(current - 1)
        } else if current < self.last() && now + self.grace >= self.end(current) {
            Some(current + 1)
        } else {
            None
        };
        Some((current, other))
    }

    /// When [`Self::alive`] will say something else; none once it says nothing.
    #[must_use]
    pub fn next_change(&self, now: Time) -> Option<Time> {
        let (current, _) = self.alive(now)?;
        let end = self.end(current);
        let mut changes = alloc::vec![end + self.overlap];
        if current > self.first {
            changes.push(self.begin(current) + self.overlap);
        }
        if current < self.last() {
            changes = alloc::vec![end - self.grace, end];
            if current > self.first {
                changes.push(self.begin(current) + self.overlap);
            }
        }
        changes.into_iter().filter(|at| *at > now).min()
    }

    /// Whether an epoch that both have is at the same time in both.
    #[must_use]
    pub fn agree(&self, other: &Self) -> bool {
        let (earlier, later) = if self.first <= other.first {
            (self, other)
        } else {
            (other, self)
        };
        self.length == other.length && earlier.begin(later.first) == later.start
    }
}
