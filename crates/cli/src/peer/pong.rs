//! Answers pings, on as many streams as an asker has open.
//!
//! libp2p's own ping answers one stream a connection and drops it when another comes. Exits open a stream for each request
//! that they carry, so that two pings through one exit at the same time would cut each other off. That one only asks here.

use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{DeniedUpgrade, ReadyUpgrade};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};

use super::PING;

/// Streams of one connection that are answered; further ones are closed.
const STREAMS: usize = 64;
/// How long a stream may say nothing. libp2p's ping asks every 15 seconds.
const IDLE: Duration = Duration::from_secs(60);

/// Answers pings.
#[derive(Debug)]
pub(super) struct Behaviour;

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
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Handler {
    streams: FuturesUnordered<BoxFuture<'static, io::Result<()>>>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<ReadyUpgrade<StreamProtocol>> {
        SubstreamProtocol::new(ReadyUpgrade::new(PING), ())
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Infallible>> {
        while let Poll::Ready(Some(ended)) = self.streams.poll_next_unpin(cx) {
            tracing::trace!(?ended, "no more pings on a stream");
        }
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<ReadyUpgrade<StreamProtocol>, DeniedUpgrade>) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
            protocol: mut stream, ..
        }) = event
        {
            stream.ignore_for_keep_alive();
            if self.streams.len() < STREAMS {
                self.streams.push(answer(stream).boxed());
            }
        }
    }
}

/// Gives back what it gets, 32 bytes at a time, until the asker closes or says nothing any more.
async fn answer(mut stream: Stream) -> io::Result<()> {
    let mut ping = [0; 32];
    loop {
        let pong = async {
            stream.read_exact(&mut ping).await?;
            stream.write_all(&ping).await?;
            stream.flush().await
        };
        tokio::time::timeout(IDLE, pong).await??;
    }
}
