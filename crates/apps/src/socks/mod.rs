//! The SOCKS front door: what a program's proxy setting points to.

mod answer;
mod config;
pub mod proto;
mod serve;

#[cfg(test)]
mod tests;

pub use answer::{Fault, Reply};
pub use config::{BindError, Config, Counters};
pub use serve::Server;
