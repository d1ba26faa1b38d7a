//! The door for programs: what a proxy front-end asks of whoever opens streams, and what it is told.
//!
//! A front-end (SOCKS, HTTP, a wallet's RPC) turns its protocol into an [`OpenRequest`], awaits
//! [`Opener::open`] and then copies bytes; which exit, which session and which packets is the opener's affair.
//! [`Target`] and the codes of [`OpenError`] travel to the exit, so their encodings are part of the wire format;
//! the rest never leaves the machine. Rules for isolation: the design's End to end section.

use core::fmt;
use core::future::Future;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mizzle_base::MailboxId;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Longest host name of a target: what SOCKS and DNS can express.
pub const MAX_NAME_LEN: usize = 255;

/// A host name: 1 to 255 printable ASCII bytes without space, in lower case.
///
/// What resolves it decides which names are good; here only what can't be a name in any system is refused, so that
/// a name can be put into a log line or a request without quoting.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// Checks `name` and folds it to lower case (names are compared to share sessions).
    ///
    /// # Errors
    /// When it is empty, too long or has other bytes than printable ASCII.
    pub fn new(name: &str) -> Result<Self, TargetError> {
        if name.is_empty() || name.len() > MAX_NAME_LEN {
            return Err(TargetError::NameLength);
        }
        // `/`, `@` and `:` would let a name pass for more than a name where it is put into a URL or host:port text.
        if !name
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'@' | b':'))
        {
            return Err(TargetError::NameBytes);
        }
        Ok(Self(name.to_ascii_lowercase().into_boxed_str()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The host part of a [`Target`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name that the exit resolves.
    Name(HostName),
    /// An address.
    Ip(IpAddr),
    /// A mailbox of the gateway that the session is with. Programs at a proxy can't name one.
    Mailbox(MailboxId),
}

/// Where a stream is to go: host and port.
///
/// `Debug` hides the host (logs carry no addresses above DEBUG); `Display` shows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Name or address.
    pub host: Host,
    /// Port.
    pub port: u16,
}

/// Why something is not a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TargetError {
    /// Empty or longer than [`MAX_NAME_LEN`].
    #[error("a host name has 1 to {MAX_NAME_LEN} bytes")]
    NameLength,
    /// Not printable ASCII.
    #[error("a host name has only printable ASCII characters, and none of `/`, `@` and `:`")]
    NameBytes,
    /// Not `host:port`.
    #[error("a target is written host:port or [IPv6]:port")]
    Syntax,
    /// Encoded bytes end early or name an unknown kind.
    #[error("the encoded target is damaged")]
    Encoding,
}

const KIND_NAME: u8 = 0;
const KIND_V4: u8 = 4;
const KIND_V6: u8 = 6;
const KIND_MAILBOX: u8 = 16;

impl Target {
    /// A target by name.
    ///
    /// # Errors
    /// When it isn't a name; see [`HostName::new`].
    pub fn name(name: &str, port: u16) -> Result<Self, TargetError> {
        Ok(Self {
            host: Host::Name(HostName::new(name)?),
            port,
        })
    }

    /// A target by address.
    #[must_use]
    pub fn ip(ip: IpAddr, port: u16) -> Self {
        Self {
            host: Host::Ip(ip),
            port,
        }
    }

    /// A mailbox of the gateway that the session is with.
    #[must_use]
    pub fn mailbox(id: MailboxId) -> Self {
        Self {
            host: Host::Mailbox(id),
            port: 0,
        }
    }

    /// Reads `host:port` or `[IPv6]:port`; a host that reads as an address is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::Syntax)?;
        let port = port.parse().map_err(|_| TargetError::Syntax)?;
        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(TargetError::Syntax)?;
            let ip: Ipv6Addr = inner.parse().map_err(|_| TargetError::Syntax)?;
            return Ok(Self::ip(IpAddr::V6(ip), port));
        }
        match host.parse::<Ipv4Addr>() {
            Ok(ip) => Ok(Self::ip(IpAddr::V4(ip), port)),
            Err(_) => Self::name(host, port),
        }
    }

    /// Length of the encoding.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        3 + match &self.host {
            Host::Name(name) => 1 + name.0.len(),
            Host::Ip(IpAddr::V4(_)) => 4,
            Host::Ip(IpAddr::V6(_)) | Host::Mailbox(_) => 16,
        }
    }

    /// Appends the encoding: kind (0 name, 4, 6, 16 mailbox), for a name its length, the host, the port (big-endian).
    pub fn encode(&self, out: &mut Vec<u8>) {
        match &self.host {
            Host::Name(name) => {
                out.push(KIND_NAME);
                // At most MAX_NAME_LEN by construction.
                out.push(name.0.len() as u8);
                out.extend_from_slice(name.0.as_bytes());
            }
            Host::Ip(IpAddr::V4(ip)) => {
                out.push(KIND_V4);
                out.extend_from_slice(&ip.octets());
            }
            Host::Ip(IpAddr::V6(ip)) => {
                out.push(KIND_V6);
                out.extend_from_slice(&ip.octets());
            }
            Host::Mailbox(id) => {
                out.push(KIND_MAILBOX);
                out.extend_from_slice(id.as_bytes());
            }
        }
        out.extend_from_slice(&self.port.to_be_bytes());
    }

    /// Reads an encoding at the start of `bytes`; also how many bytes it took.
    ///
    /// # Errors
    /// When it is damaged or holds what isn't a target.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), TargetError> {
        let (&kind, rest) = bytes.split_first().ok_or(TargetError::Encoding)?;
        let (host, rest) = match kind {
            KIND_NAME => {
                let (&len, rest) = rest.split_first().ok_or(TargetError::Encoding)?;
                let (name, rest) = rest.split_at_checked(len.into()).ok_or(TargetError::Encoding)?;
                let name = core::str::from_utf8(name).map_err(|_| TargetError::NameBytes)?;
                (Host::Name(HostName::new(name)?), rest)
            }
            KIND_V4 => {
                let (ip, rest) = rest.split_first_chunk::<4>().ok_or(TargetError::Encoding)?;
                (Host::Ip(IpAddr::from(*ip)), rest)
            }
            KIND_V6 => {
                let (ip, rest) = rest.split_first_chunk::<16>().ok_or(TargetError::Encoding)?;
                (Host::Ip(IpAddr::from(*ip)), rest)
            }
            KIND_MAILBOX => {
                let (id, rest) = rest
                    .split_first_chunk::<{ MailboxId::LEN }>()
                    .ok_or(TargetError::Encoding)?;
                (Host::Mailbox(MailboxId::new(*id)), rest)
            }
            _ => return Err(TargetError::Encoding),
        };
        let (port, rest) = rest.split_first_chunk::<2>().ok_or(TargetError::Encoding)?;
        Ok((
            Self {
                host,
                port: u16::from_be_bytes(*port),
            },
            bytes.len() - rest.len(),
        ))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostName(..)")
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(_) => f.write_str("Name(..)"),
            Self::Ip(_) => f.write_str("Ip(..)"),
            Self::Mailbox(_) => f.write_str("Mailbox(..)"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
            Self::Mailbox(id) => write!(f, "mailbox {id}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({:?}, {})", self.host, self.port)
    }
}

/// With which other streams a stream may share a session.
#[derive(Clone)]
pub enum Isolation {
    /// With none: a session of its own.
    Fresh,
    /// With those of the same credentials and target host.
    Shared(Credentials),
}

/// User and password that a program gave to the proxy. Never sent anywhere: only compared, in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl Isolation {
    /// [`Isolation::Shared`] for these credentials.
    #[must_use]
    pub fn shared(user: Vec<u8>, password: Vec<u8>) -> Self {
        Self::Shared(Credentials { user, password })
    }

    /// Whether streams of the one may share a session with streams of the other. Never so for `Fresh`.
    #[must_use]
    pub fn may_share(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Shared(a), Self::Shared(b)) => a == b,
            _ => false,
        }
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        // Lengths aren't secret from a local program that can time us; the contents are compared in constant time.
        (self.user.ct_eq(&other.user) & self.password.ct_eq(&other.password)).into()
    }
}

impl Eq for Credentials {}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl fmt::Debug for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fresh => "Fresh",
            Self::Shared(_) => "Shared(..)",
        })
    }
}

/// What a proxy front-end asks of whoever opens streams.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// Where to.
    pub target: Target,
    /// With whom it may share a session.
    pub isolation: Isolation,
}

impl OpenRequest {
    /// A request with a session of its own.
    #[must_use]
    pub fn fresh(target: Target) -> Self {
        Self {
            target,
            isolation: Isolation::Fresh,
        }
    }
}

/// Opens streams to targets: the client behind a proxy, or in tests the loop-back.
pub trait Opener: Clone + Send + Sync + 'static {
    /// A byte stream; front-ends ask of it what their runtime's reading and writing traits are.
    type Stream: Send + 'static;

    /// Opens a stream; done only once the exit has connected, or has said why not.
    fn open(&self, request: OpenRequest) -> impl Future<Output = Result<Self::Stream, OpenError>> + Send;
}

/// Why a stream was not opened. The codes travel from the exit to the client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
#[repr(u8)]
#[non_exhaustive]
pub enum OpenError {
    /// Something else.
    #[error("the stream could not be opened")]
    General = 1,
    /// The exit's policy does not allow the target.
    #[error("the exit does not allow this target")]
    Refused = 2,
    /// No route to the network.
    #[error("the target's network can't be reached from the exit")]
    NetUnreachable = 3,
    /// No route to the host.
    #[error("the target host can't be reached from the exit")]
    HostUnreachable = 4,
    /// The host refused the connection.
    #[error("the target refused the connection")]
    ConnectionRefused = 5,
    /// The packet's time to live ended on the way.
    #[error("the way from the exit to the target is too long")]
    TtlExpired = 6,
    /// The name has no address.
    #[error("the exit found no address for this name")]
    NameNotFound = 7,
    /// No answer in time, from the target or from the exit.
    #[error("no answer came in time")]
    Timeout = 8,
    /// There is no exit that may be used.
    #[error("there is no exit that may be used")]
    NoExit = 9,
    /// A bound on streams or sessions is reached, here or at the exit.
    #[error("too many streams are open")]
    Limit = 10,
    /// The session ended while the stream was being opened.
    #[error("the session with the exit ended")]
    Closed = 11,
    /// The network document's time is over; nothing is sent under its keys.
    #[error("the network document has expired: get the current one and start again")]
    Expired = 12,
    /// The gateway keeps no such mailbox.
    #[error(
        "the receiver's gateway has no such mailbox: the address is old, or its owner has not been there for long"
    )]
    NoMailbox = 13,
    /// The mailbox holds as much as it may.
    #[error("the receiver's mailbox is full: try again when its owner has fetched what is there")]
    MailboxFull = 14,
    /// The gateway's store of letters is in trouble, or all mailboxes together hold as much as they may.
    #[error(
        "the receiver's gateway can't keep letters at this moment, as its disk is full or in trouble: try again later"
    )]
    NotKept = 15,
    /// The client has fewer others to hide among than its user wants. Never on the wire.
    #[error(
        "too few others use the network at this moment: less is in the mixes' pools than `min_pool` in the client's \
         configuration asks for"
    )]
    TooFewUsers = 16,
}

impl OpenError {
    /// The stable code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The meaning of a code; codes that this version doesn't know are [`OpenError::General`].
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            2 => Self::Refused,
            3 => Self::NetUnreachable,
            4 => Self::HostUnreachable,
            5 => Self::ConnectionRefused,
            6 => Self::TtlExpired,
            7 => Self::NameNotFound,
            8 => Self::Timeout,
            9 => Self::NoExit,
            10 => Self::Limit,
            11 => Self::Closed,
            12 => Self::Expired,
            13 => Self::NoMailbox,
            14 => Self::MailboxFull,
            15 => Self::NotKept,
            _ => Self::General,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_same_after_a_round_trip() {
        for text in [
            "example.org:443",
            "192.0.2.7:80",
            "[2001:db8::1]:18081",
            "xyz.onion:1",
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.to_string(), text);
            let mut bytes = Vec::new();
            target.encode(&mut bytes);
            assert_eq!(bytes.len(), target.encoded_len());
            assert_eq!(Target::decode(&bytes).unwrap(), (target, bytes.len()));
            for cut in 0..bytes.len() {
                assert!(Target::decode(&bytes[..cut]).is_err());
            }
        }
        let mailbox = Target::mailbox(MailboxId::new([7; 16]));
        let mut bytes = Vec::new();
        mailbox.encode(&mut bytes);
        assert_eq!(bytes.len(), mailbox.encoded_len());
        assert_eq!(Target::decode(&bytes).unwrap(), (mailbox.clone(), bytes.len()));
        assert_eq!(
            Target::parse(&format!("{mailbox}:0")),
            Err(TargetError::NameBytes),
            "no program can ask a proxy for one"
        );
        assert_eq!(
            Target::parse("EXAMPLE.org:1").unwrap(),
            Target::name("example.ORG", 1).unwrap()
        );
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for text in [
            "",
            ":1",
            "host",
            "host:x",
            "host:65536",
            "a b:1",
            "[::1:1",
            "::1:1",
            "a/b:1",
            "ä.org:1",
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
        assert_eq!(Target::name(&"a".repeat(256), 1), Err(TargetError::NameLength));
        assert!(Target::name(&"a".repeat(255), 1).is_ok());
    }

    #[test]
    fn only_equal_credentials_share_and_none_is_shown() {
        let a = Isolation::shared(b"u".to_vec(), b"p".to_vec());
        assert!(a.may_share(&Isolation::shared(b"u".to_vec(), b"p".to_vec())));
        assert!(!a.may_share(&Isolation::shared(b"up".to_vec(), b"".to_vec())));
        assert!(!a.may_share(&Isolation::Fresh));
        assert!(!Isolation::Fresh.may_share(&Isolation::Fresh));
        let request = OpenRequest {
            target: Target::name("secret.org", 1).unwrap(),
            isolation: a,
        };
        assert!(!format!("{request:?}").contains("secret"));
    }

    #[test]
    fn codes_are_stable() {
        for code in 0..=255 {
            let e = OpenError::from_code(code);
            assert_eq!(e.code() == code, (1..=15).contains(&code), "{code}");
        }
    }
}
