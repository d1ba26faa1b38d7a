//! CONNECT, and what a program of HTTP hears instead of an answer.

use std::time::Duration;

use mizzle_stream::{Isolation, OpenError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::{Port, read, read_all, within};

/// A connection on which this was said.
pub(super) async fn said(port: &Port, words: impl AsRef<[u8]>) -> TcpStream {
    let mut program = TcpStream::connect(port.address).await.unwrap();
    program.write_all(words.as_ref()).await.unwrap();
    program
}

/// All that is heard until the end.
pub(super) async fn heard(program: &mut TcpStream) -> String {
    String::from_utf8(read_all(program).await.unwrap()).unwrap()
}

const OK: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

#[tokio::test]
async fn connect_is_granted_once_the_exit_has_connected_and_carries_what_came_early() {
    let mut port = Port::open().await;
    for (asked, target) in [
        ("example.org:443", "example.org:443"),
        ("192.0.2.7:443", "192.0.2.7:443"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
    ] {
        let mut program = said(
            &port,
            format!("CONNECT {asked} HTTP/1.1\r\nHost: {asked}\r\n\r\nearly"),
        )
        .await;
        let pending = port.next().await;
        assert_eq!(pending.request.target.to_string(), target);
        assert!(matches!(pending.request.isolation, Isolation::Fresh));
        let mut byte = [0];
        let none = program.try_read(&mut byte).unwrap_err();
        assert_eq!(
            none.kind(),
            std::io::ErrorKind::WouldBlock,
            "no answer before the stream is open"
        );
        let mut far = pending.accept();
        assert_eq!(read(&mut program, OK.len()).await, OK);
        assert_eq!(read(&mut far, 5).await, b"early");
        far.write_all(b"hello").await.unwrap();
        drop(far);
        assert_eq!(read(&mut program, 5).await, b"hello");
    }
    assert_eq!(port.counters.opened(), 3);
}

#[tokio::test]
async fn proxy_authorization_is_the_isolation() {
    let mut port = Port::open().await;
    let _program = said(
        &port,
        "CONNECT a.b:1 HTTP/1.1\r\nProxy-Authorization: Basic YWxpY2U6d29yaw==\r\n\r\n",
    )
    .await;
    let expected = Isolation::shared(b"alice".to_vec(), b"work".to_vec());
    assert!(port.next().await.request.isolation.may_share(&expected));
}

#[tokio::test]
async fn each_failure_is_a_status_and_a_page_whatever_was_asked() {
    let mut port = Port::open().await;
    let cases = [
        (OpenError::ConnectionRefused, 502),
        (OpenError::NameNotFound, 502),
        (OpenError::Timeout, 504),
        (OpenError::Refused, 403),
        (OpenError::NoExit, 503),
        (OpenError::Limit, 503),
        (OpenError::Expired, 503),
    ];
    for (error, status) in cases {
        for asked in ["CONNECT a.b:80", "GET http://a.b/x", "POST http://a.b/"] {
            // More than is read of it: the page must arrive all the same.
            let rest = "Content-Length: 3000\r\n\r\n".to_owned() + &"x".repeat(3000);
            let mut program = said(&port, format!("{asked} HTTP/1.1\r\n{rest}")).await;
            port.next().await.refuse(error);
            let page = heard(&mut program).await;
            assert!(page.starts_with(&format!("HTTP/1.1 {status} ")), "{page}");
            assert!(
                page.contains(&format!("a.b:80: the stream was not opened: {error}")),
                "{page}"
            );
        }
    }
    assert_eq!(
        (port.counters.opened(), port.counters.failed()),
        (0, 3 * cases.len() as u64)
    );
}

#[tokio::test]
async fn what_is_no_request_for_a_proxy_gets_a_page() {
    let port = Port::open().await;
    let cases = [
        (
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            400,
            "This port is the proxy of a mixnet",
        ),
        (
            "\r\nGET /favicon.ico HTTP/1.0\r\n\r\n",
            400,
            "This port is the proxy of a mixnet",
        ),
        ("GET https://a.b/ HTTP/1.1\r\n\r\n", 400, "CONNECT"),
        ("GET ftp://a.b/ HTTP/1.1\r\n\r\n", 400, "http://"),
        ("GET http://a.b/ HTTP/1.1\nHost: a.b\n\n", 400, "CR LF"),
        (
            "GET http://a.b/ HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            400,
            "second line",
        ),
        (
            "POST http://a.b/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "Content-Length",
        ),
        (
            "CONNECT a.b:1 HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "Content-Length",
        ),
        ("GET http://a.b/ HTTP/2.0\r\n\r\n", 505, "version"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version"),
        (
            "GET http://a.b/ HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            501,
            "CONNECT",
        ),
        (
            "GET http://a.b/ HTTP/1.1\r\nProxy-Authorization: Digest x\r\n\r\n",
            407,
            "Proxy-Authenticate: Basic",
        ),
    ];
    for (words, status, part) in cases {
        let page = heard(&mut said(&port, words).await).await;
        assert!(
            page.starts_with(&format!("HTTP/1.1 {status} ")),
            "{words}: {page}"
        );
        assert!(page.contains(part), "{words}: {page}");
    }
    assert_eq!(port.counters.failed(), cases.len() as u64);
}

#[tokio::test]
async fn headers_are_bounded_in_size_and_time() {
    let port = Port::open_with(|config| config.with_handshake_timeout(Duration::from_millis(50))).await;
    let endless = format!("GET http://a.b/ HTTP/1.1\r\nA: {}", "x".repeat(40_000));
    let page = heard(&mut said(&port, endless).await).await;
    assert!(page.starts_with("HTTP/1.1 431 "), "{page}");
    let page = heard(&mut said(&port, "GET http://a.b/ HTTP/1.1\r\nA: ").await).await;
    assert!(page.starts_with("HTTP/1.1 408 "), "{page}");
}

#[tokio::test]
async fn a_program_that_goes_away_cancels_its_opening() {
    let mut port = Port::open().await;
    for asked in [
        "CONNECT a.b:1 HTTP/1.1\r\n\r\n",
        "GET http://a.b/ HTTP/1.1\r\n\r\n",
    ] {
        let program = said(&port, asked).await;
        let pending = port.next().await;
        drop(program);
        within(pending.given_up()).await;
    }
}

#[tokio::test]
async fn stopping_tells_who_waits() {
    let mut port = Port::open().await;
    let mut program = said(&port, "CONNECT a.b:1 HTTP/1.1\r\n\r\n").await;
    let pending = port.next().await;
    port.stop.send_replace(true);
    assert!(heard(&mut program).await.starts_with("HTTP/1.1 503 "));
    within(pending.given_up()).await;
    within(port.serving).await.unwrap();
}
