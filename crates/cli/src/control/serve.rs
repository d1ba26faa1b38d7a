//! The end of the client or node.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::address::Address;
use mizzle_net::client::LoopEnd;
use mizzle_net::mail::{
    AcceptError, Content, ContentError, Lease, Mail, Outgoing, SendError, Stage, kind_name,
};
use tokio::io::{AsyncReadExt as _, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::socket::{Listener, Stream};
use super::wire::{self, Chunk};
use super::{
    Code, Command, Event, MAX_CONNECTIONS, MAX_PING, REQUEST_TIMEOUT, Request, STALL, Until, VERSION, Written,
};

/// Pieces of a letter that are read from the disk at once: 64 KiB.
const PIECES: usize = 16;
/// So long a command that needs the client's address waits for it, and between two looks.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
const ADDRESS_PAUSE: Duration = Duration::from_millis(20);
/// Letters of the outbox in one line.
const LETTERS_IN_LINE: usize = 20;

/// What a process offers.
#[derive(Clone)]
pub struct Services {
    /// How it is, for `mizzle status`; at most some 60 KB.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// What only clients offer.
    pub client: Option<ClientServices>,
}

/// What a client's process offers besides.
#[derive(Clone)]
pub struct ClientServices {
    /// Its mail.
    pub mail: Mail,
    /// Its loops, from now on; none when it has stopped.
    pub loops: Arc<dyn Fn() -> Option<broadcast::Receiver<LoopEnd>> + Send + Sync>,
    /// Their rate.
    pub loops_per_s: f64,
}

/// Serves commands until `stopped` changes. What was queued or removed by then is; everything else is told that the
/// client stops by the end of its connection.
pub async fn serve(listener: Listener, services: Services, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok(stream) => match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => {
                        let services = services.clone();
                        connections.spawn(async move {
                            answer(stream, services).await;
                            drop(place);
                        });
                    }
                    Err(_) => refuse(stream),
                },
                Err(why) => {
                    // As when the process has too many files open: others may close some.
                    tracing::warn!("a command could not connect: {why}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
        }
    }
}

/// Says that there is no place, without waiting for anything.
fn refuse(stream: Stream) {
    let message = format!("{MAX_CONNECTIONS} other commands are talking to it: try again later");
    let code = Code::Busy;
    let event = Event::Error { code, message };
    #[cfg(unix)]
    if let Ok(line) = serde_json::to_vec(&event) {
        let _ = stream.try_write(&[&line[..], b"\n"].concat());
    }
    #[cfg(not(unix))]
    drop((stream, event));
}

/// Why a request ends early.
enum End {
    /// The other end is told.
    Told(Code, String),
    /// The other end has gone, or hangs.
    Gone,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Told(Code::Request, error.to_string()),
            _ => Self::Gone,
        }
    }
}

impl From<SendError> for End {
    fn from(error: SendError) -> Self {
        let code = match &error {
            SendError::Full { .. } | SendError::TooLong => Code::Full,
            SendError::Letter(_) => Code::Request,
            SendError::Address(_) => Code::Address,
            SendError::NoAddress => Code::NotYet,
            SendError::Disk(_) => Code::Disk,
            SendError::Entropy(_) => Code::Other,
        };
        Self::Told(code, error.to_string())
    }
}

impl From<AcceptError> for End {
    fn from(error: AcceptError) -> Self {
        let code = match &error {
            AcceptError::Address(_) => Code::Address,
            AcceptError::Full => Code::Full,
            AcceptError::Name => Code::Request,
            AcceptError::Disk(_) => Code::Disk,
        };
        Self::Told(code, error.to_string())
    }
}

fn disk(error: impl ToString) -> End {
    End::Told(Code::Disk, error.to_string())
}

/// Blocking work; only a runtime that shuts down gives no result.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, End> {
    spawn_blocking(work).await.map_err(|_| End::Gone)
}

async fn answer(stream: Stream, services: Services) {
    let (reader, writer) = tokio::io::split(stream);
    let mut line = Line {
        reader: BufReader::new(reader),
        writer: BufWriter::new(writer),
    };
    if let Err(End::Told(code, message)) = line.serve(services).await {
        let _ = line.say(Event::Error { code, message }).await;
    }
}

struct Line {
    reader: BufReader<ReadHalf<Stream>>,
    writer: BufWriter<WriteHalf<Stream>>,
}

impl Line {
    async fn say(&mut self, event: Event) -> Result<(), End> {
        let written = timeout(STALL, wire::write(&mut self.writer, &event)).await;
        Ok(written.map_err(|_| End::Gone)??)
    }

    /// Waits until the other end goes; that it says something instead is an end too.
    async fn gone(reader: &mut BufReader<ReadHalf<Stream>>) -> End {
        let _ = reader.read_u8().await;
        End::Gone
    }

    async fn serve(&mut self, services: Services) -> Result<(), End> {
        let line = timeout(REQUEST_TIMEOUT, wire::read_line(&mut self.reader)).await;
        let Some(line) = line.map_err(|_| End::Gone)?? else {
            return Ok(());
        };
        match (request(&line)?, services.client) {
            (Command::Status, _) => {
                let status = (services.status)();
                self.say(Event::Status { status }).await
            }
            (command, Some(services)) => {
                let line = self;
                Session { line, services }.run(command).await
            }
            (_, None) => Err(End::Told(
                Code::Request,
                "this is the state of a node, not of a client: it answers `mizzle status` alone".into(),
            )),
        }
    }
}

/// A command to a client.
struct Session<'a> {
    line: &'a mut Line,
    services: ClientServices,
}

impl Session<'_> {
    async fn say(&mut self, event: Event) -> Result<(), End> {
        self.line.say(event).await
    }

    async fn run(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Address => self.address().await,
            Command::Send {
                to,
                name,
                sign,
                until,
            } => self.send(&to, name, sign, until).await,
            Command::Receive { count, wait } => self.receive(count, wait).await,
            Command::Accept { address, name } => {
                let (mail, address) = (self.services.mail.clone(), parse(&address)?);
                blocking(move || mail.accept(&address, &name)).await??;
                self.say(Event::Done).await
            }
            Command::Unaccept { address } => {
                let (mail, address) = (self.services.mail.clone(), parse(&address)?);
                let removed = blocking(move || mail.unaccept(&address)).await?;
                self.say(if removed.map_err(disk)? {
                    Event::Done
                } else {
                    Event::Empty
                })
                .await
            }
            Command::Correspondents => {
                let all = self.services.mail.correspondents();
                for list in all.chunks(LETTERS_IN_LINE) {
                    let list = list.to_vec();
                    self.say(Event::Correspondents { list }).await?;
                }
                self.say(Event::Done).await
            }
            Command::Outbox => self.outbox().await,
            Command::Ping { count } => self.ping(count).await,
            // Answered before, by whatever runs.
            Command::Status => Ok(()),
        }
    }

    /// The client's address, which it notes a moment after it was admitted.
    async fn own_address(&self) -> Option<Address> {
        let noted = async {
            loop {
                if let Some(address) = self.services.mail.address() {
                    return address;
                }
                tokio::time::sleep(ADDRESS_PAUSE).await;
            }
        };
        timeout(ADDRESS_TIMEOUT, noted).await.ok()
    }

    async fn address(&mut self) -> Result<(), End> {
        match self.own_address().await {
            Some(address) => {
                let address = address.to_string();
                self.say(Event::Address { address }).await
            }
            None => Err(End::Told(
                Code::NotYet,
                "the client's gateway has not admitted it yet: an address contains the gateway's mailbox"
                    .into(),
            )),
        }
    }

    async fn send(&mut self, to: &str, name: Option<String>, sign: bool, until: Until) -> Result<(), End> {
        let wants_read = until == Until::Read;
        if wants_read && !sign {
            return Err(End::Told(
                Code::Request,
                "only who signs hears that a letter was read: the receiver's client must know whom to tell"
                    .into(),
            ));
        }
        if sign {
            // Without one, what is sent next says so.
            let _ = self.own_address().await;
        }
        let outgoing = Outgoing {
            name,
            sign,
            wants_read,
        };
        let (mail, to) = (self.services.mail.clone(), parse(to)?);
        let mut draft = blocking(move || mail.draft(to, &outgoing)).await??;
        self.say(Event::Ready).await?;
        let mut bytes = 0;
        loop {
            let chunk = timeout(STALL, wire::read_chunk(&mut self.line.reader)).await;
            match chunk.map_err(|_| End::Told(Code::Timeout, "no data came for an hour".into()))?? {
                Chunk::Data(data) => {
                    bytes += data.len() as u64;
                    let written = blocking(move || draft.write(&data).map(|()| draft)).await?;
                    draft = written?;
                }
                Chunk::End => break,
                Chunk::BrokenOff => return Err(End::Gone),
            }
        }
        let mail = self.services.mail.clone();
        let letter = blocking(move || mail.post(draft)).await??;
        self.say(Event::Queued {
            letter: letter.to_string(),
            bytes,
        })
        .await?;
        let mut changed = self.services.mail.outbox_changed();
        let mut said = None;
        let mut stored = false;
        if until == Until::Queued {
            return Ok(());
        }
        loop {
            changed.mark_unchanged();
            let Some(entry) = self.services.mail.entry(&letter) else {
                let why = "what became of the letter is known no longer".into();
                return self.say(Event::Failed { why }).await;
            };
            match entry.stage {
                Stage::Waiting => {
                    let now = (entry.items_sent, entry.problem);
                    if said.as_ref() != Some(&now) {
                        self.say(Event::Progress {
                            items_sent: now.0,
                            items: entry.items,
                            problem: now.1.clone(),
                        })
                        .await?;
                        said = Some(now);
                    }
                }
                Stage::Failed { why } => return self.say(Event::Failed { why }).await,
                Stage::Stored | Stage::Read => {
                    if !stored {
                        stored = true;
                        self.say(Event::Stored).await?;
                    }
                    if until == Until::Stored {
                        return Ok(());
                    }
                    if entry.stage == Stage::Read {
                        return self.say(Event::Read).await;
                    }
                }
            }
            tokio::select! {
                end = Line::gone(&mut self.line.reader) => return Err(end),
                _ = changed.changed() => {}
            }
        }
    }

    async fn receive(&mut self, count: Option<u64>, wait: bool) -> Result<(), End> {
        let mail = self.services.mail.clone();
        let mut given = 0;
        while count.is_none_or(|count| given < count) {
            let lease = match mail.letter() {
                Some(lease) => lease,
                None if wait => tokio::select! {
                    end = Line::gone(&mut self.line.reader) => return Err(end),
                    lease = mail.next_letter() => lease,
                },
                None if given == 0 => return self.say(Event::Empty).await,
                None => break,
            };
            if self.letter(lease).await? {
                given += 1;
            }
        }
        self.say(Event::Done).await
    }

    /// Hands over one letter; false if it was none that can be read.
    async fn letter(&mut self, lease: Lease) -> Result<bool, End> {
        let mail = self.services.mail.clone();
        let reading = mail.clone();
        let (lease, content) = blocking(move || {
            let content = reading.read(&lease);
            (lease, content)
        })
        .await?;
        let content = match content {
            Ok(content) => content,
            Err(ContentError::Letter(_)) => {
                blocking(move || mail.discard(lease)).await?.map_err(disk)?;
                return Ok(false);
            }
            Err(why) => return Err(disk(why)),
        };
        let header = content.header.clone();
        let known = header.from.as_ref().and_then(|from| mail.known_as(from));
        self.say(Event::Letter {
            letter: lease.id().to_string(),
            kind: kind_name(header.kind).into(),
            name: header.name.clone(),
            from: header.from.as_ref().map(ToString::to_string),
            known_as: known.map(|known| known.name).filter(|name| !name.is_empty()),
            bytes_at_most: content.bytes_at_most(),
        })
        .await?;
        if let Err(why) = self.content(content).await? {
            let broken = async {
                wire::write_break(&mut self.line.writer).await?;
                Ok::<_, End>(())
            };
            timeout(STALL, broken).await.map_err(|_| End::Gone)??;
            if matches!(why, ContentError::Letter(_)) {
                blocking(move || mail.discard(lease)).await?.map_err(disk)?;
            }
            return Err(disk(why));
        }
        let written = timeout(STALL, wire::read::<Written>(&mut self.line.reader)).await;
        match written.map_err(|_| End::Gone)?? {
            Some(Written { written: true }) => {}
            Some(Written { written: false }) | None => return Err(End::Gone),
        }
        blocking(move || mail.fetched(lease, &header))
            .await?
            .map_err(disk)?;
        self.say(Event::Removed).await?;
        Ok(true)
    }

    async fn content(&mut self, mut content: Content) -> Result<Result<(), ContentError>, End> {
        loop {
            let (rest, pieces) = blocking(move || {
                let mut data = Vec::new();
                for _ in 0..PIECES {
                    match content.next_piece() {
                        Ok(Some(piece)) => data.extend(piece),
                        Ok(None) => return (None, Ok(data)),
                        Err(why) => return (None, Err(why)),
                    }
                }
                (Some(content), Ok(data))
            })
            .await?;
            let data = match pieces {
                Ok(data) => data,
                Err(why) => return Ok(Err(why)),
            };
            let written = timeout(STALL, wire::write_data(&mut self.line.writer, &data)).await;
            written.map_err(|_| End::Gone)??;
            match rest {
                Some(rest) => content = rest,
                None => break,
            }
        }
        let written = timeout(STALL, wire::write_end(&mut self.line.writer)).await;
        written.map_err(|_| End::Gone)??;
        Ok(Ok(()))
    }

    async fn outbox(&mut self) -> Result<(), End> {
        let status = self.services.mail.status();
        let mut letters = status.outbox.into_iter().map(Into::into).peekable();
        loop {
            let some = letters.by_ref().take(LETTERS_IN_LINE).collect();
            self.say(Event::Outbox {
                letters: some,
                waiting: status.waiting,
                inbox_problem: status.inbox_problem.clone(),
            })
            .await?;
            if letters.peek().is_none() {
                return self.say(Event::Done).await;
            }
        }
    }

    async fn ping(&mut self, count: u32) -> Result<(), End> {
        let count = count.min(MAX_PING);
        let loops_per_s = self.services.loops_per_s;
        let mut loops = (self.services.loops)().ok_or(End::Gone)?;
        self.say(Event::Pinging { loops_per_s }).await?;
        // Loops leave at random: three times the mean is far more than so many take, and the last ones need their way.
        let limit = Duration::try_from_secs_f64(3.0 * f64::from(count) / loops_per_s)
            .unwrap_or(STALL)
            .saturating_add(Duration::from_secs(120));
        let end = tokio::time::Instant::now() + limit;
        let mut ended = 0;
        while ended < count {
            let next = tokio::select! {
                end = Line::gone(&mut self.line.reader) => return Err(end),
                () = tokio::time::sleep_until(end) => {
                    return Err(End::Told(
                        Code::Timeout,
                        format!("only {ended} of {count} loops ended within {} s: is the client up?", limit.as_secs()),
                    ));
                }
                next = loops.recv() => next,
            };
            match next {
                Ok(LoopEnd { round_trip }) => {
                    ended += 1;
                    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                    let round_trip_us = round_trip.map(us);
                    self.say(Event::Loop { round_trip_us }).await?;
                }
                // The other end was slow: these are not counted at all.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(End::Gone),
            }
        }
        self.say(Event::Done).await
    }
}

fn parse(address: &str) -> Result<Address, End> {
    address
        .parse()
        .map_err(|why: mizzle_base::address::AddressError| End::Told(Code::Address, why.to_string()))
}

fn request(line: &[u8]) -> Result<Command, End> {
    let strange = || End::Told(Code::Request, "this is no request that is known here".into());
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|_| strange())?;
    match value["version"].as_u64() {
        Some(version) if version == u64::from(VERSION) => {}
        Some(_) => {
            return Err(End::Told(
                Code::Version,
                "it is another version of mizzle than this program: start it again with this one".into(),
            ));
        }
        None => return Err(strange()),
    }
    let request: Request = serde_json::from_value(value).map_err(|_| strange())?;
    Ok(request.command)
}
