//! The exit: what a gateway's clients reach the outside through.
//!
//! [`Exit`] is the core, sans-I/O like the others: sessions in, connections out. [`policy`] says which addresses it
//! may connect to. Sockets and name look-ups are the shells'. [`Exit::for_mail`] ends the sessions of those who bring letters.

mod core;
pub mod policy;

pub use crate::core::{Action, Config, ConnId, Exit, Input};
pub use policy::{Allow, Policy};
