//! Bytes of one side that came and are not used yet, and how they become heads and bodies.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::body::{Decoder, Framing, Step, write_chunk_size, write_last_chunk};
use super::forward;
use super::head::{HeadEnd, Malformed};
use crate::proxy::COPY_BUFFER;

/// Reads of one side, with what is read and not used.
#[derive(Debug)]
pub(super) struct Inbox<R> {
    from: R,
    bytes: Vec<u8>,
    used: usize,
}

impl<R: AsyncRead + Unpin> Inbox<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            bytes: Vec::new(),
            used: 0,
        }
    }

    /// What came and is not used.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.used = self.bytes.len().min(self.used + len);
    }

    /// The side itself, and what came and is not used.
    pub(super) fn into_parts(mut self) -> (R, Vec<u8>) {
        self.bytes.drain(..self.used);
        (self.from, self.bytes)
    }

    /// Waits for more; how much came, 0 at the end. May be given up at any point without loss.
    pub(super) async fn more(&mut self) -> io::Result<usize> {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.reserve(COPY_BUFFER);
        let mut limited = (&mut self.from).take(COPY_BUFFER as u64);
        limited.read_buf(&mut self.bytes).await
    }

    /// Takes a whole head; `Ok(None)` when the side ends before there is one.
    pub(super) async fn head(&mut self) -> io::Result<Result<Option<Vec<u8>>, Malformed>> {
        let mut end = HeadEnd::default();
        loop {
            match end.find(self.bytes()) {
                Err(malformed) => return Ok(Err(malformed)),
                Ok(Some(len)) => {
                    let head = self.bytes()[..len].to_vec();
                    self.consume(len);
                    return Ok(Ok(Some(head)));
                }
                Ok(None) => {}
            }
            if self.more().await? == 0 {
                return Ok(Ok(None));
            }
        }
    }

    /// Carries a body to the other side, in chunks of our own if `chunked`; counts in `moved` what went.
    pub(super) async fn carry<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        framing: Framing,
        chunked: bool,
        moved: &AtomicU64,
    ) -> Result<(), Carry> {
        let mut decoder = Decoder::new(framing);
        let mut framed = Vec::new();
        loop {
            match decoder.step(self.bytes())? {
                Step::More => {
                    to.flush().await.map_err(Carry::To)?;
                    if self.more().await.map_err(Carry::From)? == 0 {
                        return if decoder.may_end() {
                            Ok(())
                        } else {
                            Err(Carry::Cut)
                        };
                    }
                    moved.fetch_add(1, Ordering::Relaxed);
                }
                Step::Framing(len) => self.consume(len),
                Step::Data(len) => {
                    let data = &self.bytes()[..len];
                    if chunked {
                        framed.clear();
                        write_chunk_size(len, &mut framed);
                        framed.extend_from_slice(data);
                        framed.extend_from_slice(b"\r\n");
                        to.write_all(&framed).await.map_err(Carry::To)?;
                    } else {
                        to.write_all(data).await.map_err(Carry::To)?;
                    }
                    self.consume(len);
                    moved.fetch_add(1, Ordering::Relaxed);
                }
                Step::End(trailers) => {
                    if chunked {
                        framed.clear();
                        write_last_chunk(&forward::trailers(trailers), &mut framed);
                        to.write_all(&framed).await.map_err(Carry::To)?;
                    }
                    return to.flush().await.map_err(Carry::To);
                }
            }
        }
    }
}

/// Why a body was not carried to its end.
#[derive(Debug)]
pub(super) enum Carry {
    /// It is damaged.
    Malformed(Malformed),
    /// Its side ended before it did.
    Cut,
    /// Its side failed.
    From(io::Error),
    /// The other side failed.
    To(io::Error),
}

impl From<Malformed> for Carry {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}
