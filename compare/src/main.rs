//! Our packet beside Nym's, and beside itself on nothing but dalek and RustCrypto, in one run in which all take turns:
//!
//! ```sh
//! cargo run --release --manifest-path compare/Cargo.toml            # --json for programs
//! ```
//!
//! All packets have 4608 bytes and five hops. Nym's carries some 200 bytes more of them, for its header is shorter; what
//! is timed is `SphinxPacket::process` and `SphinxPacketBuilder::build_packet`, as its mix nodes and clients call them.

use std::error::Error;
use std::io::{self, Write as _};
use std::iter::zip;

use mizzle_sphinx::{BuildError, Dialect, Engine, Hop, PACKET_LEN, Packet, SecretKey};
use sphinx_packet::constants::{DESTINATION_ADDRESS_LENGTH, IDENTIFIER_LENGTH, NODE_ADDRESS_LENGTH};
use sphinx_packet::header::HEADER_SIZE;
use sphinx_packet::header::delays::Delay;
use sphinx_packet::packet::builder::SphinxPacketBuilder;
use sphinx_packet::route::{Destination, DestinationAddressBytes, Node, NodeAddressBytes};
use sphinx_packet::{ProcessedPacketData, SphinxPacket};
use x25519_dalek::{PublicKey, StaticSecret};

// The very code of `mizzle bench sphinx`.
#[path = "../../crates/cli/src/bench_sphinx.rs"]
#[allow(dead_code, reason = "the binary uses the rest")]
mod bench_sphinx;

use bench_sphinx::{BUILD, Case, Figures, HOP, PEER, PLAIN};

const ROUNDS: u32 = 200;
const HOPS: u8 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let json = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--json") => true,
        Some(other) => return Err(format!("{other:?} is unknown; there is --json").into()),
    };
    let peer = Peer::new()?;
    let packets = packets()?;
    let mut others = peer.cases();
    bench_sphinx::hops(&Plain, &packets, [1; 32], &mut others);
    let figures = bench_sphinx::measure(ROUNDS, others)?;
    let text = if json {
        format!("{}\n", with_ratios(&figures))
    } else {
        format!("{}\n{}", figures.table(ROUNDS), ratios(&figures))
    };
    // A reader that has gone is no error.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Our packet with the curve, the hash and the cipher as they come, one packet after the other.
struct Plain;

impl Engine for Plain {
    fn name(&self) -> &'static str {
        PLAIN
    }

    fn x25519_batch(&self, scalars: &[[u8; 32]], points: &[[u8; 32]], out: &mut [[u8; 32]]) {
        for ((scalar, point), out) in zip(zip(scalars, points), out) {
            *out = x25519_dalek::x25519(*scalar, *point);
        }
    }

    fn sha256_batch(&self, states: &mut [[u32; 8]], blocks: &[&[[u8; 64]]]) {
        for (state, blocks) in zip(states, blocks) {
            sha2::block_api::compress256(state, blocks);
        }
    }
}

/// Packets whose first hop has the secret of all ones.
fn packets() -> Result<Vec<Packet>, BuildError> {
    let keys: Vec<_> = (1..=HOPS)
        .map(|hop| SecretKey::from_bytes([hop; 32]).public())
        .collect();
    let route: Vec<_> = keys
        .iter()
        .zip([10, 10, 10, 10, 0])
        .map(|(key, delay_ms)| Hop {
            key,
            address: &[1; mizzle_sphinx::ADDRESS_LEN],
            delay_ms,
        })
        .collect();
    let mut rng = <mizzle_base::Rng as rand_core::SeedableRng>::from_seed([1; 32]);
    let mut one = || {
        let mut packet = Packet::zeroed();
        mizzle_sphinx::build_in_place(
            Dialect::Lioness,
            &mut rng,
            &route,
            &[1; mizzle_sphinx::ADDRESS_LEN],
            &mut packet,
        )?;
        Ok(packet)
    };
    (0..64).map(|_| one()).collect()
}

/// Nym's packet.
struct Peer {
    secret: StaticSecret,
    route: Vec<Node>,
    destination: Destination,
    delays: Vec<Delay>,
    packet: Vec<u8>,
}

impl Peer {
    fn new() -> Result<Self, Box<dyn Error>> {
        let secrets = (1..=HOPS).map(|hop| StaticSecret::from([hop; 32]));
        let node = |secret| {
            Node::new(
                NodeAddressBytes::from_bytes([1; NODE_ADDRESS_LENGTH]),
                PublicKey::from(&secret),
            )
        };
        let mut peer = Self {
            secret: StaticSecret::from([1; 32]),
            route: secrets.map(node).collect(),
            destination: Destination::new(
                DestinationAddressBytes::from_bytes([3; DESTINATION_ADDRESS_LENGTH]),
                [4; IDENTIFIER_LENGTH],
            ),
            delays: (0..HOPS).map(|_| Delay::new_from_millis(10)).collect(),
            packet: Vec::new(),
        };
        peer.packet = peer.build()?.to_bytes();
        if peer.packet.len() != PACKET_LEN {
            return Err(format!("Nym's packet has {} bytes", peer.packet.len()).into());
        }
        // What is timed must be what happens to a packet that goes on.
        match SphinxPacket::from_bytes(&peer.packet)?
            .process(&peer.secret)?
            .data
        {
            ProcessedPacketData::ForwardHop { .. } => Ok(peer),
            ProcessedPacketData::FinalHop { .. } => Err("Nym's packet ends at its first hop".into()),
        }
    }

    fn build(&self) -> sphinx_packet::Result<SphinxPacket> {
        SphinxPacketBuilder::new()
            .with_payload_size(PACKET_LEN - HEADER_SIZE)
            .build_packet([5; 3_000], &self.route, &self.destination, &self.delays)
    }

    fn cases(&self) -> Vec<Case<'_>> {
        let hop = Case {
            what: HOP,
            by: PEER,
            batch: 1,
            run: Box::new(|| match SphinxPacket::from_bytes(&self.packet) {
                Ok(packet) => bench_sphinx::timed(|| packet.process(&self.secret).is_ok()),
                // It was read and processed before.
                Err(_) => std::time::Duration::MAX,
            }),
        };
        let build = Case {
            what: BUILD,
            by: PEER,
            batch: 1,
            run: Box::new(|| bench_sphinx::timed(|| self.build().is_ok())),
        };
        vec![hop, build]
    }
}

/// How many times as long as ours others take: hop beside Nym's, beside plain, build beside Nym's; and the hop without wide
/// vectors beside Nym's.
fn times(figures: &Figures) -> [(&'static str, &'static str, Option<f64>); 4] {
    let json = figures.json(ROUNDS);
    let us = |key: &str| json[key].as_f64();
    let ratio = |of: &str, to: &str| Some(us(of)? / us(to)?);
    [
        (
            "hop_times_of_peer",
            "hop: Nym's takes as long as ours",
            ratio("peer_hop_us", "hop_us"),
        ),
        (
            "hop_times_of_plain",
            "hop: plain dalek + RustCrypto takes",
            ratio("plain_hop_us", "hop_us"),
        ),
        (
            "hop_portable_times_of_peer",
            "hop without wide vectors: Nym's takes",
            ratio("peer_hop_us", "hop_portable_us"),
        ),
        (
            "build_times_of_peer",
            "build: Nym's takes",
            ratio("peer_build_us", "build_us"),
        ),
    ]
}

fn ratios(figures: &Figures) -> String {
    times(figures)
        .into_iter()
        .filter_map(|(_, text, times)| Some(format!("{text:<40}{:>6.1} times\n", times?)))
        .collect()
}

fn with_ratios(figures: &Figures) -> serde_json::Value {
    let mut json = figures.json(ROUNDS);
    for (key, _, times) in times(figures) {
        json[key] = times.into();
    }
    json
}
