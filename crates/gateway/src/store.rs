//! Where mailboxes are kept: the trait, and the store in memory.
//!
//! What is sent when is the gateway core's; a store only appends, reads and deletes.

use std::collections::{BTreeMap, VecDeque};

use mizzle_sphinx::PAYLOAD_LEN;

use crate::ClientId;

/// A packet that came back for a client.
#[derive(Clone)]
pub struct Item {
    /// Reply id.
    pub id: [u8; 16],
    /// delta.
    pub payload: Box<[u8; PAYLOAD_LEN]>,
}

/// The mailbox holds as much as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MailboxFull;

/// Mailboxes: items numbered from 1 in order of arrival, deleted only once acknowledged.
pub trait MailboxStore {
    /// Appends an item; returns its number.
    ///
    /// # Errors
    /// When the mailbox is full; the item is lost and the caller counts it.
    fn append(&mut self, client: ClientId, item: Item) -> Result<u64, MailboxFull>;

    /// The item with this number, if it is still there.
    fn get(&self, client: ClientId, seq: u64) -> Option<&Item>;

    /// Deletes all items with numbers below `next`.
    fn acknowledge(&mut self, client: ClientId, next: u64);

    /// Forgets a mailbox and its numbers.
    fn remove(&mut self, client: ClientId);
}

#[derive(Default)]
struct Mailbox {
    // Number of the first item in the queue, less one.
    deleted: u64,
    items: VecDeque<Item>,
}

/// Mailboxes in memory: gone with the process.
pub struct MemoryStore {
    capacity: usize,
    total: usize,
    kept: usize,
    mailboxes: BTreeMap<ClientId, Mailbox>,
}

impl MemoryStore {
    /// At most `capacity` items a mailbox, and [`Self::with_total`] in all; 4 KB each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            total: 65_536,
            kept: 0,
            mailboxes: BTreeMap::new(),
        }
    }

    /// At most so many items in all mailboxes together; 65,536 by default, 270 MB.
    #[must_use]
    pub fn with_total(mut self, items: usize) -> Self {
        self.total = items;
        self
    }
}

impl MailboxStore for MemoryStore {
    fn append(&mut self, client: ClientId, item: Item) -> Result<u64, MailboxFull> {
        let mailbox = self.mailboxes.entry(client).or_default();
        if mailbox.items.len() >= self.capacity || self.kept >= self.total {
            return Err(MailboxFull);
        }
        self.kept += 1;
        mailbox.items.push_back(item);
        Ok(mailbox.deleted + mailbox.items.len() as u64)
    }

    fn get(&self, client: ClientId, seq: u64) -> Option<&Item> {
        let mailbox = self.mailboxes.get(&client)?;
        let index = seq.checked_sub(mailbox.deleted + 1)?;
        mailbox.items.get(usize::try_from(index).ok()?)
    }

    fn acknowledge(&mut self, client: ClientId, next: u64) {
        let Some(mailbox) = self.mailboxes.get_mut(&client) else {
            return;
        };
        // A client can't acknowledge what it was not sent.
        let n = next
            .saturating_sub(mailbox.deleted + 1)
            .min(mailbox.items.len() as u64);
        mailbox.items.drain(..n as usize);
        self.kept -= n as usize;
        mailbox.deleted += n;
    }

    fn remove(&mut self, client: ClientId) {
        if let Some(mailbox) = self.mailboxes.remove(&client) {
            self.kept -= mailbox.items.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_kept_until_acknowledged_and_bounded() {
        let client = ClientId([1; 32]);
        let item = |n| Item {
            id: [n; 16],
            payload: Box::new([n; PAYLOAD_LEN]),
        };
        let mut store = MemoryStore::new(2);
        assert_eq!(store.append(client, item(1)), Ok(1));
        assert_eq!(store.append(client, item(2)), Ok(2));
        assert_eq!(store.append(client, item(3)), Err(MailboxFull));
        assert_eq!(store.get(client, 2).map(|i| i.id[0]), Some(2));
        store.acknowledge(client, 2);
        assert!(store.get(client, 1).is_none());
        assert_eq!(store.append(client, item(3)), Ok(3));
        store.acknowledge(client, 1);
        assert!(
            store.get(client, 2).is_some(),
            "an old acknowledgement deletes nothing"
        );
        store.acknowledge(client, u64::MAX);
        assert_eq!(store.append(client, item(4)), Ok(4), "numbers go on");
    }

    #[test]
    fn all_mailboxes_together_are_bounded_too() {
        let (alice, bob) = (ClientId([1; 32]), ClientId([2; 32]));
        let item = || Item {
            id: [1; 16],
            payload: Box::new([1; PAYLOAD_LEN]),
        };
        let mut store = MemoryStore::new(10).with_total(3);
        for _ in 0..3 {
            assert!(store.append(alice, item()).is_ok());
        }
        assert_eq!(store.append(bob, item()), Err(MailboxFull));
        store.acknowledge(alice, 2);
        assert_eq!(store.append(bob, item()), Ok(1));
        store.remove(alice);
        assert!(store.append(bob, item()).is_ok() && store.append(bob, item()).is_ok());
        assert_eq!(store.append(bob, item()), Err(MailboxFull));
    }
}
