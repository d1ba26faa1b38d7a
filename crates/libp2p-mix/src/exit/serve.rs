//! Protocols that this peer answers itself: what comes to it by the mixnet, and by streams straight from others.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, Stream};
use libp2p::StreamProtocol;
use tokio::sync::mpsc;

use super::{Read, Surbs, reply};
use crate::{lock, message, shared::Shared};

/// Streams straight from others that are answered at a time, for each protocol.
const DIRECT: usize = 64;

/// A request to a protocol that this peer serves. Dropping it is an answer too: that there is none.
pub struct Exchange {
    codec: String,
    body: Vec<u8>,
    answer: Answer,
}

enum Answer {
    Mixnet { shared: Arc<Shared>, surbs: Surbs },
    Direct(tokio::sync::oneshot::Sender<Vec<u8>>),
    Given,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

/// The answer doesn't fit into a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer of {len} bytes does not fit: a packet holds {max}")]
pub struct AnswerTooLong {
    /// Of the answer, in bytes.
    pub len: usize,
    /// The longest, in bytes.
    pub max: usize,
}

impl Exchange {
    pub(crate) fn from_mixnet(shared: Arc<Shared>, codec: String, body: Vec<u8>, surbs: Surbs) -> Self {
        Self {
            codec,
            body,
            answer: Answer::Mixnet { shared, surbs },
        }
    }

    /// The protocol.
    #[must_use]
    pub fn codec(&self) -> &str {
        &self.codec
    }

    /// What was written to it, as it was: with its length prefix, where the protocol has one.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether an answer can go back.
    #[must_use]
    pub fn wants_answer(&self) -> bool {
        match &self.answer {
            Answer::Mixnet { surbs, .. } => !surbs.is_empty(),
            Answer::Direct(asker) => !asker.is_closed(),
            Answer::Given => false,
        }
    }

    /// Answers, with the bytes as the protocol writes them: with their length prefix, where it has one. An empty answer
    /// reads as a failure. Without [a way back](Self::wants_answer) nothing happens.
    ///
    /// # Errors
    /// [`AnswerTooLong`]; the asker is told that there is no answer.
    pub fn answer(mut self, answer: &[u8]) -> Result<(), AnswerTooLong> {
        match std::mem::replace(&mut self.answer, Answer::Given) {
            Answer::Mixnet { shared, surbs } => {
                let max = message::max_reply_len(shared.dialect);
                if answer.len() > max {
                    reply(&shared, &surbs, &[]);
                    return Err(AnswerTooLong {
                        len: answer.len(),
                        max,
                    });
                }
                reply(&shared, &surbs, answer);
            }
            Answer::Direct(asker) => {
                let _ = asker.send(answer.to_vec());
            }
            Answer::Given => {}
        }
        Ok(())
    }

    /// The exchange as a stream: reading gives the body and then its end, closing sends what was written.
    #[must_use]
    pub fn into_stream(mut self) -> ExchangeStream {
        ExchangeStream {
            unread: io::Cursor::new(std::mem::take(&mut self.body)),
            written: Vec::new(),
            exchange: Some(self),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Answer::Mixnet { shared, surbs } = std::mem::replace(&mut self.answer, Answer::Given) {
            reply(&shared, &surbs, &[]);
        }
    }
}

/// [`Exchange`] as a stream. Dropped before it is closed, it is an exchange without an answer.
#[derive(Debug)]
pub struct ExchangeStream {
    unread: io::Cursor<Vec<u8>>,
    written: Vec<u8>,
    exchange: Option<Exchange>,
}

impl AsyncRead for ExchangeStream {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(io::Read::read(&mut self.unread, buf))
    }
}

impl AsyncWrite for ExchangeStream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.exchange.is_none() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // More than any packet holds is refused here rather than kept.
        if self.written.len() + buf.len() > mizzle_sphinx::MESSAGE_LEN {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        self.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.exchange.take() {
            Some(exchange) => exchange.answer(&self.written).map_err(io::Error::other),
            None => Ok(()),
        })
    }
}

/// The requests to one protocol, as they come. Dropping it ends the service.
#[derive(Debug)]
pub struct Incoming {
    exchanges: mpsc::Receiver<Exchange>,
}

impl Incoming {
    /// The next request; `None` once the behaviour is gone.
    pub async fn next(&mut self) -> Option<Exchange> {
        self.exchanges.recv().await
    }
}

impl Stream for Incoming {
    type Item = Exchange;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Exchange>> {
        self.exchanges.poll_recv(cx)
    }
}

/// Begins to serve a protocol; see [`Control::serve`](crate::Control::serve).
pub(crate) fn serve(
    shared: &Arc<Shared>,
    codec: &StreamProtocol,
    queue: usize,
    direct: Option<Read>,
) -> Incoming {
    let (sender, exchanges) = mpsc::channel(queue.max(1));
    lock(&shared.handlers).insert(codec.as_ref().to_owned(), sender.clone());
    if let Some(read) = direct {
        let mut streams = shared.served.serve(codec, DIRECT);
        let (codec, timeout) = (codec.as_ref().to_owned(), shared.exit_timeout);
        let tasks = Arc::new(tokio::sync::Semaphore::new(DIRECT));
        shared.runtime.spawn(async move {
            // Ends with the behaviour, or with the service: nobody then takes what comes.
            loop {
                let stream = tokio::select! {
                    stream = streams.recv() => stream,
                    () = sender.closed() => None,
                };
                let Some(stream) = stream else { return };
                let Ok(permit) = tasks.clone().acquire_owned().await else {
                    return;
                };
                let (sender, codec) = (sender.clone(), codec.clone());
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(timeout, answer_stream(stream, codec, read, sender)).await;
                    drop(permit);
                });
            }
        });
    }
    Incoming { exchanges }
}

/// Answers a stream until the other side closes it: protocols such as ping ask more than once on one.
async fn answer_stream(
    mut stream: libp2p::Stream,
    codec: String,
    read: Read,
    handler: mpsc::Sender<Exchange>,
) -> io::Result<()> {
    loop {
        let body = read.read(&mut stream).await?;
        let (asker, answer) = tokio::sync::oneshot::channel();
        let exchange = Exchange {
            codec: codec.clone(),
            body,
            answer: Answer::Direct(asker),
        };
        if handler.send(exchange).await.is_err() {
            return Ok(());
        }
        if let Ok(answer) = answer.await {
            stream.write_all(&answer).await?;
            stream.flush().await?;
        }
        if matches!(read, Read::ToEnd(_)) {
            return stream.close().await;
        }
    }
}
