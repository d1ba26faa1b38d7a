//! The pages for operators and users, run as they stand: each `sh` block in a shell of the machine that its fence names.
//!
//! Machines are folders with a home of their own. 192.0.2.N becomes 127.0.0.N, ports become free ones, `scp` copies between
//! the folders, and the web address is a server here. A fence of an unknown kind, or a command that is neither run here nor
//! listed in [`UNRUN`], fails: so nothing in the pages goes unseen.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests: how long things take is bounded"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use clap::CommandFactory as _;
use common::processes::Folder;
use common::{LIMIT, Web, has_curl, pattern, place, poll_until};

const OPERATE: &str = include_str!("../../../docs/operate.md");
const USE: &str = include_str!("../../../docs/use.md");
const README: &str = include_str!("../../../README.md");

/// Commands that change the machine that they run on, so a test can't: each as it stands in a page.
const UNRUN: &[&str] = &[
    // Builds for minutes what is built here already.
    "cargo install --locked --path crates/cli",
    // The firewall and the services of the system.
    "sudo ufw allow 4100:4101/udp",
    "loginctl enable-linger",
    "systemctl --user daemon-reload",
    "systemctl --user enable --now mizzle@mix-1-1 mizzle@gateway-1",
    "journalctl --user -u mizzle@gateway-1",
];
/// Fences without a name are of this machine: the operator's own computer, then the user's.
const OPERATOR: &str = "operator";
const USER: &str = "you";
const PEOPLE: &[&str] = &[OPERATOR, USER, "friend", "laptop"];
/// What the three machines of the pages are here.
const HOSTS: &[&str] = &["127.0.0.1", "127.0.0.2", "127.0.0.3"];
/// What people give each other by ways that are no command: from whom, to whom, what.
const HANDED: &[(&str, &str, &str)] = &[
    (OPERATOR, USER, "client-1.tar.gz"),
    (OPERATOR, "friend", "client-2.tar.gz"),
    ("friend", USER, "friend.address"),
    (USER, "friend", "my.address"),
    (USER, "laptop", "mizzle-backup.tar.gz"),
];
/// What a node or a client prints when it is ready.
const READY: &str = "Ctrl-C ends it";
/// How long a block may take.
const BLOCK: Duration = Duration::from_secs(120);
/// The sender's picture, in bytes: 20 packets.
const PHOTO: usize = 60_000;

/// A fenced block.
struct Block {
    page: &'static str,
    line: usize,
    info: String,
    /// The last line of text before it.
    before: String,
    text: String,
}

impl Block {
    fn at(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }
}

fn blocks(page: &'static str, text: &str) -> Vec<Block> {
    let mut out = Vec::new();
    let (mut before, mut open) = (String::new(), None::<Block>);
    for (n, line) in text.lines().enumerate() {
        let at = format!("{page}:{}", n + 1);
        assert!(
            !line.trim_start().starts_with("~~~"),
            "{at}: fences are of backticks"
        );
        assert!(
            !line.starts_with("    ") || open.is_some() || line.trim().is_empty(),
            "{at}: an indented block, which nobody runs"
        );
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(info)) => {
                assert!(line.starts_with("```"), "{at}: an indented fence");
                open = Some(Block {
                    page,
                    line: n + 1,
                    info: info.into(),
                    before: before.clone(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => out.extend(open.take()),
            (Some(block), None) => block.text += &format!("{line}\n"),
            (None, None) if !line.trim().is_empty() => before = line.into(),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a fence that doesn't end");
    out
}

/// A shell of one machine, which keeps its folder and variables from block to block.
struct Shell {
    home: PathBuf,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    jobs: BTreeSet<String>,
}

/// All that it started; the group's id is the shell's.
impl Drop for Shell {
    fn drop(&mut self) {
        kill("KILL", &format!("-{}", self.child.id()));
        let _ = self.child.wait();
    }
}

fn kill(signal: &str, whom: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), "--", whom])
        .stderr(Stdio::null())
        .status();
    sent.expect("kill runs");
}

fn lines_of(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (line, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(from)
            .split(b'\n')
            .map_while(Result::ok)
            .all(|text| line.send(String::from_utf8_lossy(&text).into_owned()).is_ok())
    });
    lines
}

/// Bash with nothing of the tester's environment but where programs are; its own group.
fn bash(world: &Path, home: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut bash = Command::new("bash");
    bash.args(["--noprofile", "--norc"])
        .env_clear()
        .env("PATH", format!("{}:{path}", world.join("bin").display()))
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env("WORLD", world)
        .current_dir(home)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    bash
}

impl Shell {
    fn start(world: &Path, name: &str) -> Self {
        let home = world.join(name);
        let mut child = bash(world, &home).spawn().expect("bash runs");
        let mut stdin = child.stdin.take().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        writeln!(
            stdin,
            "exec 2>&1; set -o pipefail; trap 'echo \"__FAILED__ $?: $BASH_COMMAND\"' ERR"
        )
        .unwrap();
        Self {
            home,
            child,
            stdin,
            lines,
            jobs: BTreeSet::new(),
        }
    }

    /// Runs it to its end; its output, when what it started in the background is ready.
    fn run(&mut self, at: &str, text: &str) -> Vec<String> {
        let script = self.home.join(".block");
        fs::write(&script, text).unwrap();
        let ready = self.ready();
        writeln!(
            self.stdin,
            ". '{}' </dev/null; printf '\\n__END__ %s\\n' \"$(jobs -pr | tr '\\n' ' ')\"",
            script.display()
        )
        .unwrap();
        let end = Instant::now() + BLOCK;
        let mut out: Vec<String> = Vec::new();
        let jobs: BTreeSet<String> = loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!(
                    "{at}: not done within {BLOCK:?}, or the shell ended\n{}",
                    out.join("\n")
                );
            };
            match line.strip_prefix("__END__") {
                Some(jobs) => break jobs.split_whitespace().map(str::to_owned).collect(),
                None => out.push(line),
            }
        };
        let all = out.join("\n");
        assert!(!all.contains("__FAILED__"), "{at}: a command failed\n{all}");
        let started = jobs.difference(&self.jobs).count();
        poll_until(
            &format!("{at}: what was started is ready\n{}", self.logs()),
            || (self.ready() >= ready + started).then_some(()),
        );
        self.jobs = jobs;
        out
    }

    /// Every `node.log` of this machine.
    fn logs(&self) -> String {
        let nodes = fs::read_dir(self.home.join("mizzle")).into_iter().flatten();
        let logs = nodes
            .map_while(Result::ok)
            .map(|node| node.path().join("node.log"));
        logs.filter_map(|log| fs::read_to_string(log).ok()).collect()
    }

    /// How many processes have said in their logs that they are ready.
    fn ready(&self) -> usize {
        self.logs().matches(READY).count()
    }
}

/// A command that goes on while others run: a client, or a `send` that waits for its reader.
struct Foreground {
    at: String,
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Drop for Foreground {
    fn drop(&mut self) {
        kill("KILL", &format!("-{}", self.child.id()));
        let _ = self.child.wait();
    }
}

impl Foreground {
    fn start(world: &Path, shell: &Shell, at: String, text: &str) -> Self {
        let mut command = bash(world, &shell.home);
        let mut child = command
            .args(["-c", &format!("exec 2>&1; exec {text}")])
            .stdin(Stdio::null())
            .spawn()
            .expect("bash runs");
        let lines = lines_of(child.stdout.take().unwrap());
        Self {
            at,
            child,
            lines,
            said: Vec::new(),
        }
    }

    /// Waits for a line with these words.
    fn await_line(&mut self, words: &str) {
        let end = Instant::now() + LIMIT;
        while !self.said.last().is_some_and(|line| line.contains(words)) {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said.push(line),
                Err(why) => panic!("{}: no \"{words}\": {why}\n{}", self.at, self.said.join("\n")),
            }
        }
    }

    /// Waits until it ends by itself, in order.
    fn await_end(mut self) -> Vec<String> {
        let end = Instant::now() + LIMIT;
        while let Ok(line) = self
            .lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            self.said.push(line);
        }
        let status = poll_until(&format!("{}: its end", self.at), || {
            self.child.try_wait().expect("it can be waited for")
        });
        assert!(
            status.success(),
            "{}: {status}\n{}",
            self.at,
            self.said.join("\n")
        );
        std::mem::take(&mut self.said)
    }
}

/// All machines, and what stands for what in the pages.
struct World {
    shells: BTreeMap<String, Shell>,
    clients: BTreeMap<String, Foreground>,
    waiting: BTreeMap<String, Foreground>,
    replaced: Vec<(String, String)>,
    web: Web,
    handed: BTreeSet<&'static str>,
    dir: Folder,
}

impl World {
    fn new() -> Self {
        // Short, for sockets have short paths.
        let dir = Folder(std::env::temp_dir().join(format!("mzdocs-{}", std::process::id())));
        let bin = dir.0.join("bin");
        fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mizzle"), bin.join("mizzle")).unwrap();
        // `scp FROM HOST:TO`, and `scp -r FROM HOST:TO`, as far as the pages use it.
        let scp = "#!/bin/sh\nset -e\nwith=\n[ \"$1\" != -r ] || { with=-r; shift; }\n[ $# = 2 ]\n\
                   cp $with \"$1\" \"$WORLD/${2%%:*}/${2#*:}\"\n";
        fs::write(bin.join("scp"), scp).unwrap();
        fs::set_permissions(bin.join("scp"), fs::Permissions::from_mode(0o755)).unwrap();
        for machine in PEOPLE.iter().chain(HOSTS) {
            fs::create_dir_all(dir.0.join(machine)).unwrap();
        }
        let web = Web::start();
        let base = free_base();
        let proxy = || {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port().to_string()
        };
        let replaced = [
            ("192.0.2.", "127.0.0.".to_owned()),
            ("https://example.com/", web.url(100)),
            ("4100", base.to_string()),
            ("4101", (base + 1).to_string()),
            ("1080", proxy()),
            ("1081", proxy()),
            // Exits of the pages reach public addresses only; the web server here has none.
            (
                "mizzle network init",
                "mizzle network init --exit-allow 127.0.0.0/8".to_owned(),
            ),
        ];
        Self {
            shells: BTreeMap::new(),
            clients: BTreeMap::new(),
            waiting: BTreeMap::new(),
            replaced: replaced.map(|(from, to)| (from.to_owned(), to)).into(),
            web,
            handed: BTreeSet::new(),
            dir,
        }
    }

    /// As it is here.
    fn here(&self, text: &str) -> String {
        self.replaced
            .iter()
            .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    fn shell(&mut self, name: &str) -> &mut Shell {
        let dir = &self.dir.0;
        self.shells
            .entry(name.into())
            .or_insert_with(|| Shell::start(dir, name))
    }

    fn home(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    /// Gives what is there to give.
    fn hand_over(&mut self) {
        for (from, to, what) in HANDED {
            let (from, to) = (self.home(from).join(what), self.home(to));
            if from.exists() && self.handed.insert(what) {
                fs::copy(from, to.join(what)).unwrap();
            }
        }
    }

    /// One `sh` block on one machine; what it printed.
    fn run(&mut self, machine: &str, block: &Block) -> Vec<String> {
        let at = format!("{} on {machine}", block.at());
        println!("{at}");
        self.hand_over();
        // Who writes the next command in the same terminal has waited for the one before.
        if let Some(waiting) = self.waiting.remove(machine) {
            let said = waiting.await_end().join("\n");
            assert!(
                said.contains("\nread: "),
                "{at}: the letter was read, but not:\n{said}"
            );
        }
        if block.text.starts_with("# Ctrl-C") {
            let client = self.clients.remove(machine).expect("a client runs");
            kill("INT", &client.child.id().to_string());
            client.await_end();
        }
        let text = self.here(&block.text);
        self.shell(machine);
        let shell = &self.shells[machine];
        if text.contains("--wait-read") {
            assert_eq!(text.lines().count(), 1, "{at}: it can't be waited for here");
            let waiting = Foreground::start(&self.dir.0, shell, at, &text);
            self.waiting.insert(machine.into(), waiting);
            return Vec::new();
        }
        if text.starts_with("mizzle client run") {
            let mut client = Foreground::start(&self.dir.0, shell, at, &text);
            client.await_line(READY);
            let said = client.said.clone();
            self.clients.insert(machine.into(), client);
            return said;
        }
        let asked = self.web.peers().len();
        let out = self.shell(machine).run(&at, &text);
        let (asked, wanted) = (
            self.web.peers().len() - asked,
            block.text.matches("https://example.com/").count(),
        );
        assert_eq!(
            asked,
            wanted,
            "{at}: requests at the web server\n{}",
            out.join("\n")
        );
        // The ports that a new network gives to its clients' proxies are in files.
        if block.text.starts_with("mizzle network init") {
            for client in fs::read_dir(self.home(machine).join("mynet/clients")).unwrap() {
                let path = client.unwrap().path().join("client.toml");
                let text = self.here(&fs::read_to_string(&path).unwrap());
                fs::write(&path, text).unwrap();
            }
        }
        out
    }

    fn page(&mut self, own: &str, all: &[Block]) {
        let mut said = Vec::new();
        for block in all {
            let (kind, rest) = block.info.split_once(' ').unwrap_or((&block.info, ""));
            match (kind, rest) {
                ("sh", "unrun") => {
                    for line in block.text.lines() {
                        assert!(UNRUN.contains(&line), "{}: nobody runs `{line}`", block.at());
                        println!("{} NOT RUN: {line}", block.at());
                    }
                }
                ("sh", machines) => {
                    let machines: Vec<_> = machines.split_whitespace().collect();
                    said.clear();
                    for machine in &machines {
                        known(machine, block);
                        let here = self.here(machine);
                        said.extend(self.run(&here, block));
                    }
                    if machines.is_empty() {
                        said = self.run(own, block);
                    }
                }
                ("text", "") => assert_said(block, &self.here(&block.text), &said),
                ("toml", "gateway") => self.check_gateway(own, block),
                ("toml", "client") => self.check_client(own, block),
                ("ini", path) if path.starts_with("~/") => self.check_unit(block),
                _ => panic!(
                    "{}: nothing is known about fences of kind `{}`",
                    block.at(),
                    block.info
                ),
            }
        }
    }

    /// Lines for the section `[gateway]`.
    fn check_gateway(&mut self, own: &str, block: &Block) {
        let folder = self.home(own).join("mynet/127.0.0.1/gateway-1");
        let text = fs::read_to_string(folder.join("node.toml")).unwrap();
        // Instead of what an earlier block said.
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("admission") && !line.starts_with("token_file"));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let with = text.replace("[gateway]\n", &format!("[gateway]\n{}", block.text));
        assert_ne!(text, with, "{}", block.at());
        fs::write(folder.join("shown.toml"), with).unwrap();
        let shown = "mynet/127.0.0.1/gateway-1/shown.toml";
        self.shell(own).run(
            &block.at(),
            &format!("mizzle config check {shown} && rm {shown}\n"),
        );
    }

    /// Lines for a client's configuration.
    fn check_client(&mut self, own: &str, block: &Block) {
        let folder = self.home(own).join(".config/mizzle");
        let text = fs::read_to_string(folder.join("client.toml")).unwrap();
        // Keys stand before sections.
        fs::write(folder.join("shown.toml"), format!("{}{text}", block.text)).unwrap();
        fs::set_permissions(folder.join("shown.toml"), fs::Permissions::from_mode(0o600)).unwrap();
        let shown = "~/.config/mizzle/shown.toml";
        self.shell(own).run(
            &block.at(),
            &format!("mizzle config check {shown} && rm {shown}\n"),
        );
    }

    /// A unit file: its command is the one that the page runs, on folders that are there on each machine.
    fn check_unit(&mut self, block: &Block) {
        let start = block
            .text
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="));
        let start = start.unwrap_or_else(|| panic!("{}: no ExecStart", block.at()));
        for machine in HOSTS {
            let home = self.home(machine);
            for node in fs::read_dir(home.join("mizzle")).unwrap() {
                let node = node.unwrap().file_name().into_string().unwrap();
                let start = start.replace("%h", home.to_str().unwrap()).replace("%i", &node);
                let words: Vec<_> = start.split(' ').collect();
                let [program, "node", "run", config] = words[..] else {
                    panic!("{}: {start}", block.at())
                };
                assert_eq!(Path::new(program), home.join(".cargo/bin/mizzle"));
                self.shell(machine)
                    .run(&block.at(), &format!("mizzle config check {config}\n"));
            }
        }
    }
}

/// A machine, which the text before the block names: whoever reads the page doesn't see the fence.
fn known(machine: &str, block: &Block) {
    let (at, before) = (block.at(), block.before.to_lowercase());
    assert!(
        PEOPLE.contains(&machine) || machine.starts_with("192.0.2."),
        "{at}: what is `{machine}`?"
    );
    assert!(
        before.contains(machine),
        "{at}: the line before it doesn't say that it is for {machine}"
    );
}

/// Each line was printed, in this order; `...` stands for anything.
fn assert_said(block: &Block, wanted: &str, said: &[String]) {
    let mut rest = said.iter();
    for line in wanted.lines() {
        assert!(
            rest.any(|said| is_like(line.trim(), said)),
            "{}: nothing like `{line}` was printed, or not there:\n{}",
            block.at(),
            said.join("\n")
        );
    }
}

fn is_like(wanted: &str, said: &str) -> bool {
    let mut said = said.trim();
    for (n, piece) in wanted.split("...").enumerate() {
        match said.find(piece) {
            Some(0) => said = &said[piece.len()..],
            Some(at) if n > 0 => said = &said[at + piece.len()..],
            _ => return false,
        }
    }
    said.is_empty() || wanted.ends_with("...")
}

/// Two ports in a row that are free on the three machines.
fn free_base() -> u16 {
    let free = |port| HOSTS.iter().all(|host| UdpSocket::bind((*host, port)).is_ok());
    // Not where others begin to look.
    let first = 20_000 + (std::process::id() % 5_000) as u16 * 2;
    (first..31_000)
        .find(|&port| free(port) && free(port + 1))
        .expect("free ports")
}

#[test]
fn every_command_of_the_pages_does_what_they_say() {
    if !has_curl() {
        return;
    }
    if let Err(why) = UdpSocket::bind("127.0.0.3:0") {
        println!("SKIPPED: this system has no 127.0.0.3: {why}");
        return;
    }
    for program in ["bash", "git", "tail", "tar"] {
        let found = Command::new(program).arg("--version").output();
        if !found.is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: {program} is not installed");
            return;
        }
    }
    let _place = place();
    let mut world = World::new();
    world.page(OPERATOR, &blocks("docs/operate.md", OPERATE));
    fs::write(world.home(USER).join("photo.jpg"), pattern(PHOTO)).unwrap();
    world.page(USER, &blocks("docs/use.md", USE));
    assert!(
        fs::read(world.home("friend").join("photo.jpg")).unwrap() == pattern(PHOTO),
        "the picture arrives as it was"
    );
    assert_eq!(world.handed.len(), HANDED.len(), "all is needed");
    assert!(world.waiting.is_empty(), "nobody waited for the end of a command");
}

/// What stands between backticks in the text around the blocks; also between two, where one is inside.
fn inline(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        if !fenced && !line.starts_with("```") {
            let _ = writeln!(prose, "{line}");
        }
    }
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn commands_in_the_text_are_those_that_there_are() {
    for (page, text) in [("operate", OPERATE), ("use", USE), ("README", README)] {
        for code in inline(text) {
            let mut words = code.split_whitespace();
            if words.next() != Some("mizzle") {
                continue;
            }
            let mut command = mizzle::args::Cli::command();
            for word in words {
                if let Some(flag) = word.strip_prefix("--") {
                    assert!(
                        flag == "help" || command.get_arguments().any(|arg| arg.get_long() == Some(flag)),
                        "{page}: `{code}` has no --{flag}"
                    );
                } else if command.has_subcommands() {
                    let next = command.find_subcommand(word).cloned();
                    command = next.unwrap_or_else(|| panic!("{page}: `{code}`: there is no {word}"));
                }
            }
        }
    }
}

/// Every error that the pages explain is in the binary, so none of them is of an earlier version.
#[test]
fn errors_in_the_pages_are_those_that_are_printed() {
    let binary = fs::read(env!("CARGO_BIN_EXE_mizzle")).unwrap();
    let has = |piece: &str| binary.windows(piece.len()).any(|bytes| bytes == piece.as_bytes());
    let mut rows = 0;
    for (page, text) in [("operate", OPERATE), ("use", USE)] {
        let messages = text
            .lines()
            .skip_while(|line| !line.starts_with("## Logs") && !line.starts_with("## Errors"))
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        for (message, _) in messages {
            rows += 1;
            for piece in message
                .split("...")
                .map(str::trim)
                .filter(|piece| !piece.is_empty())
            {
                assert!(has(piece), "{page}: mizzle never says \"{piece}\"");
            }
        }
    }
    assert!(rows > 20, "{rows}");
}

#[test]
fn expected_output_must_be_there_in_order() {
    assert!(is_like("a ... c", "a b c") && is_like("...c", "  a c ") && is_like("a...", "a"));
    assert!(!is_like("a", "ab") && !is_like("b...", "ab") && !is_like("a...d", "a c"));
    let found = blocks("p", "text\n\n```sh x\na\n```\n");
    assert_eq!(
        (found[0].info.as_str(), found[0].before.as_str()),
        ("sh x", "text")
    );
    assert_eq!((found[0].text.as_str(), found[0].line), ("a\n", 3));
}
