//! The gateway core: admits clients, takes their packets, keeps what comes back for them and the letters that others bring
//! for them, answers them at a constant rate with real frames or fillers; uses the SURBs of drops at their due times.
//!
//! Sans-I/O, as the mix core beside it, whose local deliveries it takes; the disk is behind a [`store`]. The design's Traffic
//! section ("Gateway link", "Reply slots"); Loopix's provider. What an exit does with its messages, and how the streams of
//! uploads get here, is `mizzle-exit`'s.

mod admission;
mod config;
mod downlinks;
mod link;
mod mail;
mod replies;
pub mod store;
mod upload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::document::Node;
use mizzle_base::frame::{self, Content, Frame};
use mizzle_base::{ClientTag, Counters, Document, MailboxId, NodeId, Rng, Time};
use mizzle_sphinx::{Dialect, MESSAGE_LEN, Packet, unpad, use_surb};
use mizzle_stream::OpenError;
use mizzle_traffic::census::Census;
use mizzle_traffic::draw;
use mizzle_traffic::reply::{ReplySlots, decode_drop, decode_surbs};
use rand_core::Rng as _;

use admission::{Account, Hello, Newcomer};
use mail::Mailboxes;
use replies::{Full, Replies, Reply};
use store::{Answer, Order, Registered};
use upload::Uploads;

pub use config::{Admission, Config};

/// A client, as the link tells it: hash of the identity that it uses with this gateway alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(pub [u8; 32]);

/// One of a client's connections, as the shell names it; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Conn(pub u64);

/// A stream to a mailbox, as the shell names it; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UploadId(pub u64);

/// A clock that goes back by more than this between two calls was set.
const JUMP: Duration = Duration::from_secs(1);
/// Every so often what is old is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// Who was away for so long is forgotten.
const AWAY: Duration = Duration::from_secs(30 * 86_400);

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
