//! Streams of other protocols: an exit opens one to a destination, and a peer that serves a protocol takes them in.
//!
//! The behaviour dials and hands streams over; what is said on them is `exit`'s. Bounded by who asks: each open stream has
//! an asker with a time-out, and each served protocol a queue, beyond which streams are closed.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    future::{Ready, ready},
    iter,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use futures::AsyncRead;

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
        handler::{ConnectionEvent, FullyNegotiatedInbound, ProtocolsChange},
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

/// The versions of gossipsub's protocol that an exit which hands gossip over takes streams of.
const MESHSUB: [StreamProtocol; 2] = [
    crate::gossip::MESHSUB_PROTOCOL,
    StreamProtocol::new("/meshsub/1.0.0"),
];
/// What the names of all versions begin with.
const ANY_MESHSUB: &str = "/meshsub/";
/// A gossipsub peer has one stream to us; one that it gave up may be there for a moment more.
const GOSSIP_STREAMS: usize = 2;

/// Who in this swarm speaks gossipsub's protocol. Told by the first connection, and the same for all.
mod gossips {
    pub(super) const NOBODY: u8 = 0;
    /// We, if nobody else does.
    pub(super) const NOT_KNOWN: u8 = 1;
    pub(super) const WE: u8 = 2;
    pub(super) const ANOTHER: u8 = 3;
}

/// The protocols that are served to streams from outside, and where those go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    queues: Arc<Mutex<Queues>>,
    gossips: Arc<AtomicU8>,
}

impl Served {
    /// Streams of `codec` come out of the receiver from now on; beyond `queue` they are closed. Connections that are up
    /// already learn of it at their next event.
    pub(crate) fn serve(&self, codec: &StreamProtocol, queue: usize) -> mpsc::Receiver<Stream> {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        lock(&self.queues).insert(codec.as_ref().to_owned(), (codec.clone(), sender));
        receiver
    }

    /// Serves nothing any more: those who take streams learn that there will be none.
    pub(crate) fn clear(&self) {
        lock(&self.queues).clear();
    }

    /// Whether what is for this protocol is gossip to be handed over.
    pub(crate) fn hands_over(&self, codec: &str) -> bool {
        codec.starts_with(ANY_MESHSUB) && self.gossips.load(Ordering::Relaxed) != gossips::NOBODY
    }

    /// Whether another behaviour of the swarm is known to speak gossipsub.
    pub(crate) fn gossips_elsewhere(&self) -> bool {
        self.gossips.load(Ordering::Relaxed) == gossips::ANOTHER
    }

    fn protocols(&self) -> Vec<StreamProtocol> {
        let mut served = lock(&self.queues);
        served.retain(|_, (_, sender)| !sender.is_closed());
        let mut protocols: Vec<_> = served.values().map(|(codec, _)| codec.clone()).collect();
        if self.gossips.load(Ordering::Relaxed) == gossips::WE {
            protocols.extend(
                MESHSUB
                    .into_iter()
                    .filter(|codec| !served.contains_key(codec.as_ref())),
            );
        }
        protocols
    }

    /// Takes a stream of a protocol that is served; one of gossip to be thrown away comes back.
    fn give(&self, codec: &StreamProtocol, stream: Stream) -> Option<Stream> {
        match lock(&self.queues).get(codec.as_ref()) {
            // Full: the stream is closed, which is all that a peer learns.
            Some((_, sender)) => {
                let _ = sender.try_send(stream);
                None
            }
            None => MESHSUB.contains(codec).then_some(stream),
        }
    }

    /// A new connection lists all protocols of the swarm, ours among them: the last chance to see whether another
    /// behaviour gossips before we say that we do.
    fn on_protocols(&self, protocols: ProtocolsChange<'_>) {
        let ProtocolsChange::Added(mut added) = protocols else {
            return;
        };
        if self.gossips.load(Ordering::Relaxed) != gossips::NOT_KNOWN {
            return;
        }
        let queues = lock(&self.queues);
        let another = added.any(|p| p.as_ref().starts_with(ANY_MESHSUB) && !queues.contains_key(p.as_ref()));
        let who = if another { gossips::ANOTHER } else { gossips::WE };
        self.gossips.store(who, Ordering::Relaxed);
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
    /// With `hand_over`, connections say that they speak gossipsub, unless another behaviour of the swarm does.
    pub(crate) fn new(hand_over: bool) -> (Self, Opener, Served) {
        let (sender, orders) = mpsc::channel(ORDERS);
        let served = Served::default();
        if hand_over {
            served.gossips.store(gossips::NOT_KNOWN, Ordering::Relaxed);
        }
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
            gossip: VecDeque::new(),
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
    /// What a gossipsub peer tells us, which nobody reads.
    gossip: VecDeque<Stream>,
}

impl Handler {
    /// Reads what gossip there is and throws it away.
    fn poll_gossip(&mut self, cx: &mut Context<'_>) {
        let mut nothing = [0; 1024];
        self.gossip.retain_mut(|stream| {
            for _ in 0..16 {
                match Pin::new(&mut *stream).poll_read(cx, &mut nothing) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return false,
                    Poll::Pending => return true,
                }
            }
            cx.waker().wake_by_ref();
            true
        });
    }
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

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Wanted, (), Infallible>> {
        self.poll_gossip(cx);
        match self.orders.pop_front() {
            Some(wanted) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(wanted, ()),
            }),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, wanted: Wanted) {
        // Beside the stream of the swarm's own gossipsub another one would take its place at the peer.
        if !(wanted.codec.as_ref().starts_with(ANY_MESHSUB) && self.served.gossips_elsewhere()) {
            self.orders.push_back(wanted);
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Inbound, Wanted>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                let (codec, stream) = protocol;
                if let Some(mut gossip) = self.served.give(&codec, stream) {
                    // It is nothing that a connection should be kept for.
                    gossip.ignore_for_keep_alive();
                    if self.gossip.len() >= GOSSIP_STREAMS {
                        self.gossip.pop_front();
                    }
                    self.gossip.push_back(gossip);
                }
            }
            ConnectionEvent::LocalProtocolsChange(protocols) => self.served.on_protocols(protocols),
            // A failed negotiation drops the order, and so tells its asker.
            _ => {}
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
