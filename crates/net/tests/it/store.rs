//! The store of letters on a real disk: opened again, killed while it writes, damaged, of another version, without rights.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content, NodeEntry, Role};
use mizzle_base::frame::{self, Frame};
use mizzle_base::item::ITEM_LEN;
use mizzle_base::{ClientTag, Document, Item, LetterId, MailboxId, NodeId, Profile, Rng, Time, hex};
use mizzle_gateway::store::{
    Answer, Limits, MailStore, MemoryMailStore, NotStored, Order, Progress, Registered, StoreError, Table,
};
use mizzle_gateway::{Action, ClientId, Conn, Gateway, Input, UploadId};
use mizzle_net::clock::Clock;
use mizzle_net::keeper::Keeper;
use mizzle_net::store::{self, DiskStore};
use mizzle_sphinx::SecretKey;
use rand_core::SeedableRng as _;
use tokio::time::Instant;

const NOW: Time = Time::from_s(1_000_000);
const MAILBOX: MailboxId = MailboxId::new([5; 16]);
const UPLOAD: UploadId = UploadId(1);
/// Says to this very program that it is the child, and where the store is.
const CHILD: &str = "MIZZLE_TEST_STORE_CHILD";
/// And with which letter it begins.
const FIRST: &str = "MIZZLE_TEST_STORE_FIRST";

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mizzle-store-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self) -> DiskStore {
        store::open(&self.0, Limits::default()).unwrap()
    }

    fn error(&self) -> StoreError {
        match store::open(&self.0, Limits::default()) {
            Ok(_) => panic!("it opens"),
            Err(why) => why,
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn client() -> Registered {
    Registered {
        client: ClientId([1; 32]),
        tag: ClientTag([2; 8]),
        mailbox: MAILBOX,
        generation: 77,
        since: NOW,
        seen: NOW,
        first: 1,
        next: 1,
    }
}

fn item(letter: u32, index: u32, count: u32) -> Item {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&letter.to_be_bytes());
    Item {
        letter: LetterId::new(id),
        index,
        count,
        bytes: Box::new([letter as u8 ^ index as u8; ITEM_LEN]),
    }
}

fn append(item: Item) -> Order {
    Order::Append {
        upload: UPLOAD,
        mailbox: MAILBOX,
        item,
        at: NOW,
    }
}

fn one(store: &mut DiskStore, order: Order) -> Answer {
    let (mut answers, trouble) = store.perform(vec![order]);
    assert_eq!(trouble, Ok(()));
    answers.pop().unwrap()
}

fn kept(store: &mut DiskStore, item: Item) -> Result<Option<u64>, NotStored> {
    match one(store, append(item)) {
        Answer::Appended { result, .. } => result,
        other => panic!("{other:?}"),
    }
}

/// All items of the mailbox, by their numbers.
fn all(store: &mut DiskStore) -> BTreeMap<u64, Item> {
    let (mut items, mut from) = (BTreeMap::new(), 0);
    loop {
        let order = Order::Fetch {
            mailbox: MAILBOX,
            from,
            count: 50,
        };
        let Answer::Fetched { result: Ok(got), .. } = one(store, order) else {
            panic!("not fetched")
        };
        if got.items.is_empty() {
            return items;
        }
        from = got.from + got.items.len() as u64;
        items.extend((got.from..).zip(got.items));
    }
}

#[test]
fn what_was_kept_is_there_again_and_numbers_go_on() {
    let directory = Directory::new("again");
    let mut store = directory.open();
    one(&mut store, Order::Register(client()));
    for index in 0..5 {
        assert_eq!(
            kept(&mut store, item(1, index, 6)),
            Ok(Some(u64::from(index) + 1))
        );
    }
    one(
        &mut store,
        Order::Acknowledge {
            mailbox: MAILBOX,
            next: 4,
        },
    );
    drop(store);

    let mut store = directory.open();
    let again = Registered {
        first: 4,
        next: 6,
        ..client()
    };
    assert_eq!(store.registered(), Ok(vec![again]));
    let items: Vec<(u64, Item)> = all(&mut store).into_iter().collect();
    assert_eq!(items, [(4, item(1, 3, 6)), (5, item(1, 4, 6))]);
    let Answer::Known {
        result: Ok(Some(progress)),
        ..
    } = one(
        &mut store,
        Order::Look {
            upload: UPLOAD,
            mailbox: MAILBOX,
            letter: item(1, 0, 6).letter,
        },
    )
    else {
        panic!("the letter is not known")
    };
    assert_eq!(progress, Progress { count: 6, next: 5 });
    one(
        &mut store,
        Order::Acknowledge {
            mailbox: MAILBOX,
            next: 6,
        },
    );
    drop(store);

    let mut store = directory.open();
    assert_eq!(all(&mut store).len(), 0);
    assert_eq!(
        kept(&mut store, item(1, 5, 6)),
        Ok(Some(6)),
        "numbers go on behind what is deleted"
    );
    assert_eq!(
        kept(&mut store, item(1, 5, 6)),
        Ok(None),
        "and nothing is kept twice"
    );
    let forget = Order::Forget {
        client: client().client,
        mailbox: MAILBOX,
    };
    assert!(store.perform(vec![forget]).0.is_empty());
    assert_eq!(kept(&mut store, item(2, 0, 1)), Err(NotStored::NoMailbox));
    drop(store);
    assert_eq!(directory.open().registered(), Ok(Vec::new()));
}

#[test]
fn limits_hold_across_runs() {
    let directory = Directory::new("limits");
    let limits = Limits::default().with_total_bytes(3 * ITEM_LEN as u64);
    for run in 0..3 {
        let mut store = store::open(&directory.0, limits).unwrap();
        if run == 0 {
            one(&mut store, Order::Register(client()));
        }
        assert_eq!(kept(&mut store, item(run, 0, 1)), Ok(Some(u64::from(run) + 1)));
    }
    let mut store = store::open(&directory.0, limits).unwrap();
    assert_eq!(kept(&mut store, item(9, 0, 1)), Err(NotStored::StoreFull));
    one(
        &mut store,
        Order::Acknowledge {
            mailbox: MAILBOX,
            next: 2,
        },
    );
    assert_eq!(kept(&mut store, item(9, 0, 1)), Ok(Some(4)));
}

#[test]
fn a_store_that_began_with_other_settings_goes_on() {
    let directory = Directory::new("settings");
    let database = fjall::Database::builder(&directory.0).open().unwrap();
    let plain = fjall::KeyspaceCreateOptions::default;
    database
        .keyspace("meta", plain)
        .unwrap()
        .insert("version", [1])
        .unwrap();
    for table in Table::ALL {
        database.keyspace(table.name(), plain).unwrap();
    }
    database.persist(fjall::PersistMode::SyncAll).unwrap();
    drop(database);

    let mut store = directory.open();
    one(&mut store, Order::Register(client()));
    for index in 0..3 {
        let number = Ok(Some(u64::from(index) + 1));
        assert_eq!(kept(&mut store, item(1, index, 3)), number);
    }
    let next = 2;
    one(
        &mut store,
        Order::Acknowledge {
            mailbox: MAILBOX,
            next,
        },
    );
    drop(store);
    let items: Vec<(u64, Item)> = all(&mut directory.open()).into_iter().collect();
    assert_eq!(items, [(2, item(1, 1, 3)), (3, item(1, 2, 3))]);
}

/// Not a test of its own: what the next one runs in a process that it kills.
#[test]
fn child_that_keeps_letters_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let mut store = store::open(Path::new(&path), Limits::default()).unwrap();
    if store.registered().unwrap().is_empty() {
        one(&mut store, Order::Register(client()));
    }
    let first: u32 = std::env::var(FIRST).unwrap().parse().unwrap();
    let mut out = std::io::stdout().lock();
    for letter in first.. {
        if letter % 10 == 9 {
            // As an owner does who fetches a little less fast than letters come.
            let next = u64::from(letter - first) * 2;
            writeln!(out, "deleting {next}").unwrap();
            one(
                &mut store,
                Order::Acknowledge {
                    mailbox: MAILBOX,
                    next,
                },
            );
        }
        // Batches of several sizes, so that it is killed within some of them.
        let count = 1 + letter % 7;
        let orders = (0..count).map(|index| append(item(letter, index, count)));
        let (answers, trouble) = store.perform(orders.collect());
        trouble.unwrap();
        for answer in answers {
            let Answer::Appended {
                result: Ok(Some(number)),
                index,
                ..
            } = answer
            else {
                panic!("{answer:?}")
            };
            writeln!(out, "stored {number} {letter} {index} {count}").unwrap();
        }
        out.flush().unwrap();
    }
}

#[test]
fn kill_9_at_any_moment_loses_no_item_that_was_said_to_be_stored() {
    let directory = Directory::new("killed");
    let (mut said, mut all_said, mut deleted) = (BTreeMap::new(), 0, 0);
    for run in 1..=25_usize {
        // Some while after it began to write, each time another.
        let moment = run * 7_919 % 211;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::child_that_keeps_letters_until_it_is_killed",
                "--nocapture",
            ])
            .env(CHILD, &directory.0)
            .env(FIRST, (run * 1_000_000).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |line: String| {
            if let Some((_, next)) = line.split_once("deleting ") {
                deleted = next.parse().unwrap_or(0).max(deleted);
            }
            let mut words = line
                .split_whitespace()
                .skip_while(|word| *word != "stored")
                .skip(1);
            let mut next = || words.next()?.parse::<u64>().ok();
            if let (Some(number), Some(letter), Some(index), Some(count)) = (next(), next(), next(), next()) {
                all_said += 1;
                said.insert(number, item(letter as u32, index as u32, count as u32));
            }
        };
        lines
            .by_ref()
            .take(moment)
            .map_while(Result::ok)
            .for_each(&mut take);
        // SIGKILL, in the middle of whatever it does.
        child.kill().unwrap();
        lines.map_while(Result::ok).for_each(&mut take);
        child.wait().unwrap();
        let mut store = directory.open();
        let kept = all(&mut store);
        said.retain(|number, _| *number >= deleted);
        for (number, item) in &said {
            assert_eq!(kept.get(number), Some(item), "number {number}, run {run}");
        }
        let (first, last) = (kept.keys().next().copied(), kept.keys().next_back().copied());
        let (first, last) = (first.unwrap_or(1), last.unwrap_or(0));
        assert!(
            first <= deleted.max(1),
            "run {run}: {first} is the first, {deleted}"
        );
        assert_eq!(
            kept.into_keys().collect::<Vec<_>>(),
            (first..=last).collect::<Vec<_>>(),
            "no gap, run {run}"
        );
    }
    assert!(all_said >= 1_000 && deleted > 10, "{all_said} {deleted}");
}

/// A store whose disk takes its time for all that is read.
struct HeldBack {
    store: MemoryMailStore,
    /// Each read waits for one of these.
    permits: std::sync::mpsc::Receiver<()>,
}

impl MailStore for HeldBack {
    fn registered(&mut self) -> Result<Vec<Registered>, StoreError> {
        self.store.registered()
    }

    fn perform(&mut self, orders: Vec<Order>) -> (Vec<Answer>, Result<(), StoreError>) {
        for _ in orders.iter().filter(|order| matches!(order, Order::Fetch { .. })) {
            let _ = self.permits.recv();
        }
        self.store.perform(orders)
    }
}

fn document(now: Time) -> Arc<Document> {
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
        mail: None,
    };
    let content = Content {
        network: "test".into(),
        sequence: 1,
        epoch: 1,
        valid_from_s: now.as_s() - 10,
        valid_until_s: now.as_s() + 86_400,
        profile: Profile {
            downlink_per_s: 100.0,
            ..Profile::browse()
        },
        nodes: (0..=3).map(node).collect(),
    };
    let authority = SigningKey::from_bytes(&[9; 32]);
    let bytes = content.sign(&authority).unwrap();
    Arc::new(Document::verify(&bytes, &authority.verifying_key(), now, 0).unwrap())
}

/// In the order in which they leave, by the real clock, with a thread for the disk as a node has it.
#[tokio::test]
async fn a_disk_that_answers_no_read_holds_up_no_tick() {
    let clock = Clock::start();
    let now = clock.now();
    let mut store = MemoryMailStore::in_memory(Limits::default());
    let items = (0..30).map(|n| Order::Append {
        upload: UPLOAD,
        mailbox: MAILBOX,
        item: item(1, n, 30),
        at: now,
    });
    let orders = std::iter::once(Order::Register(client())).chain(items);
    store.perform(orders.collect()).1.unwrap();
    let (permit, permits) = std::sync::mpsc::channel();
    let mut store = HeldBack { store, permits };
    let document = document(now);
    let rng = Rng::seed_from_u64(1);
    let me = NodeId::new([1; 32]);
    let registered = store.registered().unwrap();
    let mut gateway = Gateway::new(
        mizzle_gateway::Config::default(),
        Arc::clone(&document),
        &me,
        registered,
        rng,
    );
    let mut keeper = Keeper::start(Box::new(store));
    let hello = frame::Content::Hello {
        network: document.network(),
        run: [1; 8],
        token: Vec::new(),
    };
    let bytes = frame::encode(&Frame {
        ack: 1,
        seq: 0,
        content: hello,
    });
    let (client, conn) = (client().client, Conn(1));
    gateway.handle(now, Input::Frame { client, conn, bytes });
    let (mut frames, mut mail, mut is_held) = (0, Vec::new(), true);
    let deadline = Instant::now() + Duration::from_secs(60);
    while mail.len() < 30 {
        let counted = gateway.counters();
        assert!(
            Instant::now() < deadline,
            "{frames} frames, {mail:?}, {counted:?}"
        );
        while let Some(action) = gateway.poll() {
            match action {
                Action::Store(order) => keeper.ask(order),
                Action::Send { bytes, .. } => {
                    frames += 1;
                    if let Some((frame::Kind::Mail, number)) = frame::number(&bytes) {
                        mail.push(number);
                    }
                }
                _ => {}
            }
        }
        if frames >= 50 && is_held {
            // For so many ticks no read was answered, and nobody waited for it.
            assert!(mail.is_empty());
            is_held = false;
            (0..100).for_each(|_| permit.send(()).unwrap());
        }
        tokio::select! {
            answers = keeper.answers() => {
                for answer in answers.unwrap() {
                    gateway.handle(clock.now(), Input::Store(answer));
                }
            }
            () = tokio::time::sleep_until(clock.instant(gateway.deadline().unwrap())) => {
                gateway.handle(clock.now(), Input::Tick);
            }
        }
    }
    assert_eq!(mail, (1..=30).collect::<Vec<_>>());
    keeper.stop().await;
}

#[test]
fn one_process_at_a_time() {
    let directory = Directory::new("twice");
    let first = directory.open();
    assert!(matches!(directory.error(), StoreError::InUse(_)));
    drop(first);
    directory.open();
}

#[test]
fn a_store_of_a_newer_version_or_a_damaged_one_is_refused_in_words() {
    let directory = Directory::new("newer");
    drop(directory.open());
    let database = fjall::Database::builder(&directory.0).open().unwrap();
    let meta = database
        .keyspace("meta", fjall::KeyspaceCreateOptions::default)
        .unwrap();
    meta.insert("version", [2]).unwrap();
    database.persist(fjall::PersistMode::SyncAll).unwrap();
    drop((meta, database));
    let error = directory.error();
    assert!(matches!(error, StoreError::Newer(_)), "{error}");
    assert!(error.to_string().contains("newer version of mizzle"));

    for (n, file) in files(&filled("list").0).into_iter().enumerate() {
        let directory = filled(&format!("damaged-{n}"));
        let file = directory.0.join(file);
        let len = std::fs::metadata(&file).unwrap().len() as usize;
        std::fs::write(&file, vec![0x5a; len.max(10)]).unwrap();
        // Opened or not, it never gives out other letters than were kept, and it never panics.
        match store::open(&directory.0, Limits::default()) {
            Ok(mut store) => {
                let (answers, _) = store.perform(vec![Order::Fetch {
                    mailbox: MAILBOX,
                    from: 1,
                    count: 50,
                }]);
                if let [Answer::Fetched { result: Ok(got), .. }] = &answers[..] {
                    for (number, found) in (got.from..).zip(&got.items) {
                        assert_eq!(*found, item(1, number as u32 - 1, 20), "{}", file.display());
                    }
                }
            }
            Err(why) => assert!(
                matches!(why, StoreError::Damaged(..) | StoreError::Newer(_)),
                "{}: {why}",
                file.display()
            ),
        }
    }
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What is in a mailbox as far as it can be read, and how many items can't.
fn readable(store: &mut DiskStore, mailbox: MailboxId) -> Option<(BTreeMap<u64, Item>, u64)> {
    let (mut items, mut damaged, mut from) = (BTreeMap::new(), 0, 1);
    loop {
        let order = Order::Fetch {
            mailbox,
            from,
            count: 64,
        };
        let (answers, _) = store.perform(vec![order]);
        let [Answer::Fetched { result: Ok(got), .. }] = &answers[..] else {
            return None;
        };
        if got.items.is_empty() {
            return Some((items, damaged));
        }
        damaged += got.damaged;
        items.extend((got.from..).zip(got.items.iter().cloned()));
        from = got.from + got.items.len() as u64;
    }
}

#[test]
fn flipped_bits_and_cut_files_give_words_or_what_was_kept_and_never_anything_else() {
    let directory = filled("flips");
    let copied = Directory::new("copied");
    copy(&directory.0, &copied.0);
    let all: BTreeMap<u64, Item> = (0..20)
        .map(|index| (u64::from(index) + 1, item(1, index, 20)))
        .collect();
    assert_eq!(readable(&mut copied.open(), MAILBOX), Some((all, 0)));
    let (mut refused, mut opened) = (0, 0);
    for name in files(&directory.0) {
        let bytes = std::fs::read(directory.0.join(&name)).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let long = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let flips = [0, long / 3, long - 1].map(|at| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            bytes
        });
        let cuts = [0, long / 2, long - 1].map(|at| bytes[..at].to_vec());
        for (n, changed) in flips.into_iter().chain(cuts).enumerate() {
            let again = Directory::new("flipped");
            copy(&directory.0, &again.0);
            std::fs::write(again.0.join(&name), changed).unwrap();
            match store::open(&again.0, Limits::default()) {
                Ok(mut store) => {
                    opened += 1;
                    let Some((items, _)) = readable(&mut store, MAILBOX) else {
                        continue;
                    };
                    for (number, found) in items {
                        let is_right = found == item(1, number as u32 - 1, 20);
                        let opens_for_nobody = found.bytes.iter().all(|byte| *byte == 0) && found.count == 1;
                        assert!(is_right || opens_for_nobody, "{} {n}: {number}", name.display());
                    }
                }
                Err(why) => {
                    refused += 1;
                    let text = why.to_string();
                    assert!(
                        matches!(why, StoreError::Damaged(..) | StoreError::Newer(_))
                            && text.contains(&again.0.display().to_string()),
                        "{} {n}: {text}",
                        name.display()
                    );
                }
            }
        }
    }
    println!("{refused} refused, {opened} opened");
    assert!(refused > 10 && opened > 10, "{refused} refused, {opened} opened");
}

#[test]
fn a_bit_that_flips_among_letters_costs_one_of_them_and_no_other_mailbox() {
    const COUNT: u32 = 4_000;
    let other = MailboxId::new([6; 16]);
    let directory = Directory::new("bit");
    let mut store = directory.open();
    one(&mut store, Order::Register(client()));
    let neighbour = Registered {
        client: ClientId([9; 32]),
        mailbox: other,
        ..client()
    };
    one(&mut store, Order::Register(neighbour));
    for index in 0..COUNT {
        let mut of_other = append(item(2, index, COUNT));
        if let Order::Append { mailbox, .. } = &mut of_other {
            *mailbox = other;
        }
        let (_, trouble) = store.perform(vec![append(item(1, index, COUNT)), of_other]);
        trouble.unwrap();
    }
    drop(store);
    // More than is held in memory, so that letters are in files of their own.
    let deadline = Instant::now() + Duration::from_secs(60);
    let largest = loop {
        drop(directory.open());
        let files = files(&directory.0)
            .into_iter()
            .filter(|name| name.components().any(|part| part.as_os_str() == "blobs"));
        let largest =
            files.max_by_key(|name| std::fs::metadata(directory.0.join(name)).map_or(0, |meta| meta.len()));
        match largest {
            Some(largest) => break directory.0.join(largest),
            None => assert!(Instant::now() < deadline, "nothing was sorted onto the disk"),
        }
    };
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();

    let mut store = directory.open();
    let mut lost = 0;
    for (mailbox, letter) in [(MAILBOX, 1), (other, 2)] {
        let (items, damaged) = readable(&mut store, mailbox).unwrap();
        assert_eq!(items.len() as u32, COUNT);
        let right = |(number, found): &(&u64, &Item)| **found == item(letter, **number as u32 - 1, COUNT);
        assert_eq!(
            items.iter().filter(right).count() as u64,
            u64::from(COUNT) - damaged
        );
        lost += damaged;
    }
    assert_eq!(lost, 1);
    assert_eq!(kept(&mut store, item(3, 0, 1)), Ok(Some(u64::from(COUNT) + 1)));
}

/// A file system of so many megabytes in memory, where the rights allow it. It goes when dropped.
#[cfg(target_os = "linux")]
struct SmallDisk(PathBuf);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount(mb: u32) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("mizzle-small-disk-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mb}m"), "mizzle-test"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        let is_mounted = mounted.is_ok_and(|status| status.success());
        let disk = Self(path);
        is_mounted.then_some(disk)
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_takes_nothing_more_gives_out_what_it_has_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(96) else {
        println!("no rights to mount a small file system: not tested here");
        return;
    };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 40 << 20]).unwrap();
    let path = disk.0.join("mail");
    let mut store = store::open(&path, Limits::default()).unwrap();
    one(&mut store, Order::Register(client()));
    let mut said = Vec::new();
    let why = loop {
        let letter = said.len() as u32;
        let (answers, trouble) = store.perform((0..8).map(|index| append(item(letter, index, 8))).collect());
        if let Err(why) = trouble {
            let no = |answer: &Answer| {
                matches!(
                    answer,
                    Answer::Appended {
                        result: Err(NotStored::Failed),
                        ..
                    }
                )
            };
            assert!(answers.iter().all(no), "{answers:?}");
            break why;
        }
        said.push(letter);
        assert!(said.len() < 10_000, "never full");
    };
    assert!(matches!(why, StoreError::DiskFull(_)), "{why}");
    assert!(why.to_string().contains("full"), "{why}");
    let all_are_there = |store: &mut DiskStore, when: &str| {
        let (items, damaged) = readable(store, MAILBOX).unwrap_or_else(|| panic!("{when}: can't be read"));
        assert_eq!(damaged, 0, "{when}");
        for (n, letter) in said.iter().enumerate() {
            for index in 0..8 {
                let number = n as u64 * 8 + u64::from(index) + 1;
                assert_eq!(
                    items.get(&number),
                    Some(&item(*letter, index, 8)),
                    "{when}: {number}"
                );
            }
        }
    };
    assert!(said.len() > 10, "{}", said.len());
    all_are_there(&mut store, "while it is full");
    let (answers, trouble) = store.perform(vec![append(item(90_000, 0, 1))]);
    assert!(trouble.is_err(), "{answers:?}");

    std::fs::remove_file(&ballast).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (answers, trouble) = store.perform(vec![append(item(90_001, 0, 1))]);
        if trouble.is_ok() {
            assert!(matches!(
                answers[..],
                [Answer::Appended {
                    result: Ok(Some(_)),
                    ..
                }]
            ));
            break;
        }
        assert!(Instant::now() < deadline, "{trouble:?}");
        std::thread::yield_now();
    }
    all_are_there(&mut store, "when there is room again");
    drop(store);
    let mut store = store::open(&path, Limits::default()).unwrap();
    all_are_there(&mut store, "opened again");
    drop(store);
}

/// A store with a letter of twenty items.
fn filled(name: &str) -> Directory {
    let directory = Directory::new(name);
    let mut store = directory.open();
    one(&mut store, Order::Register(client()));
    let (_, trouble) = store.perform((0..20).map(|index| append(item(1, index, 20))).collect());
    trouble.unwrap();
    directory
}

/// All files below a directory, as paths from there.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.file_name().is_some_and(|name| name != "lock") {
                found.push(path.strip_prefix(root).unwrap().to_path_buf());
            }
        }
    }
    assert!(found.len() > 5, "{found:?}");
    found
}

#[test]
fn a_directory_that_is_a_file_is_an_error_with_its_name() {
    let directory = Directory::new("file");
    std::fs::write(&directory.0, "hello").unwrap();
    let error = directory.error().to_string();
    assert!(error.contains(&directory.0.display().to_string()), "{error}");
    std::fs::remove_file(&directory.0).unwrap();
}

#[cfg(unix)]
#[test]
fn others_on_the_machine_cannot_look_into_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new("rights");
    drop(directory.open());
    let mode = std::fs::metadata(&directory.0).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
