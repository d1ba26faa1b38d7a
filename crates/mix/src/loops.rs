//! [`Loops`]: a node's own loops, and what becomes of packets at their last hop: its own come home here, the others are
//! handed to the gateway and exit cores beside it.
//!
//! Loopix section 4.3. Which loops leave when is the same whatever else passes through the node: a generator of their
//! own, and nothing here is told of other packets on their way. Only an [alarm](mizzle_traffic::alarm) adds to them: cover that waits
//! among the packets of others, as one that was let in alone has nobody else to be taken for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::document::Node;
use mizzle_base::{ClientTag, Counters, Document, MailboxId, NodeId, Rng, Time};
use mizzle_sphinx::{ADDRESS_LEN, Dialect, ID_LEN, MESSAGE_LEN, Packet, PublicKey, build_surb, use_surb};
use mizzle_traffic::alarm::{self, Alarm, Found, Rule};
use mizzle_traffic::draw;
use mizzle_traffic::estimate::Estimate;
use mizzle_traffic::ledger::{Ledger, Tally};
use mizzle_traffic::pattern::{Pattern, Poisson};
use mizzle_traffic::route::Route;
use mizzle_traffic::weights::Said;
use rand_core::{Rng as _, SeedableRng as _};

use crate::{JUMP, Lateness};

/// Loops that are out at a time, of which is kept track.
const MOST_OUT: usize = 65_536;

/// Packets of the node itself that are among those of others while an alarm is on.
pub const OWN_IN_POOL: usize = 20;
/// How old what is known of dead nodes may be; finding it out takes a millisecond.
const DOWN_EVERY: Duration = Duration::from_secs(1);

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
        id: [u8; ID_LEN],
        /// The packet.
        packet: Packet,
    },
}

/// A loop that leaves.
pub struct Loop {
    /// When.
    pub at: Time,
    /// The node after this one.
    pub to: NodeId,
    /// For the link.
    pub packet: Packet,
}

struct Prepared {
    id: [u8; 8],
    delay_ms: u32,
    along: Vec<NodeId>,
    what: Loop,
}

/// How it stands with a node's alarm.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Alarms {
    /// How many were raised.
    pub raised: u64,
    /// Whether one is on: nothing came home since.
    pub is_on: bool,
    /// When the last one was raised.
    pub last: Option<Time>,
    /// By how much this machine was late of late, at the most; loops are given twice as much longer. Below 10 ms it is zero.
    pub own_late: Duration,
}

/// A node's own loops, and what becomes of packets at their last hop, here.
pub struct Loops {
    document: Arc<Document>,
    me: Node,
    rng: Rng,
    pattern: Poisson,
    own_tag: ClientTag,
    /// The next one, built ahead of its time: what leaves at a tick is ready before it.
    prepared: Option<Prepared>,
    ledger: Ledger,
    alarm: Alarm,
    alarms: Alarms,
    /// Of an alarm: to be taken, and when those leave that were.
    cover: VecDeque<Loop>,
    in_pool: Vec<Time>,
    /// Nodes through which nothing comes, as of when.
    down: (Time, BTreeSet<NodeId>),
    /// What was told of packets that left late.
    late_told: Lateness,
    counters: Counters,
}

impl Loops {
    /// Of a node of the document, with this Sphinx key. They begin at `now`.
    ///
    /// # Errors
    /// When the document knows it otherwise.
    pub fn new(
        document: Arc<Document>,
        me: &NodeId,
        key: &PublicKey,
        mut rng: Rng,
        now: Time,
    ) -> Result<Self, NotOurs> {
        let me = document.node(me).ok_or(NotOurs::NotListed)?.clone();
        if *key != me.sphinx_key {
            return Err(NotOurs::OtherKey);
        }
        let profile = document.profile();
        // Due is when its drawn delays are over. One that is later by a whole further path, and a second for links and
        // queues, was blocked.
        let patience = profile.path_q999(4) + Duration::from_secs(1);
        let mut loops = Self {
            pattern: Poisson {
                per_s: profile.node_loop_per_s,
            },
            own_tag: ClientTag(draw::bytes(&mut rng)),
            prepared: None,
            ledger: Ledger::new(patience, MOST_OUT),
            alarm: Alarm::new(
                Rule::new(profile.node_loop_per_s, alarm::LOSS, alarm::FALSE_ALARMS_PER_H),
                patience,
                now,
            ),
            alarms: Alarms::default(),
            cover: VecDeque::new(),
            in_pool: Vec::new(),
            down: (now, BTreeSet::new()),
            late_told: Lateness::default(),
            counters: Counters::default(),
            rng: Rng::from_seed(draw::bytes(&mut rng)),
            document,
            me,
        };
        loops.prepare(now);
        Ok(loops)
    }

    /// The node whose they are.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.me
    }

    /// When the next one leaves.
    #[must_use]
    pub fn next_at(&self) -> Option<Time> {
        self.prepared.as_ref().map(|l| l.what.at)
    }

    /// When to [`Self::check`] at the latest.
    #[must_use]
    pub fn check_at(&self) -> Option<Time> {
        self.alarm.deadline()
    }

    /// How late packets have left here, in all. What is new of it counts in the next [`Self::check`]: a machine that lets packets go
    /// late may send its own loops late and hear them late.
    pub fn tell_lateness(&mut self, now: Time, late: &Lateness) {
        let new = late.since(&self.late_told);
        if new.count() > 0 {
            self.late_told = late.clone();
            self.was_late(now, new.quantile(1.0).unwrap_or_default());
        }
    }

    fn was_late(&mut self, now: Time, by: Duration) {
        if self.alarm.late(now, by) {
            self.counters.count("alarm.own_lateness");
        }
    }

    /// Looks for loops that are due and missing. A time means that an alarm is raised: nothing came since but what an attacker let
    /// in, so what was admitted after it is to be dropped ([`crate::WorkerInput::Isolated`]). Tell what came home before.
    ///
    /// That is asked for once in each time without a loop: who can tell loops from other packets and drops them alone could else
    /// silence the node, and now can no more than by dropping what comes to it. Until one comes home there are
    /// [`OWN_IN_POOL`] packets of its own among those that it goes on to serve; [`Self::take`] has them.
    pub fn check(&mut self, now: Time) -> Option<Time> {
        // One that should have left by now tells of a pause in which nothing was heard, too.
        let overdue = self.next_at().map_or(Duration::ZERO, |at| now.since(at));
        self.was_late(now, overdue);
        self.ledger.expire(now);
        self.look_who_is_down(now);
        let (ledger, down) = (&self.ledger, &self.down.1);
        let is_explained = |id: &[u8; 8]| ledger.along(id).iter().any(|node| down.contains(node));
        let found = self.alarm.check(now, is_explained)?;
        self.alarms.is_on = true;
        self.in_pool.retain(|leaves| *leaves > now);
        for _ in self.in_pool.len()..OWN_IN_POOL {
            let at = now + self.delay();
            let Some(one) = self.build(at) else { break };
            self.in_pool.push(at);
            self.ledger.sent_along(at, one.id, one.delay_ms, one.along);
            self.cover.push_back(one.what);
            self.counters.count("loop.cover");
        }
        match found {
            Found::GoesOn => None,
            Found::Raised { since } => {
                self.alarms.raised += 1;
                self.alarms.last = Some(now);
                self.counters.count("alarm.raised");
                Some(since)
            }
        }
    }

    /// How it stands with its alarm.
    #[must_use]
    pub fn alarms(&self) -> Alarms {
        Alarms {
            own_late: self.alarm.own_late(),
            ..self.alarms
        }
    }

    /// The nodes through which nothing comes, as of the last second in which loops were looked for.
    #[must_use]
    pub fn down(&self) -> &BTreeSet<NodeId> {
        &self.down.1
    }

    /// What its loops tell of other nodes, of late.
    #[must_use]
    pub fn estimates(&self, now: Time) -> BTreeMap<NodeId, Estimate> {
        self.ledger.estimates(now)
    }

    /// The same as it is published ([`mizzle_traffic::weights`]).
    #[must_use]
    pub fn said(&self, now: Time) -> BTreeMap<NodeId, Said> {
        let said = |(node, estimate): (NodeId, Estimate)| {
            let is_down = self.ledger.is_down(&node);
            (node, Said::of(&estimate, is_down))
        };
        self.ledger.estimates(now).into_iter().map(said).collect()
    }

    /// The next one, if it leaves by `until`: that is `now`, or a little ahead where somebody holds it until then. What an alarm
    /// adds leaves later, and waits among the packets of others.
    pub fn take(&mut self, now: Time, until: Time) -> Option<Loop> {
        if let Some(turned) = self.document.turned(now) {
            self.set_document(Arc::new(turned));
        }
        self.ledger.expire(now);
        if let Some(cover) = self.cover.pop_front() {
            return Some(cover);
        }
        // Nothing is later than `FAR_FUTURE`, so a loop after it would be at it again, for ever.
        let Prepared {
            id,
            delay_ms,
            along,
            mut what,
        } = self
            .prepared
            .take_if(|l| l.what.at <= until && l.what.at < Time::FAR_FUTURE)?;
        // After a pause (a suspended machine) loops go on from now; a burst of them would tell of the pause. The
        // one that was ready leaves now, and isn't overdue for that.
        if now.since(what.at) > JUMP {
            what.at = now;
        }
        // One that this machine sends late is due that much later, and nobody else's fault.
        let leaves = what.at.max(now);
        self.was_late(now, now.since(what.at));
        let due = leaves + Duration::from_millis(delay_ms.into());
        if self.ledger.sent_along(leaves, id, delay_ms, along) {
            self.alarm.sent(id, due);
        }
        self.counters.count("loop.sent");
        self.prepare(what.at);
        Some(what)
    }

    /// From now on this is the network document: one that [continues](Document::continues) the one before, or that one in
    /// another epoch. The loop that is ready leaves when it would have, built anew for the keys that it says.
    pub fn set_document(&mut self, document: Arc<Document>) {
        if let Some(me) = document.node(&self.me.id) {
            self.me = me.clone();
        }
        self.document = document;
        if let Some(at) = self.prepared.as_ref().map(|l| l.what.at) {
            self.prepared = self.build(at);
        }
    }

    /// The clock was set back to `now`, by more than a moment. No loop until it is where it was would be a silence that
    /// tells of it; the process has no memory, so the next one may as well be drawn again.
    pub fn set_back(&mut self, now: Time) {
        self.alarm.forget(now);
        self.alarms.is_on = false;
        self.in_pool.clear();
        self.down = (now, BTreeSet::new());
        self.prepare(now);
    }

    /// A message at its last hop, here.
    pub fn exit(&mut self, destination: &[u8; ADDRESS_LEN], packet: Packet) -> Option<Delivered> {
        match MailboxId::from_address(destination) {
            None => {
                self.counters.count("drop.no_destination");
                None
            }
            Some(mailbox) => self.delivered(Delivered::Message { mailbox, packet }),
        }
    }

    /// A reply at its last hop, here: a loop that came home, or somebody else's.
    pub fn reply(&mut self, now: Time, id: [u8; ID_LEN], packet: Packet) -> Option<Delivered> {
        let (tag, random) = ClientTag::split(&id);
        if tag != self.own_tag {
            return self.delivered(Delivered::Reply { id, packet });
        }
        self.counters.count(match self.ledger.returned(now, random) {
            Some(_) => "loop.returned",
            None => "drop.loop_too_late",
        });
        if self.alarm.returned(now, random) {
            self.counters.count("alarm.over");
        }
        self.alarms.is_on = false;
        None
    }

    /// What it counted since the last call.
    #[must_use]
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    /// What became of the loops.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.ledger.tally()
    }

    fn delivered(&mut self, delivered: Delivered) -> Option<Delivered> {
        if self.me.layer != 0 {
            // Only gateways are a last hop for others.
            self.counters.count("drop.not_a_gateway");
            return None;
        }
        self.counters.count("delivered");
        Some(delivered)
    }

    fn prepare(&mut self, last: Time) {
        let at = self.pattern.next(&mut self.rng, last);
        self.prepared = self.build(at);
    }

    fn build(&mut self, at: Time) -> Option<Prepared> {
        let random = draw::bytes(&mut self.rng);
        let route = Route::around(&mut self.rng, &self.document, &self.me);
        let (first, delay_ms) = (route.first()?, route.delay_ms());
        let id = self.own_tag.reply_id(random);
        let Ok((surb, _)) = build_surb(Dialect::Lioness, &mut self.rng, &route.hops(), &id) else {
            self.counters.count("loop.unbuilt");
            return None;
        };
        let mut packet = Packet::zeroed();
        let mut message = [0; MESSAGE_LEN];
        self.rng.fill_bytes(&mut message);
        use_surb(Dialect::Lioness, surb, &message, &mut packet);
        let passed = route.nodes().map(|node| node.id);
        Some(Prepared {
            id: random,
            delay_ms,
            along: passed.filter(|id| *id != self.me.id).collect(),
            what: Loop {
                at,
                to: first.id,
                packet,
            },
        })
    }

    /// As long as a packet of others is held.
    fn delay(&mut self) -> Duration {
        let mean_ms = self.document.profile().mean_delay_ms;
        Duration::from_millis(draw::delay_ms(&mut self.rng, mean_ms).into())
    }

    fn look_who_is_down(&mut self, now: Time) {
        if now.since(self.down.0) < DOWN_EVERY {
            return;
        }
        let passed = self.ledger.by_node().keys();
        let down = passed.filter(|node| self.ledger.is_down(node)).copied().collect();
        self.down = (now, down);
    }
}
