//! What comes and goes in one call, mailboxes deleted in parts, and tables that fail in between.

use std::time::Duration;

use mizzle_base::ClientTag;

use super::*;
use crate::UploadId;
use crate::store::MemoryTables;

const NOW: Time = Time::from_s(1_000_000);
const BOX: MailboxId = MailboxId::new([5; 16]);
const OTHER: MailboxId = MailboxId::new([6; 16]);

/// Tables that take so many writes more, and remember how many changes each had.
#[derive(Default)]
struct Watched {
    tables: MemoryTables,
    writes: Vec<usize>,
    left: Option<usize>,
}

impl Tables for Watched {
    fn name(&self) -> String {
        "watched".into()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tables.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], below: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.tables.scan(table, from, below, limit)
    }

    fn write(&mut self, changes: Vec<Change>, durable: bool) -> Result<(), StoreError> {
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| StoreError::DiskFull(self.tables.name()))?;
        }
        self.writes.push(changes.len());
        self.tables.write(changes, durable)
    }

    fn revive(&mut self) -> Result<(), StoreError> {
        self.left = None;
        Ok(())
    }
}

fn store(limits: Limits) -> Kept<Watched> {
    let mut store = Kept::open(Watched::default(), limits).unwrap();
    let client = |n: u8, mailbox| Registered {
        client: ClientId([n; 32]),
        tag: ClientTag([n; 8]),
        mailbox,
        generation: 1,
        since: NOW,
        seen: NOW,
        first: 1,
        next: 1,
    };
    let clients = [client(1, BOX), client(2, OTHER)];
    store.perform(clients.map(Order::Register).into()).1.unwrap();
    store
}

fn append(mailbox: MailboxId, letter: u32, index: u32, count: u32) -> Order {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&letter.to_be_bytes());
    Order::Append {
        upload: UploadId(1),
        mailbox,
        item: Item {
            letter: LetterId::new(id),
            index,
            count,
            bytes: Box::new([7; ITEM_LEN]),
        },
        at: NOW,
    }
}

fn delete(mailbox: MailboxId, next: u64) -> Order {
    Order::Acknowledge { mailbox, next }
}

fn kept(answers: &[Answer]) -> Vec<Result<Option<u64>, NotStored>> {
    let result = |answer: &Answer| match answer {
        Answer::Appended { result, .. } => Some(*result),
        _ => None,
    };
    answers.iter().filter_map(result).collect()
}

#[test]
fn what_comes_and_goes_in_one_call_counts_for_the_limit_of_all_mailboxes_at_once() {
    let mut store = store(Limits::default().with_total_bytes(4 * ITEM_LEN as u64));
    let full = Err(NotStored::StoreFull);
    let forget = Order::Forget {
        client: ClientId([1; 32]),
        mailbox: BOX,
    };
    let orders = vec![
        append(BOX, 1, 0, 1),
        append(BOX, 2, 0, 1),
        append(OTHER, 3, 0, 1),
        append(OTHER, 4, 0, 1),
        append(OTHER, 5, 0, 1),
        forget,
        append(OTHER, 5, 0, 1),
        append(OTHER, 6, 0, 1),
        append(OTHER, 7, 0, 1),
    ];
    let (answers, trouble) = store.perform(orders);
    assert_eq!(trouble, Ok(()));
    let (a, b) = ((1..=2).map(|n| Ok(Some(n))), (3..=4).map(|n| Ok(Some(n))));
    let expected: Vec<_> = a.clone().chain(a).chain([full]).chain(b).chain([full]).collect();
    assert_eq!(kept(&answers), expected);
    // One that is deleted makes room for one in the next call.
    store.perform(vec![delete(OTHER, 2)]).1.unwrap();
    let (answers, _) = store.perform(vec![append(OTHER, 8, 0, 1), append(OTHER, 9, 0, 1)]);
    assert_eq!(kept(&answers), [Ok(Some(5)), full]);
    assert_eq!((store.total, store.books[&OTHER].items()), (4, 4));
}

/// Two mailboxes of which each is more than one change takes.
fn filled() -> Kept<Watched> {
    let mut store = store(Limits::default());
    let count = CHANGES_AT_ONCE as u32 + 10;
    for mailbox in [BOX, OTHER] {
        store
            .perform((0..count).map(|n| append(mailbox, 1, n, count)).collect())
            .1
            .unwrap();
    }
    store.tables.writes.clear();
    store
}

#[test]
fn whole_mailboxes_are_deleted_one_change_after_the_other() {
    let mut store = filled();
    let (answers, trouble) = store.perform(vec![delete(BOX, u64::MAX), delete(OTHER, u64::MAX)]);
    assert_eq!((answers.len(), trouble), (2, Ok(())));
    assert_eq!(store.total, 0);
    let writes = &store.tables.writes;
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert!(writes.iter().all(|n| *n < CHANGES_AT_ONCE + 20), "{writes:?}");
}

#[test]
fn what_was_changed_before_the_trouble_came_is_said_and_the_rest_is_as_it_was() {
    let mut store = filled();
    store.tables.left = Some(1);
    let (answers, trouble) = store.perform(vec![
        delete(BOX, u64::MAX),
        delete(OTHER, u64::MAX),
        append(BOX, 2, 0, 1),
    ]);
    assert_eq!(trouble, Err(StoreError::DiskFull("in memory".into())));
    let deleted: Vec<bool> = answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::Acknowledged { result, .. } => Some(result.is_ok()),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, [true, false]);
    assert_eq!(kept(&answers), [Err(NotStored::Failed)]);
    let after = CHANGES_AT_ONCE as u64 + 11;
    let (answers, trouble) = store.perform(vec![append(BOX, 2, 0, 1), append(OTHER, 2, 0, 1)]);
    assert_eq!(trouble, Ok(()));
    assert_eq!(kept(&answers), [Ok(Some(after)), Ok(Some(after))]);
    assert_eq!(store.total, after + 1);
    store
        .perform(vec![Order::Expire {
            now: NOW + LETTER_LIFE + Duration::from_secs(1),
        }])
        .1
        .unwrap();
    assert_eq!(store.books[&BOX].items(), 1);
}
