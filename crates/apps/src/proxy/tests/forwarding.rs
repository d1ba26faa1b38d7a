//! Requests for `http://` addresses: what the server gets, byte by byte, and what the program gets back.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;

use super::http::{heard, said};
use super::support::{Port, read, read_all, within};

/// A head, up to its empty line.
pub(super) async fn head(from: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(from.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

pub(super) async fn expect(from: &mut (impl AsyncReadExt + Unpin), text: &str) {
    let got = read(from, text.len()).await;
    assert_eq!(String::from_utf8_lossy(&got), text);
}

pub(super) async fn say(to: &mut (impl AsyncWriteExt + Unpin), text: &str) {
    within(to.write_all(text.as_bytes())).await.unwrap();
}

/// Sends a request whose answer is awaited, and takes its stream.
pub(super) async fn sent(port: &mut Port, words: &str) -> (TcpStream, DuplexStream) {
    let program = said(port, words).await;
    (program, port.next().await.accept())
}

pub(super) const GET: &str = "GET http://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n";
pub(super) const GOT: &str = "GET / HTTP/1.1\r\nHost: a.b\r\n\r\n";
pub(super) const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_request_and_its_answer_keep_their_bytes() {
    let mut port = Port::open().await;
    let mut program = said(
        &port,
        "GET http://Example.org:8080/a?b=%20c HTTP/1.1\r\nuser-agent: x y\r\nHost: wrong\r\n\
         Proxy-Authorization: Basic YWxpY2U6d29yaw==\r\nProxy-Connection: Keep-Alive\r\nX-ODD: 1\r\nx-odd: 2\r\n\r\n",
    )
    .await;
    let pending = port.next().await;
    assert_eq!(pending.request.target.to_string(), "example.org:8080");
    let mut far = pending.accept();
    let got =
        "GET /a?b=%20c HTTP/1.1\r\nuser-agent: x y\r\nHost: Example.org:8080\r\nX-ODD: 1\r\nx-odd: 2\r\n\r\n";
    expect(&mut far, got).await;
    let answer = "HTTP/1.1 404 Nowhere to be found\r\nset-cookie: a\r\nServer: y\r\nSET-cookie: b\r\n\
                  Content-Length: 5\r\n\r\nhello";
    say(&mut far, answer).await;
    expect(&mut program, answer).await;
    program.shutdown().await.unwrap();
    assert!(read_all(&mut program).await.unwrap().is_empty());
    assert!(
        read_all(&mut far).await.unwrap().is_empty(),
        "the server gets nothing more"
    );
    assert_eq!((port.counters.failed(), port.counters.broken()), (0, 0));
}

#[tokio::test]
async fn one_connection_carries_requests_to_many_servers_and_a_stream_many_to_one() {
    let mut port = Port::open().await;
    let (mut program, mut first) = sent(&mut port, GET).await;
    for _ in 0..3 {
        expect(&mut first, GOT).await;
        say(&mut first, HELLO).await;
        expect(&mut program, HELLO).await;
        say(&mut program, GET).await;
    }
    expect(&mut first, GOT).await;
    say(&mut first, HELLO).await;
    expect(&mut program, HELLO).await;
    assert_eq!(port.counters.opened(), 1);
    for (request, target) in [
        ("GET http://c.d/ HTTP/1.1\r\n\r\n", "c.d:80"),
        // Another port, and other credentials, are another stream, too.
        ("GET http://c.d:81/ HTTP/1.1\r\n\r\n", "c.d:81"),
        (
            "GET http://c.d:81/ HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
            "c.d:81",
        ),
        // What can't be sent twice never takes a stream that may be closing.
        (
            "POST http://c.d:81/ HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
            "c.d:81",
        ),
    ] {
        say(&mut program, request).await;
        let pending = port.next().await;
        assert_eq!(pending.request.target.to_string(), target);
        let mut far = pending.accept();
        head(&mut far).await;
        say(&mut far, HELLO).await;
        expect(&mut program, HELLO).await;
    }
    say(&mut program, "CONNECT c.d:443 HTTP/1.1\r\n\r\n").await;
    let mut far = port.next().await.accept();
    assert!(head(&mut program).await.starts_with("HTTP/1.1 200 "));
    say(&mut far, "tunnel").await;
    expect(&mut program, "tunnel").await;
}

#[tokio::test]
async fn a_stream_that_the_server_closed_meanwhile_is_replaced() {
    let mut port = Port::open().await;
    let (mut program, mut far) = sent(&mut port, GET).await;
    head(&mut far).await;
    say(&mut far, HELLO).await;
    expect(&mut program, HELLO).await;
    // First one that has ended before the request, then one that ends when it has it.
    drop(far);
    say(&mut program, GET).await;
    let mut far = port.next().await.accept();
    head(&mut far).await;
    say(&mut far, HELLO).await;
    expect(&mut program, HELLO).await;
    say(&mut program, GET).await;
    expect(&mut far, GOT).await;
    drop(far);
    let mut far = port.next().await.accept();
    expect(&mut far, GOT).await;
    say(&mut far, HELLO).await;
    expect(&mut program, HELLO).await;
    assert_eq!((port.counters.opened(), port.counters.failed()), (3, 0));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut port = Port::open().await;
    let (mut program, mut far) = sent(&mut port, &GET.repeat(3)).await;
    for n in 0..3 {
        expect(&mut far, GOT).await;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}");
        say(&mut far, &answer).await;
        expect(&mut program, &answer).await;
    }
}

#[tokio::test]
async fn programs_of_http_1_0_get_what_they_understand() {
    let mut port = Port::open().await;
    let (mut program, mut far) = sent(
        &mut port,
        "GET http://a.b/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    )
    .await;
    expect(&mut far, GOT).await;
    say(
        &mut far,
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n3\r\n...\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(
        heard(&mut program).await,
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello..."
    );
    assert_eq!(port.counters.broken(), 0);
}

#[tokio::test]
async fn an_answer_that_is_none_becomes_a_page() {
    let mut port = Port::open().await;
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(40);
    for (answer, part) in [
        ("", "the server closed without an answer"),
        ("HTTP/1.1 200 OK\r\nServ", "the server closed without an answer"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "the server's answer is malformed"),
        ("HTTP/1.1 200 OK\nServer: x\n\n", "CR LF"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "Content-Length",
        ),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "switched protocols"),
        (&endless, "too many interim responses"),
    ] {
        let (mut program, mut far) = sent(&mut port, GET).await;
        head(&mut far).await;
        say(&mut far, answer).await;
        drop(far);
        let heard = heard(&mut program).await;
        let page = heard.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 502 ") && page.contains(part), "{page}");
    }
}

#[tokio::test]
async fn what_lies_still_is_ended() {
    let mut port = Port::open_with(|config| config.with_stall_timeout(Duration::from_millis(50))).await;
    let (mut program, mut far) = sent(&mut port, GET).await;
    head(&mut far).await;
    assert!(heard(&mut program).await.starts_with("HTTP/1.1 504 "));
    let (mut program, mut far) = sent(&mut port, GET).await;
    say(&mut far, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello").await;
    let error = read_all(&mut program).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!((port.counters.failed(), port.counters.broken()), (1, 1));
}

#[tokio::test]
async fn between_requests_a_connection_ends_after_its_time_or_when_we_stop() {
    let mut port = Port::open_with(|config| config.with_idle_timeout(Duration::from_millis(50))).await;
    let (mut program, mut far) = sent(&mut port, GET).await;
    say(&mut far, HELLO).await;
    assert_eq!(heard(&mut program).await, HELLO);
    assert_eq!(read_all(&mut far).await.unwrap(), GOT.as_bytes());

    let mut port = Port::open().await;
    let (mut program, mut far) = sent(&mut port, GET).await;
    say(&mut far, HELLO).await;
    expect(&mut program, HELLO).await;
    port.stop.send_replace(true);
    assert!(read_all(&mut program).await.unwrap().is_empty());
    within(port.serving).await.unwrap();
}

#[tokio::test]
async fn an_answer_under_way_may_end_when_we_stop() {
    let mut port = Port::open().await;
    let (mut program, mut far) = sent(&mut port, GET).await;
    head(&mut far).await;
    port.stop.send_replace(true);
    say(&mut far, HELLO).await;
    assert_eq!(heard(&mut program).await, HELLO);
    within(port.serving).await.unwrap();
}

#[tokio::test]
async fn a_program_that_goes_away_ends_its_stream() {
    let mut port = Port::open().await;
    let (program, mut far) = sent(&mut port, GET).await;
    head(&mut far).await;
    drop(program);
    assert!(read_all(&mut far).await.unwrap().is_empty());

    let upload = "POST http://a.b/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nhello";
    let (program, mut far) = sent(&mut port, upload).await;
    head(&mut far).await;
    expect(&mut far, "hello").await;
    drop(program);
    assert!(read_all(&mut far).await.unwrap().is_empty());
}
