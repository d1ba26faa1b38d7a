//! [`Read`]: how much of a stream is one answer.

use std::io;

use futures::{AsyncRead, AsyncReadExt};

/// How an exit reads the answer of a destination; each codec has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Read {
    /// Exactly so many bytes, as of `/ipfs/ping/1.0.0` (32).
    Exact(usize),
    /// One message with a varint of its length in front, of at most so many bytes. The answer has the varint too, as
    /// the destination wrote it.
    LengthPrefixed(usize),
    /// All until the destination closes, at most so many bytes. Our side is closed first.
    ToEnd(usize),
}

impl Read {
    /// The answer.
    pub(crate) async fn read(self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
        match self {
            Self::Exact(len) => {
                let mut answer = vec![0; len];
                stream.read_exact(&mut answer).await?;
                Ok(answer)
            }
            Self::LengthPrefixed(max) => {
                let (len, mut answer) = prefix(stream).await?;
                if len > max {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                let at = answer.len();
                answer.resize(at + len, 0);
                stream.read_exact(&mut answer[at..]).await?;
                Ok(answer)
            }
            Self::ToEnd(max) => {
                let mut answer = Vec::new();
                // One more than allowed tells that there was more.
                stream
                    .take((max as u64).saturating_add(1))
                    .read_to_end(&mut answer)
                    .await?;
                if answer.len() > max {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                Ok(answer)
            }
        }
    }

    /// The most bytes of an answer without its prefix.
    #[must_use]
    pub const fn max(self) -> usize {
        match self {
            Self::Exact(max) | Self::LengthPrefixed(max) | Self::ToEnd(max) => max,
        }
    }

    /// The same, with the limit lowered to what can be sent: nobody reads what must be thrown away.
    pub(crate) fn at_most(self, most: usize) -> Self {
        match self {
            Self::Exact(_) => self,
            Self::LengthPrefixed(max) => Self::LengthPrefixed(max.min(most)),
            Self::ToEnd(max) => Self::ToEnd(max.min(most)),
        }
    }
}

/// A length and the bytes of its varint.
async fn prefix(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(usize, Vec<u8>)> {
    let (mut len, mut bytes) = (0_usize, Vec::with_capacity(2));
    // 28 bits: more than any answer has.
    for at in 0..4 {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        bytes.push(byte[0]);
        len |= usize::from(byte[0] & 0x7f) << (7 * at);
        if byte[0] & 0x80 == 0 {
            return Ok((len, bytes));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{executor::block_on, io::Cursor};

    fn read(read: Read, bytes: &[u8]) -> Result<Vec<u8>, io::ErrorKind> {
        block_on(read.read(&mut Cursor::new(bytes))).map_err(|e| e.kind())
    }

    #[test]
    fn each_behaviour_reads_its_answer_and_no_more_than_its_limit() {
        use io::ErrorKind::{FileTooLarge, InvalidData, UnexpectedEof};
        assert_eq!(read(Read::Exact(3), b"abcd"), Ok(b"abc".to_vec()));
        assert_eq!(read(Read::Exact(3), b"ab"), Err(UnexpectedEof));
        assert_eq!(
            read(Read::LengthPrefixed(3), b"\x03abcd"),
            Ok(b"\x03abc".to_vec()),
            "prefix restored"
        );
        assert_eq!(read(Read::LengthPrefixed(3), b"\x00abcd"), Ok(b"\x00".to_vec()));
        assert_eq!(read(Read::LengthPrefixed(3), b"\x04abcd"), Err(FileTooLarge));
        assert_eq!(read(Read::LengthPrefixed(3), b"\x03ab"), Err(UnexpectedEof));
        assert_eq!(
            read(Read::LengthPrefixed(3), b"\xff\xff\xff\xff\x01"),
            Err(InvalidData)
        );
        let long = [&[0xac, 0x02][..], &[7; 300]].concat();
        assert_eq!(read(Read::LengthPrefixed(300), &long), Ok(long.clone()));
        assert_eq!(read(Read::ToEnd(4), b"abcd"), Ok(b"abcd".to_vec()));
        assert_eq!(read(Read::ToEnd(3), b"abcd"), Err(FileTooLarge));
        assert_eq!(read(Read::ToEnd(3), b""), Ok(vec![]));
        assert_eq!(Read::ToEnd(usize::MAX).at_most(10), Read::ToEnd(10));
    }
}
