//! `mizzle bench letters`: many small letters between the clients of a network of processes. Each is unlike any other, so
//! that one that doesn't come, comes twice or comes to somebody else shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use mizzle_base::Profile;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::args::ProfileName;
use crate::bench::{BenchError, json};
use crate::bench_send::{address, failed, strange};
use crate::control::{self, Command, Event, Until};
use crate::processes::{Network, ProcessesNetwork, progress, until_interrupted};

/// Letters of each client that are on their way at once: more than it brings at once, and fewer than it takes commands.
const AT_ONCE: usize = 24;
/// From one line of progress to the next.
const PROGRESS: Duration = Duration::from_secs(5);
/// After the last letter, for one that comes twice.
const AFTER: Duration = Duration::from_secs(5);

/// `mizzle bench letters`.
#[derive(Clone, Debug, Args)]
pub struct LettersRun {
    /// Letters in all
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub letters: u32,
    /// Bytes of each
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=60_000))]
    pub bytes: u32,
    /// Clients, each of which writes to all others
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=32))]
    pub clients: u16,
    /// Which traffic the network's users share
    #[arg(long, value_enum, default_value = "browse")]
    pub profile: ProfileName,
    /// The network
    #[command(flatten)]
    pub network: ProcessesNetwork,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report {
    profile: String,
    clients: u16,
    bytes: u32,
    sent: u32,
    stored: u32,
    received: u32,
    duplicates: u32,
    missing: u32,
    strange: u32,
    stored_s: f64,
    seconds: f64,
    letters_per_s: f64,
}

/// What there is to do, and what was done.
pub(crate) struct Ledger {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
pub(crate) struct State {
    /// For whom, and how often it came.
    letters: BTreeMap<Vec<u8>, (usize, u32)>,
    stored: u32,
    strange: u32,
    last_stored: Option<Instant>,
    last_new: Option<Instant>,
}

impl State {
    /// This letter is to come to this client, once.
    pub(crate) fn expect(&mut self, content: Vec<u8>, to: usize) {
        self.letters.insert(content, (to, 0));
    }

    pub(crate) fn stored(&self) -> u32 {
        self.stored
    }

    pub(crate) fn strange(&self) -> u32 {
        self.strange
    }

    pub(crate) fn last_new(&self) -> Option<Instant> {
        self.last_new
    }

    pub(crate) fn received(&self) -> u32 {
        self.letters.values().map(|(_, came)| (*came).min(1)).sum()
    }

    pub(crate) fn duplicates(&self) -> u32 {
        self.letters
            .values()
            .map(|(_, came)| came.saturating_sub(1))
            .sum()
    }

    pub(crate) fn all_came(&self) -> bool {
        self.stored as usize == self.letters.len() && self.letters.values().all(|(_, came)| *came > 0)
    }

    fn came(&mut self, content: &[u8], to: usize) {
        match self.letters.get_mut(content) {
            Some((whose, times)) if *whose == to => {
                *times += 1;
                if *times == 1 {
                    self.last_new = Some(Instant::now());
                }
            }
            _ => self.strange += 1,
        }
    }
}

impl Ledger {
    pub(crate) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
        }
    }

    /// Tells of each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let done = act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
        done
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs the measurement; the text or JSON to print. Ctrl-C ends it in order.
///
/// # Errors
/// When a process fails, or letters are missing, came twice or changed.
pub async fn run(args: LettersRun) -> Result<String, BenchError> {
    until_interrupted(measure(&args)).await
}

async fn measure(args: &LettersRun) -> Result<String, BenchError> {
    let on_disk = args.network.make(args.profile, args.clients)?;
    let mut network = on_disk.start().await?;
    let clients = usize::from(args.clients);
    let mut addresses = Vec::new();
    for client in 0..clients {
        addresses.push(address(&network, client).await?);
    }
    let mut to_send = vec![Vec::new(); clients];
    let mut state = State::default();
    for number in 0..args.letters {
        let (from, to) = who(number, clients);
        let content = content(number, args.bytes);
        to_send[from].push((addresses[to].clone(), content.clone()));
        state.expect(content, to);
    }
    let ledger = Arc::new(Ledger::new(state));

    let profile = args.profile.profile();
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (client, letters) in to_send.into_iter().enumerate() {
        tasks.spawn(receive(
            network.on_disk().state(client),
            client,
            Arc::clone(&ledger),
        ));
        tasks.spawn(send(
            network.on_disk().state(client),
            letters,
            Arc::clone(&ledger),
        ));
    }
    watch_over(&mut network, &mut tasks, &ledger, (start, stall(&profile))).await?;
    tasks.abort_all();
    network.stop().await;

    let since = |at: Option<Instant>| at.map_or(0.0, |at| (at - start).as_secs_f64());
    let report = ledger.look(|state| {
        let seconds = since(state.last_new);
        Report {
            profile: profile.name.clone(),
            clients: args.clients,
            bytes: args.bytes,
            sent: args.letters,
            stored: state.stored,
            received: state.received(),
            duplicates: state.duplicates(),
            missing: args.letters - state.received(),
            strange: state.strange,
            stored_s: since(state.last_stored),
            seconds,
            letters_per_s: f64::from(state.received()) / seconds.max(1e-3),
        }
    });
    if (report.missing, report.duplicates, report.strange) != (0, 0, 0) {
        return Err(failed(format!(
            "not every letter came once: {}",
            text(&report).trim_end()
        )));
    }
    Ok(if args.json { json(&report) } else { text(&report) })
}

/// From whom to whom: each client in turn, each to all others in turn.
pub(crate) fn who(number: u32, clients: usize) -> (usize, usize) {
    let number = number as usize;
    let (from, round) = (number % clients, number / clients);
    (from, (from + 1 + round % (clients - 1)) % clients)
}

/// Begins with the number, which no other has.
pub(crate) fn content(number: u32, bytes: u32) -> Vec<u8> {
    let number = format!("{number:08}");
    number.bytes().cycle().take(bytes as usize).collect()
}

/// Without any letter stored or received for so long, no more come: a hundred slots, and a minute for the way.
fn stall(profile: &Profile) -> Duration {
    Duration::from_secs(60) + Duration::from_secs_f64(100.0 / profile.payload_per_s)
}

pub(crate) async fn receive(
    state: std::path::PathBuf,
    client: usize,
    ledger: Arc<Ledger>,
) -> Result<(), BenchError> {
    let all = Command::Receive {
        count: None,
        wait: true,
    };
    let mut control = control::connect(&state, all).await.map_err(failed)?;
    loop {
        match control.event().await.map_err(failed)? {
            Event::Letter { .. } => {}
            _ => return Err(strange()),
        }
        let mut content = Vec::new();
        while let Some(data) = control.data().await.map_err(failed)? {
            content.extend(data);
        }
        ledger.change(|state| state.came(&content, client));
        control.written().await.map_err(failed)?;
    }
}

async fn send(
    state: std::path::PathBuf,
    letters: Vec<(String, Vec<u8>)>,
    ledger: Arc<Ledger>,
) -> Result<(), BenchError> {
    let (mut flying, mut letters) = (JoinSet::new(), letters.into_iter());
    loop {
        while flying.len() < AT_ONCE
            && let Some((to, content)) = letters.next()
        {
            let (state, ledger) = (state.clone(), Arc::clone(&ledger));
            flying.spawn(async move { send_one(&state, to, &content, &ledger).await });
        }
        match flying.join_next().await {
            Some(done) => done.map_err(failed)??,
            None => return std::future::pending().await,
        }
    }
}

pub(crate) async fn send_one(
    state: &std::path::Path,
    to: String,
    content: &[u8],
    ledger: &Ledger,
) -> Result<(), BenchError> {
    let command = Command::Send {
        to,
        name: None,
        sign: false,
        until: Until::Stored,
    };
    let mut control = control::connect(state, command).await.map_err(failed)?;
    loop {
        match control.event().await.map_err(failed)? {
            Event::Ready => {
                control.write(content).await.map_err(failed)?;
                control.end().await.map_err(failed)?;
            }
            Event::Queued { .. } | Event::Progress { .. } => {}
            Event::Stored => {
                ledger.change(|state| {
                    state.stored += 1;
                    state.last_stored = Some(Instant::now());
                });
                return Ok(());
            }
            Event::Failed { why } => return Err(failed(format!("a letter can't be brought: {why}"))),
            _ => return Err(strange()),
        }
    }
}

/// Until all have come and none has come for a while, or nothing moves.
async fn watch_over(
    network: &mut Network,
    tasks: &mut JoinSet<Result<(), BenchError>>,
    ledger: &Ledger,
    (start, stall): (Instant, Duration),
) -> Result<(), BenchError> {
    let mut tick = interval(PROGRESS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut changed, mut moved) = (ledger.changed.subscribe(), Instant::now());
    let mut all_came = false;
    loop {
        let end = moved + if all_came { AFTER } else { stall };
        tokio::select! {
            // None ends but by an error.
            Some(ended) = tasks.join_next() => ended.map_err(failed)??,
            _ = changed.changed() => {
                moved = Instant::now();
                all_came = ledger.look(State::all_came);
            }
            () = sleep_until(end) => return Ok(()),
            _ = tick.tick() => {
                network.check()?;
                let (stored, received, all) =
                    ledger.look(|state| (state.stored, state.received(), state.letters.len()));
                progress(&format!(
                    "{:>4} s: {stored} of {all} stored, {received} received",
                    start.elapsed().as_secs()
                ));
            }
        }
    }
}

fn text(r: &Report) -> String {
    format!(
        "{} letters of {} bytes between {} clients in `{}`: {:.1} s, {:.1} letters/s (all stored after {:.1} s)\n\
         {} sent, {} stored, {} received, {} duplicates, {} missing, {} changed or for somebody else\n",
        r.sent,
        r.bytes,
        r.clients,
        r.profile,
        r.seconds,
        r.letters_per_s,
        r.stored_s,
        r.sent,
        r.stored,
        r.received,
        r.duplicates,
        r.missing,
        r.strange
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_client_writes_to_all_others_and_never_to_itself() {
        for clients in 2..6 {
            let pairs: BTreeSet<_> = (0..1_000).map(|n| who(n, clients)).collect();
            assert_eq!(pairs.len(), clients * (clients - 1));
            assert!(pairs.iter().all(|(from, to)| from != to && *to < clients));
        }
    }

    #[test]
    fn every_letter_is_unlike_the_others_even_when_short() {
        let all: BTreeSet<_> = (0..1_000).map(|n| content(n, 8)).collect();
        assert_eq!(all.len(), 1_000);
        assert_eq!(content(7, 200).len(), 200);
    }

    #[test]
    fn what_comes_twice_or_to_somebody_else_is_counted() {
        let mut state = State::default();
        for n in 0..3 {
            state.letters.insert(content(n, 8), (1, 0));
        }
        state.stored = 3;
        state.came(&content(0, 8), 1);
        state.came(&content(1, 8), 1);
        assert!(!state.all_came());
        state.came(&content(1, 8), 1);
        state.came(&content(2, 8), 0);
        state.came(b"other", 1);
        assert_eq!((state.received(), state.duplicates(), state.strange), (2, 1, 2));
        state.came(&content(2, 8), 1);
        assert!(state.all_came());
    }
}
