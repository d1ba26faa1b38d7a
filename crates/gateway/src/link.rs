//! One client's side of the gateway link: the downlink's ticks and what is ready for them; how fast it may send.
//!
//! A frame is made before its tick, a filler like any other: a reply if there is one, else mail, else nothing. A tick that
//! the shell serves too late is skipped, and what its frame holds goes back (design, Traffic: "Gateway link").

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

/// What a frame of the downlink holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holds {
    Filler,
    /// The reply with this number.
    Reply(u64),
    /// The item of mail with this number.
    Mail(u64),
}

/// How far the client is with one of the two numberings, replies or mail.
struct Track {
    /// Number of the next one to send.
    cursor: u64,
    /// Number below which all is acknowledged, and since when something above it waits for that.
    acked: u64,
    waits_since: Time,
    /// How often what was sent had to be sent again for want of an acknowledgement.
    stalls: u64,
}

impl Track {
    fn new(next: u64, now: Time) -> Self {
        Self {
            cursor: next,
            acked: next,
            waits_since: now,
            stalls: 0,
        }
    }

    /// The next one to send: without an acknowledgement for too long, the first that lacks it.
    fn next(&mut self, now: Time, patience: Duration) -> u64 {
        if now.since(self.waits_since) > patience {
            self.stalls += u64::from(self.cursor > self.acked);
            self.cursor = self.acked;
        }
        if self.cursor == self.acked {
            self.waits_since = now;
        }
        self.cursor
    }

    fn acknowledged(&mut self, now: Time, next: u64) {
        if next > self.acked {
            self.waits_since = now;
        }
        self.acked = self.acked.max(next);
        self.cursor = self.cursor.max(self.acked);
    }

    fn rewind(&mut self, number: u64) {
        self.cursor = self.cursor.min(number).max(self.acked);
    }
}

pub(crate) struct Downlink {
    interval: Duration,
    tick: Time,
    ready: Option<(Holds, Box<[u8]>)>,
    replies: Track,
    mail: Track,
    patience: Duration,
    scheduled: Time,
}

/// What the moment asks for.
pub(crate) enum Due {
    /// The frame of the next tick: the reply with this number, else the mail with this one, else a filler.
    Prepare { reply: u64, mail: u64 },
    /// The frame that was prepared.
    Send { bytes: Box<[u8]>, holds: Holds },
    /// So many ticks went by unserved.
    Skipped(u64),
}

impl Downlink {
    /// Its first tick comes after the share `phase` of an interval; `reply` and `mail` are the first to send.
    pub(crate) fn new(
        interval: Duration,
        phase: f64,
        uplink_per_s: f64,
        (reply, mail): (u64, u64),
        now: Time,
    ) -> Self {
        let tick = now + interval.mul_f64(phase);
        Self {
            interval,
            tick,
            ready: None,
            replies: Track::new(reply, now),
            mail: Track::new(mail, now),
            patience: ACK_PATIENCE + Duration::from_secs_f64(10.0 / uplink_per_s),
            scheduled: tick,
        }
    }

    /// The clock was set back to `now`: the ticks begin anew.
    pub(crate) fn set_back(&mut self, now: Time, phase: f64) {
        self.tick = now + self.interval.mul_f64(phase);
        self.replies.waits_since = now;
        self.mail.waits_since = now;
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
            if let Some((holds, _)) = self.ready.take() {
                self.rewind(holds);
            }
            return Due::Skipped(ticks);
        }
        match self.ready.take() {
            None => Due::Prepare {
                reply: self.replies.next(now, self.patience),
                mail: self.mail.next(now, self.patience),
            },
            Some((holds, bytes)) => {
                self.tick = self.tick + self.interval;
                Due::Send { bytes, holds }
            }
        }
    }

    /// The frame for the next tick.
    pub(crate) fn prepared(&mut self, holds: Holds, bytes: Box<[u8]>) {
        match holds {
            Holds::Filler => {}
            Holds::Reply(number) => self.replies.cursor = number + 1,
            Holds::Mail(number) => self.mail.cursor = number + 1,
        }
        self.ready = Some((holds, bytes));
    }

    /// The link had no room for a frame with this.
    pub(crate) fn not_written(&mut self, held: Holds) {
        self.rewind(held);
        // What is ready would overtake it.
        if held != Holds::Filler
            && let Some((holds, _)) = self.ready.take()
        {
            self.rewind(holds);
        }
    }

    pub(crate) fn replies_acknowledged(&mut self, now: Time, next: u64) {
        self.replies.acknowledged(now, next);
    }

    pub(crate) fn mail_acknowledged(&mut self, now: Time, next: u64) {
        self.mail.acknowledged(now, next);
    }

    /// How often since the last call something had to be sent again because nothing was acknowledged.
    pub(crate) fn take_stalls(&mut self) -> u64 {
        std::mem::take(&mut self.replies.stalls) + std::mem::take(&mut self.mail.stalls)
    }

    /// The number of the next item of mail that a frame will hold.
    pub(crate) fn next_mail(&self) -> u64 {
        self.mail.cursor
    }

    fn rewind(&mut self, holds: Holds) {
        match holds {
            Holds::Filler => {}
            Holds::Reply(number) => self.replies.rewind(number),
            Holds::Mail(number) => self.mail.rewind(number),
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
        Downlink::new(INTERVAL, 1.0, UPLINK, (1, 1), START)
    }

    /// Prepares what is asked for, out of a mailbox with the items up to `last`.
    fn prepare(link: &mut Downlink, now: Time, last: u64) -> u64 {
        match link.due(now) {
            Due::Prepare { reply, .. } => {
                let number = if reply <= last { reply } else { 0 };
                let holds = if number == 0 {
                    Holds::Filler
                } else {
                    Holds::Reply(number)
                };
                link.prepared(holds, number.to_be_bytes().into());
                number
            }
            Due::Send { .. } | Due::Skipped(_) => panic!("nothing to prepare at {now}"),
        }
    }

    fn send(link: &mut Downlink, now: Time) -> u64 {
        match link.due(now) {
            Due::Send { bytes, holds } => {
                let number = u64::from_be_bytes(bytes[..].try_into().unwrap());
                assert_eq!(holds != Holds::Filler, number != 0);
                number
            }
            Due::Prepare { .. } | Due::Skipped(_) => panic!("nothing to send at {now}"),
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
        let mut link = Downlink::new(interval, 1.0, UPLINK, (1, 1), START);
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
        link.not_written(Holds::Reply(1));
        assert_eq!(link.schedule(), ms(35), "there is nothing ready now");
        let mut sent = Vec::new();
        for tick in [40, 60, 80] {
            prepare(&mut link, ms(tick - 5), 3);
            sent.push(send(&mut link, ms(tick)));
        }
        assert_eq!(sent, [1, 2, 3]);
    }

    #[test]
    fn of_several_that_left_at_once_none_is_lost() {
        let mut link = Downlink::new(Duration::from_millis(2), 1.0, UPLINK, (1, 1), START);
        // Late, so that three leave together; the link says only then that it took none of them.
        for number in 1..=3 {
            assert_eq!(prepare(&mut link, ms(7), 9), number);
            assert_eq!(send(&mut link, ms(7)), number);
        }
        (1..=3).for_each(|number| link.not_written(Holds::Reply(number)));
        let mut sent = Vec::new();
        for tick in [8, 10, 12, 14] {
            prepare(&mut link, ms(tick - 1), 9);
            sent.push(send(&mut link, ms(tick)));
        }
        assert_eq!(sent, [1, 2, 3, 4]);
    }

    #[test]
    fn a_filler_that_was_not_written_is_not_made_up_for() {
        let mut link = downlink();
        prepare(&mut link, ms(15), 0);
        assert_eq!(send(&mut link, ms(20)), 0);
        assert_eq!(prepare(&mut link, ms(35), 1), 1);
        link.not_written(Holds::Filler);
        assert_eq!(link.schedule(), ms(40), "what is ready stays so");
        assert_eq!(send(&mut link, ms(40)), 1);
    }

    #[test]
    fn what_was_acknowledged_meanwhile_is_not_sent_again() {
        let mut link = downlink();
        prepare(&mut link, ms(15), 2);
        assert_eq!(send(&mut link, ms(20)), 1);
        link.replies_acknowledged(ms(21), 2);
        link.not_written(Holds::Reply(1));
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
            link.replies_acknowledged(ms(tick - 10), ack);
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

    /// Prepares a reply if there is one up to `replies`, else mail up to `mail`; returns what the frame holds.
    fn prepare_both(link: &mut Downlink, now: Time, replies: u64, mail: u64) -> Holds {
        let Due::Prepare { reply, mail: next } = link.due(now) else {
            panic!("nothing to prepare at {now}");
        };
        let holds = match () {
            () if reply <= replies => Holds::Reply(reply),
            () if next <= mail => Holds::Mail(next),
            () => Holds::Filler,
        };
        link.prepared(holds, Box::default());
        holds
    }

    #[test]
    fn replies_and_mail_are_numbered_acknowledged_and_sent_again_apart() {
        let mut link = downlink();
        let mut sent = Vec::new();
        for tick in (20..=100).step_by(20) {
            sent.push(prepare_both(&mut link, ms(tick - 5), 2, 2));
            assert!(matches!(link.due(ms(tick)), Due::Send { holds, .. } if Some(&holds) == sent.last()));
        }
        let all = [Holds::Reply(1), Holds::Reply(2), Holds::Mail(1), Holds::Mail(2)];
        assert_eq!(sent, [&all[..], &[Holds::Filler]].concat());
        link.replies_acknowledged(ms(101), 3);
        // Of the mail nothing came: it goes again when patience ends, and no reply does.
        let mut again = Vec::new();
        for tick in (120..=10_400).step_by(20) {
            link.replies_acknowledged(ms(tick - 10), 3);
            let holds = prepare_both(&mut link, ms(tick - 5), 2, 2);
            link.due(ms(tick));
            again.extend((holds != Holds::Filler).then_some(holds));
        }
        assert_eq!(again, all[2..]);
    }

    #[test]
    fn mail_that_was_not_written_goes_back_with_the_reply_that_was_ready_behind_it() {
        let mut link = downlink();
        assert_eq!(prepare_both(&mut link, ms(15), 0, 1), Holds::Mail(1));
        link.due(ms(20));
        assert_eq!(prepare_both(&mut link, ms(35), 1, 1), Holds::Reply(1));
        link.not_written(Holds::Mail(1));
        assert_eq!(prepare_both(&mut link, ms(36), 1, 1), Holds::Reply(1));
        link.due(ms(40));
        assert_eq!(prepare_both(&mut link, ms(55), 1, 1), Holds::Mail(1));
    }

    #[test]
    fn a_client_whose_uplink_is_slow_is_given_the_time_for_it() {
        // 0.3 packets a second: 43 s.
        let mut link = Downlink::new(INTERVAL, 1.0, Profile::chat().uplink_per_s(), (1, 1), START);
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
