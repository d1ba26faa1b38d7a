//! Who may read what is in a state directory: modes of files and folders where the system has them (Unix). Elsewhere a
//! folder has the access rights of the one that it lies in, usually the user's own.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

/// Makes the folder, and those above it, for its owner alone.
#[cfg(unix)]
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(path)
}

/// A folder that was there before becomes its owner's alone.
#[cfg(unix)]
pub(super) fn close_to_others(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
pub(super) fn close_to_others(_: &Path) -> io::Result<()> {
    Ok(())
}

/// How files are opened that their owner alone may read and write.
#[cfg(unix)]
pub(super) fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.mode(0o600);
    options
}

#[cfg(not(unix))]
pub(super) fn private() -> OpenOptions {
    File::options()
}

/// How files are opened that everybody may read.
#[cfg(unix)]
pub(super) fn public() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.mode(0o644);
    options
}

#[cfg(not(unix))]
pub(super) fn public() -> OpenOptions {
    File::options()
}

/// The mode of a file that group or others may read or write; `None` for one that is its owner's alone.
#[cfg(unix)]
pub(super) fn open_to_others(file: &Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = file.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

#[cfg(not(unix))]
pub(super) fn open_to_others(_: &Metadata) -> Option<u32> {
    None
}

/// Makes what was renamed in this folder outlast a loss of power.
#[cfg(unix)]
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
pub(super) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
