//! The vectors made by the Nim implementation hold to the last byte: building, every hop, replies, refusals.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use common::{
    Repeat, ZERO_ADDRESS, array, bytes, copy, each, fresh, from_hex, list, number, packet, peel, sha256,
    text, vectors,
};
use mizzle_sphinx::{
    Dialect, Hop, MESSAGE_LEN, Outgoing, Packet, Peeled, Peeler, PublicKey, Rejected, SURB_WITH_ADDRESS_LEN,
    SecretKey, Surb, SurbRequest, WrongLength, build_batch, build_surb_with_secret, build_surbs,
    build_with_secret, engines, pad, pad_in_place, pad_legacy, recover, unpad, use_surb, use_surb_in_place,
};
use serde_json::Value;

const FILES: [(&str, Dialect, usize, usize); 4] = [
    ("sphinx-L3.json", Dialect::Lioness, 3, 9),
    ("sphinx-L4-nonstandard.json", Dialect::Lioness, 4, 7),
    ("sphinx-L5-nonstandard.json", Dialect::Lioness, 5, 7),
    ("sphinx-L3-legacy-aesctr.json", Dialect::LegacyCtr, 3, 7),
];

/// As many of the same at once as fill the vectors of every engine, and a few more.
const LANES: usize = 19;

/// Every case of every file, under every engine.
fn each_case(mut check: impl FnMut(Dialect, &Value)) {
    common::under_each_engine(|| each_case_once(&mut check));
}

fn each_case_once(mut check: impl FnMut(Dialect, &Value)) {
    for (file, dialect, hops, cases) in FILES {
        let file = vectors(file);
        assert_eq!(list(&file["cases"]).len(), cases);
        for case in list(&file["cases"]) {
            assert_eq!(list(&case["path"]).len(), hops);
            check(dialect, case);
        }
    }
}

/// Runs `check` with the route of a case or of a SURB.
fn with_route(case: &Value, check: impl FnOnce(&[Hop<'_>])) {
    let keys: Vec<_> = list(&case["path"])
        .iter()
        .map(|node| {
            let key = PublicKey::from_bytes(&array(&node["mix_public_key"])).unwrap();
            assert_eq!(
                SecretKey::from_bytes(array(&node["mix_private_key"])).public(),
                key
            );
            key
        })
        .collect();
    let addresses: Vec<_> = match case.get("hop_bytes") {
        Some(hops) => list(hops).iter().map(array).collect(),
        None => list(&case["path"])
            .iter()
            .map(|node| array(&node["hop_bytes_94"]))
            .collect(),
    };
    let delays = list(&case["delays"]).iter().map(number);
    let route = keys.iter().zip(&addresses).zip(delays);
    let route: Vec<_> = route
        .map(|((key, address), delay_ms)| Hop {
            key,
            address,
            delay_ms,
        })
        .collect();
    check(&route);
}

fn peelers(dialect: Dialect, node: &Value) -> impl Iterator<Item = Peeler> {
    let secret = array(&node["mix_private_key"]);
    engines().map(move |engine| Peeler::with_engine(SecretKey::from_bytes(secret), dialect, engine))
}

/// Takes a packet along a path and compares it at every hop, with every engine; returns it as the last hop has it.
fn walk(dialect: Dialect, case: &Value, mut at_hop: Packet) -> Packet {
    let hops = list(&case["hops"]);
    assert_eq!(hops.len(), list(&case["path"]).len());
    for (node, hop) in list(&case["path"]).iter().zip(hops) {
        assert_eq!(sha256(at_hop.as_bytes()).to_vec(), bytes(&hop["input_sha256"]));
        let s = bytes(&hop["shared_secret"]);
        if dialect == Dialect::Lioness {
            assert_eq!(sha256(&s).to_vec(), bytes(&hop["replay_tag"]));
        }
        let mut outputs = peelers(dialect, node).map(|peeler| {
            let mut out = copy(&at_hop);
            let (result, tag) = peel(&peeler, &mut out);
            assert_eq!(tag.unwrap().to_vec(), bytes(&hop["replay_tag"]));
            let expected = match text(&hop["status"]) {
                "Intermediate" => {
                    let parts = ["alpha", "beta", "gamma", "delta"];
                    let output = parts.map(|part| bytes(&hop["output_packet"][part])).concat();
                    assert_eq!(out.as_bytes().as_slice(), output);
                    Peeled::Forward {
                        next: array(&hop["next_hop_bytes_94"]),
                        delay_ms: number(&hop["delay_ms"]),
                    }
                }
                "Exit" => {
                    assert_eq!(out.message().as_slice(), bytes(&hop["message_3968"]));
                    // No bytes at all stand for the exit itself.
                    let itself = bytes(&hop["destination_bytes"]).is_empty();
                    let destination = if itself {
                        ZERO_ADDRESS
                    } else {
                        array(&hop["destination_bytes"])
                    };
                    Peeled::Exit { destination }
                }
                "Reply" => {
                    assert_eq!(out.payload().as_slice(), bytes(&hop["delta_prime"]));
                    Peeled::Reply {
                        id: array(&hop["surb_id"]),
                    }
                }
                status => panic!("{status}"),
            };
            assert_eq!(result, Ok(expected));

            let (mut batch, mut results) = (vec![], vec![]);
            batch.resize_with(LANES, || copy(&at_hop));
            peeler.peel_batch(&mut batch, &mut each(fresh), &mut results);
            assert_eq!(results, [Ok(expected); LANES]);
            assert!(batch.iter().all(|packet| *packet == out));
            out
        });
        let first = outputs.next().unwrap();
        assert!(outputs.all(|out| out == first));
        drop(outputs);
        at_hop = first;
    }
    at_hop
}

#[test]
fn packets_are_built_to_the_byte() {
    each_case(|dialect, case| {
        with_route(case, |route| {
            let destination = case["destination"]
                .get("hop_bytes_94")
                .map_or(ZERO_ADDRESS, array);
            let (secret, message) = (array(&case["ephemeral_secret"]), array(&case["message_3968"]));
            let mut out = Packet::zeroed();
            build_with_secret(dialect, secret, route, &destination, &message, &mut out).unwrap();
            assert_eq!(out, packet(&case["packet_full"]), "{}", case["name"]);

            let mut batch: Vec<_> = (0..LANES).map(|_| Packet::zeroed()).collect();
            let mut outgoing: Vec<_> = batch
                .iter_mut()
                .map(|packet| {
                    *packet.message_mut() = message;
                    Outgoing {
                        route,
                        destination: &destination,
                        packet,
                    }
                })
                .collect();
            build_batch(dialect, &mut Repeat::new(secret.to_vec()), &mut outgoing).unwrap();
            assert!(batch.iter().all(|packet| *packet == out), "{}", case["name"]);
        });
    });
}

#[test]
fn every_hop_peels_to_the_byte() {
    each_case(|dialect, case| {
        let at_exit = walk(dialect, case, packet(&case["packet_full"]));
        assert_eq!(
            unpad(dialect, at_exit.message()).unwrap(),
            bytes(&case["exit"]["unpadded"])
        );
    });
}

#[test]
fn messages_are_padded_to_the_byte() {
    each_case(|dialect, case| {
        let surbs = list(&case["surbs"]).iter();
        let replies = surbs.map(|surb| (&surb["reply_mixmessage"], &surb["reply_message_3968"]));
        for (body, message) in replies.chain([(&case["mixmessage"], &case["message_3968"])]) {
            let (body, message) = (bytes(body), array::<MESSAGE_LEN>(message));
            let mut out = [0xff; MESSAGE_LEN];
            match dialect {
                Dialect::Lioness => {
                    pad(dialect, &body, &mut out).unwrap();
                    assert_eq!(out, message);
                    out.fill(0xff);
                    pad_in_place(body.len(), &mut out).copy_from_slice(&body);
                }
                Dialect::LegacyCtr => {
                    let seq_no = u32::from_be_bytes(message[MESSAGE_LEN - 4..].try_into().unwrap());
                    pad_legacy(&body, seq_no, &mut out).unwrap();
                }
            }
            assert_eq!(out, message);
            assert_eq!(unpad(dialect, &message).unwrap(), body);
        }
    });
}

#[test]
fn surbs_are_made_used_peeled_and_recovered_to_the_byte() {
    let mut count = 0;
    each_case(|dialect, case| {
        for surb in list(&case["surbs"]) {
            count += 1;
            let serialized = array::<SURB_WITH_ADDRESS_LEN>(&surb["serialized_surb_734"]);
            let (mut made, mut keys_of_batch) = (None, None);
            with_route(surb, |route| {
                let (secret, key) = (array(&surb["ephemeral_secret"]), array(&surb["reply_key"]));
                let (surb_made, keys) =
                    build_surb_with_secret(dialect, secret, key, route, &array(&surb["surb_id"])).unwrap();
                let mut out = [0; SURB_WITH_ADDRESS_LEN];
                surb_made.to_bytes_with_address(route[0].address, &mut out);
                assert_eq!(out, serialized);

                let (mut draws, mut batch) = (Repeat::new([&secret[..], &key].concat()), vec![]);
                let id = array(&surb["surb_id"]);
                let requests = [SurbRequest { route, id: &id }; LANES];
                build_surbs(dialect, &mut draws, &requests, &mut batch).unwrap();
                assert_eq!(batch.len(), LANES);
                for (surb, _) in &batch {
                    surb.to_bytes_with_address(route[0].address, &mut out);
                    assert_eq!(out, serialized);
                }
                keys_of_batch = batch.pop();
                made = Some((surb_made, keys));
            });
            let (surb_made, keys) = made.unwrap();

            let message = array(&surb["reply_message_3968"]);
            let mut reply = Packet::zeroed();
            use_surb(dialect, surb_made, &message, &mut reply);
            assert_eq!(reply, packet(&surb["reply_packet_full"]));

            let (address, read) = Surb::from_bytes_with_address(&serialized);
            assert_eq!(address.to_vec(), bytes(&surb["first_hop_bytes_94"]));
            let mut reply_in_place = Packet::zeroed();
            *reply_in_place.message_mut() = message;
            use_surb_in_place(dialect, read, &mut reply_in_place);
            assert_eq!(reply_in_place, reply);

            let mut arrived = walk(dialect, surb, reply);
            let mut again = copy(&arrived);
            recover(dialect, keys_of_batch.unwrap().1, again.payload_mut()).unwrap();
            recover(dialect, keys, arrived.payload_mut()).unwrap();
            assert_eq!(
                arrived.message().as_slice(),
                bytes(&surb["recovered_message_3968"])
            );
            assert_eq!(again, arrived);
            assert_eq!(
                unpad(dialect, arrived.message()).unwrap(),
                bytes(&surb["reply_mixmessage"])
            );
        }
    });
    assert_eq!(count, 20 * engines().count());
}

#[test]
fn what_the_nim_implementation_refuses_is_refused() {
    let file = vectors("sphinx-L3.json");
    let cases = list(&file["negative"]);
    assert_eq!(cases.len(), 16);
    for case in cases {
        let (name, outcome) = (text(&case["name"]), text(&case["outcome"]));
        let received = from_hex(text(&case["packet"]));
        let received = match Packet::try_from_slice(&received) {
            Ok(received) => received,
            Err(WrongLength(len)) => {
                assert!(
                    len == received.len() && outcome.starts_with("deserialize error"),
                    "{name}"
                );
                continue;
            }
        };
        let Some(_) = case.get("mix_private_key") else {
            // Along the path of the first case: the last hop notices.
            assert!(outcome.starts_with("hop 2 error: payload integrity"), "{name}");
            let mut received = received;
            for (at, node) in list(&file["cases"][0]["path"]).iter().enumerate() {
                let peeler = peelers(Dialect::Lioness, node).next().unwrap();
                match peeler.peel(&mut received, &mut fresh) {
                    Ok(Peeled::Forward { .. }) => assert!(at < 2, "{name}"),
                    result => assert_eq!((at, result), (2, Err(Rejected::Payload)), "{name}"),
                }
            }
            continue;
        };
        for peeler in peelers(Dialect::Lioness, case) {
            let mut peeled = copy(&received);
            let (result, tag) = peel(&peeler, &mut peeled);
            match outcome {
                "status: Intermediate" => assert!(matches!(result, Ok(Peeled::Forward { .. })), "{name}"),
                "status: InvalidMAC" => assert_eq!((result, tag), (Err(Rejected::Mac), None), "{name}"),
                _ => {
                    assert!(outcome.starts_with("error: Invalid alpha"), "{name}: {outcome}");
                    assert_eq!((result, tag), (Err(Rejected::Alpha), None), "{name}");
                }
            }
            assert_eq!(result.is_err(), peeled == received, "{name}");
        }
    }
}
