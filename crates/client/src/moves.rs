//! [`Moves`]: to which gateway a client moves when its own is one to leave, and how often.
//!
//! A gateway, or whoever sits on the line, can make a client want to leave: by losing its packets. He must not choose where it
//! goes, nor drive it through all gateways until it is at the one that he likes. So each is drawn evenly among those that were not
//! tried within a day; one that was drawn stays drawn for an hour, reachable or not; and there are three draws a day. Of n
//! other gateways an attacker's is drawn with probability 3/n a day at most, whatever he blocks. Sans-I/O.

use std::time::Duration;

use mizzle_base::{NodeId, Rng, Time};
use mizzle_traffic::draw;

/// Draws within a day at most.
pub const MOST_DRAWS: usize = 3;
/// For so long a gateway that was left, or drawn, isn't drawn again.
const MEMORY: Duration = Duration::from_secs(86_400);
/// For so long the one that was drawn is tried, if it doesn't answer, and no other.
const HOLD: Duration = Duration::from_secs(3_600);

/// Why a client leaves its gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It loses packets, or most of what lies behind it does.
    LosesPackets,
    /// It can't be reached, doesn't answer, or doesn't admit the client.
    Away,
}

/// Where a client moves, and what it remembers of that.
#[derive(Clone, Default, Debug)]
pub struct Moves {
    /// In the order of time.
    drawn: Vec<(Time, NodeId)>,
    left: Vec<(Time, NodeId)>,
    /// Drawn and not yet moved to.
    candidate: Option<(Time, NodeId)>,
}

impl Moves {
    /// What an earlier run remembered: which gateways it [drew](Self::drawn) and [left](Self::left), and when.
    #[must_use]
    pub fn with(
        drawn: impl IntoIterator<Item = (Time, NodeId)>,
        left: impl IntoIterator<Item = (Time, NodeId)>,
    ) -> Self {
        Self {
            drawn: drawn.into_iter().collect(),
            left: left.into_iter().collect(),
            candidate: None,
        }
    }

    /// The gateways that were drawn within a day, and when.
    pub fn drawn(&self) -> impl Iterator<Item = (Time, NodeId)> {
        self.drawn.iter().copied()
    }

    /// Those that the client left.
    pub fn left(&self) -> impl Iterator<Item = (Time, NodeId)> {
        self.left.iter().copied()
    }

    /// The gateway to try now instead of `own`, out of `others`; none while there were too many moves, or none is left. The same one for
    /// an hour, then another one.
    pub fn next(
        &mut self,
        now: Time,
        own: NodeId,
        others: impl Iterator<Item = NodeId>,
        rng: &mut Rng,
    ) -> Option<NodeId> {
        self.forget(now);
        let fresh =
            |id: &NodeId| *id != own && !self.drawn.iter().chain(&self.left).any(|(_, other)| other == id);
        let others: Vec<NodeId> = others.collect();
        if let Some((_, drawn)) = self
            .candidate
            .filter(|(at, id)| now.since(*at) < HOLD && *id != own && others.contains(id))
        {
            return Some(drawn);
        }
        self.candidate = None;
        let open: Vec<NodeId> = others.into_iter().filter(fresh).collect();
        if open.is_empty() || self.drawn.len() >= MOST_DRAWS {
            return None;
        }
        let drawn = open[draw::below(rng, open.len())];
        self.drawn.push((now, drawn));
        self.candidate = Some((now, drawn));
        Some(drawn)
    }

    /// The client has moved away from `old`.
    pub fn moved(&mut self, now: Time, old: NodeId) {
        self.candidate = None;
        self.left.push((now, old));
    }

    /// The one that was drawn doesn't admit the client: another may be drawn.
    pub fn refused(&mut self) {
        self.candidate = None;
    }

    /// How many draws are left now.
    #[must_use]
    pub fn draws_left(&self) -> usize {
        MOST_DRAWS.saturating_sub(self.drawn.len())
    }

    fn forget(&mut self, now: Time) {
        // The clock may have been set back since.
        let is_recent = |(at, _): &(Time, NodeId)| now.since(*at) < MEMORY && *at <= now;
        self.drawn.retain(is_recent);
        self.left.retain(is_recent);
        self.candidate = self.candidate.filter(is_recent);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use rand_core::SeedableRng as _;

    const DAY: Duration = Duration::from_secs(86_400);

    fn id(n: u8) -> NodeId {
        NodeId::new([n; 32])
    }

    fn t(s: u64) -> Time {
        Time::from_s(1_000_000 + s)
    }

    fn all() -> impl Iterator<Item = NodeId> {
        (1..=8).map(id)
    }

    #[test]
    fn it_never_comes_back_within_a_day_and_stops_after_three() {
        for seed in 0..50 {
            let (mut moves, mut rng, mut own) = (Moves::default(), Rng::seed_from_u64(seed), id(1));
            let mut been = vec![own];
            for n in 0..3 {
                let next = moves.next(t(n * 600), own, all(), &mut rng).unwrap();
                assert!(!been.contains(&next), "seed {seed}: back at {next}");
                moves.moved(t(n * 600), own);
                own = next;
                been.push(own);
            }
            assert_eq!(moves.draws_left(), 0);
            assert_eq!(moves.next(t(5_000), own, all(), &mut rng), None, "seed {seed}");
            // Nor does a restart forget it, which is what the file is for.
            let mut after = Moves::with(moves.drawn(), moves.left());
            assert_eq!(after.next(t(5_000), own, all(), &mut rng), None);
            let tomorrow = t(2_000) + DAY;
            assert!(moves.next(tomorrow, own, all(), &mut rng).is_some());
        }
        let mut rng = Rng::seed_from_u64(1);
        assert_eq!(
            Moves::default().next(t(0), id(1), [id(1)].into_iter(), &mut rng),
            None
        );
    }

    /// Blocked ones are tried for their hour, and cost a draw each.
    #[test]
    fn who_blocks_all_but_his_own_gateway_gets_a_client_no_oftener_than_three_draws_do() {
        const EVIL: u8 = 8;
        let seeds = 4_000_u32;
        let mut came = 0;
        for seed in 0..seeds {
            let (mut moves, mut rng) = (Moves::default(), Rng::seed_from_u64(seed.into()));
            // Every minute of a day; the client would move as soon as it can reach the one that was drawn.
            came += u32::from(
                (0..1_440).any(|n| moves.next(t(n * 60), id(1), all(), &mut rng) == Some(id(EVIL))),
            );
        }
        let share = f64::from(came) / f64::from(seeds);
        // Three of seven; the standard error is 0.008.
        assert!((share - 3.0 / 7.0).abs() < 0.03, "{share}");
    }

    #[test]
    fn the_draw_is_even_and_one_that_refuses_gives_way_to_another() {
        let mut drawn: BTreeMap<NodeId, u32> = BTreeMap::new();
        for seed in 0..7_000 {
            let mut rng = Rng::seed_from_u64(seed);
            let next = Moves::default().next(t(0), id(1), all(), &mut rng).unwrap();
            *drawn.entry(next).or_default() += 1;
        }
        assert_eq!(drawn.len(), 7, "never its own");
        assert!(drawn.values().all(|n| (850..1_150).contains(n)), "{drawn:?}");

        let (mut moves, mut rng) = (Moves::default(), Rng::seed_from_u64(1));
        let first = moves.next(t(0), id(1), all(), &mut rng);
        assert_eq!(moves.next(t(3_599), id(1), all(), &mut rng), first, "for an hour");
        let second = moves.next(t(3_600), id(1), all(), &mut rng);
        assert_ne!(second, first);
        moves.refused();
        let third = moves.next(t(3_601), id(1), all(), &mut rng);
        assert!(third.is_some() && third != second && third != first);
        moves.refused();
        assert_eq!(moves.next(t(3_602), id(1), all(), &mut rng), None, "three draws");
    }
}
