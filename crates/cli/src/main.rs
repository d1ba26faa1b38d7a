//! The `mizzle` binary: reads the command line, runs what it asks for, prints the result or the error.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use mizzle::args::{Cli, Command, NetworkCommand};
use mizzle::{bench, plan, show, up};

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MIZZLE_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(io::stderr)
        .init();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nowhere else to say so.
            let _ = writeln!(io::stderr(), "mizzle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let text = match command {
        Command::Up(args) => return Ok(runtime()?.block_on(up::run(args))?),
        Command::Bench(args) => runtime()?.block_on(bench::run(args))?,
        Command::Plan { json: true } => format!("{}\n", serde_json::to_string(&plan::rows())?),
        Command::Plan { json: false } => plan::table(),
        Command::Network(NetworkCommand::Show { file, authority, json }) => show::run(&file, &authority, json)?,
    };
    // A reader that has gone (`| head`) is no error.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
