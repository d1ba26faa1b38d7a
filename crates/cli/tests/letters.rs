//! Letters between two people through a network of separate processes.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests: how long things take is measured"
)]

mod common;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Instant;

use common::letters::{DELIVERY_S, Said, command};
use common::processes::{Made, Processes};
use common::{pattern, poll_until};
use serde_json::{Value, json};

const FILE: usize = 200_000;

#[test]
fn texts_and_files_come_as_they_were_sent_and_who_was_accepted_hears_that_they_were_read() {
    let network = Processes::start(Made::pair("talk", &[]));
    let folder = network.made.dir.0.clone();
    let (one, two) = (network.address("client-1"), network.address("client-2"));
    assert_ne!(one, two);

    // A text from standard input, to standard output.
    let text = folder.join("text");
    std::fs::write(&text, "Grüße,\nthe cat is fed").unwrap();
    let sent = network.ask_with("client-1", &["send", &two, "-"], &text);
    assert!(sent.good().starts_with("stored: "));
    let got = network.ask("client-2", &["receive", "--timeout", DELIVERY_S]);
    assert_eq!(
        (got.code, got.out.as_str(), got.err.as_str()),
        (Some(0), "Grüße,\nthe cat is fed\n", "anonymous\n")
    );

    // A file, to standard output; a text as JSON, the other way.
    let file = folder.join("cat.jpg");
    std::fs::write(&file, pattern(FILE)).unwrap();
    let start = Instant::now();
    let sent = network
        .ask("client-1", &["send", &two, file.to_str().unwrap(), "--json"])
        .json();
    println!("{FILE} bytes stored after {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(
        (&sent[0]["bytes"], &sent[0]["result"]),
        (&json!(FILE), &json!("stored"))
    );
    let receive = ["receive", "-o", "-", "--timeout", DELIVERY_S];
    let got = command(&network.made.state("client-2"), &receive)
        .output()
        .unwrap();
    assert!(got.status.success() && got.stdout == pattern(FILE));
    network
        .ask("client-2", &["send", &one, "--text", "pretty"])
        .good();
    let got = network
        .ask("client-1", &["receive", "--json", "--timeout", DELIVERY_S])
        .json();
    assert_eq!(
        (&got[0]["text"], &got[0]["kind"], &got[0]["from"]),
        (&json!("pretty"), &json!("text"), &Value::Null)
    );

    // Signed, to somebody who accepted the sender: he is known by name, and hears when it is read.
    network.ask("client-2", &["accept", &one, "--name", "One"]).good();
    let file = file.to_str().unwrap();
    let waiting = network.begin(
        "client-1",
        &[
            "send",
            &two,
            file,
            "--sign",
            "--wait-read",
            "--timeout",
            DELIVERY_S,
        ],
    );
    let into = folder.join("in");
    std::fs::create_dir(&into).unwrap();
    let receive = [
        "receive",
        "--json",
        "--timeout",
        DELIVERY_S,
        "--dir",
        into.to_str().unwrap(),
    ];
    let got = network.ask("client-2", &receive).json();
    assert_eq!(
        (&got[0]["from"], &got[0]["known_as"], &got[0]["name"]),
        (&json!(one), &json!("One"), &json!("cat.jpg"))
    );
    assert!(std::fs::read(into.join("cat.jpg")).unwrap() == pattern(FILE));
    let said = Said::by(waiting).good();
    let steps: Vec<_> = said
        .lines()
        .map(|line| line.split_once(": ").unwrap().0)
        .collect();
    assert_eq!(steps, ["stored", "read"], "{said}");

    // Nobody accepted the other one: he asks in vain, and says when he stops waiting.
    let ask = ["send", &one, "--text", "did you?", "--sign", "--wait-read"];
    let asking = network.begin("client-2", &[&ask[..], &["--timeout", "15"]].concat());
    let got = network
        .ask("client-1", &["receive", "--json", "--timeout", DELIVERY_S])
        .json();
    assert_eq!(
        (&got[0]["from"], &got[0]["known_as"]),
        (&json!(two), &Value::Null)
    );
    Said::by(asking).complains(3, "nobody said that it was read");

    // What became of them all.
    let outbox = network.outbox("client-1");
    let stages: Vec<_> = outbox["letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| &l["stage"]["is"])
        .collect();
    assert_eq!(stages, ["stored", "stored", "read"]);
    for client in network.made.clients() {
        network.assert_empty(&client);
    }
    network.stop_all();
}

#[test]
fn a_letter_waits_for_its_receiver_at_a_gateway_that_is_killed_meanwhile() {
    let mut network = Processes::start(Made::pair("wait", &["--transport", "tcp"]));
    let folder = network.made.dir.0.clone();
    let two = network.address("client-2");
    network.stop("client-2");
    assert_eq!(
        network.address("client-2"),
        two,
        "an address is known while its client is off"
    );
    let file = folder.join("a file.bin");
    std::fs::write(&file, pattern(FILE)).unwrap();
    let send = ["send", &two, file.to_str().unwrap(), "--timeout", DELIVERY_S];
    assert!(network.ask("client-1", &send).good().starts_with("stored: "));
    // Once before its receiver is there, and once while he fetches it.
    network.kill("gateway-2");
    network.restart("gateway-2");
    network.restart("client-2");
    network.kill("gateway-2");
    network.restart("gateway-2");
    let into = folder.join("in");
    std::fs::create_dir(&into).unwrap();
    let start = Instant::now();
    let receive = [
        "receive",
        "--timeout",
        DELIVERY_S,
        "--dir",
        into.to_str().unwrap(),
    ];
    let said = network.ask("client-2", &receive).good();
    println!("there {:.1} s after the gateway", start.elapsed().as_secs_f64());
    assert!(said.contains("a file.bin (200.0 kB)"), "{said}");
    assert!(std::fs::read(into.join("a file.bin")).unwrap() == pattern(FILE));
    // It came once: neither gateway nor sender have it left, and a text that follows is the next.
    network.ask("client-1", &["send", &two, "--text", "next"]).good();
    let next = network.ask("client-2", &["receive", "--timeout", DELIVERY_S]);
    assert_eq!(next.good(), "next\n");
    network.assert_empty("client-2");
    network.stop_all();
}

#[test]
fn many_small_letters_at_once_come_once_each() {
    const EACH: usize = 30;
    let network = Processes::start(Made::pair("many", &[]));
    let start = Instant::now();
    for (client, other) in [("client-1", "client-2"), ("client-2", "client-1")] {
        let to = network.address(other);
        for n in 0..EACH {
            // 200 bytes and some.
            let text = format!("{n} from {client} {}", "x".repeat(180));
            let sent = network
                .ask(client, &["send", &to, "--text", &text, "--no-wait"])
                .good();
            assert!(sent.starts_with("queued: "), "{sent}");
        }
    }
    for (client, other) in [("client-1", "client-2"), ("client-2", "client-1")] {
        let count = EACH.to_string();
        let receive = ["receive", "--json", "--count", &count, "--timeout", DELIVERY_S];
        let got = network.ask(client, &receive).json();
        let texts: BTreeSet<_> = got.iter().map(|l| l["text"].as_str().unwrap()).collect();
        assert_eq!(texts.len(), EACH, "each once");
        for n in 0..EACH {
            let begin = format!("{n} from {other} ");
            assert!(texts.iter().any(|text| text.starts_with(&begin)), "{begin}");
        }
    }
    println!(
        "{} letters after {:.1} s",
        2 * EACH,
        start.elapsed().as_secs_f64()
    );
    for client in network.made.clients() {
        poll_until("all are stored", || {
            let outbox = network.outbox(&client);
            let letters = outbox["letters"].as_array().unwrap().clone();
            assert_eq!(letters.len(), EACH);
            letters.iter().all(|l| l["stage"]["is"] == "stored").then_some(())
        });
        network.assert_empty(&client);
    }
    network.stop_all();
}

#[test]
fn a_letter_that_can_not_be_written_stays_and_no_file_is_overwritten() {
    let network = Processes::start(Made::pair("write", &["--transport", "tcp"]));
    let folder = network.made.dir.0.clone();
    let to = network.address("client-2");
    let file = folder.join("name.txt");
    std::fs::write(&file, pattern(20_000)).unwrap();
    let send = ["send", &to, file.to_str().unwrap(), "--timeout", DELIVERY_S];
    network.ask("client-1", &send).good();
    network.await_letters("client-2", 1);
    let state = network.made.state("client-2");
    let receive = ["receive", "-o", "-"];

    // A disk that is full, and a reader that has gone.
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        let mut broken = command(&state, &receive);
        let said = broken.stdout(full).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8(said.stderr).unwrap();
        assert!(
            said.status.code() == Some(1) && err.contains("stays in the inbox"),
            "{err}"
        );
    } else {
        println!("SKIPPED in part: there is no /dev/full here");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut broken = command(&state, &receive);
    let said = broken.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    let err = String::from_utf8(said.stderr).unwrap();
    assert!(
        said.status.code() == Some(1) && err.contains("stays in the inbox"),
        "{err}"
    );
    // A folder that isn't there, a file that is, and a folder that is a file.
    let missing = folder.join("missing");
    let said = network.ask("client-2", &["receive", "--dir", missing.to_str().unwrap()]);
    said.complains(1, "there is no folder");
    let taken = folder.join("taken");
    std::fs::write(&taken, "mine").unwrap();
    let said = network.ask("client-2", &["receive", "-o", taken.to_str().unwrap()]);
    said.complains(1, "is there already, and nothing is overwritten");
    let said = network.ask(
        "client-2",
        &["receive", "-o", taken.join("below").to_str().unwrap()],
    );
    said.complains(1, "stays in the inbox");

    // It is still there, and a name that is taken gets a number.
    let into = folder.join("in");
    std::fs::create_dir(&into).unwrap();
    std::fs::write(into.join("name.txt"), "mine").unwrap();
    let said = network
        .ask("client-2", &["receive", "--dir", into.to_str().unwrap()])
        .good();
    assert!(said.contains("name (2).txt"), "{said}");
    assert!(std::fs::read(into.join("name (2).txt")).unwrap() == pattern(20_000));
    assert_eq!(std::fs::read(into.join("name.txt")).unwrap(), b"mine");
    assert_eq!(std::fs::read(&taken).unwrap(), b"mine");
    assert_eq!(
        std::fs::read_dir(&into).unwrap().count(),
        2,
        "nothing else is left"
    );
    network.assert_empty("client-2");
    network.stop_all();
}
