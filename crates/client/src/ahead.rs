//! Packets and SURBs whose keys were agreed on ahead of their slots: that is nearly all of the work, and many at once cost
//! much less than one after the other. What goes into a slot is still decided when its packet is built.
//!
//! Routes, delays and keys come from a generator of their own and are used in the order in which slots ask for them, so
//! they are the same whatever the user sends.

use std::collections::BTreeMap;

use mizzle_base::document::Node;
use mizzle_base::{Document, NodeId, Rng};
use mizzle_sphinx::{Dialect, Hop, Prepared, engine, prepare};
use mizzle_traffic::avoid::Avoid;
use mizzle_traffic::route::Route;

/// What is ready for each way from one gateway to another: at most as many as the engine computes at once, 8 with wide
/// vectors and else 1, some 1.2 KB each.
pub(crate) struct Ahead {
    rng: Rng,
    ways: BTreeMap<(NodeId, NodeId), Vec<OnTheWay>>,
}

/// One that is ready.
pub(crate) struct OnTheWay {
    pub(crate) prepared: Prepared,
    /// What it passes between the gateways.
    pub(crate) mixes: Vec<NodeId>,
}

impl Ahead {
    pub(crate) fn new(rng: Rng) -> Self {
        Self {
            rng,
            ways: BTreeMap::new(),
        }
    }

    /// Forgets what is ready: the nodes have other keys now, or routes are drawn otherwise.
    pub(crate) fn clear(&mut self) {
        self.ways.clear();
    }

    /// The next one from gateway `first` to gateway `last`, by none of those that are left out. `None` if there is no route, which
    /// a verified document has.
    pub(crate) fn take(
        &mut self,
        document: &Document,
        first: &Node,
        last: &Node,
        out: &Avoid,
    ) -> Option<OnTheWay> {
        let ready = self.ways.entry((first.id, last.id)).or_default();
        if ready.is_empty() {
            let mut route = || Route::between_without(&mut self.rng, document, first, last, out);
            let routes: Vec<_> = (0..engine().lanes()).map(|_| route()).collect();
            let hops: Vec<Vec<Hop<'_>>> = routes.iter().map(Route::hops).collect();
            let hops: Vec<_> = hops.iter().map(Vec::as_slice).collect();
            let mut prepared = Vec::with_capacity(hops.len());
            prepare(Dialect::Lioness, &mut self.rng, &hops, &mut prepared).ok()?;
            for (prepared, route) in prepared.into_iter().zip(&routes) {
                let passed = route.nodes().map(|node| node.id);
                let mixes = passed.filter(|id| *id != first.id && *id != last.id).collect();
                ready.push(OnTheWay { prepared, mixes });
            }
        }
        ready.pop()
    }
}
