//! What the Nim implementation wrote, read and written here: addresses, messages, SURBs and replies in both dialects, and
//! its packets on their way through running peers.

use crate::common::*;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    identity::{Keypair, secp256k1},
};
use libp2p_mix::{
    Config, Dialect, Endpoint, Policy, SecretKey,
    address::Block,
    message::{self, Message, Reply},
};
use serde_json::Value;

const FILES: [(&str, Dialect, usize); 2] = [
    ("sphinx-L3.json", Dialect::Lioness, 9),
    ("sphinx-L3-legacy-aesctr.json", Dialect::LegacyCtr, 7),
];

fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/../sphinx/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all["cases"].as_array().unwrap().clone()
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    let (pairs, []) = text.as_chunks::<2>() else {
        panic!()
    };
    pairs
        .iter()
        .map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap())
        .collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn each(mut check: impl FnMut(Dialect, &Value)) {
    for (file, dialect, n) in FILES {
        let cases = cases(file);
        assert_eq!(cases.len(), n);
        cases.iter().for_each(|case| check(dialect, case));
    }
}

#[test]
fn addresses_are_written_and_read_as_there() {
    let mut circuits = 0;
    let mut seen = 0;
    each(|_, case| {
        let surbs = list(&case["surbs"]).flat_map(|surb| list(&surb["path"]));
        for node in list(&case["path"])
            .chain(surbs)
            .chain(Some(&case["destination"]).filter(|d| d.is_object()))
        {
            let address: Multiaddr = node["multiaddr"].as_str().unwrap().parse().unwrap();
            let peer: PeerId = node["peer_id_b58"].as_str().unwrap().parse().unwrap();
            let block: Block = array(&node["hop_bytes_94"]);
            let endpoint = Endpoint::new(peer, &address).unwrap();
            assert_eq!(endpoint.block().unwrap(), block, "{}", case["name"]);
            assert_eq!(Endpoint::from_block(&block).unwrap(), endpoint);
            seen += 1;
        }
        for hop in list(&case["hops"]).filter(|hop| hop["next_hop_bytes_94"].is_string()) {
            let endpoint = Endpoint::from_block(&array(&hop["next_hop_bytes_94"])).unwrap();
            assert_eq!(endpoint.peer.to_string(), hop["next_peer_id"].as_str().unwrap());
            assert_eq!(
                endpoint.address.to_string(),
                hop["next_multiaddr"].as_str().unwrap()
            );
            assert_eq!(
                endpoint.block().unwrap().to_vec(),
                bytes(&hop["next_hop_bytes_94"])
            );
            circuits += usize::from(endpoint.address.to_string().contains("p2p-circuit"));
        }
    });
    assert!(circuits >= 1 && seen > 50, "{circuits} {seen}");
}

/// The number that a legacy message ends in.
fn sequence(dialect: Dialect, message: &[u8; 3968]) -> u32 {
    match dialect {
        Dialect::Lioness => 0,
        Dialect::LegacyCtr => u32::from_be_bytes(message[3964..].try_into().unwrap()),
    }
}

#[test]
fn messages_with_their_surbs_are_written_and_read_as_there() {
    each(|dialect, case| {
        let codec = case["codec"].as_str().unwrap();
        let body = bytes(&case["app_message"]);
        let there: [u8; 3968] = array(&case["message_3968"]);
        let surbs: Vec<message::SurbBytes> = list(&case["surbs"])
            .map(|s| array(&s["serialized_surb_734"]))
            .collect();
        let mut here = [0; 3968];
        if codec == message::COVER_CODEC {
            let filler = [&[0], &body[..]].concat();
            message::encode_cover(dialect, &filler, sequence(dialect, &there), &mut here);
            assert_eq!(message::decode(dialect, &there), Ok(Message::Cover));
        } else {
            let codec = StreamProtocol::try_from_owned(codec.to_owned()).unwrap();
            let sequence = sequence(dialect, &there);
            message::encode_request(dialect, &codec, &surbs, &body, sequence, &mut here).unwrap();
            let Ok(Message::Request(read)) = message::decode(dialect, &there) else {
                panic!()
            };
            assert_eq!((read.codec, read.body), (codec.as_ref(), &body[..]));
            assert!(read.surbs.iter().copied().eq(&surbs));
        }
        assert!(here == there, "{}", case["name"]);
    });
}

#[test]
fn replies_are_written_and_read_as_there() {
    let mut replies = 0;
    each(|dialect, case| {
        for surb in list(&case["surbs"]) {
            let body = bytes(&surb["reply_app_bytes"]);
            let there: [u8; 3968] = array(&surb["reply_message_3968"]);
            let mut here = [0; 3968];
            message::encode_reply(dialect, &body, sequence(dialect, &there), &mut here).unwrap();
            assert!(here == there, "{}", case["name"]);
            assert_eq!(message::decode_reply(dialect, &there), Ok(Reply::Body(&body)));
            let recovered: [u8; 3968] = array(&surb["recovered_message_3968"]);
            assert_eq!(message::decode_reply(dialect, &recovered), Ok(Reply::Body(&body)));
            replies += 1;
        }
    });
    assert_eq!(replies, 10);
}

/// Each packet of the other implementation, along the very nodes that it was made for, to the protocol at its end.
#[tokio::test]
async fn packets_made_there_pass_through_peers_here_and_arrive() {
    for (file, dialect, _) in FILES {
        for case in cases(file) {
            let name = case["name"].as_str().unwrap().to_owned();
            if name == "circuit-relay-hop" || name == "max-delay-intermediate" {
                // The one wants a relay, the other a minute.
                continue;
            }
            through_peers(dialect, &case).await;
        }
    }
}

async fn through_peers(dialect: Dialect, case: &Value) {
    let mut peers = Vec::new();
    for node in list(&case["path"]) {
        let secret =
            secp256k1::SecretKey::try_from_bytes(array::<32>(&node["secp256k1_private_key"])).unwrap();
        let keypair: Keypair = secp256k1::Keypair::from(secret).into();
        let address: Multiaddr = node["multiaddr"].as_str().unwrap().parse().unwrap();
        let config = Config::new(keypair, SecretKey::from_bytes(array(&node["mix_private_key"])))
            .with_dialect(dialect)
            .with_exit_policy(Policy::Any)
            .with_forward_policy(Policy::Any);
        peers.push(Peer::start_at(Over::Memory, config, address).await);
    }
    // The destination is wherever the exit finds it: at the exit it is a peer of that id, served here by one more peer.
    let codec = StreamProtocol::try_from_owned(case["codec"].as_str().unwrap().to_owned()).unwrap();
    let read = libp2p_mix::Read::ToEnd(4000);
    let destination = match case["destination"].is_object() {
        false => None,
        true => {
            let node = &case["destination"];
            let secret =
                secp256k1::SecretKey::try_from_bytes(array::<32>(&node["secp256k1_private_key"])).unwrap();
            let keypair: Keypair = secp256k1::Keypair::from(secret).into();
            let config = Config::new(keypair, SecretKey::from_bytes([9; 32]));
            let address = node["multiaddr"].as_str().unwrap().parse().unwrap();
            Some(Peer::start_at(Over::Memory, config, address).await)
        }
    };
    let at = destination.as_ref().unwrap_or(&peers[2]);
    let mut here = at.control.serve(&codec, 4, Some(read));
    let mut sender = Raw::start(Over::Memory).await;
    sender.send(&peers[0].node.endpoint, bytes(&case["packet_full"]));
    if case["codec"] == message::COVER_CODEC {
        peers[2].until("cover.received", 1).await;
    } else if list(&case["surbs"]).next().is_some() && destination.is_some() {
        // An answer is wanted, and this exit doesn't know how to read it: so nothing is asked.
        peers[2].until("exit.unknown_codec", 1).await;
    } else {
        let exchange = tokio::time::timeout(LIMIT, here.next()).await.unwrap().unwrap();
        assert_eq!(exchange.body(), bytes(&case["app_message"]), "{}", case["name"]);
    }
    // The same packet again goes nowhere.
    sender.send(&peers[0].node.endpoint, bytes(&case["packet_full"]));
    peers[0].until("replay", 1).await;
    for peer in peers.into_iter().chain(destination) {
        peer.stop().await;
    }
}
