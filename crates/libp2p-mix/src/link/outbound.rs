//! Writing a peer's queue to a stream: batches, flushes, and the watchdog of a write that stands still.

use super::{
    Frame,
    codec::{FrameWriter, WRITE_BATCH},
    control::{Counters, Peer, Shared},
    handler::BUDGET,
    queue::{End, Taken},
};
use futures::{AsyncRead, AsyncWrite, ready};
use libp2p::{Stream, swarm::ConnectionId};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::time::{Instant, Sleep, sleep};

/// A stream that we write, and what of the queue is on its way into it.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) stream: Stream,
    pub(super) writer: FrameWriter,
    unflushed: bool,
    pub(super) opened: Instant,
    watchdog: Pin<Box<Sleep>>,
    watching: bool,
    progress: bool,
}

/// One frame in a stream of its own.
#[derive(Debug)]
pub(super) struct Saying {
    stream: Stream,
    header: FrameWriter,
    frame: FrameWriter,
    deadline: Pin<Box<Sleep>>,
}

impl Saying {
    pub(super) fn new(stream: Stream, frame: Frame, shared: &Shared) -> Self {
        Self {
            stream,
            header: FrameWriter::new(&shared.format),
            frame: FrameWriter::loaded(vec![frame]),
            deadline: Box::pin(sleep(shared.config.stall_timeout)),
        }
    }

    /// Ready when the stream is over: whether the transport took all of it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self.poll_write(cx) {
            Poll::Ready(result) => Poll::Ready(result.is_ok()),
            Poll::Pending => self.deadline.as_mut().poll(cx).map(|()| false),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for part in [&mut self.header, &mut self.frame] {
            ready!(part.poll_write(&mut self.stream, cx, &mut false))?;
        }
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Why writing on a stream ended.
pub(super) enum WriteEnd {
    Broken,
    Stalled,
    Revoked,
    /// All is written, and these wait for the end of the stream.
    Asked(Vec<End>),
}

impl Writing {
    pub(super) fn new(stream: Stream, shared: &Shared) -> Self {
        let writer = FrameWriter::new(&shared.format);
        Self {
            stream,
            unflushed: !writer.is_empty(),
            writer,
            opened: Instant::now(),
            watchdog: Box::pin(sleep(shared.config.stall_timeout)),
            watching: false,
            progress: false,
        }
    }

    /// Writes the queue, all that waits before one flush; ready only when the stream is over.
    pub(super) fn poll(
        &mut self,
        shared: &Shared,
        entry: &Peer,
        connection: ConnectionId,
        cx: &mut Context<'_>,
    ) -> Poll<WriteEnd> {
        for _ in 0..BUDGET {
            match self.writer.poll_write(&mut self.stream, cx, &mut self.progress) {
                Poll::Ready(Ok(frames)) => Counters::add(&shared.counters.sent, frames),
                Poll::Ready(Err(_)) => return Poll::Ready(WriteEnd::Broken),
                Poll::Pending => return self.poll_stalled(shared, cx),
            }
            match entry.queue.poll_take(connection, WRITE_BATCH, cx) {
                Poll::Ready(Taken::Revoked) => return Poll::Ready(WriteEnd::Revoked),
                Poll::Ready(Taken::Frames(frames)) => {
                    self.writer.load(frames);
                    self.unflushed = true;
                }
                Poll::Pending => {
                    if self.unflushed {
                        match Pin::new(&mut self.stream).poll_flush(cx) {
                            Poll::Ready(Ok(())) => self.unflushed = false,
                            Poll::Ready(Err(_)) => return Poll::Ready(WriteEnd::Broken),
                            Poll::Pending => return self.poll_stalled(shared, cx),
                        }
                    }
                    self.watching = false;
                    let ends = entry.queue.take_ends(connection);
                    if !ends.is_empty() {
                        return Poll::Ready(WriteEnd::Asked(ends));
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The watchdog of a pending write. It is set once a period and not with every write: a timer costs more than
    /// the look at whether something moved since.
    fn poll_stalled(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<WriteEnd> {
        let timeout = shared.config.stall_timeout;
        loop {
            if !self.watching {
                self.watching = true;
                self.progress = false;
                self.watchdog.as_mut().reset(Instant::now() + timeout);
            }
            ready!(self.watchdog.as_mut().poll(cx));
            self.watching = false;
            if !self.progress {
                return Poll::Ready(WriteEnd::Stalled);
            }
        }
    }
}

/// A stream that we write no more: until the peer has read it to its end, which it shows by ending its side.
#[derive(Debug)]
pub(super) struct Closing {
    stream: Stream,
    closed: bool,
    ends: Vec<End>,
    deadline: Pin<Box<Sleep>>,
}

impl Closing {
    pub(super) fn new(stream: Stream, ends: Vec<End>, shared: &Shared) -> Self {
        Self {
            stream,
            closed: false,
            ends,
            deadline: Box::pin(sleep(shared.config.stall_timeout)),
        }
    }

    pub(super) fn wait_too(&mut self, ends: Vec<End>) {
        self.ends.extend(ends);
    }

    /// Ready when there is nothing to wait for any more; whoever waited has then been told, or never will be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_end(cx) {
            Poll::Ready(result) => {
                for end in self.ends.drain(..) {
                    // Who gave up is not told.
                    if result.is_ok() {
                        let _ = end.send(());
                    }
                }
                Poll::Ready(())
            }
            Poll::Pending => self.deadline.as_mut().poll(cx),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            ready!(Pin::new(&mut self.stream).poll_close(cx))?;
            self.closed = true;
        }
        if self.ends.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut nothing = [0; 64];
        match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut nothing)) {
            Ok(0) => Poll::Ready(Ok(())),
            // Nobody answers on a link: not a peer that ends it.
            Ok(_) => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}
