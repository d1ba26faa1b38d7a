//! Vectors of our own, for what the Nim code has none: five hops with zero delays on the way, replies with them, last
//! hops without a role, in both dialects. `tests/reference` is a second, slow implementation; both must agree with
//! the file and so with each other.
//!
//! The file holds hashes of packets. `cargo test --test own_vectors -- --ignored` writes it again, from the reference.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;
mod reference;

use common::{Path, array, bytes, copy, list, number, peel, rng, sha256, text, to_hex, vectors};
use mizzle_sphinx::{
    Dialect, Packet, Peeled, Peeler, Rejected, SURB_LEN, SecretKey, build_surb_with_secret,
    build_with_secret, engines, pad, recover, use_surb,
};
use rand_chacha::rand_core::Rng;
use serde_json::{Value, json};

const FILE: &str = "own.json";

/// What stands in the file, read.
struct Case {
    name: String,
    dialect: Dialect,
    path: Path,
    ephemeral: [u8; 32],
    /// What the last hop decrypts: destination, delay, id.
    last_block: [u8; 112],
    /// None for a forward packet.
    reply_key: Option<[u8; 16]>,
    message: [u8; 3968],
    /// Hashes of the packet as it reaches each hop, then of the last payload.
    packets: Vec<[u8; 32]>,
    tags: Vec<[u8; 32]>,
    end: String,
}

fn read(value: &Value) -> Case {
    let dialect = match text(&value["dialect"]) {
        "lioness" => Dialect::Lioness,
        "legacy" => Dialect::LegacyCtr,
        dialect => panic!("{dialect}"),
    };
    let mut message = [0; 3968];
    pad(dialect, &bytes(&value["body"]), &mut message).unwrap();
    Case {
        name: text(&value["name"]).into(),
        dialect,
        path: Path::new(
            list(&value["secrets"]).iter().map(array).collect(),
            list(&value["addresses"]).iter().map(array).collect(),
            list(&value["delays_ms"]).iter().map(number).collect(),
        ),
        ephemeral: array(&value["ephemeral"]),
        last_block: array(&value["last_block"]),
        reply_key: value.get("reply_key").map(array),
        message,
        packets: list(&value["packets_sha256"]).iter().map(array).collect(),
        tags: list(&value["tags"]).iter().map(array).collect(),
        end: text(&value["end"]).into(),
    }
}

/// The packet of a case, its hashes and tags along the route, all from the reference.
fn by_reference(case: &Case) -> (Vec<u8>, Vec<[u8; 32]>, Vec<[u8; 32]>) {
    let hops = case.path.hops().into_iter().map(|hop| reference::Hop {
        public: *hop.key.as_bytes(),
        address: hop.address.to_vec(),
        delay_ms: hop.delay_ms,
    });
    let route: Vec<_> = hops.collect();
    let first = match &case.reply_key {
        None => reference::packet(
            case.dialect,
            &case.ephemeral,
            &route,
            &case.last_block,
            &case.message,
        ),
        Some(key) => {
            let header = reference::header(&case.ephemeral, &route, &case.last_block);
            reference::reply(case.dialect, &header, key, &case.message)
        }
    };
    let (mut at_hop, mut packets, mut tags) = (first.clone(), vec![], vec![]);
    for secret in &case.path.secrets {
        packets.push(sha256(&at_hop));
        let (_, next, tag) = reference::hop(case.dialect, secret, &at_hop);
        tags.push(tag);
        at_hop = next;
    }
    packets.push(sha256(&at_hop[624..]));
    (first, packets, tags)
}

fn cases() -> Vec<Case> {
    let cases: Vec<_> = list(&vectors(FILE)["cases"]).iter().map(read).collect();
    assert_eq!(cases.len(), 9);
    cases
}

#[test]
fn the_reference_agrees_with_the_file() {
    for case in cases() {
        let (_, packets, tags) = by_reference(&case);
        assert_eq!((packets, tags), (case.packets, case.tags), "{}", case.name);
    }
}

#[test]
fn the_reference_agrees_with_the_nim_implementation() {
    for (file, dialect) in [
        ("sphinx-L3-legacy-aesctr.json", Dialect::LegacyCtr),
        ("sphinx-L5-nonstandard.json", Dialect::Lioness),
    ] {
        for case in list(&vectors(file)["cases"]) {
            let hops = list(&case["path"])
                .iter()
                .zip(list(&case["hop_bytes"]))
                .zip(list(&case["delays"]));
            let hops = hops.map(|((node, address), delay)| reference::Hop {
                public: array(&node["mix_public_key"]),
                address: bytes(address),
                delay_ms: number(delay),
            });
            let destination = case["destination"].get("hop_bytes_94").map_or(vec![0; 94], bytes);
            let last_block = [destination, vec![0; 18]].concat();
            let (x, message) = (array(&case["ephemeral_secret"]), bytes(&case["message_3968"]));
            let built = reference::packet(dialect, &x, &hops.collect::<Vec<_>>(), &last_block, &message);
            assert_eq!(built, bytes(&case["packet_full"]));
        }
    }
}

/// As many of the same at once as fill the vectors of every engine, and a few more.
const LANES: usize = 19;

#[test]
fn packets_and_surbs_are_built_as_the_file_says() {
    for case in cases().iter().filter(|case| case.end != "role") {
        let route = case.path.hops();
        let mut out = Packet::zeroed();
        match case.reply_key {
            None => {
                let destination = case.last_block[..94].try_into().unwrap();
                let (dialect, x) = (case.dialect, case.ephemeral);
                build_with_secret(dialect, x, &route, &destination, &case.message, &mut out).unwrap();
            }
            Some(key) => {
                let id = case.last_block[96..].try_into().unwrap();
                let (surb, _) =
                    build_surb_with_secret(case.dialect, case.ephemeral, key, &route, &id).unwrap();
                let mut surb_bytes = [0; SURB_LEN];
                surb.to_bytes(&mut surb_bytes);
                use_surb(case.dialect, surb, &case.message, &mut out);
                assert_eq!((&out.as_bytes()[..624], &key[..]), surb_bytes.split_at(624));
            }
        }
        assert_eq!(sha256(out.as_bytes()), case.packets[0], "{}", case.name);
    }
}

#[test]
fn every_hop_peels_as_the_file_says() {
    for (case, engine) in cases()
        .iter()
        .flat_map(|case| engines().map(move |engine| (case, engine)))
    {
        let mut at_hop = Packet::try_from_slice(&by_reference(case).0).unwrap();
        let last = case.path.secrets.len() - 1;
        for (hop, secret) in case.path.secrets.iter().enumerate() {
            assert_eq!(sha256(at_hop.as_bytes()), case.packets[hop]);
            let peeler = Peeler::with_engine(SecretKey::from_bytes(*secret), case.dialect, engine);
            let (mut batch, mut results) = (vec![], vec![]);
            batch.resize_with(LANES, || copy(&at_hop));
            peeler.peel_batch(&mut batch, &mut common::each(common::fresh), &mut results);
            let (result, tag) = peel(&peeler, &mut at_hop);
            assert_eq!(tag, Some(case.tags[hop]), "{}", case.name);
            assert_eq!(results, [result; LANES]);
            assert!(batch.iter().all(|packet| *packet == at_hop));
            let destination = case.last_block[..94].try_into().unwrap();
            let id = case.last_block[96..].try_into().unwrap();
            let expected = match case.end.as_str() {
                _ if hop < last => Ok(Peeled::Forward {
                    next: case.path.addresses[hop + 1],
                    delay_ms: case.path.delays[hop],
                }),
                "exit" => Ok(Peeled::Exit { destination }),
                "reply" => Ok(Peeled::Reply { id }),
                "role" => Err(Rejected::Role),
                end => panic!("{end}"),
            };
            assert_eq!(result, expected, "{} hop {hop}", case.name);
        }
        if case.end == "role" {
            assert_eq!(*at_hop.as_bytes(), common::ZERO_PACKET);
            continue;
        }
        assert_eq!(sha256(at_hop.payload()), case.packets[last + 1]);
        if let Some(key) = case.reply_key {
            let id = case.last_block[96..].try_into().unwrap();
            let made = build_surb_with_secret(case.dialect, case.ephemeral, key, &case.path.hops(), &id);
            recover(case.dialect, made.unwrap().1, at_hop.payload_mut()).unwrap();
        }
        assert_eq!(*at_hop.message(), case.message);
    }
}

#[test]
fn changed_packets_are_refused_as_the_file_says() {
    let cases = cases();
    let negative = vectors(FILE)["negative"].clone();
    assert_eq!(list(&negative).len(), 12);
    for change in list(&negative) {
        let case = cases
            .iter()
            .find(|case| case.name == text(&change["case"]))
            .unwrap();
        let mut at_hop = Packet::try_from_slice(&by_reference(case).0).unwrap();
        let (refused_at, hop_changed) = (number(&change["refused_at"]), number(&change["changed_before"]));
        for (hop, secret) in (0..).zip(&case.path.secrets) {
            if hop == hop_changed {
                let at = usize::from(number(&change["offset"]));
                for (byte, change) in at_hop.as_bytes_mut()[at..].iter_mut().zip(bytes(&change["xor"])) {
                    *byte ^= change;
                }
            }
            let before = copy(&at_hop);
            let (result, tag) = peel(
                &Peeler::new(SecretKey::from_bytes(*secret), case.dialect),
                &mut at_hop,
            );
            if hop < refused_at {
                assert!(matches!(result, Ok(Peeled::Forward { .. })), "{change}");
                continue;
            }
            let reason = result.unwrap_err();
            assert_eq!(reason.as_str(), text(&change["reason"]), "{change}");
            let is_told = reason == Rejected::Payload
                || (reason == Rejected::Mac && case.dialect == Dialect::LegacyCtr);
            assert_eq!(tag.is_some(), is_told, "{change}");
            let left = if reason == Rejected::Payload {
                Packet::zeroed()
            } else {
                before
            };
            assert_eq!(at_hop, left, "{change}");
            break;
        }
    }
}

#[test]
#[ignore = "writes the file that the other tests read"]
fn write_the_file() {
    let mut rng = rng(183);
    let mut cases = vec![];
    let kinds: [(&str, Dialect, &[u16], &str); 9] = [
        (
            "five hops, no delay at all",
            Dialect::Lioness,
            &[0, 0, 0, 0, 0],
            "exit",
        ),
        (
            "five hops, some without delay",
            Dialect::Lioness,
            &[0, 65535, 0, 1, 0],
            "exit",
        ),
        (
            "four hops, no delay at all",
            Dialect::Lioness,
            &[0, 0, 0, 0],
            "exit",
        ),
        (
            "a reply over five hops, some without delay",
            Dialect::Lioness,
            &[0, 5, 0, 256, 0],
            "reply",
        ),
        (
            "a reply over three hops, no delay at all",
            Dialect::Lioness,
            &[0, 0, 0],
            "reply",
        ),
        (
            "a last hop with both an address and an id",
            Dialect::Lioness,
            &[7, 0, 7, 0, 0],
            "role",
        ),
        (
            "legacy, five hops, no delay at all",
            Dialect::LegacyCtr,
            &[0, 0, 0, 0, 0],
            "exit",
        ),
        (
            "legacy, a reply over five hops, no delay at all",
            Dialect::LegacyCtr,
            &[0, 0, 0, 0, 0],
            "reply",
        ),
        (
            "legacy, a last hop with both an address and an id",
            Dialect::LegacyCtr,
            &[0, 0, 0],
            "role",
        ),
    ];
    for (name, dialect, delays, end) in kinds {
        let mut hex = |len: usize| {
            let mut bytes = vec![0; len];
            rng.fill_bytes(&mut bytes);
            to_hex(&bytes)
        };
        let secrets: Vec<_> = delays.iter().map(|_| hex(32)).collect();
        let addresses: Vec<_> = delays.iter().map(|_| hex(94)).collect();
        let address = if end == "reply" { "00".repeat(94) } else { hex(94) };
        let id = if end == "exit" { "00".repeat(16) } else { hex(16) };
        let mut case = json!({
            "name": name,
            "dialect": if dialect == Dialect::Lioness { "lioness" } else { "legacy" },
            "secrets": secrets,
            "addresses": addresses,
            "delays_ms": delays,
            "ephemeral": hex(32),
            "last_block": address + "0000" + &id,
            "body": hex(40),
            "packets_sha256": [],
            "tags": [],
            "end": end,
        });
        if end == "reply" {
            case["reply_key"] = hex(16).into();
        }
        let (_, packets, tags) = by_reference(&read(&case));
        case["packets_sha256"] = packets.iter().map(|hash| to_hex(hash)).collect();
        case["tags"] = tags.iter().map(|tag| to_hex(tag)).collect();
        cases.push(case);
    }

    let (first, legacy) = (kinds[0].0, kinds[6].0);
    let alpha = |case: usize, to: [u8; 32]| {
        let (packet, ..) = by_reference(&read(&cases[case]));
        to_hex(&packet.iter().zip(to).map(|(a, b)| a ^ b).collect::<Vec<_>>())
    };
    let mut p = [0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let mut one = [0; 32];
    one[0] = 1;
    let negative: [(&str, u16, u16, &str, u16, &str); 12] = [
        (first, 0, 0, "01", 0, "mac"),
        (first, 2, 0, "80", 2, "mac"),
        (first, 0, 31, "80", 0, "alpha"),
        (first, 0, 0, &alpha(0, [0; 32]), 0, "alpha"),
        (first, 0, 0, &alpha(0, one), 0, "alpha"),
        (first, 0, 0, &alpha(0, p), 0, "alpha"),
        (first, 3, 32, "01", 3, "mac"),
        (first, 4, 607, "01", 4, "mac"),
        (first, 1, 608, "10", 1, "mac"),
        (first, 1, 4607, "01", 4, "payload"),
        (legacy, 1, 624, "01", 4, "payload"),
        (legacy, 4, 623, "01", 4, "mac"),
    ];
    let negative = negative.map(|(case, before, offset, xor, refused_at, reason)| {
        json!({ "case": case, "changed_before": before, "offset": offset, "xor": xor, "refused_at": refused_at, "reason": reason })
    });
    let file = json!({
        "description": "Made by the slow reference in tests/reference, checked against it and the crate by tests/own_vectors.rs. `packets_sha256` are the packets as they reach each hop, then the payload after the last. Hops are counted from 0.",
        "cases": cases,
        "negative": negative,
    });
    let path = format!("{}/tests/vectors/{FILE}", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(path, serde_json::to_string_pretty(&file).unwrap() + "\n").unwrap();
}
