//! The node's core without a network: packets from memory to memory, and memory for packets that are held.

use std::sync::Arc;

use mizzle_base::Rng;
use mizzle_mix::{Config, Input, Mix};
use mizzle_net::clock::{self, Clock};
use serde::Serialize;

use super::peers::Cast;
use super::stock::{self, Stock};
use super::{Stop, threads};
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

fn mix(cast: &Cast, held: usize, clock: Clock, rng: Rng) -> Result<Mix, BenchError> {
    let config = Config::default().with_held_packets(held);
    let document = cast.document(&[])?;
    Mix::new(
        config,
        document,
        cast.node_id()?,
        cast.node_secret(),
        rng,
        clock.now(),
    )
    .map_err(|why| BenchError::Process(why.to_string()))
}

/// All packets of the stock through so many workers, as fast as they go.
pub(super) fn run(cast: &Cast, stock: &Arc<Stock>, workers: usize, stop: &Stop) -> Result<Row, BenchError> {
    let clock = Clock::start();
    let mut mix = mix(cast, stock.len(), clock, clock::rng().map_err(system)?)?;
    let (start, cpu) = (clock.now(), threads::of_this_thread_ns());
    for first in (0..stock.len()).step_by(BATCH) {
        stop.check()?;
        let batch = (first..stock.len().min(first + BATCH))
            .map(|at| stock.packet(at))
            .collect();
        mix.handle(clock.now(), Input::Packets(batch));
        while mix.poll().is_some() {}
    }
    let (seconds, packets) = (clock.now().since(start).as_secs_f64(), stock.len() as f64);
    let cpu = cpu.zip(threads::of_this_thread_ns());
    Ok(Row {
        workers,
        packets_per_s: packets / seconds,
        us_per_packet: cpu.map(|(before, after)| (after - before) as f64 / 1e3 / packets),
    })
}

/// Resident bytes for each of so many packets that are held at once.
pub(super) fn held(cast: &Cast, n: usize, stop: &Stop) -> Result<Option<f64>, BenchError> {
    let clock = Clock::start();
    let before = usage().map(|u| u.resident);
    let mut mix = mix(cast, n, clock, clock::rng().map_err(system)?)?;
    stock::each(cast, n, LONG_MS, stop, |batch| {
        mix.handle(clock.now(), Input::Packets(batch));
        while mix.poll().is_some() {}
        Ok(())
    })?;
    let after = usage().map(|u| u.resident);
    let held = mix.pool() as f64;
    Ok(before
        .zip(after)
        .map(|(before, after)| after.saturating_sub(before) as f64 / held))
}
