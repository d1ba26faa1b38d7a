//! An exit core and one clock: sessions of clients on one side, a world outside that answers as each test says.
//!
//! Clients are sessions of `mizzle-stream`; what the exit answers is peeled along its route and opened with their keys.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content, NodeEntry, Role, ServiceEntry};
use mizzle_base::{Document, MailboxId, NodeId, Profile, Rng, Time, hex};
use mizzle_exit::{Action, Config, ConnId, Exit, Input, Policy};
use mizzle_sphinx::{
    Dialect, MAX_BODY_LEN, Packet, Peeled, Peeler, SURB_LEN, SecretKey, SurbKeys, build_surb, pad,
    pad_in_place, recover, unpad,
};
use mizzle_stream::{
    CODEC_STREAM, CloseReason, Event, OpenError, Params, Session, StreamId, Target, public_key,
};
use mizzle_traffic::draw;
use mizzle_traffic::route::Route;
use rand_core::{Rng as _, SeedableRng as _};

const START: Time = Time::from_s(15_000);
/// The gateway with the exit under test, and that of its clients.
const HERE: u8 = 7;
const THERE: u8 = 8;
const STREAM_SECRET: [u8; 32] = [3; 32];
const MAILBOX: MailboxId = MailboxId::new([5; 16]);
const US: Duration = Duration::from_micros(1);

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn id(n: u8) -> NodeId {
    NodeId::new([n; 32])
}

/// One mix a layer, 1 to 3, and two gateways.
fn document(profile: Profile) -> Document {
    let node = |n: u8| NodeEntry {
        id: id(n).to_string(),
        role: if n >= HERE { Role::Gateway } else { Role::Mix },
        layer: if n >= HERE { 0 } else { n },
        peer: String::new(),
        addresses: Vec::new(),
        sphinx_key: hex::encode(secret(n).public().as_bytes()),
        weight: 1.0,
        operator: String::new(),
        exit: (n == HERE).then(|| ServiceEntry {
            mailbox: "e7".repeat(16),
            stream_key: hex::encode(&public_key(&STREAM_SECRET)),
        }),
        mail: None,
    };
    let content = Content {
        network: "test".into(),
        sequence: 1,
        epoch: 1,
        valid_from_s: 10_000,
        valid_until_s: 20_000,
        profile,
        nodes: [1, 2, 3, HERE, THERE].map(node).into(),
    };
    let authority = SigningKey::from_bytes(&[9; 32]);
    let bytes = content.sign(&authority).unwrap();
    Document::verify(&bytes, &authority.verifying_key(), START, 0).unwrap()
}

/// What a client got.
#[derive(Default)]
struct Got {
    events: Vec<Event>,
    bytes: Vec<u8>,
}

struct World {
    document: Document,
    exit: Exit,
    rng: Rng,
    now: Time,
    clients: Vec<Session>,
    got: Vec<Got>,
    /// SURBs that are out, and whose.
    surbs: BTreeMap<[u8; 16], (SurbKeys, usize)>,
    /// What the exit wants done outside.
    actions: Vec<Action>,
    /// When something left on a SURB.
    replies: Vec<Time>,
}

impl World {
    fn new(config: Config) -> Self {
        Self::with(config, Profile::browse())
    }

    /// The session end of the mail.
    fn of_mail() -> Self {
        let mut world = Self::new(Config::default());
        let (config, rng) = (Config::for_mail(), Rng::seed_from_u64(1));
        world.exit = Exit::for_mail(config, &world.document, &id(HERE), STREAM_SECRET, rng);
        world
    }

    fn with(config: Config, profile: Profile) -> Self {
        let document = document(profile);
        let rng = Rng::seed_from_u64(1);
        Self {
            exit: Exit::new(
                config,
                &document,
                &id(HERE),
                STREAM_SECRET,
                Policy::default(),
                rng,
            ),
            document,
            rng: Rng::seed_from_u64(2),
            now: START,
            clients: Vec::new(),
            got: Vec::new(),
            surbs: BTreeMap::new(),
            actions: Vec::new(),
            replies: Vec::new(),
        }
    }

    fn client(&mut self) -> usize {
        let params = Params::for_network(&self.document, &id(HERE));
        let rng = Rng::from_seed(draw::bytes(&mut self.rng));
        self.clients.push(Session::connect(
            params,
            &public_key(&STREAM_SECRET),
            rng,
            self.now,
        ));
        self.got.push(Got::default());
        self.clients.len() - 1
    }

    fn open(&mut self, client: usize, target: &str) -> StreamId {
        self.clients[client]
            .open(self.now, &Target::parse(target).unwrap())
            .unwrap()
    }

    fn open_mailbox(&mut self, client: usize) -> StreamId {
        self.clients[client]
            .open(self.now, &Target::mailbox(MAILBOX))
            .unwrap()
    }

    fn tell(&mut self, input: Input) {
        self.exit.handle(self.now, input);
        while let Some(action) = self.exit.poll() {
            match action {
                Action::Mix(packet) => self.reply(packet),
                other => self.actions.push(other),
            }
        }
    }

    /// Takes a packet of the exit to the client that made its SURB.
    fn reply(&mut self, mut packet: Packet) {
        let mut peeled = None;
        for hop in [HERE, 1, 2, 3, THERE] {
            let peeler = Peeler::new(secret(hop), Dialect::Lioness);
            peeled = Some(peeler.peel(&mut packet, &mut |_| false).unwrap());
        }
        let Some(Peeled::Reply { id }) = peeled else {
            panic!("{peeled:?}")
        };
        let (keys, client) = self
            .surbs
            .remove(&id)
            .unwrap_or_else(|| panic!("a SURB was used twice"));
        recover(Dialect::Lioness, keys, packet.payload_mut()).unwrap();
        let body = unpad(Dialect::Lioness, packet.message()).unwrap();
        assert_eq!(body.len(), MAX_BODY_LEN, "data and fillers are full");
        // An error for fillers, and for all once the session is over.
        let _ = self.clients[client].receive(self.now, body);
        self.replies.push(self.now);
        let (session, got) = (&mut self.clients[client], &mut self.got[client]);
        while let Some(event) = session.poll_event() {
            if let Event::Readable(stream) = event {
                while let Some(bytes) = session.read(stream, usize::MAX) {
                    got.bytes.extend_from_slice(&bytes);
                }
            } else {
                got.events.push(event);
            }
        }
    }

    /// A packet of a client with so many SURBs.
    fn packet(&mut self, client: usize, surbs: usize) -> Packet {
        let mut bytes = vec![0; surbs * SURB_LEN];
        for chunk in bytes.chunks_exact_mut(SURB_LEN) {
            let at = |n| self.document.node(&id(n)).unwrap();
            let reply_id = draw::bytes(&mut self.rng);
            let route = Route::between(&mut self.rng, &self.document, at(HERE), at(THERE));
            let (surb, keys) = build_surb(Dialect::Lioness, &mut self.rng, &route.hops(), &reply_id).unwrap();
            surb.to_bytes(chunk.try_into().unwrap());
            self.surbs.insert(reply_id, (keys, client));
        }
        let mut packet = Packet::zeroed();
        let body = pad_in_place(MAX_BODY_LEN, packet.message_mut());
        body[0] = CODEC_STREAM;
        self.clients[client]
            .fill(self.now, &bytes, &mut body[1..])
            .unwrap();
        packet
    }

    fn send(&mut self, client: usize, surbs: usize) {
        let packet = self.packet(client, surbs);
        self.tell(Input::Message(packet));
    }

    /// Lets time pass, with a driver that obeys [`Exit::deadline`].
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.exit.deadline().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Tick);
        }
        self.now = end;
    }

    fn count(&self, name: &str) -> u64 {
        self.exit.counters().get(name)
    }

    fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// A client with a stream to a public address, connected on both sides. The exit has asked for bytes.
    fn connected(&mut self) -> (usize, StreamId, ConnId) {
        let client = self.client();
        let stream = self.open(client, "93.184.216.34:80");
        self.send(client, 5);
        let [Action::Connect(conn, _)] = self.actions()[..] else {
            panic!("not asked to connect")
        };
        self.tell(Input::Connected(conn, Ok(())));
        self.run(s(1));
        assert_eq!(self.got[client].events, [Event::Opened(stream)]);
        assert!(matches!(self.actions()[..], [Action::Read(c, 65_536)] if c == conn));
        (client, stream, conn)
    }

    /// Both send for a while.
    fn exchange(&mut self, client: usize) {
        for _ in 0..20 {
            self.send(client, 5);
            self.run(Duration::from_millis(300));
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn connects(actions: &[Action]) -> Vec<Vec<SocketAddr>> {
    let all = actions.iter().filter_map(|a| match a {
        Action::Connect(_, addresses) => Some(addresses.clone()),
        _ => None,
    });
    all.collect()
}

/// The connection for which a name, and nothing else, is to be looked up.
fn resolving(actions: &[Action], name: &str) -> ConnId {
    match actions {
        [Action::Resolve(conn, wanted)] if wanted == name => *conn,
        _ => panic!("{} actions, not one to look {name} up", actions.len()),
    }
}

// Bounds

#[test]
fn sessions_are_bounded_and_one_that_ends_makes_room() {
    let mut world = World::new(Config::default().with_sessions(2));
    for _ in 0..3 {
        let client = world.client();
        world.open(client, "slow.test:80");
        world.send(client, 5);
    }
    assert_eq!((world.exit.sessions(), world.count("session_drop_full")), (2, 1));
    assert_eq!(world.actions().len(), 2, "nothing is done for the third");
    // Their clients never come back: an attempt that was not followed up is forgotten.
    world.run(s(120));
    assert_eq!((world.exit.sessions(), world.count("session.ended")), (0, 2));
    assert_eq!(world.exit.deadline(), None);
    world.actions();
    world.connected();
    assert_eq!(world.exit.sessions(), 1);
}

#[test]
fn connections_of_a_session_are_bounded_and_the_client_is_told() {
    let mut world = World::new(Config::default().with_connections_per_session(2));
    let client = world.client();
    let streams: Vec<StreamId> = (0..3).map(|_| world.open(client, "93.184.216.34:80")).collect();
    world.send(client, 5);
    assert_eq!(connects(&world.actions()).len(), 2);
    world.run(s(1));
    assert_eq!(
        world.got[client].events,
        [Event::OpenFailed(streams[2], OpenError::Limit)]
    );
    assert_eq!(world.count("connection.limit"), 1);
}

#[test]
fn a_session_over_its_bytes_is_closed_with_its_connections_and_counted_once() {
    let mut world = World::new(Config::default().with_bytes_per_session(10_000));
    let (client, stream, conn) = world.connected();
    world.tell(Input::Read(conn, Bytes::from(vec![1; 10_000])));
    assert!(
        world.actions().iter().all(|a| matches!(a, Action::Read(..))),
        "as many as are allowed"
    );
    world.tell(Input::Read(conn, Bytes::from(vec![1; 1])));
    assert!(matches!(world.actions()[..], [.., Action::Abort(c)] if c == conn));
    for _ in 0..3 {
        world.send(client, 5);
    }
    world.run(s(30));
    assert_eq!(
        (world.exit.sessions(), world.count("session.over_its_bytes")),
        (0, 1)
    );
    let ended = Event::Reset(stream, Session::RESET_CLOSED);
    assert!(
        world.got[client].events.contains(&ended),
        "{:?}",
        world.got[client].events
    );
}

#[test]
fn surbs_beyond_the_bound_are_dropped_and_counted() {
    let mut world = World::new(Config::default().with_surbs(3));
    let client = world.client();
    world.open(client, "93.184.216.34:80");
    world.send(client, 5);
    assert_eq!(world.count("drop.surbs_full"), 2);
    world.run(s(5));
    assert_eq!(world.replies.len(), 3);
}

// Opening

#[test]
fn a_target_that_does_not_answer_is_given_up_in_time_and_its_late_answers_are_ignored() {
    let mut world = World::new(Config::default());
    let client = world.client();
    let name = world.open(client, "slow.test:80");
    world.send(client, 5);
    let looked_up = resolving(&world.actions(), "slow.test");
    world.run(s(8) - US);
    assert!(world.actions().is_empty());
    world.run(US);
    assert!(matches!(world.actions()[..], [Action::Abort(c)] if c == looked_up));
    world.send(client, 5);
    world.run(s(1));
    assert_eq!(
        world.got[client].events,
        [Event::OpenFailed(name, OpenError::Timeout)]
    );
    for late in [
        Input::Resolved(looked_up, Ok(vec![ip("93.184.216.34")])),
        Input::Connected(looked_up, Ok(())),
        Input::Read(looked_up, Bytes::from_static(b"late")),
        Input::Wrote(looked_up, 1),
        Input::Broken(looked_up),
    ] {
        world.tell(late);
    }
    assert!(world.actions().is_empty());
    assert_eq!(
        (world.count("connection.broken"), world.count("connection.opened")),
        (0, 0)
    );

    // The time counts for looking up and connecting together.
    let second = world.open(client, "slow.test:81");
    world.send(client, 5);
    let conn = resolving(&world.actions(), "slow.test");
    world.run(s(5));
    world.tell(Input::Resolved(conn, Ok(vec![ip("93.184.216.34")])));
    world.run(s(3));
    world.send(client, 5);
    world.run(s(1));
    assert_eq!(
        world.got[client].events[1..],
        [Event::OpenFailed(second, OpenError::Timeout)]
    );
}

#[test]
fn the_policy_is_asked_for_what_a_name_resolves_to_and_only_that_is_connected_to() {
    let mut world = World::new(Config::default());
    let client = world.client();
    let stream = world.open(client, "mixed.test:80");
    world.send(client, 5);
    let conn = resolving(&world.actions(), "mixed.test");
    let mut found: Vec<IpAddr> = (1..=9).map(|n| ip(&format!("10.0.0.{n}"))).collect();
    found.extend([
        ip("93.184.216.34"),
        ip("::1"),
        ip("169.254.169.254"),
        ip("2606:2800:220:1::1"),
    ]);
    world.tell(Input::Resolved(conn, Ok(found)));
    let allowed = ["93.184.216.34:80", "[2606:2800:220:1::1]:80"].map(|a| a.parse().unwrap());
    assert_eq!(connects(&world.actions()), [allowed.to_vec()]);
    world.tell(Input::Connected(conn, Err(OpenError::ConnectionRefused)));
    world.run(s(1));
    assert_eq!(
        world.got[client].events,
        [Event::OpenFailed(stream, OpenError::ConnectionRefused)]
    );
}

#[test]
fn a_target_inside_is_refused_by_name_and_by_address() {
    let mut world = World::new(Config::default());
    let client = world.client();
    let (by_name, by_address) = (
        world.open(client, "inside.test:80"),
        world.open(client, "127.0.0.1:80"),
    );
    let nowhere = world.open(client, "nowhere.test:80");
    world.send(client, 5);
    let asked = world.actions();
    let [
        Action::Resolve(inside, _),
        Action::Abort(_),
        Action::Resolve(empty, _),
    ] = asked[..]
    else {
        panic!("{} actions", asked.len())
    };
    world.tell(Input::Resolved(inside, Ok(vec![ip("10.0.0.1"), ip("fe80::1")])));
    world.tell(Input::Resolved(empty, Ok(Vec::new())));
    assert_eq!(connects(&world.actions()).len(), 0);
    world.run(s(1));
    for (stream, why) in [
        (by_name, OpenError::Refused),
        (by_address, OpenError::Refused),
        (nowhere, OpenError::NameNotFound),
    ] {
        assert!(
            world.got[client].events.contains(&Event::OpenFailed(stream, why)),
            "{why:?}"
        );
    }
    assert_eq!(world.count("connection.refused_by_policy"), 2);
}

#[test]
fn packets_full_of_refused_targets_are_answered_one_by_one() {
    let mut world = World::new(Config::default());
    let client = world.client();
    let n = (0..64).map(|_| world.open(client, "127.0.0.1:1")).count();
    world.exchange(client);
    let refused = |e: &&Event| matches!(e, Event::OpenFailed(_, OpenError::Refused));
    assert_eq!(world.got[client].events.iter().filter(refused).count(), n);
}

// Bytes

#[test]
fn bytes_pass_both_ways_each_end_after_the_last_of_them() {
    let mut world = World::new(Config::default());
    let (client, stream, conn) = world.connected();
    world.clients[client].write(stream, &[7; 5_000]);
    world.clients[client].finish(stream);
    world.exchange(client);
    let actions = world.actions();
    let (last, writes) = actions.split_last().unwrap();
    let mut written = 0;
    for action in writes {
        let Action::Write(_, bytes) = action else {
            panic!("only writing is left")
        };
        assert!(bytes.iter().all(|&b| b == 7));
        written += bytes.len();
    }
    assert_eq!(written, 5_000);
    assert!(matches!(last, Action::Finish(c) if *c == conn));
    // Nothing is let go of before the socket has all and the target has ended.
    world.tell(Input::Read(conn, Bytes::from_static(b"answer")));
    assert!(
        matches!(world.actions()[..], [Action::Read(..)]),
        "one reading at a time"
    );
    world.tell(Input::Read(conn, Bytes::new()));
    world.tell(Input::Wrote(conn, 4_999));
    assert!(world.actions().is_empty());
    world.tell(Input::Wrote(conn, 1));
    assert!(matches!(world.actions()[..], [Action::Forget(c)] if c == conn));
    world.exchange(client);
    assert_eq!(world.got[client].bytes, b"answer");
    assert!(world.got[client].events.contains(&Event::Finished(stream)));
}

#[test]
fn a_slow_target_holds_back_its_client_and_no_more_is_kept_for_it() {
    let mut world = World::new(Config::default());
    let (client, stream, conn) = world.connected();
    world.clients[client].write(stream, &vec![7; 1_000_000]);
    for _ in 0..40 {
        (0..10).for_each(|_| world.send(client, 0));
        world.send(client, 5);
        world.run(Duration::from_millis(300));
    }
    let size = |a: &Action| {
        if let Action::Write(_, bytes) = a {
            bytes.len()
        } else {
            0
        }
    };
    let held: usize = world.actions().iter().map(size).sum();
    assert_eq!(held, 256 * 1024);
    world.tell(Input::Wrote(conn, 100_000));
    assert_eq!(world.actions().iter().map(size).sum::<usize>(), 100_000);
}

#[test]
fn a_connection_that_breaks_is_reset_at_the_client() {
    let mut world = World::new(Config::default());
    let (client, stream, conn) = world.connected();
    world.tell(Input::Broken(conn));
    assert!(matches!(world.actions()[..], [Action::Abort(c)] if c == conn));
    world.send(client, 5);
    world.run(s(1));
    assert!(matches!(world.got[client].events[1..], [Event::Reset(s, _)] if s == stream));
}

#[test]
fn what_a_target_sent_before_its_end_arrives_though_it_then_takes_nothing_more() {
    let mut world = World::new(Config::default());
    let (client, stream, conn) = world.connected();
    world.tell(Input::Read(conn, Bytes::from(vec![5; 60_000])));
    world.tell(Input::Read(conn, Bytes::new()));
    world.actions();
    world.tell(Input::Broken(conn));
    assert!(matches!(world.actions()[..], [Action::Abort(c)] if c == conn));
    world.clients[client].write(stream, &[6; 10_000]);
    world.clients[client].finish(stream);
    world.exchange(client);
    assert_eq!(world.got[client].bytes, vec![5; 60_000]);
    assert!(world.got[client].events.contains(&Event::Finished(stream)));
    assert!(world.got[client].events.contains(&Event::Delivered(stream)));
    assert!(world.actions().is_empty(), "the socket is gone");
}

#[test]
fn a_reset_by_the_client_ends_the_connection() {
    let mut world = World::new(Config::default());
    let (client, stream, conn) = world.connected();
    world.clients[client].reset(stream, 11);
    world.send(client, 0);
    assert!(matches!(world.actions()[..], [Action::Abort(c)] if c == conn));
    world.tell(Input::Read(conn, Bytes::from_static(b"late")));
    assert!(world.actions().is_empty());
}

// Packets

#[test]
fn garbage_is_counted_and_answered_with_silence() {
    let mut world = World::new(Config::default());
    let mut message = |body: Option<&[u8]>| {
        let mut packet = Packet::zeroed();
        match body {
            Some(body) => pad(Dialect::Lioness, body, packet.message_mut()).unwrap(),
            None => packet.message_mut().fill(0xff),
        }
        world.tell(Input::Message(packet));
        assert!(world.actions.is_empty() && world.exit.deadline().is_none() && world.exit.sessions() == 0);
    };
    let mut noise = [0; MAX_BODY_LEN];
    Rng::seed_from_u64(4).fill_bytes(&mut noise);
    noise[0] = CODEC_STREAM;
    let bodies: [Option<&[u8]>; 5] = [
        None,
        Some(b""),
        Some(b"\x07what?"),
        Some(&[CODEC_STREAM, 1, 2]),
        Some(&noise),
    ];
    bodies.into_iter().for_each(&mut message);
    let counts = [
        "drop.bad_padding",
        "drop.unknown_codec",
        "session_drop_size",
        "session_drop_handshake",
    ];
    assert_eq!(counts.map(|name| world.count(name)), [1, 2, 1, 1]);
}

#[test]
fn a_packet_that_comes_twice_is_taken_once() {
    let mut world = World::new(Config::default());
    let client = world.client();
    world.open(client, "93.184.216.34:80");
    let packet = world.packet(client, 5);
    let copy = Packet::try_from_slice(packet.as_bytes()).unwrap();
    world.tell(Input::Message(packet));
    world.tell(Input::Message(copy));
    assert_eq!(
        (world.exit.sessions(), world.count("session_drop_stale_initial")),
        (1, 1)
    );
    assert_eq!(world.actions().len(), 1);
    world.run(s(5));
    assert_eq!(world.replies.len(), 5);
}

#[test]
fn each_surb_is_used_once_at_its_due_time_with_a_filler_once_the_session_is_gone() {
    // Due times longer than the session lives.
    let profile = Profile {
        reply_due_mean_ms: 60_000.0,
        ..Profile::browse()
    };
    let mut world = World::with(Config::default().with_bytes_per_session(1), profile);
    let client = world.client();
    let stream = world.open(client, "93.184.216.34:80");
    world.clients[client].write(stream, b"more than one byte");
    world.send(client, 5);
    let [Action::Connect(conn, _)] = world.actions()[..] else {
        panic!("not asked to connect")
    };
    world.tell(Input::Connected(conn, Ok(())));
    assert_eq!(world.replies.len(), 0);
    world.run(s(3_600));
    assert_eq!((world.exit.sessions(), world.exit.deadline()), (0, None));
    // CLOSE three times, and the session is over.
    assert_eq!(
        (world.count("reply.sent"), world.count("reply.filler_sent")),
        (3, 2)
    );
    assert!(
        world.got[client]
            .events
            .contains(&Event::Closed(CloseReason::Peer))
    );
    let waits: Vec<Duration> = world.replies.iter().map(|at| at.since(START)).collect();
    assert!(
        waits.is_sorted() && waits[0] > US && waits[4] > s(20),
        "{waits:?}"
    );
}

#[test]
fn a_clock_that_is_set_back_delays_neither_replies_nor_giving_up() {
    let mut world = World::new(Config::default());
    let client = world.client();
    let stream = world.open(client, "slow.test:80");
    world.send(client, 5);
    world.now = world.now - s(3_600);
    world.tell(Input::Tick);
    world.run(s(2));
    assert_eq!(world.replies.len(), 5);
    world.run(s(6));
    world.send(client, 5);
    world.run(s(2));
    assert_eq!(
        world.got[client].events,
        [Event::OpenFailed(stream, OpenError::Timeout)]
    );
}

#[test]
fn after_an_hour_of_sleep_overdue_surbs_are_dropped_and_streams_go_on_or_end_with_a_reason() {
    let mut world = World::new(Config::default());
    let (client, stream, conn) = world.connected();
    let waiting = world.open(client, "slow.test:80");
    for _ in 0..20 {
        world.send(client, 5);
    }
    world.actions();
    let (before, sessions) = (world.replies.len(), world.exit.sessions());
    assert_eq!(sessions, 1);
    world.now = world.now + s(3_600);
    world.tell(Input::Tick);
    assert_eq!(world.replies.len(), before, "no burst");
    assert_eq!(world.count("drop.surb_too_late"), 100);
    assert_eq!(
        world.exit.deadline().filter(|at| *at < world.now),
        None,
        "nothing is overdue"
    );
    // For an hour no word came of the client: that is the end, and its connections are closed, that which was being made too.
    assert_eq!((world.exit.sessions(), world.count("session.ended")), (0, 1));
    let is_closed = |a: &Action| matches!(a, Action::Abort(c) if *c == conn);
    assert!(world.actions().iter().any(is_closed));
    assert_eq!(
        world.exit.deadline(),
        None,
        "{stream:?} and {waiting:?} leave nothing behind"
    );
    // Who comes then is served.
    let (again, _, conn) = world.connected();
    world.tell(Input::Read(conn, b"still here".to_vec().into()));
    world.send(again, 5);
    world.run(s(5));
    assert_eq!(world.got[again].bytes, b"still here");
}

// The mail

#[test]
fn the_mail_asks_for_mailboxes_and_carries_their_streams() {
    let mut world = World::of_mail();
    let client = world.client();
    let stream = world.open_mailbox(client);
    world.clients[client].write(stream, b"a letter");
    world.send(client, 5);
    let [Action::Mailbox(conn, MAILBOX)] = world.actions()[..] else {
        panic!("not asked for the mailbox")
    };
    world.tell(Input::Connected(conn, Ok(())));
    world.run(s(1));
    let written = |actions: Vec<Action>| {
        let written = actions.into_iter().filter_map(|a| match a {
            Action::Write(c, bytes) if c == conn => Some(bytes),
            _ => None,
        });
        written.collect::<Vec<_>>().concat()
    };
    world.exchange(client);
    assert_eq!(written(world.actions()), b"a letter");
    world.tell(Input::Read(conn, Bytes::from_static(&[2])));
    world.tell(Input::Read(conn, Bytes::new()));
    world.exchange(client);
    assert_eq!(world.got[client].bytes, [2]);
    assert!(world.got[client].events.contains(&Event::Finished(stream)));
    assert_eq!(
        (
            world.count("mail.connection.opened"),
            world.count("connection.opened")
        ),
        (1, 0)
    );
}

#[test]
fn a_mailbox_that_there_is_not_fails_the_opening_with_the_reason() {
    let mut world = World::of_mail();
    let client = world.client();
    let stream = world.open_mailbox(client);
    world.send(client, 5);
    let [Action::Mailbox(conn, _)] = world.actions()[..] else {
        panic!("not asked for the mailbox")
    };
    world.tell(Input::Connected(conn, Err(OpenError::NoMailbox)));
    world.run(s(1));
    assert_eq!(
        world.got[client].events,
        [Event::OpenFailed(stream, OpenError::NoMailbox)]
    );
}

#[test]
fn the_mail_leads_nowhere_else_and_an_exit_to_no_mailbox() {
    for target in ["93.184.216.34:80", "slow.test:80"] {
        let mut world = World::of_mail();
        let client = world.client();
        let stream = world.open(client, target);
        world.send(client, 5);
        assert!(
            matches!(world.actions()[..], [Action::Abort(_)]),
            "nothing was begun"
        );
        world.run(s(1));
        let refused = [Event::OpenFailed(stream, OpenError::Refused)];
        assert_eq!(world.got[client].events, refused, "{target}");
    }
    let mut world = World::new(Config::default());
    let client = world.client();
    let stream = world.open_mailbox(client);
    world.send(client, 5);
    assert!(matches!(world.actions()[..], [Action::Abort(_)]));
    world.run(s(1));
    let refused = [Event::OpenFailed(stream, OpenError::Refused)];
    assert_eq!(world.got[client].events, refused);
    assert_eq!(world.count("connection.wrong_service"), 1);
}

#[test]
fn the_mail_takes_no_more_than_its_mailbox_takes() {
    let mut world = World::of_mail();
    let client = world.client();
    let stream = world.open_mailbox(client);
    world.send(client, 5);
    let [Action::Mailbox(conn, _)] = world.actions()[..] else {
        panic!("not asked for the mailbox")
    };
    world.tell(Input::Connected(conn, Ok(())));
    world.run(s(1));
    let mut written = 0;
    for _ in 0..150 {
        world.clients[client].write(stream, &[7; 4_096]);
        world.send(client, 2);
        world.run(Duration::from_millis(100));
        for action in world.actions() {
            if let Action::Write(_, bytes) = action {
                written += bytes.len();
            }
        }
    }
    assert_eq!(written, 64 * 1024);
    world.tell(Input::Wrote(conn, 10_000));
    let more = world.actions().into_iter().filter_map(|a| match a {
        Action::Write(_, bytes) => Some(bytes.len()),
        _ => None,
    });
    assert_eq!(more.sum::<usize>(), 10_000);
}
