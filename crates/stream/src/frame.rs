//! Frames: what is inside the seal, and the one parser for it.
//!
//! A packet holds frames back to back; the rest is zeros. Numbers are QUIC's variable-length integers (RFC 9000,
//! section 16). The parser takes any bytes: it borrows from them, allocates nothing but a target's name, and ends
//! with an error at the first thing that it doesn't know. What frames mean is [`session`](crate::session)'s part.

use crate::door::Target;

/// Largest number that can be written.
pub(crate) const MAX_NUMBER: u64 = (1 << 62) - 1;

const PADDING: u8 = 0;
const ACK: u8 = 1;
const STREAM: u8 = 2;
const STREAM_FIN: u8 = 3;
const OPEN: u8 = 4;
const OPENED: u8 = 5;
const OPEN_FAILED: u8 = 6;
const MAX_DATA: u8 = 7;
const RESET: u8 = 8;
const BACKLOG: u8 = 9;
const CLOSE: u8 = 10;

/// Which packets came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ack {
    /// Largest counter received.
    pub(crate) largest: u64,
    /// Milliseconds since it was.
    pub(crate) hold_ms: u64,
    /// Bit i (from the least of each byte): counter largest - 1 - i was received.
    pub(crate) bitmap: [u8; Self::MAX_BITMAP],
    /// Bytes of the bitmap that travel; the rest is zero.
    pub(crate) len: usize,
}

impl Ack {
    /// Longest bitmap.
    pub(crate) const MAX_BITMAP: usize = 128;

    /// The counters that it says were received, from the largest down.
    pub(crate) fn counters(&self) -> impl Iterator<Item = u64> + '_ {
        let below = (0..self.len as u64 * 8)
            .filter(|i| self.bitmap[(i / 8) as usize] >> (i % 8) & 1 == 1)
            .map_while(|i| self.largest.checked_sub(i + 1));
        core::iter::once(self.largest).chain(below)
    }
}

/// One frame, its bytes borrowed from the packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Frame<'a> {
    Ack(Ack),
    /// Bytes of a stream at an offset; `fin` when they are the last.
    Stream {
        id: u64,
        offset: u64,
        fin: bool,
        data: &'a [u8],
    },
    Open {
        id: u64,
        target: Target,
    },
    Opened {
        id: u64,
    },
    OpenFailed {
        id: u64,
        code: u8,
    },
    /// The peer may send bytes of the stream up to this offset.
    MaxData {
        id: u64,
        max: u64,
    },
    /// The stream is over in both directions.
    Reset {
        id: u64,
        code: u8,
    },
    /// Bytes of all streams that the sender has not seen acknowledged.
    Backlog {
        bytes: u64,
    },
    /// The session is over.
    Close {
        code: u8,
    },
}

/// Bytes that are not frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameError;

/// Reads frames until the padding, the end or an error.
#[derive(Clone)]
pub(crate) struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn byte(&mut self) -> Result<u8, FrameError> {
        let (&byte, rest) = self.rest.split_first().ok_or(FrameError)?;
        self.rest = rest;
        Ok(byte)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(FrameError)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, FrameError> {
        let first = self.byte()?;
        let more = (1usize << (first >> 6)) - 1;
        let value = u64::from(first & 0x3f);
        Ok(self
            .bytes(more)?
            .iter()
            .fold(value, |v, &b| v << 8 | u64::from(b)))
    }

    fn frame(&mut self, kind: u8) -> Result<Frame<'a>, FrameError> {
        Ok(match kind {
            ACK => {
                let (largest, hold_ms, len) = (self.number()?, self.number()?, self.byte()?.into());
                let mut bitmap = [0; Ack::MAX_BITMAP];
                bitmap
                    .get_mut(..len)
                    .ok_or(FrameError)?
                    .copy_from_slice(self.bytes(len)?);
                Frame::Ack(Ack {
                    largest,
                    hold_ms,
                    bitmap,
                    len,
                })
            }
            STREAM | STREAM_FIN => {
                let (id, offset, len) = (self.number()?, self.number()?, self.number()?);
                if offset + len >= MAX_NUMBER {
                    return Err(FrameError);
                }
                let data = self.bytes(usize::try_from(len).map_err(|_| FrameError)?)?;
                Frame::Stream {
                    id,
                    offset,
                    fin: kind == STREAM_FIN,
                    data,
                }
            }
            OPEN => {
                let id = self.number()?;
                let (target, len) = Target::decode(self.rest).map_err(|_| FrameError)?;
                self.bytes(len)?;
                Frame::Open { id, target }
            }
            OPENED => Frame::Opened { id: self.number()? },
            OPEN_FAILED => Frame::OpenFailed {
                id: self.number()?,
                code: self.byte()?,
            },
            MAX_DATA => Frame::MaxData {
                id: self.number()?,
                max: self.number()?,
            },
            RESET => Frame::Reset {
                id: self.number()?,
                code: self.byte()?,
            },
            BACKLOG => Frame::Backlog {
                bytes: self.number()?,
            },
            CLOSE => Frame::Close { code: self.byte()? },
            _ => return Err(FrameError),
        })
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        let kind = self.byte().ok()?;
        if kind == PADDING {
            self.rest = &[];
            return None;
        }
        let frame = self.frame(kind);
        if frame.is_err() {
            self.rest = &[];
        }
        Some(frame)
    }
}

/// Bytes that a number takes.
pub(crate) fn number_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Writes frames into a packet; what doesn't fit is not written at all.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// Writes to `out`, which is zeros: what stays unwritten is the padding.
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    pub(crate) fn room(&self) -> usize {
        self.out.len() - self.at
    }

    /// Most bytes of a stream that a frame could carry here.
    pub(crate) fn stream_room(&self, id: u64, offset: u64) -> usize {
        // The length field is two bytes: packets are shorter than 16 KiB.
        self.room()
            .saturating_sub(1 + number_len(id) + number_len(offset) + 2)
            .min(0x3fff)
    }

    /// Writes a STREAM frame of `len` bytes, at most [`stream_room`](Self::stream_room); `copy` fills them in.
    pub(crate) fn stream(
        &mut self,
        id: u64,
        offset: u64,
        fin: bool,
        len: usize,
        copy: impl FnOnce(&mut [u8]),
    ) {
        if len > self.stream_room(id, offset) {
            return;
        }
        self.byte(if fin { STREAM_FIN } else { STREAM });
        self.number(id);
        self.number(offset);
        self.number(len as u64);
        copy(&mut self.out[self.at..self.at + len]);
        self.at += len;
    }

    /// Writes a frame if it fits.
    pub(crate) fn put(&mut self, frame: &Frame<'_>) -> bool {
        if encoded_len(frame) > self.room() {
            return false;
        }
        match frame {
            Frame::Ack(ack) => {
                self.byte(ACK);
                self.number(ack.largest);
                self.number(ack.hold_ms);
                self.byte(ack.len as u8);
                self.bytes(&ack.bitmap[..ack.len]);
            }
            Frame::Stream {
                id,
                offset,
                fin,
                data,
            } => {
                self.stream(*id, *offset, *fin, data.len(), |out| out.copy_from_slice(data));
            }
            Frame::Open { id, target } => {
                let mut bytes = Vec::with_capacity(target.encoded_len());
                target.encode(&mut bytes);
                self.byte(OPEN);
                self.number(*id);
                self.bytes(&bytes);
            }
            Frame::Opened { id } => self.numbers(OPENED, &[*id]),
            Frame::OpenFailed { id, code } => {
                self.numbers(OPEN_FAILED, &[*id]);
                self.byte(*code);
            }
            Frame::MaxData { id, max } => self.numbers(MAX_DATA, &[*id, *max]),
            Frame::Reset { id, code } => {
                self.numbers(RESET, &[*id]);
                self.byte(*code);
            }
            Frame::Backlog { bytes } => self.numbers(BACKLOG, &[*bytes]),
            Frame::Close { code } => {
                self.byte(CLOSE);
                self.byte(*code);
            }
        }
        true
    }

    fn numbers(&mut self, kind: u8, values: &[u64]) {
        self.byte(kind);
        values.iter().for_each(|&v| self.number(v));
    }

    fn number(&mut self, value: u64) {
        let value = value.min(MAX_NUMBER);
        let len = number_len(value);
        let prefix = (len.trailing_zeros() as u64) << (8 * len - 2);
        self.bytes(&(value | prefix).to_be_bytes()[8 - len..]);
    }

    fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

/// Bytes that a frame takes; for STREAM an upper bound (its length field counts as two bytes).
pub(crate) fn encoded_len(frame: &Frame<'_>) -> usize {
    1 + match frame {
        Frame::Ack(ack) => number_len(ack.largest) + number_len(ack.hold_ms) + 1 + ack.len,
        Frame::Stream { id, offset, data, .. } => number_len(*id) + number_len(*offset) + 2 + data.len(),
        Frame::Open { id, target } => number_len(*id) + target.encoded_len(),
        Frame::Opened { id } => number_len(*id),
        Frame::OpenFailed { id, .. } | Frame::Reset { id, .. } => number_len(*id) + 1,
        Frame::MaxData { id, max } => number_len(*id) + number_len(*max),
        Frame::Backlog { bytes } => number_len(*bytes),
        Frame::Close { .. } => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = u64> {
        (0u32..62, any::<u64>()).prop_map(|(bits, v)| v & ((2 << bits) - 1))
    }

    fn frame(data: &[u8]) -> impl Strategy<Value = Frame<'_>> {
        let target = prop_oneof![
            "[a-z0-9.-]{1,255}".prop_map(|name| Target::name(&name, 443).unwrap()),
            any::<(u32, u16)>().prop_map(|(ip, port)| Target::ip(std::net::Ipv4Addr::from(ip).into(), port)),
            any::<(u128, u16)>().prop_map(|(ip, port)| Target::ip(std::net::Ipv6Addr::from(ip).into(), port)),
        ];
        prop_oneof![
            (number(), number(), prop::collection::vec(any::<u8>(), 0..=128)).prop_map(
                |(largest, hold_ms, b)| {
                    let mut bitmap = [0; Ack::MAX_BITMAP];
                    bitmap[..b.len()].copy_from_slice(&b);
                    Frame::Ack(Ack {
                        largest,
                        hold_ms,
                        bitmap,
                        len: b.len(),
                    })
                }
            ),
            (number(), 0..MAX_NUMBER / 2, any::<bool>(), 0..=data.len()).prop_map(
                |(id, offset, fin, len)| Frame::Stream {
                    id,
                    offset,
                    fin,
                    data: &data[..len]
                }
            ),
            (number(), target).prop_map(|(id, target)| Frame::Open { id, target }),
            number().prop_map(|id| Frame::Opened { id }),
            (number(), any::<u8>()).prop_map(|(id, code)| Frame::OpenFailed { id, code }),
            (number(), number()).prop_map(|(id, max)| Frame::MaxData { id, max }),
            (number(), any::<u8>()).prop_map(|(id, code)| Frame::Reset { id, code }),
            number().prop_map(|bytes| Frame::Backlog { bytes }),
            any::<u8>().prop_map(|code| Frame::Close { code }),
        ]
    }

    static DATA: [u8; 3_900] = [0xa5; 3_900];

    proptest! {
        #[test]
        fn frames_are_the_same_after_a_round_trip(frames in prop::collection::vec(frame(&DATA), 0..8)) {
            let mut packet = vec![0; 3_941];
            let mut writer = Writer::new(&mut packet);
            let written: Vec<_> = frames.into_iter().filter(|f| writer.put(f)).collect();
            let read: Result<Vec<_>, _> = Frames::new(&packet).collect();
            prop_assert_eq!(read, Ok(written));
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..4_000)) {
            prop_assert!(Frames::new(&bytes).count() <= bytes.len());
        }

        #[test]
        fn damaged_frames_do_no_harm(frame in frame(&DATA), at in 0usize..200, with in any::<u8>(), cut in 0usize..200) {
            let mut packet = vec![0; 200];
            Writer::new(&mut packet).put(&frame);
            packet[at] = with;
            for f in Frames::new(&packet[..cut]).flatten() {
                if let Frame::Ack(ack) = f {
                    prop_assert!(ack.counters().count() <= 1 + 8 * Ack::MAX_BITMAP);
                }
            }
        }
    }
}
