//! Nodes that find each other: over identify, and in a Kademlia table.

use crate::common::*;
use futures::StreamExt;
use libp2p::{
    Multiaddr, StreamProtocol, identify, kad,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_mix::{Behaviour, Control, discovery};

#[derive(NetworkBehaviour)]
struct Finder {
    mix: Behaviour,
    identify: identify::Behaviour,
    table: kad::Behaviour<kad::store::MemoryStore>,
}

/// A peer that finds others over identify, or in the table.
async fn finder(by_identify: bool, dial: Option<Multiaddr>) -> (Control, Multiaddr) {
    let config = config();
    let keypair = config.keypair().clone();
    let peer = config.peer_id();
    let (mix, control) = Behaviour::new(config).unwrap();
    let identify = identify::Behaviour::new(identify::Config::new("/test".to_owned(), keypair.public()));
    let settings = kad::Config::new(StreamProtocol::new("/test/kad/1.0.0"));
    let mut table = kad::Behaviour::with_config(peer, kad::store::MemoryStore::new(peer), settings);
    table.set_mode(Some(kad::Mode::Server));
    let mut swarm = swarm(Over::Memory, keypair, Finder { mix, identify, table });
    let address = listen(Over::Memory, &mut swarm).await;
    if let Some(address) = dial {
        swarm.dial(address).unwrap();
    }
    let (told, finder) = (
        control.clone(),
        discovery::kademlia::Kademlia::new(control.clone()),
    );
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(300));
        loop {
            tokio::select! {
                event = swarm.select_next_some() => match event {
                    SwarmEvent::Behaviour(FinderEvent::Identify(event)) => {
                        if let identify::Event::Received { peer_id, info, .. } = &event {
                            for address in &info.listen_addrs {
                                swarm.behaviour_mut().table.add_address(peer_id, address.clone());
                            }
                        }
                        if by_identify {
                            discovery::identify::on_event(&told, &event);
                        }
                    }
                    SwarmEvent::Behaviour(FinderEvent::Table(event)) if !by_identify => {
                        finder.on_event(&mut swarm.behaviour_mut().table, &event);
                    }
                    _ => {}
                },
                _ = ticks.tick() => if !by_identify {
                    finder.publish(&mut swarm.behaviour_mut().table);
                    finder.walk(&mut swarm.behaviour_mut().table);
                },
            }
        }
    });
    let address = libp2p_mix::Endpoint::new(peer, &address).unwrap().to_multiaddr();
    (control, address)
}

#[tokio::test]
async fn neighbours_that_speak_the_protocol_are_in_the_pool() {
    let (first, address) = finder(true, None).await;
    let (second, _) = finder(true, Some(address)).await;
    let knows = |a: &Control, b: &Control| a.pool().contains(&b.peer_id());
    until(
        || knows(&first, &second) && knows(&second, &first),
        || format!("{:?} {:?}", first.stats(), second.stats()),
    )
    .await;
}

#[tokio::test]
async fn nodes_of_a_table_find_those_that_they_never_met() {
    let (first, address) = finder(false, None).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(finder(false, Some(address.clone())).await.0);
    }
    let all: Vec<_> = others.iter().chain([&first]).collect();
    until(
        || all.iter().all(|c| c.pool().len() == 3),
        || format!("{:?}", all.iter().map(|c| c.stats().pool).collect::<Vec<_>>()),
    )
    .await;
}
