//! `mizzle status`: how a running client or node is, and how well the network hides its users.
//!
//! A client and a node each keep a [`ClientWatch`] or [`NodeWatch`] and tell through their control sockets what it sees, as a
//! [`Status`]; the command asks and puts it into words. What there is to know of anonymity follows from the document and from
//! what each can see of the network by itself: a node its pool, a gateway the messages that come to it, a client what its
//! gateway says. Nothing here names a target, an address or another user, or tells when one user did something.

mod record;
mod report;
mod text;
mod trouble;
mod watch;

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, paths};
use crate::control::{self, Command, ConnectError, Event};
use crate::mail::{Failure, say};

pub use report::{
    Alarms, Anonymity, ClientStatus, GatewayMoved, GatewayStatus, Letters, Loops, Network, NodeLoss,
    NodeStatus, Rate, Rates, Status, Stream, Trouble,
};
pub use watch::{ClientWatch, NodeWatch};

/// `mizzle status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// The client or node with this configuration; if nothing is said the client at ~/.config/mizzle/client.toml, or if there is
    /// none that of `mizzle up`
    pub config: Option<PathBuf>,
    /// The client or node with this state directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub state: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks a client or node and prints what it says.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: &StatusArgs) -> Result<(), Failure> {
    let state = state_of(args)?;
    let answer = async {
        let mut control = control::connect(&state, Command::Status).await?;
        control.event().await
    };
    let status = match answer.await {
        Ok(Event::Status { status }) => status,
        Ok(_) => return Err(ConnectError::Strange.into()),
        Err(ConnectError::NotRunning(state)) => return Err(Failure::NothingRuns(state)),
        Err(why) => return Err(why.into()),
    };
    if args.json {
        say(&format!("{status}\n"));
        return Ok(());
    }
    let status: Status = serde_json::from_value(status).map_err(|_| ConnectError::Strange)?;
    say(&text::of(&status));
    Ok(())
}

fn state_of(args: &StatusArgs) -> Result<PathBuf, Failure> {
    if let Some(state) = &args.state {
        return Ok(state.clone());
    }
    let config = match &args.config {
        Some(config) => config.clone(),
        None => paths::found_client().ok_or(Failure::Neither)?,
    };
    Ok(match Config::load(&config)? {
        Config::Client(config) => config.state,
        Config::Node(config) => config.state,
    })
}
