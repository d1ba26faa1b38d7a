//! The packets that wait for their delay, in order of when they leave.
//!
//! Exact to the microsecond of the clock that the core is told. Packets of one moment leave in random order, so
//! order of arrival doesn't show.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use mizzle_base::{NodeId, Time};
use mizzle_sphinx::Packet;

/// Index into the slab; small heap entries, packets stay where they are.
type Slot = usize;

pub(crate) struct DelayQueue {
    capacity: usize,
    heap: BinaryHeap<Reverse<(Time, u64, Slot)>>,
    slab: Vec<Option<(NodeId, Packet)>>,
    free: Vec<Slot>,
}

impl DelayQueue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            heap: BinaryHeap::new(),
            slab: Vec::new(),
            free: Vec::new(),
        }
    }

    /// False when full; the packet is dropped.
    pub(crate) fn push(&mut self, due: Time, shuffle: u64, to: NodeId, packet: Packet) -> bool {
        if self.heap.len() >= self.capacity {
            return false;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.slab.len() - 1
        });
        self.slab[slot] = Some((to, packet));
        self.heap.push(Reverse((due, shuffle, slot)));
        true
    }

    pub(crate) fn pop_due(&mut self, now: Time) -> Option<(NodeId, Packet)> {
        if self.deadline()? > now {
            return None;
        }
        let Reverse((_, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.slab[slot].take()
    }

    /// The clock was set back by so much: what waits still waits as long as it was to.
    pub(crate) fn shift_back(&mut self, by: Duration) {
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        entries
            .iter_mut()
            .for_each(|Reverse((due, _, _))| *due = *due - by);
        self.heap = entries.into();
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((due, _, _))| *due)
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_at_their_times_and_no_more_are_held_than_allowed() {
        let mut queue = DelayQueue::new(3);
        let id = |n| NodeId::new([n; 32]);
        for (due, n) in [(30, 3), (10, 1), (20, 2)] {
            assert!(queue.push(Time::from_us(due), 0, id(n), Packet::zeroed()));
        }
        assert!(!queue.push(Time::from_us(1), 0, id(4), Packet::zeroed()));
        assert_eq!(queue.deadline(), Some(Time::from_us(10)));
        let mut popped = |now| queue.pop_due(Time::from_us(now)).map(|p| p.0);
        assert_eq!(popped(9), None);
        assert_eq!(popped(25), Some(id(1)));
        assert_eq!(popped(25), Some(id(2)));
        assert_eq!(popped(25), None);
        assert_eq!(popped(30), Some(id(3)));
        assert_eq!(queue.len(), 0);
    }
}
