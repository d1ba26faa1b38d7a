//! SOCKS as a machine without sockets (SOCKS5: RFC 1928, RFC 1929; SOCKS4 and 4a: `v4`): bytes of a
//! program go in, actions come out.
//!
//! CONNECT only, to names, IPv4 and IPv6 addresses; names stay unresolved, since looking one up here would
//! tell outside the mixnet where its user goes. User and password are not checked: they say which streams
//! may share a session, so they are preferred when a program offers both methods.
//!
//! Whatever comes instead gets an answer that its sender understands and a [`Fault`] for the log. Sockets
//! and time-outs are `serve`'s; how a stream is opened is the opener's.

use std::collections::VecDeque;
use std::mem;
use std::net::IpAddr;

use mizzle_stream::{Isolation, OpenRequest, Target};

use super::answer::{Dialect, Fault, Reply};
use super::v4;

/// Bytes that a program may send ahead of the answer to its request.
///
/// No message of the handshake is longer than 520 bytes, so this bounds the whole machine.
pub const EARLY_MAX: usize = 16 * 1024;

/// What to do next.
#[derive(Debug)]
pub enum Action {
    /// Send these bytes to the program.
    Write(Vec<u8>),
    /// Open a stream, then say how it went with [`Handshake::answer`].
    Open(OpenRequest),
    /// The stream is open and the program knows it: carry bytes both ways, beginning with these of the
    /// program, which it sent ahead.
    Relay(Vec<u8>),
    /// Send what was to be written and close; nothing more comes.
    Close(Fault),
}

/// One program's handshake.
///
/// Feed it with [`receive`](Self::receive), then drain [`poll`](Self::poll) until `None`. After
/// [`Action::Open`] call [`answer`](Self::answer) and drain again.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    dialect: Dialect,
    /// Received, not yet understood; once the request is, what the program sent ahead.
    bytes: Vec<u8>,
    isolation: Isolation,
    actions: VecDeque<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Greeting,
    Password,
    Request,
    /// Waiting for [`Handshake::answer`].
    Opening,
    Done,
}

/// A message understood: its length, and what to do about it.
pub(super) struct Step {
    pub(super) taken: usize,
    pub(super) then: Then,
}

pub(super) enum Then {
    Say([u8; 2], State),
    Credentials(Isolation),
    Open(Target),
    /// In SOCKS4 one message says all.
    OpenIn(Isolation, Target),
}

/// `Ok(None)`: the message isn't complete.
pub(super) type Parsed = Result<Option<Step>, Fault>;

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    /// A handshake of which nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Greeting,
            dialect: Dialect::Socks5,
            bytes: Vec::new(),
            isolation: Isolation::Fresh,
            actions: VecDeque::new(),
        }
    }

    /// How many bytes may be handed to [`receive`](Self::receive) now.
    #[must_use]
    pub fn room(&self) -> usize {
        EARLY_MAX.saturating_sub(self.bytes.len())
    }

    /// Takes bytes of the program, in any split.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.state == State::Done {
            return;
        }
        if bytes.len() > self.room() {
            return self.close(Fault::TooEarly);
        }
        self.bytes.extend_from_slice(bytes);
        loop {
            let parsed = match self.state {
                State::Greeting if self.bytes.first() == Some(&4) => {
                    self.dialect = Dialect::Socks4;
                    v4::request(&self.bytes)
                }
                State::Greeting => greeting(&self.bytes),
                State::Password => password(&self.bytes),
                State::Request => request(&self.bytes),
                State::Opening | State::Done => return,
            };
            match parsed {
                Ok(Some(step)) => self.take(step),
                Ok(None) => return,
                Err(fault) => return self.close(fault),
            }
        }
    }

    /// Says how the opening went, once; what isn't asked for is ignored.
    pub fn answer(&mut self, reply: Reply) {
        if self.state != State::Opening {
            return;
        }
        if reply != Reply::Succeeded {
            return self.close(Fault::NotOpened(reply));
        }
        self.state = State::Done;
        self.actions
            .push_back(Action::Write(reply.to_bytes(self.dialect)));
        self.actions.push_back(Action::Relay(mem::take(&mut self.bytes)));
    }

    /// The next action, or `None` until more arrives.
    #[must_use]
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn take(&mut self, step: Step) {
        self.bytes.drain(..step.taken);
        match step.then {
            Then::Say(words, next) => {
                self.state = next;
                self.actions.push_back(Action::Write(words.to_vec()));
            }
            Then::Credentials(isolation) => {
                self.state = State::Request;
                self.isolation = isolation;
                self.actions.push_back(Action::Write(vec![1, 0]));
            }
            Then::Open(target) => {
                let isolation = mem::replace(&mut self.isolation, Isolation::Fresh);
                self.open(OpenRequest { target, isolation });
            }
            Then::OpenIn(isolation, target) => self.open(OpenRequest { target, isolation }),
        }
    }

    fn open(&mut self, request: OpenRequest) {
        self.state = State::Opening;
        self.actions.push_back(Action::Open(request));
    }

    fn close(&mut self, fault: Fault) {
        self.state = State::Done;
        self.bytes = Vec::new();
        let words = fault.last_words(self.dialect);
        if !words.is_empty() {
            self.actions.push_back(Action::Write(words));
        }
        self.actions.push_back(Action::Close(fault));
    }
}

/// The method selection of RFC 1928, section 3.
fn greeting(bytes: &[u8]) -> Parsed {
    match *bytes {
        [] | [5] => Ok(None),
        [5, count, ref rest @ ..] => {
            let Some(methods) = rest.get(..count.into()) else {
                return Ok(None);
            };
            let (method, next) = if methods.contains(&2) {
                (2, State::Password)
            } else if methods.contains(&0) {
                (0, State::Request)
            } else {
                return Err(Fault::NoMethod);
            };
            Ok(Some(Step {
                taken: 2 + methods.len(),
                then: Then::Say([5, method], next),
            }))
        }
        [0x16, ..] => Err(Fault::Tls),
        [first, ..] => Err(Fault::NotSocks(first)),
    }
}

/// User and password of RFC 1929, section 2.
fn password(bytes: &[u8]) -> Parsed {
    let [version, rest @ ..] = bytes else {
        return Ok(None);
    };
    if *version != 1 {
        return Err(Fault::AuthVersion(*version));
    }
    let Some((user, rest)) = counted(rest) else {
        return Ok(None);
    };
    let Some((password, rest)) = counted(rest) else {
        return Ok(None);
    };
    // Some programs send both empty when their user set neither: that asks for no sharing.
    let isolation = if user.is_empty() && password.is_empty() {
        Isolation::Fresh
    } else {
        Isolation::shared(user.to_vec(), password.to_vec())
    };
    Ok(Some(Step {
        taken: bytes.len() - rest.len(),
        then: Then::Credentials(isolation),
    }))
}

/// The request of RFC 1928, section 4. The reserved byte is not looked at.
fn request(bytes: &[u8]) -> Parsed {
    let [version, rest @ ..] = bytes else {
        return Ok(None);
    };
    if *version != 5 {
        return Err(Fault::RequestVersion(*version));
    }
    let [command, _, address_type, rest @ ..] = rest else {
        return Ok(None);
    };
    if *command != 1 {
        return Err(Fault::Command(*command));
    }
    let (host, rest) = match address_type {
        1 => match rest.split_first_chunk::<4>() {
            Some((ip, rest)) => (Asked::Ip(IpAddr::from(*ip)), rest),
            None => return Ok(None),
        },
        3 => match counted(rest) {
            Some((name, rest)) => (Asked::Name(name), rest),
            None => return Ok(None),
        },
        4 => match rest.split_first_chunk::<16>() {
            Some((ip, rest)) => (Asked::Ip(IpAddr::from(*ip)), rest),
            None => return Ok(None),
        },
        other => return Err(Fault::AddressType(*other)),
    };
    let Some((port, rest)) = rest.split_first_chunk::<2>() else {
        return Ok(None);
    };
    let target = target(host, u16::from_be_bytes(*port))?;
    Ok(Some(Step {
        taken: bytes.len() - rest.len(),
        then: Then::Open(target),
    }))
}

pub(super) enum Asked<'a> {
    Name(&'a [u8]),
    Ip(IpAddr),
}

/// Many programs send an address that their user typed as a name: it becomes an address again.
pub(super) fn target(host: Asked<'_>, port: u16) -> Result<Target, Fault> {
    let name = match host {
        Asked::Ip(ip) => return Ok(Target::ip(ip, port)),
        Asked::Name(name) => str::from_utf8(name).map_err(|_| Fault::Name)?,
    };
    match name.parse() {
        Ok(ip) => Ok(Target::ip(ip, port)),
        Err(_) => Target::name(name, port).map_err(|_| Fault::Name),
    }
}

/// A field with its length in one byte before it, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked((*len).into())
}
