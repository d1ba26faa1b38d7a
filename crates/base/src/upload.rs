//! How a letter is brought to the gateway that keeps its receiver's mailbox: the bytes of the stream between them.
//!
//! The sender writes `version (1) = 1 ‖ resume (1: 0 or 1) ‖ letter id (16) ‖ count (4)`, big-endian, then items of
//! [`ITEM_LEN`] bytes in the order of their indices. With `resume` 0 they begin at once with the first; with 1 the sender
//! waits for [`Answer::From`] and begins there. The gateway writes [`Answer`]s: `1 ‖ next (4)`, `2`, or `3 ‖ code (1)`; the
//! stream ends after the last two. An unknown mailbox fails the opening of the stream, before any of this.
//!
//! What an item holds is `mizzle-stream`'s; how a gateway keeps one, and when it says *stored*, is `mizzle-gateway`'s.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use crate::id::LetterId;
use crate::item::{ITEM_LEN, Item};

/// Length of an encoded [`Head`] in bytes.
pub const HEAD_LEN: usize = 2 + LetterId::LEN + 4;
/// Most items of a letter: 4 GiB.
pub const MAX_COUNT: u32 = 1 << 20;

const VERSION: u8 = 1;
const FROM: u8 = 1;
const STORED: u8 = 2;
const REFUSED: u8 = 3;

/// Bytes that are not what this module describes, or of a version that it doesn't know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the other end of the upload speaks another version, or not at all")]
pub struct Malformed;

/// What an upload begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The sender was here before with this letter, and asks from where on to send.
    pub resume: bool,
    /// Which letter.
    pub letter: LetterId,
    /// How many items it has: 1 to [`MAX_COUNT`].
    pub count: u32,
}

impl Head {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[0] = VERSION;
        out[1] = u8::from(self.resume);
        out[2..18].copy_from_slice(self.letter.as_bytes());
        out[18..].copy_from_slice(&self.count.to_be_bytes());
        out
    }

    /// Reads [`Self::encode`].
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Self, Malformed> {
        let &[VERSION, resume @ (0 | 1), ref rest @ ..] = bytes else {
            return Err(Malformed);
        };
        let (letter, count) = rest.split_first_chunk().ok_or(Malformed)?;
        let count = u32::from_be_bytes(count.try_into().map_err(|_| Malformed)?);
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(Malformed);
        }
        Ok(Self {
            resume: resume == 1,
            letter: LetterId::new(*letter),
            count,
        })
    }
}

/// What the gateway says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Send from the item with this index on; said once, and only to a head with `resume`.
    From(u32),
    /// The whole letter is on the gateway's disk. The stream ends.
    Stored,
    /// It is not taken; the code is one of the reasons why streams are not opened (`mizzle-stream`). The stream ends.
    Refused(u8),
}

impl Answer {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::From(next) => {
                let mut out = vec![FROM];
                out.extend_from_slice(&next.to_be_bytes());
                out
            }
            Self::Stored => vec![STORED],
            Self::Refused(code) => vec![REFUSED, *code],
        }
    }

    /// Reads an answer at the start of `bytes`, and how many bytes it took; `None` while there are too few.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        Ok(match bytes {
            [] | [REFUSED] => None,
            [FROM, rest @ ..] => rest
                .split_first_chunk()
                .map(|(next, _)| (Self::From(u32::from_be_bytes(*next)), 5)),
            [STORED, ..] => Some((Self::Stored, 1)),
            [REFUSED, code, ..] => Some((Self::Refused(*code), 2)),
            _ => return Err(Malformed),
        })
    }
}

/// One thing that an upload says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Its beginning; always the first.
    Head(Head),
    /// The next item.
    Item(Item),
}

/// Reads an upload, whatever the pieces in which its bytes come. Holds what was pushed and not yet read: whoever pushes
/// bounds it.
#[derive(Default)]
pub struct Reader {
    bytes: VecDeque<u8>,
    head: Option<Head>,
    /// Index of the next item; `None` while the sender is to wait for it.
    next: Option<u32>,
}

impl Reader {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The head with `resume` was answered: the next item is the one with this index.
    pub fn resume_at(&mut self, next: u32) {
        self.next = Some(next);
    }

    /// Bytes that were pushed and not yet read.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.bytes.len()
    }

    /// The next part, as far as it came.
    ///
    /// # Errors
    /// [`Malformed`], also for bytes after the last item: nothing good comes after it.
    pub fn read(&mut self) -> Result<Option<Part>, Malformed> {
        let Some(head) = self.head else {
            let Some(bytes) = self.take::<HEAD_LEN>() else {
                return Ok(None);
            };
            let head = Head::decode(&bytes)?;
            self.head = Some(head);
            self.next = (!head.resume).then_some(0);
            return Ok(Some(Part::Head(head)));
        };
        let Some(index) = self.next else {
            return Ok(None);
        };
        if index >= head.count {
            return if self.bytes.is_empty() {
                Ok(None)
            } else {
                Err(Malformed)
            };
        }
        Ok(self.take::<ITEM_LEN>().map(|bytes| {
            self.next = Some(index + 1);
            Part::Item(Item {
                letter: head.letter,
                index,
                count: head.count,
                bytes,
            })
        }))
    }

    fn take<const N: usize>(&mut self) -> Option<Box<[u8; N]>> {
        if self.bytes.len() < N {
            return None;
        }
        // By parts: one byte after the other is a tenth of a gateway's time with letters.
        let (front, back) = self.bytes.as_slices();
        let n = front.len().min(N);
        let mut taken = Vec::with_capacity(N);
        taken.extend_from_slice(&front[..n]);
        taken.extend_from_slice(&back[..N - n]);
        self.bytes.drain(..N);
        taken.into_boxed_slice().try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(resume: bool, count: u32) -> Head {
        let letter = LetterId::new([7; 16]);
        Head {
            resume,
            letter,
            count,
        }
    }

    #[test]
    fn heads_have_one_encoding() {
        for (resume, count) in [(false, 1), (true, MAX_COUNT)] {
            let bytes = head(resume, count).encode();
            assert_eq!(Head::decode(&bytes), Ok(head(resume, count)));
            for (at, bad) in [(0, 0), (0, 2), (1, 2), (18, 0xff)] {
                let mut other = bytes;
                other[at] = bad;
                assert_eq!(Head::decode(&other), Err(Malformed), "byte {at}");
            }
        }
        assert_eq!(Head::decode(&head(true, 0).encode()), Err(Malformed));
        assert_eq!(Head::decode(&head(true, MAX_COUNT + 1).encode()), Err(Malformed));
    }

    #[test]
    fn answers_are_read_once_they_are_there() {
        for answer in [Answer::From(0x0102_0304), Answer::Stored, Answer::Refused(14)] {
            let bytes = answer.encode();
            for cut in 0..bytes.len() {
                assert_eq!(Answer::decode(&bytes[..cut]), Ok(None), "{cut} bytes");
            }
            let more = [&bytes[..], &[9]].concat();
            assert_eq!(Answer::decode(&more), Ok(Some((answer, bytes.len()))));
        }
        assert_eq!(Answer::decode(&[0]), Err(Malformed));
        assert_eq!(Answer::decode(&[4]), Err(Malformed));
    }

    #[test]
    fn a_resumed_upload_waits_for_its_answer_and_goes_on_there() {
        let mut reader = Reader::default();
        reader.push(&head(true, 9).encode());
        reader.push(&[1; ITEM_LEN]);
        assert_eq!(reader.read(), Ok(Some(Part::Head(head(true, 9)))));
        assert_eq!(reader.read(), Ok(None));
        assert_eq!(reader.pending(), ITEM_LEN);
        reader.resume_at(5);
        let Ok(Some(Part::Item(item))) = reader.read() else {
            unreachable!("the item is there")
        };
        assert_eq!((item.index, item.count, reader.pending()), (5, 9, 0));
    }

    #[test]
    fn bytes_after_the_last_item_are_refused() {
        let mut reader = Reader::default();
        reader.push(&head(false, 1).encode());
        reader.push(&[1; ITEM_LEN]);
        assert!(matches!(reader.read(), Ok(Some(Part::Head(_)))));
        assert!(matches!(reader.read(), Ok(Some(Part::Item(_)))));
        assert_eq!(reader.read(), Ok(None));
        reader.push(&[0]);
        assert_eq!(reader.read(), Err(Malformed));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_upload_reads_the_same_in_whatever_pieces_it_comes(
            count in 1_u32..5,
            cuts in proptest::collection::vec(0_usize..4 * ITEM_LEN, 0..8),
        ) {
            let head = head(false, count);
            let mut all = head.encode().to_vec();
            let mut wanted = vec![Part::Head(head)];
            for index in 0..count {
                let bytes = Box::new([index as u8; ITEM_LEN]);
                all.extend_from_slice(&bytes[..]);
                wanted.push(Part::Item(Item { letter: head.letter, index, count, bytes }));
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let (mut reader, mut parts) = (Reader::default(), Vec::new());
            for piece in cuts.windows(2) {
                reader.push(&all[piece[0]..piece[1]]);
                while let Some(part) = reader.read().unwrap() {
                    parts.push(part);
                }
            }
            prop_assert_eq!(parts, wanted);
            prop_assert_eq!(reader.pending(), 0);
        }

        #[test]
        fn arbitrary_bytes_are_no_upload_or_one_that_encodes_to_itself(bytes in any::<[u8; HEAD_LEN]>()) {
            if let Ok(head) = Head::decode(&bytes) {
                prop_assert_eq!(head.encode(), bytes);
            }
        }
    }
}
