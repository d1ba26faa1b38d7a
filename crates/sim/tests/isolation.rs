//! What a gateway and an exit see of a user: nothing that tells whose a packet is, or that two sessions are one user's.
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
use mizzle_base::{MailboxId, Profile};
use mizzle_sim::{Network, Plan, Sighting};
use mizzle_stream::{Isolation, OpenRequest};

/// The bodies of all messages that reached an exit's mailbox while `act` ran.
fn seen_by_the_exit(net: &mut Network, act: impl FnOnce(&mut Network)) -> Vec<Box<[u8]>> {
    net.watch();
    net.sightings();
    act(net);
    let keep = |s| match s {
        Sighting::LastHop { mailbox, message, .. } if mailbox != MailboxId::DROP => Some(message),
        _ => None,
    };
    net.sightings().into_iter().filter_map(keep).collect()
}

fn fetch(net: &mut Network, request: OpenRequest) {
    let key = net.open(0, request).unwrap();
    await_open(net, 0, key, Duration::from_secs(200)).unwrap();
    write_all(net, 0, key, b"GET");
    let (got, _) = read_to_end(net, 0, key, Duration::from_secs(300));
    assert_eq!(got, pattern(got.len().max(3_000)));
}

/// Eight-byte windows that two lists of messages have in common, padding and codec left out.
fn common_windows(a: &[Box<[u8]>], b: &[Box<[u8]>]) -> usize {
    let windows = |list: &[Box<[u8]>]| -> BTreeSet<[u8; 8]> {
        list.iter()
            .flat_map(|m| m[3..].windows(8).map(|w| w.try_into().unwrap()))
            .collect()
    };
    windows(a).intersection(&windows(b)).count()
}

#[test]
fn a_gateway_with_the_last_layer_off_learns_only_the_mailbox() {
    let mut net = network(Plan::default(), 100_000);
    let messages = seen_by_the_exit(&mut net, |net| fetch(net, fresh("files.test", FILE_PORT)));
    assert!(messages.len() > 10);
    for message in &messages {
        assert_eq!(message.len(), 3_968);
        assert_eq!(
            message[..3],
            messages[0][..3],
            "length and codec are the same for all"
        );
    }
    // Sealed content looks random: no two messages share eight bytes, nor does one with itself.
    for (i, message) in messages.iter().enumerate() {
        let rest = &messages[i + 1..];
        assert_eq!(
            common_windows(std::slice::from_ref(message), rest),
            0,
            "message {i}"
        );
        let distinct: BTreeSet<&[u8]> = message[3..].windows(8).collect();
        assert_eq!(
            distinct.len(),
            message.len() - 3 - 7,
            "message {i} repeats itself"
        );
    }
}

#[test]
fn streams_are_separate_sessions_unless_the_program_says_otherwise() {
    // Ten minutes of `chat` are few packets.
    let mut net = network(
        Plan {
            profile: Profile::chat(),
            ..Plan::default()
        },
        3_000,
    );
    let sessions = |net: &Network| net.client(0).counters().get("session.begun");
    let shared = |user: &[u8], host: &str| OpenRequest {
        target: target(host, FILE_PORT),
        isolation: Isolation::shared(user.to_vec(), b"p".to_vec()),
    };
    fetch(&mut net, fresh("files.test", FILE_PORT));
    fetch(&mut net, fresh("files.test", FILE_PORT));
    assert_eq!(sessions(&net), 2, "no password: each stream its own");
    fetch(&mut net, shared(b"a", "files.test"));
    fetch(&mut net, shared(b"a", "files.test"));
    assert_eq!(sessions(&net), 3, "same user and host: one session");
    fetch(&mut net, shared(b"b", "files.test"));
    assert_eq!(sessions(&net), 4, "another user");
    let _ = net.open(0, shared(b"a", "other.test")).unwrap();
    assert_eq!(sessions(&net), 5, "another host");
    let late = net.now() + Duration::from_secs(601);
    net.run_until(late);
    fetch(&mut net, shared(b"a", "files.test"));
    assert_eq!(sessions(&net), 6, "ten minutes later");
}

#[test]
fn isolated_sessions_share_nothing_that_an_exit_could_compare() {
    let mut net = network(Plan::default(), 30_000);
    let a = seen_by_the_exit(&mut net, |net| fetch(net, fresh("files.test", FILE_PORT)));
    let b = seen_by_the_exit(&mut net, |net| fetch(net, fresh("files.test", FILE_PORT)));
    assert_eq!(common_windows(&a, &b), 0);
}
