//! `mizzle receive`.
//!
//! A letter is confirmed to the client only when it is where it belongs: a file synced under its name, a text written to
//! standard output. Until then the client keeps it.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::text::{self, Tame};
use super::{Failure, ReceiveArgs, note, say};
use crate::control::{self, Command, ConnectError, Control, Event};
use crate::signals::Interrupted;

/// A longer text doesn't go into a line of JSON but into a file.
const JSON_TEXT: usize = 1 << 20;
/// Tried names for one file.
const MAX_NUMBER: u32 = 10_000;

pub(super) async fn run(args: &ReceiveArgs, interrupted: &Interrupted) -> Result<(), Failure> {
    let state = args.which.state()?;
    let output = check(args)?;
    let count = match (args.all || args.follow, args.count) {
        (true, _) => None,
        (false, count) => Some(count.unwrap_or(1)),
    };
    let wait = !args.all;
    let work = async {
        let mut control = control::connect(&state, Command::Receive { count, wait }).await?;
        let mut fetched = 0_u64;
        loop {
            let event = match args.timeout {
                Some(limit) => match timeout(limit, control.event()).await {
                    Ok(event) => event?,
                    // The last of those that were asked for are there.
                    Err(_) => return Err(late(limit, fetched)),
                },
                None => control.event().await?,
            };
            match event {
                Event::Letter {
                    letter,
                    kind,
                    name,
                    from,
                    known_as,
                    ..
                } => {
                    let is_file = kind == "file";
                    let letter = Letter {
                        id: letter,
                        is_file,
                        name,
                        from,
                        known_as,
                    };
                    fetch(&mut control, &letter, args, &output).await?;
                    fetched += 1;
                }
                Event::Done => return Ok(()),
                Event::Empty => {
                    if !args.json {
                        note("no letters\n");
                    }
                    return Ok(());
                }
                _ => return Err(ConnectError::Strange.into()),
            }
        }
    };
    tokio::select! {
        done = work => done,
        // The letter that was on its way stays; following ends so.
        () = interrupted.wait() => match args.follow {
            true => Ok(()),
            false => Err(Failure::Interrupted("interrupted; what was not written yet stays in the inbox".into())),
        },
    }
}

fn late(limit: Duration, fetched: u64) -> Failure {
    let limit = limit.as_secs_f64();
    Failure::Timeout(match fetched {
        0 => format!("no letter came within {limit} s"),
        n => format!("no more letters came within {limit} s, after {n}"),
    })
}

/// Where letters go, said before any is asked for.
enum Output {
    /// Texts to standard output, files into this folder.
    Folder(PathBuf),
    /// To this file.
    File(PathBuf),
    /// To standard output, whatever it is.
    Stdout,
}

fn check(args: &ReceiveArgs) -> Result<Output, Failure> {
    match &args.output {
        Some(path) if path == Path::new("-") => Ok(Output::Stdout),
        Some(path) if path.symlink_metadata().is_ok() => Err(Failure::Other(format!(
            "{} is there already, and nothing is overwritten: name another file",
            path.display()
        ))),
        Some(path) => Ok(Output::File(path.clone())),
        None if args.dir.is_dir() => Ok(Output::Folder(args.dir.clone())),
        None => Err(Failure::Other(format!(
            "there is no folder {}: make it, or name another with --dir",
            args.dir.display()
        ))),
    }
}

struct Letter {
    id: String,
    is_file: bool,
    name: String,
    from: Option<String>,
    known_as: Option<String>,
}

async fn fetch(
    control: &mut Control,
    letter: &Letter,
    args: &ReceiveArgs,
    output: &Output,
) -> Result<(), Failure> {
    let (path, text, bytes) = match output {
        Output::File(path) => {
            let (folder, name) = split(path);
            let (path, bytes) = to_file(control, letter, folder, &name, Numbers::No).await?;
            (Some(path), None, bytes)
        }
        Output::Folder(folder) if letter.is_file => {
            let (path, bytes) = to_file(control, letter, folder.clone(), &letter.name, Numbers::Yes).await?;
            (Some(path), None, bytes)
        }
        Output::Folder(folder) if args.json => to_json(control, letter, folder).await?,
        Output::Folder(_) | Output::Stdout => {
            if !args.json {
                note(&headline(letter));
            }
            (None, None, to_stdout(control, letter).await?)
        }
    };
    control.written().await.map_err(|why| match why {
        ConnectError::Gone => Failure::Other(format!(
            "letter {} is written, but the client stopped before it noted that: the letter may come again",
            letter.id
        )),
        other => other.into(),
    })?;
    if args.json {
        let line = json!({
            "letter": letter.id,
            "kind": if letter.is_file { "file" } else { "text" },
            "name": letter.name,
            "from": letter.from,
            "known_as": letter.known_as,
            "bytes": bytes,
            "path": path,
            "text": text,
        });
        // With `-o -` standard output is the letter's.
        if !matches!(output, Output::Stdout) {
            say(&format!("{line}\n"));
        }
    } else if let Some(path) = path {
        let headline = headline(letter);
        say(&format!(
            "{} ({})  {headline}",
            path.display(),
            text::bytes(bytes)
        ));
    }
    Ok(())
}

fn headline(letter: &Letter) -> String {
    match (&letter.from, &letter.known_as) {
        (None, _) => "anonymous\n".into(),
        (Some(from), None) => format!("signed by {from}\n"),
        (Some(from), Some(name)) => format!("signed by {name} ({from})\n"),
    }
}

fn split(path: &Path) -> (PathBuf, String) {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    (folder.unwrap_or(Path::new(".")).into(), name.into_owned())
}

/// Work that may block: a reader of a pipe that doesn't read must not keep Ctrl-C from being heard.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, io::Error> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

async fn to_stdout(control: &mut Control, letter: &Letter) -> Result<u64, Failure> {
    let gone = |_| {
        Failure::Other(format!(
            "nobody reads what is written here: letter {} stays in the inbox",
            letter.id
        ))
    };
    let mut tame = io::stdout().is_terminal().then(Tame::default);
    let (mut bytes, mut ends_line) = (0, true);
    while let Some(mut data) = control.data().await? {
        if let Some(tame) = &mut tame {
            tame.tame(&mut data);
        }
        bytes += data.len() as u64;
        ends_line = data.last().map_or(ends_line, |&last| last == b'\n');
        blocking(move || io::stdout().lock().write_all(&data))
            .await
            .map_err(gone)?;
    }
    let newline = !letter.is_file && !ends_line;
    blocking(move || {
        let mut out = io::stdout().lock();
        if newline {
            out.write_all(b"\n")?;
        }
        out.flush()
    })
    .await
    .map_err(gone)?;
    Ok(bytes)
}

/// A text for a line of JSON; one that is too long for it or isn't UTF-8 becomes a file.
async fn to_json(
    control: &mut Control,
    letter: &Letter,
    folder: &Path,
) -> Result<(Option<PathBuf>, Option<String>, u64), Failure> {
    let mut held = Vec::new();
    while let Some(data) = control.data().await? {
        held.extend(data);
        if held.len() > JSON_TEXT {
            let name = format!("letter-{}.txt", letter.id);
            let mut part = Part::new(folder.into(), &letter.id).await?;
            part.write(held).await?;
            part.take(control).await?;
            let bytes = part.bytes;
            return Ok((Some(part.finish(&name, Numbers::Yes).await?), None, bytes));
        }
    }
    let bytes = held.len() as u64;
    match String::from_utf8(held) {
        Ok(text) => Ok((None, Some(text), bytes)),
        Err(other) => {
            let name = format!("letter-{}.txt", letter.id);
            let mut part = Part::new(folder.into(), &letter.id).await?;
            part.write(other.into_bytes()).await?;
            Ok((Some(part.finish(&name, Numbers::Yes).await?), None, bytes))
        }
    }
}

async fn to_file(
    control: &mut Control,
    letter: &Letter,
    folder: PathBuf,
    name: &str,
    numbers: Numbers,
) -> Result<(PathBuf, u64), Failure> {
    let mut part = Part::new(folder, &letter.id).await?;
    part.take(control).await?;
    let bytes = part.bytes;
    Ok((part.finish(name, numbers).await?, bytes))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// A name that is taken gets a number.
    Yes,
    /// A name that is taken is an error.
    No,
}

/// A file on its way, beside where it will be. Removed when it is given up.
struct Part {
    folder: PathBuf,
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        // After `finish` nothing is there under this name.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Part {
    async fn new(folder: PathBuf, letter: &str) -> Result<Self, Failure> {
        let path = folder.join(format!(".mizzle-{letter}.part"));
        let open = path.clone();
        let file = blocking(move || {
            // What an earlier attempt left is written anew.
            let _ = std::fs::remove_file(&open);
            OpenOptions::new().write(true).create_new(true).open(open)
        });
        let file = file.await.map_err(|e| Self::failed(&path, &e))?;
        Ok(Self {
            folder,
            path,
            file: Some(file),
            bytes: 0,
        })
    }

    fn failed(path: &Path, why: &io::Error) -> Failure {
        Failure::Other(format!(
            "cannot write {}: {why}; the letter stays in the inbox",
            path.display()
        ))
    }

    async fn take(&mut self, control: &mut Control) -> Result<(), Failure> {
        while let Some(data) = control.data().await? {
            self.write(data).await?;
        }
        Ok(())
    }

    async fn write(&mut self, data: Vec<u8>) -> Result<(), Failure> {
        self.bytes += data.len() as u64;
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        let written = blocking(move || file.write_all(&data).map(|()| file));
        self.file = Some(written.await.map_err(|e| Self::failed(&self.path, &e))?);
        Ok(())
    }

    /// Syncs it and gives it its name, or the next one that is free.
    async fn finish(mut self, name: &str, numbers: Numbers) -> Result<PathBuf, Failure> {
        let (file, from) = (self.file.take(), self.path.clone());
        let (folder, name) = (self.folder.clone(), name.to_owned());
        let named = folder.join(&name);
        let done = blocking(move || {
            if let Some(file) = file {
                file.sync_all()?;
            }
            let target = place(&folder, &name, numbers)?;
            if let Err(why) = std::fs::rename(&from, &target) {
                // The place that was kept for it.
                let _ = std::fs::remove_file(&target);
                return Err(why);
            }
            #[cfg(unix)]
            File::open(&folder)?.sync_all()?;
            Ok(target)
        });
        done.await.map_err(|e| Self::failed(&named, &e))
    }
}

/// Makes an empty file that was not there before, for the letter to take its place.
fn place(folder: &Path, name: &str, numbers: Numbers) -> io::Result<PathBuf> {
    for number in 1..=MAX_NUMBER {
        let path = folder.join(numbered(name, number));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => return Ok(path),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && numbers == Numbers::Yes => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// `a.txt`, `a (2).txt`, ...; a name so long that no number fits is cut.
fn numbered(name: &str, number: u32) -> String {
    if number == 1 {
        return name.into();
    }
    let (stem, ending) = match name.rfind('.') {
        Some(at) if at > 0 => name.split_at(at),
        _ => (name, ""),
    };
    let number = format!(" ({number})");
    let room = 255_usize.saturating_sub(number.len() + ending.len());
    let cut = (0..=room.min(stem.len()))
        .rev()
        .find(|&at| stem.is_char_boundary(at))
        .unwrap_or(0);
    format!("{}{number}{ending}", &stem[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_taken_get_a_number_before_the_ending() {
        assert_eq!(numbered("a.txt", 1), "a.txt");
        assert_eq!(numbered("a.txt", 2), "a (2).txt");
        assert_eq!(numbered(".profile", 3), ".profile (3)");
        assert_eq!(numbered("notes", 10), "notes (10)");
        let long = format!("{}.jpg", "ü".repeat(125));
        let cut = numbered(&long, 12);
        assert!(cut.len() <= 255 && cut.ends_with(" (12).jpg"), "{cut}");
    }
}
