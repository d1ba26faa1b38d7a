//! [`RequestStream`]: one exchange in the form of a stream.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture};
use libp2p::StreamProtocol;

use crate::{
    control::{Control, RequestOptions},
    entry::Destination,
    error::{RequestError, SendError},
};

/// What is written is one request, sent when the stream is closed or first read; then reading gives the reply, and the end.
/// Nothing can be written after that. Flushing sends nothing: protocols flush between the parts of one message.
///
/// An error is a [`RequestError`] inside an [`io::Error`].
pub struct RequestStream {
    control: Control,
    destination: Destination,
    codec: StreamProtocol,
    options: RequestOptions,
    state: State,
}

enum State {
    Writing(Vec<u8>),
    Waiting(BoxFuture<'static, Result<Vec<u8>, RequestError>>),
    Reading(io::Cursor<Vec<u8>>),
    Failed,
}

impl fmt::Debug for RequestStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestStream(..)")
    }
}

impl RequestStream {
    pub(crate) fn new(
        control: Control,
        destination: Destination,
        codec: StreamProtocol,
        options: RequestOptions,
    ) -> Self {
        Self {
            control,
            destination,
            codec,
            options,
            state: State::Writing(Vec::new()),
        }
    }

    fn send(&mut self) {
        if let State::Writing(body) = &mut self.state {
            let body = std::mem::take(body);
            let (control, destination) = (self.control.clone(), self.destination.clone());
            let (codec, options) = (self.codec.clone(), self.options);
            let request = async move { control.request(&destination, &codec, &body, options).await };
            self.state = State::Waiting(request.boxed());
        }
    }
}

fn error(error: RequestError) -> io::Error {
    let kind = match error {
        RequestError::TimedOut => io::ErrorKind::TimedOut,
        RequestError::EmptyReply => io::ErrorKind::ConnectionRefused,
        RequestError::NotSent(SendError::Message(_)) | RequestError::NoSurbs => io::ErrorKind::InvalidInput,
        RequestError::NotSent(_) => io::ErrorKind::NotConnected,
    };
    io::Error::new(kind, error)
}

impl AsyncRead for RequestStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.send();
        loop {
            match &mut self.state {
                State::Waiting(request) => match ready!(request.poll_unpin(cx)) {
                    Ok(reply) => self.state = State::Reading(io::Cursor::new(reply)),
                    Err(why) => {
                        self.state = State::Failed;
                        return Poll::Ready(Err(error(why)));
                    }
                },
                State::Reading(reply) => return Poll::Ready(io::Read::read(reply, buf)),
                State::Writing(_) | State::Failed => {
                    return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
                }
            }
        }
    }
}

impl AsyncWrite for RequestStream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let max = self
            .control
            .max_body_len(&self.codec, self.options.surbs())
            .unwrap_or(0);
        let State::Writing(body) = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if body.len() + buf.len() > max {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        body.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends the request; the first step of its way is taken here, the rest as the stream is read.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send();
        if let State::Waiting(request) = &mut self.state
            && let Poll::Ready(done) = request.poll_unpin(cx)
        {
            match done {
                Ok(reply) => self.state = State::Reading(io::Cursor::new(reply)),
                Err(why) => {
                    self.state = State::Failed;
                    return Poll::Ready(Err(error(why)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
