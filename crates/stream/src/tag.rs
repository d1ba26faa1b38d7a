//! Rolling tags: how an exit finds the session of a packet, although nothing in the packet is ever seen twice.
//!
//! The first 8 bytes of a client's packet are a pseudo-random function of its counter, under a key that only the
//! two ends have. The exit keeps the tags of the counters that may come next ([`ahead`] of the highest received) and
//! of those still missing within [`BEHIND`] below it. Receiving one removes it, so a replay is an unknown tag. The
//! client uses no counter beyond what the exit must have registered: the highest one it knows acknowledged, and
//! [`ahead`] of that. The design's End to end section (session ids inside the seal).

use std::collections::BTreeMap;

use mizzle_base::Rng;
use rand_core::Rng as _;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of a tag.
pub const TAG_LEN: usize = 8;
/// How far below the highest counter received one may still come: with a thousand packets a second, 4 s late.
pub const BEHIND: u64 = 4_096;
/// Counters below are for INITIALs, whose first bytes are random; the first transport packet has this one.
pub const FIRST_TRANSPORT: u64 = 16;

const AHEAD_MIN: u64 = 256;
const AHEAD_MAX: u64 = 1_024;
/// One SHA-256 gives the tags of so many counters.
const BLOCK: u64 = 4;

/// How many counters beyond `highest` have their tags registered.
///
/// Grows with use, so that a session that was only opened costs an exit a quarter of a busy one's memory; 256
/// outlast the first round trip at the `bulk` rate (240 a second).
#[must_use]
pub fn ahead(highest: u64) -> u64 {
    highest.saturating_mul(2).clamp(AHEAD_MIN, AHEAD_MAX)
}

/// The key of a session's tags, drawn by its client.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TagKey([u8; 32]);

impl TagKey {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut key = Self([0; 32]);
        rng.fill_bytes(&mut key.0);
        key
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The tag of a counter.
    pub(crate) fn tag(&self, counter: u64) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        let at = (counter % BLOCK) as usize * TAG_LEN;
        tag.copy_from_slice(&self.block(counter / BLOCK)[at..at + TAG_LEN]);
        tag
    }

    /// One compression: key, index and label have a fixed length of 55 bytes, so SHA-256 with the key in front is
    /// a pseudo-random function here (nothing can be appended).
    fn block(&self, index: u64) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(index.to_be_bytes());
        hash.update(b"mizzle tag 1\0\0\0");
        hash.finalize().into()
    }

    fn tags(&self, index: u64) -> [[u8; TAG_LEN]; BLOCK as usize] {
        let block = self.block(index);
        let mut tags = [[0; TAG_LEN]; BLOCK as usize];
        for (tag, bytes) in tags.iter_mut().zip(block.chunks_exact(TAG_LEN)) {
            tag.copy_from_slice(bytes);
        }
        tags
    }
}

struct Chain {
    key: TagKey,
    /// Blocks of tags registered: from this one,
    low: u64,
    /// to before this one.
    high: u64,
    /// Highest counter received.
    highest: u64,
}

/// The tags of all sessions of an exit, and to whom they belong.
///
/// Bounded by `max_sessions`: a session takes at most [`BEHIND`] + 1,024 tags (some 0.3 MB; with no loss 1,024, some
/// 60 KB). A packet costs about half a SHA-256 and two look-ups in a tree.
pub struct TagTable<K> {
    max_sessions: usize,
    // A tree and not a hash map: its order needs no secret seed, and tags can't be chosen to make it slow.
    tags: BTreeMap<[u8; TAG_LEN], (K, u64)>,
    chains: BTreeMap<K, Chain>,
}

impl<K: Ord + Clone> TagTable<K> {
    /// An empty table for at most so many sessions.
    #[must_use]
    pub fn new(max_sessions: usize) -> Self {
        Self {
            max_sessions,
            tags: BTreeMap::new(),
            chains: BTreeMap::new(),
        }
    }

    /// Registers a session's first tags; false when the table is full or has the session already.
    pub fn register(&mut self, session: K, key: TagKey) -> bool {
        if self.chains.len() >= self.max_sessions || self.chains.contains_key(&session) {
            return false;
        }
        let first = FIRST_TRANSPORT / BLOCK;
        let mut chain = Chain {
            key,
            low: first,
            high: first,
            highest: FIRST_TRANSPORT - 1,
        };
        Self::advance(&mut self.tags, &session, &mut chain);
        self.chains.insert(session, chain);
        true
    }

    /// Removes a session and all of its tags.
    pub fn unregister(&mut self, session: &K) {
        if let Some(chain) = self.chains.remove(session) {
            (chain.low..chain.high).for_each(|index| Self::forget(&mut self.tags, session, &chain, index));
        }
    }

    /// Whose packet this is and its counter, once: the tag is gone then. Moves the session's tags on.
    pub fn lookup_remove(&mut self, tag: &[u8; TAG_LEN]) -> Option<(K, u64)> {
        let (session, counter) = self.tags.remove(tag)?;
        if let Some(chain) = self.chains.get_mut(&session)
            && counter > chain.highest
        {
            chain.highest = counter;
            Self::advance(&mut self.tags, &session, chain);
        }
        Some((session, counter))
    }

    /// How many sessions are registered.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.chains.len()
    }

    /// How many tags are registered.
    #[must_use]
    pub fn tags(&self) -> usize {
        self.tags.len()
    }

    fn advance(tags: &mut BTreeMap<[u8; TAG_LEN], (K, u64)>, session: &K, chain: &mut Chain) {
        let end = (chain.highest + ahead(chain.highest)) / BLOCK + 1;
        while chain.high < end {
            for (counter, tag) in (chain.high * BLOCK..).zip(chain.key.tags(chain.high)) {
                // Taken only by a chance of 2⁻⁶⁴ or by a client that gave two sessions one key: the first keeps it.
                tags.entry(tag).or_insert_with(|| (session.clone(), counter));
            }
            chain.high += 1;
        }
        while chain.low < chain.highest.saturating_sub(BEHIND) / BLOCK {
            Self::forget(tags, session, chain, chain.low);
            chain.low += 1;
        }
    }

    fn forget(tags: &mut BTreeMap<[u8; TAG_LEN], (K, u64)>, session: &K, chain: &Chain, index: u64) {
        for tag in chain.key.tags(index) {
            if tags.get(&tag).is_some_and(|(owner, _)| owner == session) {
                tags.remove(&tag);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_once_and_the_window_moves_with_the_highest() {
        let mut table = TagTable::new(2);
        let key = TagKey::from_bytes([3; 32]);
        assert!(table.register(1u32, key.clone()));
        assert!(!table.register(1, key.clone()));
        let last = FIRST_TRANSPORT - 1 + ahead(0);
        assert_eq!(table.lookup_remove(&key.tag(last)), Some((1, last)));
        assert_eq!(table.lookup_remove(&key.tag(last)), None, "a replay is unknown");
        assert_eq!(
            table.lookup_remove(&key.tag(FIRST_TRANSPORT)),
            Some((1, FIRST_TRANSPORT))
        );
        let mut counter = last;
        while counter < 10_000 {
            counter += ahead(counter);
            assert_eq!(
                table.lookup_remove(&key.tag(counter)),
                Some((1, counter)),
                "{counter}"
            );
        }
        assert_eq!(table.lookup_remove(&key.tag(counter - BEHIND - BLOCK)), None);
        assert!(table.lookup_remove(&key.tag(counter - BEHIND + BLOCK)).is_some());
        assert!(table.tags() as u64 <= BEHIND + AHEAD_MAX + 2 * BLOCK);
        table.unregister(&1);
        assert_eq!((table.tags(), table.sessions()), (0, 0));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = TagTable::new(1);
        assert!(table.register(1u8, TagKey::from_bytes([1; 32])));
        assert!(!table.register(2u8, TagKey::from_bytes([2; 32])));
    }
}
