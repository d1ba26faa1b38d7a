//! Mix packets over libp2p connections.
//!
//! [`link`] carries frames between peers over long-lived one-way streams; every stream protocol of mizzle is one
//! [`link::Behaviour`] with its own name, header and frame length. What a frame means is left to who receives it.

pub mod link;
