//! Streams of `/mix/1.0.0`, opened one after another, for whoever writes on them by hand.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use libp2p::core::upgrade::{DeniedUpgrade, ReadyUpgrade};
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::identity::Keypair;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Over, Peer, swarm};

/// The streams, and what keeps them: dropping it closes the connection.
pub fn streams_to(over: Over, peer: &Peer) -> (mpsc::Receiver<Stream>, JoinSet<()>) {
    let (behaviour, streams) = Behaviour::new();
    let mut swarm = swarm(over, Keypair::generate_secp256k1(), behaviour);
    swarm.dial(peer.node.endpoint.to_multiaddr()).unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    (streams, task)
}

struct Behaviour(mpsc::Sender<Stream>);

impl Behaviour {
    fn new() -> (Self, mpsc::Receiver<Stream>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler {
            out: self.0.clone(),
            opening: false,
        })
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler {
            out: self.0.clone(),
            opening: false,
        })
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Infallible>> {
        Poll::Pending
    }
}

pub struct Handler {
    out: mpsc::Sender<Stream>,
    opening: bool,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Infallible>> {
        if self.opening || self.out.capacity() == 0 {
            // The test takes one and asks for the next in its own time.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.opening = true;
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
            protocol: SubstreamProtocol::new(ReadyUpgrade::new(libp2p_mix::PROTOCOL), ()),
        })
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<DeniedUpgrade, Self::OutboundProtocol>) {
        if let ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) = event {
            self.opening = false;
            let _ = self.out.try_send(protocol);
        }
    }
}
