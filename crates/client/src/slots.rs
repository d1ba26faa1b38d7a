//! What leaves in a client's slots: each has a packet of its kind to its gateway, whether there is something to say or not, built
//! ahead of its time. When slots are, for which gateway and of which kind, [`mizzle_traffic::slot`] has drawn before anything of the
//! user's is looked at.

use std::sync::Arc;
use std::time::Duration;

use mizzle_base::document::Node;
use mizzle_base::frame::{self, Content, Frame};
use mizzle_base::profile::SURBS_PER_REPLY_SLOT;
use mizzle_base::{ClientTag, MailboxId, NodeId, Time};
use mizzle_sphinx::{Dialect, MAX_BODY_LEN, MESSAGE_LEN, Packet, SURB_LEN, pad_in_place, use_surb};
use mizzle_stream::CODEC_STREAM;
use mizzle_traffic::draw;
use mizzle_traffic::slot::{Kind, Slot, What};
use rand_core::Rng as _;

use crate::ahead::OnTheWay;
use crate::sessions::Speaks;
use crate::surbs::Owner;
use crate::{Client, Link, Ready};

/// How long before its slot a packet is built. Data that comes later waits for another slot.
pub(crate) const LEAD: Duration = Duration::from_millis(5);
/// A slot served later than this is left out: a burst after a pause would tell of the pause.
const TOO_LATE: Duration = Duration::from_secs(1);

impl Client {
    /// Builds the packets of slots that come within [`LEAD`], and sends those whose time is now.
    pub(crate) fn serve_slots(&mut self, now: Time) {
        loop {
            let Link::Up { tag, slots, .. } = &mut self.link else {
                return;
            };
            // Only a pattern with danger in its name looks at what waits.
            if slots.may_hurry_at().is_some() && self.sessions.waits(now) {
                slots.hurry(now + LEAD);
            }
            let next_at = slots.next_at();
            // Nothing is later than `FAR_FUTURE`, so the slot after it would be at it again, for ever.
            if next_at - LEAD > now || next_at == Time::FAR_FUTURE {
                break;
            }
            if now.since(next_at) > TOO_LATE {
                slots.skip_to(now);
                self.counters.count("slot.pause");
                continue;
            }
            let (tag, slot) = (*tag, slots.draw());
            self.prepare(now, tag, slot);
            if slot.at <= now {
                self.counters.count("slot.unready");
            }
        }
        while self.ready.front().is_some_and(|r| r.at <= now) {
            let Some(mut next) = self.ready.pop_front() else {
                break;
            };
            if now.since(next.at) > TOO_LATE {
                self.counters.count("slot.late");
                continue;
            }
            frame::set_acks(&mut next.frame, self.expected.1, self.mail.kept);
            self.send(next.frame);
        }
    }

    fn prepare(&mut self, now: Time, tag: ClientTag, slot: Slot) {
        let mut packet = Packet::zeroed();
        let built = match slot.what {
            What::Loop => self.build_loop(slot.at, tag, &mut packet),
            What::Drop(gateway) => self.build_message(now, tag, gateway, Kind::Data, false, &mut packet),
            What::Payload(gateway, kind) => self.build_message(now, tag, gateway, kind, true, &mut packet),
        };
        if built.is_none() {
            // Can't happen with a verified document; if it does, the slot stays empty and this says so.
            return self.counters.count("slot.unbuilt");
        }
        let content = Content::Packet(packet);
        self.ready.push_back(Ready {
            at: slot.at,
            frame: frame::encode(&Frame {
                ack: 0,
                seq: 0,
                content,
            }),
        });
    }

    fn build_loop(&mut self, at: Time, tag: ClientTag, packet: &mut Packet) -> Option<()> {
        let random = draw::bytes(&mut self.rng);
        let OnTheWay { prepared, mixes } =
            self.ahead
                .take(&self.document, &self.gateway, &self.gateway, &self.avoid)?;
        let delay_ms = prepared.delay_ms();
        let (surb, _) = prepared.into_surb(&mut self.rng, &tag.reply_id(random)).ok()?;
        let mut message = [0; MESSAGE_LEN];
        self.rng.fill_bytes(&mut message);
        use_surb(Dialect::Lioness, surb, &message, packet);
        self.loops.sent_along(at, random, delay_ms, mixes);
        self.counters.count("slot.loop");
        Some(())
    }

    /// A packet to `gateway`: of a session that has something to say there, else a drop of the same kind.
    fn build_message(
        &mut self,
        now: Time,
        tag: ClientTag,
        gateway: NodeId,
        kind: Kind,
        may_speak: bool,
        packet: &mut Packet,
    ) -> Option<()> {
        let speaker = if may_speak {
            self.sessions.pick(now, gateway, kind)
        } else {
            None
        };
        let document = Arc::clone(&self.document);
        let last = document.node(&gateway)?;
        let mut surbs = Vec::new();
        if kind == Kind::Reply {
            let owner = speaker
                .as_ref()
                .map_or(Owner::Drop, |s| Owner::Session(s.session));
            surbs = self.build_surbs(now, tag, last, owner)?;
        }
        let body = pad_in_place(MAX_BODY_LEN, packet.message_mut());
        let destination = match speaker {
            Some(Speaks { session, mailbox }) if self.sessions.fill(now, session, &surbs, &mut body[1..]) => {
                body[0] = CODEC_STREAM;
                self.counters.count(if kind == Kind::Data {
                    "slot.data"
                } else {
                    "slot.reply_data"
                });
                mailbox
            }
            _ => {
                self.rng.fill_bytes(body);
                body[0] = if kind == Kind::Reply {
                    SURBS_PER_REPLY_SLOT as u8
                } else {
                    0
                };
                body[1..=surbs.len()].copy_from_slice(&surbs);
                self.counters.count(if kind == Kind::Data {
                    "slot.drop"
                } else {
                    "slot.reply_drop"
                });
                MailboxId::DROP
            }
        };
        let prepared = self
            .ahead
            .take(&document, &self.gateway, last, &self.avoid)?
            .prepared;
        prepared.seal(&destination.to_address(), packet);
        Some(())
    }

    /// SURBs for a packet to `holder`.
    fn build_surbs(&mut self, now: Time, tag: ClientTag, holder: &Node, owner: Owner) -> Option<Vec<u8>> {
        let mut out = vec![0; SURBS_PER_REPLY_SLOT * SURB_LEN];
        for chunk in out.chunks_exact_mut(SURB_LEN) {
            let random = draw::bytes(&mut self.rng);
            let prepared = self
                .ahead
                .take(&self.document, holder, &self.gateway, &self.avoid)?
                .prepared;
            let (surb, keys) = prepared.into_surb(&mut self.rng, &tag.reply_id(random)).ok()?;
            surb.to_bytes(chunk.try_into().ok()?);
            self.surbs.insert(now, random, keys, owner);
        }
        Some(out)
    }
}
