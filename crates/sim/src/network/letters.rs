//! Letters, from one client's user to another's: what `mizzle-net` does with files and tasks on both sides of the cores, in
//! memory and under the one clock.
//!
//! When a letter is tried, how long each step may take and what its gateway may say is by the rules of [`mizzle_client::outbox`], as on
//! disk. The inbox takes items in order, and has them on its disk after a moment; it knows no letter again that it had, so that one
//! which came twice would show. What the gateways do is all their cores'.

use std::collections::BTreeMap;
use std::time::Duration;

use mizzle_base::address::Mailbox;
use mizzle_base::item::ITEM_LEN;
use mizzle_base::upload::{HEAD_LEN, Head};
use mizzle_base::{Counters, Item, LetterId, NetworkId, Rng, Time};
use mizzle_client::outbox::{ANSWER, AT_ONCE, Hearing, OPEN_TIMEOUT, PARTING, STALL, Setback, Tries, Word};
use mizzle_client::{self as client, Admission, Client, StreamEvent, StreamKey};
use mizzle_exit::{self as exit, Exit};
use mizzle_gateway::{self as gateway, Upload, UploadId, Uploaded};
use mizzle_sphinx::{Packet, PublicKey, SecretKey};
use mizzle_stream::letter::{self, CHUNK_LEN, FIRST_LEN, Header, LetterError, Sealer};
use mizzle_traffic::draw;

use super::{ClientIndex, Event, Network, NodeSim};

/// How long a client's disk takes.
const DISK: Duration = Duration::from_millis(5);

/// What became of a letter, as its sender knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It is on its way, or waits for that.
    Waiting,
    /// The receiver's gateway has said that it is stored, at this time.
    Stored(Time),
    /// It will not be brought: nobody there knows the receiver.
    Failed,
}

/// A letter that somebody sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Its id.
    pub id: LetterId,
    /// When it came to the outbox.
    pub at: Time,
    /// Attempts that led to nothing, since its sender began to run.
    pub failures: u32,
    /// What became of it.
    pub stage: Stage,
}

/// A letter that arrived whole and opened.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its id.
    pub id: LetterId,
    /// When its last item was there.
    pub at: Time,
    /// What it says.
    pub data: Vec<u8>,
}

/// Why a letter can't be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PostError {
    /// The receiver's gateway hasn't admitted him yet, so that he has no mailbox; or the plan has no mail at all.
    #[error("the receiver has no mailbox")]
    NoMailbox,
    /// It can't be sealed.
    #[error(transparent)]
    Seal(#[from] LetterError),
}

/// One attempt.
struct Attempt {
    key: StreamKey,
    opened: bool,
    head: [u8; HEAD_LEN],
    heard: Hearing,
    /// Bytes of its stream that were written.
    written: usize,
    /// The last word was said; the stream ends.
    parting: bool,
    give_up_at: Time,
}

struct Outgoing {
    sent: Sent,
    to: Mailbox,
    items: Vec<u8>,
    tries: Tries,
    attempt: Option<Attempt>,
}

impl Outgoing {
    fn head(&self, resume: bool) -> Head {
        Head {
            resume,
            letter: self.sent.id,
            count: (self.items.len() / ITEM_LEN) as u32,
        }
    }

    fn is_due(&self, now: Time) -> bool {
        self.sent.stage == Stage::Waiting && self.attempt.is_none() && self.tries.due_at() <= now
    }

    /// When something is to be done with it, if there is a place for another attempt.
    fn deadline(&self, is_place: bool) -> Option<Time> {
        match (&self.attempt, self.sent.stage) {
            (Some(attempt), _) => Some(attempt.give_up_at),
            (None, Stage::Waiting) => is_place.then(|| self.tries.due_at()),
            (None, _) => None,
        }
    }

    /// Writes what the stream has room for.
    fn write(&mut self, core: &mut Client, now: Time) {
        let Some(attempt) = self.attempt.as_mut().filter(|a| a.opened && !a.parting) else {
            return;
        };
        let before = attempt.written;
        let is_all = loop {
            let piece = match (attempt.head.get(attempt.written..), attempt.heard.from()) {
                (Some(rest), _) if !rest.is_empty() => rest,
                (_, Some(from)) => {
                    let at = from as usize * ITEM_LEN + attempt.written - HEAD_LEN;
                    self.items.get(at..).unwrap_or_default()
                }
                (_, None) => break true,
            };
            if piece.is_empty() {
                break true;
            }
            match core.write(attempt.key, piece) {
                0 => break false,
                n => attempt.written += n,
            }
        };
        if attempt.written > before {
            attempt.give_up_at = now + if is_all { ANSWER } else { STALL };
        }
    }

    /// Reads what the gateway says.
    fn read(&mut self, core: &mut Client, now: Time) {
        let Some(attempt) = self.attempt.as_mut() else {
            return;
        };
        while let Some(bytes) = core.read(attempt.key, usize::MAX).filter(|b| !b.is_empty()) {
            attempt.heard.push(&bytes);
        }
        while !attempt.parting {
            match attempt.heard.word() {
                Ok(Some(Word::From(_))) => {}
                Ok(Some(Word::Stored)) => {
                    self.sent.stage = Stage::Stored(now);
                    attempt.part(core, now);
                }
                Ok(Some(Word::Refused(why))) => {
                    attempt.part(core, now);
                    self.set_back(now, Setback::Refused(why));
                    return;
                }
                Ok(None) => break,
                Err(_) => {
                    core.reset(attempt.key);
                    return self.broken(now);
                }
            }
        }
        self.write(core, now);
    }

    /// An attempt led to nothing.
    fn set_back(&mut self, now: Time, why: Setback) {
        if !self.tries.failed(now, why) {
            self.sent.stage = Stage::Failed;
        }
        self.sent.failures = self.tries.failures();
    }

    /// Its stream is gone, or says what nobody should.
    fn broken(&mut self, now: Time) {
        if let Some(attempt) = self.attempt.take().filter(|attempt| !attempt.parting) {
            let moved = attempt.written > HEAD_LEN;
            self.set_back(now, Setback::Broken { moved });
        }
    }

    fn happened(&mut self, core: &mut Client, now: Time, event: StreamEvent) {
        let Some(attempt) = self.attempt.as_mut() else {
            return;
        };
        match event {
            StreamEvent::Opened => {
                attempt.opened = true;
                attempt.give_up_at = now + STALL;
                self.write(core, now);
            }
            StreamEvent::Writable => self.write(core, now),
            StreamEvent::Readable => self.read(core, now),
            StreamEvent::Failed(why) if !attempt.opened => {
                self.attempt = None;
                self.set_back(now, Setback::Refused(why));
            }
            StreamEvent::Failed(_) => self.broken(now),
            StreamEvent::Ended => {
                self.read(core, now);
                self.broken(now);
            }
        }
    }
}

impl Attempt {
    /// The last word was said, and changes no more.
    fn part(&mut self, core: &mut Client, now: Time) {
        self.parting = true;
        self.give_up_at = now + PARTING;
        core.finish(self.key);
    }
}

/// A client's user: who he is to those who write to him, what he sends and what he got. All of it outlasts the process.
#[derive(Default)]
pub(super) struct Desk {
    secret: [u8; 32],
    mailbox: Option<Mailbox>,
    /// Of that mailbox, and the first number that isn't on the disk.
    generation: u64,
    next: u64,
    outbox: Vec<Outgoing>,
    partial: BTreeMap<LetterId, Vec<Item>>,
    received: Vec<Received>,
    counters: Counters,
}

impl Desk {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            secret: draw::bytes(rng),
            ..Self::default()
        }
    }

    /// With what the client goes on after a restart.
    pub(super) fn config(&self) -> client::Config {
        client::Config::default().with_mail(self.generation, self.next)
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let is_place = self.flying() < AT_ONCE;
        self.outbox
            .iter()
            .filter_map(|letter| letter.deadline(is_place))
            .min()
    }

    fn flying(&self) -> usize {
        self.outbox
            .iter()
            .filter(|letter| letter.attempt.is_some())
            .count()
    }

    /// The process ended, and with it all streams and what it knew of attempts.
    pub(super) fn restarted(&mut self) {
        for letter in &mut self.outbox {
            letter.attempt = None;
            letter.tries = Tries::new(1, true);
        }
    }

    pub(super) fn admitted(&mut self, admission: &Admission) {
        self.mailbox = Some(Mailbox {
            gateway: admission.gateway,
            id: admission.mailbox,
        });
        if self.generation != admission.generation {
            (self.generation, self.next) = (admission.generation, 0);
        }
    }

    fn public(&self) -> PublicKey {
        SecretKey::from_bytes(self.secret).public()
    }

    /// Whether this stream is one of its letters'; if so, it was told.
    pub(super) fn happened(
        &mut self,
        core: &mut Client,
        now: Time,
        key: StreamKey,
        event: StreamEvent,
    ) -> bool {
        let of_it = |letter: &&mut Outgoing| letter.attempt.as_ref().is_some_and(|a| a.key == key);
        let letter = self.outbox.iter_mut().find(of_it);
        letter.map(|letter| letter.happened(core, now, event)).is_some()
    }

    /// Begins attempts whose time has come, and ends those in which nothing moves.
    pub(super) fn run(&mut self, core: &mut Client, now: Time, client_time: Time) {
        let late = |letter: &&mut Outgoing| letter.attempt.as_ref().is_some_and(|a| a.give_up_at <= now);
        for letter in self.outbox.iter_mut().filter(late) {
            if let Some(attempt) = &letter.attempt {
                core.reset(attempt.key);
                if !attempt.parting {
                    self.counters.count("outbox.silent");
                }
            }
            letter.broken(now);
        }
        let places = AT_ONCE.saturating_sub(self.flying());
        let due = self.outbox.iter_mut().filter(|letter| letter.is_due(now));
        for letter in due.take(places) {
            match core.open_mailbox(client_time, &letter.to.gateway, letter.to.id) {
                Ok(key) => {
                    let resume = letter.tries.begin();
                    let head = letter.head(resume);
                    letter.attempt = Some(Attempt {
                        key,
                        opened: false,
                        head: head.encode(),
                        heard: Hearing::new(&head),
                        written: 0,
                        parting: false,
                        give_up_at: now + OPEN_TIMEOUT,
                    });
                }
                Err(why) => letter.set_back(now, Setback::Refused(why)),
            }
        }
    }

    /// Takes an item of the mailbox; the gateway may forget it when this has been written down.
    pub(super) fn take(&mut self, network: &NetworkId, now: Time, number: u64, item: Item) {
        if number < self.next {
            return self.counters.count("inbox.number_again");
        }
        self.next = number + 1;
        let items = self.partial.entry(item.letter).or_default();
        match item.index.cmp(&(items.len() as u32)) {
            std::cmp::Ordering::Less => return self.counters.count("inbox.duplicate"),
            std::cmp::Ordering::Greater => return self.counters.count("inbox.hole"),
            std::cmp::Ordering::Equal => {}
        }
        let (id, is_last) = (item.letter, item.is_last());
        items.push(item);
        if is_last && let Some(items) = self.partial.remove(&id) {
            match open(network, &self.secret, &items) {
                Ok(data) => self.received.push(Received { id, at: now, data }),
                Err(_) => self.counters.count("inbox.unopened"),
            }
        }
    }
}

fn seal(
    network: &NetworkId,
    letter: &LetterId,
    to: &PublicKey,
    rng: &mut Rng,
    data: &[u8],
) -> Result<Vec<u8>, LetterError> {
    let all = [&Header::text().encode()[..], data].concat();
    let (first, rest) = all.split_at(all.len().min(FIRST_LEN));
    let mut chunks = rest.chunks(CHUNK_LEN).peekable();
    let (mut sealer, item) = Sealer::begin(network, letter, to, None, rng, first, chunks.peek().is_none())?;
    let mut items = item.to_vec();
    while let Some(chunk) = chunks.next() {
        items.extend_from_slice(&*sealer.next(chunk, chunks.peek().is_none())?);
    }
    Ok(items)
}

fn open(network: &NetworkId, secret: &[u8; 32], items: &[Item]) -> Result<Vec<u8>, LetterError> {
    let (first, rest) = items.split_first().ok_or(LetterError::Content)?;
    let mut opened = letter::open(network, &first.letter, secret, &first.bytes)?;
    let (mut data, mut last) = (opened.data, opened.last);
    for item in rest {
        let (more, ends) = opened.unsealer.next(&item.bytes)?;
        data.extend_from_slice(&more);
        last = ends;
    }
    if last { Ok(data) } else { Err(LetterError::Content) }
}

impl Network {
    /// A client's user writes to another's: the letter is sealed and in the outbox when this returns, and is brought from the next
    /// step on.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn post(&mut self, from: ClientIndex, to: ClientIndex, data: &[u8]) -> Result<LetterId, PostError> {
        let mailbox = self.clients[to].desk.mailbox.ok_or(PostError::NoMailbox)?;
        let public = self.clients[to].desk.public();
        let id = LetterId::new(draw::bytes(&mut self.rng));
        let mut rng = super::fork(&mut self.rng);
        let items = seal(&self.document.network(), &id, &public, &mut rng, data)?;
        self.clients[from].desk.outbox.push(Outgoing {
            sent: Sent {
                id,
                at: self.now,
                failures: 0,
                stage: Stage::Waiting,
            },
            to: mailbox,
            items,
            tries: Tries::new(1, false),
            attempt: None,
        });
        Ok(id)
    }

    /// The letters that a client's user sent, in order, and what became of them.
    pub fn sent(&self, client: ClientIndex) -> impl Iterator<Item = &Sent> {
        self.clients[client].desk.outbox.iter().map(|letter| &letter.sent)
    }

    /// The letters that he got, in order; one that comes twice is there twice.
    #[must_use]
    pub fn received(&self, client: ClientIndex) -> &[Received] {
        &self.clients[client].desk.received
    }

    /// What his desk counted: all of it is trouble.
    #[must_use]
    pub fn desk_counters(&self, client: ClientIndex) -> &Counters {
        &self.clients[client].desk.counters
    }

    /// Items that wait in the mailboxes of all gateways.
    #[must_use]
    pub fn waiting_items(&self) -> u64 {
        let gateways = self.nodes.iter().filter_map(|node| node.gateway.as_ref());
        gateways.map(|gateway| gateway.mailboxes().1).sum()
    }

    pub(super) fn take_mail(&mut self, index: ClientIndex, number: u64, item: Item) {
        let desk = &mut self.clients[index].desk;
        desk.take(&self.document.network(), self.now, number, item);
        let (generation, next) = (desk.generation, desk.next);
        let event = Event::Kept {
            client: index,
            generation,
            next,
        };
        self.schedule(self.now + DISK, event);
    }

    /// Has the outboxes do what is due.
    pub(super) fn run_desk(&mut self, index: ClientIndex) {
        let (now, at) = (self.now, self.client_time());
        let client = &mut self.clients[index];
        if client.desk.deadline().is_some_and(|due| due <= now) {
            client.desk.run(&mut client.core, now, at);
        }
    }
}

impl NodeSim {
    /// Carries out what the session end of the mail wants: its connections are the gateway core's uploads.
    pub(super) fn drain_mail(&mut self, now: Time, packets: &mut Vec<Packet>) -> bool {
        use exit::Action;
        let mut acted = false;
        while let Some(action) = self.mail.as_mut().and_then(Exit::poll) {
            acted = true;
            let (conn, said) = match action {
                Action::Mix(packet) => {
                    packets.push(packet);
                    continue;
                }
                Action::Mailbox(conn, mailbox) => {
                    self.uploads.insert(UploadId(conn.number()), conn);
                    (conn, Upload::Open(mailbox))
                }
                Action::Read(conn, _) => (conn, Upload::Wanted),
                Action::Write(conn, bytes) => (conn, Upload::Bytes(bytes.into())),
                Action::Finish(conn) => (conn, Upload::Ended),
                Action::Abort(conn) | Action::Forget(conn) => {
                    self.uploads.remove(&UploadId(conn.number()));
                    (conn, Upload::Gone)
                }
                // It leads to mailboxes only.
                Action::Resolve(..) | Action::Connect(..) => continue,
            };
            if let Some(gateway) = &mut self.gateway {
                gateway.handle(now, gateway::Input::Upload(UploadId(conn.number()), said));
            }
        }
        acted
    }

    pub(super) fn tell_sender(&mut self, now: Time, id: UploadId, what: Uploaded) {
        let (Some(&conn), Some(mail)) = (self.uploads.get(&id), &mut self.mail) else {
            return;
        };
        let input = match what {
            Uploaded::Opened(result) => exit::Input::Connected(conn, result),
            Uploaded::Took(n) => exit::Input::Wrote(conn, n),
            Uploaded::Answer(bytes) => exit::Input::Read(conn, bytes.into()),
        };
        mail.handle(now, input);
    }
}
