//! The store of letters on a real disk: opened again, killed while it writes, damaged, of another version, without rights.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mizzle_base::item::ITEM_LEN;
use mizzle_base::{ClientTag, Item, LetterId, MailboxId, Time};
use mizzle_gateway::store::{Answer, Limits, MailStore, NotStored, Order, Progress, Registered, StoreError};
use mizzle_gateway::{ClientId, UploadId};
use mizzle_net::store::{self, DiskStore};

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
    assert_eq!(kept(&mut store, item(9, 0, 1)), Err(NotStored::Full));
    one(
        &mut store,
        Order::Acknowledge {
            mailbox: MAILBOX,
            next: 2,
        },
    );
    assert_eq!(kept(&mut store, item(9, 0, 1)), Ok(Some(4)));
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
    let mut said = BTreeMap::new();
    for run in 1..=5 {
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
            let mut words = line
                .split_whitespace()
                .skip_while(|word| *word != "stored")
                .skip(1);
            let mut next = || words.next()?.parse::<u64>().ok();
            if let (Some(number), Some(letter), Some(index), Some(count)) = (next(), next(), next(), next()) {
                said.insert(number, item(letter as u32, index as u32, count as u32));
            }
        };
        lines
            .by_ref()
            .take(40 * run)
            .map_while(Result::ok)
            .for_each(&mut take);
        // SIGKILL, in the middle of whatever it does.
        child.kill().unwrap();
        lines.map_while(Result::ok).for_each(&mut take);
        child.wait().unwrap();
        let mut store = directory.open();
        let kept = all(&mut store);
        for (number, item) in &said {
            assert_eq!(kept.get(number), Some(item), "number {number}, run {run}");
        }
        let numbers: Vec<u64> = kept.into_keys().collect();
        let last = numbers.len() as u64;
        assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "no gap, run {run}");
    }
    assert!(said.len() >= 500, "{}", said.len());
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
