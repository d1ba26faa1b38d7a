//! Gossip without a name on it, both ways, and what has a name is refused.

use crate::common::*;
use futures::StreamExt;
use libp2p::{
    Multiaddr,
    gossipsub::{self, DataTransform, IdentTopic},
    identity::Keypair,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_mix::{
    Behaviour, Control, Destination, Endpoint, MixNode,
    gossip::{MESHSUB_PROTOCOL, NoIdentity, Publication, message_id},
};
use std::collections::BTreeSet;
use tokio::{sync::mpsc, task::JoinHandle};

type Gossip = gossipsub::Behaviour<NoIdentity>;

#[derive(NetworkBehaviour)]
struct Gossiper {
    mix: Behaviour,
    gossip: Gossip,
}

const NEWS: &str = "news";

fn publication(n: u8) -> Publication {
    Publication {
        topic: NEWS.to_owned(),
        data: vec![n; 100],
    }
}

/// Anonymous messages, and none with more; listens to the topic.
fn gossip() -> Gossip {
    let settings = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .message_id_fn(|m| gossipsub::MessageId::from(message_id(m.topic.as_str(), &m.data)))
        .flood_publish(true)
        .build()
        .unwrap();
    let anonymous = gossipsub::MessageAuthenticity::Anonymous;
    let mut gossip = Gossip::new_with_transform(anonymous, settings, NoIdentity).unwrap();
    gossip.subscribe(&IdentTopic::new(NEWS)).unwrap();
    gossip
}

/// A mix peer of the topic that publishes for others; what it hears comes out of the receiver.
async fn gossiper(
    dial: Option<Multiaddr>,
) -> (Control, MixNode, mpsc::UnboundedReceiver<gossipsub::Message>) {
    let config = config();
    let keypair = config.keypair().clone();
    let (mix, control) = Behaviour::new(config).unwrap();
    let gossip = gossip();
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

/// A peer of the topic that has rust-libp2p's gossipsub and nothing else.
struct Reader {
    endpoint: Endpoint,
    hears: mpsc::UnboundedReceiver<gossipsub::Message>,
    task: JoinHandle<()>,
}

impl Reader {
    async fn start(over: Over, keypair: Keypair, at: Option<Multiaddr>) -> Self {
        let peer = keypair.public().to_peer_id();
        let mut swarm = swarm(over, keypair, gossip());
        let address = match at {
            Some(address) => listen_on(&mut swarm, address).await,
            None => listen(over, &mut swarm).await,
        };
        let (heard, hears) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                if let SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) =
                    swarm.select_next_some().await
                {
                    let _ = heard.send(message);
                }
            }
        });
        Self {
            endpoint: Endpoint::new(peer, &address).unwrap(),
            hears,
            task,
        }
    }

    async fn hears(&mut self) -> Vec<u8> {
        let message = tokio::time::timeout(LIMIT, self.hears.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!((message.source, message.sequence_number), (None, None));
        message.data
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn sum(peers: &[Peer], counter: &str) -> u64 {
    peers.iter().map(|p| p.counter(counter)).sum()
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

/// More than the streams that the reader would take on one connection of each exit.
async fn handed_over_in_a_row(over: Over) {
    let peers = network(over, 4, |_| config()).await;
    let mut reader = Reader::start(over, Keypair::generate_secp256k1(), None).await;
    let sender = &peers[0].control;
    for n in 0..20 {
        sender
            .publish_to(reader.endpoint.clone(), &publication(n))
            .await
            .unwrap();
    }
    let mut heard = BTreeSet::new();
    while heard.len() < 20 {
        let data = reader.hears().await;
        assert_eq!(data, [data[0]; 100]);
        heard.insert(data[0]);
    }
    assert_eq!(heard, (0..20).collect());
    until(
        || sum(&peers, "exit.done") == 20,
        || format!("{:?}", peers[1].control.stats()),
    )
    .await;
}

#[tokio::test]
async fn twenty_messages_in_a_row_reach_a_gossipsub_peer_over_tcp() {
    handed_over_in_a_row(Over::Tcp).await;
}

#[tokio::test]
async fn twenty_messages_in_a_row_reach_a_gossipsub_peer_over_quic() {
    handed_over_in_a_row(Over::Quic).await;
}

#[tokio::test]
async fn a_gossipsub_peer_that_was_away_is_handed_messages_again() {
    let peers = network(Over::Memory, 4, |_| config()).await;
    let (sender, keypair) = (&peers[0].control, Keypair::generate_secp256k1());
    let mut reader = Reader::start(Over::Memory, keypair.clone(), None).await;
    let endpoint = reader.endpoint.clone();
    for n in 0..10 {
        sender
            .publish_to(endpoint.clone(), &publication(n))
            .await
            .unwrap();
    }
    for _ in 0..10 {
        reader.hears().await;
    }
    reader.task.abort();
    let _ = (&mut reader.task).await;
    let mut reader = Reader::start(Over::Memory, keypair, Some(endpoint.address.clone())).await;
    // What is on its way while an exit learns that its stream has ended is lost, as on any connection.
    let mut n = 10;
    let heard = tokio::time::timeout(LIMIT, async {
        loop {
            sender
                .publish_to(endpoint.clone(), &publication(n))
                .await
                .unwrap();
            n = n.wrapping_add(1);
            tokio::select! {
                heard = reader.hears() => return heard,
                () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
            }
        }
    });
    assert!(heard.await.unwrap()[0] >= 10);
}

#[tokio::test]
async fn exits_that_gossip_themselves_publish_what_they_are_asked_to_hand_over() {
    let mut gossipers = Vec::new();
    for _ in 0..4 {
        let first: Option<&(Control, MixNode, _)> = gossipers.first();
        let address = first.map(|(_, node, _)| node.endpoint.to_multiaddr());
        gossipers.push(gossiper(address).await);
    }
    let nodes: Vec<_> = gossipers.iter().map(|(_, node, _)| node.clone()).collect();
    for (control, ..) in &gossipers {
        control.pool().set_static(nodes.clone()).unwrap();
    }
    let reader = Peer::start(Over::Memory, config()).await;
    // None of them is ever handed an RPC: it says nothing that they would not say themselves.
    let to = reader.node.endpoint.clone();
    let sender = gossipers[3].0.clone();
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
    let mut n = 0;
    let heard = tokio::time::timeout(LIMIT, async {
        loop {
            tokio::select! {
                // Another one each time: who published one hears it no more.
                _ = ticks.tick() => {
                    n += 1;
                    sender.publish_to(to.clone(), &publication(n)).await.unwrap();
                }
                heard = gossipers[0].2.recv() => return heard.unwrap(),
            }
        }
    });
    assert_eq!(heard.await.unwrap().data.len(), 100);
    assert_eq!(reader.control.stats().link.inbound_streams, 0);
}

#[tokio::test]
async fn nothing_but_messages_is_handed_over() {
    let peers = network(Over::Memory, 4, |_| config()).await;
    let reader = Reader::start(Over::Memory, Keypair::generate_secp256k1(), None).await;
    // A subscription in the exit's name, and noise.
    let to = Destination::Peer(reader.endpoint.clone());
    for rpc in [&[4, 0x0a, 2, 0x08, 1][..], &[9, 1]] {
        peers[0].control.send(&to, &MESHSUB_PROTOCOL, rpc).await.unwrap();
    }
    until(|| sum(&peers, "exit.bad_gossip") == 2, String::new).await;
    let strict = network(Over::Memory, 4, |_| config().with_gossip_handed_over(false)).await;
    strict[0]
        .control
        .publish_to(reader.endpoint.clone(), &publication(1))
        .await
        .unwrap();
    until(
        || sum(&strict, "exit.done") + sum(&strict, "exit.unreachable") == 1,
        String::new,
    )
    .await;
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
