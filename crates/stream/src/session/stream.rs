//! A stream within a session: its two halves, its opening, and the control frames that must arrive.

use core::time::Duration;

use mizzle_base::Time;

use super::types::Params;
use crate::bytestream::{RecvHalf, SendHalf};
use crate::door::{OpenError, Target};

/// A control frame that is sent until a packet with it is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pending {
    /// Nothing to send.
    Off,
    /// To be sent as soon as may be.
    Due,
    /// Sent then.
    Sent(Time),
    /// Acknowledged.
    Done,
}

impl Pending {
    /// Whether it should be in a packet now; one already sent goes again after `gap`, since it is small.
    pub(crate) fn goes(self, now: Time, gap: Duration) -> bool {
        match self {
            Self::Due => true,
            Self::Sent(at) => at + gap <= now,
            Self::Off | Self::Done => false,
        }
    }

    /// Whether an acknowledgement is awaited or nothing was sent yet.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Due | Self::Sent(_))
    }
}

/// How far the opening of a stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
    /// Fails at this time.
    Until(Time),
    Open,
    Failed(OpenError),
}

pub(crate) struct Stream {
    pub(crate) opening: Opening,
    /// Where to; at the exit once OPEN came (data may come before it).
    pub(crate) target: Option<Target>,
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
    /// OPEN, of the client.
    pub(crate) open: Pending,
    /// OPENED or OPEN_FAILED, of the exit.
    pub(crate) result: Pending,
    pub(crate) max_data: Pending,
    /// RESET with its code; nothing else is sent or taken any more.
    pub(crate) reset: Option<(u8, Pending)>,
    /// The program was told that everything was acknowledged.
    pub(crate) delivered: bool,
}

impl Stream {
    pub(crate) fn new(params: &Params, now: Time) -> Self {
        Self {
            opening: Opening::Until(now + params.open_timeout),
            target: None,
            send: SendHalf::new(params.send_buffer),
            recv: RecvHalf::new(),
            open: Pending::Off,
            result: Pending::Off,
            max_data: Pending::Off,
            reset: None,
            delivered: false,
        }
    }

    /// Ends both directions and frees what they hold; only the RESET is left to be delivered.
    pub(crate) fn abort(&mut self, code: u8) {
        self.send = SendHalf::new(0);
        self.recv = RecvHalf::new();
        (self.open, self.result, self.max_data) = (Pending::Off, Pending::Off, Pending::Off);
        self.reset = Some((code, Pending::Due));
    }

    /// The program knows of it and may use it.
    pub(crate) fn is_live(&self) -> bool {
        self.reset.is_none() && !matches!(self.opening, Opening::Failed(_))
    }

    /// Nothing is left to do for it.
    pub(crate) fn is_over(&self) -> bool {
        if let Some((_, reset)) = self.reset {
            return reset == Pending::Done;
        }
        if self.open.is_open() || self.result.is_open() {
            return false;
        }
        match self.opening {
            Opening::Until(_) => false,
            Opening::Open => self.send.is_done() && self.recv.is_done() && self.recv.ended,
            Opening::Failed(_) => true,
        }
    }

    /// A control frame that ends or opens the stream is not acknowledged.
    pub(crate) fn control_open(&self) -> bool {
        self.result.is_open() || self.reset.is_some_and(|(_, pending)| pending.is_open())
    }

    /// A control frame waits to be sent for the first time.
    pub(crate) fn control_due(&self) -> bool {
        let reset = self.reset.map(|(_, pending)| pending);
        [self.open, self.result, self.max_data].contains(&Pending::Due) || reset == Some(Pending::Due)
    }
}
