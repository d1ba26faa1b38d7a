//! Patterns in time: the trait, and Loopix's Poisson process.

use mizzle_base::{Rng, Time};

use crate::draw;

/// Draws the moments at which something leaves. A pattern sees time and randomness and nothing else.
pub trait Pattern {
    /// The moment after `last`.
    fn next(&mut self, rng: &mut Rng, last: Time) -> Time;
}

/// Exponential gaps: Loopix section 4.2, "each of the streams is a Poisson process".
#[derive(Clone, Copy, Debug)]
pub struct Poisson {
    /// Mean rate, per second; above zero.
    pub per_s: f64,
}

impl Pattern for Poisson {
    fn next(&mut self, rng: &mut Rng, last: Time) -> Time {
        last.plus_s_f64(draw::exponential(rng, 1.0 / self.per_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn poisson_counts_have_equal_mean_and_variance() {
        let mut rng = Rng::seed_from_u64(4);
        let mut pattern = Poisson { per_s: 40.0 };
        let mut counts = vec![0_u32; 5_000];
        let mut t = Time::ZERO;
        loop {
            t = pattern.next(&mut rng, t);
            match counts.get_mut(t.as_s() as usize) {
                Some(count) => *count += 1,
                None => break,
            }
        }
        let mean = counts.iter().sum::<u32>() as f64 / 5_000.0;
        let var = counts.iter().map(|&c| (f64::from(c) - mean).powi(2)).sum::<f64>() / 5_000.0;
        assert!((mean - 40.0).abs() < 0.45, "{mean}");
        assert!((var / mean - 1.0).abs() < 0.1, "{var} / {mean}");
    }
}
