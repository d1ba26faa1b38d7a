//! [`Config`]: what a peer is and does, with the bounds of all that it holds.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use libp2p::{Multiaddr, PeerId, StreamProtocol, identity::Keypair};
use mizzle_sphinx::{Dialect, PublicKey, SecretKey};

use crate::{
    address::{self, AddressError, Endpoint},
    cover::Cover,
    delay::Delays,
    exit::Read,
    link,
    replay::ReplayStore,
    spam::SpamProtection,
};

/// The name of the protocol, the same for both dialects.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/mix/1.0.0");

/// Inbound streams of one peer. A Nim node with many packets for a peer that it isn't connected to opens one for each of
/// them at once, and a packet whose stream is refused is lost with those on the node's other streams.
const INBOUND_STREAMS: usize = 64;

/// Which addresses may be dialled for others.
#[derive(Clone)]
#[non_exhaustive]
pub enum Policy {
    /// Those of the open internet.
    Public,
    /// Those of the open internet; and any, for a peer whose own address is none of it: in a network on one machine or
    /// site all are like that.
    PublicOrLikeOurs,
    /// Any. For networks on one machine or one site: a stranger can then have this peer connect to whatever it reaches.
    Any,
    /// What the function says.
    Custom(Arc<dyn Fn(&Endpoint) -> bool + Send + Sync>),
    /// None.
    Nobody,
}

impl Policy {
    /// `ours` is asked for our own address, if that matters.
    pub(crate) fn allows(&self, endpoint: &Endpoint, ours: impl FnOnce() -> Option<Endpoint>) -> bool {
        let public = |e: &Endpoint| e.ip().is_some_and(address::is_public);
        match self {
            Self::Public => public(endpoint),
            Self::PublicOrLikeOurs => public(endpoint) || ours().is_some_and(|e| !public(&e)),
            Self::Any => true,
            Self::Custom(allows) => allows(endpoint),
            Self::Nobody => false,
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "Public",
            Self::PublicOrLikeOurs => "PublicOrLikeOurs",
            Self::Any => "Any",
            Self::Custom(_) => "Custom(..)",
            Self::Nobody => "Nobody",
        })
    }
}

/// Settings of a peer. The values marked *network* must be equal for all peers of a network.
///
/// Worst-case memory with the defaults: 77 MB held packets, 200 MB replay tags (touched as they fill), 40 MB SURB keys,
/// 1.3 MB for each neighbour that we send to and that does not read (of at most 1,024), 0.3 MB for each connected peer in
/// packets half read, 4.7 MB frames that arrived, 38 MB of exits at work, gossip that is handed over among them, 2.5 MB pool.
pub struct Config {
    pub(crate) keypair: Keypair,
    pub(crate) secret: SecretKey,
    pub(crate) dialect: Dialect,
    pub(crate) delays: Delays,
    pub(crate) hold_ms: u16,
    pub(crate) external: Option<Endpoint>,
    pub(crate) min_pool: usize,
    pub(crate) max_pool: usize,
    pub(crate) forward: Policy,
    pub(crate) exit: Policy,
    pub(crate) reads: BTreeMap<String, Read>,
    pub(crate) exit_timeout: Duration,
    pub(crate) max_exits: usize,
    pub(crate) hand_over: bool,
    pub(crate) surb_lifetime: Duration,
    pub(crate) max_surbs: usize,
    pub(crate) held_packets: usize,
    pub(crate) replay_tags: usize,
    pub(crate) replay_store: Option<Box<dyn ReplayStore>>,
    pub(crate) spam: Option<Arc<dyn SpamProtection>>,
    pub(crate) cover: Option<Cover>,
    pub(crate) max_neighbours: usize,
    pub(crate) queue: usize,
    pub(crate) link: link::Config,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Config(..)")
    }
}

impl Config {
    /// A peer with this identity and this X25519 secret of its layer. The identity must be a secp256k1 key for others to
    /// send by this peer and for replies to find it; with another one it can only [send](crate::Control::send) without
    /// SURBs.
    #[must_use]
    pub fn new(keypair: Keypair, secret: SecretKey) -> Self {
        Self {
            keypair,
            secret,
            dialect: Dialect::Lioness,
            delays: Delays::Exponential {
                mean_ms: 100,
                at_least_ms: 0,
            },
            hold_ms: 100,
            external: None,
            min_pool: 3,
            max_pool: 4096,
            forward: Policy::Nobody,
            exit: Policy::Public,
            reads: BTreeMap::new(),
            exit_timeout: Duration::from_secs(30),
            max_exits: 1024,
            hand_over: true,
            surb_lifetime: Duration::from_secs(30 * 60),
            max_surbs: 100_000,
            held_packets: 16_384,
            replay_tags: 1 << 24,
            replay_store: None,
            spam: None,
            cover: None,
            max_neighbours: 1024,
            queue: 1024,
            // Who asks and goes may come back at once, and his reply waits for the pause to be over.
            link: link::Config::new(PROTOCOL, link::FrameLen::AtMost(0))
                .with_max_inbound_streams_per_peer(INBOUND_STREAMS)
                .with_redial(Duration::from_millis(250), Duration::from_secs(4)),
        }
    }

    /// *Network.* The payload cipher and padding: [`Dialect::Lioness`] (the default), or [`Dialect::LegacyCtr`] of nodes
    /// before 2026. Sets the delays to those of the dialect's nodes, and with the legacy one no hold before sending.
    #[must_use]
    pub fn with_dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        (self.delays, self.hold_ms) = match dialect {
            Dialect::Lioness => (
                Delays::Exponential {
                    mean_ms: 100,
                    at_least_ms: 0,
                },
                100,
            ),
            Dialect::LegacyCtr => (Delays::Exact, 0),
        };
        self
    }

    /// How long hops hold packets; by default exponential with a mean of 100 ms. A longer mean hides more and is slower:
    /// a request and its reply pass four hops that hold them.
    #[must_use]
    pub fn with_delays(mut self, delays: Delays) -> Self {
        self.delays = delays;
        self
    }

    /// The mean of the time that an own packet, a reply or a cover packet is held before it leaves for its first hop,
    /// exponential, in milliseconds; default 100. Without it the moment of a request shows on our own wire. 0: none.
    #[must_use]
    pub fn with_hold_ms(mut self, mean_ms: u16) -> Self {
        self.hold_ms = mean_ms;
        self
    }

    /// Where others reach us, put into SURBs and records. Without it, the external addresses that the swarm confirms are
    /// taken, and before there are any those that it listens on.
    ///
    /// # Errors
    /// [`AddressError`] if it doesn't fit into a packet.
    pub fn with_external_address(mut self, address: &Multiaddr) -> Result<Self, AddressError> {
        self.external = Some(Endpoint::new(self.peer_id(), address)?);
        Ok(self)
    }

    /// Nodes that the pool must hold before anything is sent, at least 3 (the default): with few, guessing is easy.
    #[must_use]
    pub fn with_min_pool(mut self, nodes: usize) -> Self {
        self.min_pool = nodes.max(crate::HOPS);
        self
    }

    /// Nodes that the pool may hold; default 4096, 600 bytes each. More are refused and counted.
    #[must_use]
    pub fn with_max_pool(mut self, nodes: usize) -> Self {
        self.max_pool = nodes;
        self
    }

    /// Whether packets are forwarded to next hops that are not in the pool; default no, so that nobody can have this peer dial
    /// where he likes. With it they are forwarded to public addresses, and to any by a peer whose own address is none
    /// ([`Policy::PublicOrLikeOurs`]).
    ///
    /// The last hop of a reply's way is the one who asked. In a network where some ask who are in nobody's pool, as with the Nim
    /// implementation, whose nodes forward to anybody, the nodes have to have it: else such replies are dropped and counted,
    /// `drop.no_edge`, and whoever asked waits in vain.
    #[must_use]
    pub fn with_next_hops_outside_pool(self, allowed: bool) -> Self {
        self.with_forward_policy(if allowed {
            Policy::PublicOrLikeOurs
        } else {
            Policy::Nobody
        })
    }

    /// Which next hops outside of the pool packets are forwarded to, more finely than with
    /// [`with_next_hops_outside_pool`](Self::with_next_hops_outside_pool); default [`Policy::Nobody`]. Nodes of the pool, at
    /// the addresses that it has, are forwarded to in any case.
    #[must_use]
    pub fn with_forward_policy(mut self, policy: Policy) -> Self {
        self.forward = policy;
        self
    }

    /// Which destinations this peer connects to as an exit; default [`Policy::Public`]. [`Policy::Nobody`]: it is no exit.
    #[must_use]
    pub fn with_exit_policy(mut self, policy: Policy) -> Self {
        self.exit = policy;
        self
    }

    /// How an exit reads the answer of a destination that speaks `codec`. Without it, requests for answers with that codec
    /// are not carried out.
    #[must_use]
    pub fn with_read(mut self, codec: &StreamProtocol, read: Read) -> Self {
        self.reads.insert(codec.as_ref().to_owned(), read);
        self
    }

    /// How long an exit works for one request, from the dial to the end of the answer; default 30 s.
    #[must_use]
    pub fn with_exit_timeout(mut self, timeout: Duration) -> Self {
        self.exit_timeout = timeout;
        self
    }

    /// Requests that an exit works for at a time; default 1024, some 37 KB each. Beyond it a request fails at once.
    #[must_use]
    pub fn with_max_exits(mut self, requests: usize) -> Self {
        self.max_exits = requests.max(1);
        self
    }

    /// Whether an exit hands gossip to peers of a topic as their neighbour, for [`publish_to`](crate::Control::publish_to) of
    /// others; default yes, where the swarm has no gossipsub of its own and the exit policy lets anything. It then says
    /// on every connection that it speaks `/meshsub/1.1.0`, subscribes to nothing, and throws away what it is told.
    #[must_use]
    pub fn with_gossip_handed_over(mut self, handed_over: bool) -> Self {
        self.hand_over = handed_over;
        self
    }

    /// How long a SURB that was handed out can be answered; default 30 minutes. It should be no longer than the other
    /// nodes' replay memory.
    #[must_use]
    pub fn with_surb_lifetime(mut self, lifetime: Duration) -> Self {
        self.surb_lifetime = lifetime;
        self
    }

    /// SURBs that may be out; default 100,000, some 400 bytes each. Beyond it requests are refused.
    #[must_use]
    pub fn with_max_surbs(mut self, surbs: usize) -> Self {
        self.max_surbs = surbs;
        self
    }

    /// Packets held for their delay; default 16,384, 4.7 KB each. Beyond it an arriving packet is dropped and counted.
    #[must_use]
    pub fn with_held_packets(mut self, packets: usize) -> Self {
        self.held_packets = packets;
        self
    }

    /// Packets that may be accepted under this mix key; default 2²⁴, 12 bytes each. Beyond it all packets are dropped and
    /// [`Event::ReplayMemoryFull`](crate::Event) tells of it: forgetting would let a packet pass twice, so the peer
    /// wants a new mix key.
    #[must_use]
    pub fn with_replay_tags(mut self, tags: usize) -> Self {
        self.replay_tags = tags;
        self
    }

    /// Where the replay memory survives a restart; by default nowhere, and whoever keeps his mix key over a restart should
    /// have one.
    #[must_use]
    pub fn with_replay_store(mut self, store: impl ReplayStore + 'static) -> Self {
        self.replay_store = Some(Box::new(store));
        self
    }

    /// *Network.* What packets must show; by default nothing.
    #[must_use]
    pub fn with_spam_protection(mut self, spam: impl SpamProtection) -> Self {
        self.spam = Some(Arc::new(spam));
        self
    }

    /// Cover traffic; by default none.
    #[must_use]
    pub fn with_cover(mut self, cover: Cover) -> Self {
        self.cover = Some(cover);
        self
    }

    /// Peers that we hold links to on our own account; default 1024. Beyond it the one used longest ago is given up.
    #[must_use]
    pub fn with_max_neighbours(mut self, peers: usize) -> Self {
        self.max_neighbours = peers.max(crate::HOPS);
        self
    }

    /// Packets that wait to be handed to the packets' thread by this peer's own requests, replies and proofs; default 1024.
    #[must_use]
    pub fn with_queue(mut self, packets: usize) -> Self {
        self.queue = packets.max(1);
        self
    }

    /// The bounds and time-outs of the streams between nodes. Protocol and frame length are set by the rest of this
    /// configuration.
    #[must_use]
    pub fn with_link(mut self, change: impl FnOnce(link::Config) -> link::Config) -> Self {
        self.link = change(self.link);
        self
    }

    pub(crate) fn is_exit(&self) -> bool {
        !matches!(self.exit, Policy::Nobody)
    }

    /// The peer's identity.
    #[must_use]
    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// The peer's id.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// The public key of the peer's layer, for other peers' pools.
    #[must_use]
    pub fn mix_public_key(&self) -> PublicKey {
        self.secret.public()
    }
}
