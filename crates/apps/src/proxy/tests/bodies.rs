//! Bodies of forwarded requests and of their answers.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;

use super::forwarding::{GET, GOT, HELLO, expect, head, say, sent};
use super::http::heard;
use super::support::{Port, read, read_all, within};

#[tokio::test]
async fn bodies_pass_as_they_come() {
    let mut port = Port::open().await;
    let (mut program, mut far) = sent(
        &mut port,
        "POST http://a.b/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nhello",
    )
    .await;
    expect(
        &mut far,
        "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 10\r\n\r\nhello",
    )
    .await;
    say(&mut program, "world").await;
    expect(&mut far, "world").await;
    say(&mut far, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    expect(&mut program, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    say(&mut far, "world").await;
    expect(&mut program, "world").await;
    say(&mut program, GET).await;
    expect(&mut far, GOT).await;
    assert_eq!(port.counters.opened(), 1);
}

#[tokio::test]
async fn chunks_are_framed_anew_and_trailers_pass() {
    let mut port = Port::open().await;
    let (mut program, mut far) = sent(
        &mut port,
        "PUT http://a.b/ HTTP/1.1\r\nTrailer: Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         005;extension=1\r\nhello\r\n",
    )
    .await;
    let got = "PUT / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    expect(&mut far, got).await;
    say(&mut program, "0\r\nSum: 7\r\nContent-Length: 9\r\n\r\n").await;
    expect(&mut far, "0\r\nSum: 7\r\n\r\n").await;
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    say(&mut far, answer).await;
    expect(&mut program, answer).await;
    say(&mut far, "0\r\nSum: 8\r\n\r\n").await;
    expect(&mut program, "0\r\nSum: 8\r\n\r\n").await;
    // The connection goes on after it.
    say(&mut program, GET).await;
    expect(&mut far, GOT).await;
    assert_eq!(port.counters.opened(), 1);
}

#[tokio::test]
async fn who_expects_100_gets_it_from_the_server() {
    let mut port = Port::open().await;
    let ask = "POST http://a.b/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let got = "POST / HTTP/1.1\r\nHost: a.b\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let (mut program, mut far) = sent(&mut port, ask).await;
    expect(&mut far, got).await;
    say(&mut far, "HTTP/1.1 100 Continue\r\n\r\n").await;
    expect(&mut program, "HTTP/1.1 100 Continue\r\n\r\n").await;
    say(&mut program, "hello").await;
    expect(&mut far, "hello").await;
    say(&mut far, HELLO).await;
    expect(&mut program, HELLO).await;

    // A final answer instead: what follows may be the body or another request, so nothing may follow.
    for answer in ["HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n", HELLO] {
        let (mut program, mut far) = sent(&mut port, ask).await;
        expect(&mut far, got).await;
        say(&mut far, answer).await;
        assert_eq!(heard(&mut program).await, answer);
        assert!(read_all(&mut far).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_server_that_answers_early_gets_the_rest_of_the_request() {
    let mut port = Port::open().await;
    let (mut program, mut far) = sent(
        &mut port,
        "POST http://a.b/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nhello",
    )
    .await;
    head(&mut far).await;
    say(&mut far, HELLO).await;
    expect(&mut program, HELLO).await;
    say(&mut program, "world").await;
    say(&mut program, GET).await;
    expect(&mut far, "helloworld").await;
    expect(&mut far, GOT).await;
    assert_eq!(port.counters.opened(), 1);
}

#[tokio::test]
async fn answers_without_bodies_leave_the_connection_usable() {
    let mut port = Port::open().await;
    let mut program = TcpStream::connect(port.address).await.unwrap();
    let mut far: Option<DuplexStream> = None;
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "OPTIONS",
            "HTTP/1.1 200 \r\nAllow: x\r\nContent-Length: 0\r\n\r\n",
        ),
    ] {
        say(
            &mut program,
            &format!("{method} http://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        )
        .await;
        let far = match &mut far {
            Some(far) => far,
            none => none.insert(port.next().await.accept()),
        };
        expect(far, &format!("{method} / HTTP/1.1\r\nHost: a.b\r\n\r\n")).await;
        say(far, answer).await;
        expect(&mut program, answer).await;
    }
    assert_eq!(port.counters.opened(), 1);
}

#[tokio::test]
async fn an_answer_that_lasts_until_the_end_ends_the_connection() {
    let mut port = Port::open().await;
    let (mut program, mut far) = sent(&mut port, GET).await;
    head(&mut far).await;
    say(&mut far, "HTTP/1.1 200 OK\r\nServer: x\r\n\r\nhello").await;
    drop(far);
    assert_eq!(
        heard(&mut program).await,
        "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: close\r\n\r\nhello"
    );
    let (mut program, mut far) =
        sent(&mut port, "GET http://a.b/ HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    expect(&mut far, GOT).await;
    say(&mut far, HELLO).await;
    assert!(
        heard(&mut program)
            .await
            .ends_with("Connection: close\r\n\r\nhello")
    );
    assert_eq!(port.counters.broken(), 0);
}

#[tokio::test]
async fn half_an_answer_does_not_pass_for_a_whole_one() {
    let mut port = Port::open().await;
    for half in [
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx",
    ] {
        let (mut program, mut far) = sent(&mut port, GET).await;
        head(&mut far).await;
        say(&mut far, half).await;
        drop(far);
        let error = read_all(&mut program).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(port.counters.broken(), 3);
}

#[tokio::test]
async fn a_damaged_body_is_refused_and_ends_the_request() {
    let mut port = Port::open().await;
    let (mut program, mut far) = sent(
        &mut port,
        "POST http://a.b/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloGET /x HTTP/1.1\r\n\r\n",
    )
    .await;
    let page = heard(&mut program).await;
    assert!(
        page.starts_with("HTTP/1.1 400 ") && page.contains("chunks"),
        "{page}"
    );
    let got = String::from_utf8(read_all(&mut far).await.unwrap()).unwrap();
    assert!(got.ends_with("\r\n\r\n5\r\nhello\r\n"), "{got}");
}

#[tokio::test]
async fn large_bodies_arrive_whole_in_both_directions_at_once() {
    let mut port = Port::open().await;
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    for chunked in [false, true] {
        let framing = if chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {}", data.len())
        };
        let body: Vec<u8> = if chunked {
            let chunk = |chunk: &[u8]| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
            [
                data.chunks(70_001).flat_map(chunk).collect(),
                b"0\r\n\r\n".to_vec(),
            ]
            .concat()
        } else {
            data.clone()
        };
        let (program, far) = sent(
            &mut port,
            &format!("POST http://a.b/ HTTP/1.1\r\n{framing}\r\n\r\n"),
        )
        .await;
        let (mut from_program, mut to_program) = tokio::io::split(program);
        let (mut from_far, mut to_far) = tokio::io::split(far);
        let up = async { to_program.write_all(&body).await.unwrap() };
        let down = async {
            let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
            to_far.write_all(head.as_bytes()).await.unwrap();
            to_far.write_all(&body).await.unwrap();
        };
        let ((), (), at_far, at_program) = tokio::join!(
            up,
            down,
            received(&mut from_far, chunked, data.len()),
            received(&mut from_program, chunked, data.len())
        );
        assert!(at_far == data && at_program == data);
    }
    assert_eq!(port.counters.broken(), 0);
}

/// A message's body.
async fn received(from: &mut (impl AsyncReadExt + Unpin), chunked: bool, len: usize) -> Vec<u8> {
    head(from).await;
    if !chunked {
        return read(from, len).await;
    }
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        while !size.ends_with("\r\n") {
            size.push(char::from(within(from.read_u8()).await.unwrap()));
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        body.extend(read(from, size).await);
        assert_eq!(read(from, 2).await, b"\r\n");
        if size == 0 {
            return body;
        }
    }
}

/// An exchange with a bit of everything: what is sent in two pieces, and what arrives.
#[tokio::test]
async fn wherever_bytes_are_cut_the_same_arrives() {
    let request = "POST http://a.b/ HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\nSum: 1\r\n\r\n";
    let answer = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
                  HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\nabc\r\n2\r\nde\r\n0\r\nSum: 2\r\n\r\n";
    let mut port = Port::open().await;
    for cut in 0..request.len().max(answer.len()) {
        let asked = request.split_at(cut.min(request.len()));
        let answered = answer.split_at(cut.min(answer.len()));
        let mut program = TcpStream::connect(port.address).await.unwrap();
        program.set_nodelay(true).unwrap();
        say(&mut program, asked.0).await;
        settle().await;
        say(&mut program, asked.1).await;
        let mut far = port.next().await.accept();
        assert!(head(&mut far).await.starts_with("POST / "));
        let mut body = String::new();
        while !body.ends_with("Sum: 1\r\n\r\n") {
            body.push(char::from(within(far.read_u8()).await.unwrap()));
        }
        assert_eq!(without_sizes(&body), "abc");
        say(&mut far, answered.0).await;
        settle().await;
        say(&mut far, answered.1).await;
        assert!(head(&mut program).await.starts_with("HTTP/1.1 103 "));
        assert!(head(&mut program).await.starts_with("HTTP/1.1 200 "));
        let mut body = String::new();
        while !body.ends_with("Sum: 2\r\n\r\n") {
            body.push(char::from(within(program.read_u8()).await.unwrap()));
        }
        assert_eq!(without_sizes(&body), "abcde");
    }
    assert_eq!((port.counters.failed(), port.counters.broken()), (0, 0));
}

/// Lets what was sent be read by itself, if the machine is quick; where it isn't, the pieces are read as one.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// The data of chunks that hold letters in lower case, and none of what frames them.
fn without_sizes(chunks: &str) -> String {
    let (data, _) = chunks.split_once("0\r\n").unwrap();
    data.lines().skip(1).step_by(2).collect()
}

#[tokio::test]
async fn a_program_that_does_not_read_holds_up_nobody_else() {
    let mut port = Port::open().await;
    let (_slow, mut endless) = sent(&mut port, GET).await;
    head(&mut endless).await;
    say(&mut endless, "HTTP/1.1 200 OK\r\n\r\n").await;
    // Until nothing more of it fits anywhere.
    let piece = [b'x'; 64 * 1024];
    while tokio::time::timeout(std::time::Duration::from_millis(200), endless.write_all(&piece))
        .await
        .is_ok_and(|written| written.is_ok())
    {}
    let (mut program, mut far) = sent(&mut port, GET).await;
    expect(&mut far, GOT).await;
    say(&mut far, HELLO).await;
    expect(&mut program, HELLO).await;
}
