//! How nodes come into the pool by themselves: by signed records, over identify (feature `identify`), from a
//! Kademlia table (feature `kad`), or however else an application gets at them.
//!
//! What a record says is believed of its signer and of nobody else. Whoever can make many identities can fill a pool with
//! them: a network that anybody may join is as good as its [spam protection](crate::spam), and a list is better.

#[cfg(feature = "identify")]
pub mod identify;
#[cfg(feature = "kad")]
pub mod kademlia;
mod proto;
mod record;

use std::{sync::Arc, time::Duration};

use futures::AsyncWriteExt;
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::Semaphore;

use crate::{Control, Event, Read, pool::Source, shared::Shared};

pub(crate) use proto::{Value, next_field, put_bytes, varint};
pub use record::{BadRecord, MAX_RECORD_LEN, NodeRecord};

/// A stream of this protocol says the signed record of whom it is opened to, with its length in front, and ends.
pub const RECORD_PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p-mix/record/1.0.0");

/// How long a node of a record stays in the pool, unless its record is seen again.
const LIFETIME: Duration = Duration::from_secs(2 * 3600);
/// Records that are asked for at a time, and said at a time.
const AT_A_TIME: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(10);

impl Control {
    /// Our own signed record, for others to put into their pools; `None` until our address is known.
    #[must_use]
    pub fn record(&self) -> Option<Vec<u8>> {
        record_of(&self.shared)
    }

    /// Puts the node of a signed record into the pool for two hours. An older record than the one known changes nothing.
    ///
    /// # Errors
    /// [`BadRecord`], which the pool counts.
    pub fn offer_record(&self, bytes: &[u8]) -> Result<PeerId, BadRecord> {
        offer(&self.shared, bytes)
    }

    /// Asks a connected peer for its record and puts it into the pool; nothing if it has none, or too many are asked.
    pub fn ask_for_record(&self, peer: PeerId) {
        let shared = self.shared.clone();
        let Ok(permit) = shared.record_asks.clone().try_acquire_owned() else {
            return shared.count("discovery.busy");
        };
        self.shared.runtime.spawn(async move {
            let asked = async {
                let mut stream = shared.opener.open(peer, Vec::new(), RECORD_PROTOCOL).await.ok()?;
                let answer = Read::LengthPrefixed(MAX_RECORD_LEN)
                    .read(&mut stream)
                    .await
                    .ok()?;
                // Without its prefix: one byte, or two from 128 on.
                let start = answer.iter().position(|byte| byte & 0x80 == 0)? + 1;
                Some(answer[start..].to_vec())
            };
            match tokio::time::timeout(TIMEOUT, asked).await {
                Ok(Some(record)) if NodeRecord::read(&record).is_ok_and(|r| r.node.endpoint.peer == peer) => {
                    let _ = offer(&shared, &record);
                }
                _ => shared.count("discovery.no_record"),
            }
            drop(permit);
        });
    }
}

fn record_of(shared: &Shared) -> Option<Vec<u8>> {
    let node = crate::MixNode {
        endpoint: shared.return_address()?,
        key: shared.key,
    };
    NodeRecord {
        seq: shared.now().as_s(),
        node,
    }
    .sign(&shared.keypair)
    .ok()
}

fn offer(shared: &Shared, bytes: &[u8]) -> Result<PeerId, BadRecord> {
    let offered = NodeRecord::read(bytes).and_then(|NodeRecord { seq, node }| {
        let peer = node.endpoint.peer;
        let expires = shared.now() + LIFETIME;
        let new = !shared.pool.contains(&peer) && peer != shared.me;
        shared
            .pool
            .insert(node, Source::Discovered { expires, seq })
            .map_err(BadRecord::Node)?;
        if new {
            shared.tell(Event::NodeFound { peer });
        }
        Ok(peer)
    });
    if let Err(BadRecord::Node(why)) = &offered {
        shared.pool.refused(*why);
    } else if offered.is_err() {
        shared.count("discovery.bad_record");
    }
    offered
}

/// Says our record to whoever asks.
pub(crate) fn serve(shared: &Arc<Shared>) {
    let mut streams = shared.served.serve(&RECORD_PROTOCOL, AT_A_TIME);
    // The task ends with the behaviour, so it may not keep alive what outlives it.
    let weak = Arc::downgrade(shared);
    let tasks = Arc::new(Semaphore::new(AT_A_TIME));
    shared.runtime.spawn(async move {
        while let Some(mut stream) = streams.recv().await {
            let Some(record) = weak
                .upgrade()
                .filter(|s| !s.is_closed())
                .and_then(|s| record_of(&s))
            else {
                continue;
            };
            let Ok(permit) = tasks.clone().acquire_owned().await else {
                return;
            };
            tokio::spawn(async move {
                let said = async {
                    let mut bytes = varint(record.len() as u64);
                    bytes.extend_from_slice(&record);
                    stream.write_all(&bytes).await?;
                    stream.close().await
                };
                let _ = tokio::time::timeout(TIMEOUT, said).await;
                drop(permit);
            });
        }
    });
}

/// Records that are asked for at a time.
pub(crate) fn asks() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_A_TIME))
}
