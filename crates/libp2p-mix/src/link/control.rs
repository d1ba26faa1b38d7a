//! [`Control`]: the handle by which everybody else uses a link, and the counters.

use super::{
    Config, Conn, Frame, Receiver,
    codec::Format,
    inbox::Inbox,
    queue::{Pushed, SendQueue, lock},
};
use futures::task::AtomicWaker;
use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Why a frame was not taken. It comes back beside this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The peer's queue is full: it reads too slowly, or is not reached yet.
    #[error("the peer's queue is full")]
    Full,
    /// The peer was neither added nor has it a stream to us.
    #[error("the peer is not known")]
    UnknownPeer,
    /// The peer is to be [connected](Control::connect) but isn't at this moment, and the link keeps no
    /// frames for later ([`Config::with_frames_kept`]).
    #[error("the peer is not connected")]
    Disconnected,
    /// The link's behaviour is gone.
    #[error("the link is closed")]
    Closed,
    /// The frame's length is not one the link carries.
    #[error("the link does not carry frames of this length")]
    TooLong,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a link did, counted since it was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: AtomicU64,)* }

        impl Counters {
            fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Frames that the transport has taken.
    sent,
    /// Frames that arrived whole.
    received,
    /// Frames handed back because the peer's queue was full.
    refused_full,
    /// Frames handed back for another reason.
    refused_other,
    /// Accepted frames dropped because no dial succeeded.
    dropped_unreachable,
    /// Accepted frames dropped because the peer does not speak the protocol.
    dropped_unsupported,
    /// Accepted frames dropped because streams to the peer broke twice.
    dropped_stream,
    /// Accepted frames dropped because the peer twice stopped taking bytes.
    dropped_stalled,
    /// Accepted frames dropped because the peer was removed or disconnected, or left without being known.
    dropped_disconnected,
    /// Dials begun.
    dials,
    /// Dials that failed.
    dial_failures,
    /// Streams opened to peers, reopened ones included.
    streams_opened,
    /// Streams opened again right after a failure.
    streams_reopened,
    /// Writes that made no progress for the stall timeout.
    stalls,
    /// Frames given up that were to go in a stream of their own: the connection ended or took no bytes.
    dropped_unsaid,
    /// Streams accepted from peers.
    inbound_streams,
    /// Streams of a peer that had too many: refused, or taken for one that was silent.
    inbound_too_many,
    /// Streams refused because the peer is not known, or the table of peers full.
    inbound_unknown_peer,
    /// Streams closed for another header than ours.
    header_mismatch,
    /// Streams closed because no header came in time.
    header_timeout,
    /// Streams closed for a length that the link does not carry.
    bad_length,
    /// Streams closed for a length not in its shortest form.
    bad_varint,
    /// Streams that ended inside a frame, a prefix or the header.
    truncated,
    /// Streams that ended in an error of the transport.
    inbound_broken,
    /// Peers not added because the table was full.
    peers_refused,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// A peer in the table.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) queue: SendQueue,
    /// To be connected whether or not there is something to send.
    pub(super) keep: AtomicBool,
    /// Added by the owner of the link, and where. `None`: it came by itself and goes with its connection.
    pub(super) addresses: Mutex<Option<Vec<Multiaddr>>>,
}

impl Peer {
    pub(super) fn is_added(&self) -> bool {
        lock(&self.addresses).is_some()
    }
}

/// What behaviour, handlers and controls share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) format: Format,
    pub(super) inbox: Arc<Inbox>,
    pub(super) counters: Counters,
    peers: RwLock<HashMap<PeerId, Arc<Peer>>>,
    pub(super) connections: Mutex<Connections>,
    commands: Mutex<Commands>,
    behaviour: AtomicWaker,
    closed: AtomicBool,
}

/// What the behaviour has to look at. Sets, so the bound is the number of peers and connections and not of calls.
#[derive(Debug, Default)]
pub(super) struct Commands {
    pub(super) touched: BTreeSet<PeerId>,
    pub(super) disconnect: BTreeSet<PeerId>,
    /// Peers with other addresses than before.
    pub(super) moved: BTreeSet<PeerId>,
    pub(super) say: BTreeMap<(PeerId, Conn), Frame>,
    pub(super) close: BTreeSet<(PeerId, Conn)>,
}

/// What the behaviour knows of connections; read by controls.
pub(super) type Connections = BTreeMap<(PeerId, Conn), ConnectionId>;

impl Shared {
    fn new(config: Config) -> Arc<Self> {
        Arc::new(Self {
            format: Format::new(&config.header, config.frame_len),
            inbox: Inbox::new(config.receive_queue_len),
            config,
            counters: Counters::default(),
            peers: RwLock::default(),
            connections: Mutex::default(),
            commands: Mutex::default(),
            behaviour: AtomicWaker::new(),
            closed: AtomicBool::new(false),
        })
    }

    pub(super) fn peer(&self, peer: &PeerId) -> Option<Arc<Peer>> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(peer)
            .cloned()
    }

    /// The entry of a peer that has an acceptable stream to us, made if need be; `None` if it is to be refused.
    pub(super) fn admit(&self, peer: PeerId) -> Option<Arc<Peer>> {
        let known = self.peer(&peer);
        if known.is_some() || !self.config.inbound_from_unknown {
            return known;
        }
        self.insert(peer, None)
    }

    fn insert(&self, peer: PeerId, addresses: Option<Vec<Multiaddr>>) -> Option<Arc<Peer>> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = peers.get(&peer) {
            if addresses.is_some() {
                let old = std::mem::replace(&mut *lock(&entry.addresses), addresses);
                if old != *lock(&entry.addresses) {
                    lock(&self.commands).moved.insert(peer);
                }
            }
            return Some(entry.clone());
        }
        if peers.len() >= self.config.max_peers {
            return None;
        }
        let entry = Arc::new(Peer {
            queue: SendQueue::new(self.config.send_queue_len),
            keep: AtomicBool::new(false),
            addresses: Mutex::new(addresses),
        });
        peers.insert(peer, entry.clone());
        Some(entry)
    }

    /// Takes a peer out of the table; what waits for it is dropped and counted.
    pub(super) fn forget(&self, peer: &PeerId) {
        let entry = self
            .peers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(peer);
        if let Some(entry) = entry {
            Counters::add(&self.counters.dropped_disconnected, entry.queue.close());
        }
    }

    /// Registers the behaviour's task, then takes what was asked of it.
    pub(super) fn take_commands(&self, cx: &std::task::Context<'_>) -> Commands {
        self.behaviour.register(cx.waker());
        std::mem::take(&mut *lock(&self.commands))
    }

    pub(super) fn touch(&self, peer: PeerId) {
        lock(&self.commands).touched.insert(peer);
        self.behaviour.wake();
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.inbox.end();
        // What waits will not be sent: free it though controls may live on.
        self.peers.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The handle of a link: cheap to clone, usable from any thread, never blocks.
#[derive(Clone, Debug)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    pub(super) fn new(config: Config) -> (Arc<Shared>, Self, Receiver) {
        let shared = Shared::new(config);
        let receiver = Receiver::new(shared.inbox.clone());
        (shared.clone(), Self { shared }, receiver)
    }

    /// Makes a peer known under these addresses; for a known one they replace the old addresses. The link dials it
    /// when there is something to send. False, and counted, if the table of peers is full or the link closed.
    pub fn add_peer(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> bool {
        let added = !self.is_closed() && self.shared.insert(peer, Some(addresses)).is_some();
        if added {
            self.shared.touch(peer);
        } else {
            Counters::add(&self.shared.counters.peers_refused, 1);
        }
        added
    }

    /// Connects to an added peer now, opens the stream, and keeps both up until [`disconnect`](Self::disconnect) or
    /// [`remove_peer`](Self::remove_peer). Nothing for an unknown one.
    pub fn connect(&self, peer: PeerId) {
        if let Some(entry) = self.shared.peer(&peer) {
            entry.keep.store(true, Ordering::Relaxed);
            self.shared.touch(peer);
        }
    }

    /// Closes all connections of the peer, those of other protocols included, and drops what waits for it. An added
    /// peer stays known: it is dialled again when there is something to send.
    pub fn disconnect(&self, peer: PeerId) {
        if let Some(entry) = self.shared.peer(&peer) {
            entry.keep.store(false, Ordering::Relaxed);
            Counters::add(&self.shared.counters.dropped_disconnected, entry.queue.clear());
        }
        lock(&self.shared.commands).disconnect.insert(peer);
        self.shared.behaviour.wake();
    }

    /// Forgets a peer, drops what waits for it and closes its streams on this link. Its connections stay for as long
    /// as another protocol uses them; it may come back by itself if unknown peers are accepted.
    pub fn remove_peer(&self, peer: PeerId) {
        self.shared.forget(&peer);
        self.shared.touch(peer);
    }

    /// From here on frames for a peer leave by this connection until it closes; else by the newest. What waits for another
    /// one is dropped and counted. False where there is no such connection.
    pub fn write_by(&self, peer: &PeerId, conn: Conn) -> bool {
        let connection = lock(&self.shared.connections).get(&(*peer, conn)).copied();
        let (Some(connection), Some(entry)) = (connection, self.shared.peer(peer)) else {
            return false;
        };
        let dropped = entry.queue.choose(conn, connection);
        Counters::add(&self.shared.counters.dropped_disconnected, dropped);
        self.shared.touch(*peer);
        true
    }

    /// Says one thing by one connection, whichever writes else: in a stream of its own. It may overtake frames that wait,
    /// and be overtaken.
    ///
    /// # Errors
    /// The frame comes back: [`SendError::Full`] where the last such frame is still being said,
    /// [`SendError::Disconnected`] where there is no such connection.
    pub fn say_by(&self, peer: &PeerId, conn: Conn, frame: Frame) -> Result<(), (SendError, Frame)> {
        self.counted(self.say(peer, conn, frame))
    }

    fn say(&self, peer: &PeerId, conn: Conn, frame: Frame) -> Result<(), (SendError, Frame)> {
        if !self.shared.config.send_frame_len.allows(frame.len()) {
            return Err((SendError::TooLong, frame));
        }
        if self.is_closed() {
            return Err((SendError::Closed, frame));
        }
        if !lock(&self.shared.connections).contains_key(&(*peer, conn)) {
            return Err((SendError::Disconnected, frame));
        }
        let mut commands = lock(&self.shared.commands);
        if commands.say.contains_key(&(*peer, conn)) {
            return Err((SendError::Full, frame));
        }
        commands.say.insert((*peer, conn), frame);
        drop(commands);
        self.shared.behaviour.wake();
        Ok(())
    }

    /// Closes one connection of a peer, with what other protocols have on it.
    pub fn close(&self, peer: &PeerId, conn: Conn) {
        if lock(&self.shared.connections).contains_key(&(*peer, conn)) {
            lock(&self.shared.commands).close.insert((*peer, conn));
            self.shared.behaviour.wake();
        }
    }

    /// Queues a frame for a peer. Neither blocks nor waits for the network; frames leave in the order of the calls.
    ///
    /// # Errors
    /// The frame comes back with the reason; nothing was queued.
    pub fn try_send(&self, peer: &PeerId, frame: Frame) -> Result<(), (SendError, Frame)> {
        self.counted(self.push(peer, None, frame))
    }

    /// [`try_send`](Self::try_send) by one connection of the peer and no other, which was [chosen](Self::write_by).
    ///
    /// # Errors
    /// The frame comes back with the reason; [`SendError::Disconnected`] where the connection closed or another one was
    /// chosen.
    pub fn try_send_by(&self, peer: &PeerId, conn: Conn, frame: Frame) -> Result<(), (SendError, Frame)> {
        self.counted(self.push(peer, Some(conn), frame))
    }

    fn counted(&self, result: Result<(), (SendError, Frame)>) -> Result<(), (SendError, Frame)> {
        if let Err((error, _)) = &result {
            self.count_refused(*error, 1);
        }
        result
    }

    /// [`try_send`](Self::try_send) for several frames under one lock and with one wake-up: takes them from the front
    /// of `frames` for as long as there is room. What stays there was not taken, and is counted as refused.
    ///
    /// # Errors
    /// Why the first frame that stays was not taken; those before it were.
    pub fn try_send_many(&self, peer: &PeerId, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        if frames.is_empty() {
            return Ok(());
        }
        let result = self.push_many(peer, frames);
        if let Err(error) = result {
            self.count_refused(error, frames.len());
        }
        result
    }

    fn count_refused(&self, error: SendError, frames: usize) {
        let counters = &self.shared.counters;
        let counter = match error {
            SendError::Full => &counters.refused_full,
            _ => &counters.refused_other,
        };
        Counters::add(counter, frames);
    }

    fn push(&self, peer: &PeerId, by: Option<Conn>, frame: Frame) -> Result<(), (SendError, Frame)> {
        if !self.shared.config.send_frame_len.allows(frame.len()) {
            return Err((SendError::TooLong, frame));
        }
        if self.is_closed() {
            return Err((SendError::Closed, frame));
        }
        let peers = self.shared.peers.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = peers.get(peer) else {
            return Err((SendError::UnknownPeer, frame));
        };
        if entry.queue.push(frame, by, self.must_leave_now(entry))? == Pushed::WakeBehaviour {
            drop(peers);
            self.shared.touch(*peer);
        }
        Ok(())
    }

    fn push_many(&self, peer: &PeerId, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        let all = frames.len();
        let allowed = self.shared.config.send_frame_len;
        let count = frames.iter().take_while(|f| allowed.allows(f.len())).count();
        if count == 0 {
            return Err(SendError::TooLong);
        }
        if self.is_closed() {
            return Err(SendError::Closed);
        }
        let peers = self.shared.peers.read().unwrap_or_else(PoisonError::into_inner);
        let entry = peers.get(peer).ok_or(SendError::UnknownPeer)?;
        let (taken, pushed) = entry.queue.push_many(frames, count, self.must_leave_now(entry))?;
        if pushed == Pushed::WakeBehaviour {
            drop(peers);
            self.shared.touch(*peer);
        }
        match taken {
            _ if taken < count => Err(SendError::Full),
            _ if count < all => Err(SendError::TooLong),
            _ => Ok(()),
        }
    }

    fn must_leave_now(&self, entry: &Peer) -> bool {
        !self.shared.config.frames_kept && entry.keep.load(Ordering::Relaxed)
    }

    /// Ends the stream to a peer once all that was sent to it is written, and waits until it has read that to the end; the next
    /// frame opens another stream. False where that can't be known: nothing is on its way, the connection or the stream
    /// broke, or the peer didn't end its side within the [stall timeout](Config::with_stall_timeout).
    pub async fn finish(&self, peer: &PeerId) -> bool {
        let (end, ended) = tokio::sync::oneshot::channel();
        if let Some(entry) = self.shared.peer(peer) {
            entry.queue.push_end(end);
        } else {
            drop(end);
        }
        ended.await.is_ok()
    }

    /// Frames that wait for a peer and that no writer has taken yet. The writer takes a frame when the transport has
    /// taken all bytes before it, so with a short queue 0 means that at most one frame is not with the transport.
    #[must_use]
    pub fn queued(&self, peer: &PeerId) -> usize {
        self.shared.peer(peer).map_or(0, |entry| entry.queue.len())
    }

    /// Whether the peer is known: added, or with a stream to us.
    #[must_use]
    pub fn is_known(&self, peer: &PeerId) -> bool {
        self.shared.peer(peer).is_some()
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }
}
