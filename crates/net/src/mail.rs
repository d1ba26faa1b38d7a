//! Letters at a client: an inbox, an outbox, and who may know that a letter was read.
//!
//! [`Desk::open`] reads the folder of a client's state, [`Desk::run`] takes items from the client's link and brings letters
//! to gateways, and [`Mail`] is the handle for whoever serves the owner. Everything is on the disk before it is answered
//! for: the process may end at any moment, and no letter is lost or comes twice. A letter that arrived stays until its owner's
//! program has said that it wrote it down.
//!
//! What is in an item is `mizzle-stream`'s ([`mizzle_stream::letter`]); packets, sessions and the numbers of the mailbox
//! are the client's, which is behind [`Carrier`]. The commands that people use are the binary's.

mod content;
mod correspondents;
mod disk;
mod inbox;
mod outbox;
mod upload;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mizzle_base::address::{Address, AddressError, Mailbox};
use mizzle_base::{Counters, LetterId, MailboxId, NetworkId, NodeId};
use mizzle_client::Admission;
use mizzle_client::outbox::{AT_ONCE, OPEN_TIMEOUT};
use mizzle_sphinx::SecretKey;
use mizzle_stream::OpenError;
use mizzle_stream::letter::Header;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;
use zeroize::Zeroizing;

pub use content::{Content, ContentError};
pub use correspondents::{AcceptError, Correspondent, MAX_CORRESPONDENTS};
pub use disk::DiskError;
pub use inbox::{Cursor, Lease};
pub use outbox::{Draft, Entry, SendError, Stage, kind_name, max_letter_bytes};

use content::Opener;
use correspondents::Correspondents;
use inbox::Inbox;
use outbox::Outbox;
use upload::{UploadError, upload};

use crate::MixStream;
use crate::client::{Incoming, MailKeeper, Postman};
use crate::clock::{self, Clock};

/// Items in one commit at most: 1 MB.
const BATCH: usize = 256;
/// After the disk said no it is asked again so often.
const DISK_RETRY: Duration = Duration::from_secs(5);
const ADDRESS_FILE: &str = "address";

/// What a client lends to its mail.
pub trait Carrier: Clone + Send + Sync + 'static {
    /// A stream to the mail service of a gateway.
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// Opens a stream for `mailbox` at `gateway`, in a session of its own.
    fn open(
        &self,
        gateway: NodeId,
        mailbox: MailboxId,
    ) -> impl Future<Output = Result<Self::Stream, OpenError>> + Send;

    /// All items of the mailbox of this generation below `next` are on the disk: the gateway may forget them.
    fn kept(&self, generation: u64, next: u64);
}

impl Carrier for (Postman, MailKeeper) {
    type Stream = MixStream;

    async fn open(&self, gateway: NodeId, mailbox: MailboxId) -> Result<MixStream, OpenError> {
        self.0.open(gateway, mailbox).await
    }

    fn kept(&self, generation: u64, next: u64) {
        self.1.kept(generation, next);
    }
}

/// Bounds and names of a client's mail.
pub struct Config {
    network: NetworkId,
    gateway: NodeId,
    secret: Zeroizing<[u8; 32]>,
    inbox_bytes: u64,
    outbox_bytes: u64,
    outbox_letters: usize,
}

impl Config {
    /// Of a client of `network` at `gateway`, whose letters are sealed to the X25519 key with this secret.
    ///
    /// Defaults: 8 GiB for the inbox and for the outbox, 10,000 letters in the outbox.
    #[must_use]
    pub fn new(network: NetworkId, gateway: NodeId, secret: Zeroizing<[u8; 32]>) -> Self {
        Self {
            network,
            gateway,
            secret,
            inbox_bytes: 8 << 30,
            outbox_bytes: 8 << 30,
            outbox_letters: 10_000,
        }
    }

    /// Disk space for letters that arrive, in bytes. When it is full nothing more is taken from the gateway, which keeps
    /// it, until letters were fetched.
    #[must_use]
    pub fn with_inbox_bytes(mut self, bytes: u64) -> Self {
        self.inbox_bytes = bytes;
        self
    }

    /// Disk space for letters that leave, in bytes. When it is full no more are taken.
    #[must_use]
    pub fn with_outbox_bytes(mut self, bytes: u64) -> Self {
        self.outbox_bytes = bytes;
        self
    }

    /// Letters that may wait to leave. When there are so many no more are taken.
    #[must_use]
    pub fn with_outbox_letters(mut self, letters: usize) -> Self {
        self.outbox_letters = letters;
        self
    }
}

/// What the owner may know of his mail.
#[derive(Clone, Debug)]
pub struct Status {
    /// Letters that wait for him.
    pub waiting: usize,
    /// Bytes of these and of those that are still arriving.
    pub inbox_bytes: u64,
    /// Most bytes of them.
    pub inbox_max_bytes: u64,
    /// What the inbox is waiting for, if it takes nothing: in words, with what to do.
    pub inbox_problem: Option<String>,
    /// Letters that leave or left, the oldest first.
    pub outbox: Vec<Entry>,
    /// What was counted.
    pub counters: Counters,
}

struct Shared {
    folder: PathBuf,
    opener: Arc<Opener>,
    inbox_bytes: u64,
    shelf: Arc<inbox::Shelf>,
    outbox: Arc<Outbox>,
    correspondents: Correspondents,
    clock: Clock,
    address: watch::Sender<Option<Address>>,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    counters: Counters,
    inbox_problem: Option<String>,
}

impl Shared {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, name: &'static str) {
        self.own().counters.count(name);
    }

    fn on_receipt(&self, of: &LetterId, from: &Address) -> Result<(), DiskError> {
        match self.outbox.read(of, from, self.clock.now())? {
            true => self.count("receipt.believed"),
            // Of a letter that is long forgotten, or from somebody else than it went to.
            false => self.count("receipt.ignored"),
        }
        Ok(())
    }

    /// The disk lets the inbox work again, or doesn't: said once.
    fn inbox_problem(&self, problem: Option<String>) {
        let mut own = self.own();
        match (&own.inbox_problem, &problem) {
            (None, Some(what)) => tracing::warn!("{what}"),
            (Some(_), None) => tracing::warn!("the inbox takes letters again"),
            _ => {}
        }
        own.inbox_problem = problem;
    }
}

/// The address that a client had when it last ran, as text; `folder` as for [`Desk::open`]. `None` if it never was admitted.
///
/// # Errors
/// [`DiskError`].
pub fn saved_address(folder: &Path) -> Result<Option<String>, DiskError> {
    let bytes = disk::read(&folder.join(ADDRESS_FILE))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// A client's mail before the client runs.
pub struct Desk {
    mail: Mail,
    inbox: Inbox,
}

impl Desk {
    /// Reads what is in `folder`, which is made if it isn't there. Blocks on the disk. One process at a time: the lock
    /// of the state directory is the caller's.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(folder: &Path, config: Config, clock: Clock) -> Result<Self, DiskError> {
        disk::folder(folder)?;
        let seal_key = SecretKey::from_bytes(*config.secret).public();
        let (network, secret) = (config.network, config.secret);
        let opener = Arc::new(Opener { network, secret });
        let outbox = Arc::new(Outbox::open(
            &folder.join("outbox"),
            network,
            config.outbox_letters,
            config.outbox_bytes,
        )?);
        let now = clock.now();
        let inbox = Inbox::open(
            &folder.join("inbox"),
            Arc::clone(&opener),
            config.inbox_bytes,
            now.as_s(),
            &mut |of, from| outbox.read(of, from, now).map(drop),
        )?;
        let saved = saved_address(folder)?.and_then(|text| text.parse::<Address>().ok());
        // A mailbox at a gateway that the client has left is no longer emptied.
        let is_here = |a: &Address| a.mailboxes().iter().all(|m| m.gateway == config.gateway);
        let address =
            saved.filter(|a| a.seal_key() == &seal_key && a.check_network(&network).is_ok() && is_here(a));
        let shared = Shared {
            correspondents: Correspondents::open(folder.join("correspondents"))?,
            folder: folder.into(),
            inbox_bytes: config.inbox_bytes,
            shelf: inbox.shelf(),
            opener,
            outbox,
            clock,
            address: watch::Sender::new(address),
            own: Mutex::default(),
        };
        let mail = Mail(Arc::new(shared));
        Ok(Self { mail, inbox })
    }

    /// How far the mailbox is on the disk: what the client tells its gateway.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.inbox.cursor()
    }

    /// The handle for whoever serves the owner.
    #[must_use]
    pub fn mail(&self) -> Mail {
        self.mail.clone()
    }

    /// Takes items and brings letters until the result is dropped. Must be called within a runtime.
    pub fn run(
        self,
        carrier: impl Carrier,
        incoming: mpsc::Receiver<Incoming>,
        admission: watch::Receiver<Option<Admission>>,
    ) -> Running {
        let shared = self.mail.0;
        let tasks = [
            tokio::spawn(keep_address(Arc::clone(&shared), admission)),
            tokio::spawn(bring(Arc::clone(&shared), carrier.clone())),
            tokio::spawn(take(shared, self.inbox, carrier, incoming)),
        ];
        Running(tasks.map(|task| task.abort_handle()))
    }
}

/// The tasks of a client's mail. They end when this is dropped; what they were writing to the disk is either whole or
/// cut off when the [`Desk`] is opened again.
pub struct Running([AbortHandle; 3]);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Notes the own address whenever the gateway gives another mailbox.
async fn keep_address(shared: Arc<Shared>, mut admission: watch::Receiver<Option<Admission>>) {
    loop {
        let admitted = *admission.borrow_and_update();
        if let Some(admitted) = admitted {
            let writer = Arc::clone(&shared);
            let written = spawn_blocking(move || note_address(&writer, &admitted)).await;
            if let Ok(Err(why)) = written {
                tracing::warn!("the client's address could not be noted: {}", why.brief());
            }
        }
        if admission.changed().await.is_err() {
            return;
        }
    }
}

fn note_address(shared: &Shared, admission: &Admission) -> Result<(), DiskError> {
    let Some(address) = own_address(shared, admission) else {
        return Ok(());
    };
    let text = address.to_string();
    let written = match saved_address(&shared.folder) {
        Ok(saved) if saved.as_deref() == Some(&text) => Ok(()),
        _ => disk::replace(&shared.folder.join(ADDRESS_FILE), format!("{text}\n").as_bytes()),
    };
    // Good while the client runs, whatever the disk says.
    shared.address.send_replace(Some(address));
    written
}

/// `None` for a mailbox that isn't one, as of a gateway that doesn't know better.
fn own_address(shared: &Shared, admission: &Admission) -> Option<Address> {
    let seal_key = SecretKey::from_bytes(*shared.opener.secret).public();
    let mailbox = Mailbox {
        gateway: admission.gateway,
        id: admission.mailbox,
    };
    Address::new(&shared.opener.network, seal_key, vec![mailbox]).ok()
}

/// The task of the inbox: as many items as came meanwhile are one commit.
async fn take(
    shared: Arc<Shared>,
    mut inbox: Inbox,
    carrier: impl Carrier,
    mut incoming: mpsc::Receiver<Incoming>,
) {
    let mut items = Vec::with_capacity(BATCH);
    let mut freed = shared.shelf.changed();
    loop {
        if items.is_empty() && incoming.recv_many(&mut items, BATCH).await == 0 {
            return;
        }
        freed.mark_unchanged();
        let for_disk = Arc::clone(&shared);
        let committed = spawn_blocking(move || {
            let now_s = for_disk.clock.now().as_s();
            let done = inbox.commit(&items, now_s, &mut |of, from| for_disk.on_receipt(of, from));
            (inbox, items, done)
        });
        // Only a runtime that is being shut down gives an error here.
        let Ok((same_inbox, same_items, done)) = committed.await else {
            return;
        };
        (inbox, items) = (same_inbox, same_items);
        match done {
            Ok(done) => {
                items.drain(..done.taken);
                carrier.kept(done.cursor.generation, done.cursor.next);
                if items.is_empty() {
                    shared.inbox_problem(None);
                    continue;
                }
                shared.inbox_problem(Some(format!(
                    "the inbox is full ({} MiB): no more letters come until some were fetched with `mizzle receive`; \
                     the gateway keeps them meanwhile",
                    shared.inbox_bytes >> 20
                )));
                // Room can also come from unfinished letters that are given up.
                let _ = timeout(Duration::from_secs(3_600), freed.changed()).await;
            }
            Err(why) if why.is_full() => {
                shared.inbox_problem(Some(format!(
                    "{}: no more letters come until there is room on the disk; the gateway keeps them meanwhile",
                    why.brief()
                )));
                tokio::time::sleep(DISK_RETRY).await;
            }
            Err(why) => {
                shared.inbox_problem(Some(format!(
                    "no more letters come while this lasts: {}",
                    why.brief()
                )));
                tokio::time::sleep(DISK_RETRY).await;
            }
        }
    }
}

/// The task of the outbox: up to [`AT_ONCE`] letters at once, the oldest first.
async fn bring(shared: Arc<Shared>, carrier: impl Carrier) {
    let mut flying = JoinSet::new();
    let mut changed = shared.outbox.changed();
    loop {
        changed.mark_unchanged();
        let for_disk = Arc::clone(&shared);
        let expired = spawn_blocking(move || for_disk.outbox.expire(for_disk.clock.now())).await;
        let mut rest = None;
        if let Ok(Err(why)) = expired {
            tracing::warn!("the outbox can't be kept in order: {}", why.brief());
            rest = Some(shared.clock.now() + Duration::from_secs(60));
        }
        while flying.len() < AT_ONCE
            && let Some(attempt) = shared.outbox.due(shared.clock.now())
        {
            flying.spawn(try_once(Arc::clone(&shared), carrier.clone(), attempt));
        }
        let next = match flying.len() < AT_ONCE {
            true => rest.or_else(|| shared.outbox.next_due()),
            // A place becomes free first.
            false => None,
        };
        tokio::select! {
            Some(_) = flying.join_next(), if !flying.is_empty() => {}
            // What is on its way reports each item: nothing to do here for that.
            () = new_letter(&mut changed, &shared), if flying.len() < AT_ONCE => {}
            () = shared.clock.sleep_until(next) => {}
        }
    }
}

async fn new_letter(changed: &mut watch::Receiver<u64>, shared: &Shared) {
    while changed.changed().await.is_ok() {
        if shared.outbox.is_due(shared.clock.now()) {
            return;
        }
    }
    std::future::pending().await
}

async fn try_once(shared: Arc<Shared>, carrier: impl Carrier, attempt: outbox::Attempt) {
    let outbox::Attempt {
        id,
        mailbox,
        head,
        path,
    } = attempt;
    let opened = timeout(OPEN_TIMEOUT, carrier.open(mailbox.gateway, mailbox.id)).await;
    let result = match opened {
        Ok(Ok(stream)) => {
            let outbox = Arc::clone(&shared.outbox);
            upload(stream, head, path, move |items| outbox.sent(&id, items)).await
        }
        Ok(Err(why)) => Err(why.into()),
        Err(_) => Err(UploadError::Refused(OpenError::Timeout)),
    };
    shared.count(match &result {
        Ok(()) => "outbox.stored",
        Err(_) => "outbox.attempt_failed",
    });
    let noted = spawn_blocking(move || shared.outbox.attempted(&id, result, shared.clock.now())).await;
    if let Ok(Err(why)) = noted {
        tracing::warn!(
            "what became of a letter could not be noted, and it is brought again: {}",
            why.brief()
        );
    }
}

/// What a letter is to be.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The name of a file; none for a text.
    pub name: Option<String>,
    /// Tell the receiver, and nobody else, who wrote it.
    pub sign: bool,
    /// Ask to hear when it was read; only for a signed letter.
    pub wants_read: bool,
}

/// A client's mail, for whoever serves its owner.
#[derive(Clone)]
pub struct Mail(Arc<Shared>);

impl Mail {
    /// The own address: the one of the last run until the gateway has admitted the client, `None` before the first time.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        self.0.address.borrow().clone()
    }

    /// Whether letters can go to this address.
    ///
    /// # Errors
    /// [`AddressError::OtherNetwork`].
    pub fn check_address(&self, to: &Address) -> Result<(), AddressError> {
        to.check_network(&self.0.opener.network)
    }

    /// What there is.
    #[must_use]
    pub fn status(&self) -> Status {
        let inbox_problem = self.0.own().inbox_problem.clone();
        Status {
            waiting: self.0.shelf.len(),
            inbox_bytes: self.0.shelf.bytes(),
            inbox_max_bytes: self.0.inbox_bytes,
            inbox_problem,
            outbox: self.0.outbox.entries(),
            counters: self.counters(),
        }
    }

    /// What was counted, without the rest of [`Self::status`].
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.0.own().counters.clone();
        counters.merge(&self.0.shelf.counters());
        counters
    }

    /// Begins a letter. Blocks on the disk.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn draft(&self, to: Address, outgoing: &Outgoing) -> Result<Draft, SendError> {
        let mut header = match &outgoing.name {
            Some(name) => Header::file(name)?,
            None => Header::text(),
        };
        if outgoing.sign {
            header.from = Some(self.address().ok_or(SendError::NoAddress)?);
            header.wants_read = outgoing.wants_read;
        }
        self.seal(to, &header)
    }

    fn seal(&self, to: Address, header: &Header) -> Result<Draft, SendError> {
        let signer = header.from.as_ref().map(|_| self.0.opener.secret.clone());
        let rng = clock::rng().map_err(SendError::Entropy)?;
        self.0.outbox.draft(to, header, signer, rng)
    }

    /// Ends a letter and puts it into the outbox, durably. Blocks on the disk.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn post(&self, draft: Draft) -> Result<LetterId, SendError> {
        draft.finish(self.0.clock.now())
    }

    /// A letter in the outbox; `None` if it is not known, or no longer.
    #[must_use]
    pub fn entry(&self, letter: &LetterId) -> Option<Entry> {
        self.0.outbox.entry(letter)
    }

    /// Changes with every step of a letter in the outbox.
    #[must_use]
    pub fn outbox_changed(&self) -> watch::Receiver<u64> {
        self.0.outbox.changed()
    }

    /// Waits for the oldest letter that nobody else is reading.
    pub async fn next_letter(&self) -> Lease {
        let mut changed = self.0.shelf.changed();
        loop {
            if let Some(lease) = self.0.shelf.take() {
                return lease;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The oldest letter that nobody else is reading, if there is one.
    #[must_use]
    pub fn letter(&self) -> Option<Lease> {
        self.0.shelf.take()
    }

    /// Reads a letter. Blocks on the disk.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn read(&self, lease: &Lease) -> Result<Content, ContentError> {
        Content::open(&self.0.opener, &lease.id(), lease.path())
    }

    /// The owner has the letter: it is removed, and who asked for it and was accepted gets a receipt. Blocks on the disk.
    ///
    /// # Errors
    /// [`DiskError`]; the letter comes again.
    pub fn fetched(&self, lease: Lease, header: &Header) -> Result<(), DiskError> {
        let accepted = |from: &Address| self.0.correspondents.find(from).is_some();
        // The receipt first: it may leave twice, but must not be forgotten.
        if header.wants_read
            && let Some(from) = header.from.clone().filter(accepted)
            && let Some(own) = self.address()
        {
            let receipt = Header::receipt(lease.id(), own);
            match self.seal(from, &receipt).and_then(|draft| self.post(draft)) {
                Ok(_) => self.0.count("receipt.sent"),
                Err(SendError::Disk(why)) => tracing::warn!("a receipt could not be sent: {}", why.brief()),
                Err(why) => tracing::warn!("a receipt could not be sent: {why}"),
            }
        }
        lease.remove()
    }

    /// A letter that can't be read: counted and removed. Blocks on the disk.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn discard(&self, lease: Lease) -> Result<(), DiskError> {
        lease.discard()
    }

    /// Whom the owner lets know when he has read a letter.
    #[must_use]
    pub fn correspondents(&self) -> Vec<Correspondent> {
        self.0.correspondents.all()
    }

    /// The name under which an address was accepted.
    #[must_use]
    pub fn known_as(&self, address: &Address) -> Option<Correspondent> {
        self.0.correspondents.find(address)
    }

    /// Lets the owner of this address know when letters from him were read. Again: another name. Blocks on the disk.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub fn accept(&self, address: &Address, name: &str) -> Result<(), AcceptError> {
        self.check_address(address)?;
        self.0.correspondents.add(address, name)
    }

    /// Takes that back. False if he wasn't accepted. Blocks on the disk.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn unaccept(&self, address: &Address) -> Result<bool, DiskError> {
        self.0.correspondents.remove(address)
    }
}
