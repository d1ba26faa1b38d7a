//! The libp2p host of a process: sockets, connections and the [links](libp2p_mix::link) on them.
//!
//! [`Host::start`] listens, or says what address it cannot have and why, and leaves a task that drives the swarm.
//! There are no discovery, identify or ping protocols: a host dials the addresses that its owner
//! [adds](Control::add_peer) and no others, and tells a peer nothing but the protocols that it has links for. What
//! the frames mean is left to the shells of node and client.

mod sockets;

use futures::{FutureExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Swarm, connection_limits,
    core::transport::ListenerId,
    identity::Keypair,
    swarm::{self, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
};
use libp2p_mix::link::{self, Control, Receiver};
use sockets::{CONNECT_TIMEOUT, Socket, cannot_listen, socket, transport};
use std::{
    io,
    net::{TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{interval, timeout},
};

/// How long connections may take to close, and the sockets to become free, at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// What connections run over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// QUIC version 1.
    #[default]
    Quic,
    /// TCP without delay, Noise and yamux.
    Tcp,
    /// Whichever the address names.
    Both,
}

/// How a host is set up.
#[derive(Debug)]
pub struct HostConfig {
    keypair: Keypair,
    transport: Transport,
    listen: Vec<Multiaddr>,
    mix: Option<link::Config>,
    gateway: Option<link::Config>,
    directory: Option<link::Config>,
    max_incoming: u32,
    max_per_peer: u32,
    max_streams: u32,
    stream_window: u32,
    idle_timeout: Duration,
}

impl HostConfig {
    /// A host without links that does not listen.
    #[must_use]
    pub fn new(keypair: Keypair, transport: Transport) -> Self {
        Self {
            keypair,
            transport,
            listen: Vec::new(),
            mix: None,
            gateway: None,
            directory: None,
            max_incoming: 4096,
            max_per_peer: 4,
            max_streams: 64,
            stream_window: 1024 * 1024,
            idle_timeout: Duration::from_secs(30),
        }
    }

    /// An address to listen on, one for each call: `/ip4/127.0.0.1/udp/0/quic-v1`, `/ip4/127.0.0.1/tcp/0`. Port 0
    /// takes a free one. Clients don't listen.
    #[must_use]
    pub fn with_listen(mut self, address: Multiaddr) -> Self {
        self.listen.push(address);
        self
    }

    /// The link that carries packets between nodes.
    #[must_use]
    pub fn with_mix(mut self, config: link::Config) -> Self {
        self.mix = Some(config);
        self
    }

    /// The link between clients and gateways.
    #[must_use]
    pub fn with_gateway(mut self, config: link::Config) -> Self {
        self.gateway = Some(config);
        self
    }

    /// The link that carries the network document.
    #[must_use]
    pub fn with_directory(mut self, config: link::Config) -> Self {
        self.directory = Some(config);
        self
    }

    /// Connections that others may open to us, default 4096; more are closed at once. Each takes some 20 KB idle
    /// and up to four [stream windows](Self::with_stream_window) while its streams are not read.
    #[must_use]
    pub fn with_max_incoming(mut self, connections: u32) -> Self {
        self.max_incoming = connections;
        self
    }

    /// Connections with one peer, default 4: room for two that dialled each other and for one that comes back from
    /// another network while its old connections are not known to be dead.
    #[must_use]
    pub fn with_max_connections_per_peer(mut self, connections: u32) -> Self {
        self.max_per_peer = connections;
        self
    }

    /// Streams that a peer may hold open on one connection, all links together; default 64.
    #[must_use]
    pub fn with_max_streams(mut self, streams: u32) -> Self {
        self.max_streams = streams;
        self
    }

    /// Bytes that a peer may have under way to us on one QUIC stream; default 1 MiB, four times that on the
    /// connection. It bounds the rate (window / round trip) and, at the other end, how many frames its transport
    /// takes before its send queue fills: a client that wants to be told early of a slow link sets it to what its
    /// downlink needs in one round trip. yamux tunes its own windows, from 256 KiB.
    #[must_use]
    pub fn with_stream_window(mut self, bytes: u32) -> Self {
        self.stream_window = bytes;
        self
    }

    /// How long a connection without streams is kept; default 30 s.
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }
}

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// An address to listen on cannot be had.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// As `host:port` where it has that form.
        address: String,
        /// For people.
        reason: String,
    },
    /// The key pair does not serve for the handshake.
    #[error("the identity key cannot be used: {0}")]
    Identity(String),
}

/// Both ends of a link, for its owner.
#[derive(Debug)]
pub struct Link {
    /// Sends, and says whom to know.
    pub control: Control,
    /// Where frames arrive.
    pub receiver: Receiver,
}

/// A host that runs. Take it apart: each field goes to who uses it.
#[derive(Debug)]
pub struct Host {
    /// Who we are.
    pub peer_id: PeerId,
    /// Where we listen, with the real ports. A wildcard address is there once for each interface.
    pub listen: Vec<Multiaddr>,
    /// The link that carries packets, if the config has it.
    pub mix: Option<Link>,
    /// The link between clients and gateways, if the config has it.
    pub gateway: Option<Link>,
    /// The link that carries the network document, if the config has it.
    pub directory: Option<Link>,
    /// Ends the host when dropped.
    pub running: Running,
}

/// The task of a host. Dropping it closes all connections and ends the task soon after.
#[derive(Debug)]
pub struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    connections: Arc<AtomicUsize>,
}

impl Running {
    /// Connections now, in both directions.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Closes all connections, ends the task and frees the ports; two seconds each at most.
    pub async fn shutdown(self) {
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the host's task broke");
        }
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    // First: what it refuses costs the links nothing.
    limits: connection_limits::Behaviour,
    mix: Toggle<link::Behaviour>,
    gateway: Toggle<link::Behaviour>,
    directory: Toggle<link::Behaviour>,
}

impl Host {
    /// Starts a host in the current tokio runtime and returns once it listens.
    ///
    /// # Errors
    /// An address that cannot be listened on, with the reason; an identity that cannot be used.
    pub async fn start(config: HostConfig) -> Result<Self, HostError> {
        let peer_id = config.keypair.public().to_peer_id();
        let transport = transport(&config)?;
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(config.max_incoming.min(256)))
            .with_max_established_incoming(Some(config.max_incoming))
            .with_max_established_per_peer(Some(config.max_per_peer));
        let (mix, mix_link) = split(config.mix);
        let (gateway, gateway_link) = split(config.gateway);
        let (directory, directory_link) = split(config.directory);
        let behaviour = Behaviour {
            limits: connection_limits::Behaviour::new(limits),
            mix,
            gateway,
            directory,
        };
        let swarm_config =
            swarm::Config::with_tokio_executor().with_idle_connection_timeout(config.idle_timeout);
        let mut swarm = Swarm::new(transport, behaviour, peer_id, swarm_config);

        let listen = listen(&mut swarm, &config.listen).await?;
        let (stop, stopped) = oneshot::channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(run(swarm, listen.clone(), connections.clone(), stopped));
        Ok(Self {
            peer_id,
            listen,
            mix: mix_link,
            gateway: gateway_link,
            directory: directory_link,
            running: Running {
                stop,
                task,
                connections,
            },
        })
    }

    /// [`Running::shutdown`] for a host that was not taken apart.
    pub async fn shutdown(self) {
        self.running.shutdown().await;
    }
}

fn split(config: Option<link::Config>) -> (Toggle<link::Behaviour>, Option<Link>) {
    match config.map(link::Behaviour::new) {
        Some((behaviour, control, receiver)) => (Some(behaviour).into(), Some(Link { control, receiver })),
        None => (None.into(), None),
    }
}

/// Listens on all addresses and returns those that were got.
async fn listen(swarm: &mut Swarm<Behaviour>, wanted: &[Multiaddr]) -> Result<Vec<Multiaddr>, HostError> {
    let mut waiting: Vec<(ListenerId, &Multiaddr)> = Vec::new();
    for address in wanted {
        // Ours first: libp2p wraps what the system says out of reach, and listens over TCP with SO_REUSEPORT, so
        // that a second node would silently share the port with the first.
        match socket(address) {
            Some(Socket::Tcp(socket)) => TcpListener::bind(socket).map(drop),
            Some(Socket::Udp(socket)) => UdpSocket::bind(socket).map(drop),
            None => Ok(()),
        }
        .map_err(|error| cannot_listen(address, &error))?;
        let id = swarm
            .listen_on(address.clone())
            .map_err(|error| cannot_listen(address, &error))?;
        waiting.push((id, address));
    }
    let mut listening = Vec::new();
    while let Some(&(_, slow)) = waiting.first() {
        let Ok(event) = timeout(CONNECT_TIMEOUT, swarm.select_next_some()).await else {
            return Err(cannot_listen(slow, &io::Error::from(io::ErrorKind::TimedOut)));
        };
        match event {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                waiting.retain(|(id, _)| *id != listener_id);
                listening.push(address);
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            }
            | SwarmEvent::ListenerError { listener_id, error } => {
                if let Some((_, address)) = waiting.iter().find(|(id, _)| *id == listener_id) {
                    return Err(cannot_listen(address, &error));
                }
            }
            _ => {}
        }
    }
    // The other interfaces of a wildcard address are there with the first.
    while let Some(Some(event)) = swarm.next().now_or_never() {
        if let SwarmEvent::NewListenAddr { address, .. } = event {
            listening.push(address);
        }
    }
    Ok(listening)
}

/// Drives the swarm until it is told to stop, or nobody is left to tell it.
async fn run(
    mut swarm: Swarm<Behaviour>,
    listening: Vec<Multiaddr>,
    connections: Arc<AtomicUsize>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        tokio::select! {
            event = swarm.select_next_some() => log(&event),
            _ = &mut stopped => break,
        }
        let counters = swarm.network_info();
        connections.store(
            counters.connection_counters().num_established() as usize,
            Ordering::Relaxed,
        );
    }
    let peers: Vec<PeerId> = swarm.connected_peers().copied().collect();
    for peer in peers {
        let _ = swarm.disconnect_peer_id(peer);
    }
    let closed = async {
        while swarm.connected_peers().next().is_some() {
            swarm.select_next_some().await;
        }
    };
    let _ = timeout(SHUTDOWN_TIMEOUT, closed).await;
    drop(swarm);
    connections.store(0, Ordering::Relaxed);
    // A QUIC socket outlives its connections by some round trips; who restarts us wants its port.
    let free = async {
        let mut ticks = interval(Duration::from_millis(5));
        for address in &listening {
            if let Some(Socket::Udp(socket)) = socket(address) {
                while UdpSocket::bind(socket).is_err() {
                    ticks.tick().await;
                }
            }
        }
    };
    let _ = timeout(SHUTDOWN_TIMEOUT, free).await;
}

fn log(event: &SwarmEvent<BehaviourEvent>) {
    match event {
        SwarmEvent::ListenerClosed {
            reason: Err(error), ..
        } => {
            tracing::error!(%error, "no longer listening");
        }
        // Names peers and addresses.
        event => tracing::debug!(?event, "swarm"),
    }
}
