//! `/mizzle/directory/1.0.0`: a client asks a gateway for the network document.
//!
//! Question: the sequence number that the asker knows, 8 bytes big-endian. Answer: the time that it is (UTC), in seconds, 8
//! bytes big-endian, then the document as the authority signed it, or nothing if that is no newer. Another question is
//! `loop reports?`, for what nodes publish of their loops: the answer is the last reports, each after its length in four bytes,
//! 1 MiB at most. `loop report:` and a report is a node that publishes, and has no answer. To anything else the answer is empty.
//! Two one-way streams of the packet link, one each way. The answer is verified by the asker against the authority it trusts: a
//! gateway can withhold a document or a report, never change one.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use libp2p_mix::link;
use mizzle_base::{Document, Time};
use tokio::time::timeout;

use crate::host::Link;

/// Length of a question in bytes.
pub const QUESTION_LEN: usize = 8;
/// Length of the time in an answer.
pub const TIME_LEN: usize = 8;
/// Longest answer with reports in bytes: of some 250 nodes that tell of each other. In larger networks some are left out.
pub const MAX_BUNDLE_LEN: usize = 1 << 20;
const ASK_REPORTS: &[u8] = b"loop reports?";
const PUBLISH: &[u8] = b"loop report:";
const TIMEOUT: Duration = Duration::from_secs(15);

/// No document came.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The gateway can't be reached.
    #[error("the gateway can't be reached: {0}")]
    Unreachable(String),
    /// It is reached but doesn't answer.
    #[error("the gateway sent no network document within {} s", TIMEOUT.as_secs())]
    NoAnswer,
    /// What it answers is none.
    #[error("the gateway's answer is no answer of a directory: its mizzle may be of another version")]
    NotUnderstood,
}

/// What a gateway answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The time by its clock, when it answered.
    pub time: Time,
    /// A document, not verified; empty if it has none that is newer.
    pub document: Vec<u8>,
}

/// What somebody wants of a directory.
pub(crate) enum Asked<'a> {
    /// A document newer than this.
    Document(u64),
    /// What nodes publish of their loops.
    Reports,
    /// It publishes this report.
    Published(&'a [u8]),
    /// It makes no sense; the answer is empty.
    Nothing,
}

/// Reads a question.
pub(crate) fn asked(question: &[u8]) -> Asked<'_> {
    if question == ASK_REPORTS {
        return Asked::Reports;
    }
    if let Some(report) = question.strip_prefix(PUBLISH) {
        return Asked::Published(report);
    }
    match <[u8; QUESTION_LEN]>::try_from(question) {
        Ok(known) => Asked::Document(u64::from_be_bytes(known)),
        Err(_) => Asked::Nothing,
    }
}

/// The question for what nodes publish.
pub(crate) fn ask_reports() -> link::Frame {
    ASK_REPORTS.into()
}

/// What a node sends that publishes this report.
pub(crate) fn published(report: &[u8]) -> link::Frame {
    [PUBLISH, report].concat().into()
}

/// The answer, at `now`, to who knows a document.
pub(crate) fn answer(document: &Document, now: Time, known: u64) -> link::Frame {
    let mut answer = now.as_s().to_be_bytes().to_vec();
    if known < document.sequence() {
        answer.extend_from_slice(document.bytes());
    }
    answer.into()
}

/// Asks `gateway` for a document newer than `known`.
///
/// # Errors
/// When none comes in time.
pub async fn fetch(
    link: &mut Link,
    gateway: PeerId,
    addresses: Vec<Multiaddr>,
    known: u64,
) -> Result<Answer, FetchError> {
    let answer = ask(link, gateway, addresses, Box::new(known.to_be_bytes())).await?;
    let (time, document) = answer
        .split_first_chunk::<TIME_LEN>()
        .ok_or(FetchError::NotUnderstood)?;
    Ok(Answer {
        time: Time::from_s(u64::from_be_bytes(*time)),
        document: document.to_vec(),
    })
}

/// Asks `gateway` for what nodes published of their loops: a bundle for [`mizzle_traffic::weights::Reports::add_bundle`].
///
/// # Errors
/// When no answer comes in time.
pub async fn fetch_reports(
    link: &mut Link,
    gateway: PeerId,
    addresses: Vec<Multiaddr>,
) -> Result<Vec<u8>, FetchError> {
    ask(link, gateway, addresses, ask_reports()).await
}

async fn ask(
    link: &mut Link,
    gateway: PeerId,
    addresses: Vec<Multiaddr>,
    question: link::Frame,
) -> Result<Vec<u8>, FetchError> {
    link.control.add_peer(gateway, addresses);
    let answer = async {
        if let Err((why, _)) = link.control.try_send(&gateway, question) {
            return Err(FetchError::Unreachable(why.to_string()));
        }
        loop {
            match link.receiver.recv().await {
                Some(link::Event::Frame { peer, frame, .. }) if peer == gateway => {
                    return Ok(frame.into_vec());
                }
                Some(link::Event::Unreachable { peer, reason }) if peer == gateway => {
                    return Err(FetchError::Unreachable(reason));
                }
                Some(_) => {}
                None => return Err(FetchError::NoAnswer),
            }
        }
    };
    let result = timeout(TIMEOUT, answer)
        .await
        .unwrap_or(Err(FetchError::NoAnswer));
    if result.is_err() {
        // What still comes would be taken for the answer to the next question. After an answer its streams serve the next one:
        // closed now, they could take a question with them that follows at once.
        link.control.remove_peer(gateway);
    }
    result
}
