//! Real processes whose clocks are hours ahead at their start: gateways object, and nothing that is still needed was erased.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests: how long things take is bounded"
)]

mod common;

use common::processes::{Made, Processes, command};
use common::{LIMIT, Process, Web, has_curl, pattern, run};
use serde_json::Value;

const FILE: usize = 20_000;

#[test]
fn a_node_that_began_hours_ahead_of_its_time_has_its_keys_when_the_clock_is_right_again() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    let made = Made::small("ahead", &["--epoch-s", "3600", "--epochs", "24"]);
    let mut network = Processes::start(made);
    // The first asks two gateways, the second the only other one.
    for name in ["mix-3-1", "gateway-2"] {
        network.stop(name);
        let seed = network.made.state(name).join("epoch.key");
        let before = std::fs::read(&seed).unwrap();
        assert!(before.starts_with(b"1 "), "the first epoch");
        // In the middle of the seventh.
        let mut fast = command("node", &network.made.config(name));
        fast.args(["--clock-fast-s", "23400"]);
        let mut process = Process::start(fast);
        assert_eq!(process.ended(LIMIT).code(), Some(1), "{name}");
        let said = process.stderr();
        assert!(
            said.contains(" s fast by what the gateways say"),
            "{name}: {said}"
        );
        assert!(
            std::fs::read(&seed).unwrap() == before,
            "{name}: its seed is as it was"
        );
        network.restart(name);
        let config = network.made.config(name);
        let (code, out, err) = run(&["status", config.to_str().unwrap(), "--json"]);
        assert_eq!(code, Some(0), "{err}");
        let status: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(status["network"]["epoch"], 1, "{name}");
    }
    // Everything goes through both.
    let got = network.curl("client-1", &web.url(FILE), 60);
    assert!(got.code == Some(0) && got.body == pattern(FILE), "{}", got.stderr);
    network.stop_all();
}
