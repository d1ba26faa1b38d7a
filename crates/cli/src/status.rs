//! `mizzle status`: how a running client or node is, and how well the network hides its users.
//!
//! A client and a node each keep a [`ClientWatch`] or [`NodeWatch`] and tell through their control sockets what it sees, as a
//! [`Status`]; the command asks and puts it into words. What there is to know of anonymity follows from the document and from
//! what each can see of the network by itself: a node its pool, a gateway the messages that come to it, a client what its
//! gateway says. Nothing here names a target, an address or another user, or tells when one user did something.

mod text;
mod trouble;

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use mizzle_base::document::Role;
use mizzle_base::item::ITEM_LEN;
use mizzle_base::{Counters, Document, NodeId, Time};
use mizzle_net::clock::Clock;
use mizzle_net::mail::{Mail, Stage};
use mizzle_net::{client, node};
use mizzle_traffic::anonymity::{self, Shape, Traffic};
use mizzle_traffic::estimate::Estimate;
use mizzle_traffic::ledger::Tally;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::assemble::role_name;
use crate::config::{Config, paths};
use crate::control::{self, Command, ConnectError, Event};
use crate::mail::{Failure, say};

/// The share of mixes that are taken to work together, where routes through such are told of.
const CORRUPT: f64 = 0.1;
/// Nodes that are told of one by one.
const NODES_TOLD: usize = 100;
/// Fewer loops than this tell nothing of a node.
const FEW: u32 = 20;
/// The pool is looked at so often; counters are remembered once in so many looks, and so many of them.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u64 = 10;
const REMEMBERED: usize = 31;

/// `mizzle status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// The client or node with this configuration; if nothing is said the client at ~/.config/mizzle/client.toml, or if there is
    /// none that of `mizzle up`
    pub config: Option<PathBuf>,
    /// The client or node with this state directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub state: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How a client or node is. Rates are per second, over the last five minutes or as long as it has run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Status {
    /// A client.
    Client(Box<ClientStatus>),
    /// A node.
    Node(Box<NodeStatus>),
}

/// The network document in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Name.
    pub name: String,
    /// Name of its profile.
    pub profile: String,
    /// Number of the document.
    pub sequence: u64,
    /// Epoch of its keys.
    pub epoch: u32,
    /// When it ends and, but for the last one, all nodes change their keys: seconds since 1970, UTC.
    pub epoch_ends_s: u64,
    /// The last one of which the document has keys.
    pub epoch_last: u32,
    /// Until when the document has keys: seconds since 1970, UTC.
    pub keys_until_s: u64,
    /// Seconds since 1970 from which on it is valid.
    pub valid_from_s: u64,
    /// Seconds since 1970 until which it is.
    pub valid_until_s: u64,
    /// This machine's clock.
    pub now_s: u64,
}

/// How well users are hidden. See [`mizzle_traffic::anonymity`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anonymity {
    /// Users of the network at least, as far as can be told.
    pub users_at_least: Option<f64>,
    /// Users on average, where a node can tell.
    pub users: Option<f64>,
    /// n: packets in a mix's pool on average, with so many users; with one alone if nothing can be told.
    pub pool: f64,
    /// What it should be.
    pub pool_wanted: f64,
    /// Bits of doubt about which packet it was.
    pub entropy_bits: f64,
    /// How often the best guess is right.
    pub best_guess: f64,
    /// Whether these two are sharp; else they are at most and at least that.
    pub is_sharp: bool,
    /// δ₁.
    pub delta_1: f64,
    /// k₉₅ among so many users, or among 1,000 if that isn't known.
    pub k_95: f64,
    /// So many users.
    pub k_95_users: f64,
    /// The share of routes that are corrupt if a tenth of the mixes is.
    pub routes_corrupt: f64,
    /// Packets of one user after which one such route is likely.
    pub packets_until_corrupt: f64,
    /// In seconds of one user's traffic, cover included.
    pub seconds_until_corrupt: f64,
}

/// A rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Of what.
    pub name: String,
    /// How many a second.
    pub per_s: f64,
    /// How many since the start.
    pub total: u64,
}

/// Rates by kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Over so many seconds.
    pub over_s: f64,
    /// What comes in.
    pub received: Vec<Rate>,
    /// What goes out.
    pub sent: Vec<Rate>,
}

/// Loops.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loops {
    /// Sent since the start.
    pub sent: u64,
    /// Came back.
    pub returned: u64,
    /// Didn't.
    pub lost: u64,
    /// Lost ones of those that ended.
    pub loss: Option<f64>,
    /// How much later than their delays they came back on average, in milliseconds: links and queues.
    pub late_ms: Option<f64>,
    /// Of the last 200 that came back, for a client: half took no longer, in milliseconds.
    pub median_ms: Option<f64>,
    /// Nine tenths took no longer.
    pub p90_ms: Option<f64>,
}

/// A client's move to another gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayMoved {
    /// Seconds since.
    pub s_ago: u64,
    /// The gateway that it left, where letters to its old address wait.
    pub from: String,
    /// Why, in words.
    pub why: String,
}

/// Loops through one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeLoss {
    /// The node's id.
    pub node: String,
    /// Its layer; 0: a gateway.
    pub layer: u8,
    /// Loops through it that ended of late: of the last 1,024, within an hour.
    pub loops: u32,
    /// The share that it lost, as is most likely from what all loops passed; none if too few went there.
    pub loss: Option<f64>,
    /// Between these it is with a probability of 95 %.
    pub loss_low: Option<f64>,
    /// See `loss_low`.
    pub loss_high: Option<f64>,
    /// What it and its links add to a loop's lateness, in milliseconds.
    pub late_ms: Option<f64>,
    /// By how much that may be off, with a probability of 95 %.
    pub late_off_ms: Option<f64>,
    /// Whether a client's routes leave it out now.
    pub left_out: bool,
}

/// Alarms of a node: loops of its own were due and none came home.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarms {
    /// Since the start.
    pub raised: u64,
    /// Whether one is on: no loop came home since.
    pub is_on: bool,
    /// Seconds since the last one was raised.
    pub last_s_ago: Option<u64>,
}

/// A stream, without where it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Whether the other end has connected.
    pub open: bool,
    /// Seconds since it was asked for.
    pub age_s: f64,
    /// Bytes from the program.
    pub sent_bytes: u64,
    /// Bytes for the program.
    pub received_bytes: u64,
}

/// Letters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letters {
    /// To be fetched.
    pub waiting: usize,
    /// Bytes of these and of those that are arriving.
    pub inbox_bytes: u64,
    /// Most of them.
    pub inbox_max_bytes: u64,
    /// Why nothing is taken, if so.
    pub problem: Option<String>,
    /// To leave.
    pub outbox: usize,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// The counter that tells of it; none for what isn't counted.
    pub counter: Option<String>,
    /// How often since the start.
    pub times: u64,
    /// How often of late.
    pub lately: u64,
    /// What it is and what to do.
    pub words: String,
}

/// How a client is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Version of mizzle.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The document.
    pub network: Network,
    /// Whether its gateway admitted it and cover flows.
    pub connected: bool,
    /// The floor that its user set; 0: none.
    pub min_pool: u64,
    /// Whether anything is sent but cover.
    pub may_send: bool,
    /// How well it is hidden.
    pub anonymity: Anonymity,
    /// Rates by kind.
    pub rates: Rates,
    /// Its loops.
    pub loops: Loops,
    /// Those by mix, the 100 worst.
    pub nodes: Vec<NodeLoss>,
    /// Seconds since the gateway was found to lose packets, if it was.
    pub gateway_blamed_s_ago: Option<u64>,
    /// How often it moved to another gateway since its start.
    pub gateway_moves: u64,
    /// The last move, if there was one.
    pub gateway_moved: Option<GatewayMoved>,
    /// How many streams there are.
    pub streams: usize,
    /// The oldest 100 of them.
    pub oldest_streams: Vec<Stream>,
    /// Letters.
    pub letters: Letters,
    /// What is wrong.
    pub trouble: Vec<Trouble>,
    /// All that was counted.
    pub counters: BTreeMap<String, u64>,
}

/// How a node's mailboxes and clients are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Clients linked.
    pub clients: usize,
    /// Most of them.
    pub max_clients: usize,
    /// Mailboxes, of clients here or away.
    pub mailboxes: usize,
    /// Bytes of letters in them.
    pub mail_bytes: u64,
    /// Most of them.
    pub mail_max_bytes: u64,
    /// Bytes in memory of what came back for clients and has not left for them yet.
    pub reply_bytes: u64,
    /// Most of them.
    pub reply_max_bytes: u64,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Version of mizzle.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The document.
    pub network: Network,
    /// `mix`, `gateway` or `gateway with exit`.
    pub role: String,
    /// 1 to 3 for a mix, 0 for a gateway.
    pub layer: u8,
    /// Packets that it holds for their delays now.
    pub pool: usize,
    /// On average.
    pub pool_mean: Option<f64>,
    /// 99 of 100 packets left no later than that after their delay, since the node started.
    pub late_p99_ms: Option<f64>,
    /// How well users are hidden.
    pub anonymity: Anonymity,
    /// Rates by kind.
    pub rates: Rates,
    /// Its loops.
    pub loops: Loops,
    /// What they tell of other nodes, the 100 worst.
    pub nodes: Vec<NodeLoss>,
    /// Its alarms.
    pub alarms: Alarms,
    /// What only a gateway has.
    pub gateway: Option<GatewayStatus>,
    /// What is wrong.
    pub trouble: Vec<Trouble>,
    /// All that was counted.
    pub counters: BTreeMap<String, u64>,
}

/// What was seen at a moment.
struct Look {
    at: Time,
    counters: Counters,
    /// Sum and number of the pools that were seen until the next one.
    pools: (u64, u64),
}

/// Remembers what was counted in the last minutes. Ends with its owner.
struct Record {
    looks: Arc<Mutex<VecDeque<Look>>>,
    task: AbortHandle,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What has changed since the oldest look.
struct Lately {
    over_s: f64,
    before: Counters,
    pool_mean: Option<f64>,
}

impl Record {
    /// Looks again and again. Must be called within a runtime.
    fn start(clock: Clock, mut look: impl FnMut() -> (Counters, usize) + Send + 'static) -> Self {
        let looks = Arc::new(Mutex::new(VecDeque::new()));
        let mine = Arc::clone(&looks);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for n in 0.. {
                ticks.tick().await;
                let (counters, pool) = look();
                let mut looks = mine.lock().unwrap_or_else(PoisonError::into_inner);
                note(&mut looks, n, clock.now(), counters, pool);
            }
        });
        let task = task.abort_handle();
        Self { looks, task }
    }

    fn lately(&self, now: Time) -> Lately {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let (sum, n) = looks
            .iter()
            .fold((0, 0), |(sum, n), look| (sum + look.pools.0, n + look.pools.1));
        let oldest = looks.front();
        Lately {
            over_s: oldest.map_or(0.0, |look| now.since(look.at).as_secs_f64()),
            before: oldest.map_or_else(Counters::default, |look| look.counters.clone()),
            pool_mean: (n > 0).then(|| sum as f64 / n as f64),
        }
    }
}

fn note(looks: &mut VecDeque<Look>, n: u64, at: Time, counters: Counters, pool: usize) {
    if n.is_multiple_of(LOOKS) {
        if looks.len() == REMEMBERED {
            looks.pop_front();
        }
        looks.push_back(Look {
            at,
            counters,
            pools: (0, 0),
        });
    }
    if let Some(last) = looks.back_mut() {
        last.pools.0 += pool as u64;
        last.pools.1 += 1;
    }
}

/// Says in the log when pools become too small, and when they are large enough again.
#[derive(Default)]
struct Warning {
    given: bool,
}

impl Warning {
    fn look(&mut self, pool: f64) {
        let small = pool < anonymity::POOL_WANTED;
        if small == self.given {
            return;
        }
        self.given = small;
        if small {
            tracing::warn!(
                "the network has so few users that less than {} packets are in the pool of a mix: some of them stand out; \
                 see `mizzle status`",
                anonymity::POOL_WANTED
            );
        } else {
            tracing::info!("the network has enough users again");
        }
    }
}

impl Lately {
    fn of(&self, now: &Counters, name: &str) -> u64 {
        now.get(name).saturating_sub(self.before.get(name))
    }

    fn rates(&self, now: &Counters, kinds: &[(&str, &[&str])]) -> Vec<Rate> {
        let rate = |(name, counters): &(&str, &[&str])| Rate {
            name: (*name).into(),
            per_s: counters
                .iter()
                .map(|counter| self.of(now, counter) as f64)
                .sum::<f64>()
                / self.over_s.max(1.0),
            total: counters.iter().map(|counter| now.get(counter)).sum(),
        };
        kinds.iter().map(rate).collect()
    }
}

impl Network {
    fn of(document: &Document, now: Time) -> Self {
        let (from, until) = document.validity();
        Self {
            name: document.name().into(),
            profile: document.profile().name.clone(),
            sequence: document.sequence(),
            epoch: document.epoch(),
            epoch_ends_s: document.epochs().end(document.epoch()).as_s(),
            epoch_last: document.epochs().last(),
            keys_until_s: document.epochs().end(document.epochs().last()).as_s(),
            valid_from_s: from.as_s(),
            valid_until_s: until.as_s(),
            now_s: now.as_s(),
        }
    }
}

impl Anonymity {
    /// With so many users at least, and on average.
    fn of(document: &Document, users_at_least: Option<f64>, users: Option<f64>) -> Self {
        /// As in the table of profiles, where nothing better is known.
        const USERS: f64 = 1_000.0;
        let (traffic, shape) = (Traffic::from(document.profile()), Shape::of(document));
        let outlook = anonymity::outlook(&traffic, &shape, users_at_least.unwrap_or(1.0));
        let k_95_users = users_at_least.map_or(USERS, |users| users.max(2.0));
        let packets_until_corrupt = anonymity::packets_until_corrupt(CORRUPT, shape.layers);
        Self {
            users_at_least,
            users,
            pool: outlook.pool,
            pool_wanted: anonymity::POOL_WANTED,
            entropy_bits: outlook.entropy_bits,
            best_guess: outlook.best_guess,
            is_sharp: outlook.is_sharp(),
            delta_1: outlook.delta_1,
            k_95: anonymity::k_95(
                traffic.uplink_per_s * traffic.mean_delay_s,
                shape.layers,
                k_95_users,
            ),
            k_95_users,
            routes_corrupt: anonymity::route_corrupt(CORRUPT, shape.layers),
            packets_until_corrupt,
            seconds_until_corrupt: packets_until_corrupt / traffic.uplink_per_s,
        }
    }
}

impl Loops {
    fn of(tally: &Tally, round_trips: &VecDeque<Duration>) -> Self {
        let ended = tally.returned + tally.lost;
        let mut times: Vec<Duration> = round_trips.iter().copied().collect();
        times.sort_unstable();
        // The smallest that the share didn't exceed.
        let rank = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map(|time| time.as_secs_f64() * 1e3)
        };
        let share = |part: f64, whole: u64| (whole > 0).then(|| part / whole as f64);
        Self {
            sent: tally.sent,
            returned: tally.returned,
            lost: tally.lost,
            loss: share(tally.lost as f64, ended),
            late_ms: share(tally.lateness_us as f64 / 1e3, tally.returned),
            median_ms: rank(50),
            p90_ms: rank(90),
        }
    }
}

/// What is known of each node by loops.
fn losses(document: &Document, estimates: &BTreeMap<NodeId, Estimate>, left_out: &[NodeId]) -> Vec<NodeLoss> {
    let loss = |(id, estimate): (&NodeId, &Estimate)| {
        let known = |value: f64| (estimate.loops >= FEW && value.is_finite()).then_some(value);
        NodeLoss {
            node: id.to_string(),
            layer: document.node(id).map_or(0, |node| node.layer),
            loops: estimate.loops,
            loss: known(estimate.loss),
            loss_low: known(estimate.loss_low),
            loss_high: known(estimate.loss_high),
            late_ms: known(estimate.late_us / 1e3),
            late_off_ms: known(estimate.late_us_off / 1e3),
            left_out: left_out.contains(id),
        }
    };
    let mut all: Vec<NodeLoss> = estimates.iter().map(loss).collect();
    // The worst, for an answer has one line, and a network may have thousands of nodes.
    let worth = |loss: &NodeLoss| (loss.left_out, loss.loss_low.unwrap_or(0.0));
    all.sort_by(|a, b| worth(b).partial_cmp(&worth(a)).unwrap_or(Ordering::Equal));
    all.truncate(NODES_TOLD);
    all
}

fn all(counters: &Counters) -> BTreeMap<String, u64> {
    let all = counters.iter();
    all.map(|(name, n)| (name.to_owned(), n)).collect()
}

fn value(status: &Status) -> serde_json::Value {
    // Numbers and texts: nothing that JSON can't say.
    serde_json::to_value(status).unwrap_or_default()
}

/// Looks at a running client, for `mizzle status`.
pub struct ClientWatch {
    document: Arc<Document>,
    observer: client::Observer,
    mail: Mail,
    min_pool: u64,
    clock: Clock,
    started: Time,
    record: Record,
}

impl ClientWatch {
    /// Begins to look. Must be called within a runtime.
    #[must_use]
    pub fn start(
        document: Arc<Document>,
        observer: client::Observer,
        mail: Mail,
        min_pool: u64,
        clock: Clock,
    ) -> Self {
        let (watched, letters) = (observer.clone(), mail.clone());
        let mut warning = Warning::default();
        let look = move || {
            let seen = watched.snapshot();
            // As long as nothing is known of others there is nothing to warn of.
            if let Some(outlook) = seen.outlook.filter(|_| seen.users.is_some()) {
                warning.look(outlook.pool);
            }
            let mut counters = seen.counters;
            counters.merge(&letters.counters());
            (counters, 0)
        };
        Self {
            record: Record::start(clock, look),
            started: clock.now(),
            document,
            observer,
            mail,
            min_pool,
            clock,
        }
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        const SENT: &[(&str, &[&str])] = &[
            ("data", &["slot.data"]),
            ("data with reply slots", &["slot.reply_data"]),
            ("drops", &["slot.drop", "slot.reply_drop"]),
            ("loops", &["slot.loop"]),
        ];
        const RECEIVED: &[(&str, &[&str])] = &[
            ("answers", &["reply.session"]),
            ("answers to drops", &["reply.filler"]),
            ("loops", &["loop.returned"]),
            ("letters", &["downlink.mail"]),
            ("fillers", &["downlink.filler"]),
        ];
        let now = self.clock.now();
        let (seen, mail, lately) = (
            self.observer.snapshot(),
            self.mail.status(),
            self.record.lately(now),
        );
        let mut counters = seen.counters.clone();
        counters.merge(&mail.counters);
        let document = seen.document.as_ref().unwrap_or(&self.document);
        let anonymity = Anonymity::of(document, seen.users.map(f64::from), None);
        let mut trouble = trouble::of_client(&counters, &lately);
        trouble.extend(trouble::of_clock(document, now));
        trouble.extend(mail.inbox_problem.clone().map(trouble::plain));
        let stream = |stream: &client::StreamSnapshot| Stream {
            open: stream.open,
            age_s: stream.age.as_secs_f64(),
            sent_bytes: stream.sent,
            received_bytes: stream.received,
        };
        value(&Status::Client(Box::new(ClientStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: now.since(self.started).as_secs(),
            network: Network::of(document, now),
            connected: seen.up,
            min_pool: self.min_pool,
            may_send: seen.may_send,
            anonymity,
            rates: Rates {
                over_s: lately.over_s,
                received: lately.rates(&seen.counters, RECEIVED),
                sent: lately.rates(&seen.counters, SENT),
            },
            loops: Loops::of(&seen.loops, &seen.round_trips),
            nodes: losses(&self.document, &seen.estimates, &seen.avoided),
            gateway_blamed_s_ago: seen.gateway_blamed.map(|at| now.since(at).as_secs()),
            gateway_moves: seen.moves,
            gateway_moved: seen.moved.map(|moved| GatewayMoved {
                s_ago: now.since(moved.at).as_secs(),
                from: moved.from.to_string(),
                why: crate::moving::reason(moved.why).into(),
            }),
            streams: seen.streams,
            oldest_streams: seen.oldest.iter().map(stream).collect(),
            letters: Letters {
                waiting: mail.waiting,
                inbox_bytes: mail.inbox_bytes,
                inbox_max_bytes: mail.inbox_max_bytes,
                problem: mail.inbox_problem,
                outbox: mail
                    .outbox
                    .iter()
                    .filter(|entry| entry.stage == Stage::Waiting)
                    .count(),
            },
            trouble,
            counters: all(&counters),
        })))
    }
}

/// Pieces of letters have one size, and replies nearly that.
fn bytes_of_items(n: u64) -> u64 {
    n.saturating_mul(ITEM_LEN as u64)
}

/// Looks at a running node, for `mizzle status`.
pub struct NodeWatch {
    document: Arc<Document>,
    id: NodeId,
    observer: node::Observer,
    mail_max_bytes: u64,
    clock: Clock,
    started: Time,
    record: Record,
}

impl NodeWatch {
    /// Begins to look at node `id` of the document, whose mailboxes may hold so many bytes. Must be called within a runtime.
    #[must_use]
    pub fn start(
        document: Arc<Document>,
        id: NodeId,
        observer: node::Observer,
        mail_max_bytes: u64,
        clock: Clock,
    ) -> Self {
        let watched = observer.clone();
        let look = move || {
            let seen = watched.snapshot();
            (seen.counters, seen.pool)
        };
        Self {
            record: Record::start(clock, look),
            started: clock.now(),
            document,
            id,
            observer,
            mail_max_bytes,
            clock,
        }
    }

    /// Users at least and on average: a gateway counts what comes for it, a mix turns its pool round.
    fn users(&self, seen: &node::Snapshot, pool_mean: Option<f64>, layer: u8) -> Option<(f64, f64)> {
        match &seen.gateway {
            Some(gateway) => gateway.users.map(|(mean, least)| (least, mean)),
            None => {
                let (traffic, shape) = (Traffic::from(self.document.profile()), Shape::of(&self.document));
                let mixes = self.document.layer(layer).count() as f64;
                let users = anonymity::users_of_pool(&traffic, &shape, mixes, pool_mean?);
                Some((users, users))
            }
        }
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        const RECEIVED: &[(&str, &[&str])] = &[
            ("packets", &["received"]),
            ("of these for here", &["delivered"]),
            ("loops", &["loop.returned"]),
        ];
        const SENT: &[(&str, &[&str])] = &[("packets", &["forwarded"]), ("loops", &["loop.sent"])];
        const GATEWAY_RECEIVED: &[(&str, &[&str])] = &[
            ("from clients", &["uplink.packet"]),
            ("drops for here", &["drop_received"]),
        ];
        const GATEWAY_SENT: &[(&str, &[&str])] = &[
            ("answers to drops", &["filler_reply"]),
            (
                "answers of the exit and of mailboxes",
                &["reply.sent", "reply.filler_sent"],
            ),
            ("frames to clients with replies", &["downlink.reply"]),
            ("frames to clients with letters", &["downlink.mail"]),
            ("frames to clients, fillers", &["downlink.filler"]),
        ];
        let now = self.clock.now();
        let (seen, lately) = (self.observer.snapshot(), self.record.lately(now));
        let listed = self.document.node(&self.id);
        let (role, layer, has_exit) = listed.map_or((Role::Mix, 0, false), |listed| {
            (listed.role, listed.layer, listed.exit.is_some())
        });
        let users = self.users(&seen, lately.pool_mean, layer);
        let anonymity = Anonymity::of(
            &self.document,
            users.map(|(least, _)| least),
            users.map(|(_, mean)| mean),
        );
        let mut trouble = trouble::of_node(&seen.counters, &lately);
        let document = seen.document.as_ref().unwrap_or(&self.document);
        trouble.extend(trouble::of_clock(document, now));
        let (mut received, mut sent) = (
            lately.rates(&seen.counters, RECEIVED),
            lately.rates(&seen.counters, SENT),
        );
        if seen.gateway.is_some() {
            received.extend(lately.rates(&seen.counters, GATEWAY_RECEIVED));
            sent.extend(lately.rates(&seen.counters, GATEWAY_SENT));
        }
        value(&Status::Node(Box::new(NodeStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: now.since(self.started).as_secs(),
            network: Network::of(document, now),
            role: role_name(role, has_exit).into(),
            layer,
            pool: seen.pool,
            pool_mean: lately.pool_mean,
            late_p99_ms: seen.late.quantile(0.99).map(|late| late.as_secs_f64() * 1e3),
            anonymity,
            rates: Rates {
                over_s: lately.over_s,
                received,
                sent,
            },
            loops: Loops::of(&seen.loops, &VecDeque::new()),
            nodes: losses(&self.document, &seen.estimates, &[]),
            alarms: Alarms {
                raised: seen.alarms.raised,
                is_on: seen.alarms.is_on,
                last_s_ago: seen.alarms.last.map(|at| now.since(at).as_secs()),
            },
            gateway: seen.gateway.map(|gateway| GatewayStatus {
                clients: seen.clients,
                max_clients: gateway.capacity,
                mailboxes: gateway.mailboxes,
                mail_bytes: bytes_of_items(gateway.mail_items),
                mail_max_bytes: self.mail_max_bytes,
                reply_bytes: bytes_of_items(gateway.replies.0 as u64),
                reply_max_bytes: bytes_of_items(gateway.replies.1 as u64),
            }),
            trouble,
            counters: all(&seen.counters),
        })))
    }
}

/// Asks a client or node and prints what it says.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: &StatusArgs) -> Result<(), Failure> {
    let state = state_of(args)?;
    let answer = async {
        let mut control = control::connect(&state, Command::Status).await?;
        control.event().await
    };
    let status = match answer.await {
        Ok(Event::Status { status }) => status,
        Ok(_) => return Err(ConnectError::Strange.into()),
        Err(ConnectError::NotRunning(state)) => return Err(Failure::NothingRuns(state)),
        Err(why) => return Err(why.into()),
    };
    if args.json {
        say(&format!("{status}\n"));
        return Ok(());
    }
    let status: Status = serde_json::from_value(status).map_err(|_| ConnectError::Strange)?;
    say(&text::of(&status));
    Ok(())
}

fn state_of(args: &StatusArgs) -> Result<PathBuf, Failure> {
    if let Some(state) = &args.state {
        return Ok(state.clone());
    }
    let config = match &args.config {
        Some(config) => config.clone(),
        None => paths::found_client().ok_or(Failure::Neither)?,
    };
    Ok(match Config::load(&config)? {
        Config::Client(config) => config.state,
        Config::Node(config) => config.state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assemble::{self, Keys};
    use ed25519_dalek::SigningKey;
    use mizzle_base::Profile;
    use mizzle_base::document::Content;
    use mizzle_net::clock;

    /// Two mixes a layer and two gateways, of profile `browse`.
    fn document() -> Document {
        let mut rng = clock::rng().unwrap();
        let places = assemble::places(2, 2, 1);
        let nodes = places.iter().map(|place| {
            let keys = Keys::generate(&mut rng);
            assemble::entry(place, &keys, &[], 1, &mut rng).unwrap()
        });
        let content = Content {
            network: "test".into(),
            sequence: 1,
            epoch: 1,
            valid_from_s: 0,
            valid_until_s: 1_000,
            profile: Profile::browse(),
            nodes: nodes.collect(),
        };
        let authority = SigningKey::from_bytes(&[9; 32]);
        let bytes = content.sign(&authority).unwrap();
        Document::verify(&bytes, &authority.verifying_key(), Time::from_s(5), 0).unwrap()
    }

    #[test]
    fn the_worst_nodes_come_first_and_of_those_hardly_used_nothing_is_said() {
        let document = document();
        let ids: Vec<NodeId> = (1..=2)
            .flat_map(|layer| document.layer(layer).map(|node| node.id))
            .collect();
        let estimate = |loops, loss| Estimate {
            loops,
            loss,
            loss_low: loss / 2.0,
            loss_high: 1.0,
            late_us: 3_000.0,
            late_us_off: 500.0,
        };
        let estimates = [
            (ids[0], estimate(100, 0.0)),
            (ids[1], estimate(100, 0.5)),
            (ids[2], estimate(FEW - 1, 1.0)),
            (ids[3], estimate(100, 0.1)),
        ];
        let losses = losses(&document, &estimates.into(), &ids[3..]);
        let names: Vec<&str> = losses.iter().map(|loss| loss.node.as_str()).collect();
        assert_eq!(names[..2], [ids[3].to_string(), ids[1].to_string()]);
        assert!(losses[0].left_out && !losses[1].left_out);
        assert_eq!((losses[1].loss, losses[1].loss_low), (Some(0.5), Some(0.25)));
        assert_eq!((losses[1].late_ms, losses[1].late_off_ms), (Some(3.0), Some(0.5)));
        let few = losses
            .iter()
            .find(|loss| loss.node == ids[2].to_string())
            .unwrap();
        assert_eq!((few.loss, few.late_ms, few.loops), (None, None, FEW - 1));
    }

    #[test]
    fn rates_are_of_the_last_five_minutes_and_pools_are_averaged() {
        let mut looks = VecDeque::new();
        let mut counters = Counters::default();
        for n in 0..1_000 {
            counters.add("slot.data", 2);
            note(
                &mut looks,
                n,
                Time::from_s(n),
                counters.clone(),
                (n % 2) as usize * 10,
            );
        }
        assert_eq!(looks.len(), REMEMBERED);
        let record = Record {
            looks: Arc::new(Mutex::new(looks)),
            task: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
                .spawn(async {})
                .abort_handle(),
        };
        let lately = record.lately(Time::from_s(999));
        assert!((300.0..=310.0).contains(&lately.over_s), "{}", lately.over_s);
        assert_eq!(lately.pool_mean, Some(5.0));
        let rates = lately.rates(&counters, &[("data", &["slot.data", "nothing"])]);
        assert!(
            (rates[0].per_s - 2.0).abs() < 0.01 && rates[0].total == 2_000,
            "{rates:?}"
        );
    }

    #[test]
    fn what_is_not_known_of_users_is_counted_as_one_and_told_as_such() {
        let document = document();
        let alone = Anonymity::of(&document, None, None);
        // 2 + 2 / 2 loops of nodes, and (50 + 66.7) / 2 packets a second of one's own for 20 ms.
        assert!((alone.pool - 3.0 - 7.0 / 6.0).abs() < 1e-9 && !alone.is_sharp);
        assert!((alone.k_95 - 153.0).abs() < 1.0 && alone.k_95_users == 1_000.0);
        let many = Anonymity::of(&document, Some(64.0), None);
        assert!(many.pool > 20.0 && many.entropy_bits > alone.entropy_bits && many.is_sharp);
        assert!(many.k_95 < alone.k_95, "among fewer he is found sooner");
        assert!((many.packets_until_corrupt - 693.0).abs() < 1.0);
    }
}
