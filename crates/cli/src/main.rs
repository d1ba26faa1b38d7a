//! The `mizzle` binary: reads the command line, runs what it asks for, prints the result or the error.

use std::error::Error;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use mizzle::args::{Cli, ClientCommand, Command, ConfigCommand, ConfigKind, NetworkCommand, NodeCommand};
use mizzle::{
    bench, check, completions, config, init, join, mail, node, packet_tool, peer, plan, rekey, renew, show,
    status, up, weigh,
};
use mizzle_net::clock::Clock;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log();
    match engine().and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nowhere else to say so.
            let _ = writeln!(io::stderr(), "mizzle: {error}");
            let letters = error
                .downcast_ref::<mail::Failure>()
                .map(mail::Failure::exit_code);
            let peer = error
                .downcast_ref::<peer::Failure>()
                .map(peer::Failure::exit_code);
            letters.or(peer).unwrap_or(ExitCode::FAILURE)
        }
    }
}

/// `MIZZLE_ENGINE` names what computes the curve, to measure or to avoid: `portable`, `ifma`, or one that
/// `mizzle_sphinx::engines` gives.
fn engine() -> Result<(), Box<dyn Error>> {
    match std::env::var("MIZZLE_ENGINE") {
        Ok(name) => {
            mizzle_sphinx::use_engine(&name).map_err(|why| format!("MIZZLE_ENGINE={name}: {why}").into())
        }
        Err(_) => Ok(()),
    }
}

/// The log goes to standard error, at the level that `MIZZLE_LOG` says.
fn log() {
    let asked = EnvFilter::try_from_env("MIZZLE_LOG").unwrap_or_else(|_| EnvFilter::new("warn,libp2p=error"));
    // Other crates name peers and addresses at every level: they have no say unless DEBUG is asked for, which may.
    let everyone = asked
        .max_level_hint()
        .is_none_or(|level| level >= LevelFilter::DEBUG);
    let ours = |target: &str| target.starts_with("mizzle") || target.starts_with("libp2p_mix");
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_filter(filter_fn(move |event| everyone || ours(event.target())));
    tracing_subscriber::registry().with(asked).with(lines).init();
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let text = match command {
        Command::Up(args) => return Ok(runtime()?.block_on(up::run(args))?),
        Command::Node(NodeCommand::Run {
            config,
            json,
            clock_fast_s,
        }) => {
            let clock = Clock::start_fast(clock_fast_s);
            return Ok(runtime()?.block_on(node::run(&config, json, clock))?);
        }
        Command::Client(ClientCommand::Run(args)) => return Ok(runtime()?.block_on(join::run(args))?),
        Command::Mail(command) => return Ok(mail::run(command)?),
        Command::Status(args) => return Ok(runtime()?.block_on(status::run(&args))?),
        Command::Config(ConfigCommand::Check { files, json }) => {
            let (text, outcome) = check::run(&files, json);
            print(&text);
            return Ok(outcome?);
        }
        Command::Config(ConfigCommand::Example { kind }) => config::render(kind == ConfigKind::Client),
        Command::Bench(args) => runtime()?.block_on(bench::run(args))?,
        Command::Plan(args) => plan::run(&args)?,
        Command::Network(NetworkCommand::Init(args)) => init::run(&args)?,
        Command::Network(NetworkCommand::Rekey { dir, node, json }) => rekey::run(&dir, &node, json)?,
        Command::Network(NetworkCommand::Renew {
            dir,
            valid_days,
            json,
        }) => renew::run(&dir, valid_days, json)?,
        Command::Network(NetworkCommand::Weigh { dir, json }) => {
            runtime()?.block_on(weigh::run(&dir, json))?
        }
        Command::Network(NetworkCommand::Show {
            file,
            authority,
            full,
            json,
        }) => show::run(&file, &authority, show::Form::of(full, json))?,
        Command::Sphinx(command) => return Ok(packet_tool::run(&command)?),
        Command::Peer(command) => return Ok(runtime()?.block_on(peer::run(command))?),
        Command::Completions(args) => completions::script(args),
    };
    print(&text);
    Ok(())
}

fn print(text: &str) {
    // A reader that has gone (`| head`) is no error.
    let _ = io::stdout().write_all(text.as_bytes());
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
