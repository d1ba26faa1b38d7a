//! What a program is told: the replies of SOCKS5, and for whoever speaks something else a word in its own
//! protocol. What is told to whom is decided in [`proto`](super::proto).

use mizzle_stream::OpenError;

/// Why a handshake ended without a stream. Names no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The first byte is that of no protocol this port knows.
    #[error("the program speaks no SOCKS: its first byte is {0:#04x} instead of 0x05")]
    NotSocks(u8),
    /// The program takes this port for an HTTP proxy.
    #[error("the program speaks HTTP; set this port as its SOCKS5 proxy instead")]
    Http,
    /// The program takes this port for a TLS server.
    #[error("the program speaks TLS; set this port as its SOCKS5 proxy instead")]
    Tls,
    /// The program speaks the protocol's forerunner.
    #[error("the program speaks SOCKS4; set its proxy to SOCKS5 (often socks5h://)")]
    Socks4,
    /// The program offers neither "no authentication" nor "user and password".
    #[error("the program offers no method of authentication that this port knows")]
    NoMethod,
    /// The message with user and password has a wrong version.
    #[error("the program's user and password come in version {0} of their format instead of 1")]
    AuthVersion(u8),
    /// The request has a wrong version.
    #[error("the program's request has version {0} instead of 5")]
    RequestVersion(u8),
    /// BIND, UDP ASSOCIATE or something unknown.
    #[error("the program asks for SOCKS command {0}; only CONNECT (1) is possible")]
    Command(u8),
    /// The address is of no known kind.
    #[error("the program's request holds an address of unknown type {0}")]
    AddressType(u8),
    /// The name can't be that of a host.
    #[error("the program's request holds a name that no host can have")]
    Name,
    /// The program sent more than [`EARLY_MAX`](super::proto::EARLY_MAX) bytes ahead of an answer.
    #[error("the program sent too much before it was answered")]
    TooEarly,
    /// The stream could not be opened; the program was told so.
    #[error("the stream was not opened: {0:?}")]
    NotOpened(Reply),
}

/// The answer to a request, as its code in RFC 1928, section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// The exit has connected.
    Succeeded = 0,
    /// None of the others.
    GeneralFailure = 1,
    /// A policy, the exit's or the client's, forbids it.
    NotAllowed = 2,
    /// No way to that network.
    NetworkUnreachable = 3,
    /// No such host, or no way to it.
    HostUnreachable = 4,
    /// The host refused the connection.
    ConnectionRefused = 5,
    /// It took too long.
    TtlExpired = 6,
    /// Neither BIND nor UDP ASSOCIATE is offered.
    CommandNotSupported = 7,
    /// The address is neither a name nor IPv4 nor IPv6.
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// The whole message. Failures are as long as successes, because programs read a fixed header before
    /// they look at the code. The bound address is always `0.0.0.0:0`: the exit's is nobody's business.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 10] {
        [5, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

impl From<OpenError> for Reply {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused => Self::NotAllowed,
            OpenError::NetUnreachable => Self::NetworkUnreachable,
            OpenError::HostUnreachable | OpenError::NameNotFound => Self::HostUnreachable,
            OpenError::ConnectionRefused => Self::ConnectionRefused,
            OpenError::TtlExpired | OpenError::Timeout => Self::TtlExpired,
            // No exit, a bound, a session that ended: RFC 1928 has no word for what goes wrong on this side.
            _ => Self::GeneralFailure,
        }
    }
}

impl Fault {
    /// What the program is told, in the protocol that it speaks.
    pub(super) fn last_words(self) -> Vec<u8> {
        match self {
            Self::NotSocks(_) | Self::Tls => Vec::new(),
            Self::Http => http_page(),
            // "Request rejected or failed"; the rest is ignored by whoever asked to connect.
            Self::Socks4 => vec![0, 0x5b, 0, 0, 0, 0, 0, 0],
            Self::NoMethod => vec![5, 0xff],
            Self::AuthVersion(_) => vec![1, 1],
            Self::RequestVersion(_) | Self::Name | Self::TooEarly => {
                Reply::GeneralFailure.to_bytes().to_vec()
            }
            Self::Command(_) => Reply::CommandNotSupported.to_bytes().to_vec(),
            Self::AddressType(_) => Reply::AddressTypeNotSupported.to_bytes().to_vec(),
            Self::NotOpened(reply) => reply.to_bytes().to_vec(),
        }
    }
}

fn http_page() -> Vec<u8> {
    let text = "This port speaks SOCKS5, not HTTP.\n\n\
        Set it as the SOCKS5 proxy of your program and let the proxy resolve names,\n\
        for instance: curl --proxy socks5h://ADDRESS:PORT https://example.com/\n";
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}
