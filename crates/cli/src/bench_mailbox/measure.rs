//! What `mizzle bench mailbox` does to a gateway's store: brings letters, opens it again, reads, deletes.
//!
//! The gateway core, the thread that waits for its disk and the store are those that ship; only the packets, by which
//! letters come and go else, are left out, for they would be slower than what is measured.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content, DocumentError, NodeEntry, Role, ServiceEntry};
use mizzle_base::item::ITEM_LEN;
use mizzle_base::upload::{Answer as Said, Head};
use mizzle_base::{ClientTag, Document, LetterId, MailboxId, NodeId, Profile, Rng, Time, hex};
use mizzle_gateway::store::{Answer, Limits, MailStore, Order, Registered, StoreError};
use mizzle_gateway::{Action, ClientId, Config, Gateway, Input, Upload, UploadId, Uploaded};
use mizzle_net::clock::Clock;
use mizzle_net::keeper::Keeper;
use mizzle_net::store;
use mizzle_sphinx::SecretKey;
use rand_core::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

/// Letters that are brought at a time, as many as a gateway takes by itself.
const AT_ONCE: usize = 1_024;
/// Letters in a mailbox, on average.
const IN_A_MAILBOX: u64 = 1_000;
/// Owners who fetch at a time, and items that a gateway reads ahead for one.
const OWNERS: usize = 64;
const AHEAD: usize = 16;
/// How often the disk is asked for so much, before anything else.
const SYNCS: usize = 32;
const SYNC_LEN: usize = 1 << 20;

/// Why a measurement ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the disk can't be measured: {0}")]
    Io(#[from] io::Error),
    #[error("the thread of the store ended")]
    Ended,
    #[error("a letter was refused with code {0}")]
    Refused(u8),
    #[error("the store failed in the middle")]
    Failed,
    #[error("mailbox {0} has other letters than were brought")]
    Wrong(u64),
    #[error("no network document to measure with: {0}")]
    Document(#[from] DocumentError),
}

/// What was seen. Bytes of files and of memory are those of this process and its folder.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Seen {
    pub(crate) messages: u64,
    pub(crate) mailboxes: u64,
    /// 1 MB written to a file and synced, the median: what the disk does without a store.
    pub(crate) disk_sync_1mb_ms: f64,
    pub(crate) accepted_s: f64,
    pub(crate) accepted_per_s: f64,
    /// Of whole seconds.
    pub(crate) accepted_per_s_in_the_worst_second: u64,
    /// From the bytes of a letter to *stored*.
    pub(crate) stored_p50_ms: f64,
    pub(crate) stored_p99_ms: f64,
    pub(crate) stored_max_ms: f64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_peak_bytes: u64,
    /// `None` where the system doesn't tell, as all of memory.
    pub(crate) resident_peak_bytes: Option<u64>,
    pub(crate) open_s: f64,
    pub(crate) open_resident_bytes: Option<u64>,
    pub(crate) read_s: f64,
    pub(crate) read_per_s: f64,
    pub(crate) read_resident_peak_bytes: Option<u64>,
    pub(crate) deleted_s: f64,
    pub(crate) deleted_per_s: f64,
    /// After all was acknowledged and deleted.
    pub(crate) deleted_disk_bytes: u64,
}

/// Resident memory of this process: now, or the most since it was last asked for with `again`.
fn memory(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kb = line.trim().strip_suffix("kB")?.trim();
    Some(kb.parse::<u64>().ok()? * 1_024)
}

/// The most since the last call of this; the first time since the process began.
fn peak_memory() -> Option<u64> {
    let peak = memory("VmHWM:");
    // Where it can't be begun anew the next one is that of all.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    peak
}

/// Bytes that the files in a folder take.
fn disk(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    // Files come and go while they are looked at.
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk(&entry.path()),
            Ok(meta) => taken(&meta),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(unix)]
fn taken(meta: &std::fs::Metadata) -> u64 {
    // Files with room ahead of their end, as journals are, take less than they are long.
    std::os::unix::fs::MetadataExt::blocks(meta) * 512
}

#[cfg(not(unix))]
fn taken(meta: &std::fs::Metadata) -> u64 {
    meta.len()
}

fn sync_ms(folder: &Path) -> io::Result<f64> {
    let path = folder.join("sync");
    let mut file = std::fs::File::create(&path)?;
    let bytes = vec![0x5a; SYNC_LEN];
    let mut took = Vec::new();
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(&path)?;
    took.sort_by(f64::total_cmp);
    Ok(took[SYNCS / 2])
}

const ME: [u8; 32] = [1; 32];

/// A network of four nodes of which one is the gateway. Its keys are anybody's: nothing is ever sealed with them.
fn document(now: Time) -> Result<Arc<Document>, Error> {
    let key = |n: u8| hex::encode(SecretKey::from_bytes([n; 32]).public().as_bytes());
    let node = |layer: u8| NodeEntry {
        id: hex::encode(&[layer + 1; 32]),
        role: if layer == 0 { Role::Gateway } else { Role::Mix },
        layer,
        peer: String::new(),
        addresses: Vec::new(),
        sphinx_key: key(10 + layer),
        weight: 1.0,
        operator: String::new(),
        exit: None,
        mail: (layer == 0).then(|| ServiceEntry {
            mailbox: "ea".repeat(16),
            stream_key: key(20),
        }),
    };
    let content = Content {
        network: "bench".into(),
        sequence: 1,
        epoch: 1,
        valid_from_s: now.as_s().saturating_sub(3_600),
        valid_until_s: now.as_s() + 86_400,
        profile: Profile::chat(),
        nodes: (0..=3).map(node).collect(),
    };
    let authority = SigningKey::from_bytes(&[9; 32]);
    let signed = content.sign(&authority)?;
    let document = Document::verify(&signed, &authority.verifying_key(), now, 0)?;
    Ok(Arc::new(document))
}

fn registered(n: u64, now: Time) -> Registered {
    let mut bytes = [0; 32];
    // Scattered over all ids, as drawn ones are.
    for (part, chunk) in bytes.chunks_mut(8).enumerate() {
        let salt = (part as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&(n ^ salt).wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes());
    }
    let (tag, mailbox) = (bytes[..8].try_into(), bytes[8..24].try_into());
    Registered {
        client: ClientId(bytes),
        tag: ClientTag(tag.unwrap_or_default()),
        mailbox: MailboxId::new(mailbox.unwrap_or_default()),
        generation: n,
        since: now,
        seen: now,
        first: 1,
        next: 1,
    }
}

fn letter_id(n: u64) -> LetterId {
    let mut id = [0; 16];
    // Drawn ones are in no order; this is one that can be turned round.
    id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..].copy_from_slice(&n.to_be_bytes());
    LetterId::new(id)
}

/// A gateway and its store at work.
struct Desk {
    gateway: Gateway,
    keeper: Keeper,
    clock: Clock,
    mailboxes: Vec<MailboxId>,
    template: Box<[u8; ITEM_LEN]>,
    /// Which letters are on their way, since when.
    since: BTreeMap<UploadId, Instant>,
    took_ms: Vec<f32>,
}

impl Desk {
    fn bring(&mut self, n: u64) {
        let id = UploadId(n);
        let mailbox = self.mailboxes[n as usize % self.mailboxes.len()];
        let head = Head {
            resume: false,
            letter: letter_id(n),
            count: 1,
        };
        let mut bytes = Vec::with_capacity(ITEM_LEN + 32);
        bytes.extend(head.encode());
        bytes.extend(n.to_be_bytes());
        bytes.extend(&self.template[8..]);
        self.since.insert(id, Instant::now());
        let now = self.clock.now();
        for said in [
            Upload::Open(mailbox),
            Upload::Wanted,
            Upload::Bytes(bytes),
            Upload::Ended,
        ] {
            self.gateway.handle(now, Input::Upload(id, said));
        }
    }

    /// Does what the gateway wants done; how many letters are stored by now.
    fn drain(&mut self) -> Result<(), Error> {
        while let Some(action) = self.gateway.poll() {
            match action {
                Action::Store(order) => self.keeper.ask(order),
                Action::Upload(id, Uploaded::Answer(bytes)) if !bytes.is_empty() => {
                    match Said::decode(&bytes) {
                        Ok(Some((Said::Stored, _))) => {
                            if let Some(since) = self.since.remove(&id) {
                                self.took_ms.push(since.elapsed().as_secs_f32() * 1e3);
                            }
                        }
                        Ok(Some((Said::Refused(code), _))) => return Err(Error::Refused(code)),
                        _ => return Err(Error::Failed),
                    }
                    let now = self.clock.now();
                    self.gateway.handle(now, Input::Upload(id, Upload::Gone));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn answers(&mut self) -> Result<(), Error> {
        let answers = self.keeper.answers().await.ok_or(Error::Ended)?;
        let now = self.clock.now();
        for answer in answers {
            self.gateway.handle(now, Input::Store(answer));
        }
        self.drain()
    }
}

/// Measures in a folder that is empty or isn't there. `progress` hears now and then how far it is.
pub(crate) async fn run(folder: &Path, messages: u64, progress: impl Fn(&str)) -> Result<Seen, Error> {
    std::fs::create_dir_all(folder)?;
    let mut seen = Seen {
        messages,
        mailboxes: messages.div_ceil(IN_A_MAILBOX),
        disk_sync_1mb_ms: sync_ms(folder)?,
        ..Seen::default()
    };
    let path = folder.join("mail");
    let watch = Watch::start(path.clone());
    let clients = keep(&path, &mut seen, &progress).await?;
    seen.disk_bytes = disk(&path);
    seen.disk_peak_bytes = watch.stop().max(seen.disk_bytes);
    progress("closed; opening it again");
    fetch(&path, &clients, &mut seen, &progress).await?;
    seen.deleted_disk_bytes = disk(&path);
    Ok(seen)
}

async fn keep(path: &Path, seen: &mut Seen, progress: &impl Fn(&str)) -> Result<Vec<Registered>, Error> {
    let clock = Clock::start();
    let now = clock.now();
    let mut store = store::open(path, Limits::default())?;
    let clients: Vec<Registered> = (0..seen.mailboxes).map(|n| registered(n, now)).collect();
    let (_, done) = store.perform(clients.iter().copied().map(Order::Register).collect());
    done?;
    let mut rng = Rng::from_seed([5; 32]);
    let mut template = Box::new([0; ITEM_LEN]);
    rng.fill_bytes(&mut template[..]);
    let config = Config::default().with_uploads(AT_ONCE);
    let me = NodeId::new(ME);
    let mut desk = Desk {
        gateway: Gateway::new(config, document(now)?, &me, store.registered()?, rng),
        keeper: Keeper::start(Box::new(store)),
        clock,
        mailboxes: clients.iter().map(|client| client.mailbox).collect(),
        template,
        since: BTreeMap::new(),
        took_ms: Vec::with_capacity(seen.messages as usize),
    };
    peak_memory();
    let (start, mut next) = (Instant::now(), 0);
    let (mut second, mut before, mut worst) = (start, 0, u64::MAX);
    while (desk.took_ms.len() as u64) < seen.messages {
        while desk.since.len() < AT_ONCE && next < seen.messages {
            desk.bring(next);
            next += 1;
        }
        desk.drain()?;
        desk.answers().await?;
        let stored = desk.took_ms.len() as u64;
        let spent = second.elapsed();
        if spent >= Duration::from_secs(1) {
            let per_s = ((stored - before) as f64 / spent.as_secs_f64()) as u64;
            worst = worst.min(per_s);
            (second, before) = (Instant::now(), stored);
            progress(&format!("{stored} stored, {per_s}/s"));
        }
    }
    let spent = start.elapsed().as_secs_f64();
    seen.accepted_s = spent;
    seen.accepted_per_s = seen.messages as f64 / spent;
    seen.accepted_per_s_in_the_worst_second = worst.min(seen.accepted_per_s as u64);
    seen.resident_peak_bytes = peak_memory();
    desk.keeper.stop().await;
    let mut took = desk.took_ms;
    took.sort_by(f32::total_cmp);
    let quantile = |q: f64| f64::from(took[((took.len() - 1) as f64 * q) as usize]);
    (seen.stored_p50_ms, seen.stored_p99_ms, seen.stored_max_ms) =
        (quantile(0.5), quantile(0.99), quantile(1.0));
    Ok(clients)
}

async fn fetch(
    path: &Path,
    clients: &[Registered],
    seen: &mut Seen,
    progress: &impl Fn(&str),
) -> Result<(), Error> {
    peak_memory();
    let start = Instant::now();
    let mut store = store::open(path, Limits::default())?;
    let there = store.registered()?;
    seen.open_s = start.elapsed().as_secs_f64();
    seen.open_resident_bytes = memory("VmRSS:");
    if there.len() != clients.len() {
        return Err(Error::Failed);
    }
    let mut keeper = Keeper::start(Box::new(store));
    progress("open; reading all");
    let start = Instant::now();
    let all: BTreeMap<MailboxId, u64> = (0..).zip(clients).map(|(n, c)| (c.mailbox, n)).collect();
    let (mut to_come, mut came) = (clients.iter(), 0);
    let fetch = |keeper: &Keeper, mailbox, from| {
        keeper.ask(Order::Fetch {
            mailbox,
            from,
            count: AHEAD,
        });
    };
    for client in to_come.by_ref().take(OWNERS) {
        fetch(&keeper, client.mailbox, 1);
    }
    while came < seen.messages {
        for answer in keeper.answers().await.ok_or(Error::Ended)? {
            let Answer::Fetched {
                mailbox,
                result: Ok(got),
            } = answer
            else {
                return Err(Error::Failed);
            };
            let box_number = *all.get(&mailbox).ok_or(Error::Failed)?;
            for (number, item) in (got.from..).zip(&got.items) {
                // Letters went round all mailboxes, one after the other.
                let n = (number - 1) * seen.mailboxes + box_number;
                if item.letter != letter_id(n) || item.bytes[..8] != n.to_be_bytes() {
                    return Err(Error::Wrong(box_number));
                }
            }
            came += got.items.len() as u64;
            let from = got.from + got.items.len() as u64;
            if from < got.next {
                fetch(&keeper, mailbox, from);
            } else if let Some(client) = to_come.next() {
                fetch(&keeper, client.mailbox, 1);
            }
        }
    }
    seen.read_s = start.elapsed().as_secs_f64();
    seen.read_per_s = seen.messages as f64 / seen.read_s;
    progress("read; deleting all");
    let (start, mut left) = (Instant::now(), clients.len());
    for client in clients {
        keeper.ask(Order::Acknowledge {
            mailbox: client.mailbox,
            next: u64::MAX,
        });
    }
    while left > 0 {
        let answers = keeper.answers().await.ok_or(Error::Ended)?;
        let deleted = |answer: &&Answer| matches!(answer, Answer::Acknowledged { result: Ok(()), .. });
        if answers.iter().filter(deleted).count() != answers.len() {
            return Err(Error::Failed);
        }
        left -= answers.len();
    }
    seen.deleted_s = start.elapsed().as_secs_f64();
    seen.deleted_per_s = seen.messages as f64 / seen.deleted_s;
    seen.read_resident_peak_bytes = peak_memory();
    keeper.stop().await;
    Ok(())
}

/// Looks at the files of a folder while others write them.
struct Watch {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<u64>,
}

impl Watch {
    fn start(folder: PathBuf) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) =
                stopped.recv_timeout(Duration::from_millis(200))
            {
                most = disk(&folder).max(most);
            }
            most
        });
        Self { stop, thread }
    }

    /// The most that they took.
    fn stop(self) -> u64 {
        drop(self.stop);
        self.thread.join().unwrap_or(0)
    }
}
