//! Filling a packet.

use mizzle_base::Time;

use super::stream::{Pending, Stream};
use super::{ClientSide, Event, ExitSide, INITIAL_FRONT, MAX_BODY, Role, SURB_LEN, Session, Stall, State};
use crate::accept::INITIAL_OVERHEAD;
use crate::arq::{Content, Control, Outcome};
use crate::frame::{Ack, Frame, Writer};
use crate::seal::{ANSWER_LEN, Initiator, MAC_LEN};
use crate::session::{CloseReason, stream::Opening};
use crate::tag::{FIRST_TRANSPORT, TAG_LEN};

/// Fewer bytes of a longer range are not worth a frame.
const MIN_PART: u64 = 64;
/// CLOSE is sent in so many packets.
pub(super) const CLOSE_PACKETS: u32 = 3;
/// What the front of an exit's packet says.
pub(super) const PLAIN: u8 = 0;
pub(super) const WITH_ANSWER: u8 = 1;
pub(super) const COUNTER_LEN: usize = 8;

impl Session {
    /// Fills a packet's body with exactly `out.len()` bytes, sealed. `surbs` are whole SURBs for the exit, none in a
    /// slot without them and at an exit.
    ///
    /// `None` when the session may not send now: it is over, awaits the answer to its INITIAL or has nothing to begin,
    /// has used the counters that the exit knows the tags of, or the sizes don't fit. Nothing has changed then, and the
    /// SURBs were not used.
    pub fn fill(&mut self, now: Time, surbs: &[u8], out: &mut [u8]) -> Option<usize> {
        let now = self.tick(now);
        if self.state == State::Closed || out.len() > MAX_BODY || !surbs.len().is_multiple_of(SURB_LEN) {
            return None;
        }
        match &self.role {
            Role::Client(side) if side.keys.is_empty() => {
                let front = INITIAL_OVERHEAD + INITIAL_FRONT + 1 + surbs.len();
                if surbs.is_empty() || out.len() < front || !self.may_try(side, now) {
                    return None;
                }
                self.fill_initial(now, surbs, out)
            }
            Role::Client(side) => {
                if out.len() < TAG_LEN + 1 + surbs.len() + MAC_LEN {
                    return None;
                }
                if self.in_reserve() && (surbs.is_empty() || !self.reserve_due(side, now)) {
                    return None;
                }
                self.fill_forward(now, surbs, out)
            }
            Role::Exit(_) => {
                let front = 1 + ANSWER_LEN + COUNTER_LEN + MAC_LEN;
                if !surbs.is_empty() || out.len() < front {
                    return None;
                }
                self.fill_reply(now, out)
            }
        }
    }

    fn fill_initial(&mut self, now: Time, surbs: &[u8], out: &mut [u8]) -> Option<usize> {
        // What earlier attempts carried goes first again: most likely they are lost.
        let mut outcome = Outcome::default();
        self.arq.give_up_all(&mut outcome);
        self.apply(outcome);
        let mut plain = [0; MAX_BODY];
        let plain = &mut plain[..out.len() - INITIAL_OVERHEAD];
        let content = &mut plain[INITIAL_FRONT..];
        let contents = self.write_content(now, Some(surbs), content);
        let round = self.params.round();
        let Role::Client(side) = &mut self.role else {
            return None;
        };
        let (nonce, rest) = plain.split_at_mut(side.nonce.len());
        nonce.copy_from_slice(&side.nonce);
        rest[..32].copy_from_slice(side.tag_key.bytes());
        // Below FIRST_TRANSPORT, as `may_try` has checked.
        rest[32] = side.tries as u8;
        let (front, message) = out.split_at_mut(TAG_LEN);
        rand_core::Rng::fill_bytes(&mut side.rng, front);
        let attempt = Initiator::start(
            &self.params.context,
            &side.exit_key,
            &mut side.rng,
            plain,
            message,
        )
        .ok()?;
        if side.tries > 0 {
            self.events.push_back(Event::Stalled(Stall::Initial));
        }
        side.attempts.push(attempt);
        side.tries += 1;
        side.retry_at = now + round + round * (side.tries - 1) / 2;
        self.sent(now, contents, true);
        Some(out.len())
    }

    fn fill_forward(&mut self, now: Time, surbs: &[u8], out: &mut [u8]) -> Option<usize> {
        self.arq.skip_to(FIRST_TRANSPORT, now);
        let mut plain = [0; MAX_BODY];
        let plain = &mut plain[..out.len() - TAG_LEN - MAC_LEN];
        let reserve = self.in_reserve();
        let counter = self.arq.next();
        let contents = self.write_content(now, Some(surbs), plain);
        let Role::Client(side) = &mut self.role else {
            return None;
        };
        let (front, sealed) = out.split_at_mut(TAG_LEN);
        front.copy_from_slice(&side.tag_key.tag(counter));
        side.keys.first()?.seal(counter, plain, sealed).ok()?;
        if reserve {
            side.reserve_at = Some(now);
            self.events.push_back(Event::Stalled(Stall::Tags));
        }
        self.sent(now, contents, !surbs.is_empty());
        Some(out.len())
    }

    fn fill_reply(&mut self, now: Time, out: &mut [u8]) -> Option<usize> {
        let Role::Exit(side) = &self.role else { return None };
        let front_len = 1 + COUNTER_LEN + if side.confirmed { 0 } else { ANSWER_LEN };
        let mut plain = [0; MAX_BODY];
        let plain = &mut plain[..out.len() - front_len - MAC_LEN];
        let counter = self.arq.next();
        let contents = self.write_content(now, None, plain);
        let Role::Exit(side) = &self.role else { return None };
        let ExitSide { keys, confirmed, .. } = &**side;
        let (_, keys) = keys.last()?;
        let (front, sealed) = out.split_at_mut(front_len);
        front[0] = if *confirmed { PLAIN } else { WITH_ANSWER };
        if !confirmed {
            front[1..1 + ANSWER_LEN].copy_from_slice(keys.answer());
        }
        front[front_len - COUNTER_LEN..].copy_from_slice(&counter.to_be_bytes());
        keys.seal(counter, plain, sealed).ok()?;
        self.sent(now, contents, false);
        Some(out.len())
    }

    fn sent(&mut self, now: Time, contents: Vec<Content>, surbs: bool) {
        self.stats.packets_sent += 1;
        self.ack_owed = false;
        let mut outcome = Outcome::default();
        self.arq.on_sent(now, contents, &mut outcome);
        self.apply(outcome);
        if let Role::Client(side) = &mut self.role
            && surbs
        {
            let ClientSide { unanswered, .. } = &mut **side;
            *unanswered = Some(unanswered.map_or((now, 1), |(at, n)| (at, n + 1)));
        }
        if let State::Closing { reason, sent, .. } = &mut self.state {
            *sent += 1;
            if *sent >= CLOSE_PACKETS {
                let reason: CloseReason = *reason;
                self.closed(reason);
            }
        }
    }

    /// Writes SURBs (where the direction has them) and frames to `out`, which is zeros.
    fn write_content(&mut self, now: Time, surbs: Option<&[u8]>, out: &mut [u8]) -> Vec<Content> {
        let mut at = 0;
        if let Some(surbs) = surbs {
            out[0] = (surbs.len() / SURB_LEN) as u8;
            out[1..=surbs.len()].copy_from_slice(surbs);
            at = 1 + surbs.len();
        }
        let mut contents = Vec::new();
        let mut writer = Writer::new(&mut out[at..]);
        if let State::Closing { reason, .. } = self.state
            && writer.put(&Frame::Close { code: reason as u8 })
        {
            contents.push(Content::Close);
        }
        let room = writer.room().saturating_sub(32).min(Ack::MAX_BITMAP);
        if let Some(ack) = self.window.ack(now, room) {
            writer.put(&Frame::Ack(ack));
        }
        if matches!(self.role, Role::Exit(_)) {
            writer.put(&Frame::Backlog {
                bytes: self.waiting(),
            });
        }
        self.write_control(now, &mut writer, &mut contents);
        self.write_data(true, &mut writer, &mut contents);
        self.write_data(false, &mut writer, &mut contents);
        self.write_repeats(now, &mut writer, &mut contents);
        contents
    }

    fn write_control(&mut self, now: Time, writer: &mut Writer<'_>, contents: &mut Vec<Content>) {
        let gap = self.arq.repeat_after();
        for (&id, stream) in &mut self.streams {
            let Stream {
                opening,
                target,
                recv,
                open,
                result,
                max_data,
                reset,
                ..
            } = stream;
            let mut put = |pending: &mut Pending, frame: &dyn Fn() -> Option<Frame<'static>>, control| {
                if pending.goes(now, gap)
                    && let Some(frame) = frame()
                    && writer.put(&frame)
                {
                    *pending = Pending::Sent(now);
                    contents.push(Content::Control { stream: id, control });
                }
            };
            if let Some((code, pending)) = reset {
                let code = *code;
                put(pending, &|| Some(Frame::Reset { id, code }), Control::Reset);
                continue;
            }
            put(
                open,
                &|| target.clone().map(|target| Frame::Open { id, target }),
                Control::Open,
            );
            let opening = *opening;
            let answer = || match opening {
                Opening::Until(_) => None,
                Opening::Open => Some(Frame::Opened { id }),
                Opening::Failed(error) => Some(Frame::OpenFailed {
                    id,
                    code: error.code(),
                }),
            };
            put(result, &answer, Control::Result);
            let max = recv.granted();
            put(
                max_data,
                &|| Some(Frame::MaxData { id, max }),
                Control::MaxData(max),
            );
        }
    }

    fn write_data(&mut self, lost: bool, writer: &mut Writer<'_>, contents: &mut Vec<Content>) {
        let range = |s: &Stream| if lost { s.send.lost() } else { s.send.new_data() };
        while let Some(id) = self.next_stream(|s| range(s).is_some()) {
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            let Some((start, end)) = range(stream) else { return };
            let Some(to) = write_range(stream, id, start, end, writer) else {
                return;
            };
            stream.send.sent(start, to);
            self.cursor = id;
            let counted = if lost {
                &mut self.stats.bytes_again
            } else {
                &mut self.stats.bytes_new
            };
            *counted += to - start;
            contents.push(Content::Range {
                stream: id,
                start,
                end: to,
                repeated: start,
            });
        }
    }

    fn write_repeats(&mut self, now: Time, writer: &mut Writer<'_>, contents: &mut Vec<Content>) {
        while let Some((id, start, end)) = self.arq.next_repeat(now) {
            let stream = self.streams.get(&id);
            let Some((from, to)) = stream.and_then(|s| s.send.first_unacked(start, end)) else {
                self.arq.repeated(end);
                continue;
            };
            let Some(stream) = stream else { return };
            let Some(to) = write_range(stream, id, from, to, writer) else {
                return;
            };
            self.arq.repeated(to);
            self.stats.bytes_repeated += to - from;
            contents.push(Content::Range {
                stream: id,
                start: from,
                end: to,
                repeated: from,
            });
        }
    }
}

/// Writes as much of a range as fits; up to where that was.
fn write_range(stream: &Stream, id: u64, start: u64, end: u64, writer: &mut Writer<'_>) -> Option<u64> {
    let room = writer.stream_room(id, start) as u64;
    let (len, fin) = stream.send.split_fin(start, end);
    // Kind, two numbers and a length take up to 19 bytes, of which a `stream_room` of 0 tells nothing.
    if writer.room() < 20 || room < MIN_PART.min(len as u64) {
        return None;
    }
    let whole = len as u64 <= room;
    let to = if whole { end } else { start + room };
    writer.stream(id, start, fin && whole, len.min(room as usize), |out| {
        stream.send.copy(start, out)
    });
    Some(to)
}
