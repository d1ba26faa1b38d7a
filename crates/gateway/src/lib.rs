//! The gateway core: admits clients, takes their packets, keeps what comes back for them and the letters that others bring
//! for them, answers them at a constant rate with real frames or fillers; uses the SURBs of drops at their due times.
//!
//! Sans-I/O, as the mix core beside it, whose local deliveries it takes; the disk is behind a [`store`]. The design's Traffic
//! section ("Gateway link", "Reply slots"); Loopix's provider. What an exit does with its messages, and how the streams of
//! uploads get here, is `mizzle-exit`'s.

mod link;
mod mail;
mod replies;
pub mod store;
mod upload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::document::Node;
use mizzle_base::frame::{self, Content, Frame, Refusal};
use mizzle_base::{ClientTag, Counters, Document, MailboxId, NetworkId, NodeId, Rng, Time};
use mizzle_sphinx::{Dialect, MESSAGE_LEN, Packet, unpad, use_surb};
use mizzle_stream::OpenError;
use mizzle_traffic::census::Census;
use mizzle_traffic::draw;
use mizzle_traffic::reply::{ReplySlots, decode_drop, decode_surbs};
use rand_core::Rng as _;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use link::{Downlink, Due, Holds, Policer};
use mail::Mailboxes;
use replies::{Full, Replies, Reply};
use store::{Answer, Order, Registered};
use upload::Uploads;

/// A client, as the link tells it: hash of the identity that it uses with this gateway alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(pub [u8; 32]);

/// One of a client's connections, as the shell names it; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Conn(pub u64);

/// A stream to a mailbox, as the shell names it; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UploadId(pub u64);

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
/// Every so often what is old is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// The store is told once in so long that a client is here, and forgets who was not for so long.
const SEEN_EVERY: Duration = Duration::from_secs(86_400);
const AWAY: Duration = Duration::from_secs(30 * 86_400);
/// Who was here for the first time so long before the last makes room for nobody.
const SETTLED: Duration = Duration::from_secs(86_400);
/// Runs of a client that a newer one took the place of, as far as they are remembered.
const REPLACED: usize = 8;

/// Bounds and policy of a gateway core.
#[derive(Clone)]
pub struct Config {
    admission: Admission,
    downlink_capacity_per_s: f64,
    drop_surbs: usize,
    replies: usize,
    replies_total: usize,
    reply_life: Duration,
    uploads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            admission: Admission::Open,
            downlink_capacity_per_s: 45_000.0,
            drop_surbs: 65_536,
            replies: 4_096,
            replies_total: 65_536,
            reply_life: Duration::from_secs(600),
            uploads: 1_024,
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

    /// Most replies that wait for one client, 4 KB each; 4,096 by default. More are dropped and counted.
    #[must_use]
    pub fn with_replies(mut self, n: usize) -> Self {
        self.replies = n;
        self
    }

    /// Most replies that wait for all clients together; 65,536 by default, 270 MB. One client's are never more than are free, so
    /// that those who don't acknowledge leave room for the others; more are dropped and counted.
    #[must_use]
    pub fn with_replies_total(mut self, n: usize) -> Self {
        self.replies_total = n;
        self
    }

    /// How long replies wait for a client that is away; ten minutes by default. Its sessions are over long before; older ones
    /// are dropped and counted.
    #[must_use]
    pub fn with_reply_life(mut self, life: Duration) -> Self {
        self.reply_life = life;
        self
    }

    /// Most letters that are brought at a time, up to 100 KB each while they wait for the disk; 1,024 by default. One more
    /// is not opened ([`OpenError::Limit`]). How much mail is kept is the store's [`store::Limits`].
    #[must_use]
    pub fn with_uploads(mut self, n: usize) -> Self {
        self.uploads = n;
        self
    }
}

/// What a gateway core is told.
pub enum Input {
    /// A frame of a client's link.
    Frame {
        /// From whom.
        client: ClientId,
        /// By which connection.
        conn: Conn,
        /// As read.
        bytes: Box<[u8]>,
    },
    /// The last connection of a client closed.
    Gone {
        /// Whose.
        client: ClientId,
    },
    /// The link had no room for the frame of an [`Action::Send`].
    NotWritten {
        /// To whom.
        client: ClientId,
        /// The frame: of several that left at once, each may be the one.
        bytes: Box<[u8]>,
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
    /// Something about a stream to a mailbox.
    Upload(UploadId, Upload),
    /// The store has answered.
    Store(Answer),
    /// Time passed.
    Tick,
}

/// What comes on a stream to a mailbox.
pub enum Upload {
    /// Somebody asks for this mailbox; answered by [`Uploaded::Opened`].
    Open(MailboxId),
    /// Some of his bytes; answered by [`Uploaded::Took`] when there is room for more.
    Bytes(Vec<u8>),
    /// He says no more.
    Ended,
    /// His end has room for one answer.
    Wanted,
    /// The stream is gone; nothing more is said about it.
    Gone,
}

/// What is to be done with a stream to a mailbox.
#[derive(PartialEq, Eq, Debug)]
pub enum Uploaded {
    /// It is open, or why not; nothing more is said about it then.
    Opened(Result<(), OpenError>),
    /// So many of its bytes were taken.
    Took(usize),
    /// Say this, a few bytes; none: the end. One answer to one [`Upload::Wanted`].
    Answer(Vec<u8>),
}

/// What a gateway core wants done.
pub enum Action {
    /// Welcome a client with this frame. From here on what is sent to it goes by this connection.
    Welcome {
        /// Whom.
        client: ClientId,
        /// By which the hello came.
        conn: Conn,
        /// [`frame::FRAME_LEN`] bytes.
        bytes: Box<[u8]>,
    },
    /// Send this frame now by the connection of the welcome, or say [`Input::NotWritten`].
    Send {
        /// To whom.
        client: ClientId,
        /// That connection.
        conn: Conn,
        /// [`frame::FRAME_LEN`] bytes.
        bytes: Box<[u8]>,
    },
    /// Say this by one connection, and close it when that has had time to arrive. The client may have others.
    Refuse {
        /// Whose.
        client: ClientId,
        /// Which.
        conn: Conn,
        /// [`frame::FRAME_LEN`] bytes: why.
        bytes: Box<[u8]>,
    },
    /// Hand this packet to the mix core beside.
    Mix(Packet),
    /// Hand this message to the exit core beside.
    Exit(Packet),
    /// Hand this message to the session core of the mail beside.
    Post(Packet),
    /// Do this with a stream to a mailbox.
    Upload(UploadId, Uploaded),
    /// Have the store do this, after what it was asked before. The core bounds how much it asks at a time: a few orders for each
    /// client and each upload.
    Store(Order),
}

/// What leaves the core.
#[derive(Default)]
struct Out {
    actions: VecDeque<Action>,
    counters: Counters,
}

impl Out {
    fn say(&mut self, upload: UploadId, what: Uploaded) {
        self.actions.push_back(Action::Upload(upload, what));
    }

    fn append(&mut self, upload: UploadId, mailbox: MailboxId, item: mizzle_base::Item, at: Time) {
        self.actions.push_back(Action::Store(Order::Append {
            upload,
            mailbox,
            item,
            at,
        }));
    }
}

/// What a client says when it comes.
#[derive(Clone, Copy)]
struct Hello {
    conn: Conn,
    run: [u8; 8],
    /// What it expects of replies and of mail.
    ack: u64,
    seq: u64,
}

struct Account {
    tag: ClientTag,
    mailbox: MailboxId,
    generation: u64,
    policer: Policer,
    link: Option<Downlink>,
    /// By which it was welcomed last.
    conn: Option<Conn>,
    hellos: Policer,
    /// When it came for the first time.
    since: Time,
    /// Since when it has no link.
    away_since: Time,
    /// What the store was told last.
    seen: Time,
    /// The run of the client that was admitted last, and those that it took the place of.
    run: Option<[u8; 8]>,
    replaced: VecDeque<[u8; 8]>,
    /// Number of the last reply that its queue took.
    appended: u64,
    /// Number below which the client acknowledged all.
    acked: u64,
    /// What a reply's number in the queue is more than its number for the client, round the end of all numbers.
    base: u64,
}

impl Account {
    fn new(registered: &Registered, uplink_per_s: f64, now: Time) -> Self {
        Self {
            tag: registered.tag,
            mailbox: registered.mailbox,
            generation: registered.generation,
            policer: Policer::new(uplink_per_s, now),
            link: None,
            conn: None,
            hellos: Policer::of_hellos(now),
            since: registered.since,
            away_since: registered.seen,
            seen: registered.seen,
            run: None,
            replaced: VecDeque::new(),
            appended: 0,
            acked: 1,
            base: 0,
        }
    }

    /// Notes an acknowledgement of replies and returns the queue's number for it. Nobody acknowledges what never came.
    fn acknowledged(&mut self, ack: u64) -> u64 {
        let next = ack.wrapping_add(self.base);
        if (self.acked..=self.appended + 1).contains(&next) {
            self.acked = next;
        }
        self.acked
    }

    /// Notes what a client that comes expects. One that started anew expects the first number again, when those before it
    /// are deleted, and when we did it expects what was in the old queue: what is kept gets the numbers that it expects.
    fn expects(&mut self, ack: u64) -> u64 {
        let ack = ack.max(1);
        let next = ack.wrapping_add(self.base);
        if !(self.acked..=self.appended + 1).contains(&next) {
            self.base = self.acked.wrapping_sub(ack);
        }
        self.acknowledged(ack)
    }

    /// Whether it has been here on more than a day: not one of a thousand that somebody made up at once.
    fn is_settled(&self) -> bool {
        self.seen.max(self.away_since).since(self.since) >= SETTLED
    }

    /// Another run of the client is admitted; the one before is not to come again.
    fn runs(&mut self, run: [u8; 8]) {
        let Some(old) = self.run.replace(run).filter(|old| *old != run) else {
            return;
        };
        if self.replaced.len() == REPLACED {
            self.replaced.pop_front();
        }
        self.replaced.push_back(old);
    }
}

/// A newcomer whose mailbox is not on disk yet.
struct Newcomer {
    registered: Registered,
    /// Its hello; `None` once it is gone.
    hello: Option<Hello>,
}

/// A gateway core; see the [crate](self).
pub struct Gateway {
    config: Config,
    document: Arc<Document>,
    me: NodeId,
    exit: Option<MailboxId>,
    post: Option<MailboxId>,
    replies: Replies,
    mail: Mailboxes,
    uploads: Uploads,
    accounts: BTreeMap<ClientId, Account>,
    newcomers: BTreeMap<ClientId, Newcomer>,
    by_tag: BTreeMap<ClientTag, ClientId>,
    wakeups: BTreeSet<(Time, ClientId)>,
    drops: ReplySlots<()>,
    /// Of all that have slots for this gateway, by the messages that come.
    census: Census,
    rng: Rng,
    told: Time,
    sweep_at: Time,
    out: Out,
}

/// How many messages of each user come to this gateway: each slot that isn't a loop brings one to one of them, by their weights.
fn messages_per_s(document: &Document, me: &NodeId) -> f64 {
    let weights: f64 = document.gateways().map(|gateway| gateway.weight).sum();
    let share = document.node(me).map_or(1.0, |node| node.weight / weights);
    let profile = document.profile();
    share * (profile.payload_per_s + profile.drop_per_s)
}

impl Gateway {
    /// The gateway that is node `me` of the document, with the clients that its store knows ([`store::MailStore::registered`]).
    #[must_use]
    pub fn new(
        config: Config,
        document: Arc<Document>,
        me: &NodeId,
        registered: Vec<Registered>,
        rng: Rng,
    ) -> Self {
        let node: Option<&Node> = document.node(me);
        let exit = node.and_then(|node| node.exit.as_ref()).map(|e| e.mailbox);
        let post = node.and_then(|node| node.mail.as_ref()).map(|m| m.mailbox);
        let profile = document.profile();
        let drops = ReplySlots::new(profile.reply_due_mean_ms, config.drop_surbs);
        let census = Census::new(messages_per_s(&document, me));
        let replies = Replies::new(config.replies, config.replies_total);
        let uploads = Uploads::new(config.uploads);
        let mut gateway = Self {
            config,
            document,
            me: *me,
            exit,
            post,
            replies,
            mail: Mailboxes::default(),
            uploads,
            accounts: BTreeMap::new(),
            newcomers: BTreeMap::new(),
            by_tag: BTreeMap::new(),
            wakeups: BTreeSet::new(),
            drops,
            census,
            rng,
            told: Time::ZERO,
            sweep_at: Time::ZERO,
            out: Out::default(),
        };
        for client in &registered {
            gateway.insert(client, client.seen);
        }
        gateway
    }

    /// From now on this is the network document: one that [continues](Document::continues) the one before.
    pub fn set_document(&mut self, document: Arc<Document>) {
        self.census.set_rate(messages_per_s(&document, &self.me));
        self.document = document;
    }

    /// Tells the core what happened at `now`.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.told.since(now) > JUMP {
            self.set_back(now);
        }
        self.told = now;
        match input {
            Input::Frame { client, conn, bytes } => self.frame(now, client, conn, &bytes),
            Input::Gone { client } => self.gone(now, client),
            Input::NotWritten { client, bytes } => self.not_written(client, &bytes),
            Input::Message { mailbox, packet } => self.message(now, mailbox, packet),
            Input::Reply { id, packet } => self.reply(now, id, &packet),
            Input::Upload(id, said) => self.upload(now, id, said),
            Input::Store(answer) => self.answered(now, answer),
            Input::Tick => {}
        }
        self.uploads.time_out(now, &mut self.out);
        self.run_downlinks(now);
        self.use_drop_surbs(now);
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP;
            self.sweep(now);
        }
    }

    /// The next thing to do; drain until `None`.
    #[must_use]
    pub fn poll(&mut self) -> Option<Action> {
        self.out.actions.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        // What is old is looked for when something happens anyway.
        let downlink = self.wakeups.first().map(|w| w.0);
        [downlink, self.drops.deadline(), self.uploads.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What it did and dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.out.counters
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

    /// How many users the network has, with the packets that come here: the mean, and what they are at least. `None` until it
    /// can be told.
    #[must_use]
    pub fn users(&self) -> Option<(f64, f64)> {
        self.census.users(self.told)
    }

    /// Replies that wait for clients, and how many may.
    #[must_use]
    pub fn replies(&self) -> (usize, usize) {
        (self.replies.kept(), self.config.replies_total)
    }

    /// Clients that have a mailbox, here or away, and pieces of letters that wait for them.
    #[must_use]
    pub fn mailboxes(&self) -> (usize, u64) {
        (self.accounts.len(), self.mail.items())
    }

    fn frame(&mut self, now: Time, client: ClientId, conn: Conn, bytes: &[u8]) {
        let Some(Frame { ack, seq, content }) = frame::decode(bytes) else {
            // Our own clients don't send such; whoever does gets silence.
            return self.out.counters.count("drop.bad_frame");
        };
        match content {
            Content::Hello { network, run, token } => {
                // Each hello is answered at once and gives the downlink another phase: not as often as anyone likes.
                if self
                    .accounts
                    .get_mut(&client)
                    .is_some_and(|a| !a.hellos.allows(now))
                {
                    return self.out.counters.count("drop.hello_too_often");
                }
                match self.admit(now, client, network, &run, &token) {
                    Ok(()) => self.admitted(now, client, Hello { conn, run, ack, seq }),
                    Err(why) => self.refuse(client, conn, run, why),
                }
            }
            Content::Packet(packet) => {
                let Some(account) = self.accounts.get_mut(&client).filter(|a| a.link.is_some()) else {
                    return self.out.counters.count("drop.not_admitted");
                };
                if account.conn != Some(conn) {
                    // The client was there before by this one, or another run of it still is.
                    return self.out.counters.count("drop.other_connection");
                }
                let next = account.acknowledged(ack);
                self.replies.acknowledge(client, next);
                if let Some(link) = &mut account.link {
                    link.replies_acknowledged(now, next);
                }
                self.mail_acknowledged(now, client, seq);
                let Some(account) = self.accounts.get_mut(&client) else {
                    return;
                };
                if account.policer.allows(now) {
                    self.out.counters.count("uplink.packet");
                    self.out.actions.push_back(Action::Mix(packet));
                } else {
                    self.out.counters.count("drop.client_too_fast");
                }
            }
            _ => self.out.counters.count("drop.bad_frame"),
        }
    }

    fn admit(
        &mut self,
        now: Time,
        client: ClientId,
        network: NetworkId,
        run: &[u8; 8],
        token: &[u8],
    ) -> Result<(), Refusal> {
        if network != self.document.network() {
            return Err(Refusal::WrongNetwork);
        }
        let allowed = match &self.config.admission {
            Admission::Open => true,
            Admission::AllowList(list) => list.contains(&client),
            Admission::Token(good) => good.ct_eq(token).into(),
        };
        if !allowed {
            return Err(Refusal::NotAdmitted);
        }
        let known = self.accounts.get(&client);
        if known.is_some_and(|a| a.replaced.contains(run)) {
            return Err(Refusal::Replaced);
        }
        // A client that comes back takes its own place, even while its old link is still thought to live.
        if known.is_none_or(|a| a.link.is_none()) && self.linked() >= self.capacity() {
            return Err(Refusal::Full);
        }
        // Mailboxes of clients that are away count too, or the store would have no bound.
        if known.is_none() && !self.newcomers.contains_key(&client) {
            self.evict(now);
            if self.accounts.len() + self.newcomers.len() >= self.most_accounts() {
                return Err(Refusal::Full);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, client: ClientId, conn: Conn, run: [u8; 8], why: Refusal) {
        self.out.counters.count("client.refused");
        let bytes = without_numbers(Content::Refused { why, run });
        self.out.actions.push_back(Action::Refuse { client, conn, bytes });
    }

    fn not_written(&mut self, client: ClientId, bytes: &[u8]) {
        self.out.counters.count("downlink.not_written");
        let Some(account) = self.accounts.get_mut(&client) else {
            return;
        };
        let Some(link) = &mut account.link else { return };
        let held = match frame::number(bytes) {
            Some((frame::Kind::Reply, seq)) => Holds::Reply(seq.saturating_add(account.base)),
            Some((frame::Kind::Mail, number)) => Holds::Mail(number),
            _ => Holds::Filler,
        };
        self.wakeups.remove(&(link.scheduled(), client));
        link.not_written(held);
        self.wakeups.insert((link.schedule(), client));
    }

    fn admitted(&mut self, now: Time, client: ClientId, hello: Hello) {
        if let Some(account) = self.accounts.get_mut(&client) {
            let other_run = account.run.filter(|run| *run != hello.run);
            if let (Some(run), Some(conn), Some(_)) = (other_run, account.conn, &account.link) {
                // A second program with this identity: the newer one stays, and the older is told why.
                self.out.counters.count("client.replaced");
                self.refuse(client, conn, run, Refusal::Replaced);
            }
            return self.welcome(now, client, hello);
        }
        if let Some(newcomer) = self.newcomers.get_mut(&client) {
            newcomer.hello = Some(hello);
            return;
        }
        // It is welcome when its mailbox is on disk: nobody shall give away an address that a crash makes void.
        let rng = &mut self.rng;
        let registered = Registered {
            client,
            tag: ClientTag(draw::bytes(rng)),
            mailbox: MailboxId::new(draw::bytes(rng)),
            generation: u64::from_be_bytes(draw::bytes(rng)),
            since: now,
            seen: now,
            first: 1,
            next: 1,
        };
        let hello = Some(hello);
        self.newcomers.insert(client, Newcomer { registered, hello });
        self.out
            .actions
            .push_back(Action::Store(Order::Register(registered)));
    }

    /// The store has a newcomer's mailbox, or not.
    fn registered(&mut self, now: Time, client: ClientId, done: bool) {
        let Some(Newcomer { registered, hello }) = self.newcomers.remove(&client) else {
            return;
        };
        if !done {
            self.out.counters.count("mail.store_failed");
            if let Some(hello) = hello {
                self.refuse(client, hello.conn, hello.run, Refusal::Full);
            }
            return;
        }
        self.insert(&registered, now);
        match hello {
            // Others may have come while the store was at work.
            Some(Hello { conn, run, .. }) if self.linked() >= self.capacity() => {
                self.refuse(client, conn, run, Refusal::Full);
            }
            Some(hello) => self.welcome(now, client, hello),
            None => {}
        }
    }

    fn insert(&mut self, registered: &Registered, now: Time) {
        let uplink_per_s = self.document.profile().uplink_per_s();
        let account = Account::new(registered, uplink_per_s, now);
        self.by_tag.insert(account.tag, registered.client);
        self.mail.insert(registered);
        self.accounts.insert(registered.client, account);
    }

    fn welcome(&mut self, now: Time, client: ClientId, hello: Hello) {
        self.out.counters.count("client.admitted");
        self.gone(now, client);
        let profile = self.document.profile();
        let (uplink_per_s, downlink_per_s) = (profile.uplink_per_s(), profile.downlink_per_s);
        let Some(account) = self.accounts.get_mut(&client) else {
            return;
        };
        account.runs(hello.run);
        let reply = account.expects(hello.ack);
        self.replies.acknowledge(client, reply);
        let Some(mailbox) = self.mail.get_mut(&account.mailbox) else {
            return;
        };
        mailbox.resumed(account.mailbox, hello.seq, &mut self.out);
        // A random phase, so that the ticks of clients that come together don't fall together.
        let interval = Duration::from_secs_f64(1.0 / downlink_per_s);
        let next = (reply, mailbox.first());
        let mut link = Downlink::new(interval, draw::unit(&mut self.rng), uplink_per_s, next, now);
        self.wakeups.insert((link.schedule(), client));
        mailbox.read_ahead(now, account.mailbox, link.next_mail(), &mut self.out);
        account.link = Some(link);
        account.conn = Some(hello.conn);
        self.out.actions.push_back(Action::Welcome {
            client,
            conn: hello.conn,
            bytes: without_numbers(Content::Welcome {
                tag: account.tag,
                mailbox: account.mailbox,
                generation: account.generation,
            }),
        });
        self.seen(now, client);
    }

    /// Tells the store now and then that a client is here.
    fn seen(&mut self, now: Time, client: ClientId) {
        if let Some(account) = self.accounts.get_mut(&client)
            && now.since(account.seen) > SEEN_EVERY
        {
            account.seen = now;
            self.out
                .actions
                .push_back(Action::Store(Order::Seen { client, at: now }));
        }
    }

    fn gone(&mut self, now: Time, client: ClientId) {
        if let Some(newcomer) = self.newcomers.get_mut(&client) {
            newcomer.hello = None;
        }
        let Some(account) = self.accounts.get_mut(&client) else {
            return;
        };
        if let Some(link) = account.link.take() {
            account.away_since = now;
            self.wakeups.remove(&(link.scheduled(), client));
            if let Some(mailbox) = self.mail.get_mut(&account.mailbox) {
                mailbox.left();
            }
            self.seen(now, client);
        }
    }

    /// Makes room for a newcomer where accounts are all taken: the client that is away the longest, and so long that
    /// no SURB of its can come back any more, is forgotten if no mail waits for it. But not if it has been here on more than a
    /// day: whoever makes up clients by the thousand shall take nobody's address away.
    fn evict(&mut self, now: Time) {
        if self.accounts.len() + self.newcomers.len() < self.most_accounts() {
            return;
        }
        let life = self.document.profile().surb_life();
        let has_mail = |a: &Account| self.mail.get(&a.mailbox).is_some_and(mail::Mailbox::has_mail);
        let away = self.accounts.iter().filter(|(_, a)| {
            a.link.is_none() && now.since(a.away_since) > life && !has_mail(a) && !a.is_settled()
        });
        if let Some(client) = away.min_by_key(|(_, a)| a.away_since).map(|(&client, _)| client) {
            self.forget(client);
        }
    }

    fn forget(&mut self, client: ClientId) {
        let Some(Account { tag, mailbox, .. }) = self.accounts.remove(&client) else {
            return;
        };
        self.by_tag.remove(&tag);
        self.replies.remove(client);
        self.mail.remove(&mailbox);
        self.out.counters.count("client.forgotten");
        self.out
            .actions
            .push_back(Action::Store(Order::Forget { client, mailbox }));
    }

    /// Looks for what is old. Not outside the document's time: nothing shall be deleted because a clock went wrong.
    fn sweep(&mut self, now: Time) {
        self.mail.delete_again(&mut self.out);
        let (from, until) = self.document.validity();
        if now < from || now >= until {
            return;
        }
        let linked = |(&client, a): (&ClientId, &Account)| a.link.is_some().then_some(client);
        let here: Vec<ClientId> = self.accounts.iter().filter_map(linked).collect();
        for client in here {
            self.seen(now, client);
        }
        self.expire_replies(now);
        let is_away = |(&client, a): (&ClientId, &Account)| {
            (a.link.is_none() && now.since(a.away_since) > AWAY).then_some(client)
        };
        let away: Vec<ClientId> = self.accounts.iter().filter_map(is_away).collect();
        for client in away {
            self.forget(client);
        }
        self.out.actions.push_back(Action::Store(Order::Expire { now }));
    }

    /// Drops what is too old of those who are away. The others have a link whose numbers have no gaps, and are bounded.
    fn expire_replies(&mut self, now: Time) {
        for (&client, account) in &mut self.accounts {
            if account.link.is_some() {
                continue;
            }
            let (expired, first) = self.replies.expire(client, now, self.config.reply_life);
            if expired > 0 {
                self.out.counters.add("reply.expired", expired);
                account.acked = account.acked.max(first);
            }
        }
    }

    /// Clients with a link or a mailbox: four times as many as can have a link.
    fn most_accounts(&self) -> usize {
        self.capacity().saturating_mul(4)
    }

    fn message(&mut self, now: Time, mailbox: MailboxId, packet: Packet) {
        self.census.count(now);
        if Some(mailbox) == self.exit {
            return self.out.actions.push_back(Action::Exit(packet));
        }
        if Some(mailbox) == self.post {
            return self.out.actions.push_back(Action::Post(packet));
        }
        if mailbox != MailboxId::DROP {
            return self.out.counters.count("drop.no_such_mailbox");
        }
        let Some(surbs) = unpad(Dialect::Lioness, packet.message())
            .ok()
            .and_then(decode_drop)
        else {
            return self.out.counters.count("drop.bad_message");
        };
        self.out.counters.count("drop_received");
        for surb in decode_surbs(surbs) {
            if self.drops.push(&mut self.rng, now, surb, ()).is_err() {
                self.out.counters.count("drop.surbs_full");
            }
        }
    }

    fn reply(&mut self, now: Time, id: [u8; 16], packet: &Packet) {
        let (tag, _) = ClientTag::split(&id);
        let client = self.by_tag.get(&tag).copied();
        let Some((client, account)) = client.and_then(|c| Some((c, self.accounts.get_mut(&c)?))) else {
            return self.out.counters.count("drop.no_such_client");
        };
        let reply = Reply {
            id,
            payload: Box::new(*packet.payload()),
            at: now,
        };
        match self.replies.append(client, reply) {
            Ok(number) => {
                account.appended = number;
                self.out.counters.count("reply.kept");
            }
            Err(Full::Client) => self.out.counters.count("drop.mailbox_full"),
            Err(Full::All) => self.out.counters.count("drop.replies_full"),
        }
    }

    fn upload(&mut self, now: Time, id: UploadId, said: Upload) {
        let out = &mut self.out;
        match said {
            Upload::Open(mailbox) if self.mail.get(&mailbox).is_none() => {
                out.counters.count("upload.no_mailbox");
                out.say(id, Uploaded::Opened(Err(OpenError::NoMailbox)));
            }
            Upload::Open(mailbox) => self.uploads.open(id, mailbox, out),
            Upload::Bytes(bytes) => self.uploads.bytes(now, id, &bytes, out),
            Upload::Ended => self.uploads.ended(now, id, out),
            Upload::Wanted => self.uploads.wanted(id, out),
            Upload::Gone => self.uploads.gone(id),
        }
    }

    fn answered(&mut self, now: Time, answer: Answer) {
        match answer {
            Answer::Registered { client, result } => self.registered(now, client, result.is_ok()),
            Answer::Known { upload, result } => self.uploads.known(now, upload, result, &mut self.out),
            Answer::Appended {
                upload,
                mailbox,
                index,
                result,
            } => {
                if let (Ok(Some(number)), Some(mailbox)) = (result, self.mail.get_mut(&mailbox)) {
                    self.out.counters.count("mail.kept");
                    mailbox.took(number);
                }
                let owner = self.link_of(&mailbox);
                let may_wait =
                    owner.is_some() && self.mail.get(&mailbox).is_some_and(mail::Mailbox::has_mail);
                self.uploads
                    .appended(now, upload, index, result.map(drop), may_wait, &mut self.out);
                self.read_ahead(now, &mailbox);
            }
            Answer::Fetched { mailbox, result } => {
                if let Some(kept) = self.mail.get_mut(&mailbox) {
                    kept.fetched(now, result, &mut self.out);
                    self.starts_at(now, &mailbox);
                    self.read_ahead(now, &mailbox);
                }
            }
            Answer::Acknowledged { mailbox, result } => {
                if let Some(kept) = self.mail.get_mut(&mailbox) {
                    kept.deleted(mailbox, result, &mut self.out);
                    if result.is_ok() {
                        self.uploads.room(now, mailbox, &mut self.out);
                    }
                }
            }
            Answer::Expired { firsts } => {
                for (mailbox, first) in firsts {
                    if let Some(kept) = self.mail.get_mut(&mailbox) {
                        let gone = kept.first_is(first);
                        if gone > 0 {
                            self.out.counters.add("mail.expired", gone);
                        }
                        self.starts_at(now, &mailbox);
                        self.uploads.room(now, mailbox, &mut self.out);
                    }
                }
            }
        }
    }

    /// The downlink of a mailbox's owner, while he has one.
    fn link_of(&mut self, mailbox: &MailboxId) -> Option<&mut Downlink> {
        let owner = self.mail.get(mailbox)?.client;
        self.accounts.get_mut(&owner)?.link.as_mut()
    }

    /// Has the downlink pass over what its mailbox doesn't hold any more.
    fn starts_at(&mut self, now: Time, mailbox: &MailboxId) {
        if let Some(first) = self.mail.get(mailbox).map(mail::Mailbox::first)
            && let Some(link) = self.link_of(mailbox)
        {
            link.mail_acknowledged(now, first);
        }
    }

    /// Has the store read what a linked owner gets next.
    fn read_ahead(&mut self, now: Time, mailbox: &MailboxId) {
        if let Some(cursor) = self.link_of(mailbox).map(|link| link.next_mail())
            && let Some(kept) = self.mail.get_mut(mailbox)
        {
            kept.read_ahead(now, *mailbox, cursor, &mut self.out);
        }
    }

    fn mail_acknowledged(&mut self, now: Time, client: ClientId, next: u64) {
        let Some(id) = self.accounts.get(&client).map(|a| a.mailbox) else {
            return;
        };
        if let Some(mailbox) = self.mail.get_mut(&id)
            && mailbox.acknowledged(id, next, &mut self.out)
        {
            self.starts_at(now, &id);
            self.read_ahead(now, &id);
        }
    }

    /// The clock was set back by more than jitter. No frame until it is where it was would be a silence.
    fn set_back(&mut self, now: Time) {
        let by = self.told.since(now);
        self.census.restart();
        self.drops.shift_back(by);
        self.uploads.shift_back(by);
        self.mail.set_back();
        self.sweep_at = now + SWEEP;
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
        // Who asks is one.
        let users = self.census.at_least(now).map_or(0, |users| users.max(1));
        while let Some(&(at, client)) = self.wakeups.first() {
            // Nothing is later than `FAR_FUTURE`, so the tick after it would be at it again, for ever.
            if at > now || at == Time::FAR_FUTURE {
                break;
            }
            self.wakeups.pop_first();
            let Some(account) = self.accounts.get_mut(&client) else {
                continue;
            };
            let (Some(link), Some(conn)) = (&mut account.link, account.conn) else {
                continue;
            };
            match link.due(now) {
                Due::Prepare { reply, mail } => {
                    let stalls = link.take_stalls();
                    if stalls > 0 {
                        self.out.counters.add("stall.downlink", stalls);
                    }
                    let kept = self.mail.get_mut(&account.mailbox);
                    let ready = kept.as_ref().and_then(|kept| kept.ready(mail));
                    let (holds, seq, content) =
                        if let Some(Reply { id, payload, .. }) = self.replies.get(client, reply).cloned() {
                            let seq = reply.wrapping_sub(account.base);
                            (Holds::Reply(reply), seq, Content::Reply { id, payload })
                        } else if let Some(item) = ready.cloned() {
                            (Holds::Mail(mail), mail, Content::Mail(item))
                        } else {
                            (Holds::Filler, 0, Content::Filler { users })
                        };
                    link.prepared(holds, frame::encode(&Frame { ack: 0, seq, content }));
                    if link.tick() <= now {
                        self.out.counters.count("downlink.unready");
                    }
                    if let Some(kept) = kept {
                        kept.read_ahead(now, account.mailbox, link.next_mail(), &mut self.out);
                    }
                }
                Due::Send { bytes, holds } => {
                    self.out.counters.count(match holds {
                        Holds::Filler => "downlink.filler",
                        Holds::Reply(_) => "downlink.reply",
                        Holds::Mail(_) => "downlink.mail",
                    });
                    if let Holds::Mail(number) = holds
                        && let Some(kept) = self.mail.get_mut(&account.mailbox)
                    {
                        kept.sent(number);
                    }
                    self.out.actions.push_back(Action::Send { client, conn, bytes });
                }
                Due::Skipped(ticks) => self.out.counters.add("downlink.late_tick", ticks),
            }
            self.wakeups.insert((link.schedule(), client));
        }
    }

    fn use_drop_surbs(&mut self, now: Time) {
        let too_late = self.drops.drop_overdue(now);
        if too_late > 0 {
            self.out.counters.add("drop.surb_too_late", too_late);
        }
        while let Some((surb, ())) = self.drops.pop_due(now) {
            let mut packet = Packet::zeroed();
            let mut message = [0; MESSAGE_LEN];
            self.rng.fill_bytes(&mut message);
            use_surb(Dialect::Lioness, surb, &message, &mut packet);
            self.out.counters.count("filler_reply");
            self.out.actions.push_back(Action::Mix(packet));
        }
    }
}

/// The bytes of an answer to a hello.
fn without_numbers(content: Content) -> Box<[u8]> {
    let (ack, seq) = (0, 0);
    frame::encode(&Frame { ack, seq, content })
}
