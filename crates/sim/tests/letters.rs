//! Letters while mixes die, receivers are away, senders and gateways begin anew: each arrives, and once, and its sender learns that it
//! is stored. Beside it: how many loops it takes until routes avoid the dead.
//!
//! Seeds are fixed; a failure says which one it was. `MIZZLE_LETTERS=100,20 cargo test --release -p mizzle-sim --test letters` tries
//! twenty others in each test, from 100 on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::*;
use mizzle_base::{LetterId, NodeId, Profile, Time};
use mizzle_sim::{ClientIndex, Network, Plan, Stage};

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;
const CLIENTS: usize = 4;
/// What routes may take to avoid the dead: so long, or so many loops through each layer.
const AVOIDS_IN: Duration = Duration::from_secs(10);
const AVOIDS_AFTER: u64 = 20;
/// Nobody waits longer for a letter.
const LIMIT: Duration = Duration::from_secs(120);

/// As `browse`, with fewer packets, for the sake of the machine that reckons all this; as many loops of clients.
fn profile() -> Profile {
    Profile {
        payload_per_s: 20.0,
        drop_per_s: 1.0,
        reply_fraction: 0.5,
        downlink_per_s: 100.0,
        node_loop_per_s: 20.0,
        ..Profile::browse()
    }
}

/// These, or those that were asked for.
fn seeds(fixed: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    let asked = std::env::var("MIZZLE_LETTERS").ok();
    let parsed = asked.and_then(|text| {
        let (from, count) = text.split_once(',')?;
        let (from, count): (u64, u64) = (from.parse().ok()?, count.parse().ok()?);
        Some((from..from + count).collect())
    });
    parsed.unwrap_or_else(|| fixed.collect())
}

/// How far loops are: of a client at a time.
#[derive(Clone, Copy)]
struct Mark {
    at: Time,
    loops: u64,
}

struct World {
    seed: u64,
    net: Network,
    /// What was posted: to whom, and what it says.
    posted: BTreeMap<LetterId, (ClientIndex, Vec<u8>)>,
    dead: BTreeSet<NodeId>,
    /// From when each client could learn of the dead, and when it had.
    since: [Option<Mark>; CLIENTS],
    avoids: [Option<Mark>; CLIENTS],
}

impl World {
    /// A network of three times four mixes, of which the clients have their mailboxes.
    fn new(seed: u64) -> Self {
        let plan = Plan {
            seed,
            profile: profile(),
            mixes_per_layer: 4,
            entries: 3,
            // Slots are for the gateways that keep the letters.
            exits: 0,
            clients: CLIENTS,
            mail: true,
            ..Plan::default()
        };
        let mut world = Self {
            seed,
            net: network(plan, 0),
            posted: BTreeMap::new(),
            dead: BTreeSet::new(),
            since: [None; CLIENTS],
            avoids: [None; CLIENTS],
        };
        // Not at a moment at which nodes publish: somewhere between.
        world.run_for(MS(3_300 + 700 * (seed % 5)));
        assert!((0..CLIENTS).all(|client| world.net.client(client).is_up()));
        world
    }

    fn mark(&self, client: ClientIndex) -> Mark {
        Mark {
            at: self.net.now(),
            loops: self.net.client(client).loops().sent,
        }
    }

    fn run_until(&mut self, until: Time, mut done: impl FnMut(&Network) -> bool) {
        while self.net.now() < until && !done(&self.net) {
            self.net.step_until(until);
            for client in 0..CLIENTS {
                let avoided = self.net.client(client).avoided();
                if self.since[client].is_some()
                    && self.avoids[client].is_none()
                    && self.dead.iter().all(|mix| avoided.contains(mix))
                {
                    self.avoids[client] = Some(self.mark(client));
                }
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        self.run_until(self.net.now() + time, |_| false);
    }

    /// The `n`th letter, of up to four items.
    fn post(&mut self, n: usize, from: ClientIndex, to: ClientIndex) -> LetterId {
        let mut data = format!("letter {n} from {from} to {to}: ").into_bytes();
        data.extend(pattern([10, 3_000, 7_000, 14_000][n % 4]));
        let id = self.net.post(from, to, &data).unwrap();
        self.posted.insert(id, (to, data));
        id
    }

    /// A third of the mixes stops.
    fn kill(&mut self) {
        self.dead = victims(&self.net, self.seed);
        self.dead.iter().for_each(|mix| self.net.stop(mix));
        self.since = std::array::from_fn(|client| Some(self.mark(client)));
    }

    /// Runs until every letter is stored and here, and some time longer for one that would come again. Every one is here once
    /// then, and the gateways have nothing more.
    fn all_arrive(&mut self) {
        let seed = self.seed;
        let (letters, begun) = (self.posted.len(), self.net.now());
        self.run_until(begun + LIMIT, |net| {
            let stored = |client| net.sent(client).all(|letter| letter.stage != Stage::Waiting);
            let received: usize = (0..CLIENTS).map(|client| net.received(client).len()).sum();
            received >= letters && (0..CLIENTS).all(stored)
        });
        let took = self.net.now().since(begun);
        self.run_for(S(5));
        let mut here: BTreeMap<LetterId, u32> = BTreeMap::new();
        let (mut failures, mut slowest_stored) = (0, Duration::ZERO);
        for client in 0..CLIENTS {
            for letter in self.net.received(client) {
                let (to, data) = &self.posted[&letter.id];
                assert_eq!(
                    (*to, data),
                    (client, &letter.data),
                    "seed {seed}: not what was sent"
                );
                *here.entry(letter.id).or_default() += 1;
            }
            for letter in self.net.sent(client) {
                failures += letter.failures;
                match letter.stage {
                    Stage::Stored(at) => slowest_stored = slowest_stored.max(at.since(letter.at)),
                    other => panic!("seed {seed}: {letter:?} is {other:?} after {took:?}"),
                }
            }
            let trouble = self.net.desk_counters(client);
            assert!(
                trouble.iter().next().is_none(),
                "seed {seed}, client {client}: {trouble:?}"
            );
        }
        assert_eq!(
            here.len(),
            letters,
            "seed {seed}: letters are missing after {took:?}"
        );
        assert!(here.values().all(|n| *n == 1), "seed {seed}: one came twice");
        assert_eq!(
            self.net.waiting_items(),
            0,
            "seed {seed}: all was acknowledged and deleted"
        );
        println!(
            "seed {seed}: {letters} letters are stored and here, the last {took:?} after it was waited for; the slowest was \
             stored after {slowest_stored:?}; {failures} attempts began again"
        );
    }

    /// Says how long each client's routes took to avoid the dead.
    fn routes_avoid_the_dead(&self) {
        let seed = self.seed;
        for client in 0..CLIENTS {
            let (Some(since), Some(avoids)) = (self.since[client], self.avoids[client]) else {
                panic!("seed {seed}: routes of client {client} pass dead mixes to the end");
            };
            // Each loop passes each layer once.
            let (time, loops) = (avoids.at.since(since.at), avoids.loops - since.loops);
            println!("seed {seed}: routes of client {client} avoid the dead after {loops} loops, {time:?}");
            assert!(
                time <= AVOIDS_IN || loops <= AVOIDS_AFTER,
                "seed {seed}, client {client}: {loops} loops, {time:?}"
            );
            let living = self.net.document().nodes().iter();
            let mut living = living.filter(|node| !self.dead.contains(&node.id));
            assert!(
                living.all(|node| !self.net.client(client).avoided().contains(&node.id)),
                "seed {seed}: client {client} leaves out one that lives"
            );
        }
    }
}

#[test]
fn every_letter_arrives_once_while_a_third_of_the_mixes_dies() {
    for seed in seeds(1..=3) {
        let mut world = World::new(seed);
        for n in 0..40 {
            if n == 12 {
                world.kill();
            }
            let from = n % CLIENTS;
            world.post(n, from, (from + 1 + n / CLIENTS % (CLIENTS - 1)) % CLIENTS);
            world.run_for(MS(250));
        }
        world.all_arrive();
        world.routes_avoid_the_dead();
    }
}

#[test]
fn who_is_away_while_mixes_die_has_every_letter_once_when_he_comes_back() {
    for seed in seeds(5..=6) {
        let mut world = World::new(seed);
        let away = 1;
        // Some of what is on its way to him when he goes is here, and some only in part.
        for n in 0..6 {
            world.post(n, [0, 2, 3][n % 3], away);
        }
        let soon = world.net.now() + S(60);
        world.run_until(soon, |net| net.waiting_items() > 1);
        assert!(
            world.net.waiting_items() > 1,
            "seed {seed}: nothing was on its way"
        );
        world.net.leave(away);
        world.run_for(MS(500));
        world.kill();
        world.since[away] = None;
        for n in 6..18 {
            world.post(n, [0, 2, 3][n % 3], away);
            world.run_for(MS(250));
        }
        let patience = world.net.now() + LIMIT;
        world.run_until(patience, |net| {
            let stored = |letter: &mizzle_sim::Sent| letter.stage != Stage::Waiting;
            [0, 2, 3].iter().all(|client| net.sent(*client).all(stored))
        });
        for letter in [0, 2, 3].iter().flat_map(|client| world.net.sent(*client)) {
            let is_stored = matches!(letter.stage, Stage::Stored(_));
            assert!(
                is_stored,
                "seed {seed}: its sender need not wait for the receiver: {letter:?}"
            );
        }
        let before = world.net.received(away).len();
        assert!(before < 18 && world.net.waiting_items() > 0, "seed {seed}");
        world.net.come_back(away);
        world.since[away] = Some(world.mark(away));
        // Again, in the middle of it: what he has and didn't acknowledge is sent once more, and is nothing new to him.
        let soon = world.net.now() + S(60);
        world.run_until(soon, |net| net.received(away).len() > before);
        world.net.leave(away);
        world.run_for(S(1));
        world.net.come_back(away);
        world.since[away] = Some(world.mark(away));
        // He writes, too.
        world.post(18, away, 0);
        world.all_arrive();
        world.routes_avoid_the_dead();
    }
}

#[test]
fn senders_and_gateways_that_begin_anew_bring_and_keep_every_letter_once() {
    for seed in seeds(8..=9) {
        let mut world = World::new(seed);
        for n in 0..20 {
            let from = n % CLIENTS;
            world.post(n, from, (from + 1) % CLIENTS);
            world.run_for(MS(300));
            match n {
                6 => world.kill(),
                9 | 14 => {
                    world.net.restart_client(from).unwrap();
                    // Its routes are new, and so is what it knows of the dead.
                    (world.since[from], world.avoids[from]) = (Some(world.mark(from)), None);
                }
                11 => {
                    let gateway = world.net.document().gateways().find(|g| g.exit.is_none());
                    let gateway = gateway.unwrap().id;
                    world.net.start(&gateway).unwrap();
                }
                _ => {}
            }
        }
        world.all_arrive();
    }
}
