//! The two halves of a byte stream: what waits to be sent and acknowledged, and what came in and waits to be read.
//!
//! Offsets only: which packet carries which range is [`arq`](crate::arq)'s part. The end of a stream counts as one
//! more byte after the last one, so that sending, losing, repeating and acknowledging it needs no code of its own.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::ranges::RangeSet;

/// Bytes that either end may send of a stream before it was granted more.
///
/// A constant of the protocol. Small, because it is granted unseen for every stream that a peer may begin; a grant
/// of the whole window travels with the opening and with its result.
pub const INITIAL_WINDOW: u64 = 64 << 10;

/// Send buffers are kept in pieces of this size, so that what was acknowledged out of order is freed.
const PIECE: u64 = 4_096;
/// Most pieces that may wait out of order: full packets of twice the largest window; far above what writes of a
/// few bytes leave in flight, and a bound on what a peer can make us keep for each byte.
const MAX_PIECES: usize = 8_192;

/// What is being sent.
pub(crate) struct SendHalf {
    /// All below was acknowledged.
    base: u64,
    /// Bytes written by the program.
    end: u64,
    /// First offset that never was in a packet.
    next: u64,
    finished: bool,
    max_data: u64,
    acked: RangeSet,
    lost: RangeSet,
    /// Piece i holds the bytes from (first + i) · PIECE; none once all of it was acknowledged.
    pieces: VecDeque<Option<Box<[u8]>>>,
    first: u64,
    limit: u64,
    /// A write was cut short; tell the program when there is room.
    pub(crate) blocked: bool,
}

impl SendHalf {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            base: 0,
            end: 0,
            next: 0,
            finished: false,
            max_data: INITIAL_WINDOW,
            acked: RangeSet::default(),
            lost: RangeSet::default(),
            pieces: VecDeque::new(),
            first: 0,
            limit,
            blocked: false,
        }
    }

    /// One past the last offset there is, the end counted as one byte.
    fn top(&self) -> u64 {
        self.end + u64::from(self.finished)
    }

    /// Bytes not acknowledged, the end counted as one.
    pub(crate) fn waiting(&self) -> u64 {
        self.top() - self.base - self.acked.total()
    }

    /// How much a write may add.
    pub(crate) fn room(&self) -> u64 {
        if self.finished {
            return 0;
        }
        // The second bound is against a peer that acknowledges everything but the first byte.
        let span = (4 * self.limit).saturating_sub(self.end - self.base);
        self.limit.saturating_sub(self.waiting()).min(span)
    }

    /// Takes a part of `data`, at most `max`; how much.
    pub(crate) fn write(&mut self, data: &[u8], max: u64) -> usize {
        let room = usize::try_from(self.room().min(max)).unwrap_or(usize::MAX);
        let (data, rest) = data.split_at(data.len().min(room));
        self.blocked |= !rest.is_empty();
        let mut left = data;
        while !left.is_empty() {
            let (index, at) = (
                (self.end / PIECE - self.first) as usize,
                (self.end % PIECE) as usize,
            );
            while self.pieces.len() <= index {
                self.pieces.push_back(None);
            }
            let piece = self.pieces[index].get_or_insert_with(|| vec![0; PIECE as usize].into_boxed_slice());
            let (now, later) = left.split_at(left.len().min(PIECE as usize - at));
            piece[at..at + now.len()].copy_from_slice(now);
            self.end += now.len() as u64;
            left = later;
        }
        data.len()
    }

    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    /// Everything, the end too, was acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.finished && self.base == self.end + 1
    }

    pub(crate) fn grant(&mut self, max: u64) {
        self.max_data = self.max_data.max(max);
    }

    /// The lost range to send again first.
    pub(crate) fn lost(&self) -> Option<(u64, u64)> {
        self.lost.first()
    }

    /// The range to send for the first time.
    pub(crate) fn new_data(&self) -> Option<(u64, u64)> {
        let data = self.end.min(self.max_data);
        let top = if data == self.end { self.top() } else { data };
        (self.next < top).then_some((self.next, top))
    }

    /// How many of the bytes `start..end` are data and whether the end is among them.
    pub(crate) fn split_fin(&self, start: u64, end: u64) -> (usize, bool) {
        let data_end = end.min(self.end).max(start);
        ((data_end - start) as usize, self.finished && end > self.end)
    }

    /// A packet carries `start..end`.
    pub(crate) fn sent(&mut self, start: u64, end: u64) {
        self.next = self.next.max(end);
        self.lost.remove(start, end);
    }

    /// The bytes from `start`; the range was written and not acknowledged.
    pub(crate) fn copy(&self, mut start: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let at = (start % PIECE) as usize;
            let len = out.len().min(PIECE as usize - at);
            let (now, later) = out.split_at_mut(len);
            let piece = (start / PIECE)
                .checked_sub(self.first)
                .and_then(|i| self.pieces.get(i as usize));
            match piece {
                Some(Some(piece)) => now.copy_from_slice(&piece[at..at + len]),
                // Not reached for ranges that aren't acknowledged.
                _ => now.fill(0),
            }
            start += len as u64;
            out = later;
        }
    }

    /// The part of `start..end` that isn't acknowledged, first gap only.
    pub(crate) fn first_unacked(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        self.acked.first_gap(start.max(self.base), end)
    }

    /// A packet with `start..end` was lost and nothing newer carries it.
    pub(crate) fn on_lost(&mut self, start: u64, end: u64) -> u64 {
        let before = self.lost.total();
        let gaps: Vec<_> = self.acked.gaps(start.max(self.base), end).collect();
        gaps.into_iter().for_each(|(s, e)| self.lost.insert(s, e));
        self.lost.total() - before
    }

    /// A packet with `start..end` was received.
    pub(crate) fn on_ack(&mut self, start: u64, end: u64) {
        let start = start.max(self.base);
        if start >= end {
            return;
        }
        self.acked.insert(start, end);
        self.lost.remove(start, end);
        if let Some((first, to)) = self.acked.first()
            && first == self.base
        {
            self.base = to;
            self.acked.remove(first, to);
        }
        while !self.pieces.is_empty() && (self.first + 1) * PIECE <= self.base {
            self.pieces.pop_front();
            self.first += 1;
        }
        if self.base >= self.end && self.pieces.len() <= 1 {
            // Nothing waits: an idle stream keeps no memory. The piece comes back with the next write.
            self.pieces.clear();
            self.first = self.end / PIECE;
        }
        for index in start / PIECE..=(end - 1) / PIECE {
            let (from, to) = ((index * PIECE).max(self.base), (index + 1) * PIECE);
            if to <= self.end
                && (to <= self.base || self.acked.covers(from, to))
                && let Some(piece) = index
                    .checked_sub(self.first)
                    .and_then(|i| self.pieces.get_mut(i as usize))
            {
                *piece = None;
            }
        }
    }
}

/// A peer broke the rules of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation;

/// What is being received.
pub(crate) struct RecvHalf {
    /// All below came in.
    next: u64,
    /// All below was read by the program.
    read: u64,
    /// One past the last byte that the peer may send.
    granted: u64,
    /// Length of the stream, once known.
    fin: Option<u64>,
    highest: u64,
    ahead: BTreeMap<u64, Bytes>,
    ready: VecDeque<BytesMut>,
    /// The program was told that there is something to read.
    pub(crate) signalled: bool,
    /// The program was told that all was read.
    pub(crate) ended: bool,
}

impl RecvHalf {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            read: 0,
            granted: INITIAL_WINDOW,
            fin: None,
            highest: 0,
            ahead: BTreeMap::new(),
            ready: VecDeque::new(),
            signalled: false,
            ended: false,
        }
    }

    /// Takes bytes at an offset; how many of them were new.
    pub(crate) fn receive(&mut self, offset: u64, data: &[u8], fin: bool) -> Result<u64, Violation> {
        let end = offset + data.len() as u64;
        if end > self.granted
            || self.fin.is_some_and(|f| end > f || (fin && end != f))
            || (fin && end < self.highest)
        {
            return Err(Violation);
        }
        self.highest = self.highest.max(end);
        if fin {
            self.fin = Some(end);
        }
        let mut new = 0;
        let mut at = offset.max(self.next);
        // In order as long as nothing waits: straight to the reader, no copy kept aside.
        if at == self.next && at < end && self.ahead.first_key_value().is_none_or(|(&s, _)| s >= end) {
            self.push(&data[(at - offset) as usize..]);
            new += end - at;
        } else {
            while at < end {
                let before = self
                    .ahead
                    .range(..=at)
                    .next_back()
                    .map(|(&s, b)| s + b.len() as u64);
                if let Some(covered) = before.filter(|&c| c > at) {
                    at = covered;
                    continue;
                }
                let to = self.ahead.range(at..).next().map_or(end, |(&s, _)| s.min(end));
                if self.ahead.len() >= MAX_PIECES {
                    return Err(Violation);
                }
                let part = &data[(at - offset) as usize..(to - offset) as usize];
                self.ahead.insert(at, Bytes::copy_from_slice(part));
                new += to - at;
                at = to;
            }
        }
        while let Some(entry) = self.ahead.first_entry()
            && *entry.key() == self.next
        {
            let piece = entry.remove();
            self.push(&piece);
        }
        Ok(new)
    }

    /// Appends bytes that are next in order. Small ones share an allocation, so that memory stays near the window.
    fn push(&mut self, data: &[u8]) {
        self.next += data.len() as u64;
        match self.ready.back_mut() {
            Some(back) if back.capacity() - back.len() >= data.len() => back.extend_from_slice(data),
            _ => {
                let mut piece = BytesMut::with_capacity(data.len().max(PIECE as usize));
                piece.extend_from_slice(data);
                self.ready.push_back(piece);
            }
        }
    }

    /// At most `max` of the bytes that are next.
    pub(crate) fn read(&mut self, max: usize) -> Option<Bytes> {
        let front = self.ready.front_mut()?;
        if max == 0 {
            return None;
        }
        let bytes = if front.len() > max {
            front.split_to(max)
        } else {
            self.ready.pop_front()?
        };
        self.read += bytes.len() as u64;
        Some(bytes.freeze())
    }

    pub(crate) fn is_readable(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The peer's end came and everything before it was read.
    pub(crate) fn is_done(&self) -> bool {
        self.fin == Some(self.read)
    }

    /// Bytes that the peer may still send or that wait to be read.
    pub(crate) fn outstanding(&self) -> u64 {
        self.granted - self.read
    }

    pub(crate) fn granted(&self) -> u64 {
        self.granted
    }

    /// A new grant worth telling the peer, when `window` bytes may be outstanding: once half of it was read.
    pub(crate) fn grant(&mut self, window: u64) -> bool {
        let granted = self.read + window;
        if self.fin.is_some() || granted < self.granted + window / 2 {
            return false;
        }
        self.granted = granted;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(range: core::ops::Range<u64>) -> Vec<u8> {
        range.map(|i| (i * 7 % 251) as u8).collect()
    }

    proptest! {
        #[test]
        fn any_order_of_overlapping_parts_reads_as_the_whole(
            mut parts in prop::collection::vec((0u64..900, 1u64..200), 0..60),
            reads in 1usize..300,
        ) {
            parts.extend((0..10).map(|i| (i * 100, 100)));
            let mut half = RecvHalf::new();
            let mut got = Vec::new();
            let mut new = 0;
            for (start, len) in parts {
                let end = (start + len).min(1_000);
                new += half.receive(start, &text(start..end), end == 1_000).unwrap();
                if let Some(bytes) = half.read(reads) {
                    got.extend_from_slice(&bytes);
                }
            }
            while let Some(bytes) = half.read(reads) {
                got.extend_from_slice(&bytes);
            }
            prop_assert_eq!(got, text(0..1_000));
            prop_assert_eq!(new, 1_000);
            prop_assert!(half.is_done());
        }

        #[test]
        fn sent_ranges_come_back_whatever_is_acknowledged(
            steps in prop::collection::vec((0u8..4, 1usize..9_000), 1..200),
        ) {
            let mut half = SendHalf::new(20_000);
            half.grant(u64::MAX);
            let mut flying: Vec<(u64, u64)> = Vec::new();
            for (kind, n) in steps {
                match kind {
                    0 => {
                        let end = half.end;
                        half.write(&text(end..end + n as u64), u64::MAX);
                    }
                    1 => if let Some((s, e)) = half.lost().or(half.new_data()) {
                        let e = e.min(s + n as u64);
                        let (len, fin) = half.split_fin(s, e);
                        prop_assert!(!fin);
                        let mut out = vec![0; len];
                        half.copy(s, &mut out);
                        prop_assert_eq!(out, text(s..e));
                        half.sent(s, e);
                        flying.push((s, e));
                    },
                    2 => if !flying.is_empty() {
                        let (s, e) = flying.swap_remove(n % flying.len());
                        half.on_ack(s, e);
                    },
                    _ => if !flying.is_empty() {
                        let (s, e) = flying.swap_remove(n % flying.len());
                        half.on_lost(s, e);
                    },
                }
                prop_assert!(half.waiting() <= 20_000 && half.end - half.base <= 80_000);
            }
            half.finish();
            for (s, e) in flying {
                half.on_ack(s, e);
            }
            while let Some((s, e)) = half.lost().or(half.new_data()) {
                half.sent(s, e);
                half.on_ack(s, e);
            }
            prop_assert!(half.is_done());
        }
    }

    #[test]
    fn beyond_the_window_or_the_end_is_a_violation() {
        let mut half = RecvHalf::new();
        assert_eq!(half.receive(INITIAL_WINDOW - 1, &[1, 2], false), Err(Violation));
        assert_eq!(half.receive(0, &[1, 2], true), Ok(2));
        assert_eq!(half.receive(1, &[2, 3], false), Err(Violation));
        assert_eq!(half.receive(0, &[1], true), Err(Violation));
        assert_eq!(half.receive(0, &[1, 2], true), Ok(0));
    }
}
