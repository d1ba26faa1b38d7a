//! All that happens by time alone.

use mizzle_base::Time;

use super::stream::Opening;
use super::{CloseReason, Event, Role, Session, Stall, State, StreamId};
use crate::arq::Outcome;
use crate::door::OpenError;

/// Packets with SURBs that must be unanswered before an exit can count as dead: fewer may be lost by chance.
const DEAD_PACKETS: u32 = 4;

impl Session {
    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.own_deadline().map(|at| at - self.offset)
    }

    fn own_deadline(&self) -> Option<Time> {
        let mut at = match self.state {
            State::Closed => return None,
            State::Closing { until, .. } => return Some(until),
            State::Open => self.idle_at(),
        };
        if let Some(probe) = self.arq.deadline()
            && self.is_established()
        {
            at = at.min(probe);
        }
        if let Some(dead) = self.dead_at() {
            at = at.min(dead);
        }
        if let Some(linger) = self.linger_at() {
            at = at.min(linger);
        }
        for stream in self.streams.values() {
            if let Opening::Until(until) = stream.opening
                && stream.is_live()
            {
                at = at.min(until);
            }
        }
        Some(at)
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        let now = self.tick(now);
        match self.state {
            State::Closed => return,
            State::Closing { until, reason, .. } => {
                if until <= now {
                    self.closed(reason);
                }
                return;
            }
            State::Open => {}
        }
        if self.idle_at() <= now || self.dead_at().is_some_and(|at| at <= now) {
            // A session without streams that comes to its end keeps nobody waiting.
            if !self.streams.is_empty() {
                self.events.push_back(Event::Stalled(Stall::Silence));
            }
            return self.closed(CloseReason::Timeout);
        }
        self.fail_openings(now);
        // An exit that never answered keeps nothing that another opening could use.
        if let Role::Client(side) = &self.role
            && side.keys.is_empty()
            && side.tries > 0
            && self.streams.is_empty()
        {
            return self.closed(CloseReason::Timeout);
        }
        if self.linger_at().is_some_and(|at| at <= now) {
            return self.close_with(now, CloseReason::Idle);
        }
        if self.is_established() {
            let mut outcome = Outcome::default();
            self.arq.handle_timeout(now, &mut outcome);
            if outcome.lost_packets > 0 {
                self.events.push_back(Event::Stalled(Stall::Probe));
            }
            self.apply(outcome);
        }
    }

    fn fail_openings(&mut self, now: Time) {
        let late = |opening: &Opening| matches!(opening, Opening::Until(at) if *at <= now);
        let ids: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, s)| s.is_live() && late(&s.opening))
            .map(|(&id, _)| id)
            .collect();
        let established = self.is_established();
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            self.events.push_back(Event::Stalled(Stall::Opening));
            let announced = stream.target.is_some();
            match self.role {
                Role::Client(_) => {
                    stream.abort(Self::RESET_TIMEOUT);
                    self.events
                        .push_back(Event::OpenFailed(StreamId(id), OpenError::Timeout));
                    if !established {
                        self.remove(id);
                    }
                }
                Role::Exit(_) if announced => {
                    self.open_failed(StreamId(id), OpenError::Timeout);
                    self.events
                        .push_back(Event::Reset(StreamId(id), Self::RESET_TIMEOUT));
                }
                Role::Exit(_) => stream.abort(Self::RESET_TIMEOUT),
            }
        }
    }

    fn idle_at(&self) -> Time {
        let wait = match &self.role {
            // An attempt that its client made no use of: it has another one, or is gone.
            Role::Exit(side) if !side.confirmed => self.params.open_timeout * 2,
            _ => self.params.idle_after,
        };
        self.last_received + wait
    }

    fn dead_at(&self) -> Option<Time> {
        let Role::Client(side) = &self.role else {
            return None;
        };
        let (since, packets) = side.unanswered?;
        (packets >= DEAD_PACKETS && !self.streams.is_empty()).then(|| since + self.params.dead_after)
    }

    /// Only the client closes for want of streams: it alone opens them.
    fn linger_at(&self) -> Option<Time> {
        let Role::Client(_) = self.role else { return None };
        self.without_stream.map(|at| at + self.params.linger)
    }
}
