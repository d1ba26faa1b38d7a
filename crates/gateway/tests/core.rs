//! A gateway core and one clock: admission, the downlink's ticks, replies that get lost on the link, SURBs of drops.
//!
//! Nothing sleeps and all randomness has a seed, which stands in the message of a failed assertion.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::{HERE, THERE, id, secret};
use mizzle_base::frame::{self, Content, FRAME_LEN, Frame, Refusal};
use mizzle_base::{ClientTag, Document, MailboxId, NetworkId, NodeId, Profile, Rng, Time};
use mizzle_gateway::store::{Limits, MailStore as _, MemoryMailStore};
use mizzle_gateway::{Action, Admission, ClientId, Config, Conn, Gateway, Input};
use mizzle_sphinx::{Dialect, Packet, Peeled, Peeler, SURB_LEN, SurbKeys, build_surb, pad, recover};
use mizzle_traffic::draw;
use mizzle_traffic::pattern::{Pattern, Poisson};
use mizzle_traffic::route::Route;
use proptest::prelude::*;
use rand_core::{Rng as _, SeedableRng as _};

const START: Time = Time::from_s(15_000);
/// `browse` with a downlink that is a round number of microseconds and nearly full.
fn browse() -> Profile {
    Profile {
        downlink_per_s: 80.0,
        ..Profile::browse()
    }
}

/// 80 frames a second.
const INTERVAL: Duration = Duration::from_micros(12_500);
const US: Duration = Duration::from_micros(1);
const ALICE: ClientId = ClientId([0xa1; 32]);
const BOB: ClientId = ClientId([0xb0; 32]);
const EXIT: MailboxId = MailboxId::new([0xe7; 16]);

fn document(profile: Profile) -> Arc<Document> {
    common::document(profile, 20_000)
}

/// What a client saw of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Filler,
    /// Its number and what [`World::reply`] put into it.
    Reply(u64, u64),
    Welcome(ClientTag, MailboxId),
    Refused(Refusal),
}

/// A gateway and its driver, which asks it when it wants to be asked, and never else.
struct World {
    document: Arc<Document>,
    gateway: Gateway,
    store: MemoryMailStore,
    now: Time,
    seen: Vec<(Time, ClientId, Seen)>,
    mixed: Vec<(Time, Packet)>,
    exits: Vec<Packet>,
    posted: Vec<Packet>,
    refused: Vec<ClientId>,
    /// By which clients speak.
    conn: Conn,
    /// What the last filler said of the number of users.
    users: u32,
    /// Decides which frames of the ticks the link has no room for.
    no_room: Box<dyn FnMut() -> bool>,
}

impl World {
    fn new() -> Self {
        Self::with(Config::default(), browse(), 4_096)
    }

    fn with(config: Config, profile: Profile, replies: usize) -> Self {
        let document = document(profile);
        let (config, rng) = (config.with_replies(replies), Rng::seed_from_u64(1));
        Self {
            gateway: Gateway::new(config, Arc::clone(&document), &id(HERE), Vec::new(), rng),
            store: MemoryMailStore::in_memory(Limits::default()),
            document,
            now: START,
            seen: Vec::new(),
            mixed: Vec::new(),
            exits: Vec::new(),
            posted: Vec::new(),
            refused: Vec::new(),
            conn: Conn(1),
            users: 0,
            no_room: Box::new(|| false),
        }
    }

    fn tell(&mut self, input: Input) {
        self.gateway.handle(self.now, input);
        while let Some(action) = self.gateway.poll() {
            match action {
                Action::Welcome { client, conn, bytes } => {
                    assert_eq!(conn, self.conn, "the one by which the hello came");
                    self.seen.push((self.now, client, look(&bytes)));
                }
                Action::Send { client, bytes, .. } => {
                    if let Content::Filler { users } = frame::decode(&bytes).unwrap().content {
                        self.users = users;
                    }
                    if (self.no_room)() {
                        self.gateway.handle(self.now, Input::NotWritten { client, bytes });
                    } else {
                        self.seen.push((self.now, client, look(&bytes)));
                    }
                }
                Action::Refuse { client, bytes, .. } => {
                    self.seen.push((self.now, client, look(&bytes)));
                    self.refused.push(client);
                }
                Action::Mix(packet) => self.mixed.push((self.now, packet)),
                Action::Exit(packet) => self.exits.push(packet),
                Action::Post(packet) => self.posted.push(packet),
                Action::Store(order) => {
                    let (answers, trouble) = self.store.perform(vec![order]);
                    assert_eq!(trouble, Ok(()));
                    for answer in answers {
                        self.gateway.handle(self.now, Input::Store(answer));
                    }
                }
                Action::Upload(..) => panic!("nobody brings a letter here"),
            }
        }
    }

    fn frame(&mut self, client: ClientId, ack: u64, content: Content) {
        let bytes = frame::encode(&Frame { ack, seq: 0, content });
        let conn = self.conn;
        self.tell(Input::Frame { client, conn, bytes });
    }

    fn hello_with(&mut self, client: ClientId, ack: u64, network: NetworkId, token: &[u8]) -> Seen {
        self.frame(
            client,
            ack,
            Content::Hello {
                network,
                run: [1; 8],
                token: token.to_vec(),
            },
        );
        let (at, to, seen) = *self.seen.last().unwrap();
        assert_eq!((at, to), (self.now, client));
        seen
    }

    fn hello(&mut self, client: ClientId, ack: u64) -> Seen {
        self.hello_with(client, ack, self.document.network(), b"")
    }

    fn admit(&mut self, client: ClientId) -> ClientTag {
        match self.hello(client, 1) {
            Seen::Welcome(tag, _) => tag,
            other => panic!("{other:?}"),
        }
    }

    /// An uplink frame.
    fn packet(&mut self, client: ClientId, ack: u64) {
        self.frame(client, ack, Content::Packet(Packet::zeroed()));
    }

    /// The mix core delivers a reply with this in its payload.
    fn reply(&mut self, tag: ClientTag, what: u64) {
        let mut packet = Packet::zeroed();
        packet.payload_mut()[..8].copy_from_slice(&what.to_be_bytes());
        self.tell(Input::Reply {
            id: tag.reply_id(what.to_be_bytes()),
            packet,
        });
    }

    /// Lets time pass, with a driver that obeys [`Gateway::deadline`].
    fn run_until(&mut self, end: Time) {
        while let Some(at) = self.gateway.deadline().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Tick);
        }
        self.now = end;
    }

    fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn count(&self, name: &str) -> u64 {
        self.gateway.counters().get(name)
    }

    /// Frames of the ticks of a client: when, and the mail in it.
    fn ticks(&self, client: ClientId) -> Vec<(Time, Option<(u64, u64)>)> {
        let of = self.seen.iter().filter(|s| s.1 == client);
        of.filter_map(|&(at, _, seen)| match seen {
            Seen::Filler => Some((at, None)),
            Seen::Reply(number, what) => Some((at, Some((number, what)))),
            Seen::Welcome(..) | Seen::Refused(_) => None,
        })
        .collect()
    }

    fn times(&self, client: ClientId) -> Vec<Time> {
        self.ticks(client).iter().map(|t| t.0).collect()
    }

    /// The mail a client got, in order.
    fn got(&self, client: ClientId) -> Vec<(u64, u64)> {
        self.ticks(client).iter().filter_map(|t| t.1).collect()
    }
}

fn look(bytes: &[u8]) -> Seen {
    assert_eq!(bytes.len(), FRAME_LEN);
    let Frame { ack, seq, content } = frame::decode(bytes).unwrap();
    assert_eq!(ack, 0, "downlink frames acknowledge nothing");
    match content {
        Content::Reply { id, payload } => {
            let what = u64::from_be_bytes(payload[..8].try_into().unwrap());
            assert_eq!(id[8..], what.to_be_bytes(), "id and payload belong together");
            assert_ne!(seq, 0);
            Seen::Reply(seq, what)
        }
        other => {
            assert_eq!(seq, 0);
            match other {
                Content::Filler { .. } => Seen::Filler,
                Content::Welcome { tag, mailbox, .. } => Seen::Welcome(tag, mailbox),
                Content::Refused { why, .. } => Seen::Refused(why),
                _ => panic!("an uplink frame was sent down"),
            }
        }
    }
}

/// Numbers from 1, each with the mail of the same number.
fn numbered(n: u64) -> Vec<(u64, u64)> {
    (1..=n).map(|i| (i, i)).collect()
}

/// Every frame at its tick: one an interval, from the first on.
fn assert_constant_rate(times: &[Time]) {
    for (n, pair) in times.windows(2).enumerate() {
        assert_eq!(pair[1].since(pair[0]), INTERVAL, "after frame {n}");
    }
}

// Admission

#[test]
fn a_client_is_welcomed_with_the_same_tag_and_mailbox_after_a_reconnect() {
    let mut world = World::new();
    let first = world.hello(ALICE, 1);
    assert!(matches!(first, Seen::Welcome(..)));
    assert_eq!(world.gateway.linked(), 1);
    world.run(Duration::from_secs(1));
    world.tell(Input::Gone { client: ALICE });
    assert_eq!(world.gateway.linked(), 0);
    world.run(Duration::from_secs(60));
    assert_eq!(world.hello(ALICE, 1), first);
    let other = world.hello(BOB, 1);
    match (first, other) {
        (Seen::Welcome(a, b), Seen::Welcome(c, d)) => assert!(a != c && b != d),
        _ => panic!("{other:?}"),
    }
    assert!(world.refused.is_empty());
}

#[test]
fn a_client_of_another_network_is_refused() {
    let mut world = World::new();
    let refused = world.hello_with(ALICE, 1, NetworkId::new([5; 32]), b"");
    assert_eq!(refused, Seen::Refused(Refusal::WrongNetwork));
    assert_eq!(world.refused, [ALICE]);
    assert_eq!((world.gateway.linked(), world.gateway.deadline()), (0, None));
    assert_eq!(world.count("client.refused"), 1);
}

#[test]
fn a_full_gateway_refuses_newcomers_and_takes_back_its_own() {
    let mut world = World::with(
        Config::default().with_downlink_capacity_per_s(160.0),
        browse(),
        10,
    );
    assert_eq!(world.gateway.capacity(), 2);
    world.admit(ALICE);
    world.admit(BOB);
    let carol = ClientId([0xca; 32]);
    assert_eq!(world.hello(carol, 1), Seen::Refused(Refusal::Full));
    assert_eq!(world.refused, [carol]);
    assert!(
        matches!(world.hello(BOB, 1), Seen::Welcome(..)),
        "its link is thought to live still"
    );
    assert_eq!(world.gateway.linked(), 2);
    world.tell(Input::Gone { client: ALICE });
    world.admit(carol);
    assert_eq!(
        world.hello(ALICE, 1),
        Seen::Refused(Refusal::Full),
        "her place is taken"
    );
}

#[test]
fn the_number_of_mailboxes_is_bounded_too() {
    let mut world = World::with(
        Config::default().with_downlink_capacity_per_s(160.0),
        browse(),
        10,
    );
    for n in 0..8 {
        world.admit(ClientId([n; 32]));
        world.tell(Input::Gone {
            client: ClientId([n; 32]),
        });
    }
    assert_eq!(world.hello(ClientId([8; 32]), 1), Seen::Refused(Refusal::Full));
    assert!(
        matches!(world.hello(ClientId([0; 32]), 1), Seen::Welcome(..)),
        "a known one comes back"
    );
}

#[test]
fn without_the_token_a_client_is_refused() {
    let token = b"please".to_vec();
    let config = Config::default().with_admission(Admission::Token(token.into()));
    let mut world = World::with(config, browse(), 10);
    let network = world.document.network();
    for bad in [&b""[..], b"pleas", b"please!", b"Please", &[0; 255]] {
        let refused = world.hello_with(ALICE, 1, network, bad);
        assert_eq!(refused, Seen::Refused(Refusal::NotAdmitted), "{bad:?}");
    }
    assert_eq!(world.refused, [ALICE; 5]);
    assert_eq!(world.gateway.linked(), 0);
    assert!(matches!(
        world.hello_with(ALICE, 1, network, b"please"),
        Seen::Welcome(..)
    ));
}

#[test]
fn who_is_not_on_the_list_is_refused() {
    let config = Config::default().with_admission(Admission::AllowList(BTreeSet::from([BOB])));
    let mut world = World::with(config, browse(), 10);
    assert_eq!(world.hello(ALICE, 1), Seen::Refused(Refusal::NotAdmitted));
    assert!(matches!(world.hello(BOB, 1), Seen::Welcome(..)));
    assert_eq!(world.refused, [ALICE]);
}

#[test]
fn packets_of_who_was_not_admitted_are_dropped_and_counted() {
    let mut world = World::new();
    world.packet(ALICE, 1);
    world.hello_with(BOB, 1, NetworkId::new([5; 32]), b"");
    world.packet(BOB, 1);
    world.admit(ALICE);
    world.tell(Input::Gone { client: ALICE });
    world.packet(ALICE, 1);
    assert_eq!(world.count("drop.not_admitted"), 3);
    assert!(world.mixed.is_empty());
    world.admit(ALICE);
    world.packet(ALICE, 1);
    assert_eq!((world.mixed.len(), world.count("uplink.packet")), (1, 1));
}

#[test]
fn frames_that_a_client_does_not_send_get_silence() {
    let mut world = World::new();
    let contents = || {
        [
            Content::Filler { users: 0 },
            Content::Reply {
                id: [1; 16],
                payload: Box::new([2; mizzle_sphinx::PAYLOAD_LEN]),
            },
            Content::Welcome {
                tag: ClientTag([1; 8]),
                mailbox: EXIT,
                generation: 1,
            },
            Content::Refused {
                why: Refusal::Full,
                run: [0; 8],
            },
        ]
    };
    contents()
        .into_iter()
        .for_each(|content| world.frame(ALICE, 1, content));
    assert!(world.seen.is_empty());
    world.admit(ALICE);
    contents()
        .into_iter()
        .for_each(|content| world.frame(ALICE, 1, content));
    world.tell(Input::Frame {
        client: ALICE,
        conn: Conn(1),
        bytes: vec![1; FRAME_LEN - 1].into(),
    });
    assert_eq!(world.seen.len(), 1, "the welcome");
    assert_eq!(world.count("drop.bad_frame"), 9);
    assert!(world.mixed.is_empty() && world.refused.is_empty());
}

// The downlink

#[test]
fn the_downlink_has_one_frame_at_every_tick_and_it_is_ready_before() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    for what in 1..=300 {
        world.reply(tag, what);
    }
    for _ in 0..10 {
        world.run(INTERVAL * 100);
        world.packet(ALICE, world.got(ALICE).len() as u64 + 1);
    }
    let times = world.times(ALICE);
    assert_eq!(times.len(), 1_000);
    assert!(times[0].since(START) <= INTERVAL);
    assert_constant_rate(&times);
    assert_eq!(world.got(ALICE), numbered(300));
    assert_eq!(world.count("downlink.unready"), 0);
    assert_eq!(world.count("downlink.late_tick"), 0);
    assert_eq!(
        (world.count("downlink.reply"), world.count("downlink.filler")),
        (300, 700)
    );
}

#[test]
fn a_frame_is_decided_before_its_tick_and_what_comes_after_that_waits() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    world.run(INTERVAL * 3);
    let next = *world.times(ALICE).last().unwrap() + INTERVAL;
    world.run_until(next - US);
    world.reply(tag, 1);
    world.run_until(next);
    assert_eq!(world.got(ALICE), [], "the filler was made already");
    world.run_until(next + INTERVAL);
    assert_eq!(world.got(ALICE), [(1, 1)]);
    assert_constant_rate(&world.times(ALICE));
}

#[test]
fn number_and_times_of_frames_are_the_same_with_and_without_mail() {
    let run = |mail_every: Option<u64>, ack: bool| {
        let mut world = World::new();
        let tag = world.admit(ALICE);
        for step in 1..=2_000 {
            // Beside the ticks, near them, and at some of them.
            world.run(Duration::from_micros(3_125));
            if mail_every.is_some_and(|n| step % n == 0) {
                world.reply(tag, step);
            }
            if step % 7 == 0 {
                let got = world.got(ALICE).len() as u64;
                world.packet(ALICE, if ack { got + 1 } else { 1 });
            }
        }
        assert_eq!(world.count("downlink.unready"), 0);
        world.times(ALICE)
    };
    let silent = run(None, true);
    assert_eq!(silent.len(), 500);
    for (mail_every, ack) in [(1, true), (1, false), (3, true), (500, true)] {
        assert_eq!(
            run(Some(mail_every), ack),
            silent,
            "mail every {mail_every} steps"
        );
    }
}

#[test]
fn the_ticks_of_clients_that_come_together_are_spread_over_the_interval() {
    let mut world = World::new();
    for n in 0..100 {
        world.admit(ClientId([n; 32]));
    }
    world.run(INTERVAL * 2);
    let firsts: BTreeMap<ClientId, Time> = (0..100)
        .map(|n| ClientId([n; 32]))
        .map(|c| (c, world.times(c)[0]))
        .collect();
    let late_half = firsts
        .values()
        .filter(|at| at.since(START) > INTERVAL / 2)
        .count();
    // Four standard deviations of 100 coins.
    assert!((30..=70).contains(&late_half), "seed 1: {late_half} of 100");
    assert!(firsts.values().collect::<BTreeSet<_>>().len() > 90, "seed 1");
}

#[test]
fn mail_is_kept_until_it_is_acknowledged_and_sent_again_after_a_reconnect() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    (1..=6).for_each(|what| world.reply(tag, what));
    world.run(INTERVAL * 10);
    assert_eq!(world.got(ALICE), numbered(6));
    // Two of them reached her program.
    world.packet(ALICE, 3);
    world.tell(Input::Gone { client: ALICE });
    world.reply(tag, 7);
    world.run(Duration::from_secs(3));
    assert_eq!(world.got(ALICE).len(), 6, "nothing is sent to who is away");
    world.seen.clear();
    world.hello(ALICE, 3);
    world.run(INTERVAL * 10);
    assert_eq!(world.got(ALICE), numbered(7)[2..]);
}

#[test]
fn an_acknowledgement_in_the_hello_counts() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    (1..=6).for_each(|what| world.reply(tag, what));
    world.run(INTERVAL * 10);
    world.tell(Input::Gone { client: ALICE });
    world.seen.clear();
    world.hello(ALICE, 6);
    world.run(INTERVAL * 10);
    assert_eq!(world.got(ALICE), [(6, 6)]);
}

#[test]
fn a_client_that_started_anew_gets_its_mail_with_the_numbers_that_it_expects() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    (1..=6).for_each(|what| world.reply(tag, what));
    world.run(INTERVAL * 10);
    world.packet(ALICE, 5);
    // Its process ended and lost its count: the first it expects is number 1, twice over.
    for _ in 0..2 {
        world.seen.clear();
        assert_eq!(world.admit(ALICE), tag);
        world.run(INTERVAL * 10);
        assert_eq!(world.got(ALICE), [(1, 5), (2, 6)]);
    }
    world.packet(ALICE, 2);
    world.reply(tag, 7);
    world.seen.clear();
    world.hello(ALICE, 2);
    world.run(INTERVAL * 10);
    assert_eq!(world.got(ALICE), [(2, 6), (3, 7)]);
    world.packet(ALICE, 4);
    world.seen.clear();
    world.admit(ALICE);
    world.reply(tag, 8);
    world.run(INTERVAL * 10);
    assert_eq!(world.got(ALICE), [(1, 8)], "started anew a second time");
}

#[test]
fn a_client_that_expects_what_an_earlier_run_of_the_gateway_had_gets_its_numbers() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    // It has read 499 replies of a gateway that was killed.
    for _ in 0..2 {
        world.hello(ALICE, 500);
        world.reply(tag, 1);
    }
    world.run(INTERVAL * 3);
    assert_eq!(world.got(ALICE), [(500, 1), (501, 1)]);
    world.packet(ALICE, 502);
    world.seen.clear();
    world.hello(ALICE, 502);
    world.reply(tag, 2);
    world.run(INTERVAL * 3);
    assert_eq!(world.got(ALICE), [(502, 2)]);
}

#[test]
fn a_client_cannot_acknowledge_what_never_came() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    world.reply(tag, 1);
    world.run(INTERVAL * 2);
    for ack in [u64::MAX, 0, 1_000] {
        world.packet(ALICE, ack);
    }
    world.seen.clear();
    world.hello(ALICE, 1);
    world.reply(tag, 2);
    world.run(INTERVAL * 2);
    assert_eq!(world.got(ALICE), numbered(2), "both are kept");
}

#[test]
fn what_was_not_written_is_sent_again_in_order_and_nothing_is_skipped() {
    for seed in 0..10 {
        let mut world = World::new();
        let mut rng = Rng::seed_from_u64(seed);
        world.no_room = Box::new(move || draw::unit(&mut rng) <= 0.4);
        let tag = world.admit(ALICE);
        for what in 1..=200 {
            world.reply(tag, what);
            world.run(INTERVAL * 3 / 2);
        }
        world.run(INTERVAL * 300);
        assert_eq!(world.got(ALICE), numbered(200), "seed {seed}");
        assert_eq!(world.count("downlink.unready"), 0, "seed {seed}");
        let times = world.times(ALICE);
        assert!(
            times
                .iter()
                .all(|at| at.since(times[0]).as_micros() % INTERVAL.as_micros() == 0),
            "seed {seed}"
        );
        assert_eq!(
            times.len() as u64 + world.count("downlink.not_written"),
            600,
            "seed {seed}"
        );
    }
}

#[test]
fn a_refusal_that_the_link_tells_of_late_costs_no_tick() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    (1..=4).for_each(|what| world.reply(tag, what));
    world.run(INTERVAL * 2);
    assert_eq!(world.got(ALICE), numbered(2));
    // Number 3 is made; then it turns out that number 2 was not written.
    let next = *world.times(ALICE).last().unwrap() + INTERVAL;
    world.run_until(next - US);
    let content = Content::Reply {
        id: [0; 16],
        payload: Box::new([0; mizzle_sphinx::PAYLOAD_LEN]),
    };
    let bytes = frame::encode(&Frame {
        ack: 0,
        seq: 2,
        content,
    });
    world.tell(Input::NotWritten { client: ALICE, bytes });
    world.run(INTERVAL * 4);
    assert_eq!(world.got(ALICE), [(1, 1), (2, 2), (2, 2), (3, 3), (4, 4)]);
    assert_constant_rate(&world.times(ALICE));
    assert_eq!(world.count("downlink.unready"), 0);
}

#[test]
fn mail_survives_a_lossy_link_reconnects_and_late_acknowledgements() {
    for seed in 0..5 {
        let mut world = World::new();
        let mut rng = Rng::seed_from_u64(100 + seed);
        let mut losses = Rng::seed_from_u64(200 + seed);
        world.no_room = Box::new(move || draw::unit(&mut losses) <= 0.2);
        let tag = world.admit(ALICE);
        // The client's side: what it expects next, and how much of `seen` it has read.
        let (mut expected, mut read, mut mailed) = (1, 0, 0);
        for _ in 0..2_000 {
            if mailed < 500 && draw::below(&mut rng, 3) > 0 {
                mailed += 1;
                world.reply(tag, mailed);
            }
            world.run(INTERVAL.mul_f64(draw::unit(&mut rng)));
            if draw::below(&mut rng, 50) == 0 {
                // What is on the link is lost with the connection.
                world.tell(Input::Gone { client: ALICE });
                world.run(INTERVAL * 5);
                read = world.seen.len();
                world.hello(ALICE, expected);
            } else if draw::below(&mut rng, 4) == 0 {
                for &(_, _, seen) in &world.seen[read..] {
                    if let Seen::Reply(number, what) = seen
                        && number == expected
                    {
                        assert_eq!(what, expected, "seed {seed}");
                        expected += 1;
                    }
                }
                read = world.seen.len();
                world.packet(ALICE, expected);
            }
        }
        assert_eq!(expected, 501, "seed {seed}: all mail, each once, in order");
        assert_eq!(world.count("downlink.unready"), 0, "seed {seed}");
    }
}

#[test]
fn ticks_that_the_driver_slept_through_are_skipped_without_a_burst_or_loss() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    (1..=20).for_each(|what| world.reply(tag, what));
    world.run(INTERVAL * 5);
    let before = world.times(ALICE);
    let last = *before.last().unwrap();
    // The next frame is made already when the machine is suspended.
    world.run_until(last + INTERVAL - US);
    let woken = last + INTERVAL * 11 + Duration::from_millis(3);
    world.now = woken;
    world.tell(Input::Tick);
    assert_eq!(world.count("downlink.late_tick"), 10);
    let after = world.times(ALICE)[before.len()..].to_vec();
    assert_eq!(after, [woken], "one frame, for the tick that is 3 ms late");
    world.run(INTERVAL * 30);
    let times = &world.times(ALICE)[before.len() + 1..];
    assert_eq!(times[0], last + INTERVAL * 12, "the ticks are where they were");
    assert_constant_rate(times);
    assert_eq!(world.got(ALICE), numbered(20));
}

#[test]
fn an_hour_of_sleep_costs_the_same() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    world.run(INTERVAL);
    world.reply(tag, 1);
    let sent = world.seen.len();
    world.now = world.now + Duration::from_secs(3_600);
    world.tell(Input::Tick);
    assert!(world.seen.len() <= sent + 1);
    world.run(INTERVAL * 10);
    assert_eq!(world.got(ALICE), [(1, 1)]);
    assert!((10..=11).contains(&(world.seen.len() - sent)));
}

#[test]
fn frames_go_on_when_the_clock_is_set_back() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    world.run(Duration::from_secs(1));
    world.reply(tag, 1);
    world.seen.clear();
    world.now = START - Duration::from_secs(3_600);
    world.tell(Input::Tick);
    assert!(world.seen.is_empty());
    world.run(INTERVAL * 80);
    assert_eq!(world.ticks(ALICE).len(), 80);
    assert_constant_rate(&world.times(ALICE));
    assert_eq!(world.got(ALICE), [(1, 1)]);
    assert_eq!(world.count("downlink.unready"), 0);
    for _ in 0..200 {
        world.run(Duration::from_millis(20));
        world.packet(ALICE, 1);
    }
    assert_eq!(world.count("drop.client_too_fast"), 0);
    // A step back of less than a second is an unsteady clock, and changes nothing.
    let next = world.gateway.deadline();
    world.now = world.now - Duration::from_millis(900);
    world.tell(Input::Tick);
    assert_eq!(world.gateway.deadline(), next);
}

#[test]
fn the_ends_of_time_do_no_harm() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    world.reply(tag, 1);
    for now in [Time::FAR_FUTURE, Time::ZERO, Time::FAR_FUTURE, START] {
        world.now = now;
        world.tell(Input::Tick);
        world.packet(ALICE, 1);
        assert!(world.seen.len() < 10, "{now}");
    }
    world.run(INTERVAL * 4);
    assert!(world.got(ALICE).contains(&(1, 1)));
}

#[test]
fn a_full_mailbox_takes_nothing_more_and_counts_it() {
    let mut world = World::with(Config::default(), browse(), 5);
    let tag = world.admit(ALICE);
    (1..=8).for_each(|what| world.reply(tag, what));
    assert_eq!(
        (world.count("reply.kept"), world.count("drop.mailbox_full")),
        (5, 3)
    );
    world.run(INTERVAL * 10);
    assert_eq!(world.got(ALICE), numbered(5));
    world.reply(tag, 9);
    assert_eq!(world.count("drop.mailbox_full"), 4, "sent is not acknowledged");
    world.packet(ALICE, 6);
    world.reply(tag, 10);
    world.run(INTERVAL * 2);
    assert_eq!(world.got(ALICE).last(), Some(&(6, 10)));
}

#[test]
fn the_mail_of_one_client_never_reaches_another() {
    let mut world = World::new();
    let (alice, bob) = (world.admit(ALICE), world.admit(BOB));
    for what in 1..=50 {
        world.reply(alice, 1_000 + what);
        world.reply(bob, 2_000 + what);
        world.run(INTERVAL);
    }
    world.reply(ClientTag([0; 8]), 3_000);
    // One acknowledges all; the other's mail stays.
    world.packet(ALICE, 51);
    world.hello(BOB, 1);
    world.run(INTERVAL * 60);
    let whats = |client| {
        world
            .got(client)
            .into_iter()
            .map(|m| m.1)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(whats(ALICE), (1_001..=1_050).collect());
    assert_eq!(whats(BOB), (2_001..=2_050).collect());
    assert_eq!(world.count("drop.no_such_client"), 1);
}

#[test]
fn a_newer_connection_wins_and_there_is_still_one_frame_a_tick() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    (1..=3).for_each(|what| world.reply(tag, what));
    world.run(INTERVAL * 2);
    // Also just before a tick, when a frame is made already.
    for _ in 0..20 {
        world.run(INTERVAL * 3 / 10);
        assert!(matches!(world.hello(ALICE, 1), Seen::Welcome(again, _) if again == tag));
    }
    world.seen.clear();
    assert_eq!(world.gateway.linked(), 1);
    world.run(INTERVAL * 100);
    assert_eq!(world.ticks(ALICE).len(), 100);
    assert_constant_rate(&world.times(ALICE));
    assert_eq!(world.got(ALICE), numbered(3), "what was not acknowledged, again");
    assert_eq!(world.count("downlink.unready"), 0);
    world.tell(Input::Gone { client: ALICE });
    assert_eq!((world.gateway.linked(), world.gateway.deadline()), (0, None));
}

// The uplink

/// Poisson packets of a client for ten minutes; returns how many came.
fn uplink(world: &mut World, seed: u64, per_s: f64) -> u64 {
    let (mut rng, mut pattern) = (Rng::seed_from_u64(seed), Poisson { per_s });
    let mut came = 0;
    while world.now < START + Duration::from_secs(600) {
        // Straight to the next packet: the downlink's ticks don't matter here.
        world.now = pattern.next(&mut rng, world.now);
        world.packet(ALICE, 1);
        world.mixed.clear();
        world.seen.clear();
        came += 1;
    }
    came
}

#[test]
fn a_client_that_follows_the_profile_is_never_policed() {
    let mut world = World::new();
    world.admit(ALICE);
    let rate = world.document.profile().uplink_per_s();
    let came = uplink(&mut world, 41, rate);
    assert!(came > 29_000, "seed 41: {came}");
    assert_eq!(
        (world.count("drop.client_too_fast"), world.count("uplink.packet")),
        (0, came),
        "seed 41"
    );
}

#[test]
fn a_client_at_twice_the_rate_of_the_profile_is_held_to_a_tenth_above_it() {
    let mut world = World::new();
    world.admit(ALICE);
    let rate = world.document.profile().uplink_per_s();
    let came = uplink(&mut world, 42, 2.0 * rate);
    let passed = world.count("uplink.packet");
    let ratio = passed as f64 / (600.0 * rate);
    assert!((1.09..1.12).contains(&ratio), "seed 42: {ratio}");
    assert_eq!(world.count("drop.client_too_fast"), came - passed);
}

#[test]
fn a_reconnect_gives_no_new_allowance_and_one_client_none_to_another() {
    let mut world = World::new();
    world.admit(ALICE);
    while world.count("drop.client_too_fast") == 0 {
        world.packet(ALICE, 1);
    }
    world.tell(Input::Gone { client: ALICE });
    world.admit(ALICE);
    let passed = world.mixed.len();
    world.packet(ALICE, 1);
    assert_eq!(world.mixed.len(), passed);
    world.admit(BOB);
    world.packet(BOB, 1);
    assert_eq!(world.mixed.len(), passed + 1);
}

#[test]
fn a_packet_that_is_policed_still_acknowledges() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    world.reply(tag, 1);
    world.run(INTERVAL * 2);
    while world.count("drop.client_too_fast") == 0 {
        world.packet(ALICE, 1);
    }
    world.packet(ALICE, 2);
    world.seen.clear();
    world.hello(ALICE, 2);
    world.run(INTERVAL * 4);
    assert_eq!(world.got(ALICE), []);
}

// Messages of the mix core

#[test]
fn a_message_for_the_exit_goes_there_and_one_for_nobody_nowhere() {
    let mut world = World::new();
    let mut packet = Packet::zeroed();
    packet.message_mut()[0] = 42;
    world.tell(Input::Message {
        mailbox: EXIT,
        packet,
    });
    assert_eq!(world.exits.len(), 1);
    assert_eq!(world.exits[0].message()[0], 42);
    world.tell(Input::Message {
        mailbox: MailboxId::new([1; 16]),
        packet: Packet::zeroed(),
    });
    assert_eq!(world.count("drop.no_such_mailbox"), 1);
    assert_eq!((world.exits.len(), world.mixed.len()), (1, 0));
}

#[test]
fn a_message_for_the_mail_goes_to_its_sessions() {
    let mut world = World::new();
    world.tell(Input::Message {
        mailbox: MailboxId::new([0xea; 16]),
        packet: Packet::zeroed(),
    });
    assert_eq!((world.posted.len(), world.exits.len()), (1, 0));
}

#[test]
fn a_gateway_without_an_exit_has_no_mailbox_for_one() {
    let document = document(browse());
    let rng = Rng::seed_from_u64(1);
    let mut gateway = Gateway::new(Config::default(), document, &id(THERE), Vec::new(), rng);
    gateway.handle(
        START,
        Input::Message {
            mailbox: EXIT,
            packet: Packet::zeroed(),
        },
    );
    assert!(matches!(gateway.poll(), None | Some(Action::Store(_))));
    assert!(gateway.poll().is_none());
    assert_eq!(gateway.counters().get("drop.no_such_mailbox"), 1);
}

#[test]
fn fillers_say_how_many_users_there_are_at_least() {
    let mut world = World::with(Config::default(), Profile::chat(), 4_096);
    world.admit(ALICE);
    world.run(Duration::from_secs(3));
    assert_eq!(world.users, 0, "nothing can be said yet");
    let here = world.document.node(&id(HERE)).unwrap().weight;
    let all: f64 = world.document.gateways().map(|gateway| gateway.weight).sum();
    let profile = world.document.profile();
    let each_per_s = (profile.payload_per_s + profile.drop_per_s) * here / all;
    for (users, told) in [(50.0, 32), (200.0, 128), (5.0, 4)] {
        let (mut left_s, gap) = (700.0, 1.0 / (users * each_per_s));
        while left_s > 0.0 {
            world.now = world.now.plus_s_f64(gap);
            left_s -= gap;
            // Of no mailbox: it counts as it comes, whatever it is.
            world.tell(Input::Message {
                mailbox: MailboxId::new([1; 16]),
                packet: Packet::zeroed(),
            });
        }
        let (mean, least) = world.gateway.users().unwrap();
        assert!(
            (mean / users - 1.0).abs() < 0.1 && least < mean,
            "{users}: {mean}"
        );
        assert_eq!(world.users, told, "{users}");
    }
    // None but the one who hears it.
    world.run(Duration::from_secs(320));
    assert_eq!(world.users, 0);
    assert_eq!(world.gateway.mailboxes(), (1, 0));
}

fn drop_message(body: &[u8]) -> Input {
    let mut packet = Packet::zeroed();
    pad(Dialect::Lioness, body, packet.message_mut()).unwrap();
    Input::Message {
        mailbox: MailboxId::DROP,
        packet,
    }
}

/// Five SURBs that begin here and end at the other gateway, and what reads their replies.
fn surbs(document: &Document, seed: u64) -> (Vec<u8>, Vec<SurbKeys>) {
    let mut rng = Rng::seed_from_u64(seed);
    let (here, there) = (
        document.node(&id(HERE)).unwrap(),
        document.node(&id(THERE)).unwrap(),
    );
    let (mut bytes, mut kept) = (vec![5], Vec::new());
    for n in 1..=5 {
        let route = Route::between(&mut rng, document, here, there);
        let (surb, keys) = build_surb(Dialect::Lioness, &mut rng, &route.hops(), &[n; 16]).unwrap();
        let mut out = [0; SURB_LEN];
        surb.to_bytes(&mut out);
        bytes.extend_from_slice(&out);
        kept.push(keys);
    }
    (bytes, kept)
}

#[test]
fn the_surbs_of_a_drop_become_packets_that_go_home_through_this_gateway() {
    let mut world = World::new();
    let (mut body, kept) = surbs(&world.document, 50);
    // What a drop has behind its SURBs means nothing.
    body.extend_from_slice(&[0x77; 100]);
    world.tell(drop_message(&body));
    assert!(world.mixed.is_empty(), "nothing leaves at once");
    assert!(world.gateway.deadline().is_some_and(|at| at > START));
    world.run(Duration::from_secs(10));
    assert_eq!(world.gateway.deadline(), None, "none is left");
    assert_eq!((world.mixed.len(), world.count("filler_reply")), (5, 5));
    let times: BTreeSet<Time> = world.mixed.iter().map(|m| m.0).collect();
    assert_eq!(times.len(), 5, "each at its own time");
    let mut kept: BTreeMap<u8, SurbKeys> = (1..).zip(kept).collect();
    for (_, mut packet) in world.mixed {
        let mut at = HERE;
        let id = loop {
            let peeled = Peeler::new(secret(at), Dialect::Lioness)
                .peel(&mut packet, &mut |_| false)
                .unwrap();
            match peeled {
                Peeled::Forward { next, .. } => at = NodeId::from_address(&next).unwrap().as_bytes()[0],
                Peeled::Reply { id } => break id,
                Peeled::Exit { .. } => panic!("a reply ended as a message"),
            }
        };
        assert_eq!(at, THERE);
        recover(
            Dialect::Lioness,
            kept.remove(&id[0]).unwrap(),
            packet.payload_mut(),
        )
        .unwrap();
    }
    assert!(kept.is_empty());
}

#[test]
fn the_due_times_of_surbs_are_exponential_with_the_mean_of_the_document() {
    let mut world = World::new();
    let (body, _) = surbs(&world.document, 51);
    (0..100).for_each(|_| world.tell(drop_message(&body)));
    world.run(Duration::from_secs(10));
    assert_eq!(world.mixed.len(), 500);
    let waits: Vec<f64> = world
        .mixed
        .iter()
        .map(|m| m.0.since(START).as_secs_f64() * 1e3)
        .collect();
    let mean = waits.iter().sum::<f64>() / 500.0;
    let beyond = waits.iter().filter(|&&ms| ms > 60.0).count() as f64 / 500.0;
    // Mean 60 ms with a standard error of 60 / sqrt(500) = 2.7; 1/e of them above it, ± 2.2 %.
    assert!((mean - 60.0).abs() < 4.0 * 2.7, "seed 1: {mean} ms");
    assert!((beyond - 0.368).abs() < 4.0 * 0.022, "seed 1: {beyond}");
}

#[test]
fn after_an_hour_of_sleep_overdue_surbs_are_dropped_and_counted_and_later_ones_used() {
    let mut world = World::new();
    let (body, _) = surbs(&world.document, 51);
    (0..100).for_each(|_| world.tell(drop_message(&body)));
    world.now = world.now + Duration::from_secs(3_600);
    world.tell(Input::Tick);
    assert_eq!((world.mixed.len(), world.count("drop.surb_too_late")), (0, 500));
    world.tell(drop_message(&body));
    world.run(Duration::from_secs(10));
    assert_eq!((world.mixed.len(), world.count("filler_reply")), (5, 5));
}

#[test]
fn surbs_of_garbage_become_packets_that_no_mix_takes() {
    let mut world = World::new();
    for seed in 0..20 {
        let mut body = vec![0; 3_966];
        Rng::seed_from_u64(seed).fill_bytes(&mut body);
        body[0] = 5;
        world.tell(drop_message(&body));
    }
    world.run(Duration::from_secs(10));
    assert_eq!(world.mixed.len(), 100);
    let peeler = Peeler::new(secret(HERE), Dialect::Lioness);
    assert!(
        world
            .mixed
            .iter_mut()
            .all(|(_, packet)| peeler.peel(packet, &mut |_| false).is_err())
    );
}

#[test]
fn drops_without_surbs_end_here_and_wrong_ones_are_counted() {
    let mut world = World::new();
    world.tell(drop_message(&[0; 3_966]));
    world.tell(drop_message(&[0]));
    assert_eq!(world.count("drop_received"), 2);
    for bad in [
        &[6; 3_966][..],
        &[255; 10],
        &[1; SURB_LEN],
        &[5; 5 * SURB_LEN],
        &[],
    ] {
        world.tell(drop_message(bad));
    }
    let mut packet = Packet::zeroed();
    packet.message_mut().fill(0xff);
    world.tell(Input::Message {
        mailbox: MailboxId::DROP,
        packet,
    });
    assert_eq!(world.count("drop.bad_message"), 6);
    assert_eq!(world.gateway.deadline(), None);
}

#[test]
fn surbs_beyond_the_bound_are_dropped_and_counted() {
    let mut world = World::with(Config::default().with_drop_surbs(7), browse(), 1);
    let (body, _) = surbs(&world.document, 52);
    (0..2).for_each(|_| world.tell(drop_message(&body)));
    assert_eq!(world.count("drop.surbs_full"), 3);
    world.run(Duration::from_secs(10));
    assert_eq!(world.mixed.len(), 7);
}

/// Bytes of a frame, near enough to one to get far.
fn arbitrary_frame() -> impl Strategy<Value = Box<[u8]>> {
    let len = prop_oneof![8 => Just(FRAME_LEN), 1 => 0..FRAME_LEN, 1 => Just(FRAME_LEN + 1)];
    let head = prop::collection::vec(any::<u8>(), 24);
    let field = || prop_oneof![any::<u64>(), Just(0), Just(1), Just(u64::MAX)];
    (any::<u64>(), 0_u8..8, field(), field(), head, 0_u8..8, len).prop_map(
        |(seed, kind, ack, seq, head, plain, len)| {
            let mut bytes = vec![0; len.max(24)];
            Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
            bytes[..24].copy_from_slice(&head);
            if plain > 0 {
                bytes[0] = kind;
                bytes[1..8].fill(0);
                bytes[8..16].copy_from_slice(&ack.to_be_bytes());
                bytes[16..24].copy_from_slice(&seq.to_be_bytes());
            }
            bytes.truncate(len);
            bytes.into()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_frames_before_admission_cause_refusals_at_most(
        frames in prop::collection::vec((any::<bool>(), arbitrary_frame(), 0_u64..100_000), 1..10),
    ) {
        let mut world = World::new();
        for (alice, bytes, us) in frames {
            world.now = world.now + Duration::from_micros(us);
            world.tell(Input::Frame { client: if alice { ALICE } else { BOB }, conn: Conn(1), bytes });
        }
        world.run(Duration::from_secs(1));
        let refused = |s: &(Time, ClientId, Seen)| matches!(s.2, Seen::Refused(Refusal::WrongNetwork));
        prop_assert!(world.seen.iter().all(refused));
        prop_assert_eq!(world.seen.len(), world.refused.len());
        prop_assert!(world.mixed.is_empty() && world.exits.is_empty());
        prop_assert_eq!(world.gateway.linked(), 0);
    }

    #[test]
    fn arbitrary_frames_of_one_client_do_not_touch_another(
        frames in prop::collection::vec((arbitrary_frame(), 0_u64..30_000), 1..20),
        mail in 1_u64..20,
    ) {
        let mut world = World::new();
        world.admit(ALICE);
        let bob = world.admit(BOB);
        (1..=mail).for_each(|what| world.reply(bob, what));
        for (bytes, us) in frames {
            world.run(Duration::from_micros(us));
            world.tell(Input::Frame { client: ALICE, conn: Conn(1), bytes });
        }
        world.run(INTERVAL * 21);
        assert_constant_rate(&world.times(BOB));
        prop_assert_eq!(world.got(BOB), numbered(mail));
        prop_assert_eq!(world.count("downlink.unready"), 0);
    }

    #[test]
    fn arbitrary_messages_and_replies_do_no_harm(
        messages in prop::collection::vec((any::<u64>(), 0_u8..3, any::<[u8; 16]>(), any::<u16>()), 1..10),
    ) {
        let mut world = World::new();
        world.admit(ALICE);
        for (seed, kind, id, padding) in messages {
            let mut packet = Packet::zeroed();
            Rng::seed_from_u64(seed).fill_bytes(packet.as_bytes_mut());
            packet.message_mut()[..2].copy_from_slice(&padding.to_be_bytes());
            packet.message_mut()[2] %= 8;
            world.tell(match kind {
                0 => Input::Reply { id, packet },
                1 => Input::Message { mailbox: MailboxId::DROP, packet },
                _ => Input::Message { mailbox: MailboxId::new(id), packet },
            });
        }
        world.run(Duration::from_secs(5));
        prop_assert_eq!(world.got(ALICE), []);
        prop_assert!(world.mixed.len() <= 50 && world.exits.is_empty());
    }
}

#[test]
fn hellos_without_end_are_answered_no_more() {
    let mut world = World::new();
    world.admit(ALICE);
    let mut answered = 0;
    for _ in 0..1_000 {
        world.seen.clear();
        let network = world.document.network();
        world.frame(
            ALICE,
            0,
            Content::Hello {
                network,
                run: [1; 8],
                token: Vec::new(),
            },
        );
        answered += world
            .seen
            .iter()
            .filter(|s| matches!(s.2, Seen::Welcome(..)))
            .count();
    }
    assert_eq!(answered, 199);
    assert_eq!(world.count("drop.hello_too_often"), 801);
}

#[test]
fn who_never_acknowledges_leaves_room_for_the_others() {
    let config = Config::default().with_replies_total(40);
    let mut world = World::with(config, browse(), 1_000);
    let tags: Vec<ClientTag> = (0..4).map(|n| world.admit(ClientId([n; 32]))).collect();
    for tag in &tags {
        (0..100).for_each(|what| world.reply(*tag, what));
    }
    assert_eq!(world.count("reply.kept"), 20 + 10 + 5 + 3);
    assert_eq!(world.count("drop.replies_full"), 400 - 38);
    assert_eq!(world.gateway.replies(), (38, 40));
    // One that is here and acknowledges is served.
    let tag = world.admit(BOB);
    for n in 1..=50 {
        world.reply(tag, n);
        world.run(INTERVAL * 3);
        world.packet(BOB, n + 1);
    }
    assert_eq!(world.got(BOB), numbered(50));
}

#[test]
fn replies_of_who_stays_away_are_dropped_and_numbers_stay_right() {
    let mut world = World::new();
    let tag = world.admit(ALICE);
    (1..=3).for_each(|what| world.reply(tag, what));
    world.run(INTERVAL * 5);
    world.packet(ALICE, 2);
    world.tell(Input::Gone { client: ALICE });
    world.now = world.now + Duration::from_secs(500);
    world.reply(tag, 4);
    assert_eq!(world.count("reply.expired"), 0);
    world.now = world.now + Duration::from_secs(200);
    world.tell(Input::Tick);
    assert_eq!(world.count("reply.expired"), 2);
    assert_eq!(world.gateway.replies().0, 1);
    world.seen.clear();
    // It has the first and expects the second.
    assert!(matches!(world.hello(ALICE, 2), Seen::Welcome(..)));
    world.run(INTERVAL * 5);
    assert_eq!(world.got(ALICE), [(2, 4)]);
    world.packet(ALICE, 3);
    world.reply(tag, 5);
    world.run(INTERVAL * 5);
    assert_eq!(world.got(ALICE), [(2, 4), (3, 5)]);
    assert_eq!(world.gateway.replies().0, 1);
}

#[test]
fn a_client_away_for_long_makes_room_for_a_newcomer() {
    let config = Config::default().with_downlink_capacity_per_s(80.0);
    let mut world = World::with(config, browse(), 10);
    let newcomer = |n| ClientId([n; 32]);
    for n in 0..4 {
        world.admit(newcomer(n));
        world.tell(Input::Gone { client: newcomer(n) });
    }
    assert_eq!(
        world.hello(newcomer(9), 1),
        Seen::Refused(Refusal::Full),
        "none is away for long"
    );
    world.now = world.now + browse().surb_life() + Duration::from_secs(1);
    world.admit(newcomer(9));
    assert_eq!(world.count("client.forgotten"), 1);
}
