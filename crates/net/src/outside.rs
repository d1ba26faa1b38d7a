//! The exit's sockets: names, connections, bytes. What is allowed and what is asked for comes from the exit core.
//!
//! One task a connection, fed through queues that the core's own accounting bounds: one read asked for at a time,
//! a quarter of a megabyte to write. A connection that is aborted is reset, so that neither end takes a cut
//! transfer for a whole one.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mizzle_exit::{Action, ConnId, Input};
use mizzle_stream::OpenError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// A look-up longer than this fails; the core gives look-up and connecting together a little more.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// One address is tried for so long before the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

enum Write {
    Bytes(Bytes),
    Finish,
}

struct Conn {
    /// Ends the task with the entry; none once the task is to end by itself.
    task: Option<AbortHandle>,
    reads: mpsc::UnboundedSender<usize>,
    writes: mpsc::UnboundedSender<Write>,
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The connections of one exit.
pub(crate) struct Outside {
    events: mpsc::Sender<Input>,
    conns: BTreeMap<ConnId, Conn>,
}

impl Outside {
    /// Inputs for the exit core go to `events`.
    pub(crate) fn new(events: mpsc::Sender<Input>) -> Self {
        Self {
            events,
            conns: BTreeMap::new(),
        }
    }

    /// Carries out what the core wants. A packet for the mix comes back: it is none of this module's.
    pub(crate) fn perform(&mut self, action: Action) -> Option<mizzle_sphinx::Packet> {
        match action {
            Action::Mix(packet) => return Some(packet),
            Action::Resolve(id, name) => self.spawn(id, |events, _, _| async move {
                let _ = events.send(Input::Resolved(id, resolve(&name).await)).await;
            }),
            Action::Connect(id, addresses) => {
                self.spawn(id, |events, reads, writes| {
                    connection(id, addresses, events, reads, writes)
                });
            }
            Action::Read(id, max) => {
                if let Some(conn) = self.conns.get(&id) {
                    let _ = conn.reads.send(max);
                }
            }
            Action::Write(id, bytes) => self.write(id, Write::Bytes(bytes)),
            Action::Finish(id) => self.write(id, Write::Finish),
            // An exit leads to no mailbox; its core refuses such a target.
            Action::Mailbox(..) => {}
            Action::Abort(id) => drop(self.conns.remove(&id)),
            Action::Forget(id) => {
                if let Some(mut conn) = self.conns.remove(&id) {
                    conn.task = None;
                }
            }
        }
        None
    }

    fn write(&self, id: ConnId, write: Write) {
        if let Some(conn) = self.conns.get(&id) {
            let _ = conn.writes.send(write);
        }
    }

    /// Runs a task for `id` in place of the one before.
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        id: ConnId,
        task: impl FnOnce(
            mpsc::Sender<Input>,
            mpsc::UnboundedReceiver<usize>,
            mpsc::UnboundedReceiver<Write>,
        ) -> F,
    ) {
        let (reads, read_queue) = mpsc::unbounded_channel();
        let (writes, write_queue) = mpsc::unbounded_channel();
        let task = tokio::spawn(task(self.events.clone(), read_queue, write_queue)).abort_handle();
        self.conns.insert(
            id,
            Conn {
                task: Some(task),
                reads,
                writes,
            },
        );
    }
}

async fn resolve(name: &str) -> Result<Vec<IpAddr>, OpenError> {
    // The system's resolver: what the operator configured for this machine.
    match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, 0))).await {
        Err(_) => Err(OpenError::Timeout),
        Ok(Err(_)) => Err(OpenError::NameNotFound),
        Ok(Ok(found)) => Ok(found.map(|a| a.ip()).collect()),
    }
}

/// A socket that is reset when it is dropped, unless both directions ended in order.
struct Socket(TcpStream);

impl Socket {
    async fn connect(addresses: Vec<SocketAddr>) -> Result<Self, OpenError> {
        let mut last = OpenError::HostUnreachable;
        for address in addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small writes are whole messages of some program: they shall not wait for each other.
                    let _ = stream.set_nodelay(true);
                    let _ = stream.set_zero_linger();
                    return Ok(Self(stream));
                }
                Ok(Err(e)) => last = reason(&e),
                Err(_) => last = OpenError::Timeout,
            }
        }
        Err(last)
    }

    fn ended_in_order(self) {
        let _ = socket2::SockRef::from(&self.0).set_linger(None);
    }
}

fn reason(error: &io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => OpenError::ConnectionRefused,
        io::ErrorKind::NetworkUnreachable => OpenError::NetUnreachable,
        io::ErrorKind::HostUnreachable => OpenError::HostUnreachable,
        io::ErrorKind::TimedOut => OpenError::Timeout,
        _ => OpenError::General,
    }
}

async fn connection(
    id: ConnId,
    addresses: Vec<SocketAddr>,
    events: mpsc::Sender<Input>,
    reads: mpsc::UnboundedReceiver<usize>,
    writes: mpsc::UnboundedReceiver<Write>,
) {
    let mut socket = match Socket::connect(addresses).await {
        Ok(socket) => socket,
        Err(why) => return drop(events.send(Input::Connected(id, Err(why))).await),
    };
    if events.send(Input::Connected(id, Ok(()))).await.is_err() {
        return;
    }
    let (reader, writer) = socket.0.split();
    // A target that answers and hangs up before it has read all (HTTP 413) is still read to its end.
    let writing = async { Ok::<_, io::Error>(write(id, writer, writes, &events).await.is_ok()) };
    match tokio::try_join!(read(id, reader, reads, &events), writing) {
        Ok(((), true)) => socket.ended_in_order(),
        _ => drop(events.send(Input::Broken(id)).await),
    }
}

async fn read(
    id: ConnId,
    mut reader: ReadHalf<'_>,
    mut asked: mpsc::UnboundedReceiver<usize>,
    events: &mpsc::Sender<Input>,
) -> io::Result<()> {
    while let Some(max) = asked.recv().await {
        let mut buffer = BytesMut::with_capacity(max);
        let n = (&mut reader).take(max as u64).read_buf(&mut buffer).await?;
        if events.send(Input::Read(id, buffer.freeze())).await.is_err() || n == 0 {
            break;
        }
    }
    Ok(())
}

async fn write(
    id: ConnId,
    mut writer: WriteHalf<'_>,
    mut wanted: mpsc::UnboundedReceiver<Write>,
    events: &mpsc::Sender<Input>,
) -> io::Result<()> {
    while let Some(Write::Bytes(bytes)) = wanted.recv().await {
        writer.write_all(&bytes).await?;
        if events.send(Input::Wrote(id, bytes.len())).await.is_err() {
            break;
        }
    }
    writer.shutdown().await
}
