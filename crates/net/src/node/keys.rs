//! Which keys a node has when: it takes those of the next epoch in time, opens their logs of tags, and has those of epochs that
//! are over erased. When that is, the core says ([`Ring`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
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

/// Erases what is in the folder of epochs that are over.
pub(super) fn erase(folder: &Path, ratchet: &Ratchet, alive: &[u32]) -> Result<(), KeysError> {
    seed::replace(folder, ratchet)?;
    Ok(TagLog::forget_all_but(folder, alive)?)
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
        if turn.forgot
            && let (Some(folder), Some(ring)) = (self.folder.clone(), &self.ring)
        {
            let ratchet = ring.ratchet().clone();
            tokio::task::spawn_blocking(move || {
                if let Err(why) = erase(&folder, &ratchet, &epochs) {
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
