//! [`Loops`]: a node's own loops, and what becomes of packets at their last hop: its own come home here, the others are
//! handed to the gateway and exit cores beside it.
//!
//! Loopix section 4.3. Which loops leave when is the same whatever else passes through the node: a generator of their
//! own, and nothing here is told of other packets on their way.

use std::sync::Arc;
use std::time::Duration;

use mizzle_base::document::Node;
use mizzle_base::{ClientTag, Counters, Document, MailboxId, NodeId, Rng, Time};
use mizzle_sphinx::{ADDRESS_LEN, Dialect, ID_LEN, MESSAGE_LEN, Packet, PublicKey, build_surb, use_surb};
use mizzle_traffic::draw;
use mizzle_traffic::ledger::{Ledger, Tally};
use mizzle_traffic::pattern::{Pattern, Poisson};
use mizzle_traffic::route::Route;
use rand_core::{Rng as _, SeedableRng as _};

use crate::JUMP;

/// Loops that are out at a time, of which is kept track.
const MOST_OUT: usize = 65_536;

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
    what: Loop,
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

    /// The next one, if it leaves by `until`: that is `now`, or a little ahead where somebody holds it until then.
    pub fn take(&mut self, now: Time, until: Time) -> Option<Loop> {
        if let Some(turned) = self.document.turned(now) {
            self.set_document(Arc::new(turned));
        }
        self.ledger.expire(now);
        // Nothing is later than `FAR_FUTURE`, so a loop after it would be at it again, for ever.
        let Prepared {
            id,
            delay_ms,
            mut what,
        } = self
            .prepared
            .take_if(|l| l.what.at <= until && l.what.at < Time::FAR_FUTURE)?;
        // After a pause (a suspended machine) loops go on from now; a burst of them would tell of the pause. The
        // one that was ready leaves now, and isn't overdue for that.
        if now.since(what.at) > JUMP {
            what.at = now;
        }
        self.ledger.sent(what.at, id, delay_ms);
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
            self.prepare_for(at);
        }
    }

    /// The clock was set back to `now`, by more than a moment. No loop until it is where it was would be a silence that
    /// tells of it; the process has no memory, so the next one may as well be drawn again.
    pub fn set_back(&mut self, now: Time) {
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
        self.prepare_for(at);
    }

    fn prepare_for(&mut self, at: Time) {
        let random = draw::bytes(&mut self.rng);
        let route = Route::around(&mut self.rng, &self.document, &self.me);
        let (Some(first), delay_ms) = (route.first(), route.delay_ms()) else {
            return;
        };
        let id = self.own_tag.reply_id(random);
        let Ok((surb, _)) = build_surb(Dialect::Lioness, &mut self.rng, &route.hops(), &id) else {
            return self.counters.count("loop.unbuilt");
        };
        let mut packet = Packet::zeroed();
        let mut message = [0; MESSAGE_LEN];
        self.rng.fill_bytes(&mut message);
        use_surb(Dialect::Lioness, surb, &message, &mut packet);
        self.prepared = Some(Prepared {
            id: random,
            delay_ms,
            what: Loop {
                at,
                to: first.id,
                packet,
            },
        });
    }
}
