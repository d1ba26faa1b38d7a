//! The file in which a node writes down the tags of the packets that it accepted, before it passes any of them on.
//!
//! `magic (8) ‖ Sphinx public key (32)`, then 8 bytes a tag. A write is in the system's hands when it returns, so what was
//! accepted is known to the next run even after `kill -9`; it is on the disk within a second, so that a machine that
//! loses its power loses the tags of that second (the node says so when it starts again). What a tag is, and what is done
//! with those that are known, is the mix core's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mizzle_sphinx::PublicKey;

const MAGIC: &[u8; 8] = b"mztags-2";
const HEADER_LEN: u64 = 40;
const TAG_LEN: usize = 8;
/// How long what is written may be in the system's hands alone.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The tags can't be kept, so no packet may be accepted.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The system says no.
    #[error("cannot keep the tags of accepted packets in {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "{0} is not a file of tags of accepted packets: if nothing else needs it, move it away and make the node a new key"
    )]
    NotTags(PathBuf),
}

/// The open file; see the [module](self).
#[derive(Debug)]
pub struct TagLog {
    path: PathBuf,
    file: Arc<File>,
    unsynced: Arc<AtomicBool>,
    /// Bytes that hold whole tags.
    len: u64,
    bytes: Vec<u8>,
}

impl TagLog {
    /// Opens the file, or makes it, for the node with this Sphinx key, and reads the tags that are there. Those of another
    /// key are thrown away: what was sealed to it can't be opened any more.
    ///
    /// # Errors
    /// [`TagError`].
    pub fn open(path: &Path, key: &PublicKey) -> Result<(Self, Vec<u64>), TagError> {
        let failed = |source| TagError::Io {
            path: path.to_path_buf(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let tags = match bytes.split_at_checked(HEADER_LEN as usize) {
            Some((header, tags)) if header.starts_with(MAGIC) && header.ends_with(key.as_bytes()) => tags,
            _ if !bytes.iter().zip(MAGIC).all(|(a, b)| a == b) => {
                return Err(TagError::NotTags(path.to_path_buf()));
            }
            // Another key, or killed while the header was written: no packet was accepted under this key yet.
            _ => {
                file.set_len(0).map_err(failed)?;
                file.rewind().map_err(failed)?;
                file.write_all(&[&MAGIC[..], key.as_bytes()].concat())
                    .and_then(|()| file.sync_all())
                    .map_err(failed)?;
                &[]
            }
        };
        let whole = tags.chunks_exact(TAG_LEN);
        // A tag that was cut off belongs to a packet that was not passed on.
        let end = HEADER_LEN + (whole.len() * TAG_LEN) as u64;
        let tags = whole
            .filter_map(|tag| Some(u64::from_le_bytes(tag.try_into().ok()?)))
            .collect();
        file.set_len(end).map_err(failed)?;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        let log = Self {
            path: path.to_path_buf(),
            file: Arc::new(file),
            unsynced: Arc::new(AtomicBool::new(false)),
            len: end,
            bytes: Vec::new(),
        };
        Ok((log, tags))
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

    /// Has the disk take what was written, again and again, until dropped. Runs in a thread for waiting.
    pub async fn sync_forever(file: TagSync) {
        let mut ticks = tokio::time::interval(SYNC_EVERY);
        loop {
            ticks.tick().await;
            if file.unsynced.swap(false, Ordering::Relaxed) {
                let file = Arc::clone(&file.file);
                if let Ok(Err(error)) = tokio::task::spawn_blocking(move || file.sync_data()).await {
                    tracing::error!(%error, "the disk does not take the tags of accepted packets");
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
#[derive(Debug)]
pub struct TagSync {
    file: Arc<File>,
    unsynced: Arc<AtomicBool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_sphinx::SecretKey;

    fn key(n: u8) -> PublicKey {
        SecretKey::from_bytes([n; 32]).public()
    }

    struct TempFile(PathBuf);

    impl Drop for TempFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn temp(name: &str) -> TempFile {
        let path = std::env::temp_dir().join(format!("mizzle-tags-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        TempFile(path)
    }

    #[test]
    fn tags_are_there_again_for_the_same_key_alone() {
        let file = temp("again");
        let (mut log, tags) = TagLog::open(&file.0, &key(1)).unwrap();
        assert_eq!(tags, [0_u64; 0]);
        log.append(&[1, u64::MAX]).unwrap();
        log.append(&[3]).unwrap();
        drop(log);
        let (mut log, tags) = TagLog::open(&file.0, &key(1)).unwrap();
        assert_eq!(tags, [1, u64::MAX, 3]);
        log.append(&[4]).unwrap();
        drop(log);
        assert_eq!(TagLog::open(&file.0, &key(1)).unwrap().1.len(), 4);
        assert_eq!(TagLog::open(&file.0, &key(2)).unwrap().1, [0_u64; 0]);
        assert_eq!(
            TagLog::open(&file.0, &key(1)).unwrap().1,
            [0_u64; 0],
            "thrown away with its key"
        );
    }

    #[test]
    fn what_a_kill_cut_off_is_left_out_and_written_over() {
        let file = temp("cut");
        let (mut log, _) = TagLog::open(&file.0, &key(1)).unwrap();
        log.append(&[1, 2, 3]).unwrap();
        drop(log);
        let bytes = std::fs::read(&file.0).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(&file.0, &bytes[..len]).unwrap();
            let (mut log, tags) = TagLog::open(&file.0, &key(1)).unwrap();
            assert_eq!(
                tags,
                (1..=(len.saturating_sub(40) / 8) as u64).collect::<Vec<_>>(),
                "{len}"
            );
            log.append(&[9]).unwrap();
            drop(log);
            let again = TagLog::open(&file.0, &key(1)).unwrap().1;
            assert_eq!((again.len(), again.last()), (tags.len() + 1, Some(&9)), "{len}");
        }
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let file = temp("other");
        for other in [
            "hello",
            "something that somebody may still need, longer than a header",
        ] {
            std::fs::write(&file.0, other).unwrap();
            let error = TagLog::open(&file.0, &key(1)).unwrap_err();
            assert!(matches!(error, TagError::NotTags(_)), "{error}");
            assert_eq!(std::fs::read_to_string(&file.0).unwrap(), other);
        }
        let nowhere = TagLog::open(&file.0.join("x"), &key(1)).unwrap_err();
        assert!(matches!(nowhere, TagError::Io { .. }), "{nowhere}");
    }
}
