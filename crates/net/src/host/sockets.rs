//! Transports from a config, sockets from addresses, and words for what the system says about them.

use super::{HostConfig, HostError, Transport};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        ConnectedPoint,
        muxing::StreamMuxerBox,
        transport::{Boxed, OrTransport, timeout::TransportTimeout},
        upgrade::Version,
    },
    multiaddr::Protocol,
    noise, quic, tcp, yamux,
};
use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// A dial or an accepted connection has to be through its handshake by then.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A QUIC peer that says nothing for this long is gone; asked often enough that two lost answers do no harm.
const QUIC_IDLE: Duration = Duration::from_secs(5);
const QUIC_KEEP_ALIVE: Duration = Duration::from_millis(1_500);

pub(super) type BoxedTransport = Boxed<(PeerId, StreamMuxerBox)>;

/// The transport that a config asks for.
pub(super) fn transport(config: &HostConfig) -> Result<BoxedTransport, HostError> {
    Ok(match config.transport {
        Transport::Quic => quic_transport(config),
        Transport::Tcp => tcp_transport(config)?,
        Transport::Both => OrTransport::new(quic_transport(config), tcp_transport(config)?)
            .map(|either, _: ConnectedPoint| either.into_inner())
            .boxed(),
    })
}

fn quic_transport(config: &HostConfig) -> BoxedTransport {
    let mut quic = quic::Config::new(&config.keypair);
    quic.handshake_timeout = CONNECT_TIMEOUT;
    quic.max_idle_timeout = QUIC_IDLE.as_millis() as u32;
    quic.keep_alive_interval = QUIC_KEEP_ALIVE;
    quic.max_concurrent_stream_limit = config.max_streams;
    quic.max_stream_data = config.stream_window;
    quic.max_connection_data = config.stream_window.saturating_mul(4);
    let quic = quic::tokio::Transport::new(quic)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    TransportTimeout::new(quic, CONNECT_TIMEOUT).boxed()
}

fn tcp_transport(config: &HostConfig) -> Result<BoxedTransport, HostError> {
    let noise =
        noise::Config::new(&config.keypair).map_err(|error| HostError::Identity(error.to_string()))?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(config.max_streams as usize);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    Ok(TransportTimeout::new(tcp, CONNECT_TIMEOUT).boxed())
}

/// A socket of the system.
pub(super) enum Socket {
    Tcp(SocketAddr),
    Udp(SocketAddr),
}

/// The socket that an address with an IP address names.
pub(super) fn socket(address: &Multiaddr) -> Option<Socket> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(Socket::Tcp((ip, port).into())),
        Protocol::Udp(port) => Some(Socket::Udp((ip, port).into())),
        _ => None,
    }
}

/// The error that names the address and says why.
pub(super) fn cannot_listen(address: &Multiaddr, error: &(dyn Error + 'static)) -> HostError {
    let name = match socket(address) {
        Some(Socket::Tcp(socket) | Socket::Udp(socket)) => socket.to_string(),
        None => address.to_string(),
    };
    HostError::Listen {
        address: name,
        reason: reason(error),
    }
}

/// The cause, in words.
fn reason(error: &(dyn Error + 'static)) -> String {
    use libp2p::TransportError::MultiaddrNotSupported;
    if let Some(MultiaddrNotSupported(_)) = error.downcast_ref::<libp2p::TransportError<io::Error>>() {
        return "not an address of the transport".to_owned();
    }
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::AddrInUse) => "address in use".to_owned(),
        Some(io::ErrorKind::AddrNotAvailable) => "this machine does not have the address".to_owned(),
        Some(io::ErrorKind::PermissionDenied) => "permission denied".to_owned(),
        Some(io::ErrorKind::TimedOut) => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}
