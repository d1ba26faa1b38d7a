//! What a request asks of a proxy, and how requests and responses change on their way through one, without sockets
//! (RFC 9112, section 3.2, RFC 9110, section 7.6).
//!
//! Nothing is added that tells of a proxy: no `Via`, no `Forwarded`, no date. What is taken away belongs to the
//! connection with the program or was meant for the proxy.

use std::net::{Ipv4Addr, Ipv6Addr};

use data_encoding::BASE64;
use mizzle_stream::{Isolation, Target};

use super::body::Framing;
use super::head::{Field, Fields, Malformed, RequestHead, ResponseHead, Version};
use super::refusal::Refusal;

/// Fields of one connection only, or between a program and its proxy. What `Connection` names comes to them.
const OF_ONE_HOP: [&str; 9] = [
    "Connection",
    "Proxy-Connection",
    "Keep-Alive",
    "Proxy-Authorization",
    // An origin that asks for the proxy's password is up to no good: this proxy asks by itself.
    "Proxy-Authenticate",
    "Proxy-Authentication-Info",
    "TE",
    "Trailer",
    "Upgrade",
];

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A tunnel to this target.
    Connect(Target),
    /// That the request goes on to an HTTP server.
    Forward(Forward),
}

/// Where a request goes on to, and what is left of its address.
#[derive(Clone, PartialEq, Eq)]
pub struct Forward {
    /// The server.
    pub target: Target,
    /// Host and port as the address has them: the value of `Host`.
    pub authority: Box<str>,
    /// Path and query, or `*`.
    pub path: Box<[u8]>,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Forward({:?})", self.target)
    }
}

/// Understands a request.
///
/// # Errors
/// Why it is refused.
pub fn asked(head: &RequestHead) -> Result<Asked, Refusal> {
    if head.fields.all("Host").count() > 1 {
        return Err(Malformed::Host.into());
    }
    if &*head.method == "CONNECT" {
        return authority(&head.target, None).map(Asked::Connect);
    }
    // `*` and paths are for whoever takes the port for a web server.
    if matches!(head.target.first(), Some(b'/' | b'*')) {
        return Err(Refusal::NoProxyRequest);
    }
    let (scheme, rest) = split_scheme(&head.target).ok_or(Refusal::NoProxyRequest)?;
    if scheme.eq_ignore_ascii_case(b"https") || scheme.eq_ignore_ascii_case(b"wss") {
        return Err(Refusal::Https);
    }
    if !scheme.eq_ignore_ascii_case(b"http") {
        return Err(Refusal::Scheme);
    }
    if head.fields.lists("Upgrade", "websocket") {
        return Err(Refusal::WebSocket);
    }
    if may_be_counted(&head.method) && head.fields.all("Max-Forwards").any(|left| left == b"0") {
        return Err(Refusal::LastHop);
    }
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    let (place, path) = rest.split_at(end);
    if path.contains(&b'#') {
        return Err(Refusal::Address);
    }
    let target = authority(place, Some(80))?;
    let path: Box<[u8]> = match path.first() {
        None if &*head.method == "OPTIONS" => b"*"[..].into(),
        None => b"/"[..].into(),
        Some(b'/') => path.into(),
        Some(_) => [b"/", path].concat().into(),
    };
    Ok(Asked::Forward(Forward {
        target,
        // `authority` has found nothing but ASCII.
        authority: String::from_utf8_lossy(place).into(),
        path,
    }))
}

fn split_scheme(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = target.iter().position(|&b| b == b':')?;
    let rest = target[colon..].strip_prefix(b"://")?;
    Some((&target[..colon], rest))
}

/// `host:port`, `[v6]:port`, and both without a port if there is one that goes without saying.
fn authority(place: &[u8], default_port: Option<u16>) -> Result<Target, Refusal> {
    let place = str::from_utf8(place).map_err(|_| Refusal::Address)?;
    if place.contains('@') {
        return Err(Refusal::UserInAddress);
    }
    let (host, port) = if place.starts_with('[') {
        let end = place.find(']').ok_or(Refusal::Address)?;
        place.split_at(end + 1)
    } else {
        place.split_at(place.find(':').unwrap_or(place.len()))
    };
    let port = match (port, default_port) {
        ("" | ":", Some(port)) => port,
        (port, _) => {
            let digits = port.strip_prefix(':').ok_or(Refusal::Address)?;
            // `parse` alone would take a sign.
            if !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(Refusal::Address);
            }
            digits.parse().map_err(|_| Refusal::Address)?
        }
    };
    if let Some(inner) = host.strip_prefix('[') {
        let ip: Result<Ipv6Addr, _> = inner.trim_end_matches(']').parse();
        return Ok(Target::ip(ip.map_err(|_| Refusal::Address)?.into(), port));
    }
    match host.parse::<Ipv4Addr>() {
        Ok(ip) => Ok(Target::ip(ip.into(), port)),
        Err(_) => Target::name(host, port).map_err(|_| Refusal::Address),
    }
}

/// With whom the request's stream may share a session: user and password of `Proxy-Authorization` say so, and
/// are not checked. None, or both empty, ask for no sharing.
///
/// # Errors
/// They are there and can't be understood: to go on without would be another isolation than was meant.
pub fn isolation(fields: &Fields) -> Result<Isolation, Refusal> {
    let mut all = fields.all("Proxy-Authorization");
    let credentials = match (all.next(), all.next()) {
        (None, _) => return Ok(Isolation::Fresh),
        (Some(credentials), None) => credentials,
        (Some(_), Some(_)) => return Err(Refusal::Credentials),
    };
    let (scheme, token) = credentials.split_at_checked(6).ok_or(Refusal::Credentials)?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return Err(Refusal::Credentials);
    }
    let mut user = BASE64
        .decode(token.trim_ascii())
        .map_err(|_| Refusal::Credentials)?;
    let colon = user.iter().position(|&b| b == b':').ok_or(Refusal::Credentials)?;
    let password = user.split_off(colon + 1);
    user.pop();
    Ok(if user.is_empty() && password.is_empty() {
        Isolation::Fresh
    } else {
        Isolation::shared(user, password)
    })
}

/// Whether the program may send another request on the same connection.
#[must_use]
pub fn program_stays(head: &RequestHead) -> bool {
    head.version == Version::Http11
        && !head.fields.lists("Connection", "close")
        && !head.fields.lists("Proxy-Connection", "close")
}

/// Whether the server takes another request on the same stream.
#[must_use]
pub fn server_stays(head: &ResponseHead, framing: Framing) -> bool {
    framing != Framing::UntilClose
        && !head.fields.lists("Connection", "close")
        && (head.version == Version::Http11 || head.fields.lists("Connection", "keep-alive"))
}

/// Whether the request may be sent a second time if its stream ended before anything came back (RFC 9110,
/// section 9.2.2), without that a body would have to be kept.
#[must_use]
pub fn may_repeat(head: &RequestHead, framing: Framing) -> bool {
    framing == Framing::Empty && matches!(&*head.method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

/// The head that the server gets.
#[must_use]
pub fn request_head(head: &RequestHead, forward: &Forward, framing: Framing) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    for part in [head.method.as_bytes(), b" ", &forward.path, b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    let mut fields = end_to_end(&head.fields, framing == Framing::Chunked);
    match fields.0.iter_mut().find(|field| is(field, "Host")) {
        Some(host) => host.value = forward.authority.as_bytes().into(),
        None => fields.0.insert(
            0,
            Field {
                name: "Host".into(),
                value: forward.authority.as_bytes().into(),
            },
        ),
    }
    if may_be_counted(&head.method) {
        for field in fields.0.iter_mut().filter(|field| is(field, "Max-Forwards")) {
            let left = str::from_utf8(&field.value)
                .ok()
                .and_then(|left| left.parse::<u32>().ok());
            if let Some(left) = left {
                field.value = left.saturating_sub(1).to_string().into_bytes().into();
            }
        }
    }
    fields.write(&mut out);
    out.extend_from_slice(b"\r\n");
    out
}

/// The head that the program gets; `chunked`: its body comes in chunks; `close`: the connection ends after it.
#[must_use]
pub fn response_head(head: &ResponseHead, chunked: bool, close: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(format!("HTTP/1.1 {} ", head.status).as_bytes());
    out.extend_from_slice(&head.reason);
    out.extend_from_slice(b"\r\n");
    let mut fields = end_to_end(&head.fields, chunked);
    // Such answers never have a body; a length would make a careless reader wait for one (RFC 9110, section 8.6).
    if matches!(head.status, 100..=199 | 204) {
        fields.0.retain(|field| !is(field, "Content-Length"));
    }
    fields.write(&mut out);
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// The trailers that go on: none of what frames or routes a message.
#[must_use]
pub fn trailers(fields: Fields) -> Fields {
    let mut kept = end_to_end(&fields, false);
    kept.0
        .retain(|field| !is(field, "Content-Length") && !is(field, "Host"));
    kept
}

/// The fields that go on. Those of framing stay whatever `Connection` says, since the body is framed by them.
fn end_to_end(fields: &Fields, chunked: bool) -> Fields {
    let goes_on = |field: &&Field| {
        if is(field, "Transfer-Encoding") {
            return chunked;
        }
        if is(field, "Content-Length") || is(field, "Host") {
            return true;
        }
        !OF_ONE_HOP.iter().any(|name| is(field, name)) && !fields.lists("Connection", &field.name)
    };
    Fields(fields.0.iter().filter(goes_on).cloned().collect())
}

/// Whether the method is one of those whose `Max-Forwards` proxies count down (RFC 9110, section 7.6.2).
fn may_be_counted(method: &str) -> bool {
    matches!(method, "TRACE" | "OPTIONS")
}

fn is(field: &Field, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}
