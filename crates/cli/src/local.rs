//! A whole network in this process: keys, hosts on ports of their own, the signed document, nodes, a client, its SOCKS
//! port. `mizzle up` keeps it running, `mizzle bench` measures it.
//!
//! Every node is its own libp2p host on real sockets; the client gets the document from its gateway as any client would.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{SigningKey, VerifyingKey};
use mizzle_apps::proxy;
use mizzle_base::document::Content;
use mizzle_base::{Counters, Document, NetworkId, Profile, Rng, hex};
use mizzle_exit::{Allow, Policy};
use mizzle_net::clock::{self, Clock};
use mizzle_net::host::{self, Host, Transport};
use mizzle_net::node::RunningNode;
use mizzle_net::{client, node, wire};
use mizzle_traffic::draw;
use mizzle_traffic::ledger::Tally;

use crate::args::NetworkArgs;
use crate::assemble::{self, FIRST_EPOCH, Keys, Place, StartError, fork};
use crate::member::{self, Join, Member, Source};

/// Clients that a gateway of such a network can link.
const CLIENTS: u32 = 128;
/// The document of such a network outlives any trial: 30 epochs of a day.
const EPOCHS: u32 = 30;
const EPOCH: Duration = Duration::from_secs(86_400);

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
    place: Place,
    keys: Keys,
    host: Host,
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
        let content = content(&config, name, &seedlings, clock, &mut rng)?;
        let signed = content.sign(&authority)?;
        let authority = authority.verifying_key();
        let document = Arc::new(Document::verify(&signed, &authority, clock.now(), 0)?);
        let options = assemble::Options {
            policy: policy(&document, door.local_addr()),
            loss: config.loss,
            ..assemble::Options::default()
        };
        let (mut hosts, mut nodes, mut listening) = (Vec::new(), Vec::new(), Vec::new());
        for seedling in seedlings {
            listening.push(seedling.listening());
            let Seedling { keys, host, .. } = seedling;
            let (host, parts) = assemble::parts(host, keys, &document, options.clone(), clock, &mut rng)?;
            hosts.push(host);
            nodes.push(node::run(parts, clock, fork(&mut rng)).map_err(StartError::Thread)?);
        }
        // As any client: the document comes from a gateway.
        let source = first_gateway(&document, &mut rng)?;
        let answer = member::fetch(&source, config.transport, 0, &mut rng).await?;
        let document = Arc::new(Document::verify(&answer.document, &authority, clock.now(), 0)?);
        let mut join = Join::new(Arc::clone(&document), config.transport, &mut rng)?;
        join.loss = config.loss;
        let member = Member::start(join, door, clock, &mut rng).await?;
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

/// Keys and listening hosts of all nodes.
async fn plant(
    config: &LocalConfig,
    network: &NetworkId,
    rng: &mut Rng,
) -> Result<Vec<Seedling>, StartError> {
    let mut seedlings = Vec::new();
    for place in assemble::places(config.mixes_per_layer, config.gateways, 1) {
        let keys = Keys::generate(rng);
        let (transport, address) = (config.transport, wire::loopback(config.transport));
        let listening = assemble::listen(&keys, place.role, transport, vec![address], network, CLIENTS);
        let host = listening.await?;
        seedlings.push(Seedling { place, keys, host });
    }
    Ok(seedlings)
}

fn content(
    config: &LocalConfig,
    name: String,
    seedlings: &[Seedling],
    clock: Clock,
    rng: &mut Rng,
) -> Result<Content, StartError> {
    let nodes = seedlings
        .iter()
        .map(|s| assemble::entry(&s.place, &s.keys, &s.host.listen, EPOCHS, rng));
    let now_s = clock.now().as_s();
    Ok(Content {
        network: name,
        sequence: 1,
        epoch: FIRST_EPOCH,
        valid_from_s: now_s,
        valid_until_s: now_s + (EPOCH * EPOCHS).as_secs(),
        profile: config.profile.clone(),
        nodes: nodes.collect::<Result<_, _>>()?,
    })
}

/// Loopback targets are allowed here, but never a port of the network itself.
fn policy(document: &Document, socks: SocketAddr) -> Policy {
    let loopback = ["127.0.0.0/8", "[::1]"]
        .iter()
        .filter_map(|range| Allow::parse(range).ok());
    assemble::policy(document, loopback).with_refused_endpoints([socks])
}

impl Seedling {
    fn listening(&self) -> Listening {
        let address = self
            .host
            .listen
            .first()
            .map(ToString::to_string)
            .unwrap_or_default();
        Listening {
            role: self.place.role_name(),
            layer: self.place.layer,
            address,
        }
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
    Ok(Source { peer, address })
}
