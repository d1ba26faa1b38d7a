//! The slots of a client: at each tick first a gateway, then a kind, and only then does anyone look at a queue.
//!
//! Design, Traffic: provider-slotted sending. It closes the leak of Loopix in which real messages go to the
//! correspondent's provider and drops to a uniform one, so that the rate towards one gateway tells who is talked to.

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
                let kind =
                    if draw::unit(&mut self.rng) <= self.reply_fraction { Kind::Reply } else { Kind::Data };
                What::Payload(gateway, kind)
            }
            1 => What::Loop,
            _ => What::Drop(self.gateway()),
        };
        Slot { at, what }
    }

    /// Leaves out all slots before `now` (the clock jumped, or nothing ran): they are not made up for.
    /// Returns how many payload slots were due at most; the streams go on from `now`.
    pub fn skip_to(&mut self, now: Time) -> u64 {
        let mut skipped = 0;
        for (pattern, next) in &mut self.streams {
            if *next < now {
                skipped += 1;
                *next = pattern.next(&mut self.rng, now);
            }
        }
        skipped
    }

    fn gateway(&mut self) -> NodeId {
        self.gateways[draw::weighted(&mut self.rng, &self.weights)]
    }
}
