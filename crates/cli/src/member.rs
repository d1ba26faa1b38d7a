//! A client of a network, with its SOCKS port: the one in `mizzle up`, and the one of `mizzle client run`.
//!
//! The network document comes from a file or from a gateway; either way it is verified against the authority that the
//! user trusts before anything is connected or announced.

use std::net::SocketAddr;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use mizzle_apps::proxy;
use mizzle_base::{Document, Rng};
use mizzle_client::{Client, NoSuchGateway};
use mizzle_net::clock::Clock;
use mizzle_net::host::{self, Host, HostConfig, Transport};
use mizzle_net::{client, directory, identity, wire};
use mizzle_traffic::draw;
use rand_core::SeedableRng as _;
use tokio::sync::watch;

use crate::local::StartError;

/// Where the network document comes from.
pub enum Source {
    /// These bytes, read from a file.
    Bytes(Vec<u8>),
    /// A gateway.
    Gateway(PeerId, Multiaddr),
}

impl Source {
    /// Reads `/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3Koo…`.
    #[must_use]
    pub fn gateway(text: &str) -> Option<Self> {
        let mut address: Multiaddr = text.parse().ok()?;
        match address.pop()? {
            Protocol::P2p(peer) => Some(Self::Gateway(peer, address)),
            _ => None,
        }
    }
}

/// A running client with its SOCKS port.
pub struct Member {
    document: Arc<Document>,
    hosts: Vec<host::Running>,
    client: client::Running,
    socks: SocketAddr,
    stop_socks: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
}

impl Member {
    /// Starts it; returns when its gateway has admitted it. `loss` is the share of packets that its uplink loses on
    /// purpose.
    ///
    /// # Errors
    /// [`StartError`], in words for a person.
    pub async fn start(
        source: Source,
        authority: &VerifyingKey,
        transport: Transport,
        door: proxy::Server,
        loss: f64,
        clock: Clock,
        rng: &mut Rng,
    ) -> Result<Self, StartError> {
        let mut hosts = Vec::new();
        let bytes = match source {
            Source::Bytes(bytes) => bytes,
            Source::Gateway(peer, address) => {
                // An identity for this question alone: whoever answers doesn't see who will send.
                let config = host_config(transport, rng)?.with_directory(wire::directory_link());
                let Host {
                    directory, running, ..
                } = Host::start(config).await?;
                hosts.push(running);
                let mut link = directory.ok_or(StartError::NoLink)?;
                directory::fetch(&mut link, peer, vec![address], 0).await?
            }
        };
        let document = Arc::new(Document::verify(&bytes, authority, clock.now(), 0)?);
        let gateway = client::choose_gateway(&document, rng).ok_or(NoSuchGateway)?;
        let config = host_config(transport, rng)?.with_gateway(wire::client_link());
        let Host {
            gateway: link,
            running,
            ..
        } = Host::start(config).await?;
        hosts.push(running);
        let link = link.ok_or(StartError::NoLink)?;
        let core = Client::new(
            mizzle_client::Config::default(),
            Arc::clone(&document),
            &gateway,
            fork(rng),
        )?;
        let mut client = client::run(core, &document, &gateway, link, loss, clock, fork(rng))?;
        client.admitted().await?;
        let (stop_socks, stopped) = watch::channel(false);
        let socks = door.local_addr();
        let serving = tokio::spawn(door.serve(client.opener(), stopped));
        Ok(Self {
            document,
            hosts,
            client,
            socks,
            stop_socks,
            serving,
        })
    }

    /// Where the SOCKS port listens.
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

    /// Stops it in order: first the door, so that programs are told.
    pub async fn stop(self) {
        let _ = self.stop_socks.send(true);
        let _ = self.serving.await;
        self.client.stop().await;
        for host in self.hosts {
            host.shutdown().await;
        }
    }
}

/// A host with a fresh identity that doesn't listen.
fn host_config(transport: Transport, rng: &mut Rng) -> Result<HostConfig, StartError> {
    Ok(HostConfig::new(
        identity::generate(rng).ok_or(StartError::NoLink)?,
        transport,
    ))
}

fn fork(rng: &mut Rng) -> Rng {
    Rng::from_seed(draw::bytes(rng))
}
