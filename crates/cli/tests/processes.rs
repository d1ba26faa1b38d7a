//! Each role in a process of its own, made by `mizzle network init`: downloads through them, and any of them killed and
//! started again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests: how long things take is measured"
)]

mod common;

use std::time::{Duration, Instant};

use common::processes::{Made, Processes};
use common::{LIMIT, Web, has_curl, pattern};

const FILE: usize = 20_000;
/// From the start of a process that was killed until traffic flows again.
const BACK: Duration = Duration::from_secs(30);

#[track_caller]
fn assert_download(network: &Processes, client: &str, web: &Web) {
    let got = network.curl(client, &web.url(FILE), 60);
    assert_eq!(got.code, Some(0), "{}", got.stderr);
    assert!(got.body == pattern(FILE), "{} wrong bytes", got.body.len());
}

/// Asks again and again until the bytes are right.
#[track_caller]
fn assert_flows_again(network: &Processes, what: &str, web: &Web) {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let got = network.curl("client-1", &web.url(FILE), 5);
        if got.code == Some(0) {
            assert!(got.body == pattern(FILE), "{what}: wrong bytes");
            println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
            assert!(start.elapsed() < BACK, "{what}: only after {:?}", start.elapsed());
            return;
        }
    }
    panic!("{what}: nothing within {LIMIT:?}");
}

#[test]
fn a_network_of_thirteen_processes_carries_downloads_over_quic() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    let network = Processes::start(Made::new("thirteen", &[]));
    assert_eq!(network.ready.len(), 13);
    let roles = |role: &str| network.ready.values().filter(|r| r["role"] == role).count();
    assert_eq!(
        (roles("mix"), roles("gateway"), roles("gateway with exit")),
        (9, 1, 2)
    );
    assert_download(&network, "client-1", &web);
    // The exits may reach this machine's web server, never the network itself.
    let port = network.socks("client-1").port();
    let nodes = network.made.said["nodes"].as_array().unwrap();
    let address = nodes[0]["address"].as_str().unwrap().split('/').nth(4).unwrap();
    network
        .curl("client-1", &format!("http://127.0.0.1:{address}/"), 60)
        .assert_refused(2);
    assert_ne!(port, 0);
    network.stop_all();
}

#[test]
fn two_clients_download_over_tcp() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    let flags = ["--transport", "tcp", "--clients", "2"];
    let network = Processes::start(Made::small("tcp", &flags));
    assert_download(&network, "client-1", &web);
    assert_download(&network, "client-2", &web);
    assert_ne!(
        network.ready["client-1"]["client"], network.ready["client-2"]["client"],
        "each has an identity of its own"
    );
    network.stop_all();
}

fn any_process_comes_back(transport: &str) {
    let web = Web::start();
    let mut network = Processes::start(Made::small(
        &format!("back-{transport}"),
        &["--transport", transport],
    ));
    assert_download(&network, "client-1", &web);
    let client = network.ready["client-1"]["client"].clone();
    for name in [
        "mix-1-1",
        "mix-2-1",
        "mix-3-1",
        "gateway-1",
        "gateway-2",
        "client-1",
    ] {
        network.kill(name);
        network.restart(name);
        assert_flows_again(&network, &format!("{transport}, {name} killed"), &web);
    }
    assert_eq!(
        network.ready["client-1"]["client"], client,
        "it is still the same one"
    );
    // In order, and away for a while.
    for name in ["mix-2-1", "gateway-2"] {
        network.stop(name);
        let got = network.curl("client-1", &web.url(FILE), 3);
        assert_ne!(got.code, Some(0), "without {name} nothing flows");
        network.restart(name);
        assert_flows_again(&network, &format!("{transport}, {name} stopped"), &web);
    }
    network.stop_all();
}

#[test]
fn any_process_that_is_killed_comes_back_over_quic() {
    if has_curl() {
        any_process_comes_back("quic");
    }
}

#[test]
fn any_process_that_is_killed_comes_back_over_tcp() {
    if has_curl() {
        any_process_comes_back("tcp");
    }
}
