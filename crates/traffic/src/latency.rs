//! How long packets take: the wait for a slot, the delays of the hops, the links, the downlink.
//!
//! Slots come at exponential intervals, so what waits for one in a queue with arrivals at rate r waits 1/(s - r) on average, and
//! that wait is exponential too (M/M/1); delays add up to an Erlang distribution. No clock, no allocation.

/// What a way is made of. Rates are per second, times in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// s: slots that serve the message.
    pub slots_per_s: f64,
    /// r: messages that its sender has for them.
    pub used_per_s: f64,
    /// Hops that delay it.
    pub delays: u32,
    /// 1/µ.
    pub mean_delay_s: f64,
    /// What links and a downlink add, taken as fixed.
    pub fixed_s: f64,
}

impl Way {
    /// Mean wait for a slot; infinite when more is to be sent than slots come.
    #[must_use]
    pub fn slot_wait_s(&self) -> f64 {
        let left = self.slots_per_s - self.used_per_s;
        if left > 0.0 { 1.0 / left } else { f64::INFINITY }
    }

    /// Mean time.
    #[must_use]
    pub fn mean_s(&self) -> f64 {
        self.slot_wait_s() + f64::from(self.delays) * self.mean_delay_s + self.fixed_s
    }

    /// The time that the share `p` of messages does not exceed, to a thousandth of it.
    #[must_use]
    pub fn quantile_s(&self, p: f64) -> f64 {
        let mean = self.slot_wait_s() + f64::from(self.delays) * self.mean_delay_s;
        if !mean.is_finite() {
            return f64::INFINITY;
        }
        let (mut low, mut high) = (0.0, mean);
        while self.within(high) < p && high < 1e6 * mean {
            high *= 2.0;
        }
        while high - low > 1e-4 * high {
            let middle = 0.5 * (low + high);
            if self.within(middle) < p {
                low = middle;
            } else {
                high = middle;
            }
        }
        high + self.fixed_s
    }

    /// P(wait + delays ≤ t): the density of the delays times how likely the wait is over in what is left, by Simpson's rule.
    fn within(&self, t: f64) -> f64 {
        const STEPS: u32 = 2_000;
        let (mu, left) = (1.0 / self.mean_delay_s, self.slots_per_s - self.used_per_s);
        let step = t / f64::from(STEPS);
        let term = |i: u32| {
            let x = f64::from(i) * step;
            erlang_density(self.delays, mu, x) * -libm::expm1(-left * (t - x))
        };
        let inner: f64 = (1..STEPS)
            .map(|i| term(i) * if i % 2 == 0 { 2.0 } else { 4.0 })
            .sum();
        (term(0) + inner + term(STEPS)) * step / 3.0
    }
}

/// f_k(x) = µ^k x^(k-1) e^(-µx) / (k-1)!.
fn erlang_density(k: u32, mu: f64, x: f64) -> f64 {
    (1..k).fold(mu * libm::exp(-mu * x), |f, i| f * mu * x / f64::from(i))
}

/// Mean wait of a packet that came back for a frame of its client's downlink: they return in bursts of five, so at the load ρ
/// it is (4 + ρ) / (2 r (1 - ρ)). Infinite when more returns than there are frames.
#[must_use]
pub fn downlink_wait_s(frames_per_s: f64, returning_per_s: f64) -> f64 {
    let load = returning_per_s / frames_per_s;
    if load < 1.0 {
        (4.0 + load) / (2.0 * frames_per_s * (1.0 - load))
    } else {
        f64::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(slots_per_s: f64, used_per_s: f64, delays: u32) -> Way {
        Way {
            slots_per_s,
            used_per_s,
            delays,
            mean_delay_s: 1.0,
            fixed_s: 0.0,
        }
    }

    #[test]
    fn a_wait_as_long_as_a_delay_is_one_more_of_them() {
        // 0.999 quantiles of Gamma(k, 1) (R: qgamma(.999, 3:5)).
        for (delays, q999) in [(2, 11.229), (3, 13.062), (4, 14.794)] {
            let q = way(1.0, 0.0, delays).quantile_s(0.999);
            assert!((q - q999).abs() < 0.01, "{q}");
        }
        // A wait of no length: the delays alone (R: qgamma(.5, 4) and qgamma(.999, 4)).
        for (p, wanted) in [(0.5, 3.672), (0.999, 13.062)] {
            let q = way(1e3, 0.0, 4).quantile_s(p);
            assert!((q - wanted).abs() < 0.01, "{q}");
        }
    }

    #[test]
    fn means_are_those_of_the_recommended_profiles() {
        // Links of 50 ms and half a pull interval of 10 s; for `small` and `mail` the numbers are whole seconds.
        for (payload, used, delay, wanted) in [
            (0.5, 0.25, 1.0, 13.3),
            (0.1, 0.05, 1.0, 29.3),
            (0.04, 0.02, 1.0, 59.3),
        ] {
            let way = Way {
                slots_per_s: payload,
                used_per_s: used,
                delays: 4,
                mean_delay_s: delay,
                fixed_s: 6.0 * 0.05 + 5.0,
            };
            assert!((way.mean_s() - wanted).abs() < 0.01, "{}", way.mean_s());
        }
    }

    #[test]
    fn more_than_there_are_slots_or_frames_waits_for_ever() {
        assert!(way(1.0, 1.0, 4).mean_s().is_infinite());
        assert!(way(1.0, 2.0, 4).quantile_s(0.5).is_infinite());
        assert!(downlink_wait_s(1.0, 1.0).is_infinite());
        // `browse`: 0.3 s would be at 80 frames a second, under 0.1 s at 100.
        let returning = 5.0 + 200.0 / 3.0;
        assert!((downlink_wait_s(80.0, returning) - 0.29).abs() < 0.01);
        assert!(downlink_wait_s(100.0, returning) < 0.1);
    }
}
