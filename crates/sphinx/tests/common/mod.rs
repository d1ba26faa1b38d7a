//! What several test files need: hex, vector files, random routes.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use mizzle_sphinx::{
    ADDRESS_LEN, Hop, PACKET_LEN, Packet, Peeled, Peeler, PublicKey, Rejected, SecretKey, TAG_LEN, engines,
    use_engine,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng, TryCryptoRng, TryRng};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(crate) fn vectors(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The elements of a JSON array.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a JSON string in hex.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    from_hex(text(value))
}

pub(crate) fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

pub(crate) fn number(value: &Value) -> u16 {
    value.as_u64().unwrap().try_into().unwrap()
}

pub(crate) fn packet(value: &Value) -> Packet {
    Packet::try_from_slice(&bytes(value)).unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A copy, which only tests have a reason for.
pub(crate) fn copy(packet: &Packet) -> Packet {
    Packet::try_from_slice(packet.as_bytes()).unwrap()
}

/// Nothing was ever seen.
pub(crate) fn fresh(_: &[u8; TAG_LEN]) -> bool {
    false
}

/// Asks about the tags of a batch one after the other.
pub(crate) fn each(
    mut seen: impl FnMut(&[u8; TAG_LEN]) -> bool,
) -> impl FnMut(&[[u8; TAG_LEN]], &mut [bool]) {
    move |tags, known| {
        assert_eq!(tags.len(), known.len());
        for (tag, known) in tags.iter().zip(known) {
            assert!(!*known);
            *known = seen(tag);
        }
    }
}

/// Peels a packet that the peeler has not seen, and says which tag it told.
pub(crate) fn peel(
    peeler: &Peeler,
    packet: &mut Packet,
) -> (Result<Peeled, Rejected>, Option<[u8; TAG_LEN]>) {
    let mut told = None;
    let result = peeler.peel(packet, &mut |tag| {
        assert_eq!(told.replace(*tag), None, "a tag is told at most once");
        false
    });
    (result, told)
}

/// Runs a test under every engine that this CPU has, one test of a program at a time.
pub(crate) fn under_each_engine(mut test: impl FnMut()) {
    static CHOICE: Mutex<()> = Mutex::new(());
    let _choice = CHOICE.lock().unwrap_or_else(PoisonError::into_inner);
    for engine in engines() {
        use_engine(engine.name()).unwrap();
        test();
    }
    use_engine("best").unwrap();
}

pub(crate) fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// No generator at all: bytes of the test's choice, again and again.
pub(crate) struct Repeat {
    bytes: Vec<u8>,
    at: usize,
}

impl Repeat {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }
}

impl TryRng for Repeat {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for byte in out {
            *byte = self.bytes[self.at % self.bytes.len()];
            self.at += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for Repeat {}

/// The nodes along a route, with their secrets.
pub(crate) struct Path {
    pub(crate) secrets: Vec<[u8; 32]>,
    pub(crate) keys: Vec<PublicKey>,
    pub(crate) addresses: Vec<[u8; ADDRESS_LEN]>,
    pub(crate) delays: Vec<u16>,
}

impl Path {
    pub(crate) fn random(rng: &mut ChaCha20Rng, hops: usize) -> Self {
        let secrets: Vec<[u8; 32]> = (0..hops).map(|_| random(rng)).collect();
        let addresses = (0..hops).map(|_| random(rng)).collect();
        // Zero now and then, always at the end.
        let delays = (1..=hops)
            .map(|hop| {
                if hop == hops {
                    0
                } else {
                    (rng.next_u32() % 300) as u16
                }
            })
            .collect();
        Self::new(secrets, addresses, delays)
    }

    pub(crate) fn new(secrets: Vec<[u8; 32]>, addresses: Vec<[u8; ADDRESS_LEN]>, delays: Vec<u16>) -> Self {
        let keys = secrets
            .iter()
            .map(|secret| SecretKey::from_bytes(*secret).public())
            .collect();
        Self {
            secrets,
            keys,
            addresses,
            delays,
        }
    }

    pub(crate) fn hops(&self) -> Vec<Hop<'_>> {
        let parts = self.keys.iter().zip(&self.addresses).zip(&self.delays);
        parts
            .map(|((key, address), delay_ms)| Hop {
                key,
                address,
                delay_ms: *delay_ms,
            })
            .collect()
    }
}

pub(crate) fn random<const N: usize>(rng: &mut ChaCha20Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

pub(crate) const ZERO_ADDRESS: [u8; ADDRESS_LEN] = [0; ADDRESS_LEN];
pub(crate) const ZERO_PACKET: [u8; PACKET_LEN] = [0; PACKET_LEN];
