//! One client's side of the gateway link: the downlink's ticks and what is ready for them; how fast it may send.
//!
//! A frame is made before its tick, a filler like any other; a tick that the shell serves later than the next one
//! is skipped, and its frame goes back to the mailbox (design, Traffic: "Gateway link").

use std::time::Duration;

use mizzle_base::Time;

/// How long before its tick a frame is made. Mail that arrives within it waits for the next tick.
const LEAD: Duration = Duration::from_millis(5);
/// Without progress of the acknowledgements for so long, what was sent and not acknowledged is sent again.
const ACK_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Downlink {
    interval: Duration,
    tick: Time,
    ready: Option<(u64, Box<[u8]>)>,
    /// Number of the next item to send.
    cursor: u64,
    /// Number below which all is acknowledged, and since when nothing above it.
    acked: u64,
    acked_at: Time,
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
    pub(crate) fn new(interval: Duration, phase: f64, next: u64, now: Time) -> Self {
        let tick = now + interval.mul_f64(phase);
        Self {
            interval,
            tick,
            ready: None,
            cursor: next,
            acked: next,
            acked_at: now,
            last_sent: 0,
            scheduled: tick,
        }
    }

    /// The clock was set back to `now`: the ticks begin anew.
    pub(crate) fn set_back(&mut self, now: Time, phase: f64) {
        self.tick = now + self.interval.mul_f64(phase);
        self.acked_at = now;
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
        if late >= self.interval {
            let ticks = late.div_duration_f64(self.interval) as u64;
            self.tick = self.tick + self.interval.mul_f64(ticks as f64);
            if let Some((seq, _)) = self.ready.take() {
                self.rewind(seq);
            }
            return Due::Skipped(ticks);
        }
        match self.ready.take() {
            None => {
                if self.cursor > self.acked && now.since(self.acked_at) > ACK_PATIENCE {
                    self.cursor = self.acked;
                    self.acked_at = now;
                }
                Due::Prepare(self.cursor)
            }
            Some((seq, bytes)) => {
                self.last_sent = seq;
                self.tick = self.tick + self.interval;
                Due::Send { bytes, real: seq != 0 }
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
        if next > self.acked || self.cursor <= next {
            self.acked_at = now;
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
        Self { per_s: 1.1 * uplink_per_s, burst, tokens: burst, at: now }
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
