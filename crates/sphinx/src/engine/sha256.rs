//! SHA-256's compression function for several messages at once.
//!
//! - Two with the SHA instructions: a message must wait four cycles for each of them, in which another one's can run.
//! - Sixteen with AVX-512: lane `i` of every vector is a word of message `i`.
//!
//! The names are those of FIPS 180-4, section 6.2.2.

#![allow(
    clippy::inline_always,
    reason = "only what is inlined into a function with the CPU feature can use it"
)]
#![allow(clippy::many_single_char_names, reason = "they are the standard's")]

use core::arch::x86_64::{__m128i, __m512i};
use core::iter::zip;

use sha2::block_api::compress256;

use super::x86::{Avx512, Job, Sha};
use crate::scratch::Scratch;

/// Messages at once, with AVX-512.
const LANES: usize = 16;

/// From how many on sixteen lanes are used rather than pairs. With Zen 4's vectors of half rate they cost as much as 16
/// messages in pairs, measured; by counts of instructions as much as 9 where the rate is full.
const MANY: usize = 13;

/// Section 4.2.2.
const K: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// Takes blocks into any number of messages; fastest if all have the same number of blocks.
pub(super) fn compress(cpu: Option<Avx512>, states: &mut [[u32; 8]], blocks: &[&[[u8; 64]]]) {
    for (states, blocks) in zip(states.chunks_mut(LANES), blocks.chunks(LANES)) {
        match cpu {
            Some(cpu) if blocks.len() >= MANY => sixteen(cpu, states, blocks),
            _ => pairs(states, blocks),
        }
    }
}

fn sixteen(cpu: Avx512, states: &mut [[u32; 8]], blocks: &[&[[u8; 64]]]) {
    let common = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    let Some(first) = blocks.first() else { return };
    if common > 0 {
        // Lanes without a message compress the first one again, for nobody.
        let mut lanes = [*first; LANES];
        lanes
            .iter_mut()
            .zip(blocks)
            .for_each(|(lane, blocks)| *lane = blocks);
        cpu.run(Sixteen {
            states,
            blocks: lanes.map(|lane| &lane[..common]),
            common,
        });
    }
    for (state, blocks) in zip(states, blocks) {
        compress256(state, &blocks[common..]);
    }
}

fn pairs(states: &mut [[u32; 8]], blocks: &[&[[u8; 64]]]) {
    let cpu = Sha::detect();
    for (states, blocks) in zip(states.chunks_mut(2), blocks.chunks(2)) {
        match (cpu, states, blocks) {
            (Some(cpu), [a, b], [blocks_a, blocks_b]) => {
                let common = blocks_a.len().min(blocks_b.len());
                cpu.run(Pair {
                    states: [a, b],
                    blocks: [&blocks_a[..common], &blocks_b[..common]],
                });
                compress256(a, &blocks_a[common..]);
                compress256(b, &blocks_b[common..]);
            }
            (_, states, blocks) => {
                for (state, blocks) in zip(states, blocks) {
                    compress256(state, blocks);
                }
            }
        }
    }
}

/// Two messages of the same number of blocks.
struct Pair<'a> {
    states: [&'a mut [u32; 8]; 2],
    blocks: [&'a [[u8; 64]]; 2],
}

impl Job<Sha> for Pair<'_> {
    #[inline(always)]
    fn run(self, cpu: Sha) {
        let [a, b] = self.states;
        let (mut at_a, mut at_b) = (to_sha(cpu, a), to_sha(cpu, b));
        for (block_a, block_b) in zip(self.blocks[0], self.blocks[1]) {
            let (mut w_a, mut w_b) = (words(cpu, block_a), words(cpu, block_b));
            let (before_a, before_b) = (at_a, at_b);
            for (at, k) in K.as_chunks::<16>().0.iter().enumerate() {
                macro_rules! four_rounds {
                    ($i:literal) => {
                        if at > 0 {
                            w_a[$i] = schedule(cpu, &w_a, $i);
                            w_b[$i] = schedule(cpu, &w_b, $i);
                        }
                        let k = cpu.load(&[k[4 * $i], k[4 * $i + 1], k[4 * $i + 2], k[4 * $i + 3]]);
                        let (t_a, t_b) = (cpu.add(w_a[$i], k), cpu.add(w_b[$i], k));
                        at_a[1] = cpu.two_rounds(at_a[1], at_a[0], t_a);
                        at_b[1] = cpu.two_rounds(at_b[1], at_b[0], t_b);
                        at_a[0] = cpu.two_rounds(at_a[0], at_a[1], cpu.shuffle::<0x0e>(t_a));
                        at_b[0] = cpu.two_rounds(at_b[0], at_b[1], cpu.shuffle::<0x0e>(t_b));
                    };
                }
                four_rounds!(0);
                four_rounds!(1);
                four_rounds!(2);
                four_rounds!(3);
            }
            at_a = [cpu.add(at_a[0], before_a[0]), cpu.add(at_a[1], before_a[1])];
            at_b = [cpu.add(at_b[0], before_b[0]), cpu.add(at_b[1], before_b[1])];
        }
        from_sha(cpu, at_a, a);
        from_sha(cpu, at_b, b);
    }
}

/// The state as the instructions have it, `A B E F` and `C D G H`, the last name lowest.
#[inline(always)]
fn to_sha(cpu: Sha, state: &[u32; 8]) -> [__m128i; 2] {
    let [a, b, c, d, e, f, g, h] = *state;
    [cpu.load(&[f, e, b, a]), cpu.load(&[h, g, d, c])]
}

#[inline(always)]
fn from_sha(cpu: Sha, [abef, cdgh]: [__m128i; 2], state: &mut [u32; 8]) {
    let [mut feba, mut hgdc] = [[0; 4]; 2];
    cpu.store(&mut feba, abef);
    cpu.store(&mut hgdc, cdgh);
    let ([f, e, b, a], [h, g, d, c]) = (feba, hgdc);
    *state = [a, b, c, d, e, f, g, h];
}

#[inline(always)]
fn words(cpu: Sha, block: &[u8; 64]) -> [__m128i; 4] {
    let quarters = block.as_chunks().0;
    [
        cpu.load_big_endian(&quarters[0]),
        cpu.load_big_endian(&quarters[1]),
        cpu.load_big_endian(&quarters[2]),
        cpu.load_big_endian(&quarters[3]),
    ]
}

/// The four words that take the place of those at `i`.
#[inline(always)]
fn schedule(cpu: Sha, w: &[__m128i; 4], i: usize) -> __m128i {
    let [w0, w1, w2, w3] = [w[i], w[(i + 1) % 4], w[(i + 2) % 4], w[(i + 3) % 4]];
    let sum = cpu.add(cpu.schedule_1(w0, w1), cpu.join::<4>(w3, w2));
    cpu.schedule_2(sum, w3)
}

/// Up to sixteen messages of the same number of blocks, and as many again as are missing to sixteen.
struct Sixteen<'a> {
    states: &'a mut [[u32; 8]],
    blocks: [&'a [[u8; 64]]; LANES],
    common: usize,
}

impl Job<Avx512> for Sixteen<'_> {
    #[inline(always)]
    fn run(self, cpu: Avx512) {
        let mut words = Scratch::<[[u32; LANES]; 8]>::new();
        for (lane, state) in self.states.iter().enumerate().take(LANES) {
            for (words, word) in zip(words.iter_mut(), state) {
                words[lane] = *word;
            }
        }
        let mut state = [cpu.splat_32(0); 8];
        for (state, words) in zip(&mut state, words.iter()) {
            *state = cpu.load_32(words);
        }
        for at in 0..self.common {
            let mut w = [state[0]; LANES];
            for (w, blocks) in zip(&mut w, &self.blocks) {
                *w = cpu.load_big_endian(&blocks[at]);
            }
            transpose(cpu, &mut w);
            let mut next = state;
            rounds(cpu, &mut next, &mut w);
            for (state, next) in zip(&mut state, &next) {
                *state = cpu.add_32(*state, *next);
            }
        }
        for (words, state) in zip(words.iter_mut(), &state) {
            cpu.store_32(words, *state);
        }
        for (lane, state) in self.states.iter_mut().enumerate().take(LANES) {
            for (word, words) in zip(state, words.iter()) {
                *word = words[lane];
            }
        }
    }
}

#[inline(always)]
fn rounds(cpu: Avx512, s: &mut [__m512i; 8], w: &mut [__m512i; LANES]) {
    const XOR: i32 = 0x96;
    const CHOOSE: i32 = 0xca;
    const MAJORITY: i32 = 0xe8;
    // `a` of round i is where `h` of the round before was: the words stay and their names go round.
    macro_rules! round {
        ($k:expr, $i:literal) => {{
            let [a, b, c, e, f, g, h] = [0, 1, 2, 4, 5, 6, 7].map(|name: usize| (name + 16 - $i) % 8);
            let sum_1 = cpu.bits::<XOR>(
                cpu.rotate_right_32::<6>(s[e]),
                cpu.rotate_right_32::<11>(s[e]),
                cpu.rotate_right_32::<25>(s[e]),
            );
            let choice = cpu.bits::<CHOOSE>(s[e], s[f], s[g]);
            let w_and_h = cpu.add_32(s[h], cpu.add_32(w[$i], cpu.splat_32($k[$i])));
            let t1 = cpu.add_32(w_and_h, cpu.add_32(sum_1, choice));
            let sum_0 = cpu.bits::<XOR>(
                cpu.rotate_right_32::<2>(s[a]),
                cpu.rotate_right_32::<13>(s[a]),
                cpu.rotate_right_32::<22>(s[a]),
            );
            let majority = cpu.bits::<MAJORITY>(s[a], s[b], s[c]);
            let d = (3 + 16 - $i) % 8;
            s[d] = cpu.add_32(s[d], t1);
            s[h] = cpu.add_32(t1, cpu.add_32(sum_0, majority));
        }};
    }
    macro_rules! schedule {
        ($i:literal) => {{
            let (near, far) = (w[($i + 1) % 16], w[($i + 14) % 16]);
            let sigma_0 = cpu.bits::<XOR>(
                cpu.rotate_right_32::<7>(near),
                cpu.rotate_right_32::<18>(near),
                cpu.shift_right_32::<3>(near),
            );
            let sigma_1 = cpu.bits::<XOR>(
                cpu.rotate_right_32::<17>(far),
                cpu.rotate_right_32::<19>(far),
                cpu.shift_right_32::<10>(far),
            );
            let sum = cpu.add_32(w[$i], w[($i + 9) % 16]);
            w[$i] = cpu.add_32(sum, cpu.add_32(sigma_0, sigma_1));
        }};
    }
    macro_rules! all {
        ($step:ident $(, $k:expr)?) => {
            $step!($($k,)? 0); $step!($($k,)? 1); $step!($($k,)? 2); $step!($($k,)? 3);
            $step!($($k,)? 4); $step!($($k,)? 5); $step!($($k,)? 6); $step!($($k,)? 7);
            $step!($($k,)? 8); $step!($($k,)? 9); $step!($($k,)? 10); $step!($($k,)? 11);
            $step!($($k,)? 12); $step!($($k,)? 13); $step!($($k,)? 14); $step!($($k,)? 15);
        };
    }
    let (k, _) = K.as_chunks::<16>();
    all!(round, k[0]);
    for k in &k[1..] {
        all!(schedule);
        all!(round, k);
    }
}

/// Sixteen vectors of sixteen words: word `i` of vector `j` becomes word `j` of vector `i`.
#[inline(always)]
fn transpose(cpu: Avx512, w: &mut [__m512i; LANES]) {
    let mut quadruples = [w[0]; LANES];
    // Four rows at a time: vector k of a group gets the columns k, 4 + k, 8 + k, 12 + k of its rows.
    for (rows, out) in zip(w.as_chunks::<4>().0, quadruples.as_chunks_mut::<4>().0) {
        let [low_a, high_a] = cpu.interleave_32(rows[0], rows[1]);
        let [low_b, high_b] = cpu.interleave_32(rows[2], rows[3]);
        [out[0], out[1]] = cpu.interleave_pairs(low_a, low_b);
        [out[2], out[3]] = cpu.interleave_pairs(high_a, high_b);
    }
    for k in 0..4 {
        let [even_a, odd_a] = cpu.even_and_odd_quadruples(quadruples[k], quadruples[4 + k]);
        let [even_b, odd_b] = cpu.even_and_odd_quadruples(quadruples[8 + k], quadruples[12 + k]);
        [w[k], w[8 + k]] = cpu.even_and_odd_quadruples(even_a, even_b);
        [w[4 + k], w[12 + k]] = cpu.even_and_odd_quadruples(odd_a, odd_b);
    }
}
