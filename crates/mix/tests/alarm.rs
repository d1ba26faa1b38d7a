//! A mix that is cut off, among seven others and under one clock: what it does about it, and what an attacker can make of that.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content, NodeEntry, Role};
use mizzle_base::{Document, MailboxId, NodeId, Profile, Rng, Time, hex};
use mizzle_mix::{Action, Config, Input, Mix, OWN_IN_POOL};
use mizzle_sphinx::{Dialect, Hop, MESSAGE_LEN, Packet, SecretKey, build, pad};
use mizzle_traffic::draw;
use rand_core::SeedableRng as _;

/// Two mixes a layer, two gateways.
const NODES: u8 = 8;
const GATEWAY: u8 = 7;
/// The mix that is attacked, of the first layer.
const TARGET: u8 = 1;
const START: Time = Time::from_s(15_000);
const LINK: Duration = Duration::from_millis(20);
/// Packets of others a second at the target, which holds them for a second: n = 40.
const TRAFFIC_PER_S: f64 = 40.0;

fn s(s: f64) -> Time {
    START.plus_s_f64(s)
}

fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn id(n: u8) -> NodeId {
    NodeId::new([n; 32])
}

fn document() -> Arc<Document> {
    let node = |n: u8| NodeEntry {
        id: hex::encode(&[n; 32]),
        role: if n < GATEWAY { Role::Mix } else { Role::Gateway },
        layer: if n < GATEWAY { n.div_ceil(2) } else { 0 },
        peer: String::new(),
        addresses: Vec::new(),
        sphinx_key: hex::encode(secret(n).public().as_bytes()),
        weight: 1.0,
        operator: String::new(),
        exit: None,
        mail: None,
    };
    let content = Content {
        network: "test".into(),
        sequence: 1,
        epoch: 1,
        valid_from_s: 10_000,
        valid_until_s: 20_000,
        profile: Profile::chat(),
        nodes: (1..=NODES).map(node).collect(),
    };
    let authority = SigningKey::from_bytes(&[9; 32]);
    let bytes = content.sign(&authority).unwrap();
    Arc::new(Document::verify(&bytes, &authority.verifying_key(), START, 0).unwrap())
}

/// What an attacker lets through to the target.
type Lets = fn(Time, Kind) -> bool;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A packet of a client.
    Traffic,
    /// From a gateway that had it from a mix: a loop of a node.
    OfNodes,
}

struct Network {
    nodes: BTreeMap<u8, Mix>,
    flying: BTreeMap<(Time, u64), (u8, Packet, Kind)>,
    order: u64,
    rng: Rng,
    next_traffic: Time,
    traffic_until: Time,
    /// When packets of others left the target.
    left: Vec<Time>,
}

impl Network {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::seed_from_u64(seed);
        let document = document();
        let mut node = |n: u8| {
            let rng = Rng::from_seed(draw::bytes(&mut rng));
            Mix::new(
                Config::default(),
                Arc::clone(&document),
                id(n),
                secret(n),
                rng,
                START,
            )
            .unwrap()
        };
        Self {
            nodes: (1..=NODES).map(|n| (n, node(n))).collect(),
            flying: BTreeMap::new(),
            order: 0,
            rng: Rng::seed_from_u64(seed + 1_000),
            next_traffic: START,
            traffic_until: Time::FAR_FUTURE,
            left: Vec::new(),
        }
    }

    fn target(&self) -> &Mix {
        &self.nodes[&TARGET]
    }

    fn fly(&mut self, at: Time, to: u8, packet: Packet, kind: Kind) {
        self.order += 1;
        self.flying.insert((at, self.order), (to, packet, kind));
    }

    /// A client's packet that the target holds for so long.
    fn client_packet(&mut self, held_ms: u16) -> Packet {
        let way = [TARGET, 3, 5, GATEWAY].map(|n| (secret(n).public(), id(n).to_address()));
        let hops: Vec<Hop<'_>> = (0..)
            .zip(&way)
            .map(|(n, (key, address))| Hop {
                key,
                address,
                delay_ms: if n == 0 { held_ms } else { 0 },
            })
            .collect();
        let (mut packet, mut message) = (Packet::zeroed(), [0; MESSAGE_LEN]);
        pad(Dialect::Lioness, b"hello", &mut message).unwrap();
        let destination = MailboxId::new([7; 16]).to_address();
        build(
            Dialect::Lioness,
            &mut self.rng,
            &hops,
            &destination,
            &message,
            &mut packet,
        )
        .unwrap();
        packet
    }

    /// Until `until`, or until `stop` says so of the target.
    fn run(&mut self, until: Time, lets: Lets, stop: impl Fn(&Mix) -> bool) -> Time {
        loop {
            let cores = self.nodes.values().filter_map(Mix::deadline).min();
            let flying = self.flying.first_key_value().map(|((at, _), _)| *at);
            let traffic = Some(self.next_traffic).filter(|at| *at < self.traffic_until);
            let now = [cores, flying, traffic].into_iter().flatten().min().unwrap();
            if now > until {
                return until;
            }
            if traffic == Some(now) {
                let held_ms = draw::delay_ms(&mut self.rng, 1_000.0);
                let packet = self.client_packet(held_ms);
                self.fly(now, TARGET, packet, Kind::Traffic);
                self.next_traffic = now.plus_s_f64(draw::exponential(&mut self.rng, 1.0 / TRAFFIC_PER_S));
            }
            let mut came: BTreeMap<u8, Vec<Packet>> = BTreeMap::new();
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= now) {
                let (to, packet, kind) = entry.remove();
                if to != TARGET || lets(now, kind) {
                    came.entry(to).or_default().push(packet);
                }
            }
            for n in 1..=NODES {
                let node = self.nodes.get_mut(&n).unwrap();
                let packets = came.remove(&n).unwrap_or_default();
                if packets.is_empty() && node.deadline().is_none_or(|at| at > now) {
                    continue;
                }
                let before = node.counters().get("forwarded");
                node.handle(now, Input::Packets(packets));
                let forwarded = node.counters().get("forwarded") - before;
                let mut leaving = Vec::new();
                while let Some(action) = node.poll() {
                    if let Action::Forward { to, packet } = action {
                        leaving.push((to.as_bytes()[0], packet));
                    }
                }
                if n == TARGET {
                    self.left.extend((0..forwarded).map(|_| now));
                }
                for (to, packet) in leaving {
                    self.fly(now + LINK, to, packet, Kind::OfNodes);
                }
            }
            if stop(self.target()) {
                return now;
            }
        }
    }
}

fn never(_: &Mix) -> bool {
    false
}

#[test]
fn a_mix_that_is_cut_off_drops_what_was_let_in_alone_and_hides_the_rest_among_its_own() {
    for seed in 1..=2 {
        let mut net = Network::new(seed);
        net.run(s(60.0), |_, _| true, never);
        assert_eq!(net.target().alarms().raised, 0, "seed {seed}: nobody attacked");
        let pool = net.target().pool();
        assert!((20..70).contains(&pool), "seed {seed}: {pool}");

        // All is dropped, and three seconds later one packet let in, that would leave much later.
        net.traffic_until = s(60.0);
        let block: Lets = |_, kind| kind == Kind::Traffic;
        net.run(s(63.0), block, never);
        let alone = net.client_packet(60_000);
        net.fly(s(63.0), TARGET, alone, Kind::Traffic);
        let raised = net.run(s(90.0), block, |mix| mix.alarms().raised > 0);
        assert!(raised < s(80.0), "seed {seed}: never raised");
        let counters = net.target().counters();
        assert!(counters.get("drop.isolated") >= 1, "seed {seed}: {counters:?}");
        assert_eq!(counters.get("loop.cover"), OWN_IN_POOL as u64);
        assert!(net.target().alarms().is_on);

        // It serves on: what is let in now is held among twenty of its own, and leaves.
        let left = net.left.len();
        let next = net.client_packet(500);
        net.fly(raised, TARGET, next, Kind::Traffic);
        net.run(raised + Duration::from_millis(10), block, never);
        let pool = net.target().pool();
        // One or two may have left already.
        assert!(
            (OWN_IN_POOL - 1..OWN_IN_POOL + 10).contains(&pool),
            "seed {seed}: {pool}"
        );
        net.run(raised + Duration::from_secs(2), block, never);
        assert!(net.left.len() > left, "seed {seed}: it is silent");
        // The one that was alone is gone: nothing leaves when it would have.
        let left = net.left.len();
        net.run(s(122.0), block, never);
        net.run(s(124.0), block, never);
        assert_eq!(net.left.len(), left, "seed {seed}: what was isolated left");
        assert_eq!(
            net.target().alarms().raised,
            1,
            "seed {seed}: one silence, one alarm"
        );

        // As soon as loops come home it is over.
        net.run(s(160.0), |_, _| true, |mix| !mix.alarms().is_on);
        assert!(!net.target().alarms().is_on);
        assert_eq!(net.target().counters().get("alarm.over"), 1);
    }
}

#[test]
fn who_drops_loops_silences_a_mix_no_longer_than_by_dropping_its_traffic() {
    for seed in 11..=12 {
        let mut net = Network::new(seed);
        net.run(s(60.0), |_, _| true, never);
        net.left.clear();
        // An attacker who knows the loops of nodes, as a gateway does, drops all of them and nothing else, for a minute.
        let loops_only: Lets = |_, kind| kind == Kind::Traffic;
        let raised = net.run(s(120.0), loops_only, |mix| mix.alarms().raised > 0);
        let took = raised.since(s(60.0));
        net.run(s(120.0), loops_only, never);
        assert_eq!(net.target().alarms().raised, 1, "seed {seed}");
        // Once what was in the pool: by dropping traffic instead he would have silenced it for as long as he dropped.
        let dropped = net.target().counters().get("drop.isolated") as f64;
        assert!(dropped <= 1.5 * TRAFFIC_PER_S, "seed {seed}: {dropped}");
        let gap = net.left.windows(2).map(|two| two[1].since(two[0])).max().unwrap();
        assert!(
            gap < took.min(Duration::from_secs(1)),
            "seed {seed}: silent for {gap:?}, which took {took:?}"
        );
        let left = net.left.len() as f64;
        assert!(left > 0.9 * 60.0 * TRAFFIC_PER_S, "seed {seed}: {left}");
    }
}
