//! What network to build: sizes, profile, faults, seed.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content, DocumentError, NodeEntry, Role, ServiceEntry};
use mizzle_base::{Document, MailboxId, NodeId, Profile, Rng, Time, hex};
use mizzle_sphinx::SecretKey;
use mizzle_traffic::{draw, weights};

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
    /// Whether nodes publish what their loops tell, and clients hear it.
    pub reports: bool,
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
            reports: true,
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
    /// There is no gateway for a client.
    #[error(transparent)]
    Client(#[from] mizzle_client::NoSuchGateway),
}

/// The secrets of a node.
pub(crate) struct Secrets {
    pub(crate) id: NodeId,
    pub(crate) identity: SigningKey,
    pub(crate) sphinx: SecretKey,
    pub(crate) stream: Option<[u8; 32]>,
}

impl Plan {
    /// The signed document and each node's secrets, in the document's order.
    pub(crate) fn build(&self, rng: &mut Rng) -> Result<(Document, Vec<Secrets>), PlanError> {
        let mut secrets = Vec::new();
        let mut nodes = Vec::new();
        let mut add = |role, layer, weight, exit: bool| {
            let sphinx = SecretKey::generate(rng);
            let identity = SigningKey::from_bytes(&draw::bytes(rng));
            let id = weights::node_of(&identity.verifying_key());
            let stream = exit.then(|| draw::bytes::<32>(rng));
            nodes.push(NodeEntry {
                id: id.to_string(),
                role,
                layer,
                peer: String::new(),
                addresses: Vec::new(),
                sphinx_key: hex::encode(sphinx.public().as_bytes()),
                weight,
                operator: String::new(),
                exit: stream.as_ref().map(|secret| ServiceEntry {
                    mailbox: MailboxId::new(draw::bytes(rng)).to_string(),
                    stream_key: hex::encode(SecretKey::from_bytes(*secret).public().as_bytes()),
                }),
                mail: None,
            });
            secrets.push(Secrets {
                id,
                identity,
                sphinx,
                stream,
            });
        };
        for layer in 1..=3 {
            (0..self.mixes_per_layer).for_each(|_| add(Role::Mix, layer, 0.0, false));
        }
        // As in `mizzle up`: the gateways with exits have 0.8 of the slots between them.
        (0..self.entries).for_each(|_| add(Role::Gateway, 0, 0.2 / self.entries as f64, false));
        (0..self.exits).for_each(|_| add(Role::Gateway, 0, 0.8 / self.exits as f64, true));
        let authority = SigningKey::from_bytes(&draw::bytes(rng));
        let content = Content {
            network: format!("simulated {}", self.seed),
            sequence: 1,
            epoch: 1,
            valid_from_s: START.as_s() - 86_400,
            valid_until_s: START.as_s() + 86_400,
            profile: self.profile.clone(),
            nodes,
        };
        let signed = content.sign(&authority)?;
        let document = Document::verify(&signed, &authority.verifying_key(), START, 0)?;
        Ok((document, secrets))
    }
}
