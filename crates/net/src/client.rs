//! The client's task: its core between the gateway link and the programs' streams.
//!
//! [`Running::opener`] is what doors (SOCKS and others) get, [`Running::postman`] and [`Running::take_mail`] what the
//! keeper of letters gets. Nothing here touches a network but the link to the own gateway: names are passed on as they
//! are.

mod streams;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libp2p::PeerId;
use libp2p_mix::link;
use mizzle_base::document::{Document, Role};
use mizzle_base::frame::Refusal;
use mizzle_base::{Counters, Item, MailboxId, NodeId, Time};
use mizzle_client::{Action, Client, Input, MAIL_WINDOW, StreamKey};
use mizzle_stream::{OpenError, OpenRequest, Opener};
use mizzle_traffic::estimate::Estimate;
use mizzle_traffic::{draw, weights};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout;

use self::streams::{Course, Stream};
use crate::clock::Clock;
use crate::host::Link;
use crate::node::{Documents, peer_of};
use crate::stream::{Changed, MixStream};

/// A gateway that doesn't admit within this is said to be unreachable.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests to open a stream that wait for the client's task.
const OPEN_QUEUE: usize = 1_024;
const BATCH: usize = 64;
/// Loops that somebody who listens may be behind by before he misses some.
const LOOP_QUEUE: usize = 256;
/// Loops whose round trips are remembered, and streams that are told of one by one: the oldest.
const ROUND_TRIPS: usize = 200;
const STREAMS_TOLD: usize = 100;

pub use mizzle_client::{Admission, Why};

pub use self::told::{LoopEnd, Moved, Observer, Snapshot, StreamSnapshot};

/// Why a client doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The gateway's entry in the document has no usable peer id.
    #[error("the network document gives no usable peer id for the gateway")]
    NoPeer,
    /// It can't be reached.
    #[error("the gateway can't be reached: {0}")]
    Unreachable(String),
    /// It is reached but doesn't answer.
    #[error("the gateway didn't answer within {} s", ADMISSION_TIMEOUT.as_secs())]
    NoAnswer,
    /// It says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The client's task ended.
    #[error("the client stopped")]
    Stopped,
}

/// A piece of a letter that arrived. It is acknowledged, and then deleted at the gateway, once [`MailKeeper::kept`]
/// says that it is on disk.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Of the mailbox with this [`Admission::generation`].
    pub generation: u64,
    /// Its number in the mailbox.
    pub number: u64,
    /// The piece.
    pub item: Item,
}

enum Wanted {
    Stream(OpenRequest),
    Mailbox(NodeId, MailboxId),
}

struct OpenCommand {
    wanted: Wanted,
    answer: oneshot::Sender<Result<MixStream, OpenError>>,
}

/// Opens streams through a running client.
#[derive(Clone)]
pub struct ClientOpener(mpsc::Sender<OpenCommand>);

/// Opens streams to mailboxes through a running client, to leave letters there.
#[derive(Clone)]
pub struct Postman(ClientOpener);

impl Postman {
    /// A stream to the mail service of this gateway, in a session of its own; what is said on it is
    /// [`mizzle_base::upload`]'s.
    ///
    /// # Errors
    /// Why there is none: [`OpenError::NoMailbox`] when the gateway keeps no such mailbox.
    pub async fn open(&self, gateway: NodeId, mailbox: MailboxId) -> Result<MixStream, OpenError> {
        self.0.ask(Wanted::Mailbox(gateway, mailbox)).await
    }
}

/// Says what is on disk of the mail that [`Running::take_mail`] gave.
#[derive(Clone)]
pub struct MailKeeper(Arc<watch::Sender<(u64, u64)>>);

impl MailKeeper {
    /// All mail of the mailbox of this generation with numbers below `next` is on disk.
    pub fn kept(&self, generation: u64, next: u64) {
        self.0.send_replace((generation, next));
    }
}

impl Opener for ClientOpener {
    type Stream = MixStream;

    async fn open(&self, request: OpenRequest) -> Result<MixStream, OpenError> {
        self.ask(Wanted::Stream(request)).await
    }
}

impl ClientOpener {
    async fn ask(&self, wanted: Wanted) -> Result<MixStream, OpenError> {
        let (answer, opened) = oneshot::channel();
        // Full means a thousand programs at once: told so at once, not left to wait.
        self.0
            .try_send(OpenCommand { wanted, answer })
            .map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => OpenError::Limit,
                mpsc::error::TrySendError::Closed(_) => OpenError::Closed,
            })?;
        opened.await.unwrap_or(Err(OpenError::Closed))
    }
}

/// A running client. Stops when dropped.
pub struct Running {
    opener: ClientOpener,
    task: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
    state: watch::Receiver<State>,
    admission: watch::Receiver<Option<Admission>>,
    mail: Option<mpsc::Receiver<Incoming>>,
    keeper: MailKeeper,
    documents: watch::Sender<Option<Arc<Document>>>,
    mover: Mover,
    observer: Observer,
}

/// What a client is given to move to another gateway.
pub struct Home {
    /// A client of it, that has seen no other gateway.
    pub core: Client,
    /// It.
    pub gateway: NodeId,
    /// The links to it and to its directory, of a host whose identity no other gateway has seen.
    pub link: Link,
    /// See there.
    pub directory: Option<Link>,
    /// Why it moves.
    pub why: Why,
}

/// Moves a running client to another gateway.
#[derive(Clone)]
pub struct Mover {
    homes: mpsc::Sender<Home>,
    wish: watch::Receiver<Option<Why>>,
    state: watch::Receiver<State>,
}

impl Mover {
    /// Waits until the client's gateway is one to leave ([`Client::wants_another`]); `None` once the client has stopped.
    pub async fn wanted(&mut self) -> Option<Why> {
        *self.wish.wait_for(Option::is_some).await.ok()?
    }

    /// Whether it is still.
    #[must_use]
    pub fn wants(&self) -> Option<Why> {
        *self.wish.borrow()
    }

    /// Moves, and waits until the new gateway admits the client. Streams that are open break. If it doesn't admit it the
    /// client is with it all the same: move on, or back.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn move_to(&mut self, home: Home) -> Result<(), StartError> {
        self.state.mark_unchanged();
        self.homes.send(home).await.map_err(|_| StartError::Stopped)?;
        // The first change is that it begins with the new one.
        let begun = timeout(ADMISSION_TIMEOUT, self.state.changed()).await;
        if !matches!(begun, Ok(Ok(()))) {
            return Err(StartError::Stopped);
        }
        decided(&mut self.state).await
    }
}

/// Waits until a gateway has said yes or no.
async fn decided(state: &mut watch::Receiver<State>) -> Result<(), StartError> {
    let decided = timeout(ADMISSION_TIMEOUT, state.wait_for(|s| *s != State::Starting)).await;
    let state = match decided {
        Err(_) => return Err(StartError::NoAnswer),
        Ok(Err(_)) => return Err(StartError::Stopped),
        Ok(Ok(state)) => state.clone(),
    };
    match state {
        State::Up => Ok(()),
        State::Refused(why) => Err(why.into()),
        State::Unreachable(why) => Err(StartError::Unreachable(why)),
        State::Starting => Err(StartError::NoAnswer),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Up,
    Refused(Refusal),
    Unreachable(String),
}

impl Running {
    /// What doors get.
    #[must_use]
    pub fn opener(&self) -> ClientOpener {
        self.opener.clone()
    }

    /// What those who send letters get.
    #[must_use]
    pub fn postman(&self) -> Postman {
        Postman(self.opener())
    }

    /// The mail that arrives, for whoever keeps it: once. Until somebody takes it, and says what he has kept, the
    /// gateway keeps it all.
    pub fn take_mail(&mut self) -> Option<(mpsc::Receiver<Incoming>, MailKeeper)> {
        Some((self.mail.take()?, self.keeper.clone()))
    }

    /// What the gateway said when it admitted the client last.
    #[must_use]
    pub fn admission(&self) -> watch::Receiver<Option<Admission>> {
        self.admission.clone()
    }

    /// What those get who look for newer network documents.
    #[must_use]
    pub fn documents(&self) -> Documents {
        Documents::of_client(self.documents.clone())
    }

    /// What those get who move it to another gateway.
    #[must_use]
    pub fn mover(&self) -> Mover {
        self.mover.clone()
    }

    /// What those get who only look.
    #[must_use]
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// Waits until another client with the same identity has taken this one's place, or the client stopped.
    pub async fn replaced(&self) {
        let mut state = self.state.clone();
        let _ = state
            .wait_for(|state| *state == State::Refused(Refusal::Replaced))
            .await;
    }

    /// What it has done, as of within the last second or so.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.observer.snapshot()
    }

    /// Waits until the gateway admitted the client.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn admitted(&mut self) -> Result<(), StartError> {
        decided(&mut self.state).await
    }

    /// Stops it and waits until it has. Streams still open break.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

/// A gateway that may serve as one's own: any from which another one's exit can be used. A uniform choice.
#[must_use]
pub fn choose_gateway(document: &Document, rng: &mut mizzle_base::Rng) -> Option<NodeId> {
    let has_exit_elsewhere = |own: &NodeId| document.gateways().any(|g| g.id != *own && g.exit.is_some());
    let gateways: Vec<NodeId> = document
        .gateways()
        .map(|g| g.id)
        .filter(has_exit_elsewhere)
        .collect();
    gateways.get(draw::below(rng, gateways.len())).copied()
}

/// [`run_with_reports`] without hearing what nodes publish of their loops.
///
/// # Errors
/// [`StartError::NoPeer`].
pub fn run(
    core: Client,
    document: &Document,
    gateway: &NodeId,
    link: Link,
    loss: f64,
    clock: Clock,
    rng: mizzle_base::Rng,
) -> Result<Running, StartError> {
    run_with_reports(core, document, gateway, (link, None), loss, clock, rng)
}

/// Starts a client's task, with the links to its gateway and to that one's directory. `loss` is the share of packets that its uplink loses on purpose, for trying and testing.
///
/// # Errors
/// [`StartError::NoPeer`].
pub fn run_with_reports(
    core: Client,
    document: &Document,
    gateway: &NodeId,
    (link, directory): (Link, Option<Link>),
    loss: f64,
    clock: Clock,
    rng: mizzle_base::Rng,
) -> Result<Running, StartError> {
    let peer = connect(document, gateway, &link, directory.as_ref()).ok_or(StartError::NoPeer)?;
    let (commands, command_queue) = mpsc::channel(OPEN_QUEUE);
    let (stop, stopped) = watch::channel(false);
    let (state, state_seen) = watch::channel(State::Starting);
    let (admission, admission_seen) = watch::channel(None);
    // Room for all that the core hands on before it hears what is kept, and for as much of the gateway that was left.
    let (mail, mail_queue) = mpsc::channel(2 * MAIL_WINDOW as usize);
    let (keeper, kept) = watch::channel((0, 0));
    let (documents, brought) = watch::channel(None);
    let (loops, _) = broadcast::channel(LOOP_QUEUE);
    let weak_loops = loops.downgrade();
    let (homes, next_home) = mpsc::channel(1);
    let (wish, wish_seen) = watch::channel(None);
    let mover = Mover {
        homes,
        wish: wish_seen,
        state: state_seen.clone(),
    };
    let snapshot = Arc::new(Mutex::new(Snapshot::default()));
    let task = Task {
        core,
        gateway: peer,
        own: *gateway,
        wish,
        moves: 0,
        moved: None,
        before: Counters::default(),
        link,
        directory,
        asked: clock.now(),
        waits_for_reports: false,
        streams: BTreeMap::new(),
        courses: BTreeMap::new(),
        round_trips: VecDeque::new(),
        changed: Arc::default(),
        state,
        admission,
        mail,
        loops,
        loss,
        clock,
        rng,
        snapshot: Arc::clone(&snapshot),
        published: Time::ZERO,
        estimates: BTreeMap::new(),
        not_sent: 0,
    };
    let task = tokio::spawn(task.run(command_queue, next_home, kept, brought, stopped));
    Ok(Running {
        opener: ClientOpener(commands),
        task,
        stop,
        state: state_seen,
        admission: admission_seen,
        mail: Some(mail_queue),
        keeper: MailKeeper(Arc::new(keeper)),
        documents,
        mover,
        observer: Observer {
            loops: weak_loops,
            snapshot,
        },
    })
}

/// Begins to connect to a gateway of the document; its peer id, if it has one.
fn connect(document: &Document, gateway: &NodeId, link: &Link, directory: Option<&Link>) -> Option<PeerId> {
    let listed = document.node(gateway).filter(|n| n.role == Role::Gateway)?;
    let peer = peer_of(listed)?;
    let addresses: Vec<_> = listed.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    if let Some(directory) = directory {
        directory.control.add_peer(peer, addresses.clone());
    }
    link.control.add_peer(peer, addresses);
    link.control.connect(peer);
    Some(peer)
}

struct Task {
    core: Client,
    gateway: PeerId,
    own: NodeId,
    /// Whether it is one to leave.
    wish: watch::Sender<Option<Why>>,
    moves: u64,
    moved: Option<Moved>,
    /// What was counted with gateways that it left.
    before: Counters,
    link: Link,
    /// Where it asks what nodes publish, and when it did.
    directory: Option<Link>,
    asked: Time,
    /// One answer for each question: checking it takes time.
    waits_for_reports: bool,
    streams: BTreeMap<StreamKey, Stream>,
    /// Of those in `streams`; others are forgotten now and then.
    courses: BTreeMap<StreamKey, Course>,
    round_trips: VecDeque<Duration>,
    changed: Arc<Changed>,
    state: watch::Sender<State>,
    admission: watch::Sender<Option<Admission>>,
    mail: mpsc::Sender<Incoming>,
    loops: broadcast::Sender<LoopEnd>,
    loss: f64,
    clock: Clock,
    rng: mizzle_base::Rng,
    snapshot: Arc<Mutex<Snapshot>>,
    published: Time,
    estimates: BTreeMap<NodeId, Estimate>,
    not_sent: u64,
}

async fn receive(link: &mut Option<Link>, out: &mut Vec<link::Event>) -> usize {
    match link {
        Some(link) => link.receiver.recv_many(out, BATCH).await,
        None => std::future::pending().await,
    }
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<OpenCommand>,
        mut homes: mpsc::Receiver<Home>,
        mut kept: watch::Receiver<(u64, u64)>,
        mut brought: watch::Receiver<Option<Arc<Document>>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let (mut events, mut answers) = (Vec::with_capacity(BATCH), Vec::new());
        let changed = Arc::clone(&self.changed);
        let mut armed = self.core.deadline();
        // One timer for all turns, and the core's time passes when it fires, never because a program or the gateway woke
        // this task: else what a user does would show in when packets leave, by fractions of the timer's millisecond.
        let timer = tokio::time::sleep_until(self.instant(armed));
        tokio::pin!(timer);
        loop {
            tokio::select! {
                biased;
                _ = stopped.changed() => break,
                () = &mut timer => {
                    self.core.handle(self.clock.now(), Input::Tick);
                    self.act();
                    armed = self.core.deadline();
                    timer.as_mut().reset(self.instant(armed));
                }
                n = self.link.receiver.recv_many(&mut events, BATCH) => {
                    if n == 0 {
                        break;
                    }
                    self.take_frames(&mut events);
                }
                n = receive(&mut self.directory, &mut answers) => {
                    if n == 0 {
                        self.directory = None;
                    }
                    for event in answers.drain(..) {
                        if let link::Event::Frame { peer, frame, .. } = event
                            && peer == self.gateway
                            && std::mem::take(&mut self.waits_for_reports)
                        {
                            self.core.handle(self.clock.now(), Input::Reports(frame.into_vec()));
                        }
                    }
                }
                Some(home) = homes.recv() => {
                    self.move_to(home);
                    armed = self.core.deadline();
                    timer.as_mut().reset(self.instant(armed));
                }
                Some(command) = commands.recv() => self.open(command),
                Ok(()) = kept.changed() => {
                    let (generation, next) = *kept.borrow_and_update();
                    self.core.handle(self.clock.now(), Input::MailKept { generation, next });
                }
                Ok(()) = brought.changed() => {
                    if let Some(document) = brought.borrow_and_update().clone() {
                        self.core.handle(self.clock.now(), Input::Document(document));
                    }
                }
                () = changed.wait() => {}
            }
            for key in self.changed.take() {
                self.pump(key);
            }
            self.act();
            self.publish();
            if self.core.deadline() != armed {
                armed = self.core.deadline();
                timer.as_mut().reset(self.instant(armed));
            }
        }
        // Programs are told; the gateway sees the connection close with the host.
        self.break_streams();
    }

    /// From here on it is a client of another gateway, as one that has just begun: nothing that the old one saw goes on.
    fn move_to(&mut self, home: Home) {
        let Home {
            core,
            gateway,
            link,
            directory,
            why,
        } = home;
        let Some(peer) = connect(core.document(), &gateway, &link, directory.as_ref()) else {
            self.state.send_replace(State::Unreachable(
                "the network document gives it no usable peer id".into(),
            ));
            return;
        };
        let broken = self.streams.len();
        self.break_streams();
        self.before.merge(&self.core.counters());
        // What the old core still wanted is left undone.
        self.core = core;
        self.link = link;
        self.directory = directory;
        self.gateway = peer;
        self.waits_for_reports = false;
        self.round_trips.clear();
        self.estimates.clear();
        self.moves += 1;
        self.moved = Some(Moved {
            at: self.clock.now(),
            from: self.own,
            why,
        });
        self.own = gateway;
        // Its time begins, so that it wants another one if this one never answers.
        self.core.handle(self.clock.now(), Input::Tick);
        self.state.send_replace(State::Starting);
        self.wish.send_replace(None);
        tracing::warn!(
            streams = broken,
            "this client moves to another gateway: open streams break, programs must connect again"
        );
    }

    fn instant(&self, deadline: Option<Time>) -> tokio::time::Instant {
        self.clock.instant(deadline.unwrap_or(Time::FAR_FUTURE))
    }

    fn take_frames(&mut self, events: &mut Vec<link::Event>) {
        for event in events.drain(..) {
            let now = self.clock.now();
            match event {
                link::Event::Frame { peer, frame, .. } if peer == self.gateway => {
                    self.core.handle(now, Input::Frame(frame));
                }
                link::Event::Connected { peer } if peer == self.gateway => {
                    self.core.handle(now, Input::LinkUp)
                }
                link::Event::Disconnected { peer } if peer == self.gateway => {
                    self.core.handle(now, Input::LinkDown);
                }
                link::Event::Unreachable { peer, reason } if peer == self.gateway => {
                    self.state.send_if_modified(|state| {
                        let first = *state == State::Starting;
                        if first {
                            *state = State::Unreachable(reason);
                        }
                        first
                    });
                }
                _ => {}
            }
            self.act();
        }
    }

    /// Carries out what the core wants, until it wants nothing more.
    fn act(&mut self) {
        while let Some(action) = self.core.poll() {
            match action {
                Action::Send(frame) => {
                    let lost = self.loss > 0.0 && self.core.is_up() && draw::unit(&mut self.rng) <= self.loss;
                    // A full link is a link that stands: what can't leave at its time doesn't leave.
                    if !lost && self.link.control.try_send(&self.gateway, frame).is_err() {
                        self.not_sent += 1;
                    }
                }
                Action::Reconnect => {
                    self.link.control.disconnect(self.gateway);
                    self.link.control.connect(self.gateway);
                }
                Action::Admitted(admission) => {
                    self.state.send_replace(State::Up);
                    self.admission.send_replace(Some(admission));
                }
                Action::Refused(why) => {
                    self.state.send_replace(State::Refused(why));
                    if why == Refusal::Replaced {
                        // To come back would only take the place from the other one again.
                        self.link.control.disconnect(self.gateway);
                    }
                }
                // There is room for as many as the core hands on; where nobody keeps mail the gateway does.
                Action::Mail { number, item } => {
                    let generation = self.admission.borrow().map_or(0, |admitted| admitted.generation);
                    let incoming = Incoming {
                        generation,
                        number,
                        item,
                    };
                    drop(self.mail.try_send(incoming));
                }
                Action::Loop(round_trip) => {
                    if self.round_trips.len() == ROUND_TRIPS {
                        self.round_trips.pop_front();
                    }
                    self.round_trips.extend(round_trip);
                    // Nobody may be listening.
                    drop(self.loops.send(LoopEnd { round_trip }));
                }
                Action::GatewayBlamed => {
                    tracing::warn!(
                        "this gateway loses packets, or most of what lies behind it does: its routes are left as they are. \
                         If it is found so again within five minutes this client moves to another one, where it may"
                    );
                }
                Action::Stream(key, event) => self.stream_event(key, event),
            }
        }
    }

    /// What is done now and then.
    fn publish(&mut self) {
        let now = self.clock.now();
        if now.since(self.published).as_millis() < 250 {
            return;
        }
        self.published = now;
        // At fixed intervals, whatever the user does.
        if now.since(self.asked) >= weights::ask_every(self.core.document().nodes().len())
            && self.core.is_up()
        {
            self.asked = now;
            self.estimates = self.core.estimates(now);
            if let Some(directory) = &self.directory {
                // One that can't be asked now is asked the next time.
                drop(
                    directory
                        .control
                        .try_send(&self.gateway, crate::directory::ask_reports()),
                );
                self.waits_for_reports = true;
            }
        }
        self.forget_given_up();
        // While an inbox is full that much waits for it that what the next gateway brings might find no room, it stays.
        let has_room = self.mail.capacity() >= MAIL_WINDOW as usize;
        let wish = self.core.wants_another().filter(|_| has_room);
        self.wish
            .send_if_modified(|before| std::mem::replace(before, wish) != wish);
        let mut counters = self.core.counters();
        counters.merge(&self.before);
        counters.add("slot.not_sent", self.not_sent);
        self.courses.retain(|key, _| self.streams.contains_key(key));
        let told = |(key, course): (&StreamKey, &Course)| StreamSnapshot {
            open: matches!(self.streams.get(key), Some(Stream::Open { .. })),
            age: now.since(course.since),
            sent: course.sent,
            received: course.received,
        };
        let snapshot = Snapshot {
            counters,
            loops: self.core.loops(),
            loops_by_node: self.core.loops_by_node().clone(),
            estimates: self.estimates.clone(),
            avoided: self.core.avoided().iter().copied().collect(),
            gateway_blamed: self.core.avoided().blamed(),
            gateway: Some(self.own),
            moves: self.moves,
            moved: self.moved,
            up: self.core.is_up(),
            streams: self.streams.len(),
            oldest: self.courses.iter().take(STREAMS_TOLD).map(told).collect(),
            round_trips: self.round_trips.clone(),
            users: self.core.users(),
            outlook: Some(self.core.outlook()),
            document: Some(Arc::clone(self.core.document())),
            may_send: self.core.may_send(),
        };
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}
