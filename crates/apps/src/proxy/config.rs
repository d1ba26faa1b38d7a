//! The port's settings, what it counts, and why it may fail to open.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How the port behaves.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) listen: SocketAddr,
    pub(super) max_connections: usize,
    pub(crate) handshake_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    pub(super) grace: Duration,
}

impl Config {
    /// A port at this address; port 0 takes any that is free. The port asks nobody for a password, so the
    /// address is best one of loopback.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            max_connections: 1024,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(300),
            grace: Duration::from_secs(5),
        }
    }

    /// How many programs' connections there may be at once. Default: 1024, at most 48 KiB each, so 48 MiB; a
    /// connection on which HTTP requests are sent on takes up to 320 KiB while headers of the greatest size pass.
    ///
    /// When so many are there, the next is accepted and reset at once and counted: its program shows an
    /// error instead of waiting without a word.
    #[must_use]
    pub fn with_max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// How long a program may take to say what it wants, and for each further HTTP request from its first byte to
    /// the end of its header. Default: 10 s; then its connection is closed.
    #[must_use]
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How long a program may keep its connection between two HTTP requests. Default: 60 s; then it is closed, and
    /// with it the stream that waits for another request to the same server.
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How long an HTTP request that was sent on may lie still, with nothing moving in either direction. Default:
    /// 5 min, up to twice that in the worst case; then the program gets an error, or a reset if the answer has
    /// begun. Tunnels have no such bound: they end when either side does.
    #[must_use]
    pub fn with_stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// How long open streams may go on after the signal to stop. Default: 5 s; then they are reset.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }
}

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", reason(source))]
pub struct BindError {
    /// Where it should have listened.
    pub address: SocketAddr,
    pub(super) source: io::Error,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        io::ErrorKind::PermissionDenied => {
            "permission denied (ports below 1024 may be the administrator's)".into()
        }
        _ => error.to_string(),
    }
}

/// What has happened at the port since it opened.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) turned_away: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) broken: AtomicU64,
}

impl Counters {
    /// Connections taken.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections reset because there were too many.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Streams opened.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Connections, and of those with HTTP requests each request, that ended without a stream or an answer.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Streams that broke off instead of ending, at whichever side; their programs were reset.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
