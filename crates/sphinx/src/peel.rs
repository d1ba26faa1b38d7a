//! Peeling: what a node does with a packet that reached it, one at a time or by the batch.
//!
//! Section 8.6 of LIP-99, with the role rule below, and the checks of `alpha` of LIP-183. Remembering the tags, holding
//! a packet for its delay and sending it are left to others.
//!
//! **Role rule.** LIP-99 (8.6.2) calls a hop with a zero delay an exit, yet zero delays are legal on the way (and common with
//! senders that draw 0, 1 or 2 ms). The Nim code looks for the 240 zero bytes that a last hop of three finds. Here a hop
//! is the last one if its delay is zero and so are the sixteen bytes behind its block: the zeros of the longest route,
//! five hops, and the beginning of those of shorter ones. For any other hop these bytes are cipher text, zero with a
//! probability of 2^-128.

use alloc::vec::Vec;
use core::fmt;
use core::iter::zip;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::engine::{AT_ONCE, Engine, engine};
use crate::kdf::{HeaderKeys, Secrets, blindings, mac_keys, macs, tags};
use crate::keys::{PublicKey, SecretKey, is_canonical};
use crate::layout::{
    ADDRESS_LEN, ALPHA_LEN, BETA_LEN, BLOCK_LEN, DELAY_AT, GAMMA_AT, GAMMA_LEN, HEADER_LEN, ID_LEN, K,
    TAG_LEN,
};
use crate::packet::{Packet, split, split_mut};
use crate::payload::{self, Dialect};

/// How many packets [`Peeler::peel_batch`] hands to its engine at once.
pub const BATCH: usize = 64;

/// Peels packets with one secret key.
pub struct Peeler {
    secret: SecretKey,
    dialect: Dialect,
    engine: &'static dyn Engine,
}

/// Who is told the replay tags of a batch, and sets `true` beside each that it knew, see [`Peeler::peel_batch`].
pub type Seen<'s> = dyn FnMut(&[[u8; TAG_LEN]], &mut [bool]) + 's;

/// What was under the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peeled {
    /// The packet has been turned into the one for the next hop.
    Forward {
        /// The address block of the next hop.
        next: [u8; ADDRESS_LEN],
        /// How long to hold the packet (`loopix`) or the mean of that time (`libp2p`), in milliseconds.
        delay_ms: u16,
    },
    /// This node is the last hop: [`Packet::message`] is the message.
    Exit {
        /// For whom the message is; all zero for this node itself.
        destination: [u8; ADDRESS_LEN],
    },
    /// A reply has arrived: [`recover`](crate::recover) makes a message of [`Packet::payload_mut`].
    Reply {
        /// The id of the SURB it came by.
        id: [u8; ID_LEN],
    },
}

/// Why a packet was refused. For the node's own counters: a peer must never see a difference between them, nor
/// between any of them and a packet that went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Rejected {
    /// `alpha` is zero, not canonical, or of small order.
    #[error("alpha is not a valid group element")]
    Alpha,
    /// The packet was here before.
    #[error("the packet was here before")]
    Replay,
    /// `beta` or `gamma` was changed, or the packet is for another key.
    #[error("the MAC of the header is wrong")]
    Mac,
    /// The header is right, but its sender made neither an exit nor a reply of this last hop.
    #[error("the header gives this hop no role")]
    Role,
    /// The payload was changed on its way.
    #[error("the payload was changed")]
    Payload,
}

impl Rejected {
    /// Every reason, once.
    pub const ALL: [Self; 5] = [Self::Alpha, Self::Replay, Self::Mac, Self::Role, Self::Payload];

    /// One word for a counter's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alpha => "alpha",
            Self::Replay => "replay",
            Self::Mac => "mac",
            Self::Role => "role",
            Self::Payload => "payload",
        }
    }
}

impl Peeler {
    /// A peeler with the best engine for this CPU.
    #[must_use]
    pub fn new(secret: SecretKey, dialect: Dialect) -> Self {
        Self::with_engine(secret, dialect, engine())
    }

    /// A peeler with a given engine.
    #[must_use]
    pub fn with_engine(secret: SecretKey, dialect: Dialect, engine: &'static dyn Engine) -> Self {
        Self {
            secret,
            dialect,
            engine,
        }
    }

    /// The key under which senders know this node.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.secret.public()
    }

    /// Takes one layer off, in place.
    ///
    /// `seen` is told the packet's replay tag, at most once, and answers whether it knew it already; it remembers it
    /// from then on. In [`Dialect::Lioness`] it is asked only about a packet whose MAC is right, so that a forgery
    /// leaves nothing behind; in [`Dialect::LegacyCtr`], as in the older nodes, before that is known.
    ///
    /// What the buffer holds afterwards:
    /// - [`Forward`](Peeled::Forward): the packet to send;
    /// - [`Exit`](Peeled::Exit) and [`Reply`](Peeled::Reply): a header of zeros, and the payload;
    /// - [`Alpha`](Rejected::Alpha), [`Mac`](Rejected::Mac) and [`Replay`](Rejected::Replay): the packet as it came;
    /// - [`Role`](Rejected::Role) and [`Payload`](Rejected::Payload): zeros.
    ///
    /// # Errors
    /// [`Rejected`], of which no peer may learn.
    pub fn peel(
        &self,
        packet: &mut Packet,
        seen: &mut dyn FnMut(&[u8; TAG_LEN]) -> bool,
    ) -> Result<Peeled, Rejected> {
        let mut each = |tags: &[[u8; TAG_LEN]], known: &mut [bool]| {
            zip(tags, known).for_each(|(tag, known)| *known = seen(tag));
        };
        let [result] = self.peel_lanes(core::slice::from_mut(packet), &mut each);
        result
    }

    /// Takes one layer off each packet, appending the results to `out` in their order. All is as if [`peel`](Self::peel)
    /// had been called for one after the other, only faster with an engine that computes many at once.
    ///
    /// `seen` is told the tags of up to [`BATCH`] packets at once, in their order, so that a table may look all of them up
    /// together; it sets `true` beside each that it knew already, where it finds `false`, and remembers all. A packet that
    /// is in the batch twice has its tag there twice: the second one is to be known.
    pub fn peel_batch(
        &self,
        packets: &mut [Packet],
        seen: &mut Seen<'_>,
        out: &mut Vec<Result<Peeled, Rejected>>,
    ) {
        out.reserve(packets.len());
        for packets in packets.chunks_mut(BATCH) {
            if packets.len() == 1 {
                out.extend_from_slice(&self.peel_lanes::<1>(packets, seen));
                continue;
            }
            let results = self.peel_lanes::<BATCH>(packets, seen);
            out.extend_from_slice(&results[..packets.len()]);
        }
    }

    /// Peels up to `N` packets: all shared secrets at once, then all that is hashed and decrypted, then all next
    /// `alpha`s at once.
    fn peel_lanes<const N: usize>(
        &self,
        packets: &mut [Packet],
        seen: &mut Seen<'_>,
    ) -> [Result<Peeled, Rejected>; N] {
        const { assert!(N <= AT_ONCE) };
        let mut results = [Err(Rejected::Alpha); N];
        let mut lanes = Lanes::<N>::new();
        for (at, packet) in packets.iter().enumerate().take(N) {
            let alpha = alpha(packet);
            if *alpha != [0; ALPHA_LEN] && is_canonical(alpha) {
                lanes.push(at, self.secret.expose_bytes(), alpha);
            }
        }
        if lanes.len == 0 {
            return results;
        }
        let used = ..lanes.len;
        let mut next_alphas = [[0; ALPHA_LEN]; N];
        let mut between = |shared: &[[u8; 32]], factors: &mut [[u8; 32]], wanted: &mut [bool]| {
            let mut live = Live::<N>::new();
            for (lane, s) in shared.iter().enumerate() {
                // Zero is what X25519 makes of a point of small order.
                if !bool::from(s.ct_eq(&[0; 32])) {
                    live.push(lane, lanes.packets[lane], s);
                }
            }
            if live.count > 0 {
                self.open(live, packets, seen, &mut results, &mut |lane, factor| {
                    (factors[lane], wanted[lane]) = (*factor, true);
                });
            }
        };
        self.engine.x25519_twice(
            &lanes.scalars[used],
            &lanes.points[used],
            &mut between,
            &mut next_alphas[used],
        );
        for (&packet, next) in zip(&lanes.packets[used], &next_alphas) {
            if let Ok(Peeled::Forward { .. }) = results[packet] {
                packets[packet].as_bytes_mut()[..ALPHA_LEN].copy_from_slice(next);
            }
        }
        results
    }

    /// Checks and decrypts packets with the secrets shared with their senders. The `alpha` of those that go on is left
    /// as it is; `next` is told their lanes and what to multiply it with.
    fn open<const N: usize>(
        &self,
        live: Live<N>,
        packets: &mut [Packet],
        seen: &mut Seen<'_>,
        results: &mut [Result<Peeled, Rejected>; N],
        next: &mut dyn FnMut(usize, &[u8; 32]),
    ) {
        let engine = self.engine;
        let live = self.admit(&live, packets, seen, results);
        if live.count == 0 {
            return;
        }
        let keys = HeaderKeys::<N>::derive(engine, live.secrets());
        let seeds = payload::seeds::<N>(engine, self.dialect, live.secrets());
        let factors = blindings::<N>(engine, |at| alpha(&packets[live.packets[at]]), live.secrets());

        let mut roles = [None; N];
        let mut payloads = [(); N].map(|()| <&mut [u8]>::default());
        // `live` has the packets in their order.
        let mut wanted = live.packets().iter().enumerate().peekable();
        for (index, packet) in packets.iter_mut().enumerate() {
            if let Some((at, _)) = wanted.next_if(|(_, wanted)| **wanted == index) {
                let (header, payload) = packet.parts_mut();
                roles[at] = Some(open_header(header, |skip, part| {
                    keys.apply(engine, at, skip, part)
                }));
                payloads[at] = payload;
            }
        }
        let count = live.count;
        payload::decrypt::<N>(engine, self.dialect, &seeds[..count], &mut payloads[..count]);

        for (at, (&index, role)) in live.packets().iter().zip(roles).enumerate() {
            match role {
                Some(Role::Relay {
                    next: address,
                    delay_ms,
                }) => {
                    next(live.lanes[at], &factors[at]);
                    results[index] = Ok(Peeled::Forward {
                        next: address,
                        delay_ms,
                    });
                }
                Some(Role::Last { address, id }) => {
                    results[index] = deliver(&mut packets[index], address, id);
                }
                None => {}
            }
        }
    }

    /// Keeps the packets whose MAC is right and that were not here before.
    fn admit<const N: usize>(
        &self,
        live: &Live<N>,
        packets: &[Packet],
        seen: &mut Seen<'_>,
        results: &mut [Result<Peeled, Rejected>; N],
    ) -> Live<N> {
        let (engine, secrets) = (self.engine, live.secrets());
        let mut betas = [&[0; BETA_LEN]; N];
        for (beta, packet) in betas.iter_mut().zip(live.packets()) {
            *beta = parts(&packets[*packet]).1;
        }
        let macs = macs::<N>(engine, &mac_keys::<N>(engine, secrets)[..secrets.len()], &betas);
        let tags = match self.dialect {
            Dialect::Lioness => tags::<N>(engine, secrets),
            Dialect::LegacyCtr => blindings(engine, |at| alpha(&packets[live.packets[at]]), secrets),
        };
        let mut is_right = [false; N];
        for (at, (index, right)) in zip(live.packets(), &mut is_right).enumerate() {
            *right = macs[at].ct_eq(parts(&packets[*index]).2).into();
        }
        // The places in `live` of those whose tags are asked about.
        let mut asked = [0; N];
        let mut asked_tags = Secrets::<N>::new();
        let mut count = 0;
        for at in 0..live.count {
            if is_right[at] || self.dialect == Dialect::LegacyCtr {
                (asked[count], asked_tags[count]) = (at, tags[at]);
                count += 1;
            } else {
                results[live.packets[at]] = Err(Rejected::Mac);
            }
        }
        let mut known = [false; N];
        if count > 0 {
            seen(&asked_tags[..count], &mut known[..count]);
        }
        let mut admitted = Live::new();
        for (&at, &known) in zip(&asked, &known).take(count) {
            let index = live.packets[at];
            if known {
                results[index] = Err(Rejected::Replay);
            } else if !is_right[at] {
                results[index] = Err(Rejected::Mac);
            } else {
                admitted.push(live.lanes[at], index, &secrets[at]);
            }
        }
        admitted
    }
}

impl fmt::Debug for Peeler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peeler")
            .field("dialect", &self.dialect)
            .field("engine", &self.engine.name())
            .finish()
    }
}

/// The points to multiply for up to `N` packets, in the order of the packets but with none for those that dropped out.
struct Lanes<const N: usize> {
    len: usize,
    packets: [usize; N],
    scalars: Secrets<N>,
    points: [[u8; 32]; N],
}

impl<const N: usize> Lanes<N> {
    fn new() -> Self {
        Self {
            len: 0,
            packets: [0; N],
            scalars: Secrets::new(),
            points: [[0; 32]; N],
        }
    }

    fn push(&mut self, packet: usize, scalar: &[u8; 32], point: &[u8; 32]) {
        self.packets[self.len] = packet;
        self.scalars[self.len] = *scalar;
        self.points[self.len] = *point;
        self.len += 1;
    }
}

/// The packets that nothing was found wrong with so far, and what is shared with their senders.
struct Live<const N: usize> {
    count: usize,
    lanes: [usize; N],
    packets: [usize; N],
    secrets: Secrets<N>,
}

impl<const N: usize> Live<N> {
    fn new() -> Self {
        Self {
            count: 0,
            lanes: [0; N],
            packets: [0; N],
            secrets: Secrets::new(),
        }
    }

    fn push(&mut self, lane: usize, packet: usize, s: &[u8; 32]) {
        self.lanes[self.count] = lane;
        self.packets[self.count] = packet;
        self.secrets[self.count] = *s;
        self.count += 1;
    }

    fn packets(&self) -> &[usize] {
        &self.packets[..self.count]
    }

    fn secrets(&self) -> &[[u8; 32]] {
        &self.secrets[..self.count]
    }
}

/// What the header says to its hop.
#[derive(Clone, Copy)]
enum Role {
    Relay {
        next: [u8; ADDRESS_LEN],
        delay_ms: u16,
    },
    Last {
        address: [u8; ADDRESS_LEN],
        id: [u8; ID_LEN],
    },
}

/// Takes the layer off a header; `apply` adds the key stream to bytes, from one of its own on. Of a relay's, `alpha` is
/// left alone; a last hop's is all zero then.
fn open_header(header: &mut [u8; HEADER_LEN], apply: impl Fn(usize, &mut [u8])) -> Role {
    let (_, rest) = split_mut::<ALPHA_LEN, { HEADER_LEN - ALPHA_LEN }, HEADER_LEN>(header);
    let (beta, gamma) = split_mut::<BETA_LEN, GAMMA_LEN, { HEADER_LEN - ALPHA_LEN }>(rest);
    apply(0, beta);
    let is_last = beta[DELAY_AT..GAMMA_AT].ct_eq(&[0; GAMMA_AT - DELAY_AT])
        & beta[BLOCK_LEN..BLOCK_LEN + K].ct_eq(&[0; K]);
    let mut address = [0; ADDRESS_LEN];
    address.copy_from_slice(&beta[..ADDRESS_LEN]);

    if bool::from(is_last) {
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&beta[GAMMA_AT..BLOCK_LEN]);
        header.zeroize();
        return Role::Last { address, id };
    }
    let delay_ms = u16::from_be_bytes([beta[DELAY_AT], beta[DELAY_AT + 1]]);
    gamma.copy_from_slice(&beta[GAMMA_AT..BLOCK_LEN]);
    beta.copy_within(BLOCK_LEN.., 0);
    // Behind it comes what a block of zeros is under the rest of the key stream.
    beta[BETA_LEN - BLOCK_LEN..].fill(0);
    apply(BETA_LEN, &mut beta[BETA_LEN - BLOCK_LEN..]);
    Role::Relay {
        next: address,
        delay_ms,
    }
}

/// What a last hop makes of its packet, whose payload has been decrypted.
fn deliver(packet: &mut Packet, address: [u8; ADDRESS_LEN], id: [u8; ID_LEN]) -> Result<Peeled, Rejected> {
    let is_exit: bool = id.ct_eq(&[0; ID_LEN]).into();
    let is_reply: bool = address.ct_eq(&[0; ADDRESS_LEN]).into();
    if is_exit && payload::is_intact(packet.payload()) {
        Ok(Peeled::Exit { destination: address })
    } else if !is_exit && is_reply {
        Ok(Peeled::Reply { id })
    } else {
        packet.wipe();
        Err(if is_exit {
            Rejected::Payload
        } else {
            Rejected::Role
        })
    }
}

fn alpha(packet: &Packet) -> &[u8; ALPHA_LEN] {
    parts(packet).0
}

/// `alpha`, `beta` and `gamma`.
fn parts(packet: &Packet) -> (&[u8; ALPHA_LEN], &[u8; BETA_LEN], &[u8; GAMMA_LEN]) {
    let (alpha, rest) = split::<ALPHA_LEN, { HEADER_LEN - ALPHA_LEN }, HEADER_LEN>(packet.header());
    let (beta, gamma) = split::<BETA_LEN, GAMMA_LEN, { HEADER_LEN - ALPHA_LEN }>(rest);
    (alpha, beta, gamma)
}
