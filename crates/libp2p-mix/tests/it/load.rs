//! A thousand requests at once over ten peers in one process: all answered, none twice, and every packet accounted for.

use crate::common::*;
use libp2p_mix::{Destination, RequestOptions};

const REQUESTS: u32 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_requests_are_all_answered() {
    // Queues long enough for all at once: nothing may be lost here.
    let peers = network(Over::Tcp, 10, |_| {
        config().with_link(|link| link.with_send_queue_len(4096))
    })
    .await;
    let _echoes: Vec<_> = peers.iter().map(Peer::serve_echo).collect();
    let options = RequestOptions::default().with_surbs(1).with_timeout(LIMIT * 3);
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..REQUESTS {
        let control = peers[n as usize % 10].control.clone();
        let to = peers[(n as usize + 1 + n as usize / 10 % 9) % 10].peer_id();
        requests.spawn(async move {
            let body = length_prefixed(&n.to_be_bytes());
            let reply = control
                .request(&Destination::Mix(to), &ECHO, &body, options)
                .await;
            assert_eq!(reply.expect("an answer"), body);
        });
    }
    while let Some(done) = requests.join_next().await {
        done.unwrap();
    }
    let sum = |name: &str| peers.iter().map(|p| p.counter(name)).sum::<u64>();
    let all = u64::from(REQUESTS);
    assert_eq!(sum("own.accepted"), all);
    assert_eq!(sum("exit.served"), all, "none carried out twice");
    // Counted a moment after the asker is told.
    until(
        || sum("reply.answered") == all,
        || format!("{}", sum("reply.answered")),
    )
    .await;
    assert_eq!(
        (sum("reply.unknown"), sum("reply.invalid")),
        (0, 0),
        "none answered twice"
    );
    // Each request takes three hops there and three back: two of each are forwarded, and all were accepted by a link, sent,
    // and received.
    until(|| sum("forwarded") == 4 * all, || format!("{}", sum("forwarded"))).await;
    until(
        || sum("link.accepted") == 6 * all,
        || format!("{}", sum("link.accepted")),
    )
    .await;
    let link = |count: fn(&libp2p_mix::link::Stats) -> u64| {
        peers.iter().map(|p| count(&p.control.stats().link)).sum::<u64>()
    };
    until(|| link(|l| l.sent) == 6 * all, || format!("{}", link(|l| l.sent))).await;
    assert_eq!(link(|l| l.received), 6 * all);
    // One for each neighbour, for all packets; a few more where two dialled each other at once.
    let streams = link(|l| l.streams_opened);
    assert!(streams <= 2 * 90, "{streams}");
    until(|| sum("received") == 6 * all, || format!("{}", sum("received"))).await;
    for peer in &peers {
        let dropped: u64 = peer
            .control
            .stats()
            .counters
            .iter()
            .filter(|(name, _)| name.starts_with("drop."))
            .map(|(_, n)| n)
            .sum();
        assert_eq!((dropped, peer.control.stats().surbs), (0, 0));
    }
}

#[tokio::test]
async fn what_a_full_link_refuses_is_counted() {
    // Nobody listens at the first hop's address, and the queue for it holds four.
    let relays = network(Over::Memory, 4, |_| config()).await;
    let asker = Peer::start(
        Over::Memory,
        config()
            .with_hold_ms(0)
            .with_link(|link| link.with_send_queue_len(4)),
    )
    .await;
    let gone: Vec<_> = relays.iter().map(|p| p.node.clone()).collect();
    asker.control.pool().set_static(gone.clone()).unwrap();
    for relay in relays {
        relay.stop().await;
    }
    let to = Destination::Mix(gone[0].endpoint.peer);
    for _ in 0..200 {
        asker.control.send(&to, &ECHO, b"x").await.unwrap();
    }
    let accounted = || {
        let stats = asker.control.stats();
        stats.counters.get("drop.link_full") + stats.link.dropped_unreachable
    };
    until(|| accounted() == 200, || format!("{:?}", asker.control.stats())).await;
}
