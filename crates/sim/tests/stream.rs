//! Streams through the cores of client, gateway, mixes and exit under one clock.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use std::time::Duration;

use common::*;
use mizzle_base::Profile;
use mizzle_sim::Plan;
use mizzle_stream::OpenError;

const S: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn one_message_reaches_the_exit_and_its_answer_the_client() {
    let mut net = network(Plan::default(), 0);
    let key = net.open(0, fresh("files.test", ECHO_PORT)).unwrap();
    await_open(&mut net, 0, key, S(10)).unwrap();
    write_all(&mut net, 0, key, b"who is there?");
    net.finish(0, key);
    let (got, _) = read_to_end(&mut net, 0, key, S(30));
    assert_eq!(got, b"who is there?");
}

#[test]
fn a_file_arrives_whole_near_the_ceiling() {
    let size = 1_000_000;
    let mut net = network(
        Plan {
            profile: Profile::bulk(),
            ..Plan::default()
        },
        size,
    );
    let begun = net.now();
    let key = net.open(0, fresh("files.test", FILE_PORT)).unwrap();
    await_open(&mut net, 0, key, S(10)).unwrap();
    write_all(&mut net, 0, key, b"GET");
    let (got, at) = read_to_end(&mut net, 0, key, S(60));
    assert!(got == pattern(size), "content");
    let rate = size as f64 / at.since(begun).as_secs_f64();
    let share = rate / Profile::bulk().ceiling_down_bytes_per_s(0.8);
    println!(
        "1 MB in bulk, connection included: {:.0} % of the ceiling",
        share * 100.0
    );
    // Opening takes half of the time that such a short transfer needs; the long one is measured on real sockets.
    assert!(share > 0.5, "{share}");
}

#[test]
fn an_upload_arrives_whole() {
    let mut net = network(
        Plan {
            profile: Profile::bulk(),
            ..Plan::default()
        },
        0,
    );
    let key = net.open(0, fresh("files.test", ECHO_PORT)).unwrap();
    await_open(&mut net, 0, key, S(10)).unwrap();
    let data = pattern(300_000);
    write_all(&mut net, 0, key, &data);
    net.finish(0, key);
    let (got, _) = read_to_end(&mut net, 0, key, S(60));
    assert!(got == data);
}

#[test]
fn a_file_arrives_whole_over_links_that_lose_one_packet_in_twenty() {
    for seed in 1..=3 {
        let size = 200_000;
        let plan = Plan {
            seed,
            profile: Profile::bulk(),
            loss: 0.05,
            ..Plan::default()
        };
        let mut net = network(plan, size);
        let key = net.open(0, fresh("files.test", FILE_PORT)).unwrap();
        await_open(&mut net, 0, key, S(30)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        write_all(&mut net, 0, key, b"GET");
        let (got, _) = read_to_end(&mut net, 0, key, S(120));
        assert!(got == pattern(size), "seed {seed}");
    }
}

#[test]
fn a_client_hears_the_real_reason_why_a_stream_was_not_opened() {
    let mut net = network(Plan::default(), 0);
    for (name, port, why) in [
        ("nowhere.test", 80, OpenError::NameNotFound),
        ("files.test", 81, OpenError::ConnectionRefused),
        ("inside.test", 80, OpenError::Refused),
    ] {
        let key = net.open(0, fresh(name, port)).unwrap();
        assert_eq!(await_open(&mut net, 0, key, S(10)), Err(why), "{name}:{port}");
    }
    let inside = |a: &std::net::SocketAddr| a.ip().is_loopback() || a.to_string().starts_with("10.");
    assert!(
        !net.outside().connects.iter().any(inside),
        "the exit asked the policy before it connected"
    );
}

#[test]
fn without_an_exit_elsewhere_opening_is_an_error_at_once() {
    let mut net = network(
        Plan {
            exits: 0,
            ..Plan::default()
        },
        0,
    );
    assert_eq!(
        net.open(0, fresh("files.test", 80)).unwrap_err(),
        OpenError::NoExit
    );
}

#[test]
fn a_reset_stream_closes_the_connection_outside_and_its_neighbour_goes_on() {
    let mut net = network(Plan::default(), 5_000);
    let gone = net.open(0, fresh("files.test", ECHO_PORT)).unwrap();
    await_open(&mut net, 0, gone, S(10)).unwrap();
    net.reset(0, gone);
    let key = net.open(0, fresh("files.test", FILE_PORT)).unwrap();
    await_open(&mut net, 0, key, S(10)).unwrap();
    write_all(&mut net, 0, key, b"GET");
    assert_eq!(read_to_end(&mut net, 0, key, S(30)).0, pattern(5_000));
    assert_eq!(net.write(0, gone, b"x"), 0);
}

#[test]
fn thirty_streams_at_once_all_arrive() {
    let mut net = network(
        Plan {
            profile: Profile::bulk(),
            ..Plan::default()
        },
        20_000,
    );
    let keys: Vec<_> = (0..30)
        .map(|_| net.open(0, fresh("files.test", FILE_PORT)).unwrap())
        .collect();
    let mut got = vec![Vec::new(); keys.len()];
    let mut ended = 0;
    let until = net.now() + S(60);
    while ended < keys.len() {
        assert!(net.now() < until, "{ended} of 30 ended");
        net.step();
        for (key, event) in net.events(0) {
            match event {
                mizzle_client::StreamEvent::Opened => assert_eq!(net.write(0, key, b"GET"), 3),
                mizzle_client::StreamEvent::Ended => ended += 1,
                mizzle_client::StreamEvent::Failed(why) => panic!("{why}"),
                _ => {}
            }
        }
        for (key, got) in keys.iter().zip(&mut got) {
            got.extend(net.read(0, *key));
        }
    }
    assert!(got.iter().all(|g| *g == pattern(20_000)));
}
