//! Where the replay memory survives a restart: a [store](ReplayStore) that the application gives, or a [file](FileReplayStore).

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek, SeekFrom, Write},
    path::Path,
};

use mizzle_sphinx::PublicKey;
use sha2::{Digest, Sha256};

/// Remembers which packets were accepted under a mix key. A packet passes on only after its tag was appended.
///
/// Tags are 64-bit numbers that mean something only together with the mix key: another key wants another store.
pub trait ReplayStore: Send {
    /// All that was appended, in any order. Called once, before anything is appended.
    ///
    /// # Errors
    /// What reading them met; the peer doesn't start.
    fn load(&mut self) -> io::Result<Vec<u64>>;

    /// Writes tags down, called with some packets' at once from the packets' thread, which waits for it.
    ///
    /// # Errors
    /// What writing them met. The peer accepts no further packets and says so.
    fn append(&mut self, tags: &[u64]) -> io::Result<()>;
}

const MAGIC: &[u8; 16] = b"libp2p-mix tags\x01";
const HEADER_LEN: u64 = 48;

/// A file of 8 bytes a tag behind a header that names the mix key. It is written through to the operating system, so it
/// survives the end of the process in every way, but not a loss of power: after one the mix key should be changed.
#[derive(Debug)]
pub struct FileReplayStore {
    file: File,
}

impl FileReplayStore {
    /// Opens or makes the file of this mix key, for its owner only.
    ///
    /// # Errors
    /// Of the file system; or that the file is no such file, or another key's.
    pub fn open(path: impl AsRef<Path>, key: &PublicKey) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&Sha256::digest(key.as_bytes()));
        let len = file.metadata()?.len();
        if len < HEADER_LEN {
            // New, or its first write was cut short: nothing was accepted yet.
            file.set_len(0)?;
            file.write_all(&header)?;
        } else {
            let mut found = vec![0; header.len()];
            file.read_exact(&mut found)?;
            if found != header {
                let what = if found.starts_with(MAGIC) {
                    "it is the replay memory of another mix key; name another file, or delete this one if that key is not used any more"
                } else {
                    "it is not a replay memory"
                };
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(Self { file })
    }
}

impl ReplayStore for FileReplayStore {
    fn load(&mut self) -> io::Result<Vec<u64>> {
        self.file.seek(SeekFrom::Start(HEADER_LEN))?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        let whole = bytes.len() / 8 * 8;
        // Half a tag: the process ended while it wrote. Its packet did not pass.
        self.file.set_len(HEADER_LEN + whole as u64)?;
        self.file.seek(SeekFrom::End(0))?;
        let (tags, _) = bytes.as_chunks::<8>();
        Ok(tags.iter().map(|tag| u64::from_le_bytes(*tag)).collect())
    }

    fn append(&mut self, tags: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = tags.iter().flat_map(|tag| tag.to_le_bytes()).collect();
        self.file.write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_sphinx::SecretKey;

    #[test]
    fn tags_come_back_and_half_a_tag_is_taken_back() {
        let dir = std::env::temp_dir().join(format!("libp2p-mix-tags-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("tags");
        let key = SecretKey::from_bytes([1; 32]).public();
        let mut store = FileReplayStore::open(&path, &key).unwrap();
        assert!(store.load().unwrap().is_empty());
        store.append(&[1, 2]).unwrap();
        store.append(&[3]).unwrap();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(&[9; 5])
            .unwrap();
        let mut store = FileReplayStore::open(&path, &key).unwrap();
        assert_eq!(store.load().unwrap(), [1, 2, 3]);
        store.append(&[4]).unwrap();
        let mut store = FileReplayStore::open(&path, &key).unwrap();
        assert_eq!(store.load().unwrap(), [1, 2, 3, 4]);
        let other = SecretKey::from_bytes([2; 32]).public();
        assert!(
            FileReplayStore::open(&path, &other)
                .unwrap_err()
                .to_string()
                .contains("another mix key")
        );
        std::fs::write(&path, [7; 100]).unwrap();
        assert!(
            FileReplayStore::open(&path, &key)
                .unwrap_err()
                .to_string()
                .contains("not a replay memory")
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
