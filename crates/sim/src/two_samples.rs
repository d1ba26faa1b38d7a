//! Do two samples differ? Tests that say beforehand how small a difference they find, and how often.
//!
//! The rank-sum test of Mann and Whitney, with Noether's formula for the size of sample it needs (JASA 82, 1987): its power
//! depends on the distribution only by P(X < Y), which a sample tells, so nothing is assumed of what an operating system does
//! to times. Where neighbours in a sample depend on each other, as the gaps between packets that left together do, ranks are
//! averaged over batches of neighbours longer than that, and the batches are compared. For what falls into classes a comparison
//! of two shares. Nothing here knows of packets.

/// What a test is to find, and how often it may be wrong.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// How often it may see a difference where there is none.
    pub alpha: f64,
    /// How often it must see the one that there is.
    pub power: f64,
}

impl Demand {
    /// The sum of both quantiles: a difference of so many standard errors is found with the power that is wanted.
    #[must_use]
    pub fn quantiles(self) -> f64 {
        self.critical() + normal_quantile(self.power)
    }

    /// A standardised difference beyond this, either way, is seen as one.
    #[must_use]
    pub fn critical(self) -> f64 {
        normal_quantile(1.0 - self.alpha / 2.0)
    }
}

/// The share of pairs in which the one of `b` is greater; ties count half. Both sorted.
fn share_greater(a: &[f64], b: &[f64], shift: f64) -> f64 {
    let (mut below, mut ties_end, mut sum) = (0, 0, 0.0);
    for &y in b {
        let y = y + shift;
        while below < a.len() && a[below] < y {
            below += 1;
        }
        ties_end = ties_end.max(below);
        while ties_end < a.len() && a[ties_end] <= y {
            ties_end += 1;
        }
        sum += (below + ties_end) as f64 / 2.0;
    }
    sum / (a.len() as f64 * b.len() as f64)
}

fn sorted(sample: &[f64]) -> Vec<f64> {
    let mut sorted = sample.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The mean of each batch of the sample's ranks among `all`, which is sorted, as shares of it.
fn batch_ranks(sample: &[f64], all: &[f64], batch: usize) -> Vec<f64> {
    let rank = |x: &f64| {
        let below = all.partition_point(|y| y < x);
        let ties_end = below + all[below..].partition_point(|y| y <= x);
        (below + ties_end) as f64 / (2.0 * all.len() as f64)
    };
    sample
        .chunks_exact(batch.max(1))
        .map(|batch| batch.iter().map(rank).sum::<f64>() / batch.len() as f64)
        .collect()
}

fn mean_and_variance(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, variance)
}

/// Mann and Whitney's statistic, standardised: how far `b` is greater than `a`. Samples are in the order in which they came;
/// values further apart than `batch` don't depend on each other. Zero for fewer than two batches in either.
#[must_use]
pub fn rank_sum(a: &[f64], b: &[f64], batch: usize) -> f64 {
    let all = sorted(&[a, b].concat());
    let ranks = [a, b].map(|sample| batch_ranks(sample, &all, batch));
    if ranks.iter().any(|ranks| ranks.len() < 2) {
        return 0.0;
    }
    let [(x, v), (y, w)] = [&ranks[0], &ranks[1]].map(|ranks| mean_and_variance(ranks));
    let variance = v / ranks[0].len() as f64 + w / ranks[1].len() as f64;
    if variance > 0.0 {
        (y - x) / variance.sqrt()
    } else {
        0.0
    }
}

/// How many independent values so many of the sample are worth less: the variance of a batch's mean, and what it would be.
fn dependence(pilot: &[f64], batch: usize) -> f64 {
    let all = sorted(pilot);
    let (_, single) = mean_and_variance(&batch_ranks(pilot, &all, 1));
    let (_, batched) = mean_and_variance(&batch_ranks(pilot, &all, batch));
    (batched * batch as f64 / single).max(1.0)
}

/// How many values each sample needs, so that [`rank_sum`] finds that the other is greater by `shift`, where both are
/// distributed as `pilot`. `usize::MAX` if no number does.
#[must_use]
pub fn needed_for_shift(pilot: &[f64], shift: f64, batch: usize, demand: Demand) -> usize {
    let ranked = sorted(pilot);
    let effect = share_greater(&ranked, &ranked, shift) - 0.5;
    let each = demand.quantiles().powi(2) / (6.0 * effect * effect);
    // The cast saturates, also where the effect is zero.
    (each * dependence(pilot, batch)).ceil() as usize
}

/// By how much `b` is greater than `a`: the median of all pairs' differences (Hodges and Lehmann).
#[must_use]
pub fn shift_between(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (sorted(a), sorted(b));
    let (Some(least), Some(most)) = (a.first().zip(b.last()), b.first().zip(a.last())) else {
        return 0.0;
    };
    let (mut low, mut high) = (most.0 - most.1, least.1 - least.0);
    for _ in 0..60 {
        let middle = low.midpoint(high);
        if share_greater(&a, &b, -middle) > 0.5 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low.midpoint(high)
}

/// Of `n` things `k` were of a kind, and of `m` others `j`: the difference of the shares, standardised.
#[must_use]
pub fn share_difference((k, n): (u64, u64), (j, m): (u64, u64)) -> f64 {
    let [k, n, j, m] = [k, n, j, m].map(|x| x as f64);
    let share = (k + j) / (n + m);
    let variance = share * (1.0 - share) * (1.0 / n + 1.0 / m);
    if variance > 0.0 {
        (j / m - k / n) / variance.sqrt()
    } else {
        0.0
    }
}

/// How many things each sample needs, so that [`share_difference`] finds a share that is `difference` off `share`.
#[must_use]
pub fn needed_for_share(share: f64, difference: f64, demand: Demand) -> usize {
    let variance = 2.0 * share * (1.0 - share);
    (demand.quantiles().powi(2) * variance / difference.powi(2)).ceil() as usize
}

/// The mean of differences between neighbours without the tenth at each end, standardised, and its standard error (Yuen's,
/// by the winsorised variance): a few that a machine made huge then neither make nor hide a difference. `None` for fewer than
/// two, or if nothing varies.
#[must_use]
pub fn of_pairs(differences: &[f64]) -> Option<(f64, f64)> {
    let mut values = sorted(differences);
    let (n, cut) = (values.len(), values.len() / 10);
    if n < 2 {
        return None;
    }
    let (mean, _) = mean_and_variance(&values[cut..n - cut]);
    let (low, high) = (values[cut], values[n - 1 - cut]);
    values
        .iter_mut()
        .for_each(|value| *value = value.clamp(low, high));
    let (_, winsorised) = mean_and_variance(&values);
    let kept = (n - 2 * cut) as f64 / n as f64;
    let error = (winsorised / n as f64).sqrt() / kept;
    (error > 0.0).then_some((mean / error, error))
}

/// How often a difference of `shift` is found in the mean of pairs with this standard error.
#[must_use]
pub fn power_for_pairs(error: f64, shift: f64, demand: Demand) -> f64 {
    normal_cdf(shift / error - demand.critical())
}

/// The standard normal distribution function, to 10⁻⁷ (Abramowitz and Stegun 26.2.17).
#[must_use]
pub fn normal_cdf(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - normal_cdf(-x);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let polynomial = [
        1.330_274_429,
        -1.821_255_978,
        1.781_477_937,
        -0.356_563_782,
        0.319_381_530,
    ]
    .into_iter()
    .fold(0.0, |sum, c| (sum + c) * t);
    1.0 - (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * polynomial
}

/// Its inverse.
#[must_use]
pub fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if normal_cdf(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        alpha: 0.05,
        power: 0.9,
    };

    #[test]
    fn quantiles_and_sizes_are_those_of_the_tables() {
        for (p, z) in [(0.5, 0.0), (0.9, 1.281_55), (0.975, 1.959_96), (0.9995, 3.290_53)] {
            assert!((normal_quantile(p) - z).abs() < 1e-4, "{p}");
        }
        // Noether's own example: p' = 0.7, power 0.9, one-sided 0.05, in all 71.4; two-sided 88, or 44 in each.
        let pilot: Vec<f64> = (0..1_000).map(f64::from).collect();
        // A shift of s makes the share 1 - (1 - s/n)² / 2: 0.7 for s = 225.4.
        assert_eq!(needed_for_shift(&pilot, 225.4, 1, DEMAND), 44);
        assert_eq!(needed_for_share(0.5, 0.1, DEMAND), 526);
        assert_eq!(needed_for_shift(&[1.0, 2.0, 3.0], 0.0, 1, DEMAND), usize::MAX);
    }

    #[test]
    fn ranks_tell_the_greater_sample_and_by_how_much() {
        let a: Vec<f64> = (0..100).map(|i| f64::from(i * 37 % 100)).collect();
        let b: Vec<f64> = a.iter().map(|x| x + 30.0).collect();
        assert!(rank_sum(&a, &a, 1).abs() < 1e-9);
        assert!(rank_sum(&a, &b, 1) > 5.0 && (rank_sum(&a, &b, 1) + rank_sum(&b, &a, 1)).abs() < 1e-9);
        assert!((shift_between(&a, &b) - 30.0).abs() < 1.0);
        assert_eq!(rank_sum(&[1.0; 9], &[1.0; 9], 1), 0.0, "nothing but ties");
        assert_eq!((rank_sum(&[], &a, 1), shift_between(&[], &a)), (0.0, 0.0));
        // Each value five times in a row is worth one.
        let fives: Vec<f64> = (0..500).map(|i| f64::from(i / 5 * 37 % 100)).collect();
        assert!((dependence(&fives, 5) - 5.0).abs() < 0.1 && dependence(&a, 1) == 1.0);
        let ratio =
            needed_for_shift(&fives, 9.0, 5, DEMAND) as f64 / needed_for_shift(&fives, 9.0, 1, DEMAND) as f64;
        assert!((ratio - 5.0).abs() < 0.1, "{ratio}");
        // By hand: {1, 2, 3} and {2, 4}: (0.5 + 1 + 0.5 ...): shares 4.5 of 6.
        assert!((share_greater(&[1.0, 2.0, 3.0], &[2.0, 4.0], 0.0) - 0.75).abs() < 1e-12);
    }

    #[test]
    fn shares_and_pairs_are_standardised() {
        assert!((share_difference((50, 100), (64, 100)) - 2.0).abs() < 0.01);
        assert_eq!(share_difference((0, 10), (0, 20)), 0.0);
        let (z, error) = of_pairs(&[1.0, 3.0, 1.0, 3.0]).unwrap();
        assert!((error - (4.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-9 && (z * error - 2.0).abs() < 1e-9);
        assert_eq!(of_pairs(&[1.0]), None);
        let steady: Vec<f64> = (0..20).map(|i| f64::from(i % 5)).collect();
        let mut shaken = steady.clone();
        shaken[4] = 1e6;
        let ((z, error), (shaken_z, shaken_error)) = (of_pairs(&steady).unwrap(), of_pairs(&shaken).unwrap());
        assert!((z * error - 2.0).abs() < 1e-9 && (shaken_z * shaken_error - 2.0).abs() < 0.2);
        assert!(shaken_error < 1.2 * error, "one of twenty hides nothing");
        assert!((power_for_pairs(1.0, DEMAND.quantiles(), DEMAND) - 0.9).abs() < 1e-4);
    }
}
