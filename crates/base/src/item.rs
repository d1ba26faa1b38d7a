//! Items: the pieces of one size in which letters are kept and carried.
//!
//! What is in an item is sealed (`mizzle-stream`); how one travels is a frame's or a session's affair. The design's End to
//! end section ("Messages between clients").

use alloc::boxed::Box;

use crate::id::LetterId;

/// Length of every item in bytes.
pub const ITEM_LEN: usize = 4_096;

/// A piece of a letter, as gateways keep it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Of which letter.
    pub letter: LetterId,
    /// Which piece, from 0.
    pub index: u32,
    /// How many pieces the letter has.
    pub count: u32,
    /// The sealed bytes.
    pub bytes: Box<[u8; ITEM_LEN]>,
}

impl Item {
    /// Whether the letter ends with it.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.index.checked_add(1) == Some(self.count)
    }
}
