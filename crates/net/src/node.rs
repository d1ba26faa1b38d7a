//! A node's task: a mix core, and in a gateway the gateway core, the session end of its mail and perhaps an exit core, between
//! their links.
//!
//! The only place where these cores meet: what one says is carried to the other here. Crypto runs in this task, never
//! in the swarm's. Who may send on the mix link is checked here, by the peer that the connection authenticated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libp2p::PeerId;
use libp2p_mix::link;
use mizzle_base::document::{LAYERS, Node as Listed, Role};
use mizzle_base::{Counters, Document, NodeId, Rng, Time};
use mizzle_exit::{ConnId, Exit};
use mizzle_gateway::store::{Answer, MailStore};
use mizzle_gateway::{ClientId, Gateway, Upload, UploadId, Uploaded};
use mizzle_mix::{Delivered, Mix};
use mizzle_sphinx::Packet;
use mizzle_traffic::draw;
use mizzle_traffic::ledger::Tally;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::host::Link;
use crate::keeper::Keeper;
use crate::outside::Outside;
use crate::tags::TagLog;

/// Frames taken from a link at once: one batch for the curve engine.
const BATCH: usize = 64;
/// Most tags kept in memory while they can't be written down: 8 MB, more than a mix holds packets at a time.
const UNWRITTEN_TAGS: usize = 1 << 20;
/// A refused client is disconnected after so long: closing takes along what is not yet written, and its last frame says
/// why it was refused.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The gateway part of a node.
pub struct GatewayParts {
    /// Its core.
    pub core: Gateway,
    /// `/mizzle/gateway/1.0.0`.
    pub link: Link,
    /// `/mizzle/directory/1.0.0`.
    pub directory: Link,
    /// The exit inside it, if any.
    pub exit: Option<Exit>,
    /// What ends the sessions of those who bring letters, if the document lists it ([`Exit::for_mail`]).
    pub mail: Option<Exit>,
    /// Where letters and mailboxes are kept; the core was made with what it has [`MailStore::registered`].
    pub store: Box<dyn MailStore>,
}

/// What a node is made of.
pub struct Parts {
    /// Its id in the document.
    pub id: NodeId,
    /// The document.
    pub document: Arc<Document>,
    /// Its mix core.
    pub mix: Mix,
    /// The mix link.
    pub link: Link,
    /// What makes it a gateway.
    pub gateway: Option<GatewayParts>,
    /// Where the tags of accepted packets are written down, if `mix` was told to remember them ([`Mix::remember`]).
    pub tags: Option<TagLog>,
    /// The share of packets that its links lose on purpose, for trying and testing; else zero.
    pub loss: f64,
}

/// What a node has done so far.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counters of all its cores; those of gateway and exit begin with their names.
    pub counters: Counters,
    /// Its loops.
    pub loops: Tally,
    /// Packets held.
    pub pool: usize,
    /// Clients linked.
    pub clients: usize,
}

/// A running node. Stops when dropped.
pub struct RunningNode {
    task: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
    snapshot: Arc<Mutex<Snapshot>>,
}

impl RunningNode {
    /// What it has done, as of within the last second or so.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops it and waits until it has.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

/// Starts a node's task.
#[must_use]
pub fn run(parts: Parts, clock: Clock, rng: Rng) -> RunningNode {
    let (stop, stopped) = watch::channel(false);
    let snapshot = Arc::new(Mutex::new(Snapshot::default()));
    let task = tokio::spawn(Node::new(parts, clock, rng, Arc::clone(&snapshot)).run(stopped));
    RunningNode { task, stop, snapshot }
}

/// The peer id in a document's entry; entries without a good one can't be reached and are left out.
pub(crate) fn peer_of(node: &Listed) -> Option<PeerId> {
    node.peer.parse().ok()
}

/// A client as a gateway core names it.
#[must_use]
pub fn client_id(peer: &PeerId) -> ClientId {
    use sha2::Digest as _;
    ClientId(sha2::Sha256::digest(peer.to_bytes()).into())
}

/// The gateway part at work.
struct GatewaySide {
    core: Gateway,
    link: Link,
    directory: Link,
    exit: Option<Exit>,
    mail: Option<Exit>,
    keeper: Keeper,
    /// Streams to mailboxes: what the one core calls them and what the other.
    letters: BTreeMap<UploadId, ConnId>,
}

struct Node {
    document: Arc<Document>,
    mix: Mix,
    link: Link,
    gateway: Option<GatewaySide>,
    tags: Option<TagLog>,
    /// Tags that couldn't be written down; nothing passes on before they are.
    unwritten: Vec<u64>,
    outside: Outside,
    outside_events: mpsc::Receiver<mizzle_exit::Input>,
    next_hops: BTreeMap<NodeId, PeerId>,
    senders: BTreeSet<PeerId>,
    clients: BTreeMap<ClientId, PeerId>,
    /// Connections of clients that were refused, and when they are closed; not more than the link has connections.
    refused: BTreeMap<(ClientId, link::Conn), Time>,
    loss: f64,
    rng: Rng,
    clock: Clock,
    counters: Counters,
    snapshot: Arc<Mutex<Snapshot>>,
    published: Time,
}

enum Woken {
    Stopped,
    Mix,
    Gateway,
    Directory,
    Outside(mizzle_exit::Input),
    Store(Vec<Answer>),
    Deadline,
}

impl Node {
    fn new(parts: Parts, clock: Clock, rng: Rng, snapshot: Arc<Mutex<Snapshot>>) -> Self {
        let Parts {
            id,
            document,
            mix,
            link,
            gateway,
            tags,
            loss,
        } = parts;
        let gateway = gateway.map(|parts| GatewaySide {
            core: parts.core,
            link: parts.link,
            directory: parts.directory,
            exit: parts.exit,
            mail: parts.mail,
            keeper: Keeper::start(parts.store),
            letters: BTreeMap::new(),
        });
        let me = document.node(&id);
        let next_hops: BTreeMap<NodeId, PeerId> = me
            .map(|me| document.next_hops(me))
            .unwrap_or_default()
            .into_iter()
            .filter_map(|n| Some((n.id, peer_of(n)?)))
            .collect();
        for listed in document.nodes() {
            let Some(peer) = next_hops.get(&listed.id) else {
                continue;
            };
            let addresses = listed.addresses.iter().filter_map(|a| a.parse().ok()).collect();
            link.control.add_peer(*peer, addresses);
            link.control.connect(*peer);
        }
        // The layer before mine, by the same edges.
        let before = |other: &&Listed| match me.map(|me| (me.role, me.layer)) {
            Some((Role::Gateway, _)) => other.role == Role::Mix && other.layer == LAYERS,
            Some((Role::Mix, 1)) => other.role == Role::Gateway,
            Some((Role::Mix, layer)) => other.role == Role::Mix && other.layer + 1 == layer,
            None => false,
        };
        let mut senders = BTreeSet::new();
        for listed in document.nodes().iter().filter(before) {
            let Some(peer) = peer_of(listed) else { continue };
            // Known, so that the link takes its streams: those of strangers it refuses. Not dialled from here.
            link.control.add_peer(
                peer,
                listed.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            );
            senders.insert(peer);
        }
        let (events, outside_events) = mpsc::channel(1_024);
        Self {
            document,
            mix,
            link,
            gateway,
            tags,
            unwritten: Vec::new(),
            outside: Outside::new(events),
            outside_events,
            next_hops,
            senders,
            clients: BTreeMap::new(),
            refused: BTreeMap::new(),
            loss,
            rng,
            clock,
            counters: Counters::default(),
            snapshot,
            published: Time::ZERO,
        }
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut events = Vec::with_capacity(BATCH);
        let syncing = self.tags.as_ref().map(TagLog::syncer).map(TagLog::sync_forever);
        let _syncing = syncing.map(|task| AbortOnDrop(tokio::spawn(task)));
        loop {
            let woken = self.wait(&mut stopped, &mut events).await;
            let mut packets = Vec::new();
            match woken {
                Woken::Stopped => break,
                Woken::Deadline => {}
                Woken::Mix => self.take_packets(&mut events, &mut packets),
                Woken::Gateway => self.take_frames(&mut events),
                Woken::Directory => self.answer_questions(&mut events),
                Woken::Outside(input) => {
                    self.tell_exit(input);
                    // More that is there already: one at a time they would starve behind the links.
                    for _ in 1..BATCH {
                        let Ok(input) = self.outside_events.try_recv() else {
                            break;
                        };
                        self.tell_exit(input);
                    }
                }
                Woken::Store(answers) => self.tell_gateway(answers),
            }
            self.turn(packets);
        }
        if let Some(parts) = self.gateway {
            parts.keeper.stop().await;
        }
    }

    async fn wait(&mut self, stopped: &mut watch::Receiver<bool>, events: &mut Vec<link::Event>) -> Woken {
        let deadline = [
            self.mix.deadline(),
            self.gateway.as_ref().and_then(|g| g.core.deadline()),
            self.gateway.as_ref().and_then(|g| g.exit.as_ref()?.deadline()),
            self.gateway.as_ref().and_then(|g| g.mail.as_ref()?.deadline()),
            self.refused.values().min().copied(),
        ]
        .into_iter()
        .flatten()
        .min();
        let (mut gateway, mut directory, mut keeper) = (None, None, None);
        if let Some(parts) = &mut self.gateway {
            keeper = Some(&mut parts.keeper);
            gateway = Some(&mut parts.link.receiver);
            directory = Some(&mut parts.directory.receiver);
        }
        // One buffer for three sources: whichever branch is ready has filled it, the others have not touched it.
        let (mut from_gateway, mut from_directory) = (Vec::new(), Vec::new());
        let woken = tokio::select! {
            biased;
            _ = stopped.changed() => Woken::Stopped,
            // Few, and a busy link shall not keep them from those who wait.
            Some(answers) = answers(keeper) => Woken::Store(answers),
            n = self.link.receiver.recv_many(events, BATCH) => if n == 0 { Woken::Stopped } else { Woken::Mix },
            n = receive(gateway, &mut from_gateway) => if n == 0 { Woken::Stopped } else { Woken::Gateway },
            n = receive(directory, &mut from_directory) => if n == 0 { Woken::Stopped } else { Woken::Directory },
            Some(input) = self.outside_events.recv() => Woken::Outside(input),
            () = self.clock.sleep_until(deadline) => Woken::Deadline,
        };
        events.append(&mut from_gateway);
        events.append(&mut from_directory);
        woken
    }

    fn take_packets(&mut self, events: &mut Vec<link::Event>, packets: &mut Vec<Packet>) {
        for event in events.drain(..) {
            if let link::Event::Frame { peer, frame, .. } = event {
                match <Box<[u8; mizzle_sphinx::PACKET_LEN]>>::try_from(frame) {
                    Ok(bytes) if self.senders.contains(&peer) => packets.push(Packet::from_boxed(bytes)),
                    Ok(_) => self.counters.count("drop.sender_without_edge"),
                    Err(_) => self.counters.count("drop.wrong_length"),
                }
            }
        }
    }

    fn take_frames(&mut self, events: &mut Vec<link::Event>) {
        let Some(parts) = &mut self.gateway else { return };
        let now = self.clock.now();
        for event in events.drain(..) {
            match event {
                link::Event::Frame { peer, conn, frame } => {
                    let client = client_id(&peer);
                    self.clients.insert(client, peer);
                    let input = mizzle_gateway::Input::Frame {
                        client,
                        conn: mizzle_gateway::Conn(conn.number()),
                        bytes: frame,
                    };
                    parts.core.handle(now, input);
                }
                link::Event::Disconnected { peer } => {
                    let client = client_id(&peer);
                    self.clients.remove(&client);
                    self.refused.retain(|(of, _), _| *of != client);
                    parts.core.handle(now, mizzle_gateway::Input::Gone { client });
                }
                _ => {}
            }
        }
    }

    fn answer_questions(&mut self, events: &mut Vec<link::Event>) {
        let Some(parts) = &self.gateway else { return };
        for event in events.drain(..) {
            if let link::Event::Frame { peer, frame, .. } = event {
                let answer = crate::directory::answer(&self.document, &frame);
                if parts.directory.control.try_send(&peer, answer).is_err() {
                    self.counters.count("drop.directory_busy");
                }
            }
        }
    }

    fn tell_exit(&mut self, input: mizzle_exit::Input) {
        let now = self.clock.now();
        if let Some(exit) = self.gateway.as_mut().and_then(|g| g.exit.as_mut()) {
            exit.handle(now, input);
        }
    }

    fn tell_gateway(&mut self, answers: Vec<Answer>) {
        let now = self.clock.now();
        if let Some(parts) = &mut self.gateway {
            for answer in answers {
                parts.core.handle(now, mizzle_gateway::Input::Store(answer));
            }
        }
    }

    /// Lets time pass for all cores and carries out what they want, until they want nothing more.
    fn turn(&mut self, mut packets: Vec<Packet>) {
        let now = self.clock.now();
        if let Some(parts) = &mut self.gateway {
            parts.core.handle(now, mizzle_gateway::Input::Tick);
            for exit in [&mut parts.exit, &mut parts.mail].into_iter().flatten() {
                exit.handle(now, mizzle_exit::Input::Tick);
            }
        }
        loop {
            self.drain_services(&mut packets);
            while self.drain_gateway(&mut packets) {
                self.drain_services(&mut packets);
            }
            let input = if packets.is_empty() {
                mizzle_mix::Input::Tick
            } else {
                mizzle_mix::Input::Packets(std::mem::take(&mut packets))
            };
            self.mix.handle(now, input);
            if !self.drain_mix(now) {
                break;
            }
        }
        self.disconnect_refused(now);
        if now.since(self.published).as_millis() >= 250 {
            self.published = now;
            self.publish();
        }
    }

    fn disconnect_refused(&mut self, now: Time) {
        let Some(parts) = &self.gateway else { return };
        self.refused.retain(|(client, conn), at| {
            if *at <= now
                && let Some(peer) = self.clients.get(client)
            {
                parts.link.control.close(peer, *conn);
            }
            *at > now
        });
    }

    fn drain_services(&mut self, packets: &mut Vec<Packet>) {
        let now = self.clock.now();
        let Some(parts) = &mut self.gateway else { return };
        if let Some(exit) = &mut parts.exit {
            while let Some(action) = exit.poll() {
                packets.extend(self.outside.perform(action));
            }
        }
        while let Some(action) = parts.mail.as_mut().and_then(Exit::poll) {
            packets.extend(parts.perform(now, action));
        }
    }

    /// True when something was to be done, so that the other cores must be asked again.
    fn drain_gateway(&mut self, packets: &mut Vec<Packet>) -> bool {
        let now = self.clock.now();
        let Some(parts) = &mut self.gateway else {
            return false;
        };
        let mut done = false;
        while let Some(action) = parts.core.poll() {
            done = true;
            match action {
                mizzle_gateway::Action::Mix(packet) => packets.push(packet),
                mizzle_gateway::Action::Exit(packet) => {
                    if let Some(exit) = &mut parts.exit {
                        exit.handle(now, mizzle_exit::Input::Message(packet));
                    }
                }
                mizzle_gateway::Action::Post(packet) => {
                    if let Some(mail) = &mut parts.mail {
                        mail.handle(now, mizzle_exit::Input::Message(packet));
                    }
                }
                mizzle_gateway::Action::Upload(id, what) => parts.tell_sender(now, id, what),
                mizzle_gateway::Action::Store(order) => parts.keeper.ask(order),
                mizzle_gateway::Action::Welcome { client, conn, bytes } => {
                    let conn = link::Conn::from_number(conn.0);
                    if let Some(peer) = self.clients.get(&client) {
                        let control = &parts.link.control;
                        // If the connection closed meanwhile, the client comes by another.
                        if !control.write_by(peer, conn) || control.try_send_by(peer, conn, bytes).is_err() {
                            self.counters.count("drop.client_left");
                        }
                    }
                }
                mizzle_gateway::Action::Refuse { client, conn, bytes } => {
                    let conn = link::Conn::from_number(conn.0);
                    if let Some(peer) = self.clients.get(&client) {
                        // One that is refused faster than it takes answers has one on its way.
                        if parts.link.control.say_by(peer, conn, bytes).is_err() {
                            self.counters.count("drop.client_left");
                        }
                        self.refused.entry((client, conn)).or_insert(now + LAST_WORDS);
                    }
                }
                mizzle_gateway::Action::Send { client, conn, bytes } => {
                    let conn = link::Conn::from_number(conn.0);
                    let refused = match self.clients.get(&client) {
                        Some(peer) => {
                            let sent = parts.link.control.try_send_by(peer, conn, bytes);
                            sent.err().map(|(_, bytes)| bytes)
                        }
                        None => Some(bytes),
                    };
                    if let Some(bytes) = refused {
                        parts
                            .core
                            .handle(now, mizzle_gateway::Input::NotWritten { client, bytes });
                    }
                }
            }
        }
        done
    }

    /// True when something was delivered, so that the other cores must be asked again.
    fn drain_mix(&mut self, now: Time) -> bool {
        let mut delivered = false;
        while let Some(action) = self.mix.poll() {
            match action {
                mizzle_mix::Action::Accepted(tags) => self.write_down(tags),
                // A later run could not know that these were accepted.
                mizzle_mix::Action::Forward { .. } | mizzle_mix::Action::Deliver(_)
                    if !self.unwritten.is_empty() =>
                {
                    self.counters.count("drop.tag_not_written");
                }
                mizzle_mix::Action::Forward { to, packet } => self.forward(&to, packet),
                mizzle_mix::Action::Deliver(what) => {
                    let Some(parts) = &mut self.gateway else { continue };
                    delivered = true;
                    match what {
                        Delivered::Message { mailbox, packet } => {
                            parts
                                .core
                                .handle(now, mizzle_gateway::Input::Message { mailbox, packet });
                        }
                        Delivered::Reply { id, packet } => {
                            if self.loss > 0.0 && draw::unit(&mut self.rng) <= self.loss {
                                self.counters.count("lost_on_purpose");
                            } else {
                                parts
                                    .core
                                    .handle(now, mizzle_gateway::Input::Reply { id, packet });
                            }
                        }
                    }
                }
            }
        }
        delivered
    }

    /// Writes tags down, with those for which it failed before.
    fn write_down(&mut self, tags: Vec<u64>) {
        let Some(log) = &mut self.tags else { return };
        let failed_before = !self.unwritten.is_empty();
        self.unwritten.extend(tags);
        match log.append(&self.unwritten) {
            Ok(()) => self.unwritten.clear(),
            Err(why) => {
                if !failed_before {
                    tracing::error!("{why}; packets are dropped until it can be written again");
                }
                // Of those that are dropped here the packets are, too.
                self.unwritten.truncate(UNWRITTEN_TAGS);
            }
        }
    }

    fn forward(&mut self, to: &NodeId, packet: Packet) {
        if self.loss > 0.0 && draw::unit(&mut self.rng) <= self.loss {
            return self.counters.count("lost_on_purpose");
        }
        let Some(peer) = self.next_hops.get(to) else {
            return self.counters.count("drop.no_peer");
        };
        if let Err((why, _)) = self.link.control.try_send(peer, packet.into_boxed()) {
            self.counters.count(match why {
                link::SendError::Full => "drop.link_full",
                _ => "drop.link_down",
            });
        }
    }

    fn publish(&self) {
        let mut snapshot = Snapshot {
            counters: self.counters.clone(),
            loops: self.mix.loops(),
            pool: self.mix.pool(),
            clients: 0,
        };
        snapshot.counters.merge(self.mix.counters());
        if let Some(parts) = &self.gateway {
            snapshot.clients = parts.core.linked();
            snapshot.counters.merge(parts.core.counters());
            for exit in [&parts.exit, &parts.mail].into_iter().flatten() {
                snapshot.counters.merge(exit.counters());
            }
        }
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

impl GatewaySide {
    /// Carries out what the session end of the mail wants: its connections are the gateway core's uploads. A packet for the
    /// mix comes back.
    fn perform(&mut self, now: Time, action: mizzle_exit::Action) -> Option<Packet> {
        use mizzle_exit::Action;
        let (conn, said) = match action {
            Action::Mix(packet) => return Some(packet),
            Action::Mailbox(conn, mailbox) => {
                self.letters.insert(UploadId(conn.number()), conn);
                (conn, Upload::Open(mailbox))
            }
            Action::Read(conn, _) => (conn, Upload::Wanted),
            Action::Write(conn, bytes) => (conn, Upload::Bytes(bytes.into())),
            Action::Finish(conn) => (conn, Upload::Ended),
            Action::Abort(conn) | Action::Forget(conn) => {
                self.letters.remove(&UploadId(conn.number()));
                (conn, Upload::Gone)
            }
            // It leads to mailboxes only.
            Action::Resolve(..) | Action::Connect(..) => return None,
        };
        let id = UploadId(conn.number());
        self.core.handle(now, mizzle_gateway::Input::Upload(id, said));
        None
    }

    fn tell_sender(&mut self, now: Time, id: UploadId, what: Uploaded) {
        use mizzle_exit::Input;
        let (Some(&conn), Some(mail)) = (self.letters.get(&id), &mut self.mail) else {
            return;
        };
        mail.handle(
            now,
            match what {
                Uploaded::Opened(result) => Input::Connected(conn, result),
                Uploaded::Took(n) => Input::Wrote(conn, n),
                Uploaded::Answer(bytes) => Input::Read(conn, bytes.into()),
            },
        );
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn answers(keeper: Option<&mut Keeper>) -> Option<Vec<Answer>> {
    keeper?.answers().await
}

async fn receive(receiver: Option<&mut link::Receiver>, out: &mut Vec<link::Event>) -> usize {
    match receiver {
        Some(receiver) => receiver.recv_many(out, BATCH).await,
        None => std::future::pending().await,
    }
}
