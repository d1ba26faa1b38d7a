//! Tests of the document: what is signed and read back, what hostile bytes and impossible numbers are refused for, and epochs.

use core::time::Duration;

use super::*;
use mizzle_sphinx::SecretKey;

fn content() -> Content {
    let node = |n: u8, role, layer| NodeEntry {
        id: hex::encode(&[n; 32]),
        role,
        layer,
        peer: "peer".into(),
        addresses: alloc::vec!["/ip4/127.0.0.1/udp/1/quic-v1".into()],
        sphinx_key: hex::encode(SecretKey::from_bytes([n; 32]).public().as_bytes()),
        weight: 1.0,
        operator: String::new(),
        exit: None,
        mail: None,
    };
    Content {
        network: "test".into(),
        sequence: 7,
        epoch: 1,
        valid_from_s: 10_000,
        valid_until_s: 20_000,
        profile: Profile::browse(),
        nodes: alloc::vec![
            node(1, Role::Mix, 1),
            node(2, Role::Mix, 2),
            node(3, Role::Mix, 3),
            node(4, Role::Gateway, 0)
        ],
    }
}

fn service(n: u8) -> ServiceEntry {
    ServiceEntry {
        mailbox: hex::encode(&[n; 16]),
        stream_key: hex::encode(SecretKey::from_bytes([n; 32]).public().as_bytes()),
    }
}

fn authority() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

fn verify(bytes: &[u8], now_s: u64, known: u64) -> Result<Document, DocumentError> {
    Document::verify(bytes, &authority().verifying_key(), Time::from_s(now_s), known)
}

#[test]
fn a_signed_document_is_read_and_kept_byte_for_byte() {
    let bytes = content().sign(&authority()).unwrap();
    let document = verify(&bytes, 15_000, 7).unwrap();
    assert_eq!(document.bytes(), bytes);
    assert_eq!(document.layer(2).len(), 1);
    assert_eq!(document.layer(4).len(), 0);
    let hops = |n: u8| {
        let node = document.node(&NodeId::new([n; 32])).unwrap();
        document
            .next_hops(node)
            .iter()
            .map(|n| n.id.as_bytes()[0])
            .collect::<Vec<_>>()
    };
    assert_eq!([hops(4), hops(1), hops(2), hops(3)], [[1], [2], [3], [4]]);
}

#[test]
fn unknown_fields_are_kept_and_signed() {
    let json = serde_json::to_string(&content())
        .unwrap()
        .replacen('{', "{\"later\":[1,2],", 1);
    let signature = authority().sign(&signed_bytes(json.as_bytes()));
    let key = hex::encode(authority().verifying_key().as_bytes());
    let text = format!("{MAGIC}\n{key}\n{}\n{json}", hex::encode(&signature.to_bytes()));
    let document = verify(text.as_bytes(), 15_000, 0).unwrap();
    assert!(core::str::from_utf8(document.bytes()).unwrap().contains("later"));
}

#[test]
fn any_changed_byte_is_noticed() {
    let bytes = content().sign(&authority()).unwrap();
    for at in (0..bytes.len()).step_by(7) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(verify(&bad, 15_000, 0).is_err(), "byte {at}");
    }
    for len in 0..bytes.len() {
        assert!(verify(&bytes[..len], 15_000, 0).is_err(), "length {len}");
    }
}

#[test]
fn times_sequence_and_signer_are_checked() {
    let bytes = content().sign(&authority()).unwrap();
    assert!(
        verify(&bytes, 20_299, 0).is_ok(),
        "within the tolerance for clocks"
    );
    assert_eq!(
        verify(&bytes, 20_300, 0).unwrap_err(),
        DocumentError::Expired { ago_s: 300 }
    );
    assert_eq!(
        verify(&bytes, 9_000, 0).unwrap_err(),
        DocumentError::NotYetValid { in_s: 1_000 }
    );
    assert_eq!(
        verify(&bytes, 15_000, 8).unwrap_err(),
        DocumentError::Superseded { found: 7, known: 8 }
    );
    let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
    let got = Document::verify(&bytes, &other, Time::from_s(15_000), 0);
    assert!(matches!(got, Err(DocumentError::OtherAuthority { .. })));
}

fn key_of(n: u8, epoch: u8) -> String {
    hex::encode(
        SecretKey::from_bytes([n.wrapping_mul(17) ^ epoch; 32])
            .public()
            .as_bytes(),
    )
}

fn unique_key(n: u32) -> String {
    let secret = [n.to_le_bytes(); 8].concat().try_into().unwrap();
    hex::encode(SecretKey::from_bytes(secret).public().as_bytes())
}

/// Four nodes, one with an exit, and keys of ten epochs of 1,000 s.
fn with_epochs() -> Content {
    let mut content = content();
    (content.epoch, content.sequence) = (5, 8);
    for (n, node) in content.nodes.iter_mut().enumerate() {
        node.sphinx_key = (0..10).map(|epoch| key_of(n as u8 + 1, epoch)).collect();
    }
    content.nodes[3].exit = Some(ServiceEntry {
        stream_key: (0..10).map(|epoch| key_of(9, epoch)).collect(),
        ..service(1)
    });
    content
}

#[test]
fn each_epoch_has_its_keys_and_two_are_alive_at_most() {
    let document = verify(&with_epochs().sign(&authority()).unwrap(), 12_500, 0).unwrap();
    let key = |document: &Document, n: u8| {
        let node = document.node(&NodeId::new([n; 32])).unwrap();
        let exit = node.exit.as_ref().map(|exit| hex::encode(&exit.stream_key));
        (hex::encode(node.sphinx_key.as_bytes()), exit)
    };
    assert_eq!((document.epoch(), key(&document, 1).0), (7, key_of(1, 2)));
    assert_eq!(document.turns_at(), Some(Time::from_s(13_000)));
    assert!(document.turned(Time::from_us(12_999_999_999)).is_none());
    let next = document.turned(Time::from_s(13_000)).unwrap();
    assert_eq!((next.epoch(), next.bytes()), (8, document.bytes()));
    assert_eq!(key(&next, 4), (key_of(4, 3), Some(key_of(9, 3))));
    let last = next.turned(Time::from_s(99_999)).unwrap();
    assert_eq!((last.epoch(), last.turns_at()), (14, None));
    assert_eq!(last.turned(Time::ZERO).unwrap().epoch(), 5);

    let epochs = document.epochs();
    let (grace, overlap) = (epochs.grace(), epochs.overlap());
    assert_eq!(
        grace,
        Duration::from_secs(125),
        "an eighth, as that is less than 5 min"
    );
    assert!(overlap > Profile::browse().surb_life() + grace);
    let us = Duration::from_micros(1);
    let (from, begin, end) = (Time::from_s(10_000), Time::from_s(11_000), Time::from_s(20_000));
    for (at, alive) in [
        (Time::ZERO, Some((5, None))),
        (begin - grace - us, Some((5, None))),
        (begin - grace, Some((5, Some(6)))),
        (begin - us, Some((5, Some(6)))),
        (begin, Some((6, Some(5)))),
        (begin + overlap - us, Some((6, Some(5)))),
        (begin + overlap, Some((6, None))),
        (end - grace, Some((14, None))),
        (end + overlap - us, Some((14, None))),
        (end + overlap, None),
        (Time::FAR_FUTURE, None),
    ] {
        assert_eq!(epochs.alive(at), alive, "{at}");
    }
    // Whoever asks at each change misses none.
    let (mut at, mut seen) = (from, alloc::vec![epochs.alive(from)]);
    while let Some(next) = epochs.next_change(at) {
        assert!(next > at && epochs.alive(next - us) == epochs.alive(at), "{at}");
        at = next;
        seen.push(epochs.alive(at));
    }
    assert_eq!((seen.len(), seen.last()), (1 + 3 * 9 + 1, Some(&None)));
}

#[test]
fn a_document_of_one_key_has_one_epoch() {
    let document = verify(&content().sign(&authority()).unwrap(), 15_000, 0).unwrap();
    assert_eq!((document.epochs().count(), document.turns_at()), (1, None));
    assert_eq!(document.epochs().alive(Time::from_s(19_000)), Some((1, None)));
}

#[test]
fn impossible_epochs_are_refused() {
    type Spoil = fn(&mut Content);
    let cases: [(&str, Spoil); 9] = [
        ("a key is missing", |c| c.nodes[2].sphinx_key.truncate(9 * 64)),
        ("one is cut off", |c| c.nodes[0].sphinx_key.truncate(10 * 64 - 1)),
        ("none at all", |c| {
            c.nodes.iter_mut().for_each(|n| n.sphinx_key.clear())
        }),
        ("one of the exit is missing", |c| {
            c.nodes[3].exit.as_mut().unwrap().stream_key.truncate(9 * 64);
        }),
        ("a later one is no key", |c| {
            c.nodes[1].sphinx_key.replace_range(9 * 64.., &"00".repeat(32))
        }),
        ("no hexadecimal digit, but a character of two bytes", |c| {
            c.nodes[1].sphinx_key.replace_range(63..65, "\u{e4}");
        }),
        ("epochs that aren't whole seconds", |c| c.valid_until_s += 1),
        ("epochs shorter than what a key lives beyond them", |c| {
            c.valid_until_s = c.valid_from_s + 100
        }),
        ("numbers beyond all", |c| c.epoch = u32::MAX - 5),
    ];
    for (what, spoil) in cases {
        let mut bad = with_epochs();
        spoil(&mut bad);
        assert!(
            matches!(bad.sign(&authority()), Err(DocumentError::Content(_))),
            "{what}"
        );
    }
    let mut huge = content();
    huge.valid_until_s = u64::MAX;
    huge.valid_from_s = 0;
    for node in &mut huge.nodes {
        node.sphinx_key = node.sphinx_key.repeat(MAX_EPOCHS + 1);
    }
    assert!(huge.sign(&authority()).is_err());
    let mut long = with_epochs();
    let gateway = long.nodes.pop();
    let mixes = core::mem::take(&mut long.nodes);
    let node = |n: u32| NodeEntry {
        id: hex::encode(&[n.to_le_bytes(); 8].concat()),
        sphinx_key: (0..10).map(|epoch| unique_key(n * 10 + epoch)).collect(),
        peer: "p".repeat(3_500),
        ..mixes[n as usize % 3].clone()
    };
    long.nodes = (1_000..2_100).map(node).chain(gateway).collect();
    assert_eq!(long.sign(&authority()), Err(DocumentError::TooLong));
    let mut repeated = with_epochs();
    repeated.nodes[0].sphinx_key = key_of(1, 0).repeat(10);
    assert!(repeated.sign(&authority()).is_err(), "the same key in two epochs");
}

#[test]
fn the_shortest_epoch_is_one_that_is_taken_and_one_second_less_is_not() {
    for profile in [Profile::chat(), Profile::browse(), Profile::bulk()] {
        let of = |s: u64| {
            let mut content = with_epochs();
            content.profile = profile.clone();
            content.valid_until_s = content.valid_from_s + 10 * s;
            content.sign(&authority())
        };
        let shortest = Epochs::shortest_s(&profile);
        assert!(of(shortest).is_ok(), "{} {shortest}", profile.name);
        assert!(of(shortest - 2).is_err(), "{} {shortest}", profile.name);
    }
}

#[test]
fn a_newer_document_continues_one_that_differs_in_keys_and_weights_alone() {
    let old = verify(&with_epochs().sign(&authority()).unwrap(), 15_000, 0).unwrap();
    let renewed = || {
        let mut content = with_epochs();
        content.sequence += 1;
        (content.valid_from_s, content.valid_until_s, content.epoch) = (14_000, 24_000, 9);
        for (n, node) in content.nodes.iter_mut().enumerate() {
            node.sphinx_key = (4..14).map(|epoch| key_of(n as u8 + 1, epoch)).collect();
        }
        content
    };
    let read = |content: Content| verify(&content.sign(&authority()).unwrap(), 15_000, 0).unwrap();
    let new = read(renewed());
    assert!(new.continues(&old) && !old.continues(&new) && !new.continues(&new));
    assert_eq!(
        new.node(&NodeId::new([2; 32])).unwrap().sphinx_key,
        old.nodes()[1].sphinx_key
    );
    type Change = fn(&mut Content);
    let weights: [(&str, Change); 2] = [
        ("of a gateway", |c| c.nodes[3].weight = 2.0),
        ("of a mix", |c| c.nodes[0].weight = 0.75),
    ];
    for (what, change) in weights {
        let mut other = renewed();
        change(&mut other);
        let other = read(other);
        assert!(other.continues(&old), "{what}");
        assert_eq!(other.list(), old.list());
    }
    let cases: [(&str, Change); 5] = [
        ("another node", |c| c.nodes[0].id = hex::encode(&[77; 32])),
        ("another address", |c| c.nodes[0].addresses.clear()),
        ("another order", |c| c.nodes.swap(0, 1)),
        ("another profile", |c| c.profile.mean_delay_ms += 1.0),
        ("epochs at another time", |c| {
            c.valid_from_s += 1;
            c.valid_until_s += 1;
        }),
    ];
    for (what, change) in cases {
        let mut other = renewed();
        change(&mut other);
        assert!(!read(other).continues(&old), "{what}");
    }
    assert_eq!(new.content().unwrap(), renewed());
}

#[test]
fn unsound_content_is_not_signed() {
    type Spoil = fn(&mut Content);
    let cases: [(&str, Spoil); 11] = [
        ("layer", |c| c.nodes[0].layer = 4),
        ("empty layer", |c| drop(c.nodes.remove(1))),
        ("no gateway", |c| drop(c.nodes.remove(3))),
        ("same id", |c| c.nodes[1].id = c.nodes[0].id.clone()),
        ("low-order key", |c| c.nodes[0].sphinx_key = "00".repeat(32)),
        ("weight", |c| c.nodes[3].weight = f64::NAN),
        ("a mix's weight", |c| c.nodes[0].weight = -1.0),
        ("a mix below half", |c| {
            c.nodes[0].weight = 1.0;
            let other = NodeEntry {
                id: "55".repeat(32),
                weight: 0.3,
                sphinx_key: hex::encode(SecretKey::from_bytes([55; 32]).public().as_bytes()),
                ..c.nodes[0].clone()
            };
            c.nodes.push(other);
        }),
        ("exit in a mix", |c| {
            c.nodes[0].exit = Some(service(1));
        }),
        ("two services in one mailbox", |c| {
            c.nodes[3].exit = Some(service(1));
            c.nodes[3].mail = Some(service(1));
        }),
        ("low-order stream key", |c| {
            c.nodes[3].mail = Some(ServiceEntry {
                stream_key: "00".repeat(32),
                ..service(1)
            });
        }),
    ];
    for (what, spoil) in cases {
        let mut bad = content();
        spoil(&mut bad);
        assert!(bad.sign(&authority()).is_err(), "{what}");
    }
}

/// What a signed document says of this JSON: an authority may sign anything.
fn refused(json: &str) -> String {
    refused_at(json, 15_000)
}

fn refused_at(json: &str, now_s: u64) -> String {
    let signature = authority().sign(&signed_bytes(json.as_bytes()));
    let key = hex::encode(authority().verifying_key().as_bytes());
    let text = format!("{MAGIC}\n{key}\n{}\n{json}", hex::encode(&signature.to_bytes()));
    match verify(text.as_bytes(), now_s, 0) {
        Ok(_) => String::from("it was taken"),
        Err(why) => why.to_string(),
    }
}

#[test]
fn what_cannot_be_is_refused_by_its_name_though_it_is_signed() {
    let sound = serde_json::to_string(&content()).unwrap();
    assert_eq!(refused(&sound), "it was taken");
    let mut cases = Vec::new();
    for (field, values) in [
        ("mean_delay_ms", "0 -1 -0.0 1e9 1e300"),
        ("payload_per_s", "0 -40 1e9 1e308"),
        ("loop_per_s", "0 -1 1e9"),
        ("drop_per_s", "0 -1 1e9"),
        ("reply_fraction", "0 1 -0.3 7"),
        ("downlink_per_s", "0 -1 1e9 20"),
        ("node_loop_per_s", "0 -1 1e9"),
        ("reply_due_mean_ms", "0 -1 1e9"),
    ] {
        cases.extend(values.split(' ').map(|value| (field, value, field)));
        // What JSON has no word for, and what is beyond all numbers.
        for (value, says) in [
            ("NaN", "can't be read"),
            ("null", "null"),
            ("1e999", "out of range"),
            ("\"1\"", "string"),
        ] {
            cases.push((field, value, says));
        }
    }
    cases.extend([
        ("layer", "0", "`layer`"),
        ("layer", "4", "`layer`"),
        ("layer", "256", "256"),
        ("layer", "-1", "-1"),
        // Layer 1 is empty then.
        ("layer", "2", "each of the three layers needs a mix"),
        ("weight", "-1", "`weight`"),
        ("weight", "1e9", "`weight`"),
        ("weight", "NaN", "can't be read"),
        ("network", "\"\"", "`network`"),
        ("sequence", "-7", "-7"),
        ("epoch", "4294967295", "numbers of its epochs"),
        ("epoch", "4294967296", "4294967296"),
        ("valid_until_s", "10000", "`valid_until_s`"),
        ("valid_until_s", "9999", "`valid_until_s`"),
        // A second, and a million years.
        ("valid_from_s", "19999", "its epochs of 1 s are too short"),
        ("valid_until_s", "31557600000000", "too long"),
        ("valid_until_s", "18446744073709551615", "too long"),
        ("sphinx_key", "\"\"", "the keys of 0 epochs"),
        ("nodes", "[]", "the keys of 0 epochs"),
    ]);
    for (field, value, says) in cases {
        // The first of that name: of the first node, a mix of layer 1.
        let name = format!("\"{field}\":");
        let at = sound.find(&name).unwrap() + name.len();
        let rest = &sound[at..];
        let end = match rest.as_bytes()[0] {
            b'[' => rest.rfind(']').unwrap() + 1,
            b'"' => rest[1..].find('"').unwrap() + 2,
            _ => rest.find([',', '}']).unwrap(),
        };
        let bad = format!("{}{value}{}", &sound[..at], &rest[end..]);
        let now_s = match field {
            "valid_from_s" => 19_999,
            "valid_until_s" => 10_000,
            _ => 15_000,
        };
        let why = refused_at(&bad, now_s);
        assert!(why.contains(says), "{field} = {value}: {why}");
    }
    // Two mixes of a layer, one with next to nothing; a gateway without any weight.
    for (weights, says) in [
        ([1.0, 0.3, 1.0], "half of the mean"),
        ([1.0, 1.0, 0.0], "`weight`"),
    ] {
        let mut content = content();
        let mut second = content.nodes[0].clone();
        second.id = "55".repeat(32);
        second.sphinx_key = key_of(77, 0);
        (content.nodes[0].weight, second.weight) = (weights[0], weights[1]);
        content.nodes[3].weight = weights[2];
        content.nodes.push(second);
        let why = refused(&serde_json::to_string(&content).unwrap());
        assert!(why.contains(says), "{weights:?}: {why}");
    }
    // They needn't sum to anything: they are shares of their sum.
    let mut odd = content();
    odd.nodes[3].weight = 1e-9;
    assert_eq!(refused(&serde_json::to_string(&odd).unwrap()), "it was taken");
}
