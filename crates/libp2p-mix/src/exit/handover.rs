//! Gossip that the exit hands to a peer of a topic, as [`publish_to`](crate::Control::publish_to) asks for.
//!
//! Gossipsub wants one long stream from each neighbour: rust-libp2p reads the newest one only, what was on an older one is lost,
//! and after five on a connection it takes none any more. So there is one task a peer, which keeps its stream for as long as
//! the connection lasts and writes one message after another; the streams that the peer opens to us are taken and
//! thrown away (`streams`), for without them it takes us for somebody who doesn't speak its protocol and reads nothing.
//!
//! A swarm with a gossipsub of its own has that one stream already. Such an exit publishes what it is asked to hand over, if its
//! application [publishes for others](crate::Control::publications).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, Stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::Exchange;
use crate::{
    address::Endpoint,
    gossip::{MESHSUB_PROTOCOL, PUBLISH_PROTOCOL, Rpc},
    lock,
    shared::Shared,
};

/// Peers that streams are kept to. Beyond it the one that was used longest ago gives its place up.
const PEERS: usize = 256;
/// Messages that wait for one peer.
const QUEUE: usize = 64;

/// A message on its way, with its place among the exits at work.
type Queued = (Vec<u8>, OwnedSemaphorePermit);

struct Held {
    queue: mpsc::Sender<Queued>,
    /// Which task it is: the peer may get another one.
    task: u64,
    used: u64,
}

#[derive(Default)]
struct Peers {
    held: HashMap<PeerId, Held>,
    uses: u64,
}

/// The peers that gossip is handed to.
#[derive(Default)]
pub(crate) struct HandOver(Mutex<Peers>);

/// Hands an RPC to the peer, or publishes it where this peer gossips itself.
pub(super) fn hand_over(
    shared: &Arc<Shared>,
    endpoint: &Endpoint,
    body: &[u8],
    permit: OwnedSemaphorePermit,
) {
    // A neighbour ends the stream at what it can't read, and counts that against us.
    let Some(rpc) = Rpc::decode(body) else {
        return shared.count("exit.bad_gossip");
    };
    let publisher = lock(&shared.handlers).get(PUBLISH_PROTOCOL.as_ref()).cloned();
    if let Some(publisher) = publisher {
        let Some(publications) = rpc.publications() else {
            return shared.count("exit.gossips_itself");
        };
        for publication in publications {
            let codec = PUBLISH_PROTOCOL.as_ref().to_owned();
            let exchange = Exchange::from_mixnet(shared.clone(), codec, publication.encode(), Vec::new());
            shared.count(match publisher.try_send(exchange) {
                Ok(()) => "exit.served",
                Err(_) => "exit.handler_full",
            });
        }
        return;
    }
    if shared.served.gossips_elsewhere() {
        return shared.count("exit.gossips_itself");
    }
    let mut queued = (rpc.encode(), permit);
    let mut peers = lock(&shared.hand_over.0);
    peers.uses += 1;
    let used = peers.uses;
    if let Some(held) = peers.held.get_mut(&endpoint.peer) {
        held.used = used;
        match held.queue.try_send(queued) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(_)) => return shared.count("exit.full"),
            // Its task ended without a word: the runtime was shut down around it.
            Err(mpsc::error::TrySendError::Closed(back)) => queued = back,
        }
    }
    if peers.held.len() >= PEERS {
        let oldest = peers
            .held
            .iter()
            .min_by_key(|(_, held)| held.used)
            .map(|(peer, _)| *peer);
        // Without its sender the task ends once it has written what waits.
        oldest.map(|peer| peers.held.remove(&peer));
    }
    let (queue, queued_rpcs) = mpsc::channel(QUEUE);
    // There is room in an empty queue.
    let _ = queue.try_send(queued);
    peers.held.insert(
        endpoint.peer,
        Held {
            queue,
            task: used,
            used,
        },
    );
    drop(peers);
    let task = Task {
        shared: shared.clone(),
        endpoint: endpoint.clone(),
        number: used,
        queue: queued_rpcs,
        stream: None,
    };
    shared.runtime.spawn(task.run());
}

/// The task of one peer.
struct Task {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    number: u64,
    queue: mpsc::Receiver<Queued>,
    stream: Option<Stream>,
}

impl Task {
    async fn run(mut self) {
        while let Some((rpc, permit)) = self.next().await {
            let timeout = self.shared.exit_timeout;
            let written = tokio::time::timeout(timeout, self.write(&rpc)).await;
            self.shared.count(match written {
                Ok(Ok(())) => "exit.done",
                Ok(Err(why)) => why,
                Err(_) => {
                    // Half of a message may be on it.
                    self.stream = None;
                    "exit.timed_out"
                }
            });
            drop(permit);
        }
        if let Some(mut stream) = self.stream {
            let _ = tokio::time::timeout(super::LINGER, stream.close()).await;
        }
    }

    /// What is to be written next; `None` once there is neither a stream to keep nor anything that waits.
    async fn next(&mut self) -> Option<Queued> {
        loop {
            let Some(stream) = &mut self.stream else {
                return match self.queue.try_recv() {
                    Ok(queued) => Some(queued),
                    Err(_) => self.leave(),
                };
            };
            let mut nothing = [0; 64];
            tokio::select! {
                biased;
                // A neighbour says nothing on it: this is its end.
                read = stream.read(&mut nothing) => if !matches!(read, Ok(1..)) {
                    self.stream = None;
                },
                queued = self.queue.recv() => return queued,
            }
        }
    }

    /// Gives the place up, unless something came meanwhile.
    fn leave(&mut self) -> Option<Queued> {
        let mut peers = lock(&self.shared.hand_over.0);
        // Who adds to the queue holds this lock.
        if let Ok(queued) = self.queue.try_recv() {
            return Some(queued);
        }
        let held = peers.held.get(&self.endpoint.peer);
        if held.is_some_and(|held| held.task == self.number) {
            peers.held.remove(&self.endpoint.peer);
        }
        None
    }

    /// Writes on the stream that is kept, once more on a new one if that breaks.
    async fn write(&mut self, rpc: &[u8]) -> Result<(), &'static str> {
        for _ in 0..2 {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => {
                    let Endpoint { peer, address } = self.endpoint.clone();
                    let opened = self
                        .shared
                        .opener
                        .open(peer, vec![address], MESHSUB_PROTOCOL)
                        .await;
                    opened.map_err(|_| "exit.unreachable")?
                }
            };
            if stream.write_all(rpc).await.is_ok() && stream.flush().await.is_ok() {
                self.stream = Some(stream);
                return Ok(());
            }
        }
        Err("exit.stream_failed")
    }
}
