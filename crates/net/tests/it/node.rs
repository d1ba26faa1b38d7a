//! Nodes among strangers: what comes from whom the document doesn't list, or is noise, is counted and nothing more. And a network
//! whose machines fall asleep, or whose exit is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{self, EXIT, GATEWAY, MIX_1, Net, garbage, still_serves, wait_until, within};
use libp2p_mix::link::{Config, FrameLen};
use mizzle_base::NetworkId;
use mizzle_base::frame::{self, Content, FRAME_LEN, Frame};
use mizzle_base::{Counters, Profile};
use mizzle_net::clock::{Clock, Machine, ThisMachine};
use mizzle_net::host::{Host, HostConfig, Link, Transport};
use mizzle_net::{identity, wire};
use mizzle_sphinx::{PACKET_LEN, Packet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

async fn send(link: &Link, net: &Net, node: usize, frames: impl IntoIterator<Item = Box<[u8]>>) {
    let to = &net.nodes[node];
    link.control.add_peer(to.peer, to.addresses.clone());
    for frame in frames {
        link.control.try_send(&to.peer, frame).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_of_peers_without_an_edge_are_dropped_unopened() {
    let net = Net::start().await;
    let client = net.client().await;
    let noise = |n: usize| (0..n).map(|_| garbage(PACKET_LEN));
    // Who isn't in the document, or only in a layer that has nothing to do with this one, is not even read.
    let third = net.nodes[MIX_1 + 2].keypair.clone();
    let strangers = [net.stranger(None).await, net.stranger(Some(third)).await];
    for stranger in &strangers {
        let link = stranger.mix.as_ref().unwrap();
        send(link, &net, MIX_1, noise(20)).await;
        wait_until("written", || link.control.queued(&net.nodes[MIX_1].peer) == 0).await;
    }
    // The layer behind is known, as packets go there; none come from it.
    let second = net.stranger(Some(net.nodes[MIX_1 + 1].keypair.clone())).await;
    send(second.mix.as_ref().unwrap(), &net, MIX_1, noise(5)).await;
    net.nodes[MIX_1].counted("drop.sender_without_edge", 5).await;
    // It had the key of a node, and so some of that node's packets.
    within("it is gone", second.running.shutdown()).await;
    still_serves(&client).await;
    assert_eq!(net.nodes[MIX_1].counters().get("drop.sender_without_edge"), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_from_a_peer_with_an_edge_is_counted_and_nothing_more() {
    let net = Net::start().await;
    let client = net.client().await;
    // Why a packet can't be peeled is told to the node's owner alone.
    let rejected = || -> u64 {
        let counters = net.nodes[MIX_1].counters();
        ["alpha", "replay", "mac", "role", "payload"]
            .iter()
            .map(|reason| counters.get(reason))
            .sum()
    };
    assert_eq!(rejected(), 0);
    // Who has the gateway's key is the gateway.
    let gateway = net.stranger(Some(net.nodes[GATEWAY].keypair.clone())).await;
    let zeros = || Packet::zeroed().into_boxed() as Box<[u8]>;
    let frames = (0..20).map(|_| garbage(PACKET_LEN)).chain([zeros(), zeros()]);
    send(gateway.mix.as_ref().unwrap(), &net, MIX_1, frames).await;
    wait_until("22 are rejected", || rejected() >= 22).await;
    still_serves(&client).await;
    assert_eq!(rejected(), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_counted_to_its_last_packet_and_others_are_served_after_it() {
    const FLOOD: u64 = 20_000;
    let net = Net::start().await;
    let client = net.client().await;
    let rejected = || -> u64 {
        let counters = net.nodes[MIX_1].counters();
        ["alpha", "mac"].iter().map(|reason| counters.get(reason)).sum()
    };
    let gateway = net.stranger(Some(net.nodes[GATEWAY].keypair.clone())).await;
    let (link, to) = (gateway.mix.as_ref().unwrap(), &net.nodes[MIX_1]);
    link.control.add_peer(to.peer, to.addresses.clone());
    let noise = garbage(PACKET_LEN);
    let mut sent = 0;
    within("the link takes the flood", async {
        while sent < FLOOD {
            // As fast as the node takes it: what it has no room for stays with the sender.
            match link.control.try_send(&to.peer, noise.clone()) {
                Ok(()) => sent += 1,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    })
    .await;
    wait_until("all of it is rejected", || rejected() >= FLOOD).await;
    // It had the key of a node, and so some of that node's packets.
    within("it is gone", gateway.running.shutdown()).await;
    still_serves(&client).await;
    assert_eq!(rejected(), FLOOD);
    // Under load a node peels in threads, otherwise in a task; what it holds goes along, there and back.
    net.nodes[MIX_1].counted("load.rose", 1).await;
    net.nodes[MIX_1].counted("load.fell", 1).await;
    still_serves(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_gateway_link_admits_nobody_and_disturbs_nobody() {
    let net = Net::start().await;
    let client = net.client().await;
    let stranger = net.stranger(None).await;
    let link = stranger.gateway.as_ref().unwrap();
    let packet = || {
        frame::encode(&Frame {
            ack: u64::MAX,
            seq: 0,
            content: Content::Packet(Packet::zeroed()),
        })
    };
    let filler = || {
        frame::encode(&Frame {
            ack: 0,
            seq: 0,
            content: Content::Filler { users: 0 },
        })
    };
    let mut noise = garbage(FRAME_LEN);
    noise[0] = 0xff;
    send(link, &net, GATEWAY, [noise, packet(), packet(), filler()]).await;
    net.nodes[GATEWAY].counted("drop.not_admitted", 2).await;
    net.nodes[GATEWAY].counted("drop.bad_frame", 2).await;
    let hello = || {
        let content = Content::Hello {
            network: net.document.network(),
            run: [1; 8],
            token: Vec::new(),
        };
        frame::encode(&Frame {
            ack: u64::MAX,
            seq: 0,
            content,
        })
    };
    // Who then behaves is taken like anyone else.
    send(link, &net, GATEWAY, [hello()]).await;
    net.nodes[GATEWAY].counted("client.admitted", 2).await;
    still_serves(&client).await;
    assert!(client.client.snapshot().up);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_wrong_length_or_for_another_network_never_reach_a_core() {
    let net = Net::start().await;
    let client = net.client().await;
    let host = |mix: Config, gateway: Config| async move {
        let keypair = identity::generate(&mut common::rng()).unwrap();
        Host::start(
            HostConfig::new(keypair, Transport::Quic)
                .with_mix(mix)
                .with_gateway(gateway),
        )
        .await
        .unwrap()
    };
    let odd = |protocol| Config::new(protocol, FrameLen::AtMost(1 << 20));
    let other = NetworkId::of(&[1; 32], "other");
    let mut strangers = Vec::new();
    for mix in [odd(wire::MIX), wire::mix_link(&other)] {
        let stranger = host(mix, odd(wire::GATEWAY)).await;
        for len in [PACKET_LEN, PACKET_LEN, PACKET_LEN] {
            send(stranger.mix.as_ref().unwrap(), &net, MIX_1, [garbage(len)]).await;
        }
        for len in [0, 1, FRAME_LEN - 1, 1 << 20] {
            send(stranger.gateway.as_ref().unwrap(), &net, EXIT, [garbage(len)]).await;
        }
        strangers.push(stranger);
    }
    // The links have taken, or given up, all that was sent.
    for stranger in &strangers {
        for link in [&stranger.mix, &stranger.gateway] {
            let control = &link.as_ref().unwrap().control;
            let peers = [MIX_1, EXIT].map(|n| net.nodes[n].peer);
            wait_until("written", || peers.iter().all(|peer| control.queued(peer) == 0)).await;
        }
    }
    still_serves(&client).await;
    let (mix, exit) = (net.nodes[MIX_1].counters(), net.nodes[EXIT].counters());
    assert_eq!(
        (mix.get("drop.sender_without_edge"), mix.get("drop.wrong_length")),
        (0, 0)
    );
    assert_eq!(
        (exit.get("drop.bad_frame"), exit.get("drop.not_admitted")),
        (0, 0)
    );
    // Nor is anyone kept from coming in later.
    let late = net.client_of(GATEWAY, Arc::clone(&net.document)).await.unwrap();
    still_serves(&late).await;
}

/// This machine's clocks, and the seconds that it slept besides.
#[derive(Clone, Debug, Default)]
struct Sleeper(Arc<AtomicU64>);

impl Sleeper {
    fn sleep(&self, s: u64) {
        self.0.fetch_add(s, Ordering::SeqCst);
    }

    fn slept(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

impl Machine for Sleeper {
    fn elapsed(&self) -> Duration {
        ThisMachine.elapsed() + self.slept()
    }

    fn utc(&self) -> Duration {
        ThisMachine.utc() + self.slept()
    }
}

/// Packets that a client sent, of all kinds.
fn slots(counters: &Counters) -> u64 {
    let sent = [
        "slot.data",
        "slot.reply_data",
        "slot.drop",
        "slot.reply_drop",
        "slot.loop",
    ];
    sent.iter().map(|name| counters.get(name)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_hour_of_sleep_nothing_leaves_in_a_burst_and_streams_go_on_or_end_with_a_reason() {
    let machine = Sleeper::default();
    let clock = Clock::of(machine.clone());
    let net = Net::start_by(clock, Transport::Quic, Profile::browse(), |_, _, addresses| {
        addresses
    })
    .await;
    let client = net.client().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = client.open(listener.local_addr().unwrap()).await.unwrap();
    let (mut outside, _) = within("the exit comes", listener.accept()).await.unwrap();
    stream.write_all(b"before").await.unwrap();
    let mut bytes = [0; 6];
    within("bytes there", outside.read_exact(&mut bytes))
        .await
        .unwrap();
    // Reply slots with SURBs that wait.
    wait_until("it sends", || slots(&client.client.snapshot().counters) > 100).await;

    let (before, slept_at) = (client.client.snapshot().counters, tokio::time::Instant::now());
    let forwarded = |net: &Net| -> u64 {
        (MIX_1..GATEWAY)
            .map(|n| net.nodes[n].counters().get("forwarded"))
            .sum()
    };
    let passed_before = forwarded(&net);
    machine.sleep(3_600);
    wait_until("the client notices", || {
        client.client.snapshot().counters.get("slot.pause") > before.get("slot.pause")
    })
    .await;
    for gateway in [GATEWAY, EXIT] {
        net.nodes[gateway].counted("loop.sent", 1).await;
    }
    net.nodes[GATEWAY].counted("downlink.late_tick", 1).await;
    // 50 packets a second leave, and each passes three mixes, 33 return; nodes have 50 loops a second each. In a burst there
    // would be 180,000 at once.
    let sent = slots(&client.client.snapshot().counters) - slots(&before);
    let passed = forwarded(&net) - passed_before;
    let s = slept_at.elapsed().as_secs_f64();
    assert!((sent as f64) < 60.0 + 100.0 * s, "{sent} packets in {s:.2} s");
    assert!(
        (passed as f64) < 1_000.0 + 2_000.0 * s,
        "{passed} packets through mixes in {s:.2} s"
    );

    // The stream goes on, or both programs are told.
    let both = async {
        let there = stream.write_all(b"after!").await.is_ok() && outside.read_exact(&mut bytes).await.is_ok();
        if !there {
            let end = stream.read(&mut [0; 1]).await;
            assert!(!matches!(end, Ok(1..)), "{end:?}");
        }
    };
    within("the stream goes on or ends", both).await;
    still_serves(&client).await;
    let snapshot = client.client.snapshot();
    assert!(snapshot.up && snapshot.loops.returned > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_exit_is_gone_ends_with_an_error_and_the_next_one_says_why_it_is_none() {
    let mut net = Net::start().await;
    let client = net.client().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = client.open(listener.local_addr().unwrap()).await.unwrap();
    let (mut outside, _) = within("the exit comes", listener.accept()).await.unwrap();
    outside.write_all(&[7; 20_000]).await.unwrap();
    let mut half = vec![0; 10_000];
    within("the first half", stream.read_exact(&mut half))
        .await
        .unwrap();
    net.nodes[EXIT].stop().await;
    // A minute of silence, and what it takes to notice where slots are few.
    let given_up = Duration::from_secs(100);
    let end = tokio::time::timeout(given_up, stream.read_to_end(&mut half)).await;
    let why = end.expect("it ends in time").expect_err("it is no end in order");
    assert_eq!(why.kind(), std::io::ErrorKind::ConnectionReset, "{why}");
    wait_until("the silence is counted", || {
        client.client.snapshot().counters.get("stall.silence") > 0
    })
    .await;
    let refused = client.open(listener.local_addr().unwrap()).await;
    let why = refused.err().expect("there is no exit");
    assert_eq!(why.to_string(), "no answer came in time");
}
