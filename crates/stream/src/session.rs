//! A session: the two ends of what a client and an exit have to do with each other.
//!
//! **Handshake.** The client's first packet, INITIAL, needs SURBs, so it takes a reply slot; nothing else is sent until
//! an answer came. Any reply establishes the session, since each repeats the exit's message until the exit is sure.
//! Without an answer in time the client sends another INITIAL: fresh ephemeral key and SURBs, the same session nonce,
//! the next counter (those below [`FIRST_TRANSPORT`](crate::FIRST_TRANSPORT) are for it), the same stream bytes again.
//! Both ends see one session with several sets of keys: the exit replies under the newest it knows, the client takes
//! replies under any and sends under those that were answered first; its first packet settles them. So a late
//! answer is as good as any, and no INITIAL opens a target twice ([`Acceptor`](crate::Acceptor)).
//!
//! **Packets.** Each is filled to the last byte, by the order: end of session, acknowledgement, control, lost bytes, new
//! bytes, repeats. Slots set the rate, so there is no congestion control; grants only bound memory.
//!
//! **Time.** [`deadline`](Session::deadline) and [`handle_timeout`](Session::handle_timeout): openings, silence, idleness,
//! probes. Nothing waits without one of them.
//!
//! Frames, retransmission and streams have modules of their own; here they are put together. The design's End to end
//! section.

mod fill;
mod receive;
mod stream;
mod timers;
mod types;
mod wants;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use bytes::Bytes;
use mizzle_base::{Rng, Time};
use rand_core::Rng as _;
use zeroize::Zeroize;

pub use types::{
    CloseReason, DropReason, Event, Params, Received, ReplyDemand, Stall, Stats, StreamId, Wants,
};

use crate::accept::{INITIAL_FRONT, NONCE_LEN};
use crate::arq::Arq;
use crate::bytestream::INITIAL_WINDOW;
use crate::door::{OpenError, Target};
use crate::ranges::RangeSet;
use crate::seal::{Initiator, Keys};
use crate::tag::TagKey;
use crate::window::Window;
use stream::{Opening, Pending, Stream};

/// Longest packet body: nothing that fits into a Sphinx payload is longer.
pub const MAX_BODY: usize = 4_096;
/// Length of a SURB, as the client core encodes it.
pub const SURB_LEN: usize = 640;

/// Stream ids that may be in use beyond the lowest one that is not over.
const ID_SPAN: u64 = 4_096;

enum Role {
    Client(Box<ClientSide>),
    Exit(Box<ExitSide>),
}

struct ClientSide {
    exit_key: [u8; 32],
    rng: Rng,
    nonce: [u8; NONCE_LEN],
    tag_key: TagKey,
    /// Attempts that were not answered.
    attempts: Vec<Initiator>,
    /// Attempts that were; the client sends under the first.
    keys: Vec<Keys>,
    /// INITIALs sent.
    tries: u32,
    retry_at: Time,
    established_at: Time,
    /// A packet was last sent from the part of the tag window that is kept for emergencies.
    reserve_at: Option<Time>,
    /// Packets with SURBs sent since anything was received, and when the first of them was.
    unanswered: Option<(Time, u32)>,
    /// What the exit said waits there, and in which packet.
    backlog: (u64, u64),
}

struct ExitSide {
    /// Newest last, until one is confirmed.
    keys: Vec<(u8, Keys)>,
    /// Bit i: attempt i was received.
    attempts: u32,
    /// A packet of the client came, and so the keys are settled.
    confirmed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// CLOSE is being sent.
    Closing {
        reason: CloseReason,
        until: Time,
        sent: u32,
    },
    Closed,
}

/// One end of a session.
pub struct Session {
    params: Params,
    role: Role,
    state: State,
    streams: BTreeMap<u64, Stream>,
    /// Ids of streams that are over.
    over: RangeSet,
    next_id: u64,
    arq: Arq,
    window: Window,
    events: VecDeque<Event>,
    /// The stream that was served last.
    cursor: u64,
    /// The latest time told, and what is added to the caller's: see `tick`.
    clock: Time,
    offset: Duration,
    last_received: Time,
    /// When stream bytes or control frames last came in.
    content_at: Option<Time>,
    /// Such came in and nothing was sent since.
    ack_owed: bool,
    without_stream: Option<Time>,
    stats: Stats,
}

impl Session {
    /// The code of [`Event::Reset`] when the session ended under the stream.
    pub const RESET_CLOSED: u8 = 255;
    /// The code with which a stream that wasn't opened in time is reset at the exit.
    pub const RESET_TIMEOUT: u8 = 254;

    /// The client's end of a session with the exit of `exit_key`. Nothing is sent before a stream is opened.
    #[must_use]
    pub fn connect(params: Params, exit_key: &[u8; 32], mut rng: Rng, now: Time) -> Self {
        let mut nonce = [0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let tag_key = TagKey::random(&mut rng);
        let side = ClientSide {
            exit_key: *exit_key,
            rng,
            nonce,
            tag_key,
            attempts: Vec::new(),
            keys: Vec::new(),
            tries: 0,
            retry_at: now,
            established_at: now,
            reserve_at: None,
            unanswered: None,
            backlog: (0, 0),
        };
        let quantile = params.forward_q;
        Self::new(params, Role::Client(Box::new(side)), quantile, now)
    }

    fn new(params: Params, role: Role, quantile: Duration, now: Time) -> Self {
        let round = params.round();
        Self {
            params,
            role,
            state: State::Open,
            streams: BTreeMap::new(),
            over: RangeSet::default(),
            next_id: 0,
            arq: Arq::new(quantile, round),
            window: Window::new(),
            events: VecDeque::new(),
            cursor: 0,
            clock: now,
            offset: Duration::ZERO,
            last_received: now,
            content_at: None,
            ack_owed: false,
            without_stream: Some(now),
            stats: Stats::default(),
        }
    }

    /// The session's own time at the caller's `now`. It stands still while a clock goes backwards and goes on from there:
    /// else what was sent before such a step would count as sent in the future and wait that long.
    fn at(&self, now: Time) -> Time {
        (now + self.offset).max(self.clock)
    }

    fn tick(&mut self, now: Time) -> Time {
        let at = now + self.offset;
        self.offset += self.clock.since(at);
        self.clock = self.clock.max(at);
        self.clock
    }

    /// Client: opens a stream; [`Event::Opened`] or [`Event::OpenFailed`] follows. Bytes may be written at once.
    ///
    /// # Errors
    /// When the session has its most streams, or is over.
    pub fn open(&mut self, now: Time, target: &Target) -> Result<StreamId, OpenError> {
        let now = self.tick(now);
        if self.state != State::Open || !matches!(self.role, Role::Client(_)) {
            return Err(OpenError::Closed);
        }
        // Not only those that live: the exit must remember each id until all below are over.
        let lowest = self.over.first_gap(0, u64::MAX).map_or(0, |(start, _)| start);
        if self.streams.len() >= self.params.max_streams || self.next_id >= lowest + ID_SPAN {
            return Err(OpenError::Limit);
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut stream = Stream::new(&self.params, now);
        stream.target = Some(target.clone());
        stream.open = Pending::Due;
        self.streams.insert(id, stream);
        self.without_stream = None;
        self.grant(id);
        Ok(StreamId(id))
    }

    /// Exit: the target of a stream is connected.
    pub fn opened(&mut self, id: StreamId) {
        if let Some(stream) = self.incoming(id) {
            stream.opening = Opening::Open;
            stream.result = Pending::Due;
            self.grant(id.0);
        }
    }

    /// Exit: the target of a stream can't be connected. The stream is gone.
    pub fn open_failed(&mut self, id: StreamId, error: OpenError) {
        if let Some(stream) = self.incoming(id) {
            stream.abort(0);
            stream.reset = None;
            stream.opening = Opening::Failed(error);
            stream.result = Pending::Due;
        }
    }

    fn incoming(&mut self, id: StreamId) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(&id.0)?;
        let waits = matches!(stream.opening, Opening::Until(_)) && stream.is_live();
        (matches!(self.role, Role::Exit(_)) && waits && stream.target.is_some()).then_some(stream)
    }

    /// Writes to a stream; how much was taken. [`Event::Writable`] follows when it was not all.
    pub fn write(&mut self, id: StreamId, data: &[u8]) -> usize {
        let State::Open = self.state else { return 0 };
        match self.streams.get_mut(&id.0) {
            Some(stream) if stream.is_live() => stream.send.write(data, u64::MAX),
            _ => 0,
        }
    }

    /// How much [`write`](Self::write) would take now.
    #[must_use]
    pub fn writable(&self, id: StreamId) -> usize {
        match self.streams.get(&id.0) {
            Some(stream) if stream.is_live() => usize::try_from(stream.send.room()).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// Nothing more will be written; what was is still sent, and the other direction goes on.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id.0)
            && stream.is_live()
        {
            stream.send.finish();
        }
    }

    /// Ends a stream in both directions at once; what wasn't delivered is lost. The peer is told the code.
    pub fn reset(&mut self, id: StreamId, code: u8) {
        if let Some(stream) = self.streams.get_mut(&id.0)
            && stream.is_live()
        {
            stream.abort(code);
            if let Role::Client(side) = &self.role
                && side.tries == 0
            {
                // The exit was told nothing yet.
                self.remove(id.0);
            }
        }
    }

    /// At most `max` bytes that came in.
    pub fn read(&mut self, id: StreamId, max: usize) -> Option<Bytes> {
        let stream = self.streams.get_mut(&id.0)?;
        let bytes = stream.recv.read(max);
        if !stream.recv.is_readable() {
            stream.recv.signalled = false;
        }
        if bytes.is_some() {
            self.grant(id.0);
            self.settle(id.0);
        }
        bytes
    }

    /// Whether [`read`](Self::read) has something.
    #[must_use]
    pub fn readable(&self, id: StreamId) -> bool {
        self.streams
            .get(&id.0)
            .is_some_and(|stream| stream.recv.is_readable())
    }

    /// What happened, in order; until there is nothing more.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Ends the session. The peer is told while slots allow, then [`Event::Closed`] follows.
    pub fn close(&mut self, now: Time) {
        let now = self.tick(now);
        self.close_with(now, CloseReason::Local);
    }

    /// Whether the session is over: nothing is sent or received any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether packets other than INITIALs can be sent.
    #[must_use]
    pub fn is_established(&self) -> bool {
        match &self.role {
            Role::Client(side) => !side.keys.is_empty(),
            Role::Exit(_) => true,
        }
    }

    /// How many streams there are, those included that only wait for a last acknowledgement.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes written that were not acknowledged.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.streams.values().map(|stream| stream.send.waiting()).sum()
    }

    /// What the session did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The next stream after the one that was served last for which `wanted` holds.
    fn next_stream(&self, wanted: impl Fn(&Stream) -> bool) -> Option<u64> {
        let after = self.streams.range((Excluded(self.cursor), Unbounded));
        after
            .chain(self.streams.range(..=self.cursor))
            .find(|(_, s)| s.is_live() && wanted(s))
            .map(|(&id, _)| id)
    }

    /// Grants a stream as much as the session can hold.
    fn grant(&mut self, id: u64) {
        let held: u64 = self.streams.values().map(|s| s.recv.outstanding()).sum();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let others = held - stream.recv.outstanding();
        let left = self.params.session_window.saturating_sub(others);
        // Half of what is left, so that the streams of a session share it without taking it back from each other.
        let window = self.params.stream_window.min(left / 2).max(INITIAL_WINDOW);
        if stream.is_live() && stream.recv.grant(window) {
            stream.max_data = Pending::Due;
        }
    }

    /// Tells the program how a stream ended, and removes it when nothing is left to do.
    fn settle(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        // What comes before the OPEN is told after it.
        if stream.is_live() && stream.target.is_some() {
            if stream.recv.is_done() && !stream.recv.ended {
                stream.recv.ended = true;
                self.events.push_back(Event::Finished(StreamId(id)));
            }
            if stream.send.is_done() && !stream.delivered {
                stream.delivered = true;
                self.events.push_back(Event::Delivered(StreamId(id)));
            }
        }
        if stream.is_over() {
            self.remove(id);
        }
    }

    /// Forgets a stream; its id stays known as over.
    fn remove(&mut self, id: u64) {
        self.streams.remove(&id);
        self.over.insert(id, id + 1);
        if self.streams.is_empty() {
            self.without_stream.get_or_insert(self.clock);
        }
    }

    /// Ends all streams and tells the program.
    fn end_streams(&mut self, error: OpenError) {
        let client = matches!(self.role, Role::Client(_));
        for (id, stream) in core::mem::take(&mut self.streams) {
            match stream.opening {
                _ if !stream.is_live() => {}
                Opening::Until(_) if client => self.events.push_back(Event::OpenFailed(StreamId(id), error)),
                _ if stream.target.is_some() => {
                    self.events
                        .push_back(Event::Reset(StreamId(id), Self::RESET_CLOSED));
                }
                _ => {}
            }
        }
    }

    fn close_with(&mut self, now: Time, reason: CloseReason) {
        if self.state != State::Open {
            return;
        }
        self.end_streams(OpenError::Closed);
        if self.is_established() {
            let until = now + self.params.round() * 4;
            self.state = State::Closing {
                reason,
                until,
                sent: 0,
            };
        } else {
            self.closed(reason);
        }
    }

    /// The session is over at once.
    fn closed(&mut self, reason: CloseReason) {
        if self.state == State::Closed {
            return;
        }
        let error = if reason == CloseReason::Timeout {
            OpenError::Timeout
        } else {
            OpenError::Closed
        };
        self.end_streams(error);
        self.state = State::Closed;
        self.events.push_back(Event::Closed(reason));
    }
}

impl Drop for ClientSide {
    fn drop(&mut self) {
        self.nonce.zeroize();
    }
}
