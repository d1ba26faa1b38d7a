//! `mizzle network show`: a document, verified, as a person reads it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use mizzle_base::document::{DocumentError, LAYERS, MAX_DOCUMENT_LEN, Node};
use mizzle_base::frame::FRAME_LEN;
use mizzle_base::profile::Pattern;
use mizzle_base::{Document, Profile, Time, hex};
use mizzle_net::clock::Clock;
use mizzle_sphinx::PACKET_LEN;

use crate::join::{self, JoinError};

/// How a document is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One line for a node, with the beginning of its id.
    Short,
    /// All that the document says of a node.
    Full,
    /// The signed content as it is.
    Json,
}

impl Form {
    /// From the flags; JSON has all of it already.
    #[must_use]
    pub fn of(full: bool, json: bool) -> Self {
        match (full, json) {
            (_, true) => Self::Json,
            (true, _) => Self::Full,
            _ => Self::Short,
        }
    }
}

/// Why a document isn't shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The authority's key.
    #[error(transparent)]
    Authority(#[from] JoinError),
    /// The document.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// Verifies the document in `file` and describes it.
///
/// # Errors
/// What is wrong with it.
pub fn run(file: &Path, authority: &str, form: Form) -> Result<String, ShowError> {
    let key = join::authority(authority)?;
    let bytes = read(file).map_err(|source| ShowError::Read {
        path: file.display().to_string(),
        source,
    })?;
    let now = Clock::start().now();
    let document = Document::verify(&bytes, &key, now, 0)?;
    if form == Form::Json {
        let signed = bytes.splitn(4, |&b| b == b'\n').nth(3).unwrap_or_default();
        return Ok(format!("{}\n", String::from_utf8_lossy(signed)));
    }
    Ok(text(&document, now, form == Form::Full))
}

/// As much as shows that it is too long, whatever the file is.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?
        .take(MAX_DOCUMENT_LEN as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(document: &Document, now: Time, full: bool) -> String {
    let mut out = String::new();
    let (from, until) = document.validity();
    let network = document.network().to_string();
    let network = if full { &network } else { short(&network) };
    let gateways: Vec<_> = document.gateways().collect();
    let weights = Weights::of(&gateways);
    // Writing to a `String` can't fail, here and below.
    let _ = write!(
        out,
        "network `{}` ({network}), signature good\nsequence {}, key epoch {}{}\nvalid from {} to {}, {}\n\n",
        clean(document.name()),
        document.sequence(),
        document.epoch(),
        epochs(document),
        utc(from),
        utc(until),
        remaining(now, from, until),
    );
    write_profile(&mut out, document.profile(), weights.exits);
    for layer in 1..=LAYERS {
        let mixes: Vec<_> = document.layer(layer).collect();
        let sum: f64 = mixes.iter().map(|mix| mix.weight).sum();
        let first = mixes.first().map_or(0.0, |mix| mix.weight);
        let is_even = mixes.iter().all(|mix| mix.weight == first);
        let shares = if is_even {
            "mixes, each with an equal share"
        } else {
            "mixes, with shares by what their loops told"
        };
        let _ = writeln!(out, "\nlayer {layer}: {}", count(mixes.len(), "mix", shares));
        write_nodes(&mut out, &mixes, (!is_even).then_some(sum), full);
    }
    let _ = writeln!(out, "\n{}", count(gateways.len(), "gateway", "gateways"));
    write_nodes(&mut out, &gateways, Some(weights.sum), full);
    out
}

/// What the gateways' weights add up to.
struct Weights {
    sum: f64,
    /// The share of those with exits in it.
    exits: f64,
}

impl Weights {
    fn of(gateways: &[&Node]) -> Self {
        // The document has a gateway, and each weight is above zero.
        let sum: f64 = gateways.iter().map(|node| node.weight).sum();
        let with_exit = gateways.iter().filter(|node| node.exit.is_some());
        let exits = with_exit.map(|node| node.weight).sum::<f64>() / sum;
        Self { sum, exits }
    }
}

fn write_profile(out: &mut String, p: &Profile, exits: f64) {
    let gb_per_day = |per_s: f64, len: usize| figure(per_s * len as f64 * 86_400.0 / 1e9);
    let mb_per_s = |bytes_per_s: f64| figure(bytes_per_s / 1e6);
    let _ = write!(
        out,
        "profile `{}`: a hop holds a packet for {} ms on average, a reply waits {} ms more\n\
         \x20 a user sends {} packets a second, used or not: {} for data ({} % of them take replies along),\n\
         \x20   {} loops, {} drops\n\
         \x20 a user receives {} frames a second, used or not\n\
         \x20 so a user spends {} GB a day up and {} GB down\n\
         \x20 a node sends {} loops a second\n",
        clean(&p.name),
        figure(p.mean_delay_ms),
        figure(p.reply_due_mean_ms),
        figure(p.uplink_per_s()),
        figure(p.payload_per_s),
        figure(100.0 * p.reply_fraction),
        figure(p.loop_per_s),
        figure(p.drop_per_s),
        figure(p.downlink_per_s),
        gb_per_day(p.uplink_per_s(), PACKET_LEN),
        gb_per_day(p.downlink_per_s, FRAME_LEN),
        figure(p.node_loop_per_s),
    );
    match p.pattern {
        Pattern::Poisson => {}
        Pattern::Constant => out.push_str("  packets leave at a constant rate\n"),
        Pattern::DangerBudget { epoch_s } => {
            let _ = writeln!(
                out,
                "  DANGER: data leaves at once, in place of cover later in the same {} s: who watches a user's link sees\n\
                 \x20   when he is active",
                figure(epoch_s)
            );
        }
    }
    if exits > 0.0 {
        let _ = writeln!(
            out,
            "  through the exits, whose gateways have {} % of the slots, at most {} MB/s down and {} MB/s up",
            figure(100.0 * exits),
            mb_per_s(p.ceiling_down_bytes_per_s(exits)),
            mb_per_s(p.ceiling_up_bytes_per_s(exits)),
        );
    } else {
        out.push_str("  no gateway has an exit: nothing reaches the outside through this network\n");
    }
}

/// The nodes of a group; with the sum of their weights, if these differ or they are gateways.
fn write_nodes(out: &mut String, nodes: &[&Node], weights: Option<f64>, full: bool) {
    let share = |node: &Node| weights.map(|sum| format!("{} %", figure(100.0 * node.weight / sum)));
    if full {
        for node in nodes {
            write_whole(out, node, share(node));
        }
        return;
    }
    let mut table = Table::default();
    for node in nodes {
        let id = node.id.to_string();
        let mut cells = vec![short(&id).to_string()];
        if let Some(share) = share(node) {
            let names: Vec<_> = services(node).into_iter().map(|(name, ..)| name).collect();
            // Figures stand to the right.
            cells.extend([format!("{share:>6}"), names.join(", ")]);
        }
        cells.push(match node.operator.as_str() {
            "" => String::new(),
            operator => format!("by {}", clean(operator)),
        });
        let mut addresses = node.addresses.iter().map(|address| clean(address));
        cells.push(addresses.next().unwrap_or_else(|| "no address".into()));
        let width = cells.len();
        table.0.push(cells);
        for more in addresses {
            let mut cells = vec![String::new(); width - 1];
            cells.push(more);
            table.0.push(cells);
        }
    }
    table.write(out);
}

fn write_whole(out: &mut String, node: &Node, share: Option<String>) {
    let _ = writeln!(out, "  {}", node.id);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "    {name:<16}  {value}");
    };
    if let Some(share) = share {
        line("share", &share);
    }
    if !node.operator.is_empty() {
        line("operator", &clean(&node.operator));
    }
    line("peer", &clean(&node.peer));
    for address in &node.addresses {
        line("address", &clean(address));
    }
    line("Sphinx key", &hex::encode(node.sphinx_key.as_bytes()));
    for (name, mailbox, stream_key) in services(node) {
        line(&format!("{name} mailbox"), &mailbox);
        line(&format!("{name} stream key"), &stream_key);
    }
}

/// Where keys change: which epochs there are.
fn epochs(document: &Document) -> String {
    let epochs = document.epochs();
    if epochs.count() == 1 {
        return String::new();
    }
    format!(
        " of {} to {}, each of {:.1} h",
        epochs.first(),
        epochs.last(),
        epochs.length().as_secs_f64() / 3_600.0
    )
}

/// What runs in a gateway: its name for users, mailbox and stream key.
fn services(node: &Node) -> Vec<(&'static str, String, String)> {
    let all = [("exit", &node.exit), ("mail", &node.mail)];
    all.into_iter()
        .filter_map(|(name, service)| {
            let service = service.as_ref()?;
            Some((
                name,
                service.mailbox.to_string(),
                hex::encode(&service.stream_key),
            ))
        })
        .collect()
}

/// Rows of cells; every column as wide as its widest cell, none for a column that is empty in all rows.
#[derive(Default)]
struct Table(Vec<Vec<String>>);

impl Table {
    fn write(&self, out: &mut String) {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column| {
            let cells = self.0.iter().filter_map(|row: &Vec<String>| row.get(column));
            cells
                .map(|cell: &String| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.0 {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
                let _ = write!(line, "  {cell:<width$}");
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
}

/// Enough of an id to tell two apart; `--full` has the rest.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Without anything that a terminal would obey: whoever runs a node chose the words.
pub(crate) fn clean(text: &str) -> String {
    text.escape_debug().to_string().replace("\\'", "'")
}

pub(crate) fn count(n: usize, one: &str, more: &str) -> String {
    if n == 1 {
        format!("1 {one}")
    } else {
        format!("{n} {more}")
    }
}

/// As many digits as matter, and no zeros behind the point.
pub(crate) fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        None => text,
    }
}

/// How long a document is still good, or that it is so only for the tolerance that clocks have.
pub(crate) fn remaining(now: Time, from: Time, until: Time) -> String {
    let (now_s, from_s, until_s) = (now.as_s(), from.as_s(), until.as_s());
    if now_s < from_s {
        return format!(
            "which begins in {} s: this machine's clock may be slow",
            from_s - now_s
        );
    }
    let Some(left_s) = until_s.checked_sub(now_s).filter(|left_s| *left_s > 0) else {
        return format!(
            "over for {} s: this machine's clock may be fast, or a newer document is due",
            now_s - until_s
        );
    };
    let (n, unit) = match left_s {
        0..120 => (left_s, "seconds"),
        120..7_200 => (left_s / 60, "minutes"),
        7_200..172_800 => (left_s / 3_600, "hours"),
        _ => (left_s / 86_400, "days"),
    };
    let unit = if n == 1 { unit.trim_end_matches('s') } else { unit };
    format!("for {n} {unit} more")
}

/// A moment as `2026-02-28 23:59 UTC`.
fn utc(time: Time) -> String {
    let s = time.as_s();
    let (year, month, day) = civil(s / 86_400);
    let (hour, minute) = (s / 3_600 % 24, s / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01.
///
/// Years are counted from March, so that the day that is sometimes there is their last; the calendar repeats after 400
/// years, 146,097 days. (The method of Howard Hinnant's `civil_from_days`.)
fn civil(days: u64) -> (u64, u64, u64) {
    // 719,468 days before 1970 was the first of March of the year 0.
    let days = days.saturating_add(719_468);
    let (cycle, day_of_cycle) = (days / 146_097, days % 146_097);
    // Leap days: one after 1,460 days, none after 36,524, one again after 146,096.
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // From March on, five months have 153 days: 31, 30, 31, 30, 31.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, is_next_year) = match month_from_march {
        0..10 => (month_from_march + 3, 0),
        _ => (month_from_march - 9, 1),
    };
    (cycle * 400 + year_of_cycle + is_next_year, month, day)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use mizzle_base::document::Content;
    use mizzle_sphinx::SecretKey;
    use serde_json::json;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (s, date) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_767_225_599, "2025-12-31 23:59 UTC"),
            (1_767_225_600, "2026-01-01 00:00 UTC"),
            // 2100 is no leap year.
            (4_107_542_399, "2100-02-28 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(Time::from_s(s)), date);
        }
        // Day by day over two cycles, a date is followed by the next one.
        let mut last = civil(0);
        for day in 1..2 * 146_097 {
            let (y, m, d) = civil(day);
            let follows = (y, m, d) == (last.0, last.1, last.2 + 1)
                || (y, m, d) == (last.0, last.1 + 1, 1) && last.2 >= 28
                || (y, m, d) == (last.0 + 1, 1, 1) && (last.1, last.2) == (12, 31);
            assert!(follows, "{last:?}, then {:?}", (y, m, d));
            last = (y, m, d);
        }
        // As many days as the calendar has: the end of a cycle is that of its 400 years.
        assert_eq!(civil(2 * 146_097 - 1), (2769, 12, 31));
        // A silly document is no panic.
        assert!(utc(Time::FAR_FUTURE).ends_with(" UTC"));
    }

    #[test]
    fn what_is_left_is_said_in_a_unit_that_fits() {
        let at = Time::from_s;
        for (now, words) in [
            (990, "begins in 10 s"),
            (1_000, "for 11 days more"),
            (1_000_000 - 172_799, "for 47 hours more"),
            (1_000_000 - 7_199, "for 119 minutes more"),
            (1_000_000 - 119, "for 119 seconds more"),
            (1_000_000 - 1, "for 1 second more"),
            (1_000_000, "over for 0 s"),
            (1_000_060, "over for 60 s"),
        ] {
            let said = remaining(at(now), at(1_000), at(1_000_000));
            assert!(said.contains(words), "{now}: {said}");
        }
    }

    #[test]
    fn figures_have_no_idle_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.12, "0.12"),
            (1.0, "1"),
            (33.333, "33.3"),
            (100.0, "100"),
            (4_700.0, "4700"),
            (19.906, "19.9"),
        ] {
            assert_eq!(figure(value), text);
        }
    }

    fn document() -> Document {
        let key = |n: u8| hex::encode(SecretKey::from_bytes([n; 32]).public().as_bytes());
        let node = |n: u8, role: &str, layer: u8| {
            json!({
                "id": hex::encode(&[n; 32]), "role": role, "layer": layer, "peer": format!("peer{n}"),
                "addresses": [format!("/ip4/192.0.2.{n}/udp/4001/quic-v1")], "sphinx_key": key(n), "weight": 1.0,
            })
        };
        let mut nodes: Vec<_> = (1..=3).map(|layer| node(layer, "mix", layer)).collect();
        nodes[0]["addresses"] = json!(["/ip4/192.0.2.1/udp/4001/quic-v1", "/dns4/mix.example/tcp/4001"]);
        nodes[2]["addresses"] = json!([]);
        let mut gateway = node(0xaa, "gateway", 0);
        gateway["weight"] = 3.0.into();
        gateway["exit"] = json!({ "mailbox": hex::encode(&[0xe1; 16]), "stream_key": key(0xe1) });
        gateway["operator"] = "the \u{1b}[31mred ones".into();
        nodes.extend([gateway, node(0xbb, "gateway", 0)]);
        let content: Content = serde_json::from_value(json!({
            "network": "test", "sequence": 7, "epoch": 2, "profile": Profile::browse(), "nodes": nodes,
            "valid_from_s": 1_767_225_600, "valid_until_s": 1_767_225_600 + 30 * 86_400,
        }))
        .unwrap();
        let authority = SigningKey::from_bytes(&[9; 32]);
        let bytes = content.sign(&authority).unwrap();
        Document::verify(&bytes, &authority.verifying_key(), now(), 0).unwrap()
    }

    fn now() -> Time {
        Time::from_s(1_767_225_600 + 86_400)
    }

    #[test]
    fn a_document_is_told_in_words_and_columns() {
        let shown = text(&document(), now(), false);
        for words in [
            "sequence 7, key epoch 2\n",
            "valid from 2026-01-01 00:00 UTC to 2026-01-31 00:00 UTC, for 29 days more\n",
            "profile `browse`: a hop holds a packet for 20 ms on average, a reply waits 60 ms more\n",
            "sends 50 packets a second, used or not: 40 for data (33.3 % of them",
            "19.9 GB a day up and 40 GB down",
            "have 75 % of the slots, at most 0.19 MB/s down",
            "\nlayer 1: 1 mix\n  01010101  /ip4/192.0.2.1/udp/4001/quic-v1\n            /dns4/mix.example/tcp/4001\n",
            "\nlayer 3: 1 mix\n  03030303  no address\n",
            "\n2 gateways\n  aaaaaaaa    75 %  exit  by the \\u{1b}[31mred ones  /ip4/192.0.2.170/udp",
            "\n  bbbbbbbb    25 %                                   /ip4/192.0.2.187/udp/4001/quic-v1\n",
        ] {
            assert!(shown.contains(words), "{words}\n--\n{shown}");
        }
        assert!(!shown.contains('\u{1b}') && !shown.contains("peer1"), "{shown}");
        assert!(!shown.lines().any(|line| line.ends_with(' ')), "{shown}");
    }

    #[test]
    fn shares_of_mixes_are_told_where_they_differ() {
        let key = |n: u8| hex::encode(SecretKey::from_bytes([n; 32]).public().as_bytes());
        let mix = |n: u8, weight: f64| {
            json!({
                "id": hex::encode(&[n; 32]), "role": "mix", "layer": n.div_ceil(2), "peer": "", "addresses": [],
                "sphinx_key": key(n), "weight": weight,
            })
        };
        let mut nodes: Vec<_> = [1.5, 0.5, 0.0, 0.0, 1.0, 1.0]
            .into_iter()
            .zip(1..)
            .map(|(weight, n)| mix(n, weight))
            .collect();
        nodes.push(json!({
            "id": hex::encode(&[7; 32]), "role": "gateway", "layer": 0, "peer": "", "addresses": [], "sphinx_key": key(7), "weight": 1.0,
        }));
        let content: Content = serde_json::from_value(json!({
            "network": "test", "sequence": 7, "epoch": 2, "profile": Profile::browse(), "nodes": nodes,
            "valid_from_s": 1_767_225_600, "valid_until_s": 1_767_225_600 + 30 * 86_400,
        }))
        .unwrap();
        let authority = SigningKey::from_bytes(&[9; 32]);
        let bytes = content.sign(&authority).unwrap();
        let document = Document::verify(&bytes, &authority.verifying_key(), now(), 0).unwrap();
        let shown = text(&document, now(), false);
        for words in [
            "\nlayer 1: 2 mixes, with shares by what their loops told\n  01010101    75 %  no address\n  02020202    25 %",
            "\nlayer 2: 2 mixes, each with an equal share\n  03030303  no address\n",
            "\nlayer 3: 2 mixes, each with an equal share\n",
        ] {
            assert!(shown.contains(words), "{words}\n--\n{shown}");
        }
    }

    #[test]
    fn full_is_all_that_the_document_says_of_a_node() {
        let document = document();
        let shown = text(&document, now(), true);
        for node in document.nodes() {
            let mut words = vec![
                node.id.to_string(),
                node.peer.clone(),
                hex::encode(node.sphinx_key.as_bytes()),
            ];
            words.extend(node.addresses.clone());
            for (name, mailbox, stream_key) in services(node) {
                words.extend([format!("{name} mailbox"), mailbox, stream_key]);
            }
            for word in words {
                assert!(shown.contains(&word), "{word}\n--\n{shown}");
            }
        }
        assert!(shown.contains("share             75 %"), "{shown}");
        assert!(shown.contains(&document.network().to_string()), "{shown}");
    }
}
