//! The packet once more, slowly and straight from the text of LIP-99 and LIP-183, sharing no code with the crate:
//! X25519 step by step with every factor clamped (the work grows with the square of the hops), counter mode from
//! single AES blocks, HMAC from its definition, offsets from the formulas.
#![allow(dead_code, reason = "each test file uses a part of it")]

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use curve25519_dalek::montgomery::MontgomeryPoint;
use mizzle_sphinx::Dialect;
use sha2::{Digest, Sha256};

const K: usize = 16;
const R: usize = 5;
const T: usize = 6;
const BLOCK: usize = (T + 1) * K;
const BETA: usize = (R * (T + 1) + 1) * K;

pub(crate) fn x25519(scalar: &[u8; 32], u: &[u8; 32]) -> [u8; 32] {
    MontgomeryPoint(*u).mul_clamped(*scalar).to_bytes()
}

fn sha(parts: &[&[u8]]) -> [u8; 32] {
    Sha256::digest(parts.concat()).into()
}

fn kdf16(label: &str, secret: &[u8]) -> [u8; 16] {
    sha(&[label.as_bytes(), secret])[..16].try_into().unwrap()
}

/// `len` bytes of key stream from the byte `offset` on.
fn key_stream(key: [u8; 16], iv: [u8; 16], offset: usize, len: usize) -> Vec<u8> {
    let aes = Aes128::new(&key.into());
    let block = |at: usize| -> u8 {
        let mut counter = u128::from_be_bytes(iv)
            .wrapping_add((at / 16) as u128)
            .to_be_bytes()
            .into();
        aes.encrypt_block(&mut counter);
        counter[at % 16]
    };
    (offset..offset + len).map(block).collect()
}

fn ctr(key: [u8; 16], iv: [u8; 16], offset: usize, data: &[u8]) -> Vec<u8> {
    xor(data, &key_stream(key, iv, offset, data.len()))
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

fn header_ctr(s: &[u8; 32], offset: usize, data: &[u8]) -> Vec<u8> {
    ctr(kdf16("aes_key", s), kdf16("iv", s), offset, data)
}

fn mac(s: &[u8; 32], beta: &[u8]) -> Vec<u8> {
    let key = kdf16("mac_key", s);
    let pad = |byte: u8| -> Vec<u8> { (0..64).map(|at| byte ^ key.get(at).unwrap_or(&0)).collect() };
    sha(&[&pad(0x5c), &sha(&[&pad(0x36), beta])])[..16].to_vec()
}

fn lioness_round_key(number: usize, seed: &[u8]) -> [u8; 32] {
    sha(&[format!("lioness_key{number}").as_bytes(), seed])
}

fn lioness(seed: &[u8], block: &[u8], rounds: [usize; 4]) -> Vec<u8> {
    let (mut left, mut right) = (block[..32].to_vec(), block[32..].to_vec());
    for round in rounds {
        let key = lioness_round_key(round, seed);
        if round % 2 == 1 {
            let key = xor(&left, &key);
            right = ctr(
                key[..16].try_into().unwrap(),
                key[16..].try_into().unwrap(),
                0,
                &right,
            );
        } else {
            left = xor(&left, &sha(&[&key, &right]));
        }
    }
    [left, right].concat()
}

/// One layer of the payload; `secret` is what is shared with a hop, or a reply key of sixteen bytes.
fn layer(dialect: Dialect, secret: &[u8], payload: &[u8], rounds: [usize; 4]) -> Vec<u8> {
    match dialect {
        Dialect::LegacyCtr => ctr(
            kdf16("delta_aes_key", secret),
            kdf16("delta_iv", secret),
            0,
            payload,
        ),
        Dialect::Lioness if secret.len() == 16 => lioness(secret, payload, rounds),
        Dialect::Lioness => lioness(&sha(&[b"payload_enc_key", secret]), payload, rounds),
    }
}

pub(crate) fn encrypt(dialect: Dialect, secret: &[u8], payload: &[u8]) -> Vec<u8> {
    layer(dialect, secret, payload, [1, 2, 3, 4])
}

pub(crate) fn decrypt(dialect: Dialect, secret: &[u8], payload: &[u8]) -> Vec<u8> {
    layer(dialect, secret, payload, [4, 3, 2, 1])
}

pub(crate) struct Hop {
    pub(crate) public: [u8; 32],
    pub(crate) address: Vec<u8>,
    pub(crate) delay_ms: u16,
}

/// The secrets shared along a route, each by its own run of X25519 over all factors before.
pub(crate) fn secrets(x: &[u8; 32], route: &[Hop]) -> (Vec<[u8; 32]>, [u8; 32]) {
    let mut base = [0; 32];
    base[0] = 9;
    let mut factors = vec![*x];
    let mut shared = vec![];
    for hop in route {
        let apply = |u: &[u8; 32]| factors.iter().fold(*u, |u, factor| x25519(factor, &u));
        let (alpha, s) = (apply(&base), apply(&hop.public));
        shared.push(s);
        factors.push(sha(&[&alpha, &s]));
    }
    (shared, x25519(x, &base))
}

/// A header whose last hop finds `last_block` (112 bytes).
pub(crate) fn header(x: &[u8; 32], route: &[Hop], last_block: &[u8]) -> Vec<u8> {
    let l = route.len();
    let (shared, alpha) = secrets(x, route);
    let mut filler = vec![];
    for i in 1..l {
        filler.extend([0; BLOCK]);
        filler = header_ctr(&shared[i - 1], ((T + 1) * (R - i) + T + 2) * K, &filler);
    }
    assert_eq!(filler.len(), BLOCK * (l - 1));

    let zeros = vec![0; ((T + 1) * (R - l) + 1) * K];
    let mut beta = [
        header_ctr(&shared[l - 1], 0, &[last_block, &zeros].concat()),
        filler,
    ]
    .concat();
    let mut gamma = mac(&shared[l - 1], &beta);
    for i in (0..l - 1).rev() {
        let kept = &beta[..(R * (T + 1) - T) * K];
        let plain = [
            &route[i + 1].address,
            &route[i].delay_ms.to_be_bytes()[..],
            &gamma,
            kept,
        ]
        .concat();
        beta = header_ctr(&shared[i], 0, &plain);
        gamma = mac(&shared[i], &beta);
    }
    assert_eq!(beta.len(), BETA);
    [alpha.to_vec(), beta, gamma].concat()
}

/// A forward packet whose last hop finds `last_block`.
pub(crate) fn packet(
    dialect: Dialect,
    x: &[u8; 32],
    route: &[Hop],
    last_block: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let (shared, _) = secrets(x, route);
    let payload = [&[0; 16], message].concat();
    let delta = shared
        .iter()
        .rev()
        .fold(payload, |delta, s| encrypt(dialect, s, &delta));
    [header(x, route, last_block), delta].concat()
}

/// A reply sent by a SURB with this header and key.
pub(crate) fn reply(dialect: Dialect, header: &[u8], reply_key: &[u8; 16], message: &[u8]) -> Vec<u8> {
    [
        header,
        &encrypt(dialect, reply_key, &[&[0; 16], message].concat()),
    ]
    .concat()
}

/// What one hop sees: the first 112 bytes it decrypts, the packet it would send on, and the tag.
pub(crate) fn hop(dialect: Dialect, secret: &[u8; 32], packet: &[u8]) -> (Vec<u8>, Vec<u8>, [u8; 32]) {
    let alpha: [u8; 32] = packet[..32].try_into().unwrap();
    let s = x25519(secret, &alpha);
    let (beta, delta) = (&packet[32..608], &packet[624..]);
    assert_eq!(mac(&s, beta), packet[608..624]);
    let b = sha(&[&alpha, &s]);
    let plain = header_ctr(&s, 0, &[beta, &[0; BLOCK]].concat());
    let next = [
        &x25519(&b, &alpha),
        &plain[BLOCK..],
        &plain[96..BLOCK],
        &decrypt(dialect, &s, delta),
    ]
    .concat();
    let tag = if dialect == Dialect::LegacyCtr {
        b
    } else {
        sha(&[&s])
    };
    (plain[..BLOCK].to_vec(), next, tag)
}
