//! Real processes over changes of keys: downloads go on, a node is killed near one, a newer document is taken without a
//! restart, and a clock that is off says by how much.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests: how long things take is bounded"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::processes::{Made, Processes, command};
use common::{LIMIT, Process, Web, has_curl, pattern, poll_until, run};
use mizzle_net::clock::{Clock, Machine, ThisMachine};
use serde_json::Value;

const FILE: usize = 20_000;
/// So short that a test can wait for it.
const SHORT: &[&str] = &["--epoch-s", "40", "--epochs", "4"];

fn network_of(network: &Processes, name: &str) -> Value {
    let config = network.made.config(name);
    let (code, out, err) = run(&["status", config.to_str().unwrap(), "--json"]);
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str::<Value>(&out).unwrap()["network"].clone()
}

#[test]
fn downloads_go_on_over_two_changes_of_keys_and_the_kill_of_a_mix_near_one_and_a_new_document() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    let mut network = Processes::start(Made::small("epochs", SHORT));
    let begun = Instant::now();
    let epoch = |network: &Processes, name: &str| network_of(network, name)["epoch"].as_u64().unwrap();
    let mut downloads = 0;
    let mut killed = false;
    let mut renewed = false;
    let mut before = Vec::new();
    while epoch(&network, "client-1") < 3 {
        assert!(begun.elapsed() < Duration::from_secs(200), "keys don't change");
        let got = network.curl("client-1", &web.url(FILE), 60);
        assert_eq!(got.code, Some(0), "{}", got.stderr);
        assert!(got.body == pattern(FILE));
        downloads += 1;
        let seen = network_of(&network, "mix-2-1");
        let left_s = seen["epoch_ends_s"]
            .as_u64()
            .unwrap()
            .saturating_sub(seen["now_s"].as_u64().unwrap());
        if !killed && left_s <= 6 {
            // What is in it is lost, and sent again.
            network.kill("mix-2-1");
            network.restart("mix-2-1");
            killed = true;
        }
        if !renewed && epoch(&network, "client-1") == 2 {
            renewed = true;
            let dir = network.made.dir.0.clone();
            // Nodes write there which keys they will have; of one its operator keeps no seed but on its machine.
            let state = network.made.state("mix-1-1");
            let seed = std::fs::read(state.join("epoch.key")).unwrap();
            std::fs::remove_file(state.join("epoch.key")).unwrap();
            let renew = || {
                let dir = dir.to_str().unwrap();
                run(&["network", "renew", dir, "--valid-days", "1", "--json"])
            };
            // Somebody puts in a key of his own on the way.
            let next = state.join("next.keys");
            let good = std::fs::read_to_string(&next).unwrap();
            let mut bad: Value = serde_json::from_str(&good).unwrap();
            bad["exit"] = bad["mail"].clone();
            std::fs::write(&next, bad.to_string()).unwrap();
            let (code, out, err) = renew();
            assert!(
                code == Some(1) && err.contains("isn't signed by this node"),
                "{out}{err}"
            );
            std::fs::write(&next, good).unwrap();
            before = std::fs::read(network.made.folder("mix-2-1").join("network.doc")).unwrap();
            let (code, out, err) = renew();
            std::fs::write(state.join("epoch.key"), seed).unwrap();
            set_mode(&state.join("epoch.key"));
            assert_eq!(code, Some(0), "{out}{err}");
            let said: Value = serde_json::from_str(&out).unwrap();
            assert_eq!((&said["sequence"], &said["epochs"][0]), (&2.into(), &1.into()));
            assert!(said["epochs"][1].as_u64().unwrap() > 100, "{said}");
        }
    }
    println!("{downloads} downloads in {:.0} s", begun.elapsed().as_secs_f64());
    assert!(killed && renewed && downloads > 10, "{downloads}");
    for name in ["mix-1-1", "mix-2-1", "gateway-1", "gateway-2", "client-1"] {
        // The client's own copy was written over, too; nobody was started again for it.
        poll_until("the new document is taken", || {
            let seen = network_of(&network, name);
            (seen["sequence"] == 2 && seen["epoch_last"].as_u64() > Some(100)).then_some(())
        });
    }
    let got = network.curl("client-1", &web.url(FILE), 60);
    assert!(got.code == Some(0) && got.body == pattern(FILE), "{}", got.stderr);
    // A node whose own file is still the old one, as where the new one came from elsewhere, goes on with the new one after a start.
    network.stop("mix-2-1");
    let file = network.made.folder("mix-2-1").join("network.doc");
    assert_ne!(std::fs::read(&file).unwrap(), before);
    std::fs::write(&file, &before).unwrap();
    network.restart("mix-2-1");
    let seen = network_of(&network, "mix-2-1");
    assert_eq!(seen["sequence"], 2);
    assert!(seen["keys_until_s"].as_u64() > seen["epoch_ends_s"].as_u64());
    let config = network.made.config("mix-2-1");
    let (_, json, _) = run(&["status", config.to_str().unwrap(), "--json"]);
    let status: Value = serde_json::from_str(&json).unwrap();
    assert!(
        status["alarms"]["raised"].is_u64() && status["alarms"]["is_on"].is_boolean(),
        "{json}"
    );
    let (_, text, _) = run(&["status", config.to_str().unwrap()]);
    for words in ["key epoch", "more epochs are known", "alarms"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    network.stop_all();
}

fn set_mode(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_clock_that_is_off_by_minutes_works_and_by_hours_says_by_how_much_and_stops() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    let mut network = Processes::start(Made::small("clocks", &[]));
    let with_clock = |network: &Processes, kind: &str, name: &str, fast_s: &str| {
        let mut command = command(kind, &network.made.config(name));
        command.args(["--clock-fast-s", fast_s]);
        Process::start(command)
    };
    for (kind, name) in [("client", "client-1"), ("node", "mix-3-1")] {
        network.stop(name);
        for (fast_s, says) in [("7200", "7200 s fast"), ("-7200", "7200 s slow")] {
            let mut process = with_clock(&network, kind, name, fast_s);
            assert_eq!(process.ended(LIMIT).code(), Some(1), "{name} {fast_s}");
            let said = process.stderr();
            // One that is slow by more than the document is old finds that out first.
            let by_document = fast_s.starts_with('-') && said.contains("becomes valid in");
            assert!(by_document || said.contains(says), "{name} {fast_s}: {said}");
        }
        network.restart(name);
    }
    // Two minutes: nobody says anything, and it works.
    network.stop("client-1");
    for fast_s in ["120", "-120"] {
        let mut process = with_clock(&network, "client", "client-1", fast_s);
        let ready: Value = serde_json::from_str(&process.line()).unwrap();
        let socks = format!("socks5h://{}", ready["socks"].as_str().unwrap());
        let mut curl = common::curl(&socks, &web.url(FILE));
        let output = curl.args(["--max-time", "60"]).output().unwrap();
        assert!(
            output.status.success() && output.stdout == pattern(FILE),
            "{fast_s}"
        );
        process.signal("TERM");
        assert_eq!(process.ended(LIMIT).code(), Some(0), "{}", process.stderr());
    }
    network.stop_all();
}

/// This machine's clocks, which somebody sets, or which went on while it slept.
#[derive(Clone, Debug, Default)]
struct Set {
    utc_s: Arc<AtomicU64>,
    slept_s: Arc<AtomicU64>,
}

impl Machine for Set {
    fn elapsed(&self) -> Duration {
        ThisMachine.elapsed() + Duration::from_secs(self.slept_s.load(Ordering::SeqCst))
    }

    fn utc(&self) -> Duration {
        ThisMachine.utc() + Duration::from_secs(self.utc_s.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_while_a_node_runs_is_not_followed_and_one_that_is_then_off_by_hours_stops_it() {
    // Clocks are looked at as often as epochs are short, and those of two hours are known.
    let made = Made::small("set", &["--epoch-s", "40", "--epochs", "300"]);
    let mut network = Processes::start(made);
    network.stop("mix-3-1");
    let config = network.made.config("mix-3-1");
    let clock = Set::default();
    let node = tokio::spawn({
        let (config, clock) = (config.clone(), Clock::of(clock.clone()));
        async move { mizzle::node::run(&config, true, clock).await }
    });
    let uptime_s = || {
        let (code, out, _) = run(&["status", config.to_str().unwrap(), "--json"]);
        let status: Option<Value> = (code == Some(0)).then(|| serde_json::from_str(&out).unwrap());
        status.and_then(|status| status["uptime_s"].as_u64())
    };
    tokio::task::block_in_place(|| poll_until("it runs", uptime_s));
    // Somebody sets the clock two hours ahead. The gateways say that it was right before.
    clock.utc_s.store(7_200, Ordering::SeqCst);
    let set_at = tokio::task::block_in_place(|| poll_until("it tells", uptime_s));
    tokio::task::block_in_place(|| {
        poll_until("it has compared clocks, and goes on", || {
            (uptime_s()? >= set_at + 8).then_some(())
        });
    });
    assert!(!node.is_finished());
    // Its own time jumps by two hours, and nobody else's.
    clock.slept_s.store(7_200, Ordering::SeqCst);
    let ended = tokio::time::timeout(LIMIT, node)
        .await
        .expect("it stops")
        .unwrap();
    let why = ended.unwrap_err().to_string();
    assert!(why.contains(" s fast by what the gateways say"), "{why}");
    let s: u64 = why.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!((7_190..=7_210).contains(&s), "{why}");
    network.stop_all();
}
