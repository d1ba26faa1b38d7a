//! `mizzle bench`: the figures of the documentation, measured on this machine.
//!
//! Those of streams, which are in this file, start a network in this process, over real sockets, a plain web server beside
//! it, and download through the SOCKS port as any program would. CPU and memory are those of the whole process: nodes,
//! client, server and downloader together. Those of letters and of whole processes are in files of their own.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::args::{Bench, Run};
use crate::assemble::StartError;
use crate::budget;
use crate::http::{self, Download};
use crate::init;
use crate::local::{Local, LocalConfig, LocalError};
use crate::plan::EXIT_WEIGHT;
use crate::process::{Usage, usage};
use crate::processes::{Folder, until_interrupted};
use crate::{
    bench_alarm, bench_killed, bench_letters, bench_mailbox, bench_node, bench_send, bench_sphinx, processes,
};

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The network didn't start.
    #[error(transparent)]
    Start(#[from] LocalError),
    /// A download failed.
    #[error("a download failed: {0}")]
    Download(#[from] io::Error),
    /// A download brought other bytes.
    #[error("a download brought wrong bytes")]
    Checksum,
    /// A process failed.
    #[error("{0}")]
    Process(String),
    /// A packet could not be built.
    #[error("no packet to measure with: {0}")]
    Build(#[from] mizzle_sphinx::BuildError),
    /// Nothing could be counted.
    #[error("a session in memory did not get going")]
    Budget,
}

impl From<StartError> for BenchError {
    fn from(error: StartError) -> Self {
        Self::Start(error.into())
    }
}

/// Runs one measurement; the text or JSON to print.
///
/// # Errors
/// [`BenchError`].
pub async fn run(bench: Bench) -> Result<String, BenchError> {
    match bench {
        Bench::Transfer {
            run,
            bytes,
            against_drop_percent,
        } => until_interrupted(transfer(run, bytes, against_drop_percent)).await,
        Bench::Small { run, bytes, times } => until_interrupted(small(run, bytes, times)).await,
        Bench::Parallel {
            run,
            connections,
            bytes,
        } => until_interrupted(parallel(run, connections, bytes)).await,
        Bench::Idle { run, seconds } => until_interrupted(idle(run, seconds)).await,
        Bench::Packet { json } => packet(json),
        Bench::Alarm { seeds, json } => Ok(bench_alarm::run(seeds, json)),
        Bench::Sphinx { rounds, json } => Ok(bench_sphinx::run(rounds, json)?),
        Bench::Processes(args) => processes::run(args).await,
        Bench::Send(args) => bench_send::run(args).await,
        Bench::Letters(args) => bench_letters::run(args).await,
        Bench::Mailbox(args) => bench_mailbox::run(args).await,
        Bench::Killed(args) => bench_killed::run(args).await,
        Bench::Node(args) => bench_node::run(args).await,
    }
}

struct Setting {
    local: Local,
    server: http::Server,
    /// After the network.
    _folder: Folder,
}

impl Setting {
    async fn start(run: &Run, drop_percent: f64) -> Result<Self, BenchError> {
        let mut network = run.network.clone();
        network.drop_percent = drop_percent;
        let server = http::Server::start().await?;
        let folder = Folder::temporary()?;
        let config = LocalConfig::new(folder.0.clone(), run.profile, &network);
        let local = Local::start(config).await?;
        Ok(Self {
            local,
            server,
            _folder: folder,
        })
    }

    async fn get(&self, bytes: u64, seed: u64) -> Result<Download, BenchError> {
        let download = http::download(self.local.socks(), self.server.address(), bytes, seed).await?;
        if download.right {
            Ok(download)
        } else {
            Err(BenchError::Checksum)
        }
    }

    async fn stop(self) {
        self.local.stop().await;
    }
}

#[derive(Serialize)]
struct Transfer {
    profile: String,
    bytes: u64,
    seconds: f64,
    first_byte_s: f64,
    mb_per_s: f64,
    ceiling_mb_per_s: f64,
    of_ceiling: f64,
    cpu_s_per_mb: Option<f64>,
    idle_cores: Option<f64>,
    resident_mb: Option<f64>,
    drop_percent: f64,
}

async fn one_transfer(run: &Run, bytes: u64, drop_percent: f64) -> Result<Transfer, BenchError> {
    let setting = Setting::start(run, drop_percent).await?;
    // The network at rest first: what of the CPU is cover.
    let idle = idle_cores(Duration::from_secs(5)).await;
    let (before, start) = (usage(), Instant::now());
    let download = setting.get(bytes, 1).await?;
    let seconds = start.elapsed().as_secs_f64();
    let after = usage();
    setting.stop().await;
    let ceiling = run_profile(run).ceiling_down_bytes_per_s(EXIT_WEIGHT);
    let rate = bytes as f64 / seconds;
    let cpu_s = |(a, b): (Usage, Usage)| (b.cpu - a.cpu).as_secs_f64();
    Ok(Transfer {
        profile: run_profile(run).name,
        bytes,
        seconds,
        first_byte_s: download.first_byte.as_secs_f64(),
        mb_per_s: rate / 1e6,
        ceiling_mb_per_s: ceiling / 1e6,
        of_ceiling: rate / ceiling,
        cpu_s_per_mb: before.zip(after).map(cpu_s).map(|s| s / (bytes as f64 / 1e6)),
        idle_cores: idle,
        resident_mb: after.map(|u| u.resident as f64 / 1e6),
        drop_percent,
    })
}

fn run_profile(run: &Run) -> mizzle_base::Profile {
    init::profile(run.profile, run.network.mean_delay_ms)
}

async fn transfer(run: Run, bytes: u64, against: Option<f64>) -> Result<String, BenchError> {
    let plain = one_transfer(&run, bytes, run.network.drop_percent).await?;
    let Some(drop_percent) = against else {
        return Ok(if run.json {
            json(&plain)
        } else {
            transfer_table(&plain)
        });
    };
    let lossy = one_transfer(&run, bytes, drop_percent).await?;
    let ratio = lossy.mb_per_s / plain.mb_per_s;
    if run.json {
        return Ok(json(
            &serde_json::json!({ "plain": plain, "lossy": lossy, "lossy_to_plain": ratio }),
        ));
    }
    let (a, b) = (transfer_table(&plain), transfer_table(&lossy));
    Ok(format!(
        "{a}\nwith {drop_percent} % of the packets lost on every link:\n{b}\ngoodput with loss / without: {ratio:.2}\n"
    ))
}

fn transfer_table(t: &Transfer) -> String {
    let mut out = format!(
        "download of {:.1} MB in `{}`: {:.2} s, {:.3} MB/s = {:.0} % of the ceiling of {:.3} MB/s; checksum right\n\
         first byte after {:.2} s\n",
        t.bytes as f64 / 1e6,
        t.profile,
        t.seconds,
        t.mb_per_s,
        t.of_ceiling * 100.0,
        t.ceiling_mb_per_s,
        t.first_byte_s
    );
    if let (Some(cpu), Some(idle), Some(mb)) = (t.cpu_s_per_mb, t.idle_cores, t.resident_mb) {
        let _ = writeln!(
            out,
            "{cpu:.3} CPU-seconds per MB; idle before: {idle:.2} cores; {mb:.0} MB resident"
        );
    }
    out
}

#[derive(Serialize)]
struct Small {
    profile: String,
    times: u32,
    bytes: u64,
    first_byte_median_s: f64,
    whole_median_s: f64,
    whole_p90_s: f64,
    whole_max_s: f64,
}

async fn small(run: Run, bytes: u64, times: u32) -> Result<String, BenchError> {
    let setting = Setting::start(&run, run.network.drop_percent).await?;
    let (mut first, mut whole) = (Vec::new(), Vec::new());
    for n in 0..times {
        let start = Instant::now();
        let download = setting.get(bytes, n.into()).await?;
        whole.push(start.elapsed().as_secs_f64());
        first.push(download.first_byte.as_secs_f64());
    }
    setting.stop().await;
    first.sort_by(f64::total_cmp);
    whole.sort_by(f64::total_cmp);
    let quantile = |sorted: &[f64], q: f64| sorted[((sorted.len() - 1) as f64 * q).round() as usize];
    let s = Small {
        profile: run_profile(&run).name,
        times,
        bytes,
        first_byte_median_s: quantile(&first, 0.5),
        whole_median_s: quantile(&whole, 0.5),
        whole_p90_s: quantile(&whole, 0.9),
        whole_max_s: quantile(&whole, 1.0),
    };
    if run.json {
        return Ok(json(&s));
    }
    Ok(format!(
        "{} downloads of {} bytes in `{}`: median {:.2} s, 90 % within {:.2} s, longest {:.2} s\n\
         first byte: median {:.2} s (the connection included)\n",
        s.times, s.bytes, s.profile, s.whole_median_s, s.whole_p90_s, s.whole_max_s, s.first_byte_median_s
    ))
}

#[derive(Serialize)]
struct Parallel {
    profile: String,
    connections: u32,
    bytes: u64,
    seconds: f64,
    mb_per_s: f64,
    of_ceiling: f64,
    right: u32,
}

async fn parallel(run: Run, connections: u32, bytes: u64) -> Result<String, BenchError> {
    let setting = Setting::start(&run, run.network.drop_percent).await?;
    let (proxy, server) = (setting.local.socks(), setting.server.address());
    let start = Instant::now();
    let each = bytes / u64::from(connections);
    let mut downloads = tokio::task::JoinSet::new();
    for n in 0..connections {
        downloads.spawn(http::download(proxy, server, each, n.into()));
    }
    let mut right = 0;
    while let Some(done) = downloads.join_next().await {
        let download = done.map_err(io::Error::other)??;
        right += u32::from(download.right);
    }
    let seconds = start.elapsed().as_secs_f64();
    setting.stop().await;
    if right != connections {
        return Err(BenchError::Checksum);
    }
    let rate = (each * u64::from(connections)) as f64 / seconds;
    let p = Parallel {
        profile: run_profile(&run).name,
        connections,
        bytes: each * u64::from(connections),
        seconds,
        mb_per_s: rate / 1e6,
        of_ceiling: rate / run_profile(&run).ceiling_down_bytes_per_s(EXIT_WEIGHT),
        right,
    };
    if run.json {
        return Ok(json(&p));
    }
    Ok(format!(
        "{} connections, {:.1} MB in all, in `{}`: {:.1} s, {:.3} MB/s = {:.0} % of the ceiling; {} checksums right\n",
        p.connections,
        p.bytes as f64 / 1e6,
        p.profile,
        p.seconds,
        p.mb_per_s,
        p.of_ceiling * 100.0,
        p.right
    ))
}

async fn idle(run: Run, seconds: u32) -> Result<String, BenchError> {
    let setting = Setting::start(&run, run.network.drop_percent).await?;
    // Let buffers fill and connections settle.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let cores = idle_cores(Duration::from_secs(seconds.into())).await;
    let resident_mb = usage().map(|u| u.resident as f64 / 1e6);
    let report = setting.local.report();
    setting.stop().await;
    if run.json {
        return Ok(json(&serde_json::json!({
            "profile": run_profile(&run).name, "seconds": seconds, "cores": cores, "resident_mb": resident_mb,
            "counters": report.counters.iter().collect::<std::collections::BTreeMap<_, _>>(),
        })));
    }
    let mut out = format!("idle in `{}` for {seconds} s", run_profile(&run).name);
    match cores.zip(resident_mb) {
        Some((cores, mb)) => {
            let _ = writeln!(out, ": {cores:.2} cores, {mb:.0} MB resident");
        }
        None => out.push_str(": this system doesn't tell CPU time and memory\n"),
    }
    let loops = report.client_loops;
    let _ = writeln!(
        out,
        "the client's loops: {} sent, {} back, {} lost; mean lateness {:.1} ms",
        loops.sent,
        loops.returned,
        loops.lost,
        loops.lateness_us as f64 / 1e3 / loops.returned.max(1) as f64
    );
    for (name, n) in report.counters.iter() {
        let _ = writeln!(out, "  {name:<28} {n}");
    }
    Ok(out)
}

async fn idle_cores(span: Duration) -> Option<f64> {
    let (before, start) = (usage()?, Instant::now());
    tokio::time::sleep(span).await;
    Some((usage()?.cpu - before.cpu).as_secs_f64() / start.elapsed().as_secs_f64())
}

fn packet(as_json: bool) -> Result<String, BenchError> {
    let rows = budget::rows().ok_or(BenchError::Budget)?;
    if as_json {
        let map: std::collections::BTreeMap<_, _> = rows.iter().map(|r| (r.0, r.1)).collect();
        return Ok(json(&map));
    }
    let mut out = String::from("where the 4608 bytes of a data slot's packet go:\n");
    for (what, bytes) in rows {
        let _ = writeln!(out, "  {bytes:>5}  {:>5.1} %  {what}", bytes as f64 / 46.08);
    }
    Ok(out)
}

pub(crate) fn json(value: &impl Serialize) -> String {
    // Numbers, names and options can't fail to be written.
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text
}
