//! The alarm of a node that may be cut off: raised from its own loops that are due and missing.
//!
//! Loopix section 4.3 and the (n-1) attack: who drops all that comes to a mix but one packet learns where that packet goes. The
//! mix's own loops are dropped with the rest, and it knows when each was due. Not one that is missing tells of an attack, nor
//! how long nothing came, but how many were due one after the other and none of them came ([`Rule`]). A loop that
//! comes, however late, ends the row: packets reach this node.
//!
//! A machine that is itself late hears its loops late. What it knows of that ([`Alarm::late`]) widens the time that a loop is given,
//! and never beyond the one after which it is lost anyway: who can slow the machine, or flood it, puts an alarm off by that time and
//! no longer, however long he goes on.
//!
//! What follows from an alarm is the mix core's part; which loops are lost for another reason (a node on their way that is
//! known to be down) whoever keeps the loops says. No clock; [`attack`] measures it.

pub mod attack;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mizzle_base::Time;

/// Share of loops that is lost on the way without anybody's intent, as the alarm's rule assumes.
pub const LOSS: f64 = 0.01;
/// False alarms an hour at that loss: one in a million hours of one node, 114 years.
pub const FALSE_ALARMS_PER_H: f64 = 1e-6;

/// A loop is missing so long after it was due at the earliest: what links and a busy machine take now and then.
const LEAST_GRACE: Duration = Duration::from_millis(50);
/// Loops that must have come back before their lateness says what is late.
const LEARN_FROM: u32 = 16;
/// Weight of a loop in the running mean of lateness.
const OF_ONE: f64 = 1.0 / 64.0;
/// What this machine does so much later than it should tells of the machine, not of an attack.
const PAUSE: Duration = Duration::from_millis(10);
/// Most loops that are waited for; beyond it the earliest are forgotten, neither missing nor back.
const MOST_WAITING: usize = 65_536;

/// How many loops in a row must be missing.
///
/// With loops that come home at rate λ (1-q) and are lost independently with probability q, rows of k or more begin at rate
/// λ (1-q) q^k. `misses` is the least k that keeps this below the rate that is allowed; what is left of that rate is used up by
/// rows of one less, if nothing has come for a long time: [`Self::sooner`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rule {
    /// So many in a row are an alarm.
    pub misses: u32,
    /// One less is, when the last loop that came is so long ago.
    pub sooner: Option<Duration>,
}

impl Rule {
    /// For loops at this rate, of which the share `loss` is lost without anybody's intent: at most so many false alarms an hour.
    #[must_use]
    pub fn new(loops_per_s: f64, loss: f64, false_alarms_per_h: f64) -> Self {
        let loss = loss.clamp(1e-6, 0.5);
        let returns_per_h = 3_600.0 * loops_per_s.max(1e-6) * (1.0 - loss);
        let mut misses = 1;
        let mut rows_per_h = returns_per_h * loss;
        while rows_per_h > false_alarms_per_h && misses < 64 {
            misses += 1;
            rows_per_h *= loss;
        }
        // A return, then exactly `misses - 1` that were due within a time t and all lost.
        let shorter = misses - 1;
        let left = false_alarms_per_h - rows_per_h;
        let per_h = |due: f64| rows_per_h / loss * poisson(shorter, due);
        // Beyond its peak the chance falls with t; within 64 means of it there is an answer or none is worth having.
        let (mut low, mut high) = (f64::from(shorter), f64::from(shorter) + 64.0);
        if shorter == 0 || left <= 0.0 || per_h(high) > left {
            return Self { misses, sooner: None };
        }
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if per_h(middle) > left {
                low = middle;
            } else {
                high = middle;
            }
        }
        let sooner = Some(Duration::from_secs_f64(high / loops_per_s.max(1e-6)));
        Self { misses, sooner }
    }

    /// False alarms an hour by the closed form, for independent losses; an upper bound.
    #[must_use]
    pub fn false_alarms_per_h(&self, loops_per_s: f64, loss: f64) -> f64 {
        let returns_per_h = 3_600.0 * loops_per_s * (1.0 - loss);
        let rows = returns_per_h * loss.powi(self.misses as i32);
        let shorter = self.sooner.map_or(0.0, |after| {
            let less = self.misses - 1;
            returns_per_h * loss.powi(less as i32) * poisson(less, loops_per_s * after.as_secs_f64())
        });
        rows + shorter
    }

    /// The chance that an alarm is raised within `within_s` after everything begins to be dropped, by the closed form: that
    /// so many are due, or one less and the last that came is long ago. What a loop is given after it was due is not counted.
    #[must_use]
    pub fn detection(&self, loops_per_s: f64, loss: f64, within_s: f64) -> f64 {
        let due = loops_per_s * within_s;
        let fewer: f64 = (0..self.misses).map(|n| poisson(n, due)).sum();
        let sooner = self.sooner.map_or(0.0, |after| {
            // How long before the attack the last one came is exponential.
            let more = (after.as_secs_f64() - within_s).max(0.0);
            poisson(self.misses - 1, due) * libm::exp(-loops_per_s * (1.0 - loss) * more)
        });
        (1.0 - fewer + sooner).clamp(0.0, 1.0)
    }
}

/// The chance that a Poisson variable of this mean is `n`.
fn poisson(n: u32, mean: f64) -> f64 {
    if mean <= 0.0 {
        return if n == 0 { 1.0 } else { 0.0 };
    }
    libm::exp(f64::from(n) * libm::log(mean) - mean - libm::lgamma(f64::from(n) + 1.0))
}

/// What a check of the alarm found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// An alarm: nothing came since this moment, after which packets can have been let in alone.
    Raised {
        /// When the last loop came home; the beginning if none did.
        since: Time,
    },
    /// It goes on: one more is missing.
    GoesOn,
}

/// The alarm of one node.
pub struct Alarm {
    rule: Rule,
    /// The longest time that a loop is given beyond its due time.
    patience: Duration,
    waiting: BTreeMap<[u8; 8], Time>,
    by_due: BTreeSet<(Time, [u8; 8])>,
    row: u32,
    /// When the last loop came home, or the alarm was made.
    heard: Time,
    /// The latest due time of those that came home: what was due before it is no part of a row that reaches to the present.
    came_due: Time,
    is_on: bool,
    returned: u32,
    late_us_mean: f64,
    late_us_variance: f64,
    own_late: OwnLate,
    /// This machine paused: what came meanwhile is told soon.
    not_before: Time,
    /// For how long such pauses may put looks off, until there is one that comes in time. Without an end a pause at each look
    /// would put every one of them off.
    may_wait: Duration,
}

/// The longest by which this machine was late in the last one to two spans.
#[derive(Default)]
struct OwnLate {
    since: Time,
    most: Duration,
    most_before: Duration,
}

impl OwnLate {
    fn turn(&mut self, now: Time, span: Duration) {
        let age = now.since(self.since);
        // A clock that was set back begins a new one too.
        if age < span && self.since <= now {
            return;
        }
        self.most_before = if age < 2 * span { self.most } else { Duration::ZERO };
        self.most = Duration::ZERO;
        self.since = now;
    }

    fn most(&self) -> Duration {
        self.most.max(self.most_before)
    }
}

impl Alarm {
    /// From `now` on. A loop is given at most `patience` beyond its due time.
    #[must_use]
    pub fn new(rule: Rule, patience: Duration, now: Time) -> Self {
        Self {
            rule,
            patience: patience.max(LEAST_GRACE),
            waiting: BTreeMap::new(),
            by_due: BTreeSet::new(),
            row: 0,
            heard: now,
            came_due: Time::ZERO,
            is_on: false,
            returned: 0,
            late_us_mean: 0.0,
            late_us_variance: 0.0,
            own_late: OwnLate::default(),
            not_before: now,
            may_wait: patience.max(LEAST_GRACE),
        }
    }

    /// A loop that is due at `due`.
    pub fn sent(&mut self, id: [u8; 8], due: Time) {
        if self.waiting.len() >= MOST_WAITING
            && let Some((_, id)) = self.by_due.pop_first()
        {
            self.waiting.remove(&id);
        }
        self.waiting.insert(id, due);
        self.by_due.insert((due, id));
    }

    /// A loop came home, be it one that counted as missing. True if that ends an alarm.
    pub fn returned(&mut self, now: Time, id: [u8; 8]) -> bool {
        if let Some(due) = self.waiting.remove(&id) {
            self.by_due.remove(&(due, id));
            self.learn(now.since(due).as_micros() as f64);
            self.came_due = self.came_due.max(due);
        } else {
            // It counted as missing, so it was due by then.
            self.came_due = self.came_due.max(now - self.grace());
        }
        self.row = 0;
        self.heard = self.heard.max(now);
        std::mem::take(&mut self.is_on)
    }

    /// Looks which loops are missing by `now`; one for which `is_explained` is true, as it was to pass a node that is down, says
    /// nothing. Tell what came home before.
    pub fn check(&mut self, now: Time, mut is_explained: impl FnMut(&[u8; 8]) -> bool) -> Option<Found> {
        if let Some(asked) = self.deadline() {
            let paused = now.since(asked);
            self.late(now, paused);
            if paused > PAUSE {
                // As long again, so that what waits at the sockets is heard first; but not without end.
                let wait = paused.min(self.may_wait);
                self.may_wait -= wait;
                self.not_before = self.not_before.max(now + wait);
            } else if now >= self.not_before {
                self.may_wait = self.patience;
            }
        }
        if now < self.not_before {
            return None;
        }
        self.own_late.turn(now, self.patience);
        let grace = self.grace();
        let mut is_one_more = false;
        while let Some(&(due, id)) = self.by_due.first().filter(|(due, _)| *due + grace <= now) {
            self.by_due.remove(&(due, id));
            self.waiting.remove(&id);
            // However long it is given: one that was due later has come, and ended the row that this one was in. After a moment
            // in which links were down all of its loops would else count at once, among those that come again.
            if due > self.came_due && !is_explained(&id) {
                self.row = self.row.saturating_add(1);
                is_one_more = true;
            }
        }
        if self.is_on {
            return is_one_more.then_some(Found::GoesOn);
        }
        // A node that has just begun, in a network that perhaps has too.
        if self.returned < LEARN_FROM {
            return None;
        }
        let is_long = self.long_at().is_some_and(|at| at <= now);
        if self.row >= self.rule.misses || (is_long && self.row + 1 == self.rule.misses) {
            self.is_on = true;
            return Some(Found::Raised { since: self.heard });
        }
        None
    }

    /// When to look again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let grace = self.grace();
        let next = self.by_due.first().map(|(due, _)| *due + grace);
        let long = self
            .long_at()
            .filter(|_| !self.is_on && self.returned >= LEARN_FROM && self.row + 1 == self.rule.misses);
        let at = [next, long].into_iter().flatten().min()?;
        Some(at.max(self.not_before))
    }

    /// Whether it is raised and nothing came since.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// This machine did something by so much later than it should have: looked for loops, sent one, or let a packet go. Of no
    /// account below 10 ms. True if it is of some.
    pub fn late(&mut self, now: Time, by: Duration) -> bool {
        if by <= PAUSE {
            return false;
        }
        self.own_late.turn(now, self.patience);
        self.own_late.most = self.own_late.most.max(by.min(self.patience));
        true
    }

    /// By how much this machine was late of late, at the most.
    #[must_use]
    pub fn own_late(&self) -> Duration {
        self.own_late.most()
    }

    /// How long beyond its due time a loop is waited for: its usual lateness and three deviations, never less than 50 ms, and twice
    /// what this machine was late by: it may have sent the loop so late and heard it so late. Never more than the patience.
    #[must_use]
    pub fn grace(&self) -> Duration {
        if self.returned < LEARN_FROM {
            return self.patience;
        }
        let us = self.late_us_mean + 3.0 * libm::sqrt(self.late_us_variance);
        let usual = Duration::from_micros(us as u64).max(LEAST_GRACE);
        (usual + 2 * self.own_late()).min(self.patience)
    }

    /// The clock was set back, or those that are out won't be told of: none is waited for.
    pub fn forget(&mut self, now: Time) {
        self.waiting.clear();
        self.by_due.clear();
        self.row = 0;
        self.heard = now;
        self.came_due = Time::ZERO;
        self.own_late = OwnLate::default();
        self.not_before = now;
        self.may_wait = self.patience;
        self.is_on = false;
    }

    fn long_at(&self) -> Option<Time> {
        // A loop that is on its way may still come within its grace.
        Some(self.heard + self.rule.sooner? + self.grace())
    }

    fn learn(&mut self, late_us: f64) {
        self.returned = self.returned.saturating_add(1);
        let of_one = OF_ONE.max(1.0 / f64::from(self.returned));
        let off = late_us - self.late_us_mean;
        self.late_us_mean += of_one * off;
        self.late_us_variance = (1.0 - of_one) * (self.late_us_variance + of_one * off * off);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Time {
        Time::from_s(1_000) + Duration::from_millis(ms)
    }

    fn id(n: u64) -> [u8; 8] {
        n.to_be_bytes()
    }

    /// One that has learnt that loops come 20 ms late, one each second until 100 s.
    fn taught(rule: Rule) -> Alarm {
        let mut alarm = Alarm::new(rule, Duration::from_secs(1), ms(0));
        for n in 0..100 {
            alarm.sent(id(n), ms(n * 1_000));
            assert!(!alarm.returned(ms(n * 1_000 + 20), id(n)));
        }
        alarm
    }

    fn run(alarm: &mut Alarm, until: Time) -> Option<(Time, Found)> {
        while let Some(at) = alarm.deadline().filter(|at| *at <= until) {
            if let Some(found) = alarm.check(at, |_| false) {
                return Some((at, found));
            }
        }
        None
    }

    const FIVE: Rule = Rule {
        misses: 5,
        sooner: None,
    };

    #[test]
    fn the_rule_keeps_to_the_rate_that_is_allowed() {
        for loops_per_s in [0.1, 1.0, 2.0, 50.0] {
            for loss in [0.001, 0.01, 0.1] {
                let rule = Rule::new(loops_per_s, loss, FALSE_ALARMS_PER_H);
                let rate = rule.false_alarms_per_h(loops_per_s, loss);
                assert!(
                    rate <= FALSE_ALARMS_PER_H * 1.000_001,
                    "{loops_per_s} {loss}: {rate}"
                );
                let one_less = Rule {
                    misses: rule.misses - 1,
                    sooner: None,
                };
                assert!(one_less.false_alarms_per_h(loops_per_s, loss) > FALSE_ALARMS_PER_H);
            }
        }
        // λ_M = 1/s, 1 %: 3,564 x 10⁻¹⁰ an hour.
        let rule = Rule::new(1.0, LOSS, FALSE_ALARMS_PER_H);
        assert_eq!(rule.misses, 5);
        let without = Rule { sooner: None, ..rule };
        assert!((without.false_alarms_per_h(1.0, LOSS) - 3.564e-7).abs() < 1e-10);
        // P(Poisson(9.21) >= 5) and P(Poisson(7.60) >= 5).
        assert!((without.detection(1.0, LOSS, 1e4_f64.ln()) - 0.952).abs() < 0.001);
        assert!((without.detection(1.0, LOSS, 2e3_f64.ln()) - 0.875).abs() < 0.001);
        assert!(rule.detection(1.0, LOSS, 1e4_f64.ln()) > 0.96);
    }

    #[test]
    fn a_gap_that_is_over_before_its_loops_are_missing_raises_nothing() {
        let mut alarm = taught(FIVE);
        // The machine was late, so loops are given longer than the gap lasts.
        alarm.late(ms(100_000), Duration::from_millis(300));
        assert!(alarm.grace() > Duration::from_millis(600));
        // Twenty are lost within 400 ms, and the next come one each 200 ms.
        for n in 0..20 {
            alarm.sent(id(1_000 + n), ms(100_000 + n * 20));
        }
        for n in 0..20 {
            let due = 100_400 + n * 200;
            alarm.sent(id(2_000 + n), ms(due));
            assert_eq!(run(&mut alarm, ms(due + 5)), None);
            alarm.returned(ms(due + 5), id(2_000 + n));
        }
        assert_eq!(run(&mut alarm, ms(200_000)), None);
    }

    #[test]
    fn five_that_are_due_and_missing_raise_it_once_and_one_that_comes_ends_it() {
        let mut alarm = taught(FIVE);
        for n in 100..110 {
            alarm.sent(id(n), ms(n * 1_000));
        }
        let (at, found) = run(&mut alarm, ms(200_000)).unwrap();
        assert_eq!(found, Found::Raised { since: ms(99_020) });
        assert_eq!(at, ms(104_050), "the fifth, and 50 ms");
        let (at, found) = run(&mut alarm, ms(200_000)).unwrap();
        assert_eq!((at, found), (ms(105_050), Found::GoesOn));
        assert!(alarm.is_on());
        assert!(alarm.returned(ms(105_500), id(100)), "late as it is");
        assert!(!alarm.is_on());
        // Four more are due, and that is a new row.
        assert_eq!(run(&mut alarm, ms(200_000)), None);
    }

    #[test]
    fn one_less_raises_it_when_nothing_came_for_long() {
        let rule = Rule {
            misses: 5,
            sooner: Some(Duration::from_secs(10)),
        };
        let mut alarm = taught(rule);
        for n in 100..104 {
            alarm.sent(id(n), ms(n * 1_000));
        }
        let (at, found) = run(&mut alarm, ms(200_000)).unwrap();
        assert_eq!((at, found), (ms(109_070), Found::Raised { since: ms(99_020) }));
    }

    #[test]
    fn a_late_loop_a_pause_of_the_machine_and_a_dead_node_raise_none() {
        let mut alarm = taught(FIVE);
        for n in 0..5 {
            alarm.sent(id(100 + n), ms(100_000 + n));
        }
        // All five within 5 ms, and this machine wakes 400 ms late: it listens first.
        assert_eq!(alarm.check(ms(100_450), |_| false), None);
        assert_eq!(alarm.deadline(), Some(ms(100_850)));
        for n in 0..5 {
            alarm.returned(ms(100_451), id(100 + n));
        }
        assert_eq!(alarm.check(ms(100_850), |_| false), None);
        for n in 200..300 {
            alarm.sent(id(n), ms(n * 1_000));
            let at = alarm.deadline().unwrap();
            assert_eq!(alarm.check(at, |_| true), None, "explained");
        }
        // Of five that are missing one came after the others were due.
        for n in 300..305 {
            alarm.sent(id(n), ms(n * 1_000));
        }
        assert_eq!(run(&mut alarm, ms(303_900)), None);
        alarm.returned(ms(303_950), id(302));
        assert_eq!(run(&mut alarm, ms(400_000)), None);
    }

    #[test]
    fn what_this_machine_is_late_by_is_given_to_its_loops_and_forgotten() {
        let mut alarm = taught(FIVE);
        let usual = alarm.grace();
        assert!(
            !alarm.late(ms(100_000), Duration::from_millis(10)),
            "every machine is"
        );
        assert_eq!(alarm.grace(), usual);
        assert!(alarm.late(ms(100_000), Duration::from_millis(300)));
        assert!(alarm.late(ms(100_010), Duration::from_millis(20)));
        assert_eq!(alarm.own_late(), Duration::from_millis(300));
        assert_eq!(alarm.grace(), usual + Duration::from_millis(600));
        // Five that come half a second late, as the machine is: none is missing.
        for n in 0..5 {
            alarm.sent(id(100 + n), ms(100_000 + n));
        }
        assert_eq!(run(&mut alarm, ms(100_500)), None);
        for n in 0..5 {
            alarm.returned(ms(100_500 + n), id(100 + n));
        }
        assert_eq!(run(&mut alarm, ms(110_000)), None);
        // Two of its spans of a second later the machine is as quick as ever.
        for n in 200..210 {
            alarm.sent(id(n), ms(n * 1_000));
        }
        let (at, _) = run(&mut alarm, ms(300_000)).unwrap();
        assert!(at < ms(204_700), "{at:?}");
    }

    /// Whoever makes the machine late at each of its looks, for ever.
    #[test]
    fn who_slows_the_machine_for_ever_puts_an_alarm_off_by_the_patience_and_a_pause() {
        for pause_ms in [15, 200, 900, 30_000] {
            let mut alarm = taught(FIVE);
            for n in 100..400 {
                alarm.sent(id(n), ms(n * 1_000));
            }
            let mut looked = 0;
            let at = loop {
                let asked = alarm.deadline().unwrap();
                let at = asked + Duration::from_millis(pause_ms);
                looked += 1;
                // What the workers are late by is told as well, at every look.
                alarm.late(at, Duration::from_millis(pause_ms));
                if alarm.check(at, |_| false).is_some() {
                    break at;
                }
                assert!(looked < 100, "{pause_ms} ms: silent");
            };
            // The fifth is due at 104 s; then a second of patience, another one to hear what waits, and as long looks were late.
            let latest = ms(104_000 + 2_000 + 1_000 + 3 * pause_ms);
            assert!(at <= latest, "{pause_ms} ms: {at:?}");
        }
    }

    #[test]
    fn what_is_usual_is_learnt_within_bounds() {
        let mut alarm = Alarm::new(FIVE, Duration::from_secs(1), ms(0));
        assert_eq!(alarm.grace(), Duration::from_secs(1), "nothing is known yet");
        for n in 0..400 {
            alarm.sent(id(n), ms(n));
            alarm.returned(ms(n + if n % 2 == 0 { 190 } else { 210 }), id(n));
        }
        let grace = alarm.grace().as_millis();
        assert!((225..=235).contains(&grace), "200 and three times 10: {grace}");
        for n in 400..800 {
            alarm.sent(id(n), ms(n));
            alarm.returned(ms(n + 90_000), id(n));
        }
        assert_eq!(alarm.grace(), Duration::from_secs(1));
        alarm.forget(ms(0));
        assert_eq!(alarm.deadline(), None);
    }
}
