//! A store over sorted tables of bytes: numbers, limits, letters, expiry. The same whether they are in memory or on disk.
//!
//! Numbers of mailboxes and counts are in memory too, some 50 bytes a mailbox. All orders of one call are one change of the
//! tables, so one wait for the disk, or a few where they delete much; what the answers say is true once that is over.

mod rows;

use std::collections::BTreeMap;

use mizzle_base::item::ITEM_LEN;
use mizzle_base::{Item, LetterId, MailboxId, Time};

use super::{
    Answer, Change, Failed, Fetched, LETTER_LIFE, Limits, MailStore, NotStored, Order, Progress, Registered,
    Row, StoreError, Table, Tables,
};
use crate::ClientId;
use rows::{Book, Fields, Letter, client_bytes, item_bytes, lettered, numbered, read_client, read_item};

/// Rows read at once where all are read.
const CHUNK: usize = 1_024;
/// Letters and mailboxes that one [`Order::Expire`] looks at.
const LETTERS_AT_ONCE: usize = 1_024;
const MAILBOXES_AT_ONCE: usize = 64;
/// Changes that are made at once, some 200 bytes each beside the items: deletions of whole mailboxes would be one change of any size.
const CHANGES_AT_ONCE: usize = 16_384;
/// Letters remembered, as a multiple of those that may wait.
const REMEMBERED: u32 = 10;
/// Longer than any key.
const KEY_END: [u8; 48] = [0xff; 48];

/// What the orders of one call change; nothing of it counts before it is in the tables.
#[derive(Default)]
struct Batch {
    /// Changes beside those of `books` and `letters`.
    changes: Vec<Change>,
    /// `None`: deleted.
    books: BTreeMap<MailboxId, Option<Book>>,
    letters: BTreeMap<(MailboxId, LetterId), Option<Letter>>,
    /// Items that come to all mailboxes, and that go.
    more: u64,
    fewer: u64,
    durable: bool,
}

/// A store over tables: counts, numbers and limits are here, what is on disk is theirs.
pub struct Kept<T> {
    tables: T,
    limits: Limits,
    books: BTreeMap<MailboxId, Book>,
    /// Items in all mailboxes.
    total: u64,
    /// The last write failed.
    doubtful: bool,
    /// Something can't be read that others can do without.
    noticed: Option<StoreError>,
    /// Where expiry goes on.
    letters_from: Vec<u8>,
    mailboxes_from: MailboxId,
}

impl<T: Tables> Kept<T> {
    /// A store over these tables, which may hold what an earlier one left.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn open(tables: T, limits: Limits) -> Result<Self, StoreError> {
        let mut store = Self::empty(tables, limits);
        store.load()?;
        Ok(store)
    }

    /// A store over tables that are known to be empty.
    pub(super) fn empty(tables: T, limits: Limits) -> Self {
        Self {
            tables,
            limits,
            books: BTreeMap::new(),
            total: 0,
            doubtful: false,
            noticed: None,
            letters_from: Vec::new(),
            mailboxes_from: MailboxId::DROP,
        }
    }

    /// The tables.
    pub fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let mut books = BTreeMap::new();
        self.each(Table::Mailboxes, |key, value| {
            books.insert(MailboxId::new(key.try_into().ok()?), Book::from_bytes(value)?);
            Some(())
        })?;
        self.total = books.values().map(Book::items).sum();
        self.books = books;
        Ok(())
    }

    /// Reads a whole table.
    fn each(&self, table: Table, mut take: impl FnMut(&[u8], &[u8]) -> Option<()>) -> Result<(), StoreError> {
        let mut from = Vec::new();
        loop {
            let rows = self.tables.scan(table, &from, &KEY_END, CHUNK)?;
            for (key, value) in &rows {
                take(key, value).ok_or_else(|| self.damaged(table))?;
            }
            match rows.into_iter().next_back() {
                Some((last, _)) => from = after(last),
                None => return Ok(()),
            }
        }
    }

    fn damaged(&self, table: Table) -> StoreError {
        let what = format!("a row of its {}", table.name());
        StoreError::Damaged(self.tables.name(), what)
    }

    fn revive(&mut self) -> Result<(), StoreError> {
        if self.doubtful {
            self.tables.revive()?;
            self.load()?;
            self.doubtful = false;
        }
        Ok(())
    }

    fn book(&self, batch: &Batch, mailbox: &MailboxId) -> Option<Book> {
        match batch.books.get(mailbox) {
            Some(book) => *book,
            None => self.books.get(mailbox).copied(),
        }
    }

    /// Items in all mailboxes, as they will be.
    fn total(&self, batch: &Batch) -> u64 {
        (self.total + batch.more).saturating_sub(batch.fewer)
    }

    /// Changes the numbers of a mailbox; `None`: there is none any more.
    fn set_book(&self, batch: &mut Batch, mailbox: MailboxId, book: Option<Book>) {
        batch.fewer += self.book(batch, &mailbox).map_or(0, |before| before.items());
        batch.more += book.map_or(0, |after| after.items());
        batch.books.insert(mailbox, book);
    }

    fn letter(
        &self,
        batch: &Batch,
        mailbox: MailboxId,
        letter: LetterId,
    ) -> Result<Option<Letter>, StoreError> {
        if let Some(known) = batch.letters.get(&(mailbox, letter)) {
            return Ok(*known);
        }
        let row = self.tables.get(Table::Letters, &lettered(&mailbox, &letter))?;
        row.map(|row| Letter::from_bytes(&row).ok_or_else(|| self.damaged(Table::Letters)))
            .transpose()
    }

    fn carry_out(&mut self, batch: &mut Batch, order: &Order) -> Result<Option<Answer>, StoreError> {
        Ok(Some(match order {
            Order::Register(client) => {
                self.register(batch, client);
                Answer::Registered {
                    client: client.client,
                    result: Ok(()),
                }
            }
            Order::Seen { client, at } => {
                if let Some(row) = self.tables.get(Table::Clients, &client.0)? {
                    let mut known =
                        read_client(&client.0, &row).ok_or_else(|| self.damaged(Table::Clients))?;
                    known.seen = *at;
                    let row = client_bytes(&known);
                    batch
                        .changes
                        .push(Change::Put(Table::Clients, client.0.to_vec(), row));
                }
                return Ok(None);
            }
            Order::Forget { client, mailbox } => {
                self.forget(batch, client, mailbox)?;
                return Ok(None);
            }
            &Order::Look {
                upload,
                mailbox,
                letter,
            } => Answer::Known {
                upload,
                result: Ok(self.letter(batch, mailbox, letter)?.map(|known| known.progress)),
            },
            Order::Append {
                upload,
                mailbox,
                item,
                at,
            } => Answer::Appended {
                upload: *upload,
                mailbox: *mailbox,
                index: item.index,
                result: self.append(batch, *mailbox, item, *at)?,
            },
            &Order::Fetch { mailbox, from, count } => Answer::Fetched {
                mailbox,
                result: self.fetch(batch, mailbox, from, count)?,
            },
            &Order::Acknowledge { mailbox, next } => {
                self.delete_below(batch, mailbox, next)?;
                Answer::Acknowledged {
                    mailbox,
                    result: Ok(()),
                }
            }
            &Order::Expire { now } => Answer::Expired {
                firsts: self.expire(batch, now)?,
            },
        }))
    }

    /// What can be done for an order while nothing can be written: what was kept before is as it was, and can be fetched as far as
    /// the tables can be read.
    fn only_read(&mut self, order: &Order) -> Option<Answer> {
        match order {
            Order::Look { .. } | Order::Fetch { .. } => self
                .carry_out(&mut Batch::default(), order)
                .unwrap_or_else(|_| order.failed()),
            _ => order.failed(),
        }
    }

    fn register(&self, batch: &mut Batch, client: &Registered) {
        let row = client_bytes(client);
        batch
            .changes
            .push(Change::Put(Table::Clients, client.client.0.to_vec(), row));
        self.set_book(batch, client.mailbox, Some(Book::EMPTY));
        batch.durable = true;
    }

    fn forget(&self, batch: &mut Batch, client: &ClientId, mailbox: &MailboxId) -> Result<(), StoreError> {
        let from = mailbox.as_bytes();
        let below: Vec<u8> = [&from[..], &KEY_END].concat();
        let mut changes = vec![Change::Delete(Table::Clients, client.0.to_vec())];
        for table in [Table::Letters, Table::Ends] {
            let rows = self.tables.scan(table, from, &below, usize::MAX)?;
            changes.extend(rows.into_iter().map(|(key, _)| Change::Delete(table, key)));
        }
        // What this batch puts there is not in the tables yet.
        batch.letters.retain(|(of, _), _| of != mailbox);
        batch.changes.retain(|change| match change {
            Change::Put(Table::Items | Table::Ends, key, _) => !key.starts_with(from),
            _ => true,
        });
        if let Some(book) = self.book(batch, mailbox) {
            changes
                .extend((book.first..book.next).map(|n| Change::Delete(Table::Items, numbered(mailbox, n))));
        }
        batch.changes.extend(changes);
        self.set_book(batch, *mailbox, None);
        Ok(())
    }

    fn append(
        &self,
        batch: &mut Batch,
        mailbox: MailboxId,
        item: &Item,
        at: Time,
    ) -> Result<Result<Option<u64>, NotStored>, StoreError> {
        let Some(mut book) = self.book(batch, &mailbox) else {
            return Ok(Err(NotStored::NoMailbox));
        };
        let known = self.letter(batch, mailbox, item.letter)?;
        let came = known.map_or(0, |letter| letter.progress.next);
        if known.is_some_and(|letter| letter.progress.count != item.count) || item.index > came {
            return Ok(Err(NotStored::OutOfOrder));
        }
        if item.index < came {
            return Ok(Ok(None));
        }
        let limits = &self.limits;
        if book.items() >= limits.mailbox_items {
            return Ok(Err(NotStored::MailboxFull));
        }
        if self.total(batch) >= limits.total_items {
            return Ok(Err(NotStored::StoreFull));
        }
        if known.is_none() {
            if book.letters >= limits.letters || book.remembered >= limits.letters.saturating_mul(REMEMBERED)
            {
                return Ok(Err(NotStored::TooManyLetters));
            }
            book.letters += 1;
            book.remembered += 1;
        }
        let number = book.next;
        book.next += 1;
        self.set_book(batch, mailbox, Some(book));
        let progress = Progress {
            count: item.count,
            next: item.index + 1,
        };
        let letter = Letter {
            progress,
            at_s: at.as_s(),
        };
        batch.letters.insert((mailbox, item.letter), Some(letter));
        let key = numbered(&mailbox, number);
        if item.is_last() {
            batch
                .changes
                .push(Change::Put(Table::Ends, key.clone(), Vec::new()));
        }
        batch
            .changes
            .push(Change::Put(Table::Items, key, item_bytes(item, at)));
        batch.durable = true;
        Ok(Ok(Some(number)))
    }

    fn fetch(
        &mut self,
        batch: &Batch,
        mailbox: MailboxId,
        from: u64,
        count: usize,
    ) -> Result<Result<Fetched, Failed>, StoreError> {
        let Some(Book { first, next, .. }) = self.book(batch, &mailbox) else {
            return Ok(Err(Failed));
        };
        let from = from.max(first);
        let (begin, end) = (numbered(&mailbox, from), numbered(&mailbox, next));
        let whole = |rows: Vec<Row>| -> Option<Vec<Item>> {
            let rows = (from..).zip(&rows);
            rows.map(|(number, (key, value))| {
                let item = read_item(value).filter(|_| *key == numbered(&mailbox, number));
                item.map(|(item, _)| item)
            })
            .collect()
        };
        let (items, damaged) = match self.tables.scan(Table::Items, &begin, &end, count) {
            Ok(rows) => match whole(rows) {
                Some(items) => (items, 0),
                None => self.what_can_be_read(mailbox, from, next, count)?,
            },
            Err(StoreError::Damaged(..)) => self.what_can_be_read(mailbox, from, next, count)?,
            Err(why) => return Err(why),
        };
        Ok(Ok(Fetched {
            first,
            next,
            from,
            items,
            damaged,
        }))
    }

    /// Items one by one, with something that nobody can open in place of each that is damaged, and how many those are: one of
    /// them shall not keep all behind it from their owner.
    fn what_can_be_read(
        &mut self,
        mailbox: MailboxId,
        from: u64,
        next: u64,
        count: usize,
    ) -> Result<(Vec<Item>, u64), StoreError> {
        let (mut items, mut damaged) = (Vec::new(), 0);
        for number in (from..next).take(count) {
            let row = match self.tables.get(Table::Items, &numbered(&mailbox, number)) {
                Ok(row) => row.and_then(|row| read_item(&row)),
                Err(why @ StoreError::Damaged(..)) => {
                    self.noticed = Some(why);
                    None
                }
                Err(why) => return Err(why),
            };
            items.push(row.map_or_else(
                || {
                    damaged += 1;
                    nothing_to_open(&mailbox, number)
                },
                |(item, _)| item,
            ));
        }
        if damaged > 0 && self.noticed.is_none() {
            self.noticed = Some(self.damaged(Table::Items));
        }
        Ok((items, damaged))
    }

    /// Deletes items; returns the number of the first that is left.
    fn delete_below(
        &self,
        batch: &mut Batch,
        mailbox: MailboxId,
        next: u64,
    ) -> Result<Option<u64>, StoreError> {
        let Some(mut book) = self.book(batch, &mailbox) else {
            return Ok(None);
        };
        let next = next.min(book.next);
        if next <= book.first {
            return Ok(None);
        }
        let ends = self.tables.scan(
            Table::Ends,
            &numbered(&mailbox, book.first),
            &numbered(&mailbox, next),
            usize::MAX,
        )?;
        book.letters = book.letters.saturating_sub(ends.len() as u32);
        let ends = ends.into_iter().map(|(key, _)| Change::Delete(Table::Ends, key));
        let items = (book.first..next).map(|n| Change::Delete(Table::Items, numbered(&mailbox, n)));
        batch.changes.extend(ends.chain(items));
        book.first = next;
        self.set_book(batch, mailbox, Some(book));
        Ok(Some(next))
    }

    fn expire(&mut self, batch: &mut Batch, now: Time) -> Result<Vec<(MailboxId, u64)>, StoreError> {
        self.expire_letters(batch, now)?;
        let mut firsts = Vec::new();
        let waiting = |(&mailbox, book): (&MailboxId, &Book)| (book.items() > 0).then_some(mailbox);
        let some: Vec<MailboxId> = self
            .books
            .range(self.mailboxes_from..)
            .filter_map(waiting)
            .take(MAILBOXES_AT_ONCE)
            .collect();
        self.mailboxes_from = match some.last() {
            Some(last) if some.len() == MAILBOXES_AT_ONCE => *last,
            _ => MailboxId::DROP,
        };
        for mailbox in some {
            let below = self.first_alive(batch, mailbox, now)?;
            if let Some(first) = self.delete_below(batch, mailbox, below)? {
                firsts.push((mailbox, first));
            }
        }
        Ok(firsts)
    }

    /// The number of the first item that is not too old; they came in the order of their numbers.
    fn first_alive(&self, batch: &Batch, mailbox: MailboxId, now: Time) -> Result<u64, StoreError> {
        let Some(Book { first, next, .. }) = self.book(batch, &mailbox) else {
            return Ok(0);
        };
        let is_old = |number: u64| {
            let row = match self.tables.get(Table::Items, &numbered(&mailbox, number)) {
                // When it came nobody knows; it goes with its neighbours.
                Err(StoreError::Damaged(..)) => None,
                row => row?,
            };
            let at_s = row.and_then(|row| read_item(&row)).map(|(_, at_s)| at_s);
            // One that this very call put there is not in the tables yet: young.
            let life_s = self.limits.item_life.as_secs();
            Ok::<bool, StoreError>(at_s.is_some_and(|at_s| now.as_s() > at_s.saturating_add(life_s)))
        };
        let (mut old_below, mut young_from) = (first, next);
        if !is_old(first)? {
            return Ok(first);
        }
        while old_below < young_from {
            let middle = old_below + (young_from - old_below) / 2;
            if is_old(middle)? {
                old_below = middle + 1;
            } else {
                young_from = middle;
            }
        }
        Ok(old_below)
    }

    fn expire_letters(&mut self, batch: &mut Batch, now: Time) -> Result<(), StoreError> {
        let rows = self
            .tables
            .scan(Table::Letters, &self.letters_from, &KEY_END, LETTERS_AT_ONCE)?;
        self.letters_from = match rows.last() {
            Some((last, _)) if rows.len() == LETTERS_AT_ONCE => after(last.clone()),
            _ => Vec::new(),
        };
        for (key, _) in rows {
            let mut fields = Fields(&key);
            let (Some(mailbox), Some(letter)) = (fields.take(), fields.take()) else {
                return Err(self.damaged(Table::Letters));
            };
            let (mailbox, letter) = (MailboxId::new(mailbox), LetterId::new(letter));
            let Some(known) = self.letter(batch, mailbox, letter)? else {
                continue;
            };
            if now.as_s() <= known.at_s.saturating_add(LETTER_LIFE.as_secs()) {
                continue;
            }
            batch.letters.insert((mailbox, letter), None);
            if let Some(mut book) = self.book(batch, &mailbox) {
                let unfinished = known.progress.next < known.progress.count;
                book.letters = book.letters.saturating_sub(unfinished.into());
                book.remembered = book.remembered.saturating_sub(1);
                self.set_book(batch, mailbox, Some(book));
            }
        }
        Ok(())
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        let total = self.total(&batch);
        let Batch {
            mut changes,
            books,
            letters,
            durable,
            ..
        } = batch;
        for (mailbox, book) in &books {
            let key = mailbox.as_bytes().to_vec();
            changes.push(match book {
                Some(book) => Change::Put(Table::Mailboxes, key, book.to_bytes()),
                None => Change::Delete(Table::Mailboxes, key),
            });
        }
        for ((mailbox, letter), known) in letters {
            let key = lettered(&mailbox, &letter);
            changes.push(match known {
                Some(known) => Change::Put(Table::Letters, key, known.to_bytes()),
                None => Change::Delete(Table::Letters, key),
            });
        }
        if changes.is_empty() {
            return Ok(());
        }
        if let Err(why) = self.tables.write(changes, durable) {
            self.doubtful = true;
            return Err(why);
        }
        self.total = total;
        for (mailbox, book) in books {
            match book {
                Some(book) => self.books.insert(mailbox, book),
                None => self.books.remove(&mailbox),
            };
        }
        Ok(())
    }
}

/// In place of an item that can't be read: a letter of one item that its receiver can't open.
fn nothing_to_open(mailbox: &MailboxId, number: u64) -> Item {
    let mut id = *mailbox.as_bytes();
    for (byte, of_number) in id[8..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= of_number;
    }
    Item {
        letter: LetterId::new(id),
        index: 0,
        count: 1,
        bytes: Box::new([0; ITEM_LEN]),
    }
}

/// The key that comes right behind this one.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

impl<T: Tables> MailStore for Kept<T> {
    fn registered(&mut self) -> Result<Vec<Registered>, StoreError> {
        let mut all = Vec::new();
        self.each(Table::Clients, |key, value| {
            let mut client = read_client(key, value)?;
            let book = self.books.get(&client.mailbox)?;
            (client.first, client.next) = (book.first, book.next);
            all.push(client);
            Some(())
        })?;
        Ok(all)
    }

    fn perform(&mut self, orders: Vec<Order>) -> (Vec<Answer>, Result<(), StoreError>) {
        if let Err(why) = self.revive() {
            let answers = orders.iter().filter_map(|order| self.only_read(order));
            return (answers.collect(), Err(why));
        }
        let (mut batch, mut answers, mut trouble) = (Batch::default(), Vec::new(), Ok(()));
        // Orders that are carried out for good, and how many answers they have.
        let (mut done, mut sure) = (0, 0);
        for (n, order) in orders.iter().enumerate() {
            match self.carry_out(&mut batch, order) {
                Ok(answer) => answers.extend(answer),
                Err(why) => {
                    trouble = Err(why);
                    answers.extend(order.failed());
                }
            }
            if batch.changes.len() < CHANGES_AT_ONCE && n + 1 < orders.len() {
                continue;
            }
            if let Err(why) = self.commit(std::mem::take(&mut batch)) {
                answers.truncate(sure);
                answers.extend(orders[done..].iter().filter_map(Order::failed));
                return (answers, Err(why));
            }
            (done, sure) = (n + 1, answers.len());
        }
        if let Some(why) = self.noticed.take() {
            trouble = trouble.and(Err(why));
        }
        (answers, trouble)
    }
}

#[cfg(test)]
mod tests;
