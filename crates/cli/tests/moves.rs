//! A client whose gateway is gone moves to another one: once, with another address, and what was at the old one can be fetched.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::letters::{DELIVERY_S, Said};
use common::poll_until;
use common::processes::{Made, Processes};
use common::web::Web;
use serde_json::Value;

/// The gateways' ids, and the processes that they are.
fn gateways(made: &Made) -> BTreeMap<String, String> {
    let document = std::fs::read(made.dir.0.join("network.doc")).unwrap();
    let json = document.splitn(4, |&b| b == b'\n').nth(3).unwrap();
    let document: Value = serde_json::from_slice(json).unwrap();
    let listed = document["nodes"].as_array().unwrap();
    let named = made.said["nodes"].as_array().unwrap().iter().filter_map(|node| {
        let name = node["name"].as_str().unwrap();
        let is_it = |l: &&Value| l["addresses"][0] == node["address"];
        let id = listed.iter().find(is_it).unwrap()["id"].as_str().unwrap();
        name.starts_with("gateway")
            .then(|| (name.to_owned(), id.to_owned()))
    });
    named.collect()
}

/// Puts lines in front of a client's configuration, in the place of those with the same key.
fn configure(made: &Made, client: &str, lines: &[&str]) {
    let config = made.config(client);
    let text = std::fs::read_to_string(&config).unwrap();
    let key = |line: &str| line.split(" = ").next().unwrap_or_default().to_owned();
    let kept = text
        .lines()
        .filter(|line| lines.iter().all(|new| key(new) != key(line)));
    let all: Vec<&str> = lines.iter().copied().chain(kept).collect();
    std::fs::write(&config, all.join("\n") + "\n").unwrap();
}

fn status(network: &Processes, client: &str) -> Value {
    let config = network.made.config(client);
    let said = Said::by(common::Process::start(common::mizzle(&[
        "status",
        config.to_str().unwrap(),
        "--json",
    ])));
    said.json().remove(0)
}

fn own_gateway(network: &Processes, client: &str) -> String {
    let kept = std::fs::read_to_string(network.made.state(client).join("gateway")).unwrap();
    kept.trim().to_owned()
}

/// Sends a file from client-2, and waits until it is stored.
fn send(network: &Processes, to: &str, text: &str) {
    let file = network.made.dir.0.join("letter.txt");
    std::fs::write(&file, text).unwrap();
    let args = ["send", to, file.to_str().unwrap(), "--timeout", DELIVERY_S];
    assert!(network.ask("client-2", &args).good().starts_with("stored: "));
}

fn receive(network: &Processes, client: &str) -> String {
    let got = network.made.dir.0.join("got.txt");
    let _ = std::fs::remove_file(&got);
    let args = ["receive", "-o", got.to_str().unwrap(), "--timeout", DELIVERY_S];
    network.ask(client, &args).good();
    std::fs::read_to_string(&got).unwrap()
}

#[test]
fn a_client_whose_gateway_is_gone_moves_and_can_go_back_for_its_letters() {
    let shape = [
        "--mixes-per-layer",
        "1",
        "--gateways",
        "5",
        "--exits",
        "2",
        "--clients",
        "3",
    ];
    let made = Made::new("moves", &shape);
    let gateways = gateways(&made);
    let id = |n: usize| gateways[&format!("gateway-{n}")].clone();
    let name = |id: &str| gateways.iter().find(|(_, other)| *other == id).unwrap().0.clone();
    // Client 1 has two to choose from, client 2 another one, and client 3 shall stay where it is. The last two have exits.
    let two = format!("gateway = [\"{}\", \"{}\"]", id(1), id(2));
    configure(&made, "client-1", &[&two, "move_after_s = 3"]);
    configure(&made, "client-2", &[&format!("gateway = \"{}\"", id(4))]);
    configure(
        &made,
        "client-3",
        &[&format!("gateway = \"{}\"", id(3)), "move_after_s = 3"],
    );
    let mut network = Processes::start(made);
    let web = Web::start();
    assert!(network.curl("client-1", &web.url(1_000), 60).code == Some(0));
    let (old, old_address) = (own_gateway(&network, "client-1"), network.address("client-1"));
    send(&network, &old_address, "before");
    assert_eq!(status(&network, "client-1")["gateway_moves"], 0);

    network.kill(&name(&old));
    network.kill("gateway-3");
    let moved = poll_until("client-1 is with another gateway", || {
        let status = status(&network, "client-1");
        (status["gateway_moves"] == 1 && status["connected"] == true).then_some(status)
    });
    assert_eq!(moved["gateway_moved"]["from"], old.as_str());
    assert_eq!(moved["gateway_moved"]["why"], "the gateway is away for long");
    let new = own_gateway(&network, "client-1");
    assert_eq!(
        new,
        if old == id(1) { id(2) } else { id(1) },
        "of those that it was told"
    );
    let address = poll_until("it has another address", || {
        Some(network.address("client-1")).filter(|address| *address != old_address)
    });
    assert!(network.curl("client-1", &web.url(1_000), 60).code == Some(0));
    send(&network, &address, "after");
    // What came before the move may have been fetched by then; else it waits at the old gateway.
    let mut got = receive(&network, "client-1");
    let had_before = got == "before";
    if had_before {
        got = receive(&network, "client-1");
    }
    assert_eq!(got, "after");
    let client_3 = status(&network, "client-3");
    assert_eq!(client_3["gateway_moves"], 0, "exactly one was named: it stays");

    // The old one comes back. A letter to the old address is stored there, and waits.
    network.restart(&name(&old));
    send(&network, &old_address, "to the old address");
    assert_eq!(
        status(&network, "client-1")["gateway_moves"],
        1,
        "it doesn't go back by itself"
    );
    network.stop("client-1");
    configure(&network.made, "client-1", &[&format!("gateway = \"{old}\"")]);
    network.restart("client-1");
    if !had_before {
        assert_eq!(receive(&network, "client-1"), "before");
    }
    assert_eq!(receive(&network, "client-1"), "to the old address");
    assert_eq!(
        network.address("client-1"),
        old_address,
        "with the identity that this gateway knows"
    );
}
