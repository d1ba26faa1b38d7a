//! [`Event`]: what the swarm's owner is told.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint as Side, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use crate::{address::Endpoint, lock, shared::Shared};

/// What a mix behaviour tells the swarm's owner. Packets don't pass here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Where replies find us changed; `None`: there is no such address, and requests are refused.
    ReturnAddress(Option<Endpoint>),
    /// A node or a neighbour couldn't be dialled. It rests for a while and isn't chosen.
    Unreachable {
        /// Who.
        peer: PeerId,
    },
    /// As many packets were accepted under this mix key as can be remembered: no further ones are. The peer wants a new
    /// mix key.
    ReplayMemoryFull,
    /// The replay memory couldn't be written down, for the reason said: from now on no packet is accepted, and none sent.
    ReplayStoreFailed(String),
    /// A node was found by discovery and is in the pool.
    NodeFound {
        /// Who.
        peer: PeerId,
    },
}

/// Events that wait for the swarm; the oldest go first when nobody takes them.
const WAITING: usize = 256;

#[derive(Default)]
struct Inner {
    events: Mutex<VecDeque<Event>>,
    waker: AtomicWaker,
}

/// The way of events to the swarm.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Inner>);

impl Events {
    pub(crate) fn tell(&self, event: Event) {
        let mut events = lock(&self.0.events);
        if events.len() >= WAITING {
            events.pop_front();
        }
        events.push_back(event);
        drop(events);
        self.0.waker.wake();
    }
}

/// Hands events to the swarm, and listens to what the swarm says of our addresses.
pub struct Behaviour {
    shared: Arc<Shared>,
    events: Events,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Behaviour(..)")
    }
}

impl Behaviour {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            events: shared.events.clone(),
            shared,
        }
    }

    fn endpoint(&self, address: &Multiaddr) -> Option<Endpoint> {
        Endpoint::new(self.shared.me, address)
            .ok()
            .filter(|e| e.ip().is_some_and(|ip| !ip.is_unspecified()))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Side,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        let (address, is_new, is_confirmed) = match event {
            FromSwarm::NewListenAddr(e) => (e.addr, true, false),
            FromSwarm::ExpiredListenAddr(e) => (e.addr, false, false),
            FromSwarm::ExternalAddrConfirmed(e) => (e.addr, true, true),
            FromSwarm::ExternalAddrExpired(e) => (e.addr, false, true),
            _ => return,
        };
        let Some(endpoint) = self.endpoint(address) else {
            return;
        };
        self.shared.change_addresses(|addresses| {
            let list = if is_confirmed {
                &mut addresses.confirmed
            } else {
                &mut addresses.listening
            };
            list.retain(|known| *known != endpoint);
            if is_new {
                list.push(endpoint);
            }
        });
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        let event: Infallible = event;
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.events.0.waker.register(cx.waker());
        match lock(&self.events.0.events).pop_front() {
            Some(event) => Poll::Ready(ToSwarm::GenerateEvent(event)),
            None => Poll::Pending,
        }
    }
}

impl Drop for Behaviour {
    fn drop(&mut self) {
        self.shared.close();
    }
}
