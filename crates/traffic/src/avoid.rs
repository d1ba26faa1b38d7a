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
use crate::weights::{EVERY, Judged};

/// Losses in a row after which a mix is left out.
pub const IN_ROW: u32 = 10;
/// The same for one that was left out before, until a loop comes back through it.
const IN_ROW_AGAIN: u32 = 3;
/// Losses in a row, whatever the loops were to pass, after which the gateway is blamed.
const ALL_IN_ROW: u32 = 20;
/// How long a mix through which nothing of one's own comes, and which is well for most, is waited for before the gateway is
/// blamed: it may have died since they said so.
pub const SURE_AFTER: Duration = Duration::from_secs(3 * EVERY.as_secs());
/// How long it is left out, and how long after the gateway was blamed no mix is for one's own losses.
pub const FOR: Duration = Duration::from_secs(60);

/// One that most said is down stays left out for so long while they say neither this nor that it is well: nodes that lose everything for
/// a moment tell nothing of anybody.
const UNSURE_FOR: Duration = Duration::from_secs(600);

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
    /// Nothing of one's own comes through them, but something of most others: since when.
    waiting: BTreeMap<NodeId, Time>,
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
        let over: Vec<(NodeId, Why, Time)> = over.map(|(node, (why, since))| (*node, *why, *since)).collect();
        for (node, why, since) in over {
            let says = judged(&node);
            if says == Judged::Down {
                self.out.insert(node, (Why::MostSayIt, now));
                continue;
            }
            let is_recent = since <= now && now.since(since) < UNSURE_FOR;
            if why == Why::MostSayIt && says == Judged::Unknown && is_recent {
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
                self.waiting.remove(&mix.id);
                continue;
            }
            if judged(&mix.id) == Judged::Well {
                let since = self.waiting.entry(mix.id).or_insert(now);
                *since = now.min(*since);
                is_blamed = now.since(*since) >= SURE_AFTER;
                continue;
            }
            let own = self.out.iter().filter(|(_, (why, _))| *why == Why::OwnLosses);
            let in_layer = own.filter(|(id, _)| document.node(id).is_some_and(|n| n.layer == mix.layer));
            if in_layer.count() > 0 || !self.leaves_one(document, mix) {
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
        self.waiting.clear();
        // Found behind a gateway that loses packets: nobody's fault any more.
        ledger.all_begin_anew();
        decisions.push(Decision::GatewayBlamed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw;
    use ed25519_dalek::SigningKey;
    use mizzle_base::document::{Content, NodeEntry, Role};
    use mizzle_base::{Profile, Rng, hex};
    use mizzle_sphinx::SecretKey;
    use rand_core::SeedableRng as _;

    fn id(n: u8) -> NodeId {
        NodeId::new([n; 32])
    }

    /// Mixes 1 to 4, 5 to 8 and 9 to 12, gateway 13.
    fn document() -> Document {
        let node = |n: u8| NodeEntry {
            id: id(n).to_string(),
            role: if n <= 12 { Role::Mix } else { Role::Gateway },
            layer: if n <= 12 { n.div_ceil(4) } else { 0 },
            peer: String::new(),
            addresses: Vec::new(),
            sphinx_key: hex::encode(SecretKey::from_bytes([n; 32]).public().as_bytes()),
            weight: 1.0,
            operator: String::new(),
            exit: None,
            mail: None,
        };
        let content = Content {
            network: "test".into(),
            sequence: 1,
            epoch: 1,
            valid_from_s: 0,
            valid_until_s: 100_000,
            profile: Profile::browse(),
            nodes: (1..=13).map(node).collect(),
        };
        let authority = SigningKey::from_bytes(&[99; 32]);
        let bytes = content.sign(&authority).unwrap();
        Document::verify(&bytes, &authority.verifying_key(), Time::from_s(50), 0).unwrap()
    }

    /// One loop after the other, five a second, by the routes that are drawn then; those through `dead` don't come back.
    struct Client {
        document: Document,
        ledger: Ledger,
        avoid: Avoid,
        rng: Rng,
        sent: u64,
    }

    impl Client {
        fn new(seed: u64) -> Self {
            Self {
                document: document(),
                ledger: Ledger::new(Duration::from_millis(200), 1_000),
                avoid: Avoid::default(),
                rng: Rng::seed_from_u64(seed),
                sent: 0,
            }
        }

        fn now(&self) -> Time {
            Time::from_s(1_000) + Duration::from_millis(200 * self.sent)
        }

        fn run(&mut self, loops: u64, dead: &[u8], judged: fn(&NodeId) -> Judged) -> Vec<Decision> {
            let mut decisions = Vec::new();
            for _ in 0..loops {
                self.sent += 1;
                let now = self.now();
                let mut along = Vec::new();
                for layer in 0..3_u8 {
                    let open = (1..=4).map(|n| 4 * layer + n);
                    let open: Vec<u8> = open.filter(|n| !self.avoid.contains(&id(*n))).collect();
                    along.push(open[draw::below(&mut self.rng, open.len())]);
                }
                let is_lost = along.iter().any(|n| dead.contains(n)) || draw::unit(&mut self.rng) < 0.01;
                let number = self.sent.to_be_bytes();
                let nodes = along.iter().map(|n| id(*n)).collect();
                self.ledger.sent_along(now, number, 0, nodes);
                if !is_lost {
                    self.ledger.returned(now + Duration::from_millis(80), number);
                }
                let now = now + Duration::from_millis(100);
                self.ledger.expire(now);
                decisions.extend(self.avoid.decide(now, &self.document, &mut self.ledger, judged));
            }
            decisions
        }
    }

    fn nothing(_: &NodeId) -> Judged {
        Judged::Unknown
    }

    #[test]
    fn losses_by_chance_leave_nobody_out() {
        for seed in 0..10 {
            assert_eq!(Client::new(seed).run(2_000, &[], nothing), [], "seed {seed}");
        }
    }

    #[test]
    fn a_dead_mix_is_left_out_for_a_minute_and_sooner_when_it_is_dead_still() {
        for seed in 0..10 {
            let mut client = Client::new(seed);
            client.run(200, &[], nothing);
            assert_eq!(
                client.run(100, &[2], nothing),
                [Decision::LeftOut(id(2))],
                "seed {seed}"
            );
            // A minute is 300 loops; then some of the next ones are lost, three of them through it.
            let next = client.run(300, &[2], nothing);
            assert_eq!(
                next,
                [Decision::Back(id(2)), Decision::LeftOut(id(2))],
                "seed {seed}"
            );
            let next = client.run(400, &[], nothing);
            assert_eq!(next, [Decision::Back(id(2))], "seed {seed}");
        }
    }

    #[test]
    fn one_of_each_layer_is_left_out_and_for_a_second_the_gateway_is_blamed() {
        for seed in 0..10 {
            let mut client = Client::new(seed);
            client.run(200, &[], nothing);
            let mut out = client.run(280, &[1, 5, 9], nothing);
            out.retain(|d| matches!(d, Decision::LeftOut(_)));
            assert_eq!(out.len(), 3, "seed {seed}: {out:?}");

            let mut client = Client::new(seed);
            client.run(200, &[], nothing);
            let decisions = client.run(200, &[1, 2], nothing);
            assert!(
                decisions.contains(&Decision::GatewayBlamed),
                "seed {seed}: {decisions:?}"
            );
            assert!(client.avoid.is_empty(), "seed {seed}: routes are what they were");
            // For a minute it stays so, though loops are lost as before.
            assert_eq!(client.run(100, &[1, 2], nothing), []);
            // Nothing at all comes through: that is the gateway, too.
            let mut client = Client::new(seed);
            client.run(200, &[], nothing);
            let all: Vec<u8> = (1..=12).collect();
            assert_eq!(
                client.run(60, &all, nothing),
                [Decision::GatewayBlamed],
                "seed {seed}"
            );
        }
    }

    #[test]
    fn what_most_say_is_stronger_than_a_layers_limit_and_than_ones_own_losses() {
        let down: fn(&NodeId) -> Judged = |node| {
            if [1, 2, 3, 5].map(id).contains(node) {
                Judged::Down
            } else {
                Judged::Well
            }
        };
        let mut client = Client::new(1);
        let decisions = client.run(1, &[], down);
        assert_eq!(decisions, [1, 2, 3, 5].map(|n| Decision::LeftOut(id(n))));
        assert_eq!(
            client.run(400, &[1, 2, 3, 5], down),
            [],
            "for as long as they say it"
        );
        // They say nothing for a while: it stays as it was, and ends when they say that all is well.
        assert_eq!(client.run(400, &[1, 2, 3, 5], nothing), []);
        let mut back = client.run(301, &[], |_| Judged::Well);
        back.sort_by_key(|decision| format!("{decision:?}"));
        assert_eq!(back, [1, 2, 3, 5].map(|n| Decision::Back(id(n))));
        // But not for ever.
        let mut client = Client::new(1);
        client.run(1, &[], down);
        assert_eq!(client.run(2_990, &[], nothing), []);
        assert_eq!(client.run(20, &[], nothing).len(), 4, "after ten minutes");
        // The last one of a layer stays, whatever they say.
        let mut client = Client::new(2);
        client.run(1, &[], |node| {
            if *node == id(13) {
                Judged::Well
            } else {
                Judged::Down
            }
        });
        assert_eq!(client.avoid.iter().count(), 9);
        // What only the own gateway drops is laid to it, and no route changes.
        let mut client = Client::new(3);
        let decisions = client.run(300, &[4], |_| Judged::Well);
        assert_eq!(decisions, [Decision::GatewayBlamed]);
    }
}
