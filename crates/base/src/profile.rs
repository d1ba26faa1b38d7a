//! A profile: the traffic parameters that must be equal for all clients and nodes of one network.
//!
//! The design's table of profiles, with its formulas for what a client may carry. When a packet leaves is
//! `mizzle-traffic`'s; here are only the numbers.

use alloc::string::String;
use core::time::Duration;

use serde::{Deserialize, Serialize};

/// SURBs in a packet of a reply slot.
pub const SURBS_PER_REPLY_SLOT: usize = 5;

/// User bytes that the ceiling formulas count for each packet: a round figure that every full packet exceeds.
pub const CEILING_PACKET_BYTES: f64 = 3_800.0;

/// Means above this are refused: the delay field is 16 bits of milliseconds, and the 1 - 10⁻⁶ quantile must fit.
pub const MAX_MEAN_DELAY_MS: f64 = 4_700.0;

/// Payload slots that an epoch of [`Pattern::DangerBudget`] may hold: fewer than two leave nothing to choose, and two whole
/// epochs at once must pass the gateway, which lets a client be 150 packets ahead of its rate.
const BUDGET_SLOTS: (f64, f64) = (2.0, 75.0);

/// In which pattern the packets of all clients leave. The rates are the profile's, whichever it is.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Pattern {
    /// Loopix's: payload, loops and drops are Poisson processes. What is known of Loopix's anonymity is known of this one.
    #[default]
    Poisson,
    /// One packet at each tick of a constant rate, the sum of the three; which of them it is is drawn by their rates. Times
    /// depend on nothing here too, and a packet waits at most 1/rate for its slot. But a client that is held up shows by how
    /// long, for everyone knows when its next packet is due; and what enters a mix is no Poisson process, so the closed
    /// forms of its pool hold only where many clients add up.
    Constant,
    /// Payload slots at random moments of each epoch, as many as the profile's rate says; data that waits takes its slot at
    /// once and cancels one that was to come. **This gives away when a client is active**: who watches its link sees
    /// packets come together when there is data, and what leaves the network at the same time is linked to it. Only how many
    /// packets leave in an epoch, and for which gateways, stays independent of the user. For those who need little delay and
    /// have no one to fear on their own link.
    DangerBudget {
        /// Length of an epoch, in seconds.
        epoch_s: f64,
    },
}

/// What is equal for all of a network. Rates are per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name, for people.
    pub name: String,
    /// 1/µ: mean delay at each hop, in milliseconds.
    pub mean_delay_ms: f64,
    /// λ_P: payload slots of a client.
    pub payload_per_s: f64,
    /// λ_L: loops of a client.
    pub loop_per_s: f64,
    /// λ_D: drops of a client besides those in its payload slots.
    pub drop_per_s: f64,
    /// p: the fraction of payload slots that are reply slots, each with [`SURBS_PER_REPLY_SLOT`] SURBs.
    pub reply_fraction: f64,
    /// Frames that a gateway sends to a client. Packets return in bursts of five, so a downlink of rate r under load ρr
    /// makes each wait (4 + ρ) / (2 r (1 - ρ)) s: the shipped profiles leave a fifth to a half of it to fillers.
    pub downlink_per_s: f64,
    /// λ_M: loops of every mix and gateway.
    pub node_loop_per_s: f64,
    /// τ: mean time that a gateway holds a SURB before it sends on it, in milliseconds.
    pub reply_due_mean_ms: f64,
    /// When packets leave; a document that doesn't say means [`Pattern::Poisson`].
    #[serde(default, skip_serializing_if = "Pattern::is_default")]
    pub pattern: Pattern,
}

impl Pattern {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is wrong with a profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A number out of its range.
    #[error("`{field}` must be {range}")]
    OutOfRange {
        /// The field's name.
        field: &'static str,
        /// The range, in words.
        range: &'static str,
    },
    /// More packets come back than the downlink has frames for.
    #[error(
        "`downlink_per_s` must hold the loops and the replies: at least loop_per_s + 5 x payload_per_s x reply_fraction"
    )]
    DownlinkTooSlow,
}

impl Profile {
    /// For messages: a delay of a second a hop.
    #[must_use]
    pub fn chat() -> Self {
        Self {
            name: "chat".into(),
            mean_delay_ms: 1_000.0,
            payload_per_s: 0.2,
            loop_per_s: 0.05,
            drop_per_s: 0.05,
            reply_fraction: 0.5,
            downlink_per_s: 1.0,
            node_loop_per_s: 1.0,
            reply_due_mean_ms: 3_000.0,
            pattern: Pattern::Poisson,
        }
    }

    /// For pages and wallets.
    #[must_use]
    pub fn browse() -> Self {
        Self {
            name: "browse".into(),
            mean_delay_ms: 20.0,
            payload_per_s: 40.0,
            loop_per_s: 5.0,
            drop_per_s: 5.0,
            reply_fraction: 1.0 / 3.0,
            downlink_per_s: 100.0,
            node_loop_per_s: 50.0,
            reply_due_mean_ms: 60.0,
            pattern: Pattern::Poisson,
        }
    }

    /// For files.
    #[must_use]
    pub fn bulk() -> Self {
        Self {
            name: "bulk".into(),
            payload_per_s: 240.0,
            loop_per_s: 30.0,
            drop_per_s: 30.0,
            downlink_per_s: 520.0,
            ..Self::browse()
        }
    }

    /// The same profile with another mean delay; what is tied to it (λ_M = µ, τ = 3/µ) moves along.
    #[must_use]
    pub fn with_mean_delay_ms(mut self, mean_delay_ms: f64) -> Self {
        self.mean_delay_ms = mean_delay_ms;
        self.node_loop_per_s = 1_000.0 / mean_delay_ms;
        self.reply_due_mean_ms = 3.0 * mean_delay_ms;
        self
    }

    /// Checks every number.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn check(&self) -> Result<(), ProfileError> {
        let ranges: [(&'static str, f64, f64, f64, &'static str); 8] = [
            (
                "mean_delay_ms",
                self.mean_delay_ms,
                1.0,
                MAX_MEAN_DELAY_MS,
                "between 1 and 4700",
            ),
            (
                "payload_per_s",
                self.payload_per_s,
                0.001,
                10_000.0,
                "between 0.001 and 10000",
            ),
            (
                "loop_per_s",
                self.loop_per_s,
                0.001,
                10_000.0,
                "between 0.001 and 10000",
            ),
            (
                "drop_per_s",
                self.drop_per_s,
                0.001,
                10_000.0,
                "between 0.001 and 10000",
            ),
            (
                "reply_fraction",
                self.reply_fraction,
                0.01,
                0.99,
                "between 0.01 and 0.99",
            ),
            (
                "downlink_per_s",
                self.downlink_per_s,
                0.001,
                50_000.0,
                "between 0.001 and 50000",
            ),
            (
                "node_loop_per_s",
                self.node_loop_per_s,
                0.001,
                10_000.0,
                "between 0.001 and 10000",
            ),
            (
                "reply_due_mean_ms",
                self.reply_due_mean_ms,
                1.0,
                60_000.0,
                "between 1 and 60000",
            ),
        ];
        for (field, value, low, high, range) in ranges {
            // Written so that NaN is out of range too.
            if !(low..=high).contains(&value) {
                return Err(ProfileError::OutOfRange { field, range });
            }
        }
        if let Pattern::DangerBudget { epoch_s } = self.pattern {
            let (least, most) = BUDGET_SLOTS;
            if !(least..=most).contains(&(self.payload_per_s * epoch_s)) {
                return Err(ProfileError::OutOfRange {
                    field: "pattern.danger_budget.epoch_s",
                    range: "so long that 2 to 75 payload slots fall into an epoch",
                });
            }
        }
        if self.downlink_per_s < self.loop_per_s + self.returning_per_s() {
            return Err(ProfileError::DownlinkTooSlow);
        }
        Ok(())
    }

    /// Packets a second that a client emits: λ_P + λ_L + λ_D.
    #[must_use]
    pub fn uplink_per_s(&self) -> f64 {
        self.payload_per_s + self.loop_per_s + self.drop_per_s
    }

    /// Packets a second that return on SURBs: 5 λ_P p.
    #[must_use]
    pub fn returning_per_s(&self) -> f64 {
        SURBS_PER_REPLY_SLOT as f64 * self.payload_per_s * self.reply_fraction
    }

    /// The ceiling of a download in bytes a second, for exits whose gateways have the share `weight` of all slots.
    #[must_use]
    pub fn ceiling_down_bytes_per_s(&self, weight: f64) -> f64 {
        self.returning_per_s() * weight * CEILING_PACKET_BYTES
    }

    /// The ceiling of an upload in bytes a second.
    #[must_use]
    pub fn ceiling_up_bytes_per_s(&self, weight: f64) -> f64 {
        self.payload_per_s * (1.0 - self.reply_fraction) * weight * CEILING_PACKET_BYTES
    }

    /// 1/µ as a duration.
    #[must_use]
    pub fn mean_delay(&self) -> Duration {
        Duration::from_micros((self.mean_delay_ms * 1e3) as u64)
    }

    /// The time within which a packet with `delays` delaying hops arrives but for one in a thousand, queues and
    /// links not counted: the 0.999 quantile of Erlang(`delays`, µ).
    #[must_use]
    pub fn path_q999(&self, delays: u32) -> Duration {
        // 0.999 quantiles of Gamma(k, 1), k = 1..=5 (R: qgamma(.999, 1:5)).
        const Q999: [f64; 5] = [6.908, 9.233, 11.229, 13.062, 14.794];
        let k = delays.clamp(1, 5) as usize - 1;
        Duration::from_micros((Q999[k] * self.mean_delay_ms * 1e3) as u64)
    }

    /// How long the creator of a SURB keeps its keys: far beyond due time, path and queues together.
    #[must_use]
    pub fn surb_life(&self) -> Duration {
        Duration::from_micros((20e3 * (self.reply_due_mean_ms + 5.0 * self.mean_delay_ms)) as u64)
            + Duration::from_secs(20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString as _;

    #[test]
    fn shipped_profiles_are_sound() {
        for p in [Profile::chat(), Profile::browse(), Profile::bulk()] {
            p.check().unwrap();
            assert!(
                (p.node_loop_per_s - 1_000.0 / p.mean_delay_ms).abs() < 1e-9,
                "λ_M = µ in {}",
                p.name
            );
        }
    }

    #[test]
    fn ceilings_are_those_of_the_design_table() {
        let near = |a: f64, b: f64| (a - b).abs() < 0.02 * b;
        assert!(near(Profile::browse().ceiling_down_bytes_per_s(0.8), 0.2e6));
        assert!(near(Profile::bulk().ceiling_down_bytes_per_s(0.8), 1.2e6));
    }

    #[test]
    fn the_pattern_is_poisson_unless_the_document_says_another_that_is_known() {
        let read = |json: &str| serde_json::from_str::<Profile>(json);
        let text = serde_json::to_string(&Profile::browse()).unwrap();
        assert!(
            !text.contains("pattern"),
            "as documents were before there was a choice"
        );
        assert_eq!(read(&text).unwrap(), Profile::browse());
        let with = |pattern: &str| read(&text.replacen('{', &format!("{{\"pattern\":{pattern},"), 1));
        assert_eq!(with("\"constant\"").unwrap().pattern, Pattern::Constant);
        let budget = with("{\"danger_budget\":{\"epoch_s\":1.5}}").unwrap();
        assert_eq!(budget.pattern, Pattern::DangerBudget { epoch_s: 1.5 });
        assert_eq!(budget.check(), Ok(()), "60 slots");
        // A client that doesn't know how the others send must not send in its own way.
        assert!(with("\"tides\"").is_err());
        for epoch_s in [f64::NAN, f64::INFINITY, -1.0, 0.0, 0.01, 1e9] {
            let bad = Profile {
                pattern: Pattern::DangerBudget { epoch_s },
                ..Profile::browse()
            };
            assert!(
                bad.check().unwrap_err().to_string().contains("2 to 75"),
                "{epoch_s}"
            );
        }
    }

    #[test]
    fn rates_that_cannot_be_are_refused_each_by_its_name() {
        type Set = fn(&mut Profile, f64);
        let fields: [(&str, Set); 8] = [
            ("mean_delay_ms", |p, x| p.mean_delay_ms = x),
            ("payload_per_s", |p, x| p.payload_per_s = x),
            ("loop_per_s", |p, x| p.loop_per_s = x),
            ("drop_per_s", |p, x| p.drop_per_s = x),
            ("reply_fraction", |p, x| p.reply_fraction = x),
            ("downlink_per_s", |p, x| p.downlink_per_s = x),
            ("node_loop_per_s", |p, x| p.node_loop_per_s = x),
            ("reply_due_mean_ms", |p, x| p.reply_due_mean_ms = x),
        ];
        for (name, set) in fields {
            for impossible in [
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                -1.0,
                0.0,
                1e-300,
                1e300,
            ] {
                let mut p = Profile::browse();
                set(&mut p, impossible);
                let error = p.check().unwrap_err().to_string();
                assert!(error.contains(name), "{name} = {impossible}: {error}");
            }
        }
    }

    #[test]
    fn bad_numbers_are_named() {
        let mut p = Profile::browse();
        p.payload_per_s = f64::NAN;
        assert!(matches!(
            p.check(),
            Err(ProfileError::OutOfRange {
                field: "payload_per_s",
                ..
            })
        ));
        let slow = Profile {
            downlink_per_s: 10.0,
            ..Profile::browse()
        };
        assert_eq!(slow.check(), Err(ProfileError::DownlinkTooSlow));
        let long = Profile::chat().with_mean_delay_ms(4_701.0);
        assert!(long.check().is_err());
    }
}
