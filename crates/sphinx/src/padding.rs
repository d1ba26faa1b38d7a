//! A body of any length in a message of one length: a length field, zeros, the body.
//!
//! As the Nim implementation does it: the field counts the zeros, and the body stands at the end. The legacy
//! dialect has a sequence number behind the body that no receiver reads.

use crate::layout::{MAX_BODY_LEN, MAX_BODY_LEN_LEGACY, MESSAGE_LEN, PAD_FIELD_LEN, SEQ_LEN};
use crate::payload::Dialect;

/// A body does not fit into one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a body of {len} bytes does not fit into a message that holds {max}")]
pub struct TooLong {
    /// The length of the body.
    pub len: usize,
    /// The longest body of this dialect.
    pub max: usize,
}

/// The length field of a message claims more zeros than a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the padding of a message is longer than the message")]
pub struct BadPadding;

/// The longest body of a message, in bytes.
#[must_use]
pub const fn max_body_len(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Lioness => MAX_BODY_LEN,
        Dialect::LegacyCtr => MAX_BODY_LEN_LEGACY,
    }
}

/// Fills a message with a body and its padding. In the legacy dialect the sequence number is zero, see
/// [`pad_legacy`].
///
/// # Errors
/// [`TooLong`] above [`max_body_len`]; the message is then as it was.
pub fn pad(dialect: Dialect, body: &[u8], message: &mut [u8; MESSAGE_LEN]) -> Result<(), TooLong> {
    match dialect {
        Dialect::LegacyCtr => pad_legacy(body, 0, message),
        Dialect::Lioness => {
            check(body, dialect)?;
            pad_in_place(body.len(), message).copy_from_slice(body);
            Ok(())
        }
    }
}

/// Fills a message of the legacy dialect with a body, its padding and a sequence number.
///
/// # Errors
/// [`TooLong`] above [`MAX_BODY_LEN_LEGACY`]; the message is then as it was.
pub fn pad_legacy(body: &[u8], seq_no: u32, message: &mut [u8; MESSAGE_LEN]) -> Result<(), TooLong> {
    check(body, Dialect::LegacyCtr)?;
    let (front, seq) = message.split_at_mut(MESSAGE_LEN - SEQ_LEN);
    write_padding(front, body.len()).copy_from_slice(body);
    seq.copy_from_slice(&seq_no.to_be_bytes());
    Ok(())
}

/// Pads for a body of `len` bytes in [`Dialect::Lioness`] and returns the place where the caller writes it, so that
/// it is copied nowhere else. A `len` above [`MAX_BODY_LEN`] counts as [`MAX_BODY_LEN`]. The place keeps the bytes it
/// had.
#[must_use]
pub fn pad_in_place(len: usize, message: &mut [u8; MESSAGE_LEN]) -> &mut [u8] {
    write_padding(message, len.min(MAX_BODY_LEN))
}

/// The body of a message. The zeros are not looked at: the payload check has spoken for all of it.
///
/// # Errors
/// [`BadPadding`] for a length field above [`max_body_len`].
pub fn unpad(dialect: Dialect, message: &[u8; MESSAGE_LEN]) -> Result<&[u8], BadPadding> {
    let body_end = PAD_FIELD_LEN + max_body_len(dialect);
    let zeros = usize::from(u16::from_be_bytes([message[0], message[1]]));
    message.get(PAD_FIELD_LEN + zeros..body_end).ok_or(BadPadding)
}

fn check(body: &[u8], dialect: Dialect) -> Result<(), TooLong> {
    let max = max_body_len(dialect);
    if body.len() > max {
        Err(TooLong { len: body.len(), max })
    } else {
        Ok(())
    }
}

/// Writes the length field and the zeros; `len` is at most what `front` holds behind the field.
fn write_padding(front: &mut [u8], len: usize) -> &mut [u8] {
    let zeros = front.len() - PAD_FIELD_LEN - len;
    // A message has fewer bytes than 16 bits count.
    let field = (zeros as u16).to_be_bytes();
    front[..PAD_FIELD_LEN].copy_from_slice(&field);
    front[PAD_FIELD_LEN..PAD_FIELD_LEN + zeros].fill(0);
    &mut front[PAD_FIELD_LEN + zeros..]
}
