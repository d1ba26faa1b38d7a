//! Letters on disk: the tables of a gateway's store in a directory, by way of fjall.
//!
//! A log-structured store: what was kept is in its journal, synced, before the gateway says *stored*, and `kill -9` at any
//! moment loses none of it. What is in the tables, and how much, is decided in `mizzle_gateway::store`; which thread
//! waits for the disk, in [`crate::node`]. Caches are small: a gateway shall fit into the smallest of machines.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fjall::compaction::Leveled;
use fjall::config::{PartitioningPolicy, PinningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use mizzle_base::Time;
use mizzle_gateway::store::{Change, Kept, Limits, Row, StoreError, Table, Tables};
use tokio::time::Instant;

use crate::clock::Clock;

/// A store in a directory.
pub type DiskStore = Kept<DiskTables>;

/// Of the tables, in the table `meta`.
const VERSION: u8 = 1;
const VERSION_KEY: &[u8] = b"version";
/// Bytes of items in memory before they are sorted onto the disk, and of each other table.
const ITEMS_MEMORY: u64 = 16 << 20;
const OTHER_MEMORY: u64 = 4 << 20;
/// Bytes of all tables in memory: where they come faster than they are sorted, nothing is written before some are, but no longer
/// than this.
const MOST_MEMORY: u64 = 96 << 20;
const LONGEST_HELD: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const CACHE: u64 = 4 << 20;
const FILES: usize = 64;
/// Where journals take more, the tables that still need the oldest are sorted onto the disk.
const JOURNALS: u64 = 128 << 20;
/// So many new files of a table are merged into its first level at once, and with all that is there: as many as that, of this
/// size. With the library's own numbers, 4 and 64 MB, the rows of a million letters would all be in it, and be written again for
/// every few thousand letters.
const MERGED: u8 = 16;
const FILE_LEN: u64 = 1 << 20;
/// After trouble the disk is tried again no sooner than this.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// As much as must be free then: what is in memory may have to be sorted onto the disk at once.
const ROOM: usize = 16 << 20;

struct Open {
    database: Database,
    tables: Vec<Keyspace>,
}

/// See the [module](self).
pub struct DiskTables {
    path: PathBuf,
    /// `None` after trouble.
    open: Option<Open>,
    trouble: StoreError,
    try_again_at: Time,
    clock: Clock,
}

/// Opens the store in a directory, or makes it, with everything that an earlier run has left there.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn open(path: &Path, limits: Limits) -> Result<DiskStore, StoreError> {
    let tables = DiskTables {
        path: path.to_path_buf(),
        open: Some(open_tables(path)?),
        trouble: StoreError::Io(path.display().to_string(), "not open".into()),
        try_again_at: Time::ZERO,
        clock: Clock::start(),
    };
    Kept::open(tables, limits)
}

fn open_tables(path: &Path) -> Result<Open, StoreError> {
    make_directory(path).map_err(|e| of_io(path, &e))?;
    guarded(path, || try_open(path))
}

/// A library that meets bytes which it didn't write may give up in its own way.
fn guarded<T>(path: &Path, act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| Err(damaged(path, "its files can't be read")))
}

fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn try_open(path: &Path) -> Result<Open, StoreError> {
    let wrong = |error| of(path, &error);
    let database = Database::builder(path)
        .cache_size(CACHE)
        .worker_threads(1)
        .max_cached_files(Some(FILES))
        .max_journaling_size(JOURNALS)
        .open()
        .map_err(wrong)?;
    let memory = |bytes| move || options(bytes);
    let meta = database.keyspace("meta", memory(OTHER_MEMORY)).map_err(wrong)?;
    match meta.get(VERSION_KEY).map_err(wrong)?.as_deref() {
        Some([VERSION]) => {}
        Some([newer]) if *newer > VERSION => return Err(StoreError::Newer(path.display().to_string())),
        Some(_) => return Err(damaged(path, "its version makes no sense")),
        None => {
            meta.insert(VERSION_KEY, [VERSION]).map_err(wrong)?;
            database.persist(PersistMode::SyncAll).map_err(wrong)?;
        }
    }
    let tables = Table::ALL.map(|table| {
        let options = match table {
            // Sorted by reference: their bytes are written twice and not once for each level of the tree.
            Table::Items => memory(ITEMS_MEMORY)().with_kv_separation(Some(KvSeparationOptions::default())),
            _ => memory(OTHER_MEMORY)(),
        };
        database.keyspace(table.name(), || options).map_err(wrong)
    });
    let tables = tables.into_iter().collect::<Result<_, _>>()?;
    Ok(Open { database, tables })
}

/// Of a new table: one that is older than any of these goes on as it began.
fn options(memory: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(memory)
        // Each letter that comes is looked up, and isn't there. What tells so is held in memory, 2 bytes a row: it doesn't fit into the
        // cache, and would be read whole, hundreds of KB, each time.
        .filter_block_pinning_policy(PinningPolicy::all(true))
        .filter_block_partitioning_policy(PartitioningPolicy::all(false))
        .index_block_pinning_policy(PinningPolicy::all(true))
        .index_block_partitioning_policy(PartitioningPolicy::all(false))
        .compaction_strategy(Arc::new(
            Leveled::default()
                .with_l0_threshold(MERGED)
                .with_table_target_size(FILE_LEN),
        ))
}

fn damaged(path: &Path, what: &str) -> StoreError {
    StoreError::Damaged(path.display().to_string(), what.into())
}

fn of_io(path: &Path, error: &io::Error) -> StoreError {
    let name = path.display().to_string();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull(name),
        // Files of its own that it misses or can't make sense of.
        io::ErrorKind::NotFound
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput => StoreError::Damaged(name, error.to_string()),
        _ => StoreError::Io(name, error.to_string()),
    }
}

fn of(path: &Path, error: &fjall::Error) -> StoreError {
    use fjall::{Error, LsmError};
    match error {
        Error::Io(error) | Error::Storage(LsmError::Io(error)) => of_io(path, error),
        Error::Locked => StoreError::InUse(path.display().to_string()),
        Error::InvalidVersion(Some(_)) => StoreError::Newer(path.display().to_string()),
        Error::Poisoned => StoreError::Io(path.display().to_string(), "an earlier write failed".into()),
        other => damaged(path, &format!("{other:?}")),
    }
}

/// Whether the disk takes a few files again.
fn has_room(path: &Path) -> bool {
    let path = path.join("room");
    let written = std::fs::write(&path, vec![0; ROOM]);
    // It may be there in part.
    let removed = std::fs::remove_file(&path);
    written.and(removed).is_ok()
}

impl DiskTables {
    fn table(&self, table: Table) -> Result<&Keyspace, StoreError> {
        let open = self
            .open
            .as_ref()
            .and_then(|open| open.tables.get(table as usize));
        open.ok_or_else(|| self.trouble.clone())
    }
}

/// Waits while the library has too much in memory: it would take more and more.
#[expect(
    clippy::disallowed_methods,
    reason = "the library tells nobody when it has sorted something, and this thread is there to wait"
)]
fn wait_for_room(database: &Database) {
    let since = Instant::now();
    while database.write_buffer_size() > MOST_MEMORY && since.elapsed() < LONGEST_HELD {
        std::thread::sleep(LOOK_AGAIN);
    }
}

impl Tables for DiskTables {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.table(table)?;
        guarded(&self.path, || {
            let value = table.get(key).map_err(|e| of(&self.path, &e))?;
            Ok(value.map(|value| value.to_vec()))
        })
    }

    fn scan(&self, table: Table, from: &[u8], below: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        if from >= below {
            return Ok(Vec::new());
        }
        let table = self.table(table)?;
        guarded(&self.path, || {
            let rows = table.range(from..below).take(limit);
            rows.map(|row| {
                let (key, value) = row.into_inner().map_err(|e| of(&self.path, &e))?;
                Ok((key.to_vec(), value.to_vec()))
            })
            .collect()
        })
    }

    fn write(&mut self, changes: Vec<Change>, durable: bool) -> Result<(), StoreError> {
        let Some(open) = &self.open else {
            return Err(self.trouble.clone());
        };
        wait_for_room(&open.database);
        let mut batch = open
            .database
            .batch()
            .durability(durable.then_some(PersistMode::SyncData));
        for change in changes {
            match change {
                Change::Put(table, key, value) => {
                    batch.insert(&open.tables[table as usize], key, value);
                }
                Change::Delete(table, key) => batch.remove(&open.tables[table as usize], key),
            }
        }
        let written = guarded(&self.path, || batch.commit().map_err(|e| of(&self.path, &e)));
        written.map_err(|why| {
            self.trouble = match why {
                // What failed earlier may have been a file that is sorted onto the disk beside this.
                StoreError::Io(name, _) if !has_room(&self.path) => StoreError::DiskFull(name),
                why => why,
            };
            self.trouble.clone()
        })
    }

    fn revive(&mut self) -> Result<(), StoreError> {
        // The store takes nothing more after an error: whether its journal is whole is found out by opening it again.
        let now = self.clock.now();
        if now < self.try_again_at {
            return Err(self.trouble.clone());
        }
        self.try_again_at = now + TRY_AGAIN;
        // What is open can be read, and opening needs room.
        if self.open.is_some() && matches!(self.trouble, StoreError::DiskFull(_)) && !has_room(&self.path) {
            return Err(self.trouble.clone());
        }
        self.open = None;
        match open_tables(&self.path) {
            Ok(open) => {
                self.open = Some(open);
                Ok(())
            }
            Err(why) => {
                self.trouble = why;
                Err(self.trouble.clone())
            }
        }
    }
}
