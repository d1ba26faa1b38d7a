//! Tests of the crate over the memory transport and real sockets, all in one program: each more would link libp2p again. One
//! file alone: `cargo test -p libp2p-mix --test it request::`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

mod common;
#[cfg(all(feature = "identify", feature = "kad"))]
mod discovery;
#[cfg(feature = "gossipsub")]
mod gossip;
mod hostile;
mod link;
mod load;
mod receive;
mod request;
mod services;
mod slow;
mod vectors;
