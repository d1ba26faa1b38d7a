//! The slots of a client: at each tick first a gateway, then a kind, and only then does anyone look at a queue.
//!
//! Design, Traffic: provider-slotted sending. It closes the leak of Loopix in which real messages go to the
//! correspondent's provider and drops to a uniform one, so that the rate towards one gateway tells who is talked to.

use std::time::Duration;

use mizzle_base::{Document, NodeId, Profile, Rng, Time};

use crate::draw;
use crate::pattern::{Pattern, Poisson};

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
pub struct Slots<P = Poisson> {
    rng: Rng,
    reply_fraction: f64,
    gateways: Vec<NodeId>,
    weights: Vec<f64>,
    // Payload, loop, drop: each its own process, as in Loopix.
    streams: [(P, Time); 3],
}

impl Slots<Poisson> {
    /// The three Poisson streams of a client, beginning at `start`.
    #[must_use]
    pub fn new(document: &Document, rng: Rng, start: Time) -> Self {
        let profile = document.profile();
        let streams = rates(profile).map(|per_s| Poisson { per_s });
        Self::with_patterns(document, rng, start, streams)
    }
}

fn rates(profile: &Profile) -> [f64; 3] {
    [profile.payload_per_s, profile.loop_per_s, profile.drop_per_s]
}

impl<P: Pattern> Slots<P> {
    /// Other patterns in time for payload, loops and drops; gateways and kinds stay the document's.
    pub fn with_patterns(document: &Document, mut rng: Rng, start: Time, patterns: [P; 3]) -> Self {
        let streams = patterns.map(|mut pattern| {
            let first = pattern.next(&mut rng, start);
            (pattern, first)
        });
        Self {
            rng,
            reply_fraction: document.profile().reply_fraction,
            gateways: document.gateways().map(|g| g.id).collect(),
            weights: document.gateways().map(|g| g.weight).collect(),
            streams,
        }
    }

    /// When the next slot is.
    #[must_use]
    pub fn next_at(&self) -> Time {
        self.streams.iter().map(|s| s.1).min().unwrap_or(Time::FAR_FUTURE)
    }

    /// Draws the next slot. Always the same draws in the same order, whatever becomes of the slot.
    pub fn draw(&mut self) -> Slot {
        let at = self.next_at();
        let stream = self.streams.iter().position(|s| s.1 == at).unwrap_or(0);
        let (pattern, next) = &mut self.streams[stream];
        *next = pattern.next(&mut self.rng, at);
        let what = match stream {
            0 => {
                let gateway = self.gateway();
                let kind = if draw::unit(&mut self.rng) <= self.reply_fraction {
                    Kind::Reply
                } else {
                    Kind::Data
                };
                What::Payload(gateway, kind)
            }
            1 => What::Loop,
            _ => What::Drop(self.gateway()),
        };
        Slot { at, what }
    }

    /// Leaves out all slots before `now` (the clock jumped, or nothing ran): they are not made up for, and the streams go
    /// on from `now`.
    pub fn skip_to(&mut self, now: Time) {
        for (pattern, next) in &mut self.streams {
            if *next < now {
                *next = pattern.next(&mut self.rng, now);
            }
        }
    }

    /// The clock was set back by so much: the slots move with it, or there would be none until it is where it was.
    pub fn shift_back(&mut self, by: Duration) {
        self.streams.iter_mut().for_each(|(_, next)| *next = *next - by);
    }

    fn gateway(&mut self) -> NodeId {
        self.gateways[draw::weighted(&mut self.rng, &self.weights)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    /// Payload at 40 a second, loops and drops at 5.
    fn slots() -> Slots {
        let mut rng = Rng::seed_from_u64(7);
        let streams = rates(&Profile::browse()).map(|per_s| {
            let mut pattern = Poisson { per_s };
            let first = pattern.next(&mut rng, Time::from_s(1_000));
            (pattern, first)
        });
        let gateways = vec![NodeId::new([1; 32]), NodeId::new([2; 32])];
        Slots {
            rng,
            reply_fraction: 0.25,
            gateways,
            weights: vec![3.0, 1.0],
            streams,
        }
    }

    #[test]
    fn slots_come_in_order_with_their_rates_weights_and_kinds() {
        let (mut slots, mut last) = (slots(), Time::ZERO);
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
