//! Routes: which nodes a packet passes, and the delay that each must apply.
//!
//! Loopix section 4.1: an independent choice in each layer for every packet, uniform unless the document or what is left out
//! makes it otherwise, exponential delays drawn by the sender. All five kinds of packet (data, drop, loop, node loop, SURB) are drawn here, in one way, so that
//! neither paths nor delays tell them apart.

use mizzle_base::document::{LAYERS, Node, Role};
use mizzle_base::{Document, Rng};
use mizzle_sphinx::{ADDRESS_LEN, Hop};

use crate::avoid::Avoid;
use crate::draw;

/// A route of up to five hops with the delay of each.
pub struct Route<'a> {
    hops: Vec<(&'a Node, u16)>,
    addresses: Vec<[u8; ADDRESS_LEN]>,
}

impl<'a> Route<'a> {
    fn new(rng: &mut Rng, document: &Document, hops: Vec<&'a Node>) -> Self {
        let last = hops.len().saturating_sub(1);
        let mean_ms = document.profile().mean_delay_ms;
        let hops: Vec<_> = hops
            .into_iter()
            .enumerate()
            .map(|(i, node)| {
                (
                    node,
                    if i == last {
                        0
                    } else {
                        draw::delay_ms(rng, mean_ms)
                    },
                )
            })
            .collect();
        let addresses = hops.iter().map(|(node, _)| node.id.to_address()).collect();
        Self { hops, addresses }
    }

    /// From gateway `first` through one mix of each layer to gateway `last`: every packet of a client, and each
    /// SURB (whose `first` is the gateway that holds it).
    #[must_use]
    pub fn between(rng: &mut Rng, document: &'a Document, first: &'a Node, last: &'a Node) -> Self {
        Self::between_without(rng, document, first, last, &Avoid::default())
    }

    /// The same through none of the mixes that are left out.
    #[must_use]
    pub fn between_without(
        rng: &mut Rng,
        document: &'a Document,
        first: &'a Node,
        last: &'a Node,
        out: &Avoid,
    ) -> Self {
        let mut hops = vec![first];
        hops.extend((1..=LAYERS).filter_map(|layer| pick(rng, document, layer, out)));
        hops.push(last);
        Self::new(rng, document, hops)
    }

    /// From `node` once around the layers and back to it: a node's own loop. The first hop is the node after it.
    #[must_use]
    pub fn around(rng: &mut Rng, document: &'a Document, node: &'a Node) -> Self {
        // A node's loops go everywhere, that it may tell of all.
        let (mut hops, none) = (Vec::with_capacity(usize::from(LAYERS) + 1), Avoid::default());
        hops.extend((node.layer + 1..=LAYERS).filter_map(|layer| pick(rng, document, layer, &none)));
        if node.role == Role::Mix {
            let gateways: Vec<&Node> = document.gateways().collect();
            hops.extend(gateways.get(draw::below(rng, gateways.len())));
            hops.extend((1..node.layer).filter_map(|layer| pick(rng, document, layer, &none)));
        }
        hops.push(node);
        Self::new(rng, document, hops)
    }

    /// The first node.
    #[must_use]
    pub fn first(&self) -> Option<&'a Node> {
        self.hops.first().map(|hop| hop.0)
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &'a Node> + '_ {
        self.hops.iter().map(|hop| hop.0)
    }

    /// As the packet crate takes it.
    #[must_use]
    pub fn hops(&self) -> Vec<Hop<'_>> {
        self.hops
            .iter()
            .zip(&self.addresses)
            .map(|(&(node, delay_ms), address)| Hop {
                key: &node.sphinx_key,
                address,
                delay_ms,
            })
            .collect()
    }

    /// Sum of the drawn delays in milliseconds: when a loop is due, links and queues not counted.
    #[must_use]
    pub fn delay_ms(&self) -> u32 {
        self.hops.iter().map(|hop| u32::from(hop.1)).sum()
    }
}

/// By the weights of the document, which are equal for all; evenly where it has none.
fn pick<'a>(rng: &mut Rng, document: &'a Document, layer: u8, out: &Avoid) -> Option<&'a Node> {
    let mut mixes = document.layer(layer);
    let first = document.layer(layer).next().map_or(0.0, |mix| mix.weight);
    let is_even = document.layer(layer).all(|mix| mix.weight == first);
    if is_even && out.is_empty() {
        let n = mixes.len();
        return mixes.nth(draw::below(rng, n));
    }
    let weight = |mix: &Node| match (out.contains(&mix.id), is_even) {
        (true, _) => 0.0,
        (false, true) => 1.0,
        (false, false) => mix.weight,
    };
    let weights: Vec<f64> = document.layer(layer).map(weight).collect();
    mixes.nth(draw::weighted(rng, &weights))
}
