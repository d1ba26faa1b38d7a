//! The buffer of one packet: allocated once, moved from hop to hop, never copied.
//!
//! Only the outer shape is known here; `peel`, `build` and `surb` give the bytes their meaning.

use alloc::boxed::Box;
use core::fmt;

use zeroize::Zeroize;

use crate::layout::{HEADER_LEN, MESSAGE_LEN, PACKET_LEN, PAYLOAD_LEN, ZEROS_LEN};

/// One packet: [`PACKET_LEN`] bytes on the heap.
///
/// Its `Debug` shows nothing of the content.
#[derive(PartialEq, Eq)]
pub struct Packet(Box<[u8; PACKET_LEN]>);

/// A slice that should have been a packet does not have [`PACKET_LEN`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet has {PACKET_LEN} bytes, not {0}")]
pub struct WrongLength(
    /// The length of the slice.
    pub usize,
);

impl Packet {
    /// A packet of zeros, to be built or read into.
    #[must_use]
    pub fn zeroed() -> Self {
        Self(Box::new([0; PACKET_LEN]))
    }

    /// Copies a packet out of a slice of just its length.
    ///
    /// # Errors
    /// [`WrongLength`] for any other length.
    pub fn try_from_slice(bytes: &[u8]) -> Result<Self, WrongLength> {
        if bytes.len() != PACKET_LEN {
            return Err(WrongLength(bytes.len()));
        }
        let mut packet = Self::zeroed();
        packet.0.copy_from_slice(bytes);
        Ok(packet)
    }

    /// Takes over a buffer.
    #[must_use]
    pub fn from_boxed(bytes: Box<[u8; PACKET_LEN]>) -> Self {
        Self(bytes)
    }

    /// Gives the buffer away.
    #[must_use]
    pub fn into_boxed(self) -> Box<[u8; PACKET_LEN]> {
        self.0
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; PACKET_LEN] {
        &self.0
    }

    /// The bytes as they travel, to be read into.
    #[must_use]
    pub fn as_bytes_mut(&mut self) -> &mut [u8; PACKET_LEN] {
        &mut self.0
    }

    /// `delta` behind its sixteen zero bytes: after a peel that said [`Exit`](crate::Peeled::Exit), the message.
    #[must_use]
    pub fn message(&self) -> &[u8; MESSAGE_LEN] {
        split_payload(self.payload()).1
    }

    /// Where a message is written before [`build_in_place`](crate::build_in_place) or
    /// [`use_surb_in_place`](crate::use_surb_in_place).
    #[must_use]
    pub fn message_mut(&mut self) -> &mut [u8; MESSAGE_LEN] {
        split_payload_mut(self.payload_mut()).1
    }

    /// `delta`: after a peel that said [`Reply`](crate::Peeled::Reply), what [`recover`](crate::recover) works on.
    #[must_use]
    pub fn payload(&self) -> &[u8; PAYLOAD_LEN] {
        split::<HEADER_LEN, PAYLOAD_LEN, PACKET_LEN>(&self.0).1
    }

    /// `delta`, to be changed in place, see [`payload`](Self::payload).
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8; PAYLOAD_LEN] {
        self.parts_mut().1
    }

    /// Header and `delta`.
    pub(crate) fn parts_mut(&mut self) -> (&mut [u8; HEADER_LEN], &mut [u8; PAYLOAD_LEN]) {
        split_mut::<HEADER_LEN, PAYLOAD_LEN, PACKET_LEN>(&mut self.0)
    }

    pub(crate) fn header(&self) -> &[u8; HEADER_LEN] {
        split::<HEADER_LEN, PAYLOAD_LEN, PACKET_LEN>(&self.0).0
    }

    /// Overwrites the whole packet with zeros.
    pub fn wipe(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packet(..)")
    }
}

/// The sixteen zero bytes of a payload and its message.
pub(crate) fn split_payload(payload: &[u8; PAYLOAD_LEN]) -> (&[u8; ZEROS_LEN], &[u8; MESSAGE_LEN]) {
    split(payload)
}

pub(crate) fn split_payload_mut(
    payload: &mut [u8; PAYLOAD_LEN],
) -> (&mut [u8; ZEROS_LEN], &mut [u8; MESSAGE_LEN]) {
    split_mut(payload)
}

/// Splits an array in two of known lengths. The lengths are checked when the crate is compiled, so the branch for
/// another length is never in the program.
pub(crate) fn split<const A: usize, const B: usize, const N: usize>(bytes: &[u8; N]) -> (&[u8; A], &[u8; B]) {
    const { assert!(A + B == N) }
    match bytes.split_first_chunk::<A>() {
        Some((head, tail)) => match tail.first_chunk::<B>() {
            Some(tail) => (head, tail),
            None => unreachable!(),
        },
        None => unreachable!(),
    }
}

/// [`split`] for an array that will be written to.
pub(crate) fn split_mut<const A: usize, const B: usize, const N: usize>(
    bytes: &mut [u8; N],
) -> (&mut [u8; A], &mut [u8; B]) {
    const { assert!(A + B == N) }
    match bytes.split_first_chunk_mut::<A>() {
        Some((head, tail)) => match tail.first_chunk_mut::<B>() {
            Some(tail) => (head, tail),
            None => unreachable!(),
        },
        None => unreachable!(),
    }
}
