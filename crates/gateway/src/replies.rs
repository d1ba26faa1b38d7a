//! What came back for each client, replies and loops, in memory until the client has read it.
//!
//! They mean nothing to another run of the client, so they need not outlive this one of the gateway; letters are in a
//! [`crate::store`]. What is sent when is the core's.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mizzle_base::Time;
use mizzle_sphinx::PAYLOAD_LEN;

use crate::ClientId;

/// A packet that came back for a client.
#[derive(Clone)]
pub(crate) struct Reply {
    /// Reply id.
    pub(crate) id: [u8; 16],
    /// delta.
    pub(crate) payload: Box<[u8; PAYLOAD_LEN]>,
    /// When it came.
    pub(crate) at: Time,
}

/// As much is kept as may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Full {
    /// For this client.
    Client,
    /// For all together, as far as this one may have a share of it.
    All,
}

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
    /// At most `capacity` replies for a client and `total` in all; 4 KB each. A client may have as many as are free then: one
    /// that takes all it can get takes half, and `n` such leave one part in `n + 1` to the others.
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
        if queue.replies.len() >= self.capacity {
            return Err(Full::Client);
        }
        if queue.replies.len() >= self.total.saturating_sub(self.kept) {
            return Err(Full::All);
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

    /// Deletes what came longer ago than `life`: how many, and the number of the first that is left.
    pub(crate) fn expire(&mut self, client: ClientId, now: Time, life: Duration) -> (u64, u64) {
        let Some(queue) = self.queues.get_mut(&client) else {
            return (0, 1);
        };
        let mut n = 0;
        while queue
            .replies
            .front()
            .is_some_and(|reply| now.since(reply.at) > life)
        {
            queue.replies.pop_front();
            n += 1;
        }
        self.kept -= n as usize;
        queue.deleted += n;
        (n, queue.deleted + 1)
    }

    /// How many are kept.
    pub(crate) fn kept(&self) -> usize {
        self.kept
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
            at: Time::ZERO,
        };
        let mut replies = Replies::new(2, 100);
        assert_eq!(replies.append(client, reply(1)), Ok(1));
        assert_eq!(replies.append(client, reply(2)), Ok(2));
        assert_eq!(replies.append(client, reply(3)), Err(Full::Client));
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

    fn reply(at: Time) -> Reply {
        Reply {
            id: [1; 16],
            payload: Box::new([1; PAYLOAD_LEN]),
            at,
        }
    }

    /// How many it can have appended.
    fn fill(replies: &mut Replies, n: u8) -> usize {
        (0..)
            .take_while(|_| replies.append(ClientId([n; 32]), reply(Time::ZERO)).is_ok())
            .count()
    }

    #[test]
    fn all_queues_together_are_bounded_and_who_takes_all_leaves_room_for_others() {
        let mut replies = Replies::new(1_000, 64);
        let took: Vec<usize> = (0..5).map(|n| fill(&mut replies, n)).collect();
        assert_eq!(took, [32, 16, 8, 4, 2]);
        assert_eq!(
            replies.append(ClientId([0; 32]), reply(Time::ZERO)),
            Err(Full::All)
        );
        assert!(replies.append(ClientId([9; 32]), reply(Time::ZERO)).is_ok());
        assert_eq!(replies.kept(), 63);
        // The first ones acknowledge a part, and others can have that.
        replies.acknowledge(ClientId([0; 32]), 21);
        assert_eq!(fill(&mut replies, 9), 10);
        replies.remove(ClientId([1; 32]));
        replies.remove(ClientId([2; 32]));
        assert!(fill(&mut replies, 3) > 0);
        assert!(replies.kept() <= 64);
    }

    #[test]
    fn old_ones_go_and_numbers_go_on() {
        let (client, second) = (ClientId([1; 32]), Duration::from_secs(1));
        let mut replies = Replies::new(10, 100);
        for at_s in [10, 11, 20] {
            assert!(replies.append(client, reply(Time::from_s(at_s))).is_ok());
        }
        let expire = |replies: &mut Replies, now_s| replies.expire(client, Time::from_s(now_s), second * 5);
        assert_eq!(expire(&mut replies, 15), (0, 1));
        assert_eq!(expire(&mut replies, 17), (2, 3));
        assert_eq!(replies.kept(), 1);
        assert!(replies.get(client, 2).is_none() && replies.get(client, 3).is_some());
        assert_eq!(replies.append(client, reply(Time::from_s(21))), Ok(4));
        assert_eq!(
            replies.expire(ClientId([2; 32]), Time::from_s(99), second),
            (0, 1)
        );
    }
}
