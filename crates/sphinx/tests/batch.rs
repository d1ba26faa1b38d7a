//! A batch is peeled as its packets are one after the other, whatever is among them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::collections::BTreeSet;

use common::{Path, ZERO_ADDRESS, copy, each, random, rng};
use mizzle_sphinx::{
    BATCH, Dialect, MESSAGE_LEN, PACKET_LEN, Packet, Peeled, Peeler, Rejected, SecretKey, TAG_LEN, build,
    build_surb, engines, use_surb,
};
use proptest::prelude::*;

const SECRET: [u8; 32] = [42; 32];

/// A replay store, as small as it gets.
fn remember() -> impl FnMut(&[u8; TAG_LEN]) -> bool {
    let mut tags = BTreeSet::new();
    move |tag| !tags.insert(*tag)
}

/// Packets that have this node as first hop, as exit and as the maker of their SURB, in turn.
fn packets(dialect: Dialect, count: usize) -> Vec<Packet> {
    let mut rng = rng(6);
    let mut one = |index: usize| {
        let mut path = Path::random(&mut rng, 3 + index % 3);
        let last = path.secrets.len() - 1;
        let mine = if index.is_multiple_of(3) { 0 } else { last };
        path.secrets[mine] = SECRET;
        let path = Path::new(path.secrets, path.addresses, path.delays);
        let mut packet = Packet::zeroed();
        if index % 3 == 2 {
            let id = random(&mut rng);
            let (surb, _) = build_surb(dialect, &mut rng, &path.hops(), &id).unwrap();
            use_surb(dialect, surb, &[1; MESSAGE_LEN], &mut packet);
        } else {
            build(
                dialect,
                &mut rng,
                &path.hops(),
                &ZERO_ADDRESS,
                &[1; MESSAGE_LEN],
                &mut packet,
            )
            .unwrap();
        }
        for secret in &path.secrets[..mine] {
            let peeler = Peeler::new(SecretKey::from_bytes(*secret), dialect);
            assert!(matches!(
                peeler.peel(&mut packet, &mut common::fresh),
                Ok(Peeled::Forward { .. })
            ));
        }
        packet
    };
    (0..count).map(&mut one).collect()
}

fn peelers(dialect: Dialect) -> impl Iterator<Item = Peeler> {
    engines().map(move |engine| Peeler::with_engine(SecretKey::from_bytes(SECRET), dialect, engine))
}

fn one_by_one(peeler: &Peeler, packets: &mut [Packet]) -> Vec<Result<Peeled, Rejected>> {
    let mut seen = remember();
    packets
        .iter_mut()
        .map(|packet| peeler.peel(packet, &mut seen))
        .collect()
}

fn as_batch(peeler: &Peeler, packets: &mut [Packet]) -> Vec<Result<Peeled, Rejected>> {
    let mut out = vec![];
    peeler.peel_batch(packets, &mut each(remember()), &mut out);
    out
}

fn copies(packets: &[Packet]) -> Vec<Packet> {
    packets.iter().map(copy).collect()
}

#[test]
fn a_batch_is_peeled_as_one_by_one() {
    for dialect in [Dialect::Lioness, Dialect::LegacyCtr] {
        let packets = packets(dialect, 2 * BATCH + 1);
        for peeler in peelers(dialect) {
            for count in [0, 1, 2, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 1] {
                let (mut single, mut batch) = (copies(&packets[..count]), copies(&packets[..count]));
                let expected = one_by_one(&peeler, &mut single);
                assert!(expected.iter().all(Result::is_ok));
                assert_eq!(as_batch(&peeler, &mut batch), expected);
                assert!(batch == single);
            }
        }
    }
}

#[test]
fn all_three_ends_are_in_the_batch() {
    let results = as_batch(
        &peelers(Dialect::Lioness).next().unwrap(),
        &mut packets(Dialect::Lioness, 3),
    );
    let is_each = matches!(
        results[..],
        [
            Ok(Peeled::Forward { .. }),
            Ok(Peeled::Exit { .. }),
            Ok(Peeled::Reply { .. })
        ]
    );
    assert!(is_each, "{results:?}");
}

#[test]
fn bad_packets_do_not_harm_their_neighbours() {
    for dialect in [Dialect::Lioness, Dialect::LegacyCtr] {
        let good = packets(dialect, BATCH);
        for peeler in peelers(dialect) {
            let mut untouched = copies(&good);
            let expected = one_by_one(&peeler, &mut untouched);
            for first in [0, 1, 13, BATCH - 4] {
                let mut bad = copies(&good);
                bad[first].as_bytes_mut()[..32].fill(0);
                bad[first + 1].as_bytes_mut()[31] |= 0x80;
                bad[first + 2].as_bytes_mut()[..32].fill(0);
                bad[first + 2].as_bytes_mut()[0] = 1;
                bad[first + 3].as_bytes_mut()[300] ^= 1;
                let results = as_batch(&peeler, &mut bad);
                let reasons: Vec<_> = results[first..first + 4]
                    .iter()
                    .map(|result| result.unwrap_err())
                    .collect();
                assert_eq!(
                    reasons,
                    [Rejected::Alpha, Rejected::Alpha, Rejected::Alpha, Rejected::Mac]
                );
                for at in (0..BATCH).filter(|at| !(first..first + 4).contains(at)) {
                    assert_eq!(results[at], expected[at]);
                    assert!(bad[at] == untouched[at]);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any mixture of good packets, invalid alphas, wrong MACs, payloads and replays.
    #[test]
    fn any_mixture_is_peeled_as_one_by_one(
        dialect in prop_oneof![Just(Dialect::Lioness), Just(Dialect::LegacyCtr)],
        faults in prop::collection::vec((0..8_u8, 0..12_usize, 0..PACKET_LEN), 1..=BATCH + 20),
    ) {
        let good = packets(dialect, 12);
        let mixture: Vec<_> = faults.iter().map(|(fault, from, at)| {
            let mut packet = copy(&good[*from]);
            let bytes = packet.as_bytes_mut();
            match fault {
                0 => bytes[..32].fill(0),
                1 => bytes[..32].fill(0xff),
                2 => {
                    bytes[..32].fill(0);
                    bytes[0] = 1;
                }
                3 => bytes[32 + at % 592] ^= 1,
                4 => bytes[624 + at % 3984] ^= 1,
                5 => bytes[*at] ^= 0x80,
                // As it is: the second of its kind is a replay.
                _ => {}
            }
            packet
        }).collect();
        for peeler in peelers(dialect) {
            let (mut single, mut batch) = (copies(&mixture), copies(&mixture));
            let (expected, results) = (one_by_one(&peeler, &mut single), as_batch(&peeler, &mut batch));
            prop_assert_eq!(results, expected);
            prop_assert!(batch == single);
        }
    }
}

#[test]
fn replays_are_told_within_a_batch_and_between_batches() {
    for dialect in [Dialect::Lioness, Dialect::LegacyCtr] {
        let mut packets = packets(dialect, 6);
        let replays = copies(&packets);
        packets.extend(copies(&replays));
        let peeler = peelers(dialect).next().unwrap();
        let mut tags = remember();
        let mut out = vec![];
        peeler.peel_batch(&mut packets, &mut each(&mut tags), &mut out);
        assert!(out[..6].iter().all(Result::is_ok));
        assert_eq!(out[6..], [Err(Rejected::Replay); 6]);
        assert!(
            packets[6..] == replays[..],
            "a replayed packet is left as it came"
        );

        peeler.peel_batch(&mut copies(&replays), &mut each(&mut tags), &mut out);
        assert_eq!(out[12..], [Err(Rejected::Replay); 6], "results are appended");
        assert_eq!(
            peeler.peel(&mut copy(&replays[0]), &mut tags),
            Err(Rejected::Replay)
        );
    }
}

#[test]
fn the_tags_of_a_batch_are_told_at_once_and_only_of_packets_with_a_right_mac() {
    for (dialect, told) in [(Dialect::Lioness, BATCH - 2), (Dialect::LegacyCtr, BATCH - 1)] {
        for peeler in peelers(dialect) {
            let mut packets = packets(dialect, BATCH + 1);
            packets[3].as_bytes_mut()[300] ^= 1;
            packets[7].as_bytes_mut()[..32].fill(0);
            let mut counts = vec![];
            let mut third_of = |tags: &[[u8; TAG_LEN]], known: &mut [bool]| {
                counts.push(tags.len());
                known.iter_mut().step_by(3).for_each(|known| *known = true);
            };
            let mut out = vec![];
            peeler.peel_batch(&mut packets, &mut third_of, &mut out);
            assert_eq!(counts, [told, 1], "{dialect:?}");
            let replays: Vec<_> = (0..=BATCH)
                .filter(|at| out[*at] == Err(Rejected::Replay))
                .collect();
            let asked = (0..BATCH).filter(|at| *at != 7 && (*at != 3 || dialect == Dialect::LegacyCtr));
            let expected: Vec<_> = asked.step_by(3).chain([BATCH]).collect();
            assert_eq!(replays, expected, "{dialect:?}");
        }
    }
}

#[test]
fn a_replay_with_another_payload_is_a_replay() {
    let mut packet = packets(Dialect::Lioness, 1).remove(0);
    let mut again = copy(&packet);
    again.as_bytes_mut()[4000] ^= 1;
    let (peeler, mut seen) = (peelers(Dialect::Lioness).next().unwrap(), remember());
    assert!(peeler.peel(&mut packet, &mut seen).is_ok());
    assert_eq!(peeler.peel(&mut again, &mut seen), Err(Rejected::Replay));
}

#[test]
fn a_forgery_leaves_no_tag_behind_in_the_lioness_dialect() {
    let packet = packets(Dialect::Lioness, 1).remove(0);
    let mut forged = copy(&packet);
    forged.as_bytes_mut()[100] ^= 1;
    let (peeler, mut seen) = (peelers(Dialect::Lioness).next().unwrap(), remember());
    assert_eq!(peeler.peel(&mut forged, &mut seen), Err(Rejected::Mac));
    assert!(
        peeler.peel(&mut copy(&packet), &mut seen).is_ok(),
        "the true packet still passes"
    );
}

#[test]
fn reasons_have_names_of_their_own() {
    let names: BTreeSet<_> = Rejected::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), Rejected::ALL.len());
}
