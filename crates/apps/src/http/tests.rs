//! Parsers and rewriting without sockets.

use mizzle_stream::{Isolation, OpenError, Target};
use proptest::prelude::*;

use super::body::{Decoder, Framing, Step, TRAILERS_MAX, of_request, of_response, write_last_chunk};
use super::forward::{
    Asked, asked, isolation, may_repeat, program_stays, request_head, response_head, server_stays,
};
use super::head::{
    FIELDS_MAX, Fields, HEAD_MAX, HeadEnd, Malformed, RequestHead, ResponseHead, request, response,
};
use super::refusal::Refusal;

fn parsed(text: &str) -> Result<RequestHead, Malformed> {
    let len = HeadEnd::default().find(text.as_bytes())?.expect("a whole head");
    assert_eq!(len, text.len());
    request(text.as_bytes())
}

/// A request with this first line and these lines of fields.
fn asking(line: &str, fields: &str) -> RequestHead {
    parsed(&format!("{line}\r\n{fields}\r\n")).unwrap()
}

fn answering(text: &str) -> Result<ResponseHead, Malformed> {
    let len = HeadEnd::default().find(text.as_bytes())?.expect("a whole head");
    assert_eq!(len, text.len());
    response(text.as_bytes())
}

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

#[test]
fn a_requests_length_is_clear_or_refused() {
    let of = |version: &str, fields: &str| of_request(&asking(&format!("POST http://a/ {version}"), fields));
    let cases = [
        ("", Ok(Framing::Empty)),
        ("Content-Length: 0\r\n", Ok(Framing::Length(0))),
        ("Content-Length: 12\r\n", Ok(Framing::Length(12))),
        ("Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked)),
        ("Content-Length: +1\r\n", Err(Malformed::Length)),
        ("Content-Length: -1\r\n", Err(Malformed::Length)),
        ("Content-Length: 1 2\r\n", Err(Malformed::Length)),
        ("Content-Length: 0x1\r\n", Err(Malformed::Length)),
        ("Content-Length:\r\n", Err(Malformed::Length)),
        ("Content-Length: 99999999999999999999\r\n", Err(Malformed::Length)),
        ("Content-Length: 5, 5\r\n", Err(Malformed::Length)),
        (
            "Content-Length: 5\r\ncontent-length: 5\r\n",
            Err(Malformed::Length),
        ),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Err(Malformed::TwoLengths),
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            Err(Malformed::TwoLengths),
        ),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(Malformed::Coding)),
        ("Transfer-Encoding: chunked, chunked\r\n", Err(Malformed::Coding)),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Err(Malformed::Coding),
        ),
        ("Transfer-Encoding: xchunked\r\n", Err(Malformed::Coding)),
        ("Transfer-Encoding: \x0bchunked\r\n", Err(Malformed::FieldValue)),
        ("Transfer-Encoding:\r\n", Err(Malformed::Coding)),
    ];
    for (fields, expected) in cases {
        let text = format!("POST http://a/ HTTP/1.1\r\n{fields}\r\n");
        assert_eq!(
            parsed(&text).and_then(|head| of_request(&head)),
            expected,
            "{fields:?}"
        );
    }
    assert_eq!(
        of("HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
        Err(Malformed::TwoLengths)
    );
}

#[test]
fn an_answers_length_depends_on_status_and_method() {
    let of = |status: u16, method: &str, fields: &str| {
        let head = answering(&format!("HTTP/1.1 {status} x\r\n{fields}\r\n")).unwrap();
        of_response(&head, method)
    };
    assert_eq!(of(200, "GET", ""), Ok(Framing::UntilClose));
    assert_eq!(of(200, "GET", "Content-Length: 3\r\n"), Ok(Framing::Length(3)));
    assert_eq!(of(200, "HEAD", "Content-Length: 3\r\n"), Ok(Framing::Empty));
    assert_eq!(of(200, "head", "Content-Length: 3\r\n"), Ok(Framing::Length(3)));
    for status in [100, 103, 204, 304] {
        assert_eq!(
            of(status, "GET", "Transfer-Encoding: chunked\r\n"),
            Ok(Framing::Empty)
        );
    }
    assert_eq!(
        of(200, "GET", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        Err(Malformed::TwoLengths)
    );
}

/// What a decoder makes of bytes that come in pieces: data, trailers if the body ended, and what is left.
fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<Fields>, Vec<u8>), Malformed> {
    let (mut decoder, mut waiting, mut data) = (Decoder::new(framing), Vec::new(), Vec::new());
    let mut end = None;
    for piece in pieces {
        waiting.extend_from_slice(piece);
        while end.is_none() {
            match decoder.step(&waiting)? {
                Step::More => break,
                Step::Framing(len) => drop(waiting.drain(..len)),
                Step::Data(len) => {
                    assert!(len > 0);
                    data.extend(waiting.drain(..len));
                }
                Step::End(trailers) => end = Some(trailers),
            }
        }
    }
    assert!(end.is_none() || decoder.may_end());
    Ok((data, end, waiting))
}

#[test]
fn chunks_are_joined_and_trailers_found_at_every_split() {
    let whole = b"5\r\nhello\r\n00A;x=\"y;\tz\"\r\n, world...\r\n0 \t\r\nSum: 7\r\n\r\nnext";
    for first in 0..=whole.len() {
        for second in [first, (first + whole.len()) / 2, whole.len()] {
            let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
            let (data, trailers, left) = decode(Framing::Chunked, &pieces).unwrap();
            assert_eq!(data, b"hello, world...");
            assert_eq!(trailers.unwrap().all("sum").next(), Some(&b"7"[..]));
            assert_eq!(left, b"next");
        }
    }
    for short in 0..whole.len() - 4 {
        let (_, end, _) = decode(Framing::Chunked, &[&whole[..short]]).unwrap();
        assert_eq!(end, None);
    }
}

#[test]
fn damaged_chunks_are_refused() {
    for bytes in [
        &b"\r\n"[..],
        b"x\r\n",
        b"-1\r\n",
        b"0x5\r\n",
        b"5\nhello",
        b"5\rhello",
        b"5 x\r\nhello",
        b"5;a\nb\r\nhello\r\n",
        b"5\r\nhello0\r\n",
        b"5\r\nhello\n0\r\n",
        b"5\r\nhello\r\r",
        b"11111111111111111\r\n",
        &[b"5;", &[b'x'; 300][..]].concat(),
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\n\r\n\r\n",
        &[b"0\r\n", &vec![b'x'; TRAILERS_MAX][..]].concat(),
    ] {
        assert!(
            decode(Framing::Chunked, &[bytes]).is_err(),
            "{:?}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn lengths_are_kept_to_and_the_end_of_a_connection_may_be_the_end() {
    let (data, end, left) = decode(Framing::Length(5), &[b"hel", b"lo next"]).unwrap();
    assert_eq!(
        (&data[..], end.is_some(), &left[..]),
        (&b"hello"[..], true, &b" next"[..])
    );
    assert!(!Decoder::new(Framing::Length(1)).may_end());
    assert!(!Decoder::new(Framing::Chunked).may_end());
    assert!(Decoder::new(Framing::UntilClose).may_end());
    assert!(decode(Framing::Empty, &[b""]).unwrap().1.is_some());
}

fn goes_to(line: &str) -> Result<(String, String, String), Refusal> {
    match asked(&asking(line, "Host: elsewhere\r\n"))? {
        Asked::Connect(target) => Ok((target.to_string(), String::new(), String::new())),
        Asked::Forward(forward) => Ok((
            forward.target.to_string(),
            forward.authority.into(),
            String::from_utf8(forward.path.into()).unwrap(),
        )),
    }
}

#[test]
fn addresses_become_targets_without_being_resolved() {
    let cases = [
        (
            "GET http://Example.org HTTP/1.1",
            "example.org:80",
            "Example.org",
            "/",
        ),
        ("GET HTTP://a.b:/x HTTP/1.1", "a.b:80", "a.b:", "/x"),
        ("GET http://a.b:8080/x?y HTTP/1.1", "a.b:8080", "a.b:8080", "/x?y"),
        ("GET http://a.b?y/z HTTP/1.1", "a.b:80", "a.b", "/?y/z"),
        (
            "GET http://192.0.2.7/@: HTTP/1.1",
            "192.0.2.7:80",
            "192.0.2.7",
            "/@:",
        ),
        (
            "GET http://[2001:db8::1]:81/ HTTP/1.1",
            "[2001:db8::1]:81",
            "[2001:db8::1]:81",
            "/",
        ),
        ("GET http://[::1]/ HTTP/1.1", "[::1]:80", "[::1]", "/"),
        ("GET http://a.b/ü HTTP/1.1", "a.b:80", "a.b", "/ü"),
        ("OPTIONS http://a.b HTTP/1.1", "a.b:80", "a.b", "*"),
        ("OPTIONS http://a.b/ HTTP/1.1", "a.b:80", "a.b", "/"),
        ("CONNECT Example.org:443 HTTP/1.1", "example.org:443", "", ""),
        ("CONNECT 192.0.2.7:443 HTTP/1.0", "192.0.2.7:443", "", ""),
        ("CONNECT [2001:db8::1]:443 HTTP/1.1", "[2001:db8::1]:443", "", ""),
    ];
    for (line, target, authority, path) in cases {
        let expected = (target.to_owned(), authority.to_owned(), path.to_owned());
        assert_eq!(goes_to(line), Ok(expected), "{line}");
    }
    let Asked::Connect(target) = asked(&asking("CONNECT 192.0.2.7:1 HTTP/1.1", "")).unwrap() else {
        panic!("a tunnel");
    };
    assert_eq!(target, Target::ip([192, 0, 2, 7].into(), 1));
}

#[test]
fn what_is_no_request_for_a_proxy_is_refused_with_its_reason() {
    let cases = [
        ("GET / HTTP/1.1", Refusal::NoProxyRequest),
        ("OPTIONS * HTTP/1.1", Refusal::NoProxyRequest),
        ("GET example.org/ HTTP/1.1", Refusal::NoProxyRequest),
        ("GET https://a.b/ HTTP/1.1", Refusal::Https),
        ("GET wss://a.b/ HTTP/1.1", Refusal::Https),
        ("GET ftp://a.b/ HTTP/1.1", Refusal::Scheme),
        ("GET http:///x HTTP/1.1", Refusal::Address),
        ("GET http://a.b:99999/ HTTP/1.1", Refusal::Address),
        ("GET http://a.b:+80/ HTTP/1.1", Refusal::Address),
        ("GET http://a:1:2/ HTTP/1.1", Refusal::Address),
        ("GET http://[::1/ HTTP/1.1", Refusal::Address),
        ("GET http://[::1]]/ HTTP/1.1", Refusal::Address),
        ("GET http://[1.2.3.4]/ HTTP/1.1", Refusal::Address),
        ("GET http://[::1]x/ HTTP/1.1", Refusal::Address),
        ("GET http://ü.org/ HTTP/1.1", Refusal::Address),
        ("GET http://a.b/x#y HTTP/1.1", Refusal::Address),
        ("GET http://u:p@a.b/ HTTP/1.1", Refusal::UserInAddress),
        ("CONNECT a.b HTTP/1.1", Refusal::Address),
        ("CONNECT a.b: HTTP/1.1", Refusal::Address),
        ("CONNECT http://a.b:1/ HTTP/1.1", Refusal::Address),
        ("CONNECT / HTTP/1.1", Refusal::Address),
        ("CONNECT :443 HTTP/1.1", Refusal::Address),
    ];
    for (line, refusal) in cases {
        assert_eq!(goes_to(line), Err(refusal), "{line}");
    }
    let with = |line: &str, fields: &str| asked(&asking(line, fields)).unwrap_err();
    let line = "GET http://a/ HTTP/1.1";
    assert_eq!(
        with(line, "Host: a\r\nhost: a\r\n"),
        Refusal::Malformed(Malformed::Host)
    );
    assert_eq!(
        with(line, "Connection: Upgrade\r\nUpgrade: WebSocket\r\n"),
        Refusal::WebSocket
    );
    assert_eq!(
        with("TRACE http://a/ HTTP/1.1", "Max-Forwards: 0\r\n"),
        Refusal::LastHop
    );
}

#[test]
fn basic_credentials_are_the_isolation() {
    let of = |fields: &str| isolation(&asking("GET http://a/ HTTP/1.1", fields).fields);
    assert!(matches!(of(""), Ok(Isolation::Fresh)));
    // "alice:work:late", as in RFC 7617 the user ends at the first colon.
    let alice = Isolation::shared(b"alice".to_vec(), b"work:late".to_vec());
    for scheme in ["Basic", "BASIC", "basic"] {
        let given = of(&format!("Proxy-Authorization: {scheme} YWxpY2U6d29yazpsYXRl\r\n")).unwrap();
        assert!(given.may_share(&alice));
    }
    assert!(matches!(
        of("Proxy-Authorization: Basic Og==\r\n"),
        Ok(Isolation::Fresh)
    ));
    for bad in [
        "Proxy-Authorization: Bearer YWxpY2U6d29yaw==\r\n",
        "Proxy-Authorization: Basic\r\n",
        "Proxy-Authorization: Basic !\r\n",
        "Proxy-Authorization: Basic YWxpY2U=\r\n",
        "Proxy-Authorization: Basic Og==\r\nProxy-Authorization: Basic Og==\r\n",
    ] {
        assert!(matches!(of(bad), Err(Refusal::Credentials)), "{bad}");
    }
}

/// The request as the server gets it.
fn forwarded(text: &str) -> String {
    let head = parsed(text).unwrap();
    let Asked::Forward(forward) = asked(&head).unwrap() else {
        panic!("nothing to forward");
    };
    let bytes = request_head(&head, &forward, of_request(&head).unwrap());
    String::from_utf8(bytes).unwrap()
}

#[test]
fn requests_go_on_without_what_was_for_the_proxy_and_with_nothing_more() {
    assert_eq!(
        forwarded(
            "PoST http://Example.org:81/a?b HTTP/1.0\r\nuser-AGENT: x\r\nProxy-Connection: keep-alive\r\n\
             HOST: other\r\nProxy-Authorization: Basic Og==\r\nConnection: close, X-Secret\r\nX-secret: 1\r\n\
             Keep-Alive: 1\r\nTE: trailers\r\nTrailer: a\r\nUpgrade: h2c\r\nCookie: a=b\r\ncookie: c=d\r\n\
             Content-Length: 3\r\nAccept: */*\r\n\r\n"
        ),
        "PoST /a?b HTTP/1.1\r\nuser-AGENT: x\r\nHOST: Example.org:81\r\nCookie: a=b\r\ncookie: c=d\r\n\
         Content-Length: 3\r\nAccept: */*\r\n\r\n"
    );
    assert_eq!(
        forwarded("GET http://a.b HTTP/1.0\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: a.b\r\n\r\n"
    );
    assert_eq!(
        forwarded("PUT http://a.b/ HTTP/1.1\r\nHost: a.b\r\ntransfer-ENCODING: CHUNKED\r\n\r\n"),
        "PUT / HTTP/1.1\r\nHost: a.b\r\ntransfer-ENCODING: CHUNKED\r\n\r\n"
    );
}

#[test]
fn connection_can_not_take_away_what_frames_or_routes_a_request() {
    let text = "POST http://a/ HTTP/1.1\r\nHost: a\r\nConnection: Host, content-length, transfer-encoding\r\n\
                Content-Length: 3\r\n\r\n";
    assert_eq!(
        forwarded(text),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    );
}

#[test]
fn max_forwards_counts_down_where_it_counts() {
    let fields = "Host: a\r\nMax-Forwards: 3\r\n\r\n";
    assert!(forwarded(&format!("TRACE http://a/ HTTP/1.1\r\n{fields}")).contains("Max-Forwards: 2\r\n"));
    assert!(forwarded(&format!("GET http://a/ HTTP/1.1\r\n{fields}")).contains("Max-Forwards: 3\r\n"));
}

#[test]
fn answers_come_back_without_what_was_for_one_connection() {
    let head = answering(
        "HTTP/1.0 200 Fine\r\nserver: x\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
         Proxy-Authenticate: Basic\r\nWWW-Authenticate: Basic\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
         Content-Length: 2\r\n\r\n",
    )
    .unwrap();
    let expected = "HTTP/1.1 200 Fine\r\nserver: x\r\nWWW-Authenticate: Basic\r\nSet-Cookie: a\r\n\
                    Set-Cookie: b\r\nContent-Length: 2\r\n";
    assert_eq!(
        String::from_utf8(response_head(&head, false, false)).unwrap(),
        format!("{expected}\r\n")
    );
    assert_eq!(
        String::from_utf8(response_head(&head, false, true)).unwrap(),
        format!("{expected}Connection: close\r\n\r\n")
    );
    let head = answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert!(response_head(&head, true, false).ends_with(b"OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
    assert!(response_head(&head, false, false).ends_with(b"OK\r\n\r\n"));
}

#[test]
fn who_may_go_on_is_as_the_versions_say() {
    let stays = |line: &str, fields: &str| program_stays(&asking(line, fields));
    assert!(stays("GET http://a/ HTTP/1.1", ""));
    assert!(!stays("GET http://a/ HTTP/1.1", "Connection: a, Close\r\n"));
    assert!(!stays("GET http://a/ HTTP/1.1", "Proxy-Connection: close\r\n"));
    assert!(!stays("GET http://a/ HTTP/1.0", "Connection: keep-alive\r\n"));
    let stays = |text: &str| server_stays(&answering(text).unwrap(), Framing::Length(1));
    assert!(stays("HTTP/1.1 200 OK\r\n\r\n"));
    assert!(!stays("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"));
    assert!(!stays("HTTP/1.0 200 OK\r\n\r\n"));
    assert!(stays("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"));
    assert!(may_repeat(&asking("GET http://a/ HTTP/1.1", ""), Framing::Empty));
    assert!(!may_repeat(
        &asking("GET http://a/ HTTP/1.1", ""),
        Framing::Length(1)
    ));
    assert!(!may_repeat(
        &asking("POST http://a/ HTTP/1.1", ""),
        Framing::Empty
    ));
}

#[test]
fn each_failure_has_its_status_and_a_page_with_a_way_out() {
    let target = Target::name("example.org", 80).unwrap();
    for (error, status) in [
        (OpenError::General, 502),
        (OpenError::Refused, 403),
        (OpenError::NetUnreachable, 502),
        (OpenError::HostUnreachable, 502),
        (OpenError::ConnectionRefused, 502),
        (OpenError::TtlExpired, 502),
        (OpenError::NameNotFound, 502),
        (OpenError::Timeout, 504),
        (OpenError::NoExit, 503),
        (OpenError::Limit, 503),
        (OpenError::Closed, 503),
        (OpenError::Expired, 503),
    ] {
        let page = String::from_utf8(Refusal::NotOpened(error).page(Some(&target), false)).unwrap();
        let (head, text) = page.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", text.len())));
        assert!(
            text.starts_with("example.org:80: ") && text.contains(&error.to_string()),
            "{text}"
        );
        // A page is an answer of HTTP that our own parser takes.
        assert_eq!(
            response(format!("{head}\r\n\r\n").as_bytes()).unwrap().status,
            status
        );
    }
    for (refusal, status) in [
        (Refusal::Malformed(Malformed::Version), 505),
        (Refusal::Malformed(Malformed::TooLong), 431),
        (Refusal::Malformed(Malformed::TwoLengths), 400),
        (Refusal::Malformed(Malformed::Coding), 501),
        (Refusal::Slow, 408),
        (Refusal::BadAnswer(Malformed::LineEnd), 502),
        (Refusal::Stalled, 504),
        (Refusal::Stopping, 503),
    ] {
        assert_eq!(refusal.status().0, status);
    }
    let page = String::from_utf8(Refusal::Credentials.page(None, true)).unwrap();
    assert!(page.starts_with("HTTP/1.1 407 ") && page.contains("Proxy-Authenticate: Basic"));
    assert!(page.ends_with("\r\n\r\n"), "no text after a HEAD");
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

    #[test]
    fn arbitrary_chunks_give_the_same_at_every_split(
        parts in proptest::collection::vec(prop::sample::select(vec![
            &b"5\r\nhello\r\n"[..], b"0\r\n", b"\r\n", b"A: b\r\n", b"3;x\r\nabc\r\n", b"\n", b"1", b"z", b" ",
        ]), 0..12),
        split in any::<prop::sample::Index>(),
        framing in prop_oneof![
            Just(Framing::Chunked), Just(Framing::Length(7)), Just(Framing::UntilClose), Just(Framing::Empty),
        ],
    ) {
        let bytes = parts.concat();
        let cut = split.index(bytes.len() + 1);
        let whole = decode(framing, &[&bytes]);
        prop_assert_eq!(decode(framing, &[&bytes[..cut], &bytes[cut..]]), whole.clone());
        if let Ok((_, Some(trailers), _)) = whole {
            let mut written = Vec::new();
            write_last_chunk(&trailers, &mut written);
            prop_assert_eq!(decode(Framing::Chunked, &[&written]).unwrap().1, Some(trailers));
        }
    }
}
