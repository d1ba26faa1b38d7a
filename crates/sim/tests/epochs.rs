//! Keys that change while packets are under way: nothing is lost, and no key outlives its time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::*;
use mizzle_base::document::Epochs;
use mizzle_base::{Profile, Time};
use mizzle_sim::{Network, Plan};

const S: fn(u64) -> Duration = Duration::from_secs;

/// As `browse`, with fewer packets.
fn profile() -> Profile {
    let mut profile = Profile::browse();
    profile.payload_per_s = 8.0;
    profile.loop_per_s = 1.0;
    profile.drop_per_s = 1.0;
    profile.downlink_per_s = 30.0;
    profile.node_loop_per_s = 0.5;
    profile
}

fn plan(fast_s: i64) -> Plan {
    Plan {
        profile: profile(),
        // A grace of 15 s.
        epoch: Some(S(120)),
        clients_fast_s: fast_s,
        ..Plan::default()
    }
}

/// What was lost on the way, or could not be opened at its end.
fn lost(net: &Network) -> Vec<(&'static str, u64)> {
    let nodes = net.node_counters();
    let client = net.client(0).counters();
    let of_nodes = [
        "mac",
        "alpha",
        "role",
        "payload",
        "replay",
        "drop.key_is_over",
        "session_drop_handshake",
    ];
    let of_client = [
        "drop.unknown_reply",
        "drop.bad_reply",
        "surb.lost",
        "slot.unbuilt",
        "document.expired",
    ];
    let mut all: Vec<_> = of_nodes.map(|name| (name, nodes.get(name))).into();
    all.extend(of_client.map(|name| (name, client.get(name))));
    all.push(("loops of the client", net.client(0).loops().lost));
    all.retain(|(_, n)| *n > 0);
    all
}

/// Says something every second over one stream, in sessions that begin in each epoch, and has it back.
fn a_stream_goes_on_until(net: &mut Network, until: Time) -> u64 {
    let key = net.open(0, fresh("files.test", ECHO_PORT)).unwrap();
    await_open(net, 0, key, S(30)).unwrap();
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    let mut n = 0_u64;
    while net.now() < until {
        n += 1;
        let line = format!("this is line {n}; ");
        write_all(net, 0, key, line.as_bytes());
        said.extend_from_slice(line.as_bytes());
        if n.is_multiple_of(40) {
            // With whatever keys there are now.
            let other = net.open(0, fresh("files.test", FILE_PORT)).unwrap();
            await_open(net, 0, other, S(30)).unwrap();
            write_all(net, 0, other, b"GET");
            let (got, _) = read_to_end(net, 0, other, S(60));
            assert_eq!(got, pattern(2_000));
        }
        let next = net.now() + S(1);
        net.run_until(next);
        heard.extend(net.read(0, key));
    }
    net.finish(0, key);
    let (rest, _) = read_to_end(net, 0, key, S(60));
    heard.extend(rest);
    assert!(said == heard, "{} of {} bytes came back", heard.len(), said.len());
    n
}

#[test]
fn packets_and_a_stream_go_on_across_three_changes_of_keys_and_nothing_is_lost() {
    let mut net = network(plan(0), 2_000);
    let begun = net.now();
    let epochs = *net.document().epochs();
    let lines = a_stream_goes_on_until(&mut net, begun + S(3 * 120 + 5));
    assert!(lines > 200, "{lines}");
    assert_eq!(lost(&net), []);
    assert_eq!(net.client(0).counters().get("document.next_epoch"), 3);
    assert_eq!(net.client(0).document().epoch(), 4);
    assert!(net.client(0).loops().returned > 200);
    // The overlap of the third epoch goes on; then its key is gone, and what it came from.
    net.run_until(epochs.begin(4) + epochs.overlap() - S(1));
    assert!(
        net.alive_keys().iter().all(|keys| *keys == [3, 4]),
        "{:?}",
        net.alive_keys()
    );
    net.run_until(epochs.begin(4) + epochs.overlap() + S(1));
    assert!(
        net.alive_keys().iter().all(|keys| *keys == [4]),
        "{:?}",
        net.alive_keys()
    );
    assert_eq!(net.earliest_seed(), Some(4));
    // A session's last word finds its exit's end gone, as without epochs.
    let lost = lost(&net)
        .into_iter()
        .filter(|(name, _)| *name != "session_drop_handshake");
    assert_eq!(lost.collect::<Vec<_>>(), []);
}

#[test]
fn a_client_whose_clock_is_off_by_less_than_the_grace_loses_nothing() {
    let grace = Epochs::grace(network(plan(0), 0).document().epochs());
    assert_eq!(grace, S(15));
    for fast_s in [-14, 14] {
        let mut net = network(plan(fast_s), 2_000);
        let begun = net.now();
        a_stream_goes_on_until(&mut net, begun + S(120 + 80));
        assert_eq!(lost(&net), [], "{fast_s} s fast");
        assert!(net.client(0).counters().get("document.next_epoch") >= 1);
    }
}

#[test]
fn a_client_whose_clock_is_an_epoch_off_gets_nothing_through() {
    // That this is so is why a client compares its clock.
    let mut net = network(plan(240), 0);
    net.run_until(net.now() + S(20));
    assert!(net.node_counters().get("mac") > 100);
    assert_eq!(net.client(0).loops().returned, 0);
}
