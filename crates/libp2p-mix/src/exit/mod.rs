//! The exit: carries out what a packet asks of its last hop, and sends the answer by the SURBs that came with it.
//!
//! Whatever goes wrong, the sender gets the same empty reply, or nothing where he sent no SURB. What went wrong is in the
//! counters: `exit.*`.

mod handover;
mod read;
mod serve;

use std::{sync::Arc, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::StreamProtocol;
use mizzle_sphinx::{Packet, Surb, use_surb_in_place};
use tokio::sync::mpsc;

use crate::{
    address::{Block, Endpoint, NOWHERE},
    lock,
    message::{self, Message, SurbBytes},
    shared::{Command, Shared, new_rng, sequence},
};

pub(crate) use handover::HandOver;
pub use read::Read;
pub(crate) use serve::serve;
pub use serve::{AnswerTooLong, Exchange, ExchangeStream, Incoming};

/// How long a stream without an answer is kept for the destination to take what was written.
const LINGER: Duration = Duration::from_secs(3);

/// libp2p's ping, which reads one stream a connection, the newest: where the exit has it too, its first ping of a new connection
/// and ours may take each other's place. To ask again is harmless with this protocol, and with it alone.
const PING: &str = "/ipfs/ping/1.0.0";

/// The SURBs of a request, in one place on the heap each.
pub(crate) type Surbs = Vec<Box<SurbBytes>>;

/// A packet has us as its last hop.
pub(crate) fn on_exit(shared: &Arc<Shared>, destination: &Block, packet: &Packet) {
    let request = match message::decode(shared.dialect, packet.message()) {
        Err(bad) => {
            return shared.count(match bad {
                message::BadMessage::Padding => "exit.bad_padding",
                message::BadMessage::Codec => "exit.bad_codec",
                message::BadMessage::Surbs => "exit.bad_surbs",
            });
        }
        Ok(Message::Cover) => return shared.count("cover.received"),
        Ok(Message::Request(request)) => request,
    };
    let surbs: Surbs = request.surbs.iter().map(|surb| Box::new(**surb)).collect();
    let body = request.body.to_vec();
    let endpoint = match (*destination == NOWHERE, Endpoint::from_block(destination)) {
        (true, _) => None,
        (false, Ok(endpoint)) if endpoint.peer == shared.me => None,
        (false, Ok(endpoint)) => Some(endpoint),
        (false, Err(_)) => return fail(shared, "exit.bad_destination", &surbs),
    };
    let Some(endpoint) = endpoint else {
        return serve_here(shared, request.codec, body, surbs);
    };
    if !shared.exit.allows(&endpoint, || shared.return_address()) {
        return fail(shared, "exit.not_allowed", &surbs);
    }
    let read = shared.reads.get(request.codec).copied();
    if read.is_none() && !surbs.is_empty() {
        return fail(shared, "exit.unknown_codec", &surbs);
    }
    let Ok(codec) = StreamProtocol::try_from_owned(request.codec.to_owned()) else {
        return fail(shared, "exit.bad_codec", &surbs);
    };
    let Ok(permit) = shared.exits.clone().try_acquire_owned() else {
        return fail(shared, "exit.full", &surbs);
    };
    if surbs.is_empty() && read.is_none() && shared.served.hands_over(request.codec) {
        return handover::hand_over(shared, &endpoint, &body, permit);
    }
    let task = shared.clone();
    shared.runtime.spawn(async move {
        let answered = tokio::time::timeout(
            task.exit_timeout,
            ask_once_or_twice(
                &task,
                &endpoint,
                &codec,
                &body,
                read.filter(|_| !surbs.is_empty()),
            ),
        );
        match answered.await {
            Ok(Ok(answer)) if surbs.is_empty() => {
                debug_assert!(answer.is_empty());
                task.count("exit.done");
            }
            Ok(Ok(answer)) => {
                task.count("exit.answered");
                reply(&task, &surbs, &answer);
            }
            Ok(Err(why)) => fail(&task, why, &surbs),
            Err(_) => fail(&task, "exit.timed_out", &surbs),
        }
        drop(permit);
    });
}

/// Something for a protocol that is served here.
fn serve_here(shared: &Arc<Shared>, codec: &str, body: Vec<u8>, surbs: Surbs) {
    let handler = lock(&shared.handlers).get(codec).cloned();
    let Some(handler) = handler else {
        return fail(shared, "exit.unknown_codec", &surbs);
    };
    let exchange = Exchange::from_mixnet(shared.clone(), codec.to_owned(), body, surbs);
    match handler.try_send(exchange) {
        Ok(()) => shared.count("exit.served"),
        // Dropping the exchange sends its empty replies.
        Err(mpsc::error::TrySendError::Full(_)) => shared.count("exit.handler_full"),
        Err(mpsc::error::TrySendError::Closed(_)) => shared.count("exit.unknown_codec"),
    }
}

async fn ask_once_or_twice(
    shared: &Shared,
    endpoint: &Endpoint,
    codec: &StreamProtocol,
    body: &[u8],
    read: Option<Read>,
) -> Result<Vec<u8>, &'static str> {
    match ask(shared, endpoint.clone(), codec.clone(), body, read).await {
        Err("exit.stream_failed") if codec.as_ref() == PING => {
            ask(shared, endpoint.clone(), codec.clone(), body, read).await
        }
        done => done,
    }
}

/// Writes to the destination, and reads its answer.
async fn ask(
    shared: &Shared,
    endpoint: Endpoint,
    codec: StreamProtocol,
    body: &[u8],
    read: Option<Read>,
) -> Result<Vec<u8>, &'static str> {
    let stream = shared
        .opener
        .open(endpoint.peer, vec![endpoint.address], codec)
        .await;
    let mut stream = stream.map_err(|_| "exit.unreachable")?;
    let broken = |_| "exit.stream_failed";
    stream.write_all(body).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let Some(read) = read else {
        stream.close().await.map_err(broken)?;
        // Until the destination has closed its side too, what we wrote may still be on its way, and a stream that is let
        // go could take it along. It has nothing to say to us.
        let ended = async {
            let mut nothing = [0; 64];
            while matches!(stream.read(&mut nothing).await, Ok(1..)) {}
        };
        // One that stays open is no failure: it had its time to take what was written.
        let _ = tokio::time::timeout(LINGER, ended).await;
        return Ok(Vec::new());
    };
    if matches!(read, Read::ToEnd(_)) {
        stream.close().await.map_err(broken)?;
    }
    let read = read.at_most(message::max_reply_len(shared.dialect));
    let answer = read.read(&mut stream).await;
    let answer = answer.map_err(|e| match e.kind() {
        std::io::ErrorKind::FileTooLarge => "exit.answer_too_long",
        _ => "exit.stream_failed",
    })?;
    let _ = stream.close().await;
    Ok(answer)
}

/// The sender learns that it failed, and not why.
fn fail(shared: &Arc<Shared>, why: &'static str, surbs: &Surbs) {
    shared.count(why);
    reply(shared, surbs, &[]);
}

/// Sends the same answer by every SURB.
pub(crate) fn reply(shared: &Arc<Shared>, surbs: &Surbs, body: &[u8]) {
    if surbs.is_empty() {
        return;
    }
    let Ok(mut rng) = new_rng() else {
        return shared.count("reply.no_randomness");
    };
    for surb in surbs {
        let (first_hop, surb) = Surb::from_bytes_with_address(surb);
        let mut packet = Packet::zeroed();
        let sequence = sequence(&mut rng);
        let body = match message::encode_reply(shared.dialect, body, sequence, packet.message_mut()) {
            Ok(()) => Ok(()),
            Err(_) => {
                shared.count("exit.answer_too_long");
                message::encode_reply(shared.dialect, &[], sequence, packet.message_mut())
            }
        };
        // An empty body fits.
        debug_assert!(body.is_ok());
        use_surb_in_place(shared.dialect, surb, &mut packet);
        if !shared.claim_slot() {
            shared.count("drop.slot_exhausted");
            continue;
        }
        let hold = shared.hold(&mut rng);
        match shared.commands.try_send(Command::Send {
            to: first_hop,
            packet,
            hold,
            left: None,
        }) {
            Ok(()) => shared.count("reply.sent"),
            Err(_) => shared.count("drop.queue_full"),
        }
    }
}
