//! Hosts over loopback sockets.

#[path = "../../../libp2p-mix/tests/it/receive.rs"]
mod receive;

use libp2p::{Multiaddr, StreamProtocol, identity::Keypair};
use libp2p_mix::link::{Config, Event, Frame, FrameLen};
use mizzle_net::host::{Host, HostConfig, HostError, Transport};
use std::{net::SocketAddr, time::Duration};

use crate::common::within;
use receive::{next_frame, next_other};

const LEN: usize = 4608;

fn link(protocol: &'static str) -> Config {
    Config::new(StreamProtocol::new(protocol), FrameLen::Exact(LEN))
        .with_redial(Duration::from_millis(20), Duration::from_millis(200))
}

fn config(transport: Transport) -> HostConfig {
    HostConfig::new(Keypair::generate_ed25519(), transport)
        .with_mix(link("/test/mix"))
        .with_gateway(link("/test/gateway").with_send_queue_len(2))
}

fn any(transport: Transport) -> Multiaddr {
    match transport {
        Transport::Tcp => "/ip4/127.0.0.1/tcp/0",
        _ => "/ip4/127.0.0.1/udp/0/quic-v1",
    }
    .parse()
    .unwrap()
}

fn frame(n: u8) -> Frame {
    vec![n; LEN].into()
}

async fn client_and_server(transport: Transport, at: Multiaddr) {
    let server = Host::start(config(transport).with_listen(at)).await.unwrap();
    let client = Host::start(config(transport)).await.unwrap();
    assert!(client.listen.is_empty() && client.directory.is_none());
    let (mut up, mut down) = (client.gateway.unwrap(), server.gateway.unwrap());
    up.control.add_peer(server.peer_id, server.listen.clone());
    up.control.connect(server.peer_id);
    assert_eq!(
        next_other(&mut up.receiver).await,
        Event::Connected { peer: server.peer_id }
    );
    assert_eq!(
        next_other(&mut down.receiver).await,
        Event::Connected { peer: client.peer_id }
    );
    for n in 0..50 {
        up.control.try_send(&server.peer_id, frame(n)).unwrap();
        assert_eq!(next_frame(&mut down.receiver).await, frame(n));
        down.control.try_send(&client.peer_id, frame(n)).unwrap();
        assert_eq!(next_frame(&mut up.receiver).await, frame(n));
    }
    assert_eq!(server.running.connections(), 1);
    within("the host ends", client.running.shutdown()).await;
    assert_eq!(
        next_other(&mut down.receiver).await,
        Event::Disconnected { peer: client.peer_id }
    );
    within("the host ends", server.running.shutdown()).await;
    assert_eq!(within("the link ends", down.receiver.recv()).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_server_talk_both_ways_over_quic() {
    client_and_server(Transport::Quic, any(Transport::Quic)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_server_talk_both_ways_over_tcp() {
    client_and_server(Transport::Tcp, any(Transport::Tcp)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_both_transports_takes_either_address() {
    client_and_server(Transport::Both, any(Transport::Quic)).await;
    client_and_server(Transport::Both, any(Transport::Tcp)).await;
}

async fn restart(transport: Transport) {
    let key = Keypair::generate_ed25519();
    let server = |at| {
        HostConfig::new(key.clone(), transport)
            .with_mix(link("/test/mix"))
            .with_listen(at)
    };
    let client = Host::start(config(transport)).await.unwrap();
    let mut up = client.mix.unwrap();
    let mut at = any(transport);
    for n in 0..3 {
        let host = Host::start(server(at)).await.unwrap();
        at = host.listen[0].clone();
        up.control.add_peer(host.peer_id, host.listen.clone());
        up.control.connect(host.peer_id);
        while next_other(&mut up.receiver).await != (Event::Connected { peer: host.peer_id }) {}
        up.control.try_send(&host.peer_id, frame(n)).unwrap();
        assert_eq!(next_frame(&mut host.mix.unwrap().receiver).await, frame(n));
        within("the host ends", host.running.shutdown()).await;
        assert_eq!(
            next_other(&mut up.receiver).await,
            Event::Disconnected { peer: host.peer_id }
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_shut_down_starts_again_on_its_port_over_quic() {
    restart(Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_shut_down_starts_again_on_its_port_over_tcp() {
    restart(Transport::Tcp).await;
}

async fn error(config: HostConfig) -> String {
    let error = within("it says why", Host::start(config)).await.unwrap_err();
    assert!(matches!(error, HostError::Listen { .. }));
    error.to_string()
}

fn listen(transport: Transport, port: SocketAddr) -> HostConfig {
    let at = match transport {
        Transport::Tcp => format!("/ip4/{}/tcp/{}", port.ip(), port.port()),
        _ => format!("/ip4/{}/udp/{}/quic-v1", port.ip(), port.port()),
    };
    config(transport).with_listen(at.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = udp.local_addr().unwrap();
    assert_eq!(
        error(listen(Transport::Quic, taken)).await,
        format!("cannot listen on {taken}: address in use")
    );
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = tcp.local_addr().unwrap();
    assert_eq!(
        error(listen(Transport::Tcp, taken)).await,
        format!("cannot listen on {taken}: address in use")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_do_not_share_a_port() {
    for transport in [Transport::Quic, Transport::Tcp] {
        let first = Host::start(config(transport).with_listen(any(transport)))
            .await
            .unwrap();
        let message = error(config(transport).with_listen(first.listen[0].clone())).await;
        assert!(message.ends_with(": address in use"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_cannot_be_had_is_named() {
    // TEST-NET-1: no machine has it.
    let elsewhere: SocketAddr = "192.0.2.1:4001".parse().unwrap();
    for transport in [Transport::Quic, Transport::Tcp] {
        let message = error(listen(transport, elsewhere)).await;
        assert_eq!(
            message,
            "cannot listen on 192.0.2.1:4001: this machine does not have the address"
        );
    }
    let message = error(config(Transport::Quic).with_listen(any(Transport::Tcp))).await;
    assert_eq!(
        message,
        "cannot listen on 127.0.0.1:0: not an address of the transport"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_permitted_are_closed() {
    let server = Host::start(
        config(Transport::Quic)
            .with_max_incoming(1)
            .with_listen(any(Transport::Quic)),
    )
    .await
    .unwrap();
    let mut down = server.mix.unwrap();
    let mut clients = Vec::new();
    for n in 0..2 {
        let client = Host::start(config(Transport::Quic)).await.unwrap();
        let link = client.mix.as_ref().unwrap();
        link.control.add_peer(server.peer_id, server.listen.clone());
        link.control.connect(server.peer_id);
        clients.push(client);
        if n == 0 {
            assert_eq!(
                next_other(&mut down.receiver).await,
                Event::Connected {
                    peer: clients[0].peer_id
                }
            );
        }
    }
    let second = clients.pop().unwrap();
    let mut link = second.mix.unwrap();
    // Closed as soon as it is there, or before.
    within("the second is closed", async {
        while !matches!(
            link.receiver.recv().await.unwrap(),
            Event::Disconnected { .. } | Event::Unreachable { .. }
        ) {}
    })
    .await;
    assert_eq!(server.running.connections(), 1);
    // Its place is free again.
    within("the host ends", clients.pop().unwrap().shutdown()).await;
    assert!(matches!(
        next_other(&mut down.receiver).await,
        Event::Disconnected { .. }
    ));
    assert_eq!(
        next_other(&mut down.receiver).await,
        Event::Connected { peer: second.peer_id }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_host_closes_its_connections() {
    let server = Host::start(config(Transport::Quic).with_listen(any(Transport::Quic)))
        .await
        .unwrap();
    let client = Host::start(config(Transport::Quic)).await.unwrap();
    let mut link = client.mix.unwrap();
    link.control.add_peer(server.peer_id, server.listen.clone());
    link.control.connect(server.peer_id);
    assert!(matches!(
        next_other(&mut link.receiver).await,
        Event::Connected { .. }
    ));
    let peer = server.peer_id;
    drop(server);
    assert_eq!(next_other(&mut link.receiver).await, Event::Disconnected { peer });
}
