//! What programs speak: SOCKS and HTTP, on one port.
//!
//! [`proxy`] is the port. A folder for each protocol: machines and parsers without sockets, and `serve.rs`, which
//! gives them some. All see streams through the trait [`Opener`](mizzle_stream::Opener) and know nothing of packets;
//! none ever resolves a name.

pub mod http;
pub mod proxy;
pub mod socks;
