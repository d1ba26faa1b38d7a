//! What network to build: sizes, profile, faults, seed.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content, DocumentError, NodeEntry, Role, ServiceEntry};
use mizzle_base::{Document, MailboxId, NodeId, Profile, Rng, Time, hex};
use mizzle_mix::Ratchet;
use mizzle_sphinx::SecretKey;
use mizzle_traffic::{draw, weights};
use zeroize::Zeroizing;

/// When the simulated networks live: their documents are valid from a day before to a day after.
pub(crate) const START: Time = Time::from_s(1_800_000_000);

/// A network to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything random follows from it.
    pub seed: u64,
    /// The traffic.
    pub profile: Profile,
    /// Mixes in each of the three layers.
    pub mixes_per_layer: usize,
    /// Gateways without an exit, where clients live.
    pub entries: usize,
    /// Gateways with an exit.
    pub exits: usize,
    /// Clients, spread over the entries.
    pub clients: usize,
    /// One-way delay of each link.
    pub link: Duration,
    /// Share of packets that each link loses.
    pub loss: f64,
    /// Length of a key epoch, in whole seconds; the first of them, numbered 1, begins when the simulation does. None: keys
    /// don't change.
    pub epoch: Option<Duration>,
    /// By how much the clients' clocks are fast (or slow, if negative), in seconds.
    pub clients_fast_s: i64,
    /// Whether nodes publish what their loops tell, and clients hear it.
    pub reports: bool,
    /// Whether gateways keep letters, and clients can be written to.
    pub mail: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 1,
            profile: Profile::browse(),
            mixes_per_layer: 2,
            entries: 1,
            exits: 1,
            clients: 1,
            link: Duration::from_millis(2),
            loss: 0.0,
            epoch: None,
            clients_fast_s: 0,
            reports: true,
            mail: false,
        }
    }
}

/// A plan of which no network can be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Its document is unsound: no mix in a layer, no gateway, a profile out of range.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A node isn't as the document says.
    #[error(transparent)]
    Node(#[from] mizzle_mix::NotOurs),
    /// Its keys are of another time; can't happen, as the simulation begins with them.
    #[error(transparent)]
    Keys(#[from] mizzle_mix::TooEarly),
    /// There is no gateway for a client.
    #[error(transparent)]
    Client(#[from] mizzle_client::NoSuchGateway),
}

/// The secrets of a node.
pub(crate) struct Secrets {
    pub(crate) id: NodeId,
    pub(crate) identity: SigningKey,
    pub(crate) ratchet: Ratchet,
    pub(crate) has_exit: bool,
}

/// Epochs of a simulated document, where keys change.
const EPOCHS: u32 = 16;
const FIRST_EPOCH: u32 = 1;

impl Plan {
    /// The signed document and each node's secrets, in the document's order.
    pub(crate) fn build(&self, rng: &mut Rng) -> Result<(Document, Vec<Secrets>), PlanError> {
        let mut secrets = Vec::new();
        let mut nodes = Vec::new();
        let epochs = if self.epoch.is_some() { EPOCHS } else { 1 };
        let mut add = |role, layer, weight, has_exit: bool| {
            let ratchet = Ratchet::new(FIRST_EPOCH, Zeroizing::new(draw::bytes(rng)));
            let identity = SigningKey::from_bytes(&draw::bytes(rng));
            let id = weights::node_of(&identity.verifying_key());
            let keys = ratchet.keys_of(FIRST_EPOCH, epochs).unwrap_or_default();
            let digits = |key: &SecretKey| hex::encode(key.public().as_bytes());
            nodes.push(NodeEntry {
                id: id.to_string(),
                role,
                layer,
                peer: String::new(),
                addresses: Vec::new(),
                sphinx_key: keys.iter().map(|keys| digits(&keys.sphinx)).collect(),
                weight,
                operator: String::new(),
                exit: has_exit.then(|| ServiceEntry {
                    mailbox: MailboxId::new(draw::bytes(rng)).to_string(),
                    stream_key: keys.iter().map(|keys| digits(&keys.exit)).collect(),
                }),
                mail: (self.mail && role == Role::Gateway).then(|| ServiceEntry {
                    mailbox: MailboxId::new(draw::bytes(rng)).to_string(),
                    stream_key: keys.iter().map(|keys| digits(&keys.mail)).collect(),
                }),
            });
            secrets.push(Secrets {
                id,
                identity,
                ratchet,
                has_exit,
            });
        };
        for layer in 1..=3 {
            (0..self.mixes_per_layer).for_each(|_| add(Role::Mix, layer, 0.0, false));
        }
        // As in `mizzle up`: the gateways with exits have 0.8 of the slots between them.
        (0..self.entries).for_each(|_| add(Role::Gateway, 0, 0.2 / self.entries as f64, false));
        (0..self.exits).for_each(|_| add(Role::Gateway, 0, 0.8 / self.exits as f64, true));
        let authority = SigningKey::from_bytes(&draw::bytes(rng));
        let begin_s = START.as_s();
        let (valid_from_s, valid_until_s) = match self.epoch {
            None => (begin_s - 86_400, begin_s + 86_400),
            Some(length) => (begin_s, begin_s + length.as_secs() * u64::from(EPOCHS)),
        };
        let content = Content {
            network: format!("simulated {}", self.seed),
            sequence: 1,
            epoch: FIRST_EPOCH,
            valid_from_s,
            valid_until_s,
            profile: self.profile.clone(),
            nodes,
        };
        let signed = content.sign(&authority)?;
        let document = Document::verify(&signed, &authority.verifying_key(), START, 0)?;
        Ok((document, secrets))
    }
}
