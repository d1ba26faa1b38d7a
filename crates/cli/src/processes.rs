//! Networks of processes for measurements, each role in a process of its own, all on this machine; and `mizzle bench
//! processes`: how long until all are ready, and how much memory each takes. What flows through such a network is measured by
//! [`crate::bench_send`] and [`crate::bench_letters`].

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use ed25519_dalek::VerifyingKey;
use mizzle_base::{Document, hex};
use mizzle_exit::Allow;
use mizzle_net::clock::{self, Clock};
use mizzle_traffic::draw;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::args::{NetworkInit, ProcessesRun, ProfileName, TransportName};
use crate::bench::BenchError;
use crate::init::{self, Made};
use crate::process::{Usage, resident_bytes, usage_of};
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
        // A process that is being killed may write once more while the folder is emptied.
        for _ in 0..3 {
            if std::fs::remove_dir_all(&self.0).is_ok() {
                return;
            }
        }
    }
}

/// A process that said that it is ready. It is killed when dropped.
struct Ready {
    name: String,
    after: Duration,
    /// What it said then.
    said: String,
    log: PathBuf,
    child: Child,
}

/// A network of processes: the fewest nodes that are one, if nothing is said.
#[derive(Clone, Debug, Args)]
pub struct ProcessesNetwork {
    /// How nodes talk to each other
    #[arg(long, value_enum, default_value = "quic")]
    pub transport: TransportName,
    /// Mixes in each of the three layers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=32), value_name = "N")]
    pub mixes_per_layer: u16,
    /// Gateways, of equal weight; each has an exit, for a client never uses its own gateway's
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=32), value_name = "N")]
    pub gateways: u16,
}

impl ProcessesNetwork {
    /// Makes it with so many clients on disk.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn make(&self, profile: ProfileName, clients: u16) -> Result<OnDisk, BenchError> {
        OnDisk::make(&Shape {
            profile,
            transport: self.transport,
            mixes_per_layer: self.mixes_per_layer,
            gateways: self.gateways,
            exits: self.gateways,
            clients,
            reaches_this_machine: false,
        })
    }
}

/// What network is wanted.
pub(crate) struct Shape {
    pub(crate) profile: ProfileName,
    pub(crate) transport: TransportName,
    pub(crate) mixes_per_layer: u16,
    pub(crate) gateways: u16,
    pub(crate) exits: u16,
    pub(crate) clients: u16,
    /// Exits connect to this machine, too.
    pub(crate) reaches_this_machine: bool,
}

/// A network on disk, in a temporary folder that goes with it.
pub(crate) struct OnDisk {
    made: Made,
    document: Document,
    folder: Folder,
}

/// A network that runs. Its processes end with it, and then its folder goes.
pub(crate) struct Network {
    processes: Vec<Ready>,
    on_disk: OnDisk,
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

pub(crate) fn system(error: io::Error) -> BenchError {
    BenchError::Process(format!("the system refuses: {error}"))
}

/// Runs a measurement; Ctrl-C ends it in order.
///
/// # Errors
/// Those of the measurement.
pub(crate) async fn until_interrupted(
    measure: impl Future<Output = Result<String, BenchError>>,
) -> Result<String, BenchError> {
    let interrupted = interrupted().map_err(system)?;
    tokio::select! {
        report = measure => report,
        () = interrupted.wait() => Err(BenchError::Process("interrupted".into())),
    }
}

/// Runs the measurement; the text or JSON to print.
///
/// # Errors
/// When a process isn't ready in time or ends; what it said.
pub async fn run(args: ProcessesRun) -> Result<String, BenchError> {
    until_interrupted(measure(&args)).await
}

async fn measure(args: &ProcessesRun) -> Result<String, BenchError> {
    let start = Instant::now();
    let on_disk = OnDisk::make(&Shape {
        profile: args.profile,
        transport: args.transport,
        mixes_per_layer: 3,
        gateways: 3,
        exits: 2,
        clients: 4,
        reaches_this_machine: false,
    })?;
    let init_s = start.elapsed().as_secs_f64();
    let mut network = on_disk.start().await?;
    let ready = network.processes.iter().map(|r| r.after.as_secs_f64());
    let ready_s = ready.fold(0.0, f64::max);
    progress(&format!(
        "all are ready; {} s until memory is read",
        SETTLE.as_secs()
    ));
    tokio::time::sleep(SETTLE).await;
    network.check()?;
    let processes: Vec<Row> = network
        .processes
        .iter()
        .map(|process| Row {
            resident_mb: process
                .child
                .id()
                .and_then(resident_bytes)
                .map(|bytes| bytes as f64 / 1e6),
            name: process.name.clone(),
            ready_s: process.after.as_secs_f64(),
        })
        .collect();
    network.stop().await;
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

impl OnDisk {
    /// Makes it as `mizzle network init` does.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn make(shape: &Shape) -> Result<Self, BenchError> {
        let mut rng = clock::rng().map_err(system)?;
        let name = format!("mizzle-bench-{}", hex::encode(&draw::bytes::<8>(&mut rng)));
        let folder = Folder(std::env::temp_dir().join(name));
        let init = NetworkInit {
            dir: folder.0.clone(),
            name: None,
            profile: shape.profile,
            mean_delay_ms: None,
            pattern: mizzle_base::profile::Pattern::Poisson,
            mixes_per_layer: shape.mixes_per_layer,
            gateways: shape.gateways,
            exits: shape.exits,
            clients: shape.clients,
            transport: shape.transport,
            hosts: vec![std::net::Ipv4Addr::LOCALHOST.into()],
            base_port: 0,
            valid_days: 1,
            epoch_s: 86_400,
            epochs: None,
            exit_allow: if shape.reaches_this_machine {
                Allow::parse("127.0.0.0/8").into_iter().collect()
            } else {
                Vec::new()
            },
            json: false,
        };
        let failed = |why: String| BenchError::Process(why);
        let made = init::make(&init).map_err(|e| failed(e.to_string()))?;
        let signed = std::fs::read(&made.document).map_err(system)?;
        let authority = hex::decode(&made.authority).and_then(|key| VerifyingKey::from_bytes(&key).ok());
        let authority = authority.ok_or_else(|| failed("the authority's key is none".into()))?;
        let document = Document::verify(&signed, &authority, Clock::start().now(), 0)
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self {
            made,
            document,
            folder,
        })
    }

    /// What the nodes and clients go by.
    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    /// The name of the process that is this node.
    pub(crate) fn name_of(&self, id: &str) -> Option<String> {
        let listed = self
            .document
            .nodes()
            .iter()
            .find(|node| node.id.to_string() == id)?;
        let made = self
            .made
            .nodes
            .iter()
            .find(|made| listed.addresses.contains(&made.address))?;
        Some(made.name.clone())
    }

    /// The folder, for files of the measurement.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// The state directory of a client, from 0.
    pub(crate) fn state(&self, client: usize) -> PathBuf {
        let config = self.made.clients.get(client);
        let folder = config.and_then(|config| config.parent());
        folder.unwrap_or(&self.folder.0).join("state")
    }

    /// Gives a client, from 0, a line in its configuration.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn configure(&self, client: usize, line: &str) -> Result<(), BenchError> {
        let Some(config) = self.made.clients.get(client) else {
            return Ok(());
        };
        let text = std::fs::read_to_string(config).map_err(system)?;
        std::fs::write(config, format!("{line}\n{text}")).map_err(system)
    }

    /// All at once, as machines start that know nothing of each other.
    ///
    /// # Errors
    /// When a process isn't ready in time or ends; what it said.
    pub(crate) async fn start(self) -> Result<Network, BenchError> {
        let program = std::env::current_exe().map_err(system)?;
        let nodes = self.made.nodes.iter();
        let nodes = nodes.map(|n| (n.name.clone(), "node", &n.config));
        let clients = self.made.clients.iter().zip(1..);
        let clients = clients.map(|(config, n)| (format!("client-{n}"), "client", config));
        let (mut starting, start) = (JoinSet::new(), Instant::now());
        for (name, kind, config) in nodes.chain(clients) {
            let mut command = Command::new(&program);
            command.args([kind, "run", "--json"]).arg(config);
            // A pipe that nobody reads would fill up and hold the process.
            let log = self.folder.0.join(format!("{name}.log"));
            starting.spawn(ready(name, command, log, start));
        }
        let all = starting.len();
        let mut processes = Vec::new();
        while let Some(done) = starting.join_next().await {
            let process = done.map_err(|e| system(io::Error::other(e)))??;
            progress(&format!(
                "{} of {all} ready: {} after {:.2} s",
                processes.len() + 1,
                process.name,
                process.after.as_secs_f64()
            ));
            processes.push(process);
        }
        processes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Network {
            processes,
            on_disk: self,
        })
    }
}

impl Network {
    /// What it was made from.
    pub(crate) fn on_disk(&self) -> &OnDisk {
        &self.on_disk
    }

    /// Makes sure that all run.
    ///
    /// # Errors
    /// Which one ended, and what it said.
    pub(crate) fn check(&mut self) -> Result<(), BenchError> {
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait().map_err(system)? {
                return Err(BenchError::Process(format!(
                    "{} ended with {status}: {}",
                    process.name,
                    said(&process.log)
                )));
            }
        }
        Ok(())
    }

    /// Where a client's proxy listens, from 0.
    ///
    /// # Errors
    /// When it didn't say.
    pub(crate) fn socks(&self, client: usize) -> Result<SocketAddr, BenchError> {
        let name = format!("client-{}", client + 1);
        let process = self.processes.iter().find(|process| process.name == name);
        let said = process.and_then(|p| serde_json::from_str::<serde_json::Value>(&p.said).ok());
        let socks = said.and_then(|said| said["socks"].as_str()?.parse().ok());
        socks.ok_or_else(|| BenchError::Process(format!("{name} doesn't say where its proxy listens")))
    }

    /// Kills these at once, as the system does it: they don't hear of it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn kill(&mut self, names: &[String]) -> Result<(), BenchError> {
        let (mut dead, rest): (Vec<Ready>, Vec<Ready>) = self
            .processes
            .drain(..)
            .partition(|process| names.contains(&process.name));
        self.processes = rest;
        for process in &mut dead {
            process.child.start_kill().map_err(system)?;
        }
        for process in &mut dead {
            let _ = timeout(READY_TIMEOUT, process.child.wait()).await;
        }
        Ok(())
    }

    /// What each process has used; `None` where the system doesn't tell.
    pub(crate) fn usage(&self) -> Vec<(String, Option<Usage>)> {
        let used = |process: &Ready| process.child.id().and_then(usage_of);
        self.processes
            .iter()
            .map(|process| (process.name.clone(), used(process)))
            .collect()
    }

    /// Ends it and waits until all have ended, so that nothing is written any more when the folder goes.
    pub(crate) async fn stop(mut self) {
        for process in &mut self.processes {
            // It may have ended.
            let _ = timeout(READY_TIMEOUT, process.child.kill()).await;
        }
    }
}

/// The end of what a process said on standard error.
fn said(log: &Path) -> String {
    let end = File::open(log).and_then(|mut file| {
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(SAID_LEN)))?;
        let mut end = Vec::new();
        file.take(SAID_LEN).read_to_end(&mut end)?;
        Ok(end)
    });
    String::from_utf8_lossy(&end.unwrap_or_default()).trim().into()
}

async fn ready(
    name: String,
    mut command: Command,
    log: PathBuf,
    start: Instant,
) -> Result<Ready, BenchError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).map_err(system)?)
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
        // It has ended, or is about to; what it says comes before.
        let _ = timeout(READY_TIMEOUT, child.wait()).await;
        return Err(BenchError::Process(format!(
            "{name} did not start: {}",
            said(&log)
        )));
    }
    Ok(Ready {
        name,
        after: start.elapsed(),
        said: line,
        log,
        child,
    })
}

/// Says on standard error how far a measurement is.
pub(crate) fn progress(text: &str) {
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
