//! The swarm of `mizzle peer`: mix, ping and identify over TCP, QUIC and circuit relays, in a task of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, connection_limits, identify, noise, ping, relay, tcp, yamux};
use libp2p_mix::{Behaviour, Config, Control, Event, Read};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{ECHO, Failure, PING, pong};

/// How long an address to listen on may take.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections may take to close at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that others may open.
const MAX_INCOMING: u32 = 4096;
const MAX_PER_PEER: u32 = 8;
/// Requests to echo and ping that wait.
const WAITING: usize = 256;

#[derive(NetworkBehaviour)]
struct Node {
    limits: connection_limits::Behaviour,
    mix: Behaviour,
    /// Takes the pings of others; before `ping`, which would take them too and only asks.
    pong: pong::Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    relay: relay::client::Behaviour,
}

/// A peer that runs.
pub(super) struct Running {
    pub(super) control: Control,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// Closes all connections.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Starts a peer and returns once it listens.
pub(super) async fn start(config: Config, listen: &[Multiaddr]) -> Result<Running, Failure> {
    let keypair = config.keypair().clone();
    let (mix, control) = Behaviour::new(config)?;
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_INCOMING / 16))
        .with_max_established_incoming(Some(MAX_INCOMING))
        .with_max_established_per_peer(Some(MAX_PER_PEER));
    // The name of the program says nothing about who runs it; the version would.
    let identify = identify::Config::new("/mizzle/peer".to_owned(), keypair.public())
        .with_agent_version("libp2p-mix".to_owned());
    let node = |relay| Node {
        limits: connection_limits::Behaviour::new(limits),
        mix,
        pong: pong::Behaviour,
        ping: ping::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
        relay,
    };
    let mut swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .map_err(|e| Failure::Argument("--identity-key", e.to_string()))?
        .with_quic()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .map_err(|e| Failure::Argument("--identity-key", e.to_string()))?
        .with_behaviour(|_, relay| node(relay))
        .map_err(|e| Failure::Argument("--identity-key", e.to_string()))?
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(60)))
        .build();
    for address in listen {
        listen_on(&mut swarm, address).await?;
    }
    serve(&control);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(drive(swarm, stopped));
    Ok(Running { control, stop, task })
}

async fn listen_on(swarm: &mut Swarm<Node>, address: &Multiaddr) -> Result<(), Failure> {
    let failed = |why: String| Failure::Listen(address.clone(), why);
    let wanted = swarm
        .listen_on(address.clone())
        .map_err(|e| failed(e.to_string()))?;
    let listening = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, .. } if listener_id == wanted => return Ok(()),
                SwarmEvent::ListenerClosed {
                    listener_id,
                    reason: Err(e),
                    ..
                } if listener_id == wanted => {
                    return Err(failed(e.to_string()));
                }
                SwarmEvent::ListenerError { listener_id, error } if listener_id == wanted => {
                    return Err(failed(error.to_string()));
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(LISTEN_TIMEOUT, listening)
        .await
        .unwrap_or_else(|_| Err(failed("the system did not say that it is ready".to_owned())))
}

/// Echo for all, and ping for those who ask by the mixnet; the others have `pong`.
fn serve(control: &Control) {
    let most = libp2p_mix::message::max_reply_len(libp2p_mix::Dialect::Lioness);
    for (codec, direct) in [(ECHO, Some(Read::LengthPrefixed(most))), (PING, None)] {
        let mut requests = control.serve(&codec, WAITING, direct);
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let body = request.body().to_vec();
                if let Err(error) = request.answer(&body) {
                    tracing::debug!(%error, "no echo");
                }
            }
        });
    }
}

async fn drive(mut swarm: Swarm<Node>, mut stopped: oneshot::Receiver<()>) {
    loop {
        let event = tokio::select! {
            event = swarm.select_next_some() => event,
            _ = &mut stopped => break,
        };
        match event {
            SwarmEvent::Behaviour(NodeEvent::Mix(Event::ReplayMemoryFull)) => tracing::error!(
                "as many packets were accepted as can be remembered, and no further ones are: start with another --mix-key"
            ),
            SwarmEvent::Behaviour(NodeEvent::Mix(Event::ReplayStoreFailed(why))) => {
                tracing::error!(
                    why,
                    "the file of --replay cannot be written: no further packets are accepted"
                );
            }
            SwarmEvent::ListenerClosed {
                reason: Err(error), ..
            } => tracing::error!(%error, "no longer listening"),
            // Names peers and addresses.
            event => tracing::debug!(?event, "swarm"),
        }
    }
    let peers: BTreeSet<_> = swarm.connected_peers().copied().collect();
    for peer in peers {
        let _ = swarm.disconnect_peer_id(peer);
    }
    let closed = async {
        while swarm.connected_peers().next().is_some() {
            swarm.select_next_some().await;
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
}
