//! Lines and chunks on a connection; see the [module](super).

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{MAX_CHUNK, MAX_LINE};

const BREAK_OFF: u32 = u32::MAX;

/// What comes next in the data of a letter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Data(Vec<u8>),
    End,
    BrokenOff,
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The next line; `None` when the other end has gone.
pub(super) async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let n = reader
        .take(MAX_LINE as u64 + 1)
        .read_until(b'\n', &mut line)
        .await?;
    match line.pop() {
        None if n == 0 => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        _ if n > MAX_LINE => Err(bad("a line is too long")),
        // Half of a line: it went in the middle of it.
        _ => Ok(None),
    }
}

pub(super) async fn read<T: DeserializeOwned>(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<T>> {
    let Some(line) = read_line(reader).await? else {
        return Ok(None);
    };
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|_| bad("a line is not what it should be"))
}

pub(super) async fn write(writer: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(bad("a line would be too long"));
    }
    writer.write_all(&line).await?;
    writer.flush().await
}

pub(super) async fn read_chunk(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Chunk> {
    match reader.read_u32().await? {
        0 => Ok(Chunk::End),
        BREAK_OFF => Ok(Chunk::BrokenOff),
        n if n as usize <= MAX_CHUNK => {
            let mut bytes = vec![0; n as usize];
            reader.read_exact(&mut bytes).await?;
            Ok(Chunk::Data(bytes))
        }
        _ => Err(bad("a chunk is too long")),
    }
}

/// Writes data as chunks, none if there is no data.
pub(super) async fn write_data(writer: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> io::Result<()> {
    for chunk in data.chunks(MAX_CHUNK) {
        writer.write_u32(chunk.len() as u32).await?;
        writer.write_all(chunk).await?;
    }
    Ok(())
}

pub(super) async fn write_end(writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    writer.write_u32(0).await?;
    writer.flush().await
}

pub(super) async fn write_break(writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    writer.write_u32(BREAK_OFF).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Command, Event, Request};
    use proptest::prelude::*;

    fn block<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn requests_read_as_the_documentation_shows_them() {
        let request: Request = serde_json::from_str(r#"{"version":1,"command":"address"}"#).unwrap();
        assert_eq!((request.version, request.command), (1, Command::Address));
        let event = Event::Address { address: "a".into() };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"address","address":"a"}"#
        );
    }

    #[test]
    fn long_lines_and_chunks_are_refused_before_they_are_held() {
        let long = vec![b' '; MAX_LINE * 2];
        assert!(block(read_line(&mut &long[..])).is_err());
        let chunk = (MAX_CHUNK as u32 + 1).to_be_bytes();
        assert!(block(read_chunk(&mut &chunk[..])).is_err());
        assert_eq!(block(read_line(&mut &b"half"[..])).unwrap(), None);
    }

    proptest! {
        #[test]
        fn data_is_the_same_after_a_round_trip(data in proptest::collection::vec(any::<u8>(), 0..3 * MAX_CHUNK)) {
            let mut bytes = Vec::new();
            block(write_data(&mut bytes, &data)).unwrap();
            block(write_end(&mut bytes)).unwrap();
            let (mut reader, mut read) = (&bytes[..], Vec::new());
            while let Chunk::Data(chunk) = block(read_chunk(&mut reader)).unwrap() {
                read.extend(chunk);
            }
            prop_assert_eq!(read, data);
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn arbitrary_bytes_make_errors_not_panics(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = block(read::<Request>(&mut &bytes[..]));
            let _ = block(read::<Event>(&mut &bytes[..]));
            let mut reader = &bytes[..];
            while let Ok(Chunk::Data(chunk)) = block(read_chunk(&mut reader)) {
                prop_assert!(chunk.len() <= bytes.len());
            }
        }
    }
}
