//! Properties of packets that hold for all routes, messages and changes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;
mod reference;

use common::{Path, ZERO_ADDRESS, ZERO_PACKET, copy, fresh, random, rng};
use mizzle_sphinx::{
    BuildError, Dialect, HEADER_LEN, MAX_BODY_LEN, MESSAGE_LEN, PACKET_LEN, Packet, Peeled, Peeler,
    RecoverError, Rejected, SecretKey, Surb, SurbKeys, TooLong, build, build_in_place, build_surb,
    build_with_secret, max_body_len, pad, pad_in_place, recover, unpad, use_surb,
};
use proptest::prelude::*;

fn dialects() -> impl Strategy<Value = Dialect> {
    prop_oneof![Just(Dialect::Lioness), Just(Dialect::LegacyCtr)]
}

fn peeler(path: &Path, hop: usize, dialect: Dialect) -> Peeler {
    Peeler::new(SecretKey::from_bytes(path.secrets[hop]), dialect)
}

/// Peels along a path up to the last hop and returns what it says.
fn walk(path: &Path, dialect: Dialect, packet: &mut Packet) -> Result<Peeled, Rejected> {
    let last = path.secrets.len() - 1;
    for hop in 0..last {
        let peeled = peeler(path, hop, dialect).peel(packet, &mut fresh)?;
        assert_eq!(
            peeled,
            Peeled::Forward {
                next: path.addresses[hop + 1],
                delay_ms: path.delays[hop]
            }
        );
    }
    peeler(path, last, dialect).peel(packet, &mut fresh)
}

fn a_packet(seed: u64, hops: usize, dialect: Dialect) -> (Path, Packet) {
    let mut rng = rng(seed);
    let path = Path::random(&mut rng, hops);
    let mut packet = Packet::zeroed();
    build(
        dialect,
        &mut rng,
        &path.hops(),
        &ZERO_ADDRESS,
        &[3; MESSAGE_LEN],
        &mut packet,
    )
    .unwrap();
    (path, packet)
}

fn a_reply(seed: u64, dialect: Dialect) -> (Path, SurbKeys, Packet) {
    let mut rng = rng(seed);
    let path = Path::random(&mut rng, 4);
    let (surb, keys) = build_surb(dialect, &mut rng, &path.hops(), &[1; 16]).unwrap();
    let mut packet = Packet::zeroed();
    use_surb(dialect, surb, &[5; MESSAGE_LEN], &mut packet);
    (path, keys, packet)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_built_arrives(
        seed: u64, hops in 3..=5_usize, dialect in dialects(), len in 0..=3962_usize, is_for_exit: bool,
    ) {
        let mut rng = rng(seed);
        let path = Path::random(&mut rng, hops);
        let destination = if is_for_exit { ZERO_ADDRESS } else { random(&mut rng) };
        let body = &random::<MESSAGE_LEN>(&mut rng)[..len];
        let mut packet = Packet::zeroed();
        pad(dialect, body, packet.message_mut()).unwrap();
        build_in_place(dialect, &mut rng, &path.hops(), &destination, &mut packet).unwrap();
        prop_assert_eq!(walk(&path, dialect, &mut packet), Ok(Peeled::Exit { destination }));
        prop_assert_eq!(unpad(dialect, packet.message()), Ok(body));
        prop_assert_eq!(&packet.as_bytes()[..HEADER_LEN], &[0; HEADER_LEN]);
    }

    #[test]
    fn a_reply_arrives_and_only_its_maker_reads_it(seed: u64, hops in 3..=5_usize, dialect in dialects()) {
        let mut rng = rng(seed);
        let path = Path::random(&mut rng, hops);
        let (id, message) = (random(&mut rng), random(&mut rng));
        let (surb, keys) = build_surb(dialect, &mut rng, &path.hops(), &id).unwrap();
        let (_, other_keys) = build_surb(dialect, &mut rng, &path.hops(), &id).unwrap();
        let mut bytes = [0; mizzle_sphinx::SURB_LEN];
        surb.to_bytes(&mut bytes);

        let mut reply = Packet::zeroed();
        use_surb(dialect, Surb::from_bytes(&bytes), &message, &mut reply);
        prop_assert_eq!(walk(&path, dialect, &mut reply), Ok(Peeled::Reply { id }));
        let mut for_other = copy(&reply);
        prop_assert_eq!(recover(dialect, other_keys, for_other.payload_mut()), Err(RecoverError));
        prop_assert!(for_other.payload().iter().all(|byte| *byte == 0));
        prop_assert_eq!(recover(dialect, keys, reply.payload_mut()), Ok(()));
        prop_assert_eq!(reply.message(), &message);
    }

    #[test]
    fn the_slow_reference_builds_the_same_packet(seed: u64, hops in 3..=5_usize, dialect in dialects()) {
        let mut rng = rng(seed);
        let path = Path::random(&mut rng, hops);
        let (x, destination, message) = (random(&mut rng), random(&mut rng), random(&mut rng));
        let mut packet = Packet::zeroed();
        build_with_secret(dialect, x, &path.hops(), &destination, &message, &mut packet).unwrap();
        let route = path.hops().iter().map(|hop| reference::Hop {
            public: *hop.key.as_bytes(),
            address: hop.address.to_vec(),
            delay_ms: hop.delay_ms,
        }).collect::<Vec<_>>();
        let last_block = [&destination[..], &[0; 18]].concat();
        let expected = reference::packet(dialect, &x, &route, &last_block, &message);
        prop_assert_eq!(packet.as_bytes().as_slice(), expected.as_slice());
    }

    #[test]
    fn any_change_of_a_header_is_refused_by_the_next_hop(
        seed: u64, hops in 3..=5_usize, dialect in dialects(), at in 0..HEADER_LEN, flip in 1..=255_u8,
    ) {
        let (path, mut packet) = a_packet(seed, hops, dialect);
        packet.as_bytes_mut()[at] ^= flip;
        let changed = copy(&packet);
        let result = peeler(&path, 0, dialect).peel(&mut packet, &mut fresh);
        prop_assert!(matches!(result, Err(Rejected::Mac | Rejected::Alpha)), "{:?}", result);
        prop_assert_eq!(packet, changed);
    }

    #[test]
    fn any_change_of_a_payload_is_refused_by_the_exit(
        seed: u64, hops in 3..=5_usize, at in HEADER_LEN..PACKET_LEN, bit in 0..8_u32, before in 0..5_usize,
    ) {
        let (path, mut packet) = a_packet(seed, hops, Dialect::Lioness);
        let before = before % hops;
        for hop in 0..hops {
            if hop == before {
                packet.as_bytes_mut()[at] ^= 1 << bit;
            }
            let result = peeler(&path, hop, Dialect::Lioness).peel(&mut packet, &mut fresh);
            prop_assert_eq!(result.err(), (hop == hops - 1).then_some(Rejected::Payload));
        }
        prop_assert_eq!(packet.as_bytes(), &ZERO_PACKET);
    }

    #[test]
    fn any_change_of_a_reply_is_noticed(seed: u64, at in HEADER_LEN..PACKET_LEN, bit in 0..8_u32) {
        let (path, keys, mut packet) = a_reply(seed, Dialect::Lioness);
        packet.as_bytes_mut()[at] ^= 1 << bit;
        prop_assert_eq!(walk(&path, Dialect::Lioness, &mut packet), Ok(Peeled::Reply { id: [1; 16] }));
        prop_assert_eq!(recover(Dialect::Lioness, keys, packet.payload_mut()), Err(RecoverError));
    }

    #[test]
    fn no_bytes_make_a_peeler_panic(bytes in prop::collection::vec(any::<u8>(), 0..=PACKET_LEN), dialect in dialects()) {
        let mut packet = Packet::zeroed();
        packet.as_bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
        let result = Peeler::new(SecretKey::from_bytes([1; 32]), dialect).peel(&mut packet, &mut fresh);
        prop_assert!(matches!(result, Err(Rejected::Mac | Rejected::Alpha)));
    }

    #[test]
    fn what_is_padded_is_unpadded(body in prop::collection::vec(any::<u8>(), 0..=3962), dialect in dialects()) {
        let mut message = [0xff; MESSAGE_LEN];
        pad(dialect, &body, &mut message).unwrap();
        prop_assert_eq!(unpad(dialect, &message), Ok(&body[..]));
    }

    #[test]
    fn unpadding_takes_any_message(field: u16, dialect in dialects()) {
        let mut message = [1; MESSAGE_LEN];
        message[..2].copy_from_slice(&field.to_be_bytes());
        let expected = max_body_len(dialect).checked_sub(field.into());
        prop_assert_eq!(unpad(dialect, &message).ok().map(<[u8]>::len), expected);
    }
}

#[test]
fn a_legacy_payload_changed_behind_its_zeros_passes_as_its_documentation_says() {
    let (path, mut packet) = a_packet(1, 3, Dialect::LegacyCtr);
    packet.as_bytes_mut()[PACKET_LEN - 1] ^= 1;
    assert!(matches!(
        walk(&path, Dialect::LegacyCtr, &mut packet),
        Ok(Peeled::Exit { .. })
    ));
    assert_eq!(packet.message()[MESSAGE_LEN - 1], 3 ^ 1);
}

#[test]
fn a_packet_of_the_other_dialect_is_refused_at_the_exit() {
    for (built, peeled) in [
        (Dialect::Lioness, Dialect::LegacyCtr),
        (Dialect::LegacyCtr, Dialect::Lioness),
    ] {
        let (path, mut packet) = a_packet(2, 3, built);
        assert_eq!(walk(&path, peeled, &mut packet), Err(Rejected::Payload));
    }
}

#[test]
fn impossible_routes_are_refused_and_leave_the_packet_alone() {
    let mut rng = rng(3);
    for hops in [0, 1, 2, 6, 7] {
        let path = Path::random(&mut rng, hops);
        let mut out = Packet::zeroed();
        let built = build(
            Dialect::Lioness,
            &mut rng,
            &path.hops(),
            &ZERO_ADDRESS,
            &[1; MESSAGE_LEN],
            &mut out,
        );
        assert_eq!(
            (built, *out.as_bytes()),
            (Err(BuildError::Hops(hops)), ZERO_PACKET)
        );
        let surb = build_surb(Dialect::Lioness, &mut rng, &path.hops(), &[1; 16]);
        assert_eq!(surb.err(), Some(BuildError::Hops(hops)));
    }
    let mut path = Path::random(&mut rng, 3);
    let zero_id = build_surb(Dialect::Lioness, &mut rng, &path.hops(), &[0; 16]);
    assert_eq!(zero_id.err(), Some(BuildError::ZeroId));
    path.delays[2] = 9;
    let mut out = Packet::zeroed();
    let built = build(
        Dialect::Lioness,
        &mut rng,
        &path.hops(),
        &ZERO_ADDRESS,
        &[1; MESSAGE_LEN],
        &mut out,
    );
    assert_eq!(
        (built, *out.as_bytes()),
        (Err(BuildError::LastDelay(9)), ZERO_PACKET)
    );
    assert!(build_surb(Dialect::Lioness, &mut rng, &path.hops(), &[1; 16]).is_err());
}

#[test]
fn bodies_that_are_too_long_are_refused_and_leave_the_message_alone() {
    for dialect in [Dialect::Lioness, Dialect::LegacyCtr] {
        let max = max_body_len(dialect);
        let body = vec![7; max + 1];
        let mut message = [1; MESSAGE_LEN];
        assert_eq!(
            pad(dialect, &body, &mut message),
            Err(TooLong { len: max + 1, max })
        );
        assert_eq!(message, [1; MESSAGE_LEN]);
        pad(dialect, &body[..max], &mut message).unwrap();
        assert_eq!(unpad(dialect, &message), Ok(&body[..max]));
    }
    assert_eq!(
        pad_in_place(usize::MAX, &mut [0; MESSAGE_LEN]).len(),
        MAX_BODY_LEN
    );
}

#[test]
fn debug_shows_nothing_of_the_content() {
    let (path, keys, packet) = a_reply(4, Dialect::Lioness);
    let surb = build_surb(Dialect::Lioness, &mut rng(5), &path.hops(), &[1; 16])
        .unwrap()
        .0;
    let text = format!(
        "{packet:?} {keys:?} {surb:?} {:?}",
        peeler(&path, 0, Dialect::Lioness)
    );
    assert!(
        text.starts_with("Packet(..) SurbKeys(..) Surb(..) Peeler { dialect: Lioness, engine: "),
        "{text}"
    );
}
