//! Gossip without a name on it, both ways, and what has a name is refused.

use crate::common::*;
use futures::StreamExt;
use libp2p::{
    Multiaddr,
    gossipsub::{self, DataTransform, IdentTopic},
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_mix::{
    Behaviour, Control, MixNode,
    gossip::{NoIdentity, Publication, message_id},
};
use tokio::sync::mpsc;

#[derive(NetworkBehaviour)]
struct Gossiper {
    mix: Behaviour,
    gossip: gossipsub::Behaviour<NoIdentity>,
}

/// A peer of the topic that publishes for others; what it hears comes out of the receiver.
async fn gossiper(
    dial: Option<Multiaddr>,
) -> (Control, MixNode, mpsc::UnboundedReceiver<gossipsub::Message>) {
    let config = config();
    let keypair = config.keypair().clone();
    let (mix, control) = Behaviour::new(config).unwrap();
    let settings = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .message_id_fn(|m| gossipsub::MessageId::from(message_id(m.topic.as_str(), &m.data)))
        .flood_publish(true)
        .build()
        .unwrap();
    let mut gossip = gossipsub::Behaviour::new_with_transform(
        gossipsub::MessageAuthenticity::Anonymous,
        settings,
        NoIdentity,
    )
    .unwrap();
    gossip.subscribe(&IdentTopic::new("news")).unwrap();
    let mut swarm = swarm(Over::Memory, keypair, Gossiper { mix, gossip });
    let address = listen(Over::Memory, &mut swarm).await;
    let node = MixNode::new(control.peer_id(), &address, control.mix_public_key().as_bytes()).unwrap();
    if let Some(address) = dial {
        swarm.dial(address).unwrap();
    }
    let (heard, hears) = mpsc::unbounded_channel();
    let mut publications = control.publications(16);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                event = swarm.select_next_some() => {
                    if let SwarmEvent::Behaviour(GossiperEvent::Gossip(gossipsub::Event::Message { message, .. })) = event {
                        let _ = heard.send(message);
                    }
                }
                Some(p) = publications.next() => {
                    let _ = swarm.behaviour_mut().gossip.publish(IdentTopic::new(p.topic), p.data);
                }
            }
        }
    });
    (control, node, hears)
}

#[tokio::test]
async fn an_exit_publishes_to_a_topic_without_a_name() {
    let relays = network(Over::Memory, 3, |_| config()).await;
    let (exit, exit_node, _quiet) = gossiper(None).await;
    let (_reader, _, mut hears) = gossiper(Some(exit_node.endpoint.to_multiaddr())).await;
    let mut nodes: Vec<_> = relays.iter().map(|p| p.node.clone()).collect();
    nodes.push(exit_node);
    let sender = &relays[0].control;
    sender.pool().set_static(nodes).unwrap();
    let publication = Publication {
        topic: "news".to_owned(),
        data: b"published".to_vec(),
    };
    // Until exit and reader have told each other of their topics, nobody hears what it publishes: so again and again, with
    // the same content, which is one message.
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
    let heard = tokio::time::timeout(LIMIT, async {
        loop {
            tokio::select! {
                _ = ticks.tick() => sender.publish_by(exit.peer_id(), &publication).await.unwrap(),
                heard = hears.recv() => return heard.unwrap(),
            }
        }
    });
    let heard = heard.await.unwrap();
    assert_eq!(
        (heard.data, heard.source, heard.sequence_number),
        (publication.data, None, None)
    );
}

#[tokio::test]
async fn an_exit_hands_a_message_to_a_peer_of_the_topic_as_it_was_written() {
    let relays = network(Over::Memory, 4, |_| config()).await;
    let reader = Peer::start(Over::Memory, config()).await;
    let read = libp2p_mix::Read::LengthPrefixed(1000);
    let mut hears = reader
        .control
        .serve(&libp2p_mix::gossip::MESHSUB_PROTOCOL, 10, Some(read));
    let publication = Publication {
        topic: "news".to_owned(),
        data: b"handed over".to_vec(),
    };
    relays[0]
        .control
        .publish_to(reader.node.endpoint.clone(), &publication)
        .await
        .unwrap();
    let heard = tokio::time::timeout(LIMIT, hears.next()).await.unwrap().unwrap();
    assert_eq!(heard.body(), publication.rpc());
}

#[test]
fn what_is_left_of_an_identity_is_refused() {
    let anonymous = gossipsub::RawMessage {
        source: None,
        data: b"x".to_vec(),
        sequence_number: None,
        topic: IdentTopic::new("news").hash(),
        signature: None,
        key: None,
        validated: false,
    };
    assert!(NoIdentity.inbound_transform(anonymous.clone()).is_ok());
    let named = [
        gossipsub::RawMessage {
            source: Some(libp2p::PeerId::random()),
            ..anonymous.clone()
        },
        gossipsub::RawMessage {
            sequence_number: Some(1),
            ..anonymous.clone()
        },
        gossipsub::RawMessage {
            signature: Some(vec![1]),
            ..anonymous.clone()
        },
        gossipsub::RawMessage {
            key: Some(vec![1]),
            ..anonymous
        },
    ];
    for message in named {
        assert!(NoIdentity.inbound_transform(message).is_err());
    }
}
