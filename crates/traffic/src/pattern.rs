//! Patterns in time: the trait, Loopix's Poisson process, a constant rate, and a budget that data may spend early.
//!
//! Which one a network uses its document says ([`mizzle_base::profile::Pattern`]), for all of its clients. A deployment that
//! wants another implements [`Pattern`] and gives its clients [`Stream`]s made of it.

use std::time::Duration;

use mizzle_base::profile::{self, Profile};
use mizzle_base::{Rng, Time};

use crate::draw;

/// Draws the moments at which something leaves. A pattern sees time and randomness and nothing else, but for those that
/// implement [`Self::hurry`], which is to be said where such a pattern is chosen.
pub trait Pattern: Send {
    /// The moment after `last`.
    fn next(&mut self, rng: &mut Rng, last: Time) -> Time;

    /// The first moment after `start`, when it all begins or goes on after a pause.
    fn begin(&mut self, rng: &mut Rng, start: Time) -> Time {
        self.next(rng, start)
    }

    /// The earliest moment that [`Self::hurry`] could give. `None`, the default, for patterns that data can't change; a
    /// client doesn't look at its queues then.
    fn may_hurry_at(&self) -> Option<Time> {
        None
    }

    /// Data waits at `now`, and the next moment would be `next`: an earlier one in place of one of those to come, if the
    /// pattern has one to give. One that implements this lets times depend on the user.
    fn hurry(&mut self, _rng: &mut Rng, _now: Time, _next: Time) -> Option<Time> {
        None
    }

    /// The clock was set back by so much: what the pattern remembers of time moves with it.
    fn shift_back(&mut self, _by: Duration) {}
}

/// What a slot is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// λ_P: data or a drop in its place.
    Payload,
    /// λ_L: a loop.
    Loop,
    /// λ_D: a drop.
    Drop,
}

/// A pattern, and what leaves at its moments.
pub struct Stream {
    /// The moments.
    pub pattern: Box<dyn Pattern>,
    /// How often each class is drawn at one of them, relative to the sum.
    pub shares: Vec<(Class, f64)>,
}

impl Stream {
    /// A stream of one class.
    #[must_use]
    pub fn of(class: Class, pattern: impl Pattern + 'static) -> Self {
        Self {
            pattern: Box::new(pattern),
            shares: vec![(class, 1.0)],
        }
    }

    /// The streams that a profile asks for.
    #[must_use]
    pub fn of_profile(profile: &Profile) -> Vec<Self> {
        let rates = [
            (Class::Payload, profile.payload_per_s),
            (Class::Loop, profile.loop_per_s),
            (Class::Drop, profile.drop_per_s),
        ];
        let poisson = |(class, per_s)| Self::of(class, Poisson { per_s });
        match profile.pattern {
            profile::Pattern::Poisson => rates.into_iter().map(poisson).collect(),
            // One comb for all: three would tell by their ticks which packets are loops.
            profile::Pattern::Constant => vec![Self {
                pattern: Box::new(Constant {
                    per_s: profile.uplink_per_s(),
                }),
                shares: rates.into(),
            }],
            profile::Pattern::DangerBudget { epoch_s } => {
                let [(class, per_s), rest @ ..] = rates;
                let budget = Self::of(class, DangerBudget::new(per_s, epoch_s));
                std::iter::once(budget)
                    .chain(rest.into_iter().map(poisson))
                    .collect()
            }
        }
    }
}

/// Exponential gaps: Loopix section 4.2, "each of the streams is a Poisson process".
#[derive(Clone, Copy, Debug)]
pub struct Poisson {
    /// Mean rate, per second; above zero.
    pub per_s: f64,
}

impl Pattern for Poisson {
    fn next(&mut self, rng: &mut Rng, last: Time) -> Time {
        last.plus_s_f64(draw::exponential(rng, 1.0 / self.per_s))
    }
}

/// Equal gaps, after a random share of one.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// Rate, per second; above zero.
    pub per_s: f64,
}

impl Pattern for Constant {
    fn next(&mut self, _rng: &mut Rng, last: Time) -> Time {
        last.plus_s_f64(1.0 / self.per_s)
    }

    fn begin(&mut self, rng: &mut Rng, start: Time) -> Time {
        start.plus_s_f64(draw::unit(rng) / self.per_s)
    }
}

/// A number of moments in each epoch, uniform in it; data that waits takes one at once, and one of those still to come in the
/// epoch, a random one, is cancelled for it. Where none is left data waits for the next epoch.
///
/// What it costs is said at [`profile::Pattern::DangerBudget`]: **times depend on what the user does**.
pub struct DangerBudget {
    epoch: Duration,
    moments: usize,
    /// Moments taken early are at least so far apart: an eighth of the mean gap.
    gap: Duration,
    /// When the epoch began that is being spent, or will.
    begun: Time,
    /// What is to come in it after the moment that was given last, latest first.
    planned: Vec<Time>,
    /// The first moment that may be taken early.
    free_at: Time,
}

impl DangerBudget {
    /// `per_s` moments a second on average, spent by epochs of `epoch_s` seconds: at least one in an epoch.
    #[must_use]
    pub fn new(per_s: f64, epoch_s: f64) -> Self {
        // Casts saturate; what a checked profile can say is far from where they do.
        let epoch = Duration::from_micros((epoch_s * 1e6) as u64);
        Self {
            epoch,
            moments: libm::round(per_s * epoch_s).max(1.0) as usize,
            gap: Duration::from_micros((1e6 / (8.0 * per_s)) as u64),
            begun: Time::ZERO,
            planned: Vec::new(),
            free_at: Time::ZERO,
        }
    }

    fn plan(&mut self, rng: &mut Rng, begun: Time) -> Time {
        self.begun = begun;
        self.free_at = self.free_at.max(begun);
        self.planned = (0..self.moments)
            .map(|_| begun + self.epoch.mul_f64(draw::unit(rng)))
            .collect();
        self.planned.sort_unstable_by(|a, b| b.cmp(a));
        self.planned.pop().unwrap_or(begun + self.epoch)
    }
}

impl Pattern for DangerBudget {
    fn next(&mut self, rng: &mut Rng, _last: Time) -> Time {
        match self.planned.pop() {
            Some(next) => next,
            None => self.plan(rng, self.begun + self.epoch),
        }
    }

    /// The first epoch is a part of one, with its share of moments, so that the epochs of clients that come together don't
    /// begin together.
    fn begin(&mut self, rng: &mut Rng, start: Time) -> Time {
        let passed = self.epoch.mul_f64(draw::unit(rng));
        let mut next = self.plan(rng, start - passed);
        while next < start {
            next = self.next(rng, next);
        }
        self.free_at = self.free_at.max(start);
        next
    }

    fn may_hurry_at(&self) -> Option<Time> {
        Some(self.free_at)
    }

    fn hurry(&mut self, rng: &mut Rng, now: Time, next: Time) -> Option<Time> {
        // While `next` is of an epoch to come, this one has nothing left.
        let at = now.max(self.free_at);
        if at < self.begun || at >= next {
            return None;
        }
        let cancelled = draw::below(rng, self.planned.len() + 1);
        if cancelled < self.planned.len() {
            self.planned.remove(cancelled);
            self.planned.push(next);
        }
        self.free_at = at + self.gap;
        Some(at)
    }

    fn shift_back(&mut self, by: Duration) {
        self.begun = self.begun - by;
        self.free_at = self.free_at - by;
        self.planned.iter_mut().for_each(|at| *at = *at - by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    const START: Time = Time::from_s(1_000);

    #[test]
    fn a_constant_rate_has_equal_gaps_after_a_random_phase() {
        let mut rng = Rng::seed_from_u64(5);
        let mut pattern = Constant { per_s: 50.0 };
        let firsts: Vec<Time> = (0..20).map(|_| pattern.begin(&mut rng, START)).collect();
        assert!(
            firsts
                .iter()
                .all(|at| at.since(START) <= Duration::from_millis(20))
        );
        assert!(firsts.windows(2).any(|w| w[0] != w[1]));
        assert_eq!(pattern.next(&mut rng, START), START + Duration::from_millis(20));
    }

    /// The moments of so many epochs; `hurry` says at which of them data waits.
    fn spend(epochs: u32, mut hurry: impl FnMut(Time) -> bool) -> (Time, Vec<Time>) {
        let mut rng = Rng::seed_from_u64(6);
        let mut pattern = DangerBudget::new(10.0, 3.0);
        let mut next = pattern.begin(&mut rng, START);
        let first = pattern.begun;
        let (mut now, mut out) = (START, Vec::new());
        while now < first + Duration::from_secs(3) * epochs {
            if hurry(now)
                && let Some(at) = pattern.hurry(&mut rng, now, next)
            {
                assert!(at >= now && at < next, "earlier, but not in the past");
                next = at;
            }
            if next <= now {
                out.push(next);
                let after = pattern.next(&mut rng, next);
                assert!(after >= next);
                next = after;
            }
            now = now + Duration::from_micros(500);
        }
        (first, out)
    }

    fn by_epoch(first: Time, moments: &[Time]) -> Vec<usize> {
        let mut counts = vec![0; 20];
        for at in moments {
            counts[(at.since(first).as_secs_f64() / 3.0) as usize] += 1;
        }
        counts
    }

    #[test]
    fn data_cancels_cover_and_an_epoch_has_as_many_packets_as_without() {
        let (first, idle) = spend(20, |_| false);
        let (_, busy) = spend(20, |now| now.as_s() % 2 == 0);
        let (_, greedy) = spend(20, |_| true);
        for (what, moments) in [("idle", &idle), ("busy", &busy), ("greedy", &greedy)] {
            let counts = by_epoch(first, moments);
            // The first is a part of an epoch; the moment on the edge between two may be counted with either.
            let off = counts[1..].iter().map(|n| n.abs_diff(30)).max();
            assert!(off <= Some(1), "{what}: {counts:?}");
        }
        // What is taken early keeps its distance, and the rest of the epoch is silent: this is what the name warns of.
        let mut gaps: Vec<_> = greedy.windows(2).map(|w| w[1].since(w[0])).collect();
        gaps.sort_unstable();
        let median = gaps[gaps.len() / 2];
        assert!((12_000..14_000).contains(&median.as_micros()), "{median:?}");
        assert!(gaps[gaps.len() - 10] > Duration::from_secs(2), "{gaps:?}");
    }

    #[test]
    fn a_budget_moves_with_a_clock_that_is_set_back() {
        let mut rng = Rng::seed_from_u64(7);
        let mut pattern = DangerBudget::new(10.0, 3.0);
        let next = pattern.begin(&mut rng, START);
        let hour = Duration::from_secs(3_600);
        pattern.shift_back(Duration::from_secs(900));
        let mut last = next - Duration::from_secs(900);
        for _ in 0..100 {
            let after = pattern.next(&mut rng, last);
            assert!(after >= last && after < START + hour);
            last = after;
        }
        assert!(last < START, "nothing waits until the clock is where it was");
    }

    #[test]
    fn poisson_counts_have_equal_mean_and_variance() {
        let mut rng = Rng::seed_from_u64(4);
        let mut pattern = Poisson { per_s: 40.0 };
        let mut counts = vec![0_u32; 5_000];
        let mut t = Time::ZERO;
        loop {
            t = pattern.next(&mut rng, t);
            match counts.get_mut(t.as_s() as usize) {
                Some(count) => *count += 1,
                None => break,
            }
        }
        let mean = counts.iter().sum::<u32>() as f64 / 5_000.0;
        let var = counts.iter().map(|&c| (f64::from(c) - mean).powi(2)).sum::<f64>() / 5_000.0;
        assert!((mean - 40.0).abs() < 0.45, "{mean}");
        assert!((var / mean - 1.0).abs() < 0.1, "{var} / {mean}");
    }
}
