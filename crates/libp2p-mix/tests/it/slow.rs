//! Peers that are slow, silent or deaf, over real sockets: what they hold is bounded, it is counted, and everybody else is served
//! meanwhile.

use std::time::Duration;

use crate::common::*;
use futures::AsyncWriteExt;
use libp2p::{Stream, identity::Keypair};
use libp2p_mix::{
    Destination, Dialect, Endpoint, MixNode, RequestError, RequestOptions, SecretKey, link, message,
};

/// A network with an echo at the end of it.
async fn peers(over: Over) -> Vec<Peer> {
    let peers = network(over, 4, |_| config()).await;
    drop(peers[1].serve_echo());
    peers
}

async fn others_are_served(peers: &[Peer]) {
    let body = length_prefixed(b"meanwhile");
    let to = Destination::Mix(peers[1].peer_id());
    let options = RequestOptions::default().with_timeout(LIMIT);
    // From a peer that has the bad one's victim on its paths, or asks it itself.
    for asker in [&peers[0], &peers[2]] {
        let reply = asker.control.request(&to, &ECHO, &body, options).await;
        assert_eq!(reply.as_deref(), Ok(&body[..]));
    }
}

fn link_stats(peer: &Peer) -> link::Stats {
    peer.control.stats().link
}

async fn next(streams: &mut tokio::sync::mpsc::Receiver<Stream>) -> Stream {
    tokio::time::timeout(LIMIT, streams.recv())
        .await
        .unwrap()
        .unwrap()
}

async fn silent(over: Over) {
    let peers = peers(over).await;
    let (mut streams, _task) = by_hand::streams_to(over, &peers[0]);
    let mut held = Vec::new();
    until(
        || {
            held.extend(streams.try_recv());
            link_stats(&peers[0]).inbound_too_many >= 1
        },
        || format!("{:?}", link_stats(&peers[0])),
    )
    .await;
    let accepted = || link_stats(&peers[0]).inbound_streams;
    let full = accepted();
    others_are_served(&peers).await;
    // The places of those that end are free again.
    drop(held);
    until(
        || {
            drop(streams.try_recv());
            accepted() >= full + 8
        },
        || format!("{:?}", link_stats(&peers[0])),
    )
    .await;
}

#[tokio::test]
async fn streams_that_say_nothing_are_eight_a_peer_and_hinder_nobody_over_tcp() {
    silent(Over::Tcp).await;
}

#[tokio::test]
async fn streams_that_say_nothing_are_eight_a_peer_and_hinder_nobody_over_quic() {
    silent(Over::Quic).await;
}

/// A frame of a packet for the echo of `peers[1]`, which nobody is to answer.
fn good_frame(peers: &[Peer]) -> Vec<u8> {
    let mut request = [0; 3968];
    message::encode_request(
        Dialect::Lioness,
        &ECHO,
        &[],
        &length_prefixed(b"slow"),
        0,
        &mut request,
    )
    .unwrap();
    let path = [&peers[0], &peers[2], &peers[1]];
    length_prefixed(&packet(Dialect::Lioness, path, [0; 94], &request, 0))
}

/// Each byte by itself, as from somebody who has all the time in the world.
async fn drip(stream: &mut Stream, bytes: &[u8]) {
    for byte in bytes {
        stream.write_all(&[*byte]).await.unwrap();
        stream.flush().await.unwrap();
    }
}

async fn byte_by_byte(over: Over) {
    let peers = peers(over).await;
    let (mut streams, _task) = by_hand::streams_to(over, &peers[0]);
    let mut stream = next(&mut streams).await;
    let frame = good_frame(&peers);
    drip(&mut stream, &frame[..1]).await;
    others_are_served(&peers).await;
    let (received, served) = (link_stats(&peers[0]).received, peers[1].counter("exit.served"));
    drip(&mut stream, &frame[1..frame.len() - 1]).await;
    others_are_served(&peers).await;
    drip(&mut stream, &frame[frame.len() - 1..]).await;
    // Two echoes in between, and it.
    peers[1].until("exit.served", served + 3).await;
    assert!(link_stats(&peers[0]).received > received);
    assert_eq!(peers[0].counter("drop.size"), 0);
    // One that ends inside of a frame leaves nothing behind but a count.
    drip(&mut stream, &frame[..100]).await;
    stream.close().await.unwrap();
    let truncated = || link_stats(&peers[0]).truncated;
    until(|| truncated() == 1, || format!("{:?}", link_stats(&peers[0]))).await;
}

#[tokio::test]
async fn a_packet_that_comes_byte_by_byte_is_as_good_as_another_over_tcp() {
    byte_by_byte(Over::Tcp).await;
}

#[tokio::test]
async fn a_packet_that_comes_byte_by_byte_is_as_good_as_another_over_quic() {
    byte_by_byte(Over::Quic).await;
}

async fn never_ending(over: Over) {
    let peers = peers(over).await;
    let (mut streams, _task) = by_hand::streams_to(over, &peers[0]);
    let closed = |stats: link::Stats| stats.bad_length + stats.bad_varint;
    // A length that never ends, one of four gigabytes, one byte more than a packet has.
    let lengths: [&[u8]; 3] = [&[0x80; 64], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0x81, 0x24]];
    for (n, length) in lengths.into_iter().enumerate() {
        let mut stream = next(&mut streams).await;
        stream.write_all(length).await.unwrap();
        stream.flush().await.unwrap();
        let closed = || closed(link_stats(&peers[0]));
        until(
            || closed() == n as u64 + 1,
            || format!("{:?}", link_stats(&peers[0])),
        )
        .await;
        // Whatever it goes on to say is not read: it fails, as soon as that came through.
        let goes_on = async { while stream.write_all(&[7; 1000]).await.is_ok() {} };
        tokio::time::timeout(LIMIT, goes_on).await.unwrap();
    }
    // Frames without end: each is looked at and dropped, and others have their turn between them.
    let mut stream = next(&mut streams).await;
    let noise = length_prefixed(&[0xff; 4608]);
    let flood = tokio::spawn(async move { while stream.write_all(&noise).await.is_ok() {} });
    peers[0].until("alpha", 100).await;
    others_are_served(&peers).await;
    flood.abort();
}

#[tokio::test]
async fn what_never_ends_is_closed_or_dropped_piece_by_piece_over_tcp() {
    never_ending(Over::Tcp).await;
}

#[tokio::test]
async fn what_never_ends_is_closed_or_dropped_piece_by_piece_over_quic() {
    never_ending(Over::Quic).await;
}

#[tokio::test]
async fn a_node_that_never_reads_fills_its_own_queue_and_is_given_up() {
    let mut peers = network(Over::Tcp, 4, |i| match i {
        0 => config().with_hold_ms(0).with_link(|link| {
            link.with_stall_timeout(Duration::from_millis(200))
                .with_send_queue_len(4)
        }),
        _ => config(),
    })
    .await;
    drop(peers[1].serve_echo());
    // It takes streams, one frame of them, and no more.
    let deaf_link =
        link::Config::new(libp2p_mix::PROTOCOL, link::FrameLen::Exact(4608)).with_receive_queue_len(1);
    let (behaviour, _control, _never_read) = link::Behaviour::new(deaf_link);
    let keypair = Keypair::generate_secp256k1();
    let peer = keypair.public().to_peer_id();
    let mut swarm = swarm(Over::Tcp, keypair, behaviour);
    let address = listen(Over::Tcp, &mut swarm).await;
    let task = tokio::spawn(async move {
        loop {
            futures::StreamExt::select_next_some(&mut swarm).await;
        }
    });
    let key = SecretKey::from_bytes(rand()).public();
    let deaf = MixNode::new(peer, &address, key.as_bytes()).unwrap();
    let good: Vec<_> = peers[1..].iter().map(|p| p.node.clone()).collect();
    let control = peers[0].control.clone();
    // Half of its packets have the deaf one as their first hop.
    control
        .pool()
        .set_static([good[0].clone(), good[1].clone(), deaf])
        .unwrap();
    let to = Destination::Mix(peers[1].peer_id());
    let sending = tokio::time::timeout(LIMIT, async {
        loop {
            control.send(&to, &ECHO, &length_prefixed(b"")).await.unwrap();
            let stats = control.stats();
            if stats.counters.get("drop.link_full") > 0 && stats.link.dropped_stalled > 0 {
                return stats;
            }
        }
    });
    let stats = sending.await.unwrap();
    assert!(stats.link.stalls >= 2, "{stats:?}");
    control.pool().set_static(good).unwrap();
    others_are_served(&peers).await;
    task.abort();
    peers.clear();
}

#[tokio::test]
async fn a_destination_that_accepts_and_says_nothing_fails_when_its_time_is_over() {
    let timeout = Duration::from_millis(300);
    let peers = network(Over::Tcp, 4, |_| config().with_exit_timeout(timeout)).await;
    drop(peers[1].serve_echo());
    // The system accepts for it; nobody ever negotiates.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port());
    let nobody = Keypair::generate_secp256k1().public().to_peer_id();
    let to = Destination::Peer(Endpoint::new(nobody, &address.parse().unwrap()).unwrap());
    let options = RequestOptions::default().with_timeout(LIMIT);
    let reply = peers[0].control.request(&to, &PING, &[1; 32], options).await;
    assert_eq!(reply, Err(RequestError::EmptyReply));
    assert_eq!(peers.iter().map(|p| p.counter("exit.timed_out")).sum::<u64>(), 1);
    others_are_served(&peers).await;
}
