//! The network document: who the nodes are, with which keys, layers and weights, until when.
//!
//! A signed byte string: three lines (`mizzle document 1`, the authority's key, its signature, both Ed25519 in
//! hexadecimal), then JSON to the end. The signature is over the JSON bytes as they are, after a domain separator;
//! they are verified as received and passed on as received, never encoded again, so fields that this version
//! doesn't know are kept. How a document travels is the shells' part.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use mizzle_sphinx::PublicKey;
use serde::{Deserialize, Serialize};

use crate::hex;
use crate::id::{MailboxId, NetworkId, NodeId};
use crate::profile::{Profile, ProfileError};
use crate::time::Time;

/// Mix layers of the `loopix` topology.
pub const LAYERS: u8 = 3;
/// Longest document in bytes.
pub const MAX_DOCUMENT_LEN: usize = 4 << 20;
/// Most nodes in a document.
pub const MAX_NODES: usize = 4_096;
/// How far a clock may be off before a document's times are held against it, in seconds (the design: 5 minutes).
pub const CLOCK_TOLERANCE_S: u64 = 300;

const MAGIC: &str = "mizzle document 1";
const DOMAIN: &[u8] = b"mizzle network document 1\0";

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Relays in one of the layers.
    Mix,
    /// First and last hop of its clients.
    Gateway,
}

/// What runs behind a mailbox of a gateway and speaks in sessions, as the document writes it: an exit, or the mail.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// Mailbox id in hexadecimal: where packets for it go at its gateway.
    pub mailbox: String,
    /// X25519 key of its sessions in hexadecimal, for this epoch.
    pub stream_key: String,
}

/// A node, as the document writes it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Node id in hexadecimal.
    pub id: String,
    /// What it does.
    pub role: Role,
    /// 1 to 3 for a mix, 0 for a gateway.
    pub layer: u8,
    /// libp2p peer id.
    pub peer: String,
    /// Multiaddrs to dial.
    pub addresses: Vec<String>,
    /// Sphinx key of this epoch in hexadecimal.
    pub sphinx_key: String,
    /// Share of a gateway in all slots, or of a mix in its layer, relative to the sum. Where all mixes of a layer have the same, 0
    /// for instance, it is used evenly; none has less than half of that.
    #[serde(default)]
    pub weight: f64,
    /// Who runs it; nodes of one operator are not both first and last hop of a session.
    #[serde(default)]
    pub operator: String,
    /// The exit inside a gateway, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ServiceEntry>,
    /// What takes messages for the gateway's mailboxes, if it keeps any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<ServiceEntry>,
}

/// The signed content.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Content {
    /// The network's name.
    pub network: String,
    /// A later document has a greater number; a smaller one is refused.
    pub sequence: u64,
    /// Key epoch that the Sphinx and stream keys belong to.
    pub epoch: u32,
    /// First second (UTC) of validity.
    pub valid_from_s: u64,
    /// First second (UTC) after it.
    pub valid_until_s: u64,
    /// The traffic that all must share.
    pub profile: Profile,
    /// The nodes.
    pub nodes: Vec<NodeEntry>,
}

/// A service of a gateway, checked.
#[derive(Clone, Debug)]
pub struct Service {
    /// Where packets for it go at its gateway.
    pub mailbox: MailboxId,
    /// X25519 key of its sessions.
    pub stream_key: [u8; 32],
}

/// A node, checked.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// What it does.
    pub role: Role,
    /// 1 to 3 for a mix, 0 for a gateway.
    pub layer: u8,
    /// libp2p peer id, as text: the shells parse it.
    pub peer: String,
    /// Multiaddrs, as text.
    pub addresses: Vec<String>,
    /// Sphinx key, on the curve and of prime order.
    pub sphinx_key: PublicKey,
    /// Share of a gateway in all slots, or of a mix in its layer, relative to the sum.
    pub weight: f64,
    /// Who runs it.
    pub operator: String,
    /// The exit inside it.
    pub exit: Option<Service>,
    /// What takes messages for its mailboxes.
    pub mail: Option<Service>,
}

/// A verified document.
#[derive(Clone, Debug)]
pub struct Document {
    bytes: Vec<u8>,
    network: NetworkId,
    name: String,
    sequence: u64,
    epoch: u32,
    valid_from: Time,
    valid_until: Time,
    profile: Profile,
    nodes: Vec<Node>,
    by_id: BTreeMap<NodeId, usize>,
    layers: [Vec<usize>; LAYERS as usize],
    gateways: Vec<usize>,
}

/// Why a document is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not three lines and JSON.
    #[error("this is not a mizzle network document (it should begin with the line `{MAGIC}`)")]
    NotADocument,
    /// Longer than [`MAX_DOCUMENT_LEN`].
    #[error("the network document is longer than {MAX_DOCUMENT_LEN} bytes")]
    TooLong,
    /// Signed by somebody else.
    #[error("the network document is signed by {found}, not by the authority {expected} that you trust")]
    OtherAuthority {
        /// Whose signature it carries.
        found: String,
        /// Whose is wanted.
        expected: String,
    },
    /// The signature isn't good.
    #[error(
        "the signature of the network document is wrong: it was damaged or changed; get it again from its source"
    )]
    BadSignature,
    /// The JSON can't be read.
    #[error("the network document can't be read: {0}")]
    Json(String),
    /// Its time is over.
    #[error(
        "the network document expired {ago_s} s ago by this machine's clock; get the current one, or set the clock"
    )]
    Expired {
        /// Seconds since then.
        ago_s: u64,
    },
    /// Its time is yet to come.
    #[error("the network document becomes valid in {in_s} s by this machine's clock; set the clock (UTC)")]
    NotYetValid {
        /// Seconds until then.
        in_s: u64,
    },
    /// An older one than was known.
    #[error(
        "the network document has sequence number {found}, but {known} was seen already: an old one is being replayed"
    )]
    Superseded {
        /// Its number.
        found: u64,
        /// The number that is known.
        known: u64,
    },
    /// The profile is unsound.
    #[error("the network document's profile is wrong: {0}")]
    Profile(#[from] ProfileError),
    /// Something else in the content.
    #[error("the network document is wrong: {0}")]
    Content(String),
}

impl Content {
    /// Signs the content: the bytes that are published.
    ///
    /// # Errors
    /// When what it says isn't a valid document; nothing is signed that [`Document::verify`] would refuse for its content.
    pub fn sign(&self, authority: &SigningKey) -> Result<Vec<u8>, DocumentError> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| DocumentError::Json(e.to_string()))?;
        Document::build(Vec::new(), &authority.verifying_key(), self.clone())?;
        let signature = authority.sign(&signed_bytes(&json));
        let mut out = format!(
            "{MAGIC}\n{}\n{}\n",
            hex::encode(authority.verifying_key().as_bytes()),
            hex::encode(&signature.to_bytes())
        )
        .into_bytes();
        out.extend_from_slice(&json);
        Ok(out)
    }
}

fn signed_bytes(json: &[u8]) -> Vec<u8> {
    let mut bytes = DOMAIN.to_vec();
    bytes.extend_from_slice(json);
    bytes
}

impl Document {
    /// Verifies `bytes` as signed by `authority`, valid at `now` and not older than sequence number `known`.
    ///
    /// # Errors
    /// The reason, in words for a person.
    pub fn verify(
        bytes: &[u8],
        authority: &VerifyingKey,
        now: Time,
        known: u64,
    ) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT_LEN {
            return Err(DocumentError::TooLong);
        }
        let mut lines = bytes.splitn(4, |&b| b == b'\n');
        let mut line = || lines.next().ok_or(DocumentError::NotADocument);
        if line()? != MAGIC.as_bytes() {
            return Err(DocumentError::NotADocument);
        }
        let text = |b| core::str::from_utf8(b).map_err(|_| DocumentError::NotADocument);
        let signer: [u8; 32] = hex::decode(text(line()?)?).ok_or(DocumentError::NotADocument)?;
        let signature: [u8; 64] = hex::decode(text(line()?)?).ok_or(DocumentError::NotADocument)?;
        let json = line()?;
        if signer != *authority.as_bytes() {
            return Err(DocumentError::OtherAuthority {
                found: hex::encode(&signer),
                expected: hex::encode(authority.as_bytes()),
            });
        }
        authority
            .verify_strict(&signed_bytes(json), &Signature::from_bytes(&signature))
            .map_err(|_| DocumentError::BadSignature)?;
        let content: Content =
            serde_json::from_slice(json).map_err(|e| DocumentError::Json(e.to_string()))?;
        if content.sequence < known {
            return Err(DocumentError::Superseded {
                found: content.sequence,
                known,
            });
        }
        let (now_s, from, until) = (now.as_s(), content.valid_from_s, content.valid_until_s);
        if now_s >= until.saturating_add(CLOCK_TOLERANCE_S) {
            return Err(DocumentError::Expired { ago_s: now_s - until });
        }
        if now_s.saturating_add(CLOCK_TOLERANCE_S) < from {
            return Err(DocumentError::NotYetValid { in_s: from - now_s });
        }
        Self::build(bytes.to_vec(), authority, content)
    }

    fn build(bytes: Vec<u8>, authority: &VerifyingKey, content: Content) -> Result<Self, DocumentError> {
        let wrong = |what: &str| DocumentError::Content(what.to_string());
        content.profile.check()?;
        if content.network.is_empty() || content.network.len() > 255 {
            return Err(wrong("`network` must be a name of 1 to 255 bytes"));
        }
        if content.valid_until_s <= content.valid_from_s {
            return Err(wrong("`valid_until_s` must be after `valid_from_s`"));
        }
        if content.nodes.len() > MAX_NODES {
            return Err(wrong("more than 4096 nodes"));
        }
        let mut nodes = Vec::with_capacity(content.nodes.len());
        let mut by_id = BTreeMap::new();
        let mut layers: [Vec<usize>; LAYERS as usize] = Default::default();
        let mut gateways = Vec::new();
        let mut keys = BTreeSet::new();
        for (index, entry) in content.nodes.into_iter().enumerate() {
            let node = Node::check(entry).map_err(|e| wrong(&format!("node {index}: {e}")))?;
            if by_id.insert(node.id, index).is_some() || !keys.insert(*node.sphinx_key.as_bytes()) {
                return Err(wrong(&format!("node {index}: its id or Sphinx key stands twice")));
            }
            match node.role {
                Role::Mix => layers[usize::from(node.layer) - 1].push(index),
                Role::Gateway => gateways.push(index),
            }
            nodes.push(node);
        }
        if layers.iter().any(Vec::is_empty) || gateways.is_empty() {
            return Err(wrong(
                "each of the three layers needs a mix, and the network a gateway",
            ));
        }
        for layer in &layers {
            let weights = || layer.iter().map(|&at| nodes[at].weight);
            let even = weights().sum::<f64>() / layer.len() as f64;
            // By a little more than the weights are rounded.
            if weights().any(|weight| weight < 0.499 * even) {
                return Err(wrong(
                    "a mix's `weight` must be at least half of the mean of its layer",
                ));
            }
        }
        let name = content.network;
        Ok(Self {
            bytes,
            network: NetworkId::of(authority.as_bytes(), &name),
            name,
            sequence: content.sequence,
            epoch: content.epoch,
            valid_from: Time::from_s(content.valid_from_s),
            valid_until: Time::from_s(content.valid_until_s),
            profile: content.profile,
            nodes,
            by_id,
            layers,
            gateways,
        })
    }

    /// The bytes as received, to pass on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Authority and name in one id.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// The network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sequence number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Key epoch.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When it becomes valid, and when it ceases to be.
    #[must_use]
    pub fn validity(&self) -> (Time, Time) {
        (self.valid_from, self.valid_until)
    }

    /// The traffic that all share.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// All nodes, in the document's order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its id.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<&Node> {
        self.by_id.get(id).map(|&i| &self.nodes[i])
    }

    /// The mixes of a layer, 1 to 3; empty for another number.
    pub fn layer(&self, layer: u8) -> impl ExactSizeIterator<Item = &Node> {
        let indices = usize::from(layer).checked_sub(1).and_then(|l| self.layers.get(l));
        indices
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|&i| &self.nodes[i])
    }

    /// The gateways.
    pub fn gateways(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.gateways.iter().map(|&i| &self.nodes[i])
    }

    /// The nodes to which `node` may forward: the next layer, the gateways after the last one, the first layer
    /// after a gateway.
    #[must_use]
    pub fn next_hops(&self, node: &Node) -> Vec<&Node> {
        match (node.role, node.layer) {
            (Role::Gateway, _) => self.layer(1).collect(),
            (Role::Mix, LAYERS) => self.gateways().collect(),
            (Role::Mix, layer) => self.layer(layer + 1).collect(),
        }
    }
}

impl Node {
    fn check(entry: NodeEntry) -> Result<Self, String> {
        let id = NodeId::from_hex(&entry.id).ok_or("`id` must be 64 hexadecimal digits")?;
        let key: [u8; 32] =
            hex::decode(&entry.sphinx_key).ok_or("`sphinx_key` must be 64 hexadecimal digits")?;
        let sphinx_key = PublicKey::from_bytes(&key).map_err(|_| "`sphinx_key` is not a good X25519 key")?;
        match entry.role {
            Role::Mix if (1..=LAYERS).contains(&entry.layer) => {}
            Role::Gateway if entry.layer == 0 => {}
            _ => return Err("`layer` must be 1 to 3 for a mix and 0 for a gateway".into()),
        }
        if entry.role == Role::Mix && !(0.0..=1e6).contains(&entry.weight) {
            return Err("a mix's `weight` must be between 0 and 1000000".into());
        }
        if entry.role == Role::Gateway && !(entry.weight > 0.0 && entry.weight <= 1e6) {
            return Err("a gateway's `weight` must be above 0 and at most 1000000".into());
        }
        if entry.addresses.len() > 16 || entry.addresses.iter().any(|a| a.len() > 255) {
            return Err("at most 16 `addresses` of 255 bytes".into());
        }
        let is_mix = entry.role == Role::Mix;
        let service = |name: &str, service: Option<ServiceEntry>| match service {
            Some(_) if is_mix => Err(format!("only a gateway has `{name}`")),
            service => service
                .map(Service::check)
                .transpose()
                .map_err(|e| format!("`{name}`: {e}")),
        };
        let exit = service("exit", entry.exit)?;
        let mail = service("mail", entry.mail)?;
        if let (Some(exit), Some(mail)) = (&exit, &mail)
            && exit.mailbox == mail.mailbox
        {
            return Err("`exit` and `mail` need mailboxes of their own".into());
        }
        Ok(Self {
            id,
            role: entry.role,
            layer: entry.layer,
            peer: entry.peer,
            addresses: entry.addresses,
            sphinx_key,
            weight: entry.weight,
            operator: entry.operator,
            exit,
            mail,
        })
    }
}

impl Service {
    fn check(entry: ServiceEntry) -> Result<Self, &'static str> {
        let mailbox = MailboxId::from_hex(&entry.mailbox).ok_or("`mailbox` must be 32 hexadecimal digits")?;
        if mailbox == MailboxId::DROP {
            return Err("`mailbox` must not be zero");
        }
        let stream_key =
            hex::decode(&entry.stream_key).ok_or("`stream_key` must be 64 hexadecimal digits")?;
        PublicKey::from_bytes(&stream_key).map_err(|_| "`stream_key` is not a good X25519 key")?;
        Ok(Self { mailbox, stream_key })
    }
}

#[cfg(test)]
mod tests {
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
}
