//! Mix cores and one clock: what passes, when, and what is dropped; their own loops.
//!
//! Nothing sleeps and all randomness has a seed, which stands in the message of a failed assertion.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content, NodeEntry, Role, ServiceEntry};
use mizzle_base::{Document, MailboxId, NodeId, Profile, Rng, Time, hex};
use mizzle_mix::{Action, Config, Delivered, Input, Mix, NotOurs};
use mizzle_sphinx::{
    ADDRESS_LEN, Dialect, HEADER_LEN, Hop, MESSAGE_LEN, PACKET_LEN, Packet, PublicKey, SecretKey, build,
    build_surb, pad, recover, unpad, use_surb,
};
use proptest::prelude::*;
use rand_core::{Rng as _, SeedableRng as _};

/// The nodes of [`document`]: two mixes a layer, two gateways, the first of them with an exit.
const L1: [u8; 2] = [1, 2];
const L2: [u8; 2] = [3, 4];
const L3: [u8; 2] = [5, 6];
const GATEWAYS: [u8; 2] = [7, 8];
const NODES: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// In no document.
const STRANGER: u8 = 99;

const START: Time = Time::from_s(15_000);
const HOUR: Duration = Duration::from_secs(3_600);
const US: Duration = Duration::from_micros(1);
const MAILBOX: MailboxId = MailboxId::new([0xab; 16]);

fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn id(n: u8) -> NodeId {
    NodeId::new([n; 32])
}

fn document(profile: Profile) -> Arc<Document> {
    let node = |n: u8| {
        let (role, layer) = if GATEWAYS.contains(&n) {
            (Role::Gateway, 0)
        } else {
            (Role::Mix, n.div_ceil(2))
        };
        NodeEntry {
            id: hex::encode(&[n; 32]),
            role,
            layer,
            peer: String::new(),
            addresses: Vec::new(),
            sphinx_key: hex::encode(secret(n).public().as_bytes()),
            weight: 1.0,
            operator: String::new(),
            exit: (n == GATEWAYS[0]).then(|| ServiceEntry {
                mailbox: "e7".repeat(16),
                stream_key: format!("09{}", "00".repeat(31)),
            }),
            mail: None,
        }
    };
    let content = Content {
        network: "test".into(),
        sequence: 1,
        epoch: 1,
        valid_from_s: 10_000,
        valid_until_s: 20_000,
        profile,
        nodes: NODES.map(node).to_vec(),
    };
    let authority = SigningKey::from_bytes(&[9; 32]);
    let bytes = content.sign(&authority).unwrap();
    Arc::new(Document::verify(&bytes, &authority.verifying_key(), START, 0).unwrap())
}

/// A network whose nodes send a loop every 1000 s: none falls into the second that most tests take.
fn quiet() -> Arc<Document> {
    document(Profile {
        node_loop_per_s: 0.001,
        ..Profile::browse()
    })
}

fn core_with(config: Config, document: &Arc<Document>, n: u8, seed: u64) -> Mix {
    Mix::new(
        config,
        Arc::clone(document),
        id(n),
        secret(n),
        Rng::seed_from_u64(seed),
        START,
    )
    .unwrap()
}

fn core(document: &Arc<Document>, n: u8) -> Mix {
    core_with(Config::default(), document, n, u64::from(n))
}

/// A hop as a sender may write it, right or wrong.
#[derive(Clone, Copy)]
struct To {
    key: PublicKey,
    address: [u8; ADDRESS_LEN],
    delay_ms: u16,
}

fn to(n: u8, delay_ms: u16) -> To {
    To {
        key: secret(n).public(),
        address: id(n).to_address(),
        delay_ms,
    }
}

fn hops(route: &[To]) -> Vec<Hop<'_>> {
    route
        .iter()
        .map(|t| Hop {
            key: &t.key,
            address: &t.address,
            delay_ms: t.delay_ms,
        })
        .collect()
}

fn packet_for(rng: &mut Rng, route: &[To], destination: &[u8; ADDRESS_LEN], body: &[u8]) -> Packet {
    let (mut packet, mut message) = (Packet::zeroed(), [0; MESSAGE_LEN]);
    pad(Dialect::Lioness, body, &mut message).unwrap();
    build(
        Dialect::Lioness,
        rng,
        &hops(route),
        destination,
        &message,
        &mut packet,
    )
    .unwrap();
    packet
}

fn packet(rng: &mut Rng, route: &[To]) -> Packet {
    packet_for(rng, route, &MAILBOX.to_address(), b"hello")
}

/// Through the network as a client's packets go, each hop with its delay.
fn through(delays_ms: [u16; 4]) -> [To; 5] {
    let [a, b, c, d] = delays_ms;
    [
        to(GATEWAYS[0], a),
        to(L1[0], b),
        to(L2[1], c),
        to(L3[0], d),
        to(GATEWAYS[1], 0),
    ]
}

/// What [`through`] becomes when only the nodes from layer 2 on are left of it.
fn from_layer_2(delay_ms: u16) -> [To; 3] {
    [to(L2[0], delay_ms), to(L3[0], 0), to(GATEWAYS[0], 0)]
}

fn copy(packet: &Packet) -> Packet {
    Packet::try_from_slice(packet.as_bytes()).unwrap()
}

fn drain(mix: &mut Mix) -> Vec<Action> {
    std::iter::from_fn(|| mix.poll()).collect()
}

fn tell(mix: &mut Mix, now: Time, packets: Vec<Packet>) -> Vec<Action> {
    mix.handle(now, Input::Packets(packets));
    drain(mix)
}

fn tick(mix: &mut Mix, now: Time) -> Vec<Action> {
    mix.handle(now, Input::Tick);
    drain(mix)
}

fn only_forward(mut actions: Vec<Action>) -> (NodeId, Packet) {
    assert_eq!(actions.len(), 1);
    match actions.remove(0) {
        Action::Forward { to, packet } => (to, packet),
        Action::Deliver(_) => panic!("delivered instead of forwarded"),
        Action::Accepted(_) => panic!("nobody writes tags down"),
    }
}

fn only_delivery(mut actions: Vec<Action>) -> Delivered {
    assert_eq!(actions.len(), 1);
    match actions.remove(0) {
        Action::Deliver(delivered) => delivered,
        Action::Forward { .. } => panic!("forwarded instead of delivered"),
        Action::Accepted(_) => panic!("nobody writes tags down"),
    }
}

/// All counts but that of arrivals.
fn counted(mix: &Mix) -> Vec<(&'static str, u64)> {
    mix.counters()
        .iter()
        .filter(|&(name, n)| name != "received" && n > 0)
        .collect()
}

/// Hands the packet to a core, checks that it holds it for just `delay_ms`, and returns what it then forwards and when.
fn held_for(mix: &mut Mix, now: Time, packet: Packet, delay_ms: u16) -> (Time, NodeId, Packet) {
    let due = now + Duration::from_millis(delay_ms.into());
    let actions = tell(mix, now, vec![packet]);
    if delay_ms > 0 {
        assert!(actions.is_empty(), "left at once instead of after {delay_ms} ms");
        assert_eq!(mix.deadline(), Some(due));
        assert_eq!(mix.pool(), 1);
        assert!(tick(mix, due - US).is_empty(), "left before its {delay_ms} ms");
        let (to, packet) = only_forward(tick(mix, due));
        assert_eq!(mix.pool(), 0);
        return (due, to, packet);
    }
    let (to, packet) = only_forward(actions);
    (now, to, packet)
}

#[test]
fn a_packet_passes_core_after_core_and_is_delivered_with_its_mailbox_and_message() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(1));
    let route = through([30, 1, 200, 17]);
    let (mut packet, mut now) = (packet(&mut rng, &route), START);
    for ((n, next), delay_ms) in [(7, 1), (1, 4), (4, 5), (5, 8)].into_iter().zip([30, 1, 200, 17]) {
        let mut mix = core(&document, n);
        let to;
        (now, to, packet) = held_for(&mut mix, now, packet, delay_ms);
        assert_eq!(to, id(next));
        assert_eq!(counted(&mix), [("forwarded", 1)]);
    }
    assert_eq!(now, START + Duration::from_millis(248));
    let mut last = core(&document, 8);
    match only_delivery(tell(&mut last, now, vec![packet])) {
        Delivered::Message { mailbox, packet } => {
            assert_eq!(mailbox, MAILBOX);
            assert_eq!(unpad(Dialect::Lioness, packet.message()).unwrap(), b"hello");
        }
        Delivered::Reply { .. } => panic!("a message was delivered as a reply"),
    }
    assert_eq!(counted(&last), [("delivered", 1)]);
}

#[test]
fn a_packet_on_a_surb_is_delivered_as_a_reply_that_its_maker_can_read() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(2));
    let route = through([5, 5, 5, 5]);
    let (surb, keys) = build_surb(Dialect::Lioness, &mut rng, &hops(&route), &[0x5b; 16]).unwrap();
    let (mut packet, mut message) = (Packet::zeroed(), [0; MESSAGE_LEN]);
    pad(Dialect::Lioness, b"answer", &mut message).unwrap();
    use_surb(Dialect::Lioness, surb, &message, &mut packet);
    let mut now = START;
    for n in [7, 1, 4, 5] {
        (now, _, packet) = held_for(&mut core(&document, n), now, packet, 5);
    }
    match only_delivery(tell(&mut core(&document, 8), now, vec![packet])) {
        Delivered::Message { .. } => panic!("a reply was delivered as a message"),
        Delivered::Reply { id, mut packet } => {
            assert_eq!(id, [0x5b; 16]);
            recover(Dialect::Lioness, keys, packet.payload_mut()).unwrap();
            assert_eq!(unpad(Dialect::Lioness, packet.message()).unwrap(), b"answer");
        }
    }
}

#[test]
fn a_core_holds_each_packet_for_its_own_delay_up_to_the_longest() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(3));
    // The core's own loop may leave during the longest delay, so it has none within reach.
    for delay_ms in [0, 1, 2, 1_000, u16::MAX] {
        let mut mix = core_with(Config::default(), &document, L2[0], 1);
        assert!(
            mix.deadline()
                .is_some_and(|d| d > START + Duration::from_millis(u16::MAX.into()))
        );
        let packet = packet(&mut rng, &from_layer_2(delay_ms));
        let (_, to, _) = held_for(&mut mix, START, packet, delay_ms);
        assert_eq!(to, id(L3[0]));
    }
}

#[test]
fn packets_leave_at_their_own_times_whatever_the_order_of_their_arrival() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(4));
    let mut mix = core(&document, L2[0]);
    let mut packet =
        |delay_ms, next| packet(&mut rng, &[to(L2[0], delay_ms), to(next, 0), to(GATEWAYS[0], 0)]);
    let batch = vec![packet(50, L3[0]), packet(10, L3[1])];
    assert!(tell(&mut mix, START, batch).is_empty());
    let ms = |n| START + Duration::from_millis(n);
    // 15 + 20 is between the other two.
    assert_eq!(
        only_forward(tell(&mut mix, ms(15), vec![packet(20, L3[0])])).0,
        id(L3[1]),
        "due at 10"
    );
    assert_eq!(mix.deadline(), Some(ms(35)));
    assert_eq!(only_forward(tick(&mut mix, ms(40))).0, id(L3[0]), "due at 35");
    assert_eq!(mix.deadline(), Some(ms(50)));
    assert_eq!(only_forward(tick(&mut mix, ms(50))).0, id(L3[0]), "due at 50");
    assert_eq!(mix.pool(), 0);
}

#[test]
fn packets_due_at_one_moment_do_not_leave_in_the_order_of_their_arrival() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(5));
    let mut mix = core(&document, L2[0]);
    let arrived: Vec<u8> = [[L3[0]; 12], [L3[1]; 12]].concat();
    let batch = arrived
        .iter()
        .map(|&next| packet(&mut rng, &[to(L2[0], 9), to(next, 0), to(GATEWAYS[0], 0)]))
        .collect();
    assert!(tell(&mut mix, START, batch).is_empty());
    let left: Vec<u8> = tick(&mut mix, START + Duration::from_millis(9))
        .into_iter()
        .map(|action| only_forward(vec![action]).0.as_bytes()[0])
        .collect();
    // One of the 2.7 million orders is that of arrival.
    assert_ne!(left, arrived, "seed 5");
    assert_eq!(
        left.iter().filter(|&&n| n == L3[0]).count(),
        12,
        "all of them, once"
    );
}

#[test]
fn a_next_hop_that_is_no_edge_of_the_document_gets_nothing() {
    let mut multiaddr = [0; ADDRESS_LEN];
    // 127.0.0.1 and 192.168.0.1, TCP port 4001, as the `libp2p` profile writes them.
    multiaddr[..7].copy_from_slice(&[127, 0, 0, 1, 0, 0x0f, 0xa1]);
    let mut other_multiaddr = multiaddr;
    other_multiaddr[..4].copy_from_slice(&[192, 168, 0, 1]);
    let mut other_version = id(L3[0]).to_address();
    other_version[0] = 2;
    let mut bytes_after = id(L3[0]).to_address();
    bytes_after[93] = 1;
    let nodes = [
        ("from layer 2: a stranger", L2[0], id(STRANGER).to_address()),
        ("from layer 2: back to layer 1", L2[0], id(L1[0]).to_address()),
        (
            "from layer 2: over layer 3 to a gateway",
            L2[0],
            id(GATEWAYS[0]).to_address(),
        ),
        ("from layer 2: within the layer", L2[0], id(L2[1]).to_address()),
        ("from layer 2: to itself", L2[0], id(L2[0]).to_address()),
        ("from layer 1: over layer 2", L1[0], id(L3[0]).to_address()),
        ("from layer 3: back to layer 1", L3[0], id(L1[0]).to_address()),
        (
            "from a gateway: over layer 1",
            GATEWAYS[0],
            id(L2[0]).to_address(),
        ),
        (
            "from a gateway: to the other",
            GATEWAYS[0],
            id(GATEWAYS[1]).to_address(),
        ),
        (
            "from a gateway: to itself",
            GATEWAYS[0],
            id(GATEWAYS[0]).to_address(),
        ),
        ("a multiaddr of this machine", L2[0], multiaddr),
        ("a multiaddr of a private network", L2[0], other_multiaddr),
        ("zeros", L2[0], [0; ADDRESS_LEN]),
        ("another version", L2[0], other_version),
        ("bytes after the id", L2[0], bytes_after),
    ];
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(6));
    for (what, n, address) in nodes {
        for delay_ms in [0, 40] {
            let mut mix = core(&document, n);
            let route = [
                to(n, delay_ms),
                To {
                    address,
                    ..to(L3[0], 0)
                },
                to(GATEWAYS[0], 0),
            ];
            assert!(
                tell(&mut mix, START, vec![packet(&mut rng, &route)]).is_empty(),
                "{what}"
            );
            assert_eq!(mix.pool(), 0, "{what}");
            assert!(
                tick(&mut mix, START + Duration::from_secs(1)).is_empty(),
                "{what}"
            );
            assert_eq!(counted(&mix), [("drop.no_edge", 1)], "{what}");
        }
    }
}

#[test]
fn a_packet_is_accepted_once_in_one_batch_and_ever_after() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(7));
    let mut mix = core(&document, L2[0]);
    let original = packet(&mut rng, &from_layer_2(0));
    // The header decides: another payload behind it doesn't make another packet.
    let mut other_payload = copy(&original);
    other_payload.payload_mut()[100] ^= 1;
    let batch = vec![copy(&original), copy(&original), other_payload];
    only_forward(tell(&mut mix, START, batch));
    assert_eq!(mix.counters().get("replay"), 2);
    assert!(tell(&mut mix, START + US, vec![copy(&original)]).is_empty());
    assert!(tell(&mut mix, START + Duration::from_secs(60), vec![copy(&original)]).is_empty());
    assert!(
        tell(&mut mix, START - US, vec![original]).is_empty(),
        "the clock went back"
    );
    assert_eq!(mix.counters().get("replay"), 5);
    assert_eq!(mix.counters().get("forwarded"), 1);
    only_forward(tell(&mut mix, START, vec![packet(&mut rng, &from_layer_2(0))]));
}

#[test]
fn a_replayed_message_or_reply_is_not_delivered_again() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(8));
    let mut mix = core(&document, GATEWAYS[0]);
    // A route has three hops at least: peel the first two here.
    let mut on_its_way = packet(&mut rng, &[to(L2[0], 0), to(L3[0], 0), to(GATEWAYS[0], 0)]);
    for n in [L2[0], L3[0]] {
        on_its_way = only_forward(tell(&mut core(&document, n), START, vec![on_its_way])).1;
    }
    only_delivery(tell(&mut mix, START, vec![copy(&on_its_way), copy(&on_its_way)]));
    assert!(
        tell(&mut mix, START + HOUR / 4, vec![on_its_way])
            .iter()
            .all(|a| matches!(a, Action::Forward { .. }))
    );
    assert_eq!(mix.counters().get("replay"), 2);
    assert_eq!(mix.counters().get("delivered"), 1);
}

#[test]
fn any_changed_byte_of_a_header_gives_silence_and_one_count() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(9));
    let mut mix = core(&document, L2[0]);
    let original = packet(&mut rng, &from_layer_2(0));
    let mut reasons = BTreeMap::new();
    for at in 0..HEADER_LEN {
        let mut changed = copy(&original);
        changed.as_bytes_mut()[at] ^= 1 << (at % 8);
        let before = mix.counters().clone();
        let deadline = mix.deadline();
        assert!(tell(&mut mix, START, vec![changed]).is_empty(), "byte {at}");
        assert_eq!((mix.deadline(), mix.pool()), (deadline, 0), "byte {at}");
        let grown: Vec<_> = mix
            .counters()
            .iter()
            .filter(|&(name, n)| name != "received" && n != before.get(name))
            .collect();
        assert_eq!(grown.len(), 1, "byte {at}: {grown:?}");
        let (name, n) = grown[0];
        assert_eq!(n, before.get(name) + 1, "byte {at}");
        *reasons.entry(name).or_insert(0) += 1;
    }
    assert_eq!(reasons.values().sum::<usize>(), HEADER_LEN, "{reasons:?}");
    assert!(
        reasons.keys().all(|name| ["alpha", "mac"].contains(name)),
        "{reasons:?}"
    );
    only_forward(tell(&mut mix, START, vec![original]));
}

#[test]
fn a_changed_payload_is_carried_on_unread_and_dropped_at_the_end() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(10));
    for at in [HEADER_LEN, HEADER_LEN + 20, PACKET_LEN - 1] {
        let mut packet = packet(&mut rng, &through([0; 4]));
        packet.as_bytes_mut()[at] ^= 1;
        for n in [7, 1, 4, 5] {
            packet = only_forward(tell(&mut core(&document, n), START, vec![packet])).1;
        }
        let mut last = core(&document, 8);
        assert!(tell(&mut last, START, vec![packet]).is_empty(), "byte {at}");
        assert_eq!(counted(&last), [("payload", 1)], "byte {at}");
    }
}

#[test]
fn packets_for_the_key_of_another_node_give_silence() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(11));
    let mut mix = core(&document, L2[1]);
    assert!(
        tell(
            &mut mix,
            START,
            vec![packet(&mut rng, &from_layer_2(0)), Packet::zeroed()]
        )
        .is_empty()
    );
    assert_eq!(counted(&mix), [("alpha", 1), ("mac", 1)]);
}

#[test]
fn a_bad_packet_does_not_harm_the_others_of_its_batch() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(12));
    let mut mix = core(&document, L2[0]);
    let mut batch = Vec::new();
    // More than one round of the peeler's lanes.
    for n in 0..80 {
        let mut packet = packet(&mut rng, &from_layer_2(0));
        packet.as_bytes_mut()[40] ^= u8::from(n % 3 == 0);
        batch.push(packet);
    }
    let actions = tell(&mut mix, START, batch);
    assert_eq!(actions.len(), 53);
    assert_eq!(counted(&mix), [("forwarded", 53), ("mac", 27)]);
    assert_eq!(mix.counters().get("received"), 80);
}

#[test]
fn a_full_delay_queue_drops_what_comes_and_keeps_what_it_holds() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(13));
    let mut mix = core_with(Config::default().with_held_packets(3), &document, L2[0], 1);
    let mut batch = |n| {
        (0..n)
            .map(|_| packet(&mut rng, &from_layer_2(100)))
            .collect::<Vec<_>>()
    };
    assert!(tell(&mut mix, START, batch(5)).is_empty());
    assert_eq!(mix.pool(), 3);
    assert_eq!(mix.counters().get("drop.delay_queue_full"), 2);
    let later = START + Duration::from_millis(100);
    assert_eq!(tick(&mut mix, later).len(), 3);
    assert!(tell(&mut mix, later, batch(3)).is_empty());
    assert_eq!(mix.pool(), 3, "there is room again");
    assert_eq!(mix.counters().get("drop.delay_queue_full"), 2);
}

#[test]
fn what_a_run_accepted_it_says_before_it_delivers_and_the_next_run_refuses() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(9));
    let mut on_its_way = packet(&mut rng, &[to(L2[0], 0), to(L3[0], 0), to(GATEWAYS[0], 0)]);
    for n in [L2[0], L3[0]] {
        on_its_way = only_forward(tell(&mut core(&document, n), START, vec![on_its_way])).1;
    }
    let mut first = core_with(Config::default(), &document, GATEWAYS[0], 1);
    first.remember(&[]);
    let actions = tell(&mut first, START, vec![copy(&on_its_way), copy(&on_its_way)]);
    let [Action::Accepted(tags), Action::Deliver(_)] = &actions[..] else {
        panic!("{} actions, or in another order", actions.len());
    };
    assert_eq!(tags.len(), 1);
    assert!(tell(&mut first, START, vec![copy(&on_its_way)]).is_empty());
    // Killed, and started again: with other randomness, but the same key.
    let mut next = core_with(Config::default(), &document, GATEWAYS[0], 2);
    next.remember(tags);
    assert!(tell(&mut next, START, vec![on_its_way]).is_empty());
    assert_eq!(
        (next.counters().get("replay"), next.counters().get("delivered")),
        (1, 0)
    );
}

#[test]
fn a_full_replay_table_ends_the_key_and_says_so() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(14));
    let mut mix = core_with(Config::default().with_replay_tags(2), &document, L2[0], 1);
    let first = packet(&mut rng, &from_layer_2(0));
    let batch = vec![copy(&first), packet(&mut rng, &from_layer_2(0)), copy(&first)];
    assert_eq!(tell(&mut mix, START, batch).len(), 2);
    assert_eq!(counted(&mix), [("forwarded", 2), ("replay", 1)]);
    assert!(!mix.key_has_ended(), "all that came was decided upon");
    let mut bad = packet(&mut rng, &from_layer_2(0));
    bad.as_bytes_mut()[40] ^= 1;
    let batch = vec![
        copy(&first),
        bad,
        packet(&mut rng, &from_layer_2(0)),
        copy(&first),
    ];
    assert!(tell(&mut mix, START, batch).is_empty());
    assert!(mix.key_has_ended());
    // After it, the replay is one more for which nothing is looked up.
    let full = |n| {
        [
            ("drop.replay_table_full", n),
            ("forwarded", 2),
            ("mac", 1),
            ("replay", 2),
        ]
    };
    assert_eq!(counted(&mix), full(2));
    assert!(tell(&mut mix, START, vec![packet(&mut rng, &from_layer_2(0)), first]).is_empty());
    assert_eq!(counted(&mix), full(4));
}

#[test]
fn a_mix_that_is_a_last_hop_delivers_nothing() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(15));
    let route = [to(L1[0], 0), to(L2[0], 0), to(L3[0], 0)];
    let (surb, _) = build_surb(Dialect::Lioness, &mut rng, &hops(&route), &[1; 16]).unwrap();
    let mut reply = Packet::zeroed();
    use_surb(Dialect::Lioness, surb, &[0; MESSAGE_LEN], &mut reply);
    let mut batch = vec![packet(&mut rng, &route), reply];
    for n in [L1[0], L2[0]] {
        let actions = tell(&mut core(&document, n), START, batch);
        batch = actions
            .into_iter()
            .map(|action| only_forward(vec![action]).1)
            .collect();
    }
    let mut mix = core(&document, L3[0]);
    assert!(tell(&mut mix, START, batch).is_empty());
    assert_eq!(counted(&mix), [("drop.not_a_gateway", 2)]);
}

#[test]
fn a_message_for_something_that_is_no_mailbox_is_dropped() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(16));
    let mut other_version = MAILBOX.to_address();
    other_version[0] = 0;
    for destination in [[0; ADDRESS_LEN], other_version, id(L1[0]).to_address()] {
        let mut packet = packet_for(&mut rng, &from_layer_2(0), &destination, b"");
        for n in [L2[0], L3[0]] {
            packet = only_forward(tell(&mut core(&document, n), START, vec![packet])).1;
        }
        let mut mix = core(&document, GATEWAYS[0]);
        assert!(tell(&mut mix, START, vec![packet]).is_empty());
        assert_eq!(counted(&mix), [("drop.no_destination", 1)]);
    }
}

#[test]
fn a_node_that_the_document_does_not_know_as_itself_has_no_core() {
    let document = quiet();
    let new = |n: u8, key: u8| {
        let rng = Rng::seed_from_u64(0);
        Mix::new(
            Config::default(),
            Arc::clone(&document),
            id(n),
            secret(key),
            rng,
            START,
        )
        .err()
    };
    assert_eq!(new(STRANGER, STRANGER), Some(NotOurs::NotListed));
    assert_eq!(new(L1[0], L1[1]), Some(NotOurs::OtherKey));
    assert_eq!(new(L1[0], L1[0]), None);
}

/// The moments at which a core that gets no packets sends its loops, asked only when it wants to be.
fn loop_times(mix: &mut Mix, until: Time) -> Vec<Time> {
    let mut times = Vec::new();
    while let Some(at) = mix.deadline().filter(|&at| at < until) {
        assert!(tick(mix, at - US).is_empty(), "before its time");
        // Two may fall into one microsecond.
        for action in tick(mix, at) {
            only_forward(vec![action]);
            times.push(at);
        }
    }
    times
}

#[test]
fn own_loops_leave_at_poisson_times_of_the_rate_of_the_document() {
    let document = document(Profile::browse());
    for (n, seed) in [(L1[0], 20), (L3[1], 21), (GATEWAYS[0], 22)] {
        let mut mix = core_with(Config::default(), &document, n, seed);
        let times = loop_times(&mut mix, START + Duration::from_secs(20));
        let sent = times.len() as f64;
        // 50 a second: 1000 of them with a standard deviation of 32.
        assert!((sent - 1_000.0).abs() < 4.0 * 32.0, "seed {seed}: {sent} loops");
        let gaps: Vec<f64> = times.windows(2).map(|w| w[1].since(w[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let var = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Exponential gaps have a variance of mean²; its standard error here is sqrt(8 / 1000) = 9 %.
        assert!(
            (var / (mean * mean) - 1.0).abs() < 0.36,
            "seed {seed}: {var} / {mean}²"
        );
        assert_eq!(mix.counters().get("loop.sent"), times.len() as u64);
        assert_eq!(mix.loops().sent, times.len() as u64);
    }
}

#[test]
fn own_loops_keep_their_rate_while_packets_pass() {
    let (document, mut rng) = (document(Profile::browse()), Rng::seed_from_u64(23));
    let mut mix = core_with(Config::default(), &document, L2[0], 24);
    for ms in 0..1_000 {
        let packets = if ms % 5 == 0 {
            vec![packet(&mut rng, &from_layer_2(3))]
        } else {
            Vec::new()
        };
        tell(&mut mix, START + Duration::from_millis(ms), packets);
    }
    assert_eq!(mix.counters().get("forwarded"), 200);
    // Five standard deviations of a count of 50.
    let sent = mix.counters().get("loop.sent");
    assert!((15..85).contains(&sent), "seed 24: {sent}");
}

/// Cores of all nodes, joined by links that take no time.
struct Network {
    now: Time,
    cores: BTreeMap<u8, Mix>,
    delivered: usize,
}

impl Network {
    fn new(document: &Arc<Document>, seed: u64) -> Self {
        let cores = NODES.map(|n| (n, core_with(Config::default(), document, n, seed + u64::from(n))));
        Self {
            now: START,
            cores: cores.into(),
            delivered: 0,
        }
    }

    fn run(&mut self, until: Time) {
        while let Some((at, n)) = self
            .cores
            .iter()
            .filter_map(|(&n, mix)| Some((mix.deadline()?, n)))
            .min()
        {
            if at > until {
                break;
            }
            self.now = self.now.max(at);
            let mut actions: Vec<(u8, Action)> = tick(self.cores.get_mut(&n).unwrap(), self.now)
                .into_iter()
                .map(|a| (n, a))
                .collect();
            while let Some((from, action)) = actions.pop() {
                match action {
                    Action::Accepted(_) => panic!("nobody writes tags down"),
                    Action::Deliver(_) => self.delivered += 1,
                    Action::Forward { to, packet } => {
                        let to = to.as_bytes()[0];
                        assert!(follows(from, to), "{from} to {to}");
                        let mix = self.cores.get_mut(&to).unwrap();
                        actions.extend(tell(mix, self.now, vec![packet]).into_iter().map(|a| (to, a)));
                    }
                }
            }
        }
        self.now = until;
    }
}

/// Whether the layers of the test's document have an edge from one node to the other.
fn follows(from: u8, to: u8) -> bool {
    let layer = |n: u8| n.div_ceil(2);
    layer(to) == layer(from) % 4 + 1
}

#[test]
fn own_loops_return_around_the_layers_and_never_come_out_as_delivered() {
    let document = document(Profile {
        node_loop_per_s: 10.0,
        ..Profile::browse()
    });
    let mut network = Network::new(&document, 30);
    network.run(START + Duration::from_secs(4));
    assert_eq!(network.delivered, 0, "seed 30");
    // Four delays of 20 ms on the way: after this all are back but one in 10⁹ or so.
    let sent: BTreeMap<u8, u64> = network
        .cores
        .iter()
        .map(|(&n, mix)| (n, mix.loops().sent))
        .collect();
    for (n, mix) in &network.cores {
        let (tally, sent) = (mix.loops(), sent[n]);
        assert!(
            (10..=80).contains(&sent),
            "seed 30, node {n}: {sent} loops in 4 s"
        );
        assert!(sent - tally.returned < 10, "seed 30, node {n}: {tally:?}");
        assert_eq!((tally.lost, tally.untracked), (0, 0), "seed 30, node {n}");
        assert_eq!(
            tally.lateness_us, 0,
            "links take no time and delays are kept to the microsecond"
        );
        assert_eq!(mix.counters().get("loop.returned"), tally.returned);
        let drops: Vec<_> = mix
            .counters()
            .iter()
            .filter(|(name, _)| name.starts_with("drop"))
            .collect();
        assert!(drops.is_empty(), "seed 30, node {n}: {drops:?}");
    }
}

#[test]
fn a_loop_that_is_held_up_for_too_long_is_lost_and_still_not_delivered() {
    let document = quiet();
    let mut gateway = core(&document, GATEWAYS[0]);
    let left = gateway.deadline().unwrap();
    let (to, mut on_its_way) = only_forward(tick(&mut gateway, left));
    let mut at = to.as_bytes()[0];
    while at != GATEWAYS[0] {
        let mut mix = core(&document, at);
        // Its own loops are not looked at here: the packet's core is asked only until the packet leaves.
        let mut actions = tell(&mut mix, START, vec![on_its_way]);
        while actions.is_empty() {
            let due = mix.deadline().unwrap();
            actions = tick(&mut mix, due);
        }
        let (to, packet) = only_forward(actions);
        (at, on_its_way) = (to.as_bytes()[0], packet);
    }
    // Far beyond four delays of 20 ms.
    let late = left + Duration::from_secs(5);
    assert!(tick(&mut gateway, late).is_empty());
    assert_eq!(gateway.loops().lost, 1);
    assert!(tell(&mut gateway, late, vec![on_its_way]).is_empty());
    assert_eq!(counted(&gateway), [("drop.loop_too_late", 1), ("loop.sent", 1)]);
}

#[test]
fn after_a_jump_of_an_hour_loops_go_on_without_a_burst() {
    let document = document(Profile::browse());
    let mut mix = core_with(Config::default(), &document, L1[0], 31);
    let before = loop_times(&mut mix, START + Duration::from_secs(1)).len();
    assert!(before > 15, "seed 31: {before}");
    let woken = START + HOUR;
    assert!(
        tick(&mut mix, woken).len() <= 1,
        "the one that was ready, at most"
    );
    assert!(
        mix.deadline().is_some_and(|at| at >= woken),
        "the others are not made up for"
    );
    let after = loop_times(&mut mix, woken + Duration::from_secs(2)).len() as f64;
    // 50 a second for 2 s, five standard deviations.
    assert!(
        (after - 100.0).abs() < 50.0,
        "seed 31: {after} in the two seconds after"
    );
}

#[test]
fn what_a_machine_held_when_it_fell_asleep_leaves_spread_as_it_would_have_and_none_is_lost() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(35));
    let mut mix = core(&document, L2[0]);
    // Due 100 to 595 ms from now.
    let batch = (0..100)
        .map(|n| packet(&mut rng, &from_layer_2(100 + 5 * n)))
        .collect();
    assert!(tell(&mut mix, START, batch).is_empty());
    let woken = START + HOUR;
    // The first that was due, and perhaps a loop.
    assert!((1..=2).contains(&tick(&mut mix, woken).len()));
    assert_eq!(
        (mix.counters().get("pool.pause"), mix.counters().get("forwarded")),
        (1, 1)
    );
    for n in 1..100 {
        tick(&mut mix, woken + Duration::from_millis(5 * n) - US);
        assert_eq!(mix.counters().get("forwarded"), n);
        tick(&mut mix, woken + Duration::from_millis(5 * n));
        assert_eq!(mix.counters().get("forwarded"), n + 1);
    }
    assert_eq!(mix.pool(), 0);
    // A machine that is busy for less than a second makes up for it.
    let batch = (0..10).map(|_| packet(&mut rng, &from_layer_2(100))).collect();
    assert!(tell(&mut mix, woken + HOUR, batch).len() <= 1);
    tick(&mut mix, woken + HOUR + Duration::from_millis(1_050));
    assert_eq!(
        (mix.counters().get("pool.pause"), mix.counters().get("forwarded")),
        (1, 110)
    );
}

#[test]
fn the_loop_that_was_ready_at_a_jump_is_not_taken_for_lost() {
    let document = document(Profile {
        node_loop_per_s: 10.0,
        ..Profile::browse()
    });
    let mut network = Network::new(&document, 33);
    // All machines slept before their first loop.
    network.now = START + HOUR;
    network.run(START + HOUR + Duration::from_secs(2));
    for (n, mix) in &network.cores {
        assert_eq!(mix.loops().lost, 0, "seed 33, node {n}");
        assert!(mix.loops().returned > 0, "seed 33, node {n}");
    }
}

#[test]
fn a_clock_that_goes_backwards_sends_nothing_early_and_loses_nothing() {
    let (document, mut rng) = (quiet(), Rng::seed_from_u64(34));
    let mut mix = core(&document, L2[0]);
    assert!(tell(&mut mix, START, vec![packet(&mut rng, &from_layer_2(100))]).is_empty());
    for now in [START - US, START - HOUR, Time::ZERO, Time::ZERO + US] {
        assert!(tick(&mut mix, now).is_empty(), "at {now}");
        assert_eq!(mix.pool(), 1, "at {now}");
    }
    // It waits for what was left of its delay, not for the clock to be where it was.
    let due = Time::ZERO + US + Duration::from_millis(100);
    tick(&mut mix, due - US);
    assert_eq!(mix.pool(), 1);
    tick(&mut mix, due);
    assert_eq!((mix.pool(), mix.counters().get("forwarded")), (0, 1));
    tick(&mut mix, START);
    // What comes while the clock is behind is held for its delay by that clock.
    let (_, to, _) = held_for(
        &mut mix,
        START - Duration::from_millis(3),
        packet(&mut rng, &from_layer_2(7)),
        7,
    );
    assert_eq!(to, id(L3[0]));
}

#[test]
fn loops_do_not_stop_when_the_clock_is_set_back() {
    let document = document(Profile::browse());
    let mut mix = core_with(Config::default(), &document, L1[0], 35);
    let ahead = START + HOUR;
    tick(&mut mix, ahead);
    loop_times(&mut mix, ahead + Duration::from_secs(1));
    // The hour was an error, and is taken back.
    assert!(tick(&mut mix, START).is_empty());
    let after = loop_times(&mut mix, START + Duration::from_secs(2)).len() as f64;
    assert!(
        (after - 100.0).abs() < 50.0,
        "seed 35: {after} in the two seconds after"
    );
}

#[test]
fn the_ends_of_time_do_no_harm() {
    let (document, mut rng) = (document(Profile::browse()), Rng::seed_from_u64(36));
    let mut mix = core(&document, L2[0]);
    for now in [Time::FAR_FUTURE, Time::ZERO, Time::FAR_FUTURE, START] {
        let actions = tell(&mut mix, now, vec![packet(&mut rng, &from_layer_2(1_000))]);
        assert!(actions.len() <= 3, "{} actions at {now}", actions.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_do_no_harm_and_cause_nothing(
        batch in prop::collection::vec((any::<u64>(), arbitrary_head(), any::<prop::sample::Index>()), 1..5),
        gateway in any::<bool>(),
        at_s in 0_u64..40_000,
    ) {
        let document = quiet();
        let mut mix = core(&document, if gateway { GATEWAYS[0] } else { L2[0] });
        let n = batch.len();
        let packets = batch.into_iter().map(|(seed, head, at)| {
            let mut packet = Packet::zeroed();
            Rng::seed_from_u64(seed).fill_bytes(packet.as_bytes_mut());
            let at = if head.len() == 32 { 0 } else { at.index(PACKET_LEN - head.len()) };
            packet.as_bytes_mut()[at..at + head.len()].copy_from_slice(&head);
            packet
        });
        mix.handle(Time::from_s(at_s), Input::Packets(packets.collect()));
        for action in drain(&mut mix) {
            // Time may have come for a loop of its own; no packet went on and none was delivered.
            let own_loop = matches!(action, Action::Forward { .. });
            prop_assert!(own_loop);
        }
        prop_assert_eq!(mix.counters().get("forwarded") + mix.counters().get("delivered"), 0);
        prop_assert_eq!(mix.pool(), 0);
        prop_assert_eq!(mix.counters().get("alpha") + mix.counters().get("mac"), n as u64);
    }

    #[test]
    fn a_packet_with_any_bytes_overwritten_is_never_delivered_as_it_was(
        seed in any::<u64>(),
        at in 0..PACKET_LEN,
        bytes in prop::collection::vec(1_u8.., 1..64),
    ) {
        let (document, mut rng) = (quiet(), Rng::seed_from_u64(seed));
        let mut on_its_way = packet(&mut rng, &through([0; 4]));
        on_its_way.as_bytes_mut()[at..].iter_mut().zip(&bytes).for_each(|(b, x)| *b ^= x);
        let mut to = id(GATEWAYS[0]);
        // Five hops and not one more.
        for _ in 0..5 {
            let mut actions = tell(&mut core(&document, to.as_bytes()[0]), START, vec![on_its_way]);
            match actions.pop() {
                None => return Ok(()),
                Some(Action::Deliver(_) | Action::Accepted(_)) => return Err(TestCaseError::fail("delivered")),
                Some(Action::Forward { to: next, packet: inner }) => (to, on_its_way) = (next, inner),
            }
        }
        Err::<(), _>(TestCaseError::fail("still under way after five hops"))?;
    }
}

/// Public keys as nobody honest writes them, and anything else.
fn arbitrary_head() -> impl Strategy<Value = Vec<u8>> {
    let order_8 =
        hex::decode::<32>("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800").unwrap();
    let p_minus_1 =
        hex::decode::<32>("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f").unwrap();
    prop_oneof![
        Just(vec![0; 32]),
        Just(vec![0xff; 32]),
        Just([vec![1], vec![0; 31]].concat()),
        Just(order_8.to_vec()),
        Just(p_minus_1.to_vec()),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}
