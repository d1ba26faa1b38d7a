//! The downlinks of all clients: what is ready for their ticks, what leaves at them, what goes back.
//!
//! One client's ticks and numbers are in [`crate::link`]; replies and mail are where they are kept.

use mizzle_base::frame::{self, Content, Frame};
use mizzle_base::{MailboxId, Time};

use crate::link::{Downlink, Due, Holds};
use crate::replies::Reply;
use crate::{Action, ClientId, Gateway, mail};

impl Gateway {
    pub(crate) fn run_downlinks(&mut self, now: Time) {
        // Who asks is one.
        let users = self.census.at_least(now).map_or(0, |users| users.max(1));
        while let Some(&(at, client)) = self.wakeups.first() {
            // Nothing is later than `FAR_FUTURE`, so the tick after it would be at it again, for ever.
            if at > now || at == Time::FAR_FUTURE {
                break;
            }
            self.wakeups.pop_first();
            let Some(account) = self.accounts.get_mut(&client) else {
                continue;
            };
            let (Some(link), Some(conn)) = (&mut account.link, account.conn) else {
                continue;
            };
            match link.due(now) {
                Due::Prepare { reply, mail } => {
                    let stalls = link.take_stalls();
                    if stalls > 0 {
                        self.out.counters.add("stall.downlink", stalls);
                    }
                    let kept = self.mail.get_mut(&account.mailbox);
                    let ready = kept.as_ref().and_then(|kept| kept.ready(mail));
                    let (holds, seq, content) =
                        if let Some(Reply { id, payload, .. }) = self.replies.get(client, reply).cloned() {
                            let seq = reply.wrapping_sub(account.base);
                            (Holds::Reply(reply), seq, Content::Reply { id, payload })
                        } else if let Some(item) = ready.cloned() {
                            (Holds::Mail(mail), mail, Content::Mail(item))
                        } else {
                            (Holds::Filler, 0, Content::Filler { users })
                        };
                    link.prepared(holds, frame::encode(&Frame { ack: 0, seq, content }));
                    if link.tick() <= now {
                        self.out.counters.count("downlink.unready");
                    }
                    if let Some(kept) = kept {
                        kept.read_ahead(now, account.mailbox, link.next_mail(), &mut self.out);
                    }
                }
                Due::Send { bytes, holds } => {
                    self.out.counters.count(match holds {
                        Holds::Filler => "downlink.filler",
                        Holds::Reply(_) => "downlink.reply",
                        Holds::Mail(_) => "downlink.mail",
                    });
                    if let Holds::Mail(number) = holds
                        && let Some(kept) = self.mail.get_mut(&account.mailbox)
                    {
                        kept.sent(number);
                    }
                    self.out.actions.push_back(Action::Send { client, conn, bytes });
                }
                Due::Skipped(ticks) => self.out.counters.add("downlink.late_tick", ticks),
            }
            self.wakeups.insert((link.schedule(), client));
        }
    }

    pub(crate) fn not_written(&mut self, client: ClientId, bytes: &[u8]) {
        self.out.counters.count("downlink.not_written");
        let Some(account) = self.accounts.get_mut(&client) else {
            return;
        };
        let Some(link) = &mut account.link else { return };
        let held = match frame::number(bytes) {
            Some((frame::Kind::Reply, seq)) => Holds::Reply(seq.saturating_add(account.base)),
            Some((frame::Kind::Mail, number)) => Holds::Mail(number),
            _ => Holds::Filler,
        };
        self.wakeups.remove(&(link.scheduled(), client));
        link.not_written(held);
        self.wakeups.insert((link.schedule(), client));
    }

    /// The downlink of a mailbox's owner, while he has one.
    pub(crate) fn link_of(&mut self, mailbox: &MailboxId) -> Option<&mut Downlink> {
        let owner = self.mail.get(mailbox)?.client;
        self.accounts.get_mut(&owner)?.link.as_mut()
    }

    /// Has the downlink pass over what its mailbox doesn't hold any more.
    pub(crate) fn starts_at(&mut self, now: Time, mailbox: &MailboxId) {
        if let Some(first) = self.mail.get(mailbox).map(mail::Mailbox::first)
            && let Some(link) = self.link_of(mailbox)
        {
            link.mail_acknowledged(now, first);
        }
    }

    /// Has the store read what a linked owner gets next.
    pub(crate) fn read_ahead(&mut self, now: Time, mailbox: &MailboxId) {
        if let Some(cursor) = self.link_of(mailbox).map(|link| link.next_mail())
            && let Some(kept) = self.mail.get_mut(mailbox)
        {
            kept.read_ahead(now, *mailbox, cursor, &mut self.out);
        }
    }

    pub(crate) fn mail_acknowledged(&mut self, now: Time, client: ClientId, next: u64) {
        let Some(id) = self.accounts.get(&client).map(|a| a.mailbox) else {
            return;
        };
        if let Some(mailbox) = self.mail.get_mut(&id)
            && mailbox.acknowledged(id, next, &mut self.out)
        {
            self.starts_at(now, &id);
            self.read_ahead(now, &id);
        }
    }
}
