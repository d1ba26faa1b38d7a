//! The packets' thread: takes frames from the link, has them peeled, held and sent on, and hands over what ends here.
//!
//! One operating system thread a peer, so that no packet waits for the swarm or for other tasks, and cryptography holds
//! up nobody else. It sleeps until a frame, a command or the next deadline comes. What a packet is and when it leaves is
//! [`mizzle_mix::Worker`]'s; here are the links, the proofs, the budget and the cover.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use libp2p::PeerId;
use mizzle_base::{Counters, Rng, Time};
use mizzle_mix::{Key, Outcome, Routing, Worker, WorkerInput};
use mizzle_sphinx::{Hop, PACKET_LEN, Packet, build_in_place};
use mizzle_traffic::draw;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    HOPS,
    address::{Block, Endpoint, NOWHERE},
    cover::{Cover, Schedule},
    event::Event,
    exit, link, message,
    replay::ReplayStore,
    shared::{Command, Shared, sequence},
    spam::{Answer, CannotProve, Proof, Via},
    surbs::Arrived,
};

/// Frames and commands taken at once.
const BATCH: usize = 64;
/// Old SURBs, nodes and such are looked for this often.
const SWEEP: Duration = Duration::from_secs(1);
/// Why nothing passes any more once the replay memory can't be written.
const STORE_FAILED: &str = "drop.replay_store_failed";
/// Proofs that are made or checked elsewhere at a time.
const PROOFS: usize = 1024;
/// Own packets whose leaving is waited for at a time.
const WATCHED: usize = 256;

/// Where packets may go: to the nodes of the pool, and where the policy lets them.
pub(crate) struct Route(pub(crate) Arc<Shared>);

impl Route {
    fn allows(&self, block: &Block) -> bool {
        let shared = &self.0;
        let Ok(endpoint) = Endpoint::from_block(block) else {
            return false;
        };
        // A node of the pool at another address is a stranger: else its name would open every address.
        let known = shared
            .pool
            .get(&endpoint.peer)
            .is_some_and(|member| member.block == *block);
        let allowed = known || shared.forward.allows(&endpoint, || shared.return_address());
        allowed && endpoint.peer != shared.me
    }
}

impl Routing for Route {
    type Hop = Block;

    /// A packet that goes on takes a slot of the budget; one for which there is none goes nowhere.
    fn next_hop(&self, block: &Block) -> Option<Block> {
        if !self.allows(block) {
            return None;
        }
        if !self.0.claim_slot() {
            self.0.count("drop.slot_exhausted");
            return None;
        }
        Some(*block)
    }

    fn delay(&self, rng: &mut Rng, delay_ms: u16) -> Duration {
        self.0.delays.hold(rng, delay_ms)
    }
}

/// A peer that packets were sent to on our account.
struct Neighbour {
    peer: PeerId,
    used: u64,
}

/// Wakes the thread. One that isn't asleep doesn't fall asleep the next time.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The state of the thread.
pub(crate) struct Node {
    pub(crate) shared: Arc<Shared>,
    pub(crate) frames: link::Receiver,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) worker: Worker<Route>,
    pub(crate) key: Arc<Key>,
    pub(crate) store: Option<Box<dyn ReplayStore>>,
    pub(crate) rng: Rng,
    pub(crate) max_neighbours: usize,
    pub(crate) cover: Option<Cover>,
}

impl Node {
    /// Runs in a new thread until the behaviour is gone.
    pub(crate) fn spawn(self) -> std::io::Result<()> {
        thread::Builder::new()
            .name("libp2p-mix".to_owned())
            .spawn(move || Running::new(self).run())?;
        Ok(())
    }
}

fn alpha(packet: &Packet) -> [u8; 32] {
    *packet.as_bytes().first_chunk().unwrap_or(&[0; 32])
}

struct Running {
    node: Node,
    /// By the block under which they were reached. Bounded by the configuration.
    neighbours: HashMap<Block, Neighbour>,
    connected: std::collections::HashSet<PeerId>,
    uses: u64,
    proofs: Arc<Semaphore>,
    proof_len: usize,
    schedule: Option<Schedule>,
    sweep_at: Time,
    /// No further packet is accepted: the replay memory is full or broken.
    refuses: Option<&'static str>,
    /// Own packets whose leaving somebody waits for, by their alpha, which no two have in common.
    watched: VecDeque<([u8; 32], oneshot::Sender<PeerId>)>,
    counters: Counters,
    events: Vec<link::Event>,
    arrived: Vec<Packet>,
}

impl Running {
    fn new(mut node: Node) -> Self {
        let now = node.shared.now();
        let schedule = node.cover.map(|cover| Schedule::new(cover, &mut node.rng, now));
        let proof_len = node.shared.spam.as_ref().map_or(0, |spam| spam.proof_len());
        Self {
            node,
            neighbours: HashMap::new(),
            connected: std::collections::HashSet::new(),
            uses: 0,
            proofs: Arc::new(Semaphore::new(PROOFS)),
            proof_len,
            schedule,
            sweep_at: now + SWEEP,
            refuses: None,
            watched: VecDeque::new(),
            counters: Counters::default(),
            events: Vec::new(),
            arrived: Vec::new(),
        }
    }

    fn run(mut self) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let cx = &mut Context::from_waker(&waker);
        while !self.node.shared.is_closed() {
            let got = self.node.frames.poll_recv_many(&mut self.events, BATCH, cx);
            if got == Poll::Ready(0) {
                break;
            }
            let mut busy = got.is_ready();
            let now = self.node.shared.now();
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                self.on_link(now, event);
            }
            self.events = events;
            for _ in 0..BATCH {
                match self.node.commands.poll_recv(cx) {
                    Poll::Ready(Some(command)) => {
                        busy = true;
                        self.on_command(now, command);
                    }
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            self.emit_cover(now);
            self.work(now);
            if now >= self.sweep_at {
                self.sweep(now);
            }
            self.counters.merge(&self.node.worker.take_counters());
            self.node.shared.merge(&std::mem::take(&mut self.counters));
            if !busy {
                let now = self.node.shared.now();
                let wait = self.deadline().since(now);
                if !wait.is_zero() {
                    thread::park_timeout(wait);
                }
            }
        }
        // What waits is dropped with us; requests learn of it, and services end.
        self.node.shared.close();
    }

    fn deadline(&self) -> Time {
        let cover = self.schedule.as_ref().map(Schedule::deadline);
        [Some(self.sweep_at), self.node.worker.deadline(), cover]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.sweep_at)
    }

    fn on_link(&mut self, now: Time, event: link::Event) {
        match event {
            link::Event::Frame { peer, conn, frame } => self.on_frame(now, Via { peer, conn }, frame),
            link::Event::Connected { peer } => {
                self.connected.insert(peer);
                self.node.shared.pool.reached(&peer);
            }
            link::Event::Disconnected { peer } => {
                self.connected.remove(&peer);
            }
            link::Event::Unreachable { peer, .. } => {
                self.counters.count("link.unreachable");
                self.node.shared.pool.failed(&peer, now);
                if !self.connected.contains(&peer) {
                    self.node.shared.credentials.first_hop_failed(&peer);
                }
                self.node.shared.tell(Event::Unreachable { peer });
            }
        }
    }

    fn on_frame(&mut self, now: Time, via: Via, frame: link::Frame) {
        if frame.len() != PACKET_LEN + self.proof_len {
            return self.counters.count("drop.size");
        }
        let Some(spam) = &self.node.shared.spam else {
            if let Ok(bytes) = frame.try_into() {
                self.arrived.push(Packet::from_boxed(bytes));
            }
            return;
        };
        let Some((bytes, proof)) = frame.split_first_chunk::<PACKET_LEN>() else {
            return;
        };
        // Before anything that costs us: no curve operation for a packet without its proof.
        match spam.verify(now, via, bytes, proof) {
            Answer::Now(true) => self.arrived.push(Packet::from_boxed(Box::new(*bytes))),
            Answer::Now(false) => self.counters.count("drop.spam"),
            Answer::Later(verdict) => {
                let packet = Packet::from_boxed(Box::new(*bytes));
                let Ok(permit) = self.proofs.clone().try_acquire_owned() else {
                    return self.counters.count("drop.proofs_full");
                };
                let shared = self.node.shared.clone();
                self.node.shared.runtime.spawn(async move {
                    if !verdict.await {
                        shared.count("drop.spam");
                    } else if shared.commands.send(Command::Verified(packet)).await.is_err() {
                        shared.count("drop.closed");
                    }
                    drop(permit);
                });
            }
        }
    }

    fn on_command(&mut self, now: Time, command: Command) {
        match command {
            Command::Send {
                to,
                packet,
                hold,
                left,
            } => {
                self.watch(&packet, left);
                // A SURB may begin at us, and may lead where we don't go.
                match Endpoint::from_block(&to) {
                    Ok(endpoint) if endpoint.peer == self.node.shared.me => self.arrived.push(packet),
                    _ if !self.node.worker.routing_mut().allows(&to) => {
                        self.counters.count("drop.no_edge");
                    }
                    _ => self.node.worker.handle(
                        now,
                        WorkerInput::Hold {
                            at: now + hold,
                            to,
                            packet,
                        },
                    ),
                }
            }
            Command::Verified(packet) => self.arrived.push(packet),
            Command::Proven { to, packet, proof } => {
                let spam = &self.node.shared.spam;
                let holds = spam
                    .as_ref()
                    .is_none_or(|spam| proof.token.is_empty() || spam.is_valid(now, &proof.token));
                if holds {
                    self.ship(&to, packet, proof);
                } else {
                    // Its epoch went by while it was made.
                    self.counters.count("proof.made_again");
                    self.prove(now, to, packet);
                }
            }
        }
    }

    /// Somebody wants to know when this packet of ours has left. The oldest of too many is told nothing.
    fn watch(&mut self, packet: &Packet, left: Option<oneshot::Sender<PeerId>>) {
        let Some(left) = left else { return };
        self.watched.retain(|(_, left)| !left.is_closed());
        if self.watched.len() >= WATCHED {
            self.watched.pop_front();
        }
        self.watched.push_back((alpha(packet), left));
    }

    /// Peels what arrived, and does what comes of it and of the time.
    fn work(&mut self, now: Time) {
        if let Some(why) = self.refuses {
            self.counters.add(why, self.arrived.drain(..).len() as u64);
        }
        let input = if self.arrived.is_empty() {
            WorkerInput::Tick
        } else {
            WorkerInput::Packets(&mut self.arrived)
        };
        self.node.worker.handle(now, input);
        // Written down before anything that comes of them is done.
        if let Some(store) = &mut self.node.store
            && !self.node.worker.accepted().is_empty()
        {
            if let Err(error) = store.append(self.node.worker.accepted())
                && self.refuses.is_none()
            {
                self.refuses = Some(STORE_FAILED);
                tracing::error!(%error, "the replay memory cannot be written; no packets are accepted or sent any more");
                self.node.shared.tell(Event::ReplayStoreFailed(error.to_string()));
            }
            self.node.worker.clear_accepted();
        }
        while let Some(outcome) = self.node.worker.poll() {
            if self.refuses == Some(STORE_FAILED) {
                // Among them are packets that a later run could not know were accepted.
                self.counters.count(STORE_FAILED);
                continue;
            }
            match outcome {
                Outcome::Forward { to, packet } => self.prove(now, to, packet),
                Outcome::Exit { destination, packet } => {
                    exit::on_exit(&self.node.shared, &destination, &packet)
                }
                Outcome::Reply { id, mut packet } => {
                    let shared = &self.node.shared;
                    self.counters.count(
                        match shared.credentials.arrived(shared.dialect, &id, &mut packet) {
                            Arrived::Answered => "reply.answered",
                            Arrived::Empty => "reply.empty",
                            Arrived::Unknown => "reply.unknown",
                            Arrived::Invalid => "reply.invalid",
                        },
                    );
                }
            }
        }
    }

    /// A packet's time has come: gives it its proof.
    fn prove(&mut self, now: Time, to: Block, packet: Packet) {
        let Some(spam) = &self.node.shared.spam else {
            return self.ship(&to, packet, Proof::default());
        };
        match spam.generate(now, packet.as_bytes()) {
            Answer::Now(Ok(proof)) => self.ship(&to, packet, proof),
            Answer::Now(Err(CannotProve(why))) => {
                tracing::debug!(why, "no proof");
                self.counters.count("drop.no_proof");
            }
            Answer::Later(proof) => {
                let Ok(permit) = self.proofs.clone().try_acquire_owned() else {
                    return self.counters.count("drop.proofs_full");
                };
                let shared = self.node.shared.clone();
                self.node.shared.runtime.spawn(async move {
                    match proof.await {
                        Err(CannotProve(why)) => {
                            tracing::debug!(why, "no proof");
                            shared.count("drop.no_proof");
                        }
                        Ok(proof) => {
                            if shared
                                .commands
                                .send(Command::Proven { to, packet, proof })
                                .await
                                .is_err()
                            {
                                shared.count("drop.closed");
                            }
                        }
                    }
                    drop(permit);
                });
            }
        }
    }

    /// Gives a packet to the link.
    fn ship(&mut self, to: &Block, packet: Packet, proof: Proof) {
        let spam = self.node.shared.spam.clone();
        let reclaim = |token: Vec<u8>| {
            if let Some(spam) = &spam
                && !token.is_empty()
            {
                spam.reclaim(token);
            }
        };
        if proof.bytes.len() != self.proof_len {
            self.counters.count("drop.no_proof");
            return reclaim(proof.token);
        }
        // Whoever waits for it hears that it was dropped, unless it is told otherwise below.
        let watched = self
            .watched
            .iter()
            .position(|(watched, _)| *watched == alpha(&packet));
        let left = watched.and_then(|at| self.watched.remove(at));
        let Some(peer) = self.neighbour(to) else {
            self.counters.count("drop.no_edge");
            return reclaim(proof.token);
        };
        let frame: link::Frame = if self.proof_len == 0 {
            packet.into_boxed()
        } else {
            [&packet.as_bytes()[..], &proof.bytes].concat().into()
        };
        let mut sent = self.node.shared.link.try_send(&peer, frame);
        if let Err((link::SendError::UnknownPeer, frame)) = sent {
            // It had come by itself and left, or the link had no room for it.
            self.introduce(to, peer);
            sent = self.node.shared.link.try_send(&peer, frame);
        }
        match sent {
            Ok(()) => {
                self.counters.count("link.accepted");
                if let Some((_, left)) = left {
                    let _ = left.send(peer);
                }
            }
            Err((why, _)) => {
                self.counters.count(match why {
                    link::SendError::Full => "drop.link_full",
                    link::SendError::UnknownPeer => "drop.too_many_neighbours",
                    _ => "drop.closed",
                });
                reclaim(proof.token);
            }
        }
    }

    /// The peer of a block, known to the link.
    fn neighbour(&mut self, block: &Block) -> Option<PeerId> {
        self.uses += 1;
        if let Some(neighbour) = self.neighbours.get_mut(block) {
            neighbour.used = self.uses;
            return Some(neighbour.peer);
        }
        let peer = Endpoint::from_block(block).ok()?.peer;
        if self.neighbours.len() >= self.node.max_neighbours {
            self.give_one_up();
        }
        self.neighbours.insert(
            *block,
            Neighbour {
                peer,
                used: self.uses,
            },
        );
        self.introduce(block, peer);
        Some(peer)
    }

    fn introduce(&self, block: &Block, peer: PeerId) {
        let mut addresses = Vec::new();
        addresses.extend(Endpoint::from_block(block).map(|e| e.address));
        // What the pool knows may be newer than what the sender knew.
        if let Some(member) = self.node.shared.pool.get(&peer)
            && !addresses.contains(&member.node.endpoint.address)
        {
            addresses.push(member.node.endpoint.address.clone());
        }
        self.node.shared.link.add_peer(peer, addresses);
    }

    /// Makes room for a neighbour: the one that was used longest ago goes.
    fn give_one_up(&mut self) {
        let oldest = self
            .neighbours
            .iter()
            .min_by_key(|(_, n)| n.used)
            .map(|(block, n)| (*block, n.peer));
        if let Some((block, peer)) = oldest {
            self.neighbours.remove(&block);
            self.counters.count("link.given_up");
            if !self.neighbours.values().any(|n| n.peer == peer) {
                self.node.shared.link.remove_peer(peer);
            }
        }
    }

    fn emit_cover(&mut self, now: Time) {
        while self
            .schedule
            .as_mut()
            .is_some_and(|schedule| schedule.is_due(&mut self.node.rng, now))
        {
            match self.cover_packet(now) {
                Ok((to, packet, hold)) => {
                    self.counters.count("cover.emitted");
                    self.node.worker.handle(
                        now,
                        WorkerInput::Hold {
                            at: now + hold,
                            to,
                            packet,
                        },
                    );
                }
                Err(why) => self.counters.count(why),
            }
        }
    }

    /// A loop: two nodes and back to us.
    fn cover_packet(&mut self, now: Time) -> Result<(Block, Packet, Duration), &'static str> {
        let shared = self.node.shared.clone();
        let rng = &mut self.node.rng;
        let me = shared
            .return_address()
            .and_then(|e| e.block().ok())
            .ok_or("cover.no_address")?;
        let path = shared
            .pool
            .sample(rng, now, HOPS - 1, &[])
            .map_err(|_| "cover.pool_too_small")?;
        if !shared.claim_slot() {
            return Err("cover.slot_exhausted");
        }
        let hold = shared.hold(rng);
        let epoch = |at| {
            let told = shared.spam.as_ref().and_then(|spam| spam.epoch(at));
            shared
                .slots
                .as_ref()
                .map(|slots| crate::lock(slots).epoch(at, told))
        };
        if epoch(now) != epoch(now + hold) {
            // It would be held into an epoch whose budget it has no part of.
            return Err("cover.epoch_crossed");
        }
        let mut packet = Packet::zeroed();
        let filler: [u8; mizzle_sphinx::MESSAGE_LEN] = draw::bytes(rng);
        message::encode_cover(shared.dialect, &filler, sequence(rng), packet.message_mut());
        let delays = [shared.delays.field(rng), shared.delays.field(rng)];
        let hops = [
            Hop {
                key: &path[0].node.key,
                address: &path[0].block,
                delay_ms: delays[0],
            },
            Hop {
                key: &path[1].node.key,
                address: &path[1].block,
                delay_ms: delays[1],
            },
            Hop {
                key: &shared.key,
                address: &me,
                delay_ms: 0,
            },
        ];
        build_in_place(shared.dialect, rng, &hops, &NOWHERE, &mut packet)
            .map_err(|_| "cover.build_failed")?;
        Ok((path[0].block, packet, hold))
    }

    fn sweep(&mut self, now: Time) {
        self.sweep_at = now + SWEEP;
        let shared = &self.node.shared;
        self.counters
            .add("surb.expired", shared.credentials.expire(now) as u64);
        shared.pool.expire(now);
        if self.refuses.is_none() && self.node.key.has_ended() {
            self.refuses = Some("drop.replay_table_full");
            shared.tell(Event::ReplayMemoryFull);
        }
    }
}
