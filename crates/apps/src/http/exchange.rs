//! One request and its answer over an open stream: the request's body goes one way while the answer may already come
//! the other.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::body::{self, Framing};
use super::forward::{self, Forward};
use super::head::{self, RequestHead, Version};
use super::inbox::{Carry, Inbox};
use super::refusal::Refusal;
use crate::proxy::{close_orderly_when_dropped, reset_when_dropped};

/// How many interim responses (100 to 199) an answer may have.
const INTERIM_MAX: usize = 32;

/// What a program may send ahead of the answer to its request before it is listened to no more.
const AHEAD_MAX: usize = 16 * 1024;

/// Both ways of a program's connection.
pub(super) struct Program<'a> {
    pub(super) read: Inbox<ReadHalf<'a>>,
    pub(super) write: WriteHalf<'a>,
}

/// A request as it goes on.
pub(super) struct Request {
    pub(super) head: RequestHead,
    pub(super) forward: Forward,
    pub(super) framing: Framing,
}

/// How an exchange went.
#[derive(Debug)]
pub(super) enum Outcome<S> {
    /// The program has its answer; the stream, if another request may use it; whether the program may go on.
    Answered(Option<S>, bool),
    /// The program has nothing of an answer yet: this shall be it.
    Refused(Refusal),
    /// As `Refused` with [`Refusal::NoAnswer`], and not a byte came.
    Silent,
    /// The answer can't be completed: reset the program.
    Broken(io::ErrorKind),
    /// The program went away before its answer.
    Gone,
}

/// What the two ways tell of each other.
#[derive(Default)]
struct Progress {
    /// Counts all that moves.
    moved: AtomicU64,
    /// The answer, beyond interim ones, has begun to go to the program.
    begun: AtomicBool,
    /// The request has gone, or the server takes no more of it.
    sent: AtomicBool,
    /// The request has gone whole.
    whole: AtomicBool,
    sent_now: Notify,
}

impl Progress {
    fn moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Ends when nothing has moved for at least so long.
    async fn stalled(&self, patience: Duration) {
        loop {
            let before = self.moved.load(Ordering::Relaxed);
            sleep(patience).await;
            if self.moved.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    async fn until_sent(&self) {
        if !self.sent.load(Ordering::Relaxed) {
            self.sent_now.notified().await;
        }
    }
}

/// Sends `request` over `stream` and its answer to the program.
pub(super) async fn exchange<S>(
    program: &mut Program<'_>,
    stream: S,
    request: &Request,
    patience: Duration,
) -> Outcome<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (from, mut to) = tokio::io::split(stream);
    let mut from = Inbox::new(from);
    let progress = Progress::default();
    let answered = {
        let send = send(&mut program.read, &mut to, request, &progress);
        let answer = answer(&mut from, &mut program.write, request, &progress);
        tokio::pin!(send, answer);
        let answered = tokio::select! {
            answered = &mut answer => answered,
            // A program that goes away as soon as it has its whole answer has it.
            left = &mut send => at_once(answer.as_mut()).await.unwrap_or(Err(left.into())),
            () = progress.stalled(patience) => Err(Failure::Stalled),
        };
        // A server that answers well before it has read all shall have the rest; one that answers with an error,
        // or closes, needs no more of it.
        if let Ok(Answered { wants_rest: true, .. }) = answered {
            tokio::select! {
                () = progress.until_sent() => {}
                _ = &mut send => {}
                () = progress.stalled(patience) => {}
            }
        }
        answered
    };
    match answered {
        Ok(answered) => {
            let whole = progress.whole.load(Ordering::Relaxed);
            let (from, unasked) = from.into_parts();
            let stays = answered.server_stays && whole && unasked.is_empty();
            Outcome::Answered(stays.then(|| from.unsplit(to)), whole && !answered.closes)
        }
        Err(failure) => failure.outcome(progress.has_begun()),
    }
}

/// What a future comes to without waiting.
async fn at_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Why an exchange was given up.
enum Failure {
    /// The program has gone.
    Gone,
    /// The program's body is damaged.
    Program(head::Malformed),
    /// The server's side is at fault.
    Server(Refusal),
    /// The server's side ended without a byte.
    Silent,
    /// What was begun can't be ended.
    Broken(io::ErrorKind),
    Stalled,
}

impl Failure {
    fn outcome<S>(self, begun: bool) -> Outcome<S> {
        match self {
            Self::Broken(kind) => Outcome::Broken(kind),
            Self::Gone if begun => Outcome::Broken(io::ErrorKind::BrokenPipe),
            Self::Stalled if begun => Outcome::Broken(io::ErrorKind::TimedOut),
            Self::Program(_) | Self::Server(_) | Self::Silent if begun => {
                Outcome::Broken(io::ErrorKind::InvalidData)
            }
            Self::Gone => Outcome::Gone,
            Self::Stalled => Outcome::Refused(Refusal::Stalled),
            Self::Program(malformed) => Outcome::Refused(malformed.into()),
            Self::Server(refusal) => Outcome::Refused(refusal),
            Self::Silent => Outcome::Silent,
        }
    }
}

/// Why [`send`] ended: always because of the program.
enum Left {
    Gone,
    Malformed(head::Malformed),
}

impl From<Left> for Failure {
    fn from(left: Left) -> Self {
        match left {
            Left::Gone => Self::Gone,
            Left::Malformed(malformed) => Self::Program(malformed),
        }
    }
}

/// Sends the request; ends only when the program goes away or sends what is none of its body.
///
/// A server that takes no more may have answered already, so that is for [`answer`] to find.
async fn send<W: AsyncWrite + Unpin>(
    program: &mut Inbox<ReadHalf<'_>>,
    to: &mut W,
    request: &Request,
    progress: &Progress,
) -> Left {
    let head = forward::request_head(&request.head, &request.forward, request.framing);
    let sent = match to.write_all(&head).await {
        Ok(()) => {
            drop(head);
            progress.moved();
            let chunked = request.framing == Framing::Chunked;
            program.carry(to, request.framing, chunked, &progress.moved).await
        }
        Err(error) => Err(Carry::To(error)),
    };
    match sent {
        Ok(()) => progress.whole.store(true, Ordering::Relaxed),
        Err(Carry::To(_)) => {}
        Err(Carry::Malformed(malformed)) => return Left::Malformed(malformed),
        Err(Carry::Cut | Carry::From(_)) => return Left::Gone,
    }
    progress.sent.store(true, Ordering::Relaxed);
    progress.sent_now.notify_one();
    absence(program).await;
    Left::Gone
}

/// Ends when the program goes away.
///
/// An end of its bytes counts as that: a program that closes only its sending half before it was answered
/// looks the same and is far rarer. Whoever sends much ahead is listened to no more.
pub(super) async fn absence(program: &mut Inbox<ReadHalf<'_>>) {
    while program.bytes().len() < AHEAD_MAX {
        if !matches!(program.more().await, Ok(1..)) {
            return;
        }
    }
    pending().await
}

struct Answered {
    /// The connection with the program ends after this answer.
    closes: bool,
    server_stays: bool,
    /// The server goes on reading the request, as far as can be told.
    wants_rest: bool,
}

/// Passes the server's answer on.
async fn answer<R: AsyncRead + Unpin>(
    from: &mut Inbox<R>,
    program: &mut WriteHalf<'_>,
    request: &Request,
    progress: &Progress,
) -> Result<Answered, Failure> {
    // Who waits for 100 and gets a final answer need not send the body: what it sends may be its next request.
    let mut body_comes = !request.head.fields.lists("Expect", "100-continue");
    for interim in 0..INTERIM_MAX {
        let head = match from.head().await {
            Ok(Ok(Some(head))) => head,
            Ok(Err(malformed)) => return Err(Failure::Server(Refusal::BadAnswer(malformed))),
            Ok(Ok(None)) | Err(_) if interim == 0 && from.bytes().is_empty() => return Err(Failure::Silent),
            Ok(Ok(None)) | Err(_) => return Err(Failure::Server(Refusal::NoAnswer)),
        };
        progress.moved();
        let bad = |malformed| Failure::Server(Refusal::BadAnswer(malformed));
        let head = head::response(&head).map_err(bad)?;
        let framing = body::of_response(&head, &request.head.method).map_err(bad)?;
        if head.status == 101 {
            return Err(Failure::Server(Refusal::Switched));
        }
        if head.status < 200 {
            body_comes |= head.status == 100;
            // Programs of HTTP/1.0 know of no interim responses.
            if request.head.version == Version::Http11 {
                let interim = forward::response_head(&head, false, false);
                program.write_all(&interim).await.map_err(|_| Failure::Gone)?;
            }
            continue;
        }
        let chunked = framing == Framing::Chunked && request.head.version == Version::Http11;
        let server_stays = forward::server_stays(&head, framing);
        let closes = !forward::program_stays(&request.head) || framing == Framing::UntilClose;
        progress.begun.store(true, Ordering::Relaxed);
        // From here on whatever ends this task resets the program, until the answer is whole.
        reset_when_dropped(program.as_ref());
        let broken = |error: io::Error| Failure::Broken(error.kind());
        program
            .write_all(&forward::response_head(&head, chunked, closes))
            .await
            .map_err(broken)?;
        progress.moved();
        let wants_rest = body_comes && head.status < 400 && server_stays;
        drop(head);
        match from.carry(program, framing, chunked, &progress.moved).await {
            Ok(()) => {}
            Err(Carry::From(error) | Carry::To(error)) => return Err(broken(error)),
            Err(Carry::Cut) => return Err(Failure::Broken(io::ErrorKind::UnexpectedEof)),
            Err(Carry::Malformed(_)) => return Err(Failure::Broken(io::ErrorKind::InvalidData)),
        }
        close_orderly_when_dropped(program.as_ref());
        return Ok(Answered {
            closes,
            server_stays,
            wants_rest,
        });
    }
    Err(Failure::Server(Refusal::TooManyInterim))
}
