//! The tags of packets that were accepted under the current key.
//!
//! 64 bits of SHA-256(node secret ‖ tag): the secret keeps a sender from grinding tags that collide. With 10⁸ tags a
//! fresh packet is taken for a replay with probability 5·10⁻¹². The secret follows from the Sphinx key, so that what a
//! shell wrote down means the same to the next run of the node.

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
    /// Those to be written down, where somebody does.
    accepted: Option<Vec<u64>>,
}

impl ReplayTags {
    /// Of the node with this Sphinx key.
    pub(crate) fn new(sphinx_secret: &[u8; 32], capacity: usize) -> Self {
        let digest = Sha256::new()
            .chain_update(b"mizzle replay tags 1\0")
            .chain_update(sphinx_secret);
        Self {
            secret: Zeroizing::new(digest.finalize().into()),
            capacity,
            tags: HashSet::default(),
            overflowed: false,
            accepted: None,
        }
    }

    /// What earlier runs accepted; from here on [`Self::take_accepted`] says what this one does.
    pub(crate) fn remember(&mut self, tags: impl IntoIterator<Item = u64>) {
        self.tags.extend(tags);
        self.accepted = Some(Vec::new());
    }

    /// What was accepted since the last call, to be written down; empty where nobody does.
    pub(crate) fn take_accepted(&mut self) -> Vec<u64> {
        self.accepted.as_mut().map(std::mem::take).unwrap_or_default()
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
        let short = u64::from_le_bytes(short);
        let new = self.tags.insert(short);
        if new && let Some(accepted) = &mut self.accepted {
            accepted.push(short);
        }
        !new
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
        let mut tags = ReplayTags::new(&[1; 32], 2);
        assert!(!tags.seen(&[1; 32]));
        assert!(tags.seen(&[1; 32]));
        assert!(!tags.seen(&[2; 32]));
        assert!(!tags.take_overflowed());
        assert!(tags.seen(&[3; 32]), "full");
        assert!(tags.take_overflowed());
    }

    #[test]
    fn what_one_run_wrote_down_the_next_one_knows() {
        let mut first = ReplayTags::new(&[1; 32], 9);
        assert!(!first.seen(&[1; 32]));
        assert!(first.take_accepted().is_empty(), "nobody writes them down");
        first.remember([]);
        assert!(!first.seen(&[2; 32]) && !first.seen(&[3; 32]) && first.seen(&[2; 32]));
        let written = first.take_accepted();
        assert_eq!((written.len(), first.take_accepted().len()), (2, 0));
        let mut next = ReplayTags::new(&[1; 32], 9);
        next.remember(written);
        assert!(next.seen(&[2; 32]) && next.seen(&[3; 32]) && !next.seen(&[4; 32]));
    }
}
