//! Ctrl-C and SIGTERM, heard from before anything is announced until all is stopped.

use std::io;

/// Ctrl-C, and SIGTERM where there is such a thing.
pub(crate) struct Interrupted {
    #[cfg(unix)]
    signals: tokio::sync::Mutex<[tokio::signal::unix::Signal; 2]>,
}

#[cfg(unix)]
pub(crate) fn interrupted() -> io::Result<Interrupted> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    Ok(Interrupted {
        signals: tokio::sync::Mutex::new(signals),
    })
}

#[cfg(unix)]
impl Interrupted {
    pub(crate) async fn wait(&self) {
        let mut signals = self.signals.lock().await;
        let [interrupt, terminate] = &mut *signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
pub(crate) fn interrupted() -> io::Result<Interrupted> {
    Ok(Interrupted {})
}

#[cfg(not(unix))]
impl Interrupted {
    pub(crate) async fn wait(&self) {
        // Without a way to hear Ctrl-C the system's own handling ends the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
