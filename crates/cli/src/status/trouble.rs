//! Counters that tell of trouble, in plain words: what it is, and what to do.

use crate::follow::is_soon_over;
use mizzle_base::{Counters, Document, Time};

use super::Trouble;
use super::record::Lately;

/// Counter, and what it means.
type Words = (&'static str, &'static str);

const CLIENT: &[Words] = &[
    (
        "document.expired",
        "the network document has expired and nothing is sent: get the current one and start again",
    ),
    (
        "link.no_answer",
        "the gateway didn't answer and was connected to again",
    ),
    (
        "link.gone_for_long",
        "the gateway was away for a minute and all streams ended: is this machine online?",
    ),
    (
        "link.replaced",
        "another client runs with this one's identity: stop one of the two",
    ),
    (
        "gateway.blamed",
        "this client's gateway lost packets, or most of what lies behind it did: choose another (`gateway` in the configuration)",
    ),
    (
        "route.left_out",
        "mixes through which nothing came were left out of this client's routes for a while",
    ),
    (
        "drop.bad_report",
        "the gateway passed on loop statistics that no node of the document signed, or that are old",
    ),
    (
        "users.too_few",
        "the network had fewer users than `min_pool` asks for, and streams ended",
    ),
    (
        "slot.late",
        "packets were left out as they would have been late: this machine is busy or was asleep",
    ),
    (
        "slot.pause",
        "nothing was sent for a while: this machine was asleep or its clock was set",
    ),
    (
        "slot.unready",
        "packets were ready only after their time: this machine is busy",
    ),
    (
        "slot.unbuilt",
        "packets could not be built: the network document may be wrong, tell its operator",
    ),
    (
        "slot.not_sent",
        "packets found no room on the way to the gateway: this machine's uplink is too slow for the profile",
    ),
    (
        "surb.lost",
        "answers never came: nodes lose packets, or the gateway's downlink is full",
    ),
    (
        "drop.downlink_out_of_order",
        "answers came twice or with gaps, as after a reconnect",
    ),
    (
        "drop.bad_frame",
        "the gateway sent what is none of its frames: it may run another version",
    ),
    ("drop.bad_reply", "answers were changed on their way"),
    (
        "drop.mail_window",
        "letters came faster than this machine's disk takes them",
    ),
    ("inbox.damaged", "letters were damaged on this machine's disk"),
    ("inbox.given_up", "letters that came could not be put together"),
    (
        "outbox.attempt_failed",
        "attempts to bring a letter failed; `mizzle outbox` says why",
    ),
];

const NODE: &[Words] = &[
    (
        "alarm.raised",
        "own loops were due and none came home: somebody may have dropped what came here, or this machine's line was down",
    ),
    (
        "drop.isolated",
        "packets were dropped that may have been let in alone, in an alarm",
    ),
    (
        "drop.bad_report",
        "loop statistics came that no node of the document signed, or that are old: a clock may be wrong",
    ),
    (
        "replay",
        "packets came twice and were dropped: somebody repeats them",
    ),
    (
        "mac",
        "packets were changed on their way, or made for another key",
    ),
    ("alpha", "packets began with no point of the curve"),
    ("role", "packets asked for what no packet may"),
    ("payload", "packets' contents were changed on their way"),
    (
        "drop.replay_table_full",
        "more packets came than can be remembered, and nothing is taken any more: it needs a new key, `mizzle network rekey`",
    ),
    (
        "drop.delay_queue_full",
        "more packets came than are held at a time: this node is flooded, or too small for the network",
    ),
    (
        "drop.workers_busy",
        "this gateway's own packets had to wait for too many others: it is flooded, or too small for its clients",
    ),
    (
        "drop.node_busy",
        "packets that had arrived were not looked at in time: this gateway is too small for its clients",
    ),
    (
        "drop.tag_not_written",
        "packets were dropped as the disk doesn't take their tags: make room",
    ),
    (
        "drop.link_full",
        "the next nodes took packets too slowly: they or the line between are overloaded",
    ),
    (
        "drop.link_down",
        "the next nodes could not be reached: they are down, or a firewall is between",
    ),
    (
        "drop.no_peer",
        "packets were for nodes whose entry in the document has no usable peer id",
    ),
    ("drop.no_edge", "packets asked to go where this node doesn't send"),
    ("drop.sender_without_edge", "nodes that may not send here did"),
    (
        "drop.key_is_over",
        "packets came for a key whose time is over: a document that others use is old",
    ),
    (
        "drop.client_left",
        "packets were from clients that had left by then",
    ),
    ("drop.wrong_length", "what was no packet came from a node"),
    ("drop.loop_too_late", "own loops came back too late to be counted"),
    (
        "drop.client_too_fast",
        "clients sent more than their profile allows",
    ),
    (
        "drop.not_admitted",
        "packets came from clients that aren't admitted",
    ),
    ("drop.bad_frame", "clients sent what is none of their frames"),
    (
        "drop.hello_too_often",
        "clients asked to be admitted again and again",
    ),
    (
        "drop.mailbox_full",
        "replies found their client's queue full: the client is slow or away",
    ),
    (
        "drop.replies_full",
        "replies found no room in memory: `replies_total_mb` in the node's configuration",
    ),
    (
        "reply.expired",
        "replies were dropped as their clients stayed away",
    ),
    (
        "drop.acknowledged_beyond",
        "clients acknowledged letters that they weren't sent",
    ),
    (
        "drop.surbs_full",
        "answers to drops were left out for want of room: too many clients for this gateway",
    ),
    (
        "drop.surb_too_late",
        "answers were left out that became due while this machine was asleep or its clock was set",
    ),
    (
        "pool.pause",
        "packets were held for longer than their time: this machine was asleep or its clock was set",
    ),
    (
        "drop.no_such_client",
        "replies were for clients that are forgotten",
    ),
    (
        "drop.directory_busy",
        "questions for the network document were not answered in time",
    ),
    (
        "downlink.late_tick",
        "frames to clients were left out as they would have been late: this machine is busy",
    ),
    (
        "downlink.unready",
        "frames to clients were ready only after their time: this machine is busy",
    ),
    (
        "downlink.not_written",
        "frames found no room on the way to a client: its line is slow",
    ),
    (
        "mail.store_failed",
        "the disk doesn't take letters: make room, look at the log",
    ),
    (
        "upload.refused_full",
        "letters were refused as mailboxes are full",
    ),
    (
        "upload.refused_letters",
        "letters were refused as mailboxes hold too many: `mail_letters` in the node's configuration",
    ),
    (
        "upload.refused_store_full",
        "letters were refused as all mailboxes together are full: `mail_total_mb` in the node's configuration",
    ),
    ("upload.limit", "letters were refused as too many came at a time"),
    (
        "mail.damaged",
        "pieces of letters can't be read any more and were left out: the disk of this node may be failing",
    ),
    (
        "mail.expired",
        "pieces of letters were deleted as nobody fetched them for so long",
    ),
    (
        "client.refused",
        "clients were not admitted: not invited, or this gateway is full",
    ),
    (
        "lost_on_purpose",
        "packets were lost on purpose, as this node was told to",
    ),
];

/// What is wrong with a client.
pub(super) fn of_client(counters: &Counters, lately: &Lately) -> Vec<Trouble> {
    find(CLIENT, counters, lately)
}

/// What is wrong with a node.
pub(super) fn of_node(counters: &Counters, lately: &Lately) -> Vec<Trouble> {
    find(NODE, counters, lately)
}

/// What is wrong with the time, or with the document's.
pub(super) fn of_clock(document: &Document, now: Time) -> Option<Trouble> {
    let (from, until) = document.validity();
    let left_s = until.as_s().saturating_sub(now.as_s());
    let words = if now < from {
        "the network document isn't valid yet: this machine's clock may be slow"
    } else if left_s == 0 {
        "the network document is over: a newer one is due, or this machine's clock is fast"
    } else if is_soon_over(document, now) {
        "the network document is soon over: a newer one is due (`mizzle network renew`)"
    } else {
        return None;
    };
    Some(plain(words.into()))
}

/// What isn't counted.
pub(super) fn plain(words: String) -> Trouble {
    Trouble {
        counter: None,
        times: 0,
        lately: 0,
        words,
    }
}

/// What has words, and what was dropped for a reason that has none: that by its name.
fn find(known: &[Words], counters: &Counters, lately: &Lately) -> Vec<Trouble> {
    let words = |name: &str| {
        let of = known.iter().find(|(counter, _)| *counter == name);
        match of {
            Some((_, words)) => Some((*words).to_owned()),
            None => name
                .strip_prefix("drop.")
                .map(|reason| format!("dropped: {}", reason.replace('_', " "))),
        }
    };
    let mut all: Vec<Trouble> = counters
        .iter()
        .filter(|(_, times)| *times > 0)
        .filter_map(|(name, times)| {
            Some(Trouble {
                words: words(name)?,
                counter: Some(name.into()),
                times,
                lately: lately.of(counters, name),
            })
        })
        .collect();
    // What goes on comes first.
    all.sort_by_key(|trouble| std::cmp::Reverse((trouble.lately, trouble.times)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_comes_first_and_what_has_no_words_is_named() {
        let mut before = Counters::default();
        before.add("replay", 50);
        let mut now = before.clone();
        now.add("drop.link_down", 3);
        now.add("drop.of_a_new_sort", 1);
        now.add("received", 1_000);
        let lately = Lately {
            over_s: 10.0,
            before,
            pool_mean: None,
        };
        let found = of_node(&now, &lately);
        let told: Vec<_> = found
            .iter()
            .map(|trouble| (trouble.counter.as_deref().unwrap(), trouble.times, trouble.lately))
            .collect();
        assert_eq!(
            told,
            [
                ("drop.link_down", 3, 3),
                ("drop.of_a_new_sort", 1, 1),
                ("replay", 50, 0)
            ]
        );
        assert_eq!(found[1].words, "dropped: of a new sort");
        assert!(of_client(&Counters::default(), &lately).is_empty());
    }
}
