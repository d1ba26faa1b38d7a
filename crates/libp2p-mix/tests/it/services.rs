//! Spam protection, cover, the replay memory over a restart, discovery, the byte-stream view.

use std::time::Duration;

use crate::common::*;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::identity::Keypair;
use libp2p_mix::{
    Config, Cover, Destination, Dialect, Event, FileReplayStore, Read, ReplayStore, RequestOptions,
    SecretKey, message,
    spam::{ProofOfWork, TokenBucket},
};

fn echo_options() -> RequestOptions {
    RequestOptions::default().with_timeout(LIMIT)
}

#[tokio::test]
async fn with_proof_of_work_packets_pass_and_others_are_dropped_before_any_curve_operation() {
    let peers = network(Over::Memory, 4, |_| {
        config().with_spam_protection(ProofOfWork::new(6))
    })
    .await;
    let _echo = peers[1].serve_echo();
    let to = Destination::Mix(peers[1].peer_id());
    let body = length_prefixed(b"worked for");
    let reply = peers[0]
        .control
        .request(&to, &ECHO, &body, echo_options().with_surbs(1))
        .await;
    assert_eq!(reply.unwrap(), body);

    let mut raw = Raw::start(Over::Memory).await;
    let mut message = [0; 3968];
    message::encode_request(Dialect::Lioness, &ECHO, &[], b"", 0, &mut message).unwrap();
    let bare = packet(
        Dialect::Lioness,
        [&peers[0], &peers[2], &peers[1]],
        [0; 94],
        &message,
        0,
    );
    // Counted a moment after the asker is told.
    peers[0].until("received", 1).await;
    let received = peers[0].counter("received");
    raw.send(&peers[0].node.endpoint, bare.clone());
    peers[0].until("drop.size", 1).await;
    raw.send(&peers[0].node.endpoint, [&bare[..], &[0; 12]].concat());
    peers[0].until("drop.spam", 1).await;
    assert_eq!(peers[0].counter("received"), received, "none reached the peeling");
}

#[tokio::test]
async fn a_token_bucket_lets_so_many_packets_of_a_neighbour_through() {
    let peers = network(Over::Memory, 3, |_| {
        config().with_spam_protection(TokenBucket::new(1, 10))
    })
    .await;
    let mut raw = Raw::start(Over::Memory).await;
    for _ in 0..50 {
        raw.send(&peers[0].node.endpoint, vec![1; 4608]);
    }
    until(
        || peers[0].counter("drop.spam") + peers[0].counter("received") == 50,
        || format!("{:?}", peers[0].control.stats()),
    )
    .await;
    assert!(
        (10..20).contains(&peers[0].counter("received")),
        "{}",
        peers[0].counter("received")
    );
}

#[tokio::test]
async fn cover_of_both_kinds_comes_back_and_the_budget_bounds_all_packets() {
    let poisson = Cover::Poisson { per_s: 50.0 };
    let peers = network(Over::Memory, 4, |i| {
        if i == 0 {
            config().with_cover(poisson)
        } else {
            config()
        }
    })
    .await;
    peers[0].until("cover.received", 20).await;
    assert!(peers[0].counter("cover.emitted") >= 20);

    let slots = Cover::ConstantRate {
        slots: 40,
        epoch: Duration::from_secs(3600),
        fraction: 1.0,
    };
    let budget = network(Over::Memory, 4, |i| {
        if i == 0 {
            config().with_cover(slots)
        } else {
            config()
        }
    })
    .await;
    let _echo = budget[1].serve_echo();
    let to = Destination::Mix(budget[1].peer_id());
    let mut sent = 0;
    let refused = loop {
        match budget[0].control.send(&to, &ECHO, &length_prefixed(b"")).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, libp2p_mix::SendError::SlotsExhausted);
    assert!(sent <= 40, "{sent}");
}

#[tokio::test]
async fn a_packet_is_a_replay_after_a_restart_too() {
    let dir = std::env::temp_dir().join(format!("libp2p-mix-replay-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("tags");
    let relays = network(Over::Memory, 3, |_| config()).await;
    let (keypair, secret) = (Keypair::generate_secp256k1(), rand());
    let start = || async {
        let key = SecretKey::from_bytes(secret);
        let store = FileReplayStore::open(&path, &key.public()).unwrap();
        let config = Config::new(keypair.clone(), key)
            .into_test()
            .with_replay_store(store);
        Peer::start(Over::Memory, config).await
    };
    let first = start().await;
    let mut here = relays[1].control.serve(&ECHO, 10, None);
    let mut message = [0; 3968];
    message::encode_request(Dialect::Lioness, &ECHO, &[], b"once", 0, &mut message).unwrap();
    let once = packet(
        Dialect::Lioness,
        [&first, &relays[0], &relays[1]],
        [0; 94],
        &message,
        0,
    );
    let mut raw = Raw::start(Over::Memory).await;
    raw.send(&first.node.endpoint, once.clone());
    assert_eq!(
        tokio::time::timeout(LIMIT, here.next())
            .await
            .unwrap()
            .unwrap()
            .body(),
        b"once"
    );
    first.stop().await;
    let again = start().await;
    let mut raw = Raw::start(Over::Memory).await;
    raw.send(&again.node.endpoint, once);
    again.until("replay", 1).await;
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Can't be written.
struct Broken;

impl ReplayStore for Broken {
    fn load(&mut self) -> std::io::Result<Vec<u64>> {
        Ok(Vec::new())
    }

    fn append(&mut self, _: &[u64]) -> std::io::Result<()> {
        Err(std::io::Error::other("the disk is full"))
    }
}

#[tokio::test]
async fn a_packet_that_cannot_be_remembered_goes_nowhere() {
    let peers = network(Over::Memory, 3, |i| {
        if i == 0 {
            config().with_replay_store(Broken)
        } else {
            config()
        }
    })
    .await;
    let mut message = [0; 3968];
    message::encode_request(Dialect::Lioness, &ECHO, &[], b"lost", 0, &mut message).unwrap();
    let path = [&peers[0], &peers[1], &peers[2]];
    let one = packet(Dialect::Lioness, path, [0; 94], &message, 0);
    let mut raw = Raw::start(Over::Memory).await;
    raw.send(&peers[0].node.endpoint, one);
    peers[0].until("drop.replay_store_failed", 1).await;
    assert_eq!(peers[0].counter("link.accepted"), 0);
}

#[tokio::test]
async fn a_full_replay_memory_accepts_nothing_and_says_so() {
    let mut peers = network(Over::Memory, 4, |i| {
        if i == 0 {
            config().with_replay_tags(1)
        } else {
            config()
        }
    })
    .await;
    let mut message = [0; 3968];
    message::encode_request(Dialect::Lioness, &ECHO, &[], b"", 0, &mut message).unwrap();
    let mut raw = Raw::start(Over::Memory).await;
    for _ in 0..3000 {
        if peers[0].counter("drop.replay_table_full") > 0 {
            break;
        }
        let one = packet(
            Dialect::Lioness,
            [&peers[0], &peers[2], &peers[1]],
            [0; 94],
            &message,
            0,
        );
        raw.send(&peers[0].node.endpoint, one);
        tokio::task::yield_now().await;
        let taken = peers[0].counter("received");
        let sent = raw.link.stats().sent;
        if sent > taken + 100 {
            until(|| peers[0].counter("received") + 50 > sent, String::new).await;
        }
    }
    peers[0].until("drop.replay_table_full", 1).await;
    let told = tokio::time::timeout(LIMIT, async {
        while peers[0].events.recv().await.unwrap() != Event::ReplayMemoryFull {}
    });
    told.await.unwrap();
}

#[tokio::test]
async fn a_request_can_be_a_stream_and_an_exchange_too() {
    let peers = network(Over::Memory, 4, |_| config()).await;
    let mut here = peers[1].control.serve(&ECHO, 10, None);
    let answer = tokio::spawn(async move {
        let mut stream = here.next().await.unwrap().into_stream();
        let mut question = String::new();
        stream.read_to_string(&mut question).await.unwrap();
        stream
            .write_all(question.to_uppercase().as_bytes())
            .await
            .unwrap();
        stream.close().await.unwrap();
    });
    let to = Destination::Mix(peers[1].peer_id());
    let mut stream = peers[0].control.stream(to, ECHO, echo_options());
    stream.write_all(b"how ").await.unwrap();
    stream.flush().await.unwrap();
    stream.write_all(b"loud?").await.unwrap();
    stream.close().await.unwrap();
    let mut reply = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut reply))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reply, "HOW LOUD?");
    assert!(stream.write_all(b"more").await.is_err());
    answer.await.unwrap();

    let nowhere = Destination::Mix(libp2p::PeerId::random());
    let mut stream = peers[0].control.stream(nowhere, ECHO, echo_options());
    let error = stream.read(&mut [0]).await.unwrap_err();
    assert!(error.to_string().contains("no route"), "{error}");
    assert!(stream.write_all(&[0; 4000]).await.is_err());
}

#[tokio::test]
async fn records_are_offered_asked_for_and_used() {
    let mut peers = Vec::new();
    for _ in 0..4 {
        peers.push(Peer::start(Over::Memory, config()).await);
    }
    // One takes them as bytes, from wherever.
    for peer in &peers[1..] {
        let record = peer.control.record().unwrap();
        assert_eq!(peers[0].control.offer_record(&record), Ok(peer.peer_id()));
    }
    assert_eq!(peers[0].control.pool().len(), 3);
    assert!(peers[0].control.offer_record(b"nonsense").is_err());
    assert!(matches!(
        tokio::time::timeout(LIMIT, async {
            loop {
                if let Event::NodeFound { peer } = peers[0].events.recv().await.unwrap() {
                    return peer;
                }
            }
        })
        .await,
        Ok(peer) if peer == peers[1].peer_id()
    ));
    // And it works with what it has so.
    let _echo = peers[1].serve_echo();
    let body = length_prefixed(b"found");
    let to = Destination::Mix(peers[1].peer_id());
    assert_eq!(
        peers[0]
            .control
            .request(&to, &ECHO, &body, echo_options())
            .await
            .unwrap(),
        body
    );
    // Others ask a neighbour: those that are connected with it get its record.
    let asked = || {
        peers[1..]
            .iter()
            .any(|p| p.control.pool().contains(&peers[0].peer_id()))
    };
    peers[1..]
        .iter()
        .for_each(|p| p.control.ask_for_record(peers[0].peer_id()));
    until(asked, || format!("{:?}", peers[1].control.stats())).await;
}

#[tokio::test]
async fn services_end_with_their_behaviour() {
    let peer = Peer::start(Over::Memory, config()).await;
    let mut here = peer.control.serve(&ECHO, 1, Some(Read::Exact(1)));
    let _control = peer.control.clone();
    peer.stop().await;
    assert!(tokio::time::timeout(LIMIT, here.next()).await.unwrap().is_none());
}
