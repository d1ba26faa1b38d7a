//! The client core: fills its slots with queued data or drops, sends loops, opens sessions to exits, reads what comes
//! back.
//!
//! Sans-I/O: [`Client::handle`] is told what happened and when, [`Client::poll`] says what to do, [`Client::deadline`]
//! when to call again. The design's Traffic and End to end sections. *When* packets leave is `mizzle-traffic`'s,
//! what is inside the seal `mizzle-stream`'s; here the two meet, and only after a slot's time, gateway and kind are
//! drawn. Each slot's packet is built ahead of its time.
//!
//! Letters leave as streams to the mail services of gateways, like any other data; those that arrive come from the
//! own gateway in frames of their own and are handed on in order. Where they are kept is the shell's; when one is
//! tried again is [`outbox`]'s.

mod ahead;
mod config;
mod moves;
pub mod outbox;
mod sessions;
mod slots;
mod surbs;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mizzle_base::document::{CLOCK_TOLERANCE_S, Node, Role};
use mizzle_base::frame::{self, Content, Frame, Refusal};
use mizzle_base::{ClientTag, Counters, Document, Item, MailboxId, NodeId, Rng, Time};
use mizzle_sphinx::{Dialect, MESSAGE_LEN, recover, unpad};
use mizzle_stream::{OpenError, OpenRequest};
use mizzle_traffic::anonymity::{self, Outlook, Shape, Traffic};
use mizzle_traffic::avoid::{Avoid, Decision};
use mizzle_traffic::draw;
use mizzle_traffic::estimate::Estimate;
use mizzle_traffic::ledger::{Ledger, Passed, Tally};
use mizzle_traffic::slot::Slots;
use mizzle_traffic::weights::{self, Judged, Reports};
use rand_core::SeedableRng as _;

use ahead::Ahead;
pub use config::Config;
pub use moves::{MOST_DRAWS, Moves, Why};
use sessions::Sessions;
pub use sessions::{StreamEvent, StreamKey};
use slots::LEAD;
use surbs::{Owner, Surbs};

/// A gateway away for longer ends all sessions: what they had under way is lost by then.
const AWAY_PATIENCE: Duration = Duration::from_secs(60);
/// A gateway that is blamed for the second time within this is one to leave: once may be a moment in which many nodes died.
const BLAMED_AGAIN: Duration = Duration::from_secs(300);
/// A gateway that doesn't answer is asked again after so long, over a new connection.
const HELLO_AGAIN: Duration = Duration::from_secs(5);

/// A gateway sends at a constant rate. One from which nothing came for so long, and for so many of its ticks, is asked again
/// over a new connection: this one is dead without knowing it, or leads to somebody who doesn't know us.
const SILENCE: Duration = Duration::from_secs(10);
const SILENT_TICKS: f64 = 20.0;

/// What the gateway said of the number of users is believed for so long, if it can't say more: it may have been restarted.
const USERS_LIFE: Duration = Duration::from_secs(600);

/// Pieces of mail that may wait for the shell's disk; those beyond are left for the gateway to send again.
pub const MAIL_WINDOW: u64 = 1_024;

/// How often what is left out of routes is looked at again, if no loop was lost.
const DECIDE_EVERY: Duration = Duration::from_secs(1);

/// A clock that goes back by more than this between two calls was set.
const JUMP: Duration = Duration::from_secs(1);

/// What a client core is told.
pub enum Input {
    /// The connection to the gateway is there.
    LinkUp,
    /// It is gone.
    LinkDown,
    /// A frame from the gateway.
    Frame(Box<[u8]>),
    /// All mail below a number is on disk, or was there before: the gateway may delete it.
    MailKept {
        /// Of which mailbox. What is said of an earlier one is not heard.
        generation: u64,
        /// The first number that is not.
        next: u64,
    },
    /// A newer network document, verified. It is taken if it [continues](Document::continues) the one before.
    Document(Arc<Document>),
    /// What nodes publish of their loops, as a gateway passes it on ([`Reports::bundle`]). What isn't signed by a node of the
    /// document is counted and not heard.
    Reports(Vec<u8>),
    /// Time passed. Packets leave on this alone: if it is told when [`Client::deadline`] is over and at no other moment,
    /// what else happens moves no packet by a microsecond.
    Tick,
}

/// What a client core wants done.
pub enum Action {
    /// Send this frame to the gateway, now.
    Send(Box<[u8]>),
    /// Close the connection to the gateway and make a new one.
    Reconnect,
    /// The gateway admitted the client: cover flows from here on.
    Admitted(Admission),
    /// The gateway doesn't admit the client. After [`Refusal::Replaced`] the client is silent for good.
    Refused(Refusal),
    /// A piece of a letter arrived. Once it is on disk, say [`Input::MailKept`].
    Mail {
        /// Its number in the mailbox; they come in order, each once in a run of the client.
        number: u64,
        /// The piece.
        item: Item,
    },
    /// A loop came back after so long, or didn't.
    Loop(Option<Duration>),
    /// The gateway loses packets, or most of what lies behind it does; routes are what they were. Another gateway would be
    /// better, if there is one.
    GatewayBlamed,
    /// Something happened to a stream.
    Stream(StreamKey, StreamEvent),
}

/// What a gateway says when it admits a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Admission {
    /// Who said it.
    pub gateway: NodeId,
    /// Where letters for this client are kept.
    pub mailbox: MailboxId,
    /// Drawn when the mailbox was made; the numbers of its mail mean nothing in another one.
    pub generation: u64,
}

/// The gateway isn't one of the document's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the network document doesn't list that gateway")]
pub struct NoSuchGateway;

enum Link {
    Down,
    /// Said hello; wants another connection at this time.
    Waiting {
        again_at: Time,
    },
    Up {
        tag: ClientTag,
        slots: Box<Slots>,
        /// When a gateway from which nothing comes until then counts as gone.
        silent_at: Time,
    },
}

/// What is known of the mail in the own mailbox. Zero stands for what is not known yet.
struct Mail {
    generation: u64,
    /// The next number that is expected.
    next: u64,
    /// The first one that is not on disk: what is acknowledged.
    kept: u64,
    /// Nothing came yet since the gateway admitted the client.
    fresh: bool,
}

struct Ready {
    at: Time,
    frame: Box<[u8]>,
}

/// A client core; see the [crate](self).
pub struct Client {
    config: Config,
    document: Arc<Document>,
    gateway: Node,
    link: Link,
    ready: VecDeque<Ready>,
    sessions: Sessions,
    surbs: Surbs,
    loops: Ledger,
    avoid: Avoid,
    reports: Reports,
    verdicts: BTreeMap<NodeId, Judged>,
    /// What is left out was looked at.
    decided: Time,
    ahead: Ahead,
    rng: Rng,
    told: Time,
    /// Since when there is no gateway, once there was one.
    away_since: Option<Time>,
    /// When it was told something first, until there was one.
    waits_since: Option<Time>,
    /// When the gateway was blamed, and whether it was twice.
    blamed: Option<Time>,
    is_bad: bool,
    /// Next downlink number that is expected, of the mailbox with this tag.
    expected: (Option<ClientTag>, u64),
    mail: Mail,
    /// Drawn by each run: tells the gateway whether it or another with the same identity comes back.
    run: [u8; 8],
    /// Another one with this identity took its place.
    replaced: bool,
    /// Loops that were told to be lost.
    lost_told: u64,
    /// What the gateway said of the number of users, and when.
    users: Option<(u32, Time)>,
    traffic: Traffic,
    shape: Shape,
    /// Whether the pools are as large as the user wants them.
    hidden: bool,
    actions: VecDeque<Action>,
    counters: Counters,
}

impl Client {
    /// A client of `gateway`.
    ///
    /// # Errors
    /// When the document lists no such gateway.
    pub fn new(
        config: Config,
        document: Arc<Document>,
        gateway: &NodeId,
        mut rng: Rng,
    ) -> Result<Self, NoSuchGateway> {
        let gateway = document
            .node(gateway)
            .filter(|n| n.role == Role::Gateway)
            .ok_or(NoSuchGateway)?
            .clone();
        let profile = document.profile();
        let life = profile.surb_life();
        // All that can be out within that life, and half as much again.
        let most_out = (profile.returning_per_s() * life.as_secs_f64() * 1.5) as usize + 1_000;
        let patience = profile.path_q999(4) + Duration::from_secs(2);
        let sessions = Sessions::new(
            config.sessions,
            &document,
            &gateway,
            Rng::from_seed(draw::bytes(&mut rng)),
        );
        let (generation, kept) = config.mail;
        let run = draw::bytes(&mut rng);
        let (traffic, shape) = (Traffic::from(profile), Shape::of(&document));
        let ahead = Ahead::new(Rng::from_seed(draw::bytes(&mut rng)));
        let mut client = Self {
            ahead,
            config,
            gateway,
            link: Link::Down,
            ready: VecDeque::new(),
            sessions,
            surbs: Surbs::new(life, most_out),
            loops: Ledger::new(patience, 65_536),
            avoid: Avoid::default(),
            reports: Reports::default(),
            verdicts: BTreeMap::new(),
            decided: Time::ZERO,
            rng,
            told: Time::ZERO,
            away_since: None,
            waits_since: None,
            blamed: None,
            is_bad: false,
            expected: (None, 1),
            mail: Mail {
                generation,
                next: kept,
                kept,
                fresh: true,
            },
            run,
            replaced: false,
            lost_told: 0,
            users: None,
            traffic,
            shape,
            hidden: true,
            actions: VecDeque::new(),
            counters: Counters::default(),
            document,
        };
        client.hidden = client.is_hidden();
        Ok(client)
    }

    /// Tells the core what happened at `now`.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.told.since(now) > JUMP {
            self.set_back(now);
        }
        if self.told == Time::ZERO {
            self.waits_since = Some(now);
        }
        self.told = now;
        self.be_in_epoch(now);
        // Whoever slept heard nothing, and what came meanwhile is told next.
        let slept = self.deadline().map_or(Duration::ZERO, |due| now.since(due));
        if slept > JUMP
            && let Link::Up { silent_at, .. } = &mut self.link
        {
            *silent_at = *silent_at + slept;
        }
        if self.has_expired(now) && !matches!(self.link, Link::Down) {
            // Keys beyond their time: nothing more leaves, neither data nor cover, and opening says why.
            self.counters.count("document.expired");
            self.link_down();
        }
        if self.users.is_some_and(|(_, said)| now.since(said) > USERS_LIFE) {
            self.users = None;
            self.look_around();
        }
        match input {
            Input::LinkUp if self.has_expired(now) => self.counters.count("document.expired"),
            Input::LinkUp if self.replaced => self.counters.count("link.replaced"),
            Input::LinkUp => self.hello(now),
            Input::LinkDown => self.link_down(),
            Input::Frame(bytes) => self.frame(now, &bytes),
            Input::MailKept { generation, next } if generation == self.mail.generation => {
                self.mail.kept = self.mail.kept.max(next).min(self.mail.next);
            }
            Input::MailKept { .. } => {}
            Input::Document(document) => self.take_document(now, document),
            Input::Reports(bundle) => {
                let (new, bad) = self.reports.add_bundle(&bundle, &self.document, now);
                self.counters.add("reports.new", new as u64);
                self.counters.add("drop.bad_report", bad as u64);
                self.reports.expire(now);
                self.verdicts = weights::verdicts(&self.document, &self.reports);
            }
            Input::Tick => self.serve_slots(now),
        }
        if matches!(self.link, Link::Waiting { again_at } if again_at <= now) {
            // The answer may have gone to another client with this identity, which a new connection comes after.
            self.counters.count("link.no_answer");
            self.counters.count("stall.link");
            self.link = Link::Down;
            self.actions.push_back(Action::Reconnect);
        }
        if matches!(self.link, Link::Up { silent_at, .. } if silent_at <= now) {
            self.counters.count("link.silent");
            self.counters.count("stall.link");
            self.link_down();
            self.actions.push_back(Action::Reconnect);
        }
        if self.gives_up_at().is_some_and(|at| at <= now) {
            // Programs hear now that nothing comes any more, not when each of their sessions is tired of waiting.
            self.counters.count("link.gone_for_long");
            self.sessions.end_all(OpenError::Closed);
        }
        self.counters.add("surb.lost", self.surbs.expire(now));
        self.loops.expire(now);
        if self.lost_told < self.loops.tally().lost || now.since(self.decided) >= DECIDE_EVERY {
            self.choose_anew(now);
        }
        while self.lost_told < self.loops.tally().lost {
            self.lost_told += 1;
            self.actions.push_back(Action::Loop(None));
        }
        self.sessions.handle_timeouts(now);
        self.forward_events();
    }

    /// The next thing to do; drain until `None`.
    #[must_use]
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let next_ready = self.ready.front().map(|r| r.at);
        let next_slot = match &self.link {
            Link::Up { slots, silent_at, .. } => {
                let next = match slots.may_hurry_at().filter(|_| self.sessions.waits(self.told)) {
                    Some(early) => slots.next_at().min(early),
                    None => slots.next_at(),
                };
                Some((next - LEAD).min(*silent_at))
            }
            Link::Waiting { again_at } => Some(*again_at),
            Link::Down => None,
        };
        [
            next_ready,
            next_slot,
            self.sessions.deadline(),
            self.gives_up_at(),
            self.leaves_at().filter(|at| *at > self.told),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Opens a stream. Its outcome comes as [`StreamEvent::Opened`] or [`StreamEvent::Failed`].
    ///
    /// # Errors
    /// When it can't even be tried: no exit outside one's own gateway, too many sessions, a document whose time is over, too
    /// few users.
    pub fn open(&mut self, now: Time, request: OpenRequest) -> Result<StreamKey, OpenError> {
        self.be_in_epoch(now);
        if self.has_expired(now) {
            return Err(OpenError::Expired);
        }
        if !self.hidden {
            return Err(OpenError::TooFewUsers);
        }
        let key = self.sessions.open(now, request)?;
        self.forward_events();
        Ok(key)
    }

    /// Opens a stream to a mailbox of a gateway, to leave a letter there: in a session of its own, so that the gateway
    /// can't tell that two letters are from one sender. Its outcome comes as for [`Self::open`].
    ///
    /// # Errors
    /// [`OpenError::NoMailbox`] when the document lists no such gateway or it keeps no mail; else as [`Self::open`].
    pub fn open_mailbox(
        &mut self,
        now: Time,
        gateway: &NodeId,
        mailbox: MailboxId,
    ) -> Result<StreamKey, OpenError> {
        self.be_in_epoch(now);
        if self.has_expired(now) {
            return Err(OpenError::Expired);
        }
        if !self.hidden {
            return Err(OpenError::TooFewUsers);
        }
        let key = self.sessions.open_mailbox(now, gateway, mailbox)?;
        self.forward_events();
        Ok(key)
    }

    /// Queues bytes of a stream; returns how many were taken, less than all when its buffer is full.
    pub fn write(&mut self, key: StreamKey, data: &[u8]) -> usize {
        let n = self.sessions.write(key, data);
        self.forward_events();
        n
    }

    /// No more bytes will be written.
    pub fn finish(&mut self, key: StreamKey) {
        self.sessions.finish(key);
        self.forward_events();
    }

    /// Ends a stream at once, both ways.
    pub fn reset(&mut self, key: StreamKey) {
        self.sessions.reset(key);
        self.forward_events();
    }

    /// Up to `max` bytes that arrived in order.
    pub fn read(&mut self, key: StreamKey, max: usize) -> Option<Bytes> {
        let bytes = self.sessions.read(key, max);
        self.forward_events();
        bytes
    }

    /// The network document, in the epoch that it is.
    #[must_use]
    pub fn document(&self) -> &Arc<Document> {
        &self.document
    }

    /// What it did and dropped.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut all = self.counters.clone();
        all.merge(self.sessions.counters());
        all
    }

    /// What became of its loops.
    #[must_use]
    pub fn loops(&self) -> Tally {
        self.loops.tally()
    }

    /// What became of them, by mix.
    #[must_use]
    pub fn loops_by_node(&self) -> &BTreeMap<NodeId, Passed> {
        self.loops.by_node()
    }

    /// What the last loops tell of each mix.
    #[must_use]
    pub fn estimates(&self, now: Time) -> BTreeMap<NodeId, Estimate> {
        self.loops.estimates(now)
    }

    /// The mixes that its routes leave out, and when the gateway was blamed last.
    #[must_use]
    pub fn avoided(&self) -> &Avoid {
        &self.avoid
    }

    /// Whether the gateway admitted the client and cover flows.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// Whether the gateway is one to leave, and why: it was blamed twice within 5 minutes, or there is none for
    /// [so long](Config::with_gateway_patience). It begins anew with a client of another one; this one goes on trying.
    #[must_use]
    pub fn wants_another(&self) -> Option<Why> {
        if self.leaves_at().is_some_and(|at| at <= self.told) {
            return Some(Why::Away);
        }
        self.is_bad.then_some(Why::LosesPackets)
    }

    /// When the gateway was away for too long, if it is away and that is nobody else's fault.
    fn leaves_at(&self) -> Option<Time> {
        let away_since = self
            .away_since
            .or(self.waits_since)
            .filter(|_| !self.replaced && !self.has_expired(self.told))?;
        Some(away_since + self.config.gateway_patience)
    }

    /// When a gateway that sends nothing from `now` on counts as gone.
    fn silent_at(&self, now: Time) -> Time {
        let ticks = Duration::from_secs_f64(SILENT_TICKS / self.document.profile().downlink_per_s);
        now + SILENCE.max(ticks)
    }

    /// How many users the network has at least, as the gateway says; `None` if it can't tell.
    #[must_use]
    pub fn users(&self) -> Option<u32> {
        self.users.map(|(users, _)| users)
    }

    /// How well the network hides this client, by the document and by what its gateway says: with no more users than are known,
    /// and with this one alone if none are.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        let users = self.users().map_or(1.0, f64::from);
        anonymity::outlook(&self.traffic, &self.shape, users)
    }

    /// Whether anything of the user's may be sent ([`Config::with_min_pool`]).
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.hidden
    }

    fn is_hidden(&self) -> bool {
        self.outlook().pool >= self.config.min_pool
    }

    /// The number of users has changed.
    fn look_around(&mut self) {
        let before = self.hidden;
        self.hidden = self.is_hidden();
        if before && !self.hidden {
            self.counters.count("users.too_few");
            self.sessions.end_all(OpenError::TooFewUsers);
        }
    }

    /// Decides which mixes routes leave out, by loops that were lost and by what nodes publish.
    fn choose_anew(&mut self, now: Time) {
        self.decided = now;
        self.reports.expire(now);
        if self.reports.is_empty() {
            self.verdicts.clear();
        }
        let verdicts = &self.verdicts;
        let judged = |node: &NodeId| verdicts.get(node).copied().unwrap_or(Judged::Unknown);
        for decision in self.avoid.decide(now, &self.document, &mut self.loops, judged) {
            match decision {
                Decision::LeftOut(_) => self.counters.count("route.left_out"),
                Decision::Back(_) => self.counters.count("route.back"),
                Decision::GatewayBlamed => {
                    self.counters.count("gateway.blamed");
                    let before = self.blamed.replace(now);
                    self.is_bad |= before.is_some_and(|at| now.since(at) <= BLAMED_AGAIN);
                    self.actions.push_back(Action::GatewayBlamed);
                }
            }
            self.ahead.clear();
        }
    }

    /// When sessions end because the gateway is away, if it is and there are any.
    fn gives_up_at(&self) -> Option<Time> {
        let away_since = self.away_since.filter(|_| !self.sessions.is_empty())?;
        Some(away_since + AWAY_PATIENCE)
    }

    /// The document's time is over, by more than clocks may be off.
    fn has_expired(&self, now: Time) -> bool {
        now >= self.document.validity().1 + Duration::from_secs(CLOCK_TOLERANCE_S)
    }

    /// From here on packets, SURBs and handshakes are for the keys of the epoch that it is. What is under way is taken for
    /// longer than it can be under way.
    fn be_in_epoch(&mut self, now: Time) {
        if let Some(turned) = self.document.turned(now) {
            self.counters.count("document.next_epoch");
            self.use_document(Arc::new(turned));
        }
    }

    fn take_document(&mut self, now: Time, document: Arc<Document>) {
        if !document.continues(&self.document) {
            return self.counters.count("document.not_taken");
        }
        self.counters.count("document.taken");
        let had_expired = self.has_expired(now);
        if let Link::Up { slots, .. } = &mut self.link {
            slots.set_document(&document);
        }
        self.use_document(document);
        self.be_in_epoch(now);
        if had_expired && !self.has_expired(now) && !self.replaced {
            self.actions.push_back(Action::Reconnect);
        }
    }

    /// Its nodes are the same ones.
    fn use_document(&mut self, document: Arc<Document>) {
        if let Some(gateway) = document.node(&self.gateway.id) {
            self.gateway = gateway.clone();
        }
        self.ahead.clear();
        self.sessions.set_document(&document, &self.gateway);
        self.document = document;
    }

    /// The clock was set back: what waits for a moment would wait until it is where it was.
    fn set_back(&mut self, now: Time) {
        let by = self.told.since(now);
        match &mut self.link {
            Link::Down => {}
            Link::Waiting { again_at } => *again_at = *again_at - by,
            Link::Up { slots, silent_at, .. } => {
                slots.shift_back(by);
                *silent_at = *silent_at - by;
            }
        }
        self.ready.iter_mut().for_each(|ready| ready.at = ready.at - by);
        self.away_since = self.away_since.map(|at| at - by);
        self.waits_since = self.waits_since.map(|at| at - by);
        self.blamed = self.blamed.map(|at| at - by);
        self.decided = self.decided - by;
        self.users = self.users.map(|(users, said)| (users, said - by));
        self.sessions.set_back(now);
    }

    /// What is ready was for the slots of the link that is gone.
    fn link_down(&mut self) {
        self.away_since.get_or_insert(self.told);
        self.link = Link::Down;
        self.ready.clear();
    }

    fn hello(&mut self, now: Time) {
        self.ready.clear();
        self.link = Link::Waiting {
            again_at: now + HELLO_AGAIN,
        };
        let content = Content::Hello {
            network: self.document.network(),
            run: self.run,
            token: self.config.token.clone(),
        };
        self.send(frame::encode(&Frame {
            ack: self.expected.1,
            seq: 0,
            content,
        }));
    }

    fn send(&mut self, frame: Box<[u8]>) {
        self.actions.push_back(Action::Send(frame));
    }

    fn forward_events(&mut self) {
        while let Some((key, event)) = self.sessions.poll_event() {
            self.actions.push_back(Action::Stream(key, event));
        }
    }

    fn frame(&mut self, now: Time, bytes: &[u8]) {
        let Some(Frame { seq, content, .. }) = frame::decode(bytes) else {
            return self.counters.count("drop.bad_frame");
        };
        let silent_from = self.silent_at(now);
        if let Link::Up { silent_at, .. } = &mut self.link {
            *silent_at = silent_from;
        }
        match content {
            Content::Filler { users } => {
                self.counters.count("downlink.filler");
                if users > 0 {
                    let before = self.users.replace((users, now));
                    if before.map(|(users, _)| users) != Some(users) {
                        self.look_around();
                    }
                }
            }
            Content::Reply { id, payload } => {
                if seq == self.expected.1 {
                    self.expected.1 += 1;
                    self.reply(now, id, payload);
                } else {
                    // Sent again after a reconnect, or after one that was lost with the old connection.
                    self.counters.count("drop.downlink_out_of_order");
                }
            }
            // A second hello may be answered too, and an answer come late: slots begin once for each link. That another run
            // takes its place a client learns at any time.
            Content::Welcome { .. } | Content::Refused { .. }
                if !matches!(self.link, Link::Waiting { .. }) && !is_replaced(&content) =>
            {
                self.counters.count("drop.not_asked");
            }
            Content::Welcome {
                tag,
                mailbox,
                generation,
            } => {
                if self.expected.0 != Some(tag) {
                    self.expected = (Some(tag), 1);
                }
                if self.mail.generation != generation {
                    self.mail = Mail {
                        generation,
                        next: 0,
                        kept: 0,
                        fresh: true,
                    };
                }
                self.mail.fresh = true;
                let rng = Rng::from_seed(draw::bytes(&mut self.rng));
                let streams = (self.config.streams)(self.document.profile());
                let slots = Box::new(Slots::with_streams(&self.document, rng, now, streams));
                let silent_at = self.silent_at(now);
                self.link = Link::Up {
                    tag,
                    slots,
                    silent_at,
                };
                self.away_since = None;
                self.waits_since = None;
                self.actions.push_back(Action::Admitted(Admission {
                    gateway: self.gateway.id,
                    mailbox,
                    generation,
                }));
            }
            // An answer to another client with this identity.
            Content::Refused { run, .. } if run != self.run => self.counters.count("drop.not_asked"),
            Content::Refused { why, .. } => {
                self.replaced |= why == Refusal::Replaced;
                self.link_down();
                self.actions.push_back(Action::Refused(why));
            }
            Content::Mail(item) => self.mail(seq, item),
            Content::Packet(_) | Content::Hello { .. } => self.counters.count("drop.bad_frame"),
        }
    }

    /// The first number of a mailbox that is new to this client may be any. Of one that it knows it may be a later one than
    /// is expected: what was before it is too old and gone.
    fn mail(&mut self, number: u64, item: Item) {
        let fresh = std::mem::take(&mut self.mail.fresh);
        let begins = self.mail.next == 0 || (fresh && number > self.mail.next);
        if number == 0 || (!begins && number != self.mail.next) {
            // Sent again after a reconnect, or after one that was lost with the old connection.
            return self.counters.count("drop.mail_out_of_order");
        }
        if begins {
            self.mail.kept = number;
        }
        if number - self.mail.kept >= MAIL_WINDOW {
            return self.counters.count("drop.mail_window");
        }
        self.mail.next = number.saturating_add(1);
        self.counters.count("downlink.mail");
        self.actions.push_back(Action::Mail { number, item });
    }

    fn reply(&mut self, now: Time, id: [u8; 16], mut payload: Box<[u8; mizzle_sphinx::PAYLOAD_LEN]>) {
        let (_, random) = ClientTag::split(&id);
        if let Some(round_trip) = self.loops.returned(now, random) {
            self.actions.push_back(Action::Loop(Some(round_trip)));
            return self.counters.count("loop.returned");
        }
        let Some((keys, owner)) = self.surbs.take(&random) else {
            return self.counters.count("drop.unknown_reply");
        };
        // Fillers are opened like any other: the time it takes is the same.
        if recover(Dialect::Lioness, keys, &mut payload).is_err() {
            return self.counters.count("drop.bad_reply");
        }
        match owner {
            Owner::Drop => self.counters.count("reply.filler"),
            Owner::Session(session) => {
                let Some((_, message)) =
                    payload.split_first_chunk::<{ mizzle_sphinx::PAYLOAD_LEN - MESSAGE_LEN }>()
                else {
                    return;
                };
                let body = message
                    .try_into()
                    .ok()
                    .and_then(|m| unpad(Dialect::Lioness, m).ok());
                match body {
                    None => self.counters.count("drop.bad_padding"),
                    Some(body) => {
                        self.counters.count("reply.session");
                        self.sessions.receive(now, session, body);
                    }
                }
            }
        }
    }
}

fn is_replaced(content: &Content) -> bool {
    matches!(
        content,
        Content::Refused {
            why: Refusal::Replaced,
            ..
        }
    )
}
