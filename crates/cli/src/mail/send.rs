//! `mizzle send`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;
use std::time::Duration;

use mizzle_stream::letter::Header;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Failure, SendArgs, note, parse, say, text};
use crate::control::{self, Command, ConnectError, Control, Event, MAX_CHUNK, Until};
use crate::signals::Interrupted;

/// Chunks read ahead from a file or a pipe.
const AHEAD: usize = 4;
/// The line on the terminal is drawn again so often at most.
const REDRAW: Duration = Duration::from_millis(200);

pub(super) async fn run(args: &SendArgs, interrupted: &Interrupted) -> Result<(), Failure> {
    // What is wrong with the address is said before anything is opened or read.
    let to = parse(&args.address)?.to_string();
    let (name, source) = source(args)?;
    let until = match (args.no_wait, args.wait_read) {
        (true, _) => Until::Queued,
        (false, true) => Until::Read,
        (false, false) => Until::Stored,
    };
    let sign = args.sign;
    let command = Command::Send {
        to,
        name,
        sign,
        until,
    };
    let mut sending = Sending {
        json: args.json,
        until,
        letter: None,
        bytes: 0,
        stored: false,
        bar: Bar::new(!args.json && io::stderr().is_terminal()),
    };
    let state = args.which.state()?;
    let work = async {
        let mut control = control::connect(&state, command).await?;
        sending.hand_over(&mut control, source).await?;
        sending.follow(&mut control).await
    };
    let end = tokio::select! {
        done = work => done.map_err(End::Failure),
        () = interrupted.wait() => Err(End::Interrupted),
        () = at(args.timeout) => Err(End::Late),
    };
    sending.bar.clear();
    end.map_err(|end| sending.explain(end, args.timeout))?;
    if args.json {
        let result = match until {
            Until::Queued => "queued",
            Until::Stored => "stored",
            Until::Read => "read",
        };
        let value = json!({ "letter": sending.letter, "bytes": sending.bytes, "result": result });
        say(&format!("{value}\n"));
    }
    Ok(())
}

async fn at(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// The name that the letter gets, if it is a file, and where its data comes from.
fn source(args: &SendArgs) -> Result<(Option<String>, Box<dyn Read + Send>), Failure> {
    let name = |name: &str| {
        Header::file(name).map_err(|why| Failure::Other(format!("{why}: say another with --name")))?;
        Ok::<_, Failure>(Some(name.to_owned()))
    };
    if let Some(text) = &args.text {
        return Ok((None, Box::new(io::Cursor::new(text.clone().into_bytes()))));
    }
    match &args.file {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
                true => Err(io::ErrorKind::IsADirectory.into()),
                false => Ok(file),
            });
            let file = file.map_err(|e| Failure::Other(format!("cannot read {}: {e}", path.display())))?;
            let own = path.file_name().unwrap_or_default().to_string_lossy();
            Ok((name(args.name.as_deref().unwrap_or(&own))?, Box::new(file)))
        }
        None if io::stdin().is_terminal() => Err(Failure::Other(
            "nothing to send: name a file, say --text TEXT, or - to type it and end it with Ctrl-D".into(),
        )),
        _ => {
            let name = args.name.as_deref().map(name).transpose()?.flatten();
            Ok((name, Box::new(io::stdin())))
        }
    }
}

/// Reads in a thread of its own: a pipe can keep one waiting for ever, which must not keep the process from ending.
fn chunks(mut source: Box<dyn Read + Send>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, chunks) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut chunk = vec![0; MAX_CHUNK];
            let read = match source.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => {
                    chunk.truncate(n);
                    Ok(chunk)
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    chunks
}

enum End {
    Failure(Failure),
    Interrupted,
    Late,
}

struct Sending {
    json: bool,
    until: Until,
    letter: Option<String>,
    bytes: u64,
    stored: bool,
    bar: Bar,
}

impl Sending {
    async fn hand_over(
        &mut self,
        control: &mut Control,
        source: Box<dyn Read + Send>,
    ) -> Result<(), Failure> {
        match control.event().await? {
            Event::Ready => {}
            _ => return Err(ConnectError::Strange.into()),
        }
        let mut chunks = chunks(source);
        while let Some(chunk) = chunks.recv().await {
            // The connection ends without the end of the data: nothing is queued.
            let chunk = chunk.map_err(|e| Failure::Other(format!("cannot read what is to be sent: {e}")))?;
            control.write(&chunk).await?;
        }
        control.end().await?;
        match control.event().await? {
            Event::Queued { letter, bytes } => {
                self.letter = Some(letter);
                self.bytes = bytes;
            }
            _ => return Err(ConnectError::Strange.into()),
        }
        if self.until == Until::Queued {
            self.tell("queued: the client brings it to the receiver's gateway");
        }
        Ok(())
    }

    async fn follow(&mut self, control: &mut Control) -> Result<(), Failure> {
        while self.until > Until::Queued {
            match control.event().await? {
                Event::Progress {
                    items_sent,
                    items,
                    problem,
                } => self.bar.draw(self.bytes, items_sent, items, problem.as_deref()),
                Event::Stored => {
                    self.stored = true;
                    self.bar.clear();
                    self.tell("stored: the receiver's gateway has it on its disk");
                    if self.until == Until::Stored {
                        return Ok(());
                    }
                }
                Event::Read => {
                    self.tell("read: the receiver has fetched it");
                    return Ok(());
                }
                Event::Failed { why } => return Err(Failure::Failed(why)),
                _ => return Err(ConnectError::Strange.into()),
            }
        }
        Ok(())
    }

    fn tell(&self, what: &str) {
        if !self.json {
            let letter = self.letter.as_deref().unwrap_or_default();
            say(&format!(
                "{what} (letter {letter}, {})\n",
                text::bytes(self.bytes)
            ));
        }
    }

    /// What the end means for the letter, and what to do.
    fn explain(&self, end: End, limit: Option<Duration>) -> Failure {
        let goes_on = match (&self.letter, self.stored) {
            (None, _) => "nothing was sent".to_owned(),
            (Some(letter), true) => {
                format!("letter {letter} is stored, but nobody said that it was read: see `mizzle outbox`")
            }
            (Some(letter), false) => {
                format!(
                    "letter {letter} stays with the client, which goes on for up to 7 days: see `mizzle outbox`"
                )
            }
        };
        match end {
            End::Interrupted => Failure::Interrupted(format!("interrupted; {goes_on}")),
            End::Late => {
                let limit = limit.unwrap_or_default().as_secs_f64();
                Failure::Timeout(format!("not done within {limit} s; {goes_on}"))
            }
            End::Failure(Failure::Connect(ConnectError::Gone)) => Failure::Other(match &self.letter {
                None => "the client stopped before it had the letter: nothing was sent; start it again with `mizzle client \
                         run` and send again"
                    .into(),
                Some(letter) => format!(
                    "the client stopped; letter {letter} is safe on its disk, and it goes on with it when it is started \
                     again with `mizzle client run`; then see `mizzle outbox`"
                ),
            }),
            End::Failure(other) => other,
        }
    }
}

/// A line on the terminal that is drawn again and again.
struct Bar {
    shown: bool,
    wanted: bool,
    drawn: Option<Instant>,
    /// When the count was first above what was there at the start.
    began: Option<(Instant, u32)>,
}

impl Bar {
    fn new(wanted: bool) -> Self {
        Self {
            shown: false,
            wanted,
            drawn: None,
            began: None,
        }
    }

    fn draw(&mut self, bytes: u64, sent: u32, items: u32, problem: Option<&str>) {
        let now = Instant::now();
        if !self.wanted || self.drawn.is_some_and(|at| now - at < REDRAW && sent < items) {
            return;
        }
        self.drawn = Some(now);
        self.shown = true;
        // An attempt that begins again counts from where the gateway is.
        let (began, from) = *self.began.get_or_insert((now, sent));
        if sent < from {
            self.began = Some((now, sent));
        }
        let line = line(bytes, (from.min(sent), sent, items), now - began, problem);
        // Back to the first column, and what stood behind is cleared.
        note(&format!("\r{line}\x1b[K"));
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            note("\r\x1b[K");
        }
    }
}

/// Percent, bytes, rate and time left, or what is wrong.
fn line(bytes: u64, (from, sent, items): (u32, u32, u32), took: Duration, problem: Option<&str>) -> String {
    let share = f64::from(sent) / f64::from(items.max(1));
    let done = (bytes as f64 * share) as u64;
    let mut line = format!(
        "{:3.0} %  {} of {}",
        100.0 * share,
        text::bytes(done),
        text::bytes(bytes)
    );
    if let Some(problem) = problem {
        line += &format!(", tried again soon: {problem}");
    } else if sent >= items {
        line += ", waiting for the receiver's gateway";
    } else if sent > from && took > Duration::from_secs(1) {
        let items_per_s = f64::from(sent - from) / took.as_secs_f64();
        let rate = bytes as f64 * items_per_s / f64::from(items.max(1));
        let left =
            Duration::try_from_secs_f64(f64::from(items - sent) / items_per_s).unwrap_or(Duration::MAX);
        line += &format!(", {}/s, {} left", text::bytes(rate as u64), text::time(left));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_how_much_how_fast_and_how_long() {
        let ten = Duration::from_secs(10);
        assert_eq!(
            line(4_000_000, (0, 250, 1_000), ten, None),
            " 25 %  1.0 MB of 4.0 MB, 100.0 kB/s, 30 s left"
        );
        assert_eq!(
            line(100, (0, 1, 1), ten, None),
            "100 %  100 bytes of 100 bytes, waiting for the receiver's gateway"
        );
        let broken = line(4_000_000, (250, 250, 1_000), ten, Some("it broke"));
        assert!(broken.ends_with("tried again soon: it broke"), "{broken}");
    }
}
