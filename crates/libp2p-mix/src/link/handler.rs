//! The streams of one connection: at most one that we write, some that we read. Runs in the connection's task.
//!
//! Which connection of a peer writes, and what happens to a queue that nobody can write, is the
//! [`Behaviour`](super::Behaviour)'s decision.

use super::{
    Conn, Event, Frame,
    codec::{FrameReader, ReadError},
    control::{Counters, Peer, Shared},
    inbox::InboxSender,
    outbound::{Closing, Saying, WriteEnd, Writing},
    queue::End,
};
use futures::ready;
use libp2p::{
    PeerId, Stream, StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, ConnectionId, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// A stream that broke later than this after its opening does not count as a second failure in a row.
const STABLE: Duration = Duration::from_secs(5);

/// Batches written and frames read in one go before the other streams of the connection get their turn.
pub(super) const BUDGET: usize = 32;

/// Streams that wait for their end at a time; the oldest of more is let go.
const CLOSING: usize = 8;

/// What the behaviour asks of a handler.
#[derive(Debug)]
pub enum Command {
    /// Write the peer's queue.
    Write(Outgoing),
    /// Another connection writes.
    StopWriting,
    /// The peer was removed: close all streams of the link.
    Shut,
    /// Write this in a stream of its own.
    Say(Said),
}

/// A frame that goes in a stream of its own.
#[derive(Debug)]
pub struct Said(pub(super) Frame);

/// What a stream is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The peer's queue.
    Queue,
    /// One frame.
    Say,
}

/// A peer's queue, on its way to the connection that is to write it.
#[derive(Debug)]
pub struct Outgoing(pub(super) Arc<Peer>);

/// What a handler tells the behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The first acceptable stream of the peer on this connection.
    Inbound,
    /// The queue cannot be written on this connection.
    Failed(Failure),
}

/// Why a queue could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer does not speak the protocol.
    Unsupported,
    /// A stream could not be opened, or broke, twice.
    Broken,
    /// A stream took no bytes or was not answered in time, twice. The behaviour closes the connection.
    Stalled,
}

/// The [`ConnectionHandler`] of a link.
#[derive(Debug)]
pub struct Handler {
    shared: Arc<Shared>,
    peer: PeerId,
    connection: ConnectionId,
    conn: Conn,
    inbox: InboxSender,
    /// Inbound streams of the peer, all connections together.
    streams: Arc<AtomicUsize>,
    inbound: Vec<Inbound>,
    /// Counts what came, to tell which stream has been silent longest.
    turn: u64,
    /// Frames on their way into the inbox; empty between polls.
    batch: Vec<Event>,
    told_inbound: bool,
    /// The queue that this connection writes.
    entry: Option<Arc<Peer>>,
    outbound: Outbound,
    failures_in_row: u32,
    /// Streams that are written no more, the newest last.
    closing: VecDeque<Closing>,
    say: Say,
    /// At most one report of each kind a stream: bounded by the streams.
    reports: VecDeque<Report>,
}

#[derive(Debug)]
enum Outbound {
    /// No stream; one is opened with the first frame.
    Idle,
    Requested,
    Opening,
    Open(Box<Writing>),
    /// Too many failures: a pause.
    Cooling(Pin<Box<Sleep>>),
}

/// The frame that goes in a stream of its own: one at a time.
#[derive(Debug)]
enum Say {
    Nothing,
    Requested(Frame),
    Opening(Frame),
    Open(Box<Saying>),
}

#[derive(Debug)]
struct Inbound {
    stream: Stream,
    reader: FrameReader,
    /// The deadline of the header; `None` once it was right.
    header: Option<Pin<Box<Sleep>>>,
    /// The turn of the newest frame; 0 before the first one.
    heard: u64,
    /// A frame that found the inbox full.
    held: Option<Event>,
}

impl Handler {
    pub(super) fn new(
        shared: Arc<Shared>,
        peer: PeerId,
        connection: ConnectionId,
        conn: Conn,
        streams: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            inbox: shared.inbox.sender(),
            shared,
            peer,
            connection,
            conn,
            streams,
            inbound: Vec::new(),
            turn: 0,
            batch: Vec::new(),
            told_inbound: false,
            entry: None,
            outbound: Outbound::Idle,
            failures_in_row: 0,
            closing: VecDeque::new(),
            say: Say::Nothing,
            reports: VecDeque::new(),
        }
    }

    fn protocol<T>(&self, open_info: T) -> SubstreamProtocol<ReadyUpgrade<StreamProtocol>, T> {
        let config = &self.shared.config;
        SubstreamProtocol::new(ReadyUpgrade::new(config.protocol.clone()), open_info)
            .with_timeout(config.connect_timeout)
    }

    // ---- writing

    /// Goes from the stream we write, if any, to `next`. What was not sent goes back to the queue, for the next stream or connection.
    fn end_stream(&mut self, next: Outbound, gently: bool) {
        let Outbound::Open(writing) = std::mem::replace(&mut self.outbound, next) else {
            return;
        };
        let Writing { stream, writer, .. } = *writing;
        let (sent, unsent) = writer.into_unsent();
        Counters::add(&self.shared.counters.sent, sent);
        if let Some(entry) = &self.entry {
            let lost = entry.queue.give_back(self.connection, unsent);
            Counters::add(&self.shared.counters.dropped_disconnected, lost);
        }
        if gently {
            // A stream dropped without closing may take what is on its way with it.
            self.close(stream, Vec::new());
        }
    }

    fn close(&mut self, stream: Stream, ends: Vec<End>) {
        if self.closing.len() >= CLOSING {
            self.closing.pop_front();
        }
        self.closing.push_back(Closing::new(stream, ends, &self.shared));
    }

    /// No frame waits, and the stream that those before were written to is to end, or has.
    fn end_asked(&mut self, ends: Vec<End>) {
        match (
            std::mem::replace(&mut self.outbound, Outbound::Idle),
            self.closing.back_mut(),
        ) {
            // All that it took is on its way: nothing goes back to the queue.
            (Outbound::Open(writing), _) => {
                let Writing { stream, .. } = *writing;
                self.close(stream, ends);
            }
            (other, Some(closing)) => {
                self.outbound = other;
                closing.wait_too(ends);
            }
            // It ended before.
            (other, None) => {
                self.outbound = other;
                for end in ends {
                    let _ = end.send(());
                }
            }
        }
    }

    fn stop_writing(&mut self) {
        self.end_stream(Outbound::Idle, true);
        self.entry = None;
    }

    fn outbound_failed(&mut self, failure: Failure) {
        let stable = matches!(&self.outbound, Outbound::Open(w) if w.opened.elapsed() >= STABLE);
        self.failures_in_row = if stable {
            1
        } else {
            self.failures_in_row.saturating_add(1)
        };
        if self.failures_in_row == 1 && failure != Failure::Unsupported {
            Counters::add(&self.shared.counters.streams_reopened, 1);
            self.end_stream(Outbound::Requested, false);
            return;
        }
        let config = &self.shared.config;
        let doublings = self.failures_in_row.saturating_sub(2).min(16);
        let pause = config
            .redial_min
            .saturating_mul(1 << doublings)
            .min(config.redial_max);
        self.end_stream(Outbound::Cooling(Box::pin(sleep(pause))), false);
        self.reports.push_back(Report::Failed(failure));
    }

    /// Ready when a stream is to be opened.
    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(entry) = self.entry.clone() else {
            return Poll::Pending;
        };
        loop {
            match &mut self.outbound {
                Outbound::Idle => {
                    let ends = entry.queue.take_ends(self.connection);
                    if !ends.is_empty() {
                        self.end_asked(ends);
                    }
                    if !entry.keep.load(Ordering::Relaxed) {
                        ready!(entry.queue.poll_any(self.connection, cx));
                    }
                    if !entry.queue.is_writer(self.connection) {
                        self.stop_writing();
                        return Poll::Pending;
                    }
                    self.outbound = Outbound::Requested;
                }
                Outbound::Requested => {
                    self.outbound = Outbound::Opening;
                    return Poll::Ready(());
                }
                Outbound::Opening => return Poll::Pending,
                Outbound::Open(writing) => {
                    match ready!(writing.poll(&self.shared, &entry, self.connection, cx)) {
                        WriteEnd::Revoked => {
                            self.stop_writing();
                            return Poll::Pending;
                        }
                        WriteEnd::Asked(ends) => self.end_asked(ends),
                        WriteEnd::Broken => self.outbound_failed(Failure::Broken),
                        WriteEnd::Stalled => {
                            Counters::add(&self.shared.counters.stalls, 1);
                            self.outbound_failed(Failure::Stalled);
                        }
                    }
                }
                Outbound::Cooling(pause) => {
                    ready!(pause.as_mut().poll(cx));
                    self.outbound = Outbound::Idle;
                }
            }
        }
    }

    fn say(&mut self, frame: Frame) {
        match self.say {
            Say::Nothing => self.say = Say::Requested(frame),
            // Said twice within a stream's opening: whoever repeats himself loses nothing.
            _ => Counters::add(&self.shared.counters.dropped_unsaid, 1),
        }
    }

    fn unsaid(&mut self) {
        if !matches!(std::mem::replace(&mut self.say, Say::Nothing), Say::Nothing) {
            Counters::add(&self.shared.counters.dropped_unsaid, 1);
        }
    }

    /// Ready when a stream is to be opened for what is to be said.
    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match std::mem::replace(&mut self.say, Say::Nothing) {
            Say::Requested(frame) => {
                self.say = Say::Opening(frame);
                return Poll::Ready(());
            }
            Say::Open(mut saying) => match saying.poll(cx) {
                Poll::Pending => self.say = Say::Open(saying),
                Poll::Ready(true) => Counters::add(&self.shared.counters.sent, 1),
                Poll::Ready(false) => Counters::add(&self.shared.counters.dropped_unsaid, 1),
            },
            other => self.say = other,
        }
        Poll::Pending
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) {
        self.closing.retain_mut(|closing| closing.poll(cx).is_pending());
    }

    // ---- reading

    fn accept(&mut self, stream: Stream) {
        let counters = &self.shared.counters;
        if self.shared.inbox.is_closed() {
            return;
        }
        let limit = self.shared.config.max_inbound_streams_per_peer;
        let taken = self
            .streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < limit).then_some(n + 1)
            });
        if taken.is_err() {
            Counters::add(&counters.inbound_too_many, 1);
            let Some(silent) = self.longest_silent() else {
                return;
            };
            // Its place is the new one's.
            self.inbound.swap_remove(silent);
        }
        Counters::add(&counters.inbound_streams, 1);
        self.inbound.push(Inbound {
            stream,
            reader: FrameReader::default(),
            header: Some(Box::pin(sleep(self.shared.config.connect_timeout))),
            heard: 0,
            held: None,
        });
    }

    /// The stream between two frames whose last one is longest ago. Nim opens one for each packet that waits for a first
    /// stream, writes one of them from then on and leaves the others open: refusing new ones would lock it out.
    fn longest_silent(&self) -> Option<usize> {
        let silent = |i: &Inbound| i.heard > 0 && i.held.is_none() && i.reader.is_between_frames();
        let candidates = self.inbound.iter().enumerate().filter(|(_, i)| silent(i));
        candidates.min_by_key(|(_, i)| i.heard).map(|(at, _)| at)
    }

    fn poll_inbound(&mut self, cx: &mut Context<'_>) {
        let mut i = 0;
        while i < self.inbound.len() {
            if self.poll_stream(i, cx).is_ready() {
                self.inbound.swap_remove(i);
                self.streams.fetch_sub(1, Ordering::Relaxed);
            } else {
                i += 1;
            }
        }
    }

    /// Ready when the stream is to be read no further.
    fn poll_stream(&mut self, i: usize, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.shared;
        let Inbound {
            stream,
            reader,
            header,
            heard,
            held,
        } = &mut self.inbound[i];
        if let Some(deadline) = header {
            match reader.poll_header(&shared.format, stream, cx) {
                Poll::Pending => {
                    ready!(deadline.as_mut().poll(cx));
                    Counters::add(&shared.counters.header_timeout, 1);
                    return Poll::Ready(());
                }
                Poll::Ready(Err(error)) => {
                    count(&shared.counters, &error);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(())) => *header = None,
            }
            if shared.admit(self.peer).is_none() {
                Counters::add(&shared.counters.inbound_unknown_peer, 1);
                return Poll::Ready(());
            }
            if !self.told_inbound {
                self.told_inbound = true;
                self.reports.push_back(Report::Inbound);
            }
        }
        let (peer, conn) = (self.peer, self.conn);
        let event = |frame| Event::Frame { peer, conn, frame };
        let mut budget = BUDGET;
        while budget > 0 {
            // First a frame, then room for it and for those that came with it: one lock for all of them, and none
            // where nothing came.
            if held.is_none() {
                *held = match ready!(reader.poll_frame(&shared.format, stream, cx)) {
                    Ok(Some(frame)) => Some(event(frame)),
                    end => return ended(&shared.counters, end),
                };
                Counters::add(&shared.counters.received, 1);
                self.turn += 1;
                *heard = self.turn;
            }
            // Back-pressure: as long as a frame finds no room, nothing more is read.
            let room = ready!(self.inbox.poll_reserve(budget, cx));
            self.batch.extend(held.take());
            let read = loop {
                if self.batch.len() == room {
                    break None;
                }
                match reader.poll_frame(&shared.format, stream, cx) {
                    Poll::Ready(Ok(Some(frame))) => self.batch.push(event(frame)),
                    read => break Some(read),
                }
            };
            Counters::add(&shared.counters.received, self.batch.len() - 1);
            self.inbox.fill(room, self.batch.drain(..));
            if let Some(read) = read {
                return ended(&shared.counters, ready!(read));
            }
            budget -= room;
        }
        if shared.inbox.is_closed() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn shut_inbound(&mut self) {
        self.streams.fetch_sub(self.inbound.len(), Ordering::Relaxed);
        for held in self.inbound.drain(..).filter_map(|inbound| inbound.held) {
            self.inbox.push_over(held);
        }
    }
}

/// Counts why a stream is read no further, where it is not for its end.
fn ended(counters: &Counters, end: Result<Option<Frame>, ReadError>) -> Poll<()> {
    if let Err(error) = end {
        count(counters, &error);
    }
    Poll::Ready(())
}

fn count(counters: &Counters, error: &ReadError) {
    tracing::debug!(%error, "inbound stream closed");
    let counter = match error {
        ReadError::Header => &counters.header_mismatch,
        ReadError::Overlong => &counters.bad_varint,
        ReadError::Length => &counters.bad_length,
        ReadError::Truncated => &counters.truncated,
        ReadError::Io(_) => &counters.inbound_broken,
    };
    Counters::add(counter, 1);
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Command;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Purpose;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        self.protocol(())
    }

    /// Streams keep a connection alive by themselves; beyond them, a queue that waits and a peer that is to be kept.
    fn connection_keep_alive(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| {
            entry.queue.is_writer(self.connection)
                && (entry.keep.load(Ordering::Relaxed) || entry.queue.len() > 0)
        }) || !matches!(self.say, Say::Nothing)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Purpose, Self::ToBehaviour>> {
        if let Some(report) = self.reports.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        if self.poll_outbound(cx).is_ready() {
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: self.protocol(Purpose::Queue),
            });
        }
        if self.poll_say(cx).is_ready() {
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: self.protocol(Purpose::Say),
            });
        }
        self.poll_inbound(cx);
        self.poll_closing(cx);
        match self.reports.pop_front() {
            Some(report) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report)),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, command: Command) {
        match command {
            Command::Write(Outgoing(entry)) => {
                // A removed and added peer has another queue: the stream goes with the old one.
                if self.entry.as_ref().is_some_and(|old| !Arc::ptr_eq(old, &entry)) {
                    self.stop_writing();
                }
                self.entry = Some(entry);
            }
            Command::StopWriting => self.stop_writing(),
            Command::Say(Said(frame)) => self.say(frame),
            Command::Shut => {
                self.stop_writing();
                self.unsaid();
                self.shut_inbound();
                self.told_inbound = false;
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Purpose>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                self.accept(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: Purpose::Say,
            }) => {
                if let Say::Opening(frame) = std::mem::replace(&mut self.say, Say::Nothing) {
                    self.say = Say::Open(Box::new(Saying::new(stream, frame, &self.shared)));
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                info: Purpose::Say, ..
            }) => self.unsaid(),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream, ..
            }) => {
                // Writing may have been stopped, or stopped and begun again, while the stream opened.
                let wanted = self.entry.is_some() && !matches!(self.outbound, Outbound::Open(_));
                if !wanted {
                    return;
                }
                Counters::add(&self.shared.counters.streams_opened, 1);
                self.outbound = Outbound::Open(Box::new(Writing::new(stream, &self.shared)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                if matches!(self.outbound, Outbound::Opening) {
                    self.outbound_failed(match error {
                        StreamUpgradeError::NegotiationFailed => Failure::Unsupported,
                        StreamUpgradeError::Timeout => Failure::Stalled,
                        _ => Failure::Broken,
                    });
                }
            }
            _ => {}
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.end_stream(Outbound::Idle, false);
        self.unsaid();
        self.shut_inbound();
    }
}
