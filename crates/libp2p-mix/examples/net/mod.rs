//! What the examples share: some mix peers in this process, over TCP on this machine, that all know each other.
#![allow(dead_code, unreachable_pub, reason = "each example uses its part")]

use std::error::Error;

use futures::StreamExt;
use libp2p::{
    Swarm, SwarmBuilder, identify,
    identity::Keypair,
    noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use libp2p_mix::{Behaviour, Config, Control, Endpoint, MixNode, Policy, SecretKey};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A mix peer with the protocols that most applications have.
#[derive(NetworkBehaviour)]
pub struct Node {
    mix: Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

/// A new identity and mix key. On this machine all addresses are private, so that has to be allowed.
pub fn config() -> Result<Config> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    Ok(
        Config::new(Keypair::generate_secp256k1(), SecretKey::from_bytes(secret))
            .with_exit_policy(Policy::Any),
    )
}

pub fn swarm<B: NetworkBehaviour>(keypair: Keypair, behaviour: B) -> Result<Swarm<B>> {
    Ok(SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_behaviour(|_| behaviour)?
        .build())
}

/// Listens, and goes on in a task.
pub async fn run<B: NetworkBehaviour<ToSwarm: Send>>(mut swarm: Swarm<B>) -> Result<Endpoint>
where
    Swarm<B>: Send,
{
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let endpoint = Endpoint::new(*swarm.local_peer_id(), &address)?;
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    Ok(endpoint)
}

/// A peer that runs, and how others know it.
pub async fn peer(config: Config) -> Result<(Control, MixNode)> {
    let keypair = config.keypair().clone();
    let (mix, control) = Behaviour::new(config)?;
    let identify = identify::Config::new("/example/1.0.0".to_owned(), keypair.public());
    let node = Node {
        mix,
        ping: ping::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
    };
    let endpoint = run(swarm(keypair, node)?).await?;
    let node = MixNode {
        endpoint,
        key: control.mix_public_key(),
    };
    Ok((control, node))
}

/// So many peers, each with all in its pool.
pub async fn network(n: usize, change: impl Fn(Config) -> Config) -> Result<Vec<(Control, MixNode)>> {
    let mut peers = Vec::new();
    for _ in 0..n {
        peers.push(peer(change(config()?)).await?);
    }
    let nodes: Vec<_> = peers.iter().map(|(_, node)| node.clone()).collect();
    for (control, _) in &peers {
        control.pool().set_static(nodes.clone())?;
    }
    Ok(peers)
}
