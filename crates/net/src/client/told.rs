//! What a running client tells of itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mizzle_base::document::Document;
use mizzle_base::{Counters, NodeId, Time};
use mizzle_client::Why;
use mizzle_traffic::anonymity::Outlook;
use mizzle_traffic::estimate::Estimate;
use mizzle_traffic::ledger::{Passed, Tally};
use tokio::sync::broadcast;

/// Looks at a client while it runs, and finds nothing new once it has stopped.
#[derive(Clone)]
pub struct Observer {
    pub(super) loops: broadcast::WeakSender<LoopEnd>,
    pub(super) snapshot: Arc<Mutex<Snapshot>>,
}

impl Observer {
    /// How each loop of the client ends from here on. None once the client has stopped.
    #[must_use]
    pub fn loops(&self) -> Option<broadcast::Receiver<LoopEnd>> {
        Some(self.loops.upgrade()?.subscribe())
    }

    /// What it has done, as of within the last second or so.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What a client has done so far.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counters of its core.
    pub counters: Counters,
    /// Its loops.
    pub loops: Tally,
    /// Its loops, by the mixes that they passed.
    pub loops_by_node: BTreeMap<NodeId, Passed>,
    /// What its last loops tell of each mix.
    pub estimates: BTreeMap<NodeId, Estimate>,
    /// The mixes that its routes leave out.
    pub avoided: Vec<NodeId>,
    /// When its gateway was blamed last for losing packets.
    pub gateway_blamed: Option<Time>,
    /// Its gateway.
    pub gateway: Option<NodeId>,
    /// How often it moved to another one, and the last time: when, away from which, and why.
    pub moves: u64,
    /// See there.
    pub moved: Option<Moved>,
    /// Whether its gateway admitted it and cover flows.
    pub up: bool,
    /// Streams open, or being opened.
    pub streams: usize,
    /// The oldest of them, at most 100.
    pub oldest: Vec<StreamSnapshot>,
    /// How long the last loops took that came back, at most 200, oldest first.
    pub round_trips: VecDeque<Duration>,
    /// Users of the network at least, as the gateway says; `None` if it can't tell.
    pub users: Option<u32>,
    /// How well the network hides this client, as far as it can tell.
    pub outlook: Option<Outlook>,
    /// The network document that it goes by, in the epoch that it is.
    pub document: Option<Arc<Document>>,
    /// Whether what programs and letters say may be sent ([`mizzle_client::Config::with_min_pool`]).
    pub may_send: bool,
}

/// A stream, without where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSnapshot {
    /// Whether the other end has connected.
    pub open: bool,
    /// Since it was asked for.
    pub age: Duration,
    /// Bytes that its program wrote, and that it was given.
    pub sent: u64,
    /// See there.
    pub received: u64,
}

/// A move to another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// When.
    pub at: Time,
    /// The gateway that was left.
    pub from: NodeId,
    /// Why.
    pub why: Why,
}

/// How a loop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopEnd {
    /// How long it was under way; none if it was lost.
    pub round_trip: Option<Duration>,
}
