//! A packet passes a node once, whatever happens to the process and to the machine: a real node between two neighbours that
//! are played here, killed while packets come in, started again, and sent all of them once more.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests: how long things may take is bounded"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::processes::{Made, command};
use common::{LIMIT, Process, run};
use libp2p::{Multiaddr, PeerId};
use libp2p_mix::link;
use mizzle_base::document::Node;
use mizzle_base::{Document, Rng, Time, hex};
use mizzle_net::clock::{self, Clock};
use mizzle_net::host::{Host, HostConfig, Transport};
use mizzle_net::state::{Kind, State, seed};
use mizzle_net::{identity, wire};
use mizzle_sphinx::{Dialect, Hop, MESSAGE_LEN, Packet, Peeler, PublicKey, SecretKey, build, pad};
use mizzle_traffic::draw;

/// The node that is killed.
const NAME: &str = "mix-1-1";

fn document(made: &Made) -> Document {
    let bytes = std::fs::read(made.dir.0.join("network.doc")).unwrap();
    let key = hex::decode::<32>(made.said["authority"].as_str().unwrap()).unwrap();
    let authority = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
    Document::verify(&bytes, &authority, Clock::start().now(), 0).unwrap()
}

fn started(made: &Made) -> Process {
    let mut process = Process::start(command("node", &made.config(NAME)));
    assert!(process.line().contains("\"ready\":true"));
    process
}

/// What a packet of [`Neighbours`] is known by once it passed the node: its next `alpha`.
type Mark = [u8; 32];

fn mark(bytes: &[u8]) -> Mark {
    let mut mark = [0; 32];
    mark.copy_from_slice(&bytes[..32]);
    mark
}

/// The gateway before the node and the mix behind it, with their keys.
struct Neighbours {
    document: Document,
    node: Node,
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    gateway: Host,
    _behind: Host,
    /// What came through, and how often.
    passed: Arc<Mutex<BTreeMap<Mark, usize>>>,
    rng: Rng,
}

impl Neighbours {
    async fn new(made: &Made) -> Self {
        let document = document(made);
        let play = async |name: &str, listens: bool| {
            let state = State::inspect(&made.state(name), Kind::Node).unwrap();
            let keypair = identity::keypair(&mut state.secret("identity.key").unwrap()).unwrap();
            let listed = document.node(&identity::node_id(&keypair)).unwrap();
            let link = wire::mix_link(&document.network());
            let mut config = HostConfig::new(keypair, Transport::Both).with_mix(link);
            if listens {
                config = config.with_listen(listed.addresses[0].parse().unwrap());
            }
            Host::start(config).await.unwrap()
        };
        let gateway = play("gateway-1", false).await;
        let mut behind = play("mix-2-1", true).await;
        let node = document.layer(1).next().unwrap().clone();
        let (peer, addresses) = (node.peer.parse().unwrap(), node.addresses.iter());
        let addresses: Vec<Multiaddr> = addresses.map(|a| a.parse().unwrap()).collect();
        let control = &behind.mix.as_ref().unwrap().control;
        control.add_peer(peer, addresses.clone());
        let passed = Arc::new(Mutex::new(BTreeMap::new()));
        let (mut receiver, counts) = (behind.mix.take().unwrap().receiver, Arc::clone(&passed));
        tokio::spawn(async move {
            while let Some(event) = receiver.recv().await {
                if let link::Event::Frame { frame, .. } = event {
                    *counts.lock().unwrap().entry(mark(&frame)).or_insert(0) += 1;
                }
            }
        });
        Self {
            document,
            node,
            peer,
            addresses,
            gateway,
            _behind: behind,
            passed,
            rng: clock::rng().unwrap(),
        }
    }

    /// Packets through the node and the two behind it, held for this long by the first.
    fn packets(
        &mut self,
        secret: &SecretKey,
        n: usize,
        delay_ms: std::ops::Range<u16>,
    ) -> Vec<(Mark, Packet)> {
        let route: Vec<Node> = [1, 2, 3]
            .map(|layer| self.document.layer(layer).next().unwrap().clone())
            .into();
        let addresses: Vec<_> = route.iter().map(|n| n.id.to_address()).collect();
        let keys: Vec<PublicKey> = route.iter().map(|n| n.sphinx_key).collect();
        let peeler = Peeler::new(SecretKey::from_bytes(*secret.expose_bytes()), Dialect::Lioness);
        let rng = &mut self.rng;
        let mut one = || {
            let delay = delay_ms.start + draw::below(rng, delay_ms.len()) as u16;
            let hops: Vec<_> = keys
                .iter()
                .zip(&addresses)
                .zip([delay, 0, 0])
                .map(|((key, address), delay_ms)| Hop {
                    key,
                    address,
                    delay_ms,
                })
                .collect();
            let (mut packet, mut message) = (Packet::zeroed(), [0; MESSAGE_LEN]);
            pad(Dialect::Lioness, &draw::bytes::<8>(rng), &mut message).unwrap();
            build(Dialect::Lioness, rng, &hops, &addresses[2], &message, &mut packet).unwrap();
            let mut after = Packet::try_from_slice(packet.as_bytes()).unwrap();
            peeler.peel(&mut after, &mut |_| false).unwrap();
            (mark(after.as_bytes()), packet)
        };
        (0..n).map(|_| one()).collect()
    }

    /// From now on packets are made with the keys of this epoch.
    fn turn_to(&mut self, epoch: u32) {
        let begin = self.document.epochs().begin(epoch);
        if let Some(turned) = self.document.turned(begin) {
            self.document = turned;
        }
    }

    /// Sends packets as fast as the link takes them; until `enough`, if it comes to that.
    async fn send(&self, packets: &[(Mark, Packet)], mut enough: impl FnMut() -> bool) {
        let control = &self.gateway.mix.as_ref().unwrap().control;
        control.add_peer(self.peer, self.addresses.clone());
        let begun = Instant::now();
        for (_, packet) in packets {
            let mut frame: link::Frame = Box::new(*packet.as_bytes());
            while let Err((_, back)) = control.try_send(&self.peer, frame) {
                assert!(begun.elapsed() < LIMIT, "the node doesn't take packets");
                frame = back;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            if enough() {
                return;
            }
        }
    }

    /// The connection to a process that was killed is closed, rather than waited for.
    fn forget_connection(&self) {
        self.gateway.mix.as_ref().unwrap().control.disconnect(self.peer);
    }

    fn came(&self, packets: &[(Mark, Packet)]) -> usize {
        let passed = self.passed.lock().unwrap();
        packets
            .iter()
            .filter(|(mark, _)| passed.contains_key(mark))
            .count()
    }

    /// Sends packets that all pass. Its loops don't come home here, so the node takes itself for cut off once after each start, and
    /// drops what it holds then: others are sent after those.
    async fn pass(
        &mut self,
        secret: &SecretKey,
        n: usize,
        delay_ms: std::ops::Range<u16>,
        what: &str,
    ) -> Vec<(Mark, Packet)> {
        for _ in 0..20 {
            let packets = self.packets(secret, n, delay_ms.clone());
            self.send(&packets, || false).await;
            let sent = Instant::now();
            while sent.elapsed() < LIMIT / 20 {
                if self.came(&packets) == n {
                    return packets;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        panic!("do not pass: {what}");
    }

    async fn wait_until(&self, what: &str, reached: impl Fn() -> bool) {
        let begun = Instant::now();
        while !reached() {
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

fn secret_of(made: &Made) -> SecretKey {
    let state = State::inspect(&made.state(NAME), Kind::Node).unwrap();
    seed::read(&state).unwrap().keys(1).unwrap().sphinx
}

fn with_workers(made: &Made, workers: usize) {
    let path = made.config(NAME);
    let text = std::fs::read_to_string(&path).unwrap();
    let rest: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("workers ="))
        .collect();
    std::fs::write(path, format!("workers = {workers}\n{}\n", rest.join("\n"))).unwrap();
}

/// Three times: packets come in, the process ends in the middle of it, and all packets so far are sent again, twice.
#[tokio::test(flavor = "multi_thread")]
async fn no_packet_passes_twice_over_kills_in_the_middle_of_load_and_restarts_with_other_numbers_of_workers()
{
    const N: usize = 1_500;
    let _place = common::place();
    let made = Made::small("replays", &[]);
    let mut neighbours = Neighbours::new(&made).await;
    let secret = secret_of(&made);
    let mut all: Vec<(Mark, Packet)> = Vec::new();
    with_workers(&made, 3);
    let mut process = started(&made);
    for (round, workers) in [(1, 2), (2, 4), (3, 1)] {
        let load = neighbours.packets(&secret, N, 1..30);
        // In the middle: a good part has passed, others are held, on their way, or in queues.
        neighbours.send(&load, || neighbours.came(&load) >= N / 3).await;
        neighbours
            .wait_until("a third has passed", || neighbours.came(&load) >= N / 3)
            .await;
        if round == 3 {
            process.signal("TERM");
            assert_eq!(process.ended(LIMIT).code(), Some(0), "{}", process.stderr());
        } else {
            process.signal("KILL");
            process.ended(LIMIT);
        }
        let before = neighbours.came(&load);
        neighbours.forget_connection();
        with_workers(&made, workers);
        process = started(&made);
        all.extend(load);
        for _ in 0..2 {
            neighbours.send(&all, || false).await;
        }
        // Last on the same stream, and held for longer: when they are there, so is all that was let through.
        let fresh = neighbours.pass(&secret, 50, 60..90, "fresh packets").await;
        let after = neighbours.came(&all);
        println!(
            "round {round}: {before} of {N} had passed, {after} of {} have now",
            all.len()
        );
        assert!(after > before);
        all.extend(fresh);
        let passed = neighbours.passed.lock().unwrap();
        let marks: BTreeSet<_> = all.iter().map(|(mark, _)| mark).collect();
        let twice = passed
            .iter()
            .filter(|(mark, n)| marks.contains(mark) && **n > 1)
            .count();
        assert_eq!(twice, 0, "round {round}: packets that passed more than once");
    }
    process.signal("TERM");
    assert_eq!(process.ended(LIMIT).code(), Some(0), "{}", process.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_unclean_end_of_the_machine_the_node_wants_a_new_key_and_gets_one() {
    let _place = common::place();
    let made = Made::small("unclean", &[]);
    let dir = made.dir.0.to_str().unwrap();
    let old_secret = secret_of(&made);
    let rekey = |node: &str| run(&["network", "rekey", dir, node]);
    let mut process = started(&made);
    let (code, _, err) = rekey(NAME);
    assert_eq!(code, Some(1));
    assert!(err.contains("in use by process"), "{err}");
    process.signal("KILL");
    process.ended(LIMIT);
    // As if the file were from before the machine's last start.
    let file = made.state(NAME).join("accepted-1-1.tags");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    for _ in 0..2 {
        let mut refused = Process::start(command("node", &made.config(NAME)));
        assert_eq!(refused.ended(LIMIT).code(), Some(1));
        let said = refused.stderr();
        // Its epoch of a day has only begun.
        for words in [
            "stopped without warning",
            "`mizzle network rekey`",
            "is over, in 24 h ",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    let (code, _, err) = rekey("mix-9-9");
    assert_eq!(code, Some(1));
    assert!(err.contains("there is no node `mix-9-9`"), "{err}");
    let (code, out, err) = rekey(NAME);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for said in ["epoch.key", "network.doc", "a new number, 2"] {
        assert!(out.contains(said), "{said}: {out}");
    }
    // All folders fit together again, and the others' keys are what they were.
    let files = made.nodes().into_iter().chain(made.clients());
    let files: Vec<String> = files
        .map(|name| made.config(&name).to_str().unwrap().into())
        .collect();
    let args: Vec<&str> = ["config", "check"]
        .into_iter()
        .chain(files.iter().map(String::as_str))
        .collect();
    let (code, out, _) = run(&args);
    assert_eq!(code, Some(0), "{out}");
    assert_ne!(secret_of(&made).public(), old_secret.public());
    assert_eq!(document(&made).sequence(), 2);

    let mut process = started(&made);
    let mut neighbours = Neighbours::new(&made).await;
    let new_secret = secret_of(&made);
    neighbours
        .pass(&new_secret, 20, 1..30, "packets for the new key")
        .await;
    assert_eq!(
        *neighbours.node.sphinx_key.as_bytes(),
        *new_secret.public().as_bytes()
    );
    process.signal("TERM");
    assert_eq!(process.ended(LIMIT).code(), Some(0), "{}", process.stderr());
    // Closed in order, so another start of the machine does no harm.
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    drop(started(&made));
}

/// Around a change of keys, with kills before and after it: packets of both keys pass, each once, and in the end nothing is
/// left on the disk with which those of the old one could be opened.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_keys_loses_no_packet_and_lets_none_pass_twice_and_the_old_key_is_gone_from_the_disk() {
    const N: usize = 60;
    let _place = common::place();
    let made = Made::small("change", &["--epoch-s", "40", "--epochs", "6"]);
    let mut neighbours = Neighbours::new(&made).await;
    let clock = Clock::start();
    let epochs = *neighbours.document.epochs();
    let (grace, overlap) = (epochs.grace(), epochs.overlap());
    let state = made.state(NAME);
    let ratchet = seed::read(&State::inspect(&state, Kind::Node).unwrap()).unwrap();
    let secret = |epoch| ratchet.keys(epoch).unwrap().sphinx;
    let seed = hex::encode(&ratchet.expose_seed()[..]);
    let text = |name: &str| std::fs::read_to_string(state.join(name)).unwrap_or_default();
    let mut process = started(&made);
    assert!(text("epoch.key").contains(&seed) && text("next.keys").contains("\"epoch\":7"));

    let mut all = neighbours.packets(&secret(1), N, 1..30);
    neighbours.send(&all, || false).await;
    neighbours
        .wait_until("packets pass", || neighbours.came(&all) == N)
        .await;
    // Both keys are taken from shortly before the change on, for others' clocks.
    let begin = epochs.begin(2);
    clock
        .sleep_until(Some(begin - grace + std::time::Duration::from_secs(1)))
        .await;
    neighbours.turn_to(2);
    let early = neighbours.packets(&secret(2), N, 1..30);
    neighbours.turn_to(1);
    let late = neighbours.packets(&secret(1), N, 1..30);
    let mut mixed: Vec<_> = early
        .iter()
        .zip(&late)
        .flat_map(|(a, b)| [copy(a), copy(b)])
        .collect();
    neighbours.send(&mixed, || false).await;
    neighbours
        .wait_until("those of both keys pass", || neighbours.came(&mixed) == 2 * N)
        .await;
    all.append(&mut mixed);
    for when in ["before the change", "after it"] {
        process.signal("KILL");
        process.ended(LIMIT);
        neighbours.forget_connection();
        clock
            .sleep_until(Some(if when == "after it" { begin } else { Time::ZERO }))
            .await;
        process = started(&made);
        neighbours.send(&all, || false).await;
        for epoch in [1, 2] {
            neighbours.turn_to(epoch);
            all.extend(neighbours.pass(&secret(epoch), N, 1..30, when).await);
        }
    }
    assert!(
        clock.now() < begin + overlap,
        "the machine is too slow for this test"
    );
    assert!(text("epoch.key").contains(&seed), "it is needed in the overlap");
    // Never closed, so the old key's tags are those of the last kill.
    assert!(state.join("accepted-1-1.tags").exists() && state.join("accepted-2-1.tags").exists());

    clock.sleep_until(Some(begin + overlap)).await;
    neighbours
        .wait_until("the old key is gone", || {
            !state.join("accepted-1-1.tags").exists()
        })
        .await;
    for entry in std::fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        let has_it = bytes.windows(seed.len()).any(|part| part == seed.as_bytes());
        assert!(!has_it, "{}", path.display());
    }
    let of_now = seed::read(&State::inspect(&state, Kind::Node).unwrap()).unwrap();
    assert_eq!(of_now.epoch(), 2);
    assert!(of_now.keys(1).is_none());
    neighbours.turn_to(1);
    let too_late = neighbours.packets(&secret(1), N, 1..30);
    neighbours.send(&too_late, || false).await;
    neighbours.send(&all, || false).await;
    neighbours.turn_to(2);
    neighbours.pass(&secret(2), N, 60..90, "fresh packets").await;
    assert_eq!(neighbours.came(&too_late), 0);
    let passed = neighbours.passed.lock().unwrap();
    assert!(
        all.iter().all(|(mark, _)| passed.get(mark) == Some(&1)),
        "each once"
    );
    drop(passed);
    process.signal("TERM");
    assert_eq!(process.ended(LIMIT).code(), Some(0), "{}", process.stderr());
}

fn copy((mark, packet): &(Mark, Packet)) -> (Mark, Packet) {
    (*mark, Packet::try_from_slice(packet.as_bytes()).unwrap())
}
