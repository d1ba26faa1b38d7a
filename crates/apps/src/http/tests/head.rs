//! Heads.

use proptest::prelude::*;

use super::super::body::of_request;
use super::super::forward::{Asked, asked, isolation, request_head};
use super::super::head::{FIELDS_MAX, HEAD_MAX, HeadEnd, Malformed, request, response};
use super::{answering, parsed};

#[test]
fn a_request_is_read_as_it_stands() {
    let head = parsed("GeT http://a/b?c HTTP/1.1\r\nhOST: a\r\nX-a:\r\nx-A: \t b \t c \t\r\n\r\n").unwrap();
    assert_eq!((&*head.method, &*head.target), ("GeT", &b"http://a/b?c"[..]));
    let mut written = Vec::new();
    head.fields.write(&mut written);
    assert_eq!(written, b"hOST: a\r\nX-a: \r\nx-A: b \t c\r\n");
}

#[test]
fn what_two_readers_could_understand_differently_is_refused() {
    let cases = [
        ("GET  / HTTP/1.1\r\n\r\n", Malformed::FirstLine),
        ("GET / HTTP/1.1 \r\n\r\n", Malformed::FirstLine),
        ("GET /\r\n\r\n", Malformed::FirstLine),
        (" GET / HTTP/1.1\r\n\r\n", Malformed::FirstLine),
        ("GE(T / HTTP/1.1\r\n\r\n", Malformed::FirstLine),
        ("GET /\t HTTP/1.1\r\n\r\n", Malformed::FirstLine),
        ("GET /\0 HTTP/1.1\r\n\r\n", Malformed::FirstLine),
        ("GET / http/1.1\r\n\r\n", Malformed::FirstLine),
        ("GET / HTTP/2.0\r\n\r\n", Malformed::Version),
        ("GET / HTTP/1.11\r\n\r\n", Malformed::Version),
        ("\r\n", Malformed::FirstLine),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Malformed::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\n", Malformed::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\rb: c\r\n\r\n", Malformed::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Malformed::LineEnd),
        ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Malformed::Folded),
        ("GET / HTTP/1.1\r\n\tA: b\r\n\r\n", Malformed::Folded),
        ("GET / HTTP/1.1\r\nA : b\r\n\r\n", Malformed::FieldName),
        ("GET / HTTP/1.1\r\n: b\r\n\r\n", Malformed::FieldName),
        ("GET / HTTP/1.1\r\nA\r\n\r\n", Malformed::FieldName),
        ("GET / HTTP/1.1\r\nA b: c\r\n\r\n", Malformed::FieldName),
        ("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", Malformed::FieldValue),
        ("GET / HTTP/1.1\r\nA: b\x7f\r\n\r\n", Malformed::FieldValue),
    ];
    for (text, malformed) in cases {
        assert_eq!(parsed(text), Err(malformed), "{text:?}");
    }
}

#[test]
fn a_head_is_bounded_in_bytes_and_fields() {
    let mut end = HeadEnd::default();
    let endless = vec![b'x'; HEAD_MAX];
    assert_eq!(end.find(&endless[..HEAD_MAX - 1]), Ok(None));
    assert_eq!(end.find(&endless), Err(Malformed::TooLong));
    let fields = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(parsed(&fields(FIELDS_MAX)).is_ok());
    assert_eq!(parsed(&fields(FIELDS_MAX + 1)), Err(Malformed::TooMany));
}

#[test]
fn answers_are_read_with_what_servers_get_wrong_without_harm() {
    let head = answering("HTTP/1.0 200\r\nA : b\r\n\r\n").unwrap();
    assert_eq!((head.status, &*head.reason), (200, &b""[..]));
    assert_eq!(head.fields.all("a").next(), Some(&b"b"[..]));
    assert_eq!(
        &*answering("HTTP/1.1 404 Not  Found\r\n\r\n").unwrap().reason,
        b"Not  Found"
    );
    for (text, malformed) in [
        ("HTTP/1.1 20 OK\r\n\r\n", Malformed::FirstLine),
        ("HTTP/1.1 099 OK\r\n\r\n", Malformed::FirstLine),
        ("HTTP/1.1 +20 OK\r\n\r\n", Malformed::FirstLine),
        ("HTTP/1.1  200 OK\r\n\r\n", Malformed::FirstLine),
        ("ICY 200 OK\r\n\r\n", Malformed::FirstLine),
        ("HTTP/1.1 200 OK\n\n", Malformed::LineEnd),
        ("HTTP/2 200 OK\r\n\r\n", Malformed::Version),
    ] {
        assert_eq!(answering(text), Err(malformed), "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Also near-misses: a valid beginning with noise behind it.
    #[test]
    fn arbitrary_heads_are_refused_or_hold_no_second_message(
        noise in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b','), any::<u8>(),
        ], 0..120),
        valid in 0..140_usize,
        split in any::<prop::sample::Index>(),
    ) {
        let whole = b"POST http://example.org:81/x HTTP/1.1\r\nHost: a\r\nConnection: b, c\r\n\
                      Content-Length: 5\r\nProxy-Authorization: Basic YTpi\r\nB: c\r\n\r\n";
        let bytes = [&whole[..valid.min(whole.len())], &noise[..], b"\r\n\r\n"].concat();
        let mut at_once = HeadEnd::default();
        let found = at_once.find(&bytes);
        let mut in_two = HeadEnd::default();
        let cut = split.index(bytes.len() + 1);
        let first = in_two.find(&bytes[..cut]);
        prop_assert_eq!(if first == Ok(None) { in_two.find(&bytes) } else { first }, found);
        let Ok(Some(len)) = found else { return Ok(()) };
        let _ = response(&bytes[..len]);
        let Ok(head) = request(&bytes[..len]) else { return Ok(()) };
        let _ = isolation(&head.fields);
        let (Ok(Asked::Forward(forward)), Ok(framing)) = (asked(&head), of_request(&head)) else {
            return Ok(());
        };
        // What goes on is one head with one Host, understood the same way.
        let written = request_head(&head, &forward, framing);
        prop_assert_eq!(HeadEnd::default().find(&written), Ok(Some(written.len())));
        let again = request(&written).unwrap();
        prop_assert_eq!(of_request(&again), Ok(framing));
        prop_assert_eq!(again.fields.all("Host").count(), 1);
        prop_assert!(again.fields.all("Connection").next().is_none());
        prop_assert!(again.fields.all("Proxy-Authorization").next().is_none());
    }
}
