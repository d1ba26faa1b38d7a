//! Streams while packets are lost, reordered, and nodes restart or vanish: none waits for good while both its ends live, and
//! each wait that was too long is counted. Packets overtake each other all the time: that is what mixes do.
//!
//! `MIZZLE_FAULTS=200,7 cargo test --release -p mizzle-sim --test faults` tries two hundred other cases, from seed 7.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use std::time::Duration;

use common::*;
use mizzle_base::{NodeId, Profile, Time};
use mizzle_client::{StreamEvent, StreamKey};
use mizzle_sim::{Network, Plan};
use proptest::prelude::*;

const S: fn(u64) -> Duration = Duration::from_secs;

/// Few packets, so that minutes of it are soon over: 12 slots a second, 30 packets back.
fn profile() -> Profile {
    Profile {
        payload_per_s: 12.0,
        loop_per_s: 0.1,
        drop_per_s: 0.1,
        reply_fraction: 0.5,
        downlink_per_s: 40.0,
        node_loop_per_s: 0.01,
        ..Profile::browse()
    }
}

/// What goes wrong, and for how many seconds.
#[derive(Clone, Debug)]
enum Fault {
    /// Links lose this share of all packets.
    Loss(f64, u64),
    /// Of the packets that come back on SURBs this share is lost.
    LostReplies(f64, u64),
    /// A mix begins anew: what it held is lost.
    MixRestarts(u8),
    /// The client's gateway is gone for a while and begins anew.
    GatewayAway(u64),
    /// So is the exit, with all of its sessions.
    ExitAway(u64),
    /// The client begins anew, and with it the programs whose streams it had.
    ClientRestarts,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0.05..1.0, 1..25u64).prop_map(|(share, s)| Fault::Loss(share, s)),
        (0.3..1.0, 1..25u64).prop_map(|(share, s)| Fault::LostReplies(share, s)),
        (1..4u8).prop_map(Fault::MixRestarts),
        (0..25u64).prop_map(Fault::GatewayAway),
        (0..90u64).prop_map(Fault::ExitAway),
        Just(Fault::ClientRestarts),
    ]
}

/// One stream: brings some bytes to an echo and waits for them, one piece after the other.
struct Course {
    key: StreamKey,
    written: usize,
    read: Vec<u8>,
    end: Option<Result<(), mizzle_stream::OpenError>>,
}

const PIECE: usize = 2_000;
const PIECES: usize = 12;

impl Course {
    fn begin(net: &mut Network) -> Option<Self> {
        Some(Self {
            key: net.open(0, fresh("files.test", ECHO_PORT)).ok()?,
            written: 0,
            read: Vec::new(),
            end: None,
        })
    }

    /// Asks for the next piece when the last one is here: a program that waits for an answer before it goes on is what
    /// stalls for want of a single packet.
    fn go_on(&mut self, net: &mut Network) {
        self.read.extend(net.read(0, self.key));
        let asked = self.written.div_ceil(PIECE) * PIECE;
        if self.written == self.read.len() || self.written < asked {
            let until = if self.written == self.read.len() {
                asked + PIECE
            } else {
                asked
            };
            let until = until.min(PIECES * PIECE);
            if self.written < until {
                self.written += net.write(0, self.key, &pattern(PIECES * PIECE)[self.written..until]);
            }
            if self.written == PIECES * PIECE {
                net.finish(0, self.key);
            }
        }
    }
}

struct World {
    net: Network,
    courses: Vec<Course>,
    gateway: NodeId,
    exit: NodeId,
}

impl World {
    fn new(seed: u64) -> Self {
        let plan = Plan {
            seed,
            profile: profile(),
            mixes_per_layer: 1,
            ..Plan::default()
        };
        let net = network(plan, 0);
        let of = |has_exit| {
            let mut gateways = net.document().gateways();
            gateways.find(|g| g.exit.is_some() == has_exit).unwrap().id
        };
        let (gateway, exit) = (of(false), of(true));
        Self {
            net,
            courses: Vec::new(),
            gateway,
            exit,
        }
    }

    fn run_until(&mut self, until: Time, mut done: impl FnMut(&[Course]) -> bool) {
        while self.net.now() < until && !done(&self.courses) {
            self.net.step_until(until);
            for (key, event) in self.net.events(0) {
                let Some(course) = self.courses.iter_mut().find(|c| c.key == key) else {
                    continue;
                };
                match event {
                    StreamEvent::Ended => course.end = Some(Ok(())),
                    StreamEvent::Failed(why) => {
                        course.end.get_or_insert(Err(why));
                    }
                    StreamEvent::Opened | StreamEvent::Readable | StreamEvent::Writable => {}
                }
            }
            for course in self.courses.iter_mut().filter(|c| c.end.is_none()) {
                course.go_on(&mut self.net);
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.net.now() + time;
        self.run_until(until, |_| false);
    }

    fn suffer(&mut self, fault: &Fault) {
        match *fault {
            Fault::Loss(share, s) => {
                self.net.set_loss(share);
                self.run_for(S(s));
                self.net.set_loss(0.0);
            }
            Fault::LostReplies(share, s) => {
                self.net.set_lost_replies(share);
                self.run_for(S(s));
                self.net.set_lost_replies(0.0);
            }
            Fault::MixRestarts(layer) => {
                let mix = self.net.document().layer(layer).next().unwrap().id;
                self.net.start(&mix).unwrap();
            }
            Fault::GatewayAway(s) => self.away(self.gateway, s),
            Fault::ExitAway(s) => self.away(self.exit, s),
            Fault::ClientRestarts => {
                self.net.restart_client(0).unwrap();
                self.courses.clear();
            }
        }
    }

    fn away(&mut self, node: NodeId, s: u64) {
        self.net.stop(&node);
        self.run_for(S(s));
        self.net.start(&node).unwrap();
    }

    fn stalls(&self) -> u64 {
        let of = |counters: &mizzle_base::Counters| {
            let stalls = counters.iter().filter(|(name, _)| name.starts_with("stall."));
            stalls.map(|(_, n)| n).sum::<u64>()
        };
        of(&self.net.client(0).counters()) + of(&self.net.node_counters())
    }
}

/// When a stream whose other end is gone has failed at the latest: a minute of silence, and four packets with SURBs that take
/// it to be noticed when slots are few.
const GIVEN_UP: Duration = Duration::from_secs(100);
/// When one whose other end lives has gone on: what was backed off for meanwhile is tried again within this.
const GONE_ON: Duration = Duration::from_secs(150);

fn check(seed: u64, faults: &[(Fault, u64)]) {
    let mut world = World::new(seed);
    world.run_for(S(1));
    world.courses.extend(Course::begin(&mut world.net));
    for (fault, then) in faults {
        world.run_for(Duration::from_millis(then * 100));
        world.suffer(fault);
        world.courses.extend(Course::begin(&mut world.net));
    }
    let quiet = world.net.now();
    let loses_sessions = |(fault, _): &(Fault, u64)| matches!(fault, Fault::ExitAway(_));
    let limit = if faults.iter().any(loses_sessions) {
        GIVEN_UP
    } else {
        GONE_ON
    };
    world.run_until(quiet + limit, |courses| courses.iter().all(|c| c.end.is_some()));
    for (n, course) in world.courses.iter().enumerate() {
        let at = format!(
            "seed {seed}, stream {n}, {} of {} bytes: {faults:?}; client {:?}, nodes {:?}",
            course.read.len(),
            PIECES * PIECE,
            world.net.client(0).counters(),
            world.net.node_counters()
        );
        let Some(end) = course.end else {
            panic!("it stalls after {limit:?} of quiet: {at}");
        };
        match end {
            Ok(()) => assert!(course.read == pattern(PIECES * PIECE), "not what was sent: {at}"),
            // Both ends live: no fault here lasts as long as what makes one of them give up.
            Err(why) if limit == GONE_ON => panic!("it failed, {why}: {at}"),
            Err(_) => {}
        }
    }
    // What opens now works, whatever was.
    let last = Course::begin(&mut world.net).unwrap();
    world.courses = vec![last];
    let until = world.net.now() + S(60);
    world.run_until(until, |courses| courses[0].end.is_some());
    assert_eq!(
        world.courses[0].end,
        Some(Ok(())),
        "a stream after it all: {faults:?}"
    );
}

/// How many, and from which seed.
fn cases() -> (u32, u64) {
    let asked = std::env::var("MIZZLE_FAULTS").ok();
    let parsed = asked.and_then(|text| {
        let (cases, seed) = text.split_once(',')?;
        Some((cases.parse().ok()?, seed.parse().ok()?))
    });
    parsed.unwrap_or((16, 20))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases().0,
        max_shrink_iters: 40,
        failure_persistence: None,
        rng_seed: prop::test_runner::RngSeed::Fixed(cases().1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_stream_waits_for_good_while_both_its_ends_live(
        seed in 0..1_000_000u64,
        faults in prop::collection::vec((fault(), 0..60u64), 1..5),
    ) {
        check(seed, &faults);
    }
}

#[test]
fn streams_to_an_exit_that_vanished_end_with_a_reason_each_counted_and_others_are_refused_in_time() {
    let mut world = World::new(5);
    world.run_for(S(1));
    for _ in 0..3 {
        world.courses.extend(Course::begin(&mut world.net));
        world.run_for(S(1));
    }
    let exit = world.exit;
    world.net.stop(&exit);
    let gone = world.net.now();
    world.run_until(gone + GIVEN_UP, |courses| courses.iter().all(|c| c.end.is_some()));
    let ends: Vec<_> = world.courses.iter().map(|c| c.end).collect();
    assert!(ends.iter().all(|end| matches!(end, Some(Err(_)))), "{ends:?}");
    println!("{ends:?} after {:?}", world.net.now().since(gone));
    let counters = world.net.client(0).counters();
    assert!(counters.get("stall.silence") > 0, "{counters:?}");
    // Asked for while it is gone: told so, not kept waiting.
    let asked = world.net.now();
    world.courses = Vec::from_iter(Course::begin(&mut world.net));
    world.run_until(asked + GIVEN_UP, |courses| {
        courses.iter().all(|c| c.end.is_some())
    });
    assert!(world.courses.iter().all(|c| matches!(c.end, Some(Err(_)))));
}

#[test]
fn what_a_client_left_when_it_began_anew_is_ended_at_the_exit_and_its_next_streams_are_none_the_worse() {
    let mut world = World::new(6);
    world.run_for(S(1));
    for n in 0..3 {
        world.courses.extend(Course::begin(&mut world.net));
        world.run_for(S(2));
        let sessions = world.net.node_counters().get("session.begun");
        assert!(sessions > n, "{sessions}");
        world.net.restart_client(0).unwrap();
        world.courses.clear();
        world.courses.extend(Course::begin(&mut world.net));
        let until = world.net.now() + S(60);
        world.run_until(until, |courses| courses[0].end.is_some());
        assert_eq!(world.courses[0].end, Some(Ok(())), "after restart {n}");
        assert!(world.courses[0].read == pattern(PIECES * PIECE));
    }
    let counted = |world: &World| {
        let counters = world.net.node_counters();
        (counters.get("session.begun"), counters.get("session.ended"))
    };
    // Each is given up after a while without a word of its client.
    let until = world.net.now() + S(900);
    while world.net.now() < until && counted(&world).0 != counted(&world).1 {
        world.run_for(S(10));
    }
    let (begun, ended) = counted(&world);
    assert_eq!(begun, ended, "{:?}", world.net.node_counters());
}

#[test]
fn every_kind_of_stall_ends_and_is_counted() {
    type Cause = fn(&mut World);
    let causes: [(&str, Cause); 4] = [
        // Answers to the first packet are lost.
        ("stall.initial", |w| {
            w.net.set_lost_replies(1.0);
            w.courses.extend(Course::begin(&mut w.net));
            w.run_for(S(10));
        }),
        ("stall.opening", |w| {
            w.net.set_loss(1.0);
            w.courses.extend(Course::begin(&mut w.net));
            w.run_for(S(40));
        }),
        ("stall.probe", |w| {
            w.courses.extend(Course::begin(&mut w.net));
            w.run_for(S(2));
            w.net.set_lost_replies(1.0);
            w.run_for(S(20));
        }),
        ("stall.silence", |w| {
            w.courses.extend(Course::begin(&mut w.net));
            w.run_for(S(2));
            w.net.stop(&w.exit.clone());
            w.run_for(S(90));
        }),
    ];
    for (name, cause) in causes {
        let mut world = World::new(3);
        world.run_for(S(1));
        assert_eq!(world.stalls(), 0, "{name}: nothing has gone wrong yet");
        cause(&mut world);
        let counted = world.net.client(0).counters().get(name);
        assert!(
            counted > 0,
            "{name} isn't counted: {:?}",
            world.net.client(0).counters()
        );
        println!("{name}: {counted}");
    }
}
