//! A state directory: what one node or client must still know after a restart. One folder for each identity, and one
//! process at a time.
//!
//! It holds a file `version`, a file `lock`, and files that their owner alone may read: secrets (32 bytes as 64
//! hexadecimal digits and a newline) and whatever else the roles write. Each is replaced in one step: after a crash or a
//! loss of power it is the old one or the new one, never half of one. A backup is a copy of the folder; the lock need
//! not be copied, and a copy of it locks nothing. Which files there are is left to the roles.

mod access;
pub mod seed;

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use mizzle_base::hex;
use zeroize::Zeroizing;

/// The version of state directories that this program reads and writes.
const VERSION: u32 = 1;
const VERSION_FILE: &str = "version";
const LOCK_FILE: &str = "lock";
/// Longest file that [`Folder::read`] and [`read_private`] take, in bytes: four network documents of the greatest length.
pub const MAX_FILE_LEN: u64 = 16 << 20;
/// The text of a secret is 65 bytes, 66 with a carriage return before the newline: one more shows that there is more.
const SECRET_TEXT_LEN: usize = 67;

/// Whose state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A mix or a gateway.
    Node,
    /// A client.
    Client,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Client => "client",
        })
    }
}

/// What is wrong with a state directory, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// There is none.
    #[error("there is no state at {}: check the path, or restore it from a backup", .path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The folder holds something else.
    #[error("{} is not a mizzle state: it holds files but no `version`; name an empty or a new folder", .path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// There is one already.
    #[error("there is a state at {} already", .path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The file `version` can't be read.
    #[error("{} is damaged: it should say `mizzle state {VERSION} node` or `mizzle state {VERSION} client`; restore the folder from a backup", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a later program.
    #[error("{} was made by a newer mizzle (state {found}); this one knows {VERSION}: update it", .path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It is of the other kind.
    #[error("{} is the state of a {found}, and a {wanted} was to use it: name another folder", .path.display())]
    OtherKind {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: Kind,
        /// Whose it should be.
        wanted: Kind,
    },
    /// Another process has it.
    #[error("{} is in use by {}: stop that one first, or give this one a state of its own", .path.display(), holder(*.process))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other process's id, if it could be read.
        process: Option<u32>,
    },
    /// Others can read a secret.
    #[error("{0} holds a secret, and others on this machine can read it (mode {mode:04o}): run `chmod 600 {0}`; if somebody may have read it, make a new one", .path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file of a secret holds something else.
    #[error("{} should hold a secret key, 64 hexadecimal digits and a newline: restore it from a backup", .path.display())]
    NotASecret {
        /// The file.
        path: PathBuf,
    },
    /// The file of a node's seed holds something else.
    #[error("{} should hold the number of an epoch and a secret seed, as `7 ` and 64 hexadecimal digits: if there is no newer copy of it, give the node a new one with `mizzle network rekey`", .path.display())]
    NotASeed {
        /// The file.
        path: PathBuf,
    },
    /// A file is longer than any that belongs here.
    #[error("{} is longer than {MAX_FILE_LEN} bytes", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot {action} {}: {}", .path.display(), reason(.source))]
    Io {
        /// What was to be done.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".into(), |id| format!("process {id}"))
}

/// What the system says, with what to do where that is known.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full; nothing was changed, make room and try again".into()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "its file system is read-only; name a folder that can be written to".into()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; it must belong to the user who runs mizzle".into()
        }
        _ => error.to_string(),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// What is in a state directory, to read.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether there is a file `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    /// The secret in the file `name`.
    ///
    /// # Errors
    /// [`StateError`]; a file that others can read is refused.
    pub fn secret(&self, name: &str) -> Result<Zeroizing<[u8; 32]>, StateError> {
        read_secret(&self.0.join(name))
    }

    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// [`StateError`], also for one longer than [`MAX_FILE_LEN`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        match read_file(&self.0.join(name)) {
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }
}

/// A state directory, this process's until it is dropped.
#[derive(Debug)]
pub struct State {
    folder: Folder,
    /// Locked as long as it is open.
    _lock: File,
}

impl std::ops::Deref for State {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

impl State {
    /// Makes a new one. The folder must be empty or not exist; those above it are made as needed.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn create(path: &Path, kind: Kind) -> Result<Self, StateError> {
        if path.join(VERSION_FILE).exists() {
            return Err(StateError::Exists { path: path.into() });
        }
        access::create_folder(path).map_err(failed("make the folder", path))?;
        for entry in std::fs::read_dir(path).map_err(failed("read the folder", path))? {
            let name = entry.map_err(failed("read the folder", path))?.file_name();
            // What a crash leaves that came before the version.
            if name != LOCK_FILE && *name != *temporary(VERSION_FILE) {
                return Err(StateError::Foreign { path: path.into() });
            }
        }
        access::close_to_others(path).map_err(failed("change the mode of", path))?;
        let lock = lock(path)?;
        let state = Self {
            folder: Folder(path.into()),
            _lock: lock,
        };
        state.write(
            VERSION_FILE,
            format!("mizzle state {VERSION} {kind}\n").as_bytes(),
        )?;
        Ok(state)
    }

    /// Opens one that is there.
    ///
    /// # Errors
    /// [`StateError`], also when another process uses it.
    pub fn open(path: &Path, kind: Kind) -> Result<Self, StateError> {
        // Before anything is written: a wrong path must not get a lock file.
        let folder = Self::inspect(path, kind)?;
        let lock = lock(path)?;
        Ok(Self { folder, _lock: lock })
    }

    /// Opens the one that is there, or makes one where the folder is empty or missing.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open_or_create(path: &Path, kind: Kind) -> Result<Self, StateError> {
        if path.join(VERSION_FILE).exists() {
            Self::open(path, kind)
        } else {
            Self::create(path, kind)
        }
    }

    /// What is in one, whoever uses it: nothing is locked or written.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn inspect(path: &Path, kind: Kind) -> Result<Folder, StateError> {
        check_version(path, kind)?;
        Ok(Folder(path.into()))
    }

    /// Writes a secret that was not there before.
    ///
    /// # Errors
    /// [`StateError`]; one that is there is never overwritten.
    pub fn create_secret(&self, name: &str, secret: &[u8; 32]) -> Result<(), StateError> {
        create_secret(&self.path().join(name), secret)
    }

    /// Writes a secret, in place of the one that was there.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn replace_secret(&self, name: &str, secret: &[u8; 32]) -> Result<(), StateError> {
        write_private(&self.path().join(name), secret_text(secret).as_bytes())
    }

    /// Writes a file, durably and in one step.
    ///
    /// # Errors
    /// [`StateError`]; what was there before is there still.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        write_private(&self.path().join(name), bytes)
    }
}

/// Reads a secret from a file outside any state, as an authority's key.
///
/// # Errors
/// [`StateError`]; a file that others can read is refused.
pub fn read_secret(path: &Path) -> Result<Zeroizing<[u8; 32]>, StateError> {
    let mut file = open_private(path)?;
    // A fixed buffer: one that grows would leave copies behind.
    let mut text = Zeroizing::new([0; SECRET_TEXT_LEN]);
    let mut len = 0;
    while len < text.len() {
        match file.read(&mut text[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed("read", path)(e)),
        }
    }
    let digits = str::from_utf8(&text[..len]).unwrap_or_default();
    let digits = digits.strip_suffix('\n').unwrap_or(digits);
    let secret = hex::decode(digits.strip_suffix('\r').unwrap_or(digits)).map(Zeroizing::new);
    secret.ok_or_else(|| StateError::NotASecret { path: path.into() })
}

/// Makes sure that a file which holds a secret is its owner's alone.
///
/// # Errors
/// [`StateError`], with what to do.
pub fn check_private(path: &Path) -> Result<(), StateError> {
    open_private(path).map(drop)
}

/// Reads a file whose content is a secret of any form, as an invitation.
///
/// # Errors
/// [`StateError`]; a file that others can read is refused.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, StateError> {
    open_private(path)?;
    read_file(path).map(Zeroizing::new)
}

/// Writes a secret to a file that was not there before.
///
/// # Errors
/// [`StateError`]; one that is there is never overwritten.
pub fn create_secret(path: &Path, secret: &[u8; 32]) -> Result<(), StateError> {
    if path.exists() {
        return Err(StateError::Io {
            action: "write",
            path: path.into(),
            source: io::ErrorKind::AlreadyExists.into(),
        });
    }
    write_private(path, secret_text(secret).as_bytes())
}

fn secret_text(secret: &[u8; 32]) -> Zeroizing<String> {
    // Long enough from the start: one that grows would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(SECRET_TEXT_LEN));
    // Writing to a `String` can't fail.
    let _ = hex::write(secret, &mut *text);
    text.push('\n');
    text
}

fn open_private(path: &Path) -> Result<File, StateError> {
    let file = File::open(path).map_err(failed("read", path))?;
    let metadata = file.metadata().map_err(failed("read", path))?;
    match access::open_to_others(&metadata) {
        Some(mode) => Err(StateError::OpenToOthers {
            path: path.into(),
            mode,
        }),
        None => Ok(file),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, StateError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes))
        .map_err(failed("read", path))?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(StateError::TooLong { path: path.into() });
    }
    Ok(bytes)
}

fn temporary(name: &str) -> String {
    format!(".{name}.new")
}

/// Writes beside the file, then takes its place: all that a crash can leave is the file beside, which the next write
/// begins anew.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    write_as(access::private(), path, bytes)
}

/// Writes a file that others may read, as a network document, in one step and so that it outlasts a loss of power: what is there
/// is the old one or the new one at any time. Anywhere, not only in a state.
///
/// # Errors
/// [`StateError`]; what was there before is there still.
pub fn publish(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    write_as(access::public(), path, bytes)
}

fn write_as(mut options: OpenOptions, path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(temporary(&name));
    let mut write = || {
        // Made anew, so that it has our mode and not that of what may lie there.
        match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = options.write(true).create_new(true).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        access::sync_folder(folder.unwrap_or(Path::new(".")))
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&beside);
        failed("write", path)(source)
    })
}

fn check_version(path: &Path, wanted: Kind) -> Result<(), StateError> {
    let file = path.join(VERSION_FILE);
    let text = match std::fs::read(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(
                match std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
                    true => StateError::Foreign { path: path.into() },
                    false => StateError::Missing { path: path.into() },
                },
            );
        }
        Err(e) => return Err(failed("read", &file)(e)),
    };
    let damaged = || StateError::Damaged { path: file.clone() };
    let words: Vec<&str> = str::from_utf8(&text)
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ["mizzle", "state", version, rest @ ..] = words.as_slice() else {
        return Err(damaged());
    };
    let version: u32 = version.parse().map_err(|_| damaged())?;
    // What follows the number is that version's business. There is none before 1 yet; a change of the format adds
    // here what turns the old one into the new one.
    if version > VERSION {
        return Err(StateError::Newer {
            path: path.into(),
            found: version,
        });
    }
    let found = match (version, rest) {
        (VERSION, ["node"]) => Kind::Node,
        (VERSION, ["client"]) => Kind::Client,
        _ => return Err(damaged()),
    };
    if found == wanted {
        Ok(())
    } else {
        Err(StateError::OtherKind {
            path: path.into(),
            found,
            wanted,
        })
    }
}

/// The operating system gives the lock back when the process ends, however it ends.
fn lock(folder: &Path) -> Result<File, StateError> {
    let path = folder.join(LOCK_FILE);
    let mut file = access::private()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed("write", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // It may be written just now, or unreadable while locked (Windows): then without a number.
            let _ = file.take(32).read_to_string(&mut text);
            return Err(StateError::InUse {
                path: folder.into(),
                process: text.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(e)) => return Err(failed("lock", &path)(e)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed("write", &path))?;
    Ok(file)
}
