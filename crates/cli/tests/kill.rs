//! Each process of a network killed in turn, with a letter on its way.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests: how long things take is measured"
)]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::letters::{DELIVERY_S, Said};
use common::processes::{Made, Processes};
use common::{pattern, poll_until};

/// Some 80 items: several seconds at the rate of the profile.
const FILE: usize = 300_000;

/// How long a killed process is away: long enough for its peers to miss it.
const AWAY: Duration = Duration::from_secs(5);

/// Sends a file from client-1 to client-2 with this process killed and started again in the middle.
fn with_a_kill_of(network: &mut Processes, transport: &str, name: &str) {
    let folder = network.made.dir.0.clone();
    let (file, got) = (
        folder.join(format!("{name}.bin")),
        folder.join(format!("{name}.got")),
    );
    let mut data = pattern(FILE);
    data.extend(name.as_bytes());
    std::fs::write(&file, &data).unwrap();
    let to = network.address("client-2");
    let args = ["send", &to, file.to_str().unwrap(), "--timeout", DELIVERY_S];
    let sending = network.begin("client-1", &args);
    let receive = ["receive", "-o", got.to_str().unwrap(), "--timeout", DELIVERY_S];
    let receiving = network.begin("client-2", &receive);
    let waiting = |network: &Processes| {
        let outbox = network.outbox("client-1");
        let letters = outbox["letters"].as_array().unwrap();
        letters.iter().find(|l| l["stage"]["is"] == "waiting").cloned()
    };
    let letter = poll_until("the letter is on its way", || {
        waiting(network).filter(|letter| letter["items_sent"].as_u64() >= Some(25))
    });
    let letter = letter["letter"].as_str().unwrap();
    network.kill(name);
    let killed = Instant::now();
    thread::sleep(AWAY);
    network.restart(name);
    let ready = killed.elapsed().as_secs_f64();
    let sent = Said::by(sending);
    match name {
        "client-1" => {
            sent.complains(1, "the client stopped");
            sent.complains(1, &format!("letter {letter} is safe on its disk"));
            sent.complains(1, "`mizzle client run`");
        }
        _ => assert!(sent.good().starts_with("stored: "), "{name}"),
    }
    let received = Said::by(receiving);
    match name {
        "client-2" => {
            received.complains(1, "start it again with `mizzle client run`");
            assert!(!got.exists(), "nothing half written is left");
            network.ask("client-2", &receive).good();
        }
        _ => drop(received.good()),
    }
    let whole = killed.elapsed().as_secs_f64();
    assert!(std::fs::read(&got).unwrap() == data, "{name}: wrong bytes");
    println!(
        "{transport}, {name} killed with a letter on its way: ready again after {ready:.1} s, the letter there after {whole:.1} s"
    );
    poll_until("its sender knows that it is stored", || {
        waiting(network).is_none().then_some(())
    });
    network.assert_empty("client-2");
}

fn a_letter_arrives_whatever_is_killed(transport: &str) {
    let mut network = Processes::start(Made::pair(
        &format!("kill-{transport}"),
        &["--transport", transport],
    ));
    for name in network.made.nodes().into_iter().chain(network.made.clients()) {
        with_a_kill_of(&mut network, transport, &name);
    }
    network.stop_all();
}

#[test]
fn a_letter_arrives_once_whichever_process_is_killed_over_quic() {
    a_letter_arrives_whatever_is_killed("quic");
}

#[test]
fn a_letter_arrives_once_whichever_process_is_killed_over_tcp() {
    a_letter_arrives_whatever_is_killed("tcp");
}
