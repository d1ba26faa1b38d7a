//! `mizzle bench send`: a file of random bytes from one client to another, through a network of processes, by the commands
//! that a user types. Sender and receiver have different gateways: the file goes the whole way.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use mizzle_base::Document;
use mizzle_net::clock;
use mizzle_net::mail::Stage;
use rand_core::Rng as _;
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::args::ProfileName;
use crate::bench::{BenchError, json};
use crate::control::{self, Code, ConnectError, Event};
use crate::process::Usage;
use crate::processes::{Network, OnDisk, ProcessesNetwork, progress, system, until_interrupted};

/// The sender is the first client, the receiver the second.
const SENDER: usize = 0;
const RECEIVER: usize = 1;
/// The network flows for so long before anything is sent: what CPU time goes to cover.
const IDLE: Duration = Duration::from_secs(5);
/// From one line of progress to the next.
const PROGRESS: Duration = Duration::from_secs(5);
/// The client's answer to a question; its machine is busy.
const ANSWER: Duration = Duration::from_secs(30);
/// Before a question is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// A file that takes so many times as long as by the formula is given up, after [`SLACK`] for handshakes and the way.
const TOO_SLOW: f64 = 10.0;
const SLACK: Duration = Duration::from_secs(120);
const BLOCK: usize = 64 * 1024;

/// `mizzle bench send`.
#[derive(Clone, Debug, Args)]
pub struct SendRun {
    /// Bytes of the file
    #[arg(long, default_value_t = 50_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4_000_000_000))]
    pub bytes: u64,
    /// Which traffic the network's users share
    #[arg(long, value_enum, default_value = "bulk")]
    pub profile: ProfileName,
    /// The network
    #[command(flatten)]
    pub network: ProcessesNetwork,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Process {
    name: String,
    cpu_s: Option<f64>,
    idle_cores: Option<f64>,
    resident_mb: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    profile: String,
    bytes: u64,
    stored_s: f64,
    mb_per_s: f64,
    weight: f64,
    ceiling_mb_per_s: f64,
    of_ceiling: f64,
    received_s: f64,
    cpu_s_per_mb: Option<f64>,
    processes: Vec<Process>,
    /// What the two clients counted while the file was on its way.
    counters: BTreeMap<&'static str, BTreeMap<String, u64>>,
}

/// Runs the measurement; the text or JSON to print. Ctrl-C ends it in order.
///
/// # Errors
/// When a process fails, the file isn't there in time, or other bytes came.
pub async fn run(args: SendRun) -> Result<String, BenchError> {
    until_interrupted(measure(&args)).await
}

async fn measure(args: &SendRun) -> Result<String, BenchError> {
    let on_disk = args.network.make(args.profile, 2)?;
    let weight = place(&on_disk)?;
    let profile = args.profile.profile();
    let ceiling = profile.ceiling_up_bytes_per_s(weight);
    let limit = Duration::try_from_secs_f64(TOO_SLOW * args.bytes as f64 / ceiling).unwrap_or(Duration::MAX);
    let limit = limit.saturating_add(SLACK);

    let mut network = on_disk.start().await?;
    let (from, to) = (
        network.on_disk().folder().join("sent"),
        network.on_disk().folder().join("received"),
    );
    let (path, bytes) = (from.clone(), args.bytes);
    blocking(move || write_random(&path, bytes)).await?;
    progress(&format!("{} s of cover alone", IDLE.as_secs()));
    let before = network.usage();
    tokio::time::sleep(IDLE).await;
    let idle = network.usage();
    let counted = counters(&network).await?;

    let start = Instant::now();
    let address = address(&network, RECEIVER).await?;
    let mut receive = mizzle(
        &network,
        RECEIVER,
        "receive",
        &["--output".as_ref(), to.as_os_str()],
    )?;
    let mut send = mizzle(&network, SENDER, "send", &[address.as_ref(), from.as_os_str()])?;
    follow(&mut network, &mut send, "mizzle send", (start, limit)).await?;
    let stored_s = start.elapsed().as_secs_f64();
    progress(&format!("stored after {stored_s:.1} s"));
    follow(&mut network, &mut receive, "mizzle receive", (start, limit)).await?;
    let received_s = start.elapsed().as_secs_f64();

    let after = network.usage();
    let counters = grown(&counted, &counters(&network).await?);
    let same = blocking(move || same_bytes(&from, &to)).await?;
    network.stop().await;
    if !same {
        return Err(BenchError::Process(
            "the file that came is not the one that was sent".into(),
        ));
    }
    let processes = processes(&before, &idle, &after);
    let cpu: Option<f64> = processes.iter().map(|process| process.cpu_s).sum();
    let rate = args.bytes as f64 / stored_s;
    let report = Report {
        profile: profile.name,
        bytes: args.bytes,
        stored_s,
        mb_per_s: rate / 1e6,
        weight,
        ceiling_mb_per_s: ceiling / 1e6,
        of_ceiling: rate / ceiling,
        received_s,
        cpu_s_per_mb: cpu.map(|s| s / (args.bytes as f64 / 1e6)),
        processes,
        counters,
    };
    Ok(if args.json { json(&report) } else { text(&report) })
}

/// Gives the two clients their gateways; the share of all slots that goes to the receiver's.
fn place(on_disk: &OnDisk) -> Result<f64, BenchError> {
    let document: &Document = on_disk.document();
    let gateways: Vec<_> = document.gateways().collect();
    for (client, gateway) in [(RECEIVER, 0), (SENDER, 1)] {
        if let Some(gateway) = gateways.get(gateway) {
            on_disk.configure(client, &format!("gateway = \"{}\"", gateway.id))?;
        }
    }
    let all: f64 = gateways.iter().map(|gateway| gateway.weight).sum();
    Ok(gateways.first().map_or(0.0, |gateway| gateway.weight / all))
}

/// A client's address, which it knows a moment after it is ready.
///
/// # Errors
/// The client's.
pub(crate) async fn address(network: &Network, client: usize) -> Result<String, BenchError> {
    let end = Instant::now() + ANSWER;
    loop {
        match ask(
            &network.on_disk().state(client),
            client,
            control::Command::Address,
        )
        .await
        {
            Ok(Ok(Event::Address { address })) => return Ok(address),
            Ok(Err(ConnectError::Refused {
                code: Code::NotYet, ..
            })) if Instant::now() < end => tokio::time::sleep(PAUSE).await,
            Ok(Err(why)) => return Err(failed(why)),
            Ok(Ok(_)) => return Err(strange()),
            Err(why) => return Err(why),
        }
    }
}

/// An answer that belongs to another question.
pub(crate) fn strange() -> BenchError {
    failed(ConnectError::Strange)
}

/// A question that has one answer.
pub(crate) async fn ask(
    state: &Path,
    client: usize,
    command: control::Command,
) -> Result<Result<Event, ConnectError>, BenchError> {
    let answer = async { control::connect(state, command).await?.event().await };
    let late = |_| failed(format!("client-{} doesn't answer", client + 1));
    timeout(ANSWER, answer).await.map_err(late)
}

pub(crate) fn failed(why: impl ToString) -> BenchError {
    BenchError::Process(why.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BenchError> {
    spawn_blocking(work)
        .await
        .map_err(|e| system(io::Error::other(e)))?
        .map_err(system)
}

fn write_random(path: &Path, bytes: u64) -> io::Result<()> {
    let (mut rng, mut file) = (clock::rng()?, File::create(path)?);
    let (mut left, mut block) = (bytes, vec![0; BLOCK]);
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        rng.fill_bytes(&mut block[..n]);
        file.write_all(&block[..n])?;
        left -= n as u64;
    }
    Ok(())
}

fn same_bytes(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let n = a.read(&mut left)?;
        b.read_exact(&mut right[..n])?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

/// A command of letters, as its user types it.
fn mizzle(network: &Network, client: usize, command: &str, args: &[&OsStr]) -> Result<Child, BenchError> {
    let program = std::env::current_exe().map_err(system)?;
    let log = network.on_disk().folder().join(format!("{command}.log"));
    Command::new(program)
        .arg(command)
        .args(args)
        .arg("--state")
        .arg(network.on_disk().state(client))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(log).map_err(system)?)
        .kill_on_drop(true)
        .spawn()
        .map_err(system)
}

/// Waits for a command's end, and says how far things are.
async fn follow(
    network: &mut Network,
    command: &mut Child,
    name: &str,
    (start, limit): (Instant, Duration),
) -> Result<(), BenchError> {
    let mut tick = interval(PROGRESS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = command.wait() => {
                let ended = ended.map_err(system)?;
                if ended.success() {
                    return Ok(());
                }
                let log = name.trim_start_matches("mizzle ").to_owned() + ".log";
                let said = std::fs::read_to_string(network.on_disk().folder().join(log)).unwrap_or_default();
                return Err(failed(format!("{name} ended with {ended}: {}", said.trim())));
            }
            _ = tick.tick() => {}
        }
        network.check()?;
        let status = how_far(network).await?;
        let waited = start.elapsed();
        progress(&format!("{:>4} s: {status}", waited.as_secs()));
        if waited > limit {
            return Err(failed(format!(
                "{name} was not done within {} s: {status}",
                limit.as_secs()
            )));
        }
    }
}

async fn how_far(network: &Network) -> Result<String, BenchError> {
    let answer = ask(&network.on_disk().state(SENDER), SENDER, control::Command::Outbox).await?;
    let Event::Outbox { letters, .. } = answer.map_err(failed)? else {
        return Err(strange());
    };
    let Some(letter) = letters.first() else {
        return Ok("the client takes the file".into());
    };
    let problem = letter
        .problem
        .as_ref()
        .map(|why| format!("; the last attempt: {why}"));
    Ok(match letter.stage {
        Stage::Waiting => format!(
            "{} of {} items on their way{}",
            letter.items_sent,
            letter.items,
            problem.unwrap_or_default()
        ),
        _ => "stored; the receiver's client fetches it".into(),
    })
}

async fn counters(network: &Network) -> Result<[BTreeMap<String, u64>; 2], BenchError> {
    let mut all = [BTreeMap::new(), BTreeMap::new()];
    for (client, counters) in [SENDER, RECEIVER].into_iter().zip(&mut all) {
        let answer = ask(&network.on_disk().state(client), client, control::Command::Status).await?;
        let Event::Status { status } = answer.map_err(failed)? else {
            return Err(strange());
        };
        let counted = status["counters"].as_object().into_iter().flatten();
        *counters = counted
            .filter_map(|(name, n)| Some((name.clone(), n.as_u64()?)))
            .collect();
    }
    Ok(all)
}

fn grown(
    before: &[BTreeMap<String, u64>; 2],
    after: &[BTreeMap<String, u64>; 2],
) -> BTreeMap<&'static str, BTreeMap<String, u64>> {
    let by = |client: usize| {
        let grown = |(name, n): (&String, &u64)| {
            let n = n - before[client].get(name).copied().unwrap_or(0).min(*n);
            (n > 0).then(|| (name.clone(), n))
        };
        after[client].iter().filter_map(grown).collect()
    };
    [("sender", by(SENDER)), ("receiver", by(RECEIVER))].into()
}

type Used = [(String, Option<Usage>)];

fn processes(before: &Used, idle: &Used, after: &Used) -> Vec<Process> {
    let cpu_s = |a: &Option<Usage>, b: &Option<Usage>| {
        let (a, b) = (*a).zip(*b)?;
        Some(b.cpu.saturating_sub(a.cpu).as_secs_f64())
    };
    let rows = before.iter().zip(idle).zip(after);
    rows.map(|(((name, before), (_, idle)), (_, after))| Process {
        name: name.clone(),
        cpu_s: cpu_s(idle, after),
        idle_cores: cpu_s(before, idle).map(|s| s / IDLE.as_secs_f64()),
        resident_mb: after.map(|usage| usage.resident as f64 / 1e6),
    })
    .collect()
}

fn text(r: &Report) -> String {
    let mut out = format!(
        "{:.1} MB from client to client in `{}`\n\
         stored after {:.1} s: {:.3} MB/s = {:.0} % of the ceiling of {:.3} MB/s (the receiver's gateway has {:.2} of all slots)\n\
         received after {:.1} s, every byte right\n",
        r.bytes as f64 / 1e6,
        r.profile,
        r.stored_s,
        r.mb_per_s,
        r.of_ceiling * 100.0,
        r.ceiling_mb_per_s,
        r.weight,
        r.received_s
    );
    if let Some(cpu) = r.cpu_s_per_mb {
        let _ = writeln!(out, "{cpu:.2} CPU-seconds for each MB, cover of all included\n");
    }
    for process in &r.processes {
        if let (Some(cpu), Some(idle), Some(mb)) = (process.cpu_s, process.idle_cores, process.resident_mb) {
            let _ = writeln!(
                out,
                "  {:<10} {cpu:>7.2} CPU-seconds  {mb:>6.1} MB  {idle:.3} cores of cover before",
                process.name
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_one_wrong_byte_or_one_missing_is_not_the_same() {
        let folder = std::env::temp_dir().join(format!("mizzle-same-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (a, b) = (folder.join("a"), folder.join("b"));
        write_random(&a, 100_001).unwrap();
        let mut bytes = std::fs::read(&a).unwrap();
        assert_eq!(bytes.len(), 100_001);
        std::fs::write(&b, &bytes).unwrap();
        assert!(same_bytes(&a, &b).unwrap());
        bytes[100_000] ^= 1;
        std::fs::write(&b, &bytes).unwrap();
        assert!(!same_bytes(&a, &b).unwrap());
        std::fs::write(&b, &bytes[..100_000]).unwrap();
        assert!(!same_bytes(&a, &b).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
