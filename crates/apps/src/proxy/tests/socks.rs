//! SOCKS over real sockets, and what holds for every connection.

use std::io::ErrorKind;
use std::time::Duration;

use mizzle_stream::OpenError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::super::{Config, Server};
use super::support::{Port, ask, read, read_all, reply_code, within};
use crate::socks::proto::EARLY_MAX;

/// Lets every task that can run do so, many times over, the sockets' driver included.
async fn settle() {
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn success_is_told_only_once_the_stream_is_open() {
    let mut port = Port::open().await;
    let (mut program, pending) = port.asked().await;
    assert_eq!(pending.request.target.to_string(), "example.org:443");
    settle().await;
    let mut byte = [0];
    assert_eq!(
        program.try_read(&mut byte).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    let _far = pending.accept();
    assert_eq!(reply_code(&mut program).await, 0);
    assert_eq!(port.counters.opened(), 1);
}

#[tokio::test]
async fn each_failure_reaches_the_program_as_its_code_and_an_orderly_end() {
    let mut port = Port::open().await;
    let codes = [
        (OpenError::General, 1),
        (OpenError::Refused, 2),
        (OpenError::NetUnreachable, 3),
        (OpenError::HostUnreachable, 4),
        (OpenError::NameNotFound, 4),
        (OpenError::ConnectionRefused, 5),
        (OpenError::TtlExpired, 6),
        (OpenError::Timeout, 6),
        (OpenError::NoExit, 1),
    ];
    for (error, code) in codes {
        let (mut program, pending) = port.asked().await;
        pending.refuse(error);
        assert_eq!(reply_code(&mut program).await, code, "{error:?}");
        assert!(read_all(&mut program).await.unwrap().is_empty());
    }
    assert_eq!(
        (port.counters.opened(), port.counters.failed()),
        (0, codes.len() as u64)
    );
}

#[tokio::test]
async fn socks4_is_served_on_the_same_port() {
    let mut port = Port::open().await;
    for accept in [true, false] {
        let mut program = TcpStream::connect(port.address).await.unwrap();
        program
            .write_all(b"\x04\x01\x01\xbb\0\0\0\x01alice\0example.org\0early")
            .await
            .unwrap();
        let pending = port.next().await;
        assert_eq!(pending.request.target.to_string(), "example.org:443");
        if accept {
            let mut far = pending.accept();
            assert_eq!(read(&mut program, 8).await, [0, 0x5a, 0, 0, 0, 0, 0, 0]);
            assert_eq!(read(&mut far, 5).await, b"early");
        } else {
            pending.refuse(OpenError::ConnectionRefused);
            assert_eq!(read_all(&mut program).await.unwrap(), [0, 0x5b, 0, 0, 0, 0, 0, 0]);
        }
    }
}

#[tokio::test]
async fn who_speaks_no_proxys_protocol_is_closed_without_a_word() {
    let port = Port::open().await;
    for first in [&b"\x16\x03\x01"[..], b"\0", b"\xff", b" GET"] {
        let mut program = TcpStream::connect(port.address).await.unwrap();
        program.write_all(first).await.unwrap();
        assert!(read_all(&mut program).await.unwrap().is_empty());
    }
    assert_eq!(port.counters.failed(), 4);
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut port = Port::open().await;
    let (mut program, mut far) = port.opened().await;
    program.write_all(b"question").await.unwrap();
    program.shutdown().await.unwrap();
    assert_eq!(read_all(&mut far).await.unwrap(), b"question");
    far.write_all(b"answer, after the question has ended")
        .await
        .unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(
        read_all(&mut program).await.unwrap(),
        b"answer, after the question has ended"
    );

    let (mut program, mut far) = port.opened().await;
    far.write_all(b"greeting").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(read_all(&mut program).await.unwrap(), b"greeting");
    program.write_all(b"still talking").await.unwrap();
    program.shutdown().await.unwrap();
    assert_eq!(read_all(&mut far).await.unwrap(), b"still talking");
    assert_eq!(port.counters.broken(), 0);
}

#[tokio::test]
async fn large_transfers_arrive_whole_in_both_directions_at_once() {
    let mut port = Port::open().await;
    let (program, far) = port.opened().await;
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut program_read, mut program_write) = program.into_split();
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let up = async {
        program_write.write_all(&data).await.unwrap();
        program_write.shutdown().await.unwrap();
    };
    let down = async {
        far_write.write_all(&data).await.unwrap();
        far_write.shutdown().await.unwrap();
    };
    let ((), (), received_up, received_down) =
        tokio::join!(up, down, read_all(&mut far_read), read_all(&mut program_read));
    assert!(received_up.unwrap() == data && received_down.unwrap() == data);
}

#[tokio::test]
async fn bytes_sent_ahead_are_the_first_of_the_stream() {
    let mut port = Port::open().await;
    let (mut program, pending) = port.asked().await;
    // More than the far side's buffer and less than the room.
    let early = vec![7; EARLY_MAX - 1];
    program.write_all(&early).await.unwrap();
    settle().await;
    let mut far = pending.accept();
    assert_eq!(reply_code(&mut program).await, 0);
    program.write_all(b"later").await.unwrap();
    program.shutdown().await.unwrap();
    assert_eq!(read_all(&mut far).await.unwrap(), [&early[..], b"later"].concat());
}

#[tokio::test]
async fn more_bytes_ahead_than_fit_wait_and_are_not_lost() {
    let mut port = Port::open().await;
    let (mut program, pending) = port.asked().await;
    let early = vec![7; 3 * EARLY_MAX];
    program.write_all(&early).await.unwrap();
    settle().await;
    let mut far = pending.accept();
    assert_eq!(reply_code(&mut program).await, 0);
    program.shutdown().await.unwrap();
    assert_eq!(read_all(&mut far).await.unwrap(), early);
}

/// A stream whose far side fails instead of ending.
mod broken {
    use std::io::{Error, ErrorKind, Result};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use mizzle_stream::{OpenError, OpenRequest, Opener};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    #[derive(Clone)]
    pub(super) struct Breaks;

    impl Opener for Breaks {
        type Stream = Half;

        async fn open(&self, _: OpenRequest) -> std::result::Result<Half, OpenError> {
            Ok(Half(Some(b"half of it")))
        }
    }

    pub(super) struct Half(Option<&'static [u8]>);

    impl AsyncRead for Half {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<Result<()>> {
            let Some(bytes) = self.0.take() else {
                return Poll::Ready(Err(Error::from(ErrorKind::ConnectionAborted)));
            };
            into.put_slice(bytes);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Half {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_resets_the_program() {
    let server = Server::bind(Config::new("127.0.0.1:0".parse().unwrap()))
        .await
        .unwrap();
    let (address, counters) = (server.local_addr(), server.counters());
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(server.serve(broken::Breaks, stopped));
    let mut program = ask(address).await;
    let error = read_all(&mut program).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(counters.broken(), 1);
}

#[tokio::test]
async fn a_program_that_goes_away_cancels_its_opening() {
    let mut port = Port::open().await;
    let (program, pending) = port.asked().await;
    drop(program);
    within(pending.given_up()).await;
}

#[tokio::test]
async fn a_program_that_goes_away_later_ends_its_stream() {
    let mut port = Port::open().await;
    let (program, mut far) = port.opened().await;
    program.set_zero_linger().unwrap();
    drop(program);
    assert!(read_all(&mut far).await.unwrap().is_empty());
}

#[tokio::test]
async fn whoever_says_nothing_is_closed_after_the_timeout() {
    let port = Port::open_with(|config| config.with_handshake_timeout(Duration::from_millis(50))).await;
    let mut program = TcpStream::connect(port.address).await.unwrap();
    program.write_all(&[5]).await.unwrap();
    assert!(read_all(&mut program).await.unwrap().is_empty());
    assert_eq!(port.counters.failed(), 1);
}

#[tokio::test]
async fn beyond_the_bound_programs_are_reset_at_once() {
    let mut port = Port::open_with(|config| config.with_max_connections(2)).await;
    let (first, far) = port.opened().await;
    let _second = port.opened().await;
    let mut third = TcpStream::connect(port.address).await.unwrap();
    assert_eq!(
        read_all(&mut third).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!((port.counters.accepted(), port.counters.turned_away()), (2, 1));
    drop((first, far));
    // The place is free again once the port has noticed.
    within(async {
        loop {
            let mut next = TcpStream::connect(port.address).await.unwrap();
            let greeted = next.write_all(&[5, 1, 0]).await.is_ok();
            if greeted && next.read_exact(&mut [0; 2]).await.is_ok() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_hundred_programs_at_once_do_not_mix() {
    let mut port = Port::open().await;
    let mut programs = JoinSet::new();
    for n in 0..100_u32 {
        let address = port.address;
        programs.spawn(async move {
            let mut program = ask(address).await;
            assert_eq!(reply_code(&mut program).await, 0);
            let data = n.to_be_bytes().repeat(5000);
            let (mut from, mut to) = program.into_split();
            let send = async {
                to.write_all(&data).await.unwrap();
                to.shutdown().await.unwrap();
            };
            let ((), echoed) = tokio::join!(send, read_all(&mut from));
            assert!(echoed.unwrap() == data);
        });
    }
    for _ in 0..100 {
        let (mut from, mut to) = tokio::io::split(port.next().await.accept());
        tokio::spawn(async move {
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        });
    }
    while let Some(ended) = within(programs.join_next()).await {
        ended.unwrap();
    }
    assert_eq!((port.counters.opened(), port.counters.broken()), (100, 0));
}

#[tokio::test]
async fn stopping_lets_streams_end_and_answers_who_waits() {
    let mut port = Port::open().await;
    let (mut waiting, pending) = port.asked().await;
    let (mut program, mut far) = port.opened().await;
    port.stop.send_replace(true);
    assert_eq!(reply_code(&mut waiting).await, 1);
    within(pending.given_up()).await;
    program.write_all(b"the rest").await.unwrap();
    assert_eq!(read(&mut far, 8).await, b"the rest");
    assert!(TcpStream::connect(port.address).await.is_err());
    program.shutdown().await.unwrap();
    far.shutdown().await.unwrap();
    assert!(read_all(&mut program).await.unwrap().is_empty());
    within(port.serving).await.unwrap();
}

#[tokio::test]
async fn streams_that_outlast_the_grace_are_reset() {
    let mut port = Port::open_with(|config| config.with_grace(Duration::from_millis(50))).await;
    let (mut program, _far) = port.opened().await;
    drop(port.stop);
    within(port.serving).await.unwrap();
    assert_eq!(
        read_all(&mut program).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn an_occupied_address_is_named_with_a_way_out() {
    let port = Port::open().await;
    let error = Server::bind(Config::new(port.address)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {}: address already in use", port.address)
    );
    let error = Server::bind(Config::new("192.0.2.1:1080".parse().unwrap()))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("this machine has no such address"),
        "{error}"
    );
}
