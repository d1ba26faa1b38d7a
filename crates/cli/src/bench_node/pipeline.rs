//! The node's workers without a network: packets from memory to memory, and memory for packets that are held.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use mizzle_base::Rng;
use mizzle_mix::{Config, Edges, Key, Worker, WorkerInput};
use mizzle_net::clock::{self, Clock};
use mizzle_sphinx::Dialect;
use serde::Serialize;

use super::peers::Cast;
use super::stock::{self, Stock};
use super::{Stop, threads};
use crate::assemble::fork;
use crate::bench::BenchError;
use crate::process::usage;
use crate::processes::system;

/// Packets that a worker takes at once.
const BATCH: usize = 64;
/// A mean with which nearly all delays are the longest that a header can say: 65 s.
const LONG_MS: f64 = 1e9;

#[derive(Serialize)]
pub(super) struct Row {
    pub(super) workers: usize,
    pub(super) packets_per_s: f64,
    pub(super) us_per_packet: Option<f64>,
}

/// Wall time and CPU time of one worker.
struct Took {
    wall: Duration,
    cpu_ns: Option<u64>,
}

fn worker(cast: &Cast, key: &Arc<Key>, config: &Config, rng: Rng) -> Result<Worker<Edges>, BenchError> {
    let document = cast.document(&[])?;
    let listed = document.node(&cast.node_id()?).ok_or_else(stock::broken)?;
    let mut worker = Worker::new(config, Arc::clone(key), Edges::from(&document, listed), rng);
    worker.tags_are_written_down();
    Ok(worker)
}

/// All packets of the stock through so many workers, as fast as they go; each is copied on its way in, as from a socket.
pub(super) fn run(cast: &Cast, stock: &Arc<Stock>, workers: usize, stop: &Stop) -> Result<Row, BenchError> {
    let clock = Clock::start();
    let mut rng = clock::rng().map_err(system)?;
    let config = Config::default().with_expected_tags(stock.len());
    let key = Arc::new(Key::new(cast.node_secret(), Dialect::Lioness, &config));
    let all: Vec<Worker<Edges>> = (0..workers)
        .map(|_| worker(cast, &key, &config, fork(&mut rng)))
        .collect::<Result<_, _>>()?;
    let (together, share) = (Barrier::new(workers), stock.len().div_ceil(workers));
    let took = thread::scope(|scope| {
        let running: Vec<_> = all
            .into_iter()
            .enumerate()
            .map(|(n, worker)| {
                let (together, range) = (&together, n * share..stock.len().min((n + 1) * share));
                scope.spawn(move || {
                    together.wait();
                    through(worker, stock, range, clock, stop)
                })
            })
            .collect();
        let ended = running
            .into_iter()
            .map(|r| r.join().map_err(|_| stock::broken())?);
        ended.collect::<Result<Vec<Took>, BenchError>>()
    })?;
    let slowest = took.iter().map(|t| t.wall).max().unwrap_or_default();
    let cpu_ns: Option<u64> = took.iter().map(|t| t.cpu_ns).sum();
    let packets = stock.len() as f64;
    Ok(Row {
        workers,
        packets_per_s: packets / slowest.as_secs_f64(),
        us_per_packet: cpu_ns.map(|ns| ns as f64 / 1e3 / packets),
    })
}

fn through(
    mut worker: Worker<Edges>,
    stock: &Stock,
    range: std::ops::Range<usize>,
    clock: Clock,
    stop: &Stop,
) -> Result<Took, BenchError> {
    let (start, cpu) = (clock.now(), threads::of_this_thread_ns());
    let mut batch = Vec::with_capacity(BATCH);
    for first in range.clone().step_by(BATCH) {
        stop.check()?;
        batch.extend((first..range.end.min(first + BATCH)).map(|at| stock.packet(at)));
        worker.handle(clock.now(), WorkerInput::Packets(&mut batch));
        worker.clear_accepted();
        while worker.poll().is_some() {}
    }
    let now = threads::of_this_thread_ns();
    Ok(Took {
        wall: clock.now().since(start),
        cpu_ns: cpu.zip(now).map(|(before, after)| after - before),
    })
}

/// Resident bytes for each of so many packets that are held at once.
pub(super) fn held(cast: &Cast, n: usize, stop: &Stop) -> Result<Option<f64>, BenchError> {
    let clock = Clock::start();
    let before = usage().map(|u| u.resident);
    let config = Config::default().with_held_packets(n).with_expected_tags(n);
    let key = Arc::new(Key::new(cast.node_secret(), Dialect::Lioness, &config));
    let mut worker = worker(cast, &key, &config, clock::rng().map_err(system)?)?;
    stock::each(cast, n, LONG_MS, stop, |mut batch| {
        worker.handle(clock.now(), WorkerInput::Packets(&mut batch));
        worker.clear_accepted();
        while worker.poll().is_some() {}
        Ok(())
    })?;
    let after = usage().map(|u| u.resident);
    let held = worker.pool() as f64;
    Ok(before
        .zip(after)
        .map(|(before, after)| after.saturating_sub(before) as f64 / held))
}
