//! The queue from the connections of a link to its [`Receiver`]: one for all peers, bounded, and never dropping what
//! arrived: who finds it full waits, and reads nothing meanwhile.
//!
//! A deque behind a mutex that is held for a push or a take, never across I/O.

use super::{
    Conn, Frame,
    queue::{lock, set_waker},
};
use futures::ready;
use libp2p::PeerId;
use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

/// What a link tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A frame arrived. The first ones of a peer may come before its [`Event::Connected`].
    Frame {
        /// The sender, as authenticated by its connection.
        peer: PeerId,
        /// By which of its connections.
        conn: Conn,
        /// The frame, of an allowed length.
        frame: Frame,
    },
    /// An [added](super::Control::add_peer) peer has a connection, or another peer opened its first stream.
    Connected {
        /// Who.
        peer: PeerId,
    },
    /// The last connection of a peer that was told as connected closed. All its frames came before.
    Disconnected {
        /// Who.
        peer: PeerId,
    },
    /// A dial failed; what waited for the peer was dropped. The link tries again, with pauses that grow, when there
    /// is something to send or the peer is to be [kept](super::Control::connect).
    Unreachable {
        /// Who.
        peer: PeerId,
        /// Why, for people. Contains addresses: not for logs above DEBUG.
        reason: String,
    },
}

/// Events that wait for the receiver.
#[derive(Debug)]
pub(super) struct Inbox {
    capacity: usize,
    state: Mutex<InboxState>,
}

#[derive(Debug, Default)]
struct InboxState {
    events: VecDeque<Event>,
    /// Room that tasks hold while they read frames for it.
    reserved: usize,
    receiver: Option<Waker>,
    /// Tasks that hold an event for which there was no room, by [`InboxSender::id`].
    blocked: BTreeMap<u64, Waker>,
    next_id: u64,
    /// The behaviour is gone: nothing will come.
    ended: bool,
    /// The receiver is gone: nobody will take.
    closed: bool,
}

impl Inbox {
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            state: Mutex::default(),
        })
    }

    pub(super) fn sender(self: &Arc<Self>) -> InboxSender {
        let mut state = lock(&self.state);
        let id = state.next_id;
        state.next_id += 1;
        drop(state);
        InboxSender {
            inbox: self.clone(),
            id,
        }
    }

    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        if let Some(waker) = state.receiver.take() {
            waker.wake();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    fn take(&self, out: &mut Vec<Event>, max: usize) -> (usize, bool) {
        let mut state = lock(&self.state);
        let count = max.min(state.events.len());
        out.extend(state.events.drain(..count));
        let ended = state.ended && state.events.is_empty();
        let blocked = self.unblock(&mut state);
        drop(state);
        wake_all(blocked);
        (count, ended)
    }

    /// The tasks to wake. Only at half the capacity: waking all of them for each event that leaves would cost more
    /// than the event.
    fn unblock(&self, state: &mut InboxState) -> BTreeMap<u64, Waker> {
        if state.events.len() + state.reserved <= self.capacity / 2 {
            std::mem::take(&mut state.blocked)
        } else {
            BTreeMap::new()
        }
    }
}

fn wake_all(blocked: BTreeMap<u64, Waker>) {
    for (_, waker) in blocked {
        waker.wake();
    }
}

/// One task's way into the inbox.
#[derive(Debug)]
pub(super) struct InboxSender {
    inbox: Arc<Inbox>,
    id: u64,
}

impl InboxSender {
    /// Moves the event in `slot` into the inbox; pending, with the event left where it is, while that is full. An
    /// event for a receiver that is gone is dropped.
    pub(super) fn poll_push(&self, slot: &mut Option<Event>, cx: &mut Context<'_>) -> Poll<()> {
        if slot.is_some() {
            ready!(self.poll_reserve(1, cx));
            self.fill(1, slot.take());
        }
        Poll::Ready(())
    }

    /// Room for at least one event and at most `most`, to be [filled](Self::fill); pending while the inbox is full.
    pub(super) fn poll_reserve(&self, most: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let mut state = lock(&self.inbox.state);
        let taken = state.events.len() + state.reserved;
        let room = match self.inbox.capacity.saturating_sub(taken) {
            _ if state.closed => most,
            0 => {
                state.blocked.insert(self.id, cx.waker().clone());
                return Poll::Pending;
            }
            room => room.min(most),
        };
        state.reserved += room;
        Poll::Ready(room)
    }

    /// Gives back `reserved` room and moves the events for which it was wanted in: one lock and one wake-up for all.
    /// At least one: what the receiver takes is what wakes those who wait for room.
    pub(super) fn fill(&self, reserved: usize, events: impl IntoIterator<Item = Event>) {
        let mut state = lock(&self.inbox.state);
        state.reserved -= reserved;
        push(state, events);
    }

    /// Moves the event in, full or not: for a task that ends and must not lose what it holds.
    pub(super) fn push_over(&self, event: Event) {
        push(lock(&self.inbox.state), [event]);
    }
}

fn push(mut state: MutexGuard<'_, InboxState>, events: impl IntoIterator<Item = Event>) {
    if state.closed {
        return;
    }
    state.events.extend(events);
    let waker = state.receiver.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Drop for InboxSender {
    fn drop(&mut self) {
        lock(&self.inbox.state).blocked.remove(&self.id);
    }
}

/// The receiving end of a link. Dropping it closes the streams of all peers.
#[derive(Debug)]
pub struct Receiver {
    inbox: Arc<Inbox>,
    one: Vec<Event>,
}

impl Receiver {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self {
            inbox,
            one: Vec::with_capacity(1),
        }
    }

    /// The next event; `None` once the [`Behaviour`](super::Behaviour) is gone and all was received. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        let mut one = std::mem::take(&mut self.one);
        self.recv_many(&mut one, 1).await;
        let event = one.pop();
        self.one = one;
        event
    }

    /// The next event, if there is one now.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.inbox.take(&mut self.one, 1);
        self.one.pop()
    }

    /// Waits for an event and appends it and what else is there to `out`, `max` in all. Returns how many; 0 once
    /// the [`Behaviour`](super::Behaviour) is gone and all was received (or for a `max` of 0). Cancel-safe.
    pub async fn recv_many(&mut self, out: &mut Vec<Event>, max: usize) -> usize {
        poll_fn(|cx| self.poll_recv_many(out, max, cx)).await
    }

    /// [`recv_many`](Self::recv_many) for those who poll.
    pub fn poll_recv_many(&mut self, out: &mut Vec<Event>, max: usize, cx: &mut Context<'_>) -> Poll<usize> {
        if let (count @ 1.., _) = self.inbox.take(out, max) {
            return Poll::Ready(count);
        }
        let mut state = lock(&self.inbox.state);
        if max == 0 || (state.ended && state.events.is_empty()) {
            return Poll::Ready(0);
        }
        if !state.events.is_empty() {
            // Came between the two locks.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        set_waker(&mut state.receiver, cx);
        Poll::Pending
    }

    /// Events that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.inbox.state).events.len()
    }

    /// Whether no event waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = lock(&self.inbox.state);
        state.closed = true;
        state.events.clear();
        let blocked = std::mem::take(&mut state.blocked);
        drop(state);
        wake_all(blocked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;

    fn frame(i: u8) -> Frame {
        vec![i; 4].into()
    }

    #[test]
    fn a_full_inbox_blocks_until_half_is_free_and_takes_the_rest_of_a_task_that_ends() {
        let (inbox, waker) = (Inbox::new(4), noop_waker());
        let cx = &mut Context::from_waker(&waker);
        let (sender, mut receiver) = (inbox.sender(), Receiver::new(inbox.clone()));
        let peer = PeerId::random();
        let event = |i| {
            Some(Event::Frame {
                peer,
                conn: Conn(0),
                frame: frame(i),
            })
        };
        for i in 0..4 {
            assert!(sender.poll_push(&mut event(i), cx).is_ready());
        }
        let mut held = event(4);
        assert!(sender.poll_push(&mut held, cx).is_pending());
        assert!(held.is_some());
        receiver.try_recv();
        assert_eq!(lock(&inbox.state).blocked.len(), 1);
        receiver.try_recv();
        assert_eq!(lock(&inbox.state).blocked.len(), 0);
        assert_eq!(sender.poll_reserve(5, cx), Poll::Ready(2), "what is free");
        assert!(sender.poll_push(&mut held, cx).is_pending(), "is reserved");
        sender.fill(2, held.take());
        held = event(7);
        assert!(sender.poll_push(&mut held, cx).is_ready(), "was given back");
        sender.push_over(event(5).unwrap());
        sender.push_over(event(6).unwrap());
        assert!(sender.poll_reserve(1, cx).is_pending(), "over the bound");
        inbox.end();
        let mut out = Vec::new();
        assert_eq!(futures::executor::block_on(receiver.recv_many(&mut out, 10)), 6);
        assert_eq!(out.last(), event(6).as_ref());
        assert_eq!(futures::executor::block_on(receiver.recv()), None);
    }
}
