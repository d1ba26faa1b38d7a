//! The rows of the tables, as bytes: numbers are big-endian, so that keys sort as they count.

use mizzle_base::item::ITEM_LEN;
use mizzle_base::{ClientTag, Item, LetterId, MailboxId, Time};

use super::super::{Progress, Registered};
use crate::ClientId;

/// Length of an item's row before its bytes: letter, index, count, seconds.
const ITEM_FRONT: usize = LetterId::LEN + 4 + 4 + 8;

/// A mailbox's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Book {
    pub(super) first: u64,
    pub(super) next: u64,
    /// Letters that are under way or not fetched to their end.
    pub(super) letters: u32,
    /// Letters in the table.
    pub(super) remembered: u32,
}

impl Book {
    pub(super) const EMPTY: Self = Self {
        first: 1,
        next: 1,
        letters: 0,
        remembered: 0,
    };

    pub(super) fn items(&self) -> u64 {
        self.next - self.first
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.extend(self.first.to_be_bytes());
        out.extend(self.next.to_be_bytes());
        out.extend(self.letters.to_be_bytes());
        out.extend(self.remembered.to_be_bytes());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let book = Self {
            first: u64::from_be_bytes(fields.take()?),
            next: u64::from_be_bytes(fields.take()?),
            letters: u32::from_be_bytes(fields.take()?),
            remembered: u32::from_be_bytes(fields.take()?),
        };
        (fields.0.is_empty() && (1..=book.next).contains(&book.first)).then_some(book)
    }
}

/// A letter's row.
#[derive(Clone, Copy)]
pub(super) struct Letter {
    pub(super) progress: Progress,
    /// When its last item came, in seconds.
    pub(super) at_s: u64,
}

impl Letter {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        out.extend(self.progress.count.to_be_bytes());
        out.extend(self.progress.next.to_be_bytes());
        out.extend(self.at_s.to_be_bytes());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        Some(Self {
            progress: Progress {
                count: u32::from_be_bytes(fields.take()?),
                next: u32::from_be_bytes(fields.take()?),
            },
            at_s: u64::from_be_bytes(fields.take()?),
        })
    }
}

/// Fields of fixed lengths, one after the other.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

pub(super) fn item_bytes(item: &Item, at: Time) -> Vec<u8> {
    let mut out = Vec::with_capacity(ITEM_FRONT + ITEM_LEN);
    out.extend(item.letter.as_bytes());
    out.extend(item.index.to_be_bytes());
    out.extend(item.count.to_be_bytes());
    out.extend(at.as_s().to_be_bytes());
    out.extend(&item.bytes[..]);
    out
}

/// An item, and when it came in seconds.
pub(super) fn read_item(bytes: &[u8]) -> Option<(Item, u64)> {
    let mut fields = Fields(bytes);
    let letter = LetterId::new(fields.take()?);
    let index = u32::from_be_bytes(fields.take()?);
    let count = u32::from_be_bytes(fields.take()?);
    let at_s = u64::from_be_bytes(fields.take()?);
    let bytes = fields.0.to_vec().into_boxed_slice().try_into().ok()?;
    let item = Item {
        letter,
        index,
        count,
        bytes,
    };
    Some((item, at_s))
}

pub(super) fn client_bytes(client: &Registered) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    out.extend(client.tag.0);
    out.extend(client.mailbox.as_bytes());
    out.extend(client.generation.to_be_bytes());
    out.extend(client.seen.as_s().to_be_bytes());
    out.extend(client.since.as_s().to_be_bytes());
    out
}

/// A client's row, without the numbers of its mailbox.
pub(super) fn read_client(key: &[u8], value: &[u8]) -> Option<Registered> {
    let mut fields = Fields(value);
    Some(Registered {
        client: ClientId(key.try_into().ok()?),
        tag: ClientTag(fields.take()?),
        mailbox: MailboxId::new(fields.take()?),
        generation: u64::from_be_bytes(fields.take()?),
        seen: Time::from_s(u64::from_be_bytes(fields.take()?)),
        // Rows of before this was kept end here: of clients that have been here for long.
        since: Time::from_s(fields.take().map_or(0, u64::from_be_bytes)),
        first: 1,
        next: 1,
    })
}

pub(super) fn numbered(mailbox: &MailboxId, number: u64) -> Vec<u8> {
    [&mailbox.as_bytes()[..], &number.to_be_bytes()].concat()
}

pub(super) fn lettered(mailbox: &MailboxId, letter: &LetterId) -> Vec<u8> {
    [&mailbox.as_bytes()[..], letter.as_bytes()].concat()
}
