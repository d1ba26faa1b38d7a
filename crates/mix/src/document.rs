//! [`Edges`]: the routing of the `loopix` profile, by the network document.

use std::collections::BTreeSet;
use std::time::Duration;

use mizzle_base::document::Node;
use mizzle_base::{Document, NodeId, Rng};
use mizzle_sphinx::ADDRESS_LEN;

use crate::worker::Routing;

/// The edges of the document that leave one node. A stranger, a private address, a skipped layer: all the same nowhere.
#[derive(Clone, Debug)]
pub struct Edges(BTreeSet<NodeId>);

impl Edges {
    /// From this node.
    #[must_use]
    pub fn from(document: &Document, node: &Node) -> Self {
        Self(document.next_hops(node).iter().map(|n| n.id).collect())
    }
}

impl Routing for Edges {
    type Hop = NodeId;

    fn next_hop(&self, address: &[u8; ADDRESS_LEN]) -> Option<NodeId> {
        NodeId::from_address(address).filter(|id| self.0.contains(id))
    }

    fn delay(&self, _: &mut Rng, delay_ms: u16) -> Duration {
        Duration::from_millis(delay_ms.into())
    }
}
