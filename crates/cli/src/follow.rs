//! What a node or a client does beside its work, as long as it runs: it looks for newer network documents, in its file and at
//! gateways, and compares its clock with theirs, and with the machine's where that is set.
//!
//! A document that it takes was signed by the authority, is newer, and differs in keys and weights alone; any other newer one is
//! for the next start. A gateway can withhold a document, and what it says of the time is believed only if another one says so too:
//! that the clock is off, and of a node that has just begun also that it is right, for until then it erases no keys.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use mizzle_base::document::{CLOCK_TOLERANCE_S, DocumentError};
use mizzle_base::{Document, NodeId, Rng, Time};
use mizzle_net::client::Observer;
use mizzle_net::clock::{Clock, ClockOff};
use mizzle_net::host::Transport;
use mizzle_net::node::Documents;
use mizzle_traffic::draw;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::join;
use crate::member::{self, Source};

/// Between two looks at the file, and at what there is to do, at most.
const LOOK: Duration = Duration::from_secs(10);
/// Between two questions to a gateway, at most, on average.
const ASK: Duration = Duration::from_secs(3_600);
/// The same while none answers, in seconds.
const UNHEARD_S: f64 = 60.0;
/// Between two looks, at least.
const SHORTEST: Duration = Duration::from_millis(500);
/// What the machine's clock is set by without a word, in seconds.
const WORTH_A_WORD_S: u64 = 60;
/// Gateways that must say that the clock is off, or that it is right, if there are as many.
const AGREE: usize = 2;

/// What gateways say of the clock.
enum Told {
    /// As many as it takes say that it is right.
    Right,
    /// As many as it takes say that it isn't.
    Off(ClockOff),
    /// Too few say anything, or not the same.
    Open,
}

/// Keeps a document that is about to be taken, or says why it can't be.
pub type Keep = Box<dyn FnMut(&Document) -> Result<(), String> + Send>;

/// What to follow.
pub struct Follow {
    /// The document that there is.
    pub document: Arc<Document>,
    /// Who signs it.
    pub authority: VerifyingKey,
    /// A file where a newer one may be put.
    pub file: Option<PathBuf>,
    /// Whom to ask first, as a client its own gateway, which knows of it already; else anyone.
    pub first: Option<NodeId>,
    /// A client, whose gateway of the moment is asked first then.
    pub client: Option<Observer>,
    /// Whom not to ask, as a gateway itself.
    pub but: Option<NodeId>,
    /// How to talk to gateways.
    pub transport: Transport,
    /// The clock.
    pub clock: Clock,
    /// For whom to ask, and when.
    pub rng: Rng,
    /// What is done with a newer document before it is taken.
    pub keep: Keep,
}

/// The task that follows. Ends when dropped.
pub struct Following {
    task: JoinHandle<()>,
    off: watch::Receiver<Option<ClockOff>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    /// Waits until gateways say that the clock is off by more than it may be.
    pub async fn clock_off(&self) -> ClockOff {
        let mut off = self.off.clone();
        match off.wait_for(Option::is_some).await.map(|off| *off) {
            Ok(Some(off)) => off,
            // The task is over, and says nothing any more.
            _ => std::future::pending().await,
        }
    }
}

impl Follow {
    /// Begins.
    #[must_use]
    pub fn start(self, documents: Documents) -> Following {
        let (say, off) = watch::channel(None);
        let waits_until = match self.client {
            None => self.clock.now() + self.document.epochs().overlap(),
            // For it nothing waits.
            Some(_) => Time::ZERO,
        };
        let task = Task {
            waits_until,
            follow: self,
            documents,
            in_file: Vec::new(),
            unfit: None,
            warned: None,
            heard: false,
            set_by_s: 0,
        };
        Following {
            task: tokio::spawn(task.run(say)),
            off,
        }
    }
}

/// Whether somebody should know that the document ends: in its last two weeks, or the last quarter of its time.
#[must_use]
pub fn is_soon_over(document: &Document, now: Time) -> bool {
    const WARNING: Duration = Duration::from_secs(14 * 86_400);
    let (from, until) = document.validity();
    until.since(now) < WARNING.min(until.since(from) / 4)
}

struct Task {
    follow: Follow,
    documents: Documents,
    /// What was in the file when it was read last.
    in_file: Vec<u8>,
    /// What was said of a document, so that it is said once.
    unfit: Option<String>,
    /// The number of the document of whose end was warned.
    warned: Option<u64>,
    /// Whether any gateway answered the last time.
    heard: bool,
    /// Until then keys wait for gateways to agree with the clock; [`Time::ZERO`] once they have.
    waits_until: Time,
    /// By how much the machine's clock was set since the start, as far as that was told.
    set_by_s: i64,
}

impl Task {
    async fn run(mut self, say: watch::Sender<Option<ClockOff>>) {
        let length = self.follow.document.epochs().length();
        let mut look = tokio::time::interval(LOOK.min(length / 16).max(SHORTEST));
        let ask_s = ASK.min(length / 4).as_secs_f64();
        let mut ask_at = Time::ZERO;
        loop {
            look.tick().await;
            self.look_at_file();
            let is_set = self.look_at_clock();
            let now = self.follow.clock.now();
            self.warn_of_end(now);
            if now < ask_at && !is_set {
                continue;
            }
            match self.ask().await {
                Told::Right => {
                    self.documents.clock_is_right();
                    self.waits_until = Time::ZERO;
                }
                Told::Off(off) => drop(say.send_replace(Some(off))),
                Told::Open => {}
            }
            let now = self.follow.clock.now();
            // Not all at once, and not in step with anything that one does. Machines of a network may start together.
            let is_enough = self.heard && now >= self.waits_until;
            let mean_s = if is_enough { ask_s } else { ask_s.min(UNHEARD_S) };
            ask_at = now.plus_s_f64(mean_s * (0.5 + draw::unit(&mut self.follow.rng)));
        }
    }

    /// Says that the machine's clock was set. True if it was by so much that gateways must say who is right.
    fn look_at_clock(&mut self) -> bool {
        let by_s = self.follow.clock.follow_machine();
        let (size_s, told_s) = (by_s.unsigned_abs(), self.set_by_s.unsigned_abs());
        if size_s < WORTH_A_WORD_S {
            self.set_by_s = 0;
            return false;
        }
        // It becomes less while it is followed.
        if by_s.signum() == self.set_by_s.signum() && size_s < told_s + WORTH_A_WORD_S {
            return false;
        }
        self.set_by_s = by_s;
        let direction = if by_s < 0 { "back" } else { "forward" };
        if size_s <= CLOCK_TOLERANCE_S {
            tracing::warn!(
                "this machine's clock was set {direction} by {size_s} s: that is followed slowly, within {:.0} hours, and nothing \
                 needs to be done",
                (size_s as f64 / 36.0).ceil()
            );
            return false;
        }
        tracing::error!(
            "this machine's clock was set {direction} by {size_s} s: mizzle goes on by the time that it had, and asks gateways \
             which is right. If the clock is wrong now, set it; if it was wrong before, start mizzle again"
        );
        true
    }

    /// Says in time that the document ends.
    fn warn_of_end(&mut self, now: Time) {
        let document = &self.follow.document;
        if self.warned != Some(document.sequence()) && is_soon_over(document, now) {
            self.warned = Some(document.sequence());
            let left_s = document.validity().1.since(now).as_secs();
            tracing::warn!(
                "the network document is over in {:.1} days: nothing is sent after that but with a newer one, which the \
                 network's authority makes with `mizzle network renew`",
                left_s as f64 / 86_400.0
            );
        }
    }

    fn look_at_file(&mut self) {
        let Some(bytes) = self
            .follow
            .file
            .as_ref()
            .and_then(|path| join::read_document(path).ok())
        else {
            // It is being replaced, or gone: what was read from it serves on.
            return;
        };
        if bytes != self.in_file {
            self.consider(&bytes);
            self.in_file = bytes;
        }
    }

    /// Asks gateways one after the other until one is heard whose clock agrees with this one, or as many as it takes disagree. While
    /// keys wait for it, one isn't enough to agree.
    async fn ask(&mut self) -> Told {
        let follow = &mut self.follow;
        let own = follow
            .client
            .as_ref()
            .and_then(|client| client.snapshot().gateway);
        let first_of_all = own.or(follow.first);
        let all = follow.document.gateways().filter(|g| Some(g.id) != follow.but);
        let mut left: Vec<(NodeId, Source)> = all
            .filter_map(|g| {
                let (peer, address) = (g.peer.parse().ok()?, g.addresses.first()?.parse().ok()?);
                Some((g.id, Source { peer, address }))
            })
            .collect();
        let wanted = AGREE.min(left.len());
        let is_waited_for = follow.clock.now() < self.waits_until;
        let (mut agree, mut disagree) = (0, Vec::new());
        self.heard = false;
        let mut tries = 2 * AGREE;
        while !left.is_empty() && tries > 0 && disagree.len() < wanted {
            tries -= 1;
            let first = left.iter().position(|(id, _)| Some(*id) == first_of_all);
            let next = first.unwrap_or_else(|| draw::below(&mut self.follow.rng, left.len()));
            let (_, source) = left.swap_remove(next);
            let known = self.follow.document.sequence();
            let asked = member::fetch(&source, self.follow.transport, known, &mut self.follow.rng);
            let Ok(answer) = asked.await else { continue };
            self.heard = true;
            if !answer.document.is_empty() {
                self.consider(&answer.document);
            }
            match ClockOff::of(self.follow.clock.now(), answer.time) {
                None => {
                    agree += 1;
                    if agree >= wanted || !is_waited_for {
                        return Told::Right;
                    }
                }
                Some(off) => disagree.push(off),
            }
        }
        // As far off as the one says that finds it nearer.
        let nearest = disagree
            .iter()
            .copied()
            .min_by_key(|off| off.fast_s.unsigned_abs());
        let same_side = |off: &ClockOff| {
            let mut others = disagree.iter();
            others.all(|other| (other.fast_s < 0) == (off.fast_s < 0))
        };
        match nearest.filter(same_side) {
            Some(off) if agree == 0 && disagree.len() == wanted => Told::Off(off),
            _ => Told::Open,
        }
    }

    /// Takes a document if it is newer and good.
    fn consider(&mut self, bytes: &[u8]) {
        let follow = &mut self.follow;
        if bytes == follow.document.bytes() {
            return;
        }
        let (now, known) = (follow.clock.now(), follow.document.sequence());
        let verified = Document::verify(bytes, &follow.authority, now, known);
        // An older one in the file is what is left of the time before the one in use came from a gateway.
        if matches!(verified, Err(DocumentError::Superseded { .. })) {
            return;
        }
        let taken = verified.map_err(|e| e.to_string()).and_then(|document| {
            if document.sequence() == known {
                return Err(format!(
                    "it has the number {known} of the one in use, and is another"
                ));
            }
            (follow.keep)(&document)?;
            if !document.continues(&follow.document) {
                return Err("it changes more than keys and weights: it is taken at the next start".into());
            }
            Ok(document)
        });
        match taken {
            Ok(document) => {
                tracing::info!(
                    sequence = document.sequence(),
                    "a newer network document is in use"
                );
                let document = Arc::new(document);
                self.follow.document = Arc::clone(&document);
                self.documents.bring(document);
                self.unfit = None;
            }
            Err(why) => {
                if self.unfit.as_ref() != Some(&why) {
                    tracing::warn!("another network document was found and not taken: {why}");
                    self.unfit = Some(why);
                }
            }
        }
    }
}
