//! `mizzle bench killed`: a part of the mixes of a running network of processes is killed, as `kill -9` does it, while files
//! are downloaded and letters sent through it: what stands still, what is lost, and when routes avoid the dead.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use mizzle_net::clock;
use mizzle_traffic::draw;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::args::{ProfileName, TransportName};
use crate::bench::{BenchError, json};
use crate::bench_letters::{self, Ledger, State};
use crate::bench_send::{address, ask, failed, strange};
use crate::control::{Command, Event};
use crate::http;
use crate::processes::{Network, OnDisk, Shape, progress, until_interrupted};
use crate::status::{ClientStatus, Status};

/// The first client downloads; the others write to each other.
const DOWNLOADS: usize = 0;
const CLIENTS: u16 = 3;
/// Before the kill: loops have ended by then, and nodes have published what they tell.
const BEFORE: Duration = Duration::from_secs(15);
/// Between two looks at what routes leave out.
const LOOK: Duration = Duration::from_millis(250);
/// Between two lines of the table, and the last of it.
const LINE_S: u64 = 2;
const LAST_LINE_S: u64 = 20;
/// Letters are posted over the time from the begin of the download to so long after the kill.
const LETTERS_AFTER: Duration = Duration::from_secs(30);
/// After that nothing moves any more.
const LIMIT: Duration = Duration::from_secs(240);
/// New routes are to avoid the dead within so many loops through each layer, or within the time that is asked for.
const WANTED_LOOPS: u64 = 20;

/// `mizzle bench killed`.
#[derive(Clone, Debug, Args)]
pub struct KilledRun {
    /// Which traffic the network's users share
    #[arg(long, value_enum, default_value = "browse")]
    pub profile: ProfileName,
    /// How nodes talk to each other
    #[arg(long, value_enum, default_value = "quic")]
    pub transport: TransportName,
    /// Mixes in each of the three layers
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=16), value_name = "N")]
    pub mixes_per_layer: u16,
    /// How many of all mixes are killed, in percent, rounded up; one of each layer lives
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=50), value_name = "PERCENT")]
    pub percent: u16,
    /// Letters in all, before, while and after mixes die
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000), value_name = "N")]
    pub letters: u32,
    /// Bytes of the download that is under way
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(10_000..=1_000_000_000), value_name = "N")]
    pub bytes: u64,
    /// New routes must avoid the dead within so many seconds, or 20 loops through each layer
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60), value_name = "SECONDS")]
    pub within_s: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a client's routes were like at a moment after the kill.
#[derive(Clone, Copy, Serialize)]
struct Look {
    seconds: f64,
    /// Of its loops that ended since the kill.
    loops: u64,
    lost: u64,
    /// Share of the routes drawn now that pass a dead mix.
    dead_share: f64,
    /// Living mixes that it leaves out.
    living_left_out: usize,
}

#[derive(Serialize)]
struct Client {
    client: usize,
    /// From the kill until its routes leave out all that are dead.
    avoids_after_s: Option<f64>,
    /// Loops that it had sent by then since the kill: each passes each layer once.
    avoids_after_loops: Option<u64>,
    looks: Vec<Look>,
}

#[derive(Serialize)]
struct Report {
    profile: String,
    mixes: usize,
    killed: Vec<String>,
    download_bytes: u64,
    download_right: bool,
    download_s: f64,
    download_after_kill_s: f64,
    longest_stall_s: f64,
    new_stream_s: f64,
    letters: u32,
    stored: u32,
    received: u32,
    duplicates: u32,
    missing: u32,
    last_letter_s: f64,
    slowest_avoids_s: Option<f64>,
    slowest_avoids_loops: Option<u64>,
    wanted_s: u64,
    as_wanted: bool,
    clients: Vec<Client>,
}

/// Runs the measurement; the text or JSON to print. Ctrl-C ends it in order.
///
/// # Errors
/// When a process fails that wasn't killed, or anything was not as wanted: what was found is said all the same.
pub async fn run(args: KilledRun) -> Result<String, BenchError> {
    until_interrupted(measure(&args)).await
}

async fn measure(args: &KilledRun) -> Result<String, BenchError> {
    let on_disk = OnDisk::make(&Shape {
        profile: args.profile,
        transport: args.transport,
        mixes_per_layer: args.mixes_per_layer,
        gateways: 3,
        exits: 3,
        clients: CLIENTS,
        reaches_this_machine: true,
    })?;
    let server = http::Server::start().await.map_err(crate::processes::system)?;
    let mut network = on_disk.start().await?;
    let proxy = network.socks(DOWNLOADS)?;
    let mut addresses = Vec::new();
    for client in 0..usize::from(CLIENTS) {
        addresses.push(address(&network, client).await?);
    }
    progress(&format!("{} s of cover alone", BEFORE.as_secs()));
    sleep(BEFORE).await;

    let start = Instant::now();
    let download = tokio::spawn(http::download(proxy, server.address(), args.bytes, 1));
    let (ledger, mut letters) = post(&network, args, &addresses, start);
    // In the middle of what is under way.
    sleep(Duration::from_secs(3)).await;
    let victims = victims(&network, args)?;
    let ids: BTreeSet<String> = victims.iter().map(|(_, id)| id.clone()).collect();
    let names: Vec<String> = victims.into_iter().map(|(name, _)| name).collect();
    network.kill(&names).await?;
    let killed = Instant::now();
    progress(&format!("killed {}", names.join(", ")));

    let mut watching = JoinSet::new();
    for client in 0..usize::from(CLIENTS) {
        let watch = Watch {
            state: network.on_disk().state(client),
            layers: layers(&network),
            dead: ids.clone(),
            killed,
            until_s: LAST_LINE_S.max(args.within_s),
        };
        watching.spawn(watch.run(client));
    }
    let mut clients = Vec::new();
    while let Some(watched) = watching.join_next().await {
        clients.push(watched.map_err(failed)??);
    }
    clients.sort_by_key(|watched| watched.client);
    let begun = Instant::now();
    let new = timeout(LIMIT, http::download(proxy, server.address(), 1_000, 2)).await;
    let new = new.map_err(failed)?.map_err(failed)?;
    let new_stream_s = begun.elapsed().as_secs_f64();

    let downloaded = timeout(LIMIT, download).await.map_err(failed)?.map_err(failed)?;
    let download_s = start.elapsed().as_secs_f64().min(LIMIT.as_secs_f64());
    let downloaded = downloaded.map_err(failed)?;
    wait_for_letters(&mut network, &mut letters, &ledger).await?;
    letters.abort_all();
    network.stop().await;

    let (avoided, loops): (Option<Vec<f64>>, Option<Vec<u64>>) = (
        clients.iter().map(|c| c.avoids_after_s).collect(),
        clients.iter().map(|c| c.avoids_after_loops).collect(),
    );
    let slowest_s = avoided.map(|all| all.into_iter().fold(0.0, f64::max));
    let slowest_loops = loops.and_then(|all| all.into_iter().max());
    let in_time = slowest_s.is_some_and(|s| s <= args.within_s as f64)
        || slowest_loops.is_some_and(|n| n <= WANTED_LOOPS);
    let report = ledger.look(|state| {
        let missing = args.letters - state.received();
        let once = (missing, state.duplicates(), state.strange()) == (0, 0, 0);
        Report {
            profile: args.profile.profile().name,
            mixes: 3 * usize::from(args.mixes_per_layer),
            killed: names,
            download_bytes: args.bytes,
            download_right: downloaded.right,
            download_s: downloaded.whole.as_secs_f64().min(download_s),
            download_after_kill_s: (start + downloaded.whole).duration_since(killed).as_secs_f64(),
            longest_stall_s: downloaded.longest_stall.as_secs_f64(),
            new_stream_s,
            letters: args.letters,
            stored: state.stored(),
            received: state.received(),
            duplicates: state.duplicates(),
            missing,
            last_letter_s: state.last_new().map_or(0.0, |at| (at - killed).as_secs_f64()),
            slowest_avoids_s: slowest_s,
            slowest_avoids_loops: slowest_loops,
            wanted_s: args.within_s,
            as_wanted: in_time && once && downloaded.right && new.right,
            clients,
        }
    });
    if !report.as_wanted {
        return Err(failed(format!("not as wanted: {}", text(&report).trim_end())));
    }
    Ok(if args.json { json(&report) } else { text(&report) })
}

/// Begins to post the letters of all clients but the one that downloads, evenly in time.
fn post(
    network: &Network,
    args: &KilledRun,
    addresses: &[String],
    start: Instant,
) -> (Arc<Ledger>, JoinSet<Result<(), BenchError>>) {
    let writers = usize::from(CLIENTS) - 1;
    let mut state = State::default();
    let mut to_send = Vec::new();
    for number in 0..args.letters {
        let (from, to) = bench_letters::who(number, writers);
        let content = bench_letters::content(number, 200);
        state.expect(content.clone(), to + 1);
        to_send.push((from + 1, addresses[to + 1].clone(), content));
    }
    let ledger = Arc::new(Ledger::new(state));
    let mut tasks = JoinSet::new();
    for client in 1..=writers {
        let state = network.on_disk().state(client);
        tasks.spawn(bench_letters::receive(state, client, Arc::clone(&ledger)));
    }
    let apart = (Duration::from_secs(3) + LETTERS_AFTER) / args.letters;
    for ((from, to, content), n) in to_send.into_iter().zip(0..) {
        let (state, ledger) = (network.on_disk().state(from), Arc::clone(&ledger));
        tasks.spawn(async move {
            tokio::time::sleep_until(start + apart * n).await;
            bench_letters::send_one(&state, to, &content, &ledger).await?;
            std::future::pending().await
        });
    }
    (ledger, tasks)
}

async fn wait_for_letters(
    network: &mut Network,
    tasks: &mut JoinSet<Result<(), BenchError>>,
    ledger: &Ledger,
) -> Result<(), BenchError> {
    let mut changed = ledger.subscribe();
    let end = Instant::now() + LIMIT;
    while !ledger.look(State::all_came) && Instant::now() < end {
        tokio::select! {
            // None ends but by an error.
            Some(ended) = tasks.join_next() => ended.map_err(failed)??,
            _ = changed.changed() => {}
            () = sleep(Duration::from_secs(5)) => {
                network.check()?;
                let (stored, received) = ledger.look(|state| (state.stored(), state.received()));
                progress(&format!("{stored} letters stored, {received} received"));
            }
        }
    }
    // For one that comes twice.
    sleep(Duration::from_secs(5)).await;
    Ok(())
}

/// The ids of all mixes, by layer.
fn layers(network: &Network) -> Vec<Vec<String>> {
    let document = network.on_disk().document();
    (1..=3)
        .map(|layer| document.layer(layer).map(|mix| mix.id.to_string()).collect())
        .collect()
}

/// Name and id of mixes that are to die, drawn evenly: so many of all, and one of each layer lives.
fn victims(network: &Network, args: &KilledRun) -> Result<Vec<(String, String)>, BenchError> {
    let mut rng = clock::rng().map_err(crate::processes::system)?;
    let layers: Vec<Vec<(String, String)>> = layers(network)
        .into_iter()
        .map(|ids| {
            let named = ids
                .into_iter()
                .filter_map(|id| Some((network.on_disk().name_of(&id)?, id)));
            named.collect()
        })
        .collect();
    let all: usize = layers.iter().map(Vec::len).sum();
    let n = (all * usize::from(args.percent))
        .div_ceil(100)
        .min(all.saturating_sub(3));
    loop {
        let mut left = layers.concat();
        let dead: Vec<_> = (0..n)
            .map(|_| left.swap_remove(draw::below(&mut rng, left.len())))
            .collect();
        if layers
            .iter()
            .all(|layer| layer.iter().any(|mix| !dead.contains(mix)))
        {
            return Ok(dead);
        }
    }
}

struct Watch {
    state: PathBuf,
    layers: Vec<Vec<String>>,
    dead: BTreeSet<String>,
    killed: Instant,
    until_s: u64,
}

impl Watch {
    /// Looks at a client's routes until some time after they avoid the dead.
    async fn run(self, client: usize) -> Result<Client, BenchError> {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let first = self.ask(client).await?;
        let mut watched = Client {
            client: client + 1,
            avoids_after_s: None,
            avoids_after_loops: None,
            looks: Vec::new(),
        };
        let mut next_line_s = 0;
        while next_line_s <= self.until_s {
            tick.tick().await;
            let status = self.ask(client).await?;
            let look = self.look(&first, &status);
            if look.seconds >= next_line_s as f64 {
                next_line_s += LINE_S;
                watched.looks.push(look);
            }
            if look.dead_share <= 0.0 && watched.avoids_after_s.is_none() {
                watched.avoids_after_s = Some(look.seconds);
                watched.avoids_after_loops = Some(status.loops.sent.saturating_sub(first.loops.sent));
                watched.looks.push(look);
            }
        }
        Ok(watched)
    }

    async fn ask(&self, client: usize) -> Result<ClientStatus, BenchError> {
        match ask(&self.state, client, Command::Status).await?.map_err(failed)? {
            Event::Status { status } => match serde_json::from_value(status) {
                Ok(Status::Client(status)) => Ok(*status),
                _ => Err(strange()),
            },
            _ => Err(strange()),
        }
    }

    fn look(&self, first: &ClientStatus, now: &ClientStatus) -> Look {
        let left_out: BTreeSet<&str> = now
            .nodes
            .iter()
            .filter(|node| node.left_out)
            .map(|node| node.node.as_str())
            .collect();
        let alive: f64 = self
            .layers
            .iter()
            .map(|layer| alive(layer, &self.dead, &left_out))
            .product();
        let ended = |status: &ClientStatus| status.loops.returned + status.loops.lost;
        Look {
            seconds: self.killed.elapsed().as_secs_f64(),
            loops: ended(now).saturating_sub(ended(first)),
            lost: now.loops.lost.saturating_sub(first.loops.lost),
            dead_share: 1.0 - alive,
            living_left_out: left_out.iter().filter(|id| !self.dead.contains(**id)).count(),
        }
    }
}

/// The share of the routes of a layer that pass a living mix: they are drawn evenly among those that aren't left out.
fn alive(layer: &[String], dead: &BTreeSet<String>, left_out: &BTreeSet<&str>) -> f64 {
    let open = layer.iter().filter(|id| !left_out.contains(id.as_str()));
    let (mut all, mut good) = (0.0, 0.0);
    for id in open {
        all += 1.0;
        good += f64::from(u8::from(!dead.contains(id)));
    }
    if all > 0.0 { good / all } else { 0.0 }
}

fn text(r: &Report) -> String {
    let mut out = format!(
        "{} of {} mixes killed at once in `{}`: {}\n\n",
        r.killed.len(),
        r.mixes,
        r.profile,
        r.killed.join(", ")
    );
    let right = if r.download_right {
        "every byte right"
    } else {
        "WRONG BYTES"
    };
    // Writing to a string doesn't fail.
    let _ = writeln!(
        out,
        "the download of {} bytes that was under way: {right}, {:.1} s, {:.1} s of them after the kill; longest stall {:.1} s\n\
         a new one of 1,000 bytes after that: {:.2} s\n\
         {} letters from before the kill to 30 s after it: {} stored, {} received, {} twice, {} missing; the last came {:.1} s after the kill",
        r.download_bytes,
        r.download_s,
        r.download_after_kill_s,
        r.longest_stall_s,
        r.new_stream_s,
        r.letters,
        r.stored,
        r.received,
        r.duplicates,
        r.missing,
        r.last_letter_s
    );
    let wanted = format!("(wanted: {} s, or {WANTED_LOOPS} loops)", r.wanted_s);
    let _ = match r.slowest_avoids_s.zip(r.slowest_avoids_loops) {
        Some((s, loops)) => writeln!(
            out,
            "new routes of all clients avoid the dead {s:.1} s after the kill, after {loops} loops through each layer {wanted}"
        ),
        None => writeln!(out, "new routes of a client pass dead mixes to the end {wanted}"),
    };
    for client in &r.clients {
        let _ = writeln!(
            out,
            "\nclient-{}   after   loops that ended   lost   routes over the dead   living left out",
            client.client
        );
        for look in &client.looks {
            let _ = writeln!(
                out,
                "{:>15.1} s {:>18} {:>6} {:>20.0} % {:>17}",
                look.seconds,
                look.loops,
                look.lost,
                100.0 * look.dead_share,
                look.living_left_out
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_routes_over_the_dead_is_that_of_an_even_draw() {
        let layer: Vec<String> = ["a", "b", "c", "d"].map(String::from).into();
        let dead: BTreeSet<String> = ["a", "b"].map(String::from).into();
        let out = |ids: &[&'static str]| ids.iter().copied().collect::<BTreeSet<&str>>();
        assert_eq!(alive(&layer, &dead, &out(&[])), 0.5);
        assert_eq!(alive(&layer, &dead, &out(&["a"])), 2.0 / 3.0);
        assert_eq!(alive(&layer, &dead, &out(&["a", "b", "c"])), 1.0);
        assert_eq!(alive(&layer, &dead, &out(&["c", "d"])), 0.0);
    }
}
