//! The one message of SOCKS4 and of its extension 4a, in which a host may be a name (the memoranda `SOCKS: A protocol
//! for TCP proxy across firewalls` and `SOCKS 4A`; neither is an RFC).
//!
//! The user id is not checked: it says which streams may share a session, as user and password do in SOCKS5.

use std::net::Ipv4Addr;

use mizzle_stream::{Isolation, Target, door::MAX_NAME_LEN};

use super::answer::Fault;
use super::proto::{Asked, Parsed, Step, Then, target};

/// Longest user id, as long as a user may be in SOCKS5.
const USER_ID_MAX: usize = 255;

/// Version (4), command, port, address, user id, zero; for an address 0.0.0.x, x not 0, also a name and zero.
pub(super) fn request(bytes: &[u8]) -> Parsed {
    let [_, command, rest @ ..] = bytes else {
        return Ok(None);
    };
    if *command != 1 {
        return Err(Fault::Command(*command));
    }
    let Some((&[p, q, a, b, c, d], rest)) = rest.split_first_chunk::<6>() else {
        return Ok(None);
    };
    let (ip, port) = (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p, q]));
    let Some((user, rest)) = terminated(rest, USER_ID_MAX, Fault::UserId)? else {
        return Ok(None);
    };
    let (target, rest) = if matches!(ip.octets(), [0, 0, 0, last] if last != 0) {
        let Some((name, rest)) = terminated(rest, MAX_NAME_LEN, Fault::Name)? else {
            return Ok(None);
        };
        (target(Asked::Name(name), port)?, rest)
    } else {
        (Target::ip(ip.into(), port), rest)
    };
    let isolation = if user.is_empty() {
        Isolation::Fresh
    } else {
        Isolation::shared(user.to_vec(), Vec::new())
    };
    Ok(Some(Step {
        taken: bytes.len() - rest.len(),
        then: Then::OpenIn(isolation, target),
    }))
}

/// A field, and what follows its zero.
type Split<'a> = (&'a [u8], &'a [u8]);

/// A field that ends with a zero; `None` until that is there.
fn terminated(bytes: &[u8], max: usize, too_long: Fault) -> Result<Option<Split<'_>>, Fault> {
    match bytes.iter().take(max + 1).position(|&b| b == 0) {
        Some(end) => Ok(Some((&bytes[..end], &bytes[end + 1..]))),
        None if bytes.len() > max => Err(too_long),
        None => Ok(None),
    }
}
