//! The ledger of loops: which are out, which came back, how late, which never did.
//!
//! Loopix section 4.3: loops tell their sender of an active attack. Here they are counted, and what they passed is
//! [judged](crate::estimate); what follows from missing ones is decided by who owns the ledger.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mizzle_base::{NodeId, Time};

use crate::estimate::{self, Ended, Estimate};

/// Loops that ended, by which nodes are judged: the last so many.
const REMEMBERED: usize = 1_024;
/// A node is to blame for losses in a row if it is less likely than this that others lost them.
pub const TO_BLAME: f64 = 1e-3;
/// And none that was due longer ago: what a node was then says little of what it is.
const MEMORY: Duration = Duration::from_secs(3_600);

/// What became of the loops so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Came back in time.
    pub returned: u64,
    /// Did not, within the patience.
    pub lost: u64,
    /// Not kept track of, because the ledger was full.
    pub untracked: u64,
    /// Sum over the returned ones of how much later than their drawn delays they came, in microseconds.
    pub lateness_us: u64,
}

/// What became of the loops that passed a node.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Passed {
    /// Came back in time.
    pub returned: u64,
    /// Did not.
    pub lost: u64,
    /// Since the last one that came back, how many did not.
    pub lost_in_row: u32,
}

struct Out {
    left: Time,
    due: Time,
    along: Vec<NodeId>,
}

/// Loops that are out, by the random half of their id.
pub struct Ledger {
    patience: Duration,
    capacity: usize,
    out: BTreeMap<[u8; 8], Out>,
    // Expiry looks at the first only.
    by_due: BTreeSet<(Time, [u8; 8])>,
    tally: Tally,
    /// As many as the document has nodes.
    by_node: BTreeMap<NodeId, Passed>,
    /// In the order in which they ended; those whose nodes were told.
    ended: VecDeque<Ended>,
    /// Lost since the last one came back, whatever they passed.
    lost_in_row: u32,
}

impl Ledger {
    /// A loop not back `patience` after it was due is lost; at most `capacity` are out (100 bytes each, and 32 for each node
    /// that it passes, and so much for each of the last 1,024 that ended).
    #[must_use]
    pub fn new(patience: Duration, capacity: usize) -> Self {
        Self {
            patience,
            capacity,
            out: BTreeMap::new(),
            by_due: BTreeSet::new(),
            tally: Tally::default(),
            by_node: BTreeMap::new(),
            ended: VecDeque::new(),
            lost_in_row: 0,
        }
    }

    /// A loop leaves at `now` whose hops delay it by `delay_ms` in all. False when the ledger is full.
    pub fn sent(&mut self, now: Time, id: [u8; 8], delay_ms: u32) -> bool {
        self.sent_along(now, id, delay_ms, Vec::new())
    }

    /// The same for a loop that passes these nodes, of which [`Self::by_node`] tells.
    pub fn sent_along(&mut self, now: Time, id: [u8; 8], delay_ms: u32, along: Vec<NodeId>) -> bool {
        self.expire(now);
        self.tally.sent += 1;
        if self.out.len() >= self.capacity {
            self.tally.untracked += 1;
            return false;
        }
        let due = now + Duration::from_millis(delay_ms.into());
        self.out.insert(
            id,
            Out {
                left: now,
                due,
                along,
            },
        );
        self.by_due.insert((due, id));
        true
    }

    /// A packet with this id came back: how long it was out. `None` when it is no loop that is out.
    pub fn returned(&mut self, now: Time, id: [u8; 8]) -> Option<Duration> {
        let Out { left, due, along } = self.out.remove(&id)?;
        self.by_due.remove(&(due, id));
        for node in &along {
            let passed = self.by_node.entry(*node).or_default();
            passed.returned += 1;
            passed.lost_in_row = 0;
        }
        self.lost_in_row = 0;
        self.remember(Ended {
            due,
            late: Some(now.since(due)),
            along,
        });
        self.tally.returned += 1;
        self.tally.lateness_us += now.since(due).as_micros() as u64;
        Some(now.since(left))
    }

    /// Counts those that are lost by `now`.
    pub fn expire(&mut self, now: Time) {
        while let Some(&(due, id)) = self.by_due.first() {
            if due + self.patience > now {
                break;
            }
            self.by_due.pop_first();
            self.tally.lost += 1;
            self.lost_in_row = self.lost_in_row.saturating_add(1);
            let Some(Out { along, .. }) = self.out.remove(&id) else {
                continue;
            };
            for node in &along {
                let passed = self.by_node.entry(*node).or_default();
                passed.lost += 1;
                passed.lost_in_row = passed.lost_in_row.saturating_add(1);
            }
            self.remember(Ended {
                due,
                late: None,
                along,
            });
        }
    }

    /// The nodes that a loop is to pass which is out.
    #[must_use]
    pub fn along(&self, id: &[u8; 8]) -> &[NodeId] {
        self.out.get(id).map_or(&[], |out| &out.along)
    }

    /// How many were lost since the last one that came back, whatever they passed.
    #[must_use]
    pub fn lost_in_row(&self) -> u32 {
        self.lost_in_row
    }

    /// What the last loops tell of each node: up to 1,024, of the last hour.
    #[must_use]
    pub fn estimates(&self, now: Time) -> BTreeMap<NodeId, Estimate> {
        let from = now - MEMORY;
        estimate::estimate(self.ended.iter().filter(|ended| ended.due >= from))
    }

    /// How likely it is that the loops through `node` that were lost in a row were all lost by others on their way; see
    /// [`estimate::innocence`].
    #[must_use]
    pub fn innocence(&self, node: &NodeId) -> f64 {
        // From the first of the row on: before it the node, and others, may have been well.
        let mut row = self.by_node.get(node).map_or(0, |passed| passed.lost_in_row);
        let begin = self.ended.iter().rposition(|ended| {
            row -= u32::from(row > 0 && ended.along.contains(node));
            row == 0
        });
        estimate::innocence(self.ended.range(begin.unwrap_or(0)..), node)
    }

    /// Forgets what it knew of a node's losses in a row, as that was acted on.
    pub fn begin_anew(&mut self, node: &NodeId) {
        if let Some(passed) = self.by_node.get_mut(node) {
            passed.lost_in_row = 0;
        }
    }

    /// The same for all nodes.
    pub fn all_begin_anew(&mut self) {
        self.lost_in_row = 0;
        self.by_node
            .values_mut()
            .for_each(|passed| passed.lost_in_row = 0);
        self.ended.clear();
    }

    /// Whether the last loop through this node that ended came back, if one did since it [began anew](Self::begin_anew).
    #[must_use]
    pub fn was_passed(&self, node: &NodeId) -> bool {
        let last = self.ended.iter().rev().find(|ended| ended.along.contains(node));
        last.is_some_and(|ended| ended.late.is_some())
    }

    /// Whether nothing comes through this node: ten in a row, which others can hardly have lost.
    #[must_use]
    pub fn is_down(&self, node: &NodeId) -> bool {
        let row = self.by_node.get(node).map_or(0, |passed| passed.lost_in_row);
        row >= crate::avoid::IN_ROW && self.innocence(node) <= TO_BLAME
    }

    fn remember(&mut self, ended: Ended) {
        if ended.along.is_empty() {
            return;
        }
        if self.ended.len() >= REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    /// The counts.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// What became of the loops whose nodes were told, by node: one that is lost counts for each that it was to pass.
    #[must_use]
    pub fn by_node(&self) -> &BTreeMap<NodeId, Passed> {
        &self.by_node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_return_once_or_are_lost() {
        let mut ledger = Ledger::new(Duration::from_secs(1), 2);
        let t = Time::from_s;
        assert!(ledger.sent(t(0), [1; 8], 100));
        assert!(ledger.sent(t(0), [2; 8], 500));
        assert!(!ledger.sent(t(0), [3; 8], 0), "full");
        assert_eq!(ledger.returned(t(1), [1; 8]), Some(Duration::from_secs(1)));
        assert_eq!(ledger.returned(t(1), [1; 8]), None, "twice");
        assert_eq!(ledger.returned(t(1), [3; 8]), None, "untracked");
        ledger.expire(t(2));
        assert_eq!(ledger.returned(t(2), [2; 8]), None, "too late");
        let tally = Tally {
            sent: 3,
            returned: 1,
            lost: 1,
            untracked: 1,
            lateness_us: 900_000,
        };
        assert_eq!(ledger.tally(), tally);
        assert!(ledger.by_node().is_empty(), "none was told");
    }

    #[test]
    fn a_loop_counts_for_each_node_that_it_was_to_pass() {
        let mut ledger = Ledger::new(Duration::from_secs(1), 9);
        let node = |n: u8| NodeId::new([n; 32]);
        ledger.sent_along(Time::from_s(0), [1; 8], 100, vec![node(1), node(2)]);
        ledger.sent_along(Time::from_s(0), [2; 8], 100, vec![node(1), node(3)]);
        ledger.returned(Time::from_s(1), [1; 8]);
        ledger.expire(Time::from_s(9));
        let of = |n| {
            let Passed { returned, lost, .. } = ledger.by_node()[&node(n)];
            (returned, lost)
        };
        assert_eq!([of(1), of(2), of(3)], [(1, 1), (1, 0), (0, 1)]);
    }
}
