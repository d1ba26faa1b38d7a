//! Puts a node together: its keys, its entry in the network document, its host, its cores. The one place for it, used by
//! `mizzle up`, `mizzle network init` and `mizzle node run`.

use std::path::PathBuf;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use libp2p::{Multiaddr, identity::Keypair};
use mizzle_apps::proxy;
use mizzle_base::document::{DocumentError, NodeEntry, Role, ServiceEntry};
use mizzle_base::{Document, MailboxId, NetworkId, NodeId, Rng, hex};
use mizzle_exit::{Allow, Exit, Policy};
use mizzle_gateway::Gateway;
use mizzle_gateway::store::{Limits, MailStore as _, StoreError};
use mizzle_mix::{NodeKeys, Ratchet};
use mizzle_net::clock::Clock;
use mizzle_net::host::{self, Host, HostConfig, HostError, Transport};
use mizzle_net::node::{GatewayParts, KeysError, MixParts, Parts};
use mizzle_net::state::{Folder, State, StateError, seed};
use mizzle_net::{client, directory, identity, store, wire};
use mizzle_sphinx::{PublicKey, SecretKey};
use mizzle_traffic::draw;
use rand_core::{Rng as _, SeedableRng as _};
use zeroize::Zeroizing;

use crate::plan::EXIT_WEIGHT;

/// Connections of others than clients that a gateway takes at once: mixes, and who asks for the document.
const OTHER_CONNECTIONS: u32 = 1_024;

/// Files of a node's state.
pub const IDENTITY_KEY: &str = "identity.key";
/// The public keys that a node will have when the network document is over, for `mizzle network renew`.
pub const NEXT_KEYS: &str = "next.keys";
/// Number of a network's first key epoch.
pub const FIRST_EPOCH: u32 = 1;
/// In the same folder: the letters for a gateway's clients.
const MAIL: &str = "mail";

/// Why a node, a client or a network of them doesn't start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No entropy.
    #[error(transparent)]
    Entropy(std::io::Error),
    /// The move of a client to another gateway could not be kept.
    #[error("this client can't move to another gateway: {0}")]
    Moving(String),
    /// A host without what it was made with; can't happen.
    #[error("a node's host came up without its links")]
    NoLink,
    /// The SOCKS port.
    #[error("{0}; choose another with --socks")]
    Socks(#[from] proxy::BindError),
    /// A node's host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// It didn't reach the client.
    #[error(transparent)]
    Directory(#[from] directory::FetchError),
    /// A node isn't in it.
    #[error(transparent)]
    Node(#[from] mizzle_mix::NotOurs),
    /// The client's gateway isn't in it.
    #[error(transparent)]
    Gateway(#[from] mizzle_client::NoSuchGateway),
    /// The client.
    #[error(transparent)]
    Client(#[from] client::StartError),
    /// A gateway's letters.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A node's keys, and what it accepted under them in earlier runs.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A node's threads.
    #[error("the system gives no thread for a node: {0}")]
    Thread(std::io::Error),
}

/// A node's secrets.
pub struct Keys {
    identity: Zeroizing<[u8; 32]>,
    /// Of which the keys of all epochs come.
    ratchet: Ratchet,
}

/// A secret that isn't the one that the network document speaks of.
#[derive(Debug, thiserror::Error)]
pub enum OtherKey {
    /// It gives other keys.
    #[error(
        "{file} doesn't belong to the {what} key that the network document lists for this node in epoch {epoch}: restore the \
         state that it was made with, give the node new keys with `mizzle network rekey`, or have the authority list these"
    )]
    Other {
        /// The file.
        file: &'static str,
        /// Of what.
        what: &'static str,
        /// The first epoch in which they differ.
        epoch: u32,
    },
    /// It begins later than now.
    #[error(
        "{file} begins with epoch {found}, and by this machine's clock it is epoch {now}: either the clock is slow (set it, \
         UTC), or it was fast and keys were erased too early (give the node new ones with `mizzle network rekey`)"
    )]
    Later {
        /// The file.
        file: &'static str,
        /// Its epoch.
        found: u32,
        /// The current one.
        now: u32,
    },
}

/// Hexadecimal digits of a key.
pub(crate) const KEY_DIGITS: usize = 64;

/// Public keys of one kind, as the document writes them.
pub fn digits(keys: &[NodeKeys], of: impl Fn(&NodeKeys) -> &SecretKey) -> String {
    keys.iter()
        .map(|keys| hex::encode(of(keys).public().as_bytes()))
        .collect()
}

impl Keys {
    /// Fresh ones, from [`FIRST_EPOCH`] on.
    #[must_use]
    pub fn generate(rng: &mut Rng) -> Self {
        let mut identity = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *identity);
        Self {
            identity,
            ratchet: Self::fresh_ratchet(FIRST_EPOCH, rng),
        }
    }

    fn fresh_ratchet(epoch: u32, rng: &mut Rng) -> Ratchet {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Ratchet::new(epoch, seed)
    }

    /// Writes them to a new state.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn write(&self, state: &State) -> Result<(), StateError> {
        state.create_secret(IDENTITY_KEY, &self.identity)?;
        seed::create(state, &self.ratchet)
    }

    /// Reads them.
    ///
    /// # Errors
    /// One for each file that can't be used.
    pub fn read(folder: &Folder) -> Result<Self, Vec<StateError>> {
        match (folder.secret(IDENTITY_KEY), seed::read(folder)) {
            (Ok(identity), Ok(ratchet)) => Ok(Self { identity, ratchet }),
            (identity, ratchet) => Err([identity.err(), ratchet.err()].into_iter().flatten().collect()),
        }
    }

    /// Writes a new seed in place of the one of a node's state, which is overwritten: other keys from this epoch on.
    ///
    /// # Errors
    /// [`StateError`]; the old one is there still.
    pub fn renew(state: &State, epoch: u32, rng: &mut Rng) -> Result<Ratchet, StateError> {
        let ratchet = Self::fresh_ratchet(epoch, rng);
        seed::replace(state.path(), &ratchet)?;
        Ok(ratchet)
    }

    /// What signs for the node.
    pub(crate) fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&self.identity)
    }

    /// What the keys of all epochs come from.
    pub(crate) fn ratchet(&self) -> &Ratchet {
        &self.ratchet
    }

    /// The keys of the first epoch; none when that is over.
    pub(crate) fn first(&self) -> Option<NodeKeys> {
        self.ratchet.keys(FIRST_EPOCH)
    }

    /// The libp2p identity; `None` can't happen, as any 32 bytes are an Ed25519 secret.
    #[must_use]
    pub fn keypair(&self) -> Option<Keypair> {
        identity::keypair(&mut Zeroizing::clone(&self.identity))
    }

    /// Compares them with what the document says of their node, from the epoch that it is to the last one.
    ///
    /// # Errors
    /// One for each that differs.
    pub fn check(
        &self,
        document: &Document,
        listed: &mizzle_base::document::Node,
    ) -> Result<(), Vec<OtherKey>> {
        let (file, now, epochs) = (seed::FILE, document.epoch(), document.epochs());
        let count = epochs.last() - now + 1;
        let Some(own) = self.ratchet.keys_of(now, count) else {
            let found = self.ratchet.epoch();
            return Err(vec![OtherKey::Later { file, found, now }]);
        };
        let from = (now - epochs.first()) as usize;
        let mut wrong = Vec::new();
        let mut compare = |what, listed: &[PublicKey], of: fn(&NodeKeys) -> &SecretKey| {
            let differs = listed[from.min(listed.len())..]
                .iter()
                .zip(&own)
                .find(|(listed, own)| **listed != of(own).public());
            wrong.extend(differs.map(|(_, own)| OtherKey::Other {
                file,
                what,
                epoch: own.epoch,
            }));
        };
        compare("Sphinx", listed.sphinx_keys(), |keys| &keys.sphinx);
        if let Some(exit) = &listed.exit {
            compare("exit's stream", exit.stream_keys(), |keys| &keys.exit);
        }
        if let Some(mail) = &listed.mail {
            compare("mail's stream", mail.stream_keys(), |keys| &keys.mail);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// A node's place in a network that is being made.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it does.
    pub role: Role,
    /// 1 to 3 for a mix, 0 for a gateway.
    pub layer: u8,
    /// Whether an exit runs in it.
    pub has_exit: bool,
    /// Its share of slots; 0 for a mix.
    pub weight: f64,
}

impl Place {
    /// `mix`, `gateway` or `gateway with exit`.
    #[must_use]
    pub fn role_name(&self) -> &'static str {
        role_name(self.role, self.has_exit)
    }
}

/// `mix`, `gateway` or `gateway with exit`.
#[must_use]
pub fn role_name(role: Role, has_exit: bool) -> &'static str {
    match (role, has_exit) {
        (Role::Mix, _) => "mix",
        (Role::Gateway, false) => "gateway",
        (Role::Gateway, true) => "gateway with exit",
    }
}

/// The places of a network of this shape: three layers, then the gateways, the last of which have the exits.
///
/// The exits share [`EXIT_WEIGHT`] of all slots and the other gateways the rest; gateways of one sort share equally.
#[must_use]
pub fn places(mixes_per_layer: u16, gateways: u16, exits: u16) -> Vec<Place> {
    let mix = |layer| Place {
        role: Role::Mix,
        layer,
        has_exit: false,
        weight: 0.0,
    };
    let exits = exits.min(gateways);
    let (with, without) = (f64::from(exits), f64::from(gateways - exits));
    let gateway = |n| {
        let has_exit = n >= gateways - exits;
        Place {
            role: Role::Gateway,
            layer: 0,
            has_exit,
            weight: match has_exit {
                _ if exits == 0 || exits == gateways => 1.0 / (with + without),
                true => EXIT_WEIGHT / with,
                false => (1.0 - EXIT_WEIGHT) / without,
            },
        }
    };
    let mixes = (1..=3).flat_map(|layer| (0..mixes_per_layer).map(move |_| mix(layer)));
    mixes.chain((0..gateways).map(gateway)).collect()
}

/// What the network document says of a new node, to be reached at `addresses`, with keys of so many epochs.
///
/// # Errors
/// [`StartError::NoLink`] can't happen.
pub fn entry(
    place: &Place,
    keys: &Keys,
    addresses: &[Multiaddr],
    epochs: u32,
    rng: &mut Rng,
) -> Result<NodeEntry, StartError> {
    let keypair = keys.keypair().ok_or(StartError::NoLink)?;
    let of_epochs = keys.ratchet.keys_of(FIRST_EPOCH, epochs).unwrap_or_default();
    let mut service = |is_there: bool, of: fn(&NodeKeys) -> &SecretKey| {
        is_there.then(|| ServiceEntry {
            mailbox: MailboxId::new(draw::bytes(rng)).to_string(),
            stream_key: digits(&of_epochs, of),
        })
    };
    Ok(NodeEntry {
        id: identity::node_id(&keypair).to_string(),
        role: place.role,
        layer: place.layer,
        peer: keypair.public().to_peer_id().to_string(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        sphinx_key: digits(&of_epochs, |keys| &keys.sphinx),
        weight: place.weight,
        operator: String::new(),
        exit: service(place.has_exit, |keys| &keys.exit),
        mail: service(place.role == Role::Gateway, |keys| &keys.mail),
    })
}

/// How a node runs that isn't in the document.
#[derive(Clone)]
pub struct Options {
    /// Whom its gateway admits, and how many.
    pub gateway: mizzle_gateway::Config,
    /// Where its exit connects to.
    pub policy: Policy,
    /// The folder in which it keeps what must outlive it: letters, and what it accepted.
    pub keep: PathBuf,
    /// How much mail it keeps.
    pub mail: Limits,
    /// Threads that peel packets; one at least.
    pub workers: usize,
    /// Bounds on what it holds and remembers.
    pub mix: mizzle_mix::Config,
    /// The share of packets that its links lose on purpose, for trying and testing; else zero.
    pub loss: f64,
}

impl Options {
    /// With this folder, and all else as it is by default.
    #[must_use]
    pub fn keep_in(folder: PathBuf) -> Self {
        Self {
            gateway: mizzle_gateway::Config::default(),
            policy: Policy::default(),
            keep: folder,
            mail: Limits::default(),
            workers: 1,
            mix: mizzle_mix::Config::default(),
            loss: 0.0,
        }
    }
}

/// A node's host, listening. `clients` is how many a gateway may serve at once.
///
/// # Errors
/// When an address can't be had.
pub async fn listen(
    keys: &Keys,
    role: Role,
    transport: Transport,
    addresses: Vec<Multiaddr>,
    network: &NetworkId,
    clients: u32,
) -> Result<Host, StartError> {
    let keypair = keys.keypair().ok_or(StartError::NoLink)?;
    let mut config = HostConfig::new(keypair, transport).with_mix(wire::mix_link(network));
    for address in addresses {
        config = config.with_listen(address);
    }
    if role == Role::Gateway {
        let most = clients.saturating_add(OTHER_CONNECTIONS);
        config = config
            .with_max_incoming(most)
            .with_gateway(wire::gateway_link(clients as usize))
            .with_directory(wire::directory_link());
    } else {
        config = config.with_directory(wire::asking_link());
    }
    Ok(Host::start(config).await?)
}

/// A listening node's cores and links, now that the document says who the others are.
///
/// # Errors
/// When the document doesn't list the node with these keys, or what it has kept can't be read.
pub fn parts(
    mut host: Host,
    keys: Keys,
    document: &Arc<Document>,
    options: Options,
    clock: Clock,
    rng: &mut Rng,
) -> Result<(host::Running, Parts), StartError> {
    let id = identity::node_id(&keys.keypair().ok_or(StartError::NoLink)?);
    let now = clock.now();
    // The exit and the mail are told by the node which keys there are; these are what they begin with.
    let first = keys.ratchet.keys(document.epoch()).ok_or(StartError::NoLink)?;
    let mut mix = MixParts::with_ratchet(
        options.mix,
        Arc::clone(document),
        &id,
        keys.ratchet,
        fork(rng),
        now,
    )?
    .with_workers(options.workers)
    .with_tags_kept(&options.keep)?;
    let mut directory = host.directory.take();
    let gateway_link = host.gateway.take();
    let asking = if gateway_link.is_none() {
        directory.take()
    } else {
        None
    };
    let mut identity = keys.identity;
    mix = mix.with_reports(&mut identity, asking);
    let gateway = match (gateway_link, directory) {
        (Some(link), Some(directory)) => {
            let mut store = Box::new(store::open(&options.keep.join(MAIL), options.mail)?);
            let registered = store.registered()?;
            let core = Gateway::new(options.gateway, Arc::clone(document), &id, registered, fork(rng));
            let listed = document.node(&id);
            let listed_mail = listed.and_then(|n| n.mail.as_ref());
            let mail = listed_mail.map(|_| {
                let config = mizzle_exit::Config::for_mail();
                Exit::for_mail(config, document, &id, *first.mail.expose_bytes(), fork(rng))
            });
            let listed_exit = listed.and_then(|n| n.exit.as_ref());
            let exit = listed_exit.map(|_| {
                let config = mizzle_exit::Config::default();
                let secret = *first.exit.expose_bytes();
                Exit::new(config, document, &id, secret, options.policy, fork(rng))
            });
            Some(GatewayParts {
                core,
                link,
                directory,
                exit,
                mail,
                store,
            })
        }
        _ => None,
    };
    let parts = Parts {
        id,
        document: Arc::clone(document),
        mix,
        link: host.mix.take().ok_or(StartError::NoLink)?,
        gateway,
        loss: options.loss,
    };
    Ok((host.running, parts))
}

/// Where an exit connects to: what is public and what `allowed` says, but never an endpoint of the network itself.
#[must_use]
pub fn policy(document: &Document, allowed: impl IntoIterator<Item = Allow>) -> Policy {
    let endpoints = document
        .nodes()
        .iter()
        .flat_map(|n| &n.addresses)
        .filter_map(|a| wire::socket_address(&a.parse().ok()?));
    Policy::default()
        .with_allowed(allowed)
        .with_refused_endpoints(endpoints)
}

/// The id under which the document lists the node with these keys.
///
/// # Errors
/// [`StartError::NoLink`] can't happen.
pub fn node_id(keys: &Keys) -> Result<NodeId, StartError> {
    Ok(identity::node_id(&keys.keypair().ok_or(StartError::NoLink)?))
}

/// The id of the node whose identity is in this folder.
///
/// # Errors
/// [`StateError`].
pub fn id_in(folder: &Folder) -> Result<NodeId, StateError> {
    let mut secret = folder.secret(IDENTITY_KEY)?;
    // Any 32 bytes are an Ed25519 secret.
    let keypair = identity::keypair(&mut secret).ok_or_else(|| StateError::NotASecret {
        path: folder.path().join(IDENTITY_KEY),
    })?;
    Ok(identity::node_id(&keypair))
}

/// A generator of its own for a part, from that of the whole.
pub fn fork(rng: &mut Rng) -> Rng {
    Rng::from_seed(draw::bytes(rng))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(gateways: u16, exits: u16) -> Vec<f64> {
        let places = places(1, gateways, exits);
        assert_eq!(places.iter().map(|p| p.layer).collect::<Vec<_>>()[..3], [1, 2, 3]);
        places[3..].iter().map(|p| p.weight).collect()
    }

    #[test]
    fn gateways_with_exits_share_four_fifths_of_the_slots() {
        assert_eq!(weights(2, 1), [1.0 - EXIT_WEIGHT, EXIT_WEIGHT]);
        assert_eq!(
            weights(3, 2),
            [1.0 - EXIT_WEIGHT, EXIT_WEIGHT / 2.0, EXIT_WEIGHT / 2.0]
        );
        // Where there is but one sort, all are equal.
        assert_eq!(weights(2, 2), [0.5, 0.5]);
        assert_eq!(weights(4, 0), [0.25; 4]);
    }
}
