//! What goes into a session and what comes out of it, but packets.

use core::time::Duration;

use bytes::Bytes;
use mizzle_base::{Document, NetworkId, NodeId};

use crate::bytestream::INITIAL_WINDOW;
use crate::door::{OpenError, Target};

/// What five links and the queues before them may add to a path.
const LINKS: Duration = Duration::from_millis(150);

/// What a session is told about the network, and its bounds.
///
/// Times follow from the network's profile; the bounds may differ between the two ends.
#[derive(Clone, Debug)]
pub struct Params {
    pub(crate) context: Vec<u8>,
    pub(crate) forward_q: Duration,
    pub(crate) reply_q: Duration,
    pub(crate) reply_due: Duration,
    pub(crate) stream_window: u64,
    pub(crate) session_window: u64,
    pub(crate) send_buffer: u64,
    pub(crate) max_streams: usize,
    pub(crate) open_timeout: Duration,
    pub(crate) dead_after: Duration,
    pub(crate) idle_after: Duration,
    pub(crate) linger: Duration,
}

impl Params {
    /// Parameters with default bounds.
    ///
    /// `context` binds the handshake (network id and exit id); `forward_q` and `reply_q` are the 0.999 quantiles of the
    /// way from client to exit and back, and `reply_due` is the mean time for which a SURB is held.
    #[must_use]
    pub fn new(context: &[u8], forward_q: Duration, reply_q: Duration, reply_due: Duration) -> Self {
        let round = forward_q + reply_q + reply_due;
        Self {
            context: context.to_vec(),
            forward_q,
            reply_q,
            reply_due,
            stream_window: 4 << 20,
            session_window: 16 << 20,
            send_buffer: 1 << 20,
            max_streams: 64,
            open_timeout: Duration::from_secs(30).max(round * 6),
            dead_after: Duration::from_secs(60).max(round * 12),
            idle_after: Duration::from_secs(600).max(round * 24),
            linger: Duration::from_secs(20).max(round * 4),
        }
    }

    /// What a handshake with the exit in `gateway` is bound to in an epoch.
    #[must_use]
    pub fn context_of(network: &NetworkId, epoch: u32, gateway: &NodeId) -> Vec<u8> {
        let mut context = network.as_bytes().to_vec();
        context.extend_from_slice(&epoch.to_be_bytes());
        context.extend_from_slice(gateway.as_bytes());
        context
    }

    /// Parameters for sessions with the exit in `gateway`, as they follow from the network's document.
    #[must_use]
    pub fn for_network(document: &Document, gateway: &NodeId) -> Self {
        let context = Self::context_of(&document.network(), document.epoch(), gateway);
        let profile = document.profile();
        // Four delaying hops each way; on the way back also the wait for a frame of the downlink.
        let path = profile.path_q999(4) + LINKS;
        let frame = Duration::from_secs_f64(2.0 / profile.downlink_per_s);
        let due = Duration::from_secs_f64(profile.reply_due_mean_ms / 1e3);
        let params = Self::new(&context, path, path + frame, due);
        // In `chat` the first packet waits long for a slot that takes SURBs along to this gateway: one in a thousand waits
        // longer than this.
        let weights: f64 = document.gateways().map(|g| g.weight).sum();
        let weight = document.node(gateway).map_or(0.0, |g| g.weight);
        let slots_per_s = profile.payload_per_s * profile.reply_fraction * weight / weights;
        let slot = Duration::from_secs_f64((6.9 / slots_per_s).min(600.0));
        let open_timeout = params.open_timeout.max(slot + params.round() * 6);
        params.with_open_timeout(open_timeout)
    }

    /// Bytes of one stream that may be on the way or wait to be read (default 4 MiB, at least [`INITIAL_WINDOW`]), and
    /// of all of a session (default 16 MiB). A session holds at most the latter and [`INITIAL_WINDOW`] for each stream.
    #[must_use]
    pub fn with_windows(mut self, stream: u64, session: u64) -> Self {
        self.stream_window = stream.max(INITIAL_WINDOW);
        self.session_window = session.max(self.stream_window);
        self
    }

    /// Bytes of one stream that are kept until acknowledged (default 1 MiB). A session holds at most that for each
    /// stream, and three times that for streams with many gaps.
    #[must_use]
    pub fn with_send_buffer(mut self, bytes: u64) -> Self {
        self.send_buffer = bytes.max(4_096);
        self
    }

    /// Most streams at a time (default 64; an exit allows twice as many, because it may learn later of an end).
    #[must_use]
    pub fn with_max_streams(mut self, streams: usize) -> Self {
        self.max_streams = streams.clamp(1, 1_024);
        self
    }

    /// When a stream that wasn't opened has failed (default 30 s, or six round trips if that is longer).
    #[must_use]
    pub fn with_open_timeout(mut self, time: Duration) -> Self {
        self.open_timeout = time;
        self
    }

    /// When a client gives up an exit that sends nothing on its SURBs (default 60 s, or twelve round trips).
    #[must_use]
    pub fn with_dead_after(mut self, time: Duration) -> Self {
        self.dead_after = time;
        self
    }

    /// For a client whose streams go on in another session where one broke off: it takes silence for the end after 15 s, or
    /// twelve round trips if that is longer.
    #[must_use]
    pub fn resumed_elsewhere(self) -> Self {
        let time = Duration::from_secs(15).max(self.round() * 12);
        self.with_dead_after(time)
    }

    /// When either end gives up a session in which nothing arrives (default 10 minutes, or 24 round trips).
    #[must_use]
    pub fn with_idle_after(mut self, time: Duration) -> Self {
        self.idle_after = time;
        self
    }

    /// How long a session without streams is kept for the next one (default 20 s, or four round trips).
    #[must_use]
    pub fn with_linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// Longest usual time from a packet to its acknowledgement, waiting for slots left out.
    pub(crate) fn round(&self) -> Duration {
        self.forward_q + self.reply_q + self.reply_due
    }
}

/// A stream within its session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub(crate) u64);

impl StreamId {
    /// Its number: the streams of a session are counted from 0.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

/// What happened in a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Client: the exit has connected.
    Opened(StreamId),
    /// Client: the exit has not connected; the stream is gone.
    OpenFailed(StreamId, OpenError),
    /// Exit: a stream is to be connected; answer with [`Session::opened`](super::Session::opened) or
    /// [`Session::open_failed`](super::Session::open_failed). Its first bytes may be there already.
    Incoming(StreamId, Target),
    /// There is something to read; told once, and again after a read that left nothing.
    Readable(StreamId),
    /// There is room again after a write that was cut short.
    Writable(StreamId),
    /// The peer finished and everything was read.
    Finished(StreamId),
    /// Everything written was acknowledged, and that there is no more. A stream is gone when it is finished and
    /// delivered.
    Delivered(StreamId),
    /// The stream was reset by the peer, or its session ended ([`Session::RESET_CLOSED`](super::Session::RESET_CLOSED));
    /// it is gone.
    Reset(StreamId, u8),
    /// Something that should have come did not; to be counted, under its [name](Stall::name).
    Stalled(Stall),
    /// The session is over and can be forgotten; the last event.
    Closed(CloseReason),
}

/// A wait that took longer than it should. Each ends by what is said here, so none lasts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stall {
    /// Client: no answer to an INITIAL in time; another goes out.
    Initial,
    /// Nothing was acknowledged in time; the oldest packets in flight are sent again.
    Probe,
    /// Client: the exit hasn't moved its tags on for so long that few are left; packets with SURBs go out one by one.
    Tags,
    /// A stream wasn't opened in time; it has failed.
    Opening,
    /// The other end is silent; the session is over and its streams have failed.
    Silence,
}

impl Stall {
    /// A name for counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initial => "stall.initial",
            Self::Probe => "stall.probe",
            Self::Tags => "stall.tags",
            Self::Opening => "stall.opening",
            Self::Silence => "stall.silence",
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u8)]
pub enum CloseReason {
    /// This end asked for it.
    #[error("closed")]
    Local = 0,
    /// The peer closed it.
    #[error("closed by the other end")]
    Peer = 1,
    /// It had no stream for long.
    #[error("closed because it had no stream")]
    Idle = 2,
    /// The peer is silent.
    #[error("the other end does not answer")]
    Timeout = 3,
    /// The peer broke the protocol.
    #[error("the other end broke the protocol")]
    Protocol = 4,
}

/// Why a packet was dropped. Each has a fixed [name](Self::name) to count it under; the sender never learns of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub enum DropReason {
    /// Shorter or longer than any packet.
    #[error("the packet has a wrong size")]
    Size,
    /// Not an INITIAL that this exit's key opens, nor a packet of a session.
    #[error("the packet belongs to no session and is no INITIAL")]
    Handshake,
    /// It doesn't open under its session's keys.
    #[error("the packet does not open")]
    Decrypt,
    /// Received before, or too old to tell.
    #[error("the packet was received before")]
    Replay,
    /// An INITIAL received before, or of a session that is over.
    #[error("the INITIAL was received before, or its session is over")]
    StaleInitial,
    /// Its content is not frames.
    #[error("the packet's content is damaged or of an unknown kind")]
    Frame,
    /// It breaks the protocol; the session ends.
    #[error("the packet breaks the protocol")]
    Protocol,
    /// The session is over.
    #[error("the packet's session is over")]
    Closed,
    /// No room for another session.
    #[error("there is no room for another session")]
    Full,
}

impl DropReason {
    /// A name for counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "session_drop_size",
            Self::Handshake => "session_drop_handshake",
            Self::Decrypt => "session_drop_decrypt",
            Self::Replay => "session_drop_replay",
            Self::StaleInitial => "session_drop_stale_initial",
            Self::Frame => "session_drop_frame",
            Self::Protocol => "session_drop_protocol",
            Self::Closed => "session_drop_closed",
            Self::Full => "session_drop_full",
        }
    }
}

/// What came with a packet besides what the session keeps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// Exit: SURBs back to back, each [`SURB_LEN`](super::SURB_LEN) bytes. Empty for a client.
    pub surbs: Bytes,
}

/// How much a reply slot would do for a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum ReplyDemand {
    /// Nothing, or it may not send now.
    #[default]
    None,
    /// A stream is live but quiet: an answer may come any time, and only a SURB can bring it.
    Idle,
    /// Something is known to wait for a SURB: an INITIAL to be sent, an opening, the exit's backlog, acknowledgements.
    Active,
}

/// What a session would do with slots now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wants {
    /// A slot without SURBs would carry something new or lost.
    pub data: bool,
    /// A slot that would else be a drop would carry something of use: a repeat or an acknowledgement.
    pub repeat: bool,
    /// What a slot with SURBs would do.
    pub replies: ReplyDemand,
}

/// What a session did, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Packets filled.
    pub packets_sent: u64,
    /// Packets received, dropped ones left out.
    pub packets_received: u64,
    /// Stream bytes sent for the first time.
    pub bytes_new: u64,
    /// Stream bytes sent again because they were lost.
    pub bytes_again: u64,
    /// Stream bytes repeated in room that had no other use.
    pub bytes_repeated: u64,
    /// Packets with content that were given up.
    pub packets_lost: u64,
    /// Of these, packets that arrived after all.
    pub packets_spurious: u64,
    /// Stream bytes received for the first time.
    pub bytes_received: u64,
    /// Stream bytes received again.
    pub bytes_duplicate: u64,
}
