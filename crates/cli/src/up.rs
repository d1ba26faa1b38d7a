//! `mizzle up`: a network in this process until Ctrl-C.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;

use mizzle_base::hex;

use crate::args::Up;
use crate::local::{Local, LocalConfig, StartError};
use crate::plan::EXIT_WEIGHT;

/// Why `mizzle up` ends without success.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The network didn't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The proxy would be open to others.
    #[error("{0} can be reached from other machines, and the proxy has no password: use 127.0.0.1, or say --danger-socks-for-others if you mean it")]
    OpenProxy(SocketAddr),
    /// The document can't be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where to.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Standard output or signals.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// [`UpError`], before anything listens or after all was stopped.
pub async fn run(up: Up) -> Result<(), UpError> {
    if !up.socks.ip().is_loopback() && !up.danger_socks_for_others {
        return Err(UpError::OpenProxy(up.socks));
    }
    // Before anything is announced, so that an early Ctrl-C ends in order too.
    let interrupted = interrupted()?;
    let config = LocalConfig::new(up.profile.profile(), &up.network).with_socks(up.socks);
    let local = tokio::select! {
        local = Local::start(config) => local?,
        () = interrupted.wait() => return Ok(()),
    };
    let written = announce(&up, &local);
    if written.is_ok() {
        interrupted.wait().await;
    }
    local.stop().await;
    written
}

fn announce(up: &Up, local: &Local) -> Result<(), UpError> {
    if let Some(path) = &up.write_document {
        std::fs::write(path, local.document().bytes())
            .map_err(|source| UpError::Write { path: path.display().to_string(), source })?;
    }
    let text = if up.json { json(local) } else { text(up, local) };
    let mut out = io::stdout().lock();
    // A reader that has gone (`mizzle up | head -1`) is no reason to stop the network.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

fn json(local: &Local) -> String {
    let report = serde_json::json!({
        "socks": local.socks().to_string(),
        "network": local.document().name(),
        "authority": hex::encode(local.authority().as_bytes()),
        "profile": local.document().profile(),
        "nodes": local.listening(),
        "hides": "nothing: one user",
    });
    format!("{report}\n")
}

fn text(up: &Up, local: &Local) -> String {
    let profile = local.document().profile();
    let mut out = format!("mizzle network `{}`, profile `{}`, all in this process\n\n", local.document().name(), profile.name);
    for node in local.listening() {
        let layer = if node.layer == 0 { String::new() } else { format!(" {}", node.layer) };
        let _ = writeln!(out, "  {:<18} {}", format!("{}{layer}", node.role), node.address);
    }
    let _ = writeln!(out, "  {:<18} {}", "SOCKS5 proxy", local.socks());
    let _ = write!(
        out,
        "\nTry it, with any web server on this machine (python3 -m http.server 8000):\n\n  \
         curl -x socks5h://{} http://127.0.0.1:8000/\n\n\
         Downloads here reach at most {:.2} MB/s: that is what the profile's reply slots carry.\n\
         This network hides nothing, for it has one user; and its exit may connect to this machine's loopback\n\
         addresses, which other exits refuse.\n",
        local.socks(),
        profile.ceiling_down_bytes_per_s(EXIT_WEIGHT) / 1e6,
    );
    if up.network.drop_percent > 0.0 {
        let _ = writeln!(out, "Every link loses {} % of the packets, as asked for.", up.network.drop_percent);
    }
    out.push_str("\nCtrl-C ends it.\n");
    out
}

/// Ctrl-C, and SIGTERM where there is such a thing.
struct Interrupted {
    #[cfg(unix)]
    signals: tokio::sync::Mutex<[tokio::signal::unix::Signal; 2]>,
}

#[cfg(unix)]
fn interrupted() -> io::Result<Interrupted> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    Ok(Interrupted { signals: tokio::sync::Mutex::new(signals) })
}

#[cfg(unix)]
impl Interrupted {
    async fn wait(&self) {
        let mut signals = self.signals.lock().await;
        let [interrupt, terminate] = &mut *signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
fn interrupted() -> io::Result<Interrupted> {
    Ok(Interrupted {})
}

#[cfg(not(unix))]
impl Interrupted {
    async fn wait(&self) {
        // Without a way to hear Ctrl-C the system's own handling ends the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
