//! The queue from [`Control`](super::Control) to the connection that writes to a peer: one a peer, bounded.
//!
//! A deque behind a mutex that is held for a push or a take, never across I/O: some tens of nanoseconds for a frame,
//! against microseconds in the transport.

use super::{Conn, Frame, SendError};
use libp2p::swarm::ConnectionId;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};
use tokio::sync::oneshot;

/// Locks; a panic elsewhere leaves these plain containers usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frames that wait for one peer.
#[derive(Debug)]
pub(super) struct SendQueue {
    capacity: usize,
    state: Mutex<SendState>,
}

#[derive(Debug, Default)]
struct SendState {
    frames: VecDeque<Frame>,
    /// The connection that writes.
    owner: Option<ConnectionId>,
    /// The only one that is to write, if the owner of the link chose one.
    chosen: Option<(Conn, ConnectionId)>,
    /// Its task, if it waits for a frame.
    waker: Option<Waker>,
    /// Who waits for the end of the stream that all frames so far are written to.
    ends: Vec<End>,
    /// The behaviour was told that there is something to send and no connection.
    wanted: bool,
    closed: bool,
}

/// Told when the peer has read a stream to its end; dropped where that can't be known.
pub(super) type End = oneshot::Sender<()>;
/// Those that may wait for one stream's end.
const MAX_ENDS: usize = 64;

/// What a push asks of the caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// A connection takes care of the frame.
    Connected,
    /// The first frame for a peer without a connection: wake the behaviour.
    WakeBehaviour,
}

/// What a writer gets.
#[derive(Debug)]
pub(super) enum Taken {
    Frames(Vec<Frame>),
    /// Another connection writes now, or the peer was removed.
    Revoked,
}

impl SendState {
    /// For how many frames there is room: at least one, or why not.
    fn room(&self, capacity: usize, by: Option<Conn>, must_leave_now: bool) -> Result<usize, SendError> {
        if self.closed {
            return Err(SendError::UnknownPeer);
        }
        if by.is_some() && self.chosen.map(|(conn, _)| conn) != by {
            return Err(SendError::Disconnected);
        }
        if must_leave_now && self.owner.is_none() {
            return Err(SendError::Disconnected);
        }
        match capacity.saturating_sub(self.frames.len()) {
            0 => Err(SendError::Full),
            room => Ok(room),
        }
    }
}

/// Tells whoever takes care of frames that there are new ones.
fn notify(mut state: MutexGuard<'_, SendState>) -> Pushed {
    if state.owner.is_none() && !state.wanted {
        state.wanted = true;
        return Pushed::WakeBehaviour;
    }
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
    Pushed::Connected
}

impl SendQueue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::default(),
        }
    }

    /// Takes a frame; only if a connection writes, if it `must_leave_now`; only if that one was chosen, if it is to go `by` it.
    pub(super) fn push(
        &self,
        frame: Frame,
        by: Option<Conn>,
        must_leave_now: bool,
    ) -> Result<Pushed, (SendError, Frame)> {
        let mut state = lock(&self.state);
        match state.room(self.capacity, by, must_leave_now) {
            Ok(_) => state.frames.push_back(frame),
            Err(error) => return Err((error, frame)),
        }
        Ok(notify(state))
    }

    /// Takes of the first `count` frames (at least one) as many as there is room for, under one lock, and says how
    /// many; an error if none.
    pub(super) fn push_many(
        &self,
        frames: &mut Vec<Frame>,
        count: usize,
        must_leave_now: bool,
    ) -> Result<(usize, Pushed), SendError> {
        let mut state = lock(&self.state);
        let taken = count.min(state.room(self.capacity, None, must_leave_now)?);
        state.frames.extend(frames.drain(..taken));
        Ok((taken, notify(state)))
    }

    /// Asks for the end of the stream once all that waits is written. Nothing where nothing is on its way, or too many ask.
    pub(super) fn push_end(&self, end: End) {
        let mut state = lock(&self.state);
        let nothing = state.owner.is_none() && state.frames.is_empty();
        if state.closed || nothing || state.ends.len() >= MAX_ENDS {
            return;
        }
        state.ends.push(end);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Those that wait for the end of what `writer` writes, if no frame waits before it.
    pub(super) fn take_ends(&self, writer: ConnectionId) -> Vec<End> {
        let mut state = lock(&self.state);
        if state.owner != Some(writer) || !state.frames.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut state.ends)
    }

    /// Frames waiting; those in a writer's batch are not among them.
    pub(super) fn len(&self) -> usize {
        lock(&self.state).frames.len()
    }

    /// From here on only this connection writes. What waits was for another one: it is dropped, and how much that was
    /// returned.
    pub(super) fn choose(&self, conn: Conn, connection: ConnectionId) -> usize {
        let mut state = lock(&self.state);
        if state.chosen == Some((conn, connection)) {
            return 0;
        }
        state.chosen = Some((conn, connection));
        // At once: what is pushed next is not for the one that writes now.
        state.owner = Some(connection);
        state.wanted = false;
        let dropped = std::mem::take(&mut state.frames).len();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        dropped
    }

    pub(super) fn chosen(&self) -> Option<ConnectionId> {
        lock(&self.state).chosen.map(|(_, connection)| connection)
    }

    /// The connection closed: if it was chosen, none is, and what waits for it is dropped.
    pub(super) fn closed(&self, connection: ConnectionId) -> usize {
        let mut state = lock(&self.state);
        if state.chosen.is_none_or(|(_, chosen)| chosen != connection) {
            return 0;
        }
        state.chosen = None;
        std::mem::take(&mut state.frames).len()
    }

    /// Makes a connection (or none) the writer.
    pub(super) fn assign(&self, owner: Option<ConnectionId>) {
        let mut state = lock(&self.state);
        state.owner = owner;
        // The next push is to ask for a connection, unless frames already wait for one.
        state.wanted = owner.is_none() && !state.frames.is_empty();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// The next batch for `writer`: at least one frame, then as many as fit into `bytes` and a quarter of the queue.
    /// A short queue is short because somebody wants to know at once that frames don't leave: so one at a time.
    pub(super) fn poll_take(&self, writer: ConnectionId, bytes: usize, cx: &mut Context<'_>) -> Poll<Taken> {
        let mut state = lock(&self.state);
        if state.closed || state.owner != Some(writer) {
            return Poll::Ready(Taken::Revoked);
        }
        let mut room = bytes;
        let mut count = 0;
        for frame in state.frames.iter().take((self.capacity / 4).max(1)) {
            if count > 0 && frame.len() > room {
                break;
            }
            room = room.saturating_sub(frame.len());
            count += 1;
        }
        if count == 0 {
            set_waker(&mut state.waker, cx);
            return Poll::Pending;
        }
        Poll::Ready(Taken::Frames(state.frames.drain(..count).collect()))
    }

    /// Ready when there is something for `writer` to do: a frame, or to stop.
    pub(super) fn poll_any(&self, writer: ConnectionId, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.closed || state.owner != Some(writer) || !state.frames.is_empty() || !state.ends.is_empty() {
            return Poll::Ready(());
        }
        set_waker(&mut state.waker, cx);
        Poll::Pending
    }

    pub(super) fn is_writer(&self, writer: ConnectionId) -> bool {
        let state = lock(&self.state);
        !state.closed && state.owner == Some(writer)
    }

    /// Puts frames that `writer` took but didn't send back to the front, over the bound if need be. Returns how many
    /// nobody will send any more.
    pub(super) fn give_back(&self, writer: ConnectionId, frames: Vec<Frame>) -> usize {
        let mut state = lock(&self.state);
        let of_another = state.chosen.is_some_and(|(_, chosen)| chosen != writer);
        if state.closed || of_another {
            return frames.len();
        }
        for frame in frames.into_iter().rev() {
            state.frames.push_front(frame);
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        0
    }

    /// Drops what waits and returns how many frames that was.
    pub(super) fn clear(&self) -> usize {
        let mut state = lock(&self.state);
        state.wanted = false;
        state.ends.clear();
        std::mem::take(&mut state.frames).len()
    }

    /// [Clears](Self::clear) and takes no more.
    pub(super) fn close(&self) -> usize {
        let mut state = lock(&self.state);
        state.closed = true;
        state.ends.clear();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        std::mem::take(&mut state.frames).len()
    }
}

/// Has the task woken by the next change.
pub(super) fn set_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
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
    fn only_the_owner_takes_and_frames_given_back_go_first() {
        let (queue, waker) = (SendQueue::new(8), noop_waker());
        let cx = &mut Context::from_waker(&waker);
        let (a, b) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        assert_eq!(queue.push(frame(0), None, false).unwrap(), Pushed::WakeBehaviour);
        assert_eq!(queue.push(frame(1), None, false).unwrap(), Pushed::Connected);
        queue.push(frame(2), None, false).unwrap();
        queue.assign(Some(a));
        assert!(matches!(queue.poll_take(b, 100, cx), Poll::Ready(Taken::Revoked)));
        let Poll::Ready(Taken::Frames(taken)) = queue.poll_take(a, 100, cx) else {
            panic!()
        };
        assert_eq!(taken, [frame(0), frame(1)], "a quarter of the queue");
        queue.assign(Some(b));
        queue.give_back(a, taken);
        let Poll::Ready(Taken::Frames(taken)) = queue.poll_take(b, 4, cx) else {
            panic!()
        };
        assert_eq!(taken, [frame(0)], "four bytes");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.close(), 2);
        assert_eq!(
            queue.push(frame(3), None, false).unwrap_err(),
            (SendError::UnknownPeer, frame(3))
        );
    }

    #[test]
    fn of_many_frames_those_are_taken_for_which_there_is_room() {
        let queue = SendQueue::new(4);
        let mut frames: Vec<Frame> = (0..6).map(frame).collect();
        assert_eq!(
            queue.push_many(&mut frames, 6, true).unwrap_err(),
            SendError::Disconnected
        );
        queue.assign(Some(ConnectionId::new_unchecked(1)));
        assert_eq!(
            queue.push_many(&mut frames, 3, true).unwrap(),
            (3, Pushed::Connected)
        );
        assert_eq!(
            queue.push_many(&mut frames, 3, true).unwrap(),
            (1, Pushed::Connected)
        );
        assert_eq!(
            queue.push_many(&mut frames, 2, true).unwrap_err(),
            SendError::Full
        );
        assert_eq!(frames, [frame(4), frame(5)], "the rest, in order");
        assert_eq!(queue.len(), 4);
    }

    #[test]
    fn what_was_meant_for_one_connection_leaves_by_no_other() {
        let (queue, waker) = (SendQueue::new(8), noop_waker());
        let cx = &mut Context::from_waker(&waker);
        let (a, b) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        assert_eq!(
            queue.push(frame(0), Some(Conn(1)), false).unwrap_err(),
            (SendError::Disconnected, frame(0)),
            "not chosen"
        );
        queue.choose(Conn(1), a);
        queue.assign(Some(a));
        queue.push(frame(1), Some(Conn(1)), false).unwrap();
        let Poll::Ready(Taken::Frames(taken)) = queue.poll_take(a, 100, cx) else {
            panic!()
        };
        queue.push(frame(2), Some(Conn(1)), false).unwrap();
        assert_eq!(queue.choose(Conn(2), b), 1, "the frame that waits");
        queue.push(frame(4), Some(Conn(2)), false).unwrap();
        assert!(matches!(queue.poll_take(a, 100, cx), Poll::Ready(Taken::Revoked)));
        assert_eq!(queue.give_back(a, taken), 1, "and the one under way");
        queue.push(frame(3), Some(Conn(2)), false).unwrap();
        assert_eq!(queue.closed(a), 0);
        assert_eq!(queue.closed(b), 2);
        assert_eq!(
            queue.push(frame(3), Some(Conn(2)), false).unwrap_err().0,
            SendError::Disconnected
        );
    }

    #[test]
    fn a_full_queue_gives_the_frame_back() {
        let queue = SendQueue::new(2);
        queue.push(frame(0), None, false).unwrap();
        queue.push(frame(1), None, false).unwrap();
        assert_eq!(
            queue.push(frame(2), None, false).unwrap_err(),
            (SendError::Full, frame(2))
        );
        assert_eq!(queue.clear(), 2);
        assert_eq!(
            queue.push(frame(2), None, false).unwrap(),
            Pushed::WakeBehaviour,
            "asks again after a failed dial"
        );
    }
}
