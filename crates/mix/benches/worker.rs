//! What a worker costs beside the curve, and how workers share a key: `cargo bench -p mizzle-mix`, all of it, or with
//! some of the words `tags`, `held` and `threads` behind `--`.
//!
//! - `tags`: one check of a replay tag at 10⁸ of them, in batches of 64, which takes 1.2 GB; with a table that was made for so
//!   many and with one that grew. `tags=N` for another number.
//! - `held`: memory for each of a million held packets (4.7 GB), and the time to put one in and take it out. `held=N` for
//!   another number.
//! - `threads`: packets a second from memory to memory, with one worker and with two that share key and queue; crypto,
//!   replay check and delay included, no sockets.
//!
//! Rounds of what is compared take turns, so that a busy neighbour meets all of them.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and fails by stopping"
)]

use std::hint::black_box;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use mizzle_base::{Rng, Time};
use mizzle_mix::{Config, Key, ReplayTags, Routing, Verdict, Worker, WorkerInput};
use mizzle_sphinx::{ADDRESS_LEN, Dialect, Hop, Outgoing, Packet, PublicKey, SecretKey, build_batch};
use mizzle_traffic::draw;
use rand_core::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

const BATCH: usize = 64;

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    // The number behind the word, if the word was said or none was.
    let asked = |what: &str, default: usize| {
        let said = words.iter().find_map(|word| {
            let rest = word.strip_prefix(what)?;
            Some(rest.strip_prefix('=').map_or(default, |n| n.parse().unwrap()))
        });
        said.or(words.is_empty().then_some(default))
    };
    if let Some(n) = asked("tags", 100_000_000) {
        tags(n);
    }
    if let Some(n) = asked("held", 1_000_000) {
        held(n);
    }
    if asked("threads", 0).is_some() {
        threads();
    }
}

fn row(what: &str, value: f64, unit: &str) {
    println!("{what:<58} {value:>10.1} {unit}");
}

/// Resident memory of this process, in bytes; zero where the system doesn't tell.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kb.unwrap_or(0) * 1_024
}

fn random_tags(rng: &mut Rng, out: &mut [[u8; 32]; BATCH]) {
    out.iter_mut().for_each(|tag| rng.fill_bytes(tag));
}

fn tags(n: usize) {
    /// Batches that are timed together, and how often.
    const GROUP: usize = 16;
    const ROUNDS: usize = 16;
    let rng = &mut Rng::seed_from_u64(1);
    let mut batch = [[0; 32]; BATCH];
    random_tags(rng, &mut batch);
    let hash = |name: &str, one: &dyn Fn(&[u8; 32]) -> u64| {
        let round = || {
            let start = Instant::now();
            for tag in &batch {
                black_box(one(black_box(tag)));
            }
            start.elapsed()
        };
        let least = (0..10_000).map(|_| round()).min().unwrap_or_default();
        row(name, least.as_nanos() as f64 / BATCH as f64, "ns");
    };
    let sip = siphasher::sip::SipHasher24::new_with_keys(1, 2);
    hash("64 bits of a tag under a secret, SipHash-2-4", &|tag| {
        sip.hash(tag)
    });
    hash("the same, SHA-256", &|tag| {
        let digest = Sha256::new().chain_update([7; 32]).chain_update(tag).finalize();
        u64::from_le_bytes(digest[..8].try_into().unwrap())
    });
    for (what, expected) in [("made for so many", n), ("grown to so many", 1 << 18)] {
        let before = resident();
        // As many more are put in while it is measured.
        let more = (n / 800).max(GROUP * BATCH);
        let table = ReplayTags::new(&[1; 32], expected, n + ROUNDS * more);
        let mut verdicts = Vec::new();
        let mut put = |table: &ReplayTags, count: usize| {
            let mut time = Duration::ZERO;
            let mut least = Duration::MAX;
            for round in 0..count / BATCH {
                random_tags(rng, &mut batch);
                let start = Instant::now();
                verdicts.clear();
                table.admit(&batch, &mut verdicts, None);
                time += start.elapsed();
                if (round + 1) % GROUP == 0 {
                    least = least.min(time);
                    time = Duration::ZERO;
                }
                assert!(verdicts.iter().all(|v| *v == Verdict::New));
            }
            least.as_nanos() as f64 / (GROUP * BATCH) as f64
        };
        put(&table, n);
        let mut ns = Vec::new();
        for _ in 0..ROUNDS {
            ns.push(put(&table, more));
        }
        ns.sort_by(f64::total_cmp);
        row(
            &format!("check of a new tag at {n} tags, {what}: median"),
            ns[ROUNDS / 2],
            "ns",
        );
        row("  least of the rounds", ns[0], "ns");
        row(
            "  bytes a tag",
            (resident() - before) as f64 / table.remembered() as f64,
            "",
        );
    }
}

struct Anywhere;

impl Routing for Anywhere {
    type Hop = u8;

    fn next_hop(&self, address: &[u8; ADDRESS_LEN]) -> Option<u8> {
        Some(address[0])
    }

    fn delay(&self, _: &mut Rng, delay_ms: u16) -> Duration {
        Duration::from_millis(delay_ms.into())
    }
}

fn worker(key: &Arc<Key>, held: usize) -> Worker<Anywhere> {
    let config = Config::default()
        .with_held_packets(held)
        .with_tick(Duration::from_micros(128));
    Worker::new(&config, Arc::clone(key), Anywhere, Rng::seed_from_u64(2))
}

fn held(n: usize) {
    let key = Arc::new(Key::new(
        SecretKey::from_bytes([1; 32]),
        Dialect::Lioness,
        &Config::default(),
    ));
    let mut worker = worker(&key, n);
    let rng = &mut Rng::seed_from_u64(3);
    let start = Time::from_s(1_000_000);
    let before = resident();
    for _ in 0..n {
        let mut packet = Packet::zeroed();
        // Written to, as a packet from a link is.
        rng.fill_bytes(&mut packet.as_bytes_mut()[..64]);
        packet.as_bytes_mut()[4_607] = 1;
        let at = start + Duration::from_secs_f64(draw::exponential(rng, 20.0));
        worker.handle(start, WorkerInput::Hold { at, to: 1, packet });
    }
    assert_eq!(worker.pool(), n);
    row(
        &format!("{n} held packets"),
        (resident() - before) as f64 / 1e9,
        "GB",
    );
    row("  each", (resident() - before) as f64 / n as f64, "bytes");
    // One leaves, one comes, n times; the boxes are the same ones.
    let (mut now, mut packets) = (start, Vec::new());
    let began = Instant::now();
    let mut passed = 0;
    while passed < n {
        now = now + Duration::from_micros(128);
        worker.handle(now, WorkerInput::Tick);
        while let Some(mizzle_mix::Outcome::Forward { packet, .. }) = worker.poll() {
            packets.push(packet);
        }
        for packet in packets.drain(..) {
            passed += 1;
            let at = now + Duration::from_secs_f64(draw::exponential(rng, 20.0));
            worker.handle(now, WorkerInput::Hold { at, to: 1, packet });
        }
    }
    row(
        "  out and in again, each",
        began.elapsed().as_nanos() as f64 / passed as f64,
        "ns",
    );
}

/// Packets for one hop, of routes of five.
fn packets(rng: &mut Rng, me: &PublicKey, n: usize) -> Vec<Packet> {
    let keys: Vec<_> = (2..6).map(|k| SecretKey::from_bytes([k; 32]).public()).collect();
    let address = [1; ADDRESS_LEN];
    let mut packets: Vec<_> = (0..n).map(|_| Packet::zeroed()).collect();
    for packets in packets.chunks_mut(BATCH) {
        let routes: Vec<Vec<_>> = packets
            .iter()
            .map(|_| {
                let delay_ms = draw::delay_ms(rng, 20.0);
                std::iter::once(me)
                    .chain(&keys)
                    .zip([delay_ms, 0, 0, 0, 0])
                    .map(|(key, delay_ms)| Hop {
                        key,
                        address: &address,
                        delay_ms,
                    })
                    .collect()
            })
            .collect();
        let mut outgoing: Vec<_> = packets
            .iter_mut()
            .zip(&routes)
            .map(|(packet, route)| Outgoing {
                route,
                destination: &address,
                packet,
            })
            .collect();
        build_batch(Dialect::Lioness, rng, &mut outgoing).unwrap();
    }
    packets
}

fn threads() {
    const N: usize = 1 << 13;
    const ROUNDS: u8 = 16;
    let rng = &mut Rng::seed_from_u64(4);
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        // Each packet is used once for each number of workers, under a key of its own.
        let secret = || SecretKey::from_bytes([100 + round; 32]);
        let packets = packets(rng, &secret().public(), N);
        for (workers, rates) in [1, 2].into_iter().zip(&mut rates) {
            let key = Arc::new(Key::new(secret(), Dialect::Lioness, &Config::default()));
            let copies = packets
                .iter()
                .map(|p| Packet::try_from_slice(p.as_bytes()).unwrap());
            let queue = Mutex::new(copies.collect::<Vec<_>>());
            let start = Barrier::new(workers + 1);
            let took = std::thread::scope(|scope| {
                for _ in 0..workers {
                    scope.spawn(|| pass_on(&key, &queue, &start));
                }
                start.wait();
                let began = Instant::now();
                start.wait();
                began.elapsed()
            });
            assert_eq!(key.accepted(), N);
            rates.push(N as f64 / took.as_secs_f64());
        }
    }
    for (workers, rates) in [1, 2].into_iter().zip(&mut rates) {
        rates.sort_by(f64::total_cmp);
        let what = format!("memory to memory, {workers} worker(s), most of the rounds");
        row(&what, rates[rates.len() - 1], "packets/s");
        row("  median", rates[rates.len() / 2], "packets/s");
    }
    let best = |n: usize| rates[n][rates[n].len() - 1];
    row("two workers to one, most", best(1) / best(0), "");
    let middle = |n: usize| rates[n][rates[n].len() / 2];
    row("two workers to one, medians", middle(1) / middle(0), "");
}

/// Takes from the queue until it is empty, and lets time pass until all have left.
fn pass_on(key: &Arc<Key>, queue: &Mutex<Vec<Packet>>, start: &Barrier) {
    let mut worker = worker(key, 1 << 16);
    let began = Instant::now();
    let now = || Time::from_s(1_000_000) + began.elapsed();
    let mut batch = Vec::with_capacity(BATCH);
    start.wait();
    loop {
        {
            let mut queue = queue.lock().unwrap();
            let rest = queue.len().saturating_sub(BATCH);
            batch.extend(queue.drain(rest..));
        }
        if batch.is_empty() {
            break;
        }
        worker.handle(now(), WorkerInput::Packets(&mut batch));
        while let Some(outcome) = worker.poll() {
            drop(black_box(outcome));
        }
    }
    // Those that are held are not waited for: their delay is no work.
    while let Some(at) = worker.deadline() {
        worker.handle(at, WorkerInput::Tick);
        while let Some(outcome) = worker.poll() {
            drop(black_box(outcome));
        }
    }
    start.wait();
}
