//! Heads of HTTP/1 messages (RFC 9112, sections 2 to 5): a first line and fields, read from bytes as strictly as the
//! grammar allows and written again as they came, in their case and order.
//!
//! Strict, because whatever two readers of one message understand differently can hide a second message in it:
//! a line ends with CRLF and nothing else, names are tokens, values hold no control characters, and no field
//! goes on in the next line. What fields mean is left to [`forward`](super::forward) and [`body`](super::body).

use std::fmt;

/// Longest head: first line, fields, empty line. Servers commonly take 8 to 32 KiB.
pub const HEAD_MAX: usize = 32 * 1024;

/// Most fields of a head or of trailers.
pub const FIELDS_MAX: usize = 128;

/// Why bytes are no message of HTTP/1, or one that can be understood in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The first line isn't one.
    #[error("the first line is none of HTTP/1.0 or HTTP/1.1")]
    FirstLine,
    /// The first line names a version other than 1.x.
    #[error("the message is of a version of HTTP other than 1.0 and 1.1")]
    Version,
    /// A carriage return without a line feed, or the other way round.
    #[error("a line ends with something else than CR LF")]
    LineEnd,
    /// A name of a field isn't a token, or no colon follows it.
    #[error("a line among the header fields has no valid name")]
    FieldName,
    /// A value has a control character.
    #[error("the value of a header field has a control character")]
    FieldValue,
    /// A field that goes on in the next line.
    #[error("a header field goes on in a second line")]
    Folded,
    /// Longer than [`HEAD_MAX`].
    #[error("the header is longer than {HEAD_MAX} bytes")]
    TooLong,
    /// More than [`FIELDS_MAX`] fields.
    #[error("there are more than {FIELDS_MAX} header fields")]
    TooMany,
    /// `Content-Length` that isn't one number, or is there twice.
    #[error("Content-Length is not one number")]
    Length,
    /// `Transfer-Encoding` with `Content-Length`, in HTTP/1.0, or where no body can be.
    #[error("Transfer-Encoding stands beside Content-Length, in HTTP/1.0, or where it can't be")]
    TwoLengths,
    /// A transfer coding other than `chunked`.
    #[error("the body has a transfer coding other than chunked")]
    Coding,
    /// A chunk's size or end isn't where it must be.
    #[error("the chunks of the body are damaged")]
    Chunk,
    /// More than one `Host`.
    #[error("there is more than one Host field")]
    Host,
}

/// A message's version; 1.2 and later count as 1.1 (RFC 9110, section 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A header field or a trailer field.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    /// A token, in the case that it came in.
    pub name: Box<str>,
    /// Without the white space around it. Any bytes but control characters; tabs may be inside.
    pub value: Box<[u8]>,
}

/// Fields in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<Field>);

/// A request's head. `Debug` hides where it goes and what it says.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// A token; methods differ in their case.
    pub method: Box<str>,
    /// The request target, of any form: bytes without space and control characters.
    pub target: Box<[u8]>,
    /// Its version.
    pub version: Version,
    /// Its fields.
    pub fields: Fields,
}

/// A response's head. `Debug` hides what it says.
#[derive(Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// Its version.
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    /// May be empty.
    pub reason: Box<[u8]>,
    /// Its fields.
    pub fields: Fields,
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ..", self.name)
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestHead({:?})", self.version)
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseHead({:?}, {})", self.version, self.status)
    }
}

impl Fields {
    /// The values of all fields of this name, in any case.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| &*field.value)
    }

    /// The members of the comma-separated lists of all fields of this name, without empty ones.
    pub fn members(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.all(name)
            .flat_map(|value| value.split(|&b| b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }

    /// Whether a list of this name has this member, in any case.
    #[must_use]
    pub fn lists(&self, name: &str, member: &str) -> bool {
        self.members(name)
            .any(|one| one.eq_ignore_ascii_case(member.as_bytes()))
    }

    /// Appends them as lines, without the empty one that ends a head.
    pub fn write(&self, out: &mut Vec<u8>) {
        for Field { name, value } in &self.0 {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Finds where a head ends, over the same bytes again and again as they grow, and looks at each byte once.
#[derive(Clone, Debug, Default)]
pub struct HeadEnd {
    seen: usize,
}

impl HeadEnd {
    /// Length of the head at the start of `bytes`, empty line included; `None` until it is complete.
    ///
    /// # Errors
    /// [`Malformed::TooLong`], and [`Malformed::LineEnd`] as soon as one shows.
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let window = bytes.get(..HEAD_MAX).unwrap_or(bytes);
        while let Some(&byte) = window.get(self.seen) {
            let before = |n: usize| self.seen.checked_sub(n).and_then(|at| window.get(at));
            match (before(1), byte) {
                (Some(b'\r'), b'\n') => {
                    let ended = before(2) == Some(&b'\n') && before(3) == Some(&b'\r');
                    self.seen += 1;
                    // A head that begins with its empty line has no first line: that is the line's parser to say.
                    if ended || self.seen == 2 {
                        return Ok(Some(self.seen));
                    }
                }
                (Some(b'\r'), _) | (_, b'\n') => return Err(Malformed::LineEnd),
                _ => self.seen += 1,
            }
        }
        if self.seen < HEAD_MAX {
            Ok(None)
        } else {
            Err(Malformed::TooLong)
        }
    }
}

/// Reads a whole head of a request, as [`HeadEnd`] has found it.
///
/// # Errors
/// What is wrong with it.
pub fn request(head: &[u8]) -> Result<RequestHead, Malformed> {
    let (line, rest) = split_line(head)?;
    let mut words = line.split(|&b| b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed::FirstLine);
    };
    // Bytes beyond ASCII have no place here either, but programs send them and servers take them.
    if target.is_empty() || !target.iter().all(|&b| b > b' ' && b != 0x7f) {
        return Err(Malformed::FirstLine);
    }
    Ok(RequestHead {
        method: token(method).ok_or(Malformed::FirstLine)?,
        target: target.into(),
        version: self::version(version)?,
        fields: fields(rest, false)?,
    })
}

/// Reads a whole head of a response, as [`HeadEnd`] has found it.
///
/// White space between a field's name and the colon, which makes a request bad, is removed (RFC 9112, section 5.1).
///
/// # Errors
/// What is wrong with it.
pub fn response(head: &[u8]) -> Result<ResponseHead, Malformed> {
    let (line, rest) = split_line(head)?;
    let mut words = line.splitn(3, |&b| b == b' ');
    let version = version(words.next().unwrap_or_default())?;
    let status = match words.next() {
        Some(&[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']) => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(Malformed::FirstLine),
    };
    // Many servers leave out the space before an empty reason.
    let reason = words.next().unwrap_or_default();
    if !reason.iter().all(|&b| is_text(b)) {
        return Err(Malformed::FirstLine);
    }
    Ok(ResponseHead {
        version,
        status,
        reason: reason.into(),
        fields: fields(rest, true)?,
    })
}

/// Reads lines of fields up to the empty line, which must be the last.
///
/// # Errors
/// What is wrong with them.
pub fn fields(lines: &[u8], space_before_colon: bool) -> Result<Fields, Malformed> {
    let mut fields = Vec::new();
    let mut rest = lines;
    loop {
        let (line, after) = split_line(rest)?;
        rest = after;
        if line.is_empty() {
            return if rest.is_empty() {
                Ok(Fields(fields))
            } else {
                Err(Malformed::LineEnd)
            };
        }
        if fields.len() == FIELDS_MAX {
            return Err(Malformed::TooMany);
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Malformed::Folded);
        }
        let colon = line.iter().position(|&b| b == b':').ok_or(Malformed::FieldName)?;
        let (mut name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if space_before_colon {
            name = name.trim_ascii_end();
        }
        if !value.iter().all(|&b| is_text(b)) {
            return Err(Malformed::FieldValue);
        }
        fields.push(Field {
            name: token(name).ok_or(Malformed::FieldName)?,
            value: value.into(),
        });
    }
}

/// Whether a token may have this byte (RFC 9110, section 5.6.2).
#[must_use]
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn token(bytes: &[u8]) -> Option<Box<str>> {
    let good = !bytes.is_empty() && bytes.iter().copied().all(is_token_byte);
    good.then(|| str::from_utf8(bytes).ok())?.map(Into::into)
}

fn version(bytes: &[u8]) -> Result<Version, Malformed> {
    match bytes {
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Ok(Version::Http11),
        other if other.starts_with(b"HTTP/") => Err(Malformed::Version),
        _ => Err(Malformed::FirstLine),
    }
}

fn split_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = bytes
        .iter()
        .position(|&b| matches!(b, b'\r' | b'\n'))
        .ok_or(Malformed::LineEnd)?;
    match bytes[end..] {
        [b'\r', b'\n', ref rest @ ..] => Ok((&bytes[..end], rest)),
        _ => Err(Malformed::LineEnd),
    }
}
