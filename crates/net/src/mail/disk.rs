//! Files that their owner alone may read, and that are whole after a crash.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest file that is read as a whole, in bytes: the lists of this module with as much in them as they may hold.
const MAX_LEN: u64 = 64 << 20;

/// What failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", .path.display())]
pub struct DiskError {
    /// What was to be done.
    pub action: &'static str,
    /// To which file or folder.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

impl DiskError {
    /// Whether there is just no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError {
        action,
        path: path.to_owned(),
        source,
    }
}

/// How files are opened that are written: 0600 where there are modes.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a folder and those above it, 0700 where there are modes.
pub(super) fn folder(path: &Path) -> Result<(), DiskError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(failed("make the folder", path))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), DiskError> {
    // Elsewhere a folder can't be opened, and renames are durable when they return.
    #[cfg(unix)]
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("write", path))?;
    Ok(())
}

/// Replaces a file in one step: after a crash it is the old one or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file = private().create(true).truncate(true).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(failed("write", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Replaces a file by a value as JSON.
pub(super) fn replace_json(path: &Path, value: &impl Serialize) -> Result<(), DiskError> {
    let bytes = serde_json::to_vec(value).map_err(|e| failed("write", path)(e.into()))?;
    replace(path, &bytes)
}

/// Reads a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut bytes));
    match read {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
        Ok(n) if n as u64 > MAX_LEN => Err(failed("read", path)(io::ErrorKind::FileTooLarge.into())),
        Ok(_) => Ok(Some(bytes)),
    }
}

/// Reads a value that [`replace_json`] wrote; `None` if there is no file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DiskError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let value = serde_json::from_slice(&bytes).map_err(|e| failed("understand", path)(e.into()))?;
    Ok(Some(value))
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), DiskError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Names of the files in a folder, sorted.
pub(super) fn names(path: &Path) -> Result<Vec<String>, DiskError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed("read the folder", path))? {
        let entry = entry.map_err(failed("read the folder", path))?;
        // What isn't text isn't ours.
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
