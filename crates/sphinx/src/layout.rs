//! The sizes of the packet and where its parts lie, each derived from the three parameters of LIP-99.
//!
//! Section 8.3 of LIP-99. All sizes are bytes.

/// Kappa, the security parameter: MACs, keys and ids have this size.
pub(crate) const K: usize = 16;

/// r: the most hops a header can hold.
pub const MAX_HOPS: usize = 5;

/// The fewest hops a route may have.
pub const MIN_HOPS: usize = 3;

/// t: an address block and a delay take `t` times kappa.
const T: usize = 6;

/// An address block, for the caller to fill and read; the packet gives it no meaning.
pub const ADDRESS_LEN: usize = T * K - DELAY_LEN;

/// A delay on the wire: milliseconds, big-endian.
pub(crate) const DELAY_LEN: usize = 2;

/// Where the delay stands in a routing block.
pub(crate) const DELAY_AT: usize = ADDRESS_LEN;

/// Where the next MAC (at a last hop: the id) stands in a routing block.
pub(crate) const GAMMA_AT: usize = DELAY_AT + DELAY_LEN;

/// What one hop strips from `beta`: address, delay, and the next hop's `gamma`.
pub(crate) const BLOCK_LEN: usize = (T + 1) * K;

/// The group element.
pub const ALPHA_LEN: usize = 32;

/// The encrypted routing information.
pub const BETA_LEN: usize = (MAX_HOPS * (T + 1) + 1) * K;

/// The MAC of `beta`.
pub const GAMMA_LEN: usize = K;

/// `beta` and the block that a hop appends to keep its length: as much as each hop's key stream covers.
pub(crate) const STREAM_LEN: usize = BETA_LEN + BLOCK_LEN;

/// `alpha`, `beta` and `gamma`.
pub const HEADER_LEN: usize = ALPHA_LEN + BETA_LEN + GAMMA_LEN;

/// The whole packet, on every link and whatever it carries.
pub const PACKET_LEN: usize = 4608;

/// `delta`: sixteen zero bytes and the message, encrypted once for each hop.
pub const PAYLOAD_LEN: usize = PACKET_LEN - HEADER_LEN;

/// The zero bytes in front of a message that show, at the end, that nobody changed the payload.
pub(crate) const ZEROS_LEN: usize = K;

/// A message, padded: see [`pad`](crate::pad).
pub const MESSAGE_LEN: usize = PAYLOAD_LEN - ZEROS_LEN;

/// The length field in front of a padded message.
pub(crate) const PAD_FIELD_LEN: usize = 2;

/// The sequence number behind a padded message of the legacy dialect.
pub(crate) const SEQ_LEN: usize = 4;

/// The longest body that [`pad`](crate::pad) takes in [`Dialect::Lioness`](crate::Dialect::Lioness).
pub const MAX_BODY_LEN: usize = MESSAGE_LEN - PAD_FIELD_LEN;

/// The longest body that [`pad`](crate::pad) takes in [`Dialect::LegacyCtr`](crate::Dialect::LegacyCtr).
pub const MAX_BODY_LEN_LEGACY: usize = MAX_BODY_LEN - SEQ_LEN;

/// The id of a SURB, which its maker sees again when the reply arrives.
pub const ID_LEN: usize = K;

/// The key with which the user of a SURB encrypts the reply.
pub const REPLY_KEY_LEN: usize = K;

/// A [`Surb`](crate::Surb): header and reply key.
pub const SURB_LEN: usize = HEADER_LEN + REPLY_KEY_LEN;

/// A [`Surb`](crate::Surb) behind the address of its first hop, as the `libp2p` profile sends it.
pub const SURB_WITH_ADDRESS_LEN: usize = ADDRESS_LEN + SURB_LEN;

/// A replay tag, see [`Peeler::peel`](crate::Peeler::peel).
pub const TAG_LEN: usize = 32;

// The numbers that LIP-99 prints.
const _: () = {
    assert!(ADDRESS_LEN == 94 && BLOCK_LEN == 112 && BETA_LEN == 576 && STREAM_LEN == 688);
    assert!(HEADER_LEN == 624 && PAYLOAD_LEN == 3984 && MESSAGE_LEN == 3968);
    assert!(MAX_BODY_LEN == 3966 && MAX_BODY_LEN_LEGACY == 3962);
    assert!(SURB_LEN == 640 && SURB_WITH_ADDRESS_LEN == 734);
};
