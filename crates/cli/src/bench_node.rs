//! `mizzle bench node`: one node of the real code between peers that send and receive, over real connections on loopback.
//!
//! The node under test is a mix of the second layer, with its host, its links, its tags on disk. 16 hosts of the layer
//! before it send packets that were built beforehand, 16 of the layer behind it receive; both run in this process too, on
//! threads of their own, so that the node's CPU time is that of its threads. `peers` is the network and what goes through
//! it, `stock` the packets, `threads` the CPU time by thread, `pipeline` the node's cores without a network.

mod peers;
mod pipeline;
mod stock;
mod threads;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use mizzle_sphinx::{PACKET_LEN, engine};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::args::TransportName;
use crate::bench::{BenchError, json};
use crate::process::usage;
use crate::processes::{progress, system};
use crate::signals::interrupted;
use peers::{Arrivals, Cast, Net, Sent};
use stock::Stock;

/// Mean delay in the packets.
pub(super) const MEAN_DELAY_MS: f64 = 20.0;
/// Shares of the capacity found at which latency is measured.
const LOADS: [f64; 3] = [0.1, 0.5, 0.8];
/// A flood offers so many times the capacity.
const FLOOD: f64 = 2.0;
/// After it, this share of the capacity goes on.
const AFTER_FLOOD: f64 = 0.1;
/// Packets sent within one of these after a flood are looked at together.
const WINDOW: Duration = Duration::from_millis(50);
/// Beyond its delay a packet may be this late, in the median of a window, where a node has recovered.
const RECOVERED: Duration = Duration::from_millis(5);
/// Of each measurement this share comes first and isn't counted: connections and memory warm up.
const WARM_UP: f64 = 0.2;
/// What comes this long after the last was sent is lost.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes that a packet of the stock takes, with its place in the tables.
const STOCK_BYTES: usize = PACKET_LEN + 64;

/// `mizzle bench node`.
#[derive(Clone, Debug, Args)]
pub struct NodeRun {
    /// Only over this transport; over each of them if not given
    #[arg(long, value_enum)]
    pub transport: Option<TransportName>,
    /// Threads of the node's runtime, and of the pipeline without a network beside 1 and 2
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    pub workers: u16,
    /// How long each measurement lasts at most
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60), value_name = "SECONDS")]
    pub seconds: u32,
    /// Packets built beforehand, 4.7 KB each; a node gets each of them once, so fast ones are measured for less time
    #[arg(long, default_value_t = 120_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000), value_name = "N")]
    pub packets: u32,
    /// Packets that are held at once to see what one takes, 4.7 KB each
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000), value_name = "N")]
    pub held: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report {
    engine: &'static str,
    cores: usize,
    /// Of the transport with the least CPU time a packet; nothing where the system doesn't tell that of threads.
    node_us_per_packet: Option<f64>,
    node_pps_per_core: Option<f64>,
    transports: Vec<OverTransport>,
    pipeline: Vec<pipeline::Row>,
    /// Packets per second of two workers against one.
    pipeline_two_to_one: Option<f64>,
    held_packets: u32,
    held_bytes_per_packet: Option<f64>,
}

#[derive(Serialize)]
struct OverTransport {
    transport: &'static str,
    workers: u16,
    node_us_per_packet: Option<f64>,
    node_pps_per_core: Option<f64>,
    /// CPU time of the node's threads by their names.
    us_per_packet_by_thread: Vec<threads::Share>,
    /// As fast as packets came through on this machine, with senders and receivers on the same cores.
    capacity_pps: f64,
    latency: Vec<Latency>,
    flood: Flood,
}

#[derive(Serialize)]
struct Latency {
    load: f64,
    offered_pps: f64,
    node_us_per_packet: Option<f64>,
    /// From the sender's queue to the receiver's hands, less the delay that was drawn.
    beyond_delay_p50_ms: f64,
    beyond_delay_p99_ms: f64,
    /// Of that, inside the node: from the end of its delay until the packet is handed to the link.
    node_late_p50_ms: Option<f64>,
    node_late_p99_ms: Option<f64>,
    /// For each packet, the time in which a thread of the node was ready to run and every core taken.
    waited_for_a_core_us: Option<f64>,
    lost: u64,
}

#[derive(Serialize)]
struct Flood {
    offered_pps: f64,
    /// By senders' links, whose queues were full: the node reads no faster than it can.
    refused_before_the_node: u64,
    accepted: u64,
    delivered: u64,
    /// By the node, under these reasons.
    dropped: Vec<(&'static str, u64)>,
    beyond_delay_p50_ms: f64,
    beyond_delay_p99_ms: f64,
    resident_growth_mb: Option<f64>,
    /// From its end until packets were no later than 5 ms again; nothing if they still were at the end.
    recovery_ms: Option<f64>,
}

/// Set when somebody wants it to end.
pub(super) struct Stop(AtomicBool);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// Once it is set.
    fn check(&self) -> Result<(), BenchError> {
        if self.is_set() {
            return Err(BenchError::Process("interrupted".into()));
        }
        Ok(())
    }
}

/// Runs the measurement; the text or JSON to print.
///
/// # Errors
/// When the network doesn't start, or on Ctrl-C.
pub async fn run(args: NodeRun) -> Result<String, BenchError> {
    let interrupted = interrupted().map_err(system)?;
    let stop = Arc::new(Stop(AtomicBool::new(false)));
    let mut measuring = spawn_blocking({
        let (args, stop) = (args.clone(), Arc::clone(&stop));
        move || measure(&args, &stop)
    });
    let report = tokio::select! {
        report = &mut measuring => report,
        () = interrupted.wait() => {
            stop.0.store(true, Ordering::Relaxed);
            measuring.await
        }
    };
    let report = report.map_err(|why| BenchError::Process(why.to_string()))??;
    Ok(if args.json { json(&report) } else { text(&report) })
}

fn measure(args: &NodeRun, stop: &Stop) -> Result<Report, BenchError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cast = Cast::draw()?;
    let mb = |n: u32| f64::from(n) * STOCK_BYTES as f64 / 1e6;
    // First, while no memory that was given back can be used again.
    progress(&format!("holding {} packets: {:.0} MB", args.held, mb(args.held)));
    let held = pipeline::held(&cast, args.held as usize, stop)?;
    progress(&format!(
        "building {} packets: {:.0} MB, and up to {:.0} MB on their way through the node",
        args.packets,
        mb(args.packets),
        mb(args.packets.min(40_000))
    ));
    let stock = Arc::new(Stock::build(&cast, args.packets as usize, MEAN_DELAY_MS, stop)?);
    let mut transports = Vec::new();
    for name in [TransportName::Tcp, TransportName::Quic] {
        if args.transport.is_none_or(|only| only == name) {
            transports.push(over(name, args, &cast, &stock, stop)?);
        }
    }
    let mut counts = vec![1, 2, usize::from(args.workers)];
    counts.sort_unstable();
    counts.dedup();
    counts.retain(|&n| n == 1 || n <= cores);
    let mut pipeline = Vec::new();
    for workers in counts {
        progress(&format!("memory to memory, workers: {workers}"));
        pipeline.push(pipeline::run(&cast, &stock, workers, stop)?);
    }
    let best = transports
        .iter()
        .filter_map(|t| t.node_us_per_packet)
        .min_by(f64::total_cmp);
    let rate = |n| pipeline.iter().find(|r| r.workers == n).map(|r| r.packets_per_s);
    Ok(Report {
        engine: engine().name(),
        cores,
        node_us_per_packet: best,
        node_pps_per_core: best.map(per_core),
        pipeline_two_to_one: rate(2).zip(rate(1)).map(|(two, one)| two / one),
        transports,
        pipeline,
        held_packets: args.held,
        held_bytes_per_packet: held,
    })
}

fn per_core(us: f64) -> f64 {
    1e6 / us
}

fn over(
    name: TransportName,
    args: &NodeRun,
    cast: &Cast,
    stock: &Arc<Stock>,
    stop: &Stop,
) -> Result<OverTransport, BenchError> {
    let label = match name {
        TransportName::Tcp => "TCP",
        TransportName::Quic => "QUIC",
    };
    let time = Duration::from_secs(args.seconds.into());
    let start = || {
        Net::start(
            cast,
            name.transport(),
            args.workers.into(),
            Arc::clone(stock),
            stop,
        )
    };
    progress(&format!("{label}: as fast as it goes"));
    let full = at_full_speed(start()?, time, stop)?;
    let mut latency = Vec::new();
    for load in LOADS {
        progress(&format!(
            "{label}: {:.0} % of {:.0} packets/s",
            load * 100.0,
            full.pps
        ));
        latency.push(at_load(start()?, load, full.pps * load, time, stop)?);
    }
    progress(&format!("{label}: a flood of {:.0} packets/s", full.pps * FLOOD));
    let flood = flooded(start()?, full.pps, time, stop)?;
    Ok(OverTransport {
        transport: label,
        workers: args.workers,
        node_us_per_packet: full.us,
        node_pps_per_core: full.us.map(per_core),
        us_per_packet_by_thread: full.by_thread,
        capacity_pps: full.pps,
        latency,
        flood,
    })
}

struct FullSpeed {
    pps: f64,
    us: Option<f64>,
    waited_us: Option<f64>,
    by_thread: Vec<threads::Share>,
}

/// A count of arrivals and CPU time, to be subtracted from a later one.
struct Mark {
    delivered: u64,
    at: Duration,
    cpu: Option<threads::Usage>,
}

impl Mark {
    fn set(arrivals: &Arrivals) -> Self {
        Self {
            delivered: arrivals.delivered(),
            at: arrivals.now(),
            cpu: threads::Usage::of_node(),
        }
    }

    /// Packets since then, packets a second, CPU time of the node's threads for each.
    fn until(&self, later: &Self) -> FullSpeed {
        let packets = (later.delivered - self.delivered).max(1) as f64;
        let by_thread = match (&self.cpu, &later.cpu) {
            (Some(before), Some(after)) => after.since(before, packets),
            _ => Vec::new(),
        };
        FullSpeed {
            pps: packets / (later.at.saturating_sub(self.at)).as_secs_f64().max(1e-9),
            us: sum(&by_thread, |share| share.us_per_packet),
            waited_us: sum(&by_thread, |share| share.waited_us_per_packet),
            by_thread,
        }
    }
}

/// None where the system tells nothing of threads.
fn sum(by_thread: &[threads::Share], of: impl Fn(&threads::Share) -> f64) -> Option<f64> {
    (!by_thread.is_empty()).then(|| by_thread.iter().map(of).sum())
}

fn at_full_speed(net: Net, time: Duration, stop: &Stop) -> Result<FullSpeed, BenchError> {
    let arrivals = net.arrivals();
    let all = arrivals.packets();
    let warm = (all as f64 * WARM_UP / 2.0) as u64;
    let speed = net.while_sending(
        |sender| sender.as_fast_as_it_goes(0..all, time.mul_f64(1.0 + WARM_UP), stop),
        |sending| {
            while arrivals.delivered() < warm && !sending.is_over() {
                sending.pause();
            }
            let first = Mark::set(&arrivals);
            // The last ones come while less and less is under way: they say nothing of full speed.
            while !sending.is_over() {
                sending.pause();
            }
            first.until(&Mark::set(&arrivals))
        },
    );
    net.stop();
    stop.check()?;
    Ok(speed.1)
}

fn at_load(net: Net, load: f64, pps: f64, time: Duration, stop: &Stop) -> Result<Latency, BenchError> {
    let arrivals = net.arrivals();
    let wanted = (pps * time.as_secs_f64()) as usize;
    let all = arrivals.packets().min(wanted.max(100));
    let warm = (all as f64 * WARM_UP) as usize;
    let (sent, speed) = net.while_sending(
        |sender| sender.paced(0..all, pps, stop),
        |sending| {
            while arrivals.delivered() < warm as u64 && !sending.is_over() {
                sending.pause();
            }
            let first = Mark::set(&arrivals);
            while !sending.is_over() {
                sending.pause();
            }
            first.until(&Mark::set(&arrivals))
        },
    );
    let lost = arrivals.wait_for(sent.taken, GRACE, stop);
    let late_inside = net.lateness();
    let inside_ms = |share| late_inside.quantile(share).map(|late| late.as_secs_f64() * 1e3);
    net.stop();
    stop.check()?;
    let late = arrivals.late_us(warm..all);
    Ok(Latency {
        load,
        offered_pps: pps,
        node_us_per_packet: speed.us,
        beyond_delay_p50_ms: quantile_ms(&late, 0.5),
        beyond_delay_p99_ms: quantile_ms(&late, 0.99),
        node_late_p50_ms: inside_ms(0.5),
        node_late_p99_ms: inside_ms(0.99),
        waited_for_a_core_us: speed.waited_us,
        lost,
    })
}

fn flooded(net: Net, capacity: f64, time: Duration, stop: &Stop) -> Result<Flood, BenchError> {
    let arrivals = net.arrivals();
    let offered_pps = capacity * FLOOD;
    let after_pps = capacity * AFTER_FLOOD;
    // What goes on after the flood comes from the same stock.
    let wanted = (offered_pps * time.as_secs_f64()) as usize;
    let flood = (arrivals.packets() * 4 / 5).min(wanted);
    let after = flood..(flood + (after_pps * time.as_secs_f64()) as usize).min(arrivals.packets());
    let before = usage().map(|u| u.resident);
    let ((sent, tail), growth) = net.while_sending(
        |sender| {
            let sent = sender.paced(0..flood, offered_pps, stop);
            let tail = sender.paced(after.clone(), after_pps, stop);
            (sent, tail)
        },
        |sending| {
            let mut most = None;
            while !sending.is_over() {
                most = most.max(usage().map(|u| u.resident));
                sending.pause();
            }
            before.zip(most).map(|(a, b)| b.saturating_sub(a) as f64 / 1e6)
        },
    );
    arrivals.wait_for(sent.taken + tail.taken, GRACE, stop);
    let dropped = net.dropped();
    net.stop();
    stop.check()?;
    let late = arrivals.late_us(0..flood);
    Ok(Flood {
        offered_pps,
        refused_before_the_node: sent.refused,
        accepted: sent.taken,
        delivered: late.len() as u64,
        dropped,
        beyond_delay_p50_ms: quantile_ms(&late, 0.5),
        beyond_delay_p99_ms: quantile_ms(&late, 0.99),
        resident_growth_mb: growth,
        recovery_ms: recovery_ms(&arrivals, &sent, after),
    })
}

/// From the end of the flood to the end of the last window whose median was too late.
fn recovery_ms(arrivals: &Arrivals, flood: &Sent, after: std::ops::Range<usize>) -> Option<f64> {
    let window_us = WINDOW.as_micros() as u64;
    let mut windows: Vec<Vec<u64>> = Vec::new();
    for (sent_us, late_us) in arrivals.of(after) {
        let at = (sent_us.saturating_sub(flood.ended_us) / window_us) as usize;
        if windows.len() <= at {
            windows.resize_with(at + 1, Vec::new);
        }
        windows[at].push(late_us.unwrap_or(u64::MAX));
    }
    windows.iter_mut().for_each(|late| late.sort_unstable());
    let bad = |late: &Vec<u64>| {
        late.get(late.len() / 2)
            .is_some_and(|&us| us > RECOVERED.as_micros() as u64)
    };
    let recovered = windows.iter().rposition(bad).map_or(0, |last| last + 1);
    (recovered < windows.len()).then(|| (recovered as u64 * window_us) as f64 / 1e3)
}

/// Of sorted microseconds.
fn quantile_ms(sorted: &[u64], q: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * q).round() as usize;
    sorted.get(at).map_or(f64::NAN, |&us| us as f64 / 1e3)
}

fn text(report: &Report) -> String {
    // Writing to a `String` can't fail.
    let mut out = format!(
        "one mix, 16 peers in and 16 out over loopback, delays of {MEAN_DELAY_MS} ms (exponential), curve: {}, {} cores\n\n",
        report.engine, report.cores
    );
    let number = |n: Option<f64>, digits| n.map_or("not told here".into(), |n| format!("{n:.digits$}"));
    for t in &report.transports {
        let _ = writeln!(
            out,
            "{}: {} CPU us a packet, {} packets/s a core; {:.0} packets/s came through beside the peers",
            t.transport,
            number(t.node_us_per_packet, 1),
            number(t.node_pps_per_core, 0),
            t.capacity_pps
        );
        for share in &t.us_per_packet_by_thread {
            let _ = writeln!(out, "  {:<16} {:6.1} us", share.thread, share.us_per_packet);
        }
        let _ = writeln!(
            out,
            "  load  packets/s  CPU us  beyond the delay: p50 ms  p99 ms  inside: p50 ms  p99 ms  waited for a core us  lost"
        );
        for l in &t.latency {
            let _ = writeln!(
                out,
                "  {:3.0} %  {:9.0}  {:>6}  {:24.2}  {:6.2}  {:>14}  {:>6}  {:>20}  {:4}",
                l.load * 100.0,
                l.offered_pps,
                l.node_us_per_packet.map_or("-".into(), |us| format!("{us:.1}")),
                l.beyond_delay_p50_ms,
                l.beyond_delay_p99_ms,
                number(l.node_late_p50_ms, 2),
                number(l.node_late_p99_ms, 2),
                number(l.waited_for_a_core_us, 0),
                l.lost
            );
        }
        let f = &t.flood;
        let _ = writeln!(
            out,
            "  flood of {:.0} packets/s: {} held back by the senders' links, {} taken, {} delivered, p50 {:.1} ms, p99 {:.1} ms",
            f.offered_pps,
            f.refused_before_the_node,
            f.accepted,
            f.delivered,
            f.beyond_delay_p50_ms,
            f.beyond_delay_p99_ms
        );
        for (reason, n) in &f.dropped {
            let _ = writeln!(out, "    {reason}: {n}");
        }
        let _ = writeln!(
            out,
            "    memory grew by {} MB; {}\n",
            number(f.resident_growth_mb, 0),
            f.recovery_ms.map_or(
                "packets were still late when the measurement ended".into(),
                |ms| format!("no longer late {ms:.0} ms after its end")
            )
        );
    }
    let _ = writeln!(out, "memory to memory\n  workers  packets/s  CPU us a packet");
    for row in &report.pipeline {
        let _ = writeln!(
            out,
            "  {:7}  {:9.0}  {:>15}",
            row.workers,
            row.packets_per_s,
            row.us_per_packet.map_or("-".into(), |us| format!("{us:.1}"))
        );
    }
    if let Some(ratio) = report.pipeline_two_to_one {
        let _ = writeln!(out, "  two against one: {ratio:.2}");
    }
    let _ = writeln!(
        out,
        "a held packet takes {} bytes ({} held)",
        number(report.held_bytes_per_packet, 0),
        report.held_packets
    );
    out
}
