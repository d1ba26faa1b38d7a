//! The entry: makes packets of requests. Chooses paths, makes SURBs, and remembers them until the reply comes.

use std::time::Duration;

use libp2p::{PeerId, StreamProtocol};
use mizzle_base::{Rng, Time};
use mizzle_sphinx::{Hop, ID_LEN, Packet, SURB_WITH_ADDRESS_LEN, SurbRequest, build_in_place, build_surbs};
use mizzle_traffic::draw;
use std::sync::Arc;
use tokio::sync::oneshot;

use crate::{
    HOPS,
    address::{Block, Endpoint, NOWHERE},
    error::{NoRoute, SendError},
    message::{self, CannotEncode, MAX_SURBS, SurbBytes},
    pool::Member,
    shared::{Shared, sequence},
    surbs::Outcome,
};

/// For whom a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination {
    /// A peer that need not know of mixes: the last node of the path connects to it.
    Peer(Endpoint),
    /// A node of the pool, which is itself the last of the path: nobody else sees the message.
    Mix(PeerId),
}

impl Destination {
    /// A peer at an address that ends in `/p2p/PEERID`.
    ///
    /// # Errors
    /// [`NoRoute::Destination`] if it doesn't fit into a packet.
    pub fn peer(address: &libp2p::Multiaddr) -> Result<Self, NoRoute> {
        Endpoint::from_multiaddr(address)
            .map(Self::Peer)
            .map_err(NoRoute::Destination)
    }
}

/// A packet that is ready, and what waits for its reply.
pub(crate) struct Ready {
    pub(crate) to: Block,
    pub(crate) packet: Packet,
    pub(crate) hold: Duration,
    /// Where SURBs went with it.
    pub(crate) pending: Option<(u64, oneshot::Receiver<Outcome>)>,
}

/// Makes the packet of a message.
pub(crate) fn prepare(
    shared: &Shared,
    rng: &mut Rng,
    destination: &Destination,
    codec: &StreamProtocol,
    body: &[u8],
    surbs: usize,
) -> Result<Ready, SendError> {
    if surbs > MAX_SURBS {
        return Err(CannotEncode::Surbs(surbs).into());
    }
    // Before anything is made that would have to be unmade.
    let max = message::max_request_len(shared.dialect, codec.as_ref(), surbs)
        .ok_or(CannotEncode::Codec(codec.as_ref().len()))?;
    if body.len() > max {
        return Err(CannotEncode::TooLong { len: body.len(), max }.into());
    }
    let now = shared.now();
    let path = choose_path(shared, rng, now, destination)?;
    let (Some(first), Some(last)) = (path.first(), path.last()) else {
        return Err(SendError::PoolTooSmall { have: 0, need: HOPS });
    };
    let (target, avoid) = match destination {
        Destination::Peer(endpoint) => (
            endpoint.block().map_err(NoRoute::Destination)?,
            vec![endpoint.peer, last.peer()],
        ),
        Destination::Mix(peer) => (NOWHERE, vec![*peer]),
    };
    let (handed_out, kept) = make_surbs(shared, rng, now, &avoid, surbs)?;
    let mut packet = Packet::zeroed();
    message::encode_request(
        shared.dialect,
        codec,
        &handed_out,
        body,
        sequence(rng),
        packet.message_mut(),
    )?;
    let hops = with_delays(shared, rng, &path);
    // Three hops, no delay at the last: nothing that it refuses.
    build_in_place(shared.dialect, rng, &hops, &target, &mut packet).map_err(|_| {
        SendError::PoolTooSmall {
            have: path.len(),
            need: HOPS,
        }
    })?;
    if !shared.claim_slot() {
        return Err(SendError::SlotsExhausted);
    }
    let pending = match surbs {
        0 => None,
        _ => {
            let registered = shared.credentials.register(now, first.peer(), kept);
            Some(registered.map_err(|_| SendError::TooManySurbs)?)
        }
    };
    Ok(Ready {
        to: first.block,
        packet,
        hold: shared.hold(rng),
        pending,
    })
}

fn sample(
    shared: &Shared,
    rng: &mut Rng,
    now: Time,
    n: usize,
    without: &[PeerId],
) -> Result<Vec<Arc<Member>>, SendError> {
    let too_small = |have| SendError::PoolTooSmall { have, need: n };
    shared.pool.sample(rng, now, n, without).map_err(too_small)
}

fn choose_path(
    shared: &Shared,
    rng: &mut Rng,
    now: Time,
    destination: &Destination,
) -> Result<Vec<Arc<Member>>, SendError> {
    let have = shared.pool.len();
    if have < shared.min_pool {
        return Err(SendError::PoolTooSmall {
            have,
            need: shared.min_pool,
        });
    }
    match destination {
        Destination::Peer(endpoint) if endpoint.peer == shared.me => Err(NoRoute::Ourselves.into()),
        Destination::Mix(peer) if *peer == shared.me => Err(NoRoute::Ourselves.into()),
        Destination::Peer(endpoint) => sample(shared, rng, now, HOPS, &[endpoint.peer]),
        Destination::Mix(peer) => {
            let exit = shared.pool.get(peer).ok_or(NoRoute::NotInPool)?;
            let mut path = sample(shared, rng, now, HOPS - 1, &[*peer])?;
            path.push(exit);
            Ok(path)
        }
    }
}

fn with_delays<'a>(shared: &Shared, rng: &mut Rng, path: &'a [Arc<Member>]) -> Vec<Hop<'a>> {
    let last = path.len().saturating_sub(1);
    path.iter()
        .enumerate()
        .map(|(at, member)| Hop {
            key: &member.node.key,
            address: &member.block,
            delay_ms: if at == last { 0 } else { shared.delays.field(rng) },
        })
        .collect()
}

type Kept = Vec<([u8; ID_LEN], mizzle_sphinx::SurbKeys)>;

/// SURBs that lead back to us by ways of their own, none by the exit or the destination.
fn make_surbs(
    shared: &Shared,
    rng: &mut Rng,
    now: Time,
    avoid: &[PeerId],
    n: usize,
) -> Result<(Vec<SurbBytes>, Kept), SendError> {
    if n == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let me = shared
        .return_address()
        .and_then(|e| e.block().ok())
        .ok_or(NoRoute::NoReturnAddress)?;
    let mut paths = Vec::with_capacity(n);
    for _ in 0..n {
        let path = sample(shared, rng, now, HOPS - 1, avoid)?;
        let id = loop {
            // All zero has another meaning.
            let id: [u8; ID_LEN] = draw::bytes(rng);
            if id != [0; ID_LEN] {
                break id;
            }
        };
        let delays = [shared.delays.field(rng), shared.delays.field(rng)];
        paths.push((path, delays, id));
    }
    let hops: Vec<[Hop<'_>; HOPS]> = paths
        .iter()
        .map(|(path, delays, _)| {
            [
                Hop {
                    key: &path[0].node.key,
                    address: &path[0].block,
                    delay_ms: delays[0],
                },
                Hop {
                    key: &path[1].node.key,
                    address: &path[1].block,
                    delay_ms: delays[1],
                },
                Hop {
                    key: &shared.key,
                    address: &me,
                    delay_ms: 0,
                },
            ]
        })
        .collect();
    let requests: Vec<_> = hops
        .iter()
        .zip(&paths)
        .map(|(route, (.., id))| SurbRequest { route, id })
        .collect();
    let mut made = Vec::with_capacity(n);
    build_surbs(shared.dialect, rng, &requests, &mut made)
        .map_err(|_| SendError::PoolTooSmall { have: 0, need: HOPS })?;
    let mut handed_out = Vec::with_capacity(n);
    let mut kept = Vec::with_capacity(n);
    for ((surb, keys), (path, _, id)) in made.into_iter().zip(&paths) {
        let mut bytes = [0; SURB_WITH_ADDRESS_LEN];
        surb.to_bytes_with_address(&path[0].block, &mut bytes);
        handed_out.push(bytes);
        kept.push((*id, keys));
    }
    Ok((handed_out, kept))
}
