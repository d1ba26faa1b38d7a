//! The socket itself, where there are Unix sockets.

use std::io;
use std::path::{Path, PathBuf};

/// Its name in the state directory.
pub const SOCKET: &str = "control.sock";

/// Why a client or node can't listen for commands.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Longer than the system takes.
    #[error(
        "the path {} is too long for a socket ({} bytes, about 100 are possible): put the state into a folder with a \
         shorter path",
        .0.display(), .0.as_os_str().len()
    )]
    TooLong(PathBuf),
    /// Somebody listens.
    #[error("{} is in use by another process: stop what runs with this state first", .0.display())]
    InUse(PathBuf),
    /// The system.
    #[error("cannot listen on {}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Longest path that every system takes, in bytes: macOS has room for 104 with the zero at the end.
const MAX_PATH: usize = 103;

/// Where commands arrive. The file goes away with it.
pub struct Listener {
    #[cfg(unix)]
    listener: tokio::net::UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Left behind it would do no harm: the next one takes its place.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
pub(super) type Stream = tokio::net::UnixStream;
#[cfg(not(unix))]
pub(super) type Stream = tokio::io::DuplexStream;

#[cfg(unix)]
impl Listener {
    /// Listens in this state directory, whose lock the caller holds: a socket that a killed process left is replaced.
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(state: &Path) -> Result<Self, SocketError> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = state.join(SOCKET);
        if path.as_os_str().len() > MAX_PATH {
            return Err(SocketError::TooLong(path));
        }
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(SocketError::InUse(path));
        }
        let bind = || {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let listener = tokio::net::UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        match bind() {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(SocketError::Io { path, source }),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

#[cfg(unix)]
pub(super) async fn connect(path: &Path) -> io::Result<Stream> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path is too long for a socket: put the state into a folder with a shorter path",
        ));
    }
    Stream::connect(path).await
}

#[cfg(not(unix))]
impl Listener {
    /// There are no Unix sockets on this system.
    ///
    /// # Errors
    /// Always.
    pub fn bind(state: &Path) -> Result<Self, SocketError> {
        let path = state.join(SOCKET);
        debug_assert!(MAX_PATH > 0);
        Err(SocketError::Io {
            path,
            source: io::ErrorKind::Unsupported.into(),
        })
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        std::future::pending().await
    }
}

#[cfg(not(unix))]
pub(super) async fn connect(_: &Path) -> io::Result<Stream> {
    Err(io::ErrorKind::Unsupported.into())
}
