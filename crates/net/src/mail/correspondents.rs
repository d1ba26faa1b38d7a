//! Whom the owner lets know that a letter was read, known by the key of their address.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mizzle_base::address::{Address, AddressError};
use serde::{Deserialize, Serialize};

use super::disk::{self, DiskError};

/// Most of them.
pub const MAX_CORRESPONDENTS: usize = 10_000;
/// Longest name in bytes.
const MAX_NAME_LEN: usize = 64;

/// Somebody whom the owner lets know that a letter was read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correspondent {
    /// His address.
    pub address: String,
    /// The owner's name for him, or empty.
    pub name: String,
}

/// Why somebody isn't accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The address isn't one of this network.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// As many as there may be.
    #[error("{MAX_CORRESPONDENTS} correspondents are accepted, and more can't be: remove some")]
    Full,
    /// The name.
    #[error("a name has {MAX_NAME_LEN} bytes at most and no control characters")]
    Name,
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

pub(super) struct Correspondents {
    path: PathBuf,
    all: Mutex<Vec<(Address, Correspondent)>>,
}

impl Correspondents {
    pub(super) fn open(path: PathBuf) -> Result<Self, DiskError> {
        let listed: Vec<Correspondent> = disk::read_json(&path)?.unwrap_or_default();
        let parse = |known: Correspondent| Some((known.address.parse().ok()?, known));
        let all = listed.into_iter().filter_map(parse).collect();
        let all = Mutex::new(all);
        Ok(Self { path, all })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Address, Correspondent)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<Correspondent> {
        self.lock().iter().map(|(_, known)| known.clone()).collect()
    }

    pub(super) fn find(&self, address: &Address) -> Option<Correspondent> {
        let all = self.lock();
        let found = all
            .iter()
            .find(|(known, _)| known.seal_key() == address.seal_key());
        found.map(|(_, known)| known.clone())
    }

    pub(super) fn add(&self, address: &Address, name: &str) -> Result<(), AcceptError> {
        if name.len() > MAX_NAME_LEN || name.chars().any(char::is_control) {
            return Err(AcceptError::Name);
        }
        let mut all = self.lock();
        let mut changed = all.clone();
        changed.retain(|(known, _)| known.seal_key() != address.seal_key());
        if changed.len() >= MAX_CORRESPONDENTS {
            return Err(AcceptError::Full);
        }
        let known = Correspondent {
            address: address.to_string(),
            name: name.into(),
        };
        changed.push((address.clone(), known));
        self.save(&changed)?;
        *all = changed;
        Ok(())
    }

    pub(super) fn remove(&self, address: &Address) -> Result<bool, DiskError> {
        let mut all = self.lock();
        let mut changed = all.clone();
        changed.retain(|(known, _)| known.seal_key() != address.seal_key());
        if changed.len() == all.len() {
            return Ok(false);
        }
        self.save(&changed)?;
        *all = changed;
        Ok(true)
    }

    fn save(&self, all: &[(Address, Correspondent)]) -> Result<(), DiskError> {
        let listed: Vec<&Correspondent> = all.iter().map(|(_, known)| known).collect();
        disk::replace_json(&self.path, &listed)
    }
}
