//! SOCKS5 on a TCP port: takes connections of programs, lets [`proto`](super::proto) talk to them, opens a
//! stream for each and carries bytes both ways.
//!
//! - A program hears "succeeded" only once the exit has connected.
//! - If a stream breaks, so does the program's connection (a reset, not an orderly end), also when this
//!   process dies: half a download must not pass for a whole one.
//! - If a program goes away while its stream is being opened, the opening is dropped.
//!
//! How streams are opened, and how long that may take, is the [`Opener`]'s.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mizzle_stream::{OpenRequest, Opener};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes, join};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::{Fault, Reply};
use super::config::{BindError, Config, Counters, count};
use super::proto::{Action, Handshake};

/// Per direction and connection. A stream carries a few MB/s at most, so more would only delay a program's
/// notice of how much has really left.
const COPY_BUFFER: usize = 16 * 1024;

/// How long a program may take to read a refusal and close.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long to wait when the system has no more sockets for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The SOCKS port, listening.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
    counters: Arc<Counters>,
}

impl Server {
    /// Begins to listen. Programs that connect wait until [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let wrap = |source| BindError {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(wrap)?;
        let address = listener.local_addr().map_err(wrap)?;
        if !is_only_local(address.ip()) {
            tracing::warn!(
                "the SOCKS port listens beyond this machine: whoever reaches it can use it, and what they \
                 send to it crosses the network in the clear"
            );
        }
        Ok(Self {
            listener,
            address,
            config,
            counters: Arc::default(),
        })
    }

    /// Where it listens, with the port that was found.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What happens here, also while [`serve`](Self::serve) runs.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Serves programs until `stop` becomes true or its sender is gone.
    ///
    /// Then nobody new is accepted, openings under way fail, and open streams have the configured grace to
    /// end before they are reset.
    pub async fn serve<O>(self, opener: O, mut stop: watch::Receiver<bool>)
    where
        O: Opener,
        O::Stream: AsyncRead + AsyncWrite + Unpin,
    {
        let mut tasks = JoinSet::new();
        let mut full = false;
        loop {
            let local = tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                Some(ended) = tasks.join_next() => {
                    log_panic(ended);
                    continue;
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((local, _)) => local,
                    Err(error) => {
                        // Either that one connection is gone already, or sockets have run out.
                        tracing::warn!(%error, "cannot accept a program's connection");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            if tasks.len() >= self.config.max_connections {
                count(&self.counters.turned_away);
                if !full {
                    tracing::warn!(max = self.config.max_connections, "too many SOCKS connections");
                }
                full = true;
                reset_when_dropped(&local);
                continue;
            }
            full = false;
            count(&self.counters.accepted);
            let connection = Connection {
                opener: opener.clone(),
                counters: Arc::clone(&self.counters),
                stop: stop.clone(),
                handshake_timeout: self.config.handshake_timeout,
            };
            tasks.spawn(connection.run(local));
        }
        drop(self.listener);
        let all_ended = async { while tasks.join_next().await.map(log_panic).is_some() {} };
        if timeout(self.config.grace, all_ended).await.is_err() {
            tracing::debug!(streams = tasks.len(), "resetting the streams that are still open");
        }
        tasks.shutdown().await;
    }
}

/// Whether only this machine reaches the address.
fn is_only_local(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a SOCKS connection ended by a bug");
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to say when to stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What every connection needs.
struct Connection<O> {
    opener: O,
    counters: Arc<Counters>,
    stop: watch::Receiver<bool>,
    handshake_timeout: Duration,
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Fault(#[from] Fault),
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
    async fn run(mut self, mut local: TcpStream) {
        // Small messages of interactive programs shall not wait for one another; without it all works.
        let _ = local.set_nodelay(true);
        let mut handshake = Handshake::new();
        let (stream, early) = match self.establish(&mut local, &mut handshake).await {
            Ok(established) => established,
            Err(end) => {
                count(&self.counters.failed);
                tracing::debug!(reason = %end, "a SOCKS connection ended without a stream");
                if matches!(end, End::Fault(_)) {
                    farewell(local).await;
                }
                return;
            }
        };
        count(&self.counters.opened);
        if let Err(error) = relay(local, stream, &early).await {
            count(&self.counters.broken);
            tracing::debug!(kind = ?error.kind(), "a stream broke; its program was reset");
        }
    }

    /// Talks to the program until its stream is open; gives back what the program sent ahead, too.
    async fn establish(
        &mut self,
        local: &mut TcpStream,
        handshake: &mut Handshake,
    ) -> Result<(O::Stream, Vec<u8>), End> {
        let request = tokio::select! {
            request = timeout(self.handshake_timeout, listen(local, handshake)) => {
                request.map_err(|_| End::TimedOut)??
            }
            () = stopped(&mut self.stop) => return Err(End::Stopping),
        };
        let opened = tokio::select! {
            opened = self.opener.open(request) => opened,
            end = absence(local, handshake) => return Err(end),
            () = stopped(&mut self.stop) => {
                handshake.answer(Reply::GeneralFailure);
                return act(local, handshake).await.map(|_| Err(End::Stopping))?;
            }
        };
        let (stream, reply) = match opened {
            Ok(stream) => (Some(stream), Reply::Succeeded),
            Err(error) => (None, Reply::from(error)),
        };
        handshake.answer(reply);
        match (act(local, handshake).await?, stream) {
            (Some(Next::Relay(early)), Some(stream)) => Ok((stream, early)),
            _ => Err(End::Gone),
        }
    }
}

/// What the handshake asks of its connection beyond writing.
enum Next {
    Open(OpenRequest),
    Relay(Vec<u8>),
}

/// Carries out what the handshake asks for.
async fn act(local: &mut TcpStream, handshake: &mut Handshake) -> Result<Option<Next>, End> {
    while let Some(action) = handshake.poll() {
        match action {
            Action::Write(bytes) => local.write_all(&bytes).await?,
            Action::Open(request) => return Ok(Some(Next::Open(request))),
            Action::Relay(early) => return Ok(Some(Next::Relay(early))),
            Action::Close(fault) => return Err(fault.into()),
        }
    }
    Ok(None)
}

/// Listens to the program until it has said what to open.
async fn listen(local: &mut TcpStream, handshake: &mut Handshake) -> Result<OpenRequest, End> {
    loop {
        if receive(local, handshake).await? == 0 {
            return Err(End::Gone);
        }
        if let Some(Next::Open(request)) = act(local, handshake).await? {
            return Ok(request);
        }
    }
}

async fn receive(local: &mut TcpStream, handshake: &mut Handshake) -> io::Result<usize> {
    let mut bytes = [0; 1024];
    let room = handshake.room().min(bytes.len());
    let read = local.read(&mut bytes[..room]).await?;
    handshake.receive(&bytes[..read]);
    Ok(read)
}

/// Ends when the program goes away while its stream is being opened.
///
/// An end of its bytes counts as that: a program that closes only its sending half before it was answered
/// looks the same and is far rarer. Whoever has filled the room for early bytes is listened to no more.
async fn absence(local: &mut TcpStream, handshake: &mut Handshake) -> End {
    while handshake.room() > 0 {
        match receive(local, handshake).await {
            Ok(0) => return End::Gone,
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
    pending().await
}

/// Lets a program read the last words: to close with unread bytes would be a reset, which may overtake them.
async fn farewell(mut local: TcpStream) {
    let read_on = async {
        local.shutdown().await?;
        let mut unread = [0; 1024];
        while local.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(FAREWELL, read_on).await;
}

/// Carries bytes both ways until both sides have ended; each direction ends by itself.
async fn relay<S>(mut local: TcpStream, mut stream: S, early: &[u8]) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // From here on whatever ends this task, an abort or the end of the process included, resets the program.
    reset_when_dropped(&local);
    let (read, write) = local.split();
    let mut program = join(early.chain(read), write);
    copy_bidirectional_with_sizes(&mut program, &mut stream, COPY_BUFFER, COPY_BUFFER).await?;
    close_orderly_when_dropped(&local);
    Ok(())
}

fn reset_when_dropped(local: &TcpStream) {
    // It fails only on a socket that is gone already.
    let _ = local.set_zero_linger();
}

#[expect(
    deprecated,
    reason = "deprecated for making close() wait, which the system's default does not"
)]
fn close_orderly_when_dropped(local: &TcpStream) {
    let _ = local.set_linger(None);
}
