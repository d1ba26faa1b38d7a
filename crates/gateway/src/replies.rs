//! What came back for each client, replies and loops, in memory until the client has read it.
//!
//! They mean nothing to another run of the client, so they need not outlive this one of the gateway; letters are in a
//! [`crate::store`]. What is sent when is the core's.

use std::collections::{BTreeMap, VecDeque};

use mizzle_sphinx::PAYLOAD_LEN;

use crate::ClientId;

/// A packet that came back for a client.
#[derive(Clone)]
pub(crate) struct Reply {
    /// Reply id.
    pub(crate) id: [u8; 16],
    /// delta.
    pub(crate) payload: Box<[u8; PAYLOAD_LEN]>,
}

/// The queue holds as much as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

#[derive(Default)]
struct Queue {
    // Number of the first reply in the queue, less one.
    deleted: u64,
    replies: VecDeque<Reply>,
}

/// A queue for each client: replies numbered from 1 in order of arrival, deleted only once acknowledged.
pub(crate) struct Replies {
    capacity: usize,
    total: usize,
    kept: usize,
    queues: BTreeMap<ClientId, Queue>,
}

impl Replies {
    /// At most `capacity` replies for a client and `total` in all; 4 KB each.
    pub(crate) fn new(capacity: usize, total: usize) -> Self {
        Self {
            capacity,
            total,
            kept: 0,
            queues: BTreeMap::new(),
        }
    }

    /// Appends a reply; returns its number.
    pub(crate) fn append(&mut self, client: ClientId, reply: Reply) -> Result<u64, Full> {
        let queue = self.queues.entry(client).or_default();
        if queue.replies.len() >= self.capacity || self.kept >= self.total {
            return Err(Full);
        }
        self.kept += 1;
        queue.replies.push_back(reply);
        Ok(queue.deleted + queue.replies.len() as u64)
    }

    /// The reply with this number, if it is still there.
    pub(crate) fn get(&self, client: ClientId, seq: u64) -> Option<&Reply> {
        let queue = self.queues.get(&client)?;
        let index = seq.checked_sub(queue.deleted + 1)?;
        queue.replies.get(usize::try_from(index).ok()?)
    }

    /// Deletes all with numbers below `next`.
    pub(crate) fn acknowledge(&mut self, client: ClientId, next: u64) {
        let Some(queue) = self.queues.get_mut(&client) else {
            return;
        };
        // A client can't acknowledge what it was not sent.
        let n = next
            .saturating_sub(queue.deleted + 1)
            .min(queue.replies.len() as u64);
        queue.replies.drain(..n as usize);
        self.kept -= n as usize;
        queue.deleted += n;
    }

    /// Forgets a client and its numbers.
    pub(crate) fn remove(&mut self, client: ClientId) {
        if let Some(queue) = self.queues.remove(&client) {
            self.kept -= queue.replies.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_kept_until_acknowledged_and_bounded() {
        let client = ClientId([1; 32]);
        let reply = |n| Reply {
            id: [n; 16],
            payload: Box::new([n; PAYLOAD_LEN]),
        };
        let mut replies = Replies::new(2, 100);
        assert_eq!(replies.append(client, reply(1)), Ok(1));
        assert_eq!(replies.append(client, reply(2)), Ok(2));
        assert_eq!(replies.append(client, reply(3)), Err(Full));
        assert_eq!(replies.get(client, 2).map(|r| r.id[0]), Some(2));
        replies.acknowledge(client, 2);
        assert!(replies.get(client, 1).is_none());
        assert_eq!(replies.append(client, reply(3)), Ok(3));
        replies.acknowledge(client, 1);
        assert!(
            replies.get(client, 2).is_some(),
            "an old acknowledgement deletes nothing"
        );
        replies.acknowledge(client, u64::MAX);
        assert_eq!(replies.append(client, reply(4)), Ok(4), "numbers go on");
    }

    #[test]
    fn all_queues_together_are_bounded_too() {
        let (alice, bob) = (ClientId([1; 32]), ClientId([2; 32]));
        let reply = || Reply {
            id: [1; 16],
            payload: Box::new([1; PAYLOAD_LEN]),
        };
        let mut replies = Replies::new(10, 3);
        for _ in 0..3 {
            assert!(replies.append(alice, reply()).is_ok());
        }
        assert_eq!(replies.append(bob, reply()), Err(Full));
        replies.acknowledge(alice, 2);
        assert_eq!(replies.append(bob, reply()), Ok(1));
        replies.remove(alice);
        assert!(replies.append(bob, reply()).is_ok() && replies.append(bob, reply()).is_ok());
        assert_eq!(replies.append(bob, reply()), Err(Full));
    }
}
