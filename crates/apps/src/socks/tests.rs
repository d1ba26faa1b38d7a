//! The handshake without sockets.

use mizzle_stream::{Isolation, OpenError, OpenRequest};
use proptest::prelude::*;

use super::proto::{Action, EARLY_MAX, Handshake};
use super::{Fault, Reply};

/// All that a handshake did.
#[derive(Default)]
struct Seen {
    written: Vec<u8>,
    opened: Option<OpenRequest>,
    relayed: Option<Vec<u8>>,
    closed: Option<Fault>,
}

impl Seen {
    fn drain(&mut self, handshake: &mut Handshake) {
        while let Some(action) = handshake.poll() {
            assert_eq!(self.closed, None, "nothing comes after Close");
            match action {
                Action::Write(bytes) => self.written.extend(bytes),
                Action::Open(request) => assert!(self.opened.replace(request).is_none()),
                Action::Relay(early) => assert!(self.relayed.replace(early).is_none()),
                Action::Close(fault) => self.closed = Some(fault),
            }
        }
    }

    fn target(&self) -> String {
        self.opened.as_ref().expect("a request").target.to_string()
    }
}

fn feed(pieces: &[&[u8]]) -> (Handshake, Seen) {
    let (mut handshake, mut seen) = (Handshake::new(), Seen::default());
    for piece in pieces {
        handshake.receive(piece);
        seen.drain(&mut handshake);
    }
    (handshake, seen)
}

fn request(command: u8, address_type: u8, address: &[u8], port: u16) -> Vec<u8> {
    [&[5, command, 0, address_type], address, &port.to_be_bytes()].concat()
}

fn to_name(name: &[u8]) -> Vec<u8> {
    request(1, 3, &[&[name.len() as u8], name].concat(), 443)
}

/// Greeting with both methods, credentials, request for a name: the longest way through.
fn whole() -> Vec<u8> {
    [
        &[5, 2, 0, 2][..],
        &[1, 5],
        b"alice",
        &[4],
        b"work",
        &to_name(b"Example.org"),
    ]
    .concat()
}

#[test]
fn a_request_without_authentication_is_opened_in_a_session_of_its_own() {
    let (_, seen) = feed(&[&[5, 1, 0], &to_name(b"example.org")]);
    assert_eq!(seen.written, [5, 0]);
    assert_eq!(seen.target(), "example.org:443");
    assert!(matches!(seen.opened.unwrap().isolation, Isolation::Fresh));
}

#[test]
fn credentials_are_preferred_and_become_the_isolation() {
    let (_, seen) = feed(&[&whole()]);
    assert_eq!(seen.written, [5, 2, 1, 0]);
    assert_eq!(seen.target(), "example.org:443");
    let expected = Isolation::shared(b"alice".to_vec(), b"work".to_vec());
    assert!(seen.opened.unwrap().isolation.may_share(&expected));
}

#[test]
fn empty_credentials_share_nothing() {
    let (_, seen) = feed(&[&[5, 1, 2], &[1, 0, 0], &to_name(b"a.b")]);
    assert!(matches!(seen.opened.unwrap().isolation, Isolation::Fresh));
    let (_, seen) = feed(&[&[5, 1, 2], &[1, 1, b'u', 0], &to_name(b"a.b")]);
    assert!(matches!(seen.opened.unwrap().isolation, Isolation::Shared(_)));
}

#[test]
fn each_address_type_reaches_the_opener_unresolved() {
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let cases = [
        (request(1, 1, &[192, 0, 2, 7], 80), "192.0.2.7:80"),
        (request(1, 4, &v6, 18081), "[2001:db8::1]:18081"),
        (to_name(b"example.org"), "example.org:443"),
        (to_name(b"xyz.onion"), "xyz.onion:443"),
        (to_name(b"192.0.2.7"), "192.0.2.7:443"),
        (to_name(b"2001:db8::1"), "[2001:db8::1]:443"),
    ];
    for (bytes, expected) in cases {
        assert_eq!(feed(&[&[5, 1, 0], &bytes]).1.target(), expected);
    }
    let longest = [b'a'; 255];
    assert_eq!(feed(&[&[5, 1, 0], &to_name(&longest)]).1.target().len(), 255 + 4);
}

#[test]
fn every_split_gives_the_same() {
    let whole = whole();
    for first in 0..=whole.len() {
        for second in first..=whole.len() {
            let (_, seen) = feed(&[&whole[..first], &whole[first..second], &whole[second..]]);
            assert_eq!(seen.written, [5, 2, 1, 0]);
            assert_eq!(seen.target(), "example.org:443");
        }
    }
    let single: Vec<&[u8]> = whole.chunks(1).collect();
    assert_eq!(feed(&single).1.target(), "example.org:443");
    for short in 0..whole.len() {
        assert!(feed(&[&whole[..short]]).1.opened.is_none());
    }
}

#[test]
fn every_outcome_is_answered_in_full_length() {
    let codes = [
        (OpenError::General, 1),
        (OpenError::Refused, 2),
        (OpenError::NetUnreachable, 3),
        (OpenError::HostUnreachable, 4),
        (OpenError::ConnectionRefused, 5),
        (OpenError::TtlExpired, 6),
        (OpenError::NameNotFound, 4),
        (OpenError::Timeout, 6),
        (OpenError::NoExit, 1),
        (OpenError::Limit, 1),
        (OpenError::Closed, 1),
        (OpenError::TooFewUsers, 2),
    ];
    for (error, code) in codes {
        let (mut handshake, mut seen) = feed(&[&[5, 1, 0], &to_name(b"a.b")]);
        let reply = Reply::from(error);
        handshake.answer(reply);
        seen.drain(&mut handshake);
        assert_eq!(seen.written[2..], [5, code, 0, 1, 0, 0, 0, 0, 0, 0], "{error:?}");
        assert_eq!(seen.closed, Some(Fault::NotOpened(reply)));
        assert_eq!(seen.relayed, None);
    }
}

#[test]
fn success_hides_the_exits_address_and_hands_over_what_came_early() {
    let (mut handshake, mut seen) = feed(&[&whole(), b"GET /", b" HTTP/1.1"]);
    assert_eq!(seen.written.len(), 4, "no answer before the stream is open");
    handshake.answer(Reply::Succeeded);
    handshake.answer(Reply::GeneralFailure);
    seen.drain(&mut handshake);
    assert_eq!(seen.written[4..], [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(seen.relayed.as_deref(), Some(&b"GET / HTTP/1.1"[..]));
    assert_eq!(seen.closed, None);
}

#[test]
fn early_bytes_are_bounded() {
    let (mut handshake, mut seen) = feed(&[&whole(), &vec![0; EARLY_MAX]]);
    assert_eq!((handshake.room(), seen.closed), (0, None));
    handshake.receive(&[0]);
    seen.drain(&mut handshake);
    assert_eq!(seen.closed, Some(Fault::TooEarly));
}

#[test]
fn what_is_not_offered_is_refused_with_its_code() {
    let none = [5, 0];
    let after_greeting = [
        (request(2, 1, &[1, 2, 3, 4], 1), Fault::Command(2), 7),
        (request(3, 1, &[1, 2, 3, 4], 1), Fault::Command(3), 7),
        (request(0, 3, &[1, b'a'], 1), Fault::Command(0), 7),
        (request(1, 2, &[1, 2, 3, 4], 1), Fault::AddressType(2), 8),
        (request(1, 5, &[], 1), Fault::AddressType(5), 8),
        (to_name(b""), Fault::Name, 1),
        (to_name(b"a b"), Fault::Name, 1),
        (to_name(b"a\0b"), Fault::Name, 1),
        (to_name(b"a/b"), Fault::Name, 1),
        (to_name(b"\xff\xfe"), Fault::Name, 1),
        (vec![4, 1, 0, 1], Fault::RequestVersion(4), 1),
    ];
    for (bytes, fault, code) in after_greeting {
        let (_, seen) = feed(&[&[5, 1, 0], &bytes]);
        let reply = [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(seen.written, [&none[..], &reply].concat(), "{fault}");
        assert_eq!(seen.closed, Some(fault));
        assert!(seen.opened.is_none());
    }
    for greeting in [&[5, 0][..], &[5, 1, 1], &[5, 2, 1, 0x80]] {
        let (_, seen) = feed(&[greeting]);
        assert_eq!(
            (&seen.written[..], seen.closed),
            (&[5, 0xff][..], Some(Fault::NoMethod))
        );
    }
    let (_, seen) = feed(&[&[5, 1, 2], &[5, 1]]);
    assert_eq!(
        (&seen.written[..], seen.closed),
        (&[5, 2, 1, 1][..], Some(Fault::AuthVersion(5)))
    );
}

#[test]
fn other_protocols_are_not_answered() {
    for (bytes, fault) in [
        (&[0x16, 3, 1][..], Fault::Tls),
        (b"GET / HTTP/1.1\r\n", Fault::NotSocks(b'G')),
        (b"\0", Fault::NotSocks(0)),
    ] {
        let (_, seen) = feed(&[bytes]);
        assert_eq!((seen.written.len(), seen.closed), (0, Some(fault)));
    }
}

/// SOCKS4: version, command, port 443, address, user id.
fn v4(command: u8, address: [u8; 4], user: &[u8]) -> Vec<u8> {
    [&[4, command, 1, 0xbb], &address[..], user, &[0]].concat()
}

/// SOCKS4a: the same with a name.
fn v4a(user: &[u8], name: &[u8]) -> Vec<u8> {
    [&v4(1, [0, 0, 0, 7], user), name, &[0]].concat()
}

#[test]
fn socks4_takes_addresses_and_4a_names() {
    let cases = [
        (v4(1, [192, 0, 2, 7], b""), "192.0.2.7:443"),
        (v4(1, [0, 0, 0, 0], b""), "0.0.0.0:443"),
        (v4(1, [0, 0, 1, 7], b""), "0.0.1.7:443"),
        (v4a(b"", b"Example.org"), "example.org:443"),
        (v4a(b"", b"192.0.2.7"), "192.0.2.7:443"),
        (v4a(b"", &[b'a'; 255]), &format!("{}:443", "a".repeat(255))),
    ];
    for (bytes, expected) in cases {
        for cut in 0..bytes.len() {
            let (_, seen) = feed(&[&bytes[..cut], &bytes[cut..]]);
            assert_eq!(seen.target(), expected);
            assert!(seen.written.is_empty(), "no answer before the stream is open");
            assert!(matches!(seen.opened.unwrap().isolation, Isolation::Fresh));
            assert!(feed(&[&bytes[..cut]]).1.opened.is_none());
        }
    }
}

#[test]
fn socks4s_user_id_is_the_isolation() {
    let (_, seen) = feed(&[&v4a(b"alice", b"example.org")]);
    let expected = Isolation::shared(b"alice".to_vec(), Vec::new());
    assert!(seen.opened.unwrap().isolation.may_share(&expected));
}

#[test]
fn socks4_is_answered_in_its_own_words() {
    let (mut handshake, mut seen) = feed(&[&v4(1, [192, 0, 2, 7], b"u"), b"early"]);
    handshake.answer(Reply::Succeeded);
    seen.drain(&mut handshake);
    assert_eq!(seen.written, [0, 0x5a, 0, 0, 0, 0, 0, 0]);
    assert_eq!(seen.relayed.as_deref(), Some(&b"early"[..]));
    assert_eq!(seen.closed, None);

    let rejected = [0, 0x5b, 0, 0, 0, 0, 0, 0];
    let (mut handshake, mut seen) = feed(&[&v4(1, [192, 0, 2, 7], b"")]);
    handshake.answer(Reply::from(OpenError::Timeout));
    seen.drain(&mut handshake);
    assert_eq!(seen.written, rejected);
    assert_eq!(seen.closed, Some(Fault::NotOpened(Reply::TtlExpired)));

    for (bytes, fault) in [
        (v4(2, [192, 0, 2, 7], b""), Fault::Command(2)),
        (v4(1, [192, 0, 2, 7], &[b'u'; 256]), Fault::UserId),
        (v4a(b"", b""), Fault::Name),
        (v4a(b"", b"a b"), Fault::Name),
        (v4a(b"", &[b'a'; 256]), Fault::Name),
        (
            [&v4(1, [0, 0, 0, 7], b"")[..], &[b'a'; 256]].concat(),
            Fault::Name,
        ),
    ] {
        let (_, seen) = feed(&[&bytes]);
        assert_eq!((&seen.written[..], seen.closed), (&rejected[..], Some(fault)));
        assert!(seen.opened.is_none());
    }
}

#[test]
fn after_the_end_nothing_is_said() {
    let (mut handshake, mut seen) = feed(&[&[9], &whole()]);
    handshake.answer(Reply::Succeeded);
    seen.drain(&mut handshake);
    assert_eq!(seen.closed, Some(Fault::NotSocks(9)));
    assert!(seen.written.is_empty() && seen.opened.is_none() && seen.relayed.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Also near-misses: a valid beginning with some bytes changed.
    #[test]
    fn arbitrary_bytes_end_in_a_fault_a_request_or_waiting(
        noise in proptest::collection::vec(any::<u8>(), 0..600),
        valid in 0..40_usize,
        old in any::<bool>(),
        split in any::<prop::sample::Index>(),
        answer in 0..=8_u8,
    ) {
        let whole = if old { v4a(b"alice", b"example.org") } else { whole() };
        let bytes = [&whole[..valid.min(whole.len())], &noise[..]].concat();
        let cut = split.index(bytes.len() + 1);
        let (mut handshake, mut seen) = feed(&[&bytes[..cut], &bytes[cut..]]);
        let (_, at_once) = feed(&[&bytes]);
        prop_assert_eq!(&seen.written, &at_once.written);
        prop_assert_eq!(seen.closed, at_once.closed);
        prop_assert!(seen.opened.is_none() || seen.closed.is_none());
        handshake.answer(if answer == 0 { Reply::Succeeded } else { Reply::NotAllowed });
        seen.drain(&mut handshake);
        prop_assert_eq!(seen.relayed.is_some(), seen.opened.is_some() && answer == 0);
        prop_assert!(handshake.room() <= EARLY_MAX);
    }

    #[test]
    fn credentials_of_any_content_are_taken_whole(
        user in proptest::collection::vec(any::<u8>(), 0..=255),
        password in proptest::collection::vec(any::<u8>(), 1..=255),
    ) {
        let message = [&[1, user.len() as u8], &user[..], &[password.len() as u8], &password].concat();
        let (_, seen) = feed(&[&[5, 1, 2], &message, &to_name(b"a.b")]);
        let expected = Isolation::shared(user, password);
        prop_assert!(seen.opened.unwrap().isolation.may_share(&expected));
    }
}
