//! A whole network in this process: keys, hosts on ports of their own, the signed document, nodes, a client, its SOCKS
//! port. `mizzle up` keeps it running, `mizzle bench` measures it.
//!
//! Every node is its own libp2p host on real sockets; the client gets the document from its gateway as any client would.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{SigningKey, VerifyingKey};
use mizzle_apps::proxy;
use mizzle_base::document::{Content, DocumentError, NodeEntry, Role, ServiceEntry};
use mizzle_base::{Counters, Document, MailboxId, NetworkId, NodeId, Profile, Rng, hex};
use mizzle_exit::{Allow, Exit, Policy};
use mizzle_gateway::Gateway;
use mizzle_gateway::store::{Limits, MemoryMailStore};
use mizzle_mix::Mix;
use mizzle_net::clock::{self, Clock};
use mizzle_net::host::{self, Host, HostConfig, HostError, Transport};
use mizzle_net::node::{GatewayParts, Parts, RunningNode};
use mizzle_net::{client, directory, identity, node, wire};
use mizzle_sphinx::SecretKey;
use mizzle_traffic::draw;
use mizzle_traffic::ledger::Tally;
use rand_core::SeedableRng as _;

use crate::args::NetworkArgs;
use crate::member::{Member, Source};
use crate::plan::EXIT_WEIGHT;

/// The document of such a network outlives any trial.
const VALID: Duration = Duration::from_secs(30 * 86_400);

/// What to start.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The traffic.
    pub profile: Profile,
    transport: Transport,
    mixes_per_layer: u16,
    gateways: u16,
    loss: f64,
    socks: SocketAddr,
}

impl LocalConfig {
    /// A network as the command line describes it; its SOCKS port is any free one of the loopback interface.
    #[must_use]
    pub fn new(profile: Profile, args: &NetworkArgs) -> Self {
        let profile = match args.mean_delay_ms {
            Some(ms) => profile.with_mean_delay_ms(ms),
            None => profile,
        };
        Self {
            profile,
            transport: args.transport.transport(),
            mixes_per_layer: args.mixes_per_layer,
            gateways: args.gateways,
            loss: args.drop_percent / 100.0,
            socks: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        }
    }

    /// Another address for the SOCKS port.
    #[must_use]
    pub fn with_socks(mut self, address: SocketAddr) -> Self {
        self.socks = address;
        self
    }
}

/// Why the network doesn't start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No entropy.
    #[error(transparent)]
    Entropy(std::io::Error),
    /// A host without what it was made with; can't happen.
    #[error("a node's host came up without its links")]
    NoLink,
    /// The SOCKS port.
    #[error(transparent)]
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
}

/// Where a node listens.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Listening {
    /// `mix`, `gateway`, or `gateway with exit`.
    pub role: &'static str,
    /// Layer of a mix; 0 for gateways.
    pub layer: u8,
    /// Multiaddr.
    pub address: String,
}

/// What all parts have done so far.
pub struct Report {
    /// All counters of nodes and client.
    pub counters: Counters,
    /// The client's loops.
    pub client_loops: Tally,
}

/// A running network.
pub struct Local {
    document: Arc<Document>,
    authority: VerifyingKey,
    listening: Vec<Listening>,
    hosts: Vec<host::Running>,
    nodes: Vec<RunningNode>,
    member: Member,
}

/// A node before the document exists.
struct Seedling {
    host: Host,
    role: Role,
    layer: u8,
    id: NodeId,
    sphinx: SecretKey,
    stream: Option<SecretKey>,
    mail: Option<SecretKey>,
}

impl Local {
    /// Starts everything; returns when the client is admitted and the SOCKS port listens.
    ///
    /// # Errors
    /// [`StartError`], in words for a person.
    pub async fn start(config: LocalConfig) -> Result<Self, StartError> {
        let clock = Clock::start();
        let mut rng = clock::rng().map_err(StartError::Entropy)?;
        // First what a user is likeliest to have wrong.
        let door = proxy::Server::bind(proxy::Config::new(config.socks)).await?;
        let authority = SigningKey::from_bytes(&draw::bytes(&mut rng));
        let name = format!("up-{}", hex::encode(&draw::bytes::<4>(&mut rng)));
        let network = NetworkId::of(authority.verifying_key().as_bytes(), &name);
        let seedlings = plant(&config, &network, &mut rng).await?;
        let content = content(&config, name, &seedlings, clock, &mut rng);
        let signed = content.sign(&authority)?;
        let authority = authority.verifying_key();
        let document = Arc::new(Document::verify(&signed, &authority, clock.now(), 0)?);
        let policy = policy(&document, door.local_addr());
        let (mut hosts, mut nodes, mut listening) = (Vec::new(), Vec::new(), Vec::new());
        for seedling in seedlings {
            listening.push(seedling.listening());
            let (host, parts) = seedling.grow(&config, &document, &policy, clock, &mut rng)?;
            hosts.push(host);
            nodes.push(node::run(parts, clock, fork(&mut rng)));
        }
        let source = first_gateway(&document, &mut rng)?;
        let member = Member::start(
            source,
            &authority,
            config.transport,
            door,
            config.loss,
            clock,
            &mut rng,
        )
        .await?;
        Ok(Self {
            document,
            authority,
            listening,
            hosts,
            nodes,
            member,
        })
    }

    /// Where the SOCKS port listens.
    #[must_use]
    pub fn socks(&self) -> SocketAddr {
        self.member.socks()
    }

    /// Where the nodes listen.
    #[must_use]
    pub fn listening(&self) -> &[Listening] {
        &self.listening
    }

    /// The network document.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Who signed it.
    #[must_use]
    pub fn authority(&self) -> &VerifyingKey {
        &self.authority
    }

    /// What all parts have done so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let client = self.member.snapshot();
        let mut counters = client.counters;
        self.nodes
            .iter()
            .for_each(|node| counters.merge(&node.snapshot().counters));
        Report {
            counters,
            client_loops: client.loops,
        }
    }

    /// Stops everything in order: first the client, then nodes and hosts.
    pub async fn stop(self) {
        self.member.stop().await;
        for node in self.nodes {
            node.stop().await;
        }
        // At once: each waits for its connections to close and its port to be free.
        let mut closing: tokio::task::JoinSet<()> =
            self.hosts.into_iter().map(host::Running::shutdown).collect();
        while closing.join_next().await.is_some() {}
    }
}

fn fork(rng: &mut Rng) -> Rng {
    Rng::from_seed(draw::bytes(rng))
}

/// Keys and listening hosts of all nodes.
async fn plant(
    config: &LocalConfig,
    network: &NetworkId,
    rng: &mut Rng,
) -> Result<Vec<Seedling>, StartError> {
    let mixes = (1..=3).flat_map(|layer| (0..config.mixes_per_layer).map(move |_| (Role::Mix, layer, false)));
    let gateways = (1..=config.gateways).map(|n| (Role::Gateway, 0, n == config.gateways));
    let mut seedlings = Vec::new();
    for (role, layer, has_exit) in mixes.chain(gateways) {
        let keypair = identity::generate(rng).ok_or(StartError::NoLink)?;
        let id = identity::node_id(&keypair);
        let mut host = HostConfig::new(keypair, config.transport)
            .with_listen(wire::loopback(config.transport))
            .with_mix(wire::mix_link(network, 1));
        if role == Role::Gateway {
            host = host
                .with_gateway(wire::gateway_link(128))
                .with_directory(wire::directory_link());
        }
        let host = Host::start(host).await?;
        let stream = has_exit.then(|| SecretKey::generate(rng));
        let mail = (role == Role::Gateway).then(|| SecretKey::generate(rng));
        seedlings.push(Seedling {
            host,
            role,
            layer,
            id,
            sphinx: SecretKey::generate(rng),
            stream,
            mail,
        });
    }
    Ok(seedlings)
}

fn content(
    config: &LocalConfig,
    name: String,
    seedlings: &[Seedling],
    clock: Clock,
    rng: &mut Rng,
) -> Content {
    let others = f64::from(config.gateways - 1);
    let mut service = |secret: &SecretKey| ServiceEntry {
        mailbox: MailboxId::new(draw::bytes(rng)).to_string(),
        stream_key: hex::encode(secret.public().as_bytes()),
    };
    let nodes = seedlings.iter().map(|s| NodeEntry {
        id: s.id.to_string(),
        role: s.role,
        layer: s.layer,
        peer: s.host.peer_id.to_string(),
        addresses: s.host.listen.iter().map(ToString::to_string).collect(),
        sphinx_key: hex::encode(s.sphinx.public().as_bytes()),
        weight: match (s.role, &s.stream) {
            (Role::Mix, _) => 0.0,
            (Role::Gateway, Some(_)) => EXIT_WEIGHT,
            (Role::Gateway, None) => (1.0 - EXIT_WEIGHT) / others,
        },
        operator: String::new(),
        exit: s.stream.as_ref().map(&mut service),
        mail: s.mail.as_ref().map(&mut service),
    });
    let now_s = clock.now().as_s();
    Content {
        network: name,
        sequence: 1,
        epoch: 1,
        valid_from_s: now_s,
        valid_until_s: now_s + VALID.as_secs(),
        profile: config.profile.clone(),
        nodes: nodes.collect(),
    }
}

/// Loopback targets are allowed here, but never a port of the network itself.
fn policy(document: &Document, socks: SocketAddr) -> Policy {
    let loopback = ["127.0.0.0/8", "[::1]"]
        .iter()
        .filter_map(|range| Allow::parse(range).ok());
    let endpoints = document
        .nodes()
        .iter()
        .flat_map(|n| &n.addresses)
        .filter_map(|a| wire::socket_address(&a.parse().ok()?));
    Policy::default()
        .with_allowed(loopback)
        .with_refused_endpoints(endpoints.chain([socks]))
}

impl Seedling {
    fn listening(&self) -> Listening {
        let role = match (self.role, &self.stream) {
            (Role::Mix, _) => "mix",
            (Role::Gateway, None) => "gateway",
            (Role::Gateway, Some(_)) => "gateway with exit",
        };
        let address = self
            .host
            .listen
            .first()
            .map(ToString::to_string)
            .unwrap_or_default();
        Listening {
            role,
            layer: self.layer,
            address,
        }
    }

    /// The node's cores and links, now that the document says who the others are.
    fn grow(
        mut self,
        config: &LocalConfig,
        document: &Arc<Document>,
        policy: &Policy,
        clock: Clock,
        rng: &mut Rng,
    ) -> Result<(host::Running, Parts), StartError> {
        let now = clock.now();
        let mix_config = mizzle_mix::Config::default();
        let mix = Mix::new(
            mix_config,
            Arc::clone(document),
            self.id,
            self.sphinx,
            fork(rng),
            now,
        )?;
        let gateway = match (self.host.gateway.take(), self.host.directory.take()) {
            (Some(link), Some(directory)) => {
                let core = Gateway::new(
                    mizzle_gateway::Config::default(),
                    Arc::clone(document),
                    &self.id,
                    Vec::new(),
                    fork(rng),
                );
                let exit = self.stream.map(|secret| {
                    let exit_config = mizzle_exit::Config::default();
                    Exit::new(
                        exit_config,
                        document,
                        &self.id,
                        *secret.expose_bytes(),
                        policy.clone(),
                        fork(rng),
                    )
                });
                let mail = self.mail.map(|secret| {
                    let mail_config = mizzle_exit::Config::for_mail();
                    Exit::for_mail(mail_config, document, &self.id, *secret.expose_bytes(), fork(rng))
                });
                Some(GatewayParts {
                    core,
                    link,
                    directory,
                    exit,
                    mail,
                    // This network ends with its process, and its letters with it.
                    store: Box::new(MemoryMailStore::in_memory(Limits::default())),
                })
            }
            _ => None,
        };
        let link = self.host.mix.take().ok_or(StartError::NoLink)?;
        let parts = Parts {
            id: self.id,
            document: Arc::clone(document),
            mix,
            link,
            gateway,
            tags: None,
            loss: config.loss,
        };
        Ok((self.host.running, parts))
    }
}

/// The address at which the client asks for the document: a gateway that can be its own.
fn first_gateway(document: &Document, rng: &mut Rng) -> Result<Source, StartError> {
    let gateway = client::choose_gateway(document, rng).ok_or(mizzle_client::NoSuchGateway)?;
    let listed = document.node(&gateway).ok_or(mizzle_client::NoSuchGateway)?;
    let peer = listed.peer.parse().map_err(|_| client::StartError::NoPeer)?;
    let address = listed
        .addresses
        .first()
        .and_then(|a| a.parse().ok())
        .ok_or(client::StartError::NoPeer)?;
    Ok(Source::Gateway(peer, address))
}
