//! Workers: any mixture of packets in any batches gives what one at a time gives; several with one key; two keys at once;
//! another routing than the document's.
//!
//! All randomness has a seed, which stands in the message of a failed assertion or in proptest's report.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::montgomery::MontgomeryPoint;
use mizzle_base::{Counters, Rng, Time, hex};
use mizzle_mix::{Config, Key, Outcome, Routing, Worker, WorkerInput as Input};
use mizzle_sphinx::{
    ADDRESS_LEN, Dialect, Hop, MESSAGE_LEN, PACKET_LEN, Packet, PublicKey, SecretKey, build, build_surb, pad,
    use_surb,
};
use mizzle_traffic::draw;
use proptest::prelude::*;
use rand_core::{Rng as _, SeedableRng as _};

const START: Time = Time::from_s(15_000);
/// The worker whose packets these are; others are numbered from 1.
const ME: u8 = 100;

fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn address(n: u8) -> [u8; ADDRESS_LEN] {
    let mut address = [0; ADDRESS_LEN];
    address[0] = n;
    address
}

/// Nodes 1 to 9 are known, by the first byte of their address.
struct Nine;

impl Routing for Nine {
    type Hop = u8;

    fn next_hop(&self, address: &[u8; ADDRESS_LEN]) -> Option<u8> {
        Some(address[0]).filter(|n| (1..10).contains(n))
    }

    fn delay(&self, _: &mut Rng, delay_ms: u16) -> Duration {
        Duration::from_millis(delay_ms.into())
    }
}

/// The delay field is a mean, and every hop draws for itself.
struct Drawn;

impl Routing for Drawn {
    type Hop = u8;

    fn next_hop(&self, address: &[u8; ADDRESS_LEN]) -> Option<u8> {
        Nine.next_hop(address)
    }

    fn delay(&self, rng: &mut Rng, delay_ms: u16) -> Duration {
        Duration::from_secs_f64(draw::exponential(rng, f64::from(delay_ms)) / 1_000.0)
    }
}

fn key(n: u8) -> Arc<Key> {
    Arc::new(Key::new(secret(n), Dialect::Lioness, &Config::default()))
}

fn worker(key: &Arc<Key>, seed: u64) -> Worker<Nine> {
    let mut worker = Worker::new(
        &Config::default(),
        Arc::clone(key),
        Nine,
        Rng::seed_from_u64(seed),
    );
    worker.tags_are_written_down();
    worker
}

/// A route of three from `from` on, to the first with `delay_ms`, then over node `next`.
fn packet(rng: &mut Rng, from: u8, next: u8, delay_ms: u16) -> Packet {
    let keys: Vec<PublicKey> = [from, next, 2].iter().map(|n| secret(*n).public()).collect();
    let addresses = [address(from), address(next), address(2)];
    let hops: Vec<_> = keys
        .iter()
        .zip(&addresses)
        .zip([delay_ms, 0, 0])
        .map(|((key, address), delay_ms)| Hop {
            key,
            address,
            delay_ms,
        })
        .collect();
    let (mut packet, mut message) = (Packet::zeroed(), [0; MESSAGE_LEN]);
    pad(Dialect::Lioness, &draw::bytes::<8>(rng), &mut message).unwrap();
    build(Dialect::Lioness, rng, &hops, &address(200), &message, &mut packet).unwrap();
    packet
}

/// What arrives at its last hop here: peeled by the two hops before it.
fn arriving(rng: &mut Rng, as_reply: bool) -> Packet {
    let keys: Vec<PublicKey> = [1, 2, ME].iter().map(|n| secret(*n).public()).collect();
    let addresses = [address(1), address(2), address(ME)];
    let hops: Vec<_> = keys
        .iter()
        .zip(&addresses)
        .map(|(key, address)| Hop {
            key,
            address,
            delay_ms: 0,
        })
        .collect();
    let (mut packet, mut message) = (Packet::zeroed(), [0; MESSAGE_LEN]);
    pad(Dialect::Lioness, &draw::bytes::<8>(rng), &mut message).unwrap();
    if as_reply {
        let id = draw::bytes(rng);
        let (surb, _) = build_surb(Dialect::Lioness, rng, &hops, &id).unwrap();
        use_surb(Dialect::Lioness, surb, &message, &mut packet);
    } else {
        build(Dialect::Lioness, rng, &hops, &address(200), &message, &mut packet).unwrap();
    }
    for n in [1, 2] {
        let mut worker = Worker::new(&Config::default(), key(n), Anywhere, Rng::seed_from_u64(0));
        worker.handle(START, Input::Packets(&mut vec![packet]));
        match worker.poll() {
            Some(Outcome::Forward { packet: inner, .. }) => packet = inner,
            _ => panic!("it isn't forwarded"),
        }
    }
    packet
}

struct Anywhere;

impl Routing for Anywhere {
    type Hop = ();

    fn next_hop(&self, _: &[u8; ADDRESS_LEN]) -> Option<()> {
        Some(())
    }

    fn delay(&self, _: &mut Rng, _: u16) -> Duration {
        Duration::ZERO
    }
}

fn copy(packet: &Packet) -> Packet {
    Packet::try_from_slice(packet.as_bytes()).unwrap()
}

/// All that a worker says of what it was told: the counts, and each thing it was done with, by its bytes.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    counters: Counters,
    tags: Vec<u64>,
    done: BTreeMap<Vec<u8>, String>,
}

impl Seen {
    fn take(&mut self, worker: &mut Worker<Nine>, now: Time) {
        self.counters.merge(&worker.take_counters());
        self.tags.extend(worker.accepted());
        worker.clear_accepted();
        while let Some(outcome) = worker.poll() {
            let (packet, what) = match outcome {
                Outcome::Forward { to, packet } => (packet, format!("to {to} at {now}")),
                Outcome::Exit { destination, packet } => (packet, format!("exit {}", destination[0])),
                Outcome::Reply { id, packet } => (packet, format!("reply {}", hex::encode(&id))),
            };
            let bytes = packet.as_bytes().to_vec();
            assert_eq!(self.done.insert(bytes, what), None, "the same packet left twice");
        }
    }
}

/// Hands packets over in batches of these sizes, at one moment, and then lets time pass.
fn seen(packets: &[Packet], mut sizes: impl Iterator<Item = usize>) -> Seen {
    let (mut worker, mut seen) = (worker(&key(ME), 1), Seen::default());
    let mut rest = packets;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
        rest = after;
        let mut batch: Vec<_> = batch.iter().map(copy).collect();
        worker.handle(START, Input::Packets(&mut batch));
        assert!(batch.is_empty());
        seen.take(&mut worker, START);
    }
    while let Some(at) = worker.deadline() {
        worker.handle(at, Input::Tick);
        seen.take(&mut worker, at);
    }
    assert_eq!(worker.pool(), 0);
    seen.tags.sort_unstable();
    seen
}

/// Makes its `alpha` another point with the same multiples by any secret key: these are multiples of eight.
fn add_torsion(packet: &mut Packet, which: usize) {
    let mut alpha = [0; 32];
    alpha.copy_from_slice(&packet.as_bytes()[..32]);
    if let Some(point) = MontgomeryPoint(alpha).to_edwards(0) {
        let other = (point + EIGHT_TORSION[which]).to_montgomery();
        packet.as_bytes_mut()[..32].copy_from_slice(&other.0);
    }
}

/// How a packet is spoilt.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Good {
        delay_ms: u16,
    },
    Message,
    Reply,
    /// Nobody knows the next hop.
    NoEdge,
    Alpha(u8),
    Mac {
        at: usize,
    },
    Payload,
    Noise,
    /// The packet before it, once more, perhaps with an `alpha` that has the same shared secret, or another payload.
    Again {
        torsion: usize,
        sign: bool,
        payload: bool,
    },
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => (0_u16..3).prop_map(|delay_ms| Kind::Good { delay_ms: delay_ms * 7 }),
        1 => Just(Kind::Message),
        1 => Just(Kind::Reply),
        1 => Just(Kind::NoEdge),
        2 => (0_u8..6).prop_map(Kind::Alpha),
        2 => (32_usize..624).prop_map(|at| Kind::Mac { at }),
        1 => Just(Kind::Payload),
        1 => Just(Kind::Noise),
        2 => (0_usize..8, any::<bool>(), any::<bool>()).prop_map(|(torsion, sign, payload)| Kind::Again { torsion, sign, payload }),
    ]
}

/// Public keys as nobody honest writes them.
fn bad_alpha(which: u8) -> [u8; 32] {
    let from = |text| hex::decode::<32>(text).unwrap();
    match which {
        0 => [0; 32],
        1 => [0xff; 32],
        2 => from("0100000000000000000000000000000000000000000000000000000000000000"),
        3 => from("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        4 => from("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        _ => from("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    }
}

fn packets(kinds: &[Kind], seed: u64) -> Vec<Packet> {
    let mut rng = Rng::seed_from_u64(seed);
    let mut packets: Vec<Packet> = Vec::new();
    for kind in kinds {
        let mut made = match *kind {
            Kind::Good { delay_ms } => packet(&mut rng, ME, 3, delay_ms),
            Kind::NoEdge => packet(&mut rng, ME, 77, 0),
            Kind::Message | Kind::Payload => arriving(&mut rng, false),
            Kind::Reply => arriving(&mut rng, true),
            Kind::Alpha(_) | Kind::Mac { .. } => packet(&mut rng, ME, 3, 0),
            Kind::Noise => {
                let mut noise = Packet::zeroed();
                rng.fill_bytes(noise.as_bytes_mut());
                noise
            }
            Kind::Again { .. } => packets.last().map_or_else(Packet::zeroed, copy),
        };
        match *kind {
            Kind::Alpha(which) => made.as_bytes_mut()[..32].copy_from_slice(&bad_alpha(which)),
            Kind::Mac { at } => made.as_bytes_mut()[at] ^= 1,
            Kind::Payload => made.as_bytes_mut()[PACKET_LEN - 9] ^= 1,
            Kind::Again {
                torsion,
                sign,
                payload,
            } => {
                add_torsion(&mut made, torsion);
                made.as_bytes_mut()[31] ^= u8::from(sign) << 7;
                made.as_bytes_mut()[PACKET_LEN - 1] ^= u8::from(payload);
            }
            _ => {}
        }
        packets.push(made);
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_mixture_in_any_batches_gives_what_one_at_a_time_gives(
        kinds in prop::collection::vec(kind(), 1..90),
        sizes in prop::collection::vec(1_usize..90, 1..8),
        seed in any::<u64>(),
    ) {
        let packets = packets(&kinds, seed);
        let one_at_a_time = seen(&packets, std::iter::repeat(1));
        let in_batches = seen(&packets, sizes.into_iter().cycle());
        prop_assert_eq!(&in_batches, &one_at_a_time);
        let all: u64 = ["forwarded", "alpha", "replay", "mac", "role", "payload", "drop.no_edge"]
            .iter()
            .map(|name| in_batches.counters.get(name))
            .sum();
        let delivered = in_batches.done.values().filter(|what| !what.starts_with("to")).count();
        prop_assert_eq!(all as usize + delivered, packets.len(), "each has one fate");
    }
}

#[test]
fn of_workers_with_one_key_one_alone_forwards_each_packet() {
    const THREADS: usize = 4;
    let mut rng = Rng::seed_from_u64(2);
    let packets: Vec<_> = (0..200).map(|_| packet(&mut rng, ME, 3, 0)).collect();
    let key = key(ME);
    let left: Vec<(Vec<u64>, Counters)> = std::thread::scope(|scope| {
        let run = |n: usize| {
            let (packets, key) = (&packets, &key);
            scope.spawn(move || {
                let (mut worker, mut seen) = (worker(key, n as u64), Seen::default());
                // Each in an order of its own, and with other bytes for the same tag: the check doesn't go by these.
                for (i, part) in packets.chunks(25).cycle().skip(2 * n).take(8).enumerate() {
                    let mut batch: Vec<_> = part.iter().map(copy).collect();
                    batch.iter_mut().for_each(|p| add_torsion(p, (n + i) % 8));
                    worker.handle(START, Input::Packets(&mut batch));
                    seen.take(&mut worker, START);
                }
                (seen.tags, seen.counters)
            })
        };
        let threads: Vec<_> = (0..THREADS).map(run).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut all = Counters::default();
    left.iter().for_each(|(_, counters)| all.merge(counters));
    let tags: std::collections::BTreeSet<_> = left.iter().flat_map(|(tags, _)| tags).collect();
    assert_eq!((all.get("forwarded"), all.get("replay")), (200, 600), "{all:?}");
    assert_eq!((tags.len(), key.accepted()), (200, 200));
}

#[test]
fn packets_of_two_keys_are_told_apart_and_no_replay_passes_while_the_keys_change() {
    let mut rng = Rng::seed_from_u64(3);
    let (old, new) = (key(ME), key(101));
    let of_old: Vec<_> = (0..4).map(|_| packet(&mut rng, ME, 3, 0)).collect();
    let of_new: Vec<_> = (0..2).map(|_| packet(&mut rng, 101, 3, 0)).collect();
    let mut worker = worker(&old, 1);
    worker.tags_are_written_down();
    let tell = |worker: &mut Worker<Nine>, packets: &[&Packet]| {
        let batch = &mut packets.iter().copied().map(copy).collect();
        worker.handle(START, Input::Packets(batch));
        let tags = (worker.accepted().len(), worker.accepted_beside().len());
        let mut seen = Seen::default();
        seen.take(worker, START);
        assert_eq!(seen.counters.get("received"), packets.len() as u64);
        let counters = seen.counters.iter().filter(|(name, _)| *name != "received");
        let counted: Vec<_> = counters.map(|(name, n)| format!("{name} {n}")).collect();
        (counted.join(", "), tags)
    };
    let said = |text: &str, tags| (text.to_string(), tags);
    assert_eq!(
        tell(&mut worker, &[&of_old[0], &of_new[0]]),
        said("forwarded 1, mac 1", (1, 0))
    );
    // The next one's time is near.
    worker.set_keys(&[Arc::clone(&old), Arc::clone(&new)]);
    assert_eq!(
        tell(&mut worker, &[&of_new[0], &of_old[0], &of_old[1], &of_new[0]]),
        said("forwarded 2, replay 2", (1, 1))
    );
    // It has come.
    worker.set_keys(&[Arc::clone(&new), Arc::clone(&old)]);
    let stranger = packet(&mut rng, 102, 3, 0);
    assert_eq!(
        tell(
            &mut worker,
            &[&of_new[0], &of_old[1], &of_old[2], &stranger, &of_new[1]]
        ),
        said("forwarded 2, mac 1, replay 2", (1, 1))
    );
    worker.set_keys(&[Arc::clone(&new)]);
    assert_eq!(
        tell(&mut worker, &[&of_old[2], &of_old[3], &of_new[1]]),
        said("mac 2, replay 1", (0, 0))
    );
    // Nobody has its secret any more.
    assert_eq!(Arc::strong_count(&old), 1);
    worker.set_keys(&[]);
    assert_eq!(
        tell(&mut worker, &[&of_new[0]]),
        said("drop.key_is_over 1", (0, 0))
    );
    assert_eq!(
        (Arc::strong_count(&new), old.accepted(), new.accepted()),
        (1, 3, 2)
    );
}

#[test]
fn a_packet_of_the_nodes_own_leaves_at_its_time_and_counts_as_none_that_was_forwarded() {
    let mut worker = worker(&key(ME), 1);
    let at = START + Duration::from_micros(1_234);
    let packet = Packet::zeroed();
    worker.handle(START, Input::Hold { at, to: 7, packet });
    assert_eq!((worker.deadline(), worker.pool()), (Some(at), 1));
    worker.handle(at - Duration::from_micros(1), Input::Tick);
    assert!(worker.poll().is_none());
    worker.handle(at, Input::Tick);
    assert!(matches!(worker.poll(), Some(Outcome::Forward { to: 7, .. })));
    assert_eq!(worker.take_counters(), Counters::default());
}

#[test]
fn where_a_hop_draws_the_delays_are_exponential_with_the_mean_in_the_header() {
    const N: usize = 400;
    let mut rng = Rng::seed_from_u64(4);
    let mut worker = Worker::new(&Config::default(), key(ME), Drawn, Rng::seed_from_u64(5));
    let mut batch: Vec<_> = (0..N).map(|_| packet(&mut rng, ME, 3, 50)).collect();
    worker.handle(START, Input::Packets(&mut batch));
    let mut delays_ms = Vec::new();
    while let Some(at) = worker.deadline() {
        worker.handle(at, Input::Tick);
        while worker.poll().is_some() {
            delays_ms.push(at.since(START).as_secs_f64() * 1_000.0);
        }
    }
    assert_eq!(delays_ms.len(), N);
    let mean = delays_ms.iter().sum::<f64>() / N as f64;
    let var = delays_ms.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / N as f64;
    // Standard errors: 50 / sqrt(400) = 2.5, and 50² sqrt(8 / 400) = 14 % of the variance; five of each.
    assert!((mean - 50.0).abs() < 12.5, "seed 5: {mean}");
    assert!((var / 2_500.0 - 1.0).abs() < 0.7, "seed 5: {var}");
}
