//! Who is a client: newcomers, hellos, welcomes, and who makes room for whom.
//!
//! What a client's link does after its welcome is in [`crate::downlinks`]; mailboxes are in [`crate::mail`].

use std::collections::VecDeque;
use std::time::Duration;

use mizzle_base::frame::{self, Content, Frame, Refusal};
use mizzle_base::{ClientTag, MailboxId, NetworkId, Time};
use mizzle_traffic::draw;
use subtle::ConstantTimeEq;

use crate::link::{Downlink, Policer};
use crate::store::{Order, Registered};
use crate::{Action, Admission, ClientId, Conn, Gateway, mail};

/// The store is told once in so long that a client is here.
const SEEN_EVERY: Duration = Duration::from_secs(86_400);
/// Who was here for the first time so long before the last makes room for nobody.
const SETTLED: Duration = Duration::from_secs(86_400);
/// Runs of a client that a newer one took the place of, as far as they are remembered.
const REPLACED: usize = 8;

/// What a client says when it comes.
#[derive(Clone, Copy)]
pub(crate) struct Hello {
    pub(crate) conn: Conn,
    pub(crate) run: [u8; 8],
    /// What it expects of replies and of mail.
    pub(crate) ack: u64,
    pub(crate) seq: u64,
}

pub(crate) struct Account {
    pub(crate) tag: ClientTag,
    pub(crate) mailbox: MailboxId,
    pub(crate) generation: u64,
    pub(crate) policer: Policer,
    pub(crate) link: Option<Downlink>,
    /// By which it was welcomed last.
    pub(crate) conn: Option<Conn>,
    pub(crate) hellos: Policer,
    /// When it came for the first time.
    pub(crate) since: Time,
    /// Since when it has no link.
    pub(crate) away_since: Time,
    /// What the store was told last.
    pub(crate) seen: Time,
    /// The run of the client that was admitted last, and those that it took the place of.
    pub(crate) run: Option<[u8; 8]>,
    pub(crate) replaced: VecDeque<[u8; 8]>,
    /// Number of the last reply that its queue took.
    pub(crate) appended: u64,
    /// Number below which the client acknowledged all.
    pub(crate) acked: u64,
    /// What a reply's number in the queue is more than its number for the client, round the end of all numbers.
    pub(crate) base: u64,
}

impl Account {
    pub(crate) fn new(registered: &Registered, uplink_per_s: f64, now: Time) -> Self {
        Self {
            tag: registered.tag,
            mailbox: registered.mailbox,
            generation: registered.generation,
            policer: Policer::new(uplink_per_s, now),
            link: None,
            conn: None,
            hellos: Policer::of_hellos(now),
            since: registered.since,
            away_since: registered.seen,
            seen: registered.seen,
            run: None,
            replaced: VecDeque::new(),
            appended: 0,
            acked: 1,
            base: 0,
        }
    }

    /// Notes an acknowledgement of replies and returns the queue's number for it. Nobody acknowledges what never came.
    pub(crate) fn acknowledged(&mut self, ack: u64) -> u64 {
        let next = ack.wrapping_add(self.base);
        if (self.acked..=self.appended + 1).contains(&next) {
            self.acked = next;
        }
        self.acked
    }

    /// Notes what a client that comes expects. One that started anew expects the first number again, when those before it
    /// are deleted, and when we did it expects what was in the old queue: what is kept gets the numbers that it expects.
    pub(crate) fn expects(&mut self, ack: u64) -> u64 {
        let ack = ack.max(1);
        let next = ack.wrapping_add(self.base);
        if !(self.acked..=self.appended + 1).contains(&next) {
            self.base = self.acked.wrapping_sub(ack);
        }
        self.acknowledged(ack)
    }

    /// Whether it has been here on more than a day: not one of a thousand that somebody made up at once.
    pub(crate) fn is_settled(&self) -> bool {
        self.seen.max(self.away_since).since(self.since) >= SETTLED
    }

    /// Another run of the client is admitted; the one before is not to come again.
    pub(crate) fn runs(&mut self, run: [u8; 8]) {
        let Some(old) = self.run.replace(run).filter(|old| *old != run) else {
            return;
        };
        if self.replaced.len() == REPLACED {
            self.replaced.pop_front();
        }
        self.replaced.push_back(old);
    }
}

/// A newcomer whose mailbox is not on disk yet.
pub(crate) struct Newcomer {
    pub(crate) registered: Registered,
    /// Its hello; `None` once it is gone.
    pub(crate) hello: Option<Hello>,
}

impl Gateway {
    pub(crate) fn admit(
        &mut self,
        now: Time,
        client: ClientId,
        network: NetworkId,
        run: &[u8; 8],
        token: &[u8],
    ) -> Result<(), Refusal> {
        if network != self.document.network() {
            return Err(Refusal::WrongNetwork);
        }
        let allowed = match &self.config.admission {
            Admission::Open => true,
            Admission::AllowList(list) => list.contains(&client),
            Admission::Token(good) => good.ct_eq(token).into(),
        };
        if !allowed {
            return Err(Refusal::NotAdmitted);
        }
        let known = self.accounts.get(&client);
        if known.is_some_and(|a| a.replaced.contains(run)) {
            return Err(Refusal::Replaced);
        }
        // A client that comes back takes its own place, even while its old link is still thought to live.
        if known.is_none_or(|a| a.link.is_none()) && self.linked() >= self.capacity() {
            return Err(Refusal::Full);
        }
        // Mailboxes of clients that are away count too, or the store would have no bound.
        if known.is_none() && !self.newcomers.contains_key(&client) {
            self.evict(now);
            if self.accounts.len() + self.newcomers.len() >= self.most_accounts() {
                return Err(Refusal::Full);
            }
        }
        Ok(())
    }

    pub(crate) fn refuse(&mut self, client: ClientId, conn: Conn, run: [u8; 8], why: Refusal) {
        self.out.counters.count("client.refused");
        let bytes = without_numbers(Content::Refused { why, run });
        self.out.actions.push_back(Action::Refuse { client, conn, bytes });
    }

    pub(crate) fn admitted(&mut self, now: Time, client: ClientId, hello: Hello) {
        if let Some(account) = self.accounts.get_mut(&client) {
            let other_run = account.run.filter(|run| *run != hello.run);
            if let (Some(run), Some(conn), Some(_)) = (other_run, account.conn, &account.link) {
                // A second program with this identity: the newer one stays, and the older is told why.
                self.out.counters.count("client.replaced");
                self.refuse(client, conn, run, Refusal::Replaced);
            }
            return self.welcome(now, client, hello);
        }
        if let Some(newcomer) = self.newcomers.get_mut(&client) {
            newcomer.hello = Some(hello);
            return;
        }
        // It is welcome when its mailbox is on disk: nobody shall give away an address that a crash makes void.
        let rng = &mut self.rng;
        let registered = Registered {
            client,
            tag: ClientTag(draw::bytes(rng)),
            mailbox: MailboxId::new(draw::bytes(rng)),
            generation: u64::from_be_bytes(draw::bytes(rng)),
            since: now,
            seen: now,
            first: 1,
            next: 1,
        };
        let hello = Some(hello);
        self.newcomers.insert(client, Newcomer { registered, hello });
        self.out
            .actions
            .push_back(Action::Store(Order::Register(registered)));
    }

    /// The store has a newcomer's mailbox, or not.
    pub(crate) fn registered(&mut self, now: Time, client: ClientId, done: bool) {
        let Some(Newcomer { registered, hello }) = self.newcomers.remove(&client) else {
            return;
        };
        if !done {
            self.out.counters.count("mail.store_failed");
            if let Some(hello) = hello {
                self.refuse(client, hello.conn, hello.run, Refusal::Full);
            }
            return;
        }
        self.insert(&registered, now);
        match hello {
            // Others may have come while the store was at work.
            Some(Hello { conn, run, .. }) if self.linked() >= self.capacity() => {
                self.refuse(client, conn, run, Refusal::Full);
            }
            Some(hello) => self.welcome(now, client, hello),
            None => {}
        }
    }

    pub(crate) fn insert(&mut self, registered: &Registered, now: Time) {
        let uplink_per_s = self.document.profile().uplink_per_s();
        let account = Account::new(registered, uplink_per_s, now);
        self.by_tag.insert(account.tag, registered.client);
        self.mail.insert(registered);
        self.accounts.insert(registered.client, account);
    }

    pub(crate) fn welcome(&mut self, now: Time, client: ClientId, hello: Hello) {
        self.out.counters.count("client.admitted");
        self.gone(now, client);
        let profile = self.document.profile();
        let (uplink_per_s, downlink_per_s) = (profile.uplink_per_s(), profile.downlink_per_s);
        let Some(account) = self.accounts.get_mut(&client) else {
            return;
        };
        account.runs(hello.run);
        let reply = account.expects(hello.ack);
        self.replies.acknowledge(client, reply);
        let Some(mailbox) = self.mail.get_mut(&account.mailbox) else {
            return;
        };
        mailbox.resumed(account.mailbox, hello.seq, &mut self.out);
        // A random phase, so that the ticks of clients that come together don't fall together.
        let interval = Duration::from_secs_f64(1.0 / downlink_per_s);
        let next = (reply, mailbox.first());
        let mut link = Downlink::new(interval, draw::unit(&mut self.rng), uplink_per_s, next, now);
        self.wakeups.insert((link.schedule(), client));
        mailbox.read_ahead(now, account.mailbox, link.next_mail(), &mut self.out);
        account.link = Some(link);
        account.conn = Some(hello.conn);
        self.out.actions.push_back(Action::Welcome {
            client,
            conn: hello.conn,
            bytes: without_numbers(Content::Welcome {
                tag: account.tag,
                mailbox: account.mailbox,
                generation: account.generation,
            }),
        });
        self.seen(now, client);
    }

    /// Tells the store now and then that a client is here.
    pub(crate) fn seen(&mut self, now: Time, client: ClientId) {
        if let Some(account) = self.accounts.get_mut(&client)
            && now.since(account.seen) > SEEN_EVERY
        {
            account.seen = now;
            self.out
                .actions
                .push_back(Action::Store(Order::Seen { client, at: now }));
        }
    }

    pub(crate) fn gone(&mut self, now: Time, client: ClientId) {
        if let Some(newcomer) = self.newcomers.get_mut(&client) {
            newcomer.hello = None;
        }
        let Some(account) = self.accounts.get_mut(&client) else {
            return;
        };
        if let Some(link) = account.link.take() {
            account.away_since = now;
            self.wakeups.remove(&(link.scheduled(), client));
            if let Some(mailbox) = self.mail.get_mut(&account.mailbox) {
                mailbox.left();
            }
            self.seen(now, client);
        }
    }

    /// Makes room for a newcomer where accounts are all taken: the client that is away the longest, and so long that
    /// no SURB of its can come back any more, is forgotten if no mail waits for it. But not if it has been here on more than a
    /// day: whoever makes up clients by the thousand shall take nobody's address away.
    pub(crate) fn evict(&mut self, now: Time) {
        if self.accounts.len() + self.newcomers.len() < self.most_accounts() {
            return;
        }
        let life = self.document.profile().surb_life();
        let has_mail = |a: &Account| self.mail.get(&a.mailbox).is_some_and(mail::Mailbox::has_mail);
        let away = self.accounts.iter().filter(|(_, a)| {
            a.link.is_none() && now.since(a.away_since) > life && !has_mail(a) && !a.is_settled()
        });
        if let Some(client) = away.min_by_key(|(_, a)| a.away_since).map(|(&client, _)| client) {
            self.forget(client);
        }
    }

    pub(crate) fn forget(&mut self, client: ClientId) {
        let Some(Account { tag, mailbox, .. }) = self.accounts.remove(&client) else {
            return;
        };
        self.by_tag.remove(&tag);
        self.replies.remove(client);
        self.mail.remove(&mailbox);
        self.out.counters.count("client.forgotten");
        self.out
            .actions
            .push_back(Action::Store(Order::Forget { client, mailbox }));
    }

    /// Clients with a link or a mailbox: four times as many as can have a link.
    pub(crate) fn most_accounts(&self) -> usize {
        self.capacity().saturating_mul(4)
    }
}

/// The bytes of an answer to a hello.
fn without_numbers(content: Content) -> Box<[u8]> {
    let (ack, seq) = (0, 0);
    frame::encode(&Frame { ack, seq, content })
}
