//! Links between real swarms over loopback sockets.

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    identity::Keypair,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use libp2p_mix::link::{Behaviour, Config, Control, Event, Frame, FrameLen, Receiver, SendError};
use std::{collections::BTreeSet, future::Future, time::Duration};
use tokio::{task::JoinHandle, time::timeout};

use crate::receive::{next_frame, next_other};

const LEN: usize = 4608;
const LIMIT: Duration = Duration::from_secs(20);

fn mix() -> Config {
    Config::new(StreamProtocol::new("/test/mix/1.0.0"), FrameLen::Exact(LEN))
        .with_redial(Duration::from_millis(20), Duration::from_millis(200))
}

fn frame(n: u32) -> Frame {
    let mut frame: Vec<u8> = (0..LEN).map(|i| (i as u32 ^ n) as u8).collect();
    frame[..4].copy_from_slice(&n.to_be_bytes());
    frame.into()
}

fn number(frame: &Frame) -> u32 {
    let fixed: Box<[u8; LEN]> = frame.clone().try_into().unwrap();
    let n = u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
    assert_eq!(*frame, self::frame(n), "content of frame {n}");
    n
}

#[derive(Clone, Copy, PartialEq)]
enum Over {
    Quic,
    Tcp,
}

/// A swarm in a task of its own; the swarm goes with this.
struct Node {
    peer: PeerId,
    address: Multiaddr,
    task: JoinHandle<()>,
}

impl Node {
    async fn start<B>(over: Over, behaviour: B) -> Self
    where
        B: NetworkBehaviour + Send,
        B::ToSwarm: std::fmt::Debug,
    {
        let any = match over {
            Over::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
            Over::Tcp => "/ip4/127.0.0.1/tcp/0",
        };
        Self::start_at(any.parse().unwrap(), Keypair::generate_ed25519(), behaviour).await
    }

    async fn start_at<B>(address: Multiaddr, key: Keypair, behaviour: B) -> Self
    where
        B: NetworkBehaviour + Send,
        B::ToSwarm: std::fmt::Debug,
    {
        let mut swarm: Swarm<B> = SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_quic_config(|mut config| {
                config.max_stream_data = 64 * 1024;
                config
            })
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(LIMIT))
            .build();
        // A QUIC socket lives on for a moment after its swarm, until the other side's last packets came.
        until(|| swarm.listen_on(address.clone()).is_ok()).await;
        let address = within(async {
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    return address;
                }
            }
        })
        .await;
        let peer = *swarm.local_peer_id();
        let task = tokio::spawn(async move {
            loop {
                swarm.next().await;
            }
        });
        Self { peer, address, task }
    }

    async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    fn know(&self, control: &Control) {
        assert!(control.add_peer(self.peer, vec![self.address.clone()]));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("in time")
}

/// Until a counter says so: counters have no events.
async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        while !condition() {
            ticks.tick().await;
        }
    })
    .await;
}

/// Sends when there is room.
async fn send(control: &Control, peer: &PeerId, frame: Frame) {
    let mut held = Some(frame);
    until(|| match control.try_send(peer, held.take().unwrap()) {
        Ok(()) => true,
        Err((SendError::Full, frame)) => {
            held = Some(frame);
            false
        }
        Err((error, _)) => panic!("{error}"),
    })
    .await;
}

async fn frames_arrive_in_order(over: Over) {
    let (a, control, _a) = Behaviour::new(mix().with_header(*b"network and epoch").unwrap());
    let (b, _, mut receiver) = Behaviour::new(mix().with_header(*b"network and epoch").unwrap());
    let (a, b) = (Node::start(over, a).await, Node::start(over, b).await);
    b.know(&control);
    let sender = tokio::spawn(async move {
        for n in 0..3000 {
            send(&control, &b.peer, frame(n)).await;
        }
        until(|| control.stats().sent == 3000).await;
        (control, b)
    });
    let mut events = Vec::new();
    let mut expected = 0;
    while expected < 3000 {
        assert!(within(receiver.recv_many(&mut events, 64)).await > 0);
        for event in events.drain(..) {
            if let Event::Frame { peer, frame, .. } = event {
                assert_eq!(peer, a.peer);
                assert_eq!(number(&frame), expected);
                expected += 1;
            }
        }
    }
    let (control, b) = sender.await.unwrap();
    assert_eq!(control.queued(&b.peer), 0);
    assert_eq!((control.stats().streams_opened, control.stats().dials), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_arrive_in_order_and_intact_over_quic() {
    frames_arrive_in_order(Over::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_arrive_in_order_and_intact_over_tcp() {
    frames_arrive_in_order(Over::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptor_sends_on_the_connection_of_a_peer_that_it_does_not_know() {
    let (a, client, mut at_client) = Behaviour::new(mix());
    let (b, gateway, mut at_gateway) = Behaviour::new(mix());
    let (a, b) = (Node::start(Over::Quic, a).await, Node::start(Over::Quic, b).await);
    assert_eq!(
        gateway.try_send(&a.peer, frame(0)).unwrap_err().0,
        SendError::UnknownPeer
    );
    b.know(&client);
    client.connect(b.peer);
    assert_eq!(
        next_other(&mut at_client).await,
        Event::Connected { peer: b.peer }
    );
    // The stream is open before there is anything to send, so that the first frame does not wait for it.
    assert_eq!(
        next_other(&mut at_gateway).await,
        Event::Connected { peer: a.peer }
    );
    gateway.try_send(&a.peer, frame(1)).unwrap();
    assert_eq!(number(&next_frame(&mut at_client).await), 1);
    let peer = a.peer;
    a.stop().await;
    assert_eq!(next_other(&mut at_gateway).await, Event::Disconnected { peer });
    assert_eq!(
        gateway.try_send(&peer, frame(2)).unwrap_err(),
        (SendError::UnknownPeer, frame(2))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_peers_are_refused_if_so_configured() {
    let (a, sender, _a) = Behaviour::new(mix());
    let (b, control, mut receiver) = Behaviour::new(mix().with_inbound_from_unknown(false));
    let (a, b) = (Node::start(Over::Quic, a).await, Node::start(Over::Quic, b).await);
    b.know(&sender);
    sender.try_send(&b.peer, frame(0)).unwrap();
    until(|| control.stats().inbound_unknown_peer >= 1).await;
    assert!(control.add_peer(a.peer, vec![]));
    // The stream that was refused is found broken and opened again.
    let mut n = 1;
    until(|| {
        n += 1;
        let _ = sender.try_send(&b.peer, frame(n));
        matches!(receiver.try_recv(), Some(Event::Frame { .. }))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_header_is_refused_in_silence_and_counted() {
    let (a, sender, mut at_sender) = Behaviour::new(mix().with_header(*b"epoch 1").unwrap());
    let (b, control, mut receiver) = Behaviour::new(mix().with_header(*b"epoch 2").unwrap());
    let (_a, b) = (Node::start(Over::Quic, a).await, Node::start(Over::Quic, b).await);
    b.know(&sender);
    sender.connect(b.peer);
    assert_eq!(
        next_other(&mut at_sender).await,
        Event::Connected { peer: b.peer }
    );
    let mut n = 0;
    until(|| {
        n += 1;
        let _ = sender.try_send(&b.peer, frame(n));
        control.stats().header_mismatch >= 2 && sender.stats().dropped_stream > 0
    })
    .await;
    assert_eq!(receiver.try_recv(), None, "no frame, no peer");
    assert_eq!(control.stats().received, 0);
    assert_eq!(sender.stats().received, 0);
}

/// Three links of one protocol: what one peer with three streams looks like.
#[derive(NetworkBehaviour)]
struct Three {
    a: Behaviour,
    b: Behaviour,
    c: Behaviour,
}

async fn three(over: Over, configs: [Config; 3]) -> (Node, [(Control, Receiver); 3]) {
    let [a, b, c] = configs.map(Behaviour::new);
    let node = Node::start(
        over,
        Three {
            a: a.0,
            b: b.0,
            c: c.0,
        },
    )
    .await;
    (node, [(a.1, a.2), (b.1, b.2), (c.1, c.2)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_not_carried_closes_its_stream_and_no_other() {
    let other = |len| Config::new(StreamProtocol::new("/test/mix/1.0.0"), FrameLen::Exact(len));
    let (_a, [good, long, short]) = three(Over::Tcp, [mix(), other(LEN + 1), other(LEN - 1)]).await;
    let (b, control, mut receiver) = Behaviour::new(mix());
    let b = Node::start(Over::Tcp, b).await;
    for (control, _) in [&good, &long, &short] {
        b.know(control);
    }
    good.0.try_send(&b.peer, frame(0)).unwrap();
    assert_eq!(number(&next_frame(&mut receiver).await), 0);
    long.0.try_send(&b.peer, vec![0; LEN + 1].into()).unwrap();
    short.0.try_send(&b.peer, vec![0; LEN - 1].into()).unwrap();
    until(|| control.stats().bad_length == 2).await;
    good.0.try_send(&b.peer, frame(1)).unwrap();
    assert_eq!(number(&next_frame(&mut receiver).await), 1);
    assert_eq!((good.0.stats().streams_opened, control.stats().received), (1, 2));
    assert_eq!(
        good.0.try_send(&b.peer, vec![0; LEN + 1].into()).unwrap_err().0,
        SendError::TooLong
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_too_many_takes_the_place_of_the_one_that_was_silent_longest() {
    let (_a, links) = three(Over::Quic, [mix(), mix(), mix()]).await;
    let (b, control, mut receiver) = Behaviour::new(mix().with_max_inbound_streams_per_peer(2));
    let b = Node::start(Over::Quic, b).await;
    for (n, (link, _)) in links.iter().enumerate() {
        b.know(link);
        link.try_send(&b.peer, frame(n as u32)).unwrap();
        assert_eq!(number(&next_frame(&mut receiver).await), n as u32);
        assert_eq!(control.stats().inbound_too_many, u64::from(n == 2));
    }
    // The second still has its stream, and the first opens another one.
    for (n, (link, _)) in links.iter().enumerate().take(2).rev() {
        link.try_send(&b.peer, frame(10 + n as u32)).unwrap();
        assert_eq!(number(&next_frame(&mut receiver).await), 10 + n as u32);
    }
    assert_eq!(links[1].0.stats().streams_opened, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_refused_where_none_can_make_room() {
    let (_a, links) = three(Over::Quic, [mix(), mix(), mix()]).await;
    let (b, control, _receiver) = Behaviour::new(mix().with_max_inbound_streams_per_peer(0));
    let b = Node::start(Over::Quic, b).await;
    for (link, _) in &links {
        b.know(link);
        link.try_send(&b.peer, frame(0)).unwrap();
    }
    until(|| control.stats().inbound_too_many >= 3).await;
    assert_eq!(control.stats().inbound_streams, 0);
}

async fn one_frame_streams(over: Over) {
    let (a, sender, _a) = Behaviour::new(mix());
    let (b, control, mut receiver) = Behaviour::new(mix());
    let (_a, b) = (Node::start(over, a).await, Node::start(over, b).await);
    for n in 0..20 {
        b.know(&sender);
        sender.try_send(&b.peer, frame(n)).unwrap();
        assert_eq!(number(&next_frame(&mut receiver).await), n);
        until(|| sender.stats().sent == u64::from(n) + 1).await;
        sender.remove_peer(b.peer);
    }
    let stats = control.stats();
    assert_eq!(
        (
            stats.inbound_streams,
            stats.received,
            stats.truncated,
            stats.inbound_broken
        ),
        (20, 20, 0, 0)
    );
    assert_eq!(sender.stats().dials, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_frame_are_accepted_over_quic() {
    one_frame_streams(Over::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_frame_are_accepted_over_tcp() {
    one_frame_streams(Over::Tcp).await;
}

async fn full_receiver(over: Over) {
    let (a, sender, _a) = Behaviour::new(mix().with_stall_timeout(LIMIT));
    let (b, control, mut receiver) = Behaviour::new(mix().with_receive_queue_len(8));
    let (_a, b) = (Node::start(over, a).await, Node::start(over, b).await);
    b.know(&sender);
    // More than the windows and buffers of the transport hold.
    let total = 8000;
    let peer = b.peer;
    let sending = tokio::spawn({
        let sender = sender.clone();
        async move {
            for n in 0..total {
                send(&sender, &peer, frame(n)).await;
            }
        }
    });
    // Nobody takes: the receiver stops, then the transport, then the sender.
    until(|| receiver.len() == 8).await;
    let (mut streak, mut sent) = (0, 0);
    until(|| {
        streak = if sender.stats().sent == sent {
            streak + 1
        } else {
            0
        };
        sent = sender.stats().sent;
        streak > 50
    })
    .await;
    assert!(!sending.is_finished());
    assert_eq!(receiver.len(), 8);
    assert!(
        control.stats().received <= 9,
        "the queue and one frame in the reader's hand"
    );
    let mut expected = 0;
    while expected < total {
        assert_eq!(number(&next_frame(&mut receiver).await), expected);
        expected += 1;
    }
    within(sending).await.unwrap();
    assert_eq!(control.stats().received, u64::from(total));
    assert_eq!(sender.stats().streams_opened, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_receiver_stops_reading_and_loses_nothing_over_quic() {
    full_receiver(Over::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_receiver_stops_reading_and_loses_nothing_over_tcp() {
    full_receiver(Over::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_stream_is_opened_again_once_and_then_given_up() {
    let (a, sender, _a) = Behaviour::new(
        mix()
            .with_stall_timeout(Duration::from_millis(100))
            .with_send_queue_len(4),
    );
    let (b, control, receiver) = Behaviour::new(mix().with_receive_queue_len(1));
    let (_a, b) = (Node::start(Over::Quic, a).await, Node::start(Over::Quic, b).await);
    b.know(&sender);
    let mut n = 0;
    until(|| {
        n += 1;
        let _ = sender.try_send(&b.peer, frame(n));
        sender.stats().dropped_stalled > 0
    })
    .await;
    let stats = sender.stats();
    assert!(
        (2..=3).contains(&stats.stalls) && stats.streams_reopened == 1,
        "{stats:?}"
    );
    assert!(control.stats().inbound_streams >= 2);
    drop(receiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_there_fills_its_queue_and_is_given_up_under_a_reason() {
    let (a, sender, mut at_sender) = Behaviour::new(mix().with_send_queue_len(2));
    let _a = Node::start(Over::Quic, a).await;
    // Takes the packets and says nothing, so the dial lasts.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let peer = PeerId::random();
    assert_eq!(
        sender.try_send(&peer, frame(0)).unwrap_err(),
        (SendError::UnknownPeer, frame(0))
    );
    sender.add_peer(
        peer,
        vec![format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().unwrap()],
    );
    sender.try_send(&peer, frame(0)).unwrap();
    sender.try_send(&peer, frame(1)).unwrap();
    assert_eq!(
        sender.try_send(&peer, frame(2)).unwrap_err(),
        (SendError::Full, frame(2))
    );
    assert_eq!(sender.queued(&peer), 2);
    let Event::Unreachable { peer: told, reason } = next_other(&mut at_sender).await else {
        panic!()
    };
    assert_eq!(told, peer);
    assert!(!reason.is_empty());
    let stats = sender.stats();
    assert_eq!(
        (stats.dropped_unreachable, stats.refused_full, stats.dial_failures),
        (2, 1, 1)
    );
    assert_eq!(sender.queued(&peer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_the_protocol_is_given_up_under_a_reason() {
    let (a, sender, _a) = Behaviour::new(mix());
    let other = Config::new(StreamProtocol::new("/test/other/1.0.0"), FrameLen::Exact(LEN));
    let (b, _b, _r) = Behaviour::new(other);
    let (_a, b) = (Node::start(Over::Tcp, a).await, Node::start(Over::Tcp, b).await);
    b.know(&sender);
    sender.try_send(&b.peer, frame(0)).unwrap();
    until(|| sender.stats().dropped_unsupported == 1).await;
}

async fn restart(over: Over, frames_kept: bool) {
    let (a, sender, mut at_sender) = Behaviour::new(mix().with_frames_kept(frames_kept));
    let (b, _b, mut receiver) = Behaviour::new(mix());
    let key = Keypair::generate_ed25519();
    let any = match over {
        Over::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        Over::Tcp => "/ip4/127.0.0.1/tcp/0",
    };
    let a = Node::start(over, a).await;
    let b = Node::start_at(any.parse().unwrap(), key.clone(), b).await;
    b.know(&sender);
    sender.connect(b.peer);
    if frames_kept {
        sender.try_send(&b.peer, frame(0)).unwrap();
    }
    assert_eq!(
        next_other(&mut at_sender).await,
        Event::Connected { peer: b.peer }
    );
    if !frames_kept {
        // Not before it is connected.
        sender.try_send(&b.peer, frame(0)).unwrap();
    }
    assert_eq!(number(&next_frame(&mut receiver).await), 0);

    let (peer, address) = (b.peer, b.address.clone());
    b.stop().await;
    assert_eq!(next_other(&mut at_sender).await, Event::Disconnected { peer });
    // Old by the time at which the peer is there again.
    let old = sender.try_send(&peer, frame(1));
    if frames_kept {
        assert_eq!(old, Ok(()));
    } else {
        assert_eq!(old, Err((SendError::Disconnected, frame(1))));
    }
    let (b, _b, mut receiver) = Behaviour::new(mix());
    let b = Node::start_at(address, key, b).await;
    assert_eq!(b.peer, peer);
    let mut n = 1;
    let arrived = until(|| {
        n += 1;
        let _ = sender.try_send(&peer, frame(n));
        match receiver.try_recv() {
            Some(Event::Frame { peer, frame, .. }) if peer == a.peer => {
                assert_eq!(
                    number(&frame) == 1,
                    frames_kept,
                    "the old one comes first, or not at all"
                );
                true
            }
            _ => false,
        }
    });
    arrived.await;
    assert!(sender.stats().dials >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_flow_again_after_a_restart_over_quic() {
    restart(Over::Quic, true).await;
    restart(Over::Quic, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_flow_again_after_a_restart_over_tcp() {
    restart(Over::Tcp, true).await;
    restart(Over::Tcp, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_peers_that_dial_each_other_lose_nothing() {
    for over in [Over::Quic, Over::Tcp].repeat(5) {
        let (a, control_a, mut at_a) = Behaviour::new(mix());
        let (b, control_b, mut at_b) = Behaviour::new(mix());
        let (a, b) = (Node::start(over, a).await, Node::start(over, b).await);
        a.know(&control_b);
        b.know(&control_a);
        for n in 0..100 {
            control_a.try_send(&b.peer, frame(n)).unwrap();
            control_b.try_send(&a.peer, frame(n)).unwrap();
        }
        let all = BTreeSet::from_iter(0..100);
        for receiver in [&mut at_a, &mut at_b] {
            let mut seen = BTreeSet::new();
            while seen != all {
                seen.insert(number(&next_frame(receiver).await));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_links_in_one_swarm_do_not_mix() {
    #[derive(NetworkBehaviour)]
    struct Two {
        mix: Behaviour,
        directory: Behaviour,
    }
    let directory = || {
        Config::new(
            StreamProtocol::new("/test/directory/1.0.0"),
            FrameLen::AtMost(100_000),
        )
        .with_header(*b"net")
        .unwrap()
        .with_send_frame_len(FrameLen::AtMost(99_000))
    };
    let start = async || {
        let (mix, mix_control, mix_receiver) = Behaviour::new(mix());
        let (directory, control, receiver) = Behaviour::new(directory());
        (
            Node::start(Over::Quic, Two { mix, directory }).await,
            (mix_control, mix_receiver),
            (control, receiver),
        )
    };
    let (_a, mix_a, dir_a) = start().await;
    let (b, mut mix_b, mut dir_b) = start().await;
    b.know(&mix_a.0);
    b.know(&dir_a.0);
    for n in 0..50 {
        mix_a.0.try_send(&b.peer, frame(n)).unwrap();
        dir_a
            .0
            .try_send(&b.peer, vec![n as u8; 1 + 2000 * n as usize].into())
            .unwrap();
    }
    assert_eq!(
        dir_a.0.try_send(&b.peer, vec![0; 100_000].into()).unwrap_err().0,
        SendError::TooLong
    );
    for n in 0..50 {
        assert_eq!(number(&next_frame(&mut mix_b.1).await), n);
        assert_eq!(
            *next_frame(&mut dir_b.1).await,
            vec![n as u8; 1 + 2000 * n as usize]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnected_peer_stays_known_and_a_removed_one_does_not() {
    let (a, sender, mut at_sender) = Behaviour::new(mix());
    let (b, _b, mut receiver) = Behaviour::new(mix());
    let (_a, b) = (Node::start(Over::Quic, a).await, Node::start(Over::Quic, b).await);
    b.know(&sender);
    sender.connect(b.peer);
    assert_eq!(
        next_other(&mut at_sender).await,
        Event::Connected { peer: b.peer }
    );
    sender.disconnect(b.peer);
    assert_eq!(
        next_other(&mut at_sender).await,
        Event::Disconnected { peer: b.peer }
    );
    sender.try_send(&b.peer, frame(0)).unwrap();
    assert_eq!(number(&next_frame(&mut receiver).await), 0);
    sender.remove_peer(b.peer);
    assert_eq!(
        sender.try_send(&b.peer, frame(1)).unwrap_err().0,
        SendError::UnknownPeer
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_swarm_ends_receiver_and_control() {
    let (a, control, mut receiver) = Behaviour::new(mix());
    let node = Node::start(Over::Quic, a).await;
    let peer = PeerId::random();
    control.add_peer(peer, vec![]);
    node.stop().await;
    assert_eq!(within(receiver.recv()).await, None);
    assert_eq!(
        control.try_send(&peer, frame(0)).unwrap_err().0,
        SendError::Closed
    );
    assert!(!control.add_peer(peer, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_queue_says_early_that_frames_do_not_leave() {
    let (a, sender, _a) = Behaviour::new(mix().with_send_queue_len(2).with_stall_timeout(LIMIT));
    let (b, _b, mut receiver) = Behaviour::new(mix().with_receive_queue_len(1));
    let (_a, b) = (Node::start(Over::Quic, a).await, Node::start(Over::Quic, b).await);
    b.know(&sender);
    let (mut accepted, mut refused) = (0, 0);
    until(|| {
        match sender.try_send(&b.peer, frame(0)) {
            Ok(()) => (accepted, refused) = (accepted + 1, 0),
            Err(_) => refused += 1,
        }
        receiver.len() == 1 && refused > 50
    })
    .await;
    // The window of 64 KiB, what the receiver took, one frame in the writer's hand, two in the queue.
    assert!(accepted <= 64 * 1024 / LEN as u64 + 2 + 1 + 2 + 1, "{accepted}");
    assert!(accepted - sender.stats().sent <= 3);
    assert_eq!(sender.queued(&b.peer), 2);
    for _ in 0..accepted {
        next_frame(&mut receiver).await;
    }
    until(|| sender.queued(&b.peer) == 0 && sender.stats().sent == accepted).await;
}

async fn many_at_once(over: Over) {
    let (a, sender, _a) = Behaviour::new(mix().with_send_queue_len(40));
    let (b, _b, mut receiver) = Behaviour::new(mix());
    let (_a, b) = (Node::start(over, a).await, Node::start(over, b).await);
    b.know(&sender);
    let mut frames: Vec<Frame> = (0..500).map(frame).collect();
    // One in the middle that the link doesn't carry: it stays where it is, with all behind it.
    frames.insert(300, vec![0; 3].into());
    until(|| {
        let before = frames.len();
        match sender.try_send_many(&b.peer, &mut frames) {
            Ok(()) => panic!("a frame of three bytes was taken"),
            Err(SendError::Full) => {
                assert_eq!(frames[0].len(), LEN);
                assert!(before - frames.len() <= 40);
                false
            }
            Err(error) => error == SendError::TooLong && frames.len() == 201,
        }
    })
    .await;
    assert_eq!(frames.remove(0).len(), 3);
    let nobody = PeerId::random();
    assert_eq!(
        sender.try_send_many(&nobody, &mut frames),
        Err(SendError::UnknownPeer)
    );
    assert_eq!(frames.len(), 200);
    until(|| sender.try_send_many(&b.peer, &mut frames).is_ok()).await;
    assert!(frames.is_empty());
    for n in 0..500 {
        assert_eq!(number(&next_frame(&mut receiver).await), n);
    }
    until(|| sender.stats().sent == 500).await;
    assert_eq!(sender.queued(&b.peer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_frames_the_first_are_taken_and_the_rest_stays_over_quic() {
    many_at_once(Over::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_frames_the_first_are_taken_and_the_rest_stays_over_tcp() {
    many_at_once(Over::Tcp).await;
}

/// Two programs with one identity, and a server that talks with each.
async fn twins_are_told_apart(over: Over) {
    let key = Keypair::generate_ed25519();
    let (server, gateway, mut at_gateway) = Behaviour::new(mix().with_frames_kept(false));
    let server = Node::start(over, server).await;
    let mut twins = Vec::new();
    for n in 0..2 {
        let (twin, control, receiver) = Behaviour::new(mix());
        let any = server.address.to_string();
        let any = if any.contains("quic") {
            "/ip4/127.0.0.1/udp/0/quic-v1"
        } else {
            "/ip4/127.0.0.1/tcp/0"
        };
        let node = Node::start_at(any.parse().unwrap(), key.clone(), twin).await;
        server.know(&control);
        control.connect(server.peer);
        control.try_send(&server.peer, frame(n)).unwrap();
        let conn = within(async {
            loop {
                if let Some(Event::Frame { conn, frame, .. }) = at_gateway.recv().await {
                    assert_eq!(number(&frame), n);
                    return conn;
                }
            }
        })
        .await;
        twins.push((node, control, receiver, conn));
    }
    let peer = twins[0].0.peer;
    let (older, newer) = (twins[0].3, twins[1].3);
    assert_ne!(older, newer);
    assert_eq!(
        gateway.try_send_by(&peer, older, frame(9)).unwrap_err().0,
        SendError::Disconnected,
        "not chosen"
    );
    // The older one writes though a newer one is there; what is said to the other goes by none but its own connection.
    for (conn, other, n) in [(older, newer, 10), (newer, older, 20)] {
        assert!(gateway.write_by(&peer, conn));
        gateway.try_send_by(&peer, conn, frame(n)).unwrap();
        gateway.say_by(&peer, other, frame(n + 1)).unwrap();
        assert_eq!(
            gateway.try_send_by(&peer, other, frame(n)).unwrap_err().0,
            SendError::Disconnected
        );
        for (_, _, receiver, of) in &mut twins {
            let expected = if *of == conn { n } else { n + 1 };
            assert_eq!(number(&next_frame(receiver).await), expected);
        }
    }
    gateway.close(&peer, older);
    assert_eq!(
        loop {
            match next_other(&mut twins[0].2).await {
                Event::Connected { .. } => {}
                event => break event,
            }
        },
        Event::Disconnected { peer: server.peer }
    );
    gateway.try_send_by(&peer, newer, frame(30)).unwrap();
    assert_eq!(number(&next_frame(&mut twins[1].2).await), 30);
    let stats = gateway.stats();
    assert_eq!((stats.dropped_unsaid, stats.dropped_disconnected), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn twins_are_told_apart_over_quic() {
    twins_are_told_apart(Over::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twins_are_told_apart_over_tcp() {
    twins_are_told_apart(Over::Tcp).await;
}
