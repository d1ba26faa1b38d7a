//! A sealed letter in a file: its items one after another, opened one at a time.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use mizzle_base::item::ITEM_LEN;
use mizzle_base::{LetterId, NetworkId};
use mizzle_stream::letter::{self, Header, LetterError, Unsealer};
use zeroize::Zeroizing;

use super::disk::{DiskError, failed};

/// Why a letter can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is refused; it is of no use.
    #[error(transparent)]
    Letter(#[from] LetterError),
    /// Its file can't be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What opens letters to the owner of this client.
pub(super) struct Opener {
    pub(super) network: NetworkId,
    pub(super) secret: Zeroizing<[u8; 32]>,
}

/// A letter being read. Blocks on the disk.
pub struct Content {
    /// What stands before the data.
    pub header: Header,
    file: File,
    path: PathBuf,
    data: Option<Vec<u8>>,
    unsealer: Unsealer,
    left: u64,
}

impl Content {
    pub(super) fn open(opener: &Opener, id: &LetterId, path: &Path) -> Result<Self, ContentError> {
        let mut file = File::open(path).map_err(failed("read", path))?;
        let len = file.metadata().map_err(failed("read", path))?.len();
        let items = len / ITEM_LEN as u64;
        if items == 0 || !len.is_multiple_of(ITEM_LEN as u64) {
            return Err(LetterError::Content.into());
        }
        let first = read_item(&mut file, path)?;
        let opened = letter::open(&opener.network, id, &opener.secret, &first)?;
        let left = items - 1;
        if opened.last != (left == 0) {
            return Err(LetterError::Content.into());
        }
        Ok(Self {
            header: opened.header,
            file,
            path: path.into(),
            data: Some(opened.data),
            unsealer: opened.unsealer,
            left,
        })
    }

    /// The next piece of the data, at most 4 KiB and perhaps empty; `None` at the end.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, ContentError> {
        if let Some(data) = self.data.take() {
            return Ok(Some(data));
        }
        if self.left == 0 {
            return Ok(None);
        }
        let item = read_item(&mut self.file, &self.path)?;
        let (data, last) = self.unsealer.next(&item)?;
        self.left -= 1;
        if last != (self.left == 0) {
            return Err(LetterError::Content.into());
        }
        Ok(Some(data))
    }

    /// How many bytes of data come at most.
    #[must_use]
    pub fn bytes_at_most(&self) -> u64 {
        let first = self.data.as_ref().map_or(0, Vec::len) as u64;
        first + self.left * letter::CHUNK_LEN as u64
    }

    /// Reads to the end: afterwards it is known that the letter is whole.
    pub(super) fn check(mut self) -> Result<Header, ContentError> {
        while self.next_piece()?.is_some() {}
        Ok(self.header)
    }
}

fn read_item(file: &mut File, path: &Path) -> Result<Box<[u8; ITEM_LEN]>, DiskError> {
    let mut item = Box::new([0; ITEM_LEN]);
    file.read_exact(&mut item[..]).map_err(failed("read", path))?;
    Ok(item)
}
