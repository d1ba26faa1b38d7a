//! Packets and SURBs of a batch are those that are built one after the other, and they arrive.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use common::{Path, ZERO_ADDRESS, copy, fresh, random, rng, under_each_engine};
use mizzle_sphinx::{
    ADDRESS_LEN, BUILD_BATCH, BuildError, Dialect, Hop, Outgoing, Packet, Peeled, Peeler, SURB_LEN,
    SecretKey, Surb, SurbKeys, SurbRequest, build_batch, build_in_place, build_surb, build_surbs, prepare,
    recover, use_surb,
};

const DIALECTS: [Dialect; 2] = [Dialect::Lioness, Dialect::LegacyCtr];
const COUNTS: [usize; 10] = [
    0,
    1,
    2,
    3,
    5,
    8,
    17,
    BUILD_BATCH,
    BUILD_BATCH + 1,
    2 * BUILD_BATCH + 6,
];

/// Routes of three to five hops in turn, with a destination each.
fn paths(count: usize) -> Vec<(Path, [u8; ADDRESS_LEN])> {
    let mut rng = rng(8);
    (0..count)
        .map(|at| {
            let destination = if at % 4 == 3 {
                ZERO_ADDRESS
            } else {
                random(&mut rng)
            };
            (Path::random(&mut rng, 3 + at % 3), destination)
        })
        .collect()
}

fn messages(count: usize) -> Vec<Packet> {
    let mut rng = rng(9);
    let mut message = || {
        let mut packet = Packet::zeroed();
        *packet.as_bytes_mut() = random(&mut rng);
        packet
    };
    (0..count).map(|_| message()).collect()
}

fn surb_bytes(surb: &Surb) -> [u8; SURB_LEN] {
    let mut bytes = [0; SURB_LEN];
    surb.to_bytes(&mut bytes);
    bytes
}

#[test]
fn a_batch_is_built_as_one_by_one() {
    let paths = paths(2 * BUILD_BATCH + 6);
    let routes: Vec<_> = paths.iter().map(|(path, _)| path.hops()).collect();
    under_each_engine(|| {
        for (dialect, count) in DIALECTS
            .into_iter()
            .flat_map(|dialect| COUNTS.map(|count| (dialect, count)))
        {
            let (mut single, mut batch) = (messages(count), messages(count));
            let mut one_by_one = rng(10);
            for ((packet, route), (_, destination)) in single.iter_mut().zip(&routes).zip(&paths) {
                build_in_place(dialect, &mut one_by_one, route, destination, packet).unwrap();
            }
            let outgoing = batch.iter_mut().zip(&routes).zip(&paths);
            let mut outgoing: Vec<_> = outgoing
                .map(|((packet, route), (_, destination))| Outgoing {
                    route,
                    destination,
                    packet,
                })
                .collect();
            build_batch(dialect, &mut rng(10), &mut outgoing).unwrap();
            assert!(batch == single, "{count} packets, {dialect:?}");
        }
    });
}

#[test]
fn packets_of_a_batch_arrive() {
    let paths = paths(20);
    let routes: Vec<_> = paths.iter().map(|(path, _)| path.hops()).collect();
    under_each_engine(|| {
        for dialect in DIALECTS {
            let (sent, mut packets) = (messages(20), messages(20));
            let outgoing = packets.iter_mut().zip(&routes).zip(&paths);
            let mut outgoing: Vec<_> = outgoing
                .map(|((packet, route), (_, destination))| Outgoing {
                    route,
                    destination,
                    packet,
                })
                .collect();
            build_batch(dialect, &mut rng(11), &mut outgoing).unwrap();
            for ((packet, sent), (path, destination)) in packets.iter_mut().zip(&sent).zip(&paths) {
                let mut last = None;
                for secret in &path.secrets {
                    let peeler = Peeler::new(SecretKey::from_bytes(*secret), dialect);
                    last = Some(peeler.peel(packet, &mut fresh).unwrap());
                }
                assert_eq!(
                    last,
                    Some(Peeled::Exit {
                        destination: *destination
                    })
                );
                assert_eq!(packet.message(), sent.message());
            }
        }
    });
}

#[test]
fn surbs_of_a_batch_are_made_as_one_by_one_and_bring_replies() {
    let paths = paths(2 * BUILD_BATCH + 6);
    let routes: Vec<_> = paths.iter().map(|(path, _)| path.hops()).collect();
    let ids: Vec<[u8; 16]> = (0..paths.len()).map(|at| [at as u8 + 1; 16]).collect();
    under_each_engine(|| {
        for (dialect, count) in DIALECTS
            .into_iter()
            .flat_map(|dialect| COUNTS.map(|count| (dialect, count)))
        {
            let requests = routes.iter().zip(&ids).take(count);
            let requests: Vec<_> = requests.map(|(route, id)| SurbRequest { route, id }).collect();
            let mut one_by_one = rng(12);
            let expected: Vec<_> = requests
                .iter()
                .map(|request| build_surb(dialect, &mut one_by_one, request.route, request.id).unwrap())
                .collect();
            let mut made: Vec<(Surb, SurbKeys)> = vec![];
            build_surbs(dialect, &mut rng(12), &requests, &mut made).unwrap();
            assert_eq!(made.len(), count);
            for (at, ((surb, keys), (expected, _))) in made.into_iter().zip(&expected).enumerate() {
                assert_eq!(surb_bytes(&surb), surb_bytes(expected));
                if at % 7 != 0 {
                    continue;
                }
                let mut reply = Packet::zeroed();
                use_surb(dialect, surb, &[7; 3968], &mut reply);
                for secret in &paths[at].0.secrets {
                    Peeler::new(SecretKey::from_bytes(*secret), dialect)
                        .peel(&mut reply, &mut fresh)
                        .unwrap();
                }
                recover(dialect, keys, reply.payload_mut()).unwrap();
                assert_eq!(*reply.message(), [7; 3968]);
            }
        }
    });
}

#[test]
fn one_impossible_route_stops_a_batch_before_it_begins() {
    let mut rng = rng(13);
    let path = Path::random(&mut rng, 3);
    let route = path.hops();
    let mut late: Vec<Hop<'_>> = path.hops();
    late[2].delay_ms = 1;
    let cases: [(&[Hop<'_>], BuildError); 2] = [
        (&route[..2], BuildError::Hops(2)),
        (&late, BuildError::LastDelay(1)),
    ];
    for (bad, error) in cases {
        let (before, mut packets) = (messages(9), messages(9));
        let mut outgoing: Vec<_> = packets
            .iter_mut()
            .map(|packet| Outgoing {
                route: &route,
                destination: &ZERO_ADDRESS,
                packet,
            })
            .collect();
        outgoing[8].route = bad;
        assert_eq!(build_batch(Dialect::Lioness, &mut rng, &mut outgoing), Err(error));
        assert!(packets == before);

        let mut requests = vec![
            SurbRequest {
                route: &route,
                id: &[1; 16]
            };
            9
        ];
        requests[8].route = bad;
        let mut made = vec![];
        assert_eq!(
            build_surbs(Dialect::Lioness, &mut rng, &requests, &mut made),
            Err(error)
        );
        requests[8] = SurbRequest {
            route: &route,
            id: &[0; 16],
        };
        let zero = build_surbs(Dialect::Lioness, &mut rng, &requests, &mut made);
        assert_eq!(zero, Err(BuildError::ZeroId));
        assert!(made.is_empty());
    }
}

#[test]
fn what_was_prepared_becomes_the_same_packets() {
    let paths = paths(2 * BUILD_BATCH + 6);
    let routes: Vec<_> = paths.iter().map(|(path, _)| path.hops()).collect();
    under_each_engine(|| {
        for (dialect, count) in DIALECTS
            .into_iter()
            .flat_map(|dialect| COUNTS.map(|count| (dialect, count)))
        {
            let (mut built, mut sealed) = (messages(count), messages(count));
            let mut one_by_one = rng(15);
            for ((packet, route), (_, destination)) in built.iter_mut().zip(&routes).zip(&paths) {
                build_in_place(dialect, &mut one_by_one, route, destination, packet).unwrap();
            }
            let ways: Vec<&[Hop<'_>]> = routes[..count].iter().map(Vec::as_slice).collect();
            let mut prepared = vec![];
            prepare(dialect, &mut rng(15), &ways, &mut prepared).unwrap();
            assert_eq!(prepared.len(), count);
            for (((prepared, packet), route), (_, destination)) in
                prepared.into_iter().zip(&mut sealed).zip(&routes).zip(&paths)
            {
                let delay_ms: u32 = route.iter().map(|hop| u32::from(hop.delay_ms)).sum();
                assert_eq!(prepared.delay_ms(), delay_ms);
                prepared.seal(destination, packet);
            }
            assert!(sealed == built, "{count} packets, {dialect:?}");
        }
    });
}

#[test]
fn what_was_prepared_becomes_surbs_that_bring_replies() {
    let paths = paths(9);
    let routes: Vec<_> = paths.iter().map(|(path, _)| path.hops()).collect();
    let ways: Vec<&[Hop<'_>]> = routes.iter().map(Vec::as_slice).collect();
    under_each_engine(|| {
        for dialect in DIALECTS {
            let mut prepared = vec![];
            prepare(dialect, &mut rng(16), &ways[..1], &mut prepared).unwrap();
            let mut same = rng(16);
            let (expected, _) = build_surb(dialect, &mut same, &routes[0], &[3; 16]).unwrap();
            let mut draws = rng(16);
            let _: [u8; 32] = random(&mut draws);
            let (surb, _) = prepared.remove(0).into_surb(&mut draws, &[3; 16]).unwrap();
            assert_eq!(surb_bytes(&surb), surb_bytes(&expected));

            prepare(dialect, &mut rng(17), &ways, &mut prepared).unwrap();
            for (prepared, (path, _)) in prepared.into_iter().zip(&paths) {
                let (surb, keys) = prepared.into_surb(&mut rng(18), &[4; 16]).unwrap();
                let mut reply = Packet::zeroed();
                use_surb(dialect, surb, &[7; 3968], &mut reply);
                let mut last = None;
                for secret in &path.secrets {
                    let peeler = Peeler::new(SecretKey::from_bytes(*secret), dialect);
                    last = Some(peeler.peel(&mut reply, &mut fresh).unwrap());
                }
                assert_eq!(last, Some(Peeled::Reply { id: [4; 16] }));
                recover(dialect, keys, reply.payload_mut()).unwrap();
                assert_eq!(*reply.message(), [7; 3968]);
            }
        }
    });
}

#[test]
fn one_impossible_route_prepares_nothing_and_no_surb_has_id_zero() {
    let mut rng = rng(19);
    let path = Path::random(&mut rng, 3);
    let route = path.hops();
    let mut prepared = vec![];
    assert_eq!(
        prepare(
            Dialect::Lioness,
            &mut rng,
            &[&route, &route[..2], &route],
            &mut prepared
        ),
        Err(BuildError::Hops(2))
    );
    assert!(prepared.is_empty());
    prepare(Dialect::Lioness, &mut rng, &[&route], &mut prepared).unwrap();
    assert_eq!(format!("{prepared:?}"), "[Prepared(..)]");
    let surb = prepared.remove(0).into_surb(&mut rng, &[0; 16]);
    assert_eq!(surb.unwrap_err(), BuildError::ZeroId);
}

#[test]
fn debug_shows_no_route_and_no_id() {
    let mut rng = rng(14);
    let path = Path::random(&mut rng, 3);
    let request = SurbRequest {
        route: &path.hops(),
        id: &[9; 16],
    };
    assert_eq!(format!("{request:?}"), "SurbRequest(..)");
    let packet = &mut copy(&Packet::zeroed());
    let outgoing = Outgoing {
        route: &path.hops(),
        destination: &ZERO_ADDRESS,
        packet,
    };
    assert_eq!(format!("{outgoing:?}"), "Outgoing(..)");
}
