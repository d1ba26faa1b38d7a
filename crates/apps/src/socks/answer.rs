//! What a program is told, in the words of SOCKS5 or of SOCKS4. What is told to whom is decided in
//! [`proto`](super::proto).

use mizzle_stream::OpenError;

/// Why a handshake ended without a stream. Names no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The first byte is that of no protocol this port knows.
    #[error("the program speaks neither SOCKS nor HTTP: its first byte is {0:#04x}")]
    NotSocks(u8),
    /// The program speaks TLS to the port.
    #[error("the program speaks TLS to its proxy; set this port as its HTTP or SOCKS5 proxy, without TLS")]
    Tls,
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
    /// The user id of SOCKS4 is too long.
    #[error("the program's user id is longer than 255 bytes")]
    UserId,
    /// The program sent more than [`EARLY_MAX`](super::proto::EARLY_MAX) bytes ahead of an answer.
    #[error("the program sent too much before it was answered")]
    TooEarly,
    /// The stream could not be opened; the program was told so.
    #[error("the stream was not opened: {0:?}")]
    NotOpened(Reply),
}

/// The version that a program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Version 5.
    Socks5,
    /// Version 4 or 4a.
    Socks4,
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
    ///
    /// SOCKS4 has one code for success and one for all that can fail here.
    #[must_use]
    pub fn to_bytes(self, dialect: Dialect) -> Vec<u8> {
        match (dialect, self) {
            (Dialect::Socks5, reply) => vec![5, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0],
            (Dialect::Socks4, Self::Succeeded) => vec![0, 0x5a, 0, 0, 0, 0, 0, 0],
            (Dialect::Socks4, _) => vec![0, 0x5b, 0, 0, 0, 0, 0, 0],
        }
    }
}

impl From<OpenError> for Reply {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused | OpenError::TooFewUsers => Self::NotAllowed,
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
    pub(super) fn last_words(self, dialect: Dialect) -> Vec<u8> {
        let reply = match self {
            Self::NotSocks(_) | Self::Tls => return Vec::new(),
            Self::NoMethod => return vec![5, 0xff],
            Self::AuthVersion(_) => return vec![1, 1],
            Self::RequestVersion(_) | Self::Name | Self::UserId | Self::TooEarly => Reply::GeneralFailure,
            Self::Command(_) => Reply::CommandNotSupported,
            Self::AddressType(_) => Reply::AddressTypeNotSupported,
            Self::NotOpened(reply) => reply,
        };
        reply.to_bytes(dialect)
    }
}
