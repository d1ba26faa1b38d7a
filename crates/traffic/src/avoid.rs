//! Which mixes one's own routes leave out, and when one's gateway is to blame instead.
//!
//! A mix through which ten loops in a row were lost, none of which others are likely to have lost, is left out for a minute; one
//! in each layer. More would let whoever drops packets, the own gateway first of all, choose the routes of its clients: if
//! more would be left out, it is the gateway that is blamed, and routes are what they were. Two things are known better from
//! what [all nodes say](crate::weights::judged): a mix that is down for most of them is left out whatever its layer has lost
//! already, for no gateway can make that up; and one that is well for most of them stays, for then it is the gateway that
//! loses what goes there.
//!
//! Nothing here depends on what the user sends: loops leave and are lost whether he does anything or not. No clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mizzle_base::document::{LAYERS, Node};
use mizzle_base::{Document, NodeId, Time};

use crate::ledger::{Ledger, TO_BLAME};
use crate::weights::Judged;

/// Losses in a row after which a mix is left out.
pub const IN_ROW: u32 = 10;
/// The same for one that was left out before, until a loop comes back through it.
const IN_ROW_AGAIN: u32 = 3;
/// Losses in a row, whatever the loops were to pass, after which the gateway is blamed.
const ALL_IN_ROW: u32 = 20;
/// How long it is left out, and how long after the gateway was blamed no mix is for one's own losses.
pub const FOR: Duration = Duration::from_secs(60);

/// What was decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Routes leave this mix out from now on.
    LeftOut(NodeId),
    /// Routes pass it again.
    Back(NodeId),
    /// The own gateway loses packets, or most of what lies behind it does.
    GatewayBlamed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    OwnLosses,
    MostSayIt,
}

/// The mixes that one's own routes leave out.
#[derive(Default)]
pub struct Avoid {
    out: BTreeMap<NodeId, (Why, Time)>,
    /// Left out before, and nothing came back through them since.
    again: BTreeSet<NodeId>,
    blamed: Option<Time>,
}

impl Avoid {
    /// Whether routes leave this node out.
    #[must_use]
    pub fn contains(&self, node: &NodeId) -> bool {
        self.out.contains_key(node)
    }

    /// Whether they leave none out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// All that they leave out.
    pub fn iter(&self) -> impl Iterator<Item = &NodeId> {
        self.out.keys()
    }

    /// When the gateway was blamed last.
    #[must_use]
    pub fn blamed(&self) -> Option<Time> {
        self.blamed
    }

    /// Decides anew, by what became of the own loops and what `judged` says that all nodes say. To be called when a loop was lost,
    /// when reports came, and now and then.
    pub fn decide(
        &mut self,
        now: Time,
        document: &Document,
        ledger: &mut Ledger,
        judged: impl Fn(&NodeId) -> Judged,
    ) -> Vec<Decision> {
        let mut decisions = Vec::new();
        // The clock may have been set back since.
        self.blamed = self.blamed.filter(|at| *at <= now);
        self.again.retain(|node| {
            let passed = ledger.by_node().get(node).copied().unwrap_or_default();
            passed.lost_in_row > 0 || !ledger.was_passed(node)
        });
        let over = self
            .out
            .iter()
            .filter(|(_, (_, since))| *since > now || now.since(*since) >= FOR);
        let over: Vec<NodeId> = over.map(|(node, _)| *node).collect();
        for node in over {
            if judged(&node) == Judged::Down {
                self.out.insert(node, (Why::MostSayIt, now));
                continue;
            }
            self.out.remove(&node);
            self.again.insert(node);
            ledger.begin_anew(&node);
            decisions.push(Decision::Back(node));
        }
        let mixes = || (1..=LAYERS).flat_map(|layer| document.layer(layer));
        for mix in mixes() {
            if !self.contains(&mix.id) && judged(&mix.id) == Judged::Down && self.leaves_one(document, mix) {
                self.out.insert(mix.id, (Why::MostSayIt, now));
                decisions.push(Decision::LeftOut(mix.id));
            }
        }
        if self.blamed.is_some_and(|at| now.since(at) < FOR) {
            return decisions;
        }
        let mut is_blamed = ledger.lost_in_row() >= ALL_IN_ROW;
        for mix in mixes() {
            if is_blamed {
                break;
            }
            if self.contains(&mix.id) || !self.is_to_blame(ledger, &mix.id) {
                continue;
            }
            let own = self.out.iter().filter(|(_, (why, _))| *why == Why::OwnLosses);
            let in_layer = own.filter(|(id, _)| document.node(id).is_some_and(|n| n.layer == mix.layer));
            if judged(&mix.id) == Judged::Well || in_layer.count() > 0 || !self.leaves_one(document, mix) {
                is_blamed = true;
            } else {
                self.out.insert(mix.id, (Why::OwnLosses, now));
                decisions.push(Decision::LeftOut(mix.id));
            }
        }
        if is_blamed {
            self.blame(now, ledger, &mut decisions);
        }
        decisions
    }

    /// There is another gateway now: what was found behind the old one is forgotten.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn is_to_blame(&self, ledger: &Ledger, mix: &NodeId) -> bool {
        let in_row = ledger.by_node().get(mix).map_or(0, |passed| passed.lost_in_row);
        if self.again.contains(mix) {
            return in_row >= IN_ROW_AGAIN && ledger.innocence(mix) <= TO_BLAME.sqrt();
        }
        in_row >= IN_ROW && ledger.innocence(mix) <= TO_BLAME
    }

    fn leaves_one(&self, document: &Document, mix: &Node) -> bool {
        document
            .layer(mix.layer)
            .any(|other| other.id != mix.id && !self.contains(&other.id))
    }

    fn blame(&mut self, now: Time, ledger: &mut Ledger, decisions: &mut Vec<Decision>) {
        self.blamed = Some(now);
        self.out.retain(|node, (why, _)| {
            if *why == Why::OwnLosses {
                decisions.push(Decision::Back(*node));
            }
            *why == Why::MostSayIt
        });
        self.again.clear();
        // Found behind a gateway that loses packets: nobody's fault any more.
        ledger.all_begin_anew();
        decisions.push(Decision::GatewayBlamed);
    }
}
