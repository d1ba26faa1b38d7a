//! The rules of an outbox: when a letter is tried again and at which mailbox, what its gateway may say meanwhile, and how long each
//! step may take. Section 3 of `docs/spec/mailbox.md`.
//!
//! Which letter is brought next, its file and its stream are left to whoever keeps the outbox; its bytes on the stream are
//! `mizzle_base::upload`'s, its seal `mizzle-stream`'s.

use std::time::Duration;

use mizzle_base::Time;
use mizzle_base::upload::{Answer, Head, Malformed};
use mizzle_stream::OpenError;

/// Letters that a client brings at once, each in a session of its own; of those that are due the oldest first.
pub const AT_ONCE: usize = 8;
/// A stream that isn't open after this is given up.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(300);
/// Without one more item taken in this time the attempt is over: the slowest profile sends a few in it.
pub const STALL: Duration = Duration::from_secs(30 * 60);
/// For a gateway's word, once the head or the last item is written: what waits in the buffers below must leave first, which takes the
/// slowest profile so long.
pub const ANSWER: Duration = Duration::from_secs(3 * 3_600);
/// For the end of the stream after the last word.
pub const PARTING: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Why an attempt didn't lead to *stored*.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setback {
    /// The gateway, or the way to it, says no.
    Refused(OpenError),
    /// The stream broke or fell silent.
    Broken {
        /// Items were on their way by then.
        moved: bool,
    },
    /// Anything else: the gateway says what nobody should, or the letter can't be read.
    Other,
}

/// The attempts to bring one letter to one of its receiver's mailboxes.
#[derive(Clone, Debug)]
pub struct Tries {
    mailboxes: usize,
    /// Which of them is tried next.
    mailbox: usize,
    /// Those whose gateways don't know them, or take nothing of the kind.
    dead: Vec<usize>,
    failures: u32,
    next_at: Time,
    was_tried: bool,
}

impl Tries {
    /// Of a letter for a receiver with so many mailboxes, due at once. One that `was_tried` may be at its gateway in part.
    #[must_use]
    pub fn new(mailboxes: usize, was_tried: bool) -> Self {
        Self {
            mailboxes,
            mailbox: 0,
            dead: Vec::new(),
            failures: 0,
            next_at: Time::ZERO,
            was_tried,
        }
    }

    /// When the next attempt may begin, if none is under way.
    #[must_use]
    pub fn due_at(&self) -> Time {
        self.next_at
    }

    /// Attempts that led to nothing.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Which mailbox, counted from 0 in the order of the address, is tried next.
    #[must_use]
    pub fn mailbox(&self) -> usize {
        self.mailbox
    }

    /// An attempt begins; whether the gateway is to be asked what it has of the letter ([`Head::resume`]).
    pub fn begin(&mut self) -> bool {
        std::mem::replace(&mut self.was_tried, true)
    }

    /// An attempt led to nothing; whether there will be another. What is there in part is gone on with at the same gateway; else it is
    /// another one's turn, if there is one.
    pub fn failed(&mut self, now: Time, why: Setback) -> bool {
        // Asking again would be the same.
        if matches!(why, Setback::Refused(OpenError::NoMailbox | OpenError::Refused)) {
            self.dead.push(self.mailbox);
        }
        if why != (Setback::Broken { moved: true }) && !self.next_mailbox() {
            return false;
        }
        self.again(now);
        true
    }

    /// Lets another attempt come after a while, at the same gateway: twice as long each time, up to a minute.
    pub fn again(&mut self, now: Time) {
        self.failures += 1;
        let doubled = 2_u32.saturating_pow(self.failures.saturating_sub(1).min(16));
        self.next_at = now + FIRST_RETRY.saturating_mul(doubled).min(LAST_RETRY);
    }

    fn next_mailbox(&mut self) -> bool {
        let following = (1..=self.mailboxes).map(|step| (self.mailbox + step) % self.mailboxes);
        match following.into_iter().find(|at| !self.dead.contains(at)) {
            Some(at) => {
                self.mailbox = at;
                true
            }
            None => false,
        }
    }
}

/// What a gateway said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// Items are to begin with this one.
    From(u32),
    /// All is on its disk. Nothing follows.
    Stored,
    /// It doesn't take the letter. Nothing follows.
    Refused(OpenError),
}

/// What the sender of a letter hears in one attempt, whatever the pieces in which it comes. Holds what was pushed and not yet read.
#[derive(Debug)]
pub struct Hearing {
    bytes: Vec<u8>,
    count: u32,
    from: Option<u32>,
    is_over: bool,
}

impl Hearing {
    /// After this head.
    #[must_use]
    pub fn new(head: &Head) -> Self {
        Self {
            bytes: Vec::new(),
            count: head.count,
            from: (!head.resume).then_some(0),
            is_over: false,
        }
    }

    /// The first item to send; `None` while the gateway hasn't said.
    #[must_use]
    pub fn from(&self) -> Option<u32> {
        self.from
    }

    /// Takes the next bytes of the stream. Nothing is kept of those behind the last word.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.is_over {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// What was said next; `None` until more bytes come.
    ///
    /// # Errors
    /// [`Malformed`], also when it is said where it makes no sense: the attempt is over.
    pub fn word(&mut self) -> Result<Option<Word>, Malformed> {
        let Some((answer, used)) = Answer::decode(&self.bytes)? else {
            return Ok(None);
        };
        self.bytes.drain(..used);
        let word = match answer {
            Answer::From(next) if self.from.is_none() && next <= self.count => {
                self.from = Some(next);
                return Ok(Some(Word::From(next)));
            }
            Answer::From(_) => return Err(Malformed),
            Answer::Stored => Word::Stored,
            Answer::Refused(code) => Word::Refused(OpenError::from_code(code)),
        };
        self.is_over = true;
        self.bytes.clear();
        Ok(Some(word))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use mizzle_base::LetterId;

    use super::*;

    const NOW: Time = Time::from_s(1_000);
    const SILENT: Setback = Setback::Refused(OpenError::Timeout);
    const NOBODY: Setback = Setback::Refused(OpenError::NoMailbox);

    fn head(resume: bool) -> Head {
        Head {
            resume,
            letter: LetterId::new([7; 16]),
            count: 9,
        }
    }

    #[test]
    fn attempts_come_after_twice_as_long_each_time_and_after_a_minute_at_most() {
        let mut tries = Tries::new(1, false);
        assert_eq!(tries.due_at(), Time::ZERO);
        let waits: Vec<_> = (0..40)
            .map(|_| {
                assert!(tries.failed(NOW, SILENT));
                tries.due_at().since(NOW).as_secs()
            })
            .collect();
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(waits[8..].iter().all(|&wait| wait == 60));
        assert_eq!(tries.failures(), 40);
    }

    #[test]
    fn only_the_first_attempt_of_a_letter_sends_all_without_a_question() {
        let mut tries = Tries::new(1, false);
        assert_eq!((tries.begin(), tries.begin()), (false, true));
        assert!(Tries::new(1, true).begin());
    }

    #[test]
    fn mailboxes_take_turns_but_for_those_where_nobody_is_and_a_letter_that_is_there_in_part_stays() {
        let mut tries = Tries::new(3, false);
        assert!(tries.failed(NOW, SILENT));
        assert_eq!(tries.mailbox(), 1);
        assert!(tries.failed(NOW, Setback::Broken { moved: true }));
        assert_eq!(tries.mailbox(), 1);
        assert!(tries.failed(NOW, Setback::Broken { moved: false }));
        assert_eq!(tries.mailbox(), 2);
        assert!(tries.failed(NOW, NOBODY));
        assert!(tries.failed(NOW, Setback::Other));
        assert!(tries.failed(NOW, Setback::Other));
        assert_eq!(tries.mailbox(), 0, "the third one is not asked again");
        assert!(tries.failed(NOW, NOBODY));
        assert_eq!(tries.mailbox(), 1);
        assert!(!tries.failed(NOW, Setback::Refused(OpenError::Refused)));
        assert!(!Tries::new(0, false).failed(NOW, SILENT), "none to try at all");
    }

    fn said(head: &Head, answers: &[Answer]) -> Result<Vec<Word>, Malformed> {
        let bytes: Vec<u8> = answers.iter().flat_map(Answer::encode).collect();
        let mut hearing = Hearing::new(head);
        let mut words = Vec::new();
        for byte in bytes {
            hearing.push(&[byte]);
            words.extend(hearing.word()?);
        }
        assert!(hearing.bytes.is_empty());
        Ok(words)
    }

    #[test]
    fn a_gateway_is_heard_byte_by_byte() {
        let words = said(&head(true), &[Answer::From(4), Answer::Stored]);
        assert_eq!(words, Ok(vec![Word::From(4), Word::Stored]));
        let refused = Answer::Refused(OpenError::MailboxFull as u8);
        let words = said(&head(false), &[refused, Answer::Stored, Answer::From(1)]);
        assert_eq!(
            words,
            Ok(vec![Word::Refused(OpenError::MailboxFull)]),
            "nothing follows the last word"
        );
    }

    #[test]
    fn what_makes_no_sense_ends_the_attempt() {
        assert_eq!(Hearing::new(&head(false)).from(), Some(0));
        let (unasked, asked) = (head(false), head(true));
        assert_eq!(said(&unasked, &[Answer::From(0)]), Err(Malformed));
        assert_eq!(said(&asked, &[Answer::From(10)]), Err(Malformed));
        assert_eq!(said(&asked, &[Answer::From(9), Answer::From(9)]), Err(Malformed));
        let mut hearing = Hearing::new(&asked);
        hearing.push(&[0xff]);
        assert_eq!(hearing.word(), Err(Malformed));
    }
}
