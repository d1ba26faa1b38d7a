//! `/mix/1.0.0` for rust-libp2p: send a request to any peer and get its reply without anybody learning who asked.
//!
//! A message goes in a packet of 4608 bytes over three nodes, which each take a layer off and hold it for a random time. The
//! last of them, the exit, hands it to the destination, which need not know of any of this, and sends the answer back by
//! ways that the sender prepared. Nodes of the Nim implementation relay, ask and answer alike: what was tested against
//! what, and every deviation, is in `docs/interop.md`; `docs/spec/libp2p-mix.md` says every byte.
//!
//! # What an application adds
//!
//! ```no_run
//! use libp2p::{StreamProtocol, identity::Keypair, ping, swarm::NetworkBehaviour};
//! use libp2p_mix::{Config, Destination, Read, RequestOptions, SecretKey};
//!
//! #[derive(NetworkBehaviour)]
//! struct MyBehaviour {
//!     ping: ping::Behaviour,
//!     mix: libp2p_mix::Behaviour,
//! }
//! # async fn example(mix_secret: [u8; 32], nodes: &str, address: libp2p::Multiaddr) -> Result<(), Box<dyn std::error::Error>> {
//! # const PING: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
//!
//! let keypair = Keypair::generate_secp256k1();
//! let config = Config::new(keypair.clone(), SecretKey::from_bytes(mix_secret)).with_read(&PING, Read::Exact(32));
//! let (mix, control) = libp2p_mix::Behaviour::new(config)?;
//! let behaviour = MyBehaviour { ping: ping::Behaviour::default(), mix };
//! // ... the swarm with this behaviour, over TCP or QUIC, listens and runs as always.
//!
//! let nodes: Vec<_> = nodes.lines().map(str::parse).collect::<Result<_, _>>()?;
//! control.pool().set_static(nodes)?;
//! let to = Destination::peer(&address)?;
//! let reply = control.request(&to, &PING, &[7; 32], RequestOptions::default()).await?;
//! # Ok(()) }
//! ```
//!
//! [`Control`] is used from any task, and decides for each message: what isn't sent with it goes as it always did.
//! [`Control::stream`] is for protocols that are written against streams, [`Control::serve`] for those who answer,
//! [`gossip`] for publishing without a name. The examples `ping`, `chat`, `gossip` and `lightpush` run with one command each.
//!
//! # What it hides, and what not
//!
//! Whoever sees only some links and some of the nodes on a path doesn't learn who talks to whom. The exit sees the destination and,
//! unless it is encrypted, the message. Somebody who watches all links still sees who sends when: a peer that also relays for
//! others, with [`Cover`], hides more than one that sends now and then. Three nodes that belong together see everything: choose the
//! [`Pool`] with care.
//!
//! # How it is made
//!
//! Each peer has a thread through which all packets go, and the swarm's task sees none of them. [`link`] carries frames over
//! long-lived one-way streams (every stream protocol of mizzle is one [`link::Behaviour`]), `mizzle-mix` peels packets, refuses replays and
//! holds them, `mizzle-sphinx` is the packet. All queues and tables are bounded, see [`Config`]; what is dropped is counted, see
//! [`Control::stats`].
//!
//! Features, off by default: `identify` and `kad` for [`discovery`], `gossipsub` for `gossip::NoIdentity`, and `graviola` for faster
//! cryptography on CPUs that have what it needs.

pub mod address;
mod behaviour;
mod bytestream;
mod config;
mod control;
mod cover;
mod delay;
pub mod discovery;
mod entry;
mod error;
mod event;
mod exit;
pub mod gossip;
pub mod link;
pub mod message;
mod node;
pub mod pool;
mod replay;
mod shared;
pub mod spam;
mod streams;
mod surbs;

pub use address::Endpoint;
pub use behaviour::Behaviour;
pub use bytestream::RequestStream;
pub use config::{Config, PROTOCOL, Policy};
pub use control::{Control, RequestOptions, Stats};
pub use cover::Cover;
pub use delay::Delays;
pub use entry::Destination;
pub use error::{NoRoute, RequestError, SendError, StartError};
pub use event::Event;
pub use exit::{AnswerTooLong, Exchange, ExchangeStream, Incoming, Read};
pub use mizzle_sphinx::{Dialect, PublicKey, SecretKey};
pub use pool::{MixNode, Pool};
pub use replay::{FileReplayStore, ReplayStore};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nodes on a path. Other implementations read no other number at an exit and at the end of a reply's way.
pub const HOPS: usize = 3;

/// Locks; a panic elsewhere leaves the plain tables behind these locks usable.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
