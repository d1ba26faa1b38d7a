//! The protocols of the `loopix` profile as links: names, header, lengths of frames and queues.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, StreamProtocol};
use libp2p_mix::link::{Config, FrameLen};
use mizzle_base::NetworkId;
use mizzle_base::document::MAX_DOCUMENT_LEN;
use mizzle_base::frame::FRAME_LEN;
use mizzle_sphinx::PACKET_LEN;

use crate::directory::TIME_LEN;
use crate::host::Transport;

/// Between nodes: packets, under a header of the network id.
pub const MIX: StreamProtocol = StreamProtocol::new("/mizzle/mix/1.0.0");
/// Between a client and its gateway.
pub const GATEWAY: StreamProtocol = StreamProtocol::new("/mizzle/gateway/1.0.0");
/// The network document.
pub const DIRECTORY: StreamProtocol = StreamProtocol::new("/mizzle/directory/1.0.0");

/// A client's frames that wait for its link; each belongs to a slot that is past, so many would be of no use.
const CLIENT_SEND_QUEUE: usize = 16;
/// A gateway's frames for one client: as many as may leave at once after the machine was late. All others are the
/// mailbox's, not the link's.
const GATEWAY_SEND_QUEUE: usize = 16;

/// The longest pause before a node that is away is dialled again. Short, for all packets towards it are lost until then,
/// and nodes are few.
const NODE_REDIAL: Duration = Duration::from_secs(5);

/// The mix link: 4608-byte packets, one stream for each peer. Which epoch's key a packet is for it doesn't say: packets of
/// two epochs come mixed around a change, and whoever listens needn't know which are which.
#[must_use]
pub fn mix_link(network: &NetworkId) -> Config {
    let header = network.as_bytes().to_vec();
    headed(Config::new(MIX, FrameLen::Exact(PACKET_LEN)), header)
        .with_send_queue_len(1_024)
        .with_receive_queue_len(2_048)
        .with_redial(Duration::from_millis(500), NODE_REDIAL)
        .with_frames_kept(false)
        .with_inbound_from_unknown(false)
}

/// The gateway's side of the gateway link. It has no header: a client says in its first frame which network it means, so
/// that one of another network hears so, where a header that doesn't match gets silence.
#[must_use]
pub fn gateway_link(clients: usize) -> Config {
    Config::new(GATEWAY, FrameLen::Exact(FRAME_LEN))
        .with_send_queue_len(GATEWAY_SEND_QUEUE)
        .with_receive_queue_len(1_024)
        .with_frames_kept(false)
        .with_max_peers(clients)
        .with_inbound_from_unknown(true)
}

/// The client's side of the gateway link. The gateway opens its stream only after it was spoken to.
#[must_use]
pub fn client_link() -> Config {
    Config::new(GATEWAY, FrameLen::Exact(FRAME_LEN))
        .with_send_queue_len(CLIENT_SEND_QUEUE)
        .with_receive_queue_len(256)
        .with_frames_kept(false)
        .with_max_peers(4)
        .with_redial(Duration::from_millis(500), Duration::from_secs(30))
}

/// Both sides of the directory. A queue holds few frames, as each may be as long as a document (4 MiB).
#[must_use]
pub fn directory_link() -> Config {
    Config::new(DIRECTORY, FrameLen::AtMost(TIME_LEN + MAX_DOCUMENT_LEN))
        .with_send_queue_len(1)
        .with_receive_queue_len(8)
        .with_max_inbound_streams_per_peer(1)
        .with_max_peers(1_024)
}

/// The side of the directory that asks and publishes only: nobody's questions are taken.
#[must_use]
pub fn asking_link() -> Config {
    directory_link()
        .with_inbound_from_unknown(false)
        .with_redial(Duration::from_secs(1), Duration::from_secs(30))
}

/// Any free port of the loopback interface.
#[must_use]
pub fn loopback(transport: Transport) -> Multiaddr {
    let ip = Multiaddr::empty().with(Protocol::Ip4(Ipv4Addr::LOCALHOST));
    match transport {
        Transport::Tcp => ip.with(Protocol::Tcp(0)),
        Transport::Quic | Transport::Both => ip.with(Protocol::Udp(0)).with(Protocol::QuicV1),
    }
}

/// The IP address and port at the front of a multiaddr; `None` for names and others.
#[must_use]
pub fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

fn headed(config: Config, header: Vec<u8>) -> Config {
    let plain = config.clone();
    // 36 bytes at most, where 255 are allowed.
    config.with_header(header).unwrap_or(plain)
}
