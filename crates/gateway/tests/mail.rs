//! A gateway core, a store and one clock: letters are brought, kept and fetched.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use common::{HERE, id};
use mizzle_base::frame::{self, Content, Frame, Refusal};
use mizzle_base::item::ITEM_LEN;
use mizzle_base::upload::{Answer as Said, Head};
use mizzle_base::{ClientTag, Document, LetterId, MailboxId, Profile, Rng, Time};
use mizzle_gateway::store::{
    Change, Kept, Limits, MailStore as _, MemoryTables, Order, Row, StoreError, Table, Tables,
};
use mizzle_gateway::{Action, ClientId, Config, Conn, Gateway, Input, Upload, UploadId, Uploaded};
use mizzle_sphinx::Packet;
use mizzle_stream::OpenError;
use proptest::prelude::*;
use rand_core::SeedableRng as _;

const START: Time = Time::from_s(15_000);
/// 100 frames a second.
const INTERVAL: Duration = Duration::from_millis(10);
const ALICE: ClientId = ClientId([0xa1; 32]);
const BOB: ClientId = ClientId([0xb0; 32]);
const RUN: [u8; 8] = [1; 8];
const DAY: Duration = Duration::from_secs(86_400);

/// Tables whose disk fails when a test says so.
#[derive(Default)]
struct Faulty {
    tables: MemoryTables,
    fails: bool,
    /// Numbers of items that can't be read any more.
    damaged: BTreeSet<u64>,
}

impl Faulty {
    fn is_damaged(&self, table: Table, key: &[u8]) -> bool {
        table == Table::Items
            && self
                .damaged
                .iter()
                .any(|number| key.ends_with(&number.to_be_bytes()))
    }

    fn error(&self) -> StoreError {
        StoreError::Damaged(self.name(), "a flipped bit".into())
    }
}

impl Tables for Faulty {
    fn name(&self) -> String {
        "of the test".into()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if self.is_damaged(table, key) {
            return Err(self.error());
        }
        self.tables.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], below: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.tables.scan(table, from, below, limit)?;
        if rows.iter().any(|(key, _)| self.is_damaged(table, key)) {
            return Err(self.error());
        }
        Ok(rows)
    }

    fn write(&mut self, changes: Vec<Change>, durable: bool) -> Result<(), StoreError> {
        if self.fails {
            return Err(StoreError::DiskFull(self.name()));
        }
        self.tables.write(changes, durable)
    }

    fn revive(&mut self) -> Result<(), StoreError> {
        if self.fails {
            Err(StoreError::DiskFull(self.name()))
        } else {
            Ok(())
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Filler,
    Reply(u64),
    /// Its number, the letter and which item of it.
    Mail(u64, u8, u32),
    Welcome(ClientTag, MailboxId, u64),
    Refused(Refusal),
}

/// What was said to a sender.
#[derive(Default)]
struct Told {
    opened: Option<Result<(), OpenError>>,
    took: usize,
    bytes: Vec<u8>,
    ended: bool,
}

impl Told {
    fn answers(&self) -> Vec<Said> {
        let (mut rest, mut all) = (&self.bytes[..], Vec::new());
        while let Some((answer, len)) = Said::decode(rest).unwrap() {
            all.push(answer);
            rest = &rest[len..];
        }
        assert!(rest.is_empty(), "half an answer");
        all
    }
}

struct World {
    document: Arc<Document>,
    gateway: Gateway,
    store: Kept<Faulty>,
    /// Orders wait here while the store is slow.
    slow: bool,
    orders: VecDeque<Order>,
    now: Time,
    seen: Vec<(Time, ClientId, Seen)>,
    told: BTreeMap<UploadId, Told>,
    next_upload: u64,
    /// By which connection clients speak, by which they were welcomed, and which were refused.
    conn: Conn,
    by: Vec<Conn>,
    refused: Vec<Conn>,
}

fn gateway(document: &Arc<Document>, store: &mut Kept<Faulty>, seed: u64) -> Gateway {
    Gateway::new(
        Config::default().with_downlink_capacity_per_s(300.0),
        Arc::clone(document),
        &id(HERE),
        store.registered().unwrap(),
        Rng::seed_from_u64(seed),
    )
}

impl World {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let profile = Profile {
            downlink_per_s: 100.0,
            ..Profile::browse()
        };
        let document = common::document(profile, 20_000_000);
        let mut store = Kept::open(Faulty::default(), limits).unwrap();
        Self {
            gateway: gateway(&document, &mut store, 1),
            document,
            store,
            slow: false,
            orders: VecDeque::new(),
            now: START,
            seen: Vec::new(),
            told: BTreeMap::new(),
            next_upload: 0,
            conn: Conn(1),
            by: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// The gateway's process is killed and starts again on what its store has.
    fn restart(&mut self) {
        let limits = Limits::default();
        let faulty = std::mem::take(self.store.tables_mut());
        self.store = Kept::open(faulty, limits).unwrap();
        self.gateway = gateway(&self.document, &mut self.store, 2);
        self.orders.clear();
    }

    fn tell(&mut self, input: Input) {
        self.gateway.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.gateway.poll() {
            match action {
                Action::Welcome { client, conn, bytes } => {
                    self.by.push(conn);
                    self.seen.push((self.now, client, look(&bytes)));
                }
                Action::Send { client, conn, bytes } => {
                    assert_eq!(Some(&conn), self.by.last(), "by that of the last welcome");
                    self.seen.push((self.now, client, look(&bytes)));
                }
                Action::Refuse { client, conn, bytes } => {
                    self.refused.push(conn);
                    self.seen.push((self.now, client, look(&bytes)));
                }
                Action::Store(order) => self.orders.push_back(order),
                Action::Upload(id, what) => {
                    let told = self.told.entry(id).or_default();
                    match what {
                        Uploaded::Opened(result) => told.opened = Some(result),
                        Uploaded::Took(n) => told.took += n,
                        Uploaded::Answer(bytes) if bytes.is_empty() => told.ended = true,
                        Uploaded::Answer(bytes) => {
                            told.bytes.extend(bytes);
                            // There is room for the next.
                            self.gateway.handle(self.now, Input::Upload(id, Upload::Wanted));
                        }
                    }
                }
                Action::Mix(_) | Action::Exit(_) | Action::Post(_) => {}
            }
            if !self.slow {
                while self.serve() {}
            }
        }
    }

    /// The store carries out one order.
    fn serve(&mut self) -> bool {
        let Some(order) = self.orders.pop_front() else {
            return false;
        };
        let (answers, _) = self.store.perform(vec![order]);
        for answer in answers {
            self.gateway.handle(self.now, Input::Store(answer));
        }
        true
    }

    /// The slow store carries out all that it was asked, in one call.
    fn serve_all(&mut self) {
        let (answers, _) = self.store.perform(self.orders.drain(..).collect());
        for answer in answers {
            self.tell(Input::Store(answer));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.gateway.deadline().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Tick);
        }
        self.now = end;
        self.tell(Input::Tick);
    }

    fn frame(&mut self, client: ClientId, ack: u64, seq: u64, content: Content) {
        let bytes = frame::encode(&Frame { ack, seq, content });
        let conn = self.conn;
        self.tell(Input::Frame { client, conn, bytes });
    }

    fn hello_of(&mut self, client: ClientId, run: [u8; 8], seq: u64) -> Option<Seen> {
        let before = self.seen.len();
        let network = self.document.network();
        let token = Vec::new();
        self.frame(client, 1, seq, Content::Hello { network, run, token });
        self.seen.get(before).map(|seen| seen.2)
    }

    fn admit(&mut self, client: ClientId, seq: u64) -> (ClientTag, MailboxId, u64) {
        match self.hello_of(client, RUN, seq) {
            Some(Seen::Welcome(tag, mailbox, generation)) => (tag, mailbox, generation),
            other => panic!("{other:?}"),
        }
    }

    fn gone(&mut self, client: ClientId) {
        self.tell(Input::Gone { client });
    }

    fn acknowledge(&mut self, client: ClientId, seq: u64) {
        self.frame(client, 1, seq, Content::Packet(Packet::zeroed()));
    }

    fn reply(&mut self, tag: ClientTag) {
        self.tell(Input::Reply {
            id: tag.reply_id([0; 8]),
            packet: Packet::zeroed(),
        });
    }

    fn begin(&mut self, mailbox: MailboxId) -> UploadId {
        self.next_upload += 1;
        let id = UploadId(self.next_upload);
        self.tell(Input::Upload(id, Upload::Open(mailbox)));
        self.tell(Input::Upload(id, Upload::Wanted));
        id
    }

    fn say(&mut self, id: UploadId, bytes: Vec<u8>) {
        self.tell(Input::Upload(id, Upload::Bytes(bytes)));
    }

    /// An upload that says this at once.
    fn bring(&mut self, mailbox: MailboxId, bytes: Vec<u8>) -> UploadId {
        let id = self.begin(mailbox);
        self.say(id, bytes);
        id
    }

    /// Brings a whole letter, which is kept.
    fn keep(&mut self, mailbox: MailboxId, letter: u8, count: u32) {
        let id = self.bring(mailbox, letter_bytes(letter, count));
        assert_eq!(self.told[&id].answers(), [Said::Stored]);
        assert!(self.told[&id].ended);
    }

    fn told(&self, id: UploadId) -> Vec<Said> {
        self.told[&id].answers()
    }

    fn count(&self, name: &str) -> u64 {
        self.gateway.counters().get(name)
    }

    /// The mail that a client got: number, letter, index.
    fn mail(&self, client: ClientId) -> Vec<(u64, u8, u32)> {
        let of = self.seen.iter().filter(|s| s.1 == client);
        of.filter_map(|s| match s.2 {
            Seen::Mail(number, letter, index) => Some((number, letter, index)),
            _ => None,
        })
        .collect()
    }

    /// When a client got the frames of its ticks.
    fn times(&self, client: ClientId) -> Vec<Time> {
        let of = self.seen.iter().filter(|s| s.1 == client);
        of.filter(|s| !matches!(s.2, Seen::Welcome(..) | Seen::Refused(_)))
            .map(|s| s.0)
            .collect()
    }
}

fn look(bytes: &[u8]) -> Seen {
    let Frame { seq, content, .. } = frame::decode(bytes).unwrap();
    match content {
        Content::Filler { .. } => Seen::Filler,
        Content::Reply { .. } => Seen::Reply(seq),
        Content::Mail(item) => {
            assert_eq!(*item.bytes, [item.index as u8; ITEM_LEN]);
            Seen::Mail(seq, item.letter.as_bytes()[0], item.index)
        }
        Content::Welcome {
            tag,
            mailbox,
            generation,
        } => Seen::Welcome(tag, mailbox, generation),
        Content::Refused { why, .. } => Seen::Refused(why),
        _ => panic!("an uplink frame was sent down"),
    }
}

fn head(letter: u8, count: u32, resume: bool) -> Vec<u8> {
    let letter = LetterId::new([letter; 16]);
    Head {
        resume,
        letter,
        count,
    }
    .encode()
    .to_vec()
}

fn items(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(|index| [index as u8; ITEM_LEN]).collect()
}

/// A whole upload.
fn letter_bytes(letter: u8, count: u32) -> Vec<u8> {
    [head(letter, count, false), items(0..count)].concat()
}

/// The items of a letter, numbered from `first` on.
fn letter_mail(first: u64, letter: u8, count: u32) -> Vec<(u64, u8, u32)> {
    (first..).zip(0..count).map(|(n, i)| (n, letter, i)).collect()
}

// Letters that come

#[test]
fn stored_is_said_once_the_last_item_is_durable_and_not_before() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    world.slow = true;
    let id = world.bring(mailbox, letter_bytes(1, 3));
    let mut served = 0;
    while !world.orders.is_empty() {
        assert_eq!(world.told(id), [], "after {served} orders");
        assert!(world.serve());
        world.drain();
        served += 1;
    }
    assert_eq!(world.told(id), [Said::Stored]);
    assert!(world.told[&id].ended && world.told[&id].opened == Some(Ok(())));
    // Whether it is there, and its three items.
    assert_eq!((served, world.count("upload.stored")), (4, 1));
}

#[test]
fn a_mailbox_that_nobody_has_is_not_opened() {
    let mut world = World::new();
    let id = world.begin(MailboxId::new([3; 16]));
    assert_eq!(world.told[&id].opened, Some(Err(OpenError::NoMailbox)));
    world.say(id, letter_bytes(1, 1));
    assert_eq!(world.told(id), []);
}

#[test]
fn bytes_are_taken_no_faster_than_the_store_keeps_them() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    world.slow = true;
    let id = world.bring(mailbox, letter_bytes(1, 20));
    assert_eq!(world.told[&id].took, 22, "the head");
    world.serve_all();
    assert_eq!(world.told[&id].took, 22 + 8 * ITEM_LEN);
    assert_eq!(world.orders.len(), 8);
    world.serve_all();
    assert_eq!(world.told[&id].took, 22 + 16 * ITEM_LEN);
    world.serve_all();
    world.serve_all();
    assert_eq!(world.told[&id].took, 22 + 20 * ITEM_LEN);
    assert_eq!(world.told(id), [Said::Stored]);
}

#[test]
fn an_upload_that_broke_goes_on_behind_what_is_kept() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    let half = [head(1, 5, false), items(0..2), vec![2; 100]].concat();
    let id = world.bring(mailbox, half);
    world.tell(Input::Upload(id, Upload::Gone));
    // Also by a gateway that was killed meanwhile.
    world.restart();
    let id = world.bring(mailbox, head(1, 5, true));
    assert_eq!(world.told(id), [Said::From(2)]);
    world.say(id, items(2..5));
    assert_eq!(world.told(id), [Said::From(2), Said::Stored]);
    // Without asking, from the beginning: what is there is passed over.
    let other = world.bring(mailbox, [head(2, 3, false), items(0..2)].concat());
    world.tell(Input::Upload(other, Upload::Gone));
    world.keep(mailbox, 2, 3);
    world.admit(ALICE, 0);
    world.run(INTERVAL * 20);
    assert_eq!(
        world.mail(ALICE),
        [letter_mail(1, 1, 5), letter_mail(6, 2, 3)].concat()
    );
}

#[test]
fn a_new_letter_that_asks_where_to_begin_is_told_the_beginning() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    let id = world.bring(mailbox, head(1, 2, true));
    assert_eq!(world.told(id), [Said::From(0)]);
    world.say(id, items(0..2));
    assert_eq!(world.told(id), [Said::From(0), Said::Stored]);
}

#[test]
fn a_letter_that_is_there_is_not_taken_twice_for_a_week() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.keep(mailbox, 1, 3);
    for resume in [true, false] {
        let id = world.bring(mailbox, [head(1, 3, resume), items(0..3)].concat());
        assert_eq!(world.told(id), [Said::Stored]);
        assert_eq!(world.told[&id].took, 22 + 3 * ITEM_LEN, "and nobody waits");
    }
    world.run(INTERVAL * 10);
    world.acknowledge(ALICE, 4);
    // Also when it was fetched.
    world.keep(mailbox, 1, 3);
    assert_eq!(
        (world.count("mail.kept"), world.count("upload.known_already")),
        (3, 3)
    );
    world.gone(ALICE);
    world.run(DAY * 8);
    world.run(Duration::from_secs(61));
    world.keep(mailbox, 1, 3);
    assert_eq!(world.count("mail.kept"), 6);
}

#[test]
fn a_letter_under_the_id_of_another_is_refused() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.keep(mailbox, 1, 3);
    let id = world.bring(mailbox, letter_bytes(1, 4));
    assert_eq!(world.told(id), [Said::Refused(OpenError::General.code())]);
}

#[test]
fn of_two_uploads_of_one_letter_the_newer_wins() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    let old = world.bring(mailbox, [head(1, 4, false), items(0..2)].concat());
    let new = world.bring(mailbox, head(1, 4, true));
    assert_eq!(world.told(old), [Said::Refused(OpenError::General.code())]);
    assert!(world.told[&old].ended);
    world.say(old, items(2..4));
    assert_eq!(world.told(new), [Said::From(2)]);
    world.say(new, items(2..4));
    assert_eq!(world.told(new), [Said::From(2), Said::Stored]);
    assert_eq!(world.count("mail.kept"), 4);
}

#[test]
fn bytes_that_are_no_upload_end_it() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    for bad in [
        vec![0; 22],
        vec![0xff; 22],
        [letter_bytes(1, 1), vec![0; 10]].concat(),
    ] {
        let id = world.bring(mailbox, bad);
        assert!(world.told[&id].ended);
    }
    assert_eq!(world.count("upload.malformed"), 3);
}

#[test]
fn uploads_at_a_time_are_bounded() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    let ids: Vec<UploadId> = (0..1_025).map(|_| world.begin(mailbox)).collect();
    assert_eq!(world.told[&ids[1_023]].opened, Some(Ok(())));
    assert_eq!(world.told[&ids[1_024]].opened, Some(Err(OpenError::Limit)));
    world.tell(Input::Upload(ids[0], Upload::Gone));
    let id = world.begin(mailbox);
    assert_eq!(world.told[&id].opened, Some(Ok(())));
}

// Limits

fn full() -> Said {
    Said::Refused(OpenError::MailboxFull.code())
}

#[test]
fn a_full_mailbox_of_somebody_who_is_away_refuses_and_loses_nothing() {
    let mut world = World::with(Limits::default().with_mailbox_bytes(4 * ITEM_LEN as u64));
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    world.keep(mailbox, 1, 2);
    let id = world.bring(mailbox, letter_bytes(2, 3));
    assert_eq!(world.told(id), [full()]);
    assert_eq!(world.count("upload.refused_full"), 1);
    world.admit(ALICE, 0);
    world.run(INTERVAL * 10);
    // What came of the second is there too, and its end follows when there is room.
    let mut all = [letter_mail(1, 1, 2), letter_mail(3, 2, 2)].concat();
    assert_eq!(world.mail(ALICE), all);
    world.acknowledge(ALICE, 5);
    let id = world.bring(mailbox, head(2, 3, true));
    world.say(id, items(2..3));
    assert_eq!(world.told(id), [Said::From(2), Said::Stored]);
    world.run(INTERVAL * 10);
    all.push((5, 2, 2));
    assert_eq!(world.mail(ALICE), all);
}

#[test]
fn a_letter_larger_than_the_mailbox_passes_through_it_while_its_owner_fetches() {
    let mut world = World::with(Limits::default().with_mailbox_bytes(4 * ITEM_LEN as u64));
    let (_, mailbox, _) = world.admit(ALICE, 0);
    let id = world.bring(mailbox, letter_bytes(1, 40));
    assert_eq!(world.count("upload.held_back"), 1);
    for _ in 0..20 {
        world.run(Duration::from_secs(40));
        let last = world.mail(ALICE).iter().map(|m| m.0).max();
        world.acknowledge(ALICE, last.unwrap() + 1);
    }
    assert_eq!(world.told(id), [Said::Stored]);
    let once: BTreeSet<(u64, u8, u32)> = world.mail(ALICE).into_iter().collect();
    assert_eq!(once.into_iter().collect::<Vec<_>>(), letter_mail(1, 1, 40));
}

#[test]
fn an_owner_who_makes_no_progress_holds_an_upload_back_for_a_minute_only() {
    let mut world = World::with(Limits::default().with_mailbox_bytes(4 * ITEM_LEN as u64));
    let (_, mailbox, _) = world.admit(ALICE, 0);
    let id = world.bring(mailbox, letter_bytes(1, 5));
    world.run(Duration::from_secs(59));
    assert_eq!(world.told(id), []);
    // A clock that is set back makes it no longer.
    world.now = world.now - Duration::from_secs(7_200);
    world.tell(Input::Tick);
    world.run(Duration::from_secs(2));
    assert_eq!(world.told(id), [full()]);
    assert!(world.told[&id].ended);
}

#[test]
fn letters_under_way_or_waiting_are_bounded_and_all_bytes_together() {
    let mut world = World::with(Limits::default().with_letters(2));
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    world.keep(mailbox, 1, 1);
    world.bring(mailbox, [head(2, 2, false), items(0..1)].concat());
    let third = world.bring(mailbox, letter_bytes(3, 1));
    assert_eq!(world.told(third), [full()]);
    assert_eq!(world.count("upload.refused_letters"), 1);
    world.admit(ALICE, 0);
    world.run(INTERVAL * 5);
    world.acknowledge(ALICE, 2);
    world.keep(mailbox, 3, 1);

    let mut world = World::with(Limits::default().with_total_bytes(3 * ITEM_LEN as u64));
    let (_, alice, _) = world.admit(ALICE, 0);
    let (_, bob, _) = world.admit(BOB, 0);
    world.gone(BOB);
    world.keep(alice, 1, 3);
    let id = world.bring(bob, letter_bytes(2, 1));
    let not_kept = Said::Refused(OpenError::NotKept.code());
    assert_eq!(world.told(id), [not_kept], "it isn't his mailbox that is full");
    assert_eq!(world.count("upload.refused_store_full"), 1);
    world.run(INTERVAL * 10);
    world.acknowledge(ALICE, 4);
    world.keep(bob, 2, 1);
}

// Letters that are fetched

#[test]
fn mail_waits_for_its_owner_through_a_restart_of_the_gateway_and_comes_once_in_order() {
    let mut world = World::new();
    let first = world.admit(ALICE, 0);
    let mailbox = first.1;
    world.gone(ALICE);
    world.keep(mailbox, 1, 30);
    world.run(Duration::from_secs(60));
    world.restart();
    world.keep(mailbox, 2, 20);
    world.now = world.now + DAY;
    assert_eq!(
        world.admit(ALICE, 0),
        first,
        "tag, mailbox and generation are the same"
    );
    world.run(INTERVAL * 100);
    let all = [letter_mail(1, 1, 30), letter_mail(31, 2, 20)].concat();
    assert_eq!(world.mail(ALICE), all);
    world.acknowledge(ALICE, 51);
    world.restart();
    world.admit(ALICE, 51);
    world.keep(mailbox, 3, 1);
    world.run(INTERVAL * 10);
    assert_eq!(world.mail(ALICE)[50..], [(51, 3, 0)], "numbers go on");
    // Replies to SURBs that are out come back, too.
    world.reply(first.0);
    world.run(INTERVAL * 3);
    assert!(world.seen.iter().any(|s| matches!(s.2, Seen::Reply(_))));
}

#[test]
fn mail_is_deleted_once_acknowledged_and_not_before() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.keep(mailbox, 1, 5);
    world.run(INTERVAL * 10);
    world.acknowledge(ALICE, 3);
    // What was never sent can't be on her disk.
    world.keep(mailbox, 2, 1);
    for beyond in [8, 100, u64::MAX] {
        world.acknowledge(ALICE, beyond);
    }
    assert_eq!(world.count("drop.acknowledged_beyond"), 3);
    world.seen.clear();
    world.gone(ALICE);
    // She doesn't know: all that is kept.
    world.admit(ALICE, 0);
    world.run(INTERVAL * 10);
    assert_eq!(world.mail(ALICE), [(3, 1, 2), (4, 1, 3), (5, 1, 4), (6, 2, 0)]);
    world.seen.clear();
    world.gone(ALICE);
    // She has some of it, as she says in her hello.
    world.admit(ALICE, 6);
    world.run(INTERVAL * 10);
    assert_eq!(world.mail(ALICE), [(6, 2, 0)]);
}

#[test]
fn mail_that_is_not_acknowledged_goes_again_and_again() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.keep(mailbox, 1, 40);
    world.run(INTERVAL * 60);
    assert_eq!(world.mail(ALICE), letter_mail(1, 1, 40));
    world.acknowledge(ALICE, 21);
    world.seen.clear();
    world.run(Duration::from_secs(12));
    assert_eq!(world.mail(ALICE), letter_mail(1, 1, 40)[20..]);
    assert_eq!(world.count("downlink.unready"), 0);
}

#[test]
fn mail_that_the_link_had_no_room_for_is_next() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.keep(mailbox, 1, 3);
    while world.mail(ALICE).len() < 2 {
        world.run(Duration::from_millis(1));
    }
    let content = Content::Mail(mizzle_base::Item {
        letter: LetterId::new([1; 16]),
        index: 1,
        count: 3,
        bytes: Box::new([0; ITEM_LEN]),
    });
    let bytes = frame::encode(&Frame {
        ack: 0,
        seq: 2,
        content,
    });
    world.tell(Input::NotWritten { client: ALICE, bytes });
    world.run(INTERVAL * 5);
    assert_eq!(world.mail(ALICE), [(1, 1, 0), (2, 1, 1), (2, 1, 1), (3, 1, 2)]);
}

#[test]
fn replies_go_before_mail_and_neither_moves_a_tick() {
    let run = |with_mail: bool, slow: bool| {
        let mut world = World::new();
        let (tag, mailbox, _) = world.admit(ALICE, 0);
        world.slow = slow;
        for step in 0..200_u64 {
            if with_mail && step % 5 == 0 {
                world.bring(mailbox, letter_bytes(step as u8, 3));
            }
            if with_mail && step == 60 {
                (0..10).for_each(|_| world.reply(tag));
            }
            world.run(Duration::from_micros(9_000));
            if slow && step % 3 == 0 {
                world.serve_all();
            }
            if step % 10 == 0 {
                let next = world.mail(ALICE).last().map_or(0, |m| m.0 + 1);
                world.acknowledge(ALICE, next);
            }
        }
        assert_eq!(world.count("downlink.unready"), 0);
        let of_ticks = |s: &&(Time, ClientId, Seen)| !matches!(s.2, Seen::Welcome(..));
        let kinds: Vec<Seen> = world.seen.iter().filter(of_ticks).map(|s| s.2).collect();
        if let Some(first) = kinds.iter().position(|s| matches!(s, Seen::Reply(_))) {
            let replies = &kinds[first..first + 10];
            assert!(replies.iter().all(|s| matches!(s, Seen::Reply(_))), "{replies:?}");
        }
        assert_eq!(world.mail(ALICE).is_empty(), !with_mail);
        world.times(ALICE)
    };
    let silent = run(false, false);
    assert!(silent.len() > 170);
    assert_eq!(run(true, false), silent);
    assert_eq!(run(true, true), silent, "a slow disk holds no tick up");
}

#[test]
fn mail_of_one_client_never_reaches_another() {
    let mut world = World::new();
    let (_, alice, _) = world.admit(ALICE, 0);
    let (_, bob, _) = world.admit(BOB, 0);
    world.keep(alice, 1, 20);
    world.keep(bob, 2, 20);
    world.run(INTERVAL * 30);
    assert_eq!(world.mail(ALICE), letter_mail(1, 1, 20));
    assert_eq!(world.mail(BOB), letter_mail(1, 2, 20));
    world.acknowledge(ALICE, 21);
    world.seen.clear();
    world.gone(BOB);
    world.admit(BOB, 0);
    world.run(INTERVAL * 30);
    assert_eq!(world.mail(BOB), letter_mail(1, 2, 20));
}

// Who comes

#[test]
fn nobody_is_welcome_before_his_mailbox_is_on_disk() {
    let mut world = World::new();
    world.slow = true;
    assert_eq!(world.hello_of(ALICE, RUN, 0), None);
    world.run(Duration::from_secs(1));
    assert_eq!((world.seen.len(), world.gateway.linked()), (0, 0));
    // Gone and come again meanwhile: one mailbox, one welcome.
    world.gone(ALICE);
    assert_eq!(world.hello_of(ALICE, RUN, 0), None);
    world.serve_all();
    let welcome = world.seen[0].2;
    assert!(matches!(welcome, Seen::Welcome(..)));
    world.slow = false;
    world.restart();
    assert_eq!(world.hello_of(ALICE, RUN, 0), Some(welcome));
}

#[test]
fn who_left_before_his_mailbox_was_on_disk_finds_it_later() {
    let mut world = World::new();
    world.slow = true;
    world.hello_of(ALICE, RUN, 0);
    world.gone(ALICE);
    world.serve_all();
    assert_eq!((world.seen.len(), world.gateway.linked()), (0, 0));
    world.slow = false;
    let first = world.admit(ALICE, 0);
    world.restart();
    assert_eq!(world.admit(ALICE, 0), first);
}

#[test]
fn of_two_runs_with_one_identity_the_newer_wins_and_the_older_is_told() {
    let (old, new) = ([2; 8], [3; 8]);
    let mut world = World::new();
    let Some(Seen::Welcome(..)) = world.hello_of(ALICE, old, 0) else {
        panic!("not admitted")
    };
    world.run(INTERVAL * 5);
    world.conn = Conn(2);
    let before = world.seen.len();
    world.hello_of(ALICE, new, 0);
    let said: Vec<Seen> = world.seen[before..].iter().map(|seen| seen.2).collect();
    assert!(
        matches!(said[..], [Seen::Refused(Refusal::Replaced), Seen::Welcome(..)]),
        "{said:?}"
    );
    assert_eq!(
        (&world.refused[..], world.by.last()),
        (&[Conn(1)][..], Some(&Conn(2)))
    );
    // What the older one still sends counts for nothing, and it isn't let in again.
    world.conn = Conn(1);
    world.acknowledge(ALICE, 0);
    assert_eq!(world.count("drop.other_connection"), 1);
    assert_eq!(
        world.hello_of(ALICE, old, 0),
        Some(Seen::Refused(Refusal::Replaced))
    );
    assert_eq!(world.refused, [Conn(1), Conn(1)]);
    world.conn = Conn(2);
    world.acknowledge(ALICE, 0);
    world.run(INTERVAL * 5);
    assert_eq!((world.gateway.linked(), world.count("client.replaced")), (1, 1));
    // A run whose link ended in order, and one that comes after it.
    world.gone(ALICE);
    assert!(matches!(
        world.hello_of(ALICE, [4; 8], 0),
        Some(Seen::Welcome(..))
    ));
    assert_eq!(
        world.hello_of(ALICE, new, 0),
        Some(Seen::Refused(Refusal::Replaced))
    );
}

#[test]
fn who_is_away_for_a_month_is_forgotten_and_who_was_here_is_not() {
    let mut world = World::new();
    let (_, alice, _) = world.admit(ALICE, 0);
    world.admit(BOB, 0);
    world.gone(ALICE);
    world.keep(alice, 1, 1);
    for _ in 0..29 {
        world.now = world.now + DAY;
        world.tell(Input::Tick);
    }
    assert_eq!(world.count("client.forgotten"), 0);
    // Bob's link lives through all of it, and the gateway is killed then.
    world.restart();
    world.now = world.now + DAY * 2;
    world.tell(Input::Tick);
    assert_eq!(world.count("client.forgotten"), 1);
    let id = world.begin(alice);
    assert_eq!(world.told[&id].opened, Some(Err(OpenError::NoMailbox)));
    let registered = world.store.registered().unwrap();
    assert_eq!(registered.iter().map(|r| r.client).collect::<Vec<_>>(), [BOB]);
    let (_, again, _) = world.admit(ALICE, 0);
    assert_ne!(again, alice, "a new mailbox");
}

#[test]
fn a_clock_outside_the_documents_time_deletes_nothing() {
    let mut world = World::new();
    let (_, alice, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    world.keep(alice, 1, 1);
    let now = world.now;
    world.now = Time::from_s(4_000_000_000);
    world.tell(Input::Tick);
    world.now = now;
    world.admit(ALICE, 0);
    world.run(INTERVAL * 3);
    assert_eq!(world.mail(ALICE), [(1, 1, 0)]);
}

#[test]
fn mail_that_nobody_fetched_for_a_month_is_deleted() {
    let mut world = World::new();
    let (_, alice, _) = world.admit(ALICE, 0);
    world.keep(alice, 1, 3);
    world.run(INTERVAL * 5);
    for day in 1..32 {
        world.now = world.now + DAY;
        world.tell(Input::Tick);
        if day == 15 {
            world.keep(alice, 2, 2);
        }
    }
    assert_eq!(world.count("mail.expired"), 3);
    world.seen.clear();
    world.gone(ALICE);
    world.admit(ALICE, 0);
    world.run(INTERVAL * 10);
    assert_eq!(world.mail(ALICE), letter_mail(4, 2, 2));
}

#[test]
fn how_long_mail_is_kept_can_be_set_and_is_more_than_a_week() {
    let mut world = World::with(Limits::default().with_item_life(DAY * 10));
    let (_, alice, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    world.keep(alice, 1, 3);
    for day in 1..=11 {
        assert_eq!(world.count("mail.expired"), 0, "day {day}");
        world.now = world.now + DAY;
        world.tell(Input::Tick);
    }
    assert_eq!(world.count("mail.expired"), 3);
    assert_eq!(world.gateway.mailboxes(), (1, 0));

    let mut world = World::with(Limits::default().with_item_life(DAY));
    let (_, alice, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    world.keep(alice, 1, 1);
    for _ in 0..7 {
        world.now = world.now + DAY;
        world.tell(Input::Tick);
    }
    assert_eq!(world.count("mail.expired"), 0);
}

#[test]
fn mail_waits_a_week_for_who_is_away_over_restarts_and_goes_only_when_acknowledged() {
    let mut world = World::new();
    let (tag, mailbox, generation) = world.admit(ALICE, 0);
    world.gone(ALICE);
    let mut wanted = Vec::new();
    for day in 1..=7_u8 {
        world.keep(mailbox, day, day.into());
        wanted.extend(letter_mail(wanted.len() as u64 + 1, day, day.into()));
        if day % 2 == 0 {
            world.restart();
        }
        // The gateway is at work for others, hour by hour.
        for _ in 0..24 {
            world.now = world.now + DAY / 24;
            world.tell(Input::Tick);
        }
    }
    // A sender who was not told so brings one again.
    world.keep(mailbox, 7, 7);
    assert_eq!(world.count("upload.known_already"), 1);
    assert_eq!(world.admit(ALICE, 0), (tag, mailbox, generation));
    world.run(INTERVAL * 40);
    assert_eq!(world.mail(ALICE), wanted);
    // Sent is not acknowledged: after a crash of either end all is there still.
    world.restart();
    world.seen.clear();
    world.admit(ALICE, 0);
    world.run(INTERVAL * 40);
    assert_eq!(world.mail(ALICE), wanted);
    world.acknowledge(ALICE, 12);
    world.restart();
    world.seen.clear();
    world.admit(ALICE, 12);
    world.run(INTERVAL * 40);
    assert_eq!(world.mail(ALICE), wanted[11..]);
    world.acknowledge(ALICE, 29);
    assert_eq!(world.gateway.mailboxes(), (1, 0));
    world.restart();
    assert_eq!(world.gateway.mailboxes(), (1, 0));
}

#[test]
fn a_disk_that_is_slow_moves_no_tick() {
    let run = |slow: bool| {
        let mut world = World::new();
        let (_, mailbox, _) = world.admit(ALICE, 0);
        world.gone(ALICE);
        world.keep(mailbox, 1, 40);
        world.slow = slow;
        world.admit(ALICE, 0);
        world.run(Duration::from_secs(1));
        if slow {
            assert_eq!(world.mail(ALICE), [], "nothing is read yet");
        }
        // Each read takes a fifth of a second.
        for _ in 0..10 {
            world.run(Duration::from_millis(200));
            world.serve();
            world.drain();
        }
        assert_eq!(world.mail(ALICE), letter_mail(1, 1, 40), "slow: {slow}");
        assert_eq!(
            world.count("downlink.unready") + world.count("downlink.late_tick"),
            0
        );
        world.times(ALICE)
    };
    let times = run(false);
    assert!(times.len() >= 299, "{}", times.len());
    assert_eq!(times, run(true));
}

#[test]
fn an_item_that_is_damaged_keeps_nothing_else_from_its_owner_or_others() {
    let mut world = World::new();
    let (_, alice, _) = world.admit(ALICE, 0);
    let (_, bob, _) = world.admit(BOB, 0);
    world.gone(ALICE);
    world.gone(BOB);
    world.keep(alice, 1, 3);
    world.keep(alice, 2, 2);
    world.keep(bob, 3, 1);
    world.store.tables_mut().damaged.insert(2);
    world.admit(ALICE, 0);
    world.run(INTERVAL * 10);
    let mail = world.mail(ALICE);
    // In its place is a letter of its own, which opens for nobody.
    let (number, letter, index) = mail[1];
    assert!(
        (number, index) == (2, 0) && letter != 1 && letter != 2,
        "{mail:?}"
    );
    let wanted = [letter_mail(1, 1, 3), letter_mail(4, 2, 2)].concat();
    assert_eq!(
        [&mail[..1], &mail[2..]].concat(),
        [&wanted[..1], &wanted[2..]].concat()
    );
    assert_eq!(world.count("mail.damaged"), 1);
    world.acknowledge(ALICE, 6);
    assert_eq!(world.gateway.mailboxes(), (2, 1));
    world.admit(BOB, 0);
    world.run(INTERVAL * 10);
    assert_eq!(world.mail(BOB), letter_mail(1, 3, 1));
}

#[test]
fn a_thousand_newcomers_take_nobodys_mailbox_away() {
    let mut world = World::new();
    let (_, alice, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    world.keep(alice, 1, 1);
    // Bob was here for two days, and has no mail.
    world.admit(BOB, 0);
    for _ in 0..4 {
        world.now = world.now + DAY / 2;
        world.tell(Input::Tick);
    }
    world.gone(BOB);
    world.restart();
    let (mut welcome, mut refused) = (0, 0);
    for n in 0..1_000_u32 {
        let mut id = [0x77; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        match world.hello_of(ClientId(id), RUN, 0) {
            Some(Seen::Welcome(..)) => welcome += 1,
            Some(Seen::Refused(Refusal::Full)) => refused += 1,
            other => panic!("{other:?}"),
        }
        world.gone(ClientId(id));
        world.now = world.now + Duration::from_millis(100);
        assert!(world.gateway.mailboxes().0 <= 12);
    }
    assert!(
        welcome >= 10 && refused > 0,
        "{welcome} welcome, {refused} refused"
    );
    assert!(world.count("client.refused") == refused);
    let registered = world.store.registered().unwrap();
    assert!(registered.len() <= 12);
    for settled in [ALICE, BOB] {
        assert!(registered.iter().any(|r| r.client == settled), "{settled:?}");
    }
    let (_, again, _) = world.admit(ALICE, 0);
    assert_eq!(again, alice);
    world.run(INTERVAL * 3);
    assert_eq!(world.mail(ALICE), letter_mail(1, 1, 1));
}

#[test]
fn a_client_with_mail_makes_room_for_nobody() {
    let mut world = World::new();
    // Three links, so twelve mailboxes.
    for n in 0..12 {
        let client = ClientId([n; 32]);
        let (_, mailbox, _) = world.admit(client, 0);
        world.gone(client);
        if n == 0 {
            world.keep(mailbox, 1, 1);
        }
    }
    world.now = world.now + DAY;
    world.admit(ClientId([99; 32]), 0);
    assert_eq!(world.count("client.forgotten"), 1);
    let gone = |n| {
        world
            .store
            .registered()
            .unwrap()
            .iter()
            .all(|r| r.client != ClientId([n; 32]))
    };
    let mut gone = gone;
    assert!(!gone(0) && gone(1));
}

// A store in trouble

#[test]
fn a_store_that_fails_refuses_what_comes_and_loses_nothing() {
    let mut world = World::new();
    let (_, mailbox, _) = world.admit(ALICE, 0);
    world.gone(ALICE);
    world.keep(mailbox, 1, 2);
    world.store.tables_mut().fails = true;
    let not_kept = Said::Refused(OpenError::NotKept.code());
    let id = world.bring(mailbox, letter_bytes(2, 3));
    assert_eq!(world.told(id), [not_kept]);
    let id = world.bring(mailbox, letter_bytes(2, 3));
    assert_eq!(world.told(id), [not_kept]);
    assert_eq!(
        world.hello_of(BOB, RUN, 0),
        Some(Seen::Refused(Refusal::Full)),
        "no mailbox can be made"
    );
    assert!(world.count("mail.store_failed") >= 3);
    // Known clients are served as well as it goes.
    world.admit(ALICE, 0);
    world.run(Duration::from_secs(1));
    world.store.tables_mut().fails = false;
    world.keep(mailbox, 2, 3);
    world.run(Duration::from_secs(6));
    assert_eq!(
        world.mail(ALICE),
        [letter_mail(1, 1, 2), letter_mail(3, 2, 3)].concat()
    );
    // An acknowledgement that couldn't be written down is made good.
    world.store.tables_mut().fails = true;
    world.acknowledge(ALICE, 6);
    world.store.tables_mut().fails = false;
    world.run(Duration::from_secs(61));
    world.restart();
    world.admit(ALICE, 0);
    world.seen.clear();
    world.run(INTERVAL * 10);
    assert_eq!(world.mail(ALICE), []);
    world.hello_of(BOB, RUN, 0);
    assert_eq!(world.gateway.linked(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_upload_is_kept_the_same_in_whatever_pieces_it_comes(
        count in 1_u32..12,
        cuts in prop::collection::vec(0_usize..12 * ITEM_LEN, 0..10),
        slow in any::<bool>(),
    ) {
        let mut world = World::new();
        let (_, mailbox, _) = world.admit(ALICE, 0);
        world.slow = slow;
        let bytes = letter_bytes(1, count);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let id = world.begin(mailbox);
        for piece in cuts.windows(2) {
            world.say(id, bytes[piece[0]..piece[1]].to_vec());
            world.serve_all();
        }
        while !world.orders.is_empty() {
            world.serve_all();
        }
        prop_assert_eq!(world.told(id), [Said::Stored]);
        prop_assert_eq!(world.told[&id].took, bytes.len());
        world.slow = false;
        world.run(INTERVAL * 20);
        prop_assert_eq!(world.mail(ALICE), letter_mail(1, 1, count));
    }

    #[test]
    fn arbitrary_bytes_and_ends_do_no_harm(
        said in prop::collection::vec((0_u64..4, 0_u8..6, prop::collection::vec(any::<u8>(), 0..60)), 1..30),
    ) {
        let mut world = World::new();
        let (_, mailbox, _) = world.admit(ALICE, 0);
        for (id, what, bytes) in said {
            let what = match what {
                0 => Upload::Open(mailbox),
                1 => Upload::Ended,
                2 => Upload::Gone,
                3 => Upload::Bytes(head(bytes.len() as u8, 2, bytes.len() % 2 == 0)),
                4 => Upload::Wanted,
                _ => Upload::Bytes(bytes),
            };
            world.tell(Input::Upload(UploadId(id + 100), what));
        }
        world.keep(mailbox, 200, 2);
        world.run(INTERVAL * 10);
        prop_assert_eq!(world.mail(ALICE), letter_mail(1, 200, 2));
    }
}
