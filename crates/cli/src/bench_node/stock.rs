//! Packets built beforehand, and how each of them looks when it has passed the node.

use std::collections::HashMap;
use std::sync::Mutex;
use std::thread;

use mizzle_base::Rng;
use mizzle_sphinx::{
    ADDRESS_LEN, Dialect, Hop, MESSAGE_LEN, Outgoing, Packet, Peeled, Peeler, PublicKey, build_batch,
};
use mizzle_traffic::draw;

use super::Stop;
use super::peers::Cast;
use crate::assemble::fork;
use crate::bench::BenchError;
use crate::processes::system;

const DIALECT: Dialect = Dialect::Lioness;
/// Built and peeled at once.
const BATCH: usize = 64;

/// Packets for the node under test, each for one of its next hops drawn at random.
pub(super) struct Stock {
    packets: Vec<Made>,
    /// By the first bytes of alpha, as the node sends it on: receivers know a packet by them without peeling.
    by_alpha: HashMap<u64, u32>,
}

struct Made {
    packet: Packet,
    delay_ms: u16,
}

impl Stock {
    /// So many, with delays of this mean; on all cores.
    pub(super) fn build(cast: &Cast, n: usize, mean_ms: f64, stop: &Stop) -> Result<Self, BenchError> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(n);
        let made = Mutex::new(Vec::with_capacity(n));
        let mut rng = mizzle_net::clock::rng().map_err(system)?;
        thread::scope(|scope| {
            let building: Vec<_> = (0..threads)
                .map(|t| {
                    let share = n / threads + usize::from(t < n % threads);
                    let (mut rng, made) = (fork(&mut rng), &made);
                    scope.spawn(move || {
                        each_batch(cast, share, mean_ms, &mut rng, stop, |batch| {
                            made.lock().map_err(|_| broken())?.extend(batch);
                            Ok(())
                        })
                    })
                })
                .collect();
            building
                .into_iter()
                .try_for_each(|b| b.join().map_err(|_| broken())?)
        })?;
        let (mut packets, mut by_alpha) = (Vec::with_capacity(n), HashMap::with_capacity(n));
        for (made, alpha) in made.into_inner().map_err(|_| broken())? {
            by_alpha.insert(alpha, packets.len() as u32);
            packets.push(made);
        }
        Ok(Self { packets, by_alpha })
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// A copy of one of them.
    pub(super) fn packet(&self, at: usize) -> Packet {
        copy(&self.packets[at].packet)
    }

    pub(super) fn delay_us(&self, at: usize) -> u64 {
        u64::from(self.packets[at].delay_ms) * 1_000
    }

    /// Which of them has become this frame, if any.
    pub(super) fn which(&self, frame: &[u8]) -> Option<usize> {
        let alpha = u64::from_le_bytes(*frame.first_chunk()?);
        Some(*self.by_alpha.get(&alpha)? as usize)
    }
}

/// Builds packets with delays of this mean and gives them away, a batch at a time.
pub(super) fn each(
    cast: &Cast,
    n: usize,
    mean_ms: f64,
    stop: &Stop,
    mut take: impl FnMut(Vec<Packet>) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let mut rng = mizzle_net::clock::rng().map_err(system)?;
    let way = Way::of(cast);
    let mut left = n;
    while left > 0 {
        stop.check()?;
        let batch = way.build(left.min(BATCH), mean_ms, &mut rng)?;
        left -= batch.len();
        take(batch.into_iter().map(|made| made.packet).collect())?;
    }
    Ok(())
}

fn each_batch(
    cast: &Cast,
    n: usize,
    mean_ms: f64,
    rng: &mut Rng,
    stop: &Stop,
    take: impl Fn(Vec<(Made, u64)>) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let way = Way::of(cast);
    let peeler = Peeler::new(cast.node_secret(), DIALECT);
    let mut left = n;
    while left > 0 {
        stop.check()?;
        let batch = way.build(left.min(BATCH), mean_ms, rng)?;
        left -= batch.len();
        let mut peeled: Vec<Packet> = batch.iter().map(|made| copy(&made.packet)).collect();
        let mut results = Vec::new();
        peeler.peel_batch(&mut peeled, &mut |_, _| {}, &mut results);
        let mut known = Vec::with_capacity(batch.len());
        for ((made, peeled), result) in batch.into_iter().zip(peeled).zip(results) {
            let Ok(Peeled::Forward { delay_ms, .. }) = result else {
                return Err(broken());
            };
            debug_assert_eq!(delay_ms, made.delay_ms);
            known.push((
                made,
                u64::from_le_bytes(*peeled.as_bytes().first_chunk().ok_or_else(broken)?),
            ));
        }
        take(known)?;
    }
    Ok(())
}

fn copy(packet: &Packet) -> Packet {
    Packet::from_boxed(Box::new(*packet.as_bytes()))
}

pub(super) fn broken() -> BenchError {
    BenchError::Process("a packet that was just built can't be peeled".into())
}

/// Where packets go: through the node under test to one of the next layer, and from there to a gateway.
struct Way {
    node: (PublicKey, [u8; ADDRESS_LEN]),
    next: Vec<(PublicKey, [u8; ADDRESS_LEN])>,
    last: (PublicKey, [u8; ADDRESS_LEN]),
}

impl Way {
    fn of(cast: &Cast) -> Self {
        let (node, next, last) = cast.way();
        Self { node, next, last }
    }

    fn build(&self, n: usize, mean_ms: f64, rng: &mut Rng) -> Result<Vec<Made>, BenchError> {
        let mut routes = Vec::with_capacity(n);
        let mut made = Vec::with_capacity(n);
        for _ in 0..n {
            let delay_ms = draw::delay_ms(rng, mean_ms);
            let next = &self.next[draw::below(rng, self.next.len())];
            let hop =
                |(key, address): &'_ (PublicKey, [u8; ADDRESS_LEN]), delay_ms| (*key, *address, delay_ms);
            routes.push([hop(&self.node, delay_ms), hop(next, 0), hop(&self.last, 0)]);
            let mut packet = Packet::zeroed();
            *packet.message_mut() = [0x5a; MESSAGE_LEN];
            made.push(Made { packet, delay_ms });
        }
        let routes: Vec<[Hop<'_>; 3]> = routes
            .iter()
            .map(|route| {
                route.each_ref().map(|(key, address, delay_ms)| Hop {
                    key,
                    address,
                    delay_ms: *delay_ms,
                })
            })
            .collect();
        let mut outgoing: Vec<Outgoing<'_>> = made
            .iter_mut()
            .zip(&routes)
            .map(|(made, route)| Outgoing {
                route,
                destination: &[0; ADDRESS_LEN],
                packet: &mut made.packet,
            })
            .collect();
        build_batch(DIALECT, rng, &mut outgoing).map_err(|why| BenchError::Process(why.to_string()))?;
        Ok(made)
    }
}
