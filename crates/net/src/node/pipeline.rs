//! Where a node's packets are peeled, held and sent on, beside the node's task.
//!
//! Every station has a worker core of its own, with its own wheel of held packets, its own logs of tags and its own
//! counters; they share the keys with their tables, which need no lock. Packets from the link and from the node's task wait in
//! two bounded queues for whichever station is free: who sent one has no part in it. A station takes what is there, 64 at
//! most, and never waits for more; it sleeps until a packet comes or one is due.
//!
//! Under load each station is a thread: tokio's timers are coarse (1 ms), and peeling would keep its workers from the links. But to
//! wake a thread twice for every packet costs more than the packet where few come, so the first station is a task while
//! they are few, and moves to its thread and back; the others sleep then.
//!
//! What becomes due is grouped by peer and handed to the link; what is for this node goes to its task.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future as _, poll_fn};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as thread_mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use libp2p::PeerId;
use libp2p_mix::link::{self, Frame};
use mizzle_base::{Counters, NodeId, Rng, Time};
use mizzle_mix::{Config, Edges, Key, Lateness, Loop, Outcome, Worker, WorkerInput};
use mizzle_sphinx::{PACKET_LEN, Packet};
use mizzle_traffic::draw;
use rand_core::SeedableRng as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle as TaskHandle;

use crate::clock::Clock;
use crate::tags::TagLog;

/// Packets taken at once: one batch for the curve engine.
const BATCH: usize = 64;
/// Packets of the node's task that wait for a station: 19 MB.
const OWN_QUEUE: usize = 4_096;
/// Packets for the node's task: 19 MB.
const DELIVERED_QUEUE: usize = 4_096;
/// Packets leave at multiples of this: as fine as threads wake, and coarse enough that one waking serves several.
const TICK: Duration = Duration::from_micros(128);
/// How old what is told of a station's work may be.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// The first station moves to its thread when more packets than this come in a [`WINDOW`], or...
const MANY: u32 = 200;
/// ... more than this wait at once: a millisecond's work for the slowest engine.
const MANY_AT_ONCE: usize = 16;
/// It moves back when fewer than this came in each window for [`CALM_FOR`].
const FEW: u32 = 100;
/// In which packets are counted for that.
const WINDOW: Duration = Duration::from_millis(100);
/// How long it must be quiet.
const CALM_FOR: Duration = Duration::from_secs(1);
/// Tags that one station keeps while they can't be written down: 8 MB. Then it takes no more packets.
const UNWRITTEN_TAGS: usize = 1 << 20;
/// More than any machine here has use for.
pub(super) const MOST_WORKERS: usize = 64;

/// What the stations are made of.
pub(super) struct PipelineParts {
    /// With the bounds of the whole node: what is held is divided among the workers.
    pub(super) config: Config,
    /// The current one first.
    pub(super) keys: Vec<(u32, Arc<Key>)>,
    pub(super) edges: Edges,
    pub(super) workers: usize,
    /// For each key of `keys` one for each of them, or nothing at all.
    pub(super) logs: Vec<(u32, Vec<TagLog>)>,
    pub(super) receiver: link::Receiver,
    pub(super) control: link::Control,
    pub(super) next_hops: BTreeMap<NodeId, PeerId>,
    pub(super) senders: BTreeSet<PeerId>,
    pub(super) loss: f64,
}

/// The running stations. They end when told to, or when this is dropped.
pub(super) struct Pipeline {
    shared: Arc<Shared>,
    /// Of the first station while it is a task, and of its coming and going.
    task: Option<TaskHandle<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the stations have done.
#[derive(Default)]
pub(super) struct Report {
    pub(super) counters: Counters,
    pub(super) late: Lateness,
    pub(super) pool: usize,
}

/// What the node's task gives to the stations.
enum Own {
    /// To be peeled: its first hop is this node.
    Packet(Packet),
    Loop(Loop),
}

struct Shared {
    /// Held for taking what is there, and no longer.
    receiver: Mutex<link::Receiver>,
    own: Mutex<VecDeque<Own>>,
    idle: Arc<Idle>,
    delivered: Mutex<VecDeque<Outcome>>,
    /// Something was delivered, or the stations end.
    news: Notify,
    ended: AtomicBool,
    /// How often packets were to be dropped that may be isolated, and which the last time: those after this moment.
    isolations: AtomicU64,
    isolated_since_us: AtomicU64,
    reports: Vec<Mutex<Report>>,
    /// Of keys, for each station; its worker has them before it has the next packets.
    changes: Vec<Mutex<VecDeque<Change>>>,
}

/// Other keys than before.
struct Change {
    /// All, the current one first.
    keys: Vec<(u32, Arc<Key>)>,
    /// For those that are new.
    logs: Vec<(u32, TagLog)>,
}

/// The stations that sleep. One that is a task is woken first, then the thread that came last, so that the others may go
/// on sleeping.
///
/// By itself, for it is what the link's queue holds on to as its waker: that must not hold the queue in turn.
#[derive(Default)]
struct Idle(Mutex<Sleepers>);

#[derive(Default)]
struct Sleepers {
    task: Option<Waker>,
    threads: Vec<(usize, Thread)>,
}

impl Pipeline {
    /// Starts the stations. Inside a runtime.
    pub(super) fn start(parts: PipelineParts, clock: Clock, rng: &mut Rng) -> io::Result<Self> {
        let workers = parts.workers.clamp(1, MOST_WORKERS);
        let shared = Arc::new(Shared {
            receiver: Mutex::new(parts.receiver),
            own: Mutex::default(),
            idle: Arc::default(),
            delivered: Mutex::default(),
            news: Notify::new(),
            ended: AtomicBool::new(false),
            isolations: AtomicU64::new(0),
            isolated_since_us: AtomicU64::new(0),
            reports: (0..workers).map(|_| Mutex::default()).collect(),
            changes: (0..workers).map(|_| Mutex::default()).collect(),
        });
        let mut pipeline = Self {
            shared: Arc::clone(&shared),
            task: None,
            threads: Vec::new(),
        };
        let config = parts.config.divided(workers).with_tick(TICK);
        let senders = Arc::new(parts.senders);
        let keeps_tags = !parts.logs.is_empty();
        let mut logs = for_each_station(parts.logs, workers).into_iter();
        let Some((_, first)) = parts.keys.first() else {
            return Err(io::Error::other("a node without a key"));
        };
        for number in 0..workers {
            let mut fork = || Rng::from_seed(draw::bytes(rng));
            let mut worker = Worker::new(&config, Arc::clone(first), parts.edges.clone(), fork());
            if keeps_tags {
                worker.tags_are_written_down();
            }
            let change = Change {
                keys: parts.keys.clone(),
                logs: logs.next().unwrap_or_default(),
            };
            lock(&shared.changes[number]).push_back(change);
            let peers = parts
                .next_hops
                .iter()
                .map(|(id, peer)| (*id, (*peer, Vec::new())));
            let station = Station {
                number,
                shared: Arc::clone(&shared),
                worker,
                epochs: Vec::new(),
                logs: BTreeMap::new(),
                unwritten: BTreeMap::new(),
                senders: Arc::clone(&senders),
                leaving: peers.collect(),
                delivered: Vec::new(),
                control: parts.control.clone(),
                loss: parts.loss,
                rng: fork(),
                clock,
                isolations: 0,
                counters: Counters::default(),
                is_reported: true,
                reported: Time::ZERO,
                load: Load::new(clock.now()),
            };
            let thread = thread::Builder::new().name(format!("mizzle-mix-{}", number + 1));
            let thread = if number == 0 {
                let (to_thread, from_task) = thread_mpsc::sync_channel(1);
                let (to_task, from_thread) = mpsc::channel(1);
                pipeline.task = Some(tokio::spawn(station.run_first(to_thread, from_thread)));
                thread.spawn(move || run_when_busy(&from_task, &to_task))
            } else {
                thread.spawn(|| station.run_to_the_end())
            };
            pipeline.threads.push(thread?);
        }
        Ok(pipeline)
    }

    /// Hands packets over whose first hop is this node. Returns how many there was no room for.
    pub(super) fn submit(&self, packets: Vec<Packet>) -> usize {
        self.push(packets.into_iter().map(Own::Packet))
    }

    /// Has a loop leave at its time. False if there was no room.
    pub(super) fn hold(&self, one: Loop) -> bool {
        self.push([Own::Loop(one)].into_iter()) == 0
    }

    /// Has what was admitted after this moment dropped ([`WorkerInput::Isolated`]).
    pub(super) fn drop_isolated(&self, since: Time) {
        self.shared
            .isolated_since_us
            .store(since.as_us(), Ordering::Release);
        self.shared.isolations.fetch_add(1, Ordering::Release);
        // All stations: each holds some.
        self.shared.idle.wake_all();
    }

    fn push(&self, what: impl ExactSizeIterator<Item = Own>) -> usize {
        let mut own = lock(&self.shared.own);
        let (n, room) = (what.len(), OWN_QUEUE.saturating_sub(own.len()));
        own.extend(what.take(room));
        drop(own);
        if n > 0 {
            self.shared.idle.wake_one();
        }
        n.saturating_sub(room)
    }

    /// From now on packets are taken for these keys, the current one first. `logs` has those that are new, one log for each
    /// station, if tags are kept.
    pub(super) fn set_keys(&self, keys: &[(u32, Arc<Key>)], logs: Vec<(u32, Vec<TagLog>)>) {
        let logs = for_each_station(logs, self.shared.changes.len());
        for (change, logs) in self.shared.changes.iter().zip(logs) {
            let keys = keys.to_vec();
            lock(change).push_back(Change { keys, logs });
        }
        self.shared.idle.wake_all();
    }

    /// Waits for packets whose last hop is this node; none once the stations end.
    pub(super) async fn delivered(&self) -> Option<Vec<Outcome>> {
        loop {
            let delivered = self.shared.take_delivered();
            if !delivered.is_empty() {
                return Some(delivered);
            }
            if self.shared.ended.load(Ordering::Relaxed) {
                return None;
            }
            // What was told between the look and this is not lost: one is kept.
            self.shared.news.notified().await;
        }
    }

    /// What all stations have done, as of a moment ago.
    pub(super) fn report(&self) -> Report {
        let mut all = Report::default();
        for report in &self.shared.reports {
            let report = lock(report);
            all.counters.merge(&report.counters);
            all.late.merge(&report.late);
            all.pool += report.pool;
        }
        all
    }

    /// Ends the stations and waits for them, with what they have to write down.
    pub(super) async fn stop(mut self) {
        self.shared.end();
        // It may be over with the runtime already.
        if let Some(task) = self.task.take()
            && task.await.is_err_and(|why| why.is_panic())
        {
            tracing::error!("the task of the mix ended by a defect of the program");
        }
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(|| {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the mix ended by a defect of the program");
                }
            }
        });
        let _ = joined.await;
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    /// Takes what is there. Unless that is a whole batch, a station is woken when more comes.
    fn take(&self, batch: &mut Batch, cx: &mut Context<'_>) {
        // A half for each side at least, if they need it.
        self.take_own(batch, BATCH / 2);
        let mut receiver = lock(&self.receiver);
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            match receiver.poll_recv_many(&mut batch.events, room, cx) {
                Poll::Ready(0) => {
                    self.end();
                    break;
                }
                Poll::Ready(_) => {}
                Poll::Pending => break,
            }
        }
        drop(receiver);
        self.take_own(batch, BATCH);
    }

    fn take_own(&self, batch: &mut Batch, upto: usize) {
        let mut own = lock(&self.own);
        while batch.len() < upto {
            match own.pop_front() {
                Some(Own::Packet(packet)) => batch.packets.push(packet),
                Some(Own::Loop(one)) => batch.loops.push(one),
                None => break,
            }
        }
    }

    fn take_delivered(&self) -> Vec<Outcome> {
        let mut queue = lock(&self.delivered);
        let n = queue.len().min(BATCH);
        queue.drain(..n).collect()
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.news.notify_one();
        self.idle.wake_all();
    }

    fn next_change(&self, station: usize) -> Option<Change> {
        lock(&self.changes[station]).pop_front()
    }

    fn has_changes(&self, station: usize) -> bool {
        !lock(&self.changes[station]).is_empty()
    }
}

impl Idle {
    fn wake_one(&self) {
        let mut sleepers = lock(&self.0);
        if let Some(task) = sleepers.task.take() {
            drop(sleepers);
            task.wake();
        } else if let Some((_, thread)) = sleepers.threads.pop() {
            thread.unpark();
        }
    }

    /// Whoever is woken looks once more for what there is before it sleeps again, so none is missed by those who wake one.
    fn wake_all(&self) {
        let Sleepers { task, threads } = std::mem::take(&mut *lock(&self.0));
        threads.iter().for_each(|(_, thread)| thread.unpark());
        task.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Idle {
    fn wake(self: Arc<Self>) {
        self.wake_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_one();
    }
}

/// What a station took.
#[derive(Default)]
struct Batch {
    events: Vec<link::Event>,
    packets: Vec<Packet>,
    loops: Vec<Loop>,
}

impl Batch {
    fn len(&self) -> usize {
        self.events.len() + self.packets.len() + self.loops.len()
    }
}

/// How many packets came of late.
struct Load {
    since: Time,
    came: u32,
    /// Few came in every window from here on.
    calm_since: Time,
}

impl Load {
    fn new(now: Time) -> Self {
        Self {
            since: now,
            came: 0,
            calm_since: now,
        }
    }

    fn add(&mut self, now: Time, came: usize) {
        // A window without any is not counted apart: few came in it.
        let windows = now.since(self.since).as_micros() / WINDOW.as_micros();
        if windows > 0 {
            if u128::from(self.came) > u128::from(FEW) * windows {
                self.calm_since = now;
            }
            (self.since, self.came) = (now, 0);
        }
        self.came = self.came.saturating_add(u32::try_from(came).unwrap_or(u32::MAX));
        if self.came > FEW {
            self.calm_since = now;
        }
    }

    fn is_high(&self) -> bool {
        self.came > MANY
    }

    fn is_low(&self, now: Time) -> bool {
        now.since(self.calm_since) >= CALM_FOR
    }
}

/// A worker with what it needs.
struct Station {
    number: usize,
    shared: Arc<Shared>,
    worker: Worker<Edges>,
    /// Of its keys, the current one first.
    epochs: Vec<u32>,
    /// Of each of them.
    logs: BTreeMap<u32, TagLog>,
    /// Tags that couldn't be written down; nothing passes on before they are.
    unwritten: BTreeMap<u32, Vec<u64>>,
    senders: Arc<BTreeSet<PeerId>>,
    /// What leaves now, by where to.
    leaving: BTreeMap<NodeId, (PeerId, Vec<Frame>)>,
    delivered: Vec<Outcome>,
    control: link::Control,
    loss: f64,
    rng: Rng,
    clock: Clock,
    /// Of [`Shared::isolations`], those that were seen to.
    isolations: u64,
    counters: Counters,
    is_reported: bool,
    reported: Time,
    load: Load,
}

/// The first station's thread: waits for it, runs it while much comes, and gives it back.
fn run_when_busy(from_task: &thread_mpsc::Receiver<Station>, to_task: &mpsc::Sender<Station>) {
    while let Ok(mut station) = from_task.recv() {
        station.run(|station| station.load.is_low(station.clock.now()));
        // Its owner is gone only together with the runtime: then it ends here.
        if let Err(mpsc::error::SendError(station)) = to_task.blocking_send(station) {
            return station.close();
        }
    }
}

impl Station {
    /// The first one: as a task, and while much comes in the thread behind the channels.
    async fn run_first(
        self,
        to_thread: thread_mpsc::SyncSender<Self>,
        mut from_thread: mpsc::Receiver<Self>,
    ) {
        let mut station = self;
        loop {
            station.run_calm().await;
            if station.shared.ended.load(Ordering::Relaxed) {
                break;
            }
            station.counters.count("load.rose");
            // There is room: the thread has none of them.
            if to_thread.send(station).is_err() {
                return;
            }
            match from_thread.recv().await {
                Some(back) => station = back,
                None => return,
            }
            station.counters.count("load.fell");
        }
        // It waits for the disk.
        let _ = tokio::task::spawn_blocking(|| station.close()).await;
    }

    /// Until much comes, or the end.
    async fn run_calm(&mut self) {
        let waker = Waker::from(Arc::clone(&self.shared.idle));
        let (shared, clock) = (Arc::clone(&self.shared), self.clock);
        let mut batch = Batch::default();
        while !shared.ended.load(Ordering::Relaxed) {
            let mut sleep = std::pin::pin!(clock.sleep_until(self.wake_at()));
            let isolations = self.isolations;
            poll_fn(|cx| {
                // First, so that whoever has something new from now on finds this one asleep.
                lock(&shared.idle.0).task = Some(cx.waker().clone());
                shared.take(&mut batch, &mut Context::from_waker(&waker));
                let is_told = isolations != shared.isolations.load(Ordering::Acquire);
                let is_told = is_told || shared.has_changes(self.number);
                if batch.len() > 0 || is_told || shared.ended.load(Ordering::Relaxed) {
                    return Poll::Ready(());
                }
                sleep.as_mut().poll(cx)
            })
            .await;
            lock(&shared.idle.0).task = None;
            let waited = batch.len();
            self.work(&mut batch);
            if waited > MANY_AT_ONCE || self.load.is_high() {
                // Not back at once after a short crowd.
                self.load.calm_since = clock.now();
                break;
            }
        }
    }

    /// As a thread, until the end.
    fn run_to_the_end(mut self) {
        self.run(|_| false);
        self.close();
    }

    /// As a thread, until the end or `until` is so.
    fn run(&mut self, until: impl Fn(&Self) -> bool) {
        let waker = Waker::from(Arc::clone(&self.shared.idle));
        let cx = &mut Context::from_waker(&waker);
        let shared = Arc::clone(&self.shared);
        let mut batch = Batch::default();
        while !shared.ended.load(Ordering::Relaxed) && !until(self) {
            shared.take(&mut batch, cx);
            let is_due = |at: Time| at <= self.clock.now();
            if batch.len() == 0 && !self.worker.deadline().is_some_and(is_due) {
                lock(&shared.idle.0)
                    .threads
                    .push((self.number, thread::current()));
                // Once more, now that whoever has something new finds this thread among those that sleep.
                shared.take(&mut batch, cx);
                if batch.len() == 0
                    && !shared.ended.load(Ordering::Relaxed)
                    && !shared.has_changes(self.number)
                {
                    self.sleep();
                }
                lock(&shared.idle.0)
                    .threads
                    .retain(|(number, _)| *number != self.number);
            }
            if batch.len() >= BATCH {
                // There may be more, and this thread will be busy for a while.
                shared.idle.wake_one();
            }
            self.work(&mut batch);
        }
    }

    fn close(mut self) {
        // Logs that were never used are closed too.
        self.change_keys();
        self.report(self.clock.now());
        // The packets of tags that couldn't be written went nowhere.
        for log in std::mem::take(&mut self.logs).into_values() {
            if let Err(why) = log.close() {
                tracing::error!("{why}; after the machine's next start the node will need a new key");
            }
        }
    }

    /// What was accepted under the keys of before was written down, as far as they are among those of now.
    fn change_keys(&mut self) {
        while let Some(Change { keys, logs }) = self.shared.next_change(self.number) {
            self.epochs = keys.iter().map(|(epoch, _)| *epoch).collect();
            self.logs.extend(logs);
            self.logs.retain(|epoch, _| self.epochs.contains(epoch));
            self.unwritten.retain(|epoch, _| self.epochs.contains(epoch));
            let keys: Vec<_> = keys.into_iter().map(|(_, key)| key).collect();
            self.worker.set_keys(&keys);
        }
    }

    /// When something is due here if nothing comes.
    fn wake_at(&self) -> Option<Time> {
        let report = (!self.is_reported).then(|| self.reported + REPORT_EVERY);
        self.worker.deadline().into_iter().chain(report).min()
    }

    /// Until something is due or comes.
    fn sleep(&mut self) {
        let now = self.clock.now();
        if !self.is_reported && now.since(self.reported) >= REPORT_EVERY {
            self.report(now);
        }
        match self.wake_at() {
            Some(until) => thread::park_timeout(until.since(now)),
            None => thread::park(),
        }
    }

    fn work(&mut self, batch: &mut Batch) {
        self.change_keys();
        let now = self.clock.now();
        let (some_came, held) = (batch.len() > 0, self.worker.pool());
        self.load.add(now, batch.len());
        let isolations = self.shared.isolations.load(Ordering::Acquire);
        if isolations != self.isolations {
            self.isolations = isolations;
            let since = Time::from_us(self.shared.isolated_since_us.load(Ordering::Acquire));
            self.worker.handle(now, WorkerInput::Isolated { since });
        }
        self.check_senders(batch);
        for Loop { at, to, packet } in batch.loops.drain(..) {
            self.worker.handle(now, WorkerInput::Hold { at, to, packet });
        }
        if self.unwritten.values().any(|tags| tags.len() >= UNWRITTEN_TAGS) {
            // What is accepted now might still be held when tags can be written again, without its own.
            let n = batch.packets.drain(..).len() as u64;
            self.counters.add("drop.tag_not_written", n);
        }
        if !batch.packets.is_empty() {
            self.worker.handle(now, WorkerInput::Packets(&mut batch.packets));
        }
        // Peeling took time, in which others may have become due.
        let now = self.clock.now();
        self.worker.handle(now, WorkerInput::Tick);
        self.write_down();
        self.carry_out();
        self.is_reported &= !some_came && self.worker.pool() == held;
        if !self.is_reported && now.since(self.reported) >= REPORT_EVERY {
            self.report(now);
        }
    }

    /// Who may send here: those from whom an edge leads to this node. The connection has authenticated them.
    fn check_senders(&mut self, batch: &mut Batch) {
        for event in batch.events.drain(..) {
            let link::Event::Frame { peer, frame, .. } = event else {
                continue;
            };
            match <Box<[u8; PACKET_LEN]>>::try_from(frame) {
                Ok(bytes) if self.senders.contains(&peer) => batch.packets.push(Packet::from_boxed(bytes)),
                Ok(_) => self.counters.count("drop.sender_without_edge"),
                Err(_) => self.counters.count("drop.wrong_length"),
            }
        }
    }

    /// Writes tags down, with those for which it failed before.
    fn write_down(&mut self) {
        let accepted = [self.worker.accepted(), self.worker.accepted_beside()];
        for (epoch, tags) in self.epochs.iter().zip(accepted) {
            let Some(log) = self.logs.get_mut(epoch) else {
                continue;
            };
            let unwritten = self.unwritten.entry(*epoch).or_default();
            if tags.is_empty() && unwritten.is_empty() {
                continue;
            }
            let failed_before = !unwritten.is_empty();
            let written = if failed_before {
                unwritten.extend(tags);
                log.append(unwritten)
            } else {
                log.append(tags)
            };
            match written {
                Ok(()) => unwritten.clear(),
                Err(why) => {
                    if !failed_before {
                        tracing::error!("{why}; packets are dropped until it can be written again");
                        unwritten.extend(tags);
                    }
                }
            }
        }
        self.worker.clear_accepted();
    }

    fn carry_out(&mut self) {
        let all_written = self.unwritten.values().all(Vec::is_empty);
        while let Some(outcome) = self.worker.poll() {
            // A later run could not know that these were accepted.
            if !all_written {
                self.counters.count("drop.tag_not_written");
                continue;
            }
            match outcome {
                Outcome::Forward { .. } if self.loss > 0.0 && draw::unit(&mut self.rng) <= self.loss => {
                    self.counters.count("lost_on_purpose");
                }
                Outcome::Forward { to, packet } => match self.leaving.get_mut(&to) {
                    Some((_, frames)) => frames.push(packet.into_boxed()),
                    None => self.counters.count("drop.no_peer"),
                },
                delivered => self.delivered.push(delivered),
            }
        }
        for (peer, frames) in self.leaving.values_mut() {
            let Err(why) = self.control.try_send_many(peer, frames) else {
                continue;
            };
            let what = match why {
                link::SendError::Full => "drop.link_full",
                _ => "drop.link_down",
            };
            self.counters.add(what, frames.drain(..).len() as u64);
        }
        if !self.delivered.is_empty() {
            let mut queue = lock(&self.shared.delivered);
            let room = DELIVERED_QUEUE.saturating_sub(queue.len());
            let too_many = self.delivered.len().saturating_sub(room);
            queue.extend(self.delivered.drain(..).take(room));
            drop(queue);
            self.shared.news.notify_one();
            if too_many > 0 {
                self.counters.add("drop.node_busy", too_many as u64);
            }
        }
    }

    fn report(&mut self, now: Time) {
        let mut report = lock(&self.shared.reports[self.number]);
        report.counters.merge(&std::mem::take(&mut self.counters));
        report.counters.merge(&self.worker.take_counters());
        report.late.merge(&self.worker.take_lateness());
        report.pool = self.worker.pool();
        (self.is_reported, self.reported) = (true, now);
    }
}

/// The logs of each key are one for each station: those of each station.
fn for_each_station(logs: Vec<(u32, Vec<TagLog>)>, stations: usize) -> Vec<Vec<(u32, TagLog)>> {
    let mut all: Vec<Vec<_>> = (0..stations).map(|_| Vec::new()).collect();
    for (epoch, logs) in logs {
        for (of_station, log) in all.iter_mut().zip(logs) {
            of_station.push((epoch, log));
        }
    }
    all
}

/// A panic elsewhere leaves these plain containers usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
