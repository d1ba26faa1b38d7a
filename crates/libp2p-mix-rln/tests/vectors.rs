//! A proof that zerokit 0.9.0 made, the library under the Nim plug-in: same circuit, hashes, epochs and layout.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use data_encoding::HEXLOWER;
use libp2p::PeerId;
use libp2p_mix::{
    link::Conn,
    spam::{Answer, SpamProtection as _, Via},
};
use libp2p_mix_rln::{Config, Identity, Member, Members, Rln};
use mizzle_base::Time;
use mizzle_sphinx::PACKET_LEN;

/// Of 4608 bytes of 7, by the second member, under number 42 of 100 and the plug-in's identifier, in epoch 180,000,000;
/// `generate_rln_proof`, its fields put into protobuf.
const PROOF: &str = "\
    0a8001f069bf9cab2900f3102fda5f5a33989730da5b78d9eebe8dfccabb0cc71b03a4f2cd58bd1445b02378353a7f09\
    af39b56dbc8584bc7de0f10f42c47afde0612df4177fd7671c95732d2668ca7633031a267c48af4c3f652d458af7dcc7\
    f273a5d87762f8d87d6ecf0b6098279ae381d8dbcac0b5d6f96a9f538d77177b48bb8512208f54fc1c15b4d398017d84\
    a188f137350ff27b99e870593fa890157ddc49652b1a200095ba0a000000000000000000000000000000000000000000\
    000000000000002220d5df449edfd02336fdf7820e783e2a2a6f119d3fec5513bc438ac6068d55bb072a20ef92d1c117\
    678d6e88589ecf6aff8229253203221df08e6bdf432f74eea225283220ae0649b042fceca63f8fb281d28f07945bcb13\
    60972bf02520843d18ecdc7f1e";

/// By some connection of this peer.
fn via(peer: PeerId) -> Via {
    Via {
        peer,
        conn: Conn::from_number(1),
    }
}

fn identity(byte: u8, last: u8) -> Identity {
    let mut secret = [byte; 32];
    secret[31] = last;
    Identity::from_bytes(&secret).unwrap()
}

#[tokio::test]
async fn a_proof_of_zerokit_0_9_passes() {
    let (other, sender) = (identity(0x22, 2), identity(0x11, 1));
    // As `poseidon_hash` there has them.
    assert_eq!(
        [other.commitment().to_string(), sender.commitment().to_string()],
        [
            "85a6920830b9e00f6699b4d07df81bb24ba8a40fee7b29192f2ff4cbf185201b",
            "19570c27b3b036824ee5da2b0ca8cf19d32dbcc0ab9f491fa08c6b6b32048121",
        ]
    );
    let members = Members::new([&other, &sender].map(|it| Some(Member::new(it.commitment())))).unwrap();
    let (rln, _) = Rln::start(Config::default(), other, &members).unwrap();
    let proof = HEXLOWER.decode(PROOF.as_bytes()).unwrap();
    let now = Time::from_s(1_800_000_005);
    let answer = rln.verify(now, via(PeerId::random()), &[7; PACKET_LEN], &proof);
    let Answer::Later(passes) = answer else {
        unreachable!("{:?}", rln.stats())
    };
    let passes = tokio::time::timeout(Duration::from_secs(60), passes)
        .await
        .unwrap();
    assert!(passes, "{:?}", rln.stats());
}
