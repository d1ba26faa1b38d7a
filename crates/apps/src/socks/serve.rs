//! SOCKS on a program's connection: lets [`proto`](super::proto) talk to it and opens what it asks for.

use std::future::pending;
use std::io;

use mizzle_stream::{OpenRequest, Opener};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::answer::Reply;
use super::proto::{Action, Handshake};
use crate::proxy::{Connection, End, count, farewell, stopped};

/// Serves a connection whose first byte is no HTTP, to its end.
pub(crate) async fn serve<O>(mut connection: Connection<O>, mut local: TcpStream, deadline: Instant)
where
    O: Opener,
    O::Stream: AsyncRead + AsyncWrite + Unpin,
{
    let mut handshake = Handshake::new();
    match establish(&mut connection, &mut local, &mut handshake, deadline).await {
        Ok((stream, early)) => {
            count(&connection.counters.opened);
            connection.tunnel(local, stream, &early).await;
        }
        Err(end) => {
            connection.failed(&end);
            if matches!(end, End::Socks(_)) {
                farewell(local).await;
            }
        }
    }
}

/// Talks to the program until its stream is open; gives back what the program sent ahead, too.
async fn establish<O>(
    connection: &mut Connection<O>,
    local: &mut TcpStream,
    handshake: &mut Handshake,
    deadline: Instant,
) -> Result<(O::Stream, Vec<u8>), End>
where
    O: Opener,
{
    let request = tokio::select! {
        request = timeout_at(deadline, listen(local, handshake)) => request.map_err(|_| End::TimedOut)??,
        () = stopped(&mut connection.stop) => return Err(End::Stopping),
    };
    let opened = tokio::select! {
        opened = connection.opener.open(request) => opened,
        end = absence(local, handshake) => return Err(end),
        () = stopped(&mut connection.stop) => {
            handshake.answer(Reply::GeneralFailure);
            return act(local, handshake).await.map(|_| Err(End::Stopping))?;
        }
    };
    let (stream, reply) = match opened {
        Ok(stream) => (Some(stream), Reply::Succeeded),
        Err(error) => (None, Reply::from(error)),
    };
    handshake.answer(reply);
    match (act(local, handshake).await?, stream) {
        (Some(Next::Relay(early)), Some(stream)) => Ok((stream, early)),
        _ => Err(End::Gone),
    }
}

/// What the handshake asks of its connection beyond writing.
enum Next {
    Open(OpenRequest),
    Relay(Vec<u8>),
}

/// Carries out what the handshake asks for.
async fn act(local: &mut TcpStream, handshake: &mut Handshake) -> Result<Option<Next>, End> {
    while let Some(action) = handshake.poll() {
        match action {
            Action::Write(bytes) => local.write_all(&bytes).await?,
            Action::Open(request) => return Ok(Some(Next::Open(request))),
            Action::Relay(early) => return Ok(Some(Next::Relay(early))),
            Action::Close(fault) => return Err(fault.into()),
        }
    }
    Ok(None)
}

/// Listens to the program until it has said what to open.
async fn listen(local: &mut TcpStream, handshake: &mut Handshake) -> Result<OpenRequest, End> {
    loop {
        if receive(local, handshake).await? == 0 {
            return Err(End::Gone);
        }
        if let Some(Next::Open(request)) = act(local, handshake).await? {
            return Ok(request);
        }
    }
}

async fn receive(local: &mut TcpStream, handshake: &mut Handshake) -> io::Result<usize> {
    let mut bytes = [0; 1024];
    let room = handshake.room().min(bytes.len());
    let read = local.read(&mut bytes[..room]).await?;
    handshake.receive(&bytes[..read]);
    Ok(read)
}

/// Ends when the program goes away while its stream is being opened.
///
/// An end of its bytes counts as that: a program that closes only its sending half before it was answered
/// looks the same and is far rarer. Whoever has filled the room for early bytes is listened to no more.
async fn absence(local: &mut TcpStream, handshake: &mut Handshake) -> End {
    while handshake.room() > 0 {
        match receive(local, handshake).await {
            Ok(0) => return End::Gone,
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
    pending().await
}
