//! Hexadecimal, as the network document and the command line write keys and ids.

use core::fmt;

/// Writes `bytes` in lower case.
///
/// # Errors
/// Those of the formatter.
pub fn write(bytes: &[u8], f: &mut impl fmt::Write) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// Bytes in lower case.
#[must_use]
pub fn encode(bytes: &[u8]) -> alloc::string::String {
    let mut text = alloc::string::String::with_capacity(bytes.len() * 2);
    // Writing to a `String` can't fail.
    let _ = write(bytes, &mut text);
    text
}

/// Exactly `N` bytes from `2 N` digits of either case.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(out)
}
