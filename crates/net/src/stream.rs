//! A stream through the mixnet as programs' doors see it: `AsyncRead + AsyncWrite`, shared with the client's task.
//!
//! Two bounded buffers under one short lock, 256 KiB each; the client task moves bytes between them and the core, told
//! by a list of the streams that changed. What is inside packets is the core's.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use mizzle_client::StreamKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Most bytes that wait in each direction between a program and the core.
const BUFFER: usize = 256 * 1024;

/// Streams whose program side did something since the client task looked.
#[derive(Default)]
pub(crate) struct Changed {
    keys: Mutex<Vec<StreamKey>>,
    notify: Notify,
}

impl Changed {
    fn mark(&self, key: StreamKey) {
        lock(&self.keys).push(key);
        self.notify.notify_one();
    }

    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<StreamKey> {
        std::mem::take(&mut lock(&self.keys))
    }
}

/// A poisoned lock means that a thread panicked while holding plain data: the data is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct State {
    marked: bool,
    incoming: BytesMut,
    incoming_ended: bool,
    failed: Option<io::ErrorKind>,
    outgoing: BytesMut,
    finished: bool,
    dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The client task's end.
pub(crate) struct Far(Arc<Shared>);

struct Shared {
    key: StreamKey,
    changed: Arc<Changed>,
    state: Mutex<State>,
}

impl Shared {
    fn mark(&self, state: &mut State) {
        if !state.marked {
            state.marked = true;
            self.changed.mark(self.key);
        }
    }
}

/// What the program side asks for.
pub(crate) struct Wishes {
    /// It wrote its last byte, and the core has them all.
    pub(crate) finish: bool,
    pub(crate) left: Left,
}

/// Whether the program let go of its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    /// It holds it, or bytes that it wrote before an orderly end still wait for the core.
    Not,
    /// After both directions ended: what the core still has to send it shall send.
    InOrder,
    /// Before that: the stream is to be reset.
    Early,
}

/// A stream through the mixnet. Dropping it before both ends finished resets it; afterwards what was written is still
/// delivered.
pub struct MixStream(Arc<Shared>);

pub(crate) fn pair(key: StreamKey, changed: Arc<Changed>) -> (MixStream, Far) {
    let shared = Arc::new(Shared {
        key,
        changed,
        state: Mutex::default(),
    });
    (MixStream(Arc::clone(&shared)), Far(shared))
}

impl Far {
    /// Moves what can be moved: `write` takes bytes towards the exit and says how many, `read` gives up to a number of
    /// bytes from it.
    pub(crate) fn pump(
        &self,
        mut write: impl FnMut(&[u8]) -> usize,
        mut read: impl FnMut(usize) -> Option<Bytes>,
    ) -> Wishes {
        let mut state = lock(&self.0.state);
        state.marked = false;
        while !state.outgoing.is_empty() {
            let n = write(&state.outgoing);
            if n == 0 {
                break;
            }
            state.outgoing.advance(n);
            if let Some(waker) = state.writer.take() {
                waker.wake();
            }
        }
        while state.incoming.len() < BUFFER {
            let room = BUFFER - state.incoming.len();
            let Some(bytes) = read(room).filter(|b| !b.is_empty()) else {
                break;
            };
            state.incoming.extend_from_slice(&bytes);
            if let Some(waker) = state.reader.take() {
                waker.wake();
            }
        }
        let left = match (state.dropped, state.finished && state.incoming_ended) {
            (true, false) => Left::Early,
            (true, true) if state.outgoing.is_empty() => Left::InOrder,
            _ => Left::Not,
        };
        Wishes {
            finish: state.finished && state.outgoing.is_empty(),
            left,
        }
    }

    /// All bytes from the exit were handed over.
    pub(crate) fn ended(&self) {
        let mut state = lock(&self.0.state);
        state.incoming_ended = true;
        wake(&mut state);
    }

    /// The stream is broken; what arrived, its end included, can still be read.
    pub(crate) fn failed(&self, kind: io::ErrorKind) {
        let mut state = lock(&self.0.state);
        state.failed.get_or_insert(kind);
        wake(&mut state);
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Whatever ended the client's task or forgot the stream: its program must not wait for ever.
        if !lock(&self.0.state).incoming_ended {
            self.failed(io::ErrorKind::ConnectionAborted);
        }
    }
}

fn wake(state: &mut State) {
    [state.reader.take(), state.writer.take()]
        .into_iter()
        .flatten()
        .for_each(Waker::wake);
}

impl AsyncRead for MixStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0.state);
        if state.incoming.is_empty() {
            if state.incoming_ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(kind) = state.failed {
                return Poll::Ready(Err(kind.into()));
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let was_full = state.incoming.len() >= BUFFER / 2;
        let n = out.remaining().min(state.incoming.len());
        out.put_slice(&state.incoming[..n]);
        state.incoming.advance(n);
        // The core holds back bytes only while this buffer is well filled.
        if was_full {
            self.0.mark(&mut state);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MixStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0.state);
        if let Some(kind) = state.failed {
            return Poll::Ready(Err(kind.into()));
        }
        if state.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = data.len().min(BUFFER.saturating_sub(state.outgoing.len()));
        if n == 0 && !data.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.outgoing.extend_from_slice(&data[..n]);
        self.0.mark(&mut state);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Bytes leave in the client's slots, not sooner for being asked.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0.state);
        state.finished = true;
        self.0.mark(&mut state);
        Poll::Ready(Ok(()))
    }
}

impl Drop for MixStream {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.dropped = true;
        self.0.mark(&mut state);
    }
}
