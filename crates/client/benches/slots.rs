//! What a slot of an idle client costs it, packet, SURBs and frame included: `cargo bench -p mizzle-client`.
//!
//! A client of the `bulk` profile is run under virtual time for as many slots as it has in four seconds, on each engine of
//! this CPU in turns. Told is the least of the rounds, in time of this thread on a CPU, which Linux knows. A third of the
//! payload slots carry five SURBs.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and fails by stopping"
)]

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content as DocumentContent, NodeEntry, Role};
use mizzle_base::frame::{self, Content, Frame};
use mizzle_base::{ClientTag, Document, MailboxId, NodeId, Profile, Rng, Time, hex};
use mizzle_client::{Action, Client, Config, Input};
use mizzle_sphinx::{SecretKey, engines, use_engine};
use rand_core::SeedableRng as _;

const START: Time = Time::from_s(15_000);
const HOME: u8 = 7;
const ROUNDS: usize = 3;

/// Six mixes in three layers, and three gateways.
fn document() -> Arc<Document> {
    let node = |n: u8| NodeEntry {
        id: NodeId::new([n; 32]).to_string(),
        role: if n >= HOME { Role::Gateway } else { Role::Mix },
        layer: if n >= HOME { 0 } else { n.div_ceil(2) },
        peer: String::new(),
        addresses: Vec::new(),
        sphinx_key: hex::encode(SecretKey::from_bytes([n; 32]).public().as_bytes()),
        weight: 1.0,
        operator: String::new(),
        exit: None,
        mail: None,
    };
    let content = DocumentContent {
        network: "bench".into(),
        sequence: 1,
        epoch: 1,
        valid_from_s: 10_000,
        valid_until_s: 20_000,
        profile: Profile::bulk(),
        nodes: (1..=HOME + 2).map(node).collect(),
    };
    let authority = SigningKey::from_bytes(&[9; 32]);
    let bytes = content.sign(&authority).unwrap();
    Arc::new(Document::verify(&bytes, &authority.verifying_key(), START, 0).unwrap())
}

/// How long this thread has been on a CPU.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// The time that the client took for all its slots of four seconds, and how many they were.
fn run(document: &Arc<Document>) -> (Duration, u32) {
    let gateway = NodeId::new([HOME; 32]);
    let mut client = Client::new(
        Config::default(),
        Arc::clone(document),
        &gateway,
        Rng::seed_from_u64(1),
    )
    .unwrap();
    client.handle(START, Input::LinkUp);
    let welcome = Content::Welcome {
        tag: ClientTag([1; 8]),
        mailbox: MailboxId::new([5; 16]),
        generation: 1,
    };
    let welcome = Frame {
        ack: 0,
        seq: 0,
        content: welcome,
    };
    client.handle(START, Input::Frame(frame::encode(&welcome)));
    while client.poll().is_some() {}
    let (mut slots, end) = (0, START + Duration::from_secs(4));
    let start = cpu_time();
    while let Some(at) = client.deadline().filter(|at| *at <= end) {
        client.handle(at, Input::Tick);
        while let Some(action) = client.poll() {
            slots += u32::from(matches!(action, Action::Send(_)));
        }
    }
    (cpu_time() - start, slots)
}

fn main() {
    let document = document();
    let mut least: Vec<(&str, f64)> = engines().map(|engine| (engine.name(), f64::MAX)).collect();
    for _ in 0..ROUNDS {
        for (name, least) in &mut least {
            use_engine(name).unwrap();
            let (time, slots) = run(&document);
            *least = least.min(time.as_secs_f64() * 1e6 / f64::from(slots));
        }
    }
    for (name, us) in least {
        println!("{us:>8.1} us a slot, {name}");
    }
}
