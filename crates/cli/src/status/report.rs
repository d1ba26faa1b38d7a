//! What `mizzle status` tells: as JSON by its names here, in words by `text`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mizzle_base::{Counters, Document, NodeId, Time};
use mizzle_traffic::anonymity::{self, Shape, Traffic};
use mizzle_traffic::estimate::Estimate;
use mizzle_traffic::ledger::Tally;
use serde::{Deserialize, Serialize};

/// The share of mixes that are taken to work together, where routes through such are told of.
const CORRUPT: f64 = 0.1;
/// Nodes that are told of one by one.
const NODES_TOLD: usize = 100;
/// Fewer loops than this tell nothing of a node.
const FEW: u32 = 20;

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

impl Network {
    pub(super) fn of(document: &Document, now: Time) -> Self {
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
    pub(super) fn of(document: &Document, users_at_least: Option<f64>, users: Option<f64>) -> Self {
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
    pub(super) fn of(tally: &Tally, round_trips: &VecDeque<Duration>) -> Self {
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
pub(super) fn losses(
    document: &Document,
    estimates: &BTreeMap<NodeId, Estimate>,
    left_out: &[NodeId],
) -> Vec<NodeLoss> {
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

pub(super) fn all(counters: &Counters) -> BTreeMap<String, u64> {
    let all = counters.iter();
    all.map(|(name, n)| (name.to_owned(), n)).collect()
}

pub(super) fn value(status: &Status) -> serde_json::Value {
    // Numbers and texts: nothing that JSON can't say.
    serde_json::to_value(status).unwrap_or_default()
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
