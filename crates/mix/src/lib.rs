//! The mix core: peels one layer, refuses replays, holds each packet for its delay, forwards it; sends its own
//! loops. Every node runs one; what it delivers locally goes to the gateway and exit cores beside it.
//!
//! Sans-I/O: [`Mix::handle`] is told what happened and when, [`Mix::poll`] says what to do, [`Mix::deadline`] when to
//! call again. Loopix section 4 and the design's "One packet, two profiles". Sockets, and who may send
//! to whom on a link, are `mizzle-net`'s; here a packet's *next* hop is checked.

mod delay;
mod replay;

use std::collections::{BTreeSet, VecDeque};
use std::iter::zip;
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::document::Node;
use mizzle_base::{ClientTag, Counters, Document, MailboxId, NodeId, Rng, Time};
use mizzle_sphinx::{Dialect, MESSAGE_LEN, Packet, Peeled, Peeler, SecretKey, build_surb, use_surb};
use mizzle_traffic::draw;
use mizzle_traffic::ledger::{Ledger, Tally};
use mizzle_traffic::pattern::{Pattern, Poisson};
use mizzle_traffic::route::Route;
use rand_core::{Rng as _, SeedableRng as _};

use delay::DelayQueue;
use replay::ReplayTags;

/// A clock that moves by more than this between two calls, either way, has jumped.
const JUMP: Duration = Duration::from_secs(1);

/// Bounds of a mix core.
#[derive(Clone, Debug)]
pub struct Config {
    held_packets: usize,
    replay_tags: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            held_packets: 65_536,
            replay_tags: 1 << 26,
        }
    }
}

impl Config {
    /// Most packets held for their delay; 4.7 KB each, 300 MB at the default of 65,536. Beyond it an arriving packet is
    /// dropped and counted as `drop.delay_queue_full`.
    #[must_use]
    pub fn with_held_packets(mut self, n: usize) -> Self {
        self.held_packets = n;
        self
    }

    /// Most packets accepted under one key; 11 to 18 bytes each once they came, 1.2 GB at the default of 2²⁶.
    /// Beyond it every packet is dropped as a replay, and `replay_table_full` counts: forgetting a tag would let a
    /// packet pass twice.
    #[must_use]
    pub fn with_replay_tags(mut self, n: usize) -> Self {
        self.replay_tags = n;
        self
    }
}

/// What a mix core is told.
pub enum Input {
    /// Packets arrived. Peeled as one batch; order of arrival doesn't matter to what leaves when.
    Packets(Vec<Packet>),
    /// Time passed.
    Tick,
}

/// What a mix core wants done.
pub enum Action {
    /// Write these tags down before anything that follows is done: their packets must not be accepted again by a later run
    /// with the same key. Only after [`Mix::remember`].
    Accepted(Vec<u64>),
    /// Send the packet to that node, now.
    Forward {
        /// A node to which this one has an edge in the document.
        to: NodeId,
        /// 4608 bytes, for the link.
        packet: Packet,
    },
    /// This node is the packet's last hop.
    Deliver(Delivered),
}

/// A packet at its last hop.
pub enum Delivered {
    /// A message; its 3968 bytes are [`Packet::message`].
    Message {
        /// For whom, at this gateway.
        mailbox: MailboxId,
        /// The packet.
        packet: Packet,
    },
    /// A packet on somebody's SURB; what is for him is [`Packet::payload`].
    Reply {
        /// The id in the SURB.
        id: [u8; 16],
        /// The packet.
        packet: Packet,
    },
}

/// The document doesn't list this node, or lists it with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// No such id.
    #[error("the network document doesn't list this node")]
    NotListed,
    /// Another key.
    #[error("the network document lists this node with another Sphinx key")]
    OtherKey,
}

struct PreparedLoop {
    at: Time,
    id: [u8; 8],
    delay_ms: u32,
    to: NodeId,
    packet: Packet,
}

/// A mix core; see the [crate](self).
pub struct Mix {
    document: Arc<Document>,
    me: Node,
    next_hops: BTreeSet<NodeId>,
    peeler: Peeler,
    replay: ReplayTags,
    delays: DelayQueue,
    /// Of loops alone: when and where they go is the same whatever else passes through.
    loop_rng: Rng,
    /// Of the order in which packets of one moment leave.
    rng: Rng,
    told: Time,
    loops: Poisson,
    own_tag: ClientTag,
    prepared: Option<PreparedLoop>,
    ledger: Ledger,
    actions: VecDeque<Action>,
    results: Vec<Result<Peeled, mizzle_sphinx::Rejected>>,
    counters: Counters,
}

impl Mix {
    /// A node of the document, with the secret of its Sphinx key. Its loops begin at `now`.
    ///
    /// # Errors
    /// When the document knows it otherwise.
    pub fn new(
        config: Config,
        document: Arc<Document>,
        me: NodeId,
        secret: SecretKey,
        mut rng: Rng,
        now: Time,
    ) -> Result<Self, NotOurs> {
        let node = document.node(&me).ok_or(NotOurs::NotListed)?.clone();
        if secret.public() != node.sphinx_key {
            return Err(NotOurs::OtherKey);
        }
        let replay = ReplayTags::new(secret.expose_bytes(), config.replay_tags);
        let profile = document.profile();
        // Due is when its drawn delays are over. One that is later by a whole further path, and a second for links and
        // queues, was blocked.
        let patience = profile.path_q999(4) + Duration::from_secs(1);
        let mut mix = Self {
            next_hops: document.next_hops(&node).iter().map(|n| n.id).collect(),
            peeler: Peeler::new(secret, Dialect::Lioness),
            replay,
            delays: DelayQueue::new(config.held_packets),
            told: now,
            loops: Poisson {
                per_s: profile.node_loop_per_s,
            },
            own_tag: ClientTag(draw::bytes(&mut rng)),
            prepared: None,
            ledger: Ledger::new(patience, 65_536),
            actions: VecDeque::new(),
            results: Vec::new(),
            counters: Counters::default(),
            me: node,
            document,
            loop_rng: Rng::from_seed(draw::bytes(&mut rng)),
            rng,
        };
        mix.prepare_loop(now);
        Ok(mix)
    }

    /// Tells the core which tags earlier runs with the same key wrote down. From here on it asks for its own to be written
    /// down too, with [`Action::Accepted`].
    pub fn remember(&mut self, tags: impl IntoIterator<Item = u64>) {
        self.replay.remember(tags);
    }

    /// Tells the core what happened at `now`. A bad packet is dropped and counted, nothing else.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.told.since(now) > JUMP {
            // The clock was set back. No loop until it is where it was would be a silence that tells of it; the
            // process has no memory, so the next one may as well be drawn again. What is held goes on as if nothing were.
            self.prepare_loop(now);
            self.delays.shift_back(self.told.since(now));
        }
        self.told = now;
        match input {
            Input::Packets(packets) => self.peel(now, packets),
            Input::Tick => {}
        }
        self.emit_due(now);
    }

    /// The next thing to do; drain until `None`.
    #[must_use]
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let next_loop = self.prepared.as_ref().map(|l| l.at);
        [self.delays.deadline(), next_loop].into_iter().flatten().min()
    }

    /// What it did and dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What became of its own loops.
    #[must_use]
    pub fn loops(&self) -> Tally {
        self.ledger.tally()
    }

    /// Packets held for their delay: the pool.
    #[must_use]
    pub fn pool(&self) -> usize {
        self.delays.len()
    }

    fn peel(&mut self, now: Time, mut packets: Vec<Packet>) {
        self.counters.add("received", packets.len() as u64);
        let (replay, peeler) = (&mut self.replay, &self.peeler);
        self.results.clear();
        let mut seen = |tags: &[_], known: &mut [bool]| {
            zip(tags, known).for_each(|(tag, known)| *known = replay.seen(tag));
        };
        peeler.peel_batch(&mut packets, &mut seen, &mut self.results);
        let results = std::mem::take(&mut self.results);
        let accepted = self.replay.take_accepted();
        if !accepted.is_empty() {
            self.actions.push_back(Action::Accepted(accepted));
        }
        for (packet, result) in packets.into_iter().zip(&results) {
            match result {
                Err(rejected) => self.counters.count(rejected.as_str()),
                Ok(Peeled::Forward { next, delay_ms }) => {
                    // A stranger, a private address, a skipped layer: all the same nowhere.
                    match NodeId::from_address(next).filter(|id| self.next_hops.contains(id)) {
                        None => self.counters.count("drop.no_edge"),
                        Some(to) => {
                            let due = now + Duration::from_millis((*delay_ms).into());
                            let shuffle = self.rng.next_u64();
                            if !self.delays.push(due, shuffle, to, packet) {
                                self.counters.count("drop.delay_queue_full");
                            }
                        }
                    }
                }
                Ok(Peeled::Exit { destination }) => match MailboxId::from_address(destination) {
                    None => self.counters.count("drop.no_destination"),
                    Some(mailbox) => self.deliver(Delivered::Message { mailbox, packet }),
                },
                Ok(Peeled::Reply { id }) => {
                    let (tag, random) = ClientTag::split(id);
                    if tag != self.own_tag {
                        self.deliver(Delivered::Reply { id: *id, packet });
                    } else if self.ledger.returned(now, random).is_some() {
                        self.counters.count("loop.returned");
                    } else {
                        self.counters.count("drop.loop_too_late");
                    }
                }
            }
        }
        self.results = results;
        if self.replay.take_overflowed() {
            self.counters.count("replay_table_full");
        }
    }

    fn deliver(&mut self, delivered: Delivered) {
        if self.me.layer != 0 {
            // Only gateways are a last hop for others.
            return self.counters.count("drop.not_a_gateway");
        }
        self.counters.count("delivered");
        self.actions.push_back(Action::Deliver(delivered));
    }

    fn emit_due(&mut self, now: Time) {
        while let Some((to, packet)) = self.delays.pop_due(now) {
            self.counters.count("forwarded");
            self.actions.push_back(Action::Forward { to, packet });
        }
        // Nothing is later than `FAR_FUTURE`, so a loop after it would be at it again, for ever.
        while let Some(next) = self.prepared.take_if(|l| l.at <= now && l.at < Time::FAR_FUTURE) {
            // After a pause (a suspended machine) loops go on from now; a burst of them would tell of the pause. The
            // one that was ready leaves now, and isn't overdue for that.
            let at = if now.since(next.at) > JUMP { now } else { next.at };
            self.ledger.sent(at, next.id, next.delay_ms);
            self.counters.count("loop.sent");
            self.actions.push_back(Action::Forward {
                to: next.to,
                packet: next.packet,
            });
            self.prepare_loop(at);
        }
        self.ledger.expire(now);
    }

    /// Builds the next loop ahead of its time: what leaves at a tick is ready before it.
    fn prepare_loop(&mut self, last: Time) {
        let at = self.loops.next(&mut self.loop_rng, last);
        let random = draw::bytes(&mut self.loop_rng);
        let route = Route::around(&mut self.loop_rng, &self.document, &self.me);
        let (Some(first), delay_ms) = (route.first(), route.delay_ms()) else {
            return;
        };
        let id = self.own_tag.reply_id(random);
        let Ok((surb, _)) = build_surb(Dialect::Lioness, &mut self.loop_rng, &route.hops(), &id) else {
            return self.counters.count("loop.unbuilt");
        };
        let mut packet = Packet::zeroed();
        let mut message = [0; MESSAGE_LEN];
        self.loop_rng.fill_bytes(&mut message);
        use_surb(Dialect::Lioness, surb, &message, &mut packet);
        self.prepared = Some(PreparedLoop {
            at,
            id: random,
            delay_ms,
            to: first.id,
            packet,
        });
    }
}
