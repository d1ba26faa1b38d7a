//! Bytes both ways, and how a program's connection ends.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes, join};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Per direction and connection. A stream carries a few MB/s at most, so more would only delay a program's
/// notice of how much has really left.
pub(crate) const COPY_BUFFER: usize = 16 * 1024;

/// How long a program may take to read its last words and close.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

/// Lets a program read the last words: to close with unread bytes would be a reset, which may overtake them.
pub(crate) async fn farewell(mut local: TcpStream) {
    let read_on = async {
        local.shutdown().await?;
        let mut unread = [0; 1024];
        while local.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(FAREWELL, read_on).await;
}

/// Carries bytes both ways until both sides have ended; each direction ends by itself.
pub(crate) async fn relay<S>(mut local: TcpStream, mut stream: S, early: &[u8]) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // From here on whatever ends this task, an abort or the end of the process included, resets the program.
    reset_when_dropped(&local);
    let (read, write) = local.split();
    let mut program = join(early.chain(read), write);
    copy_bidirectional_with_sizes(&mut program, &mut stream, COPY_BUFFER, COPY_BUFFER).await?;
    close_orderly_when_dropped(&local);
    Ok(())
}

pub(crate) fn reset_when_dropped(local: &TcpStream) {
    // It fails only on a socket that is gone already.
    let _ = local.set_zero_linger();
}

#[expect(
    deprecated,
    reason = "deprecated for making close() wait, which the system's default does not"
)]
pub(crate) fn close_orderly_when_dropped(local: &TcpStream) {
    let _ = local.set_linger(None);
}
