//! SOCKS5, SOCKS4 and SOCKS4a: what most programs' proxy settings mean.

mod answer;
pub mod proto;
pub(crate) mod serve;
mod v4;

#[cfg(test)]
mod tests;

pub use answer::{Dialect, Fault, Reply};
