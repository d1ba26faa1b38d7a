//! [`Behaviour`]: which peers are connected, which connection writes, when to dial. Frames do not pass here.
//!
//! Two ends that dial each other may end up with two connections. Each end writes on the newest one that it knows of:
//! after a restart or a change of network the older one is the one that is dead without knowing it. When the one in
//! use closes or its stream fails, another takes over. A server that tells two programs with one identity apart chooses
//! itself ([`Control::write_by`]).

use super::{
    Config, Conn, Control, Event, Receiver,
    control::{Counters, Peer, Shared},
    handler::{Command, Failure, Handler, Outgoing, Report, Said},
    inbox::InboxSender,
    queue::lock,
};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm,
        ListenFailure, NetworkBehaviour, NotifyHandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// A connection that lasted this long clears the pauses between dials.
const STABLE: Duration = Duration::from_secs(5);

type Action = ToSwarm<Infallible, Command>;

/// One link in a swarm.
#[derive(Debug)]
pub struct Behaviour {
    shared: Arc<Shared>,
    inbox: InboxSender,
    links: BTreeMap<PeerId, Link>,
    /// Drained by each poll; a few entries for each event of the swarm.
    actions: VecDeque<Action>,
    /// Peers whose dial waits, by the time it is due.
    retries: BTreeSet<(Instant, PeerId)>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Peers about which the receiver may have to be told something.
    news: BTreeSet<PeerId>,
    /// The event that found the inbox full.
    held: Option<Event>,
    /// The number of the next connection.
    next_conn: u64,
}

/// What the behaviour knows about a peer that is connected, dialled or added.
#[derive(Debug, Default)]
struct Link {
    /// Oldest first.
    connections: Vec<(ConnectionId, Instant)>,
    /// Shared with the handlers.
    streams: Arc<AtomicUsize>,
    writer: Option<ConnectionId>,
    dialing: Option<ConnectionId>,
    not_before: Option<Instant>,
    pause: Option<Duration>,
    /// What the receiver was told last, and what it is to be told of a failed dial.
    told_connected: bool,
    unreachable: Option<String>,
}

impl Behaviour {
    /// A link, the handle to use it, and where its frames arrive.
    #[must_use]
    pub fn new(config: Config) -> (Self, Control, Receiver) {
        let (shared, control, receiver) = Control::new(config);
        let behaviour = Self {
            inbox: shared.inbox.sender(),
            shared,
            links: BTreeMap::new(),
            actions: VecDeque::new(),
            retries: BTreeSet::new(),
            timer: None,
            news: BTreeSet::new(),
            held: None,
            next_conn: 0,
        };
        (behaviour, control, receiver)
    }

    fn handler(&mut self, peer: PeerId, connection: ConnectionId) -> Handler {
        let streams = self.links.entry(peer).or_default().streams.clone();
        let conn = Conn(self.next_conn);
        self.next_conn += 1;
        lock(&self.shared.connections).insert((peer, conn), connection);
        Handler::new(self.shared.clone(), peer, connection, conn, streams)
    }

    /// Brings connections, dials and the table of peers together after something changed about `peer`.
    fn consider(&mut self, peer: PeerId) {
        let entry = self.shared.peer(&peer);
        self.news.insert(peer);
        match entry {
            Some(entry) if self.is_connected(&peer) => self.assign_best(peer, &entry),
            Some(entry) if entry.is_added() => self.dial_if_wanted(peer, &entry),
            Some(_) => {
                // Came by itself, and left.
                self.shared.forget(&peer);
            }
            None => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.writer = None;
                }
            }
        }
    }

    fn is_connected(&self, peer: &PeerId) -> bool {
        self.links
            .get(peer)
            .is_some_and(|link| !link.connections.is_empty())
    }

    /// The one that was chosen, else the newest.
    fn assign_best(&mut self, peer: PeerId, entry: &Arc<Peer>) {
        let newest = || Some(self.links.get(&peer)?.connections.last()?.0);
        if let Some(best) = entry.queue.chosen().or_else(newest) {
            self.assign(peer, entry, best);
        }
    }

    fn assign(&mut self, peer: PeerId, entry: &Arc<Peer>, writer: ConnectionId) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let old = link.writer.replace(writer);
        if old != Some(writer) || !entry.queue.is_writer(writer) {
            entry.queue.assign(Some(writer));
        }
        let mut notify = |connection, command| {
            self.actions.push_back(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler: NotifyHandler::One(connection),
                event: command,
            });
        };
        if let Some(old) = old.filter(|old| *old != writer && link.connections.iter().any(|(c, _)| c == old))
        {
            notify(old, Command::StopWriting);
        }
        // Also to the one that writes already: it looks again whether the peer is to be kept.
        notify(writer, Command::Write(Outgoing(entry.clone())));
    }

    fn dial_if_wanted(&mut self, peer: PeerId, entry: &Arc<Peer>) {
        let link = self.links.entry(peer).or_default();
        let wanted = entry.keep.load(Ordering::Relaxed) || entry.queue.len() > 0;
        if !wanted || link.dialing.is_some() {
            return;
        }
        if let Some(due) = link.not_before.filter(|due| *due > Instant::now()) {
            self.retries.insert((due, peer));
            return;
        }
        let addresses = lock(&entry.addresses).clone().unwrap_or_default();
        // From the port that listens, two peers that dial each other at once over TCP meet in one connection that
        // has no side to begin the handshake, and both dials fail. QUIC has no such case and one socket suffices.
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
        link.dialing = Some(opts.connection_id());
        Counters::add(&self.shared.counters.dials, 1);
        self.actions.push_back(ToSwarm::Dial { opts });
    }

    fn on_established(&mut self, peer: PeerId, connection: ConnectionId) {
        let link = self.links.entry(peer).or_default();
        link.connections.push((connection, Instant::now()));
        link.unreachable = None;
        if link.dialing == Some(connection) {
            link.dialing = None;
        }
        if self.shared.peer(&peer).is_some() {
            self.consider(peer);
        }
    }

    /// A connection closed, or another behaviour refused it.
    fn forget_connection(&self, peer: PeerId, connection: ConnectionId) {
        let mut connections = lock(&self.shared.connections);
        let mut of_peer = connections.range((peer, Conn(0))..=(peer, Conn(u64::MAX)));
        if let Some(key) = of_peer
            .find(|(_, open)| **open == connection)
            .map(|(key, _)| *key)
        {
            connections.remove(&key);
        }
    }

    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId) {
        let entry = self.shared.peer(&peer);
        self.forget_connection(peer, connection);
        if let Some(entry) = &entry {
            let dropped = entry.queue.closed(connection);
            Counters::add(&self.shared.counters.dropped_disconnected, dropped);
        }
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let mut lasted = Duration::ZERO;
        link.connections.retain(|(c, since)| {
            if *c == connection {
                lasted = since.elapsed();
            }
            *c != connection
        });
        if link.writer == Some(connection) {
            link.writer = None;
        }
        if link.connections.is_empty() {
            if let Some(entry) = &entry {
                entry.queue.assign(None);
                if !self.shared.config.frames_kept {
                    Counters::add(&self.shared.counters.dropped_disconnected, entry.queue.clear());
                }
            }
            if lasted >= STABLE {
                link.pause = None;
                link.not_before = None;
            } else {
                self.back_off(peer);
            }
        }
        self.consider(peer);
    }

    /// The next dial waits, longer each time.
    fn back_off(&mut self, peer: PeerId) {
        let (min, max) = (self.shared.config.redial_min, self.shared.config.redial_max);
        let link = self.links.entry(peer).or_default();
        let pause = link.pause.map_or(min, |pause| pause.saturating_mul(2).min(max));
        link.pause = Some(pause);
        link.not_before = Some(Instant::now() + pause);
    }

    fn on_dial_failure(&mut self, peer: PeerId, connection: ConnectionId, error: &DialError) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        if link.dialing != Some(connection) {
            self.tidy(peer);
            return;
        }
        link.dialing = None;
        if let DialError::DialPeerConditionFalse(_) = error {
            // Another protocol dials the same peer. If that fails, it is our turn: not a failure of ours.
            link.not_before = Some(Instant::now() + self.shared.config.redial_min);
        } else {
            Counters::add(&self.shared.counters.dial_failures, 1);
            if link.connections.is_empty() {
                link.unreachable = Some(error.to_string());
                if let Some(entry) = self.shared.peer(&peer) {
                    Counters::add(&self.shared.counters.dropped_unreachable, entry.queue.clear());
                }
                self.back_off(peer);
            }
        }
        self.consider(peer);
    }

    fn on_report(&mut self, peer: PeerId, connection: ConnectionId, report: Report) {
        let Some(entry) = self.shared.peer(&peer) else {
            return;
        };
        let Report::Failed(failure) = report else {
            self.consider(peer);
            return;
        };
        let Some(link) = self
            .links
            .get(&peer)
            .filter(|link| link.writer == Some(connection))
        else {
            return;
        };
        let other = link
            .connections
            .iter()
            .rev()
            .find(|(c, _)| *c != connection && entry.queue.chosen().is_none())
            .copied();
        if failure == Failure::Stalled {
            // As good as dead, and TCP would take a quarter of an hour to say so.
            self.actions.push_back(ToSwarm::CloseConnection {
                peer_id: peer,
                connection: CloseConnection::One(connection),
            });
        }
        if let Some((other, _)) = other
            && failure != Failure::Unsupported
        {
            self.assign(peer, &entry, other);
            return;
        }
        let counters = &self.shared.counters;
        let counter = match failure {
            Failure::Unsupported => &counters.dropped_unsupported,
            Failure::Broken => &counters.dropped_stream,
            Failure::Stalled => &counters.dropped_stalled,
        };
        Counters::add(counter, entry.queue.clear());
    }

    /// Forgets what is known about a peer that is neither connected nor dialled nor in the table.
    fn tidy(&mut self, peer: PeerId) {
        let idle = self.links.get(&peer).is_some_and(|link| {
            link.connections.is_empty()
                && link.dialing.is_none()
                && !link.told_connected
                // A handler that was made for a connection still on its way shares this.
                && Arc::strong_count(&link.streams) == 1
        });
        if idle && self.shared.peer(&peer).is_none() {
            self.links.remove(&peer);
        }
    }

    fn run_commands(&mut self, cx: &mut Context<'_>) {
        let commands = self.shared.take_commands(cx);
        for peer_id in commands.disconnect {
            if self.is_connected(&peer_id) {
                self.actions.push_back(ToSwarm::CloseConnection {
                    peer_id,
                    connection: CloseConnection::All,
                });
            }
        }
        let connection = |peer, conn| lock(&self.shared.connections).get(&(peer, conn)).copied();
        for ((peer_id, conn), frame) in commands.say {
            match connection(peer_id, conn) {
                Some(connection) => self.actions.push_back(ToSwarm::NotifyHandler {
                    peer_id,
                    handler: NotifyHandler::One(connection),
                    event: Command::Say(Said(frame)),
                }),
                None => Counters::add(&self.shared.counters.dropped_unsaid, 1),
            }
        }
        for (peer_id, conn) in commands.close {
            if let Some(connection) = connection(peer_id, conn) {
                self.actions.push_back(ToSwarm::CloseConnection {
                    peer_id,
                    connection: CloseConnection::One(connection),
                });
            }
        }
        for peer in commands.moved {
            // What failed at the old place says nothing of the new one.
            if let Some(link) = self.links.get_mut(&peer) {
                (link.pause, link.not_before) = (None, None);
            }
        }
        for peer in commands.touched {
            if self.shared.peer(&peer).is_none()
                && let Some(link) = self.links.get_mut(&peer)
            {
                link.writer = None;
                for &(connection, _) in &link.connections {
                    self.actions.push_back(ToSwarm::NotifyHandler {
                        peer_id: peer,
                        handler: NotifyHandler::One(connection),
                        event: Command::Shut,
                    });
                }
            }
            self.consider(peer);
        }
    }

    fn poll_retries(&mut self, cx: &mut Context<'_>) {
        while let Some(&(due, peer)) = self.retries.first() {
            if due > Instant::now() {
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
                if timer.deadline() != due {
                    timer.as_mut().reset(due);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return;
                }
                continue;
            }
            self.retries.pop_first();
            self.consider(peer);
        }
    }

    /// Tells the receiver what is new. A peer that comes and goes while the inbox is full is told once.
    fn poll_news(&mut self, cx: &mut Context<'_>) {
        while self.inbox.poll_push(&mut self.held, cx).is_ready() {
            let Some(&peer) = self.news.first() else { return };
            let known = self.shared.peer(&peer).is_some();
            let Some(link) = self.links.get_mut(&peer) else {
                self.news.pop_first();
                continue;
            };
            let connected = !link.connections.is_empty() && (known || link.told_connected);
            if connected != link.told_connected {
                link.told_connected = connected;
                self.held = Some(match connected {
                    true => Event::Connected { peer },
                    false => Event::Disconnected { peer },
                });
            } else if let Some(reason) = link.unreachable.take() {
                self.held = Some(Event::Unreachable { peer, reason });
            } else {
                self.news.pop_first();
                self.tidy(peer);
            }
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer, connection))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let entry = peer.and_then(|peer| self.shared.peer(&peer));
        Ok(entry
            .and_then(|entry| lock(&entry.addresses).clone())
            .unwrap_or_default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer, connection))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            }) => {
                self.on_established(peer_id, connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                ..
            }) => {
                self.on_closed(peer_id, connection_id);
            }
            FromSwarm::DialFailure(DialFailure {
                peer_id: Some(peer),
                error,
                connection_id,
            }) => {
                self.forget_connection(peer, connection_id);
                self.on_dial_failure(peer, connection_id, error);
            }
            // Another behaviour may have refused a connection for which we had made a handler.
            FromSwarm::ListenFailure(ListenFailure {
                peer_id: Some(peer),
                connection_id,
                ..
            }) => {
                self.forget_connection(peer, connection_id);
                self.tidy(peer);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        report: THandlerOutEvent<Self>,
    ) {
        self.on_report(peer, connection, report);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.run_commands(cx);
        self.poll_retries(cx);
        self.poll_news(cx);
        match self.actions.pop_front() {
            Some(action) => Poll::Ready(action),
            None => Poll::Pending,
        }
    }
}

impl Drop for Behaviour {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::FrameLen;
    use futures::task::noop_waker;
    use libp2p::{StreamProtocol, core::ConnectedPoint, swarm::ListenError};

    #[test]
    fn strangers_leave_nothing_behind() {
        let config = Config::new(StreamProtocol::new("/test"), FrameLen::Exact(8));
        let (mut behaviour, _control, mut receiver) = Behaviour::new(config);
        let waker = noop_waker();
        let cx = &mut Context::from_waker(&waker);
        let address: Multiaddr = Multiaddr::empty();
        let endpoint = ConnectedPoint::Listener {
            local_addr: address.clone(),
            send_back_addr: address.clone(),
        };
        for n in 0..100 {
            let (peer_id, connection_id) = (PeerId::random(), ConnectionId::new_unchecked(n));
            let handler = behaviour
                .handle_established_inbound_connection(connection_id, peer_id, &address, &address)
                .unwrap();
            if n % 2 == 0 {
                // Refused by another behaviour.
                drop(handler);
                behaviour.on_swarm_event(FromSwarm::ListenFailure(ListenFailure {
                    local_addr: &address,
                    send_back_addr: &address,
                    error: &ListenError::Aborted,
                    connection_id,
                    peer_id: Some(peer_id),
                }));
                continue;
            }
            behaviour.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint: &endpoint,
                failed_addresses: &[],
                other_established: 0,
            }));
            let speaks = n % 4 == 1;
            if speaks {
                assert!(behaviour.shared.admit(peer_id).is_some());
                behaviour.on_report(peer_id, connection_id, Report::Inbound);
                behaviour.poll_news(cx);
                assert_eq!(receiver.try_recv(), Some(Event::Connected { peer: peer_id }));
            }
            drop(handler);
            behaviour.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                endpoint: &endpoint,
                cause: None,
                remaining_established: 0,
            }));
            behaviour.poll_news(cx);
            let told = speaks.then_some(Event::Disconnected { peer: peer_id });
            assert_eq!(receiver.try_recv(), told);
            assert!(behaviour.shared.peer(&peer_id).is_none());
        }
        behaviour.poll_news(cx);
        assert!(behaviour.links.is_empty() && behaviour.news.is_empty() && behaviour.retries.is_empty());
        assert!(lock(&behaviour.shared.connections).is_empty());
    }
}
