//! The commands of letters, as the owner of a client in a network of processes gives them.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::processes::Processes;
use super::{Process, mizzle, poll_until};

/// How long a letter of these tests may be under way, kills included.
pub const DELIVERY: Duration = Duration::from_secs(150);
/// The same, for `--timeout`.
pub const DELIVERY_S: &str = "150";

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Waits for the end of a command.
    pub fn by(mut running: Process) -> Self {
        // Its own time-out comes first.
        let code = running.ended(DELIVERY + Duration::from_secs(30)).code();
        let (out, err) = (running.stdout_rest(), running.stderr());
        Self { code, out, err }
    }

    /// All that it wrote to standard output, of a command that had nothing to complain about.
    #[track_caller]
    pub fn good(self) -> String {
        assert!(self.code == Some(0), "{self:?}");
        self.out
    }

    /// The same as JSON, one value a line.
    #[track_caller]
    pub fn json(self) -> Vec<Value> {
        let out = self.good();
        out.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// It ended with this code, and its complaint has these words.
    #[track_caller]
    pub fn complains(&self, code: i32, words: &str) {
        assert!(self.code == Some(code) && self.err.contains(words), "{self:?}");
    }
}

/// `mizzle ARGS` for the client with this state.
pub fn command(state: &Path, args: &[&str]) -> Command {
    let mut command = mizzle(args);
    command.arg("--state").arg(state);
    command
}

impl Processes {
    /// Begins a command of letters at a client.
    pub fn begin(&self, client: &str, args: &[&str]) -> Process {
        Process::start(command(&self.made.state(client), args))
    }

    /// Gives a command of letters to a client, and waits for its end.
    pub fn ask(&self, client: &str, args: &[&str]) -> Said {
        Said::by(self.begin(client, args))
    }

    /// The same, with standard input from a file.
    pub fn ask_with(&self, client: &str, args: &[&str], input: &Path) -> Said {
        let mut command = command(&self.made.state(client), args);
        command.stdin(File::open(input).expect("a file of this test"));
        Said::by(Process::start(command))
    }

    #[track_caller]
    pub fn address(&self, client: &str) -> String {
        self.ask(client, &["address"]).good().trim().to_owned()
    }

    /// What `mizzle outbox` says.
    #[track_caller]
    pub fn outbox(&self, client: &str) -> Value {
        self.ask(client, &["outbox", "--json"]).json().remove(0)
    }

    /// Waits until so many letters are in the inbox of a client.
    #[track_caller]
    pub fn await_letters(&self, client: &str, letters: u64) {
        poll_until("letters in the inbox", || {
            (self.outbox(client)["inbox"]["letters"] == letters).then_some(())
        });
    }

    /// Nothing more is in the inbox of a client.
    #[track_caller]
    pub fn assert_empty(&self, client: &str) {
        let said = self.ask(client, &["receive", "--all"]);
        assert_eq!(
            (said.code, said.out.as_str(), said.err.as_str()),
            (Some(0), "", "no letters\n")
        );
    }
}
