//! The mix core: peels one layer, refuses replays, holds each packet for its delay, forwards it; sends its own
//! loops. Every node runs one; what it delivers locally goes to the gateway and exit cores beside it.
//!
//! Sans-I/O: `handle` is told what happened and when, `poll` says what to do, `deadline` when to call again. Loopix
//! section 4 and the design's "One packet, two profiles". Sockets, and who may send to whom on a link, are
//! `mizzle-net`'s; here a packet's *next* hop is checked.
//!
//! A [`Worker`] does what is done to every packet; a node runs one or several beside its [`Loops`]. [`Mix`] is both in
//! one, for a shell with one thread, like the simulator. Which keys it has when, and how they are erased, is the [`Ring`]'s. What a header's address and delay mean is the worker's
//! [`Routing`]: [`Edges`] of the network document here, a pool in the `libp2p` profile.

mod document;
mod lateness;
mod loops;
mod ring;
mod tags;
mod wheel;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::{Counters, Document, NodeId, Rng, Time};
use mizzle_sphinx::{Dialect, Packet, SecretKey};
use mizzle_traffic::draw;
use mizzle_traffic::ledger::Tally;
use mizzle_traffic::weights::Said;
use rand_core::SeedableRng as _;

pub use document::Edges;
pub use lateness::Lateness;
pub use loops::{Alarms, Delivered, Loop, Loops, NotOurs, OWN_IN_POOL};
pub use ring::{NodeKeys, Ratchet, Ring, TooEarly, Turn};
pub use tags::{ReplayTags, Verdict};
pub use worker::{Input as WorkerInput, Key, Outcome, Routing, Worker};

/// A clock that moves by more than this between two calls, either way, has jumped.
const JUMP: Duration = Duration::from_secs(1);

/// Bounds of a mix core.
#[derive(Clone, Debug)]
pub struct Config {
    held_packets: usize,
    replay_tags: usize,
    expected_tags: usize,
    tick: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            held_packets: 65_536,
            replay_tags: 1 << 26,
            expected_tags: 1 << 18,
            tick: Duration::from_micros(1),
        }
    }
}

impl Config {
    /// Most packets held for their delay; 4.7 KB each, 310 MB at the default of 65,536. Beyond it an arriving
    /// packet is dropped and counted as `drop.delay_queue_full`.
    #[must_use]
    pub fn with_held_packets(mut self, n: usize) -> Self {
        self.held_packets = n;
        self
    }

    /// Most packets accepted under one key; 11 bytes each, 0.72 GB at the default of 2²⁶ once they came. Beyond it the key
    /// has ended: every packet is dropped and counted as `drop.replay_table_full`, since forgetting a tag would let a packet
    /// pass twice.
    #[must_use]
    pub fn with_replay_tags(mut self, n: usize) -> Self {
        self.replay_tags = n;
        self
    }

    /// For how many of them there is room from the start; default 2¹⁸, 2.8 MB. With more there are up to four places to look
    /// each of them up in, as the table grows by parts: where the number is known, saying it saves that.
    #[must_use]
    pub fn with_expected_tags(mut self, n: usize) -> Self {
        self.expected_tags = n;
        self
    }

    /// For one of `workers` that hold equal shares of the packets.
    #[must_use]
    pub fn divided(mut self, workers: usize) -> Self {
        self.held_packets = self.held_packets.div_ceil(workers.max(1));
        self
    }

    /// Packets leave at whole multiples of this, the first after their delay, in random order; default 1 µs. A shell whose
    /// timers are coarser says how coarse, so that it is woken once for all of them.
    #[must_use]
    pub fn with_tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
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

/// A mix core with one worker; see the [crate](self).
pub struct Mix {
    worker: Worker<Edges>,
    keys: Vec<Arc<Key>>,
    loops: Loops,
    told: Time,
    late: Lateness,
    actions: VecDeque<Action>,
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
        let of_loops = Rng::from_seed(draw::bytes(&mut rng));
        let loops = Loops::new(Arc::clone(&document), &me, &secret.public(), of_loops, now)?;
        let edges = Edges::from(&document, loops.node());
        let key = Arc::new(Key::new(secret, Dialect::Lioness, &config));
        Ok(Self {
            worker: Worker::new(&config, Arc::clone(&key), edges, rng),
            keys: vec![key],
            loops,
            told: now,
            late: Lateness::default(),
            actions: VecDeque::new(),
            counters: Counters::default(),
        })
    }

    /// Tells the core which tags earlier runs with the same key wrote down. From here on it asks for its own to be written
    /// down too, with [`Action::Accepted`].
    pub fn remember(&mut self, tags: &[u64]) {
        self.keys.iter().for_each(|key| key.remember(tags));
        self.worker.tags_are_written_down();
    }

    /// From now on packets are taken for these keys, see [`Worker::set_keys`]. Its own loops turn by themselves.
    pub fn set_keys(&mut self, keys: &[Arc<Key>]) {
        self.keys = keys.to_vec();
        self.worker.set_keys(keys);
    }

    /// From now on this is the network document: one that [continues](Document::continues) the one before.
    pub fn set_document(&mut self, document: Arc<Document>) {
        self.loops.set_document(document);
    }

    /// Tells the core what happened at `now`. A bad packet is dropped and counted, nothing else.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.told.since(now) > JUMP {
            self.loops.set_back(now);
        }
        self.told = now;
        match input {
            Input::Packets(mut packets) => self.worker.handle(now, WorkerInput::Packets(&mut packets)),
            Input::Tick => self.worker.handle(now, WorkerInput::Tick),
        }
        if !self.worker.accepted().is_empty() || !self.worker.accepted_beside().is_empty() {
            // Under whichever key: to know a tag under another one does no harm.
            let accepted = [self.worker.accepted(), self.worker.accepted_beside()].concat();
            self.worker.clear_accepted();
            self.actions.push_back(Action::Accepted(accepted));
        }
        while let Some(outcome) = self.worker.poll() {
            let delivered = match outcome {
                Outcome::Forward { to, packet } => {
                    self.actions.push_back(Action::Forward { to, packet });
                    continue;
                }
                Outcome::Exit { destination, packet } => self.loops.exit(&destination, packet),
                Outcome::Reply { id, packet } => self.loops.reply(now, id, packet),
            };
            self.actions.extend(delivered.map(Action::Deliver));
        }
        self.late.merge(&self.worker.take_lateness());
        self.loops.tell_lateness(now, &self.late);
        if let Some(since) = self.loops.check(now) {
            self.worker.handle(now, WorkerInput::Isolated { since });
        }
        while let Some(Loop { at, to, packet }) = self.loops.take(now, now) {
            if at > now {
                self.worker.handle(now, WorkerInput::Hold { at, to, packet });
            } else {
                self.actions.push_back(Action::Forward { to, packet });
            }
        }
        self.counters.merge(&self.worker.take_counters());
        self.counters.merge(&self.loops.take_counters());
    }

    /// The next thing to do; drain until `None`.
    #[must_use]
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        [
            self.worker.deadline(),
            self.loops.next_at(),
            self.loops.check_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What it did and dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What became of its own loops.
    #[must_use]
    pub fn loops(&self) -> Tally {
        self.loops.tally()
    }

    /// How it stands with its alarm.
    #[must_use]
    pub fn alarms(&self) -> Alarms {
        self.loops.alarms()
    }

    /// What its loops tell of other nodes, as it is published.
    #[must_use]
    pub fn said(&self, now: Time) -> BTreeMap<NodeId, Said> {
        self.loops.said(now)
    }

    /// Packets held for their delay: the pool.
    #[must_use]
    pub fn pool(&self) -> usize {
        self.worker.pool()
    }

    /// Whether its key has ended early, see [`Key::has_ended`].
    #[must_use]
    pub fn key_has_ended(&self) -> bool {
        self.keys.first().is_none_or(|key| key.has_ended())
    }
}
