//! One program's connection: its first byte tells which protocol it speaks.

use std::io;
use std::sync::Arc;

use mizzle_stream::Opener;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::config::{Config, Counters, count};
use super::relay::relay;
use crate::http::head::is_token_byte;
use crate::{http, socks};

/// What every connection needs.
pub(crate) struct Connection<O> {
    pub(crate) opener: O,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) config: Config,
}

/// How a connection, or a request on one, ended without a stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error(transparent)]
    Socks(#[from] socks::Fault),
    #[error(transparent)]
    Http(#[from] http::refusal::Refusal),
    #[error("the program did not say in time what it wants")]
    TimedOut,
    #[error("the program went away before it was answered")]
    Gone,
    #[error("we are stopping")]
    Stopping,
    #[error("the program's connection failed: {0}")]
    Local(#[from] io::Error),
}

impl<O> Connection<O>
where
    O: Opener,
    O::Stream: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) async fn run(mut self, local: TcpStream) {
        // Small messages of interactive programs shall not wait for one another; without it all works.
        let _ = local.set_nodelay(true);
        let deadline = Instant::now() + self.config.handshake_timeout;
        match self.first_byte(&local, deadline).await {
            // A request of HTTP begins with its method, a token; old programs send an empty line before it.
            Ok(first) if is_token_byte(first) || first == b'\r' => {
                http::serve::serve(self, local, deadline).await
            }
            Ok(_) => socks::serve::serve(self, local, deadline).await,
            Err(end) => self.failed(&end),
        }
    }

    /// Looks at the first byte and leaves it where it is.
    async fn first_byte(&mut self, local: &TcpStream, deadline: Instant) -> Result<u8, End> {
        let mut first = [0];
        let read = tokio::select! {
            read = timeout_at(deadline, local.peek(&mut first)) => read.map_err(|_| End::TimedOut)??,
            () = stopped(&mut self.stop) => return Err(End::Stopping),
        };
        if read == 0 { Err(End::Gone) } else { Ok(first[0]) }
    }

    pub(crate) fn failed(&self, end: &End) {
        count(&self.counters.failed);
        tracing::debug!(reason = %end, "a connection to the proxy ended without a stream");
    }

    pub(crate) fn broke(&self, kind: io::ErrorKind) {
        count(&self.counters.broken);
        tracing::debug!(?kind, "a stream broke; its program was reset");
    }

    /// Carries the bytes of a tunnel to its end.
    pub(crate) async fn tunnel(&self, local: TcpStream, stream: O::Stream, early: &[u8]) {
        if let Err(error) = relay(local, stream, early).await {
            self.broke(error.kind());
        }
    }
}

pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to say when to stop.
    let _ = stop.wait_for(|stop| *stop).await;
}
