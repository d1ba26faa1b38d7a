//! What is asked, and what goes on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mizzle_stream::{Isolation, OpenError, Target};

use super::super::body::{Framing, of_request};
use super::super::forward::{
    Asked, asked, isolation, may_repeat, program_stays, request_head, response_head, server_stays,
};
use super::super::head::{Malformed, response};
use super::super::refusal::Refusal;
use super::{answering, asking, parsed};

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
    let head = answering("HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n").unwrap();
    assert_eq!(response_head(&head, false, false), b"HTTP/1.1 204 None\r\n\r\n");
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

const PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1080);

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
        (OpenError::TooFewUsers, 503),
    ] {
        let page = String::from_utf8(Refusal::NotOpened(error).page(PORT, Some(&target), false)).unwrap();
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
    let page = String::from_utf8(Refusal::Credentials.page(PORT, None, true)).unwrap();
    assert!(page.starts_with("HTTP/1.1 407 ") && page.contains("Proxy-Authenticate: Basic"));
    assert!(page.ends_with("\r\n\r\n"), "no text after a HEAD");
}
