//! `/mizzle/directory/1.0.0`: a client asks a gateway for the network document.
//!
//! Question: the sequence number that the asker knows, 8 bytes big-endian. Answer: the time that it is (UTC), in seconds, 8
//! bytes big-endian, then the document as the authority signed it, or nothing if that is no newer. To anything else the
//! answer is empty. Two one-way streams of the packet link, one each way. The answer is verified
//! by the asker against the authority it trusts: a gateway can withhold a document, never change one.

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

/// The answer to a question.
pub(crate) fn answer(document: &Document, now: Time, question: &[u8]) -> link::Frame {
    let Ok(known) = <[u8; QUESTION_LEN]>::try_from(question) else {
        return Box::default();
    };
    let mut answer = now.as_s().to_be_bytes().to_vec();
    if u64::from_be_bytes(known) < document.sequence() {
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
    link.control.add_peer(gateway, addresses);
    let question: link::Frame = Box::new(known.to_be_bytes());
    let answer = async {
        if let Err((why, _)) = link.control.try_send(&gateway, question) {
            return Err(FetchError::Unreachable(why.to_string()));
        }
        loop {
            match link.receiver.recv().await {
                Some(link::Event::Frame { peer, frame, .. }) if peer == gateway => {
                    let (time, document) = frame
                        .split_first_chunk::<TIME_LEN>()
                        .ok_or(FetchError::NotUnderstood)?;
                    return Ok(Answer {
                        time: Time::from_s(u64::from_be_bytes(*time)),
                        document: document.to_vec(),
                    });
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
    link.control.remove_peer(gateway);
    result
}
