//! Which keys a node has when: it takes those of the next epoch in time, opens their logs of tags, and has those of epochs that
//! are over erased. When that is, the core says ([`Ring`](mizzle_mix::Ring)).
//!
//! A machine's clock that is hours ahead at the start would have keys erased that are still needed, and that nothing brings back.
//! So what is over at the start by the clock alone isn't used any more, and stays on the disk as it was until gateways agree with
//! the clock ([`Documents::clock_is_right`](super::Documents::clock_is_right)), or until the overlap of epochs has gone by since the
//! start, whichever is first ([`Erasing`]); a node whose clock they contradict has ended by then, with its keys. What that costs is
//! bounded: whoever takes the disk finds a key longer by an overlap of running time than he would else, and only after a start at
//! which one was over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mizzle_base::Time;
use mizzle_mix::{Key, NotOurs, Ratchet, TooEarly};
use mizzle_sphinx::Dialect;
use tokio::task::JoinHandle;

use super::Node;
use super::report::Warned;
use crate::state::{StateError, seed};
use crate::tags::{Boot, TagError, TagLog, TagSync};

/// A key that could not be taken into use is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);

/// Why a node can't begin with the keys that it has.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// They are of another time.
    #[error(transparent)]
    TooEarly(#[from] TooEarly),
    /// They aren't the document's, or the document's aren't a node's at all.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    /// The document has no key for now.
    #[error(
        "the last key epoch of the network document is over by this machine's clock: get the current document, or set the clock"
    )]
    Over,
    /// The file of the seed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The files of tags.
    #[error(transparent)]
    Tags(#[from] TagError),
    /// A key that is not used any more.
    #[error("{why}, {}", back(*.back_in))]
    Unclean {
        /// Why.
        why: TagError,
        /// How long until it is over and the node can begin with others; none if the document has no others.
        back_in: Option<Duration>,
    },
}

fn back(back_in: Option<Duration>) -> String {
    match back_in.map(|back_in| back_in.as_secs().div_ceil(60)) {
        None => "for which the network document has no keys yet (`mizzle network renew` makes one that has)"
            .into(),
        Some(min) if min < 120 => format!("in {min} min"),
        Some(min) => format!("in {} h {} min", min / 60, min % 60),
    }
}

pub(super) fn open_logs(
    folder: &Path,
    epoch: u32,
    key: &Key,
    workers: usize,
) -> Result<Vec<TagLog>, TagError> {
    let mut remember = |tags: &[u64]| key.remember(tags);
    TagLog::open_all(
        folder,
        epoch,
        &key.public(),
        Boot::current(),
        workers,
        &mut remember,
    )
}

/// Erases what is in the folder of epochs that are over for the ratchet.
pub(super) fn erase(folder: &Path, ratchet: &Ratchet) -> Result<(), KeysError> {
    seed::replace(folder, ratchet)?;
    Ok(TagLog::forget_before(folder, ratchet.epoch())?)
}

/// Whether what is over by the clock may be erased; see the [module](self).
#[derive(Debug)]
pub(super) struct Erasing {
    /// The clock is believed.
    sure: bool,
    /// Then it is believed whatever gateways say.
    sure_at: Time,
    /// Something on the disk is over.
    owed: bool,
}

impl Erasing {
    /// For a node that begins at `now`, of which something is over already or not.
    pub(super) fn new(now: Time, patience: Duration, owed: bool) -> Self {
        if owed {
            tracing::info!(
                "a key epoch is over by this machine's clock: its keys are erased when gateways agree with the clock, or in {} s",
                patience.as_secs()
            );
        }
        Self {
            sure: false,
            sure_at: now + patience,
            owed,
        }
    }

    /// Gateways agree with the clock.
    pub(super) fn agreed(&mut self) {
        self.sure = true;
    }

    /// Something more is over at `now`.
    pub(super) fn owe(&mut self, now: Time) {
        self.sure |= now >= self.sure_at;
        self.owed = true;
    }

    /// When [`Self::take`] has something, if nobody says anything meanwhile.
    pub(super) fn due_at(&self) -> Option<Time> {
        self.owed
            .then_some(if self.sure { Time::ZERO } else { self.sure_at })
    }

    /// Whether something is to be erased now; asked again there is nothing, until more is over.
    pub(super) fn take(&mut self, now: Time) -> bool {
        if self.due_at().is_none_or(|at| at > now) {
            return false;
        }
        if !self.sure {
            tracing::warn!(
                "not enough gateways could be asked whether this machine's clock is right: by that alone a key epoch is over, and \
                 its keys are erased now"
            );
        }
        self.sure = true;
        self.owed = false;
        true
    }
}

/// Keys with their logs of tags, or why there are none.
pub(super) type Opened = Vec<(u32, Arc<Key>, Result<Vec<TagLog>, TagError>)>;

impl Node {
    /// Takes and lets go of keys when it is time.
    pub(super) fn turn_keys(&mut self, now: Time) {
        if let Some(turned) = self.document.turned(now) {
            self.document = Arc::new(turned);
        }
        let Some(ring) = &mut self.ring else { return };
        if self.opening.is_some() || ring.change_at().is_none_or(|at| at > now) {
            return;
        }
        let turn = match ring.turn(now) {
            Ok(turn) => turn,
            Err(why) => {
                // The document says another time than before; the keys that are there serve on.
                tracing::error!("{why}");
                ring.ask_again(now + AGAIN);
                return;
            }
        };
        let epochs: Vec<u32> = turn.epochs().collect();
        let mut before = std::mem::take(&mut self.keys);
        let mut new = Vec::new();
        for &epoch in &epochs {
            if let Some(at) = before.iter().position(|(of, _)| *of == epoch) {
                self.keys.push(before.swap_remove(at));
            } else if let Some(keys) = ring.keys(epoch) {
                let key = Key::new(keys.sphinx, Dialect::Lioness, &self.config);
                new.push((epoch, Arc::new(key)));
            }
        }
        drop(before);
        match &self.folder {
            Some(folder) if !new.is_empty() => {
                let (folder, workers) = (folder.clone(), self.workers);
                // The disk may take its time, and others wait for this task.
                self.opening = Some(tokio::task::spawn_blocking(move || {
                    let open = |(epoch, key): (u32, Arc<Key>)| {
                        let logs = open_logs(&folder, epoch, &key, workers);
                        (epoch, key, logs)
                    };
                    new.into_iter().map(open).collect()
                }));
            }
            _ => self.keys.extend(new),
        }
        self.use_keys(Vec::new());
        if turn.forgot && self.folder.is_some() {
            self.erasing.owe(now);
        }
    }

    /// Erases what is over, if the clock that says so is believed.
    pub(super) fn erase_over(&mut self, now: Time) {
        if self.clock_agreed.load(Ordering::Relaxed) {
            self.erasing.agreed();
        }
        if !self.erasing.take(now) {
            return;
        }
        if let (Some(folder), Some(ring)) = (self.folder.clone(), &self.ring) {
            let ratchet = ring.ratchet().clone();
            tokio::task::spawn_blocking(move || {
                if let Err(why) = erase(&folder, &ratchet) {
                    tracing::error!("the keys of an epoch that is over could not be erased: {why}");
                }
            });
        }
    }

    pub(super) fn take_logs(&mut self, opened: Opened) {
        self.opening = None;
        let mut logs = Vec::new();
        for (epoch, key, opened) in opened {
            match opened {
                Ok(opened) => {
                    self.keys.push((epoch, key));
                    logs.push((epoch, opened));
                }
                Err(why) => {
                    tracing::error!("{why}; the key of the next epoch is not used without");
                    let again = self.clock.now() + AGAIN;
                    self.ring.iter_mut().for_each(|ring| ring.ask_again(again));
                }
            }
        }
        self.use_keys(logs);
    }

    /// Tells those who have to do with keys which there are. `logs` are of those that are new.
    fn use_keys(&mut self, logs: Vec<(u32, Vec<TagLog>)>) {
        let current = self.document.epoch();
        self.keys.sort_by_key(|(epoch, _)| (*epoch != current, *epoch));
        self.files.extend(syncers(&logs));
        let alive: BTreeSet<u32> = self.keys.iter().map(|(epoch, _)| *epoch).collect();
        self.files.retain(|epoch, _| alive.contains(epoch));
        self.pipeline.set_keys(&self.keys, logs);
        self.sync_files();
        self.set_stream_keys();
        self.warned = Warned::Nothing;
    }

    pub(super) fn sync_files(&mut self) {
        let files: Vec<_> = self.files.values().flatten().cloned().collect();
        self.syncing = (!files.is_empty()).then(|| AbortOnDrop(tokio::spawn(TagLog::sync_forever(files))));
    }

    /// Sessions begin with the same epochs' keys that packets are taken for.
    pub(super) fn set_stream_keys(&mut self) {
        let (Some(ring), Some(parts)) = (&self.ring, &mut self.gateway) else {
            return;
        };
        let keys: Vec<_> = self
            .keys
            .iter()
            .filter_map(|(epoch, _)| ring.keys(*epoch))
            .collect();
        if let Some(exit) = &mut parts.exit {
            exit.set_keys(keys.iter().map(|k| (k.epoch, *k.exit.expose_bytes())));
        }
        if let Some(mail) = &mut parts.mail {
            mail.set_keys(keys.iter().map(|k| (k.epoch, *k.mail.expose_bytes())));
        }
    }
}

/// For the disk to take them.
pub(super) fn syncers(logs: &[(u32, Vec<TagLog>)]) -> BTreeMap<u32, Vec<TagSync>> {
    let of = |(epoch, logs): &(u32, Vec<TagLog>)| (*epoch, logs.iter().map(TagLog::syncer).collect());
    logs.iter().map(of).collect()
}

/// What a thread that opens logs has; for ever nothing where there is none.
pub(super) async fn opened(opening: &mut Option<JoinHandle<Opened>>) -> Option<Opened> {
    match opening {
        None => std::future::pending().await,
        // A panic there was reported; asked again, it may go better.
        Some(handle) => Some(handle.await.unwrap_or_default()),
    }
}

/// A task that ends with its owner.
pub(super) struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(600);

    #[test]
    fn what_is_over_at_the_start_is_erased_when_gateways_agree_or_after_a_while() {
        let at = Time::from_s;
        let mut nothing = Erasing::new(at(1_000), PATIENCE, false);
        assert_eq!((nothing.due_at(), nothing.take(at(9_000))), (None, false));

        let mut asked = Erasing::new(at(1_000), PATIENCE, true);
        assert!(!asked.take(at(1_599)));
        asked.agreed();
        assert!(asked.due_at() <= Some(at(1_100)) && asked.take(at(1_100)));
        assert!(!asked.take(at(9_000)), "once");

        let mut unheard = Erasing::new(at(1_000), PATIENCE, true);
        assert_eq!(unheard.due_at(), Some(at(1_600)));
        assert!(!unheard.take(at(1_599)) && unheard.take(at(1_600)));
        // Whatever is over later goes at once.
        unheard.owe(at(1_700));
        assert!(unheard.take(at(1_700)));
    }

    #[test]
    fn what_is_over_soon_after_the_start_waits_as_long_and_later_not_at_all() {
        let at = Time::from_s;
        let mut soon = Erasing::new(at(1_000), PATIENCE, false);
        soon.owe(at(1_100));
        assert!(!soon.take(at(1_200)) && soon.take(at(1_600)));
        let mut late = Erasing::new(at(1_000), PATIENCE, false);
        late.owe(at(87_400));
        assert_eq!((late.due_at(), late.take(at(87_400))), (Some(Time::ZERO), true));
    }
}
