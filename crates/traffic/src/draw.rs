//! Draws from a random source: uniform, exponential, weighted.

use mizzle_base::Rng;
use rand_core::Rng as _;

/// Uniform in (0, 1]: never zero, so that its logarithm is finite.
pub fn unit(rng: &mut Rng) -> f64 {
    // 53 random bits are all that a double in this range can hold.
    ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// Exponential with the given mean, in the mean's unit.
pub fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * libm::log(unit(rng))
}

/// A Sphinx delay: exponential, rounded to whole milliseconds, at most what 16 bits hold.
pub fn delay_ms(rng: &mut Rng, mean_ms: f64) -> u16 {
    // The cast saturates; for the greatest mean allowed that is one delay in a million.
    libm::round(exponential(rng, mean_ms)) as u16
}

/// Uniform below `n`; zero when `n` is zero.
pub fn below(rng: &mut Rng, n: usize) -> usize {
    // The multiply-shift's bias, n / 2⁶⁴, is far below what any observer could count.
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// An index with the probability of its weight; zero when there are none.
pub fn weighted(rng: &mut Rng, weights: &[f64]) -> usize {
    let mut left = unit(rng) * weights.iter().sum::<f64>();
    for (index, weight) in weights.iter().enumerate() {
        left -= weight;
        if left <= 0.0 {
            return index;
        }
    }
    weights.len().saturating_sub(1)
}

/// `N` random bytes.
pub fn bytes<const N: usize>(rng: &mut Rng) -> [u8; N] {
    let mut out = [0; N];
    rng.fill_bytes(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn exponential_has_its_mean_and_variance() {
        let mut rng = Rng::seed_from_u64(1);
        let draws: Vec<f64> = (0..200_000).map(|_| exponential(&mut rng, 3.0)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let var = draws.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / draws.len() as f64;
        // Standard errors: 3 / sqrt(200,000) = .0067 and 9 sqrt(8 / 200,000) = .057; five of each.
        assert!((mean - 3.0).abs() < 0.034, "{mean}");
        assert!((var - 9.0).abs() < 0.29, "{var}");
    }

    #[test]
    fn weights_are_kept() {
        let mut rng = Rng::seed_from_u64(2);
        let mut hits = [0_u32; 3];
        for _ in 0..100_000 {
            hits[weighted(&mut rng, &[1.0, 0.0, 4.0])] += 1;
        }
        assert_eq!(hits[1], 0);
        assert!((hits[2] as f64 - 80_000.0).abs() < 640.0, "{hits:?}");
    }

    #[test]
    fn below_is_within_and_covers() {
        let mut rng = Rng::seed_from_u64(3);
        let mut seen = [false; 7];
        (0..1_000).for_each(|_| seen[below(&mut rng, 7)] = true);
        assert_eq!(seen, [true; 7]);
        assert_eq!(below(&mut rng, 0), 0);
    }
}
