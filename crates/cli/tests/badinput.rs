//! What people and machines do wrong with letters, in a network of separate processes: a clear error each, nothing lost.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests: deadlines are in real time"
)]

mod common;

use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bech32::{Bech32m, Hrp};
use common::letters::{DELIVERY, DELIVERY_S};
use common::processes::{Made, Processes};
use common::{LIMIT, pattern, poll_until};
use mizzle_base::NetworkId;
use mizzle_base::address::Address;

/// The same address but for one character.
fn mistyped(address: &str) -> String {
    let (rest, last) = address.split_at(address.len() - 1);
    let wrong = if last == "q" { "p" } else { "q" };
    format!("{rest}{wrong}")
}

fn of_other_network(address: &str) -> String {
    let own: Address = address.parse().unwrap();
    let other = NetworkId::new([7; 32]);
    let other = Address::new(&other, *own.seal_key(), own.mailboxes().to_vec());
    other.unwrap().to_string()
}

fn of_later_version(address: &str) -> String {
    let mut bytes = address.parse::<Address>().unwrap().to_bytes();
    bytes[0] += 1;
    bech32::encode::<Bech32m>(Hrp::parse("mizzle").unwrap(), &bytes).unwrap()
}

/// With the mailbox of nobody.
fn of_nobody(address: &str) -> String {
    let mut bytes = address.parse::<Address>().unwrap().to_bytes();
    *bytes.last_mut().unwrap() ^= 1;
    Address::from_bytes(&bytes).unwrap().to_string()
}

#[test]
fn addresses_that_lead_nowhere_and_clients_that_do_not_run_are_told_apart() {
    let mut network = Processes::start(Made::pair("addresses", &["--transport", "tcp"]));
    let good = network.address("client-2");
    let send = |network: &Processes, to: &str| {
        network.ask(
            "client-1",
            &["send", to, "--text", "hello", "--timeout", DELIVERY_S],
        )
    };
    send(&network, &mistyped(&good)).complains(1, "has a typing error");
    send(&network, "bob@example.org").complains(1, "not a mizzle address");
    send(&network, &of_later_version(&good)).complains(1, "version 2, and this program knows version 1");
    send(&network, &of_other_network(&good)).complains(1, "belongs to another network");
    let outbox = network.outbox("client-1");
    assert_eq!(
        outbox["letters"].as_array().unwrap().len(),
        0,
        "nothing was queued: {outbox}"
    );
    // What only the gateway knows takes its way there.
    send(&network, &of_nobody(&good)).complains(4, "no such mailbox");
    send(&network, &good).good();

    // No client: after an end in order, and after one that left its socket behind.
    network.stop("client-1");
    send(&network, &good).complains(5, "start it with `mizzle client run`");
    network.kill("client-2");
    let receive = network.ask("client-2", &["receive"]);
    receive.complains(5, "start it with `mizzle client run`");
    network.restart("client-2");
    let got = network.ask("client-2", &["receive", "--timeout", DELIVERY_S]);
    assert_eq!(got.good(), "hello\n");
    network.assert_empty("client-2");
    let late = network.ask("client-2", &["receive", "--timeout", "0.5"]);
    late.complains(3, "no letter came within 0.5 s");
    network.stop_all();
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// Fetches letters until this one comes; the others. What a client had not yet acknowledged when its place was taken comes
/// to its twin too.
#[track_caller]
fn fetch(network: &Processes, client: &str, wanted: &str) -> Vec<String> {
    let give_up = Instant::now() + DELIVERY;
    let mut others = Vec::new();
    while Instant::now() < give_up {
        let said = network.ask(client, &["receive", "--timeout", DELIVERY_S]);
        assert_eq!(
            said.code,
            Some(0),
            "{client}: {wanted} did not come, but {others:?}: {said:?}"
        );
        match said.out.trim() {
            text if text == wanted => return others,
            text => others.push(text.to_owned()),
        }
    }
    panic!("{client}: {wanted} did not come, but {others:?}");
}

#[test]
fn of_two_clients_with_one_identity_the_newer_stays_and_no_letter_is_lost() {
    let mut network = Processes::start(Made::pair("twins", &[]));
    let to = network.address("client-2");
    network.stop("client-2");
    // As somebody does who moves to another machine, and forgets the first.
    copy(&network.made.folder("client-2"), &network.made.folder("client-3"));
    network.restart("client-2");
    let send = |network: &Processes, text: &str| {
        let args = ["send", &to, "--text", text, "--timeout", DELIVERY_S];
        network.ask("client-1", &args).good();
    };
    send(&network, "first");
    network.await_letters("client-2", 1);
    let gives_way = |network: &mut Processes, old: &str, new: &str| {
        network.restart(new);
        let mut old = network.take(old);
        assert_eq!(old.ended(LIMIT).code(), Some(1));
        let said = old.stderr();
        assert!(
            said.contains("another client runs with the same identity"),
            "{said}"
        );
        assert_eq!(old.stdout_rest(), "");
    };
    gives_way(&mut network, "client-2", "client-3");
    assert_eq!(network.address("client-3"), to, "it is the same person");
    send(&network, "second");
    let others = fetch(&network, "client-3", "second");
    assert!(others.iter().all(|text| text == "first"), "{others:?}");
    // Back to the first machine: what was on its disk is there.
    gives_way(&mut network, "client-3", "client-2");
    assert_eq!(fetch(&network, "client-2", "first"), [""; 0]);
    send(&network, "third");
    let others = fetch(&network, "client-2", "third");
    assert!(others.iter().all(|text| text == "second"), "{others:?}");
    network.stop_all();
}

/// A small disk of its own, full when told so; gone when dropped.
struct Disk {
    path: PathBuf,
    ballast: Option<std::fs::File>,
}

impl Disk {
    /// `None`, and a word, where this isn't allowed.
    fn mount(path: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=48m,mode=0700", "tmpfs"])
            .arg(path);
        if !mount.output().is_ok_and(|done| done.status.success()) {
            println!("SKIPPED: a small disk can't be mounted here");
            return None;
        }
        Some(Self {
            path: path.to_owned(),
            ballast: None,
        })
    }

    /// Leaves room for so many bytes.
    fn fill(&mut self, room: u64) {
        let path = self.path.join("ballast");
        let mut ballast = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        while ballast.write_all(&[0; 4_096]).is_ok() {}
        let len = ballast.stream_position().unwrap();
        ballast.set_len(len.saturating_sub(room)).unwrap();
        self.ballast = Some(ballast);
    }

    fn empty(&mut self) {
        self.ballast.take().unwrap().set_len(0).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever has files there may still be about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

const FILE: usize = 200_000;

#[test]
fn a_client_whose_disk_is_full_says_so_and_takes_the_letter_when_there_is_room() {
    let mut network = Processes::start(Made::pair("inbox-full", &["--transport", "tcp"]));
    let folder = network.made.dir.0.clone();
    let to = network.address("client-2");
    network.stop("client-2");
    let Some(mut disk) = Disk::mount(&network.made.state("client-2").join("mail/inbox")) else {
        return;
    };
    network.restart("client-2");
    disk.fill(60_000);
    let file = folder.join("big");
    std::fs::write(&file, pattern(FILE)).unwrap();
    let send = ["send", &to, file.to_str().unwrap(), "--timeout", DELIVERY_S];
    network.ask("client-1", &send).good();
    let problem = poll_until("it says that the disk is full", || {
        let problem = network.outbox("client-2")["inbox"]["problem"].clone();
        problem.as_str().map(str::to_owned)
    });
    assert!(
        problem.contains("no more letters come until there is room on the disk"),
        "{problem}"
    );
    network.assert_empty("client-2");
    disk.empty();
    let got = folder.join("got");
    let receive = ["receive", "-o", got.to_str().unwrap(), "--timeout", DELIVERY_S];
    network.ask("client-2", &receive).good();
    assert!(std::fs::read(&got).unwrap() == pattern(FILE));
    assert!(
        network.outbox("client-2")["inbox"]["problem"].is_null(),
        "and it is over"
    );
    network.assert_empty("client-2");
    let mut client = network.take("client-2");
    client.signal("TERM");
    assert_eq!(client.ended(LIMIT).code(), Some(0));
    let said = client.stderr();
    assert_eq!(
        said.matches("until there is room").count(),
        1,
        "said once: {said}"
    );
    network.stop_all();
}

#[test]
fn a_gateway_whose_disk_is_full_refuses_letters_and_takes_them_when_there_is_room() {
    let made = Made::pair("store-full", &["--transport", "tcp"]);
    let folder = made.dir.0.clone();
    let store = made.state("gateway-2").join("mail");
    std::fs::create_dir(&store).unwrap();
    let Some(mut disk) = Disk::mount(&store) else {
        return;
    };
    let mut network = Processes::start(made);
    let to = network.address("client-2");
    // One that it has before, and keeps.
    network.stop("client-2");
    network
        .ask(
            "client-1",
            &["send", &to, "--text", "before", "--timeout", DELIVERY_S],
        )
        .good();
    disk.fill(60_000);
    let file = folder.join("big");
    std::fs::write(&file, pattern(FILE)).unwrap();
    let late = network.ask(
        "client-1",
        &["send", &to, file.to_str().unwrap(), "--timeout", "12"],
    );
    late.complains(3, "which goes on for up to 7 days");
    let problem = poll_until("the sender sees that it isn't taken", || {
        let outbox = network.outbox("client-1");
        let letters = outbox["letters"].as_array().unwrap().clone();
        assert_eq!(letters.len(), 2);
        assert_eq!(letters[1]["stage"]["is"], "waiting", "never said to be stored");
        letters[1]["problem"].as_str().map(str::to_owned)
    });
    println!("what the sender sees: {problem}");
    disk.empty();
    poll_until("it is stored", || {
        let outbox = network.outbox("client-1");
        (outbox["letters"][1]["stage"]["is"] == "stored").then_some(())
    });
    network.restart("client-2");
    let got = network.ask("client-2", &["receive", "--timeout", DELIVERY_S]);
    assert_eq!(got.good(), "before\n");
    let path = folder.join("got");
    let receive = ["receive", "-o", path.to_str().unwrap(), "--timeout", DELIVERY_S];
    network.ask("client-2", &receive).good();
    assert!(std::fs::read(&path).unwrap() == pattern(FILE));
    network.assert_empty("client-2");
    let mut gateway = network.take("gateway-2");
    gateway.signal("TERM");
    assert_eq!(gateway.ended(LIMIT).code(), Some(0));
    let said = gateway.stderr();
    assert!(said.contains("no mail is taken until there is room"), "{said}");
    network.stop_all();
}
