//! The exit core: sessions from clients on one side, connections to the outside on the other. Also the session end of a
//! gateway's mail: the same, with mailboxes in place of the outside.
//!
//! Takes the messages that its gateway's mix core delivered for its mailbox; answers on the SURBs of each session at
//! their due times, with the session's next packet. The design's "The main flow" and "Reply slots". Sealing and
//! retransmission are `mizzle-stream`'s; sockets and names are the shell's; which addresses are allowed is
//! [`crate::policy`]'s, asked here for the very address that is connected to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use mizzle_base::profile::SURBS_PER_REPLY_SLOT;
use mizzle_base::{Counters, Document, MailboxId, NetworkId, NodeId, Rng, Time};
use mizzle_sphinx::{Dialect, MAX_BODY_LEN, Packet, pad_in_place, unpad, use_surb_in_place};
use mizzle_stream::{
    Acceptor, Arrival, CODEC_STREAM, DropReason, Event, Host, Initial, OpenError, Params, Received, Session,
    StreamId, Target,
};
use mizzle_traffic::draw;
use mizzle_traffic::reply::{ReplySlots, decode_surbs};
use rand_core::{Rng as _, SeedableRng as _};

use crate::policy::Policy;

/// A connection to the outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ConnId(u64);

impl ConnId {
    /// A number that no other connection of this core has.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Most and fewest bytes asked of a connection at once: room in a session comes back by the packet, and each reading has
/// its price.
const READ: usize = 64 * 1024;
const READ_AT_LEAST: usize = 4 * 1024;
/// A clock that goes back by more than this between two calls was set.
const JUMP: Duration = Duration::from_secs(1);

/// Bounds of an exit core.
#[derive(Clone, Debug)]
pub struct Config {
    sessions: usize,
    connections_per_session: usize,
    bytes_per_session: u64,
    surbs: usize,
    connect_timeout: Duration,
    unwritten: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sessions: 4_096,
            connections_per_session: 64,
            bytes_per_session: 64 << 30,
            surbs: 65_536,
            connect_timeout: Duration::from_secs(8),
            unwritten: 256 * 1024,
        }
    }
}

impl Config {
    /// Bounds of the mail's sessions: 1,024 of them with four letters each at a time.
    #[must_use]
    pub fn for_mail() -> Self {
        Self::default()
            .with_sessions(1_024)
            .with_connections_per_session(4)
            .with_unwritten(64 * 1024)
    }

    /// Bytes written to a connection and not yet taken by the socket, before the core holds back more; 256 KiB by default.
    #[must_use]
    pub fn with_unwritten(mut self, bytes: usize) -> Self {
        self.unwritten = bytes;
        self
    }

    /// Most sessions at a time; a new one beyond it is dropped and counted, and its client hears of a time-out. A session
    /// holds up to some 9 MB while its client reads slower than its targets send, else some 40 KB.
    #[must_use]
    pub fn with_sessions(mut self, n: usize) -> Self {
        self.sessions = n;
        self
    }

    /// Most connections of one session; opening one more fails with [`OpenError::Limit`].
    #[must_use]
    pub fn with_connections_per_session(mut self, n: usize) -> Self {
        self.connections_per_session = n;
        self
    }

    /// Most bytes, both ways together, that one session may carry; its connections are reset then.
    #[must_use]
    pub fn with_bytes_per_session(mut self, n: u64) -> Self {
        self.bytes_per_session = n;
        self
    }

    /// Most SURBs that wait for their due times, 0.7 KB each; more are dropped and counted.
    #[must_use]
    pub fn with_surbs(mut self, n: usize) -> Self {
        self.surbs = n;
        self
    }

    /// Name look-up and connecting together take at most this; then the client is told of a time-out.
    #[must_use]
    pub fn with_connect_timeout(mut self, t: Duration) -> Self {
        self.connect_timeout = t;
        self
    }
}

/// What an exit core is told.
pub enum Input {
    /// A message for the exit's mailbox.
    Message(Packet),
    /// The answer to [`Action::Resolve`].
    Resolved(ConnId, Result<Vec<IpAddr>, OpenError>),
    /// The answer to [`Action::Connect`] and [`Action::Mailbox`].
    Connected(ConnId, Result<(), OpenError>),
    /// The answer to [`Action::Read`]: some bytes; none at the end of the stream.
    Read(ConnId, Bytes),
    /// So many bytes of [`Action::Write`] were taken by the socket.
    Wrote(ConnId, usize),
    /// The connection broke.
    Broken(ConnId),
    /// Time passed.
    Tick,
}

/// What an exit core wants done.
pub enum Action {
    /// Look a name up.
    Resolve(ConnId, String),
    /// Connect to the first of these that answers, in this order. Each was allowed by the policy.
    Connect(ConnId, Vec<SocketAddr>),
    /// Ask the gateway core beside for this mailbox; [`Input::Connected`] is its answer, too.
    Mailbox(ConnId, MailboxId),
    /// Read once, up to so many bytes.
    Read(ConnId, usize),
    /// Write all of this, after what was to be written before.
    Write(ConnId, Bytes),
    /// Nothing more will be written.
    Finish(ConnId),
    /// Close at once, with a reset where there is such a thing. May be said of a connection that is gone.
    Abort(ConnId),
    /// Both directions ended in order: let the connection end by itself.
    Forget(ConnId),
    /// Hand this packet to the mix core beside.
    Mix(Packet),
}

#[derive(Clone, Copy)]
enum State {
    Resolving {
        port: u16,
    },
    Connecting,
    Open,
    /// It broke after the target had ended. What the target sent is still delivered; what the client still sends
    /// goes nowhere.
    Deaf,
}

/// What its connections lead to.
enum Serves {
    /// The outside, as far as the policy allows.
    Outside(Policy),
    /// The mailboxes of the gateway.
    Mailboxes,
}

struct Conn {
    session: u64,
    stream: StreamId,
    state: State,
    give_up_at: Time,
    reading: bool,
    read_ended: bool,
    unwritten: usize,
    /// Everything that the client sent was read from its session.
    client_finished: bool,
    write_finished: bool,
}

struct Live {
    session: Session,
    conns: BTreeMap<StreamId, ConnId>,
    bytes: u64,
    over_its_bytes: bool,
    /// When it is in `Exit::wakeups`.
    wakes_at: Option<Time>,
}

/// The counters, under names of their own for the mail: those of both are merged in one snapshot.
struct Tally {
    of_mail: bool,
    counters: Counters,
}

impl Tally {
    fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    fn add(&mut self, name: &'static str, n: u64) {
        if n > 0 {
            let name = if self.of_mail { name_in_mail(name) } else { name };
            self.counters.add(name, n);
        }
    }
}

fn name_in_mail(name: &'static str) -> &'static str {
    match name {
        "session.begun" => "mail.session.begun",
        "session.ended" => "mail.session.ended",
        "session.over_its_bytes" => "mail.session.over_its_bytes",
        "connection.limit" => "mail.connection.limit",
        "connection.asked_for" => "mail.connection.asked_for",
        "connection.opened" => "mail.connection.opened",
        "connection.overrun" => "mail.connection.overrun",
        "connection.broken" => "mail.connection.broken",
        "connection.failed" => "mail.connection.failed",
        "connection.wrong_service" => "mail.connection.wrong_service",
        "reply.sent" => "mail.reply.sent",
        "reply.filler_sent" => "mail.reply.filler_sent",
        "stall.probe" => "mail.stall.probe",
        "stall.opening" => "mail.stall.opening",
        "stall.silence" => "mail.stall.silence",
        "drop.surbs_full" => "mail.drop.surbs_full",
        "drop.surb_too_late" => "mail.drop.surb_too_late",
        "session_drop_full" => "mail.drop.sessions_full",
        _ => "mail.drop.packet",
    }
}

/// An exit core: [`Self::handle`], [`Self::poll`], [`Self::deadline`].
pub struct Exit {
    config: Config,
    network: NetworkId,
    me: NodeId,
    serves: Serves,
    sessions: BTreeMap<u64, Live>,
    conns: BTreeMap<ConnId, Conn>,
    acceptor: Acceptor<u64>,
    surbs: ReplySlots<u64>,
    /// When each session wants to be asked, and when each connection that isn't open is given up.
    wakeups: BTreeSet<(Time, u64)>,
    connecting: BTreeSet<(Time, ConnId)>,
    next_id: u64,
    rng: Rng,
    told: Time,
    actions: VecDeque<Action>,
    tally: Tally,
}

impl Exit {
    /// The exit inside node `me` of the document, with the secret of its stream key.
    #[must_use]
    pub fn new(
        config: Config,
        document: &Document,
        me: &NodeId,
        stream_secret: [u8; 32],
        policy: Policy,
        rng: Rng,
    ) -> Self {
        Self::serving(Serves::Outside(policy), config, document, me, stream_secret, rng)
    }

    /// The session end of the mail of node `me`, with the secret of that service's stream key. It takes
    /// [`Host::Mailbox`] for a target and nothing else; its counters begin with `mail.`.
    #[must_use]
    pub fn for_mail(
        config: Config,
        document: &Document,
        me: &NodeId,
        stream_secret: [u8; 32],
        rng: Rng,
    ) -> Self {
        Self::serving(Serves::Mailboxes, config, document, me, stream_secret, rng)
    }

    fn serving(
        serves: Serves,
        config: Config,
        document: &Document,
        me: &NodeId,
        stream_secret: [u8; 32],
        mut rng: Rng,
    ) -> Self {
        let tally = Tally {
            of_mail: matches!(serves, Serves::Mailboxes),
            counters: Counters::default(),
        };
        let params = Params::for_network(document, me);
        let acceptor_rng = Rng::from_seed(draw::bytes(&mut rng));
        Self {
            surbs: ReplySlots::new(document.profile().reply_due_mean_ms, config.surbs),
            acceptor: Acceptor::new(params, stream_secret, config.sessions, acceptor_rng),
            config,
            network: document.network(),
            me: *me,
            serves,
            sessions: BTreeMap::new(),
            conns: BTreeMap::new(),
            wakeups: BTreeSet::new(),
            connecting: BTreeSet::new(),
            next_id: 0,
            rng,
            told: Time::ZERO,
            actions: VecDeque::new(),
            tally,
        }
    }

    /// From now on sessions begin with these stream keys, each with its epoch, the current one first; with those of before no
    /// more. Sessions that live go on, with keys of their own which the two ends drew.
    pub fn set_keys(&mut self, keys: impl IntoIterator<Item = (u32, [u8; 32])>) {
        let context = |epoch| Params::context_of(&self.network, epoch, &self.me);
        let keys = keys.into_iter().map(|(epoch, secret)| (context(epoch), secret));
        self.acceptor.set_keys(keys);
    }

    /// Tells the core what happened at `now`. Answers for connections that were given up meanwhile are ignored.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.told.since(now) > JUMP {
            self.set_back(now);
        }
        self.told = now;
        match input {
            Input::Message(packet) => self.message(now, packet),
            Input::Resolved(id, result) => self.of_connection(now, id, |exit| exit.resolved(id, result)),
            Input::Connected(id, result) => self.of_connection(now, id, |exit| exit.connected(id, result)),
            Input::Read(id, bytes) => self.of_connection(now, id, |exit| exit.read(id, &bytes)),
            Input::Wrote(id, n) => self.of_connection(now, id, |exit| {
                if let Some(conn) = exit.conns.get_mut(&id) {
                    conn.unwritten = conn.unwritten.saturating_sub(n);
                }
            }),
            Input::Broken(id) => self.of_connection(now, id, |exit| exit.broken(id)),
            Input::Tick => {}
        }
        self.time_out(now);
        self.use_surbs(now);
    }

    /// The next thing to do; drain until `None`.
    #[must_use]
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle`] again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let sessions = self.wakeups.first().map(|w| w.0);
        let connecting = self.connecting.first().map(|c| c.0);
        [sessions, connecting, self.surbs.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What it did and dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.tally.counters
    }

    /// Sessions at this moment.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn message(&mut self, now: Time, packet: Packet) {
        let Ok(body) = unpad(Dialect::Lioness, packet.message()) else {
            return self.tally.count("drop.bad_padding");
        };
        let Some((&CODEC_STREAM, sealed)) = body.split_first() else {
            return self.tally.count("drop.unknown_codec");
        };
        let (id, received) = match self.acceptor.sort(sealed) {
            Err(why) => return self.tally.count(why.name()),
            Ok(Arrival::Packet { session: id, counter }) => (
                id,
                self.of_session(id, |session| session.receive_tagged(now, counter, sealed)),
            ),
            Ok(Arrival::Retry { session: id, initial }) => {
                (id, self.of_session(id, |session| session.retry(now, initial)))
            }
            Ok(Arrival::New(initial)) => self.begin(now, initial),
        };
        match received {
            Err(why) => self.tally.count(why.name()),
            Ok(Received { surbs }) => {
                for surb in decode_surbs(&surbs).take(SURBS_PER_REPLY_SLOT) {
                    if self.surbs.push(&mut self.rng, now, surb, id).is_err() {
                        self.tally.count("drop.surbs_full");
                    }
                }
            }
        }
        // After an error too: one that breaks the protocol has ended the session.
        self.pump(now, id);
    }

    fn of_session(
        &mut self,
        id: u64,
        act: impl FnOnce(&mut Session) -> Result<Received, DropReason>,
    ) -> Result<Received, DropReason> {
        act(&mut self.sessions.get_mut(&id).ok_or(DropReason::Closed)?.session)
    }

    fn begin(&mut self, now: Time, initial: Initial) -> (u64, Result<Received, DropReason>) {
        self.next_id += 1;
        let id = self.next_id;
        let received = self.acceptor.accept(now, id, initial).map(|(session, received)| {
            let (conns, wakes_at) = (BTreeMap::new(), None);
            self.sessions.insert(
                id,
                Live {
                    session,
                    conns,
                    bytes: 0,
                    over_its_bytes: false,
                    wakes_at,
                },
            );
            self.tally.count("session.begun");
            received
        });
        (id, received)
    }

    /// Moves everything that can move between a session and its connections.
    fn pump(&mut self, now: Time, id: u64) {
        loop {
            let Some(live) = self.sessions.get_mut(&id) else {
                return;
            };
            if let Some(event) = live.session.poll_event() {
                self.event(now, id, event);
                continue;
            }
            self.move_bytes(id);
            let Some(live) = self.sessions.get_mut(&id) else {
                return;
            };
            if live.bytes > self.config.bytes_per_session && !live.over_its_bytes {
                live.over_its_bytes = true;
                self.tally.count("session.over_its_bytes");
                live.session.close(now);
            } else if !live.session.has_events() {
                break;
            }
        }
        self.schedule(id);
    }

    /// Notes when a session wants to be asked: to look at all of them for every packet would take longer than the packet.
    fn schedule(&mut self, id: u64) {
        let Some(live) = self.sessions.get_mut(&id) else {
            return;
        };
        let at = live.session.deadline();
        if at != live.wakes_at {
            let old = std::mem::replace(&mut live.wakes_at, at);
            old.map(|at| self.wakeups.remove(&(at, id)));
            self.wakeups.extend(at.map(|at| (at, id)));
        }
    }

    fn event(&mut self, now: Time, id: u64, event: Event) {
        let Some(live) = self.sessions.get_mut(&id) else {
            return;
        };
        match event {
            Event::Incoming(stream, target) => self.incoming(now, id, stream, target),
            Event::Finished(stream) => {
                if let Some(conn) = live.conns.get(&stream).and_then(|conn| self.conns.get_mut(conn)) {
                    conn.client_finished = true;
                }
            }
            Event::Reset(stream, _) => {
                if let Some(conn) = live.conns.remove(&stream) {
                    self.abort(conn);
                }
            }
            Event::Stalled(stall) => self.tally.count(stall.name()),
            Event::Closed(_) => self.end_session(id),
            Event::Readable(_) | Event::Writable(_) | Event::Delivered(_) => {}
            Event::Opened(_) | Event::OpenFailed(..) => {}
        }
    }

    fn move_bytes(&mut self, id: u64) {
        let Some(live) = self.sessions.get_mut(&id) else {
            return;
        };
        let mut over = Vec::new();
        for (&stream, &conn_id) in &live.conns {
            let Some(conn) = self.conns.get_mut(&conn_id) else {
                continue;
            };
            match conn.state {
                State::Resolving { .. } | State::Connecting => continue,
                State::Deaf => {
                    while let Some(bytes) = live.session.read(stream, self.config.unwritten) {
                        live.bytes += bytes.len() as u64;
                    }
                    if conn.client_finished {
                        over.push((stream, conn_id));
                    }
                    continue;
                }
                State::Open => {}
            }
            let most = self.config.unwritten;
            while conn.unwritten < most {
                let Some(bytes) = live.session.read(stream, most - conn.unwritten) else {
                    break;
                };
                conn.unwritten += bytes.len();
                live.bytes += bytes.len() as u64;
                self.actions.push_back(Action::Write(conn_id, bytes));
            }
            if conn.client_finished && !conn.write_finished {
                conn.write_finished = true;
                self.actions.push_back(Action::Finish(conn_id));
            }
            let room = live.session.writable(stream).min(READ);
            if !conn.reading && !conn.read_ended && room >= READ_AT_LEAST {
                conn.reading = true;
                self.actions.push_back(Action::Read(conn_id, room));
            }
            if conn.read_ended && conn.write_finished && conn.unwritten == 0 {
                over.push((stream, conn_id));
            }
        }
        for (stream, conn_id) in over {
            live.conns.remove(&stream);
            let conn = self.conns.remove(&conn_id);
            if conn.is_some_and(|conn| matches!(conn.state, State::Open)) {
                self.actions.push_back(Action::Forget(conn_id));
            }
        }
    }

    fn of_connection(&mut self, now: Time, id: ConnId, act: impl FnOnce(&mut Self)) {
        let Some(session) = self.conns.get(&id).map(|conn| conn.session) else {
            return;
        };
        act(self);
        self.pump(now, session);
    }

    fn incoming(&mut self, now: Time, id: u64, stream: StreamId, target: Target) {
        let Some(live) = self.sessions.get_mut(&id) else {
            return;
        };
        if live.conns.len() >= self.config.connections_per_session {
            self.tally.count("connection.limit");
            return live.session.open_failed(stream, OpenError::Limit);
        }
        self.next_id += 1;
        let conn_id = ConnId(self.next_id);
        live.conns.insert(stream, conn_id);
        self.tally.count("connection.asked_for");
        let give_up_at = now + self.config.connect_timeout;
        self.connecting.insert((give_up_at, conn_id));
        let conn = Conn {
            session: id,
            stream,
            state: State::Resolving { port: target.port },
            give_up_at,
            reading: false,
            read_ended: false,
            unwritten: 0,
            client_finished: false,
            write_finished: false,
        };
        self.conns.insert(conn_id, conn);
        match (&self.serves, target.host) {
            (Serves::Outside(_), Host::Name(name)) => self
                .actions
                .push_back(Action::Resolve(conn_id, name.as_str().into())),
            (Serves::Outside(_), Host::Ip(ip)) => self.resolved(conn_id, Ok(vec![ip])),
            (Serves::Mailboxes, Host::Mailbox(mailbox)) => {
                if let Some(conn) = self.conns.get_mut(&conn_id) {
                    conn.state = State::Connecting;
                }
                self.actions.push_back(Action::Mailbox(conn_id, mailbox));
            }
            (Serves::Outside(_), Host::Mailbox(_)) | (Serves::Mailboxes, Host::Name(_) | Host::Ip(_)) => {
                self.tally.count("connection.wrong_service");
                self.fail(conn_id, OpenError::Refused);
            }
        }
    }

    fn resolved(&mut self, id: ConnId, result: Result<Vec<IpAddr>, OpenError>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let State::Resolving { port } = conn.state else {
            return;
        };
        let found = match result {
            Ok(found) if found.is_empty() => return self.fail(id, OpenError::NameNotFound),
            Ok(found) => found,
            Err(why) => return self.fail(id, why),
        };
        let Serves::Outside(policy) = &self.serves else {
            return self.fail(id, OpenError::Refused);
        };
        // What the policy gives back is what is connected to: no second look-up can change it.
        let allowed: Vec<SocketAddr> = found
            .into_iter()
            .filter_map(|ip| policy.check(SocketAddr::new(ip, port)).ok())
            .take(MAX_ADDRESSES)
            .collect();
        if allowed.is_empty() {
            self.tally.count("connection.refused_by_policy");
            return self.fail(id, OpenError::Refused);
        }
        conn.state = State::Connecting;
        self.actions.push_back(Action::Connect(id, allowed));
    }

    fn connected(&mut self, id: ConnId, result: Result<(), OpenError>) {
        let Some(conn) = self
            .conns
            .get_mut(&id)
            .filter(|c| matches!(c.state, State::Connecting))
        else {
            return;
        };
        if let Err(why) = result {
            return self.fail(id, why);
        }
        conn.state = State::Open;
        self.connecting.remove(&(conn.give_up_at, id));
        self.tally.count("connection.opened");
        if let Some(live) = self.sessions.get_mut(&conn.session) {
            live.session.opened(conn.stream);
        }
    }

    fn read(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| c.reading) else {
            return;
        };
        conn.reading = false;
        let Some(live) = self.sessions.get_mut(&conn.session) else {
            return;
        };
        if bytes.is_empty() {
            conn.read_ended = true;
            return live.session.finish(conn.stream);
        }
        live.bytes += bytes.len() as u64;
        // It was asked for no more than there was room for, and room only grows.
        if live.session.write(conn.stream, bytes) < bytes.len() {
            self.tally.count("connection.overrun");
            self.fail(id, OpenError::General);
        }
    }

    fn broken(&mut self, id: ConnId) {
        self.tally.count("connection.broken");
        match self.conns.get_mut(&id) {
            // A reset would take along what the target sent before its end and the client doesn't have yet.
            Some(conn) if conn.read_ended => {
                conn.state = State::Deaf;
                self.actions.push_back(Action::Abort(id));
            }
            _ => self.fail(id, OpenError::General),
        }
    }

    /// Ends a connection that couldn't be made or broke, and tells the client.
    fn fail(&mut self, id: ConnId, why: OpenError) {
        let Some(conn) = self.abort(id) else { return };
        let Some(live) = self.sessions.get_mut(&conn.session) else {
            return;
        };
        live.conns.remove(&conn.stream);
        match conn.state {
            State::Open | State::Deaf => live.session.reset(conn.stream, why.code()),
            State::Resolving { .. } | State::Connecting => {
                self.tally.count("connection.failed");
                live.session.open_failed(conn.stream, why);
            }
        }
    }

    fn abort(&mut self, id: ConnId) -> Option<Conn> {
        let conn = self.conns.remove(&id)?;
        self.connecting.remove(&(conn.give_up_at, id));
        self.actions.push_back(Action::Abort(id));
        Some(conn)
    }

    fn end_session(&mut self, id: u64) {
        self.acceptor.forget(&id);
        self.tally.count("session.ended");
        if let Some(live) = self.sessions.remove(&id) {
            live.wakes_at.map(|at| self.wakeups.remove(&(at, id)));
            for conn in live.conns.into_values() {
                self.abort(conn);
            }
        }
    }

    fn time_out(&mut self, now: Time) {
        while let Some(&(at, conn)) = self.connecting.first()
            && at <= now
        {
            self.connecting.pop_first();
            self.of_connection(now, conn, |exit| exit.fail(conn, OpenError::Timeout));
        }
        // Each once: what it wants next may be due already, and is served in the next turn.
        let due: Vec<u64> = self
            .wakeups
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|&(_, id)| id)
            .collect();
        for id in due {
            self.wake(now, id);
        }
    }

    fn wake(&mut self, now: Time, id: u64) {
        if let Some(live) = self.sessions.get_mut(&id) {
            live.session.handle_timeout(now);
        }
        self.pump(now, id);
    }

    /// The clock was set back: what waits for a moment would wait until it is where it was.
    fn set_back(&mut self, now: Time) {
        let by = self.told.since(now);
        self.surbs.shift_back(by);
        self.connecting = std::mem::take(&mut self.connecting)
            .into_iter()
            .map(|(at, id)| (at - by, id))
            .collect();
        for (_, id) in &self.connecting {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.give_up_at = conn.give_up_at - by;
            }
        }
        // Sessions keep a time of their own; each learns of the step when it is told the time.
        let all: Vec<u64> = self.sessions.keys().copied().collect();
        for id in all {
            self.wake(now, id);
        }
    }

    /// Sends on every SURB that is due: the session's next packet, or a filler where the session is over. Not on what became due
    /// while the machine slept.
    fn use_surbs(&mut self, now: Time) {
        let too_late = self.surbs.drop_overdue(now);
        self.tally.add("drop.surb_too_late", too_late);
        while let Some((surb, id)) = self.surbs.pop_due(now) {
            let mut packet = Packet::zeroed();
            let body = pad_in_place(MAX_BODY_LEN, packet.message_mut());
            let live = self.sessions.get_mut(&id);
            if live.is_some_and(|live| live.session.fill(now, &[], body).is_some()) {
                self.tally.count("reply.sent");
                // What was sent may have made room for more.
                self.pump(now, id);
            } else {
                self.rng.fill_bytes(body);
                self.tally.count("reply.filler_sent");
            }
            use_surb_in_place(Dialect::Lioness, surb, &mut packet);
            self.actions.push_back(Action::Mix(packet));
        }
    }
}
