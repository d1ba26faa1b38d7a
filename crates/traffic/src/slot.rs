//! The slots of a client: at each tick first a gateway, then a kind, and only then does anyone look at a queue.
//!
//! Design, Traffic: provider-slotted sending. It closes the leak of Loopix in which real messages go to the
//! correspondent's provider and drops to a uniform one, so that the rate towards one gateway tells who is talked to.

use std::time::Duration;

use mizzle_base::{Document, NodeId, Rng, Time};

use crate::draw;
use crate::pattern::{Class, Stream};

/// The streams of a client can't have two slots closer than this: a pattern that doesn't move on would have them all at once.
const LEAST_GAP: Duration = Duration::from_micros(1);

/// Which kind of packet goes into a payload slot, data or drop alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Carries no SURB and up to 3.8 KB.
    Data,
    /// Carries five SURBs and some 700 bytes.
    Reply,
}

/// What leaves at a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// λ_P: a packet for the gateway, of the kind: queued data if there is any, else a drop.
    Payload(NodeId, Kind),
    /// λ_L: a loop back to the client.
    Loop,
    /// λ_D: a drop to the gateway, never data.
    Drop(NodeId),
}

/// A moment and what leaves then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// When.
    pub at: Time,
    /// What.
    pub what: What,
}

/// Draws the slots of one client, in order of time.
pub struct Slots {
    rng: Rng,
    reply_fraction: f64,
    gateways: Vec<NodeId>,
    weights: Vec<f64>,
    // Each with its next moment.
    streams: Vec<(Stream, Time)>,
}

impl Slots {
    /// The slots of a client as the document has them, beginning at `start`.
    #[must_use]
    pub fn new(document: &Document, rng: Rng, start: Time) -> Self {
        Self::with_streams(document, rng, start, Stream::of_profile(document.profile()))
    }

    /// Slots with other patterns in time; gateways and kinds stay the document's.
    #[must_use]
    pub fn with_streams(document: &Document, rng: Rng, start: Time, streams: Vec<Stream>) -> Self {
        let (gateways, weights) = document.gateways().map(|g| (g.id, g.weight)).unzip();
        let reply_fraction = document.profile().reply_fraction;
        Self::of(rng, reply_fraction, gateways, weights, start, streams)
    }

    fn of(
        mut rng: Rng,
        reply_fraction: f64,
        gateways: Vec<NodeId>,
        weights: Vec<f64>,
        start: Time,
        streams: Vec<Stream>,
    ) -> Self {
        let begin = |mut stream: Stream| {
            let first = stream.pattern.begin(&mut rng, start).max(start);
            (stream, first)
        };
        let streams = streams.into_iter().map(begin).collect();
        Self {
            rng,
            reply_fraction,
            gateways,
            weights,
            streams,
        }
    }

    /// From now on this is the network document, of the same gateways with perhaps other weights. No slot moves.
    pub fn set_document(&mut self, document: &Document) {
        (self.gateways, self.weights) = document.gateways().map(|g| (g.id, g.weight)).unzip();
    }

    /// When the next slot is.
    #[must_use]
    pub fn next_at(&self) -> Time {
        self.streams.iter().map(|s| s.1).min().unwrap_or(Time::FAR_FUTURE)
    }

    /// Draws the next slot. Always the same draws in the same order, whatever becomes of the slot.
    pub fn draw(&mut self) -> Slot {
        let at = self.next_at();
        let mut class = Class::Drop;
        if let Some((stream, next)) = self.streams.iter_mut().find(|s| s.1 == at) {
            *next = stream.pattern.next(&mut self.rng, at).max(at + LEAST_GAP);
            class = match &stream.shares[..] {
                [(only, _)] => *only,
                shares => {
                    let weights: Vec<f64> = shares.iter().map(|s| s.1).collect();
                    let drawn = draw::weighted(&mut self.rng, &weights);
                    shares.get(drawn).map_or(class, |s| s.0)
                }
            };
        }
        let what = match class {
            Class::Payload => {
                let gateway = self.gateway();
                let kind = if draw::unit(&mut self.rng) <= self.reply_fraction {
                    Kind::Reply
                } else {
                    Kind::Data
                };
                What::Payload(gateway, kind)
            }
            Class::Loop => What::Loop,
            Class::Drop => What::Drop(self.gateway()),
        };
        Slot { at, what }
    }

    /// The earliest moment that [`Self::hurry`] could give; `None` where data changes nothing, as it is by default.
    #[must_use]
    pub fn may_hurry_at(&self) -> Option<Time> {
        let may = |(stream, next): &(Stream, Time)| stream.pattern.may_hurry_at().map(|at| at.min(*next));
        self.streams.iter().filter_map(may).min()
    }

    /// Data waits at `now`: patterns that let it take a slot that was to come later. Gateway and kind of that slot are drawn
    /// as ever.
    pub fn hurry(&mut self, now: Time) {
        for (stream, next) in &mut self.streams {
            if let Some(at) = stream.pattern.hurry(&mut self.rng, now, *next) {
                *next = at.max(now).min(*next);
            }
        }
    }

    /// Leaves out all slots before `now` (the clock jumped, or nothing ran): they are not made up for, and the streams go
    /// on from `now`.
    pub fn skip_to(&mut self, now: Time) {
        for (stream, next) in &mut self.streams {
            if *next < now {
                *next = stream.pattern.begin(&mut self.rng, now).max(now);
            }
        }
    }

    /// The clock was set back by so much: the slots move with it, or there would be none until it is where it was.
    pub fn shift_back(&mut self, by: Duration) {
        for (stream, next) in &mut self.streams {
            *next = *next - by;
            stream.pattern.shift_back(by);
        }
    }

    fn gateway(&mut self) -> NodeId {
        self.gateways[draw::weighted(&mut self.rng, &self.weights)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use mizzle_base::profile::{self, Profile};
    use rand_core::SeedableRng;

    const START: Time = Time::from_s(1_000);

    fn slots_of(streams: Vec<Stream>) -> Slots {
        let gateways = vec![NodeId::new([1; 32]), NodeId::new([2; 32])];
        Slots::of(
            Rng::seed_from_u64(7),
            0.25,
            gateways,
            vec![3.0, 1.0],
            START,
            streams,
        )
    }

    /// Payload at 40 a second, loops and drops at 5.
    fn browse(pattern: profile::Pattern) -> Profile {
        Profile {
            pattern,
            ..Profile::browse()
        }
    }

    fn slots() -> Slots {
        slots_of(Stream::of_profile(&browse(profile::Pattern::Poisson)))
    }

    #[test]
    fn slots_come_in_order_with_their_rates_weights_and_kinds_in_every_pattern() {
        for pattern in [
            profile::Pattern::Poisson,
            profile::Pattern::Constant,
            profile::Pattern::DangerBudget { epoch_s: 1.5 },
        ] {
            come_in_order(slots_of(Stream::of_profile(&browse(pattern))));
        }
    }

    fn come_in_order(mut slots: Slots) {
        let mut last = Time::ZERO;
        let (mut payload, mut reply, mut loops, mut drops, mut first_gateway) = (0, 0, 0, 0, 0);
        while slots.next_at() < Time::from_s(2_000) {
            let slot = slots.draw();
            assert!(slot.at >= last);
            last = slot.at;
            match slot.what {
                What::Payload(gateway, kind) => {
                    payload += 1;
                    reply += u32::from(kind == Kind::Reply);
                    first_gateway += u32::from(gateway == NodeId::new([1; 32]));
                }
                What::Loop => loops += 1,
                What::Drop(_) => drops += 1,
            }
        }
        // Four standard deviations.
        let near = |n: u32, mean: f64| (f64::from(n) - mean).abs() < 4.0 * mean.sqrt();
        assert!(
            near(payload, 40_000.0) && near(loops, 5_000.0) && near(drops, 5_000.0),
            "{payload} {loops} {drops}"
        );
        assert!(
            near(reply, 10_000.0) && near(first_gateway, 30_000.0),
            "{reply} {first_gateway}"
        );
    }

    /// One that never moves on.
    struct Stuck;

    impl Pattern for Stuck {
        fn next(&mut self, _: &mut Rng, last: Time) -> Time {
            last - Duration::from_secs(1)
        }
    }

    #[test]
    fn a_pattern_that_does_not_move_on_is_moved_on() {
        let mut slots = slots_of(vec![Stream::of(Class::Loop, Stuck)]);
        let times: Vec<Time> = (0..100).map(|_| slots.draw().at).collect();
        assert!(times.windows(2).all(|w| w[0] < w[1]), "{times:?}");
        let mut none = slots_of(Vec::new());
        assert_eq!(none.next_at(), Time::FAR_FUTURE);
        none.skip_to(START);
    }

    #[test]
    fn only_a_pattern_that_says_so_lets_data_move_a_slot() {
        for pattern in [profile::Pattern::Poisson, profile::Pattern::Constant] {
            let mut slots = slots_of(Stream::of_profile(&browse(pattern)));
            let next = slots.next_at();
            slots.hurry(START);
            assert_eq!(
                (slots.next_at(), slots.may_hurry_at()),
                (next, None),
                "{pattern:?}"
            );
        }
        let budget = profile::Pattern::DangerBudget { epoch_s: 1.5 };
        let mut slots = slots_of(Stream::of_profile(&browse(budget)));
        assert!(slots.may_hurry_at().is_some());
        slots.hurry(START);
        assert_eq!(slots.next_at(), START);
        assert!(matches!(slots.draw().what, What::Payload(..)));
        assert!(slots.may_hurry_at() > Some(START));
    }

    #[test]
    fn a_jump_of_the_clock_neither_stops_the_slots_nor_makes_up_for_any() {
        let mut slots = slots();
        let next = slots.next_at();
        slots.shift_back(Duration::from_secs(900));
        assert_eq!(slots.next_at(), next - Duration::from_secs(900));
        let later = Time::from_s(90_000);
        slots.skip_to(later);
        assert!(slots.next_at() >= later);
        let mut n = 0;
        while slots.next_at() < later + Duration::from_secs(1) {
            slots.draw();
            n += 1;
        }
        assert!((20..80).contains(&n), "{n}, of a mean of 50");
    }
}
