//! Real nodes over TCP, each with its own identity: requests pass, strangers' packets don't.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{
    PeerId, StreamProtocol, Swarm, SwarmBuilder,
    identity::Keypair,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    yamux,
};
use libp2p_mix::{
    Behaviour, Control, Delays, Destination, MixNode, Policy, Read, RequestOptions, SecretKey, link,
};
use libp2p_mix_rln::{Config, Identity, Member, Members, Rln, Stats};
use tokio::task::JoinHandle;

const ECHO: StreamProtocol = StreamProtocol::new("/test/echo/1.0.0");
/// Longest that anything in these tests takes.
const LIMIT: Duration = Duration::from_secs(120);

fn rand() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn swarm<B: NetworkBehaviour>(keypair: Keypair, behaviour: B) -> Swarm<B> {
    SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(Default::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(LIMIT))
        .build()
}

struct Peer {
    control: Control,
    node: MixNode,
    rln: Rln,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    async fn start(identity: Identity, members: &Members) -> Self {
        let config = Config::default().with_unused_identity();
        let (rln, _) = Rln::start(config, identity, members).unwrap();
        let keypair = Keypair::generate_secp256k1();
        let config = libp2p_mix::Config::new(keypair.clone(), SecretKey::from_bytes(rand()))
            .with_delays(Delays::Exponential {
                mean_ms: 5,
                at_least_ms: 0,
            })
            .with_forward_policy(Policy::Any)
            .with_exit_policy(Policy::Any)
            .with_spam_protection(rln.clone());
        let (mix, control) = Behaviour::new(config).unwrap();
        let mut swarm = swarm(keypair, mix);
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let node = MixNode::new(control.peer_id(), &address, control.mix_public_key().as_bytes()).unwrap();
        let task = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self {
            control,
            node,
            rln,
            task,
        }
    }

    fn serve_echo(&self) -> JoinHandle<()> {
        let mut incoming = self.control.serve(&ECHO, 10, Some(Read::LengthPrefixed(100)));
        tokio::spawn(async move {
            while let Some(exchange) = incoming.next().await {
                let body = exchange.body().to_vec();
                let _ = exchange.answer(&body);
            }
        })
    }

    fn dropped(&self) -> u64 {
        self.control.stats().counters.get("drop.spam")
    }

    async fn request(&self, to: PeerId, timeout: Duration) -> Option<Vec<u8>> {
        let options = RequestOptions::default().with_surbs(1).with_timeout(timeout);
        let to = Destination::Mix(to);
        self.control.request(&to, &ECHO, b"\x05hello", options).await.ok()
    }
}

async fn until(mut done: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "{}", what());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn members_ask_each_other_and_strangers_are_not_heard() {
    // Four members; the fifth has a list of his own, with himself in it.
    let identities: Vec<_> = (0..5).map(|_| Identity::generate().unwrap()).collect();
    let listed = |identities: &[Identity]| {
        Members::new(identities.iter().map(|it| Some(Member::new(it.commitment())))).unwrap()
    };
    let members = listed(&identities[..4]);
    let mut peers = Vec::new();
    for (at, identity) in identities.iter().enumerate() {
        let list = if at < 4 { &members } else { &listed(&identities) };
        peers.push(Peer::start(identity.clone(), list).await);
    }
    let nodes: Vec<_> = peers[..4].iter().map(|peer| peer.node.clone()).collect();
    for peer in &peers {
        peer.control.pool().set_static(nodes.clone()).unwrap();
    }
    let _echo = peers[1].serve_echo();

    let reply = peers[0].request(peers[1].control.peer_id(), LIMIT).await;
    assert_eq!(reply.as_deref(), Some(&b"\x05hello"[..]));
    let sum = |field: fn(&Stats) -> u64| {
        peers[..4]
            .iter()
            .map(|peer| field(&peer.rln.stats()))
            .sum::<u64>()
    };
    // Three hops there and three back, each proven and checked.
    assert_eq!((sum(|it| it.proven), sum(|it| it.accepted)), (6, 6));
    assert_eq!(peers.iter().map(Peer::dropped).sum::<u64>(), 0);

    // The stranger's packet is dropped by whom he sends it to.
    let reply = peers[4].request(peers[1].control.peer_id(), Duration::from_secs(5));
    let dropped = until(
        || peers[..4].iter().map(Peer::dropped).sum::<u64>() == 1,
        || format!("{:?}", peers[4].rln.stats()),
    );
    let (reply, ()) = tokio::join!(reply, dropped);
    assert_eq!(reply, None);
    assert_eq!((sum(|it| it.wrong_root), sum(|it| it.accepted)), (1, 6));

    // Frames of the right length without a proof.
    let (behaviour, link, _frames) = link::Behaviour::new(link::Config::new(
        libp2p_mix::PROTOCOL,
        link::FrameLen::AtMost(20_000),
    ));
    let mut raw = swarm(Keypair::generate_secp256k1(), behaviour);
    let raw = tokio::spawn(async move {
        loop {
            raw.select_next_some().await;
        }
    });
    let endpoint = &peers[2].node.endpoint;
    link.add_peer(endpoint.peer, vec![endpoint.address.clone()]);
    link.try_send(&endpoint.peer, vec![0; 4909].into()).unwrap();
    until(
        || peers[2].rln.stats().malformed == 1,
        || format!("{:?}", peers[2].control.stats()),
    )
    .await;
    raw.abort();
}
