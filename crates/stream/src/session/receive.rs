//! Receiving a packet.

use bytes::Bytes;
use mizzle_base::Time;

use super::fill::{COUNTER_LEN, PLAIN, WITH_ANSWER};
use super::stream::{Opening, Pending, Stream};
use super::{
    ClientSide, CloseReason, DropReason, Event, ExitSide, ID_SPAN, MAX_BODY, Params, Received, Role,
    SURB_LEN, Session, State, StreamId,
};
use crate::accept::Initial;
use crate::arq::{Content, Control, Outcome};
use crate::bytestream::Violation;
use crate::door::OpenError;
use crate::frame::{Frame, Frames};
use crate::seal::{ANSWER_LEN, Keys, MAC_LEN};
use crate::tag::TAG_LEN;
use crate::window::Seen;

/// Key sets that an exit keeps until the client has confirmed one.
const MAX_KEYS: usize = 3;

impl Session {
    /// The exit's end of a new session.
    pub(crate) fn accept(
        params: Params,
        now: Time,
        initial: Initial,
    ) -> Result<(Self, Received), DropReason> {
        let side = ExitSide {
            keys: Vec::new(),
            attempts: 0,
            confirmed: false,
        };
        let quantile = params.reply_q;
        let mut session = Self::new(params, Role::Exit(Box::new(side)), quantile, now);
        let received = session.retry(now, initial)?;
        Ok((session, received))
    }

    /// Exit: takes another attempt of the client to begin this session. Its SURBs are as good as any.
    ///
    /// # Errors
    /// Why it is dropped, with no effect.
    pub fn retry(&mut self, now: Time, initial: Initial) -> Result<Received, DropReason> {
        let now = self.tick(now);
        let Role::Exit(side) = &mut self.role else {
            return Err(DropReason::Handshake);
        };
        if self.state == State::Closed {
            return Err(DropReason::Closed);
        }
        if side.attempts >> initial.attempt & 1 == 1 {
            return Err(DropReason::StaleInitial);
        }
        let counter = u64::from(initial.attempt);
        if self.window.look(counter) != Seen::Fresh {
            return Err(DropReason::Replay);
        }
        let (surbs, frames) = check_content(&initial.content, true)?;
        side.attempts |= 1 << initial.attempt;
        if !side.confirmed {
            // Newest last, whatever the order of arrival.
            let at = side
                .keys
                .partition_point(|(attempt, _)| *attempt < initial.attempt);
            side.keys.insert(at, (initial.attempt, initial.keys));
            if side.keys.len() > MAX_KEYS {
                side.keys.remove(0);
            }
        }
        self.take(now, counter, frames)?;
        Ok(Received {
            surbs: Bytes::copy_from_slice(surbs),
        })
    }

    /// Exit: takes a packet that [`Acceptor::sort`](crate::Acceptor::sort) found to be this session's.
    ///
    /// # Errors
    /// Why it is dropped; with no effect, but for [`DropReason::Protocol`], which ends the session.
    pub fn receive_tagged(&mut self, now: Time, counter: u64, body: &[u8]) -> Result<Received, DropReason> {
        let now = self.tick(now);
        let Role::Exit(side) = &mut self.role else {
            return Err(DropReason::Handshake);
        };
        let sealed = body.get(TAG_LEN..).ok_or(DropReason::Size)?;
        if self.state == State::Closed {
            return Err(DropReason::Closed);
        }
        if body.len() > MAX_BODY {
            return Err(DropReason::Size);
        }
        if self.window.look(counter) != Seen::Fresh {
            return Err(DropReason::Replay);
        }
        let mut plain = [0; MAX_BODY];
        let opened = side
            .keys
            .iter()
            .enumerate()
            .find_map(|(i, (_, keys))| Some((i, keys.open(counter, sealed, &mut plain).ok()?)));
        let (index, len) = opened.ok_or(DropReason::Decrypt)?;
        let (surbs, frames) = check_content(&plain[..len], true)?;
        if !side.confirmed {
            side.confirmed = true;
            side.keys = vec![side.keys.swap_remove(index)];
        }
        self.take(now, counter, frames)?;
        Ok(Received {
            surbs: Bytes::copy_from_slice(surbs),
        })
    }

    /// Client: takes a reply that came on a SURB of this session.
    ///
    /// # Errors
    /// Why it is dropped; with no effect, but for [`DropReason::Protocol`], which ends the session.
    pub fn receive(&mut self, now: Time, body: &[u8]) -> Result<Received, DropReason> {
        let now = self.tick(now);
        let Role::Client(side) = &mut self.role else {
            return Err(DropReason::Handshake);
        };
        if self.state == State::Closed {
            return Err(DropReason::Closed);
        }
        let (&front, rest) = body.split_first().ok_or(DropReason::Size)?;
        let (answer, rest) = match front {
            PLAIN => (None, rest),
            WITH_ANSWER => rest
                .split_first_chunk::<ANSWER_LEN>()
                .map(|(a, r)| (Some(a), r))
                .ok_or(DropReason::Size)?,
            _ => return Err(DropReason::Decrypt),
        };
        let (counter, sealed) = rest.split_first_chunk::<COUNTER_LEN>().ok_or(DropReason::Size)?;
        if sealed.len() < MAC_LEN || body.len() > MAX_BODY {
            return Err(DropReason::Size);
        }
        let counter = u64::from_be_bytes(*counter);
        if self.window.look(counter) != Seen::Fresh {
            return Err(DropReason::Replay);
        }
        let round = self.params.round();
        if let Some(answer) = answer {
            side.answered(now, answer);
        }
        let mut plain = [0; MAX_BODY];
        let wanted = |keys: &&Keys| answer.is_none_or(|a| a == keys.answer());
        let len = side
            .keys
            .iter()
            .filter(wanted)
            .find_map(|keys| keys.open(counter, sealed, &mut plain).ok())
            .ok_or(DropReason::Decrypt)?;
        let (_, frames) = check_content(&plain[..len], false)?;
        side.unanswered = None;
        side.reserve_at = None;
        if answer.is_none() && now > side.established_at + round * 4 {
            // The exit has settled for one, and replies from before are no more on the way.
            side.attempts.clear();
        }
        self.take(now, counter, frames)?;
        Ok(Received::default())
    }

    /// Takes the frames of a packet that is genuine and new.
    fn take(&mut self, now: Time, counter: u64, frames: Frames<'_>) -> Result<(), DropReason> {
        self.window.mark(counter, now);
        self.last_received = now;
        self.stats.packets_received += 1;
        let mut outcome = Outcome::default();
        for frame in frames.flatten() {
            if self.take_frame(now, counter, frame, &mut outcome).is_err() {
                self.apply(outcome);
                self.close_with(now, CloseReason::Protocol);
                return Err(DropReason::Protocol);
            }
        }
        self.apply(outcome);
        Ok(())
    }

    fn take_frame(
        &mut self,
        now: Time,
        counter: u64,
        frame: Frame<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), Violation> {
        if !matches!(frame, Frame::Ack(_) | Frame::Backlog { .. }) {
            self.content_at = Some(now);
            self.ack_owed = true;
        }
        let client = matches!(self.role, Role::Client(_));
        match frame {
            Frame::Ack(ack) => return self.arq.on_ack(now, &ack, outcome).map_err(|_| Violation),
            Frame::Close { .. } => self.closed(CloseReason::Peer),
            _ if self.state != State::Open => {}
            Frame::Backlog { bytes } => {
                let Role::Client(side) = &mut self.role else {
                    return Err(Violation);
                };
                // Packets overtake each other; the last one sent counts.
                if counter >= side.backlog.0 {
                    side.backlog = (counter, bytes);
                }
            }
            Frame::Stream {
                id,
                offset,
                fin,
                data,
            } => {
                if let Some(stream) = self.stream(now, id)? {
                    let new = stream.recv.receive(offset, data, fin)?;
                    self.stats.bytes_received += new;
                    self.stats.bytes_duplicate += data.len() as u64 - new;
                    self.tell_readable(id);
                    self.settle(id);
                }
            }
            Frame::Open { id, target } => {
                if client {
                    return Err(Violation);
                }
                if let Some(stream) = self.stream(now, id)?
                    && stream.target.is_none()
                {
                    stream.target = Some(target.clone());
                    self.events.push_back(Event::Incoming(StreamId(id), target));
                    self.tell_readable(id);
                    self.settle(id);
                }
            }
            Frame::Opened { id } => {
                if !client {
                    return Err(Violation);
                }
                if let Some(stream) = self.stream(now, id)?
                    && matches!(stream.opening, Opening::Until(_))
                {
                    stream.opening = Opening::Open;
                    stream.open = Pending::Done;
                    self.events.push_back(Event::Opened(StreamId(id)));
                    self.settle(id);
                }
            }
            Frame::OpenFailed { id, code } => {
                if !client {
                    return Err(Violation);
                }
                if let Some(stream) = self.stream(now, id)? {
                    let pending = matches!(stream.opening, Opening::Until(_));
                    self.remove(id);
                    if pending {
                        let error = OpenError::from_code(code);
                        self.events.push_back(Event::OpenFailed(StreamId(id), error));
                    }
                }
            }
            Frame::MaxData { id, max } => {
                if let Some(stream) = self.stream(now, id)? {
                    stream.send.grant(max);
                }
            }
            Frame::Reset { id, code } => {
                // A stream of which nothing was heard yet is over before it began: its OPEN is still on the way.
                self.check_id(id)?;
                let known = self
                    .streams
                    .get(&id)
                    .is_some_and(|s| s.is_live() && (client || s.target.is_some()));
                self.remove(id);
                if known {
                    self.events.push_back(Event::Reset(StreamId(id), code));
                }
            }
        }
        Ok(())
    }

    /// Tells the program that there is something to read, once, and not before it knows the stream.
    fn tell_readable(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.target.is_some()
            && stream.recv.is_readable()
            && !stream.recv.signalled
        {
            stream.recv.signalled = true;
            self.events.push_back(Event::Readable(StreamId(id)));
        }
    }

    /// The stream of a frame; none when it is over. At an exit the first frame of a stream begins it, whichever it is.
    fn stream(&mut self, now: Time, id: u64) -> Result<Option<&mut Stream>, Violation> {
        self.check_id(id)?;
        if self.over.contains(id) {
            return Ok(None);
        }
        if !self.streams.contains_key(&id) {
            if self.streams.len() >= 2 * self.params.max_streams {
                return Err(Violation);
            }
            self.streams.insert(id, Stream::new(&self.params, now));
            self.without_stream = None;
        }
        Ok(self.streams.get_mut(&id).filter(|stream| stream.is_live()))
    }

    fn check_id(&self, id: u64) -> Result<(), Violation> {
        let limit = match self.role {
            Role::Client(_) => self.next_id,
            Role::Exit(_) => self.over.first_gap(0, u64::MAX).map_or(0, |(start, _)| start) + ID_SPAN,
        };
        if id < limit { Ok(()) } else { Err(Violation) }
    }

    /// Applies what acknowledgements and time-outs changed.
    pub(super) fn apply(&mut self, outcome: Outcome) {
        self.stats.packets_lost += outcome.lost_packets;
        self.stats.packets_spurious += outcome.spurious;
        for content in outcome.acked {
            match content {
                Content::Range {
                    stream: id,
                    start,
                    end,
                    ..
                } => {
                    let Some(stream) = self.streams.get_mut(&id) else {
                        continue;
                    };
                    if !stream.is_live() {
                        continue;
                    }
                    stream.send.on_ack(start, end);
                    if stream.send.blocked && stream.send.room() >= self.params.send_buffer / 4 {
                        stream.send.blocked = false;
                        self.events.push_back(Event::Writable(StreamId(id)));
                    }
                    self.settle(id);
                }
                Content::Control { stream: id, control } => {
                    let Some(stream) = self.streams.get_mut(&id) else {
                        continue;
                    };
                    if let Some(pending) = stream.pending(control) {
                        *pending = Pending::Done;
                    }
                    self.settle(id);
                }
                Content::Close => {
                    if let State::Closing { reason, .. } = self.state {
                        self.closed(reason);
                    }
                }
            }
        }
        for content in outcome.lost {
            match content {
                Content::Range {
                    stream: id,
                    end,
                    repeated,
                    ..
                } => {
                    if let Some(stream) = self.streams.get_mut(&id)
                        && stream.is_live()
                    {
                        stream.send.on_lost(repeated, end);
                    }
                }
                Content::Control { stream: id, control } => {
                    let pending = self.streams.get_mut(&id).and_then(|s| s.pending(control));
                    if let Some(pending) = pending
                        && matches!(pending, Pending::Sent(_))
                    {
                        *pending = Pending::Due;
                    }
                }
                Content::Close => {}
            }
        }
    }
}

impl Stream {
    /// The control frame that a packet carried, unless something newer has taken its place.
    fn pending(&mut self, control: Control) -> Option<&mut Pending> {
        match control {
            Control::Reset => self.reset.as_mut().map(|(_, pending)| pending),
            _ if self.reset.is_some() => None,
            Control::Open => Some(&mut self.open),
            Control::Result => Some(&mut self.result),
            Control::MaxData(max) => (max == self.recv.granted()).then_some(&mut self.max_data),
        }
    }
}

impl ClientSide {
    /// Finishes the attempt that `answer` belongs to, if it is one of those that wait.
    fn answered(&mut self, now: Time, answer: &[u8; ANSWER_LEN]) {
        if self.keys.iter().any(|keys| keys.answer() == answer) {
            return;
        }
        // The newest first: it is the likeliest.
        let mut waiting = core::mem::take(&mut self.attempts);
        let mut kept = Vec::with_capacity(waiting.len());
        while let Some(attempt) = waiting.pop() {
            match attempt.finish(answer) {
                Ok(keys) => {
                    if self.keys.is_empty() {
                        self.established_at = now;
                    }
                    self.keys.push(keys);
                    break;
                }
                Err(Some(attempt)) => kept.push(attempt),
                Err(None) => break,
            }
        }
        waiting.extend(kept.into_iter().rev());
        self.attempts = waiting;
    }
}

/// Splits a packet's content into SURBs and frames, and checks that it is nothing else.
fn check_content(content: &[u8], surbs: bool) -> Result<(&[u8], Frames<'_>), DropReason> {
    let (surbs, frames) = match (surbs, content.split_first()) {
        (true, Some((&count, rest))) => rest
            .split_at_checked(usize::from(count) * SURB_LEN)
            .ok_or(DropReason::Frame)?,
        (true, None) => return Err(DropReason::Frame),
        (false, _) => (&content[..0], content),
    };
    let frames = Frames::new(frames);
    if frames.clone().any(|frame| frame.is_err()) {
        return Err(DropReason::Frame);
    }
    Ok((surbs, frames))
}
