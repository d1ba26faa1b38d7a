//! How many users a network has, as far as one node can tell: by the packets that reach it, whose rate for each user the
//! profile fixes.
//!
//! No user can be told from another here, and what is told to others is rounded so far that it says nothing about one: a lower
//! bound, down to a power of two, that moves only when the number has clearly moved. Clients that an attacker runs count as
//! users, and who leaves packets out makes it smaller.

use std::collections::VecDeque;
use std::time::Duration;

use mizzle_base::Time;

/// Arrivals are counted over so long, in so many parts.
const WINDOW: Duration = Duration::from_secs(300);
const PARTS: u32 = 30;
/// Standard deviations by which the lower bound stays below what was counted: right 977 times of 1,000.
const CAUTION: f64 = 2.0;

/// By how much more the lower bound must be than a step before the step is told: one user who comes and goes moves nothing.
const MARGIN: f64 = 1.25;

/// Counts arrivals; see the [module](self).
#[derive(Debug)]
pub struct Census {
    /// Arrivals a second for each user.
    per_user_per_s: f64,
    /// When each part began, and what was counted in it.
    parts: VecDeque<(Time, u64)>,
    at_least: Option<u32>,
}

impl Census {
    /// For a node that gets so many packets a second from each user on average.
    #[must_use]
    pub fn new(per_user_per_s: f64) -> Self {
        Self {
            per_user_per_s,
            parts: VecDeque::new(),
            at_least: None,
        }
    }

    /// From now on it gets so many packets a second from each user on average. What was counted stays, so that the estimate
    /// goes over to the new rate as those who send do, not all at once.
    pub fn set_rate(&mut self, per_user_per_s: f64) {
        self.per_user_per_s = per_user_per_s;
    }

    /// One more packet.
    pub fn count(&mut self, now: Time) {
        let part = WINDOW / PARTS;
        match self.parts.back_mut() {
            Some((began, n)) if now.since(*began) < part => *n += 1,
            _ => {
                self.parts.push_back((now, 1));
                self.forget(now);
                self.round(now);
            }
        }
    }

    fn forget(&mut self, now: Time) {
        while self
            .parts
            .front()
            .is_some_and(|(began, _)| now.since(*began) > WINDOW)
        {
            self.parts.pop_front();
        }
    }

    /// The clock was set: what was counted by it means nothing.
    pub fn restart(&mut self) {
        self.parts.clear();
        self.at_least = None;
    }

    /// Users, as far as can be told: the mean, and what they are at least. `None` until something can be.
    #[must_use]
    pub fn users(&self, now: Time) -> Option<(f64, f64)> {
        let recent = |(began, _): &&(Time, u64)| now.since(*began) <= WINDOW + WINDOW / PARTS;
        let first = self.parts.iter().find(recent)?.0;
        let elapsed = now.since(first);
        if elapsed < WINDOW / PARTS {
            return None;
        }
        let n = self.parts.iter().filter(recent).map(|part| part.1).sum::<u64>() as f64;
        let whole = self.per_user_per_s * elapsed.as_secs_f64();
        Some((n / whole, (n - CAUTION * n.sqrt()).max(0.0) / whole))
    }

    /// What may be told to others: zero or a power of two that the users are at least. `None` when nothing can be said.
    #[must_use]
    pub fn at_least(&self, now: Time) -> Option<u32> {
        let last = self.parts.back()?.0;
        self.at_least.filter(|_| now.since(last) <= WINDOW)
    }

    /// Up when even the lower bound clearly says so, down when the mean does: near a step it stays as it is.
    fn round(&mut self, now: Time) {
        let Some((mean, low)) = self.users(now) else {
            return;
        };
        let step = match (low / MARGIN) as u32 {
            0 => 0,
            users => 1 << users.ilog2(),
        };
        if self
            .at_least
            .is_none_or(|told| step > told || mean < f64::from(told))
        {
            self.at_least = Some(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw;
    use mizzle_base::Rng;
    use rand_core::SeedableRng as _;

    /// Poisson arrivals of so many users for so long; each value that was told on the way.
    fn run(census: &mut Census, from_s: u64, for_s: u64, users: f64, per_user: f64) -> Vec<u32> {
        let mut rng = Rng::seed_from_u64(from_s ^ users.to_bits());
        let (mut now, end) = (Time::from_s(from_s), Time::from_s(from_s + for_s));
        let mut told = vec![];
        loop {
            now = now.plus_s_f64(-libm::log(draw::unit(&mut rng)) / (users * per_user));
            if now >= end {
                return told;
            }
            census.count(now);
            let least = census.at_least(now).unwrap_or(0);
            if told.last() != Some(&least) {
                told.push(least);
            }
        }
    }

    #[test]
    fn users_are_estimated_from_below_and_told_in_powers_of_two() {
        let mut census = Census::new(0.1);
        assert_eq!(census.users(Time::from_s(5)), None);
        assert_eq!(census.at_least(Time::from_s(5)), None);
        let told = run(&mut census, 1_000, 1_200, 100.0, 0.1);
        assert_eq!(told.last(), Some(&64), "{told:?}");
        assert!(told.is_sorted(), "never back, as nobody left: {told:?}");
        let (mean, low) = census.users(Time::from_s(2_200)).unwrap();
        assert!((85.0..115.0).contains(&mean) && low < mean, "{mean} {low}");
        // Nine tenths leave.
        let told = run(&mut census, 2_200, 1_200, 10.0, 0.1);
        assert!(matches!(told.last(), Some(4 | 8)), "{told:?}");
    }

    #[test]
    fn one_user_more_or_less_does_not_show() {
        // Even where the number is the step itself.
        for users in [40.0, 64.0, 80.0] {
            let mut census = Census::new(10.0);
            let before = run(&mut census, 0, 900, users, 10.0).pop();
            let mut changes = 0;
            for hour in 1..6 {
                for users in [users + 1.0, users] {
                    let told = run(&mut census, hour * 3_600, 600, users, 10.0);
                    changes += told.len() - 1;
                }
            }
            assert!(changes <= 1, "{users}: {changes} changes from {before:?}");
        }
    }

    #[test]
    fn users_by_another_rate_are_others_and_what_was_counted_stays() {
        let mut census = Census::new(1.0);
        run(&mut census, 0, 600, 50.0, 1.0);
        let users = |census: &Census| census.users(Time::from_s(600)).unwrap().0;
        let before = users(&census);
        census.set_rate(2.0);
        assert!((users(&census) - before / 2.0).abs() < 1e-9);
    }

    #[test]
    fn silence_is_no_users_and_a_clock_that_was_set_begins_anew() {
        let mut census = Census::new(1.0);
        run(&mut census, 0, 600, 50.0, 1.0);
        assert!(census.users(Time::from_s(10_000)).is_none());
        assert!(census.at_least(Time::from_s(10_000)).is_none());
        assert_eq!(census.at_least(Time::from_s(600)), Some(32));
        census.restart();
        assert!(census.users(Time::from_s(600)).is_none());
        assert!(census.at_least(Time::from_s(600)).is_none());
    }
}
