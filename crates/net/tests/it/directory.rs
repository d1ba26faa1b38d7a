//! The directory over real hosts: a document arrives as it was signed, or an error in time.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{self, EXIT, GATEWAY, MIX_1, Net, rng, within};
use libp2p_mix::link::Event;
use mizzle_net::clock::ClockOff;
use mizzle_net::directory::{FetchError, fetch, fetch_reports};
use mizzle_net::host::{Host, HostConfig, Link, Transport};
use mizzle_net::{identity, wire};
use mizzle_traffic::weights::{Judged, Reports, judged};
use tokio::time::Instant;

async fn asker(transport: Transport) -> (Host, Link) {
    let keypair = identity::generate(&mut rng()).unwrap();
    let mut host = Host::start(HostConfig::new(keypair, transport).with_directory(wire::directory_link()))
        .await
        .unwrap();
    let link = host.directory.take().unwrap();
    (host, link)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_comes_as_it_was_signed_and_none_if_it_is_not_newer() {
    let net = Net::start().await;
    let gateway = &net.nodes[GATEWAY];
    let (_host, mut link) = asker(Transport::Quic).await;
    let known = net.document.sequence();
    for (sequence, answer) in [
        (0, net.document.bytes()),
        (known - 1, net.document.bytes()),
        (known, b""),
        (known + 1, b""),
    ] {
        let got = within(
            "an answer",
            fetch(&mut link, gateway.peer, gateway.addresses.clone(), sequence),
        )
        .await;
        let got = got.unwrap();
        assert!(got.document == answer, "known: {sequence}");
        assert!(ClockOff::of(net.clock.now(), got.time).is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_gets_an_empty_answer_and_others_are_still_served() {
    let net = Net::start().await;
    let gateway = &net.nodes[GATEWAY];
    let (_host, mut link) = asker(Transport::Quic).await;
    for len in [0, 3, 9, 100_000] {
        link.control.add_peer(gateway.peer, gateway.addresses.clone());
        link.control
            .try_send(&gateway.peer, common::garbage(len))
            .unwrap();
        let frame = within("an answer", async {
            loop {
                if let Event::Frame { frame, .. } = link.receiver.recv().await.unwrap() {
                    return frame;
                }
            }
        });
        assert!(frame.await.is_empty(), "{len} bytes");
    }
    let (_host, mut link) = asker(Transport::Quic).await;
    let got = within(
        "an answer",
        fetch(&mut link, gateway.peer, gateway.addresses.clone(), 0),
    )
    .await;
    assert_eq!(got.unwrap().document, net.document.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_not_there_or_says_nothing_is_an_error_in_time() {
    let peer = identity::generate(&mut rng()).unwrap().public().to_peer_id();
    let tcp = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    // Somebody has the port, but speaks no QUIC.
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let quic = udp.local_addr().unwrap().port();
    let nobody = |transport, address: String| async move {
        let (_host, mut link) = asker(transport).await;
        let start = Instant::now();
        let error = within(
            "an error",
            fetch(&mut link, peer, vec![address.parse().unwrap()], 0),
        )
        .await
        .unwrap_err();
        assert!(matches!(error, FetchError::Unreachable(_)), "{error}");
        (start.elapsed(), error.to_string())
    };
    let silent = async {
        let net = Net::start().await;
        // A mix has no directory.
        let mix = &net.nodes[MIX_1];
        let (_host, mut link) = asker(Transport::Quic).await;
        within("an error", fetch(&mut link, mix.peer, mix.addresses.clone(), 0))
            .await
            .unwrap_err()
    };
    let (closed, deaf, silent) = tokio::join!(
        nobody(Transport::Tcp, format!("/ip4/127.0.0.1/tcp/{tcp}")),
        nobody(Transport::Quic, format!("/ip4/127.0.0.1/udp/{quic}/quic-v1")),
        silent,
    );
    assert!(closed.0 < Duration::from_secs(5), "{closed:?}");
    assert!(deaf.0 < Duration::from_secs(15), "{deaf:?}");
    assert!(
        closed.1.starts_with("the gateway can't be reached: "),
        "{closed:?}"
    );
    assert!(matches!(silent, FetchError::NoAnswer), "{silent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_document_is_taken_while_all_run_and_who_has_the_old_one_hears_reports_by_it() {
    let net = Net::start().await;
    let client = net.client().await;
    let mut content = net.content.clone();
    content.sequence += 1;
    for n in [GATEWAY, EXIT] {
        content.nodes[n].weight = 0.5;
    }
    let newer = common::verified(&content, &net.authority, net.clock);
    for node in &net.nodes {
        node.documents().bring(Arc::clone(&newer));
        node.counted("document.taken", 1).await;
    }
    let gateway = &net.nodes[GATEWAY];
    let (_host, mut link) = asker(Transport::Quic).await;
    let got = fetch(
        &mut link,
        gateway.peer,
        gateway.addresses.clone(),
        net.document.sequence(),
    )
    .await;
    assert!(got.unwrap().document == newer.bytes());
    let count = |name: &str| client.client.snapshot().counters.get(name);
    // More than were made by the document of before.
    let heard = async || {
        let before = count("reports.new");
        let wanted = before + 2 * net.nodes.len() as u64;
        common::wait_until("reports are heard", || count("reports.new") >= wanted).await;
    };
    heard().await;
    client.client.documents().bring(Arc::clone(&newer));
    common::wait_until("the client takes it", || count("document.taken") == 1).await;
    heard().await;
    assert_eq!(count("drop.bad_report"), 0);
    assert!(client.client.snapshot().up);
    for node in &net.nodes {
        assert_eq!(node.counters().get("drop.bad_report"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_publish_of_their_loops_comes_to_those_who_ask_and_to_clients() {
    let net = Net::start().await;
    let client = net.client().await;
    let gateway = &net.nodes[GATEWAY];
    let mut reports = Reports::default();
    let mix = net.nodes[MIX_1].id;
    // Nodes publish every few seconds; what they say is worth something once many loops came back.
    within("all nodes publish", async {
        loop {
            // As `mizzle network weigh` does: one who asks, and asks once.
            let (_host, mut link) = asker(Transport::Quic).await;
            let bundle = fetch_reports(&mut link, gateway.peer, gateway.addresses.clone()).await;
            let (_, bad) = reports.add_bundle(&bundle.unwrap(), &net.document, net.clock.now());
            assert_eq!(bad, 0);
            let well = judged(&net.document, &reports, &mix) == Judged::Well;
            if reports.iter().count() == net.nodes.len() && well {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    for report in reports.iter() {
        assert!(net.nodes.iter().any(|node| node.id == report.by()));
        assert!(!report.said().contains_key(&report.by()), "of itself");
    }
    common::wait_until("the client hears them", || {
        client.client.snapshot().counters.get("reports.new") >= 5
    })
    .await;
    assert_eq!(gateway.counters().get("drop.bad_report"), 0);

    // What nobody signed is counted, and not passed on.
    let mut forged = b"loop report:".to_vec();
    forged.extend_from_slice(reports.iter().next().unwrap().bytes());
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let (_host, link) = asker(Transport::Quic).await;
    link.control.add_peer(gateway.peer, gateway.addresses.clone());
    link.control.try_send(&gateway.peer, forged.into()).unwrap();
    gateway.counted("drop.bad_report", 1).await;
}
