//! Gossip without a name on it, both ways, and what has a name is refused.
#![cfg(feature = "gossipsub")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

mod common;

use common::*;
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
async fn a_message_reaches_a_topic_both_ways_without_a_name() {
    let relays = network(Over::Memory, 4, |_| config()).await;
    let (exit, exit_node, _quiet) = gossiper(None).await;
    let (_reader, reader_node, mut hears) = gossiper(Some(exit_node.endpoint.to_multiaddr())).await;
    let mut nodes: Vec<_> = relays.iter().map(|p| p.node.clone()).collect();
    nodes.push(exit_node.clone());
    relays
        .iter()
        .map(|p| &p.control)
        .chain([&exit])
        .for_each(|c| c.pool().set_static(nodes.clone()).unwrap());
    let sender = &relays[0].control;

    let handed_over = Publication {
        topic: "news".to_owned(),
        data: b"handed over".to_vec(),
    };
    sender
        .publish_to(reader_node.endpoint.clone(), &handed_over)
        .await
        .unwrap();
    let heard = tokio::time::timeout(LIMIT, hears.recv()).await.unwrap().unwrap();
    assert_eq!(
        (heard.data, heard.source, heard.sequence_number),
        (handed_over.data, None, None)
    );

    // Until exit and reader have told each other of their topics, nobody hears what it publishes: so again and again, with
    // the same content, which is one message.
    let published = Publication {
        topic: "news".to_owned(),
        data: b"published".to_vec(),
    };
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
    let heard = tokio::time::timeout(LIMIT, async {
        loop {
            tokio::select! {
                _ = ticks.tick() => sender.publish_by(exit.peer_id(), &published).await.unwrap(),
                heard = hears.recv() => return heard.unwrap(),
            }
        }
    });
    let heard = heard.await.unwrap();
    assert_eq!(
        (heard.data, heard.source, heard.sequence_number),
        (published.data, None, None)
    );
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
