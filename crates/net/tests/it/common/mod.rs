//! A small network on loopback sockets, for the tests of its shells: a mix in each layer, a gateway, and a gateway with an
//! exit that may connect to loopback addresses.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests; each file uses its part"
)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use libp2p_mix::link::Frame;
use mizzle_base::document::{Content, NodeEntry, Role, ServiceEntry};
use mizzle_base::{Counters, Document, MailboxId, NetworkId, NodeId, Profile, Rng, hex};
use mizzle_client::Client;
use mizzle_exit::{Allow, Exit, Policy};
use mizzle_gateway::Gateway;
use mizzle_gateway::store::{Limits, MemoryMailStore};
use mizzle_net::client::{self, StartError};
use mizzle_net::clock::{self, Clock};
use mizzle_net::host::{self, Host, HostConfig, Transport};
use mizzle_net::node::{self, Documents, GatewayParts, MixParts, Parts, RunningNode, Snapshot};
use mizzle_net::{MixStream, identity, wire};
use mizzle_sphinx::SecretKey;
use mizzle_stream::{OpenError, OpenRequest, Opener as _, Target};
use rand_core::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{interval, timeout};

/// How long anything may take that takes seconds on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Indices of [`Net::nodes`].
pub const MIX_1: usize = 0;
pub const GATEWAY: usize = 3;
pub const EXIT: usize = 4;

pub struct Net {
    pub clock: Clock,
    pub authority: SigningKey,
    pub content: Content,
    pub document: Arc<Document>,
    pub nodes: Vec<Node>,
    transport: Transport,
}

pub struct Node {
    pub id: NodeId,
    pub keypair: Keypair,
    pub peer: PeerId,
    pub addresses: Vec<Multiaddr>,
    running: Option<(host::Running, RunningNode)>,
}

impl Node {
    pub fn counters(&self) -> Counters {
        self.snapshot().counters
    }

    pub fn snapshot(&self) -> Snapshot {
        self.running.as_ref().expect("it runs").1.snapshot()
    }

    /// What brings it newer documents.
    pub fn documents(&self) -> Documents {
        self.running.as_ref().expect("it runs").1.documents()
    }

    /// Waits until it counted so many.
    pub async fn counted(&self, name: &str, n: u64) {
        wait_until(name, || self.counters().get(name) >= n).await;
    }

    pub async fn stop(&mut self) {
        let (host, node) = self.running.take().expect("it runs");
        within("a node ends", node.stop()).await;
        within("its host ends", host.shutdown()).await;
    }
}

struct Seedling {
    host: Host,
    keypair: Keypair,
    sphinx: SecretKey,
    stream: Option<SecretKey>,
    mail: Option<SecretKey>,
}

pub fn rng() -> Rng {
    clock::rng().expect("entropy")
}

fn bytes<const N: usize>(rng: &mut Rng) -> [u8; N] {
    let mut out = [0; N];
    rng.fill_bytes(&mut out);
    out
}

fn fork(rng: &mut Rng) -> Rng {
    Rng::from_seed(bytes(rng))
}

impl Net {
    pub async fn start() -> Self {
        Self::start_with(Transport::Quic, Profile::browse(), |_, _, addresses| addresses).await
    }

    /// One with another profile, whose nodes are announced at the addresses that `announce` makes of a node's number and its
    /// own.
    pub async fn start_with(
        transport: Transport,
        profile: Profile,
        announce: impl FnMut(Clock, usize, Vec<Multiaddr>) -> Vec<Multiaddr>,
    ) -> Self {
        Self::start_by(Clock::start(), transport, profile, announce).await
    }

    /// One that goes by this clock.
    pub async fn start_by(
        clock: Clock,
        transport: Transport,
        profile: Profile,
        mut announce: impl FnMut(Clock, usize, Vec<Multiaddr>) -> Vec<Multiaddr>,
    ) -> Self {
        let mut rng = rng();
        let authority = SigningKey::from_bytes(&bytes(&mut rng));
        let name = "small".to_string();
        let network = NetworkId::of(authority.verifying_key().as_bytes(), &name);
        let (mut seedlings, mut entries) = (Vec::new(), Vec::new());
        for n in MIX_1..=EXIT {
            let keypair = identity::generate(&mut rng).expect("a key pair");
            let mut config = HostConfig::new(keypair.clone(), transport)
                .with_listen(wire::loopback(transport))
                .with_mix(wire::mix_link(&network));
            if n >= GATEWAY {
                config = config
                    .with_gateway(wire::gateway_link(16))
                    .with_directory(wire::directory_link());
            } else {
                config = config.with_directory(wire::asking_link());
            }
            let host = Host::start(config).await.expect("a free port");
            let sphinx = SecretKey::generate(&mut rng);
            let stream = (n == EXIT).then(|| SecretKey::generate(&mut rng));
            let mail = (n >= GATEWAY).then(|| SecretKey::generate(&mut rng));
            let mut service = |secret: &SecretKey| ServiceEntry {
                mailbox: MailboxId::new(bytes(&mut rng)).to_string(),
                stream_key: hex::encode(secret.public().as_bytes()),
            };
            let announced = announce(clock, n, host.listen.clone());
            entries.push(NodeEntry {
                id: identity::node_id(&keypair).to_string(),
                role: if n < GATEWAY { Role::Mix } else { Role::Gateway },
                layer: if n < GATEWAY { n as u8 + 1 } else { 0 },
                peer: host.peer_id.to_string(),
                addresses: announced.iter().map(ToString::to_string).collect(),
                sphinx_key: hex::encode(sphinx.public().as_bytes()),
                weight: [0.0, 0.0, 0.0, 0.2, 0.8][n],
                operator: String::new(),
                exit: stream.as_ref().map(&mut service),
                mail: mail.as_ref().map(&mut service),
            });
            seedlings.push(Seedling {
                host,
                keypair,
                sphinx,
                stream,
                mail,
            });
        }
        let now_s = clock.now().as_s();
        let content = Content {
            network: name,
            sequence: 7,
            epoch: 1,
            valid_from_s: now_s,
            valid_until_s: now_s + 86_400,
            profile,
            nodes: entries,
        };
        let document = verified(&content, &authority, clock);
        let nodes = seedlings
            .into_iter()
            .map(|seedling| seedling.grow(&document, clock, &mut rng))
            .collect();
        Self {
            clock,
            authority,
            content,
            document,
            nodes,
            transport,
        }
    }

    /// A client that believes in this document.
    pub async fn client_of(
        &self,
        gateway: usize,
        document: Arc<Document>,
    ) -> Result<RunningClient, StartError> {
        let config = mizzle_client::Config::default();
        self.client_with(config, gateway, document).await
    }

    /// The same with other bounds.
    pub async fn client_with(
        &self,
        bounds: mizzle_client::Config,
        gateway: usize,
        document: Arc<Document>,
    ) -> Result<RunningClient, StartError> {
        let mut rng = rng();
        let keypair = identity::generate(&mut rng).expect("a key pair");
        let config = HostConfig::new(keypair, self.transport)
            .with_gateway(wire::client_link())
            .with_directory(wire::asking_link());
        let host = Host::start(config).await.expect("a host");
        let gateway = self.nodes[gateway].id;
        let core = Client::new(bounds, Arc::clone(&document), &gateway, fork(&mut rng));
        let core = core.expect("the document lists the gateway");
        let link = host.gateway.expect("its link");
        let links = (link, host.directory);
        let mut client = client::run_with_reports(core, &document, &gateway, links, 0.0, self.clock, rng)?;
        within("the gateway decides", client.admitted()).await?;
        Ok(RunningClient {
            client,
            _host: host.running,
        })
    }

    pub async fn client(&self) -> RunningClient {
        self.client_of(GATEWAY, Arc::clone(&self.document))
            .await
            .expect("admitted")
    }

    /// A host with all the links of a node, that doesn't listen and is in no document.
    pub async fn stranger(&self, keypair: Option<Keypair>) -> Host {
        let keypair = keypair.unwrap_or_else(|| identity::generate(&mut rng()).expect("a key pair"));
        let config = HostConfig::new(keypair, Transport::Quic)
            .with_mix(wire::mix_link(&self.document.network()))
            .with_gateway(wire::client_link())
            .with_directory(wire::directory_link());
        Host::start(config).await.expect("a host")
    }
}

pub fn verified(content: &Content, authority: &SigningKey, clock: Clock) -> Arc<Document> {
    let signed = content.sign(authority).expect("a sound document");
    Arc::new(Document::verify(&signed, &authority.verifying_key(), clock.now(), 0).expect("a good document"))
}

impl Seedling {
    fn grow(mut self, document: &Arc<Document>, clock: Clock, rng: &mut Rng) -> Node {
        let id = identity::node_id(&self.keypair);
        let now = clock.now();
        let mix = MixParts::new(
            mizzle_mix::Config::default(),
            Arc::clone(document),
            &id,
            self.sphinx,
            fork(rng),
            now,
        );
        let gateway_link = self.host.gateway.take();
        let mut directory = self.host.directory.take();
        let asking = if gateway_link.is_none() {
            directory.take()
        } else {
            None
        };
        let secret = self
            .keypair
            .clone()
            .try_into_ed25519()
            .expect("its kind")
            .secret();
        let mut secret: [u8; 32] = secret.as_ref().try_into().expect("32 bytes");
        let gateway = gateway_link.zip(directory).map(|(link, directory)| {
            let config = mizzle_gateway::Config::default();
            let core = Gateway::new(config, Arc::clone(document), &id, Vec::new(), fork(rng));
            let allowed = Allow::parse("127.0.0.0/8").expect("a range");
            let policy = Policy::default().with_allowed([allowed]);
            let exit = self.stream.map(|secret| {
                let config = mizzle_exit::Config::default();
                Exit::new(config, document, &id, *secret.expose_bytes(), policy, fork(rng))
            });
            GatewayParts {
                core,
                link,
                directory,
                exit,
                mail: self.mail.map(|secret| {
                    let config = mizzle_exit::Config::for_mail();
                    Exit::for_mail(config, document, &id, *secret.expose_bytes(), fork(rng))
                }),
                store: Box::new(MemoryMailStore::in_memory(Limits::default())),
            }
        });
        let link = self.host.mix.take().expect("its link");
        // Two, so that whatever is tested is tested of more than one.
        let mix = mix
            .expect("the document lists it")
            .with_workers(2)
            .with_reports(&mut secret, asking);
        let parts = Parts {
            id,
            document: Arc::clone(document),
            mix,
            link,
            gateway,
            loss: 0.0,
        };
        let node = node::run(parts, clock, fork(rng)).expect("threads");
        Node {
            id,
            keypair: self.keypair,
            peer: self.host.peer_id,
            addresses: self.host.listen,
            running: Some((self.host.running, node)),
        }
    }
}

pub struct RunningClient {
    pub client: client::Running,
    _host: host::Running,
}

impl RunningClient {
    pub async fn open(&self, to: SocketAddr) -> Result<MixStream, OpenError> {
        let request = OpenRequest::fresh(Target::ip(to.ip(), to.port()));
        within("a stream is open or not", self.client.opener().open(request)).await
    }

    /// Waits until so many streams are open or being opened.
    pub async fn streams(&self, n: usize) {
        wait_until("the number of streams", || self.client.snapshot().streams == n).await;
    }
}

/// Whoever carries bytes there and back goes on serving.
pub async fn still_serves(client: &RunningClient) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = client
        .open(listener.local_addr().unwrap())
        .await
        .expect("a connection");
    stream.write_all(b"there").await.unwrap();
    let (mut outside, _) = within("the exit comes", listener.accept()).await.unwrap();
    let mut bytes = [0; 5];
    within("bytes there", outside.read_exact(&mut bytes))
        .await
        .unwrap();
    outside.write_all(b"back!").await.unwrap();
    within("bytes back", stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"back!");
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

pub async fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let mut tick = interval(Duration::from_millis(20));
    within(what, async {
        while !reached() {
            tick.tick().await;
        }
    })
    .await;
}

/// Noise of a length.
pub fn garbage(len: usize) -> Frame {
    let mut out = vec![0; len];
    rng().fill_bytes(&mut out);
    out.into()
}
