//! `mizzle up`: a network in this process until Ctrl-C, kept in a folder from one start to the next.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use mizzle_base::hex;

use crate::args::{OpenProxy, Up};
use crate::config::paths;
use crate::local::{self, Local, LocalConfig, LocalError};
use crate::plan::EXIT_WEIGHT;
use crate::signals::interrupted;

/// Why `mizzle up` ends without success.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The network didn't start.
    #[error(transparent)]
    Start(#[from] LocalError),
    /// Nowhere to keep it.
    #[error("there is no home folder to keep the network in: name a folder with --state")]
    NoHome,
    /// The proxy would be open to others.
    #[error(transparent)]
    OpenProxy(#[from] OpenProxy),
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
    let socks = up.socks.checked()?;
    let folder = match &up.state {
        // What is said of it shall be true in other folders too.
        Some(folder) => std::path::absolute(folder)?,
        None => paths::up().ok_or(UpError::NoHome)?,
    };
    // Before anything is announced, so that an early Ctrl-C ends in order too.
    let interrupted = interrupted()?;
    if up.fresh {
        local::delete(&folder)?;
    }
    let config = LocalConfig::new(folder, up.profile, &up.network).with_socks(socks);
    let local = tokio::select! {
        local = Local::start(config) => local?,
        () = interrupted.wait() => return Ok(()),
    };
    let written = announce(&up, &local);
    if written.is_ok() {
        interrupted.wait().await;
    }
    // Streams have a few seconds to end; who asks a second time doesn't want to wait for them.
    tokio::select! {
        () = local.stop() => {}
        () = interrupted.wait() => {}
    }
    written
}

fn announce(up: &Up, local: &Local) -> Result<(), UpError> {
    if let Some(path) = &up.write_document {
        std::fs::write(path, local.document().bytes()).map_err(|source| UpError::Write {
            path: path.display().to_string(),
            source,
        })?;
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
        "folder": local.folder(),
        "client": local.client_config(),
        "hides": "nothing: one user",
    });
    format!("{report}\n")
}

fn text(up: &Up, local: &Local) -> String {
    let profile = local.document().profile();
    let mut out = format!(
        "mizzle network `{}`, profile `{}`, all in this process\n\n",
        local.document().name(),
        profile.name
    );
    for node in local.listening() {
        let layer = if node.layer == 0 {
            String::new()
        } else {
            format!(" {}", node.layer)
        };
        let _ = writeln!(out, "  {:<18} {}", format!("{}{layer}", node.role), node.address);
    }
    let _ = writeln!(
        out,
        "  {:<18} {} (SOCKS5, SOCKS4, SOCKS4a, HTTP)",
        "proxy",
        local.socks()
    );
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
        let _ = writeln!(
            out,
            "Every link loses {} % of the packets, as asked for.",
            up.network.drop_percent
        );
    }
    let (status, which) = match local.client_config() {
        // Commands find it by themselves.
        found if paths::found_client().as_deref() == Some(found) => (String::new(), String::new()),
        named => (
            format!(" \"{}\"", named.display()),
            format!(" --client \"{}\"", named.display()),
        ),
    };
    let _ = write!(
        out,
        "\nIn another terminal, how it is, and a letter to yourself:\n\n  \
         mizzle status{status}\n  \
         mizzle send{which} $(mizzle address{which}) --text hello\n  \
         mizzle receive{which}\n\n\
         It is kept in {}, with its letters; `mizzle status` takes any node.toml in there too.\n\n\
         Ctrl-C ends it.\n",
        local.folder().display()
    );
    out
}
