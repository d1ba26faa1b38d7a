//! What a link is and how much memory it may take. The numbers are read by the other files; nothing acts here.

use libp2p::StreamProtocol;
use std::time::Duration;

/// Which frame lengths a link carries. What one end sends, the other must accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameLen {
    /// Every frame has exactly this many bytes; any other length prefix closes the stream.
    Exact(usize),
    /// Frames have at most this many bytes, zero included; a larger length prefix closes the stream.
    AtMost(usize),
}

impl FrameLen {
    /// The longest frame, in bytes.
    #[must_use]
    pub fn max(self) -> usize {
        match self {
            Self::Exact(len) | Self::AtMost(len) => len,
        }
    }

    /// Whether a frame of `len` bytes may be carried.
    #[must_use]
    pub fn allows(self, len: usize) -> bool {
        match self {
            Self::Exact(exact) => len == exact,
            Self::AtMost(most) => len <= most,
        }
    }
}

/// A header of more than 255 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a link header has at most 255 bytes, this one {0}")]
pub struct HeaderTooLong(pub usize);

/// Settings of one link. Protocol, header and frame length must be equal at both ends.
///
/// Worst-case memory, with F the longest frame, P peers, C connections and the defaults:
/// outbound P × (256 F + one write batch of max(F, 64 KiB) twice); inbound 1024 F in the receive queue and
/// 8 F per connected peer in the readers (a peer takes one F per stream with a two-byte prefix, so this is what an
/// attacker can hold). For 4608-byte frames that is 1.3 MB per peer that we send to and that does not read, 4.7 MB
/// for the receive queue and 37 KB per connected peer.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) protocol: StreamProtocol,
    pub(super) header: Vec<u8>,
    pub(super) frame_len: FrameLen,
    pub(super) send_frame_len: FrameLen,
    pub(super) send_queue_len: usize,
    pub(super) receive_queue_len: usize,
    pub(super) max_inbound_streams_per_peer: usize,
    pub(super) stall_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) redial_min: Duration,
    pub(super) redial_max: Duration,
    pub(super) max_peers: usize,
    pub(super) inbound_from_unknown: bool,
    pub(super) frames_kept: bool,
}

impl Config {
    /// A link that speaks `protocol` without a header, with frames of this length both ways.
    #[must_use]
    pub fn new(protocol: StreamProtocol, frame_len: FrameLen) -> Self {
        Self {
            protocol,
            header: Vec::new(),
            frame_len,
            send_frame_len: frame_len,
            send_queue_len: 256,
            receive_queue_len: 1024,
            max_inbound_streams_per_peer: 8,
            stall_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            redial_min: Duration::from_millis(500),
            redial_max: Duration::from_secs(30),
            max_peers: 4096,
            inbound_from_unknown: true,
            frames_kept: true,
        }
    }

    /// Bytes that open every stream, before the first frame; a stream with other ones is closed and counted. Empty
    /// (the default): nothing is written and nothing expected, as in `/mix/1.0.0`.
    ///
    /// # Errors
    /// More than 255 bytes.
    pub fn with_header(mut self, header: impl Into<Vec<u8>>) -> Result<Self, HeaderTooLong> {
        let header = header.into();
        if header.len() > usize::from(u8::MAX) {
            return Err(HeaderTooLong(header.len()));
        }
        self.header = header;
        Ok(self)
    }

    /// Another protocol name.
    #[must_use]
    pub(crate) fn with_protocol(mut self, protocol: StreamProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Another length for the frames of both directions.
    #[must_use]
    pub(crate) fn with_frame_len(mut self, frame_len: FrameLen) -> Self {
        self.frame_len = frame_len;
        self.send_frame_len = frame_len;
        self
    }

    /// Another length for the frames that we send, as of a server with long answers to short questions.
    #[must_use]
    pub fn with_send_frame_len(mut self, frame_len: FrameLen) -> Self {
        self.send_frame_len = frame_len;
        self
    }

    /// Frames that wait for one peer, at least 1; default 256. What exceeds it is handed back by
    /// [`try_send`](super::Control::try_send). The writer takes at most a quarter of it (one frame at least) ahead
    /// of what the transport has taken, and adds that to the memory.
    #[must_use]
    pub fn with_send_queue_len(mut self, frames: usize) -> Self {
        self.send_queue_len = frames.max(1);
        self
    }

    /// Events that wait for the [`Receiver`](super::Receiver), at least 1; default 1024. When it is full no stream
    /// is read until half of it is free again.
    #[must_use]
    pub fn with_receive_queue_len(mut self, events: usize) -> Self {
        self.receive_queue_len = events.max(1);
        self
    }

    /// Streams that one peer may hold open to us, over all its connections; default 8. A further one is counted and takes the
    /// place of the one on its connection that has been silent longest after a frame; where there is none, it is refused.
    #[must_use]
    pub fn with_max_inbound_streams_per_peer(mut self, streams: usize) -> Self {
        self.max_inbound_streams_per_peer = streams;
        self
    }

    /// A write that makes no progress for this long (looked at once per period, so up to twice as long) has its
    /// stream closed and opened again once; default 10 s. A second failure within five seconds of the reopening
    /// gives the peer's queue up and closes the connection, with what other protocols have on it. A peer that does not read is a stall too: choose it longer than any pause of a
    /// healthy receiver.
    #[must_use]
    pub fn with_stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// How long the negotiation of a stream and, for the accepting side, its header may take; default 10 s. How long
    /// a dial may take is the transport's setting.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The pause after a failed dial or stream: `min`, doubled with each failure in a row up to `max`; default 0.5 s
    /// and 30 s. Frames sent in between wait for it, as far as the queue has room.
    #[must_use]
    pub fn with_redial(mut self, min: Duration, max: Duration) -> Self {
        self.redial_min = min;
        self.redial_max = max.max(min);
        self
    }

    /// Peers in the table, those added and those that opened a stream to us together; default 4096. More are
    /// refused and counted. The latter count until their connection closes, so a server has to allow as many as may
    /// be connected.
    #[must_use]
    pub fn with_max_peers(mut self, peers: usize) -> Self {
        self.max_peers = peers;
        self
    }

    /// Whether peers that were not [added](super::Control::add_peer) may open streams to us; default yes. They are
    /// forgotten when they disconnect. If not, their streams are refused and counted.
    #[must_use]
    pub fn with_inbound_from_unknown(mut self, accept: bool) -> Self {
        self.inbound_from_unknown = accept;
        self
    }

    /// Whether frames wait for a peer's next connection; default yes. If not, those that wait when its last one closes are
    /// dropped and counted, and while a peer that is to be [connected](super::Control::connect) isn't, frames for it are
    /// handed back: where each belongs to a moment, old ones would only stand before the new ones.
    #[must_use]
    pub fn with_frames_kept(mut self, kept: bool) -> Self {
        self.frames_kept = kept;
        self
    }
}
