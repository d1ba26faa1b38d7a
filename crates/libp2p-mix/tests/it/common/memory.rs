//! The memory transport under addresses that fit into packets: `/ip4/127.0.0.1/tcp/N` is `/memory/N`.

use std::{
    pin::Pin,
    sync::atomic::{AtomicU16, Ordering},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{
        muxing::StreamMuxerBox,
        transport::{
            Boxed, DialOpts, ListenerId, MemoryTransport, Transport, TransportError, TransportEvent,
        },
        upgrade,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise, yamux,
};

static NEXT: AtomicU16 = AtomicU16::new(1000);

pub fn free_port() -> u16 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn transport(keypair: &Keypair) -> Boxed<(PeerId, StreamMuxerBox)> {
    Mapped(MemoryTransport::default(), Vec::new())
        .upgrade(upgrade::Version::V1)
        .authenticate(noise::Config::new(keypair).unwrap())
        .multiplex(yamux::Config::default())
        .boxed()
}

struct Mapped(MemoryTransport, Vec<ListenerId>);

impl Drop for Mapped {
    /// Its ports are free again.
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.1) {
            self.0.remove_listener(id);
        }
    }
}

fn to_memory(address: &Multiaddr) -> Option<Multiaddr> {
    match address.iter().nth(1)? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(Protocol::Memory(port.into()).into()),
        _ => None,
    }
}

fn to_ip4(address: &Multiaddr) -> Multiaddr {
    match address.iter().next() {
        Some(Protocol::Memory(port)) => format!("/ip4/127.0.0.1/tcp/{}", port as u16).parse().unwrap(),
        _ => address.clone(),
    }
}

impl Transport for Mapped {
    type Output = <MemoryTransport as Transport>::Output;
    type Error = <MemoryTransport as Transport>::Error;
    type ListenerUpgrade = <MemoryTransport as Transport>::ListenerUpgrade;
    type Dial = <MemoryTransport as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        let mapped = to_memory(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        self.0.listen_on(id, mapped)?;
        self.1.push(id);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.1.retain(|known| *known != id);
        self.0.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let mapped = to_memory(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        self.0.dial(mapped, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let Poll::Ready(event) = Pin::new(&mut self.0).poll(cx) else {
            return Poll::Pending;
        };
        Poll::Ready(match event {
            TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            } => TransportEvent::NewAddress {
                listener_id,
                listen_addr: to_ip4(&listen_addr),
            },
            TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            } => TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr: to_ip4(&local_addr),
                send_back_addr: to_ip4(&send_back_addr),
            },
            other => other,
        })
    }
}
