//! The files in which a node writes down the tags of the packets that it accepted, before it passes any of them on: one for
//! each thread that accepts packets, so that none waits for another.
//!
//! The files are those of one key, that of an epoch, and go when it is erased.
//!
//! `magic (8) ‖ Sphinx public key (32) ‖ boot (16) ‖ closed (1) ‖ 0 (7)`, then 8 bytes a tag. A write is in the system's
//! hands when it returns, so what was accepted is known to the next run even after `kill -9`. It is on the disk within a
//! second; a machine that loses its power loses what was written in that second. So the header says in which run of the
//! machine's system the file was written (`boot`), and whether it was closed in order. Tags of another run of the system
//! that were not closed may be incomplete: then the key is not used again.
//!
//! What a tag is, and what is done with those that are known, is the mix core's.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mizzle_base::hex;
use mizzle_sphinx::PublicKey;

const MAGIC: &[u8; 8] = b"mztags-2";
const KEY_AT: usize = 8;
const BOOT_AT: usize = 40;
const CLOSED_AT: usize = 56;
const HEADER_LEN: usize = 64;
const TAG_LEN: usize = 8;
/// Tags read at once, and handed over so.
const READ_TAGS: usize = 8_192;
/// How long what is written may be in the system's hands alone.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The tags can't be kept, or are not all there, so no packet may be accepted.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The system says no.
    #[error("cannot keep the tags of accepted packets in {}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "{} is not a file of tags of accepted packets: if nothing else needs it, move it away and give the node a new \
         key with `mizzle network rekey`", .0.display()
    )]
    NotTags(PathBuf),
    /// The machine stopped without warning.
    #[error(
        "this machine stopped without warning while the node ran, so {} may lack the packets of its last second, and \
         somebody who kept those could have them pass again and watch where they go. The node's Sphinx key is not \
         used any more: where the network was made, run `mizzle network rekey`, which gives the node a new one and \
         says what to copy to which machine; or wait: it has other keys in its next epoch, and starts again once this one's is over", .0.display()
    )]
    Unclean(PathBuf),
}

/// One run of the machine's operating system, from its start to its end; all the same where the system doesn't tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot([u8; 16]);

impl Boot {
    /// The current one. Linux tells; on other systems an unclean end of the machine goes unnoticed here.
    #[must_use]
    pub fn current() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self(hex::decode(&text.trim().replace('-', "")).unwrap_or_default())
    }
}

/// An open file; see the [module](self).
#[derive(Debug)]
pub struct TagLog {
    path: PathBuf,
    file: Arc<File>,
    unsynced: Arc<AtomicBool>,
    /// Bytes that hold the header and whole tags.
    len: u64,
    bytes: Vec<u8>,
}

impl TagLog {
    /// Opens the files of `folder` for this Sphinx key, that of an epoch, makes those that are missing of `count`, and hands the
    /// tags in all of them to `remember`, some at a time. Those of another key of that epoch are thrown away: what was sealed
    /// to it can't be opened any more.
    ///
    /// # Errors
    /// [`TagError`].
    pub fn open_all(
        folder: &Path,
        epoch: u32,
        key: &PublicKey,
        boot: Boot,
        count: usize,
        remember: &mut dyn FnMut(&[u64]),
    ) -> Result<Vec<Self>, TagError> {
        let mut logs = Vec::new();
        for number in 1.. {
            let path = folder.join(format!("accepted-{epoch}-{number}.tags"));
            if number > count && !path.exists() {
                break;
            }
            logs.push(Self::open(&path, key, boot, remember)?);
        }
        // Of a run with more threads: nothing is added to them.
        for unused in logs.split_off(count.min(logs.len())) {
            unused.close()?;
        }
        Ok(logs)
    }

    /// Removes the files of all epochs before this one: their keys are erased. Later ones stay, also those of a time that is yet to
    /// come, which a clock that was fast leaves: what was accepted then isn't accepted again.
    ///
    /// # Errors
    /// [`TagError`]; what could be removed is.
    pub fn forget_before(folder: &Path, first: u32) -> Result<(), TagError> {
        let failed = |path: &Path, source| TagError::Io {
            path: path.to_path_buf(),
            source,
        };
        let mut outcome = Ok(());
        for entry in std::fs::read_dir(folder).map_err(|e| failed(folder, e))? {
            let path = entry.map_err(|e| failed(folder, e))?.path();
            if epoch_of(&path).is_some_and(|epoch| epoch < first)
                && let Err(error) = std::fs::remove_file(&path)
            {
                outcome = Err(failed(&path, error));
            }
        }
        outcome
    }

    fn open(
        path: &Path,
        key: &PublicKey,
        boot: Boot,
        remember: &mut dyn FnMut(&[u64]),
    ) -> Result<Self, TagError> {
        let failed = |source| TagError::Io {
            path: path.to_path_buf(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(failed)?;
        let mut header = Vec::with_capacity(HEADER_LEN);
        (&file)
            .take(HEADER_LEN as u64)
            .read_to_end(&mut header)
            .map_err(failed)?;
        let is_ours = header.iter().zip(MAGIC).all(|(a, b)| a == b);
        if !is_ours {
            return Err(TagError::NotTags(path.to_path_buf()));
        }
        let len = if header.len() == HEADER_LEN && header[KEY_AT..BOOT_AT] == *key.as_bytes() {
            if header[CLOSED_AT] == 0 && header[BOOT_AT..CLOSED_AT] != boot.0 {
                return Err(TagError::Unclean(path.to_path_buf()));
            }
            let tags = read_tags(&file, remember).map_err(failed)?;
            // A tag that was cut off belongs to a packet that was not passed on.
            (HEADER_LEN + tags * TAG_LEN) as u64
        } else {
            // Another key, or killed while the header was written: no packet was accepted under this key yet.
            file.set_len(0).map_err(failed)?;
            HEADER_LEN as u64
        };
        let log = Self {
            path: path.to_path_buf(),
            file: Arc::new(file.try_clone().map_err(failed)?),
            unsynced: Arc::new(AtomicBool::new(false)),
            len,
            bytes: Vec::new(),
        };
        let mut header = [&MAGIC[..], key.as_bytes(), &boot.0].concat();
        header.resize(HEADER_LEN, 0);
        // On the disk before anything is accepted: what it says must be there after a loss of power.
        file.rewind()
            .and_then(|()| file.write_all(&header))
            .and_then(|()| file.set_len(len))
            .and_then(|()| file.sync_all())
            .and_then(|()| path.parent().map_or(Ok(()), sync_folder))
            .and_then(|()| file.seek(SeekFrom::Start(len)))
            .map_err(failed)?;
        Ok(log)
    }

    /// Writes tags down: one write to the system, no wait for the disk.
    ///
    /// # Errors
    /// [`TagError`]: then none of their packets may be passed on.
    pub fn append(&mut self, tags: &[u64]) -> Result<(), TagError> {
        self.bytes.clear();
        self.bytes.extend(tags.iter().flat_map(|tag| tag.to_le_bytes()));
        if let Err(source) = (&*self.file).write_all(&self.bytes) {
            // A full disk may have taken a part: what is written next must not stand behind half a tag.
            let _ = self.file.set_len(self.len);
            let _ = (&*self.file).seek(SeekFrom::Start(self.len));
            return Err(TagError::Io {
                path: self.path.clone(),
                source,
            });
        }
        self.len += self.bytes.len() as u64;
        self.unsynced.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Closes it in order: all tags are on the disk, and then the word that they are.
    ///
    /// # Errors
    /// [`TagError`]: then the file counts as not closed.
    pub fn close(self) -> Result<(), TagError> {
        let close = || {
            self.file.sync_data()?;
            (&*self.file).seek(SeekFrom::Start(CLOSED_AT as u64))?;
            (&*self.file).write_all(&[1])?;
            self.file.sync_data()
        };
        close().map_err(|source| TagError::Io {
            path: self.path.clone(),
            source,
        })
    }

    /// Has the disk take what was written, again and again, until dropped. Runs in a thread for waiting.
    pub async fn sync_forever(files: Vec<TagSync>) {
        let mut ticks = tokio::time::interval(SYNC_EVERY);
        loop {
            ticks.tick().await;
            for file in &files {
                if file.unsynced.swap(false, Ordering::Relaxed) {
                    let file = Arc::clone(&file.file);
                    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || file.sync_data()).await {
                        tracing::error!(%error, "the disk does not take the tags of accepted packets");
                    }
                }
            }
        }
    }

    /// For [`Self::sync_forever`].
    #[must_use]
    pub fn syncer(&self) -> TagSync {
        TagSync {
            file: Arc::clone(&self.file),
            unsynced: Arc::clone(&self.unsynced),
        }
    }
}

/// The file, for the task that has the disk take it.
#[derive(Clone, Debug)]
pub struct TagSync {
    file: Arc<File>,
    unsynced: Arc<AtomicBool>,
}

/// Of a file that is named as those here are.
fn epoch_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let (epoch, number) = name
        .strip_prefix("accepted-")?
        .strip_suffix(".tags")?
        .split_once('-')?;
    number.parse::<u32>().ok()?;
    epoch.parse().ok()
}

/// Hands over all whole tags from where the file stands, and says how many they were.
fn read_tags(file: &File, remember: &mut dyn FnMut(&[u64])) -> io::Result<usize> {
    let mut reader = BufReader::with_capacity(READ_TAGS * TAG_LEN, file);
    let (mut count, mut tags) = (0, Vec::with_capacity(READ_TAGS));
    loop {
        let mut tag = [0; TAG_LEN];
        let is_end = match reader.read_exact(&mut tag) {
            Ok(()) => {
                tags.push(u64::from_le_bytes(tag));
                false
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => true,
            Err(e) => return Err(e),
        };
        if tags.len() == READ_TAGS || is_end {
            remember(&tags);
            count += tags.len();
            tags.clear();
        }
        if is_end {
            return Ok(count);
        }
    }
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_sphinx::SecretKey;

    const BOOT: Boot = Boot([1; 16]);
    const NEXT_BOOT: Boot = Boot([2; 16]);

    fn key(n: u8) -> PublicKey {
        SecretKey::from_bytes([n; 32]).public()
    }

    struct TempFolder(PathBuf);

    impl TempFolder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mizzle-tags-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("accepted-1-1.tags")
        }

        fn open(&self, key_of: u8, boot: Boot, count: usize) -> Result<(Vec<TagLog>, Vec<u64>), TagError> {
            let mut all = Vec::new();
            let logs = TagLog::open_all(&self.0, 1, &key(key_of), boot, count, &mut |tags| {
                all.extend(tags)
            })?;
            assert_eq!(logs.len(), count);
            Ok((logs, all))
        }

        /// One file, as of the same boot.
        fn one(&self, key_of: u8) -> (TagLog, Vec<u64>) {
            let (mut logs, tags) = self.open(key_of, BOOT, 1).unwrap();
            (logs.remove(0), tags)
        }
    }

    impl Drop for TempFolder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn tags_are_there_again_for_the_same_key_alone() {
        let folder = TempFolder::new("again");
        let (mut log, tags) = folder.one(1);
        assert_eq!(tags, [0_u64; 0]);
        log.append(&[1, u64::MAX]).unwrap();
        log.append(&[3]).unwrap();
        drop(log);
        let (mut log, tags) = folder.one(1);
        assert_eq!(tags, [1, u64::MAX, 3]);
        log.append(&[4]).unwrap();
        drop(log);
        assert_eq!(folder.one(1).1.len(), 4);
        assert_eq!(folder.one(2).1, [0_u64; 0]);
        assert_eq!(folder.one(1).1, [0_u64; 0], "thrown away with its key");
    }

    #[test]
    fn tags_of_all_threads_are_there_whatever_their_number_is_now() {
        let folder = TempFolder::new("threads");
        let (mut logs, _) = folder.open(1, BOOT, 3).unwrap();
        let many: Vec<u64> = (100..100 + 2 * READ_TAGS as u64).collect();
        logs[0].append(&[1]).unwrap();
        logs[1].append(&[2]).unwrap();
        logs[2].append(&many).unwrap();
        drop(logs);
        for (count, boot) in [(1, BOOT), (2, BOOT), (4, BOOT)] {
            let (logs, mut tags) = folder.open(1, boot, count).unwrap();
            tags.sort_unstable();
            assert_eq!(tags, [&[1, 2], &many[..]].concat(), "{count}");
            drop(logs);
        }
        // Those that nobody writes to are closed in order, the others are not.
        drop(folder.open(1, BOOT, 2).unwrap());
        let error = folder.open(1, NEXT_BOOT, 4).unwrap_err();
        assert!(
            matches!(&error, TagError::Unclean(path) if *path == folder.file()),
            "{error}"
        );
    }

    #[test]
    fn after_an_unclean_end_of_the_machine_the_key_is_not_used_again() {
        let folder = TempFolder::new("unclean");
        let (mut log, _) = folder.one(1);
        log.append(&[1]).unwrap();
        // Killed, on the same boot.
        drop(log);
        let (mut log, tags) = folder.one(1);
        assert_eq!(tags, [1]);
        log.append(&[2]).unwrap();
        log.close().unwrap();
        // Closed, and the machine started again.
        let (logs, tags) = folder.open(1, NEXT_BOOT, 1).unwrap();
        assert_eq!(tags, [1, 2]);
        drop(logs);
        let refused = folder.open(1, BOOT, 1).unwrap_err();
        assert!(matches!(refused, TagError::Unclean(_)), "{refused}");
        assert!(refused.to_string().contains("`mizzle network rekey`"));
        let again = folder.open(1, BOOT, 1).unwrap_err();
        assert!(
            matches!(again, TagError::Unclean(_)),
            "asking again doesn't mend it: {again}"
        );
        // A new key does.
        assert_eq!(folder.open(2, BOOT, 1).unwrap().1, [0_u64; 0]);
    }

    #[test]
    fn tags_of_an_epoch_go_with_its_key_and_nothing_else_does() {
        let folder = TempFolder::new("epochs");
        let open = |epoch: u32| {
            let mut all: Vec<u64> = Vec::new();
            let key = key(epoch as u8);
            let logs =
                TagLog::open_all(&folder.0, epoch, &key, BOOT, 2, &mut |tags| all.extend(tags)).unwrap();
            (logs, all)
        };
        for epoch in 1..=3 {
            open(epoch).0[1].append(&[u64::from(epoch)]).unwrap();
        }
        for name in [
            "accepted-x-1.tags",
            "accepted-1.tags",
            "epoch.key",
            "accepted-1-1.tags.bak",
        ] {
            std::fs::write(folder.0.join(name), "not these").unwrap();
        }
        TagLog::forget_before(&folder.0, 2).unwrap();
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 4 + 4);
        let tags: Vec<_> = (1..=3).map(|epoch| open(epoch).1).collect();
        assert_eq!(tags, [vec![], vec![2], vec![3]]);
    }

    #[test]
    fn this_system_says_which_boot_it_is_the_same_each_time() {
        assert_eq!(Boot::current(), Boot::current());
        if cfg!(target_os = "linux") {
            assert_ne!(Boot::current(), Boot([0; 16]));
        }
    }

    #[test]
    fn what_a_kill_cut_off_is_left_out_and_written_over() {
        let folder = TempFolder::new("cut");
        let (mut log, _) = folder.one(1);
        log.append(&[1, 2, 3]).unwrap();
        drop(log);
        let bytes = std::fs::read(folder.file()).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(folder.file(), &bytes[..len]).unwrap();
            let (mut log, tags) = folder.one(1);
            assert_eq!(
                tags,
                (1..=(len.saturating_sub(HEADER_LEN) / 8) as u64).collect::<Vec<_>>(),
                "{len}"
            );
            log.append(&[9]).unwrap();
            drop(log);
            let again = folder.one(1).1;
            assert_eq!((again.len(), again.last()), (tags.len() + 1, Some(&9)), "{len}");
        }
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let folder = TempFolder::new("other");
        for other in [
            "hello",
            "something that somebody may still need, longer than a header, which has sixty-four bytes",
        ] {
            std::fs::write(folder.file(), other).unwrap();
            let error = folder.open(1, BOOT, 1).unwrap_err();
            assert!(matches!(error, TagError::NotTags(_)), "{error}");
            assert_eq!(std::fs::read_to_string(folder.file()).unwrap(), other);
        }
        let nowhere = TagLog::open_all(&folder.0.join("x"), 1, &key(1), BOOT, 1, &mut |_| {}).unwrap_err();
        assert!(matches!(nowhere, TagError::Io { .. }), "{nowhere}");
    }
}
