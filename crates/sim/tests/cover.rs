//! What observers of links see does not depend on what the user does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use mizzle_base::{NodeId, Time};
use mizzle_sim::{Network, Plan, Sighting};

const SPAN: Duration = Duration::from_secs(25);

struct Seen {
    uplink: Vec<Time>,
    downlink: Vec<Time>,
    first_hops: usize,
    last_hops: BTreeMap<NodeId, usize>,
    unready: u64,
    returned: u64,
}

fn run(seed: u64, busy: bool) -> Seen {
    let mut net = network(
        Plan {
            seed,
            ..Plan::default()
        },
        400_000,
    );
    net.watch();
    let begun = net.now();
    if busy {
        net.run_until(begun + Duration::from_secs(2));
        for _ in 0..3 {
            let key = net.open(0, fresh("files.test", FILE_PORT)).unwrap();
            await_open(&mut net, 0, key, Duration::from_secs(10)).unwrap();
            write_all(&mut net, 0, key, &[0; 20_000]);
            while net.now() < begun + SPAN {
                net.step();
                if net.read(0, key).is_empty() && net.events(0).iter().any(|e| e.0 == key) {
                    break;
                }
            }
        }
    }
    net.run_until(begun + SPAN);
    collect(&mut net, begun + SPAN)
}

fn collect(net: &mut Network, until: Time) -> Seen {
    let (mut uplink, mut downlink, mut first_hops, mut last_hops) = (vec![], vec![], 0, BTreeMap::new());
    for sighting in net.sightings() {
        match sighting {
            Sighting::Uplink { at, .. } if at < until => uplink.push(at),
            Sighting::Downlink { at, .. } if at < until => downlink.push(at),
            Sighting::Hop { at, .. } if at < until => first_hops += 1,
            Sighting::LastHop { gateway, .. } => *last_hops.entry(gateway).or_default() += 1,
            _ => {}
        }
    }
    let client = net.client(0).counters();
    Seen {
        uplink,
        downlink,
        first_hops,
        last_hops,
        unready: client.get("slot.unready") + net.node_counters().get("downlink.unready"),
        returned: ["reply.filler", "reply.session"]
            .iter()
            .map(|n| client.get(n))
            .sum(),
    }
}

#[test]
fn an_idle_and_a_busy_client_send_and_receive_at_the_same_moments() {
    for seed in 1..=2 {
        let (idle, busy) = (run(seed, false), run(seed, true));
        assert!(
            idle.uplink.len() > 1_000 && idle.downlink.len() > 2_000,
            "seed {seed}: nothing was seen"
        );
        assert_eq!(
            idle.uplink, busy.uplink,
            "seed {seed}: uplink, microsecond by microsecond"
        );
        assert_eq!(
            idle.downlink, busy.downlink,
            "seed {seed}: downlink, microsecond by microsecond"
        );
        // The same slots, each for the same gateway; only what is under way at the end of the run may differ.
        for (gateway, n) in &idle.last_hops {
            let m = busy.last_hops[gateway];
            assert!(
                n.abs_diff(m) <= 12,
                "seed {seed}: {n} and {m} packets ended at one gateway"
            );
        }
        assert!(
            idle.first_hops.abs_diff(busy.first_hops) < 150,
            "seed {seed}: {} and {} packets on the links between nodes",
            idle.first_hops,
            busy.first_hops
        );
        assert!(
            idle.returned.abs_diff(busy.returned) <= 60,
            "seed {seed}: {} and {} packets returned",
            idle.returned,
            busy.returned
        );
        assert!(busy.returned > 1_200, "seed {seed}: replies flowed");
    }
}

#[test]
fn what_leaves_at_a_tick_was_ready_before_it() {
    for busy in [false, true] {
        assert_eq!(run(4, busy).unready, 0, "busy: {busy}");
    }
}

#[test]
fn loops_of_clients_and_nodes_come_back() {
    let mut net = network(Plan::default(), 0);
    let begun = net.now();
    net.run_until(begun + Duration::from_secs(20));
    let tally = net.client(0).loops();
    assert!(tally.sent > 60, "{tally:?}");
    assert_eq!(tally.lost, 0, "{tally:?}");
    let nodes = net.node_counters();
    assert!(
        nodes.get("loop.returned") > 7_000,
        "eight nodes, 50 a second each: {nodes:?}"
    );
    assert_eq!(nodes.get("drop.loop_too_late"), 0);
}
