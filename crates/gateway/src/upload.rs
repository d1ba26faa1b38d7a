//! Letters that are being brought: the gateway's side of `mizzle_base::upload`, many at a time.
//!
//! An upload reads what its stream brings as fast as the store keeps it, and no faster: some items are under way, the rest
//! waits in the stream. What happens to an item in its mailbox is [`crate::mail`]'s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mizzle_base::upload::{Answer, Head, Part, Reader};
use mizzle_base::{Item, LetterId, MailboxId, Time};
use mizzle_stream::OpenError;

use crate::store::{Failed, NotStored, Order, Progress};
use crate::{Action, Out, UploadId, Uploaded};

/// Items of one upload that the store is working on, 4 KB each.
const UNDER_WAY: usize = 8;
/// A mailbox that is full while its owner fetches holds an upload back for so long without progress.
const HOLD: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The head isn't there.
    Beginning,
    /// The store is asked how far the letter is.
    Looking,
    /// Items come.
    Taking,
    /// It was answered; what still comes goes nowhere.
    Over,
}

struct Upload {
    mailbox: MailboxId,
    reader: Reader,
    /// Bytes that came and that the stream wasn't told to be taken.
    owed: usize,
    stage: Stage,
    head: Option<Head>,
    /// Given to the store and not kept yet, in order; it is working on the first `asked`.
    under_way: VecDeque<Item>,
    asked: usize,
    /// Why the store didn't keep one of them.
    refused: Option<NotStored>,
    give_up_at: Option<Time>,
    /// Index below which all is kept.
    stored: u32,
    /// The sender will say no more.
    ended: bool,
    /// What is to be said to the sender, and whether his end has room for it.
    answers: VecDeque<Vec<u8>>,
    wanted: bool,
}

/// All uploads.
pub(crate) struct Uploads {
    most: usize,
    uploads: BTreeMap<UploadId, Upload>,
    /// Which upload brings a letter: one at a time.
    by_letter: BTreeMap<(MailboxId, LetterId), UploadId>,
    held: BTreeSet<(Time, UploadId)>,
}

impl Uploads {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            uploads: BTreeMap::new(),
            by_letter: BTreeMap::new(),
            held: BTreeSet::new(),
        }
    }

    /// When [`Self::time_out`] is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.held.first().map(|held| held.0)
    }

    /// A stream to a mailbox that there is.
    pub(crate) fn open(&mut self, id: UploadId, mailbox: MailboxId, out: &mut Out) {
        if self.uploads.len() >= self.most {
            out.counters.count("upload.limit");
            return out.say(id, Uploaded::Opened(Err(OpenError::Limit)));
        }
        out.counters.count("upload.begun");
        let upload = Upload {
            mailbox,
            reader: Reader::default(),
            owed: 0,
            stage: Stage::Beginning,
            head: None,
            under_way: VecDeque::new(),
            asked: 0,
            refused: None,
            give_up_at: None,
            stored: 0,
            ended: false,
            answers: VecDeque::new(),
            wanted: false,
        };
        self.uploads.insert(id, upload);
        out.say(id, Uploaded::Opened(Ok(())));
    }

    /// Bytes of the sender.
    pub(crate) fn bytes(&mut self, now: Time, id: UploadId, bytes: &[u8], out: &mut Out) {
        if let Some(upload) = self.uploads.get_mut(&id) {
            upload.owed += bytes.len();
            upload.reader.push(bytes);
            self.advance(now, id, out);
        }
    }

    /// The sender's last byte came.
    pub(crate) fn ended(&mut self, now: Time, id: UploadId, out: &mut Out) {
        if let Some(upload) = self.uploads.get_mut(&id) {
            upload.ended = true;
            self.advance(now, id, out);
        }
    }

    /// There is room for an answer.
    pub(crate) fn wanted(&mut self, id: UploadId, out: &mut Out) {
        if let Some(upload) = self.uploads.get_mut(&id) {
            upload.wanted = true;
            upload.answer(id, out);
        }
    }

    /// The stream is gone. What the store kept stays, for another upload to go on behind it.
    pub(crate) fn gone(&mut self, id: UploadId) {
        self.forget_letter(id);
        self.uploads.remove(&id);
    }

    /// The store said how far the letter is.
    pub(crate) fn known(
        &mut self,
        now: Time,
        id: UploadId,
        result: Result<Option<Progress>, Failed>,
        out: &mut Out,
    ) {
        let Some(upload) = self.uploads.get_mut(&id) else {
            return;
        };
        let (Stage::Looking, Some(head)) = (upload.stage, upload.head) else {
            return;
        };
        let Ok(progress) = result else {
            out.counters.count("mail.store_failed");
            return self.refuse(id, OpenError::NotKept, out);
        };
        let Progress { count, next } = progress.unwrap_or(Progress {
            count: head.count,
            next: 0,
        });
        if count != head.count {
            out.counters.count("upload.other_letter");
            return self.refuse(id, OpenError::General, out);
        }
        if next >= count {
            out.counters.count("upload.known_already");
            return self.end(id, Some(Answer::Stored), out);
        }
        upload.stored = next;
        upload.stage = Stage::Taking;
        if head.resume {
            upload.reader.resume_at(next);
            upload.answers.push_back(Answer::From(next).encode());
            upload.answer(id, out);
        }
        self.advance(now, id, out);
    }

    /// The store kept an item, or not. `may_wait`: the mailbox's owner is fetching, so there will be room.
    pub(crate) fn appended(
        &mut self,
        now: Time,
        id: UploadId,
        index: u32,
        result: Result<(), NotStored>,
        may_wait: bool,
        out: &mut Out,
    ) {
        let Some(upload) = self.uploads.get_mut(&id) else {
            return;
        };
        let (Stage::Taking, Some(head)) = (upload.stage, upload.head) else {
            return;
        };
        upload.asked = upload.asked.saturating_sub(1);
        match result {
            Ok(()) => {
                if upload.under_way.front().is_some_and(|item| item.index == index) {
                    upload.under_way.pop_front();
                }
                upload.stored = upload.stored.max(index + 1);
                if let Some(at) = upload.give_up_at.take() {
                    self.held.remove(&(at, id));
                }
                if upload.stored >= head.count {
                    out.counters.count("upload.stored");
                    return self.end(id, Some(Answer::Stored), out);
                }
            }
            // Those behind it fail in its wake.
            Err(why) => drop(upload.refused.get_or_insert(why)),
        }
        if upload.asked == 0
            && let Some(why) = upload.refused
        {
            return match why {
                NotStored::MailboxFull | NotStored::TooManyLetters | NotStored::StoreFull if may_wait => {
                    upload.hold(now, id, &mut self.held, out);
                }
                NotStored::MailboxFull | NotStored::TooManyLetters | NotStored::StoreFull => {
                    self.refuse_full(id, why, out);
                }
                NotStored::NoMailbox => self.refuse(id, OpenError::NoMailbox, out),
                NotStored::OutOfOrder => self.refuse(id, OpenError::General, out),
                NotStored::Failed => {
                    out.counters.count("mail.store_failed");
                    self.refuse(id, OpenError::NotKept, out);
                }
            };
        }
        self.advance(now, id, out);
    }

    /// Something was deleted in a mailbox: who is held back there tries again.
    pub(crate) fn room(&mut self, now: Time, mailbox: MailboxId, out: &mut Out) {
        let held: Vec<(Time, UploadId)> = self
            .held
            .iter()
            .filter(|(_, id)| self.uploads.get(id).is_some_and(|u| u.mailbox == mailbox))
            .copied()
            .collect();
        for (at, id) in held {
            let Some(upload) = self.uploads.get_mut(&id) else {
                continue;
            };
            if upload.refused.take().is_none() {
                // It is trying already.
                continue;
            }
            self.held.remove(&(at, id));
            let give_up_at = now + HOLD;
            upload.give_up_at = Some(give_up_at);
            self.held.insert((give_up_at, id));
            upload.asked = upload.under_way.len();
            for item in upload.under_way.iter().cloned() {
                out.append(id, mailbox, item, now);
            }
        }
    }

    /// Refuses what was held back for too long.
    pub(crate) fn time_out(&mut self, now: Time, out: &mut Out) {
        while let Some(&(at, id)) = self.held.first()
            && at <= now
        {
            self.held.pop_first();
            let why = self.uploads.get(&id).and_then(|upload| upload.refused);
            // One that has just been tried again is refused for what held it back before, as far as anybody knows.
            self.refuse_full(id, why.unwrap_or(NotStored::MailboxFull), out);
        }
    }

    /// The clock was set back by so much.
    pub(crate) fn shift_back(&mut self, by: Duration) {
        self.held = std::mem::take(&mut self.held)
            .into_iter()
            .map(|(at, id)| (at - by, id))
            .collect();
        for (at, id) in &self.held {
            if let Some(upload) = self.uploads.get_mut(id) {
                upload.give_up_at = Some(*at);
            }
        }
    }

    /// Reads as much as may be under way.
    fn advance(&mut self, now: Time, id: UploadId, out: &mut Out) {
        loop {
            let Some(upload) = self.uploads.get_mut(&id) else {
                return;
            };
            let reads = match upload.stage {
                Stage::Beginning => true,
                Stage::Taking => upload.refused.is_none() && upload.under_way.len() < UNDER_WAY,
                Stage::Looking | Stage::Over => false,
            };
            if !reads {
                break;
            }
            match upload.reader.read() {
                Ok(Some(Part::Head(head))) => self.begin(id, head, out),
                // It is here already.
                Ok(Some(Part::Item(item))) if item.index < upload.stored => {}
                Ok(Some(Part::Item(item))) => {
                    upload.asked += 1;
                    upload.under_way.push_back(item.clone());
                    out.append(id, upload.mailbox, item, now);
                }
                Ok(None) => break,
                Err(_) => {
                    out.counters.count("upload.malformed");
                    self.refuse(id, OpenError::General, out);
                }
            }
        }
        let Some(upload) = self.uploads.get_mut(&id) else {
            return;
        };
        upload.took(id, out);
        let idle = matches!(upload.stage, Stage::Beginning | Stage::Taking) && upload.under_way.is_empty();
        if upload.ended && idle {
            // It broke off in the middle; nobody is there to be told more.
            out.counters.count("upload.broken_off");
            self.end(id, None, out);
        }
    }

    fn begin(&mut self, id: UploadId, head: Head, out: &mut Out) {
        let Some(upload) = self.uploads.get_mut(&id) else {
            return;
        };
        upload.head = Some(head);
        upload.stage = Stage::Looking;
        let mailbox = upload.mailbox;
        // The sender came again, and the stream that he had before is likely dead.
        if let Some(older) = self.by_letter.insert((mailbox, head.letter), id) {
            out.counters.count("upload.replaced");
            self.refuse(older, OpenError::General, out);
        }
        out.actions.push_back(Action::Store(Order::Look {
            upload: id,
            mailbox,
            letter: head.letter,
        }));
    }

    fn refuse_full(&mut self, id: UploadId, why: NotStored, out: &mut Out) {
        let (counter, why) = match why {
            NotStored::TooManyLetters => ("upload.refused_letters", OpenError::MailboxFull),
            // Whether the owner fetches has little to do with it.
            NotStored::StoreFull => ("upload.refused_store_full", OpenError::NotKept),
            _ => ("upload.refused_full", OpenError::MailboxFull),
        };
        out.counters.count(counter);
        self.refuse(id, why, out);
    }

    fn refuse(&mut self, id: UploadId, why: OpenError, out: &mut Out) {
        self.end(id, Some(Answer::Refused(why.code())), out);
    }

    /// Says the last word, and takes what still comes without looking at it.
    fn end(&mut self, id: UploadId, last: Option<Answer>, out: &mut Out) {
        self.forget_letter(id);
        let Some(upload) = self.uploads.get_mut(&id) else {
            return;
        };
        upload.stage = Stage::Over;
        upload.under_way.clear();
        upload.answers.extend(last.map(|answer| answer.encode()));
        upload.took(id, out);
        upload.answer(id, out);
    }

    fn forget_letter(&mut self, id: UploadId) {
        let Some(upload) = self.uploads.get_mut(&id) else {
            return;
        };
        if let Some(at) = upload.give_up_at.take() {
            self.held.remove(&(at, id));
        }
        if let Some(head) = upload.head {
            let letter = (upload.mailbox, head.letter);
            if self.by_letter.get(&letter) == Some(&id) {
                self.by_letter.remove(&letter);
            }
        }
    }
}

impl Upload {
    /// Waits for room, for a while.
    fn hold(&mut self, now: Time, id: UploadId, held: &mut BTreeSet<(Time, UploadId)>, out: &mut Out) {
        if self.give_up_at.is_none() {
            out.counters.count("upload.held_back");
        }
        let at = *self.give_up_at.get_or_insert(now + HOLD);
        held.insert((at, id));
    }

    /// Tells the stream what was taken of what it brought.
    fn took(&mut self, id: UploadId, out: &mut Out) {
        if self.stage == Stage::Over {
            self.reader = Reader::default();
        }
        let taken = self.owed.saturating_sub(self.reader.pending());
        if taken > 0 {
            self.owed -= taken;
            out.say(id, Uploaded::Took(taken));
        }
    }

    /// Says the next answer if there is room for it; an empty one is the end.
    fn answer(&mut self, id: UploadId, out: &mut Out) {
        if !self.wanted {
            return;
        }
        let answer = match self.answers.pop_front() {
            Some(answer) => answer,
            None if self.stage == Stage::Over => Vec::new(),
            None => return,
        };
        self.wanted = false;
        out.say(id, Uploaded::Answer(answer));
    }
}
