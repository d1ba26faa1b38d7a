//! What the delay field of a hop means: how senders fill it in, and how long a hop holds the packet for it.

use std::time::Duration;

use mizzle_base::Rng;
use mizzle_traffic::draw;

/// An exponential delay is cut where one in a million would be longer: at -ln(10⁻⁶) means, 13.8 of them.
const TAIL: f64 = 1e-6;

/// How delays are chosen. All nodes of a network should do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delays {
    /// The sender writes a mean, each hop draws from the exponential distribution with that mean, cut at 13.8 means (and
    /// at 65,535 ms). A mean of zero is no delay.
    ///
    /// Cutting takes one delay in a million from the far end; the mean of what is drawn is lower by 1.4 · 10⁻⁵ of it.
    Exponential {
        /// What this peer writes into its own packets, in milliseconds.
        mean_ms: u16,
        /// No delay is shorter, in milliseconds: longer than a spam proof takes, so that making one doesn't show.
        at_least_ms: u16,
    },
    /// The sender draws 0, 1 or 2 ms, and the hop waits exactly that: hardly any mixing. What the legacy dialect's
    /// nodes do.
    Exact,
}

impl Delays {
    /// The field of one hop of an own packet.
    pub(crate) fn field(self, rng: &mut Rng) -> u16 {
        match self {
            Self::Exponential { mean_ms, .. } => mean_ms,
            Self::Exact => draw::below(rng, 3) as u16,
        }
    }

    /// How long a hop holds a packet with this field.
    pub(crate) fn hold(self, rng: &mut Rng, field: u16) -> Duration {
        match self {
            Self::Exponential { at_least_ms, .. } => {
                exponential(rng, field.into()).max(Duration::from_millis(at_least_ms.into()))
            }
            Self::Exact => Duration::from_millis(field.into()),
        }
    }
}

/// Exponential with a mean in milliseconds, cut as [`Delays::Exponential`] says.
pub(crate) fn exponential(rng: &mut Rng, mean_ms: f64) -> Duration {
    // The inverse of the cut distribution's function, so that nothing piles up at the cut.
    let drawn_ms = -mean_ms * (1.0 - (1.0 - draw::unit(rng)) * (1.0 - TAIL)).ln();
    Duration::from_secs_f64(drawn_ms.clamp(0.0, u16::MAX.into()) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn an_exponential_delay_has_its_mean_and_its_end() {
        let mut rng = Rng::seed_from_u64(1);
        let delays = Delays::Exponential {
            mean_ms: 50,
            at_least_ms: 0,
        };
        assert_eq!(delays.field(&mut rng), 50);
        let draws: Vec<f64> = (0..200_000)
            .map(|_| delays.hold(&mut rng, 100).as_secs_f64() * 1e3)
            .collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        // Standard error 100 / sqrt(200,000) = 0.22.
        assert!((mean - 100.0).abs() < 1.2, "{mean}");
        assert!(draws.iter().all(|d| *d <= 1381.6));
        // A third of the distribution lies below 0.4055 means.
        let below = draws.iter().filter(|d| **d < 40.55).count() as f64 / draws.len() as f64;
        assert!((below - 1.0 / 3.0).abs() < 0.006, "{below}");
        assert_eq!(delays.hold(&mut rng, 0), Duration::ZERO);
        assert!((0..10_000).all(|_| delays.hold(&mut rng, u16::MAX) <= Duration::from_millis(65_535)));
    }

    #[test]
    fn a_floor_and_exact_delays() {
        let mut rng = Rng::seed_from_u64(1);
        let floor = Delays::Exponential {
            mean_ms: 50,
            at_least_ms: 100,
        };
        assert!((0..1000).all(|_| floor.hold(&mut rng, 50) >= Duration::from_millis(100)));
        let mut seen = [0; 3];
        (0..300).for_each(|_| seen[usize::from(Delays::Exact.field(&mut rng))] += 1);
        assert!(seen.iter().all(|n| *n > 60), "{seen:?}");
        assert_eq!(Delays::Exact.hold(&mut rng, 1234), Duration::from_millis(1234));
    }
}
