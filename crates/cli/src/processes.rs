//! Networks of processes for measurements, each role in a process of its own, all on this machine; and `mizzle bench
//! processes`: how long until all are ready, and what each takes while nobody uses the network. What flows through such a network is measured by
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
use mizzle_base::frame::FRAME_LEN;
use mizzle_base::{Document, hex};
use mizzle_exit::Allow;
use mizzle_net::clock::{self, Clock};
use mizzle_sphinx::PACKET_LEN;
use mizzle_traffic::draw;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::args::{NetworkInit, ProcessesRun, ProfileName, TransportName};
use crate::bench::BenchError;
use crate::control;
use crate::init::{self, Made};
use crate::process::{Usage, memory_of, usage_of};
use crate::signals::interrupted;

/// A process that isn't ready by then has failed.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the network runs before memory is read: buffers have filled and connections settled.
const SETTLE: Duration = Duration::from_secs(5);
/// As much of what a process says as is repeated.
const SAID_LEN: u64 = 4_096;

/// A folder that goes with all that is in it.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// One for a measurement among the system's temporary files, under a name that nobody has; not made yet.
    ///
    /// # Errors
    /// Without entropy.
    pub(crate) fn temporary() -> Result<Self, BenchError> {
        let mut rng = clock::rng().map_err(system)?;
        let name = format!("mizzle-bench-{}", hex::encode(&draw::bytes::<8>(&mut rng)));
        Ok(Self(std::env::temp_dir().join(name)))
    }
}

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
    state: PathBuf,
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

/// What a process has used and carried, by its own counters.
#[derive(Clone, Copy, Default)]
struct Spent {
    cpu: Option<Duration>,
    /// Packets in and out, of a client or a mix.
    packets: Option<(u64, u64)>,
}

#[derive(serde::Serialize)]
struct Row {
    name: String,
    ready_s: f64,
    resident_mb: Option<f64>,
    /// What of that is no part of a file, as code is.
    own_mb: Option<f64>,
    /// Of one core, in percent.
    cpu_percent: Option<f64>,
    /// In frames, without what the transport adds.
    in_kb_per_s: Option<f64>,
    out_kb_per_s: Option<f64>,
}

/// The mean of all processes of a role.
#[derive(serde::Serialize)]
struct OfRole {
    role: &'static str,
    cpu_percent: Option<f64>,
    resident_mb: Option<f64>,
    in_kb_per_s: Option<f64>,
    out_kb_per_s: Option<f64>,
}

impl OfRole {
    fn of(role: &'static str, rows: &[Row]) -> Self {
        let mine: Vec<&Row> = rows.iter().filter(|row| row.name.starts_with(role)).collect();
        let mean = |of: fn(&Row) -> Option<f64>| {
            let all: Option<Vec<f64>> = mine.iter().map(|row| of(row)).collect();
            all.filter(|all| !all.is_empty())
                .map(|all| all.iter().sum::<f64>() / all.len() as f64)
        };
        Self {
            role,
            cpu_percent: mean(|row| row.cpu_percent),
            resident_mb: mean(|row| row.resident_mb),
            in_kb_per_s: mean(|row| row.in_kb_per_s),
            out_kb_per_s: mean(|row| row.out_kb_per_s),
        }
    }
}

#[derive(serde::Serialize)]
struct Report {
    profile: String,
    init_s: f64,
    ready_s: f64,
    resident_max_mb: Option<f64>,
    resident_mean_mb: Option<f64>,
    own_max_mb: Option<f64>,
    /// For how long the network was left alone.
    idle_s: f64,
    idle: Vec<OfRole>,
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
    let idle = Duration::from_secs(args.seconds.into());
    progress(&format!(
        "all are ready; {} s in which nobody uses the network",
        (SETTLE + idle).as_secs()
    ));
    tokio::time::sleep(SETTLE).await;
    let (before, begun) = (network.spent().await, Instant::now());
    tokio::time::sleep(idle).await;
    let (after, idle_s) = (network.spent().await, begun.elapsed().as_secs_f64());
    network.check()?;
    let per_s = |n: f64| n / idle_s;
    let kb_per_s = |name: &str, of: fn((u64, u64)) -> u64, (before, after): &(Spent, Spent)| {
        let frame_len = if name.starts_with("client") {
            FRAME_LEN
        } else {
            PACKET_LEN
        };
        let packets = of(after.packets?).saturating_sub(of(before.packets?));
        Some(per_s(packets as f64 * frame_len as f64 / 1e3))
    };
    let spans: Vec<(Spent, Spent)> = before.into_iter().zip(after).collect();
    let processes: Vec<Row> = network
        .processes
        .iter()
        .zip(&spans)
        .map(|(process, span)| (process, span, process.child.id().and_then(memory_of)))
        .map(|(process, span, memory)| Row {
            cpu_percent: span
                .0
                .cpu
                .zip(span.1.cpu)
                .map(|(before, after)| per_s(after.saturating_sub(before).as_secs_f64() * 100.0)),
            in_kb_per_s: kb_per_s(&process.name, |packets| packets.0, span),
            out_kb_per_s: kb_per_s(&process.name, |packets| packets.1, span),
            resident_mb: memory.map(|memory| memory.resident as f64 / 1e6),
            own_mb: memory.map(|memory| memory.own as f64 / 1e6),
            name: process.name.clone(),
            ready_s: process.after.as_secs_f64(),
        })
        .collect();
    network.stop().await;
    let (resident, own): (Option<Vec<f64>>, Option<Vec<f64>>) = (
        processes.iter().map(|p| p.resident_mb).collect(),
        processes.iter().map(|p| p.own_mb).collect(),
    );
    let most = |all: &Option<Vec<f64>>| all.as_ref().map(|all| all.iter().copied().fold(0.0, f64::max));
    let report = Report {
        profile: args.profile.profile().name,
        init_s,
        ready_s,
        resident_max_mb: most(&resident),
        own_max_mb: most(&own),
        resident_mean_mb: resident.map(|all| all.iter().sum::<f64>() / all.len() as f64),
        idle_s,
        idle: ["client", "mix", "gateway"]
            .map(|role| OfRole::of(role, &processes))
            .into(),
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
        let folder = Folder::temporary()?;
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
            let state = config.with_file_name("state");
            starting.spawn(ready(name, state, command, log, start));
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

    async fn spent(&self) -> Vec<Spent> {
        let mut all = Vec::new();
        for process in &self.processes {
            let usage = process.child.id().and_then(usage_of);
            all.push(Spent {
                cpu: usage.map(|usage| usage.cpu),
                packets: packets(process).await,
            });
        }
        all
    }

    /// Ends it and waits until all have ended, so that nothing is written any more when the folder goes.
    pub(crate) async fn stop(mut self) {
        for process in &mut self.processes {
            // It may have ended.
            let _ = timeout(READY_TIMEOUT, process.child.kill()).await;
        }
    }
}

/// Packets that came to a client or a mix, and those that left it, as it counted them. A gateway has links of two kinds.
async fn packets(process: &Ready) -> Option<(u64, u64)> {
    const TO_CLIENT: &[&str] = &[
        "downlink.filler",
        "downlink.mail",
        "reply.session",
        "reply.filler",
        "loop.returned",
    ];
    const FROM_CLIENT: &[&str] = &[
        "slot.data",
        "slot.reply_data",
        "slot.drop",
        "slot.reply_drop",
        "slot.loop",
    ];
    let (came, left) = match process.name.as_str() {
        name if name.starts_with("client") => (TO_CLIENT, FROM_CLIENT),
        name if name.starts_with("mix") => (&["received"][..], &["forwarded", "loop.sent", "loop.cover"][..]),
        _ => return None,
    };
    let mut control = control::connect(&process.state, control::Command::Status)
        .await
        .ok()?;
    let Ok(Ok(control::Event::Status { status })) = timeout(READY_TIMEOUT, control.event()).await else {
        return None;
    };
    let counters = status.get("counters")?;
    let sum = |names: &[&str]| names.iter().filter_map(|name| counters.get(name)?.as_u64()).sum();
    Some((sum(came), sum(left)))
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
    state: PathBuf,
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
        state,
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
    let memory = report.resident_mean_mb.zip(report.resident_max_mb);
    match memory.zip(report.own_max_mb) {
        Some(((mean, max), own)) => {
            let _ = writeln!(
                out,
                "resident memory: {mean:.1} MB each, {max:.1} MB at most; without code and other files {own:.1} MB at most\n"
            );
        }
        None => out.push_str("this system doesn't tell the memory of processes\n\n"),
    }
    let or_unknown = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1}"));
    let _ = writeln!(
        out,
        "nobody used it for {:.0} s; each took on average (kB/s of frames, without what the transport adds)\n",
        report.idle_s
    );
    for role in &report.idle {
        let _ = writeln!(
            out,
            "  {:<10} {:>5} % of a core  {:>6} MB  {:>7} kB/s in  {:>7} kB/s out",
            role.role,
            or_unknown(role.cpu_percent),
            or_unknown(role.resident_mb),
            or_unknown(role.in_kb_per_s),
            or_unknown(role.out_kb_per_s)
        );
    }
    out.push('\n');
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
