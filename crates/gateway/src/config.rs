//! Bounds and policy of a gateway core.

use std::collections::BTreeSet;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::ClientId;

/// Whom a gateway admits, up to its capacity.
#[derive(Clone, Default)]
pub enum Admission {
    /// Anyone.
    #[default]
    Open,
    /// Those on the list.
    AllowList(BTreeSet<ClientId>),
    /// Those who present this token.
    Token(Zeroizing<Vec<u8>>),
}

/// Bounds and policy of a gateway core.
#[derive(Clone)]
pub struct Config {
    pub(crate) admission: Admission,
    pub(crate) downlink_capacity_per_s: f64,
    pub(crate) drop_surbs: usize,
    pub(crate) replies: usize,
    pub(crate) replies_total: usize,
    pub(crate) reply_life: Duration,
    pub(crate) uploads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            admission: Admission::Open,
            downlink_capacity_per_s: 45_000.0,
            drop_surbs: 65_536,
            replies: 4_096,
            replies_total: 65_536,
            reply_life: Duration::from_secs(600),
            uploads: 1_024,
        }
    }
}

impl Config {
    /// Whom it admits; anyone by default.
    #[must_use]
    pub fn with_admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// Frames a second that it can send in all; divided by the profile's downlink rate that is the number of clients
    /// it admits (100 in `bulk`, 562 in `browse` at the default of 45,000).
    #[must_use]
    pub fn with_downlink_capacity_per_s(mut self, frames: f64) -> Self {
        self.downlink_capacity_per_s = frames;
        self
    }

    /// Most SURBs of drops held for their due times, 0.7 KB each; more are dropped and counted.
    #[must_use]
    pub fn with_drop_surbs(mut self, n: usize) -> Self {
        self.drop_surbs = n;
        self
    }

    /// Most replies that wait for one client, 4 KB each; 4,096 by default. More are dropped and counted.
    #[must_use]
    pub fn with_replies(mut self, n: usize) -> Self {
        self.replies = n;
        self
    }

    /// Most replies that wait for all clients together; 65,536 by default, 270 MB. One client's are never more than are free, so
    /// that those who don't acknowledge leave room for the others; more are dropped and counted.
    #[must_use]
    pub fn with_replies_total(mut self, n: usize) -> Self {
        self.replies_total = n;
        self
    }

    /// How long replies wait for a client that is away; ten minutes by default. Its sessions are over long before; older ones
    /// are dropped and counted.
    #[must_use]
    pub fn with_reply_life(mut self, life: Duration) -> Self {
        self.reply_life = life;
        self
    }

    /// Most letters that are brought at a time, up to 100 KB each while they wait for the disk; 1,024 by default. One more
    /// is not opened ([`OpenError::Limit`](mizzle_stream::OpenError::Limit)). How much mail is kept is the store's
    /// [`Limits`](crate::store::Limits).
    #[must_use]
    pub fn with_uploads(mut self, n: usize) -> Self {
        self.uploads = n;
        self
    }
}
