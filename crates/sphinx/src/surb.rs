//! Single-use reply blocks: a header made in advance by whom the reply is for, and what he keeps to read the reply.
//!
//! Section 8.7 of LIP-99, with the payload of LIP-183. How a SURB travels inside a message, how long one lives and who
//! remembers which id is left to others.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter::zip;
use core::{fmt, slice};

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::build::{BUILD_BATCH, Hop};
use crate::engine::engine;
use crate::header::{self, Agreed, BuildError, Way};
use crate::kdf::Secrets;
use crate::layout::{
    ADDRESS_LEN, BLOCK_LEN, GAMMA_AT, HEADER_LEN, ID_LEN, MAX_HOPS, MESSAGE_LEN, PAYLOAD_LEN, REPLY_KEY_LEN,
    SURB_LEN, SURB_WITH_ADDRESS_LEN,
};
use crate::packet::{Packet, split, split_mut, split_payload_mut};
use crate::payload::{self, Dialect};
use crate::scratch::Scratch;

/// A single-use reply block: whoever has it can send one packet to its maker without knowing who or where he is.
///
/// It is consumed by its use, and overwritten with zeros when dropped. The address of the first hop is not part of
/// it: whoever hands it out says where it starts.
pub struct Surb(Box<Zeroizing<[u8; SURB_LEN]>>);

/// What the maker of a [`Surb`] keeps to read the reply; consumed by its use, overwritten with zeros when dropped.
///
/// On the heap, 177 bytes.
pub struct SurbKeys(Box<Kept>);

#[derive(Zeroize, ZeroizeOnDrop)]
struct Kept {
    /// The seed of each hop's payload layer, not its shared secret: that would open headers as well.
    seeds: [[u8; 32]; MAX_HOPS],
    hops: u8,
    reply_key: [u8; REPLY_KEY_LEN],
}

/// A SURB that is to be made.
#[derive(Clone, Copy)]
pub struct SurbRequest<'a> {
    /// The way of the reply, 3 to 5 hops; its last hop is the SURB's maker.
    pub route: &'a [Hop<'a>],
    /// What the maker will see when the reply arrives; not zero.
    pub id: &'a [u8; ID_LEN],
}

impl fmt::Debug for SurbRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SurbRequest(..)")
    }
}

/// A reply was changed on its way, or is no reply to this SURB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the reply was changed or is not for this SURB")]
pub struct RecoverError;

/// Makes a SURB for a route whose last hop is its maker, who will see `id` when the reply arrives.
///
/// # Errors
/// [`BuildError`] if the route does not have 3 to 5 hops, its last hop has a delay, or the id is all zero.
pub fn build_surb(
    dialect: Dialect,
    rng: &mut (impl CryptoRng + ?Sized),
    route: &[Hop<'_>],
    id: &[u8; ID_LEN],
) -> Result<(Surb, SurbKeys), BuildError> {
    let request = SurbRequest { route, id };
    check(&request)?;
    let secrets = Draws::<1>::draw(rng, 1);
    Ok(Made::new(dialect, &secrets, &[request]).surb(0))
}

/// [`build_surb`] for many, appended to `out` in their order: with the same generator the same SURBs, at a fraction of
/// the cost if they are several.
///
/// # Errors
/// As [`build_surb`], of the first that has one; `out` is then as it was.
pub fn build_surbs(
    dialect: Dialect,
    rng: &mut (impl CryptoRng + ?Sized),
    requests: &[SurbRequest<'_>],
    out: &mut Vec<(Surb, SurbKeys)>,
) -> Result<(), BuildError> {
    requests.iter().try_for_each(check)?;
    out.reserve(requests.len());
    for requests in requests.chunks(BUILD_BATCH) {
        if let [request] = requests {
            out.push(build_surb(dialect, rng, request.route, request.id)?);
            continue;
        }
        let secrets = Draws::<BUILD_BATCH>::draw(rng, requests.len());
        let made = Made::new(dialect, &secrets, requests);
        out.extend((0..requests.len()).map(|at| made.surb(at)));
    }
    Ok(())
}

/// [`build_surb`] with a given ephemeral secret and reply key, for test vectors.
///
/// # Errors
/// As [`build_surb`].
pub fn build_surb_with_secret(
    dialect: Dialect,
    ephemeral: [u8; 32],
    reply_key: [u8; REPLY_KEY_LEN],
    route: &[Hop<'_>],
    id: &[u8; ID_LEN],
) -> Result<(Surb, SurbKeys), BuildError> {
    let request = SurbRequest { route, id };
    check(&request)?;
    let mut secrets = Draws::<1>::new(1);
    (secrets.ephemerals[0], secrets.reply_keys[0]) = (ephemeral, reply_key);
    Ok(Made::new(dialect, &secrets, &[request]).surb(0))
}

/// Sends `message` with a SURB: `out` becomes the packet for the SURB's first hop.
pub fn use_surb(dialect: Dialect, surb: Surb, message: &[u8; MESSAGE_LEN], out: &mut Packet) {
    *out.message_mut() = *message;
    use_surb_in_place(dialect, surb, out);
}

/// [`use_surb`] for a message that is in [`Packet::message_mut`] already, so that it is copied nowhere.
// The SURB is taken by value because using it twice would show both packets to be for the same person.
#[expect(clippy::needless_pass_by_value)]
pub fn use_surb_in_place(dialect: Dialect, surb: Surb, packet: &mut Packet) {
    let (surb_header, reply_key) = split::<HEADER_LEN, REPLY_KEY_LEN, SURB_LEN>(&surb.0);
    let (header, payload) = packet.parts_mut();
    *header = *surb_header;
    split_payload_mut(payload).0.fill(0);
    payload::encrypt_reply(engine(), dialect, reply_key, payload);
}

/// Decrypts the payload of a packet that was peeled as a [`Reply`](crate::Peeled::Reply). Afterwards `payload[16..]`
/// (or [`Packet::message`]) is the message.
///
/// # Errors
/// [`RecoverError`] if the payload was changed or the keys are another SURB's; the payload is then all zero. In
/// [`Dialect::LegacyCtr`] only a change of the first sixteen bytes is noticed.
// The keys are taken by value because a second reply to one SURB is never looked at.
#[expect(clippy::needless_pass_by_value)]
pub fn recover(
    dialect: Dialect,
    keys: SurbKeys,
    payload: &mut [u8; PAYLOAD_LEN],
) -> Result<(), RecoverError> {
    let engine = engine();
    // Every hop took a layer off that nobody had put on, the maker as the last of them included.
    for seed in keys.0.seeds.iter().take(keys.0.hops.into()).rev() {
        payload::encrypt::<1>(
            engine,
            dialect,
            slice::from_ref(seed),
            &mut [payload.as_mut_slice()],
        );
    }
    payload::decrypt_reply(engine, dialect, &keys.0.reply_key, payload);
    if payload::is_intact(payload) {
        Ok(())
    } else {
        payload.zeroize();
        Err(RecoverError)
    }
}

impl Surb {
    /// Writes the SURB: header, then reply key.
    pub fn to_bytes(&self, out: &mut [u8; SURB_LEN]) {
        *out = **self.0;
    }

    /// Reads a SURB. Any bytes are taken for one: a false one goes nowhere.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; SURB_LEN]) -> Self {
        let mut surb = Self(Box::new(Zeroizing::new([0; SURB_LEN])));
        **surb.0 = *bytes;
        surb
    }

    /// Writes the SURB behind the address of its first hop, as the `libp2p` profile sends it.
    pub fn to_bytes_with_address(
        &self,
        first_hop: &[u8; ADDRESS_LEN],
        out: &mut [u8; SURB_WITH_ADDRESS_LEN],
    ) {
        let (address, surb) = split_mut::<ADDRESS_LEN, SURB_LEN, SURB_WITH_ADDRESS_LEN>(out);
        *address = *first_hop;
        *surb = **self.0;
    }

    /// Reads the address of a first hop and a SURB, as the `libp2p` profile sends them.
    #[must_use]
    pub fn from_bytes_with_address(bytes: &[u8; SURB_WITH_ADDRESS_LEN]) -> ([u8; ADDRESS_LEN], Self) {
        let (address, surb) = split::<ADDRESS_LEN, SURB_LEN, SURB_WITH_ADDRESS_LEN>(bytes);
        (*address, Self::from_bytes(surb))
    }
}

impl fmt::Debug for Surb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Surb(..)")
    }
}

impl fmt::Debug for SurbKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SurbKeys(..)")
    }
}

fn check(request: &SurbRequest<'_>) -> Result<(), BuildError> {
    header::check(request.route)?;
    check_id(request.id)
}

fn check_id(id: &[u8; ID_LEN]) -> Result<(), BuildError> {
    if id.ct_eq(&[0; ID_LEN]).into() {
        return Err(BuildError::ZeroId);
    }
    Ok(())
}

/// The secrets of up to `W` SURBs.
struct Draws<const W: usize> {
    count: usize,
    ephemerals: Secrets<W>,
    reply_keys: Scratch<[[u8; REPLY_KEY_LEN]; W]>,
}

impl<const W: usize> Draws<W> {
    fn new(count: usize) -> Self {
        Self {
            count,
            ephemerals: Secrets::new(),
            reply_keys: Scratch::new(),
        }
    }

    /// Draws in the order in which one SURB after the other would.
    fn draw(rng: &mut (impl CryptoRng + ?Sized), count: usize) -> Self {
        let mut draws = Self::new(count);
        let both = zip(draws.ephemerals.iter_mut(), draws.reply_keys.iter_mut());
        for (ephemeral, reply_key) in both.take(count) {
            rng.fill_bytes(ephemeral);
            rng.fill_bytes(reply_key);
        }
        draws
    }
}

/// All that makes up to `W` SURBs.
struct Made<'a, const W: usize> {
    headers: [[u8; HEADER_LEN]; W],
    agreed: Agreed<W>,
    reply_keys: &'a [[u8; REPLY_KEY_LEN]; W],
}

impl<'a, const W: usize> Made<'a, W> {
    /// The requests have been checked; there are as many as secrets.
    fn new(dialect: Dialect, secrets: &'a Draws<W>, requests: &[SurbRequest<'_>]) -> Self {
        let engine = engine();
        let mut routes = [[].as_slice(); W];
        let mut last_blocks = [[0; BLOCK_LEN]; W];
        for (at, request) in requests.iter().enumerate() {
            routes[at] = request.route;
            last_blocks[at][GAMMA_AT..].copy_from_slice(request.id);
        }
        let ephemerals = &secrets.ephemerals[..secrets.count];
        let agreed = header::agree::<W>(engine, dialect, ephemerals, &routes);
        let mut headers = [[0; HEADER_LEN]; W];
        header::write(engine, &agreed, &routes, &last_blocks, &mut headers);
        Self {
            headers,
            agreed,
            reply_keys: &secrets.reply_keys,
        }
    }

    fn surb(&self, at: usize) -> (Surb, SurbKeys) {
        pair(&self.headers[at], &self.agreed, at, &self.reply_keys[at])
    }
}

/// A SURB of its header, and what its maker keeps of the keys that were agreed on.
fn pair<const W: usize>(
    header: &[u8; HEADER_LEN],
    agreed: &Agreed<W>,
    at: usize,
    reply_key: &[u8; REPLY_KEY_LEN],
) -> (Surb, SurbKeys) {
    let mut surb = Surb(Box::new(Zeroizing::new([0; SURB_LEN])));
    let (surb_header, key) = split_mut::<HEADER_LEN, REPLY_KEY_LEN, SURB_LEN>(&mut surb.0);
    (*surb_header, *key) = (*header, *reply_key);
    let mut kept = Box::new(Kept {
        seeds: [[0; 32]; MAX_HOPS],
        hops: 0,
        reply_key: *reply_key,
    });
    for hop in (0..MAX_HOPS).take_while(|hop| agreed.has_hop(at, *hop)) {
        kept.seeds[hop] = agreed.seeds(hop)[at];
        kept.hops += 1;
    }
    (surb, SurbKeys(kept))
}

/// Makes a SURB with keys that were agreed on.
pub(crate) fn close(
    agreed: &Agreed<1>,
    route: impl Way,
    id: &[u8; ID_LEN],
    reply_key: &[u8; REPLY_KEY_LEN],
) -> Result<(Surb, SurbKeys), BuildError> {
    check_id(id)?;
    let mut last_block = [0; BLOCK_LEN];
    last_block[GAMMA_AT..].copy_from_slice(id);
    let mut headers = [[0; HEADER_LEN]];
    header::write(engine(), agreed, &[route], &[last_block], &mut headers);
    Ok(pair(&headers[0], agreed, 0, reply_key))
}
