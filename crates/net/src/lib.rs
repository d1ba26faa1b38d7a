//! Shells: clock, entropy, sockets, tasks.
//!
//! Cores decide, this crate acts. [`host`] is a libp2p host with its links, [`wire`] says which protocols they speak;
//! [`node`] runs the cores of a mix or gateway between them, [`client`] those of a client; [`directory`] brings
//! the network document; [`tags`] keeps what a node accepted, [`store`] the letters for a gateway's clients. An exit's sockets
//! are in `outside`, a program's end of a stream is [`MixStream`].
//! What programs speak is `mizzle-apps`'; which nodes make a network is the binary's.

pub mod client;
pub mod clock;
pub mod directory;
pub mod host;
pub mod identity;
pub mod keeper;
pub mod mail;
pub mod node;
mod outside;
pub mod state;
pub mod store;
mod stream;
pub mod tags;
pub mod wire;

pub use stream::MixStream;
