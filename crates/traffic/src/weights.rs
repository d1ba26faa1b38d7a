//! What nodes publish of their loops, and what follows for all: how much each mix is to be used, and which are down.
//!
//! A *report* is what one node found of others ([`crate::estimate`]), signed with the key of its identity; docs/spec/loops.md
//! has its bytes. From the reports of many follow, by rules that give everybody the same answer, the [`weights`] of the
//! mixes, which the next network document carries, and what is [`judged`] of a node now. Medians and majorities, so
//! that a few who lie move neither. Integers only: the same reports give the same weights on every machine.
//!
//! How reports travel is the shells' part.

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use mizzle_base::document::{CLOCK_TOLERANCE_S, LAYERS, LIST_LEN, MAX_NODES, Node, Role};
use mizzle_base::{Document, NodeId, Time};

use crate::estimate::Estimate;

/// One: a share of everything, or the use of a mix whose layer is used evenly.
pub const ONE_PPM: u32 = 1_000_000;
/// A mix is used at least half as much as if all of its layer were used evenly: what reporters can do to it has an end.
pub const LEAST_PPM: u32 = ONE_PPM / 2;
/// A node that reports on fewer loops through another is not heard on that one.
pub const LEAST_LOOPS: u32 = 30;
/// How old a report may be: a minute and twice what clocks may be off.
pub const LIFE: Duration = Duration::from_secs(60 + 2 * CLOCK_TOLERANCE_S);
/// How often a node reports.
pub const EVERY: Duration = Duration::from_secs(5);
/// A node that finds another one down, or back, says so at once, but this long after its last report at least: their times are
/// in seconds, and of two with one time the later one is not heard.
pub const SOONEST: Duration = Duration::from_millis(1_500);
/// Networks of so many nodes at most are asked about more often: all their reports are 70 KB.
const FEW_NODES: usize = 64;

/// How often a client asks for the reports of a network of so many nodes.
#[must_use]
pub fn ask_every(nodes: usize) -> Duration {
    if nodes <= FEW_NODES {
        Duration::from_secs(2)
    } else {
        EVERY
    }
}

/// Longest report in bytes.
pub const MAX_REPORT_LEN: usize = HEAD_LEN + MAX_NODES * ENTRY_LEN + SIGNATURE_LEN;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"mizzle loop statistics 1\0";
/// Version, network, the document's list of nodes, identity key, time, number of entries.
const HEAD_LEN: usize = 1 + 32 + LIST_LEN + 32 + 8 + 2;
/// Node, loops, loss, lateness, state.
const ENTRY_LEN: usize = 2 + 4 + 4 + 4 + 1;
const SIGNATURE_LEN: usize = 64;

/// What a reporter says of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// Loops of its own that were to pass the node.
    pub loops: u32,
    /// The share of them that the node lost, in millionths.
    pub loss_ppm: u32,
    /// How much the node and its links add to the lateness of a loop, in microseconds.
    pub late_us: u32,
    /// Whether nothing comes through it: ten in a row, which nobody else can have lost.
    pub is_down: bool,
}

impl Said {
    /// From what a ledger of loops tells.
    #[must_use]
    pub fn of(estimate: &Estimate, is_down: bool) -> Self {
        Self {
            loops: estimate.loops,
            // Casts saturate.
            loss_ppm: ((estimate.loss * f64::from(ONE_PPM)) as u32).min(ONE_PPM),
            late_us: estimate.late_us as u32,
            is_down,
        }
    }
}

/// A report whose signature was good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    by: NodeId,
    at: Time,
    said: BTreeMap<NodeId, Said>,
    bytes: Vec<u8>,
}

/// Why a report is not heard. Whoever sent it is not told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReportError {
    /// Too long or too short, another version, entries out of order or impossible.
    #[error("it is no report")]
    Malformed,
    /// Of another network, or by a document of this one that lists other nodes.
    #[error("it belongs to another network, or to another list of its nodes")]
    OtherDocument,
    /// The document doesn't list who signed it.
    #[error("the network document doesn't list its signer")]
    Stranger,
    /// The signature isn't good.
    #[error("its signature is wrong")]
    BadSignature,
    /// Its time is too far from now, either way.
    #[error("it is too old, or from the future")]
    NotOfNow,
}

impl Report {
    /// Signs what a node found: the bytes that are published. The node's own part, and what `document` doesn't list, is left out.
    #[must_use]
    pub fn sign(
        document: &Document,
        identity: &SigningKey,
        now: Time,
        said: &BTreeMap<NodeId, Said>,
    ) -> Vec<u8> {
        let key = identity.verifying_key();
        let me = node_of(&key);
        // In the document's order, in which each is found again by its place.
        let listed = document.nodes().iter().enumerate();
        let entries: Vec<(u16, &Said)> = listed
            .filter(|(_, node)| node.id != me)
            .filter_map(|(at, node)| Some((u16::try_from(at).ok()?, said.get(&node.id)?)))
            .collect();
        let mut out = Vec::with_capacity(HEAD_LEN + entries.len() * ENTRY_LEN + SIGNATURE_LEN);
        out.push(VERSION);
        out.extend_from_slice(document.network().as_bytes());
        out.extend_from_slice(document.list());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&now.as_s().to_be_bytes());
        out.extend_from_slice(&(entries.len() as u16).to_be_bytes());
        for (at, said) in entries {
            out.extend_from_slice(&at.to_be_bytes());
            out.extend_from_slice(&said.loops.to_be_bytes());
            out.extend_from_slice(&said.loss_ppm.min(ONE_PPM).to_be_bytes());
            out.extend_from_slice(&said.late_us.to_be_bytes());
            out.push(u8::from(said.is_down));
        }
        let signature = identity.sign(&[DOMAIN, &out].concat());
        out.extend_from_slice(&signature.to_bytes());
        out
    }

    /// Reads a report by a node of this document, made about now.
    ///
    /// # Errors
    /// Why it is not heard.
    pub fn verify(bytes: &[u8], document: &Document, now: Time) -> Result<Self, ReportError> {
        use ReportError::Malformed;
        if bytes.len() > MAX_REPORT_LEN {
            return Err(Malformed);
        }
        let (signed, signature) = bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or(Malformed)?;
        let mut rest = signed;
        let [version] = take(&mut rest)?;
        let network: [u8; 32] = take(&mut rest)?;
        let list: [u8; LIST_LEN] = take(&mut rest)?;
        let key: [u8; 32] = take(&mut rest)?;
        let at = Time::from_s(u64::from_be_bytes(take(&mut rest)?));
        let n = usize::from(u16::from_be_bytes(take(&mut rest)?));
        if version != VERSION || rest.len() != n * ENTRY_LEN {
            return Err(Malformed);
        }
        // Whoever has a newer or an older document with the same nodes is heard all the same.
        if network != *document.network().as_bytes() || list != *document.list() {
            return Err(ReportError::OtherDocument);
        }
        if at > now + Duration::from_secs(2 * CLOCK_TOLERANCE_S) || at + LIFE < now {
            return Err(ReportError::NotOfNow);
        }
        let key = VerifyingKey::from_bytes(&key).map_err(|_| ReportError::Stranger)?;
        let by = node_of(&key);
        // Before the signature is looked at, which costs more.
        document.node(&by).ok_or(ReportError::Stranger)?;
        key.verify_strict(&[DOMAIN, signed].concat(), &Signature::from_bytes(signature))
            .map_err(|_| ReportError::BadSignature)?;
        let mut said = BTreeMap::new();
        let mut least = 0;
        while !rest.is_empty() {
            let place = usize::from(u16::from_be_bytes(take(&mut rest)?));
            let one = Said {
                loops: u32::from_be_bytes(take(&mut rest)?),
                loss_ppm: u32::from_be_bytes(take(&mut rest)?),
                late_us: u32::from_be_bytes(take(&mut rest)?),
                is_down: match take(&mut rest)? {
                    [0] => false,
                    [1] => true,
                    _ => return Err(Malformed),
                },
            };
            let node = document.nodes().get(place).ok_or(Malformed)?;
            // Ascending, so none stands twice; nobody speaks of himself.
            if place < least || node.id == by || one.loss_ppm > ONE_PPM {
                return Err(Malformed);
            }
            least = place + 1;
            said.insert(node.id, one);
        }
        Ok(Self {
            by,
            at,
            said,
            bytes: bytes.to_vec(),
        })
    }

    /// Who signed it.
    #[must_use]
    pub fn by(&self) -> NodeId {
        self.by
    }

    /// When, by its own clock.
    #[must_use]
    pub fn at(&self) -> Time {
        self.at
    }

    /// What it says of each node.
    #[must_use]
    pub fn said(&self) -> &BTreeMap<NodeId, Said> {
        &self.said
    }

    /// As it was signed, to pass on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The id of the node with this identity: libp2p's protobuf of an Ed25519 key, hashed.
#[must_use]
pub fn node_of(identity: &VerifyingKey) -> NodeId {
    let mut protobuf = [0; 36];
    protobuf[..4].copy_from_slice(&[0x08, 0x01, 0x12, 0x20]);
    protobuf[4..].copy_from_slice(identity.as_bytes());
    NodeId::of(&protobuf)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], ReportError> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or(ReportError::Malformed)?;
    *bytes = rest;
    Ok(*first)
}

/// The last report of each node: at most as many as the document has nodes.
#[derive(Clone, Default, Debug)]
pub struct Reports(BTreeMap<NodeId, Report>);

impl Reports {
    /// Keeps a report unless there is a later one of the same node. False if there is.
    pub fn add(&mut self, report: Report) -> bool {
        if self.0.get(&report.by).is_some_and(|known| known.at >= report.at) {
            return false;
        }
        self.0.insert(report.by, report);
        true
    }

    /// Forgets those that are too old.
    pub fn expire(&mut self, now: Time) {
        self.0.retain(|_, report| report.at + LIFE >= now);
    }

    /// All, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Report> {
        self.0.values()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those made after `known` in one string, each after its length in four bytes, big-endian; those beyond `most` bytes in all are
    /// left out.
    #[must_use]
    pub fn bundle(&self, known: Time, most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for report in self.iter().filter(|report| report.at > known) {
            if out.len() + 4 + report.bytes.len() > most {
                continue;
            }
            out.extend_from_slice(&(report.bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(&report.bytes);
        }
        out
    }

    /// The same of all, for somebody who asks again and again: where they are more than `most` bytes hold, those whose turn it is.
    /// After as many turns as it takes, one number after the other, each was among them.
    #[must_use]
    pub fn bundle_in_turn(&self, turn: u64, most: usize) -> Vec<u8> {
        let longest = self
            .iter()
            .map(|report| 4 + report.bytes.len())
            .max()
            .unwrap_or(1);
        let (all, fit) = (self.0.len() as u64, (most / longest) as u64);
        let first = if fit >= all { 0 } else { turn % all * fit % all };
        let (first, all) = (first as usize, all as usize);
        let mut out = Vec::new();
        for report in self
            .iter()
            .chain(self.iter())
            .skip(first)
            .take(all.min(fit as usize))
        {
            out.extend_from_slice(&(report.bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(&report.bytes);
        }
        out
    }

    /// Adds what is good of a bundle, which may come from anybody; returns how many reports were new and how many bad. What
    /// follows one without a length is not read, and not more of them than the document has nodes.
    pub fn add_bundle(&mut self, mut bundle: &[u8], document: &Document, now: Time) -> (usize, usize) {
        let (mut new, mut bad) = (0, 0);
        for _ in 0..document.nodes().len() {
            let Ok(len) = take::<4>(&mut bundle).map(|len| u32::from_be_bytes(len) as usize) else {
                break;
            };
            let Some((report, rest)) = bundle.split_at_checked(len) else {
                bad += 1;
                break;
            };
            bundle = rest;
            match Report::verify(report, document, now) {
                Ok(report) => new += usize::from(self.add(report)),
                Err(_) => bad += 1,
            }
        }
        (new, bad)
    }
}

/// Who could tell of a node: all but those of its own layer, whose loops don't pass it.
fn judges<'a>(document: &'a Document, node: &'a Node) -> impl Iterator<Item = &'a Node> {
    document
        .nodes()
        .iter()
        .filter(move |judge| judge.layer != node.layer)
}

/// How much each mix is to be used, in millionths of what it would be if its layer were used evenly.
///
/// A mix keeps the share of packets that the median reporter says it passes on, with at least three reporters who together are
/// more than half of those who could tell; else nothing is held against it. Then each layer is scaled to its sum, and none
/// is below [`LEAST_PPM`].
#[must_use]
pub fn weights(document: &Document, reports: &Reports) -> BTreeMap<NodeId, u32> {
    let mut out = BTreeMap::new();
    for layer in 1..=LAYERS {
        let passes: Vec<(NodeId, u64)> = document
            .layer(layer)
            .map(|mix| {
                (
                    mix.id,
                    u64::from(ONE_PPM - median_loss_ppm(document, reports, mix)),
                )
            })
            .collect();
        out.extend(scaled(&passes));
    }
    out
}

fn median_loss_ppm(document: &Document, reports: &Reports, mix: &Node) -> u32 {
    let could = judges(document, mix).count();
    let mut losses: Vec<u32> = judges(document, mix)
        .filter_map(|judge| reports.0.get(&judge.id)?.said.get(&mix.id))
        .filter(|said| said.loops >= LEAST_LOOPS)
        .map(|said| said.loss_ppm)
        .collect();
    if losses.len() < 3 || losses.len() * 2 <= could {
        return 0;
    }
    losses.sort_unstable();
    losses[(losses.len() - 1) / 2]
}

/// Scales to a mean of one; who would be below the least has that, and the others share the rest.
fn scaled(passes: &[(NodeId, u64)]) -> BTreeMap<NodeId, u32> {
    let mut out = BTreeMap::new();
    let mut free: Vec<(NodeId, u64)> = passes.to_vec();
    let mut sum = passes.len() as u64 * u64::from(ONE_PPM);
    loop {
        let all: u64 = free.iter().map(|(_, pass)| pass).sum();
        if all == 0 {
            out.extend(passes.iter().map(|(id, _)| (*id, ONE_PPM)));
            return out;
        }
        let share = |pass: u64| pass * sum / all;
        let (low, high): (Vec<_>, Vec<_>) = free
            .iter()
            .partition(|(_, pass)| share(*pass) < u64::from(LEAST_PPM));
        if low.is_empty() {
            out.extend(free.iter().map(|(id, pass)| (*id, share(*pass) as u32)));
            return out;
        }
        sum -= low.len() as u64 * u64::from(LEAST_PPM);
        out.extend(low.iter().map(|(id, _)| (*id, LEAST_PPM)));
        free = high;
    }
}

/// What most nodes say of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// Not enough of them say anything.
    Unknown,
    /// More than half of all who could tell say that something comes through it. Who gets nothing through it himself has
    /// something nearer to blame.
    Well,
    /// More than half of all who could tell say that nothing comes through it.
    Down,
}

/// What is judged of each mix. Of all who could tell, not of those who did: who passes the reports on can withhold some, and so
/// bring about that nothing is known, but no verdict. Mixes of which nothing is known are left out.
#[must_use]
pub fn verdicts(document: &Document, reports: &Reports) -> BTreeMap<NodeId, Judged> {
    let mut votes: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
    for report in reports.iter() {
        let Some(by) = document.node(&report.by) else {
            continue;
        };
        for (node, said) in &report.said {
            let listed = document.node(node);
            // Its loops don't pass its own layer, whatever it says.
            if listed.is_none_or(|listed| listed.role != Role::Mix || listed.layer == by.layer) {
                continue;
            }
            let (well, down) = votes.entry(*node).or_default();
            if said.is_down {
                *down += 1;
            } else if said.loss_ppm < ONE_PPM {
                *well += 1;
            }
        }
    }
    let verdict = |(node, (well, down)): (NodeId, (usize, usize))| {
        let same_layer = document
            .node(&node)
            .map_or(0, |mix| document.layer(mix.layer).len());
        let could = document.nodes().len() - same_layer;
        let judged = if down * 2 > could {
            Judged::Down
        } else if well * 2 > could {
            Judged::Well
        } else {
            return None;
        };
        Some((node, judged))
    };
    votes.into_iter().filter_map(verdict).collect()
}

/// The same of one node.
#[must_use]
pub fn judged(document: &Document, reports: &Reports, node: &NodeId) -> Judged {
    let all = verdicts(document, reports);
    all.get(node).copied().unwrap_or(Judged::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_base::document::{Content, NodeEntry};
    use mizzle_base::{Profile, hex};
    use mizzle_sphinx::SecretKey;

    const NOW: Time = Time::from_s(15_000);

    fn identity(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn id(n: u8) -> NodeId {
        node_of(&identity(n).verifying_key())
    }

    /// Mixes 1 to 4, 5 to 8 and 9 to 12, gateways 13 and 14.
    fn document(sequence: u64) -> Document {
        document_of(sequence, |_| ())
    }

    fn document_of(sequence: u64, change: impl Fn(&mut Content)) -> Document {
        let node = |n: u8| NodeEntry {
            id: id(n).to_string(),
            role: if n <= 12 { Role::Mix } else { Role::Gateway },
            layer: if n <= 12 { n.div_ceil(4) } else { 0 },
            peer: String::new(),
            addresses: Vec::new(),
            sphinx_key: hex::encode(SecretKey::from_bytes([n; 32]).public().as_bytes()),
            weight: 1.0,
            operator: String::new(),
            exit: None,
            mail: None,
        };
        let mut content = Content {
            network: "test".into(),
            sequence,
            epoch: 1,
            valid_from_s: 10_000,
            valid_until_s: 20_000,
            profile: Profile::browse(),
            nodes: (1..=14).map(node).collect(),
        };
        change(&mut content);
        let authority = SigningKey::from_bytes(&[99; 32]);
        let bytes = content.sign(&authority).unwrap();
        Document::verify(&bytes, &authority.verifying_key(), NOW, 0).unwrap()
    }

    fn said(loss_ppm: u32, is_down: bool) -> Said {
        Said {
            loops: 100,
            loss_ppm,
            late_us: 2_000,
            is_down,
        }
    }

    /// Every node says this of every mix of another layer.
    fn reports(document: &Document, says: impl Fn(u8, u8) -> Said) -> Reports {
        let mut all = Reports::default();
        for by in 1..=14 {
            let layer = |n: u8| document.node(&id(n)).unwrap().layer;
            let of = (1..=12).filter(|of| layer(*of) != layer(by));
            let said = of.map(|of| (id(of), says(by, of))).collect();
            let bytes = Report::sign(document, &identity(by), NOW, &said);
            assert!(all.add(Report::verify(&bytes, document, NOW).unwrap()));
        }
        all
    }

    #[test]
    fn a_report_is_read_as_it_was_signed_and_nothing_else_is() {
        let document = document(7);
        let what: BTreeMap<_, _> = (1..=14).map(|n| (id(n), said(u32::from(n), n == 2))).collect();
        let bytes = Report::sign(&document, &identity(5), NOW, &what);
        let report = Report::verify(&bytes, &document, NOW).unwrap();
        assert_eq!((report.by(), report.at()), (id(5), NOW));
        assert_eq!(report.said().len(), 13, "all but itself");
        assert_eq!(report.said()[&id(2)], said(2, true));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Report::verify(&bad, &document, NOW).is_err(), "byte {at}");
            assert!(
                Report::verify(&bytes[..at], &document, NOW).is_err(),
                "length {at}"
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(
            Report::verify(&longer, &document, NOW),
            Err(ReportError::Malformed)
        );
        let huge = vec![1; MAX_REPORT_LEN + 1];
        assert_eq!(Report::verify(&huge, &document, NOW), Err(ReportError::Malformed));
    }

    #[test]
    fn strangers_other_documents_and_other_times_are_refused() {
        let document = document(7);
        let none = BTreeMap::new();
        let check = |bytes: &[u8], now| Report::verify(bytes, &document, now).map(|r| r.by());
        let bytes = Report::sign(&document, &identity(1), NOW, &none);
        let stranger = Report::sign(&document, &identity(77), NOW, &none);
        assert_eq!(check(&stranger, NOW), Err(ReportError::Stranger));
        // While a newer document with the same nodes goes round, reports by both are heard.
        let older = Report::sign(&self::document(6), &identity(1), NOW, &none);
        assert_eq!(check(&older, NOW), Ok(id(1)));
        let others: [fn(&mut Content); 3] = [
            |c| c.nodes.swap(0, 1),
            |c| drop(c.nodes.pop()),
            |c| c.network = "another".into(),
        ];
        for change in others {
            let other = Report::sign(&document_of(8, change), &identity(1), NOW, &none);
            assert_eq!(check(&other, NOW), Err(ReportError::OtherDocument));
        }
        let clocks = Duration::from_secs(2 * CLOCK_TOLERANCE_S);
        assert_eq!(
            check(&bytes, NOW - clocks),
            Ok(id(1)),
            "another's clock may be ahead"
        );
        let second = Duration::from_secs(1);
        assert_eq!(check(&bytes, NOW - clocks - second), Err(ReportError::NotOfNow));
        assert_eq!(check(&bytes, NOW + LIFE), Ok(id(1)));
        assert_eq!(check(&bytes, NOW + LIFE + second), Err(ReportError::NotOfNow));
    }

    #[test]
    fn signed_nonsense_is_refused() {
        let document = document(7);
        let two: BTreeMap<_, _> = [(id(1), said(1, false)), (id(2), said(2, false))].into();
        let bytes = Report::sign(&document, &identity(5), NOW, &two);
        let signed_anew = |change: fn(&mut Vec<u8>)| {
            let mut body = bytes[..bytes.len() - SIGNATURE_LEN].to_vec();
            change(&mut body);
            let signature = identity(5).sign(&[DOMAIN, &body].concat());
            body.extend_from_slice(&signature.to_bytes());
            Report::verify(&body, &document, NOW).map(|_| ())
        };
        assert_eq!(signed_anew(|_| ()), Ok(()));
        // The same node twice, itself, a node that isn't, more lost than was sent, a state that isn't, another count.
        let cases: [fn(&mut Vec<u8>); 6] = [
            |b| b[HEAD_LEN + ENTRY_LEN + 1] = 0,
            |b| b[HEAD_LEN + ENTRY_LEN + 1] = 4,
            |b| b[HEAD_LEN + ENTRY_LEN] = 9,
            |b| b[HEAD_LEN + 6] = 255,
            |b| b[HEAD_LEN + 14] = 2,
            |b| b[HEAD_LEN - 1] = 3,
        ];
        for (n, change) in cases.into_iter().enumerate() {
            assert_eq!(signed_anew(change), Err(ReportError::Malformed), "case {n}");
        }
    }

    #[test]
    fn weights_follow_the_median_and_have_a_floor() {
        let document = document(7);
        let even = weights(&document, &Reports::default());
        assert!(even.len() == 12 && even.values().all(|w| *w == ONE_PPM));
        // Mix 1 loses all, mix 5 a fifth; four of the ten who tell of layer 3 say that mix 9 loses all.
        let says = |by: u8, of: u8| match of {
            1 => said(ONE_PPM, true),
            5 => said(200_000, false),
            9 if by <= 4 => said(ONE_PPM, true),
            _ => said(0, false),
        };
        let all = reports(&document, says);
        let got = weights(&document, &all);
        assert_eq!(got[&id(1)], LEAST_PPM);
        assert_eq!(got[&id(2)], (4 * ONE_PPM - LEAST_PPM) / 3);
        assert_eq!(got[&id(5)], 842_105, "0.8 of 3.8, times 4");
        assert_eq!(got[&id(9)], ONE_PPM, "most say that it is well");
        for layer in [1..=4, 5..=8, 9..=12] {
            let sum: u32 = layer.map(|n| got[&id(n)]).sum();
            assert!((4 * ONE_PPM - 4..=4 * ONE_PPM).contains(&sum), "{sum}");
        }
        // A whole layer down: nothing is better than the rest.
        let down = weights(&document, &reports(&document, |_, _| said(ONE_PPM, true)));
        assert!(down.values().all(|w| *w == ONE_PPM));
    }

    #[test]
    fn who_hears_too_few_or_sees_too_little_holds_nothing_against_anybody() {
        let document = document(7);
        let few_loops = |_, _| Said {
            loops: LEAST_LOOPS - 1,
            ..said(ONE_PPM, true)
        };
        let got = weights(&document, &reports(&document, few_loops));
        assert!(got.values().all(|w| *w == ONE_PPM));
        let all = reports(&document, |_, of| {
            said(if of == 1 { ONE_PPM } else { 0 }, of == 1)
        });
        assert_eq!(judged(&document, &all, &id(1)), Judged::Down);
        assert_eq!(judged(&document, &all, &id(2)), Judged::Well);
        // Whoever passes reports on chooses five of the ten who can tell of layer 1.
        let mut some = Reports::default();
        for report in all.iter().filter(|r| (5..=9).any(|n| id(n) == r.by())) {
            some.add(report.clone());
        }
        assert_eq!(judged(&document, &some, &id(1)), Judged::Unknown);
        assert_eq!(weights(&document, &some)[&id(1)], ONE_PPM);
        assert_eq!(judged(&document, &all, &id(13)), Judged::Unknown, "a gateway");
    }

    #[test]
    fn who_asks_again_and_again_hears_all_reports_of_a_network_of_any_size() {
        let document = document(7);
        let all = reports(&document, |_, of| {
            said(if of == 1 { ONE_PPM } else { 0 }, of == 1)
        });
        let longest = all.iter().map(|report| report.bytes.len()).max().unwrap();
        for fit in [1, 3, 4, 5, 13, 14, 100] {
            let (most, mut heard) = (fit * (4 + longest), Reports::default());
            for turn in 0..14_u64.div_ceil(fit as u64) {
                let bundle = all.bundle_in_turn(1_000_003 + turn, most);
                assert!(bundle.len() <= most);
                assert_eq!(heard.add_bundle(&bundle, &document, NOW).1, 0);
            }
            assert_eq!(heard.iter().count(), 14, "{fit} at a time");
            assert_eq!(judged(&document, &heard, &id(1)), Judged::Down);
        }
        assert!(all.bundle_in_turn(3, 100).is_empty(), "not one fits");
        assert!(Reports::default().bundle_in_turn(3, 1_000).is_empty());
    }

    #[test]
    fn bundles_carry_what_is_new_and_survive_any_bytes() {
        let document = document(7);
        let all = reports(&document, |_, _| said(0, false));
        let bundle = all.bundle(Time::ZERO, usize::MAX);
        let mut heard = Reports::default();
        assert_eq!(heard.add_bundle(&bundle, &document, NOW), (14, 0));
        assert_eq!(heard.add_bundle(&bundle, &document, NOW), (0, 0), "known already");
        assert!(all.bundle(NOW, usize::MAX).is_empty());
        assert!(all.bundle(Time::ZERO, 1_000).len() <= 1_000);
        let mut spoilt = bundle.clone();
        spoilt[100] ^= 1;
        let mut heard = Reports::default();
        assert_eq!(heard.add_bundle(&spoilt, &document, NOW), (13, 1));
        for len in 0..bundle.len().min(700) {
            Reports::default().add_bundle(&bundle[..len], &document, NOW);
        }
        let endless = vec![0; 1 << 20];
        assert_eq!(Reports::default().add_bundle(&endless, &document, NOW), (0, 14));
        heard.expire(NOW + LIFE + Duration::from_secs(1));
        assert!(heard.is_empty());
    }
}
