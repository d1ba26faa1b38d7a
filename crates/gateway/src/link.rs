//! One client's side of the gateway link: the downlink's ticks and what is ready for them; how fast it may send.
//!
//! A frame is made before its tick, a filler like any other; a tick that the shell serves too late is skipped, and its
//! frame goes back to the mailbox (design, Traffic: "Gateway link").

use std::time::Duration;

use mizzle_base::Time;

/// How long before its tick a frame is made. Mail that arrives within it waits for the next tick.
const LEAD: Duration = Duration::from_millis(5);
/// Without progress of the acknowledgements for so long, and ten mean gaps of the uplink that carries them, what was sent
/// and not acknowledged is sent again. Ten gaps pass without a packet once in 22,000 times.
const ACK_PATIENCE: Duration = Duration::from_secs(10);

/// A tick served later than the next one, and later than this, is skipped. Within it a frame leaves at once and the ticks
/// after it keep their times: at 450 frames a second an operating system is often late by several ticks, and each one
/// skipped would be missing from a downlink that is nearly full. What shows is the machine's scheduling, idle or busy.
const GRACE: Duration = Duration::from_millis(20);

pub(crate) struct Downlink {
    interval: Duration,
    tick: Time,
    ready: Option<(u64, Box<[u8]>)>,
    /// Number of the next item to send.
    cursor: u64,
    /// Number below which all is acknowledged, and since when something above it waits for that.
    acked: u64,
    waits_since: Time,
    patience: Duration,
    last_sent: u64,
    scheduled: Time,
}

/// What the moment asks for.
pub(crate) enum Due {
    /// The frame of the next tick: the item with this number, or a filler.
    Prepare(u64),
    /// The frame that was prepared.
    Send { bytes: Box<[u8]>, real: bool },
    /// So many ticks went by unserved.
    Skipped(u64),
}

impl Downlink {
    /// Its first tick comes after the share `phase` of an interval; `next` is the first item to send.
    pub(crate) fn new(interval: Duration, phase: f64, uplink_per_s: f64, next: u64, now: Time) -> Self {
        let tick = now + interval.mul_f64(phase);
        Self {
            interval,
            tick,
            ready: None,
            cursor: next,
            acked: next,
            waits_since: now,
            patience: ACK_PATIENCE + Duration::from_secs_f64(10.0 / uplink_per_s),
            last_sent: 0,
            scheduled: tick,
        }
    }

    /// The clock was set back to `now`: the ticks begin anew.
    pub(crate) fn set_back(&mut self, now: Time, phase: f64) {
        self.tick = now + self.interval.mul_f64(phase);
        self.waits_since = now;
    }

    pub(crate) fn tick(&self) -> Time {
        self.tick
    }

    /// Decides when [`Self::due`] is to be asked next.
    pub(crate) fn schedule(&mut self) -> Time {
        self.scheduled = match self.ready {
            Some(_) => self.tick,
            None => self.tick - LEAD.min(self.interval),
        };
        self.scheduled
    }

    /// What [`Self::schedule`] said last.
    pub(crate) fn scheduled(&self) -> Time {
        self.scheduled
    }

    pub(crate) fn due(&mut self, now: Time) -> Due {
        let late = now.since(self.tick);
        if late >= self.interval.max(GRACE) {
            let ticks = late.div_duration_f64(self.interval) as u64;
            self.tick = self.tick + self.interval.mul_f64(ticks as f64);
            if let Some((seq, _)) = self.ready.take() {
                self.rewind(seq);
            }
            return Due::Skipped(ticks);
        }
        match self.ready.take() {
            None => {
                if now.since(self.waits_since) > self.patience {
                    self.cursor = self.acked;
                }
                if self.cursor == self.acked {
                    self.waits_since = now;
                }
                Due::Prepare(self.cursor)
            }
            Some((seq, bytes)) => {
                self.last_sent = seq;
                self.tick = self.tick + self.interval;
                Due::Send {
                    bytes,
                    real: seq != 0,
                }
            }
        }
    }

    /// The frame for the next tick; `seq` 0 is a filler.
    pub(crate) fn prepared(&mut self, seq: u64, bytes: Box<[u8]>) {
        if seq != 0 {
            self.cursor = seq + 1;
        }
        self.ready = Some((seq, bytes));
    }

    /// The link had no room for what was sent last.
    pub(crate) fn not_written(&mut self) {
        self.rewind(self.last_sent);
        // What is ready would overtake it.
        if self.last_sent != 0 {
            self.ready = None;
        }
    }

    pub(crate) fn acknowledged(&mut self, now: Time, next: u64) {
        if next > self.acked {
            self.waits_since = now;
        }
        self.acked = self.acked.max(next);
        self.cursor = self.cursor.max(self.acked);
    }

    fn rewind(&mut self, seq: u64) {
        if seq != 0 {
            self.cursor = self.cursor.min(seq).max(self.acked);
        }
    }
}

/// A token bucket: a client of the network's profile never meets it, one that sends more does.
pub(crate) struct Policer {
    per_s: f64,
    burst: f64,
    tokens: f64,
    at: Time,
}

impl Policer {
    pub(crate) fn new(uplink_per_s: f64, now: Time) -> Self {
        // A tenth above the mean rate. The need of a Poisson stream for tokens above that exceeds n with a probability of
        // e^-0.187n at most, at any rate (Lundberg's bound; 0.187 solves e^x = 1 + 1.1x): 6·10⁻¹³ for 150. The rest,
        // ten standard deviations of a count over 10 s, is for what a link held up and lets go at once.
        let burst = 150.0 + 10.0 * (10.0 * uplink_per_s).sqrt();
        Self {
            per_s: 1.1 * uplink_per_s,
            burst,
            tokens: burst,
            at: now,
        }
    }

    /// For a client's hellos: more than a bad link makes it say, fewer than would cost the gateway anything.
    pub(crate) fn of_hellos(now: Time) -> Self {
        Self {
            per_s: 1.0,
            burst: 200.0,
            tokens: 199.0,
            at: now,
        }
    }

    /// The clock was set back to `now`: time counts from there.
    pub(crate) fn set_back(&mut self, now: Time) {
        self.at = now;
    }

    pub(crate) fn allows(&mut self, now: Time) -> bool {
        self.tokens = (self.tokens + now.since(self.at).as_secs_f64() * self.per_s).min(self.burst);
        self.at = self.at.max(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_base::{Profile, Rng};
    use mizzle_traffic::pattern::{Pattern, Poisson};
    use rand_core::SeedableRng as _;

    const INTERVAL: Duration = Duration::from_millis(20);
    const START: Time = Time::from_s(100_000);
    /// 50 packets a second: 10.2 s of patience.
    const UPLINK: f64 = 50.0;

    fn ms(n: u64) -> Time {
        START + Duration::from_millis(n)
    }

    /// Ticks at 20, 40, .. ms; the first item is number 1.
    fn downlink() -> Downlink {
        Downlink::new(INTERVAL, 1.0, UPLINK, 1, START)
    }

    /// Prepares what is asked for, out of a mailbox with the items up to `last`.
    fn prepare(link: &mut Downlink, now: Time, last: u64) -> u64 {
        match link.due(now) {
            Due::Prepare(number) => {
                let number = if number <= last { number } else { 0 };
                link.prepared(number, number.to_be_bytes().into());
                number
            }
            Due::Send { .. } | Due::Skipped(_) => panic!("nothing to prepare at {now}"),
        }
    }

    fn send(link: &mut Downlink, now: Time) -> u64 {
        match link.due(now) {
            Due::Send { bytes, real } => {
                let number = u64::from_be_bytes(bytes[..].try_into().unwrap());
                assert_eq!(real, number != 0);
                number
            }
            Due::Prepare(_) | Due::Skipped(_) => panic!("nothing to send at {now}"),
        }
    }

    #[test]
    fn a_frame_is_made_5_ms_before_its_tick_and_sent_at_it() {
        let mut link = downlink();
        for tick in [20, 40, 60] {
            assert_eq!(link.schedule(), ms(tick - 5));
            prepare(&mut link, ms(tick - 5), 2);
            assert_eq!(link.schedule(), ms(tick));
            // Two items, then a filler.
            assert_eq!(send(&mut link, ms(tick)), [1, 2, 0][tick as usize / 20 - 1]);
        }
    }

    #[test]
    fn ticks_closer_than_the_lead_have_their_frames_made_one_tick_ahead() {
        let interval = Duration::from_millis(2);
        let mut link = Downlink::new(interval, 1.0, UPLINK, 1, START);
        for tick in [2, 4, 6] {
            assert_eq!(link.schedule(), ms(tick - 2));
            prepare(&mut link, ms(tick - 2), 0);
            assert_eq!(link.schedule(), ms(tick));
            assert_eq!(send(&mut link, ms(tick)), 0);
        }
    }

    #[test]
    fn a_frame_served_late_by_less_than_an_interval_does_not_move_the_next_tick() {
        let mut link = downlink();
        prepare(&mut link, ms(15), 0);
        send(&mut link, ms(39));
        assert_eq!(link.tick(), ms(40));
    }

    #[test]
    fn what_was_not_written_is_next_and_what_was_ready_waits_behind_it() {
        let mut link = downlink();
        prepare(&mut link, ms(15), 3);
        assert_eq!(send(&mut link, ms(20)), 1);
        assert_eq!(prepare(&mut link, ms(35), 3), 2);
        link.not_written();
        assert_eq!(link.schedule(), ms(35), "there is nothing ready now");
        let mut sent = Vec::new();
        for tick in [40, 60, 80] {
            prepare(&mut link, ms(tick - 5), 3);
            sent.push(send(&mut link, ms(tick)));
        }
        assert_eq!(sent, [1, 2, 3]);
    }

    #[test]
    fn a_filler_that_was_not_written_is_not_made_up_for() {
        let mut link = downlink();
        prepare(&mut link, ms(15), 0);
        assert_eq!(send(&mut link, ms(20)), 0);
        assert_eq!(prepare(&mut link, ms(35), 1), 1);
        link.not_written();
        assert_eq!(link.schedule(), ms(40), "what is ready stays so");
        assert_eq!(send(&mut link, ms(40)), 1);
    }

    #[test]
    fn what_was_acknowledged_meanwhile_is_not_sent_again() {
        let mut link = downlink();
        prepare(&mut link, ms(15), 2);
        assert_eq!(send(&mut link, ms(20)), 1);
        link.acknowledged(ms(21), 2);
        link.not_written();
        assert_eq!(prepare(&mut link, ms(35), 2), 2);
    }

    #[test]
    fn ticks_that_nobody_served_are_skipped_and_their_frame_goes_back() {
        let mut link = downlink();
        prepare(&mut link, ms(15), 9);
        assert!(matches!(link.due(ms(20 + 10 * 20 + 7)), Due::Skipped(10)));
        assert_eq!(link.tick(), ms(220));
        assert_eq!(prepare(&mut link, ms(227), 9), 1);
        assert_eq!(send(&mut link, ms(227)), 1);
        assert_eq!((link.tick(), link.schedule()), (ms(240), ms(235)));
    }

    /// Serves the ticks up to `end`, with a client that acknowledges `ack` in each interval.
    fn serve(link: &mut Downlink, from_ms: u64, end_ms: u64, last: u64, ack: u64) -> Vec<(u64, u64)> {
        let mut sent = Vec::new();
        for tick in (from_ms..=end_ms).step_by(20) {
            link.acknowledged(ms(tick - 10), ack);
            prepare(link, ms(tick - 5), last);
            let number = send(link, ms(tick));
            if number != 0 {
                sent.push((tick, number));
            }
        }
        sent
    }

    #[test]
    fn without_progress_of_acknowledgements_all_that_lacks_one_goes_again() {
        let mut link = downlink();
        assert_eq!(serve(&mut link, 20, 60, 3, 1), [(20, 1), (40, 2), (60, 3)]);
        // From here on the first is acknowledged, again and again. Made 5 ms before its tick, patient since 70.
        assert_eq!(serve(&mut link, 80, 10_260, 3, 2), []);
        assert_eq!(serve(&mut link, 10_280, 10_400, 3, 2), [(10_280, 2), (10_300, 3)]);
        assert_eq!(serve(&mut link, 10_420, 30_000, 3, 4), []);
    }

    #[test]
    fn patience_begins_with_what_is_sent_not_with_the_last_acknowledgement() {
        let mut link = downlink();
        // A minute of fillers, then a mail.
        assert_eq!(serve(&mut link, 20, 60_000, 0, 1), []);
        assert_eq!(serve(&mut link, 60_020, 70_000, 1, 1), [(60_020, 1)]);
        assert_eq!(serve(&mut link, 70_020, 70_300, 1, 1), [(70_240, 1)]);
    }

    #[test]
    fn a_client_whose_uplink_is_slow_is_given_the_time_for_it() {
        // 0.3 packets a second: 43 s.
        let mut link = Downlink::new(INTERVAL, 1.0, Profile::chat().uplink_per_s(), 1, START);
        assert_eq!(serve(&mut link, 20, 43_300, 1, 1), [(20, 1)]);
        assert_eq!(serve(&mut link, 43_320, 43_500, 1, 1).len(), 1);
    }

    /// How many of a Poisson stream's packets pass, and how many came.
    fn police(policer: &mut Policer, seed: u64, per_s: f64, seconds: u64) -> (u64, u64) {
        let (mut rng, mut pattern) = (Rng::seed_from_u64(seed), Poisson { per_s });
        let (mut now, mut passed, mut came) = (START, 0, 0);
        while now < START + Duration::from_secs(seconds) {
            passed += u64::from(policer.allows(now));
            came += 1;
            now = pattern.next(&mut rng, now);
        }
        (passed, came)
    }

    #[test]
    fn a_client_of_the_profile_is_never_policed() {
        for profile in [Profile::chat(), Profile::browse(), Profile::bulk()] {
            for seed in 0..5 {
                let rate = profile.uplink_per_s();
                let (passed, came) = police(&mut Policer::new(rate, START), seed, rate, 600);
                assert_eq!(passed, came, "{}, seed {seed}", profile.name);
            }
        }
    }

    #[test]
    fn a_client_of_the_slowest_profile_is_not_policed_in_a_year_either() {
        // 0.3 packets a second: ten million of them.
        let rate = Profile::chat().uplink_per_s();
        let (passed, came) = police(&mut Policer::new(rate, START), 6, rate, 365 * 86_400);
        assert_eq!(passed, came, "seed 6");
    }

    #[test]
    fn a_client_at_twice_the_rate_is_held_to_a_tenth_above_it() {
        for profile in [Profile::browse(), Profile::bulk()] {
            for seed in 10..13 {
                let rate = profile.uplink_per_s();
                let (passed, came) = police(&mut Policer::new(rate, START), seed, 2.0 * rate, 600);
                let ratio = passed as f64 / (600.0 * rate);
                assert!(
                    (1.09..1.12).contains(&ratio),
                    "{}, seed {seed}: {ratio} of {came}",
                    profile.name
                );
            }
        }
    }

    #[test]
    fn the_policer_takes_what_a_link_held_up_for_some_seconds() {
        let mut policer = Policer::new(50.0, START);
        police(&mut policer, 14, 50.0, 60);
        let at_once = (0..250)
            .filter(|_| policer.allows(START + Duration::from_secs(65)))
            .count();
        assert_eq!(at_once, 250, "seed 14: five seconds at 50 a second");
    }

    #[test]
    fn an_unsteady_clock_gives_no_tokens_and_one_set_back_takes_none() {
        let mut policer = Policer::new(0.001, START);
        while policer.allows(START) {}
        for n in 0..1_000 {
            assert!(!policer.allows(START + Duration::from_millis(n % 2)), "{n}");
        }
        policer.set_back(START - Duration::from_secs(7_200));
        assert!(
            policer.allows(START - Duration::from_secs(3_600)),
            "3.6 packets an hour"
        );
    }
}
