//! The sessions of a client: which exit a stream goes through, which streams share a session, and which session a slot
//! serves. Streams to mailboxes have sessions with the mail services of gateways, each one of its own.
//!
//! The design's End to end section: a stream is its own session unless user, password and target host equal those of
//! a live one younger than ten minutes; an exit in one's own gateway, or of its operator, is never used.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use mizzle_base::document::Node;
use mizzle_base::{Counters, Document, MailboxId, NodeId, Rng, Time};
use mizzle_stream::{
    Event, Host, Isolation, OpenError, OpenRequest, Params, ReplyDemand, Session, StreamId, Target,
};
use mizzle_traffic::draw;
use mizzle_traffic::slot::Kind;
use rand_core::SeedableRng as _;

/// A session older than this takes no new streams.
const SHARED_FOR: Duration = Duration::from_secs(600);
/// While sessions with something to fetch compete, every so-manieth reply slot goes to one that only might have.
const IDLE_TURN: u64 = 8;

/// A stream of a client, over all its sessions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct StreamKey(u64);

/// What happened to a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamEvent {
    /// The exit has connected.
    Opened,
    /// It has not, or the stream broke; nothing more comes.
    Failed(OpenError),
    /// There is something to read.
    Readable,
    /// There is room to write again.
    Writable,
    /// The other side ended, and everything was read. Once what was written is delivered too, the stream is forgotten.
    Ended,
}

/// A session that a slot serves.
pub(crate) struct Speaks {
    pub(crate) session: u64,
    pub(crate) mailbox: MailboxId,
}

/// What a session can be with.
struct Service {
    gateway: NodeId,
    mailbox: MailboxId,
    stream_key: [u8; 32],
    /// Of an exit that may be used: its share, relative to the sum. None for mail.
    exit_weight: Option<f64>,
    params: Params,
}

struct Live {
    session: Session,
    service: usize,
    isolation: Isolation,
    host: Host,
    since: Time,
    streams: BTreeMap<StreamId, Known>,
    /// When it is in `Sessions::wakeups`.
    wakes_at: Option<Time>,
    /// Turn at which a slot of each kind served it last: the one that waited longest is next.
    served: [u64; 2],
}

/// A stream that is not over.
struct Known {
    key: StreamKey,
    /// The other side ended, and everything was read.
    ended: bool,
    /// This side ended, and the exit has everything.
    delivered: bool,
}

/// See the [module](self).
pub(crate) struct Sessions {
    capacity: usize,
    services: Vec<Service>,
    live: BTreeMap<u64, Live>,
    streams: BTreeMap<StreamKey, (u64, StreamId)>,
    /// When each session wants to be asked.
    wakeups: BTreeSet<(Time, u64)>,
    next_id: u64,
    turn: u64,
    rng: Rng,
    events: VecDeque<(StreamKey, StreamEvent)>,
    counters: Counters,
}

impl Sessions {
    pub(crate) fn new(capacity: usize, document: &Document, own: &Node, rng: Rng) -> Self {
        Self {
            capacity,
            services: services(document, own),
            live: BTreeMap::new(),
            streams: BTreeMap::new(),
            wakeups: BTreeSet::new(),
            next_id: 0,
            turn: 0,
            rng,
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The services have other keys now; they are the same in the same order. Sessions that live go on with the keys that their
    /// two ends drew.
    pub(crate) fn set_document(&mut self, document: &Document, own: &Node) {
        self.services = services(document, own);
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Ends all sessions without a word to their exits; their streams fail for this reason.
    pub(crate) fn end_all(&mut self, why: OpenError) {
        for id in self.live.keys().copied().collect::<Vec<u64>>() {
            self.counters.count("session.ended");
            self.remove(id, why);
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<(StreamKey, StreamEvent)> {
        self.events.pop_front()
    }

    pub(crate) fn open(&mut self, now: Time, request: OpenRequest) -> Result<StreamKey, OpenError> {
        let OpenRequest { target, isolation } = request;
        let fits = |live: &Live| {
            live.isolation.may_share(&isolation)
                && live.host == target.host
                && now.since(live.since) < SHARED_FOR
        };
        let shareable: Vec<u64> = self
            .live
            .iter()
            .filter(|(_, live)| fits(live))
            .map(|(&id, _)| id)
            .collect();
        for id in shareable {
            // One that is about to end, or has its most streams, says no.
            if let Ok(key) = self.begin(now, id, &target) {
                return Ok(key);
            }
        }
        let exit = self.draw_exit()?;
        self.open_alone(now, exit, &target, isolation)
    }

    fn begin(&mut self, now: Time, id: u64, target: &Target) -> Result<StreamKey, OpenError> {
        let live = self.live.get_mut(&id).ok_or(OpenError::General)?;
        let stream = live.session.open(now, target)?;
        self.next_id += 1;
        let key = StreamKey(self.next_id);
        live.streams.insert(
            stream,
            Known {
                key,
                ended: false,
                delivered: false,
            },
        );
        self.streams.insert(key, (id, stream));
        self.counters.count("stream.opened");
        self.collect(id);
        Ok(key)
    }

    /// A stream to a mailbox, in a session of its own with the mail service of its gateway.
    pub(crate) fn open_mailbox(
        &mut self,
        now: Time,
        gateway: &NodeId,
        mailbox: MailboxId,
    ) -> Result<StreamKey, OpenError> {
        let is_it = |s: &Service| s.gateway == *gateway && s.exit_weight.is_none();
        let mail = self.services.iter().position(is_it).ok_or(OpenError::NoMailbox)?;
        let target = Target::mailbox(mailbox);
        self.open_alone(now, mail, &target, Isolation::Fresh)
    }

    /// A stream in a new session.
    fn open_alone(
        &mut self,
        now: Time,
        service: usize,
        target: &Target,
        isolation: Isolation,
    ) -> Result<StreamKey, OpenError> {
        let id = self.connect(now, service, target, isolation)?;
        let key = self.begin(now, id, target);
        if key.is_err() {
            self.remove(id, OpenError::Closed);
        }
        key
    }

    /// An exit, drawn by the weights of those that may be used.
    fn draw_exit(&mut self) -> Result<usize, OpenError> {
        let exits = self.services.iter().enumerate();
        let (indices, weights): (Vec<usize>, Vec<f64>) =
            exits.filter_map(|(n, s)| Some((n, s.exit_weight?))).unzip();
        if indices.is_empty() {
            return Err(OpenError::NoExit);
        }
        Ok(indices[draw::weighted(&mut self.rng, &weights)])
    }

    fn connect(
        &mut self,
        now: Time,
        chosen: usize,
        target: &Target,
        isolation: Isolation,
    ) -> Result<u64, OpenError> {
        if self.live.len() >= self.capacity {
            return Err(OpenError::Limit);
        }
        let service = &self.services[chosen];
        let rng = Rng::from_seed(draw::bytes(&mut self.rng));
        let session = Session::connect(service.params.clone(), &service.stream_key, rng, now);
        self.next_id += 1;
        let live = Live {
            session,
            service: chosen,
            isolation,
            host: target.host.clone(),
            since: now,
            streams: BTreeMap::new(),
            wakes_at: None,
            served: [0; 2],
        };
        self.live.insert(self.next_id, live);
        self.counters.count("session.begun");
        Ok(self.next_id)
    }

    fn with<T>(&mut self, key: StreamKey, act: impl FnOnce(&mut Session, StreamId) -> T) -> Option<T> {
        let &(id, stream) = self.streams.get(&key)?;
        let result = act(&mut self.live.get_mut(&id)?.session, stream);
        self.collect(id);
        Some(result)
    }

    pub(crate) fn write(&mut self, key: StreamKey, data: &[u8]) -> usize {
        self.with(key, |session, stream| session.write(stream, data))
            .unwrap_or(0)
    }

    pub(crate) fn finish(&mut self, key: StreamKey) {
        self.with(key, |session, stream| session.finish(stream));
    }

    pub(crate) fn reset(&mut self, key: StreamKey) {
        self.with(key, |session, stream| {
            session.reset(stream, OpenError::Closed.code())
        });
        self.remove_stream(key);
    }

    pub(crate) fn read(&mut self, key: StreamKey, max: usize) -> Option<Bytes> {
        self.with(key, |session, stream| session.read(stream, max))
            .flatten()
    }

    /// The session that a slot at this gateway serves, if any has a use for it. Asked only after the slot was drawn.
    pub(crate) fn pick(&mut self, now: Time, gateway: NodeId, kind: Kind) -> Option<Speaks> {
        self.turn += 1;
        let which = usize::from(kind == Kind::Reply);
        // Most wanted first; among equals the one that waited longest.
        let idle_turn = self.turn.is_multiple_of(IDLE_TURN);
        let rank = |live: &Live| {
            let wants = live.session.wants(now);
            match kind {
                Kind::Data if wants.data => Some(0),
                Kind::Data if wants.repeat => Some(1),
                Kind::Data => None,
                Kind::Reply => match wants.replies {
                    ReplyDemand::None => None,
                    ReplyDemand::Active => Some(u8::from(idle_turn)),
                    ReplyDemand::Idle => Some(u8::from(!idle_turn)),
                },
            }
        };
        let services = &self.services;
        let here = self
            .live
            .iter()
            .filter(|(_, live)| services[live.service].gateway == gateway);
        let ranked = here.filter_map(|(&id, live)| Some((rank(live)?, live.served[which], id)));
        let (_, _, id) = ranked.min()?;
        let live = self.live.get_mut(&id)?;
        live.served[which] = self.turn;
        Some(Speaks {
            session: id,
            mailbox: self.services[live.service].mailbox,
        })
    }

    /// Whether a slot would carry something that can't wait.
    pub(crate) fn waits(&self, now: Time) -> bool {
        self.live.values().any(|live| {
            let wants = live.session.wants(now);
            wants.data || wants.replies == ReplyDemand::Active
        })
    }

    /// Writes the session's next packet into `out`; false if it has none after all.
    pub(crate) fn fill(&mut self, now: Time, id: u64, surbs: &[u8], out: &mut [u8]) -> bool {
        let Some(live) = self.live.get_mut(&id) else {
            return false;
        };
        let filled = live.session.fill(now, surbs, out).is_some();
        self.collect(id);
        filled
    }

    /// A packet came back on a SURB of this session.
    pub(crate) fn receive(&mut self, now: Time, id: u64, body: &[u8]) {
        let Some(live) = self.live.get_mut(&id) else {
            return self.counters.count("drop.session_over");
        };
        if let Err(why) = live.session.receive(now, body) {
            self.counters.count(why.name());
        }
        self.collect(id);
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.wakeups.first().map(|w| w.0)
    }

    pub(crate) fn handle_timeouts(&mut self, now: Time) {
        // Each once: what it wants next may be due already, and is served in the next turn.
        let due: Vec<u64> = self
            .wakeups
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|&(_, id)| id)
            .collect();
        due.into_iter().for_each(|id| self.wake(now, id));
    }

    /// The clock was set back. Sessions keep a time of their own; each learns of the step when it is told the time.
    pub(crate) fn set_back(&mut self, now: Time) {
        let all: Vec<u64> = self.live.keys().copied().collect();
        all.into_iter().for_each(|id| self.wake(now, id));
    }

    fn wake(&mut self, now: Time, id: u64) {
        if let Some(live) = self.live.get_mut(&id) {
            live.session.handle_timeout(now);
        }
        self.collect(id);
    }

    /// After anything was done with a session: turns what happened in it into events of its streams, and notes when it
    /// wants to be asked.
    fn collect(&mut self, id: u64) {
        while let Some(live) = self.live.get_mut(&id) {
            match live.session.poll_event() {
                Some(event) => self.session_event(id, event),
                None => break,
            }
        }
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let at = live.session.deadline();
        if at != live.wakes_at {
            let old = std::mem::replace(&mut live.wakes_at, at);
            old.map(|at| self.wakeups.remove(&(at, id)));
            self.wakeups.extend(at.map(|at| (at, id)));
        }
    }

    fn session_event(&mut self, id: u64, event: Event) {
        match event {
            Event::Opened(stream) => self.stream_event(id, stream, StreamEvent::Opened),
            Event::OpenFailed(stream, why) => self.stream_event(id, stream, StreamEvent::Failed(why)),
            Event::Readable(stream) => self.stream_event(id, stream, StreamEvent::Readable),
            Event::Writable(stream) => self.stream_event(id, stream, StreamEvent::Writable),
            Event::Finished(stream) => self.stream_event(id, stream, StreamEvent::Ended),
            Event::Reset(stream, code) => {
                let why = match code {
                    Session::RESET_CLOSED => OpenError::Closed,
                    Session::RESET_TIMEOUT => OpenError::Timeout,
                    code => OpenError::from_code(code),
                };
                self.stream_event(id, stream, StreamEvent::Failed(why));
            }
            Event::Delivered(stream) => {
                if let Some(known) = self
                    .live
                    .get_mut(&id)
                    .and_then(|live| live.streams.get_mut(&stream))
                {
                    known.delivered = true;
                    if known.ended {
                        let key = known.key;
                        self.remove_stream(key);
                    }
                }
            }
            Event::Incoming(..) => {}
            Event::Stalled(stall) => self.counters.count(stall.name()),
            Event::Closed(_) => {
                self.counters.count("session.ended");
                self.remove(id, OpenError::Closed);
            }
        }
    }

    fn stream_event(&mut self, id: u64, stream: StreamId, event: StreamEvent) {
        let known = self
            .live
            .get_mut(&id)
            .and_then(|live| live.streams.get_mut(&stream));
        let Some(known) = known else { return };
        known.ended |= event == StreamEvent::Ended;
        let key = known.key;
        if matches!(event, StreamEvent::Failed(_)) || (known.ended && known.delivered) {
            self.remove_stream(key);
        }
        self.events.push_back((key, event));
    }

    /// Forgets a session. Its streams have failed before, but for those whose end was on its way.
    fn remove(&mut self, id: u64, why: OpenError) {
        let Some(live) = self.live.remove(&id) else { return };
        live.wakes_at.map(|at| self.wakeups.remove(&(at, id)));
        for known in live.streams.into_values() {
            self.streams.remove(&known.key);
            self.events.push_back((known.key, StreamEvent::Failed(why)));
        }
    }

    /// Forgets a stream that is over or has failed.
    fn remove_stream(&mut self, key: StreamKey) {
        let Some((id, stream)) = self.streams.remove(&key) else {
            return;
        };
        if let Some(live) = self.live.get_mut(&id) {
            live.streams.remove(&stream);
        }
    }
}

/// All services that a client of gateway `own` can have sessions with.
fn services(document: &Document, own: &Node) -> Vec<Service> {
    let same_hands = |g: &Node| g.id == own.id || (!own.operator.is_empty() && g.operator == own.operator);
    let mut services = Vec::new();
    for gateway in document.gateways() {
        let mut add = |service: &mizzle_base::document::Service, exit_weight: Option<f64>| {
            let params = Params::for_network(document, &gateway.id);
            services.push(Service {
                gateway: gateway.id,
                mailbox: service.mailbox,
                stream_key: service.stream_key,
                exit_weight,
                // A letter goes on where its upload broke off.
                params: match exit_weight {
                    Some(_) => params,
                    None => params.resumed_elsewhere(),
                },
            });
        };
        if let Some(exit) = gateway.exit.as_ref().filter(|_| !same_hands(gateway)) {
            add(exit, Some(gateway.weight));
        }
        if let Some(mail) = &gateway.mail {
            add(mail, None);
        }
    }
    services
}
