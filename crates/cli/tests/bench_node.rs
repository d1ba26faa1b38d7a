//! `mizzle bench node` with few packets: what it prints must be there and make sense, on however slow a machine.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use serde_json::Value;

#[test]
fn a_node_between_its_peers_is_measured() {
    let output = Command::new(env!("CARGO_BIN_EXE_mizzle"))
        .args(["bench", "node", "--json", "--seconds", "1", "--transport", "tcp"])
        .args(["--packets", "2000", "--held", "2000"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("MB"), "says what memory it takes: {said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();

    let over = &report["transports"][0];
    assert_eq!(over["transport"], "TCP");
    assert!(number(&over["capacity_pps"]) > 0.0, "{report}");
    let loads = over["latency"].as_array().unwrap();
    assert_eq!(
        loads.iter().map(|l| number(&l["load"])).collect::<Vec<_>>(),
        [0.1, 0.5, 0.8]
    );
    for load in loads {
        assert_eq!(load["lost"], 0, "{report}");
        assert!(number(&load["beyond_delay_p50_ms"]) <= number(&load["beyond_delay_p99_ms"]));
    }
    let flood = &over["flood"];
    let dropped: u64 = flood["dropped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reason| reason[1].as_u64().unwrap())
        .sum();
    let (accepted, delivered) = (
        flood["accepted"].as_u64().unwrap(),
        flood["delivered"].as_u64().unwrap(),
    );
    // The node's own loops may be among those dropped.
    assert!(
        (delivered..=delivered + dropped).contains(&accepted),
        "each is accounted for: {report}"
    );

    assert_eq!(report["pipeline"][0]["workers"], 1);
    assert!(number(&report["pipeline"][0]["packets_per_s"]) > 0.0);
    if cfg!(target_os = "linux") {
        let us = number(&report["node_us_per_packet"]);
        assert!((number(&report["node_pps_per_core"]) - 1e6 / us).abs() < 1.0);
        // A packet, and the tables of 2,000, which are the larger part for so few.
        let held = number(&report["held_bytes_per_packet"]);
        assert!((4_608.0..20_000.0).contains(&held), "{held}");
    }
}

#[test]
fn it_says_what_it_measures() {
    let output = Command::new(env!("CARGO_BIN_EXE_mizzle"))
        .args(["bench", "node", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for key in [
        "node_us_per_packet",
        "node_pps_per_core",
        "beyond_delay_p99_ms",
        "held_bytes_per_packet",
    ] {
        assert!(help.contains(key), "{help}");
    }
}
