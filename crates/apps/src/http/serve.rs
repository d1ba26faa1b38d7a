//! HTTP on a program's connection: one request after another, each with its stream, until one asks for a tunnel or
//! something ends.
//!
//! The stream of a request waits for the next one if that goes to the same server with the same credentials: to open
//! one takes seconds, and on one connection the server sees nothing of this that it wouldn't without a proxy.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;

use mizzle_stream::{Isolation, OpenRequest, Opener, Target};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::body::{self, Framing};
use super::exchange::{Outcome, Program, Request, absence, exchange};
use super::forward::{self, Asked};
use super::head::{self, RequestHead};
use super::inbox::Inbox;
use super::refusal::Refusal;
use crate::proxy::{Connection, End, FAREWELL, count, farewell, reset_when_dropped, stopped};

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Serves a connection whose first byte may be HTTP's, to its end; `deadline`: for the first request's head.
pub(crate) async fn serve<O>(mut connection: Connection<O>, mut local: TcpStream, deadline: Instant)
where
    O: Opener,
    O::Stream: AsyncRead + AsyncWrite + Unpin,
{
    let port = local.local_addr().unwrap_or(connection.config.listen);
    let (read, write) = local.split();
    let session = Session {
        connection: &mut connection,
        port,
        program: Program {
            read: Inbox::new(read),
            write,
        },
        kept: None,
    };
    match session.run(deadline).await {
        Last::Tunnel(stream, early) => connection.tunnel(local, stream, &early).await,
        Last::Words => farewell(local).await,
        Last::Nothing => {}
        Last::Reset => reset_when_dropped(&local),
    }
}

/// What is left to do with a program's connection.
enum Last<S> {
    /// Carry bytes, beginning with these of the program.
    Tunnel(S, Vec<u8>),
    /// Let the program read what it was told, then close.
    Words,
    /// Close.
    Nothing,
    /// Reset: an answer is not whole.
    Reset,
}

/// A stream that waits for another request.
struct Kept<S> {
    stream: S,
    to: OpenRequest,
}

struct Session<'a, O: Opener> {
    connection: &'a mut Connection<O>,
    /// Where the program has found us.
    port: SocketAddr,
    program: Program<'a>,
    kept: Option<Kept<O::Stream>>,
}

impl<O> Session<'_, O>
where
    O: Opener,
    O::Stream: AsyncRead + AsyncWrite + Unpin,
{
    async fn run(mut self, mut deadline: Instant) -> Last<O::Stream> {
        loop {
            let head = match self.head(deadline).await {
                Ok(head) => head,
                Err(end) => return self.end(end, None, false).await,
            };
            let head_only = &*head.method == "HEAD";
            let (asked, isolation, framing) = match understood(&head) {
                Ok(understood) => understood,
                Err(refusal) => return self.end(refusal.into(), None, head_only).await,
            };
            let forward = match asked {
                Asked::Connect(target) => return self.connect(OpenRequest { target, isolation }).await,
                Asked::Forward(forward) => forward,
            };
            let request = Request {
                head,
                forward,
                framing,
            };
            if let Some(last) = self.forward(request, isolation).await {
                return last;
            }
            match self.next_request().await {
                Some(next) => deadline = next,
                None => return Last::Nothing,
            }
        }
    }

    /// The next request's head.
    async fn head(&mut self, deadline: Instant) -> Result<RequestHead, End> {
        loop {
            let head = tokio::select! {
                head = timeout_at(deadline, self.program.read.head()) => head,
                () = stopped(&mut self.connection.stop) => return Err(Refusal::Stopping.into()),
            };
            let head = head
                .map_err(|_| Refusal::Slow)??
                .map_err(Refusal::from)?
                .ok_or(End::Gone)?;
            // Old programs send an empty line before or after a request (RFC 9112, section 2.2).
            if head != b"\r\n" {
                return Ok(head::request(&head).map_err(Refusal::from)?);
            }
        }
    }

    /// Waits between two requests; until when the next one's head must be there, or `None` to close.
    async fn next_request(&mut self) -> Option<Instant> {
        if self.program.read.bytes().is_empty() {
            let more = timeout(self.connection.config.idle_timeout, self.program.read.more());
            let more = tokio::select! {
                more = more => more.ok()?.ok()?,
                () = stopped(&mut self.connection.stop) => return None,
            };
            if more == 0 {
                return None;
            }
        }
        Some(Instant::now() + self.connection.config.handshake_timeout)
    }

    async fn connect(mut self, request: OpenRequest) -> Last<O::Stream> {
        let target = request.target.clone();
        let stream = match self.open(request).await {
            Ok(stream) => stream,
            Err(end) => return self.end(end, Some(&target), false).await,
        };
        if let Err(error) = self.program.write.write_all(ESTABLISHED).await {
            return self.end(error.into(), None, false).await;
        }
        Last::Tunnel(stream, self.program.read.into_parts().1)
    }

    /// Sends a request on; `None` when the program may send another.
    async fn forward(&mut self, request: Request, isolation: Isolation) -> Option<Last<O::Stream>> {
        let to = OpenRequest {
            target: request.forward.target.clone(),
            isolation,
        };
        let head_only = &*request.head.method == "HEAD";
        let patience = self.connection.config.stall_timeout;
        let mut kept = self.kept(&request, &to).await;
        loop {
            let reused = kept.is_some();
            let stream = match kept.take() {
                Some(stream) => stream,
                None => match self.open(to.clone()).await {
                    Ok(stream) => stream,
                    Err(end) => return Some(self.end(end, Some(&to.target), head_only).await),
                },
            };
            let end = match exchange(&mut self.program, stream, &request, patience).await {
                Outcome::Answered(stream, stays) => {
                    self.kept = stream.map(|stream| Kept { stream, to });
                    return (!stays).then_some(Last::Words);
                }
                // The server closed it while the request was on its way.
                Outcome::Silent if reused => continue,
                Outcome::Silent => Refusal::NoAnswer.into(),
                Outcome::Refused(refusal) => refusal.into(),
                Outcome::Gone => End::Gone,
                Outcome::Broken(kind) => {
                    self.connection.broke(kind);
                    return Some(Last::Reset);
                }
            };
            return Some(self.end(end, Some(&to.target), head_only).await);
        }
    }

    /// The stream of the last request, if this one may use it. Only such may as can be sent again, since the server
    /// may close the stream at any time.
    async fn kept(&mut self, request: &Request, to: &OpenRequest) -> Option<O::Stream> {
        let mut kept = self.kept.take()?;
        let may = forward::may_repeat(&request.head, request.framing)
            && kept.to.target == to.target
            && same(&kept.to.isolation, &to.isolation)
            && is_quiet(&mut kept.stream).await;
        may.then_some(kept.stream)
    }

    async fn open(&mut self, request: OpenRequest) -> Result<O::Stream, End> {
        let opened = tokio::select! {
            opened = self.connection.opener.open(request) => opened,
            () = absence(&mut self.program.read) => return Err(End::Gone),
            () = stopped(&mut self.connection.stop) => return Err(Refusal::Stopping.into()),
        };
        match opened {
            Ok(stream) => {
                count(&self.connection.counters.opened);
                Ok(stream)
            }
            Err(error) => Err(Refusal::NotOpened(error).into()),
        }
    }

    /// Tells the program why it gets no answer, if it is there to hear it.
    async fn end(&mut self, end: End, target: Option<&Target>, head_only: bool) -> Last<O::Stream> {
        self.connection.failed(&end);
        let End::Http(refusal) = end else {
            return Last::Nothing;
        };
        let page = refusal.page(self.port, target, head_only);
        match timeout(FAREWELL, self.program.write.write_all(&page)).await {
            Ok(Ok(())) => Last::Words,
            _ => Last::Nothing,
        }
    }
}

/// All that a head says to a proxy.
fn understood(head: &RequestHead) -> Result<(Asked, Isolation, Framing), Refusal> {
    let framing = body::of_request(head)?;
    Ok((forward::asked(head)?, forward::isolation(&head.fields)?, framing))
}

/// Whether two requests of one connection may use one stream: unlike sessions, also where none has credentials.
fn same(one: &Isolation, other: &Isolation) -> bool {
    match (one, other) {
        (Isolation::Fresh, Isolation::Fresh) => true,
        (one, other) => one.may_share(other),
    }
}

/// Whether the other side has neither ended nor sent what nobody asked for.
async fn is_quiet<S: AsyncRead + Unpin>(stream: &mut S) -> bool {
    std::future::poll_fn(|context| {
        let mut byte = [0];
        let read = Pin::new(&mut *stream).poll_read(context, &mut ReadBuf::new(&mut byte));
        Poll::Ready(read.is_pending())
    })
    .await
}
