//! What the tests of whole networks share: the binary as a user drives it, curl, a plain web server, and a bound on how
//! many networks run at once.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests; each file uses its part, and time-outs are in real time"
)]

pub mod letters;
pub mod processes;
pub mod web;

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "each file uses its part")]
pub use web::Web;

/// How long anything may take that takes seconds on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Networks at once in one test binary: each costs half a core of cover.
const NETWORKS: usize = 2;

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to run a network; given back when dropped.
pub struct Place(());

/// Waits for it.
pub fn place() -> Place {
    let (running, freed) = &RUNNING;
    let taken = running.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken = freed
        .wait_while(taken, |n| *n >= NETWORKS)
        .unwrap_or_else(PoisonError::into_inner);
    *taken += 1;
    Place(())
}

impl Drop for Place {
    fn drop(&mut self) {
        let (running, freed) = &RUNNING;
        *running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        freed.notify_one();
    }
}

/// Asks again and again until there is an answer, for what tells nobody when it happens.
pub fn poll_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let (_never, tick) = mpsc::channel::<()>();
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(answer) = ask() {
            return answer;
        }
        let _ = tick.recv_timeout(Duration::from_millis(2));
    }
    panic!("not within {LIMIT:?}: {what}");
}

/// A file of this test run.
pub fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()))
}

/// The binary, without what the tester's environment says about logs.
pub fn mizzle(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle"));
    command.args(args).env_remove("MIZZLE_LOG").stdin(Stdio::null());
    command
}

/// A home for networks of `mizzle up`; goes with all that is in it.
pub struct Home(PathBuf);

impl Home {
    pub fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        // Short: there are sockets in it.
        Self(std::env::temp_dir().join(format!("mzu-{}-{n}", std::process::id())))
    }

    /// The binary, at home here.
    pub fn mizzle(&self, args: &[&str]) -> Command {
        let mut command = mizzle(args);
        command.env("XDG_STATE_HOME", self.0.join("state"));
        command.env("XDG_CONFIG_HOME", self.0.join("config"));
        command
    }

    /// Runs it to its end, as [`run`].
    pub fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        ended(self.mizzle(args))
    }

    /// Where `mizzle up` keeps its network.
    pub fn network(&self) -> PathBuf {
        self.0.join("state/mizzle/up")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Who was just killed may write once more.
        for _ in 0..3 {
            if std::fs::remove_dir_all(&self.0).is_ok() {
                return;
            }
        }
    }
}

/// Runs it to its end; for what doesn't start a network that lasts.
pub fn run(args: &[&str]) -> (Option<i32>, String, String) {
    ended(mizzle(args))
}

fn ended(command: Command) -> (Option<i32>, String, String) {
    let mut running = Process::start(command);
    let status = running.ended(LIMIT);
    (status.code(), running.stdout_rest(), running.stderr())
}

/// A process whose outputs are read while it runs; killed when dropped.
pub struct Process {
    id: u32,
    status: Option<ExitStatus>,
    end: Receiver<ExitStatus>,
    lines: Option<Receiver<String>>,
    stderr: Arc<Mutex<String>>,
    stderr_end: Receiver<()>,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let (line, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .all(|text| line.send(text).is_ok())
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let (said, errors) = (
            Arc::clone(&stderr),
            BufReader::new(child.stderr.take().expect("piped")),
        );
        let (at_end, stderr_end) = mpsc::channel();
        std::thread::spawn(move || {
            for text in errors.lines().map_while(Result::ok) {
                let mut said = said.lock().expect("not poisoned");
                said.push_str(&text);
                said.push('\n');
            }
            at_end.send(())
        });
        let id = child.id();
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || child.wait().map(|status| ended.send(status)));
        Self {
            id,
            status: None,
            end,
            lines: Some(lines),
            stderr,
            stderr_end,
        }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn line(&mut self) -> String {
        let lines = self.lines.as_ref().expect("still read");
        match lines.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no line on stdout in time; stderr: {}", self.said()),
            // Why it ended may be read only after it did.
            Err(RecvTimeoutError::Disconnected) => {
                panic!("no line on stdout before the end; stderr: {}", self.stderr())
            }
        }
    }

    /// The next line; `None` at the end of its output.
    pub fn next_line(&mut self) -> Option<String> {
        let lines = self.lines.as_ref().expect("still read");
        match lines.recv_timeout(LIMIT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line on stdout in time"),
        }
    }

    /// What it still writes to its end.
    pub fn stdout_rest(&mut self) -> String {
        let lines = self.lines.take().expect("still read");
        lines.iter().map(|line| line + "\n").collect()
    }

    /// All that it wrote to standard error; once it has ended.
    pub fn stderr(&mut self) -> String {
        let _ = self.stderr_end.recv_timeout(LIMIT);
        self.said()
    }

    /// What it wrote to standard error so far. A copy: who panics with it must not hold the lock.
    fn said(&self) -> String {
        self.stderr.lock().expect("not poisoned").clone()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.id.to_string()])
            .status();
        assert!(
            status.expect("kill runs").success(),
            "the process has ended before it was told to"
        );
    }

    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        let status = self
            .end
            .recv_timeout(within)
            .unwrap_or_else(|_| panic!("no end within {within:?}; stderr: {}", self.said()));
        self.status = Some(status);
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() && self.end.try_recv().is_err() {
            let _ = Command::new("kill")
                .args(["-KILL", &self.id.to_string()])
                .status();
        }
    }
}

/// `mizzle up --json`, ready.
pub struct Up {
    pub process: Process,
    pub ready: serde_json::Value,
    pub socks: SocketAddr,
    pub home: Home,
    _place: Place,
}

impl Up {
    pub fn start(args: &[&str], log: Option<&str>) -> Self {
        Self::at(Home::new(), args, log)
    }

    /// The network that is kept there, or a new one.
    pub fn at(home: Home, args: &[&str], log: Option<&str>) -> Self {
        let place = place();
        let mut command = home.mizzle(&["up", "--json", "--socks", "127.0.0.1:0"]);
        command.args(args);
        log.map(|filter| command.env("MIZZLE_LOG", filter));
        let mut process = Process::start(command);
        let ready: serde_json::Value =
            serde_json::from_str(&process.line()).expect("one JSON object on one line");
        let socks = ready["socks"]
            .as_str()
            .expect("where the proxy listens")
            .parse()
            .expect("an address");
        Self {
            process,
            ready,
            socks,
            home,
            _place: place,
        }
    }

    /// What it kept; its place is given back.
    pub fn moved_out(self) -> Home {
        let Self {
            process,
            home,
            _place,
            ..
        } = self;
        drop((process, _place));
        home
    }

    /// Where its nodes listen.
    pub fn ports(&self) -> Vec<u16> {
        let nodes = self.ready["nodes"].as_array().expect("nodes");
        // "/ip4/127.0.0.1/udp/PORT/quic-v1"
        let port = |node: &serde_json::Value| node["address"].as_str()?.split('/').nth(4)?.parse().ok();
        nodes.iter().map(|node| port(node).expect("a port")).collect()
    }

    /// Ends it as a user does; its exit status, and all of standard error.
    pub fn end(mut self, signal: &str, within: Duration) -> (Option<i32>, String) {
        self.process.signal(signal);
        let status = self.process.ended(within);
        assert_eq!(self.process.stdout_rest(), "", "nothing after the one line");
        TcpListener::bind(self.socks).expect("the port is free again");
        (status.code(), self.process.stderr())
    }

    pub fn curl(&self, user: &str, url: &str) -> Curl {
        let proxy = format!("socks5h://{user}{}", self.socks);
        Curl::from(curl(&proxy, url).output().expect("curl runs"))
    }
}

/// Whether there is a curl; if not, a word that the test skips.
pub fn has_curl() -> bool {
    let found = Command::new("curl")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: curl is not installed");
    }
    found
}

/// curl, untouched by the tester's settings; the local port of its connection goes to standard error's end.
pub fn curl(proxy: &str, url: &str) -> Command {
    let mut command = Command::new("curl");
    command.args([
        "-q",
        "-sS",
        "--max-time",
        "60",
        "--noproxy",
        "",
        "-w",
        "%{stderr}%{local_port}",
    ]);
    command.args(["--proxy", proxy, url]).stdin(Stdio::null());
    command
}

/// What a curl said.
pub struct Curl {
    pub code: Option<i32>,
    pub body: Vec<u8>,
    pub stderr: String,
}

impl From<Output> for Curl {
    fn from(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self {
            code: output.status.code(),
            body: output.stdout,
            stderr,
        }
    }
}

impl Curl {
    /// Its proxy refused with this code of RFC 1928.
    pub fn assert_refused(&self, code: u8) {
        let text = format!("({code})");
        assert!(
            self.code == Some(97) && self.stderr.contains(&text),
            "{:?}, wanted {text}: {}",
            self.code,
            self.stderr
        );
    }

    /// The port that it connected to the proxy from.
    pub fn local_port(&self) -> u16 {
        let digits = self.stderr.rsplit(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).expect("a port")
    }
}

/// Bytes that show any that is missing or out of place.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..n as u32)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .take(n)
        .collect()
}
