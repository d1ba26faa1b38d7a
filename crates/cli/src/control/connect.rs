//! The other commands' end.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::socket::{self, SOCKET, Stream};
use super::wire::{self, Chunk};
use super::{Code, Command, Event, Request, VERSION, Written};

/// The client answers a connection at once; its machine may be busy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the client doesn't answer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// None runs.
    #[error("no client runs with the state {}: start it with `mizzle client run`, or a network to try with `mizzle up`", .0.display())]
    NotRunning(PathBuf),
    /// It can't be reached.
    #[error("the socket {} can't be used: {source}", .path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says no.
    #[error("{message}")]
    Refused {
        /// What kind of no.
        code: Code,
        /// Why.
        message: String,
    },
    /// It went away in the middle.
    #[error(
        "it stopped before it answered: start it again with `mizzle client run`, or a node with `mizzle node run`"
    )]
    Gone,
    /// It doesn't speak as it should.
    #[error("it answers in another way than this program expects: are both the same version of mizzle?")]
    Strange,
}

/// A request on its way.
pub struct Control {
    reader: BufReader<ReadHalf<Stream>>,
    writer: BufWriter<WriteHalf<Stream>>,
}

/// Asks the client or node whose state directory this is.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(state: &Path, command: Command) -> Result<Control, ConnectError> {
    let path = state.join(SOCKET);
    let stream = match timeout(CONNECT_TIMEOUT, socket::connect(&path)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e))
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(ConnectError::NotRunning(state.into()));
        }
        Ok(Err(source)) => return Err(ConnectError::Unreachable { path, source }),
        Err(_) => {
            let source = io::ErrorKind::TimedOut.into();
            return Err(ConnectError::Unreachable { path, source });
        }
    };
    let (reader, writer) = tokio::io::split(stream);
    let mut control = Control {
        reader: BufReader::new(reader),
        writer: BufWriter::new(writer),
    };
    let request = Request {
        version: VERSION,
        command,
    };
    if wire::write(&mut control.writer, &request).await.is_err() {
        // It may have said why before it closed.
        control.event().await?;
        return Err(ConnectError::Gone);
    }
    Ok(control)
}

impl Control {
    /// The next answer.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn event(&mut self) -> Result<Event, ConnectError> {
        match wire::read(&mut self.reader).await {
            Ok(Some(Event::Error { code, message })) => Err(ConnectError::Refused { code, message }),
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(ConnectError::Gone),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(ConnectError::Strange),
            Err(_) => Err(ConnectError::Gone),
        }
    }

    /// Sends data of a letter.
    ///
    /// # Errors
    /// [`ConnectError`]; what the client says against it.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), ConnectError> {
        let written = wire::write_data(&mut self.writer, data).await;
        self.or_why(written).await
    }

    /// Ends the data of a letter.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn end(&mut self) -> Result<(), ConnectError> {
        let written = wire::write_end(&mut self.writer).await;
        self.or_why(written).await
    }

    async fn or_why(&mut self, written: io::Result<()>) -> Result<(), ConnectError> {
        if written.is_err() {
            self.event().await?;
            return Err(ConnectError::Gone);
        }
        Ok(())
    }

    /// The next piece of a letter's data; `None` at its end.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn data(&mut self) -> Result<Option<Vec<u8>>, ConnectError> {
        match wire::read_chunk(&mut self.reader).await {
            Ok(Chunk::Data(data)) => Ok(Some(data)),
            Ok(Chunk::End) => Ok(None),
            Ok(Chunk::BrokenOff) => {
                self.event().await?;
                Err(ConnectError::Strange)
            }
            Err(_) => Err(ConnectError::Gone),
        }
    }

    /// Confirms a letter: it leaves the inbox.
    ///
    /// # Errors
    /// [`ConnectError`]; the letter may come again.
    pub async fn written(&mut self) -> Result<(), ConnectError> {
        let line = Written { written: true };
        let written = wire::write(&mut self.writer, &line).await;
        self.or_why(written).await?;
        match self.event().await? {
            Event::Removed => Ok(()),
            _ => Err(ConnectError::Strange),
        }
    }
}
