//! The shells' tests as one program: it is linked once, and tests that wait overlap with tests that compute.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers too; a child tells its parent on its output"
)]

mod alarm;
mod client;
mod common;
mod directory;
mod host;
mod keys;
mod mail;
mod node;
mod state;
mod store;
mod times;
mod upload;
