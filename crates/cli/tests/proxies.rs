//! Every kind of proxy through a network of separate processes, to a plain web server and to one with TLS.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use common::processes::{Made, Processes};
use common::{Curl, Web, curl, has_curl, pattern};

const FILE: usize = 20_000;

fn every_door_leads_out(transport: &str) {
    if !has_curl() {
        return;
    }
    let (plain, (tls, certificate)) = (Web::start(), Web::start_tls());
    let name = format!("doors-{transport}");
    let network = Processes::start(Made::small(&name, &["--transport", transport]));
    let ca = network.made.dir.0.join("ca.pem");
    std::fs::write(&ca, certificate).unwrap();
    let through = |scheme: &str, url: &str| {
        let mut command = curl(&format!("{scheme}://{}", network.socks("client-1")), url);
        command.arg("--cacert").arg(&ca);
        Curl::from(command.output().unwrap())
    };
    for scheme in ["socks5h", "socks4a", "http"] {
        for web in [&plain, &tls] {
            // By its name, so that SOCKS4a is one, and the exit has something to look up.
            let url = web.url(FILE).replace("127.0.0.1", "localhost");
            let got = through(scheme, &url);
            assert_eq!(got.code, Some(0), "{scheme} to {url}: {}", got.stderr);
            assert!(
                got.body == pattern(FILE),
                "{scheme} to {url}: {} wrong bytes",
                got.body.len()
            );
        }
    }
    // Each came from the exit over a connection of its own, none from curl.
    assert_eq!((plain.peers().len(), tls.peers().len()), (3, 3));
    // TLS is between curl and the web server: without its certificate curl doesn't trust what it meets.
    std::fs::write(&ca, Web::start_tls().1).unwrap();
    let got = through("http", &tls.url(FILE));
    assert_eq!(got.code, Some(60), "{}", got.stderr);
    network.stop_all();
}

#[test]
fn every_kind_of_proxy_leads_to_http_and_https_over_quic() {
    every_door_leads_out("quic");
}

#[test]
fn every_kind_of_proxy_leads_to_http_and_https_over_tcp() {
    every_door_leads_out("tcp");
}
