//! The network document: who the nodes are, with which keys, layers and weights, until when.
//!
//! A signed byte string: three lines (`mizzle document 1`, the authority's key, its signature, both Ed25519 in
//! hexadecimal), then JSON to the end. The signature is over the JSON bytes as they are, after a domain separator;
//! they are verified as received and passed on as received, never encoded again, so fields that this version
//! doesn't know are kept. How a document travels is the shells' part.
//!
//! **Key epochs.** Each node lists the keys of several epochs in a row, in one string of hexadecimal digits, 64 an epoch;
//! all nodes and services list equally many, and these epochs divide the document's time into equal parts ([`Epochs`]).
//! The first of them has the number `epoch`. So a document can't say when a key is used in two ways that differ. A
//! [`Document`] is that of one epoch: its nodes' keys are those of then, and [`Document::turned`] is it at another time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use mizzle_sphinx::PublicKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::hex;
use crate::id::{MailboxId, NetworkId, NodeId};
use crate::profile::{Profile, ProfileError};
use crate::time::Time;

mod epochs;
#[cfg(test)]
mod tests;

pub use epochs::Epochs;

/// Mix layers of the `loopix` topology.
pub const LAYERS: u8 = 3;
/// Longest document in bytes.
pub const MAX_DOCUMENT_LEN: usize = 4 << 20;
/// Most nodes in a document.
pub const MAX_NODES: usize = 4_096;
/// How far a clock may be off before a document's times are held against it, in seconds (the design: 5 minutes).
pub const CLOCK_TOLERANCE_S: u64 = 300;

/// Length of [`Document::list`] in bytes.
pub const LIST_LEN: usize = 8;
/// Most epochs in a document: eleven years of days.
pub const MAX_EPOCHS: usize = 4_096;
/// The longest epoch in seconds: a year.
pub const MAX_EPOCH_S: u64 = 366 * 86_400;

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
    /// X25519 keys of its sessions in hexadecimal, one after the other for all epochs.
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
    /// Sphinx keys in hexadecimal, one after the other for all epochs.
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
    /// Number of the first epoch that the document has keys of. It begins when the document's time does.
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
    /// X25519 key of its sessions in the document's epoch.
    pub stream_key: [u8; 32],
    keys: Arc<[PublicKey]>,
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
    /// Sphinx key of the document's epoch, on the curve and of prime order.
    pub sphinx_key: PublicKey,
    keys: Arc<[PublicKey]>,
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
    bytes: Arc<[u8]>,
    network: NetworkId,
    name: String,
    sequence: u64,
    epoch: u32,
    epochs: Epochs,
    valid_from: Time,
    valid_until: Time,
    profile: Profile,
    nodes: Vec<Node>,
    list: [u8; LIST_LEN],
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
    #[error(
        "the network document is longer than {MAX_DOCUMENT_LEN} bytes: fewer nodes, or keys of fewer epochs"
    )]
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
        Document::build(&[], &authority.verifying_key(), self.clone(), Time::ZERO)?;
        let signature = authority.sign(&signed_bytes(&json));
        let mut out = format!(
            "{MAGIC}\n{}\n{}\n",
            hex::encode(authority.verifying_key().as_bytes()),
            hex::encode(&signature.to_bytes())
        )
        .into_bytes();
        out.extend_from_slice(&json);
        if out.len() > MAX_DOCUMENT_LEN {
            return Err(DocumentError::TooLong);
        }
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
        Self::build(bytes, authority, content, now)
    }

    /// What the signature is of, where [`Self::verify`] has said that it is good: to change something and sign it again.
    ///
    /// # Errors
    /// [`DocumentError::Json`] can't happen with a verified document.
    pub fn content(&self) -> Result<Content, DocumentError> {
        let json = self.bytes.splitn(4, |&b| b == b'\n').nth(3).unwrap_or_default();
        serde_json::from_slice(json).map_err(|e| DocumentError::Json(e.to_string()))
    }

    fn build(
        bytes: &[u8],
        authority: &VerifyingKey,
        content: Content,
        now: Time,
    ) -> Result<Self, DocumentError> {
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
        let digits = content.nodes.first().map_or(0, |node| node.sphinx_key.len());
        let epochs = Epochs::check(&content, digits / KEY_DIGITS).map_err(DocumentError::Content)?;
        let mut nodes: Vec<Node> = Vec::with_capacity(content.nodes.len());
        let mut by_id = BTreeMap::new();
        let mut layers: [Vec<usize>; LAYERS as usize] = Default::default();
        let mut gateways = Vec::new();
        let mut keys = BTreeSet::new();
        for (index, entry) in content.nodes.into_iter().enumerate() {
            let node =
                Node::check(entry, epochs.count()).map_err(|e| wrong(&format!("node {index}: {e}")))?;
            if by_id.insert(node.id, index).is_some() || !node.keys.iter().all(|key| keys.insert(*key)) {
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
        let mut document = Self {
            bytes: bytes.into(),
            network: NetworkId::of(authority.as_bytes(), &name),
            name,
            sequence: content.sequence,
            epoch: content.epoch,
            epochs,
            valid_from: Time::from_s(content.valid_from_s),
            valid_until: Time::from_s(content.valid_until_s),
            profile: content.profile,
            list: list(&nodes),
            nodes,
            by_id,
            layers,
            gateways,
        };
        document.turn(epochs.at(now));
        Ok(document)
    }

    /// Makes it that of another epoch, one that it has.
    fn turn(&mut self, epoch: u32) {
        let Some(index) = epoch.checked_sub(self.epochs.first()).map(|index| index as usize) else {
            return;
        };
        self.epoch = epoch;
        for node in &mut self.nodes {
            node.sphinx_key = node.keys.get(index).copied().unwrap_or(node.sphinx_key);
            for service in [&mut node.exit, &mut node.mail].into_iter().flatten() {
                service.stream_key = service
                    .keys
                    .get(index)
                    .map_or(service.stream_key, |key| *key.as_bytes());
            }
        }
    }

    /// The document with the keys of the epoch that it is at `now`, if that is another one than this one's.
    #[must_use]
    pub fn turned(&self, now: Time) -> Option<Self> {
        let epoch = self.epochs.at(now);
        (epoch != self.epoch).then(|| {
            let mut turned = self.clone();
            turned.turn(epoch);
            turned
        })
    }

    /// Whether it is a later one than `older`, of the same network, and differs from it in keys, weights and its time alone:
    /// then whoever runs with that one can go on with this one. Any other newer document is for the next start.
    #[must_use]
    pub fn continues(&self, older: &Self) -> bool {
        let same_service = |a: &Option<Service>, b: &Option<Service>| {
            a.as_ref().map(|s| s.mailbox) == b.as_ref().map(|s| s.mailbox)
        };
        let same_node = |(a, b): (&Node, &Node)| {
            (a.id, a.role, a.layer) == (b.id, b.role, b.layer)
                && (&a.peer, &a.addresses, &a.operator) == (&b.peer, &b.addresses, &b.operator)
                && same_service(&a.exit, &b.exit)
                && same_service(&a.mail, &b.mail)
        };
        self.network == older.network
            && self.sequence > older.sequence
            && self.epochs.agree(&older.epochs)
            && self.profile == older.profile
            && self.nodes.len() == older.nodes.len()
            && self.nodes.iter().zip(&older.nodes).all(same_node)
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

    /// The epoch whose keys its nodes have here.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Its epochs.
    #[must_use]
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// When the next epoch begins; none in the last one.
    #[must_use]
    pub fn turns_at(&self) -> Option<Time> {
        (self.epoch < self.epochs.last()).then(|| self.epochs.end(self.epoch))
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

    /// What names the list of its nodes: the first bytes of SHA-256 over `mizzle node list`, a zero byte and all ids in the
    /// document's order. Documents that [continue](Self::continues) each other have the same, and a node has the same place in each.
    #[must_use]
    pub fn list(&self) -> &[u8; LIST_LEN] {
        &self.list
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
    /// Its Sphinx keys of all epochs.
    #[must_use]
    pub fn sphinx_keys(&self) -> &[PublicKey] {
        &self.keys
    }

    fn check(entry: NodeEntry, epochs: u32) -> Result<Self, String> {
        let id = NodeId::from_hex(&entry.id).ok_or("`id` must be 64 hexadecimal digits")?;
        let keys = keys(&entry.sphinx_key, epochs).map_err(|e| format!("`sphinx_key`{e}"))?;
        let sphinx_key = *keys.first().ok_or("no `sphinx_key`")?;
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
                .map(|service| Service::check(service, epochs))
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
            keys,
            weight: entry.weight,
            operator: entry.operator,
            exit,
            mail,
        })
    }
}

impl Service {
    fn check(entry: ServiceEntry, epochs: u32) -> Result<Self, String> {
        let mailbox = MailboxId::from_hex(&entry.mailbox).ok_or("`mailbox` must be 32 hexadecimal digits")?;
        if mailbox == MailboxId::DROP {
            return Err("`mailbox` must not be zero".into());
        }
        let keys = keys(&entry.stream_key, epochs).map_err(|e| format!("`stream_key`{e}"))?;
        let stream_key = *keys.first().ok_or("no `stream_key`")?.as_bytes();
        Ok(Self {
            mailbox,
            stream_key,
            keys,
        })
    }

    /// Its keys of all epochs.
    #[must_use]
    pub fn stream_keys(&self) -> &[PublicKey] {
        &self.keys
    }
}

fn list(nodes: &[Node]) -> [u8; LIST_LEN] {
    let mut hash = Sha256::new().chain_update(b"mizzle node list\0");
    nodes.iter().for_each(|node| hash.update(node.id.as_bytes()));
    let hash: [u8; 32] = hash.finalize().into();
    let (list, _) = hash.split_first_chunk().unwrap_or((&[0; LIST_LEN], &[]));
    *list
}

/// Hexadecimal digits of a key.
const KEY_DIGITS: usize = 64;

/// The keys of so many epochs.
fn keys(digits: &str, epochs: u32) -> Result<Arc<[PublicKey]>, String> {
    let wrong = || format!(" must be {KEY_DIGITS} hexadecimal digits for each of {epochs} epochs");
    if digits.len() != epochs as usize * KEY_DIGITS {
        return Err(wrong());
    }
    let one = |digits: &[u8]| {
        let key = core::str::from_utf8(digits).ok().and_then(hex::decode::<32>);
        PublicKey::from_bytes(&key.ok_or_else(wrong)?).map_err(|_| " is not a good X25519 key".to_string())
    };
    digits.as_bytes().chunks(KEY_DIGITS).map(one).collect()
}
