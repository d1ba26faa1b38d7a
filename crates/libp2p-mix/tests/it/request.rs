//! Requests and replies through networks of real peers, over memory, TCP and QUIC, in both dialects.

use std::time::Duration;

use crate::common::*;
use libp2p::{PeerId, StreamProtocol, identity::Keypair};
use libp2p_mix::{
    Config, Destination, Dialect, Endpoint, NoRoute, Policy, RequestError, RequestOptions, SecretKey,
    SendError,
};

fn options(surbs: usize) -> RequestOptions {
    RequestOptions::default().with_surbs(surbs).with_timeout(LIMIT)
}

/// A ping to a peer that knows nothing of mixes, and an echo of a node that is itself the exit.
async fn both_kinds(over: Over, dialect: Dialect) {
    let peers = network(over, 4, |_| match dialect {
        Dialect::LegacyCtr => Config::new(Keypair::generate_secp256k1(), SecretKey::from_bytes(rand()))
            .with_dialect(dialect)
            .with_forward_policy(Policy::Any)
            .with_exit_policy(Policy::Any)
            .with_read(&PING, libp2p_mix::Read::Exact(32)),
        Dialect::Lioness => config(),
    })
    .await;
    let (ping, _task) = ping_peer(over).await;
    let _echo = peers[2].serve_echo();
    for surbs in [1, 5] {
        let body = rand();
        let reply = peers[0]
            .control
            .request(&Destination::Peer(ping.clone()), &PING, &body, options(surbs))
            .await;
        assert_eq!(reply.unwrap(), body);
        let body = length_prefixed(b"hello");
        let to = Destination::Mix(peers[2].peer_id());
        let reply = peers[0].control.request(&to, &ECHO, &body, options(surbs)).await;
        assert_eq!(reply.unwrap(), body);
    }
    assert_eq!(peers[0].control.stats().surbs, 0, "answered: nothing is kept");
    // Of six SURBs each two replies counted.
    let late = |p: &Peer| p.counter("reply.answered") + p.counter("reply.unknown");
    until(
        || late(&peers[0]) == 12,
        || format!("{:?}", peers[0].control.stats()),
    )
    .await;
    assert_eq!(peers[0].counter("reply.answered"), 4);
}

#[tokio::test]
async fn over_memory() {
    both_kinds(Over::Memory, Dialect::Lioness).await;
}

#[tokio::test]
async fn over_tcp() {
    both_kinds(Over::Tcp, Dialect::Lioness).await;
}

#[tokio::test]
async fn over_quic() {
    both_kinds(Over::Quic, Dialect::Lioness).await;
}

#[tokio::test]
async fn in_the_legacy_dialect() {
    both_kinds(Over::Memory, Dialect::LegacyCtr).await;
}

#[tokio::test]
async fn a_destination_that_is_in_the_pool_is_reached_as_a_peer() {
    let peers = network(Over::Memory, 4, |_| config()).await;
    let _echo = peers[3].serve_echo();
    let body = length_prefixed(&[7; 1000]);
    let reply = peers[0]
        .control
        .request(&peers[3].destination(), &ECHO, &body, options(1))
        .await;
    assert!(
        matches!(
            reply,
            Err(RequestError::NotSent(SendError::PoolTooSmall {
                have: 2,
                need: 3
            }))
        ),
        "three nodes are left without ourselves and the destination, one of them ourselves: {reply:?}"
    );
    let more = network(Over::Memory, 5, |_| config()).await;
    let _echo = more[3].serve_echo();
    let reply = more[0]
        .control
        .request(&more[3].destination(), &ECHO, &body, options(1))
        .await;
    assert_eq!(reply.unwrap(), body);
}

#[tokio::test]
async fn a_message_without_surbs_arrives() {
    let peers = network(Over::Memory, 4, |_| config()).await;
    let mut here = peers[1]
        .control
        .serve(&ECHO, 10, Some(libp2p_mix::Read::LengthPrefixed(100)));
    let body = length_prefixed(b"one way");
    // To the node as the exit itself, and to it as a peer by another exit.
    let outsider = Peer::start(Over::Memory, config()).await;
    outsider
        .control
        .pool()
        .set_static(peers.iter().map(|p| p.node.clone()))
        .unwrap();
    for destination in [Destination::Mix(peers[1].peer_id()), peers[1].destination()] {
        outsider.control.send(&destination, &ECHO, &body).await.unwrap();
        let exchange = tokio::time::timeout(LIMIT, here.next()).await.unwrap().unwrap();
        assert_eq!(exchange.body(), body);
        exchange.answer(b"nobody hears").unwrap();
    }
}

/// The sender is gone at once, connections and all: what was waited for is with the first node.
async fn a_sender_that_ends_when_the_packet_has_left(over: Over) {
    let peers = network(over, 4, |_| config()).await;
    let mut here = peers[1].control.serve(&ECHO, 10, None);
    let to = Destination::Mix(peers[1].peer_id());
    for n in 0..5 {
        let sender = Peer::start(over, config()).await;
        let pool = sender.control.pool();
        pool.set_static(peers.iter().map(|p| p.node.clone())).unwrap();
        sender
            .control
            .send_and_wait(&to, &ECHO, &[n; 100], LIMIT)
            .await
            .unwrap();
        sender.stop().await;
        let exchange = tokio::time::timeout(LIMIT, here.next()).await.unwrap().unwrap();
        assert_eq!(exchange.body(), [n; 100]);
    }
    // Two from one peer at the same time, to end one stream or two.
    let control = &peers[0].control;
    let send = async |body: &[u8]| control.send_and_wait(&to, &ECHO, body, LIMIT).await;
    let (a, b) = tokio::join!(send(b"a"), send(b"b"));
    assert_eq!((a, b), (Ok(()), Ok(())));
    let gone: Vec<_> = (1..4)
        .map(|port| {
            let peer = Keypair::generate_secp256k1().public().to_peer_id();
            let address = match over {
                Over::Quic => format!("/ip4/127.0.0.1/udp/{port}/quic-v1"),
                _ => format!("/ip4/127.0.0.1/tcp/{port}"),
            };
            let key = peers[0].control.mix_public_key();
            libp2p_mix::MixNode::new(peer, &address.parse().unwrap(), key.as_bytes()).unwrap()
        })
        .collect();
    peers[0].control.pool().set_static(gone.clone()).unwrap();
    let to = Destination::Mix(gone[0].endpoint.peer);
    assert_eq!(
        peers[0].control.send_and_wait(&to, &ECHO, b"c", LIMIT).await,
        Err(RequestError::NotSent(SendError::NoRoute(NoRoute::FirstHop)))
    );
}

#[tokio::test]
async fn who_waits_for_the_first_node_may_end_over_tcp() {
    a_sender_that_ends_when_the_packet_has_left(Over::Tcp).await;
}

#[tokio::test]
async fn who_waits_for_the_first_node_may_end_over_quic() {
    a_sender_that_ends_when_the_packet_has_left(Over::Quic).await;
}

#[tokio::test]
async fn each_failure_has_its_own_error() {
    let mut peers = network(Over::Memory, 4, |_| config()).await;
    let control = peers[0].control.clone();
    let request = |to: Destination, codec: StreamProtocol, surbs| {
        let control = control.clone();
        async move { control.request(&to, &codec, &[1; 32], options(surbs)).await }
    };
    let nobody = Keypair::generate_secp256k1().public().to_peer_id();
    let closed = Endpoint::new(nobody, &"/ip4/127.0.0.1/tcp/1".parse().unwrap()).unwrap();

    // The exit's word, whatever its reason, is the same.
    assert_eq!(
        request(Destination::Peer(closed.clone()), PING, 1).await,
        Err(RequestError::EmptyReply)
    );
    let unknown = StreamProtocol::new("/nobody/speaks/this");
    assert_eq!(
        request(Destination::Peer(closed.clone()), unknown.clone(), 2).await,
        Err(RequestError::EmptyReply)
    );
    assert_eq!(
        request(Destination::Mix(peers[1].peer_id()), unknown, 1).await,
        Err(RequestError::EmptyReply)
    );

    let no_route = |why| Err(RequestError::NotSent(SendError::NoRoute(why)));
    assert_eq!(
        request(Destination::Mix(nobody), PING, 1).await,
        no_route(NoRoute::NotInPool)
    );
    assert_eq!(
        request(Destination::Mix(peers[0].peer_id()), PING, 1).await,
        no_route(NoRoute::Ourselves)
    );
    assert_eq!(
        request(Destination::Peer(closed.clone()), PING, 0).await,
        Err(RequestError::NoSurbs)
    );
    assert!(matches!(
        request(Destination::Peer(closed.clone()), PING, 6).await,
        Err(RequestError::NotSent(SendError::Message(_)))
    ));
    let long = control
        .request(&Destination::Peer(closed.clone()), &PING, &[0; 3215], options(1))
        .await;
    assert!(matches!(long, Err(RequestError::NotSent(SendError::Message(_)))));

    // Somebody takes the request and never answers.
    let mut silent = peers[1].control.serve(&ECHO, 10, None);
    let to = Destination::Mix(peers[1].peer_id());
    let short = RequestOptions::default()
        .with_surbs(1)
        .with_timeout(Duration::from_millis(300));
    let body = length_prefixed(b"?");
    let asked = async { control.request(&to, &ECHO, &body, short).await };
    let (reply, _exchange) = tokio::join!(asked, silent.next());
    assert_eq!(reply, Err(RequestError::TimedOut));
    assert_eq!(control.stats().surbs, 0, "given up: nothing is kept");

    let few: Vec<_> = peers[1..3].iter().map(|p| p.node.clone()).collect();
    control.pool().set_static(few).unwrap();
    assert_eq!(
        request(Destination::Peer(closed.clone()), PING, 1).await,
        Err(RequestError::NotSent(SendError::PoolTooSmall {
            have: 2,
            need: 3
        }))
    );

    // A first hop that is not there.
    let gone: Vec<_> = (0..3)
        .map(|n| {
            let peer = Keypair::generate_secp256k1().public().to_peer_id();
            let address = format!("/ip4/127.0.0.1/tcp/{}", n + 1).parse().unwrap();
            libp2p_mix::MixNode::new(peer, &address, control.mix_public_key().as_bytes()).unwrap()
        })
        .collect();
    control.pool().set_static(gone).unwrap();
    assert_eq!(
        request(Destination::Peer(closed.clone()), PING, 1).await,
        no_route(NoRoute::FirstHop)
    );

    drop(peers.remove(0));
    let ended = async {
        loop {
            if control.send(&Destination::Peer(closed.clone()), &PING, &[]).await == Err(SendError::Closed) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.unwrap();
}

#[tokio::test]
async fn private_destinations_are_refused_by_default_and_nothing_is_dialled() {
    let peers = network(Over::Memory, 4, |_| config().with_exit_policy(Policy::Public)).await;
    let (ping, _task) = ping_peer(Over::Memory).await;
    let reply = peers[0]
        .control
        .request(&Destination::Peer(ping), &PING, &[1; 32], options(1))
        .await;
    assert_eq!(reply, Err(RequestError::EmptyReply));
    let refused: u64 = peers.iter().map(|p| p.counter("exit.not_allowed")).sum();
    assert_eq!(refused, 1);
    assert_eq!(
        peers.iter().map(|p| p.counter("exit.unreachable")).sum::<u64>(),
        0
    );
}

/// Somebody who is in nobody's pool asks: his replies end at a stranger.
async fn a_stranger_asks(relays: &[Peer], timeout: Duration) -> Result<Vec<u8>, RequestError> {
    let _echo = relays[1].serve_echo();
    let asker = Peer::start(Over::Memory, config()).await;
    asker
        .control
        .pool()
        .set_static(relays.iter().map(|p| p.node.clone()))
        .unwrap();
    let to = Destination::Mix(relays[1].peer_id());
    let options = options(1).with_timeout(timeout);
    asker
        .control
        .request(&to, &ECHO, &length_prefixed(b"?"), options)
        .await
}

fn plain() -> Config {
    Config::new(Keypair::generate_secp256k1(), SecretKey::from_bytes(rand())).with_hold_ms(2)
}

#[tokio::test]
async fn next_hops_outside_of_the_pool_are_refused_unless_they_are_allowed() {
    // Those of the pool pass though their addresses are private.
    let relays = network(Over::Memory, 4, |_| plain()).await;
    let reply = a_stranger_asks(&relays, Duration::from_secs(5)).await;
    assert_eq!(reply, Err(RequestError::TimedOut));
    let sum = |name: &str| relays.iter().map(|p| p.counter(name)).sum::<u64>();
    assert_eq!((sum("drop.no_edge"), sum("forwarded")), (1, 3));

    let relays = network(Over::Memory, 4, |_| plain().with_next_hops_outside_pool(true)).await;
    let reply = a_stranger_asks(&relays, LIMIT).await;
    assert_eq!(reply, Ok(length_prefixed(b"?")));
}

#[tokio::test]
async fn an_ed25519_peer_can_send_and_is_told_that_no_reply_would_find_it() {
    let relays = network(Over::Memory, 4, |_| config()).await;
    let config = Config::new(Keypair::generate_ed25519(), SecretKey::from_bytes(rand())).into_test();
    let keypair = config.keypair().clone();
    let (behaviour, control) = libp2p_mix::Behaviour::new(config).unwrap();
    let mut swarm = swarm(Over::Memory, keypair, behaviour);
    listen(Over::Memory, &mut swarm).await;
    let _task = tokio::spawn(async move {
        loop {
            futures::StreamExt::select_next_some(&mut swarm).await;
        }
    });
    control
        .pool()
        .set_static(relays.iter().map(|p| p.node.clone()))
        .unwrap();
    let mut here = relays[1].control.serve(&ECHO, 10, None);
    let to = Destination::Mix(relays[1].peer_id());
    let reply = control.request(&to, &ECHO, b"?", options(1)).await;
    assert_eq!(
        reply,
        Err(RequestError::NotSent(SendError::NoRoute(
            NoRoute::NoReturnAddress
        )))
    );
    control.send(&to, &ECHO, b"!").await.unwrap();
    let exchange = tokio::time::timeout(LIMIT, here.next()).await.unwrap().unwrap();
    assert!(!exchange.wants_answer());
    let _: PeerId = control.peer_id();
}
