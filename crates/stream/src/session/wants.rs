//! What a session would do with slots, and when it may not send.

use mizzle_base::Time;

use super::stream::Opening;
use super::{ClientSide, ReplyDemand, Role, Session, State, Wants};
use crate::tag::{FIRST_TRANSPORT, ahead};

impl Session {
    /// What the session would do with slots.
    #[must_use]
    pub fn wants(&self, now: Time) -> Wants {
        let now = self.at(now);
        if self.state == State::Closed {
            return Wants::default();
        }
        let Role::Client(side) = &self.role else {
            return Wants {
                data: self.has_data(),
                repeat: self.arq.is_flying(),
                replies: ReplyDemand::None,
            };
        };
        if side.keys.is_empty() {
            let replies = if self.may_try(side, now) {
                ReplyDemand::Active
            } else {
                ReplyDemand::None
            };
            return Wants {
                replies,
                ..Wants::default()
            };
        }
        let closing = self.state != State::Open;
        let free = !self.in_reserve();
        let replies = if closing
            || (self.streams.is_empty() && !self.arq.is_flying() && side.backlog.1 == 0)
            || !(free || self.reserve_due(side, now))
        {
            ReplyDemand::None
        } else if side.backlog.1 > 0
            || self.arq.is_flying()
            || self.content_at.is_some_and(|at| now < at + self.params.round())
            || self
                .streams
                .values()
                .any(|s| matches!(s.opening, Opening::Until(_)))
            || self.has_data()
        {
            ReplyDemand::Active
        } else {
            ReplyDemand::Idle
        };
        Wants {
            // With live streams acknowledgements ride on reply slots; the last ones need a slot of their own.
            data: free && (closing || self.has_data() || (self.ack_owed && self.streams.is_empty())),
            repeat: free && (self.arq.is_flying() || self.window.has_news()),
            replies,
        }
    }

    /// What an exit says waits for SURBs: bytes, and control frames as one each.
    pub(super) fn waiting(&self) -> u64 {
        self.backlog()
            + self
                .streams
                .values()
                .filter(|stream| stream.control_open())
                .count() as u64
    }

    fn has_data(&self) -> bool {
        self.streams
            .values()
            .any(|s| s.control_due() || s.send.lost().is_some() || s.send.new_data().is_some())
    }

    /// Counters that may be used before the exit is known to have moved its tags on.
    fn counters_left(&self) -> u64 {
        let known = self.highest_known();
        (known + ahead(known) + 1).saturating_sub(self.arq.next())
    }

    fn highest_known(&self) -> u64 {
        self.arq.largest_acked().unwrap_or(0).max(FIRST_TRANSPORT - 1)
    }

    /// The last quarter of the tag window is kept: packets with SURBs go out of it one by one until the exit answers or
    /// counts as dead. Without it a silence of some seconds would be for ever.
    pub(super) fn in_reserve(&self) -> bool {
        self.counters_left() <= ahead(self.highest_known()) / 4
    }

    pub(super) fn reserve_due(&self, side: &ClientSide, now: Time) -> bool {
        let steps = u32::try_from(ahead(self.highest_known()) / 4).unwrap_or(1);
        self.counters_left() > 0
            && side
                .reserve_at
                .is_none_or(|at| at + self.params.dead_after / steps.max(1) <= now)
    }

    pub(super) fn may_try(&self, side: &ClientSide, now: Time) -> bool {
        self.state == State::Open
            && !self.streams.is_empty()
            && u64::from(side.tries) < FIRST_TRANSPORT
            && side.retry_at <= now
    }
}
