//! `mizzle bench processes`: a network of the default shape with each role in a process of its own, all on this machine.
//! How long until all are ready, and how much memory each takes.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mizzle_base::hex;
use mizzle_net::clock;
use mizzle_traffic::draw;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::args::{NetworkInit, ProcessesRun};
use crate::bench::BenchError;
use crate::init::{self, Made};
use crate::process::resident_bytes;
use crate::signals::interrupted;

/// A process that isn't ready by then has failed.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the network runs before memory is read: buffers have filled and connections settled.
const SETTLE: Duration = Duration::from_secs(5);
/// As much of what a process says as is repeated.
const SAID_LEN: u64 = 4_096;

/// A folder that goes with all that is in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that said that it is ready. It is killed when dropped.
struct Ready {
    name: String,
    after: Duration,
    child: Child,
}

#[derive(serde::Serialize)]
struct Row {
    name: String,
    ready_s: f64,
    resident_mb: Option<f64>,
}

#[derive(serde::Serialize)]
struct Report {
    profile: String,
    init_s: f64,
    ready_s: f64,
    resident_max_mb: Option<f64>,
    resident_mean_mb: Option<f64>,
    processes: Vec<Row>,
}

fn system(error: io::Error) -> BenchError {
    BenchError::Process(format!("the system refuses: {error}"))
}

/// Runs the measurement; the text or JSON to print. Ctrl-C ends it in order.
///
/// # Errors
/// When a process isn't ready in time or ends; what it said.
pub async fn run(args: ProcessesRun) -> Result<String, BenchError> {
    let interrupted = interrupted().map_err(system)?;
    tokio::select! {
        report = measure(&args) => report,
        () = interrupted.wait() => Err(BenchError::Process("interrupted".into())),
    }
}

async fn measure(args: &ProcessesRun) -> Result<String, BenchError> {
    let mut rng = clock::rng().map_err(system)?;
    let name = format!("mizzle-bench-{}", hex::encode(&draw::bytes::<8>(&mut rng)));
    let folder = Folder(std::env::temp_dir().join(name));
    let start = Instant::now();
    let made = make(args, &folder.0)?;
    let init_s = start.elapsed().as_secs_f64();
    let ready = start_all(&made).await?;
    let ready_s = ready.iter().map(|r| r.after.as_secs_f64()).fold(0.0, f64::max);
    progress(&format!(
        "all are ready; {} s until memory is read",
        SETTLE.as_secs()
    ));
    tokio::time::sleep(SETTLE).await;
    let mut processes = Vec::new();
    for mut process in ready {
        if let Some(status) = process.child.try_wait().map_err(system)? {
            return Err(BenchError::Process(format!(
                "{} ended with {status}",
                process.name
            )));
        }
        processes.push(Row {
            resident_mb: process
                .child
                .id()
                .and_then(resident_bytes)
                .map(|bytes| bytes as f64 / 1e6),
            name: process.name,
            ready_s: process.after.as_secs_f64(),
        });
    }
    let resident: Option<Vec<f64>> = processes.iter().map(|p| p.resident_mb).collect();
    let report = Report {
        profile: args.profile.profile().name,
        init_s,
        ready_s,
        resident_max_mb: resident
            .as_ref()
            .map(|all| all.iter().copied().fold(0.0, f64::max)),
        resident_mean_mb: resident.map(|all| all.iter().sum::<f64>() / all.len() as f64),
        processes,
    };
    if args.json {
        return Ok(crate::bench::json(&report));
    }
    Ok(text(&report))
}

fn make(args: &ProcessesRun, dir: &Path) -> Result<Made, BenchError> {
    let init = NetworkInit {
        dir: dir.into(),
        name: None,
        profile: args.profile,
        mean_delay_ms: None,
        mixes_per_layer: 3,
        gateways: 3,
        exits: 2,
        clients: 4,
        transport: args.transport,
        hosts: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        base_port: 0,
        valid_days: 1,
        exit_allow: Vec::new(),
        json: false,
    };
    init::make(&init).map_err(|e| BenchError::Process(e.to_string()))
}

/// All at once, as machines start that know nothing of each other.
async fn start_all(made: &Made) -> Result<Vec<Ready>, BenchError> {
    let program = std::env::current_exe().map_err(system)?;
    let nodes = made.nodes.iter().map(|n| (n.name.clone(), "node", &n.config));
    let clients = made.clients.iter().zip(1..);
    let clients = clients.map(|(config, n)| (format!("client-{n}"), "client", config));
    let (mut starting, start) = (JoinSet::new(), Instant::now());
    for (name, kind, config) in nodes.chain(clients) {
        let mut command = Command::new(&program);
        command.args([kind, "run", "--json"]).arg(config);
        starting.spawn(ready(name, command, start));
    }
    let all = starting.len();
    let mut ready = Vec::new();
    while let Some(done) = starting.join_next().await {
        let process = done.map_err(|e| system(io::Error::other(e)))??;
        progress(&format!(
            "{} of {all} ready: {} after {:.2} s",
            ready.len() + 1,
            process.name,
            process.after.as_secs_f64()
        ));
        ready.push(process);
    }
    ready.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(ready)
}

async fn ready(name: String, mut command: Command, start: Instant) -> Result<Ready, BenchError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(system)?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        let read = timeout(
            READY_TIMEOUT,
            BufReader::new(out.take(SAID_LEN)).read_line(&mut line),
        )
        .await;
        if read.is_err() {
            return Err(BenchError::Process(format!(
                "{name} was not ready within {} s",
                READY_TIMEOUT.as_secs()
            )));
        }
    }
    if line.is_empty() {
        let mut said = Vec::new();
        if let Some(err) = child.stderr.take() {
            // It has ended, or is about to.
            let _ = timeout(READY_TIMEOUT, err.take(SAID_LEN).read_to_end(&mut said)).await;
        }
        return Err(BenchError::Process(format!(
            "{name} did not start: {}",
            String::from_utf8_lossy(&said).trim()
        )));
    }
    Ok(Ready {
        name,
        after: start.elapsed(),
        child,
    })
}

fn progress(text: &str) {
    // Standard error may be closed; nobody misses it then.
    let _ = writeln!(io::stderr(), "{text}");
}

fn text(report: &Report) -> String {
    let mut out = format!(
        "{} processes in `{}`: made in {:.2} s, all ready after {:.2} s\n",
        report.processes.len(),
        report.profile,
        report.init_s,
        report.ready_s
    );
    match report.resident_mean_mb.zip(report.resident_max_mb) {
        Some((mean, max)) => {
            let _ = writeln!(out, "resident memory: {mean:.1} MB each, {max:.1} MB at most\n");
        }
        None => out.push_str("this system doesn't tell the memory of processes\n\n"),
    }
    for row in &report.processes {
        let _ = match row.resident_mb {
            Some(mb) => writeln!(
                out,
                "  {:<10} ready after {:>5.2} s  {mb:>6.1} MB",
                row.name, row.ready_s
            ),
            None => writeln!(out, "  {:<10} ready after {:>5.2} s", row.name, row.ready_s),
        };
    }
    out
}
