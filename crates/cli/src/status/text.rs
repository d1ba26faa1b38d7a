//! A [`Status`] as people read it, with bars where one would rather look than read.

use std::fmt::Write as _;
use std::time::Duration;

use mizzle_base::Time;

use super::{Alarms, Anonymity, ClientStatus, Loops, Network, NodeLoss, NodeStatus, Rates, Status, Trouble};
use crate::mail::text::{bytes, latency, time};
use crate::show::{clean, count, figure, remaining};

/// Characters of a bar.
const WIDTH: usize = 30;
/// Streams and nodes that are listed.
const LISTED: usize = 10;

/// The whole text.
pub(super) fn of(status: &Status) -> String {
    let mut out = String::new();
    match status {
        Status::Client(status) => client(&mut out, status),
        Status::Node(status) => node(&mut out, status),
    }
    out
}

fn line(out: &mut String, name: &str, text: &str) {
    // Writing to a `String` can't fail, here and below.
    let _ = writeln!(out, "  {name:<10}  {text}");
}

fn client(out: &mut String, s: &ClientStatus) {
    let _ = writeln!(
        out,
        "client of network `{}`, profile `{}`, up for {}",
        clean(&s.network.name),
        clean(&s.network.profile),
        time(Duration::from_secs(s.uptime_s))
    );
    let connected = if s.connected {
        "connected; cover flows"
    } else {
        "not connected: nothing is sent, and nothing comes"
    };
    line(out, "gateway", connected);
    document(out, &s.network);

    if let Some(moved) = &s.gateway_moved {
        let text = format!(
            "another than before since {} ago, for {}; letters to your old address wait at gateway {}: to fetch them name it as \
             `gateway` in the configuration",
            time(Duration::from_secs(moved.s_ago)),
            moved.why,
            moved.from
        );
        line(out, "moved", &text);
    }
    out.push_str("\nhow well you are hidden\n");
    let users = match s.anonymity.users_at_least {
        Some(users) => format!("{users} at least, as your gateway says"),
        None => "not known yet; counted as if you were alone".into(),
    };
    line(out, "users", &users);
    hidden(out, &s.anonymity, "you", "yours");
    if !s.may_send {
        let _ = writeln!(
            out,
            "  ! Nothing of yours is sent, only cover: `min_pool` in the configuration asks for {} in the pool.",
            s.min_pool
        );
    }
    rates(out, &s.rates);

    out.push_str("\nloops\n");
    loops(out, &s.loops);
    losses(out, &s.nodes);
    if let Some(ago) = s.gateway_blamed_s_ago {
        let text = format!(
            "loses packets, as was found {} ago: mixes through which nothing of yours comes are well for others, or too many",
            time(Duration::from_secs(ago))
        );
        line(out, "gateway", &text);
    }

    out.push_str("\nstreams\n");
    let opening = s.oldest_streams.iter().filter(|stream| !stream.open).count();
    let text = match (s.streams, opening) {
        (0, _) => "none".into(),
        (n, 0) => format!("{n} open"),
        (n, opening) => format!("{} open, {opening} being opened", n - opening.min(n)),
    };
    line(out, "now", &text);
    for stream in s.oldest_streams.iter().take(LISTED) {
        let state = if stream.open { "open" } else { "opening" };
        let age = Duration::try_from_secs_f64(stream.age_s).unwrap_or_default();
        let (sent, received) = (bytes(stream.sent_bytes), bytes(stream.received_bytes));
        line(
            out,
            state,
            &format!("for {:<7} {sent} sent, {received} received", time(age)),
        );
    }

    out.push_str("\nletters\n");
    let letters = &s.letters;
    let text = format!("{}, {} to leave", to_fetch(letters.waiting), letters.outbox);
    line(out, "now", &text);
    line(out, "inbox", &fill(letters.inbox_bytes, letters.inbox_max_bytes));
    troubles(out, &s.trouble);
}

fn to_fetch(n: usize) -> String {
    match n {
        0 => "none to fetch".into(),
        n => format!("{n} to fetch"),
    }
}

fn node(out: &mut String, s: &NodeStatus) {
    let layer = match s.layer {
        0 => String::new(),
        layer => format!(" of layer {layer}"),
    };
    let _ = writeln!(
        out,
        "{}{layer} of network `{}`, profile `{}`, up for {}",
        s.role,
        clean(&s.network.name),
        clean(&s.network.profile),
        time(Duration::from_secs(s.uptime_s))
    );
    document(out, &s.network);
    if let Some(gateway) = &s.gateway {
        let share = gateway.clients as f64 / gateway.max_clients.max(1) as f64;
        let clients = format!(
            "{}  {} of {} at most",
            bar(share),
            gateway.clients,
            gateway.max_clients
        );
        line(out, "clients", &clients);
        let mailboxes = fill(gateway.mail_bytes, gateway.mail_max_bytes);
        let boxes = count(gateway.mailboxes, "mailbox", "mailboxes");
        line(out, "letters", &format!("{mailboxes}, {boxes}"));
        let replies = fill(gateway.reply_bytes, gateway.reply_max_bytes);
        line(out, "replies", &format!("{replies}, in memory"));
    }
    let mean = s
        .pool_mean
        .map(|mean| format!(", {} on average", figure(mean)))
        .unwrap_or_default();
    line(out, "holds", &format!("{} packets now{mean}", s.pool));
    if let Some(late_ms) = s.late_p99_ms {
        let late = format!("99 of 100 left within {late_ms:.1} ms of the end of their delay");
        line(out, "keeps", &late);
    }

    out.push_str("\nhow well the network hides its users\n");
    let a = &s.anonymity;
    let users = match (a.users, a.users_at_least) {
        (Some(mean), Some(least)) if least < mean => {
            format!(
                "about {}, {} at least, by the messages that come here",
                figure(mean),
                figure(least.floor().max(1.0))
            )
        }
        (Some(mean), _) => format!("about {}, by the packets that are held here", figure(mean)),
        (None, _) => "not known yet; counted as if there were one".into(),
    };
    line(out, "users", &users);
    hidden(out, a, "a user", "his");
    rates(out, &s.rates);

    out.push_str("\nloops\n");
    loops(out, &s.loops);
    alarms(out, &s.alarms);
    losses(out, &s.nodes);
    troubles(out, &s.trouble);
}

fn document(out: &mut String, network: &Network) {
    let at = Time::from_s;
    let (from, until) = (at(network.valid_from_s), at(network.valid_until_s));
    let text = format!(
        "number {}, {}",
        network.sequence,
        match remaining(at(network.now_s), from, until) {
            left if left.starts_with("for ") => format!("valid {left}"),
            other => other,
        }
    );
    line(out, "document", &text);
    let hours = |until_s: u64| until_s.saturating_sub(network.now_s) as f64 / 3_600.0;
    let (ends, known) = (hours(network.epoch_ends_s), hours(network.keys_until_s));
    let text = match network.epoch_last.saturating_sub(network.epoch) {
        0 => format!(
            "{}, the last one of the document; it ends in {ends:.1} h",
            network.epoch
        ),
        more => format!(
            "{}, ends in {ends:.1} h; keys of {more} more {} are known, for {known:.1} h from now",
            network.epoch,
            if more == 1 { "epoch" } else { "epochs" },
        ),
    };
    line(out, "key epoch", &text);
}

fn hidden(out: &mut String, a: &Anonymity, who: &str, whose: &str) {
    line(
        out,
        "pool",
        &format!(
            "{}  {} packets in a mix; {} wanted, at the mark",
            pool_bar(a.pool, a.pool_wanted),
            figure(a.pool),
            figure(a.pool_wanted)
        ),
    );
    let (most, least) = if a.is_sharp {
        ("", "")
    } else {
        ("at most ", "at least ")
    };
    line(
        out,
        "a packet",
        &format!(
            "an observer of all links has {most}{} bits of doubt; he guesses right {least}{}",
            figure(a.entropy_bits),
            odds(a.best_guess)
        ),
    );
    line(
        out,
        "one act",
        &format!(
            "whether it was {whose} or another's he tells right {:.0} times of 100, a coin 50 (δ₁ {})",
            50.0 + 50.0 * a.delta_1,
            figure(a.delta_1)
        ),
    );
    line(
        out,
        "many acts",
        &format!(
            "after {} that he can link to each other he finds {who} among {} users (k₉₅)",
            figure(a.k_95.ceil()),
            figure(a.k_95_users)
        ),
    );
    let until = Duration::try_from_secs_f64(a.seconds_until_corrupt).unwrap_or(Duration::MAX);
    line(
        out,
        "mixes",
        &format!(
            "if a tenth of them work together, they follow 1 packet in {}: one of {whose} every {}",
            figure(1.0 / a.routes_corrupt),
            time(until)
        ),
    );
    if a.pool < a.pool_wanted {
        let _ = writeln!(
            out,
            "  ! Less than {} packets in a pool: some users stand out by chance. More users or longer delays help.",
            figure(a.pool_wanted)
        );
    }
}

/// `once in 240 times`.
fn odds(share: f64) -> String {
    if share >= 0.5 {
        return format!("{:.0} times of 100", share * 100.0);
    }
    format!("once in {} times", figure((1.0 / share).round()))
}

/// Up to twice what is wanted, with a mark in the middle.
fn pool_bar(pool: f64, wanted: f64) -> String {
    let half = WIDTH / 2;
    // A cast of what is not a number or too large saturates.
    let full = (pool / wanted * half as f64).round() as usize;
    let part = |from: usize| -> String {
        (from..from + half)
            .map(|n| if n < full { '#' } else { '.' })
            .collect()
    };
    let end = if full > WIDTH { '>' } else { ']' };
    format!("[{}|{}{end}", part(0), part(half))
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * WIDTH as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(WIDTH - full))
}

fn fill(n: u64, most: u64) -> String {
    let share = n as f64 / most.max(1) as f64;
    format!("{}  {} of {} at most", bar(share), bytes(n), bytes(most))
}

fn rates(out: &mut String, rates: &Rates) {
    let over = Duration::try_from_secs_f64(rates.over_s).unwrap_or_default();
    let _ = writeln!(out, "\na second, over the last {}", time(over));
    for (name, rates) in [("sent", &rates.sent), ("received", &rates.received)] {
        let mut name = name;
        for rate in rates {
            line(
                out,
                name,
                &format!("{:>7}  {} ({} in all)", figure(rate.per_s), rate.name, rate.total),
            );
            name = "";
        }
    }
}

fn loops(out: &mut String, l: &Loops) {
    let loss = l
        .loss
        .map(|loss| format!(" ({} %)", figure(100.0 * loss)))
        .unwrap_or_default();
    line(
        out,
        "in all",
        &format!("{} sent, {} came back, {} lost{loss}", l.sent, l.returned, l.lost),
    );
    let us = |ms: f64| latency((ms * 1e3) as u64);
    if let (Some(median), Some(p90)) = (l.median_ms, l.p90_ms) {
        line(
            out,
            "round trip",
            &format!("half within {}, nine tenths within {}", us(median), us(p90)),
        );
    }
    if let Some(late) = l.late_ms {
        line(
            out,
            "late by",
            &format!("{} on average: links and queues", us(late)),
        );
    }
}

/// The nodes that lose more than chance does, and those that are left out.
fn losses(out: &mut String, nodes: &[NodeLoss]) {
    let bad = nodes
        .iter()
        .filter(|node| node.left_out || node.loss_low.is_some_and(|low| low > 0.02));
    let percent = |share: Option<f64>| share.map_or("?".into(), |share| figure((100.0 * share).round()));
    for node in bad.take(LISTED) {
        let layer = match node.layer {
            0 => "a gateway".to_owned(),
            layer => format!("layer {layer}"),
        };
        let late = node
            .late_ms
            .zip(node.late_off_ms)
            .map_or(String::new(), |(late, off)| {
                format!(
                    "; adds {} ms to the others, give or take {}",
                    figure(late.round()),
                    figure(off.ceil())
                )
            });
        let left_out = if node.left_out {
            "; your routes leave it out"
        } else {
            ""
        };
        line(
            out,
            "loses",
            &format!(
                "{} ({layer}): {} % of {} loops, {} to {} with 95 % confidence{late}{left_out}",
                node.node.get(..8).unwrap_or(&node.node),
                percent(node.loss),
                node.loops,
                percent(node.loss_low),
                percent(node.loss_high),
            ),
        );
    }
}

fn alarms(out: &mut String, alarms: &Alarms) {
    let ago = |s: u64| time(Duration::from_secs(s));
    let text = match (alarms.raised, alarms.last_s_ago, alarms.is_on) {
        (0, ..) => "none: no loops were due one after the other without coming home".into(),
        (n, _, true) => format!(
            "ON: loops are due and none comes home; {n} in all. Perhaps somebody drops what comes here"
        ),
        (n, last, false) => format!("{n}, the last {} ago", ago(last.unwrap_or(0))),
    };
    line(out, "alarms", &text);
}

fn troubles(out: &mut String, troubles: &[Trouble]) {
    if troubles.is_empty() {
        out.push_str("\nnothing is wrong\n");
        return;
    }
    out.push_str("\nwhat is wrong, or was\n");
    for trouble in troubles {
        let words = clean(&trouble.words);
        let _ = match (trouble.times, trouble.lately) {
            (0, _) => writeln!(out, "  - {words}"),
            (times, 0) => writeln!(out, "  - {words} ({times} times, not of late)"),
            (times, lately) => writeln!(out, "  - {words} ({times} times, {lately} of late)"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_of_one_width_and_show_where_enough_is() {
        let empty = format!("[{}|{}]", ".".repeat(15), ".".repeat(15));
        assert_eq!(pool_bar(0.0, 20.0), empty);
        assert_eq!(
            pool_bar(20.0, 20.0),
            format!("[{}|{}]", "#".repeat(15), ".".repeat(15))
        );
        assert_eq!(
            pool_bar(30.0, 20.0),
            format!("[{}|{}]", "#".repeat(15), "########.......")
        );
        assert_eq!(
            pool_bar(1e12, 20.0),
            format!("[{}|{}>", "#".repeat(15), "#".repeat(15))
        );
        assert_eq!(pool_bar(f64::NAN, 20.0), empty);
        assert_eq!(bar(0.5).matches('#').count(), 15);
        assert_eq!(bar(7.0).len(), WIDTH + 2);
        assert_eq!(
            fill(0, 0),
            format!("[{}]  0 bytes of 0 bytes at most", ".".repeat(30))
        );
    }

    #[test]
    fn odds_read_as_people_say_them() {
        assert_eq!(odds(1.0), "100 times of 100");
        assert_eq!(odds(0.001), "once in 1000 times");
    }
}
