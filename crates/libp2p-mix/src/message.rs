//! What a packet's 3968 bytes say to its last hop: a codec, the SURBs for the answer, a body; and what a reply says.
//!
//! ```text
//! message = padding mix-message                    the padding is the dialect's
//! request = length(1) codec  n(1) SURB(734) * n  body
//! cover   = length(1) "/mix/cover/1.0.0"  anything
//! reply   = 0  body                                nothing behind the 0: the exit failed
//! ```
//!
//! The length of a codec is an LEB128 number, of which running nodes read one byte only: so 127 bytes at most.

use libp2p::StreamProtocol;
use mizzle_sphinx::{Dialect, MESSAGE_LEN, SURB_WITH_ADDRESS_LEN, max_body_len, pad, pad_legacy, unpad};

/// The most SURBs that a message has room for.
pub const MAX_SURBS: usize = 5;
/// The longest codec, in bytes.
pub const MAX_CODEC_LEN: usize = 127;
/// The codec of cover traffic: its last hop throws the message away.
pub const COVER_CODEC: &str = "/mix/cover/1.0.0";

/// The bytes of a SURB in a message: address block of its first hop, header, reply key.
pub type SurbBytes = [u8; SURB_WITH_ADDRESS_LEN];

/// A message that the last hop understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Cover traffic.
    Cover,
    /// Something for a protocol.
    Request(Request<'a>),
}

/// Something for a protocol of the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Which.
    pub codec: &'a str,
    /// By which to answer; at most five.
    pub surbs: Vec<&'a SurbBytes>,
    /// What to write to it.
    pub body: &'a [u8],
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The destination's answer.
    Body(&'a [u8]),
    /// The exit says that it could get none.
    Empty,
}

/// Why bytes are no message. For counters; no peer learns of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum BadMessage {
    /// The padding is longer than the message.
    #[error("the padding is longer than the message")]
    Padding,
    /// The codec's length runs over the end, is above 127 bytes or zero, or it isn't text.
    #[error("the codec is missing, too long or no text")]
    Codec,
    /// More than five SURBs, or fewer bytes than they have.
    #[error("the SURBs are more than the message holds")]
    Surbs,
}

impl BadMessage {
    /// One word for a counter's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Padding => "padding",
            Self::Codec => "codec",
            Self::Surbs => "surbs",
        }
    }
}

/// Why a message cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum CannotEncode {
    /// The codec has more than 127 bytes, or none.
    #[error("a codec has 1 to {MAX_CODEC_LEN} bytes, this one {0}")]
    Codec(usize),
    /// More than five SURBs.
    #[error("a message has room for {MAX_SURBS} SURBs, not {0}")]
    Surbs(usize),
    /// The body doesn't fit. Nothing is split here: that is the application's.
    #[error("a body of {len} bytes does not fit: with this codec and these SURBs a message holds {max}")]
    TooLong {
        /// Of the body, in bytes.
        len: usize,
        /// The longest that would fit.
        max: usize,
    },
}

/// The longest body of a request, in bytes; `None` if codec and SURBs leave no room or are not allowed.
#[must_use]
pub fn max_request_len(dialect: Dialect, codec: &str, surbs: usize) -> Option<usize> {
    if codec.is_empty() || codec.len() > MAX_CODEC_LEN || surbs > MAX_SURBS {
        return None;
    }
    max_body_len(dialect).checked_sub(1 + codec.len() + 1 + surbs * SURB_WITH_ADDRESS_LEN)
}

/// The longest body of a reply, in bytes.
#[must_use]
pub const fn max_reply_len(dialect: Dialect) -> usize {
    max_body_len(dialect) - 1
}

/// Writes a request, padded. `sequence` stands at the end of a legacy message, where nobody reads it; make it random: the
/// sum that the specification asks for there would tell an exit who sent.
///
/// # Errors
/// [`CannotEncode`]; `out` is then as it was.
pub fn encode_request(
    dialect: Dialect,
    codec: &StreamProtocol,
    surbs: &[SurbBytes],
    body: &[u8],
    sequence: u32,
    out: &mut [u8; MESSAGE_LEN],
) -> Result<(), CannotEncode> {
    let codec = codec.as_ref();
    if codec.is_empty() || codec.len() > MAX_CODEC_LEN {
        return Err(CannotEncode::Codec(codec.len()));
    }
    if surbs.len() > MAX_SURBS {
        return Err(CannotEncode::Surbs(surbs.len()));
    }
    let too_long = |max| CannotEncode::TooLong { len: body.len(), max };
    let max = max_request_len(dialect, codec, surbs.len()).ok_or_else(|| too_long(0))?;
    if body.len() > max {
        return Err(too_long(max));
    }
    let mut message = Vec::with_capacity(MESSAGE_LEN);
    // At most 127 and 5: one byte each.
    message.push(codec.len() as u8);
    message.extend_from_slice(codec.as_bytes());
    message.push(surbs.len() as u8);
    surbs.iter().for_each(|surb| message.extend_from_slice(surb));
    message.extend_from_slice(body);
    put(dialect, &message, sequence, out).map_err(|_| too_long(max))
}

/// Writes a cover message, padded: `filler` is cut to what fits.
pub fn encode_cover(dialect: Dialect, filler: &[u8], sequence: u32, out: &mut [u8; MESSAGE_LEN]) {
    let mut message = Vec::with_capacity(MESSAGE_LEN);
    message.push(COVER_CODEC.len() as u8);
    message.extend_from_slice(COVER_CODEC.as_bytes());
    let room = max_body_len(dialect) - message.len();
    message.extend_from_slice(&filler[..filler.len().min(room)]);
    // It was made to fit.
    let _ = put(dialect, &message, sequence, out);
}

/// Writes a reply, padded. An empty body is how an exit says that it failed.
///
/// # Errors
/// [`CannotEncode::TooLong`]; `out` is then as it was.
pub fn encode_reply(
    dialect: Dialect,
    body: &[u8],
    sequence: u32,
    out: &mut [u8; MESSAGE_LEN],
) -> Result<(), CannotEncode> {
    let mut message = Vec::with_capacity(1 + body.len());
    message.push(0);
    message.extend_from_slice(body);
    put(dialect, &message, sequence, out).map_err(|_| CannotEncode::TooLong {
        len: body.len(),
        max: max_reply_len(dialect),
    })
}

fn put(
    dialect: Dialect,
    message: &[u8],
    sequence: u32,
    out: &mut [u8; MESSAGE_LEN],
) -> Result<(), mizzle_sphinx::TooLong> {
    match dialect {
        Dialect::Lioness => pad(dialect, message, out),
        Dialect::LegacyCtr => pad_legacy(message, sequence, out),
    }
}

/// Reads the message of a packet at its last hop.
///
/// # Errors
/// [`BadMessage`].
pub fn decode(dialect: Dialect, message: &[u8; MESSAGE_LEN]) -> Result<Message<'_>, BadMessage> {
    let message = unpad(dialect, message).map_err(|_| BadMessage::Padding)?;
    let (&len, rest) = message.split_first().ok_or(BadMessage::Codec)?;
    let len = usize::from(len);
    if len == 0 || len > MAX_CODEC_LEN || len > rest.len() {
        return Err(BadMessage::Codec);
    }
    let (codec, rest) = rest.split_at(len);
    let codec = std::str::from_utf8(codec).map_err(|_| BadMessage::Codec)?;
    if codec == COVER_CODEC {
        return Ok(Message::Cover);
    }
    let (&n, mut rest) = rest.split_first().ok_or(BadMessage::Surbs)?;
    if usize::from(n) > MAX_SURBS {
        return Err(BadMessage::Surbs);
    }
    let mut surbs = Vec::with_capacity(n.into());
    for _ in 0..n {
        let (surb, behind) = rest.split_first_chunk().ok_or(BadMessage::Surbs)?;
        surbs.push(surb);
        rest = behind;
    }
    Ok(Message::Request(Request {
        codec,
        surbs,
        body: rest,
    }))
}

/// Reads a reply as it was recovered.
///
/// # Errors
/// [`BadMessage`]: whoever had the SURB sent something else with it.
pub fn decode_reply(dialect: Dialect, message: &[u8; MESSAGE_LEN]) -> Result<Reply<'_>, BadMessage> {
    match unpad(dialect, message).map_err(|_| BadMessage::Padding)? {
        [0] => Ok(Reply::Empty),
        [0, body @ ..] => Ok(Reply::Body(body)),
        _ => Err(BadMessage::Codec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Dialect; 2] = [Dialect::Lioness, Dialect::LegacyCtr];

    #[test]
    fn requests_and_replies_of_all_sizes_come_back() {
        let codec = StreamProtocol::new("/ipfs/ping/1.0.0");
        for dialect in BOTH {
            for n in 0..=MAX_SURBS {
                let surbs: Vec<SurbBytes> = (0..n).map(|i| [i as u8 + 1; SURB_WITH_ADDRESS_LEN]).collect();
                let max = max_request_len(dialect, codec.as_ref(), n).unwrap();
                if (dialect, n) == (Dialect::Lioness, 1) {
                    assert_eq!(max, 3214, "the figure of the protocol's description");
                }
                for len in [0, 1, max.min(32), max] {
                    let body = vec![0xab; len];
                    let mut out = [0x77; MESSAGE_LEN];
                    encode_request(dialect, &codec, &surbs, &body, 9, &mut out).unwrap();
                    let Ok(Message::Request(request)) = decode(dialect, &out) else {
                        panic!()
                    };
                    assert_eq!((request.codec, request.body), (codec.as_ref(), &body[..]));
                    assert!(request.surbs.iter().copied().eq(&surbs));
                }
                assert_eq!(
                    encode_request(
                        dialect,
                        &codec,
                        &surbs,
                        &vec![0; max + 1],
                        0,
                        &mut [0; MESSAGE_LEN]
                    ),
                    Err(CannotEncode::TooLong { len: max + 1, max })
                );
            }
            let mut out = [0; MESSAGE_LEN];
            for len in [1, 2, max_reply_len(dialect)] {
                encode_reply(dialect, &vec![0; len], 0, &mut out).unwrap();
                assert_eq!(decode_reply(dialect, &out), Ok(Reply::Body(&vec![0; len])));
            }
            encode_reply(dialect, &[], 0, &mut out).unwrap();
            assert_eq!(decode_reply(dialect, &out), Ok(Reply::Empty));
            encode_cover(dialect, &[1; MESSAGE_LEN], 0, &mut out);
            assert_eq!(decode(dialect, &out), Ok(Message::Cover));
        }
    }

    #[test]
    fn messages_that_lie_about_their_lengths_are_refused() {
        let dialect = Dialect::Lioness;
        let check = |bytes: &[u8]| {
            let mut out = [0; MESSAGE_LEN];
            pad(dialect, bytes, &mut out).unwrap();
            decode(dialect, &out).map(|_| ()).unwrap_err()
        };
        assert_eq!(check(&[]), BadMessage::Codec);
        assert_eq!(check(&[0]), BadMessage::Codec);
        assert_eq!(check(&[0, 1, 2]), BadMessage::Codec);
        assert_eq!(check(&[3, b'/', b'a']), BadMessage::Codec);
        assert_eq!(check(&[2, 0xff, 0xfe, 0]), BadMessage::Codec, "no text");
        assert_eq!(
            check(&[&[0x80, 0x01][..], &[b'a'; 128], &[0]].concat()),
            BadMessage::Codec,
            "128 bytes"
        );
        assert_eq!(check(&[2, b'/', b'a']), BadMessage::Surbs, "no count");
        assert_eq!(check(&[2, b'/', b'a', 6]), BadMessage::Surbs);
        assert_eq!(
            check(&[&[2, b'/', b'a', 1][..], &[0; 733]].concat()),
            BadMessage::Surbs
        );
        assert_eq!(decode(dialect, &[0xff; MESSAGE_LEN]), Err(BadMessage::Padding));
        assert_eq!(
            decode_reply(dialect, &[0xff; MESSAGE_LEN]),
            Err(BadMessage::Padding)
        );
        let mut out = [0; MESSAGE_LEN];
        pad(dialect, &[1, b'x', 5], &mut out).unwrap();
        assert_eq!(decode_reply(dialect, &out), Err(BadMessage::Codec));
    }

    #[test]
    fn what_cannot_be_sent_is_said_before() {
        let long = StreamProtocol::try_from_owned(format!("/{}", "a".repeat(127))).unwrap();
        let out = &mut [0; MESSAGE_LEN];
        assert_eq!(
            encode_request(Dialect::Lioness, &long, &[], &[], 0, out),
            Err(CannotEncode::Codec(128))
        );
        let codec = StreamProtocol::new("/a");
        let surbs = [[0; SURB_WITH_ADDRESS_LEN]; 6];
        assert_eq!(
            encode_request(Dialect::Lioness, &codec, &surbs, &[], 0, out),
            Err(CannotEncode::Surbs(6))
        );
    }
}
