//! A port whose streams end in this process, and a program that speaks to it byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mizzle_stream::{OpenError, OpenRequest, Opener};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::{Config, Counters, Server};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

/// An opening that waits for the test's decision.
pub(super) struct Pending {
    pub(super) request: OpenRequest,
    decide: oneshot::Sender<Result<DuplexStream, OpenError>>,
}

impl Pending {
    /// Lets it succeed; gives the far side.
    pub(super) fn accept(self) -> DuplexStream {
        let (near, far) = duplex(8 * 1024);
        assert!(self.decide.send(Ok(near)).is_ok(), "nobody waits for the stream");
        far
    }

    pub(super) fn refuse(self, error: OpenError) {
        assert!(
            self.decide.send(Err(error)).is_ok(),
            "nobody waits for the stream"
        );
    }

    /// Ends when whoever asked for the stream has given up.
    pub(super) async fn given_up(mut self) {
        self.decide.closed().await;
    }
}

#[derive(Clone)]
pub(super) struct FakeOpener(mpsc::UnboundedSender<Pending>);

impl Opener for FakeOpener {
    type Stream = DuplexStream;

    async fn open(&self, request: OpenRequest) -> Result<DuplexStream, OpenError> {
        let (decide, decided) = oneshot::channel();
        self.0
            .send(Pending { request, decide })
            .map_err(|_| OpenError::Closed)?;
        decided.await.map_err(|_| OpenError::Closed)?
    }
}

/// A running port.
pub(super) struct Port {
    pub(super) address: SocketAddr,
    pub(super) openings: mpsc::UnboundedReceiver<Pending>,
    pub(super) counters: Arc<Counters>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) serving: JoinHandle<()>,
}

impl Port {
    pub(super) async fn open() -> Self {
        Self::open_with(|config| config).await
    }

    pub(super) async fn open_with(change: impl FnOnce(Config) -> Config) -> Self {
        let config = change(Config::new("127.0.0.1:0".parse().unwrap()));
        let server = Server::bind(config).await.unwrap();
        let (opener, openings) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let (address, counters) = (server.local_addr(), server.counters());
        let serving = tokio::spawn(server.serve(FakeOpener(opener), stopped));
        Self {
            address,
            openings,
            counters,
            stop,
            serving,
        }
    }

    pub(super) async fn next(&mut self) -> Pending {
        within(self.openings.recv()).await.unwrap()
    }

    /// A program that has asked for `example.org:443`, and the opening that waits.
    pub(super) async fn asked(&mut self) -> (TcpStream, Pending) {
        let program = ask(self.address).await;
        (program, self.next().await)
    }

    /// A program with an open stream, and its far side.
    pub(super) async fn opened(&mut self) -> (TcpStream, DuplexStream) {
        let (mut program, pending) = self.asked().await;
        let far = pending.accept();
        assert_eq!(reply_code(&mut program).await, 0);
        (program, far)
    }
}

/// Connects and asks for `example.org:443` without authentication.
pub(super) async fn ask(address: SocketAddr) -> TcpStream {
    let mut program = TcpStream::connect(address).await.unwrap();
    program.write_all(&[5, 1, 0]).await.unwrap();
    assert_eq!(read(&mut program, 2).await, [5, 0]);
    program
        .write_all(b"\x05\x01\0\x03\x0bexample.org\x01\xbb")
        .await
        .unwrap();
    program
}

pub(super) async fn reply_code(program: &mut TcpStream) -> u8 {
    let reply = read(program, 10).await;
    assert_eq!((reply[0], &reply[2..]), (5, &[0, 1, 0, 0, 0, 0, 0, 0][..]));
    reply[1]
}

pub(super) async fn read(from: &mut (impl AsyncReadExt + Unpin), len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    within(from.read_exact(&mut bytes)).await.unwrap();
    bytes
}

pub(super) async fn read_all(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    within(from.read_to_end(&mut bytes)).await.map(|_| bytes)
}
