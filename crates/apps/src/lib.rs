//! What programs speak: SOCKS.
//!
//! A folder for each protocol: `proto.rs` is a machine without sockets, `serve.rs` gives it some. Both see
//! streams through the trait [`Opener`](mizzle_stream::Opener) and know nothing of packets.

pub mod socks;
