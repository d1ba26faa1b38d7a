//! One attempt to bring a letter to a gateway: the sender's side of `mizzle_base::upload` over a stream, by the rules of
//! [`mizzle_client::outbox`].

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use mizzle_base::item::ITEM_LEN;
use mizzle_base::upload::{Head, Malformed};
use mizzle_client::outbox::{ANSWER, Hearing, PARTING, STALL, Word};
use mizzle_stream::OpenError;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::disk::{DiskError, failed};

/// Items that are read from the disk at once.
const READ_ITEMS: u32 = 32;

/// Why an attempt didn't lead to *stored*.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// The gateway, or the way to it, says no.
    #[error(transparent)]
    Refused(#[from] OpenError),
    /// The stream broke.
    #[error("the connection with the receiver's gateway broke")]
    Broken,
    /// Nothing moved for long.
    #[error("the receiver's gateway fell silent")]
    Silent,
    /// It says what nobody should.
    #[error("the receiver's gateway speaks another version of mizzle")]
    Malformed,
    /// The letter's own file.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Brings the letter; returns when the gateway has stored it. `sent` is told how many items are on their way.
pub(super) async fn upload<S>(
    stream: S,
    head: Head,
    path: PathBuf,
    sent: impl Fn(u32),
) -> Result<(), UploadError>
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut gateway = Gateway {
        reader: Box::pin(reader),
        heard: Hearing::new(&head),
    };
    within(STALL, writer.write_all(&head.encode())).await?;
    let from = match gateway.heard.from() {
        Some(from) => from,
        None => match timeout(ANSWER, gateway.word()).await {
            Err(_) => return Err(UploadError::Silent),
            Ok(word) => match word? {
                Word::From(from) => from,
                last => return gateway.finish(last, &mut writer).await,
            },
        },
    };
    let last = {
        let word = gateway.word();
        tokio::pin!(word);
        // It may say its last word before it has all: a letter that it knows, or one that it doesn't take.
        tokio::select! {
            word = &mut word => word?,
            written = items(&mut writer, path, from, head.count, sent) => {
                written?;
                timeout(ANSWER, word).await.map_err(|_| UploadError::Silent)??
            }
        }
    };
    gateway.finish(last, &mut writer).await
}

async fn within<T>(limit: Duration, io: impl Future<Output = std::io::Result<T>>) -> Result<T, UploadError> {
    match timeout(limit, io).await {
        Err(_) => Err(UploadError::Silent),
        Ok(done) => done.map_err(|_| UploadError::Broken),
    }
}

async fn items(
    writer: &mut (impl AsyncWrite + Unpin),
    path: PathBuf,
    from: u32,
    count: u32,
    sent: impl Fn(u32),
) -> Result<(), UploadError> {
    let mut next = from;
    sent(next);
    while next < count {
        let n = READ_ITEMS.min(count - next);
        let path = path.clone();
        let read = tokio::task::spawn_blocking(move || read_items(path, next, n));
        let bytes = read.await.map_err(|_| UploadError::Broken)??;
        for item in bytes.chunks(ITEM_LEN) {
            within(STALL, writer.write_all(item)).await?;
            next += 1;
            sent(next);
        }
    }
    within(STALL, writer.flush()).await
}

fn read_items(path: PathBuf, from: u32, n: u32) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; n as usize * ITEM_LEN];
    let mut read = || {
        let mut file = File::open(&path)?;
        file.seek(SeekFrom::Start(u64::from(from) * ITEM_LEN as u64))?;
        file.read_exact(&mut bytes)
    };
    read().map_err(failed("read", &path))?;
    Ok(bytes)
}

impl From<Malformed> for UploadError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

struct Gateway<R> {
    reader: std::pin::Pin<Box<R>>,
    heard: Hearing,
}

impl<R: AsyncRead> Gateway<R> {
    /// What it says next, whenever that comes. What was read stays here if it is given up.
    async fn word(&mut self) -> Result<Word, UploadError> {
        loop {
            if let Some(word) = self.heard.word()? {
                return Ok(word);
            }
            let mut piece = [0; 64];
            match self.reader.read(&mut piece).await {
                Ok(n) if n > 0 => self.heard.push(&piece[..n]),
                Ok(_) | Err(_) => return Err(UploadError::Broken),
            }
        }
    }

    /// What the last word means; the stream ends in order.
    async fn finish(
        &mut self,
        last: Word,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), UploadError> {
        // Whatever happens to the stream now changes nothing.
        let mut rest = [0; 16];
        let parting = async {
            let _ = writer.shutdown().await;
            while matches!(self.reader.read(&mut rest).await, Ok(n) if n > 0) {}
        };
        let _ = timeout(PARTING, parting).await;
        match last {
            Word::Stored => Ok(()),
            Word::Refused(why) => Err(why.into()),
            // Said once, and that was before.
            Word::From(_) => Err(UploadError::Malformed),
        }
    }
}
