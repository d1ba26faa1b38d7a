//! [`Pool`]: the mix nodes that a peer knows, and which of them a packet takes.
//!
//! Who tells of nodes is left to others: a list, [discovery](crate::discovery), the application. A node enters only if
//! its address fits into a packet and its key is one that an honest node can have; one that can't be reached rests for
//! a while, and leaves if it was discovered and doesn't come back.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};
use mizzle_base::{Rng, Time};
use mizzle_sphinx::PublicKey;
use mizzle_traffic::draw;

use crate::address::{AddressError, Block, Endpoint};

/// A node that cannot be reached rests this long at first, twice as long each time.
const REST_FIRST: Duration = Duration::from_secs(30);
const REST_MOST: Duration = Duration::from_secs(900);
/// A discovered node that failed this often in a row leaves.
const FAILURES_MOST: u32 = 5;

/// A mix node: who, where, and the X25519 key of its layer.
#[derive(Clone, PartialEq, Eq)]
pub struct MixNode {
    /// Who and where.
    pub endpoint: Endpoint,
    /// The key of its layer.
    pub key: PublicKey,
}

impl fmt::Debug for MixNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MixNode(..)")
    }
}

/// Why something is no mix node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum BadNode {
    /// Its address doesn't fit into a packet.
    #[error(
        "its address does not fit into a packet: only ip4 with tcp or quic-v1 and a secp256k1 peer id does"
    )]
    Address,
    /// Its key is one that no honest node has.
    #[error("its mix key is not a valid X25519 public key")]
    Key,
    /// The line isn't `MULTIADDR/p2p/PEERID MIXPUBKEYHEX`.
    #[error("not of the form MULTIADDR/p2p/PEERID MIXPUBKEYHEX")]
    Form,
    /// The pool has as many nodes as it may.
    #[error("the pool is full")]
    Full,
}

impl From<AddressError> for BadNode {
    fn from(_: AddressError) -> Self {
        Self::Address
    }
}

impl MixNode {
    /// A node at an address with or without its peer id at the end.
    ///
    /// # Errors
    /// [`BadNode`] if it cannot take part.
    pub fn new(peer: PeerId, address: &Multiaddr, key: &[u8; 32]) -> Result<Self, BadNode> {
        Ok(Self {
            endpoint: Endpoint::new(peer, address)?,
            key: PublicKey::from_bytes(key).map_err(|_| BadNode::Key)?,
        })
    }
}

impl FromStr for MixNode {
    type Err = BadNode;

    /// A line of a pool file: `MULTIADDR/p2p/PEERID MIXPUBKEYHEX`.
    fn from_str(line: &str) -> Result<Self, BadNode> {
        let (address, key) = line.trim().split_once(char::is_whitespace).ok_or(BadNode::Form)?;
        let address: Multiaddr = address.parse().map_err(|_| BadNode::Form)?;
        let key: [u8; 32] = mizzle_base::hex::decode(key.trim()).ok_or(BadNode::Form)?;
        Ok(Self {
            endpoint: Endpoint::from_multiaddr(&address)?,
            key: PublicKey::from_bytes(&key).map_err(|_| BadNode::Key)?,
        })
    }
}

impl fmt::Display for MixNode {
    /// A line of a pool file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.endpoint.to_multiaddr(),
            mizzle_base::hex::encode(self.key.as_bytes())
        )
    }
}

/// How a node came into the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// By [`Pool::set_static`]: stays until the list changes, however often it fails.
    Static,
    /// From outside, known until then. A static entry is not overwritten by it.
    Discovered {
        /// When it leaves unless it is told of again.
        expires: Time,
        /// Of two records the one with the larger number counts.
        seq: u64,
    },
}

/// A node of the pool with its block, ready to be put into packets.
pub(crate) struct Member {
    pub(crate) node: MixNode,
    pub(crate) block: Block,
}

impl Member {
    pub(crate) fn peer(&self) -> PeerId {
        self.node.endpoint.peer
    }
}

struct Entry {
    member: Arc<Member>,
    source: Source,
    failures: u32,
    rests_until: Time,
}

#[derive(Default)]
struct Nodes {
    /// Sampling wants an index; the map says where a peer is.
    entries: Vec<Entry>,
    at: HashMap<PeerId, usize>,
    removed: BTreeMap<&'static str, u64>,
}

/// The known mix nodes; cheap to clone, every clone is the same pool.
#[derive(Clone)]
pub struct Pool {
    nodes: Arc<RwLock<Nodes>>,
    /// Never in its own paths.
    me: PeerId,
    capacity: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// An empty pool of at most `capacity` nodes, some 600 bytes each.
    pub(crate) fn new(me: PeerId, capacity: usize) -> Self {
        Self {
            nodes: Arc::default(),
            me,
            capacity,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Nodes> {
        self.nodes
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Nodes> {
        self.nodes
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many nodes are known, ourselves left out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().entries.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a node is known.
    #[must_use]
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.read().at.contains_key(peer)
    }

    /// The nodes, in no order that means anything.
    #[must_use]
    pub fn nodes(&self) -> Vec<MixNode> {
        self.read()
            .entries
            .iter()
            .map(|entry| entry.member.node.clone())
            .collect()
    }

    /// How many nodes left or were refused, by reason.
    #[must_use]
    pub fn removed(&self) -> BTreeMap<&'static str, u64> {
        self.read().removed.clone()
    }

    /// Adds a node or renews what is known of it. Ourselves are left out without a word: a list for all holds us too.
    ///
    /// # Errors
    /// [`BadNode::Full`], counted.
    pub fn insert(&self, node: MixNode, source: Source) -> Result<(), BadNode> {
        if node.endpoint.peer == self.me {
            return Ok(());
        }
        let block = node.endpoint.block()?;
        let mut nodes = self.write();
        if let Some(&at) = nodes.at.get(&node.endpoint.peer) {
            let entry = &mut nodes.entries[at];
            if entry.source == Source::Static && source != Source::Static {
                return Ok(());
            }
            if let (Source::Discovered { seq: known, .. }, Source::Discovered { seq, .. }) =
                (entry.source, source)
                && seq < known
            {
                return Ok(());
            }
            entry.source = source;
            if entry.member.node != node {
                entry.member = Arc::new(Member { node, block });
                (entry.failures, entry.rests_until) = (0, Time::ZERO);
            }
            return Ok(());
        }
        if nodes.entries.len() >= self.capacity {
            nodes.count("full");
            return Err(BadNode::Full);
        }
        let at = nodes.entries.len();
        nodes.at.insert(node.endpoint.peer, at);
        nodes.entries.push(Entry {
            member: Arc::new(Member { node, block }),
            source,
            failures: 0,
            rests_until: Time::ZERO,
        });
        Ok(())
    }

    /// Counts a node that was not offered because it can't take part, as whoever reads a list finds out.
    pub fn refused(&self, reason: BadNode) {
        let reason = match reason {
            BadNode::Address => "address",
            BadNode::Key => "key",
            BadNode::Form => "form",
            BadNode::Full => "full",
        };
        self.write().count(reason);
    }

    /// Makes the static part of the pool be this: static nodes that are not in the list leave.
    ///
    /// # Errors
    /// [`BadNode::Full`] when not all found room; the first ones are in.
    pub fn set_static(&self, list: impl IntoIterator<Item = MixNode>) -> Result<(), BadNode> {
        let list: Vec<_> = list.into_iter().collect();
        let keep: std::collections::HashSet<_> = list.iter().map(|node| node.endpoint.peer).collect();
        self.write().retain("list", |entry| {
            entry.source != Source::Static || keep.contains(&entry.member.peer())
        });
        list.into_iter()
            .try_for_each(|node| self.insert(node, Source::Static))
    }

    /// Forgets a node.
    pub fn remove(&self, peer: &PeerId) {
        self.write()
            .retain("removed", |entry| entry.member.peer() != *peer);
    }

    /// Lets discovered nodes go whose time is over.
    pub(crate) fn expire(&self, now: Time) {
        self.write().retain(
            "expired",
            |entry| !matches!(entry.source, Source::Discovered { expires, .. } if expires <= now),
        );
    }

    /// A dial failed: the node rests, and a discovered one that failed too often leaves.
    pub(crate) fn failed(&self, peer: &PeerId, now: Time) {
        let mut nodes = self.write();
        let Some(&at) = nodes.at.get(peer) else { return };
        let entry = &mut nodes.entries[at];
        entry.failures += 1;
        let rest = REST_FIRST
            .saturating_mul(1 << (entry.failures - 1).min(8))
            .min(REST_MOST);
        entry.rests_until = now + rest;
        if entry.failures >= FAILURES_MOST && entry.source != Source::Static {
            nodes.retain("unreachable", |entry| entry.member.peer() != *peer);
        }
    }

    /// The node is there.
    pub(crate) fn reached(&self, peer: &PeerId) {
        // Most calls change nothing: look first, under the lock that many may hold.
        let rested = |nodes: &Nodes| {
            nodes
                .at
                .get(peer)
                .copied()
                .filter(|at| nodes.entries[*at].failures > 0)
        };
        if rested(&self.read()).is_none() {
            return;
        }
        let mut nodes = self.write();
        if let Some(at) = rested(&nodes) {
            let entry = &mut nodes.entries[at];
            (entry.failures, entry.rests_until) = (0, Time::ZERO);
        }
    }

    pub(crate) fn get(&self, peer: &PeerId) -> Option<Arc<Member>> {
        let nodes = self.read();
        nodes.at.get(peer).map(|at| nodes.entries[*at].member.clone())
    }

    /// `n` distinct nodes, each choice with the same probability, none of `without`; those that rest only where there
    /// are not enough others.
    ///
    /// # Errors
    /// How many there are, if not enough.
    pub(crate) fn sample(
        &self,
        rng: &mut Rng,
        now: Time,
        n: usize,
        without: &[PeerId],
    ) -> Result<Vec<Arc<Member>>, usize> {
        let nodes = self.read();
        let eligible = |resting: bool| {
            nodes.entries.iter().filter(move |entry| {
                (resting || entry.rests_until <= now) && !without.contains(&entry.member.peer())
            })
        };
        let mut choice: Vec<_> = eligible(false).collect();
        if choice.len() < n {
            choice = eligible(true).collect();
        }
        if choice.len() < n {
            return Err(choice.len());
        }
        // The first n steps of a shuffle.
        for i in 0..n {
            let j = i + draw::below(rng, choice.len() - i);
            choice.swap(i, j);
        }
        Ok(choice[..n].iter().map(|entry| entry.member.clone()).collect())
    }
}

impl Nodes {
    fn count(&mut self, reason: &'static str) {
        *self.removed.entry(reason).or_default() += 1;
    }

    fn retain(&mut self, reason: &'static str, keep: impl Fn(&Entry) -> bool) {
        let before = self.entries.len();
        self.entries.retain(keep);
        let gone = before - self.entries.len();
        if gone > 0 {
            *self.removed.entry(reason).or_default() += gone as u64;
            self.at = self
                .entries
                .iter()
                .enumerate()
                .map(|(at, entry)| (entry.member.peer(), at))
                .collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::identity::Keypair;
    use mizzle_sphinx::SecretKey;
    use rand_core::SeedableRng;

    fn node(seed: u8) -> MixNode {
        let peer = Keypair::generate_secp256k1().public().to_peer_id();
        let address = format!("/ip4/1.2.3.{seed}/tcp/1").parse().unwrap();
        MixNode::new(
            peer,
            &address,
            SecretKey::from_bytes([seed + 1; 32]).public().as_bytes(),
        )
        .unwrap()
    }

    fn pool() -> Pool {
        Pool::new(PeerId::random(), 100)
    }

    #[test]
    fn every_choice_of_nodes_is_as_likely_as_any_other() {
        let (pool, mut rng) = (pool(), Rng::seed_from_u64(1));
        pool.set_static((0..5).map(node)).unwrap();
        let mut counts: HashMap<Vec<PeerId>, u32> = HashMap::new();
        for _ in 0..60_000 {
            let path = pool.sample(&mut rng, Time::ZERO, 3, &[]).unwrap();
            let peers: Vec<_> = path.iter().map(|m| m.peer()).collect();
            assert!(peers[0] != peers[1] && peers[1] != peers[2] && peers[0] != peers[2]);
            *counts.entry(peers).or_default() += 1;
        }
        assert_eq!(counts.len(), 60);
        // 1000 each, standard deviation 31: five of them.
        assert!(
            counts.values().all(|n| n.abs_diff(1000) < 160),
            "{:?}",
            counts.values()
        );
    }

    #[test]
    fn left_out_nodes_and_too_few_nodes() {
        let (pool, mut rng) = (pool(), Rng::seed_from_u64(1));
        let nodes: Vec<_> = (0..4).map(node).collect();
        pool.set_static(nodes.clone()).unwrap();
        let without = [nodes[0].endpoint.peer];
        for _ in 0..100 {
            let path = pool.sample(&mut rng, Time::ZERO, 3, &without).unwrap();
            assert!(path.iter().all(|m| m.peer() != without[0]));
        }
        let without = [nodes[0].endpoint.peer, nodes[1].endpoint.peer];
        assert_eq!(pool.sample(&mut rng, Time::ZERO, 3, &without).err(), Some(2));
    }

    #[test]
    fn a_node_that_fails_rests_and_a_discovered_one_leaves() {
        let (pool, mut rng) = (pool(), Rng::seed_from_u64(1));
        let nodes: Vec<_> = (0..4).map(node).collect();
        let expires = Time::from_s(5000);
        pool.set_static(nodes[1..].to_vec()).unwrap();
        pool.insert(nodes[0].clone(), Source::Discovered { expires, seq: 0 })
            .unwrap();
        let (bad, now) = (nodes[0].endpoint.peer, Time::from_s(100));
        let chosen = |rng: &mut Rng, now| {
            (0..200).any(|_| {
                pool.sample(rng, now, 3, &[])
                    .unwrap()
                    .iter()
                    .any(|m| m.peer() == bad)
            })
        };
        pool.failed(&bad, now);
        assert!(!chosen(&mut rng, now));
        assert!(chosen(&mut rng, now + REST_FIRST), "the rest is over");
        pool.reached(&bad);
        assert!(chosen(&mut rng, now));
        for _ in 0..FAILURES_MOST {
            pool.failed(&bad, now);
            pool.failed(&nodes[1].endpoint.peer, now);
        }
        assert_eq!((pool.len(), pool.contains(&bad)), (3, false));
        assert!(
            pool.sample(&mut rng, now, 3, &[]).is_ok(),
            "better one that rests than none"
        );
        assert_eq!(pool.removed().get("unreachable"), Some(&1));
    }

    #[test]
    fn lists_replace_each_other_and_discovered_nodes_expire() {
        let pool = pool();
        let nodes: Vec<_> = (0..3).map(node).collect();
        pool.set_static(nodes[..2].to_vec()).unwrap();
        let source = Source::Discovered {
            expires: Time::from_s(10),
            seq: 5,
        };
        pool.insert(nodes[2].clone(), source).unwrap();
        pool.insert(nodes[1].clone(), source).unwrap();
        let moved = MixNode::new(
            nodes[2].endpoint.peer,
            &"/ip4/9.9.9.9/tcp/1".parse().unwrap(),
            nodes[2].key.as_bytes(),
        );
        let old = Source::Discovered {
            expires: Time::from_s(99),
            seq: 4,
        };
        pool.insert(moved.unwrap(), old).unwrap();
        assert!(
            pool.nodes().contains(&nodes[2]),
            "an older record changes nothing"
        );
        pool.expire(Time::from_s(10));
        assert_eq!(pool.len(), 2, "a listed node does not expire");
        pool.set_static([nodes[2].clone()]).unwrap();
        assert_eq!(pool.nodes(), [nodes[2].clone()]);
        assert_eq!(pool.removed(), [("expired", 1), ("list", 2)].into());
    }

    #[test]
    fn lines_of_a_pool_file() {
        let node = node(7);
        assert_eq!(node.to_string().parse(), Ok(node.clone()));
        let line = node.to_string();
        let (address, key) = line.split_once(' ').unwrap();
        for (bad, why) in [
            (address.to_owned(), BadNode::Form),
            (format!("{address} {}", &key[1..]), BadNode::Form),
            (format!("{address} {}", "00".repeat(32)), BadNode::Key),
            (
                format!("{} {key}", address.replace("ip4/1.2.3.7", "dns4/example.org")),
                BadNode::Address,
            ),
            (format!("/ip4/1.2.3.4/tcp/1 {key}"), BadNode::Address),
        ] {
            assert_eq!(bad.parse::<MixNode>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn we_are_not_in_our_own_pool_and_it_is_bounded() {
        let me = node(1);
        let pool = Pool::new(me.endpoint.peer, 2);
        pool.set_static([me, node(2), node(3)]).unwrap();
        assert_eq!(pool.len(), 2);
        assert_eq!(pool.insert(node(4), Source::Static), Err(BadNode::Full));
    }
}
