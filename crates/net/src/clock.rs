//! The clock and the entropy that shells hand to cores.

use std::fmt;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mizzle_base::document::CLOCK_TOLERANCE_S;
use mizzle_base::{Rng, Time};
use rand_core::SeedableRng as _;
use tokio::time::Instant;

/// The runtime's timers stand still while the machine sleeps, so none is set for longer: whatever became due meanwhile is seen
/// to within this.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How fast a clock follows the machine's that was set: by one part in so many. A step of five minutes takes eight hours, and
/// no rate or delay changes by more than a hundredth.
const FOLLOWS: u64 = 100;

/// The two clocks of a machine.
pub trait Machine: fmt::Debug + Send + Sync {
    /// Time since some moment, however long the machine slept meanwhile; never less than before.
    fn elapsed(&self) -> Duration;

    /// Time since 1970, UTC. It may be set, to any time and at any time.
    fn utc(&self) -> Duration;
}

/// The clocks of the machine that this runs on.
#[derive(Clone, Copy, Debug)]
pub struct ThisMachine;

impl Machine for ThisMachine {
    #[cfg(unix)]
    fn elapsed(&self) -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        // Linux counts sleep in this one alone; elsewhere the monotonic clock does.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let clock = ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let clock = ClockId::Monotonic;
        // Since the machine's start, and so not negative.
        Duration::try_from(clock_gettime(clock)).unwrap_or_default()
    }

    #[cfg(not(unix))]
    #[expect(clippy::disallowed_methods, reason = "this is the shell that owns the clock")]
    fn elapsed(&self) -> Duration {
        static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
        START.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the shell that owns the clock")]
    fn utc(&self) -> Duration {
        // Before 1970 the document check tells the user to set his clock.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A machine's clocks, and how far those who read them have followed what was set there.
#[derive(Debug)]
struct Source {
    machine: Box<dyn Machine>,
    /// By how much the time of this source is ahead of what elapsed.
    ahead_us: AtomicI64,
    /// What elapsed when that was changed last.
    changed_us: AtomicU64,
    /// The latest time that was told.
    told_us: AtomicU64,
}

static THIS_MACHINE: LazyLock<Source> = LazyLock::new(|| Source::new(ThisMachine));

impl Source {
    fn new(machine: impl Machine + 'static) -> Self {
        let elapsed_us = us(machine.elapsed());
        Self {
            machine: Box::new(machine),
            ahead_us: AtomicI64::new(0),
            changed_us: AtomicU64::new(elapsed_us),
            told_us: AtomicU64::new(0),
        }
    }

    /// Never less than before.
    fn now_us(&self) -> u64 {
        let ahead_us = self.ahead_us.load(Ordering::Relaxed);
        let now_us = us(self.machine.elapsed()).saturating_add_signed(ahead_us);
        let told_us = self.told_us.load(Ordering::Relaxed);
        if now_us > told_us {
            now_us.max(self.told_us.fetch_max(now_us, Ordering::Relaxed))
        } else {
            told_us
        }
    }

    /// Moves by `by_us`, as far as time that passed since the last move allows.
    fn follow(&self, by_us: i64) {
        let elapsed_us = us(self.machine.elapsed());
        let since_us = elapsed_us.saturating_sub(self.changed_us.swap(elapsed_us, Ordering::Relaxed));
        let most_us = i64::try_from(since_us / FOLLOWS).unwrap_or(i64::MAX);
        self.ahead_us
            .fetch_add(by_us.clamp(-most_us, most_us), Ordering::Relaxed);
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A clock that shows UTC as the machine had it at the start and goes on by itself: [`Time`] never runs backwards in a process,
/// whatever happens to the machine's clock. It goes on while the machine sleeps, too, so after that it jumps.
#[derive(Clone, Copy)]
pub struct Clock {
    source: &'static Source,
    origin_us: u64,
    origin_utc: Time,
    fast_s: i64,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

impl Clock {
    /// Reads both clocks of the machine, once.
    #[must_use]
    pub fn start() -> Self {
        Self::start_fast(0)
    }

    /// The same, fast by so many seconds, or slow: for trying and testing.
    #[must_use]
    pub fn start_fast(fast_s: i64) -> Self {
        Self::from_source(&THIS_MACHINE, fast_s)
    }

    /// A clock over another machine's clocks than this one's. What it reads is kept until the process ends.
    #[must_use]
    pub fn of(machine: impl Machine + 'static) -> Self {
        Self::from_source(Box::leak(Box::new(Source::new(machine))), 0)
    }

    fn from_source(source: &'static Source, fast_s: i64) -> Self {
        let mut clock = Self {
            source,
            origin_us: source.now_us(),
            origin_utc: Time::ZERO,
            fast_s,
        };
        clock.origin_utc = clock.machine_utc();
        clock
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.origin_utc + Duration::from_micros(self.source.now_us().saturating_sub(self.origin_us))
    }

    /// What the machine's clock shows, by which this one began.
    fn machine_utc(&self) -> Time {
        let utc = Time::from_us(us(self.source.machine.utc()));
        let by = Duration::from_secs(self.fast_s.unsigned_abs());
        if self.fast_s < 0 { utc - by } else { utc + by }
    }

    /// Compares it with the machine's, which may have been set since: by how many seconds that is ahead of this one, or behind
    /// it (negative). While it is as much as clocks may be off ([`CLOCK_TOLERANCE_S`]) this one follows slowly, by a
    /// hundredth of the time that passes between two calls; never further than that, and never backwards.
    pub fn follow_machine(&self) -> i64 {
        let (now, utc) = (self.now(), self.machine_utc());
        let signed = |ahead: Duration| i64::try_from(ahead.as_micros()).unwrap_or(i64::MAX);
        let ahead_us = signed(utc.since(now)) - signed(now.since(utc));
        let ahead_s = ahead_us / 1_000_000;
        let by_us = if ahead_s.unsigned_abs() <= CLOCK_TOLERANCE_S {
            ahead_us
        } else {
            0
        };
        self.source.follow(by_us);
        ahead_s
    }

    /// The runtime's instant at which to look whether `at` has come: then, but a second from now at most.
    #[must_use]
    pub fn instant(&self, at: Time) -> Instant {
        Instant::now() + at.since(self.now()).min(LONGEST_WAIT)
    }

    /// Waits until `at`, for ever where there is no deadline.
    pub async fn sleep_until(&self, at: Option<Time>) {
        let at = at.unwrap_or(Time::FAR_FUTURE);
        loop {
            tokio::time::sleep_until(self.instant(at)).await;
            if self.now() >= at {
                return;
            }
        }
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
    use std::sync::Arc;

    use super::*;

    /// Clocks that a test sets.
    #[derive(Clone, Debug, Default)]
    struct Hands(Arc<[AtomicU64; 2]>);

    impl Hands {
        fn pass(&self, s: u64) {
            self.0[0].fetch_add(s, Ordering::Relaxed);
            self.0[1].fetch_add(s, Ordering::Relaxed);
        }

        fn set_utc(&self, s: u64) {
            self.0[1].store(s, Ordering::Relaxed);
        }
    }

    impl Machine for Hands {
        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0[0].load(Ordering::Relaxed))
        }

        fn utc(&self) -> Duration {
            Duration::from_secs(self.0[1].load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_clock_goes_on_while_the_machine_sleeps_and_not_where_it_is_set_to() {
        let hands = Hands::default();
        hands.set_utc(50_000);
        let clock = Clock::of(hands.clone());
        assert_eq!(clock.now(), Time::from_s(50_000));
        hands.pass(3_600);
        assert_eq!((clock.now(), clock.follow_machine()), (Time::from_s(53_600), 0));
        for set in [60_800, 46_400, 0] {
            hands.set_utc(set);
            assert_eq!(clock.follow_machine(), set as i64 - 53_600);
            assert_eq!(clock.now(), Time::from_s(53_600), "hours are not followed");
        }
    }

    #[test]
    fn small_steps_of_the_machines_clock_are_followed_slowly_and_never_backwards() {
        for step_s in [-200_i64, 200] {
            let hands = Hands::default();
            hands.set_utc(50_000);
            let clock = Clock::of(hands.clone());
            hands.set_utc(50_000_u64.saturating_add_signed(step_s));
            assert_eq!(clock.follow_machine(), step_s);
            let mut last = clock.now();
            for n in 1..=1_999 {
                hands.pass(10);
                clock.follow_machine();
                let passed = clock.now().since(last);
                let (least, most) = (Duration::from_millis(9_890), Duration::from_millis(10_110));
                assert!((least..=most).contains(&passed), "{passed:?} at {n}");
                last = clock.now();
            }
            let off = step_s - clock.follow_machine();
            assert!(
                (199..=200).contains(&off.abs()),
                "{off} s of {step_s} were followed"
            );
            hands.pass(1_000);
            clock.follow_machine();
            assert_eq!(clock.follow_machine(), 0);
        }
        // Set back while nothing passes: the time that was told stays.
        let hands = Hands::default();
        hands.pass(10_000);
        let clock = Clock::of(hands.clone());
        hands.pass(100);
        let told = clock.now();
        hands.set_utc(9_900);
        clock.follow_machine();
        assert_eq!(clock.now(), told);
    }

    #[test]
    fn this_machines_clocks_go() {
        let clock = Clock::start();
        let (fast, slow) = (Clock::start_fast(3_600), Clock::start_fast(-3_600));
        let second = Duration::from_secs(1);
        let now = clock.now();
        assert!(fast.now().since(now + Duration::from_secs(3_600)) < second);
        assert!(now.since(slow.now()) > Duration::from_secs(3_599));
        assert_eq!(
            (fast.follow_machine(), slow.follow_machine()),
            (0, 0),
            "they are so on purpose"
        );
        let before = ThisMachine.elapsed();
        assert!(ThisMachine.elapsed() >= before && before > Duration::ZERO);
    }

    #[tokio::test]
    async fn who_sleeps_sees_a_jump_of_the_clock_soon() {
        let hands = Hands::default();
        let clock = Clock::of(hands.clone());
        let woken = tokio::spawn(async move { clock.sleep_until(Some(Time::from_s(3_000))).await });
        tokio::task::yield_now().await;
        assert!(!woken.is_finished());
        // The machine slept, and the runtime's timers with it.
        hands.pass(3_600);
        tokio::time::timeout(Duration::from_secs(30), woken)
            .await
            .unwrap()
            .unwrap();
    }

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
