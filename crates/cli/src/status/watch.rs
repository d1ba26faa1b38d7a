//! Who looks at a running client or node, and puts what it sees together when `mizzle status` asks.

use std::collections::VecDeque;
use std::sync::Arc;

use mizzle_base::document::Role;
use mizzle_base::item::ITEM_LEN;
use mizzle_base::{Document, NodeId, Time};
use mizzle_net::clock::Clock;
use mizzle_net::mail::{Mail, Stage};
use mizzle_net::{client, node};
use mizzle_traffic::anonymity::{self, Shape, Traffic};

use super::record::{Record, Warning};
use super::report::{all, losses, value};
use super::{
    Alarms, Anonymity, ClientStatus, GatewayMoved, GatewayStatus, Letters, Loops, Network, NodeStatus, Rates,
    Status, Stream, trouble,
};
use crate::assemble::role_name;

/// Looks at a running client, for `mizzle status`.
pub struct ClientWatch {
    document: Arc<Document>,
    observer: client::Observer,
    mail: Mail,
    min_pool: u64,
    clock: Clock,
    started: Time,
    record: Record,
}

impl ClientWatch {
    /// Begins to look. Must be called within a runtime.
    #[must_use]
    pub fn start(
        document: Arc<Document>,
        observer: client::Observer,
        mail: Mail,
        min_pool: u64,
        clock: Clock,
    ) -> Self {
        let (watched, letters) = (observer.clone(), mail.clone());
        let mut warning = Warning::default();
        let look = move || {
            let seen = watched.snapshot();
            // As long as nothing is known of others there is nothing to warn of.
            if let Some(outlook) = seen.outlook.filter(|_| seen.users.is_some()) {
                warning.look(outlook.pool);
            }
            let mut counters = seen.counters;
            counters.merge(&letters.counters());
            (counters, 0)
        };
        Self {
            record: Record::start(clock, look),
            started: clock.now(),
            document,
            observer,
            mail,
            min_pool,
            clock,
        }
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        const SENT: &[(&str, &[&str])] = &[
            ("data", &["slot.data"]),
            ("data with reply slots", &["slot.reply_data"]),
            ("drops", &["slot.drop", "slot.reply_drop"]),
            ("loops", &["slot.loop"]),
        ];
        const RECEIVED: &[(&str, &[&str])] = &[
            ("answers", &["reply.session"]),
            ("answers to drops", &["reply.filler"]),
            ("loops", &["loop.returned"]),
            ("letters", &["downlink.mail"]),
            ("fillers", &["downlink.filler"]),
        ];
        let now = self.clock.now();
        let (seen, mail, lately) = (
            self.observer.snapshot(),
            self.mail.status(),
            self.record.lately(now),
        );
        let mut counters = seen.counters.clone();
        counters.merge(&mail.counters);
        let document = seen.document.as_ref().unwrap_or(&self.document);
        let anonymity = Anonymity::of(document, seen.users.map(f64::from), None);
        let mut trouble = trouble::of_client(&counters, &lately);
        trouble.extend(trouble::of_clock(document, now));
        trouble.extend(mail.inbox_problem.clone().map(trouble::plain));
        let stream = |stream: &client::StreamSnapshot| Stream {
            open: stream.open,
            age_s: stream.age.as_secs_f64(),
            sent_bytes: stream.sent,
            received_bytes: stream.received,
        };
        value(&Status::Client(Box::new(ClientStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: now.since(self.started).as_secs(),
            network: Network::of(document, now),
            connected: seen.up,
            min_pool: self.min_pool,
            may_send: seen.may_send,
            anonymity,
            rates: Rates {
                over_s: lately.over_s,
                received: lately.rates(&seen.counters, RECEIVED),
                sent: lately.rates(&seen.counters, SENT),
            },
            loops: Loops::of(&seen.loops, &seen.round_trips),
            nodes: losses(&self.document, &seen.estimates, &seen.avoided),
            gateway_blamed_s_ago: seen.gateway_blamed.map(|at| now.since(at).as_secs()),
            gateway_moves: seen.moves,
            gateway_moved: seen.moved.map(|moved| GatewayMoved {
                s_ago: now.since(moved.at).as_secs(),
                from: moved.from.to_string(),
                why: crate::moving::reason(moved.why).into(),
            }),
            streams: seen.streams,
            oldest_streams: seen.oldest.iter().map(stream).collect(),
            letters: Letters {
                waiting: mail.waiting,
                inbox_bytes: mail.inbox_bytes,
                inbox_max_bytes: mail.inbox_max_bytes,
                problem: mail.inbox_problem,
                outbox: mail
                    .outbox
                    .iter()
                    .filter(|entry| entry.stage == Stage::Waiting)
                    .count(),
            },
            trouble,
            counters: all(&counters),
        })))
    }
}

/// Pieces of letters have one size, and replies nearly that.
fn bytes_of_items(n: u64) -> u64 {
    n.saturating_mul(ITEM_LEN as u64)
}

/// Looks at a running node, for `mizzle status`.
pub struct NodeWatch {
    document: Arc<Document>,
    id: NodeId,
    observer: node::Observer,
    mail_max_bytes: u64,
    clock: Clock,
    started: Time,
    record: Record,
}

impl NodeWatch {
    /// Begins to look at node `id` of the document, whose mailboxes may hold so many bytes. Must be called within a runtime.
    #[must_use]
    pub fn start(
        document: Arc<Document>,
        id: NodeId,
        observer: node::Observer,
        mail_max_bytes: u64,
        clock: Clock,
    ) -> Self {
        let watched = observer.clone();
        let look = move || {
            let seen = watched.snapshot();
            (seen.counters, seen.pool)
        };
        Self {
            record: Record::start(clock, look),
            started: clock.now(),
            document,
            id,
            observer,
            mail_max_bytes,
            clock,
        }
    }

    /// Users at least and on average: a gateway counts what comes for it, a mix turns its pool round.
    fn users(&self, seen: &node::Snapshot, pool_mean: Option<f64>, layer: u8) -> Option<(f64, f64)> {
        match &seen.gateway {
            Some(gateway) => gateway.users.map(|(mean, least)| (least, mean)),
            None => {
                let (traffic, shape) = (Traffic::from(self.document.profile()), Shape::of(&self.document));
                let mixes = self.document.layer(layer).count() as f64;
                let users = anonymity::users_of_pool(&traffic, &shape, mixes, pool_mean?);
                Some((users, users))
            }
        }
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        const RECEIVED: &[(&str, &[&str])] = &[
            ("packets", &["received"]),
            ("of these for here", &["delivered"]),
            ("loops", &["loop.returned"]),
        ];
        const SENT: &[(&str, &[&str])] = &[("packets", &["forwarded"]), ("loops", &["loop.sent"])];
        const GATEWAY_RECEIVED: &[(&str, &[&str])] = &[
            ("from clients", &["uplink.packet"]),
            ("drops for here", &["drop_received"]),
        ];
        const GATEWAY_SENT: &[(&str, &[&str])] = &[
            ("answers to drops", &["filler_reply"]),
            (
                "answers of the exit and of mailboxes",
                &["reply.sent", "reply.filler_sent"],
            ),
            ("frames to clients with replies", &["downlink.reply"]),
            ("frames to clients with letters", &["downlink.mail"]),
            ("frames to clients, fillers", &["downlink.filler"]),
        ];
        let now = self.clock.now();
        let (seen, lately) = (self.observer.snapshot(), self.record.lately(now));
        let listed = self.document.node(&self.id);
        let (role, layer, has_exit) = listed.map_or((Role::Mix, 0, false), |listed| {
            (listed.role, listed.layer, listed.exit.is_some())
        });
        let users = self.users(&seen, lately.pool_mean, layer);
        let anonymity = Anonymity::of(
            &self.document,
            users.map(|(least, _)| least),
            users.map(|(_, mean)| mean),
        );
        let mut trouble = trouble::of_node(&seen.counters, &lately);
        let document = seen.document.as_ref().unwrap_or(&self.document);
        trouble.extend(trouble::of_clock(document, now));
        let (mut received, mut sent) = (
            lately.rates(&seen.counters, RECEIVED),
            lately.rates(&seen.counters, SENT),
        );
        if seen.gateway.is_some() {
            received.extend(lately.rates(&seen.counters, GATEWAY_RECEIVED));
            sent.extend(lately.rates(&seen.counters, GATEWAY_SENT));
        }
        value(&Status::Node(Box::new(NodeStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: now.since(self.started).as_secs(),
            network: Network::of(document, now),
            role: role_name(role, has_exit).into(),
            layer,
            pool: seen.pool,
            pool_mean: lately.pool_mean,
            late_p99_ms: seen.late.quantile(0.99).map(|late| late.as_secs_f64() * 1e3),
            anonymity,
            rates: Rates {
                over_s: lately.over_s,
                received,
                sent,
            },
            loops: Loops::of(&seen.loops, &VecDeque::new()),
            nodes: losses(&self.document, &seen.estimates, &[]),
            alarms: Alarms {
                raised: seen.alarms.raised,
                is_on: seen.alarms.is_on,
                last_s_ago: seen.alarms.last.map(|at| now.since(at).as_secs()),
            },
            gateway: seen.gateway.map(|gateway| GatewayStatus {
                clients: seen.clients,
                max_clients: gateway.capacity,
                mailboxes: gateway.mailboxes,
                mail_bytes: bytes_of_items(gateway.mail_items),
                mail_max_bytes: self.mail_max_bytes,
                reply_bytes: bytes_of_items(gateway.replies.0 as u64),
                reply_max_bytes: bytes_of_items(gateway.replies.1 as u64),
            }),
            trouble,
            counters: all(&seen.counters),
        })))
    }
}
