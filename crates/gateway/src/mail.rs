//! The owner's side of mailboxes: what is read ahead for the downlink, what was acknowledged and is deleted.
//!
//! Items are read from the store some ticks before they leave, so a tick never waits for a disk. Their ticks are
//! [`crate::link`]'s, how they came is [`crate::upload`]'s.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mizzle_base::{Item, MailboxId, Time};

use crate::store::{Failed, Fetched, Order, Registered};
use crate::{Action, ClientId, Out};

/// Items read ahead for a client that is linked, 4 KB each: 30 ms of the fastest downlink.
const AHEAD: usize = 16;
/// Items kept behind the one that is next: those that the link may turn out not to have written.
const BEHIND: u64 = 2;
/// A store in trouble is asked again after so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// One mailbox.
pub(crate) struct Mailbox {
    pub(crate) client: ClientId,
    /// Number below which the owner has all on his disk, and number of the next item to come.
    acked: u64,
    next: u64,
    /// Number below which all was sent at some time, as far as this process knows.
    sent: u64,
    /// Read from the store: numbers without a gap.
    ready: VecDeque<(u64, Item)>,
    fetching: bool,
    fetch_after: Time,
    /// What the store deletes up to at the moment, and what it has deleted.
    deleting: Option<u64>,
    deleted: u64,
}

impl Mailbox {
    pub(crate) fn has_mail(&self) -> bool {
        self.next > self.acked
    }

    /// The first item that the owner lacks.
    pub(crate) fn first(&self) -> u64 {
        self.acked
    }

    /// The item with this number, if it was read.
    pub(crate) fn ready(&self, number: u64) -> Option<&Item> {
        let (first, _) = self.ready.front()?;
        let index = usize::try_from(number.checked_sub(*first)?).ok()?;
        self.ready.get(index).map(|(_, item)| item)
    }

    pub(crate) fn sent(&mut self, number: u64) {
        self.sent = self.sent.max(number + 1);
    }

    /// The store took an item under this number.
    pub(crate) fn took(&mut self, number: u64) {
        self.next = self.next.max(number + 1);
    }

    /// Asks the store for what comes next at `cursor`, if it isn't here.
    pub(crate) fn read_ahead(&mut self, now: Time, id: MailboxId, cursor: u64, out: &mut Out) {
        while let Some((number, _)) = self.ready.front()
            && number + BEHIND < cursor
        {
            self.ready.pop_front();
        }
        if self.ready.front().is_some_and(|(first, _)| *first > cursor) {
            // It goes back further than what is here.
            self.ready.clear();
        }
        let from = self.ready.back().map_or(cursor, |(last, _)| last + 1);
        let here = from.saturating_sub(cursor) as usize;
        if self.fetching || from >= self.next || here > AHEAD / 2 || now < self.fetch_after {
            return;
        }
        self.fetching = true;
        out.actions.push_back(Action::Store(Order::Fetch {
            mailbox: id,
            from,
            count: AHEAD - here,
        }));
    }

    /// The store has read. Items that the clock of days has deleted meanwhile are passed over.
    pub(crate) fn fetched(&mut self, now: Time, result: Result<Fetched, Failed>, out: &mut Out) {
        self.fetching = false;
        let Ok(fetched) = result else {
            out.counters.count("mail.store_failed");
            self.fetch_after = now + PATIENCE;
            return;
        };
        if fetched.damaged > 0 {
            out.counters.add("mail.damaged", fetched.damaged);
        }
        self.next = self.next.max(fetched.next);
        self.first_is(fetched.first);
        let follows = self.ready.back().is_none_or(|(last, _)| last + 1 == fetched.from);
        if !follows {
            self.ready.clear();
        }
        self.ready.extend((fetched.from..).zip(fetched.items));
    }

    /// The store keeps nothing below this number. How many items the owner lacks of those.
    pub(crate) fn first_is(&mut self, first: u64) -> u64 {
        let gone = first.saturating_sub(self.acked);
        self.acked = self.acked.max(first);
        self.deleted = self.deleted.max(first);
        self.next = self.next.max(first);
        gone
    }

    /// The owner says hello: all below `next` is on his disk, or he doesn't know (0). That may have been sent before
    /// this process began.
    pub(crate) fn resumed(&mut self, id: MailboxId, next: u64, out: &mut Out) {
        if next <= self.next {
            self.sent = self.sent.max(next);
        }
        self.acknowledged(id, next, out);
    }

    /// All below `next` is on the owner's disk; what he wasn't sent he can't have. Whether that is news.
    pub(crate) fn acknowledged(&mut self, id: MailboxId, next: u64, out: &mut Out) -> bool {
        if next > self.sent {
            out.counters.count("drop.acknowledged_beyond");
            return false;
        }
        let news = next > self.acked;
        self.acked = self.acked.max(next);
        self.delete(id, out);
        news
    }

    /// Has the store delete what the owner has, one order at a time.
    pub(crate) fn delete(&mut self, id: MailboxId, out: &mut Out) {
        if self.deleting.is_some() || self.acked <= self.deleted {
            return;
        }
        self.deleting = Some(self.acked);
        out.actions.push_back(Action::Store(Order::Acknowledge {
            mailbox: id,
            next: self.acked,
        }));
    }

    /// The store has done so, or not.
    pub(crate) fn deleted(&mut self, id: MailboxId, result: Result<(), Failed>, out: &mut Out) {
        let deleting = self.deleting.take();
        match result {
            Ok(()) => {
                self.deleted = self.deleted.max(deleting.unwrap_or(0));
                self.delete(id, out);
            }
            // With the next acknowledgement it is asked again, or by the minute.
            Err(Failed) => out.counters.count("mail.store_failed"),
        }
    }

    /// The owner's link ended: nothing is read ahead for him.
    pub(crate) fn left(&mut self) {
        self.ready.clear();
    }
}

/// All mailboxes.
#[derive(Default)]
pub(crate) struct Mailboxes(BTreeMap<MailboxId, Mailbox>);

impl Mailboxes {
    pub(crate) fn insert(&mut self, registered: &Registered) {
        let &Registered { first, next, .. } = registered;
        let mailbox = Mailbox {
            client: registered.client,
            acked: first,
            next,
            sent: first,
            ready: VecDeque::new(),
            fetching: false,
            fetch_after: Time::ZERO,
            deleting: None,
            deleted: first,
        };
        self.0.insert(registered.mailbox, mailbox);
    }

    pub(crate) fn get(&self, id: &MailboxId) -> Option<&Mailbox> {
        self.0.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &MailboxId) -> Option<&mut Mailbox> {
        self.0.get_mut(id)
    }

    pub(crate) fn remove(&mut self, id: &MailboxId) {
        self.0.remove(id);
    }

    /// Pieces of letters that wait for their owners.
    pub(crate) fn items(&self) -> u64 {
        let waiting = |mailbox: &Mailbox| mailbox.next.saturating_sub(mailbox.acked);
        self.0.values().map(waiting).sum()
    }

    /// The clock was set back: the store is asked again at once.
    pub(crate) fn set_back(&mut self) {
        for mailbox in self.0.values_mut() {
            mailbox.fetch_after = Time::ZERO;
        }
    }

    /// Asks again for deletions that the store has failed to make.
    pub(crate) fn delete_again(&mut self, out: &mut Out) {
        for (&id, mailbox) in &mut self.0 {
            mailbox.delete(id, out);
        }
    }
}
