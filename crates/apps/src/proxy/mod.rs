//! The port that programs' proxy settings point to, whichever kind of proxy they mean.
//!
//! - A program hears of success only once the exit has connected.
//! - If a stream breaks, so does the program's connection (a reset, not an orderly end), also when this
//!   process dies: half a download must not pass for a whole one.
//! - If a program goes away while its stream is being opened, the opening is dropped.
//!
//! How streams are opened, and how long that may take, is the [`Opener`](mizzle_stream::Opener)'s.

mod config;
mod connection;
mod relay;
mod server;

#[cfg(test)]
mod tests;

pub(crate) use config::count;
pub use config::{BindError, Config, Counters};
pub(crate) use connection::{Connection, End, stopped};
pub(crate) use relay::{COPY_BUFFER, FAREWELL, close_orderly_when_dropped, farewell, reset_when_dropped};
pub use server::Server;
