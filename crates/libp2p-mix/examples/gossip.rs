//! Publishes to a gossipsub topic without a name: an exit that gossips does it for us. `cargo run -p libp2p-mix --features gossipsub --example gossip`
#![allow(clippy::print_stdout, reason = "an example talks")]

mod net;

use futures::StreamExt;
use libp2p::{
    Swarm, gossipsub,
    identity::Keypair,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_mix::{
    Behaviour, Config, Control, Endpoint, MixNode,
    gossip::{NoIdentity, Publication, message_id},
};
use tokio::sync::mpsc;

type Gossip = gossipsub::Behaviour<NoIdentity>;

/// A mix peer that gossips too.
#[derive(NetworkBehaviour)]
struct Gossiper {
    mix: Behaviour,
    gossip: Gossip,
}

/// Messages without a name: no source, no number, no signature, an id of the content, and nothing with more accepted.
fn gossip() -> net::Result<Gossip> {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .message_id_fn(|m| gossipsub::MessageId::from(message_id(m.topic.as_str(), &m.data)))
        .flood_publish(true)
        .build()?;
    let anonymous = gossipsub::MessageAuthenticity::Anonymous;
    Ok(Gossip::new_with_transform(anonymous, config, NoIdentity)?)
}

/// A peer of the topic and of the mixnet, which publishes for others.
async fn gossiper(
    config: Config,
    neighbour: Option<&MixNode>,
    heard: mpsc::Sender<String>,
) -> net::Result<(Control, MixNode)> {
    let keypair: Keypair = config.keypair().clone();
    let (mix, control) = Behaviour::new(config)?;
    let mut gossip = gossip()?;
    gossip.subscribe(&gossipsub::IdentTopic::new("news"))?;
    let mut swarm: Swarm<Gossiper> = net::swarm(keypair, Gossiper { mix, gossip })?;
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let node = MixNode {
        endpoint: Endpoint::new(*swarm.local_peer_id(), &address)?,
        key: control.mix_public_key(),
    };
    if let Some(neighbour) = neighbour {
        swarm.dial(neighbour.endpoint.to_multiaddr())?;
    }
    let mut publications = control.publications(16);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                event = swarm.select_next_some() => {
                    if let SwarmEvent::Behaviour(GossiperEvent::Gossip(gossipsub::Event::Message { message, .. })) = event {
                        let text = String::from_utf8_lossy(&message.data).into_owned();
                        let _ = heard.send(format!("{text:?} from {:?}", message.source)).await;
                    }
                }
                Some(p) = publications.next() => {
                    // Its own mesh may be empty yet: then there is nobody to tell.
                    let _ = swarm.behaviour_mut().gossip.publish(gossipsub::IdentTopic::new(p.topic), p.data);
                }
            }
        }
    });
    Ok((control, node))
}

#[tokio::main]
async fn main() -> net::Result<()> {
    let (heard, mut hears) = mpsc::channel(16);
    let mut peers = net::network(3, |config| config).await?;
    peers.push(gossiper(net::config()?, None, mpsc::channel(16).0).await?);
    let exit = peers[3].1.clone();
    let _reader = gossiper(net::config()?, Some(&exit), heard).await?;
    let nodes: Vec<_> = peers.iter().map(|(_, node)| node.clone()).collect();
    // Nodes pass packets on to those that they know.
    for (control, _) in &peers {
        control.pool().set_static(nodes.clone())?;
    }
    let (sender, _) = &peers[0];
    let publication = Publication {
        topic: "news".to_owned(),
        data: b"nobody said this".to_vec(),
    };
    // Until exit and reader have told each other of their topics, nobody hears it. The same again is the same message.
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
    let told = loop {
        tokio::select! {
            _ = ticks.tick() => sender.publish_by(exit.endpoint.peer, &publication).await?,
            told = hears.recv() => break told,
        }
    };
    println!("the reader hears {}", told.unwrap_or_default());
    Ok(())
}
