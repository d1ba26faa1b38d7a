//! Networks of real peers in one process, over memory, TCP or QUIC.
#![allow(
    unreachable_pub,
    reason = "a module of a test program: what it offers is for its siblings"
)]

pub mod by_hand;
pub mod memory;

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    core::{muxing::StreamMuxerBox, transport::Boxed},
    identity::Keypair,
    noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
    yamux,
};
use libp2p_mix::{
    Behaviour, Config, Control, Delays, Destination, Endpoint, Event, MixNode, Policy, SecretKey,
};
use tokio::{sync::mpsc, task::JoinHandle};

pub const PING: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
pub const ECHO: StreamProtocol = StreamProtocol::new("/test/echo/1.0.0");

/// Longest that anything in these tests takes.
pub const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Memory,
    Tcp,
    Quic,
}

impl Over {
    fn listen(self) -> Multiaddr {
        match self {
            Self::Memory => format!("/ip4/127.0.0.1/tcp/{}", memory::free_port()),
            Self::Tcp => "/ip4/127.0.0.1/tcp/0".to_owned(),
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1".to_owned(),
        }
        .parse()
        .unwrap()
    }
}

/// Small delays, and every address allowed: all are on this machine.
pub fn config() -> Config {
    let secret = SecretKey::from_bytes(rand());
    Config::new(Keypair::generate_secp256k1(), secret).into_test()
}

pub trait IntoTest {
    fn into_test(self) -> Self;
}

impl IntoTest for Config {
    fn into_test(self) -> Self {
        self.with_delays(Delays::Exponential {
            mean_ms: 5,
            at_least_ms: 0,
        })
        .with_hold_ms(2)
        .with_forward_policy(Policy::Any)
        .with_exit_policy(Policy::Any)
        .with_read(&PING, libp2p_mix::Read::Exact(32))
        .with_read(&ECHO, libp2p_mix::Read::LengthPrefixed(4000))
    }
}

pub fn rand() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// Exits speak ping as well: rust-libp2p's ping answers nobody who doesn't.
#[derive(NetworkBehaviour)]
struct Node {
    mix: Behaviour,
    ping: ping::Behaviour,
}

/// A peer that runs.
pub struct Peer {
    pub control: Control,
    pub node: MixNode,
    pub events: mpsc::UnboundedReceiver<Event>,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn swarm<B: NetworkBehaviour>(over: Over, keypair: Keypair, behaviour: B) -> Swarm<B> {
    let idle = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(Duration::from_secs(60));
    match over {
        Over::Memory => {
            let transport: Boxed<(PeerId, StreamMuxerBox)> = memory::transport(&keypair);
            let config = idle(libp2p::swarm::Config::with_tokio_executor());
            Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config)
        }
        Over::Tcp => SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(Default::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build(),
        Over::Quic => SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_quic()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build(),
    }
}

/// Listens, and returns where.
pub async fn listen<B: NetworkBehaviour>(over: Over, swarm: &mut Swarm<B>) -> Multiaddr {
    listen_on(swarm, over.listen()).await
}

pub async fn listen_on<B: NetworkBehaviour>(swarm: &mut Swarm<B>, address: Multiaddr) -> Multiaddr {
    swarm.listen_on(address).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

impl Peer {
    pub async fn start(over: Over, config: Config) -> Self {
        Self::start_at(over, config, over.listen()).await
    }

    pub async fn start_at(over: Over, config: Config, address: Multiaddr) -> Self {
        // The keypair for the swarm must be the configuration's.
        let keypair = config.keypair().clone();
        let (mix, control) = Behaviour::new(config).unwrap();
        let ping = ping::Behaviour::default();
        let mut swarm = swarm(over, keypair, Node { mix, ping });
        let address = listen_on(&mut swarm, address).await;
        let node = MixNode::new(control.peer_id(), &address, control.mix_public_key().as_bytes()).unwrap();
        let (told, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                if let SwarmEvent::Behaviour(NodeEvent::Mix(event)) = swarm.select_next_some().await {
                    let _ = told.send(event);
                }
            }
        });
        Self {
            control,
            node,
            events,
            task,
        }
    }

    /// Ends it, and waits until its port is free.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    pub fn peer_id(&self) -> PeerId {
        self.control.peer_id()
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.control.stats().counters.get(name)
    }

    /// Waits until a counter is at least `n`.
    pub async fn until(&self, name: &str, n: u64) {
        until(
            || self.counter(name) >= n,
            || format!("{name}: {:?}", self.control.stats()),
        )
        .await;
    }

    pub fn destination(&self) -> Destination {
        Destination::Peer(self.node.endpoint.clone())
    }

    /// Answers the echo protocol, with what it was sent.
    pub fn serve_echo(&self) -> JoinHandle<()> {
        let mut incoming = self
            .control
            .serve(&ECHO, 1000, Some(libp2p_mix::Read::LengthPrefixed(4000)));
        tokio::spawn(async move {
            while let Some(exchange) = incoming.next().await {
                let body = exchange.body().to_vec();
                let _ = exchange.answer(&body);
            }
        })
    }
}

pub async fn until(mut done: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "{}", what());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `n` peers that all know each other.
pub async fn network(over: Over, n: usize, mut config: impl FnMut(usize) -> Config) -> Vec<Peer> {
    let mut peers = Vec::new();
    for i in 0..n {
        peers.push(Peer::start(over, config(i)).await);
    }
    introduce(&peers);
    peers
}

pub fn introduce(peers: &[Peer]) {
    let nodes: Vec<_> = peers.iter().map(|peer| peer.node.clone()).collect();
    for peer in peers {
        peer.control.pool().set_static(nodes.clone()).unwrap();
    }
}

/// A peer that speaks ping and knows nothing of mixes.
pub async fn ping_peer(over: Over) -> (Endpoint, JoinHandle<()>) {
    let keypair = Keypair::generate_secp256k1();
    let peer = keypair.public().to_peer_id();
    let mut swarm = swarm(over, keypair, ping::Behaviour::default());
    let address = listen(over, &mut swarm).await;
    let task = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    (Endpoint::new(peer, &address).unwrap(), task)
}

/// A body with the varint of its length in front.
pub fn length_prefixed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut len = body.len();
    while len >= 0x80 {
        out.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(body);
    out
}

/// Somebody who speaks the link and not the rest: sends what a test makes.
pub struct Raw {
    pub link: libp2p_mix::link::Control,
    /// Kept: a link whose receiver is gone takes no streams.
    _receiver: libp2p_mix::link::Receiver,
    task: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Raw {
    pub async fn start(over: Over) -> Self {
        use libp2p_mix::link;
        let config = link::Config::new(libp2p_mix::PROTOCOL, link::FrameLen::AtMost(20_000));
        let (behaviour, link, _receiver) = link::Behaviour::new(config);
        let mut swarm = swarm(over, Keypair::generate_secp256k1(), behaviour);
        let task = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self {
            link,
            _receiver,
            task,
        }
    }

    pub fn send(&mut self, to: &Endpoint, frame: Vec<u8>) {
        if !self.link.is_known(&to.peer) {
            self.link.add_peer(to.peer, vec![to.address.clone()]);
        }
        self.link.try_send(&to.peer, frame.into()).unwrap();
    }
}

/// A packet along three to five peers, made by hand.
pub fn packet<'a>(
    dialect: libp2p_mix::Dialect,
    path: impl AsRef<[&'a Peer]>,
    destination: [u8; 94],
    message: &[u8; 3968],
    delay_ms: u16,
) -> Vec<u8> {
    use mizzle_sphinx::{Hop, Packet, build_with_secret};
    let path = path.as_ref();
    let blocks: Vec<_> = path.iter().map(|p| p.node.endpoint.block().unwrap()).collect();
    let hops: Vec<_> = path
        .iter()
        .zip(&blocks)
        .enumerate()
        .map(|(at, (peer, address))| Hop {
            key: &peer.node.key,
            address,
            delay_ms: if at == path.len() - 1 { 0 } else { delay_ms },
        })
        .collect();
    let mut packet = Packet::zeroed();
    build_with_secret(dialect, rand(), &hops, &destination, message, &mut packet).unwrap();
    packet.as_bytes().to_vec()
}
