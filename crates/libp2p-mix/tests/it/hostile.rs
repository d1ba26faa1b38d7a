//! What bad peers and bad packets do to a running peer: a counter each, no panic, no answer, and what is good still works.

use crate::common::*;
use futures::AsyncReadExt;
use libp2p::StreamProtocol;
use libp2p_mix::{Destination, Dialect, RequestError, RequestOptions, message};

const DIALECT: Dialect = Dialect::Lioness;

fn request(codec: &StreamProtocol, surbs: &[message::SurbBytes], body: &[u8]) -> [u8; 3968] {
    let mut out = [0; 3968];
    message::encode_request(DIALECT, codec, surbs, body, 0, &mut out).unwrap();
    out
}

#[tokio::test]
async fn bad_packets_are_counted_and_answered_with_silence() {
    let peers = network(Over::Memory, 4, |_| config()).await;
    let path = [&peers[0], &peers[1], &peers[2]];
    let mut here = peers[2].control.serve(&ECHO, 10, None);
    let mut raw = Raw::start(Over::Memory).await;
    let first = &peers[0].node.endpoint;
    let good = packet(DIALECT, path, [0; 94], &request(&ECHO, &[], b"good"), 1);

    // Alpha: zero, not canonical, bit 255 set, of small order.
    let with_alpha = |alpha: [u8; 32]| [&alpha[..], &good[32..]].concat();
    let mut not_canonical = [0xff; 32];
    not_canonical[31] = 0x7f;
    let mut high_bit: [u8; 32] = good[..32].try_into().unwrap();
    high_bit[31] |= 0x80;
    let mut one = [0; 32];
    one[0] = 1;
    for alpha in [[0; 32], not_canonical, high_bit, one] {
        raw.send(first, with_alpha(alpha));
    }
    peers[0].until("alpha", 4).await;
    // Beta and gamma changed, and a packet of noise.
    for at in [32, 100, 607, 608, 623] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        raw.send(first, bad);
    }
    peers[0].until("mac", 5).await;
    // Too short, and too short by one: dropped, and the stream goes on.
    raw.send(first, vec![1; 4607]);
    raw.send(first, Vec::new());
    peers[0].until("drop.size", 2).await;
    assert_eq!(
        peers[0].control.stats().link.inbound_streams,
        1,
        "all on one stream"
    );
    // A payload changed on the way shows at the last hop and nowhere else.
    let mut bad = packet(DIALECT, path, [0; 94], &request(&ECHO, &[], b"bad"), 1);
    bad[3000] ^= 1;
    raw.send(first, bad);
    peers[2].until("payload", 1).await;
    // The good one passes, once; none of the bad ones had taken its place.
    raw.send(first, good.clone());
    assert_eq!(
        tokio::time::timeout(LIMIT, here.next())
            .await
            .unwrap()
            .unwrap()
            .body(),
        b"good"
    );
    raw.send(first, good);
    peers[0].until("replay", 1).await;
    // Too long: the stream is closed.
    raw.send(first, vec![1; 4609]);
    let bad_length = || peers[0].control.stats().link.bad_length;
    until(|| bad_length() >= 1, || format!("{:?}", peers[0].control.stats())).await;
    assert_eq!(raw.link.stats().received, 0, "nobody answered");
}

#[tokio::test]
async fn bad_messages_and_surbs_at_an_exit_are_counted() {
    let peers = network(Over::Memory, 4, |_| config()).await;
    let path = [&peers[0], &peers[1], &peers[2]];
    let exit = &peers[2];
    let mut raw = Raw::start(Over::Memory).await;
    let first = &peers[0].node.endpoint;
    let mut send =
        |destination, message: &[u8; 3968]| raw.send(first, packet(DIALECT, path, destination, message, 0));

    send([0; 94], &[0xff; 3968]);
    exit.until("exit.bad_padding", 1).await;
    let mut long_codec = [0; 3968];
    mizzle_sphinx::pad(
        DIALECT,
        &[&[0x80, 0x01][..], &[b'a'; 128], &[0]].concat(),
        &mut long_codec,
    )
    .unwrap();
    send([0; 94], &long_codec);
    exit.until("exit.bad_codec", 1).await;
    let mut surbs = [0; 3968];
    mizzle_sphinx::pad(DIALECT, &[2, b'/', b'a', 6], &mut surbs).unwrap();
    send([0; 94], &surbs);
    exit.until("exit.bad_surbs", 1).await;
    // A destination that is no address, and one of a transport that there isn't.
    send([1; 94], &request(&ECHO, &[], b""));
    exit.until("exit.bad_destination", 1).await;
    // A codec that nobody serves, and SURBs that are noise: they name nobody, or us, and nothing comes of it.
    send(
        [0; 94],
        &request(&StreamProtocol::new("/no/such"), &[[7; 734]], b""),
    );
    exit.until("exit.unknown_codec", 1).await;
    exit.until("drop.no_edge", 1).await;
    let mut ours = [7; 734];
    ours[..94].copy_from_slice(&exit.node.endpoint.block().unwrap());
    send([0; 94], &request(&StreamProtocol::new("/no/such"), &[ours], b""));
    until(
        || exit.counter("alpha") + exit.counter("mac") >= 1,
        || format!("{:?}", exit.control.stats()),
    )
    .await;

    // And it still does its work.
    let _echo = exit.serve_echo();
    let body = length_prefixed(b"still here");
    let to = Destination::Mix(exit.peer_id());
    let reply = peers[0]
        .control
        .request(&to, &ECHO, &body, RequestOptions::default())
        .await;
    assert_eq!(reply.unwrap(), body);
}

#[tokio::test]
async fn a_hop_with_a_zero_delay_is_no_exit() {
    let peers = network(Over::Memory, 4, |_| config()).await;
    let path = [&peers[0], &peers[1], &peers[2]];
    let mut here = peers[2].control.serve(&ECHO, 10, None);
    let mut raw = Raw::start(Over::Memory).await;
    raw.send(
        &peers[0].node.endpoint,
        packet(DIALECT, path, [0; 94], &request(&ECHO, &[], b"zero"), 0),
    );
    assert_eq!(
        tokio::time::timeout(LIMIT, here.next())
            .await
            .unwrap()
            .unwrap()
            .body(),
        b"zero"
    );
    assert_eq!(
        (peers[0].counter("forwarded"), peers[1].counter("forwarded")),
        (1, 1)
    );
}

#[tokio::test]
async fn an_exit_is_known_on_longer_paths_too() {
    let peers = network(Over::Memory, 5, |_| config()).await;
    let all: Vec<_> = peers.iter().collect();
    let mut raw = Raw::start(Over::Memory).await;
    for hops in [4, 5] {
        for delay_ms in [0, 1] {
            let exit = &peers[hops - 1];
            let mut here = exit.control.serve(&ECHO, 10, None);
            let one = packet(
                DIALECT,
                &all[..hops],
                [0; 94],
                &request(&ECHO, &[], b"far"),
                delay_ms,
            );
            raw.send(&peers[0].node.endpoint, one);
            let exchange = tokio::time::timeout(LIMIT, here.next()).await.unwrap().unwrap();
            assert_eq!(exchange.body(), b"far");
        }
    }
}

/// What a last hop is with a delay: one that is to pass the packet on, to nobody.
#[tokio::test]
async fn a_packet_for_nobody_is_dropped() {
    use mizzle_sphinx::{Hop, Packet, build_with_secret};
    let peers = network(Over::Memory, 3, |_| config()).await;
    let blocks: Vec<_> = peers.iter().map(|p| p.node.endpoint.block().unwrap()).collect();
    let hop = |at: usize, address| Hop {
        key: &peers[at].node.key,
        address,
        delay_ms: 1,
    };
    let nowhere = Hop {
        delay_ms: 0,
        ..hop(0, &libp2p_mix::address::NOWHERE)
    };
    let hops = [
        hop(0, &blocks[0]),
        hop(1, &blocks[1]),
        hop(2, &blocks[2]),
        nowhere,
    ];
    let mut packet = Packet::zeroed();
    let message = request(&ECHO, &[], b"");
    build_with_secret(DIALECT, rand(), &hops, &[0; 94], &message, &mut packet).unwrap();
    let mut raw = Raw::start(Over::Memory).await;
    raw.send(&peers[0].node.endpoint, packet.as_bytes().to_vec());
    peers[2].until("drop.no_edge", 1).await;
    assert_eq!(peers[2].counter("forwarded"), 0);
}

#[tokio::test]
async fn one_stream_for_each_packet_is_as_good_as_one_for_all() {
    let peers = network(Over::Memory, 4, |_| config()).await;
    let path = [&peers[0], &peers[1], &peers[2]];
    let mut here = peers[2].control.serve(&ECHO, 100, None);
    let (mut streams, _task) = by_hand::streams_to(Over::Memory, &peers[0]);
    for n in 0..20_u8 {
        let mut stream = tokio::time::timeout(LIMIT, streams.recv())
            .await
            .unwrap()
            .unwrap();
        let bytes = packet(DIALECT, path, [0; 94], &request(&ECHO, &[], &[n]), 0);
        let frame = length_prefixed(&bytes);
        assert_eq!(frame[..2], [0x80, 0x24]);
        futures::AsyncWriteExt::write_all(&mut stream, &frame)
            .await
            .unwrap();
        futures::AsyncWriteExt::close(&mut stream).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{read:?}");
        tokio::time::timeout(LIMIT, here.next()).await.unwrap().unwrap();
    }
    // The next one may be open already.
    let streams = peers[0].control.stats().link.inbound_streams;
    assert!((20..=21).contains(&streams), "{streams}");
}

#[tokio::test]
async fn a_destination_that_never_answers_or_says_too_much_is_a_failure_of_the_exit() {
    let peers = network(Over::Memory, 4, |_| {
        config().with_exit_timeout(std::time::Duration::from_millis(500))
    })
    .await;
    let destination = Peer::start(Over::Memory, config()).await;
    let mut here = destination
        .control
        .serve(&ECHO, 10, Some(libp2p_mix::Read::LengthPrefixed(100)));
    let body = length_prefixed(b"?");
    let to = destination.destination();
    let ask = || async {
        peers[0]
            .control
            .request(&to, &ECHO, &body, RequestOptions::default().with_surbs(1))
            .await
    };
    let (reply, _kept) = tokio::join!(ask(), here.next());
    assert_eq!(reply, Err(RequestError::EmptyReply));
    assert_eq!(peers.iter().map(|p| p.counter("exit.timed_out")).sum::<u64>(), 1);
    let (reply, ()) = tokio::join!(ask(), async {
        let exchange = here.next().await.unwrap();
        exchange.answer(&length_prefixed(&[1; 5000])).unwrap();
    });
    assert_eq!(reply, Err(RequestError::EmptyReply));
    assert_eq!(
        peers
            .iter()
            .map(|p| p.counter("exit.answer_too_long"))
            .sum::<u64>(),
        1
    );
}
