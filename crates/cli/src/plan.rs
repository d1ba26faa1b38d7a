//! `mizzle plan`: the profiles, with what follows from their numbers. Formulas of the design's Traffic section.

use std::f64::consts::PI;
use std::fmt::Write as _;

use mizzle_base::Profile;
use mizzle_base::frame::FRAME_LEN;
use mizzle_sphinx::PACKET_LEN;

/// The share of slots that `mizzle up` gives to the gateway with the exit.
pub const EXIT_WEIGHT: f64 = 0.8;

/// Variance factor of three mixes in a row, C(4, 2) / 2⁵: Loopix layers delay Erlang(3).
const C3: f64 = 0.1875;
/// Users among whom an observer looks for one.
const USERS: f64 = 1_000.0;

/// One row.
#[derive(Debug, serde::Serialize)]
pub struct Row {
    profile: String,
    mean_delay_ms: f64,
    payload_per_s: f64,
    loop_per_s: f64,
    drop_per_s: f64,
    reply_fraction: f64,
    downlink_per_s: f64,
    up_gb_per_day: f64,
    down_gb_per_day: f64,
    ceiling_down_mb_per_s: f64,
    ceiling_up_mb_per_s: f64,
    /// Advantage over guessing between two senders, from one linkable output.
    delta_1: f64,
    /// Linkable outputs after which the sender among 1,000 is found with 95 %.
    k_95: f64,
}

/// The table.
#[must_use]
pub fn rows() -> Vec<Row> {
    [Profile::chat(), Profile::browse(), Profile::bulk()]
        .iter()
        .map(row)
        .collect()
}

fn row(p: &Profile) -> Row {
    let gb_per_day = |per_s: f64, bytes: usize| per_s * bytes as f64 * 86_400.0 / 1e9;
    // Packets in a mean delay: λ_u / µ.
    let ratio = p.uplink_per_s() * p.mean_delay_ms / 1e3;
    Row {
        profile: p.name.clone(),
        mean_delay_ms: p.mean_delay_ms,
        payload_per_s: p.payload_per_s,
        loop_per_s: p.loop_per_s,
        drop_per_s: p.drop_per_s,
        reply_fraction: p.reply_fraction,
        downlink_per_s: p.downlink_per_s,
        up_gb_per_day: gb_per_day(p.uplink_per_s(), PACKET_LEN),
        down_gb_per_day: gb_per_day(p.downlink_per_s, FRAME_LEN),
        ceiling_down_mb_per_s: p.ceiling_down_bytes_per_s(EXIT_WEIGHT) / 1e6,
        ceiling_up_mb_per_s: p.ceiling_up_bytes_per_s(EXIT_WEIGHT) / 1e6,
        delta_1: (C3 / (PI * ratio)).sqrt(),
        k_95: ((2.0 * USERS.ln()).sqrt() + 1.645).powi(2) * ratio / C3,
    }
}

/// The table as people read it.
#[must_use]
pub fn table() -> String {
    let mut out = String::from(
        "profile  1/µ ms  λ_P/λ_L/λ_D per s   p     down/s  up GB/day  down GB/day  ceiling down/up MB/s  δ₁    k₉₅\n",
    );
    for r in rows() {
        let rates = format!("{}/{}/{}", r.payload_per_s, r.loop_per_s, r.drop_per_s);
        // Writing to a `String` can't fail.
        let _ = writeln!(
            out,
            "{:<8} {:>6} {:>19} {:>5.2} {:>7} {:>10.2} {:>12.2} {:>12.3} / {:<6.3} {:>6.2} {:>5.0}",
            r.profile,
            r.mean_delay_ms,
            rates,
            r.reply_fraction,
            r.downlink_per_s,
            r.up_gb_per_day,
            r.down_gb_per_day,
            r.ceiling_down_mb_per_s,
            r.ceiling_up_mb_per_s,
            r.delta_1,
            r.k_95
        );
    }
    out.push_str(
        "\nCeilings are for exits whose gateways have 0.8 of all slots. δ₁: what an observer of all links gains over a\n\
         coin when he sees one linkable output and two possible senders. k₉₅: such outputs after which he picks the\n\
         sender among 1,000 with 95 %. Both depend on your own cover and delay, not on how many others there are.\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_design() {
        let rows = rows();
        let near = |a: f64, b: f64, by: f64| (a - b).abs() <= by;
        for (row, up, down, delta, k) in [
            (&rows[0], 0.12, 0.40, 0.45, 46.0),
            (&rows[1], 20.0, 40.0, 0.24, 153.0),
            (&rows[2], 120.0, 208.0, 0.10, 920.0),
        ] {
            assert!(near(row.up_gb_per_day, up, up * 0.03), "{row:?}");
            assert!(near(row.down_gb_per_day, down, down * 0.03), "{row:?}");
            assert!(near(row.delta_1, delta, 0.01), "{row:?}");
            assert!(near(row.k_95, k, k * 0.02), "{row:?}");
        }
    }
}
