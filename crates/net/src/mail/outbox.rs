//! Letters that leave: sealed into a file, brought to a gateway of their receiver, and what became of them.
//!
//! A letter is here once its description is on the disk beside its items; from then on the program that gave it may end.
//! The description holds its stage; the items go away with the last try. [`Outbox::due`] gives the attempt that comes next, by the
//! rules of [`mizzle_client::outbox`]; the task that makes the attempts is [`super::Mail`]'s.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mizzle_base::address::{Address, Mailbox};
use mizzle_base::item::ITEM_LEN;
use mizzle_base::upload::{Head, MAX_COUNT};
use mizzle_base::{LetterId, NetworkId, Rng, Time};
use mizzle_client::outbox::{Setback, Tries};
use mizzle_stream::letter::{CHUNK_LEN, FIRST_LEN, Header, Kind, LetterError, Sealer};
use mizzle_traffic::draw;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::disk::{self, DiskError, failed};
use super::upload::UploadError;

/// A letter that is not stored after this is given up; what became of one is known for as long.
const KEEP: Duration = Duration::from_secs(7 * 86_400);
/// Most letters whose outcome is known; the oldest is forgotten for a new one.
const MAX_DONE: usize = 10_000;
const VERSION: u8 = 1;

/// What became of a letter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Stage {
    /// It is on its way to the receiver's gateway, or waits for that.
    Waiting,
    /// The receiver's gateway has it on its disk.
    Stored,
    /// The receiver's user has fetched it.
    Read,
    /// It will not be brought any more.
    Failed {
        /// Why, in words.
        why: String,
    },
}

/// A letter in the outbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u8,
    to: String,
    kind: String,
    name: String,
    /// Of the data before it was sealed.
    bytes: u64,
    items: u32,
    wants_read: bool,
    queued_us: u64,
    changed_us: u64,
    stage: Stage,
}

/// A letter in the outbox, as its owner sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its id, 32 hexadecimal digits.
    pub letter: String,
    /// The address that it is for.
    pub to: String,
    /// `text`, `file` or `receipt`.
    pub kind: String,
    /// Name of the file, or empty.
    pub name: String,
    /// Bytes of data.
    pub bytes: u64,
    /// Items in all.
    pub items: u32,
    /// Items handed to the connection in the latest attempt.
    pub items_sent: u32,
    /// When it came to the outbox, in seconds since 1970.
    pub queued_s: u64,
    /// What became of it.
    pub stage: Stage,
    /// When that was, in seconds since 1970.
    pub changed_s: u64,
    /// What was wrong with the latest attempt.
    pub problem: Option<String>,
}

/// Why a letter isn't taken into the outbox.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// As many letters or bytes as it may hold.
    #[error(
        "the outbox is full ({letters} letters, {bytes} bytes wait): wait until some have left, see `mizzle outbox`"
    )]
    Full {
        /// That wait.
        letters: usize,
        /// Sealed bytes of them.
        bytes: u64,
    },
    /// Longer than any.
    #[error("a letter holds {} bytes at most: split the file", max_letter_bytes())]
    TooLong,
    /// A name, or the address's key.
    #[error(transparent)]
    Letter(#[from] LetterError),
    /// The address isn't one of this network.
    #[error(transparent)]
    Address(#[from] mizzle_base::address::AddressError),
    /// To sign one needs an address.
    #[error(
        "this client has no address to sign with until its gateway has admitted it: try again once it is up"
    )]
    NoAddress,
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The system.
    #[error("the system gives no entropy: {0}")]
    Entropy(std::io::Error),
}

/// Most bytes of data in a letter; the header takes some hundred of them.
#[must_use]
pub fn max_letter_bytes() -> u64 {
    u64::from(MAX_COUNT - 1) * CHUNK_LEN as u64
}

struct Letter {
    description: Description,
    to: Option<Address>,
    tries: Tries,
    flying: bool,
    sent: u32,
    problem: Option<String>,
}

impl Letter {
    fn new(description: Description, tried: bool) -> Self {
        let to: Option<Address> = description.to.parse().ok();
        let mailboxes = to.as_ref().map_or(0, |to| to.mailboxes().len());
        Self {
            to,
            description,
            tries: Tries::new(mailboxes, tried),
            flying: false,
            sent: 0,
            problem: None,
        }
    }

    fn waits(&self) -> bool {
        self.description.stage == Stage::Waiting
    }

    /// It waits for its next attempt.
    fn idle(&self) -> bool {
        self.waits() && !self.flying && self.to.is_some()
    }

    fn sealed_bytes(&self) -> u64 {
        u64::from(self.description.items) * ITEM_LEN as u64
    }
}

/// One attempt.
pub(super) struct Attempt {
    pub(super) id: LetterId,
    pub(super) mailbox: Mailbox,
    pub(super) head: Head,
    pub(super) path: PathBuf,
}

pub(super) struct Outbox {
    folder: PathBuf,
    network: NetworkId,
    max_letters: usize,
    max_bytes: u64,
    state: Mutex<State>,
    /// Held while a description is changed on the disk: by threads that may block only.
    writing: Mutex<()>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    letters: BTreeMap<LetterId, Letter>,
    /// Letters being sealed, and the sealed bytes of these and of the waiting ones.
    drafts: usize,
    bytes: u64,
}

impl State {
    fn waiting(&self) -> usize {
        self.letters.values().filter(|letter| letter.waits()).count()
    }
}

fn parse_name(name: &str) -> Option<(LetterId, &str)> {
    let (id, kind) = name.split_once('.')?;
    Some((LetterId::from_hex(id)?, kind))
}

impl Outbox {
    pub(super) fn open(
        folder: &Path,
        network: NetworkId,
        max_letters: usize,
        max_bytes: u64,
    ) -> Result<Self, DiskError> {
        disk::folder(folder)?;
        let mut state = State::default();
        let names = disk::names(folder)?;
        for (id, _) in names
            .iter()
            .filter_map(|n| parse_name(n))
            .filter(|(_, kind)| *kind == "json")
        {
            let path = folder.join(format!("{id}.json"));
            let description: Description = match disk::read_json(&path) {
                Ok(Some(description)) => description,
                Ok(None) => continue,
                // One bad file must not keep the others from leaving; it stays for its owner to look at.
                Err(e) => {
                    tracing::warn!("a letter in the outbox is left out: {}", e.brief());
                    continue;
                }
            };
            // It may have been tried before: the gateway is asked what it has.
            state.letters.insert(id, Letter::new(description, true));
        }
        for name in &names {
            let waits = |id| state.letters.get(&id).is_some_and(Letter::waits);
            match parse_name(name) {
                Some((_, "json")) => {}
                Some((id, "items")) if waits(id) => {}
                // Never finished, or no longer needed.
                _ => disk::remove(&folder.join(name))?,
            }
        }
        state.bytes = state
            .letters
            .values()
            .filter(|letter| letter.waits())
            .map(Letter::sealed_bytes)
            .sum();
        Ok(Self {
            folder: folder.into(),
            network,
            max_letters,
            max_bytes,
            state: Mutex::new(state),
            writing: Mutex::new(()),
            changed: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: &LetterId, kind: &str) -> PathBuf {
        self.folder.join(format!("{id}.{kind}"))
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    pub(super) fn entry(&self, id: &LetterId) -> Option<Entry> {
        self.lock().letters.get(id).map(|letter| entry(id, letter))
    }

    /// All, the oldest first.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let state = self.lock();
        let mut letters: Vec<_> = state.letters.iter().collect();
        letters.sort_by_key(|(_, letter)| letter.description.queued_us);
        letters
            .into_iter()
            .map(|(id, letter)| entry(id, letter))
            .collect()
    }

    /// Begins a letter. Blocks on the disk, as all of a [`Draft`] does.
    pub(super) fn draft(
        self: &Arc<Self>,
        to: Address,
        header: &Header,
        signer: Option<Zeroizing<[u8; 32]>>,
        mut rng: Rng,
    ) -> Result<Draft, SendError> {
        to.check_network(&self.network)?;
        let mut state = self.lock();
        let letters = state.waiting() + state.drafts;
        if letters >= self.max_letters {
            let bytes = state.bytes;
            return Err(SendError::Full { letters, bytes });
        }
        state.drafts += 1;
        drop(state);
        let id = LetterId::new(draw::bytes(&mut rng));
        let path = self.path(&id, "part");
        let mut draft = Draft {
            outbox: Arc::clone(self),
            id,
            to,
            header: header.clone(),
            signer,
            rng,
            file: None,
            sealer: None,
            pending: Zeroizing::new(header.encode()),
            bytes: 0,
            items: 0,
            kept: false,
        };
        let file = disk::private().create_new(true).open(&path);
        draft.file = Some(BufWriter::new(file.map_err(failed("write", &path))?));
        Ok(draft)
    }

    /// The letter to bring next, if its time has come: the oldest that isn't being brought.
    pub(super) fn due(&self, now: Time) -> Option<Attempt> {
        let mut state = self.lock();
        let ready = |letter: &Letter| letter.idle() && letter.tries.due_at() <= now;
        let (&id, letter) = state
            .letters
            .iter_mut()
            .filter(|(_, letter)| ready(letter))
            .min_by_key(|(_, letter)| letter.description.queued_us)?;
        let mailbox = *letter.to.as_ref()?.mailboxes().get(letter.tries.mailbox())?;
        letter.flying = true;
        letter.sent = 0;
        let head = Head {
            resume: letter.tries.begin(),
            letter: id,
            count: letter.description.items,
        };
        Some(Attempt {
            id,
            mailbox,
            head,
            path: self.path(&id, "items"),
        })
    }

    /// Whether [`Self::due`] would give one.
    pub(super) fn is_due(&self, now: Time) -> bool {
        let state = self.lock();
        let mut letters = state.letters.values();
        letters.any(|letter| letter.idle() && letter.tries.due_at() <= now)
    }

    /// When [`Self::due`] or [`Self::expire`] has something to do next.
    pub(super) fn next_due(&self) -> Option<Time> {
        let state = self.lock();
        let due = |letter: &Letter| {
            let end = Time::from_us(letter.description.changed_us) + KEEP;
            match (letter.flying, letter.idle()) {
                // Its attempt ends by itself.
                (true, _) => Time::FAR_FUTURE,
                (false, true) => end.min(letter.tries.due_at()),
                (false, false) => end,
            }
        };
        state.letters.values().map(due).min()
    }

    pub(super) fn sent(&self, id: &LetterId, items: u32) {
        if let Some(letter) = self.lock().letters.get_mut(id) {
            letter.sent = items;
        }
        self.change();
    }

    /// An attempt ended. Blocks on the disk.
    pub(super) fn attempted(
        &self,
        id: &LetterId,
        result: Result<(), UploadError>,
        now: Time,
    ) -> Result<(), DiskError> {
        let ended = match self.judge(id, result, now) {
            Some(stage) => self.set_stage(id, &stage, now),
            None => Ok(()),
        };
        if let Some(letter) = self.lock().letters.get_mut(id) {
            letter.flying = false;
            if ended.is_err() {
                // The disk is full or broken: the letter is brought again, and its gateway says at once that it has it.
                letter.tries.again(now);
            }
        }
        self.change();
        ended
    }

    /// What the end of an attempt means for the letter: its last stage, or another attempt.
    fn judge(&self, id: &LetterId, result: Result<(), UploadError>, now: Time) -> Option<Stage> {
        let mut state = self.lock();
        let letter = state.letters.get_mut(id)?;
        let Err(error) = result else {
            letter.problem = None;
            return Some(Stage::Stored);
        };
        let why = error.to_string();
        letter.problem = Some(why.clone());
        let setback = match error {
            UploadError::Refused(why) => Setback::Refused(why),
            UploadError::Broken | UploadError::Silent => Setback::Broken {
                moved: letter.sent > 0,
            },
            UploadError::Malformed | UploadError::Disk(_) => Setback::Other,
        };
        let comes_again = letter.tries.failed(now, setback);
        (!comes_again).then_some(Stage::Failed { why })
    }

    /// A receipt came: of `of`, signed by `from`. Blocks on the disk. True if it is believed.
    pub(super) fn read(&self, of: &LetterId, from: &Address, now: Time) -> Result<bool, DiskError> {
        let asked = |letter: &Letter| {
            let to = letter.to.as_ref();
            letter.description.wants_read && to.is_some_and(|to| to.seal_key() == from.seal_key())
        };
        if !self.lock().letters.get(of).is_some_and(asked) {
            return Ok(false);
        }
        self.set_stage(of, &Stage::Read, now)?;
        self.change();
        Ok(true)
    }

    fn set_stage(&self, id: &LetterId, stage: &Stage, now: Time) -> Result<(), DiskError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut description) = self.lock().letters.get(id).map(|l| l.description.clone()) else {
            return Ok(());
        };
        let before = std::mem::replace(&mut description.stage, stage.clone());
        if before == Stage::Read || before == *stage {
            return Ok(());
        }
        description.changed_us = now.as_us();
        disk::replace_json(&self.path(id, "json"), &description)?;
        let mut state = self.lock();
        if let Some(letter) = state.letters.get_mut(id) {
            letter.description = description;
            if before == Stage::Waiting {
                let bytes = letter.sealed_bytes();
                state.bytes = state.bytes.saturating_sub(bytes);
            }
        }
        drop(state);
        disk::remove(&self.path(id, "items"))
    }

    /// Gives up what waits for too long, and forgets what became of letters long ago. Blocks on the disk.
    pub(super) fn expire(&self, now: Time) -> Result<(), DiskError> {
        let state = self.lock();
        let old = |letter: &Letter| now.since(Time::from_us(letter.description.changed_us)) >= KEEP;
        let late: Vec<LetterId> = state
            .letters
            .iter()
            .filter(|(_, letter)| letter.waits() && !letter.flying && old(letter))
            .map(|(id, _)| *id)
            .collect();
        let mut done: Vec<_> = state
            .letters
            .iter()
            .filter(|(_, letter)| !letter.waits())
            .map(|(id, letter)| (letter.description.changed_us, *id, old(letter)))
            .collect();
        drop(state);
        done.sort();
        let too_many = done.len().saturating_sub(MAX_DONE);
        for id in late {
            let why = format!(
                "it could not be brought to the receiver's gateway within {} days",
                KEEP.as_secs() / 86_400
            );
            self.set_stage(&id, &Stage::Failed { why }, now)?;
            self.change();
        }
        for (at, (_, id, old)) in done.into_iter().enumerate() {
            if old || at < too_many {
                disk::remove(&self.path(&id, "json"))?;
                self.lock().letters.remove(&id);
                self.change();
            }
        }
        Ok(())
    }
}

fn entry(id: &LetterId, letter: &Letter) -> Entry {
    let Description {
        to,
        kind,
        name,
        bytes,
        items,
        queued_us,
        changed_us,
        stage,
        ..
    } = letter.description.clone();
    Entry {
        letter: id.to_string(),
        to,
        kind,
        name,
        bytes,
        items,
        items_sent: if stage == Stage::Waiting {
            letter.sent
        } else {
            items
        },
        queued_s: queued_us / 1_000_000,
        changed_s: changed_us / 1_000_000,
        stage,
        problem: letter.problem.clone(),
    }
}

/// A letter being written; it is in the outbox once [`Self::finish`] has returned. Dropped before that, nothing is left.
/// It holds some 8 KB, however long the letter. Blocks on the disk.
pub struct Draft {
    outbox: Arc<Outbox>,
    id: LetterId,
    to: Address,
    header: Header,
    signer: Option<Zeroizing<[u8; 32]>>,
    rng: Rng,
    file: Option<BufWriter<File>>,
    sealer: Option<Sealer>,
    pending: Zeroizing<Vec<u8>>,
    bytes: u64,
    items: u32,
    kept: bool,
}

impl Draft {
    /// The id that the letter has.
    #[must_use]
    pub fn id(&self) -> LetterId {
        self.id
    }

    /// Adds data.
    ///
    /// # Errors
    /// [`SendError`]; the draft is of no use then.
    pub fn write(&mut self, data: &[u8]) -> Result<(), SendError> {
        for piece in data.chunks(CHUNK_LEN) {
            self.pending.extend_from_slice(piece);
            self.bytes += piece.len() as u64;
            // What could be the last item is held back until it is known not to be.
            while self.pending.len() > self.room() {
                self.seal(false)?;
            }
        }
        Ok(())
    }

    fn room(&self) -> usize {
        if self.sealer.is_none() {
            FIRST_LEN
        } else {
            CHUNK_LEN
        }
    }

    fn seal(&mut self, last: bool) -> Result<(), SendError> {
        if self.items >= MAX_COUNT {
            return Err(SendError::TooLong);
        }
        self.reserve()?;
        self.items += 1;
        let len = self.room().min(self.pending.len());
        let content = &self.pending[..len];
        let item = match &mut self.sealer {
            Some(sealer) => sealer.next(content, last)?,
            None => {
                let (sealer, item) = Sealer::begin(
                    &self.outbox.network,
                    &self.id,
                    self.to.seal_key(),
                    self.signer.as_deref(),
                    &mut self.rng,
                    content,
                    last,
                )?;
                self.sealer = Some(sealer);
                item
            }
        };
        self.pending.drain(..len);
        let path = self.outbox.path(&self.id, "part");
        let written = self
            .file
            .as_mut()
            .map_or(Ok(()), |file| file.write_all(&item[..]));
        Ok(written.map_err(failed("write", &path))?)
    }

    fn reserve(&self) -> Result<(), SendError> {
        let mut state = self.outbox.lock();
        let after = state.bytes + ITEM_LEN as u64;
        if after > self.outbox.max_bytes {
            let letters = state.waiting();
            let bytes = state.bytes;
            return Err(SendError::Full { letters, bytes });
        }
        state.bytes = after;
        Ok(())
    }

    /// Ends the letter and puts it into the outbox, durably.
    ///
    /// # Errors
    /// [`SendError`]; nothing of it is left then.
    pub fn finish(mut self, now: Time) -> Result<LetterId, SendError> {
        while self.sealer.is_some() && self.pending.len() > CHUNK_LEN {
            self.seal(false)?;
        }
        self.seal(true)?;
        let outbox = Arc::clone(&self.outbox);
        let part = outbox.path(&self.id, "part");
        let items = outbox.path(&self.id, "items");
        let store = |file: Option<BufWriter<File>>| {
            if let Some(file) = file {
                file.into_inner()
                    .map_err(std::io::IntoInnerError::into_error)?
                    .sync_all()?;
            }
            std::fs::rename(&part, &items)
        };
        store(self.file.take()).map_err(failed("write", &part))?;
        let description = Description {
            version: VERSION,
            to: self.to.to_string(),
            kind: kind_name(self.header.kind).into(),
            name: self.header.name.clone(),
            bytes: self.bytes,
            items: self.items,
            wants_read: self.header.wants_read,
            queued_us: now.as_us(),
            changed_us: now.as_us(),
            stage: Stage::Waiting,
        };
        // The rename above becomes durable with this: both are in one folder, which is synced after.
        if let Err(e) = disk::replace_json(&outbox.path(&self.id, "json"), &description) {
            let _ = disk::remove(&outbox.path(&self.id, "json"));
            let _ = disk::remove(&items);
            return Err(e.into());
        }
        self.kept = true;
        let letter = Letter::new(description, false);
        outbox.lock().letters.insert(self.id, letter);
        outbox.change();
        Ok(self.id)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        state.drafts = state.drafts.saturating_sub(1);
        if !self.kept {
            let bytes = u64::from(self.items) * ITEM_LEN as u64;
            state.bytes = state.bytes.saturating_sub(bytes);
            drop(state);
            // What can't be removed now is when the outbox is opened.
            let _ = disk::remove(&self.outbox.path(&self.id, "part"));
        }
    }
}

/// The word for a kind of letter in files and answers.
#[must_use]
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::File => "file",
        Kind::Receipt => "receipt",
    }
}
