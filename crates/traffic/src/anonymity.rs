//! How well a network hides its users, in closed forms: no simulation, no clock, no allocation, so that `mizzle plan`, a
//! running node and a running client compute the same numbers.
//!
//! Loopix's lemmas 1 and 2 and what follows from them for a route through several layers: a mix with arrivals λ and mean
//! delay 1/µ holds λ/µ packets on average, its *pool*, and each of them is as likely as any other to leave next. An
//! observer is taken to see every link. The forms for a whole route (entropy, best guess) treat a flow as a fluid: they are
//! within a few percent for pools of 20 and flatter the network below 10, which [`Outlook::is_sharp`] says. How long packets
//! take is in [`crate::latency`].
//!
//! Names of the literature: U users, λ_u one user's packets a second, Λ = U λ_u, L layers, W mixes in each, µ the rate of the
//! delays, λ_M a node's loops, f the share of mixes that are corrupt.

use core::f64::consts::{LN_2, PI};

use mizzle_base::Profile;

/// Fewer packets in the pools than this, and some users stand out by chance.
pub const POOL_WANTED: f64 = 20.0;
/// From here on down the forms for whole routes are bounds only.
const POOL_SHARP: f64 = 10.0;
/// Euler's constant: -ψ(1).
const EULER: f64 = 0.577_215_664_901_532_9;
/// Quantile of the normal distribution with which a sender is picked rightly 95 times of 100.
const Z95: f64 = 1.645;

/// The traffic of one user and of one node. Rates are per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// λ_u: packets that a user sends, cover and all.
    pub uplink_per_s: f64,
    /// Packets that return to a user on SURBs and pass the mixes too.
    pub returning_per_s: f64,
    /// λ_M: loops of each node.
    pub node_loop_per_s: f64,
    /// 1/µ: mean delay at a hop, in seconds.
    pub mean_delay_s: f64,
}

impl From<&Profile> for Traffic {
    fn from(profile: &Profile) -> Self {
        Self {
            uplink_per_s: profile.uplink_per_s(),
            returning_per_s: profile.returning_per_s(),
            node_loop_per_s: profile.node_loop_per_s,
            mean_delay_s: profile.mean_delay_ms / 1e3,
        }
    }
}

/// How large a network is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// L: layers of mixes.
    pub layers: u32,
    /// W: mixes in the widest layer, where pools are smallest.
    pub mixes_per_layer: f64,
    /// Gateways.
    pub gateways: f64,
}

impl Shape {
    /// Of a network document.
    #[must_use]
    pub fn of(document: &mizzle_base::Document) -> Self {
        let layers = u32::from(mizzle_base::document::LAYERS);
        let widest = (1..=mizzle_base::document::LAYERS)
            .map(|layer| document.layer(layer).count())
            .max();
        Self {
            layers,
            mixes_per_layer: widest.unwrap_or(1) as f64,
            gateways: document.gateways().count() as f64,
        }
    }

    /// Loops of nodes that a mix holds, for each one a second that a node sends: those of the mixes of the other layers and
    /// of the gateways. A node does not hold its own.
    fn loops_held(&self) -> f64 {
        f64::from(self.layers) - 1.0 + self.gateways / self.mixes_per_layer
    }
}

/// λ: packets a second that a mix of the widest layer holds for their delay, with `users` online.
#[must_use]
pub fn mix_rate_per_s(traffic: &Traffic, shape: &Shape, users: f64) -> f64 {
    users * (traffic.uplink_per_s + traffic.returning_per_s) / shape.mixes_per_layer
        + shape.loops_held() * traffic.node_loop_per_s
}

/// n = λ/µ: packets in the pool of a mix of the widest layer on average (lemma 1).
#[must_use]
pub fn pool(traffic: &Traffic, shape: &Shape, users: f64) -> f64 {
    mix_rate_per_s(traffic, shape, users) * traffic.mean_delay_s
}

/// How many users make the pools of a mix of a layer with `mixes` mixes as large as this: [`pool`] turned round. Zero where
/// the loops of nodes alone do.
#[must_use]
pub fn users_of_pool(traffic: &Traffic, shape: &Shape, mixes: f64, pool: f64) -> f64 {
    let shape = Shape {
        mixes_per_layer: mixes,
        ..*shape
    };
    let held = pool / traffic.mean_delay_s - shape.loops_held() * traffic.node_loop_per_s;
    (held * mixes / (traffic.uplink_per_s + traffic.returning_per_s)).max(0.0)
}

/// What an observer of all links can tell of a packet, and of its sender.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// n of the widest layer.
    pub pool: f64,
    /// How unsure he is which packet that entered the mixes is the one that left them, in bits.
    pub entropy_bits: f64,
    /// How likely his best guess at it is right, on average.
    pub best_guess: f64,
    /// δ₁: by how much more than a coin's one output that is linked to a user tells which of two users it is.
    pub delta_1: f64,
    /// k₉₅: outputs, linked to each other, after which he picks their sender among all users with 95 %.
    pub k_95: f64,
}

impl Outlook {
    /// Whether entropy and best guess are to be believed as they stand; else the entropy is at most, the best guess at least
    /// that.
    #[must_use]
    pub fn is_sharp(&self) -> bool {
        self.pool >= POOL_SHARP
    }
}

/// The outlook in a network with so many users online; one at least, who is to be hidden.
#[must_use]
pub fn outlook(traffic: &Traffic, shape: &Shape, users: f64) -> Outlook {
    let users = users.max(1.0);
    // What other users' and the nodes' packets add hides replies and loops; who sent what is hidden by what users send.
    let in_a_delay = users * traffic.uplink_per_s * traffic.mean_delay_s;
    let own = traffic.uplink_per_s * traffic.mean_delay_s;
    Outlook {
        pool: pool(traffic, shape, users),
        entropy_bits: entropy_bits(in_a_delay, shape.layers),
        best_guess: best_guess(in_a_delay, shape.layers),
        delta_1: delta_1(own, shape.layers),
        k_95: k_95(own, shape.layers, users),
    }
}

/// c_L = C(2L-2, L-1) / 2^(2L-1): what is left, per packet of a mean delay, of the variance of a sender's rate behind L layers.
#[must_use]
pub fn variance_factor(layers: u32) -> f64 {
    // C(2k, k) / 4^k = Π (2i - 1) / 2i.
    (1..layers).fold(0.5, |c, i| c * f64::from(2 * i - 1) / f64::from(2 * i))
}

/// h_L: bits that L delays add to log₂(Λ/µ), the entropy of Erlang(L, 1) in bits.
#[must_use]
pub fn delay_entropy_bits(layers: u32) -> f64 {
    let l = f64::from(layers);
    let (mut ln_gamma, mut psi) = (0.0, -EULER);
    for i in (1..layers).map(f64::from) {
        ln_gamma += libm::log(i);
        psi += 1.0 / i;
    }
    (l + ln_gamma + (1.0 - l) * psi) / LN_2
}

/// m_L: the peak of Erlang(L, 1).
#[must_use]
pub fn delay_peak(layers: u32) -> f64 {
    // k^k e^-k / k! = Π (k / i e).
    let k = f64::from(layers.saturating_sub(1));
    (1..layers).fold(1.0, |m, i| m * k / f64::from(i) * libm::exp(-1.0))
}

/// Entropy of the packet that an observer looks for, in bits; `in_a_delay` = Λ/µ.
#[must_use]
pub fn entropy_bits(in_a_delay: f64, layers: u32) -> f64 {
    (libm::log2(in_a_delay) + delay_entropy_bits(layers)).max(0.0)
}

/// How likely the best guess at it is right; `in_a_delay` = Λ/µ.
#[must_use]
pub fn best_guess(in_a_delay: f64, layers: u32) -> f64 {
    (delay_peak(layers) / in_a_delay).min(1.0)
}

/// δ₁ between two senders; `own` = λ_u/µ.
#[must_use]
pub fn delta_1(own: f64, layers: u32) -> f64 {
    libm::sqrt(variance_factor(layers) / (PI * own)).min(1.0)
}

/// λ_u/µ at which δ₁ is this: [`delta_1`] turned round.
#[must_use]
pub fn own_of_delta_1(delta_1: f64, layers: u32) -> f64 {
    variance_factor(layers) / (PI * delta_1 * delta_1)
}

/// k₉₅ among so many users; `own` = λ_u/µ. One user alone is found at once.
#[must_use]
pub fn k_95(own: f64, layers: u32, users: f64) -> f64 {
    if users < 2.0 {
        return 0.0;
    }
    let z = libm::sqrt(2.0 * libm::log(users)) + Z95;
    z * z * own / variance_factor(layers)
}

/// How likely all mixes on a packet's route are corrupt: f^L.
#[must_use]
pub fn route_corrupt(share: f64, layers: u32) -> f64 {
    libm::pow(share, f64::from(layers))
}

/// How likely that is so for one at least of `packets`, whose routes are drawn anew each time.
#[must_use]
pub fn some_route_corrupt(share: f64, layers: u32, packets: f64) -> f64 {
    -libm::expm1(packets * libm::log1p(-route_corrupt(share, layers)))
}

/// Packets after which it is more likely than not.
#[must_use]
pub fn packets_until_corrupt(share: f64, layers: u32) -> f64 {
    -LN_2 / libm::log1p(-route_corrupt(share, layers))
}

/// How long an attacker who blocks a mix's arrivals waits until but one packet in a hundred pools is left: ln(100 n)/µ.
#[must_use]
pub fn flush_s(pool: f64, mean_delay_s: f64) -> f64 {
    libm::log((100.0 * pool).max(1.0)) * mean_delay_s
}

/// How long it takes until loops, `per_s` of them, tell that the share `dropped` of packets is dropped where `loss` is usual, at
/// one false alarm in 1/`false_alarm` looks: ln(1/α) / (λ (1-q) (d + (1-d) ln(1-d))).
#[must_use]
pub fn alarm_s(per_s: f64, dropped: f64, loss: f64, false_alarm: f64) -> f64 {
    let kept = 1.0 - dropped;
    let drift = dropped + if kept > 0.0 { kept * libm::log(kept) } else { 0.0 };
    libm::log(1.0 / false_alarm) / (per_s * (1.0 - loss) * drift)
}

/// How likely the next packet to leave is the target, where the others in the pool are Poisson with this mean: (1 - e^-ν)/ν.
#[must_use]
pub fn target_is_next(others: f64) -> f64 {
    if others > 0.0 {
        -libm::expm1(-others) / others
    } else {
        1.0
    }
}

/// How long two ends of a flow are watched until it stands out by `z` standard deviations: z² λ_A λ_B / (r² µ c_L), for a flow
/// of `flow_per_s` within `sent_per_s` at one end and `arriving_per_s` at the other. In seconds; infinite without a flow.
#[must_use]
pub fn flow_seen_s(
    z: f64,
    sent_per_s: f64,
    arriving_per_s: f64,
    flow_per_s: f64,
    mean_delay_s: f64,
    layers: u32,
) -> f64 {
    z * z * sent_per_s * arriving_per_s * mean_delay_s / (flow_per_s * flow_per_s * variance_factor(layers))
}

/// What no system with this delay and traffic gets below (the anonymity trilemma, unsynchronised): e^(-λ_u T) - ½, or the share of
/// routes that are corrupt throughout, if that is more.
#[must_use]
pub fn trilemma_floor(uplink_per_s: f64, latency_s: f64, corrupt: f64) -> f64 {
    (libm::exp(-uplink_per_s * latency_s) - 0.5).max(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As users and researchers write it: to the digits that stand there.
    #[track_caller]
    fn is(value: f64, wanted: f64, digit: f64) {
        assert!(
            (value - wanted).abs() <= 0.5001 * digit,
            "{value}, wanted {wanted}"
        );
    }

    #[test]
    fn constants_of_the_layers_are_those_of_the_erlang_distribution() {
        for (layers, c, h, m) in [
            (1, 0.5, 1.443, 1.0),
            (2, 0.25, 2.275, 0.368),
            (3, 0.1875, 2.665, 0.271),
            (4, 0.15625, 2.918, 0.224),
            (5, 0.1367, 3.106, 0.195),
        ] {
            is(variance_factor(layers), c, 1e-4);
            // The reference cuts one of them off.
            is(delay_entropy_bits(layers), h, 3e-3);
            is(delay_peak(layers), m, 1e-3);
        }
    }

    fn plain(uplink_per_s: f64, mean_delay_s: f64, node_loop_per_s: f64) -> Traffic {
        Traffic {
            uplink_per_s,
            returning_per_s: 0.0,
            node_loop_per_s,
            mean_delay_s,
        }
    }

    /// As many gateways as mixes in a layer: then a mix holds L loops of nodes.
    fn layers(layers: u32, mixes: f64) -> Shape {
        Shape {
            layers,
            mixes_per_layer: mixes,
            gateways: mixes,
        }
    }

    #[test]
    fn pools_are_those_of_the_recommended_profiles() {
        // Entropy and best guess stand there for all that is in the pools, loops of nodes too.
        for (users, uplink, mixes, delay, n, bits, guess, digit) in [
            (20.0, 1.0, 1.0, 1.0, 23.0, 7.2, 1.2e-2, 1e-3),
            (100.0, 0.5, 2.0, 1.0, 28.0, 8.5, 4.8e-3, 1e-4),
            (1_000.0, 0.3, 3.0, 1.0, 103.0, 10.9, 9e-4, 1e-4),
            (10_000.0, 0.1, 3.0, 1.0, 336.0, 12.6, 2.7e-4, 1e-5),
            (100_000.0, 0.05, 10.0, 2.0, 1_003.0, 16.0, 3e-5, 1e-5),
        ] {
            let traffic = plain(uplink, delay, 1.0 / delay);
            let shape = layers(3, mixes);
            let outlook = outlook(&traffic, &shape, users);
            is(outlook.pool, n, 1.0);
            is(entropy_bits(outlook.pool * mixes, 3), bits, 0.1);
            is(best_guess(outlook.pool * mixes, 3), guess, digit);
            is(users_of_pool(&traffic, &shape, mixes, outlook.pool), users, 1e-6);
            assert!(outlook.is_sharp() && outlook.entropy_bits < bits + 0.05);
        }
        // 100 users: 50 packets in a delay.
        is(entropy_bits(50.0, 3), 8.31, 0.01);
        is(best_guess(50.0, 3), 0.0054, 1e-4);
    }

    /// Fluid columns of the table of simulations: layers, mixes, pool, entropy, best guess.
    #[test]
    fn entropy_and_best_guess_are_those_that_simulations_were_compared_with() {
        for (l, mixes, pool, bits, guess, digit) in [
            (3, 3.0, 0.5, 3.25, 0.180, 1e-3),
            (3, 3.0, 1.0, 4.25, 0.090, 1e-3),
            (3, 3.0, 2.0, 5.25, 0.045, 1e-3),
            (3, 10.0, 2.0, 6.99, 0.0135, 1e-4),
            (3, 10.0, 5.0, 8.31, 0.0054, 1e-4),
            (3, 3.0, 10.0, 7.57, 0.0090, 1e-4),
            (3, 10.0, 10.0, 9.31, 0.0027, 1e-4),
            (3, 10.0, 20.0, 10.31, 0.00135, 1e-5),
            (3, 10.0, 50.0, 11.63, 0.00054, 1e-5),
            (5, 3.0, 2.0, 5.69, 0.033, 1e-3),
        ] {
            is(entropy_bits(pool * mixes, l), bits, 0.01);
            is(best_guess(pool * mixes, l), guess, digit);
        }
    }

    #[test]
    fn pairwise_numbers_are_those_of_the_reference() {
        for (own, delta) in [
            (0.5, 0.345),
            (1.0, 0.244),
            (2.0, 0.173),
            (5.0, 0.109),
            (10.0, 0.077),
        ] {
            is(delta_1(own, 3), delta, 1e-3);
        }
        is(delta_1(30.0, 3), 0.0446, 1e-4);
        is(own_of_delta_1(0.05, 3), 24.0, 1.0);
        is(k_95(1.0, 3, 100.0), 117.0, 1.0);
        is(k_95(5.0, 3, 100.0), 584.0, 1.0);
        is(k_95(1.0, 4, 100.0), 140.0, 1.0);
        for (own, k) in [(0.3, 46.0), (1.0, 153.0), (5.0, 767.0), (24.0, 3_680.0)] {
            // The reference rounds up, and the last one to tens.
            is(k_95(own, 3, 1_000.0), k, if own > 20.0 { 10.0 } else { 2.0 });
        }
        is(k_95(1.0, 3, 1.0), 0.0, 1e-9);
    }

    #[test]
    fn corrupt_routes_come_as_often_as_they_must() {
        is(route_corrupt(0.1, 3), 1e-3, 1e-9);
        for (share, packets) in [(0.1, 693.0), (0.2, 86.0), (0.05, 5_545.0)] {
            is(packets_until_corrupt(share, 3), packets, 1.0);
            is(some_route_corrupt(share, 3, packets), 0.5, 0.01);
        }
        is(some_route_corrupt(0.0, 3, 1e9), 0.0, 1e-12);
    }

    #[test]
    fn blocking_takes_as_long_as_finding_out_where_nodes_send_a_loop_each_delay() {
        is(flush_s(100.0, 1.0), 9.2, 0.1);
        is(alarm_s(1.0, 1.0, 0.0, 1e-4), 9.2, 0.1);
        // Ten loops a minute against delays of a millisecond: the attack is over long before.
        is(alarm_s(10.0 / 60.0, 1.0, 0.01, 1e-4), 56.0, 1.0);
        assert!(flush_s(100.0, 0.001) < 0.01);
        assert!(alarm_s(1.0, 0.5, 0.01, 1e-4) > 6.0 * alarm_s(1.0, 1.0, 0.01, 1e-4));
        for (others, wanted) in [(1.01, 0.630), (5.5, 0.181), (10.0, 0.100)] {
            // λ_R/(sµ) + λ_M/µ of three attacks that were simulated.
            is(target_is_next(others), wanted, 2e-3);
        }
        is(target_is_next(0.0), 1.0, 1e-9);
        is(target_is_next(1.0), 0.63, 0.01);
    }

    #[test]
    fn a_flow_stands_out_after_the_time_that_the_reference_says() {
        // A client that sends to its correspondent's gateway rather than to one drawn: 3/s in all, 1/s to one of 4.
        let seen = flow_seen_s(3.0, 3.0, 250.0, 1.0 - 0.25, 0.5, 3);
        is(seen / 3_600.0, 9.0, 1.0);
        assert!(flow_seen_s(3.0, 3.0, 250.0, 0.0, 0.5, 3).is_infinite());
    }

    #[test]
    fn the_trilemma_sets_no_floor_once_a_user_sends_ln_2_packets_within_the_latency() {
        is(trilemma_floor(1.0, LN_2, 0.0), 0.0, 1e-9);
        is(trilemma_floor(1.0, 3.0, 0.0), 0.0, 1e-9);
        is(trilemma_floor(1.0, 0.1, 0.0), 0.405, 1e-3);
        is(trilemma_floor(1.0, 3.0, 1e-3), 1e-3, 1e-9);
    }

    #[test]
    fn replies_and_loops_of_other_nodes_are_in_the_pool_too() {
        let traffic = Traffic {
            uplink_per_s: 50.0,
            returning_per_s: 70.0,
            node_loop_per_s: 50.0,
            mean_delay_s: 0.02,
        };
        let shape = Shape {
            layers: 3,
            mixes_per_layer: 2.0,
            gateways: 4.0,
        };
        // 2 layers of other mixes, and twice as many gateways as mixes in a layer.
        is(mix_rate_per_s(&traffic, &shape, 0.0), 200.0, 1e-9);
        is(pool(&traffic, &shape, 10.0), 16.0, 1e-9);
        is(users_of_pool(&traffic, &shape, 2.0, 16.0), 10.0, 1e-9);
        is(users_of_pool(&traffic, &shape, 2.0, 1.0), 0.0, 1e-9);
        // A narrower layer has larger pools for as many users.
        is(users_of_pool(&traffic, &shape, 1.0, 30.0), 10.0, 1e-9);
    }
}
