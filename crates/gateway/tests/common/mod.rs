//! The network of the tests.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content, NodeEntry, Role, ServiceEntry};
use mizzle_base::{Document, NodeId, Profile, Time, hex};
use mizzle_sphinx::SecretKey;

/// The gateway under test, with an exit and mail, and the other.
pub(crate) const HERE: u8 = 7;
pub(crate) const THERE: u8 = 8;

pub(crate) fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

pub(crate) fn id(n: u8) -> NodeId {
    NodeId::new([n; 32])
}

/// Valid from second 10,000 on. Two mixes a layer, 1 to 6, and two gateways.
pub(crate) fn document(profile: Profile, valid_until_s: u64) -> Arc<Document> {
    let node = |n: u8| {
        let (role, layer) = if n >= HERE {
            (Role::Gateway, 0)
        } else {
            (Role::Mix, n.div_ceil(2))
        };
        NodeEntry {
            id: hex::encode(&[n; 32]),
            role,
            layer,
            peer: String::new(),
            addresses: Vec::new(),
            sphinx_key: hex::encode(secret(n).public().as_bytes()),
            weight: 1.0,
            operator: String::new(),
            exit: (n == HERE).then(|| ServiceEntry {
                mailbox: "e7".repeat(16),
                stream_key: format!("09{}", "00".repeat(31)),
            }),
            mail: (n == HERE).then(|| ServiceEntry {
                mailbox: "ea".repeat(16),
                stream_key: format!("09{}", "00".repeat(31)),
            }),
        }
    };
    let content = Content {
        network: "test".into(),
        sequence: 1,
        epoch: 1,
        valid_from_s: 10_000,
        valid_until_s,
        profile,
        nodes: (1..=THERE).map(node).collect(),
    };
    let authority = SigningKey::from_bytes(&[9; 32]);
    let bytes = content.sign(&authority).unwrap();
    Arc::new(Document::verify(&bytes, &authority.verifying_key(), Time::from_s(15_000), 0).unwrap())
}
