//! AES-128 in counter mode with vector AES: 32 blocks at once, which is what hides the instructions' latency.

#![allow(
    clippy::inline_always,
    reason = "only what is inlined into a function with the CPU feature can use it"
)]

use core::arch::x86_64::__m512i;
use core::iter::zip;

use super::x86::{Job, Vaes};
use crate::scratch::Scratch;

/// Vectors at once, of four blocks each.
const VECTORS: usize = 8;

/// The bytes of the vectors.
const STRIDE: usize = 64 * VECTORS;

/// More than the stack that a job takes, in bytes.
const STACK_LEN: usize = 2 << 10;

/// `data ^= AES-CTR(key, counter)`; the counter is one big-endian number of 128 bits.
pub(super) fn apply_keystream(cpu: Vaes, key: &[u8; 16], counter: u128, data: &mut [u8]) {
    cpu.run(Counter { key, counter, data });
    zeroize::zeroize_stack::<STACK_LEN>();
}

struct Counter<'a> {
    key: &'a [u8; 16],
    counter: u128,
    data: &'a mut [u8],
}

impl Job<Vaes> for Counter<'_> {
    #[inline(always)]
    fn run(self, cpu: Vaes) {
        let keys = cpu.round_keys(self.key);
        let at = self.counter;
        let mut counters = cpu.load_numbers([at, at.wrapping_add(1), at.wrapping_add(2), at.wrapping_add(3)]);
        let (strides, rest) = self.data.as_chunks_mut::<STRIDE>();
        for stride in strides {
            let stream = keystream(cpu, &keys, counters);
            counters = cpu.add::<{ 4 * VECTORS as i64 }>(counters);
            for (bytes, stream) in zip(stride.as_chunks_mut().0, stream) {
                let sum = cpu.xor(cpu.load(bytes), stream);
                cpu.store(bytes, sum);
            }
        }
        if !rest.is_empty() {
            let mut bytes = Scratch::<[u8; STRIDE]>::new();
            for (bytes, stream) in zip(bytes.as_chunks_mut().0, keystream(cpu, &keys, counters)) {
                cpu.store(bytes, stream);
            }
            zip(rest, bytes.iter()).for_each(|(byte, stream)| *byte ^= stream);
        }
    }
}

#[inline(always)]
fn keystream(cpu: Vaes, keys: &[__m512i; 11], counters: __m512i) -> [__m512i; VECTORS] {
    let mut blocks = [
        counters,
        cpu.add::<4>(counters),
        cpu.add::<8>(counters),
        cpu.add::<12>(counters),
        cpu.add::<16>(counters),
        cpu.add::<20>(counters),
        cpu.add::<24>(counters),
        cpu.add::<28>(counters),
    ];
    for block in &mut blocks {
        *block = cpu.xor(cpu.big_endian(*block), keys[0]);
    }
    for key in &keys[1..10] {
        for block in &mut blocks {
            *block = cpu.round(*block, *key);
        }
    }
    for block in &mut blocks {
        *block = cpu.last_round(*block, keys[10]);
    }
    blocks
}
