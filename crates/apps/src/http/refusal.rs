//! What a program hears instead of what it asked for: a status and a page of plain text that says what went wrong
//! and what to do.

use std::net::SocketAddr;

use mizzle_stream::{OpenError, Target};

use super::head::Malformed;

/// Stands for the port's address in the text of pages.
const PORT: &str = "ADDRESS:PORT";

/// Why a request was not carried out. `Display` names no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request isn't HTTP/1, or may be understood in two ways.
    #[error("the request is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// A request as for a web server: the target is a path.
    #[error("the request is for a web server; this port is a proxy")]
    NoProxyRequest,
    /// An address with `https://` or `wss://` outside CONNECT.
    #[error("the request asks the proxy to speak TLS for it")]
    Https,
    /// An address of another scheme.
    #[error("the request's address begins with something else than http://")]
    Scheme,
    /// An address without a usable host or port.
    #[error("the request's address has no valid host and port")]
    Address,
    /// `user@` in an address.
    #[error("the request's address holds a user")]
    UserInAddress,
    /// `Proxy-Authorization` other than Basic.
    #[error("the user and password for the proxy can't be understood")]
    Credentials,
    /// A WebSocket outside CONNECT.
    #[error("the request asks for a WebSocket outside CONNECT")]
    WebSocket,
    /// TRACE or OPTIONS with `Max-Forwards: 0`.
    #[error("the request is for the proxy itself")]
    LastHop,
    /// The request's head took too long.
    #[error("the request did not come in time")]
    Slow,
    /// We are stopping.
    #[error("we are stopping")]
    Stopping,
    /// No stream.
    #[error("the stream was not opened: {0}")]
    NotOpened(OpenError),
    /// The server's answer isn't HTTP/1, or may be understood in two ways.
    #[error("the server's answer is malformed: {0}")]
    BadAnswer(Malformed),
    /// The server sent interim responses without end.
    #[error("the server sent too many interim responses")]
    TooManyInterim,
    /// The server switched to another protocol, which nobody asked for.
    #[error("the server switched protocols unasked")]
    Switched,
    /// The stream ended before an answer was there.
    #[error("the server closed without an answer")]
    NoAnswer,
    /// Nothing moved for too long.
    #[error("the server did not answer in time")]
    Stalled,
}

impl Refusal {
    /// Status and reason.
    #[must_use]
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Self::Malformed(Malformed::Version) => (505, "HTTP Version Not Supported"),
            Self::Malformed(Malformed::TooLong | Malformed::TooMany) => {
                (431, "Request Header Fields Too Large")
            }
            Self::Malformed(Malformed::Coding) | Self::WebSocket | Self::LastHop => (501, "Not Implemented"),
            Self::Malformed(_)
            | Self::NoProxyRequest
            | Self::Https
            | Self::Scheme
            | Self::Address
            | Self::UserInAddress => (400, "Bad Request"),
            Self::Credentials => (407, "Proxy Authentication Required"),
            Self::Slow => (408, "Request Timeout"),
            Self::NotOpened(OpenError::Refused) => (403, "Forbidden"),
            Self::NotOpened(OpenError::Timeout) | Self::Stalled => (504, "Gateway Timeout"),
            Self::Stopping
            | Self::NotOpened(
                OpenError::NoExit
                | OpenError::Limit
                | OpenError::Closed
                | OpenError::Expired
                | OpenError::TooFewUsers,
            ) => (503, "Service Unavailable"),
            Self::NotOpened(_)
            | Self::BadAnswer(_)
            | Self::TooManyInterim
            | Self::Switched
            | Self::NoAnswer => (502, "Bad Gateway"),
        }
    }

    /// What to do about it.
    fn advice(self) -> &'static str {
        match self {
            Self::Malformed(_) => {
                "Nothing was sent on. This is an error of the program that made the request."
            }
            Self::NoProxyRequest => {
                "This port is the proxy of a mixnet: it speaks HTTP (also CONNECT), SOCKS5, SOCKS4 and SOCKS4a.\n\
                 Set it as the proxy of your program instead of opening it, for instance:\n\n    \
                 curl --proxy socks5h://ADDRESS:PORT https://example.com/\n    \
                 curl --proxy http://ADDRESS:PORT https://example.com/\n\n\
                 Give programs different users and passwords, whatever you like, and they share nothing."
            }
            Self::Https | Self::WebSocket => {
                "Ask for a tunnel with CONNECT host:port and speak through it, as browsers do when this port\n\
                 is set as their proxy for both HTTP and HTTPS."
            }
            Self::Scheme => "Only http:// can be asked for this way; for all else use CONNECT or SOCKS5.",
            Self::Address => {
                "Write http://host/path or http://host:port/path, for CONNECT host:port, and IPv6 addresses\n\
                 as [address]:port."
            }
            Self::UserInAddress => {
                "Leave user and password out of the address: programs send them in a header of their own."
            }
            Self::Credentials => {
                "Send them in the form \"Basic\", once, or leave them out. Any user and password will do: streams\n\
                 of the same ones may share a session."
            }
            Self::LastHop => "The proxy answers no such request by itself; raise or leave out Max-Forwards.",
            Self::Slow => "Send the whole header of a request at once.",
            Self::Stopping => "Try again when mizzle runs again.",
            Self::NotOpened(error) => match error {
                OpenError::Refused => {
                    "Each exit decides which addresses and ports it serves; few serve private addresses or\n\
                     mail ports. Another address of the same service may work."
                }
                OpenError::NameNotFound => "Check how the name is spelt.",
                OpenError::ConnectionRefused => "Check the port; the server may be down.",
                OpenError::NetUnreachable | OpenError::HostUnreachable | OpenError::TtlExpired => {
                    "Check the address; the server may be down, or without a way from this exit. Try again:\n\
                     another exit may be taken."
                }
                OpenError::Timeout => "The server may be down or overloaded. Try again later.",
                OpenError::NoExit => "Wait until the client has joined the network, then try again.",
                OpenError::Limit => "Close other connections, or try again in a moment.",
                OpenError::Expired => "Nothing is sent until then.",
                OpenError::TooFewUsers => {
                    "Nothing was sent. `mizzle status` shows how many there are; try again when there are more, or\n\
                     lower `min_pool` and start the client again."
                }
                _ => "Try again.",
            },
            Self::BadAnswer(_) | Self::TooManyInterim | Self::Switched => {
                "The server speaks no clean HTTP on this port. If it is another protocol's port, use CONNECT or\n\
                 SOCKS5."
            }
            Self::NoAnswer => "Try again; if it goes on, the server has a problem.",
            Self::Stalled => "Try again later. What the request was to do may have been done.",
        }
    }

    /// The whole response, after which the connection closes; `port`: where this proxy listens, `target`: which one
    /// it was about, `head_only`: the request was HEAD.
    #[must_use]
    pub fn page(self, port: SocketAddr, target: Option<&Target>, head_only: bool) -> Vec<u8> {
        let (status, reason) = self.status();
        let about = target.map_or_else(String::new, |target| format!("{target}: "));
        let advice = self.advice().replace(PORT, &port.to_string());
        let text = format!("{about}{self}.\n\n{advice}\n");
        let challenge = match self {
            Self::Credentials => "Proxy-Authenticate: Basic realm=\"any user, any password\"\r\n",
            _ => "",
        };
        let mut page = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             {challenge}X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
            text.len()
        );
        if !head_only {
            page.push_str(&text);
        }
        page.into_bytes()
    }
}
