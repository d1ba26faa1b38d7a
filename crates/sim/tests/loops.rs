//! What loops bring about: routes that avoid the dead, and a gateway that can't choose its clients' routes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::*;
use mizzle_base::{NodeId, Rng, Time};
use mizzle_client::{Moves, Why};
use mizzle_sim::{Network, Plan, Sighting};
use rand_core::SeedableRng as _;

fn three_by_four(seed: u64) -> Plan {
    Plan {
        seed,
        mixes_per_layer: 4,
        ..Plan::default()
    }
}

#[test]
fn streams_go_on_and_routes_avoid_the_dead_when_a_third_of_the_mixes_dies() {
    let mut slowest = Duration::ZERO;
    for seed in 1..=3 {
        let file = 300_000;
        let mut net = network(three_by_four(seed), file);
        // Not at a moment at which nodes publish: somewhere between.
        let killed = net.now() + Duration::from_millis(5_300 + 1_700 * seed);
        net.run_until(killed - Duration::from_secs(1));
        let key = net.open(0, fresh("files.test", FILE_PORT)).unwrap();
        net.run_until(killed);
        let dead = victims(&net, seed);
        dead.iter().for_each(|mix| net.stop(mix));
        let avoids = |net: &Network| dead.iter().all(|mix| net.client(0).avoided().contains(mix));
        let until = killed + Duration::from_secs(30);
        while !avoids(&net) && net.now() < until {
            net.step();
        }
        let took = net.now().since(killed);
        slowest = slowest.max(took);
        let tally = net.client(0).loops();
        println!(
            "seed {seed}: {took:?} after {} of 12 mixes died, {tally:?}",
            dead.len()
        );
        assert!(took <= Duration::from_secs(10), "seed {seed}: {took:?}");
        let living = net
            .document()
            .nodes()
            .iter()
            .filter(|node| !dead.contains(&node.id));
        assert!(
            living
                .clone()
                .all(|node| !net.client(0).avoided().contains(&node.id))
        );

        // Its loops come back from now on; those under way are lost by then.
        net.run_until(killed + Duration::from_secs(14));
        let lost = net.client(0).loops().lost;
        net.run_until(killed + Duration::from_secs(18));
        assert_eq!(net.client(0).loops().lost, lost, "seed {seed}");
        // The stream that was open goes on, and a new one is served.
        write_all(&mut net, 0, key, b"GET");
        let (got, _) = read_to_end(&mut net, 0, key, Duration::from_secs(120));
        assert_eq!(got, pattern(file), "seed {seed}");
        assert_eq!(net.client(0).wants_another(), None, "its gateway did nothing");
    }
    println!("the slowest of three: {slowest:?}");
}

/// The share of the corrupt mix in the first hops of client 0: on average and at the most, and how often the gateway was blamed, while
/// it drops what is for the first `losers` of the three others.
fn share_of(seed: u64, reports: bool, losers: usize, span: Duration) -> (f64, f64, u64) {
    let plan = Plan {
        reports,
        ..three_by_four(seed)
    };
    let mut net = network(plan, 0);
    let entry = net.document().gateways().find(|g| g.exit.is_none()).unwrap().id;
    let first: Vec<NodeId> = net.document().layer(1).map(|mix| mix.id).collect();
    let begun = net.now() + Duration::from_secs(12);
    net.run_until(begun);
    let dropped: BTreeSet<NodeId> = first[..losers].iter().copied().collect();
    net.attack(Box::new(move |from, to| *from == entry && dropped.contains(to)));
    let (mut sum, mut most, mut n) = (0.0, 0.0_f64, 0.0);
    while net.now() < begun + span {
        let next = net.now() + Duration::from_millis(100);
        net.run_until(next);
        // Routes are drawn evenly among those that are not left out.
        let avoided = net.client(0).avoided();
        assert!(!avoided.contains(&first[3]), "the corrupt one does nothing");
        let open = first.iter().filter(|mix| !avoided.contains(mix)).count();
        sum += 1.0 / open as f64;
        most = most.max(1.0 / open as f64);
        n += 1.0;
    }
    (sum / n, most, net.client(0).counters().get("gateway.blamed"))
}

#[test]
fn a_gateway_that_drops_by_first_mix_is_blamed_and_its_clients_routes_stay() {
    for losers in [1, 3] {
        let (average, most, blamed) = share_of(5, true, losers, Duration::from_secs(40));
        println!("drops for {losers} of 4: {average:.3}, at most {most:.3}, blamed {blamed} times");
        assert!(blamed > 0, "{losers} losers");
        assert!(most <= 0.25 * 1.1, "{losers} losers: {most}");
    }
}

#[test]
fn without_what_nodes_publish_at_most_one_mix_of_a_layer_is_left_out() {
    let (average, most, blamed) = share_of(6, false, 3, Duration::from_secs(40));
    println!(
        "drops for 3 of 4, nothing is published: {average:.3}, at most {most:.3}, blamed {blamed} times"
    );
    assert!(blamed > 0);
    assert!(average <= 0.25 * 1.1, "{average}");
    assert!(most <= 1.0 / 3.0 + 1e-9, "{most}");
}

#[test]
fn a_client_moves_away_from_a_gateway_that_drops_what_comes_after_its_admission() {
    let plan = Plan {
        entries: 3,
        ..three_by_four(7)
    };
    let mut net = network(plan, 20_000);
    let begun = net.now() + Duration::from_secs(12);
    net.run_until(begun);
    let own = net.document().gateways().find(|g| g.exit.is_none()).unwrap().id;
    net.attack(Box::new(move |from, to| *from == own || *to == own));
    let until = begun + Duration::from_secs(180);
    while net.client(0).wants_another().is_none() && net.now() < until {
        net.step();
    }
    let took = net.now().since(begun);
    assert_eq!(net.client(0).wants_another(), Some(Why::LosesPackets));
    println!("blamed twice after {took:?}");
    // Once may be a bad moment: it waits until it is blamed again, a minute later.
    assert!(
        (60..120).contains(&took.as_secs()),
        "{took:?} after the gateway began to drop all"
    );
    assert!(net.client(0).is_up(), "the gateway itself answers as ever");

    let entries: Vec<NodeId> = net
        .document()
        .gateways()
        .filter(|g| g.exit.is_none())
        .map(|g| g.id)
        .collect();
    let (mut moves, mut rng) = (Moves::default(), Rng::seed_from_u64(1));
    let next = moves.next(net.now(), own, entries.into_iter(), &mut rng).unwrap();
    assert_ne!(next, own);
    net.move_client(0, &next).unwrap();
    moves.moved(net.now(), own);
    let moved = net.now();
    net.run_until(moved + Duration::from_secs(12));
    let tally = net.client(0).loops();
    assert!(tally.returned > 30 && tally.lost == 0, "{tally:?}");
    let key = net.open(0, fresh("files.test", FILE_PORT)).unwrap();
    write_all(&mut net, 0, key, b"GET");
    let (got, _) = read_to_end(&mut net, 0, key, Duration::from_secs(60));
    assert_eq!(got, pattern(20_000));
    assert_eq!(net.client(0).wants_another(), None);
}

/// When packets leave the client and come back to it, and how many mixes its routes left out.
fn seen(seed: u64, kill: bool) -> (Vec<Time>, Vec<Time>, usize) {
    let mut net = network(three_by_four(seed), 0);
    net.watch();
    let begun = net.now();
    net.run_until(begun + Duration::from_secs(6));
    if kill {
        victims(&net, seed).iter().for_each(|mix| net.stop(mix));
    }
    net.run_until(begun + Duration::from_secs(18));
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for sighting in net.sightings() {
        match sighting {
            Sighting::Uplink { at, .. } => up.push(at),
            Sighting::Downlink { at, .. } => down.push(at),
            _ => {}
        }
    }
    (up, down, net.client(0).avoided().iter().count())
}

#[test]
fn a_client_that_leaves_mixes_out_changes_its_routes_and_never_its_speed() {
    let (up, down, none) = seen(9, false);
    let (up_without, down_without, avoided) = seen(9, true);
    assert_eq!((none, avoided), (0, 4));
    assert!(up.len() > 500, "{}", up.len());
    assert_eq!(up, up_without, "microsecond by microsecond");
    assert_eq!(down, down_without, "microsecond by microsecond");
}
