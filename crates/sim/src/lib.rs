//! A whole network under virtual time: the cores that ship, one clock, links with a delay and a loss, an outside
//! world of simple servers.
//!
//! A second shell around the cores, as `mizzle-net` is the first; what is measured here is what ships. No sockets, no
//! threads, no real time; the same seed gives the same run, bit for bit.

mod network;
mod outside;
mod plan;
pub mod two_samples;

pub use network::{ClientIndex, Drops, Network, PostError, Received, Sent, Sighting, Stage};
pub use outside::{Outside, PUBLIC, Server};
pub use plan::{Plan, PlanError};
