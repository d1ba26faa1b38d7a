//! What a client core is told once, before it begins: bounds, its invitation, what an earlier run kept.

use std::fmt;
use std::time::Duration;

use mizzle_base::Profile;
use mizzle_traffic::pattern::Stream;

/// A gateway that is away for so long, or doesn't admit the client, is one to leave.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(300);

/// Bounds of a client core.
#[derive(Clone)]
pub struct Config {
    pub(crate) sessions: usize,
    pub(crate) token: Vec<u8>,
    pub(crate) mail: (u64, u64),
    pub(crate) min_pool: f64,
    pub(crate) gateway_patience: Duration,
    pub(crate) streams: fn(&Profile) -> Vec<Stream>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token, which is a secret.
        f.debug_struct("Config")
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sessions: 512,
            token: Vec::new(),
            mail: (0, 0),
            min_pool: 0.0,
            gateway_patience: GATEWAY_PATIENCE,
            streams: Stream::of_profile,
        }
    }
}

impl Config {
    /// Most sessions at a time; opening one more is [`OpenError::Limit`](mizzle_stream::OpenError::Limit). A session holds up to some 9 MB while a
    /// program reads slower than the network delivers, else some 20 KB.
    #[must_use]
    pub fn with_sessions(mut self, n: usize) -> Self {
        self.sessions = n;
        self
    }

    /// What the gateway's operator gave with an invitation.
    #[must_use]
    pub fn with_token(mut self, token: Vec<u8>) -> Self {
        self.token = token;
        self
    }

    /// How long a gateway may be away, or not admit the client, until [`Client::wants_another`](crate::Client::wants_another); default 5 minutes.
    #[must_use]
    pub fn with_gateway_patience(mut self, patience: Duration) -> Self {
        self.gateway_patience = patience;
        self
    }

    /// Other patterns in time than the document can name, for a deployment that brings its own. All clients of a network must
    /// have the same: one that differs is told apart by its packets alone.
    #[must_use]
    pub fn with_danger_own_pattern(mut self, streams: fn(&Profile) -> Vec<Stream>) -> Self {
        self.streams = streams;
        self
    }

    /// What an earlier run kept of its mail: the mailbox's generation, and the first number that is not on disk.
    #[must_use]
    pub fn with_mail(mut self, generation: u64, next: u64) -> Self {
        self.mail = (generation, next);
        self
    }

    /// Packets that a mix must have in its pool on average, or nothing of the user's is sent: sessions end, none is
    /// opened ([`OpenError::TooFewUsers`](mizzle_stream::OpenError::TooFewUsers)), and cover flows on. How many there are follows from the document and from how many
    /// users the gateway says there are. Zero, the default: whatever there are.
    #[must_use]
    pub fn with_min_pool(mut self, packets: f64) -> Self {
        self.min_pool = packets;
        self
    }
}
