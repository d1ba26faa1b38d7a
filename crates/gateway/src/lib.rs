//! The gateway core: admits clients, takes their packets, keeps what comes back for them, answers them at a constant
//! rate with real frames or fillers; uses the SURBs of drops at their due times.
//!
//! Sans-I/O, as the mix core beside it, whose local deliveries it takes. The design's Traffic section ("Gateway link",
//! "Reply slots"); Loopix's provider. What an exit does with its messages is `mizzle-exit`'s.

mod link;
pub mod store;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::document::Node;
use mizzle_base::frame::{self, Content, Frame, Refusal};
use mizzle_base::{ClientTag, Counters, Document, MailboxId, NodeId, Rng, Time};
use mizzle_sphinx::{Dialect, MESSAGE_LEN, Packet, unpad, use_surb};
use mizzle_traffic::draw;
use mizzle_traffic::reply::{ReplySlots, decode_drop, decode_surbs};
use rand_core::Rng as _;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use link::{Downlink, Due, Policer};
pub use store::{Item, MailboxFull, MailboxStore, MemoryStore};

/// A client, as the link tells it: hash of the identity that it uses with this gateway alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(pub [u8; 32]);

/// Whom a gateway admits, up to its capacity.
#[derive(Clone, Default)]
pub enum Admission {
    /// Anyone.
    #[default]
    Open,
    /// Those on the list.
    AllowList(BTreeSet<ClientId>),
    /// Those who present this token.
    Token(Zeroizing<Vec<u8>>),
}

/// A clock that goes back by more than this between two calls was set.
const JUMP: Duration = Duration::from_secs(1);

/// Bounds and policy of a gateway core.
#[derive(Clone)]
pub struct Config {
    admission: Admission,
    downlink_capacity_per_s: f64,
    drop_surbs: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            admission: Admission::Open,
            downlink_capacity_per_s: 45_000.0,
            drop_surbs: 65_536,
        }
    }
}

impl Config {
    /// Whom it admits; anyone by default.
    #[must_use]
    pub fn with_admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// Frames a second that it can send in all; divided by the profile's downlink rate that is the number of clients
    /// it admits (100 in `bulk`, 562 in `browse` at the default of 45,000).
    #[must_use]
    pub fn with_downlink_capacity_per_s(mut self, frames: f64) -> Self {
        self.downlink_capacity_per_s = frames;
        self
    }

    /// Most SURBs of drops held for their due times, 0.7 KB each; more are dropped and counted.
    #[must_use]
    pub fn with_drop_surbs(mut self, n: usize) -> Self {
        self.drop_surbs = n;
        self
    }
}

/// What a gateway core is told.
pub enum Input {
    /// A frame of a client's link.
    Frame {
        /// From whom.
        client: ClientId,
        /// As read.
        bytes: Box<[u8]>,
    },
    /// The last connection of a client closed.
    Gone {
        /// Whose.
        client: ClientId,
    },
    /// The link had no room for the frame of the last [`Action::Send`] to this client.
    NotWritten {
        /// To whom.
        client: ClientId,
    },
    /// The mix core delivered a message.
    Message {
        /// For whom.
        mailbox: MailboxId,
        /// Holding it.
        packet: Packet,
    },
    /// The mix core delivered a reply.
    Reply {
        /// The SURB's id.
        id: [u8; 16],
        /// Holding the payload.
        packet: Packet,
    },
    /// Time passed.
    Tick,
}

/// What a gateway core wants done.
pub enum Action {
    /// Send this frame now, or say [`Input::NotWritten`].
    Send {
        /// To whom.
        client: ClientId,
        /// [`frame::FRAME_LEN`] bytes.
        bytes: Box<[u8]>,
    },
    /// Hand this packet to the mix core beside.
    Mix(Packet),
    /// Hand this message to the exit core beside.
    Exit(Packet),
    /// Close the client's connection.
    Disconnect {
        /// Whose.
        client: ClientId,
    },
}

struct Account {
    tag: ClientTag,
    mailbox: MailboxId,
    policer: Policer,
    link: Option<Downlink>,
    hellos: Policer,
    /// Since when it has no link.
    away_since: Time,
    /// Number of the last item that its mailbox took.
    appended: u64,
    /// Number below which the client acknowledged all.
    acked: u64,
    /// What an item's number in the mailbox is more than its number for the client.
    base: u64,
}

impl Account {
    /// Notes an acknowledgement and returns the mailbox's number for it. Nobody acknowledges what never came.
    fn acknowledged(&mut self, ack: u64) -> u64 {
        let next = ack.saturating_add(self.base).min(self.appended + 1);
        self.acked = self.acked.max(next);
        next
    }
}

/// A gateway core; see the [crate](self).
pub struct Gateway<S = MemoryStore> {
    config: Config,
    document: Arc<Document>,
    exit: Option<MailboxId>,
    store: S,
    accounts: BTreeMap<ClientId, Account>,
    by_tag: BTreeMap<ClientTag, ClientId>,
    wakeups: BTreeSet<(Time, ClientId)>,
    drops: ReplySlots<()>,
    rng: Rng,
    told: Time,
    actions: VecDeque<Action>,
    counters: Counters,
}

impl<S: MailboxStore> Gateway<S> {
    /// The gateway that is node `me` of the document.
    #[must_use]
    pub fn new(config: Config, document: Arc<Document>, me: &NodeId, store: S, rng: Rng) -> Self {
        let exit = document
            .node(me)
            .and_then(|node: &Node| node.exit.as_ref())
            .map(|e| e.mailbox);
        let drops = ReplySlots::new(document.profile().reply_due_mean_ms, config.drop_surbs);
        Self {
            config,
            document,
            exit,
            store,
            accounts: BTreeMap::new(),
            by_tag: BTreeMap::new(),
            wakeups: BTreeSet::new(),
            drops,
            rng,
            told: Time::ZERO,
            actions: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Tells the core what happened at `now`.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.told.since(now) > JUMP {
            self.set_back(now);
        }
        self.told = now;
        match input {
            Input::Frame { client, bytes } => self.frame(now, client, &bytes),
            Input::Gone { client } => self.gone(now, client),
            Input::NotWritten { client } => {
                self.counters.count("downlink.not_written");
                if let Some(link) = self.accounts.get_mut(&client).and_then(|a| a.link.as_mut()) {
                    self.wakeups.remove(&(link.scheduled(), client));
                    link.not_written();
                    self.wakeups.insert((link.schedule(), client));
                }
            }
            Input::Message { mailbox, packet } => self.message(now, mailbox, packet),
            Input::Reply { id, packet } => self.reply(id, &packet),
            Input::Tick => {}
        }
        self.run_downlinks(now);
        self.use_drop_surbs(now);
    }

    /// The next thing to do; drain until `None`.
    #[must_use]
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let downlink = self.wakeups.first().map(|w| w.0);
        [downlink, self.drops.deadline()].into_iter().flatten().min()
    }

    /// What it did and dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Clients with a link at this moment.
    #[must_use]
    pub fn linked(&self) -> usize {
        self.wakeups.len()
    }

    /// Most clients with a link: capacity / rate.
    #[must_use]
    pub fn capacity(&self) -> usize {
        (self.config.downlink_capacity_per_s / self.document.profile().downlink_per_s) as usize
    }

    fn frame(&mut self, now: Time, client: ClientId, bytes: &[u8]) {
        let Some(Frame { ack, content, .. }) = frame::decode(bytes) else {
            // Our own clients don't send such; whoever does gets silence.
            return self.counters.count("drop.bad_frame");
        };
        match content {
            Content::Hello { network, token } => {
                // Each hello is answered at once and gives the downlink another phase: not as often as anyone likes.
                if self
                    .accounts
                    .get_mut(&client)
                    .is_some_and(|a| !a.hellos.allows(now))
                {
                    return self.counters.count("drop.hello_too_often");
                }
                let admitted = if network == self.document.network() {
                    self.admit(now, client, &token)
                } else {
                    Err(Refusal::WrongNetwork)
                };
                match admitted {
                    Ok(()) => self.welcome(now, client, ack),
                    Err(why) => {
                        self.counters.count("client.refused");
                        self.send(client, Content::Refused(why));
                        self.actions.push_back(Action::Disconnect { client });
                    }
                }
            }
            Content::Packet(packet) => {
                let Some(account) = self.accounts.get_mut(&client).filter(|a| a.link.is_some()) else {
                    return self.counters.count("drop.not_admitted");
                };
                let next = account.acknowledged(ack);
                self.store.acknowledge(client, next);
                if let Some(link) = &mut account.link {
                    link.acknowledged(now, next);
                }
                if account.policer.allows(now) {
                    self.counters.count("uplink.packet");
                    self.actions.push_back(Action::Mix(packet));
                } else {
                    self.counters.count("drop.client_too_fast");
                }
            }
            _ => self.counters.count("drop.bad_frame"),
        }
    }

    fn admit(&mut self, now: Time, client: ClientId, token: &[u8]) -> Result<(), Refusal> {
        let allowed = match &self.config.admission {
            Admission::Open => true,
            Admission::AllowList(list) => list.contains(&client),
            Admission::Token(good) => good.ct_eq(token).into(),
        };
        if !allowed {
            return Err(Refusal::NotAdmitted);
        }
        let known = self.accounts.get(&client);
        // A client that comes back takes its own place, even while its old link is still thought to live.
        if known.is_none_or(|a| a.link.is_none()) && self.linked() >= self.capacity() {
            return Err(Refusal::Full);
        }
        // Mailboxes of clients that are away count too, or the store would have no bound.
        let unknown = known.is_none();
        if unknown {
            self.evict(now);
        }
        if unknown && self.accounts.len() >= self.most_accounts() {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    fn welcome(&mut self, now: Time, client: ClientId, ack: u64) {
        self.counters.count("client.admitted");
        self.gone(now, client);
        let profile = self.document.profile();
        let (uplink_per_s, downlink_per_s) = (profile.uplink_per_s(), profile.downlink_per_s);
        let rng = &mut self.rng;
        let account = self.accounts.entry(client).or_insert_with(|| Account {
            tag: ClientTag(draw::bytes(rng)),
            mailbox: MailboxId::new(draw::bytes(rng)),
            policer: Policer::new(uplink_per_s, now),
            link: None,
            hellos: Policer::of_hellos(now),
            away_since: now,
            appended: 0,
            acked: 1,
            base: 0,
        });
        let (tag, mailbox) = (account.tag, account.mailbox);
        // A client that started anew expects the first number again, when those before it are deleted: what is kept
        // gets the numbers that it expects.
        if ack.saturating_add(account.base) < account.acked {
            account.base = account.acked - ack.max(1);
        }
        let next = account.acknowledged(ack.max(1));
        self.store.acknowledge(client, next);
        // A random phase, so that the ticks of clients that come together don't fall together.
        let interval = Duration::from_secs_f64(1.0 / downlink_per_s);
        let mut link = Downlink::new(interval, draw::unit(rng), uplink_per_s, next, now);
        self.wakeups.insert((link.schedule(), client));
        account.link = Some(link);
        self.by_tag.insert(tag, client);
        self.send(client, Content::Welcome { tag, mailbox });
    }

    fn gone(&mut self, now: Time, client: ClientId) {
        let Some(account) = self.accounts.get_mut(&client) else {
            return;
        };
        if let Some(link) = account.link.take() {
            account.away_since = now;
            self.wakeups.remove(&(link.scheduled(), client));
        }
    }

    /// Makes room for a newcomer where accounts are all taken: the client that is away the longest, and so long that
    /// no SURB of its can come back any more, is forgotten with what its mailbox still holds.
    fn evict(&mut self, now: Time) {
        if self.accounts.len() < self.most_accounts() {
            return;
        }
        let life = self.document.profile().surb_life();
        let away = self
            .accounts
            .iter()
            .filter(|(_, a)| a.link.is_none() && now.since(a.away_since) > life);
        let Some(client) = away.min_by_key(|(_, a)| a.away_since).map(|(&client, _)| client) else {
            return;
        };
        if let Some(account) = self.accounts.remove(&client) {
            self.by_tag.remove(&account.tag);
            self.store.remove(client);
            self.counters.count("client.forgotten");
        }
    }

    /// Clients with a link or a mailbox: four times as many as can have a link.
    fn most_accounts(&self) -> usize {
        self.capacity().saturating_mul(4)
    }

    fn send(&mut self, client: ClientId, content: Content) {
        let bytes = frame::encode(&Frame {
            ack: 0,
            seq: 0,
            content,
        });
        self.actions.push_back(Action::Send { client, bytes });
    }

    fn message(&mut self, now: Time, mailbox: MailboxId, packet: Packet) {
        if Some(mailbox) == self.exit {
            return self.actions.push_back(Action::Exit(packet));
        }
        if mailbox != MailboxId::DROP {
            return self.counters.count("drop.no_such_mailbox");
        }
        let Some(surbs) = unpad(Dialect::Lioness, packet.message())
            .ok()
            .and_then(decode_drop)
        else {
            return self.counters.count("drop.bad_message");
        };
        self.counters.count("drop_received");
        for surb in decode_surbs(surbs) {
            if self.drops.push(&mut self.rng, now, surb, ()).is_err() {
                self.counters.count("drop.surbs_full");
            }
        }
    }

    fn reply(&mut self, id: [u8; 16], packet: &Packet) {
        let (tag, _) = ClientTag::split(&id);
        let client = self.by_tag.get(&tag).copied();
        let Some((client, account)) = client.and_then(|c| Some((c, self.accounts.get_mut(&c)?))) else {
            return self.counters.count("drop.no_such_client");
        };
        let item = Item {
            id,
            payload: Box::new(*packet.payload()),
        };
        match self.store.append(client, item) {
            Ok(number) => {
                account.appended = number;
                self.counters.count("reply.kept");
            }
            Err(MailboxFull) => self.counters.count("drop.mailbox_full"),
        }
    }

    /// The clock was set back by more than jitter. No frame until it is where it was would be a silence.
    fn set_back(&mut self, now: Time) {
        self.drops.shift_back(self.told.since(now));
        self.wakeups.clear();
        for (&client, account) in &mut self.accounts {
            account.policer.set_back(now);
            if let Some(link) = &mut account.link {
                link.set_back(now, draw::unit(&mut self.rng));
                self.wakeups.insert((link.schedule(), client));
            }
        }
    }

    fn run_downlinks(&mut self, now: Time) {
        while let Some(&(at, client)) = self.wakeups.first() {
            // Nothing is later than `FAR_FUTURE`, so the tick after it would be at it again, for ever.
            if at > now || at == Time::FAR_FUTURE {
                break;
            }
            self.wakeups.pop_first();
            let Some(account) = self.accounts.get_mut(&client) else {
                continue;
            };
            let Some(link) = &mut account.link else { continue };
            match link.due(now) {
                Due::Prepare(number) => {
                    let item = self.store.get(client, number).cloned();
                    let (number, seq, content) = match item {
                        Some(Item { id, payload }) => {
                            (number, number - account.base, Content::Reply { id, payload })
                        }
                        None => (0, 0, Content::Filler),
                    };
                    link.prepared(number, frame::encode(&Frame { ack: 0, seq, content }));
                    if link.tick() <= now {
                        self.counters.count("downlink.unready");
                    }
                }
                Due::Send { bytes, real } => {
                    self.counters
                        .count(if real { "downlink.reply" } else { "downlink.filler" });
                    self.actions.push_back(Action::Send { client, bytes });
                }
                Due::Skipped(ticks) => self.counters.add("downlink.late_tick", ticks),
            }
            self.wakeups.insert((link.schedule(), client));
        }
    }

    fn use_drop_surbs(&mut self, now: Time) {
        while let Some((surb, ())) = self.drops.pop_due(now) {
            let mut packet = Packet::zeroed();
            let mut message = [0; MESSAGE_LEN];
            self.rng.fill_bytes(&mut message);
            use_surb(Dialect::Lioness, surb, &message, &mut packet);
            self.counters.count("filler_reply");
            self.actions.push_back(Action::Mix(packet));
        }
    }
}
