//! Retransmission: what every packet carried, which packets arrived, which are lost, what is worth repeating.
//!
//! Mixing is reordering, so a gap says nothing: a packet is lost when the peer's acknowledgement was made at a time at
//! which the packet was overdue. That time is known without the peer's clock: not before the sending of the largest
//! packet acknowledged, and the stated hold. Overdue is the quantile of the path's delay, which follows from the
//! network's profile, and a margin that grows when packets given up turn out to have arrived. Nothing is ever slowed
//! down: slots set the rate. The design's Libraries section ("beat that") and End to end section.

use core::time::Duration;
use std::collections::VecDeque;

use mizzle_base::Time;

use crate::frame::Ack;

/// Packets remembered: 25 s of the `bulk` rate. When full, the oldest counts as lost.
const MAX_SENT: usize = 8_192;
/// Margin before anything was measured: queues and links, which the path's quantile leaves out.
const MARGIN_MIN: Duration = Duration::from_millis(50);
/// Packets declared lost by one probe time-out.
const PROBE_PACKETS: usize = 8;
/// Longest back-off of the probe: 2⁶ time-outs.
const MAX_BACKOFF: u32 = 6;

/// What a packet carried that must arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Bytes `start..end` of a stream (its end counts as a byte); those before `repeated` went again in a later packet.
    Range {
        stream: u64,
        start: u64,
        end: u64,
        repeated: u64,
    },
    /// A control frame of a stream.
    Control { stream: u64, control: Control },
    /// The end of the session.
    Close,
}

/// Control frames that are sent until acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    Open,
    Result,
    MaxData(u64),
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flying,
    Acked,
    Lost,
}

struct Sent {
    at: Time,
    state: State,
    contents: Vec<Content>,
}

/// A range that may be repeated: a content of a packet, in the order of sending.
struct Repeat {
    counter: u64,
    index: usize,
    at: Time,
}

/// What an acknowledgement or a time-out changed.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) acked: Vec<Content>,
    pub(crate) lost: Vec<Content>,
    /// Packets given up earlier that arrived after all.
    pub(crate) spurious: u64,
    /// Packets given up now.
    pub(crate) lost_packets: u64,
}

/// An acknowledgement of a packet that was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadAck;

/// The sending side's memory of one session.
pub(crate) struct Arq {
    /// Quantile of the one-way delay to the peer.
    quantile: Duration,
    /// Expected time from a packet to its acknowledgement, slots left out.
    round: Duration,
    margin: Duration,
    base: u64,
    sent: VecDeque<Sent>,
    /// Packets below were judged.
    judged: u64,
    repeats: VecDeque<Repeat>,
    largest_acked: Option<u64>,
    /// Latest known lower bound of a time at which the peer made an acknowledgement.
    peer_time: Time,
    /// Packets in flight that carry something.
    flying: usize,
    progress_at: Time,
    backoff: u32,
    /// Smoothed time between acknowledgements that brought something.
    ack_interval: Duration,
}

impl Arq {
    pub(crate) fn new(quantile: Duration, round: Duration) -> Self {
        Self {
            quantile,
            round,
            margin: MARGIN_MIN,
            base: 0,
            sent: VecDeque::new(),
            judged: 0,
            repeats: VecDeque::new(),
            largest_acked: None,
            peer_time: Time::ZERO,
            flying: 0,
            progress_at: Time::ZERO,
            backoff: 0,
            ack_interval: Duration::ZERO,
        }
    }

    /// The counter of the next packet.
    pub(crate) fn next(&self) -> u64 {
        self.base + self.sent.len() as u64
    }

    pub(crate) fn largest_acked(&self) -> Option<u64> {
        self.largest_acked
    }

    /// When a packet sent at `at` may be repeated for free, and a control frame is sent again.
    pub(crate) fn repeat_after(&self) -> Duration {
        self.quantile / 2
    }

    /// Whether anything awaits acknowledgement.
    pub(crate) fn is_flying(&self) -> bool {
        self.flying > 0
    }

    /// Leaves counters out up to `counter`.
    pub(crate) fn skip_to(&mut self, counter: u64, now: Time) {
        while self.next() < counter {
            self.sent.push_back(Sent {
                at: now,
                state: State::Acked,
                contents: Vec::new(),
            });
        }
    }

    /// The packet [`next`](Self::next) leaves with these contents. What had to be forgotten is added to `out`.
    pub(crate) fn on_sent(&mut self, now: Time, contents: Vec<Content>, out: &mut Outcome) {
        let counter = self.next();
        for (index, content) in contents.iter().enumerate() {
            if matches!(content, Content::Range { .. }) {
                self.repeats.push_back(Repeat {
                    counter,
                    index,
                    at: now,
                });
            }
        }
        if !contents.is_empty() {
            if self.flying == 0 {
                self.progress_at = now;
            }
            self.flying += 1;
        }
        self.sent.push_back(Sent {
            at: now,
            state: State::Flying,
            contents,
        });
        if self.sent.len() > MAX_SENT {
            self.give_up(self.base, out);
            self.sent.pop_front();
            self.base += 1;
            self.judged = self.judged.max(self.base);
        }
        self.trim_repeats();
    }

    /// Takes an acknowledgement.
    pub(crate) fn on_ack(&mut self, now: Time, ack: &Ack, out: &mut Outcome) -> Result<(), BadAck> {
        if ack.largest >= self.next() {
            return Err(BadAck);
        }
        if let Some(sent) = self.get(ack.largest) {
            // A hold can't be longer than what passed since the packet was sent.
            let made = (sent.at + Duration::from_millis(ack.hold_ms)).min(now);
            self.peer_time = self.peer_time.max(made);
        }
        let mut progress = false;
        for counter in ack.counters() {
            progress |= self.acknowledge(counter, out);
        }
        self.largest_acked = self.largest_acked.max(Some(ack.largest));
        if progress {
            let gap = now.since(self.progress_at).min(self.round * 8);
            self.ack_interval = (self.ack_interval * 7 + gap) / 8;
            self.progress_at = now;
            self.backoff = 0;
        }
        self.judge(out);
        self.trim();
        Ok(())
    }

    fn acknowledge(&mut self, counter: u64, out: &mut Outcome) -> bool {
        let (peer_time, overdue) = (self.peer_time, self.quantile);
        let Some(sent) = self.get_mut(counter) else {
            return false;
        };
        let (state, at) = (sent.state, sent.at);
        if state == State::Acked {
            return false;
        }
        sent.state = State::Acked;
        let contents = core::mem::take(&mut sent.contents);
        let carried = !contents.is_empty();
        out.acked.extend(contents);
        if state == State::Lost {
            if carried {
                out.spurious += 1;
                // It came between two acknowledgements; this one's time bounds how late. An eighth of the way for
                // each, so that the thousandth packet that is meant to be late moves little, and a path that is
                // slower than it should be is learnt in some ten packets; a quarter beyond, to stay clear of it.
                let late = peer_time.since(at + overdue) * 5 / 4;
                self.margin += late.min(self.quantile * 3).saturating_sub(self.margin) / 8;
            }
        } else {
            self.flying -= usize::from(carried);
            self.margin = (self.margin - self.margin / 8_192).max(MARGIN_MIN);
        }
        carried
    }

    /// Declares lost what was overdue when the peer made its latest acknowledgement.
    fn judge(&mut self, out: &mut Outcome) {
        let overdue = self.quantile + self.margin;
        while let Some(sent) = self.get(self.judged)
            && sent.at + overdue <= self.peer_time
        {
            self.give_up(self.judged, out);
            self.judged += 1;
        }
    }

    fn give_up(&mut self, counter: u64, out: &mut Outcome) {
        let Some(sent) = self.get_mut(counter) else { return };
        if sent.state != State::Flying {
            return;
        }
        sent.state = State::Lost;
        if !sent.contents.is_empty() {
            out.lost.extend(sent.contents.iter().cloned());
            out.lost_packets += 1;
            self.flying -= 1;
        }
    }

    /// Declares everything in flight lost: what INITIALs carried that were not answered.
    pub(crate) fn give_up_all(&mut self, out: &mut Outcome) {
        (self.base..self.next()).for_each(|counter| self.give_up(counter, out));
    }

    /// When to probe, if nothing is acknowledged until then.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let wait = self.round + self.margin + self.ack_interval * 4;
        (self.flying > 0).then(|| self.progress_at + wait * (1 << self.backoff))
    }

    /// Probes if it is time: the oldest packets in flight count as lost, so that they go first.
    pub(crate) fn handle_timeout(&mut self, now: Time, out: &mut Outcome) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        self.backoff = (self.backoff + 1).min(MAX_BACKOFF);
        self.progress_at = now;
        let oldest: Vec<u64> = (self.judged.max(self.base)..self.next())
            .filter(|&c| {
                self.get(c)
                    .is_some_and(|s| s.state == State::Flying && !s.contents.is_empty())
            })
            .take(PROBE_PACKETS)
            .collect();
        oldest.into_iter().for_each(|counter| self.give_up(counter, out));
    }

    /// The oldest range in flight that was not sent for [`repeat_after`](Self::repeat_after), if there is one.
    pub(crate) fn next_repeat(&mut self, now: Time) -> Option<(u64, u64, u64)> {
        loop {
            let front = self.repeats.front()?;
            match self.get(front.counter) {
                Some(sent) if sent.state == State::Flying => match sent.contents.get(front.index) {
                    Some(&Content::Range {
                        stream,
                        end,
                        repeated,
                        ..
                    }) if repeated < end => {
                        let due = front.at + self.repeat_after() <= now;
                        return due.then_some((stream, repeated, end));
                    }
                    _ => {}
                },
                _ => {}
            }
            self.repeats.pop_front();
        }
    }

    /// The range that [`next_repeat`](Self::next_repeat) gave was repeated up to `to`: a later packet answers for it.
    pub(crate) fn repeated(&mut self, to: u64) {
        let Some(front) = self.repeats.front() else { return };
        let (counter, index) = (front.counter, front.index);
        if let Some(Content::Range { end, repeated, .. }) = self
            .get_mut(counter)
            .and_then(|sent| sent.contents.get_mut(index))
        {
            *repeated = to.min(*end);
        }
    }

    fn get(&self, counter: u64) -> Option<&Sent> {
        self.sent
            .get(usize::try_from(counter.checked_sub(self.base)?).ok()?)
    }

    fn get_mut(&mut self, counter: u64) -> Option<&mut Sent> {
        self.sent
            .get_mut(usize::try_from(counter.checked_sub(self.base)?).ok()?)
    }

    /// Forgets what was acknowledged, and what was given up so long ago that it won't come any more.
    fn trim(&mut self) {
        let keep = self.quantile * 4;
        while let Some(front) = self.sent.front()
            && (front.state == State::Acked
                || (front.state == State::Lost && front.at + keep < self.peer_time))
        {
            self.sent.pop_front();
            self.base += 1;
        }
        self.judged = self.judged.max(self.base);
        self.trim_repeats();
    }

    /// Drops leading entries that can't be repeated any more. Entries are in the order of their packets, so those
    /// left are of packets remembered.
    fn trim_repeats(&mut self) {
        while let Some(front) = self.repeats.front()
            && self
                .get(front.counter)
                .is_none_or(|sent| sent.state != State::Flying)
        {
            self.repeats.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: Duration = Duration::from_millis(300);

    fn ms(ms: u64) -> Time {
        Time::from_us(1_000_000 + ms * 1_000)
    }

    fn range(start: u64) -> Vec<Content> {
        vec![Content::Range {
            stream: 0,
            start,
            end: start + 10,
            repeated: start,
        }]
    }

    fn ack(counters: &[u64], hold_ms: u64) -> Ack {
        let largest = *counters.iter().max().unwrap();
        let mut ack = Ack {
            largest,
            hold_ms,
            bitmap: [0; Ack::MAX_BITMAP],
            len: Ack::MAX_BITMAP,
        };
        for c in counters.iter().filter(|&&c| c != largest) {
            let i = (largest - c - 1) as usize;
            ack.bitmap[i / 8] |= 1 << (i % 8);
        }
        ack
    }

    #[test]
    fn reordering_is_not_loss_but_time_is() {
        let mut arq = Arq::new(Q, Q * 2);
        let mut out = Outcome::default();
        for i in 0..400 {
            arq.on_sent(ms(i), range(i * 10), &mut out);
        }
        arq.on_ack(ms(500), &ack(&[349], 0), &mut out).unwrap();
        assert!(
            out.lost.is_empty(),
            "packet 0 was sent 349 ms before, 350 are allowed"
        );
        arq.on_ack(ms(500), &ack(&[351, 1], 0), &mut out).unwrap();
        assert_eq!(out.lost, range(0), "packet 0 is overdue, packet 1 came");
        arq.on_ack(ms(500), &ack(&[351, 0], 100), &mut out).unwrap();
        assert_eq!(out.spurious, 1, "the one given up came");
        assert!(arq.margin > MARGIN_MIN);
        assert!(arq.on_ack(ms(500), &ack(&[400], 0), &mut out).is_err());
    }

    #[test]
    fn a_margin_too_small_is_learnt_and_unlearnt() {
        let mut arq = Arq::new(Q, Q * 2);
        let mut out = Outcome::default();
        // Odd packets take 300 ms more than they should.
        for i in 0..3_000u64 {
            arq.on_sent(ms(i * 10), range(i * 10), &mut out);
            let mut got: Vec<u64> = vec![i & !1];
            got.extend((i.saturating_sub(1_000)..i).filter(|c| c % 2 == 0 || (i - c) * 10 > 600));
            arq.on_ack(ms(i * 10), &ack(&got, 0), &mut out).unwrap();
        }
        println!("spurious: {} of 1500 late packets", out.spurious);
        assert!((5..60).contains(&out.spurious), "{}", out.spurious);
    }

    #[test]
    fn repeats_are_oldest_first_and_hand_over_the_duty() {
        let mut arq = Arq::new(Q, Q * 2);
        let mut out = Outcome::default();
        arq.on_sent(ms(0), range(0), &mut out);
        arq.on_sent(ms(10), range(10), &mut out);
        assert_eq!(arq.next_repeat(ms(149)), None);
        assert_eq!(arq.next_repeat(ms(150)), Some((0, 0, 10)));
        arq.repeated(4);
        assert_eq!(arq.next_repeat(ms(150)), Some((0, 4, 10)));
        arq.repeated(10);
        arq.on_sent(ms(150), range(0), &mut out);
        assert_eq!(arq.next_repeat(ms(200)), Some((0, 10, 20)));
        arq.on_sent(ms(400), Vec::new(), &mut out);
        arq.on_ack(ms(500), &ack(&[3], 0), &mut out).unwrap();
        let duty = Content::Range {
            stream: 0,
            start: 0,
            end: 10,
            repeated: 10,
        };
        assert_eq!(out.lost, [vec![duty], range(10)].concat());
    }

    #[test]
    fn silence_is_probed_with_back_off() {
        let mut arq = Arq::new(Q, Q * 2);
        let mut out = Outcome::default();
        assert_eq!(arq.deadline(), None);
        arq.on_sent(ms(0), range(0), &mut out);
        let first = arq.deadline().unwrap();
        arq.handle_timeout(first, &mut out);
        assert_eq!(out.lost, range(0));
        assert_eq!(arq.deadline(), None);
        arq.on_sent(first, range(0), &mut out);
        assert!(arq.deadline().unwrap().since(first) > first.since(ms(0)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut arq = Arq::new(Q, Q * 2);
        let mut out = Outcome::default();
        for i in 0..3 * MAX_SENT as u64 {
            arq.on_sent(ms(i), range(i), &mut out);
        }
        assert_eq!(arq.sent.len(), MAX_SENT);
        assert_eq!(arq.repeats.len(), MAX_SENT);
        assert_eq!(out.lost_packets, 2 * MAX_SENT as u64);
    }
}
