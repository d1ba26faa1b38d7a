//! The tags of packets that were accepted under the current key.
//!
//! 64 bits of SHA-256(node secret ‖ tag): the secret keeps a sender from grinding tags that collide. With 10⁸ tags a
//! fresh packet is taken for a replay with probability 5·10⁻¹². Kept in memory: the key dies with the process.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The tags are uniform already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.0 = self.0 << 8 | u64::from(b));
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag;
    }
}

pub(crate) struct ReplayTags {
    secret: Zeroizing<[u8; 32]>,
    capacity: usize,
    tags: HashSet<u64, BuildHasherDefault<AsIs>>,
    overflowed: bool,
}

impl ReplayTags {
    pub(crate) fn new(secret: [u8; 32], capacity: usize) -> Self {
        Self {
            secret: secret.into(),
            capacity,
            tags: HashSet::default(),
            overflowed: false,
        }
    }

    /// Whether the tag was there; notes it. A full table says yes to all: better drop than pass twice.
    pub(crate) fn seen(&mut self, tag: &[u8; 32]) -> bool {
        if self.tags.len() >= self.capacity {
            self.overflowed = true;
            return true;
        }
        let digest: [u8; 32] = Sha256::new()
            .chain_update(*self.secret)
            .chain_update(tag)
            .finalize()
            .into();
        let mut short = [0; 8];
        short.copy_from_slice(&digest[..8]);
        !self.tags.insert(u64::from_le_bytes(short))
    }

    /// Whether [`Self::seen`] ran into the bound since the last call.
    pub(crate) fn take_overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_new_once_and_a_full_table_refuses_all() {
        let mut tags = ReplayTags::new([1; 32], 2);
        assert!(!tags.seen(&[1; 32]));
        assert!(tags.seen(&[1; 32]));
        assert!(!tags.seen(&[2; 32]));
        assert!(!tags.take_overflowed());
        assert!(tags.seen(&[3; 32]), "full");
        assert!(tags.take_overflowed());
    }
}
