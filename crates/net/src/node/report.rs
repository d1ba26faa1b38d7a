//! What a node tells: its owner how it is ([`Snapshot`]), and all gateways what its loops tell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::SigningKey;
use mizzle_base::{Counters, Document, NodeId, Time};
use mizzle_mix::{Alarms, Lateness};
use mizzle_traffic::estimate::Estimate;
use mizzle_traffic::ledger::Tally;
use mizzle_traffic::weights::{self, Report};

use super::{Node, peer_of};
use crate::host::Link;

/// What a node has done so far.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counters of all its cores; those of gateway and exit begin with their names.
    pub counters: Counters,
    /// Its loops.
    pub loops: Tally,
    /// How much later than their delays packets left.
    pub late: Lateness,
    /// How it stands with its alarm.
    pub alarms: Alarms,
    /// What its loops tell of each node, of late.
    pub estimates: BTreeMap<NodeId, Estimate>,
    /// Packets held.
    pub pool: usize,
    /// Packets accepted under its key, and how many may be. At the end of these nothing more is accepted:
    /// the key has ended, and only a new one helps.
    pub accepted: usize,
    /// See `accepted`.
    pub accepted_most: usize,
    /// The key has ended.
    pub key_has_ended: bool,
    /// The network document that it goes by, in the epoch that it is.
    pub document: Option<Arc<Document>>,
    /// Clients linked.
    pub clients: usize,
    /// What only a gateway has.
    pub gateway: Option<GatewaySnapshot>,
}

/// How a gateway is.
#[derive(Clone, Copy, Debug, Default)]
pub struct GatewaySnapshot {
    /// Most clients that may be linked.
    pub capacity: usize,
    /// Mailboxes, of clients that are here or away.
    pub mailboxes: usize,
    /// Pieces of letters that wait in them, of [`mizzle_base::item::ITEM_LEN`] bytes each.
    pub mail_items: u64,
    /// Replies that wait in memory, and how many may.
    pub replies: (usize, usize),
    /// Users of the network, as far as this gateway can tell: the mean, and what they are at least.
    pub users: Option<(f64, f64)>,
}

/// Looks at a node while it runs.
#[derive(Clone)]
pub struct Observer(pub(super) Arc<Mutex<Snapshot>>);

impl Observer {
    /// What it has done, as of within the last second or so.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a node publishes what its loops tell.
pub(super) struct Reporting {
    pub(super) identity: SigningKey,
    /// To the gateways' directories; a gateway that has one itself speaks through that.
    pub(super) link: Option<Link>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Warned {
    Nothing,
    NearlyFull,
    Ended,
    Over,
}

impl Node {
    /// Tells all gateways what its loops tell.
    fn tell_gateways(&mut self, now: Time) {
        self.reports.expire(now);
        let Some(Reporting { identity, link }) = &self.reporting else {
            return;
        };
        let bytes = Report::sign(&self.document, identity, now, &self.loops.said(now));
        let own = self.gateway.as_ref().map(|g| &g.directory.control);
        let Some(control) = own.or(link.as_ref().map(|link| &link.control)) else {
            return;
        };
        let frame = crate::directory::published(&bytes);
        for gateway in self.document.gateways() {
            if gateway.id == self.loops.node().id {
                continue;
            }
            let Some(peer) = peer_of(gateway) else { continue };
            // Known already, mostly. One that is away hears the next one.
            control.add_peer(
                peer,
                gateway.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            );
            if control.try_send(&peer, frame.clone()).is_err() {
                self.counters.count("reports.not_sent");
            }
        }
        if self.gateway.is_some()
            && let Ok(report) = Report::verify(&bytes, &self.document, now)
        {
            self.reports.add(report);
        }
    }

    pub(super) fn publish(&mut self) {
        let now = self.clock.now();
        let has_news = self.told_down != *self.loops.down();
        let waited = now.since(self.estimated);
        if waited >= weights::EVERY || (has_news && waited >= weights::SOONEST) {
            self.estimated = now;
            self.told_down.clone_from(self.loops.down());
            self.estimates = self.loops.estimates(now);
            self.tell_gateways(now);
        }
        let report = self.pipeline.report();
        let key = self.keys.first().map(|(_, key)| key);
        self.counters.merge(&self.loops.take_counters());
        let mut snapshot = Snapshot {
            counters: self.counters.clone(),
            loops: self.loops.tally(),
            late: report.late,
            alarms: self.loops.alarms(),
            estimates: self.estimates.clone(),
            pool: report.pool,
            accepted: key.map_or(0, |key| key.accepted()),
            accepted_most: key.map_or(0, |key| key.most()),
            key_has_ended: key.is_none_or(|key| key.has_ended()),
            document: Some(Arc::clone(&self.document)),
            clients: 0,
            gateway: None,
        };
        snapshot.counters.merge(&report.counters);
        if let Some(parts) = &self.gateway {
            snapshot.clients = parts.core.linked();
            let (mailboxes, mail_items) = parts.core.mailboxes();
            snapshot.gateway = Some(GatewaySnapshot {
                capacity: parts.core.capacity(),
                mailboxes,
                mail_items,
                replies: parts.core.replies(),
                users: parts.core.users(),
            });
            snapshot.counters.merge(parts.core.counters());
            for exit in [&parts.exit, &parts.mail].into_iter().flatten() {
                snapshot.counters.merge(exit.counters());
            }
        }
        self.warn(&snapshot);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    /// Tells the operator of the key's end, and before.
    fn warn(&mut self, snapshot: &Snapshot) {
        let (accepted, most) = (snapshot.accepted, snapshot.accepted_most);
        let state = if self.keys.is_empty() {
            Warned::Over
        } else if snapshot.key_has_ended {
            Warned::Ended
        } else if accepted >= most - most / 10 {
            Warned::NearlyFull
        } else {
            Warned::Nothing
        };
        if state <= self.warned {
            return;
        }
        self.warned = state;
        match state {
            Warned::Nothing => {}
            Warned::Over => tracing::error!(
                "the last key epoch of the network document is over, so no packets are accepted: a newer document is needed \
                 (`mizzle network renew` makes it)"
            ),
            Warned::NearlyFull => tracing::warn!(
                "{accepted} packets were accepted under this node's Sphinx key, of {most} at most: if they \
                 come before its epoch is over it needs a new key (`mizzle network rekey`), or more room (`replay_mb` in its configuration)"
            ),
            Warned::Ended => tracing::error!(
                "this node's Sphinx key has ended: there is no room to remember more than {most} packets, so no more are \
                 accepted until the next epoch. Give it a new key with `mizzle network rekey`, or more room with `replay_mb` in its configuration"
            ),
        }
    }
}
