//! The commands of letters, for who has a client running: `address`, `send`, `receive`, `accept`, `outbox`, and `ping`.
//!
//! They talk to the client over its [control socket](crate::control) and hold nothing themselves: letters are in the
//! client's state.

mod accept;
mod outbox;
mod ping;
mod receive;
mod send;
pub mod serve;
pub(crate) mod text;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use mizzle_base::address::{Address, AddressError};

use crate::config::{ClientConfig, Problems, paths};
use crate::control::{self, Code, Command, ConnectError, Event};
use crate::signals::interrupted;

/// What can be done with letters.
#[derive(Clone, Debug, Subcommand)]
pub enum MailCommand {
    /// Print the address under which others write to this client
    ///
    /// One word of some 160 characters that begins with `mizzle1`: hand it to those who may write to you. It names your
    /// gateway and a key, not you. Works while the client is off, once its gateway has admitted it.
    Address(AddressArgs),
    /// Send a letter: a text, or a file of up to 4 GiB
    ///
    /// The client seals it, keeps it, and brings it to the receiver's gateway, whether or not the receiver is there; this
    /// command waits until it is stored. If it is ended before, the client goes on for up to seven days: see
    /// `mizzle outbox`. Letters are anonymous unless you sign them.
    ///
    /// Exit status: 0 done, 1 error, 3 time-out (the client goes on), 4 the letter can't be brought, 5 no client runs.
    #[command(after_help = SEND_EXAMPLES)]
    Send(SendArgs),
    /// Fetch letters: texts to standard output, files into a folder
    ///
    /// Waits for the next letter and says who signed it. A letter leaves the client's inbox only when it is written; a
    /// file that is there already is never overwritten, the new one gets a number.
    ///
    /// Exit status: 0 done, 1 error, 3 no letter came in time, 5 no client runs.
    Receive(ReceiveArgs),
    /// Let correspondents know when you have read their letters
    ///
    /// Only those accepted here, and only for letters that they signed and asked for it with --wait-read. Nobody else
    /// hears anything when you fetch a letter.
    Accept(AcceptArgs),
    /// Show the letters that wait to leave, and what became of the others
    Outbox(OutboxArgs),
    /// Watch the client's loops: how long packets take through the network, and how many are lost
    ///
    /// A client always sends packets around to itself, at the rate of its profile. This looks at the next of them and sends
    /// nothing, for what a user does must not change the traffic.
    Ping(PingArgs),
}

const SEND_EXAMPLES: &str = "Examples:
  mizzle send mizzle1... --text 'the cat is fed'
  mizzle send mizzle1... photo.jpg
  tar c folder | mizzle send mizzle1... - --name folder.tar
  mizzle send mizzle1... report.pdf --sign --wait-read";

/// Which client.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// The client with this configuration; if nothing is said the one at ~/.config/mizzle/client.toml, or if there is none that of
    /// `mizzle up`
    #[arg(long, value_name = "CONFIG")]
    pub client: Option<PathBuf>,
    /// The client with this state directory
    #[arg(long, value_name = "DIR", conflicts_with = "client")]
    pub state: Option<PathBuf>,
}

/// `mizzle address`.
#[derive(Clone, Debug, Args)]
pub struct AddressArgs {
    /// Which client
    #[command(flatten)]
    pub which: Which,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `mizzle send`.
#[derive(Clone, Debug, Args)]
pub struct SendArgs {
    /// For whom: an address as `mizzle address` prints it
    pub address: String,
    /// The file; - for a text from standard input
    #[arg(conflicts_with = "text", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Send this text
    #[arg(long)]
    pub text: Option<String>,
    /// Send a file under this name instead of its own, or standard input as a file with this name
    #[arg(long, conflicts_with = "text")]
    pub name: Option<String>,
    /// Tell the receiver, and nobody else, that it is from you: your address is in the letter
    #[arg(long)]
    pub sign: bool,
    /// Wait until the receiver has fetched it. Needs --sign, and a receiver who accepted you (`mizzle accept`)
    #[arg(long, requires = "sign", conflicts_with = "no_wait")]
    pub wait_read: bool,
    /// Return as soon as the client has it
    #[arg(long)]
    pub no_wait: bool,
    /// Wait no longer than this; the client goes on
    #[arg(long, value_parser = seconds, value_name = "SECONDS")]
    pub timeout: Option<Duration>,
    /// Which client
    #[command(flatten)]
    pub which: Which,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `mizzle receive`.
#[derive(Clone, Debug, Args)]
pub struct ReceiveArgs {
    /// Where files go
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// Write the letter, text or file, to this file, which must not be there yet; - for standard output
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["dir", "all", "count", "follow"])]
    pub output: Option<PathBuf>,
    /// Fetch all letters that are there, and don't wait
    #[arg(long, conflicts_with_all = ["count", "follow"])]
    pub all: bool,
    /// Fetch so many, and wait for those that aren't there yet; 1 if nothing is said
    #[arg(long, value_name = "N", conflicts_with = "follow", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Fetch letters as they come, until Ctrl-C
    #[arg(long)]
    pub follow: bool,
    /// Wait for each letter no longer than this
    #[arg(long, value_parser = seconds, value_name = "SECONDS")]
    pub timeout: Option<Duration>,
    /// Which client
    #[command(flatten)]
    pub which: Which,
    /// Print a line of JSON for each letter; texts are in it
    #[arg(long)]
    pub json: bool,
}

/// `mizzle accept`.
#[derive(Clone, Debug, Args)]
#[group(id = "whom", required = true, multiple = false, args = ["address", "list"])]
pub struct AcceptArgs {
    /// Whom: an address
    pub address: Option<String>,
    /// A name for him, shown when letters from him come
    #[arg(long, requires = "address", conflicts_with = "list")]
    pub name: Option<String>,
    /// Take it back: he hears no longer what you read
    #[arg(long, requires = "address", conflicts_with_all = ["name", "list"])]
    pub remove: bool,
    /// Show who is accepted
    #[arg(long)]
    pub list: bool,
    /// Which client
    #[command(flatten)]
    pub which: Which,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `mizzle outbox`.
#[derive(Clone, Debug, Args)]
pub struct OutboxArgs {
    /// Show only what has not left yet
    #[arg(long)]
    pub waiting: bool,
    /// Which client
    #[command(flatten)]
    pub which: Which,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `mizzle ping`.
#[derive(Clone, Debug, Args)]
pub struct PingArgs {
    /// Loops to watch
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// Which client
    #[command(flatten)]
    pub which: Which,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds > 0.0 && seconds <= 1e9 => Ok(time),
        _ => Err("must be more than 0 and less than a billion".into()),
    }
}

/// Why a command about letters ends without success.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It took too long.
    #[error("{0}")]
    Timeout(String),
    /// The letter won't be brought.
    #[error("the letter can't be brought: {0}")]
    Failed(String),
    /// Neither a client nor a node.
    #[error(
        "nothing runs with the state {}: start it with `mizzle client run` or `mizzle node run`, or a network to try with `mizzle up`",
        .0.display()
    )]
    NothingRuns(PathBuf),
    /// Nothing says which client or node.
    #[error(
        "which client or node? Name its configuration or say --state DIR, put a client's at ~/.config/mizzle/client.toml, or start \
         a network to try with `mizzle up`"
    )]
    Neither,
    /// Nothing says which client.
    #[error(
        "which client? Say --client CONFIG or --state DIR, put a configuration at ~/.config/mizzle/client.toml, or start a network \
         to try with `mizzle up`"
    )]
    NoClient,
    /// The client's configuration.
    #[error(transparent)]
    Config(#[from] Problems),
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
    /// Something else, in words.
    #[error("{0}")]
    Other(String),
    /// The system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Failure {
    /// What the process ends with: 1, 3 for a time-out, 4 for a letter that can't be brought, 5 if no client runs, 130 for
    /// Ctrl-C.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Timeout(_) => 3,
            Self::Connect(ConnectError::Refused {
                code: Code::Timeout, ..
            }) => 3,
            Self::Failed(_) => 4,
            Self::Connect(ConnectError::NotRunning(_)) | Self::NothingRuns(_) => 5,
            Self::Interrupted(_) => 130,
            _ => 1,
        })
    }
}

impl Which {
    /// The state directory.
    fn state(&self) -> Result<PathBuf, Failure> {
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        let config = match &self.client {
            Some(config) => config.clone(),
            None => paths::found_client().ok_or(Failure::NoClient)?,
        };
        Ok(ClientConfig::load(&config)?.state)
    }
}

/// Where in a state directory the mail is.
pub const MAIL_FOLDER: &str = "mail";

/// Runs a command to its end.
///
/// # Errors
/// [`Failure`].
pub fn run(command: MailCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let interrupted = interrupted()?;
        match command {
            MailCommand::Address(args) => address(&args).await,
            MailCommand::Send(args) => send::run(&args, &interrupted).await,
            MailCommand::Receive(args) => receive::run(&args, &interrupted).await,
            MailCommand::Accept(args) => accept::run(&args).await,
            MailCommand::Outbox(args) => outbox::run(&args).await,
            MailCommand::Ping(args) => ping::run(&args, &interrupted).await,
        }
    });
    // A thread that still reads standard input, or writes where nobody reads, must not hold the process.
    runtime.shutdown_background();
    result
}

/// Prints to standard output; a reader that has gone is no error.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints to standard error, which may be closed.
fn note(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn parse(address: &str) -> Result<Address, Failure> {
    Ok(address.parse::<Address>()?)
}

async fn address(args: &AddressArgs) -> Result<(), Failure> {
    let state = args.which.state()?;
    let address = match control::connect(&state, Command::Address).await {
        Ok(mut control) => match control.event().await? {
            Event::Address { address } => address,
            _ => return Err(ConnectError::Strange.into()),
        },
        Err(off @ ConnectError::NotRunning(_)) => {
            let saved = mizzle_net::mail::saved_address(&state.join(MAIL_FOLDER));
            let saved = saved.map_err(|e| Failure::Other(e.to_string()))?;
            saved.ok_or(off)?
        }
        Err(e) => return Err(e.into()),
    };
    say(&match args.json {
        true => format!("{}\n", serde_json::json!({ "address": address })),
        false => format!("{address}\n"),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: MailCommand,
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_words_that_matter() {
        for (args, word) in [
            (&["send", "a", "--wait-read"][..], "--sign"),
            (&["send", "a", "file", "--text", "t"], "--text"),
            (&["send", "a", "--sign", "--wait-read", "--no-wait"], "--no-wait"),
            (&["send", "a", "--timeout", "0"], "more than 0"),
            (&["receive", "--all", "--count", "2"], "--count"),
            (&["receive", "-o", "x", "--all"], "--output"),
            (&["receive", "--count", "0"], "--count"),
            (&["accept"], "--list"),
            (&["accept", "--remove", "--list"], "--remove"),
            (&["ping", "--count", "0"], "--count"),
            (&["address", "--client", "a", "--state", "b"], "--state"),
        ] {
            let all = [&["mizzle"], args].concat();
            let error = Cli::try_parse_from(all)
                .map(|cli| cli.command)
                .expect_err("refused");
            assert!(error.to_string().contains(word), "{args:?}: {error}");
        }
    }
}
