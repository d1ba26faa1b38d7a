//! `mizzle completions`: scripts that teach a shell to complete the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;

/// `mizzle completions`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// The script for a shell.
#[must_use]
pub fn script(args: Completions) -> String {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mizzle", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
