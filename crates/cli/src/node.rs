//! `mizzle node run`: one mix or gateway, with the identity that its state holds and the role that the document gives it.

mod running;

use std::io::{self, Write as _};
use std::path::Path;

use mizzle_net::clock::{self, Clock, ClockOff};
use mizzle_net::host::HostError;
use mizzle_net::state::StateError;

use crate::assemble::StartError;
use crate::config::{NodeConfig, Problems};
use crate::signals::interrupted;

pub use running::{Bound, How, Loaded, Running, load};

/// Why a node ends without success.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration or what it names.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// An address to listen on.
    #[error(
        "{0}: stop what has it, or set another in `listen` (others dial the addresses in the network document)"
    )]
    Listen(HostError),
    /// It doesn't start.
    #[error(transparent)]
    Start(StartError),
    /// The clock.
    #[error(transparent)]
    Clock(ClockOff),
    /// Signals.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<StartError> for NodeError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Host(error @ HostError::Listen { .. }) => Self::Listen(error),
            error => Self::Start(error),
        }
    }
}

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// [`NodeError`], before anything is announced.
pub async fn run(path: &Path, json: bool, clock: Clock) -> Result<(), NodeError> {
    let interrupted = interrupted()?;
    let config = NodeConfig::load(path)?;
    let mut rng = clock::rng().map_err(StartError::Entropy)?;
    let node = Bound::start(path, &config, How::default(), clock, &mut rng).await?;
    let node = node.run(clock, &mut rng)?;
    say(&if json { ready(&node) } else { announcement(&node) });
    let outcome = tokio::select! {
        () = interrupted.wait() => Ok(()),
        off = node.clock_off() => Err(NodeError::Clock(off)),
    };
    // Who asks a second time doesn't want to wait for connections to close.
    tokio::select! {
        () = node.stop() => {}
        () = interrupted.wait() => {}
    }
    outcome
}

fn ready(node: &Running) -> String {
    let ready = serde_json::json!({
        "ready": true,
        "network": node.document().name(),
        "role": node.role_name(),
        "layer": node.layer(),
        "id": node.id().to_string(),
        "listening": node.listening().iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    format!("{ready}\n")
}

fn announcement(node: &Running) -> String {
    let layer = match node.layer() {
        0 => String::new(),
        layer => format!(" of layer {layer}"),
    };
    let addresses: Vec<_> = node.listening().iter().map(ToString::to_string).collect();
    format!(
        "{}{layer} of network `{}`, listening on {}; Ctrl-C ends it\n",
        node.role_name(),
        node.document().name(),
        addresses.join(" and ")
    )
}

/// Prints what the process is ready for.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    // A reader that has gone is no reason to stop.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
