//! Which counters were received: against replays, and as the content of acknowledgements.

use mizzle_base::Time;

use crate::frame::Ack;

/// Counters remembered below the highest; older ones count as received.
const SIZE: u64 = 8_192;
const WORDS: usize = (SIZE / 64) as usize;

/// What is known about a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Fresh,
    Received,
    TooOld,
}

/// A sliding bitmap of received counters.
pub(crate) struct Window {
    /// Bit of counter c: word (c / 64) mod [`WORDS`], bit c mod 64.
    bits: Box<[u64; WORDS]>,
    highest: Option<u64>,
    /// When the highest was received.
    highest_at: Time,
    /// Highest one when an acknowledgement was last written.
    told: u64,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self {
            bits: Box::new([0; WORDS]),
            highest: None,
            highest_at: Time::ZERO,
            told: 0,
        }
    }

    pub(crate) fn look(&self, counter: u64) -> Seen {
        match self.highest {
            None => Seen::Fresh,
            Some(h) if counter > h => Seen::Fresh,
            // A word holds counters of its own 64 only, so the one that the highest is in bounds what is kept.
            Some(h) if h / 64 - counter / 64 >= WORDS as u64 => Seen::TooOld,
            Some(_) if self.bit(counter) => Seen::Received,
            Some(_) => Seen::Fresh,
        }
    }

    /// Marks a counter as received; the caller has looked at it.
    pub(crate) fn mark(&mut self, counter: u64, now: Time) {
        if self.highest.is_none_or(|h| counter > h) {
            let from = self.highest.map_or(0, |h| h / 64 + 1);
            let to = counter / 64;
            // Words entered for the first time still hold counters of a turn before.
            let clear = (to + 1).saturating_sub(from).min(WORDS as u64);
            for word in 0..clear {
                self.bits[((to - word) % WORDS as u64) as usize] = 0;
            }
            self.highest = Some(counter);
            self.highest_at = now;
        }
        self.bits[(counter / 64 % WORDS as u64) as usize] |= 1 << (counter % 64);
    }

    /// Whether counters were received that no acknowledgement told of yet.
    pub(crate) fn has_news(&self) -> bool {
        self.highest.is_some_and(|h| h > self.told)
    }

    /// The acknowledgement as of now, with a bitmap of at most `max_bytes`.
    ///
    /// The bitmap covers at least 256 counters where there is room: with paths of up to a third of a second and 320
    /// packets a second, each counter is told in dozens of acknowledgements. More when acknowledgements are rare.
    pub(crate) fn ack(&mut self, now: Time, max_bytes: usize) -> Option<Ack> {
        let highest = self.highest?;
        let want = (highest.saturating_sub(self.told) / 2).max(32);
        let bytes = max_bytes
            .min(usize::try_from(want).unwrap_or(usize::MAX))
            .min(Ack::MAX_BITMAP);
        let mut ack = Ack {
            largest: highest,
            hold_ms: 0,
            bitmap: [0; Ack::MAX_BITMAP],
            len: 0,
        };
        ack.hold_ms = u64::try_from(now.since(self.highest_at).as_millis())
            .unwrap_or(u64::MAX)
            .min(1 << 40);
        for i in 0..bytes as u64 * 8 {
            let Some(counter) = highest.checked_sub(i + 1) else {
                break;
            };
            if self.bit(counter) {
                ack.bitmap[(i / 8) as usize] |= 1 << (i % 8);
                ack.len = (i / 8) as usize + 1;
            }
        }
        self.told = highest;
        Some(ack)
    }

    fn bit(&self, counter: u64) -> bool {
        self.bits[(counter / 64 % WORDS as u64) as usize] >> (counter % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec(0u64..3_000, 1..200)) {
            let mut window = Window::new();
            let mut model = std::collections::BTreeSet::new();
            let mut top = 0;
            for (i, step) in steps.into_iter().enumerate() {
                let counter = if i % 3 == 0 { top + step * step / 100 } else { u64::saturating_sub(top, step) };
                let seen = window.look(counter);
                prop_assert_eq!(seen == Seen::Received, model.contains(&counter) && seen != Seen::TooOld);
                if top.saturating_sub(counter) < SIZE - 64 {
                    prop_assert!(seen != Seen::TooOld);
                }
                if seen == Seen::Fresh {
                    window.mark(counter, Time::ZERO);
                    model.insert(counter);
                    top = top.max(counter);
                }
                let ack = window.ack(Time::ZERO, 128).unwrap();
                for c in top.saturating_sub(256)..=top {
                    prop_assert_eq!(ack.counters().any(|a| a == c), model.contains(&c));
                }
            }
        }
    }
}
