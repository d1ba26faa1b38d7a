//! Which node loses loops, and which is late: estimates from loops that each passed several.
//!
//! A loop comes home if every node on its way passes it on, so one that is lost doesn't say by whom. The share that each
//! loses is the most likely one given all of the loops (expectation and maximisation: a lost loop counts for each node on its way
//! as far as that one is suspected). Lateness adds up along the way, and is shared out likewise. No clock.

use std::collections::BTreeMap;
use std::time::Duration;

use mizzle_base::{NodeId, Time};

/// Rounds of the iteration: enough for a node that loses all to bear all of it.
const ROUNDS: usize = 60;

/// How a loop ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// When it was due.
    pub due: Time,
    /// How late it came; none if it was lost.
    pub late: Option<Duration>,
    /// The nodes that it was to pass.
    pub along: Vec<NodeId>,
}

/// What is known of a node.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Estimate {
    /// Loops that were to pass it.
    pub loops: u32,
    /// The share of them that it lost.
    pub loss: f64,
    /// Between these the share is with a probability of 95 % (Wilson's interval).
    pub loss_low: f64,
    /// See `loss_low`.
    pub loss_high: f64,
    /// How much it adds to the lateness of a loop, in microseconds, links included.
    pub late_us: f64,
    /// By how much that may be off, with a probability of 95 %; infinite for fewer than two loops that came.
    pub late_us_off: f64,
}

/// For each node that a loop was to pass.
#[must_use]
pub fn estimate<'a>(loops: impl Iterator<Item = &'a Ended>) -> BTreeMap<NodeId, Estimate> {
    let mut index: BTreeMap<NodeId, usize> = BTreeMap::new();
    let loops: Vec<(Vec<usize>, Option<f64>)> = loops
        .map(|ended| {
            let along = ended.along.iter().map(|id| {
                let next = index.len();
                *index.entry(*id).or_insert(next)
            });
            let along = along.collect();
            (along, ended.late.map(|late| late.as_micros() as f64))
        })
        .collect();
    let loss = shares(&loops, index.len());
    let late = lateness(&loops, index.len());
    let mut passed = vec![0_u32; index.len()];
    loops.iter().flat_map(|l| &l.0).for_each(|&at| passed[at] += 1);
    let told = |(id, at): (NodeId, usize)| {
        let (low, high) = wilson(loss[at], f64::from(passed[at]));
        let (late_us, late_us_off) = late[at];
        let estimate = Estimate {
            loops: passed[at],
            loss: loss[at],
            loss_low: low,
            loss_high: high,
            late_us,
            late_us_off,
        };
        (id, estimate)
    };
    index.into_iter().map(told).collect()
}

/// How likely it is that the lost ones among these loops, all of which were to pass `suspect`, were all lost by others: small
/// means that it is to blame. The others are judged by all loops at once, as in [`estimate`].
#[must_use]
pub fn innocence<'a>(loops: impl Iterator<Item = &'a Ended> + Clone, suspect: &NodeId) -> f64 {
    let all = estimate(loops.clone());
    let lost = loops.filter(|ended| ended.late.is_none() && ended.along.contains(suspect));
    lost.map(|ended| {
        let others = ended.along.iter().filter(|id| *id != suspect);
        let pass: f64 = others
            .map(|id| 1.0 - all.get(id).map_or(0.0, |other| other.loss))
            .product();
        // Any loop is lost by chance now and then.
        (1.0 - pass).max(0.01)
    })
    .product()
}

fn shares(loops: &[(Vec<usize>, Option<f64>)], nodes: usize) -> Vec<f64> {
    let mut passed = vec![0.0; nodes];
    loops.iter().flat_map(|l| &l.0).for_each(|&at| passed[at] += 1.0);
    let mut share = vec![0.1_f64; nodes];
    for _ in 0..ROUNDS {
        let mut lost = vec![0.0; nodes];
        for (along, _) in loops.iter().filter(|l| l.1.is_none()) {
            let none: f64 = along.iter().map(|&at| 1.0 - share[at]).product();
            let any = (1.0 - none).max(1e-12);
            along.iter().for_each(|&at| lost[at] += share[at] / any);
        }
        for at in 0..nodes {
            share[at] = (lost[at] / passed[at]).clamp(0.0, 1.0);
        }
    }
    share
}

fn lateness(loops: &[(Vec<usize>, Option<f64>)], nodes: usize) -> Vec<(f64, f64)> {
    let mut of = vec![0.0_f64; nodes];
    let mut n = vec![0.0_f64; nodes];
    let came = || loops.iter().filter_map(|(along, late)| Some((along, (*late)?)));
    came().flat_map(|(along, _)| along).for_each(|&at| n[at] += 1.0);
    for _ in 0..ROUNDS {
        // Each takes its part of what is left over; all at once, so that none is favoured by its place.
        let mut left = vec![0.0; nodes];
        for (along, late) in came() {
            let over = late - along.iter().map(|&at| of[at]).sum::<f64>();
            along.iter().for_each(|&at| left[at] += over / along.len() as f64);
        }
        for at in 0..nodes {
            if n[at] > 0.0 {
                of[at] = (of[at] + left[at] / n[at]).max(0.0);
            }
        }
    }
    let mut squares = vec![0.0; nodes];
    for (along, late) in came() {
        let over = late - along.iter().map(|&at| of[at]).sum::<f64>();
        along.iter().for_each(|&at| squares[at] += over * over);
    }
    let off = |at: usize| {
        if n[at] < 2.0 {
            return f64::INFINITY;
        }
        1.96 * libm::sqrt(squares[at] / (n[at] - 1.0) / n[at])
    };
    (0..nodes).map(|at| (of[at], off(at))).collect()
}

fn wilson(share: f64, n: f64) -> (f64, f64) {
    const Z: f64 = 1.96;
    let z2 = Z * Z;
    let middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * libm::sqrt(share * (1.0 - share) / n + z2 / (4.0 * n * n));
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw;
    use mizzle_base::Rng;
    use rand_core::SeedableRng as _;

    fn node(layer: u8, n: u8) -> NodeId {
        let mut id = [0; 32];
        (id[0], id[1]) = (layer, n);
        NodeId::new(id)
    }

    /// Loops through three layers of four; `loss` says how much each node loses, `late` how many ms it adds.
    fn loops(seed: u64, n: usize, loss: fn(u8, u8) -> f64, late: fn(u8, u8) -> f64) -> Vec<Ended> {
        let mut rng = Rng::seed_from_u64(seed);
        let one = |n: usize| {
            let way: Vec<(u8, u8)> = (1..=3)
                .map(|layer| (layer, draw::below(&mut rng, 4) as u8))
                .collect();
            let is_lost = way.iter().any(|&(l, n)| draw::unit(&mut rng) <= loss(l, n));
            let ms: f64 = way.iter().map(|&(l, n)| late(l, n)).sum();
            let ms = ms * (0.9 + 0.2 * draw::unit(&mut rng));
            Ended {
                due: Time::from_s(n as u64),
                late: (!is_lost).then(|| Duration::from_secs_f64(ms / 1e3)),
                along: way.iter().map(|&(l, n)| node(l, n)).collect(),
            }
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn losses_are_laid_to_those_who_lose() {
        let bad = |layer, n| match (layer, n) {
            (1, 0) => 1.0,
            (2, 1) => 0.3,
            _ => 0.01,
        };
        let loops = loops(1, 1_000, bad, |_, _| 5.0);
        let found = estimate(loops.iter());
        assert_eq!(found.len(), 12);
        for (id, got) in &found {
            let (layer, n) = (id.as_bytes()[0], id.as_bytes()[1]);
            let is = bad(layer, n);
            assert!((got.loss - is).abs() < 0.09, "{layer}.{n}: {got:?}");
            assert!(
                got.loss_low <= is + 0.02 && got.loss_high >= is - 0.02,
                "{layer}.{n}: {got:?}"
            );
            assert!(got.loops > 180 && got.loss_low <= got.loss && got.loss <= got.loss_high);
        }
    }

    #[test]
    fn lateness_is_laid_to_those_who_are_late() {
        let slow = |layer, n| if (layer, n) == (3, 2) { 60.0 } else { 10.0 };
        let loops = loops(2, 1_000, |_, _| 0.01, slow);
        let found = estimate(loops.iter());
        let ms = |layer, n| found[&node(layer, n)].late_us / 1e3;
        assert!(
            (ms(3, 2) - ms(3, 1) - 50.0).abs() < 5.0,
            "{} {}",
            ms(3, 2),
            ms(3, 1)
        );
        assert!((ms(1, 1) - 10.0).abs() < 5.0, "{}", ms(1, 1));
        assert!(found[&node(1, 1)].late_us_off < 1_500.0);
    }

    #[test]
    fn a_node_between_dead_ones_is_innocent() {
        // Half of the first layer and of the last is dead: three quarters of all loops are lost.
        let dead = |layer, n| if layer != 2 && n < 2 { 1.0 } else { 0.0 };
        for seed in 0..50 {
            let loops = loops(seed, 80, dead, |_, _| 1.0);
            for n in 0..4 {
                let guess = innocence(loops.iter(), &node(2, n));
                assert!(guess > 1e-3, "seed {seed}: {guess}");
            }
            for (layer, n) in [(1, 0), (1, 1), (3, 0), (3, 1)] {
                let guess = innocence(loops.iter(), &node(layer, n));
                assert!(guess < 1e-3, "seed {seed}, {layer}.{n}: {guess}");
            }
        }
    }

    #[test]
    fn nothing_is_known_from_nothing() {
        assert!(estimate([].iter()).is_empty());
        let lost = Ended {
            due: Time::ZERO,
            late: None,
            along: vec![node(1, 1)],
        };
        let one = estimate([lost].iter())[&node(1, 1)];
        assert!(
            one.loss > 0.99 && one.loss_low < 0.3 && one.late_us_off.is_infinite(),
            "{one:?}"
        );
    }
}
