//! A client of a network, with its proxy, and its letters if it keeps any: the one in `mizzle up`, and the one of `mizzle client run`.
//!
//! Where the network document comes from is its caller's business; it was verified before anything here is connected or
//! announced.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol};
use mizzle_apps::proxy;
use mizzle_base::{Document, NodeId, Rng};
use mizzle_client::{Client, NoSuchGateway};
use mizzle_net::clock::{Clock, ClockOff};
use mizzle_net::host::{self, Host, HostConfig, Transport};
use mizzle_net::mail::Cursor;
use mizzle_net::{client, directory, identity, wire};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::assemble::{StartError, fork};
use crate::follow::{Follow, Following};
use crate::mail::serve::{Letters, Serving};
use crate::moving::{self, Moving};

/// Between two attempts to reach a gateway that isn't there.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// For a client that stays.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// A gateway that is asked for the network document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Who.
    pub peer: PeerId,
    /// Where.
    pub address: Multiaddr,
}

impl Source {
    /// Reads `/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3Koo…`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut address: Multiaddr = text.parse().ok()?;
        match address.pop()? {
            Protocol::P2p(peer) if !address.is_empty() => Some(Self { peer, address }),
            _ => None,
        }
    }
}

/// Asks a gateway for a document newer than number `known`; empty if it has none. The answer isn't verified here.
///
/// # Errors
/// When none comes in time.
pub async fn fetch(
    source: &Source,
    transport: Transport,
    known: u64,
    rng: &mut Rng,
) -> Result<directory::Answer, StartError> {
    // An identity for this question alone: whoever answers doesn't see who will send.
    let keypair = identity::generate(rng).ok_or(StartError::NoLink)?;
    let config = HostConfig::new(keypair, transport).with_directory(wire::directory_link());
    let Host {
        directory, running, ..
    } = Host::start(config).await?;
    let mut link = directory.ok_or(StartError::NoLink)?;
    let answer = directory::fetch(&mut link, source.peer, vec![source.address.clone()], known).await;
    running.shutdown().await;
    Ok(answer?)
}

/// As whom, through which gateway and how a client joins.
pub struct Join {
    /// The network.
    pub document: Arc<Document>,
    /// Its own gateway.
    pub gateway: NodeId,
    /// Its identity with that gateway.
    pub keypair: Keypair,
    /// How it talks to it.
    pub transport: Transport,
    /// Its invitation; empty where none is needed.
    pub token: Vec<u8>,
    /// The share of packets that its uplink loses on purpose, for trying and testing; else zero.
    pub loss: f64,
    /// For how long a gateway that can't be reached is tried again.
    pub patience: Duration,
    /// Packets that a mix must have in its pool, or nothing is sent; 0: whatever there are.
    pub min_pool: u64,
    /// Its letters; none for a client that keeps nothing.
    pub letters: Option<Letters>,
    /// How it moves to another gateway; none for one that stays.
    pub moving: Option<Moving>,
}

impl Join {
    /// A client with a fresh identity, through any gateway, that gives up at once.
    ///
    /// # Errors
    /// When no gateway of the document can be its own.
    pub fn new(document: Arc<Document>, transport: Transport, rng: &mut Rng) -> Result<Self, StartError> {
        Ok(Self {
            gateway: client::choose_gateway(&document, rng).ok_or(NoSuchGateway)?,
            document,
            keypair: identity::generate(rng).ok_or(StartError::NoLink)?,
            transport,
            token: Vec::new(),
            loss: 0.0,
            patience: Duration::ZERO,
            min_pool: 0,
            letters: None,
            moving: None,
        })
    }
}

/// A running client with its proxy.
pub struct Member {
    document: Arc<Document>,
    /// Of the gateway of the moment.
    hosts: Arc<watch::Sender<Option<host::Running>>>,
    moving: Option<AbortHandle>,
    client: client::Running,
    socks: SocketAddr,
    letters: Option<Serving>,
    stop_proxy: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    following: Option<Following>,
}

impl Member {
    /// Starts it; returns when its gateway has admitted it.
    ///
    /// # Errors
    /// [`StartError`], in words for a person.
    pub async fn start(
        mut join: Join,
        door: proxy::Server,
        clock: Clock,
        rng: &mut Rng,
    ) -> Result<Self, StartError> {
        let mut give_up = Instant::now() + join.patience;
        let mut said = false;
        let letters = join.letters.take();
        let cursor = letters.as_ref().map(Letters::cursor);
        let (host, mut client) = loop {
            match admitted(&join, cursor, clock, rng).await {
                Err(StartError::Client(
                    client::StartError::Unreachable(_) | client::StartError::NoAnswer,
                )) if Instant::now() + PAUSE < give_up => {
                    if !said {
                        tracing::warn!(
                            patience_s = join.patience.as_secs(),
                            "the gateway isn't there yet; trying again"
                        );
                    }
                    said = true;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(StartError::Client(
                    why @ (client::StartError::Unreachable(_) | client::StartError::NoAnswer),
                )) => {
                    // One that is gone for good; unless it is this machine that has no line.
                    let Some(moving) = &mut join.moving else {
                        return Err(why.into());
                    };
                    let way = (join.transport, clock);
                    let Some(next) = moving.find(&join.document, join.gateway, way, rng).await else {
                        return Err(why.into());
                    };
                    join.keypair = moving.keep.settle(&next).map_err(StartError::Moving)?;
                    moving.left(join.gateway, clock);
                    tracing::warn!(
                        "the gateway is away: this client begins with another one, and has another mailbox and address there. Letters \
                         to the old one wait at the old gateway {} for up to 30 days: to fetch them name it as `gateway`",
                        join.gateway
                    );
                    join.gateway = next;
                    give_up = Instant::now() + join.patience;
                }
                outcome => break outcome?,
            }
        };
        let letters = letters
            .and_then(|letters| letters.run(&mut client, Arc::clone(&join.document), join.min_pool, clock));
        let (stop_proxy, stopped) = watch::channel(false);
        let socks = door.local_addr();
        let serving = tokio::spawn(door.serve(client.opener(), stopped));
        let document = Arc::clone(&join.document);
        let hosts = Arc::new(watch::Sender::new(Some(host)));
        let moving = join.moving.take().map(|moving| {
            let ends = (client.mover(), client.observer());
            tokio::spawn(moving::run(
                ends,
                moving,
                join,
                Arc::clone(&hosts),
                clock,
                fork(rng),
            ))
            .abort_handle()
        });
        Ok(Self {
            document,
            hosts,
            moving,
            client,
            socks,
            letters,
            stop_proxy,
            serving,
            following: None,
        })
    }

    /// Looks for newer documents from here on, and compares the clock with what gateways say.
    pub fn follow(&mut self, mut follow: Follow) {
        follow.client = Some(self.client.observer());
        self.following = Some(follow.start(self.client.documents()));
    }

    /// Waits until gateways say that this machine's clock is off by more than it may be; for ever if nothing follows.
    pub async fn clock_off(&self) -> ClockOff {
        match &self.following {
            Some(following) => following.clock_off().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until another client with the same identity has taken this one's place.
    pub async fn replaced(&self) {
        self.client.replaced().await;
    }

    /// Where the proxy listens.
    #[must_use]
    pub fn socks(&self) -> SocketAddr {
        self.socks
    }

    /// The network document.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// What the client has done so far.
    #[must_use]
    pub fn snapshot(&self) -> client::Snapshot {
        self.client.snapshot()
    }

    /// Stops it in order: first the doors, so that programs are told.
    pub async fn stop(self) {
        if let Some(letters) = self.letters {
            letters.stop().await;
        }
        let _ = self.stop_proxy.send(true);
        let _ = self.serving.await;
        if let Some(moving) = self.moving {
            moving.abort();
        }
        self.client.stop().await;
        if let Some(host) = self.hosts.send_replace(None) {
            host.shutdown().await;
        }
    }
}

/// One attempt, which leaves nothing behind if it fails.
async fn admitted(
    join: &Join,
    cursor: Option<Cursor>,
    clock: Clock,
    rng: &mut Rng,
) -> Result<(host::Running, client::Running), StartError> {
    let (document, gateway) = (&join.document, &join.gateway);
    let after = join.moving.as_ref().map_or(NEVER, |moving| moving.after);
    let (running, core, links) = begin(
        join,
        document,
        *gateway,
        join.keypair.clone(),
        (cursor, after),
        rng,
    )
    .await?;
    let mut client = client::run_with_reports(core, document, gateway, links, join.loss, clock, fork(rng))?;
    if let Err(why) = client.admitted().await {
        client.stop().await;
        running.shutdown().await;
        return Err(why.into());
    }
    Ok((running, client))
}

/// A host with an identity, and a client of this gateway on it.
pub(crate) async fn begin(
    join: &Join,
    document: &Arc<Document>,
    gateway: NodeId,
    keypair: Keypair,
    (cursor, after): (Option<Cursor>, Duration),
    rng: &mut Rng,
) -> Result<(host::Running, Client, (host::Link, Option<host::Link>)), StartError> {
    let mut config = mizzle_client::Config::default()
        .with_token(join.token.clone())
        .with_gateway_patience(after)
        .with_min_pool(join.min_pool as f64);
    if let Some(Cursor { generation, next }) = cursor {
        config = config.with_mail(generation, next);
    }
    let core = Client::new(config, Arc::clone(document), &gateway, fork(rng))?;
    let config = HostConfig::new(keypair, join.transport)
        .with_gateway(wire::client_link())
        .with_directory(wire::asking_link());
    let Host {
        gateway: link,
        directory,
        running,
        ..
    } = Host::start(config).await?;
    let link = link.ok_or(StartError::NoLink)?;
    Ok((running, core, (link, directory)))
}
