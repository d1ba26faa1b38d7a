//! A client core and one clock, with a gateway that says what each test lets it say. Packets are peeled along their routes
//! by the nodes' keys, and SURBs used as a gateway or an exit would.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content as DocumentContent, NodeEntry, Role, ServiceEntry};
use mizzle_base::frame::{self, Content, FRAME_LEN, Frame, Refusal};
use mizzle_base::item::ITEM_LEN;
use mizzle_base::profile::Pattern;
use mizzle_base::{ClientTag, Document, Item, LetterId, MailboxId, NodeId, Profile, Rng, Time, hex};
use mizzle_client::{Action, Admission, Client, Config, Input, MAIL_WINDOW, StreamEvent, StreamKey, Why};
use mizzle_sphinx::{
    Dialect, MAX_BODY_LEN, PAYLOAD_LEN, Packet, Peeled, Peeler, SURB_LEN, SecretKey, Surb, pad_in_place,
    unpad, use_surb_in_place,
};
use mizzle_stream::{
    Acceptor, Arrival, CODEC_STREAM, Event, Isolation, OpenError, OpenRequest, Params, Session, Target,
    public_key,
};
use mizzle_traffic::reply::{decode_drop, decode_surbs};
use rand_core::{Rng as _, SeedableRng as _};

const START: Time = Time::from_s(15_000);
/// One's own gateway, and others. Mixes are 1 to 6, two a layer.
const HOME: u8 = 7;
const AWAY: u8 = 8;
const OTHER: u8 = 9;
const STREAM_SECRET: [u8; 32] = [3; 32];
const TAG: ClientTag = ClientTag([0x7a; 8]);
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

fn exit_of(n: u8) -> ServiceEntry {
    ServiceEntry {
        mailbox: format!("e{n}").repeat(16),
        stream_key: hex::encode(&public_key(&STREAM_SECRET)),
    }
}

/// Three gateways of one weight and no exit, but for what `change` does to them.
fn document(change: impl Fn(&mut NodeEntry, u8)) -> Arc<Document> {
    document_of(Profile::browse(), change)
}

fn document_of(profile: Profile, change: impl Fn(&mut NodeEntry, u8)) -> Arc<Document> {
    nth_document(1, profile, change)
}

/// Documents of one epoch each, one after the other.
fn nth_document(nth: u64, profile: Profile, change: impl Fn(&mut NodeEntry, u8)) -> Arc<Document> {
    numbered(nth, nth, profile, change)
}

/// With a sequence number of its own.
fn numbered(sequence: u64, nth: u64, profile: Profile, change: impl Fn(&mut NodeEntry, u8)) -> Arc<Document> {
    let node = |n: u8| {
        let mut entry = NodeEntry {
            id: id(n).to_string(),
            role: if n >= HOME { Role::Gateway } else { Role::Mix },
            layer: if n >= HOME { 0 } else { n.div_ceil(2) },
            peer: String::new(),
            addresses: Vec::new(),
            sphinx_key: hex::encode(secret(n).public().as_bytes()),
            weight: 1.0,
            operator: String::new(),
            exit: None,
            mail: None,
        };
        change(&mut entry, n);
        entry
    };
    let content = DocumentContent {
        network: "test".into(),
        sequence,
        epoch: nth as u32,
        valid_from_s: nth * 10_000,
        valid_until_s: (nth + 1) * 10_000,
        profile,
        nodes: (1..=OTHER).map(node).collect(),
    };
    let authority = SigningKey::from_bytes(&[9; 32]);
    let bytes = content.sign(&authority).unwrap();
    let now = if nth == 1 {
        START
    } else {
        Time::from_s(nth * 10_000)
    };
    Arc::new(Document::verify(&bytes, &authority.verifying_key(), now, 0).unwrap())
}

/// An exit at [`AWAY`].
fn with_exit() -> Arc<Document> {
    document(|entry, n| entry.exit = (n == AWAY).then(|| exit_of(AWAY)))
}

/// Where a packet ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    Loop,
    Message { gateway: u8, mailbox: MailboxId },
}

struct World {
    document: Arc<Document>,
    client: Client,
    now: Time,
    sent: Vec<(Time, Frame)>,
    refused: Vec<Refusal>,
    admitted: usize,
    reconnects: usize,
    admission: Option<Admission>,
    run: [u8; 8],
    mail: Vec<(u64, Item)>,
    loops: Vec<Option<Duration>>,
    events: Vec<(StreamKey, StreamEvent)>,
    /// Number of the next reply that the gateway sends.
    seq: u64,
    acceptor: Acceptor<u8>,
    session: Option<Session>,
}

impl World {
    fn new(document: Arc<Document>) -> Self {
        Self::with(Config::default(), document)
    }

    fn with(config: Config, document: Arc<Document>) -> Self {
        let client = Client::new(config, Arc::clone(&document), &id(HOME), Rng::seed_from_u64(1)).unwrap();
        let params = Params::for_network(&document, &id(AWAY));
        Self {
            client,
            document,
            now: START,
            sent: Vec::new(),
            refused: Vec::new(),
            admitted: 0,
            reconnects: 0,
            admission: None,
            run: [0; 8],
            mail: Vec::new(),
            loops: Vec::new(),
            events: Vec::new(),
            seq: 1,
            acceptor: Acceptor::new(params, STREAM_SECRET, 8, Rng::seed_from_u64(2)),
            session: None,
        }
    }

    /// With a link, and welcomed.
    fn up(document: Arc<Document>) -> Self {
        let mut world = Self::new(document);
        world.tell(Input::LinkUp);
        world.welcome(TAG);
        world.sent.clear();
        world
    }

    fn tell(&mut self, input: Input) {
        self.client.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.client.poll() {
            match action {
                Action::Send(bytes) => {
                    assert_eq!(bytes.len(), FRAME_LEN);
                    let frame = frame::decode(&bytes).unwrap();
                    if let Content::Hello { run, .. } = frame.content {
                        self.run = run;
                    }
                    self.sent.push((self.now, frame));
                }
                Action::Reconnect => self.reconnects += 1,
                Action::Admitted(admission) => {
                    self.admitted += 1;
                    self.admission = Some(admission);
                }
                Action::Refused(why) => self.refused.push(why),
                Action::Mail { number, item } => self.mail.push((number, item)),
                Action::Loop(ended) => self.loops.push(ended),
                Action::Stream(key, event) => self.events.push((key, event)),
                Action::GatewayBlamed => {}
            }
        }
    }

    /// There is nothing to do but, after minutes, to give this gateway up.
    fn waits_only(&self) -> bool {
        self.client.deadline().is_none_or(|at| at >= self.now + s(200))
    }

    fn frame(&mut self, seq: u64, content: Content) {
        self.tell(Input::Frame(frame::encode(&Frame { ack: 0, seq, content })));
    }

    fn welcome(&mut self, tag: ClientTag) {
        self.welcome_to(tag, 1);
    }

    fn welcome_to(&mut self, tag: ClientTag, generation: u64) {
        self.frame(
            0,
            Content::Welcome {
                tag,
                mailbox: MailboxId::new([5; 16]),
                generation,
            },
        );
    }

    /// Answers the last hello.
    fn refuse(&mut self, why: Refusal) {
        let run = self.run;
        self.frame(0, Content::Refused { why, run });
    }

    fn item(&mut self, number: u64) {
        let item = Item {
            letter: LetterId::new([1; 16]),
            index: 0,
            count: 9,
            bytes: Box::new([number as u8; ITEM_LEN]),
        };
        self.frame(number, Content::Mail(item));
    }

    /// The numbers of the mail that was handed on.
    fn take_mail(&mut self) -> Vec<u64> {
        let mail = std::mem::take(&mut self.mail);
        mail.into_iter()
            .map(|(number, item)| {
                assert_eq!(item.bytes[0], number as u8);
                number
            })
            .collect()
    }

    /// What the next packet acknowledges of the mail.
    fn mail_acknowledged(&mut self) -> u64 {
        self.sent.clear();
        self.run(s(1));
        self.sent.last().unwrap().1.seq
    }

    fn junk_reply(&mut self, seq: u64) {
        self.frame(
            seq,
            Content::Reply {
                id: TAG.reply_id(seq.to_be_bytes()),
                payload: Box::new([1; PAYLOAD_LEN]),
            },
        );
    }

    /// Lets time pass, with a driver that obeys [`Client::deadline`] and a gateway from which something comes every now
    /// and then.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now + s(5) < end {
            self.run_in_silence(s(5));
            if self.client.is_up() {
                self.frame(0, Content::Filler { users: 0 });
            }
        }
        self.run_in_silence(end.since(self.now));
    }

    fn run_in_silence(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.client.deadline().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Tick);
        }
        self.now = end;
    }

    fn take(&mut self) -> Vec<(Time, Frame)> {
        std::mem::take(&mut self.sent)
    }

    fn count(&self, name: &str) -> u64 {
        self.client.counters().get(name)
    }

    fn open(&mut self, target: &str, isolation: Isolation) -> Result<StreamKey, OpenError> {
        let target = Target::parse(target).unwrap();
        let key = self.client.open(self.now, OpenRequest { target, isolation });
        self.drain();
        key
    }

    /// Takes the layers off a packet as its route does. Panics if a layer of mixes is left out.
    fn follow(&self, packet: &mut Packet) -> End {
        self.follow_along(packet).0
    }

    /// The same, and the mixes that it passed.
    fn follow_along(&self, packet: &mut Packet) -> (End, Vec<u8>) {
        let (mut at, mut mixes) = (HOME, Vec::new());
        for hop in 0..5 {
            let peeler = Peeler::new(secret(at), Dialect::Lioness);
            match peeler.peel(packet, &mut |_| false).unwrap() {
                Peeled::Forward { next, .. } => {
                    let here = self.document.node(&id(at)).unwrap();
                    let next = NodeId::from_address(&next).unwrap();
                    assert!(
                        self.document.next_hops(here).iter().any(|n| n.id == next),
                        "no edge after {at}"
                    );
                    at = next.as_bytes()[0];
                    if at < HOME {
                        mixes.push(at);
                    }
                }
                Peeled::Exit { destination } => {
                    assert_eq!(hop, 4);
                    let mailbox = MailboxId::from_address(&destination).unwrap();
                    return (End::Message { gateway: at, mailbox }, mixes);
                }
                Peeled::Reply { id } => {
                    assert_eq!((hop, at, ClientTag::split(&id).0), (4, HOME, TAG));
                    return (End::Loop, mixes);
                }
            }
        }
        panic!("more than five hops")
    }

    /// Sends on a SURB from `gateway`, and hands what arrives to the client.
    fn use_surb(&mut self, gateway: u8, surb: Surb, fill: impl FnOnce(&mut [u8])) {
        let mut packet = Packet::zeroed();
        fill(pad_in_place(MAX_BODY_LEN, packet.message_mut()));
        use_surb_in_place(Dialect::Lioness, surb, &mut packet);
        let mut at = gateway;
        loop {
            match Peeler::new(secret(at), Dialect::Lioness)
                .peel(&mut packet, &mut |_| false)
                .unwrap()
            {
                Peeled::Forward { next, .. } => at = NodeId::from_address(&next).unwrap().as_bytes()[0],
                Peeled::Reply { id } => {
                    assert_eq!(at, HOME);
                    let (seq, payload) = (self.seq, Box::new(*packet.payload()));
                    self.seq += 1;
                    return self.frame(seq, Content::Reply { id, payload });
                }
                Peeled::Exit { .. } => panic!("a SURB made a message"),
            }
        }
    }

    /// Plays the exit for what was sent: connects at once, ends each stream after `answer`, and uses each SURB.
    fn exit_answers(&mut self, answer: &[u8]) {
        for (_, frame) in self.take() {
            let Content::Packet(mut packet) = frame.content else {
                continue;
            };
            let End::Message {
                gateway: AWAY,
                mailbox,
            } = self.follow(&mut packet)
            else {
                continue;
            };
            if mailbox == MailboxId::DROP {
                continue;
            }
            let body = unpad(Dialect::Lioness, packet.message()).unwrap();
            assert_eq!((body.len(), body[0]), (MAX_BODY_LEN, CODEC_STREAM));
            let received = match self.acceptor.sort(&body[1..]).unwrap() {
                Arrival::New(initial) => {
                    let (session, received) = self.acceptor.accept(self.now, 0, initial).unwrap();
                    self.session = Some(session);
                    received
                }
                Arrival::Retry { initial, .. } => {
                    self.session.as_mut().unwrap().retry(self.now, initial).unwrap()
                }
                Arrival::Packet { counter, .. } => self
                    .session
                    .as_mut()
                    .unwrap()
                    .receive_tagged(self.now, counter, &body[1..])
                    .unwrap(),
            };
            let session = self.session.as_mut().unwrap();
            while let Some(event) = session.poll_event() {
                match event {
                    Event::Incoming(stream, _) => {
                        session.opened(stream);
                        assert_eq!(session.write(stream, answer), answer.len());
                        session.finish(stream);
                    }
                    Event::Readable(stream) => while session.read(stream, usize::MAX).is_some() {},
                    _ => {}
                }
            }
            for surb in decode_surbs(&received.surbs) {
                let mut session = self.session.take().unwrap();
                let now = self.now;
                self.use_surb(AWAY, surb, |body| assert!(session.fill(now, &[], body).is_some()));
                self.session = Some(session);
            }
        }
    }
}

fn is_hello(sent: &[(Time, Frame)]) -> bool {
    matches!(
        sent,
        [(
            _,
            Frame {
                content: Content::Hello { .. },
                ..
            }
        )]
    )
}

fn times(sent: &[(Time, Frame)]) -> Vec<Time> {
    sent.iter().map(|s| s.0).collect()
}

// The link

#[test]
fn hello_is_repeated_until_it_is_answered_and_then_cover_flows() {
    let mut world = World::with(Config::default().with_token(b"invited".to_vec()), with_exit());
    assert_eq!(world.client.deadline(), None);
    world.tell(Input::LinkUp);
    let sent = world.take();
    let Content::Hello { network, token, .. } = &sent[0].1.content else {
        panic!("no hello")
    };
    assert_eq!(
        (*network, &token[..]),
        (world.document.network(), &b"invited"[..])
    );
    for n in 1..=2 {
        world.run(s(5) - US);
        assert!(world.sent.is_empty());
        assert_eq!(world.reconnects, n - 1);
        world.run(US);
        assert_eq!(world.reconnects, n, "over a new connection");
        world.tell(Input::LinkDown);
        world.tell(Input::LinkUp);
        assert!(is_hello(&world.take()));
    }
    assert!(!world.client.is_up());
    world.welcome(TAG);
    assert!(world.client.is_up());
    world.run(s(10));
    // 50 a second; 500 with a standard deviation of 22.
    assert!((390..610).contains(&world.sent.len()), "{}", world.sent.len());
    assert!(
        world
            .sent
            .iter()
            .all(|s| matches!(s.1.content, Content::Packet(_)))
    );
    assert_eq!((world.admitted, world.count("slot.unready")), (1, 0));
}

#[test]
fn the_token_is_not_in_what_debug_shows() {
    let config = Config::default().with_token(b"secret".to_vec());
    let shown = format!("{config:?}");
    assert!(!shown.contains("115") && !shown.contains("secret"), "{shown}");
}

#[test]
fn a_refusal_is_told_and_nothing_is_sent_until_there_is_another_link() {
    let mut world = World::new(with_exit());
    world.tell(Input::LinkUp);
    world.take();
    world.refuse(Refusal::Full);
    assert_eq!(world.refused, [Refusal::Full]);
    world.run(s(60));
    assert!(world.sent.is_empty() && world.waits_only());
    world.tell(Input::LinkDown);
    world.tell(Input::LinkUp);
    assert!(is_hello(&world.sent));
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut world = World::new(with_exit());
    world.welcome(TAG);
    world.refuse(Refusal::Full);
    assert!(!world.client.is_up() && world.waits_only());
    world.tell(Input::LinkUp);
    world.welcome(TAG);
    let next = world.client.deadline();
    world.now = world.now + US;
    world.welcome(TAG);
    world.refuse(Refusal::Full);
    assert_eq!(world.client.deadline(), next, "the slots are the same");
    assert_eq!(
        (world.admitted, world.refused.len(), world.count("drop.not_asked")),
        (1, 0, 4)
    );
}

#[test]
fn without_a_link_nothing_is_sent_and_a_new_one_is_no_burst() {
    let mut world = World::up(with_exit());
    world.run(s(2));
    assert!(!world.take().is_empty());
    world.tell(Input::LinkDown);
    world.run(s(60));
    assert!(world.sent.is_empty());
    assert!(world.waits_only(), "nothing is ready for a link that is gone");
    world.tell(Input::LinkUp);
    assert!(is_hello(&world.take()));
    world.run(s(1));
    assert!(world.sent.is_empty());
    world.welcome(TAG);
    world.run(s(2));
    // 100 with a standard deviation of 10.
    assert!((50..150).contains(&world.sent.len()), "{}", world.sent.len());
    let first_tenth = world.now - s(2) + s(1) / 10;
    assert!(times(&world.sent).iter().filter(|&&at| at < first_tenth).count() < 20);
}

#[test]
fn slots_that_nobody_served_are_left_out() {
    let mut world = World::up(with_exit());
    world.run(s(2));
    world.take();
    world.now = world.now + s(3_600);
    world.tell(Input::Tick);
    assert!(world.sent.is_empty(), "{} at once", world.sent.len());
    world.run(s(2));
    assert!((50..150).contains(&world.sent.len()), "{}", world.sent.len());
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut world = World::up(with_exit());
    world.run(s(2));
    world.take();
    world.now = world.now - s(3_600);
    world.tell(Input::Tick);
    world.run(s(2));
    assert!((50..150).contains(&world.sent.len()), "{}", world.sent.len());
    world.tell(Input::LinkDown);
    world.tell(Input::LinkUp);
    world.take();
    world.now = world.now - s(3_600);
    world.tell(Input::Tick);
    world.run(s(5));
    assert_eq!(world.reconnects, 1, "an unanswered hello is not forgotten");
}

/// `browse` in another pattern.
fn in_pattern(pattern: Pattern) -> Arc<Document> {
    let profile = Profile {
        pattern,
        ..Profile::browse()
    };
    document_of(profile, |entry, n| {
        entry.exit = (n == AWAY).then(|| exit_of(AWAY))
    })
}

const BUDGET: Pattern = Pattern::DangerBudget { epoch_s: 1.5 };

#[test]
fn an_hour_of_sleep_and_a_clock_that_jumps_are_no_burst_and_no_silence_in_any_pattern() {
    for pattern in [Pattern::Poisson, Pattern::Constant, BUDGET] {
        let mut world = World::up(in_pattern(pattern));
        for jump in [3_600, -3_600, 5_000, -1_000, 2] {
            world.frame(0, Content::Filler { users: 0 });
            world.run(s(3));
            world.take();
            world.now = if jump < 0 {
                world.now - s(-jump as u64)
            } else {
                world.now + s(jump as u64)
            };
            world.tell(Input::Tick);
            assert!(
                world.sent.len() <= 2,
                "{pattern:?} {jump}: {} at once",
                world.sent.len()
            );
            world.run(s(3));
            // 50 a second, and a budget spends what is left of its epoch.
            let sent = world.sent.len();
            assert!((75..260).contains(&sent), "{pattern:?} {jump}: {sent} in 3 s");
        }
        assert_eq!(world.count("slot.unready"), 0, "{pattern:?}");
    }
}

#[test]
fn only_the_pattern_that_warns_of_it_lets_data_move_packets() {
    let times = |pattern, busy: bool| {
        let mut world = World::up(in_pattern(pattern));
        world.run(s(3));
        let begun = world.now;
        if busy {
            let key = world.open("example.org:80", Isolation::Fresh).unwrap();
            world.client.write(key, &[1; 3_000]);
            world.drain();
        }
        world.run(s(6));
        assert_eq!(
            world.count("slot.unready"),
            0,
            "{pattern:?}: ready before they leave"
        );
        let sent = times(&world.take());
        let first = sent.iter().find(|at| **at > begun).unwrap().since(begun);
        (first, sent)
    };
    for pattern in [Pattern::Poisson, Pattern::Constant] {
        assert_eq!(times(pattern, false), times(pattern, true), "{pattern:?}");
    }
    let ((_, idle), (first, busy)) = (times(BUDGET, false), times(BUDGET, true));
    assert_ne!(idle, busy);
    assert!(
        first <= Duration::from_millis(6),
        "the first packet leaves at once: {first:?}"
    );
    // Of each epoch as many; what is between two may be counted with either.
    assert!(
        idle.len().abs_diff(busy.len()) <= 70,
        "{} and {}",
        idle.len(),
        busy.len()
    );
}

#[test]
fn packets_leave_on_ticks_alone() {
    let mut world = World::up(with_exit());
    let due = world.client.deadline().unwrap() + s(1);
    world.now = due;
    world.open("example.org:80", Isolation::Fresh).unwrap();
    world.frame(0, Content::Filler { users: 0 });
    world.junk_reply(1);
    assert!(world.sent.is_empty());
}

// Frames

#[test]
fn replies_are_taken_in_order_once_and_acknowledged() {
    let mut world = World::up(with_exit());
    for seq in [1, 2, 2, 1, 4, 3] {
        world.junk_reply(seq);
    }
    assert_eq!(
        (
            world.count("drop.unknown_reply"),
            world.count("drop.downlink_out_of_order")
        ),
        (3, 3)
    );
    world.run(s(1));
    assert!(world.take().iter().all(|s| s.1.ack == 4));
    world.tell(Input::LinkDown);
    world.tell(Input::LinkUp);
    assert_eq!(
        world.take()[0].1.ack,
        4,
        "the new link goes on where the old one was"
    );
    // Another mailbox begins anew.
    world.welcome(ClientTag([1; 8]));
    world.junk_reply(1);
    assert_eq!(world.count("drop.unknown_reply"), 4);
}

#[test]
fn mail_is_handed_on_in_order_once_and_acknowledged_when_it_is_on_disk() {
    let mut world = World::up(with_exit());
    assert_eq!(world.mail_acknowledged(), 0, "nothing is known of this mailbox");
    // The first number may be any: what was before is gone.
    for number in [7, 8, 10, 8, 7, 9] {
        world.item(number);
    }
    assert_eq!(world.take_mail(), [7, 8, 9]);
    assert_eq!(world.count("drop.mail_out_of_order"), 3);
    assert_eq!(world.mail_acknowledged(), 7, "nothing is on disk yet");
    world.tell(Input::MailKept {
        generation: 1,
        next: 9,
    });
    assert_eq!(world.mail_acknowledged(), 9);
    world.tell(Input::MailKept {
        generation: 1,
        next: 8,
    });
    assert_eq!(world.mail_acknowledged(), 9, "what is on disk stays there");
    world.tell(Input::MailKept {
        generation: 1,
        next: 100,
    });
    assert_eq!(world.mail_acknowledged(), 10, "not more than came");
    // Not more than may wait for the disk.
    (10..10 + MAIL_WINDOW + 5).for_each(|number| world.item(number));
    assert_eq!(world.take_mail().last(), Some(&(10 + MAIL_WINDOW - 1)));
    assert_eq!(
        (
            world.count("drop.mail_window"),
            world.count("drop.mail_out_of_order")
        ),
        (1, 7)
    );
    // The gateway sends again what is not acknowledged; another mailbox begins anew.
    world.tell(Input::LinkDown);
    world.tell(Input::LinkUp);
    world.welcome(TAG);
    let next = 10 + MAIL_WINDOW;
    world.tell(Input::MailKept { generation: 1, next });
    [next - 1, next].into_iter().for_each(|number| world.item(number));
    assert_eq!(world.take_mail(), [next]);
    world.tell(Input::LinkDown);
    world.tell(Input::LinkUp);
    world.welcome_to(TAG, 2);
    assert_eq!(world.admission.map(|a| a.generation), Some(2));
    assert_eq!(world.mail_acknowledged(), 0);
    world.item(1);
    assert_eq!(world.take_mail(), [1]);
    world.tell(Input::MailKept {
        generation: 1,
        next: 2,
    });
    assert_eq!(world.mail_acknowledged(), 1, "that was of the other mailbox");
}

#[test]
fn a_run_goes_on_where_the_last_one_kept_its_mail() {
    let mut world = World::with(Config::default().with_mail(1, 5), with_exit());
    world.tell(Input::LinkUp);
    world.welcome_to(TAG, 1);
    assert_eq!(world.mail_acknowledged(), 5);
    [3, 4, 5].into_iter().for_each(|number| world.item(number));
    assert_eq!(world.take_mail(), [5]);
}

#[test]
fn a_gap_in_the_mail_is_taken_only_where_a_link_begins() {
    let mut world = World::with(Config::default().with_mail(1, 5), with_exit());
    world.tell(Input::LinkUp);
    world.welcome_to(TAG, 1);
    // What was before 9 is too old and gone.
    [9, 10, 12].into_iter().for_each(|number| world.item(number));
    assert_eq!(world.take_mail(), [9, 10]);
    assert_eq!(world.mail_acknowledged(), 9);
    world.tell(Input::MailKept {
        generation: 1,
        next: 11,
    });
    assert_eq!(world.mail_acknowledged(), 11);
}

#[test]
fn a_client_whose_place_was_taken_is_silent_for_good() {
    let mut world = World::up(with_exit());
    let run = [!world.run[0]; 8];
    world.frame(
        0,
        Content::Refused {
            why: Refusal::Replaced,
            run,
        },
    );
    assert_eq!(world.refused, [], "that was for the other one");
    assert!(world.client.is_up());
    world.refuse(Refusal::Replaced);
    assert_eq!(world.refused, [Refusal::Replaced]);
    world.tell(Input::LinkDown);
    world.sent.clear();
    world.tell(Input::LinkUp);
    world.run(s(60));
    assert_eq!(world.sent.len(), 0);
}

#[test]
fn a_gateway_from_which_nothing_comes_is_asked_again_over_a_new_connection() {
    let mut world = World::up(with_exit());
    world.run(s(60));
    assert!(world.client.is_up() && world.reconnects == 0);
    world.frame(0, Content::Filler { users: 0 });
    world.run_in_silence(s(10) - US);
    assert!(world.client.is_up());
    world.run_in_silence(US);
    assert!(!world.client.is_up());
    assert_eq!((world.reconnects, world.count("link.silent")), (1, 1));
    assert_eq!(world.count("stall.link"), 1);
    world.tell(Input::LinkDown);
    world.sent.clear();
    world.tell(Input::LinkUp);
    assert!(is_hello(&world.sent));
    // One that sends seldom is given the time for it.
    let mut world = World::up(document_of(Profile::chat(), |_, _| ()));
    world.run_in_silence(s(20) - US);
    assert!(world.client.is_up());
    world.run_in_silence(US);
    assert_eq!(world.reconnects, 1);
}

#[test]
fn what_is_no_frame_for_a_client_is_counted() {
    let mut world = World::up(with_exit());
    world.tell(Input::Frame(vec![0; FRAME_LEN - 1].into()));
    world.tell(Input::Frame(vec![9; FRAME_LEN].into()));
    world.frame(0, Content::Packet(Packet::zeroed()));
    world.frame(
        0,
        Content::Hello {
            network: world.document.network(),
            run: [0; 8],
            token: Vec::new(),
        },
    );
    assert_eq!(world.count("drop.bad_frame"), 4);
    assert_eq!(world.events, []);
}

// Slots

#[test]
fn every_packet_has_its_route_its_gateway_by_weight_and_its_kind() {
    let weighted = document(|entry, n| {
        entry.exit = (n == AWAY).then(|| exit_of(AWAY));
        entry.weight = if n == AWAY { 8.0 } else { 1.0 };
    });
    let mut world = World::up(weighted);
    world.run(s(20));
    let (mut ends, mut surbs) = (BTreeMap::new(), [0, 0]);
    for (_, frame) in world.take() {
        let Content::Packet(mut packet) = frame.content else {
            panic!("not a packet")
        };
        let end = world.follow(&mut packet);
        *ends.entry(end).or_insert(0) += 1;
        if end != End::Loop {
            let drop = decode_drop(unpad(Dialect::Lioness, packet.message()).unwrap()).unwrap();
            match decode_surbs(drop).count() {
                0 => surbs[0] += 1,
                5 => surbs[1] += 1,
                n => panic!("{n} SURBs"),
            }
        }
    }
    // In 20 s 100 loops, 800 payload slots, a third of them reply slots, 100 drops. Four standard deviations.
    let near = |n: i32, mean: f64| (f64::from(n) - mean).abs() < 4.0 * mean.sqrt();
    assert!(near(ends[&End::Loop], 100.0), "{ends:?}");
    for (gateway, share) in [(HOME, 0.1), (AWAY, 0.8), (OTHER, 0.1)] {
        assert!(
            near(
                ends[&End::Message {
                    gateway,
                    mailbox: MailboxId::DROP
                }],
                900.0 * share
            ),
            "{ends:?}"
        );
    }
    assert!(
        near(surbs[1], 800.0 / 3.0) && near(surbs[0], 900.0 - 800.0 / 3.0),
        "{surbs:?}"
    );
}

#[test]
fn fillers_and_loops_that_return_are_known_and_each_once() {
    let mut world = World::up(with_exit());
    world.run(s(4));
    let mut surbs = Vec::new();
    for (_, frame) in world.take() {
        let Content::Packet(mut packet) = frame.content else {
            continue;
        };
        match world.follow(&mut packet) {
            End::Loop => {}
            End::Message { gateway, .. } => {
                let drop = decode_drop(unpad(Dialect::Lioness, packet.message()).unwrap())
                    .unwrap()
                    .to_vec();
                surbs.extend(
                    drop.chunks_exact(SURB_LEN)
                        .map(|c| (gateway, <[u8; SURB_LEN]>::try_from(c).unwrap())),
                );
            }
        }
    }
    assert!(surbs.len() > 100);
    for (gateway, bytes) in &surbs[..20] {
        for _ in 0..2 {
            world.use_surb(*gateway, Surb::from_bytes(bytes), |body| {
                Rng::seed_from_u64(3).fill_bytes(body)
            });
        }
    }
    assert_eq!(
        (world.count("reply.filler"), world.count("drop.unknown_reply")),
        (20, 20)
    );
    // The others are lost, once their time is over.
    world.tell(Input::LinkDown);
    let life = world.document.profile().surb_life();
    world.now = world.now + life;
    world.tell(Input::Tick);
    assert!(world.count("surb.lost") >= surbs.len() as u64 - 20);
    let loops = world.client.loops();
    assert_eq!((loops.lost, loops.returned), (loops.sent, 0));
    assert_eq!(
        world.loops,
        vec![None; loops.lost as usize],
        "and told, each once"
    );
}

#[test]
fn loops_are_told_by_the_mixes_that_they_were_to_pass() {
    const LOST_AT: u8 = 3;
    let mut world = World::up(with_exit());
    let mut passed: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for _ in 0..100 {
        world.run(Duration::from_millis(100));
        for (_, frame) in world.take() {
            let Content::Packet(mut packet) = frame.content else {
                continue;
            };
            let (mut at, mut mixes) = (HOME, Vec::new());
            let reply = loop {
                let peeler = Peeler::new(secret(at), Dialect::Lioness);
                match peeler.peel(&mut packet, &mut |_| false).unwrap() {
                    Peeled::Forward { next, .. } => at = NodeId::from_address(&next).unwrap().as_bytes()[0],
                    Peeled::Exit { .. } => break None,
                    Peeled::Reply { id } => break Some(id),
                }
                if at < HOME {
                    mixes.push(at);
                }
            };
            let Some(reply) = reply else { continue };
            let lost = mixes.contains(&LOST_AT);
            for mix in mixes {
                let entry = passed.entry(id(mix)).or_default();
                entry.0 += u64::from(!lost);
                entry.1 += u64::from(lost);
            }
            if !lost {
                let (seq, payload) = (world.seq, Box::new(*packet.payload()));
                world.seq += 1;
                world.frame(seq, Content::Reply { id: reply, payload });
            }
        }
    }
    world.tell(Input::LinkDown);
    world.now = world.now + s(60);
    world.tell(Input::Tick);
    let told = world.client.loops_by_node();
    let told: BTreeMap<_, _> = told
        .iter()
        .map(|(id, passed)| (*id, (passed.returned, passed.lost)))
        .collect();
    assert_eq!(told, passed);
    let (returned, lost) = told[&id(LOST_AT)];
    assert!(returned == 0 && lost > 5, "{lost}");
    assert_eq!(told[&id(LOST_AT + 1)].1, 0, "the other of its layer");
}

#[test]
fn what_a_user_does_changes_neither_times_nor_routes_nor_kinds() {
    let run = |busy: bool| {
        let mut world = World::up(with_exit());
        if busy {
            let key = world.open("example.org:80", Isolation::Fresh).unwrap();
            world.client.write(key, &[1; 30_000]);
            world.drain();
        }
        world.run(s(3));
        let mut seen = Vec::new();
        for (at, frame) in world.take() {
            let Content::Packet(mut packet) = frame.content else {
                panic!("not a packet")
            };
            // The group element comes from the keys of the whole route.
            let alpha = packet.as_bytes()[..32].to_vec();
            seen.push(match world.follow(&mut packet) {
                End::Loop => (at, 0, false, alpha),
                End::Message { gateway, mailbox } => (at, gateway, mailbox == MailboxId::DROP, alpha),
            });
        }
        seen
    };
    let (idle, busy) = (run(false), run(true));
    let outside =
        |seen: &[(Time, u8, bool, Vec<u8>)]| seen.iter().map(|s| (s.0, s.1, s.3.clone())).collect::<Vec<_>>();
    assert_eq!(outside(&idle), outside(&busy));
    assert!(busy.iter().any(|s| s.1 == AWAY && !s.2), "something was said");
}

// Sessions

#[test]
fn a_stream_is_opened_answered_ended_and_forgotten() {
    let mut world = World::up(with_exit());
    let key = world.open("example.org:80", Isolation::Fresh).unwrap();
    assert_eq!(world.client.write(key, b"question"), 8);
    let (mut got, mut finished) = (Vec::new(), false);
    for _ in 0..40 {
        world.run(Duration::from_millis(100));
        world.exit_answers(&[8; 20_000]);
        while let Some(bytes) = world.client.read(key, 5_000) {
            got.extend_from_slice(&bytes);
        }
        if got.len() == 20_000 && !finished {
            finished = true;
            world.client.finish(key);
        }
        world.drain();
    }
    assert_eq!(got, vec![8; 20_000]);
    let told: Vec<StreamEvent> = world.events.iter().map(|e| e.1).collect();
    assert_eq!(
        (told.first(), told.last()),
        (Some(&StreamEvent::Opened), Some(&StreamEvent::Ended))
    );
    assert_eq!(told.iter().filter(|e| **e == StreamEvent::Ended).count(), 1);
    // Delivered, too: there is nothing left to write to, and the session's end is no failure of it.
    assert_eq!(world.client.write(key, b"more"), 0);
    world.run(s(60));
    assert_eq!(world.events.len(), told.len());
    assert_eq!(
        (world.count("session.begun"), world.count("session.ended")),
        (1, 1)
    );
}

#[test]
fn a_letter_goes_to_the_mail_service_of_its_gateway_alone() {
    let mail = |n: u8| ServiceEntry {
        mailbox: format!("a{n}").repeat(16),
        ..exit_of(n)
    };
    let mut world = World::up(document(|entry, n| {
        entry.exit = (n == AWAY).then(|| exit_of(AWAY));
        entry.mail = (n == HOME || n == AWAY).then(|| mail(n));
    }));
    let mailbox = MailboxId::new([1; 16]);
    for nowhere in [OTHER, 1, 99] {
        let opened = world.client.open_mailbox(world.now, &id(nowhere), mailbox);
        assert_eq!(opened, Err(OpenError::NoMailbox), "{nowhere}");
    }
    for there in [HOME, AWAY] {
        world.sent.clear();
        assert!(world.client.open_mailbox(world.now, &id(there), mailbox).is_ok());
        world.run(s(3));
        let mut found = 0;
        for (_, frame) in world.take() {
            let Content::Packet(mut packet) = frame.content else {
                continue;
            };
            if let End::Message { gateway, mailbox } = world.follow(&mut packet)
                && mailbox != MailboxId::DROP
            {
                // Those of the letter before may still be tried again.
                assert_eq!(mailbox.to_string(), mail(gateway).mailbox);
                found += usize::from(gateway == there);
            }
        }
        assert!(found > 0, "nothing went to {there}");
    }
    // Streams to the outside never go there.
    world.open("a.example:1", Isolation::Fresh).unwrap();
    assert_eq!(world.count("session.begun"), 3);
}

#[test]
fn an_exit_that_never_answers_is_a_time_out() {
    let mut world = World::up(with_exit());
    let key = world.open("example.org:80", Isolation::Fresh).unwrap();
    world.run(s(31));
    assert_eq!(world.events, [(key, StreamEvent::Failed(OpenError::Timeout))]);
    world.run(s(60));
    assert_eq!(world.count("session.ended"), 1);
}

#[test]
fn no_exit_of_ones_own_gateway_or_of_its_operator_is_used() {
    let refusing: [fn(&mut NodeEntry, u8); 3] = [
        |_, _| {},
        |entry, n| entry.exit = (n == HOME).then(|| exit_of(HOME)),
        |entry, n| {
            entry.exit = (n >= HOME).then(|| exit_of(n));
            entry.operator = if n >= HOME {
                "all of them".into()
            } else {
                String::new()
            };
        },
    ];
    for change in refusing {
        let mut world = World::up(document(change));
        assert_eq!(
            world.open("example.org:80", Isolation::Fresh),
            Err(OpenError::NoExit)
        );
    }
    let mut world = World::up(document(|entry, n| {
        entry.exit = (n >= HOME).then(|| exit_of(n));
        entry.operator = if n == OTHER {
            "another".into()
        } else {
            "ours".into()
        };
    }));
    for _ in 0..20 {
        world.open("example.org:80", Isolation::Fresh).unwrap();
    }
    world.run(s(5));
    let mut mailboxes = BTreeSet::new();
    for (_, frame) in world.take() {
        let Content::Packet(mut packet) = frame.content else {
            continue;
        };
        if let End::Message { gateway, mailbox } = world.follow(&mut packet)
            && mailbox != MailboxId::DROP
        {
            mailboxes.insert((gateway, mailbox.as_bytes()[0]));
        }
    }
    assert_eq!(mailboxes, BTreeSet::from([(OTHER, 0xe9)]));
}

#[test]
fn sessions_are_bounded_and_shared_only_by_the_same_credentials_and_host() {
    let mut world = World::with(Config::default().with_sessions(2), with_exit());
    let shared = |user: &[u8]| Isolation::shared(user.to_vec(), b"p".to_vec());
    world.open("example.org:80", shared(b"a")).unwrap();
    world.open("example.org:443", shared(b"a")).unwrap();
    assert_eq!(world.count("session.begun"), 1);
    world.open("example.org:80", shared(b"b")).unwrap();
    assert_eq!(world.open("other.org:80", shared(b"a")), Err(OpenError::Limit));
    assert_eq!(
        world.open("example.org:80", Isolation::Fresh),
        Err(OpenError::Limit)
    );
    world.open("example.org:80", shared(b"b")).unwrap();
    assert_eq!(
        (world.count("session.begun"), world.count("stream.opened")),
        (2, 4)
    );
}

#[test]
fn a_session_that_is_about_to_end_or_full_is_not_shared_but_another_begun() {
    let mut world = World::up(with_exit());
    let shared = || Isolation::shared(b"a".to_vec(), b"p".to_vec());
    // As many streams as one session has, and one more.
    for _ in 0..65 {
        world.open("example.org:80", shared()).unwrap();
    }
    assert_eq!(world.count("session.begun"), 2);
    // One that had no stream for long, and can't say so for want of a link.
    let mut world = World::up(with_exit());
    let key = world.open("example.org:80", shared()).unwrap();
    world.client.finish(key);
    for _ in 0..40 {
        world.run(Duration::from_millis(100));
        world.exit_answers(b"");
        world.drain();
    }
    assert_eq!(world.events.last(), Some(&(key, StreamEvent::Ended)));
    world.tell(Input::LinkDown);
    world.run(s(19));
    world.open("example.org:80", shared()).unwrap();
    assert_eq!(
        (world.count("session.begun"), world.count("session.ended")),
        (2, 0)
    );
}

#[test]
fn nothing_is_sent_or_opened_once_the_document_has_expired() {
    let mut world = World::up(with_exit());
    world.take();
    // Valid until second 20,000, and five minutes for clocks that are off.
    world.now = Time::from_s(20_300);
    world.tell(Input::Tick);
    assert!(world.take().is_empty());
    assert!(!world.client.is_up());
    assert_eq!(
        world.open("example.org:80", Isolation::Fresh),
        Err(OpenError::Expired)
    );
    world.tell(Input::LinkUp);
    assert!(world.take().is_empty(), "no hello either");
    assert_eq!(world.count("document.expired"), 2);
}

/// It is taken at any time, also when nothing is sent any more; one that says something else about the nodes is not.
#[test]
fn a_newer_document_with_other_keys_is_taken_and_has_a_client_come_back_whose_own_is_over() {
    let exit = |entry: &mut NodeEntry, n: u8| entry.exit = (n == AWAY).then(|| exit_of(AWAY));
    let other_keys = |entry: &mut NodeEntry, n: u8| {
        exit(entry, n);
        entry.sphinx_key = hex::encode(secret(n + 100).public().as_bytes());
    };
    let newer = nth_document(2, Profile::browse(), other_keys);
    let mut world = World::up(with_exit());
    world.take();
    world.now = Time::from_s(20_300);
    world.tell(Input::Tick);
    assert!(!world.client.is_up());
    let reconnects = world.reconnects;
    for not_taken in [
        // The same again, another profile, another node's exit.
        with_exit(),
        nth_document(2, Profile::bulk(), other_keys),
        nth_document(2, Profile::browse(), |entry, n| {
            entry.exit = (n == OTHER).then(|| exit_of(OTHER))
        }),
    ] {
        world.tell(Input::Document(not_taken));
    }
    assert_eq!(
        (world.count("document.not_taken"), world.reconnects),
        (3, reconnects)
    );
    world.tell(Input::Document(Arc::clone(&newer)));
    assert_eq!(
        (world.count("document.taken"), world.reconnects),
        (1, reconnects + 1)
    );
    world.tell(Input::LinkUp);
    world.welcome(TAG);
    assert!(world.client.is_up());
    assert_eq!(world.client.document().epoch(), 2);
    assert!(world.open("example.org:80", Isolation::Fresh).is_ok());
    world.sent.clear();
    world.run(s(2));
    // All packets are for the new keys: the gateway opens each with its own.
    let peeler = Peeler::new(secret(HOME + 100), Dialect::Lioness);
    let mut packets = 0;
    for (_, frame) in world.take() {
        if let Content::Packet(mut packet) = frame.content {
            peeler.peel(&mut packet, &mut |_| false).unwrap();
            packets += 1;
        }
    }
    assert!(packets > 50, "{packets}");
    world.tell(Input::Document(with_exit()));
    assert_eq!(world.client.document().sequence(), 2, "an older one is not taken");
}

#[test]
fn weights_of_a_newer_document_are_used_at_once_and_no_slot_moves_for_them() {
    let weighed = |entry: &mut NodeEntry, n: u8| {
        entry.exit = (n == AWAY).then(|| exit_of(AWAY));
        entry.weight = match n {
            1 => 1.5,
            2 => 0.5,
            AWAY => 8.0,
            _ => 1.0,
        };
    };
    let mut ends = Vec::new();
    for takes_it in [false, true] {
        let mut world = World::up(with_exit());
        world.run(s(3));
        world.take();
        if takes_it {
            world.tell(Input::Document(numbered(2, 1, Profile::browse(), weighed)));
            assert_eq!(world.count("document.taken"), 1);
        }
        world.run(s(60));
        let sent = world.take();
        let times = times(&sent);
        let (mut by_mix_1, mut to_away, mut messages) = (0.0, 0.0, 0.0);
        for (_, frame) in sent {
            let Content::Packet(mut packet) = frame.content else {
                panic!("not a packet")
            };
            let (end, mixes) = world.follow_along(&mut packet);
            by_mix_1 += f64::from(u8::from(mixes[0] == 1));
            if let End::Message { gateway, .. } = end {
                messages += 1.0;
                to_away += f64::from(u8::from(gateway == AWAY));
            }
        }
        ends.push((times.clone(), by_mix_1 / times.len() as f64, to_away / messages));
    }
    let [(before, half, third), (after, most, nearly_all)] = &ends[..] else {
        panic!("two runs")
    };
    assert!(before == after && before.len() > 2_000);
    // Each of some 3,000; five standard deviations.
    assert!(
        (half - 0.5).abs() < 0.05 && (third - 1.0 / 3.0).abs() < 0.05,
        "{half} {third}"
    );
    assert!(
        (most - 0.75).abs() < 0.05 && (nearly_all - 0.8).abs() < 0.05,
        "{most} {nearly_all}"
    );
}

/// Of a pool of 20 packets.
fn with_floor() -> World {
    let mut world = World::with(Config::default().with_min_pool(20.0), with_exit());
    world.tell(Input::LinkUp);
    world.welcome(TAG);
    world.sent.clear();
    world
}

/// Runs for so long: when something left, and how much of it was not cover.
fn spoken(world: &mut World, time: Duration) -> (Vec<Time>, usize) {
    world.sent.clear();
    world.run(time);
    let mut said = 0;
    let sent = world.take();
    let times = times(&sent);
    for (_, frame) in sent {
        let Content::Packet(mut packet) = frame.content else {
            panic!("not a packet")
        };
        said += usize::from(matches!(
            world.follow(&mut packet),
            End::Message { mailbox, .. } if mailbox != MailboxId::DROP
        ));
    }
    (times, said)
}

#[test]
fn below_the_floor_of_its_user_a_client_sends_cover_alone() {
    let mut world = with_floor();
    let refused = Err(OpenError::TooFewUsers);
    // The document alone: 3.5 loops of nodes in a pool, and what this one sends and gets back.
    assert!((world.client.outlook().pool - 3.5 - 7.0 / 6.0).abs() < 1e-6);
    assert!(!world.client.may_send());
    assert_eq!(world.open("example.org:80", Isolation::Fresh), refused);
    world.frame(0, Content::Filler { users: 8 });
    assert_eq!(world.open("example.org:80", Isolation::Fresh), refused);
    let mailbox = world
        .client
        .open_mailbox(world.now, &id(AWAY), MailboxId::new([1; 16]));
    assert_eq!(mailbox, refused);

    world.frame(0, Content::Filler { users: 16 });
    assert_eq!((world.client.users(), world.client.may_send()), (Some(16), true));
    let key = world.open("example.org:80", Isolation::Fresh).unwrap();
    let (mut cover, said) = spoken(&mut world, s(1));
    assert!(said > 0);

    // Others leave: what was open ends, and nothing of it follows.
    world.frame(0, Content::Filler { users: 8 });
    assert_eq!(world.events, [(key, StreamEvent::Failed(OpenError::TooFewUsers))]);
    assert_eq!(world.client.write(key, b"more"), 0);
    // But for what was packed for slots of the next 5 ms.
    world.run(Duration::from_millis(5));
    cover.extend(times(&world.take()));
    let (times_below, said) = spoken(&mut world, s(3));
    assert_eq!(said, 0);
    cover.extend(times_below);
    assert_eq!(world.count("users.too_few"), 1);

    // When packets leave is the same for one who has no floor and never spoke.
    let mut idle = World::up(with_exit());
    assert_eq!(cover, spoken(&mut idle, s(4) + Duration::from_millis(5)).0);
}

#[test]
fn a_gateway_that_can_no_longer_tell_is_believed_for_ten_minutes() {
    let mut world = with_floor();
    world.frame(0, Content::Filler { users: 64 });
    for _ in 0..9 {
        world.run(s(60));
        world.frame(0, Content::Filler { users: 0 });
    }
    assert_eq!((world.client.users(), world.client.may_send()), (Some(64), true));
    let key = world.open("example.org:80", Isolation::Fresh).unwrap();
    world.events.clear();
    world.run(s(61));
    assert_eq!((world.client.users(), world.client.may_send()), (None, false));
    let last = world.events.iter().rfind(|(of, _)| *of == key);
    assert!(matches!(last, Some((_, StreamEvent::Failed(_)))), "{last:?}");
}

#[test]
fn streams_end_when_the_gateway_is_away_for_a_minute() {
    let mut world = World::up(with_exit());
    let open = world.open("example.org:80", Isolation::Fresh).unwrap();
    world.tell(Input::LinkDown);
    // A short absence ends nothing.
    world.run(Duration::from_secs(20));
    assert!(world.events.is_empty(), "{:?}", world.events);
    let since = world.now;
    while world.events.is_empty() {
        world.now = world.client.deadline().unwrap();
        world.tell(Input::Tick);
    }
    assert!(
        matches!(world.events[..], [(key, StreamEvent::Failed(_))] if key == open),
        "{:?}",
        world.events
    );
    assert!(world.now.since(since) <= Duration::from_secs(40));
}

#[test]
fn a_gateway_that_is_away_for_long_is_one_to_leave_and_no_other_is() {
    let mut world = World::up(with_exit());
    world.tell(Input::LinkDown);
    world.run(s(299));
    assert_eq!(world.client.wants_another(), None);
    assert!(
        world.client.deadline().is_some_and(|at| at <= world.now + s(1)),
        "woken for it"
    );
    world.run(s(2));
    assert_eq!(world.client.wants_another(), Some(Why::Away));
    // It comes back: all is well.
    world.tell(Input::LinkUp);
    world.welcome(TAG);
    assert_eq!(world.client.wants_another(), None);

    // One that never was there, or says no.
    let mut never = World::with(Config::default().with_gateway_patience(s(20)), with_exit());
    never.tell(Input::LinkUp);
    never.refuse(Refusal::Full);
    never.run(s(19));
    assert_eq!(never.client.wants_another(), None);
    never.run(s(2));
    assert_eq!(never.client.wants_another(), Some(Why::Away));

    // Who was replaced by another run of the same identity would only take the place from it again.
    let mut replaced = World::up(with_exit());
    replaced.refuse(Refusal::Replaced);
    replaced.run(s(600));
    assert_eq!(replaced.client.wants_another(), None);
}

#[test]
fn reports_that_nobody_of_the_document_signed_are_refused_and_counted() {
    let mut world = World::up(with_exit());
    let report = |len: usize| [&(len as u32).to_be_bytes()[..], &vec![7; len]].concat();
    world.tell(Input::Reports([report(200), report(0), report(100_000)].concat()));
    assert_eq!(world.client.counters().get("drop.bad_report"), 3);
    // A length beyond the end, and more than there are nodes: read as far as it can make sense.
    world.tell(Input::Reports(vec![0xff; 1 << 20]));
    assert_eq!(world.client.counters().get("drop.bad_report"), 4);
    world.tell(Input::Reports(vec![0; 1 << 20]));
    assert_eq!(
        world.client.counters().get("drop.bad_report"),
        4 + u64::from(OTHER)
    );
    assert_eq!(world.client.counters().get("reports.new"), 0);
}
