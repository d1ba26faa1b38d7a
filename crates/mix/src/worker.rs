//! [`Worker`]: peels, refuses replays, holds each packet for its delay, and says where it goes next.
//!
//! Sans-I/O, and without a lock: several workers of one node, each in a thread of its own, share nothing but the
//! [`Key`]. Which of them takes a packet makes no difference, as they ask the same table of tags.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::{Counters, NodeId, Rng, Time};
use mizzle_sphinx::{ADDRESS_LEN, Dialect, ID_LEN, Packet, Peeled, Peeler, PublicKey, Rejected, SecretKey};

use crate::lateness::Lateness;
use crate::tags::{ReplayTags, Verdict};
use crate::wheel::{Due, Wheel};
use crate::{Config, JUMP};

/// A Sphinx key, and what was accepted under it. Shared by the workers of a node; the secret is overwritten when the
/// last of them lets go.
pub struct Key {
    peeler: Peeler,
    tags: ReplayTags,
}

impl Key {
    /// With the bounds of `config` on what it remembers.
    #[must_use]
    pub fn new(secret: SecretKey, dialect: Dialect, config: &Config) -> Self {
        Self {
            tags: ReplayTags::new(secret.expose_bytes(), config.expected_tags, config.replay_tags),
            peeler: Peeler::new(secret, dialect),
        }
    }

    /// Under which senders know it.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.peeler.public()
    }

    /// Tells it what earlier runs of the node wrote down ([`Worker::accepted`]), in any order and as many calls as are
    /// convenient.
    pub fn remember(&self, tags: &[u64]) {
        self.tags.remember(tags);
    }

    /// How many packets were accepted under it. Those of the last moment may be missing.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.tags.remembered()
    }

    /// How many may be ([`Config::with_replay_tags`]).
    #[must_use]
    pub fn most(&self) -> usize {
        self.tags.limit()
    }

    /// Whether it has ended early: there was no room to remember one more packet, so no further one is accepted.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.tags.is_full()
    }
}

/// What a profile makes of a header: where to, and how long it waits.
pub trait Routing {
    /// What names the next node for the shell.
    type Hop: Copy;

    /// The next node by its address block; none if nothing is forwarded there, whatever the reason.
    fn next_hop(&self, address: &[u8; ADDRESS_LEN]) -> Option<Self::Hop>;

    /// How long a packet is held whose delay field is `delay_ms`: that itself in the `loopix` profile, in the `libp2p` one
    /// a draw with that mean.
    fn delay(&self, rng: &mut Rng, delay_ms: u16) -> Duration;
}

/// What a worker is told.
pub enum Input<'a, H = NodeId> {
    /// Packets arrived. They are taken out of the vector. Peeled as one batch; the order of arrival doesn't matter to what
    /// leaves when.
    Packets(&'a mut Vec<Packet>),
    /// A packet of the node itself leaves at a time, among the others.
    Hold {
        /// When.
        at: Time,
        /// Where to.
        to: H,
        /// 4608 bytes, for the link.
        packet: Packet,
    },
    /// What came after this moment was perhaps let in alone, to see where it goes ([`crate::Loops::check`]): it is dropped. What
    /// the node itself sends is not.
    Isolated {
        /// When the last packet came that is known not to be the attacker's choice.
        since: Time,
    },
    /// Time passed.
    Tick,
}

/// What a worker is done with.
pub enum Outcome<H = NodeId> {
    /// Its delay is over: send it there, now.
    Forward {
        /// Where to.
        to: H,
        /// 4608 bytes, for the link.
        packet: Packet,
    },
    /// This node is the last hop of a message; its 3968 bytes are [`Packet::message`].
    Exit {
        /// For whom, as the sender wrote it.
        destination: [u8; ADDRESS_LEN],
        /// The packet.
        packet: Packet,
    },
    /// A packet on somebody's SURB, at its last hop; what is for him is [`Packet::payload`].
    Reply {
        /// The id in the SURB.
        id: [u8; ID_LEN],
        /// The packet.
        packet: Packet,
    },
}

/// Peels, refuses replays, holds each packet for its delay, and says where it goes next. One of several with a [`Key`], or
/// the only one.
pub struct Worker<R: Routing> {
    /// The current one first; two at most.
    keys: Vec<Alive>,
    routing: R,
    wheel: Wheel<R::Hop>,
    /// Of delays drawn here, and of the order in which packets of one moment leave.
    rng: Rng,
    told: Time,
    outcomes: VecDeque<Outcome<R::Hop>>,
    /// Somebody writes tags down.
    tells_tags: bool,
    counters: Counters,
    late: Lateness,
    // Kept between batches, for their memory.
    results: Vec<Result<Peeled, Rejected>>,
    verdicts: Vec<Verdict>,
    not_under_first: Vec<Packet>,
}

/// A key under which packets are taken, and the tags that are to be written down.
struct Alive {
    key: Arc<Key>,
    accepted: Vec<u64>,
}

impl<R: Routing> Worker<R> {
    /// One of the workers with this key. `config` bounds what it holds, alone.
    #[must_use]
    pub fn new(config: &Config, key: Arc<Key>, routing: R, rng: Rng) -> Self {
        Self {
            keys: vec![Alive {
                key,
                accepted: Vec::new(),
            }],
            routing,
            wheel: Wheel::new(config.held_packets, config.tick),
            rng,
            told: Time::ZERO,
            outcomes: VecDeque::new(),
            tells_tags: false,
            counters: Counters::default(),
            late: Lateness::default(),
            results: Vec::new(),
            verdicts: Vec::new(),
            not_under_first: Vec::new(),
        }
    }

    /// Somebody writes down what it accepts: from here on [`Self::accepted`] says it.
    pub fn tags_are_written_down(&mut self) {
        self.tells_tags = true;
    }

    /// Where packets go. For a pool that changes.
    pub fn routing_mut(&mut self) -> &mut R {
        &mut self.routing
    }

    /// From now on packets are taken for these keys, the first two of them: the first is that of the epoch that it is, the
    /// second that of the one before or after it. With none, every packet is dropped and counted as `drop.key_is_over`. What
    /// [`Self::accepted`] said must have been taken before.
    ///
    /// All packets are tried under the first key. Those whose MAC is wrong there are tried once more, as one batch, under the
    /// second; which key a packet is for stands nowhere in it. So while two keys are alive a forged packet costs twice what
    /// it costs else (a point multiplication and a MAC), and a good one for the second key costs that much more.
    pub fn set_keys(&mut self, keys: &[Arc<Key>]) {
        let alive = |key: &Arc<Key>| Alive {
            key: Arc::clone(key),
            accepted: Vec::new(),
        };
        self.keys = keys.iter().take(2).map(alive).collect();
    }

    /// Tells it what happened at `now`. A bad packet is dropped and counted, nothing else.
    pub fn handle(&mut self, now: Time, input: Input<'_, R::Hop>) {
        if now < self.told {
            let back = self.told.since(now);
            // Set back for good, or an hour that was an error: what is held waits for what was left of its delay. By less
            // than that it will soon be what it was.
            self.wheel
                .rewind(now, if back > JUMP { back } else { Duration::ZERO });
        }
        self.told = now;
        let slept = self.wheel.deadline().map_or(Duration::ZERO, |due| now.since(due));
        if slept > JUMP {
            // The machine slept, or its processor was kept from it: all that was held would leave in one burst. It waits for what
            // is left of its delay instead, and nothing is lost.
            self.wheel.postpone(slept);
            self.count("pool.pause", 1);
        }
        match input {
            Input::Packets(packets) => self.take(now, packets),
            Input::Hold { at, to, packet } => self.hold(
                at.max(now),
                Due {
                    to,
                    packet,
                    is_own: true,
                    since: now,
                },
            ),
            Input::Isolated { since } => {
                let n = self.wheel.drop_after(since);
                self.count("drop.isolated", n as u64);
            }
            Input::Tick => {}
        }
        let (mut forwarded, outcomes, late) = (0, &mut self.outcomes, &mut self.late);
        self.wheel.pop_due(now, &mut self.rng, |due, by| {
            let Due {
                to, packet, is_own, ..
            } = due;
            forwarded += u64::from(!is_own);
            late.add(by);
            outcomes.push_back(Outcome::Forward { to, packet });
        });
        self.count("forwarded", forwarded);
    }

    /// The tags of packets that were accepted under the first key, to be written down before anything of [`Self::poll`] is
    /// done: a later run with the same key must not accept them again. Empty unless [`Self::tags_are_written_down`].
    #[must_use]
    pub fn accepted(&self) -> &[u64] {
        self.keys.first().map_or(&[], |alive| &alive.accepted)
    }

    /// The same under the second key.
    #[must_use]
    pub fn accepted_beside(&self) -> &[u64] {
        self.keys.get(1).map_or(&[], |alive| &alive.accepted)
    }

    /// What [`Self::accepted`] and [`Self::accepted_beside`] said was taken: written down, or kept by who will.
    pub fn clear_accepted(&mut self) {
        self.keys.iter_mut().for_each(|alive| alive.accepted.clear());
    }

    /// The next thing that it is done with; drain until `None`.
    #[must_use]
    pub fn poll(&mut self) -> Option<Outcome<R::Hop>> {
        self.outcomes.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.wheel.deadline()
    }

    /// What it did and dropped since the last call.
    #[must_use]
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    /// How much later than its time each packet left since the last call.
    #[must_use]
    pub fn take_lateness(&mut self) -> Lateness {
        std::mem::take(&mut self.late)
    }

    /// Packets held for their delay.
    #[must_use]
    pub fn pool(&self) -> usize {
        self.wheel.len()
    }

    fn take(&mut self, now: Time, packets: &mut Vec<Packet>) {
        self.count("received", packets.len() as u64);
        match self.keys.len() {
            0 => self.count("drop.key_is_over", packets.drain(..).len() as u64),
            1 => self.peel(now, 0, packets),
            _ => {
                self.peel(now, 0, packets);
                let mut others = std::mem::take(&mut self.not_under_first);
                if !others.is_empty() {
                    self.peel(now, 1, &mut others);
                }
                self.not_under_first = others;
            }
        }
    }

    /// Under one of the keys. What may be for the next one is left in `not_under_first`.
    fn peel(&mut self, now: Time, which: usize, packets: &mut Vec<Packet>) {
        let is_last = which + 1 == self.keys.len();
        let Some(Alive { key, accepted }) = self.keys.get_mut(which) else {
            return;
        };
        let has_ended = key.has_ended();
        if has_ended && is_last {
            return self.count("drop.replay_table_full", packets.drain(..).len() as u64);
        }
        self.results.clear();
        self.verdicts.clear();
        let verdicts = &mut self.verdicts;
        let mut accepted = self.tells_tags.then_some(accepted);
        let mut seen = |tags: &[_], known: &mut [bool]| {
            let before = verdicts.len();
            key.tags.admit(tags, verdicts, accepted.as_deref_mut());
            let new = verdicts[before..].iter();
            known
                .iter_mut()
                .zip(new)
                .for_each(|(known, v)| *known = *v != Verdict::New);
        };
        key.peeler.peel_batch(packets, &mut seen, &mut self.results);
        let results = std::mem::take(&mut self.results);
        // In the order of the packets that were asked about.
        let verdicts = std::mem::take(&mut self.verdicts);
        let mut refused = verdicts.iter().filter(|v| **v != Verdict::New);
        for (packet, result) in packets.drain(..).zip(&results) {
            match result {
                Err(Rejected::Replay) if refused.next() == Some(&Verdict::NoRoom) => {
                    self.count("drop.replay_table_full", 1);
                }
                // It is as it came.
                Err(Rejected::Mac) if !is_last => self.not_under_first.push(packet),
                Err(rejected) => self.count(rejected.as_str(), 1),
                Ok(Peeled::Forward { next, delay_ms }) => match self.routing.next_hop(next) {
                    None => self.count("drop.no_edge", 1),
                    Some(to) => {
                        let due = now + self.routing.delay(&mut self.rng, *delay_ms);
                        self.hold(
                            due,
                            Due {
                                to,
                                packet,
                                is_own: false,
                                since: now,
                            },
                        );
                    }
                },
                Ok(Peeled::Exit { destination }) => self.outcomes.push_back(Outcome::Exit {
                    destination: *destination,
                    packet,
                }),
                Ok(Peeled::Reply { id }) => self.outcomes.push_back(Outcome::Reply { id: *id, packet }),
            }
        }
        (self.results, self.verdicts) = (results, verdicts);
    }

    fn hold(&mut self, due: Time, what: Due<R::Hop>) {
        if !self.wheel.push(due, what) {
            self.count("drop.delay_queue_full", 1);
        }
    }

    fn count(&mut self, what: &'static str, n: u64) {
        if n > 0 {
            self.counters.add(what, n);
        }
    }
}
