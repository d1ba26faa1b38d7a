//! A link in virtual time for the tests: slots at Poisson times, SURBs with due times, independent delays, loss.
//!
//! Clients share the slots of one sender; exits live behind one acceptor. Everything follows from the seed.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests, though not under `#[test]`"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mizzle_base::{Rng, Time};
use mizzle_stream::*;
use rand_core::{Rng as _, SeedableRng as _};

pub(crate) const SURBS: usize = 5;
pub(crate) const FORWARD_BODY: usize = 3_965;
pub(crate) const REPLY_BODY: usize = 3_966;
pub(crate) const SECRET: [u8; 32] = [9; 32];

#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) slots_per_s: f64,
    pub(crate) reply_fraction: f64,
    pub(crate) due_ms: f64,
    pub(crate) hop_ms: f64,
    pub(crate) loss: f64,
}

impl Link {
    pub(crate) fn bulk() -> Self {
        Self {
            slots_per_s: 240.0,
            reply_fraction: 1.0 / 3.0,
            due_ms: 40.0,
            hop_ms: 20.0,
            loss: 0.0,
        }
    }

    pub(crate) fn lossy(loss: f64) -> Self {
        Self { loss, ..Self::bulk() }
    }

    pub(crate) fn params(&self) -> Params {
        let q = Duration::from_secs_f64(13.062 * self.hop_ms / 1e3);
        Params::new(
            b"test network / exit",
            q,
            q,
            Duration::from_secs_f64(self.due_ms / 1e3),
        )
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Exit,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Deliver,
    Drop,
    Twice,
}

enum Happening {
    Slot,
    Forward(Vec<u8>),
    SurbDue { client: usize, exit: usize },
    Reply { client: usize, body: Vec<u8> },
}

pub(crate) type Tamper = Box<dyn FnMut(Side, u64, &mut Vec<u8>) -> Fate>;

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) link: Link,
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) clients: Vec<Session>,
    pub(crate) exits: BTreeMap<usize, Session>,
    pub(crate) acceptor: Acceptor<usize>,
    pub(crate) exit_params: Params,
    pub(crate) drops: BTreeMap<DropReason, u64>,
    pub(crate) events: Vec<(Side, usize, Event)>,
    /// Told the sender, the number of the packet in its direction and its body.
    pub(crate) tamper: Option<Tamper>,
    pub(crate) forward_packets: u64,
    pub(crate) reply_packets: u64,
    pub(crate) cover: u64,
    pub(crate) ended: Vec<Stats>,
    /// Counted apart from the other events.
    pub(crate) stalls: BTreeMap<Stall, u64>,
    surbs_seen: BTreeSet<u64>,
    surb_serial: u64,
    queue: BTreeMap<(Time, u64), Happening>,
    serial: u64,
    cursor: usize,
    next_exit: usize,
}

impl World {
    pub(crate) fn new(seed: u64, link: Link) -> Self {
        let exit_params = link.params();
        Self::with_exit(seed, link, exit_params)
    }

    pub(crate) fn with_exit(seed: u64, link: Link, exit_params: Params) -> Self {
        let mut rng = Rng::seed_from_u64(seed);
        let acceptor = Acceptor::new(
            exit_params.clone(),
            SECRET,
            1_000,
            Rng::seed_from_u64(rng.next_u64()),
        );
        let mut world = Self {
            seed,
            link,
            now: Time::from_s(1_000),
            rng,
            clients: Vec::new(),
            exits: BTreeMap::new(),
            acceptor,
            exit_params,
            drops: BTreeMap::new(),
            events: Vec::new(),
            tamper: None,
            forward_packets: 0,
            reply_packets: 0,
            cover: 0,
            ended: Vec::new(),
            stalls: BTreeMap::new(),
            surbs_seen: BTreeSet::new(),
            surb_serial: 0,
            queue: BTreeMap::new(),
            serial: 0,
            cursor: 0,
            next_exit: 0,
        };
        world.schedule(Duration::ZERO, Happening::Slot);
        world
    }

    pub(crate) fn connect(&mut self) -> usize {
        let params = self.link.params();
        self.connect_with(params)
    }

    pub(crate) fn connect_with(&mut self, params: Params) -> usize {
        let rng = Rng::seed_from_u64(self.rng.next_u64());
        self.clients
            .push(Session::connect(params, &public_key(&SECRET), rng, self.now));
        self.clients.len() - 1
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.serial += 1;
        self.queue.insert((self.now + after, self.serial), happening);
    }

    fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn exp(&mut self, mean_s: f64) -> f64 {
        -(1.0 - self.uniform()).ln() * mean_s
    }

    fn travel(&mut self, from: Side, mut body: Vec<u8>, client: usize) {
        let number = match from {
            Side::Client => &mut self.forward_packets,
            Side::Exit => &mut self.reply_packets,
        };
        let n = *number;
        *number += 1;
        let fate = self
            .tamper
            .as_mut()
            .map_or(Fate::Deliver, |t| t(from, n, &mut body));
        let copies = match fate {
            Fate::Drop => 0,
            Fate::Deliver => 1,
            Fate::Twice => 2,
        };
        for _ in 0..copies {
            let mean = self.link.hop_ms / 1e3;
            let delay: f64 = (0..4).map(|_| self.exp(mean)).sum();
            if self.uniform() < self.link.loss {
                continue;
            }
            let happening = match from {
                Side::Client => Happening::Forward(body.clone()),
                Side::Exit => Happening::Reply {
                    client,
                    body: body.clone(),
                },
            };
            self.schedule(Duration::from_secs_f64(delay), happening);
        }
    }

    /// Advances to the next thing that happens; its time.
    pub(crate) fn step(&mut self) -> Time {
        assert!(
            self.queue.len() < 100_000,
            "seed {}: the queue grows without end",
            self.seed
        );
        let next = self
            .queue
            .first_key_value()
            .map_or(Time::FAR_FUTURE, |(&(at, _), _)| at);
        let timer = self
            .clients
            .iter()
            .chain(self.exits.values())
            .filter_map(Session::deadline)
            .min();
        if let Some(timer) = timer
            && timer < next
        {
            assert!(timer >= self.now || timer.as_us() > 0);
            self.now = self.now.max(timer);
            let now = self.now;
            self.clients
                .iter_mut()
                .chain(self.exits.values_mut())
                .for_each(|s| {
                    if s.deadline().is_some_and(|at| at <= now) {
                        s.handle_timeout(now);
                        assert!(
                            s.deadline().is_none_or(|at| at > now),
                            "a time-out that stays due"
                        );
                    }
                });
        } else if let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = at;
            self.happen(happening);
        }
        self.collect();
        self.now
    }

    fn collect(&mut self) {
        for (i, client) in self.clients.iter_mut().enumerate() {
            while let Some(event) = client.poll_event() {
                if let Event::Stalled(stall) = event {
                    *self.stalls.entry(stall).or_default() += 1;
                    continue;
                }
                self.events.push((Side::Client, i, event));
            }
        }
        let mut over = Vec::new();
        for (&k, exit) in &mut self.exits {
            while let Some(event) = exit.poll_event() {
                match event {
                    Event::Closed(_) => over.push(k),
                    Event::Stalled(stall) => {
                        *self.stalls.entry(stall).or_default() += 1;
                        continue;
                    }
                    _ => {}
                }
                self.events.push((Side::Exit, k, event));
            }
        }
        for k in over {
            if let Some(session) = self.exits.remove(&k) {
                self.ended.push(session.stats());
            }
            self.acceptor.forget(&k);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Slot => {
                let after = self.exp(1.0 / self.link.slots_per_s);
                self.schedule(Duration::from_secs_f64(after), Happening::Slot);
                let reply = self.uniform() < self.link.reply_fraction;
                self.slot(reply);
            }
            Happening::Forward(body) => self.forward(&body),
            Happening::SurbDue { client, exit } => {
                let mut body = vec![0; REPLY_BODY];
                if let Some(session) = self.exits.get_mut(&exit)
                    && session.fill(self.now, &[], &mut body).is_some()
                {
                    self.travel(Side::Exit, body, client);
                }
            }
            Happening::Reply { client, body } => {
                let result = self.clients[client].receive(self.now, &body);
                self.count(result.err());
            }
        }
    }

    fn slot(&mut self, reply: bool) {
        let n = self.clients.len();
        let order: Vec<usize> = (1..=n).map(|i| (self.cursor + i) % n.max(1)).collect();
        let wants: Vec<(usize, Wants)> = order
            .iter()
            .map(|&i| (i, self.clients[i].wants(self.now)))
            .collect();
        let chosen = if reply {
            let best = wants.iter().map(|(_, w)| w.replies).max().unwrap_or_default();
            wants
                .iter()
                .find(|(_, w)| w.replies == best && best != ReplyDemand::None)
        } else {
            wants
                .iter()
                .find(|(_, w)| w.data)
                .or_else(|| wants.iter().find(|(_, w)| w.repeat))
        };
        let Some(&(i, _)) = chosen else {
            self.cover += 1;
            return;
        };
        self.cursor = i;
        let surbs = if reply { self.surbs(i) } else { Vec::new() };
        let mut body = vec![0; FORWARD_BODY];
        match self.clients[i].fill(self.now, &surbs, &mut body) {
            Some(len) => {
                assert_eq!(len, FORWARD_BODY);
                self.travel(Side::Client, body, i);
            }
            None => self.cover += 1,
        }
    }

    fn surbs(&mut self, client: usize) -> Vec<u8> {
        let mut surbs = vec![0; SURBS * SURB_LEN];
        self.rng.fill_bytes(&mut surbs);
        for surb in surbs.chunks_exact_mut(SURB_LEN) {
            self.surb_serial += 1;
            surb[..8].copy_from_slice(&(client as u64).to_be_bytes());
            surb[8..16].copy_from_slice(&self.surb_serial.to_be_bytes());
        }
        surbs
    }

    /// Gives a packet to the exit.
    pub(crate) fn forward(&mut self, body: &[u8]) {
        let result = match self.acceptor.sort(body) {
            Err(reason) => Err(reason),
            Ok(Arrival::Packet { session, counter }) => match self.exits.get_mut(&session) {
                Some(s) => s.receive_tagged(self.now, counter, body).map(|r| (session, r)),
                None => Err(DropReason::Closed),
            },
            Ok(Arrival::Retry { session, initial }) => match self.exits.get_mut(&session) {
                Some(s) => s.retry(self.now, initial).map(|r| (session, r)),
                None => Err(DropReason::Closed),
            },
            Ok(Arrival::New(initial)) => {
                let key = self.next_exit;
                self.acceptor
                    .accept(self.now, key, initial)
                    .map(|(session, received)| {
                        self.next_exit += 1;
                        self.exits.insert(key, session);
                        (key, received)
                    })
            }
        };
        match result {
            Err(reason) => self.count(Some(reason)),
            Ok((exit, received)) => {
                for surb in received.surbs.chunks_exact(SURB_LEN) {
                    let client = u64::from_be_bytes(surb[..8].try_into().unwrap()) as usize;
                    let serial = u64::from_be_bytes(surb[8..16].try_into().unwrap());
                    assert!(
                        self.surbs_seen.insert(serial),
                        "seed {}: a SURB came twice",
                        self.seed
                    );
                    let due = self.exp(self.link.due_ms / 1e3);
                    self.schedule(Duration::from_secs_f64(due), Happening::SurbDue { client, exit });
                }
            }
        }
    }

    pub(crate) fn count(&mut self, reason: Option<DropReason>) {
        if let Some(reason) = reason {
            *self.drops.entry(reason).or_default() += 1;
        }
    }

    pub(crate) fn take_events(&mut self) -> Vec<(Side, usize, Event)> {
        std::mem::take(&mut self.events)
    }

    pub(crate) fn session(&mut self, side: Side, i: usize) -> Option<&mut Session> {
        match side {
            Side::Client => self.clients.get_mut(i),
            Side::Exit => self.exits.get_mut(&i),
        }
    }
}

/// Byte `i` of what is sent in the direction `salt`.
pub(crate) fn byte(i: u64, salt: u8) -> u8 {
    (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ salt
}

pub(crate) fn text(from: u64, len: usize, salt: u8) -> Vec<u8> {
    (from..from + len as u64).map(|i| byte(i, salt)).collect()
}

/// A program on one end of a stream: writes so many bytes and finishes, reads until the end, checks every byte.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) to_write: u64,
    pub(crate) written: u64,
    pub(crate) finished: bool,
    pub(crate) read: u64,
    pub(crate) salt: u8,
    pub(crate) peer_salt: u8,
    pub(crate) ended: bool,
    pub(crate) delivered: bool,
    pub(crate) first_at: Option<Time>,
    pub(crate) last_at: Option<Time>,
}

impl Program {
    pub(crate) fn new(to_write: u64, salt: u8, peer_salt: u8) -> Self {
        Self {
            to_write,
            salt,
            peer_salt,
            ..Self::default()
        }
    }

    pub(crate) fn pump(&mut self, session: &mut Session, id: StreamId, now: Time) {
        while self.written < self.to_write {
            let len = (self.to_write - self.written).min(16_384) as usize;
            let n = session.write(id, &text(self.written, len, self.salt));
            self.written += n as u64;
            if n < len {
                break;
            }
        }
        if self.written == self.to_write && !self.finished {
            self.finished = true;
            session.finish(id);
        }
        while let Some(bytes) = session.read(id, 65_536) {
            for &b in &bytes[..] {
                assert_eq!(b, byte(self.read, self.peer_salt), "wrong byte at {}", self.read);
                self.read += 1;
            }
            self.first_at.get_or_insert(now);
            self.last_at = Some(now);
        }
    }
}

/// Result of [`exchange`].
pub(crate) struct Exchange {
    pub(crate) client: Vec<Program>,
    pub(crate) exit: Vec<Program>,
    pub(crate) opened_at: Vec<Option<Time>>,
    pub(crate) incoming: usize,
    pub(crate) done: bool,
    pub(crate) seconds: f64,
}

/// Runs a stream in each session: the client writes `up` bytes, the exit `down`, both finish; until all is done.
pub(crate) fn exchange(world: &mut World, sessions: usize, up: u64, down: u64, limit_s: f64) -> Exchange {
    let start = world.now;
    let target = Target::parse("example.org:443").unwrap();
    let mut ids = Vec::new();
    for _ in 0..sessions {
        let i = world.connect();
        let now = world.now;
        ids.push(world.clients[i].open(now, &target).unwrap());
    }
    let mut result = Exchange {
        client: (0..sessions).map(|_| Program::new(up, 1, 2)).collect(),
        exit: Vec::new(),
        opened_at: vec![None; sessions],
        incoming: 0,
        done: false,
        seconds: 0.0,
    };
    for (i, id) in ids.iter().enumerate() {
        result.client[i].pump(&mut world.clients[i], *id, start);
    }
    let mut exits: BTreeMap<usize, Program> = BTreeMap::new();
    while world.now.since(start).as_secs_f64() < limit_s {
        world.step();
        let now = world.now;
        for (side, i, event) in world.take_events() {
            match (side, event) {
                (Side::Exit, Event::Incoming(id, to)) => {
                    assert_eq!(to, target);
                    result.incoming += 1;
                    let mut program = Program::new(down, 2, 1);
                    let session = world.exits.get_mut(&i).unwrap();
                    session.opened(id);
                    program.pump(session, id, now);
                    exits.insert(i, program);
                }
                (Side::Client, Event::Opened(_)) => result.opened_at[i] = Some(now),
                (_, Event::Readable(id) | Event::Writable(id)) => {
                    let program = match side {
                        Side::Client => &mut result.client[i],
                        Side::Exit => exits.get_mut(&i).unwrap(),
                    };
                    program.pump(world.session(side, i).unwrap(), id, now);
                }
                (Side::Client, Event::Finished(_)) => result.client[i].ended = true,
                (Side::Client, Event::Delivered(_)) => result.client[i].delivered = true,
                (Side::Exit, Event::Finished(_)) => exits.get_mut(&i).unwrap().ended = true,
                (Side::Exit, Event::Delivered(_)) => exits.get_mut(&i).unwrap().delivered = true,
                (Side::Exit, Event::Closed(_)) | (Side::Client, Event::Closed(CloseReason::Idle)) => {}
                (_, event) => panic!("seed {}: {side:?} {i}: {event:?}", world.seed),
            }
        }
        let over = |p: &Program, expected| p.read == expected && p.ended && p.delivered;
        if exits.len() == sessions
            && result.client.iter().all(|p| over(p, down))
            && exits.values().all(|p| over(p, up))
        {
            result.done = true;
            break;
        }
    }
    result.exit = exits.into_values().collect();
    result.seconds = world.now.since(start).as_secs_f64();
    result
}
