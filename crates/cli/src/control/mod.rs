//! How other commands talk to a running client or node: the socket `control.sock` in its state directory. A node answers
//! `status` alone.
//!
//! A connection carries one request and its answers. Both are JSON, one object a line, 64 KiB at most. The request is a
//! [`Command`] with the version beside it:
//!
//! ```text
//! {"version":1,"command":"address"}
//! {"event":"address","address":"mizzle1..."}
//! ```
//!
//! An answer is an [`Event`]; [`Event::Error`] is always the last. The data of letters goes in chunks between the
//! lines: length (4 bytes, big-endian, at most 65,536) and bytes; length 0 ends the letter, length 2³² - 1 breaks it off, and a
//! line says why.
//!
//! * `send`: the client answers `ready`; then chunks go to it, and it answers `queued`: from here on the letter leaves
//!   whether or not anybody waits. If more was asked for: `progress`, as often as something moves, and at last `stored`,
//!   `read` or `failed`.
//! * `receive`: for each letter `letter`, its chunks, then a line `{"written":true}` to the client, which removes the letter
//!   and answers `removed`. A letter that isn't confirmed stays. At the end `done`, or `empty` if nothing was there and
//!   nothing was to be waited for.
//! * `ping`: `pinging`, and `loop` for each of the client's own loops, as they end.
//! * `status`: [`crate::status::Status`] as JSON.
//!
//! Who may connect: the owner of the state directory (mode 0700; the socket has 0600). It takes
//! [`MAX_CONNECTIONS`] at once, waits [`REQUEST_TIMEOUT`] for a request and [`STALL`] for each step of the other end.

mod connect;
mod serve;
mod socket;
mod wire;

use std::time::Duration;

use mizzle_net::mail::{Correspondent, Entry, Stage};
use serde::{Deserialize, Serialize};

pub use connect::{ConnectError, Control, connect};
pub use serve::{ClientServices, Services, serve};
pub use socket::{Listener, SOCKET, SocketError};

/// The version of what is spoken.
pub const VERSION: u32 = 1;
/// Connections at once; more are told so.
pub const MAX_CONNECTIONS: usize = 64;
/// For the request to come.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For each step of the other end: a chunk of a file that somebody is still writing, or a slow disk.
pub const STALL: Duration = Duration::from_secs(3_600);
/// Longest line in bytes.
pub const MAX_LINE: usize = 64 * 1024;
/// Longest chunk in bytes.
pub const MAX_CHUNK: usize = 64 * 1024;
/// Loops that a ping may wait for.
pub const MAX_PING: u32 = 100_000;

/// What can be asked of a client, and the last of them of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Its address.
    Address,
    /// Send a letter.
    Send {
        /// To this address.
        to: String,
        /// Name of the file; none for a text.
        name: Option<String>,
        /// Tell the receiver who wrote it.
        sign: bool,
        /// Answer until then.
        until: Until,
    },
    /// Fetch letters.
    Receive {
        /// Most of them; no end if not given.
        count: Option<u64>,
        /// Wait for those that aren't there yet.
        wait: bool,
    },
    /// Let this correspondent know when letters from him were read.
    Accept {
        /// His address.
        address: String,
        /// A name for him, or empty.
        name: String,
    },
    /// Take that back.
    Unaccept {
        /// His address.
        address: String,
    },
    /// Who is accepted.
    Correspondents,
    /// What waits to leave, and what became of the rest.
    Outbox,
    /// Tell how the next loops end.
    Ping {
        /// So many.
        count: u32,
    },
    /// How it is.
    Status,
}

/// How far a letter is to be followed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// It is on the disk of the client.
    Queued,
    /// It is on the disk of the receiver's gateway.
    Stored,
    /// Its receiver has fetched it; asks him to say so.
    Read,
}

/// What the client answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Its address.
    Address {
        /// As text.
        address: String,
    },
    /// The data may come.
    Ready,
    /// The letter is in the outbox.
    Queued {
        /// Its id.
        letter: String,
        /// Bytes of data.
        bytes: u64,
    },
    /// It is on its way.
    Progress {
        /// Items handed to the connection.
        items_sent: u32,
        /// Items in all.
        items: u32,
        /// What was wrong with the latest attempt, if it is to be made again.
        problem: Option<String>,
    },
    /// The receiver's gateway has it.
    Stored,
    /// Its receiver has it.
    Read,
    /// It will not be brought.
    Failed {
        /// Why.
        why: String,
    },
    /// A letter; its chunks follow.
    Letter {
        /// Its id.
        letter: String,
        /// `text` or `file`.
        kind: String,
        /// Name of the file, or empty; safe to use as one.
        name: String,
        /// The address that signed it; none: anonymous.
        from: Option<String>,
        /// The name under which that one was accepted.
        known_as: Option<String>,
        /// Bytes of data at most.
        bytes_at_most: u64,
    },
    /// The letter left the inbox.
    Removed,
    /// Nothing was there.
    Empty,
    /// It was done.
    Done,
    /// Who is accepted.
    Correspondents {
        /// They.
        list: Vec<Correspondent>,
    },
    /// The outbox, oldest first, and the inbox. Long lists come in several events, `Done` after the last.
    Outbox {
        /// Letters.
        letters: Vec<Posted>,
        /// Letters in the inbox.
        waiting: usize,
        /// What the inbox waits for, if it takes nothing.
        inbox_problem: Option<String>,
    },
    /// What to expect of a ping.
    Pinging {
        /// The rate of the client's loops.
        loops_per_s: f64,
    },
    /// A loop ended.
    Loop {
        /// After so many microseconds; none: lost.
        round_trip_us: Option<u64>,
    },
    /// How it is.
    Status {
        /// As it says it.
        status: serde_json::Value,
    },
    /// It is not done.
    Error {
        /// For programs.
        code: Code,
        /// For people.
        message: String,
    },
}

/// What kind of error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Another version of mizzle.
    Version,
    /// The request is none.
    Request,
    /// The address can't be used.
    Address,
    /// The outbox, or a list, is full.
    Full,
    /// The client isn't ready for it.
    NotYet,
    /// It took too long.
    Timeout,
    /// Too many connections.
    Busy,
    /// The disk.
    Disk,
    /// Something else.
    Other,
}

/// A letter in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    /// Its id.
    pub letter: String,
    /// For whom.
    pub to: String,
    /// `text`, `file` or `receipt`.
    pub kind: String,
    /// Name of the file, or empty.
    pub name: String,
    /// Bytes of data.
    pub bytes: u64,
    /// Items in all.
    pub items: u32,
    /// Items handed to the connection in the latest attempt.
    pub items_sent: u32,
    /// Since when it is in the outbox, in seconds since 1970.
    pub queued_s: u64,
    /// Since when it has its stage, in seconds since 1970.
    pub changed_s: u64,
    /// What became of it.
    pub stage: Stage,
    /// What was wrong with the latest attempt.
    pub problem: Option<String>,
}

impl From<Entry> for Posted {
    fn from(entry: Entry) -> Self {
        Self {
            letter: entry.letter,
            to: entry.to,
            kind: entry.kind,
            name: entry.name,
            bytes: entry.bytes,
            items: entry.items,
            items_sent: entry.items_sent,
            queued_s: entry.queued_s,
            changed_s: entry.changed_s,
            stage: entry.stage,
            problem: entry.problem,
        }
    }
}

/// The line that confirms a letter.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Written {
    /// It is on the disk, or was read.
    pub written: bool,
}

#[derive(Serialize, Deserialize)]
struct Request {
    version: u32,
    #[serde(flatten)]
    command: Command,
}
