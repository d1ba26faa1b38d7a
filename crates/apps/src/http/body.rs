//! Where a body ends (RFC 9112, section 6) and the chunked coding (section 7.1), without sockets.
//!
//! A body is decoded and written anew with framing of our own, so that what we understood is all that can
//! be understood; chunk extensions end here, as they may.

use super::head::{Fields, Malformed, RequestHead, ResponseHead, Version, fields};

/// Longest line of a chunk's size with its extensions.
const SIZE_LINE_MAX: usize = 256;

/// Longest trailer section. With the longest size line this bounds what must be in memory to go on.
pub const TRAILERS_MAX: usize = 8 * 1024;

/// How a body shows its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// It has this many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// It lasts until the connection ends; only responses may.
    UntilClose,
}

/// How the body of a request ends.
///
/// # Errors
/// When that can be understood in two ways, or in none.
pub fn of_request(head: &RequestHead) -> Result<Framing, Malformed> {
    framing(head.version, &head.fields).map(|framing| framing.unwrap_or(Framing::Empty))
}

/// How the body of a response ends that answers a request with this method.
///
/// # Errors
/// When that can be understood in two ways, or in none.
pub fn of_response(head: &ResponseHead, method: &str) -> Result<Framing, Malformed> {
    let framing = framing(head.version, &head.fields)?;
    if method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok(Framing::Empty);
    }
    Ok(framing.unwrap_or(Framing::UntilClose))
}

fn framing(version: Version, fields: &Fields) -> Result<Option<Framing>, Malformed> {
    let mut codings = fields.all("Transfer-Encoding").peekable();
    let mut lengths = fields.all("Content-Length");
    if codings.peek().is_some() {
        if version == Version::Http10 || lengths.next().is_some() {
            return Err(Malformed::TwoLengths);
        }
        let only = codings.next().filter(|_| codings.next().is_none());
        return match only {
            Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
            _ => Err(Malformed::Coding),
        };
    }
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(length), None) => Ok(Some(Framing::Length(decimal(length)?))),
        // Equal ones could pass for one, but a reader who takes the first of "5, 5, 6" is too near.
        (Some(_), Some(_)) => Err(Malformed::Length),
    }
}

fn decimal(digits: &[u8]) -> Result<u64, Malformed> {
    // 19 digits fit into a u64. Without the check `parse` would take a sign.
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Length);
    }
    str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(Malformed::Length)
}

/// What is at the start of the bytes that [`Decoder::step`] was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes must come to tell.
    More,
    /// So many bytes of framing: pass them over.
    Framing(usize),
    /// So many bytes of the body, one at least.
    Data(usize),
    /// The body has ended; these are its trailers. Bytes that follow belong to something else.
    End(Fields),
}

/// Finds a body's data among the bytes of a connection.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Length(u64),
    UntilClose,
    /// Before a chunk's size.
    Size,
    /// So much of a chunk is to come.
    Chunk(u64),
    /// Before the CRLF after a chunk.
    ChunkEnd,
    /// Before the trailers, which may be none, and the empty line.
    Trailers,
    Ended(Fields),
}

impl Decoder {
    /// At the start of a body.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            state: match framing {
                Framing::Empty => State::Ended(Fields::default()),
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::Size,
                Framing::UntilClose => State::UntilClose,
            },
        }
    }

    /// What `bytes` begin with. The bytes that a step speaks of must not be shown again.
    ///
    /// # Errors
    /// The chunks are damaged, or the trailers are.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let left = match &mut self.state {
            State::Ended(trailers) => return Ok(Step::End(trailers.clone())),
            State::Length(0) => return Ok(Step::End(Fields::default())),
            State::Length(left) | State::Chunk(left) => left,
            State::UntilClose => return Ok(data(bytes.len())),
            State::Size => return self.size(bytes),
            State::ChunkEnd => {
                return match *bytes {
                    [b'\r', b'\n', ..] => {
                        self.state = State::Size;
                        Ok(Step::Framing(2))
                    }
                    [] | [b'\r'] => Ok(Step::More),
                    _ => Err(Malformed::Chunk),
                };
            }
            State::Trailers => return self.trailers(bytes),
        };
        let len = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
        *left -= len as u64;
        if matches!(self.state, State::Chunk(0)) {
            self.state = State::ChunkEnd;
        }
        Ok(data(len))
    }

    /// Whether the body is whole if the connection ends here.
    #[must_use]
    pub fn may_end(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Length(0) | State::Ended(_))
    }

    /// A size in up to 16 hexadecimal digits, perhaps extensions, CRLF.
    fn size(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let window = bytes.get(..SIZE_LINE_MAX).unwrap_or(bytes);
        let digits = window.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if digits > 16 || (digits == 0 && !window.is_empty()) {
            return Err(Malformed::Chunk);
        }
        let after = &window[digits..];
        if !matches!(after.first(), None | Some(b'\r' | b';' | b' ' | b'\t')) {
            return Err(Malformed::Chunk);
        }
        let Some(end) = after.iter().position(|&b| b != b'\t' && (b < b' ' || b == 0x7f)) else {
            return if bytes.len() < SIZE_LINE_MAX {
                Ok(Step::More)
            } else {
                Err(Malformed::Chunk)
            };
        };
        match after[end..] {
            [b'\r', b'\n', ..] => {}
            [b'\r'] if bytes.len() < SIZE_LINE_MAX => return Ok(Step::More),
            _ => return Err(Malformed::Chunk),
        }
        // White space alone may follow a size, as old servers pad it; anything else is an extension.
        if !matches!(after[..end].trim_ascii().first(), None | Some(b';')) {
            return Err(Malformed::Chunk);
        }
        let size = str::from_utf8(&window[..digits])
            .ok()
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .ok_or(Malformed::Chunk)?;
        self.state = if size == 0 {
            State::Trailers
        } else {
            State::Chunk(size)
        };
        Ok(Step::Framing(digits + end + 2))
    }

    fn trailers(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let window = bytes.get(..TRAILERS_MAX).unwrap_or(bytes);
        let len = if window.starts_with(b"\r\n") {
            2
        } else if let Some(at) = window.windows(4).position(|four| four == b"\r\n\r\n") {
            at + 4
        } else if bytes.len() < TRAILERS_MAX {
            return Ok(Step::More);
        } else {
            return Err(Malformed::TooLong);
        };
        self.state = State::Ended(fields(&window[..len], false)?);
        Ok(Step::Framing(len))
    }
}

fn data(len: usize) -> Step {
    if len == 0 { Step::More } else { Step::Data(len) }
}

/// Appends what stands before a chunk of this many bytes, which must not be 0; CRLF stands behind it.
pub fn write_chunk_size(len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{len:x}\r\n").as_bytes());
}

/// Appends the end of a chunked body with these trailers.
pub fn write_last_chunk(trailers: &Fields, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    trailers.write(out);
    out.extend_from_slice(b"\r\n");
}
