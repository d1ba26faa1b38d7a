//! Streams of other protocols: an exit opens one to a destination, and a peer that serves a protocol takes them in.
//!
//! The behaviour dials and hands streams over; what is said on them is `exit`'s. Bounded by who asks: each open stream has
//! an asker with a time-out, and each served protocol a queue, beyond which streams are closed.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    future::{Ready, ready},
    iter,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint, UpgradeInfo,
        transport::PortUse,
        upgrade::{InboundUpgrade, OutboundUpgrade},
    },
    multiaddr::Protocol,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId,
        DialError, DialFailure, FromSwarm, NetworkBehaviour, NotifyHandler, SubstreamProtocol,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        dial_opts::{DialOpts, PeerCondition},
        handler::{ConnectionEvent, FullyNegotiatedInbound},
    },
};
use tokio::sync::{mpsc, oneshot};

use crate::lock;

/// Orders that wait for the behaviour; who orders waits beyond it.
const ORDERS: usize = 256;

/// A stream that somebody wants. Dropping the sender is the answer that there is none.
#[derive(Debug)]
struct Order {
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    wanted: Wanted,
}

/// The protocol and who waits for the stream.
#[derive(Debug)]
pub struct Wanted {
    codec: StreamProtocol,
    asker: oneshot::Sender<Stream>,
}

/// No stream: the peer can't be reached or doesn't speak the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoStream;

/// Orders streams.
#[derive(Clone, Debug)]
pub(crate) struct Opener(mpsc::Sender<Order>);

impl Opener {
    /// A stream to `peer`, dialled at `addresses` if it isn't connected. Waits for as long as the caller does.
    pub(crate) async fn open(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        codec: StreamProtocol,
    ) -> Result<Stream, NoStream> {
        let (asker, stream) = oneshot::channel();
        let wanted = Wanted { codec, asker };
        self.0
            .send(Order {
                peer,
                addresses,
                wanted,
            })
            .await
            .map_err(|_| NoStream)?;
        stream.await.map_err(|_| NoStream)
    }
}

/// By the name of the protocol.
type Queues = BTreeMap<String, (StreamProtocol, mpsc::Sender<Stream>)>;

/// The protocols that are served to streams from outside, and where those go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served(Arc<Mutex<Queues>>);

impl Served {
    /// Streams of `codec` come out of the receiver from now on; beyond `queue` they are closed. Connections that are up
    /// already learn of it at their next event.
    pub(crate) fn serve(&self, codec: &StreamProtocol, queue: usize) -> mpsc::Receiver<Stream> {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        lock(&self.0).insert(codec.as_ref().to_owned(), (codec.clone(), sender));
        receiver
    }

    /// Serves nothing any more: those who take streams learn that there will be none.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    fn protocols(&self) -> Vec<StreamProtocol> {
        let mut served = lock(&self.0);
        served.retain(|_, (_, sender)| !sender.is_closed());
        served.values().map(|(codec, _)| codec.clone()).collect()
    }

    fn give(&self, codec: &StreamProtocol, stream: Stream) {
        if let Some((_, sender)) = lock(&self.0).get(codec.as_ref()) {
            // Full: the stream is closed, which is all that a peer learns.
            let _ = sender.try_send(stream);
        }
    }
}

/// Opens and accepts streams.
#[derive(Debug)]
pub struct Behaviour {
    orders: mpsc::Receiver<Order>,
    served: Served,
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    /// Orders for peers that are being dialled.
    waiting: HashMap<PeerId, Vec<Wanted>>,
    actions: VecDeque<ToSwarm<Infallible, Wanted>>,
}

impl Behaviour {
    pub(crate) fn new() -> (Self, Opener, Served) {
        let (sender, orders) = mpsc::channel(ORDERS);
        let served = Served::default();
        let behaviour = Self {
            orders,
            served: served.clone(),
            connections: HashMap::new(),
            waiting: HashMap::new(),
            actions: VecDeque::new(),
        };
        (behaviour, Opener(sender), served)
    }

    fn on_order(
        &mut self,
        Order {
            peer,
            addresses,
            wanted,
        }: Order,
    ) {
        if wanted.asker.is_closed() {
            return;
        }
        if let Some(connection) = self.connections.get(&peer).and_then(|c| c.last()) {
            self.actions.push_back(notify(peer, *connection, wanted));
            return;
        }
        let waiting = self.waiting.entry(peer).or_default();
        waiting.retain(|wanted| !wanted.asker.is_closed());
        waiting.push(wanted);
        // As in `link`: from the listening port two that dial each other at once over TCP may both fail.
        let tcp = addresses
            .iter()
            .any(|a| a.iter().any(|p| matches!(p, Protocol::Tcp(_))));
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses);
        let opts = if tcp {
            opts.allocate_new_port().build()
        } else {
            opts.build()
        };
        self.actions.push_back(ToSwarm::Dial { opts });
    }

    fn handler(&self) -> Handler {
        Handler {
            served: self.served.clone(),
            orders: VecDeque::new(),
        }
    }
}

fn notify(peer_id: PeerId, connection: ConnectionId, event: Wanted) -> ToSwarm<Infallible, Wanted> {
    ToSwarm::NotifyHandler {
        peer_id,
        handler: NotifyHandler::One(connection),
        event,
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
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            }) => {
                self.connections.entry(peer_id).or_default().push(connection_id);
                for wanted in self.waiting.remove(&peer_id).into_iter().flatten() {
                    self.actions.push_back(notify(peer_id, connection_id, wanted));
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                ..
            }) => {
                if let Some(connections) = self.connections.get_mut(&peer_id) {
                    connections.retain(|c| *c != connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&peer_id);
                    }
                }
            }
            // If somebody else dials the same peer, it connects, or fails in its turn.
            FromSwarm::DialFailure(DialFailure {
                peer_id: Some(peer),
                error,
                ..
            }) if !matches!(error, DialError::DialPeerConditionFalse(_)) => {
                self.waiting.remove(&peer);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            match self.orders.poll_recv(cx) {
                Poll::Ready(Some(order)) => self.on_order(order),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Handler {
    served: Served,
    orders: VecDeque<Wanted>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Wanted;
    type ToBehaviour = Infallible;
    type InboundProtocol = Inbound;
    type OutboundProtocol = Wanted;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Inbound> {
        SubstreamProtocol::new(Inbound(self.served.protocols()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        !self.orders.is_empty()
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Wanted, (), Infallible>> {
        match self.orders.pop_front() {
            Some(wanted) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(wanted, ()),
            }),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, wanted: Wanted) {
        self.orders.push_back(wanted);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Inbound, Wanted>) {
        // A failed negotiation drops the order, and so tells its asker.
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) = event {
            let (codec, stream) = protocol;
            self.served.give(&codec, stream);
        }
    }
}

/// Accepts any of the served protocols.
#[derive(Clone, Debug)]
pub struct Inbound(Vec<StreamProtocol>);

impl UpgradeInfo for Inbound {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Inbound {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, codec: StreamProtocol) -> Self::Future {
        ready(Ok((codec, stream)))
    }
}

impl UpgradeInfo for Wanted {
    type Info = StreamProtocol;
    type InfoIter = iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(self.codec.clone())
    }
}

impl OutboundUpgrade<Stream> for Wanted {
    type Output = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        // An asker that gave up closes the stream.
        let _ = self.asker.send(stream);
        ready(Ok(()))
    }
}
