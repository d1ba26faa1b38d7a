//! The sessions of a client: which exit a stream goes through, which streams share a session, and which session a slot
//! serves.
//!
//! The design's End to end section: a stream is its own session unless user, password and target host equal those of
//! a live one younger than ten minutes; an exit in one's own gateway, or of its operator, is never used.

use std::collections::{BTreeMap, VecDeque};
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
    /// The other side ended, and everything was read.
    Ended,
}

/// A session that a slot serves.
pub(crate) struct Speaks {
    pub(crate) session: u64,
    pub(crate) mailbox: MailboxId,
}

struct Exit {
    gateway: NodeId,
    mailbox: MailboxId,
    stream_key: [u8; 32],
    weight: f64,
    params: Params,
}

struct Live {
    session: Session,
    exit: usize,
    isolation: Isolation,
    host: Host,
    since: Time,
    streams: BTreeMap<StreamId, StreamKey>,
    /// Turn at which a slot of each kind served it last: the one that waited longest is next.
    served: [u64; 2],
}

/// See the [module](self).
pub(crate) struct Sessions {
    capacity: usize,
    exits: Vec<Exit>,
    live: BTreeMap<u64, Live>,
    streams: BTreeMap<StreamKey, (u64, StreamId)>,
    next_id: u64,
    turn: u64,
    rng: Rng,
    events: VecDeque<(StreamKey, StreamEvent)>,
    counters: Counters,
}

impl Sessions {
    pub(crate) fn new(capacity: usize, document: &Document, own: &Node, rng: Rng) -> Self {
        let same_hands = |g: &Node| g.id == own.id || (!own.operator.is_empty() && g.operator == own.operator);
        let exits = document
            .gateways()
            .filter(|g| !same_hands(g))
            .filter_map(|g| {
                let exit = g.exit.as_ref()?;
                Some(Exit {
                    gateway: g.id,
                    mailbox: exit.mailbox,
                    stream_key: exit.stream_key,
                    weight: g.weight,
                    params: Params::for_network(document, &g.id),
                })
            })
            .collect();
        Self {
            capacity,
            exits,
            live: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_id: 0,
            turn: 0,
            rng,
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn poll_event(&mut self) -> Option<(StreamKey, StreamEvent)> {
        self.events.pop_front()
    }

    pub(crate) fn open(&mut self, now: Time, request: OpenRequest) -> Result<StreamKey, OpenError> {
        let OpenRequest { target, isolation } = request;
        let id = match self.shareable(now, &target, &isolation) {
            Some(id) => id,
            None => self.connect(now, &target, isolation)?,
        };
        let live = self.live.get_mut(&id).ok_or(OpenError::General)?;
        let stream = live.session.open(now, &target)?;
        self.next_id += 1;
        let key = StreamKey(self.next_id);
        live.streams.insert(stream, key);
        self.streams.insert(key, (id, stream));
        self.counters.count("stream.opened");
        Ok(key)
    }

    fn shareable(&self, now: Time, target: &Target, isolation: &Isolation) -> Option<u64> {
        let fits = |live: &Live| {
            live.isolation.may_share(isolation) && live.host == target.host && now.since(live.since) < SHARED_FOR
        };
        self.live.iter().find(|(_, live)| fits(live)).map(|(&id, _)| id)
    }

    fn connect(&mut self, now: Time, target: &Target, isolation: Isolation) -> Result<u64, OpenError> {
        if self.exits.is_empty() {
            return Err(OpenError::NoExit);
        }
        if self.live.len() >= self.capacity {
            return Err(OpenError::Limit);
        }
        let weights: Vec<f64> = self.exits.iter().map(|e| e.weight).collect();
        let chosen = draw::weighted(&mut self.rng, &weights);
        let exit = &self.exits[chosen];
        let rng = Rng::from_seed(draw::bytes(&mut self.rng));
        let session = Session::connect(exit.params.clone(), &exit.stream_key, rng, now);
        self.next_id += 1;
        let (host, streams) = (target.host.clone(), BTreeMap::new());
        let live = Live { session, exit: chosen, isolation, host, since: now, streams, served: [0; 2] };
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
        self.with(key, |session, stream| session.write(stream, data)).unwrap_or(0)
    }

    pub(crate) fn finish(&mut self, key: StreamKey) {
        self.with(key, |session, stream| session.finish(stream));
    }

    pub(crate) fn reset(&mut self, key: StreamKey) {
        self.with(key, |session, stream| session.reset(stream, OpenError::Closed.code()));
        self.remove_stream(key);
    }

    pub(crate) fn read(&mut self, key: StreamKey, max: usize) -> Option<Bytes> {
        self.with(key, |session, stream| session.read(stream, max)).flatten()
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
        let here = self.live.iter().filter(|(_, live)| self.exits[live.exit].gateway == gateway);
        let ranked = here.filter_map(|(&id, live)| Some((rank(live)?, live.served[which], id)));
        let (_, _, id) = ranked.min()?;
        let live = self.live.get_mut(&id)?;
        live.served[which] = self.turn;
        Some(Speaks { session: id, mailbox: self.exits[live.exit].mailbox })
    }

    /// Writes the session's next packet into `out`; false if it has none after all.
    pub(crate) fn fill(&mut self, now: Time, id: u64, surbs: &[u8], out: &mut [u8]) -> bool {
        let Some(live) = self.live.get_mut(&id) else { return false };
        let filled = live.session.fill(now, surbs, out).is_some();
        self.collect(id);
        filled
    }

    /// A packet came back on a SURB of this session.
    pub(crate) fn receive(&mut self, now: Time, id: u64, body: &[u8]) {
        let Some(live) = self.live.get_mut(&id) else { return self.counters.count("drop.session_over") };
        if let Err(why) = live.session.receive(now, body) {
            self.counters.count(why.name());
        }
        self.collect(id);
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.live.values().filter_map(|live| live.session.deadline()).min()
    }

    pub(crate) fn handle_timeouts(&mut self, now: Time) {
        let due = |live: &Live| live.session.deadline().is_some_and(|at| at <= now);
        let ids: Vec<u64> = self.live.iter().filter(|(_, live)| due(live)).map(|(&id, _)| id).collect();
        for id in ids {
            if let Some(live) = self.live.get_mut(&id) {
                live.session.handle_timeout(now);
            }
            self.collect(id);
        }
    }

    /// Turns what happened in a session into events of its streams.
    fn collect(&mut self, id: u64) {
        loop {
            let Some(live) = self.live.get_mut(&id) else { return };
            let Some(event) = live.session.poll_event() else { return };
            let (stream, event) = match event {
                Event::Opened(stream) => (stream, StreamEvent::Opened),
                Event::OpenFailed(stream, why) => (stream, StreamEvent::Failed(why)),
                Event::Readable(stream) => (stream, StreamEvent::Readable),
                Event::Writable(stream) => (stream, StreamEvent::Writable),
                Event::Finished(stream) => (stream, StreamEvent::Ended),
                Event::Reset(stream, code) => (stream, StreamEvent::Failed(OpenError::from_code(code))),
                Event::Delivered(_) | Event::Incoming(..) => continue,
                Event::Closed(_) => {
                    self.counters.count("session.ended");
                    if let Some(live) = self.live.remove(&id) {
                        for key in live.streams.into_values() {
                            self.streams.remove(&key);
                            self.events.push_back((key, StreamEvent::Failed(OpenError::Closed)));
                        }
                    }
                    return;
                }
            };
            let Some(&key) = live.streams.get(&stream) else { continue };
            if matches!(event, StreamEvent::Failed(_)) {
                self.remove_stream(key);
            }
            self.events.push_back((key, event));
        }
    }

    fn remove_stream(&mut self, key: StreamKey) {
        let Some((id, stream)) = self.streams.remove(&key) else { return };
        if let Some(live) = self.live.get_mut(&id) {
            live.streams.remove(&stream);
        }
    }
}
