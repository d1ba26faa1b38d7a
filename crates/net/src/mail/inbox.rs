//! Letters that arrive: items on their way to whole letters, and whole ones until their owner has fetched them.
//!
//! One commit takes a batch of items: they are written to the file of their letter and synced, then the *record* is
//! replaced (which item of the mailbox comes next, and how many items each unfinished letter has), then the gateway may
//! forget them. The record decides: what lies on the disk beyond it is cut off when the inbox is opened, and comes again.
//! A whole letter is opened once to the end, noted as seen, and moved to the shelf, where its owner finds it; what does not open
//! is counted and removed. All of this blocks and is called from a thread that may.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mizzle_base::address::Address;
use mizzle_base::item::{ITEM_LEN, Item};
use mizzle_base::upload::MAX_COUNT;
use mizzle_base::{Counters, LetterId, hex};
use mizzle_stream::letter::Kind;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::client::Incoming;

use super::content::{Content, ContentError, Opener};
use super::disk::{self, DiskError, failed};

/// For how long a letter is known after it came, so that it comes once, and for how long an unfinished one may rest.
const REMEMBER_S: u64 = 30 * 86_400;
/// Most letters that are known after they came, some 60 bytes each; the oldest is forgotten for a new one.
const MAX_SEEN: usize = 100_000;
/// Most unfinished letters; the one that rests longest is given up for a new one.
const MAX_PARTIAL: usize = 16_384;
const VERSION: u8 = 1;

/// How far the mailbox is on this disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Which mailbox: a gateway that made a new one counts from the beginning.
    pub generation: u64,
    /// Everything below this number is here.
    pub next: u64,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u8,
    generation: u64,
    next: u64,
    partial: BTreeMap<String, Partial>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Partial {
    have: u32,
    count: u32,
    /// When it last grew, in seconds since 1970.
    since_s: u64,
}

/// What one commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Done {
    /// So many of the items are dealt with; fewer than were given when the inbox is full.
    pub(super) taken: usize,
    /// The mailbox up to here is on the disk.
    pub(super) cursor: Cursor,
}

/// Told of each receipt that arrives: of which letter, and who signed it. Called before the receipt is removed.
pub(super) type OnReceipt<'a> = &'a mut dyn FnMut(&LetterId, &Address) -> Result<(), DiskError>;

pub(super) struct Inbox {
    folder: PathBuf,
    opener: Arc<Opener>,
    max_bytes: u64,
    record: Record,
    seen: Seen,
    shelf: Arc<Shelf>,
    swept_s: u64,
}

impl Inbox {
    /// Opens the inbox in `folder`, which is made if it isn't there, and finishes what a crash left unfinished.
    pub(super) fn open(
        folder: &Path,
        opener: Arc<Opener>,
        max_bytes: u64,
        now_s: u64,
        on_receipt: OnReceipt<'_>,
    ) -> Result<Self, DiskError> {
        let (partial, new) = (folder.join("partial"), folder.join("new"));
        disk::folder(&partial)?;
        disk::folder(&new)?;
        let record: Record = disk::read_json(&folder.join("record"))?.unwrap_or_default();
        if record.version > VERSION {
            let what = "made by a newer mizzle: update this one";
            return Err(failed("understand", &folder.join("record"))(
                std::io::Error::other(what),
            ));
        }
        let mut inbox = Self {
            shelf: Arc::new(Shelf::open(new)?),
            seen: Seen::open(folder.join("seen"), now_s)?,
            folder: folder.into(),
            opener,
            max_bytes,
            record,
            swept_s: now_s,
        };
        inbox.cut_to_record(&partial)?;
        inbox.settle(now_s, on_receipt)?;
        inbox.sweep(now_s)?;
        Ok(inbox)
    }

    pub(super) fn shelf(&self) -> Arc<Shelf> {
        Arc::clone(&self.shelf)
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            generation: self.record.generation,
            next: self.record.next,
        }
    }

    /// Makes the unfinished letters what the record says they are.
    fn cut_to_record(&mut self, partial: &Path) -> Result<(), DiskError> {
        let mut bytes = 0;
        for name in disk::names(partial)? {
            let path = partial.join(&name);
            match self.record.partial.get(&name) {
                None => disk::remove(&path)?,
                Some(known) => {
                    let len = u64::from(known.have) * ITEM_LEN as u64;
                    let file = disk::private().open(&path).map_err(failed("write", &path))?;
                    if file.metadata().map_err(failed("read", &path))?.len() < len {
                        // Synced bytes are gone: a damaged disk. The letter can't become whole any more.
                        self.shelf.count("inbox.damaged");
                        disk::remove(&path)?;
                        self.record.partial.remove(&name);
                        continue;
                    }
                    file.set_len(len).map_err(failed("write", &path))?;
                    bytes += len;
                }
            }
        }
        // Without a file: it was moved to the shelf or removed, and the process ended before the next record.
        self.record.partial.retain(|name, _| partial.join(name).exists());
        self.shelf.grow(bytes);
        Ok(())
    }

    /// Takes a batch of items, in the order in which they came. After an error nothing
    /// changed, and the same batch can be given again.
    pub(super) fn commit(
        &mut self,
        items: &[Incoming],
        now_s: u64,
        on_receipt: OnReceipt<'_>,
    ) -> Result<Done, DiskError> {
        // What the last one could not finish.
        self.settle(now_s, on_receipt)?;
        let (record, taken, grown) = self.write(items, now_s)?;
        self.note(record, grown)?;
        self.settle(now_s, on_receipt)?;
        if now_s.saturating_sub(self.swept_s) >= 3_600 {
            self.swept_s = now_s;
            self.sweep(now_s)?;
        }
        let cursor = self.cursor();
        Ok(Done { taken, cursor })
    }

    /// First step: the items are in the files of their letters, durably. Gives the record that says so, how many items
    /// it covers, and how many bytes were added.
    fn write(&self, items: &[Incoming], now_s: u64) -> Result<(Record, usize, u64), DiskError> {
        let mut record = self.record.clone();
        record.version = VERSION;
        let room = self.max_bytes.saturating_sub(self.shelf.bytes());
        let (mut taken, mut grown, mut made) = (0, 0, false);
        let mut files: BTreeMap<String, (PathBuf, File)> = BTreeMap::new();
        for incoming in items {
            let Incoming {
                generation,
                number,
                item,
            } = incoming;
            if record.generation != *generation {
                // Another mailbox: it counts from the beginning.
                (record.generation, record.next) = (*generation, 0);
            }
            if *number >= record.next {
                if grown + ITEM_LEN as u64 > room {
                    break;
                }
                if let Some(at) = self.place(&mut record, item, now_s)? {
                    let name = hex::encode(item.letter.as_bytes());
                    let path = self.folder.join("partial").join(&name);
                    let file = match files.remove(&name) {
                        Some((_, file)) => Ok(file),
                        None => {
                            made |= at == 0;
                            // What an attempt that failed left is cut off with the first item.
                            disk::private().create(true).truncate(at == 0).open(&path)
                        }
                    };
                    let write = |mut file: File| {
                        file.seek(SeekFrom::Start(at))?;
                        file.write_all(&item.bytes[..])?;
                        Ok(file)
                    };
                    let file = file.and_then(write).map_err(failed("write", &path))?;
                    files.insert(name, (path, file));
                    grown += ITEM_LEN as u64;
                }
                record.next = number.saturating_add(1);
            }
            taken += 1;
        }
        for (path, file) in files.values() {
            file.sync_data().map_err(failed("write", path))?;
        }
        if made {
            disk::sync_folder(&self.folder.join("partial"))?;
        }
        Ok((record, taken, grown))
    }

    /// Where in its letter's file an item belongs; `None` if it isn't wanted.
    fn place(&self, record: &mut Record, item: &Item, now_s: u64) -> Result<Option<u64>, DiskError> {
        if item.count == 0 || item.count > MAX_COUNT || item.index >= item.count {
            self.shelf.count("inbox.malformed");
            return Ok(None);
        }
        if self.seen.contains(&item.letter) {
            self.shelf.count("inbox.duplicate");
            return Ok(None);
        }
        let name = hex::encode(item.letter.as_bytes());
        if !record.partial.contains_key(&name) && item.index == 0 && record.partial.len() >= MAX_PARTIAL {
            self.shelf.count("inbox.given_up");
            let oldest = record.partial.iter().min_by_key(|(_, partial)| partial.since_s);
            let oldest = oldest.map(|(name, _)| name.clone());
            // Its file goes with the next opening: it is no longer in the record.
            oldest.and_then(|name| record.partial.remove(&name));
        }
        let (have, count) = match record.partial.get(&name) {
            Some(known) => (known.have, known.count),
            None => (0, item.count),
        };
        // An upload goes in order, and so does the mailbox: an item before its turn means that others were lost, and
        // the sender, who was told nothing, brings the letter again.
        let reason = match item.index.cmp(&have) {
            _ if count != item.count => "inbox.malformed",
            std::cmp::Ordering::Less => "inbox.duplicate",
            std::cmp::Ordering::Greater => "inbox.hole",
            std::cmp::Ordering::Equal => {
                let partial = Partial {
                    have: have + 1,
                    count,
                    since_s: now_s,
                };
                record.partial.insert(name, partial);
                return Ok(Some(u64::from(have) * ITEM_LEN as u64));
            }
        };
        self.shelf.count(reason);
        Ok(None)
    }

    /// Second step: the record holds.
    fn note(&mut self, record: Record, grown: u64) -> Result<(), DiskError> {
        disk::replace_json(&self.folder.join("record"), &record)?;
        self.record = record;
        self.shelf.grow(grown);
        Ok(())
    }

    /// Third step: whole letters go to the shelf, receipts to who waits for them, and what doesn't open goes away.
    fn settle(&mut self, now_s: u64, on_receipt: OnReceipt<'_>) -> Result<(), DiskError> {
        let whole = |(name, partial): (&String, &Partial)| {
            (partial.have == partial.count).then(|| hex::decode(name).map(LetterId::new))?
        };
        let whole: Vec<LetterId> = self.record.partial.iter().filter_map(whole).collect();
        for id in whole {
            let path = self.partial(&id);
            let keep = match Content::open(&self.opener, &id, &path).and_then(Content::check) {
                Ok(header) if header.kind == Kind::Receipt => {
                    if let (Some(of), Some(from)) = (&header.of, &header.from) {
                        on_receipt(of, from)?;
                    }
                    false
                }
                Ok(_) => true,
                Err(ContentError::Letter(_)) => {
                    self.shelf.count("inbox.unopened");
                    false
                }
                Err(ContentError::Disk(e)) => return Err(e),
            };
            self.seen.add(id, now_s)?;
            self.move_away(&id, keep)?;
        }
        Ok(())
    }

    /// The last step of a letter that is noted as seen.
    fn move_away(&mut self, id: &LetterId, keep: bool) -> Result<(), DiskError> {
        let path = self.partial(id);
        let name = hex::encode(id.as_bytes());
        let count = self.record.partial.get(&name).map_or(0, |partial| partial.count);
        let len = u64::from(count) * ITEM_LEN as u64;
        if keep {
            self.shelf.put(id, &path, len)?;
        } else {
            disk::remove(&path)?;
            self.shelf.shrink(len);
        }
        self.record.partial.remove(&name);
        Ok(())
    }

    fn partial(&self, id: &LetterId) -> PathBuf {
        self.folder.join("partial").join(hex::encode(id.as_bytes()))
    }

    /// Gives up unfinished letters that did not grow for long, and files that the record no longer names.
    fn sweep(&mut self, now_s: u64) -> Result<(), DiskError> {
        let rests = |partial: &Partial| now_s.saturating_sub(partial.since_s) > REMEMBER_S;
        let before = self.record.partial.len();
        self.record.partial.retain(|_, partial| !rests(partial));
        self.shelf
            .add("inbox.given_up", (before - self.record.partial.len()) as u64);
        let partial = self.folder.join("partial");
        for name in disk::names(&partial)? {
            if !self.record.partial.contains_key(&name) {
                let path = partial.join(&name);
                let len = path.metadata().map_err(failed("read", &path))?.len();
                disk::remove(&path)?;
                self.shelf.shrink(len);
            }
        }
        Ok(())
    }
}

/// Letters that came, by id: appended to a file before the letter is shown.
struct Seen {
    path: PathBuf,
    when: BTreeMap<LetterId, u64>,
    order: VecDeque<LetterId>,
    lines: usize,
}

impl Seen {
    fn open(path: PathBuf, now_s: u64) -> Result<Self, DiskError> {
        let mut seen = Self {
            path,
            when: BTreeMap::new(),
            order: VecDeque::new(),
            lines: 0,
        };
        let bytes = disk::read(&seen.path)?.unwrap_or_default();
        // A crash can leave half of the last line; its letter was not moved yet, and is noted again.
        for line in String::from_utf8_lossy(&bytes).lines() {
            let Some((id, at)) = line.split_once(' ') else {
                continue;
            };
            if let (Some(id), Ok(at)) = (hex::decode(id).map(LetterId::new), at.parse()) {
                seen.remember(id, at);
            }
        }
        seen.forget(now_s);
        seen.rewrite()?;
        Ok(seen)
    }

    fn contains(&self, id: &LetterId) -> bool {
        self.when.contains_key(id)
    }

    fn remember(&mut self, id: LetterId, at_s: u64) {
        if self.when.insert(id, at_s).is_none() {
            self.order.push_back(id);
        }
    }

    fn forget(&mut self, now_s: u64) {
        while let Some(id) = self.order.front() {
            let at = self.when.get(id).copied().unwrap_or_default();
            if self.order.len() <= MAX_SEEN && now_s.saturating_sub(at) <= REMEMBER_S {
                break;
            }
            self.when.remove(id);
            self.order.pop_front();
        }
    }

    fn rewrite(&mut self) -> Result<(), DiskError> {
        let line = |id: &LetterId| format!("{id} {}\n", self.when.get(id).copied().unwrap_or_default());
        let text: String = self.order.iter().map(line).collect();
        disk::replace(&self.path, text.as_bytes())?;
        self.lines = self.order.len();
        Ok(())
    }

    fn add(&mut self, id: LetterId, now_s: u64) -> Result<(), DiskError> {
        if self.contains(&id) {
            return Ok(());
        }
        if self.lines >= 2 * MAX_SEEN {
            self.rewrite()?;
        }
        let append = || {
            let mut file = disk::private().append(true).create(true).open(&self.path)?;
            // The newline before it ends what an append that failed half-way may have left.
            file.write_all(format!("\n{id} {now_s}\n").as_bytes())?;
            file.sync_data()
        };
        append().map_err(failed("write", &self.path))?;
        self.lines += 1;
        self.remember(id, now_s);
        self.forget(now_s);
        Ok(())
    }
}

/// Whole letters, oldest first, until their owner has them.
pub(super) struct Shelf {
    folder: PathBuf,
    state: Mutex<ShelfState>,
    /// Changes with every letter that comes or goes, or is free again.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct ShelfState {
    letters: BTreeMap<u64, Waiting>,
    /// Of these and of the unfinished ones.
    bytes: u64,
    counters: Counters,
}

struct Waiting {
    id: LetterId,
    len: u64,
    taken: bool,
}

impl Shelf {
    fn open(folder: PathBuf) -> Result<Self, DiskError> {
        let mut state = ShelfState::default();
        for name in disk::names(&folder)? {
            let parsed = name.split_once('-').and_then(|(place, id)| {
                let id = LetterId::from_hex(id)?;
                Some((place.parse::<u64>().ok()?, id))
            });
            if let Some((place, id)) = parsed {
                let path = folder.join(&name);
                let len = path.metadata().map_err(failed("read", &path))?.len();
                state.bytes += len;
                let taken = false;
                state.letters.insert(place, Waiting { id, len, taken });
            }
        }
        Ok(Self {
            folder,
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ShelfState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// How many letters wait.
    pub(super) fn len(&self) -> usize {
        self.lock().letters.len()
    }

    pub(super) fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    fn count(&self, name: &'static str) {
        self.add(name, 1);
    }

    fn add(&self, name: &'static str, n: u64) {
        self.lock().counters.add(name, n);
    }

    fn grow(&self, bytes: u64) {
        self.lock().bytes += bytes;
    }

    fn shrink(&self, bytes: u64) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        drop(state);
        self.change();
    }

    fn path(&self, place: u64, id: &LetterId) -> PathBuf {
        self.folder.join(format!("{place:020}-{id}"))
    }

    /// Moves a whole letter here, behind the others.
    fn put(&self, id: &LetterId, from: &Path, len: u64) -> Result<(), DiskError> {
        let place = self
            .lock()
            .letters
            .last_key_value()
            .map_or(0, |(last, _)| last + 1);
        let path = self.path(place, id);
        std::fs::rename(from, &path).map_err(failed("write", &path))?;
        disk::sync_folder(&self.folder)?;
        let (id, taken) = (*id, false);
        let mut state = self.lock();
        state.letters.insert(place, Waiting { id, len, taken });
        state.counters.count("inbox.letters");
        drop(state);
        self.change();
        Ok(())
    }

    /// The oldest letter that nobody else is reading.
    pub(super) fn take(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.lock();
        let (&place, waiting) = state.letters.iter_mut().find(|(_, waiting)| !waiting.taken)?;
        waiting.taken = true;
        let id = waiting.id;
        drop(state);
        Some(Lease {
            path: self.path(place, &id),
            shelf: Arc::clone(self),
            place,
            id,
        })
    }
}

/// A letter that somebody is reading: nobody else gets it until this is dropped. Only [`super::Mail::fetched`] removes it.
pub struct Lease {
    shelf: Arc<Shelf>,
    place: u64,
    id: LetterId,
    path: PathBuf,
}

impl Lease {
    /// Of which letter.
    #[must_use]
    pub fn id(&self) -> LetterId {
        self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its owner has it on his own disk.
    pub(super) fn remove(self) -> Result<(), DiskError> {
        disk::remove(&self.path)?;
        disk::sync_folder(&self.shelf.folder)?;
        let gone = self.shelf.lock().letters.remove(&self.place);
        self.shelf.shrink(gone.map_or(0, |gone| gone.len));
        Ok(())
    }

    /// It can't be read any more: counted and removed.
    pub(super) fn discard(self) -> Result<(), DiskError> {
        self.shelf.count("inbox.unopened");
        self.remove()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(waiting) = self.shelf.lock().letters.get_mut(&self.place) {
            waiting.taken = false;
        }
        self.shelf.change();
    }
}

#[cfg(test)]
mod tests;
