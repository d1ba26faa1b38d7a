//! As much of protocol buffers as records and gossip need: varints, and fields of bytes.

/// An unsigned varint.
pub(crate) fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(2);
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// A field of bytes, text or a message.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    out.extend(varint(bytes.len() as u64));
    out.extend_from_slice(bytes);
}

/// A field with a number.
pub(super) fn put_number(out: &mut Vec<u8>, field: u8, n: u64) {
    out.push(field << 3);
    out.extend(varint(n));
}

/// What a field holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Its number, its value, and what is behind it.
type Field<'a> = (u64, Value<'a>, &'a [u8]);

/// The next field; `None` at the end, and an error for what is no message.
pub(crate) fn next_field(bytes: &[u8]) -> Result<Option<Field<'_>>, ()> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (tag, rest) = take_varint(bytes)?;
    let (value, rest) = match tag & 7 {
        0 => take_varint(rest).map(|(n, rest)| (Value::Number(n), rest))?,
        1 => (Value::Bytes(rest.get(..8).ok_or(())?), &rest[8..]),
        2 => {
            let (len, rest) = take_varint(rest)?;
            let len = usize::try_from(len).map_err(|_| ())?;
            (Value::Bytes(rest.get(..len).ok_or(())?), &rest[len..])
        }
        5 => (Value::Bytes(rest.get(..4).ok_or(())?), &rest[4..]),
        _ => return Err(()),
    };
    Ok(Some((tag >> 3, value, rest)))
}

fn take_varint(bytes: &[u8]) -> Result<(u64, &[u8]), ()> {
    let mut n = 0_u64;
    for (at, &byte) in bytes.iter().enumerate().take(10) {
        n |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((n, &bytes[at + 1..]));
        }
    }
    Err(())
}
