//! Where letters are kept until their owners fetch them: what a gateway core asks of a store and is answered.
//!
//! The core says [`Order`]s and goes on; a shell's own thread carries them out, in order and as many at once as are there, and
//! brings back an [`Answer`] for each. [`Kept`] does the work over any [`Tables`]: those in memory are here, those on disk
//! are the shell's. Another kind of store implements [`MailStore`] itself. When what is sent is the core's affair.

mod kept;
mod memory;

use std::time::Duration;

use mizzle_base::item::ITEM_LEN;
use mizzle_base::{ClientTag, Item, LetterId, MailboxId, Time};

use crate::{ClientId, UploadId};

pub use kept::Kept;
pub use memory::{MemoryMailStore, MemoryTables};

/// An item that nobody fetched for so long is deleted, if [`Limits`] say nothing else.
pub const ITEM_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// A letter is remembered for so long after its last item came: till then an upload of it can be resumed, and one that was
/// taken whole is not taken again.
pub const LETTER_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// How much a store keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub(crate) mailbox_items: u64,
    pub(crate) total_items: u64,
    pub(crate) letters: u32,
    pub(crate) item_life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mailbox_items: (256 << 20) / ITEM_LEN as u64,
            total_items: (16 << 30) / ITEM_LEN as u64,
            letters: 10_000,
            item_life: ITEM_LIFE,
        }
    }
}

impl Limits {
    /// Most bytes of one mailbox, 256 MiB by default; an item beyond it is [`NotStored::MailboxFull`].
    /// Counted in whole items.
    #[must_use]
    pub fn with_mailbox_bytes(mut self, bytes: u64) -> Self {
        self.mailbox_items = bytes / ITEM_LEN as u64;
        self
    }

    /// Most bytes of all mailboxes together, 16 GiB by default; an item beyond it is [`NotStored::StoreFull`]. Files on
    /// disk take more than that for a while, until what was deleted is cleared away.
    #[must_use]
    pub fn with_total_bytes(mut self, bytes: u64) -> Self {
        self.total_items = bytes / ITEM_LEN as u64;
        self
    }

    /// Most letters of one mailbox that are under way or wait for their owner, 10,000 by default; the beginning of one more is
    /// [`NotStored::TooManyLetters`]. Ten times as many are remembered after they were fetched, 50 bytes each.
    #[must_use]
    pub fn with_letters(mut self, n: u32) -> Self {
        self.letters = n;
        self
    }

    /// An item that nobody fetched for so long is deleted, [`ITEM_LIFE`] by default. Longer than [`LETTER_LIFE`], or a letter that
    /// comes in parts would lose its beginning while its end may still come.
    #[must_use]
    pub fn with_item_life(mut self, life: Duration) -> Self {
        self.item_life = life.max(LETTER_LIFE + Duration::from_secs(86_400));
        self
    }
}

/// A client that has a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    /// Who.
    pub client: ClientId,
    /// Its replies begin with it.
    pub tag: ClientTag,
    /// Where its letters are kept.
    pub mailbox: MailboxId,
    /// Drawn when the mailbox was made.
    pub generation: u64,
    /// When it came for the first time.
    pub since: Time,
    /// When it was last here, to the day.
    pub seen: Time,
    /// Number of the first item that is kept; 1 in a new mailbox.
    pub first: u64,
    /// Number of the next item that will come; 1 in a new mailbox.
    pub next: u64,
}

/// How far a letter is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Items that it has.
    pub count: u32,
    /// Items that came; all of them when it is as many.
    pub next: u32,
}

/// What a gateway core wants of its store. Each is answered by an [`Answer`] of the same name, unless it says otherwise.
#[derive(Debug)]
pub enum Order {
    /// Keep this client with an empty mailbox.
    Register(Registered),
    /// The client was here. No answer: it is said again.
    Seen {
        /// Who.
        client: ClientId,
        /// When.
        at: Time,
    },
    /// Delete a client, its mailbox and all that is in it. No answer.
    Forget {
        /// Who.
        client: ClientId,
        /// Its mailbox.
        mailbox: MailboxId,
    },
    /// How far is this letter?
    Look {
        /// Who asks.
        upload: UploadId,
        /// Where.
        mailbox: MailboxId,
        /// Which.
        letter: LetterId,
    },
    /// Keep this item at the end of the mailbox. One that is there already is not kept twice.
    Append {
        /// Who asks.
        upload: UploadId,
        /// Where.
        mailbox: MailboxId,
        /// What.
        item: Item,
        /// When it came.
        at: Time,
    },
    /// Read items from a number on.
    Fetch {
        /// Where.
        mailbox: MailboxId,
        /// The first to read.
        from: u64,
        /// At most so many.
        count: usize,
    },
    /// Delete the items with numbers below `next`. That they are gone need not survive a crash.
    Acknowledge {
        /// Where.
        mailbox: MailboxId,
        /// The first that stays.
        next: u64,
    },
    /// Delete some of what is older than an item's life ([`Limits::with_item_life`]) or [`LETTER_LIFE`]: a bounded part of the work at each order.
    Expire {
        /// The time.
        now: Time,
    },
}

/// Why an item wasn't kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotStored {
    /// The mailbox holds as many bytes as it may.
    MailboxFull,
    /// The mailbox holds as many letters as it may.
    TooManyLetters,
    /// All mailboxes together hold as much as they may.
    StoreFull,
    /// There is no such mailbox any more.
    NoMailbox,
    /// It isn't the letter's next item.
    OutOfOrder,
    /// The store is in trouble.
    Failed,
}

/// The store is in trouble: what was asked is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed;

/// Items as they are kept, from one number on without a gap.
#[derive(Debug)]
pub struct Fetched {
    /// Number of the first item of the mailbox.
    pub first: u64,
    /// Number of the next one that will come.
    pub next: u64,
    /// Number of the first item in `items`.
    pub from: u64,
    /// The items. One that can't be read any more is a letter of its own that nobody can open, so that those behind it are
    /// fetched all the same.
    pub items: Vec<Item>,
    /// How many of them are such.
    pub damaged: u64,
}

/// What a store says. That something was kept means that it is on disk.
#[derive(Debug)]
pub enum Answer {
    /// To [`Order::Register`].
    Registered {
        /// Who.
        client: ClientId,
        /// It is.
        result: Result<(), Failed>,
    },
    /// To [`Order::Look`].
    Known {
        /// Who asked.
        upload: UploadId,
        /// `None`: not known.
        result: Result<Option<Progress>, Failed>,
    },
    /// To [`Order::Append`].
    Appended {
        /// Who asked.
        upload: UploadId,
        /// Where.
        mailbox: MailboxId,
        /// Which item of the letter.
        index: u32,
        /// Its number; `None`: it was there already.
        result: Result<Option<u64>, NotStored>,
    },
    /// To [`Order::Fetch`].
    Fetched {
        /// Where.
        mailbox: MailboxId,
        /// What was there.
        result: Result<Fetched, Failed>,
    },
    /// To [`Order::Acknowledge`].
    Acknowledged {
        /// Where.
        mailbox: MailboxId,
        /// They are deleted.
        result: Result<(), Failed>,
    },
    /// To [`Order::Expire`].
    Expired {
        /// Mailboxes of which items were deleted, and the number of the first that is left.
        firsts: Vec<(MailboxId, u64)>,
    },
}

impl Order {
    /// The answer if the store is in trouble; `None` where there is no answer.
    fn failed(&self) -> Option<Answer> {
        Some(match *self {
            Self::Register(Registered { client, .. }) => Answer::Registered {
                client,
                result: Err(Failed),
            },
            Self::Look { upload, .. } => Answer::Known {
                upload,
                result: Err(Failed),
            },
            Self::Append {
                upload,
                mailbox,
                ref item,
                ..
            } => Answer::Appended {
                upload,
                mailbox,
                index: item.index,
                result: Err(NotStored::Failed),
            },
            Self::Fetch { mailbox, .. } => Answer::Fetched {
                mailbox,
                result: Err(Failed),
            },
            Self::Acknowledge { mailbox, .. } => Answer::Acknowledged {
                mailbox,
                result: Err(Failed),
            },
            Self::Expire { .. } => Answer::Expired { firsts: Vec::new() },
            Self::Seen { .. } | Self::Forget { .. } => return None,
        })
    }
}

/// Why a store can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// A later version wrote it.
    #[error(
        "the mail store {0} was written by a newer version of mizzle: use that version, or another directory"
    )]
    Newer(String),
    /// What is in it makes no sense.
    #[error(
        "the mail store {0} is damaged ({1}): restore it from a backup, or move it away and start with an empty one; \
         clients then get new mailboxes"
    )]
    Damaged(String, String),
    /// Another process has it open.
    #[error("the mail store {0} is in use by another process: stop that one, or use another directory")]
    InUse(String),
    /// The disk is full.
    #[error("the disk of the mail store {0} is full: no mail is taken until there is room")]
    DiskFull(String),
    /// Something else with the disk.
    #[error("the mail store {0} can't be read or written: {1}")]
    Io(String, String),
}

/// A store of letters. Every call may wait for a disk: only a shell's own thread makes them.
pub trait MailStore: Send {
    /// All clients that are registered, in any order; asked once, before any order.
    ///
    /// # Errors
    /// Why they can't be read.
    fn registered(&mut self) -> Result<Vec<Registered>, StoreError>;

    /// Carries out orders, in order, and answers them in order. What was kept is on disk before this returns: the more
    /// orders in one call, the fewer waits for the disk.
    ///
    /// # Errors
    /// With the answers, which say so too: what the trouble is, for a person.
    fn perform(&mut self, orders: Vec<Order>) -> (Vec<Answer>, Result<(), StoreError>);
}

/// The tables of a [`Kept`]. Keys are in the order of their bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Table {
    /// Client id → tag, mailbox, generation, seen.
    Clients,
    /// Mailbox → its numbers.
    Mailboxes,
    /// Mailbox and letter → how far it is.
    Letters,
    /// Mailbox and number → item.
    Items,
    /// Mailbox and number → nothing, for those items that are the last of a letter.
    Ends,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Clients,
        Self::Mailboxes,
        Self::Letters,
        Self::Items,
        Self::Ends,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Mailboxes => "mailboxes",
            Self::Letters => "letters",
            Self::Items => "items",
            Self::Ends => "ends",
        }
    }
}

/// One change of a table.
#[derive(Clone, Debug)]
pub enum Change {
    /// Put this value under this key.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Delete this key.
    Delete(Table, Vec<u8>),
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Sorted tables of bytes, as [`Kept`] needs them.
pub trait Tables: Send {
    /// What they are called in an error.
    fn name(&self) -> String;

    /// The value under a key.
    ///
    /// # Errors
    /// When it can't be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The rows with keys from `from` on and below `below`, at most `limit`.
    ///
    /// # Errors
    /// When they can't be read.
    fn scan(&self, table: Table, from: &[u8], below: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;

    /// Makes all changes or none; if `durable`, they are on disk when this returns.
    ///
    /// # Errors
    /// Whether they were made is open then: [`Self::revive`] is called before anything else.
    fn write(&mut self, changes: Vec<Change>, durable: bool) -> Result<(), StoreError>;

    /// After an error of [`Self::write`]: makes the tables usable again, with the changes or without.
    ///
    /// # Errors
    /// Not yet; it is called again. Until then they are read as they were before that, if they can be read.
    fn revive(&mut self) -> Result<(), StoreError>;
}
