//! A node: the threads in which its packets are peeled and held (`pipeline`), and its task, with its loops and, where it is one,
//! the cores of its gateway (`gateway`), between their links. How the task changes keys is in `keys`, and what it tells in `report`.
//!
//! The only place where these cores meet: what one says is carried to the other here. Crypto runs in the threads and in this
//! task, never in the swarm's.

mod gateway;
mod keys;
mod pipeline;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use libp2p::PeerId;
use libp2p_mix::link;
use mizzle_base::document::{LAYERS, Node as Listed, Role};
use mizzle_base::{Counters, Document, NodeId, Rng, Time};
use mizzle_exit::Exit;
use mizzle_gateway::store::{Answer, MailStore};
use mizzle_gateway::{ClientId, Gateway};
use mizzle_mix::{Config, Delivered, Edges, Key, Loops, NotOurs, Outcome, Ratchet, Ring};
use mizzle_sphinx::{Dialect, SecretKey};
use mizzle_traffic::draw;
use mizzle_traffic::estimate::Estimate;
use mizzle_traffic::weights::{self, Report, Reports};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroize as _;

use crate::clock::Clock;
use crate::directory::{Asked, MAX_BUNDLE_LEN};
use crate::host::Link;
use crate::keeper::Keeper;
use crate::outside::Outside;
use crate::tags::{TagError, TagLog, TagSync};
use gateway::GatewaySide;
use keys::{AbortOnDrop, Erasing, Opened, erase, open_logs, opened, syncers};
use pipeline::{Pipeline, PipelineParts};
use report::{Reporting, Warned};

pub use keys::KeysError;
pub use report::{GatewaySnapshot, Observer, Snapshot};

/// Frames taken from a link at once.
const BATCH: usize = 64;
/// How long before its time a loop is handed to a thread, which has it leave among the packets that it holds: more than
/// this task's timer and scheduling can be late.
const LOOPS_AHEAD: Duration = Duration::from_millis(50);
/// Between two lookings at what the threads have done, at most.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);
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

/// The mix part of a node.
pub struct MixParts {
    config: Config,
    /// The current one first.
    keys: Vec<(u32, Arc<Key>)>,
    ring: Option<Ring>,
    /// What it began with is over in part.
    forgot: bool,
    loops: Loops,
    workers: usize,
    /// Where tags are written down, and the seed.
    folder: Option<PathBuf>,
    logs: Vec<(u32, Vec<TagLog>)>,
    reporting: Option<Reporting>,
    /// When it was put together.
    now: Time,
}

impl MixParts {
    /// Of a node of the document, with the secret of its Sphinx key, the only one that it will have, and one worker. Its loops
    /// begin at `now`.
    ///
    /// # Errors
    /// When the document knows it otherwise.
    pub fn new(
        config: Config,
        document: Arc<Document>,
        me: &NodeId,
        secret: SecretKey,
        rng: Rng,
        now: Time,
    ) -> Result<Self, NotOurs> {
        let epoch = document.epoch();
        Ok(Self {
            loops: Loops::new(document, me, &secret.public(), rng, now)?,
            keys: vec![(epoch, Arc::new(Key::new(secret, Dialect::Lioness, &config)))],
            ring: None,
            forgot: false,
            config,
            workers: 1,
            folder: None,
            logs: Vec::new(),
            reporting: None,
            now,
        })
    }

    /// Of a node whose keys change with the document's epochs, and one worker. Its loops begin at `now`.
    ///
    /// # Errors
    /// When the document knows it otherwise, or it has no key for now.
    pub fn with_ratchet(
        config: Config,
        document: Arc<Document>,
        me: &NodeId,
        ratchet: Ratchet,
        rng: Rng,
        now: Time,
    ) -> Result<Self, KeysError> {
        let document = document.turned(now).map_or(document, Arc::new);
        let mut ring = Ring::new(ratchet, &document);
        let turn = ring.turn(now)?;
        let mut keys = Vec::new();
        for epoch in turn.epochs() {
            let secret = ring.keys(epoch).ok_or(KeysError::Over)?.sphinx;
            keys.push((epoch, Arc::new(Key::new(secret, Dialect::Lioness, &config))));
        }
        let (_, current) = keys.first().ok_or(KeysError::Over)?;
        Ok(Self {
            loops: Loops::new(document, me, &current.public(), rng, now)?,
            keys,
            ring: Some(ring),
            forgot: turn.forgot,
            config,
            workers: 1,
            folder: None,
            logs: Vec::new(),
            reporting: None,
            now,
        })
    }

    /// Signs what its loops tell with the secret of its identity, and publishes it at all gateways, through `link` if it isn't one
    /// itself. The secret given is overwritten with zeros.
    #[must_use]
    pub fn with_reports(mut self, identity: &mut [u8; 32], link: Option<Link>) -> Self {
        let signing = SigningKey::from_bytes(identity);
        identity.zeroize();
        self.reporting = Some(Reporting {
            identity: signing,
            link,
        });
        self
    }

    /// With so many workers, each in a thread of its own; 64 at most. Before [`Self::with_tags_kept`].
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers.clamp(1, pipeline::MOST_WORKERS);
        self
    }

    /// Writes the tags of accepted packets down in this folder, and remembers those that are there. What is there of epochs
    /// that are over, tags and the seed that is the [node's](crate::state::seed), is erased while the node runs, once
    /// gateways agree with its clock ([`Documents::clock_is_right`]) or an overlap of epochs is over.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn with_tags_kept(mut self, folder: &Path) -> Result<Self, KeysError> {
        let mut logs = Vec::new();
        for (epoch, key) in &self.keys {
            logs.push((
                *epoch,
                open_logs(folder, *epoch, key, self.workers).map_err(|why| self.over(*epoch, why))?,
            ));
        }
        self.logs = logs;
        if let Some(ring) = &self.ring {
            if !self.forgot {
                // Nothing goes but what a crash left to be erased.
                erase(folder, ring.ratchet())?;
            }
            self.folder = Some(folder.to_path_buf());
        }
        Ok(self)
    }

    /// Says when the node can begin whose key of this epoch can't be used.
    fn over(&self, epoch: u32, why: TagError) -> KeysError {
        match (why, &self.ring) {
            (why @ TagError::Unclean(_), Some(ring)) => KeysError::Unclean {
                why,
                back_in: ring.over_at(epoch).map(|at| at.since(self.now)),
            },
            (why, _) => why.into(),
        }
    }
}

/// What a node is made of.
pub struct Parts {
    /// Its id in the document.
    pub id: NodeId,
    /// The document.
    pub document: Arc<Document>,
    /// What peels, holds and forwards.
    pub mix: MixParts,
    /// The mix link.
    pub link: Link,
    /// What makes it a gateway.
    pub gateway: Option<GatewayParts>,
    /// The share of packets that its links lose on purpose, for trying and testing; else zero.
    pub loss: f64,
}

/// A running node. Stops when dropped.
pub struct RunningNode {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
    documents: watch::Sender<Option<Arc<Document>>>,
    clock_agreed: Arc<AtomicBool>,
    snapshot: Arc<Mutex<Snapshot>>,
}

/// Brings to a node or a client, while it runs, what gateways say: newer network documents, and that its clock is right.
#[derive(Clone)]
pub struct Documents {
    documents: watch::Sender<Option<Arc<Document>>>,
    clock_agreed: Arc<AtomicBool>,
}

impl Documents {
    /// For a client, for which nothing waits until its clock is believed.
    pub(crate) fn of_client(documents: watch::Sender<Option<Arc<Document>>>) -> Self {
        Self {
            documents,
            clock_agreed: Arc::default(),
        }
    }

    /// Gives it a document, verified. It is taken if it [continues](Document::continues) the one that is there.
    pub fn bring(&self, document: Arc<Document>) {
        self.documents.send_replace(Some(document));
    }

    /// As many gateways agree with its clock as it takes to believe it: a node erases from its disk what is over by that from
    /// now on. Until this is said it waits with that, for an overlap of epochs at most.
    pub fn clock_is_right(&self) {
        self.clock_agreed.store(true, Ordering::Relaxed);
    }
}

impl RunningNode {
    /// What those get who look for newer documents.
    #[must_use]
    pub fn documents(&self) -> Documents {
        Documents {
            documents: self.documents.clone(),
            clock_agreed: Arc::clone(&self.clock_agreed),
        }
    }

    /// What it has done, as of within the last second or so.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.observer().snapshot()
    }

    /// What those get who only look.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer(Arc::clone(&self.snapshot))
    }

    /// Stops it and waits until it has.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

/// Starts a node's threads and its task.
///
/// # Errors
/// When the system gives no thread.
pub fn run(parts: Parts, clock: Clock, rng: Rng) -> io::Result<RunningNode> {
    let (stop, stopped) = watch::channel(false);
    let (documents, brought) = watch::channel(None);
    let snapshot = Arc::new(Mutex::new(Snapshot::default()));
    let node = Node::new(parts, clock, rng, Arc::clone(&snapshot))?;
    let clock_agreed = Arc::clone(&node.clock_agreed);
    Ok(RunningNode {
        task: tokio::spawn(node.run(stopped, brought)),
        stop,
        documents,
        clock_agreed,
        snapshot,
    })
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

struct Node {
    document: Arc<Document>,
    pipeline: Pipeline,
    /// The current one first.
    keys: Vec<(u32, Arc<Key>)>,
    ring: Option<Ring>,
    config: Config,
    workers: usize,
    folder: Option<PathBuf>,
    /// What is over on the disk, and whether gateways agreed with the clock by which it is. Looked at in every turn.
    erasing: Erasing,
    clock_agreed: Arc<AtomicBool>,
    /// Logs of tags for keys that are next, being opened.
    opening: Option<JoinHandle<Opened>>,
    files: BTreeMap<u32, Vec<TagSync>>,
    syncing: Option<AbortOnDrop>,
    loops: Loops,
    gateway: Option<GatewaySide>,
    outside: Outside,
    outside_events: mpsc::Receiver<mizzle_exit::Input>,
    clients: BTreeMap<ClientId, PeerId>,
    /// Connections of clients that were refused, and when they are closed; not more than the link has connections.
    refused: BTreeMap<(ClientId, link::Conn), Time>,
    loss: f64,
    rng: Rng,
    clock: Clock,
    counters: Counters,
    snapshot: Arc<Mutex<Snapshot>>,
    published: Time,
    /// What loops told of each node, and when that was looked at.
    estimates: BTreeMap<NodeId, Estimate>,
    estimated: Time,
    /// The nodes that were down when it told.
    told_down: BTreeSet<NodeId>,
    reporting: Option<Reporting>,
    /// What nodes published, in a gateway.
    reports: Reports,
    /// What was said of the key's end: so it is said once.
    warned: Warned,
}

enum Woken {
    Stopped,
    Delivered(Vec<Outcome>),
    Gateway,
    Directory,
    Outside(mizzle_exit::Input),
    Store(Vec<Answer>),
    Document(Arc<Document>),
    Opened(Opened),
    Deadline,
}

impl Node {
    fn new(parts: Parts, clock: Clock, mut rng: Rng, snapshot: Arc<Mutex<Snapshot>>) -> io::Result<Self> {
        let Parts {
            id,
            document,
            mix,
            link,
            gateway,
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
        let files = syncers(&mix.logs);
        let is_over = mix.forgot && mix.folder.is_some();
        let erasing = Erasing::new(clock.now(), document.epochs().overlap(), is_over);
        let pipeline = PipelineParts {
            config: mix.config.clone(),
            keys: mix.keys.clone(),
            edges: Edges::from(&document, mix.loops.node()),
            workers: mix.workers,
            logs: mix.logs,
            receiver: link.receiver,
            control: link.control,
            next_hops,
            senders,
            loss,
        };
        let mut node = Self {
            document,
            pipeline: Pipeline::start(pipeline, clock, &mut rng)?,
            keys: mix.keys,
            ring: mix.ring,
            config: mix.config,
            workers: mix.workers,
            folder: mix.folder,
            erasing,
            clock_agreed: Arc::default(),
            opening: None,
            syncing: None,
            files,
            loops: mix.loops,
            gateway,
            outside: Outside::new(events),
            outside_events,
            clients: BTreeMap::new(),
            refused: BTreeMap::new(),
            loss,
            rng,
            clock,
            counters: Counters::default(),
            snapshot,
            published: Time::ZERO,
            estimates: BTreeMap::new(),
            estimated: clock.now(),
            told_down: BTreeSet::new(),
            reporting: mix.reporting,
            reports: Reports::default(),
            warned: Warned::Nothing,
        };
        node.sync_files();
        node.set_stream_keys();
        Ok(node)
    }

    async fn run(
        mut self,
        mut stopped: watch::Receiver<bool>,
        mut documents: watch::Receiver<Option<Arc<Document>>>,
    ) {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            match self.wait(&mut stopped, &mut documents, &mut events).await {
                Woken::Stopped => break,
                // Nothing that was delivered waits to be heard.
                Woken::Deadline => self.look_for_loops(),
                Woken::Delivered(outcomes) => self.take_delivered(outcomes),
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
                Woken::Document(document) => self.take_document(document),
                Woken::Opened(opened) => self.take_logs(opened),
            }
            self.turn();
        }
        self.pipeline.stop().await;
        drop(self.syncing);
        if let Some(parts) = self.gateway {
            parts.keeper.stop().await;
        }
    }

    async fn wait(
        &mut self,
        stopped: &mut watch::Receiver<bool>,
        documents: &mut watch::Receiver<Option<Arc<Document>>>,
        events: &mut Vec<link::Event>,
    ) -> Woken {
        let deadline = [
            // While logs are being opened there is nothing to be done for it.
            self.ring
                .as_ref()
                .filter(|_| self.opening.is_none())
                .and_then(Ring::change_at),
            self.erasing.due_at(),
            Some(self.published + PUBLISH_EVERY),
            self.loops.next_at().map(|at| at - LOOPS_AHEAD),
            self.loops.check_at(),
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
        // One buffer for both links: whichever branch is ready has filled it, the others have not touched it.
        let (mut from_gateway, mut from_directory) = (Vec::new(), Vec::new());
        let woken = tokio::select! {
            biased;
            _ = stopped.changed() => Woken::Stopped,
            // Few, and a busy link shall not keep them from those who wait.
            Some(answers) = answers(keeper) => Woken::Store(answers),
            delivered = self.pipeline.delivered() => delivered.map_or(Woken::Stopped, Woken::Delivered),
            n = receive(gateway, &mut from_gateway) => if n == 0 { Woken::Stopped } else { Woken::Gateway },
            n = receive(directory, &mut from_directory) => if n == 0 { Woken::Stopped } else { Woken::Directory },
            Some(input) = self.outside_events.recv() => Woken::Outside(input),
            Some(opened) = opened(&mut self.opening) => Woken::Opened(opened),
            Some(document) = brought(documents) => Woken::Document(document),
            () = self.clock.sleep_until(deadline) => Woken::Deadline,
        };
        events.append(&mut from_gateway);
        events.append(&mut from_directory);
        woken
    }

    /// One that is no newer, or differs in more than keys and weights, is for the next start.
    fn take_document(&mut self, document: Arc<Document>) {
        let now = self.clock.now();
        if !document.continues(&self.document) {
            return self.counters.count("document.not_taken");
        }
        self.counters.count("document.taken");
        let document = document.turned(now).map_or(document, Arc::new);
        self.loops.set_document(Arc::clone(&document));
        if let Some(ring) = &mut self.ring {
            ring.set_document(&document);
        }
        if let Some(parts) = &mut self.gateway {
            parts.core.set_document(Arc::clone(&document));
        }
        self.document = document;
    }

    /// Raises an alarm if loops are missing, and does what follows.
    fn look_for_loops(&mut self) {
        let now = self.clock.now();
        self.loops.tell_lateness(now, &self.pipeline.report().late);
        if let Some(since) = self.loops.check(now) {
            self.pipeline.drop_isolated(since);
            tracing::warn!(
                "loops of this node don't come home: perhaps somebody drops what comes to it. What was let in since the last one is \
                 dropped, and cover added"
            );
        }
    }

    fn take_delivered(&mut self, outcomes: Vec<Outcome>) {
        let now = self.clock.now();
        for outcome in outcomes {
            let delivered = match outcome {
                Outcome::Exit { destination, packet } => self.loops.exit(&destination, packet),
                Outcome::Reply { id, packet } => self.loops.reply(now, id, packet),
                // These went to the link.
                Outcome::Forward { .. } => None,
            };
            let Some(parts) = &mut self.gateway else { continue };
            let input = match delivered {
                None => continue,
                Some(Delivered::Message { mailbox, packet }) => {
                    mizzle_gateway::Input::Message { mailbox, packet }
                }
                Some(Delivered::Reply { .. })
                    if self.loss > 0.0 && draw::unit(&mut self.rng) <= self.loss =>
                {
                    self.counters.count("lost_on_purpose");
                    continue;
                }
                Some(Delivered::Reply { id, packet }) => mizzle_gateway::Input::Reply { id, packet },
            };
            parts.core.handle(now, input);
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
                let answer = match crate::directory::asked(&frame) {
                    Asked::Document(known) => {
                        crate::directory::answer(&self.document, self.clock.now(), known)
                    }
                    Asked::Reports => {
                        let turn = self.clock.now().as_s() / weights::EVERY.as_secs();
                        self.reports.bundle_in_turn(turn, MAX_BUNDLE_LEN).into()
                    }
                    Asked::Published(report) => {
                        match Report::verify(report, &self.document, self.clock.now()) {
                            Ok(report) => self.counters.add("reports.new", self.reports.add(report).into()),
                            Err(_) => self.counters.count("drop.bad_report"),
                        }
                        continue;
                    }
                    Asked::Nothing => Box::default(),
                };
                if parts.directory.control.try_send(&peer, answer).is_err() {
                    self.counters.count("drop.directory_busy");
                }
            }
        }
    }

    /// Lets time pass for all cores and carries out what they want, until they want nothing more.
    fn turn(&mut self) {
        let now = self.clock.now();
        self.turn_keys(now);
        self.erase_over(now);
        let mut packets = Vec::new();
        if let Some(parts) = &mut self.gateway {
            parts.core.handle(now, mizzle_gateway::Input::Tick);
            for exit in [&mut parts.exit, &mut parts.mail].into_iter().flatten() {
                exit.handle(now, mizzle_exit::Input::Tick);
            }
        }
        self.drain_services(&mut packets);
        while self.drain_gateway(&mut packets) {
            self.drain_services(&mut packets);
        }
        let refused = self.pipeline.submit(packets);
        if refused > 0 {
            self.counters.add("drop.workers_busy", refused as u64);
        }
        while let Some(one) = self.loops.take(now, now + LOOPS_AHEAD) {
            if !self.pipeline.hold(one) {
                self.counters.count("drop.workers_busy");
            }
        }
        self.disconnect_refused(now);
        if now.since(self.published) >= PUBLISH_EVERY {
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
}

/// A newer document, once there is one.
async fn brought(documents: &mut watch::Receiver<Option<Arc<Document>>>) -> Option<Arc<Document>> {
    match documents.changed().await {
        Ok(()) => documents.borrow_and_update().clone(),
        // Nobody brings any more.
        Err(_) => std::future::pending().await,
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
